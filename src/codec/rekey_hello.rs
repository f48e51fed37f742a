//! The hellos of a rekey (PROTOCOL §5): a version, and what ML-KEM needs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::codec::hello::{self, HelloError, MLKEM_CIPHERTEXT_LEN, MLKEM_KEY_LEN, VERSION};
use crate::codec::json::Object;

/// A hello of RekeyInit or RekeyResp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RekeyHello {
    /// In RekeyInit an ML-KEM-768 encapsulation key of [`MLKEM_KEY_LEN`] bytes, in RekeyResp a ciphertext of
    /// [`MLKEM_CIPHERTEXT_LEN`] bytes.
    pub mlkem768: Option<Vec<u8>>,
}

impl RekeyHello {
    /// Reads the payload of message 1. Members that belong to other hellos are ignored.
    ///
    /// # Errors
    ///
    /// Any [`HelloError`]: the server closes with 1008, as after the rejection that a new client would get.
    pub fn parse_init(bytes: &[u8]) -> Result<Self, HelloError> {
        Self::read(&Object::parse(bytes)?, Some(MLKEM_KEY_LEN))
    }

    /// Reads the payload of message 2, the answer to a hello with an ML-KEM key if `kem_offered`. `None` if it holds
    /// an `error`: the client closes with 1008.
    ///
    /// # Errors
    ///
    /// Any [`HelloError`]: the client closes with 1002.
    pub fn parse_resp(bytes: &[u8], kem_offered: bool) -> Result<Option<Self>, HelloError> {
        let hello = Object::parse(bytes)?;
        match hello.get("error")? {
            Some(_) => Ok(None),
            None => Self::read(&hello, kem_offered.then_some(MLKEM_CIPHERTEXT_LEN)).map(Some),
        }
    }

    /// `length`: what the member `mlkem768` must have, where it may be there at all.
    fn read(hello: &Object<'_>, length: Option<usize>) -> Result<Self, HelloError> {
        hello.required("version", |value| value.integer::<u64>(VERSION..=VERSION))?;
        let mlkem768 = hello.optional("mlkem768", |value| hello::base64_of(value, length?))?;
        Ok(Self { mlkem768 })
    }

    /// The payload of a message: compact JSON. It is erased when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Wire {
            version: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            mlkem768: Option<String>,
        }
        hello::encode(&Wire {
            version: VERSION,
            mlkem768: self.mlkem768.as_ref().map(|bytes| STANDARD.encode(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> String {
        format!(r#"{{"version":1,"mlkem768":"{}"}}"#, STANDARD.encode(vec![7; length]))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bare = RekeyHello { mlkem768: None };
        assert_eq!(bare.encode().as_slice(), br#"{"version":1}"#);
        assert_eq!(RekeyHello::parse_init(&bare.encode()), Ok(bare.clone()));
        assert_eq!(RekeyHello::parse_resp(&bare.encode(), true), Ok(Some(bare)));
        let key = RekeyHello { mlkem768: Some(vec![7; MLKEM_KEY_LEN]) };
        assert_eq!(RekeyHello::parse_init(&key.encode()), Ok(key));
        let ciphertext = RekeyHello { mlkem768: Some(vec![7; MLKEM_CIPHERTEXT_LEN]) };
        assert_eq!(RekeyHello::parse_resp(&ciphertext.encode(), true), Ok(Some(ciphertext)));
    }

    #[test]
    fn other_lengths_and_unasked_ciphertexts_are_invalid() {
        let invalid = HelloError::Invalid("mlkem768");
        for length in [MLKEM_CIPHERTEXT_LEN, MLKEM_KEY_LEN + 1] {
            assert_eq!(RekeyHello::parse_init(text(length).as_bytes()), Err(invalid), "{length}");
        }
        for length in [MLKEM_KEY_LEN, MLKEM_CIPHERTEXT_LEN - 1] {
            assert_eq!(RekeyHello::parse_resp(text(length).as_bytes(), true), Err(invalid), "{length}");
        }
        assert_eq!(RekeyHello::parse_resp(text(MLKEM_CIPHERTEXT_LEN).as_bytes(), false), Err(invalid));
    }

    #[test]
    fn an_error_is_told_from_an_answer_and_another_version_from_this_one() {
        let refused = br#"{"version":1,"error":{"code":"bad-request","message":"m"}}"#;
        assert_eq!(RekeyHello::parse_resp(refused, false), Ok(None));
        for version in ["2", "0", "\"1\""] {
            let hello = format!("{{\"version\":{version}}}");
            let invalid = HelloError::Invalid("version");
            assert_eq!(RekeyHello::parse_init(hello.as_bytes()), Err(invalid), "{version}");
            assert_eq!(RekeyHello::parse_resp(hello.as_bytes(), true), Err(invalid), "{version}");
        }
    }
}
