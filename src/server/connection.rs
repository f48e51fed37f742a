//! One connection, from TCP to its end.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use super::hub::Hub;
use super::peer::{Identity, Peer};
use super::port::Uplink;
use super::reservation::Reservation;
use super::source::{client_address, is_trusted};
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::{Accepted, AcceptedV6, ClientHello, Features, RejectCode, Rejection, VERSION};
use crate::engine::{End, Link, Meter, Port, Seat, clock};
use crate::network::delete_conntrack;
use crate::packet::Intake;
use crate::report::DisconnectReason;
use crate::session::{Listening, Opened, Request, Session, Unconfirmed};
use crate::transport::{Stream, UpgradeError, WebSocket, WebSocketError, read_proxy_header, upgrade};
use crate::tunnel::Tun;

/// From accepting TCP to the confirmed session (PROTOCOL §3).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the peer of a refused connection has to answer our Close.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// How long the peer of an ended session has to answer our Close (PROTOCOL §9).
const GOODBYE: Duration = Duration::from_secs(2);

/// Orders that may wait for a link: the first ends it, so that more have no effect.
const ORDERS: usize = 1;

type Socket = WebSocket<Stream>;

/// Why a connection ended before its session was confirmed. Told to the log only: the other side
/// proved nothing yet.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Upgrade(#[from] UpgradeError),
    #[error("{0}")]
    Transport(#[from] WebSocketError),
    #[error("{0}")]
    Session(#[from] crate::session::SessionError),
    #[error("rejected: {0:?}")]
    Rejected(RejectCode),
    #[error("the client's hello was refused")]
    Hello,
    #[error("the handshake took too long")]
    Timeout,
}

/// Where a connection is served.
pub(super) struct Place {
    /// The TUN's queue that is read on the same thread.
    pub(super) queue: Arc<Tun>,
    /// Counts the connection, for as long as it lasts.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) seat: Seat,
}

/// Serves one TCP connection to its end. `permit` counts it among the unconfirmed.
pub(super) async fn serve(
    hub: Arc<Hub>,
    place: Place,
    tcp: std::net::TcpStream,
    from: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // What is needed for the beginning or the end only has memory of its own: a task keeps its size.
    let Some(mut running) = Box::pin(begin(&hub, &place, tcp, from, permit)).await else { return };
    let end = running.link.run().await;
    tracing::debug!(client = running.registered.peer.id, ?end, "session ends");
    running.leave(&end).await;
}

/// From TCP to a session.
async fn begin(
    hub: &Arc<Hub>,
    place: &Place,
    tcp: std::net::TcpStream,
    from: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Option<Box<Running>> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut tcp = TcpStream::from_std(tcp)
        .inspect_err(|error| tracing::debug!(%from, %error, "a connection cannot be waited for"))
        .ok()?;
    let from = peer(hub, &mut tcp, from, deadline).await?;
    let upgraded = upgrade(tcp, hub.tls.as_ref(), &hub.upgrade, deadline)
        .await
        .inspect_err(|error| tracing::debug!(%from, %error, "no tunnel came of a connection"))
        .ok()?;
    let source = client_address(from, &upgraded.forwarded_for, &hub.config.trusted_proxies);
    let mut websocket = upgraded.websocket;
    let handshake = Handshake { hub, place, source, port: from.port(), deadline };
    match handshake.run(&mut websocket).await {
        Ok(up) => {
            drop(permit);
            Some(Box::new(up.carry(hub, websocket)))
        }
        Err((error, code)) => {
            tracing::debug!(%from, %error, "no session came of a connection");
            if let Some(code) = code {
                websocket.close(code, "", CLOSE_WAIT).await;
            }
            None
        }
    }
}

/// Who is at the other end: the socket's peer, or who has connected to it where it is a trusted proxy that
/// says so. None if the proxy should and does not.
async fn peer(hub: &Hub, tcp: &mut TcpStream, from: SocketAddr, deadline: Instant) -> Option<SocketAddr> {
    if !hub.config.proxy_protocol || !is_trusted(from.ip(), &hub.config.trusted_proxies) {
        return Some(from);
    }
    match read_proxy_header(tcp, deadline).await {
        Ok(source) => Some(source.unwrap_or(from)),
        Err(error) => {
            tracing::debug!(%from, %error, "a connection is closed unanswered");
            None
        }
    }
}

/// A connection that is not confirmed yet.
struct Handshake<'a> {
    hub: &'a Arc<Hub>,
    place: &'a Place,
    source: IpAddr,
    port: u16,
    deadline: Instant,
}

