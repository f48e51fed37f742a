//! What a VPN server does: serve, admit, route, report.
//!
//! ```text
//!  disconnected ─start()─► connecting ─► connected ─stopServer()─► disconnected
//!                                           └── interface or listener fails ──► error
//! ```
//!
//! [`Server`] starts and stops the VPN; while it serves, a [`hub::Hub`] holds what its connections
//! share: the TUN, the address pool and the table of clients. Each connection is one task.

mod admission;
mod authenticator;
mod clients;
mod connection;
mod hub;
mod peer;
mod port;
mod quiet;
mod reservation;
mod rules;
mod running;
mod serve;
mod sessions;
mod source;
mod state_file;
mod strangers;
mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::authenticator::{Answer, Authenticator, Question};
use self::hub::Hub;
use self::serve::Serving;
use crate::config::ServerConfig;
use crate::engine::{Task, clock};
use crate::error::{ErrorCode, VpnError};
use crate::qos::RateLimit;
use crate::report::{
    ClientInfo, ClientTelemetry, ConnectionState, Event, Events, ServerStatistics, Statistics, Status,
};
use crate::session::registry::Auth;
use crate::telemetry::TrafficSnapshot;

/// Clients have this long to take our Disconnect and answer our Close (PROTOCOL §9).
const GOODBYE: Duration = Duration::from_secs(2);

/// The same when the process is about to end: one round trip to most places.
const HURRIED_GOODBYE: Duration = Duration::from_millis(300);

/// A VPN server.
pub struct Server {
    shared: Arc<Shared>,
    /// The VPN while it is being set up, serves, or is being taken down.
    serving: Arc<tokio::sync::Mutex<Option<Serving>>>,
    runtime: Handle,
    done: watch::Sender<bool>,
    shutdown: Mutex<Option<Task<()>>>,
}

/// What the serving task publishes.
struct Shared {
    events: Events,
    /// What is asked of clients that nobody knows, where the program is to say.
    authenticator: Option<Arc<dyn Authenticator>>,
    facts: Mutex<Facts>,
}

struct Facts {
    status: Status,
    hub: Option<Arc<Hub>>,
}

impl Server {
    /// A server that does not serve yet. Must be called on a tokio runtime, which then runs it.
    pub fn new(events: Events) -> Self {
        Self::with_authenticator(events, None)
    }

    /// As [`Self::new`]; `authenticator` is asked where the configuration says so.
    pub fn with_authenticator(events: Events, authenticator: Option<Arc<dyn Authenticator>>) -> Self {
        let facts = Facts { status: Status::new(ConnectionState::Disconnected), hub: None };
        let shared = Arc::new(Shared { events, authenticator, facts: Mutex::new(facts) });
        Self {
            shared,
            serving: Arc::default(),
            runtime: Handle::current(),
            done: watch::Sender::new(false),
            shutdown: Mutex::new(None),
        }
    }

    /// Sets up the VPN; resolves when it serves. On failure the host is as before.
    ///
    /// # Errors
    /// `already-running`, `not-running` after [`Self::shutdown`], and whatever the host refuses
    /// (API §8).
    pub async fn start(&self, config: ServerConfig) -> Result<(), VpnError> {
        let mut serving = self.serving.lock().await;
        if serving.as_ref().is_some_and(|serving| !serving.has_failed()) {
            let message = "the VPN server serves already; call stopServer() first";
            return Err(VpnError::new(ErrorCode::AlreadyRunning, message));
        }
        if self.is_shut_down() {
            let message = "the VPN server has been stopped; call start() on it again";
            return Err(VpnError::new(ErrorCode::NotRunning, message));
        }
        if config.auth == Auth::Callback && self.shared.authenticator.is_none() {
            let message = "authenticate is a function, which only a server in the same process can call; register \
                           clients here instead";
            return Err(VpnError::config("authenticate", message));
        }
        if let Some(failed) = serving.take() {
            failed.stop(GOODBYE).await;
        }
        self.shared.publish(Status::new(ConnectionState::Connecting), None);
        match Serving::start(config, &self.shared).await {
            Ok(started) => {
                *serving = Some(started);
                Ok(())
            }
            Err(error) => {
                // The failure is told to the caller; the status only says that nobody is served.
                self.shared.publish(Status::new(ConnectionState::Disconnected), None);
                Err(error)
            }
        }
    }

    /// Ends the VPN: clients are told, NAT and TUN are undone. Idempotent.
    pub async fn stop_server(&self) {
        let mut serving = self.serving.lock().await;
        if let Some(running) = serving.take() {
            running.stop(GOODBYE).await;
            self.shared.publish(Status::new(ConnectionState::Disconnected), None);
        }
    }

    /// What the server is doing.
    pub fn status(&self) -> Status {
        self.shared.facts().status.clone()
    }

    /// The sums over all clients since the start.
    pub fn statistics(&self) -> ServerStatistics {
        let hub = self.shared.facts().hub.clone();
        let Some(hub) = hub else { return idle_statistics() };
        let uptime = clock::now().saturating_duration_since(hub.since()).as_secs();
        let statistics = Statistics::new(&hub.totals(), uptime, None);
        ServerStatistics {
            statistics,
            active_clients: hub.active_clients(),
            total_connections: hub.total_connections(),
        }
    }

