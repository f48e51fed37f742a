//! Ends made by hand from Noise and seals: they can send what the crate's own ends never would.

use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use smartvpn::codec::frame::{FrameType, header};
use smartvpn::codec::hello::{Accepted, ClientHello, Features, RejectCode, Rejection, ServerHello};
use smartvpn::codec::secret::Ticket;
use smartvpn::crypto::keys::Keypair;
use smartvpn::crypto::noise::{self, Initiated, Pattern};
use smartvpn::crypto::seal::{Opener, Sealer};
use smartvpn::crypto::traffic::{Handshake, TrafficKeys};
use smartvpn::session::{
    AfterRefusal, ClientFailure, ClientParams, Connected, FEATURES, Hybrid, KeepaliveCap, KeyLimits,
    Listening, Opened, ReplayCache, Session, SessionError, Unconfirmed, client,
};

use crate::ends::{accepted, in_force};
use crate::oracle::{HEADER, frames};
use crate::world::{HANDSHAKE_TIMEOUT, epoch};

/// A place for handshakes: the server's key, its memory, and a clock.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) rng: StdRng,
    pub(crate) keypair: Arc<Keypair>,
    pub(crate) replay: ReplayCache,
}

/// The seals of one end.
pub(crate) struct Raw {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(2_026);
        let keypair = Arc::new(Keypair::generate(&mut rng));
        Self { now: epoch(), rng, keypair, replay: ReplayCache::new(HANDSHAKE_TIMEOUT) }
    }

    pub(crate) fn params(&self) -> ClientParams {
        ClientParams {
            server_key: self.keypair.public,
            identity: None,
            hello: ClientHello::default(),
            hybrid: Hybrid::Off,
            keepalive_interval: None,
            keepalive_cap: KeepaliveCap::default(),
            key_limits: KeyLimits::default(),
        }
    }

    /// Of a client that has a ticket, though none that any server wrote.
    pub(crate) fn resume_params(&self) -> ClientParams {
        let hello = ClientHello { ticket: Ticket::new(vec![1; 100]), ..ClientHello::default() };
        ClientParams { hello, ..self.params() }
    }

    /// A server that has refused a SessionResume, and goes on listening.
    pub(crate) fn resume_refused(&mut self, code: RejectCode) -> Listening {
        let (_awaiting, message1) = client::start(self.resume_params(), &mut self.rng).unwrap();
        let Ok(Opened::Request(request)) = self.open(message1) else { panic!("no request") };
        let rejection = Rejection { version: 1, code, message: "no".into() };
        match request.reject(rejection, &mut self.rng).unwrap() {
            (_, AfterRefusal::Listen(listening)) => listening,
            (_, then) => panic!("{then:?}"),
        }
    }

    pub(crate) fn listening(&self) -> Listening {
        Listening::new(Arc::clone(&self.keypair))
    }

    /// The server's answer to a message 1.
    pub(crate) fn open(&mut self, mut message: Vec<u8>) -> Result<Opened, SessionError> {
        self.listening().handle_message(self.now, &mut self.rng, &mut self.replay, &mut message)
    }

    /// The same, for one that asks to be let in and is.
    pub(crate) fn answer(&mut self, message: Vec<u8>) -> (Unconfirmed, Vec<u8>) {
        let Ok(Opened::Request(request)) = self.open(message) else { panic!("no request") };
        request.accept(&accepted(), &mut self.rng).unwrap()
    }

    /// A client made by hand, whose hello may be anything.
    pub(crate) fn raw_hello(&mut self, hello: &[u8]) -> (Initiated, Vec<u8>) {
        let kind = FrameType::HandshakeInit;
        let key = self.keypair.public;
        let (initiated, message) =
            noise::initiate(Pattern::Nk, kind, None, &key, hello, &mut self.rng).unwrap();
        (initiated, frame(kind, &message))
    }

    /// A server that awaits the confirmation, and its client made by hand.
    pub(crate) fn unconfirmed(&mut self) -> (Unconfirmed, Raw) {
        self.unconfirmed_with(Features::NONE)
    }

    fn unconfirmed_with(&mut self, offered: Features) -> (Unconfirmed, Raw) {
        let hello = ClientHello { features: offered, ..ClientHello::default() };
        let (initiated, frame1) = self.raw_hello(&hello.encode());
        let (unconfirmed, frame2) = self.answer(frame1);
        let (hello, handshake) = initiated.finish(&frame2[HEADER..]).unwrap();
        assert_eq!(hello.to_vec(), server_hello(offered));
        (unconfirmed, Raw::client(&handshake))
    }

    /// A server's session, and its client made by hand.
    pub(crate) fn server(&mut self) -> (Session, Raw) {
        self.server_with(Features::NONE)
    }

    /// The same, for a client that offers these features.
    pub(crate) fn server_with(&mut self, offered: Features) -> (Session, Raw) {
        let (unconfirmed, mut raw) = self.unconfirmed_with(offered);
        let mut message = raw.seal(FrameType::Keepalive, &[0; 8]);
        let mut session = unconfirmed
            .handle_message(self.now, &mut self.rng, &mut message, |_| panic!("no packet"))
            .unwrap();
        let mut ack = Vec::new();
        assert!(session.poll_transmit(&mut ack).unwrap());
        assert_eq!(raw.open(&ack), [(FrameType::KeepaliveAck as u8, vec![0; 8])]);
        (session, raw)
    }

    /// A client that has asked for new keys, and a server that has answered.
    pub(crate) fn rekeying(&mut self) -> (Session, Session) {
        let hello = ClientHello { features: FEATURES, ..ClientHello::default() };
        let key_limits = KeyLimits { frames: 1, ..KeyLimits::default() };
        let params = ClientParams { hello, key_limits, ..self.params() };
        let (awaiting, frame1) = client::start(params, &mut self.rng).unwrap();
        let (unconfirmed, mut frame2) = self.answer(frame1);
        let mut client = awaiting.handle_message(self.now, &mut self.rng, &mut frame2).unwrap().session;
        let mut message = Vec::new();
        client.poll_transmit(&mut message).unwrap();
        let mut server = unconfirmed
            .handle_message(self.now, &mut self.rng, &mut message, |_| panic!("no packet"))
            .unwrap();
        client.handle_timeout(self.now, &mut self.rng);
        let mut init = Vec::new();
        client.poll_transmit(&mut init).unwrap();
        server.handle_message(self.now, &mut init, |_| panic!("no packet")).unwrap();
        server.handle_timeout(self.now, &mut self.rng);
        let mut resp = Vec::new();
        server.poll_transmit(&mut resp).unwrap();
        assert_eq!((init[0], frames(&resp).last().unwrap()[0]), (0x40, 0x41));
        (client, server)
    }

    /// What a client makes of a server made by hand, which answers with this hello and lets `then`
    /// write what follows in the same message.
    pub(crate) fn connect(
        &mut self,
        params: ClientParams,
        hello: &[u8],
        then: impl FnOnce(&mut Raw) -> Vec<u8>,
    ) -> (Result<Connected, ClientFailure>, Raw) {
        self.connect_by(params, FrameType::HandshakeResp, hello, then)
    }

    /// The same, where the answer is a frame of this type.
    pub(crate) fn connect_by(
        &mut self,
        params: ClientParams,
        answer: FrameType,
        hello: &[u8],
        then: impl FnOnce(&mut Raw) -> Vec<u8>,
    ) -> (Result<Connected, ClientFailure>, Raw) {
        let (kind, head) = match params.hello.ticket {
            None => (FrameType::HandshakeInit, HEADER),
            Some(_) => (FrameType::SessionResume, HEADER + 1),
        };
        let (awaiting, frame1) = client::start(params, &mut self.rng).unwrap();
        let (responding, _) = noise::respond(Pattern::Nk, kind, &self.keypair, &frame1[head..]).unwrap();
        let (message2, handshake) = responding.finish(hello, &mut self.rng).unwrap();
        let mut raw = Raw::server(&handshake);
        let mut message = frame(answer, &message2);
        message.extend(then(&mut raw));
        (awaiting.handle_message(self.now, &mut self.rng, &mut message), raw)
    }

    /// A client's session, unconfirmed as yet, and its server made by hand.
    pub(crate) fn client(&mut self, params: ClientParams) -> (Session, Raw) {
        let hello = server_hello(params.hello.features);
        let (connected, raw) = self.connect(params, &hello, |_| Vec::new());
        (connected.unwrap().session, raw)
    }
}

