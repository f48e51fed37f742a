//! What is still to be done to a packet's bytes: a checksum to be completed, a super-packet to be cut into
//! segments (PROTOCOL §6; `struct virtio_net_hdr` of the kernel's TUN).
//!
//! ```text
//! flags:1 gso_type:1 hdr_len:2 gso_size:2 csum_start:2 csum_offset:2
//! ```
//!
//! A super-packet is one TCP segment or UDP datagram of up to 64 KiB that stands for many: its header is
//! each segment's, its payload that of all of them, `gso_size` bytes each.

use super::ip::{IpPacket, check_mtu};
use super::upper::{TCP, UDP};
use crate::telemetry::{DropReason, Size};

/// The length of an offload header in bytes, on the wire and at the TUN.
pub const OFFLOAD_LEN: usize = 10;

/// Segments that one super-packet may stand for (PROTOCOL §6).
pub const MAX_SEGMENTS: usize = 512;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The segments carry congestion marks: CWR is on the first only.
const GSO_ECN: u8 = 0x80;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: u16 = 6;
/// Offset of the data offset in a TCP header.
const TCP_DATA_OFFSET: usize = 12;
const UDP_HEADER: usize = 8;

/// The offload header of one packet; all zero for a packet that is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// 1: the checksum at `csum_start + csum_offset` holds the sum of the pseudo-header only.
    pub flags: u8,
    /// The kind of super-packet; 0 for none.
    pub gso_type: u8,
    /// Bytes of the IP and transport headers, of a super-packet.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum begins to count: the transport header.
    pub csum_start: u16,
    /// Where it goes, from there.
    pub csum_offset: u16,
}

/// A packet on its way through, free to be changed in place, and what is still to be done to it.
#[derive(Debug)]
pub struct Record<'a> {
    /// The IP packet.
    pub packet: &'a mut [u8],
    /// What it lacks.
    pub offload: Offload,
}

impl<'a> From<&'a mut [u8]> for Record<'a> {
    /// A packet that is complete.
    fn from(packet: &'a mut [u8]) -> Self {
        Self { packet, offload: Offload::NONE }
    }
}

impl Offload {
    /// Nothing is left to be done.
    pub const NONE: Self =
        Self { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// Reads the header as it is on the wire.
    pub const fn from_wire([flags, gso_type, a, b, c, d, e, f, g, h]: [u8; OFFLOAD_LEN]) -> Self {
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_be_bytes([a, b]),
            gso_size: u16::from_be_bytes([c, d]),
            csum_start: u16::from_be_bytes([e, f]),
            csum_offset: u16::from_be_bytes([g, h]),
        }
    }

