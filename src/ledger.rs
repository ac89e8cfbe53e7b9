//! The embedded store: a file of the RESP commands that would have gone to Redis.
//!
//! The file begins with `ECHO "notch ledger 1"`. Each batch is its `INCRBY` lines and a seal, `ECHO` with the CRC-32 of
//! those lines in eight hex digits, seeded by the seal before: so a batch counts whole or not at all, and no batch can
//! be changed, lost or moved unseen. Redis takes the same file: `redis-cli --pipe < notch.ledger`.
//!
//! A batch is answered once it is written and, by default, synced. A tail that a crash has torn off in the middle of
//! a batch is cut when the file is opened; anything else that does not read as written is damage, and then nothing is
//! changed. Whenever the file grows large, or an append failed, or it was removed, it is written anew from memory: new
//! file, sync, rename, sync of the folder.
//!
//! Left out on purpose: setting a counter to a value, expiry, and any command but `INCRBY`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::counter::{Ask, Cause, Decimal, Fault, Key};
use crate::resp::{self, Reply};

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
    seal: u32,
    size: u64,
    /// From this size on it is written anew.
    rewrite_at: u64,
    /// The file may not be what we believe: it must be written anew before it takes another batch.
    suspect: bool,
    unsynced: bool,
    out: Vec<u8>,
}

/// Why a file cannot serve as the ledger.
#[derive(Debug)]
pub enum Unusable {
    /// The system refused something.
    Io(&'static str, io::Error),
    /// Another process counts in it.
    Locked,
    /// It is something else.
    Foreign,
    /// The bytes from this offset on are not as they were written.
    Damaged(u64),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "cannot {what} it: {error}"),
            Self::Locked => f.write_str("another process counts in it: stop that one, or name another file"),
            Self::Foreign => f.write_str("it is not a ledger of this version of notch: name another file"),
            Self::Damaged(offset) => write!(
                f,
                "it is damaged at byte {offset}, nothing was changed: restore a copy, or keep what is sound by \
                 `truncate -s {offset}`"
            ),
        }
    }
}

impl Ledger {
    /// Opens or creates the ledger at `path`. Also says how many bytes of a torn tail were cut.
    ///
    /// # Errors
    /// [`Unusable`]; the file is as it was.
    pub fn open(path: &Path, fsync: Fsync) -> Result<(Self, u64), Unusable> {
        let mut file = lock(path)?;
        let length = file.metadata().map_err(|error| Unusable::Io("read", error))?.len();
        let Replay { totals, seal, sealed, .. } = Replay::run(&mut file)?;
        let path = target(path);
        // Left over from a rewrite that was killed; the lock says that nobody is at it now.
        let _ = fs::remove_file(beside(&path));
        let mut ledger = Self {
            path,
            file,
            fsync,
            totals,
            seal,
            size: sealed,
            rewrite_at: MIN_REWRITE.max(sealed.saturating_mul(2)),
            suspect: false,
            unsynced: false,
            out: Vec::new(),
        };
        ledger.mend(length).map_err(|error| Unusable::Io("write", error))?;
        Ok((ledger, length - sealed))
    }

