//! Which flows have moved more than a megabyte within the last minute (API §6).
//!
//! The memory is fixed: a flow has a place in one of [`SETS`] sets of [`WAYS`] entries, chosen by its
//! keyed hash. While a set has room every byte is counted. In a full one a newcomer takes the place of
//! the entry with the fewest bytes, but only as often as its packets are long ([`ADMISSION_BYTES`]), and
//! never that of a heavy flow: a flood of flows of one packet each neither grows the memory nor makes it
//! forget, and a bulk transfer in the middle of the flood is noticed some 16 kB late.

use std::time::{Duration, Instant};

/// A flow that moved more than this within [`WINDOW`] is heavy, in bytes (API §6).
pub const HEAVY_BYTES: u32 = 1_000_000;

/// How far back the accounting looks (API §6). It moves in steps of a [`SLICES`]th: what is counted
/// is between 55 and 60 s old at most.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Slices of the window, each with its own sum.
const SLICES: usize = 12;

/// Length of one slice.
const SLICE_SECS: u64 = WINDOW.as_secs() / SLICES as u64;

/// Sets of entries. With [`WAYS`] of 68 bytes each the table has 8.5 KiB, and room for the bulk of more
/// connections than a person or a file-sharing program has at a time.
const SETS: usize = 16;

/// Entries of a set.
const WAYS: usize = 8;

/// In a full set a packet of this length or more would always displace the smallest entry; one of
/// 1,420 bytes does in one case of twelve.
const ADMISSION_BYTES: u32 = 16 * 1024;

const _: () = assert!(size_of::<Set>() * SETS <= 9 * 1024);

/// The accounting of one queue: nothing before the first packet, then 8.5 KiB.
#[derive(Debug)]
pub struct FlowAccounting {
    sets: Box<[Set]>,
    /// Where the slices are counted from.
    epoch: Option<Instant>,
    /// State of a xorshift generator, seeded by the first flow's keyed hash; never zero.
    dice: u64,
    /// A packet was counted since the last [`trim`](Self::trim).
    used: bool,
}

/// The names lie together: a look-up reads one cache line, and a second one if it finds.
#[derive(Clone, Debug, Default)]
struct Set {
    /// 0 is nobody's.
    flows: [u64; WAYS],
    sums: [Sums; WAYS],
}

/// What one flow has moved, by slices. A slice is cut off above [`HEAVY_BYTES`], so sums stay small.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    slices: [u32; SLICES],
    total: u32,
    /// The number of the slice counted last.
    newest: u32,
}

impl Default for FlowAccounting {
    fn default() -> Self {
        Self { sets: Box::default(), epoch: None, dice: 1, used: false }
    }
}

impl FlowAccounting {
    /// Counts a packet of the flow with this keyed hash; true if the flow is heavy, this packet
    /// included. A `now` before that of an earlier call counts as that one.
    pub fn add(&mut self, now: Instant, flow: u64, bytes: usize) -> bool {
        let (flow, bytes) = (flow.max(1), u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS].into_boxed_slice();
            self.dice = flow;
        }
        self.used = true;
        let slice = slice(*self.epoch.get_or_insert(now), now);
        let set = &mut self.sets[(flow >> 32) as usize % SETS];
        let sums = match set.flows.iter().position(|name| *name == flow) {
            Some(way) => &mut set.sums[way],
            None => match set.place(slice, bytes, roll(&mut self.dice)) {
                Some(way) => {
                    set.flows[way] = flow;
                    set.sums[way] = Sums { newest: slice, ..Sums::default() };
                    &mut set.sums[way]
                }
                None => return false,
            },
        };
        sums.add(slice, bytes);
        sums.total > HEAVY_BYTES
    }

    /// Whether the flow with this keyed hash is heavy, as far as it was counted.
    pub fn is_heavy(&mut self, now: Instant, flow: u64) -> bool {
        let (Some(epoch), flow) = (self.epoch, flow.max(1)) else { return false };
        let Some(set) = self.sets.get_mut((flow >> 32) as usize % SETS) else { return false };
        let Some(way) = set.flows.iter().position(|name| *name == flow) else { return false };
        set.sums[way].advance(slice(epoch, now));
        set.sums[way].total > HEAVY_BYTES
    }

    /// Frees the memory if nothing was counted since the last call.
    pub fn trim(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.sets = Box::default();
        }
    }

    /// The memory held, in bytes.
    pub fn held_bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }
}

