//! The connection's state machines, without I/O.

pub mod keepalive;
pub mod reconnect;
pub mod replay;
