//! Cutting super-packets and joining packets to them allocates nothing once it has been done.

use allocation_counter::measure;
use smartvpn::packet::{Coalescer, Offload, segment, split_front};

/// A super-packet over TCP.
fn super_packet(flow: u8, length: u16) -> (Vec<u8>, Offload) {
    let mut packet = vec![flow; usize::from(length)];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 8, 0, 1, 10, 8, 0, flow]);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    (packet[32], packet[33]) = (0x50, 0x10);
    (packet, Offload::tcp(false, false, 20, 40, 1380))
}

#[test]
fn the_steady_state_allocates_nothing() {
    let mut coalescer = Coalescer::new(true);
    let mut scratch = Vec::new();
    let mut front = Vec::new();
    let mut super_packets = 0;
    let mut room: Vec<_> =
        (0..20).map(|flow| super_packet(flow, [62_000, 3000, 30_000, 1500][usize::from(flow) % 4])).collect();
    let sources = room.clone();
    let mut round = || {
        for ((packet, offload), (source, _)) in room.iter_mut().zip(&sources) {
            packet.copy_from_slice(source);
            let split = split_front(packet, *offload, 1, &mut front);
            for (packet, offload) in [(&mut front[..], split.front), (&mut packet[split.at..], split.rest)] {
                segment(packet, offload, &mut scratch, |packet| {
                    coalescer.push(packet, Offload::NONE, &mut |_, offload| {
                        super_packets += u64::from(offload.is_super());
                    });
                });
            }
        }
        coalescer.flush(&mut |_, offload| super_packets += u64::from(offload.is_super()));
    };
    (0..10).for_each(|_| round());
    let allocations = measure(|| (0..10).for_each(|_| round()));
    assert_eq!(allocations.count_total, 0, "{allocations:?}");
    assert!(super_packets >= 20 * 20, "{super_packets} were joined");
    // What eight of the longest would take is never held, but each of the buffers may have grown to one.
    assert!(coalescer.memory() <= 8 * 65_535 + 2048, "{} bytes", coalescer.memory());
    coalescer.shrink();
    assert!(coalescer.memory() < 2048);
}
