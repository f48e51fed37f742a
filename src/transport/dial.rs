//! The client's way to a server: addresses, TCP, TLS, the HTTP upgrade (PROTOCOL §1).

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httparse::{EMPTY_HEADER, Header, Response, Status};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::connect::{self, Connector};
use super::hop::{Hop, of_proxy};
use super::http::{self, HEADER_COUNT_LIMIT, Head, HeadError, SUBPROTOCOL, USER_AGENT, begins_answer};
use super::paced::PacedTcp;
use super::proxy;
use super::retry_after::retry_after;
use super::{
    ClientTls, CongestionControl, DialError, DialPhase, Endpoint, Progress, Proxy, ProxyFault, Stream,
    WebSocket,
};

/// How much of a redirect's target a message shows.
const LOCATION_SHOWN: usize = 200;

/// How to dial.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Whom to trust; `wss` endpoints need it.
    pub tls: Option<ClientTls>,
    /// The connection's congestion control.
    pub congestion: CongestionControl,
    /// When to give up, whatever is going on.
    pub deadline: Instant,
    /// The HTTP proxy that connects to the server, and looks its name up.
    pub proxy: Option<Proxy>,
    /// Addresses from before ([`Dialed::remote`]), of the proxy if there is one: tried when the name does not
    /// resolve any more, or not within [`Self::fallback_after`], as the resolver may be behind the dead
    /// tunnel.
    pub fallback_addrs: Vec<IpAddr>,
    /// How long the resolver is waited for before [`Self::fallback_addrs`] are tried beside it.
    pub fallback_after: Duration,
    /// Is told how far it comes.
    pub progress: Progress,
}

impl DialOptions {
    /// [`Self::fallback_after`] unless told otherwise: 2 s.
    pub const FALLBACK_AFTER: Duration = connect::FALLBACK_DELAY;

    /// Without TLS, proxy and known addresses, and giving up at `deadline`.
    pub fn new(deadline: Instant) -> Self {
        Self {
            tls: None,
            congestion: CongestionControl::default(),
            deadline,
            proxy: None,
            fallback_addrs: Vec::new(),
            fallback_after: Self::FALLBACK_AFTER,
            progress: Progress::default(),
        }
    }
}

/// A connection whose first bytes are frames.
#[derive(Debug)]
pub struct Dialed {
    /// The connection; its message limit is the one before the session is up.
    pub websocket: WebSocket<Stream>,
    /// The address that it goes to, the server's or the proxy's. This host must keep a way there beside any
    /// tunnel.
    pub remote: SocketAddr,
    /// The address that the connection leaves from.
    pub local: SocketAddr,
    /// What users are told the server is: its address and port; through a proxy, which alone knows the
    /// address, host and port of the URL.
    pub server: String,
}

