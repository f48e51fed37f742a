//! The client's TUN and what it set on the host.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::marks::Marks;
use super::mtu::MtuFacts;
use super::port::{Downlink, Gate, Uplink, Way};
use super::resolvers::{Resolvers, Wanted};
use super::shared::Shared;
use crate::codec::hello::Accepted;
use crate::config::ClientConfig;
use crate::engine::{Task, clock, pump};
use crate::error::VpnError;
use crate::network::{Guard, HostChanges, Netlink};
use crate::packet::{self, Ingress, Router};
use crate::qos::{FlowHasher, PacketQueue};
use crate::report::{Dns, LogLevel};
use crate::telemetry::{DropReason, Traffic};
use crate::transport::Wire;
use crate::tunnel::{Tun, TunConfig};

/// A TUN that is up, with its routes. It outlives connections.
pub(super) struct Tunnel {
    tun: Arc<Tun>,
    pump: Task<std::io::Error>,
    netlink: Arc<Netlink>,
    changes: HostChanges,
    queue: Arc<PacketQueue>,
    gate: Arc<Gate>,
    addresses: Addresses,
    routes: Vec<IpNet>,
    ipv6_blocked: bool,
    /// That the addresses are not guarded was said.
    unguarded: bool,
    /// The configuration's; the server's if it has none.
    dns: Option<Vec<IpAddr>>,
    resolvers: Resolvers,
}

/// What the server gave, as far as the interface bears it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses {
    nets: Vec<(IpAddr, u8)>,
    mtu: u16,
}

impl Addresses {
    fn of(hello: &Accepted) -> Self {
        let v4 = (IpAddr::V4(hello.assigned_ip), hello.prefix_length);
        let v6 = hello.v6.map(|v6| (IpAddr::V6(v6.assigned_ip), v6.prefix_length));
        Self { nets: std::iter::once(v4).chain(v6).collect(), mtu: hello.mtu }
    }

    fn has_v6(&self) -> bool {
        self.nets.iter().any(|(addr, _)| addr.is_ipv6())
    }

    /// The networks behind the interface. The hello's prefix lengths were checked when it was read.
    fn networks(&self) -> Vec<IpNet> {
        self.nets.iter().map(|(addr, prefix)| IpNet::new_assert(*addr, *prefix)).collect()
    }
}

impl Tunnel {
    /// Makes the interface and its routes; on failure the host is as before.
    pub(super) async fn open(
        config: &ClientConfig,
        hello: &Accepted,
        remote: IpAddr,
        traffic: &Arc<Traffic>,
        shared: &Arc<Shared>,
    ) -> Result<Self, VpnError> {
        let tun =
            Tun::create(&TunConfig { name: config.tun_name.clone(), mtu: hello.mtu, multi_queue: false })?;
        let tun = Arc::new(tun);
        if let Some(remark) = tun.remark() {
            shared.events.log(LogLevel::Warn, "tun", remark);
        }
        let netlink = Arc::new(Netlink::open()?);
        let changes = HostChanges::begin(config.state_dir.path(), tun.name()).await?;
        let queue = Arc::new(PacketQueue::new(Arc::clone(traffic), FlowHasher::new(&mut rand::rng())));
        let gate = Arc::new(Gate::new());
        let uplink = Uplink::new(Arc::clone(&tun), Arc::clone(&queue), Arc::clone(&gate));
        let pump = Task::spawn("tun", pump(Arc::clone(&tun), uplink));
        let addresses = Addresses::of(hello);
        let mut tunnel = Self {
            tun,
            pump,
            netlink,
            changes,
            queue,
            gate,
            addresses,
            routes: config.routes.clone(),
            ipv6_blocked: false,
            unguarded: false,
            dns: config.dns.clone(),
            resolvers: Resolvers::default(),
        };
        let addresses = tunnel.addresses.clone();
        tunnel.guard(&addresses, None, shared).await;
        let installed = match tunnel.add_addresses() {
            Ok(()) => tunnel.install(hello, remote, shared).await,
            Err(error) => Err(error),
        };
        match installed {
            Ok(()) => Ok(tunnel),
            Err(error) => {
                tunnel.close().await;
                Err(error)
            }
        }
    }

