//! The kernel's interfaces, addresses and routes.

mod address;
mod attribute;
mod notice;
mod route;
mod socket;

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkHeader, LinkMessage,
};
use netlink_packet_route::route::{RouteFlags, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::error::NetworkError;
pub(super) use attribute::{attributes, find_attribute};
pub(super) use notice::{Notice, notices};
use notice::{RTM_NEWADDR, RTM_NEWLINK};
pub(super) use route::{KernelRoute, Route};
pub(super) use socket::{HEADER_LEN, KernelSocket};

const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// How the kernel says that no way leads to an address: none that it knows of, or one of the types
/// unreachable, prohibit and blackhole.
const NO_WAY: [Errno; 5] =
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL, Errno::NETDOWN];

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

/// A connection to the kernel's routing tables (`NETLINK_ROUTE`) in the network namespace of the
/// thread that opened it.
///
/// Calls are synchronous: the kernel answers within the system call, in microseconds, so they may
/// be made from asynchronous code and from an exit handler alike.
pub struct Netlink {
    socket: Mutex<KernelSocket>,
}

/// One of the host's routes to a network, as far as conflicts are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads to.
    pub destination: IpNet,
    /// The interface it leaves by, the first one of several; absent for an unreachable route.
    pub ifindex: Option<u32>,
    /// The next hop; absent where the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// How the host reaches an address at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The next hop; absent where the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface it leaves by.
    pub ifindex: u32,
    /// That interface's name.
    pub ifname: String,
    /// That interface's MTU, in bytes of IP packet. The path beyond may take less, which is TCP's
    /// business.
    pub mtu: u32,
    /// The address that the host would send from.
    pub source: Option<IpAddr>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) loopback: bool,
}

impl Netlink {
    /// Opens a connection.
    pub fn open() -> Result<Self, NetworkError> {
        let socket = KernelSocket::open(NETLINK_ROUTE).map_err(failed("opening a netlink socket"))?;
        Ok(Self { socket: Mutex::new(socket) })
    }

    /// Sets an interface's MTU, in bytes of IP packet, and switches it on, without an IPv6 address
    /// of the kernel's own making.
    pub fn set_up(&self, ifindex: u32, mtu: u16) -> Result<(), NetworkError> {
        let interface = |source| {
            let what = format!("setting up the tunnel's interface with an MTU of {mtu} failed");
            NetworkError::permission_or(what, source, |what, source| NetworkError::Interface { what, source })
        };
        // A link-local address would be of no use in the tunnel, and the kernel would send router
        // solicitations into it. Where there is no IPv6 (below an MTU of 1280 for one), there is
        // nothing to switch off.
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let mut quiet = link_message(ifindex);
        quiet.attributes = vec![LinkAttribute::Mtu(mtu.into()), LinkAttribute::AfSpecUnspec(vec![mode])];
        if self.order(RTM_SETLINK, 0, &emit(&quiet)).is_err() {
            quiet.attributes.truncate(1);
            self.order(RTM_SETLINK, 0, &emit(&quiet)).map_err(interface)?;
        }
        let mut up = link_message(ifindex);
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        self.order(RTM_SETLINK, 0, &emit(&up)).map_err(interface)
    }

    /// An interface's MTU, in bytes of IP packet.
    pub fn link_mtu(&self, ifindex: u32) -> Result<u32, NetworkError> {
        self.link(ifindex).map(|link| link.mtu)
    }

    /// The networks that the host's interfaces have addresses in, each with the interface's name.
    pub fn host_networks(&self) -> Result<Vec<(String, IpNet)>, NetworkError> {
        let links = self.links()?;
        let networks = self
            .socket()
            .dump(RTM_GETADDR, &emit(&AddressMessage::default()), address::parse)
            .map_err(failed("reading the host's addresses"))?;
        let named = |(index, net)| {
            let link = links.iter().find(|link| link.index == index)?;
            Some((link.name.clone(), net))
        };
        Ok(networks.into_iter().filter_map(named).collect())
    }

    /// The host's routes of every table, default routes included, its own addresses not.
    pub fn routes(&self) -> Result<Vec<HostRoute>, NetworkError> {
        let routes = self.kernel_routes()?.into_iter();
        Ok(routes
            .filter(|route| !route.is_local() && is_forwarding_decision(route.kind))
            .map(|route| HostRoute {
                destination: route.destination,
                ifindex: route.ifindex,
                gateway: route.gateway,
            })
            .collect())
    }

    /// Refuses `subnet` if an interface other than `own` has an address in a network that overlaps
    /// it, or if a route other than `own`'s would take traffic out of it.
    pub fn check_subnet(&self, subnet: IpNet, own: Option<u32>) -> Result<(), NetworkError> {
        let links = self.links()?;
        let own_name = links.iter().find(|link| Some(link.index) == own).map(|link| link.name.as_str());
        let conflict = |other, interface| Err(NetworkError::SubnetConflict { subnet, other, interface });
        for (interface, other) in self.host_networks()? {
            if Some(interface.as_str()) != own_name && overlap(subnet, other) {
                return conflict(other, interface);
            }
        }
        for route in self.routes()? {
            // A wider route elsewhere loses against the tunnel's; one as narrow or narrower wins.
            if let Some(index) = route.ifindex
                && route.ifindex != own
                && subnet.contains(&route.destination)
            {
                let link = links.iter().find(|link| link.index == index);
                let interface = link.map_or_else(|| format!("interface {index}"), |link| link.name.clone());
                return conflict(route.destination, interface);
            }
        }
        Ok(())
    }

