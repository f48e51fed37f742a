//! The server's side of a new connection: TLS, one HTTP request, and then a WebSocket (PROTOCOL §1).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::http::{self, Answer, HEADER_COUNT_LIMIT, Head, HeadError, SUBPROTOCOL};
use super::paced::PacedTcp;
use super::{CongestionControl, ServerTls, Stream, UpgradeError, WebSocket, socket};

/// How long TLS's handshake may take, within the deadline of all: four round trips on the worst of paths.
const TLS_TIME: Duration = Duration::from_secs(5);

/// How long the HTTP head may take from then on, within the same.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long an answer that ends the connection is given to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// What the server accepts.
#[derive(Clone, Debug, Default)]
pub struct UpgradeOptions {
    /// The only path that upgrades, without query, beginning with `/`; `None` takes any.
    pub path: Option<String>,
    /// The connection's congestion control.
    pub congestion: CongestionControl,
}

/// A connection whose first bytes are frames.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection; its message limit is the one before the session is up.
    pub websocket: WebSocket<Stream>,
    /// The addresses of `X-Forwarded-For` in header order: each proxy has added the one that it saw, so
    /// the last is the nearest proxy's word. One that is not an address hides those before it, as they
    /// cannot be vouched for through it.
    pub forwarded_for: Vec<IpAddr>,
    /// Whether the client offered the sub-protocol `smartvpn.v1`, which was then echoed.
    pub offered_protocol: bool,
}

/// Takes an accepted connection through TLS (with `tls`) and the HTTP upgrade, all before `deadline`.
/// Requests that are not upgrades are answered here; that is [`UpgradeError::Answered`].
///
/// Cancel-safe: dropping the future drops the socket.
pub async fn upgrade(
    tcp: TcpStream,
    tls: Option<&ServerTls>,
    options: &UpgradeOptions,
    deadline: Instant,
) -> Result<Upgraded, UpgradeError> {
    upgrade_watched(tcp, tls, options, deadline, || {}).await
}

/// As [`upgrade`], and says by `head_begins` when the first bytes of the head have come: until then a connection
/// holds 18 KiB at the most, from then on 40 KiB.
pub async fn upgrade_watched(
    tcp: TcpStream,
    tls: Option<&ServerTls>,
    options: &UpgradeOptions,
    deadline: Instant,
    head_begins: impl FnOnce(),
) -> Result<Upgraded, UpgradeError> {
    socket::configure(&tcp, options.congestion);
    let tcp = PacedTcp::new(tcp, options.congestion);
    let mut stream = match tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            let accepted = timeout_at(deadline.min(Instant::now() + TLS_TIME), tls.accept(tcp)).await;
            accepted.map_err(|_| UpgradeError::Timeout)?.map_err(UpgradeError::Tls)?
        }
    };
    let mut head = Head::default();
    let reading = async {
        head.begin(&mut stream).await?;
        head_begins();
        head.read(&mut stream, begins_request).await
    };
    let decision = match timeout_at(deadline.min(Instant::now() + HEAD_TIME), reading).await {
        Ok(Ok(())) => decide(head.head(), options),
        Ok(Err(HeadError::TooLong)) => Err(Answer::new(431, "the request's head is over 16 KiB")),
        Ok(Err(HeadError::NotHttp)) => Err(Answer::new(400, "this is not HTTP/1.1")),
        Ok(Err(HeadError::Closed)) => return Err(UpgradeError::Closed),
        Ok(Err(HeadError::Io(error))) => return Err(UpgradeError::Io(error)),
        Err(_) => {
            if !head.is_empty() {
                // What the socket does not take at once is not worth any more time.
                let answer = Answer::new(408, "the request did not come in time").encode();
                let _ = timeout(Duration::ZERO, write(&mut stream, &answer)).await;
            }
            return Err(UpgradeError::Timeout);
        }
    };
    match decision {
        Ok(upgrade) => {
            within(deadline, write(&mut stream, upgrade.answer.as_bytes())).await?;
            Ok(Upgraded {
                websocket: WebSocket::server(stream, head.leftover()).on_stream(),
                forwarded_for: upgrade.forwarded_for,
                offered_protocol: upgrade.offered_protocol,
            })
        }
        Err(answer) => {
            within(deadline, write(&mut stream, &answer.encode())).await?;
            let lingering = deadline.min(Instant::now() + LINGER);
            let _ = timeout_at(lingering, linger(&mut stream)).await;
            Err(UpgradeError::Answered { status: answer.status, reason: answer.text })
        }
    }
}

