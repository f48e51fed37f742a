//! Keeps what did not come through the tunnel from the tunnel's addresses, in nftables tables of our own.
//!
//! Linux answers for every address that it has, whichever interface asks. So a neighbour could find out a host's
//! tunnel address by probes, and then which connections go through the tunnel (CVE-2019-14899), or send to
//! clients past their session. What comes by another interface for these addresses is dropped before connection
//! tracking knows of it, and ARP requests for them are not answered. For IPv6 nothing corresponds to the latter:
//! the kernel answers solicitations only on the interface that has the address.

use std::io;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::error::NetworkError;
use super::nft::{self, REMOVAL_LIMIT, Table, meta, within};

/// Before connection tracking (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;

/// Whose addresses are guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The addresses of a client. Another tunnel of the host may have the same: what comes by any TUN passes.
    Client(Vec<IpNet>),
    /// What a server's tunnel has.
    Server {
        /// What only the tunnel leads to: the server's own addresses, or with translation the whole subnets.
        hidden: Vec<IpNet>,
        /// Where only the tunnel's packets come from.
        subnets: Vec<IpNet>,
    },
}

impl Guard {
    /// The commands that write the tables, in place of those of the same name; that of ARP only if so wished, as not
    /// every kernel has it.
    pub(super) fn commands(&self, table: &str, tun: &str, arp: bool) -> Vec<Value> {
        let (hidden, subnets) = match self {
            Self::Client(addresses) => (addresses.as_slice(), [].as_slice()),
            Self::Server { hidden, subnets } => (hidden.as_slice(), subnets.as_slice()),
        };
        let inet = Table { family: "inet", name: table };
        let mut commands = inet.anew();
        commands.push(inet.chain("prerouting", "filter", "prerouting", PRIORITY_RAW));
        for (field, nets) in [("daddr", hidden), ("saddr", subnets)] {
            for net in nets {
                let mut expr = self.beside(tun);
                expr.extend([within(nft::protocol(*net), field, *net), json!({ "drop": null })]);
                commands.push(inet.rule("prerouting", Value::Array(expr)));
            }
        }
        if !arp {
            return commands;
        }
        let arp = Table { family: "arp", name: table };
        commands.extend(arp.anew());
        commands.push(arp.chain("input", "filter", "input", 0));
        for net in hidden.iter().filter(|net| net.addr().is_ipv4()) {
            let request = json!({ "match": {
                "op": "==",
                "left": { "payload": { "protocol": "arp", "field": "operation" } },
                "right": "request",
            } });
            let expr = json!([request, within("arp", "daddr ip", *net), { "drop": null }]);
            commands.push(arp.rule("input", expr));
        }
        commands
    }

    /// Whether a packet came neither by the tunnel nor from the host itself.
    fn beside(&self, tun: &str) -> Vec<Value> {
        match self {
            Self::Client(_) => vec![meta("iifname", "!=", json!("lo")), meta("iifkind", "!=", json!("tun"))],
            Self::Server { .. } => vec![meta("iifname", "!=", json!({ "set": ["lo", tun] }))],
        }
    }
}

/// Writes the tables.
pub(super) fn install(commands: &[Value]) -> Result<(), NetworkError> {
    nft::install(commands, "guarding", "nf_tables with the families inet and arp (Linux 5.2 or later)")
}

/// Removes the tables; those that are not there are no error.
pub(super) fn remove(table: &str) -> io::Result<()> {
    let removal = |families: &[&str]| {
        let commands = families.iter().flat_map(|family| Table { family, name: table }.removal());
        nft::transact(&commands.collect::<Vec<_>>(), REMOVAL_LIMIT)
    };
    match removal(&["inet", "arp"]) {
        // A kernel without the one family has only the other's.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => removal(&["inet"]),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn rules(guard: &Guard) -> Vec<String> {
        let commands = guard.commands("smartvpn_guard-vpn0", "vpn0", true);
        let rule = |command: &Value| {
            let rule = command["add"]["rule"].as_object()?;
            Some(format!("{} {}", rule["family"].as_str()?, rule["expr"]))
        };
        commands.iter().filter_map(rule).collect()
    }

    #[test]
    fn a_clients_addresses_are_for_tunnels_and_the_host() {
        let beside = r#"{"match":{"op":"!=","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"match":{"op":"!=","left":{"meta":{"key":"iifkind"}},"right":"tun"}}"#;
        let request = r#"{"match":{"op":"==","left":{"payload":{"protocol":"arp","field":"operation"}},"right":"request"}}"#;
        let is = |protocol: &str, field: &str, addr: &str, len: u8| {
            format!(
                r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"{protocol}","field":"{field}"}}}},"right":{{"prefix":{{"addr":"{addr}","len":{len}}}}}}}}},{{"drop":null}}"#
            )
        };
        assert_eq!(
            rules(&Guard::Client(nets(&["10.8.0.2/32", "fd00:8::2/128"]))),
            [
                format!("inet [{beside},{}]", is("ip", "daddr", "10.8.0.2", 32)),
                format!("inet [{beside},{}]", is("ip6", "daddr", "fd00:8::2", 128)),
                format!("arp [{request},{}]", is("arp", "daddr ip", "10.8.0.2", 32)),
            ]
        );
    }

    #[test]
    fn a_servers_subnet_is_its_tunnels_alone() {
        let guard = Guard::Server { hidden: nets(&["10.8.0.1/32"]), subnets: nets(&["10.8.0.0/24"]) };
        let rules = rules(&guard);
        assert_eq!(rules.len(), 3, "{rules:?}");
        assert!(
            rules[0].contains(r#""right":{"set":["lo","vpn0"]}"#) && rules[0].contains("daddr"),
            "{rules:?}"
        );
        assert!(rules[1].contains("saddr") && rules[1].contains(r#""len":24"#), "{rules:?}");
    }
}
