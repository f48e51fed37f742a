//! The receiving half: records in, content out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};
use tokio::io::{AsyncRead, ReadBuf};

use super::buffer::Buffer;
use super::handshake::Kernel;
use super::record::{self, Opener, RECORD_MAX};

/// Up to where the input grows: four full records, which is what a peer like us writes at a time.
const INPUT_MAX: usize = 4 * RECORD_MAX;

/// The longest handshake message, as in rustls.
const HANDSHAKE_MAX: usize = 0xffff;

/// How many records in a row may bring no data, as in rustls.
const IDLE_MAX: u8 = 32;

/// What is read first when an idle connection has given its buffer back.
const PROBE: usize = 2 * 1024;

const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// How far reading has come to its end.
enum Reading {
    Open,
    /// close_notify has come; nothing is looked at after it.
    Closed,
    /// It was the last error's.
    Failed(Error),
}

/// What has been done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    Some,
    /// A record, without data; the peer wants our keys updated.
    UpdateRequested,
    /// The caller's buffer is full, as far as records are split.
    Full,
    /// More must be read.
    Starved,
    /// The peer has closed.
    Closed,
}

pub(super) struct Reader {
    input: Buffer,
    /// It has one record's memory at the most, and is slower for that.
    is_frugal: bool,
    /// The last read left no room: there is more to be had than the buffer takes.
    overfull: bool,
    opener: Opener,
    /// What of a record found no room with the caller.
    leftover: Buffer,
    /// The beginning of a handshake message.
    handshake: Vec<u8>,
    /// How many records in a row have brought no data.
    idle: u8,
    reading: Reading,
}

impl Reader {
    pub(super) fn new(opener: Opener, input: Buffer) -> Self {
        Self {
            input,
            is_frugal: false,
            overfull: false,
            opener,
            leftover: Buffer::default(),
            handshake: Vec::new(),
            idle: 0,
            reading: Reading::Open,
        }
    }

    /// Whether it has one record's memory at the most.
    pub(super) fn set_frugal(&mut self, is_frugal: bool) {
        self.is_frugal = is_frugal;
    }

    /// Gives memory back.
    pub(super) fn shrink(&mut self) {
        self.input.shrink();
        self.leftover.shrink();
        self.overfull = false;
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.input.capacity() + self.leftover.capacity() + self.handshake.capacity()
    }

    #[cfg(test)]
    pub(super) fn opener(&mut self) -> &mut Opener {
        &mut self.opener
    }

    /// Remembers the failure for all later reads.
    pub(super) fn fail(&mut self, error: Error) {
        self.reading = Reading::Failed(error);
    }

