//! The connection's state machines, without I/O: time and randomness are arguments, frames are byte
//! slices. One struct per state; a step consumes the state and returns the next.
//!
//! ```text
//! client                                               server
//!
//! start()                                              Listening
//!    │ ──────────── HandshakeInit(Ik): client hello ──────► │ handle_message()
//! AwaitingResponse                                      Request ──── reject() ───► rejection, close
//!    │                                                      │ accept()
//!    │ ◄─────────── HandshakeResp: server hello ─────────── │
//!    │ handle_message()                                 Unconfirmed
//! Session                                                   │
//!    │ ──────────── Keepalive, counter 0 ─────────────────► │ handle_message()
//!    │ ◄─────────── KeepaliveAck ────────────────────────── │
//!    │ ◄═══════════ packets, keepalives ══════════════════► Session
//!    │ ──────────── Disconnect ───────────────────────────► │
//! ```
//!
//! What each state accepts is one table (`states.rs`), checked from a frame's header before its
//! payload is opened. A fault ends the session; [`SessionError::close_code`] tells how the
//! connection is closed. Deadlines of the handshake are the caller's: a state that has not moved on
//! in time is dropped and its connection closed with 1008.
//!
//! Where `rekey` is in force, a session renews its keys by itself (`rekey.rs`).

pub mod client;
pub mod comeback;
pub mod error;
pub mod gate;
pub mod keepalive;
pub mod reconnect;
pub mod registry;
pub mod replay;
pub mod roster;
pub mod server;
pub mod up;

mod control;
mod event;
mod key_life;
mod rekey;
mod silence;
mod states;
mod unanswered;

pub use client::{AwaitingResponse, ClientFailure, ClientParams, Connected, Hybrid};
pub use comeback::{Comeback, Setback};
pub use control::{ControlCounts, MAX_ACKS};
pub use error::SessionError;
pub use event::Event;
pub use key_life::KeyLimits;
pub use reconnect::{Backoff, Pace};
pub use registry::Registry;
pub use rekey::RekeyError;
pub use replay::ReplayCache;
pub use roster::Roster;
pub use server::{AfterRefusal, Listening, Opened, Request, Unconfirmed};
pub use silence::KeepaliveCap;
pub use up::Session;

use rand_core::CryptoRng;

use crate::codec::frame::{FrameType, header};
use crate::codec::hello::Features;
use crate::crypto::seal::PREFIX_LEN;

/// The features that this build can put in force, at either end.
pub const FEATURES: Features = Features { bundle: true, offload: true, rekey: true };

/// The frame around a Noise message, whose length the noise module has checked.
fn handshake_frame(kind: FrameType, message: &[u8]) -> Vec<u8> {
    let mut frame = header(kind, message.len()).to_vec();
    frame.extend_from_slice(message);
    frame
}

/// A nonce prefix for a fresh key (PROTOCOL §5).
fn nonce_prefix(rng: &mut dyn CryptoRng) -> [u8; PREFIX_LEN] {
    let mut prefix = [0; PREFIX_LEN];
    rng.fill_bytes(&mut prefix);
    prefix
}

/// Where simulated time begins.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
fn epoch() -> std::time::Instant {
    std::time::Instant::now()
}
