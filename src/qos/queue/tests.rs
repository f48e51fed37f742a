use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Duration;

use proptest::prelude::*;

use super::super::HELD_MAX_WAIT;
use super::super::room::{
    BULK_BYTES, BULK_PACKETS, EXTRA_PER_PACKET, HIGH_PATIENCE, QUEUE_BYTES, QUEUE_PACKETS, SHARE_BYTES,
};
use super::super::tests::{dns, epoch, queue, read, udp};
use super::*;
use crate::telemetry::{DropReason::*, Priority, Size};

pub(super) const ALL: Allowance = Allowance::unlimited(usize::MAX);

pub(super) fn push_all(queue: &PacketQueue, now: Instant, packets: impl IntoIterator<Item = Vec<u8>>) {
    let mut producer = queue.producer(now);
    packets.into_iter().for_each(|packet| producer.push(&packet, Offload::NONE));
}

/// Everything that leaves at `now`, as flow and number.
fn drain(queue: &PacketQueue, now: Instant) -> Vec<(u16, u32)> {
    let (mut batch, mut seen) = (Batch::default(), Vec::new());
    while queue.drain_into(now, &mut batch, ALL) > 0 {
        seen.extend(batch.iter().map(|(packet, _)| read(packet)));
    }
    seen
}

pub(super) fn dropped(traffic: &Traffic, priority: Priority, reason: DropReason) -> u64 {
    traffic.drops().snapshot().get(priority, reason).packets
}

/// So many packets that the flow is low from now on; they are gone.
fn make_low(queue: &PacketQueue, now: Instant, flow: u16) {
    for _ in 0..20 {
        push_all(queue, now, [udp(flow, 0, 60_000)]);
        drain(queue, now);
    }
}

#[test]
fn one_flow_leaves_in_the_order_it_came() {
    let ((queue, _), now) = (queue(), epoch());
    let lens = [100, 1420, 36, 65_535, 200, 90];
    push_all(&queue, now, (0..6).map(|number| udp(1, number, lens[number as usize])));
    assert_eq!((queue.len(), queue.len_bytes()), (6, lens.iter().sum()));
    let mut batch = Batch::default();
    assert_eq!(queue.drain_into(now, &mut batch, ALL), 6);
    assert!(batch.iter().map(|(packet, _)| read(packet)).eq((0..6).map(|number| (1, number))));
    assert_eq!((batch.len(), batch.len_bytes()), (6, lens.iter().sum()));
    assert!(queue.is_empty());
    assert_eq!(queue.drain_into(now, &mut batch, ALL), 0);
    assert!(batch.is_empty());
}

#[test]
fn higher_classes_leave_first() {
    let ((queue, _), now) = (queue(), epoch());
    make_low(&queue, now, 1);
    push_all(&queue, now, [udp(1, 1, 1000), udp(2, 2, 1000), dns(3, 3, 1000), udp(4, 4, 100)]);
    let order: Vec<_> = drain(&queue, now).into_iter().map(|(flow, _)| flow).collect();
    assert_eq!(order, [3, 4, 2, 1]);
}

#[test]
fn a_flow_changes_its_class_as_a_whole() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, (0..8).map(|number| udp(1, number, 60_000)));
    drain(&queue, now);
    push_all(&queue, now, (0..8).map(|number| udp(1, number, 60_000)));
    drain(&queue, now);
    // 40 kB below the megabyte: what waits is normal, until one more packet makes the flow low.
    push_all(&queue, now, [udp(1, 0, 20_000), udp(1, 1, 20_000), udp(2, 0, 1000), udp(1, 2, 1000)]);
    assert_eq!(drain(&queue, now), [(2, 0), (1, 0), (1, 1), (1, 2)]);
    push_all(&queue, now, [udp(1, 3, 1000), udp(1, 4, 100), udp(3, 0, 1000)]);
    assert_eq!(drain(&queue, now), [(3, 0), (1, 3), (1, 4)]);

    // Small packets of a flow wait with the large one behind them, not ahead of others.
    push_all(&queue, now, [udp(3, 0, 100), udp(3, 1, 1000), udp(4, 0, 100), udp(5, 0, 1000)]);
    assert_eq!(drain(&queue, now), [(4, 0), (3, 0), (3, 1), (5, 0)]);
}

