//! The network that a server gives its clients' addresses from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::cidr::{CidrError, parse_cidr};

/// An address of either family, as a number.
pub trait Address: Copy + Ord + fmt::Debug + fmt::Display + Into<IpAddr> + sealed::Sealed {
    /// This family's network type.
    type Net: Copy + Eq + fmt::Debug + fmt::Display;
    /// The family's name in messages.
    const FAMILY: &'static str;
    /// The prefix lengths a tunnel's subnet may have (API §3).
    const PREFIXES: RangeInclusive<u8>;
    /// Bits of an address.
    const BITS: u8;
    /// The last address of a subnet is its broadcast address.
    const HAS_BROADCAST: bool;

    /// The address as a number.
    fn to_number(self) -> u128;
    /// The address of a number, which is one of this family.
    fn from_number(number: u128) -> Self;
    /// The network of this family in `net`.
    fn net_of(net: IpNet) -> Option<Self::Net>;
    /// The network's own address and its prefix length.
    fn parts_of(net: Self::Net) -> (Self, u8);
    /// Whether hosts of a subnet that begins here may talk to others at all.
    fn begins_unicast(self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::Ipv4Addr {}
    impl Sealed for std::net::Ipv6Addr {}
}

impl Address for Ipv4Addr {
    type Net = Ipv4Net;
    const FAMILY: &'static str = "IPv4";
    /// From the largest private network (RFC 1918) to one with a server and a client (API §3).
    const PREFIXES: RangeInclusive<u8> = 8..=30;
    const BITS: u8 = 32;
    const HAS_BROADCAST: bool = true;

    fn to_number(self) -> u128 {
        self.to_bits().into()
    }

    fn from_number(number: u128) -> Self {
        Self::from_bits(number as u32)
    }

    fn net_of(net: IpNet) -> Option<Ipv4Net> {
        match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }
    }

    fn parts_of(net: Ipv4Net) -> (Self, u8) {
        (net.network(), net.prefix_len())
    }

    /// Not "this network" (RFC 6890), loopback, link-local, multicast or reserved.
    fn begins_unicast(self) -> bool {
        !matches!(self.octets()[0], 0 | 127 | 224..) && !self.is_link_local()
    }
}

impl Address for Ipv6Addr {
    type Net = Ipv6Net;
    const FAMILY: &'static str = "IPv6";
    /// From the network of a whole link (RFC 4291 §2.5.4) to one with eight addresses (API §3).
    const PREFIXES: RangeInclusive<u8> = 64..=125;
    const BITS: u8 = 128;
    const HAS_BROADCAST: bool = false;

    fn to_number(self) -> u128 {
        self.to_bits()
    }

    fn from_number(number: u128) -> Self {
        Self::from_bits(number)
    }

    fn net_of(net: IpNet) -> Option<Ipv6Net> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net),
        }
    }

    fn parts_of(net: Ipv6Net) -> (Self, u8) {
        (net.network(), net.prefix_len())
    }

    /// Not in `::/64` (unspecified, loopback, IPv4-mapped), link-local or multicast.
    fn begins_unicast(self) -> bool {
        self.to_bits() >> 64 != 0 && !self.is_unicast_link_local() && !self.is_multicast()
    }
}

/// A subnet that a tunnel can have: its first host address is the server's, those behind it are the
/// clients'. IPv4's network and broadcast addresses and IPv6's `::0` (the routers' anycast address)
/// are nobody's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subnet<A: Address> {
    net: A::Net,
}

/// Why a network can't be a tunnel's subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not a network at all.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// A network of the other family.
    #[error("it is not {0}")]
    Family(&'static str),
    /// Too large or too small.
    #[error("its prefix length is not from {0} to {1}")]
    Prefix(u8, u8),
    /// Loopback, link-local, multicast or reserved.
    #[error("its addresses can't be used by hosts")]
    NotUnicast,
}

impl<A: Address> Subnet<A> {
    /// Checks that hosts can have the addresses of `net`.
    pub fn new(net: A::Net) -> Result<Self, SubnetError> {
        let (network, prefix_len) = A::parts_of(net);
        if !A::PREFIXES.contains(&prefix_len) {
            return Err(SubnetError::Prefix(*A::PREFIXES.start(), *A::PREFIXES.end()));
        }
        if !network.begins_unicast() {
            return Err(SubnetError::NotUnicast);
        }
        Ok(Self { net })
    }

