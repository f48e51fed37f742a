//! What befalls a resident of the town: its connection ends, it moves, it sleeps; and when it comes back.

use std::time::{Duration, Instant};

use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::session::Setback;

use crate::attempt::{Aim, Attempt};
use crate::carry::{Carried, End};
use crate::ends::Side;
use crate::outside::Outside;
use crate::resident::{Carry, Phase, Resident};

/// The back-off's bounds, once more.
const BASE: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(30);
pub(crate) const QUICK: Duration = Duration::from_secs(2);
const YOUNG: Duration = Duration::from_secs(180);

impl Resident {
    /// Its user wants none any more.
    pub(crate) fn leave(&mut self, out: &mut Outside) {
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Carrying(carry) => {
                let Carry { mut carried, retired, renewal, .. } = *carry;
                carried.session.disconnect(DisconnectCode::ClientDisconnect, "");
                assert_eq!(carried.session.poll_timeout(), None, "a timer of a session that is left");
                out.transmit(self.clock(out), (carried.wire, Side::Client), &mut carried.session, None);
                carried.close(out);
                drop_rest(out, retired, renewal);
            }
            Phase::Connecting(attempt) => attempt.close(out),
            Phase::Gone | Phase::Pausing { .. } => {}
        }
    }

    /// The connection is over.
    pub(crate) fn ended(&mut self, out: &mut Outside, carry: Carry, end: End) -> Phase {
        out.tell(|| format!("client {}: {} ends, {end:?}", self.number, carry.carried.wire));
        let now = self.clock(out);
        let Carry { mut carried, retired, renewal, .. } = carry;
        self.mailbox.hold(now);
        drop_rest(out, retired, renewal);
        if end == End::Cut
            && carried.is_confirmed
            && let Some(silence) = carried.session.silence_before_cut(now, true)
        {
            self.comeback.learn(now, silence);
        }
        if end == End::Gone {
            self.comeback.network_changed();
            (self.outage.failures, self.outage.since) = (0, None);
            out.wire(carried.wire).vanish(Side::Client);
        } else {
            carried.close(out);
        }
        let setback = match end {
            End::Cut => Setback::Interrupted,
            End::Gone => Setback::Nothing,
            End::Failed(setback) => setback,
        };
        self.fail(out, setback)
    }

    /// Waits, or gives up.
    pub(crate) fn fail(&mut self, out: &mut Outside, setback: Setback) -> Phase {
        let now = self.clock(out);
        let waiting = !self.mailbox.is_empty();
        let delay = self.comeback.failed(now, setback, waiting, &mut out.rng);
        out.tell(|| format!("client {}: {setback:?}, comes back in {delay:?}", self.number));
        let outage = &mut self.outage;
        if outage.up.take().is_some_and(|since| now - since >= Duration::from_secs(1)) {
            (outage.failures, outage.since) = (0, None);
        }
        let Some(delay) = delay else {
            let is_unwanted = out.model.is_unwanted(self.number);
            assert!(setback == Setback::Final && is_unwanted, "a client is kept away that nobody dismissed");
            out.tally("a client gives up");
            return Phase::Gone;
        };
        let not_before = match setback {
            Setback::Refused(Some(time)) => time,
            _ => Duration::ZERO,
        };
        let bound = match setback {
            Setback::Nothing => Duration::ZERO,
            Setback::Interrupted if waiting || now - *outage.since.get_or_insert(now) < YOUNG => QUICK,
            _ => MAX,
        };
        outage.since.get_or_insert(now);
        let grown = BASE.saturating_mul(1_u32.checked_shl(outage.failures).unwrap_or(u32::MAX)).min(bound);
        assert!(
            (not_before..=not_before + grown).contains(&delay),
            "{delay:?} of {grown:?} after {setback:?}"
        );
        if setback != Setback::Nothing {
            outage.failures += 1;
        } else if outage.failures == 0 {
            outage.since = None;
        }
        Phase::Pausing { until: now + delay, may_hurry: setback == Setback::Interrupted }
    }

    /// The host's network is another one. `is_gone`: the old address, and the connection with it.
    pub(crate) fn move_house(&mut self, out: &mut Outside, is_gone: bool) {
        self.networks = self.networks.wrapping_add(1);
        let now = self.clock(out);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Carrying(carry) if is_gone => self.ended(out, *carry, End::Gone),
            Phase::Carrying(mut carry) => {
                carry.carried.session.probe(now, &mut out.rng);
                if carry.renewal.is_none() {
                    carry.renewal = self.renewal(out);
                }
                Phase::Carrying(carry)
            }
            Phase::Pausing { .. } => {
                self.alarmed();
                Phase::Connecting(self.attempt(out, Aim::Again))
            }
            Phase::Connecting(attempt) => {
                self.alarmed();
                let aim = attempt.aim;
                attempt.vanish(out);
                Phase::Connecting(self.attempt(out, aim))
            }
            Phase::Gone => Phase::Gone,
        };
    }

    /// What failed in another network says nothing.
    fn alarmed(&mut self) {
        self.comeback.network_changed();
        (self.outage.failures, self.outage.since) = (0, None);
    }

    /// Its host sleeps; its clock stands still.
    pub(crate) fn sleep(&mut self, out: &Outside, time: Duration) {
        if self.asleep_until.is_none() {
            self.asleep_until = Some(out.now + time);
            self.lag += time;
        }
    }

    /// Is woken now, if it sleeps.
    pub(crate) fn rouse(&mut self, now: Instant) {
        if let Some(until) = self.asleep_until {
            self.lag -= until - now;
            self.asleep_until = Some(now);
        }
    }

    pub(crate) fn wake(&mut self, out: &mut Outside) {
        self.asleep_until = None;
        let now = self.clock(out);
        match &mut self.phase {
            Phase::Carrying(carry) => carry.carried.session.probe(now, &mut out.rng),
            Phase::Pausing { until, .. } => {
                *until = now;
                self.alarmed();
            }
            Phase::Gone | Phase::Connecting(_) => {}
        }
    }
}

fn drop_rest(out: &mut Outside, retired: Option<(Carried, Instant)>, renewal: Option<Box<Attempt>>) {
    if let Some((mut retired, _)) = retired {
        retired.close(out);
    }
    if let Some(renewal) = renewal {
        renewal.close(out);
    }
}
