//! What a packet that came out of the tunnel must be before it goes on (PROTOCOL §6): whole, within
//! the tunnel's MTU, and from (at the server) or to (at the client) an address of the session. What is for the server's
//! host itself, or for everybody near it, is no client's to send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::ip::{IpPacket, Malformed};
use super::offload::Record;
use crate::telemetry::DropReason;

/// The check that one session applies to every packet it has opened.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    mtu: u16,
    addresses: Addresses,
}

#[derive(Clone, Copy, Debug)]
enum Addresses {
    Sources { v4: Ipv4Addr, v6: Option<Ipv6Addr> },
    Destinations { v4: Ipv4Net, v6: Option<Ipv6Net> },
}

impl Ingress {
    /// At the server: packets of the client that `v4` and `v6` were assigned to.
    pub fn from_client(mtu: u16, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Self {
        Self { mtu, addresses: Addresses::Sources { v4, v6 } }
    }

    /// At the client: packets to its own addresses, given with the prefix length of their subnet.
    pub fn from_server(mtu: u16, v4: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self { mtu, addresses: Addresses::Destinations { v4, v6 } }
    }

    /// The longest packet that is let pass, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The packet, if it may go on; its offload header can be relied on then.
    pub fn admit<'a>(&self, record: &'a Record<'_>) -> Result<IpPacket<'a>, DropReason> {
        let packet = IpPacket::parse(record.packet)?;
        record.offload.check(&packet, self.mtu)?;
        match self.addresses {
            Addresses::Sources { v4, v6 } => {
                check_source(&packet, v4, v6)?;
                check_reach(&packet)?;
            }
            Addresses::Destinations { v4, v6 } => check_destination(&packet, v4, v6)?,
        }
        Ok(packet)
    }
}

impl From<Malformed> for DropReason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// At the server: a client's packet carries an address that was assigned to it as its source.
/// `::` and link-local sources are no attack (every host emits them) and have a reason of their own.
pub fn check_source(packet: &IpPacket<'_>, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Result<(), DropReason> {
    match packet.src() {
        IpAddr::V4(src) if src == v4 => Ok(()),
        IpAddr::V6(src) if Some(src) == v6 => Ok(()),
        src if emitted_by_any_host(src) => Err(DropReason::LinkLocal),
        _ => Err(DropReason::Spoofed),
    }
}

/// At the server: a client's packet is for one host, and that is none which only its own programs may reach. A host may
/// be told to take the latter from outside too (`route_localnet`, as some container runtimes need it).
pub fn check_reach(packet: &IpPacket<'_>) -> Result<(), DropReason> {
    let dst = packet.dst();
    let is_broadcast = dst == IpAddr::V4(Ipv4Addr::BROADCAST);
    if dst.is_loopback() || dst.is_multicast() || is_broadcast {
        Err(DropReason::Misdirected)
    } else {
        Ok(())
    }
}

/// At the client: a packet of the server is for one of the client's addresses, or for everybody:
/// multicast, and the broadcast address of the tunnel's subnet.
pub fn check_destination(packet: &IpPacket<'_>, v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<(), DropReason> {
    let ours = match packet.dst() {
        IpAddr::V4(dst) => dst == v4.addr() || dst.is_multicast() || is_subnet_broadcast(dst, v4),
        IpAddr::V6(dst) => dst.is_multicast() || v6.is_some_and(|net| net.addr() == dst),
    };
    if ours { Ok(()) } else { Err(DropReason::Misdirected) }
}

fn emitted_by_any_host(src: IpAddr) -> bool {
    match src {
        IpAddr::V4(src) => src.is_link_local(),
        IpAddr::V6(src) => src.is_unspecified() || src.is_unicast_link_local(),
    }
}

/// Subnets of one or two addresses have no broadcast address (RFC 3021).
fn is_subnet_broadcast(dst: Ipv4Addr, net: Ipv4Net) -> bool {
    net.prefix_len() <= 30 && dst == net.broadcast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ip::tests::{v4, v6};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
    const OTHER: [u8; 4] = [192, 0, 2, 1];

    fn refusal(ingress: Ingress, mut bytes: Vec<u8>) -> Option<DropReason> {
        ingress.admit(&bytes.as_mut_slice().into()).err()
    }

    #[test]
    fn the_server_takes_only_the_clients_sources() {
        let both = Ingress::from_client(1420, CLIENT, Some("fd00::2".parse().unwrap()));
        let four = Ingress::from_client(1420, CLIENT, None);
        let from4 = |src| v4(src, OTHER, 17, &[0; 8]);
        let from6 = |src| v6(src, "2001:db8::1", 17, &[0; 8]);
        let table = [
            (both, from4([10, 8, 0, 2]), None),
            (both, from4([10, 8, 0, 3]), Some(DropReason::Spoofed)),
            (both, from4([0, 0, 0, 0]), Some(DropReason::Spoofed)),
            (both, from4([169, 254, 3, 4]), Some(DropReason::LinkLocal)),
            (both, from6("fd00::2"), None),
            (both, from6("fd00::3"), Some(DropReason::Spoofed)),
            (both, from6("::ffff:10.8.0.2"), Some(DropReason::Spoofed)),
            (both, from6("::"), Some(DropReason::LinkLocal)),
            (both, from6("fe80::1"), Some(DropReason::LinkLocal)),
            (both, from6("febf::1"), Some(DropReason::LinkLocal)),
            (both, from6("fec0::1"), Some(DropReason::Spoofed)),
            (four, from6("fd00::2"), Some(DropReason::Spoofed)),
            (four, from6("fe80::1"), Some(DropReason::LinkLocal)),
        ];
        for (ingress, bytes, expected) in table {
            assert_eq!(
                refusal(ingress, bytes.clone()),
                expected,
                "{:?}",
                IpPacket::parse(&bytes).unwrap().src()
            );
        }
    }

    #[test]
    fn a_client_sends_to_single_hosts_and_not_to_what_is_the_servers_own() {
        let both = Ingress::from_client(1420, CLIENT, Some("fd00::2".parse().unwrap()));
        let to4 = |dst| v4(CLIENT.octets(), dst, 17, &[0; 8]);
        let to6 = |dst| v6("fd00::2", dst, 17, &[0; 8]);
        let table = [
            (to4(OTHER), true),
            (to4([10, 8, 0, 1]), true),
            (to4([126, 255, 255, 255]), true),
            (to4([127, 0, 0, 1]), false),
            (to4([127, 255, 255, 255]), false),
            (to4([224, 0, 0, 251]), false),
            (to4([239, 255, 255, 255]), false),
            (to4([255, 255, 255, 255]), false),
            (to6("2001:db8::1"), true),
            (to6("::1"), false),
            (to6("ff02::1"), false),
            (to6("ff0e::1"), false),
        ];
        for (bytes, admitted) in table {
            let expected = (!admitted).then_some(DropReason::Misdirected);
            assert_eq!(
                refusal(both, bytes.clone()),
                expected,
                "{:?}",
                IpPacket::parse(&bytes).unwrap().dst()
            );
        }
        let spoofed = v4([10, 8, 0, 3], [127, 0, 0, 1], 17, &[]);
        assert_eq!(refusal(both, spoofed), Some(DropReason::Spoofed), "the source is looked at first");
    }

    #[test]
    fn the_client_takes_only_what_is_for_it() {
        let net = "10.8.0.2/24".parse().unwrap();
        let both = Ingress::from_server(1420, net, Some("fd00::2/64".parse().unwrap()));
        let four = Ingress::from_server(1420, net, None);
        let to4 = |dst| v4(OTHER, dst, 17, &[0; 8]);
        let to6 = |dst| v6("2001:db8::1", dst, 17, &[0; 8]);
        let table = [
            (both, to4([10, 8, 0, 2]), true),
            (both, to4([10, 8, 0, 3]), false),
            (both, to4([10, 8, 0, 0]), false),
            (both, to4([10, 8, 0, 255]), true),
            (both, to4([10, 8, 1, 255]), false),
            (both, to4([255, 255, 255, 255]), false),
            (both, to4([224, 0, 0, 251]), true),
            (both, to4([239, 255, 255, 255]), true),
            (both, to6("fd00::2"), true),
            (both, to6("fd00::3"), false),
            (both, to6("ff02::1"), true),
            (both, to6("fe80::1"), false),
            (four, to6("fd00::2"), false),
            (four, to6("ff02::1"), true),
        ];
        for (ingress, bytes, admitted) in table {
            let expected = (!admitted).then_some(DropReason::Misdirected);
            assert_eq!(
                refusal(ingress, bytes.clone()),
                expected,
                "{:?}",
                IpPacket::parse(&bytes).unwrap().dst()
            );
        }
    }

    #[test]
    fn tiny_subnets_have_no_broadcast_address() {
        let ingress = Ingress::from_server(1420, "10.8.0.2/31".parse().unwrap(), None);
        assert_eq!(refusal(ingress, v4(OTHER, [10, 8, 0, 3], 17, &[])), Some(DropReason::Misdirected));
    }

    #[test]
    fn the_mtu_is_the_last_length_admitted() {
        let ingress = Ingress::from_client(1420, CLIENT, None);
        let of = |length: usize| v4(CLIENT.octets(), OTHER, 17, &vec![0; length - 20]);
        assert_eq!(refusal(ingress, of(1420)), None);
        assert_eq!(refusal(ingress, of(1421)), Some(DropReason::Malformed));
    }

    #[test]
    fn what_is_no_packet_is_malformed() {
        let ingress = Ingress::from_client(1420, CLIENT, None);
        assert_eq!(refusal(ingress, vec![]), Some(DropReason::Malformed));
        assert_eq!(refusal(ingress, vec![0x45; 20]), Some(DropReason::Malformed));
    }
}
