//! Who gets an address, and when it is free again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::hub::Hub;
use crate::addr::{AddressLease, AddressPool};
use crate::codec::hello::RejectCode;
use crate::engine::clock;
use crate::session::replay::ReplayCache;

/// Unconfirmed addresses that one source may hold (PROTOCOL §3).
const RESERVED_PER_SOURCE: u64 = 8;

/// Unconfirmed addresses that all sources together may always hold (PROTOCOL §3).
const RESERVED_AT_LEAST: u64 = 8;

/// The pool and the promises made from it.
pub(super) struct Admission {
    pool: AddressPool,
    pub(super) replay: ReplayCache,
    /// Unconfirmed connections by where they come from.
    reserved: HashMap<IpAddr, u64>,
    reserved_total: u64,
    confirmed: u64,
    max_clients: u64,
}

impl Admission {
    pub(super) fn new(pool: AddressPool, max_clients: u64, replay: ReplayCache) -> Self {
        Self { pool, replay, reserved: HashMap::new(), reserved_total: 0, confirmed: 0, max_clients }
    }

    /// Reserves addresses for a connection from `source`, until it is confirmed or ends.
    fn reserve(&mut self, now: Instant, source: IpAddr) -> Result<AddressLease, RejectCode> {
        if self.confirmed + self.reserved_total >= self.max_clients {
            return Err(RejectCode::ServerFull);
        }
        let here = self.reserved.get(&source).copied().unwrap_or(0);
        // Anyone can replay first messages: what is only promised must not exhaust the pool.
        let all = RESERVED_AT_LEAST.max(self.pool.free_count() / 4);
        if here >= RESERVED_PER_SOURCE || self.reserved_total >= all {
            return Err(RejectCode::ServerFull);
        }
        let lease = self.pool.allocate(now).ok_or(RejectCode::PoolExhausted)?;
        *self.reserved.entry(source).or_default() += 1;
        self.reserved_total += 1;
        Ok(lease)
    }

    fn end_reservation(&mut self, source: IpAddr) {
        self.reserved_total = self.reserved_total.saturating_sub(1);
        if let Some(count) = self.reserved.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.reserved.remove(&source);
            }
        }
    }
}

/// Addresses held for one connection; given back when dropped.
pub(super) struct Reservation {
    hub: Arc<Hub>,
    pub(super) lease: AddressLease,
    source: IpAddr,
    confirmed: bool,
}

impl Reservation {
    /// Takes addresses for a connection from `source`.
    pub(super) fn take(hub: &Arc<Hub>, source: IpAddr) -> Result<Self, RejectCode> {
        if hub.is_closing() {
            return Err(RejectCode::ShuttingDown);
        }
        let lease = hub.admission().reserve(clock::now(), source)?;
        Ok(Self { hub: Arc::clone(hub), lease, source, confirmed: false })
    }

    /// The client proved that it is there: the addresses are its own until the session ends.
    pub(super) fn confirm(&mut self) {
        if !self.confirmed {
            self.confirmed = true;
            let mut admission = self.hub.admission();
            admission.end_reservation(self.source);
            admission.confirmed += 1;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut admission = self.hub.admission();
        if self.confirmed {
            admission.confirmed = admission.confirmed.saturating_sub(1);
        } else {
            admission.end_reservation(self.source);
        }
        admission.pool.release(self.lease.addresses(), clock::now());
    }
}
