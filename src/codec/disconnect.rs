//! Disconnect: the last frame of a session (PROTOCOL §9).

use serde::Serialize;

use crate::codec::json::{JsonError, Object, Value};
use crate::error::ErrorCode;

/// The longest message in characters.
const MAX_MESSAGE_CHARS: usize = 256;

/// The longest encoded Disconnect in bytes, sealed or plain (PROTOCOL §2).
const MAX_LEN: usize = 1024;

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisconnectCode {
    /// The client leaves.
    ClientDisconnect,
    /// The server stops.
    ShuttingDown,
    /// The operator ended the session. Codes that this version does not know count as this one.
    Kicked,
    /// A newer connection of the same client took over.
    Replaced,
    /// Nothing was carried for too long.
    IdleTimeout,
    /// The client's registration was removed.
    Removed,
    /// The other end broke the protocol.
    ProtocolError,
}

impl DisconnectCode {
    /// Every code.
    pub const ALL: [Self; 7] = [
        Self::ClientDisconnect,
        Self::ShuttingDown,
        Self::Kicked,
        Self::Replaced,
        Self::IdleTimeout,
        Self::Removed,
        Self::ProtocolError,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        self.error_code().as_str()
    }

    /// What the user is told.
    pub const fn error_code(self) -> ErrorCode {
        match self {
            Self::ClientDisconnect => ErrorCode::ClientDisconnect,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::Kicked => ErrorCode::Kicked,
            Self::Replaced => ErrorCode::Replaced,
            Self::IdleTimeout => ErrorCode::IdleTimeout,
            Self::Removed => ErrorCode::Removed,
            Self::ProtocolError => ErrorCode::ProtocolError,
        }
    }

    fn from_wire(code: &str) -> Self {
        Self::ALL.into_iter().find(|known| known.as_str() == code).unwrap_or(Self::Kicked)
    }
}

/// The payload of a Disconnect frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why the session ends.
    pub code: DisconnectCode,
    /// The same for people, at most 256 characters; as untrusted as any peer's text.
    pub message: String,
}

impl Disconnect {
    /// Reads the plaintext, or before keys exist the payload, of a Disconnect frame.
    ///
    /// # Errors
    ///
    /// Any [`JsonError`], by the rules of a hello.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let disconnect = Object::parse(bytes)?;
        let short = |message: &String| message.chars().count() <= MAX_MESSAGE_CHARS;
        Ok(Self {
            code: DisconnectCode::from_wire(&disconnect.required("code", Value::string)?),
            message: disconnect.required("message", |value| value.string().filter(short))?,
        })
    }

    /// Compact JSON of 2–1,024 bytes. A message that is too long for the frame loses its end.
    pub fn encode(&self) -> Vec<u8> {
        let mut message: String = self.message.chars().take(MAX_MESSAGE_CHARS).collect();
        loop {
            let bytes = self.encode_with(&message);
            if bytes.len() <= MAX_LEN {
                return bytes;
            }
            message.pop();
        }
    }

    #[expect(clippy::expect_used, reason = "two strings always serialise into a Vec")]
    fn encode_with(&self, message: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            code: &'a str,
            message: &'a str,
        }
        serde_json::to_vec(&Wire { code: self.code.as_str(), message }).expect("strings serialise")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Disconnect, JsonError> {
        Disconnect::parse(text.as_bytes())
    }

    #[test]
    fn codes_go_both_ways() {
        let texts = [
            "client-disconnect",
            "shutting-down",
            "kicked",
            "replaced",
            "idle-timeout",
            "removed",
            "protocol-error",
        ];
        for (code, text) in DisconnectCode::ALL.into_iter().zip(texts) {
            assert_eq!(code.as_str(), text);
            let disconnect = Disconnect { code, message: "bye \"ü\"\n".into() };
            assert_eq!(Disconnect::parse(&disconnect.encode()), Ok(disconnect));
        }
    }

    #[test]
    fn the_encoding_is_compact() {
        let disconnect = Disconnect { code: DisconnectCode::ClientDisconnect, message: String::new() };
        assert_eq!(disconnect.encode(), b"{\"code\":\"client-disconnect\",\"message\":\"\"}");
    }

    #[test]
    fn an_unknown_code_counts_as_kicked() {
        let disconnect = parse("{\"code\":\"of-the-future\",\"message\":\"m\",\"z\":1}").unwrap();
        assert_eq!(disconnect, Disconnect { code: DisconnectCode::Kicked, message: "m".into() });
    }

    #[test]
    fn both_members_are_strings() {
        for text in [
            "",
            "{}",
            "{\"code\":\"kicked\"}",
            "{\"message\":\"m\"}",
            "{\"code\":1,\"message\":\"m\"}",
            "{\"code\":\"kicked\",\"message\":1}",
            "{\"code\":\"kicked\",\"code\":\"kicked\",\"message\":\"m\"}",
            "{\"code\":\"kicked\",\"message\":\"\\ud800\"}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_ends_at_256_characters() {
        for (length, fits) in [(256, true), (257, false)] {
            let text = format!("{{\"code\":\"kicked\",\"message\":\"{}\"}}", "é".repeat(length));
            assert_eq!(parse(&text).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn whatever_the_message_the_frame_is_legal() {
        for unit in ["a", "é", "😀", "\0", "\"", "\n"] {
            for length in [0, 1, 150, 256, 300, 5000] {
                for code in DisconnectCode::ALL {
                    let whole = Disconnect { code, message: unit.repeat(length) };
                    let bytes = whole.encode();
                    assert!((2..=MAX_LEN).contains(&bytes.len()), "{unit:?} {length}");
                    let parsed = Disconnect::parse(&bytes).unwrap();
                    assert_eq!(parsed.code, code);
                    assert!(whole.message.starts_with(&parsed.message));
                    if length <= 150 {
                        assert_eq!(parsed.message, whole.message);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(code in 0..DisconnectCode::ALL.len(), message in "\\PC{0,256}") {
            let disconnect = Disconnect { code: DisconnectCode::ALL[code], message };
            let bytes = disconnect.encode();
            let parsed = Disconnect::parse(&bytes).unwrap();
            prop_assert!(bytes.len() <= MAX_LEN);
            prop_assert_eq!(parsed.code, disconnect.code);
            // Whole, unless it is too long for the frame.
            prop_assert!(disconnect.message.starts_with(&parsed.message));
            prop_assert!(parsed == disconnect || bytes.len() + 12 > MAX_LEN);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Disconnect::parse(&bytes);
        }
    }
}
