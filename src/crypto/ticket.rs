//! Resume tickets: sealed claims that only servers with the same static key can write and open
//! (PROTOCOL §8).
//!
//! ```text
//! ticket = 0x01 || nonce:24 || XChaCha20-Poly1305(key, nonce, aad = 0x01, claims)
//! key    = HKDF-SHA-256(salt = empty, ikm = server static private key, info = "smartvpn/1 ticket", 32)
//! ```

use std::fmt;

use aws_lc_rs::hkdf;
use rand_core::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing};

use crate::codec::claims::Claims;
use crate::codec::secret::Ticket;
use crate::crypto::keys::PrivateKey;
use crate::crypto::seal::{FULL_NONCE_LEN, PREFIX_LEN, Subkey, TAG_LEN};
use crate::crypto::traffic::{TRAFFIC_KEY_LEN, TrafficKey};

/// The first byte of a ticket, which says how the rest is made.
const FORM: u8 = 0x01;

/// What tickets are sealed with: erased when dropped, never printed.
pub struct TicketKey(TrafficKey);

impl TicketKey {
    /// The key of every server that has this static key.
    #[expect(clippy::expect_used, reason = "HKDF-SHA-256 yields up to 8,160 bytes, and 32 are asked for")]
    pub fn derive(server: &PrivateKey) -> Self {
        let mut key = [0; TRAFFIC_KEY_LEN];
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(server.expose())
            .expand(&[b"smartvpn/1 ticket"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("32 bytes are within HKDF's limit");
        let derived = Self(TrafficKey::from_bytes(key));
        key.zeroize();
        derived
    }

    /// Writes a ticket; none if the claims are too long for one, which those of a valid client id never are.
    pub fn seal(&self, claims: &Claims, rng: &mut dyn CryptoRng) -> Option<Ticket> {
        let mut nonce = [0; FULL_NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let (prefix, counter) = split(&nonce);
        let mut body = claims.encode();
        let tag = Subkey::new(&self.0, prefix).seal(*counter, &[FORM], &mut body).ok()?;
        Ticket::new([&[FORM], nonce.as_slice(), &body, &tag].concat())
    }

    /// Reads a ticket; none if it was written with another key, changed, or is of another form.
    pub fn open(&self, ticket: &Ticket) -> Option<Claims> {
        let (form, rest) = ticket.expose().split_first()?;
        let (nonce, body) = rest.split_first_chunk::<FULL_NONCE_LEN>()?;
        if *form != FORM || body.len() < TAG_LEN {
            return None;
        }
        let (prefix, counter) = split(nonce);
        let mut body = Zeroizing::new(body.to_vec());
        let claims = Subkey::new(&self.0, prefix).open(*counter, &[FORM], &mut body).ok()?;
        Claims::parse(claims).ok()
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// HChaCha20 reads the first 16 bytes of a nonce, ChaCha20-Poly1305 the other eight.
fn split(nonce: &[u8; FULL_NONCE_LEN]) -> (&[u8; PREFIX_LEN], &[u8; 8]) {
    #[expect(clippy::expect_used, reason = "24 bytes are 16 and eight")]
    nonce
        .split_first_chunk()
        .and_then(|(prefix, rest)| Some((prefix, rest.first_chunk()?)))
        .expect("24 bytes")
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn claims() -> Claims {
        Claims {
            client_id: "c1".into(),
            assigned_ip: [10, 8, 0, 2].into(),
            assigned_ip6: Some("fd00::2".parse().unwrap()),
            limit: Some((1_000, 65_536)),
            expires_at: 2,
            full_handshake_at: 1,
            client_key: None,
            hybrid: false,
        }
    }

    fn key(byte: u8) -> TicketKey {
        TicketKey::derive(&PrivateKey::from_bytes([byte; 32]))
    }

    #[test]
    fn only_the_same_static_key_opens_a_ticket() {
        let ticket = key(1).seal(&claims(), &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(key(1).open(&ticket), Some(claims()));
        assert_eq!(key(2).open(&ticket), None);
    }

    #[test]
    fn any_change_makes_a_ticket_void() {
        let ticket = key(1).seal(&claims(), &mut StdRng::seed_from_u64(1)).unwrap();
        for at in 0..ticket.expose().len() {
            let mut bytes = ticket.expose().to_vec();
            bytes[at] ^= 1;
            assert_eq!(key(1).open(&Ticket::new(bytes).unwrap()), None, "byte {at}");
            assert_eq!(
                key(1).open(&Ticket::new(ticket.expose()[..at].to_vec()).unwrap()),
                None,
                "cut at {at}"
            );
        }
    }

    #[test]
    fn no_two_tickets_are_alike() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, two) = (key(1).seal(&claims(), &mut rng), key(1).seal(&claims(), &mut rng));
        assert_ne!(one.unwrap(), two.unwrap());
    }

    /// The construction of PROTOCOL §8 by another implementation of it.
    #[test]
    fn is_xchacha20_poly1305_under_a_key_of_hkdf() {
        let ticket = key(1).seal(&claims(), &mut StdRng::seed_from_u64(1)).unwrap();
        let mut ticket_key = [0; 32];
        let okm = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&[1; 32]);
        okm.expand(&[b"smartvpn/1 ticket"], hkdf::HKDF_SHA256).unwrap().fill(&mut ticket_key).unwrap();
        let (head, body) = ticket.expose().split_at(25);
        let payload = Payload { msg: body, aad: &[1] };
        let cipher = XChaCha20Poly1305::new(&ticket_key.into());
        let plain = cipher.decrypt(XNonce::from_slice(&head[1..]), payload).unwrap();
        assert_eq!((head[0], plain.as_slice()), (1, claims().encode().as_slice()));
    }

    proptest::proptest! {
        #[test]
        fn nothing_opens_that_was_not_sealed(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let forged = [&[FORM], bytes.as_slice()].concat();
            for bytes in [bytes, forged] {
                proptest::prop_assert_eq!(key(1).open(&Ticket::new(bytes).unwrap()), None);
            }
        }
    }
}
