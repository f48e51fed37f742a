//! One client as its server sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};

use crate::codec::disconnect::DisconnectCode;
use crate::engine::{Order, clock};
use crate::packet::{Answers, Router};
use crate::qos::{FlowHasher, PacketQueue};
use crate::report::{ClientInfo, ClientTelemetry, DropReport, timestamp};
use crate::telemetry::{DropReason, Priority, Traffic};

/// A confirmed session.
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    /// The longest packet that both ends agreed on.
    pub(super) mtu: u16,
    /// Who tells this host that a packet is longer: the client, as the kernel takes no packet from
    /// its own address.
    pub(super) router: Router,
    pub(super) answers: Answers,
    /// Packets on their way to the client.
    pub(super) queue: Arc<PacketQueue>,
    pub(super) traffic: Arc<Traffic>,
    name: Option<String>,
    remote: IpAddr,
    port: u16,
    since: String,
    orders: mpsc::Sender<Order>,
    last_keepalive: Mutex<Option<String>>,
    ended: watch::Sender<bool>,
}

/// Who a new peer is.
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) prefix_length: u8,
    pub(super) mtu: u16,
    pub(super) name: Option<String>,
    pub(super) remote: IpAddr,
    pub(super) port: u16,
}

impl Peer {
    /// A client whose session is up; `orders` reach its link.
    pub(super) fn new(identity: Identity, orders: mpsc::Sender<Order>) -> Self {
        let Identity { id, v4, v6, prefix_length, mtu, name, remote, port } = identity;
        let traffic = Arc::<Traffic>::default();
        Self {
            id,
            v4,
            v6,
            mtu,
            router: Router::new(Ipv4Net::new_assert(v4, prefix_length), v6),
            answers: Answers::new(clock::now()),
            queue: Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng()))),
            traffic,
            name,
            remote,
            port,
            since: timestamp(),
            orders,
            last_keepalive: Mutex::new(None),
            ended: watch::Sender::new(false),
        }
    }

    /// Tells the link to end the session. A second order changes nothing.
    pub(super) fn end(&self, code: DisconnectCode, message: &'static str) {
        // A full or closed channel means that the session is ending already.
        drop(self.orders.try_send(Order { code, message }));
    }

    /// Resolves when the session is over.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    /// The session is over.
    pub(super) fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn drop_packet(&self, reason: DropReason, length: usize) {
        self.traffic.drops().count(Priority::Normal, reason, length);
    }

    /// The client sent a keepalive.
    pub(super) fn keepalive_came(&self) {
        *self.last_keepalive() = Some(timestamp());
    }

    pub(super) fn telemetry(&self) -> ClientTelemetry {
        let traffic = self.traffic.snapshot();
        ClientTelemetry {
            client_id: self.id.clone(),
            assigned_ip: self.v4,
            last_keepalive_at: self.last_keepalive().clone(),
            keepalives_received: traffic.keepalives_received,
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
            drops: DropReport::from(&traffic.drops),
        }
    }

    pub(super) fn info(&self) -> ClientInfo {
        ClientInfo {
            telemetry: self.telemetry(),
            connected_since: self.since.clone(),
            assigned_ip6: self.v6,
            remote_addr: std::net::SocketAddr::new(self.remote, self.port).to_string(),
            name: self.name.clone(),
            online: true,
        }
    }

    fn last_keepalive(&self) -> MutexGuard<'_, Option<String>> {
        self.last_keepalive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
