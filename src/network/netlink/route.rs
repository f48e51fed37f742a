//! Routes as the kernel tells and takes them.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use serde::{Deserialize, Serialize};

/// Marks a route as ours (`proto 118` in `ip route`); no number of a known routing daemon.
pub(in crate::network) const PROTOCOL: u8 = 118;
/// The main routing table.
const MAIN: u32 = 254;
/// The table of the host's own and its broadcast addresses.
pub(super) const LOCAL: u32 = 255;

/// What happens to a packet that follows the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::network) enum Kind {
    /// It is sent on.
    Unicast,
    /// It is answered with "unreachable".
    Unreachable,
}

/// A route of ours in the main table: what is needed to set it, and to find exactly it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Route {
    pub(in crate::network) destination: IpAddr,
    pub(in crate::network) prefix: u8,
    pub(in crate::network) kind: Kind,
    /// The next hop; of the other family too (IPv4 by way of an IPv6 router).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::network) gateway: Option<IpAddr>,
    /// The interface; an unreachable route has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::network) ifindex: Option<u32>,
    /// The address to send from, where it is not the interface's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::network) source: Option<IpAddr>,
    /// Whether the gateway is on the link although no address of ours says so.
    #[serde(default)]
    pub(in crate::network) onlink: bool,
    pub(in crate::network) metric: u32,
}

impl Route {
    /// A route to `net` straight into the interface.
    pub(in crate::network) fn into_interface(net: IpNet, ifindex: u32) -> Self {
        Self { ifindex: Some(ifindex), ..Self::bare(net, Kind::Unicast, default_metric(net)) }
    }

    /// A route that refuses what goes to `net`, ahead of every route to the same network.
    pub(in crate::network) fn refusing(net: IpNet) -> Self {
        Self::bare(net, Kind::Unreachable, 1)
    }

    /// A route to one host that goes as `way` goes.
    pub(in crate::network) fn to_host(host: IpAddr, way: &KernelRoute) -> Self {
        Self {
            gateway: way.gateway,
            ifindex: way.ifindex,
            source: way.source,
            onlink: way.onlink,
            ..Self::to_itself(host)
        }
    }

    /// What stands for any route to this one host when journals are compared.
    pub(in crate::network) fn to_itself(host: IpAddr) -> Self {
        let net = IpNet::from(host);
        Self::bare(net, Kind::Unicast, default_metric(net))
    }

    /// Where it leads to.
    pub(in crate::network) fn net(&self) -> IpNet {
        IpNet::new_assert(self.destination, self.prefix.min(max_prefix(self.destination)))
    }

    /// Whether both lead to the same network with the same weight: the kernel takes only one such.
    pub(in crate::network) fn same_place(&self, other: &Self) -> bool {
        (self.destination, self.prefix, self.metric) == (other.destination, other.prefix, other.metric)
    }

    /// The body of an `RTM_NEWROUTE` or `RTM_DELROUTE`.
    pub(in crate::network) fn encode(&self) -> Vec<u8> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.destination),
            destination_prefix_length: self.prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Other(PROTOCOL),
            scope: self.scope(),
            kind: match self.kind {
                Kind::Unicast => RouteType::Unicast,
                Kind::Unreachable => RouteType::Unreachable,
            },
            flags: if self.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.destination.into()));
        attributes.extend(self.gateway.map(|gateway| self.gateway_attribute(gateway)));
        attributes.extend(self.ifindex.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        emit(&message)
    }

    fn bare(net: IpNet, kind: Kind, metric: u32) -> Self {
        Self {
            destination: net.network(),
            prefix: net.prefix_len(),
            kind,
            gateway: None,
            ifindex: None,
            source: None,
            onlink: false,
            metric,
        }
    }

    /// IPv4 wants the scope to fit: what is on the link is of the link.
    fn scope(&self) -> RouteScope {
        match (self.destination, self.kind, self.gateway) {
            (IpAddr::V4(_), Kind::Unicast, None) => RouteScope::Link,
            _ => RouteScope::Universe,
        }
    }

    fn gateway_attribute(&self, gateway: IpAddr) -> RouteAttribute {
        if gateway.is_ipv4() == self.destination.is_ipv4() {
            RouteAttribute::Gateway(gateway.into())
        } else {
            RouteAttribute::Via(gateway.into())
        }
    }
}

