//! What a town must be like, in plain words: who has which address, who may come back, where packets may go.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use smartvpn::crypto::keys::PublicKey;
use smartvpn::session::roster::{Offer, Origin};

use crate::book::Book;
use crate::wire::Nonces;

mod judge;

pub(crate) use judge::Due;

/// The pool's own promise, once more.
const REST: Duration = Duration::from_secs(30);

/// How long after a swap of devices there is no other, and how many tickets of a session its device is known by.
const DAMPING: Duration = Duration::from_secs(10);
const TICKETS_KNOWN: usize = 4;

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
    /// Its client is known by its key, and comes home to its address.
    is_known: bool,
    /// Those that were issued last on it.
    tickets: VecDeque<Vec<u8>>,
    /// When another device took its place.
    swapped: Option<Instant>,
}

impl Known {
    fn issue(&mut self, ticket: Option<&[u8]>) {
        let ticket = ticket.filter(|ticket| !self.tickets.iter().any(|it| it == ticket));
        self.tickets.extend(ticket.map(<[u8]>::to_vec));
        while self.tickets.len() > TICKETS_KNOWN {
            self.tickets.pop_front();
        }
    }

    /// Whether two devices throw each other out of it.
    pub(crate) fn is_contended(&self, now: Instant) -> bool {
        let damped = self.swapped.is_some_and(|at| now.saturating_duration_since(at) < DAMPING);
        self.online.is_some() && damped
    }
}

#[derive(Debug)]
struct Promise {
    id: String,
    address: Ipv4Addr,
    source: IpAddr,
    origin: Origin,
    number: u64,
    is_known: bool,
    roams: bool,
    ticket: Option<Vec<u8>>,
    /// The session that it was of, or that another connection made of it, has ended.
    void: bool,
}

impl Promise {
    /// Its address is held by it.
    const fn holds(&self) -> bool {
        matches!(self.origin, Origin::New | Origin::Ticket)
    }

    const fn is_fresh(&self) -> bool {
        matches!(self.origin, Origin::New | Origin::Successor)
    }
}

/// What a ticket says.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) expires_at: u64,
    pub(crate) full_handshake_at: u64,
    pub(crate) key: Option<PublicKey>,
    /// The clients that had been kicked when its full handshake was made.
    pub(crate) kicks: u64,
    /// The server's process that wrote it.
    pub(crate) process: u64,
}

/// That a session's tickets are void.
#[derive(Clone, Copy, Debug)]
struct Kick {
    number: u64,
    unix: u64,
    process: u64,
}

impl Kick {
    /// Whether it makes a ticket void; none where the server need not know, since it is of an earlier process and of a
    /// full handshake that the wall clock has yet to come to.
    fn voids(self, written: &Written) -> Option<bool> {
        let is_strange = written.process < self.process && written.full_handshake_at > self.unix;
        let is_void = written.kicks < self.number;
        (!is_void || !is_strange).then_some(is_void)
    }
}

/// What outlives the server's process.
#[derive(Clone, Debug, Default)]
struct Disk {
    sessions: BTreeMap<String, Known>,
    released: BTreeMap<Ipv4Addr, Instant>,
    homes: BTreeMap<String, Ipv4Addr>,
    kicked: HashMap<String, Kick>,
    book: Book,
}

