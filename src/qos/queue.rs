//! The queue between whoever has packets for a session and the task that writes them to its
//! connection: the only queue with any depth on a packet's way.
//!
//! Any number of producers (the TUN's reader, other sessions), one consumer. Either side takes the
//! lock once per batch and nothing blocks while it is held. The memory is bounded (the constants
//! below) and reused: a producer copies each packet into a pooled buffer, the consumer takes whole
//! buffers out and gives them back, emptied, when it next comes for more.
//!
//! ```text
//! producer() ─ push ─ push ─ drop: wakes ──▶ [queue] ──▶ poll_drain(batch): seal, write ─┐
//!      ▲                                                                                 │
//!      └──────────────────────── free buffers ◀── the next poll_drain gives them back ◀──┘
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::buffers::{FreeBuffers, LARGEST, capacity_for};
use crate::telemetry::DropReason;

/// The memory that one session's packets occupy at most, in bytes of buffer capacity: those that
/// wait, those the consumer has taken and not given back, and those kept for reuse.
///
/// A client that has stopped reading must cost its server no more than 1 MiB, bookkeeping and the
/// connection's own buffers included; three quarters of it are for packets. That is 384 packets of
/// 1,420 bytes or 12 of 64 KiB: at 50 Mbit/s it drains in 90 ms, at 1 Gbit/s in 4 ms, so it absorbs
/// the bursts of a TCP sender without becoming a delay of its own.
pub const QUEUE_BYTES: usize = 768 * 1024;

/// Packets that wait at most. With the smallest buffers [`QUEUE_BYTES`] would admit 3,072; each also
/// costs a slot in the queue and the allocator's header, and all of them must be sealed before the
/// last one leaves (about 1 ms for 2,048).
pub const QUEUE_PACKETS: usize = 2048;

/// Packets taken out under one lock, unless the consumer asks for fewer: enough that the lock and the
/// flush behind it vanish in the cost of sealing, few enough that the batch's own memory (1.5 KiB)
/// does not matter. How long one batch holds up what comes behind it is `max_bytes`' business.
pub const BATCH_PACKETS: usize = 64;

// Slots are counted twice: the queue and the vectors of free buffers grow by doubling.
const SLOT: usize = size_of::<Vec<u8>>() + 16;
const _: () = assert!(QUEUE_BYTES + 2 * QUEUE_PACKETS * SLOT < 1024 * 1024);
const _: () = assert!(QUEUE_BYTES > 2 * LARGEST, "the longest packets can queue");

/// A bounded queue of IP packets for one session.
#[derive(Default)]
pub struct PacketQueue {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    packets: VecDeque<Vec<u8>>,
    /// Lengths of the packets that wait.
    bytes: usize,
    /// Capacities of their buffers.
    occupied: usize,
    /// Capacities of the buffers that the consumer has.
    lent: usize,
    free: FreeBuffers,
    /// The most packets that waited since the last trim.
    peak: usize,
    waker: Option<Waker>,
    closed: bool,
}

/// Why a packet was not queued. The caller still has it, and counts it as [`Self::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The queue is at its bound.
    #[error("the queue is full")]
    Full,
    /// The session has ended.
    #[error("the queue is closed")]
    Closed,
    /// No IP packet is that long.
    #[error("the packet is too long to be queued")]
    TooLong,
}

impl PushError {
    /// The name the dropped packet is counted under.
    pub fn reason(self) -> DropReason {
        match self {
            Self::Full => DropReason::QueueFull,
            Self::Closed => DropReason::NotConnected,
            Self::TooLong => DropReason::TooBig,
        }
    }
}

