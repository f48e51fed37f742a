//! From the TUN to the sessions' queues.

use std::io;
use std::sync::Arc;

use crate::packet::Record;
use crate::packet::icmp::MAX_ANSWER;
use crate::tunnel::{READ_ROOM, Received, Tun};

/// Packets taken from the descriptor before they are routed: the locks of a route are taken once
/// for all of them, and other tasks run in between.
const BATCH_PACKETS: usize = 128;

/// Where a batch is read to, in bytes: three super-packets, or as many MTU packets as a batch has.
const ARENA: usize = 3 * READ_ROOM;

/// Finds the sessions of packets.
pub trait Route: Send + 'static {
    /// Routes packets that were read together, in their order; they may be changed in place. One that
    /// was longer than the room for it is there with its beginning only.
    fn route<'a>(&mut self, packets: impl Iterator<Item = Record<'a>>);
}

/// Drains `tun` for ever; ends only when the device fails.
///
/// The TUN is read whether or not sessions can send: what a session's queue has no room for is
/// dropped there and counted, so that the kernel's own queue never becomes the real one.
pub async fn pump(tun: Arc<Tun>, mut route: impl Route) -> io::Error {
    let mut batch = Batch::new();
    loop {
        if let Err(error) = tun.readable().await {
            return error;
        }
        let outcome = batch.fill(&tun);
        route.route(batch.records());
        match outcome {
            Ok(()) => tokio::task::yield_now().await,
            // A deleted interface makes its descriptor ready, with nothing to read.
            Err(_) if batch.received.is_empty() && tun.is_gone() => {
                return io::Error::new(io::ErrorKind::NotFound, "the interface is gone");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return error,
        }
    }
}

/// Packets that were read together, one behind the other.
struct Batch {
    arena: Vec<u8>,
    received: Vec<Received>,
}

impl Batch {
    fn new() -> Self {
        Self { arena: vec![0; ARENA], received: Vec::with_capacity(BATCH_PACKETS) }
    }

    /// Reads until the batch is full; an error, `WouldBlock` among them, tells why it is not.
    fn fill(&mut self, tun: &Tun) -> io::Result<()> {
        self.received.clear();
        let mut at = 0;
        while self.received.len() < BATCH_PACKETS {
            let Some(room) = self.arena.get_mut(at..at + READ_ROOM) else { break };
            let Received { range, offload } = tun.try_read(room)?;
            let range = at + range.start..at + range.end;
            at = range.end;
            self.received.push(Received { range, offload });
        }
        Ok(())
    }

    fn records(&mut self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.arena.as_mut_slice();
        let mut behind = 0;
        self.received.iter().filter_map(move |Received { range, offload }| {
            let (_, from) = std::mem::take(&mut rest).split_at_mut_checked(range.start - behind)?;
            let (packet, after) = from.split_at_mut_checked(range.len())?;
            (rest, behind) = (after, range.end);
            Some(Record { packet, offload: *offload })
        })
    }
}

const _: () = assert!(READ_ROOM >= MAX_ANSWER);
