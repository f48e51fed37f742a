//! Handshakes that take a session up again, or are refused and go on anew (PROTOCOL §§3, 8).

use std::time::Duration;

use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::{Accepted, ClientHello, RejectCode, Rejection, ServerHello};
use smartvpn::codec::secret::Ticket;
use smartvpn::crypto::noise::{self, Pattern};
use smartvpn::session::{AfterRefusal, ClientFailure, Listening, Opened, Request, Session, client};

use crate::ends::accepted;
use crate::handshake::{close_behind, close_of};
use crate::oracle::HEADER;
use crate::raw::{Bench, frame};
use crate::world::HANDSHAKE_TIMEOUT;

const OK: FrameType = FrameType::SessionResumeOk;
const ERR: FrameType = FrameType::SessionResumeErr;

fn rejection(code: RejectCode) -> Rejection {
    Rejection { version: 1, code, message: "no".into() }
}

fn encoded(hello: ServerHello) -> Vec<u8> {
    hello.encode().to_vec()
}

fn request(bench: &mut Bench, listening: Listening, mut message: Vec<u8>) -> Request {
    let opened = listening.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut message);
    let Ok(Opened::Request(request)) = opened else { panic!("no request: {opened:?}") };
    *request
}

/// A SessionResume whose pattern byte and hello may be anything.
fn raw_resume(bench: &mut Bench, pattern: u8, hello: &[u8]) -> Vec<u8> {
    let key = bench.keypair.public;
    let (_, message1) =
        noise::initiate(Pattern::Nk, FrameType::SessionResume, None, &key, hello, &mut bench.rng).unwrap();
    frame(FrameType::SessionResume, &[&[pattern], &message1[..]].concat())
}

/// Confirms, and sends a packet each way.
fn is_up(bench: &mut Bench, mut near: Session, unconfirmed: smartvpn::session::Unconfirmed) {
    let mut message = Vec::new();
    near.poll_transmit(&mut message).unwrap();
    let mut far =
        unconfirmed.handle_message(bench.now, &mut bench.rng, &mut message, |_| panic!("a packet")).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [&mut near, &mut far];
        let mut message = Vec::new();
        ends[from].seal_packet(bench.now, b"packet", &mut message).unwrap();
        let mut packets = Vec::new();
        ends[to]
            .handle_message(bench.now, &mut message, |record| packets.push(record.packet.to_vec()))
            .unwrap();
        assert_eq!(packets, [b"packet"]);
    }
}

#[test]
fn a_session_is_taken_up_with_the_ticket_that_the_server_gave() {
    let mut bench = Bench::new();
    let params = bench.resume_params();
    let ticket = params.hello.ticket.clone();
    let (awaiting, message1) = client::start(params, &mut bench.rng).unwrap();
    let listening = bench.listening();
    let request = request(&mut bench, listening, message1);
    assert!(request.is_resume());
    assert_eq!(request.hello().ticket, ticket);
    let given = Accepted { ticket: Some((Ticket::new(vec![9; 50]).unwrap(), 3_600)), ..accepted() };
    let (unconfirmed, mut message2) = request.accept(&given, &mut bench.rng).unwrap();
    assert_eq!(message2[0], 0x31);
    let connected = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
    assert_eq!(connected.hello, given);
    is_up(&mut bench, connected.session, unconfirmed);
}

#[test]
fn a_ticket_in_a_handshake_init_makes_no_resume() {
    let mut bench = Bench::new();
    let hello = ClientHello { ticket: Ticket::new(vec![1; 100]), ..ClientHello::default() };
    let (_, message1) = bench.raw_hello(&hello.encode());
    let listening = bench.listening();
    assert!(!request(&mut bench, listening, message1).is_resume());
}

#[test]
fn behind_a_refused_ticket_a_full_handshake_follows_on_the_same_connection() {
    for code in [RejectCode::TicketExpired, RejectCode::TicketInvalid, RejectCode::BadRequest] {
        let mut bench = Bench::new();
        let (awaiting, message1) = client::start(bench.resume_params(), &mut bench.rng).unwrap();
        let listening = bench.listening();
        let refused = request(&mut bench, listening, message1.clone());
        let (mut answer, then) = refused.reject(rejection(code.clone()), &mut bench.rng).unwrap();
        assert_eq!(answer[0], 0x32);
        let AfterRefusal::Listen(listening) = then else { panic!("{code:?}: {then:?}") };
        let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut answer).unwrap_err();
        let ClientFailure::ResumeRefused(told) = failure else { panic!("{failure:?}") };
        assert_eq!(told, rejection(code));

        let (awaiting, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
        let anew = request(&mut bench, listening, message1);
        assert!(!anew.is_resume());
        let (unconfirmed, mut message2) = anew.accept(&accepted(), &mut bench.rng).unwrap();
        assert_eq!(message2[0], 0x02);
        let connected = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
        is_up(&mut bench, connected.session, unconfirmed);
    }
}

#[test]
fn a_connection_bears_one_refused_ticket() {
    let mut bench = Bench::new();
    // Another ticket closes it,
    let listening = bench.resume_refused(RejectCode::TicketExpired);
    let (_, mut second) = client::start(bench.resume_params(), &mut bench.rng).unwrap();
    let opened = listening.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut second);
    assert_eq!(close_of(opened), 1002);
    // and so does any refusal of what follows.
    for code in [RejectCode::BadRequest, RejectCode::TicketInvalid] {
        let listening = bench.resume_refused(RejectCode::TicketExpired);
        let (_, message1) = client::start(bench.params(), &mut bench.rng).unwrap();
        let anew = request(&mut bench, listening, message1);
        let (_, then) = anew.reject(rejection(code), &mut bench.rng).unwrap();
        assert_eq!(close_behind(then), 1008);
    }
}

