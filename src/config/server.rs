//! `IVpnServerConfig` (API §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::clients;
use super::defaults;
use super::field::{Field, Names, Object};
use super::values::{self, PemSource, StateDir};
use crate::addr::{AddressPool, Subnet};
use crate::crypto::keys::Keypair;
use crate::error::VpnError;
use crate::qos::RateLimit;
use crate::session::Registry;
use crate::session::gate::GateRules;
use crate::session::registry::{Auth, RegisteredClient};
use crate::transport::{CongestionControl, Endpoint};

static NAMES: Names = Names {
    known: &[
        "listenAddr",
        "privateKey",
        "publicKey",
        "subnet",
        "subnet6",
        "tlsCert",
        "tlsKey",
        "dns",
        "mtu",
        "keepaliveIntervalSecs",
        "enableNat",
        "maxClients",
        "clientToClient",
        "path",
        "tunName",
        "trustedProxies",
        "proxyProtocol",
        "sessionGraceSecs",
        "ticketMaxAgeSecs",
        "congestionControl",
        "stateDir",
        "defaultRateLimitBytesPerSec",
        "defaultBurstBytes",
        "auth",
        "clients",
        "authenticate",
        "authenticateTimeoutMs",
        "publicUrl",
        "handshakesPerSecond",
        "handshakeBurst",
    ],
    later: &[],
};

/// A server's configuration, checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `listenAddr`, required: `host:port` or `[v6]:port`; with port 0 the system picks one.
    pub listen_addr: String,
    /// `privateKey` and `publicKey`, required: what the server proves itself with.
    pub keypair: Keypair,
    /// `subnet`, required: the tunnel's IPv4 network, /8–/30.
    pub subnet: Subnet<Ipv4Addr>,
    /// `subnet6`: the tunnel's IPv6 network, /64–/125.
    pub subnet6: Option<Subnet<Ipv6Addr>>,
    /// `tlsCert` and `tlsKey`; `None`: plain `ws://`, for a proxy in front.
    pub tls: Option<TlsPem>,
    /// `dns`: resolvers told to clients, at most 8.
    pub dns: Vec<IpAddr>,
    /// `mtu`: the longest packet in the tunnel, 576–65,535 bytes, at least 1,280 with `subnet6`;
    /// 1,420 unless given.
    pub mtu: u16,
    /// `keepaliveIntervalSecs`: the interval told to clients, 5–120 s; 30 s unless given.
    pub keepalive_interval: Duration,
    /// `enableNat`: masquerade the subnets, IP forwarding on.
    pub enable_nat: bool,
    /// `defaultRateLimitBytesPerSec`, 1,000–10^11, and `defaultBurstBytes`, at least 65,536 and one
    /// second of the rate unless given: the limit of each client in each direction.
    pub default_rate_limit: Option<RateLimit>,
    /// `maxClients`: clients at a time, at least 1; what the subnets hold unless given.
    pub max_clients: u64,
    /// `clientToClient`: clients can reach each other.
    pub client_to_client: bool,
    /// `handshakesPerSecond` and `handshakeBurst`, each 1–100,000: what one source address, or IPv6 /64, may begin;
    /// 50 and 400 unless given.
    pub handshakes: GateRules,
    /// `path`: the only path that upgrades, without query; `None`: any.
    pub path: Option<String>,
    /// `tunName`: the interface's name; `None`: the first free one.
    pub tun_name: Option<String>,
    /// `trustedProxies`: those whose `X-Forwarded-For` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `proxyProtocol`: connections from trusted proxies begin with a PROXY header, of version 1 or 2.
    pub proxy_protocol: bool,
    /// `sessionGraceSecs`: how long a session outlives its connection, 0–86,400 s; 60 s unless given.
    pub session_grace: Duration,
    /// `ticketMaxAgeSecs`: how long after a full handshake a session can be resumed, 60–2,592,000 s; a day unless
    /// given.
    pub ticket_max_age: Duration,
    /// `auth`: who decides which clients come in; the list once `clients` is given, the program once `authenticate` is,
    /// else nobody.
    pub auth: Auth,
    /// `clients`: those that are registered.
    pub clients: Vec<RegisteredClient>,
    /// `authenticateTimeoutMs`: how long `authenticate` may take, 100–9,000 ms; 5 s unless given.
    pub authenticate_timeout: Duration,
    /// `publicUrl`: where clients reach the server, for invites.
    pub public_url: Option<Endpoint>,
    /// `congestionControl`: pacing of the outer connections.
    pub congestion_control: CongestionControl,
    /// `stateDir`: where state outlives the process.
    pub state_dir: StateDir,
}

