//! What a packet's headers say about how it is to be queued (API §6): its class, and the flow that it
//! belongs to. Nothing behind the transport's ports is read, and nothing is remembered: that a flow has
//! moved so much that it is [`Priority::Low`] is known to [`qos`](crate::qos) alone.

use super::offload::Offload;
use super::upper::{MAX_EXTENSIONS, extension, is_extension};
use crate::telemetry::{DropReason, Drops, Priority};

/// Packets shorter than this are high, in bytes with all headers (API §6): acknowledgements, frames of
/// voice, key strokes. A super-packet counts by the length of its segments.
pub const SMALL_PACKET: usize = 128;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const DCCP: u8 = 33;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const ESP: u8 = 50;
    pub(super) const AH: u8 = 51;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDP_LITE: u8 = 136;
}

const DNS: u16 = 53;
const SSH: u16 = 22;

/// What the headers of one packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// [`Priority::High`] or [`Priority::Normal`]; what can't be classified is normal.
    pub priority: Priority,
    /// Shorter than [`SMALL_PACKET`], and no fragment: the length of a fragment says nothing about that
    /// of its datagram.
    pub small: bool,
    /// What it belongs to: addresses, protocol and, where it has them, ports.
    pub flow: FlowTuple,
    /// Whether it is a part of a datagram.
    pub fragment: Fragment,
}

/// A packet's place in a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is a datagram of its own.
    None,
    /// It has the headers of its datagram, which is named here. What follows of the datagram has the
    /// same name as its [`Classified::flow`].
    First(FlowTuple),
    /// It has neither ports nor the length of the datagram: its flow is its datagram, until somebody
    /// who saw the first fragment knows better.
    Later,
}

/// The name of a flow, or of a datagram in fragments: a fixed encoding of what identifies it, to be
/// hashed or compared. Each direction has its own.
///
/// ```text
/// version:1 what:1 protocol:1 0:1 || source || destination || ports, SPI, echo identifier or datagram's id:4
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowTuple {
    bytes: [u8; FlowTuple::V6],
    len: u8,
}

impl FlowTuple {
    const V4: usize = 16;
    const V6: usize = 40;
    const FLOW: u8 = 0;
    const DATAGRAM: u8 = 1;

    /// The encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// `addresses` are both of them, as they lie in the header: 8 or 32 bytes.
    fn new(what: u8, protocol: u8, addresses: &[u8], id: [u8; 4]) -> Self {
        let len = if addresses.len() == 8 { Self::V4 } else { Self::V6 };
        let mut bytes = [0; Self::V6];
        bytes[0] = if len == Self::V4 { 4 } else { 6 };
        (bytes[1], bytes[2]) = (what, protocol);
        bytes[4..len - 4].copy_from_slice(addresses);
        bytes[len - 4..len].copy_from_slice(&id);
        Self { bytes, len: len as u8 }
    }

    /// The flow of everything that is no IP packet.
    const fn unknown() -> Self {
        Self { bytes: [0; Self::V6], len: 0 }
    }
}

impl std::fmt::Debug for FlowTuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FlowTuple").field(&self.as_bytes()).finish()
    }
}

/// Reads the headers of a packet, which need not be whole. `segment_len` is the length of each of the
/// packets, with their headers, that a super-packet stands for.
pub fn classify(packet: &[u8], segment_len: Option<u16>) -> Classified {
    let headers = match packet.first().map(|byte| byte >> 4) {
        Some(4) => Headers::v4(packet),
        Some(6) => Headers::v6(packet),
        _ => None,
    };
    let Some(headers) = headers else {
        let flow = FlowTuple::unknown();
        return Classified { priority: Priority::Normal, small: false, flow, fragment: Fragment::None };
    };
    let length = segment_len.map_or(packet.len(), usize::from);
    headers.classify(length < SMALL_PACKET)
}

/// Counts a packet that is dropped before it was in any queue, in the class that its headers put it in.
pub fn count_drop(drops: &Drops, reason: DropReason, packet: &[u8], offload: Offload) {
    let priority = classify(packet, offload.segment_len()).priority;
    drops.count(priority, reason, offload.size(packet.len()));
}

