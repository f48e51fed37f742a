//! One WebSocket connection over TCP or TLS, from either end (PROTOCOL §1).
//!
//! ```text
//! server  Listener::accept ─ [read_proxy_header] ─ upgrade ─┐
//!                                                           ├─ WebSocket<Stream>: whole binary messages
//! client  Endpoint ─ dial [through a Proxy] ────────────────┘  in both directions
//! ```
//!
//! Both ways end in the same [`WebSocket`]; what is in its messages is the session's business. Every
//! socket option, certificate and HTTP word of the crate is in this folder. Nothing a peer does or
//! leaves undone outlives the deadline it was given.

mod assembly;
mod connect;
mod descriptors;
mod dial;
mod dial_error;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hop;
mod http;
mod listener;
mod no_proxy;
mod paced;
mod progress;
mod proxy;
mod proxy_protocol;
mod retry_after;
mod socket;
mod stream;
mod tcp_info;
mod tls;
mod tls_stream;
mod trust;
mod upgrade;
mod url;
mod websocket;
mod wire;

pub use self::descriptors::{Descriptors, raise_descriptor_limit};
pub use self::dial::{DialOptions, Dialed, dial};
pub use self::dial_error::{DialError, DialPhase, ProxyFault, TlsFault};
pub use self::error::{
    BindError, EndpointError, PemFault, ProxyUrlError, TlsConfigError, UpgradeError, WebSocketError,
};
pub use self::listener::Listener;
pub use self::paced::Quantum;
pub use self::progress::Progress;
pub use self::proxy::Proxy;
pub use self::proxy_protocol::{HeaderFault, ProxyHeaderError, read_proxy_header};
pub use self::socket::CongestionControl;
pub use self::stream::Stream;
pub use self::tls::{ClientTls, ServerTls};
pub use self::tls_stream::TlsStream;
pub use self::trust::PinnedCertificate;
pub use self::upgrade::{UpgradeOptions, Upgraded, upgrade, upgrade_watched};
pub use self::url::Endpoint;
pub use self::websocket::{HANDSHAKE_MESSAGE_LIMIT, SESSION_MESSAGE_LIMIT, WebSocket};
pub use self::wire::{MessageCost, Wire, WireGuard};
