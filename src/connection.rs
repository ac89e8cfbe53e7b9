//! One client's connection: requests in, responses out, and store commands between them.
//!
//! The driver calls [`HttpConnection::advance`] in a loop and does what the returned [`Need`] names; it contains
//! nothing else of HTTP. Responses have the order of the requests. Visits that a client has pipelined go to the store
//! as one command, since they only differ in the numbers that they get.
//!
//! ```text
//! Head ──> Body ──┬──────────────────> Head, or Closed
//!                 └─> AwaitingStore ─> Head, or Closed
//! any state but AwaitingStore, on an invalid or late request ──> Closed
//! ```
//!
//! A visit from bytes to bytes, with a store that replies 7:
//!
//! ```
//! use notch::buffers::Buffers;
//! use notch::connection::{HttpConnection, Need, ServerContext, WorkerContext};
//! use notch::counter::{Command, Counters, Key, Names};
//!
//! let key = Key::new(b"visits").expect("printable ASCII");
//! let mut server = ServerContext::new(Counters { main: key, names: Names::Any });
//! server.served_by = "web-1".to_owned();
//! let mut worker = WorkerContext::new();
//! worker.set_time(784_111_777);
//! let (mut connection, mut buffers) = (HttpConnection::default(), Buffers::default());
//!
//! // Part of a request arrives, then the rest.
//! buffers.receive(b"GET /count HTTP/1.1\r\nHo");
//! assert_eq!(connection.advance(&server, &mut worker, &mut buffers), Need::Bytes(1));
//! buffers.receive(b"st: localhost\r\n\r\n");
//! assert_eq!(connection.advance(&server, &mut worker, &mut buffers), Need::Store);
//!
//! // The driver sends the command to the store, and passes on the reply.
//! assert_eq!(connection.command(), Command::Increment { key, by: 1 });
//! connection.complete(Ok(7), &server, &mut worker, &mut buffers);
//! assert_eq!(connection.advance(&server, &mut worker, &mut buffers), Need::Request);
//! assert_eq!(
//!     String::from_utf8_lossy(buffers.pending()),
//!     "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
//!      Content-Length: 2\r\nCache-Control: no-store\r\nX-Served-By: web-1\r\n\r\n7\n"
//! );
//!
//! // The bytes were sent, and a request of an unknown version arrives: the connection closes after the response.
//! buffers.mark_sent(buffers.pending().len());
//! buffers.receive(b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n");
//! assert_eq!(connection.advance(&server, &mut worker, &mut buffers), Need::Close);
//! assert!(buffers.pending().starts_with(b"HTTP/1.1 505 HTTP Version Not Supported\r\n"));
//! ```

mod caches;
mod content;
mod record;
mod responses;

use caches::{ParsedHead, RequestCache, VisitCache};
use record::PendingRecord;
pub use record::Record;
use responses::{Outcome, PendingRequest, Query};

use crate::badge::BadgeStyle;
use crate::buffers::Buffers;
pub use crate::cors::Origins;
use crate::counter::{Command, Counters, Key, StoreError};
pub use crate::http::Status;
use crate::http::{self, Body, Framing, Persistence, RequestError};
use crate::metrics::{Metrics, ServerInfo, WorkerMetrics};
use crate::render::Format;
pub use crate::render::Welcome;
pub use crate::routes::Route;
use crate::routes::{self, Handler, Operation};

/// What all responses of a server have in common.
pub struct ServerContext {
    /// The counters of this server.
    pub counters: Counters,
    /// The origins whose pages may read the responses.
    pub origins: Origins,
    /// `X-Served-By`.
    pub served_by: String,
    /// The sentence of the start page.
    pub welcome: Welcome,
    /// After how many milliseconds an open page requests its total again; 0 for never.
    pub page_refresh: i64,
    /// The metrics of all workers.
    pub metrics: Metrics,
    /// Whether each request and its response are recorded, for the driver to log.
    pub records_requests: bool,
}

