//! Sessions that are up: control frames, limits, ends.

use std::time::Duration;

use smartvpn::codec::disconnect::{Disconnect, DisconnectCode};
use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::ServerHello;
use smartvpn::session::{ClientParams, Event, MAX_ACKS, Session};
use smartvpn::telemetry::quality::LinkHealth;

use crate::ends::accepted;
use crate::raw::{Bench, Raw};

pub(crate) fn kinds(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    frames.iter().map(|(kind, _)| *kind).collect()
}

pub(crate) fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

pub(crate) fn close_of(session: &mut Session, bench: &Bench, mut message: Vec<u8>) -> Option<u16> {
    let handled = session.handle_message(bench.now, &mut message, |_| panic!("a packet"));
    handled.err().map(|error| error.close_code().as_u16())
}

#[test]
fn what_a_replaced_client_had_sent_is_delivered_and_nothing_is_answered() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    session.disconnect(DisconnectCode::Replaced, "the session goes on elsewhere");
    assert_eq!(kinds(&raw.take(&mut session)), [0x3f]);
    assert_eq!(session.poll_timeout(), None);
    let mut message = [
        raw.seal(FrameType::IpPacket, b"under way"),
        raw.seal(FrameType::Keepalive, &[1; 8]),
        raw.seal(FrameType::KeepaliveAck, &[1; 8]),
        raw.seal(FrameType::IpPacket, b"as well"),
    ]
    .concat();
    let mut packets = Vec::new();
    session.handle_message(bench.now, &mut message, |record| packets.push(record.packet.to_vec())).unwrap();
    assert_eq!(packets, [&b"under way"[..], b"as well"]);
    assert!(raw.take(&mut session).is_empty(), "the keepalive is not answered");
    assert!(session.seal_packet(bench.now, b"packet", &mut Vec::new()).is_err());
    session.handle_timeout(bench.now + Duration::from_secs(3_600), &mut bench.rng);
    assert_eq!(session.poll_timeout(), None);
    assert_eq!(events(&mut session), []);
    // Its own goodbye, or what does not open, is the end of that.
    let last = raw.seal(FrameType::Disconnect, &goodbye(DisconnectCode::ClientDisconnect));
    assert_eq!(close_of(&mut session, &bench, last), None);
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::IpPacket, b"late")), None);
}

fn goodbye(code: DisconnectCode) -> Vec<u8> {
    Disconnect { code, message: "bye".into() }.encode()
}

#[test]
fn answers_echo_unread_and_go_ahead_of_packets() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    let stamps = [[0xff; 8], *b"anything", [0; 8]];
    for stamp in stamps {
        let mut message = raw.seal(FrameType::Keepalive, &stamp);
        session.handle_message(bench.now, &mut message, |_| panic!("a packet")).unwrap();
    }
    let mut out = Vec::new();
    assert!(session.poll_transmit(&mut out).unwrap());
    session.seal_packet(bench.now, b"packet", &mut out).unwrap();
    let frames = raw.open(&out);
    assert_eq!(kinds(&frames), [0x21, 0x21, 0x21, 0x10]);
    assert_eq!(frames[..3].iter().map(|(_, stamp)| stamp.as_slice()).collect::<Vec<_>>(), stamps);
    assert_eq!(session.keepalives(), (0, 4));
    assert_eq!(session.last_keepalive_at(), Some(bench.now));
}

#[test]
fn a_flood_of_keepalives_is_answered_a_hundred_times_a_second() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    bench.now += Duration::from_secs(1);
    let flood = |raw: &mut Raw| {
        (0..1_000_u64).flat_map(|n| raw.seal(FrameType::Keepalive, &n.to_be_bytes())).collect()
    };
    let mut message: Vec<u8> = flood(&mut raw);
    session.handle_message(bench.now, &mut message, |_| {}).unwrap();
    let answers = raw.take(&mut session);
    assert_eq!(answers.len(), MAX_ACKS);
    // The first ones, in order; the others are never answered.
    for (n, (kind, stamp)) in (0_u64..).zip(&answers) {
        assert_eq!((*kind, stamp.as_slice()), (0x21, &n.to_be_bytes()[..]));
    }
    assert_eq!(session.control_counts().keepalives_dropped, 900);
    assert!(raw.take(&mut session).is_empty());

    // Within the second nothing more, although all were answered.
    bench.now += Duration::from_millis(999);
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Keepalive, &[0; 8])), None);
    assert!(raw.take(&mut session).is_empty());
    bench.now += Duration::from_millis(1);
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Keepalive, &[0; 8])), None);
    assert_eq!(raw.take(&mut session).len(), 1);

    // What cannot be sent does not pile up either.
    for _ in 0..10 {
        bench.now += Duration::from_secs(1);
        let mut message: Vec<u8> = flood(&mut raw);
        session.handle_message(bench.now, &mut message, |_| {}).unwrap();
    }
    assert_eq!(raw.take(&mut session).len(), MAX_ACKS);
}

