//! Who is at the town's server, and what becomes of those who leave, as `server/hub.rs` has it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::session::roster::{Lost, Offer};
use smartvpn::telemetry::DropReason;

use crate::ends::Side;
use crate::host::{Host, State};
use crate::outside::Outside;

/// How long what was touched takes to the disk; and how long an ended connection is listened to.
const DISK: Duration = Duration::from_millis(50);
const GOODBYE: Duration = Duration::from_secs(2);

impl Host {
    /// Tells a connection's client that it ends.
    pub(crate) fn end(&mut self, out: &mut Outside, wire: u64, code: DisconnectCode) {
        out.tell(|| format!("the server ends {wire}, {code:?}"));
        let Some(conn) = self.conns.get_mut(&wire).filter(|conn| matches!(conn.state, State::Up(..))) else {
            return;
        };
        let State::Up(mut session, id) = std::mem::replace(&mut conn.state, State::Over) else { return };
        if matches!(code, DisconnectCode::Kicked | DisconnectCode::Removed | DisconnectCode::Replaced) {
            out.model.dismissed(out.wires[&wire].resident);
        }
        session.disconnect(code, "");
        assert_eq!(session.poll_timeout(), None, "a timer of a session that is left");
        let mut last = Vec::new();
        session.poll_transmit(&mut last).unwrap();
        out.send(out.now, wire, Side::Server, &last);
        conn.deadline = out.now + GOODBYE;
        conn.state = State::Leaving(session, id.clone());
        self.ended(out, wire, &id);
    }

    /// A connection was ended by one of its ends.
    pub(crate) fn ended(&mut self, out: &mut Outside, wire: u64, id: &str) {
        let is_current = self.roster.is_current(id, wire);
        assert_eq!(is_current, out.model.is_current(id, wire));
        if is_current {
            assert!(self.roster.end(out.now, id).is_some());
            self.unregister(out, id);
        }
    }

    pub(crate) fn lost(&mut self, out: &mut Outside, wire: u64, id: &str) {
        out.tell(|| format!("the server loses {wire}"));
        let lost = self.roster.lost(out.now, id, wire);
        assert_eq!(lost == Lost::Away, out.model.is_current(id, wire), "{lost:?}");
        if lost == Lost::Away {
            out.model.lost(out.now, id);
            self.peers.get_mut(id).expect("a peer").mailbox.hold(out.now);
        }
    }

    /// A session is over.
    pub(crate) fn unregister(&mut self, out: &mut Outside, id: &str) {
        out.model.ended(out.now, id);
        let peer = self.peers.remove(id).expect("a peer");
        peer.mailbox.discard(DropReason::NotConnected);
        self.touch(out);
    }

    /// What has changed is on the disk soon.
    pub(crate) fn touch(&mut self, out: &Outside) {
        if !self.closing {
            self.write_at.get_or_insert(out.now + DISK);
        }
    }

    pub(crate) fn withdraw(&mut self, out: &mut Outside, wire: u64, offer: Offer) {
        let before = self.snapshot(out);
        self.roster.withdraw(out.now, offer);
        out.model.withdraw(out.now, wire);
        assert_eq!(self.snapshot(out), before, "what was never confirmed leaves nothing behind");
    }

    /// What a first message, and a connection that was never confirmed, must leave as it is.
    pub(crate) fn snapshot(&self, out: &Outside) -> String {
        let saved = serde_json::to_value(self.roster.save(out.now)).unwrap();
        let sorted = |name: &str| {
            let mut list: Vec<String> =
                saved[name].as_array().unwrap().iter().map(|it| it.to_string()).collect();
            list.sort();
            list.join(" ")
        };
        let mut current = Vec::new();
        for (id, known) in &out.model.sessions {
            current.extend(known.online.map(|wire| self.roster.is_current(id, wire)));
        }
        format!("{} {} {current:?} {:?}", sorted("clients"), sorted("revoked"), self.roster.poll_timeout())
    }

    /// A packet from elsewhere for whoever has this address.
    pub(crate) fn route(&self, now: Instant, address: Ipv4Addr, packet: &[u8]) {
        let peer = self.peers.values().find(|peer| peer.address == address);
        peer.expect("the model knows who has it").mailbox.push(now, packet);
    }

    /// The operator wants a client gone.
    pub(crate) fn kick(&mut self, out: &mut Outside, id: &str, code: DisconnectCode) {
        self.roster.revoke(out.unix(), id);
        out.model.kicked(out.unix(), id);
        let Some(known) = out.model.sessions.get(id) else { return };
        match known.online {
            Some(wire) => self.end(out, wire, code),
            None => {
                assert!(self.roster.end(out.now, id).is_some());
                self.unregister(out, id);
            }
        }
    }

    /// Stops with a word to everybody.
    pub(crate) fn stop(&mut self, out: &mut Outside) {
        self.write(out);
        self.closing = true;
        for wire in self.conns.keys().copied().collect::<Vec<_>>() {
            self.end(out, wire, DisconnectCode::ShuttingDown);
        }
    }

    pub(crate) fn write(&mut self, out: &mut Outside) {
        assert!(!self.closing);
        self.write_at = None;
        out.disk = Some(self.roster.save(out.now));
        out.book = Some(self.registry.save(out.unix()));
        out.model.saved(out.now);
    }

    /// What must hold after each step.
    pub(crate) fn check(&self, out: &Outside) {
        let mut sessions: Vec<_> = self.roster.sessions().map(|(id, it)| (id, it.v4)).collect();
        sessions.sort();
        let expected: Vec<_> = out.model.sessions.iter().map(|(id, it)| (id.as_str(), it.address)).collect();
        assert_eq!(sessions, expected, "who has which address");
        out.model.check();
        assert_eq!(self.roster.poll_timeout(), out.model.next_grace(), "when the next grace is over");
        assert!(self.roster.poll_timeout().is_none_or(|at| at > out.now), "a grace in the past");
        for (id, known) in &out.model.sessions {
            let Some(wire) = known.online else { continue };
            assert!(self.roster.is_current(id, wire), "evicted by nobody");
            let conn = self.conns.get(&wire).map(|conn| &conn.state);
            assert!(matches!(conn, Some(State::Up(..))), "a session without its connection");
        }
        assert!(self.next_event().is_none_or(|at| at > out.now), "a timer in the past");
        self.peers.values().for_each(|peer| peer.mailbox.check());
    }
}
