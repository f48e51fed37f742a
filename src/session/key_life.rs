//! How long traffic keys serve (PROTOCOL §5).

use std::time::{Duration, Instant};

/// Frames that a key seals (PROTOCOL §5): far below the counter's end, at which a connection is lost.
const KEY_FRAMES: u64 = 1 << 32;

/// Bytes of payload that a key seals (PROTOCOL §5): no key protects more than that.
const KEY_BYTES: u64 = 64 << 30;

/// Time that keys serve (PROTOCOL §5): one that is stolen opens no more than this.
const KEY_AGE: Duration = Duration::from_secs(3_600);

/// How long traffic keys serve, in either direction (PROTOCOL §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Frames.
    pub frames: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// Time since the handshake.
    pub age: Duration,
}

impl Default for KeyLimits {
    /// 2³² frames, 64 GiB, one hour.
    fn default() -> Self {
        Self { frames: KEY_FRAMES, bytes: KEY_BYTES, age: KEY_AGE }
    }
}

impl KeyLimits {
    /// Where renewing begins: at nine tenths.
    fn aging(self) -> Self {
        let tenths = |number: u64| number - number / 10;
        Self { frames: tenths(self.frames), bytes: tenths(self.bytes), age: self.age / 10 * 9 }
    }

    const fn are_reached(&self, frames: u64, bytes: u64) -> bool {
        frames >= self.frames || bytes >= self.bytes
    }
}

/// What a client has to be told of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wear {
    /// Nine tenths of their service are behind them.
    Aging,
    /// All of it.
    Spent,
}

/// The service of one session's keys.
#[derive(Debug)]
pub(super) struct KeyLife {
    since: Instant,
    spent: KeyLimits,
    /// Until it has been told that they age.
    aging: Option<KeyLimits>,
}

impl KeyLife {
    pub(super) fn new(now: Instant, limits: KeyLimits) -> Self {
        Self { since: now, spent: limits, aging: Some(limits.aging()) }
    }

    /// When the next thing is told that time alone brings about.
    pub(super) fn next(&self) -> Instant {
        self.since + self.aging.as_ref().map_or(self.spent.age, |aging| aging.age)
    }

    /// What is news once the keys have served for so many frames and bytes, of the direction that has more.
    pub(super) fn used(&mut self, frames: u64, bytes: u64) -> Option<Wear> {
        self.news(|limits| limits.are_reached(frames, bytes))
    }

    /// What is news at `now`.
    pub(super) fn aged(&mut self, now: Instant) -> Option<Wear> {
        let age = now.saturating_duration_since(self.since);
        self.news(|limits| age >= limits.age)
    }

    fn news(&mut self, is_reached: impl Fn(&KeyLimits) -> bool) -> Option<Wear> {
        if is_reached(&self.spent) {
            return Some(Wear::Spent);
        }
        self.aging.take_if(|aging| is_reached(aging)).map(|_| Wear::Aging)
    }
}