impl ServerContext {
    /// Returns the context of a server with one worker, whose pages no other origin may read. All fields may be changed
    /// before the server starts.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self {
            counters,
            origins: Origins::default(),
            served_by: "notch".to_owned(),
            welcome: Welcome::new("Welcome! Every visit counts."),
            page_refresh: 5000,
            metrics: Metrics::new(ServerInfo::default(), 1, false),
            records_requests: false,
        }
    }

    /// Returns the metrics of the current worker.
    fn metrics(&self, worker: &WorkerContext) -> &WorkerMetrics {
        self.metrics.worker(worker.index)
    }
}

/// What changes while a server runs. Each worker has its own, with caches of work that repeats: a client sends the same
/// head again byte by byte, and the responses of one second differ only in the number.
pub struct WorkerContext {
    second: Option<u64>,
    date: [u8; 29],
    request_cache: RequestCache,
    visit_cache: VisitCache,
    /// The records since the driver has last logged them, if there are any at all.
    pub records: Vec<Record>,
    /// The current time in microseconds since any fixed moment, if requests are recorded.
    pub micros: u64,
    /// The index of the worker.
    pub index: usize,
    /// The server is shutting down: `/readyz` returns 503, and a connection closes after the responses to all requests
    /// that have arrived.
    pub draining: bool,
    /// Connections close after the current response.
    pub closing: bool,
}

impl Default for WorkerContext {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerContext {
    /// Returns a context without a time.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            second: None,
            date: [b' '; 29],
            request_cache: RequestCache::EMPTY,
            visit_cache: VisitCache::EMPTY,
            records: Vec::new(),
            micros: 0,
            index: 0,
            draining: false,
            closing: false,
        }
    }

    /// Sets the time in seconds since 1970. The date is rendered once a second.
    pub fn set_time(&mut self, second: u64) {
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        self.date = http::format_date(second);
        self.visit_cache.clear();
    }
}

/// What a connection needs before it can advance. A driver sends the pending output before it waits for any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The first byte of a request.
    Request,
    /// More bytes of the request that has begun. The number differs for each request, because each has its own
    /// deadline.
    Bytes(u64),
    /// Room in the output: all pending output has to be sent first.
    Room,
    /// The store's reply to [`HttpConnection::command`], passed to [`HttpConnection::complete`].
    Store,
    /// The totals of [`HttpConnection::counters`], all read at once, passed to [`HttpConnection::complete_totals`].
    Totals,
    /// Nothing: the connection is to be closed once everything is sent.
    Close,
}

/// The state of one connection; it exists as long as its socket.
#[derive(Default)]
pub struct HttpConnection {
    state: State,
    /// The request that awaits its response, in [`State::Body`] and [`State::AwaitingStore`].
    request: PendingRequest,
    /// What the handler needs of the query; boxed, since few requests have it.
    query: Option<Box<Query>>,
    /// The log record of the request, if requests are recorded.
    record: Option<Box<PendingRecord>>,
    /// This many received bytes contain no whole head.
    scanned: usize,
    /// The number of finished requests; coalesced visits are one.
    requests: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    /// The store's reply is due for this many visits.
    AwaitingStore(i64),
    /// The totals of [`Query::Totals`] are due.
    AwaitingTotals,
    Closed,
}

impl HttpConnection {
    /// Processes the received bytes as far as possible.
    pub fn advance(&mut self, server: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) -> Need {
        loop {
            if buffers.pending().len() > MAX_PENDING {
                return Need::Room;
            }
            let step = match self.state {
                State::Head => self.read_head(server, worker, buffers),
                State::Body(body) => self.read_body(body, server, worker, buffers),
                State::AwaitingStore(_) => Ok(Some(Need::Store)),
                State::AwaitingTotals => Ok(Some(Need::Totals)),
                State::Closed => Ok(Some(Need::Close)),
            };
            match step {
                Ok(Some(need)) => return need,
                Ok(None) => {}
                Err(error) => self.reject(error, server, worker, buffers),
            }
        }
    }

    /// Returns the command for the store while the connection waits for [`Need::Store`].
    #[must_use]
    pub fn command(&self) -> Command {
        let visits = if let State::AwaitingStore(visits) = self.state { visits } else { 0 };
        self.request.route_match.handler.command(visits)
    }

