//! What the client of a first message can have (PROTOCOL §§3, 8).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use rand::RngExt as _;
use rand_core::CryptoRng;

use super::offer::{Guest, Offer, Origin, Wish, ticket_id};
use super::{Client, DAMPING, Presence, Roster};
use crate::addr::Addresses;
use crate::codec::claims::Claims;
use crate::codec::hello::RejectCode;
use crate::codec::secret::Ticket;
use crate::crypto::keys::PublicKey;
use crate::session::registry::session_id;

/// When and from where a first message came: the clock, the wall clock in Unix seconds, the source.
#[derive(Clone, Copy)]
struct Arrival {
    now: Instant,
    unix: u64,
    source: IpAddr,
}

impl Roster {
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
        let arrival = Arrival { now, unix, source };
        match wish {
            Wish::New(guest) => self.offer_new(arrival, guest, rng),
            Wish::Resume { ticket, hybrid, key } => self.offer_resume(arrival, (ticket, hybrid), key),
        }
    }

    /// The id of the session that a ticket names, if it is one of ours, whether or not it still counts.
    pub fn session_of(&self, ticket: &Ticket) -> Option<String> {
        self.key.open(ticket).map(|claims| claims.client_id)
    }

    fn offer_new(
        &mut self,
        arrival: Arrival,
        guest: Guest<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Offer, RejectCode> {
        let client_id = match guest.id {
            Some(id) => self.choose_session(id, guest.sessions),
            None => new_client_id(rng),
        };
        // Only the first session of a client can have the address that is its own.
        let address = guest.address.filter(|_| guest.id.is_none_or(|id| id == client_id));
        if let Some(client) = self.clients.get(&client_id) {
            if self.is_contended(arrival.now, client) {
                self.duplicate = Some(client_id);
                return Err(RejectCode::ServerFull);
            }
            if address.is_none_or(|address| address == client.addresses.v4) {
                let offer = (client_id, client.addresses, Vec::new(), Origin::Successor);
                return Ok(self.fresh_offer(arrival, guest, offer));
            }
        }
        let is_kept = self.kept(&client_id).is_some();
        if !is_kept && self.pool.free_count() == 0 {
            return Err(RejectCode::PoolExhausted);
        }
        self.check_room(arrival.source)?;
        let (addresses, early) = self.find_address(arrival.now, &client_id, address)?;
        let offer = self.fresh_offer(arrival, guest, (client_id, addresses, early, Origin::New));
        self.promises.begin(&offer);
        Ok(offer)
    }

    fn fresh_offer(
        &mut self,
        Arrival { unix, source, .. }: Arrival,
        guest: Guest<'_>,
        (client_id, addresses, early, origin): (String, Addresses, Vec<IpAddr>, Origin),
    ) -> Offer {
        // Its tickets must be later than those that are void.
        let revoked = self.revoked.get(&client_id).map_or(0, |revoked| revoked.since.saturating_add(1));
        Offer {
            client_id,
            addresses,
            early,
            limit: guest.limit.or(self.rules.limit),
            origin,
            source,
            full_handshake_at: unix.max(revoked),
            number: self.next_number(),
            key: guest.key,
            identified: guest.id.is_some(),
            roams: false,
            issued: None,
        }
    }

    /// Which of its sessions a known client gets: one that waits for it, else a new one while it may have more, else the
    /// place of the one that came first.
    fn choose_session(&self, id: &str, sessions: u32) -> String {
        let rank = |id: &String| match self.clients.get(id) {
            Some(Client { presence: Presence::Away { until }, .. }) => (0, Some(*until), 0),
            None if self.promises.of(id).is_none() => (1, None, 0),
            None => (2, None, 0),
            Some(client) => (3, None, client.offer),
        };
        let ids = (1..=sessions.max(1)).map(|number| session_id(id, number));
        ids.min_by_key(rank).unwrap_or_else(|| id.to_owned())
    }

    /// Whether two devices throw each other out of this session.
    fn is_contended(&self, now: Instant, client: &Client) -> bool {
        matches!(client.presence, Presence::Online(_))
            && client.swapped_at.is_some_and(|at| now.saturating_duration_since(at) < DAMPING)
    }

    fn find_address(
        &mut self,
        now: Instant,
        client_id: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Result<(Addresses, Vec<IpAddr>), RejectCode> {
        let fits = |addresses: &Addresses| wanted.is_none_or(|wanted| wanted == addresses.v4);
        if let Some(addresses) = self.kept(client_id) {
            // There can be one promise to a client at a time.
            return if fits(&addresses) { Ok((addresses, Vec::new())) } else { Err(RejectCode::ServerFull) };
        }
        let home = self.homes.last(client_id).filter(fits);
        let lease = home.and_then(|home| self.pool.allocate_specific(home, now));
        let lease = match (lease, wanted) {
            (Some(lease), _) => lease,
            (None, Some(wanted)) => self.pool.allocate_v4(wanted, now).ok_or(RejectCode::BadRequest)?,
            (None, None) => self.pool.allocate(now).ok_or(RejectCode::PoolExhausted)?,
        };
        // What it left behind itself is no stranger's.
        let early = if home == Some(lease.addresses()) { Vec::new() } else { lease.early().collect() };
        Ok((lease.addresses(), early))
    }

    fn offer_resume(
        &mut self,
        Arrival { now, unix, source }: Arrival,
        (ticket, hybrid): (Option<&Ticket>, bool),
        key: Option<PublicKey>,
    ) -> Result<Offer, RejectCode> {
        let claims = self.claims(unix, ticket)?;
        if claims.hybrid && !hybrid || claims.client_key.as_ref() != key.as_ref().map(PublicKey::as_bytes) {
            return Err(RejectCode::TicketInvalid);
        }
        let Claims { client_id, assigned_ip, assigned_ip6, full_handshake_at, .. } = claims;
        let wanted = Addresses { v4: assigned_ip, v6: assigned_ip6 };
        // One that was told apart once is by its ticket, too.
        let identified = key.is_some() || self.homes.last(&client_id).is_some();
        let mut offer = Offer {
            client_id,
            addresses: wanted,
            early: Vec::new(),
            limit: claims.limit,
            origin: Origin::Ticket,
            source,
            full_handshake_at,
            number: self.next_number(),
            key,
            identified,
            roams: false,
            issued: None,
        };
        if let Some(client) = self.clients.get(&offer.client_id) {
            // An address was given to its session since: the ticket is of an older one.
            if client.addresses != wanted {
                return Err(RejectCode::TicketInvalid);
            }
            offer.roams = ticket.and_then(ticket_id).is_some_and(|ticket| client.tickets.contains(&ticket));
            if !offer.roams && self.is_contended(now, client) {
                self.duplicate = Some(offer.client_id);
                return Err(RejectCode::ServerFull);
            }
            return Ok(Offer { limit: client.limit, origin: Origin::Session, ..offer });
        }
        self.check_room(source)?;
        match self.kept(&offer.client_id) {
            Some(addresses) if addresses == wanted => {}
            Some(_) => return Err(RejectCode::TicketInvalid),
            None => {
                let lease = self.pool.allocate_specific(wanted, now).ok_or(RejectCode::TicketInvalid)?;
                let is_home = self.homes.last(&offer.client_id) == Some(wanted);
                offer.early = if is_home { Vec::new() } else { lease.early().collect() };
            }
        }
        self.promises.begin(&offer);
        Ok(offer)
    }

    /// What is promised to a client already, or kept for it.
    fn kept(&self, client_id: &str) -> Option<Addresses> {
        self.promises.of(client_id).or_else(|| self.homes.reserved(client_id))
    }

    const fn next_number(&mut self) -> u64 {
        self.offers += 1;
        self.offers
    }

    /// What a ticket says, if it still counts.
    fn claims(&self, unix: u64, ticket: Option<&Ticket>) -> Result<Claims, RejectCode> {
        let claims = ticket.and_then(|ticket| self.key.open(ticket)).ok_or(RejectCode::TicketInvalid)?;
        let revoked = self.revoked.get(&claims.client_id);
        if revoked.is_some_and(|it| unix < it.until && claims.full_handshake_at <= it.since) {
            return Err(RejectCode::Unauthorized);
        }
        let oldest = claims.full_handshake_at.saturating_add(self.rules.ticket_max_age.as_secs());
        if unix >= claims.expires_at || unix >= oldest {
            return Err(RejectCode::TicketExpired);
        }
        Ok(claims)
    }

    /// Whether one more client may be promised addresses.
    fn check_room(&self, source: IpAddr) -> Result<(), RejectCode> {
        if self.clients.len() as u64 + self.promises.count() >= self.rules.max_clients {
            return Err(RejectCode::ServerFull);
        }
        self.promises.check_room(source, self.pool.free_count())
    }
}

/// 128 random bits: unguessable, and never given twice.
fn new_client_id(rng: &mut dyn CryptoRng) -> String {
    format!("{:032x}", rng.random::<u128>())
}
