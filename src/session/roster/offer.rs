//! What a roster is asked, what it offers, and what it says of sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[cfg(doc)]
use super::Roster;
use crate::addr::{Addresses, Subnet};
use crate::codec::secret::Ticket;

/// What a roster is made for.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The clients' IPv4 addresses.
    pub subnet: Subnet<Ipv4Addr>,
    /// Their IPv6 addresses, if the tunnel has any.
    pub subnet6: Option<Subnet<Ipv6Addr>>,
    /// Clients at a time, those that are away included.
    pub max_clients: u64,
    /// How long a session outlives its connection.
    pub grace: Duration,
    /// How long after a full handshake tickets are honoured.
    pub ticket_max_age: Duration,
    /// The limit of a client that comes new, in bytes per second, and the burst.
    pub limit: Option<(u64, u64)>,
}

/// A connection's number; the caller gives each its own.
pub type ConnectionId = u64;

/// What a first message asks the roster for.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'t> {
    /// To be let in.
    New,
    /// To go on with a session.
    Resume {
        /// That of this ticket, if there was one.
        ticket: Option<&'t Ticket>,
        /// The first message holds an ML-KEM key, which the session of a hybrid one needs (PROTOCOL §4).
        hybrid: bool,
    },
}

/// Where an [`Offer`]'s client is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere.
    New,
    /// It has a session here.
    Session,
    /// From its ticket alone: another server's client, or one whose session is over.
    Ticket,
}

/// What a connection is promised until it confirms its keys: to be given to [`Roster::confirm`] or to
/// [`Roster::withdraw`], and to nothing else.
#[derive(Debug)]
#[must_use = "an offer that is neither confirmed nor withdrawn holds its addresses for ever"]
pub struct Offer {
    /// The client's id.
    pub client_id: String,
    /// Its addresses.
    pub addresses: Addresses,
    /// Addresses that rested too short: their connection tracking entries must be deleted before they are used.
    pub early: Vec<IpAddr>,
    /// The client's limit.
    pub limit: Option<(u64, u64)>,
    /// Where it is known from.
    pub origin: Origin,
    pub(super) source: IpAddr,
    pub(super) full_handshake_at: u64,
    /// Offers are numbered as their first messages come.
    pub(super) number: u64,
}

/// A session that has begun or goes on.
#[derive(Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The client's id.
    pub client_id: String,
    /// Its session was there already.
    pub resumed: bool,
    /// The connection that the new one takes the place of: it is to be closed.
    pub replaced: Option<ConnectionId>,
}

/// What became of a client whose connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Another connection is its own by now.
    Replaced,
    /// It may come back until the grace is over.
    Away,
    /// Its session is over.
    Ended(Addresses),
}
