//! A configuration's certificates and keys, made ready for use.

use std::error::Error as _;

use super::client::ClientConfig;
use super::server::{ServerConfig, TlsPem};
use super::values::{PemSource, load_pem, load_pem_key};
use crate::error::VpnError;
use crate::transport::{ClientTls, ServerTls, TlsConfigError};

impl ClientConfig {
    /// Whom the client trusts: `tlsCa`, which is read now if it is a file, or the system's
    /// authorities.
    ///
    /// # Errors
    ///
    /// `file-error` if the file can't be read, `invalid-config` if it holds no certificate,
    /// `tls-untrusted` if the system trusts nobody.
    pub fn client_tls(&self) -> Result<ClientTls, VpnError> {
        let tls = match &self.tls_ca {
            Some(ca) => ClientTls::with_ca_pem(&load_pem(ca)?),
            None => ClientTls::system(),
        };
        tls.map_err(|error| refusal(&error, |_| self.tls_ca.as_ref()))
    }

    /// Whether text that was given as PEM is.
    pub(super) fn check_text(&self) -> Result<(), VpnError> {
        match &self.tls_ca {
            Some(PemSource::Text(_)) => self.client_tls().map(drop),
            _ => Ok(()),
        }
    }
}

impl ServerConfig {
    /// What the server shows: `tlsCert` and `tlsKey`, which are read now if they are files; `None`
    /// without them.
    ///
    /// # Errors
    ///
    /// `file-error` if a file can't be read or others may read the key's, `invalid-config` if they are
    /// not a certificate and its key.
    pub fn server_tls(&self) -> Result<Option<ServerTls>, VpnError> {
        let Some(TlsPem { cert, key }) = &self.tls else { return Ok(None) };
        let source = |field| Some(if field == "tlsCert" { cert } else { key });
        let tls = ServerTls::from_pem(&load_pem(cert)?, &load_pem_key(key)?);
        tls.map(Some).map_err(|error| refusal(&error, source))
    }

    /// Whether text that was given as PEM is.
    pub(super) fn check_text(&self) -> Result<(), VpnError> {
        match &self.tls {
            Some(TlsPem { cert: PemSource::Text(_), key: PemSource::Text(_) }) => self.server_tls().map(drop),
            _ => Ok(()),
        }
    }
}

/// The field at fault and, where its value is a file, which one.
fn refusal<'a>(
    error: &TlsConfigError,
    source: impl FnOnce(&'static str) -> Option<&'a PemSource>,
) -> VpnError {
    let field = match error {
        TlsConfigError::Certificate(_) => "tlsCert",
        TlsConfigError::Key(_) | TlsConfigError::KeyMismatch => "tlsKey",
        TlsConfigError::Ca(_) => "tlsCa",
        TlsConfigError::NoSystemRoots(_) => {
            return caused(VpnError::new(error.code(), error.to_string()), error);
        }
    };
    let message = match source(field) {
        Some(PemSource::File(path)) => format!("{field} ({}): {error}", path.display()),
        Some(PemSource::Text(_)) | None => format!("{field}: {error}"),
    };
    caused(VpnError::config(field, message), error)
}

fn caused(report: VpnError, error: &TlsConfigError) -> VpnError {
    match error.source() {
        Some(cause) => report.caused_by(cause),
        None => report,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::error::ErrorCode;

    const NONSENSE: &str = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";

    struct Made {
        cert: String,
        key: String,
    }

    fn made() -> Made {
        let made = rcgen::generate_simple_self_signed(["vpn.example.org".to_owned()]).unwrap();
        Made { cert: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn client(tls_ca: &str, base: &Path) -> Result<ClientConfig, VpnError> {
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let url = "wss://vpn.example.org/";
        ClientConfig::parse(&json!({ "serverUrl": url, "serverPublicKey": key, "tlsCa": tls_ca }), base)
    }

    fn server(cert: &str, key: &str, base: &Path) -> Result<ServerConfig, VpnError> {
        let config: Value = json!({
            "listenAddr": "127.0.0.1:0",
            "privateKey": "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
            "publicKey": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "subnet": "10.8.0.0/24",
            "tlsCert": cert,
            "tlsKey": key,
        });
        ServerConfig::parse(&config, base)
    }

    fn save_private(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[track_caller]
    fn refused<T>(result: Result<T, VpnError>, path: &str) -> String {
        let error = result.err().unwrap();
        assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some(path)));
        assert!(error.message.starts_with(path), "{}", error.message);
        error.message
    }

    #[test]
    fn text_is_checked_at_once() {
        let (base, made, other) = (Path::new("/"), made(), made());
        assert!(client(&made.cert, base).unwrap().client_tls().is_ok());
        assert!(server(&made.cert, &made.key, base).unwrap().server_tls().unwrap().is_some());
        refused(client(NONSENSE, base), "tlsCa");
        refused(server(NONSENSE, &made.key, base), "tlsCert");
        refused(server(&made.cert, &made.cert, base), "tlsKey");
        refused(server(&made.cert, &other.key, base), "tlsKey");
    }

    #[test]
    fn files_are_read_when_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let made = made();
        for (name, text) in [("cert.pem", &made.cert), ("key.pem", &made.key), ("bad.pem", &NONSENSE.into())]
        {
            save_private(&folder.path().join(name), text);
        }
        let base = folder.path();
        assert!(client("cert.pem", base).unwrap().client_tls().is_ok());
        assert!(server("cert.pem", "key.pem", base).unwrap().server_tls().unwrap().is_some());
        assert!(server(&made.cert, "key.pem", base).unwrap().server_tls().unwrap().is_some());
        let message = refused(client("bad.pem", base).unwrap().client_tls(), "tlsCa");
        assert!(message.contains(base.join("bad.pem").to_str().unwrap()), "{message}");
        refused(server("cert.pem", "cert.pem", base).unwrap().server_tls(), "tlsKey");
        let missing = server("cert.pem", "missing.pem", base).unwrap().server_tls().unwrap_err();
        assert_eq!(missing.code, ErrorCode::FileError);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused_and_a_certificate_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (base, made) = (folder.path(), made());
        let open = |name: &str, text: &str| {
            std::fs::write(base.join(name), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(base.join(name), mode).unwrap();
        };
        open("cert.pem", &made.cert);
        open("key.pem", &made.key);
        let error = server("cert.pem", "key.pem", base).unwrap().server_tls().unwrap_err();
        assert_eq!(error.code, ErrorCode::FileError);
        assert!(error.message.contains("key.pem holds a private key"), "{}", error.message);
        save_private(&base.join("key.pem"), &made.key);
        assert!(server("cert.pem", "key.pem", base).unwrap().server_tls().unwrap().is_some());
    }

    #[test]
    fn no_message_repeats_a_key() {
        let made = made();
        let secret = made.key.lines().nth(1).unwrap();
        let listed = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        for broken in [
            made.key.replace("-----END", "----END"),
            made.key.replace('\n', " "),
            made.key.replace('\n', "\\n"),
            made.key.replacen("KEY-----\n", "KEY-----", 1),
            made.key.replace(secret, &format!("{secret}!")),
            made.key.replace("-----END PRIVATE KEY-----", ""),
        ] {
            let error = server(&made.cert, &broken, Path::new("/")).unwrap_err();
            let told = format!("{error:?}");
            assert!(!told.contains(secret) && !told.contains(&listed), "{told}");
        }
    }
}
