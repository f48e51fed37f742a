//! Tasks that end with their owner.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

/// A running task, aborted when dropped.
#[derive(Debug)]
pub struct Task<T> {
    handle: JoinHandle<T>,
    joined: bool,
}

impl<T: Send + 'static> Task<T> {
    /// Runs `future` on the current runtime. `name` identifies it in the log.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
    pub fn spawn(name: &'static str, future: impl Future<Output = T> + Send + 'static) -> Self {
        tracing::trace!(name, "task starts");
        Self { handle: tokio::spawn(future), joined: false }
    }

    /// As [`spawn`](Self::spawn), on another runtime.
    pub fn spawn_on(
        runtime: &Handle,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        tracing::trace!(name, "task starts");
        Self { handle: runtime.spawn(future), joined: false }
    }

    /// Waits for the end. A panic inside the task comes out as its message. Cancel-safe.
    ///
    /// # Errors
    /// The panic's text, if the task panicked or was aborted; or that its end was told before.
    pub async fn join(&mut self) -> Result<T, String> {
        if self.joined {
            return Err("the task ended before".to_owned());
        }
        let ended = (&mut self.handle).await;
        self.joined = true;
        ended.map_err(describe)
    }

    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

fn describe(error: JoinError) -> String {
    if !error.is_panic() {
        return "the task was aborted".to_owned();
    }
    let panic = error.into_panic();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::Task;

    #[tokio::test]
    async fn a_panic_is_reported_not_spread() {
        let mut task = Task::spawn("test", async { panic!("boom {}", 1) });
        let outcome: Result<(), String> = task.join().await;
        assert_eq!(outcome, Err("boom 1".to_owned()));
    }

    #[tokio::test]
    async fn an_end_is_told_once() {
        let mut task = Task::spawn("test", async { 7 });
        assert_eq!(task.join().await, Ok(7));
        assert!(task.join().await.is_err());
    }

    #[tokio::test]
    async fn dropping_ends_the_task() {
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let task = Task::spawn("test", async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        drop(task);
        assert_eq!(gone.recv().await, None);
    }
}
