//! Frames: the header, the lengths each type may have, and the types a state allows (PROTOCOL §2).
//!
//! ```text
//! +--------+----------------+----------------------+
//! | type:1 | length:4       | payload:length       |
//! +--------+----------------+----------------------+
//! ```

use std::ops::RangeInclusive;

use crate::codec::close::CloseCode;
use crate::error::ErrorCode;

/// Bytes ahead of each payload: type and big-endian length.
pub const HEADER_LEN: usize = 5;

/// Nonce (24) and tag (16) around each sealed plaintext (PROTOCOL §5).
pub const SEAL_OVERHEAD: usize = 40;

/// The longest payload of a frame that carries a Noise message, in bytes.
pub const MAX_HANDSHAKE: usize = 8192;

/// A frame's type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Noise NK message 1.
    HandshakeInit = 0x01,
    /// Noise message 2.
    HandshakeResp = 0x02,
    /// Noise IK message 1, from a client with a static key.
    HandshakeInitIk = 0x03,
    /// Sealed: one IP packet.
    IpPacket = 0x10,
    /// Sealed: packet records (feature `bundle`).
    IpBundle = 0x11,
    /// Sealed: an 8-byte timestamp.
    Keepalive = 0x20,
    /// Sealed: the 8 bytes of a Keepalive.
    KeepaliveAck = 0x21,
    /// A pattern byte and Noise message 1, whose hello holds a ticket.
    SessionResume = 0x30,
    /// Noise message 2 of a resume that succeeds.
    SessionResumeOk = 0x31,
    /// Noise message 2 whose hello is a rejection.
    SessionResumeErr = 0x32,
    /// JSON code and message; sealed, or before keys exist plain and from the server only.
    Disconnect = 0x3f,
    /// Sealed: a pattern byte and Noise message 1 (feature `rekey`).
    RekeyInit = 0x40,
    /// Sealed: Noise message 2.
    RekeyResp = 0x41,
}

impl FrameType {
    /// Every type, in the order of their bytes.
    pub const ALL: [Self; 13] = [
        Self::HandshakeInit,
        Self::HandshakeResp,
        Self::HandshakeInitIk,
        Self::IpPacket,
        Self::IpBundle,
        Self::Keepalive,
        Self::KeepaliveAck,
        Self::SessionResume,
        Self::SessionResumeOk,
        Self::SessionResumeErr,
        Self::Disconnect,
        Self::RekeyInit,
        Self::RekeyResp,
    ];

    /// The type that a header's first byte names.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::HandshakeInit,
            0x02 => Self::HandshakeResp,
            0x03 => Self::HandshakeInitIk,
            0x10 => Self::IpPacket,
            0x11 => Self::IpBundle,
            0x20 => Self::Keepalive,
            0x21 => Self::KeepaliveAck,
            0x30 => Self::SessionResume,
            0x31 => Self::SessionResumeOk,
            0x32 => Self::SessionResumeErr,
            0x3f => Self::Disconnect,
            0x40 => Self::RekeyInit,
            0x41 => Self::RekeyResp,
            _ => return None,
        })
    }

    /// The payload lengths, in bytes, that PROTOCOL §2 allows. For [`Self::Disconnect`] those of
    /// the sealed form; [`FrameSet::with_plain_disconnect`] allows the plain one.
    pub const fn payload_lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::HandshakeInit
            | Self::HandshakeResp
            | Self::HandshakeInitIk
            | Self::SessionResumeOk
            | Self::SessionResumeErr => 49..=MAX_HANDSHAKE,
            Self::SessionResume => 50..=MAX_HANDSHAKE,
            Self::IpPacket => 40..=65_575,
            Self::IpBundle => 45..=131_072,
            Self::Keepalive | Self::KeepaliveAck => 48..=48,
            Self::Disconnect => 42..=1064,
            Self::RekeyInit | Self::RekeyResp => 89..=MAX_HANDSHAKE,
        }
    }

    /// The plaintext lengths, in bytes, that make a sealed frame of this type; none if this type
    /// is never sealed.
    pub const fn plaintext_lengths(self) -> Option<RangeInclusive<usize>> {
        match self {
            Self::HandshakeInit
            | Self::HandshakeResp
            | Self::HandshakeInitIk
            | Self::SessionResume
            | Self::SessionResumeOk
            | Self::SessionResumeErr => None,
            Self::IpPacket
            | Self::IpBundle
            | Self::Keepalive
            | Self::KeepaliveAck
            | Self::Disconnect
            | Self::RekeyInit
            | Self::RekeyResp => {
                let sealed = self.payload_lengths();
                Some(*sealed.start() - SEAL_OVERHEAD..=*sealed.end() - SEAL_OVERHEAD)
            }
        }
    }
}

