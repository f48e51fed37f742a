//! Invites: where a server is, how it is known, and the right to register a key there once, in one URL (API §9).
//!
//! ```text
//! vpn://host[:port]/path#<server key>.<token>[.<pin>]       wss://host[:port]/path below
//! vpn+ws://host[:port]/path#<server key>.<token>            ws://host[:port]/path below
//! ```
//!
//! Key and pin are base64url (RFC 4648 §5) without padding. What stands behind `#` is never sent to anybody who is
//! given the URL to open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::codec::secret::Token;
use crate::crypto::keys::PublicKey;
use crate::error::{ErrorCode, VpnError};
use crate::transport::{Endpoint, EndpointError};

/// Characters of a key or pin.
const WORD_LEN: usize = 43;

/// The longest token of an invite, in characters: 768 bits. Ours have 128.
const TOKEN_LIMIT: usize = 128;

/// The longest URL that is read, in bytes: what the longest path and the longest token take, and more.
const URL_LIMIT: usize = 8192;

/// An invite.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// Where the server is.
    server: Endpoint,
    /// The key that it must prove to hold.
    server_key: PublicKey,
    /// The right to register.
    token: Token,
    /// SHA-256 of the public key (SubjectPublicKeyInfo) of the certificate to trust; `None`: the system's
    /// authorities, or no TLS.
    pin: Option<[u8; 32]>,
}

/// Why something is no invite. The text itself is never repeated: it may be one, with a slip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Another URL.
    #[error("an invite begins with vpn:// or vpn+ws://")]
    Scheme,
    /// Far too long.
    #[error("an invite has at most {URL_LIMIT} bytes")]
    Long,
    /// Nothing behind `#`, or nothing at all.
    #[error("the part behind # is missing: copy the invite whole, and put it in quotes in a shell")]
    Cut,
    /// Not two or three parts.
    #[error(
        "behind # there must be the server's key, a token, and a pin or none, parted by dots; copy the invite whole"
    )]
    Parts,
    /// The first part is no key.
    #[error("the server's key behind # is damaged; copy the invite whole")]
    Key,
    /// The token has other characters than base64url's, or too many.
    #[error("the token is damaged: it has 1 to {TOKEN_LIMIT} of A-Z a-z 0-9 - _; copy the invite whole")]
    Token,
    /// The last part is no hash.
    #[error("the pin of the server's certificate, the last part, is damaged; copy the invite whole")]
    Pin,
    /// A pin without TLS.
    #[error("a vpn+ws:// invite has no certificate to pin; let the server's operator make another")]
    PinWithoutTls,
    /// Host, port or path.
    #[error("the server's address in the invite {0}")]
    Address(EndpointError),
}

impl InviteError {
    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl From<InviteError> for VpnError {
    fn from(error: InviteError) -> Self {
        Self::new(error.code(), format!("url is no invite: {error}"))
    }
}

impl Invite {
    /// An invite to `server`. A pin is left out where there is no TLS.
    ///
    /// # Errors
    ///
    /// [`InviteError::Token`] unless the token is 1–128 characters of base64url's alphabet.
    pub fn new(
        server: Endpoint,
        server_key: PublicKey,
        token: Token,
        pin: Option<[u8; 32]>,
    ) -> Result<Self, InviteError> {
        if !is_token(token.expose()) {
            return Err(InviteError::Token);
        }
        let pin = pin.filter(|_| server.tls);
        Ok(Self { server, server_key, token, pin })
    }

