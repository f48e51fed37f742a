//! TCP options that both ends set.

#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(windows)]
use std::os::windows::io::AsSocket as AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How much of what was written may wait unsent in the kernel, in bytes, before the socket stops being
/// writable. What waits there has lost its priority, so less means lower latency; below the longest
/// message (one bundle, 131,072 payload bytes) a fast link would idle between two wake-ups. Where the
/// path turns out to be slow, it is less.
pub(super) const NOTSENT_LOWAT_MAX: u32 = 128 * 1024;

/// The least of it: five full packets. With less a slow path would idle between two wake-ups.
pub(super) const NOTSENT_LOWAT_MIN: u32 = 8 * 1024;

#[cfg(target_os = "linux")]
const BBR: &[u8] = b"bbr";
#[cfg(target_os = "linux")]
const CUBIC: &[u8] = b"cubic";

/// When unacknowledged data makes the kernel give the connection up. The session's keepalives notice a
/// dead peer earlier; this is the backstop for a connection that has no session (yet, or any more).
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// When an idle connection is probed: 60 s, then every 15 s. The session's keepalives are the ones that
/// count; these end what a vanished peer left behind before it had a session.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Which congestion control the outer TCP connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// BBR where the kernel allows it: it keeps the queue in the bottleneck short, so that a bulk
    /// transfer leaves room for the rest. CUBIC while others fill that queue, as BBR would get next to
    /// nothing beside them. The system's choice elsewhere.
    #[default]
    Auto,
    /// What the system has chosen.
    System,
}

/// Sets what every connection of ours needs. Options are means, not ends: one that the kernel refuses is
/// noted and left as it was.
pub(super) fn configure(socket: &impl AsFd, congestion: CongestionControl) {
    let socket = SockRef::from(socket);
    let note = |option: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(option, %error, "socket option not set");
        }
    };
    note("TCP_NODELAY", socket.set_tcp_nodelay(true));
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    note("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        note("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_MAX));
        note("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
        if congestion == CongestionControl::Auto {
            note("TCP_CONGESTION", socket.set_tcp_congestion(BBR));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = congestion;
}

/// Chooses between the two of [`CongestionControl::Auto`]: the one that gets its share of a queue that
/// others fill, or the one that keeps the queue short.
pub(super) fn set_competing(socket: &impl AsFd, competing: bool) {
    #[cfg(target_os = "linux")]
    {
        let name = if competing { CUBIC } else { BBR };
        if let Err(error) = SockRef::from(socket).set_tcp_congestion(name) {
            tracing::debug!(option = "TCP_CONGESTION", %error, "socket option not set");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, competing);
}

/// Sets how much of what was written may wait unsent in the kernel, in bytes.
pub(super) fn set_notsent_lowat(socket: &impl AsFd, bytes: u32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(bytes) {
        tracing::debug!(option = "TCP_NOTSENT_LOWAT", %error, "socket option not set");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, bytes);
}
