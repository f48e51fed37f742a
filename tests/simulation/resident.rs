//! A client of the town: its cores, put together as `client/supervisor.rs` does it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, ClientHello};
use smartvpn::crypto::keys::PublicKey;
use smartvpn::session::{Backoff, ClientParams, Comeback, Hybrid, KeyLimits, Setback};
use smartvpn::telemetry::DropReason;

use crate::attempt::{Aim, Attempt, Established, Progress};
use crate::carry::{Carried, End};
use crate::ends::Side;
use crate::fate::QUICK;
use crate::outside::Outside;
use crate::post::{Mailbox, source};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const RETIREMENT: Duration = Duration::from_secs(2);
const RENEWAL_REST: Duration = Duration::from_secs(10);

pub(crate) enum Phase {
    /// There is no tunnel, and will be none before its user wants one.
    Gone,
    Pausing {
        until: Instant,
        may_hurry: bool,
    },
    Connecting(Box<Attempt>),
    Carrying(Box<Carry>),
}

pub(crate) struct Carry {
    pub(crate) carried: Carried,
    pub(crate) deadline: Instant,
    pub(crate) retired: Option<(Carried, Instant)>,
    pub(crate) renewal: Option<Box<Attempt>>,
    pub(crate) renew_at: Option<Instant>,
}

/// What the back-off must be like.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    pub(crate) failures: u32,
    pub(crate) since: Option<Instant>,
    pub(crate) up: Option<Instant>,
}

pub(crate) struct Resident {
    pub(crate) number: usize,
    server_key: PublicKey,
    pub(crate) comeback: Comeback,
    pub(crate) outage: Outage,
    pub(crate) mailbox: Mailbox,
    /// What the last connection was given.
    pub(crate) hello: Option<Accepted>,
    /// Until when the ticket is to be offered.
    ticket_until: Option<Instant>,
    pub(crate) phase: Phase,
    /// How far its clock, which stands still while it sleeps, is behind.
    pub(crate) lag: Duration,
    pub(crate) asleep_until: Option<Instant>,
    pub(crate) networks: u8,
    limits: KeyLimits,
    /// It renews its keys on its connection, and not by another one.
    rekeys: bool,
}

impl Resident {
    pub(crate) fn new(
        out: &mut Outside,
        number: usize,
        server_key: PublicKey,
        (limits, rekeys): (KeyLimits, bool),
    ) -> Self {
        Self {
            number,
            server_key,
            comeback: Comeback::new(Backoff::default()),
            outage: Outage::default(),
            mailbox: Mailbox::new(&mut out.rng),
            hello: None,
            ticket_until: None,
            phase: Phase::Gone,
            lag: Duration::ZERO,
            asleep_until: None,
            networks: 0,
            limits,
            rekeys,
        }
    }

    /// Its clock.
    pub(crate) fn clock(&self, out: &Outside) -> Instant {
        self.asleep_until.map_or(out.now, |until| until.max(out.now)) - self.lag
    }

