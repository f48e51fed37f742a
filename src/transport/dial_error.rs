//! Why a server could not be reached: what a user is told, and under which code.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, InvalidMessage};

use super::trust::NotPinned;
use crate::error::ErrorCode;

/// How far dialling had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPhase {
    /// Looking the name up.
    Resolve,
    /// TCP.
    Connect,
    /// A proxy's answer to `CONNECT`.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The HTTP request and its answer.
    Upgrade,
}

impl fmt::Display for DialPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "looking its name up",
            Self::Connect => "connecting",
            Self::Proxy => "CONNECT",
            Self::Tls => "the TLS handshake",
            Self::Upgrade => "the WebSocket upgrade",
        })
    }
}

/// Why a server could not be reached. `server` is what the user knows it by, with the address that was
/// tried.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("{host} does not resolve: check the host in serverUrl, and this host's DNS")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's words, unless it answered with nothing.
        source: Option<io::Error>,
    },
    /// The port is closed.
    #[error("{server} refuses connections: is the server running there, and is it the right port?")]
    Refused {
        /// The server.
        server: String,
        /// The system's words.
        source: io::Error,
    },
    /// No packet gets there.
    #[error("there is no way to {server}: check this host's network, routes and firewall")]
    Unreachable {
        /// The server.
        server: String,
        /// The system's words.
        source: io::Error,
    },
    /// The deadline passed.
    #[error(
        "{server} did not answer in time during {phase}: it may be down, overloaded, or behind a firewall \
         that drops packets"
    )]
    Timeout {
        /// The server.
        server: String,
        /// What was waited for.
        phase: DialPhase,
    },
    /// The server did not prove its identity, or TLS failed otherwise.
    #[error("{fault}")]
    Tls {
        /// What happened.
        fault: TlsFault,
        /// rustls's words.
        source: rustls::Error,
    },
    /// Something else answered, or nothing that is HTTP.
    #[error("{server} is not a VPN server: {explanation}")]
    NotAVpnServer {
        /// The server.
        server: String,
        /// The HTTP status of the answer, if it was HTTP.
        status: Option<u16>,
        /// What came and what that may mean.
        explanation: String,
        /// What [`DialError::retry_after`] gives.
        retry_after: Option<Duration>,
    },
    /// The proxy that was asked gives no way to the server.
    #[error("the proxy {proxy} {fault}")]
    Proxy {
        /// The proxy as the user knows it, with the address that was tried.
        proxy: String,
        /// What happened.
        fault: ProxyFault,
        /// The system's words, if it has any.
        source: Option<io::Error>,
    },
    /// HTTP 407 where no proxy was asked.
    #[error(
        "a proxy on the way to {server} wants a user and password (HTTP 407): name it in proxy, as in \
         http://user:password@host:port"
    )]
    ForeignProxy {
        /// The server.
        server: String,
    },
    /// The connection was cut before it was usable.
    #[error(
        "{server} closed the connection during {phase}: it may be restarting, or something on the way cuts in"
    )]
    Lost {
        /// The server.
        server: String,
        /// What was being done.
        phase: DialPhase,
        /// The system's words, unless it simply ended.
        source: Option<io::Error>,
    },
}

impl DialError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Dns { .. } => ErrorCode::DnsLookupFailed,
            Self::Refused { .. } => ErrorCode::ConnectionRefused,
            Self::Unreachable { .. } => ErrorCode::Unreachable,
            Self::Timeout { .. } => ErrorCode::Timeout,
            Self::Tls { fault, .. } => fault.code(),
            Self::NotAVpnServer { .. } => ErrorCode::NotAVpnServer,
            Self::Proxy { .. } | Self::ForeignProxy { .. } => ErrorCode::ProxyError,
            Self::Lost { .. } => ErrorCode::ConnectionLost,
        }
    }

    /// How long the server, or what stands before it, asks to be left alone (`Retry-After` of HTTP 429 and
    /// 503): up to an hour.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotAVpnServer { retry_after, .. }
            | Self::Proxy { fault: ProxyFault::Answered { retry_after, .. }, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether it may be about the address that was tried: another one is worth an attempt.
    pub(super) fn is_of_address(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Timeout { .. } => true,
            Self::Proxy { fault, .. } => matches!(fault, ProxyFault::Lost | ProxyFault::Timeout(_)),
            _ => false,
        }
    }

    /// What a failed read or write during `phase` means: TLS reports its own failures as I/O errors.
    pub(super) fn of_stream(server: &str, phase: DialPhase, error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(source) => Self::Tls { fault: TlsFault::of(server, source), source: source.clone() },
            None => Self::Lost { server: server.to_owned(), phase, source: Some(error) },
        }
    }
}

