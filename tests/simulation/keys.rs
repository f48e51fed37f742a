//! How long keys serve, and who is told.

use std::time::Duration;

use smartvpn::codec::frame::FrameType;
use smartvpn::session::{ClientParams, Event, KeyLimits, Session};

use crate::raw::{Bench, Raw};
use crate::session::{close_of, events, kinds};

/// Those that are not told at each time-out.
fn rare_events(session: &mut Session) -> Vec<Event> {
    events(session).into_iter().filter(|event| *event != Event::TimedOut).collect()
}

/// That the keys are spent; that they age is told on the way there.
fn spent(session: &mut Session) -> bool {
    events(session).contains(&Event::KeysSpent)
}

fn with_limits(bench: &mut Bench, key_limits: KeyLimits) -> (Session, Raw) {
    let params = ClientParams { key_limits, ..bench.params() };
    let (mut session, mut raw) = bench.client(params);
    raw.take(&mut session);
    assert_eq!(events(&mut session), []);
    (session, raw)
}

#[test]
fn keys_are_spent_by_frames_of_either_direction() {
    let mut bench = Bench::new();
    // The confirmation is the first of 20.
    let limits = KeyLimits { frames: 20, ..KeyLimits::default() };
    let told = |count| match count {
        18 => vec![Event::KeysAging],
        20 => vec![Event::KeysSpent],
        _ => vec![],
    };
    let (mut session, _) = with_limits(&mut bench, limits);
    let mut out = Vec::new();
    for count in 2..=30 {
        session.seal_packet(bench.now, b"packet", &mut out).unwrap();
        assert_eq!(events(&mut session), told(count), "{count}");
    }
    let (mut session, mut raw) = with_limits(&mut bench, limits);
    for count in 1..=30 {
        let mut message = raw.seal(FrameType::IpPacket, b"packet");
        session.handle_message(bench.now, &mut message, |_| {}).unwrap();
        assert_eq!(events(&mut session), told(count), "{count}");
    }
}

#[test]
fn keys_are_spent_by_control_frames_too() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = with_limits(&mut bench, KeyLimits { frames: 2, ..KeyLimits::default() });
    let at = session.poll_timeout().unwrap();
    session.handle_timeout(at, &mut bench.rng);
    assert_eq!(events(&mut session), [Event::TimedOut]);
    assert_eq!(kinds(&raw.take(&mut session)), [0x20]);
    assert_eq!(events(&mut session), [Event::KeysSpent]);
}

#[test]
fn keys_are_spent_by_bytes_of_either_direction() {
    let mut bench = Bench::new();
    // The confirmation's payload and a packet's, less one byte of it.
    let limits = KeyLimits { bytes: 48 + 140, ..KeyLimits::default() };
    let (mut session, _) = with_limits(&mut bench, limits);
    session.seal_packet(bench.now, &[0; 99], &mut Vec::new()).unwrap();
    assert!(!spent(&mut session));
    let (mut session, _) = with_limits(&mut bench, limits);
    session.seal_packet(bench.now, &[0; 100], &mut Vec::new()).unwrap();
    assert!(spent(&mut session));
    let (mut session, mut raw) = with_limits(&mut bench, limits);
    let mut message = raw.seal(FrameType::IpPacket, &[0; 148]);
    session.handle_message(bench.now, &mut message, |_| {}).unwrap();
    assert!(spent(&mut session));
    // They age at 170 of 188 bytes.
    for (length, expected) in [(81, vec![]), (82, vec![Event::KeysAging])] {
        let (mut session, _) = with_limits(&mut bench, limits);
        session.seal_packet(bench.now, &vec![0; length], &mut Vec::new()).unwrap();
        assert_eq!(events(&mut session), expected, "{length}");
    }
}

#[test]
fn keys_age_and_are_spent_with_time() {
    let mut bench = Bench::new();
    let age = Duration::from_secs(3);
    let (mut session, _) = with_limits(&mut bench, KeyLimits { age, ..KeyLimits::default() });
    for (end, expected) in [(age * 9 / 10, Event::KeysAging), (age, Event::KeysSpent)] {
        let end = bench.now + end;
        while session.poll_timeout().unwrap() < end {
            let at = session.poll_timeout().unwrap();
            session.handle_timeout(at, &mut bench.rng);
            assert_eq!(rare_events(&mut session), []);
        }
        assert_eq!(session.poll_timeout(), Some(end));
        session.handle_timeout(end, &mut bench.rng);
        assert_eq!(events(&mut session), [expected]);
        assert!(session.poll_timeout().unwrap() > end);
    }
}

#[test]
fn a_server_is_not_told_of_spent_keys() {
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.server();
    let end = bench.now + KeyLimits::default().age;
    while session.poll_timeout().unwrap() <= end {
        bench.now = session.poll_timeout().unwrap();
        session.handle_timeout(bench.now, &mut bench.rng);
        for (kind, stamp) in raw.take(&mut session) {
            assert_eq!(kind, 0x20);
            let ack = raw.seal(FrameType::KeepaliveAck, &stamp);
            assert_eq!(close_of(&mut session, &bench, ack), None);
        }
        assert!(events(&mut session).iter().all(|event| matches!(event, Event::RoundTrip { .. })));
    }
}
