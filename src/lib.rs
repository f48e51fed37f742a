//! smartvpn: a whole VPN inside a process.
//!
//! The modules are listed from the top tier down; a file imports only from tiers below its own
//! (`scripts/check-layers.mjs` enforces it, `docs/architecture.md` explains it).

// Faces: conversion only.
#[cfg(feature = "addon")]
mod addon;
pub mod management;

// Product: what a VPN client and a VPN server do.
pub mod client;
pub mod server;

pub mod config;
pub mod report;

// Engine: drives one session over one connection, and packets between TUN and sessions.
pub mod engine;

// The outside world: every socket, file descriptor, process and `unsafe`.
pub mod control;
pub mod network;
pub mod transport;
pub mod tunnel;

// Session: the connection's state machines, without I/O.
pub mod session;

// Parts: pure values and functions.
pub mod addr;
pub mod codec;
pub mod crypto;
pub mod error;
pub mod packet;
pub mod qos;
pub mod telemetry;
