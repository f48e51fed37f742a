//! One client as its server sees it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};

use crate::codec::disconnect::DisconnectCode;
use crate::engine::{Limits, Order, clock};
use crate::packet::{Answers, Intake, Offload, Router, count_drop};
use crate::qos::{FlowHasher, PacketQueue, RateLimit};
use crate::report::{ClientInfo, ClientTelemetry, DisconnectReason, DropReport, QualityReport, timestamp};
use crate::session::roster::ConnectionId;
use crate::telemetry::{DropReason, Quality, Traffic};

/// A session, as its present connection has it. What outlasts the connection is shared with the [`Peer`] of the next.
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    /// What both ends agreed that packets may be.
    pub(super) intake: Intake,
    /// Who tells this host that a packet is longer, or the client away: the client, as the kernel takes no
    /// packet from its own address.
    pub(super) router: Router,
    pub(super) answers: Answers,
    /// Packets on their way to the client.
    pub(super) queue: Arc<PacketQueue>,
    /// Packets that came from the client faster than its limit allows.
    pub(super) held: Arc<PacketQueue>,
    pub(super) limits: Arc<Limits>,
    pub(super) traffic: Arc<Traffic>,
    /// The connection's number; none before the first one of a session that an earlier process had.
    pub(super) connection: Option<ConnectionId>,
    name: Option<String>,
    /// Where the connection comes from.
    remote: Option<SocketAddr>,
    since: String,
    /// To the connection's link.
    orders: Option<mpsc::Sender<Order>>,
    /// The connection has delivered all that it will.
    gone: watch::Sender<bool>,
    lasting: Arc<Lasting>,
}

/// What a session has besides its queues, over all its connections.
struct Lasting {
    /// Why the connection is away; none while it is there.
    away: Mutex<Option<DisconnectReason>>,
    /// Why the operator has ended it.
    verdict: Mutex<Option<DisconnectReason>>,
    last_keepalive: Mutex<Option<String>>,
    /// What the keepalives that the server sent say of the link; none before the first check.
    quality: Mutex<Option<QualityReport>>,
    ended: watch::Sender<bool>,
}

/// What one connection's peer hands on to the next one's.
struct Kept {
    queue: Arc<PacketQueue>,
    held: Arc<PacketQueue>,
    limits: Arc<Limits>,
    traffic: Arc<Traffic>,
    since: String,
    lasting: Arc<Lasting>,
}

/// Who a new peer is.
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) prefix_length: u8,
    pub(super) intake: Intake,
    pub(super) name: Option<String>,
}

/// The connection of a peer.
pub(super) struct Present {
    pub(super) connection: ConnectionId,
    pub(super) remote: SocketAddr,
    /// What reaches its link.
    pub(super) orders: mpsc::Sender<Order>,
}

