//! The state directory: one journal and one lock per instance, and a lock around every change.
//!
//! ```text
//! <stateDir>/lock                       held while anything is set, undone or repaired
//! <stateDir>/<instance>@<netns>.lock    held as long as the instance lives; dies with its process
//! <stateDir>/<instance>@<netns>.json    what the instance has changed on the host
//! ```
//!
//! Locks are `flock`s: the kernel drops them with the process, however that ends. All of them are
//! taken and all files removed under the first one, so that no check can be overtaken.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::error::NetworkError;

/// The journal's format.
const VERSION: u32 = 1;
/// How often a taken lock is tried again.
const POLL: Duration = Duration::from_millis(10);

/// The directory, as seen from one network namespace in one boot of the host.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    boot: String,
    namespace: u64,
}

/// What one instance has changed on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Journal {
    version: u32,
    /// The boot in which the changes were made: the next one undoes all but what is in files.
    boot: String,
    /// The network namespace in which they were made; in the journal's name.
    #[serde(skip)]
    namespace: u64,
    pub(super) instance: String,
    /// In the order in which they were made.
    pub(super) changes: Vec<Change>,
}

/// The right to change the host; ends when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    _lock: File,
}

/// An instance's name, held as long as this value lives.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl StateDir {
    /// Opens the directory; makes it, for the owner only, if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, NetworkError> {
        let unusable = |what: &str| {
            let (path, what) = (path.to_owned(), what.to_owned());
            move |source| NetworkError::State { path, what, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(unusable("it could not be made; choose another stateDir, or null to keep nothing"))?;
        let path = path.canonicalize().map_err(unusable("it cannot be read"))?;
        let metadata = path.metadata().map_err(unusable("it cannot be read"))?;
        let own = rustix::process::geteuid().as_raw();
        if !(metadata.uid() == own || metadata.uid() == 0) || metadata.mode() & 0o022 != 0 {
            // What stands in a journal is done as root at the next start.
            let source = io::ErrorKind::PermissionDenied.into();
            return Err(unusable("others can write to it; it must be ours alone (mode 0700)")(source));
        }
        let (boot, namespace) = this_kernel().map_err(unusable("/proc is needed to tell whose it is"))?;
        Ok(Self { path, boot, namespace })
    }

    /// Waits for the right to change the host.
    #[expect(clippy::disallowed_methods, reason = "another process is waited for in real time")]
    pub(super) fn guard(&self, limit: Duration) -> Result<Guard, NetworkError> {
        let path = self.path.join("lock");
        let deadline = Instant::now() + limit;
        let lock = open_private(&path).map_err(|source| self.failed(&path, source))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Guard { _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
                Err(error) => return Err(self.failed(&path, error.into())),
            }
        }
    }

    /// Takes an instance's name for as long as the result lives. Under the guard.
    pub(super) fn claim(&self, instance: &str) -> Result<Claim, NetworkError> {
        let path = self.lock_path(instance);
        let lock = open_private(&path).map_err(|source| self.failed(&path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(NetworkError::InstanceInUse { name: instance.to_owned() }),
            Err(TryLockError::Error(source)) => Err(self.failed(&path, source)),
        }
    }

    /// Writes an instance's journal, whole or not at all.
    pub(super) fn write(&self, instance: &str, changes: &[Change]) -> Result<(), NetworkError> {
        self.write_journal(&Journal {
            version: VERSION,
            boot: self.boot.clone(),
            namespace: self.namespace,
            instance: instance.to_owned(),
            changes: changes.to_owned(),
        })
    }

    fn write_journal(&self, journal: &Journal) -> Result<(), NetworkError> {
        let path = self.journal_path(&journal.instance, journal.namespace);
        self.replace(&path, journal).map_err(|source| self.failed(&path, source))
    }

    /// Removes an instance's journal, and under the guard the file of its lock too. Without it a
    /// process that waits for the lock would hold one that nobody else can see.
    pub(super) fn forget(&self, instance: &str, guard: Option<&Guard>) -> Result<(), NetworkError> {
        self.remove(instance, self.namespace, guard)
    }

    /// Leaves of the journal of a dead process only what could not be undone. Under the guard.
    pub(super) fn settle_stale(
        &self,
        journal: Journal,
        left: Vec<Change>,
        guard: &Guard,
    ) -> Result<(), NetworkError> {
        if left.is_empty() {
            return self.remove(&journal.instance, journal.namespace, Some(guard));
        }
        self.write_journal(&Journal { changes: left, ..journal })
    }

    fn remove(&self, instance: &str, namespace: u64, guard: Option<&Guard>) -> Result<(), NetworkError> {
        let journal = self.journal_path(instance, namespace);
        let lock = guard.map(|_| journal.with_extension("lock"));
        for path in [Some(journal), lock].into_iter().flatten() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The journals of this namespace and boot whose instances live, but not `own`. Under the guard.
    pub(super) fn living(&self, own: &str) -> Vec<Journal> {
        let living = |journal: &Journal| journal.instance != own && self.is_living(journal);
        self.journals().into_iter().filter(living).collect()
    }

    /// The journals of this namespace and boot whose processes are gone, and what those of earlier
    /// boots have left in files. Under the guard.
    pub(super) fn stale(&self) -> Vec<Journal> {
        self.journals().into_iter().filter(|journal| !self.is_living(journal)).collect()
    }

    /// What could not be undone of what a dead process of this name has changed. Under the guard.
    pub(super) fn left_by(&self, instance: &str) -> Vec<Change> {
        let mut stale = self.stale().into_iter();
        let left = stale.find(|left| left.instance == instance && left.namespace == self.namespace);
        left.map_or_else(Vec::new, |journal| journal.changes)
    }

    /// The journals of this namespace and boot; of earlier boots, whatever namespace they are of, what
    /// is in files. What else those say is void, as that namespace is gone.
    fn journals(&self) -> Vec<Journal> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter_map(|path| self.read(&path)).collect()
    }

    fn read(&self, path: &Path) -> Option<Journal> {
        let (instance, namespace) = path.file_name()?.to_str()?.strip_suffix(".json")?.rsplit_once('@')?;
        let text = fs::read_to_string(path).ok()?;
        let mut journal: Journal = match serde_json::from_str(&text) {
            Ok(journal) => journal,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a journal cannot be read and is passed over");
                return None;
            }
        };
        if journal.version != VERSION || journal.instance != instance {
            return None;
        }
        journal.namespace = namespace.parse().ok()?;
        if journal.boot == self.boot {
            return (journal.namespace == self.namespace).then_some(journal);
        }
        journal.changes.retain(Change::outlasts_boot);
        if journal.changes.is_empty() {
            tracing::debug!(path = %path.display(), "a journal of an earlier boot is void");
            let _ = fs::remove_file(path);
            let _ = fs::remove_file(path.with_extension("lock"));
            return None;
        }
        Some(journal)
    }

    /// Whether the process lives that wrote it. Under the guard.
    fn is_living(&self, journal: &Journal) -> bool {
        journal.boot == self.boot && self.is_alive(&journal.instance)
    }

    fn is_alive(&self, instance: &str) -> bool {
        // Not made if it is missing: the check leaves no trace.
        match File::open(self.lock_path(instance)) {
            Ok(lock) => lock.try_lock().is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn replace(&self, path: &Path, journal: &Journal) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&temporary)?;
        serde_json::to_writer_pretty(&mut file, journal)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.path)?.sync_all()
    }

    fn journal_path(&self, instance: &str, namespace: u64) -> PathBuf {
        self.path.join(format!("{instance}@{namespace}.json"))
    }

    fn lock_path(&self, instance: &str) -> PathBuf {
        self.journal_path(instance, self.namespace).with_extension("lock")
    }

    fn failed(&self, path: &Path, source: io::Error) -> NetworkError {
        let file = path.file_name().unwrap_or_default().display();
        NetworkError::State { path: self.path.clone(), what: format!("{file} could not be written"), source }
    }
}

