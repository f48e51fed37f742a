//! Registered clients of a serving server: what the operator says of them, at once (API §9).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::hub::{Hub, Members, unix_now};
use crate::codec::disconnect::DisconnectCode;
use crate::config::Invite;
use crate::config::clients::{InviteOptions, changed_client, iso, parse_client, to_map};
use crate::engine::clock;
use crate::error::{ErrorCode, VpnError};
use crate::qos::RateLimit;
use crate::report::DisconnectReason;
use crate::session::registry::{Invite as OpenInvite, RegisteredClient, RegistryError};
use crate::session::roster::ReserveError;

/// How often registrations are looked at while some of them expire: they end by the wall clock, which may be set.
const EXPIRY_TICK: Duration = Duration::from_millis(500);

impl Hub {
    /// Registers a client. Returns it as it is listed.
    pub(super) fn add_client(&self, client: &Value) -> Result<Value, VpnError> {
        let client = parse_client(client, self.config.subnet)?;
        let mut members = self.members();
        if let Some(addr) = client.assigned_ip {
            // Whose it is already is the better reason.
            if let Some(holder) = members.registry.holder(addr) {
                return Err(refused(&RegistryError::AddressTaken(addr, holder.id.clone())));
            }
            members.roster.reserve(clock::now(), &client.id, addr).map_err(|error| not_reserved(&error))?;
        }
        if let Err(error) = members.registry.add(client.clone()) {
            if members.registry.get(&client.id).is_none() {
                members.roster.unreserve(clock::now(), &client.id);
            }
            return Err(refused(&error));
        }
        let listed = listed(&members, &client);
        drop(members);
        self.expiries.notify_one();
        Ok(listed)
    }

    /// Changes what is said of a client. Returns it as it is listed.
    pub(super) fn update_client(&self, id: &str, changes: &Value) -> Result<Value, VpnError> {
        let mut members = self.members();
        let old = members.registry.get(id).cloned().ok_or_else(|| unknown(id))?;
        let new = changed_client(&old, changes, self.config.subnet)?;
        if let Some(addr) = new.assigned_ip.filter(|_| new.assigned_ip != old.assigned_ip) {
            if let Some(holder) = members.registry.holder(addr) {
                return Err(refused(&RegistryError::AddressTaken(addr, holder.id.clone())));
            }
            members.roster.reserve(clock::now(), id, addr).map_err(|error| not_reserved(&error))?;
        }
        if let Err(error) = members.registry.update(new.clone()) {
            members.roster.unreserve(clock::now(), id);
            if let Some(addr) = old.assigned_ip {
                // It was its own until now.
                let _kept = members.roster.reserve(clock::now(), id, addr);
            }
            return Err(refused(&error));
        }
        if new.assigned_ip.is_none() {
            members.roster.unreserve(clock::now(), id);
        }
        self.enforce(&mut members, &old, &new);
        let listed = listed(&members, &new);
        drop(members);
        self.expiries.notify_one();
        Ok(listed)
    }

    /// Removes a client: it is cut, and its tickets are void.
    pub(super) fn remove_client(&self, id: &str) -> Result<(), VpnError> {
        let mut members = self.members();
        let client = members.registry.remove(id).map_err(|_| unknown(id))?;
        self.cut(&mut members, client.session_ids(), DisconnectReason::Removed);
        members.roster.unreserve(clock::now(), id);
        client.session_ids().for_each(|session| members.roster.forget(&session));
        Ok(())
    }

    /// All registered clients, by id.
    pub(super) fn registered_clients(&self) -> Vec<Value> {
        let members = self.members();
        members.registry.clients().into_iter().map(|client| listed(&members, client)).collect()
    }

    /// Opens an invite. Returns it as `IVpnInvite`.
    pub(super) fn create_invite(&self, options: &Value) -> Result<Value, VpnError> {
        let options = InviteOptions::parse(options)?;
        let server = options.server_url.or_else(|| self.config.public_url.clone()).ok_or_else(|| {
            let message = "an invite says where the server is: give serverUrl, or publicUrl in the server's configuration";
            VpnError::new(ErrorCode::InvalidArgument, message)
        })?;
        // A proxy in front shows a certificate of its own, which is known there only.
        let pin = self.tls.as_ref().and_then(|tls| tls.pin(&server.host));
        let unix = unix_now();
        let expires_at = unix.saturating_add(options.expires_in.as_secs());
        let open = OpenInvite { name: options.name, expires_at, uses: options.uses };
        let opened = self.members().registry.invite(unix, open, &mut rand::rng());
        let (token, id) = opened.map_err(|error| refused(&error))?;
        let invite = Invite::new(server, self.keypair.public, token, pin)?;
        Ok(json!({ "url": *invite.to_url(), "id": id.to_string(), "expiresAt": iso(expires_at) }))
    }

    /// Cuts clients whose registration expires. Never ends.
    pub(super) async fn watch_expiries(&self) {
        loop {
            if self.members().registry.next_expiry().is_none() {
                self.expiries.notified().await;
            }
            self.cut_expired();
            sleep(EXPIRY_TICK).await;
        }
    }

    fn cut_expired(&self) {
        let mut members = self.members();
        for client in members.registry.expire(unix_now()) {
            tracing::info!(client = client.id, "the registration has expired");
            self.cut(&mut members, client.session_ids(), DisconnectReason::Expired);
        }
    }

    /// What a change means for sessions that are up.
    fn enforce(&self, members: &mut Members, old: &RegisteredClient, new: &RegisteredClient) {
        let expired = new.expires_at.is_some_and(|at| at <= unix_now());
        if new.disabled || expired || new.public_key != old.public_key {
            let reason = if expired { DisconnectReason::Expired } else { DisconnectReason::Removed };
            self.cut(members, old.session_ids(), reason);
            return;
        }
        let kept = usize::try_from(new.max_sessions).unwrap_or(usize::MAX);
        self.cut(members, old.session_ids().skip(kept), DisconnectReason::Removed);
        if new.limit != old.limit {
            let limit = new.limit.and_then(|(rate, burst)| RateLimit::new(rate, burst).ok());
            let limit = limit.or(self.config.default_rate_limit);
            for peer in new.session_ids().filter_map(|session| self.find(&session)) {
                peer.set_limit(limit);
                members.roster.set_limit(&peer.id, limit.map(|limit| (limit.rate(), limit.burst())));
            }
        }
    }

    /// Ends sessions, whether their clients are there or not, and makes their tickets void.
    fn cut(&self, members: &mut Members, sessions: impl Iterator<Item = String>, reason: DisconnectReason) {
        for session in sessions {
            members.roster.revoke(unix_now(), &session);
            if let Some(peer) = self.find(&session) {
                self.dismiss(members, &peer, DisconnectCode::Removed, reason);
            }
        }
    }
}

fn listed(members: &Members, client: &RegisteredClient) -> Value {
    let mut listed = to_map(client);
    let online = client.session_ids().any(|session| members.roster.is_online(&session));
    listed.insert("online".to_owned(), json!(online));
    Value::Object(listed)
}

fn unknown(id: &str) -> VpnError {
    let message =
        format!("no client with the id {id:?} is registered; listRegisteredClients() shows those that are");
    VpnError::new(ErrorCode::UnknownClient, message)
}

fn refused(error: &RegistryError) -> VpnError {
    VpnError::new(ErrorCode::InvalidArgument, format!("the client cannot be registered like that: {error}"))
}

fn not_reserved(error: &ReserveError) -> VpnError {
    VpnError::new(ErrorCode::InvalidArgument, format!("assignedIp cannot be kept for the client: {error}"))
}
