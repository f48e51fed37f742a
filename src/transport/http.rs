//! As much of HTTP/1.1 as an upgrade takes: a head, read to its end and no further than its limit; lists
//! in headers; short answers.

use std::io;

use httparse::Header;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// The longest head, in bytes, of a request (431) or of an answer (PROTOCOL §1).
pub(super) const HEAD_LIMIT: usize = 16 * 1024;

/// How many headers a head may have; a request through three proxies has some thirty.
pub(super) const HEADER_COUNT_LIMIT: usize = 128;

/// The sub-protocol's name (PROTOCOL §1).
pub(super) const SUBPROTOCOL: &str = "smartvpn.v1";

/// What our requests call themselves.
pub(super) const USER_AGENT: &str = concat!("smartvpn/", env!("CARGO_PKG_VERSION"));

/// How much is read at first, or looked at a time.
const CHUNK: usize = 1024;

/// Why no head came.
#[derive(Debug)]
pub(super) enum HeadError {
    /// It does not end within [`HEAD_LIMIT`].
    TooLong,
    /// Its first bytes are not HTTP.
    NotHttp,
    /// The peer ended the stream first.
    Closed,
    /// The stream failed.
    Io(io::Error),
}

/// Whether `bytes` can be the beginning of an answer.
pub(super) fn begins_answer(bytes: &[u8]) -> bool {
    bytes.iter().zip(b"HTTP/1.").all(|(got, wanted)| got == wanted)
}

/// A head, and what was read behind it.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// Behind the empty line that ends the head; 0 until it is found.
    end: usize,
    /// No end begins before here.
    scanned: usize,
}

impl Head {
    /// Whether nothing at all has come.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that has come.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The head with its empty line.
    pub(super) fn head(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// What was read behind the head.
    pub(super) fn leftover(&self) -> &[u8] {
        &self.bytes[self.end..]
    }

    /// Reads until the head is whole. `begins` says whether the first bytes can become one, so that a
    /// peer with another protocol is not waited for. Takes time linear in what is read, however small the
    /// pieces. Cancel-safe.
    pub(super) async fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        begins: fn(&[u8]) -> bool,
    ) -> Result<(), HeadError> {
        loop {
            if !self.is_empty() && !begins(&self.bytes) {
                return Err(HeadError::NotHttp);
            }
            if self.find_end() {
                return if self.end <= HEAD_LIMIT { Ok(()) } else { Err(HeadError::TooLong) };
            }
            if self.bytes.len() >= HEAD_LIMIT {
                return Err(HeadError::TooLong);
            }
            self.read_more(stream).await?;
        }
    }

