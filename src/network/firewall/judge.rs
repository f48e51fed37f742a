//! What becomes of one packet in a forward chain.
//!
//! Only what is certain decides: a rule whose conditions cannot be judged from interfaces, the
//! tunnel's network and the connection's state is taken not to apply. So a packet that a firewall
//! lets pass for another reason may be reported as dropped, never the other way round by a guess.

use ipnet::IpNet;
use serde_json::Value;

use super::ruleset::{Chain, Ruleset};

/// Deeper than any ruleset jumps; the kernel itself allows 16.
const MAX_DEPTH: u32 = 16;

/// Which way a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From a client to a network of the host; it begins a connection.
    FromTunnel,
    /// Back to the client; of a connection that stands.
    Answer,
}

/// The packet that is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub(super) tun: &'a str,
    /// The interface at the other end.
    pub(super) egress: &'a str,
    /// The tunnel's network.
    pub(super) net: Option<IpNet>,
    pub(super) is_v4: bool,
    pub(super) direction: Direction,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Perhaps,
}

/// Where the packet goes after a rule or a chain.
enum Next {
    Ended(Verdict),
    /// Back to the calling chain.
    Returned,
    /// To the following rule.
    On,
}

/// What becomes of the packet in a base chain.
pub(super) fn judge(ruleset: &Ruleset, chain: &Chain, probe: &Probe<'_>) -> Verdict {
    match (Walk { ruleset, probe }).chain(chain, 0) {
        Next::Ended(verdict) => verdict,
        Next::Returned | Next::On if chain.drops_the_rest => Verdict::Drop,
        Next::Returned | Next::On => Verdict::Accept,
    }
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    probe: &'a Probe<'a>,
}

