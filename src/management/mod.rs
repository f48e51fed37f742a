//! The methods of the public API by name: JSON in, JSON out (API §7), and the daemon that serves them
//! to controllers, line by line.
//!
//! The addon and the daemon both speak through [`Endpoint`], so that no method is written twice.
//!
//! # The line protocol
//!
//! A controller sends requests and gets answers and events, one JSON object a line.
//!
//! - A line from a controller may have [`LINE_LIMIT`] bytes. A longer one is answered
//!   `invalid-argument` and ends the connection, as nobody knows where the next one begins. Answers
//!   may be longer: `listClients` lists them all.
//! - `id` is a whole number from 0 to 2^53 - 1 or a text of 1 to 64 characters, and comes back as it
//!   was. A line without one, or with that of a request under way, is answered with `"id":null`; so
//!   is a line that is not UTF-8, not JSON or not an object, and one that the end of the input cuts
//!   short. Blank lines are passed over.
//! - Requests run side by side; answers come in the order in which they are done. At most 64 of one
//!   controller are under way; it is not read from meanwhile, nor while 64 KiB wait for it to read.
//! - 256 events wait for a controller that does not read. It loses the oldest of more, and is told
//!   how many by `lost` before it gets the next.
//! - Once a controller is gone, what it has asked for is still carried out.
//! - A daemon that ends by a failure says so last: the event `exit` has the error's `code` and
//!   `message`.

mod buffer;
mod controller;
mod controllers;
mod daemon;
mod dispatch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod line;
mod message;
mod params;

pub use controller::{Bond, serve};
pub use controllers::Controllers;
pub use daemon::{Daemon, Management};
pub use dispatch::{Endpoint, Mode, generate_keypair};
pub use line::LINE_LIMIT;
pub use params::{ParseModeError, error_body, validate};

/// The version of the line protocol, which the first line to each controller names.
pub const PROTOCOL: u32 = 1;
