//! The proxy that a client goes through: its configuration's, or its environment's (API §9).

use std::env;

use crate::error::VpnError;
use crate::transport::{Endpoint, Proxy};

/// Where the environment names a proxy, and what it exempts from it. The first that is not empty holds, as
/// for curl; a WebSocket is asked for as an HTTPS server is, with TLS or without.
const PROXY_VARIABLES: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
const EXEMPTION_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// `proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// Not configured: the environment's, if it has one for the server.
    #[default]
    Environment,
    /// Configured as `''`: none.
    Nothing,
    /// This one.
    Through(Proxy),
}

impl ProxyChoice {
    /// The proxy on the way to `server`, if any, by the environment of this process as it is now.
    pub(super) fn in_force(&self, server: &Endpoint) -> Result<Option<Proxy>, VpnError> {
        // A value that is not Unicode is none that could be used.
        self.resolve(server, |name| env::var(name).ok())
    }

    fn resolve(
        &self,
        server: &Endpoint,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, VpnError> {
        match self {
            Self::Nothing => return Ok(None),
            Self::Through(proxy) => return Ok(Some(proxy.clone())),
            Self::Environment => {}
        }
        let set = |names: [&'static str; 2]| {
            let variable =
                |name| environment(name).filter(|value| !value.is_empty()).map(|value| (name, value));
            names.into_iter().find_map(variable)
        };
        let Some((name, url)) = set(PROXY_VARIABLES) else { return Ok(None) };
        if set(EXEMPTION_VARIABLES).is_some_and(|(_, list)| Proxy::is_exempt(&list, server)) {
            return Ok(None);
        }
        // Other programs take a scheme for granted.
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        Proxy::parse(&url).map(Some).map_err(|error| {
            let message = format!(
                "proxy is not given, and the environment's {name} cannot be used: it {error}; \
                 give proxy, or \"\" for none"
            );
            VpnError::config("proxy", message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Result<Option<Proxy>, VpnError> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ProxyChoice::Environment.resolve(&server(), environment)
    }

    fn server() -> Endpoint {
        Endpoint::parse("wss://vpn.example.org/").unwrap()
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let (lower, upper) = (("https_proxy", "http://lower:1"), ("HTTPS_PROXY", "http://upper:2"));
        for (variables, expected) in [
            (&[][..], None),
            (&[upper], Some("upper:2")),
            (&[upper, lower], Some("lower:1")),
            (&[upper, ("https_proxy", "")], Some("upper:2")),
            (&[("https_proxy", "bare:3")], Some("bare:3")),
            (&[("ALL_PROXY", "http://all:4"), ("all_proxy", "http://all:4")], None),
            (&[("HTTP_PROXY", "http://all:4"), ("http_proxy", "http://all:4")], None),
            (&[upper, ("NO_PROXY", "example.org")], None),
            (&[upper, ("NO_PROXY", "other.test")], Some("upper:2")),
            (&[upper, ("NO_PROXY", "*"), ("no_proxy", "other.test")], Some("upper:2")),
            (&[upper, ("NO_PROXY", "*"), ("no_proxy", "")], None),
            (&[("HTTPS_PROXY", "socks5://x"), ("NO_PROXY", "vpn.example.org")], None),
        ] {
            let proxy = resolve(variables).unwrap().map(|proxy| proxy.to_string());
            assert_eq!(proxy.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn what_the_environment_has_and_cannot_be_used_is_told_by_its_name() {
        for url in ["https://me:hunter2@proxy:3128", "socks5://me:hunter2@proxy:3128", "me:hunter2@proxy"] {
            let error = resolve(&[("HTTPS_PROXY", url)]).unwrap_err();
            assert_eq!(error.path.as_deref(), Some("proxy"));
            assert!(error.message.contains("HTTPS_PROXY") && !error.message.contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn the_configuration_goes_before_the_environment() {
        let environment = |_: &str| Some("http://environment:1".to_owned());
        assert_eq!(ProxyChoice::Nothing.resolve(&server(), environment).unwrap(), None);
        let proxy = Proxy::parse("http://configured:2").unwrap();
        let through = ProxyChoice::Through(proxy.clone());
        // What the environment exempts is exempt from the environment's proxy.
        assert_eq!(through.resolve(&server(), |_| Some("*".to_owned())).unwrap(), Some(proxy));
    }
}
