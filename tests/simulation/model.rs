//! What a town must be like, in plain words: who has which address, who may come back, where packets may go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use smartvpn::codec::hello::RejectCode;
use smartvpn::session::roster::{Offer, Origin};

use crate::wire::Nonces;

/// PROTOCOL §3 and the pool's own promise, once more.
const PER_SOURCE: usize = 8;
const PROMISED: usize = 8;
const REST: Duration = Duration::from_secs(30);

/// A session of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) address: Ipv4Addr,
    /// Its connection; none while the client is away.
    pub(crate) online: Option<u64>,
    /// When its grace is over.
    until: Option<Instant>,
    /// The first message that brought its connection about came as the one of this number.
    number: u64,
}

#[derive(Debug)]
struct Promise {
    id: String,
    address: Ipv4Addr,
    source: IpAddr,
    origin: Origin,
    number: u64,
    /// The session that it was of, or that another connection made of it, has ended.
    void: bool,
}

/// What a ticket says.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) expires_at: u64,
    pub(crate) full_handshake_at: u64,
}

/// What outlives the server's process.
#[derive(Clone, Debug, Default)]
struct Disk {
    sessions: BTreeMap<String, Known>,
    released: BTreeMap<Ipv4Addr, Instant>,
    kicked: HashSet<String>,
}

/// What was confirmed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) resumed: bool,
    pub(crate) replaced: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Model {
    addresses: Vec<Ipv4Addr>,
    pub(crate) grace: Duration,
    ticket_max_age: u64,
    pub(crate) sessions: BTreeMap<String, Known>,
    /// By connection.
    promises: BTreeMap<u64, Promise>,
    released: BTreeMap<Ipv4Addr, Instant>,
    kicked: HashSet<String>,
    /// The same, whatever became of the server's memory.
    unwanted: HashSet<String>,
    tickets: HashMap<Vec<u8>, Written>,
    ids: HashSet<String>,
    offers: u64,
    disk: Disk,
    prefixes: HashSet<[u8; 16]>,
}

impl Model {
    pub(crate) fn new(addresses: Vec<Ipv4Addr>, grace: Duration, ticket_max_age: u64) -> Self {
        Self {
            addresses,
            grace,
            ticket_max_age,
            sessions: BTreeMap::new(),
            promises: BTreeMap::new(),
            released: BTreeMap::new(),
            kicked: HashSet::new(),
            unwanted: HashSet::new(),
            tickets: HashMap::new(),
            ids: HashSet::new(),
            offers: 0,
            disk: Disk::default(),
            prefixes: HashSet::new(),
        }
    }

    fn live(&self) -> impl Iterator<Item = &Promise> {
        self.promises.values().filter(|promise| promise.origin != Origin::Session && !promise.void)
    }

    fn is_held(&self, address: Ipv4Addr) -> bool {
        self.sessions.values().any(|known| known.address == address)
            || self.live().any(|promise| promise.address == address)
    }

    fn free(&self) -> usize {
        self.addresses.iter().filter(|address| !self.is_held(**address)).count()
    }

    fn rests(&self, now: Instant, address: Ipv4Addr) -> bool {
        self.released.get(&address).is_some_and(|at| now.saturating_duration_since(*at) < REST)
    }

    /// One more promise to a client from `source`.
    fn room(&self, source: IpAddr) -> Result<(), RejectCode> {
        let counted = || self.promises.values().filter(|promise| promise.origin != Origin::Session);
        let here = counted().filter(|promise| promise.source == source).count();
        let full = here >= PER_SOURCE || counted().count() >= PROMISED.max(self.free() / 4);
        if full { Err(RejectCode::ServerFull) } else { Ok(()) }
    }

    /// What a client that comes new must be told.
    pub(crate) fn judge_new(&self, source: IpAddr) -> Result<(), RejectCode> {
        if self.free() == 0 { Err(RejectCode::PoolExhausted) } else { self.room(source) }
    }

