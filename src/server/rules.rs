//! What a server's configuration says to the parts that its connections share.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::config::ServerConfig;
use crate::packet::Router;
use crate::qos::RateLimit;
use crate::session::roster::Rules;

/// What the roster keeps to.
pub(super) fn rules(config: &ServerConfig) -> Rules {
    Rules {
        subnet: config.subnet,
        subnet6: config.subnet6,
        max_clients: config.max_clients,
        grace: config.session_grace,
        ticket_max_age: config.ticket_max_age,
        limit: config.default_rate_limit.map(|limit| (limit.rate(), limit.burst())),
    }
}

/// What a roster or a ticket says of a limit; one that this version would refuse is none.
pub(super) fn rate_limit(limit: Option<(u64, u64)>) -> Option<RateLimit> {
    limit.and_then(|(rate, burst)| RateLimit::new(rate, burst).ok())
}

/// Who tells clients that a packet is too big: the server.
pub(super) fn router(config: &ServerConfig) -> Router {
    // The configuration's prefix length was checked when it was read.
    let v4 = Ipv4Net::new_assert(config.subnet.server(), config.subnet.prefix_len());
    Router::new(v4, config.subnet6.map(|subnet| subnet.server()))
}

/// The tunnel's networks, each with the server's own address in it.
pub(super) fn nets(config: &ServerConfig) -> Vec<(IpNet, IpAddr)> {
    let v4 = (IpNet::V4(config.subnet.net()), IpAddr::V4(config.subnet.server()));
    let v6 = config.subnet6.map(|subnet| (IpNet::V6(subnet.net()), IpAddr::V6(subnet.server())));
    std::iter::once(v4).chain(v6).collect()
}
