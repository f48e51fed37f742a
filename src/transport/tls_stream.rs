//! TLS over a byte stream, for one task.
//!
//! The handshake is rustls's. After it the records are protected here, with the same cryptography:
//! rustls's own stream reads 4 KiB at a time and moves each byte through two buffers of its own in either
//! direction, at an allocation a record.
//!
//! ```text
//! poll_write ─ seal ─→ records, at most four ─ poll_flush ─→ socket, one write
//! poll_read  ←─ open ─ records, at most four ←── one read ── socket
//! ```
//!
//! rustls keeps what it alone should do: the secrets that keys are updated from, and session tickets. It
//! is the oracle in the tests.

mod buffer;
mod handshake;
mod reader;
mod record;
mod writer;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, ClientConfig, Error, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::handshake::{Established, Kernel};
use self::reader::{Progress, Reader};
use self::record::{Opener, Sealer};
use self::writer::Writer;

/// A byte stream under TLS 1.3 or 1.2.
///
/// What [`AsyncWrite::poll_write`] takes is sent when four records are full or with
/// [`AsyncWrite::poll_flush`]. Reading and writing are polled by the same task: reading also writes, when
/// the peer must be answered.
pub struct TlsStream<S> {
    io: S,
    kernel: Kernel,
    reader: Reader,
    writer: Writer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Goes through the handshake as a client of `server`. The configuration must allow
    /// `enable_secret_extraction`.
    ///
    /// # Errors
    ///
    /// Failures of TLS are [`io::Error`]s around a [`rustls::Error`].
    pub async fn connect(
        config: Arc<ClientConfig>,
        server: ServerName<'static>,
        mut io: S,
    ) -> io::Result<Self> {
        let tls = UnbufferedClientConnection::new(config, server).map_err(io::Error::other)?;
        let established = Box::pin(handshake::shake_hands(&mut io, tls)).await?;
        Self::new(io, established)
    }

    /// Goes through the handshake as a server. The configuration must allow `enable_secret_extraction`.
    ///
    /// # Errors
    ///
    /// Failures of TLS are [`io::Error`]s around a [`rustls::Error`].
    pub async fn accept(config: Arc<ServerConfig>, mut io: S) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let established = Box::pin(handshake::shake_hands(&mut io, tls)).await?;
        Self::new(io, established)
    }

    fn new(io: S, established: Established) -> io::Result<Self> {
        let Established { secrets, kernel, input } = established;
        let version = kernel.version();
        let sealer = Sealer::new(version, &secrets.tx, kernel.confidentiality_limit()).map_err(of_tls)?;
        let opener = Opener::new(version, &secrets.rx).map_err(of_tls)?;
        Ok(Self { io, kernel, reader: Reader::new(opener, input), writer: Writer::new(sealer) })
    }

    /// A failure of what was received: told to the peer as far as the socket takes it now.
    fn fail(&mut self, cx: &mut Context<'_>, error: &Error) {
        if self.reader.has_failed() {
            return;
        }
        self.reader.fail(error.clone());
        if let Some(alert) = reader::alert_of(error) {
            let _ = self.writer.fail(alert);
            let _ = self.writer.poll_drain(&mut self.io, cx);
        }
    }
}

impl<S> TlsStream<S> {
    /// What it runs over.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// The version that is spoken.
    pub fn protocol_version(&self) -> ProtocolVersion {
        self.kernel.version()
    }

    /// The suite that protects the records.
    pub fn cipher_suite(&self) -> CipherSuite {
        self.kernel.suite().suite()
    }

    /// Gives back the buffers that hold nothing; for a connection that has gone idle.
    pub fn shrink(&mut self) {
        self.reader.shrink();
        self.writer.shrink();
    }

    /// Takes no more memory than one record until [`Self::widen`]: for the connection of a stranger.
    pub fn frugal(mut self) -> Self {
        self.reader.set_frugal(true);
        self
    }

    /// Buffers grow for speed again.
    pub fn widen(&mut self) {
        self.reader.set_frugal(false);
    }

    /// Bytes held by the buffers.
    pub fn memory(&self) -> usize {
        self.reader.memory() + self.writer.memory()
    }
}

fn of_tls(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    /// Fills `buf` with as many whole records as are there; with a part of one if none fits.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.writer.is_urgent() {
            // Whoever writes next will see what is wrong.
            let _ = this.writer.poll_drain(&mut this.io, cx);
        }
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let has_some = buf.filled().len() > before;
            match this.reader.next(&mut this.kernel, buf, has_some) {
                Ok(Progress::Some) => {}
                Ok(Progress::UpdateRequested) => {
                    this.writer.answer_update(&mut this.kernel).map_err(of_tls)?;
                    let _ = this.writer.poll_drain(&mut this.io, cx);
                }
                Ok(Progress::Full | Progress::Closed) => break,
                Ok(Progress::Starved) if has_some => break,
                Ok(Progress::Starved) => {
                    if ready!(this.reader.poll_fill(&mut this.io, cx))? == 0 {
                        let reason = "the peer closed the connection without TLS's close_notify";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
                    }
                }
                Err(error) => {
                    this.fail(cx, &error);
                    if has_some {
                        break;
                    }
                    return Poll::Ready(Err(of_tls(error)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.writer.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.writer.is_full() {
            ready!(this.writer.poll_drain(&mut this.io, cx))?;
        }
        let taken = this.writer.seal(&mut this.kernel, buf).map_err(of_tls)?;
        if this.writer.is_full()
            && let Poll::Ready(Err(error)) = this.writer.poll_drain(&mut this.io, cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.writer.poll_drain(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Sends close_notify and ends our side.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.writer.close().map_err(of_tls)?;
        ready!(this.writer.poll_drain(&mut this.io, cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer has done so already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("io", &self.io)
            .field("version", &self.protocol_version())
            .field("suite", &self.cipher_suite())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
