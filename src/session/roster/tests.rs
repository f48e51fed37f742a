use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::codec::hello::RejectCode;
use crate::crypto::keys::{PrivateKey, PublicKey};
use crate::session::epoch;

const UNIX: u64 = 1_800_000_000;
const GRACE: Duration = Duration::from_secs(60);

struct Bench {
    roster: Roster,
    now: Instant,
    unix: u64,
    rng: StdRng,
    connections: u64,
}

impl Bench {
    fn new(subnet: &str) -> Self {
        Self::with(Rules { subnet: subnet.parse().unwrap(), ..rules() })
    }

    fn with(rules: Rules) -> Self {
        let key = TicketKey::derive(&PrivateKey::from_bytes([1; 32]));
        let (now, rng) = (epoch(), StdRng::seed_from_u64(5));
        Self { roster: Roster::new(rules, key), now, unix: UNIX, rng, connections: 0 }
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.unix += time.as_secs();
        self.roster.expire(self.now).into_iter().map(|(id, _)| id).collect()
    }

    fn offer(&mut self, source: u8, wish: Wish<'_>) -> Result<Offer, RejectCode> {
        let source = IpAddr::from([192, 0, 2, source]);
        self.roster.offer((self.now, self.unix), source, wish, &mut self.rng)
    }

    fn ticket(&mut self, offer: &mut Offer) -> Ticket {
        self.roster.ticket(self.unix, offer, false, &mut self.rng).unwrap().0
    }

    fn confirm(&mut self, offer: Offer) -> (Option<Confirmed>, u64) {
        self.connections += 1;
        (self.roster.confirm(self.now, offer, self.connections), self.connections)
    }

    /// A client that is there: its id, its ticket, its connection, its address.
    fn join(&mut self) -> (String, Ticket, u64, Ipv4Addr) {
        let mut offer = self.offer(1, Wish::New(Guest::ANYBODY)).unwrap();
        let (ticket, v4) = (self.ticket(&mut offer), offer.addresses.v4);
        let (confirmed, connection) = self.confirm(offer);
        (confirmed.unwrap().client_id, ticket, connection, v4)
    }
}

/// Without ML-KEM.
fn resume(ticket: Option<&Ticket>) -> Wish<'_> {
    Wish::Resume { ticket, hybrid: false, key: None }
}

fn rules() -> Rules {
    Rules {
        subnet: "10.8.0.0/24".parse().unwrap(),
        subnet6: None,
        max_clients: 1_000,
        grace: GRACE,
        ticket_max_age: Duration::from_secs(86_400),
        limit: Some((1_000, 65_536)),
    }
}

#[test]
fn a_session_outlives_its_connection_and_is_taken_up_again() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, first, v4) = bench.join();
    assert_eq!(bench.roster.lost(bench.now, &id, first), Lost::Away);
    bench.roster.set_limit(&id, Some((5, 70_000)));
    assert!(bench.wait(GRACE - Duration::from_secs(1)).is_empty());

    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    assert_eq!((offer.origin, offer.limit, offer.addresses.v4), (Origin::Session, Some((5, 70_000)), v4));
    let (confirmed, second) = bench.confirm(offer);
    assert_eq!(
        confirmed,
        Some(Confirmed { client_id: id.clone(), resumed: true, replaced: None, succeeded: None })
    );
    assert!(bench.wait(GRACE * 2).is_empty());
    assert!(bench.roster.is_current(&id, second));
}

#[test]
fn a_session_that_nobody_takes_up_ends_and_its_address_rests() {
    let mut bench = Bench::new("10.8.0.0/30");
    let (id, ticket, first, v4) = bench.join();
    assert_eq!(bench.offer(2, Wish::New(Guest::ANYBODY)).unwrap_err(), RejectCode::PoolExhausted);
    bench.roster.lost(bench.now, &id, first);
    assert_eq!(bench.roster.poll_timeout(), Some(bench.now + GRACE));
    assert_eq!(bench.wait(GRACE), [id]);
    // Its ticket still gives it the same address, as long as nobody else has it.
    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    assert_eq!((offer.origin, offer.limit), (Origin::Ticket, Some((1_000, 65_536))));
    assert_eq!(offer.early, [IpAddr::V4(v4)], "an address that has not rested");
    bench.roster.withdraw(bench.now, offer);
    let offer = bench.offer(2, Wish::New(Guest::ANYBODY)).unwrap();
    assert_eq!(bench.offer(3, resume(Some(&ticket))).unwrap_err(), RejectCode::TicketInvalid);
    bench.roster.withdraw(bench.now, offer);
}

