//! What a first message must be told: whether its client comes in, in which session, with which address.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use smartvpn::codec::hello::RejectCode;
use smartvpn::crypto::keys::PublicKey;
use smartvpn::session::roster::Origin;

use super::{Model, Written};
use crate::book::Person;

/// PROTOCOL §3, once more.
const PER_SOURCE: usize = 8;
const PROMISED: usize = 8;

/// What a first message must be offered.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    /// The session; a new one's id is any.
    pub(crate) id: Option<String>,
    /// Its address, where it cannot be any.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) origin: Origin,
    pub(super) is_known: bool,
    /// It comes with a ticket that only the session's own device has.
    pub(crate) roams: bool,
}

impl Model {
    /// One more promise to a client from `source`.
    fn room(&self, source: IpAddr) -> Result<(), RejectCode> {
        let counted = || self.promises.values().filter(|promise| promise.holds());
        let here = counted().filter(|promise| promise.source == source).count();
        let full = here >= PER_SOURCE || counted().count() >= PROMISED.max(self.free() / 4);
        if full { Err(RejectCode::ServerFull) } else { Ok(()) }
    }

    /// What a client that comes new must be told.
    pub(crate) fn judge_new(
        &self,
        now: Instant,
        source: IpAddr,
        key: Option<PublicKey>,
    ) -> Result<Due, RejectCode> {
        let person = self.book.admit(key).ok_or(RejectCode::Unauthorized)?;
        let id = self.choose(&person);
        let due = Due { id, address: None, origin: Origin::New, is_known: key.is_some(), roams: false };
        let kept = due.id.as_ref().and_then(|id| self.kept.get(id)).copied();
        let known = due.id.as_ref().and_then(|id| self.sessions.get(id));
        if let Some(known) = known {
            if known.is_contended(now) {
                return Err(RejectCode::ServerFull);
            }
            if kept.is_none_or(|kept| kept == known.address) {
                return Ok(Due { address: Some(known.address), origin: Origin::Successor, ..due });
            }
        }
        let promised = due.id.as_ref().and_then(|id| self.promised(id));
        if kept.is_none() && promised.is_none() && self.free() == 0 {
            return Err(RejectCode::PoolExhausted);
        }
        self.room(source)?;
        if promised.is_some() && kept.is_some() && promised != kept {
            return Err(RejectCode::ServerFull);
        }
        let home = due.id.as_ref().and_then(|id| self.homes.get(id)).copied();
        let home = home.filter(|home| !self.is_held(*home));
        Ok(Due { address: promised.or(kept).or(home), ..due })
    }

    /// Which of its sessions a known client gets: the one that has waited longest for it, one that it does not have
    /// yet, or the place of the one that came first.
    fn choose(&self, person: &Person) -> Option<String> {
        let ids = person.session_ids();
        let session = |id: &&String| self.sessions.get(*id);
        let away = ids.iter().filter(|id| session(id).is_some_and(|known| known.until.is_some()));
        let away = away.min_by_key(|id| session(id).and_then(|known| known.until));
        let free = || ids.iter().find(|id| session(id).is_none() && self.promised(id).is_none());
        let coming = || ids.iter().find(|id| session(id).is_none());
        let first = || ids.iter().min_by_key(|id| session(id).map(|known| known.number));
        away.or_else(free).or_else(coming).or_else(first).cloned()
    }

    /// What a client that comes back with this ticket must be told; `said` is what it was.
    pub(crate) fn judge_resume(
        &self,
        (now, unix): (Instant, u64),
        source: IpAddr,
        (ticket, key): (&[u8], Option<PublicKey>),
        said: Option<&RejectCode>,
    ) -> Result<Due, RejectCode> {
        let Some(written) = self.tickets.get(ticket) else { return Err(RejectCode::TicketInvalid) };
        let Written { id, address, expires_at, full_handshake_at, .. } = written;
        if !self.book.lets_resume(key, id) {
            return Err(RejectCode::Unauthorized);
        }
        let is_expired = unix >= *expires_at || unix >= full_handshake_at + self.ticket_max_age;
        let said_void = said == Some(&RejectCode::Unauthorized);
        if self.kicked.get(id).is_some_and(|kick| kick.voids(written).unwrap_or(said_void)) {
            // That it is void need not be remembered for longer than it lives.
            return Err(if is_expired && said == Some(&RejectCode::TicketExpired) {
                RejectCode::TicketExpired
            } else {
                RejectCode::Unauthorized
            });
        }
        if is_expired {
            return Err(RejectCode::TicketExpired);
        }
        assert_eq!(written.key, key, "a ticket in strange hands");
        let is_known = key.is_some();
        let due = Due {
            id: Some(id.clone()),
            address: Some(*address),
            origin: Origin::Session,
            is_known,
            roams: false,
        };
        if let Some(known) = self.sessions.get(id) {
            if known.address != *address {
                assert!(is_known, "a session's address never changes");
                return Err(RejectCode::TicketInvalid);
            }
            let roams = known.tickets.iter().any(|it| it == ticket);
            if known.is_contended(now) && !roams {
                return Err(RejectCode::ServerFull);
            }
            return Ok(Due { roams, ..due });
        }
        self.room(source)?;
        let own = self.promised(id).or_else(|| self.kept.get(id).copied());
        let is_free = own.map_or_else(|| !self.is_held(*address), |own| own == *address);
        if is_free { Ok(Due { origin: Origin::Ticket, ..due }) } else { Err(RejectCode::TicketInvalid) }
    }

    /// Whether a client with this key is refused because of another device.
    pub(crate) fn is_damped(&self, now: Instant, key: Option<PublicKey>) -> bool {
        let person = self.book.admit(key);
        let ids = person.map(|person| person.session_ids()).unwrap_or_default();
        ids.iter().filter_map(|id| self.sessions.get(id)).any(|known| known.is_contended(now))
    }
}
