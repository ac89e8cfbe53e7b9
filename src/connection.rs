//! One client's connection: requests in, responses out, and store commands between them.
//!
//! The driver calls [`HttpConnection::advance`] in a loop and does what the returned [`Need`] names; it sees nothing
//! else of HTTP. Requests are answered in order. Visits that a client has pipelined go to the store as one command,
//! since they only differ in the numbers that they get.
//!
//! ```text
//! Head ──> Body ──┬──────────────────> Head, or Closed
//!                 └─> AwaitingStore ─> Head, or Closed
//! any state but AwaitingStore, on an invalid or late request ──> Closed
//! ```

mod caches;
mod record;
mod responses;

use caches::{HeadCache, ParsedHead, RequestCache};
use record::PendingRecord;
pub use record::Record;
use responses::{PendingRequest, default_head};

use crate::badge::BadgeStyle;
use crate::buffers::Buffers;
use crate::cors::Origins;
use crate::counter::{Command, Counters, StoreError};
use crate::http::{self, Body, Framing, Persistence, RequestError, ResponseHead, Status};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::render::{Format, Welcome};
use crate::routes::{self, Handler, Route, RouteMatch};

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
    /// The metrics of all workers.
    pub metrics: Metrics,
    /// Whether each answered request is recorded, for the driver to log.
    pub records_requests: bool,
}

impl ServerContext {
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
    head_cache: HeadCache,
    /// The requests answered since the driver has last logged them, if they are recorded at all.
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
            head_cache: HeadCache::EMPTY,
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
        self.date = http::date(second);
        self.head_cache.clear();
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
    /// Nothing: the connection is to be closed once everything is sent.
    Close,
}

/// The state of one connection; it lives as long as its socket.
#[derive(Default)]
pub struct HttpConnection {
    state: State,
    /// The request that awaits its response, in [`State::Body`] and [`State::AwaitingStore`].
    request: PendingRequest,
    /// The style of the requested badge; boxed, since few connections draw any.
    badge_style: Option<Box<BadgeStyle>>,
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
    Closed,
}

impl HttpConnection {
    /// Processes the received bytes as far as possible.
    pub fn advance(&mut self, context: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) -> Need {
        loop {
            if buffers.pending().len() > MAX_PENDING {
                return Need::Room;
            }
            let step = match self.state {
                State::Head => self.read_head(context, worker, buffers),
                State::Body(body) => self.read_body(body, context, worker, buffers),
                State::AwaitingStore(_) => Ok(Some(Need::Store)),
                State::Closed => Ok(Some(Need::Close)),
            };
            match step {
                Ok(Some(need)) => return need,
                Ok(None) => {}
                Err(error) => self.reject(error, context, worker, buffers),
            }
        }
    }

    /// Returns the command for the store while the connection waits for [`Need::Store`].
    #[must_use]
    pub fn command(&self) -> Command {
        let visits = if let State::AwaitingStore(visits) = self.state { visits } else { 0 };
        match self.request.route_match.handler {
            Handler::Count(key) => Command::Increment { key, by: visits },
            Handler::Welcome(key) | Handler::Total(key) | Handler::Prefetch(key) => Command::Get { key },
            _ => Command::Ping,
        }
    }

    /// Takes the store's reply to [`Need::Store`] and writes the responses.
    pub fn complete(
        &mut self,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        let State::AwaitingStore(visits) = self.state else { return };
        if let Handler::Count(_) = self.request.route_match.handler {
            context.metrics(worker).record_visits(visits as u64, total);
        }
        for position in 1..visits {
            // The store returned the number of the last visit.
            let number = total.map(|total| total.wrapping_sub(visits - position));
            self.request.write_response(number, None, context, worker, buffers);
        }
        self.finish(total, context, worker, buffers);
    }

    /// Rejects a request that has begun and has not arrived whole in time.
    pub fn time_out(&mut self, context: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) {
        self.reject(http::REQUEST_TIMEOUT, context, worker, buffers);
    }

    fn read_head(
        &mut self,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Result<Option<Need>, &'static RequestError> {
        let (true, Some(ParsedHead { request, framing, used, badge_style })) =
            (self.parse_head(context, worker, buffers)?, &mut worker.request_cache.parsed)
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
        (self.request, self.badge_style) = (*request, badge_style.take());
        self.state = State::Body(framing.body);
        Ok(None)
    }

