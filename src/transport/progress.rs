//! What a dial tells of itself while it is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How far a dial has come, for whoever waits for it and may begin another beside it. Clones are of the same
/// dial.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicBool>);

impl Progress {
    /// Whether there has been a TCP connection, to the server or to its proxy.
    pub fn is_connected(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set_connected(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
