//! The host's resolvers: which servers its programs ask for names.
//!
//! There are three ways to set them, and `/etc/resolv.conf` tells which one the host goes by:
//! systemd-resolved takes them per interface over D-Bus, the program `resolvconf` merges what each
//! interface has, and where neither is in charge the file is rewritten.

mod file;
mod resolvconf;
mod resolved;
mod rewrite;
mod text;

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::file::Found;
use self::resolvconf::Record;
use self::resolved::Refusal;
use self::rewrite::Rewrite;
use super::change::Change;
use super::error::NetworkError;
use super::ledger::{Ledger, Made, Turn};

/// Where the C library reads which resolvers to ask.
const PATH: &str = "/etc/resolv.conf";

/// How the host's resolvers were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverMethod {
    /// systemd-resolved was told, over D-Bus.
    Resolved,
    /// The program `resolvconf` was told.
    Resolvconf,
    /// `/etc/resolv.conf` was rewritten.
    File,
}

/// The resolvers of one instance, as the journal has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Resolvers {
    /// Told to systemd-resolved.
    Resolved(resolved::Link),
    /// Told to `resolvconf`.
    Resolvconf(Record),
    /// Written into `/etc/resolv.conf`.
    File(Rewrite),
}

/// Who is in charge of `/etc/resolv.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InCharge {
    Resolved,
    Resolvconf,
    Nobody,
}

impl InCharge {
    fn of(found: &Found) -> Self {
        // Relative links go up as far as they need to.
        let target =
            found.target().and_then(Path::to_str).map(|target| target.trim_start_matches(['.', '/']));
        let content = found.content().unwrap_or_default();
        match target {
            // Its other file names the servers themselves: programs ask those, not resolved.
            Some("run/systemd/resolve/stub-resolv.conf") => Self::Resolved,
            Some("run/resolvconf/resolv.conf" | "etc/resolvconf/run/resolv.conf") => Self::Resolvconf,
            _ if text::is_stub_of_resolved(content) => Self::Resolved,
            _ if text::is_generated_by_resolvconf(content) => Self::Resolvconf,
            _ => Self::Nobody,
        }
    }
}

impl Resolvers {
    /// See [`Change::is_about_the_same`].
    pub(super) fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resolved(one), Self::Resolved(two)) => one == two,
            (Self::Resolvconf(one), Self::Resolvconf(two)) => one == two,
            (Self::File(_), Self::File(_)) => true,
            _ => false,
        }
    }

    /// Takes them back. Other instances that have rewritten the same file are among `theirs`.
    pub(super) fn take_back(&self, theirs: &[Change]) -> io::Result<()> {
        match self {
            Self::Resolved(link) => link.revert(),
            Self::Resolvconf(record) => record.remove(),
            Self::File(rewrite) => rewrite.take_back(Path::new(PATH), rewrites(theirs)),
        }
    }

    fn method(&self) -> ResolverMethod {
        match self {
            Self::Resolved(_) => ResolverMethod::Resolved,
            Self::Resolvconf(_) => ResolverMethod::Resolvconf,
            Self::File(_) => ResolverMethod::File,
        }
    }
}

impl Ledger {
    /// Has the host's programs ask `servers` for names, in that order; returns how that was done.
    ///
    /// Called again, it changes the servers, in the way that was chosen first; and returns none if
    /// somebody else has rewritten the file since, which is then left to them.
    pub(super) fn set_resolvers(
        &mut self,
        servers: &[IpAddr],
        ifindex: u32,
    ) -> Result<Option<ResolverMethod>, NetworkError> {
        let turn = self.turn()?;
        if let Some(present) = self.resolvers().cloned() {
            return self.change_resolvers(&turn, present, servers);
        }
        let now = look()?;
        match InCharge::of(&now) {
            InCharge::Resolved => self.tell_resolved(&turn, &now, servers, ifindex),
            InCharge::Resolvconf => self.tell_resolvconf(&turn, &now, servers),
            InCharge::Nobody => self.rewrite_file(&turn, &now, servers),
        }
        .map(Some)
    }

    /// Gives the host its own resolvers back.
    pub(super) fn unset_resolvers(&mut self) -> Result<(), NetworkError> {
        match self.resolvers().cloned() {
            Some(present) => self.withdraw(&Change::Resolvers(present)),
            None => Ok(()),
        }
    }

    fn resolvers(&self) -> Option<&Resolvers> {
        self.changes().find_map(|change| match change {
            Change::Resolvers(resolvers) => Some(resolvers),
            _ => None,
        })
    }

    fn tell_resolved(
        &mut self,
        turn: &Turn,
        now: &Found,
        servers: &[IpAddr],
        ifindex: u32,
    ) -> Result<ResolverMethod, NetworkError> {
        let link = resolved::Link { name: self.instance.clone(), ifindex };
        let mut absent = false;
        let told = self.apply(turn, Change::Resolvers(Resolvers::Resolved(link.clone())), || {
            link.set(servers).map(|()| Made::Now).map_err(|refusal| {
                absent = matches!(refusal, Refusal::Absent(_));
                not_taken_by_resolved(refusal)
            })
        });
        match told {
            Err(error) if absent => {
                tracing::info!(%error, "{PATH} names systemd-resolved, which cannot be used: it is rewritten");
                self.rewrite_file(turn, now, servers)
            }
            other => other.map(|()| ResolverMethod::Resolved),
        }
    }

    fn tell_resolvconf(
        &mut self,
        turn: &Turn,
        now: &Found,
        servers: &[IpAddr],
    ) -> Result<ResolverMethod, NetworkError> {
        let Some(flavour) = resolvconf::flavour() else { return self.rewrite_file(turn, now, servers) };
        let record = Record::of(&self.instance, flavour);
        self.apply(turn, Change::Resolvers(Resolvers::Resolvconf(record.clone())), || {
            add_record(&record, servers).map(|()| Made::Now)
        })?;
        Ok(ResolverMethod::Resolvconf)
    }

