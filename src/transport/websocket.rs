//! Whole binary messages over a byte stream (RFC 6455, PROTOCOL §1), for one task.
//!
//! Why not tokio-tungstenite's own `WebSocketStream`: PROTOCOL §1 asks for what it cannot be told. At most
//! 1,024 fragments a message; a limit that rises when the session is up; 1009 for a message that is too
//! long as soon as its cumulative length is announced, before a byte of it is buffered; 1002 for text and
//! empty messages and for lengths that are not minimal. Besides, a message is unmasked and decrypted where
//! it was read, sealed and masked where it is written from, and an idle connection keeps 4 KiB instead of
//! 145. tungstenite reads and writes the frame headers and is the oracle in the tests.
//!
//! There is no task and no queue inside: one message may wait to be written, and the peer's latest Ping to
//! be answered, no more.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::assembly::{Assembly, Event};
use super::frame::{self, CONTROL_MAX, ControlFrame, EncodedHeader, HEADER_MAX, Kind, Role};
use super::wire::{Wire, WireGuard};
use super::{Stream, WebSocketError};

/// The longest message, in bytes, before the session is up (PROTOCOL §1): one frame with a hello.
pub const HANDSHAKE_MESSAGE_LIMIT: usize = 8_197;

/// The longest message, in bytes, once the session is up (PROTOCOL §1).
pub const SESSION_MESSAGE_LIMIT: usize = 262_144;

/// How far reading has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Frames are expected.
    Open,
    /// The peer's Close has come; nothing is expected after it.
    Closed,
    /// The peer broke the protocol: what it sends has no meaning any more.
    Broken,
    /// The stream has ended or failed.
    Ended,
}

/// A WebSocket after its upgrade, from either end.
///
/// Reading and writing are polled by the same task. An error of reading is final: every later
/// [`Self::poll_message`] says [`WebSocketError::Eof`]. Whatever the error was, [`Self::close`] does what
/// is left to do.
pub struct WebSocket<S> {
    stream: S,
    /// What [`Self::shrink`] does to the stream.
    shrink_stream: fn(&mut S),
    /// What a message limit above the handshake's does to it.
    widen_stream: fn(&mut S),
    role: Role,
    assembly: Assembly,
    reading: Reading,
    /// Encoded frames, of which those before `written` are with the stream.
    out: Vec<u8>,
    written: usize,
    /// The stream took bytes that it may still hold back.
    unflushed: bool,
    /// What follows `out`: the answer to the latest Ping, or our Close.
    control: Option<ControlFrame>,
    /// Our Close is in `control` or before it; nothing may follow.
    close_sent: bool,
}

impl WebSocket<Stream> {
    /// Lets [`Self::shrink`] and [`Self::set_message_limit`] reach TLS.
    pub(super) fn on_stream(self) -> Self {
        Self { shrink_stream: Stream::shrink, widen_stream: Stream::widen, ..self }
    }

    /// Drops the connection without a word, and what is still to be sent with it.
    pub fn abort(self) {
        self.stream.reset_on_drop();
    }

    /// What shows the connection's path to the wire for as long as the guard is there. It must be
    /// dropped before the connection is, which would stay open otherwise.
    pub fn wire(&self) -> io::Result<(Arc<Wire>, WireGuard)> {
        Wire::of(&self.stream, self.role)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The server's end of an upgraded stream; `leftover` was read behind the request's head.
    pub fn server(stream: S, leftover: &[u8]) -> Self {
        Self::new(stream, Role::Server, leftover)
    }

    /// The client's end of an upgraded stream; `leftover` was read behind the answer's head. Its frames
    /// are masked with keys from the thread's generator, which the operating system seeds.
    pub fn client(stream: S, leftover: &[u8]) -> Self {
        Self::new(stream, Role::Client, leftover)
    }

    fn new(stream: S, role: Role, leftover: &[u8]) -> Self {
        Self {
            stream,
            shrink_stream: |_| {},
            widen_stream: |_| {},
            role,
            assembly: Assembly::new(role, HANDSHAKE_MESSAGE_LIMIT, leftover),
            reading: Reading::Open,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            control: None,
            close_sent: false,
        }
    }

    /// Sets the longest message that is accepted, in bytes: [`HANDSHAKE_MESSAGE_LIMIT`] at first. Holds
    /// from the next frame on that is looked at.
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.assembly.set_limit(bytes);
        if bytes > HANDSHAKE_MESSAGE_LIMIT {
            (self.widen_stream)(&mut self.stream);
        }
    }

