//! Traffic that breaks off: the way may be dead without a word (a black hole, a peer that was switched off).
//! Keepalives would find out at their own slow pace; whoever sends, or waits for more, wants to know sooner.
//!
//! ```text
//! last packet that came, or first that went out since anything came
//!          ├──── PROBE_AFTER ────── probe
//!          ├──────── DOUBT_AFTER ───────── nothing more is sent
//!          └──────────────────── DEAD_AFTER ───────────────────── dead
//! ```
//!
//! An answer ends it until the next packet: a burst of traffic costs one keepalive behind its end.

use std::time::{Duration, Instant};

/// How long nothing comes before a keepalive asks for an answer. Shorter would ask whenever an answer takes a moment,
/// as for a page that is being made; a stream in one direction costs its sender one keepalive in this time.
const PROBE_AFTER: Duration = Duration::from_secs(2);

/// How long before nothing more is sent: the probe has had a second, more than any round trip takes. What is sent all
/// the same lies in the kernel, and comes out late when the way is free again; here it grows old and is dropped.
const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// How long before the way counts as dead: the probe has had six seconds by then, which is what TCP needs to send
/// a lost segment four times. Noticed within 10 s, whatever else is going on.
const DEAD_AFTER: Duration = Duration::from_secs(8);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The peer should be asked whether it is there.
    Probe,
    /// It is not.
    Dead,
}

/// Since when nothing has come although there was traffic.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    since: Option<Instant>,
    probed: bool,
    doubted: bool,
}

impl Unanswered {
    /// Packets went out.
    pub(super) fn sent(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// A packet came: more may be expected.
    pub(super) const fn received(&mut self, now: Instant) {
        *self = Self { since: Some(now), probed: false, doubted: false };
    }

    /// The peer is asked now, for a reason of the caller's.
    pub(super) fn probed(&mut self, now: Instant) {
        self.sent(now);
        self.probed = true;
    }

    /// The peer is there, and nothing more is expected of it.
    pub(super) const fn heard(&mut self) {
        *self = Self { since: None, probed: false, doubted: false };
    }

    /// Whether the way is likely to be dead.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.doubted
    }

    /// When something is due, unless something comes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let wait = match (self.probed, self.doubted) {
            (_, true) => DEAD_AFTER,
            (true, false) => DOUBT_AFTER,
            (false, false) => PROBE_AFTER,
        };
        self.since.map(|since| since + wait)
    }

    /// What is due at `now`. Afterwards [`poll_timeout`](Self::poll_timeout) lies in the future: what comes late, after
    /// this process was stopped or the host slept, puts off what follows by as much, so that the peer has its time
    /// to answer and this end the time to read it.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Doubt> {
        let due = self.poll_timeout().filter(|at| now >= *at)?;
        let late = now.saturating_duration_since(due);
        self.since = self.since.map(|since| since + late);
        if !std::mem::replace(&mut self.probed, true) {
            return Some(Doubt::Probe);
        }
        if !std::mem::replace(&mut self.doubted, true) {
            return None;
        }
        self.heard();
        Some(Doubt::Dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::epoch;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn packets_that_nobody_answers_end_in_death_within_ten_seconds() {
        let start = epoch();
        let mut unanswered = Unanswered::default();
        assert_eq!(unanswered.poll_timeout(), None);
        for at in [0, 1, 3, 7] {
            unanswered.sent(start + secs(at));
        }
        assert_eq!(unanswered.poll_timeout(), Some(start + PROBE_AFTER));
        assert_eq!(unanswered.handle_timeout(start + PROBE_AFTER), Some(Doubt::Probe));
        assert_eq!(unanswered.handle_timeout(start + PROBE_AFTER), None);
        assert!(!unanswered.is_in_doubt());
        assert_eq!(unanswered.poll_timeout(), Some(start + DOUBT_AFTER));
        assert_eq!(unanswered.handle_timeout(start + DOUBT_AFTER), None);
        assert!(unanswered.is_in_doubt());
        assert_eq!(unanswered.poll_timeout(), Some(start + DEAD_AFTER));
        assert_eq!(unanswered.handle_timeout(start + DEAD_AFTER), Some(Doubt::Dead));
        assert_eq!(unanswered.poll_timeout(), None);
    }

    #[test]
    fn a_stream_that_comes_and_breaks_off_is_missed_as_well() {
        let start = epoch();
        let mut unanswered = Unanswered::default();
        for at in 0..100 {
            unanswered.received(start + secs(at));
            assert_eq!(unanswered.handle_timeout(start + secs(at + 1)), None);
        }
        assert_eq!(unanswered.handle_timeout(start + secs(101)), Some(Doubt::Probe));
        assert_eq!(unanswered.handle_timeout(start + secs(102)), None);
        assert_eq!(unanswered.handle_timeout(start + secs(107)), Some(Doubt::Dead));
    }

    #[test]
    fn a_probe_has_its_time_however_late_it_is_sent() {
        // The process was stopped meanwhile, or the host slept.
        let (start, late) = (epoch(), epoch() + secs(60));
        let mut unanswered = Unanswered::default();
        unanswered.sent(start);
        assert_eq!(unanswered.handle_timeout(late), Some(Doubt::Probe));
        assert_eq!(unanswered.handle_timeout(late), None);
        assert!(!unanswered.is_in_doubt());
        assert_eq!(unanswered.poll_timeout(), Some(late + DOUBT_AFTER - PROBE_AFTER));
        // So has an answer that nobody was there to read.
        let later = late + secs(60);
        assert_eq!(unanswered.handle_timeout(later), None);
        assert_eq!(unanswered.handle_timeout(later), None);
        assert!(unanswered.is_in_doubt());
        assert_eq!(unanswered.poll_timeout(), Some(later + DEAD_AFTER - DOUBT_AFTER));
        assert_eq!(unanswered.handle_timeout(later + DEAD_AFTER - DOUBT_AFTER), Some(Doubt::Dead));
    }

    #[test]
    fn an_answer_is_enough_until_the_next_packet() {
        let start = epoch();
        let mut unanswered = Unanswered::default();
        unanswered.received(start);
        assert_eq!(unanswered.handle_timeout(start + secs(2)), Some(Doubt::Probe));
        assert_eq!(unanswered.handle_timeout(start + secs(3)), None);
        assert!(unanswered.is_in_doubt());
        unanswered.heard();
        assert!(!unanswered.is_in_doubt());
        assert_eq!(unanswered.poll_timeout(), None);
        unanswered.sent(start + secs(50));
        assert_eq!(unanswered.poll_timeout(), Some(start + secs(52)));
    }

    #[test]
    fn who_is_asked_already_is_not_asked_again() {
        let start = epoch();
        let mut unanswered = Unanswered::default();
        unanswered.probed(start);
        assert_eq!(unanswered.handle_timeout(start + DOUBT_AFTER), None);
        assert_eq!(unanswered.handle_timeout(start + DEAD_AFTER), Some(Doubt::Dead));
    }
}
