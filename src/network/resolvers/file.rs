//! The file itself: what is at its path, and how that is replaced and brought back.
//!
//! A new file is written beside the old one and renamed over it, so that a reader sees one of the
//! two, and a full disk leaves the old one whole. A symbolic link is itself replaced: whoever
//! maintains its target goes on undisturbed, and what stands there later is in force again
//! afterwards.
//!
//! Where the path cannot be renamed over, because a container's runtime has mounted a file there or
//! a sandbox lets only this file be written, the content is written in place, through a link into
//! its target.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::netlink::is_one_of;

/// The largest file that is kept in the journal. Real ones have a few hundred bytes.
const LIMIT: u64 = 64 * 1024;
/// The permissions of a file that had none before: every program looks names up.
const PUBLIC: u32 = 0o644;

/// What is at the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::network) enum Found {
    /// Nothing.
    Missing,
    /// A file.
    File(Plain),
    /// A symbolic link.
    Link(Link),
}

/// A file's content and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Plain {
    content: Content,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Where a link leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::network) struct Link {
    target: PathBuf,
    /// What is read through it; absent if it leads nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
}

/// Bytes, which a journal holds as base64.
#[derive(Clone, PartialEq, Eq)]
struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Found {
    /// Looks at the path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Missing),
            other => other?,
        };
        if !metadata.is_symlink() {
            let content = Content(read(path)?);
            let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
            return Ok(Self::File(Plain { content, mode, uid, gid }));
        }
        let content = match read(path) {
            Ok(content) => Some(Content(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self::Link(Link { target: path.read_link()?, content }))
    }

    /// What a reader gets; nothing if there is nothing to read.
    pub(super) fn content(&self) -> Option<&[u8]> {
        match self {
            Self::Missing => None,
            Self::File(file) => Some(&file.content.0),
            Self::Link(link) => Some(&link.content.as_ref()?.0),
        }
    }

    /// Where a link leads to.
    pub(super) fn target(&self) -> Option<&Path> {
        match self {
            Self::Link(link) => Some(&link.target),
            Self::Missing | Self::File(_) => None,
        }
    }

    /// Puts `text` in place of this, which is at the path.
    pub(super) fn replace_with(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let file = Plain { content: Content(text.to_owned()), ..self.attributes() };
        file.put(path)
    }

    /// Puts this in place of `now`, which is at the path.
    pub(super) fn put_back(&self, path: &Path, now: &Self) -> io::Result<()> {
        match (self, now) {
            (Self::Missing, _) => fs::remove_file(path),
            (Self::File(file), _) => file.put(path),
            (Self::Link(link), Self::Link(_)) => {
                overwrite(path, link.content.as_ref().map_or(&[], |content| &content.0))
            }
            (Self::Link(link), _) => beside(path, |temporary| {
                std::os::unix::fs::symlink(&link.target, temporary)?;
                fs::rename(temporary, path)
            }),
        }
    }

    /// A new file's mode and owner: the old one's, if it was one.
    fn attributes(&self) -> Plain {
        match self {
            Self::File(file) => Plain { content: Content(Vec::new()), ..*file },
            Self::Missing | Self::Link(_) => Plain {
                content: Content(Vec::new()),
                mode: PUBLIC,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
        }
    }
}

impl Plain {
    fn put(&self, path: &Path) -> io::Result<()> {
        let refused = match beside(path, |temporary| self.write_and_rename(temporary, path)) {
            Err(error) if is_one_of(&error, &[Errno::BUSY, Errno::ROFS, Errno::ACCESS, Errno::PERM]) => error,
            other => return other,
        };
        overwrite(path, &self.content.0).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused,
            _ => error,
        })
    }

    fn write_and_rename(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(temporary)?;
        file.write_all(&self.content.0)?;
        let metadata = file.metadata()?;
        if (metadata.uid(), metadata.gid()) != (self.uid, self.gid) {
            std::os::unix::fs::fchown(&file, Some(self.uid), Some(self.gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        file.sync_all()?;
        fs::rename(temporary, path)
    }
}

/// Has something made under another name in the path's directory and moved to the path. Nothing of
/// that name stays behind.
fn beside(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    remove(&temporary)?;
    let made = make(&temporary);
    if made.is_err() {
        // The failure that is told is the first one.
        let _ = remove(&temporary);
        return made;
    }
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Where a new file is written before it takes the path.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().display();
    path.with_file_name(format!(".{name}.smartvpn"))
}

/// Removes what a process left that was killed while it wrote.
pub(super) fn tidy(path: &Path) -> io::Result<()> {
    remove(&temporary(path))
}

fn remove(path: &Path) -> io::Result<()> {
    // Asked first: on a read-only file system the kernel refuses to remove what is not there too.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => fs::remove_file(path),
    }
}

/// Writes into the file at the path. It is made longer before it is made shorter, so that the old
/// content has its room until the new one is whole, and comes back if that fails.
fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().read(true).write(true))?;
    let before = content_of(&mut file)?;
    let written = write_from_start(&mut file, text);
    if written.is_err() {
        // The failure that is told is the first one.
        let _ = write_from_start(&mut file, &before);
    }
    written
}

fn write_from_start(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    content_of(&mut open(path, OpenOptions::new().read(true))?)
}

/// Opens a file, and nothing that would wait for somebody at its other end.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(file)
}

fn content_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 KiB"));
    }
    Ok(content)
}
