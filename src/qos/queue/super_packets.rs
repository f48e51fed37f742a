//! Super-packets in the queue: they count as their segments, and are cut where they are too long.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::room::{BULK_BYTES, QUEUE_BYTES};
use super::super::tests::{dns, epoch, queue, udp};
use super::super::{HIGH_BYTES, HIGH_EXCESS_BYTES, MAX_WAIT};
use super::tests::{ALL, check_books, push_all};
use super::*;
use crate::packet::ip::tests::{v4, v6};
use crate::packet::segment;
use crate::telemetry::{DropReason::*, Priority};

/// Payload of a full segment, and its length with IPv4 and TCP headers.
const MSS: usize = 1380;
const FULL: u64 = 1420;

type Super = (Vec<u8>, Offload);

#[derive(Clone, Copy, Debug)]
struct Spec {
    is_v6: bool,
    is_tcp: bool,
    /// High, whatever its length.
    is_dns: bool,
    flow: u16,
    payload: usize,
    gso_size: u16,
}

impl Spec {
    /// TCP over IPv4, of so many full segments.
    const fn full(flow: u16, segments: usize) -> Self {
        let (is_v6, is_tcp, is_dns) = (false, true, false);
        Self { is_v6, is_tcp, is_dns, flow, payload: segments * MSS, gso_size: MSS as u16 }
    }

    /// Its sequence number tells it from others.
    fn packet(self, number: u32) -> Super {
        let (header, csum_offset) = if self.is_tcp { (20, 16) } else { (8, 6) };
        let mut transport: Vec<u8> =
            (0..header + self.payload).map(|at| (at as u32 * 31).wrapping_add(number) as u8).collect();
        transport[..2].copy_from_slice(&(10_000 + self.flow).to_be_bytes());
        transport[2..4].copy_from_slice(&(if self.is_dns { 53_u16 } else { 9000 }).to_be_bytes());
        if self.is_tcp {
            transport[4..8].copy_from_slice(&number.to_be_bytes());
            (transport[12], transport[13]) = (0x50, 0x18);
        } else {
            transport[4..6].copy_from_slice(&((header + self.payload) as u16).to_be_bytes());
        }
        // What a peer says of the sum does not count.
        transport[csum_offset..csum_offset + 2].fill(0xab);
        let protocol = if self.is_tcp { 6 } else { 17 };
        let (packet, start) = if self.is_v6 {
            (v6("fd00::2", "2001:db8::1", protocol, &transport), 40)
        } else {
            (v4([10, 8, 0, 2], [192, 0, 2, 1], protocol, &transport), 20)
        };
        let offload = if self.is_tcp {
            Offload::tcp(self.is_v6, false, start, start + 20, self.gso_size)
        } else {
            Offload::udp(start, self.gso_size)
        };
        (packet, offload)
    }
}

/// What a packet stands for, each with complete checksums.
fn segments((mut packet, offload): Super) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    segment(&mut packet, offload, &mut Vec::new(), |segment| made.push(segment.to_vec()));
    made
}

fn push(queue: &PacketQueue, now: Instant, (packet, offload): &Super) {
    queue.producer(now).push(packet, *offload);
}

fn contents(batch: &Batch) -> Vec<Super> {
    batch.iter().map(|(packet, offload)| (packet.to_vec(), offload)).collect()
}

/// How many segments each packet of a batch stands for.
fn counts(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|(packet, offload)| offload.size(packet.len()).packets).collect()
}

fn full(segments: u64) -> Size {
    Size { packets: segments, bytes: segments * FULL }
}

#[test]
fn a_super_packet_counts_as_its_segments() {
    let ((queue, traffic), now) = (queue(), epoch());
    let whole = Spec::full(1, 10).packet(0);
    push(&queue, now, &whole);
    assert_eq!((queue.len(), queue.len_bytes() as u64), (1, full(10).bytes));
    let mut batch = Batch::default();
    assert_eq!(queue.drain_into(now, &mut batch, ALL), 1);
    assert_eq!((batch.len(), batch.size(), batch.len_bytes()), (1, full(10), 14_200));
    assert_eq!(contents(&batch), std::slice::from_ref(&whole));

    queue.producer(now).refuse(&whole.0, whole.1, TooBig);
    push(&queue, now, &whole);
    queue.discard(Stale);
    queue.close();
    push(&queue, now, &whole);
    for reason in [TooBig, Stale, NotConnected] {
        assert_eq!(traffic.drops().snapshot().get(Priority::Normal, reason), full(10), "{reason:?}");
    }
}

