//! Our server, and what comes to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use smartvpn::transport::{
    Listener, ServerTls, UpgradeError, UpgradeOptions, Upgraded, WebSocketError, upgrade,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::certs::{self, AUTHORITY};
use crate::{PATIENCE, patience};

const REQUEST: &str = "GET /vpn HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

type Outcome = JoinHandle<Result<Upgraded, UpgradeError>>;

/// Serves one connection.
async fn serve(tls: Option<ServerTls>, path: Option<&str>, deadline: Instant) -> (SocketAddr, Outcome) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let options = UpgradeOptions { path: path.map(Into::into), ..UpgradeOptions::default() };
    let outcome = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        upgrade(tcp, tls.as_ref(), &options, deadline).await
    });
    (addr, outcome)
}

/// Sends `request` and gives everything that comes back, with what the server made of it.
async fn exchange(request: &[u8]) -> (String, Result<Upgraded, UpgradeError>) {
    let (addr, outcome) = serve(None, Some("/vpn"), patience()).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    drop(stream);
    (String::from_utf8(answer).unwrap(), outcome.await.unwrap())
}

#[tokio::test]
async fn requests_that_are_no_upgrade_are_answered_and_the_connection_ends() {
    let long = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    let elsewhere = REQUEST.replace("/vpn", "/else");
    let version = REQUEST.replace("13", "8");
    let key = REQUEST.replace("dGhl", "");
    let post = REQUEST.replace("GET", "POST");
    let protocol = format!("{REQUEST}Sec-WebSocket-Protocol: chat\r\n");
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n", 200),
        ("HEAD /healthz HTTP/1.1\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /healthz HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 404),
        (&format!("{elsewhere}\r\n"), 404),
        (&format!("{version}\r\n"), 426),
        (&format!("{key}\r\n"), 400),
        (&format!("{post}\r\n"), 400),
        (&format!("{protocol}\r\n"), 400),
        (&long, 431),
        (&many, 431),
        ("\u{16}\u{3}\u{1}", 400),
    ] {
        let (answer, outcome) = exchange(request.as_bytes()).await;
        let shown = &request[..request.len().min(60)];
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{shown}: {answer}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        assert!(head.contains("\r\nConnection: close"), "{shown}: {answer}");
        let length: usize =
            head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let expected = if request.starts_with("HEAD") { 0 } else { length };
        assert_eq!(body.len(), expected, "{shown}: {answer}");
        assert_eq!(head.contains("\r\nSec-WebSocket-Version: 13"), status == 426, "{shown}: {answer}");
        if status == 200 {
            assert_eq!((length, body == "ok"), (2, expected == 2));
        }
        assert!(
            matches!(outcome, Err(UpgradeError::Answered { status: told, .. }) if told == status),
            "{shown}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_upgrade_may_come_byte_by_byte_with_frames_right_behind() {
    let (addr, outcome) = serve(None, None, patience()).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!(
        "{REQUEST}X-Forwarded-For: 203.0.113.9\r\nSec-WebSocket-Protocol: smartvpn.v1\r\n\r\n\u{2}\u{5}"
    );
    let mut bytes = request.into_bytes();
    // A masked binary frame of "early", the last letter of which comes later.
    bytes.truncate(bytes.len() - 2);
    bytes.extend_from_slice(b"\x82\x85\0\0\0\0earl");
    for byte in bytes {
        stream.write_all(&[byte]).await.unwrap();
    }
    let upgraded = outcome.await.unwrap().unwrap();
    assert_eq!(upgraded.forwarded_for, ["203.0.113.9".parse::<std::net::IpAddr>().unwrap()]);
    assert!(upgraded.offered_protocol);
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = std::str::from_utf8(&answer[..length]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: smartvpn.v1\r\n"), "{answer}");
    stream.write_all(b"y").await.unwrap();
    let mut websocket = upgraded.websocket;
    assert_eq!(websocket.recv().await.unwrap(), b"early");
}

#[tokio::test]
async fn nobody_outlives_the_deadline() {
    let limit = Duration::from_millis(300);
    for (tls, first, answered) in [
        (None, &b""[..], false),
        (None, b"GET /vpn HTTP/1.1\r\n", true),
        (Some(certs::good().server_tls()), b"", false),
        (Some(certs::good().server_tls()), b"\x16\x03\x01\x02\x00\x01", false),
    ] {
        let start = Instant::now();
        let (addr, outcome) = serve(tls, None, start + limit).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(first).await.unwrap();
        // Dripping on changes nothing.
        let (mut reader, mut writer) = stream.split();
        let drip = async {
            while answered && writer.write_all(b"A").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            result = reader.read_to_end(&mut answer) => drop(result),
            () = async { drip.await; std::future::pending().await } => {}
        }
        assert!(matches!(outcome.await.unwrap(), Err(UpgradeError::Timeout)));
        assert!((limit..PATIENCE / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert_eq!(answer.starts_with(b"HTTP/1.1 408 "), answered, "{:?}", String::from_utf8(answer));
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_let_go() {
    for first in [&b""[..], b"GET /"] {
        let (addr, outcome) = serve(None, None, patience()).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(first).await.unwrap();
        drop(stream);
        let outcome = outcome.await.unwrap();
        assert!(matches!(outcome, Err(UpgradeError::Closed | UpgradeError::Io(_))), "{outcome:?}");
    }
}

/// What a TLS client other than ours gets: the stream, or why not.
async fn foreign_tls(
    config: rustls::ClientConfig,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let (addr, _outcome) = serve(Some(certs::good().server_tls()), None, patience()).await;
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

#[tokio::test]
async fn listeners_speak_tls_1_3_only_and_prefer_hybrid_keys() {
    let refused = foreign_tls(AUTHORITY.foreign(&[&TLS12])).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");

    let mut config = AUTHORITY.foreign(&[&TLS12, &TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = foreign_tls(config).await.unwrap();
    let (_, tls) = stream.get_ref();
    assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(tls.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);

    let mut config = AUTHORITY.foreign(&[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let refused = foreign_tls(config).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn tungstenites_client_is_served() {
    for tls in [false, true] {
        let identity = certs::good();
        let (addr, outcome) = serve(tls.then(|| identity.server_tls()), None, patience()).await;
        let tcp = TcpStream::connect(addr).await.unwrap();
        if tls {
            let connector = TlsConnector::from(Arc::new(AUTHORITY.foreign(&[&TLS13])));
            let name = ServerName::try_from("localhost").unwrap();
            talk(connector.connect(name, tcp).await.unwrap(), outcome).await;
        } else {
            talk(tcp, outcome).await;
        }
    }
}

async fn talk<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: S, outcome: Outcome) {
    let mut request = "ws://localhost/path".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("smartvpn.v1"));
    let (mut theirs, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "smartvpn.v1");
    let mut ours = outcome.await.unwrap().unwrap().websocket;
    for length in [1, 126, 8_197] {
        let payload = vec![length as u8; length];
        theirs.send(Message::binary(payload.clone())).await.unwrap();
        assert_eq!(ours.recv().await.unwrap(), payload);
        ours.send(&payload).await.unwrap();
        assert_eq!(theirs.next().await.unwrap().unwrap(), Message::binary(payload));
    }
    theirs.send(Message::binary(vec![0; 8_198])).await.unwrap();
    let error = ours.recv().await.unwrap_err();
    assert!(matches!(error, WebSocketError::TooLong), "{error}");
    let closing = tokio::spawn(ours.close(error.close_code().unwrap(), "too long", PATIENCE));
    let close = theirs.next().await.unwrap().unwrap();
    let expected = CloseFrame { code: 1009.into(), reason: "too long".into() };
    assert_eq!(close, Message::Close(Some(expected)));
    while theirs.next().await.is_some_and(|rest| rest.is_ok()) {}
    drop(theirs);
    timeout(PATIENCE, closing).await.unwrap().unwrap();
}
