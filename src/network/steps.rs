//! What can be set on the host, step by step.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::RouteFlags;
use rustix::io::Errno;

use super::change::{Change, Table};
use super::error::NetworkError;
use super::forwarding::{self, Passage};
use super::guard::{self, Guard};
use super::ledger::{Ledger, Made, Turn};
use super::nat::{self, Masquerade};
use super::netlink::{KernelRoute, Netlink, Route};
use super::nft;

impl Ledger {
    /// Sends `net` into the interface; a default route as its two halves.
    pub(super) fn route_via_tunnel(&mut self, net: IpNet, ifindex: u32) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let turn = self.turn()?;
        for net in without_default(net) {
            let route = Route::into_interface(net, ifindex);
            self.apply(&turn, Change::Route(route.clone()), || {
                add_route(&netlink, &route, |existing| existing.ifindex == Some(ifindex))
            })?;
        }
        Ok(())
    }

    /// Fixes the present way to `server`, so that no route into the tunnel changes it.
    pub(super) fn pin_route(&mut self, server: IpAddr) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let turn = self.turn()?;
        if is_always_direct(server) {
            return Ok(());
        }
        let any = Change::Route(Route::to_itself(server));
        if let Some(Change::Route(pinned)) = self.find(&any) {
            if netlink.kernel_routes()?.iter().any(|route| route.is_set_by(pinned)) {
                return Ok(());
            }
            // The kernel dropped it with the link or the address that it needed.
            self.forget(&any);
        }
        let Some(way) = self.way_past_tunnel(&netlink, server)? else { return Ok(()) };
        let route = Route::to_host(server, &way);
        self.apply(&turn, Change::Route(route.clone()), || {
            // A route to this one host leads where its maker wants it to: that is its old way.
            add_route(&netlink, &route, |_| true)
        })
    }

    /// Pins the way to `server` anew, if the host's other routes would lead there another way by now.
    pub(super) fn repin_route(&mut self, server: IpAddr) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let any = Change::Route(Route::to_itself(server));
        if let Some(pinned @ Change::Route(route)) = self.find(&any).cloned().as_ref() {
            let routes = netlink.kernel_routes()?.into_iter().filter(|other| !other.is_set_by(route));
            let tunnel = netlink.links()?.into_iter().find(|link| link.name == self.instance);
            let best = best_route(routes.collect(), server, tunnel.map(|link| link.index));
            match best {
                Some(best) if (best.ifindex, best.gateway) != (route.ifindex, route.gateway) => {
                    self.withdraw(pinned)?;
                }
                _ => return self.pin_route(server),
            }
        }
        self.pin_route(server)
    }

    /// Sends what goes to `resolver` into the interface; whether that needed a route.
    pub(super) fn route_resolver(&mut self, resolver: IpAddr, ifindex: u32) -> Result<bool, NetworkError> {
        let netlink = Netlink::open()?;
        let turn = self.turn()?;
        let net = IpNet::from(resolver);
        let leads_there = |change: &Change| matches!(change, Change::Route(route) if route.net() == net);
        if is_always_direct(resolver) || self.changes().any(leads_there) {
            return Ok(false);
        }
        let mut route = Route::into_interface(net, ifindex);
        // Another tunnel may have the same resolver: until it is gone, the traffic goes there.
        while turn.theirs.iter().any(|theirs| theirs.is_about_the_same(&Change::Route(route.clone()))) {
            route.metric += 1;
        }
        self.apply(&turn, Change::Route(route.clone()), || add_route(&netlink, &route, |_| false))
            .map_err(resolver_unrouted)?;
        Ok(true)
    }

    /// Takes the route back that [`route_resolver`](Self::route_resolver) set.
    pub(super) fn unroute_resolver(&mut self, resolver: IpAddr, ifindex: u32) -> Result<(), NetworkError> {
        let net = IpNet::from(resolver);
        let is_it = |change: &&Change| match change {
            Change::Route(route) => route.net() == net && route.ifindex == Some(ifindex),
            _ => false,
        };
        let found = self.changes().find(is_it).cloned();
        found.map_or(Ok(()), |change| self.withdraw(&change))
    }

    /// Refuses all IPv6 but to the host's own links and to what has a route of its own.
    pub(super) fn block_ipv6(&mut self) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let turn = self.turn()?;
        for net in without_default(IpNet::V6(ipnet::Ipv6Net::default())) {
            let route = Route::refusing(net);
            match self.apply(&turn, Change::Route(route.clone()), || add_route(&netlink, &route, |_| false)) {
                // Without IPv6 none leaves.
                Err(NetworkError::Route { source, .. }) if is_without_ipv6(&source) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Lets packets pass between the tunnel and every interface that has a route.
    pub(super) fn enable_forwarding(&mut self, tun: &str, v6: bool) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let turn = self.turn()?;
        let passage = passage(&netlink, tun, v6)?;
        let plan = forwarding::plan(&self.sysctls, &passage, &turn.theirs).map_err(|source| {
            let what = "the host's forwarding switches under /proc/sys/net cannot be read".to_owned();
            NetworkError::NatUnavailable { what, source }
        })?;
        self.switch_all(&turn, plan)
    }

    /// Makes the planned changes in order.
    pub(super) fn switch_all(&mut self, turn: &Turn, plan: Vec<Change>) -> Result<(), NetworkError> {
        let sysctls = self.sysctls.clone();
        for change in plan {
            // What another instance has switched, or will keep, is as it should be.
            let is_theirs = turn.theirs.contains(&change);
            self.apply(turn, change.clone(), || {
                let Change::Switched(switched) = &change else { return Ok(Made::Now) };
                if is_theirs {
                    return Ok(Made::Already);
                }
                sysctls.write(&switched.switch, &switched.new).map(|()| Made::Now).map_err(|source| {
                    let what = format!(
                        "{} cannot be set to {}, which forwarding needs (in a container: --sysctl, or \
                         mount /proc/sys writable)",
                        switched.switch, switched.new
                    );
                    NetworkError::NatUnavailable { what, source }
                })
            })?;
        }
        Ok(())
    }

    /// Masquerades what comes from the tunnel's networks.
    pub(super) fn masquerade(&mut self, masquerade: &Masquerade) -> Result<(), NetworkError> {
        let turn = self.turn()?;
        let name = nft::nat_table(&self.instance);
        let commands = nat::commands(&name, masquerade);
        self.write_table(&turn, Change::Table(Table { name: name.clone() }), &name, commands, nat::install)
    }

    /// Guards the tunnel's addresses.
    pub(super) fn guard(&mut self, tun: &str, guard: &Guard) -> Result<(), NetworkError> {
        let turn = self.turn()?;
        let name = nft::guard_table(&self.instance);
        let mut write = |arp| {
            let change = Change::Guard(Table { name: name.clone() });
            self.write_table(&turn, change, &name, guard.commands(&name, tun, arp), guard::install)
        };
        match write(true) {
            Err(NetworkError::NatUnavailable { source, .. })
                if source.kind() == io::ErrorKind::InvalidInput =>
            {
                write(false)?;
                tracing::warn!(error = %source, "ARP requests for the tunnel's address cannot be kept out");
                Ok(())
            }
            other => other,
        }
    }

    /// Writes a table of our own, and keeps it.
    fn write_table(
        &mut self,
        turn: &Turn,
        change: Change,
        name: &str,
        commands: Vec<serde_json::Value>,
        install: fn(&[serde_json::Value]) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        let mut keeper = std::mem::take(&mut self.keeper);
        let written = self.apply(turn, change, || keeper.keep(name, commands, install).map(|()| Made::Now));
        self.keeper = keeper;
        written
    }

    /// Takes the table of [`masquerade`](Self::masquerade) away, if there is one.
    pub(super) fn unmasquerade(&mut self) -> Result<(), NetworkError> {
        let table = Change::Table(Table { name: nft::nat_table(&self.instance) });
        if self.find(&table).is_some() { self.withdraw(&table) } else { Ok(()) }
    }

    /// The way that packets to `server` take without our tunnel; `None` if they stay on the host.
    fn way_past_tunnel(
        &self,
        netlink: &Netlink,
        server: IpAddr,
    ) -> Result<Option<KernelRoute>, NetworkError> {
        let tunnel = netlink.links()?.into_iter().find(|link| link.name == self.instance);
        let tunnel = tunnel.map(|link| link.index);
        let way = netlink.lookup(server, RouteFlags::empty())?;
        if way.is_local() {
            return Ok(None);
        }
        if way.ifindex != tunnel {
            // What comes of the lookup names the address to send from even if no route prescribes
            // one; prescribed, it would take the route down when the address changes.
            let entry = netlink.lookup(server, RouteFlags::FibMatch).unwrap_or_else(|_| way.clone());
            return Ok(Some(KernelRoute { source: entry.source, onlink: entry.onlink, ..way }));
        }
        // The tunnel has the traffic already: the way is the best one of the others.
        let best = best_route(netlink.kernel_routes()?, server, tunnel);
        best.map(Some).ok_or(NetworkError::NoRoute { address: server, source: Errno::NETUNREACH.into() })
    }
}

