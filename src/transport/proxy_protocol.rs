//! What a proxy says of a connection before its first byte: the PROXY protocol, in both of its versions
//! (HAProxy's proxy-protocol.txt §§2.1, 2.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What version 1 begins with.
const V1_PREFIX: &[u8] = b"PROXY ";

/// The longest line of version 1 with its CRLF, in bytes (§2.1).
const V1_LIMIT: usize = 107;

/// What version 2 begins with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// The longest header of version 2 that is taken, in bytes: addresses take 52, the rest are extensions, of
/// which a client's certificate is the longest that proxies send.
const V2_LIMIT: usize = 4096;

/// How much is looked at a time: more than a header with the usual extensions.
const CHUNK: usize = 512;

/// What the bytes that have come so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a header, perhaps.
    Incomplete,
    /// A whole header of `length` bytes. Without a source the connection is the proxy's own, or of a kind
    /// that has no address here.
    Header { source: Option<SocketAddr>, length: usize },
    /// No header, whatever follows.
    Malformed(HeaderFault),
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Something else begins here.
    #[error("it does not begin with one")]
    Missing,
    /// Longer than any that is meant.
    #[error("it is too long")]
    TooLong,
    /// Version 1: not a line as it is laid down.
    #[error("its line is malformed")]
    Line,
    /// Version 2: a version, command, family or protocol that does not exist.
    #[error("its version, command or family is unknown")]
    Kind,
    /// Version 2: its length has no room for its addresses.
    #[error("it is shorter than its addresses")]
    TooShort,
}

/// Why a proxy's connection had no header. It is closed without an answer: nobody knows whose it is.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// What came is none.
    #[error("a trusted proxy sent no valid PROXY header: {0}")]
    Malformed(#[from] HeaderFault),
    /// The deadline passed.
    #[error("a trusted proxy's PROXY header did not come in time")]
    Timeout,
    /// The proxy left.
    #[error("a trusted proxy left before its PROXY header was complete")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads the PROXY header, of version 1 or 2, that `tcp` must begin with, and nothing behind it. Gives the
/// address and port of who connected to the proxy; `None` if the proxy connects on its own account or does
/// not say.
///
/// Cancel-safe as far as dropping the future and the socket goes.
pub async fn read_proxy_header(
    tcp: &mut TcpStream,
    deadline: Instant,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    timeout_at(deadline, read(tcp)).await.map_err(|_| ProxyHeaderError::Timeout)?
}

async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut header = Vec::new();
    loop {
        // What is only looked at stays for TLS or HTTP.
        let mut seen = [0; CHUNK];
        let count = tcp.peek(&mut seen).await?;
        if count == 0 {
            return Err(ProxyHeaderError::Closed);
        }
        let taken = header.len();
        header.extend_from_slice(&seen[..count]);
        match parse(&header) {
            // At most as long as the limits of `parse`, and what was looked at once.
            Parsed::Incomplete => drop(tcp.read_exact(&mut seen[..count]).await?),
            Parsed::Header { source, length } => {
                // A header ends in what has just come, else it had ended before.
                tcp.read_exact(&mut seen[..length.saturating_sub(taken)]).await?;
                return Ok(source);
            }
            Parsed::Malformed(fault) => return Err(fault.into()),
        }
    }
}

/// Judges the first bytes of a connection. More bytes never change a judgement other than
/// [`Parsed::Incomplete`].
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if begins(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Parsed::Malformed(HeaderFault::Missing)
    }
}

/// Whether `bytes` begin with `prefix`, as far as there are any.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(got, wanted)| got == wanted)
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let bounded = &bytes[..bytes.len().min(V1_LIMIT)];
    let Some(end) = bounded.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() {
            0..V1_LIMIT => Parsed::Incomplete,
            _ => Parsed::Malformed(HeaderFault::TooLong),
        };
    };
    match std::str::from_utf8(&bytes[..end]).ok().and_then(source_v1) {
        Some(source) => Parsed::Header { source, length: end + 2 },
        None => Parsed::Malformed(HeaderFault::Line),
    }
}

/// The source in a line without its CRLF; the outer `None` is a malformed line.
fn source_v1(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ');
    let (_proxy, family) = (words.next()?, words.next()?);
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (port, destination_port) = (words.next()?, words.next()?);
    let (source, _destination) = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?.into(), destination.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (
            IpAddr::from(source.parse::<Ipv6Addr>().ok()?),
            IpAddr::from(destination.parse::<Ipv6Addr>().ok()?),
        ),
        _ => return None,
    };
    let (port, _destination_port) = (port_v1(port)?, port_v1(destination_port)?);
    words.next().is_none().then(|| Some(canonical(source, port)))
}

