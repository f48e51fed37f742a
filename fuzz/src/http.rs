//! What comes before the WebSocket: HTTP (PROTOCOL §1), the PROXY protocol, URLs; and the kernel's messages.

use std::time::Duration;

use smartvpn::config::Invite;
use smartvpn::network::fuzzing::{is_route, read_notices};
use smartvpn::transport::fuzzing::{self, Opened, Refused};
use smartvpn::transport::{Endpoint, Proxy, UpgradeOptions};

use super::input::{Cuts, Input, Pieces, finish};

/// The key of RFC 6455 §1.3, whose answer a corpus can hold.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The longest head (PROTOCOL §1).
const HEAD_LIMIT: usize = 16 * 1024;

/// A request is judged alike in whatever pieces it comes.
pub fn http_request(data: &[u8]) {
    let mut input = Input(data);
    let path = input.chance().then(|| "/vpn".to_owned());
    let options = UpgradeOptions { path, ..UpgradeOptions::default() };
    let outcome = alike(&mut input, |mut stream| finish(fuzzing::request(&mut stream, &options)));
    match outcome {
        Ok(opened) => {
            assert!(opened.answer.starts_with("HTTP/1.1 101 ") && opened.answer.ends_with("\r\n\r\n"));
        }
        Err(Some(refusal)) if refusal.text.starts_with("HTTP/1.1 ") => {
            assert!(refusal.text.contains("\r\nConnection: close\r\n"));
        }
        Err(_) => {}
    }
}

/// So is an answer, a server's or a proxy's.
pub fn http_answer(data: &[u8]) {
    let mut input = Input(data);
    let of_proxy = input.chance();
    let endpoint = Endpoint::parse("wss://vpn.example.org/").unwrap();
    let proxy = Proxy::parse("http://user:secret@proxy.example.org:3128").unwrap();
    let outcome = alike(&mut input, |mut stream| match of_proxy {
        true => finish(fuzzing::connect_answer(&mut stream, &proxy, &endpoint)),
        false => finish(fuzzing::answer(&mut stream, KEY)),
    });
    if let Err(Some(refusal)) = outcome {
        assert!(!refusal.text.chars().any(char::is_control), "{:?}", refusal.text);
        assert!(refusal.retry_after.is_none_or(|wait| wait <= Duration::from_secs(3600)));
    }
}

/// The outcome, which is the same all at once and in pieces, but for how much was read behind the head.
fn alike(
    input: &mut Input<'_>,
    judge: impl Fn(Pieces<'_>) -> Result<Opened, Refused>,
) -> Result<Opened, Refused> {
    let cuts = input.cuts();
    let whole = judge(Pieces::new(input.0, Cuts::NONE));
    let cut = judge(Pieces::new(input.0, cuts));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => {
            assert_eq!(whole.answer, cut.answer);
            let (long, short) = (&whole.leftover, &cut.leftover);
            assert!(long.starts_with(short) || short.starts_with(long), "leftovers differ");
            assert!(input.0.starts_with(&input.0[..input.0.len().min(HEAD_LIMIT)]));
        }
        (whole, cut) => assert_eq!(whole, cut),
    }
    whole
}

/// A PROXY header: more bytes change no judgement, and what is behind it none of it.
pub fn proxy_header(data: &[u8]) {
    let mut judged = None;
    for end in 0..=data.len().min(600) {
        let now = fuzzing::proxy_header(&data[..end]);
        assert!(judged.is_none() || judged == now, "{judged:?} becomes {now:?} with {end} bytes");
        if let Some(Ok((_, length))) = now {
            assert!(length <= end);
        }
        judged = now;
    }
    assert_eq!(fuzzing::proxy_header(data).or(judged), judged.or(fuzzing::proxy_header(data)));
}

/// URLs of servers and proxies, and lists of what is reached without one.
pub fn urls(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (url, list) = text.split_once('\n').unwrap_or((text, "*"));
    if let Ok(endpoint) = Endpoint::parse(url) {
        let host = endpoint.host_header();
        assert!(endpoint.port > 0 && endpoint.path_and_query.starts_with('/'));
        assert!(!host.contains(['\r', '\n', ' ']) && !endpoint.path_and_query.contains(['\r', '\n', ' ']));
        let scheme = if endpoint.tls { "wss" } else { "ws" };
        let again = Endpoint::parse(&format!("{scheme}://{host}{}", endpoint.path_and_query));
        assert_eq!(again.as_ref(), Ok(&endpoint));
        Proxy::is_exempt(list, &endpoint);
        assert!(Proxy::is_exempt("*", &endpoint));
    }
    if let Ok(invite) = Invite::parse(url) {
        let again = Invite::parse(&invite.to_url());
        assert!(again.is_ok_and(|again| again == invite));
        assert!(invite.pin().is_none() || invite.server().tls);
    }
    if let Ok(proxy) = Proxy::parse(url) {
        assert!(proxy.port > 0 && !proxy.host.is_empty());
        let again = Proxy::parse(&format!("http://{proxy}"));
        assert_eq!(again.map(|proxy| proxy.to_string()), Ok(proxy.to_string()));
    }
}

/// A datagram of the kernel's: nothing is made of what is not there.
pub fn netlink(data: &[u8]) {
    let (count, _unclear) = read_notices(data);
    // A message has a header of 16 bytes, and one that is cut short is told of.
    assert!(count <= data.len().div_ceil(16));
    if let Some(body) = data.get(16..) {
        assert!(!is_route(body) || body.len() >= 12);
    }
}
