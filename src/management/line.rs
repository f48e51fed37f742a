//! Lines out of a stream of bytes.

use zeroize::Zeroizing;

use super::buffer::Buffer;

/// The longest line that a controller may send, in bytes without its newline (API §7).
pub const LINE_LIMIT: usize = 65_536;

/// A line is longer than [`LINE_LIMIT`]. Where the next one begins is not known, so no line follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Collects bytes and gives lines.
#[derive(Default)]
pub(super) struct Lines {
    buffer: Buffer,
    /// So many bytes at the front are known to hold no newline.
    scanned: usize,
}

impl Lines {
    /// Adds what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// The next whole line, without its newline; none until more is read.
    pub(super) fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let bytes = self.buffer.bytes();
        let fresh = bytes.get(self.scanned..).unwrap_or_default();
        let Some(length) = fresh.iter().position(|byte| *byte == b'\n').map(|at| self.scanned + at) else {
            self.scanned = bytes.len();
            return if bytes.len() > LINE_LIMIT { Err(TooLong) } else { Ok(None) };
        };
        if length > LINE_LIMIT {
            return Err(TooLong);
        }
        let line = bytes.get(..length).map(|line| Zeroizing::new(line.to_vec()));
        self.buffer.consume(length + 1);
        self.scanned = 0;
        Ok(line)
    }

    /// Whether the beginning of a line waits for its rest.
    pub(super) fn has_rest(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        found
    }

    #[test]
    fn lines_come_out_however_they_came_in() {
        let text = "one\n\nthree\r\nfour";
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.push(piece);
                found.extend(all(&mut lines));
            }
            assert_eq!(found, ["one", "", "three\r"], "in pieces of {size}");
            assert!(lines.has_rest());
            lines.push(b"\n");
            assert_eq!(all(&mut lines), ["four"]);
            assert!(!lines.has_rest());
        }
    }

    #[test]
    fn the_limit_is_exact_and_needs_no_newline() {
        let longest = vec![b'x'; LINE_LIMIT];
        let mut lines = Lines::default();
        lines.push(&longest);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"\nnext\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), LINE_LIMIT);
        assert_eq!(all(&mut lines), ["next"]);

        lines.push(&longest);
        lines.push(b"x");
        assert_eq!(lines.next(), Err(TooLong));
        lines.push(b"\n");
        assert_eq!(lines.next(), Err(TooLong));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_same_lines(
            text in "[a\n]{0,60}", cuts in proptest::collection::vec(1..10_usize, 1..60)
        ) {
            let (mut lines, mut found, mut rest) = (Lines::default(), Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().chain([text.len()]) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                lines.push(piece);
                found.extend(all(&mut lines));
                rest = behind;
            }
            let (whole, cut_short) = text.rsplit_once('\n').unwrap_or(("", &text));
            let expected: Vec<_> = if text.contains('\n') { whole.split('\n').collect() } else { Vec::new() };
            proptest::prop_assert_eq!(found, expected);
            proptest::prop_assert_eq!(lines.has_rest(), !cut_short.is_empty());
        }
    }
}
