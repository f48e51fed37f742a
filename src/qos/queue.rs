//! The queue between whoever has packets for a session and the task that writes them to its
//! connection: the only queue with any depth on a packet's way.
//!
//! Any number of producers (the TUN's reader, other sessions), one consumer. Either side takes the
//! lock once per batch and nothing blocks while it is held. The memory is bounded and reused: a producer
//! copies each packet into a pooled buffer, the consumer takes whole buffers out and gives them back,
//! emptied, when it next comes for more.
//!
//! ```text
//! producer() ─ push ─ push ─ drop: wakes ──▶ [backlog] ──▶ poll_drain(batch): seal, write ─┐
//!      ▲                                                                                   │
//!      └──────────────────────── free buffers ◀── the next poll_drain gives them back ◀────┘
//! ```
//!
//! While there is no connection the queue is held: nothing leaves it, and what has waited for longer than
//! [`HELD_MAX_WAIT`](super::HELD_MAX_WAIT) is dropped.
//!
//! Every packet that is pushed is drained or counted as dropped in the session's [`Traffic`], by the class
//! it was in and the reason, at the moment it is dropped; nobody else counts it. So is what is refused.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::batch::{Allowance, Batch};
use super::classifier::Classifier;
use super::codel::Limits;
use super::drain::Next;
use super::hash::FlowHasher;
use super::packets::Waiting;
use crate::packet::{Offload, Unreachable};
use crate::telemetry::{DropReason, Size, Traffic};

/// A bounded queue of IP packets for one direction of one session.
pub struct PacketQueue {
    inner: Mutex<Inner>,
}

struct Inner {
    backlog: Backlog,
    classifier: Classifier,
    /// Where the backlog's time begins: at the first packet.
    zero: Option<Instant>,
    waker: Option<Waker>,
    closed: bool,
}

impl PacketQueue {
    /// An empty queue, which allocates nothing until the first packet. What it drops is counted in
    /// `traffic`.
    pub fn new(traffic: Arc<Traffic>, hasher: FlowHasher) -> Self {
        let inner = Inner {
            backlog: Backlog::new(traffic),
            classifier: Classifier::new(hasher),
            zero: None,
            waker: None,
            closed: false,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Takes the lock for a batch of packets that came at `now`, until the guard is dropped.
    pub fn producer(&self, now: Instant) -> Producer<'_> {
        Producer { inner: Some(self.lock()), now, pushed: false }
    }

    /// Gives the batch's buffers back and fills it with the packets that leave next: as many as it
    /// takes and `allowance` allows. Returns how many that are. Where a packet was left for want of
    /// tokens, [`Batch::short_of`] tells its length.
    ///
    /// There is one consumer, with one batch: buffers it has not given back count against the bound.
    pub fn drain_into(&self, now: Instant, batch: &mut Batch, allowance: Allowance) -> usize {
        self.lock().drain_into(now, batch, allowance)
    }

    /// As [`drain_into`](Self::drain_into), but where it took no packet `cx` is woken when one comes,
    /// the rate changes or the queue is closed. Who is short of tokens must also wake by itself, when
    /// there are more. Ready with 0 when the queue is closed and empty.
    ///
    /// Only the consumer may wait, in one place at a time. Pending while the queue is [held](Self::hold).
    pub fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        now: Instant,
        batch: &mut Batch,
        allowance: Allowance,
    ) -> Poll<usize> {
        let mut inner = self.lock();
        let count = inner.drain_into(now, batch, allowance);
        let is_over = inner.closed && batch.short_of.is_none() && !inner.backlog.hold.is_on();
        if count > 0 || is_over {
            return Poll::Ready(count);
        }
        inner.wait(cx);
        Poll::Pending
    }

    /// Nothing leaves the queue from `now` on, as there is no connection: what waits, and what is pushed,
    /// is kept for [`HELD_MAX_WAIT`](super::HELD_MAX_WAIT) since it was pushed. Then it is dropped as
    /// [`DropReason::Stale`], at the latest with the next packet or call of [`age`](Self::age). The bounds on
    /// memory are the same.
    ///
    /// The consumer is gone, and with it the batch that it had. A queue that is held stays so.
    pub fn hold(&self, now: Instant) {
        let mut inner = self.lock();
        let now = inner.nanos(now);
        inner.backlog.hold(now);
    }

