//! What a hello carries and nobody else may see: the bearer token and the resume ticket.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A bearer credential: 1–4,096 bytes of printable ASCII without blanks (PROTOCOL §3). Erased
/// when dropped, compared in constant time, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Token(String);

impl Token {
    /// The longest token in bytes.
    pub const MAX_LEN: usize = 4096;

    /// A token, unless the text is empty, too long or not printable ASCII (0x21–0x7E); it is
    /// erased then.
    pub fn new(text: String) -> Option<Self> {
        let token = Self(text);
        let bytes = token.0.as_bytes();
        let fits = (1..=Self::MAX_LEN).contains(&bytes.len());
        (fits && bytes.iter().all(u8::is_ascii_graphic)).then_some(token)
    }

    /// The credential itself, to be checked or stored by its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    /// Takes the same time for any two tokens of one length.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A resume ticket, opaque to the client: at most 1,024 bytes (PROTOCOL §8). Whoever holds an NK
/// ticket is the client, so it is erased when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Ticket(Vec<u8>);

impl Ticket {
    /// The longest ticket in bytes.
    pub const MAX_LEN: usize = 1024;

    /// A ticket, unless it is too long; it is erased then.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let ticket = Self(bytes);
        (ticket.0.len() <= Self::MAX_LEN).then_some(ticket)
    }

    /// The ticket's bytes, to be sent or opened.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Ticket {
    /// Takes the same time for any two tickets of one length.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Ticket {}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn erased_on_drop<T: ZeroizeOnDrop>() {}

    #[test]
    fn secrets_are_erased_and_never_printed() {
        erased_on_drop::<Token>();
        erased_on_drop::<Ticket>();
        assert_eq!(format!("{:?}", Token::new("hunter2".into()).unwrap()), "[redacted]");
        assert_eq!(format!("{:?}", Ticket::new(vec![1, 2, 3]).unwrap()), "[redacted]");
    }

    #[test]
    fn a_token_is_printable_ascii() {
        for byte in 0..=0x7f_u8 {
            let fits = (0x21..=0x7e).contains(&byte);
            assert_eq!(Token::new(char::from(byte).to_string()).is_some(), fits, "{byte:#04x}");
        }
        assert!(Token::new("ü".into()).is_none());
        for (length, fits) in [(0, false), (1, true), (4096, true), (4097, false)] {
            assert_eq!(Token::new("a".repeat(length)).is_some(), fits, "{length}");
        }
    }

    #[test]
    fn a_ticket_has_a_longest_length() {
        for (length, fits) in [(0, true), (1024, true), (1025, false)] {
            assert_eq!(Ticket::new(vec![0; length]).is_some(), fits, "{length}");
        }
    }

    #[test]
    fn comparison_sees_every_byte() {
        let token = |text: &str| Token::new(text.to_owned()).unwrap();
        assert_eq!(token("abc"), token("abc"));
        for other in ["abd", "xbc", "ab", "abcd"] {
            assert_ne!(token("abc"), token(other));
        }
        assert_eq!(Ticket::new(vec![1, 2]), Ticket::new(vec![1, 2]));
        assert_ne!(Ticket::new(vec![1, 2]), Ticket::new(vec![1, 3]));
    }
}
