//! The server's clients: who may have which address, who is there, who may come back (PROTOCOL §§3, 8).
//!
//! ```text
//!           offer()                    confirm()                       lost()
//!  request ─────────► Offer (promised) ─────────► online(connection) ─────────► away, until the grace is over
//!                       │ withdraw()                 ▲      │ end()                │ offer() + confirm()   │ expire()
//!                       ▼                            │      ▼                      │                       ▼
//!                     free                           └──────────── the last confirmed connection wins    free
//! ```
//!
//! Anyone may have recorded a first message and send it again: until the connection has confirmed its keys nobody is
//! evicted, listed or moved, and nothing but a bounded number of addresses is promised. Every address that is given
//! back rests ([`crate::addr`]).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_core::CryptoRng;

use crate::addr::{AddressPool, Addresses, REST};
use crate::codec::claims::Claims;
use crate::codec::hello::RejectCode;
use crate::codec::secret::Ticket;
use crate::crypto::ticket::TicketKey;

mod offer;
mod saved;

pub use offer::{Confirmed, ConnectionId, Lost, Offer, Origin, Rules, Wish};
pub use saved::{Restored, Saved, SavedClient};

/// How long a ticket is valid (PROTOCOL §3): longer than most outages, and short for what a thief could do with it.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(3_600);

/// Unconfirmed addresses that one source may hold (PROTOCOL §3).
const PROMISED_PER_SOURCE: u64 = 8;

/// Unconfirmed addresses that all sources together may always hold (PROTOCOL §3).
const PROMISED_AT_LEAST: u64 = 8;

/// Clients whose tickets the operator has made void, at most, for as long as any of theirs may live; about 6 MiB when full.
/// Each took a word of the operator's, so that no stranger can fill it; beyond it the oldest is forgotten.
const REVOKED_MAX: usize = 65_536;

#[derive(Clone, Debug)]
struct Client {
    addresses: Addresses,
    limit: Option<(u64, u64)>,
    full_handshake_at: u64,
    presence: Presence,
    /// The number of the last offer that was confirmed.
    offer: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Online(ConnectionId),
    Away { until: Instant },
}

/// Addresses that unconfirmed connections of one client hold.
#[derive(Debug)]
struct Promise {
    addresses: Addresses,
    offers: u32,
}

/// The clients of one server.
#[derive(Debug)]
pub struct Roster {
    rules: Rules,
    key: TicketKey,
    pool: AddressPool,
    clients: HashMap<String, Client>,
    /// Those that are away, by the end of their grace.
    away: BTreeSet<(Instant, String)>,
    promised: HashMap<String, Promise>,
    /// Offers that hold addresses, by source.
    by_source: HashMap<IpAddr, u64>,
    /// Addresses given back less than their rest ago.
    resting: VecDeque<(Instant, Addresses)>,
    revoked: HashMap<String, u64>,
    /// Offers made so far.
    offers: u64,
}

impl Roster {
    /// A roster without clients.
    pub fn new(rules: Rules, key: TicketKey) -> Self {
        Self {
            pool: AddressPool::new(rules.subnet, rules.subnet6),
            rules,
            key,
            clients: HashMap::new(),
            away: BTreeSet::new(),
            promised: HashMap::new(),
            by_source: HashMap::new(),
            resting: VecDeque::new(),
            revoked: HashMap::new(),
            offers: 0,
        }
    }

