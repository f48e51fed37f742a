//! Everything that is set on the host outside our own TUN.

use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::task::spawn_blocking;

use super::change::{Change, Table};
use super::error::NetworkError;
use super::firewall::{self, Warning};
use super::guard::Guard;
use super::ledger::Ledger;
use super::nat::Masquerade;
use super::nft;
use super::resolvers::ResolverMethod;
use super::sysctl::Sysctls;

/// Everything that one instance (a server or a client, named as its TUN) sets on the host outside
/// its own TUN.
///
/// Each change is written into a journal before it is made, and taken back in reverse order by
/// [`undo`](Self::undo). Dropping the value does the same at once, on the calling thread and within
/// 2 s: that is the way out for an exit handler. So does a step whose future is dropped half-way,
/// as soon as the step is over. What a killed process leaves, the next [`begin`](Self::begin) undoes.
///
/// A value that somebody else has changed since is left as it is. What two living instances with the
/// same state directory both need is taken back by the last of them.
pub struct HostChanges {
    /// Away while a step is under way.
    ledger: Option<Ledger>,
    masqueraded: Vec<IpNet>,
}

impl HostChanges {
    /// Takes the instance's name and repairs what killed processes left in this network namespace.
    ///
    /// Without a state directory nothing is kept: a killed process's changes then stay, and other
    /// instances are not considered.
    pub async fn begin(state_dir: Option<&Path>, instance: &str) -> Result<Self, NetworkError> {
        let (path, instance) = (state_dir.map(Path::to_owned), instance.to_owned());
        let begin = move || Ledger::begin(path.as_deref(), &instance, Sysctls::of_kernel(), None);
        let ledger = spawn_blocking(begin).await.unwrap_or(Err(NetworkError::Ended))?;
        Ok(Self { ledger: Some(ledger), masqueraded: Vec::new() })
    }

    /// As [`begin`](Self::begin), but the translation of addresses that a killed process of the same name left stays
    /// until [`masquerade`](Self::masquerade) writes it anew, in one step, or [`unmasquerade`](Self::unmasquerade)
    /// takes it away. Without it the host answers what comes for that process's clients with resets, and flows that
    /// could go on are dead.
    pub async fn take_over(state_dir: Option<&Path>, instance: &str) -> Result<Self, NetworkError> {
        let (path, instance) = (state_dir.map(Path::to_owned), instance.to_owned());
        let begin = move || {
            let table = Change::Table(Table { name: nft::nat_table(&instance) });
            Ledger::begin(path.as_deref(), &instance, Sysctls::of_kernel(), Some(&table))
        };
        let ledger = spawn_blocking(begin).await.unwrap_or(Err(NetworkError::Ended))?;
        Ok(Self { ledger: Some(ledger), masqueraded: Vec::new() })
    }

    /// Sends `net` into the tunnel's interface.
    ///
    /// 0.0.0.0/0 and ::/0 are set as their two halves, which go before the host's own default route
    /// and leave it untouched. [`pin_route`](Self::pin_route) has to come first.
    pub async fn route_via_tunnel(&mut self, net: IpNet, ifindex: u32) -> Result<(), NetworkError> {
        self.step(move |ledger| ledger.route_via_tunnel(net, ifindex)).await
    }

    /// Keeps the server's address on its present way by a route of its own, whatever is sent into
    /// the tunnel. Idempotent, and right also when the tunnel has its routes already.
    pub async fn pin_route(&mut self, server: IpAddr) -> Result<(), NetworkError> {
        self.step(move |ledger| ledger.pin_route(server)).await
    }

    /// Pins the server's address to the way that the host's own routes have for it now, where that is another one
    /// than [`pin_route`](Self::pin_route) found: the host has moved to another network. Without any way the old pin
    /// stays.
    pub async fn repin_route(&mut self, server: IpAddr) -> Result<(), NetworkError> {
        self.step(move |ledger| ledger.repin_route(server)).await
    }

    /// Makes IPv6 unreachable, so that it does not leave beside a tunnel that has none.
    ///
    /// Routes more specific than a half of ::/0 still hold: the host's own links, and a pinned server.
    pub async fn block_ipv6(&mut self) -> Result<(), NetworkError> {
        self.step(Ledger::block_ipv6).await
    }

    /// Sends what goes to a resolver into the tunnel's interface, also where the networks that are
    /// sent there leave it out. Returns whether that needed a route: link-local addresses and the
    /// host's own never take one, and what has a route of this instance's already keeps it.
    pub async fn route_resolver(&mut self, resolver: IpAddr, ifindex: u32) -> Result<bool, NetworkError> {
        self.step(move |ledger| ledger.route_resolver(resolver, ifindex)).await
    }

