//! Masquerading, in an nftables table of our own that is written and removed in one transaction.

use std::io;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::command::{self, Output};
use super::error::NetworkError;

/// How long `nft` may take; it needs some 20 ms on an idle machine with few rules.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to remove our table: less than the 2 s that a synchronous undo has.
const REMOVAL_LIMIT: Duration = Duration::from_millis(1500);
/// What names of our tables begin with.
const PREFIX: &str = "smartvpn-";

/// What the table of one instance is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Masquerade {
    pub(super) tun: String,
    pub(super) v4: Ipv4Net,
    pub(super) v6: Option<Ipv6Net>,
    pub(super) client_to_client: bool,
}

/// The name of an instance's table.
pub(super) fn table_name(instance: &str) -> String {
    format!("{PREFIX}{instance}")
}

/// Whether a table of this name is one of ours.
pub(super) fn is_our_table(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Writes the table, in place of one of the same name.
pub(super) fn install(table: &str, masquerade: &Masquerade) -> Result<(), NetworkError> {
    let output = nft(&ruleset(table, masquerade), LIMIT).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => NetworkError::NatUnavailable {
            what: "masquerading needs the program nft: `apt-get install nftables`".to_owned(),
            source,
        },
        _ => NetworkError::NatUnavailable { what: "nft could not be run".to_owned(), source },
    })?;
    refusal(&output).map_or(Ok(()), |source| {
        let denied = source.kind() == io::ErrorKind::PermissionDenied;
        Err(if denied {
            NetworkError::PermissionDenied { what: "masquerading".to_owned(), source }
        } else {
            NetworkError::NatUnavailable {
                what: "the kernel refused the masquerading rules: it needs nf_tables with NAT for the \
                       inet family (Linux 5.2 or later)"
                    .to_owned(),
                source,
            }
        })
    })
}

/// Removes the table; one that is not there is no error.
pub(super) fn remove(table: &str) -> io::Result<()> {
    let output = nft(&json!({ "nftables": removal(table) }), REMOVAL_LIMIT)?;
    refusal(&output).map_or(Ok(()), Err)
}

/// The whole ruleset of the kernel, as `nft -j list ruleset` says it.
pub(super) fn list_ruleset() -> io::Result<Value> {
    let output = command::run("nft", &["-j", "list", "ruleset"], b"", LIMIT)?;
    refusal(&output).map_or(Ok(()), Err)?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

fn nft(commands: &Value, limit: Duration) -> io::Result<Output> {
    command::run("nft", &["-j", "-f", "-"], commands.to_string().as_bytes(), limit)
}

fn refusal(output: &Output) -> Option<io::Error> {
    if output.status.success() {
        return None;
    }
    let kind = if output.stderr.contains("Operation not permitted") {
        io::ErrorKind::PermissionDenied
    } else {
        io::ErrorKind::Other
    };
    Some(io::Error::new(kind, format!("nft: {}", output.stderr)))
}

/// One transaction: the old table away, the new one in its place.
fn ruleset(table: &str, masquerade: &Masquerade) -> Value {
    let tun = &masquerade.tun;
    let mut commands = removal(table);
    commands.push(json!({ "add": { "table": { "family": "inet", "name": table } } }));
    commands.push(chain(table, "postrouting", "nat", "postrouting", 100));
    commands.push(masquerade_rule(table, tun, masquerade.v4.into()));
    commands.extend(masquerade.v6.map(|net| masquerade_rule(table, tun, net.into())));
    if !masquerade.client_to_client {
        commands.push(chain(table, "forward", "filter", "forward", 0));
        commands.push(rule(
            table,
            "forward",
            json!([name_match("iifname", "==", tun), name_match("oifname", "==", tun), { "drop": null }]),
        ));
    }
    json!({ "nftables": commands })
}

/// Adding it first makes removing it valid in either case.
fn removal(table: &str) -> Vec<Value> {
    let table = json!({ "table": { "family": "inet", "name": table } });
    vec![json!({ "add": table }), json!({ "delete": table })]
}

fn chain(table: &str, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
    json!({ "add": { "chain": {
        "family": "inet", "table": table, "name": name,
        "type": kind, "hook": hook, "prio": priority, "policy": "accept",
    } } })
}

fn masquerade_rule(table: &str, tun: &str, net: IpNet) -> Value {
    let protocol = if net.addr().is_ipv4() { "ip" } else { "ip6" };
    let source = json!({ "match": {
        "op": "==",
        "left": { "payload": { "protocol": protocol, "field": "saddr" } },
        "right": { "prefix": { "addr": net.network(), "len": net.prefix_len() } },
    } });
    rule(table, "postrouting", json!([source, name_match("oifname", "!=", tun), { "masquerade": null }]))
}

#[expect(clippy::needless_pass_by_value, reason = "the value moves into the rule")]
fn rule(table: &str, chain: &str, expr: Value) -> Value {
    json!({ "add": { "rule": { "family": "inet", "table": table, "chain": chain, "expr": expr } } })
}

fn name_match(key: &str, op: &str, name: &str) -> Value {
    json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": name } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ruleset: &Value) -> Vec<String> {
        ruleset["nftables"].as_array().unwrap().iter().map(Value::to_string).collect()
    }

    #[test]
    fn one_transaction_replaces_the_table() {
        let masquerade = Masquerade {
            tun: "vpn0".to_owned(),
            v4: "10.8.0.0/24".parse().unwrap(),
            v6: Some("fd00:8::/64".parse().unwrap()),
            client_to_client: false,
        };
        let expected = [
            r#"{"add":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"delete":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"add":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"add":{"chain":{"family":"inet","table":"smartvpn-vpn0","name":"postrouting","type":"nat","hook":"postrouting","prio":100,"policy":"accept"}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.8.0.0","len":24}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"masquerade":null}]}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip6","field":"saddr"}},"right":{"prefix":{"addr":"fd00:8::","len":64}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"masquerade":null}]}}}"#,
            r#"{"add":{"chain":{"family":"inet","table":"smartvpn-vpn0","name":"forward","type":"filter","hook":"forward","prio":0,"policy":"accept"}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"forward","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"vpn0"}},{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"drop":null}]}}}"#,
        ];
        assert_eq!(lines(&ruleset(&table_name("vpn0"), &masquerade)), expected);
    }

    #[test]
    fn clients_that_may_meet_need_no_forward_chain() {
        let masquerade = Masquerade {
            tun: "vpn0".to_owned(),
            v4: "10.8.0.9/24".parse().unwrap(),
            v6: None,
            client_to_client: true,
        };
        let lines = lines(&ruleset("smartvpn-vpn0", &masquerade));
        assert_eq!(lines.len(), 5);
        assert!(lines[4].contains(r#""addr":"10.8.0.0""#), "host bits are cleared: {}", lines[4]);
    }

    #[test]
    fn removal_is_valid_whether_or_not_the_table_is_there() {
        assert_eq!(
            removal("smartvpn-x").iter().map(Value::to_string).collect::<Vec<_>>(),
            [
                r#"{"add":{"table":{"family":"inet","name":"smartvpn-x"}}}"#,
                r#"{"delete":{"table":{"family":"inet","name":"smartvpn-x"}}}"#,
            ]
        );
        assert!(is_our_table(&table_name("x")) && !is_our_table("filter"));
    }
}
