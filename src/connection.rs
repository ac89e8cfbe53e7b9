//! One client's connection: requests in, answers out, and in between a question to the store.
//!
//! The driver calls [`HttpConnection::advance`] and does what it [`Need`]s, over and over; that is all it ever sees of HTTP.
//! Requests are answered in order. Visits that a client has pipelined go to the store as one ask, since they need only
//! be told apart when their numbers are there.

use crate::badge::{self, BadgeStyle};
use crate::buffers::Buffers;
use crate::cors::{CorsDecision, Origins};
use crate::counter::{Command, Counters, Key, Names, Rejection, StoreError};
use crate::decimal::Decimal;
use crate::http::{self, Body, Connection, Framing, RequestError, ResponseHead, Status};
use crate::metrics::{self, Metrics, WorkerMetrics};
use crate::render::{self, Format, Page, Welcome};
use crate::routes::{self, Handler, Route, RouteMatch};

/// What all answers of a server have in common.
pub struct ServerContext {
    /// What is counted here.
    pub counters: Counters,
    /// Whose pages may read it.
    pub origins: Origins,
    /// `X-Served-By`.
    pub served_by: String,
    /// The sentence of the start page.
    pub welcome: Welcome,
    /// What has been done so far; the driver knows who will do it.
    pub metrics: Metrics,
    /// Whether each request that was answered is recorded, for the driver to log.
    pub records_requests: bool,
}

impl ServerContext {
    /// Where to note what is done now.
    fn metrics(&self, worker: &WorkerContext) -> &WorkerMetrics {
        self.metrics.worker(worker.index)
    }

    /// Writes an answer, and notes that it is there.
    fn write_response(
        &self,
        plan: &RouteMatch,
        answer: ResponseHead<'_>,
        body: &[&[u8]],
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let (origin, bare) = (self.origins.header_value(plan.share), plan.bare);
        let answer = ResponseHead { origin, head_only: bare, unsized_body: plan.is_another_number(), ..answer };
        http::write_response(buffers.output(), &answer, &worker.date, &self.served_by, body);
        self.metrics(worker).record_response(plan.route, answer.status);
        answer.status
    }

    /// Writes an answer that has words and no number: a line, or a page where a browser asks and it is an error.
    fn write_message(
        &self,
        plan: &RouteMatch,
        answer: ResponseHead<'_>,
        words: [&str; 2],
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let is_error = answer.status != Status::Ok;
        if plan.form == Format::Html && is_error {
            let page = render::error_page(answer.status.line(), words, &self.served_by);
            let (media, policy) = (Some(plan.form.media()), Some(render::POLICY));
            return self.write_response(plan, ResponseHead { media, policy, ..answer }, &[&page], worker, buffers);
        }
        let form = if plan.form == Format::Json { Format::Json } else { Format::Text };
        let body = render::line(form, if is_error { "error" } else { "status" }, words);
        self.write_response(plan, ResponseHead { media: Some(form.media()), ..answer }, &body, worker, buffers)
    }
}

/// What changes while a server runs, and the answers along with it. Each worker has its own, and keeps in it what it
/// need not work out again: a client repeats its request to the byte, and of the answers of one second all but the
/// number is alike.
pub struct WorkerContext {
    second: Option<u64>,
    date: [u8; 29],
    request_cache: RequestCache,
    head_cache: HeadCache,
    /// The requests answered since the driver has logged them, if they are recorded at all.
    pub records: Vec<Record>,
    /// Microseconds since whenever, if requests are recorded: the time that a request is read or answered.
    pub micros: u64,
    /// Whose now it is.
    pub index: usize,
    /// The server is about to go: it says so at `/readyz`, and connections close after the answer to what has come.
    pub draining: bool,
    /// Connections close after the answer under way.
    pub closing: bool,
}

impl Default for WorkerContext {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerContext {
    /// No time yet.
    #[must_use]
    pub const fn new() -> Self {
        let heard = RequestCache { bytes: Vec::new(), read: None };
        let said = HeadCache { bytes: Vec::new(), of: None };
        Self {
            second: None,
            date: [b' '; 29],
            request_cache: heard,
            head_cache: said,
            records: Vec::new(),
            micros: 0,
            index: 0,
            draining: false,
            closing: false,
        }
    }

