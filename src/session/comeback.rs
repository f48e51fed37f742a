//! What a client knows for coming back to its server: the ticket, how long to wait, whether to come at all
//! (PROTOCOL §§3, 8, 9; API §2).

use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::codec::hello::{Accepted, ClientHello, Features};
use crate::codec::secret::Ticket;
use crate::session::FEATURES;
use crate::session::client::Hybrid;
use crate::session::reconnect::{Backoff, Pace};
use crate::session::silence::KeepaliveCap;

/// A connection that lasted this long was a success: the next back-off begins anew. A server that lets its clients
/// in and drops them at once is not called again and again without a pause.
const SUCCESS: Duration = Duration::from_secs(1);

/// How an attempt or a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// It was interrupted, or never came about, and nobody said why.
    Interrupted,
    /// Somebody said no, or not yet; not before this time, if one was named.
    Refused(Option<Duration>),
    /// The server could make nothing of the hello, and proved that it is the server.
    BadRequest,
    /// Nothing failed: the keys are spent, or the host's network is another one.
    Nothing,
    /// The server proved that it is the server and said that coming back is pointless.
    Final,
}

/// What the last session left for the next one.
#[derive(Debug)]
struct Resumption {
    ticket: Ticket,
    expires: Instant,
    /// ML-KEM protected the session.
    is_hybrid: bool,
}

/// A tunnel's memory over its connections, from `connect()` to its end.
#[derive(Debug)]
pub struct Comeback {
    backoff: Backoff,
    ticket: Option<Resumption>,
    /// What the connections that were cut while idle taught.
    cap: KeepaliveCap,
    /// Rejections `bad-request` since the last connection.
    bad_requests: u32,
    /// Since when the present connection is up.
    up: Option<Instant>,
}

