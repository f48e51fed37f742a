//! What happens to a packet between the TUN and a session: checked, fitted to the session's MTU.

use super::fragment::fragment;
use super::ip::{IpPacket, Malformed};
use super::mss::{clamp_mss, clamp_record};
use super::offload::{Offload, Record};
use super::segment::{Split, complete_checksum, segment, split_front};
use crate::telemetry::DropReason;

/// Fits packets to the MTU of the session they go to. One for each path, as it keeps the room that
/// fragments are made in.
#[derive(Debug, Default)]
pub struct Egress {
    scratch: Vec<u8>,
    segment: Vec<u8>,
}

/// What the session takes that a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The longest packet.
    pub mtu: u16,
    /// Whether it takes packets with an offload header.
    pub offload: bool,
}

impl Egress {
    /// Hands a packet to `forward` if it fits `mtu`, the MSS of a SYN lowered to it. A longer one is
    /// handed on in fragments where IPv4 permits. A super-packet is treated as its segments are: whole
    /// where they fit and the session takes it, else one by one. A partial checksum is completed: to carry
    /// it would cost each packet fourteen bytes.
    ///
    /// The packet may be the beginning of one that was longer than the room it was read into.
    ///
    /// # Errors
    /// [`DropReason::TooBig`], which the sender is to hear of ([`Router::too_big`](super::Router::too_big)),
    /// [`DropReason::Malformed`] and [`DropReason::OffloadInvalid`]. Nothing was forwarded.
    pub fn pass(
        &mut self,
        record: &mut Record<'_>,
        intake: Intake,
        mut forward: impl FnMut(&[u8], Offload),
    ) -> Result<(), DropReason> {
        if record.offload.is_none() {
            return pass_complete(record.packet, intake.mtu, &mut self.scratch, |packet| {
                forward(packet, Offload::NONE);
            });
        }
        let packet = IpPacket::parse(record.packet)?;
        let fits = record.offload.check(&packet, intake.mtu).is_ok();
        if fits && intake.offload && record.offload.is_super() {
            clamp_record(record, intake.mtu);
            forward(record.packet, record.offload);
            return Ok(());
        }
        if !record.offload.is_workable(&packet) {
            return Err(DropReason::OffloadInvalid);
        }
        let length = packet.as_bytes().len();
        let longest = record.offload.segment_len().map_or(length, |longest| length.min(longest.into()));
        if longest > usize::from(intake.mtu) && !packet.may_be_fragmented() {
            return Err(DropReason::TooBig);
        }
        let Self { scratch, segment: room } = self;
        // It was checked above that each segment can be passed on; a packet that stands for itself may be too
        // long for a datagram's fragments.
        let mut outcome = Ok(());
        segment(record.packet, record.offload, room, |packet| {
            let passed = pass_complete(packet, intake.mtu, scratch, |packet| forward(packet, Offload::NONE));
            outcome = outcome.and(passed);
        });
        outcome
    }
}

/// Shortens a super-packet that is too big to its first segment, which is what its sender is told of;
/// the checksum is completed.
pub fn quoted<'a>(record: &'a mut Record<'_>, room: &'a mut Vec<u8>) -> &'a [u8] {
    let offload = record.offload;
    if offload.segments(record.packet.len()) > 1 {
        let Split { front, .. } = split_front(record.packet, offload, 1, room);
        complete_checksum(room, front);
        room
    } else {
        complete_checksum(record.packet, offload);
        record.packet
    }
}

