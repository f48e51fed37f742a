//! TCP that does not fill the queues of its path.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::socket::{self, CongestionControl, NOTSENT_LOWAT_MAX, NOTSENT_LOWAT_MIN};
use super::tcp_info::TcpInfo;
use crate::qos::DelayLimit;

/// How long a look at the path holds: short beside a round trip that matters, long enough that it
/// costs nothing beside the packets of that time.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes that are worth a look when they have been written: what is less does not fill a queue, and the look
/// would be a good part of what an echo request costs.
const WORTH_LOOKING: u64 = 4 * 1024;

/// Less than a full segment is not worth a system call: more may be written soon.
const WORTH_WRITING: u64 = 1460;

/// The pause before the next look when no more may be written: the timer's own resolution.
const PAUSE: Duration = Duration::from_millis(1);

/// The time that what waits unsent in the kernel may take to leave: it has lost its priority.
const UNSENT: Duration = Duration::from_micros(2500);

/// A TCP stream whose writes wait while enough is under way.
#[derive(Debug)]
pub struct PacedTcp {
    tcp: TcpStream,
    congestion: CongestionControl,
    limit: DelayLimit,
    /// What may be written before the next look; `None` is no limit.
    allowance: Option<u64>,
    looked: Option<Instant>,
    /// Bytes written since then.
    written: u64,
    /// Whether the kernel has had no room since then.
    waited: bool,
    /// While it runs, no more may be written. Kept for the next time.
    pause: Option<Pin<Box<Sleep>>>,
    is_paused: bool,
    /// `TCP_NOTSENT_LOWAT` as it is set.
    quantum: Quantum,
}

/// How much is best written at a time, in bytes: what the path carries in a few milliseconds, so that
/// what comes next, and is more urgent, does not wait behind it. Follows the path.
#[derive(Clone, Debug)]
pub struct Quantum(Arc<AtomicU32>);

impl Quantum {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(NOTSENT_LOWAT_MAX)))
    }

    /// The value now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }
}

impl PacedTcp {
    /// Takes a connected stream, as [`socket::configure`] left it.
    pub(super) fn new(tcp: TcpStream, congestion: CongestionControl) -> Self {
        Self {
            tcp,
            congestion,
            limit: DelayLimit::default(),
            allowance: None,
            looked: None,
            written: 0,
            waited: false,
            pause: None,
            is_paused: false,
            quantum: Quantum::new(),
        }
    }

    /// The address at the other end.
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    /// How much is best written at a time.
    pub(super) fn quantum(&self) -> Quantum {
        self.quantum.clone()
    }

    fn look(&mut self, now: Instant) {
        self.looked = Some(now);
        self.written = 0;
        // What the kernel does not tell cannot be held to.
        let Ok(TcpInfo { path, .. }) = TcpInfo::read(&self.tcp) else { return };
        let competed = self.limit.competes();
        self.allowance = self.limit.observe(now.into_std(), &path, std::mem::take(&mut self.waited));
        let competes = self.limit.competes();
        if competes != competed {
            tracing::debug!(competes, "others fill the path's queue, or do so no more");
            if self.congestion == CongestionControl::Auto {
                socket::set_competing(&self.tcp, competes);
            }
        }
        let unsent = match self.limit.rate() {
            0 => NOTSENT_LOWAT_MAX,
            rate => unsent_limit(rate),
        };
        if self.quantum.0.swap(unsent, Ordering::Relaxed) != unsent {
            socket::set_notsent_lowat(&self.tcp, unsent);
        }
    }

    /// Whether it matters how much waits unsent.
    fn is_slow(&self) -> bool {
        self.quantum.bytes() < NOTSENT_LOWAT_MAX as usize
    }

    /// Writes, on a slow path so that `TCP_NOTSENT_LOWAT` holds.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = if self.is_slow() {
            self.poll_send_apart(cx, bufs)
        } else {
            Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
        };
        match &written {
            Poll::Pending => self.waited = true,
            Poll::Ready(Ok(bytes)) => {
                let bytes = *bytes as u64;
                self.written += bytes;
                self.allowance = self.allowance.map(|allowance| allowance.saturating_sub(bytes));
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// What is written next goes into a buffer of its own, for which the kernel looks whether there is
    /// room. Otherwise it fills up the last one first, to 64 KiB.
    fn poll_send_apart(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let send = || {
            let flags = SendFlags::EOR | SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(&self.tcp, bufs, &mut SendAncillaryBuffer::default(), flags)?)
        };
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Ready with how much may be written.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if self.is_paused
                && let Some(pause) = &mut self.pause
            {
                ready!(pause.as_mut().poll(cx));
            }
            self.is_paused = false;
            let now = Instant::now();
            let is_spent = self.allowance.is_some_and(|bytes| bytes < WORTH_WRITING);
            let is_due = self.looked.is_none_or(|looked| now - looked >= LOOK);
            if is_spent || is_due && (self.waited || self.written >= WORTH_LOOKING) {
                self.look(now);
            }
            match self.allowance {
                None => return Poll::Ready(usize::MAX),
                Some(bytes) if bytes >= WORTH_WRITING => {
                    return Poll::Ready(usize::try_from(bytes).unwrap_or(usize::MAX));
                }
                Some(_) => {
                    let until = now + PAUSE;
                    match &mut self.pause {
                        Some(pause) => pause.as_mut().reset(until),
                        None => self.pause = Some(Box::pin(tokio::time::sleep_until(until))),
                    }
                    self.is_paused = true;
                }
            }
        }
    }
}

/// A power of two near what leaves in [`UNSENT`] at `rate` bytes per second.
fn unsent_limit(rate: u64) -> u32 {
    let bytes = (rate as f64 * UNSENT.as_secs_f64()) as u64;
    let bounded = bytes.clamp(NOTSENT_LOWAT_MIN.into(), NOTSENT_LOWAT_MAX.into());
    // Within u32, as both bounds are; a power of two changes seldom.
    (bounded as u32).next_power_of_two().min(NOTSENT_LOWAT_MAX)
}

impl AsFd for PacedTcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsyncRead for PacedTcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for PacedTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = buf.len().min(ready!(this.poll_allowance(cx)));
        this.poll_send(cx, &[IoSlice::new(&buf[..length])])
    }

    /// What is written together may exceed the allowance: TLS has no more than a few records.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_allowance(cx));
        this.poll_send(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_unsent_leaves_in_milliseconds() {
        let mbit = |rate: u64| unsent_limit(rate * 125_000);
        assert_eq!(mbit(1), NOTSENT_LOWAT_MIN);
        assert_eq!(mbit(20), 8 * 1024);
        assert_eq!(mbit(50), 16 * 1024);
        assert_eq!(mbit(200), 64 * 1024);
        assert_eq!(mbit(100_000), NOTSENT_LOWAT_MAX);
    }

    #[tokio::test]
    async fn a_path_without_queues_has_no_limit() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let read = async move {
            let mut total = 0;
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = accepted.read(&mut buffer).await {
                total += count;
            }
            total
        };
        let write = async move {
            let mut paced = PacedTcp::new(connected, CongestionControl::System);
            for _ in 0..512 {
                paced.write_all(&[7; 65_536]).await.unwrap();
            }
            let path = TcpInfo::read(&paced.tcp).unwrap().path;
            assert!(path.rtt >= path.min_rtt && path.delivered > 0, "{path:?}");
        };
        assert_eq!(tokio::join!(read, write).0, 512 * 65_536);
    }
}