    fn source(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 51, self.networks, u8::try_from(self.number).unwrap()))
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// Packets flow.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Carrying(_)) && !self.mailbox.is_held()
    }

    /// The connections that are its own: one, or while its keys are renewed two.
    pub(crate) fn wires(&self) -> Vec<u64> {
        let Phase::Carrying(carry) = &self.phase else { return Vec::new() };
        let retired = carry.retired.iter().map(|(retired, _)| retired.wire);
        retired.chain([carry.carried.wire]).collect()
    }

    /// Its user wants a tunnel.
    pub(crate) fn connect(&mut self, out: &mut Outside) {
        let number = self.number;
        out.model.wanted(number);
        let (lag, asleep_until, networks) = (self.lag, self.asleep_until, self.networks);
        let keys = (self.limits, self.rekeys);
        *self = Self { lag, asleep_until, networks, ..Self::new(out, number, self.server_key, keys) };
        // There is no way into the queue before the first connection is confirmed; here packets wait before it.
        self.mailbox.hold(self.clock(out));
        self.phase = Phase::Connecting(self.attempt(out, Aim::First));
    }

    pub(crate) fn attempt(&mut self, out: &mut Outside, aim: Aim) -> Box<Attempt> {
        let now = self.clock(out);
        let mut hello = self.comeback.hello(now, ClientHello::default());
        hello.features.rekey &= self.rekeys;
        let offers = self.ticket_until.is_some_and(|until| now < until);
        assert_eq!(hello.ticket.is_some(), offers, "a ticket is offered for as long as it is valid");
        let cap = self.comeback.keepalive_cap(now);
        let params = ClientParams {
            server_key: self.server_key,
            identity: out.identities.get(&self.number).cloned(),
            hello,
            hybrid: Hybrid::Off,
            keepalive_interval: None,
            keepalive_cap: cap,
            key_limits: self.limits,
        };
        Box::new(Attempt::new(out, now, (self.number, self.source()), aim, params, now + CONNECT_TIMEOUT))
    }

    /// When something is due, in the town's time.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        let due = match &self.phase {
            Phase::Gone => None,
            Phase::Pausing { until, .. } => Some(*until),
            Phase::Connecting(attempt) => Some(attempt.next_event()),
            Phase::Carrying(carry) => {
                let Carry { carried, deadline, retired, renewal, renew_at } = &**carry;
                let unconfirmed = (!carried.is_confirmed).then_some(*deadline);
                let renew_at = renew_at.filter(|_| renewal.is_none());
                let retired = retired.as_ref().map(|(_, until)| *until);
                let renewal = renewal.as_ref().map(|renewal| renewal.next_event());
                [carried.session.poll_timeout(), unconfirmed, renew_at, retired, renewal]
                    .into_iter()
                    .flatten()
                    .min()
            }
        };
        due.map(|at| at + self.lag).map(|at| self.asleep_until.map_or(at, |until| until.max(at)))
    }

    /// Does all that is due.
    pub(crate) fn serve(&mut self, out: &mut Outside) {
        match self.asleep_until {
            Some(until) if until > out.now => return,
            Some(_) => self.wake(out),
            None => {}
        }
        let now = self.clock(out);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Gone => Phase::Gone,
            Phase::Pausing { until, .. } if until <= now => Phase::Connecting(self.attempt(out, Aim::Again)),
            Phase::Pausing { until, may_hurry } => {
                self.mailbox.age(now);
                if may_hurry && !self.mailbox.is_empty() {
                    let left = until - now;
                    let hurried = self.comeback.hurry(left, &mut out.rng);
                    assert!(hurried <= left && hurried <= QUICK, "{hurried:?} of {left:?}");
                    Phase::Pausing { until: now + hurried, may_hurry: false }
                } else {
                    Phase::Pausing { until, may_hurry }
                }
            }
            Phase::Connecting(mut attempt) => match attempt.serve(out, now) {
                Progress::Pending => {
                    self.mailbox.age(now);
                    Phase::Connecting(attempt)
                }
                Progress::Established(established) => {
                    self.take(now, &established);
                    let carried = Carried::new(*established);
                    let deadline = attempt.deadline;
                    let carry = Carry { carried, deadline, retired: None, renewal: None, renew_at: None };
                    self.carry(out, Box::new(carry))
                }
                Progress::Failed(setback) => self.fail(out, setback),
            },
            Phase::Carrying(carry) => self.carry(out, carry),
        };
    }

    /// Takes in what a connection was given.
    fn take(&mut self, now: Instant, established: &Established) {
        let Established { hello, is_anew, resumes, .. } = established;
        if *is_anew {
            self.comeback.ticket_refused();
        }
        self.comeback.accepted(now, hello);
        if let Some(old) = &self.hello {
            if *resumes {
                let same = (&old.client_id, old.assigned_ip) == (&hello.client_id, hello.assigned_ip);
                assert!(same, "{} became {}", old.assigned_ip, hello.assigned_ip);
            }
            if old.assigned_ip != hello.assigned_ip {
                // What waits has the old address.
                self.mailbox.discard(DropReason::Stale);
            }
        }
        self.ticket_until = hello.ticket.as_ref().map(|(_, secs)| now + Duration::from_secs((*secs).into()));
        self.hello = Some(hello.clone());
    }

    fn carry(&mut self, out: &mut Outside, mut carry: Box<Carry>) -> Phase {
        let now = self.clock(out);
        if let Some((retired, until)) = &mut carry.retired
            && (retired.serve(out, now).is_some() || *until <= now)
        {
            retired.close(out);
            carry.retired = None;
        }
        if let Some(end) = carry.carried.serve(out, now) {
            return self.ended(out, *carry, end);
        }
        if carry.carried.take_confirmed() {
            out.tell(|| format!("client {} is connected by {}", self.number, carry.carried.wire));
            self.comeback.connected(now);
            self.outage.up = Some(now);
            self.mailbox.release(now);
        }
        if carry.carried.take_renewed() {
            assert!(self.rekeys);
            out.tally("a client renews its keys on its connection");
        }
        if carry.carried.take_aging() {
            assert!(!self.rekeys);
            carry.renew_at = Some(now);
        }
        if !carry.carried.is_confirmed && carry.deadline <= now {
            carry.carried.session.disconnect(DisconnectCode::ClientDisconnect, "");
            out.transmit(now, (carry.carried.wire, Side::Client), &mut carry.carried.session, None);
            return self.ended(out, *carry, End::Failed(Setback::Interrupted));
        }
        match carry.renewal.as_mut().map(|renewal| renewal.serve(out, now)) {
            Some(Progress::Established(established)) => {
                out.tally("a client renews its keys by another connection");
                self.take(now, &established);
                carry.deadline = now + CONNECT_TIMEOUT;
                (carry.renewal, carry.renew_at) = (None, None);
                let old = std::mem::replace(&mut carry.carried, Carried::new(*established));
                self.mailbox.release(now);
                if let Some((mut older, _)) = carry.retired.replace((old, now + RETIREMENT)) {
                    older.close(out);
                }
            }
            Some(Progress::Failed(_)) => {
                carry.renewal = None;
                carry.renew_at = carry.renew_at.map(|_| now + RENEWAL_REST);
            }
            Some(Progress::Pending) | None => {}
        }
        if carry.renewal.is_none() && carry.renew_at.is_some_and(|at| at <= now) {
            carry.renew_at = Some(now + RENEWAL_REST);
            carry.renewal = self.renewal(out);
        }
        let mailbox = (!self.mailbox.is_held() && self.hello.is_some()).then_some(&mut self.mailbox);
        let Carried { wire, session, .. } = &mut carry.carried;
        out.transmit(now, (*wire, Side::Client), session, mailbox);
        if let Some(end) = carry.carried.events(now, &[]) {
            return self.ended(out, *carry, end);
        }
        Phase::Carrying(carry)
    }

    pub(crate) fn renewal(&mut self, out: &mut Outside) -> Option<Box<Attempt>> {
        let now = self.clock(out);
        self.ticket_until.is_some_and(|until| now < until).then(|| self.attempt(out, Aim::Beside))
    }

    /// An application sends a packet.
    pub(crate) fn send(&mut self, out: &mut Outside) {
        let Some(hello) = &self.hello else { return };
        if self.is_gone() || self.asleep_until.is_some() {
            return;
        }
        let address = hello.assigned_ip;
        let now = self.clock(out);
        let packet = out.post.write(now, (Side::Client, self.number, address), &mut out.rng);
        assert_eq!(source(&packet), address);
        self.mailbox.push(now, &packet);
    }

    /// What must hold after each step.
    pub(crate) fn check(&self, out: &Outside) {
        self.mailbox.check();
        assert!(self.next_event().is_none_or(|at| at >= out.now), "a timer in the past");
    }

    /// Whether a proxy of its own is impatient.
    pub(crate) fn draws_patience(out: &mut Outside) -> bool {
        !out.is_calm && out.rng.random_bool(0.2)
    }
}
