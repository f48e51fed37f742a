//! The addresses of one subnet: which are held, which rest, which comes next.
//!
//! # Order
//!
//! The least recently used address is given out first. An address that was never used comes before
//! every released one, by the same rule: nobody ever sent to it, so no packet of a former holder's
//! connections can still be on its way to the next. Only when every address was used once do
//! released ones return, the longest rested first. One that has not rested for [`REST`] comes last
//! of all, as an early lease.
//!
//! # Memory
//!
//! Proportional to the clients there are and were, never to the subnet: an entry (about 100 bytes)
//! per held address and per released one, and of the released at most [`HISTORY`]. Beyond that the
//! one released longest ago is forgotten, which makes it as good as never used. So the order among
//! the last 65,536 released is exact; older ones come before them, by number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::subnet::{Address, Subnet};

/// How long a released address stays unused, as long as others are free: what is still on its way
/// to the former holder has been delivered or dropped by then, and a client that comes back within
/// this time can have it again.
pub const REST: Duration = Duration::from_secs(30);

/// Released addresses remembered at most, unless more than that rest at the same time: all of an
/// IPv4 /16. About 6 MiB when full.
pub const HISTORY: usize = 65_536;

/// An address given out. It is the holder's until [`Pool::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an address that is not released is lost to the pool"]
pub struct Lease<A> {
    /// The address.
    pub addr: A,
    /// It rested for less than [`REST`]: connections of its former holder may still be known to the
    /// host, whose tracking entries for this address must be deleted first.
    pub early: bool,
}

/// The clients' addresses of one subnet.
#[derive(Debug)]
pub struct Pool<A: Address> {
    subnet: Subnet<A>,
    /// Every address that is held or remembered as released.
    known: BTreeMap<A, State>,
    /// The released ones, by the order of their release.
    released: BTreeMap<u64, Released<A>>,
    releases: u64,
    /// Where the search for an address that is not known goes on.
    cursor: u128,
    history: usize,
    faults: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Held,
    /// The key in `released`.
    Released(u64),
}

#[derive(Clone, Copy, Debug)]
struct Released<A> {
    addr: A,
    at: Instant,
}

impl<A: Address> Pool<A> {
    /// A pool with all of the subnet's client addresses free.
    pub fn new(subnet: Subnet<A>) -> Self {
        Self {
            subnet,
            known: BTreeMap::new(),
            released: BTreeMap::new(),
            releases: 0,
            cursor: subnet.first_client().to_number(),
            history: HISTORY,
            faults: 0,
        }
    }

    /// The subnet the addresses are of.
    pub fn subnet(&self) -> Subnet<A> {
        self.subnet
    }

    /// How many clients can have an address at the same time.
    pub fn capacity(&self) -> u64 {
        self.subnet.capacity()
    }

    /// How many addresses nobody holds; those that rest are among them.
    pub fn free_count(&self) -> u64 {
        self.capacity().saturating_sub(self.held_count())
    }

    /// How many addresses are held.
    pub fn held_count(&self) -> u64 {
        (self.known.len() - self.released.len()) as u64
    }

    /// How often [`release`](Self::release) was called for an address that nobody held. Anything but
    /// zero is a fault of the caller's.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Gives out the least recently used address; `None` when all are held.
    pub fn allocate(&mut self, now: Instant) -> Option<Lease<A>> {
        if let Some(addr) = self.next_unknown() {
            self.known.insert(addr, State::Held);
            return Some(Lease { addr, early: false });
        }
        let (_, released) = self.released.pop_first()?;
        self.known.insert(released.addr, State::Held);
        Some(Lease { addr: released.addr, early: released.rests(now) })
    }

    /// Gives out this very address, to a client that had it before; `None` when somebody holds it or
    /// it is not a client's address of the subnet.
    pub fn allocate_specific(&mut self, addr: A, now: Instant) -> Option<Lease<A>> {
        if !self.is_free(addr) {
            return None;
        }
        let early = match self.known.insert(addr, State::Held) {
            Some(State::Released(key)) => self.released.remove(&key).is_some_and(|it| it.rests(now)),
            _ => false,
        };
        Some(Lease { addr, early })
    }

    /// Whether this is a client's address of the subnet that nobody holds.
    pub fn is_free(&self, addr: A) -> bool {
        self.subnet.is_client(addr) && !matches!(self.known.get(&addr), Some(State::Held))
    }

    /// Takes an address back; it rests from `now` on. Whether it was held: if not, nothing changes
    /// but the count of [`faults`](Self::faults).
    pub fn release(&mut self, addr: A, now: Instant) -> bool {
        let Some(state @ State::Held) = self.known.get_mut(&addr) else {
            self.faults += 1;
            tracing::warn!(%addr, "an address was released that nobody held");
            return false;
        };
        *state = State::Released(self.releases);
        self.released.insert(self.releases, Released { addr, at: now });
        self.releases += 1;
        self.forget(now);
        true
    }

