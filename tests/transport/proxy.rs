//! Our client through an HTTP proxy, and our server behind one that speaks the PROXY protocol.

use std::net::SocketAddr;
use std::time::Duration;

use smartvpn::error::ErrorCode;
use smartvpn::transport::{
    DialError, DialOptions, Dialed, Endpoint, Listener, Progress, Proxy, ProxyHeaderError, UpgradeOptions,
    Upgraded, dial, read_proxy_header, upgrade,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::certs::{self, AUTHORITY};
use crate::{PATIENCE, endpoint, options, patience};

/// Reads a head, and nothing behind it.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A proxy that answers the first request with `answer`, and passes on to `server` if there is one. Gives the
/// request.
async fn proxy(answer: String, server: Option<SocketAddr>) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        let request = read_head(&mut near).await;
        near.write_all(answer.as_bytes()).await.unwrap();
        match server {
            Some(server) => {
                let mut far = TcpStream::connect(server).await.unwrap();
                tokio::spawn(async move { drop(copy_bidirectional(&mut near, &mut far).await) });
            }
            None => {
                near.shutdown().await.unwrap();
                drop(near.read(&mut [0; 16]).await);
            }
        }
        request
    });
    (port, task)
}

fn through(url: &str) -> DialOptions {
    let proxy = Some(Proxy::parse(url).unwrap());
    DialOptions { tls: Some(AUTHORITY.client_tls()), proxy, ..options() }
}

/// Serves one connection, with TLS, or with `expects_header` a PROXY header before it.
async fn serve(tls: bool, expects_header: bool) -> (SocketAddr, tokio::task::JoinHandle<Served>) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let tls = tls.then(|| certs::good().server_tls());
    let addr = listener.local_addr();
    let task = tokio::spawn(async move {
        let (mut tcp, peer) = listener.accept().await.unwrap();
        let source = if expects_header { read_proxy_header(&mut tcp, patience()).await? } else { Some(peer) };
        let upgraded = upgrade(tcp, tls.as_ref(), &UpgradeOptions::default(), patience()).await.unwrap();
        Ok((source, upgraded))
    });
    (addr, task)
}

type Served = Result<(Option<SocketAddr>, Upgraded), ProxyHeaderError>;

async fn talk(dialed: Dialed, upgraded: Upgraded) {
    let (mut client, mut server) = (dialed.websocket, upgraded.websocket);
    client.send(b"ping").await.unwrap();
    assert_eq!(server.recv().await.unwrap(), b"ping");
    server.send(b"pong").await.unwrap();
    assert_eq!(client.recv().await.unwrap(), b"pong");
}

