//! What can go wrong on the way to a peer, by blame.

use std::io;

use super::assembly::Fault;
use crate::error::ErrorCode;

/// Why a `serverUrl` cannot be used; the configuration is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `ws://` nor `wss://`.
    #[error("must begin with wss:// (or ws:// behind nothing that needs TLS)")]
    Scheme,
    /// `user:password@` would not be sent.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// `#…` would not be sent.
    #[error("must not hold a fragment (#…)")]
    Fragment,
    /// The host is missing or malformed.
    #[error("must name a host, an IPv4 address or an IPv6 address in brackets")]
    Host,
    /// The host has characters outside ASCII.
    #[error("must write international host names in their ASCII form (xn--…)")]
    International,
    /// The port is not one.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    /// The path cannot stand in a request line.
    #[error("must percent-encode spaces and other special characters in its path")]
    Path,
}

impl EndpointError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidConfig
    }
}

/// Why a `proxy` cannot be used; the configuration or the environment is at fault. Nothing of the URL is
/// repeated, as it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Not `http://`.
    #[error("must begin with http://: proxies over TLS (https://) and SOCKS are not supported")]
    Scheme,
    /// The host is missing or malformed.
    #[error("{0}")]
    Host(EndpointError),
    /// The port is missing or not one.
    #[error("must have a port from 1 to 65535, as in http://proxy.example:3128")]
    Port,
    /// Something stands behind the port.
    #[error("must end with its port; in user and password write / as %2F, ? as %3F and # as %23")]
    Path,
    /// User or password cannot be sent.
    #[error(
        "must have a user and password of at most 4,096 bytes, percent-encoded, without control characters, \
         and no colon in the user"
    )]
    UserInfo,
}

impl ProxyUrlError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidConfig
    }
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not `host:port`.
    #[error("'{0}' is not an address to listen on: write host:port or [v6]:port")]
    Invalid(String),
    /// Another socket listens there.
    #[error("{0} is in use: another process listens there; stop it or choose another port")]
    AddressInUse(String, #[source] io::Error),
    /// A privileged port, or a sandbox.
    #[error("no permission to listen on {0}: ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    PermissionDenied(String, #[source] io::Error),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this host: list them with 'ip addr', or listen on 0.0.0.0 or [::]")]
    NotLocal(String, #[source] io::Error),
    /// Anything else.
    #[error("cannot listen on {0}")]
    Other(String, #[source] io::Error),
}

impl BindError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::NotLocal(..) => ErrorCode::InvalidConfig,
            Self::AddressInUse(..) => ErrorCode::AddressInUse,
            Self::PermissionDenied(..) => ErrorCode::PermissionDenied,
            Self::Other(..) => ErrorCode::Internal,
        }
    }
}

/// Why TLS could not be set up from the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// `tlsCert`.
    #[error("the certificate {0}")]
    Certificate(PemFault),
    /// `tlsKey`.
    #[error("the private key {0}")]
    Key(PemFault),
    /// `tlsCa`.
    #[error("the CA certificate {0}")]
    Ca(PemFault),
    /// Two files that were made apart.
    #[error(
        "the private key does not belong to the certificate; the first certificate must be the server's own, \
         those that signed it follow"
    )]
    KeyMismatch,
    /// No authority is installed.
    #[error("this system trusts no certificate authority: install its ca-certificates package, or set tlsCa")]
    NoSystemRoots(#[source] rustls::Error),
}

impl TlsConfigError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoSystemRoots(_) => ErrorCode::TlsUntrusted,
            _ => ErrorCode::InvalidConfig,
        }
    }
}

/// What is wrong with a PEM file.
#[derive(Debug, thiserror::Error)]
pub enum PemFault {
    /// No section of the wanted kind.
    #[error("is missing: expected PEM text with -----BEGIN {0}-----")]
    Missing(&'static str),
    /// A password would be needed.
    #[error("is encrypted: write it without a password, readable by this service only")]
    Encrypted,
    /// Not PEM after all.
    #[error("is not valid PEM: {0}")]
    Malformed(&'static str),
    /// PEM around something unusable.
    #[error("cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// Why an accepted connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The request was answered with an ordinary HTTP status; 200 for a health check.
    #[error("answered HTTP {status}: {reason}")]
    Answered {
        /// The status that was sent.
        status: u16,
        /// Why.
        reason: &'static str,
    },
    /// The deadline passed.
    #[error("the client did not finish its request in time")]
    Timeout,
    /// The client left before its request was complete.
    #[error("the client left before its request was complete")]
    Closed,
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Why a WebSocket ended.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The stream ended without a Close.
    #[error("the connection was cut")]
    Eof,
    /// The peer closed.
    #[error("the peer closed the connection{}", match code { Some(code) => format!(" ({code})"), None => String::new() })]
    Closed {
        /// Its code (RFC 6455 §7.4), if it gave one.
        code: Option<u16>,
        /// Its reason, at most 123 bytes; anyone on the way can write it.
        reason: String,
    },
    /// The peer broke RFC 6455 or PROTOCOL §1.
    #[error("the peer broke the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// The peer announced a message over the limit.
    #[error("the peer announced a message that is too long")]
    TooLong,
}

impl WebSocketError {
    /// The code to close with (PROTOCOL §9); `None` when nobody is there to hear it.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Io(_) | Self::Eof => None,
            Self::Closed { code, .. } => Some(code.unwrap_or(1000)),
            Self::Protocol(_) => Some(1002),
            Self::TooLong => Some(1009),
        }
    }
}

impl From<Fault> for WebSocketError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Protocol(reason) => Self::Protocol(reason),
            Fault::TooLong => Self::TooLong,
        }
    }
}
