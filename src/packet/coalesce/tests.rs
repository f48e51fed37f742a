//! Whatever is joined comes apart again as it was.

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
use proptest::prelude::*;

use super::{Coalescer, MAX_GROUPS, MAX_HELD, MAX_JOINED, MAX_LENGTH};
use crate::packet::ip::tests::{v4, v6};
use crate::packet::segment::tests::{Spec, spec};
use crate::packet::{IpPacket, Offload, segment};

type Written = Vec<(Vec<u8>, Offload)>;

/// Pushes packets and flushes; says what was written.
fn coalesce(packets: &[(Vec<u8>, Offload)]) -> Written {
    let mut coalescer = Coalescer::new(true);
    let mut written = push(&mut coalescer, packets);
    written.append(&mut flush(&mut coalescer));
    written
}

fn push(coalescer: &mut Coalescer, packets: &[(Vec<u8>, Offload)]) -> Written {
    let mut written = Vec::new();
    for (packet, offload) in packets {
        coalescer.push(&mut packet.clone(), *offload, &mut |packet, offload| {
            written.push((packet.to_vec(), offload));
            // They are the receiver's to change.
            packet.fill(0xee);
        });
        let held: usize = coalescer.groups[..coalescer.open].iter().map(|group| group.bytes.len()).sum();
        assert_eq!(coalescer.held, held);
        assert!(held <= MAX_HELD);
    }
    written
}

fn flush(coalescer: &mut Coalescer) -> Written {
    let mut written = Vec::new();
    coalescer.flush(&mut |packet, offload| {
        written.push((packet.to_vec(), offload));
        packet.fill(0xee);
    });
    assert_eq!((coalescer.open, coalescer.held), (0, 0));
    written
}

/// The packets, all checksums completed, that they stand for.
fn apart(written: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (packet, offload) in written {
        segment(&mut packet.clone(), *offload, &mut Vec::new(), |packet| packets.push(packet.to_vec()));
    }
    packets
}

fn complete(packets: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Offload)> {
    packets.into_iter().map(|packet| (packet, Offload::NONE)).collect()
}

/// A flow of `count` segments of 100 bytes and one of 30.
fn flow(is_v4: bool, is_tcp: bool, port: u16, count: usize) -> Spec {
    let ip = if is_v4 {
        let header = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 8, 0, 1], [10, 8, 0, 2]).unwrap();
        IpHeaders::Ipv4(Ipv4Header { identification: 0xfffe, ..header }, Default::default())
    } else {
        let header =
            Ipv6Header { source: [0xfd; 16], destination: [0xfc; 16], hop_limit: 64, ..Default::default() };
        IpHeaders::Ipv6(header, Default::default())
    };
    let tcp = TcpHeader { ack: true, ..TcpHeader::new(443, port, 0xffff_ff80, 512) };
    let payload = (0..count * 100 + 30).map(|index| index as u8).collect();
    Spec { ip, tcp: is_tcp.then_some(tcp), payload, gso_size: 100, ports: (443, port) }
}

const KINDS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

#[test]
fn the_segments_of_a_super_packet_become_it_again() {
    for (is_v4, is_tcp) in KINDS {
        let mut spec = flow(is_v4, is_tcp, 1, 20);
        if let Some(tcp) = &mut spec.tcp {
            (tcp.psh, tcp.ece) = (true, true);
            tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        }
        let written = coalesce(&complete(spec.segments()));
        assert_eq!(written, [spec.super_packet()], "IPv4 {is_v4}, TCP {is_tcp}");
    }
}

#[test]
fn partial_checksums_are_trusted() {
    for (is_v4, is_tcp) in KINDS {
        let spec = flow(is_v4, is_tcp, 1, 5);
        let (start, offset) = (if is_v4 { 20 } else { 40 }, if is_tcp { 16 } else { 6 });
        let mut packets = complete(spec.segments());
        for (packet, offload) in packets.iter_mut().step_by(2) {
            packet[start + offset] ^= 0x55;
            *offload = Offload::checksum_only(start as u16, offset as u16);
        }
        assert_eq!(coalesce(&packets), [spec.super_packet()]);
        // Of another place, they are not understood.
        packets[2].1.csum_offset += 2;
        assert_eq!(coalesce(&packets).len(), 3);
    }
}

