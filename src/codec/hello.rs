//! Hellos: the JSON payloads of handshake messages 1 and 2 (PROTOCOL §3).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

pub use crate::codec::features::Features;
use crate::codec::frame::MAX_HANDSHAKE;
pub use crate::codec::json::JsonError as HelloError;
use crate::codec::json::{Object, Value};
pub use crate::codec::reject::{RejectCode, Rejection};
use crate::codec::secret::{Ticket, Token};
pub use crate::codec::server_hello::{Accepted, AcceptedV6, ServerHello};

/// The version of the protocol that this crate speaks.
pub const VERSION: u64 = 1;

/// The length of an ML-KEM-768 encapsulation key in bytes (FIPS 203).
pub const MLKEM_KEY_LEN: usize = 1184;

/// The length of an ML-KEM-768 ciphertext in bytes (FIPS 203).
pub const MLKEM_CIPHERTEXT_LEN: usize = 1088;

/// A hello of message 1.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The highest version the client speaks. If it is not [`VERSION`], the other members belong to
    /// a protocol unknown here and are left empty; the answer is `unsupported-version`.
    pub version: u64,
    /// The features it offers.
    pub features: Features,
    /// The largest tunnel MTU it wants, 576–65,535 bytes.
    pub mtu: Option<u16>,
    /// A bearer credential.
    pub token: Option<Token>,
    /// An ML-KEM-768 encapsulation key of [`MLKEM_KEY_LEN`] bytes.
    pub mlkem768: Option<Vec<u8>>,
    /// A resume ticket (PROTOCOL §8).
    pub ticket: Option<Ticket>,
    /// A label for people; see [`is_client_name`].
    pub name: Option<String>,
}

impl Default for ClientHello {
    /// The least hello: this version and nothing else.
    fn default() -> Self {
        Self {
            version: VERSION,
            features: Features::NONE,
            mtu: None,
            token: None,
            mlkem768: None,
            ticket: None,
            name: None,
        }
    }
}

impl ClientHello {
    /// Reads the payload of message 1.
    ///
    /// # Errors
    ///
    /// Any [`HelloError`]: the server rejects it with [`RejectCode::BadRequest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HelloError> {
        let hello = Object::parse(bytes)?;
        let version = hello.required("version", |value| value.integer(0..=u64::MAX))?;
        if version != VERSION {
            return Ok(Self { version, ..Self::default() });
        }
        Ok(Self {
            version,
            features: hello.optional("features", offered)?.unwrap_or_default(),
            mtu: hello.optional("mtu", |value| value.integer(576..=65_535))?,
            token: hello.optional("token", |value| Token::new(value.string()?))?,
            mlkem768: hello.optional("mlkem768", |value| base64_of(value, MLKEM_KEY_LEN))?,
            ticket: hello.optional("ticket", ticket)?,
            name: hello.optional("name", |value| value.string().filter(|name| is_client_name(name)))?,
        })
    }

    /// The payload of message 1: compact JSON in the order of PROTOCOL §3, without what is absent.
    /// It is erased when dropped, for it may hold a credential.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Wire<'a> {
            version: u64,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            features: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mtu: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mlkem768: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            ticket: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
        }
        let ticket = self.ticket.as_ref().map(ticket_text);
        encode(&Wire {
            version: self.version,
            features: self.features.names(),
            mtu: self.mtu,
            token: self.token.as_ref().map(Token::expose),
            mlkem768: self.mlkem768.as_ref().map(|key| STANDARD.encode(key)),
            ticket: ticket.as_ref().map(|text| text.as_str()),
            name: self.name.as_deref(),
        })
    }
}

impl fmt::Debug for ClientHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHello")
            .field("version", &self.version)
            .field("features", &self.features.names())
            .field("mtu", &self.mtu)
            .field("token", &self.token)
            .field("mlkem768", &self.mlkem768.is_some())
            .field("ticket", &self.ticket)
            .field("name", &self.name)
            .finish()
    }
}

/// Whether a text may be a client's label: at most 64 code points, no control characters.
pub fn is_client_name(text: &str) -> bool {
    text.chars().count() <= 64 && !text.chars().any(char::is_control)
}

/// Whether a text may be a client's id: 1–64 bytes of `[A-Za-z0-9._-]`.
pub fn is_client_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

/// The names in a list of features: at most 32, of at most 32 characters each.
pub(super) fn feature_names(value: &Value<'_>) -> Option<Vec<String>> {
    value.array(32, |name| name.string().filter(|name| name.chars().count() <= 32))
}