    /// Whether it has failed before.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.reading, Reading::Failed(_))
    }

    /// Reads once: how much, 0 at the end.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            let mut probe = [0; PROBE];
            let mut room = ReadBuf::new(&mut probe);
            ready!(Pin::new(io).poll_read(cx, &mut room))?;
            let count = room.filled().len();
            self.input.append(room.filled());
            self.overfull = count == PROBE;
            return Poll::Ready(Ok(count));
        }
        if self.overfull && !self.is_frugal {
            self.input.grow(INPUT_MAX.min(2 * self.input.capacity()));
        }
        self.input.move_to_front();
        // At least what the record lacks that is there in part.
        let whole = record::first_length(self.input.bytes()).unwrap_or_default();
        let least = whole.saturating_sub(self.input.len()).max(1);
        if self.is_frugal {
            self.input.grow(self.input.len() + least);
        }
        let room = self.input.room(least);
        let size = room.len();
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(io).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.input.filled(count);
        self.overfull = count == size;
        Poll::Ready(Ok(count))
    }

    /// Moves the next piece of content to `out`, or opens the next record. One that does not fit is left
    /// for later if `has_some` was put there already.
    pub(super) fn next(
        &mut self,
        kernel: &mut Kernel,
        out: &mut ReadBuf<'_>,
        has_some: bool,
    ) -> Result<Progress, Error> {
        if !self.leftover.is_empty() {
            let count = self.leftover.len().min(out.remaining());
            out.put_slice(&self.leftover.bytes()[..count]);
            self.leftover.consume(count);
            if !self.leftover.is_empty() {
                return Ok(Progress::Full);
            }
            if self.is_frugal {
                self.leftover.shrink();
            }
            return Ok(Progress::Some);
        }
        match &self.reading {
            Reading::Open => {}
            Reading::Closed => return Ok(Progress::Closed),
            Reading::Failed(error) => return Err(error.clone()),
        }
        self.open(kernel, out, has_some)
    }

    /// Opens the next record and does what it says.
    fn open(
        &mut self,
        kernel: &mut Kernel,
        out: &mut ReadBuf<'_>,
        has_some: bool,
    ) -> Result<Progress, Error> {
        let Some(record) = record::first(self.input.bytes())? else { return Ok(Progress::Starved) };
        let length = self.opener.room(record)?;
        let fits = length <= out.remaining();
        if !fits && has_some {
            return Ok(Progress::Full);
        }
        let room =
            if fits { out.initialize_unfilled_to(length) } else { &mut self.leftover.room(length)[..length] };
        let (kind, content) = self.opener.open(record, room)?;
        let consumed = record.len();
        if !self.handshake.is_empty() && kind != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        let progress = match (kind, room.get(..content).unwrap_or_default()) {
            (ContentType::ApplicationData, [_, ..]) => {
                if fits {
                    out.advance(content)
                } else {
                    self.leftover.filled(content)
                }
                self.idle = 0;
                Progress::Some
            }
            (ContentType::ApplicationData, []) => self.idle(PeerMisbehaved::TooManyEmptyFragments)?,
            (ContentType::Alert, &[level, description]) => self.alert(level, description.into())?,
            (ContentType::Alert, _) => return Err(InvalidMessage::MissingData("AlertLevel").into()),
            (ContentType::Handshake, part) => {
                self.handshake.extend_from_slice(part);
                self.messages(kernel)?
            }
            _ => return Err(record::unexpected(kind)),
        };
        self.input.consume(consumed);
        if !fits && self.is_frugal {
            self.input.fit();
        }
        Ok(progress)
    }

    /// Counts a record that brought no data.
    fn idle(&mut self, fault: PeerMisbehaved) -> Result<Progress, Error> {
        self.idle += 1;
        if self.idle > IDLE_MAX { Err(fault.into()) } else { Ok(Progress::Some) }
    }

    /// RFC 8446 §6, RFC 5246 §7.2.
    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<Progress, Error> {
        match (level, description) {
            (WARNING | FATAL, AlertDescription::CloseNotify) => {
                self.reading = Reading::Closed;
                Ok(Progress::Closed)
            }
            (WARNING, AlertDescription::UserCanceled) => {
                self.idle(PeerMisbehaved::TooManyWarningAlertsReceived)
            }
            (WARNING, _) if !self.opener.is_tls13() => {
                self.idle(PeerMisbehaved::TooManyWarningAlertsReceived)
            }
            (_, description) => Err(Error::AlertReceived(description)),
        }
    }

    /// Handles the handshake messages that are there as a whole.
    fn messages(&mut self, kernel: &mut Kernel) -> Result<Progress, Error> {
        let mut progress = self.idle(PeerMisbehaved::TooManyKeyUpdateRequests)?;
        let buffered = std::mem::take(&mut self.handshake);
        let mut rest = buffered.as_slice();
        while let Some((&[kind, a, b, c], behind)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > HANDSHAKE_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            if matches!(kernel, Kernel::Server(_)) {
                // The only one that a server takes, and it is short: nothing else is gathered.
                match HandshakeType::from(kind) {
                    HandshakeType::KeyUpdate if length > 1 => {
                        return Err(InvalidMessage::InvalidKeyUpdate.into());
                    }
                    HandshakeType::KeyUpdate => {}
                    kind => return Err(inappropriate(kind)),
                }
            }
            let Some((body, behind)) = behind.split_at_checked(length) else { break };
            rest = behind;
            if self.message(kernel, kind.into(), body, behind.is_empty())? {
                progress = Progress::UpdateRequested;
            }
        }
        if !rest.is_empty() {
            self.handshake = rest.to_vec();
        }
        Ok(progress)
    }

    /// Handles one message; whether the peer wants our keys updated.
    fn message(
        &mut self,
        kernel: &mut Kernel,
        kind: HandshakeType,
        body: &[u8],
        is_last: bool,
    ) -> Result<bool, Error> {
        match (kind, kernel) {
            (HandshakeType::KeyUpdate, kernel) if self.opener.is_tls13() => {
                let requested = match body {
                    [0] => false,
                    [1] => true,
                    _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                };
                if !is_last {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                self.opener.rekey(&kernel.next_receiving()?)?;
                Ok(requested)
            }
            (HandshakeType::NewSessionTicket, Kernel::Client(kernel)) if self.opener.is_tls13() => {
                kernel.handle_new_session_ticket(body)?;
                Ok(false)
            }
            // A client need not answer (RFC 5246 §7.4.1.1).
            (HandshakeType::HelloRequest, Kernel::Client(_))
                if !self.opener.is_tls13() && body.is_empty() =>
            {
                Ok(false)
            }
            (kind, _) => Err(inappropriate(kind)),
        }
    }
}

fn inappropriate(kind: HandshakeType) -> Error {
    Error::InappropriateHandshakeMessage {
        expect_types: vec![HandshakeType::KeyUpdate, HandshakeType::NewSessionTicket],
        got_type: kind,
    }
}

/// What the peer is told of a failure; nothing if it told us.
pub(super) fn alert_of(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => Some(AlertDescription::UnexpectedMessage),
        _ => Some(AlertDescription::InternalError),
    }
}
