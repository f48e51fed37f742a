//! The keys in force: how long they serve, and how others take their place (PROTOCOL §5).

use std::time::Instant;

use super::{Phase, Session};
use crate::codec::frame::{Frame, FrameError, FrameSet, FrameType};
use crate::crypto::seal::{OpenError, Opener, Sealer};
use crate::session::error::SessionError;
use crate::session::key_life::{KeyLife, Wear};
use crate::session::rekey::{FreshKeys, Outgoing, Rekey};
use crate::session::states;

/// The seals of both directions. While a server waits for its client to switch, it opens under two keys.
#[derive(Debug)]
pub(super) struct Seals {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    /// For what comes under another prefix than the frames before.
    next: Option<Box<Opener>>,
}

impl Seals {
    pub(super) const fn new(sealer: Sealer, opener: Opener) -> Self {
        Self { sealer, opener, next: None }
    }

    /// Opens a frame in place. True if it was the first one under the next key, which is the only one from now on.
    pub(super) fn open<'f>(&mut self, frame: Frame<'f>) -> Result<(&'f mut [u8], bool), OpenError> {
        if self.next.is_none() || self.opener.has_prefix_of(frame.payload) {
            return Ok((self.opener.open(&frame.header, frame.payload)?, false));
        }
        match self.next.take() {
            Some(mut next) if frame.kind == FrameType::Keepalive => {
                let plaintext = next.open(&frame.header, frame.payload)?;
                // The old key is erased here.
                self.opener = *next;
                Ok((plaintext, true))
            }
            _ => Err(OpenError::Prefix),
        }
    }
}

impl Session {
    /// The frames that may come while no rekey is under way.
    pub(super) const fn accepted_at_rest(&self) -> FrameSet {
        let up = states::up(self.features);
        match &self.rekey {
            Some(rekey) if matches!(**rekey, Rekey::Server(_)) => up.with(FrameType::RekeyInit),
            _ => up,
        }
    }

    pub(super) fn check_key_use(&mut self) {
        let Seals { sealer, opener, .. } = &self.seals;
        let frames = sealer.frames().max(opener.frames());
        let bytes = sealer.bytes().max(opener.bytes());
        let wear = self.key_life.as_mut().and_then(|life| life.used(frames, bytes));
        self.keys_worn(wear);
    }

    pub(super) fn check_key_age(&mut self, now: Instant) {
        let wear = self.key_life.as_mut().and_then(|life| life.aged(now));
        self.keys_worn(wear);
    }

    fn keys_worn(&mut self, wear: Option<Wear>) {
        let Some(wear) = wear else { return };
        if let Some(Rekey::Client(rekey)) = self.rekey.as_deref_mut() {
            // They serve until others take their place, or the session ends because none do.
            self.key_life = None;
            return rekey.want(self.now);
        }
        match wear {
            Wear::Aging => self.events.keys_aging = true,
            Wear::Spent => {
                self.key_life = None;
                self.events.keys_spent = true;
            }
        }
    }

    /// Seals the frame of a rekey that waits; false if none does.
    pub(super) fn seal_rekey(&mut self, out: &mut Vec<u8>) -> Result<bool, SessionError> {
        if self.phase != Phase::Up {
            return Ok(false);
        }
        let Some(frame) = self.rekey.as_mut().and_then(|rekey| rekey.take_frame(self.now)) else {
            return Ok(false);
        };
        match frame {
            Outgoing::Init(plaintext) => {
                self.seals.sealer.seal(FrameType::RekeyInit, &plaintext, out)?;
                self.accepted = self.accepted.with(FrameType::RekeyResp);
            }
            Outgoing::Resp { message2, sealer, opener } => {
                self.seals.sealer.seal(FrameType::RekeyResp, &message2, out)?;
                self.seals.sealer = sealer;
                self.seals.next = Some(Box::new(opener));
            }
        }
        Ok(true)
    }

    /// RekeyInit came, at the server.
    pub(super) fn rekey_asked(&mut self, now: Instant, plaintext: &[u8]) -> Result<(), SessionError> {
        // Behind our Disconnect there is no rekey.
        if self.phase != Phase::Up {
            return Ok(());
        }
        let Some(Rekey::Server(rekey)) = self.rekey.as_deref_mut() else {
            return Err(FrameError::NotAllowed(FrameType::RekeyInit).into());
        };
        rekey.open(now, plaintext)?;
        self.accepted = states::up(self.features);
        Ok(())
    }

    /// RekeyResp came, at the client that has asked for it: both directions switch.
    pub(super) fn rekey_answered(&mut self, now: Instant, message2: &[u8]) -> Result<(), SessionError> {
        let Some(Rekey::Client(rekey)) = self.rekey.as_deref_mut() else {
            return Err(FrameError::NotAllowed(FrameType::RekeyResp).into());
        };
        let (FreshKeys { sealer, opener, .. }, limits) = (rekey.finish(message2)?, rekey.limits());
        self.seals = Seals::new(sealer, opener);
        self.accepted = self.accepted_at_rest();
        self.key_life = Some(KeyLife::new(now, limits));
        // Nothing goes out behind a Disconnect.
        if self.phase == Phase::Up {
            self.control.confirm(self.keepalives.send_again(now));
            self.events.keys_renewed = true;
        }
        Ok(())
    }

    /// The client's first frame under the new keys came, at the server.
    pub(super) fn rekey_confirmed(&mut self) {
        if let Some(Rekey::Server(rekey)) = self.rekey.as_deref_mut() {
            rekey.switched();
        }
        self.accepted = self.accepted_at_rest();
        self.events.keys_renewed = true;
    }
}
