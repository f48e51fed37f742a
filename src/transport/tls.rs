//! TLS settings of both ends.

use std::sync::Arc;

use super::TlsConfigError;

/// A listener's certificate and key: TLS 1.3 only, ALPN `http/1.1`.
#[derive(Clone, Debug)]
pub struct ServerTls(#[expect(dead_code, reason = "signature only")] Arc<rustls::ServerConfig>);

impl ServerTls {
    /// Takes a PEM certificate chain, the server's own first, and its PEM private key.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsConfigError> {
        let _ = (cert_pem, key_pem);
        unimplemented!()
    }
}

/// Whom a client trusts: TLS 1.2 and 1.3, ALPN `http/1.1`, X25519MLKEM768 preferred.
#[derive(Clone, Debug)]
pub struct ClientTls(#[expect(dead_code, reason = "signature only")] Arc<rustls::ClientConfig>);

impl ClientTls {
    /// Trusts what the operating system trusts.
    pub fn system() -> Result<Self, TlsConfigError> {
        unimplemented!()
    }

    /// Trusts the certificates in `pem` and nothing else.
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsConfigError> {
        let _ = pem;
        unimplemented!()
    }
}
