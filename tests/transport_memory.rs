//! What an idle connection costs, kernel apart: 9 KiB at most with TLS, or a server of a thousand idle
//! clients grows by more than its traffic needs. A process of its own, as it measures the whole of it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use rcgen::{CertificateParams, IsCa, KeyPair};
use smartvpn::transport::{
    ClientTls, CongestionControl, DialOptions, Endpoint, Listener, ServerTls, Stream, UpgradeOptions,
    WebSocket, dial, upgrade,
};
use tokio::time::Instant;

/// Connections that are held at a time; with both ends here, 600 descriptors.
const PAIRS: usize = 300;

struct Network {
    listener: Listener,
    endpoint: Endpoint,
    server: ServerTls,
    client: ClientTls,
}

impl Network {
    async fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let cert = params.self_signed(&key).unwrap().pem();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://127.0.0.1:{}/", listener.local_addr().port());
        Self {
            listener,
            endpoint: Endpoint::parse(&url).unwrap(),
            server: ServerTls::from_pem(cert.as_bytes(), key.serialize_pem().as_bytes()).unwrap(),
            client: ClientTls::with_ca_pem(cert.as_bytes()).unwrap(),
        }
    }

    /// Both ends of a connection that has seen some traffic and has none now.
    async fn idle_pair(&self) -> [WebSocket<Stream>; 2] {
        let deadline = Instant::now() + Duration::from_secs(20);
        let options = DialOptions {
            tls: Some(self.client.clone()),
            congestion: CongestionControl::System,
            ..DialOptions::new(deadline)
        };
        let accept = async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            upgrade(tcp, Some(&self.server), &UpgradeOptions::default(), deadline).await.unwrap()
        };
        let (dialed, upgraded) = tokio::join!(dial(&self.endpoint, &options), accept);
        let (mut client, mut server) = (dialed.unwrap().websocket, upgraded.websocket);
        for _ in 0..5 {
            client.send(&[1; 8_000]).await.unwrap();
            server.recv().await.unwrap();
            server.send(&[2; 8_000]).await.unwrap();
            client.recv().await.unwrap();
        }
        let mut ends = [client, server];
        for end in &mut ends {
            nothing_comes(end).await;
            end.shrink();
            // Waiting takes no more than resting.
            nothing_comes(end).await;
        }
        ends
    }
}

async fn nothing_comes(end: &mut WebSocket<Stream>) {
    poll_fn(|cx| {
        assert!(end.poll_message(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn an_idle_tls_connection_keeps_9_kib_at_most() {
    let network = Network::new().await;
    let mut ends = Vec::with_capacity(2 * PAIRS);
    // The first ones pay for what all of them share.
    for _ in 0..20 {
        ends.extend(network.idle_pair().await);
    }
    let before = resident_bytes();
    let count = 2 * PAIRS - ends.len();
    while ends.len() < 2 * PAIRS {
        ends.extend(network.idle_pair().await);
    }
    let each = resident_bytes().saturating_sub(before) / count;
    println!("{each} bytes for each end");
    assert!(each <= 9 * 1024, "{each} bytes for each end");
}
