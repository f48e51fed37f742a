//! Who may come in: registered clients, and invites that register more (PROTOCOL §3).
//!
//! A client is known by its static key. What the server's configuration says of clients, what was changed since while
//! the server ran, and what of both holds after a restart is decided here; see [`saved`]. Whether a session that a
//! client asks for can be had is the [`Roster`](super::Roster)'s to say.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::codec::hello::is_client_id;
use crate::codec::secret::Token;
use crate::crypto::keys::PublicKey;

mod invite;
mod saved;

pub use invite::{INVITE_TOKEN_LEN, INVITES_MAX, Invite, InviteId};
pub use saved::SavedRegistry;

/// Clients that one server has registered, at most: as many as an IPv4 /16 holds; some 20 MiB when full.
pub const CLIENTS_MAX: usize = 65_536;

/// Sessions that one key may have side by side, at most: a family's devices, and never a way around registering.
pub const SESSIONS_MAX: u32 = 32;

/// Who decides whether a client comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nobody: whoever knows the server's public key comes in.
    #[default]
    Open,
    /// The list of registered clients.
    Registered,
    /// The list of registered clients for those on it, and the program for all others.
    Callback,
}

impl Auth {
    /// The value of the option `auth`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Registered => "registered",
            Self::Callback => "callback",
        }
    }
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredClient {
    /// Its id, which its sessions have too; see [`is_client_id`].
    pub id: String,
    /// The key that it proves itself with.
    pub public_key: PublicKey,
    /// A label for people.
    pub name: Option<String>,
    /// The address of its (first) session.
    pub assigned_ip: Option<Ipv4Addr>,
    /// The limit of each direction in bytes per second, and the burst; the server's default unless given.
    pub limit: Option<(u64, u64)>,
    /// When it ceases to be let in, in Unix seconds.
    pub expires_at: Option<u64>,
    /// Sessions that it may have side by side, 1–[`SESSIONS_MAX`].
    pub max_sessions: u32,
    /// It is not let in for now.
    pub disabled: bool,
}

impl RegisteredClient {
    /// A client with this id and key and nothing special.
    pub const fn new(id: String, public_key: PublicKey) -> Self {
        Self {
            id,
            public_key,
            name: None,
            assigned_ip: None,
            limit: None,
            expires_at: None,
            max_sessions: 1,
            disabled: false,
        }
    }

    /// The ids of the sessions that it may have.
    pub fn session_ids(&self) -> impl Iterator<Item = String> + use<'_> {
        (1..=self.max_sessions).map(|number| session_id(&self.id, number))
    }

    /// Why it is not let in now, if it is not.
    fn refusal(&self, unix: u64) -> Option<Refusal> {
        if self.disabled {
            return Some(Refusal::Disabled);
        }
        self.expires_at.filter(|at| unix >= *at).map(|_| Refusal::Expired)
    }
}

/// The id of a client's session: its own for the first one, with a number behind it for the others.
pub fn session_id(client_id: &str, number: u32) -> String {
    if number == 1 { client_id.to_owned() } else { format!("{client_id}.{number}") }
}

/// What a handshake shows of a client.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The key that it has proved to hold.
    pub key: Option<&'a PublicKey>,
    /// The token in its hello.
    pub token: Option<&'a Token>,
}

/// What becomes of a [`Candidate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is registered.
    Known(RegisteredClient),
    /// It is not, but holds an invite: it is registered when it has confirmed its keys, by [`Registry::enrol`].
    Invited(InviteId),
    /// Nobody knows it, and anybody may come in.
    Anyone,
    /// The program decides.
    Ask,
    /// It is not let in.
    Refused(Refusal),
}

/// Why a client is not let in. The server answers `unauthorized` to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It came without a key.
    #[error("this server admits registered clients only, and this one has no key; give it a privateKey")]
    NoKey,
    /// Nobody registered its key, and it holds no invite that is good.
    #[error("the client's key is not registered here; register its public key, or join by a new invite")]
    Unknown,
    /// It was disabled.
    #[error("the client is disabled; the server's operator can enable it")]
    Disabled,
    /// Its time is over.
    #[error("the client's registration has expired; the server's operator can extend it")]
    Expired,
}

