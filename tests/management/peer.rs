//! A controller for tests, and what it talks to.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use smartvpn::management::{Bond, Controllers, Endpoint, Mode, serve};
use smartvpn::report::{Events, LogLevel};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf,
    duplex, split,
};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

/// Whatever is waited for comes far sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A client or server with controllers, without a process around it.
pub(crate) struct Engine {
    endpoint: Arc<Endpoint>,
    controllers: Arc<Controllers>,
    pub(crate) events: Events,
}

impl Engine {
    pub(crate) fn new(mode: Mode) -> Self {
        let controllers = Arc::new(Controllers::default());
        let events = Events::new(Arc::clone(&controllers) as _);
        let endpoint = Arc::new(Endpoint::new(mode, events.clone(), "/".into()));
        Self { endpoint, controllers, events }
    }

    /// A controller that has read its first line.
    pub(crate) async fn controller(&self) -> Peer<DuplexStream> {
        let mut peer = self.silent_controller();
        let ready = peer.message().await;
        assert_eq!(ready["event"], "ready");
        peer
    }

    /// A controller that has read nothing yet.
    pub(crate) fn silent_controller(&self) -> Peer<DuplexStream> {
        let (ours, theirs) = duplex(4096);
        let (input, output) = split(theirs);
        let (endpoint, controllers) = (Arc::clone(&self.endpoint), Arc::clone(&self.controllers));
        drop(tokio::spawn(serve(input, output, endpoint, controllers, Bond::Loose)));
        Peer::new(ours)
    }

    /// Tells every controller something.
    pub(crate) fn say(&self, message: impl Into<String>) {
        self.events.log(LogLevel::Info, "test", message);
    }
}

/// The other end of a controller's connection.
pub(crate) struct Peer<S> {
    reader: BufReader<ReadHalf<S>>,
    writer: WriteHalf<S>,
}

impl Peer<UnixStream> {
    pub(crate) async fn connect(path: &std::path::Path) -> Self {
        Self::new(UnixStream::connect(path).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite> Peer<S> {
    fn new(stream: S) -> Self {
        let (reader, writer) = split(stream);
        Self { reader: BufReader::new(reader), writer }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.writer.write_all(bytes.as_ref())).await.expect("it is read").unwrap();
    }

    /// Sends bytes for as long as they are taken; true if all were.
    pub(crate) async fn send_within(&mut self, bytes: &[u8], limit: Duration) -> bool {
        timeout(limit, self.writer.write_all(bytes)).await.is_ok()
    }

    /// Sends a request.
    pub(crate) async fn request(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let request = json!({ "id": id.into(), "method": method, "params": params });
        self.send(format!("{request}\n")).await;
    }

    /// Sends a request and returns its answer; events before it are passed over.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.request("call", method, params).await;
        loop {
            let message = self.message().await;
            if message["id"] == "call" {
                return message;
            }
        }
    }

    /// The next message; `null` at the end.
    pub(crate) async fn message(&mut self) -> Value {
        let mut line = String::new();
        timeout(PATIENCE, self.reader.read_line(&mut line)).await.expect("a line comes").unwrap();
        if line.is_empty() { Value::Null } else { serde_json::from_str(&line).unwrap() }
    }

    /// The next message that is not an event.
    pub(crate) async fn answer(&mut self) -> Value {
        loop {
            let message = self.message().await;
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    /// Sends no more.
    pub(crate) async fn finish(&mut self) {
        self.writer.shutdown().await.unwrap();
    }
}

/// What an answer must be that refuses: its id, its code and a word of its message.
#[track_caller]
pub(crate) fn assert_refused(answer: &Value, id: impl Into<Value>, code: &str, word: &str) {
    assert_eq!((&answer["id"], &answer["success"]), (&id.into(), &json!(false)), "{answer}");
    assert_eq!(answer["error"]["code"], code, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|message| message.contains(word)), "{answer}");
}

/// A server that never says a word, and a client's configuration for it.
pub(crate) async fn mute_server() -> (TcpListener, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    (
        listener,
        json!({ "serverUrl": url, "serverPublicKey": key, "connectTimeoutMs": 60_000, "stateDir": null }),
    )
}