impl Raw {
    fn client(handshake: &Handshake) -> Self {
        let keys = TrafficKeys::derive(handshake, &[]);
        Self {
            sealer: Sealer::new(&keys.client_to_server, [1; 16]),
            opener: Opener::new(&keys.server_to_client),
        }
    }

    fn server(handshake: &Handshake) -> Self {
        let keys = TrafficKeys::derive(handshake, &[]);
        Self {
            sealer: Sealer::new(&keys.server_to_client, [2; 16]),
            opener: Opener::new(&keys.client_to_server),
        }
    }

    pub(crate) fn seal(&mut self, kind: FrameType, plaintext: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.sealer.seal(kind, plaintext, &mut frame).unwrap();
        frame
    }

    /// The frames of a message: type and plaintext.
    pub(crate) fn open(&mut self, message: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut opened = Vec::new();
        for frame in frames(message) {
            let (header, payload) = frame.split_first_chunk::<HEADER>().unwrap();
            let mut payload = payload.to_vec();
            opened.push((frame[0], self.opener.open(header, &mut payload).unwrap().to_vec()));
        }
        opened
    }

    /// Everything that waits in the session.
    pub(crate) fn take(&mut self, session: &mut Session) -> Vec<(u8, Vec<u8>)> {
        let mut message = Vec::new();
        let any = session.poll_transmit(&mut message).unwrap();
        assert_eq!(any, !message.is_empty());
        self.open(&message)
    }
}

/// The hello of a server that puts in force what it can of this.
fn server_hello(offered: Features) -> Vec<u8> {
    let hello = Accepted { features: in_force(offered), ..accepted() };
    ServerHello::Accepted(Box::new(hello)).encode().to_vec()
}

pub(crate) fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len()), payload].concat()
}
