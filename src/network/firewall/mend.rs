//! Whose chain drops our packets, and the command by which its owner lets them pass.

use super::Warning;
use super::judge::Direction;
use super::ruleset::{Chain, Ruleset};

/// Who keeps a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Docker,
    Ufw,
    Firewalld,
    /// Rules made with iptables, which shows them under its own names.
    Iptables,
    Nftables,
}

/// The warning that `chain` drops the tunnel's packets in these directions.
pub(super) fn mend(ruleset: &Ruleset, chain: &Chain, tun: &str, blocked: &[Direction]) -> Warning {
    let keeper = keeper(ruleset, chain);
    let Chain { family, table, name, .. } = chain;
    let by = match keeper {
        Keeper::Docker => "Docker's firewall",
        Keeper::Ufw => "ufw",
        Keeper::Firewalld => "firewalld",
        Keeper::Iptables => "iptables",
        Keeper::Nftables => "the host's firewall",
    };
    let message = format!(
        "{by} drops what {tun} forwards (chain {family} {table} {name}): clients reach this host and nothing \
         behind it"
    );
    let commands: Vec<String> = match keeper {
        // A zone is for both directions.
        Keeper::Firewalld => vec![format!("firewall-cmd --zone=trusted --add-interface={tun}")],
        _ => blocked.iter().map(|direction| command(keeper, chain, tun, *direction)).collect(),
    };
    Warning { message, command: commands.join(" && ") }
}

fn command(keeper: Keeper, chain: &Chain, tun: &str, direction: Direction) -> String {
    let Chain { family, table, name, .. } = chain;
    let iptables = if family == "ip6" { "ip6tables" } else { "iptables" };
    let name = if keeper == Keeper::Docker { "DOCKER-USER" } else { name };
    match (keeper, direction) {
        (Keeper::Ufw, Direction::FromTunnel) => format!("ufw route allow in on {tun}"),
        (Keeper::Ufw, Direction::Answer) => format!("ufw route allow out on {tun}"),
        (Keeper::Nftables | Keeper::Firewalld, Direction::FromTunnel) => {
            format!("nft 'insert rule {family} {table} {name} iifname \"{tun}\" accept'")
        }
        (Keeper::Nftables | Keeper::Firewalld, Direction::Answer) => format!(
            "nft 'insert rule {family} {table} {name} oifname \"{tun}\" ct state established,related accept'"
        ),
        (Keeper::Docker | Keeper::Iptables, Direction::FromTunnel) => {
            format!("{iptables} -I {name} -i {tun} -j ACCEPT")
        }
        (Keeper::Docker | Keeper::Iptables, Direction::Answer) => {
            format!("{iptables} -I {name} -o {tun} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
        }
    }
}

fn keeper(ruleset: &Ruleset, chain: &Chain) -> Keeper {
    let has = |name| ruleset.sibling(chain, name).is_some();
    if chain.table == "firewalld" {
        Keeper::Firewalld
    } else if has("DOCKER-USER") {
        Keeper::Docker
    } else if has("ufw-user-forward") || has("ufw6-user-forward") {
        Keeper::Ufw
    } else if chain.table == "filter" && chain.name == "FORWARD" && chain.family != "inet" {
        Keeper::Iptables
    } else {
        Keeper::Nftables
    }
}