/// Why a client cannot be registered like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Another has the id, or a session id that it would need.
    #[error("the id {0:?} is taken by another client")]
    IdTaken(String),
    /// The ids of its sessions would not be ids.
    #[error("the id {0:?} is too long for that many sessions")]
    IdTooLong(String),
    /// Another has the key.
    #[error("the public key is registered already, for the client {0:?}")]
    KeyTaken(String),
    /// Another has the address.
    #[error("the address {0} is registered already, for the client {1:?}")]
    AddressTaken(Ipv4Addr, String),
    /// There is no such client.
    #[error("no client {0:?} is registered")]
    NoSuchClient(String),
    /// There is no room.
    #[error("{CLIENTS_MAX} clients are registered already, and there is room for no more")]
    Full,
    /// There is no room for another invite.
    #[error("{INVITES_MAX} invites are open already; wait until some have expired")]
    TooManyInvites,
}

#[derive(Clone, Debug)]
struct Entry {
    client: RegisteredClient,
    /// What the configuration says of it, if it is from there.
    configured: Option<RegisteredClient>,
}

/// The registered clients of one server, and its invites.
#[derive(Debug, Default)]
pub struct Registry {
    auth: Auth,
    clients: HashMap<String, Entry>,
    by_key: HashMap<PublicKey, String>,
    by_address: HashMap<Ipv4Addr, String>,
    /// Whose each session id is.
    by_session: HashMap<String, String>,
    expiries: BTreeSet<(u64, String)>,
    /// Clients of the configuration that were removed since.
    removed: HashMap<String, RegisteredClient>,
    invites: HashMap<InviteId, Invite>,
}

impl Registry {
    /// A registry of these clients, as the server's configuration has them.
    ///
    /// # Errors
    ///
    /// The index of the first client that does not go together with those before it, and why.
    pub fn new(auth: Auth, clients: &[RegisteredClient]) -> Result<Self, (usize, RegistryError)> {
        let mut registry = Self { auth, ..Self::default() };
        for (index, client) in clients.iter().enumerate() {
            let configured = Some(client.clone());
            registry.insert(Entry { client: client.clone(), configured }).map_err(|error| (index, error))?;
        }
        Ok(registry)
    }

    /// Who decides.
    pub const fn auth(&self) -> Auth {
        self.auth
    }

    /// Whether a client that sent a first message without a ticket may come in.
    pub fn judge(&self, unix: u64, candidate: Candidate<'_>) -> Verdict {
        if let Some(client) = candidate.key.and_then(|key| self.by_key(key)) {
            return match client.refusal(unix) {
                None => Verdict::Known(client.clone()),
                Some(refusal) => Verdict::Refused(refusal),
            };
        }
        let invite = candidate.token.map(InviteId::of).filter(|id| self.is_open(unix, id));
        match (self.auth, candidate.key, invite) {
            (_, Some(_), Some(invite)) => Verdict::Invited(invite),
            (Auth::Open, ..) => Verdict::Anyone,
            (Auth::Callback, ..) => Verdict::Ask,
            (Auth::Registered, None, _) => Verdict::Refused(Refusal::NoKey),
            (Auth::Registered, Some(_), None) => Verdict::Refused(Refusal::Unknown),
        }
    }

