//! The addresses of a tunnel: one of IPv4 for each client, and one of IPv6 where there is a subnet
//! for it. A client has both or nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::pool::{Lease, Pool};
use super::subnet::Subnet;

/// What one client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in a tunnel that has IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// Addresses given out together; the holder's until [`AddressPool::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "addresses that are not released are lost to the pool"]
pub struct AddressLease {
    /// The IPv4 address.
    pub v4: Lease<Ipv4Addr>,
    /// The IPv6 address, in a tunnel that has IPv6.
    pub v6: Option<Lease<Ipv6Addr>>,
}

impl AddressLease {
    /// The addresses alone.
    pub fn addresses(&self) -> Addresses {
        Addresses { v4: self.v4.addr, v6: self.v6.map(|lease| lease.addr) }
    }

    /// Those whose connection tracking entries must be deleted before their new holder sends, since
    /// they rested too short.
    pub fn early(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.early.then_some(self.v4.addr.into());
        let v6 = self.v6.filter(|lease| lease.early).map(|lease| lease.addr.into());
        v4.into_iter().chain(v6)
    }
}

/// The clients' addresses of a tunnel.
#[derive(Debug)]
pub struct AddressPool {
    v4: Pool<Ipv4Addr>,
    v6: Option<Pool<Ipv6Addr>>,
}

impl AddressPool {
    /// A pool with every address free.
    pub fn new(v4: Subnet<Ipv4Addr>, v6: Option<Subnet<Ipv6Addr>>) -> Self {
        Self { v4: Pool::new(v4), v6: v6.map(Pool::new) }
    }

    /// How many clients the subnets hold: the smaller one's number.
    pub fn capacity(&self) -> u64 {
        self.smaller_of(Pool::capacity, Pool::capacity)
    }

    /// How many more clients can get addresses now.
    pub fn free_count(&self) -> u64 {
        self.smaller_of(Pool::free_count, Pool::free_count)
    }

    /// Gives out the least recently used address of each family; `None` when either has none free.
    pub fn allocate(&mut self, now: Instant) -> Option<AddressLease> {
        if self.free_count() == 0 {
            return None;
        }
        let v4 = self.v4.allocate(now)?;
        let v6 = self.v6.as_mut().and_then(|pool| pool.allocate(now));
        Some(AddressLease { v4, v6 })
    }

    /// Gives out these very addresses, to a client that had them before; `None` when somebody holds
    /// either, either is outside its subnet, or the tunnel has other families by now.
    pub fn allocate_specific(&mut self, wanted: Addresses, now: Instant) -> Option<AddressLease> {
        let (pool6, wanted6) = match (&mut self.v6, wanted.v6) {
            (Some(pool), Some(addr)) => (pool, addr),
            (None, None) => {
                let v4 = self.v4.allocate_specific(wanted.v4, now)?;
                return Some(AddressLease { v4, v6: None });
            }
            (Some(_), None) | (None, Some(_)) => return None,
        };
        if !self.v4.is_free(wanted.v4) {
            return None;
        }
        let v6 = pool6.allocate_specific(wanted6, now)?;
        let v4 = self.v4.allocate_specific(wanted.v4, now)?;
        Some(AddressLease { v4, v6: Some(v6) })
    }

    /// Gives out this IPv4 address, with the least recently used IPv6 one where there is a subnet; `None` when somebody
    /// holds it, it is outside its subnet, or no IPv6 address is free.
    pub fn allocate_v4(&mut self, wanted: Ipv4Addr, now: Instant) -> Option<AddressLease> {
        if !self.v4.is_free(wanted) {
            return None;
        }
        let v6 = match &mut self.v6 {
            Some(pool) => Some(pool.allocate(now)?),
            None => None,
        };
        let v4 = self.v4.allocate_specific(wanted, now)?;
        Some(AddressLease { v4, v6 })
    }

    /// Whether nobody holds this IPv4 address, which a client can have.
    pub fn is_free_v4(&self, addr: Ipv4Addr) -> bool {
        self.v4.is_free(addr)
    }

    /// Whether this is a client's address of the IPv4 subnet, free or not.
    pub fn holds(&self, addr: Ipv4Addr) -> bool {
        self.v4.subnet().is_client(addr)
    }

    /// Takes a client's addresses back; they rest from `now` on. Whether all of them were held.
    pub fn release(&mut self, addresses: Addresses, now: Instant) -> bool {
        let v4 = self.v4.release(addresses.v4, now);
        let v6 = match (&mut self.v6, addresses.v6) {
            (Some(pool), Some(addr)) => pool.release(addr, now),
            (_, v6) => v6.is_none(),
        };
        v4 && v6
    }

    /// How often an address was released that nobody held; see [`Pool::faults`].
    pub fn faults(&self) -> u64 {
        self.v4.faults() + self.v6.as_ref().map_or(0, Pool::faults)
    }

