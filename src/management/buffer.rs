//! Bytes on their way in or out. They may hold keys, so they are erased.

use zeroize::Zeroizing;

/// An empty buffer keeps no more than this: most controllers are silent most of the time.
const KEPT: usize = 4096;

/// A queue of bytes.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    /// What lies before this has been taken.
    start: usize,
}

impl Buffer {
    /// What has not been taken yet.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes at the end.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            // A vector that grows by itself would leave its old memory as it is.
            let capacity = (2 * self.len()).max(self.len() + bytes.len());
            let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
            grown.extend_from_slice(self.bytes());
            (self.bytes, self.start) = (grown, 0);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes `count` bytes off the front; no more than there are.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.start < self.bytes.len() {
            return;
        }
        self.start = 0;
        if self.bytes.capacity() > KEPT {
            self.bytes = Zeroizing::default();
        } else {
            self.bytes.fill(0);
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Buffer;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(steps in prop::collection::vec((0..9000_usize, 0..9000_usize), 1..40)) {
            let (mut buffer, mut expected) = (Buffer::default(), Vec::new());
            for (step, (pushed, consumed)) in steps.into_iter().enumerate() {
                let bytes = vec![step as u8; pushed];
                buffer.push(&bytes);
                expected.extend(bytes);
                prop_assert_eq!(buffer.bytes(), &expected[..]);
                let consumed = consumed.min(expected.len());
                buffer.consume(consumed);
                expected.drain(..consumed);
                prop_assert_eq!((buffer.bytes(), buffer.is_empty()), (&expected[..], expected.is_empty()));
            }
        }
    }
}
