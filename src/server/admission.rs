//! Whether the client of a first message may come in, and as whom.
//!
//! The registry says who is known, the program what becomes of others where it is to say; the roster what there is for
//! them. Nothing is registered, spent or evicted here: that takes the confirmation (PROTOCOL §3).

use std::net::SocketAddr;
use std::sync::Arc;

use super::authenticator::{Question, Shown};
use super::hub::{Hub, Members, unix_now};
use super::reservation::{Reservation, Standing};
use crate::codec::hello::{RejectCode, Rejection, VERSION};
use crate::config::clients::Decision;
use crate::crypto::keys::PublicKey;
use crate::engine::clock;
use crate::session::Request;
use crate::session::registry::{Auth, Candidate, Refusal, RegisteredClient, Verdict};
use crate::session::roster::{Guest, Wish};

/// What becomes of a first message.
pub(super) enum Judgement {
    /// The client can have this.
    Granted(Box<Reservation>),
    /// The program is to say.
    Ask(Question),
    /// It is not let in.
    Refused(Rejection),
}

impl Hub {
    /// What becomes of a first message from `source`, as far as the server knows.
    pub(super) fn judge(self: &Arc<Self>, source: SocketAddr, request: &Request) -> Judgement {
        if self.is_closing() {
            return Judgement::Refused(rejection(RejectCode::ShuttingDown));
        }
        let judged = if request.is_resume() {
            self.judge_resume(source, request)
        } else {
            self.judge_new(source, request)
        };
        judged.unwrap_or_else(Judgement::Refused)
    }

    fn judge_new(self: &Arc<Self>, source: SocketAddr, request: &Request) -> Result<Judgement, Rejection> {
        let (key, hello) = (request.client_key(), request.hello());
        let mut members = self.members();
        let candidate = Candidate { key: key.as_ref(), token: hello.token.as_ref() };
        let verdict = members.registry.judge(unix_now(), candidate);
        let guest = Guest { key, ..Guest::ANYBODY };
        match verdict {
            Verdict::Refused(refusal) => Err(unauthorized(refusal)),
            Verdict::Ask => Ok(Judgement::Ask(question(source, key, request))),
            Verdict::Known(client) => {
                let standing = Standing::Registered(client.public_key);
                let guest = registered(&client, guest);
                self.reserve(&mut members, source, guest, standing, client.name.clone())
            }
            Verdict::Invited(invite) => {
                let is_taken = |id: &str| members.roster.knows(id);
                let name = hello.name.as_deref();
                let id = members.registry.invited(unix_now(), &invite, name, is_taken);
                let (Some(id), Some(key)) = (id, key) else { return Err(unauthorized(Refusal::Unknown)) };
                let guest = Guest { id: Some(&id), ..guest };
                let standing = Standing::Invited { invite, key, id: id.clone(), name: hello.name.clone() };
                self.reserve(&mut members, source, guest, standing, None)
            }
            Verdict::Anyone => {
                let id = key.map(|key| key.fingerprint());
                let guest = Guest { id: id.as_deref(), ..guest };
                self.reserve(&mut members, source, guest, Standing::Anyone, None)
            }
        }
    }

    fn judge_resume(self: &Arc<Self>, source: SocketAddr, request: &Request) -> Result<Judgement, Rejection> {
        let (key, ticket, unix) = (request.client_key(), request.hello().ticket.as_ref(), unix_now());
        let mut members = self.members();
        let session = ticket.and_then(|ticket| members.roster.session_of(ticket));
        let client = match &session {
            Some(session) => {
                let client = members.registry.judge_resume(unix, key.as_ref(), session);
                client.map_err(unauthorized)?.cloned()
            }
            // What is no ticket is refused below.
            None if members.registry.auth() == Auth::Registered && key.is_none() => {
                return Err(unauthorized(Refusal::NoKey));
            }
            None => None,
        };
        let wish = Wish::Resume { ticket, hybrid: request.is_hybrid(), key };
        let times = (clock::now(), unix);
        let offered = members.roster.offer(times, source.ip(), wish, &mut rand::rng());
        let mut offer = offered.map_err(|code| self.refusal(&mut members, code))?;
        let standing = match &client {
            None => Standing::Anyone,
            Some(client) => {
                if let Some(limit) = client.limit {
                    offer.limit = Some(limit);
                }
                Standing::Registered(client.public_key)
            }
        };
        let name = client.and_then(|client| client.name);
        Ok(Judgement::Granted(Box::new(Reservation::new(self, offer, standing, name))))
    }

