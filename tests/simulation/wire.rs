//! One connection of the town: a stream in each direction that splits, merges, stalls and is cut.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::ends::Side;
use crate::oracle::{HEADER, counter, frames};

/// What the kernels and the way between them take of a direction before its sender has to wait.
const CAPACITY: usize = 64 * 1024;

/// How the ends hear that a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both at once.
    AtOnce,
    /// Each by a reset that answers what it sends next.
    WhenUsed,
    /// Not at all: what is sent vanishes.
    Never,
}

impl Cut {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        [Self::AtOnce, Self::WhenUsed, Self::Never][rng.random_range(0..3)]
    }
}

/// What comes out of a stream.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Vec<u8>),
    Close,
}

#[derive(Debug)]
enum Chunk {
    Bytes(Vec<u8>),
    Close,
}

#[derive(Debug, Default)]
pub(crate) struct Pipe {
    chunks: VecDeque<(Instant, Chunk)>,
    /// What came of a message that is not whole.
    partial: Vec<u8>,
    stalled_until: Option<Instant>,
    /// Its sender has closed, or is gone.
    ended: bool,
    /// Numbers of the packets that were sealed into it and did not come out.
    pub(crate) sealed: VecDeque<u64>,
    /// By its sender's clock: when the keepalives were sent that were not taken yet; of those that were taken, and
    /// are to be answered by the other end; of those whose answers are under way the other way.
    pub(crate) asked: VecDeque<Instant>,
    pub(crate) taken: VecDeque<Instant>,
    pub(crate) answered: VecDeque<Instant>,
    pub(crate) nonces: Nonces,
}

/// The nonces of one direction.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    /// Of the key in force.
    pub(crate) prefix: Option<[u8; 16]>,
    /// How many were used under it.
    pub(crate) used: u64,
    /// The next frame is the first under another key.
    pub(crate) switches: bool,
}

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) id: u64,
    /// Who dialed; none for somebody who only has recordings.
    pub(crate) resident: Option<usize>,
    pub(crate) source: IpAddr,
    /// The server's process that has it.
    pub(crate) process: u32,
    pub(crate) opened: Instant,
    /// `pipes[side]` carries what `side` sends.
    pub(crate) pipes: [Pipe; 2],
    latency: Duration,
    /// The silence that the way bears.
    patience: Option<(Duration, Cut)>,
    passed: Instant,
    cut: Option<Cut>,
}

impl Wire {
    pub(crate) fn new(
        (id, resident, source, process): (u64, Option<usize>, IpAddr, u32),
        now: Instant,
        patience: Option<(Duration, Cut)>,
        rng: &mut StdRng,
    ) -> Self {
        let latency = Duration::from_micros(rng.random_range(200..200_000));
        let pipes = Default::default();
        Self { id, resident, source, process, opened: now, pipes, latency, patience, passed: now, cut: None }
    }

    pub(crate) fn pipe(&mut self, from: Side) -> &mut Pipe {
        &mut self.pipes[from as usize]
    }

    /// Writes a message, or what there is of it when the way is gone.
    pub(crate) fn send(&mut self, now: Instant, from: Side, message: &[u8], rng: &mut StdRng) {
        self.lose_patience(now);
        match self.cut {
            _ if self.pipes[from as usize].ended => {}
            None => {
                self.passed = self.passed.max(now);
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                let mut bytes = [&length, message].concat();
                while bytes.len() > 1 && rng.random_bool(0.2) {
                    let rest = bytes.split_off(rng.random_range(1..bytes.len()));
                    self.push(now, from, Chunk::Bytes(bytes), rng);
                    bytes = rest;
                }
                self.push(now, from, Chunk::Bytes(bytes), rng);
            }
            Some(Cut::AtOnce | Cut::WhenUsed) => self.push(now, from.other(), Chunk::Close, rng),
            Some(Cut::Never) => {}
        }
    }

    /// Closes behind what was sent.
    pub(crate) fn close(&mut self, now: Instant, from: Side, rng: &mut StdRng) {
        if self.cut.is_none() && !self.pipes[from as usize].ended {
            self.push(now, from, Chunk::Close, rng);
        }
        self.pipes[from as usize].ended = true;
    }

    /// The sender is gone without a word; what it has sent still arrives.
    pub(crate) fn vanish(&mut self, from: Side) {
        self.pipes[from as usize].ended = true;
    }

    /// Everything under way is lost.
    pub(crate) fn cut(&mut self, now: Instant, how: Cut, rng: &mut StdRng) {
        if self.cut.is_some() {
            return;
        }
        self.cut = Some(how);
        for side in Side::BOTH {
            let pipe = self.pipe(side);
            pipe.chunks.clear();
            pipe.partial.clear();
            pipe.stalled_until = None;
            if how == Cut::AtOnce {
                self.push(now, side, Chunk::Close, rng);
            }
        }
    }

    pub(crate) fn stall(&mut self, from: Side, until: Instant) {
        let pipe = self.pipe(from);
        pipe.stalled_until = pipe.stalled_until.max(Some(until));
    }

