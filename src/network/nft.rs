//! Tables of our own in nftables, written and removed by the program `nft`, each in one transaction.

use std::io;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::command;
use super::error::NetworkError;

/// How long `nft` may take; it needs some 20 ms on an idle machine with few rules.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to remove a table: less than the 2 s that a synchronous undo has.
pub(super) const REMOVAL_LIMIT: Duration = Duration::from_millis(1500);

/// What names of our tables begin with: those that translate, and those that guard. An instance's name may hold
/// anything that follows, so the two differ before it.
const PREFIXES: [&str; 2] = ["smartvpn-", "smartvpn_guard-"];

/// The name of the table that translates an instance's addresses.
pub(super) fn nat_table(instance: &str) -> String {
    format!("{}{instance}", PREFIXES[0])
}

/// The name of the tables that guard an instance's addresses.
pub(super) fn guard_table(instance: &str) -> String {
    format!("{}{instance}", PREFIXES[1])
}

/// Whether a table of this name is one of ours.
pub(super) fn is_our_table(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A table, and what can be said to `nft` about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) family: &'a str,
    pub(super) name: &'a str,
}

impl Table<'_> {
    /// Its removal. Adding it first makes that valid in either case.
    pub(super) fn removal(self) -> Vec<Value> {
        let table = json!({ "table": { "family": self.family, "name": self.name } });
        vec![json!({ "add": table }), json!({ "delete": table })]
    }

    /// The old one away, and an empty one in its place.
    pub(super) fn anew(self) -> Vec<Value> {
        let mut commands = self.removal();
        commands.push(json!({ "add": { "table": { "family": self.family, "name": self.name } } }));
        commands
    }

    /// A chain at a hook, which lets pass what no rule of it drops.
    pub(super) fn chain(self, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
        json!({ "add": { "chain": {
            "family": self.family, "table": self.name, "name": name,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } })
    }

    /// A rule at the end of a chain.
    #[expect(clippy::needless_pass_by_value, reason = "the value moves into the rule")]
    pub(super) fn rule(self, chain: &str, expr: Value) -> Value {
        json!({ "add": { "rule": { "family": self.family, "table": self.name, "chain": chain, "expr": expr } } })
    }
}

/// A comparison of something that the kernel knows of a packet beside its bytes.
#[expect(clippy::needless_pass_by_value, reason = "the value moves into the rule")]
pub(super) fn meta(key: &str, op: &str, right: Value) -> Value {
    json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": right } })
}

/// A comparison of a header's field with a network.
pub(super) fn within(protocol: &str, field: &str, net: IpNet) -> Value {
    json!({ "match": {
        "op": "==",
        "left": { "payload": { "protocol": protocol, "field": field } },
        "right": { "prefix": { "addr": net.network(), "len": net.prefix_len() } },
    } })
}

/// The name that rules have for the protocol of these addresses.
pub(super) fn protocol(net: IpNet) -> &'static str {
    if net.addr().is_ipv4() { "ip" } else { "ip6" }
}

/// Carries the commands out, all or none of them.
pub(super) fn transact(commands: &[Value], limit: Duration) -> io::Result<()> {
    let input = json!({ "nftables": commands }).to_string();
    run(&["-j", "-f", "-"], input.as_bytes(), limit).map(drop)
}

/// Writes what `purpose` is for.
pub(super) fn install(commands: &[Value], purpose: &str, needs: &str) -> Result<(), NetworkError> {
    transact(commands, LIMIT).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            NetworkError::PermissionDenied { what: purpose.to_owned(), source }
        }
        io::ErrorKind::NotFound => {
            let what = format!("{purpose} needs the program nft: `apt-get install nftables`");
            NetworkError::NatUnavailable { what, source }
        }
        io::ErrorKind::InvalidInput => {
            let what = format!("the kernel refused the {purpose} rules: it needs {needs}");
            NetworkError::NatUnavailable { what, source }
        }
        _ => NetworkError::NatUnavailable { what: "nft could not be run".to_owned(), source },
    })
}

/// The whole ruleset of the kernel, as `nft -j list ruleset` says it.
pub(super) fn list_ruleset() -> io::Result<Value> {
    list("ruleset")
}

/// The names of all tables, each once for each family that it is in.
pub(super) fn list_tables() -> io::Result<Vec<String>> {
    let listing = list("tables")?;
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(objects.iter().filter_map(|object| Some(object["table"]["name"].as_str()?.to_owned())).collect())
}

fn list(what: &str) -> io::Result<Value> {
    serde_json::from_slice(&run(&["-j", "list", what], b"", LIMIT)?).map_err(io::Error::other)
}

/// `PermissionDenied` and `InvalidInput` are the kernel's refusals.
fn run(arguments: &[&str], input: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let output = command::run("nft", arguments, input, limit)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let kind = if output.stderr.contains("Operation not permitted") {
        io::ErrorKind::PermissionDenied
    } else {
        io::ErrorKind::InvalidInput
    };
    Err(io::Error::new(kind, format!("nft: {}", output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_is_valid_whether_or_not_the_table_is_there() {
        let table = Table { family: "inet", name: "smartvpn-x" };
        assert_eq!(
            table.removal().iter().map(Value::to_string).collect::<Vec<_>>(),
            [
                r#"{"add":{"table":{"family":"inet","name":"smartvpn-x"}}}"#,
                r#"{"delete":{"table":{"family":"inet","name":"smartvpn-x"}}}"#,
            ]
        );
    }

    #[test]
    fn our_tables_are_known_by_their_names_and_no_instance_has_anothers() {
        assert!(is_our_table(&nat_table("x")) && is_our_table(&guard_table("x")) && !is_our_table("filter"));
        for instance in ["x", "guard-x", "_guard-x", "-x"] {
            assert_ne!(nat_table(instance), guard_table("x"));
        }
    }
}