    /// Whether a client may go on with the session of this id, which its ticket names: its registration, if the session
    /// hangs on one. Returns it.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub fn judge_resume(
        &self,
        unix: u64,
        key: Option<&PublicKey>,
        session_id: &str,
    ) -> Result<Option<&RegisteredClient>, Refusal> {
        let client = key.and_then(|key| self.by_key(key));
        if client.is_none() && self.auth == Auth::Registered {
            return Err(if key.is_none() { Refusal::NoKey } else { Refusal::Unknown });
        }
        if let Some(refusal) = client.and_then(|client| client.refusal(unix)) {
            return Err(refusal);
        }
        // The id may have been given to another client since.
        let owner = self.by_session.get(session_id).map(String::as_str);
        if owner != client.map(|client| client.id.as_str()) {
            return Err(Refusal::Unknown);
        }
        Ok(client)
    }

    /// The client with this id.
    pub fn get(&self, id: &str) -> Option<&RegisteredClient> {
        self.clients.get(id).map(|entry| &entry.client)
    }

    /// The client with this key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&RegisteredClient> {
        self.get(self.by_key.get(key)?)
    }

    /// The client whose session has this id.
    pub fn owner(&self, session_id: &str) -> Option<&RegisteredClient> {
        self.get(self.by_session.get(session_id)?)
    }

    /// The client that this address is kept for.
    pub fn holder(&self, addr: Ipv4Addr) -> Option<&RegisteredClient> {
        self.get(self.by_address.get(&addr)?)
    }

    /// All clients, by id.
    pub fn clients(&self) -> Vec<&RegisteredClient> {
        let mut clients: Vec<_> = self.clients.values().map(|entry| &entry.client).collect();
        clients.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        clients
    }

    /// Registers a client.
    ///
    /// # Errors
    ///
    /// Why it cannot be; nothing has changed then.
    pub fn add(&mut self, client: RegisteredClient) -> Result<(), RegistryError> {
        // One that the configuration has, was removed, and is back the same needs no note of either.
        let configured = self.removed.get(&client.id).cloned();
        let id = client.id.clone();
        self.insert(Entry { client, configured })?;
        self.removed.remove(&id);
        Ok(())
    }

    /// Puts `client` in the place of the one with its id. Returns that one.
    ///
    /// # Errors
    ///
    /// Why it cannot be; nothing has changed then.
    pub fn update(&mut self, client: RegisteredClient) -> Result<RegisteredClient, RegistryError> {
        let id = client.id.clone();
        let old = self.take(&id).ok_or(RegistryError::NoSuchClient(id))?;
        let entry = Entry { client, configured: old.configured.clone() };
        match self.insert(entry) {
            Ok(()) => Ok(old.client),
            Err(error) => {
                // It was there just now, so it fits.
                let _restored = self.insert(old);
                Err(error)
            }
        }
    }

    /// Removes a client. Returns it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoSuchClient`].
    pub fn remove(&mut self, id: &str) -> Result<RegisteredClient, RegistryError> {
        let entry = self.take(id).ok_or_else(|| RegistryError::NoSuchClient(id.to_owned()))?;
        if let Some(configured) = entry.configured {
            self.removed.insert(id.to_owned(), configured);
        }
        Ok(entry.client)
    }

    /// When the next registration expires, in Unix seconds.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// The clients whose registration has expired since they were last asked for. They stay registered, and are not let
    /// in.
    pub fn expire(&mut self, unix: u64) -> Vec<RegisteredClient> {
        let mut expired = Vec::new();
        while let Some((at, _)) = self.expiries.first()
            && *at <= unix
            && let Some((_, id)) = self.expiries.pop_first()
        {
            expired.extend(self.get(&id).cloned());
        }
        expired
    }

    fn insert(&mut self, entry: Entry) -> Result<(), RegistryError> {
        let client = &entry.client;
        self.check(client)?;
        let id = &client.id;
        self.by_key.insert(client.public_key, id.clone());
        if let Some(addr) = client.assigned_ip {
            self.by_address.insert(addr, id.clone());
        }
        self.by_session.extend(client.session_ids().map(|session| (session, id.clone())));
        self.expiries.extend(client.expires_at.map(|at| (at, id.clone())));
        self.clients.insert(id.clone(), entry);
        Ok(())
    }

    fn check(&self, client: &RegisteredClient) -> Result<(), RegistryError> {
        if self.clients.len() >= CLIENTS_MAX {
            return Err(RegistryError::Full);
        }
        if let Some(other) = self.by_key.get(&client.public_key) {
            return Err(RegistryError::KeyTaken(other.clone()));
        }
        if let Some((addr, other)) =
            client.assigned_ip.and_then(|addr| Some((addr, self.by_address.get(&addr)?)))
        {
            return Err(RegistryError::AddressTaken(addr, other.clone()));
        }
        for session in client.session_ids() {
            if !is_client_id(&session) {
                return Err(RegistryError::IdTooLong(client.id.clone()));
            }
            if self.by_session.contains_key(&session) {
                return Err(RegistryError::IdTaken(session));
            }
        }
        Ok(())
    }

    fn take(&mut self, id: &str) -> Option<Entry> {
        let entry = self.clients.remove(id)?;
        let client = &entry.client;
        self.by_key.remove(&client.public_key);
        if let Some(addr) = client.assigned_ip {
            self.by_address.remove(&addr);
        }
        for session in client.session_ids() {
            self.by_session.remove(&session);
        }
        if let Some(at) = client.expires_at {
            self.expiries.remove(&(at, id.to_owned()));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
