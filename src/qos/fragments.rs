//! What the first fragment of a datagram said, for those that follow it.

use std::time::{Duration, Instant};

use crate::telemetry::Priority;

/// Datagrams remembered. Their fragments come right behind each other, so few are under way at a time.
const DATAGRAMS: usize = 32;

/// How long a first fragment speaks for its datagram: longer than a router keeps the fragments apart,
/// shorter than a busy sender takes to use up the 65,536 ids of IPv4.
const LIFETIME: Duration = Duration::from_secs(1);

/// The datagrams seen last: nothing before the first fragment, then a kilobyte and a half.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    seen: Box<[Option<Datagram>]>,
    used: bool,
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    name: u64,
    flow: u64,
    priority: Priority,
    until: Instant,
}

const _: () = assert!(DATAGRAMS * size_of::<Option<Datagram>>() <= 1536);

impl Fragments {
    /// The first fragment of the datagram with this keyed hash has told its flow and class.
    pub(super) fn first(&mut self, now: Instant, name: u64, flow: u64, priority: Priority) {
        if self.seen.is_empty() {
            self.seen = vec![None; DATAGRAMS].into_boxed_slice();
        }
        self.used = true;
        self.seen[name as usize % DATAGRAMS] = Some(Datagram { name, flow, priority, until: now + LIFETIME });
    }

    /// What the first fragment told, if it came before this one.
    pub(super) fn later(&self, now: Instant, name: u64) -> Option<(u64, Priority)> {
        let datagram = self.seen.get(name as usize % DATAGRAMS)?.as_ref()?;
        (datagram.name == name && now <= datagram.until).then_some((datagram.flow, datagram.priority))
    }

    /// Frees the memory if there was no first fragment since the last call.
    pub(super) fn trim(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.seen = Box::default();
        }
    }

    /// The memory held, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        size_of_val(&*self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::epoch;
    use super::*;

    #[test]
    fn a_first_fragment_speaks_for_its_datagram_for_a_second() {
        let (mut fragments, now) = (Fragments::default(), epoch());
        assert_eq!(fragments.later(now, 7), None);
        fragments.first(now, 7, 70, Priority::High);
        fragments.first(now, 8, 80, Priority::Normal);
        assert_eq!(fragments.later(now + LIFETIME, 7), Some((70, Priority::High)));
        assert_eq!(fragments.later(now, 8), Some((80, Priority::Normal)));
        assert_eq!(fragments.later(now, 7 + DATAGRAMS as u64), None, "another in the same place");
        assert_eq!(fragments.later(now + LIFETIME + Duration::from_millis(1), 7), None);
    }

    #[test]
    fn memory_is_bounded_and_goes_with_silence() {
        let (mut fragments, now) = (Fragments::default(), epoch());
        (0..1_000_000).for_each(|name| fragments.first(now, name, name, Priority::Normal));
        assert!(fragments.held_bytes() <= 1536);
        assert_eq!(fragments.later(now, 999_999), Some((999_999, Priority::Normal)));
        fragments.trim();
        fragments.trim();
        assert_eq!((fragments.held_bytes(), fragments.later(now, 999_999)), (0, None));
    }
}
