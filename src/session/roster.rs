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
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use self::homes::Homes;
use self::offer::TicketId;
use self::promises::Promises;
use crate::addr::{AddressPool, Addresses, REST};
use crate::codec::claims::Claims;
use crate::codec::secret::Ticket;
use crate::crypto::ticket::TicketKey;

mod admit;
mod homes;
mod offer;
mod promises;
mod saved;

pub use offer::{Confirmed, ConnectionId, Guest, Lost, Offer, Origin, ReserveError, Rules, Wish};
pub use saved::{Restored, Saved, SavedClient};

/// How long a ticket is valid (PROTOCOL §3): longer than most outages, and short for what a thief could do with it.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(3_600);

/// Clients whose tickets the operator has made void, at most, for as long as any of theirs may live; about 6 MiB when full.
/// Each took a word of the operator's, so that no stranger can fill it; beyond it the oldest is forgotten.
const REVOKED_MAX: usize = 65_536;

/// Tickets of a session by which its own device is known when it comes by another connection: one for each attempt that
/// the server has answered and the client may not have heard of.
const TICKETS_KNOWN: usize = 4;

/// How long after another device took a client's place no third one may: two that share a key must not throw each
/// other out for ever.
const DAMPING: Duration = Duration::from_secs(10);

/// The operator hears at most this often that devices share a client.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Client {
    addresses: Addresses,
    limit: Option<(u64, u64)>,
    full_handshake_at: u64,
    presence: Presence,
    /// The number of the last offer that was confirmed.
    offer: u64,
    /// It is known by more than this session: its address waits for it when the session is over.
    identified: bool,
    /// The tickets that were issued last on it.
    tickets: VecDeque<TicketId>,
    /// When a connection of another device took its place.
    swapped_at: Option<Instant>,
}

impl Client {
    /// Its device has this ticket by now.
    fn know(&mut self, ticket: Option<TicketId>) {
        self.tickets.extend(ticket.filter(|ticket| !self.tickets.contains(ticket)));
        while self.tickets.len() > TICKETS_KNOWN {
            self.tickets.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Online(ConnectionId),
    Away { until: Instant },
}

/// Which tickets of a client are void: those of full handshakes up to `since`. Forgotten when none can be left.
#[derive(Clone, Copy, Debug)]
struct Revoked {
    since: u64,
    until: u64,
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
    promises: Promises,
    homes: Homes,
    /// Addresses given back less than their rest ago.
    resting: VecDeque<(Instant, Addresses)>,
    revoked: HashMap<String, Revoked>,
    /// The latest full handshake that a ticket is of; the wall clock may have been put back since.
    last_handshake: u64,
    /// Offers made so far.
    offers: u64,
    /// A client that two devices share, and when this was last told.
    duplicate: Option<String>,
    duplicate_told: Option<Instant>,
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
            promises: Promises::default(),
            homes: Homes::default(),
            resting: VecDeque::new(),
            revoked: HashMap::new(),
            last_handshake: 0,
            offers: 0,
            duplicate: None,
            duplicate_told: None,
        }
    }

