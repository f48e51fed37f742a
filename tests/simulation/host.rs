//! The town's server: its cores, put together as `server/` does it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use smartvpn::crypto::keys::{Keypair, PublicKey};
use smartvpn::crypto::ticket::TicketKey;
use smartvpn::session::registry::Registry;
use smartvpn::session::roster::{Offer, Restored, Roster, Rules, Saved};
use smartvpn::session::{
    Event, Listening, Opened, RekeyError, ReplayCache, Session, SessionError, Unconfirmed,
};

use crate::book::Listed;
use crate::ends::Side;
use crate::outside::Outside;
use crate::post::{Mailbox, source};
use crate::wire::Arrival;
use crate::world::HANDSHAKE_TIMEOUT;

pub(crate) enum State {
    Listening(Listening),
    Unconfirmed(Box<Unconfirmed>, Promised),
    Up(Box<Session>, String),
    /// Ended by the server's word: what comes is still delivered where it may be.
    Leaving(Box<Session>, String),
    Over,
}

/// What a connection is promised, and the registered key that it is by.
pub(crate) struct Promised {
    pub(crate) offer: Offer,
    pub(crate) listed: Option<PublicKey>,
}

pub(crate) struct Conn {
    pub(crate) state: State,
    /// Its client's address, once its keys are confirmed.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) deadline: Instant,
}

pub(crate) struct Peer {
    pub(crate) mailbox: Mailbox,
    pub(crate) address: Ipv4Addr,
}

pub(crate) struct Host {
    pub(crate) process: u32,
    keypair: Arc<Keypair>,
    pub(crate) roster: Roster,
    pub(crate) registry: Registry,
    replay: ReplayCache,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) closing: bool,
    /// When what was touched is on the disk.
    pub(crate) write_at: Option<Instant>,
}

