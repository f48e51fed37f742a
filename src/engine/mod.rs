//! Drives sessions: one task a connection, one a TUN.
//!
//! ```text
//!  TUN ── pump ──► PacketQueue ──► Link: seal → WebSocket → TLS → TCP
//!  TUN ◄── Port::deliver ◄──────── Link: open ◄ WebSocket ◄ TLS ◄ TCP
//! ```
//!
//! [`pump()`] drains the TUN's descriptor in batches and hands each packet to its session's queue,
//! the only place where packets wait. [`Link`] owns a connection: it takes packets out only while
//! the socket takes bytes, seals a batch into one WebSocket message, and opens what comes in place.
//! The two directions share the task but never wait for each other, and all of it runs on one [`Lane`]. Neither
//! ever waits for JavaScript.
//!
//! [`Vigil`] tells when a connection is to be looked at before its timers do: the host's network changed, or
//! the host slept.

pub mod clock;
mod end;
mod lane;
mod link;
mod meter;
mod pump;
mod suspend;
mod task;
mod vigil;
mod wait;

pub use end::End;
pub use lane::{Lane, Seat};
pub use link::{Link, Order, Port};
pub use meter::{Limits, Meter};
pub use pump::{Route, pump};
pub use suspend::SuspendWatch;
pub use task::Task;
pub use vigil::{Alarm, Vigil};
pub use wait::wait_blocking;