    /// Reads a URL; white space around it is somebody's paste.
    ///
    /// # Errors
    ///
    /// An [`InviteError`], which says what is wrong and repeats nothing of the URL.
    pub fn parse(url: &str) -> Result<Self, InviteError> {
        let url = url.trim();
        if url.len() > URL_LIMIT {
            return Err(InviteError::Long);
        }
        let (scheme, rest) = url.split_once("://").ok_or(InviteError::Scheme)?;
        let below = match scheme.to_ascii_lowercase().as_str() {
            "vpn" => "wss",
            "vpn+ws" => "ws",
            _ => return Err(InviteError::Scheme),
        };
        let (address, secret) = rest.split_once('#').ok_or(InviteError::Cut)?;
        let server = Endpoint::parse(&format!("{below}://{address}")).map_err(InviteError::Address)?;
        let mut parts = secret.split('.');
        let (key, token, pin) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(""), None, ..) => return Err(InviteError::Cut),
            (Some(key), Some(token), pin, None) => (key, token, pin),
            _ => return Err(InviteError::Parts),
        };
        let server_key = PublicKey::from_bytes(word(key).ok_or(InviteError::Key)?);
        let pin = pin.map(|pin| word(pin).ok_or(InviteError::Pin)).transpose()?;
        if pin.is_some() && !server.tls {
            return Err(InviteError::PinWithoutTls);
        }
        if !is_token(token) {
            return Err(InviteError::Token);
        }
        let token = Token::new(token.to_owned()).ok_or(InviteError::Token)?;
        Ok(Self { server, server_key, token, pin })
    }

    /// The URL. Whoever has it can register.
    pub fn to_url(&self) -> Zeroizing<String> {
        let server = self.server.to_string();
        let (scheme, rest) = match server.strip_prefix("wss") {
            Some(rest) => ("vpn", rest),
            None => ("vpn+ws", server.strip_prefix("ws").unwrap_or(&server)),
        };
        let (key, token) = (URL_SAFE_NO_PAD.encode(self.server_key.as_bytes()), self.token.expose());
        // Room for all of it, so that no copy of the token is left behind by growing.
        let room = scheme.len() + rest.len() + token.len() + 2 * (WORD_LEN + 1) + 1;
        let mut url = Zeroizing::new(String::with_capacity(room));
        for part in [scheme, rest, "#", &key, ".", token] {
            url.push_str(part);
        }
        if let Some(pin) = self.pin {
            url.push('.');
            url.push_str(&URL_SAFE_NO_PAD.encode(pin));
        }
        url
    }

    /// Where the server is.
    pub const fn server(&self) -> &Endpoint {
        &self.server
    }

    /// The key that the server must prove to hold.
    pub const fn server_key(&self) -> PublicKey {
        self.server_key
    }

    /// The right to register a key.
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the certificate to trust, if it is not for the system to say.
    pub const fn pin(&self) -> Option<[u8; 32]> {
        self.pin
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("server", &self.server)
            .field("server_key", &self.server_key)
            .field("token", &self.token)
            .field("pin", &self.pin.is_some())
            .finish()
    }
}