impl Set {
    /// The entry that a new flow may have.
    fn place(&mut self, slice: u32, bytes: u32, dice: u64) -> Option<usize> {
        // Begins anywhere, so that among equals each is as likely to go.
        let begin = dice as usize;
        let mut smallest = begin % WAYS;
        for way in (0..WAYS).map(|step| (begin + step) % WAYS) {
            self.sums[way].advance(slice);
            if self.sums[way].total < self.sums[smallest].total {
                smallest = way;
            }
        }
        match self.sums[smallest].total {
            0 => Some(smallest),
            HEAVY_BYTES.. => None,
            _ => ((dice >> 32) as u32 % ADMISSION_BYTES < bytes).then_some(smallest),
        }
    }
}

impl Sums {
    fn add(&mut self, slice: u32, bytes: u32) {
        self.advance(slice);
        let sum = &mut self.slices[self.newest as usize % SLICES];
        let more = bytes.min(HEAVY_BYTES + 1 - *sum);
        *sum += more;
        self.total += more;
    }

    /// Forgets what has left the window.
    fn advance(&mut self, slice: u32) {
        let gone = slice.saturating_sub(self.newest);
        for step in 1..=gone.min(SLICES as u32) {
            let old = &mut self.slices[self.newest.wrapping_add(step) as usize % SLICES];
            self.total -= std::mem::take(old);
        }
        self.newest = self.newest.max(slice);
    }
}

/// The number of the slice that `now` is in.
fn slice(epoch: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(epoch).as_secs() / SLICE_SECS).unwrap_or(u32::MAX)
}

