//! A server and its clients in a world where everything goes wrong that can: streams are cut, stalled and forgotten,
//! proxies are impatient, hosts sleep and move, the server crashes, its disk is lost, its clock jumps, and somebody
//! sends recorded first messages again. Everything follows from a seed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::frame::FrameType;
use smartvpn::crypto::keys::Keypair;
use smartvpn::session::KeyLimits;
use smartvpn::session::roster::Rules;

use crate::book::Listed;
use crate::ends::Side;
use crate::host::Host;
use crate::model::Model;
use crate::outside::Outside;
use crate::post::Post;
use crate::raw::frame;
use crate::resident::Resident;
use crate::wire::{Arrival, Cut, Wire};
use crate::world::epoch;

/// Once nothing goes wrong any more, all clients are back within this (API §2).
const RECOVERY: Duration = Duration::from_secs(60);

/// Somebody who has recorded first messages, and no key.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66));

pub(crate) struct Town {
    pub(crate) out: Outside,
    keypair: Arc<Keypair>,
    rules: Rules,
    pub(crate) host: Option<Host>,
    /// The clients that the operator knows of.
    pub(crate) clients: Vec<Listed>,
    /// What befalls those that are known by a key is drawn from it.
    pub(crate) kinds: StdRng,
    residents: Vec<Resident>,
    /// Connections of the stranger's, and when it has enough of them.
    strangers: Vec<(u64, Instant)>,
    /// When a server that stops is gone.
    gone_at: Option<Instant>,
    /// When the next one starts.
    starts_at: Option<Instant>,
}

fn secs(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range.start * 1_000..range.end * 1_000))
}

/// The clients that are registered, of those that have a key; the configuration has some of them already.
fn list(out: &mut Outside, count: usize, kinds: &mut StdRng) -> Vec<Listed> {
    let mut clients = Vec::new();
    for (number, identity) in &out.identities {
        if kinds.random_bool(0.8) {
            let last = 2 + u8::try_from(*number).unwrap();
            let address = kinds.random_bool(0.5).then_some(Ipv4Addr::new(10, 8, 0, last));
            let (id, key) = (format!("resident-{number}"), identity.public);
            let sessions = kinds.random_range(1..=2);
            clients.push(Listed { id, key, address, sessions, is_disabled: false });
        }
    }
    let configured = &mut out.model.configured;
    configured.is_closed = clients.len() == count && kinds.random();
    for client in &clients {
        if kinds.random() {
            configured.listed.insert(client.id.clone(), client.clone());
        }
    }
    clients
}

impl Town {
    pub(crate) fn new(seed: u64) -> Self {
        let now = epoch();
        let mut rng = StdRng::seed_from_u64(seed);
        let keypair = Arc::new(Keypair::generate(&mut rng));
        let count = rng.random_range(1..=3);
        // Small enough that addresses come round, and large enough that nobody is kept out by them.
        let (prefix, grace) =
            if count == 1 || count == 2 && seed.is_multiple_of(4) { (29, 5..20) } else { (28, 10..45) };
        let rules = Rules {
            subnet: format!("10.8.0.0/{prefix}").parse().unwrap(),
            subnet6: None,
            max_clients: 1_000,
            grace: secs(&mut rng, grace),
            ticket_max_age: Duration::from_secs(24 * 3_600),
            limit: None,
        };
        let last = if prefix == 29 { 6 } else { 14 };
        let addresses = (2..=last).map(|last| Ipv4Addr::new(10, 8, 0, last)).collect();
        let mut out = Outside {
            now,
            start: now,
            wall: 0,
            wires: Default::default(),
            next_wire: 0,
            model: Model::new(addresses, rules.grace, rules.ticket_max_age.as_secs()),
            post: Post::default(),
            disk: None,
            book: None,
            server: Some(0),
            recorded: Vec::new(),
            identities: Default::default(),
            is_calm: false,
            is_told: std::env::var("SEED").is_ok(),
            tally: Default::default(),
            rng,
        };
        let limits = match out.rng.random_bool(0.4) {
            true => KeyLimits { frames: out.rng.random_range(60..600), ..KeyLimits::default() },
            false => KeyLimits { age: secs(&mut out.rng, 40..600), ..KeyLimits::default() },
        };
        let limits = if out.rng.random_bool(0.5) { limits } else { KeyLimits::default() };
        // A draw of its own, so that seeds tell the same stories whether or not there are such clients in them.
        let mut kinds = StdRng::seed_from_u64(!seed);
        let (mut residents, mut ways) = (Vec::new(), Vec::new());
        for number in 0..count {
            let [rekeys, has_key] = [seed.is_multiple_of(2) && kinds.random_bool(0.7), kinds.random()];
            if rekeys && has_key {
                out.identities.insert(number, Arc::new(Keypair::generate(&mut kinds)));
            }
            ways.push(rekeys);
        }
        let clients = list(&mut out, count, &mut kinds);
        let mut host = Host::new(&mut out, 0, Arc::clone(&keypair), rules.clone(), None);
        for client in &clients {
            if !out.model.book.listed.contains_key(&client.id) {
                assert!(host.add(&mut out, client));
            }
        }
        // A device with the key of another's now and then.
        if let Some((number, identity)) = out.identities.first_key_value()
            && kinds.random_bool(0.6)
        {
            let (number, identity) = (*number, Arc::clone(identity));
            out.identities.insert(count, identity);
            out.post.twins.insert(count, number);
            ways.push(ways[number]);
        }
        for (number, rekeys) in ways.into_iter().enumerate() {
            residents.push(Resident::new(&mut out, number, keypair.public, (limits, rekeys)));
        }
        residents[..count].iter_mut().for_each(|resident| resident.connect(&mut out));
        let (strangers, gone_at, starts_at) = (Vec::new(), None, None);
        let host = Some(host);
        Self { out, keypair, rules, host, clients, kinds, residents, strangers, gone_at, starts_at }
    }