impl PacketQueue {
    /// An empty queue; it allocates nothing until the first packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the lock for a batch of packets, until the guard is dropped.
    pub fn producer(&self) -> Producer<'_> {
        Producer { inner: Some(self.lock()), pushed: false }
    }

    /// Gives the batch's buffers back and fills it with the packets that come next, in order: as many
    /// as it takes, together no longer than `max_bytes`, but at least one if any waits. Returns how
    /// many that are.
    ///
    /// There is one consumer, with one batch: buffers it has not given back count against the bound.
    pub fn drain_into(&self, batch: &mut Batch, max_bytes: usize) -> usize {
        self.lock().drain_into(batch, max_bytes)
    }

    /// As [`drain_into`](Self::drain_into), but where no packet waits `cx` is woken when one comes or
    /// the queue is closed. Ready with 0 when it is closed and empty.
    ///
    /// Only the consumer may wait, in one place at a time.
    pub fn poll_drain(&self, cx: &mut Context<'_>, batch: &mut Batch, max_bytes: usize) -> Poll<usize> {
        let mut inner = self.lock();
        let count = inner.drain_into(batch, max_bytes);
        if count > 0 || inner.closed {
            return Poll::Ready(count);
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker @ None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Refuses packets from now on and wakes the consumer, who may still take those that wait.
    pub fn close(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Frees memory that was not needed since the last call. To be called on a slow timer (that of
    /// the keepalives, say): after two calls without traffic nothing is left, in between nothing that
    /// traffic needs is freed.
    pub fn trim(&self) {
        let mut inner = self.lock();
        let peak = inner.peak;
        inner.packets.shrink_to(peak);
        inner.peak = inner.packets.len();
        inner.free.trim();
    }

    /// Bytes of the packets that wait.
    pub fn len_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.lock().packets.len()
    }

    /// No packet waits.
    pub fn is_empty(&self) -> bool {
        self.lock().packets.is_empty()
    }

    /// The memory held, in bytes of buffer capacity; never more than [`QUEUE_BYTES`].
    pub fn held_bytes(&self) -> usize {
        let inner = self.lock();
        inner.occupied + inner.lent + inner.free.bytes()
    }

    /// Every operation leaves the state whole, so a panic elsewhere that poisoned the lock does not
    /// matter.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PacketQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("PacketQueue")
            .field("packets", &inner.packets.len())
            .field("bytes", &inner.bytes)
            .field("closed", &inner.closed)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn push(&mut self, packet: &[u8]) -> Result<(), PushError> {
        if self.closed {
            return Err(PushError::Closed);
        }
        let capacity = capacity_for(packet.len()).ok_or(PushError::TooLong)?;
        if self.packets.len() >= QUEUE_PACKETS {
            return Err(PushError::Full);
        }
        let mut buffer = self.buffer(capacity).ok_or(PushError::Full)?;
        buffer.extend_from_slice(packet);
        self.bytes += packet.len();
        self.occupied += buffer.capacity();
        self.packets.push_back(buffer);
        self.peak = self.peak.max(self.packets.len());
        Ok(())
    }

    /// An empty buffer: a free one of the same capacity, else a new one within the bound, for which
    /// free ones of other capacities give way.
    fn buffer(&mut self, capacity: usize) -> Option<Vec<u8>> {
        self.free.take(capacity).or_else(|| {
            let room = QUEUE_BYTES.checked_sub(self.occupied + self.lent + capacity)?;
            self.free.shrink_to(room);
            Some(Vec::with_capacity(capacity))
        })
    }

    fn drain_into(&mut self, batch: &mut Batch, max_bytes: usize) -> usize {
        self.take_back(batch);
        self.fill(batch, max_bytes);
        batch.len()
    }

    fn take_back(&mut self, batch: &mut Batch) {
        // Whatever became of the batch it was lent to: there is only one.
        self.lent = 0;
        batch.bytes = 0;
        for buffer in batch.packets.drain(..) {
            if self.occupied + self.free.bytes() + buffer.capacity() <= QUEUE_BYTES {
                self.free.put(buffer);
            }
        }
    }

    fn fill(&mut self, batch: &mut Batch, max_bytes: usize) {
        while let Some(next) = self.packets.front() {
            let fits = batch.len() < batch.limit && batch.bytes + next.len() <= max_bytes;
            if !fits && !batch.is_empty() {
                return;
            }
            let Some(packet) = self.packets.pop_front() else { return };
            self.bytes -= packet.len();
            self.occupied -= packet.capacity();
            self.lent += packet.capacity();
            batch.bytes += packet.len();
            batch.packets.push(packet);
        }
    }
}

/// The lock on a queue, for pushing a batch. Dropping it wakes the consumer, once, if it waits. It
/// can't be held across an `await` of a task that moves between threads.
#[must_use = "the lock is held until it is dropped"]
pub struct Producer<'a> {
    /// `None` only while it is dropped.
    inner: Option<MutexGuard<'a, Inner>>,
    pushed: bool,
}

impl Producer<'_> {
    /// Appends a copy of one packet.
    pub fn push(&mut self, packet: &[u8]) -> Result<(), PushError> {
        let inner = self.inner.as_mut().ok_or(PushError::Closed)?;
        inner.push(packet)?;
        self.pushed = true;
        Ok(())
    }
}