/// Exactly 32 bytes, strictly written.
fn word(text: &str) -> Option<[u8; 32]> {
    if text.len() != WORD_LEN {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=TOKEN_LIMIT).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo";
    const PIN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const TOKEN: &str = "c2l4dGVlbiBieXRlcyE";

    fn invite(server: &str, pin: Option<[u8; 32]>) -> Invite {
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let token = Token::new(TOKEN.to_owned()).unwrap();
        Invite::new(Endpoint::parse(server).unwrap(), key, token, pin).unwrap()
    }

    #[test]
    fn an_invite_is_a_url_of_a_server_and_what_to_know_of_it() {
        let pin: [u8; 32] = std::array::from_fn(|index| index as u8);
        for (server, pin, url) in [
            ("wss://vpn.example.com/", None, format!("vpn://vpn.example.com/#{KEY}.{TOKEN}")),
            (
                "wss://[2001:db8::1]:8443/a/b?c=d",
                Some(pin),
                format!("vpn://[2001:db8::1]:8443/a/b?c=d#{KEY}.{TOKEN}.{PIN}"),
            ),
            ("ws://192.0.2.1:8443/", None, format!("vpn+ws://192.0.2.1:8443/#{KEY}.{TOKEN}")),
            // There is no certificate to pin.
            ("ws://192.0.2.1/", Some(pin), format!("vpn+ws://192.0.2.1/#{KEY}.{TOKEN}")),
        ] {
            let invite = invite(server, pin);
            assert_eq!(*invite.to_url(), url);
            assert_eq!(Invite::parse(&url), Ok(invite));
        }
    }

    #[test]
    fn ports_and_paths_may_be_left_out() {
        let server = |url: &str| Invite::parse(&format!("{url}#{KEY}.{TOKEN}")).unwrap().server().to_string();
        assert_eq!(server("vpn://vpn.example.com"), "wss://vpn.example.com/");
        assert_eq!(server("VPN://vpn.example.com:443"), "wss://vpn.example.com/");
        assert_eq!(server("vpn+ws://vpn.example.com"), "ws://vpn.example.com/");
        assert_eq!(server(" \n vpn+WS://vpn.example.com:8080/x"), "ws://vpn.example.com:8080/x");
    }

    #[test]
    fn what_is_no_invite_is_told_why_without_its_secret() {
        let (key, token, pin) = (KEY, TOKEN, PIN);
        for (url, expected) in [
            (String::new(), InviteError::Scheme),
            (format!("wss://host/#{key}.{token}"), InviteError::Scheme),
            (format!("https://host/#{key}.{token}"), InviteError::Scheme),
            (format!("vpn:host/#{key}.{token}"), InviteError::Scheme),
            ("vpn://host/".into(), InviteError::Cut),
            ("vpn://host/#".into(), InviteError::Cut),
            (format!("vpn://host/#{key}"), InviteError::Parts),
            (format!("vpn://host/#{key}.{token}.{pin}.x"), InviteError::Parts),
            (format!("vpn://host/#{token}.{key}"), InviteError::Key),
            (format!("vpn://host/#{key}=.{token}"), InviteError::Key),
            (format!("vpn://host/#{}.{token}", key.replace("Tmo", "Tmp")), InviteError::Key),
            (format!("vpn://host/#{}.{token}", key.replace('_', "/")), InviteError::Key),
            (format!("vpn://host/#{key}."), InviteError::Token),
            (format!("vpn://host/#{key}.{token}!"), InviteError::Token),
            (format!("vpn://host/#{key}.{token}#"), InviteError::Token),
            (format!("vpn://host/#{key}.{}", "x".repeat(TOKEN_LIMIT + 1)), InviteError::Token),
            (format!("vpn://host/#{key}.{token}."), InviteError::Pin),
            (format!("vpn://host/#{key}.{token}.{token}"), InviteError::Pin),
            (format!("vpn+ws://host/#{key}.{token}.{pin}"), InviteError::PinWithoutTls),
            (format!("vpn:///#{key}.{token}"), InviteError::Address(EndpointError::Host)),
            (format!("vpn://host:0/#{key}.{token}"), InviteError::Address(EndpointError::Port)),
            (format!("vpn://me:{token}@host/#{key}.{token}"), InviteError::Address(EndpointError::UserInfo)),
            (format!("vpn://host/{}#{key}.{token}", "a".repeat(URL_LIMIT)), InviteError::Long),
        ] {
            let error = Invite::parse(&url).unwrap_err();
            assert_eq!(error, expected, "{url}");
            let told = VpnError::from(error);
            assert_eq!(told.code, ErrorCode::InvalidArgument);
            assert!(!told.message.contains(token) && told.message.starts_with("url "), "{told}");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        let printed = format!("{:?}", invite("wss://vpn.example.com/", None));
        assert!(printed.contains("vpn.example.com") && !printed.contains(TOKEN), "{printed}");
    }

    #[test]
    fn a_token_that_does_not_fit_into_a_url_makes_no_invite() {
        let made = |token: &str| {
            let endpoint = Endpoint::parse("wss://host/").unwrap();
            Invite::new(endpoint, PublicKey::from_bytes([1; 32]), Token::new(token.to_owned()).unwrap(), None)
        };
        assert!(made("a-B_9").is_ok());
        for token in ["a.b", "a/b", "a#b", &"x".repeat(TOKEN_LIMIT + 1)] {
            assert_eq!(made(token), Err(InviteError::Token));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            tls: bool,
            host in "[a-z][a-z0-9-]{0,10}[a-z0-9](\\.[a-z][a-z0-9]{0,5}){0,3}",
            port in 1..=u16::MAX,
            path in "/[a-z0-9/?=&%.-]{0,20}",
            key: [u8; 32],
            token in "[A-Za-z0-9_-]{1,128}",
            pin: Option<[u8; 32]>,
        ) {
            let server = Endpoint { tls, host, port, path_and_query: path };
            let invite = Invite::new(server, PublicKey::from_bytes(key), Token::new(token).unwrap(), pin).unwrap();
            let url = invite.to_url();
            prop_assert_eq!(Invite::parse(&url), Ok(invite));
        }

        #[test]
        fn any_text_is_read_and_written_alike_or_refused(
            url in "(vpn(\\+ws)?://)?[a-z0-9:@/?#\\[\\].]{0,30}", rest in "[#.A-Za-z0-9_=-]{0,140}",
        ) {
            if let Ok(invite) = Invite::parse(&(url + &rest)) {
                prop_assert_eq!(Invite::parse(&invite.to_url()), Ok(invite));
            }
        }
    }
}