    /// Lives through so many events, and then through the time in which all must be well again.
    pub(crate) fn run(&mut self, events: usize) {
        for _ in 0..events {
            let pause = match self.out.rng.random_range(0..10) {
                0 => secs(&mut self.out.rng, 0..60),
                1..4 => secs(&mut self.out.rng, 0..12),
                _ => secs(&mut self.out.rng, 0..1),
            };
            self.advance(self.out.now + pause);
            self.act();
            if !self.clients.is_empty() && self.kinds.random_bool(0.15) {
                self.operate();
            }
            self.send_twin();
            self.step();
            self.check();
        }
        self.recover();
    }

    fn act(&mut self) {
        let pick = self.out.rng.random_range(0..self.residents.len());
        match self.out.rng.random_range(0..100) {
            0..40 => self.traffic(20),
            40..50 => {
                let until = self.out.now + secs(&mut self.out.rng, 0..15);
                let side = Side::BOTH[self.out.rng.random_range(0..2)];
                if let Some(wire) = self.any_wire() {
                    self.out.wire(wire).stall(side, until);
                }
            }
            50..62 => {
                let how = Cut::draw(&mut self.out.rng);
                if let Some(wire) = self.any_wire() {
                    self.cut(wire, how);
                }
            }
            62..68 => {
                let is_gone = self.out.rng.random();
                if self.residents[pick].asleep_until.is_none() {
                    self.residents[pick].move_house(&mut self.out, is_gone);
                }
            }
            68..72 => {
                let time = secs(&mut self.out.rng, 1..200);
                self.residents[pick].sleep(&self.out, time);
            }
            72..77 => self.crash(),
            77..80 => self.stop(),
            80..83 => self.kick(),
            83..86 => {
                let jump = if self.out.rng.random_bool(0.5) { 30 } else { 5_000 };
                self.out.wall += self.out.rng.random_range(-jump..jump);
                let wall = self.out.wall;
                self.out.tell(|| format!("the wall clock is {wall} s ahead"));
            }
            86..93 => self.replay(),
            _ => match self.residents[pick].is_gone() {
                true => self.residents[pick].connect(&mut self.out),
                false if self.out.rng.random_bool(0.4) => self.residents[pick].leave(&mut self.out),
                false => {}
            },
        }
    }

    fn any_wire(&mut self) -> Option<u64> {
        let wires: Vec<u64> = self.out.wires.keys().copied().collect();
        (!wires.is_empty()).then(|| wires[self.out.rng.random_range(0..wires.len())])
    }