/// As [`Egress::pass`], of a packet with complete checksums.
fn pass_complete(
    bytes: &mut [u8],
    mtu: u16,
    scratch: &mut Vec<u8>,
    mut forward: impl FnMut(&[u8]),
) -> Result<(), DropReason> {
    let packet = match IpPacket::parse(bytes) {
        Ok(packet) => packet,
        Err(Malformed::Length { announced, arrived })
            if announced > arrived && announced > usize::from(mtu) =>
        {
            return Err(DropReason::TooBig);
        }
        Err(malformed) => return Err(malformed.into()),
    };
    if packet.total_len() <= usize::from(mtu) {
        clamp_mss(bytes, mtu);
        forward(bytes);
        Ok(())
    } else if packet.may_be_fragmented() {
        Ok(fragment(&packet, mtu, scratch, forward)?)
    } else {
        Err(DropReason::TooBig)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop};
    use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::MAX_SEGMENTS;
    use crate::packet::ip::tests::{v4, v6};
    use crate::packet::segment::tests::{Spec, spec};

    fn pass(bytes: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut forwarded = Vec::new();
        let mut bytes = bytes.to_vec();
        let intake = Intake { mtu, offload: false };
        let mut record = Record::from(bytes.as_mut_slice());
        Egress::default().pass(&mut record, intake, |packet, _| forwarded.push(packet.to_vec()))?;
        Ok(forwarded)
    }

    fn four(length: usize, dont_fragment: bool) -> Vec<u8> {
        let mut bytes = v4([10, 8, 0, 1], [10, 8, 0, 2], 17, &vec![1; length - 20]);
        bytes[6] = if dont_fragment { 0x40 } else { 0 };
        bytes
    }

    fn six(length: usize) -> Vec<u8> {
        v6("fd00::1", "fd00::2", 17, &vec![1; length - 40])
    }

    #[test]
    fn what_fits_passes_unchanged() {
        for bytes in
            [four(20, true), four(21, false), four(1419, true), four(1420, false), six(40), six(1420)]
        {
            assert_eq!(pass(&bytes, 1420), Ok(vec![bytes]));
        }
    }

    #[test]
    fn what_is_too_big_is_cut_where_that_is_allowed() {
        let parts = pass(&four(1421, false), 1420).unwrap();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1420, 21]);
        assert_eq!(pass(&four(1421, true), 1420), Err(DropReason::TooBig));
        assert_eq!(pass(&six(1421), 1420), Err(DropReason::TooBig));
    }

    #[test]
    fn a_beginning_is_too_big_if_the_rest_made_it_so() {
        for whole in [four(5000, true), four(5000, false), six(5000)] {
            assert_eq!(pass(&whole[..2048], 1420), Err(DropReason::TooBig));
        }
        assert_eq!(pass(&four(1400, true)[..1399], 1420), Err(DropReason::Malformed));
    }

    #[test]
    fn what_is_no_packet_is_malformed() {
        for bytes in [vec![], vec![0x45; 19], vec![0x60; 39], vec![0; 60], [four(40, true), vec![0]].concat()]
        {
            assert_eq!(pass(&bytes, 1420), Err(DropReason::Malformed));
        }
    }
    /// What became of it: an error, or what was forwarded.
    fn pass_record(
        packet: &mut [u8],
        offload: Offload,
        mtu: u16,
        takes_offload: bool,
    ) -> Result<Vec<(Vec<u8>, Offload)>, DropReason> {
        let mut forwarded = Vec::new();
        let intake = Intake { mtu, offload: takes_offload };
        let outcome = Egress::default().pass(&mut Record { packet, offload }, intake, |packet, offload| {
            forwarded.push((packet.to_vec(), offload));
        });
        assert!(outcome.is_ok() != forwarded.is_empty(), "{outcome:?}: {} forwarded", forwarded.len());
        outcome.map(|()| forwarded)
    }

    fn complete(packets: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Offload)> {
        packets.into_iter().map(|packet| (packet, Offload::NONE)).collect()
    }

    /// IPv4 or IPv6 and TCP or UDP, of this payload.
    fn specs(payload: usize) -> Vec<Spec> {
        let four = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 8, 0, 2], [192, 0, 2, 1]).unwrap();
        let six = Ipv6Header { source: [0xfd; 16], destination: [0x20; 16], ..Default::default() };
        let ips = [IpHeaders::Ipv4(four, Default::default()), IpHeaders::Ipv6(six, Default::default())];
        let payload: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        let of = |ip: IpHeaders, tcp| Spec {
            ip,
            tcp,
            payload: payload.clone(),
            gso_size: payload.len().max(1),
            ports: (7, 8),
        };
        ips.into_iter()
            .flat_map(|ip| [of(ip.clone(), None), of(ip, Some(TcpHeader::new(7, 8, 9, 10)))])
            .collect()
    }

    /// A packet that stands for itself, without and with its checksum.
    fn partial(spec: &Spec) -> (Vec<u8>, Offload, Vec<u8>) {
        let (packet, offload) = spec.super_packet();
        let offload = Offload::checksum_only(offload.csum_start, offload.csum_offset);
        (packet, offload, spec.segments().remove(0))
    }

    proptest! {
        #[test]
        fn a_super_packet_that_fits_is_handed_on_whole_or_as_its_segments(spec in spec(false), more in 0..100_u16) {
            let (mut packet, offload) = spec.super_packet();
            let mtu = offload.segment_len().unwrap() + more;
            let whole = pass_record(&mut packet.clone(), offload, mtu, true);
            prop_assert_eq!(whole, Ok(vec![(packet.clone(), offload)]));
            let cut = pass_record(&mut packet, offload, mtu, false);
            prop_assert_eq!(cut, Ok(complete(spec.segments())));
        }

        #[test]
        fn extension_headers_are_for_software(spec in spec(true), takes_offload: bool) {
            let (mut packet, offload) = spec.super_packet();
            let fits = offload.check(&IpPacket::parse(&packet).unwrap(), 2000).is_ok();
            let passed = pass_record(&mut packet.clone(), offload, 2000, takes_offload);
            let expected =
                if fits && takes_offload { vec![(packet.clone(), offload)] } else { complete(spec.segments()) };
            prop_assert_eq!(passed, Ok(expected));
            // Too long for the path, it is as well told of by its first segment.
            let mut record = Record { packet: &mut packet, offload };
            let mut room = vec![9; 3];
            prop_assert_eq!(quoted(&mut record, &mut room), &*spec.segments().remove(0));
        }

        #[test]
        fn segments_that_are_too_long_are_cut_or_told_of(
            spec in spec(false), less in 1..1400_u16, takes_offload: bool,
        ) {
            let (mut packet, offload) = spec.super_packet();
            let segments = spec.segments();
            let longest = segments[0].len() as u16;
            prop_assume!(longest > 69);
            let mtu = longest.saturating_sub(less).max(69);
            let may_be_cut = matches!(&spec.ip, IpHeaders::Ipv4(header, _) if !header.dont_fragment);
            let passed = pass_record(&mut packet.clone(), offload, mtu, takes_offload);
            if may_be_cut {
                let mut expected = Vec::new();
                for mut segment in segments {
                    expected.extend(pass_record(&mut segment, Offload::NONE, mtu, false).unwrap());
                }
                prop_assert_eq!(passed, Ok(expected));
            } else {
                prop_assert_eq!(passed, Err(DropReason::TooBig));
                let mut room = vec![9; 3];
                let mut record = Record { packet: &mut packet, offload };
                prop_assert_eq!(quoted(&mut record, &mut room), segments[0].as_slice());
            }
        }

        #[test]
        fn nonsense_is_refused_or_harmless(
            kernel: [u8; 10], mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), is_packet: bool,
            takes_offload: bool, mtu in 576..1500_u16,
        ) {
            if is_packet && bytes.len() >= 40 {
                bytes[0] = if bytes[0] & 1 == 0 { 0x45 } else { 0x60 };
                let (at, length) = if bytes[0] == 0x45 { (2, bytes.len()) } else { (4, bytes.len() - 40) };
                bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            }
            check_nonsense(bytes, Offload::from_kernel(kernel), takes_offload, mtu);
        }

        #[test]
        fn a_good_header_with_one_wrong_byte_is_refused_or_harmless(
            spec in spec(true), at in 0..10_usize, wrong: u8, takes_offload: bool, mtu in 576..1500_u16,
        ) {
            let (packet, offload) = spec.super_packet();
            let mut kernel = offload.to_kernel();
            kernel[at] = wrong;
            check_nonsense(packet, Offload::from_kernel(kernel), takes_offload, mtu);
        }
    }

    fn check_nonsense(mut bytes: Vec<u8>, said: Offload, takes_offload: bool, mtu: u16) {
        let offload = said.normalised(&bytes);
        quoted(&mut Record { packet: &mut bytes.clone(), offload }, &mut Vec::new());
        match pass_record(&mut bytes, offload, mtu, takes_offload) {
            Err(DropReason::OffloadInvalid) => assert!(!offload.is_none()),
            Err(DropReason::TooBig | DropReason::Malformed) => {}
            Err(reason) => panic!("{reason:?}"),
            Ok(forwarded) => {
                for (packet, offload) in forwarded {
                    let packet = IpPacket::parse(&packet).unwrap();
                    assert_eq!(offload.check(&packet, mtu), Ok(()));
                    assert!(takes_offload || offload.is_none());
                }
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for length in [0, 1, 100, 600, 1300] {
            for spec in specs(length) {
                if spec.payload.is_empty() {
                    continue;
                }
                let (packet, offload, whole) = partial(&spec);
                let completed = Ok(vec![(whole.clone(), Offload::NONE)]);
                for takes_offload in [false, true] {
                    let passed = pass_record(&mut packet.clone(), offload, 1420, takes_offload);
                    assert_eq!(passed, completed, "{length}");
                }
            }
        }
    }

    #[test]
    fn a_long_packet_with_a_partial_checksum_is_cut_or_told_of() {
        for mut spec in specs(2000) {
            let is_v4 = matches!(spec.ip, IpHeaders::Ipv4(..));
            for may_be_cut in [false, true] {
                if let IpHeaders::Ipv4(header, _) = &mut spec.ip {
                    header.dont_fragment = !may_be_cut;
                }
                let (mut packet, offload, whole) = partial(&spec);
                for takes_offload in [false, true] {
                    let passed = pass_record(&mut packet.clone(), offload, 1420, takes_offload);
                    if is_v4 && may_be_cut {
                        let expected = complete(pass(&whole, 1420).unwrap());
                        assert_eq!((expected.len(), passed), (2, Ok(expected)));
                    } else {
                        assert_eq!(passed, Err(DropReason::TooBig));
                    }
                }
                let mut record = Record { packet: &mut packet, offload };
                assert_eq!(quoted(&mut record, &mut Vec::new()), whole);
            }
        }
    }

    #[test]
    fn a_syn_with_a_partial_checksum_is_clamped_and_completed() {
        // The longer one carries data (RFC 7413).
        for length in [1, 600] {
            for spec in specs(length).into_iter().filter(|spec| spec.tcp.is_some()) {
                let announcing = |mss| {
                    let mut spec = spec.clone();
                    if let Some(tcp) = &mut spec.tcp {
                        tcp.syn = true;
                        tcp.set_options(&[Noop, MaximumSegmentSize(mss)]).unwrap();
                    }
                    spec
                };
                let most = if matches!(spec.ip, IpHeaders::Ipv4(..)) { 1380 } else { 1360 };
                for (announced, expected) in [(1460, most), (9000, most), (most, most), (536, 536)] {
                    let (mut packet, offload, _) = partial(&announcing(announced));
                    let (.., expected) = partial(&announcing(expected));
                    for takes_offload in [false, true] {
                        let passed = pass_record(&mut packet.clone(), offload, 1420, takes_offload);
                        assert_eq!(passed, Ok(complete(vec![expected.clone()])), "{length} {takes_offload}");
                    }
                    let mut record = Record { packet: &mut packet, offload };
                    clamp_record(&mut record, 1420);
                    assert_eq!((&*record.packet, record.offload), (expected.as_slice(), Offload::NONE));
                }
            }
        }
    }

    #[test]
    fn what_is_no_offload_header_for_the_packet_is_invalid() {
        let spec = Spec { gso_size: 500, ..specs(3000).remove(1) };
        let (packet, good) = spec.super_packet();
        for (what, offload) in [
            ("no flag", Offload { flags: 0, ..good }),
            ("an unknown type", Offload { gso_type: 2, ..good }),
            ("UFO", Offload { gso_type: 3, ..good }),
            ("ECN alone", Offload { gso_type: 0x80, ..good }),
            ("the other family", Offload { gso_type: 4, ..good }),
            ("the other protocol", Offload { gso_type: 5, ..good }),
            ("segments of nothing", Offload { gso_size: 0, ..good }),
            ("a start in the header", Offload { csum_start: 16, ..good }),
            ("a start behind it", Offload { csum_start: 24, ..good }),
            ("a start beyond the packet", Offload { csum_start: 4000, ..good }),
            ("the offset of UDP", Offload { csum_offset: 6, ..good }),
        ] {
            let offload = offload.normalised(&packet);
            for takes_offload in [false, true] {
                let passed = pass_record(&mut packet.clone(), offload, 1420, takes_offload);
                assert_eq!(passed, Err(DropReason::OffloadInvalid), "{what}");
            }
        }
        // Of what the local kernel gave, so many segments are not its fault.
        let tiny = Offload { gso_size: 1, ..good };
        assert!(tiny.segments(packet.len()) > MAX_SEGMENTS);
        assert_eq!(pass_record(&mut packet.clone(), tiny, 1420, true).unwrap().len(), 3000);
    }
}
