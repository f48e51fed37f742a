//! Poly1305 (RFC 8439 §2.5), eight blocks at a time.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, so that a limb of the one factor
//! and 20 times a limb of the other are within the 52 bits that AVX-512IFMA multiplies. Limbs may be
//! a few bits longer between two steps. Because 2^132 is 20, the product's limbs at 2^132 and
//! 2^176 come back to 1 and 2^44 twentyfold.
//!
//! An accumulator here always lacks its last multiplication by r. Taking a block then is to multiply
//! and add, and with eight lanes it is the same with r^8; at the end lane *i* lacks r^(7 - *i*).

#![forbid(unsafe_code, reason = "the exception that the module above makes is for its own")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_or_si512, _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512,
    _mm512_slli_epi64, _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use subtle::{Choice, ConditionallySelectable as _};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::load;

/// Bytes of the message that are taken at a time.
pub(super) const GROUP: usize = 8 * BLOCK;

const BLOCK: usize = 16;
const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

/// The bit behind a block's last, as a part of the limb at 2^88. Every block here is a whole one: what
/// RFC 8439 §2.8 authenticates is padded.
const PAST_BLOCK: u64 = 1 << 40;

/// A number modulo 2^130 - 5.
#[derive(Clone, Copy, Zeroize)]
struct Number([u64; 3]);

impl Number {
    const ZERO: Self = Self([0; 3]);

    fn times(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        let product = |a, b| u128::from(a) * u128::from(b);
        let d0 = product(a0, b0) + product(a1, 20 * b2) + product(a2, 20 * b1);
        let d1 = product(a0, b1) + product(a1, b0) + product(a2, 20 * b2) + (d0 >> 44);
        let d2 = product(a0, b2) + product(a1, b1) + product(a2, b0) + (d1 >> 44);
        let low = (d0 as u64 & MASK_44) + 5 * (d2 >> 42) as u64;
        Self([low & MASK_44, (d1 as u64 & MASK_44) + (low >> 44), d2 as u64 & MASK_42])
    }

    fn plus(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        Self([a0 + b0, a1 + b1, a2 + b2])
    }

    /// A block and the bit behind it.
    fn from_block(block: [u8; BLOCK]) -> Self {
        let block = u128::from_le_bytes(block);
        Self([block as u64 & MASK_44, (block >> 44) as u64 & MASK_44, (block >> 88) as u64 | PAST_BLOCK])
    }

    /// Moves what limbs have too much to the next.
    fn carried(self) -> Self {
        let [a0, a1, a2] = self.0;
        let a1 = a1 + (a0 >> 44);
        let a2 = a2 + (a1 >> 44);
        let a0 = (a0 & MASK_44) + 5 * (a2 >> 42);
        Self([a0, a1 & MASK_44, a2 & MASK_42])
    }

    /// The one below 2^130 - 5, modulo 2^128.
    fn reduced(self) -> u128 {
        // A product's limbs carry at most 5 into the lowest, and once that has carried, it is too
        // small to do so again: two passes leave limbs of 44, 44 and 42 bits.
        let [a0, a1, a2] = self.carried().carried().0;
        // With 5 added, 2^130 - 5 and more reach 2^130.
        let b0 = a0 + 5;
        let b1 = a1 + (b0 >> 44);
        let b2 = a2 + (b1 >> 44);
        let beyond = Choice::from((b2 >> 42) as u8);
        let limb = |a, b| u128::from(u64::conditional_select(&a, &b, beyond));
        limb(a0, b0 & MASK_44) | (limb(a1, b1 & MASK_44) << 44) | (limb(a2, b2 & MASK_42) << 88)
    }
}

/// The one-time key: r, clamped, and s.
#[derive(ZeroizeOnDrop)]
pub(super) struct OneTimeKey {
    r: Number,
    s: u128,
}

impl OneTimeKey {
    /// The first 32 bytes of a keystream's block 0 (RFC 8439 §2.6).
    pub(super) fn new(block: &[u8; super::BLOCK]) -> Self {
        let (halves, _) = block.as_chunks();
        let r = u128::from_le_bytes(halves[0]) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let r = [r as u64 & MASK_44, (r >> 44) as u64 & MASK_44, (r >> 88) as u64];
        Self { r: Number(r), s: u128::from_le_bytes(halves[1]) }
    }

    /// Takes bytes and the zeros that fill their last block up.
    fn take(&self, mut sum: Number, bytes: &[u8]) -> Number {
        let (blocks, end) = bytes.as_chunks();
        for block in blocks {
            sum = sum.times(self.r).plus(Number::from_block(*block));
        }
        if !end.is_empty() {
            let mut block = [0; BLOCK];
            block[..end.len()].copy_from_slice(end);
            sum = sum.times(self.r).plus(Number::from_block(block));
        }
        sum
    }
}

/// Poly1305 on the way, in eight lanes.
pub(super) struct Lanes {
    sum: [__m512i; 3],
    r8: Factor,
    rest: Factor,
}

/// What a vector is multiplied by: three limbs, and twentyfold those at 2^44 and 2^88.
struct Factor([__m512i; 5]);