/// Why a proxy gives no way to a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// Its name has no address.
    #[error("does not resolve: check the name in proxy or HTTPS_PROXY, and this host's DNS")]
    Unresolved,
    /// The port is closed.
    #[error("refuses connections: is it running there, and is it the port of proxy or HTTPS_PROXY?")]
    Refused,
    /// No packet gets there.
    #[error("cannot be reached: check this host's network, routes and firewall")]
    Unreachable,
    /// The deadline passed.
    #[error("did not answer in time during {0}: it may be down, or not reach the server itself")]
    Timeout(DialPhase),
    /// The connection ended before it was answered.
    #[error("closed the connection before it had answered: does it take CONNECT requests?")]
    Lost,
    /// 407 without credentials.
    #[error(
        "wants a user and password (HTTP 407): write them into proxy, as in http://user:password@host:port"
    )]
    WantsCredentials,
    /// 407 with credentials.
    #[error(
        "does not accept the user and password that it was given, or wants another kind of authorization \
         than Basic (HTTP 407)"
    )]
    RefusesCredentials,
    /// Another status.
    #[error("does not connect to {server}: it answered HTTP {status}{}", meaning(*status))]
    Answered {
        /// The status.
        status: u16,
        /// The server as the proxy was asked for it.
        server: String,
        /// What [`DialError::retry_after`] gives.
        retry_after: Option<Duration>,
    },
    /// Something else answered.
    #[error("is not an HTTP proxy: {0}")]
    Stranger(&'static str),
}

/// What a proxy's status is likely to mean.
const fn meaning(status: u16) -> &'static str {
    match status {
        401 | 403 => "; its rules forbid it: many admit port 443 only",
        400 | 404 | 405 | 501 => "; does it take CONNECT requests?",
        429 => "; too many requests, try again later",
        500 | 502..=504 => "; it does not find or reach the server",
        _ => "",
    }
}

/// What went wrong in TLS, in a user's terms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// Nobody we trust signed the certificate.
    #[error("the certificate of {server} is not trusted ({reason}): {advice}")]
    Untrusted {
        /// The server.
        server: String,
        /// What verification found.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The certificate's time has passed.
    #[error(
        "the certificate of {server} expired {ago} ago by this host's clock: renew it, or set the clock right"
    )]
    Expired {
        /// The server.
        server: String,
        /// How long ago.
        ago: String,
    },
    /// The certificate's time has not come.
    #[error(
        "the certificate of {server} is not valid before {ahead} from now by this host's clock, which is \
         probably wrong: set it right"
    )]
    NotYetValid {
        /// The server.
        server: String,
        /// How far ahead.
        ahead: String,
    },
    /// The certificate is someone else's.
    #[error("the certificate of {server} is for {names}: check the host in serverUrl")]
    NameMismatch {
        /// The server.
        server: String,
        /// Whom it is for.
        names: String,
    },
    /// The peer does not speak TLS.
    #[error(
        "{server} does not speak TLS at this port: check the port, or whether serverUrl should begin with ws://"
    )]
    NotTls {
        /// The server.
        server: String,
    },
    /// Anything else.
    #[error("TLS with {server} failed: {reason}")]
    Other {
        /// The server.
        server: String,
        /// rustls's words.
        reason: String,
    },
}

