//! From the TUN to the sessions' queues.

use std::io;
use std::sync::Arc;

use crate::packet::icmp::MAX_ANSWER;
use crate::tunnel::Tun;

/// Packets taken from the descriptor before they are routed: the locks of a route are taken once
/// for all of them, and other tasks run in between.
const BATCH_PACKETS: usize = 64;

/// Finds the sessions of packets.
pub trait Route: Send + 'static {
    /// Routes packets that were read together, in their order; they may be changed in place. One that
    /// was longer than the room for it is there with its beginning only.
    fn route<'a>(&mut self, packets: impl Iterator<Item = &'a mut [u8]>);
}

/// Drains `tun` for ever; ends only when the device fails.
///
/// The TUN is read whether or not sessions can send: what a session's queue has no room for is
/// dropped there and counted, so that the kernel's own queue never becomes the real one. `mtu` is the
/// largest that the device is given; packets may be longer for a moment, or once somebody else raises it.
pub async fn pump(tun: Arc<Tun>, mtu: u16, mut route: impl Route) -> io::Error {
    let packet_room = usize::from(mtu).max(MIN_ROOM);
    let mut arena = vec![0; packet_room * BATCH_PACKETS];
    let mut lengths = Vec::with_capacity(BATCH_PACKETS);
    loop {
        if let Err(error) = tun.readable().await {
            return error;
        }
        lengths.clear();
        let outcome = fill(&tun, &mut arena, packet_room, &mut lengths);
        let rooms = arena.chunks_mut(packet_room).zip(&lengths);
        route.route(rooms.filter_map(|(room, &length)| room.get_mut(..length)));
        match outcome {
            Ok(()) => tokio::task::yield_now().await,
            // A deleted interface makes its descriptor ready, with nothing to read.
            Err(_) if lengths.is_empty() && tun.is_gone() => {
                return io::Error::new(io::ErrorKind::NotFound, "the interface is gone");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return error,
        }
    }
}

/// Room for a packet that was already in the device's queue when the MTU shrank, and for what an answer
/// to one that is too big quotes of it.
const MIN_ROOM: usize = 2048;

fn fill(tun: &Tun, arena: &mut [u8], packet_room: usize, lengths: &mut Vec<usize>) -> io::Result<()> {
    for room in arena.chunks_mut(packet_room) {
        lengths.push(tun.try_read(room)?);
    }
    Ok(())
}

const _: () = assert!(MIN_ROOM >= MAX_ANSWER);
