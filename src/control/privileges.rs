//! What a daemon may do, and who may look into it: as little, and as few, as it can work with.
//!
//! Capabilities belong to a thread and go on to those that it starts, so all of this comes before any other
//! thread. Programs that the daemon runs get what it has kept: root's by the bounding set, others' by the
//! ambient set (capabilities(7)).

use std::io;

use nix::unistd::{Gid, Group, getgroups, setgroups};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What a daemon is to keep besides CAP_NET_ADMIN, which the tunnel, its routes, the firewall and the
/// outer connection's congestion control take.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// CAP_NET_BIND_SERVICE, to listen at a port below 1024.
    pub low_ports: bool,
    /// The right to give a file to this group.
    pub group: Option<&'a str>,
}

/// Closes this process's memory to other processes of its user, and keeps it out of core dumps, also of
/// those that go to a program: there are keys in it.
///
/// # Errors
/// The system's. What could be done is done.
pub fn close_memory() -> io::Result<()> {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, no_core);
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(limited?)
}

/// Gives up every capability but those to [`Keep`], for this process and all that it starts, for good.
///
/// # Errors
/// The system's. What could be given up is.
pub fn give_up_rights(keep: Keep<'_>) -> io::Result<()> {
    if let Some(group) = keep.group {
        join(group);
    }
    let mut kept = CapabilitySet::NET_ADMIN;
    kept.set(CapabilitySet::NET_BIND_SERVICE, keep.low_ports);
    set_no_new_privs(true)?;
    let bounded = bound(kept);
    let held = capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective & kept,
        permitted: held.permitted & kept,
        inheritable: held.inheritable & kept,
    };
    // A service's sandbox may forbid the call, and has left nothing to give up. The ambient set shrinks with
    // the others.
    if left != held {
        set_capabilities(None, left)?;
    }
    bounded
}

/// Takes what is not kept out of the bounding set, as far as this process may.
fn bound(kept: CapabilitySet) -> io::Result<()> {
    let may = capabilities(None)?.effective.contains(CapabilitySet::SETPCAP);
    for capability in (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        match capability_is_in_bounding_set(capability) {
            // One that may not shrink it gains nothing by it: programs get no rights that it has not.
            Ok(true) if may && !kept.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            // The kernel's last one is behind us.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes this process a member of the group: a member may give it files without CAP_CHOWN. Where that is not
/// allowed, or there is no such group, the giving fails and says so.
fn join(name: &str) {
    let Ok(Some(group)) = Group::from_name(name) else { return };
    let mut groups: Vec<Gid> = getgroups().unwrap_or_default();
    if !groups.contains(&group.gid) {
        groups.push(group.gid);
        // The reason is told with the failure that comes of it.
        let _joined = setgroups(&groups);
    }
}
