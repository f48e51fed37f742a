//! Keeps TCP segments within the tunnel's MTU by what both ends of a connection announce.
//!
//! Path MTU discovery would find the same size, but after a lost packet for each connection, and not
//! at all where a firewall on the way eats ICMP.

use super::checksum;
use super::header::SYN;
use super::offload::{Offload, Record};
use super::segment::complete_checksum;
use super::upper::{Fragment, TCP, is_extension, upper_layer};

/// IP and TCP headers without options, which is what an MSS leaves room for (RFC 6691).
const IPV4_HEADERS: u16 = 20 + 20;
const IPV6_HEADERS: u16 = 40 + 20;

const TCP_HEADER: usize = 20;
const CHECKSUM: usize = 16;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: usize = 4;

/// Lowers the maximum segment size that a SYN or SYN-ACK announces to what fits a packet of `mtu`
/// bytes, and mends its checksum, in place.
///
/// Everything else is left alone: other packets, fragments, what is authenticated (RFC 4302), a smaller
/// announcement, none at all (it means 536 or 1,220, which every tunnel takes), and options that are
/// malformed from there on. A checksum that was wrong stays wrong. The checksum must be a complete one.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) {
    let Some(tcp) = synchronising(packet) else { return };
    let headers = if packet[0] >> 4 == 4 { IPV4_HEADERS } else { IPV6_HEADERS };
    clamp_options(&mut packet[tcp..], mtu.saturating_sub(headers));
}

/// As [`clamp_mss`], of a packet whose checksum may be partial; a SYN's is completed. Super-packets have no
/// SYN.
pub fn clamp_record(record: &mut Record<'_>, mtu: u16) {
    if record.offload.is_super() {
        return;
    }
    if record.offload.needs_checksum() && synchronising(record.packet).is_some() {
        complete_checksum(record.packet, record.offload);
        record.offload = Offload::NONE;
    }
    clamp_mss(record.packet, mtu);
}

/// Where the TCP header of a packet with SYN begins; all of it but its options is within the packet.
fn synchronising(packet: &[u8]) -> Option<usize> {
    // The first bytes tell nearly every packet.
    let tcp = match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP => usize::from(packet[0] & 0x0f) * 4,
        6 => match *packet.get(6)? {
            TCP => 40,
            next_header if is_extension(next_header) => upper_layer(packet)?.offset,
            _ => return None,
        },
        _ => return None,
    };
    if packet.get(tcp + 13)? & SYN == 0 {
        return None;
    }
    let upper = upper_layer(packet).filter(|upper| upper.protocol == TCP)?;
    let whole = upper.fragment == Fragment::Whole && packet.len() - upper.offset >= TCP_HEADER;
    (whole && !upper.is_authenticated).then_some(upper.offset)
}

/// `segment` begins with a whole TCP header without options.
fn clamp_options(segment: &mut [u8], most: u16) {
    let header_length = usize::from(segment[12] >> 4) * 4;
    if header_length > segment.len() {
        return;
    }
    let mut at = TCP_HEADER;
    while at < header_length {
        let length = match segment[at] {
            END_OF_OPTIONS => return,
            NO_OPERATION => 1,
            kind => {
                let length = segment.get(at + 1).map_or(0, |length| usize::from(*length));
                if length < 2 || at + length > header_length {
                    return;
                }
                if kind == MSS && length == MSS_LENGTH {
                    lower(segment, at + 2, most);
                }
                length
            }
        };
        at += length;
    }
}

