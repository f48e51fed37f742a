//! The server's ends of the data path: TUN to the clients' queues, and a client's session to the
//! TUN or, where allowed, to another client.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::{Port, Route, clock};
use crate::packet::{Ingress, IpPacket};
use crate::telemetry::{DropReason, Priority, Quality};

use super::hub::Hub;
use super::peer::Peer;

/// From the TUN to the client that has the destination address.
pub(super) struct Downlink(pub(super) Arc<Hub>);

impl Route for Downlink {
    fn route<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) {
        let now = clock::now();
        let table = self.0.table();
        let mut current: Option<(IpAddr, crate::qos::Producer<'_>)> = None;
        for packet in packets {
            let to = IpPacket::parse(packet).ok().map(|packet| packet.dst());
            // Packets that follow each other mostly go to the same client: its lock is kept.
            if current.as_ref().is_none_or(|(addr, ..)| Some(*addr) != to) {
                // Its lock is let go before the next one is taken.
                drop(current.take());
                let found = to.and_then(|to| Some((to, table.by_address(to)?)));
                current = found.map(|(to, peer)| (to, peer.queue.producer(now)));
            }
            match &mut current {
                None => self.0.traffic.drops().count(Priority::Normal, DropReason::NoRoute, packet.len()),
                Some((_, producer)) => producer.push(packet),
            }
        }
    }
}

/// From a client's session.
pub(super) struct Uplink {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    /// Lets pass what comes from the client's own addresses.
    ingress: Ingress,
    received: (u64, u64),
}

impl Uplink {
    pub(super) fn new(hub: Arc<Hub>, peer: Arc<Peer>, mtu: u16) -> Self {
        let ingress = Ingress::from_client(mtu, peer.v4, peer.v6);
        Self { hub, peer, ingress, received: (0, 0) }
    }

    fn take(&self, packet: &[u8]) -> Result<(), DropReason> {
        let to = self.ingress.admit(packet)?.dst();
        if self.hub.is_client_net(to) {
            return self.to_client(to, packet);
        }
        // The device refuses only while the interface is down, set so by somebody else.
        self.hub.tun.write(packet).map_err(|_| DropReason::NoRoute)
    }

    /// Straight to the other client: the kernel need not forward for it.
    fn to_client(&self, to: IpAddr, packet: &[u8]) -> Result<(), DropReason> {
        if !self.hub.client_to_client {
            return Err(DropReason::ClientToClient);
        }
        let table = self.hub.table();
        let other = table.by_address(to).ok_or(DropReason::NoRoute)?;
        // The packet came whole from this client; what finds no room is the other's drop.
        other.queue.producer(clock::now()).push(packet);
        Ok(())
    }
}

impl Port for Uplink {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self.take(packet) {
            Ok(()) => self.received = (self.received.0 + 1, self.received.1 + packet.len() as u64),
            Err(reason) => self.peer.drop_packet(reason, packet.len()),
        }
    }

    fn delivered(&mut self) {
        let (packets, bytes) = std::mem::take(&mut self.received);
        self.peer.traffic.add_received(packets, bytes);
    }

    fn round_trip(&mut self, _quality: &Quality) {}

    fn keepalive_came(&mut self) {
        self.peer.keepalive_came();
    }
}