/// The route that the kernel would choose in the main table, were there none through `except`.
fn best_route(routes: Vec<KernelRoute>, address: IpAddr, except: Option<u32>) -> Option<KernelRoute> {
    routes
        .into_iter()
        .filter(|route| route.is_usable_in_main() && route.destination.contains(&address))
        .filter(|route| route.ifindex.is_some() && route.ifindex != except)
        .min_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric))
}

/// Link-local and multicast addresses, and the host's own, never take a route into the tunnel.
fn is_always_direct(address: IpAddr) -> bool {
    address.is_loopback()
        || match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

/// The halves of a default route, which go before it without touching it; else the network itself.
fn without_default(net: IpNet) -> Vec<IpNet> {
    let net = net.trunc();
    if net.prefix_len() > 0 {
        return vec![net];
    }
    // A prefix of 1 is longer than 0 and within both families.
    net.subnets(1).map(Iterator::collect).unwrap_or_default()
}

/// Sets a route. If the kernel has one to the same network that `suffices`, that one stays.
fn add_route(
    netlink: &Netlink,
    route: &Route,
    suffices: impl Fn(&KernelRoute) -> bool,
) -> Result<Made, NetworkError> {
    let destination = route.net();
    match netlink.add_route(route) {
        Ok(()) => Ok(Made::Now),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let routes = netlink.kernel_routes()?;
            let existing = routes.iter().find(|existing| {
                !existing.is_local() && existing.destination == destination && existing.metric == route.metric
            });
            let suffices = existing.is_some_and(|existing| existing.is_set_by(route) || suffices(existing));
            if suffices { Ok(Made::Already) } else { Err(NetworkError::RouteTaken { destination }) }
        }
        Err(source) => Err(NetworkError::permission_or(
            format!("setting the route to {destination}"),
            source,
            |_, source| NetworkError::Route { destination, source },
        )),
    }
}