    /// Brings a file that has just been opened to the length of what is sound in it.
    fn mend(&mut self, length: u64) -> io::Result<()> {
        if self.size == 0 {
            return self.rewrite();
        }
        if length > self.size {
            self.file.set_len(self.size)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// What is counted for `key` so far.
    fn total(&self, key: &Key) -> i64 {
        self.totals.of(key)
    }

    /// Answers a batch: appends its counts and, if so set, syncs them before it pushes one result for each ask.
    pub fn commit(&mut self, asks: &[Ask], results: &mut Vec<Result<i64, Fault>>) {
        let first = results.len();
        let trust = self.trust();
        self.out.clear();
        for ask in asks {
            results.push(trust.and_then(|()| self.stage(ask)).map_err(Fault::Refused));
        }
        let appended = self.append();
        let results = &mut results[first..];
        for (ask, result) in asks.iter().zip(results.iter_mut()) {
            if let (Ask::Count { key, by }, Ok(_), Err(fault)) = (ask, &result, appended) {
                if fault != Fault::Lost {
                    self.totals.take_back(key, *by);
                }
                *result = Err(fault);
            }
        }
        for (ask, result) in asks.iter().zip(results) {
            if let Ask::Total { key } = ask {
                *result = Ok(self.total(key));
            }
        }
    }

    /// Counts in memory and writes the line for the file; reads are answered when all is decided.
    fn stage(&mut self, ask: &Ask) -> Result<i64, Cause> {
        let Ask::Count { key, by } = ask else { return Ok(0) };
        let total = self.totals.add(key, *by)?;
        increment(&mut self.out, key, *by);
        Ok(total)
    }

    /// Seals what is staged and puts it into the file. A batch that is refused is surely not counted, because without
    /// its seal it counts for nothing; one that could not be synced is in doubt.
    fn append(&mut self) -> Result<(), Fault> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.seal = seal(&mut self.out, 0, self.seal);
        if self.file.write_all(&self.out).is_err() {
            self.suspect = true;
            return Err(Fault::Refused(Cause::Disk));
        }
        self.size += self.out.len() as u64;
        self.unsynced = true;
        if self.fsync == Fsync::Always {
            self.sync().map_err(|_| Fault::Lost)?;
        }
        if self.size >= self.rewrite_at {
            // The file that is there is good: where a smaller one cannot be had now, it grows on and tries later.
            self.rewrite_at = self.size.saturating_mul(2);
            let _ = self.rewrite();
        }
        Ok(())
    }

    /// Forces to the disk what was appended; once that has failed, by a new file. For [`Fsync::EverySecond`].
    ///
    /// # Errors
    /// The disk failed. What it holds of the last batches is unknown, and a sync is still wanted.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        if self.suspect {
            return self.rewrite();
        }
        let synced = self.file.sync_data();
        self.suspect = synced.is_err();
        self.unsynced = self.suspect;
        synced
    }

    /// Whether the file is known to hold what was counted.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.suspect
    }

    /// Whether something is appended that [`Ledger::sync`] has to force to the disk within a second.
    #[must_use]
    pub fn wants_sync(&self) -> bool {
        self.unsynced && self.fsync == Fsync::EverySecond
    }

    /// Makes sure that the file at our path is the one we know, as we know it. Removed or cut, it is written anew.
    fn trust(&mut self) -> Result<(), Cause> {
        let sound = match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) if same(&there, &ours) => there.len() == self.size,
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => false,
            // Somebody has put another file in its place: theirs is not ours to overwrite.
            _ => return Err(Cause::Disk),
        };
        if sound && !self.suspect {
            return Ok(());
        }
        self.rewrite().map_err(|_| Cause::Disk)
    }

    /// Writes the totals to a new file and puts it in place of the old one. Until the rename nothing has changed.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut out = HEADER.to_vec();
        for (key, total) in &self.totals.0 {
            increment(&mut out, key, *total);
        }
        let seal = if out.len() > HEADER.len() { seal(&mut out, HEADER.len(), 0) } else { 0 };
        let beside = beside(&self.path);
        remove(&beside)?;
        let mut file = OpenOptions::new().create_new(true).append(true).open(&beside)?;
        // Locked before it can be found under our name.
        file.try_lock()?;
        file.write_all(&out)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.suspect = true;
        self.file = file;
        self.seal = seal;
        self.size = out.len() as u64;
        self.rewrite_at = MIN_REWRITE.max(self.size.saturating_mul(2));
        File::open(folder(&self.path))?.sync_all()?;
        self.suspect = false;
        self.unsynced = false;
        Ok(())
    }
}

