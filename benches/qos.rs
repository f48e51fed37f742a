//! What a packet costs on its way through classification, accounting, queue, token bucket and counters:
//! nanoseconds each. `cargo bench --bench qos`.
#![expect(clippy::disallowed_methods, reason = "a benchmark runs on the real clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use smartvpn::packet::{Offload, classify};
use smartvpn::qos::flows::FlowAccounting;
use smartvpn::qos::{Allowance, Batch, FlowHasher, PacketQueue, RateLimit, TokenBucket};
use smartvpn::telemetry::quality::Estimator;
use smartvpn::telemetry::{DropReason, Priority, Size, Traffic};

/// Packets pushed under one lock, as the TUN's reader does.
const BATCH: usize = 64;

fn v4(flow: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[9] = 6;
    packet[12..20].copy_from_slice(&[10, 8, 0, 2, 192, 0, 2, 1]);
    packet[20..22].copy_from_slice(&(10_000 + flow).to_be_bytes());
    packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
    packet
}

/// TCP behind two extension headers.
fn v6(flow: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    packet[6] = 0;
    packet[8..10].copy_from_slice(&flow.to_be_bytes());
    (packet[40], packet[48]) = (60, 6);
    packet
}

fn hasher() -> FlowHasher {
    FlowHasher::new(&mut StdRng::seed_from_u64(1))
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    for (name, packet) in [("classify IPv4", v4(1, 1420)), ("classify IPv6 with extensions", v6(1, 1420))] {
        group.bench_function(name, |bencher| bencher.iter(|| classify(black_box(&packet), None)));
    }
    let (hasher, flow) = (hasher(), classify(&v4(1, 1420), None).flow);
    group.bench_function("hash IPv4", |bencher| bencher.iter(|| hasher.hash(black_box(&flow))));
    let flow = classify(&v6(1, 1420), None).flow;
    group.bench_function("hash IPv6", |bencher| bencher.iter(|| hasher.hash(black_box(&flow))));
}

fn accounting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow accounting");
    let hashes: Vec<u64> = (0..1 << 16)
        .map(|flow: u32| {
            let packet = v4(flow as u16, 40);
            hasher().hash(&classify(&packet, None).flow) ^ u64::from(flow >> 16)
        })
        .collect();
    let start = Instant::now();
    for (name, flows) in [("1 flow", 1), ("64 flows", 64), ("65,536 flows", 1 << 16)] {
        let (mut accounting, mut next) = (FlowAccounting::default(), 0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next += 1;
                let now = start + Duration::from_micros(next);
                accounting.add(now, hashes[next as usize % flows], black_box(1420))
            });
        });
    }
}

/// A batch in and a batch out, per packet.
fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("enqueue and dequeue");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, flows, len) in
        [("1 flow of 1,420", 1, 1420), ("64 flows of 1,420", 64, 1420), ("64 flows of 60", 64, 60)]
    {
        let queue = PacketQueue::new(Arc::default(), hasher());
        let packets: Vec<_> = (0..BATCH).map(|packet| v4((packet % flows) as u16, len)).collect();
        let (mut batch, mut now) = (Batch::default(), Instant::now());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now += Duration::from_micros(100);
                let mut producer = queue.producer(now);
                packets.iter().for_each(|packet| producer.push(packet, Offload::NONE));
                drop(producer);
                queue.drain_into(now, &mut batch, Allowance::unlimited(usize::MAX))
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("overflow");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, flows) in [("1 flow", 1), ("1,000 flows", 1000)] {
        let queue = PacketQueue::new(Arc::default(), hasher());
        let packets: Vec<_> = (0..10 * BATCH).map(|packet| v4((packet % flows) as u16, 200)).collect();
        let now = Instant::now();
        packets.iter().for_each(|packet| queue.producer(now).push(packet, Offload::NONE));
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut producer = queue.producer(now);
                for _ in 0..BATCH {
                    next = (next + 1) % packets.len();
                    producer.push(&packets[next], Offload::NONE);
                }
            });
        });
    }
}

fn tokens(criterion: &mut Criterion) {
    let start = Instant::now();
    let limit = RateLimit::new(125_000_000, 1_000_000).unwrap_or_else(|error| panic!("{error}"));
    let (mut bucket, mut now) = (TokenBucket::new(limit, start), start);
    criterion.bench_function("token bucket", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(11_360);
            let there = bucket.available(now);
            bucket.take(now, black_box(1420));
            there
        });
    });
}

fn telemetry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("telemetry");
    let traffic = Traffic::default();
    group.bench_function("sent", |bencher| {
        bencher.iter(|| traffic.add_sent(Size::of_packet(black_box(1420))))
    });
    group.bench_function("dropped", |bencher| {
        bencher.iter(|| {
            traffic.drops().count(Priority::Low, DropReason::QueueFull, Size::of_packet(black_box(1420)))
        });
    });
    let mut estimator = Estimator::default();
    let mut now = Instant::now();
    group.bench_function("round trip", |bencher| {
        bencher.iter(|| {
            now += Duration::from_secs(1);
            estimator.answered(now, black_box(Duration::from_millis(17)));
        });
    });
    group.bench_function("snapshot", |bencher| {
        bencher.iter(|| traffic.snapshot());
    });
}

criterion_group!(benches, headers, accounting, queue, tokens, telemetry);
criterion_main!(benches);
