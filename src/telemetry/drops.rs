//! A dropped packet has a name: the reason is at once the counter, the log field and the key that
//! users see in `TVpnDrops` (API §2).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Size;

/// The class a packet is queued in (API §6). Higher classes drain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// ICMP, DNS, SSH and small packets.
    High,
    /// The rest, and whatever can't be classified.
    Normal,
    /// Flows that have moved much recently.
    Low,
}

impl Priority {
    /// Every class, the one that drains first at the head.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The key of `TVpnDrops`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a packet was not delivered. The strings are public API (`TVpnDropReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The session's queue was at its bound.
    QueueFull,
    /// The packet had waited in the queue for too long.
    QueueDelay,
    /// The client's token bucket was empty.
    RateLimit,
    /// Longer than the tunnel's MTU; its sender is told by ICMP.
    TooBig,
    /// Its source is not an address of the client that sent it (PROTOCOL §6).
    Spoofed,
    /// Its source is `::` or link-local, which any host emits (PROTOCOL §6).
    LinkLocal,
    /// Its destination is not an address of the client that received it (PROTOCOL §6), or of a client's packet: is
    /// loopback, multicast or broadcast.
    Misdirected,
    /// Not one whole IPv4 or IPv6 packet (PROTOCOL §6).
    Malformed,
    /// Its offload header does not fit it (PROTOCOL §6).
    OffloadInvalid,
    /// No client has its destination address.
    NoRoute,
    /// Its destination is another client, which the configuration does not allow.
    ClientToClient,
    /// It waited for a connection for so long that its sender has given up on it.
    Stale,
    /// There was no connection to send it over.
    NotConnected,
}

impl DropReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::QueueFull,
        Self::QueueDelay,
        Self::RateLimit,
        Self::TooBig,
        Self::Spoofed,
        Self::LinkLocal,
        Self::Misdirected,
        Self::Malformed,
        Self::OffloadInvalid,
        Self::NoRoute,
        Self::ClientToClient,
        Self::Stale,
        Self::NotConnected,
    ];

    /// The key of `TVpnDrops`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::QueueDelay => "queue-delay",
            Self::RateLimit => "rate-limit",
            Self::TooBig => "too-big",
            Self::Spoofed => "spoofed",
            Self::LinkLocal => "link-local",
            Self::Misdirected => "misdirected",
            Self::Malformed => "malformed",
            Self::OffloadInvalid => "offload-invalid",
            Self::NoRoute => "no-route",
            Self::ClientToClient => "client-to-client",
            Self::Stale => "stale",
            Self::NotConnected => "not-connected",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const PRIORITIES: usize = Priority::ALL.len();
const REASONS: usize = DropReason::ALL.len();

/// The live counters of one session or one end: 624 bytes, shared between tasks, never locked.
#[derive(Debug, Default)]
pub struct Drops {
    cells: [[Cell; REASONS]; PRIORITIES],
}

#[derive(Debug, Default)]
struct Cell {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Drops {
    /// Counts a dropped packet: a super-packet as its segments.
    pub fn count(&self, priority: Priority, reason: DropReason, lost: Size) {
        let cell = &self.cells[priority as usize][reason as usize];
        cell.packets.fetch_add(lost.packets, Ordering::Relaxed);
        cell.bytes.fetch_add(lost.bytes, Ordering::Relaxed);
    }

    /// The counters at this moment. Each number is exact; counters that move meanwhile may be read
    /// a packet apart.
    pub fn snapshot(&self) -> DropsSnapshot {
        DropsSnapshot {
            counts: self.cells.each_ref().map(|row| {
                row.each_ref().map(|cell| Size {
                    packets: cell.packets.load(Ordering::Relaxed),
                    bytes: cell.bytes.load(Ordering::Relaxed),
                })
            }),
        }
    }
}

/// The counters of [`Drops`] at one moment. Its total is computed from its own entries, so the two
/// always agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropsSnapshot {
    counts: [[Size; REASONS]; PRIORITIES],
}

