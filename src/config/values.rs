//! The kinds of values that both configurations hold, and how each is read.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::defaults;
use super::field::{Field, Object};
use super::proxy::ProxyChoice;
use super::secrecy;
use crate::addr::cidr::{parse_cidr, parse_cidr_or_address};
use crate::addr::{Address, Subnet};
use crate::codec::secret::Token;
use crate::crypto::keys::{PrivateKey, PublicKey};
use crate::error::{ErrorCode, VpnError};
use crate::qos::RateLimit;
use crate::qos::token_bucket::{MAX_BURST, MIN_BURST, RATE_RANGE};
use crate::transport::{CongestionControl, Endpoint, Proxy};
use crate::tunnel::is_valid_name;

/// The longest PEM file that is read, in bytes: a chain of a hundred certificates is shorter.
const PEM_LIMIT: u64 = 1024 * 1024;

/// What a PEM text begins with; everything else is a path.
pub(super) const PEM_START: &str = "-----BEGIN";

/// The fields that hold paths, or PEM text in their place.
const PATHS: &[&str] = &["tlsCa", "tlsCert", "tlsKey", "stateDir"];

/// Where state outlives the process (the journal of what is set on the host).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateDir {
    /// Not configured: [`defaults::STATE_DIR`] when running as root, nothing is kept otherwise.
    #[default]
    Default,
    /// Configured as `null`: nothing is kept.
    Nothing,
    /// This folder.
    At(PathBuf),
}

impl StateDir {
    /// The folder for this process, if state is kept.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Default => runs_as_root().then(|| Path::new(defaults::STATE_DIR)),
            Self::Nothing => None,
            Self::At(path) => Some(path),
        }
    }
}

#[cfg(target_os = "linux")]
fn runs_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(target_os = "linux"))]
fn runs_as_root() -> bool {
    false
}

/// A PEM field: its text, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// The text itself. It may be a private key: erased when dropped, never printed.
    Text(Zeroizing<String>),
    /// The file, read when it is needed.
    File(PathBuf),
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text([redacted])"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The bytes of a PEM field with certificates; `file-error` if its file can't be read.
pub(super) fn load_pem(source: &PemSource) -> Result<Zeroizing<Vec<u8>>, VpnError> {
    load(source, |_, _| Ok(()))
}

/// The bytes of a PEM field with a private key; `file-error` also if others may read its file.
pub(super) fn load_pem_key(source: &PemSource) -> Result<Zeroizing<Vec<u8>>, VpnError> {
    load(source, secrecy::check_key)
}