    /// Parses the next head into the cache of `worker`; returns whether it has arrived whole. An incomplete head is
    /// parsed again only after another line of it has arrived.
    fn parse_head(
        &mut self,
        context: &ServerContext,
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
            let route_match = routes::match_route(&head, &context.counters, &context.origins);
            let request = PendingRequest { route_match, persistence: persistence(&head.framing) };
            let badge_style = (route_match.format == Format::Badge).then(|| Box::new(BadgeStyle::new(head.query)));
            worker.request_cache.bytes.clear();
            if context.records_requests {
                self.record = Some(Box::new(PendingRecord::new(received, worker)));
            } else if badge_style.is_none() {
                worker.request_cache.store(&received[..used]);
            }
            worker.request_cache.parsed = Some(ParsedHead { request, framing: head.framing, used, badge_style });
            return Ok(true);
        }
        self.scanned = received.len();
        if buffers.is_full() { Err(http::overflow(received)) } else { Ok(false) }
    }

    fn read_body(
        &mut self,
        mut body: Body,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Result<Option<Need>, &'static RequestError> {
        let used = body.skip(buffers.received())?;
        buffers.consume(used);
        if !body.is_complete() {
            self.state = State::Body(body);
            return Ok(Some(Need::Bytes(self.requests + 1)));
        }
        if self.request.needs_store(worker) {
            self.state = State::AwaitingStore(self.coalesce_pipelined(context, worker, buffers));
        } else {
            self.finish(Ok(0), context, worker, buffers);
        }
        Ok(None)
    }

    /// Consumes the received requests that are equal to the current visit; returns the number of visits, at most
    /// [`MAX_COALESCED`]. Pages and badges are too large to be written many at once.
    fn coalesce_pipelined(
        &mut self,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> i64 {
        let mut visits = 1;
        while let Handler::Count(_) = self.request.route_match.handler
            && self.request.persistence != Persistence::Close
            && matches!(self.request.route_match.format, Format::Text | Format::Json)
            && visits < MAX_COALESCED
            && !context.records_requests
            && let (Ok(true), Some(parsed)) = (self.parse_head(context, worker, buffers), &worker.request_cache.parsed)
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

    /// Writes the last response that is due, and decides whether another request may follow.
    fn finish(
        &mut self,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        // Until `closing` is set, requests that have arrived are answered: a client that pipelines could not find out
        // which of them were processed.
        if worker.closing || (worker.draining && http::is_empty(buffers.received())) {
            self.request.persistence = Persistence::Close;
        }
        let badge_style = self.badge_style.take();
        let status = self.request.write_response(total, badge_style.as_deref(), context, worker, buffers);
        if context.records_requests {
            self.push_record(self.request.route_match.route, status, total.ok(), worker);
        }
        self.requests += 1;
        self.state = if self.request.persistence == Persistence::Close { State::Closed } else { State::Head };
    }

    /// Rejects a request, in the format that it prefers as far as that can be read, and without a body if it is a
    /// `HEAD`.
    fn reject(
        &mut self,
        error: &RequestError,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        if context.records_requests {
            self.record.get_or_insert_with(|| Box::new(PendingRecord::new(buffers.received(), worker)));
            self.push_record(Route::Refused, error.status, None, worker);
        }
        let route_match = match self.state {
            State::Head => {
                let head = http::parse_partial_head(buffers.received());
                routes::match_rejected(&head, &context.counters, &context.origins)
            }
            _ => RouteMatch { route: Route::Refused, handler: Handler::NotFound, ..self.request.route_match },
        };
        let persistence = Persistence::Close;
        let head = ResponseHead { status: error.status, persistence, ..default_head(route_match.format) };
        context.write_message(&route_match, head, [error.message, ""], worker, buffers);
        self.state = State::Closed;
    }

    /// Adds the record of the request, for the driver to log. Kept out of the hot path, since few servers record.
    #[cold]
    #[inline(never)]
    fn push_record(&mut self, route: Route, status: Status, number: Option<i64>, worker: &mut WorkerContext) {
        if let Some(pending) = self.record.take() {
            let PendingRecord { method, path, started } = *pending;
            let micros = worker.micros.saturating_sub(started);
            let handler = self.request.route_match.handler;
            let has_number = matches!(handler, Handler::Welcome(_) | Handler::Count(_) | Handler::Total(_));
            let number = number.filter(|_| has_number);
            worker.records.push(Record { method, path, route, status, number, micros });
        }
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
