//! Handshakes that must not come about, and what is behind those that do.

use std::time::Duration;

use smartvpn::codec::close::CloseCode;
use smartvpn::codec::disconnect::{Disconnect, DisconnectCode};
use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::{Accepted, ClientHello, RejectCode, Rejection, ServerHello};
use smartvpn::codec::secret::Token;
use smartvpn::crypto::keys::Keypair;
use smartvpn::session::{
    AfterRefusal, ClientFailure, ClientParams, Event, FEATURES, Opened, Session, SessionError, Unconfirmed,
    client,
};

use crate::ends::accepted;
use crate::hostile::plain_disconnect;
use crate::oracle::HEADER;
use crate::raw::{Bench, Raw, frame};
use crate::world::HANDSHAKE_TIMEOUT;

pub(crate) fn close_of<T>(outcome: Result<T, SessionError>) -> u16 {
    match outcome {
        Ok(_) => panic!("accepted"),
        Err(error) => error.close_code().as_u16(),
    }
}

/// How the connection is closed behind a refusal.
pub(crate) fn close_behind(then: AfterRefusal) -> u16 {
    match then {
        AfterRefusal::Close(code) => code.as_u16(),
        AfterRefusal::Listen(_) => panic!("the connection stays"),
    }
}

fn confirm(
    bench: &mut Bench,
    unconfirmed: Unconfirmed,
    mut message: Vec<u8>,
) -> Result<Session, SessionError> {
    unconfirmed.handle_message(bench.now, &mut bench.rng, &mut message, |_| panic!("no packet"))
}

fn hello(accepted: Accepted) -> Vec<u8> {
    ServerHello::Accepted(Box::new(accepted)).encode().to_vec()
}

