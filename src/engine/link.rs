//! One session over one connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::{End, Meter, clock};
use crate::codec::disconnect::DisconnectCode;
use crate::packet::Record;
use crate::qos::{Allowance, Batch, PacketQueue};
use crate::session::{Event, Session};
use crate::telemetry::{Quality, Traffic};
use crate::transport::{Quantum, SESSION_MESSAGE_LIMIT, Stream, WebSocket, WebSocketError};

/// Bytes of packets that go into one WebSocket message: the longest super-packet, counted as the segments
/// that it stands for. Enough to spread the cost of a message and a system call over many packets, little
/// enough that a keepalive's answer waits for at most one.
const BATCH_BYTES: usize = 72 * 1024;

/// Rounds of reading and writing before the task lets others run.
const ROUNDS_PER_WAKE: usize = 16;

/// Ends the session from this side.
#[derive(Clone, Debug)]
pub struct Order {
    /// What the peer is told.
    pub code: DisconnectCode,
    /// Why, for people.
    pub message: &'static str,
}

/// An order that is being carried out.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    code: DisconnectCode,
    /// The Disconnect is in the output, behind what was there before.
    said: bool,
    /// When it is over, whether or not the socket has taken it.
    until: Instant,
}

/// How long a socket that takes nothing keeps a link that is to end: what PROTOCOL §9 gives the peer for its answer.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// Where a link's packets go.
pub trait Port: Send {
    /// One packet that the peer sent; unchecked.
    fn deliver(&mut self, record: Record<'_>);

    /// All packets of a message were delivered; the place for what is done once a batch.
    fn delivered(&mut self) {}

    /// One of our keepalives came back.
    fn round_trip(&mut self, quality: &Quality);

    /// One of our keepalives was not answered in time.
    fn timed_out(&mut self, quality: &Quality);

    /// The peer sent a keepalive.
    fn keepalive_came(&mut self) {}

    /// The keys have nine tenths of their service behind them.
    fn keys_aging(&mut self) {}

    /// The session has new keys.
    fn keys_renewed(&mut self) {}

    /// Gives back memory that traffic no longer needs, at the slow pace of keepalives.
    fn rest(&mut self) {}

    /// Lets go of packets that were held back, and tells when it can let go of more, if ever. Called
    /// whenever the link's task runs; what wakes it otherwise is the port's business.
    fn release(&mut self, _cx: &mut Context<'_>, _now: Instant) -> Option<Instant> {
        None
    }
}

/// A session, its connection and its packets.
pub struct Link<S, P> {
    websocket: WebSocket<S>,
    session: Session,
    port: P,
    queue: Arc<PacketQueue>,
    traffic: Arc<Traffic>,
    orders: mpsc::Receiver<Order>,
    leaving: Option<Leaving>,
    /// Packets leave by another link from now on.
    retired: bool,
    /// The way is likely to be dead: packets are held.
    holding: bool,
    batch: Batch,
    /// How much to seal at a time on a slow path.
    quantum: Option<Quantum>,
    /// What may be sent, where that is limited.
    meter: Option<Meter>,
    /// When packets that wait for tokens can go: to the peer, from the port.
    tokens_at: (Option<Instant>, Option<Instant>),
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to. It may fire early, never late: a deadline that moved away is
    /// found out when it fires, which costs less than moving the timer at each packet.
    armed: Option<Instant>,
    /// What of the session's keepalives is counted already: sent, received.
    keepalives: (u64, u64),
}

impl<S, P> Link<S, P>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Port,
{
    /// Joins a session that is up with its connection. Packets come from `queue` and go to `port`.
    pub fn new(
        mut websocket: WebSocket<S>,
        session: Session,
        port: P,
        queue: Arc<PacketQueue>,
        traffic: Arc<Traffic>,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        websocket.set_message_limit(SESSION_MESSAGE_LIMIT);
        let timer = Box::pin(tokio::time::sleep_until(clock::now().into()));
        Self {
            websocket,
            session,
            port,
            queue,
            traffic,
            orders,
            leaving: None,
            retired: false,
            holding: false,
            batch: Batch::default(),
            quantum: None,
            meter: None,
            tokens_at: (None, None),
            timer,
            armed: None,
            keepalives: (0, 0),
        }
    }