async fn within<T>(deadline: Instant, io: impl Future<Output = io::Result<T>>) -> Result<T, UpgradeError> {
    timeout_at(deadline, io).await.map_err(|_| UpgradeError::Timeout)?.map_err(UpgradeError::Io)
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Ends our side and reads the other's to its end: a socket closed with bytes unread resets the
/// connection, and a reset overtakes the answer.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut scrap = [0; 512];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

/// A method begins with a letter; an empty line may precede it (RFC 9112 §2.2).
pub(super) fn begins_request(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|&b| b.is_ascii_alphabetic() || b == b'\r' || b == b'\n')
}

/// A request that is granted.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) answer: String,
    pub(super) forwarded_for: Vec<IpAddr>,
    offered_protocol: bool,
}

/// Judges a whole head.
pub(super) fn decide(head: &[u8], options: &UpgradeOptions) -> Result<Upgrade, Answer> {
    let mut headers = [EMPTY_HEADER; HEADER_COUNT_LIMIT];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Answer::new(431, "too many headers")),
        Ok(Status::Partial) | Err(_) => return Err(Answer::new(400, "malformed request")),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Answer::new(400, "malformed request"));
    };
    let path = path_of(target);
    if !has_token(request.headers, "Upgrade", b"websocket") {
        return Err(ordinary(method, path));
    }
    if options.path.as_deref().is_some_and(|wanted| wanted != path) {
        return Err(Answer::new(404, "not found"));
    }
    let accept = check_upgrade(method, request.version == Some(1), request.headers)?;
    let offered_protocol = check_protocol(request.headers)?;
    let protocol =
        if offered_protocol { format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n") } else { String::new() };
    Ok(Upgrade {
        answer: format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        ),
        forwarded_for: forwarded_for(request.headers),
        offered_protocol,
    })
}

/// The target's path without its query; the target may be a whole URL (RFC 9112 §3.2.2).
fn path_of(target: &str) -> &str {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find(['/', '?']).map_or("/", |start| &rest[start..])
        }
        _ => target,
    };
    let path = target.split('?').next().unwrap_or(target);
    if path.is_empty() { "/" } else { path }
}

/// The answer to a request that does not ask for a WebSocket.
fn ordinary(method: &str, path: &str) -> Answer {
    let head_only = method == "HEAD";
    let answer = if path == "/healthz" && (method == "GET" || head_only) {
        Answer::new(200, "ok")
    } else {
        Answer::new(404, "not found")
    };
    Answer { head_only, ..answer }
}

