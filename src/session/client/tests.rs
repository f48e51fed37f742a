use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::codec::frame::HEADER_LEN;
use crate::codec::hello::{MLKEM_CIPHERTEXT_LEN, MLKEM_KEY_LEN};
use crate::codec::secret::{Ticket, Token};
use crate::crypto::keys::Keypair;
use crate::session::{AfterRefusal, Listening, Opened, ReplayCache, Request, epoch};

struct Bench {
    now: Instant,
    rng: StdRng,
    server: Arc<Keypair>,
    replay: ReplayCache,
}

impl Bench {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(4);
        let server = Arc::new(Keypair::generate(&mut rng));
        Self { now: epoch(), rng, server, replay: ReplayCache::new(Duration::from_secs(10)) }
    }

    fn params(&self, hybrid: Hybrid) -> ClientParams {
        ClientParams {
            server_key: self.server.public,
            identity: None,
            hello: ClientHello::default(),
            hybrid,
            keepalive_interval: None,
            keepalive_cap: KeepaliveCap::default(),
            key_limits: KeyLimits::default(),
        }
    }

    fn start(&mut self, hybrid: Hybrid) -> (AwaitingResponse, Vec<u8>) {
        start(self.params(hybrid), &mut self.rng).unwrap()
    }

    fn open(&mut self, message: &mut [u8]) -> Opened {
        let listening = Listening::new(Arc::clone(&self.server));
        listening.handle_message(self.now, &mut self.rng, &mut self.replay, message).unwrap()
    }

    fn request(&mut self, message: &mut [u8]) -> Box<Request> {
        let Opened::Request(request) = self.open(message) else { panic!("refused") };
        request
    }

    /// What a server without ML-KEM, or with something else for it, answers to a HandshakeInit.
    fn answer(&mut self, message1: &[u8], mlkem768: Option<Vec<u8>>) -> Vec<u8> {
        let kind = FrameType::HandshakeInit;
        let (responding, _) =
            noise::respond(Pattern::Nk, kind, &self.server, &message1[HEADER_LEN..]).unwrap();
        let hello = ServerHello::Accepted(Box::new(Accepted { mlkem768, ..accepted() }));
        let (message2, _) = responding.finish(&hello.encode(), &mut self.rng).unwrap();
        handshake_frame(FrameType::HandshakeResp, &message2)
    }
}

fn accepted() -> Accepted {
    Accepted {
        version: 1,
        features: Features::NONE,
        client_id: "c1".into(),
        assigned_ip: [10, 8, 0, 2].into(),
        prefix_length: 24,
        gateway: [10, 8, 0, 1].into(),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: Vec::new(),
        ticket: None,
        mlkem768: None,
    }
}

fn close_of<T>(outcome: Result<T, ClientFailure>) -> u16 {
    match outcome {
        Err(failure) => failure.close_code().as_u16(),
        Ok(_) => panic!("it stands"),
    }
}

#[test]
fn both_ends_have_ml_kem_where_the_client_asks_for_it() {
    for hybrid in [Hybrid::Off, Hybrid::Offered, Hybrid::Required] {
        let mut bench = Bench::new();
        let (awaiting, mut message1) = bench.start(hybrid);
        let request = bench.request(&mut message1);
        let asked = hybrid != Hybrid::Off;
        assert_eq!(request.hello().mlkem768.as_ref().map(Vec::len), asked.then_some(MLKEM_KEY_LEN));
        assert_eq!(request.is_hybrid(), asked);
        let (unconfirmed, mut message2) = request.accept(&accepted(), &mut bench.rng).unwrap();
        let Connected { mut session, hello } =
            awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
        assert_eq!(hello.mlkem768.map(|text| text.len()), asked.then_some(MLKEM_CIPHERTEXT_LEN));
        // The keys are the same at both ends.
        let mut confirmation = Vec::new();
        session.poll_transmit(&mut confirmation).unwrap();
        unconfirmed.handle_message(bench.now, &mut bench.rng, &mut confirmation, |_| {}).unwrap();
    }
}

