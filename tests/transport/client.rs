//! Our client, and where it comes to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::version::{TLS12, TLS13};
use smartvpn::error::ErrorCode;
use smartvpn::transport::{ClientTls, DialError, DialOptions, WebSocketError, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::certs::{self, AUTHORITY, Identity, STRANGER};
use crate::{PATIENCE, endpoint, options};

/// Reads a request to its end; gives its key.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    head.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
}

fn switching(key: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: smartvpn.v1\r\n\r\n"
    )
}

/// Dials a server that answers any request with `answer` and ends the connection.
async fn answered(answer: &'static [u8]) -> DialError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
        let _ = stream.read(&mut [0; 16]).await;
    });
    dial(&endpoint("ws", "127.0.0.1", port), &options()).await.unwrap_err()
}

#[tokio::test]
async fn servers_that_are_none_are_told_apart() {
    let long: &'static [u8] =
        Box::leak(format!("HTTP/1.1 101 A\r\nA: {}", "a".repeat(20_000)).into_boxed_str().into_boxed_bytes());
    for (answer, code, told) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..], ErrorCode::NotAVpnServer, "HTTP 200"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://x.example/\r\n\r\n",
            ErrorCode::NotAVpnServer,
            "redirects are not followed",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", ErrorCode::NotAVpnServer, "HTTP 404"),
        (b"HTTP/1.1 407 Proxy\r\n\r\n", ErrorCode::ProxyError, "HTTP 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ErrorCode::NotAVpnServer, "HTTP 502"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            ErrorCode::NotAVpnServer,
            "Accept",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", ErrorCode::NotAVpnServer, "HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x32", ErrorCode::NotAVpnServer, "wss://"),
        (long, ErrorCode::NotAVpnServer, "16 KiB"),
        (b"HTTP/1.1 1", ErrorCode::ConnectionLost, "closed the connection"),
        (b"", ErrorCode::ConnectionLost, "closed the connection"),
    ] {
        let error = answered(answer).await;
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]);
        assert_eq!(error.code(), code, "{shown}: {error}");
        assert!(error.to_string().contains(told), "{shown}: {error}");
    }
}

#[tokio::test]
async fn an_answer_may_drip_in_after_hints_with_frames_right_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let key = read_request(&mut stream).await;
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec();
        bytes.extend_from_slice(switching(&key).as_bytes());
        bytes.extend_from_slice(b"\x82\x05early\x88\x02\x03\xe9");
        for byte in bytes {
            stream.write_all(&[byte]).await.unwrap();
        }
        stream
    });
    let dialed = dial(&endpoint("ws", "localhost", port), &options()).await.unwrap();
    assert_eq!(dialed.remote.port(), port);
    assert!(dialed.local.ip().is_loopback());
    let mut websocket = dialed.websocket;
    assert_eq!(websocket.recv().await.unwrap(), b"early");
    assert!(matches!(websocket.recv().await, Err(WebSocketError::Closed { code: Some(1001), .. })));
    drop(server.await.unwrap());
}

#[tokio::test]
async fn no_server_outlives_the_deadline() {
    let limit = Duration::from_millis(300);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Takes connections, says what may go on for ever, and never comes to an end.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = [0];
                let _ = stream.read(&mut first).await;
                if first == *b"G" {
                    let _ = stream.write_all(b"HTTP/1.1 101 A\r\nA: ").await;
                    while stream.write_all(b"a").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                std::future::pending::<()>().await;
            });
        }
    });
    for (scheme, phase) in [("ws", "upgrade"), ("wss", "TLS")] {
        let start = Instant::now();
        let options = DialOptions { tls: Some(AUTHORITY.client_tls()), deadline: start + limit, ..options() };
        let error = dial(&endpoint(scheme, "127.0.0.1", port), &options).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout, "{error}");
        assert!(error.to_string().contains(phase), "{error}");
        assert!((limit..PATIENCE / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn closed_ports_and_unknown_names_have_their_codes() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = dial(&endpoint("ws", "127.0.0.1", port), &options()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ConnectionRefused, "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    let error = dial(&endpoint("ws", "no.such.host.invalid", port), &options()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DnsLookupFailed, "{error}");
    let error = dial(&endpoint("ws", "255.255.255.255", port), &options()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unreachable, "{error}");
}

#[tokio::test]
async fn an_address_that_cuts_or_stalls_gives_way_to_the_next() {
    for stalls in [false, true] {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = good.local_addr().unwrap().port();
        let bad = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        tokio::spawn(async move {
            let (stream, _) = bad.accept().await.unwrap();
            if stalls {
                std::future::pending::<()>().await;
            }
            drop(stream);
        });
        tokio::spawn(async move {
            let (mut stream, _) = good.accept().await.unwrap();
            let key = read_request(&mut stream).await;
            stream.write_all(switching(&key).as_bytes()).await.unwrap();
            stream.read_u8().await
        });
        let fallback_addrs: Vec<IpAddr> = vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(if stalls { 2 } else { 20 });
        let options = DialOptions { fallback_addrs, deadline, ..options() };
        let dialed = dial(&endpoint("ws", "no.such.host.invalid", port), &options).await.unwrap();
        assert_eq!(dialed.remote.ip().to_string(), "127.0.0.1");
    }
}

/// Dials `localhost`, where a server with `identity` waits.
async fn dial_tls(identity: &Identity, trust: ClientTls, host: &str) -> DialError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(identity.foreign(&[&TLS13]));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    let options = DialOptions { tls: Some(trust), ..options() };
    dial(&endpoint("wss", host, port), &options).await.unwrap_err()
}

#[tokio::test]
async fn certificates_that_prove_nothing_have_their_codes() {
    let trust = || AUTHORITY.client_tls();
    let names = &["localhost"];
    let own = certs::self_signed(true);
    let pinned = ClientTls::with_ca_pem(own.cert.as_bytes()).unwrap();
    for (identity, trust, host, code, told) in [
        (AUTHORITY.sign(names, (2001, 2002)), trust(), "localhost", ErrorCode::TlsExpired, "clock"),
        (AUTHORITY.sign(names, (2110, 2120)), trust(), "localhost", ErrorCode::TlsExpired, "clock"),
        (
            AUTHORITY.sign(&["a.example", "b.example"], (2020, 2120)),
            trust(),
            "localhost",
            ErrorCode::TlsNameMismatch,
            "a.example",
        ),
        (AUTHORITY.sign(names, (2020, 2120)), trust(), "127.0.0.1", ErrorCode::TlsNameMismatch, "localhost"),
        (STRANGER.sign(names, (2020, 2120)), trust(), "localhost", ErrorCode::TlsUntrusted, "tlsCa"),
        (certs::self_signed(false), trust(), "localhost", ErrorCode::TlsUntrusted, "tlsCa"),
        (own, pinned, "localhost", ErrorCode::TlsUntrusted, "CA:FALSE"),
    ] {
        let error = dial_tls(&identity, trust, host).await;
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn the_systems_authorities_are_the_default() {
    let Ok(system) = ClientTls::system() else {
        return; // a machine without any
    };
    let error = dial_tls(&certs::good(), system, "localhost").await;
    assert_eq!(error.code(), ErrorCode::TlsUntrusted, "{error}");
}

#[tokio::test]
async fn mistaken_schemes_are_recognised() {
    // wss:// at a port without TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read(&mut [0; 16]).await;
    });
    let options = DialOptions { tls: Some(AUTHORITY.client_tls()), ..options() };
    let error = dial(&endpoint("wss", "localhost", port), &options).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TlsError, "{error}");
    assert!(error.to_string().contains("ws://"), "{error}");

    // ws:// at a port with TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(certs::good().foreign(&[&TLS13]));
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = acceptor.accept(tcp).await;
    });
    let error = dial(&endpoint("ws", "localhost", port), &options).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAVpnServer, "{error}");
    assert!(error.to_string().contains("wss://"), "{error}");
}

