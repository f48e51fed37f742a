//! IP packets as they pass through the tunnel: checked once, then read without doubt
//! (PROTOCOL §6). Only headers are read, never what they carry.

pub mod classify;
pub mod ingress;
pub mod ip;

pub use classify::{Classified, FlowTuple, Fragment, classify};
pub use ingress::Ingress;
pub use ip::{IpPacket, Malformed};
