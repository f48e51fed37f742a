//! What a router tells senders: that a packet is longer than the next link takes, so that the next one fits
//! (RFC 1191 §4, RFC 4443 §3.2), and that the next link is gone for now (see `unreachable`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ipnet::Ipv4Net;

use super::checksum::Sum;
use super::ip::IpPacket;
use super::unreachable::retransmittable;
use super::upper::{Fragment, ICMPV6, upper_layer};

/// The longest answer: over IPv6, the least MTU of any link (RFC 4443 §2.4 c).
pub const MAX_ANSWER: usize = 1280;

/// The longest answer over IPv4 (RFC 1812 §4.3.2.3).
const MAX_ANSWER_IPV4: usize = 576;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

const ICMP: u8 = 1;

/// Precedence of network control messages (RFC 1812 §4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const DONT_FRAGMENT: u8 = 0x40;
const HOP_LIMIT: u8 = 64;

/// Answers of a kind a second that one session's packets get at most. Of a size, a sender needs one, then
/// keeps it for minutes (RFC 1191 §6.3), so these are a hundred senders; and a flood of packets that are too
/// big buys no more than 128 kB/s of answers. Of an outage, it needs one for each retransmission, of which it
/// then makes about one a second: these are a hundred flows again.
const ANSWERS_PER_SECOND: u64 = 100;

/// Answers of a kind that may come at once: so many flows may begin together.
const ANSWER_BURST: u64 = 50;

/// Who tells senders: the addresses that the answers come from.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    v4: Ipv4Net,
    v6: Option<Ipv6Addr>,
}

impl Router {
    /// Answers over IPv4 come from the address in `v4`, whose prefix tells the subnet's broadcast
    /// address, and over IPv6 from `v6`; without it there are none.
    ///
    /// The kernel that reads an answer drops it as a martian if it is from one of its own addresses.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Addr>) -> Self {
        Self { v4, v6 }
    }

    /// The answer to a packet that is longer than `mtu`, made in `room`; none where an answer would do
    /// harm or could not be understood (RFC 1122 §3.2.2, RFC 4443 §2.4 e): to ICMP errors, fragments
    /// without the upper-layer header, what went to everybody (over IPv6, multicasts are answered: RFC
    /// 4443 §2.4 e.3) or comes from no single host, and IPv4 that may be fragmented.
    ///
    /// `bytes` may be only the packet's beginning, of [`MAX_ANSWER`] bytes or more.
    pub fn too_big<'r>(&self, bytes: &[u8], mtu: u16, room: &'r mut [u8; MAX_ANSWER]) -> Option<&'r [u8]> {
        let packet = IpPacket::parse_start(bytes).ok()?;
        if packet.may_be_fragmented() || !permits_answer(bytes) {
            return None;
        }
        self.answer(&packet, Message::TooBig { mtu }, room)
    }

    /// The answer to a TCP segment that cannot be delivered for now, «host unreachable» or «no route» (RFC
    /// 792, RFC 4443 §3.1), made in `room`. None to any other packet, to one that is no data of an
    /// established connection, and to what went to everybody or comes from no single host.
    ///
    /// `bytes` may be only the packet's beginning, with the TCP header.
    pub fn unreachable<'r>(&self, bytes: &[u8], room: &'r mut [u8; MAX_ANSWER]) -> Option<&'r [u8]> {
        let packet = IpPacket::parse_start(bytes).ok()?;
        retransmittable(bytes)?;
        self.answer(&packet, Message::Unreachable, room)
    }

    /// The message to the packet's sender, if that and the destination are hosts.
    fn answer<'r>(
        &self,
        packet: &IpPacket<'_>,
        message: Message,
        room: &'r mut [u8; MAX_ANSWER],
    ) -> Option<&'r [u8]> {
        let bytes = packet.as_bytes();
        match (packet.src(), packet.dst()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let unicast = self.is_host(src) && !self.is_to_many(dst);
                unicast.then(|| answer_v4(bytes, message, self.v4.addr(), src, room))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let from = self.v6?;
                let host = !src.is_unspecified() && !src.is_multicast() && !src.is_loopback();
                let permits = host && (message.answers_multicast() || !dst.is_multicast());
                permits.then(|| answer_v6(bytes, message, from, src, room))
            }
            _ => None,
        }
    }

    fn is_host(&self, src: Ipv4Addr) -> bool {
        // Class E has no hosts, and its last address is the broadcast one.
        let class_e = src.octets()[0] >= 240;
        !(src.is_unspecified() || src.is_loopback() || class_e || self.is_to_many(src))
    }

    fn is_to_many(&self, addr: Ipv4Addr) -> bool {
        // Subnets of one or two addresses have no broadcast address (RFC 3021).
        let subnet_broadcast = self.v4.prefix_len() <= 30 && addr == self.v4.broadcast();
        addr.is_multicast() || addr.is_broadcast() || subnet_broadcast
    }
}