    /// What the client of a first message can have, if it confirms its keys. `unix` is the wall clock in seconds.
    ///
    /// # Errors
    ///
    /// The rejection's code.
    pub fn offer(
        &mut self,
        (now, unix): (Instant, u64),
        source: IpAddr,
        wish: Wish<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Offer, RejectCode> {
        match wish {
            Wish::New => self.offer_new((now, unix), source, rng),
            Wish::Resume { ticket, hybrid } => self.offer_resume((now, unix), source, (ticket, hybrid)),
        }
    }

    fn offer_new(
        &mut self,
        (now, unix): (Instant, u64),
        source: IpAddr,
        rng: &mut dyn CryptoRng,
    ) -> Result<Offer, RejectCode> {
        if self.pool.free_count() == 0 {
            return Err(RejectCode::PoolExhausted);
        }
        self.check_room(source)?;
        let lease = self.pool.allocate(now).ok_or(RejectCode::PoolExhausted)?;
        let client_id = new_client_id(rng);
        let addresses = lease.addresses();
        self.promise(source, &client_id, addresses);
        Ok(Offer {
            client_id,
            addresses,
            early: lease.early().collect(),
            limit: self.rules.limit,
            origin: Origin::New,
            source,
            full_handshake_at: unix,
            number: self.next_number(),
        })
    }

    fn offer_resume(
        &mut self,
        (now, unix): (Instant, u64),
        source: IpAddr,
        (ticket, hybrid): (Option<&Ticket>, bool),
    ) -> Result<Offer, RejectCode> {
        let claims = self.claims(unix, ticket)?;
        if claims.hybrid && !hybrid {
            return Err(RejectCode::TicketInvalid);
        }
        let Claims { client_id, assigned_ip, assigned_ip6, full_handshake_at, .. } = claims;
        let wanted = Addresses { v4: assigned_ip, v6: assigned_ip6 };
        let number = self.next_number();
        let offer = |limit, origin, early| Offer {
            client_id: client_id.clone(),
            addresses: wanted,
            early,
            limit,
            origin,
            source,
            full_handshake_at,
            number,
        };
        if let Some(client) = self.clients.get(&client_id) {
            // An address was given to its session since: the ticket is of an older one.
            if client.addresses != wanted {
                return Err(RejectCode::TicketInvalid);
            }
            return Ok(offer(client.limit, Origin::Session, Vec::new()));
        }
        self.check_room(source)?;
        let early = match self.promised.get(&client_id) {
            Some(promise) if promise.addresses == wanted => Vec::new(),
            Some(_) => return Err(RejectCode::TicketInvalid),
            None => {
                let lease = self.pool.allocate_specific(wanted, now).ok_or(RejectCode::TicketInvalid)?;
                lease.early().collect()
            }
        };
        self.promise(source, &client_id, wanted);
        Ok(offer(claims.limit, Origin::Ticket, early))
    }

    const fn next_number(&mut self) -> u64 {
        self.offers += 1;
        self.offers
    }

    /// What a ticket says, if it still counts.
    fn claims(&self, unix: u64, ticket: Option<&Ticket>) -> Result<Claims, RejectCode> {
        let claims = ticket.and_then(|ticket| self.key.open(ticket)).ok_or(RejectCode::TicketInvalid)?;
        // Of a session that a client key protects, which this handshake does not.
        if claims.client_key.is_some() {
            return Err(RejectCode::TicketInvalid);
        }
        if self.revoked.get(&claims.client_id).is_some_and(|until| unix < *until) {
            return Err(RejectCode::Unauthorized);
        }
        let oldest = claims.full_handshake_at.saturating_add(self.rules.ticket_max_age.as_secs());
        if unix >= claims.expires_at || unix >= oldest {
            return Err(RejectCode::TicketExpired);
        }
        Ok(claims)
    }

    /// Whether one more address may be promised to a client from `source`.
    fn check_room(&self, source: IpAddr) -> Result<(), RejectCode> {
        let promised: u64 = self.by_source.values().sum();
        if self.clients.len() as u64 + promised >= self.rules.max_clients {
            return Err(RejectCode::ServerFull);
        }
        let here = self.by_source.get(&source).copied().unwrap_or(0);
        // Anyone can replay first messages: what is only promised must not exhaust the pool.
        let all = PROMISED_AT_LEAST.max(self.pool.free_count() / 4);
        if here >= PROMISED_PER_SOURCE || promised >= all { Err(RejectCode::ServerFull) } else { Ok(()) }
    }

    fn promise(&mut self, source: IpAddr, client_id: &str, addresses: Addresses) {
        *self.by_source.entry(source).or_default() += 1;
        let promise = self.promised.entry(client_id.to_owned()).or_insert(Promise { addresses, offers: 0 });
        promise.offers += 1;
    }

    /// One offer less; none if there is no such promise any more.
    fn end_promise(&mut self, offer: &Offer) -> Option<()> {
        if offer.origin == Origin::Session {
            return None;
        }
        if let Some(count) = self.by_source.get_mut(&offer.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&offer.source);
            }
        }
        let promise = self.promised.get_mut(&offer.client_id)?;
        promise.offers -= 1;
        if promise.offers == 0 {
            self.promised.remove(&offer.client_id);
        }
        Some(())
    }

    /// A ticket for the session of `offer`, and its lifetime in seconds; none if it could not be used. With `hybrid`
    /// it takes another ML-KEM key to use it.
    pub fn ticket(
        &self,
        unix: u64,
        offer: &Offer,
        hybrid: bool,
        rng: &mut dyn CryptoRng,
    ) -> Option<(Ticket, u32)> {
        let oldest = offer.full_handshake_at.saturating_add(self.rules.ticket_max_age.as_secs());
        let expires_at = oldest.min(unix.saturating_add(TICKET_LIFETIME.as_secs()));
        let secs = u32::try_from(expires_at.saturating_sub(unix)).ok().filter(|secs| *secs > 0)?;
        let claims = Claims {
            client_id: offer.client_id.clone(),
            assigned_ip: offer.addresses.v4,
            assigned_ip6: offer.addresses.v6,
            limit: offer.limit,
            expires_at,
            full_handshake_at: offer.full_handshake_at,
            client_key: None,
            hybrid,
        };
        self.key.seal(&claims, rng).map(|ticket| (ticket, secs))
    }

    /// The connection has confirmed its keys: the client is there, by this connection and no other. `None` if its
    /// session has ended since the offer, or the client has gone on to a connection that it made later: this one is
    /// to be closed.
    ///
    /// A client makes one connection after the other, but its confirmations need not come in that order: one may be
    /// held up on a way that the client has left since.
    pub fn confirm(&mut self, offer: Offer, connection: ConnectionId) -> Option<Confirmed> {
        let promised = self.end_promise(&offer).is_some();
        let presence = Presence::Online(connection);
        let Offer { client_id, addresses, limit, full_handshake_at, number, .. } = offer;
        let Some(client) = self.clients.get_mut(&client_id) else {
            if !promised {
                return None;
            }
            let client = Client { addresses, limit, full_handshake_at, presence, offer: number };
            self.clients.insert(client_id.clone(), client);
            return Some(Confirmed { client_id, resumed: false, replaced: None });
        };
        if number < client.offer {
            return None;
        }
        client.offer = number;
        client.full_handshake_at = client.full_handshake_at.max(full_handshake_at);
        let replaced = match std::mem::replace(&mut client.presence, presence) {
            Presence::Online(old) => Some(old),
            Presence::Away { until } => {
                self.away.remove(&(until, client_id.clone()));
                None
            }
        };
        Some(Confirmed { client_id, resumed: true, replaced })
    }

    /// The connection has ended without confirming its keys.
    pub fn withdraw(&mut self, now: Instant, offer: Offer) {
        if self.end_promise(&offer).is_some()
            && !self.promised.contains_key(&offer.client_id)
            && !self.clients.contains_key(&offer.client_id)
        {
            self.give_back(now, offer.addresses);
        }
    }

    /// A confirmed connection was lost, without a goodbye.
    pub fn lost(&mut self, now: Instant, client_id: &str, connection: ConnectionId) -> Lost {
        match self.clients.get_mut(client_id) {
            Some(client) if client.presence == Presence::Online(connection) => {
                if self.rules.grace.is_zero() {
                    return self.end(now, client_id).map_or(Lost::Replaced, Lost::Ended);
                }
                let until = now + self.rules.grace;
                client.presence = Presence::Away { until };
                self.away.insert((until, client_id.to_owned()));
                Lost::Away
            }
            _ => Lost::Replaced,
        }
    }

    /// Whether this connection is the client's own.
    pub fn is_current(&self, client_id: &str, connection: ConnectionId) -> bool {
        self.clients.get(client_id).is_some_and(|client| client.presence == Presence::Online(connection))
    }

    /// The session is over: its addresses rest and are free then. Returns them, if there was one.
    pub fn end(&mut self, now: Instant, client_id: &str) -> Option<Addresses> {
        let client = self.clients.remove(client_id)?;
        if let Presence::Away { until } = client.presence {
            self.away.remove(&(until, client_id.to_owned()));
        }
        // What else was promised to the same client hung on its addresses.
        self.promised.remove(client_id);
        self.give_back(now, client.addresses);
        Some(client.addresses)
    }

    /// Makes a client's tickets void: the operator does not want it back.
    ///
    /// None of them outlives the age that its full handshake allows. Now and their lifetime say less: the wall clock
    /// may have been ahead when they were written.
    pub fn revoke(&mut self, unix: u64, client_id: &str) {
        let since = self.clients.get(client_id).map_or(unix, |client| client.full_handshake_at.max(unix));
        let age = self.rules.ticket_max_age.max(TICKET_LIFETIME);
        let until = since.saturating_add(age.as_secs());
        self.revoked.retain(|_, until| unix < *until);
        if self.revoked.len() >= REVOKED_MAX
            && let Some(oldest) =
                self.revoked.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone())
        {
            self.revoked.remove(&oldest);
        }
        self.revoked.insert(client_id.to_owned(), until);
    }

    /// Holds a client to another limit from now on, also when it comes back.
    pub fn set_limit(&mut self, client_id: &str, limit: Option<(u64, u64)>) {
        if let Some(client) = self.clients.get_mut(client_id) {
            client.limit = limit;
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.away.first().map(|(until, _)| *until)
    }

    /// Ends the sessions whose clients have not come back in time.
    pub fn expire(&mut self, now: Instant) -> Vec<(String, Addresses)> {
        let mut ended = Vec::new();
        while let Some((until, _)) = self.away.first()
            && *until <= now
            && let Some((_, client_id)) = self.away.pop_first()
        {
            if let Some(addresses) = self.end(now, &client_id) {
                ended.push((client_id, addresses));
            }
        }
        ended
    }

    /// Clients that have a session, those that are away included.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Nobody has a session.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The ids and addresses of all sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (&str, Addresses)> {
        self.clients.iter().map(|(id, client)| (id.as_str(), client.addresses))
    }

    fn give_back(&mut self, now: Instant, addresses: Addresses) {
        self.pool.release(addresses, now);
        self.resting.push_back((now, addresses));
        while self.resting.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= REST) {
            self.resting.pop_front();
        }
    }
}

/// 128 random bits: unguessable, and never given twice.
fn new_client_id(rng: &mut dyn CryptoRng) -> String {
    format!("{:032x}", rng.random::<u128>())
}

#[cfg(test)]
mod tests;
