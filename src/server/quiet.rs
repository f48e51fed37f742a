//! When a server that stops may take the translation of addresses away.
//!
//! As soon as it is gone, the host answers what comes for its clients with a reset, and a flow that a client and the
//! server's next process would take up again is dead. Senders that hear nothing are silent for 200 ms and more: the
//! moment is when what was under way has come.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::engine::clock;

/// Nothing has come for so long: what was sent before the clients' last acknowledgements is here, and the probe that
/// senders send after it.
const QUIET: Duration = Duration::from_millis(60);

/// Whoever sends all the same has no acknowledgements to wait for.
const QUIET_PATIENCE: Duration = Duration::from_millis(250);

/// What comes for clients that are told to go.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    since: OnceLock<Instant>,
    /// When packets last came, in milliseconds since then.
    came: AtomicU64,
}

impl Quiet {
    /// The clients are told now.
    pub(super) fn begin(&self, now: Instant) {
        // Whoever stops a server twice has told its clients already.
        let _already = self.since.set(now);
    }

    /// Packets came from outside; without effect before [`begin`](Self::begin).
    pub(super) fn packets_came(&self, now: Instant) {
        if let Some(since) = self.since.get() {
            let millis = now.saturating_duration_since(*since).as_millis();
            self.came.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Waits until nothing comes any more, but not for long.
    pub(super) async fn wait(&self) {
        let Some(since) = self.since.get().copied() else { return };
        loop {
            let now = clock::now();
            let came = since + Duration::from_millis(self.came.load(Ordering::Relaxed));
            if now.saturating_duration_since(came) >= QUIET
                || now.saturating_duration_since(since) >= QUIET_PATIENCE
            {
                return;
            }
            sleep_until((came + QUIET).into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_when_nothing_has_come_for_a_while_but_never_late() {
        let begun = clock::now();
        let quiet = Quiet::default();
        quiet.wait().await;
        assert!(clock::now() - begun < QUIET, "nobody was told to go");
        quiet.begin(begun);
        quiet.wait().await;
        assert!(clock::now() - begun >= QUIET);

        let begun = clock::now();
        let quiet = Quiet::default();
        quiet.begin(begun);
        let endless = async {
            loop {
                quiet.packets_came(clock::now());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = endless => {}
            () = quiet.wait() => {}
        }
        assert!(clock::now() - begun >= QUIET_PATIENCE);
    }
}
