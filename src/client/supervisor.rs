//! The task that owns a client's tunnel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::GOODBYE;
use super::attempt::{Established, attempt};
use super::failure::{Failure, Fate};
use super::port::Downlink;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::Accepted;
use crate::config::{ClientConfig, Reconnect};
use crate::engine::{End, Link, Order};
use crate::error::{ErrorCode, VpnError};
use crate::network::repair;
use crate::report::{Assigned, ConnectionState, LogLevel, Status};
use crate::session::reconnect::Backoff;
use crate::telemetry::Traffic;
use crate::transport::{ClientTls, Stream};

/// The server has this long to answer the Close of a connection that has ended already: its loss
/// must not delay the next attempt.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// A connection that lasted this long was a success: the next back-off begins anew.
const STABLE: Duration = Duration::from_secs(10);

pub(super) enum Command {
    Connect { config: Box<ClientConfig>, persistent: bool, reply: Reply },
    Disconnect { reply: oneshot::Sender<()> },
}

type Reply = oneshot::Sender<Result<Assigned, VpnError>>;

/// Why the supervisor was told to let go of what it was doing.
enum Interrupt {
    Disconnect(oneshot::Sender<()>),
    Stop,
}

impl Interrupt {
    fn answer(self) {
        match self {
            Self::Disconnect(reply) => answer(reply, ()),
            Self::Stop => {}
        }
    }
}

/// How a tunnel came to its end.
enum Outcome {
    Interrupted(Interrupt),
    Failed(VpnError),
}

/// Answers a call, unless whoever made it has gone away.
fn answer<T>(reply: oneshot::Sender<T>, outcome: T) {
    let _unheard = reply.send(outcome);
}

/// Commands and the stop signal.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    stop: watch::Receiver<Option<Duration>>,
}

