//! What is between the town's clients and its server: time, streams, and what must hold of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use smartvpn::crypto::keys::Keypair;
use smartvpn::session::Session;
use smartvpn::session::registry::SavedRegistry;
use smartvpn::session::roster::{Origin, Saved};

use crate::ends::Side;
use crate::model::{Due, Model};
use crate::oracle::frames;
use crate::post::{Mailbox, Post};
use crate::wire::{Arrival, Wire, nonces};
use crate::world::MOST_WAITING;

/// First messages that somebody has recorded, at most.
const RECORDED: usize = 8;

/// Where Unix time stands when a story begins.
const UNIX: i64 = 1_800_000_000;

pub(crate) struct Outside {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    /// The server's wall clock, besides the time since the beginning.
    pub(crate) wall: i64,
    pub(crate) rng: StdRng,
    pub(crate) wires: BTreeMap<u64, Wire>,
    pub(crate) next_wire: u64,
    pub(crate) model: Model,
    pub(crate) post: Post,
    /// What the server has written.
    pub(crate) disk: Option<Saved>,
    /// And of what the operator says of clients.
    pub(crate) book: Option<SavedRegistry>,
    /// The server's process; none while it is down.
    pub(crate) server: Option<u32>,
    pub(crate) recorded: Vec<Vec<u8>>,
    /// The clients' keys, of those that have one.
    pub(crate) identities: BTreeMap<usize, Arc<Keypair>>,
    /// Nothing goes wrong any more.
    pub(crate) is_calm: bool,
    /// The story is replayed alone.
    pub(crate) is_told: bool,
    pub(crate) tally: BTreeMap<&'static str, usize>,
}

impl Outside {
    /// The server's wall clock, in seconds.
    pub(crate) fn unix(&self) -> u64 {
        let since = i64::try_from((self.now - self.start).as_secs()).unwrap();
        u64::try_from(UNIX + since + self.wall).unwrap()
    }

    /// Tells of the story, when it is replayed alone.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:>9.3} s  {}", self.since().as_secs_f64(), what());
        }
    }

    pub(crate) fn tally(&mut self, what: &'static str) {
        self.tell(|| what.to_owned());
        *self.tally.entry(what).or_default() += 1;
    }

    /// What is special about an offer.
    pub(crate) fn tally_due(&mut self, due: &Due) {
        let id = due.id.as_deref().unwrap_or_default();
        let known = self.model.sessions.get(id);
        let (is_there, is_contended) =
            (known.is_some(), known.is_some_and(|known| known.is_contended(self.now)));
        if due.origin == Origin::New && due.address.is_some() {
            self.tally(match is_there {
                true => "a registered client moves to its address",
                false => "a known client comes home",
            });
        }
        if due.roams && is_contended {
            self.tally("roaming goes through right after a swap");
        }
        if due.origin == Origin::New && id.ends_with(".2") {
            self.tally("a second session of a client");
        }
    }

    pub(crate) fn wire(&mut self, id: u64) -> &mut Wire {
        self.wires.get_mut(&id).expect("a wire")
    }

    /// What has come out of a connection at the other end of `from`.
    pub(crate) fn arrivals(&mut self, id: u64, from: Side) -> Vec<Arrival> {
        let now = self.now;
        self.wire(id).arrivals(now, from)
    }

    /// A message that no session has sealed.
    pub(crate) fn send_plain(&mut self, id: u64, from: Side, message: &[u8]) {
        let now = self.now;
        if from == Side::Client && self.wire(id).resident.is_some() && self.recorded.len() < RECORDED {
            self.recorded.push(message.to_vec());
        }
        self.wires.get_mut(&id).expect("a wire").send(now, from, message, &mut self.rng);
    }

    /// A session's message; `clock` is its sender's.
    pub(crate) fn send(&mut self, clock: Instant, id: u64, from: Side, message: &[u8]) {
        if message.is_empty() {
            return;
        }
        let wire = self.wires.get_mut(&id).expect("a wire");
        wire.note_sent(clock, from, message);
        for nonce in nonces(message) {
            let known = &mut wire.pipe(from).nonces;
            let is_switch = from == Side::Client && known.switches;
            assert!(!is_switch || nonce.0 == 0x20, "the switch is no keepalive");
            self.model.used(known, nonce);
        }
        wire.send(self.now, from, message, &mut self.rng);
    }

    /// Sends what waits in a session, and in its queue if it has one.
    pub(crate) fn transmit(
        &mut self,
        clock: Instant,
        (id, from): (u64, Side),
        session: &mut Session,
        mut mailbox: Option<&mut Mailbox>,
    ) {
        loop {
            let mut message = Vec::new();
            session.poll_transmit(&mut message).unwrap();
            assert!(frames(&message).len() <= MOST_WAITING, "more waits than is bounded");
            let wire = self.wires.get_mut(&id).expect("a wire");
            let more = match &mut mailbox {
                Some(mailbox) if wire.is_writable(from) => {
                    mailbox.drain(clock, &self.post, (session, wire, from), &mut message).unwrap()
                }
                _ => false,
            };
            self.send(clock, id, from, &message);
            if !more {
                return;
            }
        }
    }

    pub(crate) fn close(&mut self, id: u64, from: Side) {
        let now = self.now;
        self.wires.get_mut(&id).expect("a wire").close(now, from, &mut self.rng);
    }

    pub(crate) fn since(&self) -> Duration {
        self.now - self.start
    }
}
