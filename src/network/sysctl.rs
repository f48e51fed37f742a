//! The kernel's per-interface switches under `/proc/sys/net`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The switches we touch. Names outside this list cannot be written, whatever a journal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Key {
    /// Whether packets that come in here are sent on.
    Forwarding,
    /// IPv6 only, since Linux 6.17: the same for one interface, without making it a router's.
    ForceForwarding,
    /// IPv6 only: whether router advertisements count; 2 means on a router too.
    AcceptRa,
}

/// The two families' trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Family {
    V4,
    V6,
}

/// One switch of one interface, or of `all` or `default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Switch {
    pub(super) family: Family,
    pub(super) interface: String,
    pub(super) key: Key,
}

/// `/proc/sys`, or what stands for it in a test.
#[derive(Clone, Debug)]
pub(super) struct Sysctls {
    root: PathBuf,
}

impl Switch {
    pub(super) fn v4(interface: &str, key: Key) -> Self {
        Self { family: Family::V4, interface: interface.to_owned(), key }
    }

    pub(super) fn v6(interface: &str, key: Key) -> Self {
        Self { family: Family::V6, interface: interface.to_owned(), key }
    }

    fn relative_path(&self) -> String {
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let key = match self.key {
            Key::Forwarding => "forwarding",
            Key::ForceForwarding => "force_forwarding",
            Key::AcceptRa => "accept_ra",
        };
        format!("net/{family}/conf/{}/{key}", self.interface)
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/proc/sys/{}", self.relative_path())
    }
}

impl Sysctls {
    /// The kernel's own, of the calling thread's network namespace.
    pub(super) fn of_kernel() -> Self {
        Self::at("/proc/sys")
    }

    pub(super) fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }

    /// The switch's value; `None` if the kernel has no such switch or the interface is gone.
    pub(super) fn read(&self, switch: &Switch) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(switch)?) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, switch: &Switch, value: &str) -> io::Result<()> {
        // Opened, not created: in a test's tree too a missing switch stays missing.
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(self.path(switch)?)?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    /// The interfaces that have switches in this family, without `all` and `default`.
    pub(super) fn interfaces(&self, family: Family) -> io::Result<Vec<String>> {
        let tree = match family {
            Family::V4 => "net/ipv4/conf",
            Family::V6 => "net/ipv6/conf",
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(tree))? {
            if let Ok(name) = entry?.file_name().into_string()
                && !matches!(name.as_str(), "all" | "default")
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The path; an interface name that would lead elsewhere, from a forged journal, is refused.
    fn path(&self, switch: &Switch) -> io::Result<PathBuf> {
        if matches!(switch.interface.as_str(), "" | "." | "..") || switch.interface.contains(['/', '\0']) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
        }
        Ok(self.root.join(switch.relative_path()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tree with the given switches, as `("ipv4/conf/eth0/forwarding", "0")`.
    pub(in crate::network) fn fake(switches: &[(&str, &str)]) -> (tempfile::TempDir, Sysctls) {
        let directory = tempfile::tempdir().unwrap();
        for (path, value) in switches {
            let path = directory.path().join("net").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let sysctls = Sysctls::at(directory.path());
        (directory, sysctls)
    }

    #[test]
    fn reads_and_writes_one_switch() {
        let (_tree, sysctls) = fake(&[("ipv4/conf/eth0.7/forwarding", "0")]);
        let switch = Switch::v4("eth0.7", Key::Forwarding);
        assert_eq!(switch.to_string(), "/proc/sys/net/ipv4/conf/eth0.7/forwarding");
        assert_eq!(sysctls.read(&switch).unwrap().as_deref(), Some("0"));
        sysctls.write(&switch, "1").unwrap();
        assert_eq!(sysctls.read(&switch).unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn a_missing_switch_is_none_and_is_not_made() {
        let (_tree, sysctls) = fake(&[("ipv6/conf/eth0/forwarding", "0")]);
        let switch = Switch::v6("eth0", Key::ForceForwarding);
        assert_eq!(sysctls.read(&switch).unwrap(), None);
        assert_eq!(sysctls.write(&switch, "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(sysctls.read(&switch).unwrap(), None);
    }

    #[test]
    fn lists_interfaces_only() {
        let (_tree, sysctls) = fake(&[
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/default/forwarding", "0"),
            ("ipv6/conf/lo/forwarding", "0"),
            ("ipv6/conf/eth0/forwarding", "0"),
        ]);
        assert_eq!(sysctls.interfaces(Family::V6).unwrap(), ["eth0", "lo"]);
    }

    #[test]
    fn no_name_leads_out_of_the_tree() {
        let (_tree, sysctls) = fake(&[("ipv4/conf/eth0/forwarding", "0")]);
        for name in ["", ".", "..", "../eth0", "a/../eth0", "eth0\0"] {
            let switch = Switch::v4(name, Key::Forwarding);
            assert_eq!(sysctls.read(&switch).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