#[test]
fn a_batch_ends_at_its_limits_but_holds_at_least_one() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, (0..10).map(|number| udp(1, number, 100)));
    let mut batch = Batch::new(4);
    let mut take = |bytes| queue.drain_into(now, &mut batch, Allowance::unlimited(bytes));
    assert_eq!(take(usize::MAX), 4);
    assert_eq!(take(299), 2);
    assert_eq!(take(300), 3);
    assert_eq!(take(0), 1);
    assert_eq!(take(0), 0);
}

#[test]
fn tokens_are_exceeded_by_nothing() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, (0..4).map(|number| udp(1, number, 1000)));
    let mut batch = Batch::default();
    let allowance = |tokens| Allowance { batch_bytes: 3000, tokens };
    assert_eq!((queue.drain_into(now, &mut batch, allowance(999)), batch.short_of()), (0, Some(1000)));
    assert_eq!((queue.drain_into(now, &mut batch, allowance(1000)), batch.short_of()), (1, Some(1000)));
    assert_eq!((queue.drain_into(now, &mut batch, allowance(2500)), batch.short_of()), (2, Some(1000)));
    assert_eq!((queue.drain_into(now, &mut batch, allowance(0)), batch.short_of()), (0, Some(1000)));

    let mut cx = Context::from_waker(Waker::noop());
    queue.close();
    assert_eq!(
        queue.poll_drain(&mut cx, now, &mut batch, allowance(999)),
        Poll::Pending,
        "there is one left"
    );
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, allowance(5000)), Poll::Ready(1));
    assert_eq!(batch.short_of(), None);
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, allowance(0)), Poll::Ready(0));
}

#[test]
fn the_bound_is_memory_and_packets() {
    for (len, expected) in [
        (200, BULK_PACKETS),
        (500, BULK_PACKETS),
        (1420, BULK_BYTES / 2048),
        (2049, BULK_BYTES / 4096),
        (65_535, BULK_BYTES / 65_536),
    ] {
        let ((queue, traffic), now) = (queue(), epoch());
        push_all(&queue, now, (0..1000).map(|number| udp(number as u16, number, len)));
        assert_eq!(queue.len(), expected, "packets of {len}");
        assert!(queue.held_bytes() <= QUEUE_BYTES);
        assert!(queue.memory_bytes() < 1024 * 1024);
        assert_eq!(dropped(&traffic, Priority::Normal, QueueFull), 1000 - expected as u64);
    }
}

#[test]
fn what_the_consumer_has_counts_until_it_is_given_back() {
    const TAKEN: usize = 64;
    let ((queue, traffic), now) = (queue(), epoch());
    let full = BULK_BYTES / 2048;
    push_all(&queue, now, (0..full as u32).map(|number| udp(number as u16, number, 1420)));
    let mut batch = Batch::new(TAKEN);
    queue.drain_into(now, &mut batch, ALL);
    push_all(&queue, now, [udp(1000, 0, 1420)]);
    assert_eq!(queue.len(), full - TAKEN);
    assert_eq!(dropped(&traffic, Priority::Normal, QueueFull), 1);
    queue.drain_into(now, &mut batch, ALL);
    push_all(&queue, now, (0..70).map(|number| udp(2000 + number as u16, number, 1420)));
    assert_eq!(queue.len(), full - TAKEN);
    assert_eq!(dropped(&traffic, Priority::Normal, QueueFull), 1 + 70 - TAKEN as u64);
}