    fn cut(&mut self, wire: u64, how: Cut) {
        let now = self.out.now;
        self.out.tell(|| format!("{wire} is cut, {how:?}"));
        self.out.wires.get_mut(&wire).unwrap().cut(now, how, &mut self.out.rng);
    }

    /// Packets of everybody's, and to everybody.
    fn traffic(&mut self, most: usize) {
        for resident in &mut self.residents {
            for _ in 0..self.out.rng.random_range(1..=most) {
                resident.send(&mut self.out);
                let Some(host) = &self.host else { continue };
                let Some(hello) = &resident.hello else { continue };
                let Some(known) = self.out.model.sessions.get(&hello.client_id) else { continue };
                let (now, address) = (self.out.now, known.address);
                let to = (Side::Server, resident.number, address);
                let packet = self.out.post.write(now, to, &mut self.out.rng);
                host.route(now, address, &packet);
            }
        }
    }

    /// The device that shares a key comes, moves, or goes.
    fn send_twin(&mut self) {
        if self.out.post.twins.is_empty() || self.kinds.random_bool(0.8) {
            return;
        }
        let twin = self.residents.last_mut().expect("a twin");
        match twin.is_gone() {
            true => twin.connect(&mut self.out),
            false if self.kinds.random_bool(0.3) => twin.leave(&mut self.out),
            false if twin.asleep_until.is_none() => twin.move_house(&mut self.out, self.kinds.random()),
            false => {}
        }
    }

    /// The server is no more; what it had not written is lost, and maybe its disk.
    fn crash(&mut self) {
        let Some(host) = self.host.take() else { return };
        let how = if self.out.is_calm { Cut::AtOnce } else { Cut::draw(&mut self.out.rng) };
        for wire in self.out.wires.keys().copied().collect::<Vec<_>>() {
            if self.out.wires[&wire].process == host.process {
                self.cut(wire, how);
                self.out.wire(wire).vanish(Side::Server);
            }
        }
        self.out.server = None;
        self.gone_at = None;
        if !host.is_closing() && self.out.rng.random_bool(0.3) {
            self.out.disk = None;
            self.out.tally("a disk is lost");
        }
        if !self.clients.is_empty() && !host.is_closing() && self.kinds.random_bool(0.3) {
            self.out.book = None;
            self.out.tally("the word on clients is lost");
        }
        self.starts_at = Some(self.out.now + secs(&mut self.out.rng, 0..10));
        self.out.tally("a server ends");
    }

    fn stop(&mut self) {
        let Some(host) = &mut self.host else { return };
        if !host.is_closing() {
            host.stop(&mut self.out);
            self.gone_at = Some(self.out.now + Duration::from_secs(3));
        }
    }

    fn start(&mut self) {
        self.out.tell(|| "a server starts".into());
        self.starts_at = None;
        let process = u32::try_from(self.out.next_wire).unwrap() + 1;
        self.out.server = Some(process);
        let disk = self.out.disk.clone();
        let keypair = Arc::clone(&self.keypair);
        self.host = Some(Host::new(&mut self.out, process, keypair, self.rules.clone(), disk));
    }

    /// A client is kicked; it may never hear of it.
    fn kick(&mut self) {
        let Some(host) = &mut self.host else { return };
        let ids: Vec<String> = self.out.model.sessions.keys().cloned().collect();
        if host.is_closing() || ids.is_empty() {
            return;
        }
        let id = &ids[self.out.rng.random_range(0..ids.len())];
        if let Some(wire) = self.out.model.sessions[id].online
            && self.out.rng.random_bool(0.5)
        {
            let (now, how) = (self.out.now, Cut::draw(&mut self.out.rng));
            self.out.wires.get_mut(&wire).unwrap().cut(now, how, &mut self.out.rng);
        }
        host.kick(&mut self.out, id, DisconnectCode::Kicked);
    }

    /// Somebody sends a first message again that was recorded.
    fn replay(&mut self) {
        let (Some(process), false) = (self.out.server, self.out.recorded.is_empty()) else { return };
        let pick = self.out.rng.random_range(0..self.out.recorded.len());
        let message = self.out.recorded[pick].clone();
        let id = self.out.next_wire;
        self.out.next_wire += 1;
        let (now, until) = (self.out.now, self.out.now + secs(&mut self.out.rng, 1..15));
        let mut wire = Wire::new((id, None, STRANGER, process), now, None, &mut self.out.rng);
        wire.send(now, Side::Client, &message, &mut self.out.rng);
        self.out.wires.insert(id, wire);
        self.strangers.push((id, until));
    }

