//! The packets that wait, linked into the queues of their flows.

/// No packet, no flow.
pub(super) const NIL: u16 = u16::MAX;

/// A packet in its buffer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) buffer: Vec<u8>,
    /// When it came, in nanoseconds since the queue's zero.
    pub(super) arrived: u64,
}

/// A slab of packets: places are reused, and told by their index.
#[derive(Debug)]
pub(super) struct Packets {
    slots: Vec<Slot>,
    free: u16,
    len: usize,
}

#[derive(Debug)]
struct Slot {
    waiting: Waiting,
    /// The next packet of the same flow, or the next free place.
    next: u16,
}

/// The memory of one place.
pub(super) const SLOT: usize = size_of::<Slot>();

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
        let slot = Slot { waiting, next: NIL };
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
        self.slots.get(usize::from(fifo.head)).map(|slot| &slot.waiting)
    }

    /// Takes the packet at the head out.
    pub(super) fn pop(&mut self, fifo: &mut Fifo) -> Option<Waiting> {
        let slot = self.slots.get_mut(usize::from(fifo.head))?;
        let waiting = Waiting { buffer: std::mem::take(&mut slot.waiting.buffer), ..slot.waiting };
        let index = std::mem::replace(&mut fifo.head, slot.next);
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
