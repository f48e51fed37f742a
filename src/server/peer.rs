//! One client as its server sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};

use crate::codec::disconnect::DisconnectCode;
use crate::engine::{Limits, Order, clock};
use crate::packet::{Answers, Intake, Offload, Router, count_drop};
use crate::qos::{FlowHasher, PacketQueue, RateLimit};
use crate::report::{ClientInfo, ClientTelemetry, DropReport, QualityReport, timestamp};
use crate::telemetry::{DropReason, Quality, Traffic};

/// A confirmed session.
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
    name: Option<String>,
    remote: IpAddr,
    port: u16,
    since: String,
    orders: mpsc::Sender<Order>,
    last_keepalive: Mutex<Option<String>>,
    /// What the keepalives that the server sent say of the link; none before the first check.
    quality: Mutex<Option<QualityReport>>,
    ended: watch::Sender<bool>,
}

/// Who a new peer is.
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) prefix_length: u8,
    pub(super) intake: Intake,
    pub(super) name: Option<String>,
    pub(super) remote: IpAddr,
    pub(super) port: u16,
}

impl Peer {
    /// A client whose session is up; `orders` reach its link.
    pub(super) fn new(identity: Identity, orders: mpsc::Sender<Order>, limit: Option<RateLimit>) -> Self {
        let Identity { id, v4, v6, prefix_length, intake, name, remote, port } = identity;
        let traffic = Arc::<Traffic>::default();
        let queue = || {
            let queue = PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng()));
            queue.set_rate(limit.map(|limit| limit.rate()));
            Arc::new(queue)
        };
        let (queue, held) = (queue(), queue());
        Self {
            id,
            v4,
            v6,
            intake,
            router: Router::new(Ipv4Net::new_assert(v4, prefix_length), v6),
            answers: Answers::new(clock::now()),
            queue,
            held,
            limits: Arc::new(Limits::new(limit)),
            traffic,
            name,
            remote,
            port,
            since: timestamp(),
            orders,
            last_keepalive: Mutex::new(None),
            quality: Mutex::new(None),
            ended: watch::Sender::new(false),
        }
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

    /// Counts a packet of the client's that no queue takes.
    pub(super) fn drop_packet(&self, reason: DropReason, packet: &[u8], offload: Offload) {
        count_drop(self.traffic.drops(), reason, packet, offload);
    }

    /// The client sent a keepalive.
    pub(super) fn keepalive_came(&self) {
        *self.last_keepalive() = Some(timestamp());
    }

    /// A keepalive of ours was answered, or timed out.
    pub(super) fn checked(&self, quality: &Quality) {
        *self.quality() = Some(QualityReport::from(quality));
    }

    pub(super) fn telemetry(&self) -> ClientTelemetry {
        let traffic = self.traffic.snapshot();
        let limit = self.limits.get();
        ClientTelemetry {
            client_id: self.id.clone(),
            assigned_ip: self.v4,
            last_keepalive_at: self.last_keepalive().clone(),
            keepalives_received: traffic.keepalives_received,
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
            rate_limit_bytes_per_sec: limit.map(|limit| limit.rate()),
            burst_bytes: limit.map(|limit| limit.burst()),
            quality: self.quality().clone(),
            drops: DropReport::from(&traffic.drops),
        }
    }

    pub(super) fn info(&self) -> ClientInfo {
        ClientInfo {
            telemetry: ClientTelemetry { quality: None, ..self.telemetry() },
            connected_since: self.since.clone(),
            assigned_ip6: self.v6,
            remote_addr: std::net::SocketAddr::new(self.remote, self.port).to_string(),
            name: self.name.clone(),
            online: true,
        }
    }

    fn quality(&self) -> MutexGuard<'_, Option<QualityReport>> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_keepalive(&self) -> MutexGuard<'_, Option<String>> {
        self.last_keepalive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::LinkHealth;

    pub(super) fn peer() -> Peer {
        let identity = Identity {
            id: "c1".to_owned(),
            v4: Ipv4Addr::new(10, 8, 0, 2),
            v6: None,
            prefix_length: 24,
            intake: Intake { mtu: 1420, offload: false },
            name: None,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 1,
        };
        Peer::new(identity, mpsc::channel(1).0, None)
    }

    #[test]
    fn telemetry_tells_of_the_link_from_the_first_check_on() {
        let peer = peer();
        let telemetry = || serde_json::to_value(peer.telemetry()).unwrap();
        assert_eq!(telemetry().get("quality"), None);
        let ms = Duration::from_millis;
        peer.checked(&Quality {
            srtt: ms(20),
            jitter: ms(3),
            min_rtt: ms(10),
            max_rtt: ms(40),
            loss_ratio: 0.25,
            consecutive_timeouts: 1,
            link_health: LinkHealth::Degraded,
            keepalive_interval: ms(30_000),
        });
        let expected = serde_json::json!({
            "srttMs": 20.0, "jitterMs": 3.0, "minRttMs": 10.0, "maxRttMs": 40.0, "lossRatio": 0.25,
            "consecutiveTimeouts": 1, "linkHealth": "degraded", "currentKeepaliveIntervalSecs": 30.0,
        });
        assert_eq!(telemetry()["quality"], expected);
        assert_eq!(serde_json::to_value(peer.info()).unwrap().get("quality"), None, "of the telemetry only");
    }
}
