//! What a queue keeps and drops while there is no connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::super::HELD_MAX_WAIT;
use super::super::room::{BULK_BYTES, QUEUE_BYTES};
use super::super::tests::{dns, epoch, queue, read, udp};
use super::tests::{ALL, check_books, dropped, push_all};
use super::*;
use crate::packet::UNREACHABLE_MAX;
use crate::packet::unreachable::tests::tcp;
use crate::telemetry::{DropReason::*, Priority, Size};

const MS: Duration = Duration::from_millis(1);
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

fn drain(queue: &PacketQueue, now: Instant) -> Vec<(u16, u32)> {
    let (mut batch, mut seen) = (Batch::default(), Vec::new());
    while queue.drain_into(now, &mut batch, ALL) > 0 {
        seen.extend(batch.iter().map(|(packet, _)| read(packet)));
    }
    seen
}

fn data(port: u16, sequence: u32) -> Vec<u8> {
    tcp(false, port, sequence, ACK, 1000)
}

/// Port and sequence number of those who are to be told.
fn told(queue: &PacketQueue) -> Vec<(u16, u32)> {
    let number = |quote: &[u8]| u32::from_be_bytes(quote[24..28].try_into().unwrap());
    let port = |quote: &[u8]| u16::from_be_bytes([quote[20], quote[21]]);
    queue.take_unreachable().iter().map(|quote| (port(quote), number(quote))).collect()
}

#[test]
fn nothing_leaves_while_there_is_no_connection() {
    let ((queue, traffic), now) = (queue(), epoch());
    push_all(&queue, now, [udp(1, 0, 1000)]);
    queue.hold(now);
    push_all(&queue, now, [udp(1, 1, 1000)]);
    let (mut cx, mut batch) = (Context::from_waker(Waker::noop()), Batch::default());
    assert_eq!(queue.drain_into(now + MS, &mut batch, ALL), 0);
    assert_eq!(queue.poll_drain(&mut cx, now + MS, &mut batch, ALL), Poll::Pending);
    queue.close();
    assert_eq!(queue.poll_drain(&mut cx, now + MS, &mut batch, ALL), Poll::Pending, "it is not empty");
    queue.release(now + MS);
    assert_eq!(queue.poll_drain(&mut cx, now + MS, &mut batch, ALL), Poll::Ready(2));
    assert_eq!(traffic.drops().snapshot().total().packets, 0);
}

#[test]
fn what_is_young_leaves_at_once_and_in_order() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.hold(now);
    for number in 0..50 {
        let at = now + 40 * MS * number;
        push_all(&queue, at, [udp(1, number, 1000), udp(2, number, 1000), dns(3, number, 100)]);
    }
    // The first ones are as old as may be.
    let back = now + HELD_MAX_WAIT;
    assert_eq!(queue.oldest_wait(back), Some(HELD_MAX_WAIT));
    queue.release(back);
    let left = drain(&queue, back);
    for flow in 1..=3 {
        let of_flow = left.iter().filter(|(name, _)| *name == flow).map(|(_, number)| *number);
        assert!(of_flow.eq(0..50), "flow {flow}");
    }
    assert_eq!(traffic.drops().snapshot().total().packets, 0, "neither by CoDel nor by its bound");
}

#[test]
fn a_wait_counts_from_the_release_on() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.hold(now);
    push_all(&queue, now, (0..100).map(|number| udp(1, number, 1000)));
    let back = now + 1900 * MS;
    queue.release(back);
    let mut batch = Batch::new(10);
    // In a tenth of a second, longer than CoDel's interval would bear in a queue that stands.
    for step in 0..10 {
        assert_eq!(queue.drain_into(back + 10 * MS * step, &mut batch, ALL), 10);
    }
    push_all(&queue, back, [udp(1, 0, 1000)]);
    assert_eq!(queue.drain_into(back + 501 * MS, &mut batch, ALL), 0, "then it counts as ever");
    assert_eq!(dropped(&traffic, Priority::Normal, QueueDelay), 1);
}

