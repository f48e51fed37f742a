//! A connection of a resident's that carries packets, as `client/carried.rs` and `engine/link.rs` have it.

use std::time::Instant;

use smartvpn::session::{Event, RekeyError, Session, Setback};

use crate::attempt::{Established, setback_of};
use crate::ends::Side;
use crate::outside::Outside;
use crate::wire::Arrival;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The stream was closed.
    Cut,
    /// The address that it came from is gone.
    Gone,
    Failed(Setback),
}

pub(crate) struct Carried {
    pub(crate) wire: u64,
    pub(crate) session: Session,
    pub(crate) is_confirmed: bool,
    confirmed: bool,
    aging: bool,
    renewed: bool,
    is_closed: bool,
}

impl Carried {
    pub(crate) fn new(established: Established) -> Self {
        let Established { wire, session, .. } = established;
        let (is_confirmed, confirmed, aging, renewed, is_closed) = Default::default();
        Self { wire, session, is_confirmed, confirmed, aging, renewed, is_closed }
    }

    /// The server has answered, and nobody has taken note yet.
    pub(crate) fn take_confirmed(&mut self) -> bool {
        let is_news = self.confirmed && !self.is_confirmed;
        self.is_confirmed |= is_news;
        is_news
    }

    /// The keys age, and nobody has taken note yet.
    pub(crate) fn take_aging(&mut self) -> bool {
        std::mem::take(&mut self.aging)
    }

    /// There are new ones, and nobody has taken note yet.
    pub(crate) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Takes what came, and does what is due.
    pub(crate) fn serve(&mut self, out: &mut Outside, now: Instant) -> Option<End> {
        for arrival in out.arrivals(self.wire, Side::Server) {
            let mut message = match arrival {
                Arrival::Close => return Some(End::Cut),
                Arrival::Message(message) => message,
            };
            let wire = out.wires.get_mut(&self.wire).expect("a wire");
            let answered = wire.note_taken(Side::Server, &message);
            let post = &mut out.post;
            let outcome = self.session.handle_message(now, &mut message, |record| {
                post.deliver(wire, Side::Server, record.packet);
            });
            outcome.expect("nobody changes anything here");
            if let Some(end) = self.events(now, &answered) {
                return Some(end);
            }
        }
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now, &mut out.rng);
            assert!(self.session.poll_timeout().is_none_or(|at| at > now), "a timer in the past");
            if let Some(end) = self.events(now, &[]) {
                return Some(end);
            }
        }
        out.transmit(now, (self.wire, Side::Client), &mut self.session, None);
        None
    }

    pub(crate) fn events(&mut self, now: Instant, answered: &[Instant]) -> Option<End> {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::RoundTrip { rtt } => {
                    let known = answered.iter().any(|at| now - *at == rtt);
                    assert!(known, "the answer to another keepalive: {rtt:?} of {answered:?}");
                    self.confirmed = true;
                }
                Event::KeysAging => self.aging = true,
                Event::KeysRenewed => self.renewed = true,
                Event::KeysSpent => return Some(End::Failed(Setback::Nothing)),
                Event::PeerDead | Event::RekeyFailed(RekeyError::Overdue) => {
                    assert_eq!(self.session.poll_timeout(), None, "a timer of a session that is over");
                    return Some(End::Failed(Setback::Interrupted));
                }
                Event::Disconnected(disconnect) => {
                    assert_eq!(self.session.poll_timeout(), None, "a timer of a session that is over");
                    return Some(End::Failed(setback_of(disconnect.code)));
                }
                Event::TimedOut => {}
                other => panic!("{other:?}"),
            }
        }
        None
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self, out: &mut Outside) {
        if !std::mem::replace(&mut self.is_closed, true) {
            out.close(self.wire, Side::Client);
        }
    }
}