/// What was confirmed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) resumed: bool,
    pub(crate) replaced: Option<u64>,
    /// The address of the session that ended by it.
    pub(crate) succeeded: Option<Ipv4Addr>,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) grace: Duration,
    ticket_max_age: u64,
    pub(crate) sessions: BTreeMap<String, Known>,
    /// By connection.
    promises: BTreeMap<u64, Promise>,
    released: BTreeMap<Ipv4Addr, Instant>,
    /// What known clients without a session had last.
    homes: BTreeMap<String, Ipv4Addr>,
    /// Addresses that are one client's, there or not.
    kept: BTreeMap<String, Ipv4Addr>,
    /// What the server's configuration says of clients, and what holds now.
    pub(crate) configured: Book,
    pub(crate) book: Book,
    /// Whose tickets are void: those of full handshakes before this one of all kicks.
    kicked: HashMap<String, Kick>,
    pub(crate) kicks: u64,
    /// The server's processes so far.
    pub(crate) processes: u64,
    /// Clients that were told that they are not wanted, since their users wanted a tunnel last.
    unwanted: HashSet<usize>,
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
            homes: BTreeMap::new(),
            kept: BTreeMap::new(),
            configured: Book::default(),
            book: Book::default(),
            kicked: HashMap::new(),
            kicks: 0,
            processes: 0,
            unwanted: HashSet::new(),
            tickets: HashMap::new(),
            ids: HashSet::new(),
            offers: 0,
            disk: Disk::default(),
            prefixes: HashSet::new(),
        }
    }

    fn live(&self) -> impl Iterator<Item = &Promise> {
        self.promises.values().filter(|promise| promise.holds() && !promise.void)
    }

    fn promised(&self, id: &str) -> Option<Ipv4Addr> {
        self.live().find(|promise| promise.id == id).map(|promise| promise.address)
    }

    fn is_kept(&self, address: Ipv4Addr) -> bool {
        self.kept.values().any(|kept| *kept == address)
    }

    fn is_held(&self, address: Ipv4Addr) -> bool {
        self.sessions.values().any(|known| known.address == address)
            || self.live().any(|promise| promise.address == address)
            || self.is_kept(address)
    }

    fn give_back(&mut self, now: Instant, address: Ipv4Addr) {
        if !self.is_kept(address) {
            self.released.insert(address, now);
        }
    }

    fn free(&self) -> usize {
        self.addresses.iter().filter(|address| !self.is_held(**address)).count()
    }

    fn rests(&self, now: Instant, address: Ipv4Addr) -> bool {
        self.released.get(&address).is_some_and(|at| now.saturating_duration_since(*at) < REST)
    }

    /// An offer was made to the connection `wire`.
    pub(crate) fn offered(&mut self, now: Instant, wire: u64, source: IpAddr, due: Due, offer: &Offer) {
        let (id, address) = (offer.client_id.clone(), offer.addresses.v4);
        assert!(self.addresses.contains(&address), "an address outside the pool");
        assert_eq!(offer.origin, due.origin);
        match &due.id {
            Some(due) => assert_eq!(&id, due, "another session than its own"),
            None => assert!(self.ids.insert(id.clone()), "an id was given twice"),
        }
        let kept = self.kept.iter().find(|(_, kept)| **kept == address);
        assert!(
            kept.is_none_or(|(holder, _)| *holder == id),
            "an address was offered that is kept for another"
        );
        match due.address {
            Some(due) => assert_eq!(address, due, "another address than its own"),
            None => {
                assert!(!self.is_held(address), "an address was offered that somebody has");
                let early = self.rests(now, address);
                let better = |address: &&Ipv4Addr| !self.is_held(**address) && !self.rests(now, **address);
                let better = self.addresses.iter().find(better);
                assert!(!early || better.is_none(), "{address} rests, and {better:?} does not");
                assert_eq!(offer.early.contains(&IpAddr::V4(address)), early);
            }
        }
        let other = self.sessions.iter().any(|(other, known)| *other != id && known.address == address);
        assert!(!other, "an address was offered that somebody else has");
        self.offers += 1;
        let Due { origin, is_known, roams, .. } = due;
        let (number, ticket, void) = (self.offers, None, false);
        let promise = Promise { id, address, source, origin, number, is_known, roams, ticket, void };
        assert!(self.promises.insert(wire, promise).is_none());
    }

    /// A ticket was written for it.
    pub(crate) fn wrote(&mut self, wire: u64, ticket: &[u8], written: Written) {
        let promise = self.promises.get_mut(&wire).expect("an offer");
        promise.ticket = Some(ticket.to_vec());
        if !promise.is_fresh()
            && let Some(known) = self.sessions.get_mut(&promise.id)
        {
            known.issue(Some(ticket));
        }
        self.tickets.insert(ticket.to_vec(), written);
    }

    pub(crate) fn written(&self, ticket: &[u8]) -> Option<&Written> {
        self.tickets.get(ticket)
    }

    /// The connection's keys are confirmed; what must come of it.
    pub(crate) fn confirm(&mut self, now: Instant, wire: u64) -> Option<Expected> {
        let promise = self.promises.remove(&wire).expect("an offer");
        let is_held = promise.holds() && !promise.void;
        let Some(before) = self.sessions.get(&promise.id).cloned() else {
            if !is_held {
                return None;
            }
            let owner = self.sessions.values().find(|other| other.address == promise.address);
            assert!(owner.is_none(), "{} has two owners", promise.address);
            self.released.remove(&promise.address);
            self.homes.remove(&promise.id);
            self.begin(wire, promise, None);
            return Some(Expected { resumed: false, replaced: None, succeeded: None });
        };
        let moves = promise.address != before.address;
        if promise.number < before.number || moves && !(promise.is_fresh() && is_held) {
            // The client has left that connection for another one, or what it was told holds no more.
            self.let_go(now, &promise);
            return None;
        }
        let replaced = before.online;
        let swapped = if replaced.is_some() && !promise.roams { Some(now) } else { before.swapped };
        if promise.is_fresh() {
            self.released.remove(&promise.address);
            self.begin(wire, promise, swapped);
            if moves {
                self.give_back(now, before.address);
            }
            return Some(Expected { resumed: false, replaced, succeeded: Some(before.address) });
        }
        let known = self.sessions.get_mut(&promise.id).expect("a session");
        known.issue(promise.ticket.as_deref());
        (known.online, known.until) = (Some(wire), None);
        (known.number, known.swapped) = (promise.number, swapped);
        Some(Expected { resumed: true, replaced, succeeded: None })
    }

    fn begin(&mut self, wire: u64, promise: Promise, swapped: Option<Instant>) {
        let Promise { id, address, number, is_known, ticket, .. } = promise;
        let (online, until, tickets) = (Some(wire), None, ticket.into_iter().collect());
        self.sessions.insert(id, Known { address, online, until, number, is_known, tickets, swapped });
    }

    pub(crate) fn withdraw(&mut self, now: Instant, wire: u64) {
        if let Some(promise) = self.promises.remove(&wire) {
            self.let_go(now, &promise);
        }
    }

    fn let_go(&mut self, now: Instant, promise: &Promise) {
        let known = self.sessions.get(&promise.id).map(|known| known.address);
        let is_used = known == Some(promise.address) || self.promised(&promise.id).is_some();
        if promise.holds() && !promise.void && !is_used {
            self.give_back(now, promise.address);
        }
    }

    /// The client of this connection is away.
    pub(crate) fn lost(&mut self, now: Instant, id: &str) {
        let known = self.sessions.get_mut(id).expect("a session");
        (known.online, known.until) = (None, Some(now + self.grace));
    }

    pub(crate) fn ended(&mut self, now: Instant, id: &str) {
        let known = self.sessions.remove(id).expect("a session");
        if let Some(promised) = self.promised(id).filter(|promised| *promised != known.address) {
            self.give_back(now, promised);
        }
        self.give_back(now, known.address);
        if known.is_known {
            self.homes.insert(id.to_owned(), known.address);
        }
        self.promises.values_mut().filter(|promise| promise.id == id).for_each(|promise| promise.void = true);
    }

    /// The tickets of this session are void.
    pub(crate) fn kicked(&mut self, unix: u64, id: &str) {
        self.kicks += 1;
        let kick = Kick { number: self.kicks, unix, process: self.processes };
        self.kicked.insert(id.to_owned(), kick);
    }

    /// Which kicks the session of a ticket that was taken has outlived.
    pub(crate) fn kicks_survived(&self, written: &Written) -> u64 {
        self.kicked.get(&written.id).map_or(0, |kick| kick.number).max(written.kicks)
    }

    /// From now on this address is the client's own. Whether it can be.
    pub(crate) fn keep(&mut self, now: Instant, id: &str, address: Ipv4Addr) -> bool {
        if self.kept.get(id) == Some(&address) {
            return true;
        }
        let has_it = self.sessions.get(id).is_some_and(|known| known.address == address);
        if !has_it && self.is_held(address) {
            return false;
        }
        self.keep_no_more(now, id);
        self.kept.insert(id.to_owned(), address);
        true
    }

    pub(crate) fn keep_no_more(&mut self, now: Instant, id: &str) {
        let Some(address) = self.kept.remove(id) else { return };
        let has_it = self.sessions.get(id).is_some_and(|known| known.address == address);
        if !has_it && self.promised(id) != Some(address) {
            self.give_back(now, address);
        }
    }

    /// Whoever has this address for a session, unless it is this client's.
    pub(crate) fn intruder(&self, id: &str, address: Ipv4Addr) -> Option<String> {
        let mut sessions = self.sessions.iter();
        sessions
            .find(|(other, known)| *other != id && known.address == address)
            .map(|(other, _)| other.clone())
    }

    /// A session of this id has no home any more.
    pub(crate) fn forgotten(&mut self, id: &str) {
        self.homes.remove(id);
        if let Some(known) = self.sessions.get_mut(id) {
            known.is_known = false;
        }
    }

    /// Nobody has an address that is kept for another.
    pub(crate) fn check(&self) {
        for (id, address) in &self.kept {
            assert_eq!(self.intruder(id, *address), None, "{address} is kept for {id}");
        }
    }

    /// A client is told that it is not wanted.
    pub(crate) fn dismissed(&mut self, resident: Option<usize>) {
        self.unwanted.extend(resident);
    }

    /// Its user wants a tunnel.
    pub(crate) fn wanted(&mut self, resident: usize) {
        self.unwanted.remove(&resident);
    }

    /// Whether anybody told this client that it is not wanted.
    pub(crate) fn is_unwanted(&self, resident: usize) -> bool {
        self.unwanted.contains(&resident)
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
            homes: self.homes.clone(),
            kicked: self.kicked.clone(),
            book: self.book.clone(),
        };
    }

    /// The server's process is another one; with what it had written of sessions and of clients, or without.
    pub(crate) fn restarted(&mut self, now: Instant, kept: bool, listed: bool) {
        if !listed {
            self.disk.book = self.configured.clone();
        }
        if !kept {
            self.disk = Disk { book: self.disk.book.clone(), ..Disk::default() };
        }
        let Disk { sessions, released, homes, kicked, book } = self.disk.clone();
        self.processes += 1;
        self.promises.clear();
        self.kept.clear();
        (self.homes, self.kicked, self.book) = (homes, kicked, book);
        self.released = released.into_keys().map(|address| (address, now)).collect();
        self.sessions = sessions;
        for known in self.sessions.values_mut() {
            (known.online, known.until, known.number) = (None, Some(now + self.grace), 0);
            (known.tickets, known.swapped) = (VecDeque::new(), None);
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