#[test]
fn what_has_grown_old_is_dropped_in_its_class() {
    let ((queue, traffic), now) = (queue(), epoch());
    push_all(&queue, now, [udp(1, 0, 1000), dns(2, 0, 100)]);
    queue.hold(now + 100 * MS);
    push_all(&queue, now + 1000 * MS, [udp(1, 1, 500), udp(3, 1, 600)]);
    queue.age(now + HELD_MAX_WAIT);
    assert_eq!(queue.len(), 4, "not before its time, which began when it came");
    queue.age(now + HELD_MAX_WAIT + MS);
    let snapshot = traffic.drops().snapshot();
    assert_eq!(snapshot.get(Priority::Normal, Stale), Size { packets: 1, bytes: 1000 });
    assert_eq!(snapshot.get(Priority::High, Stale), Size { packets: 1, bytes: 100 });
    // A packet that comes does the same, and a release.
    push_all(&queue, now + 3500 * MS, [udp(1, 2, 1000)]);
    assert_eq!((queue.len(), dropped(&traffic, Priority::Normal, Stale)), (1, 3));
    queue.release(now + 6000 * MS);
    assert_eq!((queue.len(), dropped(&traffic, Priority::Normal, Stale)), (0, 4));
    assert_eq!(queue.oldest_wait(now), None);
}

#[test]
fn a_super_packet_that_grows_old_counts_as_its_segments() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.hold(now);
    queue.producer(now).push(&tcp(false, 1, 7, ACK, 10 * 1380), Offload::tcp(false, false, 20, 40, 1380));
    queue.age(now + 2001 * MS);
    let lost = traffic.drops().snapshot().get(Priority::Normal, Stale);
    assert_eq!(lost, Size { packets: 10, bytes: 10 * 1420 });
    assert_eq!(told(&queue), [(1, 7)]);
}

#[test]
fn only_a_queue_that_is_held_ages() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, [udp(1, 0, 1000)]);
    queue.age(now + 10_000 * MS);
    queue.release(now + 10_000 * MS);
    assert_eq!(queue.len(), 1);
    assert_eq!(drain(&queue, now + 10_000 * MS), [], "nor does a release that ends nothing excuse a wait");
}

#[test]
fn connections_that_come_and_go_make_nothing_younger() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.hold(now);
    push_all(&queue, now, [udp(1, 0, 1000)]);
    for second in 1..=2 {
        queue.release(now + 1000 * MS * second);
        queue.hold(now + 1000 * MS * second);
        queue.hold(now + 1000 * MS * second);
    }
    assert_eq!(queue.len(), 1);
    queue.age(now + 2001 * MS);
    assert_eq!((queue.len(), dropped(&traffic, Priority::Normal, Stale)), (0, 1));
}

#[test]
fn a_flood_for_a_minute_leaves_two_seconds_of_it() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.hold(now);
    let mut pushed = 0_u64;
    // At 100 a second all of two seconds fits; at 1,000 the bound in bytes is the shorter one.
    for (begin, rate, each) in [(0, 100, 10), (60, 1000, 1)] {
        for number in 0..60 * rate {
            let at = now + Duration::from_secs(begin) + MS * each * number;
            push_all(&queue, at, [udp((number % 7) as u16, number, 1420)]);
            pushed += 1;
            assert!(queue.oldest_wait(at).unwrap() <= HELD_MAX_WAIT);
            assert!(queue.held_bytes() <= QUEUE_BYTES && queue.memory_bytes() < 1024 * 1024);
        }
    }
    assert_eq!(queue.len(), BULK_BYTES / 2048);
    let lost = |reason| Priority::ALL.map(|class| dropped(&traffic, class, reason)).iter().sum::<u64>();
    assert!(lost(Stale) >= 5800 && lost(QueueFull) >= 59_000, "{} {}", lost(Stale), lost(QueueFull));
    assert_eq!(lost(Stale) + lost(QueueFull) + queue.len() as u64, pushed);
    check_books(&queue.inner.lock().unwrap().backlog, &Batch::default());
}

#[test]
fn a_long_outage_holds_no_memory() {
    let ((queue, _), now) = (queue(), epoch());
    queue.hold(now);
    push_all(&queue, now, (0..100).map(|number| data(number, 0)));
    for half in 0..=6 {
        queue.age(now + 500 * MS * half);
    }
    assert_eq!(told(&queue).len(), UNREACHABLE_MAX);
    assert_eq!((queue.held_bytes(), queue.oldest_wait(now)), (0, None));
    push_all(&queue, now + 3000 * MS, [udp(1, 0, 1000)]);
    queue.release(now + 3000 * MS);
    assert_eq!(drain(&queue, now + 3000 * MS), [(1, 0)]);
}

