//! What passes through TLS allocates nothing once the buffers are there.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use smartvpn::transport::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

type Bytes = Rc<RefCell<VecDeque<u8>>>;

/// One end of a pipe that has all its memory from the start. Nobody is woken: both ends are polled.
struct Pipe {
    incoming: Bytes,
    outgoing: Bytes,
}

impl Pipe {
    fn pair() -> (Self, Self) {
        let new = || Rc::new(RefCell::new(VecDeque::with_capacity(1 << 18)));
        let (there, back) = (new(), new());
        let near = Self { incoming: Rc::clone(&back), outgoing: Rc::clone(&there) };
        (near, Self { incoming: there, outgoing: back })
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = self.incoming.borrow_mut();
        if bytes.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (first, _) = bytes.as_slices();
        let count = first.len().min(buf.remaining());
        buf.put_slice(&first[..count]);
        bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.borrow_mut().extend(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client and a server.
async fn pair() -> (TlsStream<Pipe>, TlsStream<Pipe>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["vpn.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    let (near, far) = Pipe::pair();
    let (client, server) = tokio::join!(
        TlsStream::connect(Arc::new(client), "vpn.test".try_into().unwrap(), near),
        TlsStream::accept(Arc::new(server), far)
    );
    (client.unwrap(), server.unwrap())
}

/// Sends `bytes` and receives them through `room`.
fn pass(from: &mut TlsStream<Pipe>, to: &mut TlsStream<Pipe>, bytes: &[u8], room: &mut [u8]) {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut sent, mut got) = (0, 0);
    while got < bytes.len() {
        if sent < bytes.len() {
            let Poll::Ready(count) = Pin::new(&mut *from).poll_write(&mut cx, &bytes[sent..]) else {
                panic!("the pipe is never full")
            };
            sent += count.unwrap();
        } else {
            assert!(Pin::new(&mut *from).poll_flush(&mut cx).is_ready());
        }
        let mut buf = ReadBuf::new(room);
        while let Poll::Ready(read) = Pin::new(&mut *to).poll_read(&mut cx, &mut buf) {
            read.unwrap();
            got += buf.filled().len();
            buf.clear();
        }
    }
    assert_eq!(got, bytes.len());
}

#[tokio::test]
async fn the_steady_state_allocates_nothing() {
    let (mut client, mut server) = pair().await;
    let bytes = vec![7; 200_000];
    // Rooms that fit no record, one, and many.
    for size in [1_000, 17_000, 65_536] {
        let mut room = vec![0; size];
        let mut round = || {
            for length in [1, 1_420, 16_384, 65_536, 65_550, 200_000] {
                pass(&mut client, &mut server, &bytes[..length], &mut room);
                pass(&mut server, &mut client, &bytes[..length], &mut room);
            }
        };
        (0..3).for_each(|_| round());
        let allocations = measure(|| (0..20).for_each(|_| round()));
        assert_eq!(allocations.count_total, 0, "{size}: {allocations:?}");
    }
}
