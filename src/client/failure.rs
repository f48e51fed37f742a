//! What an attempt or a connection can end with, and whether to come back.

use std::io;

use crate::codec::disconnect::{Disconnect, DisconnectCode};
use crate::codec::hello::{RejectCode, Rejection};
use crate::engine::End;
use crate::error::{ErrorCode, VpnError};
use crate::session::{ClientFailure, Setback};
use crate::transport::{DialError, WebSocketError};

/// A failed attempt or an ended connection.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: VpnError,
    /// Whether and when the tunnel is taken up again (API §2, PROTOCOL §3).
    pub(super) setback: Setback,
}

impl Failure {
    pub(super) const fn retry(error: VpnError) -> Self {
        Self { error, setback: Setback::Interrupted }
    }

    pub(super) const fn last(error: VpnError) -> Self {
        Self { error, setback: Setback::Final }
    }

    /// The address that the connection came from is gone.
    pub(super) fn moved() -> Self {
        let message = "the host's network changed: the address that the connection used is gone";
        Self { error: VpnError::new(ErrorCode::ConnectionLost, message), setback: Setback::Nothing }
    }

    pub(super) fn timeout(stage: &str) -> Self {
        let message = format!(
            "the server did not answer in time ({stage}); check the address and that nothing on the way drops the traffic"
        );
        Self::retry(VpnError::new(ErrorCode::Timeout, message))
    }

    /// The connection ended while the server's answer to the first message was awaited.
    pub(super) fn before_answer(error: &WebSocketError) -> Self {
        if matches!(error, WebSocketError::Closed { code: Some(1008), .. }) {
            let message = "the server could not read the handshake: serverPublicKey is most likely not its key; \
                           compare it with the server's publicKey";
            return Self::retry(VpnError::new(ErrorCode::ServerKeyMismatch, message));
        }
        Self::retry(lost(error))
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let setback = match (&error, error.retry_after()) {
            (_, Some(time)) => Setback::Refused(Some(time)),
            (DialError::Refused { .. }, None) => Setback::Refused(None),
            _ => Setback::Interrupted,
        };
        Self { error: VpnError::from(error), setback }
    }
}

impl From<ClientFailure> for Failure {
    fn from(failure: ClientFailure) -> Self {
        match failure {
            ClientFailure::Rejected(rejection) | ClientFailure::ResumeRefused(rejection) => {
                rejected(rejection)
            }
            // A plain Disconnect is a hint that anyone on the way can forge.
            ClientFailure::Disconnected(disconnect) => {
                Self { setback: Setback::Interrupted, ..disconnected(disconnect) }
            }
            ClientFailure::Broken { reason, .. } => Self::retry(VpnError::new(
                reason.error_code(),
                format!(
                    "the server's handshake was wrong ({reason}): check serverPublicKey, and that both ends run compatible versions"
                ),
            )),
        }
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        match end {
            End::Peer(disconnect) => disconnected(disconnect),
            End::Local(code) => Self::last(VpnError::new(
                ErrorCode::Aborted,
                format!("the tunnel was ended ({})", code.as_str()),
            )),
            End::Lost(error) => Self::retry(lost(&error)),
            End::BadMessage(error) => Self::retry(VpnError::new(
                ErrorCode::ProtocolError,
                format!("what came was not a tunnel's WebSocket traffic: {error}"),
            )),
            End::BadFrame(error) => Self::retry(VpnError::new(
                ErrorCode::ProtocolError,
                format!("the server, or something on the way, broke the protocol: {error}"),
            )),
            End::DeadPeer => Self::retry(VpnError::new(
                ErrorCode::DeadPeer,
                "the server no longer answers; the connection is taken for dead",
            )),
            End::KeysSpent => Self {
                error: VpnError::new(ErrorCode::ConnectionLost, "the traffic keys reached their limit"),
                setback: Setback::Nothing,
            },
        }
    }
}

/// Whether something on the way (a proxy, a NAT) may have cut the connection because it was idle. Not
/// what the server says, nor what this host's network says when its address or route goes away.
pub(super) fn is_cut(end: &End) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let End::Lost(error) = end else { return false };
    match error {
        WebSocketError::Eof => true,
        // A gateway that speaks WebSocket says goodbye in its words; other codes blame one of the ends.
        WebSocketError::Closed { code, .. } => matches!(code, None | Some(1000 | 1001)),
        WebSocketError::Io(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        WebSocketError::Protocol(_) | WebSocketError::TooLong => false,
    }
}

fn lost(error: &WebSocketError) -> VpnError {
    let message = match error {
        WebSocketError::Closed { code: Some(code), .. } => {
            format!("the connection to the server was closed (code {code})")
        }
        WebSocketError::Closed { code: None, .. } | WebSocketError::Eof => {
            "the connection to the server was cut".to_owned()
        }
        other => format!("the connection to the server was lost: {other}"),
    };
    VpnError::new(ErrorCode::ConnectionLost, message)
}