#[test]
fn nobody_is_evicted_before_the_new_connection_has_confirmed() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, first, _) = bench.join();
    // A recorded SessionResume, sent again: its connection can never confirm.
    let replay = bench.offer(9, resume(Some(&ticket))).unwrap();
    assert!(bench.roster.is_current(&id, first));
    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    let (confirmed, second) = bench.confirm(offer);
    assert_eq!(confirmed.unwrap().replaced, Some(first));
    bench.roster.withdraw(bench.now, replay);
    assert!(bench.roster.is_current(&id, second));
    // The old connection's end is nobody's any more.
    assert_eq!(bench.roster.lost(bench.now, &id, first), Lost::Replaced);
    assert!(bench.roster.is_current(&id, second));
}

#[test]
fn a_session_that_ends_meanwhile_is_not_confirmed() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, first, _) = bench.join();
    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    bench.roster.lost(bench.now, &id, first);
    bench.wait(GRACE);
    assert_eq!(bench.confirm(offer).0, None);
    // The same for two that were known from the ticket alone.
    let offers = [2, 3].map(|source| bench.offer(source, resume(Some(&ticket))).unwrap());
    let [one, two] = offers;
    assert!(!bench.confirm(one).0.unwrap().resumed);
    bench.roster.end(bench.now, &id);
    assert_eq!(bench.confirm(two).0, None);
    assert!(bench.roster.is_empty());
}

#[test]
fn connections_of_one_client_share_its_address_and_the_last_one_wins() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, _, v4) = bench.join();
    bench.roster.end(bench.now, &id);
    let [one, two, three] = [2, 3, 4].map(|source| bench.offer(source, resume(Some(&ticket))).unwrap());
    assert_eq!([&one, &two, &three].map(|offer| offer.addresses.v4), [v4; 3]);
    bench.roster.withdraw(bench.now, one);
    let (confirmed, connection) = bench.confirm(two);
    assert_eq!(
        confirmed.unwrap(),
        Confirmed { client_id: id.clone(), resumed: false, replaced: None, succeeded: None }
    );
    let (confirmed, _) = bench.confirm(three);
    assert_eq!(
        confirmed.unwrap(),
        Confirmed { client_id: id, resumed: true, replaced: Some(connection), succeeded: None }
    );
    assert_eq!(bench.roster.sessions().map(|(_, addresses)| addresses.v4).collect::<Vec<_>>(), [v4]);
}

#[test]
fn a_connection_that_a_client_made_earlier_takes_nothing_from_a_later_one() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, _, v4) = bench.join();
    let mut offer =
        || bench.offer(2, Wish::Resume { ticket: Some(&ticket), hybrid: false, key: None }).unwrap();
    let [one, two, three] = [(); 3].map(|()| offer());
    let (_, second) = bench.confirm(two);
    // Its confirmation was held up on the way that the client has left since.
    assert_eq!(bench.confirm(one).0, None);
    assert!(bench.roster.is_current(&id, second));
    assert_eq!(bench.confirm(three).0.unwrap().replaced, Some(second));

    // Nor once that one is lost: the client will come by a new one.
    let [one, two] = [(); 2]
        .map(|()| bench.offer(2, Wish::Resume { ticket: Some(&ticket), hybrid: false, key: None }).unwrap());
    let (_, second) = bench.confirm(two);
    assert_eq!(bench.roster.lost(bench.now, &id, second), Lost::Away);
    assert_eq!(bench.confirm(one).0, None);
    assert!(bench.roster.poll_timeout().is_some());
    assert_eq!(bench.roster.sessions().collect::<Vec<_>>(), [(id.as_str(), Addresses { v4, v6: None })]);
}

