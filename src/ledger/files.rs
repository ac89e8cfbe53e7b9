//! Operations on the paths, locks and directories of a ledger.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::OpenError;

/// Device and inode, which identify a file under any name.
pub(super) type FileId = (u64, u64);

/// Opens or creates the file at `path` and locks it, and checks that it is still at `path` afterwards. Returns the file
/// and whether it was created.
pub(super) fn open_locked(path: &Path) -> Result<(File, bool), OpenError> {
    let mut created = false;
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    loop {
        let file = match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                created = true;
                options.create(true).open(path)
            }
            opened => opened,
        };
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound => OpenError::NoFolder(folder(&resolve_links(path)).to_owned()),
            ErrorKind::PermissionDenied => OpenError::Denied("open", path.to_owned(), error),
            _ => OpenError::Io("open", error),
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(TryLockError::Error(error)) => return Err(OpenError::Io("lock", error)),
        }
        let (ours, there) = (file.metadata(), fs::metadata(path));
        let (Ok(ours), Ok(there)) = (ours, there) else { continue };
        if !ours.is_file() {
            return Err(OpenError::NotALedger);
        }
        if file_id(&ours) == file_id(&there) {
            return Ok((file, created));
        }
    }
}

/// Resolves symbolic links, so that a rewrite replaces the file and not the link. The file must have been opened, which
/// proves that the links end.
pub(super) fn resolve_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    while let Ok(next) = fs::read_link(&path) {
        path = folder(&path).join(next);
    }
    path
}

/// Returns device and inode.
pub(super) fn file_id(file: &fs::Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Returns whether the disk or a quota is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Syncs a directory, which makes a rename durable. File systems that cannot sync directories are accepted.
pub(super) fn sync_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Returns the path at which a new file is written before it is renamed.
pub(super) fn temp_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Returns the directory of a file: the path up to its last slash.
pub(super) fn folder(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let name = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    match bytes.strip_suffix(name) {
        None | Some([]) => Path::new("."),
        Some(folder) => Path::new(OsStr::from_bytes(folder)),
    }
}

/// Returns the parent directory of an absolute path; `None` for the root.
pub(super) fn parent(path: &Path) -> Option<&Path> {
    let mut bytes = path.as_os_str().as_bytes();
    while let [rest @ .., b'/'] = bytes {
        bytes = rest;
    }
    let slash = bytes.iter().rposition(|&byte| byte == b'/')?;
    Some(Path::new(OsStr::from_bytes(&bytes[..slash.max(1)])))
}

/// Removes a file if it exists.
pub(super) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