#[test]
fn a_lone_packet_leaves_as_it_came() {
    for (is_v4, is_tcp) in KINDS {
        let mut packet = flow(is_v4, is_tcp, 1, 0).segments();
        *packet[0].last_mut().unwrap() ^= 1;
        let wrong = complete(packet);
        assert_eq!(coalesce(&wrong), wrong);
        let start = if is_v4 { 20 } else { 40 };
        let partial = vec![(wrong[0].0.clone(), Offload::checksum_only(start, if is_tcp { 16 } else { 6 }))];
        assert_eq!(coalesce(&partial), partial);
    }
}

#[test]
fn a_wrong_checksum_passes_alone_and_unchanged() {
    for (is_v4, is_tcp) in KINDS {
        let start = if is_v4 { 20 } else { 40 };
        for wrong in 0..6 {
            let mut packets = complete(flow(is_v4, is_tcp, 1, 5).segments());
            packets[wrong].0[start + 30] ^= 1;
            let written = coalesce(&packets);
            assert!(written.contains(&packets[wrong]), "{wrong}");
            let joined = written.iter().filter(|(_, offload)| offload.is_super()).count();
            assert_eq!(written.len(), [2, 3, 3, 3, 3, 2][wrong], "{wrong}");
            assert_eq!(joined, [1, 1, 2, 2, 1, 1][wrong], "{wrong}");
            let packets: Vec<_> = packets.into_iter().map(|(packet, _)| packet).collect();
            assert_eq!(apart(&written), packets);
        }
    }
}

/// What differs between two packets so that they stay two.
#[test]
fn what_segmentation_would_not_make_again_is_not_joined() {
    type Change = fn(&mut Vec<u8>);
    let ip: [(&str, Change); 7] = [
        ("type of service", |packet| packet[1] ^= 1),
        ("id", |packet| packet[5] ^= 8),
        ("don't fragment", |packet| packet[6] ^= 0x40),
        ("reserved bit", |packet| packet[6] ^= 0x80),
        ("more fragments", |packet| packet[6] ^= 0x20),
        ("fragment offset", |packet| packet[7] ^= 1),
        ("time to live", |packet| packet[8] ^= 1),
    ];
    let ipv6: [(&str, Change); 4] = [
        ("traffic class", |packet| packet[0] ^= 1),
        ("congestion", |packet| packet[1] ^= 0x10),
        ("flow label", |packet| packet[3] ^= 1),
        ("hop limit", |packet| packet[7] ^= 1),
    ];
    let tcp: [(&str, Change); 12] = [
        ("source port", |transport| transport[0] ^= 1),
        ("destination port", |transport| transport[3] ^= 1),
        ("sequence", |transport| transport[7] ^= 1),
        ("acknowledgement", |transport| transport[11] ^= 1),
        ("no acknowledgement", |transport| transport[13] ^= 0x10),
        ("reserved bits", |transport| transport[12] ^= 1),
        ("congestion echo", |transport| transport[13] ^= 0x40),
        ("congestion window", |transport| transport[13] ^= 0x80),
        ("urgent", |transport| transport[13] ^= 0x20),
        ("reset", |transport| transport[13] ^= 0x04),
        ("synchronise", |transport| transport[13] ^= 0x02),
        ("window", |transport| transport[15] ^= 1),
    ];
    for (is_v4, is_tcp) in KINDS {
        let start = if is_v4 { 20 } else { 40 };
        let at_start: &[(&str, Change)] = if is_v4 { &ip } else { &ipv6 };
        for (what, change) in at_start.iter().copied().chain(is_tcp.then_some(tcp).into_iter().flatten()) {
            let mut packets = flow(is_v4, is_tcp, 1, 1).segments();
            if tcp.iter().any(|(name, _)| *name == what) {
                let mut transport = packets[1].split_off(start);
                change(&mut transport);
                packets[1].append(&mut transport);
            } else {
                change(&mut packets[1]);
            }
            mend(&mut packets[1]);
            let packets = complete(packets);
            assert_eq!(coalesce(&packets), packets, "{what}, IPv4 {is_v4}, TCP {is_tcp}");
        }
    }
}

/// Writes right checksums.
fn mend(packet: &mut [u8]) {
    use crate::packet::header::Layout;
    let is_v4 = packet[0] >> 4 == 4;
    let (transport, protocol) = if is_v4 { (20, packet[9]) } else { (40, packet[6]) };
    let layout = Layout { is_v4, is_tcp: protocol == 6, transport, payload: 0 };
    layout.set_lengths(packet);
    let pseudo_header = layout.pseudo_header(packet);
    layout.complete(packet, pseudo_header);
}

