//! What is known of sources, in a table of bounded size.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::GateRules;
use super::allowance::Allowance;

/// Sources that are remembered at most; about 2 MiB when full. Sixteen of an attacker's for each stranger that can be
/// there at a time.
const SOURCES: usize = 16_384;

/// How many sources are looked at to make room for one: enough that one is found which is nearly forgotten.
const LOOKS: usize = 32;

/// For how long a handshake that comes to nothing is remembered: a flood from thousands of addresses uses each of them
/// but once in a while.
const BLAME: Duration = Duration::from_secs(60);

/// For how long many of them are, at most.
const BLAME_MAX: Duration = Duration::from_secs(300);

/// A known source with more blame than this is suspect all the same: somebody else may be at its address.
const KNOWN_BLAME_MAX: Duration = Duration::from_secs(180);

/// For how long a source is known by a session that began there: as long as its client has a ticket.
const KNOWN: Duration = Duration::from_secs(3600);

/// Whose connection it is, as far as bounds go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// One address.
    V4(Ipv4Addr),
    /// A /64, by its first 64 bits.
    V6(u64),
}

impl Source {
    /// That of an address; an IPv4 one in IPv6's clothes counts as what it is.
    pub fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(addr) => Self::V6((addr.to_bits() >> 64) as u64),
        }
    }
}

/// What a source may take of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// A handshake of its has come to nothing lately.
    Suspect,
    /// Nothing is known.
    New,
    /// A session began there lately.
    Known,
}

#[derive(Clone, Copy, Debug)]
struct State {
    half_open: u32,
    handshakes: Allowance,
    blame: Allowance,
    known_until: Option<Instant>,
}

impl State {
    const fn new(now: Instant) -> Self {
        Self {
            half_open: 0,
            handshakes: Allowance::full(now),
            blame: Allowance::full(now),
            known_until: None,
        }
    }

    fn is_known(&self, now: Instant) -> bool {
        self.known_until.is_some_and(|until| until > now)
    }

    /// Whether it is as one that was never seen.
    fn is_idle(&self, now: Instant) -> bool {
        self.half_open == 0 && self.handshakes.is_full(now) && self.blame.is_full(now) && !self.is_known(now)
    }

    fn standing(&self, now: Instant) -> Standing {
        let blame = self.blame.debt(now);
        match self.is_known(now) {
            true if blame <= KNOWN_BLAME_MAX => Standing::Known,
            false if blame.is_zero() => Standing::New,
            _ => Standing::Suspect,
        }
    }

    /// What is lost by forgetting it, least first.
    fn worth(&self, now: Instant) -> (bool, Duration, Duration) {
        (self.is_known(now), self.blame.debt(now), self.handshakes.debt(now))
    }
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Sources {
    states: BTreeMap<Source, State>,
    /// Where room was last looked for.
    hand: Option<Source>,
}

impl Sources {
    /// Its unconfirmed connections and its standing.
    pub(super) fn look(&self, now: Instant, source: Source) -> (u32, Standing) {
        self.states.get(&source).map_or((0, Standing::New), |state| (state.half_open, state.standing(now)))
    }

    /// Whether its rate allows one more handshake.
    pub(super) fn may_begin(&self, now: Instant, source: Source, rules: GateRules) -> bool {
        self.states
            .get(&source)
            .is_none_or(|state| state.handshakes.has_one(now, rules.per_second, rules.burst))
    }

    /// It begins one.
    pub(super) fn begin(&mut self, now: Instant, source: Source, rules: GateRules) {
        if !self.states.contains_key(&source) && self.states.len() >= SOURCES {
            self.make_room(now);
        }
        let state = self.states.entry(source).or_insert_with(|| State::new(now));
        state.handshakes.take(now, rules.per_second, rules.burst);
        state.half_open += 1;
    }

    /// One of its connections is unconfirmed no more.
    pub(super) fn leave(&mut self, source: Source) {
        if let Some(state) = self.states.get_mut(&source) {
            state.half_open = state.half_open.saturating_sub(1);
        }
    }

    /// A handshake of its came to nothing.
    pub(super) fn blame(&mut self, now: Instant, source: Source) {
        if let Some(state) = self.states.get_mut(&source) {
            state.blame.owe(now, BLAME, BLAME_MAX);
        }
    }

    /// A handshake of its became a session.
    pub(super) fn praise(&mut self, now: Instant, source: Source) {
        if let Some(state) = self.states.get_mut(&source) {
            state.blame = Allowance::full(now);
            state.known_until = Some(now + KNOWN);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Forgets idle sources; if there are none where it looks, the one that is nearest to it. Each time it looks where
    /// it has not looked for longest. Those with connections stay: there are far fewer than places.
    fn make_room(&mut self, now: Instant) {
        let from = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.states.range((from, Bound::Unbounded));
        let before =
            self.states.range((Bound::Unbounded, self.hand.map_or(Bound::Unbounded, Bound::Included)));
        let looked: Vec<_> = behind
            .chain(before)
            .filter(|(_, state)| state.half_open == 0)
            .take(LOOKS)
            .map(|(source, state)| (*source, state.is_idle(now), state.worth(now)))
            .collect();
        self.hand = looked.last().map(|(source, ..)| *source);
        for (source, ..) in looked.iter().filter(|(_, is_idle, _)| *is_idle) {
            self.states.remove(source);
        }
        if self.states.len() >= SOURCES
            && let Some((source, ..)) = looked.iter().min_by_key(|(.., worth)| *worth)
        {
            self.states.remove(source);
        }
    }
}
