//! What goes wrong between a daemon and its surroundings.

use std::io;
use std::path::PathBuf;

use crate::error::ErrorCode;

/// Why a management socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Others could put a socket of their own in its place.
    #[error(
        "the management socket {path} is not safe there: {why}; use a folder that only its owner can write to (mode 0755 or less), such as one below /run"
    )]
    UnsafeFolder {
        /// The socket's path.
        path: PathBuf,
        /// Which folder is at fault, and why.
        why: String,
    },
    /// Another process serves there.
    #[error("another process listens on {path} already; stop it, or choose another path")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else than a socket is in the way.
    #[error("{path} is there already and is not a socket; choose another path, or remove it")]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path does not name a socket.
    #[error("{path:?} cannot be a socket's path: {why}")]
    BadPath {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The group database has no such group.
    #[error("there is no group {name:?}; create it with groupadd, or name another one")]
    UnknownGroup {
        /// What was given.
        name: String,
    },
    /// What the service manager passed is not the socket that was asked for.
    #[error("the service manager passed {what}; it must pass one listening Unix stream socket at {path}")]
    Activation {
        /// The socket's path.
        path: PathBuf,
        /// What it passed.
        what: String,
    },
    /// The system refused.
    #[error("the management socket {path} cannot be made: {source}")]
    System {
        /// The socket's path.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

impl ControlError {
    /// The code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InUse { .. } => ErrorCode::AddressInUse,
            Self::BadPath { .. } | Self::UnknownGroup { .. } | Self::Activation { .. } => {
                ErrorCode::InvalidArgument
            }
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::PermissionDenied
            }
            Self::UnsafeFolder { .. } | Self::NotASocket { .. } | Self::System { .. } => ErrorCode::FileError,
        }
    }
}