#[test]
fn the_key_is_a_fresh_one_each_time() {
    let mut bench = Bench::new();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (_, mut message1) = bench.start(Hybrid::Offered);
        keys.push(bench.request(&mut message1).hello().mlkem768.clone());
    }
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn the_longest_first_message_fits_into_its_frame() {
    let mut bench = Bench::new();
    let hello = ClientHello {
        features: crate::session::FEATURES,
        mtu: Some(65_535),
        token: Token::new("a".repeat(Token::MAX_LEN)),
        ticket: Ticket::new(vec![7; Ticket::MAX_LEN]),
        name: Some("😀".repeat(64)),
        ..ClientHello::default()
    };
    let params = ClientParams { hello, ..bench.params(Hybrid::Required) };
    let (_, message1) = start(params, &mut bench.rng).unwrap();
    assert!(message1.len() <= HEADER_LEN + MAX_HANDSHAKE);
}

#[test]
fn only_a_client_that_must_have_it_minds_an_answer_without_it() {
    let mut bench = Bench::new();
    let (awaiting, message1) = bench.start(Hybrid::Offered);
    let mut answer = bench.answer(&message1, None);
    awaiting.handle_message(bench.now, &mut bench.rng, &mut answer).unwrap();
    let (awaiting, message1) = bench.start(Hybrid::Required);
    let mut answer = bench.answer(&message1, None);
    assert_eq!(close_of(awaiting.handle_message(bench.now, &mut bench.rng, &mut answer)), 1008);
}

#[test]
fn a_ciphertext_of_another_length_is_no_hello() {
    let mut bench = Bench::new();
    for length in [MLKEM_CIPHERTEXT_LEN - 1, MLKEM_CIPHERTEXT_LEN + 1] {
        let (awaiting, message1) = bench.start(Hybrid::Offered);
        let mut answer = bench.answer(&message1, Some(vec![0; length]));
        assert_eq!(close_of(awaiting.handle_message(bench.now, &mut bench.rng, &mut answer)), 1002);
    }
    let (awaiting, message1) = bench.start(Hybrid::Off);
    let mut answer = bench.answer(&message1, Some(vec![0; MLKEM_CIPHERTEXT_LEN]));
    assert_eq!(close_of(awaiting.handle_message(bench.now, &mut bench.rng, &mut answer)), 1002, "unasked");
}

#[test]
fn the_server_knows_a_client_with_a_key_by_it_and_others_not_at_all() {
    for ticket in [None, Ticket::new(vec![7; 100])] {
        for has_key in [false, true] {
            let mut bench = Bench::new();
            let identity = has_key.then(|| Arc::new(Keypair::generate(&mut bench.rng)));
            let hello = ClientHello { ticket: ticket.clone(), ..ClientHello::default() };
            let params = ClientParams { identity: identity.clone(), hello, ..bench.params(Hybrid::Offered) };
            let (awaiting, mut message1) = start(params, &mut bench.rng).unwrap();
            let pattern = if has_key { 3 } else { 1 };
            match ticket {
                Some(_) => assert_eq!((message1[0], message1[HEADER_LEN]), (0x30, pattern)),
                None => assert_eq!(message1[0], pattern),
            }
            let request = bench.request(&mut message1);
            assert_eq!(request.pattern() as u8, pattern);
            assert_eq!(request.client_key(), identity.map(|identity| identity.public));
            assert_eq!(request.is_resume(), ticket.is_some());
            let (unconfirmed, mut message2) = request.accept(&accepted(), &mut bench.rng).unwrap();
            let connected = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
            let (mut session, mut confirmation) = (connected.session, Vec::new());
            session.poll_transmit(&mut confirmation).unwrap();
            unconfirmed.handle_message(bench.now, &mut bench.rng, &mut confirmation, |_| {}).unwrap();
        }
    }
}

