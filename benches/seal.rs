//! What sealing and opening a frame costs: nanoseconds, and bytes of packets a second. `cargo bench --bench seal`.
#![expect(clippy::disallowed_methods, reason = "a benchmark runs on the real clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smartvpn::codec::frame::{FrameType, HEADER_LEN};
use smartvpn::crypto::seal::{Opener, PREFIX_LEN, SEAL_OVERHEAD, Sealer};
use smartvpn::crypto::traffic::TrafficKey;

/// A short packet, one that fills the usual MTU, and a super-packet.
const LENGTHS: [usize; 3] = [64, 1420, 62_000];

/// Bytes of packets that are opened in one go: few enough to lie in a processor's cache.
const BATCH: usize = 128 << 10;

fn ends() -> (Sealer, Opener) {
    let key = TrafficKey::from_bytes([7; 32]);
    (Sealer::new(&key, [0xa5; PREFIX_LEN]), Opener::new(&key))
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for length in LENGTHS {
        let (packet, (mut sealer, _)) = (vec![0x5a; length], ends());
        let mut out = Vec::with_capacity(HEADER_LEN + SEAL_OVERHEAD + length);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| {
                out.clear();
                sealer.seal(FrameType::IpPacket, black_box(&packet), &mut out)
            });
        });
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for length in LENGTHS {
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| open_all(bencher, length));
    }
}

/// Opening changes a frame and goes by its counter, so each one is sealed anew, outside of the time.
fn open_all(bencher: &mut Bencher<'_>, length: usize) {
    let (packet, (mut sealer, mut opener)) = (vec![0x5a; length], ends());
    let mut frames = Vec::new();
    bencher.iter_custom(|iterations| {
        let (mut left, mut spent) = (iterations, Duration::ZERO);
        while left > 0 {
            let count = left.min((BATCH / length) as u64);
            frames.clear();
            for _ in 0..count {
                sealer
                    .seal(FrameType::IpPacket, &packet, &mut frames)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
            let start = Instant::now();
            for frame in frames.chunks_exact_mut(HEADER_LEN + SEAL_OVERHEAD + length) {
                let opened =
                    frame.split_first_chunk_mut().map(|(header, payload)| opener.open(header, payload));
                assert!(matches!(black_box(opened), Some(Ok(_))));
            }
            spent += start.elapsed();
            left -= count;
        }
        spent
    });
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