    /// A ticket for the session of `offer`, and its lifetime in seconds; none if it could not be used. With `hybrid`
    /// it takes another ML-KEM key to use it.
    pub fn ticket(
        &mut self,
        unix: u64,
        offer: &mut Offer,
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
            client_key: offer.key.map(|key| *key.as_bytes()),
            hybrid,
        };
        let ticket = self.key.seal(&claims, rng)?;
        offer.issued = offer::ticket_id(&ticket);
        self.last_handshake = self.last_handshake.max(offer.full_handshake_at);
        if let Some(client) = self.clients.get_mut(&offer.client_id).filter(|_| !offer.is_fresh()) {
            client.know(offer.issued);
        }
        Some((ticket, secs))
    }

    /// The connection has confirmed its keys: the client is there, by this connection and no other. `None` if its
    /// session has ended or moved to another address since the offer, or the client has gone on to a connection that it
    /// made later: this one is to be closed.
    ///
    /// A client makes one connection after the other, but its confirmations need not come in that order: one may be
    /// held up on a way that the client has left since.
    pub fn confirm(&mut self, now: Instant, offer: Offer, connection: ConnectionId) -> Option<Confirmed> {
        let promised = self.promises.end(&offer).is_some();
        let client_id = offer.client_id.clone();
        let Some(client) = self.clients.get(&client_id) else {
            if !promised {
                return None;
            }
            self.homes.forget(&client_id);
            self.clients.insert(client_id.clone(), offer.into_client(connection, None));
            return Some(Confirmed { client_id, resumed: false, replaced: None, succeeded: None });
        };
        // Its session has moved to another address, which this connection's client does not know of.
        let is_outdated = offer.addresses != client.addresses && !(promised && offer.is_fresh());
        if offer.number < client.offer || is_outdated {
            self.leave(now, promised, &offer);
            return None;
        }
        let before = client.clone();
        let replaced = match before.presence {
            Presence::Online(old) => Some(old),
            Presence::Away { until } => {
                self.away.remove(&(until, client_id.clone()));
                None
            }
        };
        let swapped_at = if replaced.is_some() && !offer.roams { Some(now) } else { before.swapped_at };
        let (resumed, issued) = (!offer.is_fresh(), offer.issued);
        let mut after = match resumed {
            false => offer.into_client(connection, swapped_at),
            true => Client {
                presence: Presence::Online(connection),
                offer: offer.number,
                full_handshake_at: before.full_handshake_at.max(offer.full_handshake_at),
                swapped_at,
                ..before.clone()
            },
        };
        after.know(issued);
        let moved = before.addresses != after.addresses;
        self.clients.insert(client_id.clone(), after);
        if moved {
            self.give_back(now, before.addresses);
        }
        let succeeded = (!resumed).then_some(before.addresses);
        Some(Confirmed { client_id, resumed, replaced, succeeded })
    }

    /// The connection has ended without confirming its keys.
    pub fn withdraw(&mut self, now: Instant, offer: Offer) {
        let promised = self.promises.end(&offer).is_some();
        self.leave(now, promised, &offer);
    }

    /// Frees what was promised by an offer that came to nothing, unless somebody else hangs on it.
    fn leave(&mut self, now: Instant, promised: bool, offer: &Offer) {
        let held = self.clients.get(&offer.client_id).map(|client| client.addresses);
        if promised && self.promises.of(&offer.client_id).is_none() && held != Some(offer.addresses) {
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
        // What else was promised to the same client hung on its session.
        if let Some(promised) =
            self.promises.take(client_id).filter(|addresses| *addresses != client.addresses)
        {
            self.give_back(now, promised);
        }
        if client.identified {
            self.homes.leave(client_id, client.addresses);
        }
        self.give_back(now, client.addresses);
        Some(client.addresses)
    }

    /// Makes a client's tickets void: the operator does not want it back. Those of later full handshakes are not.
    ///
    /// None of them outlives the age that its full handshake allows. Now and their lifetime say less: the wall clock
    /// may have been ahead when they were written.
    pub fn revoke(&mut self, unix: u64, client_id: &str) {
        // Tickets of an earlier session may be of a later handshake; and what was void already stays so.
        let since = unix.max(self.last_handshake);
        let since = self.clients.get(client_id).map_or(since, |client| client.full_handshake_at.max(since));
        let since = self.revoked.get(client_id).map_or(since, |revoked| revoked.since.max(since));
        let age = self.rules.ticket_max_age.max(TICKET_LIFETIME);
        let until = since.saturating_add(age.as_secs());
        self.revoked.retain(|_, revoked| unix < revoked.until);
        if self.revoked.len() >= REVOKED_MAX
            && let Some(oldest) =
                self.revoked.iter().min_by_key(|(_, revoked)| revoked.until).map(|(id, _)| id.clone())
        {
            self.revoked.remove(&oldest);
        }
        self.revoked.insert(client_id.to_owned(), Revoked { since, until });
    }

    /// Whether the last offer was refused because two devices share a client.
    pub const fn has_duplicate(&self) -> bool {
        self.duplicate.is_some()
    }

    /// A client that two devices share, if one was found since and the last one was told long enough ago.
    pub fn take_duplicate(&mut self, now: Instant) -> Option<String> {
        let told = self.duplicate_told;
        let waits = told.is_some_and(|told| now.saturating_duration_since(told) < DUPLICATE_PAUSE);
        let duplicate = self.duplicate.take().filter(|_| !waits)?;
        self.duplicate_told = Some(now);
        Some(duplicate)
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
        // The next holder of an address that is kept for a client is the same.
        if self.homes.is_reserved(addresses.v4) {
            return;
        }
        self.pool.release(addresses, now);
        self.resting.push_back((now, addresses));
        while self.resting.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= REST) {
            self.resting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