    /// The header as it is on the wire.
    pub const fn to_wire(self) -> [u8; OFFLOAD_LEN] {
        let Self { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = self;
        let [[a, b], [c, d]] = [hdr_len.to_be_bytes(), gso_size.to_be_bytes()];
        let [[e, f], [g, h]] = [csum_start.to_be_bytes(), csum_offset.to_be_bytes()];
        [flags, gso_type, a, b, c, d, e, f, g, h]
    }

    /// Reads the header as the kernel's TUN has it: in the machine's own byte order.
    pub const fn from_kernel([flags, gso_type, a, b, c, d, e, f, g, h]: [u8; OFFLOAD_LEN]) -> Self {
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// The header for the kernel's TUN.
    pub const fn to_kernel(self) -> [u8; OFFLOAD_LEN] {
        let Self { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = self;
        let [[a, b], [c, d]] = [hdr_len.to_ne_bytes(), gso_size.to_ne_bytes()];
        let [[e, f], [g, h]] = [csum_start.to_ne_bytes(), csum_offset.to_ne_bytes()];
        [flags, gso_type, a, b, c, d, e, f, g, h]
    }

    /// The packet is complete as it is.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The packet stands for several.
    pub const fn is_super(&self) -> bool {
        self.gso_type != GSO_NONE
    }

    /// The checksum must be completed.
    pub const fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The packet's segments are TCP's (the others are UDP's). Of super-packets only.
    pub const fn is_tcp(&self) -> bool {
        matches!(self.gso_type & !GSO_ECN, GSO_TCPV4 | GSO_TCPV6)
    }

    /// The length of the longest segment with its headers; `None` of a packet that stands for itself.
    pub fn segment_len(&self) -> Option<u16> {
        self.is_super().then(|| self.hdr_len.saturating_add(self.gso_size))
    }

    /// How much a packet of `length` bytes counts for.
    pub fn size(&self, length: usize) -> Size {
        let packets = self.segments(length) as u64;
        Size { packets, bytes: length as u64 + (packets - 1) * u64::from(self.hdr_len) }
    }

    /// How many packets one of `length` bytes stands for; at least 1.
    pub fn segments(&self, length: usize) -> usize {
        if !self.is_super() {
            return 1;
        }
        let payload = length.saturating_sub(usize::from(self.hdr_len));
        payload.div_ceil(usize::from(self.gso_size).max(1)).max(1)
    }

    /// The header of a packet that needs its checksum completed and stands for itself.
    pub const fn checksum_only(csum_start: u16, csum_offset: u16) -> Self {
        Self { flags: NEEDS_CSUM, csum_start, csum_offset, ..Self::NONE }
    }

    /// The header of a super-packet over TCP whose transport header begins at `csum_start`.
    pub const fn tcp(is_v6: bool, ecn: bool, csum_start: u16, hdr_len: u16, gso_size: u16) -> Self {
        let kind = if is_v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        let gso_type = if ecn { kind | GSO_ECN } else { kind };
        Self { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size, csum_start, csum_offset: TCP_CHECKSUM }
    }

    /// The header of a super-packet over UDP whose transport header begins at `csum_start`.
    pub const fn udp(csum_start: u16, gso_size: u16) -> Self {
        let hdr_len = csum_start + UDP_HEADER as u16;
        let gso_type = GSO_UDP_L4;
        Self { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size, csum_start, csum_offset: UDP_CHECKSUM }
    }

    /// The header as the wire wants it, of one that the kernel gave with this packet: other flags
    /// cleared, the header's length computed, unused fields zero.
    pub fn normalised(self, packet: &[u8]) -> Self {
        if !self.needs_checksum() {
            // A super-packet without is not valid; `check` says so.
            let gso_type = self.gso_type;
            return Self { gso_type, ..Self::NONE };
        }
        if !self.is_super() {
            return Self::checksum_only(self.csum_start, self.csum_offset);
        }
        let transport = packet.get(usize::from(self.csum_start)..).unwrap_or_default();
        let hdr_len = match transport_header_len(self.is_tcp(), transport) {
            // Bounded by the packet's own length.
            Some(length) => self.csum_start.saturating_add(length as u16),
            None => 0,
        };
        Self { flags: NEEDS_CSUM, hdr_len, ..self }
    }

    /// Whether the header fits the packet, whose own header is checked already, and the packet the tunnel
    /// (PROTOCOL §6). After this, what it says can be relied on.
    ///
    /// # Errors
    ///
    /// [`DropReason::OffloadInvalid`], or [`DropReason::Malformed`] of a packet without offload header
    /// that is longer than `mtu`.
    pub fn check(&self, packet: &IpPacket<'_>, mtu: u16) -> Result<(), DropReason> {
        if self.is_none() {
            return Ok(check_mtu(packet, mtu)?);
        }
        let fits = match self.flags {
            NEEDS_CSUM if self.is_super() => self.super_packet_fits(packet, mtu),
            NEEDS_CSUM => self.checksum_fits(packet, mtu),
            _ => false,
        };
        if fits { Ok(()) } else { Err(DropReason::OffloadInvalid) }
    }

    /// Whether what is left to be done can be done in software. Less than [`check`](Self::check) asks for:
    /// the local kernel also gives what the wire does not carry, IPv6 extension headers among it.
    pub fn is_workable(&self, packet: &IpPacket<'_>) -> bool {
        let length = packet.as_bytes().len();
        let [start, offset] = [self.csum_start, self.csum_offset].map(usize::from);
        self.needs_checksum()
            && start >= packet.header_len()
            && start + offset + 2 <= length
            && (!self.is_super() || self.can_be_cut(packet))
    }

    /// There may be extension headers, and segments of any size and number.
    fn can_be_cut(&self, packet: &IpPacket<'_>) -> bool {
        let Some((version, protocol, csum_offset)) = self.kind(packet.version()) else { return false };
        let bytes = packet.as_bytes();
        let [start, hdr_len] = [self.csum_start, self.hdr_len].map(usize::from);
        let transport = bytes.get(start..).unwrap_or_default();
        let is_extended = version == 6 && start > packet.header_len();
        (packet.version(), self.csum_offset) == (version, csum_offset)
            && (is_extended || (start, packet.protocol()) == (packet.header_len(), protocol))
            && !packet.is_fragment()
            && transport_header_len(protocol == TCP, transport).is_some_and(|len| hdr_len == start + len)
            && hdr_len < bytes.len()
            && self.gso_size >= 1
    }

    /// IP version, protocol and checksum's offset of a super-packet's kind; of UDP's in either version.
    const fn kind(&self, version: u8) -> Option<(u8, u8, u16)> {
        match self.gso_type {
            GSO_TCPV4 | 0x81 => Some((4, TCP, TCP_CHECKSUM)),
            GSO_TCPV6 | 0x84 => Some((6, TCP, TCP_CHECKSUM)),
            GSO_UDP_L4 => Some((version, UDP, UDP_CHECKSUM)),
            _ => None,
        }
    }

    fn checksum_fits(&self, packet: &IpPacket<'_>, mtu: u16) -> bool {
        let length = packet.as_bytes().len();
        let [start, offset] = [self.csum_start, self.csum_offset].map(usize::from);
        (self.gso_size, self.hdr_len) == (0, 0)
            && length <= usize::from(mtu)
            && start >= packet.header_len()
            && start + offset + 2 <= length
    }

    fn super_packet_fits(&self, packet: &IpPacket<'_>, mtu: u16) -> bool {
        let Some((version, protocol, csum_offset)) = self.kind(packet.version()) else { return false };
        let bytes = packet.as_bytes();
        let [hdr_len, gso_size, start] = [self.hdr_len, self.gso_size, self.csum_start].map(usize::from);
        let transport = bytes.get(start..).unwrap_or_default();
        (packet.version(), packet.protocol(), self.csum_offset) == (version, protocol, csum_offset)
            && !packet.is_fragment()
            && start == packet.header_len()
            && transport_header_len(protocol == TCP, transport).is_some_and(|len| hdr_len == start + len)
            && hdr_len < bytes.len()
            && gso_size >= 1
            && hdr_len + gso_size <= usize::from(mtu)
            && self.segments(bytes.len()) <= MAX_SEGMENTS
    }
}

/// The length of a TCP or UDP header; `None` where it is cut or says nonsense.
fn transport_header_len(is_tcp: bool, transport: &[u8]) -> Option<usize> {
    let length = if is_tcp {
        match usize::from(*transport.get(TCP_DATA_OFFSET)? >> 4) * 4 {
            0..20 => return None,
            length => length,
        }
    } else {
        UDP_HEADER
    };
    (length <= transport.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::ip::tests::{v4, v6};

    /// A TCP header of `words` words and `payload` bytes.
    fn tcp(words: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4 + payload];
        bytes[12] = words << 4;
        bytes
    }

    fn over_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        v4([10, 8, 0, 2], [192, 0, 2, 1], protocol, payload)
    }

    fn over_v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        v6("fd00::2", "2001:db8::1", protocol, payload)
    }

    fn fits(bytes: &[u8], offload: Offload, mtu: u16) -> bool {
        let outcome = offload.check(&IpPacket::parse(bytes).unwrap(), mtu);
        assert!(matches!(outcome, Ok(()) | Err(DropReason::OffloadInvalid)), "{outcome:?}");
        outcome.is_ok()
    }

    #[test]
    fn the_wire_has_it_big_endian() {
        let offload =
            Offload { flags: 1, gso_type: 4, hdr_len: 60, gso_size: 1360, csum_start: 40, csum_offset: 16 };
        assert_eq!(offload, Offload::tcp(true, false, 40, 60, 1360));
        assert_eq!(offload.to_wire(), [1, 4, 0, 60, 5, 80, 0, 40, 0, 16]);
        if cfg!(target_endian = "little") {
            assert_eq!(offload.to_kernel(), [1, 4, 60, 0, 80, 5, 40, 0, 16, 0]);
        }
        assert_eq!(Offload::NONE.to_wire(), [0; OFFLOAD_LEN]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: [u8; OFFLOAD_LEN]) {
            prop_assert_eq!(Offload::from_wire(bytes).to_wire(), bytes);
            prop_assert_eq!(Offload::from_kernel(bytes).to_kernel(), bytes);
        }

        #[test]
        fn nothing_makes_it_panic(
            wire: [u8; OFFLOAD_LEN], bytes in proptest::collection::vec(any::<u8>(), 0..100), mtu: u16,
        ) {
            let offload = Offload::from_wire(wire);
            prop_assert!(offload.segments(bytes.len()) >= 1);
            prop_assert!(offload.size(bytes.len()).bytes >= bytes.len() as u64);
            offload.normalised(&bytes);
            for bytes in [over_v4(bytes.first().copied().unwrap_or(6), &bytes), over_v6(17, &bytes)] {
                let packet = IpPacket::parse(&bytes).unwrap();
                let _ = offload.check(&packet, mtu);
                let _ = offload.normalised(&bytes).check(&packet, mtu);
            }
        }
    }

    #[test]
    fn a_super_packet_counts_as_its_segments() {
        let offload = Offload::tcp(false, true, 20, 40, 1000);
        let size = |length| {
            let Size { packets, bytes } = offload.size(length);
            assert_eq!(packets, offload.segments(length) as u64);
            (packets, bytes)
        };
        assert_eq!(size(41), (1, 41));
        assert_eq!(size(1040), (1, 1040));
        assert_eq!(size(1041), (2, 1041 + 40));
        assert_eq!(size(2040), (2, 2040 + 40));
        assert_eq!(size(3000), (3, 3000 + 80));
        assert_eq!(offload.segment_len(), Some(1040));
        for single in [Offload::NONE, Offload::checksum_only(20, 16)] {
            assert_eq!((single.segments(60_000), single.segment_len()), (1, None));
            assert_eq!(single.size(60_000), Size { packets: 1, bytes: 60_000 });
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let kinds = [
            (Offload::NONE, true, false, false, false),
            (Offload::checksum_only(20, 6), false, false, true, false),
            (Offload::tcp(false, false, 20, 40, 1), false, true, true, true),
            (Offload::tcp(false, true, 20, 40, 1), false, true, true, true),
            (Offload::tcp(true, true, 40, 60, 1), false, true, true, true),
            (Offload::udp(20, 1), false, true, true, false),
        ];
        for (offload, none, super_packet, checksum, tcp) in kinds {
            assert_eq!((offload.is_none(), offload.is_super()), (none, super_packet), "{offload:?}");
            assert_eq!((offload.needs_checksum(), offload.is_tcp()), (checksum, tcp), "{offload:?}");
        }
        assert_eq!(Offload::udp(40, 9).hdr_len, 48);
    }

    #[test]
    fn what_the_kernel_says_is_normalised() {
        let packet = over_v4(TCP, &tcp(8, 500));
        let expected = Offload::tcp(false, false, 20, 52, 100);
        // Other flags («data is valid») and a header length that is only a hint.
        let said = Offload { flags: 3, hdr_len: 0, ..expected };
        assert_eq!(said.normalised(&packet), expected);
        let datagrams = Offload { hdr_len: 99, flags: 9, ..Offload::udp(20, 100) };
        assert_eq!(datagrams.normalised(&packet), Offload::udp(20, 100));
        // Sizes without a super-packet, and places without a checksum, mean nothing.
        let partial = Offload { hdr_len: 4, gso_size: 5, ..Offload::checksum_only(20, 16) };
        assert_eq!(partial.normalised(&packet), Offload::checksum_only(20, 16));
        let valid = Offload { flags: 2, csum_start: 7, csum_offset: 8, hdr_len: 9, ..Offload::NONE };
        assert!(valid.normalised(&packet).is_none());
        // Nonsense stays such.
        let bare = Offload { flags: 0, ..expected }.normalised(&packet);
        assert!(!fits(&packet, bare, 1420));
        for start in [0, 521, 552, 60_000] {
            let lost = Offload { csum_start: start, ..expected }.normalised(&packet);
            assert!(!fits(&packet, lost, 1420), "{start}");
        }
    }

    #[test]
    fn a_super_packet_fits_in_every_respect_or_not_at_all() {
        let (four, six) = (over_v4(TCP, &tcp(5, 3000)), over_v6(TCP, &tcp(8, 3000)));
        let (udp4, udp6) = (over_v4(UDP, &[0; 3008]), over_v6(UDP, &[0; 3008]));
        let good = Offload::tcp(false, false, 20, 40, 1380);
        assert!(fits(&four, good, 1420));
        assert!(fits(&four, Offload { gso_type: 0x81, ..good }, 1420));
        for gso_type in [4, 0x84] {
            assert!(fits(&six, Offload { gso_type, ..Offload::tcp(true, false, 40, 72, 1348) }, 1420));
        }
        assert!(fits(&udp4, Offload::udp(20, 1392), 1420));
        assert!(fits(&udp6, Offload::udp(40, 1372), 1420));

        for (what, offload) in [
            ("no flag", Offload { flags: 0, ..good }),
            ("another flag", Offload { flags: 2, ..good }),
            ("one flag more", Offload { flags: 3, ..good }),
            ("the other family", Offload { gso_type: 4, ..good }),
            ("UFO", Offload { gso_type: 3, ..good }),
            ("UDP", Offload { gso_type: 5, csum_offset: 6, hdr_len: 28, ..good }),
            ("ECN alone", Offload { gso_type: 0x80, ..good }),
            ("an unknown type", Offload { gso_type: 2, ..good }),
            ("the offset of UDP", Offload { csum_offset: 6, ..good }),
            ("a start before the header", Offload { csum_start: 16, ..good }),
            ("a start behind the header", Offload { csum_start: 24, hdr_len: 44, ..good }),
            ("a start beyond the packet", Offload { csum_start: 4000, ..good }),
            ("a shorter header", Offload { hdr_len: 36, ..good }),
            ("a longer header", Offload { hdr_len: 44, ..good }),
            ("segments of nothing", Offload { gso_size: 0, ..good }),
            ("segments over the MTU", Offload { gso_size: 1381, ..good }),
            ("too many segments", Offload { gso_size: 5, ..good }),
        ] {
            assert!(!fits(&four, offload, 1420), "{what}");
        }
        assert!(fits(&four, Offload { gso_size: 6, ..good }, 1420), "500 segments");
        assert!(!fits(&udp4, Offload { gso_type: 0x85, ..Offload::udp(20, 1000) }, 1420), "UDP with ECN");
        assert!(!fits(&six, Offload { gso_type: 1, ..Offload::tcp(true, false, 40, 72, 1348) }, 1420));
    }

    #[test]
    fn a_super_packet_is_plain_and_has_a_payload() {
        let good = Offload::tcp(false, false, 20, 40, 100);
        let mut packet = over_v4(TCP, &tcp(5, 3000));
        for (high, low, whole) in [(0x40, 0, true), (0x20, 0, false), (0, 1, false), (0x1f, 0, false)] {
            (packet[6], packet[7]) = (high, low);
            assert_eq!(fits(&packet, good, 1420), whole, "{high} {low}");
        }
        assert!(!fits(&over_v4(TCP, &tcp(5, 0)), good, 1420), "no payload");
        assert!(fits(&over_v4(TCP, &tcp(5, 1)), good, 1420), "one byte");
        assert!(
            !fits(&over_v4(TCP, &tcp(4, 3000)), Offload { hdr_len: 36, ..good }, 1420),
            "a short TCP header"
        );
        assert!(!fits(&over_v4(TCP, &tcp(8, 0)[..30]), Offload { hdr_len: 52, ..good }, 1420), "a cut one");
        assert!(!fits(&over_v4(UDP, &[0; 7]), Offload::udp(20, 100), 1420), "a cut UDP header");
        let extended = over_v6(0, &[&[TCP, 0, 0, 0, 0, 0, 0, 0][..], &tcp(5, 300)].concat());
        for start in [40, 48] {
            assert!(!fits(&extended, Offload::tcp(true, false, start, start + 20, 100), 1420), "extensions");
        }
        let mut options = over_v4(TCP, &[&[1; 4][..], &tcp(5, 300)].concat());
        options[0] = 0x46;
        assert!(fits(&options, Offload { csum_start: 24, hdr_len: 44, ..good }, 1420), "options");
        assert!(!fits(&options, good, 1420));
    }

    #[test]
    fn a_checksum_is_within_the_packet_and_behind_its_header() {
        let packet = over_v4(UDP, &[0; 100]);
        let good = Offload::checksum_only(20, 6);
        assert!(fits(&packet, good, 120));
        assert!(fits(&packet, Offload::checksum_only(20, 98), 120));
        assert!(fits(&packet, Offload::checksum_only(118, 0), 120));
        for (what, offload) in [
            ("in the header", Offload::checksum_only(19, 6)),
            ("beyond the end", Offload::checksum_only(20, 99)),
            ("a start beyond the end", Offload::checksum_only(119, 0)),
            ("far away", Offload::checksum_only(u16::MAX, u16::MAX)),
            ("a segment's size", Offload { gso_size: 1, ..good }),
            ("a header's length", Offload { hdr_len: 28, ..good }),
            ("another flag", Offload { flags: 3, ..good }),
            ("no flag", Offload { flags: 0, ..good }),
        ] {
            assert!(!fits(&packet, offload, 120), "{what}");
        }
        assert!(!fits(&packet, good, 119), "over the MTU");
        let packet = IpPacket::parse(&packet).unwrap();
        assert_eq!(Offload::NONE.check(&packet, 120), Ok(()));
        assert_eq!(Offload::NONE.check(&packet, 119), Err(DropReason::Malformed));
    }
}