#[test]
fn a_lost_batch_is_no_lost_memory() {
    let ((queue, _), now) = (queue(), epoch());
    let fill = || push_all(&queue, now, (0..300).map(|number| udp(1, number, 1420)));
    fill();
    queue.drain_into(now, &mut Batch::new(300), ALL);
    assert_eq!(queue.held_bytes(), BULK_BYTES);
    queue.drain_into(now, &mut Batch::default(), ALL);
    assert_eq!(queue.held_bytes(), 0);
    fill();
    assert_eq!(queue.held_bytes(), BULK_BYTES);
}

#[test]
fn free_buffers_give_way_to_packets_of_other_lengths() {
    let ((queue, _), now) = (queue(), epoch());
    for len in [1420, 100, 60_000, 300, 1420] {
        push_all(&queue, now, (0..1000).map(|number| udp(number as u16, number, len)));
        assert!(queue.len() >= BULK_BYTES / 65_536, "packets of {len}");
        assert!(queue.held_bytes() <= QUEUE_BYTES);
        drain(&queue, now);
    }
}

#[test]
fn refusals_are_counted_by_reason() {
    let ((queue, traffic), now) = (queue(), epoch());
    push_all(&queue, now, [vec![0; 65_537]]);
    assert_eq!(dropped(&traffic, Priority::Normal, TooBig), 1);
    queue.close();
    push_all(&queue, now, [udp(1, 0, 1000), dns(1, 0, 1000)]);
    assert_eq!(dropped(&traffic, Priority::Normal, NotConnected), 1);
    assert_eq!(dropped(&traffic, Priority::High, NotConnected), 1);
    let bytes = traffic.drops().snapshot().total();
    assert_eq!(bytes, Size { packets: 3, bytes: 67_537 });
}

#[test]
fn what_is_refused_is_counted_in_the_class_of_its_flow() {
    let (queue, traffic) = queue();
    let now = epoch();
    let mut batch = Batch::default();
    for number in 0..800 {
        queue.producer(now).push(&udp(1, number, 1400), Offload::NONE);
        queue.drain_into(now, &mut batch, Allowance::unlimited(1 << 20));
    }
    let mut producer = queue.producer(now);
    for packet in [udp(1, 0, 1400), udp(2, 0, 1400), dns(3, 0, 600), udp(1, 0, 100), vec![0; 600]] {
        producer.refuse(&packet, Offload::NONE, TooBig);
    }
    // A megabyte that was refused makes no bulk transfer.
    (0..800).for_each(|number| producer.refuse(&udp(2, number, 1400), Offload::NONE, TooBig));
    drop(producer);
    assert_eq!(dropped(&traffic, Priority::Low, TooBig), 1);
    assert_eq!(dropped(&traffic, Priority::Normal, TooBig), 2 + 800);
    assert_eq!(dropped(&traffic, Priority::High, TooBig), 2);
    let bytes = 1400 + 1400 + 600 + 100 + 600 + 800 * 1400;
    let total = traffic.drops().snapshot().total();
    assert_eq!((total.packets, total.bytes), (805, bytes));
    assert!(queue.is_empty());
    // A minute later it is none any more.
    queue.producer(now + Duration::from_secs(61)).refuse(&udp(1, 0, 1400), Offload::NONE, TooBig);
    assert_eq!(dropped(&traffic, Priority::Low, TooBig), 1);
}

#[test]
fn discarding_counts_what_waited_by_class() {
    let ((queue, traffic), now) = (queue(), epoch());
    make_low(&queue, now, 1);
    push_all(&queue, now, (0..30).map(|number| udp(1, number, 1000)));
    push_all(&queue, now, (0..20).map(|number| udp(2 + number as u16, number, 500)));
    push_all(&queue, now, (0..10).map(|number| dns(3, number, 60)));
    queue.discard(Stale);
    let snapshot = traffic.drops().snapshot();
    for (priority, packets, bytes) in
        [(Priority::Low, 30, 30_000), (Priority::Normal, 20, 10_000), (Priority::High, 10, 600)]
    {
        assert_eq!(snapshot.get(priority, Stale), Size { packets, bytes });
    }
    assert_eq!((queue.len(), queue.len_bytes(), drain(&queue, now)), (0, 0, vec![]));
    push_all(&queue, now, [udp(1, 7, 1000)]);
    assert_eq!(drain(&queue, now), [(1, 7)]);
}