#[test]
fn a_clients_key_is_seen_by_nobody_else() {
    let mut bench = Bench::new();
    let identity = Arc::new(Keypair::generate(&mut bench.rng));
    let params = ClientParams { identity: Some(Arc::clone(&identity)), ..bench.params(Hybrid::Off) };
    let (awaiting, message1) = start(params, &mut bench.rng).unwrap();
    assert!(!message1.windows(32).any(|window| window == identity.public.as_bytes()));
    let other = Listening::new(Arc::new(Keypair::generate(&mut bench.rng)));
    let outcome = other.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut message1.clone());
    assert_eq!(outcome.unwrap_err().close_code().as_u16(), 1008);
    assert!(!format!("{awaiting:?}").contains(identity.private.to_base64().as_str()));
}

#[test]
fn a_first_message_of_a_client_with_a_key_counts_once() {
    let mut bench = Bench::new();
    let identity = Some(Arc::new(Keypair::generate(&mut bench.rng)));
    let (_, message1) =
        start(ClientParams { identity, ..bench.params(Hybrid::Off) }, &mut bench.rng).unwrap();
    bench.request(&mut message1.clone());
    let again = Listening::new(Arc::clone(&bench.server));
    let outcome = again.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut message1.clone());
    assert!(matches!(outcome, Err(SessionError::Replayed)));
}

#[test]
fn a_client_with_a_key_whose_ticket_is_refused_begins_anew_with_that_key() {
    let mut bench = Bench::new();
    let identity = Some(Arc::new(Keypair::generate(&mut bench.rng)));
    let anew = ClientParams { identity, ..bench.params(Hybrid::Off) };
    let hello = ClientHello { ticket: Ticket::new(vec![7; 100]), ..ClientHello::default() };
    let resume = ClientParams { hello, ..anew.clone() };
    let (awaiting, mut message1) = start(resume.clone(), &mut bench.rng).unwrap();
    let no = Rejection { version: 1, code: RejectCode::TicketInvalid, message: "no".into() };
    let (mut refusal, then) = bench.request(&mut message1).reject(no, &mut bench.rng).unwrap();
    let outcome = awaiting.handle_message(bench.now, &mut bench.rng, &mut refusal);
    assert!(matches!(outcome, Err(ClientFailure::ResumeRefused(_))));
    let AfterRefusal::Listen(listening) = then else { panic!("{then:?}") };
    let (awaiting, mut message1) = start(anew, &mut bench.rng).unwrap();
    assert_eq!(message1[0], 0x03);
    let opened = listening.handle_message(bench.now, &mut bench.rng, &mut bench.replay, &mut message1);
    let Ok(Opened::Request(request)) = opened else { panic!("{opened:?}") };
    let (_, mut message2) = request.accept(&accepted(), &mut bench.rng).unwrap();
    awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
}

/// FIPS 203 §7.2: a coefficient of 4,095 is not reduced.
#[test]
fn a_key_that_is_none_is_a_bad_request() {
    let mut bench = Bench::new();
    for (kind, pattern, closes) in
        [(FrameType::HandshakeInit, &[][..], true), (FrameType::SessionResume, &[1][..], false)]
    {
        let hello = ClientHello { mlkem768: Some(vec![0xff; MLKEM_KEY_LEN]), ..ClientHello::default() };
        let (initiated, message1) =
            noise::initiate(Pattern::Nk, kind, None, &bench.server.public, &hello.encode(), &mut bench.rng)
                .unwrap();
        let mut frame = handshake_frame(kind, &[pattern, &message1].concat());
        let Opened::Refused { frame, then } = bench.open(&mut frame) else { panic!("granted") };
        assert_eq!(matches!(then, AfterRefusal::Close(CloseCode::PolicyViolation)), closes);
        let (payload, _) = initiated.finish(&frame[HEADER_LEN..]).unwrap();
        let answer = ServerHello::parse(&payload, Features::NONE, true).unwrap();
        let ServerHello::Rejected(rejection) = answer else { panic!("{answer:?}") };
        assert_eq!(rejection.code, RejectCode::BadRequest);
    }
}
