//! The embedded store: a file of RESP commands, the same that would go to Redis.
//!
//! The file begins with `ECHO "notch ledger 1"`. A batch is its `INCRBY` commands and a checksum record: `ECHO` with
//! the CRC-32 of those commands in eight hex digits. The checksum of the batch before is the seed, so a batch counts
//! whole or not at all, and a batch that is changed, missing or moved is detected. Redis reads the same file:
//! `redis-cli --pipe < notch.ledger`.
//!
//! Clients get their response after their batch is written and, by default, synced. A batch that could not be written
//! whole is truncated before it is rejected, because a failed write may have reached the file. When the file is opened,
//! a tail torn by a crash in the middle of a batch is truncated. Anything else that is invalid is damage, and then
//! the file is not changed.
//!
//! The file is rewritten from memory when it has grown large, after a failed sync, and when it was removed: new file,
//! sync, rename, sync of the directory. After a failed sync, the content that the system shows of the old file is not
//! reliable. Opening fails where a new file cannot replace the old one: a file that is itself a mount point, a
//! directory that is not writable.
//!
//! ```text
//!            append               sync failed, or a failed write could not be undone
//!   Synced ---------> Unsynced ------------------------------------------------------> Suspect
//!     ^    <---------                                                                     |
//!     |       sync                                                                        |
//!     +------------------------------- rewrite -------------------------------------------+
//! ```
//!
//! ```
//! use notch::counter::{Command, Key, NameLimit};
//! use notch::ledger::{Fsync, Ledger, Origin};
//!
//! let path = std::env::temp_dir().join(format!("notch-example-{}.ledger", std::process::id()));
//! let visits = Key::new(b"visits").unwrap();
//! let limit = NameLimit { main: visits, most: 100 };
//!
//! let (mut ledger, found) = Ledger::open(&path, Fsync::Always, limit).unwrap();
//! assert_eq!(found.origin, Origin::Created);
//! let mut results = Vec::new();
//! ledger.commit(&[Command::Increment { key: visits, by: 3 }], &mut results);
//! assert_eq!(results, [Ok(3)]);
//! drop(ledger);
//!
//! // The file is replayed when it is opened.
//! let (_, found) = Ledger::open(&path, Fsync::Always, limit).unwrap();
//! assert_eq!((found.origin, found.total, found.torn), (Origin::Opened, 3, 0));
//! let batch = "*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n3\r\n*2\r\n$4\r\nECHO\r\n$8\r\n";
//! assert!(std::fs::read_to_string(&path).unwrap().contains(batch));
//! std::fs::remove_file(&path).unwrap();
//! ```
//!
//! Left out on purpose: expiry, and any command in the file but `INCRBY`. `notch ledger set` writes a new file.
//!
//! `replay` reads a file, `totals` has the counters in memory, `checksum` the CRC, `files` the operations on paths and
//! locks, `error` the errors of opening, `tools` the command `notch ledger`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use self::checksum::{crc32, hex};
pub use self::error::OpenError;
use self::files::{
    FileId, file_id, folder, is_full, open_locked, remove_if_exists, resolve_links, sync_folder, temp_path,
};
use self::replay::Replay;
use self::totals::Totals;
use crate::counter::{Command, Key, NameLimit, Rejection, StoreError};
use crate::decimal::Decimal;
use crate::resp;

mod checksum;
mod error;
mod files;
mod replay;
#[doc(hidden)]
pub mod tools;
mod totals;

/// When a batch is synced to the disk. A killed process loses nothing either way; a power cut may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before the clients of the batch get their responses.
    Always,
    /// Within a second: the driver calls [`Ledger::sync`].
    EverySecond,
    /// When the system does it by itself.
    Never,
}

/// An open ledger. A file lock excludes other processes.
pub struct Ledger {
    path: PathBuf,
    file: File,
    fsync: Fsync,
    totals: Totals,
    /// Checksum of the last batch, the seed of the next one.
    checksum: u32,
    size: u64,
    /// Size in bytes from which the file is rewritten.
    rewrite_at: u64,
    state: FileState,
    /// A new file that may have replaced this one: the outcome of its rename is unknown.
    replacement: Option<FileId>,
    /// Commands of the batch that is being written.
    out: Vec<u8>,
    /// The batch has an increment by 0, which probes whether the disk takes writes.
    has_probe: bool,
}

/// What is known of the content of the file on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// All batches are on the disk.
    Synced,
    /// Batches were appended since the last sync.
    Unsynced,
    /// The content may differ from `totals`: the file must be rewritten before the next batch.
    Suspect,
}