impl Lanes {
    /// Takes the associated data.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn new(key: &OneTimeKey, aad: &[u8]) -> Self {
        let r = key.r;
        let r2 = r.times(r);
        let (r3, r4) = (r2.times(r), r2.times(r2));
        let (r5, r6, r7, r8) = (r4.times(r), r4.times(r2), r4.times(r3), r4.times(r4));
        let one = Number([1, 0, 0]);
        // Only the last lane lacks nothing but r, as a sum does that is not in lanes.
        let first = key.take(Number::ZERO, aad);
        let zero = Number::ZERO;
        Self {
            sum: vectors([zero, zero, zero, zero, zero, zero, zero, first]),
            r8: Factor::new([r8; 8]),
            rest: Factor::new([r7, r6, r5, r4, r3, r2, r, one]),
        }
    }

    /// Takes this one of the groups, if there is one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn take_nth(&mut self, groups: &[[u8; GROUP]], n: usize) {
        if let Some(group) = groups.get(n) {
            self.take(group);
        }
    }

    /// Takes eight blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn take(&mut self, group: &[u8; GROUP]) {
        let product = self.r8.times(self.sum);
        let (halves, _) = group.as_chunks();
        let (first, second) = (load(&halves[0]), load(&halves[1]));
        // The lanes' order is 0, 4, 1, 5, 2, 6, 3, 7, which `vectors` knows.
        let (low, high) = (_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
        let mask = _mm512_set1_epi64(MASK_44 as i64);
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        let past = _mm512_set1_epi64(PAST_BLOCK as i64);
        self.sum = [
            _mm512_add_epi64(product[0], _mm512_and_si512(low, mask)),
            _mm512_add_epi64(product[1], _mm512_and_si512(middle, mask)),
            _mm512_add_epi64(product[2], _mm512_or_si512(_mm512_srli_epi64::<24>(high), past)),
        ];
    }

    /// Takes the rest of the message and the lengths of both parts (RFC 8439 §2.8).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn finish(mut self, key: &OneTimeKey, end: &[u8], aad_len: usize, len: usize) -> [u8; 16] {
        let [a, b, c] = self.rest.times(self.sum);
        self.r8.0.zeroize();
        self.rest.0.zeroize();
        let limb = |lanes| _mm512_reduce_add_epi64(lanes).cast_unsigned();
        let sum = Number([limb(a), limb(b), limb(c)]).carried();
        let sum = key.take(sum, end);
        let lengths = (aad_len as u128) | ((len as u128) << 64);
        let sum = key.take(sum, &lengths.to_le_bytes()).times(key.r);
        sum.reduced().wrapping_add(key.s).to_le_bytes()
    }
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(numbers: [Number; 8]) -> Self {
        let [a0, a1, a2] = vectors(numbers);
        let [_, b1, b2] = vectors(numbers.map(|Number([_, b1, b2])| Number([0, 20 * b1, 20 * b2])));
        Self([a0, a1, a2, b1, b2])
    }

    /// Limbs of up to 46 bits make limbs of 44, 45 and 42.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times(&self, [a0, a1, a2]: [__m512i; 3]) -> [__m512i; 3] {
        let Self([b0, b1, b2, c1, c2]) = *self;
        let zero = _mm512_setzero_si512();
        let low = |x, y, z| {
            let sum = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, a2, z), a0, x);
            _mm512_madd52lo_epu64(sum, a1, y)
        };
        let high = |x, y, z| {
            let sum = _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(zero, a2, z), a0, x);
            _mm512_madd52hi_epu64(sum, a1, y)
        };
        let (d0, d1, d2) = (low(b0, c2, c1), low(b1, b0, c2), low(b2, b1, b0));
        let (e0, e1, e2) = (high(b0, c2, c1), high(b1, b0, c2), high(b2, b1, b0));
        let mask = _mm512_set1_epi64(MASK_44 as i64);
        // The upper parts are at 2^52, that is 2^8 times 2^44 and 2^10 times 2^42.
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e0), _mm512_srli_epi64::<44>(d0));
        let d1 = _mm512_add_epi64(d1, carry);
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<8>(e1), _mm512_srli_epi64::<44>(d1));
        let d2 = _mm512_add_epi64(d2, carry);
        let carry = _mm512_add_epi64(_mm512_slli_epi64::<10>(e2), _mm512_srli_epi64::<42>(d2));
        let carry = _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry));
        let d0 = _mm512_add_epi64(_mm512_and_si512(d0, mask), carry);
        let d1 = _mm512_add_epi64(_mm512_and_si512(d1, mask), _mm512_srli_epi64::<44>(d0));
        [_mm512_and_si512(d0, mask), d1, _mm512_and_si512(d2, _mm512_set1_epi64(MASK_42 as i64))]
    }
}

/// Eight numbers in the order in which [`Lanes::take`] has their blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn vectors(numbers: [Number; 8]) -> [__m512i; 3] {
    let limb = |i: usize| {
        let [a, b, c, d, e, f, g, h] = numbers.map(|number| number.0[i].cast_signed());
        _mm512_setr_epi64(a, e, b, f, c, g, d, h)
    };
    [limb(0), limb(1), limb(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limbs as a product may leave them: rare ones, which no message is known to lead to.
    #[test]
    fn every_edge_is_reduced() {
        const PRIME: (u64, u128) = (3, u128::MAX - 4);
        for a0 in (0..8).chain(MASK_44 - 8..=MASK_44) {
            for a1 in [0, 1, MASK_44 - 1, MASK_44, MASK_44 + 1, MASK_44 + 512] {
                for a2 in [0, 1, MASK_42 - 1, MASK_42] {
                    let low = (u128::from(a1) << 44) + u128::from(a0);
                    let (low, carry) = low.overflowing_add(u128::from(a2) << 88);
                    let mut expected = ((a2 >> 40) + u64::from(carry), low);
                    if expected >= PRIME {
                        let (low, borrow) = expected.1.overflowing_sub(PRIME.1);
                        expected = (expected.0 - PRIME.0 - u64::from(borrow), low);
                    }
                    assert_eq!(Number([a0, a1, a2]).reduced(), expected.1, "{a0:x} {a1:x} {a2:x}");
                }
            }
        }
    }
}
