//! RESP2, the protocol of Redis, as functions from bytes to bytes.
//!
//! The decoder keeps no state: it is given all that has arrived, and either finds one whole reply at the front, or asks
//! for more, or refuses. What it hands out borrows from the input. It reads strictly, because a byte that is not where
//! it belongs means that requests and replies have lost step, and then the connection is worth nothing any more:
//! integers without plus sign, leading zero or overflow, lines ended by CR LF with neither of the two before, and
//! bounded lengths and depth.
//!
//! Left out on purpose: RESP3 and inline commands.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use crate::decimal::Decimal;

/// One reply, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`: one line.
    Simple(&'a [u8]),
    /// `-WRONGTYPE Operation against…`: one line, its first word in capitals by custom.
    Error(&'a [u8]),
    /// `:42`: 64 bits, signed.
    Integer(i64),
    /// `$2` and two bytes of any kind.
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`: there is nothing.
    Null,
    /// `*2` and two replies.
    Array(Items<'a>),
}

/// These bytes are no RESP2, or exceed a bound, whatever may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the reply at the front of `bytes` and says how many bytes it took; `None` if it has not arrived whole.
///
/// # Errors
/// [`Malformed`] as soon as no continuation can make it a reply within the bounds.
pub fn decode(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    decode_within(bytes, MAX_DEPTH)
}

/// [`decode`] with a depth of its own: 0 allows no array at all, 1 none within an array.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(bytes: &[u8], depth: usize) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    if !b"+-:$*".contains(&kind) {
        return Err(Malformed);
    }
    let limit = if matches!(kind, b'+' | b'-') { MAX_LINE } else { MAX_DIGITS };
    let Some(line) = line(rest, limit)? else { return Ok(None) };
    let used = 1 + line.len() + CRLF.len();
    match kind {
        b'+' => Ok(Some((Reply::Simple(line), used))),
        b'-' => Ok(Some((Reply::Error(line), used))),
        b':' => Ok(Some((Reply::Integer(parse_integer(line).ok_or(Malformed)?), used))),
        b'$' => bulk(bytes, used, length(line, MAX_BULK)?),
        _ => array(bytes, used, length(line, MAX_ITEMS)?, depth),
    }
}

fn bulk(bytes: &[u8], start: usize, length: Option<usize>) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some(length) = length else { return Ok(Some((Reply::Null, start))) };
    let text = bytes.get(start..).and_then(|rest| rest.split_at_checked(length));
    match text {
        None | Some((_, [] | [b'\r'])) => Ok(None),
        Some((text, [b'\r', b'\n', ..])) => Ok(Some((Reply::Bulk(text), start + length + CRLF.len()))),
        Some(_) => Err(Malformed),
    }
}

fn array(
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
        let Some((_, used)) = decode_within(&bytes[end..], depth - 1)? else { return Ok(None) };
        end += used;
    }
    Ok(Some((Reply::Array(Items { left: count, bytes: &bytes[start..end] }), end)))
}

/// The replies within an array, read anew as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Decoded once already, so it is whole and well-formed.
        let (reply, used) = decode(self.bytes).ok().flatten()?;
        self.bytes = &self.bytes[used..];
        Some(reply)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// The bytes up to the next CR LF, without it; `None` if it has not come within `limit` bytes yet.
fn line(bytes: &[u8], limit: usize) -> Result<Option<&[u8]>, Malformed> {
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

/// A length in a header: `None` for -1, which means that there is nothing.
fn length(line: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    match parse_integer(line) {
        Some(-1) => Ok(None),
        Some(length) => usize::try_from(length).ok().filter(|&length| length <= limit).map(Some).ok_or(Malformed),
        None => Err(Malformed),
    }
}

/// Reads a decimal integer as Redis writes it: an optional minus, no leading zero, no `-0`; `None` for anything else.
#[must_use]
pub fn parse_integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    let canonical = match digits {
        [] => false,
        [b'0'] => !negative,
        [first, ..] => *first != b'0',
    };
    if !canonical {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        // A negative number grows downwards: there is one more of them than of the positive.
        let shifted = number.checked_mul(10).filter(|_| digit <= 9)?;
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    })
}

/// Appends one command: an array of bulk strings, the only form in which Redis takes them.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    command_prefix(out, words.len(), words);
}

/// Appends the front of a command of `count` words; the rest of them follow by [`argument`].
pub fn command_prefix(out: &mut Vec<u8>, count: usize, words: &[&[u8]]) {
    header(out, b'*', count);
    words.iter().for_each(|each| argument(out, each));
}

/// Appends one word of a command.
pub fn argument(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(CRLF);
}

fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
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
        command(&mut out, &[b"INCRBY", b"visits", b"12"]);
        command(&mut out, &[b""]);
        assert_eq!(&out[..], b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$2\r\n12\r\n*1\r\n$0\r\n\r\n");
    }

    #[test]
    fn nests_as_deep_as_it_is_told() {
        let nested = b"*1\r\n*1\r\n:7\r\n";
        assert_eq!(decode_within(nested, 1), Err(Malformed));
        let Ok(Some((Reply::Array(mut outer), 12))) = decode_within(nested, 2) else { panic!("no array") };
        let Some(Reply::Array(inner)) = outer.next() else { panic!("no inner array") };
        assert_eq!(inner.collect::<Vec<_>>(), [Reply::Integer(7)]);
        assert_eq!(outer.next(), None);
    }
}