/// A confirmed session with what it holds.
struct Up {
    session: Session,
    peer: Arc<Peer>,
    port: Uplink,
    orders: mpsc::Receiver<crate::engine::Order>,
    reservation: Reservation,
}

/// Why, and what the connection is closed with; none if it is gone already.
type Ended = (Refused, Option<u16>);

impl Handshake<'_> {
    async fn run(&self, websocket: &mut Socket) -> Result<Up, Ended> {
        let request = self.first_message(websocket).await?;
        let (name, mtu) = (request.hello().name.clone(), self.mtu(request.hello()));
        let intake = Intake { mtu, offload: request.features().offload };
        let (reservation, hello) = match self.reserve(mtu).await {
            Ok(reserved) => reserved,
            Err(code) => return Err(self.reject(websocket, request, code).await),
        };
        let (unconfirmed, frame) = request.accept(&hello, &mut rand::rng()).map_err(session_failed)?;
        self.send(websocket, &frame).await?;
        let identity = Identity {
            id: hello.client_id.clone(),
            v4: hello.assigned_ip,
            v6: hello.v6.map(|v6| v6.assigned_ip),
            prefix_length: hello.prefix_length,
            intake,
            name,
            remote: self.source,
            port: self.port,
        };
        self.confirmation(websocket, unconfirmed, identity, reservation).await
    }

    /// The client's first message, opened.
    async fn first_message(&self, websocket: &mut Socket) -> Result<Request, Ended> {
        let message = self.receive(websocket).await?;
        let listening = Listening::new(Arc::clone(&self.hub.keypair));
        let opened = {
            let mut admission = self.hub.admission();
            listening.handle_message(clock::now(), &mut rand::rng(), &mut admission.replay, message)
        };
        match opened.map_err(session_failed)? {
            Opened::Request(request) => Ok(*request),
            Opened::Refused { frame, close } => {
                self.send(websocket, &frame).await?;
                Err((Refused::Hello, Some(close.as_u16())))
            }
        }
    }

    /// Addresses for this client, and what it is told of them.
    async fn reserve(&self, mtu: u16) -> Result<(Reservation, Accepted), RejectCode> {
        let reservation = Reservation::take(self.hub, self.source)?;
        let lease = &reservation.lease;
        // An address that had not rested: what its last holder left must not reach the next one.
        for addr in lease.early() {
            if let Err(error) = delete_conntrack(addr).await {
                tracing::warn!(%error, "connection tracking entries of a reused address remain");
            }
        }
        let config = &self.hub.config;
        let v6 = lease.v6.zip(config.subnet6).map(|(lease, subnet)| AcceptedV6 {
            assigned_ip: lease.addr,
            prefix_length: subnet.prefix_len(),
            gateway: subnet.server(),
        });
        let hello = Accepted {
            version: VERSION,
            features: Features::NONE,
            client_id: new_client_id(),
            assigned_ip: lease.v4.addr,
            prefix_length: config.subnet.prefix_len(),
            gateway: config.subnet.server(),
            v6,
            mtu,
            keepalive_interval_secs: whole_seconds(config.keepalive_interval),
            dns: config.dns.clone(),
            ticket: None,
            mlkem768: None,
        };
        Ok((reservation, hello))
    }

    async fn reject(&self, websocket: &mut Socket, request: Request, code: RejectCode) -> Ended {
        let message = match code {
            RejectCode::PoolExhausted => "no address is left",
            RejectCode::ShuttingDown => "the server is stopping",
            _ => "the server is full",
        };
        let rejection = Rejection { version: VERSION, code: code.clone(), message: message.to_owned() };
        let (frame, close) = match request.reject(rejection, &mut rand::rng()) {
            Ok(rejected) => rejected,
            Err(error) => return session_failed(error),
        };
        match self.send(websocket, &frame).await {
            Ok(()) => (Refused::Rejected(code), Some(close.as_u16())),
            Err(ended) => ended,
        }
    }

    /// Waits for the client's proof that it made the first message itself (PROTOCOL §3). Only then
    /// is it routed and announced.
    async fn confirmation(
        &self,
        websocket: &mut Socket,
        unconfirmed: Unconfirmed,
        identity: Identity,
        mut reservation: Reservation,
    ) -> Result<Up, Ended> {
        let message = self.receive(websocket).await?;
        let (order_sender, orders) = mpsc::channel(ORDERS);
        let peer = Arc::new(Peer::new(identity, order_sender, self.hub.config.default_rate_limit));
        let mut port = Uplink::new(Arc::clone(self.hub), Arc::clone(&peer), Arc::clone(&self.place.queue));
        let confirmed = unconfirmed
            .handle_message(clock::now(), &mut rand::rng(), message, |record| port.deliver(record));
        let session = confirmed.map_err(session_failed)?;
        port.delivered();
        reservation.confirm();
        self.hub.register(&peer);
        Ok(Up { session, peer, port, orders, reservation })
    }

    async fn receive<'w>(&self, websocket: &'w mut Socket) -> Result<&'w mut [u8], Ended> {
        match timeout_at(self.deadline, websocket.recv()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => {
                let code = error.close_code();
                Err((error.into(), code))
            }
            Err(_) => Err((Refused::Timeout, Some(CloseCode::PolicyViolation.as_u16()))),
        }
    }

    async fn send(&self, websocket: &mut Socket, frame: &[u8]) -> Result<(), Ended> {
        match timeout_at(self.deadline, websocket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((WebSocketError::Io(error).into(), None)),
            Err(_) => Err((Refused::Timeout, None)),
        }
    }

    /// The tunnel's MTU: the smaller of both wishes (PROTOCOL §3).
    fn mtu(&self, hello: &ClientHello) -> u16 {
        let least = if self.hub.config.subnet6.is_some() { 1280 } else { 576 };
        hello.mtu.map_or(self.hub.config.mtu, |wish| wish.min(self.hub.config.mtu)).max(least)
    }
}