/// The boot's id, and the number of the calling thread's network namespace.
fn this_kernel() -> io::Result<(String, u64)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok((boot.trim().to_owned(), namespace))
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/state");
        let directory = StateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        directory.write("vpn0", &[]).unwrap();
        let _guard = directory.guard(SHORT).unwrap();
        let _claim = directory.claim("vpn0").unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{entry:?}");
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o707] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = StateDir::open(directory.path()).unwrap_err();
            assert!(error.to_string().contains("mode 0700"), "{error}");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        StateDir::open(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateDir::open(&file.path().join("state")).unwrap_err();
        assert_eq!(error.code(), crate::error::ErrorCode::FileError);
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn only_one_changes_the_host_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) =
            (StateDir::open(directory.path()).unwrap(), StateDir::open(directory.path()).unwrap());
        let guard = one.guard(SHORT).unwrap();
        two.guard(SHORT).unwrap_err();
        drop(guard);
        two.guard(SHORT).unwrap();
    }

    #[test]
    fn journals_are_told_apart_by_their_locks() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let names =
            |journals: Vec<Journal>| journals.into_iter().map(|found| found.instance).collect::<Vec<_>>();
        let claim = state.claim("vpn0").unwrap();
        for instance in ["vpn0", "a@b"] {
            state.write(instance, &[]).unwrap();
        }
        assert_eq!(
            (names(state.living("")), names(state.stale())),
            (vec!["vpn0".into()], vec!["a@b".into()])
        );
        assert_eq!(names(state.living("vpn0")), Vec::<String>::new());
        drop(claim);
        assert_eq!(names(state.living("")), Vec::<String>::new());
        assert_eq!(names(state.stale()).len(), 2);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let target = tempfile::NamedTempFile::new().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        for name in ["lock".to_owned(), format!("vpn0@{}.tmp", state.namespace)] {
            std::os::unix::fs::symlink(target.path(), directory.path().join(name)).unwrap();
        }
        state.guard(SHORT).unwrap_err();
        state.write("vpn0", &[]).unwrap_err();
    }
}