    /// Sets the time in seconds since 1970. The date is rendered once a second.
    pub fn set(&mut self, second: u64) {
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        self.date = http::date(second);
        self.head_cache.of = None;
    }

    /// Writes the answer to a visit that was counted, as text or JSON.
    fn write_count(&mut self, out: &mut Vec<u8>, turn: &PendingRequest, context: &ServerContext, body: &[&[u8]]) {
        let PendingRequest { plan: RouteMatch { form, share, .. }, connection } = *turn;
        let length = body.iter().map(|piece| piece.len()).sum();
        let (said, of) = (&mut self.head_cache, Some((form, share, connection, length)));
        if said.of != of {
            said.of = of;
            said.bytes.clear();
            let answer = ResponseHead { origin: context.origins.header_value(share), connection, ..plain(form) };
            http::write_head(&mut said.bytes, &answer, &self.date, &context.served_by, length);
        }
        out.reserve(said.bytes.len() + length);
        out.extend_from_slice(&said.bytes);
        body.iter().for_each(|piece| out.extend_from_slice(piece));
    }
}

/// The head that was read last, and what it asks for. The same bytes ask for the same, if they are kept.
struct RequestCache {
    bytes: Vec<u8>,
    read: Option<Read>,
}

impl RequestCache {
    /// Whether this is the same head again.
    fn lookup(&self, unread: &[u8]) -> bool {
        !self.bytes.is_empty() && starts_with(unread, &self.bytes)
    }

    fn store(&mut self, head: &[u8]) {
        if head.len() <= MAX_KEPT {
            self.bytes.extend_from_slice(head);
        }
    }
}

/// A head as it was read.
struct Read {
    request: PendingRequest,
    framing: Framing,
    /// How many bytes it took.
    used: usize,
    look: Option<Box<BadgeStyle>>,
}

/// Whether `bytes` begin with these, compared by words: musl compares byte by byte, which takes as long as all the rest
/// of reading a head that is known.
fn starts_with(bytes: &[u8], these: &[u8]) -> bool {
    let Some(front) = bytes.get(..these.len()) else { return false };
    let ((words, rest), (other_words, other_rest)) = (front.as_chunks(), these.as_chunks());
    let same = |(one, other): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other);
    words.iter().zip(other_words).all(same) && rest == other_rest
}

/// The head of an answer to a counted visit: its form, who may read it, and how long its body is. It holds for a
/// second.
struct HeadCache {
    bytes: Vec<u8>,
    of: Option<(Format, CorsDecision, Connection, usize)>,
}

/// What a log says of a request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its method, in printable ASCII and not longer than 16 bytes.
    pub method: String,
    /// Where it went, in printable ASCII and not longer than 128 bytes; without its query, which may hold anything.
    pub path: String,
    /// The same as metrics tell it.
    pub route: Route,
    /// What was answered.
    pub status: Status,
    /// The visitor's number, or the total.
    pub number: Option<i64>,
    /// Microseconds from the reading of its head to the writing of its answer.
    pub micros: u64,
}

/// A request that is to be recorded, before it has its answer.
struct PendingRecord {
    method: String,
    path: String,
    since: u64,
}

impl PendingRecord {
    fn new(head: &[u8], worker: &WorkerContext) -> Self {
        let (method, path) = http::request_line(head);
        Self { method: printable(method, 16), path: printable(path, 128), since: worker.micros }
    }
}

/// So many bytes of these, with a question mark for each that is not plain.
fn printable(bytes: &[u8], most: usize) -> String {
    let mut shown = String::new();
    for &byte in bytes.iter().take(most) {
        shown.push(if byte.is_ascii_graphic() { char::from(byte) } else { '?' });
    }
    if bytes.len() > most {
        shown.push_str("...");
    }
    shown
}

