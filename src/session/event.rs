//! What a session tells its caller.

use std::time::Duration;

use crate::codec::disconnect::Disconnect;
#[cfg(doc)]
use crate::codec::hello::Features;
use crate::session::rekey::RekeyError;
#[cfg(doc)]
use crate::session::up::Session;

/// What the caller must know of; each is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A keepalive came back: [`Session::quality`] has changed. Of several that were not polled in
    /// between, the last is told.
    RoundTrip {
        /// From the keepalive's becoming due to its answer's coming.
        rtt: Duration,
    },
    /// A keepalive was not answered in time: [`Session::quality`] has changed.
    TimedOut,
    /// The keys have nine tenths of their service behind them (PROTOCOL §5): the client should get new ones
    /// meanwhile, by a second connection. Servers are not told, nor clients of sessions that renew them by themselves
    /// ([`Features::rekey`]).
    KeysAging,
    /// The keys have served long enough (PROTOCOL §5): the client must get new ones by connecting
    /// anew. Neither servers nor those clients are told.
    KeysSpent,
    /// The session has new keys (PROTOCOL §5): the client as soon as it has switched to them, the server when it has
    /// heard so.
    KeysRenewed,
    /// New keys did not come about. The session has ended.
    RekeyFailed(RekeyError),
    /// The peer no longer answers. The session has ended.
    PeerDead,
    /// The peer's last frame. The session has ended.
    Disconnected(Disconnect),
}

/// Events that wait: one place for each kind, so they are bounded if nobody polls.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) round_trip: Option<Duration>,
    pub(super) timed_out: bool,
    pub(super) keys_aging: bool,
    pub(super) keys_spent: bool,
    pub(super) keys_renewed: bool,
    pub(super) rekey_failed: Option<RekeyError>,
    pub(super) peer_dead: bool,
    pub(super) disconnected: Option<Disconnect>,
}

impl Events {
    /// Those that end the session come last.
    pub(super) fn pop(&mut self) -> Option<Event> {
        if let Some(rtt) = self.round_trip.take() {
            return Some(Event::RoundTrip { rtt });
        }
        if std::mem::take(&mut self.timed_out) {
            return Some(Event::TimedOut);
        }
        if std::mem::take(&mut self.keys_aging) {
            return Some(Event::KeysAging);
        }
        if std::mem::take(&mut self.keys_spent) {
            return Some(Event::KeysSpent);
        }
        if std::mem::take(&mut self.keys_renewed) {
            return Some(Event::KeysRenewed);
        }
        if let Some(error) = self.rekey_failed.take() {
            return Some(Event::RekeyFailed(error));
        }
        if std::mem::take(&mut self.peer_dead) {
            return Some(Event::PeerDead);
        }
        self.disconnected.take().map(Event::Disconnected)
    }
}