#[test]
fn a_full_queue_drops_by_segments() {
    let ((queue, traffic), now) = (queue(), epoch());
    let pushed = 20;
    (0..pushed).for_each(|number| push(&queue, now, &Spec::full(number as u16, 40).packet(number)));
    let waiting = BULK_BYTES / 65_536;
    assert_eq!(queue.len(), waiting);
    let lost = u64::from(pushed) - waiting as u64;
    assert_eq!(traffic.drops().snapshot().get(Priority::Normal, QueueFull), full(40 * lost));
}

#[test]
fn what_is_longer_than_a_batch_is_cut_where_it_is_first() {
    let ((queue, _), now) = (queue(), epoch());
    let whole = Spec::full(1, 10).packet(5);
    push(&queue, now, &whole);
    let mut batch = Batch::default();
    let (mut parts, mut made) = (Vec::new(), Vec::new());
    while queue.drain_into(now, &mut batch, Allowance::unlimited(5000)) > 0 {
        parts.push(batch.size());
        made.extend(contents(&batch).into_iter().flat_map(segments));
    }
    // Four are a quarter longer at most.
    assert_eq!(parts, [full(3), full(3), full(4)]);
    assert_eq!(made, segments(whole));
}

#[test]
fn a_little_more_than_a_batch_goes_whole() {
    let (mut batch, now) = (Batch::default(), epoch());
    for (segments, batch_bytes, expected) in
        [(5, 5680, 5), (5, 5679, 3), (4, 5000, 4), (5, 5000, 3), (2, 2272, 2), (2, 2271, 1), (9, 0, 1)]
    {
        let ((queue, _), _) = (queue(), now);
        push(&queue, now, &Spec::full(1, segments).packet(0));
        queue.drain_into(now, &mut batch, Allowance::unlimited(batch_bytes));
        assert_eq!(counts(&batch), [expected], "{segments} segments, a batch of {batch_bytes}");
    }
}

#[test]
fn what_is_not_first_is_never_cut() {
    let ((queue, _), now) = (queue(), epoch());
    let mut batch = Batch::default();
    for (segments, first) in [(3, vec![1, 3]), (4, vec![1]), (10, vec![1])] {
        push_all(&queue, now, [udp(1, 0, 500)]);
        push(&queue, now, &Spec { is_tcp: false, ..Spec::full(1, segments) }.packet(0));
        queue.drain_into(now, &mut batch, Allowance::unlimited(5000));
        assert_eq!(counts(&batch), first);
        assert_eq!(batch.short_of(), None);
        // Nor for want of tokens.
        if batch.len() == 1 {
            push_all(&queue, now, [dns(2, 0, 500)]);
            queue.drain_into(now, &mut batch, Allowance { batch_bytes: 50_000, tokens: 5000 });
            assert_eq!((counts(&batch), batch.short_of()), (vec![1], None));
        }
        queue.discard(Stale);
    }
}

#[test]
fn tokens_cut_and_are_exceeded_by_nothing() {
    let ((queue, _), now) = (queue(), epoch());
    push(&queue, now, &Spec { payload: 3 * MSS + 100, ..Spec::full(1, 0) }.packet(0));
    let mut batch = Batch::default();
    let mut take = |batch_bytes, tokens| {
        queue.drain_into(now, &mut batch, Allowance { batch_bytes, tokens });
        (counts(&batch), batch.short_of())
    };
    assert_eq!(take(100_000, 0), (vec![], Some(1420)));
    assert_eq!(take(100_000, 1419), (vec![], Some(1420)));
    assert_eq!(take(0, 1419), (vec![], Some(1420)));
    assert_eq!(take(100_000, 1420), (vec![1], Some(1420)));
    // The batch is full behind a part; what is left of the tokens is for the next.
    assert_eq!(take(100_000, 2900), (vec![2], Some(140)));
    assert_eq!(take(100_000, 139), (vec![], Some(140)));
    assert_eq!(take(100_000, 140), (vec![1], None));
    assert!(queue.is_empty());
}

