//! Whole sessions between a client and a server, in simulated time.
//!
//! `SEED=n cargo test --test simulation` replays one story; `SIM_SEEDS=n` sets how many are told
//! (1,000 unless given).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at what must not be")]
#![expect(clippy::print_stdout, reason = "a failing story names its seed")]

mod bundles;
mod ends;
mod handshake;
mod hostile;
mod idle;
mod keepalive;
mod oracle;
mod raw;
mod resume;
mod session;
mod states;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::session::KeyLimits;

use ends::{End, Side};
use world::{Climate, World};

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(1_000),
    }
}

/// Tells the stories of all seeds; a failing one names its seed.
fn tell(story: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in seeds() {
        if let Err(panic) = std::panic::catch_unwind(|| story(seed)) {
            println!("SEED={seed} cargo test --test simulation");
            std::panic::resume_unwind(panic);
        }
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
    tell(|seed| {
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
    });
    tally.expect(&["Client, true, true", "Server, true, true", "true, false", "false, false"]);
}

/// Stalls, cuts and early goodbyes: an end may come at any time, but never by a fault.
#[test]
fn bad_weather() {
    let tally = Tally::default();
    tell(|seed| {
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
    tell(|seed| {
        let climate = Climate {
            stall: Duration::from_millis(800),
            endings: false,
            hostile: true,
            key_limits: KeyLimits::default(),
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
