//! Whom to tell that the way is interrupted: TCP senders whose segments are lost to an outage.
//!
//! A sender that hears nothing doubles its time to the next retransmission each time, and after an outage of
//! a minute is silent for up to another. An «unreachable» that quotes its retransmission tells it that the
//! way is gone and not congested: it takes the doubling back and tries on at short intervals (RFC 6069, which
//! Linux follows). It never ends an established connection (RFC 1122 §4.2.3.9), but would one that is being
//! opened: a SYN is left alone, and so are protocols other than TCP.

use std::collections::VecDeque;
use std::fmt;

use super::egress::quoted;
use super::header::{ACK, FIN, RST, SYN, TCP_FLAGS, TCP_HEADER, TCP_SEQUENCE, get32};
use super::ip::IpPacket;
use super::offload::{Offload, Record};
use super::upper::{Fragment, TCP, upper_layer};

/// Segments that are kept until they are answered, of one flow or of many. At about one retransmission a second
/// from each, half a second's of 64 flows.
pub const UNREACHABLE_MAX: usize = 32;

/// Bytes that are kept of a segment: the longest IPv4 and TCP headers, or IPv6's with as many options. A
/// sender needs the addresses, the ports and the sequence number (RFC 792, RFC 6069 §4).
const QUOTE: usize = 128;

/// The memory of [`UNREACHABLE_MAX`] segments, in bytes.
pub(crate) const UNREACHABLE_BYTES: usize = UNREACHABLE_MAX * size_of::<Quote>();

/// The beginnings of TCP segments that were lost for want of a way, to be answered by
/// [`Answers::unreachable`](super::Answers::unreachable): the latest [`UNREACHABLE_MAX`] of them.
///
/// Of each flow only those with its lowest sequence number, every time that they come: a sender compares it
/// with the oldest that it has not heard of (RFC 6069 §4), which is no other as long as all are lost.
#[derive(Default)]
pub struct Unreachable {
    quotes: VecDeque<Quote>,
}

/// The beginning of one segment.
#[derive(Clone)]
struct Quote {
    bytes: [u8; QUOTE],
    length: u8,
    /// Where its TCP header begins.
    transport: u8,
}

impl Unreachable {
    /// Notes a packet that is lost, if its sender is to be told; of a super-packet the first segment.
    ///
    /// `offload` was [checked](Offload::check), or the packet comes from the local kernel.
    pub fn note(&mut self, packet: &[u8], offload: Offload) {
        let Some(transport) = retransmittable(packet) else { return };
        if transport + TCP_HEADER > QUOTE {
            return;
        }
        let (flow, sequence) = (flow(packet, transport), get32(packet, transport + TCP_SEQUENCE));
        let of_flow = |quote: &Quote| quote.flow() == flow;
        if self.quotes.iter().any(|quote| of_flow(quote) && is_before(quote.sequence(), sequence)) {
            return;
        }
        self.quotes.retain(|quote| !of_flow(quote) || quote.sequence() == sequence);
        if self.quotes.len() >= UNREACHABLE_MAX {
            self.quotes.pop_front();
        }
        self.quotes.push_back(Quote::of(packet, offload, transport));
    }

    /// Nobody is to be told.
    pub fn is_empty(&self) -> bool {
        self.quotes.is_empty()
    }

    /// The beginnings of the segments, in the order in which they were lost. Their checksums are complete.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.quotes.iter().map(Quote::bytes)
    }

    /// The memory held, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.quotes.capacity() * size_of::<Quote>()
    }
}

impl fmt::Debug for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unreachable").field("segments", &self.quotes.len()).finish()
    }
}

impl Quote {
    /// The TCP header at `transport` fits.
    fn of(packet: &[u8], offload: Offload, transport: usize) -> Self {
        let (mut copy, mut room, mut record);
        let segment = if offload.is_none() {
            packet
        } else {
            (copy, room) = (packet.to_vec(), Vec::new());
            record = Record { packet: &mut copy, offload };
            quoted(&mut record, &mut room)
        };
        let length = segment.len().min(QUOTE);
        let mut bytes = [0; QUOTE];
        bytes[..length].copy_from_slice(&segment[..length]);
        // Both are at most QUOTE.
        Self { bytes, length: length as u8, transport: transport as u8 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn flow(&self) -> (&[u8], &[u8]) {
        flow(&self.bytes, self.transport.into())
    }

    fn sequence(&self) -> u32 {
        get32(&self.bytes, usize::from(self.transport) + TCP_SEQUENCE)
    }
}

/// Where the TCP header begins of a segment that its sender repeats until it is acknowledged, on a
/// connection that is established; it is there whole but for options. None of any other packet, nor of a
/// fragment.
///
/// `bytes` may be only the packet's beginning.
pub(super) fn retransmittable(bytes: &[u8]) -> Option<usize> {
    /// Offset of the header's length, in a TCP header.
    const DATA_OFFSET: usize = 12;

    let packet = IpPacket::parse_start(bytes).ok()?;
    let upper = upper_layer(bytes)?;
    if upper.protocol != TCP || upper.fragment != Fragment::Whole {
        return None;
    }
    let header = bytes.get(upper.offset..)?.first_chunk::<TCP_HEADER>()?;
    let flags = header[TCP_FLAGS];
    let data = upper.offset + usize::from(header[DATA_OFFSET] >> 4) * 4;
    let is_established = flags & (ACK | SYN | RST) == ACK;
    let is_repeated = flags & FIN != 0 || packet.total_len() > data;
    (is_established && is_repeated).then_some(upper.offset)
}

/// The addresses and the ports, of a packet whose headers were found.
fn flow(packet: &[u8], transport: usize) -> (&[u8], &[u8]) {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    (addresses, &packet[transport..transport + 4])
}

/// In the order of sequence numbers, which begin anew after the last (RFC 9293 §3.4).
fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) < 1 << 31
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::packet::ip::tests::{v4, v6};
    use crate::packet::segment;

