//! What it costs to cut super-packets and to join packets to them. `cargo bench --bench packet`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use smartvpn::packet::{Coalescer, Offload, complete_checksum, segment, split_front};

/// What a segment of the usual tunnel carries over IPv4, with TCP timestamps.
const GSO_SIZE: u16 = 1420 - 20 - 32;

/// A super-packet over TCP of `length` bytes in all.
fn super_packet(length: u16) -> (Vec<u8>, Offload) {
    let mut packet: Vec<u8> = (0..length).map(|index| index as u8).collect();
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    (packet[32], packet[33]) = (0x80, 0x10);
    (packet, Offload::tcp(false, false, 20, 52, GSO_SIZE))
}

/// Datagrams of 100 bytes, as of a call.
fn datagrams() -> Vec<Vec<u8>> {
    let datagram = |index: u8| {
        let mut packet = vec![index; 128];
        packet[..20]
            .copy_from_slice(&[0x45, 0, 0, 128, 0, index, 0, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
        packet[20..28].copy_from_slice(&[1, 2, 3, 4, 0, 108, 0, 0]);
        packet
    };
    let mut packets: Vec<_> = (0..64).map(datagram).collect();
    for packet in &mut packets {
        let sum: u32 = packet[..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        let pseudo: u32 =
            packet[12..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        packet[26..28].copy_from_slice(&((pseudo + 17 + 108) as u16).to_be_bytes());
        complete_checksum(packet, Offload::checksum_only(20, 6));
    }
    packets
}

fn cut(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cut 62,000 bytes");
    let (packet, offload) = super_packet(62_000);
    group.throughput(Throughput::Bytes(packet.len() as u64));
    let mut scratch = Vec::new();
    // The packet is used up; a second time its payload is another, but as long.
    let mut used = packet.clone();
    group.bench_function("into segments", |bencher| {
        bencher.iter(|| {
            used[..52].copy_from_slice(&packet[..52]);
            segment(black_box(&mut used), offload, &mut scratch, |segment| {
                black_box(segment);
            });
        });
    });
    let mut front = Vec::new();
    group.bench_function("in two", |bencher| {
        bencher.iter(|| {
            used[..52].copy_from_slice(&packet[..52]);
            split_front(black_box(&mut used), offload, 22, &mut front)
        });
    });
    group.finish();
}

fn join(criterion: &mut Criterion) {
    let mut coalescer = Coalescer::new(true);
    let mut write = |packet: &mut [u8], offload| {
        black_box((packet, offload));
    };

    let mut group = criterion.benchmark_group("join");
    let (mut packet, offload) = super_packet(62_000);
    let mut segments = Vec::new();
    segment(&mut packet, offload, &mut Vec::new(), |segment| segments.push(segment.to_vec()));
    group.throughput(Throughput::Elements(segments.len() as u64));
    group.bench_function("46 TCP segments", |bencher| {
        bencher.iter(|| {
            for packet in &mut segments {
                coalescer.push(black_box(packet), Offload::NONE, &mut write);
            }
            coalescer.flush(&mut write);
        });
    });
    let mut packets = datagrams();
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("64 small UDP", |bencher| {
        bencher.iter(|| {
            for packet in &mut packets {
                coalescer.push(black_box(packet), Offload::NONE, &mut write);
            }
            coalescer.flush(&mut write);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("nothing to join");
    let (mut packet, offload) = super_packet(62_000);
    group.bench_function("a super-packet", |bencher| {
        bencher.iter(|| coalescer.push(black_box(&mut packet), offload, &mut write));
    });
    let mut icmp = packets[0].clone();
    icmp[9] = 1;
    group.bench_function("ICMP", |bencher| {
        bencher.iter(|| coalescer.push(black_box(&mut icmp), Offload::NONE, &mut write));
    });
    group.bench_function("a lone datagram", |bencher| {
        bencher.iter(|| {
            coalescer.push(black_box(&mut packets[0]), Offload::NONE, &mut write);
            coalescer.flush(&mut write);
        });
    });
    group.finish();
}

fn sum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [64, 1420, 65_535] {
        let mut packet = vec![7; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("{length} bytes"), |bencher| {
            bencher.iter(|| complete_checksum(black_box(&mut packet), Offload::checksum_only(20, 16)));
        });
    }
    group.finish();
}

criterion_group!(benches, cut, join, sum);
criterion_main!(benches);
