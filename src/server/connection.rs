//! One connection, from TCP to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{self, Judgement};
use super::hub::{HANDSHAKE_TIMEOUT, Hub};
use super::peer::{Identity, Peer, Present};
use super::port::Uplink;
use super::reservation::Reservation;
use super::running::Running;
use super::sessions::Admitted;
use super::source::{client_address, is_trusted};
use super::strangers::Stranger;
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::{Accepted, AcceptedV6, ClientHello, Features, RejectCode, Rejection, VERSION};
use crate::config::clients::Decision;
use crate::engine::{Link, Meter, Order, Port, Seat, clock};
use crate::network::delete_conntrack;
use crate::packet::{Intake, Record};
use crate::session::{AfterRefusal, Listening, Opened, Request, Session, Unconfirmed};
use crate::transport::{Stream, UpgradeError, WebSocket, WebSocketError, read_proxy_header, upgrade_watched};
use crate::tunnel::Tun;

/// How long the peer of a refused connection has to answer our Close.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// How long a connection waits for the one that it takes the place of, so that packets keep their order: a round trip,
/// unless the old way is dead.
const HANDOVER: Duration = Duration::from_millis(250);

/// How long a trusted proxy may take for its PROXY header, within the deadline of all: it has it ready.
const PROXY_HEADER_TIME: Duration = Duration::from_secs(5);

/// How long a first message may take behind the upgrade, within the same: clients send it at once.
const FIRST_MESSAGE_TIME: Duration = Duration::from_secs(5);

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
    #[error("the client did not wait for its answer")]
    Early,
    #[error("the handshake took too long")]
    Timeout,
    #[error("the session ended meanwhile")]
    Gone,
}

/// Where a connection is served.
pub(super) struct Place {
    /// The TUN's queue that is read on the same thread.
    pub(super) queue: Arc<Tun>,
    /// Counts the connection, for as long as it lasts.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) seat: Seat,
}

/// Serves one TCP connection to its end. `stranger` counts it among the unconfirmed.
pub(super) async fn serve(
    hub: Arc<Hub>,
    place: Place,
    tcp: std::net::TcpStream,
    from: SocketAddr,
    mut stranger: Stranger,
) {
    let must_go = stranger.must_go();
    // What is needed for the beginning or the end only has memory of its own: a task keeps its size.
    let running = {
        let beginning = Box::pin(begin(&hub, &place, tcp, from, stranger));
        tokio::select! {
            biased;
            running = beginning => running,
            () = must_go => return tracing::debug!(%from, "an unconfirmed connection is closed for others"),
        }
    };
    if let Some(running) = running {
        running.run().await;
    }
}

