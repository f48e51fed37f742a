//! A client's and a server's session, and somebody between them who changes what they send (PROTOCOL §§3, 5).

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, ClientHello, Features, VERSION};
use smartvpn::crypto::keys::Keypair;
use smartvpn::packet::{Offload, Record};
use smartvpn::session::{
    AwaitingResponse, ClientParams, Hybrid, KeepaliveCap, KeyLimits, Listening, Opened, ReplayCache, Session,
    Unconfirmed, client,
};

use super::input::{Input, epoch};

static KEYPAIR: LazyLock<Arc<Keypair>> =
    LazyLock::new(|| Arc::new(Keypair::generate(&mut StdRng::seed_from_u64(1))));

/// Steps of a story; more show nothing new.
const STEPS: usize = 200;

enum State {
    Awaiting(Box<AwaitingResponse>),
    Listening(Listening),
    Unconfirmed(Box<Unconfirmed>),
    Up(Box<Session>),
    Over,
}

type Packet = (Vec<u8>, Offload);

struct End {
    state: State,
    /// What it has sent and the other end not yet got.
    under_way: VecDeque<Packet>,
    /// Its messages that have not arrived.
    wire: VecDeque<Vec<u8>>,
    /// A message of its was changed, lost or sent twice: by now, or soon, the other end sees it.
    tampered: bool,
}

