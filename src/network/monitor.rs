//! Hears at once what changes on the host's network.

use std::future::{pending, poll_fn};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;
use tokio::time::{Instant, sleep_until};

use super::error::NetworkError;
use super::netlink::{Netlink, Notice, is_one_of, notices};

/// Reports are so far apart at least. What an interface swap tells, some dozens of messages, comes within it,
/// and a storm yields ten reports a second at most, each of which costs its hearer a look at the routes.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Messages about interfaces, the longest, have some 2 KiB, and each is a datagram by itself. What is longer
/// than this the kernel cuts, and it counts as a change.
const RECEIVE_LEN: usize = 16 * 1024;

/// Datagrams that are read in a row, some more than the socket's queue holds (200 KiB, of which each takes
/// 768 bytes or more): only where they come as fast as they are read is something left for later.
const READS_IN_A_ROW: usize = 512;

/// Interfaces, and addresses, whose state is known, so that a message that tells nothing new can be passed
/// over: hosts with hundreds of containers have fewer. Some 36 KiB if there are so many. What goes beyond is
/// always news.
const MAX_KNOWN: usize = 1024;

/// The kinds of messages that are heard.
const GROUPS: [libc::c_int; 5] = [
    libc::RTMGRP_LINK,
    libc::RTMGRP_IPV4_IFADDR,
    libc::RTMGRP_IPV6_IFADDR,
    libc::RTMGRP_IPV4_ROUTE,
    libc::RTMGRP_IPV6_ROUTE,
];

/// What happened on the host's network since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// An interface came up or went down, or gained or lost its carrier.
    pub links: bool,
    /// An address can be used from now on, or no longer, or only where there is no other.
    pub addresses: bool,
    /// A route was set or taken away.
    pub routes: bool,
    /// Messages were lost or not understood: anything may have happened.
    pub overrun: bool,
}

/// Hears of changes that may concern the way to another host, in the network namespace of the thread that
/// opened it: interfaces that come and go, addresses, routes.
///
/// A message that tells nothing new does not count (an address whose lifetime is renewed, an interface that
/// tells of another access point), nor do routes that we set ourselves, which leave the way to a server as it
/// is, nor the [ignored](Self::ignore) interface.
pub struct Monitor {
    socket: TokioSocket,
    /// Where the state of things is asked for, when messages were lost.
    netlink: Netlink,
    received: Vec<u8>,
    view: View,
    not_before: Instant,
    /// The socket has failed for good.
    deaf: bool,
}

impl Monitor {
    /// Begins to hear. Must be called within a tokio runtime. Needs no capability.
    ///
    /// # Errors
    /// Where the kernel cannot be asked, or there are no descriptors left.
    pub fn open() -> Result<Self, NetworkError> {
        let socket = subscribe().map_err(|source| NetworkError::Netlink {
            what: "subscribing to changes of the host's network".to_owned(),
            source,
        })?;
        let mut monitor = Self {
            socket,
            netlink: Netlink::open()?,
            received: Vec::with_capacity(RECEIVE_LEN),
            view: View::new(),
            not_before: Instant::now(),
            deaf: false,
        };
        // After the subscription: what changes in between is heard.
        monitor.look();
        Ok(monitor)
    }

    /// From now on, what happens to this interface, and routes that lead out of it alone, do not count. Only
    /// one interface is ignored, the last one that was told.
    pub fn ignore(&mut self, ifindex: u32) {
        self.view.ignored = Some(ifindex);
    }

    /// Waits until something has happened since the last report. The first message is reported at once, what
    /// follows within 100 ms as one. Cancel-safe.
    pub async fn changed(&mut self) -> Change {
        while !self.deaf {
            if self.view.news == Change::default() {
                self.received.clear();
                let received = poll_fn(|context| self.socket.poll_recv(context, &mut self.received)).await;
                self.digest(received);
                self.read_all();
            } else if Instant::now() < self.not_before {
                // What comes meanwhile waits in the socket: a storm does not wake this task for each message.
                sleep_until(self.not_before).await;
                self.read_all();
            } else {
                self.not_before = Instant::now() + REPORT_INTERVAL;
                return std::mem::take(&mut self.view.news);
            }
        }
        pending().await
    }