    /// A segment of one of many connections from 192.0.2.1 to 10.8.0.2, or their like over IPv6, with so
    /// much payload.
    pub(crate) fn tcp(six: bool, port: u16, sequence: u32, flags: u8, payload: usize) -> Vec<u8> {
        let mut segment = vec![7; TCP_HEADER + payload];
        segment[..2].copy_from_slice(&port.to_be_bytes());
        segment[2..4].copy_from_slice(&443_u16.to_be_bytes());
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        (segment[12], segment[13]) = (0x50, flags);
        if six {
            v6("2001:db8::1", "fd00::2", TCP, &segment)
        } else {
            v4([192, 0, 2, 1], [10, 8, 0, 2], TCP, &segment)
        }
    }

    fn data(port: u16, sequence: u32) -> Vec<u8> {
        tcp(false, port, sequence, ACK, 1000)
    }

    fn noted(packets: &[Vec<u8>]) -> Vec<(u16, u32)> {
        let mut unreachable = Unreachable::default();
        packets.iter().for_each(|packet| unreachable.note(packet, Offload::NONE));
        assert!(unreachable.held_bytes() <= UNREACHABLE_BYTES);
        unreachable
            .iter()
            .map(|quote| (u16::from_be_bytes([quote[20], quote[21]]), get32(quote, 24)))
            .collect()
    }

    #[test]
    fn only_what_an_established_sender_repeats_is_noted() {
        let fragment = |field: u16| {
            let mut packet = data(1, 0);
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            packet
        };
        let fragment6 = |field: u16| {
            let segment = &tcp(true, 1, 0, ACK, 1000)[40..];
            let [high, low] = field.to_be_bytes();
            v6("2001:db8::1", "fd00::2", 44, &[&[TCP, 0, high, low, 0, 0, 0, 1], segment].concat())
        };
        for (what, packet, expected) in [
            ("data", data(1, 0), true),
            ("data over IPv6", tcp(true, 1, 0, ACK, 1), true),
            ("the last of a stream", tcp(false, 1, 0, ACK | FIN, 0), true),
            ("a question to connect", tcp(false, 1, 0, SYN, 0), false),
            ("one with data", tcp(false, 1, 0, SYN, 100), false),
            ("its answer", tcp(false, 1, 0, SYN | ACK, 0), false),
            ("a reset", tcp(false, 1, 0, RST, 0), false),
            ("a reset with data", tcp(true, 1, 0, RST | ACK, 100), false),
            ("an acknowledgement", tcp(false, 1, 0, ACK, 0), false),
            ("no flag", tcp(false, 1, 0, 0, 100), false),
            ("what must not be cut", fragment(0x4000), true),
            ("a first fragment", fragment(0x2000), false),
            ("a later fragment", fragment(100), false),
            ("an IPv6 packet in one fragment", fragment6(0), true),
            ("an IPv6 first fragment", fragment6(1), false),
            ("an IPv6 later fragment", fragment6(8), false),
            ("UDP", v4([192, 0, 2, 1], [10, 8, 0, 2], 17, &[0x10; 100]), false),
            ("ICMP", v4([192, 0, 2, 1], [10, 8, 0, 2], 1, &[0x10; 100]), false),
            ("half a header", data(1, 0)[..39].to_vec(), false),
            ("no packet", vec![0x10; 100], false),
            ("nothing", vec![], false),
        ] {
            let mut unreachable = Unreachable::default();
            unreachable.note(&packet, Offload::NONE);
            assert_eq!(!unreachable.is_empty(), expected, "{what}");
        }
    }

    #[test]
    fn each_loss_of_a_flows_oldest_segment_is_kept() {
        // A window of segments, then the first of them again and again.
        let window = (0..50).map(|number| data(1, number * 1000));
        let packets: Vec<_> = window.chain([data(1, 0), data(2, 9), data(1, 0)]).collect();
        assert_eq!(noted(&packets), [(1, 0), (1, 0), (2, 9), (1, 0)]);
        // An earlier one makes later ones void, also where the numbers begin anew.
        assert_eq!(noted(&[data(1, 10), data(2, 10), data(1, u32::MAX - 10)]), [(2, 10), (1, u32::MAX - 10)]);
    }

    #[test]
    fn the_latest_are_kept() {
        let packets: Vec<_> = (0..1000).map(|port| data(port, 0)).collect();
        assert!(noted(&packets).into_iter().eq((1000 - UNREACHABLE_MAX as u16..1000).map(|port| (port, 0))));
    }

    #[test]
    fn a_super_packet_is_noted_by_its_first_segment() {
        for six in [false, true] {
            let (mut packet, start) = (tcp(six, 1, 7, ACK, 50_000), if six { 40 } else { 20 });
            let offload = Offload::tcp(six, false, start, start + 20, 1380);
            let mut unreachable = Unreachable::default();
            unreachable.note(&packet, offload);
            let quotes: Vec<_> = unreachable.iter().map(<[u8]>::to_vec).collect();
            let mut segments = Vec::new();
            segment(&mut packet, offload, &mut Vec::new(), |segment| segments.push(segment.to_vec()));
            assert_eq!(quotes, [&segments[0][..QUOTE]]);
        }
    }
}
