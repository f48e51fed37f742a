//! What the kernel tells, unasked or in a dump, of interfaces, addresses and routes (rtnetlink(7)).

use std::net::IpAddr;

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::RouteFlags;

use super::attribute::{attributes, find_attribute};
use super::route::{LOCAL, PROTOCOL};
use super::socket::{HEADER_LEN, NLMSG_OVERRUN};
use super::{RTM_DELROUTE, RTM_NEWROUTE};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;

/// The types of a route that follow from an address: local, broadcast, anycast, multicast.
const RTN_OF_ADDRESSES: std::ops::RangeInclusive<u8> = 2..=5;

/// Lengths of `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK_LEN: usize = 16;
const ADDRESS_LEN: usize = 8;
const ROUTE_LEN: usize = 12;

/// The flags of an interface that say whether packets can leave by it: switched on, in operation, with a
/// carrier.
const LINK_STATE: LinkFlags = LinkFlags::Up.union(LinkFlags::Running).union(LinkFlags::LowerUp);

/// An address with one of these cannot be sent from, unless it is optimistic.
const UNUSABLE: AddressFlags = AddressFlags::Tentative.union(AddressFlags::Dadfailed);

/// One message, as far as it can concern the way to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) enum Notice {
    /// An interface as it is now.
    Link {
        /// Its index.
        ifindex: u32,
        /// Which of the flags it has that say whether packets can leave by it.
        state: u32,
    },
    /// An address of an interface as it is now.
    Address {
        /// The interface's index.
        ifindex: u32,
        /// The host's own end.
        address: IpAddr,
        /// The length of its network's prefix.
        prefix: u8,
        /// Whether it is deprecated; nothing if it is gone, or not to be sent from.
        state: Option<bool>,
    },
    /// A route was set or taken away, other than those that follow from an address.
    Route {
        /// The one interface it leads out of; absent for several and for none.
        ifindex: Option<u32>,
        /// Whether one of our instances has set it just now.
        set_by_us: bool,
    },
    /// It was cut short, or others were lost: anything may have happened.
    Unclear,
}

impl Notice {
    /// Reads a message by its type; nothing for one that cannot concern the way to another host.
    pub(super) fn read(kind: u16, body: &[u8]) -> Option<Self> {
        let notice = match kind {
            RTM_NEWLINK | RTM_DELLINK => read_link(kind, body),
            RTM_NEWADDR | RTM_DELADDR => read_address(kind, body),
            RTM_NEWROUTE | RTM_DELROUTE => read_route(kind, body),
            NLMSG_OVERRUN => None,
            _ => return None,
        };
        notice.unwrap_or(Some(Self::Unclear))
    }
}

/// What the messages of one datagram tell. After one that is cut short nothing can be read.
pub(in crate::network) fn notices(mut datagram: &[u8]) -> impl Iterator<Item = Notice> {
    std::iter::from_fn(move || {
        while !datagram.is_empty() {
            let Some((kind, body, rest)) = split_message(datagram) else {
                datagram = &[];
                return Some(Notice::Unclear);
            };
            datagram = rest;
            if let Some(notice) = Notice::read(kind, body) {
                return Some(notice);
            }
        }
        None
    })
}

/// The first message's type and body, and what follows it.
fn split_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let message = NetlinkBuffer::new_checked(datagram).ok()?;
    let length = usize::try_from(message.length()).ok()?;
    let body = datagram.get(HEADER_LEN..length)?;
    // Messages are aligned to four bytes.
    let rest = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message.message_type(), body, rest))
}

// Each of the readers below gives nothing for a message that is cut short, and nothing inside for one that
// is of no concern.