#[tokio::test]
async fn without_trust_there_is_no_wss() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = dial(&endpoint("wss", "127.0.0.1", listener.local_addr().unwrap().port()), &options()).await;
    assert_eq!(error.unwrap_err().code(), ErrorCode::TlsError);
}

#[tokio::test]
async fn tungstenites_server_is_understood_over_each_tls_version() {
    for versions in [None, Some([&TLS13]), Some([&TLS12])] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            match versions {
                None => serve(tcp).await,
                Some(versions) => {
                    let acceptor = TlsAcceptor::from(certs::good().foreign(&versions));
                    serve(acceptor.accept(tcp).await.unwrap()).await;
                }
            }
        });
        let scheme = if versions.is_some() { "wss" } else { "ws" };
        let options = DialOptions { tls: Some(AUTHORITY.client_tls()), ..options() };
        let mut websocket = dial(&endpoint(scheme, "localhost", port), &options).await.unwrap().websocket;
        websocket.set_message_limit(200_000);
        for length in [1, 126, 65_536, 200_000] {
            let payload = vec![length as u8; length];
            websocket.send(&payload).await.unwrap();
            assert_eq!(websocket.recv().await.unwrap(), payload);
        }
        websocket.close(1000, "done", PATIENCE).await;
        server.await.unwrap();
    }
}

/// Echoes until the Close, which must be ours.
async fn serve<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: S) {
    #[expect(clippy::result_large_err, reason = "tungstenite's callback")]
    let echo_protocol = |request: &Request, mut response: Response| {
        assert_eq!(request.uri(), "/path?query");
        assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "smartvpn.v1");
        assert!(request.headers().get("Sec-WebSocket-Extensions").is_none());
        response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("smartvpn.v1"));
        Ok(response)
    };
    let mut theirs = tokio_tungstenite::accept_hdr_async(stream, echo_protocol).await.unwrap();
    loop {
        match theirs.next().await.unwrap().unwrap() {
            Message::Close(frame) => {
                assert_eq!(frame, Some(CloseFrame { code: 1000.into(), reason: "done".into() }));
                break;
            }
            message => theirs.send(message).await.unwrap(),
        }
    }
    while theirs.next().await.is_some_and(|rest| rest.is_ok()) {}
}

#[tokio::test]
async fn hosts_are_named_and_addresses_are_not() {
    // SNI: a name is sent, an address never (RFC 6066 §3).
    for (host, expected) in [("localhost", Some("localhost")), ("127.0.0.1", None)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = certs::good().foreign(&[&TLS13]);
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
            let start = acceptor.await.unwrap();
            let hello = start.client_hello();
            let alpn: Vec<_> = hello.alpn().unwrap().map(<[u8]>::to_vec).collect();
            assert_eq!(alpn, [b"http/1.1".to_vec()]);
            let groups = hello.named_groups().unwrap();
            assert_eq!(groups[0], rustls::NamedGroup::X25519MLKEM768);
            assert_eq!(hello.cipher_suites()[0], rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
            let name = hello.server_name().map(str::to_owned);
            let _ = start.into_stream(Arc::clone(&config)).await;
            name
        });
        let options = DialOptions { tls: Some(AUTHORITY.client_tls()), ..options() };
        let _ = dial(&endpoint("wss", host, port), &options).await;
        assert_eq!(server.await.unwrap().as_deref(), expected);
    }
}