    /// The next address that is neither held nor remembered. The search goes round once at most; it
    /// steps over known addresses only, so all searches of one round together take as many steps as
    /// there are known addresses.
    fn next_unknown(&mut self) -> Option<A> {
        if self.known.len() as u64 >= self.capacity() {
            return None;
        }
        loop {
            let addr = A::from_number(self.cursor);
            self.cursor = if addr == self.subnet.last_client() {
                self.subnet.first_client().to_number()
            } else {
                self.cursor + 1
            };
            if !self.known.contains_key(&addr) {
                return Some(addr);
            }
        }
    }

    /// Keeps the memory of released addresses within its bound; one that still rests is kept anyway.
    fn forget(&mut self, now: Instant) {
        while self.released.len() > self.history {
            let Some(oldest) = self.released.first_entry() else { return };
            if oldest.get().rests(now) {
                return;
            }
            self.known.remove(&oldest.remove().addr);
        }
    }
}

impl<A> Released<A> {
    fn rests(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REST
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_client_gets_the_address_behind_the_servers() {
        let mut pool = pool4("10.8.0.0/24");
        assert_eq!(pool.allocate(epoch()), Some(Lease { addr: ip(2), early: false }));
        let mut pool = Pool::<Ipv6Addr>::new("fd00::/64".parse().unwrap());
        assert_eq!(pool.allocate(epoch()).unwrap().addr, "fd00::2".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn gives_every_address_once_and_then_none() {
        let now = epoch();
        let mut pool = pool4("10.8.0.0/29");
        let given: Vec<_> = std::iter::from_fn(|| pool.allocate(now)).map(|lease| lease.addr).collect();
        assert_eq!(given, [2, 3, 4, 5, 6].map(ip));
        assert_eq!((pool.free_count(), pool.held_count(), pool.capacity()), (0, 5, 5));
    }

    #[test]
    fn an_address_never_used_comes_before_one_that_rested() {
        let mut now = epoch();
        let mut pool = pool4("10.8.0.0/29");
        let first = pool.allocate(now).unwrap().addr;
        assert!(pool.release(first, now));
        now += REST * 100;
        assert_eq!(pool.allocate(now).unwrap().addr, ip(3));
    }

    #[test]
    fn the_longest_rested_returns_first() {
        let mut now = epoch();
        let mut pool = full(now);
        for last in [4, 2, 6] {
            pool.release(ip(last), now);
            now += Duration::from_secs(1);
        }
        now += REST;
        let given = [(); 3].map(|()| pool.allocate(now).unwrap());
        assert_eq!(given, [4, 2, 6].map(|last| Lease { addr: ip(last), early: false }));
    }

    #[test]
    fn an_address_that_rests_is_taken_early_when_nothing_else_is_free() {
        let start = epoch();
        let mut pool = full(start);
        pool.release(ip(3), start);
        pool.release(ip(5), start + Duration::from_secs(1));
        let almost = start + REST - Duration::from_nanos(1);
        assert_eq!(pool.allocate(almost), Some(Lease { addr: ip(3), early: true }));
        let rested = start + Duration::from_secs(1) + REST;
        assert_eq!(pool.allocate(rested), Some(Lease { addr: ip(5), early: false }));
        assert_eq!(pool.allocate(rested), None);
    }

    #[test]
    fn a_client_gets_its_former_address_back() {
        let now = epoch();
        let mut pool = pool4("10.8.0.0/29");
        assert_eq!(pool.allocate_specific(ip(4), now), Some(Lease { addr: ip(4), early: false }));
        assert_eq!(pool.allocate_specific(ip(4), now), None);
        pool.release(ip(4), now);
        assert_eq!(pool.allocate_specific(ip(4), now), Some(Lease { addr: ip(4), early: true }));
        for foreign in [ip(0), ip(1), ip(7), ip(9), Ipv4Addr::UNSPECIFIED] {
            assert_eq!(pool.allocate_specific(foreign, now), None, "{foreign}");
        }
        let rest: Vec<_> = std::iter::from_fn(|| pool.allocate(now)).map(|lease| lease.addr).collect();
        assert_eq!(rest, [2, 3, 5, 6].map(ip));
    }

    #[test]
    fn a_second_release_changes_nothing_but_the_count_of_faults() {
        let now = epoch();
        let mut pool = full(now);
        assert!(pool.release(ip(2), now));
        assert!(!pool.release(ip(2), now + REST));
        assert!(!pool.release(Ipv4Addr::BROADCAST, now));
        assert_eq!((pool.faults(), pool.free_count()), (2, 1));
        assert!(!pool.allocate(now + REST).unwrap().early);
        assert_eq!(pool.allocate(now), None);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
        let now = epoch() + REST * 2;
        let mut pool = full(now);
        pool.release(ip(2), now);
        assert!(pool.allocate(now - REST).unwrap().early);
    }

    #[test]
    fn memory_follows_use_in_the_largest_subnets() {
        let mut now = epoch();
        let mut pool = Pool::<Ipv6Addr>::new("fd00::/64".parse().unwrap());
        pool.history = 100;
        for _ in 0..10_000 {
            let lease = pool.allocate(now).unwrap();
            pool.release(lease.addr, now);
            now += REST;
        }
        assert_eq!((pool.known.len(), pool.released.len()), (100, 100));
        assert_eq!(pool.free_count(), u64::MAX - 1);
    }

    #[test]
    fn forgotten_addresses_return_before_remembered_ones() {
        let mut now = epoch();
        let mut pool = full(now);
        pool.history = 2;
        for last in [5, 4, 3, 2] {
            pool.release(ip(last), now);
            now += REST;
        }
        assert_eq!(pool.released.len(), 2);
        let given = [(); 4].map(|()| pool.allocate(now).unwrap().addr);
        assert_eq!(given, [4, 5, 3, 2].map(ip));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        AllocateSpecific(u8),
        Release(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Allocate),
            1 => (0_u8..18).prop_map(Step::AllocateSpecific),
            4 => (0_u8..18).prop_map(Step::Release),
            2 => (0_u64..40_000).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// The pool as one would describe it, without regard to memory.
    #[derive(Default)]
    struct Model {
        held: Vec<Ipv4Addr>,
        released: VecDeque<(Ipv4Addr, Instant)>,
    }

    impl Model {
        fn is_client(addr: Ipv4Addr) -> bool {
            (ip(2)..=ip(14)).contains(&addr)
        }

        fn allocate(&mut self, now: Instant) -> Option<Lease<Ipv4Addr>> {
            let used =
                |addr: &Ipv4Addr| self.held.contains(addr) || self.released.iter().any(|(it, _)| it == addr);
            let never_used = (2..=14).map(ip).find(|addr| !used(addr));
            let addr = never_used.or_else(|| self.released.front().map(|(addr, _)| *addr))?;
            self.take(addr, now)
        }

        fn take(&mut self, addr: Ipv4Addr, now: Instant) -> Option<Lease<Ipv4Addr>> {
            if self.held.contains(&addr) || !Self::is_client(addr) {
                return None;
            }
            let at = self.released.iter().position(|(it, _)| *it == addr);
            let early = at
                .and_then(|at| self.released.remove(at))
                .is_some_and(|(_, released)| now.duration_since(released) < REST);
            self.held.push(addr);
            Some(Lease { addr, early })
        }

        fn release(&mut self, addr: Ipv4Addr, now: Instant) -> bool {
            let Some(at) = self.held.iter().position(|it| *it == addr) else { return false };
            self.held.remove(at);
            self.released.push_back((addr, now));
            true
        }
    }

    proptest! {
        #[test]
        fn does_what_the_model_does(steps in steps()) {
            let mut now = epoch();
            let (mut pool, mut model) = (pool4("10.8.0.0/28"), Model::default());
            for step in steps {
                match step {
                    Step::Allocate => prop_assert_eq!(pool.allocate(now), model.allocate(now)),
                    Step::AllocateSpecific(last) => {
                        prop_assert_eq!(pool.allocate_specific(ip(last), now), model.take(ip(last), now));
                    }
                    Step::Release(last) => {
                        prop_assert_eq!(pool.release(ip(last), now), model.release(ip(last), now));
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                prop_assert_eq!(pool.held_count(), model.held.len() as u64);
                prop_assert_eq!(pool.free_count(), 13 - model.held.len() as u64);
            }
        }

        /// With a short memory the order is no longer exact, but nothing is given twice, nothing that
        /// still rests passes for rested, and every address can be had.
        #[test]
        fn a_short_memory_breaks_no_promise(steps in steps(), history in 0_usize..4) {
            let mut now = epoch();
            let (mut pool, mut model) = (pool4("10.8.0.0/28"), Model::default());
            pool.history = history;
            for step in steps {
                match step {
                    Step::Allocate | Step::AllocateSpecific(_) => match pool.allocate(now) {
                        Some(lease) => prop_assert_eq!(model.take(lease.addr, now), Some(lease)),
                        None => prop_assert_eq!(model.held.len(), 13),
                    },
                    Step::Release(last) => {
                        let released = pool.release(ip(last), now);
                        prop_assert_eq!(released, model.release(ip(last), now));
                        let rests = |(_, at): &&(_, Instant)| now.duration_since(*at) < REST;
                        let resting = model.released.iter().filter(rests).count();
                        prop_assert!(!released || pool.released.len() <= history.max(resting));
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
            }
        }
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 8, 0, last)
    }

    fn pool4(subnet: &str) -> Pool<Ipv4Addr> {
        Pool::new(subnet.parse().unwrap())
    }

    /// 10.8.0.2 to 10.8.0.6, all held.
    fn full(now: Instant) -> Pool<Ipv4Addr> {
        let mut pool = pool4("10.8.0.0/29");
        while pool.allocate(now).is_some() {}
        pool
    }

    /// Where simulated time begins.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn epoch() -> Instant {
        Instant::now()
    }
}
