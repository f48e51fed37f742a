//! The changes of one instance: written down, made, and taken back.

use std::path::Path;
use std::time::Duration;

use super::change::Change;
use super::error::NetworkError;
use super::keeper::Keeper;
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
    /// What of it is written anew when others take it away.
    pub(super) keeper: Keeper,
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
    /// Repairs what killed processes left, and takes the instance's name. What is about the same as `spared` stays, and
    /// is this instance's from now on.
    pub(super) fn begin(
        state_dir: Option<&Path>,
        instance: &str,
        sysctls: Sysctls,
        spared: Option<&Change>,
    ) -> Result<Self, NetworkError> {
        let mut changes = Vec::new();
        let place = match state_dir {
            Some(path) => {
                let directory = StateDir::open(path)?;
                let guard = directory.guard(SETUP_LIMIT)?;
                repair_stale(&directory, &sysctls, &guard, spared);
                // Ours from now on: our own journal takes the place of that which says how to undo it.
                changes = directory.left_by(instance);
                let _claim = directory.claim(instance)?;
                Some(Place { directory, _claim })
            }
            None => None,
        };
        Ok(Self { instance: instance.to_owned(), sysctls, keeper: Keeper::default(), changes, place })
    }

    /// Waits until no other instance is changing the host.
    pub(super) fn turn(&self) -> Result<Turn, NetworkError> {
        let Some(place) = &self.place else { return Ok(Turn { _guard: None, theirs: Vec::new() }) };
        let guard = place.directory.guard(SETUP_LIMIT)?;
        Ok(Turn { theirs: place.directory.changes_of_others(&self.instance), _guard: Some(guard) })
    }

    /// The change about the same thing that is written down here already.
    pub(super) fn find(&self, change: &Change) -> Option<&Change> {
        self.changes.iter().find(|ours| ours.is_about_the_same(change))
    }

    /// Everything that is written down here, in the order in which it was made.
    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// Writes the change down and then makes it by `make`; makes it again if it is written down
    /// already.
    ///
    /// One that turns out to be made by another instance is written down as that one has it: the last
    /// of the two takes it back. One that somebody else has made is forgotten.
    pub(super) fn apply(
        &mut self,
        turn: &Turn,
        change: Change,
        make: impl FnOnce() -> Result<Made, NetworkError>,
    ) -> Result<(), NetworkError> {
        let is_new = self.find(&change).is_none();
        let theirs = turn.theirs.iter().find(|theirs| theirs.is_about_the_same(&change));
        if is_new {
            self.changes.push(change);
            self.write().inspect_err(|_| self.strike_last())?;
        }
        match (make(), theirs) {
            (Ok(Made::Now), _) => Ok(()),
            (Ok(Made::Already), Some(theirs)) if is_new => self.replace_last(theirs.clone()),
            (Ok(Made::Already), None) if is_new => {
                self.strike_last();
                Ok(())
            }
            (Ok(Made::Already), _) => Ok(()),
            (Err(error), _) => {
                if is_new {
                    self.strike_last();
                }
                Err(error)
            }
        }
    }

    /// Writes the change down in place of the one about the same thing, and then makes it by `make`.
    /// Either can be taken back by what is written down.
    pub(super) fn amend(
        &mut self,
        change: Change,
        make: impl FnOnce() -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        let before = self.changes.clone();
        for ours in self.changes.iter_mut().filter(|ours| ours.is_about_the_same(&change)) {
            ours.clone_from(&change);
        }
        self.write().inspect_err(|_| self.changes = before)?;
        make()
    }

    /// Takes one change back before its time; keeps it written down if that fails.
    pub(super) fn withdraw(&mut self, change: &Change) -> Result<(), NetworkError> {
        let turn = self.turn()?;
        if let Change::Table(table) | Change::Guard(table) = change {
            self.keeper.release(&table.name);
        }
        if take_back(vec![change.clone()], &turn.theirs, &self.sysctls).is_empty() {
            self.changes.retain(|ours| ours != change);
        }
        self.write()
    }

    /// Forgets a change that the host has lost without us.
    pub(super) fn forget(&mut self, change: &Change) {
        self.changes.retain(|ours| !ours.is_about_the_same(change));
    }

    /// Takes everything back, the last change first. Goes on over what fails; that stays in the
    /// journal for the next start. Idempotent, and done within 2 s unless the kernel itself hangs.
    pub(super) fn undo(&mut self) {
        self.keeper.release_all();
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

    fn replace_last(&mut self, change: Change) -> Result<(), NetworkError> {
        self.changes.pop();
        self.changes.push(change);
        self.write()
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
        let _not_made = self.changes.pop();
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

/// Takes changes back, the last one first, except what `theirs`, others' changes, still need. Returns what could not
/// be, in its old order.
pub(super) fn take_back(changes: Vec<Change>, theirs: &[Change], sysctls: &Sysctls) -> Vec<Change> {
    let mut left = Vec::new();
    for change in changes.into_iter().rev() {
        if let Err(error) = change.take_back(theirs, sysctls) {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::network::change::{Kept, Switched};
    use crate::network::repair::repair_stale;
    use crate::network::sysctl::tests::fake;
    use crate::network::sysctl::{Key, Switch};

    /// A fake host with one switch, and a state directory.
    struct Host {
        _tree: tempfile::TempDir,
        state: tempfile::TempDir,
        sysctls: Sysctls,
    }

    fn eth0() -> Switch {
        Switch::v4("eth0", Key::Forwarding)
    }

    fn all() -> Switch {
        Switch::v4("all", Key::Forwarding)
    }

    fn switching_on() -> Change {
        let umbrella = Some((all(), "0".to_owned()));
        Change::Switched(Switched { switch: eth0(), old: "0".to_owned(), new: "1".to_owned(), umbrella })
    }

    impl Host {
        fn new() -> Self {
            let (_tree, sysctls) = fake(&[
                ("ipv4/conf/all/forwarding", "0"),
                ("ipv4/conf/eth0/forwarding", "0"),
                ("ipv6/conf/lan0/forwarding", "1"),
            ]);
            Self { _tree, state: tempfile::tempdir().unwrap(), sysctls }
        }

        fn begin(&self, instance: &str) -> Ledger {
            Ledger::begin(Some(self.state.path()), instance, self.sysctls.clone(), None).unwrap()
        }

        /// An instance that has switched forwarding on, or found it switched on by another.
        fn forwarding(&self, instance: &str) -> Ledger {
            let mut ledger = self.begin(instance);
            let turn = ledger.turn().unwrap();
            let plan = match turn.theirs.iter().find(|theirs| theirs.is_about_the_same(&switching_on())) {
                Some(theirs) => theirs.clone(),
                None => switching_on(),
            };
            ledger.switch_all(&turn, vec![plan]).unwrap();
            ledger
        }

        fn value(&self) -> String {
            self.sysctls.read(&eth0()).unwrap().unwrap()
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(self.state.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn journal(&self, instance: &str) -> Option<PathBuf> {
            let name = |file: &String| file.starts_with(&format!("{instance}@")) && file.ends_with(".json");
            self.files().into_iter().find(name).map(|name| self.state.path().join(name))
        }
    }

    /// Ends the ledger as a SIGKILL does: the lock goes, everything else stays.
    fn kill(mut ledger: Ledger) {
        ledger.changes.clear();
        ledger.place = None;
    }

    #[test]
    fn a_change_is_on_disk_before_it_is_made_and_gone_after_the_undoing() {
        let host = Host::new();
        let mut ledger = host.begin("vpn0");
        let turn = ledger.turn().unwrap();
        ledger
            .apply(&turn, switching_on(), || {
                let journal = fs::read_to_string(host.journal("vpn0").unwrap()).unwrap();
                assert!(journal.contains("eth0"), "{journal}");
                Ok(Made::Now)
            })
            .unwrap();
        drop(turn);
        ledger.undo();
        ledger.undo();
        assert_eq!(host.files(), ["lock"]);
    }

    #[test]
    fn a_change_that_failed_or_was_needless_is_struck() {
        let host = Host::new();
        let mut ledger = host.begin("vpn0");
        let turn = ledger.turn().unwrap();
        let failure = || {
            let source = io::ErrorKind::ReadOnlyFilesystem.into();
            Err(NetworkError::NatUnavailable { what: "read-only".to_owned(), source })
        };
        ledger.apply(&turn, switching_on(), failure).unwrap_err();
        ledger.apply(&turn, switching_on(), || Ok(Made::Already)).unwrap();
        assert!(ledger.find(&switching_on()).is_none());
        let journal = fs::read_to_string(host.journal("vpn0").unwrap()).unwrap();
        assert!(!journal.contains("eth0"), "{journal}");
    }

    #[test]
    fn the_last_of_several_instances_puts_the_old_value_back() {
        let host = Host::new();
        let mut one = host.forwarding("vpn0");
        let mut two = host.forwarding("vpn1");
        one.undo();
        assert_eq!(host.value(), "1");
        let mut three = host.forwarding("vpn0");
        two.undo();
        assert_eq!(host.value(), "1");
        three.undo();
        assert_eq!(host.value(), "0");
        assert_eq!(host.files(), ["lock"]);
    }

    #[test]
    fn the_next_start_repairs_what_the_dead_left_but_not_what_the_living_need() {
        let host = Host::new();
        let one = host.forwarding("vpn0");
        let two = host.forwarding("vpn1");
        kill(one);
        let mut next = host.begin("vpn2");
        assert_eq!(host.value(), "1");
        assert_eq!(host.journal("vpn0"), None);
        kill(two);
        next.undo();
        assert_eq!(host.value(), "1", "undoing is no repair");
        host.begin("vpn1").undo();
        assert_eq!(host.value(), "0");
        assert_eq!(host.files(), ["lock"]);
    }

    #[test]
    fn dropping_undoes() {
        let host = Host::new();
        drop(host.forwarding("vpn0"));
        assert_eq!(host.value(), "0");
        let mut without_journal = Ledger::begin(None, "vpn0", host.sysctls.clone(), None).unwrap();
        let turn = without_journal.turn().unwrap();
        without_journal.switch_all(&turn, vec![switching_on()]).unwrap();
        assert_eq!(host.value(), "1");
        drop(without_journal);
        assert_eq!(host.value(), "0");
    }

    #[test]
    fn what_somebody_has_set_since_stays() {
        let host = Host::new();
        let ledger = host.forwarding("vpn0");
        host.sysctls.write(&eth0(), "2").unwrap();
        drop(ledger);
        assert_eq!(host.value(), "2");

        host.sysctls.write(&eth0(), "0").unwrap();
        let ledger = host.forwarding("vpn0");
        host.sysctls.write(&all(), "1").unwrap();
        drop(ledger);
        assert_eq!(host.value(), "1", "the whole host forwards now");
    }

    #[test]
    fn a_kept_switch_is_set_again_and_one_that_is_gone_is_no_failure() {
        let host = Host::new();
        let lan0 = Switch::v6("lan0", Key::Forwarding);
        let kept = |switch: &Switch| Change::Kept(Kept { switch: switch.clone(), value: "1".to_owned() });
        host.sysctls.write(&lan0, "0").unwrap();
        let gone = Switch::v6("gone0", Key::Forwarding);
        assert_eq!(take_back(vec![kept(&lan0), kept(&gone)], &[], &host.sysctls), []);
        assert_eq!(host.sysctls.read(&lan0).unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn what_cannot_be_undone_waits_in_the_journal() {
        let host = Host::new();
        let forged = Switch::v4("../eth0", Key::Forwarding);
        let impossible = Change::Switched(Switched {
            switch: forged,
            old: "0".to_owned(),
            new: "1".to_owned(),
            umbrella: None,
        });
        let mut ledger = host.begin("vpn0");
        let turn = ledger.turn().unwrap();
        ledger.switch_all(&turn, vec![switching_on()]).unwrap();
        ledger.apply(&turn, impossible, || Ok(Made::Now)).unwrap();
        drop(turn);
        ledger.undo();
        assert_eq!(host.value(), "0", "the others are undone");
        let journal = fs::read_to_string(host.journal("vpn0").unwrap()).unwrap();
        assert!(journal.contains("../eth0") && !journal.contains("\"eth0\""), "{journal}");

        let directory = StateDir::open(host.state.path()).unwrap();
        let guard = directory.guard(UNDO_LIMIT).unwrap();
        let report = repair_stale(&directory, &host.sysctls, &guard, None);
        assert_eq!((report.repaired, report.failed), (vec![], vec!["vpn0".to_owned()]));
    }

    #[test]
    fn a_name_is_held_once_per_state_directory() {
        let host = Host::new();
        let held = host.begin("vpn0");
        let refused = Ledger::begin(Some(host.state.path()), "vpn0", host.sysctls.clone(), None).unwrap_err();
        assert!(matches!(refused, NetworkError::InstanceInUse { .. }), "{refused}");
        drop(held);
        host.begin("vpn0");
    }

    #[test]
    fn a_journal_of_an_earlier_boot_is_void() {
        let host = Host::new();
        kill(host.forwarding("vpn0"));
        let path = host.journal("vpn0").unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let journal = fs::read_to_string(&path).unwrap();
        fs::write(&path, journal.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
        host.begin("vpn1").undo();
        assert_eq!(host.value(), "1");
        assert_eq!(host.files(), ["lock"]);
    }

    #[test]
    fn a_journal_of_another_namespace_waits_there() {
        let host = Host::new();
        kill(host.forwarding("vpn0"));
        let path = host.journal("vpn0").unwrap();
        fs::rename(path, host.state.path().join("vpn0@1.json")).unwrap();
        host.begin("vpn1").undo();
        assert_eq!(host.value(), "1");
        assert!(host.files().contains(&"vpn0@1.json".to_owned()), "{:?}", host.files());
    }

    #[test]
    fn unreadable_journals_stop_nobody() {
        let host = Host::new();
        kill(host.forwarding("vpn0"));
        let path = host.journal("vpn0").unwrap();
        let journal = fs::read_to_string(&path).unwrap();
        for text in ["", "{", "[]", &journal.replace("\"version\": 1", "\"version\": 2")] {
            fs::write(&path, text).unwrap();
            host.begin("vpn1").undo();
            assert_eq!(host.value(), "1");
        }
    }

    #[test]
    fn the_journal_is_readable_and_stable() {
        let host = Host::new();
        let mut ledger = host.begin("vpn0");
        let turn = ledger.turn().unwrap();
        let route = r#"{"route":{"destination":"203.0.113.7","prefix":32,"kind":"unicast","gateway":"192.0.2.1","ifindex":2,"onlink":false,"metric":0}}"#;
        let refusing =
            r#"{"route":{"destination":"::","prefix":1,"kind":"unreachable","onlink":false,"metric":1}}"#;
        let kept = r#"{"kept":{"switch":{"family":"v6","interface":"lan0","key":"forwarding"},"value":"1"}}"#;
        let table = r#"{"table":{"name":"smartvpn-vpn0"}}"#;
        let guard = r#"{"guard":{"name":"smartvpn_guard-vpn0"}}"#;
        let switched = r#"{"switched":{"switch":{"family":"v4","interface":"eth0","key":"forwarding"},"old":"0","new":"1","umbrella":[{"family":"v4","interface":"all","key":"forwarding"},"0"]}}"#;
        let resolved = r#"{"resolvers":{"resolved":{"name":"vpn0","ifindex":7}}}"#;
        let resolvconf = r#"{"resolvers":{"resolvconf":{"name":"tun.vpn0","flavour":"openresolv"}}}"#;
        let file = r#"{"resolvers":{"file":{"original":{"file":{"content":"IyBieSBoYW5kCg==","mode":420,"uid":0,"gid":0}},"written":["nameserver 10.8.0.1\n"]}}}"#;
        let lines = [route, refusing, kept, table, guard, switched, resolved, resolvconf, file];
        for line in lines {
            let change: Change = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&change).unwrap(), line);
            ledger.apply(&turn, change, || Ok(Made::Now)).unwrap();
        }
        let journal: serde_json::Value =
            serde_json::from_slice(&fs::read(host.journal("vpn0").unwrap()).unwrap()).unwrap();
        assert_eq!(journal["version"], 1);
        assert_eq!(journal["instance"], "vpn0");
        assert_eq!(journal["changes"].as_array().unwrap().len(), lines.len());
        drop(turn);
        kill(ledger);
    }
}