    /// Reads what is there.
    fn read_all(&mut self) {
        for _ in 0..READS_IN_A_ROW {
            self.received.clear();
            match self.socket.socket_ref().recv(&mut self.received, 0) {
                // Not sooner: what came before the look would be mistaken for newer.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.look(),
                received => self.digest(received.map(drop)),
            }
            if self.deaf {
                return;
            }
        }
    }

    /// Asks for what is not known, at the beginning and after messages were lost.
    fn look(&mut self) {
        if self.view.complete {
            return;
        }
        match self.netlink.notices() {
            Ok(state) => self.view.learn(&state),
            // Everything is news meanwhile.
            Err(error) => tracing::debug!(%error, "the state of the host's network is not known"),
        }
    }

    fn digest(&mut self, received: io::Result<()>) {
        match received {
            Ok(()) => notices(&self.received).for_each(|notice| self.view.take(notice)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_one_of(&error, &[Errno::NOBUFS, Errno::NOMEM]) => self.view.lose_sight(),
            Err(error) => {
                tracing::warn!(%error, "changes of the host's network are no longer heard");
                self.deaf = true;
            }
        }
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |groups, group| groups | group.unsigned_abs());
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    // Nobody but the kernel (port 0) can now send to this socket, other than to the groups, which takes root.
    socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// What is known of the host's network, and what of it is news.
#[derive(Debug)]
struct View {
    ignored: Option<u32>,
    /// Interfaces that can be told anything of, with their state.
    links: Known<u32, u32>,
    /// Addresses that can be sent from, with whether they are deprecated.
    addresses: Known<(u32, IpAddr, u8), bool>,
    /// Whether all is known that was there at some moment, and nothing was missed since.
    complete: bool,
    news: Change,
}

impl View {
    /// Nothing is known, and nothing is news.
    fn new() -> Self {
        Self {
            ignored: None,
            links: Known::unsure(),
            addresses: Known::unsure(),
            complete: false,
            news: Change::default(),
        }
    }

    /// Takes in one message.
    fn take(&mut self, notice: Notice) {
        // What is ignored is still learned of: it may be another interface tomorrow.
        let counts = |ifindex: u32| self.ignored != Some(ifindex);
        match notice {
            Notice::Link { ifindex, state } => {
                let new = self.links.set(ifindex, (state != 0).then_some(state));
                self.news.links |= new && counts(ifindex);
            }
            Notice::Address { ifindex, address, prefix, state } => {
                let new = self.addresses.set((ifindex, address, prefix), state);
                self.news.addresses |= new && counts(ifindex);
            }
            Notice::Route { ifindex, set_by_us } => {
                self.news.routes |= !set_by_us && ifindex.is_none_or(counts);
            }
            Notice::Unclear => self.lose_sight(),
        }
    }

    /// Takes in the state of all there is, which is no news.
    fn learn(&mut self, state: &[Notice]) {
        let news = self.news;
        (self.links, self.addresses) = (Known::default(), Known::default());
        state.iter().for_each(|notice| self.take(*notice));
        (self.news, self.complete) = (news, true);
    }

    /// Anything may have happened; until all is learned anew, everything is news.
    fn lose_sight(&mut self) {
        (self.links, self.addresses) = (Known::unsure(), Known::unsure());
        self.news.overrun = true;
        self.complete = false;
    }
}

/// Things that are there, each with its state.
#[derive(Debug)]
struct Known<K, V> {
    /// By key.
    sorted: Vec<(K, V)>,
    /// Whether there may be others: one had no room, or was not heard of.
    unsure: bool,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self { sorted: Vec::new(), unsure: false }
    }
}

impl<K, V> Known<K, V> {
    fn unsure() -> Self {
        Self { unsure: true, ..Self::default() }
    }
}

impl<K: Ord + Copy, V: Copy + PartialEq> Known<K, V> {
    /// Takes what a thing is now, nothing if it is gone, and tells whether that is news. Of what may have
    /// been there unknown, everything is.
    fn set(&mut self, key: K, now: Option<V>) -> bool {
        match (self.sorted.binary_search_by_key(&key, |(key, _)| *key), now) {
            (Ok(at), Some(now)) => std::mem::replace(&mut self.sorted[at].1, now) != now,
            (Ok(at), None) => {
                self.sorted.remove(at);
                true
            }
            (Err(at), Some(now)) => {
                if self.sorted.len() < MAX_KNOWN {
                    self.sorted.insert(at, (key, now));
                } else {
                    self.unsure = true;
                }
                true
            }
            (Err(_), None) => self.unsure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: u32 = 1;
    const RUNNING: u32 = 0x41;

    fn link(ifindex: u32, state: u32) -> Notice {
        Notice::Link { ifindex, state }
    }

    fn address(ifindex: u32, last: u8, state: Option<bool>) -> Notice {
        Notice::Address { ifindex, address: [192, 0, 2, last].into(), prefix: 24, state }
    }

    /// What is news after these messages.
    fn news(view: &mut View, notices: &[Notice]) -> Change {
        notices.iter().for_each(|notice| view.take(*notice));
        std::mem::take(&mut view.news)
    }

    const NOTHING: Change = Change { links: false, addresses: false, routes: false, overrun: false };
    const LINKS: Change = Change { links: true, ..NOTHING };
    const ADDRESSES: Change = Change { addresses: true, ..NOTHING };
    const ROUTES: Change = Change { routes: true, ..NOTHING };

    #[test]
    fn only_what_is_new_counts() {
        let mut view = View::new();
        view.learn(&[link(2, RUNNING), address(2, 1, Some(false))]);
        assert_eq!(news(&mut view, &[]), NOTHING, "what is found at the beginning is no news");
        assert_eq!(news(&mut view, &[link(2, RUNNING), address(2, 1, Some(false))]), NOTHING);
        assert_eq!(news(&mut view, &[link(3, 0), address(2, 9, None)]), NOTHING, "not there, nor before");
        assert_eq!(news(&mut view, &[link(2, UP)]), LINKS);
        assert_eq!(news(&mut view, &[link(2, 0)]), LINKS);
        assert_eq!(news(&mut view, &[link(2, 0)]), NOTHING);
        assert_eq!(news(&mut view, &[address(2, 1, Some(true))]), ADDRESSES);
        assert_eq!(news(&mut view, &[address(2, 1, None)]), ADDRESSES);
        assert_eq!(news(&mut view, &[address(2, 1, None)]), NOTHING);
        let both = Change { addresses: true, ..LINKS };
        assert_eq!(news(&mut view, &[link(2, RUNNING), address(2, 1, Some(false))]), both);
    }

    #[test]
    fn the_ignored_interface_and_our_own_routes_do_not_count() {
        let mut view = View { ignored: Some(5), ..View::new() };
        let route = |ifindex, set_by_us| Notice::Route { ifindex, set_by_us };
        let own = [link(5, RUNNING), address(5, 1, Some(false)), route(Some(5), false), route(Some(2), true)];
        assert_eq!(news(&mut view, &own), NOTHING);
        assert_eq!(news(&mut view, &[route(Some(2), false)]), ROUTES);
        assert_eq!(news(&mut view, &[route(None, false)]), ROUTES);
        view.ignored = Some(6);
        assert_eq!(news(&mut view, &[link(5, RUNNING)]), NOTHING, "it was learned of");
        assert_eq!(news(&mut view, &[link(5, 0)]), LINKS);
    }

    #[test]
    fn what_is_unclear_counts_until_all_is_known_again() {
        let mut view = View::new();
        view.learn(&[link(2, RUNNING)]);
        assert!(news(&mut view, &[Notice::Unclear]).overrun);
        assert!(!view.complete);
        assert_eq!(news(&mut view, &[link(3, 0)]), LINKS, "it may have been up");
        assert_eq!(news(&mut view, &[address(3, 1, None)]), ADDRESSES);
        view.learn(&[link(2, 0)]);
        assert!(view.complete);
        assert_eq!(news(&mut view, &[]), NOTHING);
        assert_eq!(news(&mut view, &[link(2, RUNNING)]), LINKS, "it went down unheard");
    }

    #[test]
    fn what_finds_no_room_is_always_news() {
        let mut known = Known::default();
        for key in 0..MAX_KNOWN {
            assert!(known.set(key, Some(1)));
        }
        assert!(!known.set(MAX_KNOWN, None), "all there was had room");
        assert!(known.set(MAX_KNOWN, Some(1)) && known.set(MAX_KNOWN, Some(1)));
        assert_eq!(known.sorted.len(), MAX_KNOWN);
        assert!(!known.set(0, Some(1)), "those that are known are compared");
        assert!(known.set(0, None));
        assert!(known.set(MAX_KNOWN, None), "it may have been there");
    }
}
