//! Joining a server by an invite: a key is made here and registered there (PROTOCOL §3).
//!
//! ```text
//! TLS ─► file with the key ─► handshake ─► confirmation ─► KeepaliveAck ─► Disconnect
//!          removed if ◄────────┘ refused       └─ lost: once more, with the same key
//! ```
//!
//! The server registers the key when the client has confirmed the handshake, and answers after that. So the key is on
//! the disk before the confirmation leaves, and an answer that is lost leaves open whether the key is registered: with
//! the same key it can be asked again, as a key that is registered needs no token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::GOODBYE;
use super::attempt::{Aim, Approach, Established, confirm, negotiate, reach};
use super::failure::Failure;
use super::marks::Marks;
use crate::codec::close::CloseCode;
use crate::codec::disconnect::DisconnectCode;
use crate::codec::hello::ClientHello;
use crate::config::{ClientConfig, Invite, already_there, save_to_new_file};
use crate::crypto::keys::Keypair;
use crate::engine::{End, Link, Order, Port};
use crate::error::{ErrorCode, VpnError};
use crate::packet::Record;
use crate::qos::{FlowHasher, PacketQueue};
use crate::session::{FEATURES, Hybrid, KeepaliveCap, KeyLimits, Setback};
use crate::telemetry::{Quality, Traffic};
use crate::transport::{ClientTls, PinnedCertificate, Proxy, Stream};

/// How long to wait before it is asked once more whether the key is registered: the server may be starting again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The server has this long to answer the Close of a connection that has failed.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// Makes a key, registers it with the server of `invite`, and returns the configuration to connect with: `serverUrl`,
/// `serverPublicKey`, `privateKey`, `name` if one is given, and `tlsCa` if the invite pins a certificate. No tunnel is
/// made, so it takes no privilege. It takes 15 s at most; `HTTPS_PROXY` and `NO_PROXY` are heeded.
///
/// With `file`, the configuration is there, readable by its owner only, before the server registers the key. It is
/// removed again if the server does not.
///
/// # Errors
///
/// `invalid-argument` for `name`; `file-error` if `file` is there already or can't be written; `unauthorized` if the
/// invite is not good any more; and what reaching the server can meet (API §8). Where the answer was lost, `file` stays
/// and the message says so.
pub async fn join(invite: &Invite, name: Option<&str>, file: Option<&Path>) -> Result<Value, VpnError> {
    let mut enrolment = Enrolment::new(invite, name, file)?;
    match Box::pin(enrolment.run()).await {
        Ok(()) => Ok(enrolment.settings),
        Err(error) => Err(enrolment.clear_up(error, invite)),
    }
}

struct Enrolment {
    config: Arc<ClientConfig>,
    tls: Option<ClientTls>,
    pinned: Option<PinnedCertificate>,
    proxy: Option<Proxy>,
    deadline: Instant,
    /// What is to be returned, and saved.
    settings: Value,
    file: Option<PathBuf>,
    is_saved: bool,
    /// A confirmation may have reached the server.
    is_unsure: bool,
}

/// Why one try came to nothing.
enum Setdown {
    /// The key is not registered, and another try would change nothing.
    Refused(VpnError),
    /// There was no way, or no answer.
    Failed(VpnError),
}

impl From<Failure> for Setdown {
    fn from(Failure { error, setback }: Failure) -> Self {
        if setback == Setback::Final { Self::Refused(error) } else { Self::Failed(error) }
    }
}

impl Enrolment {
    fn new(invite: &Invite, name: Option<&str>, file: Option<&Path>) -> Result<Self, VpnError> {
        if let Some(file) = file.filter(|file| file.exists()) {
            return Err(already_there(file));
        }
        let key = Keypair::generate(&mut rand::rng());
        let mut settings = json!({
            "serverUrl": invite.server().to_string(),
            "serverPublicKey": invite.server_key().to_string(),
            "privateKey": key.private.to_base64().as_str(),
        });
        if let Some(name) = name {
            settings["name"] = name.into();
        }
        let config = ClientConfig::parse(&settings, Path::new("/"))
            .map_err(|error| VpnError::new(ErrorCode::InvalidArgument, error.message))?;
        let config = ClientConfig { token: Some(invite.token().clone()), ..config };
        let (tls, pinned) = match (invite.server().tls, invite.pin()) {
            (false, _) => (None, None),
            (true, None) => (Some(config.client_tls()?), None),
            (true, Some(pin)) => {
                let pinned = ClientTls::pinned(pin);
                let (tls, seen) = pinned.map_err(|error| VpnError::new(error.code(), error.to_string()))?;
                (Some(tls), Some(seen))
            }
        };
        Ok(Self {
            proxy: config.proxy_in_force()?,
            deadline: Instant::now() + config.connect_timeout,
            config: Arc::new(config),
            tls,
            pinned,
            settings,
            file: file.map(Path::to_owned),
            is_saved: false,
            is_unsure: false,
        })
    }

