//! The server's side of the handshake (PROTOCOL §3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::codec::close::CloseCode;
use crate::codec::disconnect::{Disconnect, DisconnectCode};
use crate::codec::frame::{FrameError, FrameSet, FrameType, header, split_frame};
use crate::codec::hello::{Accepted, ClientHello, Features, RejectCode, Rejection, ServerHello, VERSION};
use crate::crypto::kem::{self, KemError, SharedSecret};
use crate::crypto::keys::{Keypair, PublicKey};
use crate::crypto::noise::{self, NoiseError, Pattern, Responding};
use crate::crypto::seal::OpenError;
use crate::packet::Record;
use crate::session::error::SessionError;
use crate::session::rekey::FreshKeys;
use crate::session::replay::ReplayCache;
use crate::session::up::{Session, stamp};
use crate::session::{FEATURES, handshake_frame, nonce_prefix, states};

/// A connection that has not sent anything, or whose SessionResume was refused.
#[derive(Debug)]
pub struct Listening {
    keypair: Arc<Keypair>,
    /// The frames that may come.
    accepted: FrameSet,
}

/// What a first message asks for.
#[derive(Debug)]
pub enum Opened {
    /// To be let in.
    Request(Box<Request>),
    /// Nothing that can be granted. The client is told so under the handshake's protection.
    Refused {
        /// The frame to send.
        frame: Vec<u8>,
        /// What becomes of the connection behind it.
        then: AfterRefusal,
    },
}

/// What becomes of a connection whose client was told no.
#[derive(Debug)]
pub enum AfterRefusal {
    /// It is closed.
    Close(CloseCode),
    /// It stays: a client whose ticket was refused may send a first message without one, once (PROTOCOL §8).
    Listen(Listening),
}

/// A client whose hello is good and who waits for the answer. Anyone may have recorded and replayed
/// it: nothing is announced, evicted or spent before the confirmation.
#[derive(Debug)]
pub struct Request {
    responding: Responding,
    hello: ClientHello,
    /// The answer to the hello's ML-KEM key, and what it holds.
    kem: Option<(Vec<u8>, SharedSecret)>,
    kind: FrameType,
    pattern: Pattern,
    keypair: Arc<Keypair>,
}

/// The answer was sent; the client must confirm its keys.
#[derive(Debug)]
pub struct Unconfirmed {
    keys: FreshKeys,
    keypair: Arc<Keypair>,
    client_key: Option<PublicKey>,
    features: Features,
    keepalive_interval: Duration,
}

impl Listening {
    /// The state of a fresh connection to the server with this key pair.
    pub const fn new(keypair: Arc<Keypair>) -> Self {
        Self { keypair, accepted: states::LISTENING }
    }

    /// Takes the first WebSocket message.
    ///
    /// Bytes behind the first frame end the connection: they would be frames of the next state, and
    /// none of those can be sealed before message 2 is there. Message 2 is not sent then.
    ///
    /// # Errors
    ///
    /// The connection is closed with the error's code, unanswered.
    pub fn handle_message(
        self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        replay: &mut ReplayCache,
        message: &mut [u8],
    ) -> Result<Opened, SessionError> {
        let (frame, rest) = split_frame(message, self.accepted)?;
        let kind = frame.kind;
        let (pattern, message1) = match kind {
            FrameType::HandshakeInit => (Pattern::Nk, &*frame.payload),
            FrameType::HandshakeInitIk => (Pattern::Ik, &*frame.payload),
            FrameType::SessionResume => pattern_of(frame.payload)?,
            // Not in the state's set, so split_frame() has refused it.
            kind => return Err(FrameError::NotAllowed(kind).into()),
        };
        // Before the work of opening: the ephemeral key stands in clear at the head.
        if let Some(ephemeral) = message1.first_chunk()
            && replay.contains(now, ephemeral)
        {
            return Err(SessionError::Replayed);
        }
        let (responding, payload) = noise::respond(pattern, kind, &self.keypair, message1)?;
        replay.insert(now, *responding.ephemeral());
        let keypair = self.keypair;
        match read_hello(&payload).and_then(|hello| Ok((encapsulate(&hello)?, hello))) {
            Ok((kem, hello)) => {
                refuse_rest(rest)?;
                let request = Request { responding, hello, kem, kind, pattern, keypair };
                Ok(Opened::Request(Box::new(request)))
            }
            Err(rejection) => {
                let (frame, then) = reject(responding, kind, keypair, rejection, rng)?;
                Ok(Opened::Refused { frame, then })
            }
        }
    }

