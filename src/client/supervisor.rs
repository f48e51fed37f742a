//! The task that owns a client's tunnel.

use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::GOODBYE;
use super::attempt::{Aim, Approach, Established, attempt};
use super::carried::{Carried, News, Retired};
use super::failure::{Failure, is_cut};
use super::inbox::{Command, Inbox, Interrupt, Reply, answer};
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::codec::hello::{Accepted, ClientHello};
use crate::config::{ClientConfig, Reconnect};
use crate::engine::{Alarm, End, Vigil, clock};
use crate::error::{ErrorCode, VpnError};
use crate::network::repair;
use crate::report::{Assigned, ConnectionState, LogLevel, Status};
use crate::session::{Backoff, Comeback, KeyLimits, Setback};
use crate::telemetry::Traffic;
use crate::transport::{ClientTls, Proxy};

/// The server has this long to answer the Close of a connection that has ended already: its loss
/// must not delay the next attempt.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// How often packets that wait for the next connection are looked at: a fraction of what they may wait.
const AGING: Duration = Duration::from_millis(500);

/// How long after a second connection could not be had for new keys the next try begins: the keys have a tenth of
/// their service left, which is minutes.
const RENEWAL_REST: Duration = Duration::from_secs(10);

/// How a tunnel came to its end.
enum Outcome {
    Interrupted(Interrupt),
    Failed(VpnError),
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    inbox: Inbox,
    key_limits: KeyLimits,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        stop: watch::Receiver<Option<Duration>>,
        key_limits: KeyLimits,
    ) -> Self {
        Self { shared, inbox: Inbox { commands, stop }, key_limits }
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
        let traffic = self.shared.begin();
        let mut run = Run {
            shared: Arc::clone(&self.shared),
            comeback: Comeback::new(backoff(config.reconnect.unwrap_or_default())),
            config: Arc::new(config),
            persistent,
            traffic,
            reply: Some(reply),
            tunnel: None,
            vigil: None,
            tls: None,
            proxy: None,
            known: Vec::new(),
            key_limits: self.key_limits,
        };
        let outcome = run.run(&mut self.inbox).await;
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

/// One tunnel, from `connect()` to its end.
struct Run {
    shared: Arc<Shared>,
    config: Arc<ClientConfig>,
    persistent: bool,
    traffic: Arc<Traffic>,
    comeback: Comeback,
    /// The call that waits for packets to flow.
    reply: Option<Reply>,
    tunnel: Option<Tunnel>,
    /// There as long as the tunnel is.
    vigil: Option<Vigil>,
    /// Made once: reading the system's trusted roots takes a while.
    tls: Option<ClientTls>,
    /// The configuration's or the environment's, as it was at the beginning: what is known of addresses is
    /// its.
    proxy: Option<Proxy>,
    known: Vec<IpAddr>,
    key_limits: KeyLimits,
}

/// An attempt beside the connection that is up.
type Renewal = Pin<Box<dyn Future<Output = Result<Established, Failure>> + Send>>;

/// What ended a connection.
enum Ended {
    Interrupt(Interrupt),
    Connection(End),
    /// The way that it took is gone: it can neither send nor hear anything.
    Gone(Failure),
    Failed(Failure),
}

impl Run {
    async fn run(&mut self, inbox: &mut Inbox) -> Outcome {
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
        self.carry(established, deadline, inbox).await
    }

    /// An attempt; begun anew when the way to the server becomes another one meanwhile.
    async fn establish(
        &mut self,
        deadline: Instant,
        inbox: &mut Inbox,
    ) -> Result<Result<Established, Interrupt>, Failure> {
        let aim = if self.tunnel.is_some() { Aim::Again } else { Aim::First };
        loop {
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
        let approach = Approach {
            config: Arc::clone(&self.config),
            tls: self.tls.clone(),
            proxy: self.proxy.clone(),
            known: self.known.clone(),
            keepalive_cap: self.comeback.keepalive_cap(now),
            hello: self.comeback.hello(now, hello),
            aim,
            deadline,
            key_limits: self.key_limits,
        };
        Box::pin(attempt(approach, Arc::clone(&self.shared)))
    }

    /// Another connection for the session that is up; none without a ticket.
    fn renewal(&mut self) -> Option<Renewal> {
        let has_ticket = self.comeback.hello(clock::now(), ClientHello::default()).ticket.is_some();
        let deadline = Instant::now() + self.config.connect_timeout;
        has_ticket.then(|| self.attempt(Aim::Beside, deadline))
    }

    /// The address that the next connection would leave from.
    fn source(&self) -> Option<IpAddr> {
        self.tunnel.as_ref()?.source_to(*self.known.last()?)
    }

    async fn repin(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.repin(&self.known).await;
        }
    }

    async fn set_up(&mut self, established: &Established) -> Result<(), VpnError> {
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

    /// Carries packets until the connection ends, and those that take its place meanwhile.
    async fn carry(
        &mut self,
        established: Established,
        mut deadline: Instant,
        inbox: &mut Inbox,
    ) -> Result<Interrupt, Failure> {
        let mut carried = self.carried(established)?;
        let mut retired: Option<Retired> = None;
        let mut renewal: Option<Renewal> = None;
        let mut renew_at: Option<Instant> = None;
        let ended = loop {
            let Some(tunnel) = &mut self.tunnel else { return Err(Failure::last(no_tunnel())) };
            tokio::select! {
                biased;
                interrupt = inbox.interrupt() => break Ended::Interrupt(interrupt),
                news = carried.run() => match news {
                    News::Ended(end) => break Ended::Connection(end),
                    News::Confirmed => self.confirmed(&carried),
                    News::KeysAging => renew_at = Some(Instant::now()),
                },
                () = run_out(&mut retired) => {
                    if let Some(retired) = retired.take() {
                        tokio::spawn(retired.close(CLOSE_WAIT));
                    }
                }
                outcome = attempted(&mut renewal) => {
                    renewal = None;
                    match outcome {
                        Ok(established) => {
                            if let Err(error) = self.set_up(&established).await {
                                break Ended::Failed(Failure::last(error));
                            }
                            (deadline, renew_at) = (Instant::now() + self.config.connect_timeout, None);
                            let next = self.carried(established)?;
                            self.open_gate(&next.hello);
                            let old = std::mem::replace(&mut carried, next);
                            if let Some(older) = retired.replace(old.retire()) {
                                tokio::spawn(older.close(CLOSE_WAIT));
                            }
                        }
                        Err(failure) => {
                            self.shared.events.log(LogLevel::Debug, "reconnect", failure.error.message);
                            renew_at = renew_at.map(|_| Instant::now() + RENEWAL_REST);
                        }
                    }
                }
                () = at(renew_at), if renewal.is_none() => {
                    renew_at = Some(Instant::now() + RENEWAL_REST);
                    renewal = self.renewal();
                }
                alarm = alarm(&mut self.vigil) => {
                    tunnel.repin(&self.known).await;
                    if !tunnel.has_address(carried.local.ip()) {
                        break Ended::Gone(Failure::moved());
                    }
                    carried.probe();
                    let source = tunnel.source_to(carried.remote.ip());
                    let is_elsewhere = source.is_some_and(|source| source != carried.local.ip());
                    if alarm == Alarm::Network && is_elsewhere && renewal.is_none() {
                        renewal = self.renewal();
                    }
                }
                reason = tunnel.failed() => break Ended::Failed(Failure::last(interface_failed(&reason))),
                () = sleep_until(deadline), if !carried.is_confirmed => {
                    break Ended::Failed(Failure::timeout("confirmation"));
                }
            }
        };
        if let Some(tunnel) = &self.tunnel {
            tunnel.set_offline();
        }
        drop(retired);
        self.leave(carried, ended, inbox).await
    }

    fn carried(&self, established: Established) -> Result<Carried, Failure> {
        let tunnel = self.tunnel.as_ref().ok_or_else(|| Failure::last(no_tunnel()))?;
        Ok(Carried::new(established, tunnel, &self.traffic, &self.shared))
    }

    fn open_gate(&self, hello: &Accepted) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.set_online(hello);
        }
    }

    /// The server has confirmed the session: packets flow.
    fn confirmed(&mut self, carried: &Carried) {
        self.comeback.connected(clock::now());
        let Some(tunnel) = &self.tunnel else { return };
        tunnel.set_online(&carried.hello);
        if self.shared.status().state == ConnectionState::Connected {
            self.shared.set_switched(carried.server.clone(), carried.mtu.clone());
        } else {
            let dns = Some(tunnel.dns());
            let status = Status { dns, ..status(&carried.hello, &carried.server) };
            self.shared.set_connected(status, carried.mtu.clone());
        }
        if let Some(reply) = self.reply.take() {
            answer(reply, Ok(assigned(&carried.hello)));
        }
    }

    /// Says the goodbyes that an end permits.
    async fn leave(
        &mut self,
        carried: Carried,
        ended: Ended,
        inbox: &mut Inbox,
    ) -> Result<Interrupt, Failure> {
        match ended {
            Ended::Connection(end) => {
                if carried.is_confirmed && is_cut(&end) {
                    self.learn(carried.silence_before_cut());
                }
                carried.close(&end, CLOSE_WAIT).await;
                Err(Failure::from(end))
            }
            Ended::Gone(failure) => {
                carried.abort();
                self.comeback.network_changed();
                Err(failure)
            }
            Ended::Failed(failure) => {
                drop(timeout(GOODBYE, Box::pin(carried.say_goodbye())).await);
                Err(failure)
            }
            Ended::Interrupt(interrupt) => {
                // The host is put back meanwhile: a server that is silent does not delay it.
                let tunnel = self.tunnel.take();
                let goodbye = inbox.goodbye(Box::pin(carried.say_goodbye()));
                tokio::join!(goodbye, async {
                    if let Some(tunnel) = tunnel {
                        tunnel.close().await;
                    }
                });
                Ok(interrupt)
            }
        }
    }

    /// Takes in how long a connection had been silent when it was cut.
    fn learn(&mut self, silence: Option<Duration>) {
        if let Some(silence) = silence
            && let Some(interval) = self.comeback.learn(clock::now(), silence)
        {
            let message = format!(
                "the connection was cut after {:.1} s of silence; from now on keepalives go out every {:.1} s at least",
                silence.as_secs_f64(),
                interval.as_secs_f64()
            );
            self.shared.events.log(LogLevel::Info, "keepalive", message);
        }
    }

    fn answer(&mut self, outcome: Result<Assigned, VpnError>) {
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

async fn alarm(vigil: &mut Option<Vigil>) -> Alarm {
    match vigil {
        Some(vigil) => vigil.next().await,
        None => pending().await,
    }
}

async fn attempted(renewal: &mut Option<Renewal>) -> Result<Established, Failure> {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}

async fn run_out(retired: &mut Option<Retired>) {
    match retired {
        Some(retired) => retired.run_out().await,
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn status(hello: &Accepted, server: &str) -> Status {
    Status {
        assigned_ip: Some(hello.assigned_ip),
        assigned_ip6: hello.v6.map(|v6| v6.assigned_ip),
        server_addr: Some(server.to_owned()),
        ..Status::new(ConnectionState::Connected)
    }
}

fn assigned(hello: &Accepted) -> Assigned {
    Assigned { assigned_ip: hello.assigned_ip, assigned_ip6: hello.v6.map(|v6| v6.assigned_ip) }
}

fn no_tunnel() -> VpnError {
    VpnError::new(ErrorCode::Internal, "a connection began without its interface; please report this")
}

fn interface_failed(reason: &str) -> VpnError {
    let message =
        format!("the tunnel's interface failed ({reason}); was it deleted by another program? connect again");
    VpnError::new(ErrorCode::TunUnavailable, message)
}
