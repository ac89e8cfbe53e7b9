//! Compares the RESP decoder of notch with that of the `redis-protocol` crate.
//!
//! - A reply that notch decodes has the same value and length there.
//! - A reply that is incomplete for notch is incomplete there.
//! - A reply that only `redis-protocol` decodes is not encoded as by Redis, or exceeds a limit of notch. It accepts
//!   `:+1`, `:01`, `:-0` and lengths like these; a CR or LF within a line; any two bytes after a bulk string; any
//!   length and depth.
//!
//! It rejects one kind of reply that notch accepts: an error that is not UTF-8.

use notch::resp::{Malformed, decode};
use redis_protocol::resp2::decode::decode as reference_decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::properties::resp::Value;

/// Passes if both decoders agree on the reply at the front of `data`.
pub fn agrees(data: &[u8]) {
    let reference = reference_decode(data).map(|found| found.map(|(frame, length)| (Value::from(frame), length)));
    match (decode(data), reference) {
        (Ok(Some((reply, length))), Ok(reference)) => assert_eq!(Some((Value::from(reply), length)), reference),
        (Ok(Some((reply, _))), Err(_)) => assert!(!is_utf8(&Value::from(reply)), "only notch accepts it"),
        (Ok(None), reference) => assert!(matches!(reference, Ok(None)), "only for notch it is incomplete"),
        (Err(Malformed), Ok(Some((value, length)))) => {
            assert!(
                value.strip_encoding(&data[..length]) != Some(&[]) || !value.is_within_bounds(1),
                "only redis-protocol accepts it"
            );
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