/// What a server shows in TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPem {
    /// `tlsCert`: the certificate chain, the server's own first.
    pub cert: PemSource,
    /// `tlsKey`: its private key.
    pub key: PemSource,
}

impl ServerConfig {
    /// Checks `value`; relative paths are taken from `base_dir`. PEM text is checked too, PEM files
    /// when they are read.
    ///
    /// # Errors
    ///
    /// `invalid-config` with the first field at fault and what it must be.
    pub fn parse(value: &Value, base_dir: &Path) -> Result<Self, VpnError> {
        let config = Self::read(&Field::root(value).object(&NAMES)?, base_dir)?;
        config.check_text()?;
        Ok(config)
    }

    fn read(config: &Object<'_>, base_dir: &Path) -> Result<Self, VpnError> {
        let subnet = config.required("subnet", values::subnet)?;
        let subnet6 = config.optional("subnet6", values::subnet)?;
        let trusted_proxies = config.optional("trustedProxies", values::proxies)?.unwrap_or_default();
        let keepalive = |field: &Field<'_>| field.seconds(defaults::KEEPALIVE_RANGE);
        let max_clients = |field: &Field<'_>| field.integer(1..=u32::MAX.into());
        let clients = config.optional("clients", |field| clients::list(field, subnet))?;
        let auth = auth(config, clients.is_some())?;
        let clients = clients.unwrap_or_default();
        check_clients(config, auth, &clients)?;
        Ok(Self {
            listen_addr: config.required("listenAddr", values::listen_addr)?,
            keypair: keypair(config)?,
            subnet,
            subnet6,
            tls: tls(config, base_dir)?,
            dns: config.optional("dns", values::dns)?.unwrap_or_default(),
            mtu: mtu(config, subnet6.is_some())?,
            keepalive_interval: config
                .optional("keepaliveIntervalSecs", keepalive)?
                .unwrap_or(defaults::KEEPALIVE_INTERVAL),
            enable_nat: config.optional("enableNat", Field::boolean)?.unwrap_or_default(),
            default_rate_limit: values::rate_limit(
                config,
                "defaultRateLimitBytesPerSec",
                "defaultBurstBytes",
            )?,
            max_clients: config
                .optional("maxClients", max_clients)?
                .unwrap_or_else(|| AddressPool::new(subnet, subnet6).capacity()),
            client_to_client: config.optional("clientToClient", Field::boolean)?.unwrap_or_default(),
            handshakes: handshakes(config)?,
            path: config.optional("path", path)?,
            tun_name: config.optional("tunName", values::tun_name)?,
            proxy_protocol: proxy_protocol(config, &trusted_proxies)?,
            trusted_proxies,
            session_grace: config
                .optional("sessionGraceSecs", |field| field.seconds(defaults::SESSION_GRACE_RANGE))?
                .unwrap_or(defaults::SESSION_GRACE),
            ticket_max_age: config
                .optional("ticketMaxAgeSecs", |field| field.seconds(defaults::TICKET_MAX_AGE_RANGE))?
                .unwrap_or(defaults::TICKET_MAX_AGE),
            auth,
            clients,
            authenticate_timeout: config
                .optional("authenticateTimeoutMs", |field| {
                    field.millis(defaults::AUTHENTICATE_TIMEOUT_RANGE)
                })?
                .unwrap_or(defaults::AUTHENTICATE_TIMEOUT),
            public_url: config.optional("publicUrl", values::server_url)?,
            congestion_control: config
                .optional("congestionControl", values::congestion_control)?
                .unwrap_or_default(),
            state_dir: config
                .optional("stateDir", |field| values::state_dir(field, base_dir))?
                .unwrap_or_default(),
        })
    }

    /// The keepalive interval in whole seconds, as the hello has it: 5–120.
    pub fn keepalive_interval_secs(&self) -> u16 {
        self.keepalive_interval.as_secs() as u16
    }
}

/// The header is believed of trusted proxies only: without any, nobody could send one.
fn proxy_protocol(config: &Object<'_>, trusted: &[IpNet]) -> Result<bool, VpnError> {
    let wanted = config.optional("proxyProtocol", Field::boolean)?.unwrap_or_default();
    if wanted && trusted.is_empty() {
        return Err(config.field("proxyProtocol").refuse("needs trustedProxies beside it"));
    }
    Ok(wanted)
}

