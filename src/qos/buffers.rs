//! Buffers for packets, by size class, kept for reuse.
//!
//! A buffer is a `Vec<u8>` whose contents are the packet. Its capacity is a power of two from
//! [`SMALLEST`] to [`LARGEST`], so a short packet never occupies an MTU-sized buffer, a long one
//! wastes at most half of its own, and any buffer fits any other packet of its class.

/// The smallest buffer, in bytes: an acknowledgement, a DNS query or a frame of voice with all its
/// headers fits, and the allocator's own cost (16 bytes) stays small beside it.
pub(super) const SMALLEST: usize = 256;

/// The largest buffer, in bytes: the longest packet a bundle record can hold (65,535, PROTOCOL §6).
pub(super) const LARGEST: usize = 65_536;

/// What a free buffer costs in its list.
pub(super) const FREE_BUFFER: usize = size_of::<Vec<u8>>();

const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

/// The capacity that a packet of `len` bytes needs, which is its class; `None` if it is too long.
pub(super) fn capacity_for(len: usize) -> Option<usize> {
    (len <= LARGEST).then(|| len.next_power_of_two().max(SMALLEST))
}

/// Free buffers of every class.
#[derive(Debug, Default)]
pub(super) struct FreeBuffers {
    classes: [Class; CLASSES],
    bytes: usize,
}

#[derive(Debug, Default)]
struct Class {
    free: Vec<Vec<u8>>,
    /// The least that was free since the last [`FreeBuffers::trim`]: so many were not needed.
    unused: usize,
}

impl FreeBuffers {
    /// The memory held, in bytes of capacity.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory of the lists, in bytes.
    pub(super) fn list_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.free.capacity() * FREE_BUFFER).sum()
    }

    /// An empty buffer of this capacity, the one used last.
    pub(super) fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let class = &mut self.classes[class_of(capacity)];
        let buffer = class.free.pop()?;
        class.unused = class.unused.min(class.free.len());
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer for reuse. The bound on all buffers is the caller's.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.bytes += buffer.capacity();
        self.classes[class_of(buffer.capacity())].free.push(buffer);
    }

    /// Frees buffers until at most `bytes` are held, those of the smallest class first: what needs the
    /// room then is longer.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        for class in &mut self.classes {
            while self.bytes > bytes
                && let Some(buffer) = class.free.pop()
            {
                self.bytes -= buffer.capacity();
            }
            class.unused = class.unused.min(class.free.len());
        }
    }

    /// Frees the room in the lists that nothing lies in.
    pub(super) fn fit(&mut self) {
        self.classes.iter_mut().for_each(|class| class.free.shrink_to_fit());
    }

    /// Frees what was not needed since the last call: of two calls without traffic in between, the
    /// second frees everything.
    pub(super) fn trim(&mut self) {
        for class in &mut self.classes {
            let freed = class.free.drain(..class.unused);
            self.bytes -= freed.map(|buffer| buffer.capacity()).sum::<usize>();
            class.free.shrink_to_fit();
            class.unused = class.free.len();
        }
    }
}

/// The index of the class whose buffers have this capacity, or the next smaller one: an allocator
/// may give more than was asked for.
fn class_of(capacity: usize) -> usize {
    let index = (capacity / SMALLEST).max(1).ilog2() as usize;
    index.min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_gets_the_smallest_buffer_that_holds_it() {
        let table = [
            (0, 256),
            (1, 256),
            (256, 256),
            (257, 512),
            (1420, 2048),
            (2048, 2048),
            (2049, 4096),
            (9000, 16_384),
            (65_535, 65_536),
            (65_536, 65_536),
        ];
        for (len, capacity) in table {
            assert_eq!(capacity_for(len), Some(capacity), "{len}");
        }
        assert_eq!(capacity_for(65_537), None);
    }

    #[test]
    fn every_class_has_its_own_place() {
        let places: Vec<_> = (8..=16).map(|power| class_of(1 << power)).collect();
        assert_eq!(places, (0..CLASSES).collect::<Vec<_>>());
        assert_eq!(class_of(300), class_of(256));
        assert_eq!(class_of(1 << 20), CLASSES - 1);
    }

    #[test]
    fn a_buffer_comes_back_empty_and_for_its_own_class_only() {
        let mut free = FreeBuffers::default();
        free.put(buffer(2048));
        assert_eq!((free.bytes(), free.take(256)), (2048, None));
        let again = free.take(2048).unwrap();
        assert_eq!((again.len(), again.capacity(), free.bytes()), (0, 2048, 0));
    }

    #[test]
    fn room_is_made_by_freeing_the_smallest_first() {
        let mut free = FreeBuffers::default();
        for capacity in [256, 4096, 256] {
            free.put(buffer(capacity));
        }
        free.shrink_to(4608);
        assert_eq!(free.bytes(), 4608);
        free.shrink_to(4500);
        assert_eq!(free.bytes(), 4352);
        free.shrink_to(4351);
        assert_eq!((free.bytes(), free.take(256)), (4096, None));
        free.shrink_to(0);
        assert_eq!((free.bytes(), free.take(4096)), (0, None));
    }

    #[test]
    fn trimming_frees_what_was_not_needed() {
        let mut free = FreeBuffers::default();
        for _ in 0..4 {
            free.put(buffer(256));
        }
        free.trim();
        assert_eq!(free.bytes(), 4 * 256, "all are new");
        let busy = [free.take(256).unwrap(), free.take(256).unwrap(), free.take(256).unwrap()];
        busy.into_iter().for_each(|buffer| free.put(buffer));
        free.trim();
        assert_eq!(free.bytes(), 3 * 256, "one was not needed");
        free.trim();
        assert_eq!(free.bytes(), 0, "none was needed");
        assert!(free.classes.iter().all(|class| class.free.capacity() == 0));
    }

    fn buffer(capacity: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.push(1);
        buffer
    }
}
