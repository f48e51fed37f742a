//! Threads of the data plane.
//!
//! What a packet passes on its way runs on one thread: the TUN's reader, the session, the socket. A hand-over
//! between threads costs a system call to wake the other one, and more than the work that it could share: on
//! two cores a tunnel whose tasks a work-stealing runtime spreads moves a third less. More cores are used by
//! more connections, each of which stays where it began.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One thread with a runtime of its own. It ends, with whatever runs on it, when this is dropped.
#[derive(Debug)]
pub struct Lane {
    runtime: Handle,
    /// The thread waits for its end.
    _stop: Option<oneshot::Sender<()>>,
    load: Arc<()>,
}

/// Counts as one that uses a lane.
#[derive(Clone, Debug)]
pub struct Seat {
    _load: Arc<()>,
}

impl Lane {
    /// Starts the thread. Where the system has none to give, the caller's runtime does the work, which must
    /// be there.
    pub fn start() -> Self {
        Self::start_thread().unwrap_or_else(|error| {
            tracing::warn!(%error, "no thread for the data plane; its work is done beside everything else");
            Self { runtime: Handle::current(), _stop: None, load: Arc::default() }
        })
    }

    fn start_thread() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("smartvpn-data".to_owned()).spawn(move || {
            // An error is what is waited for: the sender was dropped.
            let _stopped = runtime.block_on(stopped);
        })?;
        Ok(Self { runtime: handle, _stop: Some(stop), load: Arc::default() })
    }

    /// As many as there are cores.
    pub fn for_each_core() -> Vec<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from).min(MAX_LANES);
        (0..cores).map(|_| Self::start()).collect()
    }

    /// The runtime: what is made while it is entered belongs to the lane.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A place on the lane.
    pub fn seat(&self) -> Seat {
        Seat { _load: Arc::clone(&self.load) }
    }

    /// How many seats are taken.
    pub fn load(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

/// More cores than this do not make a server's network faster.
const MAX_LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Task;

    #[test]
    fn what_runs_on_a_lane_stays_on_its_thread_and_ends_with_it() {
        let lane = Lane::start_thread().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (alive, gone) = std::sync::mpsc::channel::<()>();
        let task = Task::spawn_on(lane.runtime(), "test", async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
                sender.send(thread::current().name().map(str::to_owned)).unwrap();
            }
            std::future::pending::<()>().await;
            drop(alive);
        });
        for _ in 0..10 {
            assert_eq!(receiver.recv().unwrap().as_deref(), Some("smartvpn-data"));
        }
        drop(lane);
        assert!(gone.recv().is_err(), "the task's values are dropped");
        drop(task);
    }

    #[test]
    fn seats_are_counted() {
        let lane = Lane::start_thread().unwrap();
        let seats = [lane.seat(), lane.seat()];
        assert_eq!(lane.load(), 2);
        drop(seats);
        assert_eq!(lane.load(), 0);
    }
}
