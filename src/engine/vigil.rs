//! Watches for what makes a look at a connection worth while before its timers do.

use std::future::pending;
use std::time::Duration;

use super::suspend::SuspendWatch;
use crate::network::{Change, Monitor};

/// Why the connection is to be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The host's interfaces, addresses or routes changed: the way to the server may be another one, or gone.
    Network,
    /// The host slept, or this process stood still, for so long: the server may have given it up.
    Woke(Duration),
}

/// Hears of changes to the host's network, and of sleep.
pub struct Vigil {
    monitor: Option<Monitor>,
    suspend: SuspendWatch,
}

impl Vigil {
    /// Begins to watch, in the network namespace of the calling thread; what happens to the interface
    /// `own_ifindex`, the tunnel's, is no alarm. Must be called within a tokio runtime.
    ///
    /// Where the kernel does not tell of changes, sleep alone is noticed, and the log says so.
    pub fn open(own_ifindex: u32) -> Self {
        let mut monitor = Monitor::open()
            .inspect_err(|error| {
                tracing::warn!(%error, "a change of the host's network will be noticed late: by silence only");
            })
            .ok();
        if let Some(monitor) = &mut monitor {
            monitor.ignore(own_ifindex);
        }
        Self { monitor, suspend: SuspendWatch::new() }
    }

    /// Waits for the next alarm; there are ten a second at most. Cancel-safe.
    pub async fn next(&mut self) -> Alarm {
        let Self { monitor, suspend } = self;
        tokio::select! {
            biased;
            lost = suspend.woke() => {
                tracing::debug!(?lost, "the host slept, or this process stood still");
                Alarm::Woke(lost)
            }
            change = changed(monitor.as_mut()) => {
                tracing::debug!(?change, "the host's network changed");
                Alarm::Network
            }
        }
    }
}

async fn changed(monitor: Option<&mut Monitor>) -> Change {
    match monitor {
        Some(monitor) => monitor.changed().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::engine::Task;

    #[tokio::test]
    async fn the_clocks_alone_raise_an_alarm_in_a_task_too() {
        let (sender, lost) = watch::channel(Duration::ZERO);
        let mut vigil = Vigil { monitor: None, suspend: SuspendWatch::of(lost) };
        let soon = tokio::time::timeout(Duration::from_millis(5), vigil.next());
        assert!(soon.await.is_err(), "nothing happened");
        let mut waiting = Task::spawn("test", async move { vigil.next().await });
        sender.send_modify(|lost| *lost += Duration::from_secs(9));
        assert_eq!(waiting.join().await, Ok(Alarm::Woke(Duration::from_secs(9))));
    }
}
