//! One WebSocket frame (RFC 6455 §5): its header, its mask, the payloads of control frames.
//!
//! The header's bytes are tungstenite's business; what PROTOCOL §1 demands of a header beyond its syntax
//! is checked here, as soon as the header is there.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_MAX: usize = 14;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub(super) const CONTROL_MAX: usize = 125;

/// What a proxy closes with whose server is not there: registered with IANA later than RFC 6455, and not yet known to
/// tungstenite.
const BAD_GATEWAY: u16 = 1014;

/// The length of a mask.
pub(super) const MASK_LENGTH: usize = 4;

/// A mask that changes nothing: what a server's frames count as masked with.
pub(super) const NO_MASK: [u8; 4] = [0; 4];

/// Which end this is; it decides who masks (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// What a frame is for. There is no text: PROTOCOL §1 has no use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Binary,
    Continuation,
    Close,
    Ping,
    Pong,
}

impl Kind {
    fn of(opcode: OpCode) -> Result<Self, &'static str> {
        match opcode {
            OpCode::Data(Data::Binary) => Ok(Self::Binary),
            OpCode::Data(Data::Continue) => Ok(Self::Continuation),
            OpCode::Data(Data::Text) => Err("text message"),
            OpCode::Control(Control::Close) => Ok(Self::Close),
            OpCode::Control(Control::Ping) => Ok(Self::Ping),
            OpCode::Control(Control::Pong) => Ok(Self::Pong),
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => Err("reserved opcode"),
        }
    }

    fn opcode(self) -> OpCode {
        match self {
            Self::Binary => OpCode::Data(Data::Binary),
            Self::Continuation => OpCode::Data(Data::Continue),
            Self::Close => OpCode::Control(Control::Close),
            Self::Ping => OpCode::Control(Control::Ping),
            Self::Pong => OpCode::Control(Control::Pong),
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A received header that RFC 6455 allows in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) is_final: bool,
    /// [`NO_MASK`] when the frame is not masked.
    pub(super) mask: [u8; 4],
    /// Of the payload, in bytes; not yet compared with any limit.
    pub(super) length: u64,
    /// Of the header itself, in bytes.
    pub(super) size: usize,
}

impl Header {
    /// Reads the header that `bytes` begin with; `None` when they end inside it. `role` is the reader's.
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<Self>, &'static str> {
        let mut cursor = Cursor::new(bytes);
        let (header, length) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(None),
            Err(_) => return Err("reserved opcode"),
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err("reserved bit");
        }
        let kind = Kind::of(header.opcode)?;
        let mask = match (role, header.mask) {
            (Role::Server, Some(mask)) => mask,
            (Role::Client, None) => NO_MASK,
            (Role::Server, None) => return Err("frame of a client without mask"),
            (Role::Client, Some(_)) => return Err("frame of a server with mask"),
        };
        let size = header.len(length);
        if cursor.position() != size as u64 {
            return Err("length longer than it needs to be");
        }
        if length >> 63 != 0 {
            return Err("length of 2^63 or more");
        }
        if kind.is_control() && (!header.is_final || length > CONTROL_MAX as u64) {
            return Err("control frame fragmented or over 125 bytes");
        }
        Ok(Some(Self { kind, is_final: header.is_final, mask, length, size }))
    }
}

/// A header to be sent, in the bytes it takes.
#[derive(Clone, Copy)]
pub(super) struct EncodedHeader {
    bytes: [u8; HEADER_MAX],
    size: usize,
}

impl EncodedHeader {
    /// The header of an unfragmented frame.
    pub(super) fn new(kind: Kind, length: usize, mask: Option<[u8; 4]>) -> Self {
        let header = FrameHeader { opcode: kind.opcode(), mask, ..FrameHeader::default() };
        let mut bytes = [0; HEADER_MAX];
        let written = header.format(length as u64, &mut bytes.as_mut_slice());
        debug_assert!(written.is_ok(), "every header fits into 14 bytes");
        Self { bytes, size: header.len(length as u64) }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// The payload of a control frame, and which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControlFrame {
    kind: Kind,
    length: u8,
    bytes: [u8; CONTROL_MAX],
}

impl ControlFrame {
    /// `payload` is at most 125 bytes, as [`Header::parse`] has seen to or its writer knows.
    pub(super) fn new(kind: Kind, payload: &[u8]) -> Self {
        debug_assert!(kind.is_control());
        let length = payload.len().min(CONTROL_MAX);
        let mut bytes = [0; CONTROL_MAX];
        bytes[..length].copy_from_slice(&payload[..length]);
        Self { kind, length: length as u8, bytes }
    }