fn load(
    source: &PemSource,
    admit: impl FnOnce(&Path, &Metadata) -> Result<(), VpnError>,
) -> Result<Zeroizing<Vec<u8>>, VpnError> {
    let path = match source {
        PemSource::Text(text) => return Ok(Zeroizing::new(text.as_bytes().to_vec())),
        PemSource::File(path) => path,
    };
    let failed = |error: io::Error| {
        let mut message = format!("cannot read the PEM file {}: {error}", path.display());
        if error.kind() == io::ErrorKind::PermissionDenied && runs_as_root() {
            // The daemon has given up root's right to read everything.
            message.push_str(&format!("; it must be root's own: chown root {}", secrecy::quoted(path)));
        }
        VpnError::new(ErrorCode::FileError, message).caused_by(error)
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > PEM_LIMIT {
        return Err(failed(io::Error::other(format!("it is not a file of at most {PEM_LIMIT} bytes"))));
    }
    admit(path, &metadata)?;
    // Room for all of it and one byte to see the end: no copy of a key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A key that everybody may know. No message repeats it: it may be the private one, put there by mistake.
pub(super) fn public_key(field: &Field<'_>) -> Result<PublicKey, VpnError> {
    let text = field.value().and_then(Value::as_str);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| field.refuse_unseen("must be a public key: 32 bytes in base64 (44 characters)"))
}

/// A key that no message repeats.
pub(super) fn private_key(field: &Field<'_>) -> Result<PrivateKey, VpnError> {
    let text = field.value().and_then(Value::as_str);
    text.and_then(|text| PrivateKey::from_base64(text).ok())
        .ok_or_else(|| field.refuse_unseen("must be a private key: 32 bytes in base64 (44 characters)"))
}

/// A bearer credential that no message repeats.
pub(super) fn token(field: &Field<'_>) -> Result<Token, VpnError> {
    let text = field.value().and_then(Value::as_str);
    text.and_then(|text| Token::new(text.to_owned())).ok_or_else(|| {
        field.refuse_unseen("must be a token: 1 to 4,096 printable ASCII characters without blanks")
    })
}

/// Where a server is. What is refused may hold a password, so no message repeats it.
pub(super) fn server_url(field: &Field<'_>) -> Result<Endpoint, VpnError> {
    let text = field.value().and_then(Value::as_str);
    let text = text.ok_or_else(|| field.refuse_unseen("must be a URL: wss://host[:port]/path"))?;
    Endpoint::parse(text).map_err(|error| field.refuse_unseen(error))
}

/// A proxy, or `""`. It may hold a password, so no message repeats it.
pub(super) fn proxy(field: &Field<'_>) -> Result<ProxyChoice, VpnError> {
    match field.value().and_then(Value::as_str) {
        Some("") => Ok(ProxyChoice::Nothing),
        Some(url) => Proxy::parse(url).map(ProxyChoice::Through).map_err(|error| field.refuse_unseen(error)),
        None => Err(field.refuse_unseen("must be a URL, http://[user:password@]host:port, or \"\" for none")),
    }
}

/// `host:port` or `[v6]:port`, as a listener takes it.
pub(super) fn listen_addr(field: &Field<'_>) -> Result<String, VpnError> {
    const MUST: &str = "must be host:port or [v6]:port, with a port from 0 to 65535";
    let text = field.string(MUST)?;
    let (host, port) = text.rsplit_once(':').ok_or_else(|| field.refuse(MUST))?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    if host && digits && port.parse::<u16>().is_ok() { Ok(text.to_owned()) } else { Err(field.refuse(MUST)) }
}

/// A name or an IPv4 address, by its characters; whether it exists is found out when it is bound.
fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=253).contains(&host.len()) && host.bytes().all(allowed)
}

/// A tunnel's subnet.
pub(super) fn subnet<A: Address>(field: &Field<'_>) -> Result<Subnet<A>, VpnError> {
    let (family, least, most) = (A::FAMILY, A::PREFIXES.start(), A::PREFIXES.end());
    let must = format!("must be an {family} CIDR from /{least} to /{most}");
    field.string(&must)?.parse().map_err(|error| field.refuse_because(&must, error))
}

/// Networks to send into the tunnel.
pub(super) fn routes(field: &Field<'_>) -> Result<Vec<IpNet>, VpnError> {
    const MUST: &str = "must be a CIDR such as 10.1.0.0/16";
    field.list("must be a list of CIDRs", |entry| {
        parse_cidr(entry.string(MUST)?).map_err(|error| entry.refuse_because(MUST, error))
    })
}

/// Proxies, by network or one by one.
pub(super) fn proxies(field: &Field<'_>) -> Result<Vec<IpNet>, VpnError> {
    const MUST: &str = "must be a CIDR or an IP address";
    field.list("must be a list of CIDRs", |entry| {
        parse_cidr_or_address(entry.string(MUST)?).map_err(|error| entry.refuse_because(MUST, error))
    })
}

/// Resolvers.
pub(super) fn dns(field: &Field<'_>) -> Result<Vec<IpAddr>, VpnError> {
    const LIMIT: usize = defaults::DNS_LIMIT;
    let must = format!("must be a list of at most {LIMIT} IP addresses");
    let servers = field.list(&must, |entry| entry.parsed("must be an IP address"))?;
    if servers.len() > LIMIT { Err(field.refuse(must)) } else { Ok(servers) }
}

/// The longest packet in the tunnel.
pub(super) fn mtu(field: &Field<'_>) -> Result<u16, VpnError> {
    // The range ends where u16 does.
    field.integer(defaults::MTU_RANGE).map(|mtu| mtu as u16)
}

/// An interface's name.
pub(super) fn tun_name(field: &Field<'_>) -> Result<String, VpnError> {
    text(field, "must be an interface name: 1 to 15 of A-Z a-z 0-9 _ . -", is_valid_name)
}

/// A text of some kind.
pub(super) fn text(
    field: &Field<'_>,
    must: &str,
    is_good: impl Fn(&str) -> bool,
) -> Result<String, VpnError> {
    let text = field.string(must)?;
    if is_good(text) { Ok(text.to_owned()) } else { Err(field.refuse(must)) }
}