/// The payload lengths of a Disconnect that is not sealed, in bytes (PROTOCOL §2).
const PLAIN_DISCONNECT: RangeInclusive<usize> = 2..=1024;

/// The frame types that a state accepts, and whether its Disconnect is the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSet {
    types: u128,
    plain_disconnect: bool,
}

impl FrameSet {
    /// Exactly these types.
    pub const fn of(types: &[FrameType]) -> Self {
        let mut bits = 0;
        let mut rest = types;
        while let [first, others @ ..] = rest {
            bits |= Self::bit(*first);
            rest = others;
        }
        Self { types: bits, plain_disconnect: false }
    }

    /// The same set, in which a Disconnect is allowed and comes plain (PROTOCOL §2: before keys
    /// exist, from the server only).
    #[must_use]
    pub const fn with_plain_disconnect(self) -> Self {
        Self { types: self.types | Self::bit(FrameType::Disconnect), plain_disconnect: true }
    }

    /// The same set with one more type.
    #[must_use]
    pub const fn with(self, kind: FrameType) -> Self {
        Self { types: self.types | Self::bit(kind), ..self }
    }

    /// Whether the state accepts frames of this type.
    pub const fn contains(self, kind: FrameType) -> bool {
        self.types & Self::bit(kind) != 0
    }

    const fn lengths(self, kind: FrameType) -> RangeInclusive<usize> {
        match kind {
            FrameType::Disconnect if self.plain_disconnect => PLAIN_DISCONNECT,
            _ => kind.payload_lengths(),
        }
    }

    /// Every type byte is below 128, so it is its own bit.
    const fn bit(kind: FrameType) -> u128 {
        1 << kind as u8
    }
}

/// One frame inside a message. The payload may be opened in place.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type, which the state allows.
    pub kind: FrameType,
    /// The header as it came: the associated data of a sealed payload (PROTOCOL §5).
    pub header: [u8; HEADER_LEN],
    /// The payload, of a length the type allows.
    pub payload: &'a mut [u8],
}

/// Takes the first frame off a WebSocket message that is not used up; returns it and the rest.
///
/// The header decides before the payload is looked at: type, permission and length, in this order.
///
/// # Errors
///
/// Every [`FrameError`] ends the connection with [`CloseCode::ProtocolError`].
pub fn split_frame(message: &mut [u8], allowed: FrameSet) -> Result<(Frame<'_>, &mut [u8]), FrameError> {
    if message.is_empty() {
        return Err(FrameError::Empty);
    }
    let (header, rest) = message.split_first_chunk_mut::<HEADER_LEN>().ok_or(FrameError::CutHeader)?;
    let (kind, length) = read_header(*header, allowed)?;
    let (payload, rest) = rest.split_at_mut_checked(length).ok_or(FrameError::CutPayload)?;
    Ok((Frame { kind, header: *header, payload }, rest))
}

/// What a header announces, if the state and the type allow it: the type and the payload's length
/// in bytes.
///
/// # Errors
///
/// [`FrameError::UnknownType`], [`FrameError::NotAllowed`] or [`FrameError::Length`].
pub fn read_header(header: [u8; HEADER_LEN], allowed: FrameSet) -> Result<(FrameType, usize), FrameError> {
    let [byte, length @ ..] = header;
    let kind = FrameType::from_byte(byte).ok_or(FrameError::UnknownType(byte))?;
    if !allowed.contains(kind) {
        return Err(FrameError::NotAllowed(kind));
    }
    let announced = u32::from_be_bytes(length);
    match usize::try_from(announced) {
        Ok(length) if allowed.lengths(kind).contains(&length) => Ok((kind, length)),
        _ => Err(FrameError::Length { kind, length: announced }),
    }
}

