//! Packets on their way into the TUN.

use std::io;
use std::sync::Arc;

use super::device::{Offloads, Tun};
use crate::packet::{Coalescer, Offload, Record, segment};

/// Writes packets into a [`Tun`], in as few calls as it permits: what belongs together goes as one where
/// the kernel has offloads, and a super-packet in segments where it has none. One for each task that writes.
///
/// What it is given may stay until [`flush`](Self::flush), which is due when all packets of a message
/// have come.
pub struct TunWriter {
    tun: Arc<Tun>,
    coalescer: Coalescer,
    scratch: Vec<u8>,
}

impl TunWriter {
    /// A writer with nothing waiting.
    pub fn new(tun: Arc<Tun>) -> Self {
        let coalescer = Coalescer::new(tun.offloads() == Offloads::TcpAndUdp);
        Self { tun, coalescer, scratch: Vec::new() }
    }

    /// What it writes into.
    pub fn tun(&self) -> &Tun {
        &self.tun
    }

    /// Writes a packet, now or with the next [`flush`](Self::flush). `done` is told of each packet what
    /// became of it: of this one, and of earlier ones that go first.
    pub fn push(&mut self, record: Record<'_>, done: &mut impl FnMut(&[u8], Offload, io::Result<()>)) {
        let Self { tun, coalescer, scratch } = self;
        let Record { packet, offload } = record;
        match tun.offloads() {
            Offloads::None => write_segments(tun, packet, offload, scratch, done),
            _ => coalescer.push(packet, offload, &mut |packet, offload| {
                write(tun, packet, offload, scratch, done);
            }),
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self, done: &mut impl FnMut(&[u8], Offload, io::Result<()>)) {
        let Self { tun, coalescer, scratch } = self;
        coalescer.flush(&mut |packet, offload| write(tun, packet, offload, scratch, done));
    }

    /// Gives memory back that traffic no longer needs.
    pub fn shrink(&mut self) {
        self.coalescer.shrink();
        self.scratch = Vec::new();
    }
}

/// Writes a packet as it is or, where the kernel does not know this kind, in segments.
fn write(
    tun: &Tun,
    packet: &mut [u8],
    offload: Offload,
    scratch: &mut Vec<u8>,
    done: &mut impl FnMut(&[u8], Offload, io::Result<()>),
) {
    match tun.write(packet, offload) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && !offload.is_none() => {
            write_segments(tun, packet, offload, scratch, done);
        }
        written => done(packet, offload, written),
    }
}

fn write_segments(
    tun: &Tun,
    packet: &mut [u8],
    offload: Offload,
    scratch: &mut Vec<u8>,
    done: &mut impl FnMut(&[u8], Offload, io::Result<()>),
) {
    segment(packet, offload, scratch, |segment| {
        let written = tun.write(segment, Offload::NONE);
        done(segment, Offload::NONE, written);
    });
}
