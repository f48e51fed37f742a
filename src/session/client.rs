//! The client's side of the handshake (PROTOCOL §3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::codec::close::CloseCode;
use crate::codec::disconnect::Disconnect;
use crate::codec::frame::{FrameError, FrameSet, FrameType, MAX_HANDSHAKE, split_frame};
use crate::codec::hello::{Accepted, ClientHello, Features, HelloError, RejectCode, Rejection, ServerHello};
use crate::crypto::kem::KemKey;
use crate::crypto::keys::{Keypair, PublicKey};
use crate::crypto::noise::{self, Initiated, NoiseError, Pattern};
use crate::session::error::SessionError;
use crate::session::key_life::KeyLimits;
use crate::session::rekey::FreshKeys;
use crate::session::silence::KeepaliveCap;
use crate::session::up::Session;
use crate::session::{handshake_frame, nonce_prefix, states};

/// What a client needs for a handshake.
#[derive(Clone, Debug)]
pub struct ClientParams {
    /// The key that the server must prove to have.
    pub server_key: PublicKey,
    /// The client's own key, by which the server knows it: with one the handshake is IK, which hides it from others,
    /// else NK.
    pub identity: Option<Arc<Keypair>>,
    /// What the client tells of itself. With a ticket in it, the session of that ticket is to be taken up again.
    /// Its ML-KEM key is replaced by a fresh one.
    pub hello: ClientHello,
    /// Whether ML-KEM is to protect the session's packets.
    pub hybrid: Hybrid,
    /// Time between keepalives until the link's health is known, 5–120 s; the server's wish unless
    /// given here.
    pub keepalive_interval: Option<Duration>,
    /// What earlier connections to this server taught about the interval.
    pub keepalive_cap: KeepaliveCap,
    /// When the traffic keys are spent.
    pub key_limits: KeyLimits,
}

/// Whether a client asks for traffic keys that ML-KEM-768 protects as well as X25519 (PROTOCOL §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hybrid {
    /// It does not.
    Off,
    /// It does, and takes what it gets.
    #[default]
    Offered,
    /// It does and takes nothing else: the session that it takes up again had them.
    Required,
}

/// Starts a handshake: by a SessionResume if the hello holds a ticket, else by a HandshakeInit, or a HandshakeInitIk with
/// a key of the client's own. Returns the frame to send, in a message of its own.
///
/// # Errors
///
/// [`SessionError::Handshake`] if the server's key is none, or the hello does not fit into a frame;
/// [`SessionError::Kem`] if the system has no randomness.
pub fn start(
    params: ClientParams,
    rng: &mut dyn CryptoRng,
) -> Result<(AwaitingResponse, Vec<u8>), SessionError> {
    let ClientParams { server_key, identity, hello, hybrid, keepalive_interval, keepalive_cap, key_limits } =
        params;
    let kem = match hybrid {
        Hybrid::Off => None,
        Hybrid::Offered | Hybrid::Required => Some(KemKey::generate().map_err(SessionError::Kem)?),
    };
    let hello = ClientHello { mlkem768: kem.as_ref().map(|kem| kem.public_bytes().to_vec()), ..hello };
    let is_resume = hello.ticket.is_some();
    let pattern = Pattern::of_client(identity.is_some());
    let kind = match pattern {
        _ if is_resume => FrameType::SessionResume,
        Pattern::Nk => FrameType::HandshakeInit,
        Pattern::Ik => FrameType::HandshakeInitIk,
    };
    let (initiated, mut message) =
        noise::initiate(pattern, kind, identity.as_deref(), &server_key, &hello.encode(), rng)?;
    if is_resume {
        message.insert(0, pattern as u8);
    }
    if message.len() > MAX_HANDSHAKE {
        return Err(NoiseError::TooLong.into());
    }
    let awaiting = AwaitingResponse {
        server_key,
        identity,
        initiated,
        accepted: if is_resume { states::AWAITING_RESUME } else { states::AWAITING_RESPONSE },
        offered: hello.features,
        kem,
        hybrid,
        keepalive_interval,
        keepalive_cap,
        key_limits,
    };
    Ok((awaiting, handshake_frame(kind, &message)))
}

/// Message 1 was sent; the server's answer is awaited.
#[derive(Debug)]
pub struct AwaitingResponse {
    server_key: PublicKey,
    identity: Option<Arc<Keypair>>,
    initiated: Initiated,
    /// The frames that may come.
    accepted: FrameSet,
    offered: Features,
    /// The key that was offered.
    kem: Option<KemKey>,
    hybrid: Hybrid,
    keepalive_interval: Option<Duration>,
    keepalive_cap: KeepaliveCap,
    key_limits: KeyLimits,
}

/// The server let the client in.
#[derive(Debug)]
pub struct Connected {
    /// The session. Its confirming Keepalive waits already: send it at once and in a message of its
    /// own, for until the server has seen it, messages may have 8,197 bytes only (PROTOCOL §1).
    pub session: Session,
    /// What the client was given.
    pub hello: Accepted,
}

