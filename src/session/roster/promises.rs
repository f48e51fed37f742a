//! Addresses that unconfirmed connections hold, and how many they may (PROTOCOL §3).

use std::collections::HashMap;
use std::net::IpAddr;

use super::offer::{Offer, Origin};
use crate::addr::Addresses;
use crate::codec::hello::RejectCode;

/// Unconfirmed addresses that one source may hold (PROTOCOL §3).
const PER_SOURCE: u64 = 8;

/// Unconfirmed addresses that all sources together may always hold (PROTOCOL §3).
const AT_LEAST: u64 = 8;

/// What unconfirmed connections of one client hold.
#[derive(Debug)]
struct Promise {
    addresses: Addresses,
    /// The number of the first of its offers.
    since: u64,
    offers: u32,
}

/// What all unconfirmed connections hold.
#[derive(Debug, Default)]
pub(super) struct Promises {
    by_client: HashMap<String, Promise>,
    by_source: HashMap<IpAddr, u64>,
}

impl Promises {
    /// Whether one more address may be promised to a client from `source`, with so many that are free.
    pub(super) fn check_room(&self, source: IpAddr, free: u64) -> Result<(), RejectCode> {
        let here = self.by_source.get(&source).copied().unwrap_or(0);
        // Anyone can replay first messages: what is only promised must not exhaust the pool.
        let all = AT_LEAST.max(free / 4);
        if here >= PER_SOURCE || self.count() >= all { Err(RejectCode::ServerFull) } else { Ok(()) }
    }

    /// Promises made and neither kept nor withdrawn.
    pub(super) fn count(&self) -> u64 {
        self.by_source.values().sum()
    }

    /// What is promised to a client.
    pub(super) fn of(&self, client_id: &str) -> Option<Addresses> {
        self.by_client.get(client_id).map(|promise| promise.addresses)
    }

    /// Counts an offer whose addresses are promised.
    pub(super) fn begin(&mut self, offer: &Offer) {
        *self.by_source.entry(offer.source).or_default() += 1;
        let promise = Promise { addresses: offer.addresses, since: offer.number, offers: 0 };
        self.by_client.entry(offer.client_id.clone()).or_insert(promise).offers += 1;
    }

    /// One offer less; none if there is no such promise any more.
    pub(super) fn end(&mut self, offer: &Offer) -> Option<()> {
        if !matches!(offer.origin, Origin::New | Origin::Ticket) {
            return None;
        }
        if let Some(count) = self.by_source.get_mut(&offer.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&offer.source);
            }
        }
        let promise =
            self.by_client.get_mut(&offer.client_id).filter(|promise| promise.since <= offer.number)?;
        promise.offers -= 1;
        if promise.offers == 0 {
            self.by_client.remove(&offer.client_id);
        }
        Some(())
    }

    /// Takes back what is promised to a client, all of it.
    pub(super) fn take(&mut self, client_id: &str) -> Option<Addresses> {
        self.by_client.remove(client_id).map(|promise| promise.addresses)
    }
}