/// The next number of Marsaglia's xorshift64.
fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use proptest::prelude::*;

    use super::super::tests::epoch;
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Hashes as good as the keyed one, without end.
    fn names(mut seed: u64) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
    }

    #[test]
    fn a_flow_is_heavy_beyond_a_megabyte() {
        let (mut flows, now) = (FlowAccounting::default(), epoch());
        for _ in 0..1000 {
            assert!(!flows.add(now, 7, 1000));
        }
        assert!(flows.add(now, 7, 1));
        assert!(!flows.add(now, 8, 1000), "another flow has its own account");
        assert!(flows.add(now, 7, 1));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let (mut flows, start) = (FlowAccounting::default(), epoch());
        assert!(flows.add(start, 7, 2_000_000));
        assert!(flows.add(start + secs(54), 7, 1));
        assert!(!flows.add(start + secs(60), 7, 1));

        // 16 kB a second are 960 kB in any minute, 17 kB more than a megabyte.
        for (rate, heavy) in [(16_000, false), (18_400, true)] {
            let mut flows = FlowAccounting::default();
            let ever = (0..600).any(|second| flows.add(start + secs(second), 7, rate));
            assert_eq!(ever, heavy, "{rate} B/s");
        }
    }

    #[test]
    fn silence_and_jumping_clocks_are_harmless() {
        let (mut flows, start) = (FlowAccounting::default(), epoch());
        let start = start + secs(1000);
        flows.add(start, 7, 600_000);
        assert!(!flows.add(start - secs(500), 7, 300_000), "back");
        assert!(flows.add(start, 7, 100_001));
        assert!(!flows.add(start + secs(40_000_000), 7, 1), "a year on");
        assert!(!flows.add(start, 7, 999_999), "and back again");
        assert!(flows.add(start, 7, 1));
    }

    #[test]
    fn a_flow_too_large_to_count_stays_heavy_and_cools_down() {
        let (mut flows, start) = (FlowAccounting::default(), epoch());
        for second in 0..100 {
            for _ in 0..1000 {
                flows.add(start + secs(second), 7, 65_535);
            }
            assert!(flows.add(start + secs(second), 7, 0), "at 65 MB a second");
        }
        assert!(!flows.add(start + secs(160), 7, 1));
    }

    #[test]
    fn a_million_flows_neither_grow_it_nor_push_heavy_ones_out() {
        let (mut flows, start) = (FlowAccounting::default(), epoch());
        let heavy: Vec<_> = names(1).take(60).collect();
        for flow in &heavy {
            flows.add(start, *flow, 1_000_001);
        }
        let held = flows.held_bytes();
        for (count, flow) in names(2).take(1_000_000).enumerate() {
            flows.add(start + secs(count as u64 / 100_000), flow, 1420);
        }
        assert_eq!(flows.held_bytes(), held);
        assert!(held <= 9 * 1024, "{held}");
        let known = heavy.iter().filter(|flow| flows.add(start + secs(10), **flow, 1)).count();
        // The sets have room for eight each; what did not fit was never in.
        assert!(known >= 58, "{known} of 60");
    }

    #[test]
    fn a_bulk_transfer_is_noticed_in_the_middle_of_a_flood() {
        for seed in 0..10 {
            let (mut flows, start) = (FlowAccounting::default(), epoch());
            let mut flood = names(seed);
            flood.by_ref().take(10_000).for_each(|flow| {
                flows.add(start, flow, 1420);
            });
            // One packet of ours for a hundred of theirs, 800 a second: 1.1 MB/s.
            let ours = 0xabcd_ef01_2345_6789 ^ seed << 40;
            let noticed = (0..40_000_u64).find(|packet| {
                let now = start + Duration::from_micros(packet * 1250);
                flood.by_ref().take(100).for_each(|flow| {
                    flows.add(now, flow, 1420);
                });
                flows.add(now, ours, 1420)
            });
            // Exact counting takes 705 packets.
            assert!(noticed.is_some_and(|packets| packets < 1500), "{noticed:?}");
        }
    }

    #[test]
    fn memory_comes_with_the_first_packet_and_goes_with_silence() {
        let mut flows = FlowAccounting::default();
        assert_eq!(flows.held_bytes(), 0);
        flows.add(epoch(), 7, 1);
        assert!(flows.held_bytes() > 0);
        flows.trim();
        assert!(flows.held_bytes() > 0, "it was used");
        flows.trim();
        assert_eq!(flows.held_bytes(), 0);
        assert!(!flows.add(epoch(), 7, 1_000_000));
        assert!(flows.add(epoch(), 7, 1));
    }

    proptest! {
        /// Where nobody is displaced, the sums are those of a list of all packets, to the slice.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0_u64..20, 1_u64..6, 0_usize..400_000), 1..300)) {
            let (mut flows, start, mut now) = (FlowAccounting::default(), epoch(), 0);
            // Slices begin with the first packet.
            flows.add(start, u64::MAX, 0);
            let mut model: HashMap<u64, VecDeque<(u64, u64)>> = HashMap::new();
            for (wait, name, bytes) in steps {
                now += wait;
                let heavy = flows.add(start + secs(now), name << 32 | 1, bytes);
                let list = model.entry(name).or_default();
                list.push_back((now, bytes as u64));
                let oldest = (now / SLICE_SECS + 1).saturating_sub(SLICES as u64) * SLICE_SECS;
                list.retain(|(at, _)| *at >= oldest);
                prop_assert_eq!(heavy, list.iter().map(|(_, bytes)| bytes).sum::<u64>() > u64::from(HEAVY_BYTES));
            }
        }
    }
}
