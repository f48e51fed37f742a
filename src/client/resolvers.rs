//! The resolvers that the host has while a tunnel is up.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::shared::Shared;
use crate::error::VpnError;
use crate::network::HostChanges;
use crate::report::{Dns, DnsMethod, LogLevel};

/// What is set on the host.
#[derive(Default)]
pub(super) struct Resolvers {
    wanted: Wanted,
    /// Those that have a route of their own.
    routed: Vec<IpAddr>,
    by: Option<DnsMethod>,
}

/// What is to be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    servers: Vec<IpAddr>,
    /// Those that nothing else sends into the tunnel.
    routes: Vec<IpAddr>,
    /// Those that nothing leads to.
    out_of_reach: Vec<IpAddr>,
}

impl Wanted {
    /// Of `dns`, those that a tunnel with the networks `nets` to the server at `remote` can bear.
    pub(super) fn of(dns: &[IpAddr], nets: &[IpNet], remote: IpAddr) -> Self {
        let has_v6 = nets.iter().any(|net| net.addr().is_ipv6());
        let mut wanted = Self::default();
        for &server in dns {
            if server.is_ipv6() && !server.is_loopback() && !has_v6 {
                wanted.out_of_reach.push(server);
            } else if !wanted.servers.contains(&server) {
                wanted.servers.push(server);
                // The VPN server's own address keeps its way beside the tunnel.
                let has_way = server == remote || nets.iter().any(|net| net.contains(&server));
                if !has_way {
                    wanted.routes.push(server);
                }
            }
        }
        wanted
    }
}

impl Resolvers {
    /// Sets what is wanted now; what stands so already costs nothing.
    pub(super) async fn set(
        &mut self,
        wanted: Wanted,
        changes: &mut HostChanges,
        ifindex: u32,
        shared: &Arc<Shared>,
    ) -> Result<(), VpnError> {
        if wanted == self.wanted {
            return Ok(());
        }
        for &resolver in wanted.routes.iter().filter(|resolver| !self.wanted.routes.contains(resolver)) {
            if changes.route_resolver(resolver, ifindex).await? {
                self.routed.push(resolver);
            }
        }
        if wanted.servers != self.wanted.servers {
            let by = changes.set_resolvers(wanted.servers.clone(), ifindex).await?;
            self.by = by.map(DnsMethod::from);
        }
        self.tell(&wanted, shared);
        for resolver in std::mem::take(&mut self.routed) {
            if wanted.routes.contains(&resolver) {
                self.routed.push(resolver);
            } else {
                changes.unroute_resolver(resolver, ifindex).await?;
            }
        }
        self.wanted = wanted;
        Ok(())
    }

    /// For the status.
    pub(super) fn report(&self) -> Dns {
        match self.by {
            Some(by) => Dns { servers: self.wanted.servers.clone(), by },
            None => Dns { servers: Vec::new(), by: DnsMethod::None },
        }
    }

    fn tell(&self, wanted: &Wanted, shared: &Arc<Shared>) {
        let log = |level, message| shared.events.log(level, "dns", message);
        if !wanted.out_of_reach.is_empty() {
            let list = list(&wanted.out_of_reach);
            log(LogLevel::Info, format!("left out, as the server gave no IPv6 address: {list}"));
        }
        let servers = list(&wanted.servers);
        match self.by {
            Some(DnsMethod::Resolved) => {
                log(LogLevel::Info, format!("systemd-resolved asks {servers} for names"))
            }
            Some(DnsMethod::Resolvconf) => {
                log(LogLevel::Info, format!("this host asks {servers} for names, by resolvconf"));
            }
            Some(DnsMethod::File) => {
                log(LogLevel::Info, format!("this host asks {servers} for names, by /etc/resolv.conf"));
            }
            Some(DnsMethod::None) | None if wanted.servers.is_empty() => {}
            Some(DnsMethod::None) | None => log(
                LogLevel::Warn,
                format!(
                    "{servers} could not be set in /etc/resolv.conf, which somebody has changed since the \
                     tunnel came up; it is left as it is"
                ),
            ),
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn wanted(dns: &[&str], nets: &[&str]) -> Wanted {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        Wanted::of(&addresses(dns), &nets, "203.0.113.1".parse().unwrap())
    }

    #[test]
    fn resolvers_get_a_route_unless_they_have_a_way() {
        let wanted = wanted(&["10.8.0.1", "1.1.1.1", "203.0.113.1", "1.1.1.1"], &["10.8.0.2/24"]);
        assert_eq!(wanted.servers, addresses(&["10.8.0.1", "1.1.1.1", "203.0.113.1"]));
        assert_eq!(wanted.routes, addresses(&["1.1.1.1"]));
    }

    #[test]
    fn ipv6_ones_need_a_tunnel_with_ipv6() {
        let dns = ["2001:db8::53", "fd08::1", "::1", "10.8.0.1"];
        let without = wanted(&dns, &["10.8.0.2/24"]);
        assert_eq!(without.servers, addresses(&["::1", "10.8.0.1"]));
        assert_eq!(without.out_of_reach, addresses(&["2001:db8::53", "fd08::1"]));
        let with = wanted(&dns, &["10.8.0.2/24", "fd08::2/64"]);
        assert_eq!(with.servers, addresses(&dns));
        assert_eq!(with.routes, addresses(&["2001:db8::53", "::1"]));
        assert!(with.out_of_reach.is_empty());
    }

    #[test]
    fn none_are_wanted_where_none_are_given() {
        assert_eq!(wanted(&[], &["10.8.0.2/24"]), Wanted::default());
    }
}
