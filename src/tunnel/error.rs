//! Why a TUN device could not be made.

use std::io;

use crate::error::ErrorCode;

/// Why a TUN device could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// The name is not one that [`is_valid_name`](super::is_valid_name) takes.
    #[error("{name:?} is no interface name: use 1 to 15 letters, digits, '_', '.' or '-'")]
    InvalidName {
        /// What was asked for.
        name: String,
    },
    /// An interface of this name exists, or every automatic name is taken.
    #[error("an interface named {name} exists already: choose another tunName or remove it")]
    NameInUse {
        /// The name that is taken.
        name: String,
    },
    /// The process may not make interfaces.
    #[error("making a TUN device needs root or CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)")]
    PermissionDenied(#[source] io::Error),
    /// The host has no TUN driver, or the container no device node.
    #[error(
        "/dev/net/tun is not usable: load the driver with `modprobe tun` \
         (in a container: --device /dev/net/tun)"
    )]
    Unavailable(#[source] io::Error),
    /// The device was made and could not be taken into use.
    #[error("the TUN device could not be set up")]
    Failed(#[source] io::Error),
}

impl TunError {
    /// The stable code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidName { .. } => ErrorCode::InvalidArgument,
            Self::NameInUse { .. } => ErrorCode::TunNameInUse,
            Self::PermissionDenied(_) => ErrorCode::PermissionDenied,
            Self::Unavailable(_) | Self::Failed(_) => ErrorCode::TunUnavailable,
        }
    }
}