    fn rewrite_file(
        &mut self,
        turn: &Turn,
        now: &Found,
        servers: &[IpAddr],
    ) -> Result<ResolverMethod, NetworkError> {
        let rewrite = Rewrite::of(&self.instance, servers, now, rewrites(&turn.theirs));
        let rewrite = rewrite.ok_or_else(|| orphaned(now))?;
        self.apply(turn, Change::Resolvers(Resolvers::File(rewrite.clone())), || {
            rewrite.write(Path::new(PATH), now).map(|()| Made::Now).map_err(unwritable)
        })?;
        Ok(ResolverMethod::File)
    }

    fn change_resolvers(
        &mut self,
        turn: &Turn,
        present: Resolvers,
        servers: &[IpAddr],
    ) -> Result<Option<ResolverMethod>, NetworkError> {
        let method = present.method();
        match present {
            Resolvers::Resolved(link) => link.set(servers).map_err(not_taken_by_resolved)?,
            Resolvers::Resolvconf(record) => add_record(&record, servers)?,
            Resolvers::File(present) => {
                let now = look()?;
                if !present.is_at(&now) && !rewrites(&turn.theirs).any(|theirs| theirs.is_at(&now)) {
                    tracing::warn!("{PATH} is left as it is: somebody has changed it since we wrote it");
                    return Ok(None);
                }
                let next = present.changed_to(&self.instance, servers);
                self.amend(Change::Resolvers(Resolvers::File(next.clone())), || {
                    next.write(Path::new(PATH), &now).map_err(unwritable)
                })?;
            }
        }
        Ok(Some(method))
    }
}

/// Adds the record, and makes sure that programs go by it.
fn add_record(record: &Record, servers: &[IpAddr]) -> Result<(), NetworkError> {
    let shown = || -> Result<(), NetworkError> {
        record.add(servers).map_err(|source| failed("resolvconf did not take them", source))?;
        let now = look()?;
        let named = text::nameservers(now.content().unwrap_or_default());
        // A name server on this host is told by resolvconf whom to ask.
        if named.iter().any(|server| server.is_loopback() || servers.contains(server)) {
            return Ok(());
        }
        let source = io::Error::other(format!("{PATH} does not name them"));
        Err(failed("resolvconf keeps them to itself; `resolvconf --enable-updates` may help", source))
    };
    shown().inspect_err(|_| {
        // What is told is the first failure.
        let _ = record.remove();
    })
}

fn look() -> Result<Found, NetworkError> {
    Found::at(Path::new(PATH)).map_err(|source| failed(format!("{PATH} cannot be read"), source))
}

fn rewrites(changes: &[Change]) -> impl Iterator<Item = &Rewrite> + Clone {
    changes.iter().filter_map(|change| match change {
        Change::Resolvers(Resolvers::File(rewrite)) => Some(rewrite),
        _ => None,
    })
}

fn not_taken_by_resolved(refusal: Refusal) -> NetworkError {
    let source = match refusal {
        Refusal::Failed(source) => source,
        Refusal::Absent(why) => io::Error::other(why),
    };
    failed("systemd-resolved did not take them", source)
}

fn unwritable(source: io::Error) -> NetworkError {
    failed(format!("{PATH} cannot be written: is it read-only, immutable, or another user's?"), source)
}

/// The file is ours, and who wrote it left no word about what was there before.
fn orphaned(now: &Found) -> NetworkError {
    let owner = now.content().and_then(text::owner).unwrap_or_default();
    let what = format!(
        "{PATH} was written for the tunnel {owner}, of which this stateDir knows nothing: if that tunnel is \
         up, use its stateDir; if it is gone, write your own resolvers into the file"
    );
    failed(what, io::ErrorKind::AlreadyExists.into())
}

fn failed(what: impl Into<String>, source: io::Error) -> NetworkError {
    NetworkError::Resolvers { what: what.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_charge(at: impl FnOnce(&Path)) -> InCharge {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("resolv.conf");
        at(&path);
        InCharge::of(&Found::at(&path).unwrap())
    }

    fn with_text(text: &str) -> InCharge {
        in_charge(|path| std::fs::write(path, text).unwrap())
    }

    fn with_link(target: &str) -> InCharge {
        in_charge(|path| std::os::unix::fs::symlink(target, path).unwrap())
    }

    #[test]
    fn the_file_tells_who_is_in_charge_of_it() {
        assert_eq!(with_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n"), InCharge::Resolved);
        assert_eq!(with_text("# Generated by resolvconf\nnameserver 192.0.2.1\n"), InCharge::Resolvconf);
        for text in ["", "nameserver 192.0.2.1\n", "# Generated by NetworkManager\nnameserver 192.0.2.1\n"] {
            assert_eq!(with_text(text), InCharge::Nobody, "{text}");
        }
        assert_eq!(in_charge(|_| {}), InCharge::Nobody);
    }

    #[test]
    fn so_does_where_its_link_leads() {
        for target in ["../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"] {
            assert_eq!(with_link(target), InCharge::Resolved, "{target}");
        }
        for target in ["/run/resolvconf/resolv.conf", "/etc/resolvconf/run/resolv.conf"] {
            assert_eq!(with_link(target), InCharge::Resolvconf, "{target}");
        }
        for target in ["../run/systemd/resolve/resolv.conf", "/run/NetworkManager/resolv.conf"] {
            assert_eq!(with_link(target), InCharge::Nobody, "{target}");
        }
    }
}