impl Drop for Producer<'_> {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        let waker = if self.pushed { inner.waker.take() } else { None };
        // The consumer finds the lock free.
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Producer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("pushed", &self.pushed).finish_non_exhaustive()
    }
}

/// Packets taken out of a queue. Its consumer keeps one and fills it again and again.
pub struct Batch {
    packets: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Batch {
    /// An empty batch for up to `limit` packets (at least one) at a time.
    pub fn new(limit: usize) -> Self {
        Self { packets: Vec::new(), bytes: 0, limit: limit.max(1) }
    }

    /// The packets, in the order they were queued.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.packets.iter().map(Vec::as_slice)
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// It holds no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes of its packets.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }
}

impl Default for Batch {
    /// A batch for up to [`BATCH_PACKETS`] packets.
    fn default() -> Self {
        Self::new(BATCH_PACKETS)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("packets", &self.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread::{self, Thread};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_leave_in_the_order_they_came() {
        let queue = PacketQueue::new();
        push_all(&queue, &[&[1; 10], &[2; 1420], &[], &[3; 65_535]]);
        assert_eq!((queue.len(), queue.len_bytes()), (4, 66_965));
        let mut batch = Batch::default();
        assert_eq!(queue.drain_into(&mut batch, usize::MAX), 4);
        assert!(batch.iter().eq([&[1; 10][..], &[2; 1420], &[], &[3; 65_535]]));
        assert_eq!((batch.len(), batch.len_bytes()), (4, 66_965));
        assert!(queue.is_empty());
        assert_eq!(queue.drain_into(&mut batch, usize::MAX), 0);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_ends_at_its_limits_but_holds_at_least_one() {
        let queue = PacketQueue::new();
        push_all(&queue, &[&[0; 100][..]; 10]);
        let mut batch = Batch::new(4);
        assert_eq!(queue.drain_into(&mut batch, usize::MAX), 4);
        assert_eq!(queue.drain_into(&mut batch, 299), 2);
        assert_eq!(queue.drain_into(&mut batch, 300), 3);
        assert_eq!(queue.drain_into(&mut batch, 0), 1);
        assert_eq!(queue.drain_into(&mut batch, 0), 0);
    }

    #[test]
    fn the_bound_is_memory_and_not_length() {
        for (len, expected) in [
            (40, QUEUE_PACKETS),
            (256, QUEUE_PACKETS),
            (1420, QUEUE_BYTES / 2048),
            (2049, QUEUE_BYTES / 4096),
            (65_535, QUEUE_BYTES / 65_536),
        ] {
            let queue = PacketQueue::new();
            assert_eq!(fill(&queue, len), expected, "packets of {len}");
            assert_eq!(queue.len(), expected);
            assert!(queue.held_bytes() <= QUEUE_BYTES);
        }
    }

    #[test]
    fn what_the_consumer_has_counts_until_it_is_given_back() {
        let queue = PacketQueue::new();
        let mut batch = Batch::default();
        let full = fill(&queue, 1420);
        queue.drain_into(&mut batch, usize::MAX);
        assert_eq!(queue.producer().push(&[0; 1420]), Err(PushError::Full));
        queue.drain_into(&mut batch, usize::MAX);
        assert_eq!(fill(&queue, 1420), BATCH_PACKETS);
        assert_eq!(queue.len(), full - BATCH_PACKETS);
    }

    #[test]
    fn a_lost_batch_is_no_lost_memory() {
        let queue = PacketQueue::new();
        let full = fill(&queue, 1420);
        queue.drain_into(&mut Batch::new(full), usize::MAX);
        assert_eq!(queue.held_bytes(), QUEUE_BYTES);
        queue.drain_into(&mut Batch::default(), usize::MAX);
        assert_eq!((queue.held_bytes(), fill(&queue, 1420)), (0, full));
    }

    #[test]
    fn free_buffers_give_way_to_packets_of_other_lengths() {
        let queue = PacketQueue::new();
        let mut batch = Batch::new(QUEUE_PACKETS);
        for len in [1420, 100, 60_000, 300, 1420] {
            assert!(fill(&queue, len) >= 12, "packets of {len}");
            assert!(queue.held_bytes() <= QUEUE_BYTES);
            queue.drain_into(&mut batch, usize::MAX);
            queue.drain_into(&mut batch, usize::MAX);
        }
    }

    #[test]
    fn refusals_have_the_reason_they_are_counted_under() {
        let queue = PacketQueue::new();
        assert_eq!(queue.producer().push(&[0; 65_537]), Err(PushError::TooLong));
        queue.close();
        assert_eq!(queue.producer().push(&[0]), Err(PushError::Closed));
        assert_eq!(
            [PushError::Full, PushError::Closed, PushError::TooLong].map(PushError::reason),
            [DropReason::QueueFull, DropReason::NotConnected, DropReason::TooBig]
        );
    }

    #[test]
    fn the_steady_state_allocates_nothing() {
        let queue = PacketQueue::new();
        let mut batch = Batch::default();
        let round = |batch: &mut Batch| {
            let mut producer = queue.producer();
            for len in [40, 1420, 52, 1300, 60_000].repeat(4) {
                producer.push(&vec![0; len]).unwrap();
            }
            drop(producer);
            queue.drain_into(batch, usize::MAX);
            let addresses: BTreeSet<_> = batch.iter().map(<[u8]>::as_ptr).collect();
            (addresses, queue.held_bytes(), batch.packets.capacity(), queue.lock().packets.capacity())
        };
        round(&mut batch);
        // What a round takes out returns only with the next drain, so two sets take turns.
        let warm = [round(&mut batch), round(&mut batch)];
        for _ in 0..100 {
            assert!([round(&mut batch), round(&mut batch)] == warm);
        }
    }

    #[test]
    fn trimming_leaves_traffic_its_buffers_and_silence_nothing() {
        let queue = PacketQueue::new();
        let mut batch = Batch::default();
        let round = |batch: &mut Batch, packets| {
            push_all(&queue, &vec![&[0; 1420][..]; packets]);
            while queue.drain_into(batch, usize::MAX) > 0 {}
        };
        round(&mut batch, 100);
        queue.trim();
        let busy = queue.held_bytes();
        for _ in 0..10 {
            round(&mut batch, 100);
            queue.trim();
            assert_eq!(queue.held_bytes(), busy);
        }
        queue.trim();
        queue.trim();
        assert_eq!((queue.held_bytes(), queue.lock().packets.capacity()), (0, 0));
    }

    #[test]
    fn an_idle_queue_costs_nearly_nothing() {
        assert!(size_of::<PacketQueue>() <= 512);
        assert_eq!(PacketQueue::new().held_bytes(), 0);
        assert_eq!(Batch::default().packets.capacity(), 0);
    }

    #[test]
    fn a_waiting_consumer_is_woken_once_per_batch() {
        let queue = PacketQueue::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let (mut cx, mut batch) = (Context::from_waker(&waker), Batch::default());
        let mut poll = || queue.poll_drain(&mut cx, &mut batch, usize::MAX);

        push_all(&queue, &[&[1], &[2]]);
        assert_eq!(wakes.count(), 0, "nobody waits");
        assert_eq!(poll(), Poll::Ready(2));
        assert_eq!(poll(), Poll::Pending);
        assert_eq!(poll(), Poll::Pending);
        drop(queue.producer());
        assert_eq!(wakes.count(), 0, "nothing was pushed");
        push_all(&queue, &[&[1], &[2]]);
        push_all(&queue, &[&[3]]);
        assert_eq!(wakes.count(), 1);
        assert_eq!(poll(), Poll::Ready(3));
    }

    #[test]
    fn a_consumer_that_waits_has_no_buffers() {
        let queue = PacketQueue::new();
        let (mut cx, mut batch) = (Context::from_waker(Waker::noop()), Batch::default());
        push_all(&queue, &[&[1; 1420], &[2; 1420]]);
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Ready(2));
        queue.trim();
        queue.trim();
        assert_eq!(queue.held_bytes(), 4096, "the consumer has them");
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Pending);
        queue.trim();
        queue.trim();
        assert_eq!((queue.held_bytes(), batch.packets.len()), (0, 0));
    }

    #[test]
    fn closing_wakes_the_consumer_who_still_gets_what_waits() {
        let queue = PacketQueue::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let (mut cx, mut batch) = (Context::from_waker(&waker), Batch::default());
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Pending);
        queue.close();
        queue.close();
        assert_eq!(wakes.count(), 1);
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Ready(0));

