//! What can go wrong on the host's network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use rustix::io::Errno;

use crate::error::ErrorCode;

/// What can go wrong on the host's network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The process may not change the network.
    #[error("{what} needs root or CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)")]
    PermissionDenied {
        /// What was tried.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// The kernel could not be asked.
    #[error("{what} failed")]
    Netlink {
        /// What was tried.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// Our own interface could not be given its address or MTU.
    #[error("{what} failed")]
    Interface {
        /// What was tried.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// The host has no route to this address.
    #[error("the host has no route to {address}: check its network connection")]
    NoRoute {
        /// Where no way leads to.
        address: IpAddr,
        /// The system's words.
        source: io::Error,
    },
    /// A route could not be set.
    #[error("the route to {destination} could not be set")]
    Route {
        /// Where it leads to.
        destination: IpNet,
        /// The system's words.
        source: io::Error,
    },
    /// Somebody else has a route to the same network.
    #[error("another route to {destination} exists: remove it, or leave the network out of `routes`")]
    RouteTaken {
        /// Where it leads to.
        destination: IpNet,
    },
    /// The tunnel's subnet overlaps one of the host's own networks.
    #[error("{subnet} overlaps {other} on {interface}: choose another subnet")]
    SubnetConflict {
        /// The tunnel's subnet.
        subnet: IpNet,
        /// The host's network.
        other: IpNet,
        /// The interface that has it.
        interface: String,
    },
    /// Forwarding, or rules of our own in the firewall, could not be set up.
    #[error("{what}")]
    NatUnavailable {
        /// What failed, and what to do.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// The host's resolvers could not be set.
    #[error("the host's resolvers could not be set: {what}; `dns: []` leaves them alone")]
    Resolvers {
        /// What failed, and what to do.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// A living process holds the instance of this name.
    #[error("the tunnel {name} is in use by another process: choose another tunName or stop it")]
    InstanceInUse {
        /// The instance's name.
        name: String,
    },
    /// The step was cut short, and what it belongs to is undone.
    #[error("the tunnel's set-up was interrupted and is undone")]
    Ended,
    /// The journal could not be kept.
    #[error("the state directory {} is not usable: {what}", path.display())]
    State {
        /// The file or directory at fault.
        path: PathBuf,
        /// What failed, and what to do.
        what: String,
        /// The system's words.
        source: io::Error,
    },
}

impl NetworkError {
    /// The stable code that users see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::PermissionDenied { .. } => ErrorCode::PermissionDenied,
            Self::Netlink { .. } => ErrorCode::Internal,
            Self::Interface { .. } => ErrorCode::TunUnavailable,
            Self::NoRoute { .. } => ErrorCode::Unreachable,
            Self::Route { .. } | Self::RouteTaken { .. } => ErrorCode::RouteFailed,
            Self::SubnetConflict { .. } => ErrorCode::SubnetConflict,
            Self::NatUnavailable { .. } => ErrorCode::NatUnavailable,
            Self::Resolvers { .. } => ErrorCode::DnsFailed,
            Self::Ended => ErrorCode::Aborted,
            Self::InstanceInUse { .. } => ErrorCode::TunNameInUse,
            Self::State { .. } => ErrorCode::FileError,
        }
    }

    /// What users are told when this keeps the tunnel's addresses from being guarded, which is no failure.
    pub fn unguarded(&self) -> String {
        let source = std::error::Error::source(self).map(|source| format!(" ({source})")).unwrap_or_default();
        format!("neighbours can find out the tunnel's addresses by probes: {self}{source}")
    }

    /// `source` as missing permission if it is that, else as what `otherwise` makes of it.
    pub(super) fn permission_or(
        what: impl Into<String>,
        source: io::Error,
        otherwise: impl FnOnce(String, io::Error) -> Self,
    ) -> Self {
        if is_permission(&source) {
            Self::PermissionDenied { what: what.into(), source }
        } else {
            otherwise(what.into(), source)
        }
    }
}

/// Whether the kernel refused for want of a capability. `EACCES` is not among them: netlink says it
/// of a switched-off IPv6.
fn is_permission(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PERM.raw_os_error())
}