#[test]
fn tcp_options_and_their_length_are_the_same() {
    let with = |options: &[u8]| {
        let mut spec = flow(true, true, 1, 1);
        spec.tcp.as_mut().unwrap().set_options_raw(options).unwrap();
        complete(spec.segments())
    };
    let [one, two, three] = [with(&[1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0]), with(&[1; 12]), with(&[1; 16])];
    assert_eq!(coalesce(&one).len(), 1);
    for other in [&two, &three] {
        let packets = [one[0].clone(), other[1].clone()];
        assert_eq!(coalesce(&packets), packets);
    }
}

#[test]
fn wrong_lengths_and_headers_are_not_joined() {
    let spoil = |is_v4: bool, is_tcp: bool, change: &dyn Fn(&mut [u8])| {
        for which in [0, 1] {
            let mut packets = flow(is_v4, is_tcp, 1, 1).segments();
            change(&mut packets[which]);
            let packets = complete(packets);
            assert_eq!(coalesce(&packets), packets);
        }
    };
    spoil(true, true, &|packet| packet[3] ^= 1);
    spoil(true, true, &|packet| packet[10] ^= 1);
    spoil(false, true, &|packet| packet[5] ^= 1);
    spoil(true, false, &|packet| packet[25] ^= 1);
    spoil(true, true, &|packet| packet[32] = 0x40);
    spoil(true, true, &|packet| packet[32] = 0xf0);
    // No checksum at all.
    spoil(true, false, &|packet| packet[26..28].fill(0));
    spoil(false, false, &|packet| packet[46..48].fill(0));
}

#[test]
fn ids_may_stand_still_where_they_mean_nothing() {
    let with_ids = |ids: &[u16], df: bool| {
        let mut packets = flow(true, true, 1, ids.len() - 1).segments();
        for (packet, id) in packets.iter_mut().zip(ids) {
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[6] = if df { 0x40 } else { 0 };
            mend(packet);
        }
        coalesce(&complete(packets)).len()
    };
    assert_eq!(with_ids(&[9, 10, 11, 12], false), 1);
    assert_eq!(with_ids(&[9, 10, 11, 12], true), 1);
    assert_eq!(with_ids(&[0xffff, 0, 1, 2], false), 1);
    assert_eq!(with_ids(&[9, 9, 9, 9], true), 1);
    assert_eq!(with_ids(&[9, 9, 9, 9], false), 4);
    assert_eq!(with_ids(&[9, 10, 10, 11], true), 2);
    assert_eq!(with_ids(&[9, 9, 10, 11], true), 2);
    assert_eq!(with_ids(&[9, 11, 13, 15], true), 4);
}

#[test]
fn a_shorter_packet_is_the_last() {
    for (is_v4, is_tcp) in KINDS {
        let mut coalescer = Coalescer::new(true);
        let packets = complete(flow(is_v4, is_tcp, 1, 3).segments());
        assert!(push(&mut coalescer, &packets[..3]).is_empty());
        assert_eq!(push(&mut coalescer, &packets[3..]).len(), 1, "written at once");
        // Behind a shorter one, a longer one begins anew.
        let both = [packets[3].clone(), packets[0].clone()];
        assert_eq!(coalesce(&both), both);
    }
}

#[test]
fn pushed_and_last_packets_are_not_kept_waiting() {
    for (fin, psh) in [(true, false), (false, true), (true, true)] {
        let mut spec = flow(true, true, 1, 3);
        let tcp = spec.tcp.as_mut().unwrap();
        (tcp.fin, tcp.psh) = (fin, psh);
        let packets = complete(spec.segments());
        let mut coalescer = Coalescer::new(true);
        assert!(push(&mut coalescer, &packets[..3]).is_empty());
        assert_eq!(push(&mut coalescer, &packets[3..]), [spec.super_packet()]);
        assert_eq!(push(&mut coalescer, &packets[3..]), packets[3..]);
    }
}