#[test]
fn tickets_end_with_their_lifetime_and_with_the_full_handshakes_age() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, ticket, ..) = bench.join();
    bench.unix = UNIX + 3_599;
    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    bench.roster.withdraw(bench.now, offer);
    bench.unix = UNIX + 3_600;
    assert_eq!(bench.offer(2, resume(Some(&ticket))).unwrap_err(), RejectCode::TicketExpired);

    // One resume after the other does not lead beyond the age.
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, mut ticket, ..) = bench.join();
    while bench.unix < UNIX + 86_400 - 1_800 {
        bench.unix += 1_800;
        let mut offer = bench.offer(2, resume(Some(&ticket))).unwrap();
        ticket = bench.ticket(&mut offer);
        bench.confirm(offer);
    }
    bench.unix = UNIX + 86_399;
    let mut offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    assert_eq!(bench.roster.ticket(bench.unix, &mut offer, false, &mut bench.rng).unwrap().1, 1);
    bench.roster.withdraw(bench.now, offer);
    bench.unix += 1;
    assert_eq!(bench.offer(2, resume(Some(&ticket))).unwrap_err(), RejectCode::TicketExpired);
}

#[test]
fn a_revoked_clients_tickets_are_void() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, ..) = bench.join();
    bench.roster.revoke(bench.unix, &id);
    bench.roster.end(bench.now, &id);
    assert_eq!(bench.offer(2, resume(Some(&ticket))).unwrap_err(), RejectCode::Unauthorized);
    // Also at the next start.
    let saved = bench.roster.save(bench.now);
    let mut next = Bench::new("10.8.0.0/24");
    next.roster.restore(next.now, saved);
    assert_eq!(next.offer(2, resume(Some(&ticket))).unwrap_err(), RejectCode::Unauthorized);
}

#[test]
fn a_revoked_clients_tickets_are_void_also_where_the_wall_clock_was_put_back() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (id, ticket, ..) = bench.join();
    bench.unix -= 600;
    bench.roster.revoke(bench.unix, &id);
    bench.roster.end(bench.now, &id);
    // The ticket is valid for longer than any that were written now.
    bench.unix += TICKET_LIFETIME.as_secs() + 300;
    assert_eq!(
        bench.offer(2, Wish::Resume { ticket: Some(&ticket), hybrid: false, key: None }).unwrap_err(),
        RejectCode::Unauthorized
    );
}

#[test]
fn what_is_no_ticket_of_ours_is_invalid() {
    let mut bench = Bench::new("10.8.0.0/24");
    let other = TicketKey::derive(&PrivateKey::from_bytes([2; 32]));
    let claims = |change: fn(&mut Claims)| {
        let mut claims = Claims {
            client_id: "c1".into(),
            assigned_ip: [10, 8, 0, 9].into(),
            assigned_ip6: None,
            limit: None,
            expires_at: UNIX + 60,
            full_handshake_at: UNIX,
            client_key: None,
            hybrid: false,
        };
        change(&mut claims);
        claims
    };
    let foreign = other.seal(&claims(|_| {}), &mut bench.rng).unwrap();
    let mut void = vec![None, Some(Ticket::new(Vec::new()).unwrap()), Some(foreign)];
    for change in [
        (|claims| claims.assigned_ip = [10, 9, 0, 9].into()) as fn(&mut Claims),
        |claims| claims.assigned_ip = [10, 8, 0, 1].into(),
        |claims| claims.assigned_ip6 = Some("fd00::2".parse().unwrap()),
        |claims| claims.client_key = Some([1; 32]),
        |claims| claims.hybrid = true,
    ] {
        void.push(bench.roster.key.seal(&claims(change), &mut bench.rng));
    }
    for ticket in void {
        assert_eq!(bench.offer(1, resume(ticket.as_ref())).unwrap_err(), RejectCode::TicketInvalid);
    }
    let good = bench.roster.key.seal(&claims(|_| {}), &mut bench.rng);
    let offer = bench.offer(1, resume(good.as_ref())).unwrap();
    assert_eq!((offer.client_id.as_str(), offer.origin), ("c1", Origin::Ticket));
    bench.roster.withdraw(bench.now, offer);
}

