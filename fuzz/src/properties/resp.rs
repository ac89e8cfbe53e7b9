//! Arbitrary bytes as input of the RESP decoder.
//!
//! - A prefix of the input is incomplete or has the same outcome as the input: the same reply of the same length, or
//!   malformed. No prefix of a valid reply is malformed.
//! - A reply has one encoding only: encoded again, it gives the bytes from which it was decoded.
//! - An array has the announced number of items, and its depth is within the limit.

use notch::resp::{MAX_BULK, MAX_DEPTH, MAX_ITEMS, MAX_LINE, Reply, decode, decode_within};

/// Longest input in bytes of which every prefix is tried; of a longer one, only some are.
const MAX_CUTS: usize = 300;

/// `data` is a sequence of replies.
pub fn holds(data: &[u8]) {
    let mut rest = data;
    loop {
        let outcome = decode(rest);
        let mut previous = Ok(None);
        for end in (0..rest.len()).step_by(rest.len() / MAX_CUTS + 1) {
            let partial = decode(&rest[..end]);
            assert!(previous == Ok(None) || partial == previous, "a longer prefix changes the outcome");
            if partial != Ok(None) {
                assert_eq!(partial, outcome, "the whole input changes the outcome");
            }
            previous = partial;
        }
        let Ok(Some((reply, length))) = outcome else { return };
        let value = Value::from(reply);
        assert!(value.is_within_bounds(0));
        assert_eq!(value.strip_encoding(&rest[..length]), Some(&[][..]), "another encoding");
        let shallowest = (0..=MAX_DEPTH).find(|&depth| decode_within(rest, depth) == outcome);
        let depths = value.depth(0)..=value.depth(1);
        assert!(shallowest.is_some_and(|least| depths.contains(&least)), "another depth");
        rest = &rest[length..];
    }
}

/// A reply that owns its bytes, independent of the decoder.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR`
    Error(Vec<u8>),
    /// `:1`
    Integer(i64),
    /// `$2`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1`
    Null,
    /// `*2`
    Array(Vec<Self>),
}

impl From<Reply<'_>> for Value {
    fn from(reply: Reply<'_>) -> Self {
        match reply {
            Reply::Simple(line) => Self::Simple(line.to_vec()),
            Reply::Error(line) => Self::Error(line.to_vec()),
            Reply::Integer(number) => Self::Integer(number),
            Reply::Bulk(bytes) => Self::Bulk(bytes.to_vec()),
            Reply::Null => Self::Null,
            Reply::Array(items) => {
                let count = items.len();
                let values: Vec<_> = items.map(Self::from).collect();
                assert_eq!(values.len(), count, "the announced number of items");
                Self::Array(values)
            }
        }
    }
}

impl Value {
    /// Returns the rest of `bytes` after the encoding of this value, or `None` if they do not begin with it.
    #[must_use]
    pub fn strip_encoding<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let line = |kind: &[u8], line: &[u8]| {
            let rest = bytes.strip_prefix(kind)?.strip_prefix(line)?.strip_prefix(b"\r\n")?;
            (!line.contains(&b'\r') && !line.contains(&b'\n')).then_some(rest)
        };
        let header = |kind: &[u8], number: i64| line(kind, number.to_string().as_bytes());
        match self {
            Self::Simple(text) => line(b"+", text),
            Self::Error(text) => line(b"-", text),
            Self::Integer(number) => header(b":", *number),
            Self::Bulk(content) => {
                header(b"$", content.len() as i64)?.strip_prefix(&content[..])?.strip_prefix(b"\r\n")
            }
            Self::Null => header(b"$", -1).or_else(|| header(b"*", -1)),
            Self::Array(values) => {
                let start = header(b"*", values.len() as i64)?;
                values.iter().try_fold(start, |rest, value| value.strip_encoding(rest))
            }
        }
    }

    /// Returns `true` if all lengths and the depth are within the limits of notch. `null` is the depth of a null: 1 for
    /// a null array, 0 for a null bulk string.
    #[must_use]
    pub fn is_within_bounds(&self, null: usize) -> bool {
        self.depth(null) <= MAX_DEPTH && self.is_short()
    }

    fn is_short(&self) -> bool {
        match self {
            Self::Simple(line) | Self::Error(line) => line.len() <= MAX_LINE,
            Self::Bulk(bytes) => bytes.len() <= MAX_BULK,
            Self::Array(values) => values.len() <= MAX_ITEMS && values.iter().all(Self::is_short),
            Self::Integer(_) | Self::Null => true,
        }
    }

    fn depth(&self, null: usize) -> usize {
        match self {
            Self::Array(values) => 1 + values.iter().map(|value| value.depth(null)).max().unwrap_or(0),
            Self::Null => null,
            _ => 0,
        }
    }
}