    /// Takes what the server of a new connection gave; flows break if the address changed.
    pub(super) async fn renew(
        &mut self,
        hello: &Accepted,
        remote: IpAddr,
        shared: &Arc<Shared>,
    ) -> Result<(), VpnError> {
        let addresses = Addresses::of(hello);
        if addresses != self.addresses {
            let index = self.tun.index();
            if addresses.nets != self.addresses.nets {
                let before = self.addresses.clone();
                self.guard(&addresses, Some(&before), shared).await;
            }
            self.netlink.replace_addresses(index, &self.addresses.nets, &addresses.nets)?;
            if addresses.nets != self.addresses.nets {
                // What waits has the old addresses.
                self.queue.discard(DropReason::Stale);
            }
            self.netlink.set_up(index, addresses.mtu)?;
            self.addresses = addresses;
        }
        self.install(hello, remote, shared).await
    }

    async fn install(
        &mut self,
        hello: &Accepted,
        remote: IpAddr,
        shared: &Arc<Shared>,
    ) -> Result<(), VpnError> {
        self.install_routes(remote, shared).await?;
        // Last: until the routes are there, nothing would lead to them.
        let dns = self.dns.as_ref().unwrap_or(&hello.dns);
        let wanted = Wanted::of(dns, &self.addresses.networks(), remote.to_canonical());
        self.resolvers.set(wanted, &mut self.changes, self.tun.index(), shared).await
    }

    /// Keeps what comes beside the tunnel from the addresses that the interface is to have, after those that it has. One
    /// that another interface has as well is left alone: it is how others reach the host.
    async fn guard(&mut self, addresses: &Addresses, before: Option<&Addresses>, shared: &Arc<Shared>) {
        let is_elsewhere = |addr: &IpAddr| {
            let is_here = before.is_some_and(|before| before.nets.iter().any(|(here, _)| here == addr));
            !is_here && self.netlink.has_address(*addr).unwrap_or(false)
        };
        let (elsewhere, own): (Vec<_>, Vec<_>) =
            addresses.nets.iter().map(|(addr, _)| *addr).partition(is_elsewhere);
        let guard = Guard::Client(own.into_iter().map(IpNet::from).collect());
        let told = match self.changes.guard(self.tun.name(), guard).await {
            Err(error) => error.unguarded(),
            Ok(()) if elsewhere.is_empty() => return,
            Ok(()) => format!(
                "{} is the address of another interface as well: neighbours can reach it beside the tunnel",
                elsewhere.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
            ),
        };
        if !std::mem::replace(&mut self.unguarded, true) {
            shared.events.log(LogLevel::Warn, "firewall", told);
        }
    }

    fn add_addresses(&self) -> Result<(), VpnError> {
        let index = self.tun.index();
        for (addr, prefix) in &self.addresses.nets {
            self.netlink.add_address(index, *addr, *prefix)?;
        }
        Ok(self.netlink.set_up(index, self.addresses.mtu)?)
    }

    /// The routes of the configuration; what is there already stays.
    async fn install_routes(&mut self, remote: IpAddr, shared: &Arc<Shared>) -> Result<(), VpnError> {
        let index = self.tun.index();
        // Whatever the routes are, also those that keep IPv6 inside.
        self.changes.pin_route(remote).await?;
        for route in self.routes.clone() {
            if route.addr().is_ipv6() && !self.addresses.has_v6() {
                shared.events.log(
                    LogLevel::Info,
                    "routes",
                    format!("the route {route} is left out: the server gave no IPv6 address"),
                );
                continue;
            }
            self.changes.route_via_tunnel(route, index).await?;
        }
        self.keep_ipv6_inside(shared).await
    }

