//! New keys in good time: a session renews them by itself, on its connection, or where the peer cannot do that by
//! another one; and nothing that passes the tunnel stands still or is lost for it.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it saw"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namespace::{Helper, attempt, block_on, has, isolated, role, run};
use serde_json::json;
use smartvpn::client::Client;
use smartvpn::codec::hello::Features;
use smartvpn::config::{ClientConfig, ServerConfig};
use smartvpn::report::{ConnectionState, Event, EventSink, Events};
use smartvpn::server::Server;
use smartvpn::session::{FEATURES, KeyLimits};

/// RFC 7748 §6.1.
const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// So that keys are renewed every second or so.
const LIMITS: KeyLimits = KeyLimits { frames: 1 << 32, bytes: 64 << 30, age: Duration::from_millis(1_100) };

/// Echo requests, 5 ms apart: ten seconds.
const PINGS: usize = 2_000;

/// Renewals in that time, at the least.
const RENEWALS: usize = 5;

/// No answer takes longer; a connection made anew would.
const LONGEST_MS: f64 = 500.0;

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        if matches!(event, Event::ClientResumed(_)) {
            println!("resumed");
            std::io::stdout().flush().unwrap();
        }
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn keys_are_renewed_without_a_break() {
    renewed("keys_are_renewed_without_a_break", FEATURES, |rekeys, connections| {
        assert!(rekeys >= RENEWALS, "{rekeys} renewals");
        assert_eq!(connections, 0, "there is one connection");
    });
}

/// As it is with a peer of the protocol that does not have the feature.
#[test]
fn without_rekey_another_connection_takes_over_without_a_break() {
    let features = Features { rekey: false, ..FEATURES };
    let test = "without_rekey_another_connection_takes_over_without_a_break";
    renewed(test, features, |rekeys, connections| {
        assert!(connections >= RENEWALS, "{connections} renewals");
        assert_eq!(rekeys, 0);
    });
}

/// Pings through a tunnel whose keys are worn every second. `judge` gets how often they were renewed on the connection,
/// and how often by another one.
fn renewed(test: &str, features: Features, judge: fn(usize, usize)) {
    if role().is_some() {
        return serve();
    }
    isolated(test, || {
        if !has("ping") {
            return;
        }
        let mut server = Helper::elsewhere(test, "server");
        let mut lines = BufReader::new(server.stdout()).lines().map_while(Result::ok);
        // Its namespace is there when it is.
        assert!(lines.any(|line| line.contains("ready")), "the server has ended");
        run("ip", &format!("link add veth0 type veth peer name veth1 netns {}", server.id()));
        run("ip", "addr add 192.0.2.2/24 dev veth0");
        run("ip", "link set veth0 up");
        assert!(lines.any(|line| line.contains("serves")), "the server has ended");
        let log = Arc::<Log>::default();
        block_on(async {
            let config = json!({
                "serverUrl": "ws://192.0.2.1:8443/", "serverPublicKey": PUBLIC_KEY, "stateDir": null, "proxy": "",
            });
            let config = ClientConfig::parse(&config, Path::new("/")).unwrap();
            let sink: Arc<dyn EventSink> = Arc::clone(&log) as _;
            let client = Client::with_key_limits(Events::new(sink), LIMITS, features);
            let assigned = client.connect(config, false).await.unwrap();
            let pinged = tokio::task::spawn_blocking(|| {
                attempt("ping", &format!("-n -q -i 0.005 -W 1 -c {PINGS} 10.8.0.1"))
            });
            let output = String::from_utf8(pinged.await.unwrap().stdout).unwrap();
            let summary: Vec<_> = output.lines().rev().take(2).collect();
            println!("measured: {}", summary.join("; "));
            let received = output.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap();
            assert_eq!(received.parse(), Ok(PINGS), "{output}");
            let longest = summary[0].split('/').nth_back(1).unwrap().parse::<f64>().unwrap();
            assert!(longest < LONGEST_MS, "{output}");
            assert_eq!(client.status().assigned_ip, Some(assigned.assigned_ip));
            client.shutdown().await;
        });
        drop(server);
        let connections = lines.filter(|line| line == "resumed").count();
        let log = log.0.lock().unwrap();
        let renewed = |event: &&Event| matches!(event, Event::Log { target: "keys", .. });
        let rekeys = log.iter().filter(renewed).count();
        println!("measured: {rekeys} renewals on the connection, {connections} by another one");
        judge(rekeys, connections);
        let broken = |event: &&Event| matches!(event, Event::Status(status) if status.state == ConnectionState::Reconnecting);
        assert_eq!(log.iter().filter(broken).count(), 0, "the tunnel was up all the while");
    });
}

fn serve() {
    println!("ready");
    std::io::stdout().flush().unwrap();
    // The other end of the cable comes when this process is there.
    while !attempt("ip", "link set veth1 up").status.success() {
        std::thread::sleep(Duration::from_millis(10));
    }
    run("ip", "addr add 192.0.2.1/24 dev veth1");
    run("ip", "link set lo up");
    let config = json!({
        "listenAddr": "192.0.2.1:8443", "subnet": "10.8.0.0/24", "stateDir": null,
        "privateKey": PRIVATE_KEY, "publicKey": PUBLIC_KEY,
    });
    let config = ServerConfig::parse(&config, Path::new("/")).unwrap();
    block_on(async {
        let server = Server::new(Events::new(Arc::<Log>::default()));
        server.start(config).await.unwrap();
        println!("serves");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}
