//! What a resume ticket says (PROTOCOL §8): JSON that only servers with the same key read.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::codec::hello::{self, is_client_id};
use crate::codec::json::{JsonError, Object, Value};

/// The session that a ticket's holder may take up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The client's id; see [`hello::is_client_id`].
    pub client_id: String,
    /// Its IPv4 address in the tunnel.
    pub assigned_ip: Ipv4Addr,
    /// Its IPv6 address, in a tunnel that has IPv6.
    pub assigned_ip6: Option<Ipv6Addr>,
    /// The limit of each direction when the ticket was written: bytes per second, and the burst in bytes.
    pub limit: Option<(u64, u64)>,
    /// When the ticket ceases to be valid, in Unix seconds.
    pub expires_at: u64,
    /// When the client last proved itself without a ticket, in Unix seconds.
    pub full_handshake_at: u64,
    /// The client's static key, if the session is one of pattern IK.
    pub client_key: Option<[u8; 32]>,
    /// Whether the session's keys hang on ML-KEM as well.
    pub hybrid: bool,
}

impl Claims {
    /// Reads what [`encode`](Self::encode) wrote, by this version or another.
    ///
    /// # Errors
    ///
    /// Any [`JsonError`]: the ticket is not valid.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let claims = Object::parse(bytes)?;
        let any = 0..=u64::MAX;
        let number = |name| claims.optional(name, |value| value.integer(any.clone()));
        let limit = match (number("rateLimitBytesPerSec")?, number("burstBytes")?) {
            (Some(rate), Some(burst)) => Some((rate, burst)),
            (None, None) => None,
            _ => return Err(JsonError::Invalid("burstBytes")),
        };
        let pattern = claims.required("pattern", Value::string)?;
        let client_key = claims.optional("clientKey", |value| {
            hello::base64_of(value, 32).and_then(|key| <[u8; 32]>::try_from(key).ok())
        })?;
        if !matches!((pattern.as_str(), client_key), ("NK", None) | ("IK", Some(_))) {
            return Err(JsonError::Invalid("pattern"));
        }
        Ok(Self {
            client_id: claims.required("clientId", |value| value.string().filter(|id| is_client_id(id)))?,
            assigned_ip: claims.required("assignedIp", parsed)?,
            assigned_ip6: claims.optional("assignedIp6", parsed)?,
            limit,
            expires_at: claims.required("expiresAt", |value| value.integer(any.clone()))?,
            full_handshake_at: claims.required("fullHandshakeAt", |value| value.integer(any.clone()))?,
            client_key,
            hybrid: claims.required("hybrid", Value::boolean)?,
        })
    }

    /// Compact JSON in the order of PROTOCOL §8, of some 400 bytes at most. Erased when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            client_id: &'a str,
            assigned_ip: Ipv4Addr,
            #[serde(skip_serializing_if = "Option::is_none")]
            assigned_ip6: Option<Ipv6Addr>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rate_limit_bytes_per_sec: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            burst_bytes: Option<u64>,
            expires_at: u64,
            full_handshake_at: u64,
            pattern: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_key: Option<String>,
            hybrid: bool,
        }
        let (rate_limit_bytes_per_sec, burst_bytes) = self.limit.unzip();
        hello::encode(&Wire {
            client_id: &self.client_id,
            assigned_ip: self.assigned_ip,
            assigned_ip6: self.assigned_ip6,
            rate_limit_bytes_per_sec,
            burst_bytes,
            expires_at: self.expires_at,
            full_handshake_at: self.full_handshake_at,
            pattern: if self.client_key.is_some() { "IK" } else { "NK" },
            client_key: self.client_key.map(|key| STANDARD.encode(key)),
            hybrid: self.hybrid,
        })
    }
}

fn parsed<T: FromStr>(value: &Value<'_>) -> Option<T> {
    value.string()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> Claims {
        Claims {
            client_id: "c1".into(),
            assigned_ip: [10, 8, 0, 2].into(),
            assigned_ip6: None,
            limit: None,
            expires_at: 1_800_003_600,
            full_handshake_at: 1_800_000_000,
            client_key: None,
            hybrid: false,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let full = Claims {
            assigned_ip6: Some("fd00::2".parse().unwrap()),
            limit: Some((1_000, 65_536)),
            client_key: Some([7; 32]),
            hybrid: true,
            ..claims()
        };
        for claims in [claims(), full] {
            assert_eq!(Claims::parse(&claims.encode()), Ok(claims));
        }
        let least = r#"{"clientId":"c1","assignedIp":"10.8.0.2","expiresAt":1800003600,"fullHandshakeAt":1800000000,"pattern":"NK","hybrid":false}"#;
        assert_eq!(claims().encode().as_slice(), least.as_bytes());
    }

    #[test]
    fn the_longest_claims_fit_into_a_ticket() {
        let longest = Claims {
            client_id: "c".repeat(64),
            assigned_ip: [255; 4].into(),
            assigned_ip6: Some([0xffff; 8].into()),
            limit: Some((u64::MAX, u64::MAX)),
            expires_at: u64::MAX,
            full_handshake_at: u64::MAX,
            client_key: Some([255; 32]),
            hybrid: false,
        };
        assert!(longest.encode().len() < 500);
    }

    #[test]
    fn members_that_contradict_each_other_are_refused() {
        let text = String::from_utf8(claims().encode().to_vec()).unwrap();
        for (from, to, at_fault) in [
            (r#""pattern":"NK""#, r#""pattern":"IK""#, "pattern"),
            (r#""pattern":"NK""#, r#""pattern":"XX""#, "pattern"),
            (r#""hybrid":false"#, r#""hybrid":0"#, "hybrid"),
            (r#""hybrid""#, r#""burstBytes":7,"hybrid""#, "burstBytes"),
            ("10.8.0.2", "10.8.0", "assignedIp"),
            (r#""c1""#, r#""c 1""#, "clientId"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert_eq!(Claims::parse(changed.as_bytes()), Err(JsonError::Invalid(at_fault)), "{changed}");
        }
        assert_eq!(Claims::parse(b"{}"), Err(JsonError::Missing("pattern")));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            client_id in "[A-Za-z0-9._-]{1,64}",
            assigned_ip: Ipv4Addr,
            assigned_ip6: Option<Ipv6Addr>,
            limit: Option<(u64, u64)>,
            expires_at: u64,
            full_handshake_at: u64,
            client_key: Option<[u8; 32]>,
            hybrid: bool,
        ) {
            let claims = Claims {
                client_id, assigned_ip, assigned_ip6, limit, expires_at, full_handshake_at, client_key, hybrid,
            };
            prop_assert_eq!(Claims::parse(&claims.encode()), Ok(claims));
        }

        #[test]
        fn any_change_is_read_or_refused(at: prop::sample::Index, byte: u8) {
            let mut bytes = claims().encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Claims::parse(&bytes);
            let _ = Claims::parse(&bytes[..at]);
        }
    }
}
