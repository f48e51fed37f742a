//! Many clients of a server that is killed: all come back, each with its own address, spread out.
//!
//! The server is a process of its own; its clients are tasks of the test, each with a real session over TLS and the
//! memory that a tunnel has of its connections.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and tells what it measures, on the real clock"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;
#[path = "support/server_process.rs"]
mod server_process;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namespace::{block_on, isolated, role};
use serde_json::json;
use server_process::{Place, serve, server_key};
use smartvpn::codec::hello::{Accepted, ClientHello};
use smartvpn::engine::{Link, Port, Task};
use smartvpn::packet::Record;
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::session::{
    Backoff, ClientFailure, ClientParams, Comeback, KeyLimits, Session, Setback, client,
};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::{DialError, DialOptions, Stream, WebSocket, dial};
use tokio::sync::mpsc;

/// The server is back after so long.
const DOWN: Duration = Duration::from_secs(1);

/// All clients are there, and back, within this time.
const BACK: Duration = Duration::from_secs(30);

/// No tenth of a second has more than this share of all that come back, in percent.
const CROWD: usize = 25;

/// A thousand take a minute.
fn clients() -> usize {
    if std::env::var_os("SMARTVPN_LONG").is_some_and(|value| value == "1") { 1_000 } else { 200 }
}

#[test]
fn the_clients_of_a_killed_server_come_back_spread_out_and_each_with_its_address() {
    const TEST: &str = "the_clients_of_a_killed_server_come_back_spread_out_and_each_with_its_address";
    if let Some(role) = role() {
        return serve(&role);
    }
    isolated(TEST, || {
        let count = clients();
        let place = Place::new(&json!({}));
        let mut server = place.start(TEST);
        block_on(async {
            let presence = Arc::<Mutex<Presence>>::default();
            let begun = Instant::now();
            let _clients: Vec<_> = (0..count)
                .map(|number| {
                    let (place, presence) = (place.clone(), Arc::clone(&presence));
                    Task::spawn("client", async move { place.live(number, &presence).await })
                })
                .collect();
            wait_for(&presence, count, begun).await;
            let joined = begun.elapsed();
            let before = presence.lock().unwrap().addresses.clone();
            assert_eq!(before.values().collect::<HashSet<_>>().len(), count, "every client has its own");

            server.kill();
            let killed = Instant::now();
            // Those that have not noticed yet are not to count as being back.
            tokio::time::sleep(DOWN).await;
            {
                let mut presence = presence.lock().unwrap();
                presence.online.clear();
                presence.arrivals.clear();
            }
            let server = place.start(TEST);
            wait_for(&presence, count, killed + DOWN).await;
            let back = killed.elapsed() - DOWN;
            let presence = presence.lock().unwrap();
            println!(
                "measured: {count} clients joined in {:.1} s, were back in {:.1} s, {} at most in a tenth of a second; {} resumed, {} attempts in all",
                joined.as_secs_f64(),
                back.as_secs_f64(),
                presence.crowd(),
                presence.resumed,
                presence.attempts,
            );
            assert!(presence.crowd() * 100 <= count * CROWD, "{} came at once", presence.crowd());
            assert_eq!(presence.addresses, before, "nobody has another's address, or a new one");
            drop(server);
        });
    });
}

/// Who is there, with which address.
#[derive(Default)]
struct Presence {
    online: HashSet<usize>,
    addresses: HashMap<usize, Ipv4Addr>,
    /// When connections were made.
    arrivals: Vec<Instant>,
    resumed: usize,
    attempts: usize,
}

impl Presence {
    /// The most that came within a tenth of a second.
    fn crowd(&self) -> usize {
        let within = |first: &Instant| {
            self.arrivals
                .iter()
                .filter(|time| (*first..*first + Duration::from_millis(100)).contains(*time))
                .count()
        };
        self.arrivals.iter().map(within).max().unwrap_or_default()
    }
}

