//! What users configure: one validation for Node, daemon and files (API §§2–4).
//!
//! A configuration is JSON; `parse` turns it into typed fields once, and nothing behind it checks
//! again. Every refusal names the field's path (`routes[2]`) and what it must be; a private key or a
//! proxy's password never appears in one, nor in what `Debug` prints.

pub mod defaults;

mod client;
pub mod clients;
mod field;
mod file;
mod invite;
mod proxy;
mod secrecy;
mod server;
mod tls;
mod values;

pub use client::{ClientConfig, Reconnect};
pub(crate) use file::{already_there, replace as replace_file};
pub use file::{load_from_file, save_to_file, save_to_new_file};
pub use invite::{Invite, InviteError};
pub use proxy::ProxyChoice;
pub use server::{ServerConfig, TlsPem};
pub use values::{PemSource, StateDir};
