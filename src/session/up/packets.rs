//! Packets into frames: one each, or many in a bundle (PROTOCOL §6).

use std::iter::Peekable;
use std::time::Instant;

use super::{Phase, Session};
use crate::codec::bundle::{MAX_PACKET, RECORD_OVERHEAD, put_record};
use crate::codec::frame::FrameType;
use crate::crypto::seal::{SEAL_OVERHEAD, SealError};
use crate::packet::Offload;
use crate::session::error::SessionError;

/// The longest plaintext of a bundle in bytes (PROTOCOL §2).
const MAX_BUNDLE: usize = 131_072 - SEAL_OVERHEAD;

impl Session {
    /// Appends one packet as an IpPacket frame. Where the keys are not confirmed yet, the confirming
    /// Keepalive is put ahead of it.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ended`] once the session has ended or is ending; the packet is to be dropped.
    /// [`SessionError::Seal`] if it is longer than 65,535 bytes or the counter is used up.
    pub fn seal_packet(
        &mut self,
        now: Instant,
        packet: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        self.seal_packets(now, [(packet, Offload::NONE)], out)
    }

    /// Appends packets that leave together, as few frames: where bundles are in force one for all of
    /// them, as far as a frame goes. Packets with an offload header are for sessions that have
    /// [`Features::offload`] in force.
    ///
    /// # Errors
    ///
    /// As [`seal_packet`](Self::seal_packet); what was appended before the one that fails stays.
    pub fn seal_packets<'p>(
        &mut self,
        now: Instant,
        packets: impl IntoIterator<Item = (&'p [u8], Offload)>,
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        if self.phase != Phase::Up {
            return Err(SessionError::Ended);
        }
        self.control.seal_confirmation(&mut self.seals.sealer, out)?;
        let mut packets = packets.into_iter().peekable();
        while let Some((packet, offload)) = packets.next() {
            let is_alone = packets.peek().is_none();
            if offload.is_none() && (is_alone || !self.features.bundle) {
                self.seals.sealer.seal(FrameType::IpPacket, packet, out)?;
            } else if offload.is_none() || self.features.offload {
                self.seal_bundle((packet, offload), &mut packets, out)?;
            } else {
                return Err(SealError::OffloadNotInForce.into());
            }
        }
        self.silence.sent(now);
        self.unanswered.sent(now);
        self.check_key_use();
        Ok(())
    }

    /// A bundle of `first` and as many of those behind it as its frame takes.
    fn seal_bundle<'p>(
        &mut self,
        first: (&'p [u8], Offload),
        others: &mut Peekable<impl Iterator<Item = (&'p [u8], Offload)>>,
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        let length = first.0.len();
        if !(1..=MAX_PACKET).contains(&length) {
            return Err(SealError::Length { kind: FrameType::IpBundle, length }.into());
        }
        self.seals.sealer.seal_with(FrameType::IpBundle, out, |out| {
            let mut room = MAX_BUNDLE.saturating_sub(RECORD_OVERHEAD + length);
            put_record(first.0, first.1, out);
            let mut fits = |(packet, offload): &(&[u8], Offload)| {
                let needed = RECORD_OVERHEAD + packet.len();
                let fits = needed <= room
                    && (1..=MAX_PACKET).contains(&packet.len())
                    && (offload.is_none() || self.features.offload);
                if fits {
                    room -= needed;
                }
                fits
            };
            while let Some((packet, offload)) = others.next_if(&mut fits) {
                put_record(packet, offload, out);
            }
        })?;
        Ok(())
    }
}
