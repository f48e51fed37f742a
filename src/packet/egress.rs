//! What happens to a packet between the TUN and a session: checked, fitted to the session's MTU.

use super::fragment::fragment;
use super::ip::{IpPacket, Malformed};
use super::mss::clamp_mss;
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

/// Up to this length a partial checksum is completed although the path would take it, in bytes: the ten
/// bytes of the offload header cost more than the sum.
const COMPLETED: usize = 512;

impl Egress {
    /// Hands a packet to `forward` if it fits `mtu`, the MSS of a SYN lowered to it. A longer one is
    /// handed on in fragments where IPv4 permits. A super-packet is treated as its segments are: whole
    /// where they fit and `path` takes it, else one by one.
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
        if fits && intake.offload && (record.offload.is_super() || packet.as_bytes().len() > COMPLETED) {
            forward(record.packet, record.offload);
            return Ok(());
        }
        if !record.offload.is_workable(&packet) {
            return Err(DropReason::OffloadInvalid);
        }
        let longest = record.offload.segment_len().map_or(packet.as_bytes().len(), usize::from);
        if longest > usize::from(intake.mtu) && !packet.may_be_fragmented() {
            return Err(DropReason::TooBig);
        }
        let Self { scratch, segment: room } = self;
        segment(record.packet, record.offload, room, |packet| {
            // It was checked above that each of them can be passed on; a last one that is too long for a
            // datagram's fragments is the only exception, and there is none among segments.
            let _passed = pass_complete(packet, intake.mtu, scratch, |packet| forward(packet, Offload::NONE));
        });
        Ok(())
    }
}

/// Shortens a super-packet that is too big to its first segment, which is what its sender is told of.
pub fn quoted<'a>(record: &'a mut Record<'_>, room: &'a mut Vec<u8>) -> &'a [u8] {
    let offload = record.offload;
    if offload.segments(record.packet.len()) > 1 {
        let Split { front, .. } = split_front(record.packet, offload, 1, room);
        complete_checksum(room, front);
        room
    } else {
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
    use super::*;
    use crate::packet::ip::tests::{v4, v6};

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
}