    /// Ends [`hold`](Self::hold): there is a connection again. What is not too old leaves as if it had come
    /// at `now`. Wakes the consumer. A queue that is not held stays as it is.
    pub fn release(&self, now: Instant) {
        let waker = {
            let mut inner = self.lock();
            let now = inner.nanos(now);
            inner.backlog.release(now);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops what has been held for too long, and frees memory that was not needed since the last call. To be
    /// called on a timer while the queue is held, every half second, say; does nothing at other times. Whoever
    /// calls it also [tells](Self::take_unreachable) the senders.
    pub fn age(&self, now: Instant) {
        let mut inner = self.lock();
        let now = inner.nanos(now);
        if inner.backlog.hold.is_on() {
            inner.backlog.age(now);
            inner.backlog.follow_pace(now);
            inner.backlog.trim();
        }
    }

    /// Whom to tell of packets that were dropped while the queue was held; each is given once.
    pub fn take_unreachable(&self) -> Unreachable {
        self.lock().backlog.hold.take_unreachable()
    }

    /// How long the oldest packet has waited since it was pushed; `None` if there is none.
    pub fn oldest_wait(&self, now: Instant) -> Option<Duration> {
        let mut inner = self.lock();
        let now = inner.nanos(now);
        inner.backlog.oldest().map(|arrived| Duration::from_nanos(now.saturating_sub(arrived)))
    }

    /// Ready when a packet waits; until then `cx` is woken when one comes. For whoever stands in for the
    /// consumer while the queue is [held](Self::hold): it has the same place to wait in as
    /// [`poll_drain`](Self::poll_drain).
    pub fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.backlog.packets.len() > 0 {
            return Poll::Ready(());
        }
        inner.wait(cx);
        Poll::Pending
    }

    /// Tells the queue that its session is held to `rate` bytes per second, or to none: what counts as
    /// too long a wait follows from it. Wakes the consumer, for whom other tokens count now.
    pub fn set_rate(&self, rate: Option<u64>) {
        let waker = {
            let mut inner = self.lock();
            inner.backlog.limits = Limits::at_rate(rate);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops all that waits, counted with this reason.
    pub fn discard(&self, reason: DropReason) {
        self.lock().backlog.discard(reason);
    }

    /// Refuses packets from now on and wakes the consumer, who may still take those that wait. When
    /// the consumer is gone too, [`discard`](Self::discard) counts them.
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
    pub fn trim(&self, now: Instant) {
        let mut inner = self.lock();
        let nanos = inner.nanos(now);
        inner.backlog.follow_pace(nanos);
        inner.backlog.trim();
        inner.classifier.trim();
    }

    /// Bytes of the packets that wait.
    pub fn len_bytes(&self) -> usize {
        self.lock().backlog.bytes()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.lock().backlog.packets.len()
    }

    /// No packet waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory of packets, in bytes of buffer capacity; never more than [`limit_bytes`](Self::limit_bytes).
    pub fn held_bytes(&self) -> usize {
        self.lock().held_bytes()
    }

    /// What the packets may have: [`QUEUE_BYTES`](super::QUEUE_BYTES), and more while the queue is drained fast.
    pub fn limit_bytes(&self) -> usize {
        self.lock().backlog.limit()
    }

    /// All memory held on the heap, bookkeeping included, in bytes; an allocator's own cost is not.
    pub fn memory_bytes(&self) -> usize {
        let inner = self.lock();
        let Backlog { free, .. } = &inner.backlog;
        let tables = inner.backlog.bookkeeping_bytes() + inner.classifier.held_bytes();
        inner.held_bytes() + free.list_bytes() + tables
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
            .field("packets", &inner.backlog.packets.len())
            .field("bytes", &inner.backlog.bytes())
            .field("closed", &inner.closed)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn push(&mut self, now: Instant, packet: &[u8], offload: Offload) {
        let (flow, priority) = self.classifier.classify(now, packet, offload);
        let now = self.nanos(now);
        if self.closed {
            self.backlog.refuse(priority, packet, offload, DropReason::NotConnected);
        } else {
            self.backlog.push(now, (flow, priority), packet, offload);
        }
    }

    fn drain_into(&mut self, now: Instant, batch: &mut Batch, allowance: Allowance) -> usize {
        self.take_back(batch);
        if self.backlog.hold.is_on() {
            return 0;
        }
        let now = self.nanos(now);
        self.backlog.relieve_high(now);
        while batch.len() < batch.limit {
            match self.backlog.next(now, batch.room(allowance)) {
                Next::Packet(packet) => {
                    self.backlog.lent += packet.buffer.capacity();
                    batch.size += packet.size();
                    batch.packets.push(packet);
                }
                Next::ShortOf(tokens) => {
                    batch.short_of = Some(tokens);
                    break;
                }
                Next::Full | Next::Empty => break,
            }
        }
        if !batch.is_empty() {
            self.backlog.pace.drained(now, batch.size.bytes);
        }
        batch.len()
    }

    /// Who waits is woken by `cx`.
    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker @ None => *waker = Some(cx.waker().clone()),
        }
    }

    fn take_back(&mut self, batch: &mut Batch) {
        // Whatever became of the batch it was lent to: there is only one.
        self.backlog.lent = 0;
        (batch.size, batch.short_of) = (Size::ZERO, None);
        for Waiting { buffer, .. } in batch.packets.drain(..) {
            if self.held_bytes() + buffer.capacity() <= self.backlog.limit() {
                self.backlog.free.put(buffer);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.backlog.occupied() + self.backlog.lent + self.backlog.free.bytes()
    }

    /// A clock that goes back stands still.
    fn nanos(&mut self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(*self.zero.get_or_insert(now));
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The lock on a queue, for pushing a batch. Dropping it wakes the consumer, once, if it waits. It
/// can't be held across an `await` of a task that moves between threads.
#[must_use = "the lock is held until it is dropped"]
pub struct Producer<'a> {
    /// `None` only while it is dropped.
    inner: Option<MutexGuard<'a, Inner>>,
    now: Instant,
    pushed: bool,
}

impl Producer<'_> {
    /// Queues a copy of one packet. What has no room, this packet or others that give way to it, is
    /// dropped and counted.
    pub fn push(&mut self, packet: &[u8], offload: Offload) {
        if let Some(inner) = &mut self.inner {
            inner.push(self.now, packet, offload);
            self.pushed = true;
        }
    }

    /// Counts a packet that is dropped instead of being queued, in the class that it would have been in.
    pub fn refuse(&mut self, packet: &[u8], offload: Offload, reason: DropReason) {
        if let Some(inner) = &mut self.inner {
            let priority = inner.classifier.class_of(self.now, packet, offload);
            inner.backlog.refuse(priority, packet, offload, reason);
        }
    }

    /// Whom to tell of packets that were dropped while the queue was [held](PacketQueue::hold); each is
    /// given once. To be answered without the lock.
    pub fn take_unreachable(&mut self) -> Unreachable {
        self.inner.as_mut().map_or_else(Unreachable::default, |inner| inner.backlog.hold.take_unreachable())
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

#[cfg(test)]
mod held;
#[cfg(test)]
mod super_packets;
#[cfg(test)]
mod tests;
