//! From a finished handshake to the keys of both directions (PROTOCOL §4).

use std::fmt;

use aws_lc_rs::hkdf;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The length of a traffic key in bytes.
pub const TRAFFIC_KEY_LEN: usize = 32;

/// What both ends hold after message 2: Noise's `Split()` and the handshake hash.
#[derive(ZeroizeOnDrop)]
pub struct Handshake {
    k1: [u8; 32],
    k2: [u8; 32],
    /// The handshake hash `h`, which is not secret.
    #[zeroize(skip)]
    pub hash: [u8; 32],
}

impl Handshake {
    /// The first and second output of `Split()`, and the hash. The caller's copies are the
    /// caller's to erase.
    #[doc(hidden)]
    pub const fn from_parts(k1: [u8; 32], k2: [u8; 32], hash: [u8; 32]) -> Self {
        Self { k1, k2, hash }
    }

    /// The outputs of `Split()`, for tests against published vectors.
    #[doc(hidden)]
    pub const fn expose(&self) -> (&[u8; 32], &[u8; 32]) {
        (&self.k1, &self.k2)
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The key of one direction: erased when dropped, printed as `[redacted]`, not comparable.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TrafficKey([u8; TRAFFIC_KEY_LEN]);

impl TrafficKey {
    /// The key with these bytes. The caller's copy is the caller's to erase.
    pub const fn from_bytes(bytes: [u8; TRAFFIC_KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, for computations.
    pub const fn expose(&self) -> &[u8; TRAFFIC_KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The keys of both directions.
#[derive(Debug)]
pub struct TrafficKeys {
    /// What the client seals with.
    pub client_to_server: TrafficKey,
    /// What the server seals with.
    pub server_to_client: TrafficKey,
}

impl TrafficKeys {
    /// Derives both keys; `ss` is the ML-KEM-768 shared secret (32 bytes) or empty.
    pub fn derive(handshake: &Handshake, ss: &[u8]) -> Self {
        let key = |k: &[u8; 32], info| TrafficKey(derive(&handshake.hash, k, ss, info));
        Self {
            client_to_server: key(&handshake.k1, b"smartvpn/1 client to server"),
            server_to_client: key(&handshake.k2, b"smartvpn/1 server to client"),
        }
    }
}

/// `HKDF-SHA-256(salt = h, ikm = k || ss, info, 32)`
#[expect(clippy::expect_used, reason = "HKDF-SHA-256 yields up to 8,160 bytes, and 32 are asked for")]
fn derive(h: &[u8; 32], k: &[u8; 32], ss: &[u8], info: &[u8]) -> [u8; TRAFFIC_KEY_LEN] {
    let mut ikm = Zeroizing::new(Vec::with_capacity(k.len() + ss.len()));
    ikm.extend_from_slice(k);
    ikm.extend_from_slice(ss);
    let mut key = [0; TRAFFIC_KEY_LEN];
    hkdf::Salt::new(hkdf::HKDF_SHA256, h)
        .extract(&ikm)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are within HKDF's limit");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn erased_on_drop<T: ZeroizeOnDrop>() {}

    #[test]
    fn keys_are_erased_and_never_printed() {
        erased_on_drop::<Handshake>();
        erased_on_drop::<TrafficKey>();
        let handshake = Handshake::from_parts([0xaa; 32], [0xbb; 32], [0xcc; 32]);
        assert_eq!(format!("{handshake:?}"), "[redacted]");
        let keys = TrafficKeys::derive(&handshake, &[]);
        let printed = "TrafficKeys { client_to_server: [redacted], server_to_client: [redacted] }";
        assert_eq!(format!("{keys:?}"), printed);
    }

    #[test]
    fn every_input_counts() {
        let derive = |k1, k2, hash, ss: &[u8]| {
            let keys = TrafficKeys::derive(&Handshake::from_parts([k1; 32], [k2; 32], [hash; 32]), ss);
            (*keys.client_to_server.expose(), *keys.server_to_client.expose())
        };
        let (up, down) = derive(1, 2, 3, &[]);
        assert_ne!(up, down);
        assert_eq!(derive(1, 2, 3, &[]), (up, down));
        for other in [derive(1, 2, 4, &[]), derive(1, 2, 3, &[0; 32])] {
            assert!(other.0 != up && other.1 != down);
        }
        assert!(derive(9, 2, 3, &[]).0 != up && derive(9, 2, 3, &[]).1 == down);
        assert!(derive(1, 9, 3, &[]).0 == up && derive(1, 9, 3, &[]).1 != down);
        // The infos keep the directions apart even if k1 were k2.
        let (up, down) = derive(1, 1, 3, &[]);
        assert_ne!(up, down);
    }
}
