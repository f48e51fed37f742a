//! What users, controllers and earlier processes write: configurations, calls, a server's saved sessions.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use smartvpn::addr::{Addresses, Subnet};
use smartvpn::config::{ClientConfig, ServerConfig};
use smartvpn::crypto::keys::{PrivateKey, PublicKey};
use smartvpn::crypto::ticket::TicketKey;
use smartvpn::error::{ErrorCode, VpnError};
use smartvpn::management::{LINE_LIMIT, Mode, fuzzing};
use smartvpn::session::registry::{Auth, RegisteredClient, SavedRegistry};
use smartvpn::session::roster::{Guest, Rules, Saved, Wish};
use smartvpn::session::{Registry, Roster};

use super::input::{Cuts, Input, epoch};

/// Where relative paths start.
const BASE: &str = "/etc/smartvpn";

/// A client's configuration is taken, or refused with the field at fault.
pub fn client_config(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    match ClientConfig::parse(&value, Path::new(BASE)) {
        Ok(config) => {
            assert!((576..).contains(&config.mtu));
            // What it is printed with holds no key.
            let _ = format!("{config:?}");
        }
        Err(error) => refused(&error),
    }
}

/// So is a server's.
pub fn server_config(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    match ServerConfig::parse(&value, Path::new(BASE)) {
        Ok(config) => {
            assert!((5..=120).contains(&config.keepalive_interval_secs()));
            assert!(config.subnet.capacity() >= 1);
            let shown = format!("{config:?}");
            if let Some(key) = value["privateKey"].as_str() {
                assert!(!shown.contains(key), "the private key is shown");
            }
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &VpnError) {
    assert_eq!(error.code, ErrorCode::InvalidConfig, "{error}");
    assert!(!error.message.is_empty());
}

/// A controller's lines: each gets one line for an answer, whatever pieces they come in.
pub fn management_lines(data: &[u8]) {
    let mut input = Input(data);
    let mode = if input.chance() { Mode::Client } else { Mode::Server };
    let cuts = input.cuts();
    let answers = fuzzing::answers(Cuts::NONE.pieces(input.0), mode);
    assert_eq!(fuzzing::answers(cuts.pieces(input.0), mode), answers);
    assert!(answers.len() <= input.0.split(|byte| *byte == b'\n').count());
    for answer in &answers {
        assert_eq!(answer.find('\n'), Some(answer.len() - 1), "not one line");
        let answer: Value = serde_json::from_str(answer).unwrap();
        let is_success = answer["success"].as_bool().unwrap();
        assert_eq!(answer.get("error").is_some(), !is_success);
        assert_eq!(answer.get("result").is_some(), is_success);
    }
    assert!(input.0.len() <= LINE_LIMIT || !answers.is_empty() || input.0.contains(&b'\n'));
}

/// A server's saved clients and invites: what goes together with the configuration holds, and is saved again.
fn saved_registry(data: &[u8]) {
    let Ok(saved) = serde_json::from_slice::<SavedRegistry>(data) else { return };
    let client = |id: &str, number: u8| RegisteredClient {
        assigned_ip: Some([10, 8, 0, number].into()),
        max_sessions: 2,
        ..RegisteredClient::new(id.to_owned(), PublicKey::from_bytes([number; 32]))
    };
    let configured = [client("a", 2), client("b", 3)];
    let first = Registry::restore(Auth::Registered, &configured, saved).unwrap();
    let clients: Vec<_> = first.clients().into_iter().cloned().collect();
    assert!(Registry::new(Auth::Registered, &clients).is_ok(), "two clients share what is one's");
    let text = serde_json::to_vec(&first.save(1_800_000_000)).unwrap();
    let second = Registry::restore(Auth::Registered, &configured, serde_json::from_slice(&text).unwrap());
    assert_eq!(second.unwrap().clients(), first.clients());
}

/// A server's saved sessions: those that fit are taken up, no address twice, and are saved again. The same of its
/// clients, whose file is another.
pub fn saved_roster(data: &[u8]) {
    saved_registry(data);
    let Ok(saved) = serde_json::from_slice::<Saved>(data) else { return };
    let (now, unix) = (epoch(), 1_800_000_000);
    let grace = Duration::from_secs(60);
    let roster = || {
        let subnet6 = Ipv6Net::new([0xfd00, 0, 0, 0, 0, 0, 0, 0].into(), 64).unwrap();
        let rules = Rules {
            subnet: Subnet::new(Ipv4Net::new_assert([10, 8, 0, 0].into(), 28)).unwrap(),
            subnet6: Some(Subnet::new(subnet6).unwrap()),
            max_clients: 8,
            grace,
            ticket_max_age: Duration::from_secs(86_400),
            limit: None,
        };
        Roster::new(rules, TicketKey::derive(&PrivateKey::from_bytes([7; 32])))
    };
    let sessions = |roster: &Roster| -> BTreeMap<String, Addresses> {
        roster.sessions().map(|(id, addresses)| (id.to_owned(), addresses)).collect()
    };
    let mut first = roster();
    let restored = first.restore(now, saved);
    let known = sessions(&first);
    assert_eq!(restored.len(), known.len());
    let mut addresses = HashSet::new();
    for Addresses { v4, v6 } in known.values() {
        assert!(v4.octets()[..3] == [10, 8, 0] && (2..15).contains(&v4.octets()[3]), "{v4} is no client's");
        assert!(addresses.insert(IpAddr::from(*v4)), "{v4} is given twice");
        assert!(v6.is_none_or(|v6| addresses.insert(v6.into())), "{v6:?} is given twice");
    }
    // What is saved is taken up whole by the same server.
    let text = serde_json::to_vec(&first.save(now)).unwrap();
    let mut second = roster();
    second.restore(now, serde_json::from_slice(&text).unwrap());
    assert_eq!(sessions(&second), known);
    // Nobody else gets these addresses, as long as they may come back.
    let source = IpAddr::from([192, 0, 2, 1]);
    let mut rng = StdRng::seed_from_u64(1);
    if let Ok(offer) = first.offer((now, unix), source, Wish::New(Guest::ANYBODY), &mut rng) {
        assert!(!addresses.contains(&offer.addresses.v4.into()) && !known.contains_key(&offer.client_id));
        first.withdraw(now, offer);
    }
    assert_eq!(first.poll_timeout().is_none(), known.is_empty());
    assert_eq!(first.expire(now + grace).len(), known.len());
    assert!(first.is_empty());
}
