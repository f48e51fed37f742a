//! IP packets as they pass through the tunnel: checked once, then read without doubt
//! (PROTOCOL §6). Only headers are read, never what they carry.

mod candidate;
mod checksum;
pub mod classify;
mod coalesce;
mod egress;
mod fragment;
mod header;
pub mod icmp;
pub mod ingress;
pub mod ip;
mod mss;
mod offload;
mod segment;
pub(crate) mod unreachable;
mod upper;

pub use classify::{Classified, FlowTuple, Fragment, classify, count_drop};
pub use coalesce::Coalescer;
pub use egress::{Egress, Intake, quoted};
pub use icmp::{Answers, Router};
pub use ingress::Ingress;
pub use ip::{IpPacket, Malformed};
pub use mss::{clamp_mss, clamp_record};
pub use offload::{MAX_SEGMENTS, OFFLOAD_LEN, Offload, Record};
pub use segment::{Split, complete_checksum, segment, split_front};
pub use unreachable::{UNREACHABLE_MAX, Unreachable};
