//! Keys, the Noise handshake, traffic keys and sealed frames (PROTOCOL §§3–5).
//!
//! Randomness is an argument everywhere. Keys have a type per role, are erased when dropped and
//! never printed.

pub mod keys;
pub mod noise;
pub mod seal;
pub mod ticket;
pub mod traffic;

#[cfg(target_arch = "x86_64")]
mod wide;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_wide.rs"]
mod wide;
mod x25519;
