//! `IVpnClientConfig` (API §2).

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::defaults;
use super::field::{Field, Names, Object};
use super::proxy::ProxyChoice;
use super::values::{self, PemSource, StateDir};
use crate::codec::hello::is_client_name;
use crate::codec::secret::Token;
use crate::crypto::keys::{Keypair, PublicKey};
use crate::error::VpnError;
use crate::transport::{CongestionControl, Endpoint, Proxy};

static NAMES: Names = Names {
    known: &[
        "serverUrl",
        "serverPublicKey",
        "privateKey",
        "token",
        "dns",
        "mtu",
        "keepaliveIntervalSecs",
        "routes",
        "tunName",
        "tlsCa",
        "proxy",
        "name",
        "connectTimeoutMs",
        "congestionControl",
        "stateDir",
        "reconnect",
    ],
    later: &[],
};

static RECONNECT_NAMES: Names = Names { known: &["baseDelayMs", "maxDelayMs", "maxAttempts"], later: &[] };

/// A client's configuration, checked.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `serverUrl`, required: where the server is.
    pub server_url: Endpoint,
    /// `serverPublicKey`, required: the key the server must prove to hold.
    pub server_public_key: PublicKey,
    /// `privateKey`: what the client proves to be it by, with the public key that belongs to it; without one it is
    /// nobody in particular.
    pub identity: Option<Arc<Keypair>>,
    /// `token`: what the server may ask for besides, 1–4,096 printable ASCII characters.
    pub token: Option<Token>,
    /// `dns`: resolvers for the tunnel, at most 8; `None`: the server's.
    pub dns: Option<Vec<IpAddr>>,
    /// `mtu`: the longest packet wanted in the tunnel, 576–65,535 bytes, 1,420 unless given; the
    /// smaller of both ends' holds.
    pub mtu: u16,
    /// `keepaliveIntervalSecs`: the interval until the link's health is known, 5–120 s; `None`: the
    /// server's.
    pub keepalive_interval: Option<Duration>,
    /// `routes`: networks to send into the tunnel besides the VPN's subnet.
    pub routes: Vec<IpNet>,
    /// `tunName`: the interface's name; `None`: the first free one.
    pub tun_name: Option<String>,
    /// `tlsCa`: the authority trusted instead of the system's.
    pub tls_ca: Option<PemSource>,
    /// `proxy`: the HTTP proxy to go through, `http://[user:password@]host:port`; `""` is none, and the
    /// environment's is asked for unless given.
    pub proxy: ProxyChoice,
    /// `name`: the label shown on the server, at most 64 characters.
    pub name: Option<String>,
    /// `connectTimeoutMs`: what one attempt to connect may take, up to 10 min, 15 s unless given.
    pub connect_timeout: Duration,
    /// `congestionControl`: pacing of the outer connection.
    pub congestion_control: CongestionControl,
    /// `stateDir`: where state outlives the process.
    pub state_dir: StateDir,
    /// `reconnect`: how a lost tunnel is taken up again, which it is unless `false` is given (`None`).
    pub reconnect: Option<Reconnect>,
}

/// `reconnect`: the random delays between attempts to take up the tunnel again. Their bound doubles
/// from one attempt to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// `baseDelayMs`: the bound of the first delay, up to a day, 250 ms unless given.
    pub base_delay: Duration,
    /// `maxDelayMs`: the largest bound, up to a day and at least the first, 30 s unless given.
    pub max_delay: Duration,
    /// `maxAttempts`: attempts in a row before giving up, at least 1; `None`: without limit.
    pub max_attempts: Option<u32>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            base_delay: defaults::RECONNECT_BASE,
            max_delay: defaults::RECONNECT_MAX,
            max_attempts: defaults::RECONNECT_ATTEMPTS,
        }
    }
}

