//! Keeps our nftables tables: those that somebody takes away with a whole ruleset are written anew.
//!
//! `nft flush ruleset` is how firewalls are loaded. It takes the tables of everybody.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;

use super::error::NetworkError;
use super::netlink::{HEADER_LEN, find_attribute, is_one_of};
use super::nft::{self, REMOVAL_LIMIT};

/// A table is written anew so long after it was taken away: what is written together with its removal is there by then.
const REST: Duration = Duration::from_millis(200);

/// What cannot be written is tried again after this: `nft` may be away while its package is renewed.
const RETRY: Duration = Duration::from_secs(2);

/// A message of a removed table has some 60 bytes, but other rules' come too, in datagrams of up to 32 KiB
/// (`NLMSG_GOODSIZE` and what netlink adds). What is longer is cut, and is no message of a table.
const RECEIVE_LEN: usize = 64 * 1024;

/// The multicast group `NFNLGRP_NFTABLES`, as the bit by which it is subscribed to.
const GROUP: u32 = 1 << (7 - 1);
/// The subsystem `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_DELTABLE` in it.
const TABLE_DELETED: u16 = 10 << 8 | 2;
/// Length of a `struct nfgenmsg`.
const GENERIC_LEN: usize = 4;
const NFTA_TABLE_NAME: u16 = 1;

/// The tables that one instance wants to be there.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Locked while any of them is written, so that none is written anew that is to go.
    tables: Arc<Mutex<Vec<Kept>>>,
    watch: Option<AbortHandle>,
}

/// A table, of one family or two, and the commands that write it.
#[derive(Debug)]
struct Kept {
    name: String,
    commands: Vec<Value>,
}

impl Kept {
    /// In how many families it is: it is removed from each before it is made.
    fn families(&self) -> usize {
        self.commands.iter().filter(|command| command.get("delete").is_some()).count()
    }
}

impl Keeper {
    /// Has `install` write the table, and keeps it from then on.
    pub(super) fn keep(
        &mut self,
        name: &str,
        commands: Vec<Value>,
        install: impl FnOnce(&[Value]) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        // Before there is something to lose.
        self.watch();
        let mut tables = lock(&self.tables);
        install(&commands)?;
        tables.retain(|kept| kept.name != name);
        tables.push(Kept { name: name.to_owned(), commands });
        Ok(())
    }

    /// Lets the table go.
    pub(super) fn release(&self, name: &str) {
        lock(&self.tables).retain(|kept| kept.name != name);
    }

    /// Lets all of them go.
    pub(super) fn release_all(&self) {
        lock(&self.tables).clear();
    }

    /// Begins to hear what happens to tables. Without it they stay as long as nobody takes them away.
    fn watch(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.watch.is_some() {
            return;
        }
        let _runtime = runtime.enter();
        match subscribe() {
            Ok(socket) => {
                let watch = runtime.spawn(watch(socket, Arc::clone(&self.tables)));
                self.watch = Some(watch.abort_handle());
            }
            Err(error) => tracing::debug!(%error, "what happens to the firewall's tables is not heard"),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.release_all();
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

fn lock(tables: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, GROUP))?;
    // Nobody but the kernel (port 0) can now send to this socket, other than to the groups, which takes root.
    socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

async fn watch(socket: TokioSocket, tables: Arc<Mutex<Vec<Kept>>>) {
    let mut received = Vec::with_capacity(RECEIVE_LEN);
    loop {
        received.clear();
        match poll_fn(|context| socket.poll_recv(context, &mut received)).await {
            Ok(()) if !concerns(&received) => continue,
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Messages were lost: any table may be gone.
            Err(error) if is_one_of(&error, &[Errno::NOBUFS, Errno::NOMEM]) => {}
            Err(error) => {
                tracing::warn!(%error, "what happens to the firewall's tables is no longer heard");
                return;
            }
        }
        sleep(REST).await;
        while !mend(&tables).await {
            sleep(RETRY).await;
        }
    }
}

/// Whether one of our tables, of whichever instance, was removed.
fn concerns(mut datagram: &[u8]) -> bool {
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        let Ok(length) = usize::try_from(message.length()) else { return false };
        if message.message_type() == TABLE_DELETED {
            let attributes = datagram.get(HEADER_LEN + GENERIC_LEN..length).unwrap_or_default();
            let name = find_attribute(attributes, NFTA_TABLE_NAME).unwrap_or_default();
            if std::str::from_utf8(name).is_ok_and(nft::is_our_table) {
                return true;
            }
        }
        // Messages are aligned to four bytes.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Writes the tables anew that are gone; whether all are there.
async fn mend(tables: &Arc<Mutex<Vec<Kept>>>) -> bool {
    let tables = Arc::clone(tables);
    let mended = spawn_blocking(move || mend_now(&lock(&tables))).await;
    mended
        .unwrap_or(Ok(()))
        .inspect_err(|error| tracing::warn!(%error, "the firewall's tables are not mended"))
        .is_ok()
}

fn mend_now(tables: &[Kept]) -> io::Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let there = nft::list_tables()?;
    let is_gone = |kept: &&Kept| there.iter().filter(|name| **name == kept.name).count() < kept.families();
    for gone in tables.iter().filter(is_gone) {
        tracing::info!(table = gone.name, "a table that somebody has removed is written anew");
        nft::transact(&gone.commands, REMOVAL_LIMIT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, table: &str) -> Vec<u8> {
        let name = [table.as_bytes(), &[0]].concat();
        let attribute_length = u16::try_from(4 + name.len()).unwrap();
        let mut body = vec![1, 0, 0, 7];
        body.extend([attribute_length.to_ne_bytes(), NFTA_TABLE_NAME.to_ne_bytes()].concat());
        body.extend(name);
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        message.extend(body);
        message
    }

    #[test]
    fn only_the_removal_of_a_table_of_ours_counts() {
        let (created, theirs, ours) = (
            message(10 << 8, "smartvpn-vpn0"),
            message(TABLE_DELETED, "filter"),
            message(TABLE_DELETED, "smartvpn-vpn0"),
        );
        assert!(!concerns(&created) && !concerns(&theirs) && concerns(&ours));
        assert!(concerns(&[theirs.clone(), message(TABLE_DELETED, "smartvpn_guard-vpn0")].concat()));
        for length in 0..ours.len() {
            assert!(!concerns(&ours[..length]), "{length}");
        }
        assert!(!concerns(&[theirs, vec![0xff; 40]].concat()));
    }
}