/// `authenticate` is a function, which JSON cannot say: who holds one puts `true` in its place.
fn auth(config: &Object<'_>, has_list: bool) -> Result<Auth, VpnError> {
    const MUST: &str = "must be \"open\", \"registered\" or \"callback\"";
    let callback = config.optional("authenticate", |field| match field.value() {
        Some(Value::Bool(true)) => Ok(()),
        _ => Err(field.refuse_unseen("must be a function, which a server in this process can call")),
    })?;
    let auth = config.optional("auth", |field| match field.string(MUST)? {
        "open" => Ok(Auth::Open),
        "registered" => Ok(Auth::Registered),
        "callback" => Ok(Auth::Callback),
        _ => Err(field.refuse(MUST)),
    })?;
    match (auth, callback) {
        (Some(Auth::Callback) | None, Some(())) => Ok(Auth::Callback),
        (Some(_), Some(())) => {
            Err(config.field("auth").refuse("must be \"callback\" where authenticate is given"))
        }
        (Some(Auth::Callback), None) => {
            Err(config.field("authenticate").refuse_unseen("must be given where auth is \"callback\""))
        }
        (Some(auth), None) => Ok(auth),
        (None, None) => Ok(if has_list { Auth::Registered } else { Auth::Open }),
    }
}

/// Each client by itself is good; they must go together.
fn check_clients(config: &Object<'_>, auth: Auth, clients: &[RegisteredClient]) -> Result<(), VpnError> {
    match Registry::new(auth, clients) {
        Ok(_) => Ok(()),
        Err((index, error)) => Err(config.field("clients").refuse_entry(index, error)),
    }
}

fn handshakes(config: &Object<'_>) -> Result<GateRules, VpnError> {
    let integer = |name, default| {
        let value = config.optional(name, |field| field.integer(defaults::HANDSHAKES_RANGE))?;
        // Within u32, as the range is.
        Ok::<_, VpnError>(value.map_or(default, |value| value as u32))
    };
    Ok(GateRules {
        per_second: integer("handshakesPerSecond", defaults::HANDSHAKES_PER_SECOND)?,
        burst: integer("handshakeBurst", defaults::HANDSHAKE_BURST)?,
    })
}

fn keypair(config: &Object<'_>) -> Result<Keypair, VpnError> {
    let pair = Keypair::from(config.required("privateKey", values::private_key)?);
    let public = config.field("publicKey");
    if values::public_key(&public)? == pair.public {
        Ok(pair)
    } else {
        let must = format!("must belong to privateKey, whose public key is {}", pair.public);
        // The two may have been taken for each other.
        Err(public.refuse_unseen(must))
    }
}

fn tls(config: &Object<'_>, base_dir: &Path) -> Result<Option<TlsPem>, VpnError> {
    let pem = |field: &Field<'_>| values::pem(field, base_dir);
    let (cert, key) = (config.optional("tlsCert", pem)?, config.optional("tlsKey", pem)?);
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsPem { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(config.field("tlsKey").refuse_unseen("must be given together with tlsCert")),
        (None, Some(_)) => Err(config.field("tlsCert").refuse_unseen("must be given together with tlsKey")),
    }
}

fn mtu(config: &Object<'_>, with_ipv6: bool) -> Result<u16, VpnError> {
    let mtu = config.optional("mtu", values::mtu)?.unwrap_or(defaults::MTU);
    if with_ipv6 && mtu < defaults::MTU_MIN_IPV6 {
        let must = format!("must be at least {} where subnet6 is given", defaults::MTU_MIN_IPV6);
        return Err(config.field("mtu").refuse(must));
    }
    Ok(mtu)
}

