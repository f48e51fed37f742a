//! Whole sessions between a client and a server, in simulated time.
//!
//! `SEED=n cargo test --test simulation` replays one story; `SIM_SEEDS=n` sets how many are told (1,000 unless
//! given, in a long run 10,000). What once failed is in `seeds.txt` and told first.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test may stop at what must not be"
)]
#![expect(clippy::print_stdout, reason = "a failing story names its seed")]

mod admission;
mod attempt;
mod book;
mod bundles;
mod carry;
mod ends;
mod fate;
mod handshake;
mod host;
mod hostile;
mod hub;
mod idle;
mod keepalive;
mod keys;
mod model;
mod operator;
mod oracle;
mod outside;
mod post;
mod raw;
mod resident;
mod resume;
mod session;
mod states;
mod town;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::session::KeyLimits;

use ends::{End, Side};
use town::Town;
use world::{Climate, World};

/// Stories told unless the environment says otherwise: in a test run, and in a long one.
const SEEDS: (u64, u64) = (1_000, 10_000);

/// What once failed, a line each: the story, its seed, and what it was.
const KEPT: &str = include_str!("seeds.txt");

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let is_long = std::env::var("SMARTVPN_LONG").is_ok_and(|long| long == "1");
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(if is_long { SEEDS.1 } else { SEEDS.0 }),
    }
}

/// The seeds of `name` in [`KEPT`]; none where one seed is asked for.
fn kept(name: &str) -> Vec<u64> {
    if std::env::var("SEED").is_ok() {
        return Vec::new();
    }
    let lines = KEPT.lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    words
        .filter(|words| words.first() == Some(&name))
        .map(|words| words[1].parse().expect("a seed"))
        .collect()
}

/// Tells the stories of all seeds, first of those that once failed, on all cores; a failing one names its seed.
fn tell(name: &str, story: impl Fn(u64) + std::panic::RefUnwindSafe + Sync) {
    let (kept, seeds) = (kept(name), seeds());
    let all: Vec<u64> = kept.into_iter().chain(seeds).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let tell_some = || {
        while let Some(seed) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(panic) = std::panic::catch_unwind(|| story(*seed)) {
                println!("SEED={seed} cargo test --test simulation -- --exact {name}");
                next.store(all.len(), Ordering::Relaxed);
                failed.lock().unwrap().get_or_insert(panic);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(tell_some);
        }
    });
    if let Some(panic) = failed.into_inner().unwrap() {
        std::panic::resume_unwind(panic);
    }
}

fn key_limits(seed: u64) -> KeyLimits {
    let mut rng = StdRng::seed_from_u64(!seed);
    let seconds = rng.random_range(60..7_200);
    KeyLimits {
        frames: rng.random_range(10..3_000),
        bytes: rng.random_range(1_000..5_000_000),
        age: Duration::from_secs(seconds),
    }
}

/// How often each kind of end came about, to see that the stories are not all the same.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, usize>>);

impl Tally {
    fn count(&self, what: impl std::fmt::Debug) {
        *self.0.lock().unwrap().entry(format!("{what:?}")).or_default() += 1;
    }

    /// Of a full set of stories, each of these must have happened.
    fn expect(self, expected: &[&str]) {
        let tally = self.0.into_inner().unwrap();
        println!("{tally:?}");
        if seeds().count() >= 1_000 {
            for what in expected {
                assert!(tally.keys().any(|key| key.contains(what)), "{what} never happened");
            }
        }
    }
}

