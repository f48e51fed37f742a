//! Cuts an IPv4 packet into fragments (RFC 791 §3.2).
//!
//! The kernel does so for the MTU of its TUN. The server has one TUN for clients that agreed on
//! different MTUs, and is the last router before each of them.

use super::checksum::Sum;
use super::ip::{IpPacket, Malformed};

const FIXED_HEADER: usize = 20;
/// The longest header: 15 words.
const MAX_HEADER: usize = 60;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The bit of an option's kind that says that every fragment has the option.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Hands the fragments of `packet` to `forward`, in order, each at most `mtu` bytes long and made in
/// `scratch`. The packet [may be fragmented](IpPacket::may_be_fragmented); it may be a fragment.
///
/// # Errors
/// A fragment that would end beyond the longest datagram: nobody could put it together. Nothing is
/// forwarded then.
pub(super) fn fragment(
    packet: &IpPacket<'_>,
    mtu: u16,
    scratch: &mut Vec<u8>,
    mut forward: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    let (mut header, payload) = packet.as_bytes().split_at(packet.header_len());
    let mut later = [0; MAX_HEADER];
    let later_length = later_header(header, &mut later);
    let field = u16::from_be_bytes([header[6], header[7]]);
    let mut offset = usize::from(field & OFFSET) * 8;
    let end = offset + payload.len();
    if end > usize::from(u16::MAX) {
        return Err(Malformed::Length { announced: end, arrived: payload.len() });
    }
    let mut rest = payload;
    while !rest.is_empty() {
        // At least eight bytes, whatever the MTU: it never is that small.
        let room = (usize::from(mtu).saturating_sub(header.len()) & !7).max(8);
        let (part, after) = rest.split_at(room.min(rest.len()));
        scratch.clear();
        scratch.extend_from_slice(header);
        scratch.extend_from_slice(part);
        // Both are below 2^16, as their sum was above.
        let units = (offset / 8) as u16;
        let more = if after.is_empty() { field & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
        complete(scratch, header.len(), (field & !(MORE_FRAGMENTS | OFFSET)) | more | units);
        forward(scratch);
        header = &later[..later_length];
        offset += part.len();
        rest = after;
    }
    Ok(())
}

/// Writes what differs between fragments: length, offset and checksum.
fn complete(fragment: &mut [u8], header_length: usize, field: u16) {
    // A part of a packet whose length fitted 16 bits.
    let length = fragment.len() as u16;
    fragment[2..4].copy_from_slice(&length.to_be_bytes());
    fragment[6..8].copy_from_slice(&field.to_be_bytes());
    fragment[10..12].fill(0);
    let checksum = Sum::default().add(&fragment[..header_length]).checksum();
    fragment[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Makes the header of the fragments after the first: with the options that are to be copied.
/// Returns its length, at most that of `header`.
fn later_header(header: &[u8], later: &mut [u8; MAX_HEADER]) -> usize {
    later[..FIXED_HEADER].copy_from_slice(&header[..FIXED_HEADER]);
    let mut length = FIXED_HEADER;
    let mut options = &header[FIXED_HEADER..];
    while let [kind, after @ ..] = options {
        match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => options = after,
            kind => {
                let size = after.first().map_or(0, |size| usize::from(*size));
                if size < 2 || size > options.len() {
                    break;
                }
                let (option, rest) = options.split_at(size);
                if kind & COPIED != 0 {
                    later[length..length + size].copy_from_slice(option);
                    length += size;
                }
                options = rest;
            }
        }
    }
    // What fills the last word is zero, which is the end of options.
    let words = length.div_ceil(4);
    later[0] = 0x40 | words as u8;
    words * 4
}

#[cfg(test)]
mod tests {
    use etherparse::defrag::IpDefragPool;
    use etherparse::{Ipv4HeaderSlice, SlicedPacket};
    use proptest::prelude::*;

    use super::fragment;
    use crate::packet::IpPacket;
    use crate::packet::ip::tests::v4;

    /// An IPv4 packet with that much of a payload in which no two places look alike.
    fn packet(payload: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..payload).map(|at| (at % 251) as u8).collect();
        let mut bytes = v4([10, 8, 0, 1], [10, 8, 0, 2], 17, &payload);
        bytes[4..6].copy_from_slice(&[0xbe, 0xef]);
        bytes
    }

    fn with_options(payload: usize, options: &[u8]) -> Vec<u8> {
        let mut bytes = packet(payload);
        bytes.splice(20..20, options.iter().copied());
        bytes[0] = 0x45 + (options.len() / 4) as u8;
        let length = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        bytes
    }

    fn fragments(bytes: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let (mut scratch, mut fragments) = (Vec::new(), Vec::new());
        fragment(&IpPacket::parse(bytes).unwrap(), mtu, &mut scratch, |part| fragments.push(part.to_vec()))
            .unwrap();
        for part in &fragments {
            let header = Ipv4HeaderSlice::from_slice(part).unwrap().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(IpPacket::parse(part).is_ok() && part.len() <= usize::from(mtu));
        }
        fragments
    }

    /// What a host makes of the fragments.
    fn reassembled<'a>(fragments: impl IntoIterator<Item = &'a Vec<u8>>) -> Option<Vec<u8>> {
        let mut pool = IpDefragPool::<(), ()>::new();
        let mut whole = None;
        for part in fragments {
            let part = SlicedPacket::from_ip(part).unwrap();
            whole = pool.process_sliced_packet(&part, (), ()).unwrap().or(whole);
        }
        whole.map(|whole| whole.payload)
    }

    #[test]
    fn a_packet_comes_whole_out_of_its_fragments() {
        let bytes = packet(1400);
        let parts = fragments(&bytes, 576);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [572, 572, 316]);
        assert_eq!(reassembled(&parts).unwrap(), bytes[20..]);
        assert_eq!(reassembled(parts.iter().rev()).unwrap(), bytes[20..], "in any order");
    }

    #[test]
    fn a_fragment_can_be_cut_again() {
        let bytes = packet(4000);
        let once = fragments(&bytes, 1420);
        let twice: Vec<_> = once.iter().flat_map(|part| fragments(part, 600)).collect();
        assert_eq!(reassembled(&twice).unwrap(), bytes[20..]);
    }

    #[test]
    fn only_options_for_every_fragment_are_in_each() {
        // Record route is for the first only, the router alert (148) is copied.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        let parts = fragments(&with_options(900, &options), 576);
        assert_eq!(parts[0][20..32], options);
        assert_eq!(parts[1][0], 0x46);
        assert_eq!(parts[1][20..24], [148, 4, 0, 0]);
        assert_eq!(reassembled(&parts).unwrap(), packet(900)[20..]);
    }

    #[test]
    fn nothing_is_sent_that_no_host_could_put_together() {
        let mut bytes = packet(1400);
        (bytes[6], bytes[7]) = (0x1f, 0xff);
        let mut scratch = Vec::new();
        let cut = fragment(&IpPacket::parse(&bytes).unwrap(), 576, &mut scratch, |_| panic!("forwarded"));
        assert!(cut.is_err());
    }

    proptest! {
        #[test]
        fn any_packet_comes_whole(
            payload in 1..9000_usize, mtu in 576..2000_u16,
            options in proptest::collection::vec(any::<u8>(), 0..=10).prop_map(|mut words| {
                words.resize(words.len() * 4, 0);
                words
            }),
        ) {
            let bytes = with_options(payload, &options);
            let parts = fragments(&bytes, mtu);
            if parts.len() > 1 {
                prop_assert_eq!(reassembled(&parts).unwrap(), &packet(payload)[20..]);
            } else {
                prop_assert_eq!(&parts[0][20 + options.len()..], &packet(payload)[20..]);
            }
        }
    }
}
