//! The program `resolvconf`, of which there are two: Debian's own and openresolv.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::command::{self, Output};

const PROGRAM: &str = "resolvconf";
/// How long it may take: it waits up to 10 s for another one of its kind, and tells every local name
/// server.
const LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to remove our record: less than the 2 s that a synchronous undo has.
const REMOVAL_LIMIT: Duration = Duration::from_millis(1400);
/// Which records go before which, in Debian's resolvconf; openresolv reads it too.
const ORDER: &str = "/etc/resolvconf/interface-order";

/// Which of the programs it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::network) enum Flavour {
    /// Debian's, and whatever knows no more than `-a` and `-d`.
    Plain,
    /// openresolv, which can leave the others' resolvers out.
    Openresolv,
}

/// A record of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Record {
    name: String,
    flavour: Flavour,
}

/// Which program the host has; none, or one that only passes on to systemd-resolved.
pub(super) fn flavour() -> Option<Flavour> {
    let output = command::run(PROGRAM, &["--version"], b"", LIMIT).ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.split_whitespace().next() {
        Some("systemd") => None,
        Some("openresolv") => Some(Flavour::Openresolv),
        _ => Some(Flavour::Plain),
    }
}

impl Record {
    /// The record of an instance.
    pub(super) fn of(instance: &str, flavour: Flavour) -> Self {
        let order = fs::read_to_string(ORDER).unwrap_or_default();
        Self { name: format!("{}.{instance}", first_kind(&order)), flavour }
    }

    /// Adds it, or changes its resolvers.
    pub(super) fn add(&self, servers: &[IpAddr]) -> io::Result<()> {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let mut arguments = vec!["-a", &self.name];
        if self.flavour == Flavour::Openresolv {
            arguments.extend(["-m", "0", "-x"]);
        }
        succeeded(command::run(PROGRAM, &arguments, lines.as_bytes(), LIMIT)?)
    }

    /// Removes it; one that is not there is no error, nor is a program that is gone.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut arguments = vec!["-d", &self.name];
        if self.flavour == Flavour::Openresolv {
            arguments.push("-f");
        }
        match command::run(PROGRAM, &arguments, b"", REMOVAL_LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => succeeded(other?),
        }
    }
}

fn succeeded(output: Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = output.stderr.lines().last().unwrap_or("no reason given");
    Err(io::Error::other(format!("{PROGRAM} {}: {said}", output.status)))
}

/// The kind of interface that goes before all others but the loopback; `tun` unless told otherwise.
fn first_kind(order: &str) -> &str {
    let kinds = order.lines().filter_map(|line| line.trim().strip_suffix('*'));
    let mut plain =
        kinds.filter(|kind| !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    plain.next().unwrap_or("tun")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_goes_before_those_of_other_interfaces() {
        let debian = "# interface-order(5)\nlo.inet6\nlo.@(dnsmasq|pdnsd)\nlo\ntun*\ntap*\nem+([0-9])*\n*\n";
        assert_eq!(first_kind(debian), "tun");
        assert_eq!(first_kind("lo\n vpn*\ntun*\n"), "vpn");
        assert_eq!(first_kind("lo\n-x*\n../*\n*\n"), "tun");
        assert_eq!(first_kind(""), "tun");
    }
}
