//! The packets that wait, linked into the queues of their flows.

use crate::packet::Offload;
use crate::telemetry::Size;

/// No packet, no flow.
pub(super) const NIL: u16 = u16::MAX;

/// A packet in its buffer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) buffer: Vec<u8>,
    /// Where it begins: what was cut off a super-packet is in front of the rest.
    pub(super) start: u16,
    pub(super) offload: Offload,
    /// When it came, in nanoseconds since the queue's zero.
    pub(super) arrived: u64,
    /// The next packet of the same flow, or the next free place. Here, as there is room for it.
    pub(super) next: u16,
}

const _: () = assert!(size_of::<Waiting>() == 48);

impl Waiting {
    pub(super) fn packet(&self) -> &[u8] {
        self.buffer.get(usize::from(self.start)..).unwrap_or_default()
    }

    pub(super) fn packet_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(usize::from(self.start)..).unwrap_or_default()
    }

    /// How much it counts for.
    pub(super) fn size(&self) -> Size {
        self.offload.size(self.packet().len())
    }

    /// The length of its first segment, which is all of it but for a super-packet.
    pub(super) fn segment_len(&self) -> usize {
        let whole = self.packet().len();
        self.offload.segment_len().map_or(whole, |length| whole.min(length.into()))
    }

    /// Segments at its front that have no more than `room` bytes together, each with its headers.
    pub(super) fn segments_within(&self, room: u64) -> usize {
        let each = self.segment_len() as u64;
        usize::try_from(room / each.max(1)).unwrap_or(usize::MAX)
    }
}

/// A slab of packets: places are reused, and told by their index.
#[derive(Debug)]
pub(super) struct Packets {
    slots: Vec<Waiting>,
    free: u16,
    len: usize,
}

/// The memory of one place.
pub(super) const SLOT: usize = size_of::<Waiting>();

/// The queue of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fifo {
    head: u16,
    tail: u16,
}

impl Default for Packets {
    fn default() -> Self {
        Self { slots: Vec::new(), free: NIL, len: 0 }
    }
}

impl Default for Fifo {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl Packets {
    /// How many packets wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends a packet to a flow's queue. The bound on all packets, below [`NIL`], is the caller's.
    pub(super) fn push(&mut self, fifo: &mut Fifo, waiting: Waiting) {
        let slot = Waiting { next: NIL, ..waiting };
        let index = match self.slots.get_mut(usize::from(self.free)) {
            Some(place) => {
                let index = self.free;
                self.free = place.next;
                *place = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u16
            }
        };
        match self.slots.get_mut(usize::from(fifo.tail)) {
            Some(last) => last.next = index,
            None => fifo.head = index,
        }
        fifo.tail = index;
        self.len += 1;
    }

    /// The packet at the head of a flow's queue.
    pub(super) fn head(&self, fifo: &Fifo) -> Option<&Waiting> {
        self.slots.get(usize::from(fifo.head))
    }

    /// The same, to be changed.
    pub(super) fn head_mut(&mut self, fifo: &Fifo) -> Option<&mut Waiting> {
        self.slots.get_mut(usize::from(fifo.head))
    }

    /// Takes the packet at the head out.
    pub(super) fn pop(&mut self, fifo: &mut Fifo) -> Option<Waiting> {
        let slot = self.slots.get_mut(usize::from(fifo.head))?;
        let waiting = std::mem::take(slot);
        let index = std::mem::replace(&mut fifo.head, waiting.next);
        if fifo.head == NIL {
            fifo.tail = NIL;
        }
        slot.next = std::mem::replace(&mut self.free, index);
        self.len -= 1;
        Some(waiting)
    }

    /// Memory held for places, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.slots.capacity() * SLOT
    }
}
