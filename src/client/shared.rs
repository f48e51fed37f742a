//! What the supervisor publishes and the methods read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::mtu::MtuFacts;
use crate::engine::clock;
use crate::error::VpnError;
use crate::report::{
    ConnectionState, Dns, DnsMethod, Event, Events, MtuInfo, QualityReport, Statistics, Status, timestamp,
};
use crate::telemetry::{Quality, Traffic};

/// The published state of one client.
pub(super) struct Shared {
    pub(super) events: Events,
    /// The tunnel's figures; locked for moments, never across an await, never per packet.
    facts: Mutex<Facts>,
}

struct Facts {
    status: Status,
    traffic: Arc<Traffic>,
    quality: Option<QualityReport>,
    mtu: Option<MtuFacts>,
    since: Option<Instant>,
}

impl Shared {
    pub(super) fn new(events: Events) -> Self {
        let facts = Facts {
            status: Status { dns: Some(no_dns()), ..Status::new(ConnectionState::Disconnected) },
            traffic: Arc::new(Traffic::default()),
            quality: None,
            mtu: None,
            since: None,
        };
        Self { events, facts: Mutex::new(facts) }
    }

    pub(super) fn status(&self) -> Status {
        self.facts().status.clone()
    }

    pub(super) fn quality(&self) -> Option<QualityReport> {
        self.facts().quality.clone()
    }

    pub(super) fn mtu_info(&self) -> Option<MtuInfo> {
        // The kernel is asked without the lock.
        let facts = self.facts().mtu.clone();
        facts.map(|facts| facts.info())
    }

    pub(super) fn statistics(&self) -> Statistics {
        let facts = self.facts();
        let uptime = facts.since.map_or(0, |since| clock::now().saturating_duration_since(since).as_secs());
        Statistics::new(&facts.traffic.snapshot(), uptime, facts.quality.clone())
    }

    /// Counts anew, for a new `connect()`.
    pub(super) fn begin(&self) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::default());
        let mut facts = self.facts();
        facts.traffic = Arc::clone(&traffic);
        facts.since = None;
        traffic
    }

    /// Publishes a state; the addresses stay while a tunnel is up or coming back.
    pub(super) fn set_state(&self, state: ConnectionState) {
        self.update(|facts| {
            facts.status.state = state;
            if matches!(state, ConnectionState::Disconnected) {
                facts.status = Status { dns: Some(no_dns()), ..Status::new(state) };
            }
            if !matches!(state, ConnectionState::Connected) {
                facts.quality = None;
                facts.status.connected_since = None;
            }
            if !matches!(state, ConnectionState::Connected | ConnectionState::Reconnecting) {
                facts.mtu = None;
            }
        });
    }

    /// Publishes that packets flow.
    pub(super) fn set_connected(&self, mut status: Status, mtu: MtuFacts) {
        self.update(|facts| {
            status.connected_since = Some(timestamp());
            facts.status = status;
            facts.mtu = Some(mtu);
            facts.since.get_or_insert_with(clock::now);
        });
    }

    /// Publishes that the tunnel goes on by another connection, without a break.
    pub(super) fn set_switched(&self, server: String, mtu: MtuFacts) {
        self.update(|facts| {
            facts.status.server_addr = Some(server);
            facts.mtu = Some(mtu);
        });
    }

    /// Publishes the failure that ended the tunnel.
    pub(super) fn set_failed(&self, error: &VpnError) {
        self.update(|facts| {
            facts.status = Status {
                last_error: Some(error.message.clone()),
                last_error_code: Some(error.code),
                dns: Some(no_dns()),
                ..Status::new(ConnectionState::Error)
            };
            facts.quality = None;
            facts.mtu = None;
        });
    }

    /// Publishes that the connection is being made anew, and why.
    pub(super) fn set_reconnecting(&self, error: &VpnError) {
        self.update(|facts| {
            facts.status.state = ConnectionState::Reconnecting;
            facts.status.last_error = Some(error.message.clone());
            facts.status.last_error_code = Some(error.code);
            facts.status.connected_since = None;
            facts.quality = None;
        });
    }

    /// A keepalive made its round trip.
    pub(super) fn round_trip(&self, quality: &Quality) {
        let report = QualityReport::from(quality);
        self.facts().quality = Some(report.clone());
        self.events.emit(Event::Quality(report));
    }

    /// A keepalive was not answered in time. Before the first answer there is nothing to tell of the link.
    pub(super) fn timed_out(&self, quality: &Quality) {
        if let Some(known) = &mut self.facts().quality {
            *known = QualityReport::from(quality);
        }
    }

    fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        let before = facts.status.clone();
        change(&mut facts);
        let after = facts.status.clone();
        drop(facts);
        if before != after {
            self.events.emit(Event::Status(after));
        }
    }

    /// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's resolvers are left alone.
const fn no_dns() -> Dns {
    Dns { servers: Vec::new(), by: DnsMethod::None }
}
