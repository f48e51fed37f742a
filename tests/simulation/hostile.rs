//! Somebody between the two ends, who sees and changes everything but has no key.

use rand::RngExt as _;
use rand::rngs::StdRng;
use smartvpn::codec::disconnect::{Disconnect, DisconnectCode};

use crate::oracle::{HEADER, frames};

/// What is left of one message: none, one or more messages.
pub(crate) type Tampered = Vec<Vec<u8>>;

/// What the middle has seen and may use again: some frames of either direction.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<Vec<u8>>);

impl Memory {
    const FRAMES: usize = 64;

    pub(crate) fn see(&mut self, message: &[u8], rng: &mut StdRng) {
        for frame in frames(message) {
            if self.0.len() < Self::FRAMES {
                self.0.push(frame.to_vec());
            } else {
                let place = rng.random_range(0..Self::FRAMES);
                self.0[place] = frame.to_vec();
            }
        }
    }

    fn recall(&self, rng: &mut StdRng) -> Vec<u8> {
        self.0[rng.random_range(0..self.0.len())].clone()
    }
}

/// Changes a genuine message. The change may come out as none, for instance when two equal things
/// are swapped; the oracle sees what it came to.
pub(crate) fn tamper(message: &[u8], memory: &Memory, rng: &mut StdRng) -> Tampered {
    let mut parts: Vec<Vec<u8>> = frames(message).into_iter().map(<[u8]>::to_vec).collect();
    let pick = rng.random_range(0..parts.len());
    match rng.random_range(0..16) {
        // Any bit, headers more often than their share.
        0 | 1 => flip(&mut parts[pick], rng),
        2 => {
            let bit = rng.random_range(0..HEADER * 8);
            parts[pick][bit / 8] ^= 1 << (bit % 8);
        }
        3 => parts[pick][0] = rng.random(),
        4 => drop(parts.remove(pick)),
        5 => parts.insert(pick, parts[pick].clone()),
        6 => {
            let other = rng.random_range(0..parts.len());
            parts.swap(pick, other);
        }
        7 => parts.insert(rng.random_range(0..=parts.len()), memory.recall(rng)),
        8 => parts[pick] = memory.recall(rng),
        9 => {
            let cut = rng.random_range(0..message.len());
            return vec![message[..cut].to_vec()];
        }
        10 => parts.push((0..rng.random_range(1..80)).map(|_| rng.random()).collect()),
        11 => parts.insert(rng.random_range(0..=parts.len()), forged(rng)),
        12 => parts.insert(rng.random_range(0..=parts.len()), plain_disconnect()),
        13 => return Vec::new(),
        14 => return vec![message.to_vec(); 2],
        _ => return vec![Vec::new(), message.to_vec()],
    }
    match parts.is_empty() {
        true => Vec::new(),
        false => vec![parts.concat()],
    }
}

fn flip(frame: &mut [u8], rng: &mut StdRng) {
    let bit = rng.random_range(0..frame.len() * 8);
    frame[bit / 8] ^= 1 << (bit % 8);
}

/// A frame with a header that may be good and a payload that cannot be.
fn forged(rng: &mut StdRng) -> Vec<u8> {
    let kinds = [0x01, 0x02, 0x03, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x32, 0x40, 0x41, rng.random()];
    let kind = kinds[rng.random_range(0..kinds.len())];
    let length: u32 = match rng.random_range(0..4) {
        0 => rng.random_range(0..200),
        1 => 48,
        2 => rng.random_range(40..2_000),
        _ => 100,
    };
    let mut frame = vec![kind];
    frame.extend(length.to_be_bytes());
    frame.extend((0..length).map(|_| rng.random::<u8>()));
    frame
}

/// The one frame that can be forged before there are keys.
pub(crate) fn plain_disconnect() -> Vec<u8> {
    let payload = Disconnect { code: DisconnectCode::Kicked, message: "forged".into() }.encode();
    let mut frame = vec![0x3f];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}
