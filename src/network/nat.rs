//! Masquerading, in an nftables table of our own.

use std::io;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::error::NetworkError;
use super::nft::{self, REMOVAL_LIMIT, Table, meta, within};

/// The ports that clients' connections may come from: none below it, which are the host's services'.
const FIRST_PORT: u16 = 1024;

/// What the table of one instance is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Masquerade {
    pub(super) tun: String,
    pub(super) v4: Ipv4Net,
    pub(super) v6: Option<Ipv6Net>,
    pub(super) client_to_client: bool,
    /// The port that no connection of a client may take at this host: that of the listener.
    pub(super) spared_port: Option<u16>,
}

/// The commands that write the table, in place of one of the same name.
pub(super) fn commands(table: &str, masquerade: &Masquerade) -> Vec<Value> {
    let tun = &masquerade.tun;
    let table = Table { family: "inet", name: table };
    let ports = ports_beside(masquerade.spared_port);
    let mut commands = table.anew();
    commands.push(table.chain("postrouting", "nat", "postrouting", 100));
    commands.extend(masquerade_rules(table, tun, masquerade.v4.into(), &ports));
    commands
        .extend(masquerade.v6.into_iter().flat_map(|net| masquerade_rules(table, tun, net.into(), &ports)));
    if !masquerade.client_to_client {
        commands.push(table.chain("forward", "filter", "forward", 0));
        let expr =
            json!([meta("iifname", "==", json!(tun)), meta("oifname", "==", json!(tun)), { "drop": null }]);
        commands.push(table.rule("forward", expr));
    }
    commands
}

/// Writes the table.
pub(super) fn install(commands: &[Value]) -> Result<(), NetworkError> {
    nft::install(commands, "masquerading", "nf_tables with NAT for the inet family (Linux 5.2 or later)")
}

/// Removes the table; one that is not there is no error.
pub(super) fn remove(table: &str) -> io::Result<()> {
    nft::transact(&Table { family: "inet", name: table }.removal(), REMOVAL_LIMIT)
}

/// The ports that are left to choose from: one range, as a rule takes no more, and the longer one of the two beside the
/// port that is spared. A client that had that port here would get what others send to the listener (CVE-2021-3773).
fn ports_beside(spared: Option<u16>) -> RangeInclusive<u16> {
    match spared {
        Some(spared) if spared >= FIRST_PORT => {
            let (below, above) = (spared - FIRST_PORT, u16::MAX - spared);
            if above >= below { spared + 1..=u16::MAX } else { FIRST_PORT..=spared - 1 }
        }
        _ => FIRST_PORT..=u16::MAX,
    }
}

/// Of what has ports, those in the range stay, unless they are taken; all else is known by its addresses.
fn masquerade_rules(table: Table<'_>, tun: &str, net: IpNet, ports: &RangeInclusive<u16>) -> [Value; 2] {
    let source = within(nft::protocol(net), "saddr", net);
    let leaving = meta("oifname", "!=", json!(tun));
    let has_ports = meta("l4proto", "==", json!({ "set": ["tcp", "udp"] }));
    let ports = json!({ "range": [ports.start(), ports.end()] });
    [
        table.rule("postrouting", json!([source, leaving, has_ports, { "masquerade": { "port": ports } }])),
        table.rule("postrouting", json!([source, leaving, { "masquerade": null }])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(commands: &[Value]) -> Vec<String> {
        commands.iter().map(Value::to_string).collect()
    }

    #[test]
    fn one_transaction_replaces_the_table() {
        let masquerade = Masquerade {
            tun: "vpn0".to_owned(),
            v4: "10.8.0.0/24".parse().unwrap(),
            v6: Some("fd00:8::/64".parse().unwrap()),
            client_to_client: false,
            spared_port: Some(443),
        };
        let expected = [
            r#"{"add":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"delete":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"add":{"table":{"family":"inet","name":"smartvpn-vpn0"}}}"#,
            r#"{"add":{"chain":{"family":"inet","table":"smartvpn-vpn0","name":"postrouting","type":"nat","hook":"postrouting","prio":100,"policy":"accept"}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.8.0.0","len":24}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":{"set":["tcp","udp"]}}},{"masquerade":{"port":{"range":[1024,65535]}}}]}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.8.0.0","len":24}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"masquerade":null}]}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip6","field":"saddr"}},"right":{"prefix":{"addr":"fd00:8::","len":64}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":{"set":["tcp","udp"]}}},{"masquerade":{"port":{"range":[1024,65535]}}}]}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"postrouting","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip6","field":"saddr"}},"right":{"prefix":{"addr":"fd00:8::","len":64}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"masquerade":null}]}}}"#,
            r#"{"add":{"chain":{"family":"inet","table":"smartvpn-vpn0","name":"forward","type":"filter","hook":"forward","prio":0,"policy":"accept"}}}"#,
            r#"{"add":{"rule":{"family":"inet","table":"smartvpn-vpn0","chain":"forward","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"vpn0"}},{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"vpn0"}},{"drop":null}]}}}"#,
        ];
        assert_eq!(lines(&commands(&nft::nat_table("vpn0"), &masquerade)), expected);
    }

    #[test]
    fn clients_that_may_meet_need_no_forward_chain() {
        let masquerade = Masquerade {
            tun: "vpn0".to_owned(),
            v4: "10.8.0.9/24".parse().unwrap(),
            v6: None,
            client_to_client: true,
            spared_port: None,
        };
        let lines = lines(&commands("smartvpn-vpn0", &masquerade));
        assert_eq!(lines.len(), 6);
        assert!(lines[4].contains(r#""addr":"10.8.0.0""#), "host bits are cleared: {}", lines[4]);
    }

    #[test]
    fn clients_never_have_the_spared_port_nor_one_of_the_hosts() {
        for (spared, range) in [
            (None, 1024..=65535),
            (Some(443), 1024..=65535),
            (Some(1023), 1024..=65535),
            (Some(1024), 1025..=65535),
            (Some(8443), 8444..=65535),
            (Some(51820), 1024..=51819),
            (Some(65534), 1024..=65533),
            (Some(65535), 1024..=65534),
        ] {
            assert_eq!(ports_beside(spared), range, "{spared:?}");
        }
        for spared in 0..=u16::MAX {
            let range = ports_beside(Some(spared));
            assert!(!range.contains(&spared) && range.len() > 32_000, "{spared}: {range:?}");
        }
    }
}
