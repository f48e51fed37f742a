//! Packets: bundles of them with offload headers (PROTOCOL §6), and what is done with them on their way.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use smartvpn::codec::bundle::{Records, put_record};
use smartvpn::packet::icmp::MAX_ANSWER;
use smartvpn::packet::{
    Coalescer, Egress, Ingress, Intake, IpPacket, Offload, Record, Router, Split, Unreachable, clamp_mss,
    clamp_record, classify, complete_checksum, quoted, segment, split_front,
};

use super::input::Input;
use super::internet::{header_is_right, sum, transport_sum};

const CLIENT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 8, 0, 2), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const SERVER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 8, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A tunnel's MTU, mostly a usual one.
fn mtu(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        0 => 576,
        1..128 => 1420,
        128..192 => 1280,
        _ => 576 + input.number() % (u16::MAX - 575),
    }
}

/// What comes out of a session: the records of a bundle, of which those that are let pass can be relied on.
pub fn bundles(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let (offload, mtu) = (flags & 1 != 0, mtu(&mut input));
    let ingress = if flags & 2 != 0 {
        Ingress::from_client(mtu, CLIENT.0, Some(CLIENT.1))
    } else {
        let net = |bits| Ipv6Net::new(CLIENT.1, bits).ok();
        Ingress::from_server(mtu, Ipv4Net::new_assert(CLIENT.0, 24), net(64))
    };
    let mut plaintext = input.0.to_vec();
    let Ok(records) = Records::parse(&mut plaintext, offload) else { return };
    let mut again = Vec::new();
    let mut coalescer = Coalescer::new(flags & 4 != 0);
    let (mut count, mut written) = (0, 0);
    let mut write = |packet: &mut [u8], offload: Offload| written += offload.segments(packet.len());
    for mut record in records {
        put_record(record.packet, record.offload, &mut again);
        let Ok(packet) = ingress.admit(&record) else { continue };
        assert!(offload || record.offload.is_none());
        if flags & 2 != 0 {
            assert!([IpAddr::from(CLIENT.0), CLIENT.1.into()].contains(&packet.src()), "spoofed");
        }
        classify(record.packet, record.offload.segment_len());
        if record.offload.is_super() {
            super_packet(record.packet, record.offload, mtu);
        } else {
            assert!(record.packet.len() <= usize::from(mtu));
        }
        pass(&record, Intake { mtu: 1280, offload: flags & 8 != 0 });
        clamp_record(&mut record, mtu);
        count += record.offload.segments(record.packet.len());
        coalescer.push(record.packet, record.offload, &mut write);
    }
    coalescer.flush(&mut write);
    assert_eq!(written, count, "packets were lost or made");
    assert!(again.len() <= input.0.len());
}

/// The segments of a super-packet that was let pass.
fn super_packet(packet: &[u8], offload: Offload, mtu: u16) {
    let header = usize::from(offload.hdr_len);
    let start = usize::from(offload.csum_start);
    let payload = packet.len() - header;
    assert_eq!(offload.segments(packet.len()), payload.div_ceil(offload.gso_size.into()));
    let protocol = if offload.is_tcp() { TCP } else { UDP };
    let mut payloads = Vec::new();
    let mut segments = Vec::new();
    segment(&mut packet.to_vec(), offload, &mut Vec::new(), |packet| {
        assert!(packet.len() <= usize::from(mtu));
        assert!(IpPacket::parse(packet).is_ok() && header_is_right(packet));
        assert_eq!(transport_sum(packet, start, protocol), 0xffff, "a segment's checksum");
        payloads.extend_from_slice(&packet[header..]);
        segments.push(packet.to_vec());
    });
    assert_eq!(payloads, &packet[header..]);
    assert_eq!(segments.len(), offload.segments(packet.len()));
    // Cut in two, it stands for the same.
    let count = segments.len() / 2;
    if count > 0 {
        let (mut rest, mut front) = (packet.to_vec(), Vec::new());
        let split = split_front(&mut rest, offload, count, &mut front);
        let Split { front: front_offload, rest: rest_offload, at } = split;
        let mut halves = Vec::new();
        let mut keep = |packet: &mut [u8]| halves.push(packet.to_vec());
        segment(&mut front, front_offload, &mut Vec::new(), &mut keep);
        segment(&mut rest[at..], rest_offload, &mut Vec::new(), &mut keep);
        assert_eq!(halves, segments, "cut behind {count}");
    }
    let mut copy = packet.to_vec();
    let quote = quoted(&mut Record { packet: &mut copy, offload }, &mut Vec::new()).to_vec();
    assert_eq!(quote, segments[0]);
}

