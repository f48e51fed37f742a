//! The client's part: it starts.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use super::{Basis, FreshKeys, Judged, MIN_INTERVAL, RekeyError, TIMEOUT};
use crate::codec::rekey_hello::RekeyHello;
use crate::crypto::kem::KemKey;
use crate::crypto::keys::{Keypair, PublicKey};
use crate::crypto::noise::{self, Initiated, Pattern};
use crate::crypto::seal::PREFIX_LEN;
use crate::session::error::SessionError;
use crate::session::key_life::KeyLimits;
use crate::session::nonce_prefix;

#[derive(Debug)]
pub(in crate::session) struct ClientRekey {
    server_key: PublicKey,
    identity: Option<Arc<Keypair>>,
    basis: Basis,
    /// When keys have served long enough.
    limits: KeyLimits,
    /// The next RekeyInit is not made before.
    not_before: Option<Instant>,
    step: Step,
}

enum Step {
    Idle,
    /// Since then.
    Wanted(Instant),
    /// RekeyInit waits to be sealed.
    Ready(Vec<u8>, Box<Asked>),
    /// RekeyResp is awaited, until then.
    Asked(Instant, Box<Asked>),
}

struct Asked {
    initiated: Initiated,
    kem: Option<KemKey>,
    /// For the key that this end will seal with.
    prefix: [u8; PREFIX_LEN],
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Wanted(_) => "Wanted",
            Self::Ready(..) => "Ready",
            Self::Asked(..) => "Asked",
        })
    }
}

impl ClientRekey {
    pub(in crate::session) fn new(
        (server_key, identity): (PublicKey, Option<Arc<Keypair>>),
        basis: Basis,
        limits: KeyLimits,
    ) -> Self {
        Self { server_key, identity, basis, limits, not_before: None, step: Step::Idle }
    }

    /// When keys have served long enough.
    pub(in crate::session) const fn limits(&self) -> KeyLimits {
        self.limits
    }

    /// The keys in force have served long enough.
    pub(in crate::session) fn want(&mut self, now: Instant) {
        if matches!(self.step, Step::Idle) {
            self.step = Step::Wanted(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.step {
            Step::Idle | Step::Ready(..) => None,
            Step::Wanted(since) => Some(self.not_before.map_or(since, |time| time.max(since))),
            Step::Asked(until, _) => Some(until),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Result<(), RekeyError> {
        match self.step {
            Step::Wanted(_) if self.not_before.is_none_or(|time| now >= time) => {
                let (plaintext, asked) = self.ask(rng)?;
                self.step = Step::Ready(plaintext, Box::new(asked));
                self.not_before = Some(now + MIN_INTERVAL);
                Ok(())
            }
            Step::Asked(until, _) if now >= until => Err(RekeyError::Overdue),
            _ => Ok(()),
        }
    }

    /// The plaintext of RekeyInit.
    fn ask(&self, rng: &mut dyn CryptoRng) -> Result<(Vec<u8>, Asked), RekeyError> {
        let kem = self.basis.is_hybrid.then(KemKey::generate).transpose().map_err(RekeyError::Kem)?;
        let hello = RekeyHello { mlkem768: kem.as_ref().map(|kem| kem.public_bytes().to_vec()) };
        let client = self.identity.as_deref();
        let pattern = Pattern::of_client(client.is_some());
        let prologue = noise::rekey_prologue(pattern, &self.basis.hash);
        let (initiated, message1) =
            noise::initiate_with(pattern, &prologue, client, &self.server_key, &hello.encode(), rng)
                .map_err(RekeyError::Handshake)?;
        let plaintext = [&[pattern as u8], message1.as_slice()].concat();
        Ok((plaintext, Asked { initiated, kem, prefix: nonce_prefix(rng) }))
    }

    /// The plaintext of RekeyInit, if it waits; the answer is awaited from `now` on.
    pub(super) fn take_init(&mut self, now: Instant) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Ready(plaintext, asked) => {
                self.step = Step::Asked(now + TIMEOUT, asked);
                Some(plaintext)
            }
            step => {
                self.step = step;
                None
            }
        }
    }

    /// Takes the plaintext of RekeyResp. Returns the keys that both directions have from now on.
    pub(in crate::session) fn finish(&mut self, message2: &[u8]) -> Judged<FreshKeys> {
        let Step::Asked(_, asked) = std::mem::replace(&mut self.step, Step::Idle) else {
            // Only a client that has asked takes this frame.
            return Err(RekeyError::Refused.into());
        };
        let Asked { initiated, kem, prefix } = *asked;
        let (payload, handshake) = initiated.finish(message2)?;
        let hello = RekeyHello::parse_resp(&payload, kem.is_some()).map_err(SessionError::ServerHello)?;
        let hello = hello.ok_or(RekeyError::Refused)?;
        let secret = match (kem, hello.mlkem768) {
            (Some(kem), Some(ciphertext)) => Some(kem.decapsulate(&ciphertext).map_err(RekeyError::Kem)?),
            (Some(_), None) => return Err(SessionError::NotHybrid),
            (None, _) => None,
        };
        let keys = FreshKeys::of_client(&handshake, secret.as_ref(), prefix);
        self.basis = keys.basis;
        Ok(keys)
    }
}
