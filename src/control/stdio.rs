//! The standard streams as a control connection.
//!
//! They are driven by readiness where they can be: a thread that is blocked in a read would keep the
//! process from ending, and one that is blocked in a write would keep it from hearing its parent go.

#![expect(unsafe_code, reason = "a descriptor is registered for readiness")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Standard input.
#[derive(Debug)]
pub struct Input(Reader);

/// Standard output.
#[derive(Debug)]
pub struct Output(Writer);

/// Tells that the other end of standard input is gone, whether or not all of it has been read.
#[derive(Debug)]
pub struct Hangup(Option<AsyncFd<OwnedFd>>);

#[derive(Debug)]
enum Reader {
    Ready(Stream),
    /// A file, which is always ready, so that no thread gets stuck.
    File(tokio::io::Stdin),
}

#[derive(Debug)]
enum Writer {
    Ready(Stream),
    File(tokio::io::Stdout),
}

/// A stream that does not block. What it shares with other processes is as before once it is
/// dropped.
#[derive(Debug)]
struct Stream {
    fd: AsyncFd<OwnedFd>,
    restore: Option<OFlags>,
}

/// Opens both streams. Must be called once, on a tokio runtime.
///
/// # Errors
/// The system's.
pub fn stdio() -> io::Result<(Input, Output, Hangup)> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let output = match Stream::open(stdout.as_fd(), OFlags::WRONLY, Interest::WRITABLE)? {
        Some(stream) => Writer::Ready(stream),
        None => Writer::File(tokio::io::stdout()),
    };
    let (input, hangup) = match Stream::open(stdin.as_fd(), OFlags::RDONLY, Interest::READABLE)? {
        Some(stream) => {
            // Registered on its own: what is noticed here does not keep the reader from noticing it.
            let watched = stream.fd.get_ref().try_clone()?;
            (Reader::Ready(stream), Some(register(watched, Interest::READABLE)?))
        }
        None => (Reader::File(tokio::io::stdin()), None),
    };
    Ok((Input(input), Output(output), Hangup(hangup)))
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it stays open, and the same, until the registration has
    // ended with it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

impl Stream {
    /// The stream, without blocking; none if it is a file, which is always ready.
    fn open(stream: BorrowedFd<'_>, access: OFlags, interest: Interest) -> io::Result<Option<Self>> {
        let (fd, flags) = match reopen(stream, access) {
            Some(fd) => (fd, OFlags::NONBLOCK),
            None => {
                let fd = stream.try_clone_to_owned()?;
                let flags = rustix::fs::fcntl_getfl(&fd)?;
                (fd, flags)
            }
        };
        let fd = match register(fd, interest) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error),
        };
        if flags.contains(OFlags::NONBLOCK) {
            return Ok(Some(Self { fd, restore: None }));
        }
        rustix::fs::fcntl_setfl(fd.get_ref(), flags | OFlags::NONBLOCK)?;
        Ok(Some(Self { fd, restore: Some(flags) }))
    }
}

/// A pipe or terminal, opened anew: whether it blocks is then our own affair. Sockets cannot be.
fn reopen(stream: BorrowedFd<'_>, access: OFlags) -> Option<OwnedFd> {
    use std::os::fd::AsRawFd;

    let kind = FileType::from_raw_mode(rustix::fs::fstat(stream).ok()?.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(flags) = self.restore
            && let Err(error) = rustix::fs::fcntl_setfl(self.fd.get_ref(), flags)
        {
            tracing::debug!(%error, "a standard stream stays as it is");
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = match &mut self.get_mut().0 {
            Reader::File(file) => return Pin::new(file).poll_read(cx, buf),
            Reader::Ready(stream) => stream,
        };
        loop {
            let mut guard = ready!(stream.fd.poll_read_ready(cx))?;
            let read = guard.try_io(|stream| Ok(rustix::io::read(stream, buf.initialize_unfilled())?));
            match read {
                Ok(Ok(length)) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = match &mut self.get_mut().0 {
            Writer::File(file) => return Pin::new(file).poll_write(cx, bytes),
            Writer::Ready(stream) => stream,
        };
        loop {
            let mut guard = ready!(stream.fd.poll_write_ready(cx))?;
            match guard.try_io(|stream| Ok(rustix::io::write(stream, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Writer::File(file) => Pin::new(file).poll_flush(cx),
            Writer::Ready(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Hangup {
    /// Resolves when nobody is left at the other end. Cancel-safe.
    pub async fn wait(&self) {
        let Some(stream) = &self.0 else { return std::future::pending().await };
        loop {
            match stream.ready(Interest::READABLE).await {
                Ok(guard) if guard.ready().is_read_closed() => return,
                Ok(mut guard) => guard.clear_ready(),
                // Readiness is no longer told: what reads will notice.
                Err(_) => return std::future::pending().await,
            }
        }
    }
}