#[test]
fn a_hundred_keepalives_a_second_are_all_answered() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    for _ in 0..1_000 {
        bench.now += Duration::from_millis(10);
        assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Keepalive, &[0; 8])), None);
        assert_eq!(raw.take(&mut session).len(), 1);
    }
    assert_eq!(session.control_counts().keepalives_dropped, 0);
}

#[test]
fn both_ends_are_told_of_timeouts() {
    let mut bench = Bench::new();
    let (client, _) = bench.client(bench.params());
    let (server, _) = bench.server();
    for mut session in [client, server] {
        // The server asks after an interval, the client has asked already.
        while session.quality().consecutive_timeouts == 0 {
            assert_eq!(events(&mut session), []);
            bench.now = session.poll_timeout().unwrap();
            session.handle_timeout(bench.now, &mut bench.rng);
        }
        assert_eq!(events(&mut session), [Event::TimedOut]);
        assert_eq!(session.quality().loss_ratio, 1.0);
    }
}

#[test]
fn unasked_answers_are_ignored_and_counted() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.client(bench.params());
    let sent = raw.take(&mut session);
    assert_eq!(kinds(&sent), [0x20]);
    let wrong = raw.seal(FrameType::KeepaliveAck, &[0x5a; 8]);
    assert_eq!(close_of(&mut session, &bench, wrong), None);
    assert_eq!(events(&mut session), []);
    assert_eq!(session.control_counts().acks_unasked, 1);

    bench.now += Duration::from_millis(40);
    for unasked in [1, 2] {
        let right = raw.seal(FrameType::KeepaliveAck, &sent[0].1);
        assert_eq!(close_of(&mut session, &bench, right), None);
        // The first is the answer; the same once more is not.
        let expected =
            if unasked == 1 { vec![Event::RoundTrip { rtt: Duration::from_millis(40) }] } else { vec![] };
        assert_eq!(events(&mut session), expected);
        assert_eq!(session.control_counts().acks_unasked, unasked);
    }
    assert_eq!(session.quality().srtt, Duration::from_millis(40));
    assert_eq!(session.quality().link_health, LinkHealth::Healthy);
}

#[test]
fn keepalive_interval_is_the_servers_unless_given() {
    let mut bench = Bench::new();
    let hello = smartvpn::codec::hello::Accepted { keepalive_interval_secs: 77, ..accepted() };
    let hello = ServerHello::Accepted(Box::new(hello)).encode();
    let (connected, _) = bench.connect(bench.params(), &hello, |_| Vec::new());
    assert_eq!(connected.unwrap().session.quality().keepalive_interval, Duration::from_secs(77));
    let params = ClientParams { keepalive_interval: Some(Duration::from_secs(9)), ..bench.params() };
    let (connected, _) = bench.connect(params, &hello, |_| Vec::new());
    assert_eq!(connected.unwrap().session.quality().keepalive_interval, Duration::from_secs(9));
}

#[test]
fn a_dead_peer_is_declared_once_and_ends_the_session() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.client(bench.params());
    let mut keepalives = 0;
    let mut seen = Vec::new();
    while let Some(at) = session.poll_timeout() {
        keepalives += raw.take(&mut session).len();
        session.handle_timeout(at, &mut bench.rng);
        seen.extend(events(&mut session));
        bench.now = at;
    }
    let (last, timeouts) = seen.split_last().unwrap();
    assert_eq!((last, timeouts), (&Event::PeerDead, &vec![Event::TimedOut; 5][..]));
    assert_eq!(keepalives, 5);
    assert!(raw.take(&mut session).is_empty());
    assert!(session.seal_packet(bench.now, b"packet", &mut Vec::new()).is_err());
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::IpPacket, b"late")), None);
}

#[test]
fn a_keepalive_that_could_not_be_sent_gives_way_to_the_next() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    // Due, timed out and followed by the next, while the socket took nothing.
    for _ in 0..2 {
        let at = session.poll_timeout().unwrap();
        session.handle_timeout(at, &mut bench.rng);
    }
    assert_eq!(kinds(&raw.take(&mut session)), [0x20]);
    assert_eq!(session.keepalives().0, 1);
}

