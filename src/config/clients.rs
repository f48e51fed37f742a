//! Registered clients as JSON (API §9): in a server's configuration, in calls, and in what a program's `authenticate`
//! answers.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::field::{Field, Names, Object};
use super::values;
use crate::addr::Subnet;
use crate::codec::hello::{is_client_id, is_client_name};
use crate::error::{ErrorCode, VpnError};
use crate::qos::RateLimit;
use crate::session::registry::{CLIENTS_MAX, RegisteredClient, SESSIONS_MAX};
use crate::transport::Endpoint;

static NAMES: Names = Names {
    known: &[
        "id",
        "publicKey",
        "name",
        "assignedIp",
        "rateLimitBytesPerSec",
        "burstBytes",
        "expiresAt",
        "maxSessions",
        "disabled",
    ],
    later: &[],
};

static DECISION_NAMES: Names = Names {
    known: &["clientId", "name", "assignedIp", "rateLimitBytesPerSec", "burstBytes", "maxSessions"],
    later: &[],
};

static INVITE_NAMES: Names = Names { known: &["name", "expiresInSecs", "uses", "serverUrl"], later: &[] };

/// How long an invite is good unless told otherwise: long enough to be read tomorrow.
const INVITE_LIFETIME: Duration = Duration::from_secs(86_400);

/// `expiresInSecs`: from a minute, as somebody has to type, to a year.
const INVITE_SECS: RangeInclusive<u64> = 60..=31_536_000;

/// `uses`: up to a company's devices.
const INVITE_USES: RangeInclusive<u64> = 1..=1_000;

/// What a program's `authenticate` says of a client that it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `clientId`, required: who it is. Connections of one id take each other's place.
    pub client_id: String,
    /// `name`: the label for people, instead of the client's own.
    pub name: Option<String>,
    /// `assignedIp`: the address that it is to have.
    pub assigned_ip: Option<Ipv4Addr>,
    /// `rateLimitBytesPerSec` and `burstBytes`; the server's default unless given.
    pub limit: Option<RateLimit>,
    /// `maxSessions`: sessions side by side, 1–32, 1 unless given.
    pub max_sessions: u32,
}

impl Decision {
    /// Reads an answer of `authenticate`.
    ///
    /// # Errors
    ///
    /// `invalid-config` with the member at fault.
    pub fn parse(answer: &Value, subnet: Subnet<Ipv4Addr>) -> Result<Self, VpnError> {
        let decision = Field::root(answer).object(&DECISION_NAMES)?;
        Ok(Self {
            client_id: decision.required("clientId", id)?,
            name: decision.optional("name", name)?,
            assigned_ip: decision.optional("assignedIp", |field| assigned_ip(field, subnet))?,
            limit: values::rate_limit(&decision, "rateLimitBytesPerSec", "burstBytes")?,
            max_sessions: decision.optional("maxSessions", max_sessions)?.unwrap_or(1),
        })
    }
}

/// What `createInvite` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteOptions {
    /// `name`: the label of clients that come by it, unless they bring their own.
    pub name: Option<String>,
    /// `expiresInSecs`: 60 s to a year; a day unless given.
    pub expires_in: Duration,
    /// `uses`: clients that may come by it, 1–1,000; one unless given.
    pub uses: u32,
    /// `serverUrl`: where they reach the server; the server's `publicUrl` unless given.
    pub server_url: Option<Endpoint>,
}

impl InviteOptions {
    /// Reads the parameters; none at all are fine.
    ///
    /// # Errors
    ///
    /// `invalid-argument` with the member at fault.
    pub fn parse(options: &Value) -> Result<Self, VpnError> {
        let nothing = json!({});
        let options = if options.is_null() { &nothing } else { options };
        let read = || {
            let options = Field::root(options).object(&INVITE_NAMES)?;
            let expires_in = options.optional("expiresInSecs", |field| field.seconds(INVITE_SECS))?;
            // The range ends far below u32's.
            let uses =
                options.optional("uses", |field| field.integer(INVITE_USES).map(|uses| uses as u32))?;
            Ok(Self {
                name: options.optional("name", name)?,
                expires_in: expires_in.unwrap_or(INVITE_LIFETIME),
                uses: uses.unwrap_or(1),
                server_url: options.optional("serverUrl", values::server_url)?,
            })
        };
        read().map_err(as_argument)
    }
}

/// The field `clients`.
pub(super) fn list(field: &Field<'_>, subnet: Subnet<Ipv4Addr>) -> Result<Vec<RegisteredClient>, VpnError> {
    let must = format!("must be a list of at most {CLIENTS_MAX} clients");
    let clients = field.list(&must, |entry| read(&entry.object(&NAMES)?, subnet))?;
    if clients.len() > CLIENTS_MAX { Err(field.refuse(must)) } else { Ok(clients) }
}

