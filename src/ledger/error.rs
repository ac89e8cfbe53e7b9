//! Errors of opening a ledger, with the remedy for each.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::parent;

/// Why a file cannot be used as the ledger.
#[derive(Debug)]
pub enum OpenError {
    /// A system call failed: the operation and the error.
    Io(&'static str, io::Error),
    /// The user of this process may not open this file, or not replace a file in this directory.
    Denied(&'static str, PathBuf, io::Error),
    /// The directory of the file does not exist.
    NoFolder(PathBuf),
    /// A new file cannot replace it, so the ledger could not be rewritten.
    CannotReplace(io::Error),
    /// Another process has it open.
    Locked,
    /// It has other content.
    NotALedger,
    /// The bytes from this offset on are invalid.
    Damaged(u64),
}

impl Error for OpenError {}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(operation, error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                write!(f, "cannot {operation} it: {error}; mount a volume there, or set LEDGER to another path")
            }
            Self::Io(operation, error) => write!(f, "cannot {operation} it: {error}"),
            Self::Denied(operation, path, error) => write!(f, "cannot {operation} it: {error}; {}", Access(path)),
            Self::NoFolder(folder) => {
                let folder = folder.to_string_lossy();
                write!(f, "there is no folder {}: create it, or mount a volume there", folder.trim_end_matches('/'))
            }
            Self::CannotReplace(error) => match error.kind() {
                ErrorKind::ReadOnlyFilesystem => write!(
                    f,
                    "a new file cannot replace it, because its folder is read-only: {error}; mount the folder \
                     writable, not the file alone"
                ),
                ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => {
                    f.write_str("it is a mount point, so a new file cannot replace it: mount its folder instead")
                }
                _ => write!(f, "a new file cannot replace it: {error}"),
            },
            Self::Locked => f.write_str("another process uses it: stop that process, or set LEDGER to another file"),
            Self::NotALedger => f.write_str("it is not a ledger of this version of notch: set LEDGER to another file"),
            Self::Damaged(offset) => write!(
                f,
                "it is damaged at byte {offset} and was not changed: restore a copy, or keep the part before the \
                 damage with `truncate -s {offset}`"
            ),
        }
    }
}

/// A path without access. Shows the user of this process, the owner of the path or of its nearest visible parent, and
/// the remedy.
struct Access<'a>(&'a Path);

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visible = iter::successors(Some(self.0), |path| parent(path))
            .find_map(|path| Some((path.to_string_lossy(), fs::metadata(path).ok()?.uid())));
        match (fs::metadata("/proc/self").map(|process| process.uid()), visible) {
            (Ok(uid), Some((path, owner))) if uid == owner => {
                write!(
                    f,
                    "notch runs as uid {uid}, which owns {path}: run `chmod u+rwX {path}`, or set LEDGER to another \
                     path"
                )
            }
            (Ok(uid), Some((path, owner))) => write!(
                f,
                "notch runs as uid {uid}, and {path} belongs to uid {owner}: run `chown {uid} {path}`, or set \
                 LEDGER to another path"
            ),
            _ => f.write_str("give the user that notch runs as write access, or set LEDGER to another path"),
        }
    }
}
