//! Fresh keys within a session (PROTOCOL §5).
//!
//! ```text
//! client                                                  server
//!  wanted ─ handle_timeout(): message 1 made
//!     │ ─────────── RekeyInit, under the old keys ──────────► handle_message(): message 1 opened, hello judged
//!     │                                                        │ handle_timeout(): message 2 made, keys derived
//!     │ ◄────────── RekeyResp, the last under the old key ──── │ seals under the new key, opens under either
//!  handle_message(): switches both directions                  │
//!     │ ─────────── Keepalive, counter 0 ───────────────────► the old key is erased
//! ```
//!
//! Packets flow all the while. What takes randomness is left to `handle_timeout()`, which has it, and is due at
//! once. The handshake is bound to the keys that it takes the place of: their handshake hash is in its prologue. It has
//! the session's pattern, and the same static keys.

use std::fmt;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::codec::close::CloseCode;
use crate::codec::hello::HelloError;
use crate::crypto::kem::{KemError, SharedSecret};
use crate::crypto::noise::NoiseError;
use crate::crypto::seal::{Opener, PREFIX_LEN, Sealer};
use crate::crypto::traffic::{Handshake, TrafficKeys};
use crate::error::ErrorCode;
use crate::session::error::SessionError;

mod client;
mod server;

pub(super) use client::ClientRekey;
pub(super) use server::ServerRekey;

/// The handshake timeout of PROTOCOL §3, which a rekey has as well: at the client from RekeyInit to RekeyResp, at the
/// server from there to the client's switch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Rekeys that a server goes along with in [`WINDOW`] (PROTOCOL §5): each costs it some 200 µs, and a client
/// needs one in an hour, or in 64 GiB.
const MAX_REKEYS: usize = 10;

/// The time in which [`MAX_REKEYS`] are counted (PROTOCOL §5).
const WINDOW: Duration = Duration::from_secs(10);

/// From one RekeyInit to the next at least, so that [`MAX_REKEYS`] are not reached whatever delays them on their way.
const MIN_INTERVAL: Duration = Duration::from_millis(1_250);

/// What a handshake leaves to one end.
#[derive(Debug)]
pub(super) struct FreshKeys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) basis: Basis,
}

/// What a rekey must know of the keys in force.
#[derive(Clone, Copy)]
pub(super) struct Basis {
    /// The hash of the handshake that made them, which is not secret.
    pub(super) hash: [u8; 32],
    /// ML-KEM protects them: it must protect what takes their place (PROTOCOL §4).
    pub(super) is_hybrid: bool,
}

impl FreshKeys {
    /// The client's, which seals its frames under this prefix.
    pub(super) fn of_client(
        handshake: &Handshake,
        secret: Option<&SharedSecret>,
        prefix: [u8; PREFIX_LEN],
    ) -> Self {
        Self::new(handshake, secret, |keys| {
            (Sealer::new(&keys.client_to_server, prefix), Opener::new(&keys.server_to_client))
        })
    }

    /// The server's.
    pub(super) fn of_server(
        handshake: &Handshake,
        secret: Option<&SharedSecret>,
        prefix: [u8; PREFIX_LEN],
    ) -> Self {
        Self::new(handshake, secret, |keys| {
            (Sealer::new(&keys.server_to_client, prefix), Opener::new(&keys.client_to_server))
        })
    }

    fn new(
        handshake: &Handshake,
        secret: Option<&SharedSecret>,
        ends: impl FnOnce(&TrafficKeys) -> (Sealer, Opener),
    ) -> Self {
        let (sealer, opener) = ends(&TrafficKeys::derive(handshake, SharedSecret::bytes_of(secret)));
        Self { sealer, opener, basis: Basis { hash: handshake.hash, is_hybrid: secret.is_some() } }
    }
}

impl fmt::Debug for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basis").field("is_hybrid", &self.is_hybrid).finish_non_exhaustive()
    }
}

/// One end's part; there where `rekey` is in force.
#[derive(Debug)]
pub(super) enum Rekey {
    Client(ClientRekey),
    Server(ServerRekey),
}

/// A frame to be sealed under the keys in force.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// The plaintext of RekeyInit.
    Init(Vec<u8>),
    /// The plaintext of RekeyResp, and the keys behind it.
    Resp { message2: Vec<u8>, sealer: Sealer, opener: Opener },
}

impl Rekey {
    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Client(client) => client.poll_timeout(),
            Self::Server(server) => server.poll_timeout(),
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    ///
    /// The session ends.
    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Result<(), RekeyError> {
        match self {
            Self::Client(client) => client.handle_timeout(now, rng),
            Self::Server(server) => server.handle_timeout(now, rng),
        }
    }

    /// The frame that waits, to be sealed `now`.
    pub(super) fn take_frame(&mut self, now: Instant) -> Option<Outgoing> {
        match self {
            Self::Client(client) => client.take_init(now).map(Outgoing::Init),
            Self::Server(server) => server.take_resp(now),
        }
    }
}

/// A rekey did not come about, which ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RekeyError {
    /// The client asks with another pattern or key than the session's.
    #[error("new keys were asked for with another pattern or client key than the session's")]
    OtherClient,
    /// The client's hello is not what PROTOCOL §5 says.
    #[error("the hello of a rekey is not usable: {0}")]
    Hello(HelloError),
    /// The client's ML-KEM key is none, or ML-KEM failed.
    #[error(transparent)]
    Kem(KemError),
    /// The server says no.
    #[error("the server refuses new keys")]
    Refused,
    /// The client wants new keys again and again.
    #[error("more than {MAX_REKEYS} rekeys in {} s", WINDOW.as_secs())]
    TooMany,
    /// The peer did not go on in time.
    #[error("the peer did not complete a rekey in time")]
    Overdue,
    /// A message of the handshake could not be made.
    #[error(transparent)]
    Handshake(NoiseError),
}

impl RekeyError {
    /// How the connection is closed (PROTOCOL §§5, 9).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::OtherClient | Self::Hello(_) | Self::Refused | Self::TooMany | Self::Overdue => {
                CloseCode::PolicyViolation
            }
            Self::Kem(KemError::Unusable) => CloseCode::PolicyViolation,
            Self::Kem(KemError::Internal) => CloseCode::InternalError,
            Self::Handshake(error) => error.close_code(),
        }
    }

    /// What the user is told.
    pub const fn error_code(self) -> ErrorCode {
        match self {
            Self::Kem(KemError::Internal) | Self::Handshake(_) => ErrorCode::Internal,
            _ => ErrorCode::ProtocolError,
        }
    }
}

/// How a message that came is judged.
type Judged<T> = Result<T, SessionError>;

#[cfg(test)]
mod tests;
