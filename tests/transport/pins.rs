//! Whom a client trusts that knows nothing but the hash of a public key.

use smartvpn::error::ErrorCode;
use smartvpn::transport::{ClientTls, DialError, DialOptions, Listener, UpgradeOptions, dial, upgrade};

use crate::certs::{self, AUTHORITY, Identity, STRANGER};
use crate::{endpoint, options, patience};

const NAMES: &[&str] = &["localhost"];
const YEARS: (i32, i32) = (2020, 2120);

/// With the certificates of `more` behind its own.
fn chained(identity: Identity, more: &[u8]) -> Identity {
    Identity { cert: identity.cert + std::str::from_utf8(more).unwrap(), ..identity }
}

fn pin(identity: &Identity) -> [u8; 32] {
    identity.server_tls().pin("localhost").unwrap()
}

/// Dials a server with `identity` under the name `host`.
async fn dial_as(identity: &Identity, trust: ClientTls, host: &str) -> Result<(), DialError> {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().port();
    let tls = identity.server_tls();
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = upgrade(tcp, Some(&tls), &UpgradeOptions::default(), patience()).await;
        }
    });
    let options = DialOptions { tls: Some(trust), ..options() };
    let dialed = dial(&endpoint("wss", host, port), &options).await;
    serving.abort();
    dialed.map(drop)
}

#[tokio::test]
async fn a_server_is_known_by_its_pin_and_later_by_the_certificate() {
    let signed = || AUTHORITY.sign(NAMES, YEARS);
    for identity in [
        certs::self_signed(false),
        chained(signed(), AUTHORITY.pem()),
        // Its authority is known to nobody.
        signed(),
    ] {
        let (trust, seen) = ClientTls::pinned(pin(&identity)).unwrap();
        assert_eq!(seen.pem(), None);
        dial_as(&identity, trust, "localhost").await.unwrap();
        let later = ClientTls::with_ca_pem(seen.pem().unwrap().as_bytes()).unwrap();
        dial_as(&identity, later.clone(), "localhost").await.unwrap();
        let error = dial_as(&chained(STRANGER.sign(NAMES, YEARS), STRANGER.pem()), later, "localhost").await;
        assert_eq!(error.unwrap_err().code(), ErrorCode::TlsUntrusted);
    }
}

#[tokio::test]
async fn an_authority_that_is_shown_is_what_is_pinned() {
    let first = chained(AUTHORITY.sign(NAMES, YEARS), AUTHORITY.pem());
    let renewed = chained(AUTHORITY.sign(NAMES, YEARS), AUTHORITY.pem());
    assert_eq!(pin(&first), pin(&renewed));
    let (trust, seen) = ClientTls::pinned(pin(&first)).unwrap();
    dial_as(&renewed, trust, "localhost").await.unwrap();
    let authority = String::from_utf8(AUTHORITY.pem().to_vec()).unwrap();
    assert_eq!(seen.pem().unwrap(), authority.replace("\r\n", "\n"));
}

#[tokio::test]
async fn whoever_shows_the_pinned_certificate_must_also_be_signed_by_it() {
    let good = chained(AUTHORITY.sign(NAMES, YEARS), AUTHORITY.pem());
    let own = certs::self_signed(false);
    let strange = || STRANGER.sign(NAMES, YEARS);
    for (pinned, shown, told) in [
        (&good, strange(), "the invite names"),
        (&good, chained(strange(), STRANGER.pem()), "the invite names"),
        (&good, chained(strange(), AUTHORITY.pem()), "no authority that we trust"),
        (&own, chained(strange(), own.cert.as_bytes()), "no authority that we trust"),
        (&own, certs::self_signed(false), "the invite names"),
    ] {
        let (trust, seen) = ClientTls::pinned(pin(pinned)).unwrap();
        let error = dial_as(&shown, trust, "localhost").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::TlsUntrusted, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(seen.pem(), None);
    }
}

#[tokio::test]
async fn a_pin_leaves_names_and_times_as_they_are() {
    let signed = |years| AUTHORITY.sign(NAMES, years);
    let with = |identity| chained(identity, AUTHORITY.pem());
    for (identity, host, code) in [
        (with(signed((2001, 2002))), "localhost", ErrorCode::TlsExpired),
        (signed((2001, 2002)), "localhost", ErrorCode::TlsExpired),
        (signed((2110, 2120)), "localhost", ErrorCode::TlsExpired),
        (with(signed(YEARS)), "127.0.0.1", ErrorCode::TlsNameMismatch),
        (signed(YEARS), "127.0.0.1", ErrorCode::TlsNameMismatch),
        (certs::self_signed(false), "127.0.0.1", ErrorCode::TlsNameMismatch),
        // As with tlsCa: it is no server's.
        (certs::self_signed(true), "localhost", ErrorCode::TlsUntrusted),
    ] {
        let (trust, _) = ClientTls::pinned(pin(&identity)).unwrap();
        let error = dial_as(&identity, trust, host).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let trust = ClientTls::with_ca_pem(identity.cert.as_bytes()).unwrap();
        assert_eq!(dial_as(&identity, trust, host).await.unwrap_err().code(), code);
    }
}
