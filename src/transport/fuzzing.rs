//! Doors for `fuzz/`: what reads a peer's bytes, without the socket that they come from.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::dial::{self, Stranger};
use super::http::{Head, HeadError, begins_answer};
use super::proxy_protocol::{self, Parsed};
use super::upgrade::{begins_request, decide};
use super::{Endpoint, HeaderFault, Proxy, UpgradeOptions, proxy};

/// A connection after its HTTP.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// What the server answers; empty at a client.
    pub answer: String,
    /// What was read behind the head.
    pub leftover: Vec<u8>,
}

/// Why there is none; `None` where the stream ended or failed.
pub type Refused = Option<Refusal>;

/// What the other end, or the user, is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A server's whole answer, or a client's explanation.
    pub text: String,
    /// How long a server asks its client to stay away.
    pub retry_after: Option<Duration>,
}

/// What a server makes of a connection's first bytes.
pub async fn request(
    stream: &mut (impl AsyncRead + Unpin),
    options: &UpgradeOptions,
) -> Result<Opened, Refused> {
    let mut head = Head::default();
    head.read(stream, begins_request).await.map_err(refused)?;
    match decide(head.head(), options) {
        Ok(upgrade) => Ok(Opened { answer: upgrade.answer, leftover: head.leftover().to_vec() }),
        Err(answer) => Err(refusal(String::from_utf8_lossy(&answer.encode()), None)),
    }
}

/// What a client makes of the answer to an upgrade request with this key.
pub async fn answer(stream: &mut (impl AsyncRead + Unpin), key: &str) -> Result<Opened, Refused> {
    let mut head = Head::default();
    loop {
        head.read(stream, begins_answer).await.map_err(refused)?;
        match dial::judge(head.head(), &derive_accept_key(key.as_bytes())) {
            dial::Verdict::Upgraded => {
                return Ok(Opened { answer: String::new(), leftover: head.leftover().to_vec() });
            }
            dial::Verdict::Interim => head.next(),
            dial::Verdict::Proxy => return Err(refusal("407", None)),
            dial::Verdict::Stranger(Stranger { explanation, retry_after, .. }) => {
                return Err(refusal(explanation, retry_after));
            }
        }
    }
}

/// What a client makes of a proxy's answer to `CONNECT`.
pub async fn connect_answer(
    stream: &mut (impl AsyncRead + Unpin),
    proxy: &Proxy,
    endpoint: &Endpoint,
) -> Result<Opened, Refused> {
    let mut head = Head::default();
    loop {
        head.read(stream, begins_answer).await.map_err(refused)?;
        match proxy::judge(head.head(), proxy, endpoint) {
            proxy::Verdict::Open => {
                return Ok(Opened { answer: String::new(), leftover: head.leftover().to_vec() });
            }
            proxy::Verdict::Interim => head.next(),
            proxy::Verdict::Refused(fault) => return Err(refusal(format!("{fault:?}"), None)),
        }
    }
}

/// What a PROXY header at the beginning of `bytes` says, and its length; `None` while it may become one.
pub fn proxy_header(bytes: &[u8]) -> Option<Result<(Option<SocketAddr>, usize), HeaderFault>> {
    match proxy_protocol::parse(bytes) {
        Parsed::Incomplete => None,
        Parsed::Header { source, length } => Some(Ok((source, length))),
        Parsed::Malformed(fault) => Some(Err(fault)),
    }
}

fn refused(error: HeadError) -> Refused {
    match error {
        HeadError::TooLong => refusal("too long", None),
        HeadError::NotHttp => refusal("not HTTP", None),
        HeadError::Closed | HeadError::Io(_) => None,
    }
}

fn refusal(text: impl Into<String>, retry_after: Option<Duration>) -> Refused {
    Some(Refusal { text: text.into(), retry_after })
}