impl Inbox {
    /// The next command; none once the client is to stop.
    async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            biased;
            // An error means that the client was dropped, which stops it as well.
            _ = self.stop.wait_for(Option::is_some) => None,
            command = self.commands.recv() => command,
        }
    }

    /// Awaits `goodbye`, but no longer than PROTOCOL §9 grants, or what is left once the process is
    /// about to end.
    async fn goodbye(&mut self, goodbye: impl Future<Output = ()>) {
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
    async fn interrupt(&mut self) -> Interrupt {
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

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    inbox: Inbox,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        stop: watch::Receiver<Option<Duration>>,
    ) -> Self {
        Self { shared, inbox: Inbox { commands, stop } }
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
            backoff: backoff(config.reconnect.unwrap_or_default()),
            config,
            persistent,
            traffic,
            reply: Some(reply),
            tunnel: None,
            tls: None,
            known: Vec::new(),
            bad_requests: 0,
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
    config: ClientConfig,
    persistent: bool,
    traffic: Arc<Traffic>,
    backoff: Backoff,
    /// The call that waits for packets to flow.
    reply: Option<Reply>,
    tunnel: Option<Tunnel>,
    /// Made once: reading the system's trusted roots takes a while.
    tls: Option<ClientTls>,
    known: Vec<IpAddr>,
    bad_requests: u32,
}

impl Run {
    async fn run(&mut self, inbox: &mut Inbox) -> Outcome {
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
            tokio::select! {
                biased;
                interrupt = inbox.interrupt() => return Outcome::Interrupted(interrupt),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// How long to wait before coming back; none if the tunnel ends here.
    fn next_delay(&mut self, failure: &Failure) -> Option<Duration> {
        let again = if self.reply.is_some() { self.persistent } else { self.config.reconnect.is_some() };
        match failure.fate {
            _ if !again => None,
            Fate::Final => None,
            Fate::RetryNow => Some(Duration::ZERO),
            Fate::RetryOnce if self.bad_requests > 0 => None,
            Fate::RetryOnce => {
                self.bad_requests += 1;
                self.backoff.next_delay(&mut rand::rng())
            }
            Fate::Retry => self.backoff.next_delay(&mut rand::rng()),
        }
    }

    /// One connection, from the attempt to its end.
    async fn connection(&mut self, inbox: &mut Inbox) -> Result<Interrupt, Failure> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let announce = self.tunnel.is_none();
        if announce {
            self.shared.set_state(ConnectionState::Connecting);
        }
        self.shared.expect_confirmation();
        if self.config.server_url.tls && self.tls.is_none() {
            self.tls = Some(self.config.client_tls().map_err(Failure::last)?);
        }
        let established = tokio::select! {
            biased;
            interrupt = inbox.interrupt() => return Ok(interrupt),
            outcome = attempt(&self.config, self.tls.as_ref(), &self.known, deadline, &self.shared, announce) => outcome?,
        };
        self.set_up(&established).await.map_err(Failure::last)?;
        self.serve(established, deadline, inbox).await
    }

    async fn set_up(&mut self, established: &Established) -> Result<(), VpnError> {
        let remote = established.remote.ip();
        if !self.known.contains(&remote) {
            self.known.push(remote);
        }
        match &mut self.tunnel {
            Some(tunnel) => tunnel.renew(&established.hello, remote, &self.shared).await,
            None => {
                let tunnel =
                    Tunnel::open(&self.config, &established.hello, remote, &self.traffic, &self.shared)
                        .await?;
                self.tunnel = Some(tunnel);
                Ok(())
            }
        }
    }

    /// Carries packets until the connection ends.
    async fn serve(
        &mut self,
        established: Established,
        deadline: Instant,
        inbox: &mut Inbox,
    ) -> Result<Interrupt, Failure> {
        let Established { websocket, session, hello, remote } = established;
        let Some(tunnel) = self.tunnel.as_mut() else { return Err(Failure::last(no_tunnel())) };
        let mtu = tunnel.mtu_info(remote.ip());
        let (orders, order_inbox) = mpsc::channel(1);
        let downlink = tunnel.downlink(&hello, &self.traffic, &self.shared);
        let traffic = Arc::clone(&self.traffic);
        let mut link = Link::new(websocket, session, downlink, tunnel.queue(), traffic, order_inbox);
        let shared = &self.shared;
        let mut confirmed = None;
        let ended = loop {
            tokio::select! {
                biased;
                interrupt = inbox.interrupt() => break Ended::Interrupt(interrupt),
                end = link.run_until(|| confirmed.is_none() && shared.is_confirmed()) => match end {
                    Some(end) => break Ended::Link(end),
                    None => {
                        confirmed = Some(Instant::now());
                        tunnel.set_online(true);
                        let dns = Some(tunnel.dns());
                        shared.set_connected(Status { dns, ..status(&hello, remote) }, mtu);
                        self.bad_requests = 0;
                        if let Some(reply) = self.reply.take() {
                            answer(reply, Ok(assigned(&hello)));
                        }
                    }
                },
                reason = tunnel.failed() => break Ended::Failed(Failure::last(interface_failed(&reason))),
                () = tokio::time::sleep_until(deadline), if confirmed.is_none() => {
                    break Ended::Failed(Failure::timeout("confirmation"));
                }
            }
        };
        tunnel.set_online(false);
        if confirmed.is_some_and(|since| since.elapsed() >= STABLE) {
            self.backoff.reset();
        }
        match ended {
            Ended::Link(end) => {
                link.into_websocket().close(end.close_code(), "", CLOSE_WAIT).await;
                Err(Failure::from(end))
            }
            Ended::Failed(failure) => {
                drop(timeout(GOODBYE, Box::pin(say_goodbye(link, &orders))).await);
                Err(failure)
            }
            Ended::Interrupt(interrupt) => {
                // The host is put back meanwhile: a server that is silent does not delay it.
                let tunnel = self.tunnel.take();
                let goodbye = inbox.goodbye(Box::pin(say_goodbye(link, &orders)));
                tokio::join!(goodbye, async {
                    if let Some(tunnel) = tunnel {
                        tunnel.close().await;
                    }
                });
                Ok(interrupt)
            }
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

/// What ended a connection.
enum Ended {
    Interrupt(Interrupt),
    Link(End),
    Failed(Failure),
}

/// Tells the server that we leave, and closes (PROTOCOL §9).
async fn say_goodbye(mut link: Link<Stream, Downlink>, orders: &mpsc::Sender<Order>) {
    // The channel has room: this is its only order.
    let _queued = orders.try_send(Order { code: DisconnectCode::ClientDisconnect, message: "" });
    link.run().await;
    link.into_websocket().close(CloseCode::Normal.as_u16(), "", GOODBYE).await;
}

fn status(hello: &Accepted, remote: SocketAddr) -> Status {
    Status {
        assigned_ip: Some(hello.assigned_ip),
        assigned_ip6: hello.v6.map(|v6| v6.assigned_ip),
        server_addr: Some(remote.to_string()),
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
