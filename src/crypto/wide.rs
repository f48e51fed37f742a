//! ChaCha20-Poly1305 (RFC 8439 §2.8) for processors with AVX-512F and AVX-512IFMA: sixteen ChaCha20
//! blocks and eight Poly1305 blocks at a time, the one interleaved with the other.
//!
//! What it computes is what aws-lc-rs computes, which has no AVX-512 code for it and takes about
//! twice as long. Setting up takes as long as some hundred bytes, so it is for long messages.
//!
//! No branch and no address depends on a secret. The key is erased when dropped, and so are a
//! message's Poly1305 key, its powers and the keystream that is not applied as it is made; what the
//! compiler leaves in registers and in their spill slots is not.

#![expect(unsafe_code, reason = "functions for a processor's extensions are called once they are found")]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m512i, _mm256_extract_epi64, _mm512_extracti64x4_epi64, _mm512_setr_epi64, _mm512_xor_si512,
};

use self::chacha20::{Keystream, STREAM_BATCH};
use self::poly1305::{GROUP, Lanes, OneTimeKey};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

mod chacha20;
mod poly1305;

#[cfg(test)]
mod tests;

const BLOCK: usize = 64;

/// What is left for the message of the first sixteen blocks: block 0 makes the Poly1305 key (RFC 8439
/// §2.6), and block 15 is passed over, because Poly1305 takes two blocks of keystream at a time.
const HEAD: usize = 14 * BLOCK;

/// The 32-bit block counter, which starts at 1, has not wrapped behind a message of this length.
const LONGEST: u64 = (BLOCK as u64) * (u32::MAX as u64);

/// A key, and with it the proof that the processor and the system have what its use takes.
#[derive(ZeroizeOnDrop)]
pub(super) struct Wide {
    key: [u32; 8],
}

/// An idle session holds one for each direction.
const _: () = assert!(size_of::<Option<Wide>>() <= 40);

impl Wide {
    /// `None` where the processor or the system lacks AVX-512F or AVX-512IFMA.
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512ifma") {
            return None;
        }
        let (words, _) = key.as_chunks();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        Some(Self { key: std::array::from_fn(|_| words.next().unwrap_or_default()) })
    }

    /// Encrypts in place and returns the tag (RFC 8439 §2.8). A nonce must be used once per key.
    pub(super) fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
        assert!(in_out.len() as u64 <= LONGEST, "the block counter would wrap");
        // SAFETY: a `Wide` exists only where `new` has found the features that `seal` is compiled for.
        unsafe { seal(&self.key, nonce, aad, in_out) }
    }

    /// Decrypts in place; says whether the tag was that of the ciphertext. Tag and plaintext are
    /// made in one pass, so where it was not, `in_out` is erased: nothing unauthentic stays in it.
    #[must_use]
    pub(super) fn open_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> bool {
        assert!(in_out.len() as u64 <= LONGEST, "the block counter would wrap");
        // SAFETY: a `Wide` exists only where `new` has found the features that `open` is compiled for.
        let expected = unsafe { open(&self.key, nonce, aad, in_out) };
        let authentic = bool::from(expected.ct_eq(tag));
        if !authentic {
            in_out.zeroize();
        }
        authentic
    }

    /// What follows a message's encryption, without that. The one-time key is the start of `block`.
    #[cfg(test)]
    fn poly1305(&self, block: &[u8; BLOCK], message: &[u8]) -> [u8; 16] {
        #[target_feature(enable = "avx512f,avx512ifma")]
        fn poly1305(block: &[u8; BLOCK], message: &[u8]) -> [u8; 16] {
            let key = OneTimeKey::new(block);
            let mut mac = Lanes::new(&key, &[]);
            let (groups, end) = message.as_chunks::<GROUP>();
            for group in groups {
                mac.take(group);
            }
            mac.finish(&key, end, 0, message.len())
        }
        // SAFETY: a `Wide` exists only where `new` has found the features that this is compiled for.
        unsafe { poly1305(block, message) }
    }
}

