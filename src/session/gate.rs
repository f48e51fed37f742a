//! Whom a server lets begin a handshake, without I/O: what strangers may cost it.
//!
//! A stranger is a connection whose session is not confirmed yet. Four bounds hold, in this order:
//!
//! - **half-open**: so many strangers of one source at a time ([`HALF_OPEN_PER_SOURCE`]);
//! - **rate**: so many handshakes of one source a second, with a burst ([`GateRules`]);
//! - **budget**: so many of all sources a second ([`Gate::new`]). Sources whose handshakes have come to nothing lately
//!   find half of it closed, new ones a quarter, and those that had a session lately none, so that a flood from
//!   addresses that have shown what they are leaves room for everybody else;
//! - **memory**: [`STRANGERS_BYTES`] for all of them; above it the oldest one goes, so that nobody is kept out by
//!   others who have come first and say nothing.
//!
//! A source is an IPv4 address or an IPv6 /64, which one host can take its addresses from as it likes.

mod allowance;
mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::allowance::Allowance;
pub use self::sources::Source;
use self::sources::{Sources, Standing};

/// Strangers of one source at a time: an office behind one address comes back at once.
pub const HALF_OPEN_PER_SOURCE: u32 = 256;

/// What a stranger is counted with until its HTTP head comes, in bytes: the sockets' and TLS's state.
pub const SILENT_BYTES: usize = 18 * 1024;

/// The same from then on: a head of 16 KiB, or a first message, and the TLS record around it.
pub const SPEAKING_BYTES: usize = 40 * 1024;

/// What all strangers together may hold, in bytes: over nine hundred that say nothing.
pub const STRANGERS_BYTES: usize = 16 * 1024 * 1024;

/// Handshakes that all sources together may begin a second, for each core. One over TLS takes a millisecond of a
/// core at the most (an RSA key of 2,048 bits, X25519MLKEM768, and Noise's first message), so that a flood gets a
/// quarter of the machine.
pub const HANDSHAKES_PER_CORE: u32 = 250;

/// For how long the budget may be saved up, in seconds: clients that all come back at once have this in advance.
const BUDGET_SECS: u32 = 2;

/// How long refusals are counted before they are called a flood: one that nothing follows is none.
const NOTICE: Duration = Duration::from_secs(1);

/// How often a flood is told of.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What one source may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateRules {
    /// Handshakes a second, at least 1.
    pub per_second: u32,
    /// Handshakes at once after a rest, at least 1.
    pub burst: u32,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// [`HALF_OPEN_PER_SOURCE`].
    #[error("too many unconfirmed connections from its address")]
    HalfOpen,
    /// [`GateRules`].
    #[error("too many handshakes a second from its address")]
    Rate,
    /// The budget of all sources.
    #[error("too many handshakes a second from all addresses")]
    Budget,
}

/// How many connections were turned away, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// [`Refusal::HalfOpen`].
    pub half_open: u64,
    /// [`Refusal::Rate`].
    pub rate: u64,
    /// [`Refusal::Budget`].
    pub budget: u64,
    /// Let in, and closed for the sake of younger ones.
    pub shed: u64,
}

impl Turned {
    fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::HalfOpen => self.half_open += 1,
            Refusal::Rate => self.rate += 1,
            Refusal::Budget => self.budget += 1,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.half_open + self.rate + self.budget + self.shed
    }
}

/// A stranger's number; younger ones have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StrangerId(u64);

#[derive(Debug)]
struct Stranger {
    /// None while only its proxy is known, or where it has none of its own.
    source: Option<Source>,
    bytes: usize,
}

/// Counts strangers. Whoever is let in is one until [`Gate::confirmed`] or [`Gate::failed`], or until
/// [`Gate::shed_excess`] or [`Gate::shed_oldest`] names it, and must then be closed.
#[derive(Debug)]
pub struct Gate {
    rules: GateRules,
    sources: Sources,
    budget: Allowance,
    budget_rate: (u32, u32),
    strangers: BTreeMap<StrangerId, Stranger>,
    /// What they are counted with together.
    bytes: usize,
    next: u64,
    turned: Turned,
    /// What had been turned away when it was last told, and when that was.
    told: (Turned, Option<Instant>),
    /// When the first was turned away that has not been told of.
    noticed: Option<Instant>,
}

impl Gate {
    /// A gate of a server with so many cores.
    pub fn new(now: Instant, rules: GateRules, cores: usize) -> Self {
        let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
        let rate = HANDSHAKES_PER_CORE.saturating_mul(cores);
        Self {
            rules,
            sources: Sources::default(),
            budget: Allowance::full(now),
            budget_rate: (rate, rate.saturating_mul(BUDGET_SECS)),
            strangers: BTreeMap::new(),
            bytes: 0,
            next: 0,
            turned: Turned::default(),
            told: (Turned::default(), None),
            noticed: None,
        }
    }

    /// A connection of `addr` has been accepted.
    pub fn enter(&mut self, now: Instant, addr: IpAddr) -> Result<StrangerId, Refusal> {
        let source = Source::of(addr);
        self.admit(now, source).inspect_err(|refusal| self.turn(now, *refusal))?;
        Ok(self.add(Some(source)))
    }

