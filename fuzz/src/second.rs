//! A second opinion on RESP, from the `redis-protocol` crate.
//!
//! - What we read, it reads, and finds the same value of the same length.
//! - What we wait for, it waits for.
//! - What we refuse and it reads is not spelled as Redis spells it, or exceeds a bound of ours. It takes `:+1`, `:01`,
//!   `:-0` and lengths like these; a CR or LF within a line; any two bytes behind a bulk string; any length and depth.
//!
//! It refuses one thing that we take: an error that is not UTF-8.

use notch::resp::{Malformed, decode};
use redis_protocol::resp2::decode::decode as second;
use redis_protocol::resp2::types::OwnedFrame;

use crate::properties::resp::Value;

/// Passes if the two agree on the reply at the front of `data`.
pub fn agrees(data: &[u8]) {
    let theirs = second(data).map(|found| found.map(|(frame, used)| (Value::from(frame), used)));
    match (decode(data), theirs) {
        (Ok(Some((reply, used))), Ok(theirs)) => assert_eq!(Some((Value::from(reply), used)), theirs),
        (Ok(Some((reply, _))), Err(_)) => assert!(!is_utf8(&Value::from(reply)), "only we take it"),
        (Ok(None), theirs) => assert!(matches!(theirs, Ok(None)), "only we wait for more"),
        (Err(Malformed), Ok(Some((value, used)))) => {
            assert!(value.spelled(&data[..used]) != Some(&[]) || !value.is_within_bounds(1), "only they take it");
        }
        (Err(Malformed), Ok(None) | Err(_)) => {}
    }
}

fn is_utf8(value: &Value) -> bool {
    match value {
        Value::Error(line) => std::str::from_utf8(line).is_ok(),
        Value::Array(values) => values.iter().all(is_utf8),
        _ => true,
    }
}

impl From<OwnedFrame> for Value {
    fn from(frame: OwnedFrame) -> Self {
        match frame {
            OwnedFrame::SimpleString(line) => Self::Simple(line),
            OwnedFrame::Error(line) => Self::Error(line.into_bytes()),
            OwnedFrame::Integer(number) => Self::Integer(number),
            OwnedFrame::BulkString(bytes) => Self::Bulk(bytes),
            OwnedFrame::Array(frames) => Self::Array(frames.into_iter().map(Self::from).collect()),
            OwnedFrame::Null => Self::Null,
        }
    }
}