/// Poly1305 takes the ciphertext of a batch while the keystream of the next one is made.
#[target_feature(enable = "avx512f,avx512ifma")]
fn seal(key: &[u32; 8], nonce: &[u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; 16] {
    let length = body.len();
    let (mut cipher, mut first, one_time) = start(key, nonce);
    let mut mac = Lanes::new(&one_time, aad);
    let (head, rest) = body.split_at_mut(HEAD.min(length));
    xor(head, &first[1..]);
    first.zeroize();
    let mut sealed: &[u8] = head;
    let (batches, last) = rest.as_chunks_mut::<STREAM_BATCH>();
    for batch in batches {
        let (groups, _) = sealed.as_chunks::<GROUP>();
        let keys = cipher.next(|turn| mac.take_nth(groups, turn));
        xor(batch, &keys);
        sealed = batch;
    }
    if !last.is_empty() {
        let (groups, _) = sealed.as_chunks::<GROUP>();
        let mut keys = cipher.next(|turn| mac.take_nth(groups, turn));
        xor(last, &keys);
        keys.zeroize();
        sealed = last;
    }
    let (groups, end) = sealed.as_chunks::<GROUP>();
    for group in groups {
        mac.take(group);
    }
    mac.finish(&one_time, end, aad.len(), length)
}

/// Decrypts and returns the tag that the ciphertext should have. Poly1305 takes the ciphertext of a
/// batch while its keystream is made.
#[target_feature(enable = "avx512f,avx512ifma")]
fn open(key: &[u32; 8], nonce: &[u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; 16] {
    let length = body.len();
    let (mut cipher, mut first, one_time) = start(key, nonce);
    let mut mac = Lanes::new(&one_time, aad);
    let (head, rest) = body.split_at_mut(HEAD.min(length));
    let (groups, end) = head.as_chunks::<GROUP>();
    for group in groups {
        mac.take(group);
    }
    if rest.is_empty() {
        let tag = mac.finish(&one_time, end, aad.len(), length);
        xor(head, &first[1..]);
        first.zeroize();
        return tag;
    }
    xor(head, &first[1..]);
    first.zeroize();
    let (batches, last) = rest.as_chunks_mut::<STREAM_BATCH>();
    for batch in batches {
        let (groups, _) = batch.as_chunks::<GROUP>();
        let keys = cipher.next(|turn| mac.take_nth(groups, turn));
        xor(batch, &keys);
    }
    let (groups, end) = last.as_chunks::<GROUP>();
    let mut keys = cipher.next(|turn| mac.take_nth(groups, turn));
    let tag = mac.finish(&one_time, end, aad.len(), length);
    xor(last, &keys);
    keys.zeroize();
    tag
}

/// The keystream's first sixteen blocks, the Poly1305 key that block 0 is, and the stream behind
/// [`HEAD`].
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn start(key: &[u32; 8], nonce: &[u8; 12]) -> (Keystream, [__m512i; 16], OneTimeKey) {
    let mut cipher = Keystream::new(key, nonce);
    let first = cipher.next(|_| {});
    cipher.skip_to(1 + (HEAD / BLOCK) as u32);
    let mut block = Zeroizing::new([0; BLOCK]);
    store(first[0], &mut block);
    let one_time = OneTimeKey::new(&block);
    (cipher, first, one_time)
}

/// Applies as many blocks of keystream as there is data.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor(data: &mut [u8], keys: &[__m512i]) {
    debug_assert!(data.len() <= BLOCK * keys.len(), "data would stay as it is");
    let (blocks, end) = data.as_chunks_mut::<BLOCK>();
    for (block, key) in blocks.iter_mut().zip(keys) {
        store(_mm512_xor_si512(load(block), *key), block);
    }
    if let Some(key) = keys.get(blocks.len())
        && !end.is_empty()
    {
        let mut bytes = Zeroizing::new([0; BLOCK]);
        store(*key, &mut bytes);
        for (byte, key) in end.iter_mut().zip(bytes.iter()) {
            *byte ^= key;
        }
    }
}

/// Becomes one load: the compiler joins words in ascending order.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; BLOCK]) -> __m512i {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |i: usize| i64::from_le_bytes(words[i]);
    _mm512_setr_epi64(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
}

/// Becomes one store.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(vector: __m512i, bytes: &mut [u8; BLOCK]) {
    let (low, high) = (_mm512_extracti64x4_epi64::<0>(vector), _mm512_extracti64x4_epi64::<1>(vector));
    let (words, _) = bytes.as_chunks_mut::<8>();
    words[0] = _mm256_extract_epi64::<0>(low).to_le_bytes();
    words[1] = _mm256_extract_epi64::<1>(low).to_le_bytes();
    words[2] = _mm256_extract_epi64::<2>(low).to_le_bytes();
    words[3] = _mm256_extract_epi64::<3>(low).to_le_bytes();
    words[4] = _mm256_extract_epi64::<0>(high).to_le_bytes();
    words[5] = _mm256_extract_epi64::<1>(high).to_le_bytes();
    words[6] = _mm256_extract_epi64::<2>(high).to_le_bytes();
    words[7] = _mm256_extract_epi64::<3>(high).to_le_bytes();
}
