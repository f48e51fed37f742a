//! What the world holds of one end: its state, what it sent, how it ended.

use std::collections::VecDeque;
use std::time::Instant;

use rand::rngs::StdRng;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, Features};
use smartvpn::packet::{Offload, Record};
use smartvpn::session::{
    AwaitingResponse, ClientFailure, Listening, Opened, ReplayCache, Session, SessionError, Unconfirmed,
};

use crate::oracle::{HEADER, Rekey, Stage, Up};

/// How an end's session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By a fault, and this close code.
    Fault(u16),
    /// By the other end's Disconnect.
    Disconnected(DisconnectCode),
    /// By a plain Disconnect.
    PlainDisconnect,
    /// By its own Disconnect.
    Left(DisconnectCode),
    /// The peer is dead.
    PeerDead,
    /// The other end did not go on with a rekey.
    RekeyOverdue,
    /// The handshake took too long.
    Deadline,
    /// The connection was closed by the other end or cut.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Server];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

pub(crate) enum State {
    Awaiting(Box<AwaitingResponse>),
    Listening(Listening),
    Unconfirmed(Box<Unconfirmed>),
    Up(Box<Session>),
    Over,
}

/// One end, with what the world knows of it.
pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) end: Option<End>,
    /// Packets that were sealed here and did not come out at the other end yet.
    pub(crate) in_flight: VecDeque<(Vec<u8>, Offload)>,
    /// Frames that were sent here and were not accepted at the other end yet.
    pub(crate) genuine: VecDeque<Vec<u8>>,
    /// The prefix of the sealed frames sent here, and the next counter.
    pub(crate) nonce: (Option<[u8; 16]>, u64),
    /// Payload bytes of the sealed frames sent here, and of those accepted from the other end.
    pub(crate) sealed: Used,
    pub(crate) opened: Used,
    pub(crate) key_events: usize,
    pub(crate) aging_events: usize,
    pub(crate) renewals: usize,
    /// What there is of a rekey here.
    pub(crate) rekey: Rekey,
    /// The next frame is the first under another key.
    pub(crate) switches: bool,
    /// Since when the keys in force are, if they are not the first.
    pub(crate) keys_since: Option<Instant>,
    /// When this end last asked for others.
    pub(crate) asked: Option<Instant>,
    pub(crate) delivered: usize,
    /// Of these, those that came with an offload header.
    pub(crate) offloaded: usize,
    /// Bundles of several packets that were opened here.
    pub(crate) bundles: usize,
    pub(crate) left: Option<DisconnectCode>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

impl Used {
    pub(crate) fn add(&mut self, frame: &[u8]) {
        self.frames += 1;
        self.bytes += (frame.len() - HEADER) as u64;
    }
}

impl Node {
    pub(crate) const fn new(state: State) -> Self {
        Self {
            state,
            end: None,
            in_flight: VecDeque::new(),
            genuine: VecDeque::new(),
            nonce: (None, 0),
            sealed: Used { frames: 0, bytes: 0 },
            opened: Used { frames: 0, bytes: 0 },
            key_events: 0,
            aging_events: 0,
            renewals: 0,
            rekey: Rekey::None,
            switches: false,
            keys_since: None,
            asked: None,
            delivered: 0,
            offloaded: 0,
            bundles: 0,
            left: None,
        }
    }

    /// A sealed frame leaves.
    pub(crate) fn sealed(&mut self, now: Instant, frame: &[u8]) {
        self.sealed.add(frame);
        match frame[0] {
            0x40 => (self.rekey, self.asked) = (Rekey::Asked, Some(now)),
            // The last one under its key.
            0x41 => self.switches = true,
            _ => {}
        }
    }

    /// A genuine frame was accepted.
    pub(crate) fn opened(&mut self, now: Instant, frame: &[u8]) {
        self.opened.add(frame);
        // Who has left goes along with nothing.
        if self.left.is_none() {
            self.rekey = self.rekey.after(frame);
        }
        if frame[0] == 0x41 {
            (self.sealed, self.opened) = Default::default();
            (self.keys_since, self.switches) = (Some(now), true);
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        // Whoever is replaced goes on elsewhere, so that its packets still count.
        if self.left.is_some_and(|code| code != DisconnectCode::Replaced) {
            return Stage::Closed;
        }
        match &self.state {
            State::Awaiting(_) => Stage::Awaiting,
            State::Listening(_) => Stage::Listening,
            State::Unconfirmed(_) => Stage::Unconfirmed,
            State::Up(session) => Stage::Up(Up { bundle: session.features().bundle, rekey: self.rekey }),
            State::Over => Stage::Closed,
        }
    }
}

/// One message at one end: the next state and what is answered at once.
pub(crate) fn step(
    state: State,
    now: Instant,
    rng: &mut StdRng,
    replay: &mut ReplayCache,
    message: &mut [u8],
    sink: impl FnMut(Record<'_>),
) -> Result<(State, Option<Vec<u8>>), End> {
    let fault = |error: SessionError| End::Fault(error.close_code().as_u16());
    match state {
        State::Awaiting(awaiting) => match awaiting.handle_message(now, rng, message) {
            Ok(connected) => {
                let features = connected.session.features();
                assert_eq!(connected.hello, Accepted { features, ..accepted() });
                Ok((State::Up(Box::new(connected.session)), None))
            }
            Err(ClientFailure::Disconnected(_)) => Err(End::PlainDisconnect),
            Err(failure) => Err(End::Fault(failure.close_code().as_u16())),
        },
        State::Listening(listening) => match listening.handle_message(now, rng, replay, message) {
            Ok(Opened::Request(request)) => {
                let (unconfirmed, frame) = request.accept(&accepted(), rng).map_err(fault)?;
                Ok((State::Unconfirmed(Box::new(unconfirmed)), Some(frame)))
            }
            Ok(Opened::Refused { .. }) => panic!("a good hello was refused"),
            Err(error) => Err(fault(error)),
        },
        State::Unconfirmed(unconfirmed) => {
            let session = unconfirmed.handle_message(now, rng, message, sink).map_err(fault)?;
            Ok((State::Up(Box::new(session)), None))
        }
        State::Up(mut session) => match session.handle_message(now, message, sink) {
            Ok(()) => Ok((State::Up(session), None)),
            Err(error) => Err(fault(error)),
        },
        State::Over => Ok((State::Over, None)),
    }
}

/// What PROTOCOL §3 puts in force of what a client offers, at a server that has all of it.
pub(crate) const fn in_force(offered: Features) -> Features {
    Features { offload: offered.bundle && offered.offload, ..offered }
}

/// The hello of a server that lets the client in.
pub(crate) fn accepted() -> Accepted {
    Accepted {
        version: 1,
        features: Default::default(),
        client_id: "c1".into(),
        assigned_ip: [10, 8, 0, 2].into(),
        prefix_length: 24,
        gateway: [10, 8, 0, 1].into(),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: vec![[1, 1, 1, 1].into()],
        ticket: None,
        mlkem768: None,
    }
}
