//! Which servers are reached without a proxy: the rules of the environment's `no_proxy`, as curl has them,
//! and Go's ports.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether `list` exempts `host`, a name or an IP address without brackets, at `port`.
///
/// Entries are parted by commas or blanks. A name stands for itself and all names below it, with a dot
/// before it or without; an address or a CIDR for addresses that are written as such in the server's URL:
/// nothing is looked up. `:port` behind a name or an address restricts it to that port. `*` is everything.
/// What is none of these exempts nothing.
pub(super) fn covers(list: &str, host: &str, port: u16) -> bool {
    let host = Host::of(host);
    let parted = |c: char| c == ',' || c.is_whitespace();
    list.split(parted).filter(|entry| !entry.is_empty()).any(|entry| matches(entry, &host, port))
}

enum Host<'a> {
    Name(&'a str),
    Address(IpAddr),
}

impl<'a> Host<'a> {
    fn of(host: &'a str) -> Self {
        match host.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(host),
        }
    }

    fn is(&self, entry: &str) -> bool {
        match self {
            Self::Name(name) => is_within(name, entry),
            Self::Address(address) => {
                let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
                bare.parse::<IpAddr>().is_ok_and(|entry| entry.to_canonical() == *address)
                    || entry.parse::<IpNet>().is_ok_and(|net| net.contains(address))
            }
        }
    }
}

fn matches(entry: &str, host: &Host<'_>, port: u16) -> bool {
    if entry == "*" || host.is(entry) {
        return true;
    }
    match entry.rsplit_once(':') {
        // More colons are an IPv6 address's, which has brackets where it has a port.
        Some((host_part, port_part)) if !host_part.contains(':') || host_part.ends_with(']') => {
            port_part.parse() == Ok(port) && host.is(host_part)
        }
        _ => false,
    }
}

/// Whether `name` is `domain` or below it.
fn is_within(name: &str, domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let Some(start) = name.len().checked_sub(domain.len()) else { return false };
    let is_whole_label = start == 0 || name.as_bytes()[start - 1] == b'.';
    !domain.is_empty() && is_whole_label && name.as_bytes()[start..].eq_ignore_ascii_case(domain.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn the_rules() {
        for (list, host, expected) in [
            ("", "vpn.example.com", false),
            ("*", "vpn.example.com", true),
            ("*", "2001:db8::1", true),
            ("localhost, *", "vpn.example.com", true),
            // Names.
            ("example.com", "example.com", true),
            ("example.com", "vpn.example.com", true),
            (".example.com", "vpn.example.com", true),
            (".example.com", "example.com", true),
            ("EXAMPLE.com.", "vpn.example.com", true),
            ("example.com", "nonexample.com", false),
            ("vpn.example.com", "example.com", false),
            ("com", "example.com", true),
            (".", "example.com", false),
            ("*.example.com", "vpn.example.com", false),
            ("exam*", "example.com", false),
            // Lists.
            ("a.test,example.com", "example.com", true),
            (" a.test , example.com ", "example.com", true),
            ("a.test example.com\tb.test", "example.com", true),
            (",,example.com,", "example.com", true),
            ("a.test,b.test", "example.com", false),
            // Addresses.
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.11", false),
            ("2.1", "192.0.2.1", false),
            ("192.0.2.0/24", "192.0.2.1", true),
            ("192.0.2.77/24", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.0/33", "192.0.2.1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("[2001:DB8::1]", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.0/24", "vpn.example.com", false),
            // Ports; the server's is 443.
            ("example.com:443", "vpn.example.com", true),
            ("example.com:8443", "vpn.example.com", false),
            ("example.com:", "vpn.example.com", false),
            ("192.0.2.1:443", "192.0.2.1", true),
            ("192.0.2.1:80", "192.0.2.1", false),
            ("[2001:db8::1]:443", "2001:db8::1", true),
            ("[2001:db8::1]:80", "2001:db8::1", false),
            ("2001:db8::1:443", "2001:db8::1", false),
        ] {
            assert_eq!(covers(list, host, 443), expected, "{list:?} for {host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(list in "[a-z0-9.,:/*é\\[\\] -]{0,40}", host in "[a-z0-9.:-]{0,20}") {
            let _ = covers(&list, &host, 443);
        }
    }
}