/// A path as it stands in a request line, so that it can be compared as it is.
fn path(field: &Field<'_>) -> Result<String, VpnError> {
    values::text(
        field,
        "must be a URL path: it begins with / and has no query, fragment, space or other special character",
        |path| {
            path.starts_with('/')
                && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}[]".contains(&byte))
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorCode;

    /// RFC 7748 §6.1: Alice's keys, and Bob's public one.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const OTHER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";

    /// The least there is, with `more` over it.
    fn with(more: &Value) -> Value {
        let mut config = json!({
            "listenAddr": "0.0.0.0:443", "privateKey": PRIVATE, "publicKey": PUBLIC, "subnet": "10.8.0.0/24",
        });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    fn parse(more: &Value) -> Result<ServerConfig, VpnError> {
        ServerConfig::parse(&with(more), Path::new("/etc/smartvpn"))
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = parse(&json!({})).unwrap();
        assert_eq!(config.listen_addr, "0.0.0.0:443");
        assert_eq!(config.keypair.public.to_string(), PUBLIC);
        assert_eq!(config.subnet.to_string(), "10.8.0.0/24");
        assert_eq!((config.subnet6, config.tls), (None, None));
        assert!(config.dns.is_empty() && config.trusted_proxies.is_empty());
        assert_eq!((config.mtu, config.keepalive_interval), (1420, Duration::from_secs(30)));
        assert_eq!(
            (config.enable_nat, config.client_to_client, config.proxy_protocol),
            (false, false, false)
        );
        assert_eq!((config.max_clients, config.path, config.tun_name), (253, None, None));
        assert_eq!(config.handshakes, GateRules { per_second: 50, burst: 400 });
        assert_eq!(config.congestion_control, CongestionControl::Auto);
        assert_eq!(config.state_dir, StateDir::Default);
    }

    #[test]
    fn every_field_is_read() {
        let config = parse(&json!({
            "listenAddr": "[::]:0",
            "subnet6": "fd00::/64",
            "tlsCert": "cert.pem",
            "tlsKey": "/etc/key.pem",
            "dns": ["10.8.0.1"],
            "mtu": 1280,
            "keepaliveIntervalSecs": 120,
            "enableNat": true,
            "maxClients": 1,
            "handshakesPerSecond": 100_000,
            "handshakeBurst": 1,
            "clientToClient": true,
            "path": "/tunnel",
            "tunName": "vpn0",
            "trustedProxies": ["127.0.0.1", "10.0.0.0/8"],
            "proxyProtocol": true,
            "sessionGraceSecs": 0,
            "congestionControl": "system",
            "stateDir": "state",
        }))
        .unwrap();
        assert_eq!(config.listen_addr, "[::]:0");
        assert_eq!(config.subnet6.unwrap().to_string(), "fd00::/64");
        let tls = config.tls.clone().unwrap();
        assert_eq!(tls.cert, PemSource::File("/etc/smartvpn/cert.pem".into()));
        assert_eq!(tls.key, PemSource::File("/etc/key.pem".into()));
        assert_eq!(config.dns, [IpAddr::from([10, 8, 0, 1])]);
        assert_eq!((config.mtu, config.keepalive_interval_secs()), (1280, 120));
        assert_eq!((config.enable_nat, config.client_to_client), (true, true));
        assert_eq!((config.max_clients, config.path.as_deref()), (1, Some("/tunnel")));
        assert_eq!(config.handshakes, GateRules { per_second: 100_000, burst: 1 });
        assert_eq!(config.tun_name.as_deref(), Some("vpn0"));
        assert_eq!((config.trusted_proxies.len(), config.proxy_protocol), (2, true));
        assert_eq!(config.congestion_control, CongestionControl::System);
        assert_eq!(config.state_dir, StateDir::At("/etc/smartvpn/state".into()));
    }

    #[test]
    fn as_many_clients_as_the_smaller_subnet_holds() {
        assert_eq!(parse(&json!({ "subnet6": "fd00::/125" })).unwrap().max_clients, 6);
        assert_eq!(parse(&json!({ "subnet": "10.0.0.0/8" })).unwrap().max_clients, (1 << 24) - 3);
    }

    #[test]
    fn the_public_key_must_belong_to_the_private_one() {
        let error = parse(&json!({ "publicKey": OTHER })).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("publicKey"));
        assert!(error.message.contains(PUBLIC), "{}", error.message);
    }

    #[test]
    fn certificate_and_key_come_together() {
        let error = parse(&json!({ "tlsCert": "cert.pem" })).unwrap_err();
        assert_eq!(error.message, "tlsKey must be given together with tlsCert, but it is missing");
        let error = parse(&json!({ "tlsKey": "key.pem" })).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("tlsCert"));
    }

    #[test]
    fn ipv6_needs_its_least_mtu() {
        assert!(parse(&json!({ "mtu": 1279 })).is_ok());
        let error = parse(&json!({ "mtu": 1279, "subnet6": "fd00::/64" })).unwrap_err();
        assert_eq!(error.message, "mtu must be at least 1280 where subnet6 is given, not 1279");
    }

    #[test]
    fn refusals_name_the_field() {
        let table = [
            (json!({ "listenAddr": "443" }), "listenAddr"),
            (json!({ "privateKey": "x" }), "privateKey"),
            (json!({ "publicKey": "x" }), "publicKey"),
            (json!({ "subnet": "10.8.0.1/24" }), "subnet"),
            (json!({ "subnet": "fd00::/64" }), "subnet"),
            (json!({ "subnet6": "10.8.0.0/24" }), "subnet6"),
            (json!({ "tlsCert": 1, "tlsKey": "k" }), "tlsCert"),
            (json!({ "dns": ["x"] }), "dns[0]"),
            (json!({ "mtu": "1420" }), "mtu"),
            (json!({ "keepaliveIntervalSecs": 0 }), "keepaliveIntervalSecs"),
            (json!({ "enableNat": 1 }), "enableNat"),
            (json!({ "maxClients": 0 }), "maxClients"),
            (json!({ "handshakesPerSecond": 0 }), "handshakesPerSecond"),
            (json!({ "handshakeBurst": 100_001 }), "handshakeBurst"),
            (json!({ "clientToClient": "yes" }), "clientToClient"),
            (json!({ "path": "tunnel" }), "path"),
            (json!({ "path": "/a?b" }), "path"),
            (json!({ "path": "/a b" }), "path"),
            (json!({ "path": "/é" }), "path"),
            (json!({ "tunName": ".." }), "tunName"),
            (json!({ "trustedProxies": ["10.0.0.1/8"] }), "trustedProxies[0]"),
            (json!({ "proxyProtocol": "v2", "trustedProxies": ["10.0.0.1"] }), "proxyProtocol"),
            (json!({ "proxyProtocol": true }), "proxyProtocol"),
            (json!({ "proxyProtocol": true, "trustedProxies": [] }), "proxyProtocol"),
            (json!({ "sessionGraceSecs": 86_401 }), "sessionGraceSecs"),
            (json!({ "ticketMaxAgeSecs": 59 }), "ticketMaxAgeSecs"),
            (json!({ "congestionControl": null }), "congestionControl"),
            (json!({ "stateDir": 1 }), "stateDir"),
            (json!({ "enableNAT": true }), "enableNAT"),
        ];
        for (more, path) in table {
            let error = parse(&more).unwrap_err();
            assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some(path)), "{more}");
            assert!(error.message.contains(path), "{}", error.message);
        }
    }

    #[test]
    fn what_is_required_must_be_there() {
        for name in ["listenAddr", "privateKey", "publicKey", "subnet"] {
            let mut config = with(&json!({}));
            config.as_object_mut().unwrap().remove(name);
            let error = ServerConfig::parse(&config, Path::new("/")).unwrap_err();
            assert_eq!(error.path.as_deref(), Some(name));
            assert!(error.message.ends_with(", but it is missing"), "{}", error.message);
        }
    }

    #[test]
    fn later_options_are_told_apart_from_mistakes() {
        for name in NAMES.later {
            let error = parse(&json!({ *name: 1 })).unwrap_err();
            assert!(error.message.starts_with(&format!("{name} is not supported")), "{}", error.message);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = parse(&json!({ "tlsCert": "cert.pem", "tlsKey": PEM })).unwrap();
        let printed = format!("{config:?}");
        assert!(!printed.contains(PRIVATE) && !printed.contains("hunter2"), "{printed}");
        let error = parse(&json!({ "privateKey": &PRIVATE[1..] })).unwrap_err();
        assert!(!format!("{error:?}").contains(&PRIVATE[1..]));
    }

    proptest::proptest! {
        #[test]
        fn any_value_of_any_field_is_taken_or_refused_with_a_name(
            field in 0..NAMES.known.len(), text in "\\PC{0,20}", number: i64, kind in 0..6_u8
        ) {
            let name = NAMES.known[field];
            let value = [json!(text), json!(number), json!(number as f64), json!([text, number]), json!({ text: number }), json!(null)];
            if let Err(error) = parse(&json!({ name: value[usize::from(kind)] })) {
                proptest::prop_assert_eq!(error.code, ErrorCode::InvalidConfig);
                // Or that of one that goes with it.
                proptest::prop_assert!(error.path.is_some_and(|path| !path.is_empty()));
            }
        }
    }
}