    /// Seals no more at a time than `quantum` says.
    #[must_use]
    pub fn with_quantum(mut self, quantum: Quantum) -> Self {
        self.quantum = Some(quantum);
        self
    }

    /// Sends no more than `meter` allows.
    #[must_use]
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Runs until the session or the connection ends.
    pub async fn run(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Runs until the end, or until `enough`, asked after each step, says so.
    pub async fn run_until(&mut self, enough: impl Fn() -> bool) -> Option<End> {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if enough() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// How long nothing had passed when the connection was cut, just now; none if it was in use.
    pub fn silence_before_cut(&self) -> Option<Duration> {
        self.session.silence_before_cut(clock::now(), self.websocket.is_flushed())
    }

    /// Asks the peer whether it is there, as soon as the link runs.
    pub fn probe(&mut self) {
        self.session.probe(clock::now(), &mut rand::rng());
    }

    /// Leaves the packets that wait to another link; what comes is still delivered.
    pub const fn retire(&mut self) {
        self.retired = true;
    }

    /// Closes the connection: Close, and the wait for the peer's, `wait` at most. What a client has sent before it
    /// saw that another connection took this one's place is still delivered.
    pub async fn close(self, code: u16, wait: Duration) {
        let Self { websocket, mut session, mut port, .. } = self;
        let deliver = |message: &mut [u8]| {
            // The connection is closed already: a fault changes nothing.
            let _ended = session.handle_message(clock::now(), message, |record| port.deliver(record));
            port.delivered();
        };
        websocket.close_with(code, "", wait, deliver).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS_PER_WAKE {
            let now = clock::now();
            self.poll_orders(cx);
            let read = match self.poll_read(cx, now) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            if self.leaving.is_none() {
                self.tokens_at.1 = self.port.release(cx, now);
            }
            let timed = self.poll_timer(cx, now);
            self.hold_in_doubt(now);
            if let Some(end) = self.events() {
                return Poll::Ready(end);
            }
            let wrote = match self.poll_write(cx, now) {
                Err(end) => return Poll::Ready(end),
                Ok(wrote) => wrote,
            };
            if let Some(Leaving { code, said, until }) = self.leaving
                && ((said && self.websocket.is_flushed()) || now >= until)
            {
                return Poll::Ready(End::Local(code));
            }
            if !(read || timed || wrote) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_orders(&mut self, cx: &mut Context<'_>) {
        if self.leaving.is_none()
            && let Poll::Ready(Some(order)) = self.orders.poll_recv(cx)
        {
            self.session.disconnect(order.code, order.message);
            self.leaving = Some(Leaving { code: order.code, said: false, until: clock::now() + LEAVE_WAIT });
        }
    }

    /// One message from the peer.
    fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), End>> {
        if let Err(error) = ready!(self.websocket.poll_message(cx)) {
            return Poll::Ready(Err(match error {
                WebSocketError::Protocol(_) | WebSocketError::TooLong => End::BadMessage(error),
                WebSocketError::Io(_) | WebSocketError::Eof | WebSocketError::Closed { .. } => {
                    End::Lost(error)
                }
            }));
        }
        let Self { websocket, session, port, .. } = self;
        let outcome = session.handle_message(now, websocket.message(), |record| port.deliver(record));
        port.delivered();
        Poll::Ready(outcome.map_err(End::BadFrame))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let session = self.session.poll_timeout();
        if session.is_some_and(|deadline| deadline <= now) {
            self.armed = None;
            self.session.handle_timeout(now, &mut rand::rng());
            self.rest(now);
            return true;
        }
        let (to_peer, from_port) = self.tokens_at;
        let leave = self.leaving.map(|leaving| leaving.until);
        let deadlines = [session, to_peer, from_port, leave];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return false };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.timer.as_mut().reset(deadline.into());
            self.armed = Some(deadline);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            return true;
        }
        false
    }

    /// Holds packets while it is in doubt that the way is open, as if there were no connection: what is given to a
    /// dead socket comes out late.
    fn hold_in_doubt(&mut self, now: Instant) {
        let in_doubt = self.session.is_in_doubt();
        if in_doubt == self.holding || self.retired || self.leaving.is_some() {
            return;
        }
        self.holding = in_doubt;
        if in_doubt {
            self.queue.hold(now);
        } else {
            self.queue.release(now);
        }
    }

    /// Gives back memory that traffic no longer needs, at the slow pace of keepalives.
    fn rest(&mut self, now: Instant) {
        self.queue.trim(now);
        self.batch.shrink();
        self.port.rest();
        self.websocket.shrink();
    }

    fn events(&mut self) -> Option<End> {
        let (sent, received) = self.session.keepalives();
        if (sent, received) != self.keepalives {
            self.traffic.add_keepalives_sent(sent - self.keepalives.0);
            self.traffic.add_keepalives_received(received - self.keepalives.1);
            if received != self.keepalives.1 {
                self.port.keepalive_came();
            }
            self.keepalives = (sent, received);
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::RoundTrip { .. } => self.port.round_trip(&self.session.quality()),
                Event::TimedOut => self.port.timed_out(&self.session.quality()),
                Event::PeerDead => return Some(End::DeadPeer),
                Event::Disconnected(disconnect) => return Some(End::Peer(disconnect)),
                Event::KeysAging => self.port.keys_aging(),
                Event::KeysRenewed => self.port.keys_renewed(),
                Event::RekeyFailed(error) => return Some(End::BadFrame(error.into())),
                Event::KeysSpent => return Some(End::KeysSpent),
            }
        }
        None
    }

