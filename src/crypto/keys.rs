//! Static X25519 keys and their text form.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::x25519;

/// The length of a key, private or public, in bytes.
pub const KEY_LEN: usize = 32;

/// An X25519 public key. Its text form is padded standard base64 (44 characters).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The key with these bytes. Every 32 bytes are one (RFC 7748 §5); those of low order are
    /// refused when they are used.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// A name for whoever holds it, where nobody has given one: 32 hexadecimal digits of its SHA-256.
    pub fn fingerprint(&self) -> String {
        digest(&SHA256, &self.0).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// An X25519 private key: erased when dropped, printed as `[redacted]`, not comparable.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

impl PrivateKey {
    /// A fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Self([0; KEY_LEN]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key with these bytes, which are clamped whenever it is used (RFC 7748 §5). The caller's
    /// copy is the caller's to erase.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Reads padded standard base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the text is anything else, or not 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }

    /// The text form, for the file that keeps the key.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }

    /// The key's bytes, for computations.
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::public_key(&self.0))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A private key with the public key that belongs to it.
#[derive(Clone, Debug)]
pub struct Keypair {
    /// The half that never leaves this end.
    pub private: PrivateKey,
    /// The half that the other end knows.
    pub public: PublicKey,
}

impl Keypair {
    /// A fresh pair.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        PrivateKey::generate(rng).into()
    }
}

impl From<PrivateKey> for Keypair {
    fn from(private: PrivateKey) -> Self {
        Self { public: private.public_key(), private }
    }
}

/// A text is not a key: not padded standard base64 of exactly 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64 (44 characters)")]
pub struct KeyError;

/// Strict by RFC 4648 §4: padded, no blanks, zero trailing bits.
fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError)?);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if bytes.len() != KEY_LEN {
        return Err(KeyError);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1, Alice.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    const fn erased_on_drop<T: ZeroizeOnDrop>() {}

    #[test]
    fn a_private_key_is_erased_and_never_printed() {
        erased_on_drop::<PrivateKey>();
        let pair = Keypair::from(PrivateKey::from_base64(PRIVATE).unwrap());
        let printed = format!("{pair:?}");
        assert_eq!(printed, format!("Keypair {{ private: [redacted], public: PublicKey({PUBLIC}) }}"));
    }

    #[test]
    fn erasing_leaves_zeros() {
        let mut key = PrivateKey::from_base64(PRIVATE).unwrap();
        key.zeroize();
        assert_eq!(key.expose(), &[0; KEY_LEN]);
    }

    #[test]
    fn the_public_key_belongs_to_the_private_one() {
        let private = PrivateKey::from_base64(PRIVATE).unwrap();
        assert_eq!(private.public_key().to_string(), PUBLIC);
        assert_eq!(private.public_key(), PUBLIC.parse().unwrap());
        assert_eq!(private.to_base64().as_str(), PRIVATE);
    }

    #[test]
    fn text_is_strict() {
        let unpadded = PUBLIC.trim_end_matches('=');
        let urlsafe = PUBLIC.replace('/', "_");
        let trailing_bits = PUBLIC.replace("mo=", "mp=");
        for text in [
            "",
            unpadded,
            &urlsafe,
            &trailing_bits,
            &format!(" {PUBLIC}"),
            &format!("{PUBLIC}\n"),
            &format!("{PUBLIC}="),
            &STANDARD.encode([0; 31]),
            &STANDARD.encode([0; 33]),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError), "{text:?}");
            assert!(PrivateKey::from_base64(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fresh_keys_differ() {
        let mut rng = rand::rng();
        let (a, b) = (Keypair::generate(&mut rng), Keypair::generate(&mut rng));
        assert_ne!(a.public, b.public);
        assert_eq!(a.private.public_key(), a.public);
    }
}
