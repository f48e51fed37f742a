//! One IPv4 or IPv6 packet whose header was checked against its length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// In the byte of IPv4's flags.
const DONT_FRAGMENT: u8 = 0x40;

/// A view of exactly one IP packet. Only [`parse`](Self::parse) makes one (and
/// [`parse_start`](Self::parse_start), of a beginning), so its accessors have nothing left to check.
///
/// ```text
/// IPv4  0 version|IHL   2..4 total length     9 protocol      12..16 source   16..20 destination
/// IPv6  0 version       4..6 payload length   6 next header    8..24 source   24..40 destination
/// ```
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    header: Header<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Header<'a> {
    V4(&'a [u8; IPV4_HEADER]),
    V6(&'a [u8; IPV6_HEADER]),
}

/// What makes a run of bytes not one IP packet (PROTOCOL §6, «any packet»); all of it is counted as
/// [`DropReason::Malformed`](crate::telemetry::DropReason::Malformed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No bytes at all.
    #[error("an empty packet")]
    Empty,
    /// The first four bits are neither 4 nor 6.
    #[error("IP version {0}")]
    Version(u8),
    /// Shorter than the fixed header of its version.
    #[error("shorter than its header")]
    Truncated,
    /// The IPv4 header length is under five words or runs beyond the packet.
    #[error("an IPv4 header of {0} words")]
    HeaderLength(u8),
    /// The header tells another length than what arrived.
    #[error("{arrived} bytes where the header says {announced}")]
    Length {
        /// By the header.
        announced: usize,
        /// In fact.
        arrived: usize,
    },
    /// An IPv6 packet whose length is left to a hop-by-hop option; not carried.
    #[error("a jumbogram")]
    Jumbogram,
    /// Longer than the tunnel's MTU.
    #[error("longer than the tunnel's MTU of {0}")]
    OverMtu(u16),
}

impl<'a> IpPacket<'a> {
    /// Checks that `bytes` are one whole packet: version, header length, and that the length in the
    /// header is that of the slice. Checksums and extension headers are left alone.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let packet = Self::parse_start(bytes)?;
        let announced = packet.total_len();
        if announced == bytes.len() {
            Ok(packet)
        } else {
            Err(Malformed::Length { announced, arrived: bytes.len() })
        }
    }

    /// As [`parse`](Self::parse), for bytes that may be only the beginning of a packet, as when it
    /// was longer than the room it was read into: what its header says of its length is not checked.
    pub fn parse_start(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().ok_or(Malformed::Empty)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            version => Err(Malformed::Version(version)),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<IPV4_HEADER>().ok_or(Malformed::Truncated)?;
        let words = header[0] & 0x0f;
        if words < 5 || usize::from(words) * 4 > bytes.len() {
            return Err(Malformed::HeaderLength(words));
        }
        Ok(Self { bytes, header: Header::V4(header) })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        /// A payload length of 0 in front of hop-by-hop options announces a jumbogram (RFC 2675 §3).
        const HOP_BY_HOP: u8 = 0;

        let header = bytes.first_chunk::<IPV6_HEADER>().ok_or(Malformed::Truncated)?;
        if header[4..6] == [0, 0] && header[6] == HOP_BY_HOP {
            return Err(Malformed::Jumbogram);
        }
        Ok(Self { bytes, header: Header::V6(header) })
    }

    /// 4 or 6.
    pub fn version(&self) -> u8 {
        match self.header {
            Header::V4(_) => 4,
            Header::V6(_) => 6,
        }
    }

    /// The source address.
    pub fn src(&self) -> IpAddr {
        match self.header {
            Header::V4(&[_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..]) => {
                Ipv4Addr::new(a, b, c, d).into()
            }
            Header::V6(header) => v6_address(header, 8).into(),
        }
    }

    /// The destination address.
    pub fn dst(&self) -> IpAddr {
        match self.header {
            Header::V4(&[.., a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
            Header::V6(header) => v6_address(header, 24).into(),
        }
    }

    /// The protocol number; for IPv6 that of the first header after the fixed one, which may be an
    /// extension header.
    pub fn protocol(&self) -> u8 {
        match self.header {
            Header::V4(header) => header[9],
            Header::V6(header) => header[6],
        }
    }

    /// The length in bytes of the whole packet, by its header.
    pub fn total_len(&self) -> usize {
        match self.header {
            Header::V4(header) => usize::from(u16::from_be_bytes([header[2], header[3]])),
            Header::V6(header) => IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]])),
        }
    }

    /// Whether routers may cut the packet into fragments: only IPv4 without «don't fragment».
    pub fn may_be_fragmented(&self) -> bool {
        matches!(self.header, Header::V4(header) if header[6] & DONT_FRAGMENT == 0)
    }

    /// Whether the IPv4 header says that this is a part of a datagram. (In IPv6 an extension header does.)
    pub fn is_fragment(&self) -> bool {
        /// «More fragments» and the offset; the bits beside them are «don't fragment» and a reserved one.
        const PART: u8 = 0x3f;
        matches!(self.header, Header::V4(header) if header[6] & PART != 0 || header[7] != 0)
    }

    /// The length in bytes of the IPv4 header with its options, or of the fixed IPv6 header.
    pub fn header_len(&self) -> usize {
        match self.header {
            Header::V4(header) => usize::from(header[0] & 0x0f) * 4,
            Header::V6(_) => IPV6_HEADER,
        }
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        // `parse` has seen that the header ends within the packet.
        &self.bytes[self.header_len()..]
    }

    /// The packet's bytes: all of them, or what [`parse_start`](Self::parse_start) was given.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A packet without offload header is no longer than the tunnel's MTU: its sender knows it too.