#[test]
fn the_session_of_a_hybrid_ticket_needs_another_key() {
    let mut bench = Bench::new("10.8.0.0/24");
    let mut offer = bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap();
    let (hybrid, _) = bench.roster.ticket(UNIX, &mut offer, true, &mut bench.rng).unwrap();
    let plain = bench.ticket(&mut offer);
    bench.confirm(offer).0.unwrap();
    for (ticket, has_key, taken) in
        [(&hybrid, false, false), (&hybrid, true, true), (&plain, false, true), (&plain, true, true)]
    {
        let wish = Wish::Resume { ticket: Some(ticket), hybrid: has_key, key: None };
        let outcome = bench.offer(2, wish).map(|offer| bench.roster.withdraw(bench.now, offer));
        assert_eq!(outcome, if taken { Ok(()) } else { Err(RejectCode::TicketInvalid) });
    }
}

#[test]
fn what_is_only_promised_is_bounded_by_source_and_in_all() {
    let mut bench = Bench::new("10.8.0.0/24");
    let mut offers: Vec<_> = (0..8).map(|_| bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap()).collect();
    assert_eq!(bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap_err(), RejectCode::ServerFull);
    let mut source = 2;
    let refused = loop {
        match bench.offer(source, Wish::New(Guest::ANYBODY)) {
            Ok(offer) => offers.push(offer),
            Err(code) => break code,
        }
        source += 1;
    };
    assert_eq!((refused, offers.len()), (RejectCode::ServerFull, 50), "a quarter of those that are left");
    // A session that is there needs no promise.
    bench.roster.withdraw(bench.now, offers.pop().unwrap());
    let mut first = offers.remove(0);
    let ticket = bench.ticket(&mut first);
    bench.confirm(first).0.unwrap();
    while let Ok(offer) = bench.offer(200, Wish::New(Guest::ANYBODY)) {
        offers.push(offer);
    }
    bench.offer(1, resume(Some(&ticket))).map(drop).unwrap();
    for offer in offers {
        bench.roster.withdraw(bench.now, offer);
    }
    assert_eq!(bench.roster.promises.count(), 0);
}

#[test]
fn clients_are_no_more_than_allowed_those_that_are_away_included() {
    let mut bench = Bench::with(Rules { max_clients: 1, ..rules() });
    let (id, ticket, first, _) = bench.join();
    bench.roster.lost(bench.now, &id, first);
    assert_eq!(bench.offer(2, Wish::New(Guest::ANYBODY)).unwrap_err(), RejectCode::ServerFull);
    let offer = bench.offer(2, resume(Some(&ticket))).unwrap();
    bench.confirm(offer).0.unwrap();
}

#[test]
fn without_grace_a_session_ends_with_its_connection() {
    let mut bench = Bench::with(Rules { grace: Duration::ZERO, ..rules() });
    let (id, _, first, v4) = bench.join();
    assert_eq!(bench.roster.lost(bench.now, &id, first), Lost::Ended(Addresses { v4, v6: None }));
    assert!(bench.roster.is_empty());
}

#[test]
fn a_new_process_keeps_every_address_for_its_client() {
    let mut bench = Bench::new("10.8.0.0/29");
    let clients: Vec<_> = (0..3).map(|_| bench.join()).collect();
    let (gone, ..) = clients[2].clone();
    bench.roster.end(bench.now, &gone);
    let saved = serde_json::to_string(&bench.roster.save(bench.now)).unwrap();

    let mut next = Bench::new("10.8.0.0/29");
    // Other randomness, as ids must differ.
    (next.now, next.rng) = (next.now + Duration::from_secs(1_000), StdRng::seed_from_u64(6));
    let mut restored = next.roster.restore(next.now, serde_json::from_str(&saved).unwrap());
    restored.sort_by_key(|restored| restored.addresses.v4);
    let expected: Vec<_> = clients[..2]
        .iter()
        .map(|(id, .., v4)| Restored {
            client_id: id.clone(),
            addresses: Addresses { v4: *v4, v6: None },
            limit: Some((1_000, 65_536)),
        })
        .collect();
    assert_eq!(restored, expected);
    // Whoever comes new gets none of theirs, and the one that rests last.
    let fresh: Vec<_> = (0..3).map(|_| next.join().3).collect();
    assert_eq!(fresh.last(), Some(&clients[2].3));
    assert!(clients[..2].iter().all(|(.., v4)| !fresh.contains(v4)));
    let offer = next.offer(1, resume(Some(&clients[0].1))).unwrap();
    assert_eq!(offer.origin, Origin::Session);
    next.roster.withdraw(next.now, offer);
    assert_eq!(next.wait(GRACE).len(), 2);
}

