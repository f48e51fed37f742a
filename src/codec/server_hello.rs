//! The server's hello (PROTOCOL §3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::codec::features::Features;
use crate::codec::hello::{self, HelloError, MLKEM_CIPHERTEXT_LEN, VERSION};
use crate::codec::json::{Object, Value};
use crate::codec::reject::Rejection;
use crate::codec::secret::Ticket;

/// The smallest tunnel MTU that carries IPv6, in bytes (RFC 8200 §5).
const MIN_MTU_IPV6: u16 = 1280;

/// A hello of message 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerHello {
    /// The client is in.
    Accepted(Box<Accepted>),
    /// It is not.
    Rejected(Rejection),
}

impl ServerHello {
    /// Reads the payload of message 2, the answer to a hello that offered these features and, if
    /// `kem_offered`, an ML-KEM key.
    ///
    /// # Errors
    ///
    /// Any [`HelloError`]: the client closes with 1002.
    pub fn parse(bytes: &[u8], offered: Features, kem_offered: bool) -> Result<Self, HelloError> {
        let hello = Object::parse(bytes)?;
        match hello.get("error")? {
            Some(error) => Rejection::read(&hello, error).map(Self::Rejected),
            None => Accepted::read(&hello, offered, kem_offered)
                .map(|accepted| Self::Accepted(Box::new(accepted))),
        }
    }

    /// The payload of message 2: compact JSON in the order of PROTOCOL §3. It is erased when
    /// dropped, for it may hold a ticket.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Accepted(accepted) => accepted.encode(),
            Self::Rejected(rejection) => rejection.encode(),
        }
    }
}

/// What an accepted client is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The version in force: [`VERSION`].
    pub version: u64,
    /// The features in force.
    pub features: Features,
    /// The client's id; see [`hello::is_client_id`].
    pub client_id: String,
    /// The client's IPv4 address in the tunnel.
    pub assigned_ip: Ipv4Addr,
    /// The length of the tunnel's IPv4 prefix, 0–32 bits.
    pub prefix_length: u8,
    /// The server's IPv4 address in the tunnel.
    pub gateway: Ipv4Addr,
    /// The same for IPv6, if the tunnel has it.
    pub v6: Option<AcceptedV6>,
    /// The tunnel's MTU at both ends, 576–65,535 bytes; at least 1,280 with IPv6.
    pub mtu: u16,
    /// The interval between keepalives, 5–120 seconds.
    pub keepalive_interval_secs: u16,
    /// The resolvers to use, at most 8.
    pub dns: Vec<IpAddr>,
    /// A ticket to resume the session with, and its lifetime in seconds.
    pub ticket: Option<(Ticket, u32)>,
    /// An ML-KEM-768 ciphertext of [`MLKEM_CIPHERTEXT_LEN`] bytes, if the client sent a key.
    pub mlkem768: Option<Vec<u8>>,
}

/// The IPv6 side of [`Accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedV6 {
    /// The client's address in the tunnel.
    pub assigned_ip: Ipv6Addr,
    /// The length of the tunnel's prefix, 0–128 bits.
    pub prefix_length: u8,
    /// The server's address in the tunnel.
    pub gateway: Ipv6Addr,
}

