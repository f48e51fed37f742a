//! The town's server: its cores, put together as `server/` does it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, RejectCode, Rejection};
use smartvpn::crypto::keys::Keypair;
use smartvpn::crypto::ticket::TicketKey;
use smartvpn::session::roster::{Guest, Offer, Restored, Roster, Rules, Saved, TICKET_LIFETIME, Wish};
use smartvpn::session::{
    AfterRefusal, Event, Listening, Opened, RekeyError, ReplayCache, Request, Session, SessionError,
    Unconfirmed,
};

use crate::ends::{Side, accepted};
use crate::model::{Expected, Written};
use crate::outside::Outside;
use crate::post::{Mailbox, source};
use crate::wire::Arrival;
use crate::world::HANDSHAKE_TIMEOUT;

pub(crate) enum State {
    Listening(Listening),
    Unconfirmed(Box<Unconfirmed>, Offer),
    Up(Box<Session>, String),
    /// Ended by the server's word: what comes is still delivered where it may be.
    Leaving(Box<Session>, String),
    Over,
}

pub(crate) struct Conn {
    pub(crate) state: State,
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
        let mut host = Self {
            process,
            keypair,
            roster,
            replay: ReplayCache::new(HANDSHAKE_TIMEOUT),
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            closing: false,
            write_at: None,
        };
        out.model.restarted(out.now, disk.is_some());
        let restored = disk.map(|saved| host.roster.restore(out.now, saved)).unwrap_or_default();
        for Restored { client_id: id, addresses, .. } in restored {
            let mut mailbox = Mailbox::new(&mut out.rng);
            mailbox.hold(out.now);
            host.peers.insert(id, Peer { mailbox, address: addresses.v4 });
        }
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
                self.conns.insert(*id, Conn { state, deadline: wire.opened + HANDSHAKE_TIMEOUT });
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
            State::Unconfirmed(unconfirmed, offer) => {
                let mut packets = Vec::new();
                let rng = &mut out.rng;
                let sink = |record: smartvpn::packet::Record<'_>| packets.push(record.packet.to_vec());
                match unconfirmed.handle_message(now, rng, &mut message, sink) {
                    Ok(session) => {
                        assert!(!is_stranger, "a stranger has confirmed");
                        self.confirm(out, wire, (session, offer), packets);
                    }
                    Err(error) => {
                        assert!(is_stranger, "{error}");
                        self.withdraw(out, wire, offer);
                        self.over(out, wire);
                    }
                }
            }
            State::Up(mut session, id) => {
                let outcome = self.take(out, wire, (&mut session, &id), message);
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
                let _ended = self.take(out, wire, (&mut session, &id), message);
                self.put(wire, State::Leaving(session, id));
            }
            State::Over => {}
        }
    }

    fn put(&mut self, wire: u64, state: State) {
        if let Some(conn) = self.conns.get_mut(&wire) {
            conn.state = state;
        }
    }

    fn take(
        &mut self,
        out: &mut Outside,
        wire: u64,
        (session, id): (&mut Session, &str),
        mut message: Vec<u8>,
    ) -> Result<(), SessionError> {
        let mut packets = Vec::new();
        let outcome =
            session.handle_message(out.now, &mut message, |record| packets.push(record.packet.to_vec()));
        self.deliver(out, wire, id, packets);
        outcome
    }

    fn deliver(&self, out: &mut Outside, wire: u64, id: &str, packets: Vec<Vec<u8>>) {
        for packet in packets {
            if let Some(known) = out.model.sessions.get(id) {
                assert_eq!(source(&packet), known.address, "another client's packet");
            }
            let wire = out.wires.get_mut(&wire).expect("a wire");
            out.post.deliver(wire, Side::Client, &packet);
        }
    }

    /// A first message that opens.
    fn request(&mut self, out: &mut Outside, wire: u64, request: Request) {
        let (now, unix, from) = (out.now, out.unix(), out.wire(wire).source);
        let ticket = request.hello().ticket.clone();
        let is_resume = request.is_resume();
        let key = request.client_key();
        let wish = match is_resume {
            true => Wish::Resume { ticket: ticket.as_ref(), hybrid: request.is_hybrid(), key },
            false => Wish::New(Guest { key, ..Guest::ANYBODY }),
        };
        if let Some(number) = out.wire(wire).resident {
            let identity = out.identities.get(&number).map(|identity| identity.public);
            assert_eq!(request.client_key(), identity, "another client's key");
        }
        let before = self.snapshot(out);
        let offered = match self.closing {
            true => Err(RejectCode::ShuttingDown),
            false => self.roster.offer((now, unix), from, wish, &mut out.rng),
        };
        let bytes = ticket.as_ref().filter(|_| is_resume).map(|ticket| ticket.expose());
        let expected = match (self.closing, bytes) {
            (true, _) => Err(RejectCode::ShuttingDown),
            (false, Some(ticket)) => out.model.judge_resume(unix, from, ticket, offered.as_ref().err()),
            (false, None) => out.model.judge_new(from),
        };
        let told = offered.as_ref().map(|_| ()).map_err(Clone::clone);
        assert_eq!(
            told,
            expected,
            "what a client that comes {} is told",
            if is_resume { "back" } else { "new" }
        );
        assert_eq!(self.snapshot(out), before, "a first message proves nothing");
        out.tally(match (is_resume, &expected) {
            (true, Ok(())) => "a resume is accepted",
            (true, Err(_)) => "a resume is refused",
            (false, Ok(())) => "a new client is accepted",
            (false, Err(_)) => "a new client is refused",
        });
        match offered {
            Ok(offer) => self.accept(out, wire, (request, offer), bytes),
            Err(code) => {
                if code == RejectCode::Unauthorized {
                    out.tally("a kicked client's ticket is refused");
                }
                let rejection = Rejection { version: 1, code, message: "no".into() };
                let (frame, then) = request.reject(rejection, &mut out.rng).unwrap();
                out.send_plain(wire, Side::Server, &frame);
                match then {
                    AfterRefusal::Listen(listening) => self.put(wire, State::Listening(listening)),
                    AfterRefusal::Close(_) => self.over(out, wire),
                }
            }
        }
    }

    fn accept(
        &mut self,
        out: &mut Outside,
        wire: u64,
        (request, mut offer): (Request, Offer),
        ticket: Option<&[u8]>,
    ) {
        let unix = out.unix();
        out.model.offered(out.now, wire, out.wires[&wire].source, ticket, &offer);
        let given = self.roster.ticket(unix, &mut offer, false, &mut out.rng);
        let full =
            ticket.and_then(|ticket| out.model.written(ticket)).map_or(unix, |old| old.full_handshake_at);
        if let Some((ticket, secs)) = &given {
            assert!(Duration::from_secs((*secs).into()) <= TICKET_LIFETIME);
            let written = Written {
                id: offer.client_id.clone(),
                address: offer.addresses.v4,
                expires_at: unix + u64::from(*secs),
                full_handshake_at: full,
            };
            out.model.wrote(ticket.expose(), written);
        }
        let hello = Accepted {
            client_id: offer.client_id.clone(),
            assigned_ip: offer.addresses.v4,
            ticket: given,
            ..accepted()
        };
        let (unconfirmed, frame) = request.accept(&hello, &mut out.rng).unwrap();
        out.send_plain(wire, Side::Server, &frame);
        self.put(wire, State::Unconfirmed(Box::new(unconfirmed), offer));
    }

    fn confirm(
        &mut self,
        out: &mut Outside,
        wire: u64,
        (session, offer): (Session, Offer),
        packets: Vec<Vec<u8>>,
    ) {
        let (id, address) = (offer.client_id.clone(), offer.addresses.v4);
        let expected = out.model.confirm(wire);
        let confirmed = self.roster.confirm(out.now, offer, wire);
        out.tell(|| format!("{wire} is confirmed: {confirmed:?}"));
        let outcome = confirmed.as_ref().map(|it| Expected { resumed: it.resumed, replaced: it.replaced });
        assert_eq!(outcome, expected, "what the confirmation brings about");
        let Some(confirmed) = confirmed else {
            out.tally("a confirmation comes too late");
            return self.over(out, wire);
        };
        assert_eq!(confirmed.client_id, id);
        let peer = self
            .peers
            .entry(id.clone())
            .or_insert_with(|| Peer { mailbox: Mailbox::new(&mut out.rng), address });
        assert_eq!((confirmed.resumed, peer.address), (expected.is_some_and(|it| it.resumed), address));
        peer.mailbox.release(out.now);
        if let Some(old) = confirmed.replaced {
            out.tally("a connection is replaced");
            self.end(out, old, DisconnectCode::Replaced);
        }
        if !self.closing {
            self.write(out);
        }
        self.put(wire, State::Up(Box::new(session), id.clone()));
        self.deliver(out, wire, &id, packets);
        if self.closing {
            self.end(out, wire, DisconnectCode::ShuttingDown);
        }
    }

    /// The stream has ended.
    fn closed(&mut self, out: &mut Outside, wire: u64) {
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        match std::mem::replace(&mut conn.state, State::Over) {
            State::Unconfirmed(_, offer) => self.withdraw(out, wire, offer),
            State::Up(_, id) => self.lost(out, wire, &id),
            State::Listening(_) | State::Leaving(..) | State::Over => {}
        }
        self.over(out, wire);
    }

    fn over(&mut self, out: &mut Outside, wire: u64) {
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
