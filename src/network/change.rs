//! One change to the host: what is written into the journal, and how it is taken back.

use std::io;

use serde::{Deserialize, Serialize};

use super::guard;
use super::nat;
use super::netlink::{Netlink, Route};
use super::resolvers::Resolvers;
use super::sysctl::{Switch, Sysctls};

/// One change to the host, with all that is needed to take it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Change {
    /// A route in the main table.
    Route(Route),
    /// A switch under `/proc/sys`.
    Switched(Switched),
    /// A switch that a later change sets as a side effect, and that it resets too wide.
    Kept(Kept),
    /// The nftables table that translates addresses.
    Table(Table),
    /// The nftables tables that guard the tunnel's addresses, of the families `inet` and `arp`.
    Guard(Table),
    /// The servers that the host's programs ask for names.
    Resolvers(Resolvers),
}

/// A switch that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Switched {
    pub(super) switch: Switch,
    /// The value before any of our instances touched it.
    pub(super) old: String,
    pub(super) new: String,
    /// A switch that sets this one along with others of its kind, and its value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) umbrella: Option<(Switch, String)>,
}

/// A switch whose value is to outlast the taking back of a wider one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) switch: Switch,
    pub(super) value: String,
}

/// What a table of our own is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Table {
    pub(super) name: String,
}

impl Change {
    /// Whether both are about the same thing on the host, whatever they set it to: then one of them
    /// was made, and the last of the two instances takes it back.
    pub(super) fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(two)) => one.same_place(two),
            (Self::Switched(one), Self::Switched(two)) => one.switch == two.switch,
            (Self::Kept(one), Self::Kept(two)) => one.switch == two.switch,
            (Self::Table(one), Self::Table(two)) | (Self::Guard(one), Self::Guard(two)) => one == two,
            (Self::Resolvers(one), Self::Resolvers(two)) => one.is_about_the_same(two),
            _ => false,
        }
    }

    /// Whether it is still there after the host has started anew: all else the kernel forgets.
    pub(super) fn outlasts_boot(&self) -> bool {
        matches!(self, Self::Resolvers(Resolvers::File(_)))
    }

    /// Takes the change back, unless somebody has changed the same thing since, or one of our living
    /// instances still needs it: `theirs` are those others' changes.
    pub(super) fn take_back(&self, theirs: &[Self], sysctls: &Sysctls) -> io::Result<()> {
        // Instances that rewrite the same file do so one over the other.
        if let Self::Resolvers(resolvers) = self {
            return resolvers.take_back(theirs);
        }
        if theirs.iter().any(|their| their.is_about_the_same(self)) {
            tracing::debug!(change = ?self, "left to the other instance that uses it");
            return Ok(());
        }
        self.take_back_alone(sysctls)
    }

    fn take_back_alone(&self, sysctls: &Sysctls) -> io::Result<()> {
        match self {
            Self::Route(route) => {
                let netlink = Netlink::open().map_err(io::Error::other)?;
                if !netlink.delete_route(route)? {
                    tracing::debug!(destination = %route.net(), "the route is gone already");
                }
                Ok(())
            }
            Self::Switched(switched) => switched.take_back(sysctls),
            Self::Kept(kept) => match sysctls.read(&kept.switch)? {
                Some(value) if value != kept.value => sysctls.write(&kept.switch, &kept.value),
                _ => Ok(()),
            },
            Self::Table(table) => nat::remove(&table.name),
            Self::Guard(table) => guard::remove(&table.name),
            Self::Resolvers(resolvers) => resolvers.take_back(&[]),
        }
    }
}

impl Switched {
    fn take_back(&self, sysctls: &Sysctls) -> io::Result<()> {
        // An interface that is gone has nothing to take back.
        let Some(value) = sysctls.read(&self.switch)? else { return Ok(()) };
        if value == self.old {
            return Ok(());
        }
        if value != self.new || self.is_covered_since(sysctls)? {
            tracing::info!(switch = %self.switch, value, "left as it is: somebody has set it since");
            return Ok(());
        }
        sysctls.write(&self.switch, &self.old)
    }

    /// Whether somebody has set the umbrella to our value since, and thereby wants this one so too.
    fn is_covered_since(&self, sysctls: &Sysctls) -> io::Result<bool> {
        let Some((switch, before)) = &self.umbrella else { return Ok(false) };
        Ok(*before != self.new && sysctls.read(switch)?.as_ref() == Some(&self.new))
    }
}