impl TlsFault {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Untrusted { .. } => ErrorCode::TlsUntrusted,
            Self::Expired { .. } | Self::NotYetValid { .. } => ErrorCode::TlsExpired,
            Self::NameMismatch { .. } => ErrorCode::TlsNameMismatch,
            Self::NotTls { .. } | Self::Other { .. } => ErrorCode::TlsError,
        }
    }

    fn of(server: &str, error: &rustls::Error) -> Self {
        let server = server.to_owned();
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(server, error),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls { server },
            other => Self::Other { server, reason: other.to_string() },
        }
    }

    fn of_certificate(server: String, error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired { server, ago: "some time".into() },
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { server, ago: between(not_after, time) }
            }
            CertificateError::NotValidYet => Self::NotYetValid { server, ahead: "some time".into() },
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { server, ahead: between(time, not_before) }
            }
            CertificateError::NotValidForName => Self::NameMismatch { server, names: "another name".into() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::NameMismatch { server, names: names(presented) }
            }
            CertificateError::Other(reason) if reason.to_string().contains("CaUsedAsEndEntity") => {
                Self::Untrusted {
                    server,
                    reason: "it is an authority's certificate, not a server's".into(),
                    advice: "let it be made with basicConstraints CA:FALSE, or signed by that authority",
                }
            }
            CertificateError::Other(reason) if reason.0.is::<NotPinned>() => Self::Untrusted {
                server,
                reason: reason.to_string(),
                advice: "ask the server's operator for a new invite; if that one fails too, somebody else answers there",
            },
            other => Self::Untrusted {
                server,
                reason: match other {
                    CertificateError::UnknownIssuer => "no authority that we trust signed it".into(),
                    CertificateError::BadSignature => "its signature is wrong".into(),
                    CertificateError::Revoked => "it was revoked".into(),
                    other => other.to_string(),
                },
                advice: "if the server has a CA of its own, set tlsCa to that CA's certificate",
            },
        }
    }
}

/// The certificate's names, as many as a message bears, from rustls's `DnsName("…")` and the like.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 5;
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let shown = presented.iter().take(SHOWN).map(bare).collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "no host at all".to_owned(),
        1..=SHOWN => shown,
        many => format!("{shown} and {} more", many - SHOWN),
    }
}

/// The time from one moment to the other, roughly.
fn between(from: &UnixTime, to: &UnixTime) -> String {
    let span = Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
    let (count, unit) = match span.as_secs() {
        seconds @ 0..120 => (seconds, "seconds"),
        seconds @ 120..7_200 => (seconds / 60, "minutes"),
        seconds @ 7_200..172_800 => (seconds / 3_600, "hours"),
        seconds => (seconds / 86_400, "days"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_roughly() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        for (seconds, told) in [
            (0, "0 seconds"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7_199, "119 minutes"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
        ] {
            assert_eq!(between(&at(5), &at(5 + seconds)), told);
        }
        assert_eq!(between(&at(9), &at(5)), "0 seconds");
    }

    #[test]
    fn names_are_told_briefly() {
        let many: Vec<String> = (0..9).map(|i| format!("h{i}")).collect();
        assert_eq!(names(&[]), "no host at all");
        assert_eq!(names(&many[..2]), "h0, h1");
        assert_eq!(names(&[r#"DnsName("a.example")"#.into(), "IpAddress(::1)".into()]), "a.example, ::1");
        assert_eq!(names(&many), "h0, h1, h2, h3, h4 and 4 more");
    }

    #[test]
    fn a_cut_says_when_it_happened_and_keeps_its_cause() {
        let source = io::Error::from(io::ErrorKind::ConnectionReset);
        let error = DialError::of_stream("vpn.example:443", DialPhase::Upgrade, source);
        assert_eq!(error.code(), ErrorCode::ConnectionLost);
        let told = error.to_string();
        assert!(
            told.starts_with("vpn.example:443 closed the connection during the WebSocket upgrade"),
            "{told}"
        );
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "connection reset");
    }

    #[test]
    fn certificate_errors_have_their_codes() {
        let code = |error: CertificateError| TlsFault::of_certificate("s".into(), &error).code();
        assert_eq!(code(CertificateError::Expired), ErrorCode::TlsExpired);
        assert_eq!(code(CertificateError::NotValidYet), ErrorCode::TlsExpired);
        assert_eq!(code(CertificateError::NotValidForName), ErrorCode::TlsNameMismatch);
        assert_eq!(code(CertificateError::UnknownIssuer), ErrorCode::TlsUntrusted);
        assert_eq!(code(CertificateError::Revoked), ErrorCode::TlsUntrusted);
        assert_eq!(code(CertificateError::BadSignature), ErrorCode::TlsUntrusted);
        let fault = TlsFault::of("s", &rustls::Error::HandshakeNotComplete);
        assert_eq!(fault.code(), ErrorCode::TlsError);
    }
}