/// What an exchange needs before it can go on. Before it waits for any of this, a driver sends what is unsent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The first byte of a request.
    Request,
    /// More bytes of the request that has begun. The number is another for each, because each has a time of its own.
    Bytes(u64),
    /// Room in the output: everything unsent has to be sent first.
    Room,
    /// The store's answer to [`HttpConnection::command`], by [`HttpConnection::complete`].
    Store,
    /// Nothing more: the connection is to be closed once everything is sent.
    Close,
}

/// The state of one connection; it lives as long as its socket.
#[derive(Default)]
pub struct HttpConnection {
    state: State,
    /// The request whose answer is due, in any state but the first and the last.
    turn: PendingRequest,
    /// How the badge looks that is to be drawn; in a box, since few connections draw any.
    look: Option<Box<BadgeStyle>>,
    /// What is to be recorded of the request, if it is.
    record: Option<Box<PendingRecord>>,
    /// So much of what is unread holds no whole head.
    searched: usize,
    /// Turns finished: requests, or runs of visits.
    requests: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    /// The store is asked for so many visits.
    AwaitingStore(i64),
    Closed,
}

/// A request, as far as its answer depends on it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct PendingRequest {
    plan: RouteMatch,
    connection: Connection,
}

impl HttpConnection {
    /// Goes on as far as it can with the bytes that are there.
    pub fn advance(&mut self, context: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) -> Need {
        loop {
            if buffers.pending().len() > MAX_UNSENT {
                return Need::Room;
            }
            let step = match self.state {
                State::Head => self.head(context, worker, buffers),
                State::Body(body) => self.body(body, context, worker, buffers),
                State::AwaitingStore(_) => Ok(Some(Need::Store)),
                State::Closed => Ok(Some(Need::Close)),
            };
            match step {
                Ok(Some(want)) => return want,
                Ok(None) => {}
                Err(reject) => self.refuse(reject, context, worker, buffers),
            }
        }
    }

    /// What the store is asked while the exchange waits for [`Need::Store`].
    #[must_use]
    pub fn command(&self) -> Command {
        let visits = if let State::AwaitingStore(visits) = self.state { visits } else { 0 };
        match self.turn.plan.act {
            Handler::Count(key) => Command::Increment { key, by: visits },
            Handler::Welcome(key) | Handler::Total(key) | Handler::Prefetch(key) => Command::Get { key },
            _ => Command::Ping,
        }
    }

    /// Takes the store's answer to [`Need::Store`].
    pub fn complete(
        &mut self,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        let State::AwaitingStore(visits) = self.state else { return };
        if let Handler::Count(_) = self.turn.plan.act {
            context.metrics(worker).record_visits(visits as u64, total);
        }
        for place in 1..visits {
            // The store gave the number of the last.
            self.turn.answer(total.map(|total| total.wrapping_sub(visits - place)), None, context, worker, buffers);
        }
        self.finish(total, context, worker, buffers);
    }

    /// Refuses a request that has begun and does not come to its end in time.
    pub fn time_out(&mut self, context: &ServerContext, worker: &mut WorkerContext, buffers: &mut Buffers) {
        self.refuse(http::REQUEST_TIMEOUT, context, worker, buffers);
    }

    fn head(
        &mut self,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Result<Option<Need>, &'static RequestError> {
        let (true, Some(Read { request: turn, framing, used, look })) =
            (self.read(context, worker, buffers)?, &mut worker.request_cache.read)
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
        (self.turn, self.look) = (*turn, look.take());
        self.state = State::Body(framing.body);
        Ok(None)
    }

