//! Configurations in files (API §4).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{secrecy, values};
use crate::error::{ErrorCode, VpnError};

/// The longest configuration that is read, in bytes. Thousands of clients and routes fit; what is
/// longer is some other file.
const SIZE_LIMIT: u64 = 1024 * 1024;

/// Reads a configuration. Relative paths in it start at its folder, and are absolute in what is
/// returned. Whether its fields are right is for `parse` to say.
///
/// # Errors
///
/// `file-error` if the file can't be read, is longer than 1 MiB, or holds a secret that others
/// than its owner may read (then the message ends in the command that mends it); `invalid-config` if it is not JSON, with line and column, or no object.
pub fn load_from_file(path: &Path) -> Result<Value, VpnError> {
    let failed = |error| file_error("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(SIZE_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > SIZE_LIMIT {
        return Err(failed(io::Error::other(format!("it is longer than {SIZE_LIMIT} bytes"))));
    }
    let mut value: Value = serde_json::from_str(&text).map_err(|error| {
        // Its own words could quote what stands there, and so a key.
        let place = format!("line {}, column {}", error.line(), error.column());
        VpnError::config("", format!("{} is not valid JSON ({place})", path.display()))
    })?;
    let Value::Object(fields) = &mut value else {
        return Err(VpnError::config("", format!("{} must hold a JSON object", path.display())));
    };
    secrecy::check_config(path, &metadata, fields)?;
    let path = std::path::absolute(path).map_err(failed)?;
    values::make_paths_absolute(fields, path.parent().unwrap_or(Path::new("/")));
    Ok(value)
}

/// Writes a configuration, readable by its owner only. The file, or what a symbolic link points to,
/// is replaced in one step: whoever reads it meanwhile, and whoever comes after a crash, finds the
/// old or the new one whole.
///
/// # Errors
///
/// `file-error` if the file can't be written; then the old one is untouched.
pub fn save_to_file(path: &Path, config: &Value) -> Result<(), VpnError> {
    let mut text = Zeroizing::new(format!("{config:#}"));
    text.push('\n');
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    replace(&target, text.as_bytes()).map_err(|error| file_error("write", path, &error))
}

/// Writes a configuration to a file that is not there yet, readable by its owner only. It is on the disk when this
/// returns.
///
/// # Errors
///
/// `file-error` if there is such a file, or it can't be written; then nothing is left of it.
pub fn save_to_new_file(path: &Path, config: &Value) -> Result<(), VpnError> {
    let mut text = Zeroizing::new(format!("{config:#}"));
    text.push('\n');
    match write_new(path, text.as_bytes()) {
        Ok(()) => {
            sync_folder(path);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(already_there(path)),
        Err(error) => {
            drop(fs::remove_file(path));
            Err(file_error("write", path, &error))
        }
    }
}

/// The refusal to replace a file.
pub(crate) fn already_there(path: &Path) -> VpnError {
    let message = format!("{} is there already; choose another file, or remove it", path.display());
    VpnError::new(ErrorCode::FileError, message)
}

/// Puts a file, readable by its owner only, in the place of what was there, whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path)?;
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may not exist; what matters is the error that led here.
        drop(fs::remove_file(&temporary));
    }
    written?;
    sync_folder(path);
    Ok(())
}

/// A name in the same folder (a rename does not cross file systems) that no other call uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);

    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{serial}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the rename outlast a power cut, where the file system can: the new file is in place already.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Err(error) = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "the folder of a saved file could not be synchronised");
    }
}

