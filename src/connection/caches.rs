//! Caches of one worker: the last request head with its meaning, and the last response head of a counted visit.

use super::responses::{PendingRequest, default_head};
use super::{ServerContext, WorkerContext};
use crate::badge::BadgeStyle;
use crate::cors::CorsDecision;
use crate::http::{self, Framing, Persistence, ResponseHead};
use crate::render::Format;
use crate::routes::RouteMatch;

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
    pub(super) badge_style: Option<Box<BadgeStyle>>,
}

/// Returns whether `bytes` begin with `prefix`, compared by words of eight bytes: musl compares byte by byte, which
/// takes as long as the rest of reading a cached head.
fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let Some(front) = bytes.get(..prefix.len()) else { return false };
    let ((words, rest), (prefix_words, prefix_rest)) = (front.as_chunks(), prefix.as_chunks());
    let is_equal = |(one, other): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other);
    words.iter().zip(prefix_words).all(is_equal) && rest == prefix_rest
}

/// The head of a response to a counted visit. It holds for one second and for one combination of format, CORS decision,
/// connection and body length.
pub(super) struct HeadCache {
    bytes: Vec<u8>,
    key: Option<(Format, CorsDecision, Persistence, usize)>,
}

impl HeadCache {
    pub(super) const EMPTY: Self = Self { bytes: Vec::new(), key: None };

    pub(super) fn clear(&mut self) {
        self.key = None;
    }
}

impl WorkerContext {
    /// Writes the response to a counted visit, as text or JSON.
    pub(super) fn write_count(
        &mut self,
        out: &mut Vec<u8>,
        request: &PendingRequest,
        context: &ServerContext,
        body: &[&[u8]],
    ) {
        let PendingRequest { route_match: RouteMatch { format, cors, .. }, persistence } = *request;
        let length = body.iter().map(|piece| piece.len()).sum();
        let (cache, key) = (&mut self.head_cache, Some((format, cors, persistence, length)));
        if cache.key != key {
            cache.key = key;
            cache.bytes.clear();
            let origin = context.origins.header_value(cors);
            let head = ResponseHead { origin, persistence, ..default_head(format) };
            http::write_head(&mut cache.bytes, &head, &self.date, &context.served_by, length);
        }
        out.reserve(cache.bytes.len() + length);
        out.extend_from_slice(&cache.bytes);
        body.iter().for_each(|piece| out.extend_from_slice(piece));
    }
}

/// Longest cached head in bytes: those of browsers are shorter.
const MAX_CACHED_HEAD: usize = 1024;