/// Connects to `endpoint`, all before the deadline.
///
/// Addresses, of the proxy if there is one, are tried in turn, the next after 250 ms or a failure. One that
/// takes a connection and then cuts it, or lets half of the remaining time pass, gives way to the others; what
/// a server says, by its certificate or in HTTP, is final. What fails before a proxy has opened its tunnel is
/// [`DialError::Proxy`].
///
/// Cancel-safe: dropping the future drops the sockets.
pub async fn dial(endpoint: &Endpoint, options: &DialOptions) -> Result<Dialed, DialError> {
    let hop = Hop::of(endpoint, options);
    let lookup = async {
        match hop.host.parse() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, hop.port)]),
            Err(_) => connect::look_up(hop.host, hop.port).await,
        }
    };
    let fallback = connect::with_port(&options.fallback_addrs, hop.port);
    let mut connector = Connector::new(lookup, fallback, options.fallback_after, options.congestion);
    let mut failure = None;
    loop {
        let (tcp, remote) = match timeout_at(options.deadline, connector.next()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(failure.unwrap_or_else(|| hop.connect_error(error))),
            Err(_) => return Err(failure.unwrap_or_else(|| hop.connect_timeout(&connector))),
        };
        options.progress.set_connected();
        match establish(endpoint, options, tcp, &hop.known_as(remote), connector.has_more()).await {
            Ok((websocket, local)) => {
                let server = if hop.is_proxy { proxy::server(endpoint) } else { remote.to_string() };
                return Ok(Dialed { websocket, remote, local, server });
            }
            Err(error) if error.is_of_address() && connector.has_more() => {
                tracing::debug!(%error, "trying the next address");
                failure = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// From TCP with `hop` to a WebSocket. With `others` to fall back on, it takes half of the remaining time at
/// most.
async fn establish(
    endpoint: &Endpoint,
    options: &DialOptions,
    mut tcp: TcpStream,
    hop: &str,
    others: bool,
) -> Result<(WebSocket<Stream>, SocketAddr), DialError> {
    let now = Instant::now();
    let left = options.deadline.saturating_duration_since(now);
    let deadline = if others { now + left / 2 } else { options.deadline };
    let server = match &options.proxy {
        None => hop.to_owned(),
        Some(proxy) => {
            let tunnel = timeout_at(deadline, proxy::open_tunnel(&mut tcp, proxy, hop, endpoint)).await;
            let timed_out = || of_proxy(hop.to_owned(), ProxyFault::Timeout(DialPhase::Proxy), None);
            tunnel.map_err(|_| timed_out())??;
            format!("{} through the proxy {hop}", proxy::server(endpoint))
        }
    };
    let server = server.as_str();
    let timed_out = |phase| DialError::Timeout { server: server.to_owned(), phase };
    let lost = |phase| move |error| DialError::of_stream(server, phase, error);

    let local = tcp.local_addr().map_err(lost(DialPhase::Connect))?;
    let tcp = PacedTcp::new(tcp, options.congestion);
    let mut stream = if endpoint.tls {
        let handshake = timeout_at(deadline, secure(endpoint, options, tcp, server)).await;
        handshake.map_err(|_| timed_out(DialPhase::Tls))??
    } else {
        Stream::Plain(tcp)
    };
    let request = request_upgrade(endpoint, &mut stream, server);
    let head = timeout_at(deadline, request).await.map_err(|_| timed_out(DialPhase::Upgrade))??;
    Ok((WebSocket::client(stream, head.leftover()).on_stream(), local))
}

async fn secure(
    endpoint: &Endpoint,
    options: &DialOptions,
    tcp: PacedTcp,
    server: &str,
) -> Result<Stream, DialError> {
    let of_tls = |error| DialError::of_stream(server, DialPhase::Tls, error);
    let usage = |text: &str| of_tls(io::Error::other(rustls::Error::General(text.to_owned())));
    let tls = options.tls.as_ref().ok_or_else(|| usage("no trust anchors were given for wss://"))?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| usage("the host cannot be the name of a certificate"))?;
    tls.connect(tcp, name).await.map_err(of_tls)
}

/// Sends the request and reads the answer to it; the head that is given back upgrades.
async fn request_upgrade(endpoint: &Endpoint, stream: &mut Stream, server: &str) -> Result<Head, DialError> {
    let lost = |error| DialError::of_stream(server, DialPhase::Upgrade, error);
    let stranger = |Stranger { status, explanation, retry_after }| DialError::NotAVpnServer {
        server: server.to_owned(),
        status,
        explanation,
        retry_after,
    };

    let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
    stream.write_all(request(endpoint, &key).as_bytes()).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut head = Head::default();
    loop {
        match head.read(stream, begins_answer).await {
            Ok(()) => {}
            Err(HeadError::Io(error)) => return Err(lost(error)),
            Err(HeadError::Closed) => {
                let phase = DialPhase::Upgrade;
                return Err(DialError::Lost { server: server.to_owned(), phase, source: None });
            }
            Err(HeadError::TooLong) => {
                return Err(stranger(Stranger::new(None, "its answer's head is over 16 KiB")));
            }
            Err(HeadError::NotHttp) => {
                return Err(stranger(Stranger::new(None, not_http(endpoint, head.bytes()))));
            }
        }
        match judge(head.head(), &derive_accept_key(key.as_bytes())) {
            Verdict::Upgraded => return Ok(head),
            Verdict::Interim => head.next(),
            Verdict::Proxy => return Err(DialError::ForeignProxy { server: server.to_owned() }),
            Verdict::Stranger(found) => return Err(stranger(found)),
        }
    }
}

/// The user agent is there for proxies that refuse requests without one.
fn request(endpoint: &Endpoint, key: &str) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
        endpoint.path_and_query,
        endpoint.host_header(),
    )
}

