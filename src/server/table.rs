//! The clients by id and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::peer::Peer;
use crate::telemetry::TrafficSnapshot;

/// The clients that have a session, those that are away included.
#[derive(Default)]
pub(super) struct Table {
    by_id: HashMap<String, Arc<Peer>>,
    by_address: HashMap<IpAddr, Arc<Peer>>,
    /// Ids in the order in which the clients came.
    order: Vec<String>,
    /// The sums of those that left.
    past: TrafficSnapshot,
}

impl Table {
    pub(super) fn by_address(&self, addr: IpAddr) -> Option<&Peer> {
        self.by_address.get(&addr).map(|peer| &**peer)
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Peer>> {
        self.by_id.get(id).cloned()
    }

    /// In the order in which they came.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.order.iter().filter_map(|id| self.by_id.get(id)).map(|peer| &**peer)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Puts a client in, or another connection in the place of its last.
    pub(super) fn insert(&mut self, peer: &Arc<Peer>) {
        for addr in addresses_of(peer) {
            self.by_address.insert(addr, Arc::clone(peer));
        }
        if self.by_id.insert(peer.id.clone(), Arc::clone(peer)).is_none() {
            self.order.push(peer.id.clone());
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Peer>> {
        let peer = self.by_id.remove(id)?;
        for addr in addresses_of(&peer) {
            self.by_address.remove(&addr);
        }
        self.order.retain(|known| known != id);
        Some(peer)
    }

    /// Adds what a client that was removed has counted.
    pub(super) fn count_past(&mut self, peer: &Peer) {
        self.past += &peer.traffic.snapshot();
    }

    /// The sums of all clients, past ones included.
    pub(super) fn totals(&self) -> TrafficSnapshot {
        let mut totals = TrafficSnapshot::default();
        totals += &self.past;
        for peer in self.by_id.values() {
            totals += &peer.traffic.snapshot();
        }
        totals
    }
}

fn addresses_of(peer: &Peer) -> impl Iterator<Item = IpAddr> + use<> {
    std::iter::once(IpAddr::V4(peer.v4)).chain(peer.v6.map(IpAddr::V6))
}
