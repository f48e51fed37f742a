//! Counters and estimates that users see: what passed, what was dropped and why.
//!
//! Everything here counts tunnelled IP packets, not frames; a super-packet counts as the segments
//! it stands for (API §2).

pub mod drops;
pub mod traffic;

pub use drops::{DropCount, DropReason, Drops, DropsSnapshot, Priority};
pub use traffic::{Traffic, TrafficSnapshot};
