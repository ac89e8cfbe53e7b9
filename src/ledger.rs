//! The embedded store: a file of the RESP commands that would have gone to Redis.
//!
//! The file begins with `ECHO "notch ledger 1"`. Each batch is its `INCRBY` lines and a seal, `ECHO` with the CRC-32 of
//! those lines in eight hex digits, seeded by the seal before: so a batch counts whole or not at all, and no batch can
//! be changed, lost or moved unseen. Redis takes the same file: `redis-cli --pipe < notch.ledger`.
//!
//! A batch is answered once it is written and, by default, synced. One that could not be written whole is cut off again
//! before it is refused, since a failed write may have reached the file. A tail that a crash has torn off in the middle
//! of a batch is cut when the file is opened; anything else that does not read as written is damage, and then nothing
//! is changed.
//!
//! Whenever the file grows large, or a sync failed, or it was removed, it is written anew from memory: new file, sync,
//! rename, sync of the folder. After a failed sync, nothing that the system still shows of the old file is to be relied
//! on. Where no new file can take the place of this one, the ledger is refused when it is opened: a file that is a mount
//! point of its own, a folder that cannot be written to.
//!
//! Left out on purpose: setting a counter to a value, expiry, and any command but `INCRBY`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::checksum::{crc32, hex};
use self::replay::Replay;
pub use self::totals::Bound;
use self::totals::Totals;
use crate::counter::{Command, Decimal, Key, Rejection, StoreError};
use crate::resp;

mod checksum;
mod replay;
mod totals;

/// When a batch is forced to the disk. A killed process loses nothing either way; a power cut may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before anybody in it is answered.
    Always,
    /// Within a second: the driver calls [`Ledger::sync`].
    EverySecond,
    /// When the system sees fit.
    Never,
}

/// An open ledger, locked against every other process.
pub struct Ledger {
    path: PathBuf,
    file: File,
    fsync: Fsync,
    totals: Totals,
    checksum: u32,
    size: u64,
    /// From this size on it is written anew.
    rewrite_at: u64,
    state: FileState,
    /// A file that was to take the place of this one, if it is not known whether it has.
    replacement: Option<FileId>,
    out: Vec<u8>,
    /// Somebody asks to count nothing, which is to say whether it can be done.
    probes: bool,
}

/// What is known of the file and of the disk under it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// All of it is on the disk.
    Synced,
    /// Batches were appended since the last sync.
    Unsynced,
    /// The file may not be what we believe: it must be written anew before it takes another batch.
    Suspect,
}

/// Device and inode: what tells a file from all others, whatever its name.
type FileId = (u64, u64);

/// What was found at the path of a ledger when it was opened.
#[derive(Debug)]
pub struct Found {
    /// The file itself, where links lead.
    pub path: PathBuf,
    /// What kind of file it was.
    pub origin: Origin,
    /// Bytes of a torn tail that were cut.
    pub torn: u64,
    /// Visits of the main counter.
    pub total: i64,
    /// Counters, the main one included.
    pub counters: usize,
    /// One of the keys, if there are counters and all belong to another `COUNTER_KEY`.
    pub foreign_key: Option<String>,
}

/// What a ledger was before it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was no file.
    Created,
    /// There was a file with nothing in it.
    Empty,
    /// There was a ledger.
    Opened,
}

/// Why a file cannot serve as the ledger.
#[derive(Debug)]
pub enum OpenError {
    /// The system refused something.
    Io(&'static str, io::Error),
    /// The user that notch runs as may not open this file, or not replace one in this folder.
    Denied(&'static str, PathBuf, io::Error),
    /// There is no folder for it.
    NoFolder(PathBuf),
    /// No new file could take its place, which is how a ledger is kept small and mended.
    CannotReplace(io::Error),
    /// Another process counts in it.
    Locked,
    /// It is something else.
    NotALedger,
    /// The bytes from this offset on are not as they were written.
    Damaged(u64),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                write!(f, "cannot {what} it: {error}; mount a volume there, or set LEDGER elsewhere")
            }
            Self::Io(what, error) => write!(f, "cannot {what} it: {error}"),
            Self::Denied(what, path, error) => write!(f, "cannot {what} it: {error}; {}", Access(path)),
            Self::NoFolder(folder) => {
                let folder = folder.to_string_lossy();
                write!(f, "there is no folder {}: create it, or mount a volume there", folder.trim_end_matches('/'))
            }
            Self::CannotReplace(error) => match error.kind() {
                ErrorKind::ReadOnlyFilesystem => write!(
                    f,
                    "no new file can take its place, because its folder is read-only: {error}; mount the folder to be \
                     written to, not the file alone"
                ),
                ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => f.write_str(
                    "it is a mount point, so no new file can take its place: mount its folder instead of it",
                ),
                _ => write!(f, "no new file can take its place: {error}"),
            },
            Self::Locked => f.write_str("another process counts in it: stop that one, or name another file"),
            Self::NotALedger => f.write_str("it is not a ledger of this version of notch: name another file"),
            Self::Damaged(offset) => write!(
                f,
                "it is damaged at byte {offset}, nothing was changed: restore a copy, or keep what is sound by \
                 `truncate -s {offset}`"
            ),
        }
    }
}

