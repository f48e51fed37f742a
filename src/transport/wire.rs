//! What a connection adds around a message on its way to the wire.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{CipherSuite, ProtocolVersion};

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
    layers: Layers,
}

/// What was settled when the connection was made.
#[derive(Clone, Copy, Debug)]
struct Layers {
    role: Role,
    /// The IP header's length.
    ip: usize,
    /// What each record adds, with TLS.
    tls_record: Option<usize>,
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
        let (tcp, tls_record) = match stream {
            Stream::Plain(tcp) => (tcp, None),
            Stream::Tls(tls) => (tls.io(), Some(record_cost(tls.protocol_version(), tls.cipher_suite()))),
        };
        let ip = if tcp.peer_addr()?.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
        let socket = Mutex::new(Some(tcp.as_fd().try_clone_to_owned()?));
        let wire = Arc::new(Self { socket, layers: Layers { role, ip, tls_record } });
        Ok((Arc::clone(&wire), WireGuard(wire)))
    }

    /// What one message of `payload` bytes costs, if nothing else is sent with it; none once the
    /// connection has ended.
    pub fn message_cost(&self, payload: usize) -> Option<MessageCost> {
        let tcp = {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
            TcpInfo::read(socket.as_ref()?).ok()?
        };
        Some(self.layers.message_cost(payload, tcp))
    }
}

impl Layers {
    fn message_cost(self, payload: usize, tcp: TcpInfo) -> MessageCost {
        let key = (self.role == Role::Client).then_some(NO_MASK);
        let mask = key.map_or(0, |_| MASK_LENGTH);
        let websocket = EncodedHeader::new(Kind::Binary, payload, key).as_slice().len() - mask;
        let message = websocket + mask + payload;
        let tls = self.tls_record.map_or(0, |cost| cost * message.div_ceil(TLS_RECORD_MAX));
        let segments = (message + tls).div_ceil(tcp.send_mss as usize);
        let tcp_header = TCP_HEADER + if tcp.timestamps { TCP_TIMESTAMPS } else { 0 };
        MessageCost { ip: self.ip * segments, tcp: tcp_header * segments, tls, websocket, mask }
    }
}

/// What one TLS record adds.
fn record_cost(version: ProtocolVersion, suite: CipherSuite) -> usize {
    let more = match (version, suite) {
        (ProtocolVersion::TLSv1_3, _) => TLS13_TYPE,
        // Of TLS 1.2, AES-GCM and ChaCha20-Poly1305 (RFC 7905 §2) are spoken.
        (
            _,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ) => 0,
        _ => TLS12_GCM_NONCE,
    };
    TLS_HEADER + TLS_TAG + more
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use rustls::crypto::{CryptoProvider, aws_lc_rs};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use std::time::Duration;

    use super::*;
    use crate::qos::PathSample;

    const FULL: TcpInfo = TcpInfo { timestamps: true, send_mss: 1448, path: PATH };
    const PATH: PathSample =
        PathSample { rtt: Duration::ZERO, min_rtt: Duration::ZERO, delivered: 0, in_flight: 0, not_sent: 0 };

    #[test]
    fn counts_every_header_of_a_message() {
        let client = Layers { role: Role::Client, ip: 20, tls_record: Some(22) };
        let cost = |ip, tcp, tls, websocket, mask| MessageCost { ip, tcp, tls, websocket, mask };
        // 4 + 4 + 1,418 + 22 bytes are just one segment.
        assert_eq!(client.message_cost(1418, FULL), cost(20, 32, 22, 4, 4));
        assert_eq!(client.message_cost(1419, FULL), cost(40, 64, 22, 4, 4));
        assert_eq!(client.message_cost(125, FULL), cost(20, 32, 22, 2, 4));
        let bare = TcpInfo { timestamps: false, send_mss: 1440, path: PATH };
        let server = Layers { role: Role::Server, ip: 40, tls_record: None };
        assert_eq!(server.message_cost(1436, bare), cost(40, 20, 0, 4, 0));
        // Over 64 KiB with its header: five records, ten bytes of header, 46 segments.
        assert_eq!(client.message_cost(65_580, FULL), cost(46 * 20, 46 * 32, 5 * 22, 10, 4));
    }

    #[test]
    fn knows_what_a_record_adds() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let mut tried = 0;
        for suite in aws_lc_rs::ALL_CIPHER_SUITES {
            let provider =
                Arc::new(CryptoProvider { cipher_suites: vec![*suite], ..aws_lc_rs::default_provider() });
            let versions = if suite.tls13().is_some() { [&TLS13] } else { [&TLS12] };
            let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
            let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&versions)
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
            let client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&versions)
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let mut server = ServerConnection::new(Arc::new(server)).unwrap();
            let mut client = ClientConnection::new(Arc::new(client), "vpn.test".try_into().unwrap()).unwrap();
            if !shake_hands(&mut client, &mut server) {
                // A suite for RSA certificates; its record is that of the one for ECDSA.
                continue;
            }
            let before = client.write_tls(&mut Vec::new()).unwrap();
            assert_eq!(before, 0);
            client.writer().write_all(&[7; 1400]).unwrap();
            let written = client.write_tls(&mut Vec::new()).unwrap();
            let version = client.protocol_version().unwrap();
            assert_eq!(written - 1400, record_cost(version, suite.suite()), "{:?}", suite.suite());
            tried += 1;
        }
        assert!(tried >= 6, "{tried} suites");
    }

    fn shake_hands(client: &mut ClientConnection, server: &mut ServerConnection) -> bool {
        for _ in 0..10 {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut flight.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets().unwrap();
            if !client.is_handshaking() && !server.is_handshaking() {
                return true;
            }
        }
        false
    }
}