#[test]
fn a_repeated_first_message_is_not_answered() {
    let mut bench = Bench::new();
    let (_awaiting, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
    bench.answer(message1.clone());
    assert_eq!(close_of(bench.open(message1.clone())), 1008);
    bench.now += HANDSHAKE_TIMEOUT - Duration::from_nanos(1);
    assert_eq!(close_of(bench.open(message1.clone())), 1008);
    // Forgotten, it is answered; but only who made it can confirm.
    bench.now += Duration::from_nanos(1);
    bench.answer(message1);
}

#[test]
fn a_first_message_that_did_not_open_is_not_remembered() {
    let mut bench = Bench::new();
    let (_awaiting, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
    let mut forged = message1.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(close_of(bench.open(forged)), 1008);
    bench.answer(message1);
}

#[test]
fn a_whole_recorded_handshake_does_not_confirm_at_another_server() {
    let mut bench = Bench::new();
    let (awaiting, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
    let (unconfirmed, mut message2) = bench.answer(message1.clone());
    let mut connected = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
    let mut confirmation = Vec::new();
    connected.session.poll_transmit(&mut confirmation).unwrap();
    confirm(&mut bench, unconfirmed, confirmation.clone()).unwrap();

    // Another instance with the same key, which remembers nothing.
    let mut second = Bench::new();
    assert_eq!(second.keypair.public, bench.keypair.public);
    second.rng = bench.rng;
    let (unconfirmed, _) = second.answer(message1);
    assert_eq!(close_of(confirm(&mut second, unconfirmed, confirmation)), 1008);
}

#[test]
fn only_a_keepalive_with_counter_0_confirms() {
    let mut bench = Bench::new();
    for kind in [FrameType::IpPacket, FrameType::KeepaliveAck, FrameType::Disconnect] {
        let (unconfirmed, mut raw) = bench.unconfirmed();
        let payload = Disconnect { code: DisconnectCode::Kicked, message: String::new() }.encode();
        let plaintext = if kind == FrameType::Disconnect { payload } else { vec![0; 8] };
        let first = raw.seal(kind, &plaintext);
        assert_eq!(close_of(confirm(&mut bench, unconfirmed, first)), 1002, "{kind:?}");
    }
    let (unconfirmed, mut raw) = bench.unconfirmed();
    raw.seal(FrameType::Keepalive, &[0; 8]);
    let second = raw.seal(FrameType::Keepalive, &[0; 8]);
    assert_eq!(close_of(confirm(&mut bench, unconfirmed, second)), 1008);

    let (unconfirmed, mut raw) = bench.unconfirmed();
    let first = raw.seal(FrameType::Keepalive, &[0; 8]);
    confirm(&mut bench, unconfirmed, first).unwrap();
}

#[test]
fn a_server_with_another_key_is_not_spoken_to() {
    let mut bench = Bench::new();
    let other = Keypair::generate(&mut bench.rng).public;
    let params = ClientParams { server_key: other, ..bench.params() };
    let (_awaiting, message1) = client::start(params, &mut bench.rng).unwrap();
    assert_eq!(close_of(bench.open(message1)), 1008);
}

#[test]
fn a_server_without_the_key_cannot_answer() {
    let mut bench = Bench::new();
    let (awaiting, _) = client::start(bench.params(), &mut bench.rng).unwrap();
    let (_, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
    // The answer to somebody else's first message.
    let (_, mut message2) = bench.answer(message1);
    let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap_err();
    assert_eq!(failure.close_code().as_u16(), 1008);
}

#[test]
fn a_server_key_of_low_order_is_refused() {
    let mut bench = Bench::new();
    let zero = smartvpn::crypto::keys::PublicKey::from_bytes([0; 32]);
    let params = ClientParams { server_key: zero, ..bench.params() };
    assert!(client::start(params, &mut bench.rng).is_err());
}

#[test]
fn each_rejection_reaches_the_client_and_closes_with_its_code() {
    let codes = [
        (RejectCode::UnsupportedVersion, 1008),
        (RejectCode::Unauthorized, 1008),
        (RejectCode::BadRequest, 1008),
        (RejectCode::PoolExhausted, 1013),
        (RejectCode::ServerFull, 1013),
        (RejectCode::ShuttingDown, 1001),
        (RejectCode::TicketExpired, 1008),
        (RejectCode::TicketInvalid, 1008),
        (RejectCode::Other("of-the-future".into()), 1008),
    ];
    let mut bench = Bench::new();
    for (code, close) in codes {
        let (awaiting, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
        let Ok(Opened::Request(request)) = bench.open(message1) else { panic!("no request") };
        let rejection = Rejection { version: 1, code: code.clone(), message: "no".into() };
        let (mut frame, then) = request.reject(rejection.clone(), &mut bench.rng).unwrap();
        assert_eq!(close_behind(then), close, "{code:?}");
        let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut frame).unwrap_err();
        assert_eq!(failure.close_code(), CloseCode::Normal);
        let ClientFailure::Rejected(told) = failure else { panic!("{failure:?}") };
        assert_eq!(told, rejection);
    }
}

#[test]
fn bad_hellos_are_rejected_under_the_handshakes_protection() {
    let hellos: [(&[u8], RejectCode); 8] = [
        (b" ", RejectCode::BadRequest),
        (b"no JSON", RejectCode::BadRequest),
        (b"{}", RejectCode::BadRequest),
        (b"{\"version\":0}", RejectCode::BadRequest),
        (b"{\"version\":1.0}", RejectCode::BadRequest),
        (b"{\"version\":1,\"mtu\":1}", RejectCode::BadRequest),
        (b"{\"version\":2}", RejectCode::UnsupportedVersion),
        (b"{\"version\":18446744073709551615}", RejectCode::UnsupportedVersion),
    ];
    let mut bench = Bench::new();
    for (text, code) in hellos {
        let (initiated, message1) = bench.raw_hello(text);
        let Ok(Opened::Refused { frame, then }) = bench.open(message1) else {
            panic!("{text:?} was not refused")
        };
        assert_eq!(close_behind(then), 1008);
        let (answer, _) = initiated.finish(&frame[HEADER..]).unwrap();
        let Ok(ServerHello::Rejected(rejection)) = ServerHello::parse(&answer, Default::default(), false)
        else {
            panic!("no rejection")
        };
        assert_eq!((rejection.code, rejection.version), (code, 1), "{text:?}");
    }
}

#[test]
fn a_hello_that_does_not_fit_is_an_own_fault() {
    let mut bench = Bench::new();
    // Quotation marks double in JSON.
    let hello = ClientHello { token: Token::new("\"".repeat(4_096)), ..ClientHello::default() };
    let params = ClientParams { hello, ..bench.params() };
    let error = client::start(params, &mut bench.rng).unwrap_err();
    assert_eq!(error.close_code(), CloseCode::InternalError);
}

#[test]
fn bad_server_hellos_close_1002() {
    let mut bench = Bench::new();
    let good = String::from_utf8(hello(accepted())).unwrap();
    let bad = [
        "{}".to_owned(),
        "no JSON".to_owned(),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("\"version\":1", "\"version\":0"),
        good.replace("\"features\":[]", "\"features\":[\"bundle\"]"),
        good.replace("\"mtu\":1420", "\"mtu\":100"),
        good.replace("\"clientId\":\"c1\",", ""),
    ];
    for text in bad {
        assert_ne!(text, good);
        let (outcome, _) = bench.connect(bench.params(), text.as_bytes(), |_| Vec::new());
        assert_eq!(outcome.unwrap_err().close_code().as_u16(), 1002, "{text}");
    }
}

#[test]
fn version_and_features_are_the_sessions_business() {
    let mut bench = Bench::new();
    let (initiated, message1) =
        bench.raw_hello(b"{\"version\":1,\"features\":[\"bundle\",\"offload\",\"rekey\"]}");
    let Ok(Opened::Request(request)) = bench.open(message1) else { panic!("no request") };
    let offered = request.hello().features;
    let wrong = Accepted { version: 7, features: offered, ..accepted() };
    let (_, frame) = request.accept(&wrong, &mut bench.rng).unwrap();
    let (answer, _) = initiated.finish(&frame[HEADER..]).unwrap();
    assert_eq!(
        ServerHello::parse(&answer, offered, false),
        Ok(ServerHello::Accepted(Box::new(Accepted { features: FEATURES, ..accepted() })))
    );
}

#[test]
fn a_plain_disconnect_is_taken_before_message_2_only() {
    let mut bench = Bench::new();
    let plain = bench.listening().disconnect(DisconnectCode::Kicked, "forged");
    assert_eq!(plain, plain_disconnect());

    let (awaiting, _) = client::start(bench.params(), &mut bench.rng).unwrap();
    let mut message = [plain.clone(), b"whatever follows".to_vec()].concat();
    let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut message).unwrap_err();
    assert_eq!(failure.close_code(), CloseCode::Normal);
    let ClientFailure::Disconnected(disconnect) = failure else { panic!("{failure:?}") };
    assert_eq!(disconnect.code, DisconnectCode::Kicked);

    // The server takes none at all.
    assert_eq!(close_of(bench.open(plain.clone())), 1002);
    let (unconfirmed, _) = bench.unconfirmed();
    assert_eq!(close_of(confirm(&mut bench, unconfirmed, plain)), 1002);

    // With keys it must be sealed: 48 plain bytes are long enough for a seal, but do not open.
    let payload = Disconnect { code: DisconnectCode::Kicked, message: "forged, and long".into() }.encode();
    assert!(payload.len() >= 42);
    let plain = frame(FrameType::Disconnect, &payload);
    let (mut session, _) = bench.server();
    assert_eq!(close_of(session.handle_message(bench.now, &mut plain.clone(), |_| {})), 1008);
    let (mut session, _) = bench.client(bench.params());
    assert_eq!(close_of(session.handle_message(bench.now, &mut plain.clone(), |_| {})), 1008);
}

#[test]
fn a_malformed_plain_disconnect_closes_1002() {
    let mut bench = Bench::new();
    for payload in [&b"{}"[..], b"[]", b"{\"code\":\"kicked\"}", &[0xff; 20]] {
        let (awaiting, _) = client::start(bench.params(), &mut bench.rng).unwrap();
        let mut message = frame(FrameType::Disconnect, payload);
        let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut message).unwrap_err();
        assert_eq!(failure.close_code().as_u16(), 1002);
    }
}

#[test]
fn nothing_may_stand_behind_message_1() {
    let mut bench = Bench::new();
    let keepalive = frame(FrameType::Keepalive, &[0; 48]);
    let packet = frame(FrameType::IpPacket, &[0; 48]);
    for (behind, close) in [(keepalive.clone(), 1008), (packet, 1002), (keepalive[..40].to_vec(), 1002)] {
        let (_, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
        assert_eq!(close_of(bench.open([message1.clone(), behind].concat())), close);
        // It opened, so it is remembered.
        assert_eq!(close_of(bench.open(message1)), 1008);
    }
    // A rejection stands before what is behind: the connection ends with it.
    let (_, message1) = bench.raw_hello(b"{}");
    assert!(matches!(bench.open([message1, keepalive].concat()), Ok(Opened::Refused { .. })));
}

#[test]
fn frames_behind_the_confirmation_are_the_sessions() {
    let mut bench = Bench::new();
    let (unconfirmed, mut raw) = bench.unconfirmed();
    let mut message = [
        raw.seal(FrameType::Keepalive, &[7; 8]),
        raw.seal(FrameType::IpPacket, b"one"),
        raw.seal(FrameType::IpPacket, b"two"),
    ]
    .concat();
    let mut packets = Vec::new();
    let session = unconfirmed
        .handle_message(bench.now, &mut bench.rng, &mut message, |record| {
            packets.push(record.packet.to_vec())
        })
        .unwrap();
    assert_eq!(packets, [b"one", b"two"]);
    assert_eq!(session.keepalives(), (0, 1));
}

#[test]
fn a_fault_behind_the_confirmation_ends_a_session_that_was_up() {
    let mut bench = Bench::new();
    let (unconfirmed, mut raw) = bench.unconfirmed();
    let mut message = [
        raw.seal(FrameType::Keepalive, &[7; 8]),
        raw.seal(FrameType::IpPacket, b"one"),
        frame(FrameType::IpPacket, &[0; 50]),
    ]
    .concat();
    let mut packets = 0;
    let mut session =
        unconfirmed.handle_message(bench.now, &mut bench.rng, &mut message, |_| packets += 1).unwrap();
    assert_eq!(packets, 1);
    assert_eq!(session.poll_timeout(), None);
    let mut out = Vec::new();
    let error = session.poll_transmit(&mut out).unwrap_err();
    assert_eq!((error.close_code().as_u16(), out.len()), (1008, 0));
    assert!(!session.poll_transmit(&mut out).unwrap());
}

#[test]
fn a_disconnect_right_behind_message_2_is_heard() {
    let mut bench = Bench::new();
    let payload = Disconnect { code: DisconnectCode::ShuttingDown, message: "bye".into() }.encode();
    let goodbye = |raw: &mut Raw| raw.seal(FrameType::Disconnect, &payload);
    let (connected, _) = bench.connect(bench.params(), &hello(accepted()), goodbye);
    let mut session = connected.unwrap().session;
    let Some(Event::Disconnected(disconnect)) = session.poll_event() else { panic!("not heard") };
    assert_eq!(disconnect.code, DisconnectCode::ShuttingDown);
    // Nothing is sent after it, not even the confirmation.
    assert!(!session.poll_transmit(&mut Vec::new()).unwrap());
}

#[test]
fn a_fault_behind_message_2_ends_the_clients_session() {
    let mut bench = Bench::new();
    let (connected, _) = bench.connect(bench.params(), &hello(accepted()), |_| vec![0x55; 20]);
    let mut session = connected.unwrap().session;
    let error = session.poll_transmit(&mut Vec::new()).unwrap_err();
    assert_eq!(error.close_code().as_u16(), 1002);
}

#[test]
fn an_unconfirmed_server_may_say_goodbye() {
    let mut bench = Bench::new();
    let (unconfirmed, mut raw) = bench.unconfirmed();
    let message = unconfirmed.disconnect(DisconnectCode::ShuttingDown, "bye").unwrap();
    let [(kind, plaintext)] = &raw.open(&message)[..] else { panic!("not one frame") };
    assert_eq!(*kind, 0x3f);
    assert_eq!(Disconnect::parse(plaintext).unwrap().code, DisconnectCode::ShuttingDown);
}

#[test]
fn the_confirmation_is_first_whatever_the_client_does() {
    // Asks to send before it polls.
    let mut bench = Bench::new();
    let (mut session, mut raw) = bench.client(bench.params());
    let mut out = Vec::new();
    session.seal_packet(bench.now, b"packet", &mut out).unwrap();
    let kinds: Vec<u8> = raw.open(&out).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [0x20, 0x10]);

    // Leaves before it polls.
    let (mut session, mut raw) = bench.client(bench.params());
    session.disconnect(DisconnectCode::ClientDisconnect, "changed my mind");
    let kinds: Vec<u8> = raw.take(&mut session).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [0x20, 0x3f]);
}
