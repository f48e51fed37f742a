//! One tunnel, from `connect()` to its end: attempts, and the waits between them.

use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::{Aim, Approach, Established, attempt};
use super::failure::Failure;
use super::inbox::{Inbox, Interrupt, Reply, answer};
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::codec::hello::{ClientHello, Features};
use crate::config::{ClientConfig, Reconnect};
use crate::engine::{Alarm, Vigil, clock};
use crate::error::VpnError;
use crate::network::repair;
use crate::report::{Assigned, ConnectionState, LogLevel};
use crate::session::{Backoff, Comeback, KeyLimits, Setback};
use crate::telemetry::Traffic;
use crate::transport::{ClientTls, Proxy};

/// How often packets that wait for the next connection are looked at: a fraction of what they may wait.
const AGING: Duration = Duration::from_millis(500);

/// How a tunnel came to its end.
pub(super) enum Outcome {
    Interrupted(Interrupt),
    Failed(VpnError),
}

/// One tunnel, from `connect()` to its end.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<ClientConfig>,
    persistent: bool,
    pub(super) traffic: Arc<Traffic>,
    pub(super) comeback: Comeback,
    /// The call that waits for packets to flow.
    pub(super) reply: Option<Reply>,
    pub(super) tunnel: Option<Tunnel>,
    /// There as long as the tunnel is.
    pub(super) vigil: Option<Vigil>,
    /// Made once: reading the system's trusted roots takes a while.
    tls: Option<ClientTls>,
    /// The configuration's or the environment's, as it was at the beginning: what is known of addresses is
    /// its.
    proxy: Option<Proxy>,
    pub(super) known: Vec<IpAddr>,
    key_limits: KeyLimits,
    /// What is offered, unless the server can make nothing of it.
    features: Features,
}

/// An attempt beside the connection that is up.
pub(super) type Renewal = Pin<Box<dyn Future<Output = Result<Established, Failure>> + Send>>;