impl ClientConfig {
    /// The proxy to go through, if any. Where the configuration says nothing, the environment of this process
    /// is read now.
    ///
    /// # Errors
    ///
    /// `invalid-config` if the environment's is none that can be used.
    pub fn proxy_in_force(&self) -> Result<Option<Proxy>, VpnError> {
        self.proxy.in_force(&self.server_url)
    }

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
        let keepalive = |field: &Field<'_>| field.seconds(defaults::KEEPALIVE_RANGE);
        let timeout = |field: &Field<'_>| field.millis(defaults::CONNECT_TIMEOUT_RANGE);
        Ok(Self {
            server_url: config.required("serverUrl", values::server_url)?,
            server_public_key: config.required("serverPublicKey", values::public_key)?,
            identity: config.optional("privateKey", values::private_key)?.map(|key| Arc::new(key.into())),
            token: config.optional("token", values::token)?,
            dns: config.optional("dns", values::dns)?,
            mtu: config.optional("mtu", values::mtu)?.unwrap_or(defaults::MTU),
            keepalive_interval: config.optional("keepaliveIntervalSecs", keepalive)?,
            routes: config.optional("routes", values::routes)?.unwrap_or_default(),
            tun_name: config.optional("tunName", values::tun_name)?,
            tls_ca: config.optional("tlsCa", |field| values::pem(field, base_dir))?,
            proxy: config.optional("proxy", values::proxy)?.unwrap_or_default(),
            name: config.optional("name", name)?,
            connect_timeout: config
                .optional("connectTimeoutMs", timeout)?
                .unwrap_or(defaults::CONNECT_TIMEOUT),
            congestion_control: config
                .optional("congestionControl", values::congestion_control)?
                .unwrap_or_default(),
            state_dir: config
                .optional("stateDir", |field| values::state_dir(field, base_dir))?
                .unwrap_or_default(),
            reconnect: config.optional("reconnect", reconnect)?.unwrap_or(Some(Reconnect::default())),
        })
    }
}

fn name(field: &Field<'_>) -> Result<String, VpnError> {
    values::text(field, "must be a text of at most 64 characters, without control characters", is_client_name)
}