#[test]
fn a_server_with_another_subnet_or_a_file_of_another_form_begins_anew() {
    let mut bench = Bench::new("10.8.0.0/29");
    bench.join();
    let saved = bench.roster.save(bench.now);
    let mut next = Bench::new("10.9.0.0/29");
    assert_eq!(next.roster.restore(next.now, saved.clone()), []);
    let mut next = Bench::new("10.8.0.0/29");
    let mut other = serde_json::to_value(&saved).unwrap();
    other["version"] = 2.into();
    assert_eq!(next.roster.restore(next.now, serde_json::from_value(other).unwrap()), []);
}

proptest::proptest! {
    #[test]
    fn what_is_saved_is_taken_up_by_the_same_server(
        joins in 0..20_usize, leave in proptest::collection::vec(0..20_usize, 0..5), keep in 0..200_u64
    ) {
        let mut bench = Bench::new("10.8.0.0/27");
        let mut ids: Vec<_> = (0..joins).map(|_| bench.join().0).collect();
        for index in leave.into_iter().filter(|index| *index < joins) {
            bench.roster.end(bench.now, &ids[index]);
            ids[index].clear();
        }
        bench.wait(Duration::from_secs(keep));
        let text = serde_json::to_vec(&bench.roster.save(bench.now)).unwrap();
        let mut next = Bench::new("10.8.0.0/27");
        let restored = next.roster.restore(next.now, serde_json::from_slice(&text).unwrap());
        let sessions = |bench: &Bench| -> std::collections::BTreeMap<String, Addresses> {
            bench.roster.sessions().map(|(id, addresses)| (id.to_owned(), addresses)).collect()
        };
        proptest::prop_assert_eq!(restored.len(), ids.iter().filter(|id| !id.is_empty()).count());
        proptest::prop_assert_eq!(sessions(&next), sessions(&bench));
    }
}

/// A known client with this id.
fn known(id: &str) -> Wish<'_> {
    Wish::New(Guest { id: Some(id), ..Guest::ANYBODY })
}

/// The same with as many sessions as it may have.
fn many(id: &str, sessions: u32) -> Wish<'_> {
    Wish::New(Guest { id: Some(id), sessions, ..Guest::ANYBODY })
}

impl Bench {
    /// A client that comes by a full handshake, as `wish` says: its session's id, its ticket, its connection.
    fn come(&mut self, wish: Wish<'_>) -> (String, Ticket, u64) {
        let mut offer = self.offer(1, wish).unwrap();
        let ticket = self.ticket(&mut offer);
        let (confirmed, connection) = self.confirm(offer);
        (confirmed.unwrap().client_id, ticket, connection)
    }
}

#[test]
fn a_known_client_that_comes_anew_takes_the_place_of_its_last_session() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, ticket, first) = bench.come(known("a"));
    let offer = bench.offer(2, known("a")).unwrap();
    let addresses = offer.addresses;
    // Nobody is evicted before the confirmation.
    assert!(bench.roster.is_current("a", first));
    let (confirmed, second) = bench.confirm(offer);
    let expected = Confirmed {
        client_id: "a".into(),
        resumed: false,
        replaced: Some(first),
        succeeded: Some(addresses),
    };
    assert_eq!(confirmed, Some(expected));
    assert!(bench.roster.is_current("a", second));
    // The ticket is of the session before, and good for the address all the same.
    bench.wait(DAMPING);
    assert_eq!(bench.offer(2, resume(Some(&ticket))).unwrap().addresses, addresses);
}

