//! The task that a client's methods talk to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::inbox::{Command, Inbox, Reply, answer};
use super::run::{Outcome, Run};
use super::shared::Shared;
use crate::codec::hello::Features;
use crate::config::ClientConfig;
use crate::error::{ErrorCode, VpnError};
use crate::report::ConnectionState;
use crate::session::KeyLimits;

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    inbox: Inbox,
    /// How long keys serve, and the features that are offered.
    keys: (KeyLimits, Features),
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        stop: watch::Receiver<Option<Duration>>,
        keys: (KeyLimits, Features),
    ) -> Self {
        Self { shared, inbox: Inbox { commands, stop }, keys }
    }

    pub(super) async fn run(mut self) {
        while let Some(command) = self.inbox.next().await {
            match command {
                Command::Disconnect { reply } => {
                    self.shared.set_state(ConnectionState::Disconnected);
                    answer(reply, ());
                }
                Command::Connect { config, persistent, reply } => {
                    self.serve(*config, persistent, reply).await
                }
            }
        }
    }

    async fn serve(&mut self, config: ClientConfig, persistent: bool, reply: Reply) {
        let mut run = Run::new(&self.shared, config, persistent, reply, self.keys);
        let outcome = run.run(&mut self.inbox).await;
        // Nothing of the tunnel is left when its end is told.
        run.vigil = None;
        if let Some(tunnel) = run.tunnel.take() {
            tunnel.close().await;
        }
        match outcome {
            Outcome::Interrupted(interrupt) => {
                self.shared.set_state(ConnectionState::Disconnected);
                run.answer(Err(VpnError::new(
                    ErrorCode::Aborted,
                    "the attempt to connect was ended by disconnect() or stop()",
                )));
                interrupt.answer();
            }
            Outcome::Failed(error) => match run.reply.take() {
                // A failure is told once: to the call it belongs to, if there is one.
                Some(reply) => {
                    self.shared.set_state(ConnectionState::Disconnected);
                    answer(reply, Err(error));
                }
                None => self.shared.set_failed(&error),
            },
        }
    }
}