/// How the outer TCP connection is paced.
pub(super) fn congestion_control(field: &Field<'_>) -> Result<CongestionControl, VpnError> {
    match field.value().and_then(Value::as_str) {
        Some("auto") => Ok(CongestionControl::Auto),
        Some("system") => Ok(CongestionControl::System),
        _ => Err(field.refuse("must be \"auto\" or \"system\"")),
    }
}

/// A limit: a rate, and a burst unless it is the rate's own. A burst without a rate means nothing, and is somebody's mistake.
pub(super) fn rate_limit(
    config: &Object<'_>,
    rate_name: &'static str,
    burst_name: &'static str,
) -> Result<Option<RateLimit>, VpnError> {
    let rate = config.optional(rate_name, |field| field.integer(RATE_RANGE))?;
    let burst = config.optional(burst_name, |field| field.integer(MIN_BURST..=MAX_BURST))?;
    match (rate, burst) {
        (Some(rate), burst) => {
            let limit = RateLimit::new(rate, burst.unwrap_or_else(|| RateLimit::default_burst(rate)));
            Ok(limit.ok())
        }
        (None, Some(_)) => Err(config.field(burst_name).refuse(format_args!("needs {rate_name} beside it"))),
        (None, None) => Ok(None),
    }
}

/// A folder, or `null`.
pub(super) fn state_dir(field: &Field<'_>, base_dir: &Path) -> Result<StateDir, VpnError> {
    const MUST: &str = "must be the path of a folder, or null to keep nothing";
    match field.value() {
        Some(Value::Null) => Ok(StateDir::Nothing),
        _ => path(field, MUST, base_dir).map(StateDir::At),
    }
}

/// PEM text, or the path of a file with it. No message repeats it: it may be a key.
pub(super) fn pem(field: &Field<'_>, base_dir: &Path) -> Result<PemSource, VpnError> {
    const MUST: &str = "must be PEM text (-----BEGIN …) or the path of a PEM file";
    match field.value().and_then(Value::as_str) {
        Some(text) if text.starts_with(PEM_START) => Ok(PemSource::Text(Zeroizing::new(text.to_owned()))),
        Some(text) if !text.contains('\n') => path(field, MUST, base_dir).map(PemSource::File),
        _ => Err(field.refuse_unseen(MUST)),
    }
}

/// Makes the paths of a configuration mean the same wherever it is used.
pub(super) fn make_paths_absolute(config: &mut Map<String, Value>, base_dir: &Path) {
    for name in PATHS {
        let Some(Value::String(path)) = config.get_mut(*name) else { continue };
        if path.is_empty() || path.starts_with(PEM_START) {
            continue;
        }
        // A folder whose name is not Unicode cannot be told in JSON: the path then stays relative.
        if let Some(absolute) = base_dir.join(&*path).to_str() {
            *path = absolute.to_owned();
        }
    }
}

