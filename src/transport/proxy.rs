//! The client's way through an HTTP proxy: its URL, and the tunnel that `CONNECT` opens (RFC 9110 §9.3.6).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httparse::{EMPTY_HEADER, Response, Status};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::hop::of_proxy;
use super::http::{HEADER_COUNT_LIMIT, Head, HeadError, USER_AGENT, begins_answer};
use super::retry_after::retry_after;
use super::url::{BracketedHost, parse_port, split_authority};
use super::{DialError, Endpoint, ProxyFault, ProxyUrlError, no_proxy};

/// The longest `user:password` in a URL, in bytes: access tokens fit, and so does the request into what
/// proxies take as a head.
const USER_INFO_LIMIT: usize = 4096;

/// An HTTP proxy as its users write it: `http://[user:password@]host:port`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// A name or an IP address, in lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port, 1–65535.
    pub port: u16,
    /// User and password as `Proxy-Authorization` has them (RFC 7617): erased when dropped, never printed.
    basic: Option<Zeroizing<String>>,
}

impl Proxy {
    /// Takes a proxy's URL apart. User and password may be percent-encoded. No error repeats any of it.
    pub fn parse(url: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(ProxyUrlError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProxyUrlError::Scheme);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (user_info, address) = match authority.rsplit_once('@') {
            Some((user_info, address)) => (user_info, address),
            None => ("", authority),
        };
        let (host, port) = split_authority(address).map_err(ProxyUrlError::Host)?;
        let port = port.and_then(|port| parse_port(port).ok()).ok_or(ProxyUrlError::Port)?;
        Ok(Self { host, port, basic: basic(user_info)? })
    }

    /// Whether `no_proxy`, a list as curl takes it from the environment, has `endpoint` reached without a
    /// proxy.
    pub fn is_exempt(no_proxy: &str, endpoint: &Endpoint) -> bool {
        no_proxy::covers(no_proxy, &endpoint.host, endpoint.port)
    }
}

/// Host and port; what else there is may be secret.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", BracketedHost(&self.host), self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user_info = if self.basic.is_some() { "[redacted]@" } else { "" };
        write!(f, "Proxy(http://{user_info}{self})")
    }
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Self::parse(url)
    }
}

/// The credentials of a Basic authorization; none where the URL has none.
fn basic(user_info: &str) -> Result<Option<Zeroizing<String>>, ProxyUrlError> {
    if user_info.is_empty() {
        return Ok(None);
    }
    if user_info.len() > USER_INFO_LIMIT {
        return Err(ProxyUrlError::UserInfo);
    }
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    // Room for all of it: no copy is left behind by growing.
    let mut pair = Zeroizing::new(Vec::with_capacity(user_info.len() + 1));
    decode(user, &mut pair)?;
    if pair.contains(&b':') {
        return Err(ProxyUrlError::UserInfo);
    }
    pair.push(b':');
    decode(password, &mut pair)?;
    if pair.iter().any(u8::is_ascii_control) {
        return Err(ProxyUrlError::UserInfo);
    }
    Ok(Some(Zeroizing::new(BASE64_STANDARD.encode(&*pair))))
}

/// Appends `text` without its percent-encoding.
fn decode(text: &str, to: &mut Vec<u8>) -> Result<(), ProxyUrlError> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            to.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(ProxyUrlError::UserInfo) };
        // Two digits of four bits.
        to.push((high << 4 | low) as u8);
    }
    Ok(())
}

/// Has the proxy at the other end of `tcp` connect to `endpoint`, whose name it looks up. Afterwards `tcp`
/// leads to the server; nothing that the server may have sent already has been read. `name` is what
/// messages call the proxy.
pub(super) async fn open_tunnel(
    tcp: &mut TcpStream,
    proxy: &Proxy,
    name: &str,
    endpoint: &Endpoint,
) -> Result<(), DialError> {
    let failed = |fault, source| of_proxy(name.to_owned(), fault, source);
    let stranger = |why| failed(ProxyFault::Stranger(why), None);
    tcp.write_all(request(proxy, endpoint).as_bytes())
        .await
        .map_err(|error| failed(ProxyFault::Lost, Some(error)))?;
    let mut head = Head::default();
    loop {
        head.read_alone(tcp, begins_answer).await.map_err(|error| match error {
            HeadError::Io(error) => failed(ProxyFault::Lost, Some(error)),
            HeadError::Closed => failed(ProxyFault::Lost, None),
            HeadError::TooLong => stranger("its answer's head is over 16 KiB"),
            HeadError::NotHttp => stranger("it does not speak HTTP at this port"),
        })?;
        match judge(head.head(), proxy, endpoint) {
            Verdict::Open => return Ok(()),
            Verdict::Interim => head.next(),
            Verdict::Refused(fault) => return Err(failed(fault, None)),
        }
    }
}

