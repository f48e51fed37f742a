//! Connections that have no session yet: who is let in, and who must go for others (`session::gate`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::source::is_trusted;
use crate::config::ServerConfig;
use crate::engine::clock;
use crate::report::Events;
use crate::session::gate::{Gate, Refusal, StrangerId, Turned};

/// All of them.
pub(super) struct Strangers {
    inner: Mutex<Inner>,
    trusted: Vec<IpNet>,
    events: Events,
}

struct Inner {
    gate: Gate,
    /// What ends them.
    ends: HashMap<StrangerId, oneshot::Sender<()>>,
}

impl Strangers {
    /// For a server with so many threads for packets.
    pub(super) fn new(config: &ServerConfig, cores: usize, events: Events) -> Arc<Self> {
        let gate = Gate::new(clock::now(), config.handshakes, cores);
        let inner = Mutex::new(Inner { gate, ends: HashMap::new() });
        Arc::new(Self { inner, trusted: config.trusted_proxies.clone(), events })
    }

    /// A connection from `peer` has been accepted. A trusted proxy's is let in until it is known whose it is.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<Stranger, Refusal> {
        let now = clock::now();
        let is_proxy = is_trusted(peer, &self.trusted);
        let mut inner = self.lock();
        let entered = if is_proxy { Ok(inner.gate.enter_by_proxy()) } else { inner.gate.enter(now, peer) };
        let stranger = entered.map(|id| {
            let (end, shed) = oneshot::channel();
            inner.ends.insert(id, end);
            Stranger {
                strangers: Arc::clone(self),
                id,
                is_identified: !is_proxy,
                is_confirmed: false,
                shed: Some(shed),
            }
        });
        inner.shed_excess();
        self.report(inner);
        stranger
    }

    /// Closes the oldest one, for want of something else than memory. False if there is none.
    pub(super) fn shed_oldest(&self) -> bool {
        let mut inner = self.lock();
        let oldest = inner.gate.shed_oldest(clock::now());
        oldest.is_some_and(|id| inner.ends.remove(&id).is_some())
    }

    /// Tells of a flood, not too often.
    fn report(&self, mut inner: MutexGuard<'_, Inner>) {
        let report = inner.gate.poll_report(clock::now());
        drop(inner);
        if let Some(turned) = report {
            self.events.warn("flood", describe(turned));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, so a poisoned lock cannot hold half a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn shed_excess(&mut self) {
        while let Some(id) = self.gate.shed_excess(clock::now()) {
            // Its task hears of it by this.
            self.ends.remove(&id);
        }
    }
}

/// One connection without a session; none any more when dropped.
pub(super) struct Stranger {
    strangers: Arc<Strangers>,
    id: StrangerId,
    is_identified: bool,
    is_confirmed: bool,
    shed: Option<oneshot::Receiver<()>>,
}

impl Stranger {
    /// Resolves when the connection must be closed at once. To be called once.
    pub(super) fn must_go(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let shed = self.shed.take();
        async {
            if let Some(shed) = shed {
                // Nobody sends: the other end goes away.
                let _gone = shed.await;
            }
        }
    }

    /// It is known now whose connection a proxy has brought; a proxy's own is that of the proxy. What is known
    /// already stands.
    pub(super) fn identify(&mut self, source: IpAddr) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.is_identified, true) {
            return Ok(());
        }
        let source = Some(source).filter(|source| !is_trusted(*source, &self.strangers.trusted));
        let mut inner = self.strangers.lock();
        let identified = inner.gate.identify(clock::now(), self.id, source);
        self.strangers.report(inner);
        identified
    }

    /// The first bytes of its HTTP head have come.
    pub(super) fn head_begins(&self) {
        let mut inner = self.strangers.lock();
        inner.gate.head_begins(self.id);
        inner.shed_excess();
    }

    /// It has a session.
    pub(super) fn confirmed(mut self) {
        self.is_confirmed = true;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut inner = self.strangers.lock();
        inner.ends.remove(&self.id);
        match self.is_confirmed {
            true => inner.gate.confirmed(clock::now(), self.id),
            false => inner.gate.failed(clock::now(), self.id),
        }
    }
}

fn describe(turned: Turned) -> String {
    let Turned { half_open, rate, budget, shed } = turned;
    format!(
        "strangers flood the server: {} connections were turned away ({half_open} as their address had too many \
         unconfirmed ones, {rate} as it began too many handshakes a second, {budget} as all addresses together did, \
         {shed} to make room); sessions go on. If they are your own clients behind one address, raise \
         handshakesPerSecond and handshakeBurst; if not, let a firewall limit connections for each address",
        turned.total()
    )
}