    /// The stranger tries to confirm what it cannot.
    fn serve_strangers(&mut self) {
        let now = self.out.now;
        for (id, until) in std::mem::take(&mut self.strangers) {
            let mut is_over = until <= now;
            for arrival in self.out.arrivals(id, Side::Server) {
                match arrival {
                    Arrival::Close => is_over = true,
                    Arrival::Message(_) => {
                        let forged = frame(FrameType::Keepalive, &[0; 48]);
                        if self.out.rng.random_bool(0.5) {
                            self.out.send_plain(id, Side::Client, &forged);
                        }
                    }
                }
            }
            match is_over {
                true => self.out.close(id, Side::Client),
                false => self.strangers.push((id, until)),
            }
        }
    }

    /// Lets everything happen that happens until then.
    fn advance(&mut self, until: Instant) {
        let mut steps = 0;
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.out.now = self.out.now.max(at);
            self.step();
            self.check();
            steps += 1;
            assert!(steps < 100_000, "the town does not come to rest");
        }
        self.out.now = until;
    }

    fn next_event(&self) -> Option<Instant> {
        let wires = self.out.wires.values().filter_map(|wire| {
            let resident = wire.resident.map(|number| &self.residents[number]);
            wire.next_event(resident.and_then(|resident| resident.asleep_until))
        });
        let residents = self.residents.iter().filter_map(Resident::next_event);
        let host = self.host.as_ref().and_then(Host::next_event);
        let strangers = self.strangers.iter().map(|(_, until)| *until);
        let server = [host, self.gone_at, self.starts_at].into_iter().flatten();
        wires.chain(residents).chain(strangers).chain(server).min()
    }

    fn step(&mut self) {
        let now = self.out.now;
        if self.gone_at.is_some_and(|at| at <= now) {
            self.crash();
        }
        if self.starts_at.is_some_and(|at| at <= now) {
            self.start();
        }
        for wire in self.out.wires.values_mut() {
            wire.wait(now, &mut self.out.rng);
        }
        if let Some(host) = &mut self.host {
            host.serve(&mut self.out);
        }
        self.residents.iter_mut().for_each(|resident| resident.serve(&mut self.out));
        self.serve_strangers();
        self.out.wires.retain(|_, wire| !wire.is_over());
    }

    fn check(&self) {
        if let Some(host) = &self.host {
            host.check(&self.out);
        }
        self.residents.iter().for_each(|resident| resident.check(&self.out));
    }

    /// Nothing goes wrong any more: everybody is back soon.
    fn recover(&mut self) {
        self.out.is_calm = true;
        self.out.tell(|| "calm".into());
        if self.host.as_ref().is_none_or(Host::is_closing) {
            self.crash();
            self.start();
        }
        self.out.wires.values_mut().for_each(Wire::calm);
        for (wire, _) in std::mem::take(&mut self.strangers) {
            self.out.close(wire, Side::Client);
        }
        for resident in &mut self.residents {
            resident.rouse(self.out.now);
        }
        self.pardon();
        let count = self.residents.len() - self.out.post.twins.len();
        self.residents[count..].iter_mut().for_each(|twin| twin.leave(&mut self.out));
        let end = self.out.now + RECOVERY;
        while self.out.now < end {
            // Who was kicked, and hears of it only now, is wanted back by its user.
            for resident in self.residents[..count].iter_mut().filter(|resident| resident.is_gone()) {
                resident.connect(&mut self.out);
            }
            self.traffic(1);
            self.step();
            self.advance(end.min(self.out.now + Duration::from_secs(1)));
        }
        for resident in &self.residents[..count] {
            let number = resident.number;
            assert!(resident.is_connected(), "client {number} is not back after {:?}", self.out.since());
            let id = &resident.hello.as_ref().unwrap().client_id;
            let is_there = resident.wires().into_iter().any(|wire| self.out.model.is_current(id, wire));
            assert!(is_there, "client {number} only believes that it is back");
        }
    }
}