#[test]
fn a_known_client_keeps_its_address() {
    let mut bench = Bench::new("10.8.0.0/24");
    bench.come(known("a"));
    let first = bench.roster.sessions().next().unwrap().1;
    assert_eq!(bench.roster.end(bench.now, "a"), Some(first));
    for number in 0..50 {
        bench.come(known(&format!("x{number}")));
    }
    let offer = bench.offer(2, known("a")).unwrap();
    assert_eq!((offer.addresses, offer.early.len()), (first, 0));
    bench.confirm(offer).0.unwrap();

    // Over a restart, too, whether it was there or not.
    bench.roster.end(bench.now, "a");
    let saved = serde_json::to_vec(&bench.roster.save(bench.now)).unwrap();
    let mut after = Bench::new("10.8.0.0/24");
    after.roster.restore(after.now, serde_json::from_slice(&saved).unwrap());
    assert_eq!(after.offer(2, known("a")).unwrap().addresses, first);
    // One that is not to come again has none.
    after.roster.forget("a");
    assert_ne!(after.offer(3, known("b")).unwrap().addresses, first);
}

#[test]
fn an_address_that_is_kept_for_a_client_is_nobody_elses() {
    let mut bench = Bench::new("10.8.0.0/29");
    let kept = Ipv4Addr::from([10, 8, 0, 4]);
    bench.roster.reserve(bench.now, "a", kept).unwrap();
    let mut given = Vec::new();
    while let Ok(offer) = bench.offer(1, Wish::New(Guest::ANYBODY)) {
        given.push(offer.addresses.v4);
        bench.confirm(offer).0.unwrap();
    }
    assert_eq!(given.len(), 4);
    assert!(!given.contains(&kept));
    let wish = Wish::New(Guest { id: Some("a"), address: Some(kept), ..Guest::ANYBODY });
    let (_, ticket, _) = bench.come(wish);
    assert_eq!(bench.offer(1, resume(Some(&ticket))).unwrap().addresses.v4, kept);
    bench.roster.end(bench.now, "a");
    assert_eq!(bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap_err(), RejectCode::PoolExhausted);
    bench.come(wish);
    // Given back to all when it is kept no more, and its session over.
    bench.roster.unreserve(bench.now, "a");
    assert_eq!(bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap_err(), RejectCode::PoolExhausted);
    bench.roster.end(bench.now, "a");
    assert_eq!(bench.offer(1, Wish::New(Guest::ANYBODY)).unwrap().addresses.v4, kept);
    assert_eq!(bench.roster.pool.faults(), 0);
}

#[test]
fn an_address_in_use_or_outside_cannot_be_kept() {
    let mut bench = Bench::new("10.8.0.0/29");
    bench.come(known("a"));
    let used = bench.roster.sessions().next().unwrap().1.v4;
    let reserve = |bench: &mut Bench, id, addr| bench.roster.reserve(bench.now, id, addr);
    assert_eq!(reserve(&mut bench, "b", used), Err(ReserveError::InUse(used, "a".into())));
    assert_eq!(reserve(&mut bench, "a", used), Ok(()));
    let outside = [10, 8, 0, 1].into();
    assert_eq!(reserve(&mut bench, "b", outside), Err(ReserveError::Outside(outside)));
    // Another in its place.
    let other = [10, 8, 0, 5].into();
    assert_eq!(reserve(&mut bench, "a", other), Ok(()));
    assert_eq!(reserve(&mut bench, "b", used), Err(ReserveError::InUse(used, "a".into())));
    let wish = Wish::New(Guest { id: Some("a"), address: Some(other), ..Guest::ANYBODY });
    let offer = bench.offer(1, wish).unwrap();
    assert_eq!(offer.addresses.v4, other);
    let (confirmed, _) = bench.confirm(offer);
    assert_eq!(confirmed.unwrap().succeeded.unwrap().v4, used);
    assert_eq!(reserve(&mut bench, "b", used), Ok(()));
    assert_eq!(bench.roster.pool.faults(), 0);
}

#[test]
fn a_client_has_as_many_sessions_as_it_may() {
    let mut bench = Bench::new("10.8.0.0/24");
    let ids: Vec<_> = (0..3).map(|_| bench.come(many("a", 3)).0).collect();
    assert_eq!(ids, ["a", "a.2", "a.3"]);
    // The one that waits for it comes first, then the one that came first of all.
    bench.roster.lost(bench.now, "a.2", 2);
    assert_eq!(bench.come(many("a", 3)).0, "a.2");
    assert_eq!(bench.come(many("a", 3)).0, "a");
    assert_eq!(bench.roster.len(), 3);
}