/// From TCP to a session.
async fn begin(
    hub: &Arc<Hub>,
    place: &Place,
    tcp: std::net::TcpStream,
    from: SocketAddr,
    mut stranger: Stranger,
) -> Option<Box<Running>> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut tcp = TcpStream::from_std(tcp)
        .inspect_err(|error| tracing::debug!(%from, %error, "a connection cannot be waited for"))
        .ok()?;
    let from = peer(hub, &mut tcp, from, deadline.min(Instant::now() + PROXY_HEADER_TIME)).await?;
    if !is_trusted(from.ip(), &hub.config.trusted_proxies)
        && let Err(refusal) = stranger.identify(from.ip())
    {
        tracing::debug!(%from, %refusal, "a connection is closed");
        return None;
    }
    let upgraded = upgrade_watched(tcp, hub.tls.as_ref(), &hub.upgrade, deadline, || stranger.head_begins())
        .await
        .inspect_err(|error| tracing::debug!(%from, %error, "no tunnel came of a connection"))
        .ok()?;
    let source = client_address(from, &upgraded.forwarded_for, &hub.config.trusted_proxies);
    let source = SocketAddr::new(source, from.port());
    let mut websocket = upgraded.websocket;
    if let Err(refusal) = stranger.identify(source.ip()) {
        tracing::debug!(%source, %refusal, "a connection is closed");
        websocket.close(CloseCode::TryAgainLater.as_u16(), "", CLOSE_WAIT).await;
        return None;
    }
    let handshake = Handshake { hub, place, source, deadline };
    match handshake.run(&mut websocket).await {
        Ok(up) => {
            stranger.confirmed();
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
    source: SocketAddr,
    deadline: Instant,
}

/// A confirmed session with what it holds.
struct Up {
    session: Session,
    peer: Arc<Peer>,
    port: Uplink,
    orders: mpsc::Receiver<Order>,
}

/// Why, and what the connection is closed with; none if it is gone already.
type Ended = (Refused, Option<u16>);

impl Handshake<'_> {
    async fn run(&self, websocket: &mut Socket) -> Result<Up, Ended> {
        let (request, mut reservation) = self.request(websocket).await?;
        let name = reservation.name().or_else(|| request.hello().name.clone());
        let mtu = self.mtu(request.hello());
        let intake = Intake { mtu, offload: request.features().offload };
        let hello = self.hello(&mut reservation, mtu, request.is_hybrid()).await?;
        let (unconfirmed, frame) = request.accept(&hello, &mut rand::rng()).map_err(session_failed)?;
        self.send(websocket, &frame).await?;
        let identity = Identity {
            id: hello.client_id.clone(),
            v4: hello.assigned_ip,
            v6: hello.v6.map(|v6| v6.assigned_ip),
            prefix_length: hello.prefix_length,
            intake,
            name,
        };
        self.confirmation(websocket, unconfirmed, identity, reservation).await
    }

    /// A first message that can be granted. One whose ticket is refused may be followed by another (PROTOCOL §8).
    async fn request(&self, websocket: &mut Socket) -> Result<(Request, Reservation), Ended> {
        let mut listening = Listening::new(Arc::clone(&self.hub.keypair));
        loop {
            let soon = self.deadline.min(Instant::now() + FIRST_MESSAGE_TIME);
            let message = self.receive(websocket, soon).await?;
            let opened = {
                let mut members = self.hub.members();
                listening.handle_message(clock::now(), &mut rand::rng(), &mut members.replay, message)
            };
            let (frame, then, why) = match opened.map_err(session_failed)? {
                Opened::Refused { frame, then } => (frame, then, Refused::Hello),
                Opened::Request(request) => {
                    let request = *request;
                    let rejection = match self.judge(websocket, &request).await? {
                        Ok(reservation) => return Ok((request, reservation)),
                        Err(rejection) => rejection,
                    };
                    let code = rejection.code.clone();
                    let (frame, then) =
                        request.reject(rejection, &mut rand::rng()).map_err(session_failed)?;
                    (frame, then, Refused::Rejected(code))
                }
            };
            self.send(websocket, &frame).await?;
            match then {
                AfterRefusal::Listen(again) => listening = again,
                AfterRefusal::Close(code) => return Err((why, Some(code.as_u16()))),
            }
        }
    }

    /// Whether the client may come in; the program is asked where it is to say.
    async fn judge(
        &self,
        websocket: &mut Socket,
        request: &Request,
    ) -> Result<Result<Reservation, Rejection>, Ended> {
        let question = match self.hub.judge(self.source, request) {
            Judgement::Granted(reservation) => return Ok(Ok(*reservation)),
            Judgement::Refused(rejection) => return Ok(Err(rejection)),
            Judgement::Ask(question) => question,
        };
        let answer = tokio::select! {
            answer = self.hub.questions.ask(self.source, question) => answer,
            // The client has nothing to say before it is answered; it has gone, or breaks the protocol.
            early = self.receive(websocket, self.deadline) => {
                early?;
                let code = CloseCode::ProtocolError.as_u16();
                return Err((Refused::Early, Some(code)));
            }
        };
        let decision = match answer {
            Err(code) => return Ok(Err(admission::rejection(code))),
            Ok(answer) => Decision::parse(&answer, self.hub.config.subnet),
        };
        Ok(match decision {
            Ok(decision) => self.hub.grant(self.source, request, &decision),
            Err(fault) => {
                let message =
                    format!("authenticate answered wrongly: {}; the client was not let in", fault.message);
                self.hub.questions.warn(&message);
                Err(admission::rejection(RejectCode::BadRequest))
            }
        })
    }

    /// What the client is told of what it is promised.
    async fn hello(&self, reservation: &mut Reservation, mtu: u16, hybrid: bool) -> Result<Accepted, Ended> {
        let Some(offer) = reservation.offer() else { return Err((Refused::Gone, None)) };
        // An address that had not rested: what its last holder left must not reach the next one.
        for addr in &offer.early {
            if let Err(error) = delete_conntrack(*addr).await {
                tracing::warn!(%error, "connection tracking entries of a reused address remain");
            }
        }
        let config = &self.hub.config;
        let v6 = offer.addresses.v6.zip(config.subnet6).map(|(addr, subnet)| AcceptedV6 {
            assigned_ip: addr,
            prefix_length: subnet.prefix_len(),
            gateway: subnet.server(),
        });
        Ok(Accepted {
            version: VERSION,
            features: Features::NONE,
            client_id: offer.client_id.clone(),
            assigned_ip: offer.addresses.v4,
            prefix_length: config.subnet.prefix_len(),
            gateway: config.subnet.server(),
            v6,
            mtu,
            keepalive_interval_secs: whole_seconds(config.keepalive_interval),
            dns: config.dns.clone(),
            ticket: reservation.ticket(hybrid),
            mlkem768: None,
        })
    }

    /// Waits for the client's proof that it made the first message itself (PROTOCOL §3). Only then
    /// is it routed and announced, and only then is an older connection of its session closed.
    async fn confirmation(
        &self,
        websocket: &mut Socket,
        unconfirmed: Unconfirmed,
        identity: Identity,
        reservation: Reservation,
    ) -> Result<Up, Ended> {
        let message = self.receive(websocket, self.deadline).await?;
        // What stands behind the confirmation in its message is short, and rare.
        let mut behind = Vec::new();
        let session = unconfirmed
            .handle_message(clock::now(), &mut rand::rng(), message, |record| {
                behind.push((record.packet.to_vec(), record.offload));
            })
            .map_err(session_failed)?;
        let (order_sender, orders) = mpsc::channel(ORDERS);
        let connection = self.hub.new_connection();
        let present = Present { connection, remote: self.source, orders: order_sender };
        let Some(admitted) = self.hub.confirm(reservation, identity, present) else {
            return Err((Refused::Gone, Some(CloseCode::PolicyViolation.as_u16())));
        };
        let Admitted { peer, replaced, is_new, is_enrolled } = admitted;
        if let Some(replaced) = replaced {
            // What the client has sent by the old connection comes before what it sends by this one.
            let _late = timeout(HANDOVER, replaced.gone()).await;
        }
        self.hub.tell_of_losses(&peer, &self.place.queue);
        if is_new {
            self.hub.leases_kept().await;
        }
        if is_enrolled && !self.hub.clients_kept().await {
            let message = "a client was registered by an invite, and that could not be written to stateDir: it is \
                           forgotten when the server ends; see to the disk, and invite it again";
            self.hub.events.warn_of_client("clients-not-kept", peer.id.clone(), message);
        }
        let mut port = Uplink::new(Arc::clone(self.hub), Arc::clone(&peer), Arc::clone(&self.place.queue));
        for (packet, offload) in &mut behind {
            port.deliver(Record { packet, offload: *offload });
        }
        port.delivered();
        Ok(Up { session, peer, port, orders })
    }

    async fn receive<'w>(&self, websocket: &'w mut Socket, deadline: Instant) -> Result<&'w mut [u8], Ended> {
        match timeout_at(deadline, websocket.recv()).await {
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
    /// What carries packets until the connection ends.
    fn carry(self, hub: &Arc<Hub>, websocket: Socket) -> Running {
        let Self { session, peer, port, orders } = self;
        let (queue, traffic) = (Arc::clone(&peer.queue), Arc::clone(&peer.traffic));
        if hub.is_closing() {
            peer.end(DisconnectCode::ShuttingDown, "the server is stopping");
        }
        let quantum = websocket.stream().quantum();
        let meter = Meter::new(Arc::clone(&peer.limits));
        let link = Link::new(websocket, session, port, queue, traffic, orders);
        let link = link.with_quantum(quantum).with_meter(meter);
        Running::new(link, hub, peer)
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
