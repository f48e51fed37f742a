use std::net::Ipv6Addr;

use super::*;
use crate::session::epoch;

const RULES: GateRules = GateRules { per_second: 50, burst: 400 };

fn gate() -> (Gate, Instant) {
    (Gate::new(epoch(), RULES, 2), epoch())
}

fn v4(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// Lets one in that comes to nothing at once.
fn fail(gate: &mut Gate, now: Instant, addr: IpAddr) -> Result<(), Refusal> {
    gate.enter(now, addr).map(|id| gate.failed(now, id))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn one_source_has_so_many_unconfirmed_connections() {
    let (mut gate, now) = gate();
    let ids: Vec<_> = (0..HALF_OPEN_PER_SOURCE).map(|_| gate.enter(now, v4(1)).unwrap()).collect();
    assert_eq!(gate.enter(now, v4(1)), Err(Refusal::HalfOpen));
    assert!(gate.enter(now, v4(2)).is_ok(), "another has its own");
    gate.confirmed(now, ids[0]);
    gate.failed(now, ids[1]);
    assert!(gate.enter(now, v4(1)).is_ok() && gate.enter(now, v4(1)).is_ok());
    assert_eq!(gate.enter(now, v4(1)), Err(Refusal::HalfOpen));
    assert_eq!(gate.turned(), Turned { half_open: 2, ..Turned::default() });
}

#[test]
fn one_source_has_so_many_handshakes_a_second() {
    let (mut gate, now) = gate();
    let at_once = (0..1000).filter(|_| fail(&mut gate, now, v4(1)).is_ok()).count();
    assert_eq!(at_once, 400);
    let later = now + Duration::from_secs(2);
    let in_two_seconds = (0..1000).filter(|_| fail(&mut gate, later, v4(1)).is_ok()).count();
    assert_eq!(in_two_seconds, 100);
    assert_eq!(gate.turned().rate, 1500);
}

#[test]
fn a_64_of_ipv6_is_one_source() {
    let (mut gate, now) = gate();
    let addr = |net: u128, host: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | net << 64 | host));
    for host in 0..400 {
        fail(&mut gate, now, addr(1, host)).unwrap();
    }
    assert_eq!(fail(&mut gate, now, addr(1, 1 << 40)), Err(Refusal::Rate));
    assert_eq!(fail(&mut gate, now, addr(2, 1)), Ok(()));
    assert_eq!(Source::of("::ffff:10.0.0.1".parse().unwrap()), Source::of(v4(1)));
}

#[test]
fn a_flood_from_many_addresses_leaves_room_for_new_and_known_ones() {
    let (mut gate, start) = gate();
    let known = v4(1_000_000);
    let id = gate.enter(start, known).unwrap();
    gate.confirmed(start, id);
    let (mut flood, mut refused_new, mut refused_known) = (0, 0, 0);
    // 2,000 a second from 500 addresses for ten seconds, and now and then somebody else.
    for step in 0..20_000_u32 {
        let now = start + Duration::from_micros(500) * step;
        flood += u32::from(fail(&mut gate, now, v4(step % 500)).is_ok());
        if step % 40 == 0 && step > 3_000 {
            refused_new +=
                u32::from(gate.enter(now, v4(10_000 + step)).map(|id| gate.confirmed(now, id)).is_err());
            refused_known += u32::from(gate.enter(now, known).map(|id| gate.confirmed(now, id)).is_err());
        }
    }
    assert_eq!((refused_new, refused_known), (0, 0));
    let budget = 10 * 2 * HANDSHAKES_PER_CORE;
    assert!((budget / 2..=budget * 3 / 2).contains(&flood), "{flood} got in, with some 500 a second");
}

#[test]
fn failures_are_forgotten() {
    let (mut gate, now) = gate();
    let standing = |gate: &Gate, now| gate.sources.look(now, Source::of(v4(1))).1;
    fail(&mut gate, now, v4(1)).unwrap();
    assert_eq!(standing(&gate, now + Duration::from_secs(59)), Standing::Suspect);
    assert_eq!(standing(&gate, now + Duration::from_secs(60)), Standing::New);
    for _ in 0..100 {
        fail(&mut gate, now, v4(1)).unwrap();
    }
    assert_eq!(standing(&gate, now + Duration::from_secs(299)), Standing::Suspect);
    assert_eq!(standing(&gate, now + Duration::from_secs(300)), Standing::New);
    let id = gate.enter(now, v4(1)).unwrap();
    gate.confirmed(now, id);
    assert_eq!(standing(&gate, now), Standing::Known, "who has a session is no attacker");
    assert_eq!(standing(&gate, now + Duration::from_secs(3600)), Standing::New);
    for _ in 0..3 {
        fail(&mut gate, now, v4(1)).unwrap();
        assert_eq!(standing(&gate, now), Standing::Known);
    }
    fail(&mut gate, now, v4(1)).unwrap();
    assert_eq!(standing(&gate, now), Standing::Suspect, "somebody else may be at its address");
}

