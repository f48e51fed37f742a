//! Whole binary messages over a byte stream.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::WebSocketError;

/// The longest message, in bytes, before the session is up (PROTOCOL §1): one frame with a hello.
pub const HANDSHAKE_MESSAGE_LIMIT: usize = 8_197;

/// The longest message, in bytes, once the session is up (PROTOCOL §1).
pub const SESSION_MESSAGE_LIMIT: usize = 262_144;

/// A WebSocket after its upgrade, from either end.
#[derive(Debug)]
pub struct WebSocket<S> {
    #[expect(dead_code, reason = "signature only")]
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The server's end; `leftover` came after the request's head.
    pub fn server(stream: S, leftover: &[u8]) -> Self {
        let _ = leftover;
        Self { stream }
    }

    /// The client's end; `leftover` came after the answer's head.
    pub fn client(stream: S, leftover: &[u8]) -> Self {
        let _ = leftover;
        Self { stream }
    }

    /// Sets the longest message taken from now on, in bytes; 8,197 at first.
    pub fn set_message_limit(&mut self, bytes: usize) {
        let _ = bytes;
        unimplemented!()
    }

    /// Reads until a whole binary message is there.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let _ = cx;
        unimplemented!()
    }

    /// The message that [`Self::poll_message`] has read.
    pub fn message(&mut self) -> &mut [u8] {
        unimplemented!()
    }

    /// True when nothing waits to be written, so a message may be queued.
    pub fn is_flushed(&self) -> bool {
        unimplemented!()
    }

    /// Queues one binary message whose payload `fill` appends in place.
    pub fn queue_message<E>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let _ = fill;
        unimplemented!()
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        unimplemented!()
    }

    /// The next message.
    pub async fn recv(&mut self) -> Result<&mut [u8], WebSocketError> {
        unimplemented!()
    }

    /// Sends one message.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let _ = payload;
        unimplemented!()
    }

    /// Sends Close, waits at most `wait` for the answer, and closes TCP.
    pub async fn close(self, code: u16, reason: &str, wait: Duration) {
        let _ = (code, reason, wait);
        unimplemented!()
    }

    /// Gives grown buffers back.
    pub fn shrink(&mut self) {
        unimplemented!()
    }

    /// Bytes held by the buffers.
    pub fn memory(&self) -> usize {
        unimplemented!()
    }
}
