//! Bytes in, whole messages out: the receiving half of a WebSocket, without I/O.
//!
//! One buffer holds the message that is being put together and the bytes behind it that are not yet
//! understood:
//!
//! ```text
//!           message.start   message.end      parsed            end      data.len()
//! ──────────┬───────────────┬────────────────┬─────────────────┬────────┐
//!   free    │ payload so far│ headers, pings │ not understood  │  room  │
//! ──────────┴───────────────┴────────────────┴─────────────────┴────────┘
//! ```
//!
//! An unfragmented payload is unmasked where it was read; fragments are moved down to their predecessors.
//! A byte is moved at most once for that, at most once to the buffer's front, and when the buffer doubles.

use std::ops::Range;

use super::frame::{self, CONTROL_MAX, ControlFrame, HEADER_MAX, Header, Kind, Role};

/// What an idle connection keeps to read into: enough for a few packets or any handshake message's start.
pub(super) const IDLE_BUFFER: usize = 4 * 1024;

/// Up to where a buffer grows for speed alone: beyond it fewer system calls no longer show. A peer whose
/// messages are still limited to a hello gets no more than one of those.
const BUSY_BUFFER: usize = 64 * 1024;

/// How many frames one message may come in (PROTOCOL §1).
const FRAGMENT_LIMIT: u32 = 1024;

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A whole message; see [`Assembly::message`].
    Message,
    /// A Ping, Pong or Close.
    Control(ControlFrame),
}

/// Why the peer's bytes cannot be a WebSocket of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Against RFC 6455 or PROTOCOL §1.
    Protocol(&'static str),
    /// A message over the limit was announced.
    TooLong,
}

impl From<&'static str> for Fault {
    fn from(reason: &'static str) -> Self {
        Self::Protocol(reason)
    }
}

/// The data frame whose payload is being read.
#[derive(Debug)]
struct Payload {
    remaining: usize,
    mask: [u8; 4],
    is_final: bool,
}

/// Puts messages together. Call [`Self::next`] until it has nothing more, then read into
/// [`Self::room`] and say how much with [`Self::filled`].
pub(super) struct Assembly {
    role: Role,
    limit: usize,
    data: Vec<u8>,
    /// Behind the last byte read.
    end: usize,
    /// Behind the last byte understood.
    parsed: usize,
    /// The current message's payload so far; after [`Event::Message`] the whole.
    message: Range<usize>,
    /// Frames of the current message so far; 0 between messages.
    fragments: u32,
    payload: Option<Payload>,
    /// The message has been handed out and goes with the next call.
    delivered: bool,
    /// The last read left no room: the peer has more to say than the buffer takes.
    overfull: bool,
}

impl Assembly {
    /// `leftover` was read together with the HTTP head.
    pub(super) fn new(role: Role, limit: usize, leftover: &[u8]) -> Self {
        Self {
            role,
            limit,
            data: leftover.to_vec(),
            end: leftover.len(),
            parsed: 0,
            message: 0..0,
            fragments: 0,
            payload: None,
            delivered: false,
            overfull: false,
        }
    }

    /// Sets the longest message, in bytes; holds from the next data frame's header on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The message, until the next call of [`Self::next`]; empty when there is none.
    pub(super) fn message(&mut self) -> &mut [u8] {
        let range = if self.delivered { self.message.clone() } else { 0..0 };
        &mut self.data[range]
    }