/// The header of a frame with a payload of `length` bytes, which the caller keeps within the
/// type's range.
pub fn header(kind: FrameType, length: usize) -> [u8; HEADER_LEN] {
    debug_assert!(
        kind.payload_lengths().contains(&length)
            || kind == FrameType::Disconnect && PLAIN_DISCONNECT.contains(&length),
        "{kind:?} of {length} bytes",
    );
    // No range of PROTOCOL §2 reaches 2^32.
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// The peer's message is not a sequence of frames that the state allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A message without a frame.
    #[error("the message is empty")]
    Empty,
    /// The message ends inside a header.
    #[error("the message ends inside a frame header")]
    CutHeader,
    /// The message ends inside a payload.
    #[error("the message ends inside a frame's payload")]
    CutPayload,
    /// No frame has this type byte.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// The state does not accept this type.
    #[error("a frame of type {0:?} is not allowed now")]
    NotAllowed(FrameType),
    /// The type does not have payloads of this length.
    #[error("a frame of type {kind:?} cannot have {length} bytes")]
    Length {
        /// The frame's type.
        kind: FrameType,
        /// The announced length in bytes.
        length: u32,
    },
}

impl FrameError {
    /// How the connection ends.
    pub const fn close_code(self) -> CloseCode {
        CloseCode::ProtocolError
    }

    /// What the user is told.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::ProtocolError
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: FrameSet = FrameSet::of(&FrameType::ALL);