/// What is read of a packet.
struct Headers<'a> {
    addresses: &'a [u8],
    /// Of the transport: ICMP has another number in each version of IP.
    protocol: u8,
    icmp: u8,
    /// From the transport header on; empty where it was not found.
    transport: &'a [u8],
    part: Part,
    /// What names a datagram together with its addresses and id: in IPv4 the protocol of the IP header,
    /// in IPv6 nothing (RFC 8200 §4.5).
    datagram_protocol: u8,
}

/// As [`Fragment`], with the datagram's id.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    First([u8; 4]),
    Later([u8; 4]),
}

impl<'a> Headers<'a> {
    fn v4(packet: &'a [u8]) -> Option<Self> {
        const MORE_FRAGMENTS: u16 = 0x2000;
        const OFFSET: u16 = 0x1fff;

        let header = packet.first_chunk::<IPV4_HEADER>()?;
        let at = usize::from(header[0] & 0x0f) * 4;
        let (id, fragment) = ([0, 0, header[4], header[5]], u16::from_be_bytes([header[6], header[7]]));
        let part = match (fragment & OFFSET, fragment & MORE_FRAGMENTS) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First(id),
            _ => Part::Later(id),
        };
        let (mut protocol, mut transport) = (header[9], packet.get(at.max(IPV4_HEADER)..).unwrap_or(&[]));
        if protocol == protocol::AH && !matches!(part, Part::Later(_)) {
            (protocol, transport) = extension(protocol, transport).unwrap_or((protocol, &[]));
        }
        let (addresses, icmp) = (&header[12..], protocol::ICMP);
        Some(Self { addresses, protocol, icmp, transport, part, datagram_protocol: header[9] })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        const OFFSET: u16 = 0xfff8;
        const MORE_FRAGMENTS: u16 = 1;

