//! A resolv.conf of ours in place of the host's, and what the journal holds of both.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{self, Found};
use super::text;

/// How many texts of ours are remembered: the one in force, and the one before it, which a process
/// that was killed in between has left in force.
const REMEMBERED: usize = 2;

/// A resolv.conf of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Rewrite {
    /// What was at the path before any of our instances wrote there.
    original: Found,
    /// What we write there, the last one holds.
    written: Vec<String>,
}

impl Rewrite {
    /// What `instance` would write in place of `now`, which is at the path. If another instance has
    /// written that, what was there before is the same for both.
    ///
    /// None where `now` is a text of ours, but of none of `others`: nobody knows what was there before.
    pub(super) fn of<'a>(
        instance: &str,
        servers: &[IpAddr],
        now: &Found,
        others: impl IntoIterator<Item = &'a Self>,
    ) -> Option<Self> {
        let other = others.into_iter().find(|other| other.is_at(now));
        if other.is_none() && now.content().and_then(text::owner).is_some() {
            return None;
        }
        let original = other.map_or_else(|| now.clone(), |other| other.original.clone());
        let nothing = Self { original, written: Vec::new() };
        Some(nothing.changed_to(instance, servers))
    }

    /// The same with other resolvers.
    pub(super) fn changed_to(&self, instance: &str, servers: &[IpAddr]) -> Self {
        let text = text::render(instance, servers, self.original.content().unwrap_or_default());
        let mut written = self.written.clone();
        written.push(text);
        written.drain(..written.len().saturating_sub(REMEMBERED));
        Self { original: self.original.clone(), written }
    }

    /// Whether what is at the path is of our writing, and nobody has changed it since.
    pub(super) fn is_at(&self, now: &Found) -> bool {
        let as_written = |content: &[u8]| self.written.iter().any(|text| text.as_bytes() == content);
        // A link was replaced by a file, or written through.
        let is_same_link = now.target().is_none() || now.target() == self.original.target();
        is_same_link && now.content().is_some_and(as_written)
    }

    /// Writes the text in place of `now`, which is at the path.
    pub(super) fn write(&self, path: &Path, now: &Found) -> io::Result<()> {
        let text = self.written.last().map_or("", String::as_str);
        if now.content() == Some(text.as_bytes()) {
            return Ok(());
        }
        now.replace_with(path, text.as_bytes())
    }

    /// Puts back what was there before, or what another instance wants there, unless somebody has
    /// changed it since.
    pub(super) fn take_back<'a>(
        &self,
        path: &Path,
        others: impl Iterator<Item = &'a Self> + Clone,
    ) -> io::Result<()> {
        file::tidy(path)?;
        let now = Found::at(path)?;
        if self.is_at(&now) {
            return match others.clone().find(|other| other.original == self.original) {
                Some(other) => other.write(path, &now),
                None => self.original.put_back(path, &now),
            };
        }
        if now != self.original && !others.clone().any(|other| other.is_at(&now)) {
            tracing::warn!(
                path = %path.display(),
                "left as it is: somebody has changed it since we wrote it; check the resolvers in it"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    const ORIGINAL: &str = "# by hand\nnameserver 192.0.2.1\nsearch corp.test\n";

    /// An `/etc` with a resolv.conf.
    struct Etc(tempfile::TempDir);

    impl Etc {
        fn new() -> Self {
            let etc = Self(tempfile::tempdir().unwrap());
            fs::write(etc.path(), ORIGINAL).unwrap();
            fs::set_permissions(etc.path(), fs::Permissions::from_mode(0o640)).unwrap();
            etc
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("resolv.conf")
        }

        fn read(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }

        /// What an instance does that comes up.
        fn up(&self, instance: &str, server: &str, others: &[&Rewrite]) -> Rewrite {
            let now = Found::at(&self.path()).unwrap();
            let rewrite =
                Rewrite::of(instance, &[server.parse().unwrap()], &now, others.iter().copied()).unwrap();
            rewrite.write(&self.path(), &now).unwrap();
            assert!(self.read().contains(&format!("nameserver {server}\n")), "{}", self.read());
            rewrite
        }

        fn down(&self, rewrite: &Rewrite, others: &[&Rewrite]) {
            rewrite.take_back(&self.path(), others.iter().copied()).unwrap();
        }

        #[track_caller]
        fn assert_original(&self) {
            assert_eq!(self.read(), ORIGINAL);
            assert_eq!(self.path().metadata().unwrap().mode() & 0o7777, 0o640);
            assert_eq!(self.names(), ["resolv.conf"]);
        }
    }

    #[test]
    fn the_original_comes_back_with_its_mode() {
        let etc = Etc::new();
        let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
        assert!(!etc.read().contains("192.0.2.1"));
        assert_eq!(etc.path().metadata().unwrap().mode() & 0o7777, 0o640);
        etc.down(&rewrite, &[]);
        etc.assert_original();
        etc.down(&rewrite, &[]);
        etc.assert_original();
    }

    #[test]
    fn what_was_not_there_is_gone_again() {
        let etc = Etc::new();
        fs::remove_file(etc.path()).unwrap();
        let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
        assert_eq!(etc.path().metadata().unwrap().mode() & 0o7777, PUBLIC);
        etc.down(&rewrite, &[]);
        assert_eq!(etc.names(), Vec::<String>::new());
    }

    const PUBLIC: u32 = 0o644;

    #[test]
    fn a_link_is_replaced_and_its_target_is_left_alone() {
        let etc = Etc::new();
        let target = etc.0.path().join("elsewhere");
        fs::rename(etc.path(), &target).unwrap();
        for goes_on in [false, true] {
            symlink("elsewhere", etc.path()).unwrap();
            let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
            assert_eq!(fs::read_to_string(&target).unwrap(), ORIGINAL);
            if goes_on {
                fs::write(&target, "nameserver 192.0.2.9\n").unwrap();
            }
            etc.down(&rewrite, &[]);
            assert_eq!(etc.path().read_link().unwrap(), Path::new("elsewhere"));
            assert_eq!(etc.read() == ORIGINAL, !goes_on);
            fs::remove_file(etc.path()).unwrap();
        }
        symlink("nowhere", etc.path()).unwrap();
        let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
        etc.down(&rewrite, &[]);
        assert_eq!(etc.path().read_link().unwrap(), Path::new("nowhere"));
    }

    #[test]
    fn somebodys_later_change_stays() {
        let change = |etc: &Etc, number| match number {
            0 => fs::write(etc.path(), "nameserver 192.0.2.9\n").unwrap(),
            1 => fs::write(etc.path(), format!("{}nameserver 192.0.2.9\n", etc.read())).unwrap(),
            2 => fs::remove_file(etc.path()).unwrap(),
            _ => {
                fs::rename(etc.path(), etc.0.path().join("elsewhere")).unwrap();
                symlink("elsewhere", etc.path()).unwrap();
            }
        };
        for number in 0..4 {
            let etc = Etc::new();
            let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
            change(&etc, number);
            let theirs = Found::at(&etc.path()).unwrap();
            etc.down(&rewrite, &[]);
            assert_eq!(Found::at(&etc.path()).unwrap(), theirs, "change {number}");
        }
    }

    #[test]
    fn the_last_of_two_instances_brings_the_original_back() {
        let etc = Etc::new();
        let one = etc.up("vpn0", "10.8.0.1", &[]);
        let two = etc.up("vpn1", "10.9.0.1", &[&one]);
        etc.down(&one, &[&two]);
        assert!(etc.read().contains("10.9.0.1"));
        etc.down(&two, &[]);
        etc.assert_original();

        let one = etc.up("vpn0", "10.8.0.1", &[]);
        let two = etc.up("vpn1", "10.9.0.1", &[&one]);
        etc.down(&two, &[&one]);
        assert!(etc.read().contains("10.8.0.1"), "the other one's are in force again");
        etc.down(&one, &[]);
        etc.assert_original();
    }

    #[test]
    fn an_edit_between_two_instances_is_the_second_ones_original() {
        let etc = Etc::new();
        let one = etc.up("vpn0", "10.8.0.1", &[]);
        fs::write(etc.path(), "nameserver 192.0.2.9\n").unwrap();
        let two = etc.up("vpn1", "10.9.0.1", &[&one]);
        etc.down(&two, &[&one]);
        assert_eq!(etc.read(), "nameserver 192.0.2.9\n");
        etc.down(&one, &[]);
        assert_eq!(etc.read(), "nameserver 192.0.2.9\n");
    }

    #[test]
    fn a_text_of_ours_that_no_journal_knows_is_no_original() {
        let etc = Etc::new();
        etc.up("vpn0", "10.8.0.1", &[]);
        let now = Found::at(&etc.path()).unwrap();
        assert_eq!(Rewrite::of("vpn1", &["10.9.0.1".parse().unwrap()], &now, []), None);
    }

    #[test]
    fn a_change_of_resolvers_can_be_cut_short() {
        let etc = Etc::new();
        let first = etc.up("vpn0", "10.8.0.1", &[]);
        let second = first.changed_to("vpn0", &["10.8.0.2".parse().unwrap()]);
        // Written down, not made.
        etc.down(&second, &[]);
        etc.assert_original();
        let first = etc.up("vpn0", "10.8.0.1", &[]);
        let mut last = first;
        for server in ["10.8.0.2", "10.8.0.3", "10.8.0.4"] {
            last = last.changed_to("vpn0", &[server.parse().unwrap()]);
            last.write(&etc.path(), &Found::at(&etc.path()).unwrap()).unwrap();
        }
        assert!(etc.read().contains("10.8.0.4") && !etc.read().contains("10.8.0.3"));
        assert!(last.written.len() <= REMEMBERED);
        etc.down(&last, &[]);
        etc.assert_original();
    }

    #[test]
    fn what_a_killed_writer_left_beside_the_file_is_removed() {
        let etc = Etc::new();
        let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
        fs::write(etc.0.path().join(".resolv.conf.smartvpn"), "half").unwrap();
        etc.down(&rewrite, &[]);
        etc.assert_original();
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let etc = Etc::new();
        fs::write(etc.path(), vec![b'#'; 64 * 1024 + 1]).unwrap();
        assert_eq!(Found::at(&etc.path()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::remove_file(etc.path()).unwrap();
        fs::create_dir(etc.path()).unwrap();
        assert_eq!(Found::at(&etc.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        fs::remove_dir(etc.path()).unwrap();
        let fifo = etc.path();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(Found::at(&etc.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_journal_holds_any_bytes() {
        let etc = Etc::new();
        fs::write(etc.path(), b"nameserver 192.0.2.1\n# \xff\x00\n").unwrap();
        let original = Found::at(&etc.path()).unwrap();
        let rewrite = etc.up("vpn0", "10.8.0.1", &[]);
        let text = serde_json::to_string(&rewrite).unwrap();
        etc.down(&serde_json::from_str(&text).unwrap(), &[]);
        assert_eq!(Found::at(&etc.path()).unwrap(), original);
    }
}
