//! What the operator says of the town's clients, in plain words: who may come in, and as whom.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use smartvpn::crypto::keys::PublicKey;
use smartvpn::session::registry::{Auth, RegisteredClient};

/// A client that the operator knows.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) key: PublicKey,
    /// The address that is its own.
    pub(crate) address: Option<Ipv4Addr>,
    /// Sessions that it may have side by side.
    pub(crate) sessions: u32,
    pub(crate) is_disabled: bool,
}

impl Listed {
    pub(crate) fn registered(&self) -> RegisteredClient {
        let Self { id, key, address, sessions, is_disabled } = self.clone();
        let client = RegisteredClient::new(id, key);
        RegisteredClient { assigned_ip: address, max_sessions: sessions, disabled: is_disabled, ..client }
    }

    /// The ids of its sessions.
    pub(crate) fn session_ids(&self) -> Vec<String> {
        session_ids(&self.id, self.sessions)
    }
}

/// As whom a client comes.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    /// Somebody new each time, if there is none.
    pub(crate) id: Option<String>,
    pub(crate) sessions: u32,
}

impl Person {
    pub(crate) fn session_ids(&self) -> Vec<String> {
        self.id.iter().flat_map(|id| session_ids(id, self.sessions)).collect()
    }
}

fn session_ids(id: &str, sessions: u32) -> Vec<String> {
    let more = (2..=sessions).map(|number| format!("{id}.{number}"));
    [id.to_owned()].into_iter().chain(more).collect()
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    /// Nobody comes in but those in it.
    pub(crate) is_closed: bool,
    pub(crate) listed: BTreeMap<String, Listed>,
}

impl Book {
    pub(crate) const fn auth(&self) -> Auth {
        if self.is_closed { Auth::Registered } else { Auth::Open }
    }

    fn by_key(&self, key: Option<PublicKey>) -> Option<&Listed> {
        self.listed.values().find(|it| Some(it.key) == key)
    }

    /// As whom a client with this key comes; none if it may not.
    pub(crate) fn admit(&self, key: Option<PublicKey>) -> Option<Person> {
        match self.by_key(key) {
            Some(it) if it.is_disabled => None,
            Some(it) => Some(Person { id: Some(it.id.clone()), sessions: it.sessions }),
            None if self.is_closed => None,
            None => Some(Person { id: key.map(|key| key.fingerprint()), sessions: 1 }),
        }
    }

    /// Whether a client with this key may go on with a session: one in the book with its own, others with what is
    /// nobody's in the book.
    pub(crate) fn lets_resume(&self, key: Option<PublicKey>, session: &str) -> bool {
        let mut listed = self.listed.values();
        let owner = listed.find(|it| it.session_ids().iter().any(|id| id == session));
        match self.by_key(key) {
            Some(it) => !it.is_disabled && owner.is_some_and(|owner| owner.id == it.id),
            None => !self.is_closed && owner.is_none(),
        }
    }

    /// Whether a client that was let in by the book still is in it.
    pub(crate) fn still_has(&self, key: PublicKey) -> bool {
        self.by_key(Some(key)).is_some_and(|it| !it.is_disabled)
    }

    pub(crate) fn is_listed(&self, key: Option<PublicKey>) -> bool {
        self.by_key(key).is_some()
    }
}
