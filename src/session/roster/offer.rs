//! What a roster is asked, what it offers, and what it says of sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

#[cfg(doc)]
use super::Roster;
use super::{Client, Presence};
use crate::addr::{Addresses, Subnet};
use crate::codec::secret::Ticket;
use crate::crypto::keys::PublicKey;
use crate::crypto::seal::FULL_NONCE_LEN;

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
    New(Guest<'t>),
    /// To go on with a session.
    Resume {
        /// That of this ticket, if there was one.
        ticket: Option<&'t Ticket>,
        /// The first message holds an ML-KEM key, which the session of a hybrid one needs (PROTOCOL §4).
        hybrid: bool,
        /// The key that the client has proved to hold.
        key: Option<PublicKey>,
    },
}

/// A client that may come in.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'t> {
    /// Who it is: its sessions take each other's place. Without an id it is somebody new each time.
    pub id: Option<&'t str>,
    /// Sessions that it may have side by side; see [`session_id`](crate::session::registry::session_id).
    pub sessions: u32,
    /// The key that it has proved to hold.
    pub key: Option<PublicKey>,
    /// The address that it is to have.
    pub address: Option<Ipv4Addr>,
    /// Its limit, in bytes per second, and the burst; the server's default unless given.
    pub limit: Option<(u64, u64)>,
}

impl Guest<'_> {
    /// Somebody new.
    pub const ANYBODY: Self = Self { id: None, sessions: 1, key: None, address: None, limit: None };
}

/// Where an [`Offer`]'s client is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It comes new, and addresses are promised to it.
    New,
    /// It comes new, and takes over the addresses of its last session.
    Successor,
    /// It has a session here and goes on with it.
    Session,
    /// From its ticket alone: another server's client, or one whose session is over.
    Ticket,
}

/// What tells tickets apart: their nonce.
pub(super) type TicketId = [u8; FULL_NONCE_LEN];

/// That of a ticket.
pub(super) fn ticket_id(ticket: &Ticket) -> Option<TicketId> {
    ticket.expose().get(1..)?.first_chunk().copied()
}

/// What a connection is promised until it confirms its keys: to be given to [`Roster::confirm`] or to
/// [`Roster::withdraw`], and to nothing else.
#[derive(Debug)]
#[must_use = "an offer that is neither confirmed nor withdrawn holds its addresses for ever"]
pub struct Offer {
    /// The id of the session.
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
    pub(super) key: Option<PublicKey>,
    pub(super) identified: bool,
    /// It came with the ticket that was issued last, which nobody but the session's own device has.
    pub(super) roams: bool,
    pub(super) issued: Option<TicketId>,
}

impl Offer {
    /// Whether a session begins with it.
    pub(super) const fn is_fresh(&self) -> bool {
        matches!(self.origin, Origin::New | Origin::Successor)
    }

    pub(super) fn into_client(self, connection: ConnectionId, swapped_at: Option<Instant>) -> Client {
        Client {
            addresses: self.addresses,
            limit: self.limit,
            full_handshake_at: self.full_handshake_at,
            presence: Presence::Online(connection),
            offer: self.number,
            identified: self.identified,
            tickets: self.issued.into_iter().collect(),
            swapped_at,
        }
    }
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
    /// The addresses of the client's last session, which ended by this one.
    pub succeeded: Option<Addresses>,
}

/// Why an address cannot be kept for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// It is none of the subnet's, or the server's own.
    #[error("the address {0} is not a client's address of the server's subnet")]
    Outside(Ipv4Addr),
    /// The session of this id has it.
    #[error("the address {0} is in use by the client {1:?}; disconnect it first")]
    InUse(Ipv4Addr, String),
    /// The tunnel's IPv6 addresses are used up.
    #[error("there is no IPv6 address left to go with {0}")]
    NoIpv6(Ipv4Addr),
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
