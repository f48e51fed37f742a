//! The parts of `nft -j list ruleset` that matter: chains, their rules, and sets.

use serde_json::Value;

/// The host's chains and sets.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: Vec<Chain>,
    sets: Vec<Set>,
}

/// One chain with its rules.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// The hook, of a base chain.
    hook: Option<String>,
    /// Whether a base chain drops what falls off its end.
    pub(super) drops_the_rest: bool,
    /// Each rule's statements.
    pub(super) rules: Vec<Vec<Value>>,
}

#[derive(Debug)]
struct Set {
    family: String,
    table: String,
    name: String,
    elements: Vec<Value>,
}

impl Ruleset {
    /// Reads a listing; what is not understood is left out.
    pub(super) fn parse(listing: &Value) -> Self {
        let mut ruleset = Self::default();
        let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Chains are listed before the rules that belong to them.
        for object in objects {
            if let Some(chain) = object.get("chain") {
                ruleset.chains.extend(Chain::parse(chain));
            } else if let Some(rule) = object.get("rule") {
                ruleset.add_rule(rule);
            } else if let Some(set) = object.get("set") {
                ruleset.sets.extend(Set::parse(set));
            }
        }
        ruleset
    }

    /// The chains that forwarded packets begin in.
    pub(super) fn forward_chains(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(|chain| chain.hook.as_deref() == Some("forward"))
    }

    /// Another chain of the same table.
    pub(super) fn sibling(&self, of: &Chain, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.is_at(&of.family, &of.table, name))
    }

    /// The elements of a named set of the chain's table.
    pub(super) fn set(&self, of: &Chain, name: &str) -> Option<&[Value]> {
        let is_it = |set: &&Set| set.family == of.family && set.table == of.table && set.name == name;
        self.sets.iter().find(is_it).map(|set| set.elements.as_slice())
    }

    fn add_rule(&mut self, rule: &Value) -> Option<()> {
        let (family, table, chain) = (text(rule, "family")?, text(rule, "table")?, text(rule, "chain")?);
        let statements = rule.get("expr")?.as_array()?.clone();
        let chain = self.chains.iter_mut().find(|known| known.is_at(family, table, chain))?;
        chain.rules.push(statements);
        Some(())
    }
}

impl Chain {
    /// Whether packets of this IP family go through.
    pub(super) fn sees(&self, is_v4: bool) -> bool {
        match self.family.as_str() {
            "ip" => is_v4,
            "ip6" => !is_v4,
            family => family == "inet",
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            family: text(value, "family")?.to_owned(),
            table: text(value, "table")?.to_owned(),
            name: text(value, "name")?.to_owned(),
            hook: text(value, "hook").map(str::to_owned),
            drops_the_rest: text(value, "policy") == Some("drop"),
            rules: Vec::new(),
        })
    }

    fn is_at(&self, family: &str, table: &str, name: &str) -> bool {
        self.family == family && self.table == table && self.name == name
    }
}

impl Set {
    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            family: text(value, "family")?.to_owned(),
            table: text(value, "table")?.to_owned(),
            name: text(value, "name")?.to_owned(),
            elements: value.get("elem").and_then(Value::as_array).cloned().unwrap_or_default(),
        })
    }
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}
