//! Replay: reads a file from its start, batch by batch.
//!
//! A batch is counted when its checksum record is read. A crash tears at most the last batch, and its checksum is
//! written last: a tail that could continue as a batch and has no checksum record is torn, anything else that is invalid
//! is damage. So a changed byte in the checksum of the last batch does not remove that batch.

use std::fs::File;
use std::io::{self, ErrorKind, Read};

use super::checksum::{crc32, hex};
use super::totals::Totals;
use super::{HEADER, OpenError, append_checksum_record};
use crate::counter::{Key, NameLimit};
use crate::resp::{self, Reply};

/// The content of a file, as far as it was read.
pub(super) struct Replay {
    pub(super) totals: Totals,
    /// Checksum of the last whole batch.
    pub(super) checksum: u32,
    /// Offset in bytes of the end of the last whole batch.
    pub(super) valid_length: u64,
    /// Number of whole batches.
    pub(super) batches: u64,
    /// Increments of the batch whose checksum was not read yet.
    pending: Vec<(Key, i64)>,
    /// CRC of those increments.
    crc: u32,
    /// Offset in bytes of the next command.
    offset: u64,
}

impl Replay {
    /// Reads all of `file`. Bytes after `valid_length` are a torn tail.
    ///
    /// # Errors
    /// The file cannot be read, is not a ledger, or is damaged.
    pub(super) fn run(file: &mut File, limit: NameLimit) -> Result<Self, OpenError> {
        let totals = Totals::new(limit);
        let mut replay =
            Self { totals, checksum: 0, valid_length: 0, batches: 0, pending: Vec::new(), crc: 0, offset: 0 };
        let mut input = Vec::new();
        loop {
            let has_more = read_chunk(file, &mut input).map_err(read_error)?;
            if replay.offset == 0 && !is_prefix_of(&input, HEADER) {
                return Err(OpenError::NotALedger);
            }
            let mut well_formed = replay.consume(&mut input)?;
            if well_formed && has_more {
                continue;
            }
            // Few zeros may also look like the rest of a line or of a text that has not arrived whole.
            if !well_formed || input.ends_with(b"\0") {
                trim_zeros(&mut input, file)?;
                well_formed = replay.consume(&mut input)?;
            }
            return if well_formed && replay.is_torn(&input) { Ok(replay) } else { Err(replay.damaged()) };
        }
    }

    /// Consumes the whole commands at the start of `input`. Returns `false` if the bytes after them are not RESP.
    fn consume(&mut self, input: &mut Vec<u8>) -> Result<bool, OpenError> {
        // Nested arrays are not allowed: an array with a damaged length would include the commands after it.
        let mut rest = &input[..];
        let well_formed = loop {
            match resp::decode_within(rest, 1) {
                Ok(Some((reply, used))) => {
                    let (bytes, tail) = rest.split_at(used);
                    self.process(reply, bytes)?;
                    rest = tail;
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let used = input.len() - rest.len();
        input.drain(..used);
        Ok(well_formed)
    }

    /// Processes one command, of which `bytes` is the encoding.
    fn process(&mut self, reply: Reply<'_>, bytes: &[u8]) -> Result<(), OpenError> {
        let end = self.offset + bytes.len() as u64;
        if let Some((key, by)) = as_increment(reply) {
            if end - self.valid_length > MAX_BATCH {
                return Err(self.damaged());
            }
            self.crc = crc32(self.crc, bytes);
            self.pending.push((key, by));
        } else if self.offset == 0 && bytes == HEADER {
            self.valid_length = end;
        } else if !self.pending.is_empty() && is_checksum(reply, self.crc) {
            for (key, by) in self.pending.drain(..) {
                self.totals.restore(&key, by).map_err(|_| OpenError::Damaged(self.valid_length))?;
            }
            self.checksum = self.crc;
            self.valid_length = end;
            self.batches += 1;
        } else {
            return Err(self.damaged());
        }
        self.offset = end;
        Ok(())
    }

    /// Returns whether `tail`, which is not a whole command, is the start of a command that continues the batch.
    fn is_torn(&self, tail: &[u8]) -> bool {
        let mut checksum = Vec::new();
        append_checksum_record(&mut checksum, self.crc);
        let is_checksum = !self.pending.is_empty() && checksum.starts_with(tail);
        let is_increment = tail.len() < MAX_INCREMENT && is_prefix_of(tail, INCREMENT_START) && !has_checksum(tail);
        // The start of the file was compared with the header.
        self.offset == 0 || is_checksum || is_increment
    }

    fn damaged(&self) -> OpenError {
        OpenError::Damaged(self.valid_length)
    }
}

fn as_increment(reply: Reply<'_>) -> Option<(Key, i64)> {
    let Reply::Array(mut items) = reply else { return None };
    match (items.next(), items.next(), items.next(), items.next()) {
        (Some(Reply::Bulk(b"INCRBY")), Some(Reply::Bulk(key)), Some(Reply::Bulk(by)), None) => {
            Some((Key::new(key)?, resp::parse_integer(by).filter(|&by| by > 0)?))
        }
        _ => None,
    }
}

fn is_checksum(reply: Reply<'_>, crc: u32) -> bool {
    let Reply::Array(mut items) = reply else { return false };
    let items = (items.next(), items.next(), items.next());
    matches!(items, (Some(Reply::Bulk(b"ECHO")), Some(Reply::Bulk(text)), None) if text == hex(crc))
}

/// Returns whether `bytes` begins with `header`, or is a part of it.
fn is_prefix_of(bytes: &[u8], header: &[u8]) -> bool {
    let length = bytes.len().min(header.len());
    bytes[..length] == header[..length]
}

/// Returns whether a tail contains a whole checksum record.
fn has_checksum(tail: &[u8]) -> bool {
    tail.windows(CHECKSUM_START.len() + CHECKSUM_REST).any(|window| window.starts_with(CHECKSUM_START))
}

/// Appends a chunk of `source` to `input`. Returns `false` at its end.
pub(super) fn read_chunk(source: &mut impl Read, input: &mut Vec<u8>) -> io::Result<bool> {
    let start = input.len();
    input.resize(start + CHUNK, 0);
    let read = loop {
        match source.read(&mut input[start..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    input.truncate(start + read);
    Ok(read > 0)
}

fn read_error(error: io::Error) -> OpenError {
    OpenError::Io("read", error)
}

/// Appends the rest of `file` to `input` and removes the zeros at its end: after a crash, a file may be longer than
/// what was written to it.
fn trim_zeros(input: &mut Vec<u8>, file: &mut File) -> Result<(), OpenError> {
    while read_chunk(file, input).map_err(read_error)? {
        // A longer tail is damage.
        if input.len() >= MAX_TAIL {
            return Ok(());
        }
    }
    let end = input.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    input.truncate(end);
    Ok(())
}

/// Start of a checksum record, and the number of bytes that follow: eight digits and the end of the line.
const CHECKSUM_START: &[u8] = b"*2\r\n$4\r\nECHO\r\n$8\r\n";
const CHECKSUM_REST: usize = 10;

/// Start of an increment, and a length in bytes that is more than that of the longest one.
const INCREMENT_START: &[u8] = b"*3\r\n$6\r\nINCRBY\r\n$";
const MAX_INCREMENT: usize = INCREMENT_START.len() + Key::MAX + 40;

/// Longest batch in bytes: the workers' batches are written as one, and are shorter all together.
const MAX_BATCH: u64 = MAX_TAIL as u64;

/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

/// Longest tail in bytes from which zeros are removed.
pub(super) const MAX_TAIL: usize = 16 * 1024 * 1024;
