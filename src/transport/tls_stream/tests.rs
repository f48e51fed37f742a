//! Our stream against tokio-rustls, the oracle, and against itself.

mod faults;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ContentType, HandshakeKind, HandshakeType, RootCertStore, SupportedCipherSuite};
use std::task::Waker;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const TLS13: SupportedCipherSuite = cipher_suite::TLS13_AES_128_GCM_SHA256;
const TLS12: SupportedCipherSuite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

const SUITES: [SupportedCipherSuite; 6] = [
    TLS13,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    TLS12,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

type Ours = TlsStream<DuplexStream>;

/// Both ends' settings.
struct Configs {
    client: ClientConfig,
    server: ServerConfig,
}

impl Configs {
    fn new(suite: SupportedCipherSuite) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap();
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[suite.version()])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[suite.version()])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        server.enable_secret_extraction = true;
        Self { client, server }
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.client.clone())
    }

    fn server(&self) -> Arc<ServerConfig> {
        Arc::new(self.server.clone())
    }
}

fn name() -> ServerName<'static> {
    "vpn.test".try_into().unwrap()
}

/// Cuts what passes into pieces of random length, and lets be waited for at random.
struct Choppy {
    io: DuplexStream,
    rng: StdRng,
    most: usize,
}

impl Choppy {
    fn pair(seed: u64, most: usize) -> (Self, Self) {
        let (near, far) = duplex(20_000);
        let new = |io, seed| Self { io, rng: StdRng::seed_from_u64(seed), most };
        (new(near, seed), new(far, seed + 1))
    }

    fn piece(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<usize> {
        if self.rng.random_range(0..4) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.rng.random_range(1..=self.most).min(most))
    }
}

impl AsyncRead for Choppy {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut bytes = vec![0; ready!(this.piece(cx, buf.remaining()))];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(this.piece(cx, buf.len()));
        Pin::new(&mut this.io).poll_write(cx, &buf[..count])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

async fn send<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
    to.flush().await.unwrap();
}

async fn expect<R: AsyncRead + Unpin>(from: &mut R, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    from.read_exact(&mut bytes).await.unwrap();
    assert!(bytes == expected, "{} bytes differ", expected.len());
}

fn sample(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251 + salt) as u8).collect()
}

/// Bytes of every length there is a border at, one way, the other, and both at once.
async fn exchange<A, B>(one: &mut A, other: &mut B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    for (salt, length) in
        [0, 1, 5, 1000, 16_383, 16_384, 16_385, 65_536, 65_537, 200_000].into_iter().enumerate()
    {
        let (there, back) = (sample(length, salt), sample(length, salt + 100));
        tokio::join!(send(one, &there), expect(other, &there));
        tokio::join!(send(other, &back), expect(one, &back));
        let ((mut one_in, mut one_out), (mut other_in, mut other_out)) =
            (split(&mut *one), split(&mut *other));
        tokio::join!(
            send(&mut one_out, &there),
            expect(&mut other_in, &there),
            send(&mut other_out, &back),
            expect(&mut one_in, &back)
        );
    }
}

