//! Invites: tokens that register whoever holds them, a number of times and for a while (PROTOCOL §3).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{RegisteredClient, Registry, RegistryError};
use crate::codec::hello::is_client_id;
use crate::codec::secret::Token;
use crate::crypto::keys::PublicKey;

/// Random bytes in an invite's token: beyond guessing, and short in a QR code.
pub const INVITE_TOKEN_LEN: usize = 16;

/// Invites that are open at a time, at most; some 2 MiB when full.
pub const INVITES_MAX: usize = 8_192;

/// Bytes of an invite's name that go into the ids of its clients, so that there is room for a number.
const STEM_MAX: usize = 48;

/// Which invite: a hash of its token, so that neither memory nor file hold what would let somebody in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InviteId([u8; 32]);

impl InviteId {
    /// That of a token.
    pub fn of(token: &Token) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
        Self(id)
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for InviteId {
    /// Its first eight bytes in hex: enough for people to tell invites apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteId({self})")
    }
}

/// An open invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// The label of clients that come by it, unless they bring their own.
    pub name: Option<String>,
    /// When it ceases to be good, in Unix seconds.
    pub expires_at: u64,
    /// How many more clients may come by it.
    pub uses: u32,
}

impl Registry {
    /// Opens an invite. Returns its token, which is kept nowhere, and its id.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TooManyInvites`].
    pub fn invite(
        &mut self,
        unix: u64,
        invite: Invite,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Token, InviteId), RegistryError> {
        self.invites.retain(|_, invite| unix < invite.expires_at);
        if self.invites.len() >= INVITES_MAX {
            return Err(RegistryError::TooManyInvites);
        }
        let mut bytes = Zeroizing::new([0; INVITE_TOKEN_LEN]);
        rng.fill_bytes(&mut *bytes);
        #[expect(clippy::expect_used, reason = "22 characters of base64url are a token")]
        let token = Token::new(URL_SAFE_NO_PAD.encode(*bytes)).expect("base64url is printable");
        let id = InviteId::of(&token);
        self.invites.insert(id, invite);
        Ok((token, id))
    }

    /// Registers the key of a client that has come by an invite and confirmed its keys, and counts the use.
    ///
    /// False if the invite has been used up or has expired meanwhile, the id was taken, or there is no room for more
    /// clients.
    pub fn enrol(
        &mut self,
        unix: u64,
        invite: &InviteId,
        key: PublicKey,
        id: &str,
        name: Option<&str>,
    ) -> bool {
        // It came by two connections at once, and the other one was first.
        if let Some(client) = self.by_key(&key) {
            return client.id == id;
        }
        let Some(open) = self.invites.get(invite).filter(|_| self.is_open(unix, invite)) else {
            return false;
        };
        let name = name.map(str::to_owned).or_else(|| open.name.clone());
        if self.add(RegisteredClient { name, ..RegisteredClient::new(id.to_owned(), key) }).is_err() {
            return false;
        }
        if let Some(open) = self.invites.get_mut(invite) {
            open.uses -= 1;
            if open.uses == 0 {
                self.invites.remove(invite);
            }
        }
        true
    }

    /// An id for the next client of an invite, after its label; none if the invite is no longer good.
    pub fn invited(
        &self,
        unix: u64,
        invite: &InviteId,
        name: Option<&str>,
        is_taken: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let open = self.invites.get(invite).filter(|_| self.is_open(unix, invite))?;
        let stem = stem(name.or(open.name.as_deref()).unwrap_or_default());
        let numbered = (2_u64..).map(|number| format!("{stem}-{number}"));
        let is_free = |id: &String| !self.by_session.contains_key(id) && !is_taken(id);
        std::iter::once(stem.clone()).chain(numbered).find(is_free)
    }

    pub(super) fn is_open(&self, unix: u64, id: &InviteId) -> bool {
        self.invites.get(id).is_some_and(|invite| unix < invite.expires_at && invite.uses > 0)
    }
}

/// What of a label can stand in an id.
fn stem(name: &str) -> String {
    let stem: String = name
        .chars()
        .map(|char| if char.is_whitespace() { '-' } else { char.to_ascii_lowercase() })
        .filter(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_'))
        .take(STEM_MAX)
        .collect();
    if is_client_id(&stem) { stem } else { "client".to_owned() }
}
