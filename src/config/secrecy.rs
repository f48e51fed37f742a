//! Whether files that hold secrets keep them. What is judged is the open file, which is the one that is read.

use std::fs::Metadata;
use std::path::Path;

use serde_json::{Map, Value};

use super::values::PEM_START;
use crate::error::{ErrorCode, VpnError};

/// Refuses a configuration with a secret in it that others than its owner may read.
///
/// # Errors
///
/// `file-error`; its message ends in the command that mends it.
pub(super) fn check_config(
    path: &Path,
    metadata: &Metadata,
    fields: &Map<String, Value>,
) -> Result<(), VpnError> {
    match secret_in(fields) {
        Some(secret) => check(path, metadata, secret, OTHERS),
        None => Ok(()),
    }
}

/// Refuses a key file that others than its owner may read. One of root's may be readable by its group:
/// so distributions let a service at a key (Debian's `ssl-cert`), and PostgreSQL takes it as well.
///
/// # Errors
///
/// `file-error`; its message ends in the command that mends it.
pub(super) fn check_key(path: &Path, metadata: &Metadata) -> Result<(), VpnError> {
    let refused = if is_roots(metadata) { OTHERS & !GROUP_READ } else { OTHERS };
    check(path, metadata, "a private key", refused)
}

/// All that others than the owner may have.
const OTHERS: u32 = 0o077;
const GROUP_READ: u32 = 0o040;

/// What in a configuration is a secret, if anything is.
fn secret_in(fields: &Map<String, Value>) -> Option<&'static str> {
    let has_text = |name: &str, is_secret: fn(&str) -> bool| {
        fields.get(name).and_then(Value::as_str).is_some_and(is_secret)
    };
    if fields.contains_key("privateKey") || has_text("tlsKey", |text| text.starts_with(PEM_START)) {
        Some("a private key")
    } else if fields.contains_key("token") {
        Some("a token")
    } else if has_text("proxy", |url| url.contains('@')) {
        Some("a proxy's password")
    } else {
        None
    }
}

fn check(path: &Path, metadata: &Metadata, secret: &str, refused: u32) -> Result<(), VpnError> {
    let mode = mode(metadata);
    if mode & refused == 0 {
        return Ok(());
    }
    // A group that may be let in stays in.
    let mended = if mode & OTHERS & !refused == 0 { 600 } else { 640 };
    let (shown, quoted) = (path.display(), quoted(path));
    Err(VpnError::new(
        ErrorCode::FileError,
        format!("{shown} holds {secret} and others may read it (mode {mode:04o}): chmod {mended} {quoted}"),
    ))
}

/// A path from the root on (so that it is no option), as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(unix)]
fn mode(metadata: &Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
}

#[cfg(unix)]
fn is_roots(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(metadata) == 0
}

/// Elsewhere a file has no mode.
#[cfg(not(unix))]
fn mode(_: &Metadata) -> u32 {
    0o600
}

#[cfg(not(unix))]
fn is_roots(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, mode: u32) -> (PathBuf, Metadata) {
        let path = folder.path().join(name);
        fs::write(&path, "hunter2").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        (path, metadata)
    }

    #[test]
    fn secrets_in_a_configuration_are_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        for (config, secret) in [
            (json!({ "privateKey": "x" }), Some("a private key")),
            (json!({ "tlsKey": "-----BEGIN PRIVATE KEY-----\n" }), Some("a private key")),
            (json!({ "token": "x" }), Some("a token")),
            (json!({ "proxy": "http://me:hunter2@proxy:3128" }), Some("a proxy's password")),
            (json!({ "proxy": "http://proxy:3128", "tlsKey": "key.pem" }), None),
            (json!({ "serverPublicKey": "x", "proxy": 7 }), None),
        ] {
            for (mode, is_private) in
                [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
            {
                let (path, metadata) = file(&folder, "config.json", mode);
                let outcome = check_config(&path, &metadata, config.as_object().unwrap());
                assert_eq!(outcome.is_ok(), is_private || secret.is_none(), "{config} {mode:o}");
                if let Err(error) = outcome {
                    assert_eq!(error.code, ErrorCode::FileError);
                    assert!(error.message.contains(secret.unwrap()), "{}", error.message);
                    let command = format!(": chmod 600 '{}'", path.display());
                    assert!(error.message.ends_with(&command), "{}", error.message);
                    assert!(!error.message.contains("hunter2"), "{}", error.message);
                }
            }
        }
    }

    #[test]
    fn a_key_is_its_owners_and_where_root_says_so_a_groups() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o400] {
            let (path, metadata) = file(&folder, "key.pem", mode);
            check_key(&path, &metadata).unwrap();
        }
        for mode in [0o644, 0o604, 0o601, 0o660, 0o666] {
            let (path, metadata) = file(&folder, "key.pem", mode);
            let error = check_key(&path, &metadata).unwrap_err();
            assert!(error.message.contains(": chmod 6"), "{mode:o}: {}", error.message);
        }
        let (path, metadata) = file(&folder, "key.pem", 0o640);
        assert_eq!(check_key(&path, &metadata).is_ok(), is_roots(&metadata));
        if is_roots(&metadata) {
            std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
            let error = check_key(&path, &fs::metadata(&path).unwrap()).unwrap_err();
            assert!(error.message.contains(": chmod 600 '/"), "{}", error.message);
        }
    }

    #[test]
    fn the_command_is_right_for_any_path() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain", "-rf", "with space", "it's", "$(reboot)", "a\nb", "`;&|\"\\"] {
            let (path, metadata) = file(&folder, name, 0o666);
            let error = check_key(&path, &metadata).unwrap_err();
            let (_, command) = error.message.rsplit_once("): ").unwrap();
            let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
            assert!(done.success(), "{command}");
            check_key(&path, &fs::metadata(&path).unwrap()).unwrap();
        }
    }
}