    /// What a client that comes back with this ticket must be told; `said` is what it was.
    pub(crate) fn judge_resume(
        &self,
        unix: u64,
        source: IpAddr,
        ticket: &[u8],
        said: Option<&RejectCode>,
    ) -> Result<(), RejectCode> {
        let Some(Written { id, address, expires_at, full_handshake_at }) = self.tickets.get(ticket) else {
            return Err(RejectCode::TicketInvalid);
        };
        let is_expired = unix >= *expires_at || unix >= full_handshake_at + self.ticket_max_age;
        if self.kicked.contains(id) {
            // That it is void need not be remembered for longer than it lives.
            return Err(if is_expired && said == Some(&RejectCode::TicketExpired) {
                RejectCode::TicketExpired
            } else {
                RejectCode::Unauthorized
            });
        }
        if is_expired {
            return Err(RejectCode::TicketExpired);
        }
        if let Some(known) = self.sessions.get(id) {
            assert_eq!(known.address, *address, "a session's address never changes");
            return Ok(());
        }
        self.room(source)?;
        let promised = self.live().any(|promise| promise.id == *id);
        if self.is_held(*address) && !promised { Err(RejectCode::TicketInvalid) } else { Ok(()) }
    }

    /// An offer was made to the connection `wire`.
    pub(crate) fn offered(
        &mut self,
        now: Instant,
        wire: u64,
        source: IpAddr,
        ticket: Option<&[u8]>,
        offer: &Offer,
    ) {
        let (id, address) = (offer.client_id.clone(), offer.addresses.v4);
        assert!(self.addresses.contains(&address), "an address outside the pool");
        match ticket.and_then(|ticket| self.tickets.get(ticket)) {
            None => {
                assert_eq!(offer.origin, Origin::New);
                assert!(self.ids.insert(id.clone()), "an id was given twice");
                assert!(!self.is_held(address), "an address was offered that somebody has");
                let early = self.rests(now, address);
                let better = |address: &&Ipv4Addr| !self.is_held(**address) && !self.rests(now, **address);
                let better = self.addresses.iter().find(better);
                assert!(!early || better.is_none(), "{address} rests, and {better:?} does not");
                assert_eq!(offer.early.contains(&IpAddr::V4(address)), early);
            }
            Some(written) => {
                assert_eq!(
                    (&written.id, written.address),
                    (&id, address),
                    "another session than the ticket's"
                );
                assert_eq!(offer.origin == Origin::Session, self.sessions.contains_key(&id));
                let other =
                    self.sessions.iter().any(|(other, known)| *other != id && known.address == address);
                assert!(!other, "an address was offered that somebody else has");
            }
        }
        self.offers += 1;
        let promise = Promise { id, address, source, origin: offer.origin, number: self.offers, void: false };
        assert!(self.promises.insert(wire, promise).is_none());
    }

    /// A ticket was written for it.
    pub(crate) fn wrote(&mut self, ticket: &[u8], written: Written) {
        self.tickets.insert(ticket.to_vec(), written);
    }

    pub(crate) fn written(&self, ticket: &[u8]) -> Option<&Written> {
        self.tickets.get(ticket)
    }

    /// The connection's keys are confirmed; what must come of it.
    pub(crate) fn confirm(&mut self, wire: u64) -> Option<Expected> {
        let promise = self.promises.remove(&wire).expect("an offer");
        if let Some(known) = self.sessions.get_mut(&promise.id) {
            if promise.number < known.number {
                // The client has left that connection for another one.
                return None;
            }
            (known.until, known.number) = (None, promise.number);
            return Some(Expected { resumed: true, replaced: known.online.replace(wire) });
        }
        if promise.origin == Origin::Session || promise.void {
            return None;
        }
        let Promise { address, number, .. } = promise;
        let known = Known { address, online: Some(wire), until: None, number };
        let owner = self.sessions.iter().find(|(_, other)| other.address == promise.address);
        assert!(owner.is_none(), "{} has two owners", promise.address);
        self.released.remove(&promise.address);
        self.sessions.insert(promise.id, known);
        Some(Expected { resumed: false, replaced: None })
    }

