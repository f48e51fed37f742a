//! What holds where a configuration says nothing, and the ranges of what it may say (API §§2–3).
//!
//! Fields that are not listed have no default of their own: an absent `dns` or
//! `keepaliveIntervalSecs` of a client is the server's to choose, an absent `proxy` the environment's, absent
//! lists are empty, absent switches off.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::session::reconnect::Backoff;

/// `mtu`: bytes of the longest packet in the tunnel. 1,420 and all that is around it fit into one
/// Ethernet frame (API §6).
pub const MTU: u16 = 1420;

/// Range of `mtu`, in bytes: from what every IPv4 host must take (RFC 791) to what an IPv4 packet can
/// be.
pub const MTU_RANGE: RangeInclusive<u64> = 576..=65_535;

/// The least `mtu` with IPv6 in the tunnel (RFC 8200 §5).
pub const MTU_MIN_IPV6: u16 = 1280;

/// `keepaliveIntervalSecs` of a server: the interval until a link's health is known.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Range of `keepaliveIntervalSecs`, in seconds.
pub const KEEPALIVE_RANGE: RangeInclusive<u64> = 5..=120;

/// The most entries of `dns`.
pub const DNS_LIMIT: usize = 8;

/// `connectTimeoutMs`: what one attempt to connect may take, from the name's look-up to the first
/// packet.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Range of `connectTimeoutMs`, in milliseconds: up to ten minutes.
pub const CONNECT_TIMEOUT_RANGE: RangeInclusive<u64> = 1..=600_000;

/// `reconnect.baseDelayMs`: the bound of the first random delay.
pub const RECONNECT_BASE: Duration = Backoff::DEFAULT_BASE;

/// `reconnect.maxDelayMs`: the largest bound.
pub const RECONNECT_MAX: Duration = Backoff::DEFAULT_MAX;

/// Range of both delays, in milliseconds: up to a day.
pub const RECONNECT_RANGE: RangeInclusive<u64> = 1..=86_400_000;

/// `reconnect.maxAttempts`: attempts in a row before giving up; without limit.
pub const RECONNECT_ATTEMPTS: Option<u32> = None;

/// `stateDir` of a process that runs as root; others keep nothing.
pub const STATE_DIR: &str = "/var/lib/smartvpn";

/// `sessionGraceSecs`: how long a session waits for its client. Most interruptions are over by then; a client that
/// comes later gets its address back all the same, unless somebody else has it.
pub const SESSION_GRACE: Duration = Duration::from_secs(60);

/// Range of `sessionGraceSecs`, in seconds: up to a day.
pub const SESSION_GRACE_RANGE: RangeInclusive<u64> = 0..=86_400;

/// `ticketMaxAgeSecs`: how long after a full handshake a session can be resumed (PROTOCOL §8).
pub const TICKET_MAX_AGE: Duration = Duration::from_secs(86_400);

/// Range of `ticketMaxAgeSecs`, in seconds: from a minute to 30 days.
pub const TICKET_MAX_AGE_RANGE: RangeInclusive<u64> = 60..=2_592_000;

/// How long `authenticate` may take unless configured: a database's slow moment, and well within the handshake's 10 s.
pub const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(5);

/// What `authenticateTimeoutMs` may be: below it no network is asked in time, above it the handshake is over first.
pub const AUTHENTICATE_TIMEOUT_RANGE: RangeInclusive<u64> = 100..=9_000;

/// `handshakesPerSecond`: more than the clients behind one address do together, unless all of them come back at once.
pub const HANDSHAKES_PER_SECOND: u32 = 50;

/// `handshakeBurst`: the clients of an office or a provider's gateway that come back at once.
pub const HANDSHAKE_BURST: u32 = 400;

/// Range of both: none would keep everybody out, and no machine does more.
pub const HANDSHAKES_RANGE: RangeInclusive<u64> = 1..=100_000;