#[tokio::test]
async fn a_tunnel_leads_to_the_server_by_its_name() {
    let answers = [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\nVia: 1.1 x\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    for tls in [false, true] {
        for answer in answers {
            let (server, served) = serve(tls, false).await;
            let (port, request) = proxy(answer.to_owned(), Some(server)).await;
            // Only the proxy knows where that is.
            let scheme = if tls { "wss" } else { "ws" };
            let target = endpoint(scheme, "no.such.host.invalid", server.port());
            let options = through(&format!("http://localhost:{port}"));
            let dialed = dial(&target, &options).await.unwrap();
            let request = request.await.unwrap();
            let name = format!("no.such.host.invalid:{}", server.port());
            assert!(
                request.starts_with(&format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n")),
                "{request}"
            );
            assert!(request.contains("\r\nUser-Agent: smartvpn/"), "{request}");
            assert!(!request.contains("Authorization"), "{request}");
            assert_eq!((dialed.remote.port(), dialed.server.as_str()), (port, name.as_str()));
            assert!(options.progress.is_connected());
            talk(dialed, served.await.unwrap().unwrap().1).await;
        }
    }
}

#[tokio::test]
async fn what_comes_right_behind_the_proxys_answer_is_the_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        // A server that speaks first is none of ours; what it says tells which.
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n220 mail.example ESMTP\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let error = dial(&endpoint("ws", "vpn.example", 25), &through(&format!("http://127.0.0.1:{port}"))).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAVpnServer, "{error}");
    let told = format!("vpn.example:25 through the proxy 127.0.0.1:{port} is not a VPN server");
    assert!(error.to_string().starts_with(&told), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn user_and_password_are_sent_when_there_are_any() {
    let (server, served) = serve(true, false).await;
    let (port, request) = proxy("HTTP/1.1 200 OK\r\n\r\n".to_owned(), Some(server)).await;
    let options = through(&format!("http://me:p%40ss@127.0.0.1:{port}"));
    let dialed = dial(&endpoint("wss", "localhost", server.port()), &options).await.unwrap();
    let request = request.await.unwrap();
    assert!(request.contains("\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n"), "{request}");
    let upgraded = served.await.unwrap().unwrap().1;
    assert!(!format!("{options:?}").contains("bWU6cEBzcw=="));
    talk(dialed, upgraded).await;
}

/// What the client makes of a proxy that answers so.
async fn answered(answer: &str, user_info: &str) -> DialError {
    let (port, _request) = proxy(answer.to_owned(), None).await;
    let options = through(&format!("http://{user_info}localhost:{port}"));
    dial(&endpoint("wss", "vpn.example", 8443), &options).await.unwrap_err()
}

#[tokio::test]
async fn proxies_that_refuse_are_told_with_their_words() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(20_000));
    for (answer, user_info, told, retry_after) in [
        ("HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic\r\n\r\n", "", "wants a user and password", None),
        ("HTTP/1.1 407 Auth\r\n\r\n", "me:hunter2@", "does not accept the user and password", None),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "", "vpn.example:8443: it answered HTTP 403", None),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "", "HTTP 502", None),
        ("HTTP/1.1 503 Busy\r\nRetry-After: 90\r\n\r\n", "", "HTTP 503", Some(90)),
        ("HTTP/1.1 301 Moved\r\nLocation: http://x/\r\n\r\n", "", "HTTP 301", None),
        ("SSH-2.0-OpenSSH_9.9\r\n", "", "is not an HTTP proxy", None),
        (&long, "", "16 KiB", None),
        ("HTTP/1.1 20", "", "closed the connection", None),
        ("", "", "closed the connection", None),
    ] {
        let error = answered(answer, user_info).await;
        let message = error.to_string();
        assert_eq!(error.code(), ErrorCode::ProxyError, "{message}");
        assert!(message.starts_with("the proxy localhost (127.0.0.1:"), "{message}");
        assert!(message.contains(told) && !format!("{error:?}").contains("hunter2"), "{message}");
        assert_eq!(error.retry_after(), retry_after.map(Duration::from_secs), "{message}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let target = endpoint("wss", "127.0.0.1", port);
    for (host, told) in [
        ("127.0.0.1", "refuses connections"),
        ("no.such.host.invalid", "does not resolve"),
        ("255.255.255.255", "cannot be reached"),
    ] {
        let options = through(&format!("http://{host}:{port}"));
        let error = dial(&target, &options).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProxyError, "{error}");
        let message = error.to_string();
        assert!(message.starts_with(&format!("the proxy {host}")) && message.contains(told), "{message}");
        assert!(!options.progress.is_connected());
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_at_the_deadline() {
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nA: "] {
        let limit = Duration::from_millis(300);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hanging = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            // Dripping on changes nothing.
            while !answer.is_empty() && stream.write_all(answer).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(stream.read_to_end(&mut Vec::new()).await);
        });
        let start = Instant::now();
        let options = DialOptions { deadline: start + limit, ..through(&format!("http://127.0.0.1:{port}")) };
        let error = dial(&endpoint("wss", "vpn.example", 443), &options).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProxyError, "{error}");
        assert!(error.to_string().contains("did not answer in time"), "{error}");
        assert!((limit..PATIENCE / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert!(options.progress.is_connected(), "TCP there was");
        hanging.await.unwrap();
    }
}

#[tokio::test]
async fn a_proxy_has_several_addresses() {
    let (server, served) = serve(false, false).await;
    let (port, _request) = proxy("HTTP/1.1 200 OK\r\n\r\n".to_owned(), Some(server)).await;
    let bad = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    tokio::spawn(async move { drop(bad.accept().await) });
    let fallback_addrs = vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let options = DialOptions { fallback_addrs, ..through(&format!("http://no.such.host.invalid:{port}")) };
    let dialed = dial(&endpoint("ws", "vpn.example", 80), &options).await.unwrap();
    assert_eq!(dialed.remote.to_string(), format!("127.0.0.1:{port}"));
    talk(dialed, served.await.unwrap().unwrap().1).await;
}

#[tokio::test]
async fn certificates_are_judged_behind_the_proxy_too() {
    let (server, _served) = serve(true, false).await;
    let (port, _request) = proxy("HTTP/1.1 200 OK\r\n\r\n".to_owned(), Some(server)).await;
    let options = through(&format!("http://127.0.0.1:{port}"));
    let error = dial(&endpoint("wss", "vpn.example", 443), &options).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TlsNameMismatch, "{error}");
    assert!(error.to_string().contains("vpn.example:443 through the proxy 127.0.0.1"), "{error}");
}

