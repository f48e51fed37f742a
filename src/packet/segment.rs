//! Does in software what an offload header leaves to be done (PROTOCOL §6): completes a checksum, cuts a
//! super-packet into its segments.

use super::checksum::Sum;
use super::header::{
    CWR, FIN, IPV4_HEADER, IPV4_ID, IPV6_HEADER, Layout, PSH, TCP_FLAGS, TCP_HEADER, TCP_SEQUENCE,
    UDP_CHECKSUM, UDP_HEADER, get16, get32, put16, put32,
};
use super::offload::Offload;

/// What [`split_front`] made of a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// What the front lacks.
    pub front: Offload,
    /// What the rest lacks.
    pub rest: Offload,
    /// Where the rest begins in the packet.
    pub at: usize,
}

/// Completes the checksum that `offload` asks for, in place. It was checked against the packet, which is no
/// super-packet.
pub fn complete_checksum(packet: &mut [u8], offload: Offload) {
    if !offload.needs_checksum() {
        return;
    }
    let [start, offset] = [offload.csum_start, offload.csum_offset].map(usize::from);
    let Some(covered) = packet.get_mut(start..) else { return };
    // The field holds the sum of the pseudo-header.
    let checksum = Sum::default().add(covered).checksum();
    // In UDP, 0 stands for no checksum (RFC 768); wherever else a checksum is there, 0xffff is as good.
    let checksum = if checksum == 0 && offset == UDP_CHECKSUM { 0xffff } else { checksum };
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Hands the segments of a super-packet to `forward`, in order, each whole with complete checksums; a packet
/// that is none is handed on itself, its checksum completed.
///
/// Segments are made within the packet, which is used up: each one's header is written over the end of the
/// segment before, which has been forwarded. `scratch` keeps the header.
///
/// `offload` was [checked](Offload::check), or [normalised](Offload::normalised) from what the kernel gave:
/// there may be IPv6 extension headers. What it does not fit is handed on as it is.
pub fn segment(
    packet: &mut [u8],
    offload: Offload,
    scratch: &mut Vec<u8>,
    mut forward: impl FnMut(&mut [u8]),
) {
    if !offload.is_super() {
        complete_checksum(packet, offload);
        return forward(packet);
    }
    let Some(source) = Super::of(packet, offload) else { return forward(packet) };
    let header = source.layout.payload;
    scratch.clear();
    scratch.extend_from_slice(&packet[..header]);
    let (mut at, mut index) = (0, 0);
    while at + header < packet.len() {
        let end = packet.len().min(at + header + source.gso_size);
        let is_last = end == packet.len();
        let segment = &mut packet[at..end];
        segment[..header].copy_from_slice(scratch);
        source.advance(segment, index);
        source.keep_flags(segment, index == 0, is_last);
        source.layout.set_lengths(segment);
        source.layout.complete(segment, source.pseudo_header);
        forward(segment);
        at += source.gso_size;
        index += 1;
    }
}

/// Cuts the first `segments` segments (at least one, fewer than all) off the front of a super-packet. They
/// become the packet in `front`; what remains lies in `packet[at..]`. The checksums of both are still to be
/// completed, and either may be a super-packet or a single segment.
///
/// `offload` was [checked](Offload::check).
pub fn split_front(packet: &mut [u8], offload: Offload, segments: usize, front: &mut Vec<u8>) -> Split {
    debug_assert!((1..offload.segments(packet.len())).contains(&segments), "a part of the segments");
    front.clear();
    let Some(source) = Super::of(packet, offload) else {
        return Split { front: offload, rest: offload, at: 0 };
    };
    let Layout { payload: header, .. } = source.layout;
    let at = (segments * source.gso_size).min(packet.len() - header);
    front.extend_from_slice(&packet[..header + at]);
    source.keep_flags(front, true, false);
    source.finish(front);
    packet.copy_within(..header, at);
    let rest = &mut packet[at..];
    source.advance(rest, segments);
    source.keep_flags(rest, false, true);
    source.finish(rest);
    Split { front: source.offload(front.len(), true), rest: source.offload(rest.len(), false), at }
}

/// What the segments of a super-packet have in common.
struct Super {
    layout: Layout,
    gso_size: usize,
    /// Without the length.
    pseudo_header: Sum,
    offload: Offload,
}

impl Super {
    /// `None` where the packet is not what `offload` says.
    fn of(packet: &[u8], offload: Offload) -> Option<Self> {
        let [transport, payload, gso_size] =
            [offload.csum_start, offload.hdr_len, offload.gso_size].map(usize::from);
        let is_tcp = offload.is_tcp();
        let (is_v4, fits) = match packet.first()? {
            first @ 0x40..0x50 => (true, transport == usize::from(first & 0x0f) * 4),
            0x60..0x70 => (false, transport >= IPV6_HEADER),
            _ => return None,
        };
        let shortest = transport.max(IPV4_HEADER) + if is_tcp { TCP_HEADER } else { UDP_HEADER };
        if !fits || payload < shortest || packet.len() <= payload || gso_size == 0 {
            return None;
        }
        let layout = Layout { is_v4, is_tcp, transport, payload };
        let pseudo_header = if !is_v4 && transport > IPV6_HEADER {
            // Behind a routing header, the sum is that of another destination, which the kernel knew.
            let field = transport + layout.csum_offset();
            Sum::default().add(&packet[field..field + 2]).subtract_length(packet.len() - transport)
        } else {
            layout.pseudo_header(packet)
        };
        Some(Self { layout, gso_size, pseudo_header, offload })
    }

    /// Turns the header into that of the segment after `segments` others.
    fn advance(&self, packet: &mut [u8], segments: usize) {
        if self.layout.is_v4 {
            // Both count modulo what their fields hold.
            put16(packet, IPV4_ID, get16(packet, IPV4_ID).wrapping_add(segments as u16));
        }
        if self.layout.is_tcp {
            let at = self.layout.transport + TCP_SEQUENCE;
            put32(packet, at, get32(packet, at).wrapping_add((segments * self.gso_size) as u32));
        }
    }

    /// Only the first segment tells of the congestion window, and only the last is pushed and ends.
    fn keep_flags(&self, packet: &mut [u8], is_first: bool, is_last: bool) {
        if self.layout.is_tcp {
            let first = if is_first { 0 } else { CWR };
            let last = if is_last { 0 } else { FIN | PSH };
            packet[self.layout.transport + TCP_FLAGS] &= !(first | last);
        }
    }

    fn finish(&self, packet: &mut [u8]) {
        self.layout.set_lengths(packet);
        self.layout.leave_partial(packet, self.pseudo_header);
    }

    /// The offload header of a part of `length` bytes.
    fn offload(&self, length: usize, is_first: bool) -> Offload {
        let Offload { csum_start, csum_offset, hdr_len, gso_size, .. } = self.offload;
        if self.offload.segments(length) == 1 {
            Offload::checksum_only(csum_start, csum_offset)
        } else if is_first || !self.layout.is_tcp {
            self.offload
        } else {
            // Without the congestion mark, which the front has.
            Offload::tcp(!self.layout.is_v4, false, csum_start, hdr_len, gso_size)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{
        IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
        TcpHeader,
    };
    use proptest::prelude::*;

    use super::{Split, complete_checksum, segment, split_front};
    use crate::packet::ip::tests::v4;
    use crate::packet::{IpPacket, Offload};

    proptest! {
        #[test]
        fn segments_are_what_another_implementation_makes(spec in spec(true)) {
            let (mut packet, offload) = spec.super_packet();
            if !spec.has_extensions() {
                prop_assert_eq!(offload.check(&IpPacket::parse(&packet).unwrap(), u16::MAX), Ok(()));
            }
            let made = segments(&mut packet, offload);
            prop_assert_eq!(made.len(), offload.segments(spec.length()));
            prop_assert_eq!(made, spec.segments());
        }

        #[test]
        fn what_a_peer_says_of_the_checksum_is_not_trusted(spec in spec(false), said: u16) {
            let (mut packet, offload) = spec.super_packet();
            let at = usize::from(offload.csum_start + offload.csum_offset);
            packet[at..at + 2].copy_from_slice(&said.to_be_bytes());
            prop_assert_eq!(segments(&mut packet, offload), spec.segments());
        }

        #[test]
        fn parts_have_the_segments_of_the_whole(
            spec in spec(false), cuts in proptest::collection::vec(1..20_usize, 1..10),
        ) {
            let (mut packet, mut offload) = spec.super_packet();
            let (mut rest, mut made, mut front) = (&mut packet[..], Vec::new(), vec![7; 3]);
            for cut in cuts {
                let left = offload.segments(rest.len());
                if left == 1 {
                    break;
                }
                let cut = cut.min(left - 1);
                let split = split_front(rest, offload, cut, &mut front);
                prop_assert_eq!(split.front.segments(front.len()), cut);
                check_partial(&front, split.front);
                made.append(&mut segments(&mut front, split.front));
                (rest, offload) = (&mut rest[split.at..], split.rest);
                check_partial(rest, offload);
                prop_assert_eq!(offload.segments(rest.len()), left - cut);
            }
            made.append(&mut segments(rest, offload));
            prop_assert_eq!(made, spec.segments());
        }

        #[test]
        fn whatever_passed_the_check_can_be_cut(
            mut bytes in proptest::collection::vec(any::<u8>(), 28..300), first in 0x45..0x62_u8,
            wire: [u8; 10], kind in 0..6_usize, sane: bool, cut in 1..100_usize,
        ) {
            bytes[0] = first;
            let (at, length) = if first >= 0x60 { (4, bytes.len().saturating_sub(40)) } else { (2, bytes.len()) };
            bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            bytes[if first >= 0x60 { 6 } else { 9 }] = if kind < 4 { 6 } else { 17 };
            bytes[6] &= 0x40;
            bytes[7] = 0;
            let mut offload = Offload::from_wire(wire);
            if let (true, Ok(packet)) = (sane, IpPacket::parse(&bytes)) {
                let start = packet.header_len() as u16;
                let tcp = Offload::tcp(first >= 0x60, cut % 2 == 0, start, 0, offload.gso_size % 30);
                offload = if kind < 4 { tcp } else { Offload::udp(start, offload.gso_size % 30) }.normalised(&bytes);
            }
            segments(&mut bytes.clone(), offload);
            let checked = IpPacket::parse(&bytes).is_ok_and(|packet| offload.check(&packet, 1420).is_ok());
            let count = offload.segments(bytes.len());
            if checked && count > 1 {
                let whole = segments(&mut bytes.clone(), offload);
                let mut front = Vec::new();
                let Split { front: first, rest, at } = split_front(&mut bytes, offload, cut.min(count - 1), &mut front);
                let parts = [segments(&mut front, first), segments(&mut bytes[at..], rest)].concat();
                prop_assert_eq!(parts, whole);
            }
        }

        #[test]
        fn completes_a_checksum_anywhere(
            mut bytes in proptest::collection::vec(any::<u8>(), 30..200), start in 20..28_usize,
            offset in 0..200_usize,
        ) {
            let offset = offset % (bytes.len() - start - 1);
            let expected = match !sum(&bytes[start..]) {
                0 if offset == 6 => 0xffff,
                checksum => checksum,
            };
            complete_checksum(&mut bytes, Offload::checksum_only(start as u16, offset as u16));
            prop_assert_eq!(&bytes[start + offset..start + offset + 2], &expected.to_be_bytes()[..]);
        }
    }

    #[test]
    fn a_packet_that_is_no_super_packet_is_handed_on_itself() {
        let mut packet = v4([10, 8, 0, 2], [192, 0, 2, 1], 17, &[3; 40]);
        let before = packet.clone();
        assert_eq!(segments(&mut packet.clone(), Offload::NONE), std::slice::from_ref(&before));
        packet[26..28].copy_from_slice(&sum(&[10, 8, 0, 2, 192, 0, 2, 1, 0, 17, 0, 40]).to_be_bytes());
        let completed = segments(&mut packet, Offload::checksum_only(20, 6)).remove(0);
        assert_eq!(sum(&[&completed[12..], &[0, 17, 0, 40]].concat()), 0xffff);
        assert_eq!(completed[28..], before[28..]);
    }

    #[test]
    fn a_udp_checksum_of_zero_is_written_as_all_ones() {
        let ip = IpHeaders::Ipv4(
            Ipv4Header::new(0, 64, IpNumber::UDP, [0; 4], [0; 4]).unwrap(),
            Default::default(),
        );
        // Protocol, twice the length, ports of 0 and the payload add up to all ones.
        let rest = (0xffff_u16 - 17 - 2 * 10).to_be_bytes();
        let spec = Spec { ip, tcp: None, payload: [rest, rest].concat(), gso_size: 2, ports: (0, 0) };
        let (mut packet, offload) = spec.super_packet();
        let made = segments(&mut packet, offload);
        assert_eq!(made, spec.segments());
        assert!(made.iter().all(|segment| segment[26..28] == [0xff, 0xff]), "{made:x?}");
    }

    #[test]
    fn what_does_not_fit_its_offload_header_is_handed_on_as_it_is() {
        let packet = v4([10, 8, 0, 2], [192, 0, 2, 1], 17, &[3; 40]);
        for offload in [
            Offload { hdr_len: 0, ..Offload::udp(20, 10) },
            Offload { hdr_len: 60, ..Offload::udp(20, 10) },
            Offload { gso_size: 0, ..Offload::udp(20, 10) },
            Offload::udp(24, 10),
            Offload::udp(60_000, 10),
            Offload::tcp(false, false, 20, 28, 10),
            Offload::checksum_only(60, 0),
            Offload::checksum_only(20, 39),
        ] {
            assert_eq!(segments(&mut packet.clone(), offload), std::slice::from_ref(&packet), "{offload:?}");
        }
        assert_eq!(segments(&mut [], Offload::udp(20, 10)), [Vec::<u8>::new()]);
    }

    fn segments(packet: &mut [u8], offload: Offload) -> Vec<Vec<u8>> {
        let mut made = Vec::new();
        segment(packet, offload, &mut vec![9; 3], |segment| {
            made.push(segment.to_vec());
            // They are the receiver's to change.
            segment.fill(0xee);
        });
        made
    }

    /// The checksum field of a TCP segment or UDP datagram holds the sum of its pseudo-header.
    fn check_partial(bytes: &[u8], offload: Offload) {
        let packet = IpPacket::parse(bytes).unwrap();
        assert_eq!(offload.check(&packet, u16::MAX), Ok(()));
        let start = packet.header_len();
        let addresses = if packet.version() == 4 { &bytes[12..20] } else { &bytes[8..40] };
        let length = (bytes.len() - start) as u16;
        let pseudo = [addresses, &[0, packet.protocol()], &length.to_be_bytes()].concat();
        let field = start + usize::from(offload.csum_offset);
        assert_eq!(bytes[field..field + 2], sum(&pseudo).to_be_bytes());
        if packet.protocol() == 17 {
            assert_eq!(bytes[start + 4..start + 6], length.to_be_bytes());
        }
        if packet.version() == 4 {
            assert_eq!(sum(&bytes[..start]), 0xffff);
        }
    }

    /// A one's complement sum, word by word.
    fn sum(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum: u16, word| {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    /// What a super-packet is made from, and what its segments are.
    #[derive(Clone, Debug)]
    pub(in crate::packet) struct Spec {
        pub(in crate::packet) ip: IpHeaders,
        /// `None` for UDP.
        pub(in crate::packet) tcp: Option<TcpHeader>,
        pub(in crate::packet) payload: Vec<u8>,
        pub(in crate::packet) gso_size: usize,
        /// Of UDP.
        pub(in crate::packet) ports: (u16, u16),
    }

    impl Spec {
        pub(in crate::packet) fn segments(&self) -> Vec<Vec<u8>> {
            let count = self.payload.len().div_ceil(self.gso_size);
            let parts = self.payload.chunks(self.gso_size).enumerate();
            parts.map(|(index, part)| self.packet(index, index + 1 == count, part)).collect()
        }

        /// One packet with complete checksums.
        fn packet(&self, index: usize, is_last: bool, payload: &[u8]) -> Vec<u8> {
            let mut ip = self.ip.clone();
            if let IpHeaders::Ipv4(header, _) = &mut ip {
                header.identification = header.identification.wrapping_add(index as u16);
            }
            let mut bytes = Vec::new();
            match &self.tcp {
                Some(tcp) => {
                    let mut tcp = tcp.clone();
                    tcp.sequence_number = tcp.sequence_number.wrapping_add((index * self.gso_size) as u32);
                    tcp.fin &= is_last;
                    tcp.psh &= is_last;
                    tcp.cwr &= index == 0;
                    PacketBuilder::ip(ip).tcp_header(tcp).write(&mut bytes, payload).unwrap();
                }
                None => {
                    let (from, to) = self.ports;
                    PacketBuilder::ip(ip).udp(from, to).write(&mut bytes, payload).unwrap();
                }
            }
            bytes
        }

        /// As a local kernel hands it out.
        pub(in crate::packet) fn super_packet(&self) -> (Vec<u8>, Offload) {
            let mut bytes = self.packet(0, true, &self.payload);
            let ip_len = self.ip.header_len();
            let is_v4 = matches!(self.ip, IpHeaders::Ipv4(..));
            let gso_size = self.gso_size as u16;
            let (protocol, offload) = match &self.tcp {
                Some(tcp) => {
                    let header = ip_len + tcp.header_len();
                    (6, Offload::tcp(!is_v4, tcp.cwr, ip_len as u16, header as u16, gso_size))
                }
                None => (17, Offload::udp(ip_len as u16, gso_size)),
            };
            let addresses = if is_v4 { &bytes[12..20] } else { &bytes[8..40] };
            let length = (bytes.len() - ip_len) as u16;
            let partial = sum(&[addresses, &[0, protocol], &length.to_be_bytes()].concat());
            let field = ip_len + usize::from(offload.csum_offset);
            bytes[field..field + 2].copy_from_slice(&partial.to_be_bytes());
            (bytes, offload)
        }

        fn length(&self) -> usize {
            self.packet(0, true, &self.payload).len()
        }

        fn has_extensions(&self) -> bool {
            matches!(&self.ip, IpHeaders::Ipv6(_, extensions) if !extensions.is_empty())
        }
    }

    prop_compose! {
        /// `extended`: sometimes with IPv6 extension headers, which only the local kernel's have.
        pub(in crate::packet) fn spec(extended: bool)(
            ip in ip(extended), tcp in proptest::option::of(tcp()), ports: (u16, u16),
            payload in proptest::collection::vec(any::<u8>(), 1..3000), gso_size in 1..1400_usize, tiny: bool,
        ) -> Spec {
            let least = payload.len().div_ceil(crate::packet::MAX_SEGMENTS);
            let gso_size = if tiny { least.max(gso_size % 30) } else { least.max(gso_size) };
            Spec { ip, tcp, payload, gso_size, ports }
        }
    }

    prop_compose! {
        fn ip(extended: bool)(
            which in 0..if extended { 4 } else { 3 }, id: u16, df: bool, traffic_class in 0..4_u8, addresses: [u8; 32],
        ) -> IpHeaders {
            let protocol = IpNumber::TCP;
            let [a, b, c, d, e, f, g, h, ..] = addresses;
            let mut four = Ipv4Header::new(0, 61, protocol, [a, b, c, d], [e, f, g, h]).unwrap();
            (four.identification, four.dont_fragment) = (id, df);
            four.ecn = traffic_class.try_into().unwrap();
            let (from, to) = addresses.split_at(16);
            let six = Ipv6Header {
                traffic_class, hop_limit: 62, flow_label: u32::from(id).try_into().unwrap(),
                source: from.try_into().unwrap(), destination: to.try_into().unwrap(), ..Default::default()
            };
            let extensions = Ipv6Extensions {
                hop_by_hop_options: Some(Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 14]).unwrap()),
                destination_options: Some(Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 6]).unwrap()),
                ..Default::default()
            };
            match which {
                0 => IpHeaders::Ipv4(four, Default::default()),
                1 => IpHeaders::Ipv4(Ipv4Header { options: [1; 8].into(), ..four }, Default::default()),
                2 => IpHeaders::Ipv6(six, Default::default()),
                _ => IpHeaders::Ipv6(six, extensions),
            }
        }
    }

    prop_compose! {
        fn tcp()(
            ports: (u16, u16), sequence_number: u32, acknowledgment_number: u32, window_size: u16,
            flags in proptest::array::uniform4(any::<bool>()), words in 0..11_usize,
        ) -> TcpHeader {
            let [fin, psh, cwr, ece] = flags;
            let mut tcp = TcpHeader {
                acknowledgment_number, ack: true, fin, psh, cwr, ece,
                ..TcpHeader::new(ports.0, ports.1, sequence_number, window_size)
            };
            tcp.set_options_raw(&vec![1; words * 4]).unwrap();
            tcp
        }
    }
}
