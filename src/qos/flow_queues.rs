//! The flows that have packets waiting, each with a queue of its own: looked up by keyed hash, linked
//! into the round of their class.

use super::codel::{Codel, QUANTUM};
use super::packets::{Fifo, NIL};
use crate::telemetry::Priority;

/// Chains that flows are looked up in.
const BUCKETS: usize = 512;

/// One flow. It is always in one list of one class.
#[derive(Debug)]
pub(super) struct Flow {
    hash: u64,
    pub(super) fifo: Fifo,
    pub(super) codel: Codel,
    /// Lengths of its packets.
    pub(super) bytes: u32,
    /// Capacities of their buffers.
    pub(super) occupied: u32,
    /// Bytes it may still send in this round (RFC 8290 §5.1).
    pub(super) deficit: i32,
    pub(super) packets: u16,
    previous: u16,
    next: u16,
    /// The next flow in the same bucket, or the next free place.
    chain: u16,
    pub(super) priority: Priority,
    pub(super) rank: Rank,
}

/// The memory of one flow.
pub(super) const FLOW: usize = size_of::<Flow>();
const _: () = assert!(FLOW == 64, "a cache line");

/// Which list of its class a flow is in (RFC 8290 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// It had nothing waiting and goes first, for one quantum.
    New,
    /// It takes its turn.
    Old,
    /// It is a free place.
    None,
}

/// A list of flows.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u16,
    tail: u16,
}

/// A slab of flows.
#[derive(Debug)]
pub(super) struct Flows {
    slots: Vec<Flow>,
    buckets: Box<[u16]>,
    free: u16,
    len: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self { slots: Vec::new(), buckets: Box::default(), free: NIL, len: 0 }
    }
}

impl List {
    /// The first flow.
    pub(super) fn first(&self) -> Option<u16> {
        (self.head != NIL).then_some(self.head)
    }
}

impl Flows {
    /// How many there are, those with nothing waiting included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Places in the slab, free ones included.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    /// The flow with this hash.
    pub(super) fn find(&self, hash: u64) -> Option<u16> {
        let mut index = *self.buckets.get(bucket(hash))?;
        while let Some(flow) = self.slots.get(usize::from(index)) {
            if flow.hash == hash {
                return Some(index);
            }
            index = flow.chain;
        }
        None
    }

    /// A new flow with nothing waiting, at the end of its class's new list. The bound on their number,
    /// below [`NIL`], is the caller's.
    pub(super) fn insert(&mut self, hash: u64, priority: Priority, list: &mut List) -> u16 {
        if self.buckets.is_empty() {
            self.buckets = vec![NIL; BUCKETS].into_boxed_slice();
        }
        let first = &mut self.buckets[bucket(hash)];
        let flow = Flow {
            hash,
            fifo: Fifo::default(),
            codel: Codel::default(),
            bytes: 0,
            occupied: 0,
            deficit: QUANTUM as i32,
            packets: 0,
            previous: NIL,
            next: NIL,
            chain: *first,
            priority,
            rank: Rank::New,
        };
        let index = match self.slots.get_mut(usize::from(self.free)) {
            Some(place) => {
                let index = self.free;
                self.free = place.chain;
                *place = flow;
                index
            }
            None => {
                self.slots.push(flow);
                (self.slots.len() - 1) as u16
            }
        };
        *first = index;
        self.len += 1;
        self.append(index, list);
        index
    }

    /// Forgets a flow that has nothing waiting and is in `list`.
    pub(super) fn remove(&mut self, index: u16, list: &mut List) {
        self.unlink(index, list);
        let (hash, chain, free) = (self[index].hash, self[index].chain, self.free);
        let mut at = self.buckets[bucket(hash)];
        if at == index {
            self.buckets[bucket(hash)] = chain;
        } else {
            while self[at].chain != index {
                at = self[at].chain;
            }
            self[at].chain = chain;
        }
        let flow = &mut self[index];
        (flow.rank, flow.chain) = (Rank::None, free);
        self.free = index;
        self.len -= 1;
    }

    /// Puts a flow that is in no list at the end of `list`.
    pub(super) fn append(&mut self, index: u16, list: &mut List) {
        let last = std::mem::replace(&mut list.tail, index);
        match self.slots.get_mut(usize::from(last)) {
            Some(flow) => flow.next = index,
            None => list.head = index,
        }
        let flow = &mut self[index];
        (flow.previous, flow.next) = (last, NIL);
    }

    /// Takes a flow out of its `list`.
    pub(super) fn unlink(&mut self, index: u16, list: &mut List) {
        let (previous, next) = (self[index].previous, self[index].next);
        match self.slots.get_mut(usize::from(previous)) {
            Some(flow) => flow.next = next,
            None => list.head = next,
        }
        match self.slots.get_mut(usize::from(next)) {
            Some(flow) => flow.previous = previous,
            None => list.tail = previous,
        }
    }

    /// The place has a flow with nothing waiting.
    pub(super) fn is_idle(&self, index: u16) -> bool {
        let flow = &self[index];
        flow.packets == 0 && flow.rank != Rank::None
    }

    /// Memory held, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Flow>() + size_of_val(&*self.buckets)
    }
}

impl std::ops::Index<u16> for Flows {
    type Output = Flow;

    fn index(&self, index: u16) -> &Flow {
        &self.slots[usize::from(index)]
    }
}

impl std::ops::IndexMut<u16> for Flows {
    fn index_mut(&mut self, index: u16) -> &mut Flow {
        &mut self.slots[usize::from(index)]
    }
}

const fn bucket(hash: u64) -> usize {
    hash as usize % BUCKETS
}