#[test]
fn exemptions_go_by_host_and_port() {
    let exempt = |list: &str, url: &str| Proxy::is_exempt(list, &Endpoint::parse(url).unwrap());
    for (list, url, expected) in [
        ("example.com", "wss://VPN.example.com/", true),
        ("example.com", "wss://nonexample.com/", false),
        (".example.com:443", "wss://vpn.example.com/", true),
        (".example.com:443", "ws://vpn.example.com/", false),
        ("10.0.0.0/8,fd00::/8", "wss://10.1.2.3:8443/", true),
        ("10.0.0.0/8,fd00::/8", "wss://[fd00::1]/", true),
        ("10.0.0.0/8", "wss://11.0.0.1/", false),
        ("*", "ws://anything/", true),
    ] {
        assert_eq!(exempt(list, url), expected, "{list} {url}");
    }
}

#[tokio::test]
async fn a_server_that_asks_to_be_left_alone_is_heard() {
    for (answer, expected) in [
        ("HTTP/1.1 503 Busy\r\nRetry-After: 30\r\n\r\n", Some(30)),
        ("HTTP/1.1 429 Many\r\nRetry-After: 100000\r\n\r\n", Some(3600)),
        (
            "HTTP/1.1 503 Busy\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n\r\n",
            Some(30),
        ),
        ("HTTP/1.1 503 Busy\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n\r\n", None),
        ("HTTP/1.1 502 Bad\r\nRetry-After: 30\r\n\r\n", None),
        ("HTTP/1.1 503 Busy\r\n\r\n", None),
    ] {
        // Without CONNECT before it, the same stand-in is a server.
        let (port, _request) = proxy(answer.to_owned(), None).await;
        let error = dial(&endpoint("ws", "127.0.0.1", port), &options()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotAVpnServer, "{error}");
        assert_eq!(error.retry_after(), expected.map(Duration::from_secs), "{answer}");
    }
}

#[tokio::test]
async fn known_addresses_are_tried_when_the_caller_says() {
    let (server, _served) = serve(false, false).await;
    let progress = Progress::default();
    assert!(!progress.is_connected());
    let options = DialOptions {
        fallback_addrs: vec![server.ip()],
        fallback_after: Duration::ZERO,
        progress: progress.clone(),
        ..options()
    };
    dial(&endpoint("ws", "no.such.host.invalid", server.port()), &options).await.unwrap();
    assert!(progress.is_connected());
}

/// Dials a server that expects a PROXY header through something that sends `header` first.
async fn behind(header: &[u8], tls: bool) -> (Option<Dialed>, Served) {
    let (server, served) = serve(tls, true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = listener.local_addr().unwrap();
    let header = header.to_vec();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        // What follows comes in the same segment, or at least it may.
        let mut first = header;
        let length = first.len();
        first.resize(length + 4096, 0);
        let count = near.read(&mut first[length..]).await.unwrap();
        drop(far.write_all(&first[..length + count]).await);
        drop(copy_bidirectional(&mut near, &mut far).await);
    });
    let target = endpoint(if tls { "wss" } else { "ws" }, "127.0.0.1", relay.port());
    let options = DialOptions { tls: Some(AUTHORITY.client_tls()), ..options() };
    let dialed = timeout(PATIENCE, dial(&target, &options)).await.unwrap();
    (dialed.ok(), served.await.unwrap())
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls_or_http() {
    let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x01\xc0\0\x02\x02\x12\x67\x01\xbb\x04\0\0";
    let local: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (header, source) in [
        (&b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"[..], Some("192.0.2.1:4711")),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", Some("[2001:db8::1]:4711")),
        (b"PROXY UNKNOWN\r\n", None),
        (v2, Some("192.0.2.1:4711")),
        (local, None),
    ] {
        for tls in [false, true] {
            let (dialed, served) = behind(header, tls).await;
            let (found, upgraded) = served.unwrap();
            assert_eq!(found, source.map(|source| source.parse().unwrap()));
            talk(dialed.unwrap(), upgraded).await;
        }
    }
}

#[tokio::test]
async fn without_a_proxy_header_there_is_no_answer() {
    for header in [&b""[..], b"PROXY TCP4 x\r\n", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0", &[b'P'; 300]] {
        for tls in [false, true] {
            let (dialed, served) = behind(header, tls).await;
            assert!(dialed.is_none(), "{header:?}");
            assert!(matches!(served, Err(ProxyHeaderError::Malformed(_))), "{header:?}");
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut tcp, _) = listener.accept().await.unwrap();
    let start = Instant::now();
    let error = read_proxy_header(&mut tcp, start + Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, ProxyHeaderError::Timeout), "{error}");
    assert!(start.elapsed() < PATIENCE / 2);
}