/// The client, the server, and what both know.
struct World {
    ends: [End; 2],
    now: Instant,
    rng: StdRng,
    replay: ReplayCache,
    features: Features,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What is delivered is a prefix of what was sent; all of it, while nobody has changed anything and nobody has left.
pub fn sessions(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.act(&mut input);
    }
    while world.carry(CLIENT) || world.carry(SERVER) {}
    let tampered = world.ends.iter().any(|end| end.tampered);
    let up = world
        .ends
        .iter()
        .all(|end| matches!(&end.state, State::Up(session) if session.poll_timeout().is_some()));
    if up && !tampered {
        assert!(world.ends.iter().all(|end| end.under_way.is_empty()), "packets are lost");
    }
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let mut rng = StdRng::seed_from_u64(input.byte().into());
        let flags = input.byte();
        let offered = Features { bundle: flags & 1 != 0, offload: flags & 2 != 0, rekey: flags & 4 != 0 };
        let params = ClientParams {
            server_key: KEYPAIR.public,
            identity: (flags & 8 != 0).then(|| Arc::new(Keypair::generate(&mut rng))),
            hello: ClientHello { features: offered, ..ClientHello::default() },
            hybrid: Hybrid::Off,
            keepalive_interval: None,
            keepalive_cap: KeepaliveCap::default(),
            key_limits: match flags & 16 {
                0 => KeyLimits::default(),
                _ => KeyLimits { frames: 20, ..KeyLimits::default() },
            },
        };
        let Ok((awaiting, frame)) = client::start(params, &mut rng) else { panic!("no first message") };
        let end = |state| End { state, under_way: VecDeque::new(), wire: VecDeque::new(), tampered: false };
        let mut ends = [
            end(State::Awaiting(Box::new(awaiting))),
            end(State::Listening(Listening::new(Arc::clone(&KEYPAIR)))),
        ];
        ends[CLIENT].wire.push_back(frame);
        let features = Features { offload: offered.bundle && offered.offload, ..offered };
        Self { ends, now: epoch(), rng, replay: ReplayCache::new(Duration::from_secs(10)), features }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.byte();
        let side = usize::from(action & 1);
        match action >> 1 {
            // Most of the time things go their way.
            0..50 => drop(self.carry(side)),
            50..80 => self.send(side, input),
            80..90 => self.pass_time(input),
            90..94 => self.leave(side, input.byte()),
            94..98 => {
                if let State::Up(session) = &mut self.ends[side].state {
                    session.probe(self.now, &mut self.rng);
                    self.flush(side);
                }
            }
            _ => self.tamper(side, input),
        }
    }

    fn pass_time(&mut self, input: &mut Input<'_>) {
        self.now += Duration::from_millis(u64::from(input.number()));
        for side in [CLIENT, SERVER] {
            if let State::Up(session) = &mut self.ends[side].state {
                session.handle_timeout(self.now, &mut self.rng);
                assert!(session.poll_timeout().is_none_or(|at| at > self.now), "a deadline in the past");
            }
            self.flush(side);
        }
    }

    /// Changes the message that would arrive next.
    fn tamper(&mut self, side: usize, input: &mut Input<'_>) {
        let end = &mut self.ends[side];
        let kind = input.byte() % 8;
        let Some(message) = end.wire.front_mut() else {
            if kind == 0 {
                // Something of the middle's own.
                let count = input.byte();
                end.wire.push_back(input.take(count.into()).to_vec());
                end.tampered = true;
            }
            return;
        };
        end.tampered = true;
        match kind {
            0..3 => {
                let at = usize::from(input.number()) % message.len().max(1);
                let flip = input.byte() | 1;
                if let Some(byte) = message.get_mut(at) {
                    *byte ^= flip;
                }
            }
            3 => {
                let length = usize::from(input.number()) % message.len().max(1);
                message.truncate(length);
            }
            4 => drop(end.wire.pop_front()),
            5 => {
                let twice = message.clone();
                end.wire.push_front(twice);
            }
            6 => end.wire.rotate_left(1),
            _ => {
                let count = input.byte();
                message.extend_from_slice(input.take(count.into()));
            }
        }
    }

    fn send(&mut self, side: usize, input: &mut Input<'_>) {
        let features = self.features;
        let End { state: State::Up(session), under_way, wire, .. } = &mut self.ends[side] else { return };
        let batch: Vec<Packet> = (0..=input.byte() % 4)
            .map(|_| {
                let shape = input.byte();
                let length = usize::from(shape) * if shape & 7 == 0 { 40 } else { 1 } + 1;
                let packet = (0..length).map(|at| at as u8 ^ shape).collect();
                let offload = if features.offload && shape & 3 == 1 {
                    Offload::checksum_only(20, 16)
                } else {
                    Offload::NONE
                };
                (packet, offload)
            })
            .collect();
        let mut message = Vec::new();
        if session.poll_transmit(&mut message).is_err() {
            self.ends[side].state = State::Over;
            return;
        }
        let packets = batch.iter().map(|(packet, offload)| (packet.as_slice(), *offload));
        let sealed = session.seal_packets(self.now, packets, &mut message);
        if sealed.is_ok() {
            under_way.extend(batch);
        }
        if !message.is_empty() {
            wire.push_back(message);
        }
    }

    fn leave(&mut self, side: usize, code: u8) {
        if let State::Up(session) = &mut self.ends[side].state {
            let codes = DisconnectCode::ALL;
            session.disconnect(codes[usize::from(code) % codes.len()], "bye");
            assert_eq!(session.poll_timeout(), None);
        }
        self.flush(side);
    }

    /// Sends the control frames that wait.
    fn flush(&mut self, side: usize) {
        let end = &mut self.ends[side];
        let State::Up(session) = &mut end.state else { return };
        let mut message = Vec::new();
        match session.poll_transmit(&mut message) {
            Ok(_) if message.is_empty() => {}
            Ok(_) => end.wire.push_back(message),
            Err(error) => {
                assert!(self.ends[1 - side].tampered, "{error}");
                self.ends[side].state = State::Over;
            }
        }
        if let State::Up(session) = &mut self.ends[side].state {
            while session.poll_event().is_some() {}
        }
    }

    /// The next message of `side` arrives; false if there is none.
    fn carry(&mut self, side: usize) -> bool {
        let Some(mut message) = self.ends[side].wire.pop_front() else { return false };
        let (sender, receiver) = match &mut self.ends {
            [client, server] if side == CLIENT => (client, server),
            [client, server] => (server, client),
        };
        let tampered = sender.tampered;
        let mut deliver = |record: Record<'_>| {
            let expected = sender.under_way.pop_front();
            assert_eq!(
                Some((record.packet.to_vec(), record.offload)),
                expected,
                "what was not sent is delivered"
            );
        };
        let mut replies = Vec::new();
        let state = std::mem::replace(&mut receiver.state, State::Over);
        let next = match state {
            State::Over => return true,
            State::Up(mut session) => {
                let handled = session.handle_message(self.now, &mut message, &mut deliver);
                handled.map(|()| State::Up(session)).map_err(|error| error.close_code())
            }
            State::Awaiting(awaiting) => awaiting
                .handle_message(self.now, &mut self.rng, &mut message)
                .map(|connected| {
                    assert_eq!(connected.hello.features, self.features);
                    State::Up(Box::new(connected.session))
                })
                .map_err(|failure| failure.close_code()),
            State::Listening(listening) => listening
                .handle_message(self.now, &mut self.rng, &mut self.replay, &mut message)
                .map_err(|error| error.close_code())
                .and_then(|opened| match opened {
                    Opened::Request(request) => {
                        let (unconfirmed, frame) =
                            request.accept(&accepted(), &mut self.rng).map_err(|error| error.close_code())?;
                        replies.push(frame);
                        Ok(State::Unconfirmed(Box::new(unconfirmed)))
                    }
                    Opened::Refused { .. } => panic!("a good hello is refused"),
                }),
            State::Unconfirmed(unconfirmed) => unconfirmed
                .handle_message(self.now, &mut self.rng, &mut message, &mut deliver)
                .map(|session| State::Up(Box::new(session)))
                .map_err(|error| error.close_code()),
        };
        match next {
            Ok(state) => receiver.state = state,
            Err(code) => assert!(tampered, "{code:?} though nothing was changed"),
        }
        receiver.wire.extend(replies);
        self.flush(1 - side);
        true
    }
}

fn accepted() -> Accepted {
    Accepted {
        version: VERSION,
        features: Features::NONE,
        client_id: "c1".into(),
        assigned_ip: Ipv4Addr::new(10, 8, 0, 2),
        prefix_length: 24,
        gateway: Ipv4Addr::new(10, 8, 0, 1),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: Vec::new(),
        ticket: None,
        mlkem768: None,
    }
}