/// What a sender is told.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// The next link takes no more than this.
    TooBig { mtu: u16 },
    /// The next link is gone for now.
    Unreachable,
}

impl Message {
    /// The header of the message, without checksum (RFC 792, RFC 1191 §4).
    fn header_v4(self) -> [u8; ICMP_HEADER] {
        const DESTINATION_UNREACHABLE: u8 = 3;
        const HOST_UNREACHABLE: u8 = 1;
        const FRAGMENTATION_NEEDED: u8 = 4;

        let (code, [high, low]) = match self {
            Self::TooBig { mtu } => (FRAGMENTATION_NEEDED, mtu.to_be_bytes()),
            Self::Unreachable => (HOST_UNREACHABLE, [0; 2]),
        };
        [DESTINATION_UNREACHABLE, code, 0, 0, 0, 0, high, low]
    }

    /// The header of the message, without checksum (RFC 4443 §3). «No route» is the code that takes a back-off
    /// back (RFC 6069 §3).
    fn header_v6(self) -> [u8; ICMP_HEADER] {
        const DESTINATION_UNREACHABLE: u8 = 1;
        const NO_ROUTE: u8 = 0;
        const PACKET_TOO_BIG: u8 = 2;

        let (kind, code, [high, low]) = match self {
            Self::TooBig { mtu } => (PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
            Self::Unreachable => (DESTINATION_UNREACHABLE, NO_ROUTE, [0; 2]),
        };
        [kind, code, 0, 0, 0, 0, high, low]
    }

    /// RFC 4443 §2.4 e.3.
    fn answers_multicast(self) -> bool {
        matches!(self, Self::TooBig { .. })
    }
}

/// Whether the packet is neither an ICMP error nor a fragment without its beginning.
fn permits_answer(packet: &[u8]) -> bool {
    // No header can be found behind a chain of extension headers that is too long: an error is never
    // as long as that, and has to be heard of all the same.
    let Some(upper) = upper_layer(packet) else { return true };
    if upper.fragment == Fragment::Later {
        return false;
    }
    match (packet[0] >> 4, upper.protocol) {
        (4, ICMP) => packet.get(upper.offset).is_some_and(|kind| is_icmp_query(*kind)),
        (6, ICMPV6) => packet.get(upper.offset).is_some_and(|kind| is_icmpv6_informational(*kind)),
        _ => true,
    }
}

/// Echo, router discovery, timestamp, information, address mask, extended echo. All else is an error,
/// or may be one.
fn is_icmp_query(kind: u8) -> bool {
    matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43)
}

/// RFC 4443 §2.1; a Redirect is spared as well (§2.4 e.2).
fn is_icmpv6_informational(kind: u8) -> bool {
    const REDIRECT: u8 = 137;
    kind >= 128 && kind != REDIRECT
}

