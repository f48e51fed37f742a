//! One controller: reads its requests, runs them, writes their answers and the events.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::Endpoint;
use super::buffer::Buffer;
use super::controllers::{Controllers, End};
use super::line::Lines;
use super::message::{self, Request, RequestId};
use super::params::invalid;
use crate::error::VpnError;

/// Requests of one controller that may be under way; it is not read from meanwhile. Far more than a
/// program waits for at once, and few enough for a controller that reads no answers.
const IN_FLIGHT: usize = 64;

/// Bytes that may wait to be written before nothing more is read, and no event taken: what a
/// controller that does not read costs, besides the answers of what it has in flight.
const OUTPUT: usize = 65_536;

/// Bytes read at a time.
const CHUNK: usize = 4096;

/// How long a controller may take to stop sending after its line was too long: while it sends, its
/// system would throw away our answer on a close.
const LINGER: Duration = Duration::from_secs(1);

/// What the end of a controller's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// It leaves; the daemon stays.
    Loose,
    /// It is the daemon's parent: the daemon ends.
    Parent,
}

/// Serves one controller until it leaves or the daemon ends. What it has asked for is carried out
/// even if it leaves.
pub async fn serve(
    input: impl AsyncRead + Unpin + Send,
    output: impl AsyncWrite + Unpin + Send,
    endpoint: Arc<Endpoint>,
    controllers: Arc<Controllers>,
    bond: Bond,
) {
    // Subscribed first: nothing that happens after `ready` is missed.
    let events = controllers.subscribe();
    let mut controller = Controller {
        input: Box::new(input),
        output: Box::new(output),
        lines: Lines::default(),
        chunk: Box::new([0; CHUNK]),
        waiting: Buffer::default(),
        requests: FuturesUnordered::new(),
        ids: HashSet::new(),
        events,
        state: State::Open,
        endpoint,
        controllers,
        bond,
    };
    controller.waiting.push(message::ready(controller.endpoint.mode()).as_bytes());
    controller.run().await;
}

type Answer = (RequestId, bool, Result<Value, VpnError>);

struct Controller<'a> {
    input: Box<dyn AsyncRead + Unpin + Send + 'a>,
    output: Box<dyn AsyncWrite + Unpin + Send + 'a>,
    lines: Lines,
    chunk: Box<[u8; CHUNK]>,
    /// Lines that wait to be written.
    waiting: Buffer,
    requests: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// The ids of those requests.
    ids: HashSet<RequestId>,
    events: broadcast::Receiver<Arc<str>>,
    state: State,
    endpoint: Arc<Endpoint>,
    controllers: Arc<Controllers>,
    bond: Bond,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is read from.
    Open,
    /// Nothing more is read; answers are still written.
    Finishing,
    /// The same, after a line that was too long: more may be on its way.
    Overrun,
    /// The daemon ends: what waits is written.
    Closing,
    /// Nothing can be written any more.
    Broken,
}

impl Controller<'_> {
    async fn run(&mut self) {
        let mut closing = self.controllers.closing();
        while !self.is_done() {
            self.take_lines();
            tokio::select! {
                written = self.output.write(self.waiting.bytes()), if !self.waiting.is_empty() => {
                    self.wrote(written);
                }
                Some(answer) = self.requests.next(), if !self.requests.is_empty() => self.answer(answer),
                event = self.events.recv(), if self.takes_events() => self.event(event),
                read = self.input.read(&mut self.chunk[..]), if self.reads() => self.read(read),
                // An error means that the daemon is gone.
                _ = closing.wait_for(|closing| *closing), if self.hears_closing() => {
                    self.state = State::Closing;
                }
            }
        }
        // A file's writes go through a buffer.
        let _flushed = self.output.flush().await;
        if self.state == State::Overrun {
            let _lingered = timeout(LINGER, self.linger()).await;
        }
    }

    fn is_done(&self) -> bool {
        let idle = self.requests.is_empty() && (self.waiting.is_empty() || self.state == State::Broken);
        match self.state {
            State::Open => false,
            State::Finishing | State::Overrun | State::Broken => idle,
            State::Closing => idle && self.events.is_empty(),
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < OUTPUT && self.requests.len() < IN_FLIGHT
    }

    fn reads(&self) -> bool {
        self.state == State::Open && self.has_room()
    }

    fn takes_events(&self) -> bool {
        self.waiting.len() < OUTPUT && self.state != State::Broken
    }

    fn hears_closing(&self) -> bool {
        !matches!(self.state, State::Closing | State::Broken)
    }

    fn read(&mut self, read: io::Result<usize>) {
        match read {
            Ok(length) if length > 0 => {
                let bytes = self.chunk.get_mut(..length).unwrap_or_default();
                self.lines.push(bytes);
                bytes.fill(0);
            }
            Ok(_) => {
                self.take_lines();
                if self.lines.has_rest() && self.state == State::Open {
                    let error = invalid("the last line has no end, so it was not carried out");
                    self.write(&message::answer(None, Err(error)));
                }
                self.leave(State::Finishing);
            }
            Err(error) => {
                tracing::debug!(%error, "a controller was cut off");
                self.leave(State::Finishing);
            }
        }
    }

    /// Carries out whole lines, as far as there is room.
    fn take_lines(&mut self) {
        while self.state == State::Open && self.has_room() {
            match self.lines.next() {
                Ok(Some(line)) => match Request::parse(&line) {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) => {}
                    Err(refusal) => self.write(&message::answer(refusal.id.as_ref(), Err(refusal.error))),
                },
                Ok(None) => return,
                Err(_) => {
                    self.write(&message::answer(None, Err(message::too_long())));
                    self.leave(State::Overrun);
                }
            }
        }
    }

    fn request(&mut self, Request { id, method, params }: Request) {
        if !self.ids.insert(id.clone()) {
            // Under that id it would pass for the answer of the one under way.
            let message = "the id is that of a request under way; give each one its own";
            return self.write(&message::answer(None, Err(invalid(message))));
        }
        let ends = method == "shutdown";
        let call = Arc::clone(&self.endpoint).call(method, params);
        self.requests.push(Box::pin(async move { (id, ends, call.await) }));
    }

    fn answer(&mut self, (id, ends, outcome): Answer) {
        self.ids.remove(&id);
        let ended = ends && outcome.is_ok();
        self.write(&message::answer(Some(&id), outcome));
        if ended {
            self.controllers.end(End::Asked);
        }
    }

    fn event(&mut self, event: Result<Arc<str>, RecvError>) {
        match event {
            Ok(line) => self.write(&line),
            Err(RecvError::Lagged(count)) => self.write(&message::lost(count)),
            Err(RecvError::Closed) => self.state = State::Closing,
        }
    }

    fn write(&mut self, line: &str) {
        if self.state != State::Broken {
            self.waiting.push(line.as_bytes());
        }
    }

    fn wrote(&mut self, written: io::Result<usize>) {
        match written {
            Ok(length) if length > 0 => self.waiting.consume(length),
            _ => self.leave(State::Broken),
        }
    }

    fn leave(&mut self, state: State) {
        self.state = state;
        if self.bond == Bond::Parent {
            self.controllers.end(End::Asked);
        }
    }

    /// Reads what is still on its way, and throws it away.
    async fn linger(&mut self) {
        if self.output.shutdown().await.is_ok() {
            while matches!(self.input.read(&mut self.chunk[..]).await, Ok(1..)) {}
        }
    }
}