#[test]
fn bulk_never_takes_the_room_of_high() {
    let ((queue, traffic), now) = (queue(), epoch());
    push_all(&queue, now, (0..2000).map(|number| udp(number as u16, number, 1420)));
    push_all(&queue, now, (0..2000).map(|number| udp(1, number, 1420)));
    push_all(&queue, now, (0..48).map(|number| dns(5000 + number as u16, number, 1420)));
    assert_eq!(dropped(&traffic, Priority::High, QueueFull), 0);
    let first = drain(&queue, now).into_iter().take(48 * 8 / 6);
    assert_eq!(first.filter(|(flow, _)| *flow >= 5000).count(), 48, "but for the share of the others");

    // Nor the other way round.
    push_all(&queue, now, (0..2000).map(|number| dns(number as u16, number, 1420)));
    push_all(&queue, now, (0..100).map(|number| udp(number as u16, number, 1420)));
    assert_eq!(drain(&queue, now).into_iter().filter(|(_, number)| *number < 100).count(), 100);
}

#[test]
fn normal_and_low_leave_each_other_a_share() {
    // By memory, and where packets are short by their number.
    for (len, all, share) in
        [(1420, BULK_BYTES / 2048, SHARE_BYTES / 2048), (200, BULK_PACKETS, BULK_PACKETS / 4)]
    {
        let low = |number: u32| udp(1 + number as u16 % 8, number, len);
        let normal = |number: u32| udp(1000 + number as u16, number, len);
        let started = || {
            let ((queue, traffic), now) = (queue(), epoch());
            (1..=8).for_each(|flow| make_low(&queue, now, flow));
            (queue, traffic, now)
        };
        let waiting = |queue: &PacketQueue| {
            let inner = queue.inner.lock().unwrap();
            [Priority::Normal, Priority::Low].map(|class| inner.backlog.classes[class as usize].packets)
        };

        let (queue, traffic, now) = started();
        push_all(&queue, now, (0..1000).map(low));
        assert_eq!(waiting(&queue), [0, all], "low has what nobody else wants");
        push_all(&queue, now, (0..1000).map(normal));
        assert_eq!(waiting(&queue), [all - share, share], "and gives way but for its share");
        push_all(&queue, now, (0..1000).map(low));
        assert_eq!(waiting(&queue), [all - share, share]);
        let lost =
            dropped(&traffic, Priority::Normal, QueueFull) + dropped(&traffic, Priority::Low, QueueFull);
        assert_eq!(lost, 3000 - all as u64);

        let (queue, _, now) = started();
        push_all(&queue, now, (0..1000).map(normal));
        push_all(&queue, now, (0..1000).map(low));
        assert_eq!(waiting(&queue), [all - share, share], "low gets its share back");
    }
}

#[test]
fn the_fattest_flow_gives_way() {
    let ((queue, traffic), now) = (queue(), epoch());
    push_all(&queue, now, (0..10).map(|number| udp(2, number, 1420)));
    push_all(&queue, now, (0..1000).map(|number| udp(1, number, 900)));
    push_all(&queue, now, (10..20).map(|number| udp(2, number, 1420)));
    let left = drain(&queue, now);
    let of = |flow| left.iter().filter(move |(name, _)| *name == flow).map(|(_, number)| *number);
    assert!(of(2).eq(0..20), "the other flow lost nothing");
    assert_eq!(of(1).next_back(), Some(999), "the flood lost its oldest");
    assert_eq!(
        of(1).count() as u64,
        1000 - dropped(&traffic, Priority::Normal, QueueFull) - dropped(&traffic, Priority::Low, QueueFull)
    );
}

