//! RESP2, the protocol of Redis, as functions from bytes to bytes.
//!
//! The decoder keeps no state. It takes all bytes that have arrived and returns one complete reply from the front,
//! "incomplete", or [`Malformed`]. Replies borrow from the input. Parsing is strict, because an unexpected byte means
//! that replies no longer match commands, and then the connection is unusable: integers have no plus sign, leading zero
//! or overflow, lines end with CR LF and contain neither byte, and lengths and depth are bounded.
//!
//! ```
//! use notch::resp::{self, Malformed, Reply};
//!
//! let mut command = Vec::new();
//! resp::write_command(&mut command, &[b"INCRBY", b"visits", b"3"]);
//! assert_eq!(command, b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n3\r\n");
//!
//! assert_eq!(resp::decode(b":42\r\n+OK\r\n"), Ok(Some((Reply::Integer(42), 5))));
//! assert_eq!(resp::decode(b":42\r"), Ok(None), "incomplete");
//! assert_eq!(resp::decode(b":042\r\n"), Err(Malformed));
//! ```
//!
//! Left out on purpose: RESP3 and inline commands.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use crate::decimal::Decimal;

/// One reply, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`: one line.
    Simple(&'a [u8]),
    /// `-WRONGTYPE Operation against…`: one line; its first word is usually in capitals.
    Error(&'a [u8]),
    /// `:42`: a signed 64-bit integer.
    Integer(i64),
    /// `$2` and two bytes of any value.
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`: no value.
    Null,
    /// `*2` and two replies.
    Array(Items<'a>),
}

/// The bytes are not RESP2, or exceed a bound, whatever follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes the reply at the front of `bytes` and returns it with its length in bytes, or `None` if it is incomplete.
///
/// # Errors
/// [`Malformed`] as soon as no further bytes can complete a reply within the bounds.
pub fn decode(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    decode_within(bytes, MAX_DEPTH)
}

/// Decodes like [`decode`] with a limit of nested arrays: 0 allows no array, 1 allows no array within an array.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(bytes: &[u8], depth: usize) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    if !b"+-:$*".contains(&kind) {
        return Err(Malformed);
    }
    let limit = if matches!(kind, b'+' | b'-') { MAX_LINE } else { MAX_DIGITS };
    let Some(line) = find_line(rest, limit)? else { return Ok(None) };
    let length = 1 + line.len() + CRLF.len();
    match kind {
        b'+' => Ok(Some((Reply::Simple(line), length))),
        b'-' => Ok(Some((Reply::Error(line), length))),
        b':' => Ok(Some((Reply::Integer(parse_integer(line).ok_or(Malformed)?), length))),
        b'$' => decode_bulk(bytes, length, parse_length(line, MAX_BULK)?),
        _ => decode_array(bytes, length, parse_length(line, MAX_ITEMS)?, depth),
    }
}

fn decode_bulk(bytes: &[u8], start: usize, length: Option<usize>) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some(length) = length else { return Ok(Some((Reply::Null, start))) };
    let text = bytes.get(start..).and_then(|rest| rest.split_at_checked(length));
    match text {
        None | Some((_, [] | [b'\r'])) => Ok(None),
        Some((text, [b'\r', b'\n', ..])) => Ok(Some((Reply::Bulk(text), start + length + CRLF.len()))),
        Some(_) => Err(Malformed),
    }
}

fn decode_array(
    bytes: &[u8],
    start: usize,
    count: Option<usize>,
    depth: usize,
) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    if depth == 0 {
        return Err(Malformed);
    }
    let Some(count) = count else { return Ok(Some((Reply::Null, start))) };
    let mut end = start;
    for _ in 0..count {
        let Some((_, length)) = decode_within(&bytes[end..], depth - 1)? else { return Ok(None) };
        end += length;
    }
    Ok(Some((Reply::Array(Items { remaining: count, bytes: &bytes[start..end] }), end)))
}

/// The replies within an array, decoded again by the iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    remaining: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        // It was decoded once, so it is complete and well-formed.
        let (reply, length) = decode(self.bytes).ok().flatten()?;
        self.bytes = &self.bytes[length..];
        Some(reply)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// Returns the bytes before the next CR LF, at most `limit`, or `None` if the line is incomplete.
fn find_line(bytes: &[u8], limit: usize) -> Result<Option<&[u8]>, Malformed> {
    let window = &bytes[..bytes.len().min(limit + CRLF.len())];
    let Some(end) = window.iter().position(|byte| CRLF.contains(byte)) else {
        return if window.len() > limit { Err(Malformed) } else { Ok(None) };
    };
    match window[end..] {
        [b'\r'] if end <= limit => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(&bytes[..end])),
        _ => Err(Malformed),
    }
}

/// Parses the length in a header. Returns `None` for -1, which stands for no value.
fn parse_length(line: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    match parse_integer(line) {
        Some(-1) => Ok(None),
        Some(length) => usize::try_from(length).ok().filter(|&length| length <= limit).map(Some).ok_or(Malformed),
        None => Err(Malformed),
    }
}

/// Parses a decimal integer as Redis writes it: an optional minus, no leading zero, no `-0`. Returns `None` for
/// anything else.
#[must_use]
pub fn parse_integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    let is_canonical = match digits {
        [] => false,
        [b'0'] => !negative,
        [first, ..] => *first != b'0',
    };
    if !is_canonical {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        // Digits of a negative number are subtracted, because `i64::MIN` has no positive counterpart.
        let shifted = number.checked_mul(10).filter(|_| digit <= 9)?;
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    })
}

/// Appends one command with its arguments: an array of bulk strings.
pub fn write_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    write_command_prefix(out, arguments.len(), arguments);
}

/// Appends the first arguments of a command that has `count` of them; [`write_argument`] appends the others.
pub fn write_command_prefix(out: &mut Vec<u8>, count: usize, arguments: &[&[u8]]) {
    write_header(out, b'*', count);
    arguments.iter().for_each(|each| write_argument(out, each));
}

/// Appends one argument of a command.
pub fn write_argument(out: &mut Vec<u8>, bytes: &[u8]) {
    write_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(CRLF);
}

fn write_header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(&Decimal::new(length as i64));
    out.extend_from_slice(CRLF);
}

const CRLF: &[u8] = b"\r\n";

/// Longest simple string or error in bytes.
pub const MAX_LINE: usize = 4 * 1024;

/// Longest bulk string in bytes.
pub const MAX_BULK: usize = 16 * 1024;

/// Most items in one array.
pub const MAX_ITEMS: usize = 1024;

/// Deepest nesting of arrays.
pub const MAX_DEPTH: usize = 8;

/// Longest integer: the sign and 19 digits.
const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_commands_as_redis_reads_them() {
        let mut out = Vec::new();
        write_command(&mut out, &[b"INCRBY", b"visits", b"12"]);
        write_command(&mut out, &[b""]);
        assert_eq!(&out[..], b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$2\r\n12\r\n*1\r\n$0\r\n\r\n");
    }

    #[test]
    fn arrays_nest_up_to_the_given_depth() {
        let nested = b"*1\r\n*1\r\n:7\r\n";
        assert_eq!(decode_within(nested, 1), Err(Malformed));
        let Ok(Some((Reply::Array(mut outer), 12))) = decode_within(nested, 2) else { panic!("no array") };
        let Some(Reply::Array(inner)) = outer.next() else { panic!("no inner array") };
        assert_eq!(inner.collect::<Vec<_>>(), [Reply::Integer(7)]);
        assert_eq!(outer.next(), None);
    }
}
