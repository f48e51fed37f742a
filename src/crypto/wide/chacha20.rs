//! ChaCha20's keystream (RFC 8439 §2.3), sixteen blocks at a time: vector *i* holds word *i* of each.

#![forbid(unsafe_code, reason = "the exception that the module above makes is for its own")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

/// Blocks made at a time.
const LANES: usize = 16;

/// Bytes made at a time.
pub(super) const STREAM_BATCH: usize = LANES * super::BLOCK;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The blocks under one key and nonce, from number 0 on.
pub(super) struct Keystream {
    state: [__m512i; 16],
}

impl Keystream {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &[u32; 8], nonce: &[u8; 12]) -> Self {
        let mut state = [_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); 16];
        let (nonce, _) = nonce.as_chunks();
        for i in 0..4 {
            state[i] = _mm512_set1_epi32(CONSTANTS[i].cast_signed());
        }
        for i in 0..8 {
            state[4 + i] = _mm512_set1_epi32(key[i].cast_signed());
        }
        for i in 0..3 {
            state[13 + i] = _mm512_set1_epi32(i32::from_le_bytes(nonce[i]));
        }
        Self { state }
    }

    /// Goes back from block 16 to this one.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn skip_to(&mut self, block: u32) {
        let back = _mm512_set1_epi32(block.cast_signed() - LANES as i32);
        self.state[12] = _mm512_add_epi32(self.state[12], back);
    }

    /// The next sixteen blocks. `meanwhile` is called with 0 to 9, once in each double round: what
    /// it computes fills the processor's idle slots.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn next(&mut self, mut meanwhile: impl FnMut(usize)) -> [__m512i; LANES] {
        let mut words = self.state;
        for turn in 0..10 {
            words = double_round(words);
            meanwhile(turn);
        }
        for (word, start) in words.iter_mut().zip(self.state) {
            *word = _mm512_add_epi32(*word, start);
        }
        self.state[12] = _mm512_add_epi32(self.state[12], _mm512_set1_epi32(LANES as i32));
        transpose(words)
    }
}

/// The columns and then the diagonals (RFC 8439 §2.3).
#[inline]
#[target_feature(enable = "avx512f")]
fn double_round(words: [__m512i; 16]) -> [__m512i; 16] {
    // Each word has its name, because an index that the compiler does not unroll is a way to memory.
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15] = words;
    let [x0, x4, x8, x12] = quarter_round(x0, x4, x8, x12);
    let [x1, x5, x9, x13] = quarter_round(x1, x5, x9, x13);
    let [x2, x6, x10, x14] = quarter_round(x2, x6, x10, x14);
    let [x3, x7, x11, x15] = quarter_round(x3, x7, x11, x15);
    let [x0, x5, x10, x15] = quarter_round(x0, x5, x10, x15);
    let [x1, x6, x11, x12] = quarter_round(x1, x6, x11, x12);
    let [x2, x7, x8, x13] = quarter_round(x2, x7, x8, x13);
    let [x3, x4, x9, x14] = quarter_round(x3, x4, x9, x14);
    [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15]
}

/// RFC 8439 §2.1.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_round(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let a = _mm512_add_epi32(a, b);
    let d = _mm512_rol_epi32::<16>(_mm512_xor_si512(d, a));
    let c = _mm512_add_epi32(c, d);
    let b = _mm512_rol_epi32::<12>(_mm512_xor_si512(b, c));
    let a = _mm512_add_epi32(a, b);
    let d = _mm512_rol_epi32::<8>(_mm512_xor_si512(d, a));
    let c = _mm512_add_epi32(c, d);
    let b = _mm512_rol_epi32::<7>(_mm512_xor_si512(b, c));
    [a, b, c, d]
}

/// From word by word to block by block.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(words: [__m512i; LANES]) -> [__m512i; LANES] {
    // Vector 4i + j: in quarter q, words 4i..4i + 4 of block 4q + j.
    let mut rows = words;
    for i in 0..4 {
        let [a, b, c, d] = [words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        rows[4 * i] = _mm512_unpacklo_epi64(ab, cd);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        rows[4 * i + 2] = _mm512_unpacklo_epi64(ab, cd);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    let mut blocks = rows;
    for j in 0..4 {
        let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
        // Quarters 0 and 1, then 2 and 3, of two vectors each.
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        blocks[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        blocks[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        blocks[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        blocks[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
    blocks
}
