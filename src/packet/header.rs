//! The fields of IP, TCP and UDP headers that change as payloads are cut and joined.

use super::checksum::Sum;
use super::upper::{TCP, UDP};

pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;

/// Offsets in an IPv4 header, whose total length is at 2.
pub(super) const IPV4_ID: usize = 4;
const IPV4_CHECKSUM: usize = 10;

/// Offsets in a TCP header.
pub(super) const TCP_SEQUENCE: usize = 4;
pub(super) const TCP_FLAGS: usize = 13;
pub(super) const TCP_CHECKSUM: usize = 16;

/// Offsets in a UDP header.
pub(super) const UDP_LENGTH: usize = 4;
pub(super) const UDP_CHECKSUM: usize = 6;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// Where the headers of a TCP segment or UDP datagram are in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    /// Where the transport header begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
}

impl Layout {
    /// Offset of the checksum in the transport header.
    pub(super) fn csum_offset(self) -> usize {
        if self.is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// Writes the lengths that follow from the packet's own, and the IPv4 header's checksum.
    pub(super) fn set_lengths(self, packet: &mut [u8]) {
        // Callers keep packets within 65,535 bytes, or those behind an IPv6 header.
        let length = packet.len() as u16;
        if self.is_v4 {
            put16(packet, 2, length);
            put16(packet, IPV4_CHECKSUM, 0);
            let checksum = Sum::default().add(&packet[..self.transport]).checksum();
            put16(packet, IPV4_CHECKSUM, checksum);
        } else {
            put16(packet, 4, (packet.len() - IPV6_HEADER) as u16);
        }
        if !self.is_tcp {
            put16(packet, self.transport + UDP_LENGTH, (packet.len() - self.transport) as u16);
        }
    }

    /// The sum of the pseudo-header without the length.
    pub(super) fn pseudo_header(self, packet: &[u8]) -> Sum {
        let addresses = if self.is_v4 { &packet[12..20] } else { &packet[8..40] };
        Sum::default().add(addresses).add(&[0, if self.is_tcp { TCP } else { UDP }])
    }

    /// Writes the checksum of all behind the IP header; `pseudo_header` is without the length.
    pub(super) fn complete(self, packet: &mut [u8], pseudo_header: Sum) {
        let at = self.transport + self.csum_offset();
        put16(packet, at, 0);
        let transport = &packet[self.transport..];
        let checksum = pseudo_header.add_length(transport.len()).add(transport).checksum();
        // In UDP, 0 stands for no checksum (RFC 768).
        let checksum = if checksum == 0 && !self.is_tcp { 0xffff } else { checksum };
        put16(packet, at, checksum);
    }

    /// Writes what somebody else is to complete the checksum from.
    pub(super) fn leave_partial(self, packet: &mut [u8], pseudo_header: Sum) {
        let partial = pseudo_header.add_length(packet.len() - self.transport).partial();
        put16(packet, self.transport + self.csum_offset(), partial);
    }
}

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
