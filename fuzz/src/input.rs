//! Taking a target's input apart, and a stream that gives it out in pieces.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is left of an input. What is missing is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn chance(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The lengths of the pieces that something comes in.
    pub fn cuts(&mut self) -> Cuts<'a> {
        let count = usize::from(self.byte() % 16);
        Cuts { lengths: self.take(count), next: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Lengths of pieces, over and over; without any, one piece is all.
#[derive(Clone, Copy)]
pub struct Cuts<'a> {
    lengths: &'a [u8],
    next: usize,
}

impl<'a> Cuts<'a> {
    pub const NONE: Self = Self { lengths: &[], next: 0 };

    /// The length of the next piece: 1 to 127 bytes, or 4,096.
    fn length(&mut self) -> usize {
        if self.lengths.is_empty() {
            return usize::MAX;
        }
        let length = self.lengths[self.next % self.lengths.len()];
        self.next += 1;
        match length {
            0 | 128.. => 4096,
            length => length.into(),
        }
    }

    pub fn pieces(mut self, mut bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        std::iter::from_fn(move || {
            let (piece, rest) = bytes.split_at(self.length().min(bytes.len()));
            bytes = rest;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

/// A stream that gives bytes in pieces, with a pause before each where it is cut at all, and takes what is written
/// in pieces of the same lengths.
pub struct Pieces<'a> {
    rest: &'a [u8],
    cuts: Cuts<'a>,
    paused: bool,
    pub written: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub fn new(bytes: &'a [u8], cuts: Cuts<'a>) -> Self {
        Self { rest: bytes, cuts, paused: cuts.lengths.is_empty(), written: Vec::new() }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.paused {
            this.paused = true;
            return Poll::Pending;
        }
        this.paused = this.cuts.lengths.is_empty();
        assert!(room.remaining() > 0, "a read without room");
        let length = this.cuts.length().min(this.rest.len()).min(room.remaining());
        let (piece, rest) = this.rest.split_at(length);
        room.put_slice(piece);
        this.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = this.cuts.length().min(bytes.len());
        this.written.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls until it is done: what is waited for are the pauses of [`Pieces`], which pass by themselves.
pub fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// Where simulated time begins.
#[allow(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
pub fn epoch() -> Instant {
    Instant::now()
}
