//! Keys, the Noise handshake, ML-KEM, traffic keys and sealed frames (PROTOCOL §§3–5).
//!
//! Randomness is an argument everywhere but in [`kem`]. Keys have a type per role, are erased when dropped and
//! never printed.

pub mod kem;
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
