//! What users configure: one validation for Node, daemon and files (API §§2–4).
//!
//! A configuration is JSON; `parse` turns it into typed fields once, and nothing behind it checks
//! again. Every refusal names the field's path (`routes[2]`) and what it must be.

pub mod client;
pub mod server;
pub mod values;

pub use client::{ClientConfig, Reconnect};
pub use server::{ServerConfig, ServerTls};
pub use values::{CongestionControl, ListenAddr, PemSource, StateDir};
