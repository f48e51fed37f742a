//! When a server that stops may take the translation of addresses away.
//!
//! As soon as it is gone, the host answers what comes for its clients with a reset, and a TCP connection that a client
//! and the server's next process would take up again is dead. So the moment is chosen between two packets of its
//! sender:
//!
//! ```text
//! clients are told    what was under way     first retransmission         second
//!        ├──────────────────────┤─── 200 ms and more ───┤──── 400 ms and more ────┤
//!                                                       └─ taken away ─ set up ─┘
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::engine::clock;

/// Nothing has come for so long: what was sent before the clients' last acknowledgements is here, and the probe that
/// senders send after it. Less than the shortest time after which TCP sends again.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// After a retransmission, so that those of other connections have come as well.
const BESIDE: Duration = Duration::from_millis(30);

/// Whoever sends all the same is not waiting for acknowledgements.
const PATIENCE: Duration = Duration::from_millis(450);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(5);

/// TCP's number (RFC 9293).
const TCP: u8 = 6;

/// What comes for clients that are told to go.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    since: OnceLock<Instant>,
    /// When a TCP segment last came, in milliseconds since then, and one more; zero before any.
    came: AtomicU64,
}

impl Quiet {
    /// The clients are told now.
    pub(super) fn begin(&self, now: Instant) {
        // Whoever stops a server twice has told its clients already.
        let _already = self.since.set(now);
    }

    /// A packet came from outside; without effect before [`begin`](Self::begin).
    pub(super) fn packet_came(&self, now: Instant, packet: &[u8]) {
        let Some(since) = self.since.get() else { return };
        let protocol = match packet.first().map(|byte| byte >> 4) {
            Some(4) => packet.get(9),
            _ => packet.get(6),
        };
        if protocol == Some(&TCP) {
            let millis = now.saturating_duration_since(*since).as_millis() + 1;
            self.came.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Waits for the moment.
    pub(super) async fn wait(&self) {
        let Some(since) = self.since.get().copied() else { return };
        let elapsed = || clock::now().saturating_duration_since(since);
        let came = || self.came.load(Ordering::Relaxed);
        let silent = |time: Duration| elapsed() >= Duration::from_millis(came()) + time;
        while !silent(UNDER_WAY) && elapsed() < PATIENCE {
            sleep(LOOK).await;
        }
        let last = came();
        if last == 0 {
            // No connection is in the middle of anything.
            return;
        }
        while came() == last && elapsed() < PATIENCE {
            sleep(LOOK).await;
        }
        while !silent(BESIDE) && elapsed() < PATIENCE {
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, TCP, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2];

    #[tokio::test]
    async fn without_connections_nothing_is_waited_for_for_long() {
        let begun = clock::now();
        let quiet = Quiet::default();
        quiet.wait().await;
        assert!(clock::now() - begun < UNDER_WAY, "nobody was told to go");
        quiet.begin(begun);
        let mut datagram = SEGMENT;
        datagram[9] = 17;
        quiet.packet_came(clock::now(), &datagram);
        quiet.wait().await;
        assert!(clock::now() - begun >= UNDER_WAY);
    }

    #[tokio::test]
    async fn is_when_a_retransmission_has_come_but_never_late() {
        for ends in [true, false] {
            let begun = clock::now();
            let quiet = Quiet::default();
            quiet.begin(begun);
            quiet.packet_came(begun, &SEGMENT);
            let again = async {
                sleep(Duration::from_millis(200)).await;
                quiet.packet_came(clock::now(), &SEGMENT);
                if ends {
                    std::future::pending::<()>().await;
                }
                loop {
                    sleep(LOOK).await;
                    quiet.packet_came(clock::now(), &SEGMENT);
                }
            };
            tokio::select! {
                () = again => {}
                () = quiet.wait() => {}
            }
            let least = if ends { Duration::from_millis(200) + BESIDE } else { PATIENCE };
            assert!(clock::now() - begun >= least);
        }
    }
}
