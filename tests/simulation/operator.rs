//! The town's operator, and what becomes of the clients it speaks of, as `server/clients.rs` has it.

use std::net::Ipv4Addr;

use rand::RngExt as _;
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::session::roster::ReserveError;

use crate::book::Listed;
use crate::host::Host;
use crate::outside::Outside;
use crate::town::Town;

impl Host {
    /// Keeps the addresses of registered clients for them. A session of an earlier run that has one of them gives way.
    pub(crate) fn keep_addresses(&mut self, out: &mut Outside) {
        for Listed { id, address, .. } in out.model.book.listed.clone().into_values() {
            let Some(address) = address else { continue };
            if let Some(intruder) = out.model.intruder(&id, address) {
                out.tally("a session gives way to whose address it has");
                assert!(self.roster.end(out.now, &intruder).is_some());
                self.unregister(out, &intruder);
            }
            assert!(self.keep(out, &id, address), "nobody has {address}");
        }
    }

    /// Keeps an address for a client, if it can.
    fn keep(&mut self, out: &mut Outside, id: &str, address: Ipv4Addr) -> bool {
        let reserved = self.roster.reserve(out.now, id, address);
        assert!(!matches!(reserved, Err(ReserveError::Outside(_))));
        let expected = out.model.keep(out.now, id, address);
        assert_eq!(reserved.is_ok(), expected, "whether {address} can be kept for {id}: {reserved:?}");
        if !expected {
            out.tally("a kept address is asked for that somebody has");
        }
        expected
    }

    /// Registers a client. Whether it can have its address.
    pub(crate) fn add(&mut self, out: &mut Outside, client: &Listed) -> bool {
        if let Some(address) = client.address
            && !self.keep(out, &client.id, address)
        {
            return false;
        }
        self.registry.add(client.registered()).unwrap();
        out.model.book.listed.insert(client.id.clone(), client.clone());
        self.touch(out);
        true
    }

    /// Changes what is said of a client. Whether it can have its address.
    pub(crate) fn update(&mut self, out: &mut Outside, client: &Listed) -> bool {
        match client.address {
            Some(address) if !self.keep(out, &client.id, address) => return false,
            Some(_) => {}
            None => {
                self.roster.unreserve(out.now, &client.id);
                out.model.keep_no_more(out.now, &client.id);
            }
        }
        self.registry.update(client.registered()).unwrap();
        out.model.book.listed.insert(client.id.clone(), client.clone());
        self.touch(out);
        if client.is_disabled {
            self.cut(out, client);
        }
        true
    }

    pub(crate) fn remove(&mut self, out: &mut Outside, client: &Listed) {
        self.registry.remove(&client.id).unwrap();
        out.model.book.listed.remove(&client.id);
        self.touch(out);
        self.cut(out, client);
        self.roster.unreserve(out.now, &client.id);
        out.model.keep_no_more(out.now, &client.id);
        for id in client.session_ids() {
            self.roster.forget(&id);
            out.model.forgotten(&id);
        }
    }

    fn cut(&mut self, out: &mut Outside, client: &Listed) {
        for id in client.session_ids() {
            self.kick(out, &id, DisconnectCode::Removed);
        }
    }
}

impl Town {
    /// The operator has a word on one of the clients, or a device comes that shares a key.
    pub(crate) fn operate(&mut self) {
        let Some(host) = self.host.as_mut().filter(|host| !host.is_closing()) else { return };
        let pick = self.kinds.random_range(0..self.clients.len());
        let client = self.clients[pick].clone();
        let out = &mut self.out;
        let Some(listed) = out.model.book.listed.get(&client.id).cloned() else {
            host.add(out, &client);
            return;
        };
        match self.kinds.random_range(0..4) {
            0 => {
                out.tally("a registered client is removed");
                host.remove(out, &listed);
            }
            1 => {
                let address = self.kinds.random_bool(0.7).then(|| {
                    let last = self.kinds.random_range(0..out.model.addresses.len());
                    out.model.addresses[last]
                });
                let taken = |other: &Listed| other.id != listed.id && other.address == address;
                if address.is_none() || !out.model.book.listed.values().any(taken) {
                    out.tally("a registered client is given another address");
                    host.update(out, &Listed { address, ..listed });
                }
            }
            _ => {
                out.tally("a registered client is disabled or enabled");
                host.update(out, &Listed { is_disabled: !listed.is_disabled, ..listed });
            }
        }
    }

    /// All clients may come in again.
    pub(crate) fn pardon(&mut self) {
        let Some(host) = &mut self.host else { return };
        for client in &self.clients {
            let out = &mut self.out;
            match out.model.book.listed.get(&client.id).cloned() {
                Some(listed) => {
                    host.update(out, &Listed { is_disabled: false, ..listed });
                }
                None => {
                    host.add(out, &Listed { address: None, ..client.clone() });
                }
            }
        }
    }
}