impl Walk<'_> {
    fn chain(&self, chain: &Chain, depth: u32) -> Next {
        if depth > MAX_DEPTH {
            return Next::On;
        }
        for rule in &chain.rules {
            match self.rule(chain, rule, depth) {
                Next::On => {}
                next => return next,
            }
        }
        Next::On
    }

    fn rule(&self, chain: &Chain, statements: &[Value], depth: u32) -> Next {
        let accepts = statements.iter().any(|statement| statement.get("accept").is_some());
        for statement in statements {
            let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
                return Next::On;
            };
            let truth = match kind.as_str() {
                "match" => self.matches(chain, body),
                "xt" => self.extension(body, accepts),
                "limit" | "quota" | "ct count" => Truth::Perhaps,
                "vmap" => return self.verdict_map(chain, body, depth),
                // A verdict ends the rule; what is none (counter, log, …) has no bearing.
                _ => match self.verdict(chain, statement, depth) {
                    Some(next) => return next,
                    None => Truth::Yes,
                },
            };
            if truth != Truth::Yes {
                return Next::On;
            }
            if is_dropping_extension(statement) {
                return Next::Ended(Verdict::Drop);
            }
        }
        Next::On
    }

    fn verdict(&self, chain: &Chain, statement: &Value, depth: u32) -> Option<Next> {
        let (kind, body) = statement.as_object()?.iter().next()?;
        match kind.as_str() {
            "accept" => Some(Next::Ended(Verdict::Accept)),
            "drop" | "reject" => Some(Next::Ended(Verdict::Drop)),
            "return" => Some(Next::Returned),
            "jump" => Some(match self.enter(chain, body, depth) {
                Next::Returned => Next::On,
                next => next,
            }),
            "goto" => Some(match self.enter(chain, body, depth) {
                Next::On => Next::Returned,
                next => next,
            }),
            _ => None,
        }
    }

    fn enter(&self, chain: &Chain, body: &Value, depth: u32) -> Next {
        let target = body.get("target").and_then(Value::as_str);
        target
            .and_then(|name| self.ruleset.sibling(chain, name))
            .map_or(Next::On, |target| self.chain(target, depth + 1))
    }

    fn verdict_map(&self, chain: &Chain, body: &Value, depth: u32) -> Next {
        let (Some(key), Some(data)) = (body.get("key"), body.get("data")) else { return Next::On };
        let pairs = data.get("set").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for pair in pairs {
            if let Some([element, statement]) = pair.as_array().map(Vec::as_slice)
                && self.is_element(chain, key, element) == Truth::Yes
            {
                return self.verdict(chain, statement, depth).unwrap_or(Next::On);
            }
        }
        Next::On
    }

    /// An iptables extension shows only its name. One of connection states on a rule that accepts is
    /// the one that lets answers pass, as every firewall has it.
    fn extension(&self, body: &Value, accepts: bool) -> Truth {
        let is_target = body.get("type").and_then(Value::as_str) == Some("target");
        let is_state = matches!(body.get("name").and_then(Value::as_str), Some("conntrack" | "state"));
        if is_target || (is_state && accepts && self.probe.direction == Direction::Answer) {
            Truth::Yes
        } else {
            Truth::Perhaps
        }
    }

    fn matches(&self, chain: &Chain, body: &Value) -> Truth {
        let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else { return Truth::Perhaps };
        match body.get("op").and_then(Value::as_str) {
            Some("==" | "in") => self.is_element(chain, left, right),
            Some("!=") => !self.is_element(chain, left, right),
            _ => Truth::Perhaps,
        }
    }

    /// Whether the packet's `key` is `element`, or one of its elements.
    fn is_element(&self, chain: &Chain, key: &Value, element: &Value) -> Truth {
        if let Some(elements) = element.get("set").or(Some(element)).and_then(Value::as_array) {
            return any(elements.iter().map(|element| self.is_element(chain, key, element)));
        }
        if let Some(name) = element.as_str().and_then(|text| text.strip_prefix('@')) {
            let Some(elements) = self.ruleset.set(chain, name) else { return Truth::Perhaps };
            return any(elements.iter().map(|element| self.is_element(chain, key, element)));
        }
        if let Some(value) = element.get("elem").and_then(|element| element.get("val")) {
            return self.is_element(chain, key, value);
        }
        if let (Some(keys), Some(elements)) = (key.get("concat"), element.get("concat")) {
            let pairs = keys.as_array().into_iter().flatten().zip(elements.as_array().into_iter().flatten());
            return all(pairs.map(|(key, element)| self.is_element(chain, key, element)));
        }
        if let Some(payload) = key.get("payload") {
            return self.has_address(payload, element);
        }
        match (self.value_of(key), element.as_str()) {
            (Some(value), Some(pattern)) => Truth::from(is_like(value, pattern)),
            _ => Truth::Perhaps,
        }
    }

    fn value_of(&self, key: &Value) -> Option<&str> {
        let Probe { tun, egress, is_v4, direction, .. } = *self.probe;
        let (comes_in, goes_out) = match direction {
            Direction::FromTunnel => (tun, egress),
            Direction::Answer => (egress, tun),
        };
        let name = |of: &str| key.get(of)?.get("key")?.as_str();
        match (name("meta"), name("ct")) {
            (Some("iifname" | "iif"), _) => Some(comes_in),
            (Some("oifname" | "oif"), _) => Some(goes_out),
            (Some("nfproto"), _) => Some(if is_v4 { "ipv4" } else { "ipv6" }),
            (Some("protocol"), _) => Some(if is_v4 { "ip" } else { "ip6" }),
            (_, Some("state")) => Some(match direction {
                Direction::FromTunnel => "new",
                Direction::Answer => "established",
            }),
            _ => None,
        }
    }

    /// Whether the packet's address at the tunnel's end lies in `element`; the other is anybody's.
    fn has_address(&self, payload: &Value, element: &Value) -> Truth {
        let field = |key| payload.get(key).and_then(Value::as_str);
        let own_field = match self.probe.direction {
            Direction::FromTunnel => "saddr",
            Direction::Answer => "daddr",
        };
        let is_ip = if self.probe.is_v4 { "ip" } else { "ip6" };
        match (field("protocol"), field("field")) {
            (Some(protocol @ ("ip" | "ip6")), _) if protocol != is_ip => Truth::No,
            (Some("ip" | "ip6"), Some(name)) if name == own_field => {
                let (Some(ours), Some(theirs)) = (self.probe.net, network(element)) else {
                    return Truth::Perhaps;
                };
                if theirs.contains(&ours) {
                    Truth::Yes
                } else if ours.contains(&theirs) {
                    Truth::Perhaps
                } else {
                    Truth::No
                }
            }
            _ => Truth::Perhaps,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
        }
    }
}

