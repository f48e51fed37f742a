//! What the connections of a serving server share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};

use super::admission::Admission;
use super::peer::Peer;
use crate::codec::disconnect::DisconnectCode;
use crate::config::ServerConfig;
use crate::crypto::keys::Keypair;
use crate::engine::clock;
use crate::packet::{Offload, Router, count_drop};
use crate::report::{ClientInfo, DisconnectReason, Event, Events};
use crate::telemetry::{DropReason, Traffic, TrafficSnapshot};
use crate::transport::{ServerTls, UpgradeOptions};

/// The shared state of a serving server.
pub(super) struct Hub {
    pub(super) config: ServerConfig,
    pub(super) keypair: Arc<Keypair>,
    pub(super) tls: Option<ServerTls>,
    pub(super) upgrade: UpgradeOptions,
    pub(super) events: Events,
    pub(super) client_to_client: bool,
    /// Who tells clients that a packet is too big, or another client away: the server.
    pub(super) router: Router,
    /// The tunnel's networks, each with the server's own address in it.
    nets: Vec<(IpNet, IpAddr)>,
    /// What belongs to no client: packets for addresses that nobody has.
    traffic: Traffic,
    /// Read once a batch of packets, written when a client comes or goes.
    table: RwLock<Table>,
    admission: Mutex<Admission>,
    confirmed: AtomicU64,
    closing: AtomicBool,
    since: Instant,
}

/// The clients by id and by address.
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
}

impl Hub {
    pub(super) fn new(
        config: ServerConfig,
        tls: Option<ServerTls>,
        admission: Admission,
        events: Events,
    ) -> Self {
        Self {
            keypair: Arc::new(config.keypair.clone()),
            tls,
            upgrade: UpgradeOptions { path: config.path.clone(), congestion: config.congestion_control },
            events,
            client_to_client: config.client_to_client,
            router: router(&config),
            nets: nets(&config),
            traffic: Traffic::default(),
            table: RwLock::default(),
            admission: Mutex::new(admission),
            confirmed: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            since: clock::now(),
            config,
        }
    }

    /// A confirmed session: from now on it is routed, listed and announced.
    pub(super) fn register(&self, peer: &Arc<Peer>) {
        let mut table = self.table_mut();
        table.by_address.insert(peer.v4.into(), Arc::clone(peer));
        if let Some(v6) = peer.v6 {
            table.by_address.insert(v6.into(), Arc::clone(peer));
        }
        table.by_id.insert(peer.id.clone(), Arc::clone(peer));
        table.order.push(peer.id.clone());
        drop(table);
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        self.events.emit(Event::ClientConnected(Box::new(peer.info())));
    }

    /// The session is over.
    pub(super) fn unregister(&self, peer: &Peer, reason: DisconnectReason) {
        let mut table = self.table_mut();
        table.by_address.remove(&peer.v4.into());
        if let Some(v6) = peer.v6 {
            table.by_address.remove(&v6.into());
        }
        table.by_id.remove(&peer.id);
        table.order.retain(|id| *id != peer.id);
        // No producer has a queue now, so what is counted here is all of it. What came from the client and
        // was held back had not been delivered in time because of its limit.
        peer.queue.close();
        peer.queue.discard(DropReason::NotConnected);
        peer.held.close();
        peer.held.discard(DropReason::RateLimit);
        table.past += &peer.traffic.snapshot();
        drop(table);
        self.events.emit(Event::ClientDisconnected { client_id: peer.id.clone(), reason });
        peer.set_ended();
    }

    /// Counts a packet that belongs to no client.
    pub(super) fn drop_packet(&self, reason: DropReason, packet: &[u8], offload: Offload) {
        count_drop(self.traffic.drops(), reason, packet, offload);
    }

    /// The figures of all clients, past ones included.
    pub(super) fn totals(&self) -> TrafficSnapshot {
        let table = self.table();
        let mut totals = self.traffic.snapshot();
        totals += &table.past;
        for peer in table.by_id.values() {
            totals += &peer.traffic.snapshot();
        }
        totals
    }

    pub(super) fn clients(&self) -> Vec<ClientInfo> {
        let table = self.table();
        table.order.iter().filter_map(|id| table.by_id.get(id)).map(|peer| peer.info()).collect()
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Peer>> {
        self.table().by_id.get(id).cloned()
    }

    pub(super) fn active_clients(&self) -> usize {
        self.table().by_id.len()
    }

    pub(super) fn total_connections(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// True for addresses that only clients have.
    pub(super) fn is_client_net(&self, addr: IpAddr) -> bool {
        self.nets.iter().any(|(net, own)| net.contains(&addr) && addr != *own)
    }

    /// Tells every client that the server stops; new ones are refused.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        for peer in self.table().by_id.values() {
            peer.end(DisconnectCode::ShuttingDown, "the server is stopping");
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router(config: &ServerConfig) -> Router {
    // The configuration's prefix length was checked when it was read.
    let v4 = Ipv4Net::new_assert(config.subnet.server(), config.subnet.prefix_len());
    Router::new(v4, config.subnet6.map(|subnet| subnet.server()))
}

fn nets(config: &ServerConfig) -> Vec<(IpNet, IpAddr)> {
    let v4 = (IpNet::V4(config.subnet.net()), IpAddr::V4(config.subnet.server()));
    let v6 = config.subnet6.map(|subnet| (IpNet::V6(subnet.net()), IpAddr::V6(subnet.server())));
    std::iter::once(v4).chain(v6).collect()
}