#[test]
fn nothing_comes_or_goes_after_the_peers_disconnect() {
    let mut bench = Bench::new();
    for code in DisconnectCode::ALL {
        let (mut session, mut raw) = bench.server();
        let mut message = [
            raw.seal(FrameType::IpPacket, b"before"),
            raw.seal(FrameType::Keepalive, &[1; 8]),
            raw.seal(FrameType::Disconnect, &goodbye(code)),
            raw.seal(FrameType::IpPacket, b"behind"),
            vec![0xee; 3],
        ]
        .concat();
        let mut packets = Vec::new();
        session
            .handle_message(bench.now, &mut message, |record| packets.push(record.packet.to_vec()))
            .unwrap();
        assert_eq!(packets, [b"before"]);
        let disconnect = Disconnect { code, message: "bye".into() };
        assert_eq!(events(&mut session), [Event::Disconnected(disconnect)]);
        assert!(raw.take(&mut session).is_empty(), "the keepalive is not answered");
        assert_eq!(session.poll_timeout(), None);
        assert_eq!(
            session.seal_packet(bench.now, b"packet", &mut Vec::new()).unwrap_err().close_code().as_u16(),
            1000
        );
        session.disconnect(DisconnectCode::ClientDisconnect, "me too");
        assert!(raw.take(&mut session).is_empty());
    }
}

#[test]
fn our_disconnect_is_the_last_frame() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    // An answer waits.
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Keepalive, &[1; 8])), None);
    session.disconnect(DisconnectCode::Kicked, "enough");
    session.disconnect(DisconnectCode::Removed, "too late");
    let frames = raw.take(&mut session);
    assert_eq!(kinds(&frames), [0x3f]);
    let disconnect = Disconnect { code: DisconnectCode::Kicked, message: "enough".into() };
    assert_eq!(Disconnect::parse(&frames[0].1), Ok(disconnect));
    assert!(session.seal_packet(bench.now, b"packet", &mut Vec::new()).is_err());
    assert_eq!(session.poll_timeout(), None);
    // What is under way is discarded, whatever it is.
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::IpPacket, b"late")), None);
    assert_eq!(
        close_of(&mut session, &bench, raw.seal(FrameType::Disconnect, &goodbye(DisconnectCode::Kicked))),
        None
    );
    assert_eq!(events(&mut session), []);
    assert!(raw.take(&mut session).is_empty());
}

#[test]
fn a_long_goodbye_fits_its_frame() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    session.disconnect(DisconnectCode::Kicked, &"\u{1}".repeat(5_000));
    assert_eq!(kinds(&raw.take(&mut session)), [0x3f]);
}

#[test]
fn a_malformed_sealed_disconnect_closes_1002() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Disconnect, b"{}")), Some(1002));
}

#[test]
fn after_a_fault_nothing_more_is_taken_or_sent() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::Keepalive, &[1; 8])), None);
    raw.seal(FrameType::IpPacket, b"dropped on the way");
    let next = raw.seal(FrameType::IpPacket, b"next");
    assert_eq!(close_of(&mut session, &bench, next), Some(1008));
    assert_eq!(session.poll_timeout(), None);
    assert!(raw.take(&mut session).is_empty());
    assert_eq!(close_of(&mut session, &bench, raw.seal(FrameType::IpPacket, b"more")), None);
}

#[test]
fn packets_have_up_to_65535_bytes() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    let mut out = Vec::new();
    for length in [0, 1, 65_535] {
        session.seal_packet(bench.now, &vec![7; length], &mut out).unwrap();
    }
    let length = out.len();
    assert_eq!(
        session.seal_packet(bench.now, &[7; 65_536], &mut out).unwrap_err().close_code().as_u16(),
        1011
    );
    assert_eq!(out.len(), length, "nothing is left behind");
    session.seal_packet(bench.now, b"next", &mut out).unwrap();
    assert_eq!(raw.open(&out).iter().map(|(_, packet)| packet.len()).collect::<Vec<_>>(), [0, 1, 65_535, 4]);
}

#[test]
fn a_quiet_hour_costs_few_keepalives() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    let end = bench.now + Duration::from_secs(3_600);
    while session.poll_timeout().unwrap() <= end {
        bench.now = session.poll_timeout().unwrap();
        session.handle_timeout(bench.now, &mut bench.rng);
        for (_, stamp) in raw.take(&mut session) {
            let ack = raw.seal(FrameType::KeepaliveAck, &stamp);
            assert_eq!(close_of(&mut session, &bench, ack), None);
        }
    }
    let (sent, _) = session.keepalives();
    // One in 51–57 s, and the first three in 25.5–28.5 s each.
    assert!((63..=73).contains(&sent), "{sent}");
}
