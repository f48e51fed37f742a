//! What the connections of a serving server share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::authenticator::{Authenticator, Questions};
use super::peer::{Identity, Peer, Present};
use super::port::tell_unreachable;
use super::quiet::Quiet;
use super::reservation::Reservation;
use super::rules::{nets, rate_limit, router, rules};
use super::state_file::StateFile;
use super::table::Table;
use crate::addr::Addresses;
use crate::codec::disconnect::DisconnectCode;
use crate::config::ServerConfig;
use crate::crypto::keys::Keypair;
use crate::crypto::ticket::TicketKey;
use crate::engine::clock;
use crate::error::VpnError;
use crate::network::delete_conntrack;
use crate::packet::{Intake, Offload, Router, count_drop};
use crate::qos::RateLimit;
use crate::report::{ClientInfo, DisconnectReason, Event, Events};
use crate::session::Registry;
use crate::session::replay::ReplayCache;
use crate::session::roster::{Confirmed, ConnectionId, Lost, ReserveError, Restored, Roster, Saved};
use crate::telemetry::{DropReason, Traffic, TrafficSnapshot};
use crate::transport::{ServerTls, UpgradeOptions};
use crate::tunnel::Tun;

/// From accepting TCP to the confirmed session (PROTOCOL §3).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often packets that wait for clients that are away are looked at: a fraction of what they may wait.
const AGING: Duration = Duration::from_millis(500);

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
    /// Where there are both, the table's lock is taken after this one.
    members: Mutex<Members>,
    leases: Option<StateFile>,
    /// Where what the operator says of clients while the server runs is kept.
    client_file: Option<StateFile>,
    /// What the program is asked of clients that nobody knows.
    pub(super) questions: Questions,
    /// Somebody's grace may end sooner than the last one looked for.
    graces: Notify,
    /// A registration may expire sooner than the last one looked for.
    pub(super) expiries: Notify,
    connections: AtomicU64,
    confirmed: AtomicU64,
    closing: AtomicBool,
    /// What still comes for clients that are told to go.
    pub(super) quiet: Quiet,
    since: Instant,
}

/// A connection that is a client's own now.
pub(super) struct Admitted {
    pub(super) peer: Arc<Peer>,
    /// The connection that it takes the place of.
    pub(super) replaced: Option<Arc<Peer>>,
    /// Its session has just begun, and its addresses are to be on the disk before they are used.
    pub(super) is_new: bool,
    /// The client has just been registered, which is to be on the disk before it is told that it is in.
    pub(super) is_enrolled: bool,
}

/// Who may come in.
pub(super) struct Members {
    pub(super) registry: Registry,
    pub(super) roster: Roster,
    pub(super) replay: ReplayCache,
}

impl Hub {
    pub(super) fn new(
        config: ServerConfig,
        tls: Option<ServerTls>,
        events: Events,
        authenticator: Option<Arc<dyn Authenticator>>,
    ) -> Result<Self, VpnError> {
        let key = TicketKey::derive(&config.keypair.private);
        let (client_file, saved) = StateFile::open(&config).unzip();
        let registry = Registry::restore(config.auth, &config.clients, saved.flatten().unwrap_or_default());
        let members = Members {
            // The configuration was checked for this when it was read.
            registry: registry
                .map_err(|(index, error)| VpnError::config(format!("clients[{index}]"), error.to_string()))?,
            roster: Roster::new(rules(&config), key),
            replay: ReplayCache::new(HANDSHAKE_TIMEOUT),
        };
        let mut hub = Self {
            keypair: Arc::new(config.keypair.clone()),
            tls,
            upgrade: UpgradeOptions { path: config.path.clone(), congestion: config.congestion_control },
            questions: Questions::new(authenticator, config.authenticate_timeout, events.clone()),
            events,
            client_to_client: config.client_to_client,
            router: router(&config),
            nets: nets(&config),
            traffic: Traffic::default(),
            table: RwLock::default(),
            members: Mutex::new(members),
            leases: None,
            client_file,
            graces: Notify::new(),
            expiries: Notify::new(),
            connections: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            quiet: Quiet::default(),
            since: clock::now(),
            config,
        };
        hub.take_up_leases();
        hub.keep_addresses();
        Ok(hub)
    }