    /// Takes back what [`route_resolver`](Self::route_resolver) set.
    pub async fn unroute_resolver(&mut self, resolver: IpAddr, ifindex: u32) -> Result<(), NetworkError> {
        self.step(move |ledger| ledger.unroute_resolver(resolver, ifindex)).await
    }

    /// Has the host's programs ask `servers` for names, in that order: by systemd-resolved where that
    /// is in charge of `/etc/resolv.conf`, else by `resolvconf`, else by rewriting the file.
    ///
    /// Called again, it changes the servers in the same way; without servers it gives the host its own
    /// back. Returns how it was done: none without servers, and none if somebody else has rewritten
    /// the file since, which is then left to them.
    pub async fn set_resolvers(
        &mut self,
        servers: Vec<IpAddr>,
        ifindex: u32,
    ) -> Result<Option<ResolverMethod>, NetworkError> {
        self.step(move |ledger| {
            if servers.is_empty() {
                return ledger.unset_resolvers().map(|()| None);
            }
            ledger.set_resolvers(&servers, ifindex)
        })
        .await
    }

    /// Lets packets pass between the tunnel and every interface that has a route now.
    pub async fn enable_forwarding(&mut self, tun_name: &str, v6: bool) -> Result<(), NetworkError> {
        let tun = tun_name.to_owned();
        self.step(move |ledger| ledger.enable_forwarding(&tun, v6)).await
    }

    /// Gives what comes from the tunnel's networks the address of the interface it leaves by.
    ///
    /// Without `client_to_client` the kernel also drops what would go from one client to another. No connection of
    /// a client is given a port below 1024 or `spared_port`, the listener's, over TCP or UDP: who has a port of the
    /// server's address gets what others send there. Ports of clients that may be had are kept if they are free.
    /// May be called again to replace the rules. Others that take the table away, as those do who load a whole ruleset,
    /// have it written anew within a second.
    pub async fn masquerade(
        &mut self,
        tun_name: &str,
        v4: Ipv4Net,
        v6: Option<Ipv6Net>,
        client_to_client: bool,
        spared_port: Option<u16>,
    ) -> Result<(), NetworkError> {
        let masquerade = Masquerade { tun: tun_name.to_owned(), v4, v6, client_to_client, spared_port };
        self.step(move |ledger| ledger.masquerade(&masquerade)).await?;
        self.masqueraded = [IpNet::V4(v4)].into_iter().chain(v6.map(IpNet::V6)).collect();
        Ok(())
    }

    /// Takes the translation of addresses away, whoever of this name has set it up.
    pub async fn unmasquerade(&mut self) -> Result<(), NetworkError> {
        self.masqueraded.clear();
        self.step(Ledger::unmasquerade).await
    }

    /// Drops what comes for the tunnel's addresses by another interface, before the host acts on it, and answers no ARP
    /// request for them (CVE-2019-14899). Written anew as [`masquerade`](Self::masquerade)'s table is, and may be called
    /// again with other addresses.
    ///
    /// # Errors
    /// Where there is no `nft`, or its rules are refused: then all is as before.
    pub async fn guard(&mut self, tun_name: &str, guard: Guard) -> Result<(), NetworkError> {
        let tun = tun_name.to_owned();
        self.step(move |ledger| ledger.guard(&tun, &guard)).await
    }

    /// Looks for firewall rules of others that drop what the tunnel forwards. Changes nothing.
    pub async fn foreign_forward_drops(&self, tun_name: &str) -> Vec<Warning> {
        let (tun, networks) = (tun_name.to_owned(), self.masqueraded.clone());
        spawn_blocking(move || firewall::foreign_forward_drops(&tun, &networks)).await.unwrap_or_default()
    }

    /// Takes everything back in reverse order. Goes on over what fails, with a log line; the journal
    /// then keeps it for the next start.
    pub async fn undo(mut self) {
        // The ledger's drop would do: this way the failure of a step does not hide.
        let _ = self
            .step(|ledger| {
                ledger.undo();
                Ok(())
            })
            .await;
    }

    /// Runs a step on a thread that may block. If the caller goes away the step runs to its end and
    /// everything is taken back.
    async fn step<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Ledger) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let mut ledger = self.ledger.take().ok_or(NetworkError::Ended)?;
        let task = spawn_blocking(move || {
            let result = step(&mut ledger);
            (ledger, result)
        });
        let (ledger, result) = task.await.map_err(|_| NetworkError::Ended)?;
        self.ledger = Some(ledger);
        result
    }
}
