//! Netlink attributes: length, kind, value, padding to four bytes.

/// Length of a `struct nlattr`.
const HEADER_LEN: usize = 4;
/// The bits of the kind that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const KIND_MASK: u16 = 0x3fff;

/// One attribute as it stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) struct Attribute<'a> {
    /// The kind, without its flags.
    pub(in crate::network) kind: u16,
    /// The value, without header and padding.
    pub(in crate::network) value: &'a [u8],
    /// Header and value, without padding.
    pub(in crate::network) whole: &'a [u8],
}

/// The attributes that lie one after the other in `bytes`, up to the first malformed one.
pub(in crate::network) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let [length_low, length_high, kind_low, kind_high] = *header;
        let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & KIND_MASK;
        let whole = bytes.get(..length)?;
        let value = whole.get(HEADER_LEN..)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value, whole })
    })
}

/// The value of the first attribute of this kind.
pub(in crate::network) fn find_attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEADER_LEN + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn walks_over_padding_and_strips_flags() {
        let bytes = [encode(3, b"lo\0"), encode(0x8000 | 4, &7_u32.to_ne_bytes())].concat();
        let found: Vec<_> = attributes(&bytes).map(|found| (found.kind, found.value)).collect();
        assert_eq!(found, [(3, &b"lo\0"[..]), (4, &7_u32.to_ne_bytes()[..])]);
        assert_eq!(find_attribute(&bytes, 4), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(find_attribute(&bytes, 5), None);
    }

    #[test]
    fn ends_at_what_is_malformed() {
        let good = encode(1, b"abcd");
        for bad in [&[0, 0, 0, 0][..], &[3, 0, 1, 0], &[9, 0, 1, 0, 1], &[8], &[]] {
            let bytes = [good.as_slice(), bad].concat();
            assert_eq!(attributes(&bytes).count(), 1, "{bad:?}");
        }
    }

    #[test]
    fn the_last_one_needs_no_padding() {
        let bytes = &encode(1, b"abc")[..7];
        assert_eq!(attributes(bytes).map(|found| found.value).collect::<Vec<_>>(), [b"abc"]);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(
            written in proptest::collection::vec(
                (0..KIND_MASK, proptest::collection::vec(proptest::num::u8::ANY, 0..20)), 0..10)
        ) {
            let bytes: Vec<u8> = written.iter().flat_map(|(kind, value)| encode(*kind, value)).collect();
            let read: Vec<_> = attributes(&bytes).map(|found| (found.kind, found.value.to_vec())).collect();
            proptest::prop_assert_eq!(read, written);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let read: usize = attributes(&bytes).map(|found| found.whole.len()).sum();
            proptest::prop_assert!(read <= bytes.len());
        }
    }
}
