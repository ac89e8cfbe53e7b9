//! Request bodies, discarded as they arrive (RFC 9112, section 6).
//!
//! ```text
//! Length ──> complete
//! ChunkSize ──> ChunkData ──> ChunkEnd ──> ChunkSize ...
//!     └─ size 0 ──> Trailer ──> complete
//! ```

use super::grammar::{is_field, is_field_text};
use super::{CRLF, RequestError, Status};

/// The unread rest of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    state: BodyState,
    /// Bytes discarded so far, the framing of chunks included.
    discarded: u64,
}

/// The part of a body that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// This many bytes, then the body is complete.
    Length(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// This many bytes of a chunk.
    ChunkData(u64),
    /// The line end after the data of a chunk.
    ChunkEnd,
    /// A trailer field, or the empty line after the last one.
    Trailer,
}

impl Body {
    /// A request without a body.
    pub(super) const NONE: Self = Self { state: BodyState::Length(0), discarded: 0 };

    /// A body in chunks.
    pub(super) const CHUNKED: Self = Self { state: BodyState::ChunkSize, discarded: 0 };

    /// Returns a body of `length` bytes.
    ///
    /// # Errors
    /// 413 above [`MAX_BODY`].
    pub(super) const fn with_length(length: u64) -> Result<Self, &'static RequestError> {
        if length > MAX_BODY {
            return Err(TOO_LARGE);
        }
        Ok(Self { state: BodyState::Length(length), discarded: 0 })
    }

    /// Returns whether the whole body has been discarded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == BodyState::Length(0)
    }

    /// Returns how many of `bytes` belong to the body and are discarded. More bytes are needed if it is then not
    /// complete.
    ///
    /// # Errors
    /// A [`RequestError`] for a body that is too large, or whose end is uncertain.
    pub fn skip(&mut self, bytes: &[u8]) -> Result<usize, &'static RequestError> {
        let mut used = 0;
        while !self.is_complete() {
            let taken = self.skip_part(&bytes[used..])?;
            if taken == 0 {
                break;
            }
            used += taken;
            self.discarded += taken as u64;
            if self.discarded > MAX_BODY {
                return Err(TOO_LARGE);
            }
        }
        Ok(used)
    }

    /// Skips one part, or as much of it as `bytes` has. Returns the number of bytes.
    fn skip_part(&mut self, bytes: &[u8]) -> Result<usize, &'static RequestError> {
        if let BodyState::Length(left) | BodyState::ChunkData(left) = &mut self.state {
            let used = bytes.len().min(*left as usize);
            *left -= used as u64;
            if self.state == BodyState::ChunkData(0) {
                self.state = BodyState::ChunkEnd;
            }
            return Ok(used);
        }
        let Some(line) = line(bytes)? else { return Ok(0) };
        self.state = match self.state {
            BodyState::ChunkSize => match chunk_size(line).ok_or(INVALID_SIZE)? {
                0 => BodyState::Trailer,
                size if size > MAX_BODY => return Err(TOO_LARGE),
                size => BodyState::ChunkData(size),
            },
            BodyState::ChunkEnd if line.is_empty() => BodyState::ChunkSize,
            BodyState::ChunkEnd => return Err(LONG_CHUNK),
            BodyState::Trailer if line.is_empty() => BodyState::Length(0),
            BodyState::Trailer if !is_field(line) => return Err(INVALID_TRAILER),
            other => other,
        };
        Ok(line.len() + CRLF.len())
    }
}

/// Returns the line at the front of `bytes` without its end; `None` if it has not arrived whole. Lines of a body end in
/// CR LF and contain neither: lenient parsers have let requests be smuggled.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, &'static RequestError> {
    let end = bytes.iter().position(|byte| CRLF.contains(byte));
    match end.map(|end| (&bytes[..end], &bytes[end..])) {
        None if bytes.len() > MAX_LINE => Err(LONG_LINE),
        None | Some((_, b"\r")) => Ok(None),
        Some((line, [b'\r', b'\n', ..])) => Ok(Some(line)),
        Some(_) => Err(NO_CRLF),
    }
}

/// Parses `chunk-size [ chunk-ext ]` (RFC 9112, section 7.1), at most eight digits. Extensions are ignored, but a
/// character that none may contain is an error: another parser may read such a line differently.
fn chunk_size(line: &[u8]) -> Option<u64> {
    if !is_field_text(line) {
        return None;
    }
    let mut parts = line.splitn(2, |&byte| byte == b';');
    let digits = parts.next().unwrap_or_default();
    // White space is allowed before an extension, because old senders write it.
    let digits = if parts.next().is_some() { digits.trim_ascii_end() } else { digits };
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |size, &byte| Some(size * 16 + u64::from(char::from(byte).to_digit(16)?)))
}

const TOO_LARGE: &RequestError = &RequestError::new(Status::ContentTooLarge, "a visit needs no body: send less");
const INVALID_SIZE: &RequestError =
    &RequestError::bad_request("a chunk does not begin with a hexadecimal size and well-formed extensions");
const LONG_CHUNK: &RequestError = &RequestError::bad_request("a chunk is longer than its size");
const INVALID_TRAILER: &RequestError = &RequestError::bad_request("a trailer is not a field");
const LONG_LINE: &RequestError = &RequestError::bad_request("a line of the body is too long");
const NO_CRLF: &RequestError = &RequestError::bad_request("a line of the body does not end in CR LF");

/// Longest body in bytes, the framing of chunks included.
pub const MAX_BODY: u64 = 64 * 1024;

/// Longest line of chunk framing or trailer in bytes.
const MAX_LINE: usize = 4 * 1024;
