//! What a connection adds around a message on its way to the wire.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};
use tokio_rustls::TlsStream;

use super::Stream;
use super::frame::{EncodedHeader, Kind, MASK_LENGTH, NO_MASK, Role};
use super::tcp_info::TcpInfo;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// The option with its padding.
const TCP_TIMESTAMPS: usize = 12;

/// The longest payload of a TLS record (RFC 8446 §5.1).
const TLS_RECORD_MAX: usize = 16_384;
/// Type, version, length.
const TLS_HEADER: usize = 5;
/// Of every AEAD in use.
const TLS_TAG: usize = 16;
/// TLS 1.3 hides the type behind the payload (RFC 8446 §5.2).
const TLS13_TYPE: usize = 1;
/// TLS 1.2 sends half of an AES-GCM nonce with each record (RFC 5288 §3).
const TLS12_GCM_NONCE: usize = 8;

/// What the layers below the frames add to one WebSocket message that goes alone, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCost {
    /// The IP headers of its segments.
    pub ip: usize,
    /// The TCP headers of its segments, with the options that each of them has.
    pub tcp: usize,
    /// Its TLS records' headers and tags; 0 without TLS.
    pub tls: usize,
    /// Its WebSocket header without the mask.
    pub websocket: usize,
    /// The mask's key; 0 from a server.
    pub mask: usize,
}

/// A connection's path to the wire, to be asked from outside the task that owns the connection.
#[derive(Debug)]
pub struct Wire {
    /// A second descriptor of the socket, until the connection ends: [`WireGuard`].
    socket: Mutex<Option<OwnedFd>>,
    role: Role,
    ip: usize,
    /// For each record.
    tls: Option<usize>,
}

/// Lets go of the socket when the connection ends; a descriptor that is left would keep it open.
#[derive(Debug)]
#[must_use = "the connection is let go of when it is dropped"]
pub struct WireGuard(Arc<Wire>);

impl Drop for WireGuard {
    fn drop(&mut self) {
        *self.0.socket.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Wire {
    pub(super) fn of(stream: &Stream, role: Role) -> io::Result<(Arc<Self>, WireGuard)> {
        let (tcp, tls) = match stream {
            Stream::Plain(tcp) => (tcp, None),
            Stream::Tls(tls) => (tcp_under(tls), record_cost(tls)),
        };
        let ip = if tcp.peer_addr()?.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
        let socket = Mutex::new(Some(tcp.as_fd().try_clone_to_owned()?));
        let wire = Arc::new(Self { socket, role, ip, tls });
        Ok((Arc::clone(&wire), WireGuard(wire)))
    }

    /// What one message of `payload` bytes costs, if nothing else is sent with it; none once the
    /// connection has ended.
    pub fn message_cost(&self, payload: usize) -> Option<MessageCost> {
        let tcp = {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
            TcpInfo::read(socket.as_ref()?).ok()?
        };
        let key = (self.role == Role::Client).then_some(NO_MASK);
        let mask = key.map_or(0, |_| MASK_LENGTH);
        let websocket = EncodedHeader::new(Kind::Binary, payload, key).as_slice().len() - mask;
        let message = websocket + mask + payload;
        let tls = self.tls.map_or(0, |cost| cost * message.div_ceil(TLS_RECORD_MAX));
        let segments = (message + tls).div_ceil(tcp.send_mss as usize);
        let tcp_header = TCP_HEADER + if tcp.timestamps { TCP_TIMESTAMPS } else { 0 };
        Some(MessageCost { ip: self.ip * segments, tcp: tcp_header * segments, tls, websocket, mask })
    }
}

fn tcp_under(tls: &TlsStream<tokio::net::TcpStream>) -> &tokio::net::TcpStream {
    tls.get_ref().0
}

/// What one record costs; the handshake is over, so version and cipher are known.
fn record_cost(tls: &TlsStream<tokio::net::TcpStream>) -> Option<usize> {
    let state = tls.get_ref().1;
    Some(TLS_HEADER + TLS_TAG + extra(state.protocol_version()?, state.negotiated_cipher_suite()?))
}

fn extra(version: ProtocolVersion, suite: SupportedCipherSuite) -> usize {
    match (version, suite.suite()) {
        (ProtocolVersion::TLSv1_3, _) => TLS13_TYPE,
        (
            _,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ) => 0,
        _ => TLS12_GCM_NONCE,
    }
}
