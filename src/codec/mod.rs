//! Wire formats: frames, hellos, Disconnect, close codes (PROTOCOL §§2, 3, 9).
//!
//! Pure functions over byte slices. What comes from the peer is parsed into types that cannot hold
//! anything the protocol does not allow, so nothing behind this module checks it again.

pub mod bundle;
pub mod claims;
pub mod close;
pub mod disconnect;
pub mod frame;
pub mod hello;
pub mod rekey_hello;
pub mod secret;

mod features;
mod json;
mod reject;
mod server_hello;

pub use self::json::JsonError;
