//! Reading a file from its start, batch by batch.

use std::fs::File;
use std::io::{ErrorKind, Read};

use super::checksum::{crc32, hex};
use super::totals::{Bound, Totals};
use super::{HEADER, OpenError};
use crate::counter::Key;
use crate::resp::{self, Reply};

/// What a file holds, as far as it was read.
pub(super) struct Replay {
    pub(super) totals: Totals,
    pub(super) seal: u32,
    /// How far the file is sealed.
    pub(super) sealed: u64,
    /// The batch that has no seal yet, its CRC, and how far it reaches.
    open: Vec<(Key, i64)>,
    crc: u32,
    offset: u64,
}

impl Replay {
    /// Reads all of `file`. What follows `sealed` at the end is a torn tail.
    pub(super) fn run(file: &mut File, bound: Bound) -> Result<Self, OpenError> {
        let totals = Totals::new(bound);
        let mut replay = Self { totals, seal: 0, sealed: 0, open: Vec::new(), crc: 0, offset: 0 };
        let mut unread = Vec::new();
        loop {
            let more = read_on(file, &mut unread)?;
            if replay.offset == 0 && !is_prefix_of(&unread, HEADER) {
                return Err(OpenError::NotALedger);
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
            let torn = well_formed && !has_checksum(&unread);
            return if torn { Ok(replay) } else { Err(replay.damaged()) };
        }
    }

    /// Takes the commands at the front of `unread`; `false` if what follows them is none.
    fn take(&mut self, unread: &mut Vec<u8>) -> Result<bool, OpenError> {
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

    fn command(&mut self, reply: Reply<'_>, bytes: &[u8]) -> Result<(), OpenError> {
        let end = self.offset + bytes.len() as u64;
        if let Some((key, by)) = as_increment(reply) {
            self.crc = crc32(self.crc, bytes);
            self.open.push((key, by));
        } else if self.offset == 0 && bytes == HEADER {
            self.sealed = end;
        } else if !self.open.is_empty() && is_checksum(reply, self.crc) {
            for (key, by) in self.open.drain(..) {
                self.totals.restore(&key, by).map_err(|_| OpenError::Damaged(self.sealed))?;
            }
            self.seal = self.crc;
            self.sealed = end;
        } else {
            return Err(self.damaged());
        }
        self.offset = end;
        Ok(())
    }

    fn damaged(&self) -> OpenError {
        OpenError::Damaged(self.sealed)
    }
}

fn as_increment(reply: Reply<'_>) -> Option<(Key, i64)> {
    let Reply::Array(mut words) = reply else { return None };
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(Reply::Bulk(b"INCRBY")), Some(Reply::Bulk(key)), Some(Reply::Bulk(by)), None) => {
            Some((Key::new(key)?, resp::parse_integer(by).filter(|&by| by > 0)?))
        }
        _ => None,
    }
}

fn is_checksum(reply: Reply<'_>, crc: u32) -> bool {
    let Reply::Array(mut words) = reply else { return false };
    let words = (words.next(), words.next(), words.next());
    matches!(words, (Some(Reply::Bulk(b"ECHO")), Some(Reply::Bulk(text)), None) if text == hex(crc))
}

/// Whether as much as there is of `bytes` begins like `start`.
fn is_prefix_of(bytes: &[u8], start: &[u8]) -> bool {
    let shared = bytes.len().min(start.len());
    bytes[..shared] == start[..shared]
}

/// Whether a whole seal stands in a tail.
fn has_checksum(tail: &[u8]) -> bool {
    tail.windows(CHECKSUM_START.len() + CHECKSUM_REST).any(|window| window.starts_with(CHECKSUM_START))
}

/// Reads a chunk of `file` behind `unread`; `false` at its end.
fn read_on(file: &mut File, unread: &mut Vec<u8>) -> Result<bool, OpenError> {
    let start = unread.len();
    unread.resize(start + CHUNK, 0);
    let read = loop {
        match file.read(&mut unread[start..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.map_err(|error| OpenError::Io("read", error))?,
        }
    };
    unread.truncate(start + read);
    Ok(read > 0)
}

/// Reads the rest of `file` behind `unread` and drops the zeros at its end: after a crash, a file may be longer than
/// what was written to it.
fn trim_blank(unread: &mut Vec<u8>, file: &mut File) -> Result<(), OpenError> {
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

/// How a seal begins, and how many bytes follow: eight digits and the end of the line.
const CHECKSUM_START: &[u8] = b"*2\r\n$4\r\nECHO\r\n$8\r\n";
const CHECKSUM_REST: usize = 10;

/// Bytes read at a time on opening.
const CHUNK: usize = 16 * 1024;

/// Longest tail in bytes that is searched for its end.
const MAX_BLANK: usize = 16 * 1024 * 1024;
