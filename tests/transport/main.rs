//! The transport over real sockets, against itself, against tungstenite, and against peers that misbehave.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "there is no engine here to own tasks")]

mod certs;
mod client;
mod pair;
mod pins;
mod proxy;
mod server;

use std::time::Duration;

use smartvpn::transport::{CongestionControl, DialOptions, Endpoint};
use tokio::time::Instant;

/// Far longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

fn patience() -> Instant {
    Instant::now() + PATIENCE
}

fn options() -> DialOptions {
    DialOptions { congestion: CongestionControl::Auto, ..DialOptions::new(patience()) }
}

fn endpoint(scheme: &str, host: &str, port: u16) -> Endpoint {
    Endpoint::parse(&format!("{scheme}://{host}:{port}/path?query")).unwrap()
}