/// The handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientFailure {
    /// The server says no, and proves that it is the server. The client closes with 1000.
    #[error("the server rejects the client: {}", .0.message)]
    Rejected(Rejection),
    /// The server does not take the ticket. The connection stays: the client may [`start`] a handshake without
    /// one on it, once (PROTOCOL §8).
    #[error("the server does not resume the session: {}", .0.message)]
    ResumeRefused(Rejection),
    /// A Disconnect from before there were keys: a hint that anyone on the way may have forged. The
    /// client closes with 1000.
    #[error("the server ends the connection: {}", .0.message)]
    Disconnected(Disconnect),
    /// A fault.
    #[error("{reason}")]
    Broken {
        /// How the client closes.
        close: CloseCode,
        /// Why.
        #[source]
        reason: SessionError,
    },
}

impl<E: Into<SessionError>> From<E> for ClientFailure {
    fn from(reason: E) -> Self {
        let reason = reason.into();
        Self::Broken { close: reason.close_code(), reason }
    }
}

impl ClientFailure {
    /// How the client closes the connection (PROTOCOL §9).
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Rejected(_) | Self::ResumeRefused(_) | Self::Disconnected(_) => CloseCode::Normal,
            Self::Broken { close, .. } => *close,
        }
    }
}

impl AwaitingResponse {
    /// Takes the WebSocket message with the server's answer.
    ///
    /// Frames behind the answer are the session's already: a Disconnect there becomes its event, a
    /// fault the error of its first [`Session::poll_transmit`]. An IP packet there is dropped, for
    /// the server has no leave to send one before the confirmation.
    ///
    /// # Errors
    ///
    /// A [`ClientFailure`]; after all but [`ClientFailure::ResumeRefused`] the connection has no further use.
    pub fn handle_message(
        self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        message: &mut [u8],
    ) -> Result<Connected, ClientFailure> {
        let (frame, rest) = split_frame(message, self.accepted)?;
        match frame.kind {
            FrameType::HandshakeResp | FrameType::SessionResumeOk | FrameType::SessionResumeErr => {
                let mut connected = self.finish(now, rng, frame.kind, frame.payload)?;
                connected.session.handle_rest(now, rest, |_packet| {});
                Ok(connected)
            }
            FrameType::Disconnect => {
                let disconnect = Disconnect::parse(frame.payload).map_err(SessionError::Disconnect)?;
                Err(ClientFailure::Disconnected(disconnect))
            }
            // Not in the state's set, so split_frame() has refused it.
            kind => Err(FrameError::NotAllowed(kind).into()),
        }
    }

    fn finish(
        self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        kind: FrameType,
        message2: &[u8],
    ) -> Result<Connected, ClientFailure> {
        let (payload, handshake) = self.initiated.finish(message2).map_err(SessionError::from)?;
        let hello = ServerHello::parse(&payload, self.offered, self.kem.is_some());
        let hello = match (hello.map_err(SessionError::ServerHello)?, kind) {
            (ServerHello::Accepted(hello), FrameType::HandshakeResp | FrameType::SessionResumeOk) => *hello,
            (ServerHello::Rejected(rejection), FrameType::HandshakeResp) => {
                return Err(ClientFailure::Rejected(rejection));
            }
            (ServerHello::Rejected(rejection), FrameType::SessionResumeErr) => {
                return Err(resume_refused(rejection));
            }
            // The hello decides what the frame is (PROTOCOL §3).
            _ => return Err(SessionError::ServerHello(HelloError::Invalid("error")).into()),
        };
        let secret = match (&self.kem, &hello.mlkem768) {
            (Some(kem), Some(ciphertext)) => Some(kem.decapsulate(ciphertext).map_err(SessionError::Kem)?),
            _ if self.hybrid == Hybrid::Required => return Err(SessionError::NotHybrid.into()),
            _ => None,
        };
        let keys = FreshKeys::of_client(&handshake, secret.as_ref(), nonce_prefix(rng));
        let interval = self
            .keepalive_interval
            .unwrap_or_else(|| Duration::from_secs(hello.keepalive_interval_secs.into()));
        let session = Session::client(
            now,
            keys,
            (self.server_key, self.identity),
            hello.features,
            (interval, self.keepalive_cap),
            self.key_limits,
            rng,
        );
        Ok(Connected { session, hello })
    }
}

/// What a SessionResumeErr leaves to do (PROTOCOL §8).
fn resume_refused(rejection: Rejection) -> ClientFailure {
    match rejection.code {
        RejectCode::TicketExpired | RejectCode::TicketInvalid | RejectCode::BadRequest => {
            ClientFailure::ResumeRefused(rejection)
        }
        _ => ClientFailure::Rejected(rejection),
    }
}

#[cfg(test)]
mod tests;
