//! One attempt: from a name to a session whose keys are agreed on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::failure::Failure;
use super::shared::Shared;
use crate::codec::hello::{Accepted, ClientHello};
use crate::config::ClientConfig;
use crate::engine::clock;
use crate::error::{ErrorCode, VpnError};
use crate::report::ConnectionState;
use crate::session::{ClientFailure, ClientParams, Hybrid, KeepaliveCap, KeyLimits, Session, client};
use crate::transport::{
    ClientTls, DialOptions, Dialed, Progress, Proxy, Stream, WebSocket, WebSocketError, dial,
};

/// How long an end that gives up waits for the answer to its Close.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// An attempt without a TCP connection after so long is joined by another, and again: the first packet of a TCP
/// connection that is lost is sent again after a second, three, seven; whoever has waited for the network to come
/// back is not to wait for that.
const JOIN_AFTER: Duration = Duration::from_secs(1);

/// Attempts side by side at most: two for a user who waits for the first connection, and one a second for as long as
/// [`TCP_PATIENCE`] lasts while a tunnel comes back.
const DIALS: (usize, usize) = (2, 4);

/// How long a tunnel that comes back waits for TCP: then the name is looked up again, and the way as well.
const TCP_PATIENCE: Duration = Duration::from_secs(4);

/// How long it waits for the resolver before it tries the addresses that it knows: the resolver is behind the same
/// network that has just failed, or behind the tunnel.
const FALLBACK_AFTER: Duration = Duration::from_millis(300);

/// A session whose keys are agreed on. What [`attempt`] gives has sent the confirmation that the server awaits.
pub(super) struct Established {
    pub(super) websocket: WebSocket<Stream>,
    pub(super) session: Session,
    pub(super) hello: Accepted,
    /// Where the connection goes: to the server, or to its proxy.
    pub(super) remote: SocketAddr,
    /// Where it leaves from.
    pub(super) local: SocketAddr,
    /// What users are told the server is.
    pub(super) server: String,
    /// The ticket was not taken.
    pub(super) is_anew: bool,
}

/// What is attempted, and what is known of the way to the server.
pub(super) struct Approach {
    pub(super) config: Arc<ClientConfig>,
    /// There if the server's URL asks for it.
    pub(super) tls: Option<ClientTls>,
    /// What the connection goes through, if anything.
    pub(super) proxy: Option<Proxy>,
    /// Addresses of earlier attempts, for when the name no longer resolves.
    pub(super) known: Vec<IpAddr>,
    /// How long it may be silent.
    pub(super) keepalive_cap: KeepaliveCap,
    /// What the server is told and offered.
    pub(super) hello: ClientHello,
    /// What the session of the hello's ticket, if there is one, was protected by.
    pub(super) hybrid: Hybrid,
    pub(super) aim: Aim,
    pub(super) deadline: Instant,
    pub(super) key_limits: KeyLimits,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The first connection of a tunnel.
    First,
    /// The next one, after the last was lost.
    Again,
    /// Another one beside one that is up: to go on with its session, or not at all.
    Beside,
}

/// Tries once.
pub(super) async fn attempt(approach: Approach, shared: Arc<Shared>) -> Result<Established, Failure> {
    let dialed = reach(&approach).await?;
    if approach.aim == Aim::First {
        shared.set_state(ConnectionState::Handshaking);
    }
    handshake(&approach, dialed).await
}

/// The first WebSocket of several dials, each begun a second after the one before if there is no TCP yet.
pub(super) async fn reach(approach: &Approach) -> Result<Dialed, Failure> {
    let begun = Instant::now();
    let (most, patience) = match approach.aim {
        Aim::First => (DIALS.0, None),
        Aim::Again | Aim::Beside => (DIALS.1, Some(begun + TCP_PATIENCE)),
    };
    let progress = Progress::default();
    let mut dials = FuturesUnordered::new();
    let mut join_at = begun;
    loop {
        if dials.len() < most && (dials.is_empty() || (Instant::now() >= join_at && !progress.is_connected()))
        {
            dials.push(dial_once(approach, progress.clone()));
            join_at += JOIN_AFTER;
        }
        let may_join = dials.len() < most && !progress.is_connected();
        tokio::select! {
            biased;
            Some(outcome) = dials.next() => match outcome {
                Ok(dialed) => return Ok(dialed),
                Err(failure) if dials.is_empty() => return Err(failure),
                Err(_) => {}
            },
            () = sleep_until(join_at), if may_join => {}
            () = run_out(patience), if !progress.is_connected() => return Err(Failure::timeout("connection")),
        }
    }
}

