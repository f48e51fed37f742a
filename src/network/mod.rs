//! The host's network: addresses, routes, forwarding, NAT, resolvers.
//!
//! [`Netlink`] asks the kernel and sets up our own TUN, and [`Monitor`] hears what changes. Everything
//! that is set elsewhere on the host goes through [`HostChanges`], which writes it into a journal first
//! and takes it back at the end; what a killed process left behind, the next start (or [`repair`]) takes
//! back by that journal. Nothing here touches what others have set.

mod change;
mod changes;
mod command;
mod conntrack;
mod error;
mod firewall;
mod forwarding;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod keeper;
mod ledger;
mod monitor;
mod nat;
mod netlink;
mod nft;
mod repair;
mod resolvers;
mod state;
mod steps;
mod sysctl;

#[cfg(test)]
#[path = "../../tests/support/namespace.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
pub(crate) mod namespace;

pub use changes::HostChanges;
pub use conntrack::delete_conntrack;
pub use error::NetworkError;
pub use firewall::Warning;
pub use guard::Guard;
pub use monitor::{Change, Monitor};
pub use netlink::{HostRoute, Netlink, Way};
pub use repair::{RepairReport, repair};
pub use resolvers::ResolverMethod;
