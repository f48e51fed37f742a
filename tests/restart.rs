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

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namespace::{Helper, block_on, isolated, role};
use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::json;
use smartvpn::codec::hello::{Accepted, ClientHello};
use smartvpn::config::ServerConfig;
use smartvpn::crypto::keys::PrivateKey;
use smartvpn::engine::{Link, Port, Task};
use smartvpn::packet::Record;
use smartvpn::qos::{FlowHasher, PacketQueue};
use smartvpn::report::{Event, EventSink, Events};
use smartvpn::server::Server;
use smartvpn::session::{
    Backoff, ClientFailure, ClientParams, Comeback, KeyLimits, Session, Setback, client,
};
use smartvpn::telemetry::{Quality, Traffic};
use smartvpn::transport::{ClientTls, DialError, DialOptions, Endpoint, Stream, WebSocket, dial};
use tokio::sync::mpsc;

/// RFC 7748 §6.1.
const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

const PORT: u16 = 8443;
const CLIENTS: usize = 200;

/// The server is back after so long.
const DOWN: Duration = Duration::from_secs(1);

/// All clients are back within this time.
const BACK: Duration = Duration::from_secs(30);

#[test]
fn two_hundred_clients_of_a_killed_server_come_back_each_with_its_address() {
    const TEST: &str = "two_hundred_clients_of_a_killed_server_come_back_each_with_its_address";
    if let Some(role) = role() {
        return serve(&role);
    }
    isolated(TEST, || {
        let place = Place::new();
        let mut server = place.start(TEST);
        block_on(async {
            let presence = Arc::<Mutex<Presence>>::default();
            let begun = Instant::now();
            let _clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (place, presence) = (place.clone(), Arc::clone(&presence));
                    Task::spawn("client", async move { place.live(number, &presence).await })
                })
                .collect();
            wait_for(&presence, begun).await;
            let joined = begun.elapsed();
            let before = presence.lock().unwrap().addresses.clone();
            assert_eq!(before.values().collect::<HashSet<_>>().len(), CLIENTS, "every client has its own");

            server.kill();
            let killed = Instant::now();
            // Those that have not noticed yet are not to count as being back.
            tokio::time::sleep(DOWN).await;
            presence.lock().unwrap().online.clear();
            let server = place.start(TEST);
            wait_for(&presence, killed + DOWN).await;
            let back = killed.elapsed() - DOWN;
            let presence = presence.lock().unwrap();
            println!(
                "measured: {CLIENTS} clients joined in {:.1} s, were back in {:.1} s, with {} resumed and {} attempts in all",
                joined.as_secs_f64(),
                back.as_secs_f64(),
                presence.resumed,
                presence.attempts,
            );
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
    resumed: usize,
    attempts: usize,
}

async fn wait_for(presence: &Mutex<Presence>, since: Instant) {
    loop {
        let online = presence.lock().unwrap().online.len();
        if online == CLIENTS {
            return;
        }
        assert!(since.elapsed() < BACK, "{online} of {CLIENTS} are there after {BACK:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: Event) {}
}

/// Is a server, with what lies in the folder that the role names, until it is killed.
fn serve(folder: &str) {
    let read = |name| fs::read_to_string(Path::new(folder).join(name)).unwrap();
    let config = json!({
        "listenAddr": format!("127.0.0.1:{PORT}"), "subnet": "10.8.0.0/16", "stateDir": folder,
        "privateKey": PRIVATE_KEY, "publicKey": PUBLIC_KEY, "tlsCert": read("cert.pem"), "tlsKey": read("key.pem"),
    });
    let config = ServerConfig::parse(&config, Path::new("/")).unwrap();
    block_on(async {
        let server = Server::new(Events::new(Arc::new(Silent)));
        server.start(config).await.unwrap();
        println!("serves");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}

/// Where the server is.
#[derive(Clone)]
struct Place {
    folder: Arc<tempfile::TempDir>,
    endpoint: Endpoint,
    tls: ClientTls,
}

/// What an attempt came to.
type Up = (WebSocket<Stream>, Session, Accepted, bool);

impl Place {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let cert = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cert.pem"), &cert).unwrap();
        fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self {
            folder: Arc::new(folder),
            endpoint: Endpoint::parse(&format!("wss://127.0.0.1:{PORT}/")).unwrap(),
            tls: ClientTls::with_ca_pem(cert.as_bytes()).unwrap(),
        }
    }

    fn start(&self, test: &str) -> Helper {
        let mut process = Helper::here(test, self.folder.path().to_str().unwrap());
        let lines = BufReader::new(process.stdout()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("serves")), "the server has ended");
        process
    }

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
            server_key: PrivateKey::from_base64(PRIVATE_KEY).unwrap().public_key(),
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