fn answer_v4<'r>(
    packet: &[u8],
    message: Message,
    from: Ipv4Addr,
    to: Ipv4Addr,
    room: &'r mut [u8; MAX_ANSWER],
) -> &'r [u8] {
    let quoted = packet.len().min(MAX_ANSWER_IPV4 - IPV4_HEADER - ICMP_HEADER);
    let length = IPV4_HEADER + ICMP_HEADER + quoted;
    let (answer, _) = room.split_at_mut(length);
    let (header, body) = answer.split_at_mut(IPV4_HEADER);

    header.fill(0);
    (header[0], header[1]) = (0x45, INTERNETWORK_CONTROL);
    // At most MAX_ANSWER_IPV4.
    header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    (header[6], header[8], header[9]) = (DONT_FRAGMENT, HOP_LIMIT, ICMP);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = Sum::default().add(header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    body[..ICMP_HEADER].copy_from_slice(&message.header_v4());
    body[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    let checksum = Sum::default().add(body).checksum();
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    answer
}

fn answer_v6<'r>(
    packet: &[u8],
    message: Message,
    from: Ipv6Addr,
    to: Ipv6Addr,
    room: &'r mut [u8; MAX_ANSWER],
) -> &'r [u8] {
    let quoted = packet.len().min(MAX_ANSWER - IPV6_HEADER - ICMP_HEADER);
    let length = ICMP_HEADER + quoted;
    let (answer, _) = room.split_at_mut(IPV6_HEADER + length);
    let (header, body) = answer.split_at_mut(IPV6_HEADER);

    header.fill(0);
    header[0] = 0x60;
    // At most MAX_ANSWER.
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    (header[6], header[7]) = (ICMPV6, HOP_LIMIT);
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());

    body[..ICMP_HEADER].copy_from_slice(&message.header_v6());
    body[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    // The pseudo-header: both addresses, the length and the protocol.
    let pseudo = Sum::default().add(&header[8..40]).add(&header[4..6]).add(&[0, ICMPV6]);
    let checksum = pseudo.add(body).checksum();
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    answer
}

/// Answers for one session's packets, rarely enough and counted; shared by all who drop them.
#[derive(Debug)]
pub struct Answers {
    epoch: Instant,
    too_big: Bucket,
    unreachable: Bucket,
    sent: AtomicU64,
}

/// A token bucket (RFC 4443 §2.4 f) in one word: when it will be full, in microseconds since the epoch.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Answers {
    /// None sent, and full buckets.
    pub fn new(now: Instant) -> Self {
        let sent = AtomicU64::new(0);
        Self { epoch: now, too_big: Bucket::default(), unreachable: Bucket::default(), sent }
    }

    /// Tells the sender of `packet` that it is longer than `mtu`, by an answer from `router` that `send`
    /// sends; not where there is none to give ([`Router::too_big`]), and not beyond 50 at once and 100 a
    /// second. `send` says whether it could.
    pub fn too_big(
        &self,
        now: Instant,
        router: &Router,
        packet: &[u8],
        mtu: u16,
        send: impl FnOnce(&[u8]) -> bool,
    ) {
        let mut room = [0; MAX_ANSWER];
        if let Some(answer) = router.too_big(packet, mtu, &mut room)
            && self.too_big.take_token(self.micros(now))
            && send(answer)
        {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the sender of `packet`, or of the packet that begins with it, that there is no way for now, by
    /// an answer from `router` that `send` sends; not where there is none to give
    /// ([`Router::unreachable`]), and not beyond 50 at once and 100 a second, whatever else is answered.
    pub fn unreachable(&self, now: Instant, router: &Router, packet: &[u8], send: impl FnOnce(&[u8])) {
        let mut room = [0; MAX_ANSWER];
        if let Some(answer) = router.unreachable(packet, &mut room)
            && self.unreachable.take_token(self.micros(now))
        {
            send(answer);
        }
    }

    /// How many senders were told that a packet is too big so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn micros(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_micros();
        // The bound is half a million years away.
        u64::try_from(elapsed).unwrap_or(u64::MAX).min(u64::MAX / 2)
    }
}

