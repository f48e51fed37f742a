//! Joining by an invite, with a server that has nothing but the handshake: what is sent, what is saved and when, and what
//! a user is told.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "there is no engine here to own tasks")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use smartvpn::client::join;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::hello::{Accepted, Features, RejectCode, Rejection};
use smartvpn::codec::secret::Token;
use smartvpn::config::{ClientConfig, Invite, load_from_file};
use smartvpn::crypto::keys::{Keypair, PublicKey};
use smartvpn::error::{ErrorCode, VpnError};
use smartvpn::session::{Event, Listening, Opened, ReplayCache};
use smartvpn::transport::{Endpoint, Listener, ServerTls, UpgradeOptions, upgrade};

const TOKEN: &str = "aW52aXRl";

/// What the server does with a client.
#[derive(Clone, Debug, PartialEq)]
enum Reaction {
    Register,
    Reject(RejectCode),
    /// It has gone before it says who it is.
    Vanish,
    /// It has read the confirmation, and has gone before it answers.
    Crash,
    Disconnect(DisconnectCode),
}

/// What the server has seen of a client.
#[derive(Debug, PartialEq)]
struct Seen {
    key: PublicKey,
    token: Option<Token>,
    name: Option<String>,
    /// The file that was there when it had confirmed.
    saved: Option<Value>,
    /// It has said goodbye.
    has_left: bool,
}

struct Site {
    invite: Invite,
    seen: Arc<Mutex<Vec<Seen>>>,
    folder: tempfile::TempDir,
}

impl Site {
    fn file(&self) -> PathBuf {
        self.folder.path().join("client.json")
    }

    async fn join(&self, name: Option<&str>) -> Result<Value, VpnError> {
        join(&self.invite, name, Some(&self.file())).await
    }

    fn is_tidy(&self) -> bool {
        std::fs::read_dir(self.folder.path()).unwrap().next().is_none()
    }
}

/// A server that takes as many connections as there are reactions.
async fn serve(tls: Option<ServerTls>, reactions: Vec<Reaction>) -> Site {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let keypair = Arc::new(Keypair::generate(&mut rand::rng()));
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let url = format!("{scheme}://127.0.0.1:{}/", listener.local_addr().port());
    let pin = tls.as_ref().and_then(|tls| tls.pin("127.0.0.1"));
    let token = Token::new(TOKEN.into()).unwrap();
    let invite = Invite::new(Endpoint::parse(&url).unwrap(), keypair.public, token, pin).unwrap();
    let site = Site { invite, seen: Arc::default(), folder: tempfile::tempdir().unwrap() };
    let (seen, file) = (Arc::clone(&site.seen), site.file());
    tokio::spawn(async move {
        for reaction in reactions {
            let (tcp, _) = listener.accept().await.unwrap();
            react(reaction, tcp, tls.as_ref(), &keypair, &seen, &file).await;
        }
    });
    site
}

async fn react(
    reaction: Reaction,
    tcp: tokio::net::TcpStream,
    tls: Option<&ServerTls>,
    keypair: &Arc<Keypair>,
    seen: &Mutex<Vec<Seen>>,
    file: &Path,
) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let Ok(upgraded) = upgrade(tcp, tls, &UpgradeOptions::default(), deadline).await else { return };
    let mut websocket = upgraded.websocket;
    let rng = || rand::rng();
    let message = websocket.recv().await.unwrap();
    let listening = Listening::new(Arc::clone(keypair));
    let mut replay = ReplayCache::new(Duration::from_secs(10));
    let opened = listening.handle_message(Instant::now(), &mut rng(), &mut replay, message).unwrap();
    let Opened::Request(request) = opened else { panic!("{opened:?}") };
    let hello = request.hello();
    let mut told = Seen {
        key: request.client_key().unwrap(),
        token: hello.token.clone(),
        name: hello.name.clone(),
        saved: None,
        has_left: false,
    };
    match reaction {
        Reaction::Vanish => return,
        Reaction::Reject(code) => {
            let rejection = Rejection { version: 1, code, message: String::new() };
            let (frame, _) = request.reject(rejection, &mut rng()).unwrap();
            websocket.send(&frame).await.unwrap();
            websocket.close(1008, "", Duration::from_secs(1)).await;
            return;
        }
        _ => {}
    }
    let (unconfirmed, frame) = request.accept(&accepted(), &mut rng()).unwrap();
    websocket.send(&frame).await.unwrap();
    let message = websocket.recv().await.unwrap();
    let mut session = unconfirmed.handle_message(Instant::now(), &mut rng(), message, |_| {}).unwrap();
    told.saved = load_from_file(file).ok();
    if reaction == Reaction::Crash {
        seen.lock().unwrap().push(told);
        return;
    }
    let mut out = Vec::new();
    if let Reaction::Disconnect(code) = reaction {
        session.disconnect(code, "");
    }
    while session.poll_transmit(&mut out).unwrap() {}
    websocket.send(&out).await.unwrap();
    while let Ok(message) = websocket.recv().await {
        if session.handle_message(Instant::now(), message, |_| {}).is_err() {
            break;
        }
        while let Some(event) = session.poll_event() {
            told.has_left |= matches!(event, Event::Disconnected(ref said) if said.code == DisconnectCode::ClientDisconnect);
        }
    }
    seen.lock().unwrap().push(told);
}