    /// A plain Disconnect, to be sent instead of anything else.
    pub fn disconnect(self, code: DisconnectCode, message: &str) -> Vec<u8> {
        let payload = Disconnect { code, message: message.to_owned() }.encode();
        let mut frame = header(FrameType::Disconnect, payload.len()).to_vec();
        frame.extend_from_slice(&payload);
        frame
    }
}

impl Request {
    /// What the client tells of itself.
    pub const fn hello(&self) -> &ClientHello {
        &self.hello
    }

    /// The handshake's pattern.
    pub const fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// The client's key, with [`Pattern::Ik`]. The client has it, unless the message is a recorded one: until the
    /// confirmation that is not known.
    pub fn client_key(&self) -> Option<PublicKey> {
        self.responding.client_key()
    }

    /// Whether the client wants a session taken up again: that of the ticket in its hello, if there is one.
    pub fn is_resume(&self) -> bool {
        self.kind == FrameType::SessionResume
    }

    /// Whether ML-KEM will protect the session's packets: the client has asked for it.
    pub const fn is_hybrid(&self) -> bool {
        self.kem.is_some()
    }

    /// The features that will be in force.
    pub const fn features(&self) -> Features {
        FEATURES.intersection(self.hello.features)
    }

    /// Lets the client in. Returns the frame to send. Version, features and ML-KEM are negotiated
    /// here: what `hello` says of them is replaced.
    ///
    /// # Errors
    ///
    /// [`SessionError::Handshake`] if the hello does not fit into a frame.
    pub fn accept(
        self,
        hello: &Accepted,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Unconfirmed, Vec<u8>), SessionError> {
        let keepalive_interval = Duration::from_secs(hello.keepalive_interval_secs.into());
        let (features, client_key) = (self.features(), self.client_key());
        let (mlkem768, secret) = self.kem.unzip();
        let hello = Accepted { version: VERSION, features, mlkem768, ..hello.clone() };
        let hello = ServerHello::Accepted(Box::new(hello));
        let (message2, handshake) = self.responding.finish(&hello.encode(), rng)?;
        let unconfirmed = Unconfirmed {
            keys: FreshKeys::of_server(&handshake, secret.as_ref(), nonce_prefix(rng)),
            keypair: self.keypair,
            client_key,
            features,
            keepalive_interval,
        };
        let kind = if self.kind == FrameType::SessionResume {
            FrameType::SessionResumeOk
        } else {
            FrameType::HandshakeResp
        };
        Ok((unconfirmed, handshake_frame(kind, &message2)))
    }

    /// Says no. Returns the frame to send and what becomes of the connection behind it.
    ///
    /// # Errors
    ///
    /// [`SessionError::Handshake`] if the rejection does not fit into a frame.
    pub fn reject(
        self,
        rejection: Rejection,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Vec<u8>, AfterRefusal), SessionError> {
        reject(self.responding, self.kind, self.keypair, rejection, rng)
    }
}

