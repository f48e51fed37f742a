//! What a service manager is told: systemd's `sd_notify` protocol.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// A service manager that does not read for so long is not waited for.
const SEND_LIMIT: Duration = Duration::from_millis(200);

/// The service manager that started this process, if one did and wants to be told.
#[derive(Debug)]
pub struct ServiceManager {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn from_env() -> Self {
        let own = |pid: String| pid.parse() == Ok(std::process::id());
        let for_us = env::var("WATCHDOG_PID").map_or(true, own);
        let watchdog = env::var("WATCHDOG_USEC").ok().filter(|_| for_us);
        Self::new(env::var_os("NOTIFY_SOCKET"), watchdog.and_then(|text| text.parse().ok()))
    }

    /// One that listens at `socket`, and expects a sign of life every `watchdog_usec` microseconds.
    pub fn new(socket: Option<OsString>, watchdog_usec: Option<u64>) -> Self {
        let address = socket.and_then(|socket| {
            let address = address(&socket);
            address.inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used")).ok()
        });
        let watchdog = watchdog_usec.filter(|usec| *usec > 0 && address.is_some()).map(Duration::from_micros);
        Self { address, watchdog }
    }

    /// How often it wants a sign of life, half of what it allows; none if it wants none.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| (limit / 2).max(Duration::from_millis(1)))
    }

    /// The service does what it is for.
    pub async fn ready(&self) {
        self.tell("READY=1").await;
    }

    /// A line for whoever looks at the service.
    pub async fn status(&self, line: &str) {
        self.tell(&format!("STATUS={}", line.replace('\n', " "))).await;
    }

    /// The service is alive.
    pub async fn alive(&self) {
        self.tell("WATCHDOG=1").await;
    }

    /// The service is about to end.
    pub async fn stopping(&self) {
        self.tell("STOPPING=1").await;
    }

    async fn tell(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let sent = timeout(SEND_LIMIT, send(address, message)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::debug!(%error, message, "the service manager was not told");
        }
    }
}

/// A path, or `@` and the name of an abstract socket.
fn address(socket: &OsString) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::other("it is neither an absolute path nor an abstract name")),
    }
}

/// A socket of its own for each message: the manager's may have been made anew since the last one.
async fn send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(address)?;
    UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_manager_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::new(Some(path.into()), Some(3_000_000));
        assert_eq!(manager.watchdog_interval(), Some(Duration::from_millis(1500)));
        manager.ready().await;
        assert_eq!(received(&by_path).await, "READY=1");
        manager.status("two\nlines").await;
        assert_eq!(received(&by_path).await, "STATUS=two lines");

        let name = format!("smartvpn-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let std = StdDatagram::bind_addr(&abstract_address).unwrap();
        std.set_nonblocking(true).unwrap();
        let by_name = UnixDatagram::from_std(std).unwrap();
        ServiceManager::new(Some(format!("@{name}").into()), None).stopping().await;
        assert_eq!(received(&by_name).await, "STOPPING=1");
    }

    #[tokio::test]
    async fn nothing_is_told_where_nobody_listens() {
        for socket in [None, Some("relative".into()), Some("/nonexistent/notify".into())] {
            ServiceManager::new(socket, None).ready().await;
        }
        assert_eq!(ServiceManager::new(None, Some(1_000_000)).watchdog_interval(), None);
        assert_eq!(ServiceManager::new(Some("@x".into()), Some(0)).watchdog_interval(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::new(Some(path.into()), None);
        for _ in 0..2000 {
            manager.alive().await;
        }
    }
}