    /// Keeps the addresses of registered clients for them. A session of an earlier run that has one of them gives way.
    fn keep_addresses(&self) {
        let now = clock::now();
        let mut members = self.members();
        let kept: Vec<_> = members
            .registry
            .clients()
            .into_iter()
            .filter_map(|client| Some((client.id.clone(), client.assigned_ip?)))
            .collect();
        for (id, addr) in kept {
            let reserved = match members.roster.reserve(now, &id, addr) {
                Err(ReserveError::InUse(_, holder)) => {
                    let addresses = members.roster.end(now, &holder);
                    self.unregister(&holder, addresses, DisconnectReason::Removed);
                    members.roster.reserve(now, &id, addr)
                }
                reserved => reserved,
            };
            if let Err(error) = reserved {
                self.events.warn_of_client("address-not-kept", id, error.to_string());
            }
        }
    }

    /// Lists the clients of an earlier process: they may come back.
    fn take_up_leases(&mut self) {
        let Some((file, saved)) = StateFile::open(&self.config) else { return };
        self.leases = Some(file);
        let Some(saved) = saved else { return };
        let restored = self.members().roster.restore(clock::now(), saved);
        for Restored { client_id: id, addresses: Addresses { v4, v6 }, limit } in restored {
            let prefix_length = self.config.subnet.prefix_len();
            let intake = Intake { mtu: self.config.mtu, offload: false };
            let identity = Identity { id, v4, v6, prefix_length, intake, name: None };
            let peer = Peer::new(identity, None, rate_limit(limit));
            peer.hold();
            self.table_mut().insert(&Arc::new(peer));
        }
    }