impl Accepted {
    fn read(hello: &Object<'_>, offered: Features, kem_offered: bool) -> Result<Self, HelloError> {
        let v6 = AcceptedV6::read(hello)?;
        let min_mtu = if v6.is_some() { MIN_MTU_IPV6 } else { 576 };
        let mlkem768 = hello.optional("mlkem768", |value| {
            kem_offered.then(|| hello::base64_of(value, MLKEM_CIPHERTEXT_LEN))?
        })?;
        Ok(Self {
            version: hello.required("version", |value| value.integer(VERSION..=VERSION))?,
            features: hello.required("features", |value| in_force(value, offered))?,
            client_id: hello
                .required("clientId", |value| value.string().filter(|id| hello::is_client_id(id)))?,
            assigned_ip: hello.required("assignedIp", parsed)?,
            prefix_length: hello.required("prefixLength", |value| value.integer(0..=32))?,
            gateway: hello.required("gateway", parsed)?,
            v6,
            mtu: hello.required("mtu", |value| value.integer(min_mtu.into()..=65_535))?,
            keepalive_interval_secs: hello
                .required("keepaliveIntervalSecs", |value| value.integer(5..=120))?,
            dns: hello.required("dns", |value| value.array(8, parsed))?,
            ticket: read_ticket(hello)?,
            mlkem768,
        })
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (ticket, lifetime) = self.ticket.as_ref().map(|(ticket, secs)| (ticket, *secs)).unzip();
        let ticket = ticket.map(hello::ticket_text);
        hello::encode(&Wire {
            version: self.version,
            features: self.features.names(),
            client_id: &self.client_id,
            assigned_ip: self.assigned_ip,
            prefix_length: self.prefix_length,
            gateway: self.gateway,
            assigned_ip6: self.v6.map(|v6| v6.assigned_ip),
            prefix_length6: self.v6.map(|v6| v6.prefix_length),
            gateway6: self.v6.map(|v6| v6.gateway),
            mtu: self.mtu,
            keepalive_interval_secs: self.keepalive_interval_secs,
            dns: &self.dns,
            ticket: ticket.as_ref().map(|text| text.as_str()),
            ticket_lifetime_secs: lifetime,
            mlkem768: self.mlkem768.as_ref().map(|ciphertext| STANDARD.encode(ciphertext)),
        })
    }
}

impl AcceptedV6 {
    /// All three members or none.
    fn read(hello: &Object<'_>) -> Result<Option<Self>, HelloError> {
        let assigned_ip = hello.optional("assignedIp6", parsed)?;
        let prefix_length = hello.optional("prefixLength6", |value| value.integer(0..=128))?;
        let gateway = hello.optional("gateway6", parsed)?;
        match (assigned_ip, prefix_length, gateway) {
            (None, None, None) => Ok(None),
            (None, _, _) => Err(HelloError::Missing("assignedIp6")),
            (_, None, _) => Err(HelloError::Missing("prefixLength6")),
            (_, _, None) => Err(HelloError::Missing("gateway6")),
            (Some(assigned_ip), Some(prefix_length), Some(gateway)) => {
                Ok(Some(Self { assigned_ip, prefix_length, gateway }))
            }
        }
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("version", &self.version)
            .field("features", &self.features.names())
            .field("client_id", &self.client_id)
            .field("assigned_ip", &self.assigned_ip)
            .field("prefix_length", &self.prefix_length)
            .field("gateway", &self.gateway)
            .field("v6", &self.v6)
            .field("mtu", &self.mtu)
            .field("keepalive_interval_secs", &self.keepalive_interval_secs)
            .field("dns", &self.dns)
            .field("ticket", &self.ticket)
            .field("mlkem768", &self.mlkem768.is_some())
            .finish()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    version: u64,
    features: Vec<&'a str>,
    client_id: &'a str,
    assigned_ip: Ipv4Addr,
    prefix_length: u8,
    gateway: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned_ip6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix_length6: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway6: Option<Ipv6Addr>,
    mtu: u16,
    keepalive_interval_secs: u16,
    dns: &'a [IpAddr],
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket_lifetime_secs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mlkem768: Option<String>,
}

/// Features that may be in force: offered ones, offload only together with bundle.
fn in_force(value: &Value<'_>, offered: Features) -> Option<Features> {
    let mut features = Features::NONE;
    let known = hello::feature_names(value)?.iter().all(|name| features.insert(name));
    (known && features == features.intersection(offered)).then_some(features)
}

/// An address in its text form.
fn parsed<T: FromStr>(value: &Value<'_>) -> Option<T> {
    value.string()?.parse().ok()
}

/// Ticket and lifetime, or neither.
fn read_ticket(hello: &Object<'_>) -> Result<Option<(Ticket, u32)>, HelloError> {
    let ticket = hello.optional("ticket", hello::ticket)?;
    let lifetime = hello.optional("ticketLifetimeSecs", |value| value.integer(0..=u32::MAX.into()))?;
    match (ticket, lifetime) {
        (None, None) => Ok(None),
        (Some(ticket), Some(lifetime)) => Ok(Some((ticket, lifetime))),
        (None, Some(_)) => Err(HelloError::Missing("ticket")),
        (Some(_), None) => Err(HelloError::Missing("ticketLifetimeSecs")),
    }
}
