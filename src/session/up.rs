//! A session that is up: both ends of it are the same (PROTOCOL §2, "up" and "Disconnect seen").
//!
//! The caller feeds what comes ([`Session::handle_message`], [`Session::handle_timeout`]) and then
//! polls: [`Session::poll_transmit`] ahead of every batch of packets, [`Session::poll_event`] until
//! it is empty, [`Session::poll_timeout`] for the next deadline.

mod keys;
mod packets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::codec::bundle::Records;
use crate::codec::disconnect::{Disconnect, DisconnectCode};
use crate::codec::frame::{Frame, FrameError, FrameSet, FrameType, split_frame};
use crate::codec::hello::Features;
use crate::crypto::keys::{Keypair, PublicKey};
use crate::packet::{Offload, Record};
use crate::session::control::{Control, ControlCounts, Stamp};
use crate::session::error::SessionError;
use crate::session::event::{Event, Events};
use crate::session::keepalive::{Due, Keepalives};
use crate::session::key_life::{KeyLife, KeyLimits};
use crate::session::rekey::{ClientRekey, FreshKeys, Rekey, ServerRekey};
use crate::session::silence::{KeepaliveCap, Silence};
use crate::session::states;
use crate::session::unanswered::{Doubt, Unanswered};
use crate::telemetry::quality::Quality;

use keys::Seals;

/// One end of a session whose keys are confirmed, or at the client about to be.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    features: Features,
    /// The frames that may come.
    accepted: FrameSet,
    seals: Seals,
    control: Control,
    keepalives: Keepalives,
    silence: Silence,
    unanswered: Unanswered,
    keepalives_received: u64,
    acks_unasked: u64,
    last_keepalive_at: Option<Instant>,
    /// The end of the keys' service, at the client, until it is told.
    key_life: Option<KeyLife>,
    /// What renews them where `rekey` is in force.
    rekey: Option<Box<Rekey>>,
    events: Events,
    /// A fault in the message that brought the session up, behind the frame that did.
    early_fault: Option<SessionError>,
    /// The latest moment the caller told of.
    now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    /// Our Disconnect is queued or sent. What still comes is discarded.
    Leaving,
    /// The same, but for packets: the client goes on with another connection, and what it has sent by this one
    /// is as good as what it sends by that.
    Replaced,
    /// The peer's Disconnect was seen, the peer is dead, or a fault ended the session.
    Ended,
}

impl Session {
    /// The client's end, of the server's key and its own: its confirming Keepalive waits already.
    pub(super) fn client(
        now: Instant,
        keys: FreshKeys,
        static_keys: (PublicKey, Option<Arc<Keypair>>),
        features: Features,
        (keepalive_interval, keepalive_cap): (Duration, KeepaliveCap),
        limits: KeyLimits,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let rekey = Rekey::Client(ClientRekey::new(static_keys, keys.basis, limits));
        let mut session = Self::new(now, keys, rekey, features, keepalive_interval, rng);
        session.keepalives = session.keepalives.with_cap(keepalive_cap);
        session.key_life = Some(KeyLife::new(now, limits));
        session.control.confirm(session.keepalives.send(now, rng));
        session
    }

    /// The server's end, of its key and the client's, confirmed by a Keepalive with this timestamp: its answer waits already.
    pub(super) fn server(
        now: Instant,
        keys: FreshKeys,
        static_keys: (Arc<Keypair>, Option<PublicKey>),
        features: Features,
        keepalive_interval: Duration,
        stamp: Stamp,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let rekey = Rekey::Server(ServerRekey::new(static_keys, keys.basis));
        let mut session = Self::new(now, keys, rekey, features, keepalive_interval, rng);
        session.keepalive_received(now, stamp);
        session
    }

    fn new(
        now: Instant,
        FreshKeys { sealer, opener, .. }: FreshKeys,
        rekey: Rekey,
        features: Features,
        keepalive_interval: Duration,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let mut session = Self {
            phase: Phase::Up,
            features,
            accepted: states::up(features),
            seals: Seals::new(sealer, opener),
            control: Control::new(now),
            keepalives: Keepalives::new(now, keepalive_interval, rng),
            silence: Silence::new(now),
            unanswered: Unanswered::default(),
            keepalives_received: 0,
            acks_unasked: 0,
            last_keepalive_at: None,
            key_life: None,
            rekey: features.rekey.then(|| Box::new(rekey)),
            events: Events::default(),
            early_fault: None,
            now,
        };
        session.accepted = session.accepted_at_rest();
        session
    }