impl Bucket {
    fn take_token(&self, now: u64) -> bool {
        const INTERVAL: u64 = 1_000_000 / ANSWERS_PER_SECOND;
        const FULL: u64 = INTERVAL * ANSWER_BURST;

        let take = |full_at: u64| {
            let full_at = full_at.max(now) + INTERVAL;
            (full_at - now <= FULL).then_some(full_at)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etherparse::Icmpv4Type::DestinationUnreachable;
    use etherparse::icmpv4::DestUnreachableHeader::{FragmentationNeeded, Host};
    use etherparse::icmpv6::DestUnreachableCode::NoRoute;
    use etherparse::{Icmpv6Slice, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::header::{ACK, FIN, RST, SYN};
    use crate::packet::ip::tests::{v4, v6};
    use crate::packet::unreachable::tests::tcp;
    use crate::packet::{Offload, Unreachable};

    const SENDER: [u8; 4] = [192, 0, 2, 1];
    const CLIENT: [u8; 4] = [10, 8, 0, 2];
    const SENDER6: &str = "2001:db8::1";
    const CLIENT6: &str = "fd00::2";

    fn router() -> Router {
        Router::new("10.8.0.1/24".parse().unwrap(), Some("fd00::1".parse().unwrap()))
    }

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        router().too_big(packet, 1280, &mut [0xff; MAX_ANSWER]).map(<[u8]>::to_vec)
    }

    /// An IPv4 packet that must not be cut.
    fn four(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = v4(src, dst, protocol, payload);
        bytes[6] = 0x40;
        bytes
    }

    #[test]
    fn tells_an_ipv4_sender_the_mtu() {
        for length in [1281, 1400, 9000, 65_535] {
            let packet = four(SENDER, CLIENT, 17, &vec![5; length - 20]);
            let answer = answer(&packet).unwrap();
            assert_eq!(answer.len(), 576);

            let parsed = PacketHeaders::from_ip_slice(&answer).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
            assert_eq!((ip.source, ip.destination), ([10, 8, 0, 1], SENDER));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), answer.len());
            let Some(TransportHeader::Icmpv4(icmp)) = parsed.transport else { panic!("not ICMP") };
            assert_eq!(icmp.icmp_type, DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1280 }));
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(parsed.payload.slice()));
            assert_eq!(parsed.payload.slice(), &packet[..548]);
        }
    }

    #[test]
    fn tells_an_ipv6_sender_the_mtu() {
        for length in [1281, 1400, 9000, 65_535] {
            let packet = v6(SENDER6, CLIENT6, 17, &vec![5; length - 40]);
            let answer = answer(&packet).unwrap();
            assert_eq!(answer.len(), 1280);

            let parsed = PacketHeaders::from_ip_slice(&answer).unwrap();
            let Some(NetHeaders::Ipv6(ip, _)) = parsed.net else { panic!("not IPv6") };
            assert_eq!(ip.source_addr(), "fd00::1".parse::<Ipv6Addr>().unwrap());
            assert_eq!(ip.destination_addr(), SENDER6.parse::<Ipv6Addr>().unwrap());
            let icmp = Icmpv6Slice::from_slice(&answer[40..]).unwrap();
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1280 });
            assert!(icmp.is_checksum_valid(ip.source, ip.destination));
            assert_eq!(icmp.payload(), &packet[..1280 - 48]);
        }
    }

    #[test]
    fn the_beginning_of_a_packet_is_enough() {
        let four = four(SENDER, CLIENT, 17, &[5; 8980]);
        let six = v6(SENDER6, CLIENT6, 17, &[5; 8960]);
        assert_eq!(answer(&four[..MAX_ANSWER]), answer(&four));
        assert_eq!(answer(&six[..MAX_ANSWER]), answer(&six));
    }

    #[test]
    fn quotes_short_packets_whole() {
        // Longer than an MTU below what is allowed, so that the quotation has an odd length.
        let packet = four(SENDER, CLIENT, 17, &[5; 101]);
        let answer = answer(&packet).unwrap();
        assert_eq!(answer[28..], packet);
        let parsed = PacketHeaders::from_ip_slice(&answer).unwrap();
        let Some(TransportHeader::Icmpv4(icmp)) = parsed.transport else { panic!("not ICMP") };
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(parsed.payload.slice()));
    }

    #[test]
    fn is_silent_where_an_answer_would_do_harm() {
        let long = [5; 1400];
        let icmp = |kind: u8| [&[kind, 0], &long[..]].concat();
        let fragment = |field: u16| {
            let mut packet = four(SENDER, CLIENT, 17, &long);
            packet[6..8].copy_from_slice(&(0x4000 | field).to_be_bytes());
            packet
        };
        let fragment6 = |protocol: u8, field: u16, rest: &[u8]| {
            let field = field.to_be_bytes();
            v6(SENDER6, CLIENT6, 44, &[&[protocol, 0, field[0], field[1], 0, 0, 0, 1], rest].concat())
        };
        let table = [
            ("UDP", four(SENDER, CLIENT, 17, &long), true),
            ("what may be cut", v4(SENDER, CLIENT, 17, &long), false),
            ("an echo request", four(SENDER, CLIENT, 1, &icmp(8)), true),
            ("an echo reply", four(SENDER, CLIENT, 1, &icmp(0)), true),
            ("an unreachable", four(SENDER, CLIENT, 1, &icmp(3)), false),
            ("a source quench", four(SENDER, CLIENT, 1, &icmp(4)), false),
            ("a redirect", four(SENDER, CLIENT, 1, &icmp(5)), false),
            ("a time exceeded", four(SENDER, CLIENT, 1, &icmp(11)), false),
            ("a parameter problem", four(SENDER, CLIENT, 1, &icmp(12)), false),
            ("ICMP of a kind unknown", four(SENDER, CLIENT, 1, &icmp(200)), false),
            ("a first fragment", fragment(0x2000), true),
            ("a fragment in the middle", fragment(0x2000 | 100), false),
            ("a last fragment", fragment(100), false),
            ("to everybody", four(SENDER, [255; 4], 17, &long), false),
            ("to the subnet", four(SENDER, [10, 8, 0, 255], 17, &long), false),
            ("to a group", four(SENDER, [239, 1, 2, 3], 17, &long), false),
            ("from nobody", four([0; 4], CLIENT, 17, &long), false),
            ("from everybody", four([255; 4], CLIENT, 17, &long), false),
            ("from the subnet", four([10, 8, 0, 255], CLIENT, 17, &long), false),
            ("from a group", four([224, 0, 0, 1], CLIENT, 17, &long), false),
            ("from the loopback", four([127, 0, 0, 1], CLIENT, 17, &long), false),
            ("from class E", four([250, 0, 0, 1], CLIENT, 17, &long), false),
            ("UDP over IPv6", v6(SENDER6, CLIENT6, 17, &long), true),
            ("to an IPv6 group", v6(SENDER6, "ff0e::1", 17, &long), true),
            ("from an IPv6 nobody", v6("::", CLIENT6, 17, &long), false),
            ("from an IPv6 group", v6("ff02::1", CLIENT6, 17, &long), false),
            ("from the IPv6 loopback", v6("::1", CLIENT6, 17, &long), false),
            ("an IPv6 echo request", v6(SENDER6, CLIENT6, 58, &icmp(128)), true),
            ("an IPv6 error", v6(SENDER6, CLIENT6, 58, &icmp(1)), false),
            ("a packet too big", v6(SENDER6, CLIENT6, 58, &icmp(2)), false),
            ("an IPv6 redirect", v6(SENDER6, CLIENT6, 58, &icmp(137)), false),
            ("an error in a first fragment", fragment6(58, 1, &icmp(3)), false),
            ("an echo in a first fragment", fragment6(58, 1, &icmp(129)), true),
            ("an IPv6 first fragment", fragment6(17, 1, &long), true),
            ("an IPv6 later fragment", fragment6(17, 8 | 1, &long), false),
            ("no packet", vec![0; 1400], false),
            ("nothing", vec![], false),
        ];
        for (what, packet, answered) in table {
            assert_eq!(answer(&packet).is_some(), answered, "{what}");
        }
        let without_v6 = Router::new("10.8.0.1/24".parse().unwrap(), None);
        let packet = v6(SENDER6, CLIENT6, 17, &long);
        assert!(without_v6.too_big(&packet, 1280, &mut [0; MAX_ANSWER]).is_none());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn answers_are_rare_and_counted() {
        let start = Instant::now();
        let answers = Answers::new(start);
        let packet = four(SENDER, CLIENT, 17, &[5; 1400]);
        let spared = four(SENDER, CLIENT, 1, &[3; 1400]);
        let flood = |at: Duration, packet: &[u8], works: bool| {
            let mut sent = 0;
            for _ in 0..1000 {
                answers.too_big(start + at, &router(), packet, 1280, |_| {
                    sent += 1;
                    works
                });
            }
            sent
        };
        let second = Duration::from_secs(1);
        assert_eq!(flood(Duration::ZERO, &spared, true), 0);
        assert_eq!(flood(Duration::ZERO, &packet, true), 50, "what is spared costs nothing");
        assert_eq!(flood(second / 10, &packet, true), 10);
        assert_eq!(flood(second, &packet, true), 50, "no more than a burst is saved up");
        assert_eq!(answers.sent(), 110);
        assert_eq!(flood(second * 2, &packet, false), 50);
        assert_eq!(answers.sent(), 110, "what could not be sent is not counted");
        // A clock that went back gives no more, and does no harm.
        assert_eq!(flood(second, &packet, true), 0);
        assert_eq!(flood(second * 86_400 * 365 * 100, &packet, true), 50);
    }

    fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
        router().unreachable(packet, &mut [0xff; MAX_ANSWER]).map(<[u8]>::to_vec)
    }

    #[test]
    fn tells_an_ipv4_sender_that_the_host_is_unreachable() {
        let packet = tcp(false, 5000, 77, ACK, 1380);
        let answer = unreachable(&packet[..128]).unwrap();
        let parsed = PacketHeaders::from_ip_slice(&answer).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
        assert_eq!((ip.source, ip.destination), ([10, 8, 0, 1], SENDER));
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(usize::from(ip.total_len), answer.len());
        let Some(TransportHeader::Icmpv4(icmp)) = parsed.transport else { panic!("not ICMP") };
        assert_eq!(icmp.icmp_type, DestinationUnreachable(Host));
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(parsed.payload.slice()));
        assert_eq!(parsed.payload.slice(), &packet[..128]);
        assert_eq!(unreachable(&packet).unwrap().len(), 576, "no longer than any");
    }

    #[test]
    fn tells_an_ipv6_sender_that_there_is_no_route() {
        let packet = tcp(true, 5000, 77, ACK, 1360);
        let answer = unreachable(&packet[..128]).unwrap();
        let parsed = PacketHeaders::from_ip_slice(&answer).unwrap();
        let Some(NetHeaders::Ipv6(ip, _)) = parsed.net else { panic!("not IPv6") };
        assert_eq!(ip.source_addr(), "fd00::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(ip.destination_addr(), SENDER6.parse::<Ipv6Addr>().unwrap());
        let icmp = Icmpv6Slice::from_slice(&answer[40..]).unwrap();
        assert_eq!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(NoRoute));
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
        assert_eq!(icmp.payload(), &packet[..128]);
    }

    #[test]
    fn only_established_tcp_hears_of_an_outage() {
        let readdressed = |at: usize, address: [u8; 4]| {
            let mut packet = tcp(false, 1, 0, ACK, 100);
            packet[at..at + 4].copy_from_slice(&address);
            packet
        };
        let to_group6 = v6(SENDER6, "ff0e::1", 6, &tcp(true, 1, 0, ACK, 100)[40..]);
        for (what, packet, answered) in [
            ("data", tcp(false, 1, 0, ACK, 100), true),
            ("data over IPv6", tcp(true, 1, 0, ACK, 100), true),
            ("the last of a stream", tcp(false, 1, 0, ACK | FIN, 0), true),
            ("a SYN", tcp(false, 1, 0, SYN, 0), false),
            ("a SYN over IPv6", tcp(true, 1, 0, SYN, 0), false),
            ("an answer to one", tcp(false, 1, 0, SYN | ACK, 0), false),
            ("a reset", tcp(false, 1, 0, RST | ACK, 0), false),
            ("UDP", four(SENDER, CLIENT, 17, &[5; 100]), false),
            ("UDP over IPv6", v6(SENDER6, CLIENT6, 17, &[5; 100]), false),
            ("an echo request", four(SENDER, CLIENT, 1, &[8; 100]), false),
            ("an ICMP error", four(SENDER, CLIENT, 1, &[3; 100]), false),
            ("from nobody", readdressed(12, [0; 4]), false),
            ("from everybody", readdressed(12, [255; 4]), false),
            ("from the loopback", readdressed(12, [127, 0, 0, 1]), false),
            ("to the subnet", readdressed(16, [10, 8, 0, 255]), false),
            ("to a group", readdressed(16, [239, 1, 2, 3]), false),
            ("to an IPv6 group", to_group6, false),
            ("nothing", vec![], false),
        ] {
            assert_eq!(unreachable(&packet).is_some(), answered, "{what}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn news_of_an_outage_is_rare_and_takes_nothing_from_other_news() {
        let start = Instant::now();
        let answers = Answers::new(start);
        let flood = |at: Duration, packet: &[u8]| {
            let mut sent = 0;
            (0..1000).for_each(|_| answers.unreachable(start + at, &router(), packet, |_| sent += 1));
            sent
        };
        assert_eq!(flood(Duration::ZERO, &tcp(false, 1, 0, SYN, 0)), 0);
        assert_eq!(flood(Duration::ZERO, &tcp(false, 1, 0, ACK, 100)), 50, "what is spared costs nothing");
        assert_eq!(flood(Duration::from_millis(100), &tcp(true, 1, 0, ACK, 100)), 10);
        let mut told = false;
        answers.too_big(start, &router(), &four(SENDER, CLIENT, 17, &[5; 1400]), 1280, |_| {
            told = true;
            true
        });
        assert!(told);
        assert_eq!(answers.sent(), 1, "of the other kind only");
    }

    proptest! {
        #[test]
        fn never_panics_and_answers_are_whole(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2100), six: bool, mtu: u16,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { 0x40 | (*first & 0x0f) };
            }
            let mut room = [0; MAX_ANSWER];
            if let Some(answer) = router().too_big(&bytes, mtu, &mut room) {
                prop_assert!(IpPacket::parse(answer).is_ok());
                let (longest, headers) = if six { (1280, 48) } else { (576, 28) };
                prop_assert!(answer.len() <= longest);
                let quoted = answer.len() - headers;
                prop_assert_eq!(&answer[answer.len() - quoted..], &bytes[..quoted]);
            }
        }

        #[test]
        fn any_segment_is_answered_or_not_but_never_by_nonsense(
            six: bool, payload in 0..300_usize, changed in proptest::collection::vec((0..80_usize, any::<u8>()), 0..4),
        ) {
            let mut bytes = tcp(six, 1, 0, ACK, payload);
            for (at, value) in changed {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let mut noted = Unreachable::default();
            noted.note(&bytes, Offload::NONE);
            if let Some(quote) = noted.iter().next()
                && let Some(answer) = router().unreachable(quote, &mut [0; MAX_ANSWER])
            {
                prop_assert!(IpPacket::parse(answer).is_ok());
                prop_assert!(answer.ends_with(quote));
            }
        }
    }
}
