//! The addresses of interfaces.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rustix::io::Errno;

use super::notice::{Notice, RTM_DELADDR, RTM_NEWADDR};
use super::{Netlink, RTM_GETADDR, emit, failed, is_one_of};
use crate::network::error::NetworkError;

impl Netlink {
    /// Gives an interface an address; the kernel adds the route to its network. One that is there
    /// already is no failure.
    ///
    /// An IPv6 address can be used at once: in a tunnel nobody else can have it.
    pub fn add_address(&self, ifindex: u32, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let mut message = message(ifindex, address, prefix);
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.order(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &emit(&message)).map_err(|source| {
            interface(source, |source| {
                if is_one_of(source, &[Errno::ACCESS]) {
                    format!(
                        "the tunnel address {address}/{prefix} was refused because IPv6 is switched off: \
                         set the sysctl net.ipv6.conf.default.disable_ipv6 to 0"
                    )
                } else {
                    format!("giving the tunnel its address {address}/{prefix} failed")
                }
            })
        })
    }

    /// Takes an address from an interface; one that is gone already is no failure. With its last
    /// address an interface loses its IPv4 routes.
    pub fn delete_address(&self, ifindex: u32, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        match self.order(RTM_DELADDR, 0, &emit(&message(ifindex, address, prefix))) {
            Err(source) if !is_one_of(&source, &[Errno::ADDRNOTAVAIL]) => Err(interface(source, |_| {
                format!("taking the address {address}/{prefix} from the tunnel failed")
            })),
            _ => Ok(()),
        }
    }

    /// Gives an interface the addresses `new` in place of `old`, each with its prefix length, without
    /// a moment at which it has none: its routes stay, and nothing leaves beside the tunnel.
    pub fn replace_addresses(
        &self,
        ifindex: u32,
        old: &[(IpAddr, u8)],
        new: &[(IpAddr, u8)],
    ) -> Result<(), NetworkError> {
        // A second IPv4 address of the same network would hang on the first and go with it. One of
        // a network of its own stands in for it meanwhile.
        let stand_ins: Vec<_> = new.iter().map(|(address, _)| (*address, max_prefix(*address))).collect();
        for (address, prefix) in stand_ins.iter().filter(|(address, _)| address.is_ipv4()) {
            self.add_address(ifindex, *address, *prefix)?;
        }
        for (address, prefix) in old.iter().filter(|kept| !new.contains(kept)) {
            self.delete_address(ifindex, *address, *prefix)?;
        }
        for (address, prefix) in new {
            self.add_address(ifindex, *address, *prefix)?;
        }
        for (address, prefix) in stand_ins.iter().filter(|stand_in| !new.contains(stand_in)) {
            self.delete_address(ifindex, *address, *prefix)?;
        }
        Ok(())
    }

    /// Whether an interface of the host has this address.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn has_address(&self, address: IpAddr) -> Result<bool, NetworkError> {
        let address = address.to_canonical();
        let is_it = |body: &[u8]| match Notice::read(RTM_NEWADDR, body)? {
            Notice::Address { address: found, .. } if found == address => Some(()),
            _ => None,
        };
        let found = self.socket().dump(RTM_GETADDR, &emit(&AddressMessage::default()), is_it);
        found.map(|found| !found.is_empty()).map_err(failed("reading the host's addresses"))
    }
}

/// The interface and network that an `RTM_NEWADDR` tells of.
pub(super) fn parse(body: &[u8]) -> Option<(u32, IpNet)> {
    let message = AddressMessage::parse(body).ok()?;
    // On a point-to-point link it is the peer's address that the prefix belongs to.
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    Some((message.header.index, net.trunc()))
}

fn message(ifindex: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = ifindex;
    message.attributes.push(AddressAttribute::Local(address));
    // Without it a deletion would not look at the prefix length.
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn max_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn interface(source: io::Error, what: impl FnOnce(&io::Error) -> String) -> NetworkError {
    let what = what(&source);
    NetworkError::permission_or(what, source, |what, source| NetworkError::Interface { what, source })
}