fn rejected(rejection: Rejection) -> Failure {
    let code = rejection.code.code();
    let setback = match rejection.code {
        RejectCode::Unauthorized | RejectCode::UnsupportedVersion => Setback::Final,
        RejectCode::BadRequest => Setback::BadRequest,
        RejectCode::ServerFull | RejectCode::PoolExhausted => Setback::Refused(None),
        _ => Setback::Interrupted,
    };
    let advice = match rejection.code {
        RejectCode::Unauthorized => {
            "is this client's public key registered there, not expired and not disabled, and its token right? \
             If so or if it has none, ask the server's operator for an invite"
        }
        RejectCode::UnsupportedVersion => "install a version of smartvpn that both ends speak",
        RejectCode::PoolExhausted => "the server has no address left; try later, or give it a larger subnet",
        RejectCode::ServerFull => "try again later",
        RejectCode::ShuttingDown => "the server is stopping; try again in a moment",
        _ => "try again, and look at the server's log",
    };
    let said = if rejection.message.is_empty() { code.as_str() } else { &rejection.message };
    Failure { error: VpnError::new(code, format!("the server refused: {said}; {advice}")), setback }
}

fn disconnected(disconnect: Disconnect) -> Failure {
    let setback = match disconnect.code {
        DisconnectCode::Kicked | DisconnectCode::Removed | DisconnectCode::Replaced => Setback::Final,
        DisconnectCode::ClientDisconnect
        | DisconnectCode::ShuttingDown
        | DisconnectCode::IdleTimeout
        | DisconnectCode::ProtocolError => Setback::Interrupted,
    };
    let code = disconnect.code.error_code();
    let said = if disconnect.message.is_empty() { code.as_str() } else { &disconnect.message };
    Failure { error: VpnError::new(code, format!("the server ended the session: {said}")), setback }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Failure, is_cut};
    use crate::codec::disconnect::{Disconnect, DisconnectCode};
    use crate::codec::hello::{RejectCode, Rejection};
    use crate::engine::End;
    use crate::error::ErrorCode;
    use crate::session::{ClientFailure, Setback};
    use crate::transport::WebSocketError;

    fn disconnect(code: DisconnectCode) -> Disconnect {
        Disconnect { code, message: String::new() }
    }

    #[test]
    fn only_what_is_authenticated_keeps_a_client_away() {
        let finals = [DisconnectCode::Kicked, DisconnectCode::Removed, DisconnectCode::Replaced];
        for code in DisconnectCode::ALL {
            let sealed = Failure::from(End::Peer(disconnect(code)));
            assert_eq!(sealed.setback == Setback::Final, finals.contains(&code), "{code:?}");
            assert_eq!(sealed.error.code, code.error_code());
            let plain = Failure::from(ClientFailure::Disconnected(disconnect(code)));
            assert_eq!(plain.setback, Setback::Interrupted, "a plain {code:?} can be forged");
        }
    }

    #[test]
    fn rejections_are_final_retried_once_or_retried() {
        let setback = |code| {
            let rejection = Rejection { version: 1, code, message: "no".to_owned() };
            Failure::from(ClientFailure::Rejected(rejection)).setback
        };
        assert_eq!(setback(RejectCode::Unauthorized), Setback::Final);
        assert_eq!(setback(RejectCode::UnsupportedVersion), Setback::Final);
        assert_eq!(setback(RejectCode::BadRequest), Setback::BadRequest);
        for code in [RejectCode::PoolExhausted, RejectCode::ServerFull] {
            assert_eq!(setback(code), Setback::Refused(None));
        }
        assert_eq!(setback(RejectCode::ShuttingDown), Setback::Interrupted);
    }

    #[test]
    fn only_what_a_proxy_does_to_an_idle_connection_is_a_cut() {
        let closed = |code| End::Lost(WebSocketError::Closed { code, reason: String::new() });
        let io = |kind: io::ErrorKind| End::Lost(WebSocketError::Io(kind.into()));
        for end in [
            End::Lost(WebSocketError::Eof),
            closed(None),
            closed(Some(1000)),
            closed(Some(1001)),
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::BrokenPipe),
            io(io::ErrorKind::UnexpectedEof),
        ] {
            assert!(is_cut(&end), "{end:?}");
        }
        for end in [
            closed(Some(1011)),
            closed(Some(1008)),
            io(io::ErrorKind::NetworkUnreachable),
            io(io::ErrorKind::HostUnreachable),
            io(io::ErrorKind::NetworkDown),
            io(io::ErrorKind::TimedOut),
            End::DeadPeer,
            End::KeysSpent,
            End::Local(DisconnectCode::ClientDisconnect),
            End::Peer(disconnect(DisconnectCode::ShuttingDown)),
            End::BadMessage(WebSocketError::TooLong),
        ] {
            assert!(!is_cut(&end), "{end:?}");
        }
    }

    #[test]
    fn a_refused_first_message_points_at_the_key() {
        let closed = |code| WebSocketError::Closed { code, reason: String::new() };
        assert_eq!(Failure::before_answer(&closed(Some(1008))).error.code, ErrorCode::ServerKeyMismatch);
        assert_eq!(Failure::before_answer(&closed(Some(1001))).error.code, ErrorCode::ConnectionLost);
        assert_eq!(Failure::before_answer(&WebSocketError::Eof).error.code, ErrorCode::ConnectionLost);
    }
}