    fn announced(kind: FrameType, length: usize) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = u32::try_from(length).unwrap().to_be_bytes();
        [kind as u8, a, b, c, d]
    }

    /// The table of PROTOCOL §2, once more and by hand.
    const TABLE: [(u8, usize, usize); 13] = [
        (0x01, 49, 8192),
        (0x02, 49, 8192),
        (0x03, 49, 8192),
        (0x10, 40, 65_575),
        (0x11, 45, 131_072),
        (0x20, 48, 48),
        (0x21, 48, 48),
        (0x30, 50, 8192),
        (0x31, 49, 8192),
        (0x32, 49, 8192),
        (0x3f, 42, 1064),
        (0x40, 89, 8192),
        (0x41, 89, 8192),
    ];

    #[test]
    fn lengths_end_where_the_table_says() {
        for (kind, (byte, shortest, longest)) in FrameType::ALL.into_iter().zip(TABLE) {
            assert_eq!(kind as u8, byte);
            assert_eq!(FrameType::from_byte(byte), Some(kind));
            for length in [shortest, longest] {
                let header = announced(kind, length);
                assert_eq!(read_header(header, ALL), Ok((kind, length)));
                assert_eq!(super::header(kind, length), header);
            }
            for length in [0, shortest - 1, longest + 1, u32::MAX as usize] {
                let error = FrameError::Length { kind, length: length as u32 };
                assert_eq!(read_header(announced(kind, length), ALL), Err(error));
            }
        }
    }

    #[test]
    fn a_plain_disconnect_has_its_own_lengths() {
        let plain = FrameSet::of(&[FrameType::HandshakeResp]).with_plain_disconnect();
        assert!(plain.contains(FrameType::Disconnect) && plain.contains(FrameType::HandshakeResp));
        for (length, sealed_fits, plain_fits) in [
            (1, false, false),
            (2, false, true),
            (41, false, true),
            (42, true, true),
            (1024, true, true),
            (1025, true, false),
            (1064, true, false),
            (1065, false, false),
        ] {
            let header = announced(FrameType::Disconnect, length);
            assert_eq!(read_header(header, ALL).is_ok(), sealed_fits, "{length} sealed");
            assert_eq!(read_header(header, plain).is_ok(), plain_fits, "{length} plain");
        }
        let length = 50;
        assert!(read_header(announced(FrameType::HandshakeResp, length), plain).is_ok());
    }

    #[test]
    fn only_named_bytes_are_types() {
        for byte in 0..=u8::MAX {
            let known = TABLE.iter().any(|row| row.0 == byte);
            assert_eq!(FrameType::from_byte(byte).is_some(), known, "{byte:#04x}");
            if !known {
                let header = [byte, 0, 0, 0, 48];
                assert_eq!(read_header(header, ALL), Err(FrameError::UnknownType(byte)));
            }
        }
    }

    #[test]
    fn a_set_allows_its_members_only() {
        for member in FrameType::ALL {
            let set = FrameSet::of(&[member]);
            for kind in FrameType::ALL {
                let result = read_header(announced(kind, *kind.payload_lengths().start()), set);
                match kind == member {
                    true => assert!(result.is_ok()),
                    false => assert_eq!(result, Err(FrameError::NotAllowed(kind))),
                }
                assert!(set.with(kind).contains(kind) && set.with(kind).contains(member));
            }
        }
        // Permission is decided ahead of the length.
        let header = announced(FrameType::IpPacket, 0);
        let none = FrameSet::of(&[]);
        assert_eq!(read_header(header, none), Err(FrameError::NotAllowed(FrameType::IpPacket)));
    }

    #[test]
    fn frames_come_off_one_by_one() {
        let mut message = Vec::new();
        for (kind, fill) in [(FrameType::Keepalive, 1), (FrameType::KeepaliveAck, 2)] {
            message.extend(header(kind, 48));
            message.extend([fill; 48]);
        }
        let (first, rest) = split_frame(&mut message, ALL).unwrap();
        assert_eq!((first.kind, first.header), (FrameType::Keepalive, [0x20, 0, 0, 0, 48]));
        assert_eq!(first.payload, [1; 48]);
        let (second, rest) = split_frame(rest, ALL).unwrap();
        assert_eq!((second.kind, &*second.payload), (FrameType::KeepaliveAck, &[2; 48][..]));
        assert!(rest.is_empty());
        assert_eq!(split_frame(rest, ALL), Err(FrameError::Empty));
    }

    #[test]
    fn a_message_cut_anywhere_is_refused() {
        let mut whole = header(FrameType::Keepalive, 48).to_vec();
        whole.extend([7; 48]);
        for length in 0..whole.len() {
            let expected = match length {
                0 => FrameError::Empty,
                1..HEADER_LEN => FrameError::CutHeader,
                _ => FrameError::CutPayload,
            };
            assert_eq!(split_frame(&mut whole.clone()[..length], ALL), Err(expected));
            assert_eq!(expected.close_code(), CloseCode::ProtocolError);
        }
    }

    proptest! {
        #[test]
        fn any_message_is_frames_up_to_its_fault(
            frames in prop::collection::vec((prop::sample::select(&FrameType::ALL), 0..100_usize), 0..4),
            tail in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut message = Vec::new();
            for (kind, more) in frames {
                let length = *kind.payload_lengths().start() + more;
                message.extend(announced(kind, length));
                message.resize(message.len() + length, 0);
            }
            message.extend(tail);
            let whole = message.clone();
            let mut rest = &mut message[..];
            let mut taken = Vec::new();
            while let Ok((frame, others)) = split_frame(rest, ALL) {
                prop_assert!(frame.kind.payload_lengths().contains(&frame.payload.len()));
                taken.extend_from_slice(&frame.header);
                taken.extend_from_slice(frame.payload);
                rest = others;
            }
            prop_assert!(whole.starts_with(&taken));
        }
    }

    #[test]
    fn sealed_types_have_plaintext_lengths() {
        for kind in FrameType::ALL {
            let sealed = !matches!(kind as u8, 0x01..=0x03 | 0x30..=0x32);
            assert_eq!(kind.plaintext_lengths().is_some(), sealed);
        }
        assert_eq!(FrameType::IpPacket.plaintext_lengths(), Some(0..=65_535));
        assert_eq!(FrameType::Keepalive.plaintext_lengths(), Some(8..=8));
        assert_eq!(FrameType::Disconnect.plaintext_lengths(), Some(2..=1024));
    }
}
