//! Why a session ends by a fault, by blame.

use crate::codec::bundle::BundleError;
use crate::codec::close::CloseCode;
use crate::codec::frame::FrameError;
use crate::codec::hello::HelloError;
use crate::crypto::kem::KemError;
use crate::crypto::noise::NoiseError;
use crate::crypto::seal::{OpenError, SealError};
use crate::error::ErrorCode;
use crate::session::rekey::RekeyError;

/// A fault that ends a session. The connection is closed with [`close_code`](Self::close_code).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    // The peer broke the framing.
    /// A message is not a sequence of frames that the state allows.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An IpBundle is not a sequence of records.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The server's hello does not keep to PROTOCOL §3. (A client's is answered by a rejection.)
    #[error("the server's hello is not usable: {0}")]
    ServerHello(#[source] HelloError),
    /// A Disconnect that is not what PROTOCOL §9 says.
    #[error("a Disconnect is not usable: {0}")]
    Disconnect(#[source] HelloError),

    // The peer, or somebody between, broke the cryptography.
    /// A handshake message does not open, or a DH output is zero.
    #[error(transparent)]
    Handshake(#[from] NoiseError),
    /// A frame does not open, or is not the one that must come now.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first message came before, on another connection (PROTOCOL §3).
    #[error("the first message is a repeated one")]
    Replayed,
    /// A session that ML-KEM protects was to go on without it (PROTOCOL §4).
    #[error("the session was protected by ML-KEM, and was to go on without")]
    NotHybrid,

    /// Fresh keys within the session did not come about.
    #[error(transparent)]
    Rekey(#[from] RekeyError),

    // This end.
    /// ML-KEM failed, and not by the peer's fault.
    #[error(transparent)]
    Kem(KemError),
    /// A frame could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The session has ended or is ending: nothing more may be sent.
    #[error("the session has ended")]
    Ended,
}

impl SessionError {
    /// How the connection is closed (PROTOCOL §9).
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Frame(error) => error.close_code(),
            Self::Bundle(error) => error.close_code(),
            Self::ServerHello(_) | Self::Disconnect(_) => CloseCode::ProtocolError,
            Self::Handshake(error) => error.close_code(),
            Self::Open(error) => error.close_code(),
            Self::Replayed | Self::NotHybrid => CloseCode::PolicyViolation,
            Self::Rekey(error) => error.close_code(),
            Self::Kem(_) => CloseCode::InternalError,
            Self::Seal(error) => error.close_code(),
            Self::Ended => CloseCode::Normal,
        }
    }

    /// What the user is told.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::Frame(error) => error.code(),
            Self::Bundle(error) => error.code(),
            Self::ServerHello(_) | Self::Disconnect(_) | Self::Replayed | Self::NotHybrid => {
                ErrorCode::ProtocolError
            }
            Self::Rekey(error) => error.error_code(),
            Self::Kem(_) => ErrorCode::Internal,
            Self::Handshake(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::Ended => ErrorCode::NotConnected,
        }
    }
}
