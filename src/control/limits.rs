//! Limits that the system sets on this process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to what the system allows: each controller, and each client of a
/// server, holds one.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