    /// Understands as much as there is. `None` means that more must be read. After an error the bytes
    /// have no meaning any more.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Fault> {
        self.delivered = false;
        loop {
            if let Some(payload) = &mut self.payload {
                let available = payload.remaining.min(self.end - self.parsed);
                payload.remaining -= available;
                let mask = payload.mask;
                payload.mask = frame::advance_mask(mask, available);
                let (whole, is_final) = (payload.remaining == 0, payload.is_final);
                self.append_payload(available, mask);
                if !whole {
                    return Ok(None);
                }
                self.payload = None;
                if is_final {
                    return self.end_message().map(Some);
                }
            }
            let Some(header) = Header::parse(&self.data[self.parsed..self.end], self.role)? else {
                return Ok(None);
            };
            if header.kind.is_control() {
                return Ok(self.take_control(&header).map(Event::Control));
            }
            self.begin_frame(&header)?;
        }
    }

    /// Where to read to; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.close_gap();
        let need = match &self.payload {
            Some(payload) => payload.remaining,
            None => HEADER_MAX + CONTROL_MAX - (self.end - self.parsed),
        };
        let room = self.data.len() - self.end;
        if self.base() == self.end || room < need.max(self.data.len() / 4) {
            self.move_to_front();
        }
        if self.overfull || self.end == self.data.len() {
            self.grow(need);
        }
        &mut self.data[self.end..]
    }

    /// Tells that `read` bytes of [`Self::room`] have been filled.
    pub(super) fn filled(&mut self, read: usize) {
        self.end += read;
        self.overfull = self.end == self.data.len();
    }

    /// Drops what is buffered: after an error nothing is understood any more.
    pub(super) fn discard(&mut self) {
        self.parsed = self.end;
        self.fragments = 0;
        self.payload = None;
    }

    /// Gives back what the buffer has grown beyond its contents and an idle connection's needs.
    pub(super) fn shrink(&mut self) {
        self.move_to_front();
        let keep = self.end.max(IDLE_BUFFER);
        if self.data.len() > keep {
            self.data.truncate(keep);
            self.data.shrink_to_fit();
        }
        self.overfull = false;
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.data.capacity()
    }

    /// A data frame's header: its payload belongs to the message in hand, or begins one.
    fn begin_frame(&mut self, header: &Header) -> Result<(), Fault> {
        match (header.kind, self.fragments) {
            (Kind::Continuation, 0) => return Err("continuation of no message".into()),
            (Kind::Binary, 1..) => return Err("message inside another".into()),
            (_, FRAGMENT_LIMIT..) => return Err("more than 1,024 fragments".into()),
            _ => {}
        }
        self.parsed += header.size;
        if self.fragments == 0 {
            self.message = self.parsed..self.parsed;
        }
        // Refused as announced: no byte of such a payload is waited for, nor room made for it.
        let remaining = match usize::try_from(header.length) {
            Ok(length) if length <= self.limit.saturating_sub(self.message.len()) => length,
            _ => return Err(Fault::TooLong),
        };
        self.fragments += 1;
        self.payload = Some(Payload { remaining, mask: header.mask, is_final: header.is_final });
        Ok(())
    }

    /// Unmasks the next `length` bytes and makes them the message's end.
    fn append_payload(&mut self, length: usize, mask: [u8; 4]) {
        let source = self.parsed..self.parsed + length;
        if self.role == Role::Server {
            frame::apply_mask(&mut self.data[source.clone()], mask);
        }
        self.parsed = source.end;
        if source.start != self.message.end {
            self.data.copy_within(source, self.message.end);
        }
        self.message.end += length;
    }

    fn end_message(&mut self) -> Result<Event, Fault> {
        if self.message.is_empty() {
            return Err("empty message".into());
        }
        self.fragments = 0;
        self.delivered = true;
        Ok(Event::Message)
    }

    /// A control frame is taken only whole; it is small enough to wait for.
    fn take_control(&mut self, header: &Header) -> Option<ControlFrame> {
        let start = self.parsed + header.size;
        let end = start + header.length as usize;
        if end > self.end {
            return None;
        }
        frame::apply_mask(&mut self.data[start..end], header.mask);
        self.parsed = end;
        Some(ControlFrame::new(header.kind, &self.data[start..end]))
    }

    /// Where the bytes begin that are still needed.
    fn base(&self) -> usize {
        if self.fragments > 0 || self.delivered { self.message.start } else { self.parsed }
    }

    /// Closes the gap that headers and control frames left behind the message. What has to move is the
    /// beginning of one control frame or header, so this is cheap, and a peer that cuts its pings just so
    /// cannot make the buffer grow.
    fn close_gap(&mut self) {
        if self.fragments > 0 && self.parsed > self.message.end {
            self.data.copy_within(self.parsed..self.end, self.message.end);
            self.end -= self.parsed - self.message.end;
            self.parsed = self.message.end;
        }
    }

    fn move_to_front(&mut self) {
        let base = self.base();
        if base > 0 {
            self.data.copy_within(base..self.end, 0);
            self.end -= base;
            self.parsed -= base;
            self.message = self.message.start.saturating_sub(base)..self.message.end.saturating_sub(base);
        }
    }

    /// Doubles the buffer: while that is for speed, up to [`BUSY_BUFFER`]; beyond it only as far as the
    /// frame goes that has been announced and keeps coming.
    fn grow(&mut self, need: usize) {
        let doubled = self.data.len() * 2;
        let busy = BUSY_BUFFER.min(self.limit + HEADER_MAX + CONTROL_MAX);
        let target = doubled.min(busy.max(self.end + need)).max(IDLE_BUFFER);
        if target > self.data.len() {
            self.data.reserve_exact(target - self.data.len());
            self.data.resize(target, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::frame::{EncodedHeader, apply_mask};

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// One frame as a peer of `role` receives it.
    fn frame(role: Role, kind: Kind, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = (role == Role::Server).then_some(MASK);
        let mut bytes = EncodedHeader::new(kind, payload.len(), mask).as_slice().to_vec();
        if !is_final {
            bytes[0] &= 0x7f;
        }
        let start = bytes.len();
        bytes.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(&mut bytes[start..], mask);
        }
        bytes
    }

    /// Feeds `bytes` in reads of at most `chunk`, and gives what came out until the end or a fault.
    struct Fed {
        messages: Vec<Vec<u8>>,
        controls: Vec<ControlFrame>,
        fault: Option<Fault>,
    }

    fn feed(assembly: &mut Assembly, mut bytes: &[u8], mut chunk: impl FnMut() -> usize) -> Fed {
        let mut fed = Fed { messages: Vec::new(), controls: Vec::new(), fault: None };
        loop {
            match assembly.next() {
                Ok(Some(Event::Message)) => fed.messages.push(assembly.message().to_vec()),
                Ok(Some(Event::Control(frame))) => fed.controls.push(frame),
                Ok(None) if bytes.is_empty() => return fed,
                Ok(None) => {
                    let room = assembly.room();
                    assert!(!room.is_empty());
                    let count = room.len().min(bytes.len()).min(chunk().max(1));
                    room[..count].copy_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    assembly.filled(count);
                }
                Err(fault) => {
                    fed.fault = Some(fault);
                    return fed;
                }
            }
        }
    }

    fn assembly(role: Role) -> Assembly {
        Assembly::new(role, 8_197, &[])
    }

    fn fault_of(role: Role, bytes: &[u8]) -> Option<Fault> {
        feed(&mut assembly(role), bytes, || usize::MAX).fault
    }

    #[test]
    fn fragments_with_pings_between_become_one_message() {
        for role in [Role::Server, Role::Client] {
            let bytes = [
                frame(role, Kind::Binary, false, b"one "),
                frame(role, Kind::Ping, true, b"first"),
                frame(role, Kind::Continuation, false, b""),
                frame(role, Kind::Ping, true, &[7; 125]),
                frame(role, Kind::Pong, true, b""),
                frame(role, Kind::Continuation, true, b"message"),
                frame(role, Kind::Binary, true, b"another"),
            ]
            .concat();
            for chunk in 1..bytes.len() {
                let fed = feed(&mut assembly(role), &bytes, || chunk);
                assert_eq!(fed.messages, [&b"one message"[..], b"another"], "reads of {chunk}");
                let expected = [
                    ControlFrame::new(Kind::Ping, b"first"),
                    ControlFrame::new(Kind::Ping, &[7; 125]),
                    ControlFrame::new(Kind::Pong, b""),
                ];
                assert_eq!(fed.controls, expected, "reads of {chunk}");
                assert_eq!(fed.fault, None);
            }
        }
    }

    #[test]
    fn what_was_read_with_the_http_head_comes_first() {
        let bytes = frame(Role::Client, Kind::Binary, true, b"early");
        for cut in 0..=bytes.len() {
            let mut assembly = Assembly::new(Role::Client, 8_197, &bytes[..cut]);
            assert_eq!(feed(&mut assembly, &bytes[cut..], || 1).messages, [b"early"]);
        }
    }

    #[test]
    fn fragments_follow_a_beginning_and_end() {
        let role = Role::Client;
        let lone = frame(role, Kind::Continuation, true, b"x");
        assert_eq!(fault_of(role, &lone), Some(Fault::Protocol("continuation of no message")));
        let nested = [frame(role, Kind::Binary, false, b"x"), frame(role, Kind::Binary, true, b"y")].concat();
        assert_eq!(fault_of(role, &nested), Some(Fault::Protocol("message inside another")));
        for empty in [
            frame(role, Kind::Binary, true, b""),
            [frame(role, Kind::Binary, false, b""), frame(role, Kind::Continuation, true, b"")].concat(),
        ] {
            assert_eq!(fault_of(role, &empty), Some(Fault::Protocol("empty message")));
        }
    }

    #[test]
    fn a_message_comes_in_1024_fragments_at_most() {
        let role = Role::Server;
        let mut bytes = frame(role, Kind::Binary, false, b"a");
        for _ in 0..1022 {
            bytes.extend(frame(role, Kind::Continuation, false, b"b"));
        }
        let last = [bytes.clone(), frame(role, Kind::Continuation, true, b"c")].concat();
        // The count starts anew with each message.
        let fed = feed(&mut assembly(role), &[last.clone(), last].concat(), || usize::MAX);
        assert_eq!(fed.messages.iter().map(Vec::len).collect::<Vec<_>>(), [1024, 1024]);

        bytes.extend(frame(role, Kind::Continuation, false, b"c"));
        assert_eq!(fault_of(role, &bytes), None);
        bytes.extend(frame(role, Kind::Continuation, true, b"d"));
        assert_eq!(fault_of(role, &bytes), Some(Fault::Protocol("more than 1,024 fragments")));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_when_it_is_announced() {
        let role = Role::Server;
        let whole = frame(role, Kind::Binary, true, &[1; 8_197]);
        assert_eq!(fault_of(role, &whole), None);
        let header = |kind, length| EncodedHeader::new(kind, length, Some(MASK)).as_slice().to_vec();
        assert_eq!(fault_of(role, &header(Kind::Binary, 8_198)), Some(Fault::TooLong));
        assert_eq!(fault_of(role, &header(Kind::Binary, usize::MAX >> 1)), Some(Fault::TooLong));

        let begun = frame(role, Kind::Binary, false, &[1; 8_000]);
        let fits = [begun.clone(), header(Kind::Continuation, 197)].concat();
        assert_eq!(fault_of(role, &fits), None);
        let exceeds = [begun, header(Kind::Continuation, 198)].concat();
        assert_eq!(fault_of(role, &exceeds), Some(Fault::TooLong));
    }

    #[test]
    fn the_limit_may_change_between_messages() {
        let role = Role::Server;
        let mut assembly = assembly(role);
        let long = frame(role, Kind::Binary, true, &[1; 262_144]);
        assembly.set_limit(262_144);
        assert_eq!(feed(&mut assembly, &long, || 16_384).messages.len(), 1);
        assembly.set_limit(262_143);
        assert_eq!(feed(&mut assembly, &long, || 16_384).fault, Some(Fault::TooLong));
    }

    #[test]
    fn an_announced_length_alone_takes_no_memory() {
        let mut assembly = Assembly::new(Role::Server, 262_144, &[]);
        let header = EncodedHeader::new(Kind::Binary, 262_144, Some(MASK));
        feed(&mut assembly, header.as_slice(), || usize::MAX);
        assert_eq!(assembly.memory(), IDLE_BUFFER);
        feed(&mut assembly, &[0; 10_000], || usize::MAX);
        assert!(assembly.memory() <= 4 * 10_000, "{}", assembly.memory());
    }

    #[test]
    fn the_buffer_is_bounded_whatever_comes_between_fragments() {
        let role = Role::Server;
        let mut assembly = Assembly::new(role, 262_144, &[]);
        feed(&mut assembly, &frame(role, Kind::Binary, false, &[1; 1000]), || usize::MAX);
        let ping = frame(role, Kind::Ping, true, &[2; 125]);
        let pings = ping.repeat(20_000);
        // Reads end inside a ping each time, so the buffer never runs empty.
        let fed = feed(&mut assembly, &pings, || ping.len() - 1);
        assert_eq!((fed.controls.len(), fed.fault), (20_000, None));
        assert!(assembly.memory() <= 2 * IDLE_BUFFER, "{}", assembly.memory());
        let last = feed(&mut assembly, &frame(role, Kind::Continuation, true, b"end"), || 1);
        assert_eq!(last.messages[0].len(), 1003);
    }

    #[test]
    fn a_peer_without_a_session_gets_a_small_buffer() {
        let mut assembly = assembly(Role::Server);
        let stream = frame(Role::Server, Kind::Ping, true, &[1; 125]).repeat(10_000);
        assert_eq!(feed(&mut assembly, &stream, || usize::MAX).controls.len(), 10_000);
        assert!(assembly.memory() <= 2 * 8_197, "{}", assembly.memory());
    }

    #[test]
    fn the_buffer_grows_with_traffic_and_is_given_back() {
        let role = Role::Client;
        let mut assembly = Assembly::new(role, 262_144, &[]);
        let stream = frame(role, Kind::Binary, true, &[1; 1400]).repeat(1000);
        assert_eq!(feed(&mut assembly, &stream, || usize::MAX).messages.len(), 1000);
        assert_eq!(assembly.memory(), BUSY_BUFFER);
        let big = frame(role, Kind::Binary, true, &[1; 131_077]).repeat(4);
        assert_eq!(feed(&mut assembly, &big, || usize::MAX).messages.len(), 4);
        assert!((131_077..=2 * 131_077).contains(&assembly.memory()), "{}", assembly.memory());
        assembly.shrink();
        assert_eq!(assembly.memory(), IDLE_BUFFER);
    }

    #[test]
    fn shrinking_loses_nothing() {
        let role = Role::Client;
        let message: Vec<u8> = (0..60_000_u32).map(|i| i as u8).collect();
        let bytes = frame(role, Kind::Binary, true, &message).repeat(3);
        for cut in [1, 3, 100, 5000, 60_003, 60_004, 60_005, 130_000] {
            let mut assembly = Assembly::new(role, 262_144, &[]);
            let mut messages = feed(&mut assembly, &bytes[..cut], || 32_768).messages;
            assembly.shrink();
            messages.extend(feed(&mut assembly, &bytes[cut..], || 32_768).messages);
            assert!(messages.len() == 3 && messages.iter().all(|m| *m == message), "cut at {cut}");
        }

        // The message in hand stays in hand, and what was read behind it is still there.
        let mut assembly = Assembly::new(role, 262_144, &bytes[..130_000]);
        assert_eq!(assembly.next(), Ok(Some(Event::Message)));
        assert_eq!(assembly.next(), Ok(Some(Event::Message)));
        assembly.shrink();
        assert_eq!(assembly.message(), message);
        assert_eq!(feed(&mut assembly, &bytes[130_000..], || 100).messages, [message]);
    }

    #[derive(Debug, Clone)]
    enum Piece {
        Message(Vec<Vec<u8>>),
        Ping(Vec<u8>),
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
        let piece = prop_oneof![
            4 => prop::collection::vec(prop_oneof![3 => bytes(300), 1 => bytes(9000)], 1..6)
                .prop_filter("no empty message", |parts| parts.iter().any(|part| !part.is_empty()))
                .prop_map(Piece::Message),
            1 => bytes(126).prop_map(Piece::Ping),
        ];
        prop::collection::vec(piece, 1..12)
    }

    proptest! {
        #[test]
        fn any_fragmentation_and_any_reads_give_the_same_messages(
            pieces in pieces(),
            server in any::<bool>(),
            reads in prop::collection::vec(prop_oneof![1..20_usize, 1..20_000_usize], 1..40),
            shrink in any::<bool>(),
        ) {
            let role = if server { Role::Server } else { Role::Client };
            let (mut bytes, mut messages, mut pings) = (Vec::new(), Vec::new(), Vec::new());
            for piece in &pieces {
                match piece {
                    Piece::Ping(payload) => {
                        bytes.extend(frame(role, Kind::Ping, true, payload));
                        pings.push(ControlFrame::new(Kind::Ping, payload));
                    }
                    Piece::Message(parts) => {
                        for (i, part) in parts.iter().enumerate() {
                            let kind = if i == 0 { Kind::Binary } else { Kind::Continuation };
                            bytes.extend(frame(role, kind, i == parts.len() - 1, part));
                        }
                        messages.push(parts.concat());
                    }
                }
            }
            let mut assembly = Assembly::new(role, 262_144, &[]);
            let mut reads = reads.iter().cycle();
            let cut = if shrink { bytes.len() / 2 } else { 0 };
            let mut fed = feed(&mut assembly, &bytes[..cut], || *reads.next().unwrap());
            if shrink {
                assembly.shrink();
            }
            let rest = feed(&mut assembly, &bytes[cut..], || *reads.next().unwrap());
            fed.messages.extend(rest.messages);
            fed.controls.extend(rest.controls);
            prop_assert_eq!(fed.messages, messages);
            prop_assert_eq!(fed.controls, pings);
            prop_assert_eq!((fed.fault, rest.fault), (None, None));
        }

        #[test]
        fn no_bytes_make_it_panic_or_hoard(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x82), Just(0x02), Just(0x80), Just(0x89), Just(0)], 0..600),
            server in any::<bool>(),
            chunk in 1..50_usize,
        ) {
            let role = if server { Role::Server } else { Role::Client };
            let mut assembly = Assembly::new(role, 8_197, &[]);
            feed(&mut assembly, &bytes, || chunk);
            prop_assert!(assembly.memory() <= 2 * 8_197);
        }
    }
}