    /// How the host reaches `address` at present.
    pub fn route_to(&self, address: IpAddr) -> Result<Way, NetworkError> {
        let no_route = |source| NetworkError::NoRoute { address, source };
        let route = self.lookup(address, RouteFlags::empty())?;
        let ifindex = route.ifindex.ok_or_else(|| no_route(Errno::NETUNREACH.into()))?;
        let link = self.link(ifindex)?;
        Ok(Way { gateway: route.gateway, ifindex, mtu: link.mtu, ifname: link.name, source: route.source })
    }

    /// The address that the host would send from to `address` at present; nothing if no way leads there, or
    /// none of its addresses will do.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn source_to(&self, address: IpAddr) -> Result<Option<IpAddr>, NetworkError> {
        match self.lookup(address.to_canonical(), RouteFlags::empty()) {
            Ok(route) => Ok(route.source),
            Err(NetworkError::NoRoute { source, .. }) if is_one_of(&source, &NO_WAY) => Ok(None),
            Err(NetworkError::NoRoute { source, .. }) => Err(failed("asking for a way")(source)),
            Err(error) => Err(error),
        }
    }

    /// Every interface and every address, as the kernel would tell of them by itself.
    pub(super) fn notices(&self) -> Result<Vec<Notice>, NetworkError> {
        let mut socket = self.socket();
        let links = socket
            .dump(RTM_GETLINK, &emit(&LinkMessage::default()), |body| Notice::read(RTM_NEWLINK, body))
            .map_err(failed("reading the host's interfaces"))?;
        let addresses = socket
            .dump(RTM_GETADDR, &emit(&AddressMessage::default()), |body| Notice::read(RTM_NEWADDR, body))
            .map_err(failed("reading the host's addresses"))?;
        Ok([links, addresses].concat())
    }

    /// The route that the kernel takes to `address`: what comes of it, or with
    /// [`RouteFlags::FibMatch`] the entry of the table that decided.
    pub(super) fn lookup(&self, address: IpAddr, flags: RouteFlags) -> Result<KernelRoute, NetworkError> {
        let no_route = |source| NetworkError::NoRoute { address, source };
        let mut found = None;
        let body = route::encode_lookup(address, flags | RouteFlags::LookupTable);
        self.socket()
            .call(RTM_GETROUTE, 0, &body, |_, body| found = KernelRoute::parse(body))
            .map_err(no_route)?;
        found
            .filter(|route| matches!(route.kind, RouteType::Unicast | RouteType::Local))
            .ok_or_else(|| no_route(Errno::NETUNREACH.into()))
    }

    /// Every route of both families and all tables.
    pub(super) fn kernel_routes(&self) -> Result<Vec<KernelRoute>, NetworkError> {
        self.socket()
            .dump(RTM_GETROUTE, &route::encode_dump(), KernelRoute::parse)
            .map_err(failed("reading the host's routes"))
    }

    /// Sets a route; `AlreadyExists` if the kernel has one to the same network with the same metric.
    pub(super) fn add_route(&self, route: &Route) -> io::Result<()> {
        self.order(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route.encode())
    }

    /// Takes exactly this route away; `false` if it is gone already.
    pub(super) fn delete_route(&self, route: &Route) -> io::Result<bool> {
        match self.order(RTM_DELROUTE, 0, &route.encode()) {
            Ok(()) => Ok(true),
            // With its interface or its gateway's network the kernel takes the route away itself.
            Err(error) if is_one_of(&error, &[Errno::SRCH, Errno::NODEV, Errno::NOENT, Errno::INVAL]) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The interface of this index.
    pub(super) fn link(&self, ifindex: u32) -> Result<Link, NetworkError> {
        let found = self.links()?.into_iter().find(|link| link.index == ifindex);
        found.ok_or_else(|| failed("looking for an interface")(Errno::NODEV.into()))
    }

    /// Every interface.
    pub(super) fn links(&self) -> Result<Vec<Link>, NetworkError> {
        self.socket()
            .dump(RTM_GETLINK, &emit(&LinkMessage::default()), parse_link)
            .map_err(failed("reading the host's interfaces"))
    }

    fn order(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.socket().call(kind, flags, body, |_, _| {})
    }

    fn socket(&self) -> MutexGuard<'_, KernelSocket> {
        // A panic in between leaves at worst an answer that the next call skips.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this is one of these errors of the system.
pub(super) fn is_one_of(error: &io::Error, errors: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errors.iter().any(|errno| errno.raw_os_error() == raw))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| {
        NetworkError::permission_or(what, source, |what, source| NetworkError::Netlink { what, source })
    }
}

/// By hand: of all messages a link's grows the fastest with the kernel, and only three fields matter.
fn parse_link(body: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(body).ok()?;
    let attributes = body.get(header.buffer_len()..)?;
    let name = find_attribute(attributes, IFLA_IFNAME)?;
    let mtu = find_attribute(attributes, IFLA_MTU)?.first_chunk::<4>()?;
    Some(Link {
        index: header.index,
        name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
        mtu: u32::from_ne_bytes(*mtu),
        loopback: header.flags.contains(LinkFlags::Loopback),
    })
}

fn link_message(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

fn is_forwarding_decision(kind: RouteType) -> bool {
    matches!(kind, RouteType::Unicast | RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn emit(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
