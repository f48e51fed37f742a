//! Packet records: what an IpBundle holds (PROTOCOL §6).
//!
//! ```text
//! record = word:4 || [offload:10] || packet
//! word   = bit 31: an offload header follows; bits 30–24: zero; bits 23–0: length of packet
//! ```

use crate::codec::close::CloseCode;
use crate::error::ErrorCode;
use crate::packet::{OFFLOAD_LEN, Offload, Record};

/// The length of a record's first word in bytes.
const WORD_LEN: usize = 4;

/// What a record has in front of its packet at most, in bytes.
pub const RECORD_OVERHEAD: usize = WORD_LEN + OFFLOAD_LEN;

/// The longest packet of a record, in bytes.
pub const MAX_PACKET: usize = 65_535;

const HAS_OFFLOAD: u32 = 1 << 31;
const LENGTH: u32 = 0x00ff_ffff;

/// Appends the record of a packet, which has 1 to [`MAX_PACKET`] bytes. The offload header is left out
/// where the packet is complete.
pub fn put_record(packet: &[u8], offload: Offload, out: &mut Vec<u8>) {
    debug_assert!((1..=MAX_PACKET).contains(&packet.len()), "{} bytes", packet.len());
    // Within 24 bits by what the caller keeps to.
    let length = packet.len() as u32 & LENGTH;
    if offload.is_none() {
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.extend_from_slice(&(length | HAS_OFFLOAD).to_be_bytes());
        out.extend_from_slice(&offload.to_wire());
    }
    out.extend_from_slice(packet);
}

/// The records of one bundle, in order. Their structure is sound; what the packets are is not judged here.
#[derive(Debug)]
pub struct Records<'a> {
    rest: &'a mut [u8],
}

impl<'a> Records<'a> {
    /// Checks that `plaintext` is a sequence of records. `offload`: whether that feature is in force.
    ///
    /// # Errors
    ///
    /// A [`BundleError`]; none of the bundle's packets counts.
    pub fn parse(plaintext: &'a mut [u8], offload: bool) -> Result<Self, BundleError> {
        let mut rest: &[u8] = plaintext;
        loop {
            let (head, after) = Head::read(rest, offload)?;
            rest = after.get(head.length..).ok_or(BundleError::Cut)?;
            if rest.is_empty() {
                return Ok(Self { rest: plaintext });
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let bytes = std::mem::take(&mut self.rest);
        // `parse` has seen every record whole, so nothing is lost by these.
        let (Head { length, offload }, after) = Head::read(bytes, true).ok()?;
        let begin = bytes.len() - after.len();
        let (packet, rest) = bytes.get_mut(begin..)?.split_at_mut_checked(length)?;
        self.rest = rest;
        Some(Record { packet, offload })
    }
}

/// What a record has in front of its packet.
struct Head {
    length: usize,
    offload: Offload,
}

impl Head {
    /// Reads it off the front of `bytes`; returns what follows.
    fn read(bytes: &[u8], allowed: bool) -> Result<(Self, &[u8]), BundleError> {
        let (word, after) = bytes.split_first_chunk::<WORD_LEN>().ok_or(BundleError::Cut)?;
        let word = u32::from_be_bytes(*word);
        if word & !(HAS_OFFLOAD | LENGTH) != 0 {
            return Err(BundleError::ReservedBit);
        }
        let length = (word & LENGTH) as usize;
        if !(1..=MAX_PACKET).contains(&length) {
            return Err(BundleError::Length(length));
        }
        if word & HAS_OFFLOAD == 0 {
            return Ok((Self { length, offload: Offload::NONE }, after));
        }
        if !allowed {
            return Err(BundleError::OffloadNotInForce);
        }
        let (header, after) = after.split_first_chunk().ok_or(BundleError::Cut)?;
        Ok((Self { length, offload: Offload::from_wire(*header) }, after))
    }
}

/// The peer's bundle is not a sequence of records. It ends the connection with 1002.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is no record, or the bundle ends inside one.
    #[error("a bundle ends inside a record")]
    Cut,
    /// Bits 30 to 24 of a record's word are zero.
    #[error("a reserved bit of a record is set")]
    ReservedBit,
    /// A record's packet has this length.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// A record has an offload header, and the feature is not in force.
    #[error("a record with an offload header, which is not in force")]
    OffloadNotInForce,
}

impl BundleError {
    /// How the connection ends.
    pub const fn close_code(self) -> CloseCode {
        CloseCode::ProtocolError
    }

    /// What the user is told.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::ProtocolError
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offload() -> impl Strategy<Value = Offload> {
        prop_oneof![Just(Offload::NONE), any::<[u8; OFFLOAD_LEN]>().prop_map(Offload::from_wire)]
    }

    fn read(plaintext: &mut [u8], offload: bool) -> Result<Vec<(Vec<u8>, Offload)>, BundleError> {
        let records = Records::parse(plaintext, offload)?;
        Ok(records.map(|record| (record.packet.to_vec(), record.offload)).collect())
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(
            records in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..200), offload()), 1..20)
        ) {
            let mut plaintext = Vec::new();
            for (packet, offload) in &records {
                put_record(packet, *offload, &mut plaintext);
            }
            let read_back = read(&mut plaintext.clone(), true);
            prop_assert_eq!(read_back.as_ref(), Ok(&records));
            let complete = records.iter().all(|(_, offload)| offload.is_none());
            let expected = if complete { Ok(records) } else { Err(BundleError::OffloadNotInForce) };
            prop_assert_eq!(read(&mut plaintext.clone(), false), expected);
            for cut in 1..plaintext.len().min(20) {
                let mut short = plaintext[..plaintext.len() - cut].to_vec();
                // A cut between two records leaves a bundle.
                if let Ok(read) = read(&mut short, true) {
                    prop_assert!(!read.is_empty());
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut plaintext in prop::collection::vec(any::<u8>(), 0..300), force: bool) {
            if let Ok(records) = read(&mut plaintext, force) {
                let mut again = Vec::new();
                for (packet, offload) in &records {
                    put_record(packet, *offload, &mut again);
                }
                // An offload header that asks for nothing is legal, and left out when written.
                prop_assert!(again.len() <= plaintext.len());
            }
        }
    }

    #[test]
    fn a_broken_record_spoils_its_bundle() {
        let mut good = Vec::new();
        put_record(b"packet", Offload::NONE, &mut good);
        for (tail, error) in [
            (&[0, 0, 0][..], BundleError::Cut),
            (&[0, 0, 0, 2, 1], BundleError::Cut),
            (&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], BundleError::Cut),
            (&[0, 0, 0, 0], BundleError::Length(0)),
            (&[0, 1, 0, 0, 1], BundleError::Length(65_536)),
            (&[0x40, 0, 0, 1, 1], BundleError::ReservedBit),
            (&[0x01, 0, 0, 1, 1], BundleError::ReservedBit),
        ] {
            let mut broken = [&good[..], tail].concat();
            assert_eq!(read(&mut broken, true), Err(error), "{tail:?}");
        }
        assert_eq!(read(&mut [], true), Err(BundleError::Cut));
    }
}
