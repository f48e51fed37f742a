//! From a name to a TCP connection, in the spirit of RFC 8305: addresses of both families in turn, the
//! next one as soon as the last has failed or has been silent for a moment.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until};

use super::{CongestionControl, socket};

/// How long an address may be silent before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long the resolver may take before addresses that are known from before are tried beside it, unless
/// the caller says otherwise. A resolver that works takes a tenth of this; one behind a dead tunnel takes
/// all there is.
pub(super) const FALLBACK_DELAY: Duration = Duration::from_secs(2);

/// How much longer the resolver is waited for when those addresses have failed as well. Waiting out the
/// caller's deadline would leave a restarted server unnoticed for that long.
const LOOKUP_GRACE: Duration = Duration::from_secs(3);

type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Why there is no further connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The name has no address, and no other was known.
    Lookup(Option<io::Error>),
    /// All addresses failed; this is the most telling failure.
    Attempt(SocketAddr, io::Error),
    /// All addresses gave connections already.
    Exhausted,
}

/// The addresses of a server, or of its proxy, and what has become of each.
pub(super) struct Connector<'a> {
    congestion: CongestionControl,
    lookup: Option<Lookup<'a>>,
    lookup_error: Option<io::Error>,
    fallback: Vec<SocketAddr>,
    fallback_at: Instant,
    /// Every address that has been queued.
    seen: Vec<SocketAddr>,
    queue: VecDeque<SocketAddr>,
    attempts: FuturesUnordered<BoxFuture<'a, (SocketAddr, io::Result<TcpStream>)>>,
    /// When the next attempt may begin beside those that run.
    next_at: Instant,
    failure: Option<(SocketAddr, io::Error)>,
}

impl<'a> Connector<'a> {
    /// `lookup` resolves the name; `fallback` is tried when it fails, or takes longer than `fallback_after`.
    pub(super) fn new(
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a,
        fallback: Vec<SocketAddr>,
        fallback_after: Duration,
        congestion: CongestionControl,
    ) -> Self {
        let now = Instant::now();
        Self {
            congestion,
            lookup: Some(Box::pin(lookup)),
            lookup_error: None,
            fallback,
            fallback_at: now + fallback_after,
            seen: Vec::new(),
            queue: VecDeque::new(),
            attempts: FuturesUnordered::new(),
            next_at: now,
            failure: None,
        }
    }

    /// Whether no address is known yet.
    pub(super) fn is_resolving(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether [`Self::next`] could give another connection.
    pub(super) fn has_more(&self) -> bool {
        self.lookup.is_some() || !self.queue.is_empty() || !self.attempts.is_empty()
    }

    /// The first connection that comes about; called again, the next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        loop {
            self.begin_attempt();
            if !self.has_more() {
                return Err(self.failed());
            }
            let fallback_is_held = self.lookup.is_some() && !self.fallback.is_empty();
            let only_lookup_is_left =
                self.failure.is_some() && self.queue.is_empty() && self.attempts.is_empty();
            tokio::select! {
                result = resolved(&mut self.lookup) => self.take_lookup(result),
                Some((remote, result)) = self.attempts.next() => match result {
                    Ok(stream) => return Ok((stream, remote)),
                    Err(error) => self.take_failure(remote, error),
                },
                () = sleep_until(self.next_at), if !self.queue.is_empty() => {}
                () = sleep_until(self.fallback_at), if fallback_is_held => self.take_fallback(),
                () = sleep_until(self.fallback_at + LOOKUP_GRACE), if only_lookup_is_left => self.lookup = None,
            }
        }
    }

    fn begin_attempt(&mut self) {
        if !self.attempts.is_empty() && Instant::now() < self.next_at {
            return;
        }
        if let Some(remote) = self.queue.pop_front() {
            let congestion = self.congestion;
            self.attempts.push(Box::pin(async move { (remote, connect(remote, congestion).await) }));
            self.next_at = Instant::now() + ATTEMPT_DELAY;
        }
    }

    fn take_lookup(&mut self, result: io::Result<Vec<SocketAddr>>) {
        self.lookup = None;
        let found = result.unwrap_or_else(|error| {
            self.lookup_error = Some(error);
            Vec::new()
        });
        if found.is_empty() {
            self.take_fallback();
        } else {
            self.enqueue(interleave(found));
        }
    }

    fn take_fallback(&mut self) {
        let fallback = std::mem::take(&mut self.fallback);
        self.enqueue(interleave(fallback));
    }

    fn take_failure(&mut self, remote: SocketAddr, error: io::Error) {
        tracing::debug!(%remote, %error, "address failed");
        self.next_at = Instant::now();
        if self.failure.as_ref().is_none_or(|(_, kept)| weight(&error) > weight(kept)) {
            self.failure = Some((remote, error));
        }
    }

    fn enqueue(&mut self, addresses: Vec<SocketAddr>) {
        for address in addresses {
            if !self.seen.contains(&address) {
                self.seen.push(address);
                self.queue.push_back(address);
            }
        }
    }

    fn failed(&mut self) -> ConnectError {
        match self.failure.take() {
            Some((remote, error)) => ConnectError::Attempt(remote, error),
            None if self.seen.is_empty() => ConnectError::Lookup(self.lookup_error.take()),
            None => ConnectError::Exhausted,
        }
    }
}

async fn resolved(lookup: &mut Option<Lookup<'_>>) -> io::Result<Vec<SocketAddr>> {
    match lookup {
        Some(lookup) => lookup.await,
        None => std::future::pending().await,
    }
}