fn any(truths: impl Iterator<Item = Truth>) -> Truth {
    truths.fold(Truth::No, |all, one| match (all, one) {
        (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
        (Truth::Perhaps, _) | (_, Truth::Perhaps) => Truth::Perhaps,
        _ => Truth::No,
    })
}

fn all(truths: impl Iterator<Item = Truth>) -> Truth {
    !any(truths.map(|truth| !truth))
}

/// Whether an interface name fits one that may end in a star.
fn is_like(value: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => value.starts_with(beginning),
        None => value == pattern,
    }
}

fn network(element: &Value) -> Option<IpNet> {
    if let Some(prefix) = element.get("prefix") {
        let address = prefix.get("addr")?.as_str()?.parse().ok()?;
        return IpNet::new(address, prefix.get("len")?.as_u64()?.try_into().ok()?).ok();
    }
    element.as_str()?.parse::<std::net::IpAddr>().ok().map(IpNet::from)
}

fn is_dropping_extension(statement: &Value) -> bool {
    let extension = statement.get("xt");
    let field = |key| extension.and_then(|extension| extension.get(key)).and_then(Value::as_str);
    field("type") == Some("target") && matches!(field("name"), Some("REJECT" | "DROP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The verdict on a packet from the tunnel in `inet t forward`, whose rules these are.
    fn verdict(policy: &str, rules: &[Value], direction: Direction) -> Verdict {
        let mut objects = vec![
            json!({ "chain": { "family": "inet", "table": "t", "name": "forward", "type": "filter",
                "hook": "forward", "prio": 0, "policy": policy } }),
            json!({ "chain": { "family": "inet", "table": "t", "name": "other" } }),
            json!({ "set": { "family": "inet", "table": "t", "name": "ours", "elem": ["vpn0", "vpn1"] } }),
            json!({ "rule": { "family": "inet", "table": "t", "chain": "other",
                "expr": [meta("oifname", "!=", "wan"), { "drop": null }] } }),
            json!({ "rule": { "family": "inet", "table": "t", "chain": "other", "expr": [{ "return": null }] } }),
        ];
        let rule = |expr: &Value| json!({ "rule": { "family": "inet", "table": "t", "chain": "forward", "expr": expr } });
        objects.extend(rules.iter().map(rule));
        let ruleset = Ruleset::parse(&json!({ "nftables": objects }));
        let net = Some("10.8.0.0/24".parse().unwrap());
        let probe = Probe { tun: "vpn0", egress: "wan", net, is_v4: true, direction };
        judge(&ruleset, ruleset.forward_chains().next().unwrap(), &probe)
    }

    fn meta(key: &str, op: &str, right: &str) -> Value {
        json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": right } })
    }

    fn source(right: &Value) -> Value {
        json!({ "match": { "op": "==", "left": { "payload": { "protocol": "ip", "field": "saddr" } }, "right": right } })
    }

    #[track_caller]
    fn accepts(rule: Value) {
        assert_eq!(verdict("drop", &[rule], Direction::FromTunnel), Verdict::Accept);
    }

    #[track_caller]
    fn does_not_accept(rule: Value) {
        assert_eq!(verdict("drop", &[rule], Direction::FromTunnel), Verdict::Drop);
    }

    #[test]
    fn the_policy_decides_what_no_rule_does() {
        assert_eq!(verdict("drop", &[], Direction::FromTunnel), Verdict::Drop);
        assert_eq!(verdict("accept", &[], Direction::Answer), Verdict::Accept);
    }

    #[test]
    fn interfaces_by_name_pattern_set_and_pair() {
        accepts(json!([meta("iifname", "==", "vpn0"), { "counter": {} }, { "accept": null }]));
        accepts(json!([meta("iif", "==", "vpn*"), { "accept": null }]));
        accepts(json!([meta("iifname", "==", "@ours"), meta("oifname", "!=", "lan"), { "accept": null }]));
        accepts(json!([{ "match": { "op": "==",
            "left": { "concat": [{ "meta": { "key": "iifname" } }, { "meta": { "key": "oifname" } }] },
            "right": { "set": [{ "concat": ["lan", "wan"] }, { "concat": ["vpn0", "wan"] }] } } }, { "accept": null }]));
        does_not_accept(json!([meta("iifname", "==", "vpn"), { "accept": null }]));
        does_not_accept(json!([meta("iifname", "!=", "@ours"), { "accept": null }]));
        does_not_accept(json!([meta("oifname", "==", "vpn0"), { "accept": null }]));
    }

    #[test]
    fn networks_that_hold_the_tunnels() {
        accepts(json!([source(&json!({ "prefix": { "addr": "10.0.0.0", "len": 8 } })), { "accept": null }]));
        does_not_accept(
            json!([source(&json!({ "prefix": { "addr": "10.9.0.0", "len": 16 } })), { "accept": null }]),
        );
        // One client of many is not all of them.
        does_not_accept(json!([source(&json!("10.8.0.7")), { "accept": null }]));
    }

    #[test]
    fn what_cannot_be_judged_decides_nothing() {
        let port = json!({ "match": { "op": "==", "left": { "payload": { "protocol": "tcp", "field": "dport" } }, "right": 22 } });
        does_not_accept(json!([port, { "accept": null }]));
        assert_eq!(
            verdict("accept", &[json!([port, { "drop": null }])], Direction::FromTunnel),
            Verdict::Accept
        );
        does_not_accept(json!([{ "limit": { "rate": 3 } }, { "accept": null }]));
        does_not_accept(json!([{ "unheard-of": {} }]));
        does_not_accept(json!(["not a statement"]));
    }

    #[test]
    fn jumps_return_and_gotos_do_not() {
        let accept = json!([{ "accept": null }]);
        let jump = json!([{ "jump": { "target": "other" } }]);
        assert_eq!(verdict("drop", &[jump.clone(), accept.clone()], Direction::FromTunnel), Verdict::Accept);
        assert_eq!(verdict("drop", &[jump, accept.clone()], Direction::Answer), Verdict::Drop);
        let goto = json!([{ "goto": { "target": "other" } }]);
        assert_eq!(verdict("drop", &[goto, accept.clone()], Direction::FromTunnel), Verdict::Drop);
        let endless = json!([{ "jump": { "target": "forward" } }]);
        assert_eq!(verdict("drop", &[endless, accept], Direction::FromTunnel), Verdict::Accept);
    }

    #[test]
    fn states_tell_answers_from_new_connections() {
        let state = json!([{ "vmap": { "key": { "ct": { "key": "state" } },
            "data": { "set": [["invalid", { "drop": null }], ["established", { "accept": null }]] } } }]);
        assert_eq!(verdict("drop", std::slice::from_ref(&state), Direction::Answer), Verdict::Accept);
        assert_eq!(verdict("drop", &[state], Direction::FromTunnel), Verdict::Drop);
        let extension =
            |verdict: &str| json!([{ "xt": { "type": "match", "name": "conntrack" } }, { verdict: null }]);
        assert_eq!(verdict("drop", &[extension("accept")], Direction::Answer), Verdict::Accept);
        assert_eq!(verdict("drop", &[extension("accept")], Direction::FromTunnel), Verdict::Drop);
        assert_eq!(verdict("accept", &[extension("drop")], Direction::Answer), Verdict::Accept);
    }

    #[test]
    fn an_iptables_target_that_rejects_drops() {
        let reject = json!([{ "counter": {} }, { "xt": { "type": "target", "name": "REJECT" } }]);
        assert_eq!(verdict("accept", &[reject], Direction::FromTunnel), Verdict::Drop);
        let log = json!([{ "xt": { "type": "target", "name": "LOG" } }]);
        assert_eq!(verdict("accept", &[log], Direction::FromTunnel), Verdict::Accept);
    }
}