    /// A connection of a trusted proxy has been accepted, which says later whose it is: see [`Self::identify`].
    pub fn enter_by_proxy(&mut self) -> StrangerId {
        self.add(None)
    }

    /// The proxy has said whose connection it is, or brought it on its own account (`None`), which no bound of one
    /// source holds for. Refused, it must be closed.
    pub fn identify(&mut self, now: Instant, id: StrangerId, addr: Option<IpAddr>) -> Result<(), Refusal> {
        let source = addr.map(Source::of);
        let admitted = match source {
            Some(source) => self.admit(now, source),
            None => self.spend(now, Standing::New),
        };
        if let Err(refusal) = admitted {
            self.turn(now, refusal);
            return Err(refusal);
        }
        match self.strangers.get_mut(&id) {
            Some(stranger) => stranger.source = source,
            // It has been shed meanwhile.
            None => source.into_iter().for_each(|source| self.sources.leave(source)),
        }
        Ok(())
    }

    /// The first bytes of its HTTP head have come: from now on it costs more.
    pub fn head_begins(&mut self, id: StrangerId) {
        if let Some(stranger) = self.strangers.get_mut(&id) {
            self.bytes += SPEAKING_BYTES - stranger.bytes;
            stranger.bytes = SPEAKING_BYTES;
        }
    }

    /// One that must be closed as all together hold too much: the oldest. To be called until there is none.
    pub fn shed_excess(&mut self, now: Instant) -> Option<StrangerId> {
        if self.bytes > STRANGERS_BYTES { self.shed_oldest(now) } else { None }
    }

    /// The oldest one, which must be closed.
    pub fn shed_oldest(&mut self, now: Instant) -> Option<StrangerId> {
        let oldest = *self.strangers.first_key_value()?.0;
        self.failed(now, oldest);
        self.turned.shed += 1;
        self.noticed.get_or_insert(now);
        Some(oldest)
    }

    /// Its session is confirmed: it is a stranger no more.
    pub fn confirmed(&mut self, now: Instant, id: StrangerId) {
        if let Some(source) = self.remove(id) {
            self.sources.praise(now, source);
        }
    }

    /// It has ended before that.
    pub fn failed(&mut self, now: Instant, id: StrangerId) {
        if let Some(source) = self.remove(id) {
            self.sources.blame(now, source);
        }
    }

    /// What has been turned away since it was last told, if it is time to tell of a flood.
    pub fn poll_report(&mut self, now: Instant) -> Option<Turned> {
        let noticed = self.noticed?;
        let (before, told) = self.told;
        let is_new = told.is_none_or(|told| now.saturating_duration_since(told) >= REPORT_INTERVAL);
        if !is_new || now.saturating_duration_since(noticed) < NOTICE {
            return None;
        }
        self.told = (self.turned, Some(now));
        self.noticed = None;
        Some(Turned {
            half_open: self.turned.half_open - before.half_open,
            rate: self.turned.rate - before.rate,
            budget: self.turned.budget - before.budget,
            shed: self.turned.shed - before.shed,
        })
    }

    /// What has been turned away in all.
    pub fn turned(&self) -> Turned {
        self.turned
    }

    /// Strangers at present.
    pub fn len(&self) -> usize {
        self.strangers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.strangers.is_empty()
    }

    /// What they are counted with, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn admit(&mut self, now: Instant, source: Source) -> Result<(), Refusal> {
        let (half_open, standing) = self.sources.look(now, source);
        if half_open >= HALF_OPEN_PER_SOURCE {
            return Err(Refusal::HalfOpen);
        }
        if !self.sources.may_begin(now, source, self.rules) {
            return Err(Refusal::Rate);
        }
        self.spend(now, standing)?;
        self.sources.begin(now, source, self.rules);
        Ok(())
    }

    fn spend(&mut self, now: Instant, standing: Standing) -> Result<(), Refusal> {
        let (rate, burst) = self.budget_rate;
        let kept = match standing {
            Standing::Known => 0,
            Standing::New => burst / 4,
            Standing::Suspect => burst / 2,
        };
        if self.budget.take(now, rate, burst - kept) { Ok(()) } else { Err(Refusal::Budget) }
    }

    fn turn(&mut self, now: Instant, refusal: Refusal) {
        self.turned.count(refusal);
        self.noticed.get_or_insert(now);
    }

    fn add(&mut self, source: Option<Source>) -> StrangerId {
        let id = StrangerId(self.next);
        self.next += 1;
        self.strangers.insert(id, Stranger { source, bytes: SILENT_BYTES });
        self.bytes += SILENT_BYTES;
        id
    }

    fn remove(&mut self, id: StrangerId) -> Option<Source> {
        let stranger = self.strangers.remove(&id)?;
        self.bytes -= stranger.bytes;
        let source = stranger.source?;
        self.sources.leave(source);
        Some(source)
    }
}

#[cfg(test)]
mod tests;