impl Peer {
    /// A client whose first connection is up; without one, a client of an earlier process, which may come back.
    pub(super) fn new(identity: Identity, present: Option<Present>, limit: Option<RateLimit>) -> Self {
        let traffic = Arc::<Traffic>::default();
        let queue = || {
            let queue = PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng()));
            queue.set_rate(limit.map(|limit| limit.rate()));
            Arc::new(queue)
        };
        let (queue, held) = (queue(), queue());
        let away = present.is_none().then_some(DisconnectReason::ConnectionLost);
        let lasting = Arc::new(Lasting {
            away: Mutex::new(away),
            verdict: Mutex::default(),
            last_keepalive: Mutex::default(),
            quality: Mutex::default(),
            ended: watch::Sender::new(false),
        });
        let limits = Arc::new(Limits::new(limit));
        let kept = Kept { queue, held, limits, traffic, since: timestamp(), lasting };
        Self::with(kept, identity, present)
    }

    /// The same session with another connection, whose hellos said what `identity` has.
    pub(super) fn resumed(&self, identity: Identity, present: Present) -> Self {
        let kept = Kept {
            queue: Arc::clone(&self.queue),
            held: Arc::clone(&self.held),
            limits: Arc::clone(&self.limits),
            traffic: Arc::clone(&self.traffic),
            since: self.since.clone(),
            lasting: Arc::clone(&self.lasting),
        };
        Self::with(kept, identity, Some(present))
    }

    fn with(kept: Kept, identity: Identity, present: Option<Present>) -> Self {
        let Kept { queue, held, limits, traffic, since, lasting } = kept;
        let Identity { id, v4, v6, prefix_length, intake, name } = identity;
        let (connection, remote, orders) = match present {
            Some(Present { connection, remote, orders }) => (Some(connection), Some(remote), Some(orders)),
            None => (None, None, None),
        };
        Self {
            id,
            v4,
            v6,
            intake,
            router: Router::new(Ipv4Net::new_assert(v4, prefix_length), v6),
            answers: Answers::new(clock::now()),
            queue,
            held,
            limits,
            traffic,
            connection,
            name,
            remote,
            since,
            orders,
            gone: watch::Sender::new(false),
            lasting,
        }
    }

    /// The connection was lost: packets wait for the next one, though not for long.
    pub(super) fn set_away(&self, reason: DisconnectReason) {
        *lock(&self.lasting.away) = Some(reason);
        self.hold();
    }

    /// Lets packets of both directions wait for a connection.
    pub(super) fn hold(&self) {
        let now = clock::now();
        self.queue.hold(now);
        self.held.hold(now);
    }

    /// Drops what has waited for a connection for too long.
    pub(super) fn age(&self, now: Instant) {
        self.queue.age(now);
        self.held.age(now);
    }

    /// A connection is there.
    pub(super) fn set_online(&self) {
        *lock(&self.lasting.away) = None;
        let now = clock::now();
        self.queue.release(now);
        self.held.release(now);
    }

    /// Why the client is away; none while it is there.
    pub(super) fn away(&self) -> Option<DisconnectReason> {
        *lock(&self.lasting.away)
    }

    /// The operator ends the session: whatever becomes of its connection, it does not wait for the client.
    pub(super) fn condemn(&self, reason: DisconnectReason) {
        *lock(&self.lasting.verdict) = Some(reason);
    }

    /// Why the operator has ended it, if he has.
    pub(super) fn verdict(&self) -> Option<DisconnectReason> {
        *lock(&self.lasting.verdict)
    }

    /// Holds both directions to `limit`, at once.
    pub(super) fn set_limit(&self, limit: Option<RateLimit>) {
        self.limits.set(limit);
        let rate = limit.map(|limit| limit.rate());
        // Either wakes the link's task if it waits.
        self.queue.set_rate(rate);
        self.held.set_rate(rate);
    }

    /// Tells the link to end the session. A second order changes nothing.
    pub(super) fn end(&self, code: DisconnectCode, message: &'static str) {
        // A full or closed channel means that the connection is ending already.
        if let Some(orders) = &self.orders {
            drop(orders.try_send(Order { code, message }));
        }
    }

    /// Resolves when the connection has delivered all that it will.
    pub(super) async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        let _gone = gone.wait_for(|gone| *gone).await;
    }

    /// The connection delivers nothing more.
    pub(super) fn set_gone(&self) {
        self.gone.send_replace(true);
    }

    /// Resolves when the session is over.
    pub(super) async fn ended(&self) {
        let mut ended = self.lasting.ended.subscribe();
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    /// The session is over.
    pub(super) fn set_ended(&self) {
        self.lasting.ended.send_replace(true);
    }

    /// Counts a packet of the client's that no queue takes.
    pub(super) fn drop_packet(&self, reason: DropReason, packet: &[u8], offload: Offload) {
        count_drop(self.traffic.drops(), reason, packet, offload);
    }

    /// The client sent a keepalive.
    pub(super) fn keepalive_came(&self) {
        *lock(&self.lasting.last_keepalive) = Some(timestamp());
    }

    /// A keepalive of ours was answered, or timed out.
    pub(super) fn checked(&self, quality: &Quality) {
        *lock(&self.lasting.quality) = Some(QualityReport::from(quality));
    }

    pub(super) fn telemetry(&self) -> ClientTelemetry {
        let traffic = self.traffic.snapshot();
        let limit = self.limits.get();
        ClientTelemetry {
            client_id: self.id.clone(),
            assigned_ip: self.v4,
            last_keepalive_at: lock(&self.lasting.last_keepalive).clone(),
            keepalives_received: traffic.keepalives_received,
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
            rate_limit_bytes_per_sec: limit.map(|limit| limit.rate()),
            burst_bytes: limit.map(|limit| limit.burst()),
            quality: lock(&self.lasting.quality).clone(),
            drops: DropReport::from(&traffic.drops),
        }
    }

    pub(super) fn info(&self) -> ClientInfo {
        ClientInfo {
            telemetry: ClientTelemetry { quality: None, ..self.telemetry() },
            connected_since: self.since.clone(),
            assigned_ip6: self.v6,
            remote_addr: self.remote.map(|remote| remote.to_string()),
            name: self.name.clone(),
            online: self.away().is_none(),
        }
    }
}

/// Nothing panics while it is held, so a poisoned lock cannot hold half a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