    /// Reads the next head, if it is there, and leaves it with `now`. Half a head is not read again before another line of
    /// it has come.
    fn read(
        &mut self,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &Buffers,
    ) -> Result<bool, &'static RequestError> {
        let unread = buffers.received();
        if worker.request_cache.lookup(unread) {
            self.searched = 0;
            return Ok(true);
        }
        if unread.get(self.searched..).is_some_and(|new| new.contains(&b'\n'))
            && let Some((head, used)) = http::parse_head(unread)?
        {
            self.searched = 0;
            let plan = routes::match_route(&head, &context.counters, &context.origins);
            let turn = PendingRequest { plan, connection: connection(&head.framing) };
            let look = (plan.form == Format::Badge).then(|| Box::new(BadgeStyle::new(head.query)));
            worker.request_cache.bytes.clear();
            if context.records_requests {
                self.record = Some(Box::new(PendingRecord::new(unread, worker)));
            } else if look.is_none() {
                worker.request_cache.store(&unread[..used]);
            }
            worker.request_cache.read = Some(Read { request: turn, framing: head.framing, used, look });
            return Ok(true);
        }
        self.searched = unread.len();
        if buffers.is_full() { Err(http::overflow(unread)) } else { Ok(false) }
    }

    fn body(
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
        if self.turn.commands(worker) {
            self.state = State::AwaitingStore(self.coalesce_pipelined(context, worker, buffers));
        } else {
            self.finish(Ok(0), context, worker, buffers);
        }
        Ok(None)
    }

    /// Takes the requests behind a visit that are just like it, and says how many visits it then is. Pages and
    /// badges are too large to be written many at once.
    fn coalesce_pipelined(
        &mut self,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> i64 {
        let mut visits = 1;
        while let Handler::Count(_) = self.turn.plan.act
            && self.turn.connection != Connection::Close
            && matches!(self.turn.plan.form, Format::Text | Format::Json)
            && visits < MAX_RUN
            && !context.records_requests
            && let (Ok(true), Some(read)) = (self.read(context, worker, buffers), &worker.request_cache.read)
            && read.request == self.turn
            && read.framing.body.is_complete()
        {
            buffers.consume(read.used);
            visits += 1;
        }
        // What was not taken has to be read again.
        self.searched = 0;
        visits
    }

    /// Writes the last answer that is due, and decides whether another request may follow.
    fn finish(
        &mut self,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        // What has come already is answered first, as long as there is time: a client that sends several requests at once
        // would have to guess which of them were heard.
        if worker.closing || (worker.draining && http::is_empty(buffers.received())) {
            self.turn.connection = Connection::Close;
        }
        let status = self.turn.answer(total, self.look.take().as_deref(), context, worker, buffers);
        if context.records_requests {
            self.record(self.turn.plan.route, status, total.ok(), worker);
        }
        self.requests += 1;
        self.state = if self.turn.connection == Connection::Close { State::Closed } else { State::Head };
    }

    /// Refuses a request, in the form that it prefers as far as that can be read, and without a body if it is a `HEAD`.
    fn refuse(
        &mut self,
        reject: &RequestError,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) {
        if context.records_requests {
            self.record.get_or_insert_with(|| Box::new(PendingRecord::new(buffers.received(), worker)));
            self.record(Route::Refused, reject.status, None, worker);
        }
        let plan = match self.state {
            State::Head => {
                routes::refused(&http::parse_partial_head(buffers.received()), &context.counters, &context.origins)
            }
            _ => RouteMatch { route: Route::Refused, act: Handler::Unknown, ..self.turn.plan },
        };
        let answer = ResponseHead { status: reject.status, connection: Connection::Close, ..plain(plan.form) };
        context.write_message(&plan, answer, [reject.message, ""], worker, buffers);
        self.state = State::Closed;
    }

    /// Leaves it to the driver to log what was answered. Out of the way of those who need it not.
    #[cold]
    #[inline(never)]
    fn record(&mut self, route: Route, status: Status, number: Option<i64>, worker: &mut WorkerContext) {
        if let Some(noted) = self.record.take() {
            let PendingRecord { method, path, since } = *noted;
            let micros = worker.micros.saturating_sub(since);
            let is_counter = matches!(self.turn.plan.act, Handler::Welcome(_) | Handler::Count(_) | Handler::Total(_));
            let number = number.filter(|_| is_counter);
            worker.records.push(Record { method, path, route, status, number, micros });
        }
    }
}

impl PendingRequest {
    /// Whether the store has to be asked. A server that is about to go is not ready, whatever the store says.
    fn commands(&self, worker: &WorkerContext) -> bool {
        match self.plan.act {
            Handler::Welcome(_) | Handler::Count(_) | Handler::Total(_) => true,
            Handler::Ready => !worker.draining,
            // A badge is drawn all the same: the images of a prerendered page are not requested again at the visit.
            Handler::Prefetch(_) => self.plan.form == Format::Badge,
            _ => false,
        }
    }

