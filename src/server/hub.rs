//! What the connections of a serving server share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use tokio::sync::Notify;

use super::authenticator::{Authenticator, Questions};
use super::peer::{Identity, Peer};
use super::quiet::Quiet;
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
use crate::packet::{Intake, Offload, Router, count_drop};
use crate::report::{ClientInfo, DisconnectReason, Events};
use crate::session::Registry;
use crate::session::replay::ReplayCache;
use crate::session::roster::{ReserveError, Restored, Roster, Saved};
use crate::telemetry::{DropReason, Traffic, TrafficSnapshot};
use crate::transport::{ServerTls, UpgradeOptions};

/// From accepting TCP to the confirmed session (PROTOCOL §3).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub(super) leases: Option<StateFile>,
    /// Where what the operator says of clients while the server runs is kept.
    client_file: Option<StateFile>,
    /// What the program is asked of clients that nobody knows.
    pub(super) questions: Questions,
    /// Somebody's grace may end sooner than the last one looked for.
    pub(super) graces: Notify,
    /// A registration may expire sooner than the last one looked for.
    pub(super) expiries: Notify,
    pub(super) connections: AtomicU64,
    pub(super) confirmed: AtomicU64,
    closing: AtomicBool,
    /// What still comes for clients that are told to go.
    pub(super) quiet: Quiet,
    since: Instant,
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

    pub(super) fn touch_leases(&self) {
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
    pub(super) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock in seconds: for tickets, which servers without a common clock of another kind share.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
