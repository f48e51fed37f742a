//! TLS settings of both ends (PROTOCOL §1).

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, InconsistentKeys, ServerConfig};
use rustls_platform_verifier::{BuilderVerifierExt, Verifier};

use super::error::{PemFault, TlsConfigError};
use super::paced::PacedTcp;
use super::trust::{Anchors, Pinned, PinnedCertificate, spki_hash};
use super::{Stream, TlsStream};

/// How many sessions a client remembers, to skip the server's certificates when it reconnects.
const REMEMBERED_SESSIONS: usize = 4;

/// A listener's certificate and key, ready for use: TLS 1.3 only, ALPN `http/1.1`.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// The server's own certificate first.
    chain: Arc<[CertificateDer<'static>]>,
}

impl ServerTls {
    /// Takes a PEM certificate chain, the server's own first, and the private key to it.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsConfigError> {
        let chain = certificates(cert_pem).map_err(TlsConfigError::Certificate)?;
        let key = private_key(key_pem).map_err(TlsConfigError::Key)?;
        let shown = Arc::from(chain.as_slice());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsConfigError::Certificate(PemFault::Unusable(error)))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsConfigError::KeyMismatch,
                rustls::Error::InvalidCertificate(_) => {
                    TlsConfigError::Certificate(PemFault::Unusable(error))
                }
                error => TlsConfigError::Key(PemFault::Unusable(error)),
            })?;
        config.alpn_protocols = alpn();
        // A resumed TLS session would save a signature, the cheapest part of a hybrid handshake, and cost
        // memory for each client. Sessions are resumed above, where it brings their address back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config), chain: shown })
    }

    /// What a client that is to connect to `host` must be told to trust: SHA-256 of the SubjectPublicKeyInfo of the
    /// last certificate of the chain, which is the authority's if the chain has it, else the server's own. `None` where
    /// this system trusts the chain for `host`, as clients then do too: public authorities renew their keys.
    ///
    /// Reads the system's authorities, which takes some milliseconds.
    pub fn pin(&self, host: &str) -> Option<[u8; 32]> {
        if self.is_trusted_by_system(host) { None } else { self.chain.iter().rev().find_map(spki_hash) }
    }

    fn is_trusted_by_system(&self, host: &str) -> bool {
        let (Ok(verifier), Ok(name), [own, others @ ..]) =
            (Verifier::new(provider()), ServerName::try_from(host), &*self.chain)
        else {
            return false;
        };
        verifier.verify_server_cert(own, others, &name, &[], UnixTime::now()).is_ok()
    }

    pub(super) async fn accept(&self, tcp: PacedTcp) -> io::Result<Stream> {
        Ok(Stream::Tls(Box::new(TlsStream::accept(Arc::clone(&self.config), tcp).await?.frugal())))
    }
}

/// Whom a client trusts: TLS 1.2 (of a proxy) and 1.3, ALPN `http/1.1`, X25519MLKEM768 and AES-GCM
/// preferred. There is no way to trust everyone.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Trusts what the operating system trusts, as read now.
    pub fn system() -> Result<Self, TlsConfigError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(TlsConfigError::NoSystemRoots)?
            .with_no_client_auth();
        Ok(Self::new(config))
    }

    /// Trusts the certificates in `pem` and what they have signed, and nothing else. One of them may be the server's
    /// own.
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsConfigError> {
        let unusable = |error| TlsConfigError::Ca(PemFault::Unusable(error));
        let certificates = certificates(pem).map_err(TlsConfigError::Ca)?;
        let anchors = Anchors::new(certificates, &provider()).map_err(unusable)?;
        Self::with_verifier(Arc::new(anchors)).map_err(unusable)
    }

    /// Trusts the certificate that the server shows whose SubjectPublicKeyInfo has this SHA-256, and what it has
    /// signed, and nothing else. The certificate is told once the server has shown it.
    pub fn pinned(pin: [u8; 32]) -> Result<(Self, PinnedCertificate), TlsConfigError> {
        let seen = PinnedCertificate::default();
        let verifier = Pinned { pin, provider: provider(), seen: seen.clone() };
        let tls = Self::with_verifier(Arc::new(verifier))
            .map_err(|error| TlsConfigError::Ca(PemFault::Unusable(error)))?;
        Ok((tls, seen))
    }

    fn with_verifier(verifier: Arc<dyn ServerCertVerifier>) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self::new(config))
    }

    fn new(mut config: ClientConfig) -> Self {
        config.alpn_protocols = alpn();
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
        config.enable_secret_extraction = true;
        Self(Arc::new(config))
    }

    pub(super) async fn connect(&self, tcp: PacedTcp, server: ServerName<'static>) -> io::Result<Stream> {
        Ok(Stream::Tls(Box::new(TlsStream::connect(Arc::clone(&self.0), server, tcp).await?)))
    }
}

/// Key exchange that a later quantum computer does not undo comes first. AES-128 does a third less work
/// than AES-256, and what it protects here is sealed already; ChaCha20 is for those without AES hardware.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFault> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| malformed(&error))?;
    if chain.is_empty() { Err(PemFault::Missing("CERTIFICATE")) } else { Ok(chain) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemFault> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let encrypted = b"ENCRYPTED";
        match error {
            _ if pem.windows(encrypted.len()).any(|part| part == encrypted) => PemFault::Encrypted,
            pem::Error::NoItemsFound => PemFault::Missing("PRIVATE KEY"),
            error => malformed(&error),
        }
    })
}

/// In our words: the library's repeat the line at fault, which is a whole key where its line ends are lost.
fn malformed(error: &pem::Error) -> PemFault {
    PemFault::Malformed(match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no -----END line",
        pem::Error::IllegalSectionStart { .. } => {
            "a -----BEGIN line is not whole, or not alone in its line: are the line ends lost?"
        }
        pem::Error::Base64Decode(_) => "what stands between -----BEGIN and -----END is not base64",
        pem::Error::NoItemsFound => "it has no section that is known",
        _ => "it cannot be read",
    })
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, Connection, NamedGroup, ServerConnection};

    use super::*;

    /// Moves what `from` has to say to `to`.
    fn pass(from: &mut Connection, to: &mut Connection) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    #[test]
    fn our_two_ends_agree_on_a_key_exchange_that_a_quantum_computer_does_not_undo() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap();
        let server = ServerTls::from_pem(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes());
        let client = ClientTls::with_ca_pem(cert.pem().as_bytes()).unwrap();
        let name = "vpn.test".try_into().unwrap();
        let mut client: Connection = ClientConnection::new(client.0, name).unwrap().into();
        let mut server: Connection = ServerConnection::new(server.unwrap().config).unwrap().into();
        for _ in 0..2 {
            pass(&mut client, &mut server);
            pass(&mut server, &mut client);
        }
        for end in [client, server] {
            assert!(!end.is_handshaking());
            assert_eq!(end.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        }
    }
}