    pub(crate) fn withdraw(&mut self, now: Instant, wire: u64) {
        let Some(promise) = self.promises.remove(&wire) else { return };
        let kept = self.sessions.contains_key(&promise.id) || self.live().any(|other| other.id == promise.id);
        if promise.origin != Origin::Session && !promise.void && !kept {
            self.released.insert(promise.address, now);
        }
    }

    /// The client of this connection is away.
    pub(crate) fn lost(&mut self, now: Instant, id: &str) {
        let known = self.sessions.get_mut(id).expect("a session");
        (known.online, known.until) = (None, Some(now + self.grace));
    }

    pub(crate) fn ended(&mut self, now: Instant, id: &str) {
        let known = self.sessions.remove(id).expect("a session");
        self.released.insert(known.address, now);
        self.promises.values_mut().filter(|promise| promise.id == id).for_each(|promise| promise.void = true);
    }

    pub(crate) fn kicked(&mut self, id: &str) {
        self.kicked.insert(id.to_owned());
        self.unwanted.insert(id.to_owned());
    }

    /// Whether anybody ever told this client that it is not wanted.
    pub(crate) fn is_unwanted(&self, id: &str) -> bool {
        self.unwanted.contains(id)
    }

    /// Sessions whose grace is over.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<String> {
        let over = |known: &Known| known.until.is_some_and(|until| until <= now);
        self.sessions.iter().filter(|(_, known)| over(known)).map(|(id, _)| id.clone()).collect()
    }

    /// When the next grace is over.
    pub(crate) fn next_grace(&self) -> Option<Instant> {
        self.sessions.values().filter_map(|known| known.until).min()
    }

    pub(crate) fn is_current(&self, id: &str, wire: u64) -> bool {
        self.sessions.get(id).is_some_and(|known| known.online == Some(wire))
    }

    /// The state is on the disk.
    pub(crate) fn saved(&mut self, now: Instant) {
        let resting = self.released.iter().filter(|(address, _)| self.rests(now, **address));
        self.disk = Disk {
            sessions: self.sessions.clone(),
            released: resting.map(|(address, at)| (*address, *at)).collect(),
            kicked: self.kicked.clone(),
        };
    }

    /// The server's process is another one; with what it had written, or without.
    pub(crate) fn restarted(&mut self, now: Instant, kept: bool) {
        if !kept {
            self.disk = Disk::default();
        }
        let Disk { sessions, released, kicked } = self.disk.clone();
        self.promises.clear();
        self.kicked = kicked;
        self.released = released.into_keys().map(|address| (address, now)).collect();
        self.sessions = sessions;
        for known in self.sessions.values_mut() {
            (known.online, known.until, known.number) = (None, Some(now + self.grace), 0);
        }
        // Of what was given back and given out again, the session counts.
        let held: Vec<Ipv4Addr> = self.sessions.values().map(|known| known.address).collect();
        self.released.retain(|address, _| !held.contains(address));
    }

    /// A sealed frame: its prefix serves one key of one direction of one connection, where counters go up from 0.
    pub(crate) fn used(&mut self, known: &mut Nonces, (kind, prefix, counter): (u8, [u8; 16], u64)) {
        if known.switches {
            *known = Nonces::default();
        }
        assert_eq!(counter, known.used, "a nonce out of order");
        known.used += 1;
        match known.prefix {
            Some(known) => assert_eq!(known, prefix, "two prefixes for one key"),
            None => assert!(self.prefixes.insert(prefix), "a prefix serves two keys"),
        }
        known.prefix = Some(prefix);
        // RekeyResp is the last one under its key.
        known.switches = kind == 0x41;
    }
}
