//! stub

/// Something on the host that stands in the tunnel's way, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What is in the way.
    pub message: String,
    /// What the operator may run to mend it.
    pub command: String,
}