#[test]
fn a_super_packet_of_one_segment_is_never_cut() {
    let ((queue, _), now) = (queue(), epoch());
    let mut batch = Batch::default();
    for payload in [1, 500, MSS] {
        let one = Spec { payload, ..Spec::full(1, 0) }.packet(0);
        push(&queue, now, &one);
        queue.drain_into(now, &mut batch, Allowance { batch_bytes: 0, tokens: one.0.len() as u64 - 1 });
        assert_eq!((batch.len(), batch.short_of()), (0, Some(one.0.len())));
        queue.drain_into(now, &mut batch, Allowance::unlimited(0));
        assert_eq!(contents(&batch), [one]);
        assert!(queue.is_empty());
    }
}

#[test]
fn a_small_packet_gets_through_between_two_parts() {
    let ((queue, _), now) = (queue(), epoch());
    push(&queue, now, &Spec::full(1, 40).packet(0));
    let mut batch = Batch::default();
    let mut take = || {
        queue.drain_into(now, &mut batch, Allowance::unlimited(5000));
        contents(&batch)
    };
    assert_eq!(take().len(), 1);
    // High goes first, and what is new in the same class goes before what has had its turn.
    for small in [dns(2, 0, 60), udp(3, 0, 300)] {
        push_all(&queue, now, [small.clone()]);
        assert_eq!(take().first(), Some(&(small, Offload::NONE)));
        assert_eq!(take().len(), 1);
    }
}

#[test]
fn codel_drops_single_segments() {
    let ((queue, traffic), now) = (queue(), epoch());
    let ms = Duration::from_millis(1);
    let whole = Spec::full(1, 10).packet(0);
    (0..3).for_each(|_| push(&queue, now, &whole));
    let (mut batch, one) = (Batch::default(), Allowance::unlimited(1420));
    let expected = segments(whole);
    // Above the target, for an interval from then on.
    queue.drain_into(now + 10 * ms, &mut batch, one);
    assert_eq!(contents(&batch).into_iter().flat_map(segments).collect::<Vec<_>>(), expected[..1]);
    queue.drain_into(now + 111 * ms, &mut batch, one);
    assert_eq!(traffic.drops().snapshot().total(), full(1));
    assert_eq!(traffic.drops().snapshot().get(Priority::Normal, QueueDelay), full(1));
    assert_eq!(contents(&batch).into_iter().flat_map(segments).collect::<Vec<_>>(), expected[2..3]);
    assert_eq!((queue.len(), queue.len_bytes() as u64), (3, full(30 - 3).bytes));
    check_books(&queue.inner.lock().unwrap().backlog, &batch);
}

#[test]
fn what_is_overdue_is_dropped_as_a_whole() {
    let ((queue, traffic), now) = (queue(), epoch());
    (0..2).for_each(|number| push(&queue, now, &Spec::full(1, 10).packet(number)));
    let mut batch = Batch::default();
    queue.drain_into(now, &mut batch, Allowance::unlimited(5000));
    assert_eq!(batch.size(), full(3));
    let late = now + MAX_WAIT + Duration::from_millis(1);
    assert_eq!(queue.drain_into(late, &mut batch, ALL), 0);
    assert_eq!(traffic.drops().snapshot().get(Priority::Normal, QueueDelay), full(17));
    assert!(queue.is_empty());
}