    /// Writes the page of a counter.
    fn page(
        &self,
        key: &Key,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { act, form, .. } = self.plan;
        let (status, [what, why]) = match (act, total) {
            (Handler::Welcome(_), Err(error)) => (Status::Ok, ["no count right now: ", render::error_message(error)]),
            (_, Err(_)) => said(&act, total, worker.draining),
            (Handler::Count(_), Ok(_)) => (Status::Ok, ["", ""]),
            (_, Ok(1)) => (Status::Ok, ["visit so far", ""]),
            (_, Ok(_)) => (Status::Ok, ["visits so far", ""]),
        };
        let number = total.map(Decimal::new);
        let names: &[_] = match (act, &context.counters.names) {
            (Handler::Welcome(_), Names::List(names)) => names,
            _ => &[],
        };
        let page = Page {
            welcome: &context.welcome,
            before: if let (Handler::Count(_), Ok(_)) = (act, total) { "You are visitor" } else { "" },
            number: number.as_deref().unwrap_or_default(),
            after: [what, why],
            name: context.counters.name_of(key),
            names,
            replica: &context.served_by,
        };
        let policy = Some(render::POLICY);
        let answer = ResponseHead { status, policy, connection: self.connection, ..plain(form) };
        context.write_response(&self.plan, answer, &[&page.html()], worker, buffers)
    }

    /// Writes a badge. Browsers draw it whatever the status, which is that of the text.
    fn badge(
        &self,
        total: Result<i64, StoreError>,
        look: &BadgeStyle,
        context: &ServerContext,
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { act, form, .. } = self.plan;
        let status = match (act, total) {
            (Handler::Count(_) | Handler::Total(_), Ok(_)) => Status::Ok,
            _ => said(&act, total, worker.draining).0,
        };
        let policy = Some("default-src 'none'");
        let answer =
            ResponseHead { status, policy, cache: NOT_EVEN_BY_PROXIES, connection: self.connection, ..plain(form) };
        let drawing = look.svg(total.map(Decimal::new).as_deref().ok());
        context.write_response(&self.plan, answer, &[&drawing], worker, buffers)
    }

    /// Writes the answer; `total` is the store's, where it was asked, and `look` that of a badge.
    fn answer(
        &self,
        total: Result<i64, StoreError>,
        look: Option<&BadgeStyle>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { ref act, route, form, .. } = self.plan;
        if let (Format::Html, Handler::Welcome(key) | Handler::Count(key) | Handler::Total(key)) = (form, act) {
            return self.page(key, total, context, worker, buffers);
        }
        if let Some(look) = look {
            return self.badge(total, look, context, worker, buffers);
        }
        let number = total.map(Decimal::new);
        if let (Handler::Count(key), Ok(number)) = (act, &number) {
            worker.write_count(buffers.output(), self, context, &render::count(form, key, number));
            context.metrics(worker).record_response(route, Status::Ok);
            return Status::Ok;
        }
        let page;
        let mut answer = ResponseHead { connection: self.connection, ..plain(form) };
        let body = match (act, &number) {
            (Handler::Welcome(key), number) => context.welcome.lines(form, key, number),
            (Handler::Total(_), Err(_)) if form == Format::Shield => {
                answer.status = said(act, total, worker.draining).0;
                render::shield(badge::UNAVAILABLE.as_bytes(), b"lightgrey")
            }
            (Handler::Total(key), Ok(number)) => render::count(form, key, number),
            (Handler::Icon, _) => {
                answer = ResponseHead { status: Status::NoContent, media: None, cache: A_DAY, ..answer };
                render::Body::new(&[])
            }
            (Handler::Metrics, _) => {
                answer.media = Some(metrics::MEDIA);
                page = context.metrics.page();
                render::Body::new(&[&page])
            }
            (&Handler::Preflight(methods), _) => {
                answer = ResponseHead { status: Status::NoContent, media: None, allow: Some(methods), ..answer };
                render::Body::new(&[])
            }
            (Handler::Robots, _) => {
                answer = ResponseHead { media: Some(Format::Text.media()), cache: A_DAY, ..answer };
                render::Body::new(&[ROBOTS])
            }
            _ => {
                let (status, words) = said(act, total, worker.draining);
                answer.status = status;
                if let Handler::Allow(methods) = *act {
                    answer.allow = Some(methods);
                }
                return context.write_message(&self.plan, answer, words, worker, buffers);
            }
        };
        context.write_response(&self.plan, answer, &body, worker, buffers)
    }
}

