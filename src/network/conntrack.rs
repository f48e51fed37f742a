//! The kernel's connection tracking, over `NETLINK_NETFILTER` (`ctnetlink`).

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::netlink::{KernelSocket, attributes, find_attribute, is_one_of};

/// Message types are the subsystem (`NFNL_SUBSYS_CTNETLINK`, 1) and the operation within it.
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;

/// The address families of `struct nfgenmsg`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of a `struct nfgenmsg`: family, version, resource.
const GENERIC_LEN: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
/// Source and destination of both families.
const CTA_IP: std::ops::RangeInclusive<u16> = 1..=4;

/// Deletes the connection-tracking entries of one tunnel address, and returns how many there were.
///
/// An entry is the address's if the address begins the connection or is at its other end, before or
/// after translation. With its entry a connection loses its translation: whoever gets the address
/// next gets none of its predecessor's packets.
pub async fn delete_conntrack(address: IpAddr) -> io::Result<usize> {
    spawn_blocking(move || delete_now(address)).await.map_err(io::Error::other)?
}

fn delete_now(address: IpAddr) -> io::Result<usize> {
    let mut socket = KernelSocket::open(NETLINK_NETFILTER)?;
    let header = generic_header(address);
    let entries = socket.dump(CT_GET, &header, |body| identify(body, address))?;
    let mut deleted = 0;
    for entry in entries {
        match socket.call(CT_DELETE, 0, &[header.as_slice(), &entry].concat(), |_, _| {}) {
            Ok(()) => deleted += 1,
            // It expired in between.
            Err(error) if is_one_of(&error, &[Errno::NOENT]) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

fn generic_header(address: IpAddr) -> [u8; GENERIC_LEN] {
    [if address.is_ipv4() { AF_INET } else { AF_INET6 }, 0, 0, 0]
}

/// The attributes that name an entry for its deletion, if it is the address's: its original tuple,
/// its zone, and its id, so that no newer entry of the same tuple is meant.
fn identify(body: &[u8], address: IpAddr) -> Option<Vec<u8>> {
    let entry = body.get(GENERIC_LEN..)?;
    let is_its = [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY]
        .into_iter()
        .filter_map(|tuple| find_attribute(entry, tuple))
        .filter_map(|tuple| find_attribute(tuple, CTA_TUPLE_IP))
        .any(|ends| attributes(ends).any(|end| CTA_IP.contains(&end.kind) && is_address(end.value, address)));
    if !is_its {
        return None;
    }
    let mut name = Vec::new();
    for attribute in attributes(entry) {
        if matches!(attribute.kind, CTA_TUPLE_ORIG | CTA_ZONE | CTA_ID) {
            name.extend_from_slice(attribute.whole);
            name.resize(name.len().next_multiple_of(4), 0);
        }
    }
    Some(name)
}

fn is_address(bytes: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => bytes == address.octets(),
        IpAddr::V6(address) => bytes == address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        const NESTED: u16 = 0x8000;
        let ends = [attribute(1, &source), attribute(2, &destination)].concat();
        let protocol = attribute(NESTED | 2, &attribute(1, &[17]));
        attribute(NESTED | kind, &[attribute(NESTED | CTA_TUPLE_IP, &ends), protocol].concat())
    }

    /// 10.8.0.2 → 192.0.2.9, masqueraded as 192.0.2.1.
    fn entry() -> Vec<u8> {
        let generic = vec![AF_INET, 0, 0, 0];
        let original = tuple(CTA_TUPLE_ORIG, [10, 8, 0, 2], [192, 0, 2, 9]);
        let reply = tuple(CTA_TUPLE_REPLY, [192, 0, 2, 9], [192, 0, 2, 1]);
        let mark = attribute(8, &[0; 4]);
        let id = attribute(CTA_ID, &[1, 2, 3, 4]);
        [generic, original, reply, mark, id].concat()
    }

    #[test]
    fn an_entry_is_named_by_its_original_tuple_and_id() {
        let expected =
            [tuple(CTA_TUPLE_ORIG, [10, 8, 0, 2], [192, 0, 2, 9]), attribute(CTA_ID, &[1, 2, 3, 4])].concat();
        assert_eq!(identify(&entry(), [10, 8, 0, 2].into()), Some(expected));
    }

    #[test]
    fn either_end_of_either_tuple_counts_and_no_other() {
        for end in [[192, 0, 2, 9], [192, 0, 2, 1]] {
            assert!(identify(&entry(), end.into()).is_some(), "{end:?}");
        }
        for other in ["10.8.0.3", "10.8.0.20", "0.0.0.0", "::10.8.0.2"] {
            assert_eq!(identify(&entry(), other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_malformed_entry_is_passed_over() {
        let whole = entry();
        for length in 0..32 {
            assert_eq!(identify(&whole[..length], [10, 8, 0, 2].into()), None);
        }
    }
}