    /// Takes the store's reply to [`Need::Store`] and writes the responses.
    pub fn complete(
        &mut self,
        total: Result<i64, StoreError>,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        let State::AwaitingStore(visits) = self.state else { return };
        if self.request.route_match.handler.is_visit() {
            server.metrics(worker).record_visits(visits as u64, total);
        }
        for position in 1..visits {
            // The store returned the number of the last visit.
            let number = total.map(|total| total.wrapping_sub(visits - position));
            if let Some(outcome) = self.request.outcome(Some(number), None, worker.draining) {
                self.request.write_response(outcome, server, worker, buffers.output());
            }
        }
        self.finish(Some(total), server, worker, buffers);
    }

    /// Returns the counters whose totals are read while the connection waits for [`Need::Totals`], at most 32.
    #[must_use]
    pub fn counters(&self) -> &[Key] {
        if let Some(Query::Totals(keys, _)) = self.query.as_deref() { keys } else { &[] }
    }

    /// Takes the totals for [`Need::Totals`], in the order of [`HttpConnection::counters`], or why there are none, and
    /// writes the response.
    pub fn complete_totals(
        &mut self,
        totals: Result<Vec<i64>, StoreError>,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        let reply = totals.map(|read| {
            if let Some(Query::Totals(_, totals)) = self.query.as_deref_mut() {
                *totals = read;
            }
            0
        });
        self.finish(Some(reply), server, worker, buffers);
    }

    /// Rejects a request that has begun and has not arrived whole in time.
    pub fn time_out(&mut self, server: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) {
        self.reject(http::REQUEST_TIMEOUT, server, worker, buffers);
    }

    fn read_head(
        &mut self,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Result<Option<Need>, &'static RequestError> {
        let (true, Some(ParsedHead { request, framing, used, query })) =
            (self.parse_head(server, worker, buffers)?, &mut worker.request_cache.parsed)
        else {
            return Ok(Some(if buffers.received().is_empty() {
                Need::Request
            } else {
                Need::Bytes(self.requests + 1)
            }));
        };
        buffers.consume(*used);
        if framing.expect_continue && buffers.received().is_empty() {
            http::write_continue(buffers.output());
        }
        (self.request, self.query) = (*request, query.take());
        self.state = State::Body(framing.body);
        Ok(None)
    }

