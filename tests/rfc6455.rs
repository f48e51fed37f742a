//! RFC 6455, section by section, at both ends of our WebSocket: the bytes that come, the messages that are made of
//! them, and how the connection ends. Where PROTOCOL §1 asks for more than the RFC, the row says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::poll_fn;
use std::time::Duration;

use smartvpn::transport::{HANDSHAKE_MESSAGE_LIMIT, SESSION_MESSAGE_LIMIT, WebSocket, WebSocketError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// The mask of the RFC's examples (§5.7).
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Generous: nothing here waits for anybody.
const WAIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}
use Role::{Client, Server};

/// A frame as a server sends it.
#[derive(Clone)]
struct Frame {
    header: Vec<u8>,
    payload: Vec<u8>,
}

/// What the bytes come to, behind the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// More is waited for; the latest Ping is answered.
    Open { pong: Option<Vec<u8>> },
    /// The peer is told that it broke the protocol.
    Fault(u16),
    /// The peer's Close; it is answered by its own code.
    Closed(Option<u16>, String),
}

struct Row {
    section: &'static str,
    what: String,
    bytes: Bytes,
    limit: usize,
    messages: Vec<Vec<u8>>,
    end: End,
}

enum Bytes {
    /// For both roles: masked for the server.
    Frames(Vec<Frame>),
    /// For one role, as they are.
    Raw(Role, Vec<u8>),
}

/// A frame whose header is `header`, without a mask.
fn raw(header: &[u8], payload: impl AsRef<[u8]>) -> Frame {
    Frame { header: header.to_vec(), payload: payload.as_ref().to_vec() }
}

/// A frame that begins with this byte, of the shortest form.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    let length = payload.as_ref().len();
    let mut header = vec![first];
    match length {
        0..126 => header.push(length as u8),
        126..65_536 => header.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
        _ => header.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
    }
    raw(&header, payload)
}

fn binary(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x82, payload)
}

/// A message's first fragment, one in the middle, and the last.
fn first(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x02, payload)
}

fn middle(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x00, payload)
}

fn last(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x80, payload)
}

fn ping(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x89, payload)
}

fn pong(payload: impl AsRef<[u8]>) -> Frame {
    frame(0x8a, payload)
}

fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
    frame(0x88, [&code.to_be_bytes(), reason.as_ref()].concat())
}

