//! Other people's firewalls: whether they let pass what the tunnel forwards.
//!
//! A packet needs every forward chain's consent, so no rule of ours can help against a policy of
//! another table, and those rules are not ours to change. What is left is to say so.

mod judge;
mod mend;
mod ruleset;

use ipnet::IpNet;

use self::judge::{Direction, Probe, Verdict, judge};
use self::mend::mend;
use self::ruleset::Ruleset;
use super::netlink::Netlink;
use super::nft;

/// Something on the host that stands in the tunnel's way, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What is in the way.
    pub message: String,
    /// What the operator may run to mend it.
    pub command: String,
}

/// The forward chains of others that drop packets between the tunnel and the host's networks.
/// `networks` are the tunnel's own. What cannot be found out is not warned of.
pub(super) fn foreign_forward_drops(tun: &str, networks: &[IpNet]) -> Vec<Warning> {
    let listing = match nft::list_ruleset() {
        Ok(listing) => listing,
        Err(error) => {
            tracing::debug!(%error, "the host's firewall cannot be read");
            return Vec::new();
        }
    };
    let egress = |is_v4| egress_interface(is_v4).unwrap_or_default();
    let mut probes = vec![Probed { net: first(networks, true), is_v4: true, egress: egress(true) }];
    if let Some(net) = first(networks, false) {
        probes.push(Probed { net: Some(net), is_v4: false, egress: egress(false) });
    }
    warnings(&Ruleset::parse(&listing), tun, &probes)
}

/// One family's part of the question.
struct Probed {
    /// The tunnel's network.
    net: Option<IpNet>,
    is_v4: bool,
    /// The interface that the default route leaves by.
    egress: String,
}

fn warnings(ruleset: &Ruleset, tun: &str, probes: &[Probed]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for chain in ruleset.forward_chains().filter(|chain| !nft::is_our_table(&chain.table)) {
        let mut blocked: Vec<Direction> = Vec::new();
        for probed in probes.iter().filter(|probed| chain.sees(probed.is_v4)) {
            for direction in [Direction::FromTunnel, Direction::Answer] {
                let Probed { net, is_v4, egress } = probed;
                let probe = Probe { tun, egress, net: *net, is_v4: *is_v4, direction };
                if judge(ruleset, chain, &probe) == Verdict::Drop && !blocked.contains(&direction) {
                    blocked.push(direction);
                }
            }
        }
        if !blocked.is_empty() {
            warnings.push(mend(ruleset, chain, tun, &blocked));
        }
    }
    warnings
}

fn first(networks: &[IpNet], is_v4: bool) -> Option<IpNet> {
    networks.iter().copied().find(|net| net.addr().is_ipv4() == is_v4)
}

fn egress_interface(is_v4: bool) -> Option<String> {
    let netlink = Netlink::open().ok()?;
    let routes = netlink.kernel_routes().ok()?;
    let default = routes
        .iter()
        .filter(|route| route.is_usable_in_main() && route.destination.prefix_len() == 0)
        .filter(|route| route.destination.addr().is_ipv4() == is_v4)
        .min_by_key(|route| route.metric)?;
    Some(netlink.link(default.ifindex?).ok()?.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(fixture: &str) -> Vec<Warning> {
        let listing = serde_json::from_str(fixture).unwrap();
        let probes = [
            Probed { net: Some("10.8.0.0/24".parse().unwrap()), is_v4: true, egress: "eth0".to_owned() },
            Probed { net: Some("fd00:8::/64".parse().unwrap()), is_v4: false, egress: "eth0".to_owned() },
        ];
        warnings(&Ruleset::parse(&listing), "smartvpn0", &probes)
    }

    #[track_caller]
    fn only(fixture: &str) -> Warning {
        let [warning] = look(fixture).try_into().expect("one warning");
        warning
    }

    #[test]
    fn docker_drops_by_policy_and_is_mended_in_its_user_chain() {
        let warning = only(include_str!("../../../tests/fixtures/nft/docker.json"));
        assert_eq!(
            warning.command,
            "iptables -I DOCKER-USER -i smartvpn0 -j ACCEPT && iptables -I DOCKER-USER -o smartvpn0 \
             -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        );
        assert!(warning.message.contains("Docker") && warning.message.contains("smartvpn0"), "{warning:?}");
    }

    #[test]
    fn docker_is_content_once_mended() {
        assert_eq!(look(include_str!("../../../tests/fixtures/nft/docker-mended.json")), []);
    }

    #[test]
    fn ufw_drops_what_is_new_and_lets_answers_pass() {
        let warning = only(include_str!("../../../tests/fixtures/nft/ufw.json"));
        assert_eq!(warning.command, "ufw route allow in on smartvpn0");
        assert_eq!(look(include_str!("../../../tests/fixtures/nft/ufw-mended.json")), []);
    }

    #[test]
    fn firewalld_rejects_what_no_zone_takes() {
        let warning = only(include_str!("../../../tests/fixtures/nft/firewalld.json"));
        assert_eq!(warning.command, "firewall-cmd --zone=trusted --add-interface=smartvpn0");
        assert_eq!(look(include_str!("../../../tests/fixtures/nft/firewalld-mended.json")), []);
    }

    #[test]
    fn a_plain_nftables_policy_is_mended_in_its_own_chain() {
        let warning = only(include_str!("../../../tests/fixtures/nft/plain.json"));
        assert_eq!(warning.command, r#"nft 'insert rule inet filter forward iifname "smartvpn0" accept'"#);
    }

    #[test]
    fn our_own_table_and_an_empty_ruleset_are_no_cause() {
        assert_eq!(look(r#"{"nftables": []}"#), []);
        assert_eq!(
            look(
                r#"{"nftables": [{"chain": {"family": "inet", "table": "smartvpn-smartvpn0", "name": "forward",
                "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#
            ),
            []
        );
    }
}