/// Either says that it ends, and the other notices.
async fn end<A, B>(mut first: A, mut second: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    first.shutdown().await.unwrap();
    assert_eq!(second.read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(second.read(&mut [0; 9]).await.unwrap(), 0);
    // The other direction is still open.
    tokio::join!(send(&mut second, b"still here"), expect(&mut first, b"still here"));
    second.shutdown().await.unwrap();
    assert_eq!(first.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test]
async fn our_client_speaks_with_the_oracle() {
    for (seed, suite) in SUITES.into_iter().enumerate() {
        for most in [13, 3000, 70_000] {
            let configs = Configs::new(suite);
            let (near, far) = Choppy::pair(seed as u64, most);
            let (ours, theirs) = tokio::join!(
                TlsStream::connect(configs.client(), name(), near),
                TlsAcceptor::from(configs.server()).accept(far)
            );
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(ours.cipher_suite(), suite.suite());
            assert_eq!(Some(ours.protocol_version()), theirs.get_ref().1.protocol_version());
            exchange(&mut ours, &mut theirs).await;
            if most == 13 { end(ours, theirs).await } else { end(theirs, ours).await }
        }
    }
}

#[tokio::test]
async fn our_server_speaks_with_the_oracle() {
    for (seed, suite) in SUITES.into_iter().enumerate() {
        for most in [13, 3000, 70_000] {
            let configs = Configs::new(suite);
            let (near, far) = Choppy::pair(100 + seed as u64, most);
            let (ours, theirs) = tokio::join!(
                TlsStream::accept(configs.server(), near),
                TlsConnector::from(configs.client()).connect(name(), far)
            );
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            exchange(&mut ours, &mut theirs).await;
            if most == 13 { end(ours, theirs).await } else { end(theirs, ours).await }
        }
    }
}

/// Two of ours, over `buffer` bytes of pipe each way.
async fn pair(suite: SupportedCipherSuite, buffer: usize) -> (Ours, Ours) {
    let mut configs = Configs::new(suite);
    // A ticket would wait for a client that reads.
    configs.server.send_tls13_tickets = 0;
    let (near, far) = duplex(buffer);
    let (client, server) = tokio::join!(
        TlsStream::connect(configs.client(), name(), near),
        TlsStream::accept(configs.server(), far)
    );
    (client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn two_of_ours_speak_over_a_narrow_pipe() {
    for suite in SUITES {
        let (mut client, mut server) = pair(suite, 7).await;
        let bytes = sample(20_000, 3);
        tokio::join!(send(&mut client, &bytes), expect(&mut server, &bytes));
        tokio::join!(send(&mut server, &bytes), expect(&mut client, &bytes));
    }
}

#[tokio::test]
async fn small_reads_get_every_byte() {
    let (mut client, mut server) = pair(TLS13, 1 << 20).await;
    let bytes = sample(40_000, 1);
    send(&mut client, &bytes).await;
    let (mut got, mut rng) = (Vec::new(), StdRng::seed_from_u64(5));
    while got.len() < bytes.len() {
        let mut part = vec![0; rng.random_range(1..400)];
        let count = server.read(&mut part).await.unwrap();
        assert!(count > 0);
        got.extend_from_slice(&part[..count]);
    }
    assert!(got == bytes);
}

#[tokio::test]
async fn the_oracles_keys_are_followed_and_its_requests_answered() {
    let configs = Configs::new(TLS13);
    for seed in 0..4 {
        let (near, far) = Choppy::pair(seed, 900);
        let (ours, theirs) = tokio::join!(
            TlsStream::connect(configs.client(), name(), near),
            TlsAcceptor::from(configs.server()).accept(far)
        );
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        for round in 0..100 {
            theirs.get_mut().1.refresh_traffic_keys().unwrap();
            let bytes = sample(1 + round * 300, round);
            tokio::join!(send(&mut theirs, &bytes), expect(&mut ours, &bytes));
            tokio::join!(send(&mut ours, &bytes), expect(&mut theirs, &bytes));
            // Under new keys, each began anew.
            assert!(ours.writer.sealer().sequence() <= 3);
        }
    }
}

#[tokio::test]
async fn keys_are_updated_without_a_request() {
    let (mut client, mut server) = pair(TLS13, 1 << 20).await;
    for round in 0..100 {
        let before = server.writer.sealer().sequence();
        client.writer.answer_update(&mut client.kernel).unwrap();
        let bytes = sample(2_000, round);
        tokio::join!(send(&mut client, &bytes), expect(&mut server, &bytes));
        tokio::join!(send(&mut server, &bytes), expect(&mut client, &bytes));
        assert_eq!(server.writer.sealer().sequence(), before + 1, "it was not asked");
    }
}

#[tokio::test]
async fn a_key_seals_no_more_than_its_limit() {
    let configs = Configs::new(TLS13);
    let (near, far) = duplex(1 << 20);
    let (ours, theirs) = tokio::join!(
        TlsStream::connect(configs.client(), name(), near),
        TlsAcceptor::from(configs.server()).accept(far)
    );
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    ours.writer.sealer().set_limit(5);
    for round in 0..60 {
        let bytes = sample(round * 1000, round);
        tokio::join!(send(&mut ours, &bytes), expect(&mut theirs, &bytes));
        assert!(ours.writer.sealer().sequence() < 5);
    }
    // TLS 1.2 has no other keys; what is left is to say goodbye.
    let (mut client, mut server) = pair(TLS12, 1 << 20).await;
    client.writer.sealer().set_limit(5);
    let mut sent = 0;
    while client.write_all(b"more").await.is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 3, "one record was the handshake's, one is left");
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"moremoremore");
}

#[tokio::test]
async fn clients_resume_with_the_tickets_that_came_after_the_handshake() {
    for suite in [TLS13, TLS12] {
        let mut configs = Configs::new(suite);
        configs.server.send_tls13_tickets = 4;
        configs.server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let (client, acceptor) = (configs.client(), TlsAcceptor::from(configs.server()));
        for (round, expected) in
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].into_iter().enumerate()
        {
            let (near, far) = Choppy::pair(round as u64, 100);
            let (ours, theirs) =
                tokio::join!(TlsStream::connect(Arc::clone(&client), name(), near), acceptor.accept(far));
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(theirs.get_ref().1.handshake_kind(), Some(expected));
            tokio::join!(send(&mut theirs, b"after tickets"), expect(&mut ours, b"after tickets"));
            end(ours, theirs).await;
        }
    }
}

#[tokio::test]
async fn handshake_messages_may_be_cut_and_joined() {
    let (mut client, mut server) = pair(TLS13, 1 << 20).await;
    // A ticket: lifetime, age, nonce, ticket, no extensions.
    let ticket = [4, 0, 0, 18, 0, 0, 1, 0, 1, 2, 3, 4, 1, 7, 0, 4, 9, 9, 9, 9, 0, 0];
    let update = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 1];
    let messages = [&ticket[..], &ticket[..], &update[..]].concat();
    for size in [1_usize, 2, 3, 5, 7, 19, 100] {
        if messages.len().div_ceil(size) > 30 {
            continue;
        }
        for part in messages.chunks(size) {
            inject(&mut server, ContentType::Handshake, part).await;
        }
        let next = server.kernel.next_sending().unwrap();
        server.writer.sealer().rekey(&next).unwrap();
        inject(&mut server, ContentType::ApplicationData, b"under new keys").await;
        expect(&mut client, b"under new keys").await;
        // The answer is on its way although nobody has flushed.
        send(&mut client, b"so are mine").await;
        expect(&mut server, b"so are mine").await;
        assert_eq!(client.writer.sealer().sequence(), 1);
    }
}