impl Host {
    pub(crate) fn new(
        out: &mut Outside,
        process: u32,
        keypair: Arc<Keypair>,
        rules: Rules,
        disk: Option<Saved>,
    ) -> Self {
        let roster = Roster::new(rules, TicketKey::derive(&keypair.private));
        let configured = &out.model.configured;
        let clients: Vec<_> = configured.listed.values().map(Listed::registered).collect();
        let saved = out.book.clone();
        out.model.restarted(out.now, disk.is_some(), saved.is_some());
        let auth = out.model.book.auth();
        let registry = Registry::restore(auth, &clients, saved.unwrap_or_default()).unwrap();
        let mut host = Self {
            process,
            keypair,
            roster,
            registry,
            replay: ReplayCache::new(HANDSHAKE_TIMEOUT),
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            closing: false,
            write_at: None,
        };
        let restored = disk.map(|saved| host.roster.restore(out.now, saved)).unwrap_or_default();
        for Restored { client_id: id, addresses, .. } in restored {
            let mut mailbox = Mailbox::new(&mut out.rng);
            mailbox.hold(out.now);
            host.peers.insert(id, Peer { mailbox, address: addresses.v4 });
        }
        host.keep_addresses(out);
        host
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// When something is due.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        let due = |conn: &Conn| match &conn.state {
            State::Up(session, _) => session.poll_timeout(),
            State::Over => None,
            _ => Some(conn.deadline),
        };
        let conns = self.conns.values().filter_map(due);
        conns.chain(self.write_at).chain(self.roster.poll_timeout()).min()
    }

    /// Does all that is due.
    pub(crate) fn serve(&mut self, out: &mut Outside) {
        let now = out.now;
        for (id, wire) in &out.wires {
            if wire.process == self.process
                && !self.conns.contains_key(id)
                && !wire.is_closed_by(Side::Server)
            {
                let state = State::Listening(Listening::new(Arc::clone(&self.keypair)));
                let deadline = wire.opened + HANDSHAKE_TIMEOUT;
                self.conns.insert(*id, Conn { state, address: None, deadline });
            }
        }
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            for arrival in out.arrivals(id, Side::Client) {
                match arrival {
                    Arrival::Message(message) => self.receive(out, id, message),
                    Arrival::Close => self.closed(out, id),
                }
            }
            self.expire(out, id);
            self.settle(out, id);
        }
        for peer in self.peers.values_mut().filter(|peer| peer.mailbox.is_held()) {
            peer.mailbox.age(now);
        }
        if self.roster.poll_timeout().is_some_and(|at| at <= now) {
            let mut ended: Vec<_> = self.roster.expire(now).into_iter().map(|(id, _)| id).collect();
            ended.sort();
            assert_eq!(ended, out.model.overdue(now), "whose grace is over");
            ended.iter().for_each(|id| self.unregister(out, id));
        }
        if self.write_at.is_some_and(|at| at <= now) {
            self.write(out);
        }
        self.conns.retain(|_, conn| !matches!(conn.state, State::Over));
    }

    fn receive(&mut self, out: &mut Outside, wire: u64, mut message: Vec<u8>) {
        let now = out.now;
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        let is_stranger = out.wire(wire).resident.is_none();
        let answered = match is_stranger {
            true => Vec::new(),
            false => out.wire(wire).note_taken(Side::Client, &message),
        };
        match std::mem::replace(&mut conn.state, State::Over) {
            State::Listening(listening) => {
                let opened = listening.handle_message(now, &mut out.rng, &mut self.replay, &mut message);
                match opened {
                    Ok(Opened::Request(request)) => self.request(out, wire, *request),
                    Ok(Opened::Refused { .. }) => panic!("a good hello was refused"),
                    Err(error) => {
                        // A stranger's copy may overtake the message itself.
                        assert!(is_stranger || matches!(error, SessionError::Replayed), "{error}");
                        out.tally("a repeated first message is refused");
                        self.over(out, wire);
                    }
                }
            }
            State::Unconfirmed(unconfirmed, promised) => {
                let mut packets = Vec::new();
                let rng = &mut out.rng;
                let sink = |record: smartvpn::packet::Record<'_>| packets.push(record.packet.to_vec());
                match unconfirmed.handle_message(now, rng, &mut message, sink) {
                    Ok(session) => {
                        assert!(!is_stranger, "a stranger has confirmed");
                        self.confirm(out, wire, (session, promised), packets);
                    }
                    Err(error) => {
                        assert!(is_stranger, "{error}");
                        self.withdraw(out, wire, promised.offer);
                        self.over(out, wire);
                    }
                }
            }
            State::Up(mut session, id) => {
                let outcome = self.take(out, wire, &mut session, message);
                match outcome {
                    Ok(()) => {
                        self.put(wire, State::Up(session, id));
                        self.events(out, wire, &answered);
                    }
                    Err(error) => panic!("nobody changes anything here: {error}"),
                }
            }
            State::Leaving(mut session, id) => {
                // The connection is closed already: a fault changes nothing.
                let _ended = self.take(out, wire, &mut session, message);
                self.put(wire, State::Leaving(session, id));
            }
            State::Over => {}
        }
    }

    pub(crate) fn put(&mut self, wire: u64, state: State) {
        if let Some(conn) = self.conns.get_mut(&wire) {
            conn.state = state;
        }
    }

    fn take(
        &mut self,
        out: &mut Outside,
        wire: u64,
        session: &mut Session,
        mut message: Vec<u8>,
    ) -> Result<(), SessionError> {
        let mut packets = Vec::new();
        let outcome =
            session.handle_message(out.now, &mut message, |record| packets.push(record.packet.to_vec()));
        self.deliver(out, wire, packets);
        outcome
    }

    pub(crate) fn deliver(&self, out: &mut Outside, wire: u64, packets: Vec<Vec<u8>>) {
        let address = self.conns.get(&wire).and_then(|conn| conn.address);
        for packet in packets {
            assert_eq!(Some(source(&packet)), address, "another client's packet");
            let wire = out.wires.get_mut(&wire).expect("a wire");
            out.post.deliver(wire, Side::Client, &packet);
        }
    }

    /// The stream has ended.
    fn closed(&mut self, out: &mut Outside, wire: u64) {
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        match std::mem::replace(&mut conn.state, State::Over) {
            State::Unconfirmed(_, promised) => self.withdraw(out, wire, promised.offer),
            State::Up(_, id) => self.lost(out, wire, &id),
            State::Listening(_) | State::Leaving(..) | State::Over => {}
        }
        self.over(out, wire);
    }

    pub(crate) fn over(&mut self, out: &mut Outside, wire: u64) {
        self.put(wire, State::Over);
        out.close(wire, Side::Server);
    }

    fn expire(&mut self, out: &mut Outside, wire: u64) {
        let now = out.now;
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        match &mut conn.state {
            State::Up(session, _) if session.poll_timeout().is_some_and(|at| at <= now) => {
                session.handle_timeout(now, &mut out.rng);
                assert!(session.poll_timeout().is_none_or(|at| at > now), "a timer in the past");
                self.events(out, wire, &[]);
            }
            State::Up(..) | State::Over => {}
            _ if conn.deadline <= now => self.closed(out, wire),
            _ => {}
        }
    }

    fn events(&mut self, out: &mut Outside, wire: u64, answered: &[Instant]) {
        let now = out.now;
        let Some(Conn { state: State::Up(session, id), .. }) = self.conns.get_mut(&wire) else { return };
        while let Some(event) = session.poll_event() {
            match event {
                Event::RoundTrip { rtt } => {
                    let known = answered.iter().any(|at| now - *at == rtt);
                    assert!(known, "the answer to another keepalive: {rtt:?} of {answered:?}");
                }
                Event::PeerDead | Event::RekeyFailed(RekeyError::Overdue) | Event::Disconnected(_) => {
                    assert_eq!(session.poll_timeout(), None, "a timer of a session that is over");
                    let id = id.clone();
                    match event {
                        Event::Disconnected(_) => self.ended(out, wire, &id),
                        _ => self.lost(out, wire, &id),
                    }
                    return self.over(out, wire);
                }
                Event::TimedOut | Event::KeysRenewed => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends what waits.
    fn settle(&mut self, out: &mut Outside, wire: u64) {
        let Some(Conn { state: State::Up(session, id), .. }) = self.conns.get_mut(&wire) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let mailbox = out.model.is_current(id, wire).then_some(&mut peer.mailbox);
        out.transmit(out.now, (wire, Side::Server), session, mailbox);
    }
}
