//! A lock that lies beside a socket and tells which process it belongs to.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The right to a path for as long as this value lives, however its process ends: the kernel drops
/// it. Without it, two daemons that start at once could each take the other's socket for a stale one.
#[derive(Debug)]
pub(super) struct PathLock {
    path: PathBuf,
    _file: File,
}

impl PathLock {
    /// Takes the lock of `path`; none if another process holds it.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut name = OsString::from(path);
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The holder before may have removed the file between the two steps.
            let ours = file.metadata()?;
            match fs::symlink_metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Some(Self { path, _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // Still held, so that nobody else's is removed.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a lock could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PathLock;

    #[test]
    fn one_holds_it_and_its_file_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let held = PathLock::take(&path).unwrap().unwrap();
        assert!(PathLock::take(&path).unwrap().is_none());
        drop(held);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        PathLock::take(&path).unwrap().unwrap();
    }
}
