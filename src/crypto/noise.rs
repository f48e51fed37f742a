//! The Noise handshake (PROTOCOL §3): `Noise_NK_25519_ChaChaPoly_BLAKE2s`, and IK for clients with
//! a static key.
//!
//! The pattern itself runs in `snow`. What differs from snow's defaults is in [`Resolver`]:
//! ephemeral keys come from the caller's randomness, private keys are erased when dropped, and a
//! Diffie-Hellman output of zero fails like a bad tag. snow does not erase its chaining key and
//! hash state; they are freed with the handshake.
//!
//! ```text
//! NK:                          IK:
//!   <- s                         <- s
//!   ...                          ...
//!   -> e, es        message 1    -> e, es, s, ss
//!   <- e, ee        message 2    <- e, ee, se
//! ```

use std::fmt;
use std::sync::{Arc, Mutex};

use rand_core::CryptoRng;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec::close::CloseCode;
use crate::codec::frame::{FrameType, MAX_HANDSHAKE};
use crate::crypto::keys::{Keypair, PublicKey};
use crate::crypto::traffic::Handshake;
use crate::crypto::x25519;
use crate::error::ErrorCode;

/// The Noise pattern of a handshake; its number is the `pattern` byte of PROTOCOL §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pattern {
    /// The client knows the server's key and has none itself.
    Nk = 1,
    /// The client has a static key too.
    Ik = 3,
}

impl Pattern {
    /// The pattern of a client that has a static key, or none.
    pub const fn of_client(has_key: bool) -> Self {
        if has_key { Self::Ik } else { Self::Nk }
    }

    /// The pattern with this number.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Nk),
            3 => Some(Self::Ik),
            _ => None,
        }
    }

    const fn protocol_name(self) -> &'static str {
        match self {
            Self::Nk => "Noise_NK_25519_ChaChaPoly_BLAKE2s",
            Self::Ik => "Noise_IK_25519_ChaChaPoly_BLAKE2s",
        }
    }
}

/// `"smartvpn/1" || type || pattern`, where the type is that of the frame with message 1.
pub fn prologue(frame_type: FrameType, pattern: Pattern) -> [u8; 12] {
    let mut prologue = *b"smartvpn/1\0\0";
    prologue[10] = frame_type as u8;
    prologue[11] = pattern as u8;
    prologue
}

/// The prologue of a RekeyInit: the same and `h`, the hash of the handshake that made the keys in force, so that the
/// new ones belong to this session and to no other.
pub fn rekey_prologue(pattern: Pattern, h: &[u8; 32]) -> [u8; 44] {
    let mut whole = [0; 44];
    whole[..12].copy_from_slice(&prologue(FrameType::RekeyInit, pattern));
    whole[12..].copy_from_slice(h);
    whole
}

