//! Where a connection really comes from.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The client's address: the peer, or, where that is a trusted proxy, the right-most address in
/// `X-Forwarded-For` that is not a trusted proxy itself. What stands further left is whatever the client
/// wrote. The peer is the socket's, or the one that a PROXY header has in its place.
pub(super) fn client_address(peer: SocketAddr, forwarded_for: &[IpAddr], trusted: &[IpNet]) -> IpAddr {
    let peer = peer.ip().to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut hops = forwarded_for.iter().map(IpAddr::to_canonical);
    let first = hops.clone().next();
    hops.rfind(|&hop| !is_trusted(hop, trusted)).or(first).unwrap_or(peer)
}

/// Whether `addr` is a trusted proxy's.
pub(super) fn is_trusted(addr: IpAddr, trusted: &[IpNet]) -> bool {
    let addr = addr.to_canonical();
    trusted.iter().any(|net| net.contains(&addr))
}

#[cfg(test)]
mod tests {
    use super::client_address;

    fn seen(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let forwarded: Vec<_> = forwarded.iter().map(|addr| addr.parse().unwrap()).collect();
        let trusted: Vec<_> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client_address(format!("{peer}:443").parse().unwrap(), &forwarded, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(seen("198.51.100.7", &["10.0.0.1"], &[]), "198.51.100.7");
        assert_eq!(seen("127.0.0.1", &["203.0.113.9"], &["127.0.0.0/8"]), "203.0.113.9");
        assert_eq!(seen("127.0.0.1", &[], &["127.0.0.0/8"]), "127.0.0.1");
    }

    #[test]
    fn what_the_client_wrote_itself_is_not_believed() {
        let hops = ["1.2.3.4", "203.0.113.9", "10.0.0.2"];
        assert_eq!(seen("10.0.0.1", &hops, &["10.0.0.0/8"]), "203.0.113.9");
        assert_eq!(seen("[::ffff:10.0.0.1]", &hops, &["10.0.0.0/8"]), "203.0.113.9");
    }
}
