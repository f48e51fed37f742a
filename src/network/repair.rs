//! What killed processes left behind.

use std::path::Path;
use std::time::Duration;

use super::change::Change;
use super::error::NetworkError;
use super::ledger::take_back;
use super::state::{Guard, StateDir};
use super::sysctl::Sysctls;

/// How long a repair waits for another process that is changing the host.
const LIMIT: Duration = Duration::from_secs(10);

/// What a [`repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The instances whose leftovers are undone.
    pub repaired: Vec<String>,
    /// The instances of which something could not be undone; their journals stay for the next time.
    pub failed: Vec<String>,
}

/// Undoes what killed processes left in this network namespace, as [`HostChanges::begin`] does by
/// itself. Of an earlier boot only a rewritten resolv.conf is left; what living processes use stays.
///
/// [`HostChanges::begin`]: super::HostChanges::begin
pub async fn repair(state_dir: &Path) -> RepairReport {
    let path = state_dir.to_owned();
    let report = tokio::task::spawn_blocking(move || repair_now(&path)).await;
    report.unwrap_or(Err(NetworkError::Ended)).unwrap_or_else(|error| {
        tracing::warn!(%error, "what killed processes left could not be looked for");
        RepairReport::default()
    })
}

fn repair_now(path: &Path) -> Result<RepairReport, NetworkError> {
    if !path.exists() {
        return Ok(RepairReport::default());
    }
    let directory = StateDir::open(path)?;
    let guard = directory.guard(LIMIT)?;
    Ok(repair_stale(&directory, &Sysctls::of_kernel(), &guard, None))
}

/// Undoes what the journals of dead processes say, under the guard; but not what is about the same as `spared`, which
/// its next owner takes over with the journal.
pub(super) fn repair_stale(
    directory: &StateDir,
    sysctls: &Sysctls,
    guard: &Guard,
    spared: Option<&Change>,
) -> RepairReport {
    let mut report = RepairReport::default();
    let stale = directory.stale();
    if stale.is_empty() {
        return report;
    }
    let living: Vec<Change> = directory.living("").into_iter().flat_map(|journal| journal.changes).collect();
    for mut journal in stale {
        let instance = journal.instance.clone();
        let changes = std::mem::take(&mut journal.changes).into_iter();
        let is_spared = |change: &Change| spared.is_some_and(|spared| spared.is_about_the_same(change));
        let (mut kept, changes): (Vec<_>, Vec<_>) = changes.partition(is_spared);
        let left = take_back(changes, &living, sysctls);
        let is_done = left.is_empty();
        kept.extend(left);
        if let Err(error) = directory.settle_stale(journal, kept, guard) {
            tracing::warn!(instance, %error, "the journal could not be brought up to date");
        }
        if is_done {
            tracing::info!(instance, "undid what a killed process had left on the host");
            report.repaired.push(instance);
        } else {
            report.failed.push(instance);
        }
    }
    report
}
