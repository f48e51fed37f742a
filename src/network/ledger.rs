//! The changes of one instance: written down, made, and taken back.

use std::path::Path;
use std::time::Duration;

use super::change::Change;
use super::error::NetworkError;
use super::repair::repair_stale;
use super::state::{Claim, Guard, StateDir};
use super::sysctl::Sysctls;

/// How long set-up waits for another process that is changing the host.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// How long the undoing waits for it. It then goes on without: the host matters more than the order.
const UNDO_LIMIT: Duration = Duration::from_millis(300);

/// The changes of one instance. Dropping it takes them back.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) instance: String,
    pub(super) sysctls: Sysctls,
    /// In the order in which they were made.
    changes: Vec<Change>,
    /// Where the journal is kept; nowhere if the configuration says so.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    directory: StateDir,
    /// Held until everything is undone: whoever can take it may undo for us.
    _claim: Claim,
}

/// The right to change the host, and what our other living instances have changed.
pub(super) struct Turn {
    _guard: Option<Guard>,
    pub(super) theirs: Vec<Change>,
}

/// Whether a change had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is made now, by us, and is ours to take back.
    Now,
    /// It stood so by somebody else's will.
    Already,
}

impl Ledger {
    /// Repairs what killed processes left, and takes the instance's name.
    pub(super) fn begin(
        state_dir: Option<&Path>,
        instance: &str,
        sysctls: Sysctls,
    ) -> Result<Self, NetworkError> {
        let place = match state_dir {
            Some(path) => {
                let directory = StateDir::open(path)?;
                let guard = directory.guard(SETUP_LIMIT)?;
                repair_stale(&directory, &sysctls, &guard);
                let _claim = directory.claim(instance)?;
                Some(Place { directory, _claim })
            }
            None => None,
        };
        Ok(Self { instance: instance.to_owned(), sysctls, changes: Vec::new(), place })
    }

    /// Waits until no other instance is changing the host.
    pub(super) fn turn(&self) -> Result<Turn, NetworkError> {
        let Some(place) = &self.place else { return Ok(Turn { _guard: None, theirs: Vec::new() }) };
        let guard = place.directory.guard(SETUP_LIMIT)?;
        Ok(Turn { theirs: place.directory.changes_of_others(&self.instance), _guard: Some(guard) })
    }

    /// Whether a change about the same thing is written down here already.
    pub(super) fn has(&self, change: &Change) -> bool {
        self.changes.iter().any(|ours| ours.is_about_the_same(change))
    }

    /// Writes the change down and then makes it by `make`.
    ///
    /// One that another instance has made is only written down, as that one has it: the last of the
    /// two takes it back.
    pub(super) fn apply(
        &mut self,
        turn: &Turn,
        change: Change,
        make: impl FnOnce() -> Result<Made, NetworkError>,
    ) -> Result<(), NetworkError> {
        if self.has(&change) {
            return Ok(());
        }
        if let Some(made) = turn.theirs.iter().find(|theirs| theirs.is_about_the_same(&change)) {
            self.changes.push(made.clone());
            return self.write().inspect_err(|_| self.strike_last());
        }
        self.changes.push(change);
        self.write().inspect_err(|_| self.strike_last())?;
        match make() {
            Ok(Made::Now) => return Ok(()),
            Ok(Made::Already) => self.strike_last(),
            Err(error) => {
                self.strike_last();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes everything back, the last change first. Goes on over what fails; that stays in the
    /// journal for the next start. Idempotent, and done within 2 s unless the kernel itself hangs.
    pub(super) fn undo(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let Some(place) = self.place.take() else {
            take_back(changes, &[], &self.sysctls);
            return;
        };
        let directory = &place.directory;
        let guard = directory
            .guard(UNDO_LIMIT)
            .inspect_err(|error| tracing::warn!(%error, "undoing while another process changes the host"))
            .ok();
        let theirs = directory.changes_of_others(&self.instance);
        let left = take_back(changes, &theirs, &self.sysctls);
        if let Err(error) = directory.settle(&self.instance, &left, guard.as_ref()) {
            tracing::warn!(%error, "the journal could not be brought up to date");
        }
    }

    fn write(&self) -> Result<(), NetworkError> {
        match &self.place {
            Some(place) => place.directory.write(&self.instance, &self.changes),
            None => Ok(()),
        }
    }

    /// Forgets the change that was not made. If the journal keeps it all the same, taking it back
    /// will find nothing to do.
    fn strike_last(&mut self) {
        self.changes.pop();
        if let Err(error) = self.write() {
            tracing::debug!(%error, "the journal names a change that was not made");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.undo();
    }
}

/// Takes changes back, the last one first, except what `theirs` still need. Returns what could not
/// be, in its old order.
pub(super) fn take_back(changes: Vec<Change>, theirs: &[Change], sysctls: &Sysctls) -> Vec<Change> {
    let mut left = Vec::new();
    for change in changes.into_iter().rev() {
        if theirs.iter().any(|their| their.is_about_the_same(&change)) {
            tracing::debug!(?change, "left to the other instance that uses it");
        } else if let Err(error) = change.take_back(sysctls) {
            tracing::warn!(?change, %error, "could not be undone; the next start tries again");
            left.push(change);
        }
    }
    left.reverse();
    left
}

impl StateDir {
    /// What our other living instances have changed.
    fn changes_of_others(&self, own: &str) -> Vec<Change> {
        self.living(own).into_iter().flat_map(|journal| journal.changes).collect()
    }

    /// Leaves of an instance only what could not be undone.
    pub(super) fn settle(
        &self,
        instance: &str,
        left: &[Change],
        guard: Option<&Guard>,
    ) -> Result<(), NetworkError> {
        if !left.is_empty() {
            return self.write(instance, left);
        }
        self.forget(instance, guard)
    }
}
