//! What a connection is promised on its way to a session.

use std::sync::Arc;

use super::hub::{Hub, Members, unix_now};
use crate::codec::secret::Ticket;
use crate::crypto::keys::PublicKey;
use crate::engine::clock;
use crate::session::registry::{Candidate, InviteId, Verdict};
use crate::session::roster::Offer;

/// By what right a client comes in.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Nobody's list has it: anyone may come in, or the program has said yes.
    Anyone,
    /// Its key is registered.
    Registered(PublicKey),
    /// It holds an invite, and is to be registered with this id and label.
    Invited { invite: InviteId, key: PublicKey, id: String, name: Option<String> },
}

impl Standing {
    /// Whether it still has that right, now that it has confirmed its keys; one that was invited is registered. True as
    /// well if so.
    pub(super) fn confirm(&self, members: &mut Members) -> Option<bool> {
        let unix = unix_now();
        match self {
            Self::Anyone => Some(false),
            Self::Registered(key) => {
                let verdict = members.registry.judge(unix, Candidate { key: Some(key), token: None });
                matches!(verdict, Verdict::Known(_)).then_some(false)
            }
            Self::Invited { invite, key, id, name } => {
                members.registry.enrol(unix, invite, *key, id, name.as_deref()).then_some(true)
            }
        }
    }
}

/// An offer of the roster's; withdrawn when dropped.
pub(super) struct Reservation {
    hub: Arc<Hub>,
    /// There until it is confirmed.
    offer: Option<Offer>,
    standing: Standing,
    /// The label that the operator has given the client.
    name: Option<String>,
}

impl Reservation {
    pub(super) fn new(hub: &Arc<Hub>, offer: Offer, standing: Standing, name: Option<String>) -> Self {
        Self { hub: Arc::clone(hub), offer: Some(offer), standing, name }
    }

    /// What is promised; none once it is taken.
    pub(super) const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// By what right.
    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The label that the operator has given the client.
    pub(super) fn name(&self) -> Option<String> {
        self.name.clone()
    }

    /// A ticket for the session, and its lifetime in seconds. With `hybrid` it takes another ML-KEM key to use it.
    pub(super) fn ticket(&mut self, hybrid: bool) -> Option<(Ticket, u32)> {
        let offer = self.offer.as_mut()?;
        self.hub.members().roster.ticket(unix_now(), offer, hybrid, &mut rand::rng())
    }

    /// The offer, to be confirmed.
    pub(super) const fn take_offer(&mut self) -> Option<Offer> {
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