#[test]
fn order_within_a_flow_is_kept() {
    for (is_v4, is_tcp) in KINDS {
        let spec = flow(is_v4, is_tcp, 1, 3);
        let packets = complete(spec.segments());
        let other = complete(flow(is_v4, is_tcp, 2, 1).segments());
        let start = if is_v4 { 20 } else { 40 };
        let mut empty = packets[0].0[..start + if is_tcp { 20 } else { 8 }].to_vec();
        mend(&mut empty);
        let mut strange = packets[0].clone();
        strange.1 = Offload::checksum_only(start as u16 + 2, 1);
        for between in [(empty, Offload::NONE), spec.super_packet(), strange] {
            let mut coalescer = Coalescer::new(true);
            assert!(push(&mut coalescer, &packets[..2]).is_empty());
            assert!(push(&mut coalescer, &other[..1]).is_empty());
            let written = push(&mut coalescer, std::slice::from_ref(&between));
            assert_eq!((written.len(), written[0].1.is_super(), &written[1]), (2, true, &between));
            assert_eq!(flush(&mut coalescer), other[..1]);
        }
    }
}

#[test]
fn what_hides_its_ports_comes_after_all_between_its_addresses() {
    let four = |high: u8, low: u8| {
        let mut packet = v4([10, 8, 0, 1], [10, 8, 0, 2], 17, &[0; 40]);
        (packet[6], packet[7]) = (high, low);
        packet
    };
    let mut options = four(0, 0);
    options[0] = 0x46;
    let addresses = ["fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd", "fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc"];
    let six = |next: u8| v6(addresses[0], addresses[1], next, &[0; 40]);
    let short = v6(addresses[0], addresses[1], 17, &[0; 3]);
    for (is_v4, packet, waits) in [
        (true, four(0x20, 0), true),
        (true, four(0, 5), true),
        (true, options, true),
        (true, four(0, 0)[..22].to_vec(), true),
        (true, v4([10, 8, 0, 1], [10, 8, 0, 3], 17, &[0; 3]), false),
        (true, v4([10, 8, 0, 1], [10, 8, 0, 2], 1, &[0; 40]), false),
        (true, six(44), false),
        (false, six(44), true),
        (false, six(0), true),
        (false, short, true),
        (false, six(58), false),
        (false, v6(addresses[0], "::", 44, &[0; 40]), false),
        (false, four(0, 5), false),
        (true, vec![], false),
        (true, vec![0x45; 19], false),
        (false, vec![0x60; 39], false),
        (false, vec![0; 60], false),
    ] {
        for is_tcp in [true, false] {
            let mut coalescer = Coalescer::new(true);
            for port in [1, 2] {
                let packets = complete(flow(is_v4, is_tcp, port, 2).segments());
                assert!(push(&mut coalescer, &packets[..2]).is_empty());
            }
            let written = push(&mut coalescer, &[(packet.clone(), Offload::NONE)]);
            assert_eq!(written.len(), if waits { 3 } else { 1 }, "{packet:x?}");
            assert_eq!(written.last(), Some(&(packet.clone(), Offload::NONE)));
        }
    }
}

#[test]
fn groups_end_at_their_limits() {
    for (is_v4, is_tcp) in KINDS {
        let written = coalesce(&complete(flow(is_v4, is_tcp, 1, 150).segments()));
        let counts: Vec<_> = written.iter().map(|(packet, offload)| offload.segments(packet.len())).collect();
        assert_eq!(counts, [MAX_JOINED, MAX_JOINED, 151 - 2 * MAX_JOINED]);

        let long = flow(is_v4, is_tcp, 1, 650);
        let mut packets = Vec::new();
        for part in long.payload.chunks(60_000) {
            // From 65 bytes short of the limit to it, and beyond.
            let spec = Spec { payload: part.to_vec(), gso_size: 1380, ..long.clone() };
            packets.append(&mut complete(spec.segments()));
        }
        for (packet, offload) in coalesce(&packets) {
            let whole = IpPacket::parse(&packet).unwrap();
            assert_eq!(offload.check(&whole, 1500), Ok(()));
        }
    }
}

#[test]
fn a_super_packet_may_be_as_long_as_a_packet() {
    for (is_v4, is_tcp) in KINDS {
        let headers = if is_v4 { 20 } else { 40 } + if is_tcp { 20 } else { 8 };
        let most = MAX_LENGTH - headers;
        for (length, parts) in [(most, 1), (most + 1, 2)] {
            let mut spec = flow(is_v4, is_tcp, 1, 0);
            (spec.payload, spec.gso_size) = (vec![1; length], most - 1300);
            // Segments that long cannot be had from a spec that is longer than a packet.
            let packets = two(&spec);
            assert_eq!(coalesce(&packets).len(), parts, "{length}");
        }
    }
}