    fn smaller_of(&self, of4: impl Fn(&Pool<Ipv4Addr>) -> u64, of6: impl Fn(&Pool<Ipv6Addr>) -> u64) -> u64 {
        self.v6.as_ref().map_or(u64::MAX, of6).min(of4(&self.v4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::pool::REST;

    #[test]
    fn an_ipv4_address_of_choice_comes_with_any_ipv6_one() {
        let now = epoch();
        let mut pool = AddressPool::new("10.8.0.0/29".parse().unwrap(), Some("fd00::/125".parse().unwrap()));
        let lease = pool.allocate_v4([10, 8, 0, 5].into(), now).unwrap();
        assert_eq!(lease.addresses().v4, Ipv4Addr::from([10, 8, 0, 5]));
        assert!(lease.v6.is_some());
        for addr in [[10, 8, 0, 5], [10, 8, 0, 1], [10, 8, 0, 7], [10, 8, 0, 8]] {
            assert_eq!(pool.allocate_v4(addr.into(), now), None, "{addr:?}");
        }
        assert!(pool.holds([10, 8, 0, 5].into()) && !pool.holds([10, 8, 0, 1].into()));
    }

    #[test]
    fn a_tunnel_without_ipv6_gives_ipv4_alone() {
        let now = epoch();
        let mut pool = AddressPool::new("10.8.0.0/30".parse().unwrap(), None);
        let lease = pool.allocate(now).unwrap();
        assert_eq!(lease.addresses(), Addresses { v4: Ipv4Addr::new(10, 8, 0, 2), v6: None });
        assert_eq!(lease.early().count(), 0);
        assert_eq!(pool.allocate(now), None);
        assert!(pool.release(lease.addresses(), now));
        assert_eq!(pool.allocate(now).unwrap().early().collect::<Vec<_>>(), [lease.v4.addr]);
    }

    #[test]
    fn both_or_nothing() {
        let now = epoch();
        for (v4, v6, capacity) in [("10.8.0.0/29", "fd00::/64", 5), ("10.8.0.0/24", "fd00::/125", 6)] {
            let mut pool = AddressPool::new(v4.parse().unwrap(), Some(v6.parse().unwrap()));
            assert_eq!((pool.capacity(), pool.free_count()), (capacity, capacity));
            for _ in 0..capacity {
                assert!(pool.allocate(now).unwrap().v6.is_some());
            }
            let held = pool.v4.held_count();
            assert_eq!(pool.allocate(now), None);
            assert_eq!((pool.free_count(), pool.v4.held_count()), (0, held));
        }
    }

    #[test]
    fn early_addresses_of_both_families_are_told() {
        let now = epoch();
        let mut pool = AddressPool::new("10.8.0.0/30".parse().unwrap(), Some("fd00::/125".parse().unwrap()));
        let first = pool.allocate(now).unwrap().addresses();
        pool.release(first, now);
        let again = pool.allocate_specific(first, now).unwrap();
        assert_eq!(again.early().collect::<Vec<_>>(), [IpAddr::V4(first.v4), first.v6.unwrap().into()]);
        pool.release(first, now);
        let rested = pool.allocate_specific(first, now + REST).unwrap();
        assert_eq!(rested.early().count(), 0);
    }

    #[test]
    fn former_addresses_are_given_back_whole_or_not_at_all() {
        let now = epoch();
        let mut pool = AddressPool::new("10.8.0.0/29".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        let wanted = |v4: u8, v6: Option<&str>| Addresses {
            v4: Ipv4Addr::new(10, 8, 0, v4),
            v6: v6.map(|text| text.parse().unwrap()),
        };
        assert!(pool.allocate_specific(wanted(4, Some("fd00::4")), now).is_some());
        for refused in [
            wanted(4, Some("fd00::5")),
            wanted(5, Some("fd00::4")),
            wanted(5, Some("fd01::5")),
            wanted(9, Some("fd00::5")),
            wanted(5, None),
        ] {
            assert_eq!(pool.allocate_specific(refused, now), None, "{refused:?}");
        }
        assert!(pool.allocate_specific(wanted(5, Some("fd00::5")), now).is_some());
        let mut without = AddressPool::new("10.8.0.0/29".parse().unwrap(), None);
        assert_eq!(without.allocate_specific(wanted(5, Some("fd00::5")), now), None);
    }

    #[test]
    fn a_second_release_is_counted_for_each_family() {
        let now = epoch();
        let mut pool = AddressPool::new("10.8.0.0/29".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        let lease = pool.allocate(now).unwrap().addresses();
        assert!(pool.release(lease, now));
        assert!(!pool.release(lease, now));
        assert_eq!((pool.faults(), pool.free_count()), (2, 5));
    }

    /// Where simulated time begins.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn epoch() -> Instant {
        Instant::now()
    }
}