fn message(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

impl Row {
    fn new(section: &'static str, what: impl Into<String>, frames: Vec<Frame>, end: End) -> Self {
        let (what, bytes) = (what.into(), Bytes::Frames(frames));
        Self { section, what, bytes, limit: SESSION_MESSAGE_LIMIT, messages: Vec::new(), end }
    }

    fn open(section: &'static str, what: impl Into<String>, frames: Vec<Frame>) -> Self {
        Self::new(section, what, frames, End::Open { pong: None })
    }

    fn fault(section: &'static str, what: impl Into<String>, frames: Vec<Frame>) -> Self {
        Self::new(section, what, frames, End::Fault(1002))
    }

    fn too_long(section: &'static str, what: impl Into<String>, frames: Vec<Frame>) -> Self {
        Self::new(section, what, frames, End::Fault(1009))
    }

    fn closed(what: impl Into<String>, frames: Vec<Frame>, code: Option<u16>, reason: &str) -> Self {
        Self::new("5.5.1", what, frames, End::Closed(code, reason.to_owned()))
    }

    fn of(section: &'static str, what: &str, role: Role, bytes: &[u8], end: End) -> Self {
        Self { bytes: Bytes::Raw(role, bytes.to_vec()), ..Self::new(section, what, Vec::new(), end) }
    }

    fn gives<const N: usize>(self, messages: [&[u8]; N]) -> Self {
        Self { messages: messages.map(<[u8]>::to_vec).to_vec(), ..self }
    }

    fn answers(self, payload: &[u8]) -> Self {
        Self { end: End::Open { pong: Some(payload.to_vec()) }, ..self }
    }

    fn in_handshake(self) -> Self {
        Self { limit: HANDSHAKE_MESSAGE_LIMIT, ..self }
    }

    /// What comes to this role; none if the row is for the other.
    fn bytes(&self, role: Role) -> Option<Vec<u8>> {
        match &self.bytes {
            Bytes::Raw(other, bytes) => (*other == role).then(|| bytes.clone()),
            Bytes::Frames(frames) => Some(frames.iter().flat_map(|frame| frame.bytes_to(role)).collect()),
        }
    }
}

impl Frame {
    fn bytes_to(&self, role: Role) -> Vec<u8> {
        let mut bytes = self.header.clone();
        if role == Client {
            bytes.extend(&self.payload);
        } else {
            if let Some(second) = bytes.get_mut(1) {
                *second |= 0x80;
                bytes.extend(MASK);
            }
            bytes.extend(masked(&self.payload));
        }
        bytes
    }
}

fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

fn lengths() -> Vec<Row> {
    let mut rows = Vec::new();
    // The form of the length changes at 126 and at 65,536.
    for length in [1, 2, 124, 125, 126, 127, 128, 255, 256, 8_197, 65_535, 65_536, 65_537, 131_072, 262_144] {
        let whole = message(length);
        rows.push(Row::open("5.2", format!("{length} bytes"), vec![binary(&whole)]).gives([&whole]));
    }
    for (form, length) in [
        (&[126, 0, 0][..], 0),
        (&[126, 0, 1], 1),
        (&[126, 0, 125], 125),
        (&[127, 0, 0, 0, 0, 0, 0, 0, 0], 0),
        (&[127, 0, 0, 0, 0, 0, 0, 0, 125], 125),
        (&[127, 0, 0, 0, 0, 0, 0, 0, 126], 126),
        (&[127, 0, 0, 0, 0, 0, 0, 255, 255], 65_535),
    ] {
        let header = [&[0x82], form].concat();
        let what = format!("{length} bytes in {} of length", form.len());
        rows.push(Row::fault("5.2", what, vec![raw(&header, message(length))]));
    }
    rows.extend([
        Row::fault("5.2", "a Ping's length in 16 bits", vec![raw(&[0x89, 126, 0, 5], "Hello")]),
        Row::fault("5.2", "a Close's in 64", vec![raw(&[0x88, 127, 0, 0, 0, 0, 0, 0, 0, 2], [3, 0xe8])]),
        Row::fault("5.2", "a continuation's", vec![first("Hel"), raw(&[0x80, 126, 0, 2], "lo")]),
        Row::fault("5.2", "2^63", vec![raw(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "")]),
        Row::fault("5.2", "2^64 - 1", vec![raw(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255], "")]),
        Row::too_long("5.2", "2^63 - 1", vec![raw(&[0x82, 127, 127, 255, 255, 255, 255, 255, 255, 255], "")]),
        Row::too_long("5.2", "2^32", vec![raw(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0], "")]),
        Row::open("5.2", "the first byte alone", vec![raw(&[0x82], "")]),
        Row::open("5.2", "half a length", vec![raw(&[0x82, 126, 1], "")]),
        Row::open("5.2", "half a long length", vec![raw(&[0x82, 127, 0, 0, 0, 0], "")]),
        Row::open("5.2", "a header alone", vec![raw(&[0x82, 5], "")]),
        Row::open("5.2", "half a payload", vec![binary("whole"), raw(&[0x82, 5], "Hel")]).gives([b"whole"]),
        Row::fault("5.2", "an empty message (PROTOCOL §1)", vec![binary("")]),
    ]);
    rows
}

fn limits() -> Vec<Row> {
    let most = message(HANDSHAKE_MESSAGE_LIMIT);
    let session = message(SESSION_MESSAGE_LIMIT);
    let (begin, rest) = most.split_at(8_000);
    let rows = vec![
        Row::open("10.4", "the longest of a handshake", vec![binary(&most)]).gives([&most]),
        Row::too_long("10.4", "one byte more, announced", vec![raw(&[0x82, 126, 0x20, 0x06], "")]),
        Row::too_long(
            "10.4",
            "one byte more, with a message before",
            vec![binary("a"), binary(message(8_198))],
        )
        .gives([b"a"]),
        Row::open("10.4", "the longest in fragments", vec![first(begin), last(rest)]).gives([&most]),
        Row::open("10.4", "the longest, and an empty fragment", vec![first(&most), last("")]).gives([&most]),
        Row::too_long("10.4", "one byte more in fragments", vec![first(&most), last("a")]),
        Row::too_long("10.4", "a fragment too long", vec![first(begin), raw(&[0x00, 126, 0xff, 0xff], "")]),
        Row::open("10.4", "many messages", vec![binary(&most), binary(&most)]).gives([&most, &most]),
    ];
    let rows = rows.into_iter().map(Row::in_handshake);
    let announced = [0x82, 127, 0, 0, 0, 0, 0, 4, 0, 1];
    rows.chain([
        Row::too_long("10.4", "one byte more than a session's", vec![raw(&announced, "")]),
        Row::too_long("10.4", "the same in fragments", vec![first(&session), last("a")]),
        Row::open("10.4", "a session's in fragments", vec![first(&session), last("")]).gives([&session]),
    ])
    .collect()
}

