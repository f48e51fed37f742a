//! The process's descriptors: as many as it may have, and some of them not for strangers.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that new connections do not get: for netlink, `nft` and its pipes, controllers, files, and the TUN
/// of a restart.
const RESERVE: u64 = 64;

/// How often it is looked how many the process has in use besides its connections.
const LOOK: Duration = Duration::from_secs(1);

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

/// Tells when only the reserve is left. Connections are the caller's to count, the rest is looked up now and then: the
/// number of a new descriptor does not tell, as it is the lowest that is free.
#[derive(Debug, Default)]
pub struct Descriptors {
    looked: Option<Instant>,
    limit: Option<u64>,
    /// Those in use that are no connection's.
    others: u64,
}

impl Descriptors {
    /// Whether so many connections leave no more than the reserve.
    pub fn are_short(&mut self, now: Instant, connections: usize) -> bool {
        let connections = connections as u64;
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            self.looked = Some(now);
            self.limit = getrlimit(Resource::Nofile).current;
            // Where /proc is missing, what is no connection's is part of the reserve.
            let used = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
            self.others = used.saturating_sub(connections);
        }
        self.limit.is_some_and(|limit| self.others + connections >= reserved_from(limit))
    }
}

/// How many may be in use before the reserve is. A limit that is tight anyway leaves three quarters to connections.
fn reserved_from(limit: u64) -> u64 {
    limit - RESERVE.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_leaves_most_to_connections() {
        assert_eq!(reserved_from(1024), 1024 - RESERVE);
        assert_eq!(reserved_from(64), 48);
        assert_eq!(reserved_from(0), 0);
    }

    #[test]
    fn only_the_reserve_is_left_when_connections_have_the_rest() {
        let mut descriptors = Descriptors::default();
        let now = tokio::time::Instant::now().into_std();
        assert!(!descriptors.are_short(now, 0));
        let Some(limit) = descriptors.limit else { return };
        assert!(descriptors.others > 2 && descriptors.are_short(now, reserved_from(limit) as usize));
    }
}
