//! Sets a server up, runs it, and takes it down.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{self, Place};
use super::hub::Hub;
use super::port::Downlink;
use super::strangers::{Stranger, Strangers};
use super::{GOODBYE, Shared};
use crate::config::ServerConfig;
use crate::engine::{Lane, Task, clock, pump};
use crate::error::{ErrorCode, VpnError};
use crate::network::{Guard, HostChanges, Netlink};
use crate::report::{ConnectionState, Events, LogLevel, Status, timestamp};
use crate::session::registry::Auth;
use crate::transport::{Descriptors, Listener, raise_descriptor_limit};
use crate::tunnel::{Tun, TunConfig, TunError};

/// After a failed `accept` (no descriptors left, say), the listener rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long it rests where descriptors are short and a stranger's has been freed for the one that has come: a
/// hundred a second are let in so, and the rest of the time is for the sessions.
const SHED_REST: Duration = Duration::from_millis(10);

/// A VPN that serves.
pub(super) struct Serving {
    /// Once there is a time, the server ends; so long may its goodbyes take.
    stop: watch::Sender<Option<Duration>>,
    task: Task<()>,
}

impl Serving {
    /// Sets everything up and begins to serve; on failure the host is as before.
    pub(super) async fn start(config: ServerConfig, shared: &Arc<Shared>) -> Result<Self, VpnError> {
        raise_descriptor_limit();
        let tls = config.server_tls()?;
        let netlink = Netlink::open()?;
        netlink.check_subnet(config.subnet.net().into(), None)?;
        if let Some(subnet) = config.subnet6 {
            netlink.check_subnet(subnet.net().into(), None)?;
        }
        let listener = Listener::bind(&config.listen_addr).await?;
        let lanes = Lane::for_each_core();
        let tun = open_tun(&config, &lanes)?;
        let queues = open_queues(&tun, &lanes);
        if let Some(remark) = tun.remark() {
            shared.events.log(LogLevel::Warn, "tun", remark);
        }
        let mut changes = HostChanges::take_over(config.state_dir.path(), tun.name()).await?;
        let port = listener.local_addr().port();
        if let Err(error) = set_up(&config, &netlink, &tun, &mut changes, (shared, port)).await {
            changes.undo().await;
            return Err(error);
        }
        let status = Status {
            assigned_ip: Some(config.subnet.server()),
            assigned_ip6: config.subnet6.map(|subnet| subnet.server()),
            server_addr: Some(listener.local_addr().to_string()),
            connected_since: Some(timestamp()),
            auth: Some(config.auth.as_str()),
            ..Status::new(ConnectionState::Connected)
        };
        say_who_comes_in(&config, &shared.events);
        let hub = Hub::new(config, tls, shared.events.clone(), shared.authenticator.clone());
        let hub = match hub {
            Ok(hub) => Arc::new(hub),
            Err(error) => {
                changes.undo().await;
                return Err(error);
            }
        };
        shared.publish(status, Some(Arc::clone(&hub)));
        let (stop, stopped) = watch::channel(None);
        let mut serving = Task::spawn(
            "server",
            run(hub, Data { lanes, queues }, listener, changes, Arc::clone(shared), stopped),
        );
        let events = shared.events.clone();
        let task = Task::spawn("server watch", async move {
            if let Err(panic) = serving.join().await {
                events.fail(&panic);
            }
        });
        Ok(Self { stop, task })
    }

    /// True if it ended by a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it: clients are told, the host is put back.
    pub(super) async fn stop(mut self, goodbye: Duration) {
        self.stop.send_replace(Some(goodbye));
        // Its panics are told where it is watched.
        let _ended = self.task.join().await;
    }
}

/// What carries the packets: threads, and the TUN's queue that each of them reads. Where the TUN has but one,
/// the first thread reads it.
struct Data {
    lanes: Vec<Lane>,
    queues: Vec<Arc<Tun>>,
}

impl Data {
    /// The lane that has the least to do, and its queue.
    fn least_loaded(&self) -> Option<(&Lane, &Arc<Tun>)> {
        let index = (0..self.lanes.len()).min_by_key(|index| self.lanes[*index].load())?;
        Some((&self.lanes[index], self.queues.get(index).or_else(|| self.queues.first())?))
    }

