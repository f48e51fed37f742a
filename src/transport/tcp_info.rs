//! What the kernel says of a TCP connection (`TCP_INFO`, tcp(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes of the kernel's answer that are asked for; all that is read here stands at its beginning and
/// has since Linux 2.6.
const LENGTH: usize = 64;

// Offsets in `struct tcp_info`.
const OPTIONS: usize = 5;
const SND_MSS: usize = 16;

/// In the options: both ends send timestamps.
const OPTION_TIMESTAMPS: u8 = 1;

/// A connection's figures at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Each segment carries timestamps.
    pub(super) timestamps: bool,
    /// Payload bytes of a full segment that we send, by the path's MTU as TCP knows it.
    pub(super) send_mss: u32,
}

impl TcpInfo {
    /// Asks the kernel.
    #[expect(unsafe_code, reason = "no crate of ours reads TCP_INFO")]
    pub(super) fn read(socket: &impl AsFd) -> io::Result<Self> {
        let mut answer = [0_u8; LENGTH];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: the descriptor is borrowed and so open during the call, which writes at most
        // `length` bytes to `answer`; that is how long the array is.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                answer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let word = |at: usize| answer[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        let (timestamps, send_mss) = (answer[OPTIONS] & OPTION_TIMESTAMPS != 0, word(SND_MSS));
        if (length as usize) < SND_MSS + 4 || send_mss == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { timestamps, send_mss })
    }
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
    }

    #[test]
    fn says_when_there_is_no_connection() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(TcpInfo::read(&socket).is_err());
    }
}
