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
