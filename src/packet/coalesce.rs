//! Joins packets of one flow to super-packets, so that one system call and one pass through the kernel
//! carries them (the opposite of [`segment`](super::segment()); what the kernel calls GRO).
//!
//! Packets are joined only where the segments of the super-packet would be them again: all that differs
//! between their headers is what segmentation writes. One freedom is the kernel's own: the IPv4 ids of packets
//! that may not be fragmented mean nothing (RFC 6864 §4.1) and may stand still.

use super::candidate::{Candidate, Flow, Place};
use super::header::TCP_FLAGS;
use super::offload::Offload;

/// Groups that are open at a time. The sender's queue interleaves the flows that are busy at a moment, of
/// which there are few; the search through the groups is linear.
const MAX_GROUPS: usize = 8;

/// Bytes that are held at most: two of the longest super-packets. It bounds the memory of a burst of flows;
/// a message from the tunnel, after which all is flushed, is hardly longer.
const MAX_HELD: usize = 2 * MAX_LENGTH;

/// The longest super-packet: what fits a record of the tunnel, and an IPv4 total length.
const MAX_LENGTH: usize = 65_535;

/// Packets in a group: `UDP_MAX_SEGMENTS` of kernels before 6.9. TCP knows no limit, but with segments of
/// 1,000 bytes and more, which is where joining pays, the length ends a group about as early.
const MAX_JOINED: usize = 64;

/// Joins the packets that are written to the TUN. What one flow sends stays in order.
#[derive(Debug)]
pub struct Coalescer {
    udp: bool,
    /// The first `open` of them hold packets, the oldest first; the others' buffers wait, the one used last in
    /// front.
    groups: [Group; MAX_GROUPS],
    open: usize,
    held: usize,
}

/// Packets of one flow that are to leave together.
#[derive(Debug, Default)]
struct Group {
    /// The first packet as it came, and the payloads of the others.
    bytes: Vec<u8>,
    /// What the first packet is; its payload is as long as that of each other but the last, which may be shorter.
    first: Candidate,
    /// Its offload header.
    offload: Offload,
    /// Its checksum was found right, or need not be looked at. A lone packet's never is.
    is_verified: bool,
    joined: usize,
    /// FIN and PSH of the last packet.
    ending: u8,
    /// By how much IPv4 ids grow from packet to packet, which the second one tells.
    id_step: u16,
}

impl Coalescer {
    /// `udp`: whether the device takes super-packets over UDP as well.
    pub fn new(udp: bool) -> Self {
        Self { udp, groups: Default::default(), open: 0, held: 0 }
    }

    /// Takes a copy of the packet, to be handed out by [`flush`](Self::flush) at the latest, or hands it to
    /// `write` at once; what must go before it, because it is of the same flow, goes first. `write` gets bytes
    /// that are free to be changed.
    pub fn push(&mut self, packet: &mut [u8], offload: Offload, write: &mut impl FnMut(&mut [u8], Offload)) {
        if self.open == 0 && offload.is_super() {
            return write(packet, offload);
        }
        match Place::of(packet) {
            Place::Other => write(packet, offload),
            Place::Unclear => {
                self.flush_where(write, |group| group.first.flow.is_between(&group.bytes, packet));
                write(packet, offload);
            }
            Place::Flow(flow) => self.push_flow(packet, offload, flow, write),
        }
    }

    fn push_flow(
        &mut self,
        packet: &mut [u8],
        offload: Offload,
        flow: Flow,
        write: &mut impl FnMut(&mut [u8], Offload),
    ) {
        let open = &self.groups[..self.open];
        let index =
            open.iter().position(|group| flow == group.first.flow && flow.is_of(&group.bytes, packet));
        let candidate = if self.udp || flow.is_tcp { Candidate::of(packet, offload, flow) } else { None };
        let Some(candidate) = candidate else {
            if let Some(index) = index {
                self.flush_group(index, write);
            }
            return write(packet, offload);
        };
        let mut is_verified = candidate.is_partial;
        if let Some(index) = index {
            let group = &mut self.groups[index];
            if group.fits(&candidate, packet) && group.verify() {
                is_verified = is_verified || candidate.verify(packet);
                if is_verified && self.held + candidate.payload_len <= MAX_HELD {
                    return self.join(index, &candidate, packet, write);
                }
                self.flush_group(index, write);
                if !is_verified {
                    return write(packet, offload);
                }
            } else {
                self.flush_group(index, write);
            }
        }
        if candidate.ending != 0 {
            return write(packet, offload);
        }
        self.open(candidate, is_verified, packet, offload, write);
    }

    /// Hands out all that is held.
    pub fn flush(&mut self, write: &mut impl FnMut(&mut [u8], Offload)) {
        for group in &mut self.groups[..self.open] {
            group.write(write);
        }
        (self.open, self.held) = (0, 0);
    }