/// What is forwarded fits.
fn pass(record: &Record<'_>, intake: Intake) {
    let mut copy = record.packet.to_vec();
    let mut record = Record { packet: &mut copy, offload: record.offload };
    let mut forwarded = 0;
    let passed = Egress::default().pass(&mut record, intake, |packet, offload| {
        forwarded += 1;
        let Ok(ip) = IpPacket::parse(packet) else { panic!("a malformed packet is forwarded") };
        assert!(intake.offload || offload.is_none());
        assert_eq!(offload.check(&ip, intake.mtu), Ok(()));
    });
    assert_eq!(passed.is_ok(), forwarded > 0);
}

/// A packet as a TUN may give it, with the kernel's offload header or without.
pub fn packets(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let mtu = mtu(&mut input);
    let mut kernel = [0; 10];
    if flags & 1 != 0 {
        let header = input.take(10);
        kernel[..header.len()].copy_from_slice(header);
    }
    let bytes = input.0;
    let offload = Offload::from_kernel(kernel).normalised(bytes);
    let class = classify(bytes, offload.segment_len());
    assert_eq!(classify(bytes, offload.segment_len()), class);
    answers(bytes, mtu);
    if offload.is_none() {
        complete(bytes, mtu);
    } else if let Ok(packet) = IpPacket::parse(bytes)
        && offload.is_workable(&packet)
    {
        let mut segments = 0;
        segment(&mut bytes.to_vec(), offload, &mut Vec::new(), |_packet| segments += 1);
        assert_eq!(segments, offload.segments(bytes.len()));
        let mut completed = bytes.to_vec();
        if !offload.is_super() {
            complete_checksum(&mut completed, offload);
        }
    }
    let mut copy = bytes.to_vec();
    let mut record = Record { packet: &mut copy, offload };
    let _ =
        Egress::default().pass(&mut record, Intake { mtu, offload: flags & 2 != 0 }, |packet, offload| {
            assert!(offload.is_super() || packet.len() <= usize::from(mtu));
        });
    let mut lost = Unreachable::default();
    if IpPacket::parse(bytes).is_ok_and(|packet| offload.check(&packet, u16::MAX).is_ok()) {
        lost.note(bytes, offload);
    }
    assert!(lost.iter().len() <= 1);
}

/// A packet with complete checksums.
fn complete(bytes: &[u8], mtu: u16) {
    let mut clamped = bytes.to_vec();
    clamp_mss(&mut clamped, mtu);
    assert_eq!(clamped.len(), bytes.len());
    if clamped != bytes {
        // What was right stays right, and what was wrong wrong.
        let start = if bytes[0] >> 4 == 4 { usize::from(bytes[0] & 15) * 4 } else { 40 };
        assert_eq!(clamped[..start], bytes[..start]);
        let total = |packet: &[u8]| sum(&[&packet[start..]]) % 0xffff;
        assert_eq!(total(bytes), total(&clamped), "the checksum is not mended");
        let mut again = clamped.clone();
        clamp_mss(&mut again, mtu);
        assert_eq!(again, clamped);
    }
    let mut parts = Vec::new();
    let record = &mut Record { packet: &mut bytes.to_vec(), offload: Offload::NONE };
    let passed = Egress::default()
        .pass(record, Intake { mtu, offload: false }, |packet, _| parts.push(packet.to_vec()));
    if passed.is_ok() {
        let payload = |packet: &[u8]| IpPacket::parse(packet).map(|packet| packet.payload().to_vec());
        let joined: Vec<u8> = parts.iter().flat_map(|part| payload(part).unwrap_or_default()).collect();
        assert_eq!(Ok(joined), payload(&clamped), "fragments do not add up");
        assert!(parts.len() == 1 || parts.iter().all(|part| header_is_right(part)));
    }
}

/// What senders are told.
fn answers(bytes: &[u8], mtu: u16) {
    let router = Router::new(Ipv4Net::new_assert(SERVER.0, 24), Some(SERVER.1));
    let mut room = [0; MAX_ANSWER];
    for kind in [true, false] {
        let answer =
            if kind { router.too_big(bytes, mtu, &mut room) } else { router.unreachable(bytes, &mut room) };
        let Some(answer) = answer else { continue };
        let (Ok(packet), Ok(about)) = (IpPacket::parse(answer), IpPacket::parse_start(bytes)) else {
            panic!("a malformed answer")
        };
        assert_eq!(packet.dst(), about.src());
        assert!([IpAddr::from(SERVER.0), SERVER.1.into()].contains(&packet.src()));
        assert!(header_is_right(answer));
        let start = packet.header_len();
        let right = match packet.version() {
            4 => sum(&[&answer[start..]]),
            _ => transport_sum(answer, start, 58),
        };
        assert_eq!(right, 0xffff, "an answer's checksum");
    }
}

