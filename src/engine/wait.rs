//! Waiting from a thread that is not the runtime's.

use std::time::Duration;

use tokio::sync::watch;

use super::clock;

/// Between two looks; the wait is bounded and rare, a process is about to end.
const STEP: Duration = Duration::from_millis(1);

/// Blocks the calling thread until `done` holds true, at most `timeout`. True if it came to hold.
///
/// It looks instead of being woken, so that it ends in time even where the runtime is going away.
pub fn wait_blocking(done: watch::Receiver<bool>, timeout: Duration) -> bool {
    let deadline = clock::now() + timeout;
    while !*done.borrow() {
        if clock::now() >= deadline {
            return false;
        }
        std::thread::sleep(STEP);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::wait_blocking;

    #[test]
    fn it_ends_when_done_and_when_late() {
        let (sender, done) = watch::channel(false);
        assert!(!wait_blocking(done.clone(), Duration::from_millis(5)));
        let setter = std::thread::spawn(move || sender.send_replace(true));
        assert!(wait_blocking(done, Duration::from_secs(10)));
        assert!(!setter.join().unwrap());
    }
}