/// Reads the client that `addClient` is given.
///
/// # Errors
///
/// `invalid-argument` with the member at fault.
pub fn parse_client(client: &Value, subnet: Subnet<Ipv4Addr>) -> Result<RegisteredClient, VpnError> {
    let read = || read(&Field::root(client).object(&NAMES)?, subnet);
    read().map_err(as_argument)
}

/// Reads what `updateClient` is given: members that replace those of `client`, `null` to leave one out.
///
/// # Errors
///
/// `invalid-argument` with the member at fault.
pub fn changed_client(
    client: &RegisteredClient,
    changes: &Value,
    subnet: Subnet<Ipv4Addr>,
) -> Result<RegisteredClient, VpnError> {
    let changes = Field::root(changes).object(&NAMES).map_err(as_argument)?;
    let mut merged = to_map(client);
    for (name, value) in changes.members() {
        // A burst without its rate is nothing.
        if name == "rateLimitBytesPerSec" {
            merged.remove("burstBytes");
        }
        match value {
            Value::Null => merged.remove(name),
            value => merged.insert(name.clone(), value.clone()),
        };
    }
    if merged.get("id").and_then(Value::as_str) != Some(&client.id) {
        let message = "id cannot be changed; remove the client and add it anew";
        return Err(VpnError::new(ErrorCode::InvalidArgument, message));
    }
    parse_client(&Value::Object(merged), subnet)
}

