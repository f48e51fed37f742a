use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream as StdStream};

use tempfile::TempDir;

use super::*;
use crate::error::ErrorCode;

/// A folder that only its owner can write to.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("control.sock");
    (folder, path)
}

fn open(path: &Path) -> Result<ManagementSocket, ControlError> {
    ManagementSocket::open(path, None, None)
}

#[track_caller]
fn refused(path: &Path, code: ErrorCode, words: &str) {
    let error = open(path).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn it_is_private_and_gone_at_the_end() {
    let (folder, path) = folder();
    let socket = open(&path).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let _controller = StdStream::connect(&path).unwrap();
    socket.accept().await.unwrap();
    drop(socket);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn it_is_private_from_its_first_moment() {
    let (_folder, path) = folder();
    let socket = unix_socket().unwrap();
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o177, 0);
}

#[tokio::test]
async fn a_group_may_be_let_in() {
    let (_folder, path) = folder();
    let group = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
    let _socket = ManagementSocket::open(&path, Some(&group.name), None).unwrap();
    let metadata = path.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, group.gid.as_raw()));
    let error = ManagementSocket::open(&path, Some("no such group"), None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_stale_one_is_replaced_and_a_live_one_is_not() {
    let (_folder, path) = folder();
    let other = StdListener::bind(&path).unwrap();
    refused(&path, ErrorCode::AddressInUse, "another process listens");
    drop(other);
    let socket = open(&path).unwrap();
    refused(&path, ErrorCode::AddressInUse, "another process listens");
    drop(socket);
    let datagrams = UnixDatagram::bind(&path).unwrap();
    refused(&path, ErrorCode::AddressInUse, "another process listens");
    drop(datagrams);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let (folder, path) = folder();
    fs::write(&path, "precious").unwrap();
    refused(&path, ErrorCode::FileError, "not a socket");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let link = folder.path().join("link");
    symlink(folder.path().join("nowhere"), &link).unwrap();
    refused(&link, ErrorCode::FileError, "not a socket");
}

#[tokio::test]
async fn what_took_its_place_is_left_alone() {
    let (_folder, path) = folder();
    let socket = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    let (folder, path) = folder();
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        refused(&path, ErrorCode::FileError, "others can write");
    }
    assert!(!path.exists());
}

#[tokio::test]
async fn a_path_that_cannot_be_one_is_refused() {
    let (folder, _) = folder();
    refused(&folder.path().join("x".repeat(108)), ErrorCode::InvalidArgument, "107 bytes");
    refused(Path::new("/"), ErrorCode::InvalidArgument, "names no file");
    refused(&folder.path().join("missing/socket"), ErrorCode::InvalidArgument, "does not exist");
    refused(&folder.path().join("a\nb"), ErrorCode::InvalidArgument, "control character");
    refused(&folder.path().join(".."), ErrorCode::InvalidArgument, "names no file");
}