fn bits_and_opcodes() -> Vec<Row> {
    let mut rows = Vec::new();
    for (first, what) in [
        (0xc2, "RSV1"),
        (0xa2, "RSV2"),
        (0x92, "RSV3"),
        (0xf2, "all RSV bits"),
        (0xc9, "RSV1 of a Ping"),
        (0xa8, "RSV2 of a Close"),
        (0x9a, "RSV3 of a Pong"),
        (0x42, "RSV1 of a first fragment"),
    ] {
        rows.push(Row::fault("5.2", what, vec![frame(first, "Hello")]));
    }
    rows.push(Row::fault("5.2", "RSV1 of a continuation", vec![first("Hel"), frame(0xc0, "lo")]));
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        let what = format!("the reserved opcode {opcode:#x}");
        rows.push(Row::fault("5.2", what, vec![frame(0x80 | opcode, "Hello")]));
    }
    rows.extend([
        Row::fault("5.6", "a text message (PROTOCOL §1)", vec![frame(0x81, "Hello")]),
        Row::fault("5.6", "a text message's first fragment", vec![frame(0x01, "Hel"), last("lo")]),
        Row::fault("5.6", "text behind a message", vec![binary("a"), frame(0x81, "Hello")]).gives([b"a"]),
    ]);
    rows
}

fn fragments() -> Vec<Row> {
    let hello: &[u8] = b"Hello";
    let single: Vec<_> = [first("H"), middle("e"), middle("l"), middle("l"), last("o")].into_iter().collect();
    let many = |count: usize| -> Vec<Frame> {
        let middles = std::iter::repeat_n(middle("a"), count - 2);
        std::iter::once(first("a")).chain(middles).chain([last("a")]).collect()
    };
    vec![
        Row::open("5.4", "two fragments", vec![first("Hel"), last("lo")]).gives([hello]),
        Row::open("5.4", "three", vec![first("He"), middle("l"), last("lo")]).gives([hello]),
        Row::open("5.4", "one a byte", single).gives([hello]),
        Row::open("5.4", "an empty first one", vec![first(""), last("Hello")]).gives([hello]),
        Row::open("5.4", "an empty one between", vec![first("He"), middle(""), last("llo")]).gives([hello]),
        Row::open("5.4", "an empty last one", vec![first("Hello"), last("")]).gives([hello]),
        Row::fault("5.4", "nothing but empty ones (PROTOCOL §1)", vec![first(""), middle(""), last("")]),
        Row::open("5.4", "without an end", vec![first("Hel"), middle("lo")]),
        Row::open("5.4", "two messages", vec![first("a"), last("b"), first("c"), last("d")])
            .gives([b"ab", b"cd"]),
        Row::open("5.4", "a whole one behind", vec![first("a"), last("b"), binary("c")]).gives([b"ab", b"c"]),
        Row::fault("5.4", "a last fragment without a first", vec![last("lo")]),
        Row::fault("5.4", "a middle one without a first", vec![middle("l")]),
        Row::fault("5.4", "a last one twice", vec![first("a"), last("b"), last("c")]).gives([b"ab"]),
        Row::fault("5.4", "a continuation of a whole message", vec![binary("a"), last("b")]).gives([b"a"]),
        Row::fault("5.4", "a message inside another", vec![first("a"), binary("b")]),
        Row::fault("5.4", "a fragment of another inside", vec![first("a"), first("b")]),
        Row::fault("5.4", "text inside", vec![first("a"), frame(0x81, "b")]),
        Row::open("5.4", "1,024 of them (PROTOCOL §1)", many(1_024)).gives([&[b'a'; 1_024]]),
        Row::fault("5.4", "1,025 of them", many(1_025)),
        Row::open("5.4", "a Ping between", vec![first("Hel"), ping("p"), last("lo")])
            .gives([hello])
            .answers(b"p"),
        Row::open("5.4", "a Pong between", vec![first("Hel"), pong("p"), last("lo")]).gives([hello]),
        Row::open(
            "5.4",
            "Pings between all",
            vec![ping("1"), first("H"), ping("2"), middle("ell"), ping("3"), last("o")],
        )
        .gives([hello])
        .answers(b"3"),
        Row::closed("a Close between", vec![first("Hel"), close(1000, ""), last("lo")], Some(1000), ""),
    ]
}

