//! What outlives the server's process: who has which address, and whose tickets are void.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Client, Presence, Revoked, Roster};
use crate::addr::{Addresses, REST};
use crate::codec::hello::is_client_id;

/// The form of what is saved.
const VERSION: u32 = 1;

/// A roster as it is kept in a file. Sessions of an old one are taken up as far as they fit the server's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    version: u32,
    clients: Vec<SavedClient>,
    /// Given back shortly before.
    resting: Vec<SavedAddresses>,
    /// What known clients without a session had last, those that left first before the others.
    homes: Vec<SavedHome>,
    /// Clients whose tickets are void.
    revoked: Vec<SavedRevoked>,
    /// The latest full handshake that a ticket is of, in Unix seconds.
    #[serde(default)]
    last_handshake: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedHome {
    client_id: String,
    #[serde(flatten)]
    addresses: SavedAddresses,
}

/// In Unix seconds: which full handshakes' tickets, and when it can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedRevoked {
    client_id: String,
    since: u64,
    until: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedClient {
    /// The client's id.
    pub client_id: String,
    #[serde(flatten)]
    addresses: SavedAddresses,
    /// Bytes per second, and the burst.
    limit: Option<(u64, u64)>,
    full_handshake_at: u64,
    identified: bool,
}

/// A session that was taken up from a file; its client is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The client's id.
    pub client_id: String,
    /// Its addresses.
    pub addresses: Addresses,
    /// Bytes per second, and the burst.
    pub limit: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedAddresses {
    assigned_ip: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    assigned_ip6: Option<Ipv6Addr>,
}

impl From<Addresses> for SavedAddresses {
    fn from(Addresses { v4, v6 }: Addresses) -> Self {
        Self { assigned_ip: v4, assigned_ip6: v6 }
    }
}

impl From<SavedAddresses> for Addresses {
    fn from(SavedAddresses { assigned_ip, assigned_ip6 }: SavedAddresses) -> Self {
        Self { v4: assigned_ip, v6: assigned_ip6 }
    }
}

impl Saved {
    /// There is nothing to keep.
    pub fn is_empty(&self) -> bool {
        let Self { version: _, clients, resting, homes, revoked, last_handshake: _ } = self;
        clients.is_empty() && resting.is_empty() && homes.is_empty() && revoked.is_empty()
    }
}

impl Roster {
    /// What must outlive the process.
    pub fn save(&self, now: Instant) -> Saved {
        let client = |(client_id, client): (&String, &Client)| SavedClient {
            client_id: client_id.clone(),
            addresses: client.addresses.into(),
            limit: client.limit,
            full_handshake_at: client.full_handshake_at,
            identified: client.identified,
        };
        let home = |(id, addresses): (&str, Addresses)| SavedHome {
            client_id: id.to_owned(),
            addresses: addresses.into(),
        };
        let revoked = |(id, revoked): (&String, &Revoked)| SavedRevoked {
            client_id: id.clone(),
            since: revoked.since,
            until: revoked.until,
        };
        let rests = |since: &Instant| now.saturating_duration_since(*since) < REST;
        let resting = self.resting.iter().filter(|(since, _)| rests(since));
        Saved {
            version: VERSION,
            clients: self.clients.iter().map(client).collect(),
            resting: resting.map(|(_, addresses)| (*addresses).into()).collect(),
            homes: self.homes.all().map(home).collect(),
            revoked: self.revoked.iter().map(revoked).collect(),
            last_handshake: self.last_handshake,
        }
    }

    /// Takes up what an earlier process saved: its clients are away, and have the grace's time to come back; what
    /// rested rests anew, as nobody knows for how long it had. Returns the sessions.
    ///
    /// What does not fit the rules any more (another subnet, no grace) is left out: such a client comes back by its
    /// ticket, or new.
    pub fn restore(&mut self, now: Instant, saved: Saved) -> Vec<Restored> {
        if saved.version != VERSION {
            return Vec::new();
        }
        let revoked = |SavedRevoked { client_id, since, until }| (client_id, Revoked { since, until });
        self.last_handshake = saved.last_handshake;
        self.revoked = saved.revoked.into_iter().map(revoked).filter(|(id, _)| is_client_id(id)).collect();
        for SavedHome { client_id, addresses } in saved.homes {
            if is_client_id(&client_id) {
                self.homes.leave(&client_id, addresses.into());
            }
        }
        let mut restored = Vec::new();
        for SavedClient { client_id, addresses, limit, full_handshake_at, identified } in saved.clients {
            let addresses = Addresses::from(addresses);
            let known = !is_client_id(&client_id) || self.clients.contains_key(&client_id);
            if known || self.pool.allocate_specific(addresses, now).is_none() {
                continue;
            }
            if self.rules.grace.is_zero() {
                self.give_back(now, addresses);
                continue;
            }
            let until = now + self.rules.grace;
            let presence = Presence::Away { until };
            self.away.insert((until, client_id.clone()));
            let client = Client {
                addresses,
                limit,
                full_handshake_at,
                presence,
                offer: 0,
                identified,
                tickets: VecDeque::new(),
                swapped_at: None,
            };
            self.clients.insert(client_id.clone(), client);
            restored.push(Restored { client_id, addresses, limit });
        }
        for addresses in saved.resting.into_iter().map(Addresses::from) {
            if self.pool.allocate_specific(addresses, now).is_some() {
                self.give_back(now, addresses);
            }
        }
        restored
    }
}
