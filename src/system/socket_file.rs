//! The file of a Unix socket: what is at its path, its rights, and its removal.
//!
//! A socket file stays when its process ends, so whether one is in use is shown only by connecting to it, which the
//! driver does. Between that and a new file, no other process may do the same: [`lock_directory`].

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};

/// Rights and owner of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Permission bits.
    pub mode: u32,
    /// Number of the owner; the user of the process if absent.
    pub user: Option<u32>,
    /// Number of the group; the system chooses it if absent, see open(2).
    pub group: Option<u32>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// No file.
    Missing,
    /// A socket.
    Socket,
    /// A file of another kind.
    Other,
}

impl FileKind {
    /// Returns what is at `path` itself; a symbolic link is not a socket.
    ///
    /// # Errors
    /// The directory cannot be searched.
    pub(crate) fn at(path: &str) -> io::Result<Self> {
        Self::new(fs::symlink_metadata(path))
    }

    /// Returns what a program that connects to `path` finds there.
    ///
    /// # Errors
    /// The directory cannot be searched.
    pub(crate) fn of_target(path: &str) -> io::Result<Self> {
        Self::new(fs::metadata(path))
    }

    fn new(file: io::Result<Metadata>) -> io::Result<Self> {
        match file {
            Ok(file) if file.file_type().is_socket() => Ok(Self::Socket),
            Ok(_) => Ok(Self::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            Err(error) => Err(error),
        }
    }
}

/// A lock of a directory, until it is dropped.
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

/// Locks the directory of `path` (flock(2)). Returns `None` while another process holds the lock.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn lock_directory(path: &str) -> io::Result<Option<DirectoryLock>> {
    let end = path.bytes().rposition(|byte| byte == b'/').unwrap_or_default();
    let directory = File::open(&path[..=end])?;
    Ok(directory.try_lock().is_ok().then_some(DirectoryLock(directory)))
}

/// Limits the rights of the file that binding `socket` creates to those of its owner.
///
/// # Errors
/// The system refuses.
pub(crate) fn make_private(socket: OwnedFd, rights: Rights) -> io::Result<OwnedFd> {
    let socket = File::from(socket);
    // Linux creates the file with the mode of the socket, less the umask.
    socket.set_permissions(Permissions::from_mode(rights.mode & OWNER_RIGHTS))?;
    Ok(socket.into())
}

/// Removes the file of a socket that no process listens on.
///
/// # Errors
/// The system refuses.
pub(crate) fn remove(path: &str) -> io::Result<()> {
    fs::remove_file(path)
}

/// The file of a socket of this process. Dropping it removes the file, unless another process has replaced it.
pub(crate) struct SocketFile {
    path: String,
    id: Id,
}

impl SocketFile {
    /// Takes the file that binding a socket has created.
    ///
    /// # Errors
    /// It is gone already.
    pub(crate) fn new(path: &str) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)? })
    }

    /// Sets owner and mode, in this order: the owner before has no more rights at any time than the one after.
    ///
    /// # Errors
    /// The process may not give the file to this user or group.
    pub(crate) fn set_rights(&self, Rights { mode, user, group }: Rights) -> io::Result<()> {
        if user.is_some() || group.is_some() {
            lchown(&self.path, user, group)?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    // Inlined, it would be in each return of the drivers.
    #[inline(never)]
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // A file that stays is replaced at the next start.
            let _ = remove(&self.path);
        }
    }
}

fn id(path: &str) -> io::Result<Id> {
    fs::symlink_metadata(path).map(|file| (file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Inode, and time of creation, which a later file with the same inode does not share.
type Id = (u64, i64, i64);

/// Longest path of a socket in bytes (unix(7)): the system's structure has 108, with the zero at the end.
pub(crate) const MAX_PATH: usize = 107;

/// Reading and writing by the owner.
const OWNER_RIGHTS: u32 = 0o600;