/// The two segments of a payload that may be longer than a packet's.
fn two(spec: &Spec) -> Written {
    assert_eq!(spec.payload.len().div_ceil(spec.gso_size), 2);
    complete(spec.segments())
}

#[test]
fn the_oldest_group_makes_room() {
    for (is_v4, is_tcp) in KINDS {
        let mut coalescer = Coalescer::new(true);
        let first = |port| complete(flow(is_v4, is_tcp, port, 1).segments())[..1].to_vec();
        for port in 0..MAX_GROUPS as u16 {
            assert!(push(&mut coalescer, &first(port)).is_empty());
        }
        assert_eq!(push(&mut coalescer, &first(100)), first(0));
        assert_eq!(push(&mut coalescer, &first(101)), first(1));
        let rest = flush(&mut coalescer);
        assert_eq!(rest[0], first(2)[0]);
        assert_eq!(rest[MAX_GROUPS - 1], first(101)[0]);
    }
}

#[test]
fn little_is_held() {
    let mut coalescer = Coalescer::new(true);
    let mut written = Vec::new();
    for port in 0..8 {
        let mut spec = flow(true, true, port, 0);
        (spec.payload, spec.gso_size) = (vec![1; 60_000], 30_000);
        let mut packets = complete(spec.segments());
        packets[1].0.truncate(1000);
        mend(&mut packets[1].0);
        written.append(&mut push(&mut coalescer, &packets[..1]));
    }
    assert_eq!((written.len(), coalescer.open), (4, 4));
    assert!(coalescer.memory() < 8 * MAX_LENGTH);
    flush(&mut coalescer);
    coalescer.shrink();
    assert_eq!(coalescer.memory(), size_of::<Coalescer>());
}

#[test]
fn a_device_without_udp_gets_it_as_it_comes() {
    let mut coalescer = Coalescer::new(false);
    let packets = complete(flow(true, false, 1, 2).segments());
    assert_eq!(push(&mut coalescer, &packets), packets);
    let spec = flow(true, true, 1, 2);
    assert_eq!(push(&mut coalescer, &complete(spec.segments())), [spec.super_packet()]);
}

/// What is done to one packet of a flow.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// A bit, of any byte.
    Flip(usize, u8),
    /// A bit, with checksums that are right again.
    Change(usize, u8),
    Lost,
    Twice,
    Partial,
    Truncated(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        20 => Just(Fault::None),
        1 => (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Fault::Flip(at, bit)),
        1 => (0..80_usize, 0..8_u8).prop_map(|(at, bit)| Fault::Change(at, bit)),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Twice),
        3 => Just(Fault::Partial),
        1 => (0..100_usize).prop_map(Fault::Truncated),
    ]
}

