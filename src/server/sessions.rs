//! What becomes of sessions: how they begin, go on by other connections, wait for their clients, and end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::hub::{Hub, Members, unix_now};
use super::peer::{Identity, Peer, Present};
use super::port::tell_unreachable;
use super::reservation::Reservation;
use super::rules::rate_limit;
use crate::addr::Addresses;
use crate::codec::disconnect::DisconnectCode;
use crate::engine::clock;
use crate::network::delete_conntrack;
use crate::qos::RateLimit;
use crate::report::{DisconnectReason, Event};
use crate::session::roster::{Confirmed, ConnectionId, Lost};
use crate::telemetry::DropReason;
use crate::tunnel::Tun;

/// How often packets that wait for clients that are away are looked at: a fraction of what they may wait.
const AGING: Duration = Duration::from_millis(500);

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

impl Hub {
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
        // Its client is told to go just now.
        let condemned = self.find(&offer.client_id).is_some_and(|peer| peer.verdict().is_some());
        let standing = reservation.standing().confirm(&mut members).filter(|_| !condemned);
        let Some(is_enrolled) = standing else {
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