/// A flow of super-packets gets as many bytes as one of single packets.
#[test]
fn flows_share_by_bytes() {
    const RATE: f64 = 50e6;
    for batch_bytes in [1420, 5000, 16 * 1024, 72 * 1024] {
        let ((queue, traffic), mut now) = (queue(), epoch());
        let mut batch = Batch::default();
        let (mut sent, mut waits, mut number) = ([0_u64; 2], [0_u64; 2], 0);
        let mut settled = None;
        while sent.iter().sum::<u64>() < 10_000_000 {
            // Both always have something, and are low after a while.
            while waits[0] < 80_000 {
                let (packet, offload) = Spec { is_tcp: false, ..Spec::full(1, 40) }.packet(number);
                waits[0] += offload.size(packet.len()).bytes;
                push(&queue, now, &(packet, offload));
            }
            while waits[1] < 80_000 {
                push_all(&queue, now, [udp(2, number, 1420)]);
                waits[1] += FULL;
            }
            number += 1;
            queue.drain_into(now, &mut batch, Allowance::unlimited(batch_bytes));
            for (packet, offload) in batch.iter() {
                let which = usize::from(packet[21] == udp(2, 0, 100)[21]);
                let bytes = offload.size(packet.len()).bytes;
                waits[which] -= bytes;
                sent[which] += bytes;
            }
            now += Duration::from_secs_f64(batch.len_bytes() as f64 / RATE);
            if sent.iter().all(|sent| *sent > 1_500_000) {
                settled.get_or_insert(sent);
            }
        }
        assert_eq!(traffic.drops().snapshot().total(), Size::ZERO);
        let before = settled.unwrap();
        let share = (sent[0] - before[0]) as f64 / (sent[1] - before[1]) as f64;
        assert!((0.9..1.1).contains(&share), "{share} at batches of {batch_bytes}");
    }
}

/// When a fast session stops, its queue is as full as can be, and there is still room to cut.
#[test]
fn who_stops_can_still_be_cut_for() {
    let ((queue, _), mut now) = (queue(), epoch());
    let mut batch = Batch::default();
    for number in 0..200 {
        push_all(&queue, now, (0..6).map(|flow| udp(flow, number, 65_000)));
        queue.drain_into(now, &mut batch, ALL);
        now += Duration::from_micros(100);
    }
    assert!(queue.limit_bytes() > QUEUE_BYTES);
    queue.drain_into(now, &mut batch, ALL);
    // Buffers of 32 KiB.
    (0..100).for_each(|number| push(&queue, now, &Spec::full(100 + number as u16, 20).packet(number)));
    now += Duration::from_millis(30);
    let high = Spec { is_dns: true, is_tcp: false, ..Spec::full(1, 20) };
    (0..4).for_each(|number| push(&queue, now, &high.packet(number)));
    assert_eq!(queue.limit_bytes(), QUEUE_BYTES);
    let [of_high, normal, low] =
        queue.inner.lock().unwrap().backlog.classes.each_ref().map(|class| class.occupied);
    assert_eq!(of_high, HIGH_BYTES + HIGH_EXCESS_BYTES);
    assert!(normal + low <= BULK_BYTES, "{normal} + {low}");
    queue.drain_into(now, &mut batch, Allowance::unlimited(5000));
    assert_eq!(counts(&batch), [3]);
}

fn spec(payload: std::ops::Range<usize>) -> impl Strategy<Value = Spec> {
    let kind = (any::<bool>(), any::<bool>(), any::<bool>(), 0_u16..4);
    (kind, payload, 1_u16..3000).prop_map(|((is_v6, is_tcp, is_dns, flow), payload, gso_size)| {
        let gso_size = gso_size.max(payload.div_ceil(512) as u16);
        Spec { is_v6, is_tcp, is_dns, flow, payload, gso_size }
    })
}

fn drain() -> impl Strategy<Value = (usize, Allowance)> {
    let allowance = prop_oneof![
        (0_usize..20_000).prop_map(Allowance::unlimited),
        (0_usize..20_000, 0_u64..20_000).prop_map(|(batch_bytes, tokens)| Allowance { batch_bytes, tokens }),
    ];
    (1_usize..5, allowance)
}