    /// Tries until the key is registered, or it is certain that it is not, or the time is over.
    async fn run(&mut self) -> Result<(), VpnError> {
        loop {
            match Box::pin(self.try_once()).await {
                Ok(()) => return Ok(()),
                Err(Setdown::Refused(error)) => {
                    self.is_unsure = false;
                    return Err(error);
                }
                Err(Setdown::Failed(error)) => {
                    if !self.is_unsure || Instant::now() + ASK_AGAIN >= self.deadline {
                        return Err(error);
                    }
                }
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn try_once(&mut self) -> Result<(), Setdown> {
        let approach = self.approach();
        let dialed = reach(&approach).await?;
        self.save().await.map_err(Setdown::Refused)?;
        let agreed = negotiate(&approach, dialed).await?;
        self.is_unsure = true;
        let established = confirm(&approach, agreed).await?;
        Box::pin(await_registration(established, self.deadline)).await
    }

    fn approach(&self) -> Approach {
        let hello = ClientHello {
            features: FEATURES,
            mtu: Some(self.config.mtu),
            name: self.config.name.clone(),
            ..ClientHello::default()
        };
        Approach {
            config: Arc::clone(&self.config),
            tls: self.tls.clone(),
            proxy: self.proxy.clone(),
            known: Vec::new(),
            keepalive_cap: KeepaliveCap::default(),
            hello,
            hybrid: Hybrid::Offered,
            aim: Aim::First,
            deadline: self.deadline,
            key_limits: KeyLimits::default(),
        }
    }

    /// Completes the settings, and saves them unless that was done.
    async fn save(&mut self) -> Result<(), VpnError> {
        if let Some(pem) = self.pinned.as_ref().and_then(PinnedCertificate::pem) {
            self.settings["tlsCa"] = pem.into();
        }
        if self.is_saved {
            return Ok(());
        }
        if let Some(file) = self.file.clone() {
            let settings = self.settings.clone();
            let saved = tokio::task::spawn_blocking(move || save_to_new_file(&file, &settings)).await;
            saved.map_err(|error| VpnError::new(ErrorCode::Internal, error.to_string()))??;
            self.is_saved = true;
        }
        Ok(())
    }

    /// What the user is told; the file stays only if its key may be registered.
    fn clear_up(self, error: VpnError, invite: &Invite) -> VpnError {
        let saved = self.file.filter(|_| self.is_saved);
        if self.is_unsure {
            let next = match &saved {
                Some(file) => format!(
                    "{0} is kept. Connect with it; if that is `unauthorized`, remove it and join again",
                    file.display()
                ),
                None => "join again; if the invite is used up by then, ask for another".to_owned(),
            };
            let message = format!(
                "{}. Whether the server has registered the new key is not known: {next}",
                error.message.trim_end_matches('.')
            );
            return VpnError { message, ..error };
        }
        if let Some(file) = saved
            && let Err(failure) = std::fs::remove_file(&file)
        {
            tracing::warn!(%failure, file = %file.display(), "the file with a key that is registered nowhere stays");
        }
        explain(error, invite)
    }
}

/// What an error means for somebody who has nothing but an invite.
fn explain(error: VpnError, invite: &Invite) -> VpnError {
    match error.code {
        ErrorCode::Unauthorized | ErrorCode::Kicked | ErrorCode::Removed => VpnError::new(
            ErrorCode::Unauthorized,
            "the server does not take this invite: it is used up, has expired, or was withdrawn; ask the server's \
             operator for a new one",
        ),
        ErrorCode::ServerKeyMismatch => VpnError {
            message:
                "the server could not read the handshake: it most likely has another key than the one in the \
                      invite; ask its operator for a new invite"
                    .to_owned(),
            ..error
        },
        ErrorCode::TlsUntrusted if invite.pin().is_none() => {
            let message = format!(
                "{}. This invite relies on the authorities that this system trusts: add the server's to them, or ask \
                 its operator for the configuration instead",
                error.message
            );
            VpnError { message, ..error }
        }
        _ => error,
    }
}

/// Waits for the server's first answer, by which the key is registered, and leaves.
async fn await_registration(established: Established, deadline: Instant) -> Result<(), Setdown> {
    let Established { websocket, session, .. } = established;
    let marks = Arc::<Marks>::default();
    let traffic = Arc::<Traffic>::default();
    let queue = PacketQueue::new(Arc::clone(&traffic), FlowHasher::new(&mut rand::rng()));
    let (orders, inbox) = mpsc::channel(1);
    let doorstep = Doorstep(Arc::clone(&marks));
    let mut link: Link<Stream, _> = Link::new(websocket, session, doorstep, Arc::new(queue), traffic, inbox);
    match timeout_at(deadline, link.run_until(|| marks.confirmed.load(Ordering::Relaxed))).await {
        Ok(None) => {
            // The channel has room: this is its only order.
            let _queued = orders.try_send(Order { code: DisconnectCode::ClientDisconnect, message: "" });
            link.run().await;
            link.close(CloseCode::Normal.as_u16(), GOODBYE).await;
            Ok(())
        }
        Ok(Some(end)) => {
            link.end(&end, CLOSE_WAIT).await;
            Err(ended(end))
        }
        Err(_) => Err(Setdown::Failed(Failure::timeout("registration").error)),
    }
}

/// Only the server's own word is certain.
fn ended(end: End) -> Setdown {
    let is_told = matches!(end, End::Peer(_));
    match Setdown::from(Failure::from(end)) {
        Setdown::Refused(error) if !is_told => Setdown::Failed(error),
        setdown => setdown,
    }
}

/// Where packets would go in, if there were a tunnel.
struct Doorstep(Arc<Marks>);

impl Port for Doorstep {
    fn deliver(&mut self, _record: Record<'_>) {}

    fn round_trip(&mut self, _quality: &Quality) {
        self.0.confirmed.store(true, Ordering::Relaxed);
    }

    fn timed_out(&mut self, _quality: &Quality) {}
}