    /// Takes one WebSocket binary message and calls `sink` with each IP packet in it, in order and
    /// opened in place. What a packet holds, and its offload header, are not judged here. Frames ahead of
    /// a faulty one stand.
    ///
    /// Once the session has ended, or [`disconnect`](Self::disconnect) was called, messages are
    /// discarded.
    ///
    /// # Errors
    ///
    /// The session has ended by a fault; the connection is closed with its code.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: &mut [u8],
        sink: impl FnMut(Record<'_>),
    ) -> Result<(), SessionError> {
        self.now = self.now.max(now);
        let handled = self.handle_frames(now, message, sink);
        if handled.is_err() {
            self.end();
        }
        self.check_key_use();
        handled
    }

    /// The features in force.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Appends the control frames that wait, and tells whether there were any. They go ahead of
    /// packets: poll this before sealing any.
    ///
    /// # Errors
    ///
    /// A frame could not be sealed, or the message that brought the session up held a fault behind
    /// the frame that did: the connection is closed with the error's code.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Result<bool, SessionError> {
        if let Some(fault) = self.early_fault.take() {
            return Err(fault);
        }
        let mut any = self.control.seal(&mut self.seals.sealer, out)?;
        // Behind them, as the last one of the server's under the old key.
        any |= self.seal_rekey(out)?;
        if any {
            // They were queued by what was handled last.
            self.silence.sent(self.now);
        }
        self.check_key_use();
        Ok(any)
    }

    /// The next thing that the caller must know of.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called. It may have changed after each
    /// other call; `None` once the session has ended or is ending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase != Phase::Up {
            return None;
        }
        let keys = self.key_life.as_ref().map(KeyLife::next);
        let rekey = self.rekey.as_ref().and_then(|rekey| rekey.poll_timeout());
        let times = [self.keepalives.poll_timeout(), self.unanswered.poll_timeout(), keys, rekey];
        times.into_iter().flatten().min()
    }

    /// Does what is due at `now`. Afterwards [`poll_timeout`](Self::poll_timeout) lies in the future.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        self.now = self.now.max(now);
        if self.phase != Phase::Up {
            return;
        }
        self.check_key_age(now);
        if let Some(rekey) = &mut self.rekey
            && let Err(error) = rekey.handle_timeout(now, rng)
        {
            self.events.rekey_failed = Some(error);
            return self.end();
        }
        match self.unanswered.handle_timeout(now) {
            Some(Doubt::Probe) => {
                if let Some(stamp) = self.keepalives.probe(now, rng) {
                    self.control.keepalive(stamp);
                }
            }
            Some(Doubt::Dead) => return self.peer_dead(),
            None => {}
        }
        let timeouts = self.keepalives.consecutive_timeouts();
        let due = self.keepalives.handle_timeout(now, rng);
        self.events.timed_out |= self.keepalives.consecutive_timeouts() > timeouts;
        match due {
            Some(Due::Keepalive(stamp)) => self.control.keepalive(stamp),
            Some(Due::PeerDead) => self.peer_dead(),
            None => {}
        }
    }

    /// Asks the peer whether it is there, now: the network has changed, or the host has slept. Without an answer
    /// the peer is dead within 8 s.
    pub fn probe(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        self.now = self.now.max(now);
        if self.phase == Phase::Up {
            if let Some(stamp) = self.keepalives.probe(now, rng) {
                self.control.keepalive(stamp);
            }
            self.unanswered.probed(now);
        }
    }

    /// Queues a Disconnect as the last frame: nothing else is sealed afterwards, and what still
    /// comes is discarded, but for the packets of a client that is told [`DisconnectCode::Replaced`]. Without effect
    /// once the session has ended or is ending.
    pub fn disconnect(&mut self, code: DisconnectCode, message: &str) {
        if self.phase == Phase::Up {
            self.control.disconnect(Disconnect { code, message: message.to_owned() });
            self.phase = if code == DisconnectCode::Replaced { Phase::Replaced } else { Phase::Leaving };
        }
    }

    /// Whether the way is likely to be dead: packets should rather grow old in their queue than be sealed.
    pub const fn is_in_doubt(&self) -> bool {
        self.unanswered.is_in_doubt()
    }

    /// How good the link is, as of the last call that came with a time.
    pub fn quality(&self) -> Quality {
        self.keepalives.quality(self.now)
    }

    /// How long nothing had passed in either direction when the connection was cut, if that is noticed
    /// `now`; none if it was in use, or failing already. `flushed`: the connection had taken all that was
    /// sealed. [`KeepaliveCap::learn`] draws the conclusion.
    pub fn silence_before_cut(&self, now: Instant, flushed: bool) -> Option<Duration> {
        self.silence.before_cut(now, !flushed || self.keepalives.consecutive_timeouts() > 0)
    }

    /// Keepalives sent and received.
    pub const fn keepalives(&self) -> (u64, u64) {
        (self.control.keepalives_sent, self.keepalives_received)
    }

    /// When the peer's last Keepalive came.
    pub const fn last_keepalive_at(&self) -> Option<Instant> {
        self.last_keepalive_at
    }

    /// What was counted.
    pub const fn control_counts(&self) -> ControlCounts {
        ControlCounts {
            keepalives_sent: self.control.keepalives_sent,
            keepalives_received: self.keepalives_received,
            keepalives_dropped: self.control.keepalives_dropped,
            acks_unasked: self.acks_unasked,
        }
    }

    /// Handles the frames behind the one that brought the session up. A fault there comes after
    /// that frame, which stands: it ends the session by the next [`poll_transmit`](Self::poll_transmit).
    pub(super) fn handle_rest(&mut self, now: Instant, rest: &mut [u8], sink: impl FnMut(Record<'_>)) {
        if !rest.is_empty() {
            self.early_fault = self.handle_message(now, rest, sink).err();
        }
    }

    fn handle_frames(
        &mut self,
        now: Instant,
        message: &mut [u8],
        mut sink: impl FnMut(Record<'_>),
    ) -> Result<(), SessionError> {
        let mut rest = message;
        while matches!(self.phase, Phase::Up | Phase::Replaced) {
            let (frame, behind) = split_frame(rest, self.accepted)?;
            self.handle_frame(now, frame, &mut sink)?;
            if behind.is_empty() {
                break;
            }
            rest = behind;
        }
        Ok(())
    }

    fn handle_frame(
        &mut self,
        now: Instant,
        frame: Frame<'_>,
        sink: &mut impl FnMut(Record<'_>),
    ) -> Result<(), SessionError> {
        let kind = frame.kind;
        let (plaintext, has_switched) = self.seals.open(frame)?;
        if has_switched {
            self.rekey_confirmed();
        }
        self.keepalives.heard(now);
        self.silence.received(now);
        match kind {
            FrameType::IpPacket | FrameType::IpBundle => self.unanswered.received(now),
            _ => self.unanswered.heard(),
        }
        match kind {
            FrameType::IpPacket => sink(Record { packet: plaintext, offload: Offload::NONE }),
            FrameType::IpBundle => Records::parse(plaintext, self.features.offload)?.for_each(sink),
            FrameType::Keepalive => {
                let stamp = stamp(kind, plaintext)?;
                self.keepalive_received(now, stamp);
            }
            FrameType::KeepaliveAck => {
                let stamp = stamp(kind, plaintext)?;
                match self.keepalives.acknowledged(now, u64::from_be_bytes(stamp)) {
                    Some(rtt) => self.events.round_trip = Some(rtt),
                    None => self.acks_unasked += 1,
                }
            }
            FrameType::Disconnect => {
                let disconnect = Disconnect::parse(plaintext).map_err(SessionError::Disconnect)?;
                self.events.disconnected = Some(disconnect);
                self.end();
            }
            FrameType::RekeyInit => self.rekey_asked(now, plaintext)?,
            FrameType::RekeyResp => self.rekey_answered(now, plaintext)?,
            // Not in the state's set, so split_frame() has refused it.
            kind => return Err(FrameError::NotAllowed(kind).into()),
        }
        Ok(())
    }

    fn keepalive_received(&mut self, now: Instant, stamp: Stamp) {
        self.keepalives_received += 1;
        self.last_keepalive_at = Some(now);
        // Nothing goes out behind a Disconnect.
        if self.phase == Phase::Up {
            self.control.acknowledge(now, stamp);
        }
    }

    fn peer_dead(&mut self) {
        self.events.peer_dead = true;
        self.end();
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.control.clear();
    }
}

/// The 8 bytes of a keepalive or its answer; the header has promised them.
pub(super) fn stamp(kind: FrameType, plaintext: &[u8]) -> Result<Stamp, FrameError> {
    let length = u32::try_from(plaintext.len()).unwrap_or(u32::MAX);
    plaintext.try_into().map_err(|_| FrameError::Length { kind, length })
}