impl Run {
    pub(super) fn new(
        shared: &Arc<Shared>,
        config: ClientConfig,
        persistent: bool,
        reply: Reply,
        (key_limits, features): (KeyLimits, Features),
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            comeback: Comeback::new(backoff(config.reconnect.unwrap_or_default())),
            config: Arc::new(config),
            persistent,
            traffic: shared.begin(),
            reply: Some(reply),
            tunnel: None,
            vigil: None,
            tls: None,
            proxy: None,
            known: Vec::new(),
            key_limits,
            features,
        }
    }

    pub(super) async fn run(&mut self, inbox: &mut Inbox) -> Outcome {
        match self.config.proxy_in_force() {
            Ok(proxy) => self.proxy = proxy,
            Err(error) => return Outcome::Failed(error),
        }
        // First of all: the resolvers that a killed process left lead nowhere, and the next thing to do
        // is to ask for the server's name.
        if let Some(state_dir) = self.config.state_dir.path() {
            tokio::select! {
                biased;
                interrupt = inbox.interrupt() => return Outcome::Interrupted(interrupt),
                _report = repair(state_dir) => {}
            }
        }
        loop {
            let failure = match Box::pin(self.connection(inbox)).await {
                Ok(interrupt) => return Outcome::Interrupted(interrupt),
                Err(failure) => failure,
            };
            let Some(delay) = self.next_delay(&failure) else { return Outcome::Failed(failure.error) };
            self.shared.set_reconnecting(&failure.error);
            self.shared.events.log(
                LogLevel::Info,
                "reconnect",
                format!("{}; next attempt in {} ms", failure.error.message, delay.as_millis()),
            );
            if let Some(interrupt) = self.pause(delay, failure.setback, inbox).await {
                return Outcome::Interrupted(interrupt);
            }
        }
    }

    /// How long to wait before coming back; none if the tunnel ends here.
    fn next_delay(&mut self, failure: &Failure) -> Option<Duration> {
        let again = if self.reply.is_some() { self.persistent } else { self.config.reconnect.is_some() };
        let waiting = self.tunnel.as_ref().is_some_and(|tunnel| !tunnel.queue().is_empty());
        let delay = self.comeback.failed(clock::now(), failure.setback, waiting, &mut rand::rng());
        delay.filter(|_| again)
    }

    /// Waits before the next attempt: shorter once an application's packet waits, and no longer once the host's
    /// network is another one.
    async fn pause(&mut self, delay: Duration, setback: Setback, inbox: &mut Inbox) -> Option<Interrupt> {
        self.age();
        let Self { comeback, tunnel, vigil, .. } = self;
        let mut until = Instant::now() + delay;
        let mut may_hurry = setback == Setback::Interrupted;
        loop {
            tokio::select! {
                biased;
                interrupt = inbox.interrupt() => return Some(interrupt),
                () = sleep_until(until) => return None,
                () = packet_waits(tunnel.as_ref()), if may_hurry => {
                    may_hurry = false;
                    let left = until.saturating_duration_since(Instant::now());
                    until = Instant::now() + comeback.hurry(left, &mut rand::rng());
                }
                _alarm = alarm(vigil) => {
                    comeback.network_changed();
                    return None;
                }
                () = sleep(AGING), if tunnel.is_some() => {
                    if let Some(tunnel) = tunnel {
                        tunnel.age();
                    }
                }
            }
        }
    }

    /// One connection, from the attempt to its end.
    async fn connection(&mut self, inbox: &mut Inbox) -> Result<Interrupt, Failure> {
        let deadline = Instant::now() + self.config.connect_timeout;
        if self.tunnel.is_none() {
            self.shared.set_state(ConnectionState::Connecting);
        }
        if self.config.server_url.tls && self.tls.is_none() {
            self.tls = Some(self.config.client_tls().map_err(Failure::last)?);
        }
        let established = match self.establish(deadline, inbox).await? {
            Ok(established) => established,
            Err(interrupt) => return Ok(interrupt),
        };
        self.set_up(&established).await.map_err(Failure::last)?;
        Box::pin(self.carry(established, deadline, inbox)).await
    }

    /// An attempt; begun anew when the way to the server becomes another one meanwhile.
    async fn establish(
        &mut self,
        deadline: Instant,
        inbox: &mut Inbox,
    ) -> Result<Result<Established, Interrupt>, Failure> {
        let aim = if self.tunnel.is_some() { Aim::Again } else { Aim::First };
        loop {
            self.age();
            self.repin().await;
            let source = self.source();
            let attempt = self.attempt(aim, deadline);
            tokio::pin!(attempt);
            loop {
                let Self { tunnel, vigil, .. } = self;
                tokio::select! {
                    biased;
                    interrupt = inbox.interrupt() => return Ok(Err(interrupt)),
                    outcome = &mut attempt => return outcome.map(Ok),
                    _alarm = alarm(vigil) => {
                        self.comeback.network_changed();
                        self.repin().await;
                        if self.source() != source {
                            break;
                        }
                    }
                    () = sleep(AGING), if tunnel.is_some() => {
                        if let Some(tunnel) = tunnel {
                            tunnel.age();
                        }
                    }
                }
            }
        }
    }

    fn attempt(&mut self, aim: Aim, deadline: Instant) -> Renewal {
        let now = clock::now();
        let hello = ClientHello {
            mtu: Some(self.config.mtu),
            name: self.config.name.clone(),
            ..ClientHello::default()
        };
        let mut hello = self.comeback.hello(now, hello);
        hello.features = hello.features.intersection(self.features);
        let approach = Approach {
            config: Arc::clone(&self.config),
            tls: self.tls.clone(),
            proxy: self.proxy.clone(),
            known: self.known.clone(),
            keepalive_cap: self.comeback.keepalive_cap(now),
            hello,
            hybrid: self.comeback.hybrid(now),
            aim,
            deadline,
            key_limits: self.key_limits,
        };
        Box::pin(attempt(approach, Arc::clone(&self.shared)))
    }

    /// Another connection for the session that is up; none without a ticket.
    pub(super) fn renewal(&mut self) -> Option<Renewal> {
        let has_ticket = self.comeback.hello(clock::now(), ClientHello::default()).ticket.is_some();
        let deadline = Instant::now() + self.config.connect_timeout;
        has_ticket.then(|| self.attempt(Aim::Beside, deadline))
    }

    /// The address that the next connection would leave from.
    fn source(&self) -> Option<IpAddr> {
        self.tunnel.as_ref()?.source_to(*self.known.last()?)
    }

    /// Drops what has waited too long; short waits and attempts would leave it to the next packet.
    fn age(&self) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.age();
        }
    }

    async fn repin(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.repin(&self.known).await;
        }
    }

    pub(super) async fn set_up(&mut self, established: &Established) -> Result<(), VpnError> {
        let remote = established.remote.ip();
        // The last one is the present one.
        self.known.retain(|known| *known != remote);
        self.known.push(remote);
        if established.is_anew {
            self.comeback.ticket_refused();
        }
        self.comeback.accepted(clock::now(), &established.hello);
        match &mut self.tunnel {
            Some(tunnel) => tunnel.renew(&established.hello, remote, &self.shared).await,
            None => {
                let tunnel =
                    Tunnel::open(&self.config, &established.hello, remote, &self.traffic, &self.shared)
                        .await?;
                self.vigil = Some(Vigil::open(tunnel.ifindex()));
                self.tunnel = Some(tunnel);
                Ok(())
            }
        }
    }

    pub(super) fn answer(&mut self, outcome: Result<Assigned, VpnError>) {
        if let Some(reply) = self.reply.take() {
            answer(reply, outcome);
        }
    }
}

fn backoff(reconnect: Reconnect) -> Backoff {
    Backoff::new(reconnect.base_delay, reconnect.max_delay, reconnect.max_attempts)
}

/// Resolves when an application's packet waits for the next connection.
async fn packet_waits(tunnel: Option<&Tunnel>) {
    match tunnel {
        Some(tunnel) => {
            let queue = tunnel.queue();
            poll_fn(|cx| queue.poll_waiting(cx)).await;
        }
        None => pending().await,
    }
}

pub(super) async fn alarm(vigil: &mut Option<Vigil>) -> Alarm {
    match vigil {
        Some(vigil) => vigil.next().await,
        None => pending().await,
    }
}
