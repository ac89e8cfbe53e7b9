//! Caches of one worker: the last request head with its meaning, and the last response to a counted visit.

use super::responses::{PendingRequest, Query};
use crate::cors::CorsDecision;
use crate::counter::Key;
use crate::decimal;
use crate::http::{Framing, Persistence};
use crate::render::Format;

/// The head that was parsed last. Equal bytes have an equal meaning, if they are stored.
pub(super) struct RequestCache {
    pub(super) bytes: Vec<u8>,
    pub(super) parsed: Option<ParsedHead>,
}

impl RequestCache {
    pub(super) const EMPTY: Self = Self { bytes: Vec::new(), parsed: None };

    /// Returns whether `received` begins with the stored head.
    pub(super) fn matches(&self, received: &[u8]) -> bool {
        !self.bytes.is_empty() && starts_with(received, &self.bytes)
    }

    /// Stores a head of at most [`MAX_CACHED_HEAD`] bytes.
    pub(super) fn store(&mut self, head: &[u8]) {
        if head.len() <= MAX_CACHED_HEAD {
            self.bytes.extend_from_slice(head);
        }
    }
}

/// A parsed request head.
pub(super) struct ParsedHead {
    pub(super) request: PendingRequest,
    pub(super) framing: Framing,
    /// Its length in bytes.
    pub(super) used: usize,
    /// What the handler needs of the query. A head with it is not stored.
    pub(super) query: Option<Box<Query>>,
}

/// Returns whether `bytes` begin with `prefix`, compared by words of eight bytes: musl compares byte by byte, which
/// takes as long as the rest of reading a cached head. The last word overlaps the one before it.
fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let Some(front) = bytes.get(..prefix.len()) else { return false };
    let ((words, _), (prefix_words, _)) = (front.as_chunks(), prefix.as_chunks());
    let is_equal = |one: &[u8; 8], other: &[u8; 8]| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other);
    words.iter().zip(prefix_words).all(|(one, other)| is_equal(one, other))
        && match (front.last_chunk(), prefix.last_chunk()) {
            (Some(one), Some(other)) => is_equal(one, other),
            // Shorter than a word.
            _ => front == prefix,
        }
}

/// The last response to a counted visit, as text or as an object. The next one in the same second differs only in its
/// number: if that has as many digits, the response is a copy in which they are overwritten.
pub(super) struct VisitCache {
    response: Vec<u8>,
    format: Format,
    cors: CorsDecision,
    persistence: Persistence,
    /// The counter, on which an object depends.
    key: Option<Key>,
    /// The least and the greatest number with as many digits. There is none between them if nothing is stored.
    numbers: (i64, i64),
    /// The bytes after the digits.
    suffix: usize,
    /// The number of digits.
    digits: usize,
}

impl VisitCache {
    pub(super) const EMPTY: Self = Self {
        response: Vec::new(),
        format: Format::Text,
        cors: CorsDecision::NotApplicable,
        persistence: Persistence::Open,
        key: None,
        numbers: (1, 0),
        suffix: 0,
        digits: 0,
    };

    /// Discards the response, when the date changes.
    pub(super) fn clear(&mut self) {
        self.numbers = (1, 0);
    }

    /// Appends the response to a visit, if it differs from the stored one only in its digits. Returns whether it does.
    pub(super) fn write(&self, request: &PendingRequest, key: &Key, number: i64, out: &mut Vec<u8>) -> bool {
        let PendingRequest { route_match, persistence } = request;
        if (route_match.format, route_match.cors, *persistence) != (self.format, self.cors, self.persistence)
            || !(self.numbers.0..=self.numbers.1).contains(&number)
            || (self.format != Format::Text && self.key.as_ref() != Some(key))
        {
            return false;
        }
        out.extend_from_slice(&self.response);
        let end = out.len() - self.suffix;
        decimal::overwrite(&mut out[end - self.digits..end], number as u64);
        true
    }

    /// Stores the response to a visit. The last digits in it are its number; a negative one is not stored.
    pub(super) fn store(&mut self, request: &PendingRequest, key: &Key, number: i64, response: &[u8]) {
        self.clear();
        let Some(last) = response.iter().rposition(u8::is_ascii_digit) else { return };
        if number < 0 {
            return;
        }
        let length = number.checked_ilog10().unwrap_or(0);
        let greatest = 10_i64.checked_pow(length + 1).map_or(i64::MAX, |next| next - 1);
        self.numbers = (if length == 0 { 0 } else { 10_i64.pow(length) }, greatest);
        (self.digits, self.suffix) = (length as usize + 1, response.len() - last - 1);
        (self.format, self.cors) = (request.route_match.format, request.route_match.cors);
        (self.persistence, self.key) = (request.persistence, Some(*key));
        self.response.clear();
        self.response.extend_from_slice(response);
    }
}

/// Longest cached head in bytes: those of browsers are shorter.
const MAX_CACHED_HEAD: usize = 1024;
