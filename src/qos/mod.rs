//! Where packets wait, and what they wait behind.

mod buffers;
pub mod queue;

pub use queue::{Batch, PacketQueue, Producer, PushError};
