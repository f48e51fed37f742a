//! One attempt of a resident's, as `client/attempt.rs` makes it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, RejectCode};
use smartvpn::session::{AwaitingResponse, ClientFailure, ClientParams, Session, Setback, client};

use crate::ends::Side;
use crate::outside::Outside;
use crate::resident::Resident;
use crate::wire::{Arrival, Cut, Wire};

/// How long a tunnel that comes back waits for TCP.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    First,
    Again,
    Beside,
}

/// What a dial comes to.
enum Dial {
    Reached,
    Failed(Setback),
}

enum Stage {
    Dialing(Instant, Dial),
    Awaiting(u64, Box<AwaitingResponse>),
}

pub(crate) struct Attempt {
    pub(crate) aim: Aim,
    pub(crate) deadline: Instant,
    who: (usize, IpAddr),
    params: ClientParams,
    stage: Option<Stage>,
    is_anew: bool,
}

/// A session whose confirmation is sent.
pub(crate) struct Established {
    pub(crate) wire: u64,
    pub(crate) session: Session,
    pub(crate) hello: Accepted,
    /// The ticket was not taken.
    pub(crate) is_anew: bool,
    /// It was.
    pub(crate) resumes: bool,
}

pub(crate) enum Progress {
    Pending,
    Established(Box<Established>),
    Failed(Setback),
}

impl Attempt {
    pub(crate) fn new(
        out: &mut Outside,
        now: Instant,
        who: (usize, IpAddr),
        aim: Aim,
        params: ClientParams,
        deadline: Instant,
    ) -> Self {
        let quick = now + Duration::from_millis(out.rng.random_range(1..300));
        let bad_luck = !out.is_calm && out.rng.random_bool(0.05);
        let (at, dial) = match out.server {
            Some(_) if !bad_luck => (quick, Dial::Reached),
            _ => match out.rng.random_range(0..4) {
                0 => (now + PATIENCE, Dial::Failed(Setback::Interrupted)),
                1 => (quick, Dial::Failed(Setback::Refused(None))),
                2 => {
                    let time = Duration::from_secs(out.rng.random_range(1..10));
                    (quick, Dial::Failed(Setback::Refused(Some(time))))
                }
                _ => (quick, Dial::Failed(Setback::Interrupted)),
            },
        };
        Self { aim, deadline, who, params, stage: Some(Stage::Dialing(at, dial)), is_anew: false }
    }

    /// When something is due.
    pub(crate) fn next_event(&self) -> Instant {
        match &self.stage {
            Some(Stage::Dialing(at, _)) => self.deadline.min(*at),
            _ => self.deadline,
        }
    }

    pub(crate) fn serve(&mut self, out: &mut Outside, now: Instant) -> Progress {
        match self.stage.take() {
            Some(Stage::Dialing(at, dial)) if at <= now => match (dial, out.server) {
                (Dial::Reached, Some(process)) => self.dialed(out, process),
                (Dial::Reached, None) => Progress::Failed(Setback::Interrupted),
                (Dial::Failed(setback), _) => Progress::Failed(setback),
            },
            Some(Stage::Awaiting(wire, awaiting)) => {
                let mut arrivals = out.arrivals(wire, Side::Server).into_iter();
                match arrivals.next() {
                    // The server says nothing before it is confirmed, unless to end it all.
                    Some(Arrival::Message(message)) => {
                        let closes = matches!(arrivals.next(), Some(Arrival::Close));
                        self.answered(out, now, (wire, *awaiting), message, closes)
                    }
                    Some(Arrival::Close) => self.failed(out, wire, Setback::Interrupted),
                    None if self.deadline <= now => self.failed(out, wire, Setback::Interrupted),
                    None => self.pending(Stage::Awaiting(wire, awaiting)),
                }
            }
            Some(stage) if self.deadline > now => self.pending(stage),
            _ => Progress::Failed(Setback::Interrupted),
        }
    }

    fn pending(&mut self, stage: Stage) -> Progress {
        self.stage = Some(stage);
        Progress::Pending
    }

    fn failed(&self, out: &mut Outside, wire: u64, setback: Setback) -> Progress {
        out.close(wire, Side::Client);
        Progress::Failed(setback)
    }

    /// There is a connection: the first message goes out.
    fn dialed(&mut self, out: &mut Outside, process: u32) -> Progress {
        let id = out.next_wire;
        out.next_wire += 1;
        let patience = Resident::draws_patience(out)
            .then(|| (Duration::from_secs(out.rng.random_range(5..70)), Cut::draw(&mut out.rng)));
        let (number, source) = self.who;
        let wire = Wire::new((id, Some(number), source, process), out.now, patience, &mut out.rng);
        out.wires.insert(id, wire);
        self.start(out, id)
    }

    fn start(&mut self, out: &mut Outside, wire: u64) -> Progress {
        let (awaiting, frame) = client::start(self.params.clone(), &mut out.rng).unwrap();
        out.send_plain(wire, Side::Client, &frame);
        self.pending(Stage::Awaiting(wire, Box::new(awaiting)))
    }

    fn answered(
        &mut self,
        out: &mut Outside,
        now: Instant,
        (wire, awaiting): (u64, AwaitingResponse),
        mut message: Vec<u8>,
        closes: bool,
    ) -> Progress {
        let mut connected = match awaiting.handle_message(now, &mut out.rng, &mut message) {
            Ok(connected) => connected,
            Err(ClientFailure::ResumeRefused(_)) if self.aim != Aim::Beside && !self.is_anew => {
                out.tally("a client begins anew on the same connection");
                self.params.hello.ticket = None;
                self.is_anew = true;
                return self.start(out, wire);
            }
            Err(ClientFailure::Rejected(rejection) | ClientFailure::ResumeRefused(rejection)) => {
                let setback = match rejection.code {
                    RejectCode::Unauthorized | RejectCode::UnsupportedVersion => Setback::Final,
                    RejectCode::BadRequest => Setback::BadRequest,
                    RejectCode::ServerFull | RejectCode::PoolExhausted => Setback::Refused(None),
                    _ => Setback::Interrupted,
                };
                return self.failed(out, wire, setback);
            }
            Err(failure) => panic!("{failure}"),
        };
        if closes {
            return self.failed(out, wire, Setback::Interrupted);
        }
        out.transmit(now, (wire, Side::Client), &mut connected.session, None);
        let client::Connected { session, hello } = connected;
        let resumes = self.params.hello.ticket.is_some();
        Progress::Established(Box::new(Established { wire, session, hello, is_anew: self.is_anew, resumes }))
    }

    /// Gives up.
    pub(crate) fn close(self, out: &mut Outside) {
        if let Some(Stage::Awaiting(wire, _)) = self.stage {
            out.close(wire, Side::Client);
        }
    }

    /// Gives up without a word: the way is gone.
    pub(crate) fn vanish(self, out: &mut Outside) {
        if let Some(Stage::Awaiting(wire, _)) = self.stage {
            out.wire(wire).vanish(Side::Client);
        }
    }
}

/// What a sealed goodbye means to a client.
pub(crate) const fn setback_of(code: DisconnectCode) -> Setback {
    match code {
        DisconnectCode::Kicked | DisconnectCode::Removed | DisconnectCode::Replaced => Setback::Final,
        _ => Setback::Interrupted,
    }
}
