//! The first thing on a client's way, the server itself or its proxy, and whose fault it is when TCP does not
//! get there.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::connect::{ConnectError, Connector};
use super::{DialError, DialOptions, DialPhase, Endpoint, ProxyFault};

/// Where TCP goes: to the server, or to the proxy.
pub(super) struct Hop<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) is_proxy: bool,
}

impl<'a> Hop<'a> {
    pub(super) fn of(endpoint: &'a Endpoint, options: &'a DialOptions) -> Self {
        match &options.proxy {
            Some(proxy) => Self { host: &proxy.host, port: proxy.port, is_proxy: true },
            None => Self { host: &endpoint.host, port: endpoint.port, is_proxy: false },
        }
    }

    /// What messages call it: its name, if it has one, and the address that was tried.
    pub(super) fn known_as(&self, remote: SocketAddr) -> String {
        let is_address = self.host.parse::<IpAddr>().is_ok();
        if is_address { remote.to_string() } else { format!("{} ({remote})", self.host) }
    }

    pub(super) fn connect_error(&self, error: ConnectError) -> DialError {
        match error {
            ConnectError::Lookup(source) => self.no_address(source),
            ConnectError::Exhausted => self.lost(self.host.to_owned(), None),
            ConnectError::Attempt(remote, source) => self.attempt_error(self.known_as(remote), source),
        }
    }

    pub(super) fn connect_timeout(&self, connector: &Connector<'_>) -> DialError {
        let phase = if connector.is_resolving() { DialPhase::Resolve } else { DialPhase::Connect };
        self.timeout(format!("{}:{}", self.host, self.port), phase)
    }

    fn attempt_error(&self, name: String, source: io::Error) -> DialError {
        match source.kind() {
            io::ErrorKind::TimedOut => self.timeout(name, DialPhase::Connect),
            io::ErrorKind::ConnectionReset => self.lost(name, Some(source)),
            kind => {
                let refused = kind == io::ErrorKind::ConnectionRefused;
                match (self.is_proxy, refused) {
                    (false, true) => DialError::Refused { server: name, source },
                    (false, false) => DialError::Unreachable { server: name, source },
                    (true, true) => of_proxy(name, ProxyFault::Refused, Some(source)),
                    (true, false) => of_proxy(name, ProxyFault::Unreachable, Some(source)),
                }
            }
        }
    }

    fn no_address(&self, source: Option<io::Error>) -> DialError {
        let host = self.host.to_owned();
        if self.is_proxy {
            of_proxy(host, ProxyFault::Unresolved, source)
        } else {
            DialError::Dns { host, source }
        }
    }

    fn timeout(&self, name: String, phase: DialPhase) -> DialError {
        if self.is_proxy {
            of_proxy(name, ProxyFault::Timeout(phase), None)
        } else {
            DialError::Timeout { server: name, phase }
        }
    }

    fn lost(&self, name: String, source: Option<io::Error>) -> DialError {
        if self.is_proxy {
            of_proxy(name, ProxyFault::Lost, source)
        } else {
            DialError::Lost { server: name, phase: DialPhase::Connect, source }
        }
    }
}

/// What a proxy's fault is to whoever dials.
pub(super) const fn of_proxy(proxy: String, fault: ProxyFault, source: Option<io::Error>) -> DialError {
    DialError::Proxy { proxy, fault, source }
}
