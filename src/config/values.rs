//! The types of fields that both configurations share.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// How the outer TCP connection is paced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// BBR on the outer socket where the system allows it.
    #[default]
    Auto,
    /// Whatever the system has set.
    System,
}

/// Where state outlives the process (the journal of what is set on the host).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateDir {
    /// Not configured: `/var/lib/smartvpn` when running as root, nothing is kept otherwise.
    #[default]
    Default,
    /// Configured as `null`: nothing is kept.
    Nothing,
    /// This folder, absolute.
    At(PathBuf),
}

/// A PEM field: its text, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// The text itself. It may be a private key: erased on drop, never printed.
    Text(Zeroizing<String>),
    /// An absolute path.
    Path(PathBuf),
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text([redacted])"),
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
        }
    }
}

/// Where a server listens: `host:port` or `[v6]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port; 0 lets the system pick one.
    pub port: u16,
}