    /// All of IPv4 goes into the tunnel: IPv6 must not leave beside it.
    async fn keep_ipv6_inside(&mut self, shared: &Arc<Shared>) -> Result<(), VpnError> {
        let everything = IpNet::V4(Ipv4Net::default());
        if !self.routes.contains(&everything) || self.addresses.has_v6() {
            return Ok(());
        }
        self.changes.block_ipv6().await?;
        if !std::mem::replace(&mut self.ipv6_blocked, true) {
            shared.events.log(
                LogLevel::Info,
                "routes",
                "all IPv4 goes into the tunnel, which has no IPv6: IPv6 is made unreachable so that it does not leave beside it",
            );
        }
        Ok(())
    }

    /// Where packets wait for a session.
    pub(super) fn queue(&self) -> Arc<PacketQueue> {
        Arc::clone(&self.queue)
    }

    /// The way from a session of `hello` into the interface.
    pub(super) fn downlink(
        &self,
        hello: &Accepted,
        traffic: &Arc<Traffic>,
        shared: &Arc<Shared>,
        marks: &Arc<Marks>,
    ) -> Downlink {
        // The hello's prefix lengths were checked when it was read.
        let v4 = Ipv4Net::new_assert(hello.assigned_ip, hello.prefix_length);
        let v6 = hello.v6.map(|v6| Ipv6Net::new_assert(v6.assigned_ip, v6.prefix_length));
        let ingress = Ingress::from_server(hello.mtu, v4, v6);
        let (traffic, shared, marks) = (Arc::clone(traffic), Arc::clone(shared), Arc::clone(marks));
        Downlink::new(Arc::clone(&self.tun), traffic, shared, marks, ingress)
    }

    /// Opens the way into the queue, to a session of `hello`, and out of it.
    pub(super) fn set_online(&self, hello: &Accepted) {
        self.gate.set(Some(way(hello)));
        self.queue.release(clock::now());
        self.tell_of_losses();
    }

    /// Lets packets wait for the next connection, though not for long.
    pub(super) fn set_offline(&self) {
        self.queue.hold(clock::now());
    }

    /// Drops what has waited too long; to be called now and then while there is no connection.
    pub(super) fn age(&self) {
        self.queue.age(clock::now());
        self.tell_of_losses();
    }

    /// Tells the senders of what waited for too long.
    fn tell_of_losses(&self) {
        self.gate.tell_unreachable(clock::now(), &self.tun, &self.queue.take_unreachable());
    }

    /// Puts the way to the server beside the tunnel right, which the host's own routes may have changed.
    pub(super) async fn repin(&mut self, remotes: &[IpAddr]) {
        for remote in remotes {
            // Where no way leads there now, a later change will tell.
            if let Err(error) = self.changes.repin_route(*remote).await {
                tracing::debug!(%error, %remote, "no way past the tunnel");
            }
        }
    }

    /// The address that a connection to the server would leave from now.
    pub(super) fn source_to(&self, remote: IpAddr) -> Option<IpAddr> {
        self.netlink.source_to(remote).ok().flatten()
    }

    /// Whether the host still has an address; yes, if that cannot be told.
    pub(super) fn has_address(&self, addr: IpAddr) -> bool {
        self.netlink.has_address(addr).unwrap_or(true)
    }

    /// The interface's index.
    pub(super) fn ifindex(&self) -> u32 {
        self.tun.index()
    }

    /// The resolvers that the host has.
    pub(super) fn dns(&self) -> Dns {
        self.resolvers.report()
    }

    /// The MTU figures of a session of `hello` with `remote`, over `wire`.
    pub(super) fn mtu(
        &self,
        hello: &Accepted,
        remote: IpAddr,
        wire: Option<Arc<Wire>>,
        traffic: &Arc<Traffic>,
    ) -> MtuFacts {
        MtuFacts {
            netlink: Arc::clone(&self.netlink),
            remote,
            tun_mtu: hello.mtu,
            wire,
            gate: Arc::clone(&self.gate),
            traffic: Arc::clone(traffic),
        }
    }

