//! What outlives the server's process of its clients and invites.
//!
//! The configuration is the operator's word, and so is what he changed while the server ran; the later word counts.
//! A change is kept together with what the configuration said when it was made: for as long as the configuration says
//! the same of that client, the change is the later word; once it says something else, the configuration is.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Auth, Entry, Invite, InviteId, RegisteredClient, Registry, RegistryError, SESSIONS_MAX};
use crate::codec::hello::{is_client_id, is_client_name};

/// The form of what is saved.
const VERSION: u32 = 1;

/// What was changed while the server ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedRegistry {
    version: u32,
    /// Clients that were added or changed.
    clients: Vec<SavedEntry>,
    /// Clients of the configuration that were removed, as it had them.
    removed: Vec<SavedClient>,
    invites: Vec<SavedInvite>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedEntry {
    #[serde(flatten)]
    client: SavedClient,
    /// As the configuration had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configured: Option<SavedClient>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedClient {
    id: String,
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    assigned_ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    max_sessions: u32,
    disabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedInvite {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    expires_at: u64,
    uses: u32,
}

impl SavedRegistry {
    /// There is nothing to keep.
    pub const fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.removed.is_empty() && self.invites.is_empty()
    }
}

impl Registry {
    /// What must outlive the process.
    pub fn save(&self, unix: u64) -> SavedRegistry {
        let changed = |entry: &&Entry| entry.configured.as_ref() != Some(&entry.client);
        let entry = |entry: &Entry| SavedEntry {
            client: SavedClient::from(&entry.client),
            configured: entry.configured.as_ref().map(SavedClient::from),
        };
        let invite = |(id, invite): (&InviteId, &Invite)| SavedInvite {
            id: STANDARD.encode(id.as_bytes()),
            name: invite.name.clone(),
            expires_at: invite.expires_at,
            uses: invite.uses,
        };
        let open = |(_, invite): &(&InviteId, &Invite)| unix < invite.expires_at;
        SavedRegistry {
            version: VERSION,
            clients: self.clients.values().filter(changed).map(entry).collect(),
            removed: self.removed.values().map(SavedClient::from).collect(),
            invites: self.invites.iter().filter(open).map(invite).collect(),
        }
    }

    /// A registry of the configuration's clients, with what was changed in an earlier run.
    ///
    /// A change that does not go together with the configuration any more (its key is another client's by now) gives
    /// way to it.
    ///
    /// # Errors
    ///
    /// As [`Registry::new`].
    pub fn restore(
        auth: Auth,
        clients: &[RegisteredClient],
        saved: SavedRegistry,
    ) -> Result<Self, (usize, RegistryError)> {
        let mut registry = Self::new(auth, clients)?;
        if saved.version != VERSION {
            return Ok(registry);
        }
        for removed in saved.removed.iter().filter_map(SavedClient::read) {
            if registry.get(&removed.id) == Some(&removed) {
                // It is there.
                let _removed = registry.remove(&removed.id);
            }
        }
        registry.replay_changes(&saved.clients);
        for invite in saved.invites {
            let bytes = STANDARD.decode(&invite.id).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let SavedInvite { name, expires_at, uses, .. } = invite;
            if let Some(bytes) = bytes.filter(|_| registry.invites.len() < super::INVITES_MAX) {
                registry.invites.insert(InviteId::from_bytes(bytes), Invite { name, expires_at, uses });
            }
        }
        Ok(registry)
    }
}

impl Registry {
    /// All that changed makes room first: two clients may have changed places.
    fn replay_changes(&mut self, saved: &[SavedEntry]) {
        let read = |entry: &SavedEntry| {
            Some((entry.client.read()?, entry.configured.as_ref().and_then(SavedClient::read)))
        };
        let mut changes = Vec::new();
        for (client, configured) in saved.iter().filter_map(read) {
            // Where they differ, the configuration has had another word since.
            if self.get(&client.id) == configured.as_ref() {
                let before = self.take(&client.id);
                changes.push((Entry { client, configured }, before));
            }
        }
        let mut refused = Vec::new();
        for (change, before) in changes {
            if self.insert(change).is_err() {
                refused.extend(before);
            }
        }
        for entry in refused {
            // Its key or address is another's by now, who was told so.
            let _outcome = self.insert(entry);
        }
    }
}

impl From<&RegisteredClient> for SavedClient {
    fn from(client: &RegisteredClient) -> Self {
        let RegisteredClient { id, public_key, name, assigned_ip, limit, expires_at, max_sessions, disabled } =
            client.clone();
        let public_key = public_key.to_string();
        Self { id, public_key, name, assigned_ip, limit, expires_at, max_sessions, disabled }
    }
}

impl SavedClient {
    /// The client, unless somebody has meddled with the file.
    fn read(&self) -> Option<RegisteredClient> {
        let Self { id, public_key, name, assigned_ip, limit, expires_at, max_sessions, disabled } =
            self.clone();
        let good = is_client_id(&id)
            && name.as_deref().is_none_or(is_client_name)
            && (1..=SESSIONS_MAX).contains(&max_sessions);
        let public_key = public_key.parse().ok().filter(|_| good)?;
        Some(RegisteredClient {
            id,
            public_key,
            name,
            assigned_ip,
            limit,
            expires_at,
            max_sessions,
            disabled,
        })
    }
}