/// The user agent is there for proxies that refuse requests without one.
fn request(proxy: &Proxy, endpoint: &Endpoint) -> Zeroizing<String> {
    let target = server(endpoint);
    let basic = proxy.basic.as_deref().map_or("", String::as_str);
    let (before, after) = if basic.is_empty() { ("", "") } else { ("Proxy-Authorization: Basic ", "\r\n") };
    let pieces = [
        "CONNECT ",
        &target,
        " HTTP/1.1\r\nHost: ",
        &target,
        "\r\nUser-Agent: ",
        USER_AGENT,
        "\r\n",
        before,
        basic,
        after,
        "\r\n",
    ];
    // Made in one piece: no copy is left behind by growing.
    Zeroizing::new(pieces.concat())
}

/// A server as a proxy is asked for it: always with its port.
pub(super) fn server(endpoint: &Endpoint) -> String {
    format!("{}:{}", BracketedHost(&endpoint.host), endpoint.port)
}

/// What an answer to `CONNECT` means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// 2xx: what follows is the server's, whatever the headers say.
    Open,
    /// 1xx; the answer proper follows.
    Interim,
    Refused(ProxyFault),
}

pub(super) fn judge(head: &[u8], proxy: &Proxy, endpoint: &Endpoint) -> Verdict {
    let mut headers = [EMPTY_HEADER; HEADER_COUNT_LIMIT];
    let mut answer = Response::new(&mut headers);
    let status = match answer.parse(head) {
        Ok(Status::Complete(_)) => answer.code,
        Ok(Status::Partial) | Err(_) => None,
    };
    match status {
        // An upgrade was not asked for.
        Some(101) | None => Verdict::Refused(ProxyFault::Stranger("its answer is not one to CONNECT")),
        Some(100..=199) => Verdict::Interim,
        Some(200..=299) => Verdict::Open,
        Some(407) if proxy.basic.is_some() => Verdict::Refused(ProxyFault::RefusesCredentials),
        Some(407) => Verdict::Refused(ProxyFault::WantsCredentials),
        Some(status) => {
            let retry_after = retry_after(status, answer.headers);
            Verdict::Refused(ProxyFault::Answered { status, server: server(endpoint), retry_after })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Proxy {
        Proxy::parse(url).unwrap()
    }

    fn pair(url: &str) -> Option<String> {
        let basic = parse(url).basic?;
        Some(String::from_utf8(BASE64_STANDARD.decode(&*basic).unwrap()).unwrap())
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port) in [
            ("http://proxy.example:3128", "proxy.example", 3128),
            ("HTTP://Proxy.Example:80/", "proxy.example", 80),
            ("http://10.0.0.1:1", "10.0.0.1", 1),
            ("http://[2001:DB8::1]:65535", "2001:db8::1", 65_535),
            ("http://me:secret@proxy.example:3128/", "proxy.example", 3128),
        ] {
            let proxy = parse(url);
            assert_eq!((proxy.host.as_str(), proxy.port), (host, port), "{url}");
        }
        assert_eq!(parse("http://[::1]:8080").to_string(), "[::1]:8080");
    }

    #[test]
    fn user_and_password_are_decoded() {
        for (url, expected) in [
            ("http://h:1", None),
            ("http://@h:1", None),
            ("http://me:secret@h:1", Some("me:secret")),
            ("http://me@h:1", Some("me:")),
            ("http://:secret@h:1", Some(":secret")),
            ("http://me:a:b@h:1", Some("me:a:b")),
            ("http://me%40home:p%2Fw%3a%25@h:1", Some("me@home:p/w:%")),
            ("http://me@home:x@h:1", Some("me@home:x")),
            ("http://m%C3%BCller:x@h:1", Some("müller:x")),
        ] {
            assert_eq!(pair(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused_without_a_word_of_them() {
        let long = format!("http://me:{}@h:1", "x".repeat(USER_INFO_LIMIT));
        for (url, expected) in [
            ("proxy.example:3128", ProxyUrlError::Scheme),
            ("https://me:hunter2@proxy.example:3128", ProxyUrlError::Scheme),
            ("socks5://proxy.example:1080", ProxyUrlError::Scheme),
            ("", ProxyUrlError::Scheme),
            ("http://proxy.example", ProxyUrlError::Port),
            ("http://me:hunter2@proxy.example:0", ProxyUrlError::Port),
            ("http://proxy.example:65536", ProxyUrlError::Port),
            ("http://proxy.example:3128/path", ProxyUrlError::Path),
            ("http://me:hunt/er2@proxy.example:3128", ProxyUrlError::Path),
            ("http://proxy.example:3128?x", ProxyUrlError::Path),
            ("http://me:hunter2%@proxy.example:3128", ProxyUrlError::UserInfo),
            ("http://me:hunter2%4@proxy.example:3128", ProxyUrlError::UserInfo),
            ("http://me:hunter2%zz@proxy.example:3128", ProxyUrlError::UserInfo),
            ("http://m%3ae:hunter2@proxy.example:3128", ProxyUrlError::UserInfo),
            ("http://me:hunter2%0d%0a@proxy.example:3128", ProxyUrlError::UserInfo),
            (&long, ProxyUrlError::UserInfo),
        ] {
            let error = Proxy::parse(url).unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for url in ["http://:3128", "http://a b:1", "http://::1:3128", "http://mü:1"] {
            assert!(matches!(Proxy::parse(url), Err(ProxyUrlError::Host(_))), "{url}");
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let proxy = parse("http://me:hunter2@proxy.example:3128");
        let printed = format!("{proxy:?} {proxy}");
        assert_eq!(printed, "Proxy(http://[redacted]@proxy.example:3128) proxy.example:3128");
    }

    #[test]
    fn the_request_names_the_server_and_its_port() {
        let endpoint = Endpoint::parse("wss://vpn.example/path").unwrap();
        let expected = format!(
            "CONNECT vpn.example:443 HTTP/1.1\r\nHost: vpn.example:443\r\nUser-Agent: {USER_AGENT}\r\n\r\n"
        );
        assert_eq!(*request(&parse("http://h:1"), &endpoint), expected);
        let text = request(&parse("http://Aladdin:open%20sesame@h:1"), &endpoint);
        // RFC 7617 §2.
        assert!(text.ends_with("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"));
        let v6 = request(&parse("http://h:1"), &Endpoint::parse("ws://[::1]/").unwrap());
        assert!(v6.starts_with("CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n"), "{}", *v6);
    }

    #[test]
    fn answers_open_the_tunnel_or_say_why_not() {
        let endpoint = Endpoint::parse("wss://vpn.example").unwrap();
        let judged =
            |lines: &str, url: &str| judge(format!("{lines}\r\n\r\n").as_bytes(), &parse(url), &endpoint);
        for lines in ["HTTP/1.0 200 Connection established", "HTTP/1.1 204 \r\nContent-Length: 5"] {
            assert!(matches!(judged(lines, "http://h:1"), Verdict::Open), "{lines}");
        }
        assert!(matches!(judged("HTTP/1.1 103 Hints", "http://h:1"), Verdict::Interim));
        for (lines, url, told) in [
            ("HTTP/1.1 407 No", "http://h:1", "wants a user and password"),
            ("HTTP/1.1 407 No", "http://me:x@h:1", "does not accept"),
            ("HTTP/1.1 403 No", "http://h:1", "HTTP 403"),
            ("HTTP/1.1 405 No", "http://h:1", "CONNECT"),
            ("HTTP/1.1 502 No", "http://h:1", "vpn.example:443"),
            ("HTTP/1.1 302 No", "http://h:1", "HTTP 302"),
            ("HTTP/1.1 101 Switching Protocols", "http://h:1", "not an HTTP proxy"),
            ("HTTP/1.1 banana", "http://h:1", "not an HTTP proxy"),
        ] {
            let Verdict::Refused(fault) = judged(lines, url) else { panic!("{lines}") };
            assert!(fault.to_string().contains(told), "{lines}: {fault}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_makes_it_panic(url in "(http://)?[a-z0-9%:@/\\[\\]é.]{0,40}", rest in ".*") {
            let _ = (Proxy::parse(&url), Proxy::parse(&rest));
        }
    }
}
