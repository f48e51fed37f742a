//! A client or server as a process of its own: from its start, through its controllers and its
//! configuration file, to its end.

use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use super::controller::{Bond, serve};
use super::controllers::{Controllers, End};
use super::message;
use super::{Endpoint, Mode};
use crate::control::{Activated, Hangup, ManagementSocket, ServiceManager, stdio};
use crate::engine::Task;
use crate::error::{ErrorCode, VpnError};
use crate::report::{ConnectionState, Events, Status};

/// Controllers at a time. An idle one costs about 10 KiB and a descriptor.
const CONTROLLERS: usize = 2048;

/// After a failed `accept` (no descriptors left, say), the socket rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What a VPN may take to end: peers have 2 s for the goodbye, the rest is for the host. With
/// [`FAREWELL`] it is less than the 5 s that are promised.
const UNDO_LIMIT: Duration = Duration::from_millis(4000);

/// Controllers have this long to take what waits for them when the daemon ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a daemon is to do.
#[derive(Debug)]
pub struct Daemon {
    /// Client or server.
    pub mode: Mode,
    /// The configuration of the VPN to run from the start on, if any.
    pub config: Option<Value>,
    /// Where controllers are.
    pub management: Management,
}

/// Where controllers are.
#[derive(Debug)]
pub enum Management {
    /// There are none.
    None,
    /// One, the parent, at the standard streams. The daemon ends with it.
    Stdio,
    /// Any number, at a Unix socket.
    Socket {
        /// Its path.
        path: PathBuf,
        /// A group whose members may connect, besides root and the daemon's user.
        group: Option<String>,
        /// The socket, if the service manager has opened it.
        activated: Option<Activated>,
    },
}

/// A parent that is gone has nothing more to say; what it said before is read within this time.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The first run of a configuration file. Like every call it is never broken off half-way: what it
/// has set on the host would stay.
type FirstRun = Task<Result<(), VpnError>>;

impl Daemon {
    /// Runs until a signal, a controller, the end of the parent or a failure ends it; then the peers
    /// are told, the host is put back, and the controllers have what they were to be told.
    ///
    /// # Errors
    /// What the configuration, the socket or the VPN failed with.
    pub async fn run(self) -> Result<(), VpnError> {
        let controllers = Arc::new(Controllers::default());
        let stopped = stop_signal()?;
        let base = std::env::current_dir().unwrap_or_default();
        let mut doors = Doors::open(self.management)?;
        let events = Events::new(Arc::clone(&controllers) as _);
        let endpoint = Arc::new(Endpoint::new(self.mode, events, base));
        // The parent sees what happens from the start on, but speaks only once the VPN of its file is
        // under way.
        let parent = doors.parent_session(&endpoint, &controllers);
        let mut first_run = None;
        if let Some(config) = self.config {
            controllers.own_vpn();
            first_run = Some(begin(Arc::clone(&endpoint), config).await);
        }
        if let Some(parent) = parent {
            doors.sessions.spawn(parent);
        }
        let manager = ServiceManager::from_env();
        let work = Work { endpoint: &endpoint, controllers: &controllers, manager: &manager };
        let end = tokio::select! {
            end = controllers.ended() => end,
            () = stopped => End::Asked,
            end = work.run(&mut doors, &mut first_run) => end,
        };
        tokio::join!(finish(&endpoint, &controllers, doors, end), manager.stopping()).0
    }
}

/// Starts the VPN of a configuration file. It has got as far as it can without waiting when this
/// returns, so that no controller gets ahead of it.
async fn begin(endpoint: Arc<Endpoint>, config: Value) -> FirstRun {
    let mut run = Box::pin(async move { endpoint.run_config(&config).await });
    let begun = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
    Task::spawn("first run", async move {
        match begun {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => run.await,
        }
    })
}

/// Undoes everything and lets the controllers go.
async fn finish(
    endpoint: &Endpoint,
    controllers: &Controllers,
    mut doors: Doors,
    end: End,
) -> Result<(), VpnError> {
    let undone = timeout(UNDO_LIMIT, endpoint.shutdown()).await.is_ok();
    let outcome = match end {
        End::Failed(error) => Err(error),
        End::Asked if !undone => Err(unfinished()),
        End::Asked => Ok(()),
    };
    if let Err(error) = &outcome {
        controllers.tell_failure(error);
    }
    controllers.close();
    let all = async { while doors.sessions.join_next().await.is_some() {} };
    if timeout(FAREWELL, all).await.is_err() {
        tracing::debug!("a controller did not take what it was to be told");
    }
    outcome
}

fn unfinished() -> VpnError {
    let limit = UNDO_LIMIT.as_secs();
    let message = format!("not everything could be undone within {limit} s; the next start undoes the rest");
    VpnError::new(ErrorCode::Internal, message)
}

/// Where controllers come in, and those that are there.
struct Doors {
    socket: Option<ManagementSocket>,
    parent: Option<Hangup>,
    sessions: JoinSet<()>,
    stdio: Option<(crate::control::Input, crate::control::Output)>,
    is_managed: bool,
    failing: bool,
}

impl Doors {
    fn open(management: Management) -> Result<Self, VpnError> {
        let is_managed = !matches!(management, Management::None);
        let sessions = JoinSet::new();
        let mut doors =
            Self { socket: None, parent: None, stdio: None, sessions, is_managed, failing: false };
        match management {
            Management::None => {}
            Management::Stdio => {
                let (input, output, hangup) = stdio().map_err(|error| {
                    let message = format!("the standard streams cannot be used: {error}");
                    VpnError::new(ErrorCode::Internal, message).caused_by(error)
                })?;
                doors.stdio = Some((input, output));
                doors.parent = Some(hangup);
            }
            Management::Socket { path, group, activated } => {
                doors.socket = Some(ManagementSocket::open(&path, group.as_deref(), activated)?);
            }
        }
        Ok(doors)
    }