    /// Writes while the socket takes bytes. True if the socket took a whole message, so that there
    /// may be more to do.
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, End> {
        if self.websocket.is_flushed() && !self.fill(cx, now)? {
            return Ok(false);
        }
        match self.websocket.poll_flush(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(End::Lost(WebSocketError::Io(error))),
        }
    }

    /// Seals what waits into one message: control frames first, then packets. False if there is
    /// nothing; then the queue wakes this task.
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, End> {
        let takes_packets = self.leaving.is_none() && !self.retired;
        let Self { websocket, session, queue, batch, quantum, meter, tokens_at, leaving, traffic, .. } = self;
        let most = quantum.as_ref().map_or(BATCH_BYTES, |quantum| quantum.bytes().min(BATCH_BYTES));
        // What the batch held is sealed already; an end that leaves seals no more packets.
        let count = match takes_packets {
            true => {
                let allowance = match meter {
                    Some(meter) => meter.allowance(now, most),
                    None => Allowance::unlimited(most),
                };
                let count = match queue.poll_drain(cx, now, batch, allowance) {
                    Poll::Ready(count) => count,
                    Poll::Pending => 0,
                };
                if let Some(meter) = meter {
                    meter.take(now, batch.len_bytes());
                    tokens_at.0 = batch.short_of().map(|length| meter.ready_at(now, length));
                }
                count
            }
            false => 0,
        };
        websocket
            .queue_message(|out| {
                session.poll_transmit(out)?;
                if count > 0 { session.seal_packets(now, batch.iter(), out) } else { Ok(()) }
            })
            .map_err(End::BadFrame)?;
        if let Some(leaving) = leaving {
            leaving.said = true;
        }
        if count > 0 {
            traffic.add_sent(batch.size());
        }
        Ok(!self.websocket.is_flushed())
    }
}

impl<P> Link<Stream, P> {
    /// Ends the connection as its end demands: one whose peer is dead is dropped, with what the kernel still holds
    /// for it; any other is [closed](Self::close).
    pub async fn end(self, end: &End, wait: Duration)
    where
        P: Port,
    {
        match end {
            End::DeadPeer => self.websocket.abort(),
            _ => self.close(end.close_code(), wait).await,
        }
    }

    /// Drops the connection, with what the kernel still holds for it.
    pub fn abort(self) {
        self.websocket.abort();
    }
}
