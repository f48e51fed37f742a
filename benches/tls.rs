//! What a gigabyte costs through TLS over loopback TCP, between two threads: through our stream and through
//! tokio-rustls, which it is measured against.
//!
//! `cargo bench --bench tls` prints, for each length of message, the rate and the CPU time of either end.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what fails here ends it")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use smartvpn::transport::TlsStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What each run moves, in bytes.
const TOTAL: usize = 4_000_000_000;

const MESSAGES: [usize; 3] = [1_420, 32 * 1024, 64 * 1024];

/// Each pair of runs is made so often, in turn: the machine is not always the same.
const ROUNDS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ours,
    TokioRustls,
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let total = if std::env::args().any(|arg| arg == "--bench") { TOTAL } else { 10_000_000 };
    let (client, server) = configs();
    println!("message  stream        MB/s   CPU s/GB: sender  receiver");
    for message in MESSAGES {
        for _ in 0..ROUNDS {
            for kind in [Kind::TokioRustls, Kind::Ours] {
                let [sender, receiver, wall] = run(kind, &client, &server, message, total);
                let per_gb = |time: Duration| time.as_secs_f64() * 1e9 / total as f64;
                println!(
                    "{message:7}  {:11} {:6.0}            {:.3}     {:.3}",
                    format!("{kind:?}"),
                    total as f64 / wall.as_secs_f64() / 1e6,
                    per_gb(sender),
                    per_gb(receiver),
                );
            }
        }
    }
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let chain = vec![CertificateDer::from(cert)];
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The CPU time that this thread has had.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// The sender's CPU time, the receiver's, and the receiver's wall time.
fn run(
    kind: Kind,
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    message: usize,
    total: usize,
) -> [Duration; 3] {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::clone(server);
    let receiver = std::thread::spawn(move || {
        runtime().block_on(async {
            let (tcp, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            match kind {
                Kind::Ours => receive(TlsStream::accept(config, tcp).await.unwrap(), total).await,
                Kind::TokioRustls => {
                    receive(TlsAcceptor::from(config).accept(tcp).await.unwrap(), total).await
                }
            }
        })
    });
    let sender = runtime().block_on(async {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (config, name) = (Arc::clone(client), ServerName::try_from("localhost").unwrap());
        match kind {
            Kind::Ours => send(TlsStream::connect(config, name, tcp).await.unwrap(), message, total).await,
            Kind::TokioRustls => {
                send(TlsConnector::from(config).connect(name, tcp).await.unwrap(), message, total).await
            }
        }
    });
    let (receiver, wall) = receiver.join().unwrap();
    [sender, receiver, wall]
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, message: usize, total: usize) -> Duration {
    let bytes = vec![7; message];
    let start = cpu();
    let mut left = total;
    while left > 0 {
        let length = left.min(message);
        stream.write_all(&bytes[..length]).await.unwrap();
        stream.flush().await.unwrap();
        left -= length;
    }
    let used = cpu() - start;
    stream.shutdown().await.unwrap();
    let _ = stream.read(&mut [0]).await;
    used
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, total: usize) -> (Duration, Duration) {
    let mut bytes = vec![0; 64 * 1024];
    let (start, begun) = (cpu(), Instant::now());
    let mut left = total;
    while left > 0 {
        left -= stream.read(&mut bytes).await.unwrap();
    }
    let times = (cpu() - start, begun.elapsed());
    stream.shutdown().await.unwrap();
    times
}
