//! What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).

#![expect(unsafe_code, reason = "getsockopt fills a structure of the kernel's")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::qos::PathSample;

/// Reads what the sender of `socket` knows of its path.
///
/// # Errors
/// The kernel's.
pub(super) fn path_sample(socket: &impl AsFd) -> io::Result<PathSample> {
    let info = read(socket)?;
    let out = info.tcpi_unacked.saturating_add(info.tcpi_retrans);
    let in_flight = out.saturating_sub(info.tcpi_sacked.saturating_add(info.tcpi_lost));
    Ok(PathSample {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        min_rtt: Duration::from_micros(info.tcpi_min_rtt.into()),
        delivery_rate: info.tcpi_delivery_rate,
        in_flight: u64::from(in_flight) * u64::from(info.tcpi_snd_mss),
        not_sent: info.tcpi_notsent_bytes.into(),
    })
}

fn read(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    // The structure is some 300 bytes long.
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed; `info` has room for `length` bytes,
    // and the kernel writes no more than that.
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
    // SAFETY: it consists of integers only, for which zero is a value; an older kernel fills less.
    Ok(unsafe { info.assume_init() })
}
