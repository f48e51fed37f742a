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