/// `IVpnRegisteredClient` without what changes by itself.
pub fn to_map(client: &RegisteredClient) -> Map<String, Value> {
    let RegisteredClient { id, public_key, name, assigned_ip, limit, expires_at, max_sessions, disabled } =
        client;
    let members = [
        ("id", Some(json!(id))),
        ("publicKey", Some(json!(public_key.to_string()))),
        ("name", name.as_ref().map(|name| json!(name))),
        ("assignedIp", assigned_ip.map(|addr| json!(addr))),
        ("rateLimitBytesPerSec", limit.map(|(rate, _)| json!(rate))),
        ("burstBytes", limit.map(|(_, burst)| json!(burst))),
        ("expiresAt", expires_at.map(|at| json!(iso(at)))),
        ("maxSessions", Some(json!(max_sessions))),
        ("disabled", Some(json!(disabled))),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// ISO 8601 in UTC.
pub fn iso(unix: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The end of the year 9999, beyond which ISO 8601 needs more digits.
const LAST_SECOND: u64 = 253_402_300_799;

fn read(client: &Object<'_>, subnet: Subnet<Ipv4Addr>) -> Result<RegisteredClient, VpnError> {
    let limit = values::rate_limit(client, "rateLimitBytesPerSec", "burstBytes")?;
    Ok(RegisteredClient {
        id: client.required("id", id)?,
        public_key: client.required("publicKey", values::public_key)?,
        name: client.optional("name", name)?,
        assigned_ip: client.optional("assignedIp", |field| assigned_ip(field, subnet))?,
        limit: limit.map(|limit| (limit.rate(), limit.burst())),
        expires_at: client.optional("expiresAt", time)?,
        max_sessions: client.optional("maxSessions", max_sessions)?.unwrap_or(1),
        disabled: client.optional("disabled", Field::boolean)?.unwrap_or_default(),
    })
}

fn id(field: &Field<'_>) -> Result<String, VpnError> {
    values::text(field, "must be an id: 1 to 64 of A-Z a-z 0-9 . _ -", is_client_id)
}

fn name(field: &Field<'_>) -> Result<String, VpnError> {
    values::text(field, "must be a text of at most 64 characters without control characters", is_client_name)
}

fn assigned_ip(field: &Field<'_>, subnet: Subnet<Ipv4Addr>) -> Result<Ipv4Addr, VpnError> {
    let must = format!(
        "must be a client's address of {subnet}: {} to {}",
        subnet.first_client(),
        subnet.last_client()
    );
    let addr = field.parsed(&must)?;
    if subnet.is_client(addr) { Ok(addr) } else { Err(field.refuse(must)) }
}

fn max_sessions(field: &Field<'_>) -> Result<u32, VpnError> {
    // The range ends far below u32's.
    field.integer(1..=SESSIONS_MAX.into()).map(|number| number as u32)
}

/// A moment, in Unix seconds. One with a fraction counts as the second before.
fn time(field: &Field<'_>) -> Result<u64, VpnError> {
    const MUST: &str = "must be a time in UTC, such as 2030-01-31T12:00:00Z";
    let time = humantime::parse_rfc3339(field.string(MUST)?).map_err(|_| field.refuse(MUST))?;
    time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs()).map_err(|_| field.refuse(MUST))
}

/// What a call is given is no configuration.
fn as_argument(error: VpnError) -> VpnError {
    VpnError { code: ErrorCode::InvalidArgument, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn subnet() -> Subnet<Ipv4Addr> {
        "10.8.0.0/24".parse().unwrap()
    }

    fn full() -> Value {
        json!({
            "id": "laptop", "publicKey": KEY, "name": "Ada's laptop", "assignedIp": "10.8.0.9",
            "rateLimitBytesPerSec": 125_000, "burstBytes": 70_000, "expiresAt": "2030-01-31T12:00:00Z",
            "maxSessions": 3, "disabled": true,
        })
    }

    #[test]
    fn a_client_is_read_as_it_is_written() {
        let client = parse_client(&full(), subnet()).unwrap();
        assert_eq!(client.expires_at, Some(1_896_091_200));
        assert_eq!(Value::Object(to_map(&client)), full());
        let least = parse_client(&json!({ "id": "a", "publicKey": KEY }), subnet()).unwrap();
        assert_eq!(least, RegisteredClient::new("a".into(), KEY.parse().unwrap()));
    }

    #[test]
    fn a_rate_brings_its_burst() {
        let client = json!({ "id": "a", "publicKey": KEY, "rateLimitBytesPerSec": 1_000_000 });
        assert_eq!(parse_client(&client, subnet()).unwrap().limit, Some((1_000_000, 1_000_000)));
        let client = json!({ "id": "a", "publicKey": KEY, "burstBytes": 70_000 });
        assert_eq!(parse_client(&client, subnet()).unwrap_err().path.as_deref(), Some("burstBytes"));
    }

    #[test]
    fn refusals_name_the_member() {
        let wrong = [
            ("id", json!("")),
            ("id", json!("a b")),
            ("id", json!("é")),
            ("publicKey", json!("x")),
            ("name", json!("a\nb")),
            ("assignedIp", json!("10.8.0.1")),
            ("assignedIp", json!("10.8.1.2")),
            ("assignedIp", json!("fd00::2")),
            ("rateLimitBytesPerSec", json!(1)),
            ("expiresAt", json!("tomorrow")),
            ("expiresAt", json!("1969-01-01T00:00:00Z")),
            ("maxSessions", json!(0)),
            ("maxSessions", json!(33)),
            ("disabled", json!("no")),
            ("colour", json!("red")),
        ];
        for (name, value) in wrong {
            let mut client = full();
            client[name] = value;
            let error = parse_client(&client, subnet()).unwrap_err();
            assert_eq!(
                (error.code, error.path.as_deref()),
                (ErrorCode::InvalidArgument, Some(name)),
                "{client}"
            );
        }
    }

    #[test]
    fn changes_replace_members_and_null_leaves_them_out() {
        let client = parse_client(&full(), subnet()).unwrap();
        let change = |changes: Value| changed_client(&client, &changes, subnet());
        assert_eq!(change(json!({})).unwrap(), client);
        let changed = change(json!({ "disabled": false, "expiresAt": null, "name": "x" })).unwrap();
        assert_eq!((changed.disabled, changed.expires_at, changed.name.as_deref()), (false, None, Some("x")));
        assert_eq!(change(json!({ "rateLimitBytesPerSec": null })).unwrap().limit, None);
        let faster = change(json!({ "rateLimitBytesPerSec": 10_000_000 })).unwrap();
        assert_eq!(faster.limit, Some((10_000_000, 10_000_000)));
        for wrong in [
            json!({ "id": "b" }),
            json!({ "id": null }),
            json!({ "publicKey": null }),
            json!([]),
            json!({ "x": 1 }),
        ] {
            assert_eq!(change(wrong).unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn an_invite_is_for_one_client_and_a_day_unless_told_otherwise() {
        let default = InviteOptions::parse(&Value::Null).unwrap();
        assert_eq!((default.uses, default.expires_in), (1, Duration::from_secs(86_400)));
        assert_eq!(InviteOptions::parse(&json!({})).unwrap(), default);
        let full =
            json!({ "name": "x", "expiresInSecs": 60, "uses": 2, "serverUrl": "wss://vpn.example.org/x" });
        let full = InviteOptions::parse(&full).unwrap();
        assert_eq!((full.name.as_deref(), full.uses), (Some("x"), 2));
        for (name, value) in [
            ("uses", json!(0)),
            ("expiresInSecs", json!(59)),
            ("serverUrl", json!("https://vpn.example.org")),
            ("name", json!(5)),
            ("url", json!("x")),
        ] {
            let error = InviteOptions::parse(&json!({ name: value })).unwrap_err();
            assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidArgument, Some(name)));
        }
    }

    #[test]
    fn a_decision_needs_an_id() {
        let decision =
            Decision::parse(&json!({ "clientId": "u1", "assignedIp": "10.8.0.7" }), subnet()).unwrap();
        assert_eq!((decision.client_id.as_str(), decision.assigned_ip), ("u1", Some([10, 8, 0, 7].into())));
        for wrong in
            [json!({}), json!("u1"), json!({ "clientId": 5 }), json!({ "clientId": "u1", "ip": "10.8.0.7" })]
        {
            assert!(Decision::parse(&wrong, subnet()).is_err(), "{wrong}");
        }
    }
}