impl Comeback {
    /// The memory of a tunnel that has not been up.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ticket: None, cap: KeepaliveCap::default(), bad_requests: 0, up: None }
    }

    /// `hello` with what the next attempt offers: the ticket, and no features once the server could make nothing of
    /// a hello that had some.
    pub fn hello(&self, now: Instant, hello: ClientHello) -> ClientHello {
        let features = if self.bad_requests > 0 { Features::NONE } else { FEATURES };
        ClientHello { features, ticket: self.resumption(now).map(|last| last.ticket.clone()), ..hello }
    }

    /// What the next attempt asks for, as long as it offers the ticket: whoever could break X25519 must not talk a
    /// session out of ML-KEM (PROTOCOL §4).
    pub fn hybrid(&self, now: Instant) -> Hybrid {
        match self.resumption(now) {
            Some(Resumption { is_hybrid: true, .. }) => Hybrid::Required,
            _ => Hybrid::Offered,
        }
    }

    fn resumption(&self, now: Instant) -> Option<&Resumption> {
        self.ticket.as_ref().filter(|last| now < last.expires)
    }

    /// The server does not take the ticket.
    pub fn ticket_refused(&mut self) {
        self.ticket = None;
    }

    /// The server has let the client in: its ticket is the one that counts now.
    pub fn accepted(&mut self, now: Instant, hello: &Accepted) {
        self.ticket = hello.ticket.clone().map(|(ticket, secs)| Resumption {
            ticket,
            expires: now + Duration::from_secs(secs.into()),
            is_hybrid: hello.mlkem768.is_some(),
        });
    }

    /// The connection is confirmed.
    pub const fn connected(&mut self, now: Instant) {
        self.up = Some(now);
        self.bad_requests = 0;
    }

    /// How long to wait before the next attempt; none if there is to be none. `waiting`: an application's packet
    /// waits.
    pub fn failed(
        &mut self,
        now: Instant,
        setback: Setback,
        waiting: bool,
        rng: &mut dyn CryptoRng,
    ) -> Option<Duration> {
        if self.up.take().is_some_and(|since| now.saturating_duration_since(since) >= SUCCESS) {
            self.backoff.reset();
        }
        match setback {
            Setback::Final => None,
            Setback::Nothing => Some(Duration::ZERO),
            Setback::BadRequest if self.bad_requests > 0 => None,
            Setback::BadRequest => {
                self.bad_requests += 1;
                self.backoff.next_delay(now, Pace::Plain, waiting, rng)
            }
            Setback::Refused(not_before) => {
                let delay = self.backoff.next_delay(now, Pace::Plain, waiting, rng)?;
                // Those who were told the same time must not all come at it.
                Some(not_before.map_or(delay, |time| time + delay))
            }
            Setback::Interrupted => self.backoff.next_delay(now, Pace::Quick, waiting, rng),
        }
    }

    /// What is left to wait now that an application's packet waits.
    pub fn hurry(&self, left: Duration, rng: &mut dyn CryptoRng) -> Duration {
        self.backoff.hurry(left, rng)
    }

    /// The network is another one: what failed in the old one says nothing.
    pub const fn network_changed(&mut self) {
        self.backoff.reset();
    }

    /// Takes in how long a connection had been silent when it was cut; returns the interval that holds from now on
    /// if that is news.
    pub fn learn(&mut self, now: Instant, silence: Duration) -> Option<Duration> {
        if self.cap.learn(now, silence) { self.cap.get() } else { None }
    }

    /// The longest interval between keepalives.
    pub fn keepalive_cap(&mut self, now: Instant) -> KeepaliveCap {
        self.cap.forget_old(now);
        self.cap
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::session::epoch;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(3)
    }

    fn accepted(ticket: Option<(Ticket, u32)>) -> Accepted {
        Accepted {
            version: 1,
            features: Features::NONE,
            client_id: "c1".into(),
            assigned_ip: [10, 8, 0, 2].into(),
            prefix_length: 24,
            gateway: [10, 8, 0, 1].into(),
            v6: None,
            mtu: 1420,
            keepalive_interval_secs: 30,
            dns: Vec::new(),
            ticket,
            mlkem768: None,
        }
    }

    #[test]
    fn a_ticket_is_offered_until_it_expires_or_is_refused() {
        let ticket = Ticket::new(vec![1]).unwrap();
        let mut comeback = Comeback::new(Backoff::default());
        let now = epoch();
        let offered = |comeback: &Comeback, at| comeback.hello(at, ClientHello::default()).ticket;
        assert_eq!(offered(&comeback, now), None);
        comeback.accepted(now, &accepted(Some((ticket.clone(), 60))));
        assert_eq!(offered(&comeback, now + Duration::from_secs(59)), Some(ticket.clone()));
        assert_eq!(offered(&comeback, now + Duration::from_secs(60)), None);
        comeback.ticket_refused();
        assert_eq!(offered(&comeback, now), None);
        comeback.accepted(now, &accepted(Some((ticket, 60))));
        comeback.accepted(now, &accepted(None));
        assert_eq!(offered(&comeback, now), None, "a server that gives none wants none");
    }

    #[test]
    fn a_ticket_of_a_hybrid_session_is_for_another_one() {
        let mut comeback = Comeback::new(Backoff::default());
        let now = epoch();
        let ticket = || Some((Ticket::new(vec![1]).unwrap(), 60));
        assert_eq!(comeback.hybrid(now), Hybrid::Offered);
        comeback.accepted(now, &Accepted { mlkem768: Some(Vec::new()), ..accepted(ticket()) });
        assert_eq!(comeback.hybrid(now), Hybrid::Required);
        assert_eq!(comeback.hybrid(now + Duration::from_secs(60)), Hybrid::Offered, "it has expired");
        comeback.ticket_refused();
        assert_eq!(comeback.hybrid(now), Hybrid::Offered);
        comeback.accepted(now, &accepted(ticket()));
        assert_eq!(comeback.hybrid(now), Hybrid::Offered);
    }

    #[test]
    fn a_second_bad_request_is_final_and_the_first_makes_the_hello_bare() {
        let mut comeback = Comeback::new(Backoff::default());
        let now = epoch();
        assert_eq!(comeback.hello(now, ClientHello::default()).features, FEATURES);
        assert!(comeback.failed(now, Setback::BadRequest, false, &mut rng()).is_some());
        assert_eq!(comeback.hello(now, ClientHello::default()).features, Features::NONE);
        assert_eq!(comeback.failed(now, Setback::BadRequest, false, &mut rng()), None);
        comeback.connected(now);
        assert!(comeback.failed(now, Setback::BadRequest, false, &mut rng()).is_some());
    }

    #[test]
    fn only_a_connection_that_lasts_makes_the_back_off_begin_anew() {
        let grown = |lasted: Duration| {
            let mut rng = rng();
            let delays = (0..200).map(|_| {
                let mut comeback = Comeback::new(Backoff::default());
                for _ in 0..12 {
                    comeback.failed(epoch(), Setback::Refused(None), false, &mut rng);
                }
                comeback.connected(epoch());
                comeback.failed(epoch() + lasted, Setback::Refused(None), false, &mut rng).unwrap()
            });
            delays.max().unwrap() > Backoff::DEFAULT_BASE
        };
        assert!(grown(Duration::from_millis(999)));
        assert!(!grown(SUCCESS));
    }

    #[test]
    fn nobody_comes_before_the_time_that_was_named() {
        let mut comeback = Comeback::new(Backoff::default());
        let named = Duration::from_secs(60);
        let delay = comeback.failed(epoch(), Setback::Refused(Some(named)), true, &mut rng()).unwrap();
        assert!(delay >= named && delay <= named + Backoff::DEFAULT_BASE);
    }

    #[test]
    fn what_is_no_failure_costs_no_time_and_a_final_word_is_final() {
        let mut comeback = Comeback::new(Backoff::new(Duration::ZERO, Duration::ZERO, Some(0)));
        assert_eq!(comeback.failed(epoch(), Setback::Nothing, false, &mut rng()), Some(Duration::ZERO));
        assert_eq!(comeback.failed(epoch(), Setback::Final, false, &mut rng()), None);
        assert_eq!(comeback.failed(epoch(), Setback::Interrupted, false, &mut rng()), None, "none is left");
    }
}