/// Packets of a few flows, nearly all in order and right, are joined and come apart as they were.
pub fn coalesce(data: &[u8]) {
    let mut input = Input(data);
    let mut coalescer = Coalescer::new(input.chance());
    let mut next: [(u32, u16); 8] = [(0xffff_ff00, 0xfff8); 8];
    let (mut pushed, mut written) = (Vec::new(), Vec::new());
    let mut write = |packet: &mut [u8], offload: Offload| {
        if offload.is_super() {
            let Ok(whole) = IpPacket::parse(packet) else { panic!("a malformed packet") };
            assert_eq!(offload.check(&whole, u16::MAX), Ok(()));
        }
        segment(packet, offload, &mut Vec::new(), |packet| written.push(without_id(packet)));
    };
    // The packets of each flow that are as they should be.
    let mut flows: [Vec<Vec<u8>>; 8] = Default::default();
    while !input.is_empty() {
        let kind = input.byte();
        let flow = usize::from(kind & 7);
        let mut packet = draw(&mut input, flow, &mut next[flow]);
        match kind >> 4 {
            0 => {
                let at = usize::from(input.byte()) % packet.len();
                packet[at] ^= input.byte() | 1;
            }
            1 => packet.truncate(packet.len() - 1 - usize::from(input.byte()) % packet.len()),
            2 => coalescer.flush(&mut write),
            _ => {}
        }
        if kind >> 4 > 1 {
            flows[flow].push(without_id(&packet));
        }
        pushed.push(without_id(&packet));
        coalescer.push(&mut packet, Offload::NONE, &mut write);
    }
    coalescer.flush(&mut write);
    let mut count: HashMap<&[u8], usize> = HashMap::new();
    pushed.iter().for_each(|packet| *count.entry(packet).or_default() += 1);
    for flow in flows {
        // One that is like another has no place of its own.
        let known: Vec<_> = flow.iter().map(Vec::as_slice).filter(|packet| count[packet] == 1).collect();
        let places: HashSet<_> = known.iter().copied().collect();
        let came = written.iter().map(Vec::as_slice).filter(|packet| places.contains(packet));
        assert!(came.eq(known.iter().copied()), "a flow is out of order");
    }
    pushed.sort();
    written.sort();
    assert_eq!(written, pushed);
}

/// A packet of a flow, and what the flow's next one begins with.
fn draw(input: &mut Input<'_>, flow: usize, (sequence, id): &mut (u32, u16)) -> Vec<u8> {
    let shape = input.byte();
    let length = usize::from(input.byte()) * if shape & 1 != 0 { 5 } else { 1 };
    let (is_v4, is_tcp) = (flow & 1 == 0, flow & 2 == 0);
    // Now and then one is missing.
    *sequence = sequence.wrapping_add(u32::from(shape & 0x08));
    *id = id.wrapping_add(u16::from(shape & 0x04));
    let ports = [0x01, 0xbb, 0x80, flow as u8];
    let mut transport = ports.to_vec();
    if is_tcp {
        let flags = if shape & 0x70 == 0 { input.byte() } else { 0x10 };
        transport.extend(sequence.to_be_bytes());
        transport.extend([0, 0, 0, 1, 0x50, flags, 2, 0, 0, 0, 0, 0]);
        *sequence = sequence.wrapping_add(length as u32);
    } else {
        transport.extend(((8 + length) as u16).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend((0..length).map(|at| at as u8 ^ shape));
    let whole = transport.len() as u16;
    let protocol = if is_tcp { TCP } else { UDP };
    let mut packet = if is_v4 {
        let [a, b] = (20 + whole).to_be_bytes();
        let [c, d] = id.to_be_bytes();
        *id = id.wrapping_add(u16::from(shape & 0x80 == 0));
        let mut header = vec![0x45, 0, a, b, c, d, 0x40, 0, 64, protocol, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2];
        let checksum = !sum(&[&header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    } else {
        let [a, b] = whole.to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, a, b, protocol, 64];
        header.extend(SERVER.1.octets());
        header.extend(CLIENT.1.octets());
        header
    };
    let start = packet.len();
    packet.extend(transport);
    let checksum = match !transport_sum(&packet, start, protocol) {
        0 => 0xffff,
        checksum => checksum,
    };
    let at = start + if is_tcp { 16 } else { 6 };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The id of a packet that is never cut has no meaning (RFC 6864 §4.1).
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