#[test]
fn a_fat_flow_is_found_among_a_thousand() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, (0..200).map(|number| udp(1, number, 200)));
    // Enough flows of one packet to fill the rest, and more of them.
    push_all(&queue, now, (0..312).map(|number| udp(100 + number as u16, number, 200)));
    push_all(&queue, now, (0..200).map(|number| udp(1000 + number as u16, number, 200)));
    let left = drain(&queue, now).into_iter().filter(|(flow, _)| *flow == 1).count();
    assert!(left <= 16, "{left} packets of the fat flow are left");
}

#[test]
fn high_that_is_full_waits_five_milliseconds_for_room() {
    let flood = |queue: &PacketQueue, now, count: u32| {
        push_all(queue, now, (0..count).map(|number| dns(1, number, 60)));
    };
    let ms = Duration::from_millis(1);

    // In time: nothing is lost.
    let ((queue, traffic), now) = (queue(), epoch());
    flood(&queue, now, 512);
    let mut batch = Batch::new(128);
    queue.drain_into(now + 4 * ms, &mut batch, ALL);
    flood(&queue, now + 6 * ms, 1);
    assert_eq!((queue.len(), traffic.drops().snapshot().total().packets), (385, 0));
    // One too many, from then on.
    flood(&queue, now + 10 * ms, 1);
    assert_eq!(dropped(&traffic, Priority::High, QueueFull), 0);
    flood(&queue, now + 11 * ms, 1);
    assert_eq!((queue.len(), dropped(&traffic, Priority::High, QueueFull)), (385, 2));

    // Not in time: what is too much goes, from the flow that has the most.
    let ((queue, traffic), now) = (super::super::tests::queue(), epoch());
    flood(&queue, now, 512);
    push_all(&queue, now, [dns(2, 0, 60)]);
    assert_eq!(dropped(&traffic, Priority::High, QueueFull), 1, "the excess is bounded too");
    queue.drain_into(now + HIGH_PATIENCE, &mut batch, Allowance::unlimited(0));
    assert_eq!(dropped(&traffic, Priority::High, QueueFull), 1 + 128);
    let left = drain(&queue, now + HIGH_PATIENCE);
    assert_eq!(left.len(), 383);
    assert!(
        left.contains(&(2, 0)) || batch.iter().map(|(packet, _)| read(packet)).any(|packet| packet == (2, 0))
    );
}

#[test]
fn the_steady_state_reuses_its_buffers() {
    let ((queue, _), now) = (queue(), epoch());
    let mut batch = Batch::default();
    let round = |batch: &mut Batch| {
        push_all(
            &queue,
            now,
            (0..20).map(|n| udp(n as u16 % 3, n, [40, 1420, 52, 1300, 30_000][n as usize % 5])),
        );
        queue.drain_into(now, batch, ALL);
        let addresses: BTreeSet<_> = batch.iter().map(|(packet, _)| packet.as_ptr()).collect();
        (addresses, queue.memory_bytes(), batch.packets.capacity())
    };
    (0..10).for_each(|_| drop(round(&mut batch)));
    // What a round takes out returns only with the next drain, so two sets take turns.
    let warm = [round(&mut batch), round(&mut batch)];
    for _ in 0..100 {
        assert!([round(&mut batch), round(&mut batch)] == warm);
    }
}

#[test]
fn trimming_leaves_traffic_its_buffers_and_silence_nothing() {
    let ((queue, _), now) = (queue(), epoch());
    let round = |packets| {
        push_all(&queue, now, (0..packets).map(|number| udp(number as u16 % 10, number, 1420)));
        drain(&queue, now);
    };
    round(100);
    queue.trim(now);
    let busy = queue.memory_bytes();
    for _ in 0..10 {
        round(100);
        queue.trim(now);
        assert_eq!(queue.memory_bytes(), busy);
    }
    queue.trim(now);
    queue.trim(now);
    assert_eq!((queue.held_bytes(), queue.memory_bytes()), (0, 0));
}

