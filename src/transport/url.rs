//! Where a server is: the client's `serverUrl`, taken apart.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::EndpointError;

/// The longest host name that DNS can hold, in bytes (RFC 1035 §2.3.4).
const HOST_LIMIT: usize = 253;

/// The longest path with query, in bytes: far more than any proxy's rules need, and it leaves most of
/// the server's 16 KiB head to what proxies add.
const PATH_LIMIT: usize = 4096;

/// A server's address as its users write it: `wss://host[:port]/path?query`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `wss`: TLS below the WebSocket.
    pub tls: bool,
    /// A name or an IP address, in lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port, 1–65535; 443 with TLS and 80 without, unless the URL says otherwise.
    pub port: u16,
    /// What the request line asks for; begins with `/`.
    pub path_and_query: String,
}

impl Endpoint {
    /// Takes a `ws://` or `wss://` URL apart. User information and fragments are refused: neither
    /// would be sent.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(EndpointError::Scheme),
        };
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => parse_port(port)?,
        };
        Ok(Self { tls, host, port, path_and_query: parse_path(path)? })
    }

    /// The host as an IP address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The value of the `Host` header: without the port where it is the scheme's own (RFC 6455 §4.1).
    pub fn host_header(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let host = BracketedHost(&self.host);
        if self.port == default { host.to_string() } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.host_header(), self.path_and_query)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Self::parse(url)
    }
}

/// A host as URLs and `Host` headers write it: IPv6 addresses in brackets.
pub(super) struct BracketedHost<'a>(pub(super) &'a str);

impl fmt::Display for BracketedHost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

/// Host and port, neither with what parts them.
pub(super) fn split_authority(authority: &str) -> Result<(String, Option<&str>), EndpointError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, rest) = rest.split_once(']').ok_or(EndpointError::Host)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| EndpointError::Host)?;
        return match rest {
            "" => Ok((address.to_string(), None)),
            _ => {
                let port = rest.strip_prefix(':').ok_or(EndpointError::Host)?;
                Ok((address.to_string(), Some(port)))
            }
        };
    }
    match authority.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(EndpointError::Host),
        Some((host, port)) => Ok((parse_host(host)?, Some(port))),
        None => Ok((parse_host(authority)?, None)),
    }
}

/// A name of letters, digits, hyphens and underscores in labels of 1–63, or an IPv4 address; one dot at
/// its end, which keeps resolvers from appending search domains, is left out.
fn parse_host(host: &str) -> Result<String, EndpointError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host.is_ascii() {
        return Err(EndpointError::International);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > HOST_LIMIT || !host.split('.').all(label) {
        return Err(EndpointError::Host);
    }
    Ok(host.to_ascii_lowercase())
}

pub(super) fn parse_port(port: &str) -> Result<u16, EndpointError> {
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EndpointError::Port);
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(EndpointError::Port),
        Ok(port) => Ok(port),
    }
}

/// Only characters that RFC 3986 allows in a path or query pass, so nothing here can end the request
/// line early.
fn parse_path(path: &str) -> Result<String, EndpointError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&b);
    if path.len() >= PATH_LIMIT || !path.bytes().all(allowed) {
        return Err(EndpointError::Path);
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(tls: bool, host: &str, port: u16, path: &str) -> Endpoint {
        Endpoint { tls, host: host.into(), port, path_and_query: path.into() }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, expected) in [
            ("wss://vpn.example.com", endpoint(true, "vpn.example.com", 443, "/")),
            ("ws://vpn.example.com", endpoint(false, "vpn.example.com", 80, "/")),
            ("WSS://VPN.Example.com:8443/a/b?c=d/e", endpoint(true, "vpn.example.com", 8443, "/a/b?c=d/e")),
            ("ws://10.0.0.1:1/", endpoint(false, "10.0.0.1", 1, "/")),
            ("wss://[2001:DB8::1]/x", endpoint(true, "2001:db8::1", 443, "/x")),
            ("wss://[::1]:65535", endpoint(true, "::1", 65535, "/")),
            ("wss://host?token=%41", endpoint(true, "host", 443, "/?token=%41")),
            ("wss://host.example./", endpoint(true, "host.example", 443, "/")),
            ("wss://under_score.example/", endpoint(true, "under_score.example", 443, "/")),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused() {
        for (url, expected) in [
            ("vpn.example.com", EndpointError::Scheme),
            ("https://vpn.example.com", EndpointError::Scheme),
            ("wss:/vpn.example.com", EndpointError::Scheme),
            ("wss://user:secret@host/", EndpointError::UserInfo),
            ("wss://host/path#part", EndpointError::Fragment),
            ("wss://", EndpointError::Host),
            ("wss:///path", EndpointError::Host),
            ("wss://a..b/", EndpointError::Host),
            ("wss://a b/", EndpointError::Host),
            ("wss://2001:db8::1/", EndpointError::Host),
            ("wss://[2001:db8::1/", EndpointError::Host),
            ("wss://[fe80::1%25eth0]/", EndpointError::Host),
            ("wss://[::1]443/", EndpointError::Host),
            ("wss://[10.0.0.1]/", EndpointError::Host),
            ("wss://münchen.example/", EndpointError::International),
            ("wss://host:/", EndpointError::Port),
            ("wss://host:0/", EndpointError::Port),
            ("wss://host:65536/", EndpointError::Port),
            ("wss://host:+443/", EndpointError::Port),
            ("wss://host/a b", EndpointError::Path),
            ("wss://host/a\r\nX: y", EndpointError::Path),
            ("wss://host/ä", EndpointError::Path),
        ] {
            assert_eq!(Endpoint::parse(url), Err(expected), "{url}");
        }
        assert_eq!(Endpoint::parse(&format!("wss://{}.example/", "a".repeat(64))), Err(EndpointError::Host));
        assert_eq!(
            Endpoint::parse(&format!("wss://host/{}", "a".repeat(PATH_LIMIT))),
            Err(EndpointError::Path)
        );
    }

    #[test]
    fn display_and_host_header_leave_default_ports_out() {
        for (url, shown, header) in [
            ("wss://host:443", "wss://host/", "host"),
            ("wss://host:80/", "wss://host:80/", "host:80"),
            ("ws://[::1]:80/x", "ws://[::1]/x", "[::1]"),
            ("ws://[::1]:81/x", "ws://[::1]:81/x", "[::1]:81"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.host_header(), header);
            assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint);
        }
    }

    #[test]
    fn literal_addresses_need_no_resolver() {
        assert_eq!(Endpoint::parse("ws://[::1]").unwrap().ip(), Some("::1".parse().unwrap()));
        assert_eq!(Endpoint::parse("ws://10.0.0.1").unwrap().ip(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(Endpoint::parse("ws://localhost").unwrap().ip(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(
            tls: bool,
            host in prop_oneof!["[a-z][a-z0-9-]{0,10}[a-z0-9](\\.[a-z][a-z0-9]{0,5}){0,3}", any::<IpAddr>().prop_map(|ip| ip.to_string())],
            port in 1..=u16::MAX,
            path in "/[a-z0-9/?=&%-]{0,20}",
        ) {
            let endpoint = endpoint(tls, &host, port, &path);
            let scheme = if tls { "wss" } else { "ws" };
            let url = format!("{scheme}://{}:{port}{path}", BracketedHost(&host));
            prop_assert_eq!(Endpoint::parse(&url), Ok(endpoint));
        }

        #[test]
        fn no_url_makes_it_panic(url in "(wss?://)?[a-z0-9%:@/?#\\[\\]é.]{0,40}", rest in ".*") {
            let _ = Endpoint::parse(&(url + &rest));
        }
    }
}
