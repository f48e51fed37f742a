//! What the product tells its users: events, states, statistics. The names and units are those of
//! the public API; faces only serialise these values.

mod errors;
mod events;
mod qr;
mod types;

pub use events::{Event, EventSink, Events, LogLevel, TOLD};
pub use qr::qr_code;
pub use types::{
    Assigned, ClientInfo, ClientTelemetry, ConnectionState, DisconnectReason, Dns, DnsMethod, DropReport,
    Layer, MtuInfo, QualityReport, ServerStatistics, Statistics, Status, timestamp,
};
