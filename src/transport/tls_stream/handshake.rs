//! The handshake, which is rustls's, and what is left of it for the time after.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{
    CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets, InvalidMessage, ProtocolVersion,
    SupportedCipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::buffer::Buffer;
use super::record::{self, RECORD_MAX};

/// What may wait to be understood at a client: rustls takes no message over 64 KiB, in however many records.
const INPUT_MAX: usize = 64 * 1024 + 2 * RECORD_MAX;

/// The same at a server, whose clients are strangers: a ClientHello with a post-quantum key, and all that browsers
/// put into one, is 2 KiB.
const SERVER_INPUT_MAX: usize = 8 * 1024;

/// How much is read at a time, at least.
const READ: usize = 2 * 1024;

/// What of rustls outlives the handshake: the secrets that traffic keys come from, and the tickets.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    pub(super) fn version(&self) -> ProtocolVersion {
        match self {
            Self::Client(kernel) => kernel.protocol_version(),
            Self::Server(kernel) => kernel.protocol_version(),
        }
    }

    pub(super) fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(kernel) => kernel.negotiated_cipher_suite(),
            Self::Server(kernel) => kernel.negotiated_cipher_suite(),
        }
    }

    /// How many records one key may protect.
    pub(super) fn confidentiality_limit(&self) -> u64 {
        match self.suite() {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        }
    }

    /// The keys that follow the current ones of what is sent.
    pub(super) fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    /// The keys that follow the current ones of what is received.
    pub(super) fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// One side of a handshake.
pub(super) trait Side {
    type Data;

    /// What may wait to be understood, in bytes.
    const INPUT: usize;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    const INPUT: usize = INPUT_MAX;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Client(kernel)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    const INPUT: usize = SERVER_INPUT_MAX;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Server(kernel)))
    }
}

/// What a finished handshake leaves.
pub(super) struct Established {
    pub(super) secrets: ExtractedSecrets,
    pub(super) kernel: Kernel,
    /// Records behind the handshake's, as they came.
    pub(super) input: Buffer,
}

/// What rustls wants next.
enum Step {
    /// It has something more to say.
    Again,
    /// What it has said must be sent.
    Send,
    /// It waits for the peer.
    Receive,
    /// Nothing.
    Finished,
}

/// Goes through the handshake over `io`. Failures of TLS are told to the peer, as far as the socket takes
/// that without waiting.
pub(super) async fn shake_hands<S, T>(io: &mut S, mut tls: T) -> io::Result<Established>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Side,
{
    let mut incoming = Incoming::default();
    let mut output = Vec::new();
    loop {
        match step(&mut tls, &mut incoming, &mut output) {
            Ok(Step::Again) => {}
            Ok(Step::Send) => {
                io.write_all(&output).await?;
                io.flush().await?;
                // Given back: the peer may take its time now.
                output = Vec::new();
            }
            Ok(Step::Receive) => {
                while !incoming.show_more() {
                    incoming.read(io, T::INPUT).await?;
                }
            }
            Ok(Step::Finished) => break,
            Err(error) => {
                tell_failure(io, &mut tls, &mut incoming, output).await;
                return Err(failed(error));
            }
        }
    }
    let (secrets, kernel) = tls.finish().map_err(failed)?;
    Ok(Established { secrets, kernel, input: incoming.buffer })
}

fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn step<T: Side>(tls: &mut T, incoming: &mut Incoming, output: &mut Vec<u8>) -> Result<Step, Error> {
    let UnbufferedStatus { discard, state } = tls.process(incoming.shown());
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, output).map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Send)
        }
        // A server may write before the client has proved anything; here it waits.
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Receive),
        Ok(other) => Err(Error::General(format!("{other:?} during the handshake"))),
        Err(error) => Err(error),
    };
    incoming.discard(discard);
    match step {
        Ok(Step::Receive) if !tls.state().is_handshaking() => Ok(Step::Finished),
        step => step,
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<(), Error> {
    let start = output.len();
    loop {
        match data.encode(&mut output[start..]) {
            Ok(written) => {
                output.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => output.resize(start + size.required_size, 0),
            Err(error @ EncodeError::AlreadyEncoded) => return Err(Error::General(error.to_string())),
        }
    }
}

/// Sends the alert, if there is one, and what stands before it.
async fn tell_failure<S, T>(io: &mut S, tls: &mut T, incoming: &mut Incoming, mut output: Vec<u8>)
where
    S: AsyncWrite + Unpin,
    T: Side,
{
    // Only while it has something to say: it must not look at the faulty bytes again.
    while tls.state().wants_write() {
        let Ok(ConnectionState::EncodeTlsData(data)) = tls.process(incoming.shown()).state else { break };
        if encode(data, &mut output).is_err() {
            break;
        }
    }
    let mut rest = output.as_slice();
    poll_fn(|cx| {
        while !rest.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, rest) {
                Poll::Ready(Ok(count @ 1..)) => rest = rest.get(count..).unwrap_or_default(),
                _ => break,
            }
        }
        let _ = Pin::new(&mut *io).poll_flush(cx);
        Poll::Ready(())
    })
    .await;
}

/// What the peer has sent, of which rustls is shown one record after the other: what lies behind the
/// handshake's last is not for it, and what it has looked at it may have changed.
#[derive(Default)]
struct Incoming {
    buffer: Buffer,
    /// What it is shown: whole records and, so that it looks at the header, the beginning of one more.
    shown: usize,
    /// Of these, how much is whole records.
    whole: usize,
}

impl Incoming {
    fn shown(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes_mut()[..self.shown]
    }

    fn discard(&mut self, count: usize) {
        self.buffer.consume(count);
        self.shown = self.shown.saturating_sub(count);
        self.whole = self.whole.saturating_sub(count);
    }

    /// Shows one more record, or its beginning. False if more must be read first.
    fn show_more(&mut self) -> bool {
        let next = record::first_length(self.buffer.bytes().get(self.whole..).unwrap_or_default());
        match next {
            Some(length) if self.whole + length <= self.buffer.len() => {
                self.whole += length;
                self.shown = self.whole;
                true
            }
            _ if self.shown < self.buffer.len() => {
                self.shown = self.buffer.len();
                true
            }
            _ => false,
        }
    }

    async fn read<S: AsyncRead + Unpin>(&mut self, io: &mut S, most: usize) -> io::Result<()> {
        let room = most.saturating_sub(self.buffer.len());
        if room == 0 {
            return Err(failed(InvalidMessage::HandshakePayloadTooLarge.into()));
        }
        let read = poll_fn(|cx| {
            let mut room = ReadBuf::new(self.buffer.room(READ.min(room)));
            Pin::new(&mut *io).poll_read(cx, &mut room).map_ok(|()| room.filled().len())
        });
        match read.await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
            count => {
                self.buffer.filled(count);
                Ok(())
            }
        }
    }
}
