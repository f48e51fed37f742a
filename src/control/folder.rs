//! Whether a folder keeps what lies in it from others.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Write permission for the group or for others.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// What makes `folder`, an absolute path without links, unsafe for a socket; none if nothing does.
///
/// The folder itself must be root's or ours and writable by its owner alone. Those above it may be
/// writable by others only if sticky, which keeps them from renaming what is not theirs.
pub(super) fn hazard(folder: &Path) -> io::Result<Option<String>> {
    let own = rustix::process::geteuid().as_raw();
    let metadata = folder.metadata()?;
    let shown = folder.display();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Ok(Some(format!("{shown} belongs to the user {}", metadata.uid())));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Ok(Some(others_can_write(folder, &metadata)));
    }
    for above in folder.ancestors().skip(1) {
        let metadata = above.metadata()?;
        if metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0 {
            return Ok(Some(others_can_write(above, &metadata)));
        }
    }
    Ok(None)
}

fn others_can_write(folder: &Path, metadata: &Metadata) -> String {
    format!("others can write to {} (mode {:04o})", folder.display(), metadata.mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::hazard;

    #[test]
    fn only_its_owner_may_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for (mode, safe) in [(0o700, true), (0o755, true), (0o770, false), (0o702, false), (0o1777, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let found = hazard(&path).unwrap();
            assert_eq!(found.is_none(), safe, "{mode:o}: {found:?}");
        }
    }

    #[test]
    fn those_above_it_may_be_sticky_but_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let inner = path.join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o700)).unwrap();
        for (mode, safe) in [(0o1777, true), (0o777, false), (0o775, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(hazard(&inner).unwrap().is_none(), safe, "{mode:o}");
        }
    }
}
