//! The server's part: it goes along.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use super::{Basis, FreshKeys, Judged, MAX_REKEYS, Outgoing, RekeyError, TIMEOUT, WINDOW};
use crate::codec::rekey_hello::RekeyHello;
use crate::crypto::kem::{self, SharedSecret};
use crate::crypto::keys::{Keypair, PublicKey};
use crate::crypto::noise::{self, NoiseError, Pattern, Responding};
use crate::session::error::SessionError;
use crate::session::nonce_prefix;

#[derive(Debug)]
pub(in crate::session) struct ServerRekey {
    keypair: Arc<Keypair>,
    /// The client's, if the session is one of a client with a key.
    client_key: Option<PublicKey>,
    basis: Basis,
    /// When the last ones began, [`MAX_REKEYS`] at most.
    recent: VecDeque<Instant>,
    step: Step,
}

enum Step {
    Idle,
    /// Message 1 is good; it came then.
    Asked(Instant, Box<Asked>),
    /// RekeyResp waits to be sealed.
    Ready(Vec<u8>, Box<FreshKeys>),
    /// The client must switch to these keys, until then.
    Answered(Instant, Basis),
}

struct Asked {
    responding: Responding,
    kem: Option<(Vec<u8>, SharedSecret)>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Asked(..) => "Asked",
            Self::Ready(..) => "Ready",
            Self::Answered(..) => "Answered",
        })
    }
}

impl ServerRekey {
    pub(in crate::session) fn new(
        (keypair, client_key): (Arc<Keypair>, Option<PublicKey>),
        basis: Basis,
    ) -> Self {
        Self { keypair, client_key, basis, recent: VecDeque::new(), step: Step::Idle }
    }

    /// Takes the plaintext of RekeyInit.
    pub(in crate::session) fn open(&mut self, now: Instant, plaintext: &[u8]) -> Judged<()> {
        self.count(now)?;
        let pattern = Pattern::of_client(self.client_key.is_some());
        let (byte, message1) = plaintext.split_first().ok_or(NoiseError::Refused)?;
        if *byte != pattern as u8 {
            return Err(RekeyError::OtherClient.into());
        }
        let prologue = noise::rekey_prologue(pattern, &self.basis.hash);
        let (responding, payload) = noise::respond_with(pattern, &prologue, &self.keypair, message1)?;
        if responding.client_key() != self.client_key {
            return Err(RekeyError::OtherClient.into());
        }
        let hello = RekeyHello::parse_init(&payload).map_err(RekeyError::Hello)?;
        let kem = hello.mlkem768.as_deref().map(kem::encapsulate).transpose().map_err(RekeyError::Kem)?;
        if self.basis.is_hybrid && kem.is_none() {
            return Err(SessionError::NotHybrid);
        }
        self.step = Step::Asked(now, Box::new(Asked { responding, kem }));
        Ok(())
    }

    fn count(&mut self, now: Instant) -> Result<(), RekeyError> {
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() >= MAX_REKEYS {
            return Err(RekeyError::TooMany);
        }
        self.recent.push_back(now);
        Ok(())
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self.step {
            Step::Idle | Step::Ready(..) => None,
            Step::Asked(at, _) | Step::Answered(at, _) => Some(at),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Result<(), RekeyError> {
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Asked(_, asked) => {
                let (message2, keys) = answer(*asked, rng).map_err(RekeyError::Handshake)?;
                self.step = Step::Ready(message2, Box::new(keys));
                Ok(())
            }
            Step::Answered(until, _) if now >= until => Err(RekeyError::Overdue),
            step => {
                self.step = step;
                Ok(())
            }
        }
    }

    /// RekeyResp, if it waits; the client's switch is awaited from `now` on.
    pub(super) fn take_resp(&mut self, now: Instant) -> Option<Outgoing> {
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Ready(message2, keys) => {
                let FreshKeys { sealer, opener, basis } = *keys;
                self.step = Step::Answered(now + TIMEOUT, basis);
                Some(Outgoing::Resp { message2, sealer, opener })
            }
            step => {
                self.step = step;
                None
            }
        }
    }

    /// The client has switched.
    pub(in crate::session) fn switched(&mut self) {
        if let Step::Answered(_, basis) = self.step {
            self.basis = basis;
            self.step = Step::Idle;
        }
    }
}

/// The plaintext of RekeyResp, and the keys behind it.
fn answer(asked: Asked, rng: &mut dyn CryptoRng) -> Result<(Vec<u8>, FreshKeys), NoiseError> {
    let Asked { responding, kem } = asked;
    let (mlkem768, secret) = kem.unzip();
    let (message2, handshake) = responding.finish(&RekeyHello { mlkem768 }.encode(), rng)?;
    Ok((message2, FreshKeys::of_server(&handshake, secret.as_ref(), nonce_prefix(rng))))
}
