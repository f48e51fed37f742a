//! The TUN device: where the host's IP packets enter and leave the process.
//!
//! The device exists as long as its [`Tun`] does. It is not persistent and its descriptor is closed
//! on `exec`, so a killed process leaves neither interface nor any route through it.

mod device;
mod error;
mod name;
mod writer;

pub use device::{Offloads, READ_ROOM, Received, Tun, TunConfig};
pub use error::TunError;
pub use name::is_valid_name;
pub use writer::TunWriter;