/// Starts a handshake at the client, which for [`Pattern::Ik`] has a key itself. Returns Noise message 1 with this
/// payload.
///
/// # Errors
///
/// [`NoiseError::Refused`] if the server's key is of low order, [`NoiseError::TooLong`] if the
/// message would not fit into a frame, [`NoiseError::MissingKey`] for [`Pattern::Ik`], which needs
/// a client key.
pub fn initiate(
    pattern: Pattern,
    frame_type: FrameType,
    client: Option<&Keypair>,
    server_key: &PublicKey,
    payload: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<(Initiated, Vec<u8>), NoiseError> {
    initiate_with(pattern, &prologue(frame_type, pattern), client, server_key, payload, rng)
}

/// [`initiate`] with any prologue.
///
/// # Errors
///
/// Those of [`initiate`].
pub fn initiate_with(
    pattern: Pattern,
    prologue: &[u8],
    client: Option<&Keypair>,
    server_key: &PublicKey,
    payload: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<(Initiated, Vec<u8>), NoiseError> {
    let ephemeral = Ephemeral::default();
    ephemeral.draw(rng);
    let mut builder = builder(pattern, prologue, &ephemeral)?.remote_public_key(server_key.as_bytes())?;
    if let Some(client) = client {
        builder = builder.local_private_key(client.private.expose())?;
    }
    let mut state = builder.build_initiator()?;
    let message = write(&mut state, payload)?;
    Ok((Initiated { state }, message))
}

/// A client that waits for message 2.
#[derive(Debug)]
pub struct Initiated {
    state: HandshakeState,
}

impl Initiated {
    /// Reads message 2. Returns its payload, erased when dropped, and the finished handshake.
    ///
    /// # Errors
    ///
    /// [`NoiseError::Refused`] if the message was not made by the holder of the server's key in
    /// answer to message 1.
    pub fn finish(mut self, message: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Handshake), NoiseError> {
        let payload = read(&mut self.state, message)?;
        Ok((payload, split(self.state)))
    }
}

/// Reads message 1 at the server. Returns its payload, erased when dropped.
///
/// # Errors
///
/// [`NoiseError::Refused`] if the message was not made for this server's key, this pattern and
/// this frame type.
pub fn respond(
    pattern: Pattern,
    frame_type: FrameType,
    server: &Keypair,
    message: &[u8],
) -> Result<(Responding, Zeroizing<Vec<u8>>), NoiseError> {
    respond_with(pattern, &prologue(frame_type, pattern), server, message)
}

/// [`respond`] with any prologue.
///
/// # Errors
///
/// Those of [`respond`].
pub fn respond_with(
    pattern: Pattern,
    prologue: &[u8],
    server: &Keypair,
    message: &[u8],
) -> Result<(Responding, Zeroizing<Vec<u8>>), NoiseError> {
    let peer_ephemeral = *message.first_chunk().ok_or(NoiseError::Refused)?;
    let ephemeral = Ephemeral::default();
    let mut state = builder(pattern, prologue, &ephemeral)?
        .local_private_key(server.private.expose())?
        .build_responder()?;
    let payload = read(&mut state, message)?;
    Ok((Responding { state, ephemeral, peer_ephemeral }, payload))
}

/// A server that has opened message 1 and decides on its answer.
#[derive(Debug)]
pub struct Responding {
    state: HandshakeState,
    ephemeral: Ephemeral,
    peer_ephemeral: [u8; x25519::LEN],
}

impl Responding {
    /// The client's ephemeral key, by which a repeated message 1 is known.
    pub const fn ephemeral(&self) -> &[u8; x25519::LEN] {
        &self.peer_ephemeral
    }

    /// The client's static key, with [`Pattern::Ik`].
    pub fn client_key(&self) -> Option<PublicKey> {
        self.state.get_remote_static()?.first_chunk().copied().map(PublicKey::from_bytes)
    }

    /// Writes message 2 with this payload; finishes the handshake.
    ///
    /// # Errors
    ///
    /// [`NoiseError::TooLong`] if the message would not fit into a frame.
    pub fn finish(
        mut self,
        payload: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(Vec<u8>, Handshake), NoiseError> {
        self.ephemeral.draw(rng);
        let message = write(&mut self.state, payload)?;
        Ok((message, split(self.state)))
    }
}

/// A handshake did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The peer's message is cut, forged, or made with other keys or a key of low order. Which of
    /// them is nobody's business.
    #[error("the handshake message does not open")]
    Refused,
    /// This end's message would not fit into a frame.
    #[error("the handshake message is longer than {MAX_HANDSHAKE} bytes")]
    TooLong,
    /// The pattern needs a static key of the client.
    #[error("the handshake needs a client key")]
    MissingKey,
    /// The state machine was misused, which is a fault of this crate.
    #[error("the handshake failed")]
    Internal,
}

impl NoiseError {
    /// How the connection ends.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::Refused => CloseCode::PolicyViolation,
            Self::TooLong | Self::MissingKey | Self::Internal => CloseCode::InternalError,
        }
    }

    /// What the user is told: at the client, whose server failed to prove that it has its key.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Refused => ErrorCode::ServerKeyMismatch,
            Self::TooLong | Self::MissingKey | Self::Internal => ErrorCode::Internal,
        }
    }
}

impl From<snow::Error> for NoiseError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt | snow::Error::Dh => Self::Refused,
            snow::Error::Prereq(_) => Self::MissingKey,
            // Input stands for a length: of the peer's message in `read`; `write` checks its own.
            snow::Error::Input => Self::Refused,
            _ => Self::Internal,
        }
    }
}