async fn run_out(patience: Option<Instant>) {
    match patience {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

async fn dial_once(approach: &Approach, progress: Progress) -> Result<Dialed, Failure> {
    let standard = DialOptions::new(approach.deadline);
    let fallback_after = match approach.aim {
        Aim::First => standard.fallback_after,
        Aim::Again | Aim::Beside => FALLBACK_AFTER,
    };
    let options = DialOptions {
        tls: approach.tls.clone(),
        congestion: approach.config.congestion_control,
        proxy: approach.proxy.clone(),
        fallback_addrs: approach.known.clone(),
        fallback_after,
        progress,
        ..standard
    };
    Ok(dial(&approach.config.server_url, &options).await?)
}

async fn handshake(approach: &Approach, dialed: Dialed) -> Result<Established, Failure> {
    let agreed = negotiate(approach, dialed).await?;
    confirm(approach, agreed).await
}

/// Agrees on keys. Until [`confirm`], the server may be answering somebody's recording, and does nothing.
pub(super) async fn negotiate(approach: &Approach, dialed: Dialed) -> Result<Established, Failure> {
    let Dialed { mut websocket, remote, local, server, .. } = dialed;
    let (mut hello, mut hybrid) = (approach.hello.clone(), approach.hybrid);
    let mut is_anew = false;
    let outcome = loop {
        let outcome = match exchange(approach, &mut websocket, hello.clone(), hybrid).await {
            Ok(outcome) => outcome,
            Err(Refusal { close, failure }) => {
                if let Some(code) = close {
                    websocket.close(code, "", CLOSE_WAIT).await;
                }
                return Err(failure);
            }
        };
        match outcome {
            Err(ClientFailure::ResumeRefused(_)) if approach.aim != Aim::Beside && !is_anew => {
                // On the same connection, once (PROTOCOL §8).
                hello.ticket = None;
                hybrid = Hybrid::Offered;
                is_anew = true;
            }
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(client::Connected { session, hello }) => {
            Ok(Established { websocket, session, hello, remote, local, server, is_anew })
        }
        Err(failure) => {
            websocket.close(failure.close_code().as_u16(), "", CLOSE_WAIT).await;
            Err(failure.into())
        }
    }
}

/// Proves that the session is this client's (PROTOCOL §3).
pub(super) async fn confirm(approach: &Approach, mut agreed: Established) -> Result<Established, Failure> {
    let mut confirmation = Vec::new();
    if let Err(error) = agreed.session.poll_transmit(&mut confirmation) {
        // Something wrong stood behind the answer.
        agreed.websocket.close(error.close_code().as_u16(), "", CLOSE_WAIT).await;
        return Err(ClientFailure::from(error).into());
    }
    let sent = timeout_at(approach.deadline, agreed.websocket.send(&confirmation)).await;
    sent.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|error| Failure::before_answer(&error.into()))?;
    Ok(agreed)
}

/// Message 1 and the answer to it.
async fn exchange(
    approach: &Approach,
    websocket: &mut WebSocket<Stream>,
    hello: ClientHello,
    hybrid: Hybrid,
) -> Result<Result<client::Connected, ClientFailure>, Refusal> {
    let Approach { config, keepalive_cap, deadline, key_limits, .. } = approach;
    // A ticket stands for it.
    let token = config.token.clone().filter(|_| hello.ticket.is_none());
    let hello = ClientHello { token, ..hello };
    let params = ClientParams {
        server_key: config.server_public_key,
        identity: config.identity.clone(),
        hello,
        hybrid,
        keepalive_interval: config.keepalive_interval,
        keepalive_cap: *keepalive_cap,
        key_limits: *key_limits,
    };
    let (awaiting, frame) = client::start(params, &mut rand::rng())
        .map_err(|error| Refusal { close: None, failure: Failure::retry(internal(&error)) })?;
    let answered = timeout_at(*deadline, async {
        websocket.send(&frame).await?;
        let message = websocket.recv().await?;
        Ok::<_, WebSocketError>(awaiting.handle_message(clock::now(), &mut rand::rng(), message))
    });
    match answered.await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err(Refusal { close: error.close_code(), failure: Failure::before_answer(&error) }),
        Err(_) => Err(Refusal { close: None, failure: Failure::timeout("handshake") }),
    }
}

/// A connection that cannot go on, and what it is to be closed with, if it is there at all.
struct Refusal {
    close: Option<u16>,
    failure: Failure,
}

fn internal(error: &dyn std::fmt::Display) -> VpnError {
    VpnError::new(
        ErrorCode::Internal,
        format!("the handshake could not be made: {error}; please report this"),
    )
}
