//! A connection that carries the tunnel's packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::GOODBYE;
use super::attempt::Established;
use super::marks::Marks;
use super::mtu::MtuFacts;
use super::port::Downlink;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::Accepted;
use crate::engine::{End, Link, Order};
use crate::telemetry::Traffic;
use crate::transport::{Stream, WireGuard};

/// How long a connection that another has taken the place of is listened to: the server ends it as soon as the other
/// one is confirmed.
const RETIREMENT: Duration = Duration::from_secs(2);

/// The server has this long to answer the Close of a connection that has ended already: its loss
/// must not delay the next attempt.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// A session over a connection, with what hangs on that connection.
pub(super) struct Carried {
    link: Link<Stream, Downlink>,
    marks: Arc<Marks>,
    orders: mpsc::Sender<Order>,
    /// Dropped before the link is.
    wire_guard: Option<WireGuard>,
    pub(super) hello: Accepted,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) server: String,
    pub(super) mtu: MtuFacts,
    pub(super) is_confirmed: bool,
}

/// What a connection tells while it runs.
#[derive(Debug)]
pub(super) enum News {
    /// The server has confirmed the session.
    Confirmed,
    /// It is time for new keys.
    KeysAging,
    /// The connection has ended.
    Ended(End),
}

impl Carried {
    pub(super) fn new(
        established: Established,
        tunnel: &Tunnel,
        traffic: &Arc<Traffic>,
        shared: &Arc<Shared>,
    ) -> Self {
        let Established { websocket, session, hello, remote, local, server, .. } = established;
        let (wire, wire_guard) = websocket.wire().ok().unzip();
        let mtu = tunnel.mtu(&hello, remote.ip(), wire, traffic);
        let (orders, order_inbox) = mpsc::channel(1);
        let marks = Arc::<Marks>::default();
        let downlink = tunnel.downlink(&hello, traffic, shared, &marks);
        let quantum = websocket.stream().quantum();
        let link = Link::new(websocket, session, downlink, tunnel.queue(), Arc::clone(traffic), order_inbox)
            .with_quantum(quantum);
        Self { link, marks, orders, wire_guard, hello, remote, local, server, mtu, is_confirmed: false }
    }

    /// Carries packets until there is news. Cancel-safe.
    pub(super) async fn run(&mut self) -> News {
        let (marks, is_confirmed) = (&self.marks, self.is_confirmed);
        let confirmed = || !is_confirmed && marks.confirmed.load(Ordering::Relaxed);
        let aging = || marks.keys_aging.load(Ordering::Relaxed);
        match self.link.run_until(|| confirmed() || aging()).await {
            Some(end) => News::Ended(end),
            None if confirmed() => {
                self.is_confirmed = true;
                News::Confirmed
            }
            None => {
                marks.keys_aging.store(false, Ordering::Relaxed);
                News::KeysAging
            }
        }
    }

    /// Asks the server whether it is there.
    pub(super) fn probe(&mut self) {
        self.link.probe();
    }

    /// How long the connection had been silent when it was cut, just now.
    pub(super) fn silence_before_cut(&self) -> Option<Duration> {
        self.link.silence_before_cut()
    }

    /// Leaves the packets to another connection: only what is still under way is delivered, until the server ends
    /// this one, or for long enough.
    pub(super) async fn retire(self) {
        let Self { mut link, wire_guard, .. } = self;
        link.retire();
        let _end = timeout(RETIREMENT, link.run()).await;
        drop(wire_guard);
        link.close(CloseCode::Normal.as_u16(), CLOSE_WAIT).await;
    }

    /// Closes a connection that has ended.
    pub(super) async fn close(self, end: &End) {
        let Self { link, wire_guard, .. } = self;
        drop(wire_guard);
        link.end(end, CLOSE_WAIT).await;
    }

    /// Drops a connection that can neither send nor hear anything.
    pub(super) fn abort(self) {
        let Self { link, wire_guard, .. } = self;
        drop(wire_guard);
        link.abort();
    }

    /// Tells the server that we leave, and closes (PROTOCOL §9).
    pub(super) async fn say_goodbye(self) {
        let Self { mut link, orders, wire_guard, .. } = self;
        // The channel has room: this is its only order.
        let _queued = orders.try_send(Order { code: DisconnectCode::ClientDisconnect, message: "" });
        link.run().await;
        drop(wire_guard);
        link.close(CloseCode::Normal.as_u16(), GOODBYE).await;
    }
}
