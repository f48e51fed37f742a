//! One request to the kernel, and its answers.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::attribute::find_attribute;

/// Length of a `struct nlmsghdr`.
pub(in crate::network) const HEADER_LEN: usize = 16;
/// The kernel never fills more than 32 KiB of one datagram of a dump (`netlink_dump`).
const RECEIVE_LEN: usize = 64 * 1024;
/// The kernel answers within the system call; only a fault of the kernel reaches this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a dump is begun anew because the table changed under it.
const DUMP_ATTEMPTS: u32 = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Messages before it were lost.
pub(super) const NLMSG_OVERRUN: u16 = 4;
/// The attribute of an error that holds the kernel's explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A netlink socket of one protocol that is connected to the kernel and to nobody else.
pub(in crate::network) struct KernelSocket {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

/// What one datagram said about the request.
enum Progress {
    /// More is to come.
    Pending,
    /// The request is answered; `consistent` is false if a table changed while it was dumped.
    Done { consistent: bool },
}

impl KernelSocket {
    /// Opens a socket of `protocol` (`NETLINK_…`) in the calling thread's network namespace.
    pub(in crate::network) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Nobody but the kernel (port 0) can now send to this socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        // Errors with an explanation and without a copy of the request: both are comfort only.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// Sends one request and waits for its acknowledgement. `answer` is called with the type and
    /// the body of every message that comes before it.
    pub(in crate::network) fn call(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut answer: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        self.receive(&mut answer).map(|_| ())
    }

    /// Sends a request for a whole table and collects what `parse` makes of each entry.
    pub(in crate::network) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut entries = Vec::new();
            self.send(kind, NLM_F_DUMP, body)?;
            if self.receive(&mut |_, body| entries.extend(parse(body)))? {
                return Ok(entries);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the table kept changing while it was read"))
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; HEADER_LEN + body.len()];
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let mut header = NetlinkBuffer::new(&mut message);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(NLM_F_REQUEST | flags);
        header.set_sequence_number(self.sequence);
        message[HEADER_LEN..].copy_from_slice(body);
        self.socket.send(&message, 0).map(|_| ())
    }

    /// Takes datagrams until the request is answered; `false` if a dump has to be begun anew.
    fn receive(&mut self, answer: &mut dyn FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            self.received.clear();
            self.socket.recv(&mut self.received, 0)?;
            match read_datagram(&self.received, self.sequence, &mut consistent, answer)? {
                Progress::Pending => {}
                Progress::Done { consistent } => return Ok(consistent),
            }
        }
    }
}

fn read_datagram(
    mut datagram: &[u8],
    sequence: u32,
    consistent: &mut bool,
    answer: &mut dyn FnMut(u16, &[u8]),
) -> io::Result<Progress> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
        let length = usize::try_from(message.length()).map_err(io::Error::other)?;
        // A late answer to a request that timed out is not of this one.
        if message.sequence_number() == sequence {
            *consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
            let body = &datagram[HEADER_LEN..length];
            match message.message_type() {
                NLMSG_ERROR => {
                    outcome(body, message.flags())?;
                    return Ok(Progress::Done { consistent: *consistent });
                }
                NLMSG_DONE => {
                    if body.len() >= 4 {
                        outcome(body, message.flags())?;
                    }
                    return Ok(Progress::Done { consistent: *consistent });
                }
                kind => answer(kind, body),
            }
        }
        // Messages are aligned to four bytes.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Progress::Pending)
}

/// The outcome that an acknowledgement tells; `body` begins with the negative error number.
fn outcome(body: &[u8], flags: u16) -> io::Result<()> {
    let Some((number, rest)) = body.split_first_chunk::<4>() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer is cut short"));
    };
    let number = i32::from_ne_bytes(*number);
    if number == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(number.saturating_neg());
    // Only where the request is not repeated (capped) do the attributes follow its header at once.
    if flags & NLM_F_ACK_TLVS != 0
        && flags & NLM_F_CAPPED != 0
        && let Some(text) = rest.get(HEADER_LEN..).and_then(|rest| find_attribute(rest, NLMSGERR_ATTR_MSG))
    {
        let explanation = String::from_utf8_lossy(text);
        tracing::debug!(%error, explanation = explanation.trim_end_matches('\0'), "netlink request refused");
    }
    Err(error)
}