/// The state of a ledger when it was opened.
#[derive(Debug)]
pub struct Found {
    /// Path of the file itself, with symbolic links resolved.
    pub path: PathBuf,
    /// Whether there was a file.
    pub origin: Origin,
    /// Length in bytes of the torn tail that was truncated.
    pub torn: u64,
    /// Total of the main counter.
    pub total: i64,
    /// Number of counters, the main one included.
    pub counters: usize,
    /// One of the keys, if all counters belong to another `COUNTER_KEY`.
    pub foreign_key: Option<String>,
}

/// What was at the path before a ledger was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No file.
    Created,
    /// A file without batches and header.
    Empty,
    /// A ledger.
    Opened,
}

impl Ledger {
    /// Opens or creates the ledger at `path`.
    ///
    /// # Errors
    /// [`OpenError`]; the file is unchanged.
    pub fn open(path: &Path, fsync: Fsync, limit: NameLimit) -> Result<(Self, Found), OpenError> {
        let (mut file, created) = open_locked(path)?;
        let length = file.metadata().map_err(|error| OpenError::Io("read", error))?.len();
        let Replay { totals, checksum, valid_length, .. } = Replay::run(&mut file, limit)?;
        let path = resolve_links(path);
        // A file left by a rewrite that was killed. The lock excludes a rewrite that is still running.
        let _ = fs::remove_file(temp_path(&path));
        let mut ledger = Self {
            path,
            file,
            fsync,
            totals,
            checksum,
            size: valid_length,
            rewrite_at: MIN_REWRITE.max(valid_length.saturating_mul(2)),
            state: FileState::Synced,
            replacement: None,
            out: Vec::new(),
            has_probe: false,
        };
        ledger.check_replaceable()?;
        ledger.truncate_torn_tail().map_err(|error| OpenError::Io("write", error))?;
        let origin = match (created, valid_length) {
            (true, _) => Origin::Created,
            (false, 0) => Origin::Empty,
            (false, _) => Origin::Opened,
        };
        let found = Found {
            path: ledger.path.clone(),
            origin,
            torn: length - valid_length,
            total: ledger.total(&limit.main),
            counters: ledger.totals.len(),
            foreign_key: ledger.totals.foreign_key(),
        };
        Ok((ledger, found))
    }

    /// Checks that a new file can replace this one, so that a later rewrite does not fail for that reason. An empty
    /// file is replaced in order to check.
    fn check_replaceable(&mut self) -> Result<(), OpenError> {
        if self.size > 0 {
            let folder = File::open(folder(&self.path)).and_then(|folder| folder.metadata());
            let is_sticky = folder.map_err(|error| self.replace_error(error))?.mode() & STICKY != 0;
            // A hard link needs the same permissions as a rename and changes nothing; a mount point cannot have one. In
            // a sticky directory the link may be allowed and its removal not.
            let link = temp_path(&self.path);
            if !is_sticky && fs::hard_link(&self.path, &link).is_ok() && fs::remove_file(&link).is_ok() {
                return Ok(());
            }
        }
        // The link failed or proves nothing here, so the file is replaced.
        match self.rewrite() {
            // The disk may have space later; until then the existing file is appended to.
            Err(error) if self.size > 0 && self.state != FileState::Suspect && is_full(&error) => Ok(()),
            Err(error) if is_full(&error) => Err(OpenError::Io("write", error)),
            rewritten => rewritten.map_err(|error| self.replace_error(error)),
        }
    }

    fn replace_error(&self, error: io::Error) -> OpenError {
        match error.kind() {
            ErrorKind::PermissionDenied => OpenError::Denied("replace", folder(&self.path).to_owned(), error),
            _ => OpenError::CannotReplace(error),
        }
    }