    /// Reads its first bytes.
    pub(super) async fn begin<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), HeadError> {
        self.read_more(stream).await
    }

    async fn read_more<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), HeadError> {
        if self.bytes.len() == self.bytes.capacity() {
            // Exactly: a head that is nearly too long must not be given room for two.
            let target = (2 * self.bytes.len()).clamp(CHUNK, HEAD_LIMIT);
            self.bytes.reserve_exact(target.saturating_sub(self.bytes.len()));
        }
        if stream.read_buf(&mut self.bytes).await.map_err(HeadError::Io)? == 0 {
            return Err(HeadError::Closed);
        }
        Ok(())
    }

    /// As [`Self::read`], but leaves what is behind the head in the socket.
    pub(super) async fn read_alone(
        &mut self,
        tcp: &mut TcpStream,
        begins: fn(&[u8]) -> bool,
    ) -> Result<(), HeadError> {
        loop {
            let mut seen = [0; CHUNK];
            let count = tcp.peek(&mut seen).await.map_err(HeadError::Io)?;
            if count == 0 {
                return Err(HeadError::Closed);
            }
            let taken = self.bytes.len();
            self.bytes.extend_from_slice(&seen[..count]);
            if !begins(&self.bytes) {
                return Err(HeadError::NotHttp);
            }
            let is_whole = self.find_end();
            if is_whole {
                self.bytes.truncate(self.end);
            }
            // A head ends in what has just come, else it had ended before.
            let more = self.bytes.len().saturating_sub(taken);
            tcp.read_exact(&mut seen[..more]).await.map_err(HeadError::Io)?;
            if self.bytes.len() > HEAD_LIMIT {
                return Err(HeadError::TooLong);
            }
            if is_whole {
                return Ok(());
            }
        }
    }

    /// Forgets the head that was read, for the one behind it.
    pub(super) fn next(&mut self) {
        self.bytes.drain(..self.end);
        self.end = 0;
        self.scanned = 0;
    }

    /// Looks for the empty line. Lines may end without CR (RFC 9112 §2.2).
    fn find_end(&mut self) -> bool {
        let bytes = &self.bytes;
        while let Some(found) = bytes[self.scanned..].iter().position(|&b| b == b'\n') {
            let line_end = self.scanned + found + 1;
            let size = match &bytes[line_end..] {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                // Undecided until more has come.
                [] | [b'\r'] => return false,
                _ => {
                    self.scanned = line_end;
                    continue;
                }
            };
            self.end = line_end + size;
            return true;
        }
        self.scanned = bytes.len();
        false
    }
}

/// The values of all headers called `name`, in order.
pub(super) fn values<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The elements of the comma-separated lists that all headers called `name` make up (RFC 9110 §5.6.1).
pub(super) fn tokens<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    values(headers, name)
        .flat_map(|value| value.split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The value of the only header called `name`; `None` if there is none or more than one.
pub(super) fn single<'h>(headers: &'h [Header<'h>], name: &'static str) -> Option<&'h [u8]> {
    let mut all = values(headers, name);
    let value = all.next()?;
    all.next().is_none().then(|| value.trim_ascii())
}

/// An answer of the server that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The body, and the reason that is logged.
    pub(super) text: &'static str,
    /// The request was HEAD: the body is left out.
    pub(super) head_only: bool,
}

impl Answer {
    pub(super) const fn new(status: u16, text: &'static str) -> Self {
        Self { status, text, head_only: false }
    }