    /// Parses the next head into the cache of `worker`; returns whether it has arrived whole. An incomplete head is
    /// parsed again only after another line of it has arrived.
    fn parse_head(
        &mut self,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &Buffers,
    ) -> Result<bool, &'static RequestError> {
        let received = buffers.received();
        if worker.request_cache.matches(received) {
            self.scanned = 0;
            return Ok(true);
        }
        if received.get(self.scanned..).is_some_and(|new| new.contains(&b'\n'))
            && let Some((head, used)) = http::parse_head(received)?
        {
            self.scanned = 0;
            let mut route_match = routes::match_route(&head, &server.counters, &server.origins);
            let query = match route_match.handler {
                Handler::Counter(_, Operation::Badge(_)) if !head.query.is_empty() => {
                    Some(Box::new(Query::Badge(BadgeStyle::new(head.query))))
                }
                Handler::Totals => match routes::named_counters(head.query, &server.counters) {
                    Ok(keys) => Some(Box::new(Query::Totals(keys, Vec::new()))),
                    Err(error) => {
                        route_match.handler = Handler::Error(error);
                        None
                    }
                },
                _ => None,
            };
            let request = PendingRequest { route_match, persistence: persistence(&head.framing) };
            worker.request_cache.bytes.clear();
            if server.records_requests {
                self.record = Some(Box::new(PendingRecord::new(received, worker)));
            } else if query.is_none() {
                worker.request_cache.store(&received[..used]);
            }
            worker.request_cache.parsed = Some(ParsedHead { request, framing: head.framing, used, query });
            return Ok(true);
        }
        self.scanned = received.len();
        if buffers.is_full() { Err(http::overflow_error(received)) } else { Ok(false) }
    }

    fn read_body(
        &mut self,
        mut body: Body,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Result<Option<Need>, &'static RequestError> {
        let used = body.skip(buffers.received())?;
        buffers.consume(used);
        if !body.is_complete() {
            self.state = State::Body(body);
            return Ok(Some(Need::Bytes(self.requests + 1)));
        }
        if self.request.outcome(None, None, worker.draining).is_some() {
            self.finish(None, server, worker, buffers);
        } else if self.request.route_match.handler == Handler::Totals {
            self.state = State::AwaitingTotals;
        } else {
            self.state = State::AwaitingStore(self.coalesce_pipelined(server, worker, buffers));
        }
        Ok(None)
    }

    /// Consumes the received requests that are equal to the current visit; returns the number of visits, at most
    /// [`MAX_COALESCED`]. Pages and badges are too large to be written many at once.
    fn coalesce_pipelined(&mut self, server: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) -> i64 {
        let mut visits = 1;
        while !buffers.received().is_empty()
            && let Handler::Counter(_, Operation::Count) = self.request.route_match.handler
            && self.request.persistence != Persistence::Close
            && self.request.route_match.format != Format::Html
            && visits < MAX_COALESCED
            && !server.records_requests
            && let (Ok(true), Some(parsed)) = (self.parse_head(server, worker, buffers), &worker.request_cache.parsed)
            && parsed.request == self.request
            && parsed.framing.body.is_complete()
        {
            buffers.consume(parsed.used);
            visits += 1;
        }
        // A request that was not consumed has to be parsed again.
        self.scanned = 0;
        visits
    }

    /// Writes the last response that is due, and decides whether another request may follow. `reply` is that of the
    /// store, if the response depends on it.
    fn finish(
        &mut self,
        reply: Option<Result<i64, StoreError>>,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        // Until `closing` is set, requests that have arrived get a response: a client that pipelines could not find out
        // which of them were processed.
        if worker.closing || (worker.draining && http::is_blank(buffers.received())) {
            self.request.persistence = Persistence::Close;
        }
        let query = self.query.take();
        let Some(outcome) = self.request.outcome(reply, query.as_deref(), worker.draining) else { return };
        let status = self.request.write_response(outcome, server, worker, buffers.output());
        if let Some(record) = self.record.take() {
            worker.records.push(record.finish(self.request.route_match.route, status, outcome.number(), worker.micros));
        }
        self.requests += 1;
        self.state = if self.request.persistence == Persistence::Close { State::Closed } else { State::Head };
    }

    /// Rejects a request, in the format that it prefers as far as that can be read, and without a body if it is a
    /// `HEAD`.
    fn reject(
        &mut self,
        error: &'static RequestError,
        server: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        let route_match = match self.state {
            State::Head => {
                let head = http::parse_partial_head(buffers.received());
                routes::match_rejected(&head, &server.counters, &server.origins)
            }
            _ => self.request.route_match.rejected(),
        };
        if server.records_requests {
            let record = self.record.take().unwrap_or_else(|| Box::new(PendingRecord::new(buffers.received(), worker)));
            worker.records.push(record.finish(Route::Refused, error.status, None, worker.micros));
        }
        self.request = PendingRequest { route_match, persistence: Persistence::Close };
        let outcome = Outcome::Rejected(self.request.route_match.format, error);
        self.request.write_response(outcome, server, worker, buffers.output());
        self.state = State::Closed;
    }
}

/// Returns whether the connection stays open after this request.
fn persistence(framing: &Framing) -> Persistence {
    match (framing.keep_alive, framing.is_http10) {
        (true, false) => Persistence::Open,
        (true, true) => Persistence::KeepAlive,
        (false, _) => Persistence::Close,
    }
}

/// With more bytes than this unsent, a client that does not read gets no further responses written.
const MAX_PENDING: usize = 16 * 1024;

/// Most pipelined visits in one command; their responses are written at once.
const MAX_COALESCED: i64 = 64;

#[cfg(test)]
mod tests;
