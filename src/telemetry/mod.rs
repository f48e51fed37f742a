//! Counters and estimates that users see: what passed, what was dropped and why, and how good the
//! link is.
//!
//! Everything here counts tunnelled IP packets, not frames; a super-packet counts as the segments
//! it stands for (API §2).

pub mod drops;
pub mod quality;
mod size;
pub mod traffic;

pub use drops::{DropReason, Drops, DropsSnapshot, Priority};
pub use quality::{LinkHealth, Quality};
pub use size::Size;
pub use traffic::{Traffic, TrafficSnapshot};