/// Lowers the value at `at`, which is within the segment, and mends the checksum.
fn lower(segment: &mut [u8], at: usize, most: u16) {
    let announced = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if announced <= most {
        return;
    }
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // Behind an odd number of no-operations, the value lies across two words of the sum.
    let (old, new) = match at % 2 {
        0 => (announced, most),
        _ => (announced.swap_bytes(), most.swap_bytes()),
    };
    let sum = u16::from_be_bytes([segment[CHECKSUM], segment[CHECKSUM + 1]]);
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum::updated(sum, old, new).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::TcpOptionElement::{self, MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted};
    use etherparse::{
        IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
        Ipv6Header, Ipv6RawExtHeader, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader,
    };
    use proptest::prelude::*;

    use super::clamp_mss;

    fn ipv4(options: &[u8]) -> IpHeaders {
        let header = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 8, 0, 2], [192, 0, 2, 1]).unwrap();
        IpHeaders::Ipv4(Ipv4Header { options: options.try_into().unwrap(), ..header }, Default::default())
    }

    fn ipv6(extensions: Ipv6Extensions) -> IpHeaders {
        let header =
            Ipv6Header { source: [0xfd; 16], destination: [0x20; 16], hop_limit: 64, ..Default::default() };
        IpHeaders::Ipv6(header, extensions)
    }

    fn every_ip() -> [IpHeaders; 4] {
        let options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 14]).unwrap();
        let extensions = Ipv6Extensions {
            hop_by_hop_options: Some(options.clone()),
            destination_options: Some(options),
            ..Default::default()
        };
        [ipv4(&[]), ipv4(&[1; 8]), ipv6(Ipv6Extensions::default()), ipv6(extensions)]
    }

    fn synchronise(ack: bool, options: &[TcpOptionElement]) -> TcpHeader {
        let mut tcp = TcpHeader { syn: true, ack, ..TcpHeader::new(40_000, 443, 0x1234_5678, 64_000) };
        tcp.set_options(options).unwrap();
        tcp
    }

    fn packet(ip: IpHeaders, tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ip(ip).tcp_header(tcp).write(&mut bytes, payload).unwrap();
        bytes
    }

    /// What is announced, if the checksum is right.
    fn announced(packet: &[u8]) -> Option<u16> {
        let parsed = PacketHeaders::from_ip_slice(packet).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = parsed.transport else { panic!("no TCP in {packet:?}") };
        let payload = parsed.payload.slice();
        let checksum = match &parsed.net {
            Some(NetHeaders::Ipv4(ip, _)) => tcp.calc_checksum_ipv4(ip, payload),
            Some(NetHeaders::Ipv6(ip, _)) => tcp.calc_checksum_ipv6(ip, payload),
            _ => panic!("no IP in {packet:?}"),
        };
        assert_eq!(Ok(tcp.checksum), checksum);
        tcp.options_iterator().flatten().find_map(|option| match option {
            MaximumSegmentSize(size) => Some(size),
            _ => None,
        })
    }

    fn is_left_alone(mut packet: Vec<u8>) -> bool {
        let before = packet.clone();
        clamp_mss(&mut packet, 1420);
        packet == before
    }

    #[test]
    fn a_syn_announces_what_fits_the_tunnel() {
        for ip in every_ip() {
            let headers = if matches!(ip, IpHeaders::Ipv4(..)) { 40 } else { 60 };
            for mtu in [576, 1280, 1420, 1500, 65_535] {
                for (size, ack) in
                    [(536, false), (1220, true), (1360, false), (1380, true), (1460, false), (65_535, true)]
                {
                    let tcp =
                        synchronise(ack, &[MaximumSegmentSize(size), SelectiveAcknowledgementPermitted]);
                    let mut bytes = packet(ip.clone(), tcp, &[7; 5]);
                    clamp_mss(&mut bytes, mtu);
                    assert_eq!(announced(&bytes), Some(size.min(mtu - headers)), "{size} into {mtu}");
                }
            }
        }
    }

    #[test]
    fn the_option_may_begin_at_any_byte() {
        for before in 0..8 {
            let options = [vec![Noop; before], vec![MaximumSegmentSize(0xabcd)]].concat();
            for ip in every_ip() {
                let mut bytes = packet(ip, synchronise(false, &options), &[]);
                clamp_mss(&mut bytes, 1420);
                assert!(announced(&bytes).unwrap() <= 1380, "behind {before} bytes");
            }
        }
    }

    #[test]
    fn what_is_authenticated_is_left_alone() {
        let auth = IpAuthHeader::new(IpNumber::TCP, 1, 1, &[7; 12]).unwrap();
        let extensions = Ipv6Extensions { auth: Some(auth), ..Default::default() };
        let tcp = synchronise(false, &[MaximumSegmentSize(1460)]);
        assert!(is_left_alone(packet(ipv6(extensions), tcp, &[])));
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut bytes = packet(ipv4(&[]), synchronise(false, &[MaximumSegmentSize(1460)]), &[]);
        bytes[20 + 17] ^= 1;
        clamp_mss(&mut bytes, 1420);
        bytes[20 + 17] ^= 1;
        assert_eq!(announced(&bytes), Some(1380));
    }

    #[test]
    fn leaves_other_packets_alone() {
        let large = [MaximumSegmentSize(1460)];
        assert!(!is_left_alone(packet(ipv4(&[]), synchronise(false, &large), &[])));

        let later = TcpHeader { syn: false, ..synchronise(true, &large) };
        assert!(is_left_alone(packet(ipv4(&[]), later, &[0; 100])), "no SYN");
        assert!(is_left_alone(packet(ipv4(&[]), synchronise(false, &[]), &[])), "no announcement");
        let mut udp = Vec::new();
        PacketBuilder::ip(ipv4(&[])).udp(2, 2).write(&mut udp, &[2; 40]).unwrap();
        assert!(is_left_alone(udp), "not TCP");

        for (more, offset) in [(true, 0), (true, 3), (false, 3)] {
            let fragment_offset = IpFragOffset::try_new(offset).unwrap();
            let IpHeaders::Ipv4(header, _) = ipv4(&[]) else { unreachable!() };
            let four = Ipv4Header { more_fragments: more, fragment_offset, ..header };
            let four = packet(IpHeaders::Ipv4(four, Default::default()), synchronise(false, &large), &[]);
            let fragment = Some(Ipv6FragmentHeader::new(IpNumber::TCP, fragment_offset, more, 1));
            let mut six = packet(
                ipv6(Ipv6Extensions { fragment, ..Default::default() }),
                synchronise(false, &large),
                &[],
            );
            assert!(is_left_alone(four) && is_left_alone(six.clone()), "fragment {offset} {more}");
            (six[42], six[43]) = (0, 0);
            assert!(!is_left_alone(six), "a fragment that is the whole is none");
        }
    }

    #[test]
    fn leaves_malformed_options_alone() {
        const MSS_AT: usize = 20 + 20;
        let good = packet(ipv4(&[]), synchronise(false, &[MaximumSegmentSize(1460), Noop, Noop, Noop]), &[]);
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = good.clone();
            changes.iter().for_each(|(at, value)| bytes[*at] = *value);
            bytes
        };
        for (what, bytes) in [
            ("a length of 0", with(&[(MSS_AT + 1, 0)])),
            ("a length of 1", with(&[(MSS_AT + 1, 1)])),
            ("a length of 3", with(&[(MSS_AT + 1, 3)])),
            ("beyond the header", with(&[(MSS_AT + 1, 9)])),
            (
                "behind a broken option",
                with(&[(MSS_AT, 8), (MSS_AT + 1, 1), (MSS_AT + 4, 2), (MSS_AT + 5, 4)]),
            ),
            ("behind the end", with(&[(MSS_AT, 0)])),
            ("a header shorter than TCP's", with(&[(20 + 12, 0x40)])),
            ("a header longer than the packet", with(&[(20 + 12, 0xf0)])),
            ("a packet that ends in the header", good[..20 + 19].to_vec()),
            ("a packet that ends in the option", good[..MSS_AT + 3].to_vec()),
        ] {
            assert!(is_left_alone(bytes), "{what}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_nor_changes_the_length(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120), six: bool, mtu: u16,
        ) {
            if let [first, .., _] = &mut bytes[..] {
                *first = if six { 0x60 } else { 0x40 | (*first & 0x0f) };
            }
            if let Some(protocol) = bytes.get_mut(if six { 6 } else { 9 }) {
                *protocol = 6;
            }
            let before = bytes.clone();
            clamp_mss(&mut bytes, mtu);
            prop_assert_eq!(bytes.len(), before.len());
        }

        #[test]
        fn any_announcement_is_lowered_in_place(
            size: u16, mtu in 576..=65_535_u16, nops in 0..6_usize, which in 0..4_usize, ack: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let options = [vec![Noop; nops], vec![MaximumSegmentSize(size)]].concat();
            let ip = every_ip()[which].clone();
            let headers = if which < 2 { 40 } else { 60 };
            let before = packet(ip, synchronise(ack, &options), &payload);
            let mut after = before.clone();
            clamp_mss(&mut after, mtu);
            prop_assert_eq!(announced(&after), Some(size.min(mtu - headers)));
            let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            prop_assert!(changed <= 4, "{} bytes changed", changed);
        }
    }
}
