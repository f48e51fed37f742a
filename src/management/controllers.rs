//! What all controllers of a daemon share: the events, and how the daemon comes to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{broadcast, watch};

use super::message;
use crate::error::{ErrorCode, VpnError};
use crate::report::{ConnectionState, Event, EventSink, Status, TOLD};

/// Events that wait for the controllers. One that falls further behind loses the oldest of them,
/// and is told how many. At a few hundred bytes each this holds well under a MiB, for all together.
const EVENTS: usize = 256;

/// Why a daemon ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// Somebody asked it to.
    Asked,
    /// It can't go on.
    Failed(VpnError),
}

/// The event sink of a daemon. It never waits for a controller.
pub struct Controllers {
    events: broadcast::Sender<Arc<str>>,
    status: watch::Sender<Option<Status>>,
    end: watch::Sender<Option<End>>,
    /// Once true, controllers write what they have and end.
    closing: watch::Sender<bool>,
    /// Whether the VPN that runs is the one the daemon was started for, rather than a controller's.
    own_vpn: AtomicBool,
}

impl Default for Controllers {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(EVENTS),
            status: watch::Sender::new(None),
            end: watch::Sender::new(None),
            closing: watch::Sender::new(false),
            own_vpn: AtomicBool::new(false),
        }
    }
}

impl Controllers {
    /// Events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.events.subscribe()
    }

    /// The VPN's last state; none before its first change.
    pub(super) fn status(&self) -> watch::Receiver<Option<Status>> {
        self.status.subscribe()
    }

    /// Ends the daemon. The first reason holds.
    pub(super) fn end(&self, end: End) {
        self.end.send_if_modified(|given| {
            let first = given.is_none();
            given.get_or_insert(end);
            first
        });
    }

    /// Resolves with the reason once the daemon is to end. Cancel-safe.
    pub(super) async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        // The sender lives as long as this object.
        let end = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or(End::Asked)
    }

    /// From now on the daemon stands and falls with the VPN that runs, until a controller ends it.
    pub(super) fn own_vpn(&self) {
        self.own_vpn.store(true, Ordering::Relaxed);
    }

    /// Lets every controller write what it has and end.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Tells all controllers that the daemon ends by a failure.
    pub(super) fn tell_failure(&self, error: &VpnError) {
        self.send(message::event("exit", &super::error_body(error)));
    }

    fn send(&self, line: Arc<str>) {
        // Without controllers nobody is told.
        let _unheard = self.events.send(line);
    }

    fn follow(&self, status: &Status) {
        self.status.send_replace(Some(status.clone()));
        match status.state {
            ConnectionState::Disconnected => self.own_vpn.store(false, Ordering::Relaxed),
            ConnectionState::Error if self.own_vpn.load(Ordering::Relaxed) => {
                let code = status.last_error_code.unwrap_or(ErrorCode::Internal);
                let message = status.last_error.clone().unwrap_or_else(|| "the VPN has failed".to_owned());
                self.end(End::Failed(VpnError::new(code, message)));
            }
            _ => {}
        }
    }
}

impl EventSink for Controllers {
    fn emit(&self, event: Event) {
        let (name, data) = (event.name(), event.data());
        tracing::debug!(target: TOLD, name, %data, "event");
        match event {
            // Told when all that is left has been undone.
            Event::Failed(error) => return self.end(End::Failed(error)),
            Event::Status(status) => self.follow(&status),
            _ => {}
        }
        self.send(message::event(name, &data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Event {
        Event::Status(Status {
            last_error: Some("gone".to_owned()),
            last_error_code: Some(ErrorCode::TunUnavailable),
            ..Status::new(ConnectionState::Error)
        })
    }

    #[tokio::test]
    async fn a_daemon_ends_with_its_own_vpn() {
        let controllers = Controllers::default();
        controllers.emit(failed());
        controllers.own_vpn();
        controllers.emit(Event::Status(Status::new(ConnectionState::Connected)));
        assert_eq!(*controllers.end.borrow(), None);
        controllers.emit(failed());
        let End::Failed(error) = controllers.ended().await else { panic!("it was not asked to end") };
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::TunUnavailable, "gone"));
    }

    #[test]
    fn a_daemon_outlives_the_vpn_of_a_controller() {
        let controllers = Controllers::default();
        controllers.own_vpn();
        controllers.emit(Event::Status(Status::new(ConnectionState::Disconnected)));
        controllers.emit(failed());
        assert_eq!(*controllers.end.borrow(), None);
    }

    #[tokio::test]
    async fn the_first_reason_to_end_holds() {
        let controllers = Controllers::default();
        controllers.end(End::Asked);
        controllers.end(End::Failed(VpnError::new(ErrorCode::Internal, "late")));
        assert_eq!(controllers.ended().await, End::Asked);
    }
}
