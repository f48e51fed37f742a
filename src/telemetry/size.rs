//! How much packets count for.

/// Packets and their bytes; a super-packet counts as the segments it stands for (API §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// IP packets.
    pub packets: u64,
    /// Bytes of these packets, IP headers included.
    pub bytes: u64,
}

impl Size {
    /// Nothing.
    pub const ZERO: Self = Self { packets: 0, bytes: 0 };

    /// One packet of `bytes` bytes.
    pub const fn of_packet(bytes: usize) -> Self {
        Self { packets: 1, bytes: bytes as u64 }
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}