pub fn check_mtu(packet: &IpPacket<'_>, mtu: u16) -> Result<(), Malformed> {
    if packet.as_bytes().len() > usize::from(mtu) { Err(Malformed::OverMtu(mtu)) } else { Ok(()) }
}

/// The address at `offset`, which is 8 or 24.
fn v6_address(header: &[u8; IPV6_HEADER], offset: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[offset..offset + 16]);
    octets.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::telemetry::Priority;

    #[test]
    fn reads_an_ipv4_packet() {
        let bytes = v4([10, 8, 0, 2], [192, 0, 2, 1], 17, &[7; 12]);
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!(packet.version(), 4);
        assert_eq!(packet.src(), IpAddr::from([10, 8, 0, 2]));
        assert_eq!(packet.dst(), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(packet.protocol(), 17);
        assert_eq!(packet.header_len(), 20);
        assert_eq!(packet.payload(), [7; 12]);
        assert_eq!(packet.as_bytes(), bytes);
    }

    #[test]
    fn options_belong_to_the_ipv4_header() {
        let mut bytes = v4([10, 8, 0, 2], [192, 0, 2, 1], 6, &[0; 44]);
        bytes[0] = 0x4f;
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!((packet.header_len(), packet.payload().len()), (60, 4));
    }

    #[test]
    fn reads_an_ipv6_packet() {
        let bytes = v6("fd00::2", "2001:db8::1", 58, &[9; 8]);
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!(packet.version(), 6);
        assert_eq!(packet.src(), "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(packet.dst(), "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!((packet.protocol(), packet.header_len()), (58, 40));
        assert_eq!(packet.payload(), [9; 8]);
    }

    #[test]
    fn a_bare_header_is_a_packet() {
        assert!(IpPacket::parse(&v4([1, 2, 3, 4], [5, 6, 7, 8], 6, &[])).unwrap().payload().is_empty());
        assert!(IpPacket::parse(&v6("::1", "::2", 59, &[])).unwrap().payload().is_empty());
    }

    #[test]
    fn refuses_what_is_not_one_whole_packet() {
        let four = v4([10, 8, 0, 2], [192, 0, 2, 1], 17, &[0; 8]);
        let six = v6("fd00::2", "fd00::1", 17, &[0; 8]);
        let with = |bytes: &[u8], index: usize, value: u8| {
            let mut changed = bytes.to_vec();
            changed[index] = value;
            changed
        };
        let length = |announced, arrived| Malformed::Length { announced, arrived };
        let table = [
            ("nothing", vec![], Malformed::Empty),
            ("version 0", with(&four, 0, 0x05), Malformed::Version(0)),
            ("version 5", with(&four, 0, 0x55), Malformed::Version(5)),
            ("version 15", with(&four, 0, 0xf5), Malformed::Version(15)),
            ("one byte of IPv4", vec![0x45], Malformed::Truncated),
            ("19 bytes of IPv4", four[..19].to_vec(), Malformed::Truncated),
            ("IHL 0", with(&four, 0, 0x40), Malformed::HeaderLength(0)),
            ("IHL 4", with(&four, 0, 0x44), Malformed::HeaderLength(4)),
            ("IHL beyond the packet", with(&four, 0, 0x48), Malformed::HeaderLength(8)),
            ("a byte short of its total length", four[..27].to_vec(), length(28, 27)),
            ("a byte over its total length", [&four[..], &[0]].concat(), length(28, 29)),
            ("total length 0", with(&with(&four, 2, 0), 3, 0), length(0, 28)),
            ("total length within the header", with(&four, 3, 19), length(19, 28)),
            ("39 bytes of IPv6", six[..39].to_vec(), Malformed::Truncated),
            ("an IPv6 byte short", six[..47].to_vec(), length(48, 47)),
            ("an IPv6 byte over", [&six[..], &[0]].concat(), length(48, 49)),
            ("payload length 0 before a payload", with(&six, 5, 0), length(40, 48)),
            ("a jumbogram", with(&with(&six, 5, 0), 6, 0), Malformed::Jumbogram),
        ];
        for (what, bytes, expected) in table {
            assert_eq!(IpPacket::parse(&bytes).unwrap_err(), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..=65_535)) {
            read_everything(&bytes);
        }

        /// Random bytes are hardly ever a packet; these have a plausible start.
        #[test]
        fn what_parses_is_consistent(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..200),
            six: bool, exact: bool,
        ) {
            bytes[0] = if six { 0x60 } else { 0x40 | (bytes[0] & 0x0f) };
            if exact {
                let (at, length) = if six { (4, bytes.len().saturating_sub(40)) } else { (2, bytes.len()) };
                bytes[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            read_everything(&bytes);
        }
    }

    fn read_everything(bytes: &[u8]) {
        let Ok(packet) = IpPacket::parse(bytes) else { return };
        assert_eq!(packet.as_bytes(), bytes);
        assert_eq!(packet.header_len() + packet.payload().len(), bytes.len());
        assert_eq!(packet.src().is_ipv4(), packet.version() == 4);
        assert_eq!(packet.dst().is_ipv6(), packet.version() == 6);
        let _ = packet.protocol();
    }

    pub(crate) fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend_from_slice(&src);
        bytes.extend_from_slice(&dst);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A packet of class high (ICMP) or normal (UDP), as its headers tell, that may not be fragmented.
    pub(crate) fn of_class(class: Priority, src: [u8; 4], dst: [u8; 4], length: usize) -> Vec<u8> {
        let (protocol, first) = if class == Priority::High { (1, 8) } else { (17, 0x33) };
        let mut bytes = v4(src, dst, protocol, &[&[first; 4][..], &vec![1; length - 24]].concat());
        bytes[6] = 0x40;
        bytes
    }

    pub(crate) fn v6(src: &str, dst: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], next_header, 64];
        bytes.extend_from_slice(&src.parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend_from_slice(&dst.parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend_from_slice(payload);
        bytes
    }
}