fn reconnect(field: &Field<'_>) -> Result<Option<Reconnect>, VpnError> {
    let config = match field.value() {
        Some(Value::Bool(again)) => return Ok(again.then(Reconnect::default)),
        Some(Value::Object(_)) => field.object(&RECONNECT_NAMES)?,
        _ => return Err(field.refuse("must be true, false or an object")),
    };
    let delay = |field: &Field<'_>| field.millis(defaults::RECONNECT_RANGE);
    let attempts = |field: &Field<'_>| field.integer(1..=u32::MAX.into());
    let base_delay = config.optional("baseDelayMs", delay)?.unwrap_or(defaults::RECONNECT_BASE);
    let max_delay = config.optional("maxDelayMs", delay)?.unwrap_or(defaults::RECONNECT_MAX);
    if max_delay < base_delay {
        let must = format!("must be at least baseDelayMs, which is {}", base_delay.as_millis());
        return Err(config.field("maxDelayMs").refuse_unseen(must));
    }
    // The range ends where u32 does.
    let max_attempts = config.optional("maxAttempts", attempts)?.map(|attempts| attempts as u32);
    Ok(Some(Reconnect { base_delay, max_delay, max_attempts }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorCode;
    use crate::transport::Proxy;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    /// The least there is, with `more` over it.
    fn with(more: &Value) -> Value {
        let mut config = json!({ "serverUrl": "wss://vpn.example.org/tunnel", "serverPublicKey": KEY });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    fn parse(more: &Value) -> Result<ClientConfig, VpnError> {
        ClientConfig::parse(&with(more), Path::new("/etc/smartvpn"))
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = parse(&json!({})).unwrap();
        assert_eq!(config.server_url.to_string(), "wss://vpn.example.org/tunnel");
        assert_eq!(config.server_public_key.to_string(), KEY);
        assert!(config.identity.is_none() && config.token.is_none());
        assert_eq!((config.dns, config.mtu, config.keepalive_interval), (None, 1420, None));
        assert!(config.routes.is_empty());
        assert_eq!((config.tun_name, config.tls_ca, config.name), (None, None, None));
        assert_eq!(config.proxy, ProxyChoice::Environment);
        assert_eq!(config.connect_timeout, Duration::from_secs(15));
        assert_eq!(config.congestion_control, CongestionControl::Auto);
        assert_eq!(config.state_dir, StateDir::Default);
        let reconnect = config.reconnect.unwrap();
        assert_eq!(reconnect.base_delay, Duration::from_millis(250));
        assert_eq!(reconnect.max_delay, Duration::from_secs(30));
        assert_eq!(reconnect.max_attempts, None);
    }

    #[test]
    fn every_field_is_read() {
        let config = parse(&json!({
            "privateKey": PRIVATE,
            "token": "t0ken!",
            "dns": ["1.1.1.1", "2606:4700::1111"],
            "mtu": 1280,
            "keepaliveIntervalSecs": 5,
            "routes": ["0.0.0.0/0", "fd00::/8"],
            "tunName": "vpn0",
            "tlsCa": "ca.pem",
            "proxy": "http://me:secret@proxy.example.org:3128",
            "name": "Zoë's laptop",
            "connectTimeoutMs": 500,
            "congestionControl": "system",
            "stateDir": null,
            "reconnect": { "baseDelayMs": 100, "maxDelayMs": 100, "maxAttempts": 3 },
        }))
        .unwrap();
        assert_eq!(config.identity.unwrap().public, KEY.parse().unwrap());
        assert_eq!(config.token, Token::new("t0ken!".into()));
        assert_eq!(config.dns.unwrap().len(), 2);
        assert_eq!((config.mtu, config.keepalive_interval), (1280, Some(Duration::from_secs(5))));
        assert_eq!(config.routes.len(), 2);
        assert_eq!(config.tun_name.as_deref(), Some("vpn0"));
        assert_eq!(config.tls_ca, Some(PemSource::File("/etc/smartvpn/ca.pem".into())));
        let proxy = Proxy::parse("http://me:secret@proxy.example.org:3128").unwrap();
        assert_eq!(config.proxy, ProxyChoice::Through(proxy));
        assert_eq!(config.name.as_deref(), Some("Zoë's laptop"));
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.congestion_control, CongestionControl::System);
        assert_eq!(config.state_dir, StateDir::Nothing);
        let delay = Duration::from_millis(100);
        let reconnect = Reconnect { base_delay: delay, max_delay: delay, max_attempts: Some(3) };
        assert_eq!(config.reconnect, Some(reconnect));
    }

    #[test]
    fn reconnecting_is_a_switch_or_an_object() {
        let reconnect = |value: Value| parse(&json!({ "reconnect": value })).unwrap().reconnect;
        assert_eq!(reconnect(json!(false)), None);
        assert_eq!(reconnect(json!(true)), Some(Reconnect::default()));
        assert_eq!(reconnect(json!({})), Some(Reconnect::default()));
        let some = reconnect(json!({ "maxAttempts": 1 })).unwrap();
        assert_eq!(some, Reconnect { max_attempts: Some(1), ..Reconnect::default() });
    }

    #[test]
    fn an_empty_proxy_is_none_whatever_the_environment_has() {
        let config = parse(&json!({ "proxy": "" })).unwrap();
        assert_eq!(config.proxy, ProxyChoice::Nothing);
        assert_eq!(config.proxy_in_force().unwrap(), None);
    }

    #[test]
    fn the_password_of_a_proxy_is_not_printed() {
        let proxy = |url: &str| parse(&json!({ "proxy": url }));
        let printed = format!("{:?}", proxy("http://me:hunter2@proxy.example.org:3128").unwrap());
        assert!(printed.contains("proxy.example.org:3128") && !printed.contains("hunter2"), "{printed}");
        for url in ["https://me:hunter2@h:1", "http://me:hunter2@h", "hunter2"] {
            let error = proxy(url).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let error = proxy("socks5://h:1").unwrap_err();
        let told = "proxy must begin with http://: proxies over TLS (https://) and SOCKS are not supported";
        assert_eq!(error.message, told);
    }

    #[test]
    fn an_empty_list_of_resolvers_is_not_the_servers() {
        assert_eq!(parse(&json!({ "dns": [] })).unwrap().dns, Some(vec![]));
    }

    #[test]
    fn refusals_name_the_field() {
        let table = [
            (json!({ "serverUrl": 1 }), "serverUrl"),
            (json!({ "serverUrl": "https://vpn.example.org" }), "serverUrl"),
            (json!({ "serverPublicKey": "x" }), "serverPublicKey"),
            (json!({ "serverPublicKey": KEY.trim_end_matches('=') }), "serverPublicKey"),
            (json!({ "privateKey": KEY.trim_end_matches('=') }), "privateKey"),
            (json!({ "privateKey": null }), "privateKey"),
            (json!({ "token": "" }), "token"),
            (json!({ "token": "a b" }), "token"),
            (json!({ "token": "x".repeat(4097) }), "token"),
            (json!({ "dns": "1.1.1.1" }), "dns"),
            (json!({ "dns": ["1.1.1.1", "1.1.1"] }), "dns[1]"),
            (json!({ "mtu": 575 }), "mtu"),
            (json!({ "mtu": 65536 }), "mtu"),
            (json!({ "mtu": null }), "mtu"),
            (json!({ "keepaliveIntervalSecs": 4 }), "keepaliveIntervalSecs"),
            (json!({ "keepaliveIntervalSecs": 121 }), "keepaliveIntervalSecs"),
            (json!({ "routes": ["0.0.0.0/0", "::/0", "10.0.0.1/8"] }), "routes[2]"),
            (json!({ "routes": { "0": "::/0" } }), "routes"),
            (json!({ "tunName": "sixteen-letters!" }), "tunName"),
            (json!({ "tunName": "" }), "tunName"),
            (json!({ "tlsCa": "" }), "tlsCa"),
            (json!({ "proxy": "https://proxy.example.org:3128" }), "proxy"),
            (json!({ "proxy": "proxy.example.org:3128" }), "proxy"),
            (json!({ "proxy": "http://proxy.example.org" }), "proxy"),
            (json!({ "proxy": null }), "proxy"),
            (json!({ "name": "a\nb" }), "name"),
            (json!({ "name": "x".repeat(65) }), "name"),
            (json!({ "connectTimeoutMs": 0 }), "connectTimeoutMs"),
            (json!({ "connectTimeoutMs": 600_001 }), "connectTimeoutMs"),
            (json!({ "congestionControl": "cubic" }), "congestionControl"),
            (json!({ "stateDir": "" }), "stateDir"),
            (json!({ "reconnect": 3 }), "reconnect"),
            (json!({ "reconnect": { "baseDelayMs": 0 } }), "reconnect.baseDelayMs"),
            (json!({ "reconnect": { "baseDelayMs": 30_001 } }), "reconnect.maxDelayMs"),
            (json!({ "reconnect": { "maxAttempts": 0 } }), "reconnect.maxAttempts"),
            (json!({ "reconnect": { "attempts": 1 } }), "reconnect.attempts"),
            (json!({ "sreverUrl": "" }), "sreverUrl"),
        ];
        for (more, path) in table {
            let error = parse(&more).unwrap_err();
            assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some(path)), "{more}");
            assert!(error.message.contains(path), "{}", error.message);
        }
    }

    #[test]
    fn what_is_required_must_be_there() {
        let base = Path::new("/");
        for (missing, value) in [
            ("serverUrl", json!({ "serverPublicKey": KEY })),
            ("serverPublicKey", json!({ "serverUrl": "wss://vpn.example.org" })),
        ] {
            let error = ClientConfig::parse(&value, base).unwrap_err();
            assert_eq!(error.path.as_deref(), Some(missing));
            assert!(error.message.ends_with(", but it is missing"), "{}", error.message);
        }
    }

    #[test]
    fn keys_and_tokens_are_not_printed() {
        let printed = format!("{:?}", parse(&json!({ "privateKey": PRIVATE, "token": "hunter2" })).unwrap());
        assert!(!printed.contains(PRIVATE) && !printed.contains("hunter2"), "{printed}");
        for (field, secret) in [("privateKey", "hunter2"), ("token", "hunter2 or 3"), ("token", "hünter2")] {
            let error = parse(&json!({ field: secret })).unwrap_err();
            assert!(error.message.starts_with(&format!("{field} must be ")), "{}", error.message);
            assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_value_of_any_field_is_taken_or_refused_by_its_name(
            field in 0..NAMES.known.len(), text in "\\PC{0,20}", number: i64, kind in 0..6_u8
        ) {
            let name = NAMES.known[field];
            let value = [json!(text), json!(number), json!(number as f64), json!([text, number]), json!({ text: number }), json!(null)];
            if let Err(error) = parse(&json!({ name: value[usize::from(kind)] })) {
                let path = error.path.unwrap_or_default();
                proptest::prop_assert!(path.starts_with(name), "{path:?} is refused for {name}");
            }
        }
    }
}
