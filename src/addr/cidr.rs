//! CIDR notation, read strictly: what is odd is a mistake that its author wants to know of.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// An address alone.
    #[error("it has no prefix length; this one address is written {0}")]
    NoPrefix(IpNet),
    /// What stands before the slash is neither IPv4 nor IPv6.
    #[error("it is not an IP address with a prefix length")]
    Address,
    /// The prefix length is not a number that the address has bits for.
    #[error("its prefix length is not a number from 0 to {0}")]
    Prefix(u8),
    /// The address has bits behind its prefix.
    #[error("it has bits set behind its prefix; the network is {0}")]
    HostBits(IpNet),
}

/// Reads `address/prefix` whose bits behind the prefix are zero.
pub fn parse_cidr(text: &str) -> Result<IpNet, CidrError> {
    let Some((address, prefix)) = text.split_once('/') else {
        let address = text.parse::<IpAddr>().map_err(|_| CidrError::Address)?;
        return Err(CidrError::NoPrefix(address.into()));
    };
    let address = address.parse::<IpAddr>().map_err(|_| CidrError::Address)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = parse_prefix(prefix).ok_or(CidrError::Prefix(bits))?;
    let net = IpNet::new(address, prefix).map_err(|_| CidrError::Prefix(bits))?;
    if net.addr() == net.network() { Ok(net) } else { Err(CidrError::HostBits(net.trunc())) }
}

/// Reads a network as [`parse_cidr`] does, or one address alone as the network of just that one.
pub fn parse_cidr_or_address(text: &str) -> Result<IpNet, CidrError> {
    match parse_cidr(text) {
        Err(CidrError::NoPrefix(host)) => Ok(host),
        read => read,
    }
}

/// Decimal digits without sign or leading zeros.
fn parse_prefix(text: &str) -> Option<u8> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_networks_of_both_families() {
        for text in ["10.8.0.0/24", "0.0.0.0/0", "192.0.2.1/32", "fd00::/64", "::/0", "2001:db8::1/128"] {
            assert_eq!(parse_cidr(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn shows_the_network_where_host_bits_are_set() {
        for (text, network) in
            [("10.8.0.1/24", "10.8.0.0/24"), ("10.8.0.0/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64")]
        {
            assert_eq!(parse_cidr(text), Err(CidrError::HostBits(network.parse().unwrap())));
        }
        assert_eq!(
            parse_cidr("10.8.0.1/24").unwrap_err().to_string(),
            "it has bits set behind its prefix; the network is 10.8.0.0/24"
        );
    }

    #[test]
    fn an_address_alone_is_a_network_only_where_that_is_meant() {
        let host = "192.0.2.1/32".parse().unwrap();
        assert_eq!(parse_cidr("192.0.2.1"), Err(CidrError::NoPrefix(host)));
        assert_eq!(parse_cidr_or_address("192.0.2.1"), Ok(host));
        assert_eq!(parse_cidr_or_address("::1"), Ok("::1/128".parse().unwrap()));
        assert_eq!(parse_cidr_or_address("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(parse_cidr_or_address("nonsense"), Err(CidrError::Address));
    }

    #[test]
    fn refuses_what_is_odd() {
        let table = [
            ("", CidrError::Address),
            ("/24", CidrError::Address),
            ("10.8.0/24", CidrError::Address),
            ("010.8.0.0/24", CidrError::Address),
            (" 10.8.0.0/24", CidrError::Address),
            ("fe80::1%eth0/64", CidrError::Address),
            ("example.org/24", CidrError::Address),
            ("10.8.0.0/", CidrError::Prefix(32)),
            ("10.8.0.0/33", CidrError::Prefix(32)),
            ("10.8.0.0/024", CidrError::Prefix(32)),
            ("10.8.0.0/+24", CidrError::Prefix(32)),
            ("10.8.0.0/24 ", CidrError::Prefix(32)),
            ("10.8.0.0/255.255.255.0", CidrError::Prefix(32)),
            ("10.8.0.0/24/24", CidrError::Prefix(32)),
            ("10.8.0.0/256", CidrError::Prefix(32)),
            ("fd00::/129", CidrError::Prefix(128)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_cidr(text), Err(expected), "{text:?}");
        }
    }
}