/// A path, taken from `base_dir` if it is relative. Control characters (a newline, a NUL) are somebody's
/// mistake; all else may stand in a file's name.
fn path(field: &Field<'_>, must: &str, base_dir: &Path) -> Result<PathBuf, VpnError> {
    text(field, must, |path| !path.is_empty() && !path.contains(char::is_control))
        .map(|path| base_dir.join(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T>(value: &Value, read: impl FnOnce(&Field<'_>) -> Result<T, VpnError>) -> Result<T, String> {
        read(&Field::root(value)).map_err(|error| error.message.replace("the configuration", "x"))
    }

    #[test]
    fn listening_addresses() {
        for good in ["0.0.0.0:443", "[::]:0", "[::1]:65535", "localhost:8443", "vpn.example.org:443"] {
            assert_eq!(read(&json!(good), listen_addr).unwrap(), good);
        }
        for bad in
            ["", "443", ":443", "host", "host:", "host:65536", "host:+1", "host:-1", "host: 1", "::1:443"]
        {
            assert!(read(&json!(bad), listen_addr).is_err(), "{bad:?}");
        }
        for bad in
            ["[::1]", "[::1]443", "[1.2.3.4]:443", "[fe80::1%eth0]:443", "a b:1", "http://a:1", "a/b:1"]
        {
            assert!(read(&json!(bad), listen_addr).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_are_told_right_where_they_are_written_wrong() {
        let routes = |text: &str| read(&json!([text]), routes).unwrap_err();
        assert_eq!(
            routes("10.1.2.3/16"),
            "[0] must be a CIDR such as 10.1.0.0/16, not \"10.1.2.3/16\": \
             it has bits set behind its prefix; the network is 10.1.0.0/16"
        );
        assert!(
            routes("10.1.2.3").ends_with("it has no prefix length; this one address is written 10.1.2.3/32")
        );
        let subnet = |text: &str| read(&json!(text), subnet::<std::net::Ipv4Addr>).unwrap_err();
        assert_eq!(
            subnet("10.8.0.0/31"),
            "x must be an IPv4 CIDR from /8 to /30, not \"10.8.0.0/31\": its prefix length is not from 8 to 30"
        );
        let proxies = read(&json!(["10.0.0.0/8", "::1"]), proxies).unwrap();
        assert_eq!(proxies, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    }

    #[test]
    fn resolvers_are_at_most_eight() {
        let eight = vec!["1.1.1.1"; 8];
        assert_eq!(read(&json!(eight), dns).unwrap().len(), 8);
        let nine = vec!["::1"; 9];
        assert_eq!(
            read(&json!(nine), dns).unwrap_err(),
            "x must be a list of at most 8 IP addresses, not a list of 9"
        );
        assert_eq!(
            read(&json!(["1.1.1.1", "dns.example"]), dns).unwrap_err(),
            "[1] must be an IP address, not \"dns.example\""
        );
    }

    #[test]
    fn the_state_folder_is_a_default_nothing_or_a_path() {
        let base = Path::new("/base");
        let dir = |value: Value| read(&value, |field| state_dir(field, base));
        assert_eq!(dir(json!(null)).unwrap(), StateDir::Nothing);
        assert_eq!(dir(json!("/var/x")).unwrap().path(), Some(Path::new("/var/x")));
        assert_eq!(dir(json!("x")).unwrap().path(), Some(Path::new("/base/x")));
        assert_eq!(StateDir::Nothing.path(), None);
        for bad in [json!(""), json!("a\0b"), json!(false)] {
            assert!(dir(bad).is_err());
        }
    }

    #[test]
    fn pem_is_text_or_a_file() {
        let base = tempfile::tempdir().unwrap();
        let source = |text: &str| read(&json!(text), |field| pem(field, base.path()));
        let text = source("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(format!("{text:?}"), "Text([redacted])");
        assert!(load_pem(&text).unwrap().starts_with(b"-----BEGIN"));

        std::fs::write(base.path().join("cert.pem"), "-----BEGIN").unwrap();
        assert_eq!(load_pem(&source("cert.pem").unwrap()).unwrap().as_slice(), b"-----BEGIN");
        let absolute = base.path().join("cert.pem");
        assert_eq!(source(absolute.to_str().unwrap()).unwrap(), PemSource::File(absolute));
    }

    #[test]
    fn pem_files_that_cannot_be_read_are_named() {
        let base = tempfile::tempdir().unwrap();
        let large = base.path().join("large.pem");
        File::create(&large).unwrap().set_len(PEM_LIMIT + 1).unwrap();
        for path in [base.path().join("missing.pem"), base.path().to_owned(), large] {
            let error = load_pem(&PemSource::File(path.clone())).unwrap_err();
            assert_eq!(error.code, ErrorCode::FileError);
            assert!(error.message.contains(path.to_str().unwrap()), "{}", error.message);
            assert!(error.cause.is_some());
        }
    }

    #[test]
    fn what_may_be_secret_is_never_repeated() {
        const SECRET: &str = "hunter2";
        let base = Path::new("/");
        let messages = [
            read(&json!(SECRET), private_key).unwrap_err(),
            read(&json!([SECRET]), private_key).unwrap_err(),
            read(&json!(format!("{SECRET} x")), token).unwrap_err(),
            read(&json!(SECRET), public_key).unwrap_err(),
            read(&json!(format!("MIIB\n{SECRET}")), |field| pem(field, base)).unwrap_err(),
            read(&json!(format!("wss://me:{SECRET}@example.org/")), server_url).unwrap_err(),
            read(&json!(format!("https://me:{SECRET}@example.org/")), server_url).unwrap_err(),
        ];
        for message in messages {
            assert!(message.starts_with("x must ") && !message.contains(SECRET), "{message}");
        }
    }
}