async fn wait_for(presence: &Mutex<Presence>, count: usize, since: Instant) {
    loop {
        let online = presence.lock().unwrap().online.len();
        if online == count {
            return;
        }
        assert!(since.elapsed() < BACK, "{online} of {count} are there after {BACK:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What an attempt came to.
type Up = (WebSocket<Stream>, Session, Accepted, bool);

/// Clients of the server of a place.
trait Inhabit {
    async fn live(self, number: usize, presence: &Mutex<Presence>);
    async fn attempt(&self, comeback: &mut Comeback) -> Result<Up, Setback>;
}

impl Inhabit for Place {
    /// A client that comes back whenever its connection ends.
    async fn live(self, number: usize, presence: &Mutex<Presence>) {
        let mut comeback = Comeback::new(Backoff::default());
        loop {
            presence.lock().unwrap().attempts += 1;
            let setback = match self.attempt(&mut comeback).await {
                Ok((websocket, session, hello, resumed)) => {
                    comeback.connected(Instant::now());
                    {
                        let mut presence = presence.lock().unwrap();
                        presence.resumed += usize::from(resumed);
                        presence.online.insert(number);
                        presence.arrivals.push(Instant::now());
                        presence.addresses.insert(number, hello.assigned_ip);
                    }
                    carry(websocket, session).await;
                    presence.lock().unwrap().online.remove(&number);
                    Setback::Interrupted
                }
                Err(setback) => setback,
            };
            let delay = comeback.failed(Instant::now(), setback, false, &mut rand::rng());
            tokio::time::sleep(delay.unwrap()).await;
        }
    }

    async fn attempt(&self, comeback: &mut Comeback) -> Result<Up, Setback> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        let options = DialOptions { tls: Some(self.tls.clone()), ..DialOptions::new(deadline) };
        let dialed = dial(&self.endpoint, &options).await.map_err(|error| match error {
            DialError::Refused { .. } => Setback::Refused(None),
            _ => Setback::Interrupted,
        })?;
        let mut websocket = dialed.websocket;
        let params = ClientParams {
            server_key: server_key(),
            identity: None,
            hello: comeback.hello(Instant::now(), ClientHello::default()),
            hybrid: comeback.hybrid(Instant::now()),
            keepalive_interval: None,
            keepalive_cap: comeback.keepalive_cap(Instant::now()),
            key_limits: KeyLimits::default(),
        };
        let resumes = params.hello.ticket.is_some();
        let (awaiting, frame) = client::start(params, &mut rand::rng()).unwrap();
        let lost = |_| Setback::Interrupted;
        websocket.send(&frame).await.map_err(lost)?;
        let message = websocket.recv().await.map_err(|_| Setback::Interrupted)?;
        let connected = awaiting.handle_message(Instant::now(), &mut rand::rng(), message);
        let mut connected = connected.map_err(|failure| match failure {
            ClientFailure::Rejected(_) => Setback::Refused(None),
            ClientFailure::ResumeRefused(rejection) => panic!("a ticket was refused: {rejection:?}"),
            _ => Setback::Interrupted,
        })?;
        comeback.accepted(Instant::now(), &connected.hello);
        let mut confirmation = Vec::new();
        connected.session.poll_transmit(&mut confirmation).unwrap();
        websocket.send(&confirmation).await.map_err(lost)?;
        Ok((websocket, connected.session, connected.hello, resumes))
    }
}

async fn carry(websocket: WebSocket<Stream>, session: Session) {
    let traffic = Arc::<Traffic>::default();
    let queue = Arc::new(PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng())));
    let (_orders, inbox) = mpsc::channel(1);
    let mut link = Link::new(websocket, session, Nowhere, queue, traffic, inbox);
    let _end = link.run().await;
}

struct Nowhere;

impl Port for Nowhere {
    fn deliver(&mut self, _record: Record<'_>) {}

    fn round_trip(&mut self, _quality: &Quality) {}

    fn timed_out(&mut self, _quality: &Quality) {}
}