    fn pumps(&self, hub: &Arc<Hub>) -> Vec<Task<io::Error>> {
        let pump = |(lane, queue): (&Lane, &Arc<Tun>)| {
            let downlink = Downlink::new(Arc::clone(hub), Arc::clone(queue));
            Task::spawn_on(lane.runtime(), "tun", pump(Arc::clone(queue), downlink))
        };
        self.lanes.iter().zip(&self.queues).map(pump).collect()
    }
}

fn open_tun(config: &ServerConfig, lanes: &[Lane]) -> Result<Arc<Tun>, TunError> {
    let multi_queue = lanes.len() > 1;
    let tun = TunConfig { name: config.tun_name.clone(), mtu: config.mtu, multi_queue };
    let _lane = lanes.first().map(|lane| lane.runtime().enter());
    Tun::create(&tun).map(Arc::new)
}

fn open_queues(tun: &Arc<Tun>, lanes: &[Lane]) -> Vec<Arc<Tun>> {
    let mut queues = vec![Arc::clone(tun)];
    for lane in lanes.iter().skip(1) {
        let _lane = lane.runtime().enter();
        match tun.another_queue() {
            Ok(queue) => queues.push(Arc::new(queue)),
            Err(error) => {
                tracing::warn!(%error, "the TUN has fewer queues than there are cores");
                break;
            }
        }
    }
    queues
}

/// The first of them that ends, and why.
async fn any_ended(pumps: &mut [Task<io::Error>]) -> String {
    let joins = pumps.iter_mut().map(|pump| Box::pin(pump.join()));
    let (ended, ..) = select_all(joins).await;
    ended.map_or_else(|panic| panic, |error| error.to_string())
}

/// An open door is said aloud.
fn say_who_comes_in(config: &ServerConfig, events: &Events) {
    if config.auth == Auth::Open {
        let message = "auth is open: whoever knows the server's public key may come in; register clients \
                       (clients, or npx smartvpn invite) to decide who does";
        events.log(LogLevel::Warn, "auth", message);
    }
}

/// Addresses, their guard and, where asked for, NAT that spares the listener's port.
async fn set_up(
    config: &ServerConfig,
    netlink: &Netlink,
    tun: &Tun,
    changes: &mut HostChanges,
    (shared, port): (&Shared, u16),
) -> Result<(), VpnError> {
    if let Err(error) = changes.guard(tun.name(), guard(config)).await {
        shared.events.log(LogLevel::Warn, "firewall", error.unguarded());
    }
    let v4 = IpAddr::V4(config.subnet.server());
    netlink.add_address(tun.index(), v4, config.subnet.prefix_len())?;
    if let Some(subnet) = config.subnet6 {
        netlink.add_address(tun.index(), IpAddr::V6(subnet.server()), subnet.prefix_len())?;
    }
    netlink.set_up(tun.index(), config.mtu)?;
    if !config.enable_nat {
        return Ok(changes.unmasquerade().await?);
    }
    changes.enable_forwarding(tun.name(), config.subnet6.is_some()).await?;
    changes
        .masquerade(
            tun.name(),
            config.subnet.net(),
            config.subnet6.map(|subnet| subnet.net()),
            config.client_to_client,
            Some(port),
        )
        .await?;
    for finding in changes.foreign_forward_drops(tun.name()).await {
        shared.events.warn("forward-policy", format!("{}; to mend it: {}", finding.message, finding.command));
    }
    Ok(())
}

/// What only the tunnel is to lead to. A subnet that is not translated may be routed to from elsewhere.
fn guard(config: &ServerConfig) -> Guard {
    let v4 = (IpNet::V4(config.subnet.net()), IpAddr::V4(config.subnet.server()));
    let v6 = config.subnet6.map(|subnet| (IpNet::V6(subnet.net()), IpAddr::V6(subnet.server())));
    let (subnets, own): (Vec<_>, Vec<_>) = std::iter::once(v4).chain(v6).unzip();
    let hidden = if config.enable_nat { subnets.clone() } else { own.into_iter().map(IpNet::from).collect() };
    Guard::Server { hidden, subnets }
}