/// What is said in one line: how it is, or what is wrong and what to do.
fn said(act: &Handler, total: Result<i64, StoreError>, leaving: bool) -> (Status, [&'static str; 2]) {
    match (act, total) {
        (Handler::Live, _) => (Status::Ok, ["alive", ""]),
        (Handler::Ready, _) if leaving => (Status::ServiceUnavailable, ["not ready: this server is about to go", ""]),
        (Handler::Ready, Ok(_)) => (Status::Ok, ["ready", ""]),
        (Handler::Ready, Err(error)) => (Status::ServiceUnavailable, ["not ready: ", render::error_message(error)]),
        (Handler::Count(_), Err(StoreError::OutcomeUnknown)) => {
            (Status::GatewayTimeout, [DOUBT, render::error_message(StoreError::OutcomeUnknown)])
        }
        (
            Handler::Count(_),
            Err(error @ StoreError::Rejected(Rejection::TooManyCounters | Rejection::ScriptsRequired)),
        ) => (Status::InsufficientStorage, ["not counted: ", render::error_message(error)]),
        (Handler::Count(_), Err(error)) => {
            (Status::ServiceUnavailable, ["not counted, try again: ", render::error_message(error)])
        }
        (Handler::Total(_), Err(error)) => {
            (Status::ServiceUnavailable, ["no total, try again: ", render::error_message(error)])
        }
        (Handler::Prefetch(_), _) => (Status::Forbidden, [PREFETCH, ""]),
        (Handler::Allow(methods), _) => {
            (Status::MethodNotAllowed, ["this method is not allowed here: use one of ", methods])
        }
        (Handler::NoCounter, _) => (Status::NotFound, [NO_COUNTER, ""]),
        _ => (Status::NotFound, ["nothing is here: try /count or /total", ""]),
    }
}

/// What becomes of a connection after this request.
fn connection(framing: &Framing) -> Connection {
    match (framing.keep_alive, framing.is_http10) {
        (true, false) => Connection::Open,
        (true, true) => Connection::KeepAlive,
        (false, _) => Connection::Close,
    }
}

/// An answer as most are: a good one, and of this moment only.
fn plain(form: Format) -> ResponseHead<'static> {
    ResponseHead {
        status: Status::Ok,
        media: Some(form.media()),
        cache: "no-store",
        policy: None,
        allow: None,
        origin: None,
        head_only: false,
        unsized_body: false,
        connection: Connection::Open,
    }
}

const NO_COUNTER: &str = "no such counter: COUNTERS lists the names that are allowed, of 1 to 32 letters, digits, dots, \
                          hyphens, underscores";

const PREFETCH: &str = "not counted: this is a prefetch, and the visit is counted when it is made";

const DOUBT: &str = "this visit may have been counted, do not repeat it: ";

/// For what never changes while a server runs.
const A_DAY: &str = "public, max-age=86400";

/// For badges, since the proxy in front of images on GitHub heeds no less.
const NOT_EVEN_BY_PROXIES: &str = "no-cache, no-store, max-age=0";

const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /count\nDisallow: /badge\n";

/// With so many bytes unsent, a client that does not read gets no further answers written.
const MAX_UNSENT: usize = 16 * 1024;

/// Longest head, in bytes, that is kept to be known again: those of browsers are shorter.
const MAX_KEPT: usize = 1024;

/// Most pipelined visits in one ask; their answers are written in one go.
const MAX_RUN: i64 = 64;

#[cfg(test)]
mod tests;