    /// Gives back the memory that holds no packets.
    pub fn shrink(&mut self) {
        for group in &mut self.groups[self.open..] {
            group.bytes = Vec::new();
        }
    }

    /// Bytes of memory that it keeps.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.groups.iter().map(|group| group.bytes.capacity()).sum::<usize>()
    }

    fn join(
        &mut self,
        index: usize,
        candidate: &Candidate,
        packet: &[u8],
        write: &mut impl FnMut(&mut [u8], Offload),
    ) {
        let group = &mut self.groups[index];
        self.held += candidate.payload_len;
        if group.joined == 1 && candidate.flow.is_v4 {
            group.id_step = candidate.id.wrapping_sub(group.first.id);
        }
        extend(&mut group.bytes, &packet[candidate.payload..]);
        group.joined += 1;
        group.ending = candidate.ending;
        // What is shorter than the others can only be the last.
        let is_last = candidate.ending != 0 || candidate.payload_len < group.first.payload_len;
        if is_last || group.joined == MAX_JOINED {
            self.flush_group(index, write);
        }
    }

    fn open(
        &mut self,
        candidate: Candidate,
        is_verified: bool,
        packet: &[u8],
        offload: Offload,
        write: &mut impl FnMut(&mut [u8], Offload),
    ) {
        while self.open == MAX_GROUPS || (self.open > 0 && self.held + packet.len() > MAX_HELD) {
            self.flush_group(0, write);
        }
        let group = &mut self.groups[self.open];
        group.bytes.clear();
        extend(&mut group.bytes, packet);
        group.first = candidate;
        group.offload = offload;
        group.is_verified = is_verified;
        (group.joined, group.ending) = (1, 0);
        self.open += 1;
        self.held += packet.len();
    }

    fn flush_group(&mut self, index: usize, write: &mut impl FnMut(&mut [u8], Offload)) {
        let group = &mut self.groups[index];
        self.held -= group.bytes.len();
        group.write(write);
        self.groups[index..self.open].rotate_left(1);
        self.open -= 1;
    }

    fn flush_where(&mut self, write: &mut impl FnMut(&mut [u8], Offload), is_meant: impl Fn(&Group) -> bool) {
        let mut index = 0;
        while index < self.open {
            if is_meant(&self.groups[index]) {
                self.flush_group(index, write);
            } else {
                index += 1;
            }
        }
    }
}

impl Group {
    /// Whether the packet, of the same flow, would be the next segment.
    fn fits(&self, next: &Candidate, packet: &[u8]) -> bool {
        // Within the longest packet.
        let before = (self.bytes.len() - self.first.payload) as u32;
        next.payload_len <= self.first.payload_len
            && self.bytes.len() + next.payload_len <= MAX_LENGTH
            && (!next.flow.is_tcp || next.sequence == self.first.sequence.wrapping_add(before))
            && self.id_fits(next)
            && self.first.has_header_of(next, &self.bytes, packet)
    }

    fn id_fits(&self, next: &Candidate) -> bool {
        // Below 64.
        let joined = self.joined as u16;
        let grown = next.id.wrapping_sub(self.first.id);
        if !next.flow.is_v4 {
            true
        } else if self.joined == 1 {
            grown == 1 || (grown == 0 && next.may_keep_id)
        } else {
            grown == joined.wrapping_mul(self.id_step)
        }
    }

    /// Whether the first packet's checksum is right, which is looked at when a second one would join.
    fn verify(&mut self) -> bool {
        if !self.is_verified {
            self.is_verified = self.first.verify(&self.bytes);
        }
        self.is_verified
    }

    /// Hands out the packets as one. One that is alone is as it came.
    fn write(&mut self, write: &mut impl FnMut(&mut [u8], Offload)) {
        if self.joined == 1 {
            return write(&mut self.bytes, self.offload);
        }
        let layout = self.first.layout();
        if layout.is_tcp {
            self.bytes[layout.transport + TCP_FLAGS] |= self.ending;
        }
        layout.set_lengths(&mut self.bytes);
        let pseudo_header = layout.pseudo_header(&self.bytes);
        layout.leave_partial(&mut self.bytes, pseudo_header);
        // All are below 2^16, as the packet's length.
        let [start, header, gso_size] =
            [layout.transport, layout.payload, self.first.payload_len].map(|n| n as u16);
        let offload = if layout.is_tcp {
            Offload::tcp(!layout.is_v4, false, start, header, gso_size)
        } else {
            Offload::udp(start, gso_size)
        };
        write(&mut self.bytes, offload);
    }
}

/// Appends; the buffer grows by doubling as ever, but not beyond the longest packet.
fn extend(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let length = buffer.len() + bytes.len();
    if length > buffer.capacity() {
        let capacity = length.max((2 * buffer.capacity()).min(MAX_LENGTH));
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