/// Serves until told to stop, or until the interface fails.
async fn run(
    hub: Arc<Hub>,
    data: Data,
    listener: Listener,
    changes: HostChanges,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<Option<Duration>>,
) {
    let mut pumps = data.pumps(&hub);
    let Some(tun) = data.queues.first() else { return };
    let mut connections = JoinSet::new();
    let failure = tokio::select! {
        // An error means that the server was dropped, which stops it as well.
        _ = stop.wait_for(Option::is_some) => None,
        ended = any_ended(&mut pumps) => Some(ended),
        () = accept(&hub, &data, &listener, &mut connections) => None,
        () = hub.watch_graces(tun) => None,
        () = hub.keep_leases() => None,
        () = hub.keep_clients() => None,
        () = hub.watch_expiries() => None,
    };
    drop(listener);
    let has_clients = hub.active_clients() > 0;
    hub.close();
    let granted = stop.borrow().unwrap_or(GOODBYE);
    let takes_its_time = granted >= GOODBYE && failure.is_none() && hub.config.enable_nat && has_clients;
    let goodbyes = async {
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(granted, all).await.is_err() {
            connections.shutdown().await;
        }
    };
    // The host is put back meanwhile: clients that are silent do not delay it.
    let end = async {
        if takes_its_time {
            hub.quiet.wait().await;
        }
        pumps.iter().for_each(Task::abort);
        changes.undo().await;
        for mut pump in pumps {
            // It was aborted, or has told already why it ended.
            let _ended = pump.join().await;
        }
    };
    tokio::join!(goodbyes, end);
    if let Some(reason) = failure {
        let message = format!(
            "the tunnel's interface failed ({reason}); was it deleted by another program? start the server again"
        );
        let status = Status {
            last_error: Some(message),
            last_error_code: Some(ErrorCode::TunUnavailable),
            ..Status::new(ConnectionState::Error)
        };
        shared.publish(status, None);
    }
}

/// Accepts for ever.
async fn accept(hub: &Arc<Hub>, data: &Data, listener: &Listener, connections: &mut JoinSet<()>) {
    let strangers = Strangers::new(&hub.config, data.lanes.len(), hub.events.clone());
    let mut descriptors = Descriptors::default();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report_panic(hub, ended);
                continue;
            }
        };
        match accepted {
            Ok((tcp, from)) if descriptors.are_short(clock::now(), connections.len() + 1) => {
                if strangers.shed_oldest() {
                    let_in(hub, data, connections, (tcp, from), &strangers);
                    sleep(SHED_REST).await;
                } else {
                    drop(tcp);
                    accept_failed(hub, "too many files are open", &mut failing);
                    sleep(ACCEPT_REST).await;
                }
            }
            Ok(connection) => {
                failing = false;
                let_in(hub, data, connections, connection, &strangers);
            }
            Err(error) => {
                strangers.shed_oldest();
                accept_failed(hub, &error, &mut failing);
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Serves a connection, unless its source or all of them have too many.
fn let_in(
    hub: &Arc<Hub>,
    data: &Data,
    connections: &mut JoinSet<()>,
    (tcp, from): (TcpStream, SocketAddr),
    strangers: &Arc<Strangers>,
) {
    match strangers.enter(from.ip()) {
        Ok(stranger) => begin(hub, data, connections, (tcp, from), stranger),
        Err(refusal) => tracing::debug!(%from, %refusal, "a connection is closed"),
    }
}

/// Serves a connection on the lane that has the least to do.
fn begin(
    hub: &Arc<Hub>,
    data: &Data,
    connections: &mut JoinSet<()>,
    (tcp, from): (TcpStream, SocketAddr),
    stranger: Stranger,
) {
    let Some((lane, queue)) = data.least_loaded() else { return };
    // It is the lane's runtime that waits for it from now on.
    match tcp.into_std() {
        Ok(tcp) => {
            let place = Place { queue: Arc::clone(queue), seat: lane.seat() };
            let serve = connection::serve(Arc::clone(hub), place, tcp, from, stranger);
            drop(connections.spawn_on(serve, lane.runtime()));
        }
        Err(error) => tracing::debug!(%from, %error, "a connection cannot be handed over"),
    }
}

/// Says once that connections cannot be accepted.
fn accept_failed(hub: &Hub, error: impl Display, failing: &mut bool) {
    if !std::mem::replace(failing, true) {
        let message =
            format!("new connections cannot be accepted: {error}; raise the limit of open files (ulimit -n)");
        hub.events.log(LogLevel::Warn, "listener", message);
    }
}

fn report_panic(hub: &Hub, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        let message = "a connection ended by a fault of the server; please report this";
        tracing::error!(%error, "{message}");
        hub.events.log(LogLevel::Warn, "connection", message);
    }
}