/// Who needs access to a path, and who owns it, or the nearest folder above it that can be seen.
struct Access<'a>(&'a Path);

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = iter::successors(Some(self.0), |path| parent(path))
            .find_map(|path| Some((path.to_string_lossy(), fs::metadata(path).ok()?.uid())));
        match (fs::metadata("/proc/self").map(|process| process.uid()), seen) {
            (Ok(uid), Some((path, owner))) if uid == owner => {
                write!(
                    f,
                    "notch runs as uid {uid}, which owns {path}: run `chmod u+rwX {path}`, or set LEDGER elsewhere"
                )
            }
            (Ok(uid), Some((path, owner))) => write!(
                f,
                "notch runs as uid {uid}, and {path} belongs to uid {owner}: run `chown {uid} {path}`, or set \
                 LEDGER elsewhere"
            ),
            _ => f.write_str("give the user that notch runs as write access, or set LEDGER elsewhere"),
        }
    }
}

impl Ledger {
    /// Opens or creates the ledger at `path`.
    ///
    /// # Errors
    /// [`OpenError`]; the file is as it was.
    pub fn open(path: &Path, fsync: Fsync, bound: Bound) -> Result<(Self, Found), OpenError> {
        let (mut file, created) = lock(path)?;
        let length = file.metadata().map_err(|error| OpenError::Io("read", error))?.len();
        let Replay { totals, seal, sealed, .. } = Replay::run(&mut file, bound)?;
        let path = target(path);
        // Left over from a rewrite that was killed; the lock says that nobody is at it now.
        let _ = fs::remove_file(temp_path(&path));
        let mut ledger = Self {
            path,
            file,
            fsync,
            totals,
            checksum: seal,
            size: sealed,
            rewrite_at: MIN_REWRITE.max(sealed.saturating_mul(2)),
            state: FileState::Synced,
            replacement: None,
            out: Vec::new(),
            probes: false,
        };
        ledger.check_replaceable()?;
        ledger.truncate_torn_tail().map_err(|error| OpenError::Io("write", error))?;
        let origin = match (created, sealed) {
            (true, _) => Origin::Created,
            (false, 0) => Origin::Empty,
            (false, _) => Origin::Opened,
        };
        let found = Found {
            path: ledger.path.clone(),
            origin,
            torn: length - sealed,
            total: ledger.total(&bound.main),
            counters: ledger.totals.len(),
            foreign_key: ledger.totals.foreign_key(),
        };
        Ok((ledger, found))
    }

    /// Makes sure that a new file can take the place of this one, now and not only when one has to. A file without
    /// anything in it is replaced for that.
    fn check_replaceable(&mut self) -> Result<(), OpenError> {
        if self.size > 0 {
            let folder = File::open(folder(&self.path)).and_then(|folder| folder.metadata());
            let is_sticky = folder.map_err(|error| self.irreplaceable(error))?.mode() & STICKY != 0;
            // Another name for the same file asks the same of the folder and changes nothing: a mount point cannot have
            // one. Only in a sticky folder it may be had and not be removed.
            let spare = temp_path(&self.path);
            if !is_sticky && fs::hard_link(&self.path, &spare).is_ok() && fs::remove_file(&spare).is_ok() {
                return Ok(());
            }
        }
        // That was refused for good, or says nothing here: so it is done.
        match self.rewrite() {
            // There may be room later, and until then the file that is there grows on.
            Err(error) if self.size > 0 && self.state != FileState::Suspect && is_full(&error) => Ok(()),
            Err(error) if is_full(&error) => Err(OpenError::Io("write", error)),
            rewritten => rewritten.map_err(|error| self.irreplaceable(error)),
        }
    }

