//! The sending half: content in, records out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error, HandshakeType};
use tokio::io::AsyncWrite;

use super::buffer::Buffer;
use super::handshake::Kernel;
use super::record::{CONTENT_MAX, OVERHEAD_MAX, Sealer};

/// What may be outstanding while the peer does not read: four full records, one system call.
const OUTPUT_MAX: usize = 4 * (CONTENT_MAX + OVERHEAD_MAX);

/// Less content than this is not worth a record of its own where the output ends.
const CONTENT_MIN: usize = 64;

const FATAL: u8 = 2;
const WARNING: u8 = 1;

pub(super) struct Writer {
    sealer: Sealer,
    /// Records, of which the beginning may be with the socket.
    output: Buffer,
    /// An alert or the answer to a request for new keys is in the output, which no one flushes.
    is_urgent: bool,
    /// Such an answer is; one more would say the same (RFC 8446 §4.6.3).
    is_updated: bool,
    /// The last alert is sealed; nothing may follow.
    is_closed: bool,
}

impl Writer {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self { sealer, output: Buffer::default(), is_urgent: false, is_updated: false, is_closed: false }
    }

    /// Gives memory back.
    pub(super) fn shrink(&mut self) {
        self.output.shrink();
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.output.capacity()
    }

    /// Whether something waits that no caller knows of.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether the last alert has been sealed, behind which there is nothing.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether no more content is taken until some has been sent.
    pub(super) fn is_full(&self) -> bool {
        self.room() < CONTENT_MIN
    }

    fn room(&self) -> usize {
        OUTPUT_MAX.saturating_sub(self.output.len() + OVERHEAD_MAX)
    }

    /// Seals as much of `content` as there is room for.
    pub(super) fn seal(&mut self, kernel: &mut Kernel, content: &[u8]) -> Result<usize, Error> {
        let mut rest = content;
        let taken = content.len().min(self.room());
        self.output.room(taken + taken.div_ceil(CONTENT_MAX) * OVERHEAD_MAX);
        while !rest.is_empty() && !self.is_full() {
            if self.sealer.is_spent() {
                if !self.sealer.can_rekey() {
                    return Err(Error::EncryptError);
                }
                self.update_keys(kernel)?;
            }
            let (part, behind) = rest.split_at(rest.len().min(CONTENT_MAX).min(self.room()));
            self.put(ContentType::ApplicationData, part)?;
            rest = behind;
        }
        Ok(content.len() - rest.len())
    }

    /// Answers a request for new keys.
    pub(super) fn answer_update(&mut self, kernel: &mut Kernel) -> Result<(), Error> {
        if self.is_closed || self.is_updated {
            return Ok(());
        }
        self.is_updated = true;
        self.is_urgent = true;
        self.update_keys(kernel)
    }

    /// Says that nothing will follow, once.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        self.alert(WARNING, AlertDescription::CloseNotify)
    }

    /// Says that all is over.
    pub(super) fn fail(&mut self, reason: AlertDescription) -> Result<(), Error> {
        self.alert(FATAL, reason)
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), Error> {
        if self.is_closed {
            return Ok(());
        }
        self.is_closed = true;
        self.is_urgent = true;
        self.put(ContentType::Alert, &[level, description.into()])
    }

    /// RFC 8446 §4.6.3, not asking for the peer's in return: that depends on what the peer has sent.
    fn update_keys(&mut self, kernel: &mut Kernel) -> Result<(), Error> {
        self.put(ContentType::Handshake, &[HandshakeType::KeyUpdate.into(), 0, 0, 1, 0])?;
        self.sealer.rekey(&kernel.next_sending()?)
    }

    fn put(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Error> {
        let length = content.len() + self.sealer.overhead();
        self.sealer.seal(kind, content, &mut self.output.room(length)[..length])?;
        self.output.filled(length);
        Ok(())
    }

    /// Hands all that is outstanding to the socket.
    pub(super) fn poll_drain<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            // Vectored, as that is never cut for the sake of the path: records of which a part has left
            // hold up the rest anyway.
            let bytes = IoSlice::new(self.output.bytes());
            match ready!(Pin::new(&mut *io).poll_write_vectored(cx, &[bytes]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.output.consume(count),
            }
        }
        self.is_urgent = false;
        self.is_updated = false;
        Poll::Ready(Ok(()))
    }

    #[cfg(test)]
    pub(super) fn sealer(&mut self) -> &mut Sealer {
        &mut self.sealer
    }

    #[cfg(test)]
    pub(super) fn outstanding(&self) -> usize {
        self.output.len()
    }
}