#[test]
fn beyond_the_memory_the_oldest_goes() {
    let (mut gate, now) = gate();
    // Saved up and earned while they come.
    let at = |step: u32| now + millis(2) * step;
    let mut ids = Vec::new();
    let mut shed = Vec::new();
    for step in 0..2_000 {
        ids.push(gate.enter(at(step), v4(step)).unwrap());
        shed.extend(std::iter::from_fn(|| gate.shed_excess(at(step))));
        assert!(gate.bytes() <= STRANGERS_BYTES);
    }
    let kept = STRANGERS_BYTES / SILENT_BYTES;
    assert_eq!((gate.len(), shed.len()), (kept, 2_000 - kept));
    assert_eq!(shed, ids[..shed.len()], "oldest first");
    // Those that speak cost more.
    let (older, younger) = ids.split_at(ids.len() - 300);
    younger.iter().for_each(|id| gate.head_begins(*id));
    while gate.shed_excess(at(2_000)).is_some() {}
    assert!(gate.bytes() <= STRANGERS_BYTES && gate.len() < kept);
    assert_eq!(gate.turned().shed as usize, 2_000 - gate.len());
    // One that was shed has nothing left to end.
    let bytes = gate.bytes();
    gate.failed(at(2_000), older[0]);
    gate.confirmed(at(2_000), older[1]);
    gate.head_begins(older[2]);
    assert_eq!(gate.bytes(), bytes);
    ids.iter().for_each(|id| gate.failed(at(2_000), *id));
    assert_eq!((gate.len(), gate.bytes()), (0, 0));
}

#[test]
fn a_proxys_connections_are_counted_for_whom_they_come_from() {
    let (mut gate, now) = gate();
    for _ in 0..HALF_OPEN_PER_SOURCE {
        let id = gate.enter_by_proxy();
        gate.identify(now, id, Some(v4(1))).unwrap();
    }
    let id = gate.enter_by_proxy();
    assert_eq!(gate.identify(now, id, Some(v4(1))), Err(Refusal::HalfOpen));
    gate.failed(now, id);
    let others: Vec<_> = (0..HALF_OPEN_PER_SOURCE + 50).map(|_| gate.enter_by_proxy()).collect();
    for id in &others {
        gate.identify(now, *id, None).unwrap();
    }
    // One that is shed before the proxy has said whose it is leaves nothing behind.
    let id = gate.enter_by_proxy();
    gate.failed(now, id);
    gate.identify(now, id, Some(v4(2))).unwrap();
    assert_eq!(gate.sources.look(now, Source::of(v4(2))).0, 0);
}

#[test]
fn a_flood_is_told_of_once_a_minute() {
    let (mut gate, start) = gate();
    for _ in 0..401 {
        let _ = fail(&mut gate, start, v4(1));
    }
    assert_eq!(gate.poll_report(start), None, "one refusal is no flood");
    let told: Vec<_> = (0..1_300)
        .filter_map(|step| {
            let now = start + millis(100) * step;
            for _ in 0..10 {
                let _ = fail(&mut gate, now, v4(1));
            }
            gate.poll_report(now).map(|turned| (step, turned))
        })
        .collect();
    let times: Vec<_> = told.iter().map(|(step, _)| *step).collect();
    assert_eq!(times, [10, 610, 1210]);
    // All of them but those of the last 90 steps.
    let sum: u64 = told.iter().map(|(_, turned)| turned.rate).sum();
    assert!(gate.turned().rate - sum < 900 && told.iter().all(|(_, turned)| turned.rate == turned.total()));
}

#[test]
fn many_addresses_do_not_make_the_table_grow_nor_free_the_guilty() {
    let now = epoch();
    let mut gate = Gate::new(now, GateRules { per_second: 50, burst: 400 }, 4_000);
    let guilty = v4(5_000_000);
    for _ in 0..400 {
        fail(&mut gate, now, guilty).unwrap();
    }
    for number in 0..40_000 {
        fail(&mut gate, now, v4(number)).unwrap();
    }
    assert!(gate.sources.len() <= 16_384);
    assert_eq!(fail(&mut gate, now, guilty), Err(Refusal::Rate), "others fail less, and are forgotten first");
    // Idle ones make room.
    let later = now + Duration::from_secs(400);
    for number in 0..20_000 {
        fail(&mut gate, later, v4(1_000_000 + number)).unwrap();
    }
    assert!(gate.sources.len() <= 16_384);
}
