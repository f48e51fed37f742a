//! One attempt: from a name to a session whose keys are agreed on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::failure::Failure;
use super::shared::Shared;
use crate::codec::close::CloseCode;
use crate::codec::hello::{Accepted, ClientHello, Features, VERSION};
use crate::config::ClientConfig;
use crate::engine::clock;
use crate::error::{ErrorCode, VpnError};
use crate::report::ConnectionState;
use crate::session::{ClientFailure, ClientParams, KeepaliveCap, KeyLimits, Session, client};
use crate::transport::{ClientTls, DialOptions, Dialed, Proxy, Stream, WebSocket, dial};

/// How long an end that gives up waits for the answer to its Close.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// A session whose keys are agreed on; the server awaits the confirmation, which is already sent.
pub(super) struct Established {
    pub(super) websocket: WebSocket<Stream>,
    pub(super) session: Session,
    pub(super) hello: Accepted,
    /// Where the connection goes: to the server, or to its proxy.
    pub(super) remote: SocketAddr,
    /// What users are told the server is.
    pub(super) server: String,
}

/// What a tunnel knows of the way to its server.
pub(super) struct Approach<'a> {
    /// There if the server's URL asks for it.
    pub(super) tls: Option<&'a ClientTls>,
    /// What the connection goes through, if anything.
    pub(super) proxy: Option<&'a Proxy>,
    /// Addresses of earlier attempts, for when the name no longer resolves.
    pub(super) known: &'a [IpAddr],
    /// How long it may be silent.
    pub(super) keepalive_cap: KeepaliveCap,
    /// What is offered: nothing, once the server could make nothing of a hello.
    pub(super) features: Features,
}

/// Tries once.
pub(super) async fn attempt(
    config: &ClientConfig,
    approach: Approach<'_>,
    deadline: Instant,
    shared: &Shared,
    announce: bool,
) -> Result<Established, Failure> {
    let options = DialOptions {
        tls: approach.tls.cloned(),
        congestion: config.congestion_control,
        proxy: approach.proxy.cloned(),
        fallback_addrs: approach.known.to_vec(),
        ..DialOptions::new(deadline)
    };
    let dialed = dial(&config.server_url, &options).await?;
    if announce {
        shared.set_state(ConnectionState::Handshaking);
    }
    handshake(config, dialed, &approach, deadline).await
}

async fn handshake(
    config: &ClientConfig,
    dialed: Dialed,
    approach: &Approach<'_>,
    deadline: Instant,
) -> Result<Established, Failure> {
    let Dialed { mut websocket, remote, server, .. } = dialed;
    let params = ClientParams {
        server_key: config.server_public_key,
        hello: ClientHello {
            version: VERSION,
            features: approach.features,
            mtu: Some(config.mtu),
            name: config.name.clone(),
            token: None,
            mlkem768: None,
            ticket: None,
        },
        keepalive_interval: config.keepalive_interval,
        keepalive_cap: approach.keepalive_cap,
        key_limits: KeyLimits::default(),
    };
    let (awaiting, frame) =
        client::start(params, &mut rand::rng()).map_err(|error| Failure::retry(internal(&error)))?;
    let answered = timeout_at(deadline, async {
        websocket.send(&frame).await.map_err(|error| Failure::before_answer(&error.into()))?;
        let message = websocket.recv().await.map_err(|error| Failure::before_answer(&error))?;
        Ok(awaiting.handle_message(clock::now(), &mut rand::rng(), message))
    });
    let outcome = answered.await.unwrap_or_else(|_| Err(Failure::timeout("handshake")))?;
    let mut connected = match outcome {
        Ok(connected) => connected,
        Err(failure) => {
            let code = match &failure {
                ClientFailure::Broken { close, .. } => *close,
                ClientFailure::Rejected(_) | ClientFailure::Disconnected(_) => CloseCode::Normal,
            };
            websocket.close(code.as_u16(), "", CLOSE_WAIT).await;
            return Err(failure.into());
        }
    };
    let mut confirmation = Vec::new();
    connected.session.poll_transmit(&mut confirmation).map_err(|error| Failure::retry(internal(&error)))?;
    let sent = timeout_at(deadline, websocket.send(&confirmation)).await;
    sent.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|error| Failure::before_answer(&error.into()))?;
    Ok(Established { websocket, session: connected.session, hello: connected.hello, remote, server })
}

fn internal(error: &dyn std::fmt::Display) -> VpnError {
    VpnError::new(
        ErrorCode::Internal,
        format!("the handshake could not be made: {error}; please report this"),
    )
}