        let header = packet.first_chunk::<IPV6_HEADER>()?;
        let (mut protocol, mut transport, mut part) = (header[6], &packet[IPV6_HEADER..], Part::Whole);
        for _ in 0..MAX_EXTENSIONS {
            if protocol == protocol::FRAGMENT
                && let Some(&[_, _, high, low, a, b, c, d]) = transport.first_chunk()
            {
                let (fragment, id) = (u16::from_be_bytes([high, low]), [a, b, c, d]);
                part = match (fragment & OFFSET, fragment & MORE_FRAGMENTS) {
                    (0, 0) => part,
                    (0, _) => Part::First(id),
                    _ => Part::Later(id),
                };
            }
            let Some(next) = extension(protocol, transport) else { break };
            (protocol, transport) = next;
            if matches!(part, Part::Later(_)) {
                break;
            }
        }
        if is_extension(protocol) {
            transport = &[];
        }
        let (addresses, icmp) = (&header[8..], protocol::ICMPV6);
        Some(Self { addresses, protocol, icmp, transport, part, datagram_protocol: 0 })
    }

    fn classify(&self, short: bool) -> Classified {
        let flow = || FlowTuple::new(FlowTuple::FLOW, self.protocol, self.addresses, self.id());
        let datagram = |id| FlowTuple::new(FlowTuple::DATAGRAM, self.datagram_protocol, self.addresses, id);
        let (small, flow, fragment) = match self.part {
            Part::Whole => (short, flow(), Fragment::None),
            Part::First(id) => (false, flow(), Fragment::First(datagram(id))),
            Part::Later(id) => (false, datagram(id), Fragment::Later),
        };
        let high = small || self.protocol == self.icmp || self.is_interactive();
        let priority = if high { Priority::High } else { Priority::Normal };
        Classified { priority, small, flow, fragment }
    }

    /// DNS or SSH, from or to a server's port.
    fn is_interactive(&self) -> bool {
        let Some(&[a, b, c, d]) = self.first_of_transport() else { return false };
        let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        match self.protocol {
            protocol::UDP => ports.contains(&DNS),
            protocol::TCP => ports.contains(&DNS) || ports.contains(&SSH),
            _ => false,
        }
    }

    /// What tells flows between the same addresses apart; zero where nothing does.
    fn id(&self) -> [u8; 4] {
        use protocol::{DCCP, ESP, SCTP, TCP, UDP, UDP_LITE};
        match self.protocol {
            TCP | UDP | DCCP | ESP | SCTP | UDP_LITE => {
                self.first_of_transport().copied().unwrap_or_default()
            }
            icmp if icmp == self.icmp => self.echo_id().unwrap_or_default(),
            _ => [0; 4],
        }
    }

    /// The ports, or the SPI.
    fn first_of_transport(&self) -> Option<&'a [u8; 4]> {
        match self.part {
            Part::Whole | Part::First(_) => self.transport.first_chunk(),
            Part::Later(_) => None,
        }
    }

    /// Which ping a request or reply belongs to.
    fn echo_id(&self) -> Option<[u8; 4]> {
        match *self.transport.first_chunk::<6>()? {
            [kind @ (0 | 8 | 128 | 129), _, _, _, a, b] => Some([kind, 0, a, b]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ip::tests::{v4, v6};
    use super::*;

    const HERE: [u8; 4] = [10, 8, 0, 2];
    const THERE: [u8; 4] = [192, 0, 2, 1];

    /// A payload of `len` bytes that begins with ports.
    fn ports(source: u16, destination: u16, len: usize) -> Vec<u8> {
        let mut payload = vec![0; len];
        payload[..2].copy_from_slice(&source.to_be_bytes());
        payload[2..4].copy_from_slice(&destination.to_be_bytes());
        payload
    }

    fn four(protocol: u8, payload: &[u8]) -> Vec<u8> {
        v4(HERE, THERE, protocol, payload)
    }

    fn six(next_header: u8, payload: &[u8]) -> Vec<u8> {
        v6("fd00::2", "2001:db8::1", next_header, payload)
    }

    fn priority(packet: &[u8]) -> Priority {
        classify(packet, None).priority
    }

    #[test]
    fn the_class_follows_the_table_of_the_interface() {
        use Priority::{High, Normal};
        let table = [
            ("a large ping", 1, 58, vec![8; 1000], High),
            ("a DNS query", 17, 17, ports(40_000, 53, 600), High),
            ("a DNS answer", 17, 17, ports(53, 40_000, 600), High),
            ("DNS over TCP", 6, 6, ports(40_000, 53, 600), High),
            ("SSH to a server", 6, 6, ports(40_000, 22, 600), High),
            ("SSH from a server", 6, 6, ports(22, 40_000, 600), High),
            ("UDP on SSH's port", 17, 17, ports(40_000, 22, 600), Normal),
            ("HTTPS", 6, 6, ports(40_000, 443, 600), Normal),
            ("port 53 of another protocol", 132, 132, ports(53, 53, 600), Normal),
            ("GRE", 47, 47, vec![0; 600], Normal),
        ];
        for (what, v4_protocol, v6_protocol, payload, expected) in table {
            assert_eq!(priority(&four(v4_protocol, &payload)), expected, "{what} over IPv4");
            assert_eq!(priority(&six(v6_protocol, &payload)), expected, "{what} over IPv6");
        }
        assert_eq!(priority(&four(58, &[8; 1000])), Normal, "ICMPv6 is none in IPv4");
        assert_eq!(priority(&six(1, &[8; 1000])), Normal, "ICMP is none in IPv6");
    }

    #[test]
    fn small_is_under_128_bytes_with_all_headers() {
        for (len, small) in [(127, true), (128, false)] {
            let packets = [four(17, &ports(1, 2, len - 20)), six(17, &ports(1, 2, len - 40))];
            for packet in packets {
                let class = classify(&packet, None);
                assert_eq!((class.small, class.priority == Priority::High), (small, small), "{len}");
            }
        }
        assert!(classify(&four(6, &[0; 20]), None).small);
    }

    #[test]
    fn a_super_packet_counts_by_its_segments() {
        let packet = four(6, &ports(1, 2, 60_000));
        assert_eq!(classify(&packet, Some(127)).priority, Priority::High);
        assert_eq!(classify(&packet, Some(128)).priority, Priority::Normal);
        assert_eq!(classify(&packet, Some(1420)).flow, classify(&packet, None).flow);
    }

    #[test]
    fn a_flow_is_addresses_protocol_and_ports() {
        let flow = |packet: &[u8]| classify(packet, None).flow;
        let one = flow(&four(6, &ports(40_000, 443, 600)));
        assert_eq!(one, flow(&four(6, &ports(40_000, 443, 20))), "whatever the length");
        let others = [
            four(6, &ports(40_001, 443, 600)),
            four(6, &ports(40_000, 444, 600)),
            four(6, &ports(443, 40_000, 600)),
            four(17, &ports(40_000, 443, 600)),
            four(50, &ports(40_000, 443, 600)),
            four(50, &ports(40_000, 444, 600)),
            v4(THERE, HERE, 6, &ports(40_000, 443, 600)),
            v4(HERE, [192, 0, 2, 2], 6, &ports(40_000, 443, 600)),
            six(6, &ports(40_000, 443, 600)),
            v6("fd00::3", "2001:db8::1", 6, &ports(40_000, 443, 600)),
            four(1, &[8, 0, 0, 0, 0, 1, 0, 1]),
            four(1, &[8, 0, 0, 0, 0, 2, 0, 1]),
            vec![0; 40],
        ];
        let flows: std::collections::HashSet<_> =
            others.iter().map(|packet| flow(packet)).chain([one]).collect();
        assert_eq!(flows.len(), others.len() + 1);
        let ping = |sequence| flow(&four(1, &[8, 0, 0, 0, 0, 1, 0, sequence]));
        assert_eq!(ping(1), ping(2), "one ping is one flow");
        assert_eq!(
            flow(&four(47, &[1; 600])),
            flow(&four(47, &[2; 600])),
            "GRE has nothing to tell flows by"
        );
    }

    #[test]
    fn options_and_extension_headers_hide_nothing() {
        let query = ports(40_000, 53, 600);
        let plain4 = classify(&four(17, &query), None).flow;
        let mut options = four(17, &[&[1; 8][..], &query].concat());
        options[0] = 0x47;
        assert_eq!((priority(&options), classify(&options, None).flow), (Priority::High, plain4));
        let ah = [&[17, 4][..], &[0; 22], &query].concat();
        assert_eq!(classify(&four(51, &ah), None).flow, plain4);

        let plain6 = classify(&six(17, &query), None).flow;
        let chains = [
            ("hop-by-hop", 0, [&[17, 0][..], &[0; 6]].concat()),
            ("routing", 43, [&[17, 2][..], &[0; 22]].concat()),
            ("destination options", 60, [&[17, 1][..], &[0; 14]].concat()),
            ("an atomic fragment", 44, vec![17, 0, 0, 0, 0, 0, 0, 9]),
            ("AH", 51, [&[17, 4][..], &[0; 22]].concat()),
            ("three", 0, [&[43, 0][..], &[0; 6], &[60, 0], &[0; 6], &[17, 0], &[0; 6]].concat()),
        ];
        for (what, first, chain) in chains {
            let class = classify(&six(first, &[&chain[..], &query].concat()), None);
            assert_eq!((class.priority, class.flow), (Priority::High, plain6), "{what}");
            assert_eq!(class.fragment, Fragment::None, "{what}");
        }
    }

    #[test]
    fn the_walk_over_extension_headers_is_bounded() {
        let query = ports(40_000, 53, 600);
        let chain = |count: usize| {
            let mut bytes: Vec<u8> = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
            let last = bytes.len() - 8;
            bytes[last] = 17;
            six(60, &[&bytes[..], &query].concat())
        };
        assert_eq!(priority(&chain(MAX_EXTENSIONS)), Priority::High);
        assert_eq!(priority(&chain(MAX_EXTENSIONS + 1)), Priority::Normal);
    }

    /// A fragment of a datagram: `offset` in units of eight bytes.
    fn fragment4(protocol: u8, id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = four(protocol, payload);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        packet
    }

    fn fragment6(next: u8, id: u32, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![next, 0];
        bytes.extend_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(payload);
        six(44, &bytes)
    }

    #[test]
    fn fragments_name_their_datagram() {
        let query = ports(40_000, 53, 600);
        let options = [&[17, 0][..], &[0; 6], &query].concat();
        let table = [
            (
                "IPv4",
                four(17, &query),
                fragment4(17, 7, 0, true, &query),
                fragment4(17, 7, 75, false, &[0; 600]),
            ),
            (
                "IPv6",
                six(17, &query),
                fragment6(17, 7, 0, true, &query),
                fragment6(17, 7, 75, false, &[0; 600]),
            ),
            (
                "options within the datagram",
                six(17, &query),
                fragment6(60, 7, 0, true, &options),
                fragment6(60, 7, 76, false, &[0; 600]),
            ),
        ];
        for (what, whole, first, later) in table {
            let (whole, first, later) =
                (classify(&whole, None), classify(&first, None), classify(&later, None));
            assert_eq!((first.flow, first.priority), (whole.flow, Priority::High), "{what}");
            assert_eq!((later.fragment, later.priority), (Fragment::Later, Priority::Normal), "{what}");
            assert_eq!(first.fragment, Fragment::First(later.flow), "{what}");
        }
        let datagram = |packet: &[u8]| classify(packet, None).flow;
        assert_ne!(datagram(&fragment4(17, 7, 1, true, &[])), datagram(&fragment4(17, 8, 1, true, &[])));
        assert_ne!(datagram(&fragment4(17, 7, 1, true, &[])), datagram(&fragment4(6, 7, 1, true, &[])));
        assert_ne!(
            datagram(&fragment6(17, 7, 1, true, &[])),
            datagram(&fragment6(17, 1 << 16, 1, true, &[]))
        );
    }

    #[test]
    fn a_fragment_is_not_small_whatever_its_length() {
        let fragments = [
            fragment4(17, 7, 0, true, &ports(1, 2, 8)),
            fragment4(17, 7, 1, false, &[0; 8]),
            fragment6(17, 7, 0, true, &ports(1, 2, 8)),
            fragment6(17, 7, 1, false, &[0; 8]),
        ];
        for packet in fragments {
            let class = classify(&packet, None);
            assert_eq!((class.small, class.priority), (false, Priority::Normal));
        }
        assert_eq!(priority(&fragment4(1, 7, 1, false, &[0; 8])), Priority::High, "ICMP in every fragment");
        assert_eq!(priority(&fragment6(58, 7, 1, false, &[0; 8])), Priority::High);
    }

    #[test]
    fn ports_are_not_read_out_of_a_later_fragment() {
        let looks_like_dns = ports(53, 53, 600);
        assert_eq!(priority(&fragment4(17, 7, 1, true, &looks_like_dns)), Priority::Normal);
        assert_eq!(priority(&fragment6(17, 7, 1, true, &looks_like_dns)), Priority::Normal);
    }

    #[test]
    fn what_is_no_packet_is_normal() {
        for bytes in [&[][..], &[0x45], &[0x45; 19], &[0x60; 39], &[0x00; 60], &[0xf5; 60]] {
            let class = classify(bytes, None);
            assert_eq!((class.priority, class.small), (Priority::Normal, false), "{bytes:?}");
            assert_eq!(class.flow, FlowTuple::unknown());
        }
    }

    #[test]
    fn a_packet_cut_short_is_read_as_far_as_it_goes() {
        let whole = [
            four(17, &ports(40_000, 53, 600)),
            six(0, &[&[60, 0][..], &[0; 6], &[17, 0], &[0; 6], &ports(40_000, 53, 600)].concat()),
            fragment6(17, 7, 0, true, &ports(40_000, 53, 600)),
        ];
        for packet in whole {
            for cut in 0..packet.len() {
                let class = classify(&packet[..cut], Some(1420));
                assert!(class.priority == Priority::High || class.priority == Priority::Normal);
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_high_has_a_cause(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), six: bool, first in any::<u8>(),
        ) {
            if bytes.len() > 6 {
                bytes[0] = if six { 0x60 } else { 0x40 | (bytes[0] & 0x0f) };
                let at = if six { 6 } else { 9.min(bytes.len() - 1) };
                bytes[at] = first;
            }
            let class = classify(&bytes, Some(1420));
            let len = class.flow.as_bytes().len();
            prop_assert!([0, 16, 40].contains(&len));
            prop_assert!(!class.small);
            prop_assert_ne!(class.priority, Priority::Low);
        }
    }
}
