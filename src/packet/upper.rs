//! Where an IP packet's upper-layer header is: behind the IPv4 options or IPv6 extension headers.

/// Extension headers that are walked over at most. Each kind occurs once in a sane packet (RFC 8200
/// §4.1, with authentication six), so a longer chain is somebody's experiment.
pub(super) const MAX_EXTENSIONS: usize = 8;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// The header behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// Its protocol number.
    pub(super) protocol: u8,
    /// Where it begins, or in a later fragment would have; within the packet or at its end.
    pub(super) offset: usize,
    pub(super) fragment: Fragment,
    /// An authentication header (RFC 4302) comes before it, so that no byte may be changed.
    pub(super) is_authenticated: bool,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// All of it.
    Whole,
    /// The part with the upper-layer header.
    First,
    /// A part without it.
    Later,
}

impl Fragment {
    fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// Finds the upper-layer header; none where the bytes end before it or the chain is too long.
pub(super) fn upper_layer(packet: &[u8]) -> Option<Upper> {
    match packet.first()? >> 4 {
        4 => of_ipv4(packet),
        6 => of_ipv6(packet),
        _ => None,
    }
}

/// Whether an IPv6 next-header value is that of an extension header.
#[inline]
pub(super) fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// What follows the extension header that `bytes` begin with: its protocol and the rest. `None` where it is
/// none, or cut short; every one has at least eight bytes.
#[inline]
pub(super) fn extension(protocol: u8, bytes: &[u8]) -> Option<(u8, &[u8])> {
    if !is_extension(protocol) {
        return None;
    }
    let &[next, length] = bytes.first_chunk()?;
    let length = match protocol {
        FRAGMENT => 8,
        AUTHENTICATION => (usize::from(length) + 2) * 4,
        _ => (usize::from(length) + 1) * 8,
    };
    Some((next, bytes.get(length..)?))
}

fn of_ipv4(packet: &[u8]) -> Option<Upper> {
    let header = packet.first_chunk::<IPV4_HEADER>()?;
    let offset = usize::from(header[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let fragment = Fragment::of(fragment & 0x1fff, fragment & 0x2000 != 0);
    (offset >= IPV4_HEADER && offset <= packet.len()).then_some(Upper {
        protocol: header[9],
        offset,
        fragment,
        is_authenticated: header[9] == AUTHENTICATION,
    })
}

fn of_ipv6(packet: &[u8]) -> Option<Upper> {
    let mut protocol = packet.first_chunk::<IPV6_HEADER>()?[6];
    let mut offset = IPV6_HEADER;
    let mut fragment = Fragment::Whole;
    let mut is_authenticated = false;
    for _ in 0..=MAX_EXTENSIONS {
        if !is_extension(protocol) {
            return Some(Upper { protocol, offset, fragment, is_authenticated });
        }
        is_authenticated |= protocol == AUTHENTICATION;
        let header = packet.get(offset..)?;
        let (next, rest) = extension(protocol, header)?;
        if protocol == FRAGMENT {
            let field = u16::from_be_bytes([header[2], header[3]]);
            fragment = Fragment::of(field >> 3, field & 1 != 0);
        }
        (protocol, offset) = (next, packet.len() - rest.len());
        if fragment == Fragment::Later {
            // What follows is from the middle of the datagram.
            return Some(Upper { protocol, offset, fragment, is_authenticated });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fragment, MAX_EXTENSIONS, TCP, Upper, upper_layer};
    use crate::packet::ip::tests::{v4, v6};

    fn found(packet: &[u8]) -> Option<(u8, usize, Fragment)> {
        upper_layer(packet).map(|Upper { protocol, offset, fragment, .. }| (protocol, offset, fragment))
    }

    fn chain(headers: &[(u8, Vec<u8>)], last: u8) -> Vec<u8> {
        let next = |index: usize| headers.get(index).map_or(last, |(kind, _)| *kind);
        let mut payload = Vec::new();
        for (index, (_, body)) in headers.iter().enumerate() {
            payload.push(next(index + 1));
            payload.extend_from_slice(body);
        }
        payload.extend_from_slice(&[0; 20]);
        v6("fd00::2", "2001:db8::1", next(0), &payload)
    }

    #[test]
    fn walks_over_options_and_extension_headers() {
        let mut options = v4([10, 8, 0, 2], [192, 0, 2, 1], TCP, &[0; 60]);
        options[0] = 0x4f;
        assert_eq!(found(&options), Some((TCP, 60, Fragment::Whole)));

        // Hop-by-hop of 8, routing of 24, authentication of 24, destination options of 16 bytes.
        let headers = [
            (0, vec![0; 7]),
            (43, [vec![2], vec![0; 22]].concat()),
            (51, [vec![4], vec![0; 22]].concat()),
            (60, [vec![1], vec![0; 14]].concat()),
        ];
        assert_eq!(found(&chain(&headers, TCP)), Some((TCP, 40 + 72, Fragment::Whole)));
    }

    #[test]
    fn tells_fragments_apart() {
        let four = |high: u8, low: u8| {
            let mut packet = v4([10, 8, 0, 2], [192, 0, 2, 1], 17, &[0; 8]);
            (packet[6], packet[7]) = (high, low);
            found(&packet).unwrap().2
        };
        let six = |high: u8, low: u8| {
            let fragment = vec![0, high, low, 0, 0, 0, 1];
            found(&chain(&[(44, fragment)], 17)).unwrap()
        };
        assert_eq!(four(0x40, 0), Fragment::Whole);
        assert_eq!(four(0x20, 0), Fragment::First);
        assert_eq!(four(0x20, 1), Fragment::Later);
        assert_eq!(four(0, 185), Fragment::Later);
        assert_eq!(six(0, 0), (17, 48, Fragment::Whole));
        assert_eq!(six(0, 1), (17, 48, Fragment::First));
        assert_eq!(six(0, 8), (17, 48, Fragment::Later));
        assert_eq!(six(5, 0xa9), (17, 48, Fragment::Later));
    }

    #[test]
    fn gives_up_on_what_has_no_end() {
        let endless = vec![(60, vec![0; 7]); MAX_EXTENSIONS + 1];
        assert_eq!(found(&chain(&endless, TCP)), None);
        assert_eq!(found(&chain(&endless[1..], TCP)), Some((TCP, 40 + 64, Fragment::Whole)));
        let beyond = (60, [vec![255], vec![0; 6]].concat());
        assert_eq!(found(&chain(&[beyond], TCP)), None);
    }

    proptest! {
        #[test]
        fn stays_within_any_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300), six: bool, next in 0..4_usize,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { 0x40 | (*first & 0x0f) };
            }
            if let Some(kind) = bytes.get_mut(6) {
                *kind = [0, 43, 44, 60][next];
            }
            if let Some(upper) = upper_layer(&bytes) {
                prop_assert!(upper.offset <= bytes.len());
            }
        }
    }
}
