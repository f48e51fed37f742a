//! Control frames that wait to be sent: a keepalive, answers, the last frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::codec::disconnect::Disconnect;
use crate::codec::frame::FrameType;
use crate::crypto::seal::{SealError, Sealer};

/// Keepalives that are answered per second, and answers that wait at most (PROTOCOL §7 lets more be
/// dropped). They fit into one message of 5,300 bytes.
pub const MAX_ACKS: usize = 100;

/// Counts of a session's control frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlCounts {
    /// Keepalives sent.
    pub keepalives_sent: u64,
    /// Keepalives received.
    pub keepalives_received: u64,
    /// Keepalives received beyond the rate that is answered (PROTOCOL §7).
    pub keepalives_dropped: u64,
    /// KeepaliveAcks received that answer nothing outstanding (PROTOCOL §7).
    pub acks_unasked: u64,
}

/// A keepalive's 8 bytes.
pub(super) type Stamp = [u8; 8];

/// What waits, in the order it goes out: bounded whatever the peer sends.
#[derive(Debug)]
pub(super) struct Control {
    /// The client's keepalive that confirms its keys: the first frame under them, even if the
    /// session is ended at once.
    confirmation: Option<Stamp>,
    /// Our next keepalive. A newer one takes its place: the older one's check is over then.
    keepalive: Option<Stamp>,
    acks: VecDeque<Stamp>,
    /// The second in which keepalives are counted, and how many it had.
    second: (Instant, usize),
    disconnect: Option<Disconnect>,
    /// Our keepalives that were sealed.
    pub(super) keepalives_sent: u64,
    /// The peer's keepalives that are not answered because there were too many.
    pub(super) keepalives_dropped: u64,
}

impl Control {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            confirmation: None,
            keepalive: None,
            acks: VecDeque::new(),
            second: (now, 0),
            disconnect: None,
            keepalives_sent: 0,
            keepalives_dropped: 0,
        }
    }

    /// The keepalive that confirms the keys. One that waits is given up for it.
    pub(super) const fn confirm(&mut self, stamp: u64) {
        self.keepalive = None;
        self.confirmation = Some(stamp.to_be_bytes());
    }

    /// Our next keepalive.
    pub(super) const fn keepalive(&mut self, stamp: u64) {
        self.keepalive = Some(stamp.to_be_bytes());
    }

    /// The peer's keepalive, to be answered now or never.
    pub(super) fn acknowledge(&mut self, now: Instant, stamp: Stamp) {
        if now.saturating_duration_since(self.second.0) >= Duration::from_secs(1) {
            self.second = (now, 0);
        }
        if self.second.1 >= MAX_ACKS || self.acks.len() >= MAX_ACKS {
            self.keepalives_dropped += 1;
            return;
        }
        self.second.1 += 1;
        self.acks.push_back(stamp);
    }

    /// The last frame. What waits is not sent any more, except the confirmation: without it the
    /// server would take the Disconnect for a fault.
    pub(super) fn disconnect(&mut self, disconnect: Disconnect) {
        self.keepalive = None;
        self.acks.clear();
        self.disconnect = Some(disconnect);
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        self.confirmation = None;
        self.keepalive = None;
        self.acks.clear();
        self.disconnect = None;
    }

    /// Seals all that waits; false if nothing did.
    pub(super) fn seal(&mut self, sealer: &mut Sealer, out: &mut Vec<u8>) -> Result<bool, SealError> {
        let before = out.len();
        self.seal_confirmation(sealer, out)?;
        if let Some(stamp) = self.keepalive.take() {
            self.seal_keepalive(stamp, sealer, out)?;
        }
        for stamp in self.acks.drain(..) {
            sealer.seal(FrameType::KeepaliveAck, &stamp, out)?;
        }
        if let Some(disconnect) = self.disconnect.take() {
            sealer.seal(FrameType::Disconnect, &disconnect.encode(), out)?;
        }
        Ok(out.len() > before)
    }

    /// Seals the confirmation, if it waits: ahead of whatever frame is first.
    pub(super) fn seal_confirmation(
        &mut self,
        sealer: &mut Sealer,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        match self.confirmation.take() {
            Some(stamp) => self.seal_keepalive(stamp, sealer, out),
            None => Ok(()),
        }
    }

    fn seal_keepalive(
        &mut self,
        stamp: Stamp,
        sealer: &mut Sealer,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        sealer.seal(FrameType::Keepalive, &stamp, out)?;
        self.keepalives_sent += 1;
        Ok(())
    }
}
