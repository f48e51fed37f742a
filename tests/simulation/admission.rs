//! Who is let into the town, as `server/admission.rs` and `server/reservation.rs` have it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, RejectCode, Rejection};
use smartvpn::session::registry::{Candidate, Verdict};
use smartvpn::session::roster::{Guest, Offer, TICKET_LIFETIME, Wish};
use smartvpn::session::{AfterRefusal, Request, Session};
use smartvpn::telemetry::DropReason;

use crate::ends::{Side, accepted};
use crate::host::{Host, Peer, Promised, State};
use crate::model::{Due, Expected, Written};
use crate::outside::Outside;
use crate::post::Mailbox;

impl Host {
    /// What becomes of a first message.
    fn judge(
        &mut self,
        times: (Instant, u64),
        source: IpAddr,
        request: &Request,
        rng: &mut StdRng,
    ) -> Result<Offer, RejectCode> {
        let (key, ticket) = (request.client_key(), request.hello().ticket.as_ref());
        if request.is_resume() {
            let session = ticket.and_then(|ticket| self.roster.session_of(ticket));
            if let Some(session) = session {
                let judged = self.registry.judge_resume(times.1, key.as_ref(), &session);
                judged.map_err(|_| RejectCode::Unauthorized)?;
            }
            let wish = Wish::Resume { ticket, hybrid: request.is_hybrid(), key };
            return self.roster.offer(times, source, wish, rng);
        }
        let guest = Guest { key, ..Guest::ANYBODY };
        let (id, client) = match self.registry.judge(times.1, Candidate { key: key.as_ref(), token: None }) {
            Verdict::Refused(_) => return Err(RejectCode::Unauthorized),
            Verdict::Known(client) => (Some(client.id.clone()), Some(client)),
            Verdict::Anyone => (key.map(|key| key.fingerprint()), None),
            verdict => panic!("{verdict:?}"),
        };
        let sessions = client.as_ref().map_or(1, |client| client.max_sessions);
        let address = client.and_then(|client| client.assigned_ip);
        let guest = Guest { id: id.as_deref(), sessions, address, ..guest };
        self.roster.offer(times, source, Wish::New(guest), rng)
    }

    /// A first message that opens.
    pub(crate) fn request(&mut self, out: &mut Outside, wire: u64, request: Request) {
        let (now, unix, from) = (out.now, out.unix(), out.wire(wire).source);
        let ticket = request.hello().ticket.clone();
        let is_resume = request.is_resume();
        let key = request.client_key();
        if let Some(number) = out.wire(wire).resident {
            let identity = out.identities.get(&number).map(|identity| identity.public);
            assert_eq!(request.client_key(), identity, "another client's key");
        }
        let before = self.snapshot(out);
        let offered = match self.closing {
            true => Err(RejectCode::ShuttingDown),
            false => self.judge((now, unix), from, &request, &mut out.rng),
        };
        if self.roster.take_duplicate(now).is_some() {
            out.tally("the operator hears of two devices");
        }
        let bytes = ticket.as_ref().filter(|_| is_resume).map(|ticket| ticket.expose());
        let said = offered.as_ref().err();
        let expected = match (self.closing, bytes) {
            (true, _) => Err(RejectCode::ShuttingDown),
            (false, Some(ticket)) => out.model.judge_resume((now, unix), from, (ticket, key), said),
            (false, None) => out.model.judge_new(now, from, key),
        };
        let told = offered.as_ref().map(|_| ()).map_err(Clone::clone);
        assert_eq!(
            told,
            expected.as_ref().map(|_| ()).map_err(Clone::clone),
            "what a client that comes {} is told",
            if is_resume { "back" } else { "new" }
        );
        assert_eq!(self.snapshot(out), before, "a first message proves nothing");
        out.tally(match (is_resume, &expected) {
            (true, Ok(_)) => "a resume is accepted",
            (true, Err(_)) => "a resume is refused",
            (false, Ok(_)) => "a new client is accepted",
            (false, Err(_)) => "a new client is refused",
        });
        match (offered, expected) {
            (Ok(offer), Ok(due)) => self.accept(out, wire, (request, offer), (bytes, due)),
            (Err(code), _) => {
                if code == RejectCode::Unauthorized {
                    out.model.dismissed(out.wires[&wire].resident);
                    out.tally(match is_resume {
                        true => "a kicked client's ticket is refused",
                        false => "a client that is not to come in is refused",
                    });
                }
                if code == RejectCode::ServerFull && out.model.is_damped(now, key) {
                    out.tally("a swap of devices is damped");
                }
                let rejection = Rejection { version: 1, code, message: "no".into() };
                let (frame, then) = request.reject(rejection, &mut out.rng).unwrap();
                out.send_plain(wire, Side::Server, &frame);
                match then {
                    AfterRefusal::Listen(listening) => self.put(wire, State::Listening(listening)),
                    AfterRefusal::Close(_) => self.over(out, wire),
                }
            }
            (Ok(_), Err(_)) => unreachable!("both said the same"),
        }
    }

