//! Bytes that come in at one end and go out at the other, in one allocation that is used again.

/// What the first bytes are given room for.
const LEAST: usize = 4 * 1024;

/// A buffer between what is read and what is used up.
///
/// ```text
///         start          end          data.len()
/// ────────┬──────────────┬────────────┐
///   used  │ held         │ room       │
/// ────────┴──────────────┴────────────┘
/// ```
#[derive(Default)]
pub(super) struct Buffer {
    /// Initialised once; what lies outside of `start..end` has no meaning.
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What is held.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// How much is held.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How much it has room for without an allocation.
    pub(super) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// The first `count` bytes have been used up.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for at least `least` bytes: all there is, behind what is held. Doubles if it must.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.data.len() - self.end < least {
            self.move_to_front();
            let needed = self.end + least;
            if self.data.len() < needed {
                self.grow(needed.max(2 * self.data.len()).max(LEAST));
            }
        }
        &mut self.data[self.end..]
    }

    /// Moves what is held to the beginning, so that all the room is behind it.
    pub(super) fn move_to_front(&mut self) {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The first `count` bytes of the room hold something now.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Puts `bytes` behind what is held.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Makes it `size` bytes long, if it is shorter.
    pub(super) fn grow(&mut self, size: usize) {
        if size > self.data.len() {
            self.data.reserve_exact(size - self.data.len());
            self.data.resize(size, 0);
        }
    }

    /// Gives back the memory beyond what is held.
    pub(super) fn fit(&mut self) {
        self.move_to_front();
        self.data.truncate(self.end);
        self.data.shrink_to_fit();
    }

    /// Gives the memory back, if nothing is held.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.data = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut buffer = Buffer::default();
        let (mut put, mut taken) = (0_u8, 0_u8);
        for step in 0..2000_usize {
            let bytes: Vec<u8> = (0..step % 37).map(|i| put.wrapping_add(i as u8)).collect();
            buffer.append(&bytes);
            put = put.wrapping_add(bytes.len() as u8);
            let count = (step * 7 % 41).min(buffer.len());
            assert!(buffer.bytes()[..count].iter().all(|&byte| {
                let expected = taken;
                taken = taken.wrapping_add(1);
                byte == expected
            }));
            buffer.consume(count);
        }
        assert!(buffer.capacity() <= 8 * 1024);
        buffer.consume(usize::MAX / 2);
        buffer.shrink();
        assert_eq!((buffer.capacity(), buffer.len()), (0, 0));
    }
}