    /// A Close; the reason is cut to the 123 bytes that fit, between two characters.
    pub(super) fn close(code: u16, reason: &str) -> Self {
        let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - 2)];
        Self::new(Kind::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Appends the whole frame.
    pub(super) fn encode(&self, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
        out.extend_from_slice(EncodedHeader::new(self.kind, self.payload().len(), mask).as_slice());
        let start = out.len();
        out.extend_from_slice(self.payload());
        if let Some(mask) = mask {
            apply_mask(&mut out[start..], mask);
        }
    }

    /// Code and reason of a Close (RFC 6455 §5.5.1, §7.4).
    pub(super) fn close_reason(&self) -> Result<(Option<u16>, String), &'static str> {
        let Some((code, reason)) = self.payload().split_first_chunk() else {
            return if self.payload().is_empty() { Ok((None, String::new())) } else { Err("cut close code") };
        };
        let code = u16::from_be_bytes(*code);
        if code != BAD_GATEWAY && !CloseCode::from(code).is_allowed() {
            return Err("close code that must not be sent");
        }
        let reason = std::str::from_utf8(reason).map_err(|_| "close reason that is not UTF-8")?;
        Ok((Some(code), reason.to_owned()))
    }
}

/// Masks or unmasks `bytes`, the first of which meets the mask's first byte (RFC 6455 §5.3).
pub(super) fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let mut wide = [0; 16];
    wide.as_chunks_mut::<4>().0.fill(mask);
    let wide = u128::from_ne_bytes(wide);
    let (blocks, rest) = bytes.as_chunks_mut::<16>();
    for block in blocks {
        *block = (u128::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The mask for what follows the first `masked` bytes.
pub(super) fn advance_mask(mut mask: [u8; 4], masked: usize) -> [u8; 4] {
    mask.rotate_left(masked % 4);
    mask
}

/// A mask for one frame: unpredictable, and not the one that leaves the payload as it is.
pub(super) fn fresh_mask() -> [u8; 4] {
    loop {
        let mask: [u8; 4] = rand::random();
        if mask != NO_MASK {
            return mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8], role: Role) -> Result<Option<Header>, &'static str> {
        Header::parse(bytes, role)
    }

    fn binary(length: u64, size: usize) -> Option<Header> {
        Some(Header { kind: Kind::Binary, is_final: true, mask: NO_MASK, length, size })
    }

    #[test]
    fn each_form_of_length_is_read_in_its_range_only() {
        let role = Role::Client;
        assert_eq!(parse(&[0x82, 0], role), Ok(binary(0, 2)));
        assert_eq!(parse(&[0x82, 125], role), Ok(binary(125, 2)));
        assert_eq!(parse(&[0x82, 126, 0, 126], role), Ok(binary(126, 4)));
        assert_eq!(parse(&[0x82, 126, 255, 255], role), Ok(binary(65_535, 4)));
        assert_eq!(parse(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], role), Ok(binary(65_536, 10)));
        let most = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(parse(&most, role), Ok(binary((1 << 63) - 1, 10)));

        for too_wide in [&[0x82, 126, 0, 125][..], &[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255]] {
            assert_eq!(parse(too_wide, role), Err("length longer than it needs to be"));
        }
        let too_long = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&too_long, role), Err("length of 2^63 or more"));
    }

    #[test]
    fn a_header_is_waited_for_until_it_is_whole() {
        let header = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut], Role::Server), Ok(None), "{cut} bytes");
        }
        let expected = Header { mask: [1, 2, 3, 4], ..binary(65_536, 14).unwrap() };
        assert_eq!(parse(&header, Role::Server), Ok(Some(expected)));
    }

    #[test]
    fn clients_mask_and_servers_do_not() {
        assert_eq!(parse(&[0x82, 1], Role::Server), Err("frame of a client without mask"));
        assert_eq!(parse(&[0x82, 0x81, 1, 2, 3, 4], Role::Client), Err("frame of a server with mask"));
        // RFC 6455 allows any key, even this one; only our own frames never carry it.
        let zero = parse(&[0x82, 0x81, 0, 0, 0, 0], Role::Server).unwrap().unwrap();
        assert_eq!((zero.mask, zero.size), (NO_MASK, 6));
    }

    #[test]
    fn only_what_rfc_6455_defines_is_taken() {
        for first in [0xc2, 0xa2, 0x92] {
            assert_eq!(parse(&[first, 1], Role::Client), Err("reserved bit"));
        }
        for opcode in (3..=7).chain(0xb..=0xf) {
            assert_eq!(parse(&[0x80 | opcode, 1], Role::Client), Err("reserved opcode"));
        }
        assert_eq!(parse(&[0x81, 1], Role::Client), Err("text message"));
        for opcode in 8..=10 {
            let error = "control frame fragmented or over 125 bytes";
            assert_eq!(parse(&[opcode, 1], Role::Client), Err(error));
            assert_eq!(parse(&[0x80 | opcode, 126, 0, 126], Role::Client), Err(error));
            assert!(matches!(parse(&[0x80 | opcode, 125], Role::Client), Ok(Some(_))));
        }
    }

    #[test]
    fn masking_by_blocks_equals_masking_by_bytes() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..100).collect();
        for length in 0..plain.len() {
            for cut in 0..=length {
                let mut masked = plain[..length].to_vec();
                apply_mask(&mut masked[..cut], mask);
                apply_mask(&mut masked[cut..], advance_mask(mask, cut));
                let expected: Vec<u8> =
                    plain[..length].iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
                assert_eq!(masked, expected, "{length} bytes in two, cut at {cut}");
            }
        }
    }

    #[test]
    fn close_payloads() {
        let reason = |payload: &[u8]| ControlFrame::new(Kind::Close, payload).close_reason();
        assert_eq!(reason(b""), Ok((None, String::new())));
        assert_eq!(reason(b"\x03\xe8"), Ok((Some(1000), String::new())));
        assert_eq!(reason(b"\x03\xf5bye"), Ok((Some(1013), "bye".into())));
        assert_eq!(reason(b"\x03\xf6"), Ok((Some(1014), String::new())));
        assert_eq!(reason(b"\x0b\xb8"), Ok((Some(3000), String::new())));
        assert_eq!(reason(b"\x13\x87"), Ok((Some(4999), String::new())));
        assert_eq!(reason(b"\x03"), Err("cut close code"));
        assert_eq!(reason(b"\x03\xe8\xff"), Err("close reason that is not UTF-8"));
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert_eq!(reason(&code.to_be_bytes()), Err("close code that must not be sent"), "{code}");
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let frame = ControlFrame::close(1001, &"ä".repeat(100));
        assert_eq!(frame.payload().len(), 2 + 122);
        assert_eq!(frame.close_reason(), Ok((Some(1001), "ä".repeat(61))));
        assert_eq!(ControlFrame::close(1001, &"a".repeat(200)).payload().len(), CONTROL_MAX);
    }

    #[test]
    fn masks_are_fresh() {
        let masks: std::collections::BTreeSet<_> = (0..100).map(|_| fresh_mask()).collect();
        assert!(masks.len() > 98 && !masks.contains(&NO_MASK));
    }

    #[test]
    fn frames_of_the_second_implementation() {
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/vectors/wire.json")).unwrap();
        let bytes = |value: &serde_json::Value| -> Vec<u8> {
            let hex = value.as_str().unwrap();
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
        };
        let mut seen = 0;
        for row in rows.iter().filter(|row| row["kind"] == "websocket") {
            seen += 1;
            let payload = bytes(&row["in"]["payload"]);
            let mask = row["in"].get("mask").map(|mask| bytes(mask).try_into().unwrap());
            let kind = match row["in"]["opcode"].as_u64().unwrap() {
                2 => Kind::Binary,
                9 => Kind::Ping,
                other => panic!("a row for opcode {other}"),
            };
            let mut frame = EncodedHeader::new(kind, payload.len(), mask).as_slice().to_vec();
            let size = frame.len();
            frame.extend_from_slice(&payload);
            apply_mask(&mut frame[size..], mask.unwrap_or(NO_MASK));
            assert_eq!(frame, bytes(&row["out"]["frame"]), "{}", row["name"]);
            if kind.is_control() {
                let mut encoded = Vec::new();
                ControlFrame::new(kind, &payload).encode(mask, &mut encoded);
                assert_eq!(encoded, frame, "{}", row["name"]);
            }

            let role = if mask.is_some() { Role::Server } else { Role::Client };
            let header = Header::parse(&frame, role).unwrap().unwrap();
            let (length, mask) = (payload.len() as u64, mask.unwrap_or(NO_MASK));
            assert_eq!(header, Header { kind, is_final: true, mask, length, size }, "{}", row["name"]);
        }
        assert_eq!(seen, 4);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(length in prop_oneof![0..200_usize, 65_000..70_000_usize], mask: Option<[u8; 4]>) {
            let encoded = EncodedHeader::new(Kind::Binary, length, mask);
            let role = if mask.is_some() { Role::Server } else { Role::Client };
            let size = encoded.as_slice().len();
            let expected = Header { mask: mask.unwrap_or(NO_MASK), ..binary(length as u64, size).unwrap() };
            prop_assert_eq!(parse(encoded.as_slice(), role), Ok(Some(expected)));
        }

        #[test]
        fn any_bytes_are_a_header_or_none(bytes in prop::collection::vec(any::<u8>(), 0..20), is_server: bool) {
            let role = if is_server { Role::Server } else { Role::Client };
            if let Ok(Some(header)) = parse(&bytes, role) {
                prop_assert!(header.size <= bytes.len().min(HEADER_MAX));
                // More bytes change nothing.
                prop_assert_eq!(parse(&bytes[..header.size], role), Ok(Some(header)));
            }
        }
    }
}