/// A decimal number without sign and leading zeros.
fn port_v1(text: &str) -> Option<u16> {
    let is_plain = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    is_plain.then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some((fixed, block)) = bytes.split_first_chunk::<V2_FIXED>() else { return Parsed::Incomplete };
    let [.., command, family, high, low] = *fixed;
    let block_length = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + block_length;
    if length > V2_LIMIT {
        return Parsed::Malformed(HeaderFault::TooLong);
    }
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Parsed::Malformed(HeaderFault::Kind),
    };
    if !is_local && !matches!((family >> 4, family & 0xf), (0..=3, 0..=2)) {
        return Parsed::Malformed(HeaderFault::Kind);
    }
    let addresses = match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => 0,
    };
    if !is_local && block_length < addresses {
        return Parsed::Malformed(HeaderFault::TooShort);
    }
    let Some(block) = block.get(..block_length) else { return Parsed::Incomplete };
    let source = if is_local { None } else { source_v2(family, block) };
    Parsed::Header { source, length }
}

/// Family and protocol of version 2: TCP over IPv4.
const TCP4: u8 = 0x11;

/// The same over IPv6.
const TCP6: u8 = 0x21;

/// The source in a block of version 2; what does not come over TCP has none (§2.2 leaves that to us).
fn source_v2(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let (address, port) = match family {
        TCP4 => {
            let address: [u8; 4] = *block.first_chunk()?;
            (IpAddr::from(address), block.get(8..10)?)
        }
        TCP6 => {
            let address: [u8; 16] = *block.first_chunk()?;
            (IpAddr::from(address), block.get(32..34)?)
        }
        _ => return None,
    };
    Some(canonical(address, u16::from_be_bytes(*port.first_chunk()?)))
}