impl DropsSnapshot {
    /// What was dropped from one class for one reason.
    pub fn get(&self, priority: Priority, reason: DropReason) -> Size {
        self.counts[priority as usize][reason as usize]
    }

    /// The sum over everything: `packetsDropped` and `bytesDropped`.
    pub fn total(&self) -> Size {
        self.non_zero().fold(Size::default(), |mut sum, (_, _, count)| {
            sum += count;
            sum
        })
    }

    /// The entries that users see, by class and then by reason.
    pub fn non_zero(&self) -> impl Iterator<Item = (Priority, DropReason, Size)> + '_ {
        Priority::ALL.into_iter().flat_map(move |priority| {
            DropReason::ALL
                .into_iter()
                .map(move |reason| (priority, reason, self.get(priority, reason)))
                .filter(|(_, _, count)| *count != Size::default())
        })
    }
}

impl std::ops::AddAssign<&Self> for DropsSnapshot {
    /// Adds another end's or session's drops, entry by entry.
    fn add_assign(&mut self, other: &Self) {
        for (row, theirs) in self.counts.iter_mut().zip(&other.counts) {
            for (count, their) in row.iter_mut().zip(theirs) {
                *count += *their;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_table() {
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority as usize, index);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn names_are_those_of_the_public_api() {
        let names = DropReason::ALL.map(DropReason::as_str);
        assert_eq!(
            names.join(" "),
            "queue-full queue-delay rate-limit too-big spoofed link-local misdirected malformed \
             offload-invalid no-route client-to-client stale not-connected"
        );
        assert_eq!(Priority::ALL.map(Priority::as_str), ["high", "normal", "low"]);
    }

    #[test]
    fn each_entry_is_counted_apart_and_sums_up() {
        let drops = Drops::default();
        let mut expected = Size::default();
        for (index, (priority, reason)) in entries().enumerate() {
            let lost = Size { packets: index as u64 + 1, bytes: 1000 + index as u64 };
            drops.count(priority, reason, lost);
            expected += lost;
        }
        let snapshot = drops.snapshot();
        for (index, (priority, reason)) in entries().enumerate() {
            assert_eq!(snapshot.get(priority, reason).packets, index as u64 + 1);
            assert_eq!(snapshot.get(priority, reason).bytes, 1000 + index as u64);
        }
        assert_eq!(snapshot.total(), expected);
        assert_eq!(snapshot.non_zero().count(), 39);
    }

    #[test]
    fn only_what_happened_is_listed() {
        let drops = Drops::default();
        assert_eq!(drops.snapshot().non_zero().count(), 0);
        drops.count(Priority::Low, DropReason::Stale, Size::of_packet(1420));
        drops.count(Priority::Low, DropReason::Stale, Size::of_packet(80));
        let listed: Vec<_> = drops.snapshot().non_zero().collect();
        assert_eq!(listed, [(Priority::Low, DropReason::Stale, Size { packets: 2, bytes: 1500 })]);
    }

    #[test]
    fn snapshots_add_up_entry_by_entry() {
        let (one, other) = (Drops::default(), Drops::default());
        one.count(Priority::High, DropReason::Spoofed, Size::of_packet(10));
        other.count(Priority::High, DropReason::Spoofed, Size::of_packet(20));
        other.count(Priority::Normal, DropReason::NoRoute, Size::of_packet(40));
        let mut sum = one.snapshot();
        sum += &other.snapshot();
        assert_eq!(sum.get(Priority::High, DropReason::Spoofed), Size { packets: 2, bytes: 30 });
        assert_eq!(sum.total(), Size { packets: 3, bytes: 70 });
    }

    fn entries() -> impl Iterator<Item = (Priority, DropReason)> {
        Priority::ALL.into_iter().flat_map(|p| DropReason::ALL.into_iter().map(move |r| (p, r)))
    }
}
