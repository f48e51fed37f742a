//! Checksums (RFC 1071), once more and by hand.

/// The one's complement sum; `0xffff` over what contains its own right checksum.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of a packet's upper layer, which begins at `start`, with its pseudo-header.
pub fn transport_sum(packet: &[u8], start: usize, protocol: u8) -> u16 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let length = ((packet.len() - start) as u32).to_be_bytes();
    sum(&[addresses, &length, &[0, protocol], &packet[start..]])
}

/// Whether the checksum of an IPv4 header is right; IPv6 has none.
pub fn header_is_right(packet: &[u8]) -> bool {
    packet[0] >> 4 != 4 || sum(&[&packet[..usize::from(packet[0] & 15) * 4]]) == 0xffff
}
