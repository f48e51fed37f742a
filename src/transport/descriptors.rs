//! The process's descriptors: as many as it may have, and some of them not for strangers.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that new connections do not get: for netlink, `nft` and its pipes, controllers, files, and the TUN
/// of a restart.
const RESERVE: u64 = 64;

/// Raises the limit of open files (RLIMIT_NOFILE) to what the system allows the process. What it starts inherits it.
pub fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?current, ?maximum, "the limit of open files is raised"),
        Err(error) => tracing::debug!(%error, "the limit of open files stays"),
    }
}

/// Whether a descriptor that has just been made is one of the last. As the kernel gives the lowest number that is
/// free, it is when all below the reserve are in use.
pub fn is_in_reserve(descriptor: &impl AsFd) -> bool {
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or_default();
    getrlimit(Resource::Nofile).current.is_some_and(|limit| number >= reserved_from(limit))
}

/// The first number of the reserve. A limit that is tight anyway leaves three quarters to connections.
fn reserved_from(limit: u64) -> u64 {
    limit - RESERVE.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::{RESERVE, reserved_from};

    #[test]
    fn the_reserve_leaves_most_to_connections() {
        assert_eq!(reserved_from(1024), 1024 - RESERVE);
        assert_eq!(reserved_from(64), 48);
        assert_eq!(reserved_from(0), 0);
    }
}