#[test]
fn an_idle_queue_costs_nearly_nothing() {
    assert!(size_of::<PacketQueue>() <= 1024, "{}", size_of::<PacketQueue>());
    assert_eq!(queue().0.memory_bytes(), 0);
    assert_eq!(Batch::default().packets.capacity(), 0);
}

#[test]
fn a_waiting_consumer_is_woken_once_per_batch() {
    let ((queue, _), now) = (queue(), epoch());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let (mut cx, mut batch) = (Context::from_waker(&waker), Batch::default());
    let mut poll = || queue.poll_drain(&mut cx, now, &mut batch, ALL);

    push_all(&queue, now, [udp(1, 1, 100), udp(1, 2, 100)]);
    assert_eq!(wakes.count(), 0, "nobody waits");
    assert_eq!(poll(), Poll::Ready(2));
    assert_eq!(poll(), Poll::Pending);
    assert_eq!(poll(), Poll::Pending);
    drop(queue.producer(now));
    assert_eq!(wakes.count(), 0, "nothing was pushed");
    push_all(&queue, now, [udp(1, 1, 100), udp(1, 2, 100)]);
    push_all(&queue, now, [udp(1, 3, 100)]);
    assert_eq!(wakes.count(), 1);
    assert_eq!(poll(), Poll::Ready(3));
    assert_eq!(poll(), Poll::Pending);
    queue.set_rate(Some(1_000_000));
    assert_eq!(wakes.count(), 2, "other tokens count now");
}

#[test]
fn a_consumer_that_waits_has_no_buffers() {
    let ((queue, _), now) = (queue(), epoch());
    let (mut cx, mut batch) = (Context::from_waker(Waker::noop()), Batch::default());
    push_all(&queue, now, [udp(1, 0, 1420), udp(1, 1, 1420)]);
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Ready(2));
    (0..3).for_each(|_| queue.trim(now));
    assert_eq!(queue.held_bytes(), 4096, "the consumer has them");
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Pending);
    (0..3).for_each(|_| queue.trim(now));
    assert_eq!((queue.held_bytes(), batch.packets.len()), (0, 0));
}

#[test]
fn closing_wakes_the_consumer_who_still_gets_what_waits() {
    let ((queue, _), now) = (queue(), epoch());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let (mut cx, mut batch) = (Context::from_waker(&waker), Batch::default());
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Pending);
    push_all(&queue, now, [udp(1, 7, 100)]);
    queue.close();
    queue.close();
    assert_eq!(wakes.count(), 1);
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Ready(1));
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Ready(0));
}

#[test]
fn fragments_follow_their_datagram() {
    let ((queue, _), now) = (queue(), epoch());
    let fragment = |packet: Vec<u8>, id: u8, offset: u8, more: bool| {
        let mut packet = packet;
        (packet[5], packet[6], packet[7]) = (id, if more { 0x20 } else { 0 }, offset);
        packet
    };
    // A DNS answer in two fragments goes before others; so does neither half of another datagram.
    push_all(
        &queue,
        now,
        [
            udp(9, 0, 1000),
            fragment(udp(8, 0, 1400), 1, 0, true),
            fragment(udp(8, 1, 100), 1, 175, false),
            fragment(dns(7, 0, 1400), 2, 0, true),
            fragment(dns(7, 1, 100), 2, 175, false),
        ],
    );
    assert_eq!(drain(&queue, now), [(7, 0), (7, 1), (9, 0), (8, 0), (8, 1)]);
    // Their bytes count for the flow, whichever part they are.
    for number in 0..20 {
        push_all(&queue, now, [fragment(udp(8, 0, 30_000), number, 0, true)]);
        push_all(&queue, now, [fragment(udp(8, 0, 30_000), number, 100, false)]);
        drain(&queue, now);
    }
    push_all(&queue, now, [udp(8, 1, 1000), fragment(udp(8, 2, 1000), 99, 0, true), udp(9, 3, 1000)]);
    assert_eq!(drain(&queue, now), [(9, 3), (8, 1), (8, 2)]);
}

