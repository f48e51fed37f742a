//! The Internet checksum (RFC 1071) and its change in place (RFC 1624).

/// A one's complement sum in the making. Every part but the last must have an even length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u32);

impl Sum {
    /// Adds `bytes` as big-endian words; an odd last byte counts as if a zero followed.
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<2>();
        // An IP packet has fewer than 2^15 words, so the carries of a few of them fit above.
        self.0 += words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum::<u32>();
        if let [last] = rest {
            self.0 += u32::from(*last) << 8;
        }
        Self(u32::from(self.fold()))
    }

    /// What goes into the checksum field.
    pub(super) fn checksum(self) -> u16 {
        !self.fold()
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Folded below 2^16 just now.
        sum as u16
    }
}

/// The checksum after a word of what it covers changed from `old` to `new` (RFC 1624, equation 3).
/// A value that lies across two words is given with its bytes swapped (RFC 1071 §2 B).
pub(super) fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(u32::from(!checksum) + u32::from(!old) + u32::from(new)).checksum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Sum, updated};

    #[test]
    fn sums_the_example_of_rfc_1071() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn updates_the_example_of_rfc_1624() {
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn parts_and_updates_agree_with_the_whole(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..200), word in 0..4_usize, new: u16,
        ) {
            // What it covers is never all zeros: neither is any header.
            bytes[7] |= 1;
            let whole = Sum::default().add(&bytes).checksum();
            prop_assert_eq!(Sum::default().add(&bytes[..6]).add(&bytes[6..]).checksum(), whole);
            let at = word * 2;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let new = if word == 3 { new | 1 } else { new };
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(updated(whole, old, new), Sum::default().add(&bytes).checksum());
        }
    }
}