/// Writes one record past all that `from` would refuse to send.
async fn inject(from: &mut Ours, kind: ContentType, content: &[u8]) {
    let record = record(from, kind, content);
    from.io.write_all(&record).await.unwrap();
}

fn record(from: &mut Ours, kind: ContentType, content: &[u8]) -> Vec<u8> {
    let sealer = from.writer.sealer();
    let mut record = vec![0; content.len() + sealer.overhead()];
    sealer.seal(kind, content, &mut record).unwrap();
    record
}

#[tokio::test]
async fn padding_is_taken_off() {
    let (mut client, mut server) = pair(TLS13, 1 << 20).await;
    // A type of 0 is a further zero.
    let padding = ContentType::from(0);
    for zeros in [0, 1, 7, 255, 16_000] {
        let padded = [b"data, 0 in it: \0, and at its end \0\x17", &vec![0; zeros][..]].concat();
        inject(&mut client, padding, &padded).await;
        expect(&mut server, &padded[..34]).await;
    }
    for zeros in 0..20 {
        inject(&mut client, padding, &[&[0x17][..], &vec![0; zeros][..]].concat()).await;
    }
    inject(&mut client, ContentType::ApplicationData, b"more").await;
    expect(&mut server, b"more").await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_written_for_without_end() {
    let (mut ours, mut theirs) = pair(TLS13, 1000).await;
    let bytes = sample(300_000, 0);
    let mut cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    while let Poll::Ready(count) = Pin::new(&mut ours).poll_write(&mut cx, &bytes[taken..]) {
        taken += count.unwrap();
    }
    assert!(taken <= 64 * 1024 + 1000, "{taken}");
    // Keys that are asked for meanwhile are waited with, as one answer is enough.
    for round in 0..20 {
        inject(&mut theirs, ContentType::Handshake, &[HandshakeType::KeyUpdate.into(), 0, 0, 1, 1]).await;
        let next = theirs.kernel.next_sending().unwrap();
        theirs.writer.sealer().rekey(&next).unwrap();
        inject(&mut theirs, ContentType::ApplicationData, &[round; 300]).await;
        expect(&mut ours, &[round; 300]).await;
        assert!(ours.writer.outstanding() < 66_000, "{}", ours.writer.outstanding());
        assert!(ours.writer.memory() < 140_000, "{}", ours.writer.memory());
    }
    let rest = async {
        ours.write_all(&bytes[taken..]).await.unwrap();
        ours.flush().await.unwrap();
    };
    tokio::join!(rest, expect(&mut theirs, &bytes));
}

#[tokio::test]
async fn nothing_is_lost_when_a_write_is_given_up() {
    let (mut ours, mut theirs) = pair(TLS13, 500).await;
    let bytes = sample(200_000, 9);
    let mut cx = Context::from_waker(Waker::noop());
    let (mut sent, mut got) = (0, Vec::new());
    let mut rng = StdRng::seed_from_u64(3);
    while got.len() < bytes.len() {
        let until = bytes.len().min(sent + rng.random_range(0..50_000));
        if let Poll::Ready(count) = Pin::new(&mut ours).poll_write(&mut cx, &bytes[sent..until]) {
            sent += count.unwrap();
        }
        let _ = Pin::new(&mut ours).poll_flush(&mut cx);
        let mut room = [0; 700];
        let mut buf = ReadBuf::new(&mut room);
        let _ = Pin::new(&mut theirs).poll_read(&mut cx, &mut buf);
        got.extend_from_slice(buf.filled());
        tokio::task::yield_now().await;
    }
    assert!(got == bytes);
}

#[tokio::test]
async fn an_idle_connection_keeps_no_buffer() {
    let (mut ours, mut theirs) = pair(TLS13, 1 << 20).await;
    let bytes = sample(200_000, 2);
    for _ in 0..3 {
        tokio::join!(send(&mut ours, &bytes), expect(&mut theirs, &bytes));
        tokio::join!(send(&mut theirs, &bytes), expect(&mut ours, &bytes));
        assert!(ours.memory() > 100_000);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let mut room = [0; 9];
            assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
            ours.shrink();
            assert_eq!(ours.memory(), 0);
        }
    }
}

#[tokio::test]
async fn what_came_with_the_handshake_is_there_behind_it() {
    for suite in [TLS13, TLS12] {
        let configs = Configs::new(suite);
        let (near, far) = duplex(1 << 20);
        let eager = async {
            let mut theirs = TlsConnector::from(configs.client()).connect(name(), far).await.unwrap();
            for part in sample(100_000, 4).chunks(9_000) {
                send(&mut theirs, part).await;
            }
            theirs
        };
        let late = async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            TlsStream::accept(configs.server(), near).await.unwrap()
        };
        let (_theirs, mut ours) = tokio::join!(eager, late);
        expect(&mut ours, &sample(100_000, 4)).await;
    }
}