#[test]
fn nothing_is_lost_between_threads() {
    const PACKETS: u32 = 20_000;
    let ((queue, traffic), now) = (queue(), epoch());
    let mut drained = 0_u32;
    thread::scope(|scope| {
        scope.spawn(|| {
            for first in (0..PACKETS).step_by(8) {
                push_all(&queue, now, (first..first + 8).map(|number| udp(1, number, 200)));
                if queue.len() > 200 {
                    thread::yield_now();
                }
            }
            queue.close();
        });
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let (mut batch, mut last) = (Batch::default(), None);
        loop {
            match queue.poll_drain(&mut cx, now, &mut batch, Allowance::unlimited(1000)) {
                Poll::Pending => thread::park(),
                Poll::Ready(0) => break,
                Poll::Ready(count) => {
                    drained += count as u32;
                    for (_, number) in batch.iter().map(|(packet, _)| read(packet)) {
                        assert!(last.is_none_or(|last| last < number));
                        last = Some(number);
                    }
                }
            }
        }
    });
    assert_eq!(u64::from(PACKETS - drained), traffic.drops().snapshot().total().packets);
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<(u16, bool, usize)>),
    Drain { packets: usize, batch_bytes: usize, tokens: u64 },
    Wait(u64),
    Rate(Option<u64>),
    Trim,
    Discard,
    Hold,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![4 => 36_usize..300, 4 => 36_usize..3000, 1 => 36_usize..65_536];
    // A few flows with much, and many with little.
    let flow = prop_oneof![3 => 0_u16..5, 1 => 0_u16..2000];
    let packet = (flow, any::<bool>(), len);
    let step = prop_oneof![
        6 => proptest::collection::vec(packet, 0..150).prop_map(Step::Push),
        4 => (1_usize..300, 0_usize..200_000, 0_u64..300_000)
            .prop_map(|(packets, batch_bytes, tokens)| Step::Drain { packets, batch_bytes, tokens }),
        3 => (0_u64..300_000).prop_map(Step::Wait),
        1 => proptest::option::of(1000_u64..10_000_000).prop_map(Step::Rate),
        1 => Just(Step::Trim),
        1 => Just(Step::Discard),
        1 => Just(Step::Hold),
        2 => Just(Step::Release),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happens: flows leave in order and whole, every packet is drained, dropped and counted or
    /// waiting, no bound is passed, and the books agree.
    #[test]
    fn keeps_its_promises(steps in steps()) {
        let ((queue, traffic), mut now) = (queue(), epoch());
        let mut batch = Batch::default();
        let mut last: HashMap<u16, u32> = HashMap::new();
        let mut came: HashMap<(u16, u32), Instant> = HashMap::new();
        let (mut pushed, mut drained) = (Size::default(), Size::default());
        let (mut rate, mut was_fast) = (None, false);
        let (mut is_held, mut released) = (false, now);
        for step in steps {
            match step {
                Step::Push(packets) => for (flow, high, len) in packets {
                    let number = pushed.packets as u32 + 1;
                    let packet = if high { dns(flow, number, len) } else { udp(flow, number, len) };
                    // DNS and the rest are two flows; so they are told apart here.
                    came.insert((flow, number), now);
                    pushed += Size { packets: 1, bytes: len as u64 };
                    queue.producer(now).push(&packet, Offload::NONE);
                    prop_assert!(queue.held_bytes() <= queue.limit_bytes());
                    prop_assert!(!is_held || queue.oldest_wait(now) <= Some(HELD_MAX_WAIT));
                },
                Step::Drain { packets, batch_bytes, tokens } => {
                    batch.limit = packets;
                    queue.drain_into(now, &mut batch, Allowance { batch_bytes, tokens });
                    prop_assert!(batch.len() <= 1 || batch.len_bytes() <= batch_bytes);
                    prop_assert!(batch.len_bytes() as u64 <= tokens && batch.len() <= packets);
                    if let Some(len) = batch.short_of() {
                        prop_assert!((batch.len_bytes() + len) as u64 > tokens);
                    } else if is_held {
                        prop_assert!(batch.is_empty());
                    } else if batch.is_empty() {
                        prop_assert!(queue.is_empty());
                    }
                    for (packet, _) in batch.iter() {
                        let (flow, number) = read(packet);
                        let name = flow | if packet[23] == 53 { 0x8000 } else { 0 };
                        let before = last.insert(name, number);
                        prop_assert!(before.is_none_or(|before| before < number), "flow {name} out of order");
                        let waited = now - came[&(flow, number)].max(released);
                        let own = rate.map_or(0.0, |rate: u64| packet.len().max(6056) as f64 / rate as f64);
                        let bound = 0.5 + own + packet.len() as f64 / rate.unwrap_or(u64::MAX) as f64;
                        prop_assert!(waited.as_secs_f64() <= bound + 1e-6, "{waited:?}");
                        drained += Size { packets: 1, bytes: packet.len() as u64 };
                    }
                }
                Step::Wait(micros) => now += Duration::from_micros(micros),
                Step::Rate(to) => {
                    rate = to;
                    queue.set_rate(to);
                }
                Step::Trim => queue.trim(now),
                Step::Discard => queue.discard(Stale),
                Step::Hold => {
                    queue.hold(now);
                    is_held = true;
                    batch = Batch::default();
                }
                Step::Release => {
                    queue.release(now);
                    released = if is_held { now } else { released };
                    prop_assert!(!is_held || queue.oldest_wait(now).is_none_or(|oldest| oldest <= HELD_MAX_WAIT));
                    is_held = false;
                }
            }
            let mut sum = traffic.drops().snapshot().total();
            sum += drained;
            sum += Size { packets: queue.len() as u64, bytes: queue.len_bytes() as u64 };
            prop_assert_eq!(sum, pushed);
            let extra = queue.limit_bytes() - QUEUE_BYTES;
            prop_assert!(queue.len() <= QUEUE_PACKETS + extra / EXTRA_PER_PACKET);
            // Tables stay grown for a while.
            let most = if extra == 0 && !was_fast { 1024 * 1024 } else { 8 * 1024 * 1024 };
            prop_assert!(queue.memory_bytes() < most);
            was_fast |= extra > 0;
            check_books(&queue.inner.lock().unwrap().backlog, &batch);
        }
    }
}

/// The sums are those of the flows, and every flow is in the list it says.
pub(super) fn check_books(backlog: &Backlog, batch: &Batch) {
    use super::super::flow_queues::Rank;
    let mut sums = [(0, 0, 0); 3];
    let mut live = 0;
    for index in 0..backlog.flows.places() as u16 {
        let flow = &backlog.flows[index];
        if flow.rank == Rank::None {
            assert_eq!(flow.packets, 0);
            continue;
        }
        live += 1;
        let sum = &mut sums[flow.priority as usize];
        sum.0 += usize::from(flow.packets);
        sum.1 += flow.bytes as usize;
        sum.2 += flow.occupied as usize;
    }
    assert_eq!(live, backlog.flows.len());
    for (class, sum) in backlog.classes.iter().zip(sums) {
        assert_eq!((class.packets, class.bytes, class.occupied), sum);
    }
    assert_eq!(sums.iter().map(|sum| sum.0).sum::<usize>(), backlog.packets.len());
    assert_eq!(backlog.lent, batch.packets.iter().map(|waiting| waiting.buffer.capacity()).sum::<usize>());
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