fn check_batch(batch: &Batch, allowance: Allowance, is_empty: bool) -> Result<(), TestCaseError> {
    let Allowance { batch_bytes, tokens } = allowance;
    let size = batch.size();
    prop_assert!(size.bytes <= tokens);
    prop_assert!(batch.len() <= 1 || size.bytes <= batch_bytes as u64);
    if let Some((packet, offload)) = batch.iter().next()
        && size.packets > 1
    {
        let longest =
            batch_bytes.saturating_add(batch_bytes / 4).max(offload.segment_len().map_or(0, usize::from));
        prop_assert!(offload.size(packet.len()).bytes <= longest as u64);
    }
    match batch.short_of() {
        Some(length) => prop_assert!(size.bytes + length as u64 > tokens),
        None => prop_assert!(!batch.is_empty() || is_empty),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However a super-packet was cut, its parts stand for exactly the segments of the whole, in order.
    #[test]
    fn parts_put_together_are_the_whole(
        specs in proptest::collection::vec(spec(1..10_000), 1..8),
        drains in proptest::collection::vec(drain(), 0..40),
    ) {
        let ((queue, traffic), now) = (queue(), epoch());
        let name = |packet: &[u8]| {
            let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
            (at, packet[if at == 20 { 9 } else { 6 }], packet[at..at + 4].to_vec())
        };
        let mut expected: HashMap<_, Vec<_>> = HashMap::new();
        for (spec, number) in specs.iter().zip(0..) {
            let packet = spec.packet(number * 100_000);
            push(&queue, now, &packet);
            expected.entry(name(&packet.0)).or_default().extend(segments(packet));
        }
        let mut made: HashMap<_, Vec<_>> = HashMap::new();
        let mut batch = Batch::default();
        for (limit, allowance) in drains.into_iter().chain([(100, ALL); 8]) {
            batch.limit = limit;
            queue.drain_into(now, &mut batch, allowance);
            check_batch(&batch, allowance, queue.is_empty())?;
            check_books(&queue.inner.lock().unwrap().backlog, &batch);
            let mut size = Size::ZERO;
            for (packet, offload) in contents(&batch) {
                let parts = segments((packet.clone(), offload));
                for part in &parts {
                    size += Size { packets: 1, bytes: part.len() as u64 };
                }
                made.entry(name(&packet)).or_default().extend(parts);
            }
            prop_assert_eq!(batch.size(), size);
        }
        prop_assert!(queue.is_empty());
        prop_assert_eq!(traffic.drops().snapshot().total(), Size::ZERO);
        prop_assert!(made == expected, "other segments than those that were pushed");
    }

    /// What is pushed is drained, dropped or waiting, and the memory stays within its bound.
    #[test]
    fn books_and_bounds_hold(steps in proptest::collection::vec(step(), 0..80)) {
        let ((queue, traffic), mut now) = (queue(), epoch());
        let mut batch = Batch::default();
        let (mut pushed, mut drained) = (Size::ZERO, Size::ZERO);
        for (step, number) in steps.into_iter().zip(0..) {
            match step {
                Step::Push(specs) => for spec in specs {
                    let (packet, offload) = spec.packet(number);
                    pushed += offload.size(packet.len());
                    queue.producer(now).push(&packet, offload);
                    prop_assert!(queue.held_bytes() <= queue.limit_bytes());
                },
                Step::Small(flow) => {
                    pushed += Size { packets: 1, bytes: 300 };
                    push_all(&queue, now, [udp(flow, number, 300)]);
                }
                Step::Drain((limit, allowance)) => {
                    batch.limit = limit;
                    queue.drain_into(now, &mut batch, allowance);
                    check_batch(&batch, allowance, queue.is_empty())?;
                    drained += batch.size();
                }
                Step::Much => {
                    batch.limit = 300;
                    queue.drain_into(now, &mut batch, Allowance::unlimited(200_000));
                    drained += batch.size();
                }
                Step::Wait(micros) => now += Duration::from_micros(micros),
                Step::Rate(rate) => queue.set_rate(rate),
                Step::Trim => queue.trim(now),
            }
            let mut sum = traffic.drops().snapshot().total();
            sum += drained;
            prop_assert_eq!(sum.bytes + queue.len_bytes() as u64, pushed.bytes);
            prop_assert!(queue.held_bytes() <= queue.limit_bytes());
            check_books(&queue.inner.lock().unwrap().backlog, &batch);
        }
        queue.discard(Stale);
        let mut sum = traffic.drops().snapshot().total();
        sum += drained;
        prop_assert_eq!(sum, pushed);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<Spec>),
    Small(u16),
    Drain((usize, Allowance)),
    Much,
    Wait(u64),
    Rate(Option<u64>),
    Trim,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(spec(1..64_000), 1..12).prop_map(Step::Push),
        1 => (0_u16..100).prop_map(Step::Small),
        4 => drain().prop_map(Step::Drain),
        2 => Just(Step::Much),
        2 => (0_u64..30_000).prop_map(Step::Wait),
        2 => (0_u64..500).prop_map(Step::Wait),
        1 => proptest::option::of(1000_u64..10_000_000).prop_map(Step::Rate),
        1 => Just(Step::Trim),
    ]
}