    /// The bytes on the wire.
    pub(super) fn encode(&self) -> Vec<u8> {
        let phrase = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            408 => "Request Timeout",
            426 => "Upgrade Required",
            431 => "Request Header Fields Too Large",
            _ => "",
        };
        let version = if self.status == 426 { "Sec-WebSocket-Version: 13\r\n" } else { "" };
        let body = if self.head_only { "" } else { self.text };
        format!(
            "HTTP/1.1 {} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{version}Connection: close\r\n\r\n{body}",
            self.status,
            self.text.len(),
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pieces: &[&[u8]]) -> Result<Head, HeadError> {
        let mut builder = tokio::io::empty();
        let _ = &mut builder;
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut far, piece).await.unwrap();
        }
        drop(far);
        let mut head = Head::default();
        head.read(&mut near, |bytes| bytes[0] != 0x16).await.map(|()| head)
    }

    #[tokio::test]
    async fn a_head_ends_with_its_empty_line() {
        for (bytes, head, leftover) in [
            (&b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"[..], 24, &b"rest"[..]),
            (b"GET / HTTP/1.1\nA: b\n\nrest", 21, b"rest"),
            (b"GET / HTTP/1.1\nA: b\n\r\n\r\n", 22, b"\r\n"),
            (b"GET / HTTP/1.1\r\n\n", 17, b""),
        ] {
            let read = read(&[bytes]).await.unwrap();
            assert_eq!((read.head().len(), read.leftover()), (head, leftover));
        }
    }

    #[tokio::test]
    async fn a_head_may_come_byte_by_byte() {
        let bytes = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        let (mut near, mut far) = tokio::io::duplex(1);
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.unwrap();
        };
        let mut head = Head::default();
        let (read, ()) = tokio::join!(head.read(&mut near, |_| true), write);
        read.unwrap();
        assert_eq!(head.head(), bytes);
    }

    #[tokio::test]
    async fn a_head_takes_16_kib_at_most() {
        let head = |size: usize| {
            let mut bytes = b"GET / HTTP/1.1\r\nA: ".to_vec();
            bytes.resize(size - 4, b'a');
            bytes.extend_from_slice(b"\r\n\r\n");
            bytes
        };
        assert_eq!(read(&[&head(HEAD_LIMIT)]).await.unwrap().head().len(), HEAD_LIMIT);
        assert!(matches!(read(&[&head(HEAD_LIMIT + 1)]).await, Err(HeadError::TooLong)));
        assert!(matches!(read(&[&[b'a'; 2 * HEAD_LIMIT]]).await, Err(HeadError::TooLong)));
    }

    #[tokio::test]
    async fn a_head_that_cannot_come_is_not_waited_for() {
        assert!(matches!(read(&[b"\x16\x03\x01"]).await, Err(HeadError::NotHttp)));
        assert!(matches!(read(&[b"GET / HT"]).await, Err(HeadError::Closed)));
        assert!(matches!(read(&[]).await, Err(HeadError::Closed)));
    }

    #[tokio::test]
    async fn a_head_that_is_read_alone_leaves_the_rest() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (bytes, head) in [
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n\x16\x03\x01rest".to_vec(), Some(25)),
            (b"HTTP/1.1 200 OK\n\n\x16\x03\x01rest".to_vec(), Some(17)),
            (
                [b"HTTP/1.1 200 OK\r\nA: ", &[b'a'; 3000][..], b"\r\n\r\n\x16\x03\x01rest"].concat(),
                Some(3024),
            ),
            (b"SSH-2.0".to_vec(), None),
            (b"HTTP/1.1 2".to_vec(), None),
            (vec![b'H'; 2 * HEAD_LIMIT], None),
        ] {
            for size in [1, 700, bytes.len()] {
                let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (mut near, _) = listener.accept().await.unwrap();
                far.set_nodelay(true).unwrap();
                let send = async {
                    for piece in bytes.chunks(size) {
                        tokio::io::AsyncWriteExt::write_all(&mut far, piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
                };
                let mut alone = Head::default();
                let (read, ()) = tokio::join!(alone.read_alone(&mut near, |bytes| bytes[0] == b'H'), send);
                assert_eq!(read.ok().map(|()| alone.head().len()), head);
                if head.is_some() {
                    let mut rest = Vec::new();
                    near.read_to_end(&mut rest).await.unwrap();
                    assert_eq!(rest, b"\x16\x03\x01rest");
                    assert!(alone.leftover().is_empty());
                }
            }
        }
    }

    #[test]
    fn lists_go_over_all_lines() {
        let header = |name, value| Header { name, value };
        let headers = [
            header("Upgrade", &b"h2c , websocket"[..]),
            header("Other", b"x"),
            header("upgrade", b",, foo\t,"),
        ];
        let all: Vec<_> = tokens(&headers, "Upgrade").collect();
        assert_eq!(all, [&b"h2c"[..], b"websocket", b"foo"]);
        assert_eq!(single(&headers, "other"), Some(&b"x"[..]));
        assert_eq!(single(&headers, "upgrade"), None);
        assert_eq!(single(&headers, "absent"), None);
    }

    #[test]
    fn answers_say_how_long_they_are_and_end_the_connection() {
        let text = |answer: Answer| String::from_utf8(answer.encode()).unwrap();
        let ok =
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
        assert_eq!(text(Answer::new(200, "ok")), format!("{ok}ok"));
        assert_eq!(text(Answer { head_only: true, ..Answer::new(200, "ok") }), ok);
        assert!(text(Answer::new(426, "version")).contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
}
