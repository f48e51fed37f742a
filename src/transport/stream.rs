//! The byte stream under a WebSocket: TCP, or TLS over TCP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::TlsStream;
use super::paced::{PacedTcp, Quantum};

/// A connected TCP stream, with TLS or (behind a proxy that ends TLS) without.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each connection, and none lies in a list")]
pub enum Stream {
    /// Bytes go to TCP as they are.
    Plain(PacedTcp),
    /// Bytes go through TLS; boxed, so that a plain connection does not pay for its state.
    Tls(Box<TlsStream<PacedTcp>>),
}

impl Stream {
    /// How much is best written at a time.
    pub fn quantum(&self) -> Quantum {
        match self {
            Self::Plain(stream) => stream.quantum(),
            Self::Tls(stream) => stream.io().quantum(),
        }
    }

    /// Has the connection reset when it is dropped: what the kernel still holds is not delivered any more. For a
    /// connection that is dead as far as this end knows, whose packets must not come out of a black hole late.
    pub(super) fn reset_on_drop(&self) {
        let tcp = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.io(),
        };
        if let Err(error) = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a dead connection cannot be reset");
        }
    }

    /// Gives back what buffers there are; for a connection that has gone idle.
    pub(super) fn shrink(&mut self) {
        if let Self::Tls(stream) = self {
            stream.shrink();
        }
    }

    /// Lets TLS have buffers for speed: the peer is no stranger any more.
    pub(super) fn widen(&mut self) {
        if let Self::Tls(stream) = self {
            stream.widen();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