    /// A number for a connection.
    pub(super) fn new_connection(&self) -> ConnectionId {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection has confirmed its keys: from now on it is the client's, routed, listed and announced. Nothing if the
    /// session has ended meanwhile.
    pub(super) fn confirm(
        &self,
        mut reservation: Reservation,
        identity: Identity,
        present: Present,
    ) -> Option<Admitted> {
        let limit = rate_limit(reservation.offer()?.limit);
        let offer = reservation.take_offer()?;
        let now = clock::now();
        let mut members = self.members();
        let Some(is_enrolled) = reservation.standing().confirm(&mut members) else {
            members.roster.withdraw(now, offer);
            return None;
        };
        let confirmed = members.roster.confirm(now, offer, present.connection)?;
        let Confirmed { client_id, resumed, replaced, succeeded } = confirmed;
        let old = self.find(&client_id);
        let peer = match &old {
            Some(old) if resumed => old.resumed(identity, present),
            _ => Peer::new(identity, Some(present), limit),
        };
        let peer = Arc::new(peer);
        match &old {
            Some(old) if resumed => self.resume(old, &peer),
            _ => self.succeed(old.as_deref(), succeeded, &peer),
        }
        let replaced = old.filter(|_| replaced.is_some());
        Some(Admitted { peer, replaced, is_new: !resumed, is_enrolled })
    }

    /// A new session, in the place of the client's last one if that was still there.
    fn succeed(&self, old: Option<&Peer>, succeeded: Option<Addresses>, peer: &Arc<Peer>) {
        if let Some(old) = old {
            old.end(DisconnectCode::Replaced, "the client has come by another connection");
            let moved = succeeded.filter(|addresses| addresses.v4 != peer.v4);
            self.unregister(&old.id, moved, DisconnectReason::Replaced);
        }
        self.register(peer);
    }

    /// A new session.
    pub(super) fn register(&self, peer: &Arc<Peer>) {
        self.table_mut().insert(peer);
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        self.events.emit(Event::ClientConnected(Box::new(peer.info())));
    }

    /// A session goes on by another connection.
    fn resume(&self, old: &Peer, peer: &Arc<Peer>) {
        self.table_mut().insert(peer);
        // Its link seals no more packets once it has the order; what it has sealed already still leaves by it.
        old.end(DisconnectCode::Replaced, "the session goes on by another connection");
        peer.set_online();
        self.events.emit(Event::ClientResumed(Box::new(peer.info())));
    }

    /// A connection was lost, or broken by somebody on the way: its session waits for the client.
    pub(super) fn lost(&self, peer: &Peer, reason: DisconnectReason) {
        let Some(connection) = peer.connection else { return };
        let mut members = self.members();
        if let Some(reason) = peer.verdict() {
            // It was to go anyway.
            if members.roster.is_current(&peer.id, connection) {
                let addresses = members.roster.end(clock::now(), &peer.id);
                self.unregister(&peer.id, addresses, reason);
            }
            return;
        }
        match members.roster.lost(clock::now(), &peer.id, connection) {
            Lost::Replaced => {}
            Lost::Away => {
                peer.set_away(reason);
                self.graces.notify_one();
            }
            Lost::Ended(addresses) => self.unregister(&peer.id, Some(addresses), reason),
        }
    }

    /// A connection was ended by one of its ends, and its session with it, if it still was the session's.
    pub(super) fn ended(&self, peer: &Peer, reason: DisconnectReason) {
        let mut members = self.members();
        let is_current =
            peer.connection.is_some_and(|connection| members.roster.is_current(&peer.id, connection));
        if is_current {
            let addresses = members.roster.end(clock::now(), &peer.id);
            self.unregister(&peer.id, addresses, peer.verdict().unwrap_or(reason));
        }
    }

    /// The operator wants a client gone: its tickets are void, and its session over as soon as it has been told.
    pub(super) fn kick(&self, id: &str) -> Option<Arc<Peer>> {
        let mut members = self.members();
        let peer = self.find(id)?;
        members.roster.revoke(unix_now(), id);
        self.dismiss(&mut members, &peer, DisconnectCode::Kicked, DisconnectReason::Kicked);
        Some(peer)
    }

    /// Ends a session by the operator's word: as soon as its client has been told, or at once if it is away.
    pub(super) fn dismiss(
        &self,
        members: &mut Members,
        peer: &Peer,
        code: DisconnectCode,
        reason: DisconnectReason,
    ) {
        let message = match reason {
            DisconnectReason::Kicked => "disconnected by the server's operator",
            DisconnectReason::Expired => "the client's registration has expired",
            _ => "the client's registration was removed, disabled or changed",
        };
        peer.condemn(reason);
        match peer.away() {
            None => peer.end(code, message),
            Some(_) => {
                let addresses = members.roster.end(clock::now(), &peer.id);
                self.unregister(&peer.id, addresses, reason);
            }
        }
    }

    /// Holds a client to another limit.
    pub(super) fn set_limit(&self, peer: &Peer, limit: Option<RateLimit>) {
        peer.set_limit(limit);
        self.members().roster.set_limit(&peer.id, limit.map(|limit| (limit.rate(), limit.burst())));
        self.touch_leases();
    }

    /// A session is over. Called under the members' lock, so that nobody finds it half gone.
    pub(super) fn unregister(&self, id: &str, addresses: Option<Addresses>, reason: DisconnectReason) {
        let mut table = self.table_mut();
        let Some(peer) = table.remove(id) else { return };
        // No producer has a queue now, so what is counted here is all of it. What came from the client and
        // was held back had not been delivered in time because of its limit.
        peer.queue.close();
        peer.queue.discard(DropReason::NotConnected);
        peer.held.close();
        peer.held.discard(DropReason::RateLimit);
        table.count_past(&peer);
        drop(table);
        self.events.emit(Event::ClientDisconnected { client_id: peer.id.clone(), reason });
        peer.set_ended();
        if !self.is_closing() {
            self.touch_leases();
            forget_flows(addresses);
        }
    }

    /// Ends the sessions of clients that do not come back, and lets what waits for them grow no older than it
    /// may. Never ends.
    pub(super) async fn watch_graces(&self, tun: &Tun) {
        loop {
            let next = self.members().roster.poll_timeout();
            let Some(next) = next else {
                self.graces.notified().await;
                continue;
            };
            let soon = next.min(clock::now() + AGING);
            tokio::select! {
                () = sleep_until(soon.into()) => {}
                () = self.graces.notified() => {}
            }
            let now = clock::now();
            self.age_waiting(now, tun);
            let mut members = self.members();
            for (id, addresses) in members.roster.expire(now) {
                let reason = self.find(&id).and_then(|peer| peer.away());
                self.unregister(&id, Some(addresses), reason.unwrap_or(DisconnectReason::ConnectionLost));
            }
        }
    }

    /// Drops what has waited too long for clients that are away, and tells its senders.
    fn age_waiting(&self, now: Instant, tun: &Tun) {
        let table = self.table();
        for peer in table.peers().filter(|peer| peer.away().is_some()) {
            peer.age(now);
            tell_unreachable(self, &table, tun, now, peer, &peer.queue.take_unreachable());
        }
    }

    /// Tells the senders of what was lost while a client was away that it is there again.
    pub(super) fn tell_of_losses(&self, peer: &Peer, tun: &Tun) {
        tell_unreachable(self, &self.table(), tun, clock::now(), peer, &peer.queue.take_unreachable());
    }

    /// Writes leases whenever they change. Never ends.
    pub(super) async fn keep_leases(&self) {
        match &self.leases {
            Some(leases) => leases.run(|| self.save()).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what the operator says of clients whenever it has changed. Never ends.
    pub(super) async fn keep_clients(&self) {
        match &self.client_file {
            Some(file) => file.run(|| self.members().registry.save(unix_now())).await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when what the operator says of clients is on the disk; false if it cannot be.
    pub(super) async fn clients_kept(&self) -> bool {
        match &self.client_file {
            Some(file) => file.keep().await,
            None => true,
        }
    }

    /// Resolves when what the roster has is on the disk.
    pub(super) async fn leases_kept(&self) {
        if let Some(leases) = &self.leases {
            let _kept = leases.keep().await;
        }
    }

    fn touch_leases(&self) {
        if let Some(leases) = &self.leases {
            leases.touch();
        }
    }

    /// What must outlive the process.
    pub(super) fn save(&self) -> Saved {
        self.members().roster.save(clock::now())
    }

    /// Counts a packet that belongs to no client.
    pub(super) fn drop_packet(&self, reason: DropReason, packet: &[u8], offload: Offload) {
        count_drop(self.traffic.drops(), reason, packet, offload);
    }

    /// The figures of all clients, past ones included.
    pub(super) fn totals(&self) -> TrafficSnapshot {
        let table = self.table();
        let mut totals = self.traffic.snapshot();
        totals += &table.totals();
        totals
    }

    pub(super) fn clients(&self) -> Vec<ClientInfo> {
        let table = self.table();
        table.peers().map(|peer| peer.info()).collect()
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Peer>> {
        self.table().find(id)
    }

    pub(super) fn active_clients(&self) -> usize {
        self.table().len()
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

    /// Tells every client that the server stops; new ones are refused. Their sessions wait on the disk for the next
    /// start.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.quiet.begin(clock::now());
        if let Some(leases) = &self.leases {
            leases.write_last(&self.save());
        }
        if let Some(file) = &self.client_file {
            file.write_last(&self.members().registry.save(unix_now()));
        }
        for peer in self.table().peers() {
            peer.end(DisconnectCode::ShuttingDown, "the server is stopping");
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock in seconds: for tickets, which servers without a common clock of another kind share.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Deletes what the kernel knows of the flows of addresses that are free now: their next holder must get none of
/// their packets.
fn forget_flows(addresses: Option<Addresses>) {
    let Some(Addresses { v4, v6 }) = addresses else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    for addr in std::iter::once(IpAddr::V4(v4)).chain(v6.map(IpAddr::V6)) {
        runtime.spawn(async move {
            if let Err(error) = delete_conntrack(addr).await {
                tracing::debug!(%error, %addr, "connection tracking entries remain");
            }
        });
    }
}
