//! What a connection's packets tell whoever watches over the connection.

use std::sync::atomic::AtomicBool;

/// What a connection's port tells of it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The server has answered a keepalive: it has confirmed us.
    pub(super) confirmed: AtomicBool,
    /// The keys have nine tenths of their service behind them; until somebody has taken note.
    pub(super) keys_aging: AtomicBool,
}
