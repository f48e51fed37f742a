//! Who gets an address, and when it is free again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::addr::{AddressLease, AddressPool};
use crate::codec::hello::RejectCode;
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
    pub(super) fn reserve(&mut self, now: Instant, source: IpAddr) -> Result<AddressLease, RejectCode> {
        if self.pool.free_count() == 0 {
            return Err(RejectCode::PoolExhausted);
        }
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

    /// The client that `source` had an address reserved for is there.
    pub(super) fn confirm(&mut self, source: IpAddr) {
        self.end_reservation(source);
        self.confirmed += 1;
    }

    /// A connection from `source` has ended: its addresses rest, then are free.
    pub(super) fn release(&mut self, now: Instant, source: IpAddr, lease: &AddressLease, confirmed: bool) {
        if confirmed {
            self.confirmed = self.confirmed.saturating_sub(1);
        } else {
            self.end_reservation(source);
        }
        self.pool.release(lease.addresses(), now);
    }

    /// A reservation for `source` has become a session, or has ended without one.
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::{Admission, RESERVED_PER_SOURCE};
    use crate::addr::{AddressPool, Subnet};
    use crate::codec::hello::RejectCode;
    use crate::engine::clock;
    use crate::session::ReplayCache;

    fn admission(net: &str, max_clients: u64) -> Admission {
        let pool = AddressPool::new(Subnet::new(net.parse().unwrap()).unwrap(), None);
        Admission::new(pool, max_clients, ReplayCache::new(Duration::from_secs(10)))
    }

    fn source(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    #[test]
    fn one_source_is_promised_eight_addresses_at_most() {
        let (mut admission, now) = (admission("10.8.0.0/16", u64::MAX), clock::now());
        for _ in 0..RESERVED_PER_SOURCE {
            let _lease = admission.reserve(now, source(1)).unwrap();
        }
        assert_eq!(admission.reserve(now, source(1)), Err(RejectCode::ServerFull));
        let _lease = admission.reserve(now, source(2)).unwrap();
        admission.end_reservation(source(1));
        let _lease = admission.reserve(now, source(1)).unwrap();
    }

    #[test]
    fn promises_to_all_sources_leave_most_of_the_pool() {
        // 253 addresses for clients: as promises are made, the free rest and its quarter shrink.
        let (mut admission, now) = (admission("10.8.0.0/24", u64::MAX), clock::now());
        let promised = (1..=100).map(|number| admission.reserve(now, source(number)));
        let promised = promised.take_while(Result::is_ok).count();
        assert!((45..=64).contains(&promised), "{promised} promised of 253");
    }

    #[test]
    fn a_small_pool_is_promised_whole_and_then_exhausted() {
        let (mut admission, now) = (admission("10.8.0.0/29", u64::MAX), clock::now());
        for number in 1..=5 {
            let _lease = admission.reserve(now, source(number)).unwrap();
        }
        assert_eq!(admission.reserve(now, source(6)), Err(RejectCode::PoolExhausted));
    }

    #[test]
    fn max_clients_counts_promises_and_sessions() {
        let (mut admission, now) = (admission("10.8.0.0/24", 2), clock::now());
        let _lease = admission.reserve(now, source(1)).unwrap();
        admission.confirm(source(1));
        let _lease = admission.reserve(now, source(2)).unwrap();
        assert_eq!(admission.reserve(now, source(3)), Err(RejectCode::ServerFull));
    }
}