    /// Truncates a file that has just been opened to its valid length.
    fn truncate_torn_tail(&self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.size {
            self.file.set_len(self.size)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Returns the total of `key`.
    fn total(&self, key: &Key) -> i64 {
        self.totals.get(key)
    }

    /// Executes a batch: appends its increments, syncs them with [`Fsync::Always`], and pushes one result for each
    /// command.
    pub fn commit(&mut self, commands: &[Command], results: &mut Vec<Result<i64, StoreError>>) {
        let first = results.len();
        let verified = self.verify_file();
        self.out.clear();
        for command in commands {
            results.push(verified.and_then(|()| self.stage(command)).map_err(StoreError::Rejected));
        }
        let appended = self.append();
        let results = &mut results[first..];
        for (command, result) in commands.iter().zip(results.iter_mut()) {
            if let (Command::Increment { key, by }, Ok(_), Err(error)) = (command, &result, appended) {
                if error != StoreError::OutcomeUnknown {
                    self.totals.undo(key, *by);
                }
                *result = Err(error);
            }
        }
        for (command, result) in commands.iter().zip(results) {
            if let Command::Get { key } = command {
                *result = Ok(self.total(key));
            }
        }
    }

    /// Counts in memory and encodes the command for the file. The result of a read is set later, after the append.
    fn stage(&mut self, command: &Command) -> Result<i64, Rejection> {
        let Command::Increment { key, by } = command else { return Ok(0) };
        if *by == 0 {
            self.has_probe = true;
            return Ok(self.total(key));
        }
        let total = self.totals.add(key, *by)?;
        append_increment(&mut self.out, key.as_bytes(), *by);
        Ok(total)
    }

    /// Appends the staged commands and their checksum to the file.
    ///
    /// # Errors
    /// A rejected batch is certainly not counted, because nothing of it remains in the file. One that could not be
    /// synced is in doubt.
    fn append(&mut self) -> Result<(), StoreError> {
        let has_probe = mem::take(&mut self.has_probe);
        if self.out.is_empty() {
            return if has_probe { self.probe() } else { Ok(()) };
        }
        let checksum = append_checksum(&mut self.out, 0, self.checksum);
        if self.file.write_all(&self.out).is_err() {
            return Err(self.undo_append());
        }
        self.checksum = checksum;
        self.size += self.out.len() as u64;
        self.state = FileState::Unsynced;
        if self.fsync == Fsync::Always {
            self.sync().map_err(|_| StoreError::OutcomeUnknown)?;
        }
        if self.size >= self.rewrite_at {
            // The existing file is valid: if the rewrite fails, the file grows and the rewrite is tried again later.
            self.rewrite_at = self.size.saturating_mul(2);
            let _ = self.rewrite();
        }
        Ok(())
    }

    /// Writes a batch and removes it, to test whether the disk takes writes. The batch has no checksum, so it is not
    /// counted if the process is killed in between.
    fn probe(&mut self) -> Result<(), StoreError> {
        append_increment(&mut self.out, b"probe", 1);
        let written = self.file.write_all(&self.out);
        let error = self.undo_append();
        if written.is_ok() && self.is_sound() { Ok(()) } else { Err(error) }
    }

    /// Truncates what a failed write has left in the file. Returns the error for the commands of the batch. If the
    /// whole batch reached the file, the truncation is synced, because a power cut could restore the batch.
    fn undo_append(&mut self) -> StoreError {
        let end = self.size + self.out.len() as u64;
        let is_whole = self.file.metadata().map_or(true, |file| file.len() >= end);
        let must_sync = is_whole && self.fsync == Fsync::Always;
        let undone = self.file.set_len(self.size).and_then(|()| if must_sync { self.file.sync_all() } else { Ok(()) });
        if undone.is_err() {
            self.state = FileState::Suspect;
        }
        // Without its checksum, a batch is not counted.
        if is_whole && undone.is_err() { StoreError::OutcomeUnknown } else { StoreError::Rejected(Rejection::Disk) }
    }

    /// Syncs the appended batches; after a failed sync, writes a new file. For [`Fsync::EverySecond`].
    ///
    /// # Errors
    /// The disk failed. It is unknown which of the last batches it holds, and a sync is still due.
    pub fn sync(&mut self) -> io::Result<()> {
        match self.state {
            FileState::Synced => Ok(()),
            FileState::Suspect => self.rewrite(),
            FileState::Unsynced => {
                let synced = self.file.sync_data();
                self.state = if synced.is_ok() { FileState::Synced } else { FileState::Suspect };
                synced
            }
        }
    }

    /// Returns whether the file is known to hold all counted visits.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.state != FileState::Suspect
    }

    /// Returns whether [`Ledger::sync`] is due within a second.
    #[must_use]
    pub fn needs_sync(&self) -> bool {
        self.state != FileState::Synced && self.fsync == Fsync::EverySecond
    }

    /// Checks that the file at the path is the open one and has the expected length. Rewrites it if it was removed or
    /// truncated.
    ///
    /// # Errors
    /// Another file has replaced it, or the rewrite failed.
    fn verify_file(&mut self) -> Result<(), Rejection> {
        let ours = self.file.metadata().map_err(|_| Rejection::Disk)?;
        let has_length = ours.len() == self.size;
        let is_unchanged = match fs::metadata(&self.path) {
            Ok(there) if file_id(&there) == file_id(&ours) => has_length,
            Ok(there) if self.replacement == Some(file_id(&there)) => false,
            // Another program has replaced the file: its file is not overwritten.
            Ok(_) => return Err(Rejection::Disk),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            // The path cannot be read now. The open file exists as long as it has a name.
            Err(_) => has_length && ours.nlink() > 0,
        };
        if is_unchanged && self.is_sound() {
            return Ok(());
        }
        self.rewrite().map_err(|_| Rejection::Disk)
    }

    /// Writes the totals to a new file that replaces the old one. Nothing changes before the rename.
    fn rewrite(&mut self) -> io::Result<()> {
        let folder = File::open(folder(&self.path))?;
        let temp = temp_path(&self.path);
        remove_if_exists(&temp)?;
        let written = self.write_temp_file(&temp);
        let (file, checksum, size) = written.inspect_err(|_| {
            let _ = fs::remove_file(&temp);
        })?;
        self.rename(&temp, &file)?;
        self.state = FileState::Suspect;
        self.file = file;
        self.checksum = checksum;
        self.size = size;
        self.rewrite_at = MIN_REWRITE.max(size.saturating_mul(2));
        sync_folder(&folder)?;
        self.state = FileState::Synced;
        self.replacement = None;
        Ok(())
    }

    /// Writes all totals to a new file and syncs it. Returns the file, its last checksum and its size.
    fn write_temp_file(&self, temp: &Path) -> io::Result<(File, u32, u64)> {
        let mut file = OpenOptions::new().create_new(true).append(true).open(temp)?;
        // Locked before the rename makes it visible to other processes.
        file.try_lock()?;
        let old = self.file.metadata()?;
        file.set_permissions(old.permissions())?;
        // Root may run `notch ledger`: the file stays that of its user. Others may not give files away.
        if file.metadata()?.uid() != old.uid() {
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        let (mut out, mut checksum, mut size, mut start) = (HEADER.to_vec(), 0, 0, HEADER.len());
        let mut totals = self.totals.iter().peekable();
        while let Some((key, total)) = totals.next() {
            append_increment(&mut out, key, total);
            // Several batches limit the memory that writing and replaying need.
            if out.len() >= PIECE || totals.peek().is_none() {
                checksum = append_checksum(&mut out, start, checksum);
                size += out.len() as u64;
                file.write_all(&out)?;
                out.clear();
                start = 0;
            }
        }
        size += out.len() as u64;
        file.write_all(&out)?;
        file.sync_all()?;
        Ok((file, checksum, size))
    }

    /// Renames a new file to the path of the ledger. A rename may return an error although it was done, so the path
    /// is checked afterwards.
    fn rename(&mut self, temp: &Path, file: &File) -> io::Result<()> {
        let new = file_id(&file.metadata()?);
        let Err(error) = fs::rename(temp, &self.path) else { return Ok(()) };
        match fs::metadata(&self.path) {
            Ok(there) if file_id(&there) == new => return Ok(()),
            Err(unknown) if unknown.kind() != ErrorKind::NotFound => {
                self.replacement = Some(new);
                self.state = FileState::Suspect;
            }
            _ => {
                let _ = fs::remove_file(temp);
            }
        }
        Err(error)
    }
}

/// Appends `INCRBY key by`.
fn append_increment(out: &mut Vec<u8>, key: &[u8], by: i64) {
    resp::write_command(out, &[b"INCRBY", key, &Decimal::new(by)]);
}

/// Appends the checksum of the batch that begins at `start` of `out`. Returns it, the seed of the next one.
fn append_checksum(out: &mut Vec<u8>, start: usize, seed: u32) -> u32 {
    let crc = crc32(seed, &out[start..]);
    append_checksum_record(out, crc);
    crc
}

/// Appends `ECHO` with the digits of `crc`.
fn append_checksum_record(out: &mut Vec<u8>, crc: u32) {
    resp::write_command(out, &[b"ECHO", &hex(crc)]);
}

/// First command of every ledger.
const HEADER: &[u8] = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n";

/// Least size in bytes from which a file is rewritten to save space.
const MIN_REWRITE: u64 = 1024 * 1024;

/// Mode bit of a directory in which only the owner of a file may replace it (inode(7)).
const STICKY: u32 = 0o1000;

/// Least size in bytes of a batch when a file is rewritten.
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests;
