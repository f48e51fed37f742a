//! The Unix socket that controllers connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

use super::activation::Activated;
use super::error::ControlError;
use super::folder;
use super::lock::PathLock;
use super::peer::Admission;

/// Connections that may wait for `accept`, where `net.core.somaxconn` allows: twice what the daemon
/// admits, so that all its controllers can come at once after a restart, and a surplus one hears why
/// it is turned away. Beyond it the kernel refuses with `EAGAIN`.
const BACKLOG: i32 = 4096;

/// A listening management socket. Its file goes with it, unless another one has taken its place or
/// the service manager owns it.
#[derive(Debug)]
pub struct ManagementSocket {
    listener: UnixListener,
    admission: Admission,
    _file: Option<SocketFile>,
}

/// The file of a socket that this process has bound.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    /// Declared last: whoever gets it finds the file gone.
    _lock: PathLock,
}

impl ManagementSocket {
    /// Listens at `path` for root and the user of this process, and for the members of `group` if
    /// one is named. Nobody else can connect, at no moment. Must be called on a tokio runtime.
    ///
    /// A socket that a dead process has left there is replaced. One that `activated` holds is used
    /// instead, with the permissions that the service manager gave it.
    ///
    /// # Errors
    /// Where others could interfere, another process listens, or the system refuses.
    pub fn open(
        path: &Path,
        group: Option<&str>,
        activated: Option<Activated>,
    ) -> Result<Self, ControlError> {
        let group = group.map(|name| group_id(path, name)).transpose()?;
        let (listener, file) = match activated {
            Some(activated) => (activated.at(path)?, None),
            None => bind(path, group).map(|(listener, file)| (listener, Some(file)))?,
        };
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(|source| ControlError::System { path: path.to_owned(), source })?;
        Ok(Self { listener, admission: Admission::of_this_process(group), _file: file })
    }

    /// The next connection of somebody who is admitted; others are closed at once. Cancel-safe.
    ///
    /// # Errors
    /// The system's, when it has no descriptors left for instance.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match self.admission.judge(&stream) {
                Ok((_, true)) => return Ok(stream),
                Ok((peer, false)) => {
                    tracing::warn!(uid = peer.uid, "a controller of another user was turned away");
                }
                Err(error) => tracing::debug!(%error, "a controller left before it was looked at"),
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).ok() == Some(self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the management socket could not be removed");
        }
    }
}

fn group_id(path: &Path, name: &str) -> Result<u32, ControlError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(ControlError::UnknownGroup { name: name.to_owned() }),
        Err(error) => Err(ControlError::System { path: path.to_owned(), source: error.into() }),
    }
}

/// Binds and listens, with everything that can be in the way looked at first.
fn bind(path: &Path, group: Option<u32>) -> Result<(StdListener, SocketFile), ControlError> {
    let system = |source: io::Error| ControlError::System { path: path.to_owned(), source };
    let bad = |why| ControlError::BadPath { path: path.to_owned(), why };
    let name = path.file_name().ok_or_else(|| bad("it names no file"))?;
    if path.to_string_lossy().contains(char::is_control) {
        return Err(bad("it has a control character in it"));
    }
    let folder = std::path::absolute(path).map_err(system)?;
    let folder = folder.parent().ok_or_else(|| bad("it names no file"))?;
    let folder = folder.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => bad("its folder does not exist; make it first, for its owner alone"),
        _ => system(error),
    })?;
    if let Some(why) = folder::hazard(&folder).map_err(system)? {
        return Err(ControlError::UnsafeFolder { path: path.to_owned(), why });
    }
    let path = folder.join(name);
    let address = SocketAddrUnix::new(&path).map_err(|_| bad("it is longer than 107 bytes"))?;
    let lock = PathLock::take(&path).map_err(system)?;
    let lock = lock.ok_or_else(|| ControlError::InUse { path: path.clone() })?;
    remove_stale(&path, &address)?;
    let socket = unix_socket().map_err(system)?;
    // The file is born with the permissions that the socket has here: others never get in.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|errno| system(errno.into()))?;
    rustix::net::bind(&socket, &address).map_err(|errno| system(errno.into()))?;
    let file = SocketFile { id: file_id(&path).map_err(system)?, path, _lock: lock };
    fs::set_permissions(&file.path, Permissions::from_mode(0o600)).map_err(system)?;
    if let Some(group) = group {
        std::os::unix::fs::lchown(&file.path, None, Some(group)).map_err(system)?;
        fs::set_permissions(&file.path, Permissions::from_mode(0o660)).map_err(system)?;
    }
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| system(errno.into()))?;
    Ok((StdListener::from(socket), file))
}

/// Makes room at `path`, if what is there is a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ControlError> {
    let system = |source: io::Error| ControlError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match rustix::net::connect(&unix_socket().map_err(system)?, address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing the socket that an ended process has left");
            fs::remove_file(path).map_err(system)
        }
        // A full backlog, or a socket of another type: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ControlError::InUse { path: path.to_owned() }),
        Err(errno) => Err(system(errno.into())),
    }
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
