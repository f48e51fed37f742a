//! What outlives the server's process, in files: a server that is killed finds its clients again.
//!
//! The files lie in `<stateDir>/leases/` (who has which address) and `<stateDir>/clients/` (who may come in, as far as
//! the configuration does not say) and are named after the server's key and subnet, which are what makes it the same
//! server to its clients. Each is written whole, by one task, as often as the disk allows and no oftener than something
//! has changed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::{ServerConfig, replace_file};
use crate::session::registry::SavedRegistry;
use crate::session::roster::Saved;

/// How long whoever waits for the disk does. A disk that takes longer is not to keep anybody out: what a crash then
/// costs is an address given to somebody else, or a client that must be registered again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest file that is read: some 60,000 clients, which is all of an IPv4 /16.
const SIZE_LIMIT: u64 = 32 * 1024 * 1024;

/// What can be kept in a file.
pub(super) trait State: Serialize + DeserializeOwned + Send + 'static {
    /// The folder below `stateDir`.
    const FOLDER: &'static str;

    /// There is nothing to keep, and so no file.
    fn is_empty(&self) -> bool;
}

impl State for Saved {
    const FOLDER: &'static str = "leases";

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl State for SavedRegistry {
    const FOLDER: &'static str = "clients";

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// One file of one server.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    changes: AtomicU64,
    changed: Notify,
    /// The number of the last change that is on the disk, or could not be written.
    written: watch::Sender<u64>,
    /// The number of the change that the file has: an older state must not come over a newer one.
    on_disk: Arc<Mutex<u64>>,
    failing: AtomicBool,
}

impl StateFile {
    /// The file of a server, and what an earlier process wrote; none where nothing is kept.
    pub(super) fn open<S: State>(config: &ServerConfig) -> Option<(Self, Option<S>)> {
        let folder = config.state_dir.path()?.join(S::FOLDER);
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "nothing can be kept here");
            return None;
        }
        let path = folder.join(format!("{}.json", name(config)));
        let saved = read(&path).inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "what an earlier run kept cannot be read");
            }
        });
        let file = Self {
            path,
            changes: AtomicU64::new(0),
            changed: Notify::new(),
            written: watch::Sender::new(0),
            on_disk: Arc::default(),
            failing: AtomicBool::new(false),
        };
        Some((file, saved.ok()))
    }

    /// Something has changed that must outlive the process; resolves when it does. False if the disk refuses it, or has
    /// not taken it in time.
    pub(super) async fn keep(&self) -> bool {
        let number = self.touch();
        let mut written = self.written.subscribe();
        let in_time = timeout(PATIENCE, written.wait_for(|written| *written >= number)).await.is_ok();
        in_time && !self.failing.load(Ordering::Relaxed)
    }

    /// Something has changed; it is written soon.
    pub(super) fn touch(&self) -> u64 {
        let number = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        self.changed.notify_one();
        number
    }

    /// Writes what `state` gives, whenever it has changed. Never ends.
    pub(super) async fn run<S: State>(&self, state: impl Fn() -> S) {
        loop {
            self.changed.notified().await;
            let number = self.changes.load(Ordering::Relaxed);
            let (state, path, on_disk) = (state(), self.path.clone(), Arc::clone(&self.on_disk));
            let write = spawn_blocking(move || write(&path, &state, number, &on_disk));
            self.told(write.await.unwrap_or_else(|error| Err(io::Error::other(error))));
            self.written.send_replace(number);
        }
    }

    /// Writes once, on the calling thread; nothing is written afterwards.
    pub(super) fn write_last<S: State>(&self, state: &S) {
        self.told(write(&self.path, state, u64::MAX, &self.on_disk));
    }

    /// Says once that the disk refuses.
    fn told(&self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, path = %self.path.display(), "the file cannot be written; the last one stays");
            }
            Err(_) => {}
        }
    }
}

fn write<S: State>(path: &Path, state: &S, number: u64, on_disk: &Mutex<u64>) -> io::Result<()> {
    let mut on_disk = on_disk.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= *on_disk {
        return Ok(());
    }
    *on_disk = number;
    if state.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    replace_file(path, &serde_json::to_vec(state)?)
}

fn read<S: State>(path: &Path) -> io::Result<S> {
    if fs::metadata(path)?.len() > SIZE_LIMIT {
        return Err(io::Error::other(format!("it is longer than {SIZE_LIMIT} bytes")));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn name(config: &ServerConfig) -> String {
    let text = format!("{} {}", config.keypair.public, config.subnet.net());
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
