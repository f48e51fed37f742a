//! What the supervisor is told to do.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::GOODBYE;
use crate::config::ClientConfig;
use crate::error::{ErrorCode, VpnError};
use crate::report::Assigned;

/// What a client's methods ask of it.
pub(super) enum Command {
    Connect { config: Box<ClientConfig>, persistent: bool, reply: Reply },
    Disconnect { reply: oneshot::Sender<()> },
}

pub(super) type Reply = oneshot::Sender<Result<Assigned, VpnError>>;

/// Why the supervisor was told to let go of what it was doing.
pub(super) enum Interrupt {
    Disconnect(oneshot::Sender<()>),
    Stop,
}

impl Interrupt {
    pub(super) fn answer(self) {
        match self {
            Self::Disconnect(reply) => answer(reply, ()),
            Self::Stop => {}
        }
    }
}

/// Answers a call, unless whoever made it has gone away.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, outcome: T) {
    let _unheard = reply.send(outcome);
}

/// Commands and the stop signal.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) stop: watch::Receiver<Option<Duration>>,
}

impl Inbox {
    /// The next command; none once the client is to stop.
    pub(super) async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            biased;
            // An error means that the client was dropped, which stops it as well.
            _ = self.stop.wait_for(Option::is_some) => None,
            command = self.commands.recv() => command,
        }
    }

    /// Awaits `goodbye`, but no longer than PROTOCOL §9 grants, or what is left once the process is
    /// about to end.
    pub(super) async fn goodbye(&mut self, goodbye: impl Future<Output = ()>) {
        let begun = Instant::now();
        tokio::pin!(goodbye);
        loop {
            let granted = self.stop.borrow_and_update().unwrap_or(GOODBYE);
            tokio::select! {
                biased;
                () = &mut goodbye => return,
                () = tokio::time::sleep_until(begun + granted) => return,
                // The grant shrinks; without a sender nobody is left to hurry.
                Ok(()) = self.stop.changed() => {}
            }
        }
    }

    /// Answers what a busy client can answer; returns when it must let go. Cancel-safe.
    pub(super) async fn interrupt(&mut self) -> Interrupt {
        loop {
            match self.next().await {
                None => return Interrupt::Stop,
                Some(Command::Disconnect { reply }) => return Interrupt::Disconnect(reply),
                Some(Command::Connect { reply, .. }) => {
                    let message = "the VPN client is connected, connecting or reconnecting already; call disconnect() first";
                    answer(reply, Err(VpnError::new(ErrorCode::AlreadyConnected, message)));
                }
            }
        }
    }
}