fn offered(value: &Value<'_>) -> Option<Features> {
    let mut features = Features::NONE;
    for name in feature_names(value)? {
        // A feature that is unknown here cannot be put in force.
        let _known = features.insert(&name);
    }
    Some(features)
}

/// Exactly `length` bytes in base64.
pub(super) fn base64_of(value: &Value<'_>, length: usize) -> Option<Vec<u8>> {
    STANDARD.decode(value.string()?).ok().filter(|bytes| bytes.len() == length)
}

pub(super) fn ticket(value: &Value<'_>) -> Option<Ticket> {
    let text = Zeroizing::new(value.string()?);
    Ticket::new(STANDARD.decode(text.as_str()).ok()?)
}

pub(super) fn ticket_text(ticket: &Ticket) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(ticket.expose()))
}

/// Compact JSON in a buffer that does not grow for any hello that fits into a frame, so growth
/// leaves no copy of a credential behind.
#[expect(clippy::expect_used, reason = "strings, numbers and lists of them always serialise into a Vec")]
pub(super) fn encode(wire: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_HANDSHAKE));
    serde_json::to_writer(&mut *bytes, wire).expect("a hello serialises");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ClientHello, HelloError> {
        ClientHello::parse(text.as_bytes())
    }

    /// A hello with one more member.
    fn with(member: &str) -> Result<ClientHello, HelloError> {
        parse(&format!("{{\"version\":1,{member}}}"))
    }

    fn full() -> ClientHello {
        ClientHello {
            version: 1,
            features: Features { bundle: true, offload: true, rekey: true },
            mtu: Some(1420),
            token: Token::new("secret".into()),
            mlkem768: Some(vec![7; MLKEM_KEY_LEN]),
            ticket: Ticket::new(vec![1, 2, 3]),
            name: Some("laptop ü".into()),
        }
    }

    #[test]
    fn the_least_hello() {
        assert_eq!(parse("{\"version\":1}"), Ok(ClientHello::default()));
        assert_eq!(ClientHello::default().encode().as_slice(), b"{\"version\":1}");
    }

    #[test]
    fn a_full_hello_is_compact_and_in_order() {
        let hello = ClientHello { mlkem768: None, ..full() };
        let text = "{\"version\":1,\"features\":[\"bundle\",\"offload\",\"rekey\"],\"mtu\":1420,\
                    \"token\":\"secret\",\"ticket\":\"AQID\",\"name\":\"laptop ü\"}";
        assert_eq!(std::str::from_utf8(&hello.encode()), Ok(text));
        assert_eq!(parse(text), Ok(hello));
        assert_eq!(ClientHello::parse(&full().encode()), Ok(full()));
    }

    #[test]
    fn a_long_hello_fits_and_its_buffer_does_not_grow() {
        let hello = ClientHello {
            token: Token::new("a".repeat(Token::MAX_LEN)),
            ticket: Ticket::new(vec![0; Ticket::MAX_LEN]),
            name: Some("😀".repeat(64)),
            ..full()
        };
        let bytes = hello.encode();
        assert!(bytes.len() + 48 < MAX_HANDSHAKE);
        assert_eq!(bytes.capacity(), MAX_HANDSHAKE);
    }

    #[test]
    fn another_version_hides_the_other_members() {
        for version in [0, 2, u64::MAX] {
            let hello = parse(&format!("{{\"version\":{version},\"mtu\":\"large\"}}"));
            assert_eq!(hello, Ok(ClientHello { version, ..ClientHello::default() }));
        }
        for version in ["1.0", "-1", "1e0", "\"1\"", "true", "18446744073709551616", "[1]"] {
            let hello = parse(&format!("{{\"version\":{version}}}"));
            assert_eq!(hello, Err(HelloError::Invalid("version")), "{version}");
        }
        assert_eq!(parse("{}"), Err(HelloError::Missing("version")));
        assert_eq!(parse("{\"version\":null}"), Err(HelloError::Missing("version")));
    }

    #[test]
    fn known_members_stand_once() {
        for member in ["features", "mtu", "token", "mlkem768", "ticket", "name"] {
            let twice = format!("\"{member}\":null,\"{member}\":null");
            assert_eq!(with(&twice), Err(HelloError::Invalid(member)));
            assert_eq!(with(&format!("\"{member}\":null")), Ok(ClientHello::default()));
            for wrong in ["true", "{}", "-1", "1.5", "[[]]"] {
                let hello = with(&format!("\"{member}\":{wrong}"));
                assert_eq!(hello, Err(HelloError::Invalid(member)), "{wrong}");
            }
            if member != "features" {
                let lone = with(&format!("\"{member}\":\"\\ud800\""));
                assert_eq!(lone, Err(HelloError::Invalid(member)));
            }
        }
        assert_eq!(with("\"z\":1,\"z\":\"\\ud800\",\"\\ud800\":1"), Ok(ClientHello::default()));
    }

    #[test]
    fn features_are_few_and_short() {
        let list = |names: Vec<String>| with(&format!("\"features\":{}", serde_json::json!(names)));
        assert_eq!(list(vec!["x".into(), "rekey".into()]).unwrap().features.names(), ["rekey"]);
        assert_eq!(list(vec!["rekey".into(); 2]).unwrap().features.names(), ["rekey"]);
        assert!(list(vec!["x".into(); 32]).is_ok() && list(vec!["x".into(); 33]).is_err());
        assert!(list(vec!["ü".repeat(32)]).is_ok() && list(vec!["ü".repeat(33)]).is_err());
        assert!(with("\"features\":[1]").is_err() && with("\"features\":[null]").is_err());
        assert!(with("\"features\":[\"\\udfff\"]").is_err());
    }

    #[test]
    fn ranges_end_where_they_should() {
        for (mtu, fits) in [(575, false), (576, true), (65_535, true), (65_536, false)] {
            assert_eq!(with(&format!("\"mtu\":{mtu}")).is_ok(), fits, "{mtu}");
        }
        for (length, fits) in [(0, false), (1, true), (4096, true), (4097, false)] {
            assert_eq!(with(&format!("\"token\":\"{}\"", "~".repeat(length))).is_ok(), fits, "{length}");
        }
        assert!(with("\"token\":\"a b\"").is_err() && with("\"token\":\"a\\u007f\"").is_err());
        for (length, fits) in [(0, true), (64, true), (65, false)] {
            assert_eq!(with(&format!("\"name\":\"{}\"", "😀".repeat(length))).is_ok(), fits, "{length}");
        }
        for control in ["\\n", "\\u0000", "\u{7f}", "\u{85}", "\u{9f}"] {
            assert!(with(&format!("\"name\":\"a{control}\"")).is_err(), "{control:?}");
        }
        for (length, fits) in [(1183, false), (1184, true), (1185, false)] {
            let key = STANDARD.encode(vec![0; length]);
            assert_eq!(with(&format!("\"mlkem768\":\"{key}\"")).is_ok(), fits, "{length}");
        }
        for (length, fits) in [(0, true), (1024, true), (1025, false)] {
            let ticket = STANDARD.encode(vec![0; length]);
            assert_eq!(with(&format!("\"ticket\":\"{ticket}\"")).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn base64_is_strict() {
        assert!(with("\"ticket\":\"+/8=\"").is_ok());
        for text in
            ["+/8", "-_8=", "+/8==", "+/9=", " +/8=", "+/8=\\n", "+/8=AAAA", "=", "A", "AA=A", "AAA=AAA="]
        {
            assert!(with(&format!("\"ticket\":\"{text}\"")).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_short_and_plain() {
        for id in ["a", "A-b_c.9", &"x".repeat(64)] {
            assert!(is_client_id(id), "{id}");
        }
        for id in ["", "a b", "ü", "a/b", "a\0", &"x".repeat(65)] {
            assert!(!is_client_id(id), "{id}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", full());
        assert!(printed.contains("laptop") && printed.contains("[redacted]"));
        assert!(!printed.contains("secret") && !printed.contains("[1, 2, 3]"), "{printed}");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            bundle: bool, offload: bool, rekey: bool,
            mtu in prop::option::of(576..=u16::MAX),
            token in prop::option::of("[!-~]{1,40}"),
            ticket in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            name in prop::option::of("[^\\p{Cc}]{0,64}"),
        ) {
            let hello = ClientHello {
                version: VERSION,
                features: Features { bundle, offload, rekey },
                mtu,
                token: token.and_then(Token::new),
                mlkem768: None,
                ticket: ticket.and_then(Ticket::new),
                name,
            };
            prop_assert_eq!(ClientHello::parse(&hello.encode()), Ok(hello));
        }
    }
}
