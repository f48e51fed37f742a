//! What the kernel says of a TCP connection (`TCP_INFO`, tcp(7)).

#![expect(unsafe_code, reason = "getsockopt fills a structure of the kernel's")]

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::qos::PathSample;

/// In the options: both ends send timestamps.
const OPTION_TIMESTAMPS: u8 = 1;

/// An older kernel answers with less than this, and then of the path nothing is known. (Linux 4.6 has
/// all of it.)
const COMPLETE: usize = offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>();

/// A connection's figures at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpInfo {
    /// Each segment carries timestamps.
    pub(super) timestamps: bool,
    /// Payload bytes of a full segment that we send, by the path's MTU as TCP knows it.
    pub(super) send_mss: u32,
    /// What the sender knows of its path.
    pub(super) path: PathSample,
}

impl TcpInfo {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's; `UnexpectedEof` if it tells too little.
    pub(super) fn read(socket: &impl AsFd) -> io::Result<Self> {
        let info = tcp_info(socket)?;
        if info.tcpi_snd_mss == 0 {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let out = info.tcpi_unacked.saturating_add(info.tcpi_retrans);
        let in_flight = out.saturating_sub(info.tcpi_sacked.saturating_add(info.tcpi_lost));
        Ok(Self {
            timestamps: info.tcpi_options & OPTION_TIMESTAMPS != 0,
            send_mss: info.tcpi_snd_mss,
            path: PathSample {
                rtt: Duration::from_micros(info.tcpi_rtt.into()),
                min_rtt: Duration::from_micros(info.tcpi_min_rtt.into()),
                delivered: info.tcpi_bytes_acked,
                in_flight: u64::from(in_flight) * u64::from(info.tcpi_snd_mss),
                not_sent: info.tcpi_notsent_bytes.into(),
            },
        })
    }
}

fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    // The structure is some 300 bytes long.
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so open during the call, which writes at most `length`
    // bytes to `info`; that is its size.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < COMPLETE {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: it consists of integers only, for which zero is a value; the kernel may have filled less.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::TcpInfo;

    #[test]
    fn reads_what_a_connection_negotiated() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = TcpInfo::read(&stream).unwrap();
        let timestamps = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps").unwrap();
        assert_eq!(info.timestamps, timestamps.trim() != "0");
        assert!((536..65_536).contains(&info.send_mss), "{}", info.send_mss);
        assert!(info.path.rtt >= info.path.min_rtt && !info.path.min_rtt.is_zero(), "{info:?}");
    }

    #[test]
    fn says_when_there_is_no_connection() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(TcpInfo::read(&socket).is_err());
    }
}