/// Opens the file and locks it, and makes sure that it is still the one at `path` when the lock is had.
fn lock(path: &Path) -> Result<File, Unusable> {
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(|error| Unusable::Io("open", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Unusable::Locked),
            Err(TryLockError::Error(error)) => return Err(Unusable::Io("lock", error)),
        }
        let (ours, there) = (file.metadata(), fs::metadata(path));
        let (Ok(ours), Ok(there)) = (ours, there) else { continue };
        if !ours.is_file() {
            return Err(Unusable::Foreign);
        }
        if same(&ours, &there) {
            return Ok(file);
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

fn same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where the next file is written.
fn beside(path: &Path) -> PathBuf {
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn increment(out: &mut Vec<u8>, key: &Key, by: i64) {
    resp::command(out, &[b"INCRBY", key.as_bytes(), &Decimal::new(by)]);
}

/// Closes the batch that begins at `start` of `out` and returns its CRC, the seed of the next.
fn seal(out: &mut Vec<u8>, start: usize, seed: u32) -> u32 {
    let crc = crc32(seed, &out[start..]);
    resp::command(out, &[b"ECHO", &hex(crc)]);
    crc
}

/// The totals, sorted by key.
#[derive(Default)]
struct Totals(Vec<(Key, i64)>);

impl Totals {
    fn of(&self, key: &Key) -> i64 {
        self.find(key).map_or(0, |at| self.0[at].1)
    }

    fn add(&mut self, key: &Key, by: i64) -> Result<i64, Cause> {
        match self.find(key) {
            Ok(at) => {
                let total = self.0[at].1.checked_add(by).ok_or(Cause::Overflow)?;
                self.0[at].1 = total;
                Ok(total)
            }
            Err(_) if self.0.len() >= MAX_COUNTERS => Err(Cause::TooMany),
            Err(at) => {
                self.0.insert(at, (*key, by));
                Ok(by)
            }
        }
    }

    fn take_back(&mut self, key: &Key, by: i64) {
        let Ok(at) = self.find(key) else { return };
        self.0[at].1 -= by;
        if self.0[at].1 == 0 {
            self.0.remove(at);
        }
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

/// Reading a file from its start, batch by batch.
#[derive(Default)]
struct Replay {
    totals: Totals,
    seal: u32,
    /// How far the file is sealed.
    sealed: u64,
    /// The batch that has no seal yet, its CRC, and how far it reaches.
    open: Vec<(Key, i64)>,
    crc: u32,
    offset: u64,
}

impl Replay {
    /// Reads all of `file`. What follows `sealed` at the end is a torn tail.
    fn run(file: &mut File) -> Result<Self, Unusable> {
        let mut replay = Self::default();
        let mut unread = Vec::new();
        loop {
            let more = read_on(file, &mut unread)?;
            if replay.offset == 0 && !agrees(&unread, HEADER) {
                return Err(Unusable::Foreign);
            }
            let mut well_formed = replay.take(&mut unread)?;
            if well_formed && more {
                continue;
            }
            if !well_formed {
                trim_blank(&mut unread, file)?;
                well_formed = replay.take(&mut unread)?;
            }
            // A crash tears off one batch, and its seal comes last.
            let torn = well_formed && !has_seal(&unread);
            return if torn { Ok(replay) } else { Err(replay.damaged()) };
        }
    }

    /// Takes the commands at the front of `unread`; `false` if what follows them is none.
    fn take(&mut self, unread: &mut Vec<u8>) -> Result<bool, Unusable> {
        // No array within an array: a damaged count would swallow the commands after it.
        let mut rest = &unread[..];
        let well_formed = loop {
            match resp::decode_within(rest, 1) {
                Ok(Some((reply, used))) => {
                    let (command, behind) = rest.split_at(used);
                    self.command(reply, command)?;
                    rest = behind;
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let used = unread.len() - rest.len();
        unread.drain(..used);
        Ok(well_formed)
    }

    fn command(&mut self, reply: Reply<'_>, bytes: &[u8]) -> Result<(), Unusable> {
        let end = self.offset + bytes.len() as u64;
        if let Some((key, by)) = as_increment(reply) {
            self.crc = crc32(self.crc, bytes);
            self.open.push((key, by));
        } else if self.offset == 0 && bytes == HEADER {
            self.sealed = end;
        } else if !self.open.is_empty() && is_seal(reply, self.crc) {
            for (key, by) in self.open.drain(..) {
                self.totals.add(&key, by).map_err(|_| Unusable::Damaged(self.sealed))?;
            }
            self.seal = self.crc;
            self.sealed = end;
        } else {
            return Err(self.damaged());
        }
        self.offset = end;
        Ok(())
    }

    fn damaged(&self) -> Unusable {
        Unusable::Damaged(self.sealed)
    }
}

fn as_increment(reply: Reply<'_>) -> Option<(Key, i64)> {
    let Reply::Array(mut words) = reply else { return None };
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(Reply::Bulk(b"INCRBY")), Some(Reply::Bulk(key)), Some(Reply::Bulk(by)), None) => {
            Some((Key::new(key)?, resp::integer(by).filter(|&by| by > 0)?))
        }
        _ => None,
    }
}

fn is_seal(reply: Reply<'_>, crc: u32) -> bool {
    let Reply::Array(mut words) = reply else { return false };
    let words = (words.next(), words.next(), words.next());
    matches!(words, (Some(Reply::Bulk(b"ECHO")), Some(Reply::Bulk(text)), None) if text == hex(crc))
}

/// Whether as much as there is of `bytes` begins like `start`.
fn agrees(bytes: &[u8], start: &[u8]) -> bool {
    let shared = bytes.len().min(start.len());
    bytes[..shared] == start[..shared]
}

/// Whether a whole seal stands in a tail.
fn has_seal(tail: &[u8]) -> bool {
    tail.windows(SEAL_START.len() + SEAL_REST).any(|window| window.starts_with(SEAL_START))
}

/// Reads a chunk of `file` behind `unread`; `false` at its end.
fn read_on(file: &mut File, unread: &mut Vec<u8>) -> Result<bool, Unusable> {
    let start = unread.len();
    unread.resize(start + CHUNK, 0);
    let read = file.read(&mut unread[start..]).map_err(|error| Unusable::Io("read", error))?;
    unread.truncate(start + read);
    Ok(read > 0)
}

/// Reads the rest of `file` behind `unread` and drops the zeros at its end: after a crash, a file may be longer than
/// what was written to it.
fn trim_blank(unread: &mut Vec<u8>, file: &mut File) -> Result<(), Unusable> {
    while read_on(file, unread)? {
        // Without an end in sight it stays as it is, and does not read well.
        if unread.len() >= MAX_BLANK {
            return Ok(());
        }
    }
    let end = unread.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    unread.truncate(end);
    Ok(())
}

fn hex(crc: u32) -> [u8; 8] {
    let mut text = [0; 8];
    for (place, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(crc >> (28 - 4 * place) & 15) as usize];
    }
    text
}

/// CRC-32 as of zip and PNG, continued from `seed`: `crc32(crc32(0, a), b)` is that of `a` and `b`. Half a byte at a
/// time: a table of 64 bytes reads a ledger as fast as it ever need be.
fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = crc_table();
    !bytes.iter().fold(!seed, |crc, &byte| {
        let crc = crc ^ u32::from(byte);
        let crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
        crc >> 4 ^ TABLE[(crc & 15) as usize]
    })
}

const fn crc_table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

const HEADER: &[u8] = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n";

/// How a seal begins, and how many bytes follow: eight digits and the end of the line.
const SEAL_START: &[u8] = b"*2\r\n$4\r\nECHO\r\n$8\r\n";
const SEAL_REST: usize = 10;

/// Smaller than this in bytes, a file is not written anew to save space.
const MIN_REWRITE: u64 = 1024 * 1024;

/// Most counters in one ledger: a flood of names must not fill the memory.
const MAX_COUNTERS: usize = 10_000;

/// Bytes read at a time on opening.
const CHUNK: usize = 16 * 1024;

/// Longest tail in bytes that is searched for its end.
const MAX_BLANK: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("notch-ledger-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("a folder");
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("ledger")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a good name")
    }

    fn count(name: &str, by: i64) -> Ask {
        Ask::Count { key: key(name), by }
    }

    fn commit(ledger: &mut Ledger, asks: &[Ask]) -> Vec<Result<i64, Fault>> {
        let mut results = Vec::new();
        ledger.commit(asks, &mut results);
        results
    }

    fn open(path: &Path) -> Result<(Ledger, u64), Unusable> {
        Ledger::open(path, Fsync::Never)
    }

    fn opened(path: &Path) -> Ledger {
        open(path).expect("a sound ledger").0
    }

    /// A ledger of three batches, and how long it was after each, from the header on.
    fn written(path: &Path) -> Vec<u64> {
        let mut ledger = opened(path);
        let mut ends = vec![ledger.size];
        for asks in [&[count("a", 1)][..], &[count("a", 2), count("b", 40)], &[count("a", 10)]] {
            commit(&mut ledger, asks);
            ends.push(ledger.size);
        }
        ends
    }

    #[test]
    fn answers_batches_and_remembers_them() {
        let folder = Folder::new("remembers");
        let total = |name| Ask::Total { key: key(name) };
        let mut ledger = opened(&folder.file());
        let asks = [count("a", 2), total("a"), count("b", 1), count("a", 1), Ask::Ping, total("c")];
        assert_eq!(commit(&mut ledger, &asks), [Ok(2), Ok(3), Ok(1), Ok(3), Ok(0), Ok(0)]);
        assert_eq!(
            commit(&mut ledger, &[count("a", i64::MAX), count("a", 1)]),
            [Err(Fault::Refused(Cause::Overflow)), Ok(4)]
        );
        drop(ledger);
        assert_eq!(
            commit(&mut opened(&folder.file()), &[total("a"), total("b"), count("b", 1)]),
            [Ok(4), Ok(2), Ok(2)]
        );
    }

    #[test]
    fn a_tail_torn_at_any_length_is_cut() {
        let folder = Folder::new("torn");
        let ends = written(&folder.file());
        let whole = fs::read(folder.file()).expect("a file");
        let totals = [(0, 0), (1, 0), (3, 40), (13, 40)];
        for length in 0..=whole.len() {
            fs::write(folder.file(), &whole[..length]).expect("a file");
            let (ledger, cut) = open(&folder.file()).expect("a sound ledger");
            let batches = ends.iter().rposition(|&end| end <= length as u64);
            let sound = batches.map_or(0, |batches| ends[batches]);
            let (a, b) = totals[batches.unwrap_or(0)];
            assert_eq!((ledger.total(&key("a")), ledger.total(&key("b"))), (a, b), "{length}");
            assert_eq!(cut, length as u64 - sound);
            assert_eq!(fs::metadata(folder.file()).expect("a file").len(), sound.max(ends[0]));
        }
    }

    #[test]
    fn a_byte_changed_anywhere_never_gives_a_wrong_count() {
        let folder = Folder::new("damaged");
        let ends = written(&folder.file());
        let whole = fs::read(folder.file()).expect("a file");
        for at in 0..whole.len() {
            for flip in [0x01, 0x08, 0x80, whole[at]] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                fs::write(folder.file(), &damaged).expect("a file");
                let sound = *ends.iter().rfind(|&&end| end <= at as u64).unwrap_or(&0);
                match open(&folder.file()) {
                    Err(Unusable::Foreign) => assert!(at < HEADER.len()),
                    Err(Unusable::Damaged(offset)) => assert_eq!(offset, sound, "{at} {flip}"),
                    Err(other) => panic!("{other}"),
                    Ok((ledger, cut)) => {
                        // Only the last seal can be taken for one that was torn off.
                        assert!(cut > 0 && sound == ends[2], "{at} {flip}");
                        assert_eq!(ledger.total(&key("a")), 3);
                        continue;
                    }
                }
                assert_eq!(fs::read(folder.file()).expect("a file"), damaged);
            }
        }
    }

    #[test]
    fn batches_lost_doubled_or_moved_are_damage() {
        let folder = Folder::new("moved");
        let ends = written(&folder.file());
        let whole = fs::read(folder.file()).expect("a file");
        let part = |batch: usize| &whole[ends[batch] as usize..ends[batch + 1] as usize];
        for (parts, offset) in [
            ([0, 2, 2], ends[1]),
            ([1, 0, 2], ends[0]),
            ([0, 0, 1], ends[1]),
            ([0, 1, 1], ends[2]),
            ([1, 1, 1], ends[0]),
        ] {
            let parts: Vec<_> = parts.into_iter().flat_map(|batch| part(batch).to_vec()).collect();
            fs::write(folder.file(), [HEADER, &parts].concat()).expect("a file");
            assert!(matches!(open(&folder.file()), Err(Unusable::Damaged(at)) if at == offset));
        }
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_tail() {
        let folder = Folder::new("zeros");
        let ends = written(&folder.file());
        let whole = fs::read(folder.file()).expect("a file");
        for (end, a, sound) in [(ends[3], 13, ends[3]), (ends[3] - 3, 3, ends[2]), (ends[2] + 20, 3, ends[2])] {
            let zeros = vec![0; 5000];
            fs::write(folder.file(), [&whole[..end as usize], &zeros].concat()).expect("a file");
            let (ledger, cut) = open(&folder.file()).expect("a sound ledger");
            assert_eq!((ledger.total(&key("a")), cut), (a, end + 5000 - sound));
        }
        let hole = [&whole[..ends[1] as usize], &[0; 100], &whole[ends[1] as usize..]].concat();
        fs::write(folder.file(), hole).expect("a file");
        assert!(matches!(open(&folder.file()), Err(Unusable::Damaged(offset)) if offset == ends[1]));
    }

    #[test]
    fn what_is_not_a_ledger_is_left_alone() {
        let folder = Folder::new("foreign");
        for content in [&b"# notes\n"[..], b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 2\r\n", b"\0"] {
            fs::write(folder.file(), content).expect("a file");
            assert!(matches!(open(&folder.file()), Err(Unusable::Foreign)));
            assert_eq!(fs::read(folder.file()).expect("a file"), content);
        }
        assert!(matches!(open(&folder.0), Err(Unusable::Io("open", _))));
        assert!(matches!(open(&folder.0.join("none/ledger")), Err(Unusable::Io("open", _))));
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = Folder::new("locked");
        let mut ledger = opened(&folder.file());
        assert!(matches!(open(&folder.file()), Err(Unusable::Locked)));
        ledger.rewrite().expect("a disk");
        assert!(matches!(open(&folder.file()), Err(Unusable::Locked)));
        drop(ledger);
        assert!(open(&folder.file()).is_ok());
    }

    #[test]
    fn it_is_written_anew_when_it_grows_and_when_it_is_gone() {
        let folder = Folder::new("anew");
        let mut ledger = opened(&folder.file());
        let long = "x".repeat(Key::MAX);
        let mut visits = 0;
        while ledger.size < MIN_REWRITE - 200 {
            visits += 1;
            assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Ok(visits)]);
        }
        for _ in 0..2 {
            visits += 1;
            commit(&mut ledger, &[count(&long, 1)]);
        }
        assert!(ledger.size < 1000, "{}", ledger.size);

        for spoil in [|path: &Path| fs::remove_file(path), |path: &Path| fs::write(path, "")] {
            spoil(&folder.file()).expect("a file to spoil");
            visits += 1;
            assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Ok(visits)]);
        }
        fs::rename(folder.file(), folder.0.join("moved")).expect("a file to move");
        fs::write(folder.file(), "theirs").expect("a file");
        assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Err(Fault::Refused(Cause::Disk))]);
        assert_eq!(fs::read(folder.file()).expect("a file"), b"theirs");
        fs::remove_file(folder.file()).expect("a file");
        visits += 1;
        assert_eq!(commit(&mut ledger, &[Ask::Ping, count(&long, 1)]), [Ok(0), Ok(visits)]);
        drop(ledger);
        assert_eq!(opened(&folder.file()).total(&key(&long)), visits);
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() {
        let folder = Folder::new("link");
        fs::create_dir(folder.0.join("volume")).expect("a folder");
        std::os::unix::fs::symlink("volume/real", folder.file()).expect("a link");
        let mut ledger = opened(&folder.file());
        assert_eq!(commit(&mut ledger, &[count("a", 1)]), [Ok(1)]);
        ledger.rewrite().expect("a disk");
        drop(ledger);
        assert!(fs::symlink_metadata(folder.file()).expect("a link").is_symlink());
        assert_eq!(opened(&folder.0.join("volume/real")).total(&key("a")), 1);
    }

    #[test]
    fn names_without_end_are_refused() {
        let folder = Folder::new("names");
        let mut ledger = opened(&folder.file());
        let asks: Vec<_> = (0..=MAX_COUNTERS).map(|name| count(&name.to_string(), 1)).collect();
        let results = commit(&mut ledger, &asks);
        assert!(results[..MAX_COUNTERS].iter().all(|result| *result == Ok(1)));
        assert_eq!(results[MAX_COUNTERS], Err(Fault::Refused(Cause::TooMany)));
        drop(ledger);
        assert_eq!(opened(&folder.file()).total(&key("7")), 1);
    }

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(hex(0x0bf4_3926), *b"0bf43926");
    }
}
