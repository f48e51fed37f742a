//! Doors for `fuzz/`: what reads the kernel's messages, without the kernel.

use super::netlink::{KernelRoute, Notice, notices};

/// How many messages of a datagram are of concern, and whether any is unclear.
pub fn read_notices(datagram: &[u8]) -> (usize, bool) {
    notices(datagram)
        .fold((0, false), |(count, unclear), notice| (count + 1, unclear || notice == Notice::Unclear))
}

/// Whether the body of a message is that of a route.
pub fn is_route(body: &[u8]) -> bool {
    KernelRoute::parse(body).is_some()
}
