//! stub
use std::io;
use std::net::IpAddr;

/// Deletes the connection-tracking entries of one tunnel address, and returns how many there were.
pub async fn delete_conntrack(_address: IpAddr) -> io::Result<usize> {
    unimplemented!()
}