fn control() -> Vec<Row> {
    let most = message(125);
    vec![
        Row::open("5.5.2", "a Ping without payload", vec![ping("")]).answers(b""),
        Row::open("5.5.2", "with one", vec![ping("Hello")]).answers(b"Hello"),
        Row::open("5.5.2", "with the longest", vec![ping(&most)]).answers(&most),
        Row::fault("5.5", "with one byte more", vec![ping(message(126))]),
        Row::open("5.5.3", "of many the latest is answered", vec![ping("1"), ping("2"), ping("3")])
            .answers(b"3"),
        Row::open("5.5.2", "behind a message", vec![binary("a"), ping("p")]).gives([b"a"]).answers(b"p"),
        Row::fault("5.5", "a fragmented Ping", vec![frame(0x09, "Hel"), last("lo")]),
        Row::open("5.5.3", "a Pong that nobody asked for", vec![pong(""), binary("a")]).gives([b"a"]),
        Row::open("5.5.3", "the longest Pong", vec![pong(&most)]),
        Row::fault("5.5", "a Pong too long", vec![pong(message(126))]),
        Row::fault("5.5", "a fragmented Pong", vec![frame(0x0a, "")]),
        Row::fault("5.5", "a Close too long", vec![close(1000, message(124))]),
        Row::fault("5.5", "a fragmented Close", vec![frame(0x08, [3, 0xe8])]),
        Row::fault("5.5", "a huge Ping", vec![raw(&[0x89, 127, 0, 0, 0, 0, 0, 1, 0, 0], "")]),
        Row::open("5.5", "half a Ping", vec![raw(&[0x89, 5], "Hel")]),
    ]
}

fn closing() -> Vec<Row> {
    let mut rows = vec![
        Row::closed("without a code", vec![frame(0x88, "")], None, ""),
        Row::fault("5.5.1", "half a code", vec![frame(0x88, [3])]),
        Row::closed("behind a message", vec![binary("a"), close(1000, "")], Some(1000), "").gives([b"a"]),
        Row::closed("with a message behind", vec![close(1001, "bye"), binary("a")], Some(1001), "bye"),
        Row::closed("with nonsense behind", vec![close(1001, ""), frame(0xff, "a")], Some(1001), ""),
        Row::closed("twice", vec![close(1000, "one"), close(1001, "two")], Some(1000), "one"),
    ];
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        rows.push(Row {
            section: "7.4",
            ..Row::closed(format!("code {code}"), vec![close(code, "")], Some(code), "")
        });
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        rows.push(Row::fault("7.4", format!("code {code}"), vec![close(code, "")]));
    }
    for reason in ["bye", "ä", "€", "\u{10ffff}", "κόσμε", "\u{0}", &"a".repeat(123)] {
        let what = format!("the reason {reason:?}");
        rows.push(Row {
            section: "7.1.6",
            ..Row::closed(what, vec![close(1000, reason)], Some(1000), reason)
        });
    }
    for (reason, what) in [
        (&b"\xff"[..], "a byte that is never"),
        (b"\x80", "a continuation byte alone"),
        (b"a\xe2\x82", "a character cut short"),
        (b"\xc0\x80", "an overlong NUL"),
        (b"\xe0\x80\xaf", "an overlong slash"),
        (b"\xed\xa0\x80", "a surrogate"),
        (b"\xf4\x90\x80\x80", "beyond the last character"),
    ] {
        rows.push(Row::fault("8.1", what, vec![close(1000, reason)]));
    }
    rows
}