/// The value of `Sec-WebSocket-Accept` for a request that is an upgrade as RFC 6455 §4.2.1 has it.
fn check_upgrade(method: &str, is_http_11: bool, headers: &[Header<'_>]) -> Result<String, Answer> {
    if method != "GET" || !is_http_11 {
        return Err(Answer::new(400, "an upgrade is a GET request of HTTP/1.1"));
    }
    if !has_token(headers, "Connection", b"upgrade") {
        return Err(Answer::new(400, "Connection: Upgrade is missing; does a proxy drop it?"));
    }
    if http::values(headers, "Transfer-Encoding").next().is_some()
        || http::values(headers, "Content-Length").any(|length| length.trim_ascii() != b"0")
    {
        return Err(Answer::new(400, "an upgrade has no body"));
    }
    if http::single(headers, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(Answer::new(426, "this server speaks version 13 of WebSocket"));
    }
    let key = http::single(headers, "Sec-WebSocket-Key").unwrap_or_default();
    match BASE64_STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(derive_accept_key(key)),
        _ => Err(Answer::new(400, "Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// Whether `smartvpn.v1` is offered; an error when only others are.
fn check_protocol(headers: &[Header<'_>]) -> Result<bool, Answer> {
    let mut offers = http::tokens(headers, "Sec-WebSocket-Protocol").peekable();
    if offers.peek().is_none() {
        return Ok(false);
    }
    if offers.any(|offer| offer == SUBPROTOCOL.as_bytes()) {
        return Ok(true);
    }
    Err(Answer::new(400, "this server speaks the sub-protocol smartvpn.v1 only"))
}

fn has_token(headers: &[Header<'_>], name: &'static str, wanted: &[u8]) -> bool {
    http::tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The addresses of `X-Forwarded-For` behind the last entry that is none.
fn forwarded_for(headers: &[Header<'_>]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for token in http::tokens(headers, "X-Forwarded-For") {
        match std::str::from_utf8(token).ok().and_then(parse_address) {
            Some(address) => addresses.push(address),
            None => addresses.clear(),
        }
    }
    addresses
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or without.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address =
        text.parse().ok().or_else(|| text.parse().ok().map(|a: SocketAddr| a.ip())).or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

    fn judge(lines: &[&str], path: Option<&str>) -> Result<Upgrade, Answer> {
        let head = format!("{}\r\n\r\n", lines.join("\r\n"));
        let options = UpgradeOptions { path: path.map(Into::into), ..UpgradeOptions::default() };
        decide(head.as_bytes(), &options)
    }

    fn status(lines: &[&str]) -> u16 {
        judge(lines, None).map_or_else(|answer| answer.status, |_| 101)
    }

    /// A good request with one line changed or, without a `:`, left out, and `more` lines behind.
    fn status_with(change: &str, more: &[&str]) -> u16 {
        let name = change.split(':').next().unwrap();
        let mut lines = vec![
            "GET /any?thing HTTP/1.1",
            "Host: vpn.example",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            KEY,
        ];
        lines.retain(|line| !line.starts_with(&format!("{name}:")));
        if change.contains(':') {
            lines.push(change);
        }
        lines.extend(more);
        status(&lines)
    }

    #[test]
    fn upgrades_are_granted_on_any_path() {
        let lines = [
            "GET /a/b?c HTTP/1.1",
            "Host: vpn.example",
            "upgrade: h2c, WebSocket",
            "CONNECTION: keep-alive",
            "Connection: foo,UPGRADE",
            "Sec-WebSocket-Version:13",
            KEY,
            "Sec-WebSocket-Protocol: other",
            "Sec-WebSocket-Protocol: a ,smartvpn.v1",
            "Sec-WebSocket-Extensions: permessage-deflate",
        ];
        let granted = judge(&lines, None).unwrap();
        assert!(granted.offered_protocol);
        // RFC 6455 §1.3's example; and no extension, whatever is offered.
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                        Sec-WebSocket-Protocol: smartvpn.v1\r\n\r\n";
        assert_eq!(granted.answer, expected);
    }

    #[test]
    fn a_configured_path_is_the_only_one() {
        for (target, granted) in [
            ("/vpn", true),
            ("/vpn?x=/other", true),
            ("http://vpn.example/vpn?x", true),
            ("/", false),
            ("/vpn/", false),
            ("/VPN", false),
            ("/other?/vpn", false),
        ] {
            let first = format!("GET {target} HTTP/1.1");
            let lines =
                [&first, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", KEY];
            let judged = judge(&lines, Some("/vpn"));
            assert_eq!(judged.is_ok(), granted, "{target}");
            assert!(judged.err().is_none_or(|answer| answer.status == 404));
        }
    }

    #[test]
    fn what_an_upgrade_lacks_has_its_status() {
        for (expected, change) in [
            (101, "X: unrelated"),
            (101, "Host"),
            (404, "Upgrade"),
            (404, "Upgrade: h2c"),
            (400, "Connection"),
            (400, "Connection: close"),
            (426, "Sec-WebSocket-Version"),
            (426, "Sec-WebSocket-Version: 8"),
            (426, "Sec-WebSocket-Version: 13, 8"),
            (400, "Sec-WebSocket-Key"),
            (400, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"),
            (400, "Sec-WebSocket-Key: c2hvcnQ="),
            (400, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE="),
            (101, "Sec-WebSocket-Protocol: smartvpn.v1"),
            (101, "Sec-WebSocket-Protocol: "),
            (400, "Sec-WebSocket-Protocol: smartvpn.v2"),
            (400, "Sec-WebSocket-Protocol: SmartVPN.v1"),
            (101, "Content-Length: 0"),
            (400, "Content-Length: 5"),
            (400, "Transfer-Encoding: chunked"),
        ] {
            assert_eq!(status_with(change, &[]), expected, "{change}");
        }
        assert_eq!(status_with("X: y", &[KEY]), 400, "two keys");
        assert_eq!(status_with("X: y", &["Sec-WebSocket-Version: 13"]), 426, "two versions");
        assert_eq!(status(&["POST / HTTP/1.1", "Upgrade: websocket"]), 400);
        assert_eq!(status(&["GET / HTTP/1.0", "Upgrade: websocket", "Connection: Upgrade", KEY]), 400);
    }

    #[test]
    fn ordinary_requests_get_ordinary_answers() {
        for (first, expected) in [
            ("GET /healthz HTTP/1.1", 200),
            ("GET /healthz?probe HTTP/1.0", 200),
            ("HEAD /healthz HTTP/1.1", 200),
            ("POST /healthz HTTP/1.1", 404),
            ("GET /healthz/ HTTP/1.1", 404),
            ("GET / HTTP/1.1", 404),
            ("OPTIONS * HTTP/1.1", 404),
            ("GET /healthz", 400),
            ("GET / HTTP/2.0", 400),
            ("nonsense", 400),
        ] {
            assert_eq!(status(&[first]), expected, "{first}");
        }
        assert!(judge(&["HEAD /healthz HTTP/1.1"], None).unwrap_err().head_only);
        assert_eq!(judge(&["GET /healthz HTTP/1.1"], None).unwrap_err().text, "ok");
        let mut many = vec!["GET / HTTP/1.1"];
        many.extend(["A: b"; HEADER_COUNT_LIMIT + 1]);
        assert_eq!(status(&many), 431);
    }

    #[test]
    fn addresses_of_proxies_come_in_order() {
        let forwarded = |values: &[&str]| {
            let headers: Vec<_> = values
                .iter()
                .map(|value| Header { name: "X-Forwarded-For", value: value.as_bytes() })
                .collect();
            forwarded_for(&headers).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(forwarded(&[]), [""; 0]);
        assert_eq!(
            forwarded(&["203.0.113.7, 2001:db8::1", "10.0.0.1:4711 ,[2001:db8::2]:80,[2001:db8::3]"]),
            ["203.0.113.7", "2001:db8::1", "10.0.0.1", "2001:db8::2", "2001:db8::3"]
        );
        assert_eq!(forwarded(&["::ffff:10.0.0.1"]), ["10.0.0.1"]);
        assert_eq!(forwarded(&["203.0.113.7, unknown, 10.0.0.1"]), ["10.0.0.1"]);
        assert_eq!(forwarded(&["203.0.113.7, _hidden"]), [""; 0]);
    }

    #[test]
    fn accept_values_of_the_second_implementation() {
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/vectors/wire.json")).unwrap();
        let mut seen = 0;
        for row in rows.iter().filter(|row| row["kind"] == "accept") {
            seen += 1;
            let key = row["in"]["key"].as_str().unwrap();
            assert_eq!(derive_accept_key(key.as_bytes()), row["out"]["accept"].as_str().unwrap());
        }
        assert_eq!(seen, 1);
    }

    proptest::proptest! {
        #[test]
        fn no_head_makes_it_panic(
            pieces in proptest::collection::vec(
                proptest::prop_oneof![proptest::sample::select(vec!["GET ", "/healthz", "http://", "?", " HTTP/1.1\r\n", "Upgrade: websocket\r\n", "Connection: upgrade\r\n", "Sec-WebSocket-Key: ", "X-Forwarded-For: ", ",", "[::", "\r\n"]).prop_map(str::to_owned), ".*"],
                0..12,
            ),
        ) {
            let text = format!("{}\r\n\r\n", pieces.concat());
            let _ = decide(text.as_bytes(), &UpgradeOptions::default());
        }
    }
}
