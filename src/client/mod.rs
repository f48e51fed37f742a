//! What a VPN client does: connect, keep the tunnel, reconnect, report.
//!
//! ```text
//!  disconnected ─connect()─► connecting ─► handshaking ─► connected ─disconnect()─► disconnected
//!                               ▲                            │ connection lost
//!                               └──────── reconnecting ◄─────┘            (final errors: error)
//! ```
//!
//! One task, the supervisor, owns the tunnel; the methods of [`Client`] send it commands and read
//! what it published.

mod attempt;
mod carried;
mod carry;
mod enrol;
mod failure;
mod inbox;
mod marks;
mod mtu;
mod port;
mod resolvers;
mod run;
mod shared;
mod supervisor;
mod tunnel;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use self::enrol::join;
use self::inbox::Command;
use self::shared::Shared;
use self::supervisor::Supervisor;
use crate::codec::hello::Features;
use crate::config::ClientConfig;
use crate::engine::{Lane, Task};
use crate::error::{ErrorCode, VpnError};
use crate::report::{Assigned, Events, MtuInfo, QualityReport, Statistics, Status};
use crate::session::{FEATURES, KeyLimits};

/// Commands that may wait for the supervisor: it takes them within one poll, so more can only pile
/// up when a program calls in a tight loop, and then the callers wait.
const COMMANDS: usize = 16;

/// The server has this long to take our Disconnect and answer our Close (PROTOCOL §9).
const GOODBYE: Duration = Duration::from_secs(2);

/// The same when the process is about to end: one round trip to most places.
const HURRIED_GOODBYE: Duration = Duration::from_millis(300);

/// A VPN client. Dropping it ends the tunnel without a word to the server.
pub struct Client {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// Once there is a time, the client ends; so long may its goodbye take.
    stop: watch::Sender<Option<Duration>>,
    done: watch::Receiver<bool>,
    _supervisor: Mutex<Task<()>>,
    _lane: Lane,
}

impl Client {
    /// A client that is not connected. Must be called on a tokio runtime; the tunnel runs on a thread of its
    /// own.
    pub fn new(events: Events) -> Self {
        Self::with_key_limits(events, KeyLimits::default(), FEATURES)
    }

    /// A client whose keys serve no longer than this, and which offers no other features, for tests of how they are
    /// renewed.
    #[doc(hidden)]
    pub fn with_key_limits(events: Events, key_limits: KeyLimits, features: Features) -> Self {
        let shared = Arc::new(Shared::new(events));
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (stop, stopped) = watch::channel(None);
        let (finished, done) = watch::channel(false);
        let lane = Lane::start();
        let supervisor = Supervisor::new(Arc::clone(&shared), inbox, stopped, (key_limits, features));
        let mut supervisor = Task::spawn_on(lane.runtime(), "client", supervisor.run());
        let events = shared.events.clone();
        let task = Task::spawn("client watch", async move {
            if let Err(panic) = supervisor.join().await {
                events.fail(&panic);
            }
            finished.send_replace(true);
        });
        Self { shared, commands, stop, done, _supervisor: Mutex::new(task), _lane: lane }
    }

    /// Makes the tunnel; resolves when packets can flow.
    ///
    /// With `persistent`, the first attempt is retried like a reconnect (a daemon that starts
    /// before the network does); otherwise it is one attempt.
    ///
    /// # Errors
    /// `already-connected`, `aborted`, `not-running`, and whatever the attempt meets (API §8).
    pub async fn connect(&self, config: ClientConfig, persistent: bool) -> Result<Assigned, VpnError> {
        let (reply, answer) = oneshot::channel();
        let config = Box::new(config);
        self.command(Command::Connect { config, persistent, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends the tunnel gracefully, or the attempt to make one. Idempotent.
    ///
    /// # Errors
    /// `not-running` after [`Self::shutdown`].
    pub async fn disconnect(&self) -> Result<(), VpnError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Disconnect { reply }).await?;
        answer.await.map_err(|_| gone())
    }

    /// What the client is doing.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// What the tunnel carried since the last `connect`.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// The link's quality.
    ///
    /// # Errors
    /// `not-connected` without a tunnel.
    pub fn quality(&self) -> Result<QualityReport, VpnError> {
        self.shared.quality().ok_or_else(not_connected)
    }

    /// The tunnel's MTU and what the layers below it cost.
    ///
    /// # Errors
    /// `not-connected` without a tunnel.
    pub fn mtu_info(&self) -> Result<MtuInfo, VpnError> {
        self.shared.mtu_info().ok_or_else(not_connected)
    }

    /// Ends everything: the server is told, the host is put back. Idempotent.
    pub async fn shutdown(&self) {
        self.begin_shutdown(GOODBYE);
        // An error means that the supervisor is gone, and all it held with it.
        let mut done = self.done.clone();
        let _gone = done.wait_for(|done| *done).await;
    }

    /// Starts what [`Self::shutdown`] waits for; the goodbye may take as long as `goodbye`.
    fn begin_shutdown(&self, goodbye: Duration) {
        self.stop.send_if_modified(|stop| {
            let sooner = stop.is_none_or(|given| goodbye < given);
            if sooner {
                *stop = Some(goodbye);
            }
            sooner
        });
    }

    /// As [`Self::shutdown`], for a thread outside the runtime that is in a hurry: the goodbye is
    /// short. True if all was done in time.
    pub fn shutdown_blocking(&self, timeout: Duration) -> bool {
        self.begin_shutdown(HURRIED_GOODBYE);
        crate::engine::wait_blocking(self.done.clone(), timeout)
    }

    async fn command(&self, command: Command) -> Result<(), VpnError> {
        self.commands.send(command).await.map_err(|_| gone())
    }
}

fn gone() -> VpnError {
    VpnError::new(ErrorCode::NotRunning, "the VPN client has been stopped; call start() to run it again")
}

fn not_connected() -> VpnError {
    VpnError::new(ErrorCode::NotConnected, "the VPN client is not connected; call connect() first")
}
