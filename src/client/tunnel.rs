//! The client's TUN and what it set on the host.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::port::{Downlink, Uplink};
use super::resolvers::{Resolvers, Wanted};
use super::shared::Shared;
use crate::codec::hello::Accepted;
use crate::config::ClientConfig;
use crate::engine::{Task, pump};
use crate::error::VpnError;
use crate::network::{HostChanges, Netlink};
use crate::packet::Ingress;
use crate::qos::{FlowHasher, PacketQueue};
use crate::report::{Dns, LogLevel, MtuInfo};
use crate::telemetry::{DropReason, Traffic};
use crate::tunnel::{Tun, TunConfig};

/// Nominal overhead of one packet (API §6): IP 20, TCP with timestamps 32, WebSocket 6, frame 5, tag 16.
const NOMINAL_OVERHEAD: u32 = 79;

/// Assumed where the way to the server has no MTU of its own: Ethernet's.
const ETHERNET_MTU: u32 = 1500;

/// A TUN that is up, with its routes. It outlives connections.
pub(super) struct Tunnel {
    tun: Arc<Tun>,
    pump: Task<std::io::Error>,
    netlink: Netlink,
    changes: HostChanges,
    queue: Arc<PacketQueue>,
    online: Arc<AtomicBool>,
    addresses: Addresses,
    routes: Vec<IpNet>,
    ipv6_blocked: bool,
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
        let tun = Tun::create(&TunConfig { name: config.tun_name.clone(), mtu: hello.mtu })?;
        let tun = Arc::new(tun);
        let netlink = Netlink::open()?;
        let changes = HostChanges::begin(config.state_dir.path(), tun.name()).await?;
        let queue = Arc::new(PacketQueue::new(Arc::clone(traffic), FlowHasher::new(&mut rand::rng())));
        let online = Arc::new(AtomicBool::new(false));
        let uplink =
            Uplink { queue: Arc::clone(&queue), traffic: Arc::clone(traffic), online: Arc::clone(&online) };
        let pump = Task::spawn("tun", pump(Arc::clone(&tun), config.mtu, uplink));
        let addresses = Addresses::of(hello);
        let mut tunnel = Self {
            tun,
            pump,
            netlink,
            changes,
            queue,
            online,
            addresses,
            routes: config.routes.clone(),
            ipv6_blocked: false,
            dns: config.dns.clone(),
            resolvers: Resolvers::default(),
        };
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
            self.netlink.replace_addresses(index, &self.addresses.nets, &addresses.nets)?;
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
    ) -> Downlink {
        // The hello's prefix lengths were checked when it was read.
        let v4 = Ipv4Net::new_assert(hello.assigned_ip, hello.prefix_length);
        let v6 = hello.v6.map(|v6| Ipv6Net::new_assert(v6.assigned_ip, v6.prefix_length));
        let ingress = Ingress::from_server(hello.mtu, v4, v6);
        Downlink::new(Arc::clone(&self.tun), Arc::clone(traffic), Arc::clone(shared), ingress)
    }

    /// Opens or shuts the way into the queue. What waited when it opens is from before the outage
    /// and is dropped.
    pub(super) fn set_online(&self, online: bool) {
        self.queue.discard(DropReason::Stale);
        self.online.store(online, Ordering::Relaxed);
    }

    /// The resolvers that the host has.
    pub(super) fn dns(&self) -> Dns {
        self.resolvers.report()
    }

    /// The MTU figures for a connection to `remote`.
    pub(super) fn mtu_info(&self, remote: IpAddr) -> MtuInfo {
        let link_mtu = self.netlink.route_to(remote).map_or(ETHERNET_MTU, |way| way.mtu);
        MtuInfo {
            tun_mtu: self.addresses.mtu.into(),
            effective_mtu: link_mtu.saturating_sub(NOMINAL_OVERHEAD),
            link_mtu,
            overhead_bytes: NOMINAL_OVERHEAD,
            oversized_packets_dropped: 0,
            icmp_too_big_sent: 0,
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
        let Self { tun, mut pump, changes, .. } = self;
        pump.abort();
        let _ended = pump.join().await;
        changes.undo().await;
        // The last handle on the device closes it; its addresses and routes go with it.
        drop(tun);
    }
}