/// Without mischief everything arrives, and both ends know how it ended.
#[test]
fn good_weather() {
    let tally = Tally::default();
    tell("good_weather", |seed| {
        let climate = Climate {
            stall: Duration::from_millis(800),
            endings: false,
            hostile: false,
            key_limits: key_limits(seed),
        };
        let mut world = World::new(seed, climate);
        world.run(60);
        let code = DisconnectCode::ClientDisconnect;
        assert_eq!(world.end(Side::Client), Some(&End::Left(code)));
        assert_eq!(world.end(Side::Server), Some(&End::Disconnected(code)));
        for side in Side::BOTH {
            assert_eq!(world.undelivered_from(side), 0);
            assert!(world.delivered_to(side) > 0);
            let (bundles, offloaded) = world.bundled_to(side);
            tally.count((side, bundles > 0, offloaded > 0));
        }
        let [client, server] = Side::BOTH.map(|side| world.renewals_of(side));
        assert_eq!(client, server, "both ends have the same keys");
        tally.count(match (world.features().rekey, client) {
            (false, _) => "without rekey",
            (true, 0) => "keys that need no renewal",
            (true, 1) => "keys are renewed once",
            (true, _) => "keys are renewed again and again",
        });
    });
    tally.expect(&[
        "Client, true, true",
        "Server, true, true",
        "true, false",
        "false, false",
        "without rekey",
        "keys are renewed once",
        "keys are renewed again and again",
    ]);
}

/// Stalls, cuts and early goodbyes: an end may come at any time, but never by a fault.
#[test]
fn bad_weather() {
    let tally = Tally::default();
    tell("bad_weather", |seed| {
        let climate = Climate {
            stall: Duration::from_secs(90),
            endings: true,
            hostile: false,
            key_limits: key_limits(seed),
        };
        let mut world = World::new(seed, climate);
        world.run(60);
        for side in Side::BOTH {
            let end = world.end(side).expect("no story goes on for ever");
            assert!(!matches!(end, End::Fault(_) | End::PlainDisconnect), "{side:?}: {end:?}");
            tally.count((side, end));
        }
        if let (Some(End::Left(left)), Some(End::Disconnected(told))) =
            (world.end(Side::Client), world.end(Side::Server))
        {
            assert_eq!(left, told);
            assert_eq!(world.undelivered_from(Side::Client), 0);
        }
    });
    tally.expect(&[
        "Client, Left",
        "Client, Disconnected",
        "Client, PeerDead",
        "Client, Lost",
        "Server, Left",
        "Server, Disconnected",
        "Server, PeerDead",
        "Server, Lost",
    ]);
}

/// Somebody in between changes one message: the receiver sees it and closes with the right code,
/// and nothing wrong is ever delivered.
#[test]
fn a_hostile_middle() {
    let tally = Tally::default();
    tell("a_hostile_middle", |seed| {
        let climate = Climate {
            stall: Duration::from_millis(800),
            endings: false,
            hostile: true,
            key_limits: if seed.is_multiple_of(2) { key_limits(seed) } else { KeyLimits::default() },
        };
        let mut world = World::new(seed, climate);
        world.run(60);
        tally.count(if world.tampered() { "tampered" } else { "idle" });
        for side in Side::BOTH {
            let end = world.end(side).expect("no story goes on for ever");
            assert!(!matches!(end, End::PeerDead) || world.tampered(), "{side:?}: {end:?}");
            tally.count((side, end));
        }
    });
    tally.expect(&[
        "Client, Fault(1002)",
        "Client, Fault(1008)",
        "Client, PlainDisconnect",
        "Client, Deadline",
        "Server, Fault(1002)",
        "Server, Fault(1008)",
        "Server, Deadline",
    ]);
}

/// Whole tunnels: whatever happens to them, the model holds, and all are back within a minute of its end.
#[test]
fn a_town() {
    let tally = Tally::default();
    tell("a_town", |seed| {
        let mut town = Town::new(seed);
        town.run(50);
        town.out.tally.keys().for_each(|what| tally.count(what));
    });
    tally.expect(&[
        "a client begins anew",
        "a client gives up",
        "a client renews its keys by another connection",
        "a client renews its keys on its connection",
        "a client that is not to come in is refused",
        "a confirmation comes too late",
        "a connection is replaced",
        "a disk is lost",
        "a kept address is asked for that somebody has",
        "a kicked client's ticket is refused",
        "a known client comes home",
        "a known client takes its last session's place",
        "a new client is accepted",
        "a registered client is removed",
        "a registered client moves to its address",
        "a resume is accepted",
        "a resume is refused",
        "a second session of a client",
        "a server ends",
        "a swap of devices is damped",
        "another device takes a session's place",
        "the word on clients is lost",
        "a repeated first message is refused",
        "roaming goes through right after a swap",
    ]);
}
