//! The client's ends of the data path: TUN to queue, and session to TUN.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::engine::{Port, Route, clock};
use crate::packet::{
    Answers, Egress, Ingress, Intake, Offload, Record, Router, Unreachable, clamp_record, count_drop, quoted,
};
use crate::qos::PacketQueue;
use crate::report::LogLevel;
use crate::telemetry::{DropReason, Quality, Size, Traffic};
use crate::tunnel::{Tun, TunWriter};

use super::marks::Marks;
use super::shared::Shared;

/// From the TUN into the session's queue.
pub(super) struct Uplink {
    tun: Arc<Tun>,
    queue: Arc<PacketQueue>,
    gate: Arc<Gate>,
    egress: Egress,
}

impl Uplink {
    pub(super) fn new(tun: Arc<Tun>, queue: Arc<PacketQueue>, gate: Arc<Gate>) -> Self {
        Self { tun, queue, gate, egress: Egress::default() }
    }
}

impl Route for Uplink {
    fn route<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) {
        let Self { tun, queue, gate, egress } = self;
        let now = clock::now();
        let way = gate.way();
        let mut producer = queue.producer(now);
        let Some(Way { intake, router }) = way else {
            let refuse = |record: Record<'_>| {
                producer.refuse(record.packet, record.offload, DropReason::NotConnected);
            };
            return records.for_each(refuse);
        };
        for mut record in records {
            let passed = egress.pass(&mut record, intake, |packet, offload| producer.push(packet, offload));
            if let Err(reason) = passed {
                producer.refuse(record.packet, record.offload, reason);
                if reason == DropReason::TooBig {
                    let answer = |answer: &[u8]| tun.write(answer, Offload::NONE).is_ok();
                    let mut room = Vec::new();
                    gate.answers.too_big(now, &router, quoted(&mut record, &mut room), intake.mtu, answer);
                }
            }
        }
        let lost = producer.take_unreachable();
        // Its lock is let go before the answers are written.
        drop(producer);
        gate.tell_unreachable(now, tun, &lost);
    }
}

/// Whether and how packets pass from the TUN into the queue: asked once a batch, set once a connection.
pub(super) struct Gate {
    /// Absent before the first session: packets are then dropped.
    way: Mutex<Option<Way>>,
    pub(super) answers: Answers,
}

/// What the session that packets go to permits.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// What it takes.
    pub(super) intake: Intake,
    /// Who says that a packet is longer, or that there is no connection: the server, as the next hop.
    pub(super) router: Router,
}

impl Gate {
    /// A gate that is shut.
    pub(super) fn new() -> Self {
        Self { way: Mutex::new(None), answers: Answers::new(clock::now()) }
    }

    pub(super) fn set(&self, way: Option<Way>) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    /// Tells this host's programs that their segments were lost for want of a connection, as the next hop
    /// would; not while there is no way.
    pub(super) fn tell_unreachable(&self, now: Instant, tun: &Tun, lost: &Unreachable) {
        if lost.is_empty() {
            return;
        }
        let Some(Way { router, .. }) = self.way() else { return };
        for segment in lost.iter() {
            self.answers.unreachable(now, &router, segment, |answer| {
                // An interface that is down has no senders to tell.
                drop(tun.write(answer, Offload::NONE));
            });
        }
    }

    fn way(&self) -> Option<Way> {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the session into the TUN.
pub(super) struct Downlink {
    writer: TunWriter,
    pub(super) traffic: Arc<Traffic>,
    pub(super) shared: Arc<Shared>,
    marks: Arc<Marks>,
    /// Lets pass what is for this host.
    ingress: Ingress,
    received: Size,
}

impl Downlink {
    pub(super) fn new(
        tun: Arc<Tun>,
        traffic: Arc<Traffic>,
        shared: Arc<Shared>,
        marks: Arc<Marks>,
        ingress: Ingress,
    ) -> Self {
        Self { writer: TunWriter::new(tun), traffic, shared, marks, ingress, received: Size::ZERO }
    }
}

/// Counts what became of a packet at the TUN.
fn written(received: &mut Size, traffic: &Traffic) -> impl FnMut(&[u8], Offload, std::io::Result<()>) {
    |packet, offload, outcome| match outcome {
        Ok(()) => *received += offload.size(packet.len()),
        // The device refuses only while the interface is down, set so by somebody else.
        Err(_) => count_drop(traffic.drops(), DropReason::NoRoute, packet, offload),
    }
}

impl Port for Downlink {
    fn deliver(&mut self, mut record: Record<'_>) {
        let Self { writer, traffic, ingress, received, .. } = self;
        if let Err(reason) = ingress.admit(&record) {
            return count_drop(traffic.drops(), reason, record.packet, record.offload);
        }
        clamp_record(&mut record, ingress.mtu());
        writer.push(record, &mut written(received, traffic));
    }

    fn delivered(&mut self) {
        let Self { writer, traffic, received, .. } = self;
        writer.flush(&mut written(received, traffic));
        traffic.add_received(std::mem::take(received));
    }

    fn rest(&mut self) {
        self.writer.shrink();
    }

    fn round_trip(&mut self, quality: &Quality) {
        self.shared.round_trip(quality);
        self.marks.confirmed.store(true, Ordering::Relaxed);
    }

    fn keys_aging(&mut self) {
        self.marks.keys_aging.store(true, Ordering::Relaxed);
    }

    fn keys_renewed(&mut self) {
        self.shared.events.log(LogLevel::Debug, "keys", "the session has new keys");
    }

    fn timed_out(&mut self, quality: &Quality) {
        self.shared.timed_out(quality);
    }
}

#[cfg(test)]
mod tests;
