//! Sockets that the service manager has opened for us (`LISTEN_FDS`).

use std::env;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

use super::error::ControlError;

/// What the service manager passed.
#[derive(Debug)]
pub struct Activated(Result<UnixListener, String>);

/// The socket that the service manager passed to this process; none if it passed nothing.
///
/// Takes the variables out of the environment, so it must be called before there are other threads.
pub fn activated_socket() -> Option<Activated> {
    // Without this they are those of a parent, for whom the descriptors were.
    if env::var("LISTEN_PID").ok()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => None,
        1 => Some(Activated(listener(&mut passed).map_err(|error| error.to_string()))),
        count => Some(Activated(Err(format!("{count} descriptors")))),
    }
}

fn listener(passed: &mut ListenFd) -> io::Result<UnixListener> {
    let listener = passed.take_unix_listener(0)?.ok_or_else(|| io::Error::other("nothing"))?;
    if !socket_acceptconn(&listener)? {
        return Err(io::Error::other("a socket that does not listen"));
    }
    Ok(listener)
}

impl Activated {
    /// The socket, if it is the one at `path`.
    pub(super) fn at(self, path: &Path) -> Result<UnixListener, ControlError> {
        let refused = |what| ControlError::Activation { path: path.to_owned(), what };
        let listener = self.0.map_err(refused)?;
        let system = |source| ControlError::System { path: path.to_owned(), source };
        let address = listener.local_addr().map_err(system)?;
        let Some(bound) = address.as_pathname() else {
            return Err(refused("a socket without a path".into()));
        };
        let file = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        // /var/run and /run are one folder: what counts is the file.
        if bound != path && file(path).ok() != Some(file(bound).map_err(system)?) {
            return Err(refused(format!("the socket {}", bound.display())));
        }
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_must_be_the_one_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = || UnixListener::bind(&path);
        assert!(Activated(listener().map_err(|error| error.to_string())).at(&path).is_ok());
        std::fs::remove_file(&path).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Activated(listener().map_err(|error| error.to_string())).at(&link).is_ok());
        std::fs::remove_file(&path).unwrap();
        let (other, missing) = (folder.path().join("other"), folder.path().join("missing"));
        let _other = UnixListener::bind(&other).unwrap();
        for elsewhere in [other, missing] {
            let passed = listener().map_err(|error| error.to_string());
            let error = Activated(passed).at(&elsewhere).unwrap_err();
            assert!(error.to_string().contains("passed the socket"), "{error}");
            std::fs::remove_file(&path).unwrap();
        }
        let error = Activated(Err("2 descriptors".to_owned())).at(&path).unwrap_err();
        assert!(error.to_string().contains("passed 2 descriptors"), "{error}");
    }
}