fn accepted() -> Accepted {
    Accepted {
        version: 1,
        features: Features::NONE,
        client_id: "c1".into(),
        assigned_ip: [10, 8, 0, 2].into(),
        prefix_length: 24,
        gateway: [10, 8, 0, 1].into(),
        v6: None,
        mtu: 1420,
        keepalive_interval_secs: 30,
        dns: Vec::new(),
        ticket: None,
        mlkem768: None,
    }
}

/// What the server has seen, once it has seen the last of it.
async fn seen(site: &Site) -> Vec<Seen> {
    for _ in 0..500 {
        if !site.seen.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::mem::take(&mut *site.seen.lock().unwrap())
}

fn key_of(config: &Value) -> PublicKey {
    let config = ClientConfig::parse(config, Path::new("/")).unwrap();
    config.identity.unwrap().public
}

#[tokio::test]
async fn a_key_is_registered_and_saved_before_the_server_hears_of_it() {
    let site = serve(None, vec![Reaction::Register]).await;
    let config = site.join(Some("laptop")).await.unwrap();
    let [told] = seen(&site).await.try_into().unwrap();
    assert_eq!(told.key, key_of(&config));
    assert_eq!((told.token.as_ref(), told.name.as_deref()), (Some(site.invite.token()), Some("laptop")));
    assert_eq!(told.saved.as_ref(), Some(&config), "the file is whole before the confirmation");
    assert!(told.has_left);
    assert_eq!(load_from_file(&site.file()).unwrap(), config);
    let fields: Vec<_> = config.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["serverUrl", "serverPublicKey", "privateKey", "name"], "and no token");
}

#[tokio::test]
async fn a_certificate_that_is_pinned_is_trusted_from_then_on() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let tls = ServerTls::from_pem(made.cert.pem().as_bytes(), key.as_bytes()).unwrap();
    let site = serve(Some(tls), vec![Reaction::Register]).await;
    let config = join(&site.invite, None, Some(&site.file())).await.unwrap();
    assert_eq!(config["tlsCa"], made.cert.pem().replace("\r\n", "\n"));
    let [told] = seen(&site).await.try_into().unwrap();
    assert_eq!(told.saved, Some(config));
}

#[tokio::test]
async fn without_a_file_the_configuration_is_only_told() {
    let site = serve(None, vec![Reaction::Register]).await;
    let config = join(&site.invite, None, None).await.unwrap();
    let [told] = seen(&site).await.try_into().unwrap();
    assert_eq!((told.key, told.saved), (key_of(&config), None));
    assert!(site.is_tidy());
}

#[tokio::test]
async fn a_refusal_leaves_no_file() {
    for (reaction, code, told) in [
        (Reaction::Reject(RejectCode::Unauthorized), ErrorCode::Unauthorized, "used up"),
        (Reaction::Reject(RejectCode::ServerFull), ErrorCode::ServerFull, "later"),
        (Reaction::Disconnect(DisconnectCode::Removed), ErrorCode::Unauthorized, "used up"),
        (Reaction::Vanish, ErrorCode::ConnectionLost, "cut"),
    ] {
        let site = serve(None, vec![reaction.clone()]).await;
        let error = site.join(None).await.unwrap_err();
        assert_eq!(error.code, code, "{reaction:?}: {error}");
        assert!(error.message.contains(told) && !error.message.contains(TOKEN), "{error}");
        assert!(!error.message.contains("is not known"), "{error}");
        assert!(site.is_tidy(), "{reaction:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_again_with_the_same_key() {
    let site = serve(None, vec![Reaction::Crash, Reaction::Vanish, Reaction::Register]).await;
    let config = site.join(None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let all = seen(&site).await;
    assert!(all.iter().all(|told| told.key == key_of(&config)), "{all:?}");
    assert_eq!(load_from_file(&site.file()).unwrap(), config);
}

#[tokio::test]
async fn a_server_that_has_not_registered_the_key_after_all_says_so() {
    let site = serve(None, vec![Reaction::Crash, Reaction::Reject(RejectCode::Unauthorized)]).await;
    let error = site.join(None).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unauthorized);
    assert!(site.is_tidy());
}

/// It takes as long as a connection may.
#[tokio::test]
async fn a_key_that_may_be_registered_is_kept() {
    let site = serve(None, vec![Reaction::Crash]).await;
    let error = site.join(None).await.unwrap_err();
    assert!(
        error.message.contains("is not known") && error.message.contains("client.json is kept"),
        "{error}"
    );
    let [told] = seen(&site).await.try_into().unwrap();
    assert_eq!(key_of(&load_from_file(&site.file()).unwrap()), told.key);
}

#[tokio::test]
async fn what_is_wrong_is_told_before_anybody_is_asked() {
    let site = serve(None, Vec::new()).await;
    let error = site.join(Some("a\nb")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    std::fs::write(site.file(), "mine").unwrap();
    let error = site.join(None).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::FileError);
    assert!(error.message.contains("is there already"), "{error}");
    assert_eq!(std::fs::read_to_string(site.file()).unwrap(), "mine");
    let missing = site.folder.path().join("missing/client.json");
    let site = serve(None, vec![Reaction::Register]).await;
    let error = join(&site.invite, None, Some(&missing)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::FileError, "{error}");
}