fn file_error(action: &str, path: &Path, error: &io::Error) -> VpnError {
    let message = format!("cannot {action} the configuration file {}: {error}", path.display());
    VpnError::new(ErrorCode::FileError, message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        for config in [json!({ "privateKey": "x", "mtu": 1420 }), json!({ "ü": ["a\nb"] })] {
            save_to_file(&path, &config).unwrap();
            assert_eq!(load_from_file(&path).unwrap(), config);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[cfg(unix)]
    #[test]
    fn writing_through_a_symbolic_link_replaces_what_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        save_to_file(&link, &json!({ "mtu": 1400 })).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "{\n  \"mtu\": 1400\n}\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_saved_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        save_to_file(&path, &json!({})).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_replaces_none() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.json");
        save_to_new_file(&path, &json!({ "token": "x" })).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = save_to_new_file(&path, &json!({})).unwrap_err();
        assert_eq!(error.code, ErrorCode::FileError);
        assert!(error.message.contains("is there already"), "{}", error.message);
        assert_eq!(load_from_file(&path).unwrap(), json!({ "token": "x" }));
        let error = save_to_new_file(&folder.path().join("missing/client.json"), &json!({})).unwrap_err();
        assert_eq!(error.code, ErrorCode::FileError);
    }

    #[cfg(unix)]
    #[test]
    fn a_private_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        fs::write(&path, r#"{"privateKey":"hunter2"}"#).unwrap();
        for (mode, admitted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let loaded = load_from_file(&path);
            assert_eq!(loaded.is_ok(), admitted, "{mode:o}");
            if let Err(error) = loaded {
                assert_eq!(error.code, ErrorCode::FileError);
                assert!(error.message.contains(": chmod 600 '/"), "{}", error.message);
                assert!(!error.message.contains("hunter2"));
            }
        }
        fs::write(&path, r#"{"token":"hunter2"}"#).unwrap();
        assert!(load_from_file(&path).unwrap_err().message.contains("holds a token"));
        fs::write(&path, r#"{"serverPublicKey":"x"}"#).unwrap();
        assert!(load_from_file(&path).is_ok(), "nothing secret");
    }

    #[test]
    fn broken_json_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        fs::write(&path, "{\n  \"mtu\": 1420,\n}").unwrap();
        let error = load_from_file(&path).unwrap_err();
        assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some("")));
        assert!(error.message.ends_with("is not valid JSON (line 3, column 1)"), "{}", error.message);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.json");
        fs::write(&large, " ".repeat(SIZE_LIMIT as usize + 1)).unwrap();
        let binary = folder.path().join("binary.json");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing.json"), large, binary] {
            let error = load_from_file(&path).unwrap_err();
            assert_eq!(error.code, ErrorCode::FileError);
            assert!(error.message.contains(path.to_str().unwrap()), "{}", error.message);
        }
    }

    #[test]
    fn a_file_of_just_the_limit_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.json");
        fs::write(&path, format!("{{}}{}", " ".repeat(SIZE_LIMIT as usize - 2))).unwrap();
        assert_eq!(load_from_file(&path).unwrap(), json!({}));
    }

    #[test]
    fn relative_paths_start_at_the_files_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        let pem = "-----BEGIN CERTIFICATE-----\n";
        let written =
            json!({ "tlsCert": "tls/cert.pem", "tlsKey": "/etc/key.pem", "tlsCa": pem, "stateDir": "state" });
        save_to_file(&path, &written).unwrap();
        let (cert, state) = (folder.path().join("tls/cert.pem"), folder.path().join("state"));
        let read = json!({ "tlsCert": cert, "tlsKey": "/etc/key.pem", "tlsCa": pem, "stateDir": state });
        assert_eq!(load_from_file(&path).unwrap(), read);
        for untouched in [json!({ "stateDir": null }), json!({ "tlsCa": "" }), json!({ "tlsCert": 7 })] {
            save_to_file(&path, &untouched).unwrap();
            assert_eq!(load_from_file(&path).unwrap(), untouched);
        }
    }

    #[test]
    fn what_holds_no_object_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.json");
        for text in ["[]", "null", "7", "\"x\""] {
            fs::write(&path, text).unwrap();
            let error = load_from_file(&path).unwrap_err();
            assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some("")));
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("occupied");
        fs::create_dir_all(occupied.join("inside")).unwrap();
        for path in [occupied, folder.path().join("missing/server.json"), "..".into()] {
            let error = save_to_file(&path, &json!({})).unwrap_err();
            assert_eq!(error.code, ErrorCode::FileError, "{}", path.display());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
