//! Anything at all given to the decoder of RESP.
//!
//! - What a longer piece of the same bytes says, a shorter one has said or not known: what is whole stays the same
//!   reply of the same length, what is refused stays refused, and no piece of a good reply is refused.
//! - A reply is spelled in one way only: written anew, it gives the bytes that it was read from.
//! - An array has as many items as it says, and is no deeper than it may be.

use notch::resp::{MAX_BULK, MAX_DEPTH, MAX_ITEMS, MAX_LINE, Reply, decode, decode_within};

/// Up to so many bytes, every piece from the first byte on is tried; of more, only some.
const MAX_CUTS: usize = 300;

/// `data` is a row of replies.
pub fn holds(data: &[u8]) {
    let mut rest = data;
    loop {
        let outcome = decode(rest);
        let mut known = Ok(None);
        for end in (0..rest.len()).step_by(rest.len() / MAX_CUTS + 1) {
            let sooner = decode(&rest[..end]);
            assert!(known == Ok(None) || sooner == known, "it takes back what it said");
            if sooner != Ok(None) {
                assert_eq!(sooner, outcome, "it says something else of the whole");
            }
            known = sooner;
        }
        let Ok(Some((reply, used))) = outcome else { return };
        let value = Value::from(reply);
        assert!(value.is_within_bounds(0));
        assert_eq!(value.spelled(&rest[..used]), Some(&[][..]), "another spelling");
        let shallowest = (0..=MAX_DEPTH).find(|&depth| decode_within(rest, depth) == outcome);
        let depths = value.depth(0)..=value.depth(1);
        assert!(shallowest.is_some_and(|least| depths.contains(&least)), "deeper than it was told");
        rest = &rest[used..];
    }
}

/// A reply that owns its bytes, whoever has read it.
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
                assert_eq!(values.len(), count, "as many as announced");
                Self::Array(values)
            }
        }
    }
}

impl Value {
    /// What is left of `bytes` behind this value, if they begin with it as Redis would write it.
    #[must_use]
    pub fn spelled<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
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
                values.iter().try_fold(start, |rest, value| value.spelled(rest))
            }
        }
    }

    /// Whether no part of it is longer than we take, and no array deeper, if a null is `null` deep: that of arrays
    /// counts as one.
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
