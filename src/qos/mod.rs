//! Where packets wait, and what they wait behind.

mod buffers;
mod delay_limit;
pub mod queue;

pub use delay_limit::{DelayLimit, PathSample};
pub use queue::{Batch, PacketQueue, Producer, PushError};