#[test]
fn every_other_refusal_of_a_resume_closes_with_its_code() {
    let codes = [
        (RejectCode::UnsupportedVersion, 1008),
        (RejectCode::Unauthorized, 1008),
        (RejectCode::PoolExhausted, 1013),
        (RejectCode::ServerFull, 1013),
        (RejectCode::ShuttingDown, 1001),
        (RejectCode::Other("of-the-future".into()), 1008),
    ];
    let mut bench = Bench::new();
    for (code, close) in codes {
        let (awaiting, message1) = client::start(bench.resume_params(), &mut bench.rng).unwrap();
        let listening = bench.listening();
        let refused = request(&mut bench, listening, message1);
        let (mut answer, then) = refused.reject(rejection(code.clone()), &mut bench.rng).unwrap();
        assert_eq!((answer[0], close_behind(then)), (0x32, close), "{code:?}");
        let failure = awaiting.handle_message(bench.now, &mut bench.rng, &mut answer).unwrap_err();
        let ClientFailure::Rejected(told) = failure else { panic!("{failure:?}") };
        assert_eq!(told, rejection(code));
    }
}

#[test]
fn a_bad_hello_in_a_resume_leaves_the_connection() {
    let mut bench = Bench::new();
    for (hello, stays) in
        [(&b"no JSON"[..], true), (b"{}", true), (b"{\"version\":0}", true), (b"{\"version\":2}", false)]
    {
        let message1 = raw_resume(&mut bench, 1, hello);
        let Ok(Opened::Refused { frame, then }) = bench.open(message1) else { panic!("not refused") };
        assert_eq!(frame[0], 0x32);
        assert_eq!(matches!(then, AfterRefusal::Listen(_)), stays, "{then:?}");
    }
}

#[test]
fn the_hello_decides_what_the_answer_to_a_resume_is() {
    let mut bench = Bench::new();
    let good = encoded(ServerHello::Accepted(Box::new(accepted())));
    let bad = encoded(ServerHello::Rejected(rejection(RejectCode::TicketInvalid)));
    let params = bench.resume_params();
    for (kind, hello) in [(OK, &bad), (ERR, &good)] {
        let (outcome, _) = bench.connect_by(params.clone(), kind, hello, |_| Vec::new());
        let failure = outcome.unwrap_err();
        assert!(matches!(failure, ClientFailure::Broken { .. }), "{failure:?}");
        assert_eq!(failure.close_code().as_u16(), 1002, "{kind:?}");
    }
    assert!(bench.connect_by(params, OK, &good, |_| Vec::new()).0.is_ok());
}

#[test]
fn answers_do_not_serve_the_other_kind_of_handshake() {
    let mut bench = Bench::new();
    let good = encoded(ServerHello::Accepted(Box::new(accepted())));
    let (params, resume) = (bench.params(), bench.resume_params());
    for (params, kind) in [(params.clone(), OK), (params, ERR), (resume, FrameType::HandshakeResp)] {
        let (outcome, _) = bench.connect_by(params, kind, &good, |_| Vec::new());
        assert_eq!(outcome.unwrap_err().close_code().as_u16(), 1002, "{kind:?}");
    }
}

#[test]
fn a_resume_of_another_pattern_fails_like_one_that_does_not_open() {
    let mut bench = Bench::new();
    for pattern in [0, 2, 3, 0xff] {
        let message1 = raw_resume(&mut bench, pattern, b"{\"version\":1}");
        assert_eq!(close_of(bench.open(message1)), 1008, "{pattern}");
    }
    let message1 = raw_resume(&mut bench, 1, b"{\"version\":1}");
    assert!(matches!(bench.open(message1), Ok(Opened::Request(_))));
}

#[test]
fn a_first_message_of_one_kind_is_not_one_of_the_other() {
    let mut bench = Bench::new();
    let (_, init) = bench.raw_hello(b"{\"version\":1}");
    let resume = frame(FrameType::SessionResume, &[&[1], &init[HEADER..]].concat());
    assert_eq!(close_of(bench.open(resume)), 1008);
    let resume = raw_resume(&mut bench, 1, b"{\"version\":1}");
    let init = frame(FrameType::HandshakeInit, &resume[HEADER + 1..]);
    assert_eq!(close_of(bench.open(init)), 1008);
}

#[test]
fn a_repeated_resume_is_not_answered() {
    let mut bench = Bench::new();
    let (_, message1) = client::start(bench.resume_params(), &mut bench.rng).unwrap();
    assert!(matches!(bench.open(message1.clone()), Ok(Opened::Request(_))));
    bench.now += HANDSHAKE_TIMEOUT - Duration::from_nanos(1);
    assert_eq!(close_of(bench.open(message1.clone())), 1008);
    // On a connection whose own ticket was refused, too.
    let (_, init) = client::start(bench.params(), &mut bench.rng).unwrap();
    assert!(bench.open(init.clone()).is_ok());
    let listening = bench.resume_refused(RejectCode::TicketInvalid);
    let opened = listening.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut init.clone());
    assert_eq!(close_of(opened), 1008);
}
