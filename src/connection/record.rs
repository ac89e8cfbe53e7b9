//! Records of requests and their responses, for the log.

use super::WorkerContext;
use crate::http::{self, Status};
use crate::routes::Route;

/// The log record of a request and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The method, in printable ASCII, at most 16 bytes and an ellipsis.
    pub method: String,
    /// The path, in printable ASCII, at most 128 bytes and an ellipsis; without the query, which may hold anything.
    pub path: String,
    /// The route, as in the metrics.
    pub route: Route,
    /// The status of the response.
    pub status: Status,
    /// The visitor's number, or the total.
    pub number: Option<i64>,
    /// Microseconds from the parsing of the head to the writing of the response.
    pub micros: u64,
}

/// The record of a request without a response.
pub(super) struct PendingRecord {
    method: String,
    path: String,
    /// The time when the head was parsed, on the clock of [`WorkerContext::micros`].
    started: u64,
}

impl PendingRecord {
    pub(super) fn new(head: &[u8], worker: &WorkerContext) -> Self {
        let (method, path) = http::request_line(head);
        Self { method: printable(method, 16), path: printable(path, 128), started: worker.micros }
    }

    /// Returns the whole record; `now` is the time of its response in microseconds. Kept out of the hot path, since few
    /// servers record.
    #[cold]
    #[inline(never)]
    pub(super) fn finish(self, route: Route, status: Status, number: Option<i64>, now: u64) -> Record {
        let Self { method, path, started } = self;
        Record { method, path, route, status, number, micros: now.saturating_sub(started) }
    }
}

/// Returns the first `max` bytes, with a question mark for each that is not printable ASCII.
fn printable(bytes: &[u8], max: usize) -> String {
    let mut text = String::new();
    for &byte in bytes.iter().take(max) {
        text.push(if byte.is_ascii_graphic() { char::from(byte) } else { '?' });
    }
    if bytes.len() > max {
        text.push_str("...");
    }
    text
}
