//! Sealed frames: XChaCha20-Poly1305 in place (PROTOCOL §5).
//!
//! ```text
//! payload = prefix:16 || counter:8 || ciphertext || tag:16        associated data = header:5
//! ```
//!
//! XChaCha20-Poly1305 is ChaCha20-Poly1305 under a subkey that HChaCha20 makes of the key and the
//! first 16 nonce bytes, with the other eight, behind four zero bytes, as the nonce. The first 16
//! are the prefix, the same for every frame under a key: so the subkey is computed once.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use zeroize::Zeroize as _;

use crate::codec::close::CloseCode;
pub use crate::codec::frame::SEAL_OVERHEAD;
use crate::codec::frame::{FrameType, HEADER_LEN, header};
use crate::crypto::traffic::TrafficKey;
use crate::error::ErrorCode;

/// The length of a nonce's random part in bytes.
pub const PREFIX_LEN: usize = 16;

/// The length of a nonce in bytes: prefix and counter.
const FULL_NONCE_LEN: usize = PREFIX_LEN + size_of::<u64>();

/// The length of a tag in bytes.
const TAG_LEN: usize = SEAL_OVERHEAD - FULL_NONCE_LEN;

/// Counters end below this (PROTOCOL §5), far behind the limits at which keys are renewed.
const COUNTER_LIMIT: u64 = 1 << 48;

/// The sending end of one traffic key.
pub struct Sealer {
    subkey: LessSafeKey,
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
        Self { subkey: subkey(key, &prefix), prefix, counter, bytes: 0 }
    }

    /// Appends a whole frame: header, nonce, ciphertext, tag. Allocates nothing but what `out`
    /// lacks, and copies the plaintext once.
    ///
    /// # Errors
    ///
    /// A [`SealError`], with `out` and the counter as before.
    pub fn seal(&mut self, kind: FrameType, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if !kind.plaintext_lengths().is_some_and(|lengths| lengths.contains(&plaintext.len())) {
            return Err(SealError::Length { kind, length: plaintext.len() });
        }
        if self.counter >= COUNTER_LIMIT {
            return Err(SealError::Exhausted);
        }
        let length = plaintext.len() + SEAL_OVERHEAD;
        let header = header(kind, length);
        let counter = self.counter.to_be_bytes();
        let start = out.len();
        out.reserve(HEADER_LEN + length);
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&counter);
        out.extend_from_slice(plaintext);
        let body = &mut out[start + HEADER_LEN + FULL_NONCE_LEN..];
        match self.subkey.seal_in_place_separate_tag(nonce(counter), Aad::from(header), body) {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => {
                // Never reached with these lengths; but plaintext must not stay where ciphertext
                // is expected.
                out[start..].zeroize();
                out.truncate(start);
                return Err(SealError::Internal);
            }
        }
        self.counter += 1;
        self.bytes += length as u64;
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
        subkey: LessSafeKey,
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
        Self { state: State::Running { subkey: subkey(key, &prefix), prefix }, counter, bytes: 0 }
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
            State::Running { subkey, .. } => open_body(subkey, *counter, header, body)?,
            State::Fresh(key) => {
                let subkey = subkey(key, prefix);
                let plaintext = open_body(&subkey, *counter, header, body)?;
                self.state = State::Running { subkey, prefix: *prefix };
                plaintext
            }
        };
        self.counter += 1;
        self.bytes += length as u64;
        Ok(plaintext)
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

/// The ChaCha20-Poly1305 key for every nonce with this prefix.
#[expect(clippy::expect_used, reason = "ChaCha20-Poly1305 takes every key of 32 bytes")]
fn subkey(key: &TrafficKey, prefix: &[u8; PREFIX_LEN]) -> LessSafeKey {
    // Ten double rounds are the twenty of HChaCha20.
    let mut subkey = hchacha::<U10>(key.expose().into(), prefix.into());
    let unbound = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("the subkey has 32 bytes");
    subkey.as_mut_slice().zeroize();
    LessSafeKey::new(unbound)
}

fn open_body<'a>(
    subkey: &LessSafeKey,
    counter: [u8; 8],
    header: &[u8; HEADER_LEN],
    body: &'a mut [u8],
) -> Result<&'a mut [u8], OpenError> {
    subkey.open_in_place(nonce(counter), Aad::from(header), body).map_err(|_| OpenError::Forged)
}

/// The rest of the nonce. It is unique because each counter is used once per key.
fn nonce(counter: [u8; 8]) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - counter.len()..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(bytes)
}

const _: () = assert!(TAG_LEN == 16 && FULL_NONCE_LEN == 24);