    /// What becomes of a first message for which the program has answered.
    pub(super) fn grant(
        self: &Arc<Self>,
        source: SocketAddr,
        request: &Request,
        decision: &Decision,
    ) -> Result<Reservation, Rejection> {
        let mut members = self.members();
        let Decision { client_id, name, assigned_ip, limit, max_sessions } = decision;
        if let Some(fault) = self.fault_of(&members, decision) {
            drop(members);
            self.questions.warn(&format!("authenticate answered with {fault}; the client was not let in"));
            return Err(Rejection {
                message: "the server cannot give the client what it is to have".to_owned(),
                ..rejection(RejectCode::BadRequest)
            });
        }
        let guest = Guest {
            id: Some(client_id),
            sessions: *max_sessions,
            key: request.client_key(),
            address: *assigned_ip,
            limit: limit.map(|limit| (limit.rate(), limit.burst())),
        };
        match self.reserve(&mut members, source, guest, Standing::Anyone, name.clone()) {
            Ok(Judgement::Granted(reservation)) => Ok(*reservation),
            Ok(_) => Err(rejection(RejectCode::Unauthorized)),
            Err(refused) => {
                drop(members);
                if refused.code == RejectCode::BadRequest {
                    self.questions.warn(&format!(
                        "authenticate answered with an assignedIp for {client_id:?} that another client has; the client was not let in"
                    ));
                }
                Err(refused)
            }
        }
    }

    /// What is wrong with a decision: it gives what is another's.
    fn fault_of(&self, members: &Members, decision: &Decision) -> Option<String> {
        let Decision { client_id, assigned_ip, max_sessions, .. } = decision;
        let ids = (1..=*max_sessions).map(|number| crate::session::registry::session_id(client_id, number));
        for id in ids {
            if members.registry.owner(&id).is_some() {
                return Some(format!("the clientId {client_id:?}, which is a registered client's"));
            }
        }
        let addr = (*assigned_ip)?;
        let holder = members.registry.holder(addr)?;
        Some(format!("the assignedIp {addr}, which is kept for the client {:?}", holder.id))
    }

    fn reserve(
        self: &Arc<Self>,
        members: &mut Members,
        source: SocketAddr,
        guest: Guest<'_>,
        standing: Standing,
        name: Option<String>,
    ) -> Result<Judgement, Rejection> {
        let times = (clock::now(), unix_now());
        let offered = members.roster.offer(times, source.ip(), Wish::New(guest), &mut rand::rng());
        let offer = offered.map_err(|code| self.refusal(members, code))?;
        Ok(Judgement::Granted(Box::new(Reservation::new(self, offer, standing, name))))
    }

    /// The no that comes of the roster's. That two devices share a client is told to both sides.
    fn refusal(&self, members: &mut Members, code: RejectCode) -> Rejection {
        let is_duplicate = members.roster.has_duplicate();
        if let Some(id) = members.roster.take_duplicate(clock::now()) {
            let message = format!(
                "two devices use the key of the client {id:?} and take each other's place; give each its own, or raise \
                 maxSessions"
            );
            self.events.warn_of_client("duplicate-client", id, message);
        }
        let rejection = rejection(code);
        if !is_duplicate {
            return rejection;
        }
        let message =
            "another device has come with the same key within the last 10 s; give each device its own";
        Rejection { message: message.to_owned(), ..rejection }
    }
}

/// What a registered client can have.
fn registered<'c>(client: &'c RegisteredClient, guest: Guest<'c>) -> Guest<'c> {
    Guest {
        id: Some(&client.id),
        sessions: client.max_sessions,
        address: client.assigned_ip,
        limit: client.limit,
        ..guest
    }
}

fn question(source: SocketAddr, key: Option<PublicKey>, request: &Request) -> Question {
    let hello = request.hello();
    Question {
        public_key: key.map(|key| key.to_string()),
        token: hello.token.as_ref().map(|token| Shown(token.expose().to_owned())),
        name: hello.name.clone(),
        remote_addr: source.to_string(),
    }
}

/// The no that the client is told, with what to do.
pub(super) fn rejection(code: RejectCode) -> Rejection {
    let message = match code {
        RejectCode::PoolExhausted => "no address is left",
        RejectCode::ShuttingDown => "the server is stopping",
        RejectCode::TicketExpired => "the ticket has expired",
        RejectCode::TicketInvalid => "the ticket is not valid here",
        RejectCode::Unauthorized => "the server does not let this client in",
        RejectCode::BadRequest => "the server cannot give the client what it is to have",
        _ => "the server is full",
    };
    Rejection { version: VERSION, code, message: message.to_owned() }
}

fn unauthorized(refusal: Refusal) -> Rejection {
    Rejection { version: VERSION, code: RejectCode::Unauthorized, message: refusal.to_string() }
}