fn builder<'a>(
    pattern: Pattern,
    prologue: &'a [u8],
    ephemeral: &Ephemeral,
) -> Result<Builder<'a>, NoiseError> {
    let params = pattern.protocol_name().parse()?;
    let resolver = Resolver { ephemeral: ephemeral.clone() };
    Ok(Builder::with_resolver(params, Box::new(resolver)).prologue(prologue)?)
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, NoiseError> {
    // The most that a message adds: e, an encrypted s, and the payload's tag.
    const OVERHEAD: usize = 32 + (32 + 16) + 16;
    if payload.len() > MAX_HANDSHAKE {
        return Err(NoiseError::TooLong);
    }
    let mut message = vec![0; payload.len() + OVERHEAD];
    let length = state.write_message(payload, &mut message)?;
    message.truncate(length);
    if length <= MAX_HANDSHAKE { Ok(message) } else { Err(NoiseError::TooLong) }
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
    let mut payload = Zeroizing::new(vec![0; message.len()]);
    let length = state.read_message(message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

fn split(mut state: HandshakeState) -> Handshake {
    let (mut k1, mut k2) = state.dangerously_get_raw_split();
    let mut hash = [0; 32];
    hash.copy_from_slice(state.get_handshake_hash());
    let handshake = Handshake::from_parts(k1, k2, hash);
    k1.zeroize();
    k2.zeroize();
    handshake
}

/// The place for an ephemeral private key between the caller's `rng`, which snow cannot borrow,
/// and the moment at which snow asks for it. One key is drawn and used once.
#[derive(Clone, Default)]
struct Ephemeral(Arc<Mutex<Option<Zeroizing<[u8; x25519::LEN]>>>>);

impl Ephemeral {
    fn draw(&self, rng: &mut dyn CryptoRng) {
        let mut key = Zeroizing::new([0; x25519::LEN]);
        rng.fill_bytes(&mut *key);
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(key);
    }
}

impl Random for Ephemeral {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.lock().map_err(|_| snow::Error::Rng)?.take().ok_or(snow::Error::Rng)?;
        if dest.len() != key.len() {
            return Err(snow::Error::Rng);
        }
        dest.copy_from_slice(&*key);
        Ok(())
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// snow's ciphers and hashes with this crate's X25519 and the caller's randomness.
struct Resolver {
    ephemeral: Ephemeral,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(self.ephemeral.clone()))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<X25519>::default()),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A key pair inside snow.
#[derive(Default, ZeroizeOnDrop)]
struct X25519 {
    private: [u8; x25519::LEN],
    #[zeroize(skip)]
    public: [u8; x25519::LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        x25519::LEN
    }

    fn priv_len(&self) -> usize {
        x25519::LEN
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = x25519::public_key(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut self.private)?;
        self.public = x25519::public_key(&self.private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    /// snow hands over buffers of the longest key it knows; X25519 uses their head.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        let out = out.first_chunk_mut().ok_or(snow::Error::Dh)?;
        *out = *x25519::diffie_hellman(&self.private, public).ok_or(snow::Error::Dh)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: FrameType = FrameType::HandshakeInit;

    fn server() -> Keypair {
        Keypair::generate(&mut rand::rng())
    }

    fn start(server: &Keypair, payload: &[u8]) -> (Initiated, Vec<u8>) {
        initiate(Pattern::Nk, TYPE, None, &server.public, payload, &mut rand::rng()).unwrap()
    }

    #[test]
    fn both_ends_agree() {
        let server = server();
        let (client, message1) = start(&server, b"one");
        let (responding, payload) = respond(Pattern::Nk, TYPE, &server, &message1).unwrap();
        assert_eq!(payload.as_slice(), b"one");
        assert_eq!(responding.ephemeral()[..], message1[..32]);
        assert_eq!(responding.client_key(), None);
        let (message2, at_server) = responding.finish(b"two", &mut rand::rng()).unwrap();
        let (payload, at_client) = client.finish(&message2).unwrap();
        assert_eq!(payload.as_slice(), b"two");
        assert_eq!(at_client.expose(), at_server.expose());
        assert_eq!(at_client.hash, at_server.hash);
        assert_ne!(at_client.expose().0, at_client.expose().1);
        assert_eq!((message1.len(), message2.len()), (48 + 3, 48 + 3));
    }

    #[test]
    fn the_client_key_arrives_with_ik() {
        let (server, client) = (server(), server());
        let rng = &mut rand::rng();
        let ik = FrameType::HandshakeInitIk;
        let without = initiate(Pattern::Ik, ik, None, &server.public, b"", rng).map(|_| ());
        assert_eq!(without, Err(NoiseError::MissingKey));
        let (initiated, message1) =
            initiate(Pattern::Ik, ik, Some(&client), &server.public, b"one", rng).unwrap();
        let (responding, _) = respond(Pattern::Ik, ik, &server, &message1).unwrap();
        assert_eq!(responding.client_key(), Some(client.public));
        let (message2, at_server) = responding.finish(b"two", rng).unwrap();
        let (_, at_client) = initiated.finish(&message2).unwrap();
        assert_eq!(at_client.expose(), at_server.expose());
    }

    #[test]
    fn pattern_type_and_key_must_match() {
        let server = server();
        let (_, message1) = start(&server, b"one");
        let refused = |pattern, kind, keys: &Keypair| respond(pattern, kind, keys, &message1).map(|_| ());
        assert_eq!(refused(Pattern::Nk, TYPE, &server), Ok(()));
        let others = [
            refused(Pattern::Ik, TYPE, &server),
            refused(Pattern::Nk, FrameType::SessionResume, &server),
            refused(Pattern::Nk, TYPE, &self::server()),
        ];
        assert_eq!(others, [Err(NoiseError::Refused); 3]);
    }

    #[test]
    fn every_bit_of_message_1_counts() {
        let server = server();
        let (_, message1) = start(&server, b"one");
        for bit in 0..message1.len() * 8 {
            let mut flipped = message1.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let result = respond(Pattern::Nk, TYPE, &server, &flipped).map(|_| ());
            assert_eq!(result, Err(NoiseError::Refused), "bit {bit}");
        }
        for length in 0..message1.len() {
            let result = respond(Pattern::Nk, TYPE, &server, &message1[..length]).map(|_| ());
            assert_eq!(result, Err(NoiseError::Refused), "{length} bytes");
        }
    }

    #[test]
    fn every_bit_of_message_2_counts() {
        let server = server();
        let again = |change: &dyn Fn(&mut Vec<u8>)| {
            let (client, message1) = start(&server, b"one");
            let (responding, _) = respond(Pattern::Nk, TYPE, &server, &message1).unwrap();
            let (mut message2, _) = responding.finish(b"two", &mut rand::rng()).unwrap();
            change(&mut message2);
            client.finish(&message2).map(|_| ())
        };
        assert_eq!(again(&|_| ()), Ok(()));
        for bit in 0..(48 + 3) * 8 {
            let result = again(&|message| message[bit / 8] ^= 1 << (bit % 8));
            assert_eq!(result, Err(NoiseError::Refused), "bit {bit}");
        }
        for length in 0..48 + 3 {
            let result = again(&|message| message.truncate(length));
            assert_eq!(result, Err(NoiseError::Refused), "{length} bytes");
        }
        assert_eq!(again(&|message| message.push(0)), Err(NoiseError::Refused));
    }

    #[test]
    fn messages_fit_into_frames() {
        let server = server();
        let rng = &mut rand::rng();
        for (length, fits) in
            [(0, true), (8144, true), (8145, false), (8192, false), (8193, false), (1 << 20, false)]
        {
            let payload = vec![0; length];
            let first = initiate(Pattern::Nk, TYPE, None, &server.public, &payload, rng)
                .map(|(_, message)| message.len());
            let expected = if fits { Ok(length + 48) } else { Err(NoiseError::TooLong) };
            assert_eq!(first, expected);
            let (_, message1) = start(&server, b"");
            let (responding, _) = respond(Pattern::Nk, TYPE, &server, &message1).unwrap();
            let second = responding.finish(&payload, rng).map(|(message, _)| message.len());
            assert_eq!(second, expected);
        }
    }

    #[test]
    fn an_ephemeral_key_is_used_once() {
        let mut ephemeral = Ephemeral::default();
        let mut key = [0; 32];
        assert_eq!(ephemeral.try_fill_bytes(&mut key), Err(snow::Error::Rng));
        ephemeral.draw(&mut rand::rng());
        assert_eq!(ephemeral.try_fill_bytes(&mut key), Ok(()));
        assert_ne!(key, [0; 32]);
        assert_eq!(ephemeral.try_fill_bytes(&mut key), Err(snow::Error::Rng));
    }

    #[test]
    fn keys_inside_snow_are_erased() {
        const fn erased_on_drop<T: ZeroizeOnDrop>() {}
        erased_on_drop::<X25519>();
    }
}