    /// The session of the parent, if there is one.
    fn parent_session(
        &mut self,
        endpoint: &Arc<Endpoint>,
        controllers: &Arc<Controllers>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (input, output) = self.stdio.take()?;
        Some(serve(input, output, Arc::clone(endpoint), Arc::clone(controllers), Bond::Parent))
    }

    /// Lets the next controller in. Cancel-safe.
    async fn admit(&mut self, work: &Work<'_>) {
        let Some(socket) = &self.socket else {
            return match self.sessions.join_next().await {
                // Without its parent, a daemon that was started by one has no use.
                Some(ended) => {
                    report_panic(ended);
                    work.controllers.end(End::Asked);
                }
                None => std::future::pending().await,
            };
        };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(ended) = self.sessions.join_next() => return report_panic(ended),
        };
        match accepted {
            Ok(stream) if self.sessions.len() < CONTROLLERS => {
                self.failing = false;
                let ((input, output), session) = (stream.into_split(), work.session());
                self.sessions.spawn(serve(input, output, session.0, session.1, Bond::Loose));
            }
            Ok(stream) => turn_away(&stream),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "controllers cannot be let in; raise the limit of open files");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }

    /// Resolves when the parent is gone. Cancel-safe.
    async fn orphaned(parent: Option<&Hangup>) {
        match parent {
            Some(hangup) => {
                hangup.wait().await;
                sleep(LAST_WORDS).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// One controller too many: it is told, and closed.
fn turn_away(stream: &UnixStream) {
    let message = format!("{CONTROLLERS} controllers are connected already; close one of them first");
    let error = VpnError::new(ErrorCode::ControlUnavailable, message);
    // Nothing was written before, so there is room.
    let _told = stream.try_write(message::answer(None, Err(error)).as_bytes());
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a controller ended by a fault of the daemon; please report this");
    }
}

/// What a daemon does between its start and its end.
struct Work<'a> {
    endpoint: &'a Arc<Endpoint>,
    controllers: &'a Arc<Controllers>,
    manager: &'a ServiceManager,
}

impl Work<'_> {
    fn session(&self) -> (Arc<Endpoint>, Arc<Controllers>) {
        (Arc::clone(self.endpoint), Arc::clone(self.controllers))
    }

    /// Runs until something ends the daemon.
    async fn run(&self, doors: &mut Doors, first_run: &mut Option<FirstRun>) -> End {
        // A client is ready when it has begun to try: its server may come later.
        let mut is_ready = first_run.is_none() || self.endpoint.mode() == Mode::Client;
        if is_ready {
            self.manager.ready().await;
        }
        let parent = doors.parent.take();
        let orphaned = Doors::orphaned(parent.as_ref());
        tokio::pin!(orphaned);
        let mut status = self.controllers.status();
        let mut watchdog = self.manager.watchdog_interval().map(every);
        loop {
            tokio::select! {
                () = doors.admit(self) => {}
                () = &mut orphaned => return End::Asked,
                outcome = wait(first_run) => {
                    *first_run = None;
                    if let Some(end) = first_run_ended(outcome, doors.is_managed) {
                        return end;
                    }
                    if !std::mem::replace(&mut is_ready, true) {
                        self.manager.ready().await;
                    }
                }
                Ok(()) = status.changed() => {
                    let line = status.borrow_and_update().as_ref().map(summary);
                    if let Some(line) = line {
                        self.manager.status(&line).await;
                    }
                }
                () = tick(&mut watchdog) => self.show_life().await,
            }
        }
    }

    /// Tells the service manager that the engine answers: over the way that a controller's calls go.
    async fn show_life(&self) {
        let call = Arc::clone(self.endpoint).call("getStatus".to_owned(), Value::Null);
        if call.await.is_ok() {
            self.manager.alive().await;
        }
    }
}

/// Whether the end of the first run is the end of the daemon.
fn first_run_ended(outcome: Result<(), VpnError>, is_managed: bool) -> Option<End> {
    match outcome {
        Ok(()) => None,
        // A controller has ended it, and goes on from there.
        Err(error) if error.code == ErrorCode::Aborted && is_managed => None,
        Err(error) => Some(End::Failed(error)),
    }
}

async fn wait(first_run: &mut Option<FirstRun>) -> Result<(), VpnError> {
    let Some(run) = first_run else { return std::future::pending().await };
    run.join().await.unwrap_or_else(|panic| {
        let message = format!("a fault of smartvpn ({panic}); please report this");
        Err(VpnError::new(ErrorCode::Internal, message))
    })
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// The VPN's state, in a line.
fn summary(status: &Status) -> String {
    let state = serde_json::to_value(status.state).ok();
    let mut line = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default().to_owned();
    if status.state == ConnectionState::Connected {
        let address = status.assigned_ip.map(|address| format!(", {address}"));
        let server = status.server_addr.as_ref().map(|server| format!(", {server}"));
        line.extend(address.into_iter().chain(server));
    } else if let Some(error) = &status.last_error {
        line.push_str(": ");
        line.push_str(error);
    }
    line
}

/// Resolves at the first signal that asks the daemon to end. From the call on, signals are caught.
fn stop_signal() -> Result<impl Future<Output = ()>, VpnError> {
    let listen = |kind| {
        signal(kind).map_err(|error: io::Error| {
            let message = format!("signals cannot be received: {error}");
            VpnError::new(ErrorCode::Internal, message).caused_by(error)
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