/// What bytes that are no HTTP answer may be.
fn not_http(endpoint: &Endpoint, bytes: &[u8]) -> &'static str {
    const TLS_ALERT: u8 = 0x15;
    if !endpoint.tls && bytes.first() == Some(&TLS_ALERT) {
        "it speaks TLS at this port; serverUrl should begin with wss://"
    } else {
        "it does not speak HTTP at this port; is it the right one?"
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// 101, as PROTOCOL §1 wants it.
    Upgraded,
    /// Another 1xx; the answer proper follows.
    Interim,
    /// 407.
    Proxy,
    /// Anything else.
    Stranger(Stranger),
}

/// An answer that is none of a VPN server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    status: Option<u16>,
    pub(super) explanation: String,
    pub(super) retry_after: Option<Duration>,
}

impl Stranger {
    fn new(status: Option<u16>, explanation: impl Into<String>) -> Self {
        Self { status, explanation: explanation.into(), retry_after: None }
    }
}

pub(super) fn judge(head: &[u8], accept: &str) -> Verdict {
    let mut headers = [EMPTY_HEADER; HEADER_COUNT_LIMIT];
    let mut answer = Response::new(&mut headers);
    let Ok(Status::Complete(_)) = answer.parse(head) else {
        return Verdict::Stranger(Stranger::new(None, "its answer is not HTTP/1.1"));
    };
    match answer.code {
        Some(101) => match check_upgrade(answer.headers, accept) {
            Ok(()) => Verdict::Upgraded,
            Err(fault) => {
                Verdict::Stranger(Stranger::new(Some(101), format!("it answered HTTP 101, but {fault}")))
            }
        },
        Some(100..=199) => Verdict::Interim,
        Some(407) => Verdict::Proxy,
        Some(status) => Verdict::Stranger(Stranger {
            retry_after: retry_after(status, answer.headers),
            ..Stranger::new(Some(status), explain(status, answer.headers))
        }),
        None => Verdict::Stranger(Stranger::new(None, "its answer has no status")),
    }
}

