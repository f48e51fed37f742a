//! The error that reaches users, and its stable codes.
//!
//! Every module has small error enums of its own, by blame; each knows its [`ErrorCode`]. The
//! product tier turns them into a [`VpnError`], which Node and the daemon's controllers see
//! unchanged.

use std::fmt;

/// Declares the codes once: the variant, its string, nothing else.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A stable, machine-readable reason. The strings are public API and never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The string that JavaScript and JSON see.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// A configuration field is missing, unknown or out of range; the error's path names it.
    InvalidConfig = "invalid-config",
    /// A method's argument is of the wrong type or out of range.
    InvalidArgument = "invalid-argument",
    /// The engine has not been started.
    NotRunning = "not-running",
    /// The server serves already.
    AlreadyRunning = "already-running",
    /// The client is connected, connecting or reconnecting already.
    AlreadyConnected = "already-connected",
    /// The client has no tunnel.
    NotConnected = "not-connected",
    /// The call was ended by `disconnect`, `stop` or an abort signal.
    Aborted = "aborted",
    /// No client has this id.
    UnknownClient = "unknown-client",
    /// This operating system is not supported.
    UnsupportedPlatform = "unsupported-platform",
    /// The method exists, but not in this version or mode.
    UnsupportedMethod = "unsupported-method",
    /// The daemon runs in the other mode.
    WrongMode = "wrong-mode",
    /// A file could not be read or written.
    FileError = "file-error",
    /// A privilege is missing, CAP_NET_ADMIN most likely.
    PermissionDenied = "permission-denied",
    /// The host has no TUN device.
    TunUnavailable = "tun-unavailable",
    /// An interface of this name exists.
    TunNameInUse = "tun-name-in-use",
    /// The listening address is taken.
    AddressInUse = "address-in-use",
    /// The tunnel's subnet overlaps one of the host's networks.
    SubnetConflict = "subnet-conflict",
    /// Masquerading could not be set up.
    NatUnavailable = "nat-unavailable",
    /// A route could not be set.
    RouteFailed = "route-failed",
    /// The resolvers could not be set.
    DnsFailed = "dns-failed",
    /// The server's name did not resolve.
    DnsLookupFailed = "dns-lookup-failed",
    /// The server's port is closed.
    ConnectionRefused = "connection-refused",
    /// There is no way to the server.
    Unreachable = "unreachable",
    /// The server did not answer in time.
    Timeout = "timeout",
    /// A proxy on the way refused.
    ProxyError = "proxy-error",
    /// The server's certificate is not signed by a trusted authority.
    TlsUntrusted = "tls-untrusted",
    /// The server's certificate is not valid now.
    TlsExpired = "tls-expired",
    /// The server's certificate is for another name.
    TlsNameMismatch = "tls-name-mismatch",
    /// TLS failed otherwise.
    TlsError = "tls-error",
    /// Something else than a VPN server answered.
    NotAVpnServer = "not-a-vpn-server",
    /// The server does not hold the expected key.
    ServerKeyMismatch = "server-key-mismatch",
    /// The peer broke the protocol.
    ProtocolError = "protocol-error",
    /// The connection was cut.
    ConnectionLost = "connection-lost",
    /// The peer no longer answers.
    DeadPeer = "dead-peer",
    /// The server does not speak this version (PROTOCOL §3).
    UnsupportedVersion = "unsupported-version",
    /// The server does not admit this client (PROTOCOL §3).
    Unauthorized = "unauthorized",
    /// The server could not use the client's hello (PROTOCOL §3).
    BadRequest = "bad-request",
    /// The server has no address left (PROTOCOL §3).
    PoolExhausted = "pool-exhausted",
    /// The server takes no more clients (PROTOCOL §3).
    ServerFull = "server-full",
    /// The server is stopping (PROTOCOL §§3, 9).
    ShuttingDown = "shutting-down",
    /// The resume ticket is too old (PROTOCOL §8).
    TicketExpired = "ticket-expired",
    /// The resume ticket is not usable (PROTOCOL §8).
    TicketInvalid = "ticket-invalid",
    /// The client left (PROTOCOL §9).
    ClientDisconnect = "client-disconnect",
    /// The operator ended the session (PROTOCOL §9).
    Kicked = "kicked",
    /// A newer connection of the same client took over (PROTOCOL §9).
    Replaced = "replaced",
    /// The session was idle for too long (PROTOCOL §9).
    IdleTimeout = "idle-timeout",
    /// The client's registration was removed (PROTOCOL §9).
    Removed = "removed",
    /// The control connection dropped while the call was in flight.
    ControlDisconnected = "control-disconnected",
    /// The daemon cannot be reached.
    ControlUnavailable = "control-unavailable",
    /// The daemon ended.
    DaemonExited = "daemon-exited",
    /// A fault of this library; please report it.
    Internal = "internal",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a user is told: a stable code, a message that says what happened and what to do, and where
/// there is one the system's own error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct VpnError {
    /// The stable reason.
    pub code: ErrorCode,
    /// What happened and what to do.
    pub message: String,
    /// The configuration field at fault, for [`ErrorCode::InvalidConfig`].
    pub path: Option<String>,
    /// The system's or library's own words.
    pub cause: Option<String>,
}

impl VpnError {
    /// An error without path or cause.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), path: None, cause: None }
    }

    /// An [`ErrorCode::InvalidConfig`] about the field at `path`.
    pub fn config(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..Self::new(ErrorCode::InvalidConfig, message) }
    }

    /// The same error with the system's own words.
    #[must_use]
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn codes_are_distinct_and_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(text.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{text}");
        }
    }
}