#[test]
fn two_devices_with_one_key_do_not_throw_each_other_out_for_ever() {
    let mut bench = Bench::new("10.8.0.0/24");
    bench.come(known("a"));
    assert_eq!(bench.roster.take_duplicate(bench.now), None);
    let (_, _, second) = bench.come(known("a"));
    assert_eq!(bench.offer(1, known("a")).unwrap_err(), RejectCode::ServerFull);
    assert!(bench.roster.is_current("a", second));
    assert_eq!(bench.roster.take_duplicate(bench.now), Some("a".into()));
    bench.offer(1, known("a")).unwrap_err();
    // Once a minute is enough.
    assert_eq!(bench.roster.take_duplicate(bench.now), None);
    bench.wait(Duration::from_millis(9_999));
    bench.offer(1, known("a")).unwrap_err();
    bench.wait(Duration::from_millis(1));
    bench.come(known("a"));
    bench.wait(Duration::from_secs(50));
    bench.come(known("a"));
    bench.offer(1, known("a")).unwrap_err();
    assert_eq!(bench.roster.take_duplicate(bench.now), Some("a".into()));
}

#[test]
fn a_client_that_is_away_may_come_anew_at_any_time() {
    let mut bench = Bench::new("10.8.0.0/24");
    for _ in 0..5 {
        let (_, _, connection) = bench.come(known("a"));
        assert_eq!(bench.roster.lost(bench.now, "a", connection), Lost::Away);
    }
    assert_eq!(bench.roster.take_duplicate(bench.now), None);
}

#[test]
fn roaming_is_never_damped() {
    let mut bench = Bench::new("10.8.0.0/24");
    bench.come(known("a"));
    let (_, mut ticket, _) = bench.come(known("a"));
    // Right after a swap, with the ticket issued last, as often as it likes.
    for _ in 0..20 {
        let mut offer = bench.offer(1, resume(Some(&ticket))).unwrap();
        let next = bench.ticket(&mut offer);
        bench.confirm(offer).0.unwrap();
        ticket = next;
    }
    // An attempt whose answer did not arrive has cost nothing: the ticket before is as good.
    let mut lost = bench.offer(1, resume(Some(&ticket))).unwrap();
    bench.ticket(&mut lost);
    bench.roster.withdraw(bench.now, lost);
    let offer = bench.offer(1, resume(Some(&ticket))).unwrap();
    bench.confirm(offer).0.unwrap();
    assert_eq!(bench.roster.take_duplicate(bench.now), None);
}

#[test]
fn a_ticket_from_before_the_swap_is_another_devices() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, old, _) = bench.come(known("a"));
    bench.come(known("a"));
    assert_eq!(bench.offer(1, resume(Some(&old))).unwrap_err(), RejectCode::ServerFull);
    bench.wait(Duration::from_secs(10));
    let offer = bench.offer(1, resume(Some(&old))).unwrap();
    bench.confirm(offer).0.unwrap();
    assert_eq!(bench.offer(1, known("a")).unwrap_err(), RejectCode::ServerFull);
}

#[test]
fn tickets_are_their_keys() {
    let mut bench = Bench::new("10.8.0.0/24");
    let key = |number| Some(PublicKey::from_bytes([number; 32]));
    let wish = Wish::New(Guest { id: Some("a"), key: key(1), ..Guest::ANYBODY });
    let (_, ticket, _) = bench.come(wish);
    let with = |key| Wish::Resume { ticket: Some(&ticket), hybrid: false, key };
    for wrong in [None, key(2)] {
        assert_eq!(bench.offer(1, with(wrong)).unwrap_err(), RejectCode::TicketInvalid);
    }
    assert_eq!(bench.offer(1, with(key(1))).unwrap().client_id, "a");
    let (_, plain, _) = bench.come(known("b"));
    let wish = Wish::Resume { ticket: Some(&plain), hybrid: false, key: key(1) };
    assert_eq!(bench.offer(1, wish).unwrap_err(), RejectCode::TicketInvalid);
}

