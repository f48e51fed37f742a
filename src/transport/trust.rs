//! Whom a client's TLS trusts where it is not the system that decides.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// None of the certificates that a server showed has the public key that was named.
#[derive(Debug, thiserror::Error)]
#[error("it has not the public key that the invite names")]
pub(super) struct NotPinned;

/// SHA-256 of a certificate's SubjectPublicKeyInfo; none if it is no certificate.
pub(super) fn spki_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let spki = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    digest(&SHA256, &spki).as_ref().try_into().ok()
}

/// Trusts some certificates and what they have signed.
///
/// A server's own certificate may be among them, whoever has signed it: that it is the one stands for the
/// signature; its names and its time are checked as ever.
#[derive(Debug)]
pub(super) struct Anchors {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Anchors {
    pub(super) fn new(
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error: VerifierBuilderError| Error::General(error.to_string()))?;
        Ok(Self { certificates, verifier })
    }
}

impl ServerCertVerifier for Anchors {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify =
            |others| self.verifier.verify_server_cert(end_entity, others, server_name, ocsp_response, now);
        if !self.certificates.iter().any(|certificate| certificate == end_entity) {
            return verify(intermediates);
        }
        match verify(&[]) {
            // The search for who has signed it comes last: its time and purpose are right.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Trusts the one certificate that a server shows whose public key has this hash, and what it has signed.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) pin: [u8; 32],
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) seen: PinnedCertificate,
}

/// The certificate with the public key that was named, once a server has shown it and proved to be the one.
#[derive(Clone, Debug, Default)]
pub struct PinnedCertificate(Arc<OnceLock<CertificateDer<'static>>>);

impl PinnedCertificate {
    /// As PEM text, for [`ClientTls::with_ca_pem`](super::ClientTls::with_ca_pem).
    pub fn pem(&self) -> Option<String> {
        self.0.get().map(pem)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchor = std::iter::once(end_entity)
            .chain(intermediates)
            .find(|certificate| spki_hash(certificate) == Some(self.pin))
            .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(NotPinned))))?
            .clone()
            .into_owned();
        let anchors = Anchors::new(vec![anchor.clone()], &self.provider)?;
        let verified =
            anchors.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.seen.0.get_or_init(|| anchor);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, others) = rest.split_at(rest.len().min(PEM_LINE));
        // Writing to a String does not fail.
        let _ = writeln!(pem, "{line}");
        rest = others;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