#[test]
fn the_batch_of_a_lost_connection_takes_no_room() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, (0..300).map(|number| udp(number as u16, number, 1420)));
    let mut batch = Batch::new(300);
    queue.drain_into(now, &mut batch, ALL);
    queue.hold(now);
    push_all(&queue, now, (0..1000).map(|number| udp(number as u16, number, 1420)));
    assert_eq!((queue.len(), queue.held_bytes()), (BULK_BYTES / 2048, BULK_BYTES));
}

#[test]
fn a_limit_drops_nothing_while_there_is_no_connection() {
    let ((queue, traffic), now) = (queue(), epoch());
    queue.set_rate(Some(1_000_000));
    queue.hold(now);
    push_all(&queue, now, (0..1000).map(|number| udp(number as u16, number, 1420)));
    let full = 1000 - BULK_BYTES as u64 / 2048;
    assert_eq!(dropped(&traffic, Priority::Normal, QueueFull), full);
    queue.release(now);
    push_all(&queue, now, [udp(1, 0, 1420)]);
    assert_eq!(dropped(&traffic, Priority::Normal, RateLimit), 1);
}

#[test]
fn tcp_senders_are_told_of_each_loss() {
    let ((queue, _), now) = (queue(), epoch());
    push_all(&queue, now, [data(1, 0)]);
    queue.hold(now);
    // A sender repeats its oldest segment.
    for (number, at) in [0, 200, 600, 1400].into_iter().enumerate() {
        let mut producer = queue.producer(now + MS * at);
        producer.push(&data(2, 77), Offload::NONE);
        producer.push(&data(2, 1077 + number as u32), Offload::NONE);
        producer.push(&tcp(false, 3, 0, SYN, 0), Offload::NONE);
        producer.push(&udp(4, 0, 1000), Offload::NONE);
        assert!(producer.take_unreachable().is_empty(), "nothing is lost");
    }
    queue.age(now + 2001 * MS);
    assert_eq!(told(&queue), [(1, 0), (2, 77)]);
    assert_eq!(told(&queue), [], "once");
    let mut producer = queue.producer(now + 3000 * MS);
    producer.push(&data(2, 77), Offload::NONE);
    assert_eq!(producer.take_unreachable().iter().len(), 2);
    producer.refuse(&data(5, 0), Offload::NONE, NotConnected);
    producer.refuse(&data(6, 0), Offload::NONE, TooBig);
    drop(producer);
    assert_eq!(told(&queue), [(5, 0)], "who hears that it is too big hears that only");
    queue.release(now + 6000 * MS);
    assert_eq!(told(&queue), [(2, 77); 2], "of what was left as well: its sender comes back at once");
}

#[test]
fn who_loses_to_a_full_queue_is_told_while_it_is_held() {
    let ((queue, traffic), now) = (queue(), epoch());
    let flood = || push_all(&queue, now, (0..1000).map(|port| data(port, 0)));
    flood();
    assert!(dropped(&traffic, Priority::Normal, QueueFull) > 0);
    assert_eq!(told(&queue), [], "CoDel and the bound speak for themselves where there is a connection");
    queue.hold(now);
    flood();
    assert_eq!(told(&queue).len(), UNREACHABLE_MAX);
    flood();
    assert!(queue.memory_bytes() < 1024 * 1024);
    queue.release(now);
    queue.hold(now);
    assert_eq!(told(&queue), [], "an earlier outage is forgotten");
}

#[test]
fn who_waits_for_a_packet_of_a_held_queue_is_woken() {
    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let ((queue, _), now) = (queue(), epoch());
    let wakes = Arc::new(Wakes::default());
    let count = || wakes.0.load(Ordering::SeqCst);
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    queue.hold(now);
    assert_eq!(queue.poll_waiting(&mut cx), Poll::Pending);
    push_all(&queue, now, [udp(1, 0, 1000)]);
    assert_eq!(count(), 1);
    assert_eq!(queue.poll_waiting(&mut cx), Poll::Ready(()));
    queue.age(now + 2001 * MS);
    assert_eq!(queue.poll_waiting(&mut cx), Poll::Pending, "it is too old to wait for");
    let mut batch = Batch::default();
    assert_eq!(queue.poll_drain(&mut cx, now, &mut batch, ALL), Poll::Pending);
    queue.release(now + 2001 * MS);
    assert_eq!(count(), 2, "a release is the consumer's news");
}
