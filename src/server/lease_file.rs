//! Who has which address, in a file: a server that is killed finds its clients again.
//!
//! The file lies in `<stateDir>/leases/` and is named after the server's key and subnet, which are what makes it the
//! same server to its clients. It is written whole, by one task, as often as the disk allows and no oftener than
//! something has changed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::hub::Hub;
use crate::config::{ServerConfig, replace_file};
use crate::session::roster::Saved;

/// How long a new client waits for its address to be on the disk. A disk that takes longer is not to keep anybody
/// out: what a crash then costs is an address given to somebody else.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest file that is read: some 60,000 sessions, which is all of an IPv4 /16.
const SIZE_LIMIT: u64 = 16 * 1024 * 1024;

/// The leases of one server.
#[derive(Debug)]
pub(super) struct LeaseFile {
    path: PathBuf,
    changes: AtomicU64,
    changed: Notify,
    /// The number of the last change that is on the disk, or could not be written.
    written: watch::Sender<u64>,
    /// The number of the change that the file has: an older state must not come over a newer one.
    on_disk: Arc<Mutex<u64>>,
    failing: AtomicBool,
}

impl LeaseFile {
    /// The file of a server, and what an earlier process wrote; none where nothing is kept.
    pub(super) fn open(config: &ServerConfig) -> Option<(Self, Option<Saved>)> {
        let folder = config.state_dir.path()?.join("leases");
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "leases cannot be kept");
            return None;
        }
        let path = folder.join(format!("{}.json", name(config)));
        let saved = read(&path).inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "the leases of an earlier run cannot be read");
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

    /// Something has changed that must outlive the process; resolves when it does.
    pub(super) async fn keep(&self) {
        let number = self.touch();
        let mut written = self.written.subscribe();
        // Whoever does not wait any longer goes on without.
        let _written = timeout(PATIENCE, written.wait_for(|written| *written >= number)).await;
    }

    /// Something has changed; it is written soon.
    pub(super) fn touch(&self) -> u64 {
        let number = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        self.changed.notify_one();
        number
    }

    /// Writes what `hub` has, whenever it has changed. Never ends.
    pub(super) async fn run(&self, hub: &Arc<Hub>) {
        loop {
            self.changed.notified().await;
            let number = self.changes.load(Ordering::Relaxed);
            let (saved, path, on_disk) = (hub.save(), self.path.clone(), Arc::clone(&self.on_disk));
            let write = spawn_blocking(move || write(&path, &saved, number, &on_disk));
            self.told(write.await.unwrap_or_else(|error| Err(io::Error::other(error))));
            self.written.send_replace(number);
        }
    }

    /// Writes once, on the calling thread; nothing is written afterwards.
    pub(super) fn write_last(&self, saved: &Saved) {
        self.told(write(&self.path, saved, u64::MAX, &self.on_disk));
    }

    /// Says once that the disk refuses.
    fn told(&self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, path = %self.path.display(), "the leases cannot be written; the last ones stay");
            }
            Err(_) => {}
        }
    }
}

/// Without sessions there is no file.
fn write(path: &Path, saved: &Saved, number: u64, on_disk: &Mutex<u64>) -> io::Result<()> {
    let mut on_disk = on_disk.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= *on_disk {
        return Ok(());
    }
    *on_disk = number;
    if saved.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    replace_file(path, &serde_json::to_vec(saved)?)
}

fn read(path: &Path) -> io::Result<Saved> {
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
