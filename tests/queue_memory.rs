//! The path of a packet through its queue allocates nothing once it has been used.
#![expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use rand::SeedableRng;
use rand::rngs::StdRng;
use smartvpn::packet::{Offload, classify};
use smartvpn::qos::{Allowance, Batch, FlowHasher, PacketQueue, RateLimit, TokenBucket};
use smartvpn::telemetry::{DropReason, Priority, Traffic};

/// TCP from one of many flows.
fn packet(flow: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[9] = 6;
    packet[12..20].copy_from_slice(&[10, 8, 0, 2, 192, 0, 2, 1]);
    packet[20..22].copy_from_slice(&(10_000 + flow).to_be_bytes());
    packet
}

struct Path {
    queue: PacketQueue,
    traffic: Arc<Traffic>,
    batch: Batch,
    bucket: TokenBucket,
    packets: Vec<Vec<u8>>,
    now: Instant,
}

impl Path {
    fn new() -> Self {
        let (traffic, now) = (Arc::new(Traffic::default()), Instant::now());
        let hasher = FlowHasher::new(&mut StdRng::seed_from_u64(1));
        let limit = RateLimit::new(10_000_000, 65_536).unwrap_or_else(|error| panic!("{error}"));
        Self {
            queue: PacketQueue::new(Arc::clone(&traffic), hasher),
            traffic,
            batch: Batch::default(),
            bucket: TokenBucket::new(limit, now),
            packets: (0..64)
                .map(|index| packet(index % 20, [60, 1420, 300, 1420][index as usize % 4]))
                .collect(),
            now,
        }
    }

    /// A batch in, and out what the tokens allow: less, so that the queue fills, delays and drops.
    fn round(&mut self) {
        self.now += Duration::from_millis(4);
        let mut producer = self.queue.producer(self.now);
        for packet in &self.packets {
            assert_ne!(classify(packet, None).priority, Priority::Low);
            producer.push(packet, Offload::NONE);
        }
        drop(producer);
        let tokens = self.bucket.available(self.now);
        let allowance = Allowance { batch_bytes: 32 * 1024, tokens };
        self.queue.drain_into(self.now, &mut self.batch, allowance);
        self.bucket.take(self.now, self.batch.len_bytes() as u64);
        self.traffic.add_sent(self.batch.size());
    }
}

#[test]
fn the_steady_state_allocates_nothing() {
    let mut path = Path::new();
    // Half a minute: bulk flows have become low, CoDel drops, buffers of every length exist.
    (0..8000).for_each(|_| path.round());
    let dropped = |path: &Path| path.traffic.drops().snapshot();
    let before = dropped(&path);
    let allocations = measure(|| (0..1000).for_each(|_| path.round()));
    assert_eq!(allocations.count_total, 0, "in 64,000 packets: {allocations:?}");
    let after = dropped(&path);
    assert!(after.total().packets > before.total().packets, "drops are part of it");
    assert!(
        after.get(Priority::Low, DropReason::QueueDelay) != before.get(Priority::Low, DropReason::QueueDelay)
    );
    let sent = path.traffic.snapshot().packets_sent;
    assert_eq!(sent + after.total().packets + path.queue.len() as u64, 9000 * 64);
}

/// All that the heap gives, in the worst order of lengths: buffers of every class, as many flows as
/// packets, lists of free buffers grown to their most.
#[test]
fn no_traffic_makes_it_hold_a_mebibyte() {
    let Path { queue, mut batch, mut now, .. } = Path::new();
    let mut longest = packet(0, 65_535);
    let held = measure(|| {
        for round in 0..4 {
            for len in [60, 200, 257, 513, 1025, 2049, 4097, 8193, 16_385, 32_769, 65_535, 60, 1420] {
                // Too slow for more room than any session has.
                now += Duration::from_millis(50);
                let mut producer = queue.producer(now);
                for flow in 0..3000_u16 {
                    longest[20..22].copy_from_slice(&(flow + 10_000 * (round % 2)).to_be_bytes());
                    // High and bulk in turn.
                    longest[22..24].copy_from_slice(&(22 + flow % 3).to_be_bytes());
                    producer.push(&longest[..len], Offload::NONE);
                }
                drop(producer);
                // Some of it stays, in other places each time.
                for _ in 0..round * 7 % 20 {
                    queue.drain_into(now, &mut batch, Allowance::unlimited(32 * 1024));
                }
            }
        }
    });
    println!("{} bytes at most", held.bytes_max);
    assert!(held.bytes_max < 1024 * 1024 - 139 * 1024, "{} bytes", held.bytes_max);
    queue.discard(DropReason::Stale);
    queue.drain_into(now, &mut batch, Allowance::unlimited(0));
    (0..3).for_each(|_| queue.trim(now));
    assert_eq!(queue.memory_bytes(), 0);
}

/// A session that has been fast holds more; once it has stopped, no more than any other.
#[test]
fn who_stops_gives_back_what_a_fast_one_may_have() {
    let Path { queue, mut batch, mut now, .. } = Path::new();
    let mut longest = packet(0, 60_000);
    for round in 0..200_u16 {
        now += Duration::from_millis(1);
        let mut producer = queue.producer(now);
        for flow in 0..20_u16 {
            longest[20..22].copy_from_slice(&(flow + 20 * (round % 50)).to_be_bytes());
            producer.push(&longest, Offload::NONE);
        }
        drop(producer);
        for _ in 0..8 {
            queue.drain_into(now, &mut batch, Allowance::unlimited(72 * 1024));
        }
    }
    assert!(queue.held_bytes() > 2 * 1024 * 1024, "{} bytes", queue.held_bytes());
    now += Duration::from_millis(30);
    queue.producer(now).push(&packet(7, 1420), Offload::NONE);
    assert!(queue.memory_bytes() < 1024 * 1024 - 139 * 1024, "{} bytes", queue.memory_bytes());
    assert!(!queue.is_empty());
}