/// A route that stands in one of the kernel's tables, or that the kernel chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct KernelRoute {
    pub(in crate::network) destination: IpNet,
    pub(in crate::network) kind: RouteType,
    pub(in crate::network) table: u32,
    pub(in crate::network) protocol: u8,
    pub(in crate::network) metric: u32,
    /// The next hop; the first one of a multipath route.
    pub(in crate::network) gateway: Option<IpAddr>,
    /// The interface; the first one of a multipath route.
    pub(in crate::network) ifindex: Option<u32>,
    /// Every interface of a multipath route but the first.
    pub(in crate::network) further: Vec<u32>,
    pub(in crate::network) source: Option<IpAddr>,
    /// Whether a gateway is on the link although no address of the host says so.
    pub(in crate::network) onlink: bool,
    /// Whether packets can leave by it now.
    pub(in crate::network) usable: bool,
}

impl KernelRoute {
    /// Reads the body of an `RTM_NEWROUTE`; nothing for another family's or a malformed one.
    pub(in crate::network) fn parse(body: &[u8]) -> Option<Self> {
        let message = RouteMessage::parse(body)
            .inspect_err(|error| tracing::debug!(%error, "a route is not understood"))
            .ok()?;
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => [0; 4].into(),
            AddressFamily::Inet6 => [0; 16].into(),
            _ => return None,
        };
        let blank = IpNet::new(unspecified, header.destination_prefix_length).ok()?;
        let mut route = Self {
            destination: blank,
            kind: header.kind,
            table: u32::from(header.table),
            protocol: header.protocol.into(),
            metric: 0,
            gateway: None,
            ifindex: None,
            further: Vec::new(),
            source: None,
            onlink: header.flags.contains(RouteFlags::Onlink),
            usable: !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown),
        };
        message.attributes.iter().for_each(|attribute| route.take(attribute));
        Some(route)
    }

    /// Whether it stands in the main table and can carry packets.
    pub(in crate::network) fn is_usable_in_main(&self) -> bool {
        self.table == MAIN && self.kind == RouteType::Unicast && self.usable
    }

    /// Whether packets that follow it leave the host.
    pub(in crate::network) fn leads_out(&self) -> bool {
        self.kind == RouteType::Unicast && self.table != LOCAL
    }

    /// Whether it is what the kernel made of `route`.
    pub(in crate::network) fn is_set_by(&self, route: &Route) -> bool {
        let kind = match route.kind {
            Kind::Unicast => RouteType::Unicast,
            Kind::Unreachable => RouteType::Unreachable,
        };
        self.protocol == PROTOCOL
            && self.table == MAIN
            && self.destination == route.net()
            && self.metric == route.metric
            && self.kind == kind
            && self.gateway == route.gateway
            // The kernel files an unreachable IPv6 route under the loopback interface.
            && (route.ifindex.is_none() || self.ifindex == route.ifindex)
    }

    /// Whether it belongs to the host's own addresses.
    pub(in crate::network) fn is_local(&self) -> bool {
        self.table == LOCAL || self.kind == RouteType::Local
    }

    /// Every interface it leads out of.
    pub(in crate::network) fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.ifindex.into_iter().chain(self.further.iter().copied())
    }

    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Destination(address) => {
                if let Some(net) =
                    ip(address).and_then(|ip| IpNet::new(ip, self.destination.prefix_len()).ok())
                {
                    self.destination = net;
                }
            }
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::Via(via) => self.gateway = via_ip(via),
            RouteAttribute::Oif(index) => self.ifindex = Some(*index),
            RouteAttribute::PrefSource(address) => self.source = ip(address),
            RouteAttribute::Priority(metric) => self.metric = *metric,
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::MultiPath(hops) => {
                self.onlink |= hops.iter().any(|hop| hop.flags.contains(RouteNextHopFlags::Onlink));
                let mut hops = hops.iter();
                if let Some(first) = hops.next() {
                    self.ifindex = Some(first.interface_index);
                    first.attributes.iter().for_each(|attribute| self.take(attribute));
                }
                self.further = hops.map(|hop| hop.interface_index).collect();
            }
            _ => {}
        }
    }
}

/// The body of an `RTM_GETROUTE` for the way to one address.
pub(in crate::network) fn encode_lookup(address: IpAddr, flags: RouteFlags) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = max_prefix(address);
    message.header.flags = flags;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    emit(&message)
}

/// The body of an `RTM_GETROUTE` for all routes of both families.
pub(in crate::network) fn encode_dump() -> Vec<u8> {
    emit(&RouteMessage::default())
}

/// What the kernel would give a route without a metric, said so that it can be found again.
fn default_metric(net: IpNet) -> u32 {
    match net {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn max_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn emit(message: &RouteMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
