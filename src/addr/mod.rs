//! Networks as users write them, and the addresses that clients get from them.

pub mod address_pool;
pub mod cidr;
pub mod pool;
pub mod subnet;

pub use address_pool::{AddressLease, AddressPool, Addresses};
pub use pool::{Lease, Pool, REST};
pub use subnet::{Address, Subnet};