#[test]
fn a_client_that_was_let_in_again_has_good_tickets() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, old, _) = bench.come(known("a"));
    bench.roster.revoke(bench.unix, "a");
    bench.roster.end(bench.now, "a");
    assert_eq!(bench.offer(1, resume(Some(&old))).unwrap_err(), RejectCode::Unauthorized);
    // Within the same second.
    let (_, new, connection) = bench.come(known("a"));
    bench.roster.lost(bench.now, "a", connection);
    assert_eq!(bench.offer(1, resume(Some(&old))).unwrap_err(), RejectCode::Unauthorized);
    assert_eq!(bench.offer(1, resume(Some(&new))).unwrap().client_id, "a");
}

#[test]
fn replayed_first_messages_of_one_key_hold_one_address() {
    let mut bench = Bench::new("10.8.0.0/24");
    let offers: Vec<_> = (0..8).map(|_| bench.offer(1, known("a")).unwrap()).collect();
    assert!(offers.iter().all(|offer| offer.addresses == offers[0].addresses));
    for offer in offers {
        bench.roster.withdraw(bench.now, offer);
    }
    assert_eq!((bench.roster.pool.free_count(), bench.roster.pool.faults()), (253, 0));
}

#[test]
fn what_is_void_stays_void_when_a_client_is_removed_again_by_an_earlier_clock() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, old, _) = bench.come(known("a"));
    bench.roster.revoke(bench.unix, "a");
    bench.roster.end(bench.now, "a");
    bench.unix -= 600;
    bench.roster.revoke(bench.unix, "a");
    assert_eq!(bench.offer(1, resume(Some(&old))).unwrap_err(), RejectCode::Unauthorized);
}

#[test]
fn the_ticket_of_a_second_attempt_is_as_good_for_roaming() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, old, _) = bench.come(known("a"));
    bench.roster.end(bench.now, "a");
    // A device that hears no answer to its first attempt makes another: both were confirmed.
    let [first, mut second] = [(); 2].map(|()| bench.offer(1, resume(Some(&old))).unwrap());
    let ticket = bench.ticket(&mut second);
    bench.confirm(first).0.unwrap();
    bench.confirm(second).0.unwrap();
    let offer = bench.offer(1, resume(Some(&ticket))).unwrap();
    bench.confirm(offer).0.unwrap();
}

#[test]
fn a_connection_that_was_promised_another_address_than_its_session_has_comes_too_late() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, ticket, _) = bench.come(known("a"));
    let home = bench.roster.sessions().next().unwrap().1.v4;
    let kept = Ipv4Addr::from([10, 8, 0, 9]);
    bench.roster.reserve(bench.now, "a", kept).unwrap();
    let wish = Wish::New(Guest { id: Some("a"), address: Some(kept), ..Guest::ANYBODY });
    let moves = bench.offer(1, wish).unwrap();
    bench.roster.unreserve(bench.now, "a");
    let late = [known("a"), resume(Some(&ticket))].map(|wish| bench.offer(1, wish).unwrap());
    assert!(late.iter().all(|offer| offer.addresses.v4 == home));
    bench.confirm(moves).0.unwrap();
    for offer in late {
        assert_eq!(bench.confirm(offer).0, None);
    }
    assert_eq!(bench.roster.sessions().next().unwrap().1.v4, kept);
    assert_eq!(bench.roster.pool.faults(), 0);
}

#[test]
fn tickets_of_earlier_sessions_are_void_too_where_the_wall_clock_was_put_back() {
    let mut bench = Bench::new("10.8.0.0/24");
    let (_, old, _) = bench.come(known("a"));
    bench.roster.end(bench.now, "a");
    bench.unix -= 600;
    bench.come(known("a"));
    // Also by the next process.
    let saved = serde_json::to_vec(&bench.roster.save(bench.now)).unwrap();
    let mut next = Bench::new("10.8.0.0/24");
    next.unix -= 600;
    next.roster.restore(next.now, serde_json::from_slice(&saved).unwrap());
    for bench in [&mut bench, &mut next] {
        bench.roster.revoke(bench.unix, "a");
        bench.roster.end(bench.now, "a");
        assert_eq!(bench.offer(1, resume(Some(&old))).unwrap_err(), RejectCode::Unauthorized);
    }
}
