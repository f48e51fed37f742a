//! A session that carries packets, and what becomes of it when its connection ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::hub::Hub;
use super::peer::Peer;
use super::port::Uplink;
use crate::codec::disconnect::DisconnectCode;
use crate::engine::{End, Link};
use crate::report::DisconnectReason;
use crate::transport::Stream;

/// How long the peer of an ended session has to answer our Close (PROTOCOL §9).
const GOODBYE: Duration = Duration::from_secs(2);

/// A session that carries packets.
pub(super) struct Running {
    link: Link<Stream, Uplink>,
    registered: Registered,
}

impl Running {
    pub(super) fn new(link: Link<Stream, Uplink>, hub: &Arc<Hub>, peer: Arc<Peer>) -> Self {
        let fate = Fate::Lost(DisconnectReason::ConnectionLost);
        Self { link, registered: Registered { hub: Arc::clone(hub), peer, fate } }
    }

    /// Carries packets until the connection ends, and says what goodbyes there are to say.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = self.link.run().await;
        tracing::debug!(client = self.registered.peer.id, ?end, "session ends");
        self.leave(end).await;
    }

    /// Says the goodbyes of a connection that has ended.
    fn leave(self: Box<Self>, end: End) -> Pin<Box<impl Future<Output = ()> + use<>>> {
        let Self { link, mut registered } = *self;
        // Nothing is routed to it any more, while the goodbyes are said.
        registered.fate = fate(&end);
        let peer = Arc::clone(&registered.peer);
        drop(registered);
        Box::pin(async move {
            link.end(&end, GOODBYE).await;
            peer.set_gone();
        })
    }
}

/// What becomes of a session whose connection has ended.
#[derive(Clone, Copy)]
enum Fate {
    /// It waits for the client.
    Lost(DisconnectReason),
    /// It is over.
    Ended(DisconnectReason),
}

/// Tells the hub on every way out, a panic in the connection's task included.
struct Registered {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    fate: Fate,
}

impl Drop for Registered {
    fn drop(&mut self) {
        match self.fate {
            Fate::Lost(reason) => self.hub.lost(&self.peer, reason),
            Fate::Ended(reason) => self.hub.ended(&self.peer, reason),
        }
    }
}

/// Anyone on the way can cut a connection or spoil what it carries: only the two ends' own words end a session.
const fn fate(end: &End) -> Fate {
    match end {
        End::Peer(_) => Fate::Ended(DisconnectReason::ClientDisconnect),
        End::Local(code) => Fate::Ended(local_reason(*code)),
        End::Lost(_) | End::KeysSpent => Fate::Lost(DisconnectReason::ConnectionLost),
        End::BadMessage(_) | End::BadFrame(_) => Fate::Lost(DisconnectReason::ProtocolError),
        End::DeadPeer => Fate::Lost(DisconnectReason::DeadPeer),
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