impl Up {
    /// What carries packets until the session ends.
    fn carry(self, hub: &Arc<Hub>, websocket: Socket) -> Running {
        let Self { session, peer, port, orders, reservation } = self;
        let (queue, traffic) = (Arc::clone(&peer.queue), Arc::clone(&peer.traffic));
        if hub.is_closing() {
            peer.end(DisconnectCode::ShuttingDown, "the server is stopping");
        }
        let quantum = websocket.stream().quantum();
        let meter = Meter::new(Arc::clone(&peer.limits));
        let link = Link::new(websocket, session, port, queue, traffic, orders);
        let link = link.with_quantum(quantum).with_meter(meter);
        let registered = Registered { hub: Arc::clone(hub), peer, reason: DisconnectReason::ConnectionLost };
        Running { link, registered, reservation }
    }
}

/// A session that carries packets.
struct Running {
    link: Link<Stream, Uplink>,
    registered: Registered,
    reservation: Reservation,
}

impl Running {
    /// Says the goodbyes of a session that has ended.
    fn leave(self: Box<Self>, end: &End) -> Pin<Box<impl Future<Output = ()> + use<>>> {
        let Self { link, mut registered, reservation } = *self;
        // Nothing is routed to it any more, while the goodbyes are said.
        registered.reason = reason(end);
        drop(registered);
        let code = end.close_code();
        Box::pin(async move {
            link.into_websocket().close(code, "", GOODBYE).await;
            drop(reservation);
        })
    }
}

/// Takes the client out of the tables on every way out, a panic in its task included.
struct Registered {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    reason: DisconnectReason,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.hub.unregister(&self.peer, self.reason);
    }
}

const fn reason(end: &End) -> DisconnectReason {
    match end {
        End::Peer(_) => DisconnectReason::ClientDisconnect,
        End::Local(code) => local_reason(*code),
        End::Lost(_) | End::KeysSpent => DisconnectReason::ConnectionLost,
        End::BadMessage(_) | End::BadFrame(_) => DisconnectReason::ProtocolError,
        End::DeadPeer => DisconnectReason::DeadPeer,
    }
}

const fn local_reason(code: DisconnectCode) -> DisconnectReason {
    match code {
        DisconnectCode::ClientDisconnect => DisconnectReason::ClientDisconnect,
        DisconnectCode::ShuttingDown => DisconnectReason::ShuttingDown,
        DisconnectCode::Kicked => DisconnectReason::Kicked,
        DisconnectCode::Replaced => DisconnectReason::Replaced,
        DisconnectCode::IdleTimeout => DisconnectReason::IdleTimeout,
        DisconnectCode::Removed => DisconnectReason::Removed,
        DisconnectCode::ProtocolError => DisconnectReason::ProtocolError,
    }
}

fn session_failed(error: crate::session::SessionError) -> Ended {
    let code = error.close_code().as_u16();
    (error.into(), Some(code))
}

/// The hello speaks in whole seconds, from 5 to 120; so does the configuration.
fn whole_seconds(interval: Duration) -> u16 {
    u16::try_from(interval.as_secs()).unwrap_or(u16::MAX)
}

/// 128 random bits: unguessable, and never given twice.
fn new_client_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