fn check_upgrade(headers: &[Header<'_>], accept: &str) -> Result<(), &'static str> {
    let has = |name, wanted: &str| {
        http::tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    if !has("Upgrade", "websocket") || !has("Connection", "upgrade") {
        return Err("without the headers of a WebSocket upgrade");
    }
    if http::single(headers, "Sec-WebSocket-Accept") != Some(accept.as_bytes()) {
        return Err("to another request: Sec-WebSocket-Accept is wrong");
    }
    if http::tokens(headers, "Sec-WebSocket-Extensions").next().is_some() {
        return Err("with an extension that was not offered");
    }
    if http::tokens(headers, "Sec-WebSocket-Protocol").any(|protocol| protocol != SUBPROTOCOL.as_bytes()) {
        return Err("with a sub-protocol that was not offered");
    }
    Ok(())
}

/// What a status is likely to mean for someone who expected a VPN server.
fn explain(status: u16, headers: &[Header<'_>]) -> String {
    let mut text = format!("it answered HTTP {status}");
    let meaning = match status {
        200..=299 => {
            ", an ordinary web page; check host and path of serverUrl, and that a proxy in front \
                      passes WebSocket upgrades on"
        }
        300..=399 => {
            if let Some(location) = http::single(headers, "Location") {
                let _ = write!(text, " (to {})", shown(location));
            }
            "; redirects are not followed, so put the final address into serverUrl"
        }
        401 | 403 => "; something in front of the server, or the path, wants authorization",
        404 => "; the path of serverUrl is not served there",
        400 | 426 => {
            "; it does not take this upgrade: does a proxy in front pass the Upgrade and \
                      Connection headers on?"
        }
        429 => "; too many requests, try again later",
        502..=504 => "; the proxy in front does not reach the VPN server",
        _ => "; check host, port and path of serverUrl",
    };
    text.push_str(meaning);
    text
}

/// A header's value as a message may show it: printable ASCII, not too much of it.
fn shown(value: &[u8]) -> String {
    let printable = |&b: &u8| if (b'!'..=b'~').contains(&b) { char::from(b) } else { '?' };
    value.iter().take(LOCATION_SHOWN).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn verdict(lines: &[&str]) -> Verdict {
        judge(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes(), ACCEPT)
    }

    fn status(lines: &[&str]) -> Option<u16> {
        match verdict(lines) {
            Verdict::Stranger(found) => found.status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_request_is_what_the_protocol_says() {
        let endpoint = Endpoint::parse("wss://VPN.example:8443/path?query").unwrap();
        let text = request(&endpoint, "key");
        let mut lines = text.split("\r\n");
        assert_eq!(lines.next(), Some("GET /path?query HTTP/1.1"));
        assert_eq!(lines.next(), Some("Host: vpn.example:8443"));
        assert!(text.contains("\r\nSec-WebSocket-Protocol: smartvpn.v1\r\n"));
        assert!(!text.contains("Sec-WebSocket-Extensions"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_upgrade_needs_all_its_parts() {
        let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
        let good =
            ["HTTP/1.1 101 Whatever", "Upgrade: WebSocket", "connection: keep-alive, upgrade", &accept];
        assert_eq!(verdict(&good), Verdict::Upgraded);
        for more in ["Sec-WebSocket-Protocol: smartvpn.v1", "Sec-WebSocket-Extensions: ", "Server: nginx"] {
            assert_eq!(verdict(&[&good[..], &[more]].concat()), Verdict::Upgraded, "{more}");
        }
        for more in [
            "Sec-WebSocket-Protocol: other",
            "Sec-WebSocket-Protocol: SMARTVPN.V1",
            "Sec-WebSocket-Protocol: smartvpn.v1, other",
            "Sec-WebSocket-Extensions: permessage-deflate",
            &accept,
        ] {
            assert_eq!(status(&[&good[..], &[more]].concat()), Some(101), "{more}");
        }
        for missing in 1..good.len() {
            let mut lines = good.to_vec();
            lines.remove(missing);
            assert_eq!(status(&lines), Some(101), "without {}", good[missing]);
        }
        let wrong = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(status(&[good[0], good[1], good[2], wrong]), Some(101));
    }

    #[test]
    fn other_answers_are_explained() {
        for (line, header, expected) in [
            ("HTTP/1.1 200 OK", "A: b", "ordinary web page"),
            ("HTTP/1.1 302 Found", "Location: https://else.example/", "to https://else.example/"),
            ("HTTP/1.1 302 Found", "Location: a\u{1b}[31mb", "HTTP/1.1"),
            ("HTTP/1.0 302 Found", "A: b", "redirects are not followed"),
            ("HTTP/1.1 403 No", "A: b", "authorization"),
            ("HTTP/1.1 404 No", "A: b", "HTTP 404"),
            ("HTTP/1.1 400 No", "A: b", "Upgrade"),
            ("HTTP/1.1 502 No", "A: b", "does not reach"),
            ("HTTP/1.1 500 No", "A: b", "HTTP 500"),
            ("HTTP/1.1 banana", "A: b", "not HTTP/1.1"),
        ] {
            let Verdict::Stranger(found) = verdict(&[line, header]) else { panic!("{line}") };
            let text = found.explanation;
            assert!(text.contains(expected), "{line}: {text}");
            assert!(!text.contains('\u{1b}'));
        }
        assert_eq!(verdict(&["HTTP/1.1 407 Proxy Authentication Required"]), Verdict::Proxy);
        assert_eq!(verdict(&["HTTP/1.1 103 Early Hints", "Link: x"]), Verdict::Interim);
        assert_eq!(shown(&[b'a'; 500]).len(), LOCATION_SHOWN);
    }

    #[test]
    fn other_protocols_are_recognised() {
        let plain = Endpoint::parse("ws://host").unwrap();
        assert!(not_http(&plain, &[0x15, 3, 3]).contains("wss://"));
        assert!(!not_http(&plain, b"SSH-2.0").contains("wss://"));
        assert!(begins_answer(b"HTT") && begins_answer(b"HTTP/1.1 200"));
        assert!(!begins_answer(b"SSH-2.0") && !begins_answer(b"HTTP/2"));
    }

    proptest::proptest! {
        #[test]
        fn no_head_makes_it_panic(
            pieces in proptest::collection::vec(
                proptest::prop_oneof![proptest::sample::select(vec!["HTTP/1.1 101 ", "HTTP/1.1 302 ", "Location: ", "Upgrade: websocket\r\n", "Connection: upgrade\r\n", "Sec-WebSocket-Accept: ", ",", "\r\n"]).prop_map(str::to_owned), ".*"],
                0..12,
            ),
        ) {
            let text = format!("{}\r\n\r\n", pieces.concat());
            let _ = judge(text.as_bytes(), ACCEPT);
        }
    }
}