    fn irreplaceable(&self, error: io::Error) -> OpenError {
        match error.kind() {
            ErrorKind::PermissionDenied => OpenError::Denied("replace", folder(&self.path).to_owned(), error),
            _ => OpenError::CannotReplace(error),
        }
    }

    /// Brings a file that has just been opened to the length of what is sound in it.
    fn truncate_torn_tail(&self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.size {
            self.file.set_len(self.size)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// What is counted for `key` so far.
    fn total(&self, key: &Key) -> i64 {
        self.totals.get(key)
    }

    /// Answers a batch: appends its counts and, if so set, syncs them before it pushes one result for each ask.
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

    /// Counts in memory and writes the line for the file; reads are answered when all is decided.
    fn stage(&mut self, command: &Command) -> Result<i64, Rejection> {
        let Command::Increment { key, by } = command else { return Ok(0) };
        if *by == 0 {
            self.probes = true;
            return Ok(self.total(key));
        }
        let total = self.totals.add(key, *by)?;
        increment(&mut self.out, key.as_bytes(), *by);
        Ok(total)
    }

    /// Seals what is staged and puts it into the file. A batch that is refused is surely not counted, because nothing
    /// of it stays in the file; one that could not be synced is in doubt.
    fn append(&mut self) -> Result<(), StoreError> {
        let probes = mem::take(&mut self.probes);
        if self.out.is_empty() {
            return if probes { self.probe() } else { Ok(()) };
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
            // The file that is there is good: where a smaller one cannot be had now, it grows on and tries later.
            self.rewrite_at = self.size.saturating_mul(2);
            let _ = self.rewrite();
        }
        Ok(())
    }

    /// Tries whether a batch could be written, and takes it back. It has no seal, and so counts for nothing if the process
    /// is killed meanwhile.
    fn probe(&mut self) -> Result<(), StoreError> {
        increment(&mut self.out, b"probe", 1);
        let written = self.file.write_all(&self.out);
        let error = self.undo_append();
        if written.is_ok() && self.is_sound() { Ok(()) } else { Err(error) }
    }

    /// Cuts off what a failed write has left behind, and says what became of the batch. All of it may have reached the
    /// file; then it also has to be gone for good, because a power cut could bring it back.
    fn undo_append(&mut self) -> StoreError {
        let end = self.size + self.out.len() as u64;
        let is_whole = self.file.metadata().map_or(true, |file| file.len() >= end);
        let lasting = is_whole && self.fsync == Fsync::Always;
        let cut = self.file.set_len(self.size).and_then(|()| if lasting { self.file.sync_all() } else { Ok(()) });
        if cut.is_err() {
            self.state = FileState::Suspect;
        }
        // Without its seal, it counts for nothing.
        if is_whole && cut.is_err() { StoreError::OutcomeUnknown } else { StoreError::Rejected(Rejection::Disk) }
    }

    /// Forces to the disk what was appended; once that has failed, by a new file. For [`Fsync::EverySecond`].
    ///
    /// # Errors
    /// The disk failed. What it holds of the last batches is unknown, and a sync is still wanted.
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

    /// Whether the file is known to hold what was counted.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.state != FileState::Suspect
    }

    /// Whether something is appended that [`Ledger::sync`] has to force to the disk within a second.
    #[must_use]
    pub fn wants_sync(&self) -> bool {
        self.state != FileState::Synced && self.fsync == Fsync::EverySecond
    }

    /// Makes sure that the file at our path is the one we know, as we know it. Removed or cut, it is written anew.
    fn verify_file(&mut self) -> Result<(), Rejection> {
        let ours = self.file.metadata().map_err(|_| Rejection::Disk)?;
        let intact = ours.len() == self.size;
        let sound = match fs::metadata(&self.path) {
            Ok(there) if id(&there) == id(&ours) => intact,
            Ok(there) if self.replacement == Some(id(&there)) => false,
            // Somebody has put another file in its place: theirs is not ours to overwrite.
            Ok(_) => return Err(Rejection::Disk),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            // The path cannot be looked at now; the file itself is open, and there as long as it has a name.
            Err(_) => intact && ours.nlink() > 0,
        };
        if sound && self.is_sound() {
            return Ok(());
        }
        self.rewrite().map_err(|_| Rejection::Disk)
    }

    /// Writes the totals to a new file and puts it in place of the old one. Until the rename nothing has changed.
    fn rewrite(&mut self) -> io::Result<()> {
        let folder = File::open(folder(&self.path))?;
        let beside = temp_path(&self.path);
        remove(&beside)?;
        let written = self.write_temp_file(&beside);
        let (file, seal, size) = written.inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        self.rename(&beside, &file)?;
        self.state = FileState::Suspect;
        self.file = file;
        self.checksum = seal;
        self.size = size;
        self.rewrite_at = MIN_REWRITE.max(size.saturating_mul(2));
        sync_folder(&folder)?;
        self.state = FileState::Synced;
        self.replacement = None;
        Ok(())
    }

    /// Writes all totals to a new file, syncs it, and returns it with its last seal and its size.
    fn write_temp_file(&self, beside: &Path) -> io::Result<(File, u32, u64)> {
        let mut file = OpenOptions::new().create_new(true).append(true).open(beside)?;
        // Locked before it can be found under our name.
        file.try_lock()?;
        let (mut out, mut checksum, mut size, mut start) = (HEADER.to_vec(), 0, 0, HEADER.len());
        let mut totals = self.totals.iter().peekable();
        while let Some((key, total)) = totals.next() {
            increment(&mut out, key, total);
            // In several batches, so that neither this nor reading them again takes memory for all.
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

    /// Puts a new file in place of the old one. A rename may report an error and have happened, so the path is looked
    /// at again.
    fn rename(&mut self, beside: &Path, file: &File) -> io::Result<()> {
        let new = id(&file.metadata()?);
        let Err(error) = fs::rename(beside, &self.path) else { return Ok(()) };
        match fs::metadata(&self.path) {
            Ok(there) if id(&there) == new => return Ok(()),
            Err(unknown) if unknown.kind() != ErrorKind::NotFound => {
                self.replacement = Some(new);
                self.state = FileState::Suspect;
            }
            _ => {
                let _ = fs::remove_file(beside);
            }
        }
        Err(error)
    }
}

/// Opens the file and locks it, and makes sure that it is still the one at `path` when the lock is had. Also says
/// whether it was created for that.
fn lock(path: &Path) -> Result<(File, bool), OpenError> {
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
            ErrorKind::NotFound => OpenError::NoFolder(folder(&target(path)).to_owned()),
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
        if id(&ours) == id(&there) {
            return Ok((file, created));
        }
    }
}

/// Where a link leads, so that the file there is written anew, and not the link. The file has been opened, so that the
/// links do not go in a circle.
fn target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    while let Ok(next) = fs::read_link(&path) {
        path = folder(&path).join(next);
    }
    path
}

fn id(file: &fs::Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Whether there is just no room on the disk.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Makes a rename last. Some file systems cannot sync a folder, and then there is nothing more to be done.
fn sync_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Where the next file is written.
fn temp_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Up to the last slash: `Path` would take the whole path apart to find it.
fn folder(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let name = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    match bytes.strip_suffix(name) {
        None | Some([]) => Path::new("."),
        Some(folder) => Path::new(OsStr::from_bytes(folder)),
    }
}

/// The folder that holds a file or folder whose path begins at the root, if it is not the root itself.
fn parent(path: &Path) -> Option<&Path> {
    let mut bytes = path.as_os_str().as_bytes();
    while let [rest @ .., b'/'] = bytes {
        bytes = rest;
    }
    let slash = bytes.iter().rposition(|&byte| byte == b'/')?;
    Some(Path::new(OsStr::from_bytes(&bytes[..slash.max(1)])))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn increment(out: &mut Vec<u8>, key: &[u8], by: i64) {
    resp::command(out, &[b"INCRBY", key, &Decimal::new(by)]);
}

/// Closes the batch that begins at `start` of `out` and returns its CRC, the seed of the next.
fn append_checksum(out: &mut Vec<u8>, start: usize, seed: u32) -> u32 {
    let crc = crc32(seed, &out[start..]);
    resp::command(out, &[b"ECHO", &hex(crc)]);
    crc
}

const HEADER: &[u8] = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n";

/// Smaller than this in bytes, a file is not written anew to save space.
const MIN_REWRITE: u64 = 1024 * 1024;

/// The mode of a folder in which only the owner of a file may replace it (inode(7)).
const STICKY: u32 = 0o1000;

/// Bytes of a new file that are written at a time.
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests;
