//! The methods of the public API by name: JSON in, JSON out (API §7).
//!
//! The addon and the daemon both speak through [`Endpoint`], so that no method is written twice.

mod dispatch;
mod params;

pub use dispatch::{Endpoint, Mode, generate_keypair};
pub use params::{ParseModeError, error_body, validate};
