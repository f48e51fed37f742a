//! Notices that the host slept, or that this process was stopped.
//!
//! Timers count the time in which the host is awake: after an hour's sleep a keepalive is still due when it
//! was, and a connection that has long gone looks alive. So the two clocks of which one goes on during sleep
//! are compared. A process that is stopped (SIGSTOP, a frozen container, a paused virtual machine) is told by
//! a timer that fires late.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::clock;
use super::task::Task;

/// Between two looks at the clocks. So long at most goes on as before what has woken up; a shorter time would
/// wake an idle host more often than once a second.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The clocks are read one after the other, and a thread may have to wait in between; a real sleep is longer.
const SLEPT: Duration = Duration::from_secs(1);

/// On a host that is merely busy a timer fires within fractions of a second; so long bears no other name than
/// standing still.
const LATE: Duration = Duration::from_secs(3);

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    monotonic: Instant,
    /// Since the host started, sleep included.
    boot: Duration,
}

impl Reading {
    fn take() -> Self {
        Self { monotonic: clock::now(), boot: clock::since_boot() }
    }
}

/// How long nothing ran between two looks that were to be [`LOOK_INTERVAL`] apart: the host slept, or this
/// process stood still. Nothing if both is too short to be told from chance.
fn lost_time(before: Reading, now: Reading) -> Option<Duration> {
    let awake = now.monotonic.saturating_duration_since(before.monotonic);
    let slept = now.boot.saturating_sub(before.boot).saturating_sub(awake);
    let late = awake.saturating_sub(LOOK_INTERVAL);
    (slept > SLEPT || late > LATE).then(|| slept + late)
}

/// Looks at the clocks once a second, in a task of its own: that its holder is busy with something else is no
/// sleep.
#[derive(Debug)]
pub struct SuspendWatch {
    /// All the time that was lost so far.
    lost: watch::Receiver<Duration>,
    told: Duration,
    _task: Task<()>,
}

impl SuspendWatch {
    /// Begins to look. Must be called within a tokio runtime.
    #[expect(clippy::new_without_default, reason = "it starts a task")]
    pub fn new() -> Self {
        let (sender, lost) = watch::channel(Duration::ZERO);
        Self { lost, told: Duration::ZERO, _task: Task::spawn("suspend watch", look(sender)) }
    }

    /// One that tells what `lost` grows by.
    #[cfg(test)]
    pub(super) fn of(lost: watch::Receiver<Duration>) -> Self {
        Self { lost, told: Duration::ZERO, _task: Task::spawn("test", std::future::pending()) }
    }

    /// Waits until the host has slept for more than a second, or this process has stood still for more than
    /// four, and tells how long, in all since the last answer. Comes within a second of the awakening.
    /// Cancel-safe.
    pub async fn woke(&mut self) -> Duration {
        if self.lost.changed().await.is_err() {
            // The runtime is ending, and the task with it.
            std::future::pending::<()>().await;
        }
        let lost = *self.lost.borrow_and_update();
        let since = lost.saturating_sub(self.told);
        self.told = lost;
        since
    }
}

async fn look(lost: watch::Sender<Duration>) {
    loop {
        let before = Reading::take();
        tokio::time::sleep(LOOK_INTERVAL).await;
        if let Some(time) = lost_time(before, Reading::take()) {
            lost.send_modify(|lost| *lost += time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(monotonic_ms: u64, boot_ms: u64) -> Option<u128> {
        let before = Reading { monotonic: clock::now(), boot: Duration::from_secs(1000) };
        let now = Reading {
            monotonic: before.monotonic + Duration::from_millis(monotonic_ms),
            boot: before.boot + Duration::from_millis(boot_ms),
        };
        lost_time(before, now).map(|lost| lost.as_millis())
    }

    #[test]
    fn a_second_as_any_other_is_no_sleep() {
        assert_eq!(after(1000, 1000), None);
        assert_eq!(after(1003, 1002), None, "the clocks are not read at once");
        assert_eq!(after(4000, 4000), None, "a busy host");
        assert_eq!(after(1000, 2000), None);
    }

    #[test]
    fn a_sleep_is_told_by_the_clock_that_went_on() {
        assert_eq!(after(1000, 2001), Some(1001));
        assert_eq!(after(1000, 3_601_000), Some(3_600_000));
    }

    #[test]
    fn a_stop_is_told_by_the_late_timer() {
        assert_eq!(after(4001, 4001), Some(3001));
        assert_eq!(after(61_000, 61_000), Some(60_000));
        assert_eq!(after(61_000, 121_000), Some(120_000), "both, one after the other");
    }

    #[test]
    fn the_clock_since_boot_goes_on() {
        let before = clock::since_boot();
        assert!(before > Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock::since_boot() > before);
    }

    #[tokio::test]
    async fn times_that_are_lost_before_anybody_asks_are_told_as_one() {
        let (sender, lost) = watch::channel(Duration::ZERO);
        let mut watch = SuspendWatch::of(lost);
        for seconds in [5, 7] {
            sender.send_modify(|lost| *lost += Duration::from_secs(seconds));
        }
        assert_eq!(watch.woke().await, Duration::from_secs(12));
        sender.send_modify(|lost| *lost += Duration::from_secs(2));
        assert_eq!(watch.woke().await, Duration::from_secs(2));
        let again = tokio::time::timeout(Duration::from_millis(5), watch.woke());
        assert!(again.await.is_err(), "once");
    }
}