    fn accept(
        &mut self,
        out: &mut Outside,
        wire: u64,
        (request, mut offer): (Request, Offer),
        (ticket, due): (Option<&[u8]>, Due),
    ) {
        let (unix, key) = (out.unix(), request.client_key());
        let listed = key.filter(|_| out.model.book.is_listed(key));
        out.tally_due(&due);
        out.model.offered(out.now, wire, out.wires[&wire].source, due, &offer);
        let given = self.roster.ticket(unix, &mut offer, false, &mut out.rng);
        let old = ticket.and_then(|ticket| out.model.written(ticket));
        let (full, kicks) =
            old.map_or((unix, out.model.kicks), |old| (old.full_handshake_at, out.model.kicks_survived(old)));
        if let Some((ticket, secs)) = &given {
            assert!(Duration::from_secs((*secs).into()) <= TICKET_LIFETIME);
            let written = Written {
                id: offer.client_id.clone(),
                address: offer.addresses.v4,
                expires_at: unix + u64::from(*secs),
                full_handshake_at: full,
                key,
                kicks,
                process: out.model.processes,
            };
            out.model.wrote(wire, ticket.expose(), written);
        }
        let hello = Accepted {
            client_id: offer.client_id.clone(),
            assigned_ip: offer.addresses.v4,
            ticket: given,
            ..accepted()
        };
        let (unconfirmed, frame) = request.accept(&hello, &mut out.rng).unwrap();
        out.send_plain(wire, Side::Server, &frame);
        self.put(wire, State::Unconfirmed(Box::new(unconfirmed), Promised { offer, listed }));
    }

    pub(crate) fn confirm(
        &mut self,
        out: &mut Outside,
        wire: u64,
        (session, Promised { offer, listed }): (Session, Promised),
        packets: Vec<Vec<u8>>,
    ) {
        let (id, address) = (offer.client_id.clone(), offer.addresses.v4);
        let verdict =
            listed.map(|key| self.registry.judge(out.unix(), Candidate { key: Some(&key), token: None }));
        let may = verdict.is_none_or(|verdict| matches!(verdict, Verdict::Known(_)));
        assert_eq!(may, listed.is_none_or(|key| out.model.book.still_has(key)), "who still may come in");
        if !may {
            out.tally("a client is removed while it comes in");
            self.withdraw(out, wire, offer);
            return self.over(out, wire);
        }
        let expected = out.model.confirm(out.now, wire);
        let confirmed = self.roster.confirm(out.now, offer, wire);
        out.tell(|| format!("{wire} is confirmed: {confirmed:?}"));
        let outcome = confirmed.as_ref().map(|it| Expected {
            resumed: it.resumed,
            replaced: it.replaced,
            succeeded: it.succeeded.map(|addresses| addresses.v4),
        });
        assert_eq!(outcome, expected, "what the confirmation brings about");
        let Some(confirmed) = confirmed else {
            out.tally("a confirmation comes too late");
            return self.over(out, wire);
        };
        assert_eq!(confirmed.client_id, id);
        if confirmed.succeeded.is_some() {
            // Its packets were for the session that is over.
            let last = self.peers.remove(&id).expect("a peer");
            last.mailbox.discard(DropReason::NotConnected);
            out.tally("a known client takes its last session's place");
        }
        let peer = self
            .peers
            .entry(id.clone())
            .or_insert_with(|| Peer { mailbox: Mailbox::new(&mut out.rng), address });
        assert_eq!(peer.address, address);
        peer.mailbox.release(out.now);
        if let Some(old) = confirmed.replaced {
            out.tally("a connection is replaced");
            let devices = [old, wire].map(|wire| out.wires.get(&wire).and_then(|wire| wire.resident));
            if devices[0].is_some() && devices[0] != devices[1] {
                out.tally("another device takes a session's place");
            }
            self.end(out, old, DisconnectCode::Replaced);
        }
        if !self.closing {
            self.write(out);
        }
        if let Some(conn) = self.conns.get_mut(&wire) {
            conn.address = Some(address);
        }
        self.put(wire, State::Up(Box::new(session), id));
        self.deliver(out, wire, packets);
        if self.closing {
            self.end(out, wire, DisconnectCode::ShuttingDown);
        }
    }
}
