//! The server's hello (PROTOCOL §3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::codec::features::Features;
use crate::codec::hello::{self, HelloError, MLKEM_CIPHERTEXT_LEN, VERSION};
use crate::codec::json::{Object, Value};
use crate::codec::reject::Rejection;
use crate::codec::secret::Ticket;

/// The smallest tunnel MTU that carries IPv6, in bytes (RFC 8200 §5).
const MIN_MTU_IPV6: u16 = 1280;

/// The prefix lengths that a client takes. A subnet may be as wide as the API's servers have it, and no
/// wider: what it covers goes into the tunnel, whether the client's `routes` name it or not.
const PREFIXES_IPV4: RangeInclusive<u64> = 8..=32;
const PREFIXES_IPV6: RangeInclusive<u64> = 64..=128;

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
    /// The length of the tunnel's IPv4 prefix, 8–32 bits.
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
    /// The length of the tunnel's prefix, 64–128 bits.
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
        let (assigned_ip, prefix_length) = network_v4(hello)?;
        Ok(Self {
            version: hello.required("version", |value| value.integer(VERSION..=VERSION))?,
            features: hello.required("features", |value| in_force(value, offered))?,
            client_id: hello
                .required("clientId", |value| value.string().filter(|id| hello::is_client_id(id)))?,
            assigned_ip,
            prefix_length,
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
        let assigned_ip = hello.optional("assignedIp6", host_v6)?;
        let prefix_length = hello.optional("prefixLength6", |value| value.integer(PREFIXES_IPV6))?;
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

/// An IPv4 address and its network, where hosts may have all of that network's addresses: none of this
/// host's own (`0.0.0.0/8`, loopback), of its links (there clouds have their metadata), of groups, none that
/// is reserved (RFC 6890).
fn network_v4(hello: &Object<'_>) -> Result<(Ipv4Addr, u8), HelloError> {
    let addr: Ipv4Addr = hello.required("assignedIp", parsed)?;
    let prefix = hello.required("prefixLength", |value| value.integer(PREFIXES_IPV4))?;
    let is_special = matches!(addr.octets()[0], 0 | 127 | 224..);
    let links = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
    let reaches_links =
        Ipv4Net::new(addr, prefix).is_ok_and(|network| network.contains(&links) || links.contains(&network));
    if is_special || reaches_links { Err(HelloError::Invalid("assignedIp")) } else { Ok((addr, prefix)) }
}

/// The same for IPv6, where a /64 is of one kind (RFC 4291): not of `::/64` (unspecified, loopback, IPv4),
/// not link-local, not multicast.
fn host_v6(value: &Value<'_>) -> Option<Ipv6Addr> {
    let addr: Ipv6Addr = parsed(value)?;
    let is_special = addr.to_bits() >> 64 == 0 || addr.is_unicast_link_local() || addr.is_multicast();
    (!is_special).then_some(addr)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::codec::reject::RejectCode;

    const OFFERED: Features = Features { bundle: true, offload: true, rekey: false };

    fn least() -> Json {
        json!({
            "version": 1, "features": ["bundle"], "clientId": "c1", "assignedIp": "10.8.0.2",
            "prefixLength": 24, "gateway": "10.8.0.1", "mtu": 1420, "keepaliveIntervalSecs": 30,
            "dns": ["1.1.1.1"],
        })
    }

    /// The least hello with some members changed.
    fn changed(members: Json) -> Result<Accepted, HelloError> {
        let mut hello = least();
        hello.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        parse(&hello.to_string())
    }

    fn parse(text: &str) -> Result<Accepted, HelloError> {
        match ServerHello::parse(text.as_bytes(), OFFERED, true)? {
            ServerHello::Accepted(accepted) => Ok(*accepted),
            ServerHello::Rejected(rejection) => panic!("{rejection:?}"),
        }
    }

    fn full() -> Accepted {
        Accepted {
            version: 1,
            features: OFFERED,
            client_id: "c1".into(),
            assigned_ip: Ipv4Addr::new(10, 8, 0, 2),
            prefix_length: 24,
            gateway: Ipv4Addr::new(10, 8, 0, 1),
            v6: Some(AcceptedV6 {
                assigned_ip: "fd00::2".parse().unwrap(),
                prefix_length: 64,
                gateway: "fd00::1".parse().unwrap(),
            }),
            mtu: 1420,
            keepalive_interval_secs: 30,
            dns: vec!["1.1.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ticket: Ticket::new(vec![1, 2, 3]).map(|ticket| (ticket, 3600)),
            mlkem768: None,
        }
    }

    #[test]
    fn a_full_hello_is_compact_and_in_order() {
        let text = "{\"version\":1,\"features\":[\"bundle\",\"offload\"],\"clientId\":\"c1\",\
                    \"assignedIp\":\"10.8.0.2\",\"prefixLength\":24,\"gateway\":\"10.8.0.1\",\
                    \"assignedIp6\":\"fd00::2\",\"prefixLength6\":64,\"gateway6\":\"fd00::1\",\
                    \"mtu\":1420,\"keepaliveIntervalSecs\":30,\"dns\":[\"1.1.1.1\",\"fd00::1\"],\
                    \"ticket\":\"AQID\",\"ticketLifetimeSecs\":3600}";
        let hello = ServerHello::Accepted(Box::new(full()));
        assert_eq!(std::str::from_utf8(&hello.encode()), Ok(text));
        assert_eq!(parse(text), Ok(full()));
        let hybrid = Accepted { mlkem768: Some(vec![7; MLKEM_CIPHERTEXT_LEN]), ..full() };
        let bytes = ServerHello::Accepted(Box::new(hybrid.clone())).encode();
        assert_eq!(parse(std::str::from_utf8(&bytes).unwrap()), Ok(hybrid));
    }

    #[test]
    fn least_members_must_be_there_once_and_fit() {
        assert!(changed(json!({})).is_ok());
        for name in ["version", "features", "clientId", "assignedIp", "prefixLength", "gateway", "mtu", "dns"]
        {
            assert_eq!(changed(json!({ name: null })), Err(HelloError::Missing(name)));
            assert_eq!(changed(json!({ name: true })), Err(HelloError::Invalid(name)));
            let twice = least().to_string().replacen('{', &format!("{{\"{name}\":null,"), 1);
            assert_eq!(parse(&twice), Err(HelloError::Invalid(name)));
        }
        let interval = json!({ "keepaliveIntervalSecs": null });
        assert_eq!(changed(interval), Err(HelloError::Missing("keepaliveIntervalSecs")));
    }

    #[test]
    fn ranges_end_where_they_should() {
        for (name, good, bad) in [
            ("version", vec![json!(1)], vec![json!(0), json!(2), json!(1.0)]),
            ("prefixLength", vec![json!(8), json!(32)], vec![json!(7), json!(0), json!(33), json!(-1)]),
            ("mtu", vec![json!(576), json!(65_535)], vec![json!(575), json!(65_536)]),
            ("keepaliveIntervalSecs", vec![json!(5), json!(120)], vec![json!(4), json!(121)]),
            ("clientId", vec![json!("x".repeat(64))], vec![json!(""), json!("x".repeat(65)), json!("a b")]),
            (
                "assignedIp",
                vec![json!("1.0.0.0"), json!("223.255.255.255"), json!("169.253.0.1")],
                vec![json!("fd00::2"), json!("10.8.0.02"), json!("10.8.0.2/24")],
            ),
            ("gateway", vec![], vec![json!("10.8.0"), json!(" 10.8.0.1")]),
            (
                "dns",
                vec![json!([]), json!(["fd00::1"].repeat(8))],
                vec![json!(["1.1.1.1"].repeat(9)), json!(["a"]), json!([1])],
            ),
        ] {
            for value in good {
                assert!(changed(json!({ name: value })).is_ok(), "{name}: {value}");
            }
            for value in bad {
                assert_eq!(changed(json!({ name: value })), Err(HelloError::Invalid(name)), "{value}");
            }
        }
    }

    #[test]
    fn a_server_draws_nothing_into_the_tunnel_that_is_no_hosts() {
        for (addr, prefix) in [
            ("0.1.2.3", 8),
            ("127.0.0.2", 24),
            ("169.254.169.254", 32),
            ("169.255.0.1", 8),
            ("169.1.0.1", 8),
            ("224.0.0.1", 24),
            ("255.255.255.255", 32),
        ] {
            let hello = changed(json!({ "assignedIp": addr, "prefixLength": prefix }));
            assert_eq!(hello, Err(HelloError::Invalid("assignedIp")), "{addr}/{prefix}");
        }
        let v6 = |addr: &str, prefix: u8| {
            changed(json!({ "assignedIp6": addr, "prefixLength6": prefix, "gateway6": "fd00::1" }))
        };
        for addr in ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "febf::1", "ff02::1"] {
            assert_eq!(v6(addr, 64), Err(HelloError::Invalid("assignedIp6")), "{addr}");
        }
        for prefix in [0, 3, 63] {
            assert_eq!(v6("fd00::2", prefix), Err(HelloError::Invalid("prefixLength6")), "{prefix}");
        }
        assert!(v6("fd00::2", 64).is_ok() && v6("2001:db8::2", 128).is_ok());
    }

    #[test]
    fn features_were_offered_and_go_together() {
        for good in [json!([]), json!(["bundle"]), json!(["offload", "bundle"])] {
            assert!(changed(json!({ "features": good })).is_ok(), "{good}");
        }
        for bad in
            [json!(["rekey"]), json!(["offload"]), json!(["x"]), json!([""]), json!(["bundle"].repeat(33))]
        {
            let hello = changed(json!({ "features": bad }));
            assert_eq!(hello, Err(HelloError::Invalid("features")), "{bad}");
        }
    }

    #[test]
    fn ipv6_comes_whole_and_with_its_mtu() {
        let members =
            [("assignedIp6", json!("fd00::2")), ("prefixLength6", json!(64)), ("gateway6", json!("fd00::1"))];
        for present in 0..8 {
            let some: serde_json::Map<_, _> = members
                .iter()
                .enumerate()
                .filter(|(bit, _)| present & (1 << bit) != 0)
                .map(|(_, (name, value))| ((*name).to_owned(), value.clone()))
                .collect();
            assert_eq!(changed(Json::Object(some)).is_ok(), matches!(present, 0 | 7), "{present:03b}");
        }
        let with_mtu = |mtu: u16, prefix: u8| {
            changed(json!({
                "assignedIp6": "fd00::2", "prefixLength6": prefix, "gateway6": "fd00::1", "mtu": mtu,
            }))
        };
        assert!(with_mtu(1280, 128).is_ok());
        assert_eq!(with_mtu(1279, 64), Err(HelloError::Invalid("mtu")));
        assert_eq!(with_mtu(1280, 129), Err(HelloError::Invalid("prefixLength6")));
    }

    #[test]
    fn a_ticket_has_a_lifetime() {
        let lifetime = u64::from(u32::MAX);
        assert!(changed(json!({ "ticket": "AAAA", "ticketLifetimeSecs": lifetime })).is_ok());
        for (members, name) in [
            (json!({ "ticket": "AAAA" }), "ticketLifetimeSecs"),
            (json!({ "ticketLifetimeSecs": 1 }), "ticket"),
        ] {
            assert_eq!(changed(members), Err(HelloError::Missing(name)));
        }
        let beyond = json!({ "ticket": "AAAA", "ticketLifetimeSecs": lifetime + 1 });
        assert_eq!(changed(beyond), Err(HelloError::Invalid("ticketLifetimeSecs")));
        assert!(changed(json!({ "ticket": "AAA", "ticketLifetimeSecs": 1 })).is_err());
    }

    #[test]
    fn a_ciphertext_was_asked_for_and_has_its_length() {
        let hello = |length| {
            let ciphertext = STANDARD.encode(vec![0; length]);
            changed(json!({ "mlkem768": ciphertext }))
        };
        assert!(hello(1088).is_ok());
        for length in [0, 1087, 1089, 1184] {
            assert_eq!(hello(length), Err(HelloError::Invalid("mlkem768")), "{length}");
        }
        let mut asked = least();
        asked["mlkem768"] = STANDARD.encode(vec![0; 1088]).into();
        let unasked = ServerHello::parse(asked.to_string().as_bytes(), OFFERED, false);
        assert_eq!(unasked, Err(HelloError::Invalid("mlkem768")));
    }

    #[test]
    fn a_rejection_needs_nothing_else() {
        let reject = |text: &str| ServerHello::parse(text.as_bytes(), Features::NONE, false);
        let expected = ServerHello::Rejected(Rejection {
            version: 3,
            code: RejectCode::ServerFull,
            message: "m".into(),
        });
        let text = "{\"version\":3,\"error\":{\"code\":\"server-full\",\"message\":\"m\"}}";
        assert_eq!(reject(text).as_ref(), Ok(&expected));
        assert_eq!(expected.encode().as_slice(), text.as_bytes());
        let others = text.replacen('{', "{\"mtu\":\"x\",\"mtu\":1,\"clientId\":\"\\ud800\",", 1);
        assert_eq!(reject(&others), Ok(expected));
        for text in [
            "{\"error\":{\"code\":\"server-full\",\"message\":\"m\"}}",
            "{\"version\":1,\"error\":\"server-full\"}",
            "{\"version\":1,\"error\":{}}",
            "{\"version\":1,\"error\":{\"code\":\"server-full\"}}",
            "{\"version\":1,\"error\":{\"message\":\"m\"}}",
            "{\"version\":1,\"error\":{\"code\":1,\"message\":\"m\"}}",
            "{\"version\":1,\"error\":{\"code\":\"a\",\"code\":\"a\",\"message\":\"m\"}}",
            "{\"version\":1,\"error\":null,\"error\":{\"code\":\"a\",\"message\":\"m\"}}",
            "{\"version\":1,\"error\":null}",
        ] {
            assert!(reject(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ticket_is_not_printed() {
        let printed = format!("{:?}", full());
        assert!(printed.contains("[redacted]") && !printed.contains("[1, 2, 3]"), "{printed}");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            client_id in "[A-Za-z0-9._-]{1,64}",
            assigned_ip in (1..=126_u32).prop_flat_map(|first| (first << 24)..(first + 1) << 24),
            mtu in 1280..=u16::MAX,
            keepalive_interval_secs in 5..=120_u16,
            dns in prop::collection::vec(any::<IpAddr>(), 0..=8),
            ticket in prop::option::of((prop::collection::vec(any::<u8>(), 1..40), 1..86_400_u32)),
            offered in any::<[bool; 3]>(),
        ) {
            let assigned_ip = Ipv4Addr::from_bits(assigned_ip);
            let [bundle, offload, rekey] = offered;
            let offered = Features { bundle, offload, rekey };
            // Offload is in force together with bundle only.
            let features = Features { offload: bundle && offload, ..offered };
            let ticket = ticket.and_then(|(bytes, lifetime)| Some((Ticket::new(bytes)?, lifetime)));
            let accepted =
                Accepted { client_id, assigned_ip, mtu, keepalive_interval_secs, dns, ticket, features, ..full() };
            let hello = ServerHello::Accepted(Box::new(accepted));
            prop_assert_eq!(ServerHello::parse(&hello.encode(), offered, false), Ok(hello));
        }

        #[test]
        fn what_is_encoded_of_a_rejection_is_parsed(version: u64, code in "[a-z-]{1,20}", message in "\\PC{0,80}") {
            let hello = ServerHello::Rejected(Rejection { version, code: code.into(), message });
            prop_assert_eq!(ServerHello::parse(&hello.encode(), OFFERED, false), Ok(hello));
        }

        #[test]
        fn any_change_is_read_or_refused(at: prop::sample::Index, byte: u8) {
            let mut bytes = least().to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = ServerHello::parse(&bytes, OFFERED, true);
            let _ = ServerHello::parse(&bytes[..at], OFFERED, true);
        }
    }
}
