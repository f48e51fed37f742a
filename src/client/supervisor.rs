//! The task that owns a client's tunnel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::GOODBYE;
use super::attempt::{Approach, Established, attempt};
use super::failure::{Failure, Fate, is_cut};
use super::inbox::{Command, Inbox, Interrupt, Reply, answer};
use super::port::Downlink;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::{Accepted, Features};
use crate::config::{ClientConfig, Reconnect};
use crate::engine::{End, Link, Order};
use crate::error::{ErrorCode, VpnError};
use crate::network::repair;
use crate::report::{Assigned, ConnectionState, LogLevel, Status};
use crate::session::reconnect::Backoff;
use crate::session::{FEATURES, KeepaliveCap};
use crate::telemetry::Traffic;
use crate::transport::{ClientTls, Proxy, Stream};

/// The server has this long to answer the Close of a connection that has ended already: its loss
/// must not delay the next attempt.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// A connection that lasted this long was a success: the next back-off begins anew.
const STABLE: Duration = Duration::from_secs(10);

/// How a tunnel came to its end.
enum Outcome {
    Interrupted(Interrupt),
    Failed(VpnError),
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
            proxy: None,
            known: Vec::new(),
            keepalive_cap: KeepaliveCap::default(),
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
    /// The configuration's or the environment's, as it was at the beginning: what is known of addresses is
    /// its.
    proxy: Option<Proxy>,
    known: Vec<IpAddr>,
    /// What the connections of this tunnel that were cut while idle taught.
    keepalive_cap: KeepaliveCap,
    bad_requests: u32,
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
        let approach = Approach {
            tls: self.tls.as_ref(),
            proxy: self.proxy.as_ref(),
            known: &self.known,
            keepalive_cap: self.keepalive_cap,
            features: if self.bad_requests > 0 { Features::NONE } else { FEATURES },
        };
        let established = tokio::select! {
            biased;
            interrupt = inbox.interrupt() => return Ok(interrupt),
            outcome = attempt(&self.config, approach, deadline, &self.shared, announce) => outcome?,
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
        let Established { websocket, session, hello, remote, server } = established;
        let Some(tunnel) = self.tunnel.as_mut() else { return Err(Failure::last(no_tunnel())) };
        let (wire, wire_guard) = websocket.wire().ok().unzip();
        let mtu = tunnel.mtu(&hello, remote.ip(), wire, &self.traffic);
        let (orders, order_inbox) = mpsc::channel(1);
        let downlink = tunnel.downlink(&hello, &self.traffic, &self.shared);
        let traffic = Arc::clone(&self.traffic);
        let quantum = websocket.stream().quantum();
        let mut link = Link::new(websocket, session, downlink, tunnel.queue(), traffic, order_inbox)
            .with_quantum(quantum);
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
                        tunnel.set_online(&hello);
                        let dns = Some(tunnel.dns());
                        shared.set_connected(Status { dns, ..status(&hello, &server) }, mtu.clone());
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
        tunnel.set_offline();
        drop(wire_guard);
        if confirmed.is_some_and(|since| since.elapsed() >= STABLE) {
            self.backoff.reset();
        }
        match ended {
            Ended::Link(end) => {
                if confirmed.is_some() && is_cut(&end) {
                    self.learn(link.silence_before_cut());
                }
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

    /// Takes in how long a connection had been silent when it was cut.
    fn learn(&mut self, silence: Option<Duration>) {
        if let Some(silence) = silence
            && self.keepalive_cap.learn(silence)
            && let Some(interval) = self.keepalive_cap.get()
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