fn read_link(kind: u16, body: &[u8]) -> Option<Option<Notice>> {
    let header = body.first_chunk::<LINK_LEN>()?;
    let [family, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    // A bridge tells of its ports by the same messages in its own family.
    if family != 0 {
        return Some(None);
    }
    let flags = if kind == RTM_NEWLINK { u32::from_ne_bytes([f0, f1, f2, f3]) } else { 0 };
    let ifindex = u32::from_ne_bytes([i0, i1, i2, i3]);
    Some(Some(Notice::Link { ifindex, state: flags & LINK_STATE.bits() }))
}

fn read_address(kind: u16, body: &[u8]) -> Option<Option<Notice>> {
    let (header, attributes) = body.split_first_chunk::<ADDRESS_LEN>()?;
    let [_, prefix, flags, _, i0, i1, i2, i3] = *header;
    // On a point-to-point link the other one is the peer's.
    let address =
        find_attribute(attributes, IFA_LOCAL).or_else(|| find_attribute(attributes, IFA_ADDRESS))?;
    let flags = find_attribute(attributes, IFA_FLAGS).map_or(Some(u32::from(flags)), number)?;
    let flags = AddressFlags::from_bits_retain(flags);
    let usable = !flags.intersects(UNUSABLE) || flags.contains(AddressFlags::Optimistic);
    let state = (kind == RTM_NEWADDR && usable).then_some(flags.contains(AddressFlags::Deprecated));
    let ifindex = u32::from_ne_bytes([i0, i1, i2, i3]);
    Some(Some(Notice::Address { ifindex, address: ip(address)?, prefix, state }))
}

fn read_route(kind: u16, body: &[u8]) -> Option<Option<Notice>> {
    let (header, rest) = body.split_first_chunk::<ROUTE_LEN>()?;
    let [_, _, _, _, table, protocol, _, route_type, f0, f1, f2, f3] = *header;
    let flags = RouteFlags::from_bits_retain(u32::from_ne_bytes([f0, f1, f2, f3]));
    let (mut table, mut ifindex) = (u32::from(table), None);
    for attribute in attributes(rest) {
        match attribute.kind {
            RTA_TABLE => table = number(attribute.value)?,
            RTA_OIF => ifindex = Some(number(attribute.value)?),
            _ => {}
        }
    }
    // The addresses are told of by themselves; a cloned entry is a cache's.
    if table == LOCAL || RTN_OF_ADDRESSES.contains(&route_type) || flags.contains(RouteFlags::Cloned) {
        return Some(None);
    }
    let set_by_us = kind == RTM_NEWROUTE && protocol == PROTOCOL;
    Some(Some(Notice::Route { ifindex, set_by_us }))
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: u32 = 0x1;
    const RUNNING: u32 = 0x40;
    const LOWER_UP: u32 = 0x1_0000;
    const PROMISC: u32 = 0x100;

    /// A message with its header.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn link(kind: u16, family: u8, ifindex: u32, flags: u32) -> Vec<u8> {
        let mut body = vec![family, 0, 1, 0];
        body.extend([ifindex, flags, 0].iter().flat_map(|field| field.to_ne_bytes()));
        body.extend(attribute(3, b"eth0\0\0\0\0"));
        message(kind, &body)
    }

    fn address(kind: u16, ifindex: u32, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![2, 24, flags as u8, 0];
        body.extend(ifindex.to_ne_bytes());
        attributes.iter().for_each(|attribute| body.extend(attribute));
        message(kind, &body)
    }

    fn route(kind: u16, table: u8, protocol: u8, route_type: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0, table, protocol, 0, route_type, 0, 0, 0, 0];
        attributes.iter().for_each(|attribute| body.extend(attribute));
        message(kind, &body)
    }

    fn read(datagram: &[u8]) -> Vec<Notice> {
        notices(datagram).collect()
    }

    fn told(ifindex: u32, state: Option<bool>) -> Notice {
        Notice::Address { ifindex, address: [192, 0, 2, 2].into(), prefix: 24, state }
    }

    #[test]
    fn interfaces_are_told_with_what_lets_packets_leave() {
        let all = UP | RUNNING | LOWER_UP;
        assert_eq!(
            read(&link(RTM_NEWLINK, 0, 7, all | PROMISC)),
            [Notice::Link { ifindex: 7, state: all }],
            "no other flag counts"
        );
        assert_eq!(read(&link(RTM_NEWLINK, 0, 7, UP)), [Notice::Link { ifindex: 7, state: UP }]);
        assert_eq!(read(&link(RTM_DELLINK, 0, 7, all)), [Notice::Link { ifindex: 7, state: 0 }]);
        assert_eq!(read(&link(RTM_DELLINK, 7, 7, all)), [], "it has left a bridge only");
    }

    #[test]
    fn addresses_are_told_with_whether_one_can_send_from_them() {
        let own = attribute(IFA_LOCAL, &[192, 0, 2, 2]);
        let peer = attribute(IFA_ADDRESS, &[192, 0, 2, 1]);
        let state = |flags: u32| {
            let flags = attribute(IFA_FLAGS, &flags.to_ne_bytes());
            read(&address(RTM_NEWADDR, 3, 0, &[peer.clone(), own.clone(), flags]))
        };
        assert_eq!(state(0x80), [told(3, Some(false))]);
        assert_eq!(state(0x80 | 0x20), [told(3, Some(true))], "deprecated");
        assert_eq!(state(0x40), [told(3, None)], "tentative");
        assert_eq!(state(0x40 | 0x04), [told(3, Some(false))], "optimistic");
        assert_eq!(state(0x40 | 0x08), [told(3, None)], "somebody else has it");
        // Without the attribute the header's flags count, and an address without a peer may stand alone.
        let alone = attribute(IFA_ADDRESS, &[192, 0, 2, 2]);
        assert_eq!(read(&address(RTM_NEWADDR, 3, 0x20, &[alone])), [told(3, Some(true))]);
        assert_eq!(read(&address(RTM_DELADDR, 3, 0x80, &[peer, own])), [told(3, None)]);
    }

    #[test]
    fn routes_are_told_with_their_interface_and_maker() {
        let out = attribute(RTA_OIF, &5_u32.to_ne_bytes());
        let set = |table, protocol, route_type| {
            read(&route(RTM_NEWROUTE, table, protocol, route_type, std::slice::from_ref(&out)))
        };
        let one = |set_by_us| [Notice::Route { ifindex: Some(5), set_by_us }];
        assert_eq!(set(254, 4, 1), one(false));
        assert_eq!(set(254, PROTOCOL, 1), one(true));
        assert_eq!(
            read(&route(RTM_DELROUTE, 254, PROTOCOL, 1, std::slice::from_ref(&out))),
            one(false),
            "others may take it"
        );
        assert_eq!(
            read(&route(RTM_NEWROUTE, 254, 4, 7, &[])),
            [Notice::Route { ifindex: None, set_by_us: false }]
        );
        for (table, route_type) in [(255, 1), (254, 2), (254, 3), (254, 4), (254, 5)] {
            assert_eq!(set(table, 2, route_type), [], "{route_type} in {table}");
        }
        let wide = attribute(RTA_TABLE, &51_820_u32.to_ne_bytes());
        assert_eq!(read(&route(RTM_NEWROUTE, 252, 4, 1, &[wide])).len(), 1);
    }

    #[test]
    fn the_messages_of_a_datagram_are_told_one_by_one() {
        let noise = message(28, &[0; 12]);
        let lost = message(NLMSG_OVERRUN, &[]);
        let datagram = [link(RTM_NEWLINK, 0, 2, UP), noise, lost, link(RTM_DELLINK, 0, 3, 0)].concat();
        assert_eq!(
            read(&datagram),
            [Notice::Link { ifindex: 2, state: UP }, Notice::Unclear, Notice::Link { ifindex: 3, state: 0 },]
        );
        assert_eq!(read(&[]), []);
    }

    #[test]
    fn what_is_cut_short_is_unclear() {
        let out = attribute(RTA_OIF, &5_u32.to_ne_bytes());
        let whole = [
            link(RTM_NEWLINK, 0, 2, UP),
            address(RTM_NEWADDR, 3, 0, &[attribute(IFA_LOCAL, &[192, 0, 2, 2])]),
            route(RTM_NEWROUTE, 254, 4, 1, &[out]),
        ];
        for whole in &whole {
            assert!(!read(whole).contains(&Notice::Unclear));
            for cut in 1..whole.len() {
                assert_eq!(read(&whole[..cut]), [Notice::Unclear], "the datagram was cut at {cut}");
            }
        }
        for kind in [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE] {
            assert_eq!(read(&message(kind, &[0; 7])), [Notice::Unclear], "the message {kind} is short");
        }
        let odd = attribute(IFA_LOCAL, &[192, 0, 2]);
        assert_eq!(read(&address(RTM_NEWADDR, 3, 0, &[odd])), [Notice::Unclear]);
        assert_eq!(read(&address(RTM_NEWADDR, 3, 0, &[])), [Notice::Unclear]);
        assert_eq!(read(&route(RTM_NEWROUTE, 254, 4, 1, &[attribute(RTA_OIF, &[5])])), [Notice::Unclear]);
        // A length that is shorter than the header, after a good message.
        let datagram = [link(RTM_NEWLINK, 0, 2, UP), [15, 0, 0, 0].repeat(8)].concat();
        assert_eq!(read(&datagram), [Notice::Link { ifindex: 2, state: UP }, Notice::Unclear]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // A message takes four bytes at least, so that the reading ends.
            prop_assert!(notices(&bytes).count() <= bytes.len() / 4 + 1);
        }

        #[test]
        fn any_body_is_read_without_a_panic(
            kind in 0_u16..40,
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(notices(&message(kind, &body)).count() <= 1);
        }
    }
}
