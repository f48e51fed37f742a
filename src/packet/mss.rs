//! Keeps TCP segments within the tunnel's MTU by what both ends of a connection announce.
//!
//! Path MTU discovery would find the same size, but after a lost packet for each connection, and not
//! at all where a firewall on the way eats ICMP.

use super::checksum;
use super::upper::{Fragment, TCP, is_extension, upper_layer};

/// IP and TCP headers without options, which is what an MSS leaves room for (RFC 6691).
const IPV4_HEADERS: u16 = 20 + 20;
const IPV6_HEADERS: u16 = 40 + 20;

const TCP_HEADER: usize = 20;
const CHECKSUM: usize = 16;
const SYN: u8 = 0x02;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: usize = 4;

/// Lowers the maximum segment size that a SYN or SYN-ACK announces to what fits a packet of `mtu`
/// bytes, and mends its checksum, in place.
///
/// Everything else is left alone: other packets, fragments, a smaller announcement, none at all (it
/// means 536 or 1,220, which every tunnel takes), and options that are malformed from there on. A
/// checksum that was wrong stays wrong. The checksum must be a complete one.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) {
    let Some(tcp) = synchronising(packet) else { return };
    let headers = if packet[0] >> 4 == 4 { IPV4_HEADERS } else { IPV6_HEADERS };
    clamp_options(&mut packet[tcp..], mtu.saturating_sub(headers));
}

/// Where the TCP header of a packet with SYN begins; all of it but its options is within the packet.
fn synchronising(packet: &[u8]) -> Option<usize> {
    // The first bytes tell nearly every packet.
    let tcp = match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP => usize::from(packet[0] & 0x0f) * 4,
        6 => match *packet.get(6)? {
            TCP => 40,
            next_header if is_extension(next_header) => upper_layer(packet)?.offset,
            _ => return None,
        },
        _ => return None,
    };
    if packet.get(tcp + 13)? & SYN == 0 {
        return None;
    }
    let upper = upper_layer(packet).filter(|upper| upper.protocol == TCP)?;
    let whole = upper.fragment == Fragment::Whole && packet.len() - upper.offset >= TCP_HEADER;
    whole.then_some(upper.offset)
}

/// `segment` begins with a whole TCP header without options.
fn clamp_options(segment: &mut [u8], most: u16) {
    let header_length = usize::from(segment[12] >> 4) * 4;
    if header_length > segment.len() {
        return;
    }
    let mut at = TCP_HEADER;
    while at < header_length {
        let length = match segment[at] {
            END_OF_OPTIONS => return,
            NO_OPERATION => 1,
            kind => {
                let length = segment.get(at + 1).map_or(0, |length| usize::from(*length));
                if length < 2 || at + length > header_length {
                    return;
                }
                if kind == MSS && length == MSS_LENGTH {
                    lower(segment, at + 2, most);
                }
                length
            }
        };
        at += length;
    }
}

/// Lowers the value at `at`, which is within the segment, and mends the checksum.
fn lower(segment: &mut [u8], at: usize, most: u16) {
    let announced = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if announced <= most {
        return;
    }
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // Behind an odd number of no-operations, the value lies across two words of the sum.
    let (old, new) = match at % 2 {
        0 => (announced, most),
        _ => (announced.swap_bytes(), most.swap_bytes()),
    };
    let sum = u16::from_be_bytes([segment[CHECKSUM], segment[CHECKSUM + 1]]);
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum::updated(sum, old, new).to_be_bytes());
}
