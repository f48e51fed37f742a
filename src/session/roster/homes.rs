//! Addresses that clients come home to: those that are kept for them, and those that they had last.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::offer::ReserveError;
use super::{Presence, Roster};
use crate::addr::{AddressLease, Addresses};

/// Clients without a session whose last addresses are remembered, at most: all of an IPv4 /16; some 8 MiB when full.
/// Beyond it the one that left first is forgotten, and gets another address.
pub(super) const HOMES_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Homes {
    /// The last addresses of known clients that have no session.
    last: HashMap<String, (u64, Addresses)>,
    order: BTreeMap<u64, String>,
    departures: u64,
    /// Kept for one client, there or not. The pool counts them as held.
    reserved: HashMap<String, Addresses>,
    by_address: HashMap<Ipv4Addr, String>,
}

impl Homes {
    /// A known client's session is over.
    pub(super) fn leave(&mut self, client_id: &str, addresses: Addresses) {
        self.forget(client_id);
        self.departures += 1;
        self.order.insert(self.departures, client_id.to_owned());
        self.last.insert(client_id.to_owned(), (self.departures, addresses));
        if self.last.len() > HOMES_MAX
            && let Some((_, first)) = self.order.pop_first()
        {
            self.last.remove(&first);
        }
    }

    /// A client is there, or will not come again.
    pub(super) fn forget(&mut self, client_id: &str) {
        if let Some((departure, _)) = self.last.remove(client_id) {
            self.order.remove(&departure);
        }
    }

    /// What a client had last.
    pub(super) fn last(&self, client_id: &str) -> Option<Addresses> {
        self.last.get(client_id).map(|(_, addresses)| *addresses)
    }

    /// What all of them had last, those that left first before the others.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Addresses)> {
        self.order.values().filter_map(|id| Some((id.as_str(), self.last(id)?)))
    }

    /// What is kept for a client.
    pub(super) fn reserved(&self, client_id: &str) -> Option<Addresses> {
        self.reserved.get(client_id).copied()
    }

    /// Whether an address is kept for somebody.
    pub(super) fn is_reserved(&self, addr: Ipv4Addr) -> bool {
        self.by_address.contains_key(&addr)
    }
}

impl Roster {
    /// Keeps an address for a client, whose (first) session has it from its next full handshake on.
    ///
    /// # Errors
    ///
    /// Why it cannot be had; nothing has changed then.
    pub fn reserve(&mut self, now: Instant, client_id: &str, v4: Ipv4Addr) -> Result<(), ReserveError> {
        if self.homes.reserved(client_id).is_some_and(|addresses| addresses.v4 == v4) {
            return Ok(());
        }
        if !self.pool.holds(v4) {
            return Err(ReserveError::Outside(v4));
        }
        let holder = self.clients.iter().find(|(_, client)| client.addresses.v4 == v4).map(|(id, _)| id);
        let addresses = match holder {
            Some(holder) if holder == client_id => self.clients.get(client_id).map(|client| client.addresses),
            Some(holder) => return Err(ReserveError::InUse(v4, holder.clone())),
            None => self.lease_for(now, client_id, v4)?.map(|lease| lease.addresses()),
        };
        let addresses =
            addresses.ok_or_else(|| ReserveError::InUse(v4, "a client that is coming in".to_owned()))?;
        self.unreserve(now, client_id);
        self.homes.reserved.insert(client_id.to_owned(), addresses);
        self.homes.by_address.insert(v4, client_id.to_owned());
        Ok(())
    }

    /// Keeps no address for a client any more. A session that has it keeps it until it ends.
    pub fn unreserve(&mut self, now: Instant, client_id: &str) {
        let Some(addresses) = self.homes.reserved.remove(client_id) else { return };
        self.homes.by_address.remove(&addresses.v4);
        let in_session = self.clients.get(client_id).map(|client| client.addresses) == Some(addresses);
        if !in_session && self.promises.of(client_id) != Some(addresses) {
            self.give_back(now, addresses);
        }
    }

    /// Forgets what a client had last: it is not to come again.
    pub fn forget(&mut self, client_id: &str) {
        self.homes.forget(client_id);
        if let Some(client) = self.clients.get_mut(client_id) {
            client.identified = false;
        }
    }

    /// Whether the session of this id has a connection.
    pub fn is_online(&self, client_id: &str) -> bool {
        self.clients.get(client_id).is_some_and(|client| matches!(client.presence, Presence::Online(_)))
    }

    /// Whether somebody has a session of this id, or is promised one.
    pub fn knows(&self, client_id: &str) -> bool {
        self.clients.contains_key(client_id) || self.promises.of(client_id).is_some()
    }

    /// This address, with the IPv6 one that goes with it; none if somebody has been promised it.
    fn lease_for(
        &mut self,
        now: Instant,
        client_id: &str,
        v4: Ipv4Addr,
    ) -> Result<Option<AddressLease>, ReserveError> {
        let home = self.homes.last(client_id).filter(|home| home.v4 == v4);
        if let Some(lease) = home.and_then(|home| self.pool.allocate_specific(home, now)) {
            return Ok(Some(lease));
        }
        let is_free = self.pool.is_free_v4(v4);
        let lease = self.pool.allocate_v4(v4, now);
        if is_free && lease.is_none() { Err(ReserveError::NoIpv6(v4)) } else { Ok(lease) }
    }
}