fn with_fault(packet: Vec<u8>, fault: Fault) -> Written {
    let (start, protocol) =
        if packet[0] >> 4 == 4 { (usize::from(packet[0] & 15) * 4, packet[9]) } else { (40, packet[6]) };
    let mut packet = packet;
    let length = packet.len();
    match fault {
        Fault::None => {}
        Fault::Flip(at, bit) => packet[at % length] ^= 1 << bit,
        Fault::Change(at, bit) => {
            let version = packet[0] >> 4;
            packet[at % length.min(80)] ^= 1 << bit;
            // As another version's packet, it may be too short for its headers.
            if packet[0] >> 4 == version && matches!(packet[0], 0x45 | 0x60..0x70) {
                mend(&mut packet);
            }
        }
        Fault::Lost => return vec![],
        Fault::Twice => return vec![(packet.clone(), Offload::NONE), (packet, Offload::NONE)],
        Fault::Partial => {
            let offload = Offload::checksum_only(start as u16, if protocol == 6 { 16 } else { 6 });
            let pseudo = pseudo_header(&packet, start, protocol);
            let field = start + usize::from(offload.csum_offset);
            packet[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
            return vec![(packet, offload)];
        }
        Fault::Truncated(to) => packet.truncate((start + to).min(length)),
    }
    vec![(packet, Offload::NONE)]
}

fn pseudo_header(packet: &[u8], start: usize, protocol: u8) -> u16 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let length = (packet.len() - start) as u16;
    let words = [addresses, &[0, protocol], &length.to_be_bytes()].concat();
    let sum: u64 = words.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// Protocol, addresses and ports, where they are plain to see.
fn five_tuple(packet: &[u8]) -> Vec<u8> {
    match packet {
        [0x45, .., _] if packet.len() >= 24 && packet[6] & 0x3f == 0 && packet[7] == 0 => {
            [&packet[9..10], &packet[12..24]].concat()
        }
        [0x60..0x70, .., _] if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
        _ => Vec::new(),
    }
}

/// Ids of packets that may not be fragmented may have been numbered anew.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] == 0x40 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

proptest! {
    #[test]
    fn what_is_joined_comes_apart_as_it_was(
        flows in proptest::collection::vec(
            (spec(false), proptest::collection::vec(fault(), 80), any::<bool>()), 1..12),
        order in proptest::collection::vec((any::<u8>(), 1..6_usize), 1..400),
        flushes in 0..50_u8,
    ) {
        let mut queues: Vec<std::vec::IntoIter<(Vec<u8>, Offload)>> = Vec::new();
        for (number, (mut spec, faults, stands)) in flows.into_iter().enumerate() {
            // A flow is known by its source, and has at most 80 packets.
            spec.gso_size = spec.gso_size.max(spec.payload.len().div_ceil(80));
            match &mut spec.ip {
                IpHeaders::Ipv4(header, _) => header.source[0] = number as u8,
                IpHeaders::Ipv6(header, _) => header.source[0] = number as u8,
            }
            let mut packets = Vec::new();
            for (mut packet, fault) in spec.segments().into_iter().zip(faults) {
                if stands && packet[0] == 0x45 && packet[6] == 0x40 {
                    packet[4..6].fill(3);
                    mend(&mut packet);
                }
                packets.append(&mut with_fault(packet, fault));
            }
            queues.push(packets.into_iter());
        }
        let mut coalescer = Coalescer::new(true);
        let (mut pushed, mut written) = (Vec::new(), Vec::new());
        let turns = order.into_iter().chain((0..12).map(|number| (number, usize::MAX)));
        for (number, count) in turns {
            let queue = number as usize % queues.len();
            for packet in queues[queue].by_ref().take(count) {
                pushed.push(packet.clone());
                written.append(&mut push(&mut coalescer, &[packet]));
            }
            if number < flushes {
                written.append(&mut flush(&mut coalescer));
            }
        }
        written.append(&mut flush(&mut coalescer));
        for (packet, offload) in written.iter().filter(|(_, offload)| offload.is_super()) {
            let whole = IpPacket::parse(packet).unwrap();
            prop_assert_eq!(offload.check(&whole, u16::MAX), Ok(()));
            prop_assert!((2..=MAX_JOINED).contains(&offload.segments(packet.len())));
        }
        // In order within each flow, and in whatever order between them.
        let sorted = |packets: &[(Vec<u8>, Offload)]| {
            let mut packets: Vec<_> = apart(packets).into_iter().map(without_id).collect();
            packets.sort_by_key(|packet| five_tuple(packet));
            packets
        };
        prop_assert_eq!(sorted(&written), sorted(&pushed));
    }

    #[test]
    fn any_bytes_pass(
        packets in proptest::collection::vec((
            proptest::collection::vec(any::<u8>(), 0..120), 0..4_usize, any::<bool>(), any::<[u8; 10]>(), 0..3_u8,
        ), 1..20),
    ) {
        let packets: Vec<_> = packets.into_iter().map(|(mut bytes, first, is_tcp, wire, kind)| {
            if let Some(byte) = bytes.first_mut() {
                *byte = [0x45, 0x4f, 0x60, *byte][first];
            }
            if let Some(protocol) = bytes.get_mut(if first < 2 { 9 } else { 6 }) {
                *protocol = if is_tcp { 6 } else { 17 };
            }
            let length = bytes.len();
            if first == 0 && length >= 40 {
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                bytes[6..20].fill(0);
                bytes[9] = if is_tcp { 6 } else { 17 };
                bytes[33] = 0x10;
            }
            let start = if first < 2 { 20 } else { 40 };
            let offload = match kind {
                0 => Offload::from_wire(wire),
                1 => Offload::NONE,
                _ => Offload::checksum_only(start, if is_tcp { 16 } else { 6 }),
            };
            (bytes, offload)
        }).collect();
        let written = coalesce(&packets);
        let count: usize = written.iter().map(|(packet, offload)| {
            if packets.contains(&(packet.clone(), *offload)) { 1 } else { offload.segments(packet.len()) }
        }).sum();
        prop_assert_eq!(count, packets.len());
    }
}
