//! Who is at the other end of a Unix socket, and whether it may control a daemon.

#![expect(unsafe_code, reason = "no safe crate asks for SO_PEERGROUPS")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::sockopt::socket_peercred;

/// Groups of a peer that are looked at: what the kernel holds for one process (`NGROUPS_MAX`).
const GROUPS: usize = 65_536;

/// Whom a daemon listens to: root, the user it runs as, and the members of one group, if one is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) uid: u32,
    pub(super) group: Option<u32>,
}

/// The peer's user when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    gid: u32,
}

impl Admission {
    /// What this process admits, with the members of `group` besides.
    pub(super) fn of_this_process(group: Option<u32>) -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), group }
    }

    /// The peer of `stream`, and whether it is admitted.
    pub(super) fn judge(self, stream: &impl AsFd) -> io::Result<(Peer, bool)> {
        let credentials = socket_peercred(stream)?;
        let peer = Peer { uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw() };
        // Its further groups are asked for only where they matter.
        let admitted = self.admits(peer, &[])
            || (self.group.is_some() && self.admits(peer, &supplementary_groups(stream)?));
        Ok((peer, admitted))
    }

    fn admits(self, peer: Peer, groups: &[u32]) -> bool {
        let member = |group| peer.gid == group || groups.contains(&group);
        peer.uid == 0 || peer.uid == self.uid || self.group.is_some_and(member)
    }
}

/// The further groups that the peer had when it connected.
fn supplementary_groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: `groups` is a valid place for `bytes` bytes, and the descriptor lives as long as
        // the borrow of `stream`.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel has said how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() || needed > GROUPS {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const OWN: Admission = Admission { uid: 1000, group: None };
    const SHARED: Admission = Admission { uid: 1000, group: Some(50) };

    #[test]
    fn root_the_own_user_and_the_group_are_admitted() {
        for (admission, uid, gid, groups, admitted) in [
            (OWN, 0, 0, &[][..], true),
            (OWN, 1000, 7, &[], true),
            (OWN, 1001, 1000, &[1000, 0], false),
            (SHARED, 1001, 50, &[], true),
            (SHARED, 1001, 7, &[8, 50], true),
            (SHARED, 1001, 7, &[8], false),
            (SHARED, 50, 7, &[1000], false),
        ] {
            assert_eq!(admission.admits(Peer { uid, gid }, groups), admitted, "{uid} {gid} {groups:?}");
        }
    }

    #[test]
    fn the_kernel_tells_who_the_peer_is() {
        let (here, _there) = UnixStream::pair().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let (peer, admitted) = Admission::of_this_process(None).judge(&here).unwrap();
        assert_eq!((peer.uid, admitted), (own, true));
        let mut groups = supplementary_groups(&here).unwrap();
        let mut expected: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
    }
}