    /// The network.
    pub fn net(&self) -> A::Net {
        self.net
    }

    /// The prefix length.
    pub fn prefix_len(&self) -> u8 {
        A::parts_of(self.net).1
    }

    /// The server's own address, the gateway of its clients.
    pub fn server(&self) -> A {
        A::from_number(self.network_number() + 1)
    }

    /// The first address a client can have.
    pub fn first_client(&self) -> A {
        A::from_number(self.network_number() + 2)
    }

    /// The last address a client can have.
    pub fn last_client(&self) -> A {
        let size = 1_u128 << (A::BITS - self.prefix_len());
        A::from_number(self.network_number() + size - 1 - u128::from(A::HAS_BROADCAST))
    }

    /// Whether a client can have this address.
    pub fn is_client(&self, addr: A) -> bool {
        (self.first_client()..=self.last_client()).contains(&addr)
    }

    /// How many clients can have an address at the same time: at least 1, under 2^64.
    pub fn capacity(&self) -> u64 {
        let last = self.last_client().to_number() - self.first_client().to_number();
        // The largest subnet, an IPv6 /64, has 2^64 - 2 of them.
        last as u64 + 1
    }

    fn network_number(&self) -> u128 {
        A::parts_of(self.net).0.to_number()
    }
}

impl<A: Address> FromStr for Subnet<A> {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        Self::new(A::net_of(parse_cidr(text)?).ok_or(SubnetError::Family(A::FAMILY))?)
    }
}

impl<A: Address> fmt::Display for Subnet<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)
    }
}

impl<A: Address> fmt::Debug for Subnet<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_leaves_out_network_server_and_broadcast() {
        for (text, server, first, last, capacity) in [
            ("10.8.0.0/24", "10.8.0.1", "10.8.0.2", "10.8.0.254", 253),
            ("192.168.7.4/30", "192.168.7.5", "192.168.7.6", "192.168.7.6", 1),
            ("10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.255.255.254", (1 << 24) - 3),
        ] {
            let subnet: Subnet<Ipv4Addr> = text.parse().unwrap();
            assert_eq!(subnet.to_string(), text);
            assert_eq!(subnet.server().to_string(), server);
            assert_eq!(subnet.first_client().to_string(), first);
            assert_eq!(subnet.last_client().to_string(), last);
            assert_eq!(subnet.capacity(), capacity);
        }
    }

    #[test]
    fn ipv6_leaves_out_anycast_and_server() {
        for (text, server, first, last, capacity) in [
            ("fd00::/64", "fd00::1", "fd00::2", "fd00::ffff:ffff:ffff:ffff", u64::MAX - 1),
            ("fd00::8/125", "fd00::9", "fd00::a", "fd00::f", 6),
        ] {
            let subnet: Subnet<Ipv6Addr> = text.parse().unwrap();
            assert_eq!(subnet.server().to_string(), server);
            assert_eq!(subnet.first_client().to_string(), first);
            assert_eq!(subnet.last_client().to_string(), last);
            assert_eq!(subnet.capacity(), capacity);
        }
    }

    #[test]
    fn refuses_what_no_tunnel_can_have() {
        let v4 = |text: &str| text.parse::<Subnet<Ipv4Addr>>().unwrap_err();
        let v6 = |text: &str| text.parse::<Subnet<Ipv6Addr>>().unwrap_err();
        assert_eq!(v4("10.8.0.1/24"), SubnetError::Cidr(CidrError::HostBits("10.8.0.0/24".parse().unwrap())));
        assert_eq!(v4("8.0.0.0/7"), SubnetError::Prefix(8, 30));
        assert_eq!(v4("10.8.0.0/31"), SubnetError::Prefix(8, 30));
        assert_eq!(v4("fd00::/64"), SubnetError::Family("IPv4"));
        for text in ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/8", "240.0.0.0/8"] {
            assert_eq!(v4(text), SubnetError::NotUnicast, "{text}");
        }
        assert_eq!(v6("fd00::/63"), SubnetError::Prefix(64, 125));
        assert_eq!(v6("fd00::/126"), SubnetError::Prefix(64, 125));
        assert_eq!(v6("10.8.0.0/24"), SubnetError::Family("IPv6"));
        for text in ["::/64", "::ffff:10.8.0.0/120", "fe80::/64", "ff02::/64"] {
            assert_eq!(v6(text), SubnetError::NotUnicast, "{text}");
        }
    }
}