impl Unconfirmed {
    /// Takes the WebSocket message whose first frame confirms the keys. Returns the session, with
    /// the answer to that keepalive waiting.
    ///
    /// Frames behind the confirmation are the session's already: `sink` gets their packets, and a
    /// fault among them becomes the error of the session's first [`Session::poll_transmit`].
    ///
    /// # Errors
    ///
    /// The keys are not confirmed; the connection is closed with the error's code.
    pub fn handle_message(
        mut self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        message: &mut [u8],
        sink: impl FnMut(Record<'_>),
    ) -> Result<Session, SessionError> {
        let (frame, rest) = split_frame(message, states::UNCONFIRMED)?;
        let stamp = stamp(frame.kind, self.keys.opener.open(&frame.header, frame.payload)?)?;
        let Self { keys, keypair, client_key, features, keepalive_interval } = self;
        let static_keys = (keypair, client_key);
        let mut session = Session::server(now, keys, static_keys, features, keepalive_interval, stamp, rng);
        session.handle_rest(now, rest, sink);
        Ok(session)
    }

    /// A Disconnect, to be sent instead of anything else.
    ///
    /// # Errors
    ///
    /// [`SessionError::Seal`], which is a fault of this crate.
    pub fn disconnect(mut self, code: DisconnectCode, message: &str) -> Result<Vec<u8>, SessionError> {
        let payload = Disconnect { code, message: message.to_owned() }.encode();
        let mut frame = Vec::new();
        self.keys.sealer.seal(FrameType::Disconnect, &payload, &mut frame)?;
        Ok(frame)
    }
}

/// The hello, or the rejection it earns by itself.
fn read_hello(payload: &[u8]) -> Result<ClientHello, Rejection> {
    let rejection = |code, message: String| Rejection { version: VERSION, code, message };
    let hello = ClientHello::parse(payload)
        .map_err(|error| rejection(RejectCode::BadRequest, format!("the hello is not usable: {error}")))?;
    match hello.version {
        VERSION => Ok(hello),
        0 => Err(rejection(RejectCode::BadRequest, "versions begin with 1".to_owned())),
        version => {
            let message = format!("this server speaks version {VERSION}, not {version}");
            Err(rejection(RejectCode::UnsupportedVersion, message))
        }
    }
}

/// The answer to the hello's ML-KEM key, if it holds one, or the rejection that a key which is none earns.
fn encapsulate(hello: &ClientHello) -> Result<Option<(Vec<u8>, SharedSecret)>, Rejection> {
    let encapsulated = hello.mlkem768.as_deref().map(kem::encapsulate).transpose();
    encapsulated.map_err(|error: KemError| Rejection {
        version: VERSION,
        code: RejectCode::BadRequest,
        message: format!("the hello is not usable: {error}"),
    })
}

/// Judges what stands behind message 1 as the next state would.
fn refuse_rest(rest: &mut [u8]) -> Result<(), SessionError> {
    if rest.is_empty() {
        return Ok(());
    }
    split_frame(rest, states::UNCONFIRMED)?;
    Err(OpenError::Forged.into())
}

/// The pattern byte of a SessionResume, and Noise message 1 behind it.
fn pattern_of(payload: &[u8]) -> Result<(Pattern, &[u8]), SessionError> {
    // A handshake of a pattern that there is not fails like one that does not open.
    let (byte, message1) = payload.split_first().ok_or(NoiseError::Refused)?;
    Ok((Pattern::from_byte(*byte).ok_or(NoiseError::Refused)?, message1))
}

fn reject(
    responding: Responding,
    kind: FrameType,
    keypair: Arc<Keypair>,
    rejection: Rejection,
    rng: &mut dyn CryptoRng,
) -> Result<(Vec<u8>, AfterRefusal), SessionError> {
    let is_resume = kind == FrameType::SessionResume;
    let then = match (is_resume, &rejection.code) {
        (true, RejectCode::TicketExpired | RejectCode::TicketInvalid | RejectCode::BadRequest) => {
            AfterRefusal::Listen(Listening { keypair, accepted: states::RESUME_REFUSED })
        }
        // Codes that leave the connection open belong to a resume.
        (_, code) => AfterRefusal::Close(code.close_code().unwrap_or(CloseCode::PolicyViolation)),
    };
    let answer = if is_resume { FrameType::SessionResumeErr } else { FrameType::HandshakeResp };
    let (message2, _) = responding.finish(&ServerHello::Rejected(rejection).encode(), rng)?;
    Ok((handshake_frame(answer, &message2), then))
}
