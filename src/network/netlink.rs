//! stub
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::NetworkError;

/// A connection to the kernel's routing tables (`NETLINK_ROUTE`) in the network namespace of the
/// thread that opened it.
///
/// Calls are synchronous: the kernel answers within the system call, in microseconds, so they may
/// be made from asynchronous code and from an exit handler alike.
pub struct Netlink;

/// One of the host's routes to a network, as far as conflicts are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads to.
    pub destination: IpNet,
    /// The interface it leaves by; absent for an unreachable or multipath route.
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
    /// The largest packet that goes this way, in bytes of IP packet.
    pub mtu: u32,
    /// The address that the host would send from.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Opens a connection.
    pub fn open() -> Result<Self, NetworkError> {
        unimplemented!()
    }
    /// Gives an interface an address; the kernel adds the route to its network.
    pub fn add_address(&self, _ifindex: u32, _address: IpAddr, _prefix: u8) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// Sets an interface's MTU, in bytes of IP packet, and switches it on.
    pub fn set_up(&self, _ifindex: u32, _mtu: u16) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// An interface's MTU, in bytes of IP packet.
    pub fn link_mtu(&self, _ifindex: u32) -> Result<u32, NetworkError> {
        unimplemented!()
    }
    /// The networks that the host's interfaces have addresses in, with the interface's name.
    pub fn host_networks(&self) -> Result<Vec<(String, IpNet)>, NetworkError> {
        unimplemented!()
    }
    /// The host's routes, default routes included.
    pub fn routes(&self) -> Result<Vec<HostRoute>, NetworkError> {
        unimplemented!()
    }
    /// How the host reaches `address` at present.
    pub fn route_to(&self, _address: IpAddr) -> Result<Way, NetworkError> {
        unimplemented!()
    }
}
