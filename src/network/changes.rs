//! stub
use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::NetworkError;
use super::firewall::Warning;

/// stub
pub struct HostChanges;

#[expect(clippy::unused_async, reason = "signatures first")]
impl HostChanges {
    /// stub
    pub async fn begin(_state_dir: Option<&Path>, _instance: &str) -> Result<Self, NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn route_via_tunnel(&mut self, _net: IpNet, _ifindex: u32) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn pin_route(&mut self, _server: IpAddr) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn block_ipv6(&mut self) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn enable_forwarding(&mut self, _tun_name: &str, _v6: bool) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn masquerade(
        &mut self,
        _tun_name: &str,
        _v4: Ipv4Net,
        _v6: Option<Ipv6Net>,
        _client_to_client: bool,
    ) -> Result<(), NetworkError> {
        unimplemented!()
    }
    /// stub
    pub async fn foreign_forward_drops(&self, _tun_name: &str) -> Vec<Warning> {
        unimplemented!()
    }
    /// stub
    pub async fn undo(self) {
        unimplemented!()
    }
}
