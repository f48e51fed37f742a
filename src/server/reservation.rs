//! What a connection is promised on its way to a session.

use std::net::IpAddr;
use std::sync::Arc;

use super::hub::{Hub, unix_now};
use crate::codec::hello::RejectCode;
use crate::codec::secret::Ticket;
use crate::engine::clock;
use crate::session::Request;
use crate::session::roster::{Offer, Wish};

/// An offer of the roster's; withdrawn when dropped.
pub(super) struct Reservation {
    hub: Arc<Hub>,
    /// There until it is confirmed.
    offer: Option<Offer>,
}

impl Reservation {
    /// Asks for what the client of a first message from `source` wants.
    pub(super) fn take(hub: &Arc<Hub>, source: IpAddr, request: &Request) -> Result<Self, RejectCode> {
        if hub.is_closing() {
            return Err(RejectCode::ShuttingDown);
        }
        let wish = match request.is_resume() {
            true => Wish::Resume { ticket: request.hello().ticket.as_ref(), hybrid: request.is_hybrid() },
            false => Wish::New,
        };
        let times = (clock::now(), unix_now());
        let offer = hub.members().roster.offer(times, source, wish, &mut rand::rng())?;
        Ok(Self { hub: Arc::clone(hub), offer: Some(offer) })
    }

    /// What is promised; none once it is taken.
    pub(super) const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// A ticket for the session, and its lifetime in seconds. With `hybrid` it takes another ML-KEM key to use it.
    pub(super) fn ticket(&self, hybrid: bool) -> Option<(Ticket, u32)> {
        self.hub.members().roster.ticket(unix_now(), self.offer()?, hybrid, &mut rand::rng())
    }

    /// The offer, to be confirmed.
    pub(super) fn into_offer(mut self) -> Option<Offer> {
        self.offer.take()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(offer) = self.offer.take() {
            self.hub.members().roster.withdraw(clock::now(), offer);
        }
    }
}