    /// Waits until the interface fails, as when somebody deletes it.
    pub(super) async fn failed(&mut self) -> String {
        match self.pump.join().await {
            Ok(error) => error.to_string(),
            Err(panic) => panic,
        }
    }

    /// Puts the host back as it was.
    pub(super) async fn close(self) {
        let Self { tun, mut pump, changes, queue, .. } = self;
        pump.abort();
        let _ended = pump.join().await;
        // Nobody puts anything there any more.
        queue.close();
        queue.discard(DropReason::NotConnected);
        changes.undo().await;
        // The last handle on the device closes it; its addresses and routes go with it.
        drop(tun);
    }
}

/// What a session of `hello` takes: its server says so to those who send more.
fn way(hello: &Accepted) -> Way {
    // The hello's prefix length was checked when it was read.
    let v4 = Ipv4Net::new_assert(hello.gateway, hello.prefix_length);
    let intake = packet::Intake { mtu: hello.mtu, offload: hello.features.offload };
    Way { intake, router: Router::new(v4, hello.v6.map(|v6| v6.gateway)) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::codec::hello::Features;
    use crate::engine::clock;
    use crate::network::namespace::{block_on, isolated};
    use crate::packet::Offload;
    use crate::packet::ip::tests::v4;
    use crate::report::{Event, EventSink, Events};
    use crate::telemetry::{Priority, Size};

    struct Nobody;

    impl EventSink for Nobody {
        fn emit(&self, _event: Event) {}
    }

    fn hello() -> Accepted {
        Accepted {
            version: 1,
            features: Features::NONE,
            client_id: "c1".to_owned(),
            assigned_ip: "10.8.0.2".parse().unwrap(),
            prefix_length: 24,
            gateway: "10.8.0.1".parse().unwrap(),
            v6: None,
            mtu: 1420,
            keepalive_interval_secs: 30,
            dns: Vec::new(),
            ticket: None,
            mlkem768: None,
        }
    }

    #[test]
    fn what_waits_when_the_tunnel_ends_is_counted_once() {
        isolated("client::tunnel::tests::what_waits_when_the_tunnel_ends_is_counted_once", || {
            block_on(async {
                let config = json!({
                    "serverUrl": "ws://127.0.0.1:1/", "stateDir": null,
                    // RFC 7748 §6.1.
                    "serverPublicKey": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
                });
                let config = ClientConfig::parse(&config, Path::new("/")).unwrap();
                let (traffic, hello) = (Arc::<Traffic>::default(), hello());
                let shared = Arc::new(Shared::new(Events::new(Arc::new(Nobody))));
                let remote = "127.0.0.1".parse().unwrap();
                let tunnel = Tunnel::open(&config, &hello, remote, &traffic, &shared).await.unwrap();
                let queue = tunnel.queue();
                let push = |protocol| {
                    let packet = v4([10, 8, 0, 2], [10, 8, 0, 9], protocol, &[8; 480]);
                    queue.producer(clock::now()).push(&packet, Offload::NONE);
                };
                // The kernel may have sent packets of its own into the interface.
                let lost = |priority, reason| {
                    let Size { packets, bytes } = traffic.drops().snapshot().get(priority, reason);
                    (packets, bytes)
                };
                let offline = DropReason::NotConnected;
                tunnel.set_online(&hello);
                push(17);
                push(17);
                tunnel.set_offline();
                push(17);
                assert_eq!(queue.len(), 3, "they wait for the next connection");
                assert_eq!(lost(Priority::Normal, offline), (0, 0));
                tunnel.close().await;
                assert_eq!(lost(Priority::Normal, offline), (3, 1500));
                push(17);
                assert_eq!(lost(Priority::Normal, offline), (4, 2000), "closed");
                assert!(queue.is_empty());
                assert_eq!(lost(Priority::Normal, DropReason::Stale), (0, 0));
            });
        });
    }
}