/// An IPv4 address in IPv6's clothes counts as what it is.
fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(source: &str, length: usize) -> Parsed {
        Parsed::Header { source: Some(source.parse().unwrap()), length }
    }

    /// A header of version 2: command, family, block.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, block].concat()
    }

    /// `192.0.2.1:258` to `192.0.2.2:443`.
    const BLOCK4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 1, 187];

    fn block6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[1, 2, 1, 187]].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535";
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443", Some("192.0.2.1:56324")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535", Some("255.255.255.255:65535")),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 0 0", Some("192.0.2.1:0")),
            ("PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 1 2", Some("[2001:db8::1]:1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2", Some("192.0.2.1:1")),
            ("PROXY UNKNOWN", None),
            (longest, None),
        ] {
            let length = line.len() + 2;
            let source = source.map(|source| source.parse().unwrap());
            let parsed = parse(format!("{line}\r\n\u{16}\u{3}").as_bytes());
            assert_eq!(parsed, Parsed::Header { source, length }, "{line}");
        }
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "PROXY ",
            "PROXY TCP4",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2 1 2",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP6 192.0.2.1 ::1 1 2",
            "PROXY TCP6 ::1 192.0.2.1 1 2",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY unknown",
            "PROXY é",
        ] {
            let parsed = parse(format!("{line}\r\n").as_bytes());
            assert_eq!(parsed, Parsed::Malformed(HeaderFault::Line), "{line}");
        }
    }

    #[test]
    fn a_line_has_107_bytes_at_most() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(parse(line(107).as_bytes()), Parsed::Header { source: None, length: 107 });
        assert_eq!(parse(line(108).as_bytes()), Parsed::Malformed(HeaderFault::TooLong));
        assert_eq!(parse(&line(200).as_bytes()[..106]), Parsed::Incomplete);
        assert_eq!(parse(&line(200).as_bytes()[..107]), Parsed::Malformed(HeaderFault::TooLong));
    }

    #[test]
    fn headers_of_version_2() {
        assert_eq!(parse(&v2(0x21, 0x11, BLOCK4)), header("192.0.2.1:258", 28));
        assert_eq!(parse(&v2(0x21, 0x21, &block6("2001:db8::1"))), header("[2001:db8::1]:258", 52));
        assert_eq!(parse(&v2(0x21, 0x21, &block6("::ffff:192.0.2.1"))), header("192.0.2.1:258", 52));
        // Extensions are passed over, a checksum unread.
        let extended = v2(0x21, 0x11, &[BLOCK4, &[3, 0, 4, 9, 9, 9, 9, 4, 0, 1, 0]].concat());
        assert_eq!(parse(&extended), header("192.0.2.1:258", extended.len()));
        assert_eq!(
            parse(&[&extended[..], b"\x16\x03\x01"].concat()),
            header("192.0.2.1:258", extended.len())
        );
    }

    #[test]
    fn what_the_proxy_does_not_say_is_its_own() {
        let own = |bytes: &[u8]| {
            assert_eq!(parse(bytes), Parsed::Header { source: None, length: bytes.len() }, "{bytes:?}");
        };
        // A health check may hold anything.
        own(&v2(0x20, 0x00, &[]));
        own(&v2(0x20, 0x11, BLOCK4));
        own(&v2(0x20, 0xff, &[1, 2, 3]));
        // Unspecified, UDP, Unix sockets.
        for family in [0x00, 0x01, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32] {
            own(&v2(0x21, family, BLOCK4));
        }
    }

    #[test]
    fn headers_of_version_2_that_are_none() {
        for (bytes, fault) in [
            (v2(0x11, 0x11, BLOCK4), HeaderFault::Kind),
            (v2(0x31, 0x11, BLOCK4), HeaderFault::Kind),
            (v2(0x22, 0x11, BLOCK4), HeaderFault::Kind),
            (v2(0x21, 0x41, BLOCK4), HeaderFault::Kind),
            (v2(0x21, 0x13, BLOCK4), HeaderFault::Kind),
            (v2(0x21, 0x11, &BLOCK4[..11]), HeaderFault::TooShort),
            (v2(0x21, 0x21, &block6("::1")[..35]), HeaderFault::TooShort),
            (v2(0x21, 0x11, &[0; V2_LIMIT - 15]), HeaderFault::TooLong),
            (v2(0x20, 0x00, &[0; 65_535]), HeaderFault::TooLong),
        ] {
            assert_eq!(parse(&bytes), Parsed::Malformed(fault), "{:?}", &bytes[12..16]);
            assert_eq!(parse(&bytes[..16]), Parsed::Malformed(fault), "nothing is waited for");
        }
        let longest = v2(0x21, 0x11, &[0; V2_LIMIT - V2_FIXED]);
        assert_eq!(parse(&longest), header("0.0.0.0:0", V2_LIMIT));
    }

    #[test]
    fn other_protocols_are_recognised_at_their_first_odd_byte() {
        for bytes in [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1", b"PROXX", b"\r\n\r\nG", b"proxy "] {
            assert_eq!(parse(bytes), Parsed::Malformed(HeaderFault::Missing), "{bytes:?}");
        }
        assert_eq!(parse(b""), Parsed::Incomplete);
    }

    /// Bytes that are headers, nearly headers, or anything.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let words =
            ["PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "192.0.2.1 ", "::1 ", "0 ", "443", "\r\n", "\r", " "];
        let word = proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
        let line = proptest::collection::vec(word, 0..12).prop_map(|words| words.concat());
        let block = proptest::collection::vec(any::<u8>(), 0..300);
        let binary = (0x1f_u8..0x23, prop_oneof![Just(0x11), Just(0x21), any::<u8>()], block.clone())
            .prop_map(|(command, family, block)| v2(command, family, &block));
        (prop_oneof![line, binary, block.clone()], block).prop_map(|(head, rest)| [head, rest].concat())
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_more_bytes_change_no_judgement(bytes in bytes()) {
            let whole = parse(&bytes);
            if let Parsed::Header { length, .. } = whole {
                prop_assert!((15..=V2_LIMIT).contains(&length) && length <= bytes.len());
            }
            for end in 0..bytes.len() {
                let part = parse(&bytes[..end]);
                prop_assert!(part == Parsed::Incomplete || part == whole, "{part:?} {whole:?} at {end}");
                if let Parsed::Header { length, .. } = whole {
                    prop_assert_eq!(part == whole, end >= length);
                }
            }
        }
    }

    /// Sends `pieces` one after the other; gives the source and what is left for the next protocol.
    async fn received(pieces: &[&[u8]]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let send = async {
            let mut far = TcpStream::connect(addr).await.unwrap();
            far.set_nodelay(true).unwrap();
            for piece in pieces {
                // It is refused early, perhaps.
                drop(tokio::io::AsyncWriteExt::write_all(&mut far, piece).await);
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let deadline = Instant::now() + std::time::Duration::from_secs(20);
            let source = read_proxy_header(&mut tcp, deadline).await;
            let mut rest = Vec::new();
            drop(tcp.read_to_end(&mut rest).await);
            (source, rest)
        };
        tokio::join!(receive, send).0
    }

    #[tokio::test]
    async fn a_header_is_read_to_its_end_and_no_further() {
        let long = v2(0x21, 0x11, &[BLOCK4, &[0; 3000]].concat());
        for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n"[..], &v2(0x21, 0x11, BLOCK4), &long] {
            let whole = [header, b"\x16\x03\x01hello"].concat();
            let singles: Vec<&[u8]> = whole.chunks(1).collect();
            for pieces in [&[&whole[..]][..], &[header, b"\x16\x03\x01hello"], &singles] {
                let (source, rest) = received(pieces).await;
                assert_eq!(source.unwrap(), Some("192.0.2.1:258".parse().unwrap()));
                assert_eq!(rest, b"\x16\x03\x01hello");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_ends_the_reading() {
        assert!(matches!(received(&[b"GET / HTTP/1.1\r\n"]).await.0, Err(ProxyHeaderError::Malformed(_))));
        assert!(matches!(received(&[b"PROXY TCP4 "]).await.0, Err(ProxyHeaderError::Closed)));
        assert!(matches!(received(&[]).await.0, Err(ProxyHeaderError::Closed)));
        let endless = [b'x'; 3000];
        let refused = received(&[b"PROXY UNKNOWN ", &endless]).await.0;
        assert!(matches!(refused, Err(ProxyHeaderError::Malformed(HeaderFault::TooLong))));
    }
}