/// What a failure to set a route to a resolver means.
fn resolver_unrouted(error: NetworkError) -> NetworkError {
    let (what, source) = match error {
        NetworkError::RouteTaken { destination } => {
            (format!("another route to {destination} exists, remove it"), io::ErrorKind::AlreadyExists.into())
        }
        NetworkError::Route { destination, source } => {
            (format!("the route to {destination}, into the tunnel, was refused"), source)
        }
        other => return other,
    };
    NetworkError::Resolvers { what, source }
}

/// Every interface that packets from the tunnel can leave by, and the tunnel.
fn passage(netlink: &Netlink, tun: &str, v6: bool) -> Result<Passage, NetworkError> {
    let mut links = netlink.links()?;
    links.retain(|link| !link.loopback);
    let routes = netlink.kernel_routes()?;
    let names = |is_v4: bool| {
        let leads_out = |index: u32| {
            routes.iter().any(|route| {
                route.destination.addr().is_ipv4() == is_v4
                    && route.leads_out()
                    && route.interfaces().any(|i| i == index)
            })
        };
        let chosen = links.iter().filter(|link| link.name == tun || leads_out(link.index));
        chosen.map(|link| link.name.clone()).collect()
    };
    Ok(Passage { v4: names(true), v6: if v6 { names(false) } else { Vec::new() } })
}

/// Whether the kernel has no IPv6, or has it switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    super::netlink::is_one_of(error, &[Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::NODEV])
}