        let queue = PacketQueue::new();
        push_all(&queue, &[&[7]]);
        queue.close();
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Ready(1));
        assert_eq!(queue.poll_drain(&mut cx, &mut batch, usize::MAX), Poll::Ready(0));
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        const PACKETS: u32 = 20_000;
        let queue = PacketQueue::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0_u32;
                while next < PACKETS {
                    let mut producer = queue.producer();
                    let end = (next + 7).min(PACKETS);
                    while next < end && producer.push(&next.to_be_bytes()).is_ok() {
                        next += 1;
                    }
                    drop(producer);
                    if next < end {
                        thread::yield_now();
                    }
                }
                queue.close();
            });
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let mut cx = Context::from_waker(&waker);
            let (mut batch, mut expected) = (Batch::default(), 0_u32);
            loop {
                match queue.poll_drain(&mut cx, &mut batch, 100) {
                    Poll::Pending => thread::park(),
                    Poll::Ready(0) => break,
                    Poll::Ready(_) => {
                        for packet in batch.iter() {
                            assert_eq!(packet, expected.to_be_bytes());
                            expected += 1;
                        }
                    }
                }
            }
            assert_eq!(expected, PACKETS);
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<usize>),
        Drain(usize),
        Trim,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let len = prop_oneof![0_usize..300, 0_usize..3000, 0_usize..65_600];
        let step = prop_oneof![
            3 => proptest::collection::vec(len, 0..60).prop_map(Step::Push),
            3 => (0_usize..200_000).prop_map(Step::Drain),
            1 => Just(Step::Trim),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_a_bounded_fifo(steps in steps()) {
            let (queue, mut batch, mut model) = (PacketQueue::new(), Batch::new(16), VecDeque::new());
            let mut serial = 0_u8;
            for step in steps {
                match step {
                    Step::Push(lens) => for len in lens {
                        serial = serial.wrapping_add(1);
                        match queue.producer().push(&vec![serial; len]) {
                            Ok(()) => model.push_back((serial, len)),
                            Err(PushError::TooLong) => prop_assert!(len > LARGEST),
                            Err(error) => prop_assert_eq!(error, PushError::Full),
                        }
                    },
                    Step::Drain(max_bytes) => {
                        queue.drain_into(&mut batch, max_bytes);
                        prop_assert!(batch.len() <= 1 || batch.len_bytes() <= max_bytes);
                        prop_assert!(batch.len() <= 16);
                        for packet in batch.iter() {
                            let (serial, len) = model.pop_front().unwrap();
                            prop_assert!(packet.len() == len && packet.iter().all(|byte| *byte == serial));
                        }
                        prop_assert!(!batch.is_empty() || model.is_empty());
                    }
                    Step::Trim => queue.trim(),
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.len_bytes(), model.iter().map(|(_, len)| len).sum::<usize>());
                prop_assert!(queue.held_bytes() <= QUEUE_BYTES);
                let inner = queue.lock();
                prop_assert_eq!(inner.occupied, inner.packets.iter().map(Vec::capacity).sum::<usize>());
                prop_assert_eq!(inner.lent, batch.packets.iter().map(Vec::capacity).sum::<usize>());
            }
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn push_all(queue: &PacketQueue, packets: &[&[u8]]) {
        let mut producer = queue.producer();
        packets.iter().for_each(|packet| producer.push(packet).unwrap());
    }

    /// Pushes packets of `len` bytes until one is refused; how many went in.
    fn fill(queue: &PacketQueue, len: usize) -> usize {
        let mut producer = queue.producer();
        let packet = vec![0; len];
        let mut count = 0;
        while producer.push(&packet).is_ok() {
            count += 1;
        }
        count
    }
}
