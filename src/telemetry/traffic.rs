//! What passed through one session or one end: live counters, shared between its tasks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::drops::{Drops, DropsSnapshot};
use super::size::Size;

/// The live counters. `sent` and `received` are seen from this end. Tasks add once per batch;
/// nobody waits for anybody.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: Direction,
    received: Direction,
    drops: Drops,
}

#[derive(Debug, Default)]
struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    keepalives: AtomicU64,
}

impl Traffic {
    /// Counts IP packets that were handed to the connection.
    pub fn add_sent(&self, size: Size) {
        self.sent.add(size);
    }

    /// Counts IP packets from the peer that were handed on.
    pub fn add_received(&self, size: Size) {
        self.received.add(size);
    }

    /// Counts Keepalive frames this end sent; answers to the peer's are not among them.
    pub fn add_keepalives_sent(&self, count: u64) {
        self.sent.keepalives.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts Keepalive frames of the peer.
    pub fn add_keepalives_received(&self, count: u64) {
        self.received.keepalives.fetch_add(count, Ordering::Relaxed);
    }

    /// What was dropped, by class and reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// The counters at this moment. Each number is exact; counters that move meanwhile may be read
    /// a batch apart.
    pub fn snapshot(&self) -> TrafficSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficSnapshot {
            packets_sent: load(&self.sent.packets),
            bytes_sent: load(&self.sent.bytes),
            keepalives_sent: load(&self.sent.keepalives),
            packets_received: load(&self.received.packets),
            bytes_received: load(&self.received.bytes),
            keepalives_received: load(&self.received.keepalives),
            drops: self.drops.snapshot(),
        }
    }
}

impl Direction {
    fn add(&self, Size { packets, bytes }: Size) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The counters of [`Traffic`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSnapshot {
    /// IP packets sent to the peer.
    pub packets_sent: u64,
    /// Bytes of these packets, IP headers included.
    pub bytes_sent: u64,
    /// Keepalive frames sent.
    pub keepalives_sent: u64,
    /// IP packets received from the peer.
    pub packets_received: u64,
    /// Bytes of these packets, IP headers included.
    pub bytes_received: u64,
    /// Keepalive frames received.
    pub keepalives_received: u64,
    /// What was dropped instead.
    pub drops: DropsSnapshot,
}

impl std::ops::AddAssign<&Self> for TrafficSnapshot {
    /// Adds another session's numbers: a server's statistics are the sum of its clients', past ones
    /// included.
    fn add_assign(&mut self, other: &Self) {
        self.packets_sent += other.packets_sent;
        self.bytes_sent += other.bytes_sent;
        self.keepalives_sent += other.keepalives_sent;
        self.packets_received += other.packets_received;
        self.bytes_received += other.bytes_received;
        self.keepalives_received += other.keepalives_received;
        self.drops += &other.drops;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{DropReason, Priority};

    #[test]
    fn both_directions_are_counted_apart() {
        let traffic = Traffic::default();
        traffic.add_sent(Size { packets: 2, bytes: 3000 });
        traffic.add_sent(Size { packets: 1, bytes: 40 });
        traffic.add_received(Size { packets: 5, bytes: 600 });
        traffic.add_keepalives_sent(7);
        traffic.add_keepalives_received(6);
        traffic.drops().count(Priority::Normal, DropReason::QueueFull, Size::of_packet(99));
        let snapshot = traffic.snapshot();
        assert_eq!((snapshot.packets_sent, snapshot.bytes_sent), (3, 3040));
        assert_eq!((snapshot.packets_received, snapshot.bytes_received), (5, 600));
        assert_eq!((snapshot.keepalives_sent, snapshot.keepalives_received), (7, 6));
        assert_eq!(snapshot.drops.total().bytes, 99);
    }

    #[test]
    fn counters_of_many_tasks_lose_nothing() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| traffic.add_received(Size { packets: 1, bytes: 10 })));
            }
        });
        assert_eq!(traffic.snapshot().packets_received, 4000);
        assert_eq!(traffic.snapshot().bytes_received, 40_000);
    }

    #[test]
    fn snapshots_add_up() {
        let traffic = Traffic::default();
        traffic.add_sent(Size { packets: 1, bytes: 2 });
        traffic.add_received(Size { packets: 3, bytes: 4 });
        traffic.add_keepalives_sent(5);
        traffic.add_keepalives_received(6);
        traffic.drops().count(Priority::Low, DropReason::TooBig, Size::of_packet(7));
        let one = traffic.snapshot();
        let mut sum = one.clone();
        sum += &one;
        assert_eq!((sum.packets_sent, sum.bytes_sent, sum.keepalives_sent), (2, 4, 10));
        assert_eq!((sum.packets_received, sum.bytes_received, sum.keepalives_received), (6, 8, 12));
        assert_eq!((sum.drops.total().packets, sum.drops.total().bytes), (2, 14));
    }
}