    /// The way is patient and quick from now on.
    pub(crate) fn calm(&mut self) {
        self.patience = None;
        for pipe in &mut self.pipes {
            pipe.stalled_until = None;
        }
    }

    /// Whether `from` can write.
    pub(crate) fn is_writable(&self, from: Side) -> bool {
        let length = |(_, chunk): &(Instant, Chunk)| match chunk {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::Close => 0,
        };
        self.pipes[from as usize].chunks.iter().map(length).sum::<usize>() < CAPACITY
    }

    pub(crate) fn is_closed_by(&self, side: Side) -> bool {
        self.pipes[side as usize].ended
    }

    /// Nothing will come out of it any more, and nobody listens.
    pub(crate) fn is_over(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.ended)
    }

    fn push(&mut self, now: Instant, from: Side, chunk: Chunk, rng: &mut StdRng) {
        let at = now + self.latency + Duration::from_micros(rng.random_range(0..20_000));
        let pipe = &mut self.pipes[from as usize];
        let earliest = pipe.chunks.back().map_or(at, |(earliest, _)| *earliest);
        pipe.chunks.push_back((at.max(earliest), chunk));
    }

    /// Cuts a connection that was silent for too long.
    fn lose_patience(&mut self, now: Instant) {
        if let Some((patience, how)) = self.patience
            && self.cut.is_none()
            && now >= self.passed + patience
        {
            self.cut = Some(how);
        }
    }

    /// When something happens by itself, at a client that sleeps until then.
    pub(crate) fn next_event(&self, asleep_until: Option<Instant>) -> Option<Instant> {
        let down = self.arrival(Side::Server).map(|at| asleep_until.map_or(at, |until| until.max(at)));
        let arrivals = down.into_iter().chain(self.arrival(Side::Client));
        let silence = self
            .patience
            .filter(|(_, how)| *how == Cut::AtOnce && self.cut.is_none())
            .map(|(patience, _)| self.passed + patience);
        arrivals.chain(silence).min()
    }

    fn arrival(&self, from: Side) -> Option<Instant> {
        if self.pipes[from.other() as usize].ended {
            // Nobody is there.
            return None;
        }
        let pipe = &self.pipes[from as usize];
        pipe.chunks.front().map(|(at, _)| pipe.stalled_until.map_or(*at, |until| until.max(*at)))
    }

    /// Lets a way that loses patience do so.
    pub(crate) fn wait(&mut self, now: Instant, rng: &mut StdRng) {
        if let Some((patience, Cut::AtOnce)) = self.patience
            && self.cut.is_none()
            && now >= self.passed + patience
        {
            self.cut(now, Cut::AtOnce, rng);
        }
    }

    /// What comes out at the other end of `from` now: whatever is due is there at once.
    pub(crate) fn arrivals(&mut self, now: Instant, from: Side) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        while self.arrival(from).is_some_and(|at| at <= now) {
            let pipe = self.pipe(from);
            match pipe.chunks.pop_front() {
                Some((_, Chunk::Bytes(bytes))) => pipe.partial.extend(bytes),
                Some((_, Chunk::Close)) => arrivals.push(Arrival::Close),
                None => {}
            }
            while let Some((length, rest)) = pipe.partial.split_first_chunk::<4>()
                && let Some((message, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)
            {
                arrivals.push(Arrival::Message(message.to_vec()));
                pipe.partial = rest.to_vec();
            }
        }
        arrivals
    }

    /// Notes the keepalives, and the answers to them, that `from` sends at `now` by its clock.
    pub(crate) fn note_sent(&mut self, now: Instant, from: Side, message: &[u8]) {
        for frame in frames(message) {
            match frame[0] {
                0x20 => self.pipe(from).asked.push_back(now),
                0x21 => {
                    let asked = self.pipe(from.other()).taken.pop_front();
                    self.pipe(from.other()).answered.push_back(asked.expect("an answer to nothing"));
                }
                _ => {}
            }
        }
    }

    /// Notes those that reach the other end of `from`; returns when its own keepalives were sent that are answered.
    pub(crate) fn note_taken(&mut self, from: Side, message: &[u8]) -> Vec<Instant> {
        let mut answered = Vec::new();
        for frame in frames(message) {
            match frame[0] {
                0x20 => {
                    let asked = self.pipe(from).asked.pop_front().expect("a keepalive that was not sent");
                    self.pipe(from).taken.push_back(asked);
                }
                0x21 => answered.extend(self.pipe(from.other()).answered.pop_front()),
                0x41 => self.pipe(from.other()).nonces.switches = true,
                _ => {}
            }
        }
        answered
    }
}

/// The nonces of a message's sealed frames: type, prefix and counter.
pub(crate) fn nonces(message: &[u8]) -> impl Iterator<Item = (u8, [u8; 16], u64)> {
    let sealed = frames(message).into_iter().filter(|frame| matches!(frame[0], 0x10..=0x2f | 0x3f..=0x41));
    sealed.map(|frame| (frame[0], *frame[HEADER..].first_chunk().unwrap(), counter(frame)))
}
