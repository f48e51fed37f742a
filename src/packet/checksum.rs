//! The Internet checksum (RFC 1071) and its change in place (RFC 1624).

/// A one's complement sum in the making. Every part but the last must have an even length.
///
/// Kept as a plain sum of 32-bit words in the machine's own byte order: the carries are folded and the
/// bytes swapped once, at the end (RFC 1071 §2 B), and the loop over the words becomes vector instructions.
/// 2^32 words fit, a packet has fewer than 2^15.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds `bytes` as big-endian words; an odd last byte counts as if a zero followed.
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let last = match *rest {
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            _ => [0; 4],
        };
        Self(self.0 + sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a length, of 16 bits or of 32.
    pub(super) fn add_length(self, length: usize) -> Self {
        Self(self.0 + u64::from(fold(length as u64).to_be()))
    }

    /// Takes a length off again.
    pub(super) fn subtract_length(self, length: usize) -> Self {
        Self(self.0 + u64::from((!fold(length as u64)).to_be()))
    }

    /// What goes into the checksum field.
    pub(super) fn checksum(self) -> u16 {
        !self.partial()
    }

    /// The sum itself: what goes into the field of a checksum that is still to be completed.
    pub(super) fn partial(self) -> u16 {
        u16::from_be(fold(self.0))
    }
}

/// The one's complement sum of the 16-bit words.
fn fold(sum: u64) -> u16 {
    // Below 2^33, 2^18, 2^16 + 3 and 2^16, without a branch.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum after a word of what it covers changed from `old` to `new` (RFC 1624, equation 3).
/// A value that lies across two words is given with its bytes swapped (RFC 1071 §2 B).
pub(super) fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
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

    /// Word by word.
    fn plain(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum: u16, word| {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    #[test]
    fn no_carry_of_the_longest_packets_is_lost() {
        for length in [65_535, 65_536, 1 << 20] {
            let sum = Sum::default().add(&vec![0xff; length]);
            assert_eq!(sum.partial(), plain(&vec![0xff; length]), "{length}");
            assert_eq!(sum.add_length(0x0001_2345).subtract_length(0x0001_2345).partial(), sum.partial());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000), length in 0..100_000_usize,
        ) {
            prop_assert_eq!(Sum::default().add(&bytes).partial(), plain(&bytes));
            let words = u32::try_from(length).unwrap().to_be_bytes();
            prop_assert_eq!(Sum::default().add_length(length).partial(), plain(&words));
            let zero = Sum::default().add_length(length).subtract_length(length).partial();
            prop_assert!(zero == 0xffff);
        }

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
