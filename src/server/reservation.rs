//! Addresses on their way to a client.

use std::net::IpAddr;
use std::sync::Arc;

use super::hub::Hub;
use crate::addr::AddressLease;
use crate::codec::hello::RejectCode;
use crate::engine::clock;

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
            self.hub.admission().confirm(self.source);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.hub.admission().release(clock::now(), self.source, &self.lease, self.confirmed);
    }
}
