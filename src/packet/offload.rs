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
        let [start, offset, hdr_len] = [self.csum_start, self.csum_offset, self.hdr_len].map(usize::from);
        let can_sum = self.needs_checksum() && start >= packet.header_len() && start + offset + 2 <= length;
        let can_cut = !self.is_super()
            || self.gso_size > 0 && hdr_len > start && hdr_len < length && !packet.is_fragment();
        can_sum && can_cut
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
        let (version, protocol, csum_offset) = match self.gso_type {
            GSO_TCPV4 | 0x81 => (4, TCP, TCP_CHECKSUM),
            GSO_TCPV6 | 0x84 => (6, TCP, TCP_CHECKSUM),
            GSO_UDP_L4 => (packet.version(), UDP, UDP_CHECKSUM),
            _ => return false,
        };
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
