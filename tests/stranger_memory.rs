//! What a stranger holds of the server's memory, kernel apart: 18 KiB until the first byte of its HTTP head, 40 KiB
//! from then on, however it stops. That is what `session::gate` counts it with.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use smartvpn::engine::Task;
use smartvpn::session::gate::{SILENT_BYTES, SPEAKING_BYTES};
use smartvpn::transport::{Listener, ServerTls, UpgradeOptions, upgrade};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Strangers at a time, of which each has its share of what is measured.
const COUNT: usize = 24;

/// Every request that does not end, up to one byte below the limit.
const HEAD: usize = 16 * 1024 - 1;

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Where a stranger stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has said nothing.
    Silent,
    /// Its ClientHello of 8 KiB lacks a byte.
    HalfHello,
    /// It leaves the server's answer in TLS without its own.
    Hello,
    /// TLS is up.
    Secured,
    /// Its head lacks the end.
    HalfHead,
    /// The same, and a record behind it lacks a byte.
    HalfRecord,
    /// It has a WebSocket.
    Upgraded,
    /// Its first message, the longest, lacks a byte.
    HalfMessage,
    /// The same, a byte in each frame but for the last.
    Fragments,
}

struct Site {
    server: ServerTls,
    client: Arc<ClientConfig>,
}

impl Site {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["vpn.test".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let cert = params.self_signed(&key).unwrap().pem();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: ServerTls::from_pem(cert.as_bytes(), key.serialize_pem().as_bytes()).unwrap(),
            client: Arc::new(client),
        }
    }

    fn tls(&self) -> ClientConnection {
        ClientConnection::new(Arc::clone(&self.client), ServerName::try_from("vpn.test").unwrap()).unwrap()
    }

    /// What strangers that stop there hold, each of [`COUNT`].
    fn hold(&self, stage: Stage, with_tls: bool) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(Listener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr();
        let (sent, is_sent) = oneshot::channel();
        let mut tasks = Vec::with_capacity(COUNT + 1);
        std::thread::scope(|scope| {
            let strangers = scope.spawn(move || {
                let mut all: Vec<_> = vec![self.stranger(addr, stage, with_tls)];
                all.extend((0..COUNT).map(|_| self.stranger(addr, stage, with_tls)));
                sent.send(()).unwrap();
                all
            });
            // The first one pays for what all of them share.
            runtime.block_on(async { tasks.push(self.serve(&listener, with_tls).await) });
            let AllocationInfo { bytes_current, .. } = measure(|| {
                runtime.block_on(async {
                    for _ in 0..COUNT {
                        tasks.push(self.serve(&listener, with_tls).await);
                    }
                    is_sent.await.unwrap();
                    // What is on the way.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                });
            });
            assert!(tasks.iter().all(|task| !task.is_finished()), "{stage:?}: they wait");
            runtime.block_on(async { tasks.clear() });
            drop(strangers.join().unwrap());
            usize::try_from(bytes_current).unwrap() / COUNT
        })
    }

    /// Accepts one and takes it as far as it goes.
    async fn serve(&self, listener: &Listener, with_tls: bool) -> Task<()> {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = with_tls.then(|| self.server.clone());
        Task::spawn("stranger", async move {
            let deadline = Instant::now() + Duration::from_secs(60);
            let upgraded = upgrade(tcp, tls.as_ref(), &UpgradeOptions::default(), deadline).await;
            let mut websocket = upgraded.unwrap().websocket;
            websocket.recv().await.unwrap();
        })
    }

    /// One end of a connection that goes no further; the server waits for as long as it is there.
    fn stranger(&self, addr: SocketAddr, stage: Stage, with_tls: bool) -> Box<dyn Write + Send> {
        let mut tcp = TcpStream::connect(addr).unwrap();
        match stage {
            Stage::Silent => return Box::new(tcp),
            Stage::HalfHello => {
                // A record of the longest ClientHello that is waited for, with another one's beginning.
                let length: u16 = 8 * 1024 - 6;
                let mut record = vec![22, 3, 1];
                record.extend(length.to_be_bytes());
                record.extend([1, 0, 0xff, 0xff]);
                record.resize(8 * 1024 - 2, 0);
                tcp.write_all(&record).unwrap();
                return Box::new(tcp);
            }
            Stage::Hello => {
                self.tls().write_tls(&mut tcp).unwrap();
                return Box::new(tcp);
            }
            _ => {}
        }
        if !with_tls {
            speak(&mut tcp, stage);
            return Box::new(tcp);
        }
        let mut stream = StreamOwned::new(self.tls(), tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        speak(&mut stream, stage);
        if stage == Stage::HalfRecord {
            let mut record = vec![23, 3, 3, 0x41, 0];
            record.resize(record.len() + 0x40ff, 0);
            stream.sock.write_all(&record).unwrap();
        }
        Box::new(stream)
    }
}

fn speak(stream: &mut (impl Read + Write), stage: Stage) {
    if matches!(stage, Stage::HalfHead | Stage::HalfRecord) {
        let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
        head.resize(HEAD, b'x');
        stream.write_all(&head).unwrap();
    }
    if !matches!(stage, Stage::Upgraded | Stage::HalfMessage | Stage::Fragments) {
        return;
    }
    stream.write_all(UPGRADE).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let mut bytes = Vec::new();
    match stage {
        Stage::HalfMessage => {
            bytes.extend([0x82, 0xfe, (8_197_u16 >> 8) as u8, 8_197_u16 as u8, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + 8_196, 1);
        }
        Stage::Fragments => {
            bytes.extend([0x02, 0x81, 0, 0, 0, 0, 1]);
            (0..1_000).for_each(|_| bytes.extend([0x00, 0x81, 0, 0, 0, 0, 1]));
            bytes.extend([0x80, 0xfe, 0x1c, 0, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + 0x1bff, 1);
        }
        _ => {}
    }
    stream.write_all(&bytes).unwrap();
}

#[test]
fn a_stranger_holds_18_kib_before_its_head_and_40_kib_behind() {
    let site = Site::new();
    for (stage, with_tls, most) in [
        (Stage::Silent, false, SILENT_BYTES),
        (Stage::Silent, true, SILENT_BYTES),
        (Stage::HalfHello, true, SILENT_BYTES),
        (Stage::Hello, true, SILENT_BYTES),
        (Stage::Secured, true, SILENT_BYTES),
        (Stage::HalfHead, false, SPEAKING_BYTES),
        (Stage::HalfHead, true, SPEAKING_BYTES),
        (Stage::HalfRecord, true, SPEAKING_BYTES),
        (Stage::Upgraded, false, SPEAKING_BYTES),
        (Stage::Upgraded, true, SPEAKING_BYTES),
        (Stage::HalfMessage, false, SPEAKING_BYTES),
        (Stage::HalfMessage, true, SPEAKING_BYTES),
        (Stage::Fragments, false, SPEAKING_BYTES),
        (Stage::Fragments, true, SPEAKING_BYTES),
    ] {
        let bytes = site.hold(stage, with_tls);
        let layer = if with_tls { "TLS" } else { "plain" };
        println!("measured: {bytes} bytes for a stranger at {stage:?}, {layer}");
        // What the server's own task holds beside it: who it is, the place, the timers.
        assert!(bytes + TASK <= most, "{bytes} bytes at {stage:?}, {layer}: more than {most}");
    }
}

/// What the server's task around it takes, in bytes; far less than this.
const TASK: usize = 1024;
