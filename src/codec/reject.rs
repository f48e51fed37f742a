//! Rejections: the server's authenticated no (PROTOCOL §3).

use serde::Serialize;
use zeroize::Zeroizing;

use crate::codec::close::CloseCode;
use crate::codec::hello::{self, HelloError};
use crate::codec::json::{Object, Value};
use crate::error::ErrorCode;

/// Why the server rejects a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectCode {
    /// It does not speak the client's version.
    UnsupportedVersion,
    /// It does not admit this client.
    Unauthorized,
    /// The hello does not keep to PROTOCOL §3.
    BadRequest,
    /// No address is left.
    PoolExhausted,
    /// It takes no more clients.
    ServerFull,
    /// It is stopping.
    ShuttingDown,
    /// The ticket is too old (PROTOCOL §8).
    TicketExpired,
    /// The ticket is not usable (PROTOCOL §8).
    TicketInvalid,
    /// A code that this version does not know. The client may try again, as after any other.
    Other(String),
}

impl RejectCode {
    /// The code on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::UnsupportedVersion => "unsupported-version",
            Self::Unauthorized => "unauthorized",
            Self::BadRequest => "bad-request",
            Self::PoolExhausted => "pool-exhausted",
            Self::ServerFull => "server-full",
            Self::ShuttingDown => "shutting-down",
            Self::TicketExpired => "ticket-expired",
            Self::TicketInvalid => "ticket-invalid",
            Self::Other(code) => code,
        }
    }

    /// How the server closes the connection behind the rejection (PROTOCOL §9); none where the
    /// connection stays for a full handshake (PROTOCOL §8).
    pub const fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::UnsupportedVersion | Self::Unauthorized | Self::BadRequest => {
                Some(CloseCode::PolicyViolation)
            }
            Self::PoolExhausted | Self::ServerFull => Some(CloseCode::TryAgainLater),
            Self::ShuttingDown => Some(CloseCode::GoingAway),
            Self::TicketExpired | Self::TicketInvalid | Self::Other(_) => None,
        }
    }

    /// What the user is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnsupportedVersion => ErrorCode::UnsupportedVersion,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::BadRequest => ErrorCode::BadRequest,
            Self::PoolExhausted => ErrorCode::PoolExhausted,
            Self::ServerFull => ErrorCode::ServerFull,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::TicketExpired => ErrorCode::TicketExpired,
            Self::TicketInvalid => ErrorCode::TicketInvalid,
            Self::Other(_) => ErrorCode::ProtocolError,
        }
    }
}

impl From<String> for RejectCode {
    fn from(code: String) -> Self {
        match code.as_str() {
            "unsupported-version" => Self::UnsupportedVersion,
            "unauthorized" => Self::Unauthorized,
            "bad-request" => Self::BadRequest,
            "pool-exhausted" => Self::PoolExhausted,
            "server-full" => Self::ServerFull,
            "shutting-down" => Self::ShuttingDown,
            "ticket-expired" => Self::TicketExpired,
            "ticket-invalid" => Self::TicketInvalid,
            _ => Self::Other(code),
        }
    }
}

/// A hello of message 2 that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The highest version the server speaks.
    pub version: u64,
    /// Why.
    pub code: RejectCode,
    /// The same for people. It is authentic, but as untrusted as any peer's text.
    pub message: String,
}

impl Rejection {
    /// Reads the hello's `error` and `version`; the other members do not count.
    pub(super) fn read(hello: &Object<'_>, error: &Value<'_>) -> Result<Self, HelloError> {
        let error = error.object().ok_or(HelloError::Invalid("error"))?;
        Ok(Self {
            version: hello.required("version", |value| value.integer(0..=u64::MAX))?,
            code: error.required("code", Value::string)?.into(),
            message: error.required("message", Value::string)?,
        })
    }

    /// The payload of message 2: compact JSON in the order of PROTOCOL §3.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Wire<'a> {
            version: u64,
            error: Reason<'a>,
        }
        #[derive(Serialize)]
        struct Reason<'a> {
            code: &'a str,
            message: &'a str,
        }
        let error = Reason { code: self.code.as_str(), message: &self.message };
        hello::encode(&Wire { version: self.version, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PROTOCOL §3's codes with §9's close codes.
    const CODES: [(&str, Option<u16>); 9] = [
        ("unsupported-version", Some(1008)),
        ("unauthorized", Some(1008)),
        ("bad-request", Some(1008)),
        ("pool-exhausted", Some(1013)),
        ("server-full", Some(1013)),
        ("shutting-down", Some(1001)),
        ("ticket-expired", None),
        ("ticket-invalid", None),
        ("of-the-future", None),
    ];

    #[test]
    fn codes_go_both_ways() {
        for (text, close) in CODES {
            let code = RejectCode::from(text.to_owned());
            assert_eq!(code.as_str(), text);
            assert_eq!(code.close_code().map(CloseCode::as_u16), close, "{text}");
            match code {
                RejectCode::Other(_) => assert_eq!(code.code(), ErrorCode::ProtocolError),
                _ => assert_eq!(code.code().as_str(), text),
            }
        }
    }
}