    /// The clients, in the order in which they came.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.hub().map_or_else(Vec::new, |hub| hub.clients())
    }

    /// One client's counters.
    ///
    /// # Errors
    /// `unknown-client`.
    pub fn client_telemetry(&self, id: &str) -> Result<ClientTelemetry, VpnError> {
        let peer = self.hub().and_then(|hub| hub.find(id));
        peer.map(|peer| peer.telemetry()).ok_or_else(|| unknown_client(id))
    }

    /// Holds a client to `limit` in each direction, or to none, until its session ends. Takes effect at
    /// once.
    ///
    /// # Errors
    /// `unknown-client`.
    pub fn set_client_rate_limit(&self, id: &str, limit: Option<RateLimit>) -> Result<(), VpnError> {
        let hub = self.hub().ok_or_else(|| unknown_client(id))?;
        let peer = hub.find(id).ok_or_else(|| unknown_client(id))?;
        hub.set_limit(&peer, limit);
        Ok(())
    }

    /// Ends a client's session; it is told that it was kicked and does not come back by itself.
    /// Resolves when the session is over.
    ///
    /// # Errors
    /// `unknown-client`.
    pub async fn disconnect_client(&self, id: &str) -> Result<(), VpnError> {
        let hub = self.hub().ok_or_else(|| unknown_client(id))?;
        let peer = hub.kick(id).ok_or_else(|| unknown_client(id))?;
        peer.ended().await;
        Ok(())
    }

    /// Registers a client, given as `IVpnRegisteredClient`; it may come in at once. Returns it as it is listed.
    ///
    /// # Errors
    /// `not-running`, `invalid-argument`, `file-error` if it could not be written to `stateDir`: it holds all the
    /// same, until the server ends.
    pub async fn add_client(&self, client: &Value) -> Result<Value, VpnError> {
        let hub = self.serving_hub()?;
        let added = hub.add_client(client)?;
        kept(&hub).await.map(|()| added)
    }

    /// Changes what is registered of a client, at once. Returns it as it is listed.
    ///
    /// # Errors
    /// `unknown-client`, and as [`Self::add_client`].
    pub async fn update_client(&self, id: &str, changes: &Value) -> Result<Value, VpnError> {
        let hub = self.serving_hub()?;
        let updated = hub.update_client(id, changes)?;
        kept(&hub).await.map(|()| updated)
    }

    /// Removes a client: its sessions end, and it is not let in any more.
    ///
    /// # Errors
    /// `not-running`, `unknown-client`, `file-error` as [`Self::add_client`].
    pub async fn remove_client(&self, id: &str) -> Result<(), VpnError> {
        let hub = self.serving_hub()?;
        hub.remove_client(id)?;
        kept(&hub).await
    }

    /// Opens an invite, which registers whoever joins by its URL. `options` and result are those of the public API.
    ///
    /// # Errors
    /// `not-running`, `invalid-argument`, `file-error` as [`Self::add_client`].
    pub async fn create_invite(&self, options: &Value) -> Result<Value, VpnError> {
        let hub = self.serving_hub()?;
        let invite = hub.create_invite(options)?;
        kept(&hub).await.map(|()| invite)
    }

    /// The registered clients, by id.
    ///
    /// # Errors
    /// `not-running`.
    pub fn registered_clients(&self) -> Result<Vec<Value>, VpnError> {
        Ok(self.serving_hub()?.registered_clients())
    }

    /// Ends everything. Idempotent.
    pub async fn shutdown(&self) {
        self.begin_shutdown(GOODBYE);
        // The sender lives as long as this object.
        let mut done = self.done.subscribe();
        let _done = done.wait_for(|done| *done).await;
    }

    /// Starts what [`Self::shutdown`] waits for; the goodbyes may take as long as `goodbye`.
    fn begin_shutdown(&self, goodbye: Duration) {
        let mut shutdown = self.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
        if shutdown.is_some() {
            return;
        }
        let (shared, serving, done) =
            (Arc::clone(&self.shared), Arc::clone(&self.serving), self.done.clone());
        let _runtime = self.runtime.enter();
        *shutdown = Some(Task::spawn("server shutdown", async move {
            if let Some(running) = serving.lock().await.take() {
                running.stop(goodbye).await;
                shared.publish(Status::new(ConnectionState::Disconnected), None);
            }
            done.send_replace(true);
        }));
    }

    /// As [`Self::shutdown`], for a thread outside the runtime that is in a hurry: the goodbyes are
    /// short. True if all was done in time.
    pub fn shutdown_blocking(&self, timeout: Duration) -> bool {
        self.begin_shutdown(HURRIED_GOODBYE);
        crate::engine::wait_blocking(self.done.subscribe(), timeout)
    }

    fn is_shut_down(&self) -> bool {
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn serving_hub(&self) -> Result<Arc<Hub>, VpnError> {
        self.hub().ok_or_else(|| {
            let message = "no VPN is served, so there are no clients to decide about; call start() with a configuration";
            VpnError::new(ErrorCode::NotRunning, message)
        })
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.shared.facts().hub.clone()
    }
}

impl Shared {
    fn publish(&self, status: Status, hub: Option<Arc<Hub>>) {
        let mut facts = self.facts();
        facts.hub = hub;
        if facts.status != status {
            facts.status = status.clone();
            drop(facts);
            self.events.emit(Event::Status(status));
        }
    }

    /// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn kept(hub: &Hub) -> Result<(), VpnError> {
    if hub.clients_kept().await {
        return Ok(());
    }
    let message = "the change holds, but could not be written to stateDir, and is forgotten when the server ends; see \
                   to the disk, and make it again";
    Err(VpnError::new(ErrorCode::FileError, message))
}

fn idle_statistics() -> ServerStatistics {
    let statistics = Statistics::new(&TrafficSnapshot::default(), 0, None);
    ServerStatistics { statistics, active_clients: 0, total_connections: 0 }
}

fn unknown_client(id: &str) -> VpnError {
    let message = format!("no client has the id {id:?}; listClients() shows those that are connected");
    VpnError::new(ErrorCode::UnknownClient, message)
}