async fn connect(remote: SocketAddr, congestion: CongestionControl) -> io::Result<TcpStream> {
    let tcp = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket::configure(&tcp, congestion);
    tcp.connect(remote).await
}

/// Takes turns between the families, beginning with the one that the resolver put first (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// How much a failure tells: a closed port was reached; a time-out may be anything; no route at all is
/// what the other family says on every host that has one only.
fn weight(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => 3,
        io::ErrorKind::ConnectionReset => 2,
        io::ErrorKind::TimedOut => 1,
        _ => 0,
    }
}

/// The addresses of `host`, each with `port`.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Each of `addresses` with `port`.
pub(super) fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|&address| SocketAddr::new(address, port)).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::net::TcpListener;

    use super::*;

    /// A port that nobody listens on, on an address of its own.
    async fn closed(host: &str) -> SocketAddr {
        TcpListener::bind((host, 0)).await.unwrap().local_addr().unwrap()
    }

    /// A listener that drops every SYN, as a firewall would: its backlog is full.
    #[cfg(target_os = "linux")]
    struct Silent {
        addr: SocketAddr,
        _held: (socket2::Socket, Vec<TcpStream>),
    }

    #[cfg(target_os = "linux")]
    async fn silent() -> Silent {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(addr)).await
        {
            held.push(stream.unwrap());
        }
        Silent { addr, _held: (socket, held) }
    }

    fn connector<'a>(found: io::Result<Vec<SocketAddr>>, fallback: &[SocketAddr]) -> Connector<'a> {
        Connector::new(ready(found), fallback.to_vec(), FALLBACK_DELAY, CongestionControl::System)
    }

    #[test]
    fn families_take_turns() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|a| a.parse().unwrap()).collect() };
        let mixed = interleave(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]));
        assert_eq!(mixed, parse(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]));
        let mixed = interleave(parse(&["1.0.0.1:1", "1.0.0.2:1", "[::1]:1"]));
        assert_eq!(mixed, parse(&["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"]));
        assert_eq!(interleave(Vec::new()), Vec::new());
    }

    #[tokio::test]
    async fn a_refused_address_gives_way_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let start = Instant::now();
        let mut connector =
            connector(Ok(vec![closed("127.0.0.2").await, closed("127.0.0.3").await, good]), &[]);
        let (_, remote) = connector.next().await.unwrap();
        assert_eq!(remote, good);
        // Two delays is what waiting for each of them would take.
        assert!(start.elapsed() < 2 * ATTEMPT_DELAY);
        assert!(matches!(connector.next().await, Err(ConnectError::Attempt(_, error))
            if error.kind() == io::ErrorKind::ConnectionRefused));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_silent_address_gets_company() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent, good) = (silent().await, listener.local_addr().unwrap());
        let start = Instant::now();
        let mut connector = connector(Ok(vec![silent.addr, good]), &[]);
        assert_eq!(connector.next().await.unwrap().1, good);
        let taken = start.elapsed();
        assert!((ATTEMPT_DELAY..20 * ATTEMPT_DELAY).contains(&taken), "{taken:?}");
        assert!(connector.has_more(), "the silent one may still answer");
    }

    #[tokio::test]
    async fn known_addresses_stand_in_for_a_name_that_does_not_resolve() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        for found in [Ok(Vec::new()), Err(io::Error::other("no resolver"))] {
            assert_eq!(connector(found, &[good]).next().await.unwrap().1, good);
        }
        let mut connector = connector(Err(io::Error::other("no resolver")), &[]);
        assert!(matches!(connector.next().await, Err(ConnectError::Lookup(Some(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn known_addresses_do_not_wait_for_a_dead_resolver() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        for delay in [FALLBACK_DELAY, Duration::ZERO] {
            let start = Instant::now();
            let mut connector = Connector::new(pending(), vec![good], delay, CongestionControl::System);
            assert!(connector.is_resolving());
            assert_eq!(connector.next().await.unwrap().1, good);
            assert_eq!(start.elapsed(), delay);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_resolver_does_not_hide_what_known_addresses_say() {
        let start = Instant::now();
        let refused = closed("127.0.0.1").await;
        let mut connector =
            Connector::new(pending(), vec![refused], FALLBACK_DELAY, CongestionControl::System);
        assert!(matches!(connector.next().await, Err(ConnectError::Attempt(..))));
        assert_eq!(start.elapsed(), FALLBACK_DELAY + LOOKUP_GRACE);
    }

    #[tokio::test]
    async fn a_late_answer_of_the_resolver_still_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (old, new) = (closed("127.0.0.2").await, listener.local_addr().unwrap());
        let lookup = async move {
            tokio::time::sleep(FALLBACK_DELAY + ATTEMPT_DELAY).await;
            Ok(vec![old, new])
        };
        let mut connector = Connector::new(lookup, vec![old], FALLBACK_DELAY, CongestionControl::System);
        assert_eq!(connector.next().await.unwrap().1, new);
    }

    #[tokio::test]
    async fn the_most_telling_failure_is_reported() {
        let refused = closed("127.0.0.1").await;
        // No TCP connection goes there, on any host.
        let broadcast: SocketAddr = "255.255.255.255:9".parse().unwrap();
        let mut connector = connector(Ok(vec![refused, broadcast]), &[]);
        let Err(ConnectError::Attempt(remote, error)) = connector.next().await else {
            panic!("nobody listens there");
        };
        assert_eq!((remote, error.kind()), (refused, io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn sockets_are_configured_before_they_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap(), CongestionControl::Auto).await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
    }
}