    /// Reads until a whole binary message is there; answers Pings and Close on the way, as far as the
    /// stream takes the answers without waiting.
    ///
    /// After `Ready(Ok(()))` the message is in [`Self::message`] until the next call. `Pending` wakes
    /// the task when either more can be read or an outstanding answer can be written.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        if self.reading != Reading::Open {
            return Poll::Ready(Err(WebSocketError::Eof));
        }
        loop {
            match self.assembly.next() {
                Ok(Some(Event::Message)) => {
                    // A peer that never pauses gets its Pong all the same; a failure will show again.
                    let _ = self.poll_answer(cx);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(Event::Control(frame))) => self.handle_control(&frame, cx)?,
                Ok(None) => {
                    if let Err(error) = ready!(self.poll_fill(cx)) {
                        self.reading = Reading::Ended;
                        return Poll::Ready(Err(error));
                    }
                }
                Err(fault) => {
                    self.reading = Reading::Broken;
                    return Poll::Ready(Err(fault.into()));
                }
            }
        }
    }

    /// The message that [`Self::poll_message`] has read, free to be decrypted in place; empty if there is
    /// none.
    pub fn message(&mut self) -> &mut [u8] {
        self.assembly.message()
    }

    /// What it runs over.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Whether a message may be queued: nothing waits to be written any more, neither here nor in TLS.
    /// (The answer to a Ping may; it will go out in front.)
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Queues one binary message, whose payload `fill` appends in place: to a buffer with something in
    /// front that it must leave alone. Nothing is queued if it appends nothing or fails. The payload
    /// should not exceed [`SESSION_MESSAGE_LIMIT`], as no receiver has to take more.
    ///
    /// # Panics
    ///
    /// If not [`Self::is_flushed`]: frames would be torn.
    pub fn queue_message<E>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        assert!(self.is_flushed(), "a message is still waiting to be written");
        let room = HEADER_MAX + self.control.map_or(0, |_| HEADER_MAX + CONTROL_MAX);
        self.out.clear();
        self.out.resize(room, 0);
        let filled = fill(&mut self.out);
        if filled.is_err() || self.out.len() <= room {
            self.out.clear();
            return filled;
        }
        let mask = self.mask();
        if let Some(mask) = mask {
            frame::apply_mask(&mut self.out[room..], mask);
        }
        let header = EncodedHeader::new(Kind::Binary, self.out.len() - room, mask);
        self.written = prepend(&mut self.out, room, header.as_slice());
        if let Some(control) = self.control.take() {
            let mut answer = Vec::with_capacity(HEADER_MAX + CONTROL_MAX);
            control.encode(self.mask(), &mut answer);
            self.written = prepend(&mut self.out, self.written, &answer);
        }
        Ok(())
    }

    /// Hands everything queued to the socket, through TLS's own buffers too.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.written += count,
                }
                self.unflushed = true;
            }
            self.out.clear();
            self.written = 0;
            match self.control.take() {
                Some(control) => control.encode(self.mask(), &mut self.out),
                None => break,
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// [`Self::poll_message`] and [`Self::message`] for those who have nothing else to do meanwhile.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Result<&mut [u8], WebSocketError> {
        poll_fn(|cx| self.poll_message(cx)).await?;
        Ok(self.message())
    }

    /// Sends one message, after what is still queued. If cancelled, the message may be queued, sent in
    /// part, or neither; [`Self::poll_flush`] finishes it.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.queue_message(|out| {
            out.extend_from_slice(payload);
            Ok::<_, io::Error>(())
        })?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what is queued and Close (PROTOCOL §9), waits for the peer's, and closes the stream: all
    /// within `wait`, after which the socket is dropped. `reason` is cut at 123 bytes. If the peer has
    /// sent its Close already, the answer to that is sent instead.
    ///
    /// Cancel-safe: dropping the future drops the socket.
    pub async fn close(self, code: u16, reason: &str, wait: Duration) {
        self.close_with(code, reason, wait, |_| {}).await;
    }

    /// As [`close`](Self::close), for those who still want the messages that cross our Close.
    pub async fn close_with(
        mut self,
        code: u16,
        reason: &str,
        wait: Duration,
        message: impl FnMut(&mut [u8]),
    ) {
        if self.reading == Reading::Ended {
            return;
        }
        if !self.close_sent {
            self.control = Some(ControlFrame::close(code, reason));
            self.close_sent = true;
        }
        // Failing and running out of time end alike: with the socket dropped.
        let _ = tokio::time::timeout(wait, self.finish(message)).await;
    }

    /// Gives back what the buffers have grown; for a connection that has gone idle.
    pub fn shrink(&mut self) {
        self.assembly.shrink();
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        (self.shrink_stream)(&mut self.stream);
    }

    /// Bytes held by the buffers here; TLS and the kernel have their own.
    pub fn memory(&self) -> usize {
        self.assembly.memory() + self.out.capacity()
    }

    fn mask(&self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then(frame::fresh_mask)
    }

    fn handle_control(&mut self, frame: &ControlFrame, cx: &mut Context<'_>) -> Result<(), WebSocketError> {
        match frame.kind() {
            // The latest suffices (RFC 6455 §5.5.3), so however many come, one waits.
            Kind::Ping if !self.close_sent => {
                self.control = Some(ControlFrame::new(Kind::Pong, frame.payload()));
            }
            Kind::Close => {
                let (code, reason) = frame.close_reason().map_err(|reason| {
                    self.reading = Reading::Broken;
                    WebSocketError::Protocol(reason)
                })?;
                self.reading = Reading::Closed;
                if !self.close_sent {
                    self.control = Some(match code {
                        Some(code) => ControlFrame::close(code, ""),
                        None => ControlFrame::new(Kind::Close, &[]),
                    });
                    self.close_sent = true;
                    let _ = self.poll_answer(cx);
                }
                return Err(WebSocketError::Closed { code, reason });
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads once. While there is nothing to read, an outstanding answer is written.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let mut buffer = ReadBuf::new(self.assembly.room());
        let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, &mut buffer) else {
            return match self.poll_answer(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            };
        };
        let read = buffer.filled().len();
        Poll::Ready(match result {
            Ok(()) if read > 0 => {
                self.assembly.filled(read);
                Ok(())
            }
            Ok(()) => Err(WebSocketError::Eof),
            // TCP ended without TLS's own end: whether cut or not, nothing more will come.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WebSocketError::Eof),
            Err(error) => Err(error.into()),
        })
    }

    /// Writes what is outstanding if a control frame is among it.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.is_some() { self.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// The closing handshake from where it stands.
    async fn finish(&mut self, mut message: impl FnMut(&mut [u8])) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        while self.reading == Reading::Open {
            // Errors change `reading`.
            if let Ok(crossed) = self.recv().await {
                message(crossed);
            }
        }
        self.stream.shutdown().await?;
        // A socket that is closed with bytes unread resets the connection, and a reset overtakes the
        // Close that tells a misbehaving peer what it did.
        while self.reading == Reading::Broken {
            self.assembly.discard();
            if poll_fn(|cx| self.poll_fill(cx)).await.is_err() {
                self.reading = Reading::Ended;
            }
        }
        Ok(())
    }
}

impl<S> fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("role", &self.role)
            .field("reading", &self.reading)
            .field("unwritten", &(self.out.len() - self.written))
            .finish_non_exhaustive()
    }
}

/// Writes `bytes` so that they end at `end`; gives where they begin.
fn prepend(buffer: &mut [u8], end: usize, bytes: &[u8]) -> usize {
    let start = end - bytes.len();
    buffer[start..end].copy_from_slice(bytes);
    start
}

#[cfg(test)]
mod tests;