/// Bytes for one role, among them the RFC's examples.
fn masking() -> Vec<Row> {
    let open = || End::Open { pong: None };
    let fault = || End::Fault(1002);
    let hello = || End::Open { pong: Some(b"Hello".to_vec()) };
    vec![
        Row::of("5.1", "a client without mask", Server, b"\x82\x05Hello", fault()),
        Row::of("5.1", "a client's Ping without mask", Server, b"\x89\x05Hello", fault()),
        Row::of("5.1", "a client's Close without mask", Server, b"\x88\x02\x03\xe8", fault()),
        Row::of(
            "5.1",
            "a server with mask",
            Client,
            b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
            fault(),
        ),
        Row::of("5.1", "a server's Ping with mask", Client, b"\x89\x80\x37\xfa\x21\x3d", fault()),
        Row::of("5.1", "a server's Close with mask", Client, b"\x88\x80\x37\xfa\x21\x3d", fault()),
        Row::of("5.3", "a masked message", Server, b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", open())
            .gives([b"Hello"]),
        Row::of("5.3", "a mask that changes nothing", Server, b"\x82\x85\0\0\0\0Hello", open())
            .gives([b"Hello"]),
        Row::of("5.3", "a mask for each frame", Server, b"\x02\x81\x01\0\0\0I\x80\x81\x02\0\0\0g", open())
            .gives([b"He"]),
        Row::of("5.3", "a mask cut short", Server, b"\x82\x85\x37\xfa", open()),
        Row::of("5.7", "a text message", Client, b"\x81\x05\x48\x65\x6c\x6c\x6f", fault()),
        Row::of("5.7", "a masked one", Server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", fault()),
        Row::of("5.7", "a Ping", Client, b"\x89\x05\x48\x65\x6c\x6c\x6f", hello()),
        Row::of("5.7", "a masked Pong", Server, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", open()),
        Row::of("5.7", "256 bytes", Client, &[b"\x82\x7e\x01\x00", &message(256)[..]].concat(), open())
            .gives([&message(256)]),
        Row::of(
            "5.7",
            "64 KiB",
            Client,
            &[b"\x82\x7f\0\0\0\0\0\x01\0\0", &message(65_536)[..]].concat(),
            open(),
        )
        .gives([&message(65_536)]),
    ]
}

#[tokio::test]
async fn every_row_at_both_roles() {
    let tables = [lengths(), limits(), bits_and_opcodes(), fragments(), control(), closing(), masking()];
    for row in tables.iter().flatten() {
        for role in [Client, Server] {
            let Some(bytes) = row.bytes(role) else { continue };
            // All at once; and, where it is not for hours, byte by byte.
            let pieces = if bytes.len() < 1_000 { &[usize::MAX, 1][..] } else { &[usize::MAX, 1_000] };
            for &piece in pieces {
                let what = format!("§{}, {} ({role:?}, pieces of {piece})", row.section, row.what);
                let run = tokio::time::timeout(WAIT, run(role, &bytes, piece, row.limit));
                let (messages, end) = run.await.unwrap_or_else(|_| panic!("{what}: it hangs"));
                assert!(messages == row.messages, "{what}: {} messages are taken", messages.len());
                assert_eq!(end, row.end, "{what}");
            }
        }
    }
}

/// What our end takes and how it ends, by what it sends.
async fn run(role: Role, bytes: &[u8], piece: usize, limit: usize) -> (Vec<Vec<u8>>, End) {
    let (near, mut far) = duplex(1 << 20);
    let mut ours = if role == Client { WebSocket::client(near, &[]) } else { WebSocket::server(near, &[]) };
    ours.set_message_limit(limit);
    let send = async {
        for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
            far.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        far.shutdown().await.unwrap();
    };
    let take = async {
        let mut messages = Vec::new();
        loop {
            match ours.recv().await {
                Ok(message) => messages.push(message.to_vec()),
                Err(error) => return (messages, error),
            }
        }
    };
    let ((), (messages, error)) = tokio::join!(send, take);
    let code = error.close_code();
    // The socket is there until the peer has gone, which it has.
    if let Some(code) = code {
        ours.close(code, "", WAIT).await;
    } else {
        // A Pong may wait for a pause that never came.
        poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
        drop(ours);
    }
    let sent = received(&mut far, role).await;
    let last = sent.last().map(|(first, payload)| (*first, payload.as_slice()));
    let end = match error {
        WebSocketError::Eof => {
            assert!(sent.iter().all(|(first, _)| *first == 0x8a), "nothing but Pongs");
            End::Open { pong: sent.into_iter().next_back().map(|(_, payload)| payload) }
        }
        WebSocketError::Closed { code, reason } => {
            let answer = code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default();
            assert_eq!(last, Some((0x88, answer.as_slice())), "a Close is answered");
            End::Closed(code, reason)
        }
        WebSocketError::Protocol(_) | WebSocketError::TooLong => {
            let code = code.unwrap();
            assert_eq!(last, Some((0x88, &code.to_be_bytes()[..])), "the fault is told");
            End::Fault(code)
        }
        WebSocketError::Io(error) => panic!("{error}"),
    };
    (messages, end)
}

/// The frames that our end has sent: each has a first byte and a payload.
async fn received(far: &mut DuplexStream, role: Role) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [first, second, behind @ ..] = rest {
        assert_eq!(second & 0x80 != 0, role == Client, "clients mask");
        let length = usize::from(second & 0x7f);
        assert!(length <= 125, "nothing but control frames");
        let (mask, behind) = behind.split_at(if role == Client { 4 } else { 0 });
        let (payload, behind) = behind.split_at(length);
        let mask = mask.iter().chain(if mask.is_empty() { &[0][..] } else { &[] }).cycle();
        frames.push((*first, payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()));
        rest = behind;
    }
    assert!(rest.is_empty());
    frames
}
