//! One client's connection: requests in, answers out, and in between a question to the store.
//!
//! The driver calls [`HttpConnection::advance`] and does what it [`Need`]s, over and over; that is all it ever sees of HTTP.
//! Requests are answered in order. Visits that a client has pipelined go to the store as one ask, since they need only
//! be told apart when their numbers are there.

use crate::badge::{self, BadgeStyle};
use crate::buffers::Buffers;
use crate::cors::{CorsDecision, Origins};
use crate::counter::{Command, Counters, Decimal, Key, Names, Rejection, StoreError};
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
        self.refuse(http::TIMED_OUT, context, worker, buffers);
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
            State::Head => routes::refused(&http::peek(buffers.received()), &context.counters, &context.origins),
            _ => RouteMatch { route: Route::Refused, act: Handler::Unknown, ..self.turn.plan },
        };
        let answer = ResponseHead { status: reject.status, connection: Connection::Close, ..plain(plan.form) };
        context.write_message(&plan, answer, [reject.words, ""], worker, buffers);
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
        (Handler::Ready, _) if leaving => (Status::Unavailable, ["not ready: this server is about to go", ""]),
        (Handler::Ready, Ok(_)) => (Status::Ok, ["ready", ""]),
        (Handler::Ready, Err(error)) => (Status::Unavailable, ["not ready: ", render::error_message(error)]),
        (Handler::Count(_), Err(StoreError::OutcomeUnknown)) => {
            (Status::InDoubt, [DOUBT, render::error_message(StoreError::OutcomeUnknown)])
        }
        (
            Handler::Count(_),
            Err(error @ StoreError::Rejected(Rejection::TooManyCounters | Rejection::ScriptsRequired)),
        ) => (Status::InsufficientStorage, ["not counted: ", render::error_message(error)]),
        (Handler::Count(_), Err(error)) => {
            (Status::Unavailable, ["not counted, try again: ", render::error_message(error)])
        }
        (Handler::Total(_), Err(error)) => {
            (Status::Unavailable, ["no total, try again: ", render::error_message(error)])
        }
        (Handler::Prefetch(_), _) => (Status::Forbidden, [PREFETCH, ""]),
        (Handler::Allow(methods), _) => (Status::NotAllowed, ["this method is not allowed here: use one of ", methods]),
        (Handler::NoCounter, _) => (Status::NotFound, [NO_COUNTER, ""]),
        _ => (Status::NotFound, ["nothing is here: try /count or /total", ""]),
    }
}

/// What becomes of a connection after this request.
fn connection(framing: &Framing) -> Connection {
    match (framing.keep_alive, framing.old) {
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
mod tests {
    use super::*;
    use crate::metrics::About;
    use bytes::BufMut;

    fn context() -> ServerContext {
        let main = Key::new(b"visits").expect("a good name");
        let names = Names::List(vec!["blog".into()]);
        let metrics = Metrics::new(About::default(), 1, false);
        let (counters, origins) = (Counters { main, names }, Origins::default());
        ServerContext {
            counters,
            origins,
            served_by: "here".into(),
            welcome: Welcome::new("Hi"),
            metrics,
            records_requests: false,
        }
    }

    /// A client, a server and a store that counts in memory.
    struct Stage {
        context: ServerContext,
        worker: WorkerContext,
        buffers: Buffers,
        connection: HttpConnection,
        store: Result<i64, StoreError>,
        commands: Vec<Command>,
        out: Vec<u8>,
        last: Need,
    }

    impl Stage {
        fn new(store: Result<i64, StoreError>) -> Self {
            let mut worker = WorkerContext::default();
            worker.set(784_111_777);
            let (buffers, connection) = (Buffers::default(), HttpConnection::default());
            Self {
                context: context(),
                worker,
                buffers,
                connection,
                store,
                commands: Vec::new(),
                out: Vec::new(),
                last: Need::Request,
            }
        }

        /// Has so many bytes arrive at a time, and does what the exchange wants until it wants more of them.
        fn arrive(&mut self, mut bytes: &[u8], at_a_time: usize) {
            loop {
                self.go_on();
                if self.last == Need::Close || bytes.is_empty() {
                    return;
                }
                let room = self.buffers.read_buf().remaining_mut();
                let (worker, later) = bytes.split_at(at_a_time.min(bytes.len()).min(room));
                self.buffers.read_buf().put_slice(worker);
                bytes = later;
            }
        }

        fn go_on(&mut self) {
            loop {
                self.last = self.connection.advance(&self.context, &mut self.worker, &mut self.buffers);
                self.out.extend_from_slice(self.buffers.pending());
                let sent = self.buffers.pending().len();
                self.buffers.mark_sent(sent);
                match self.last {
                    Need::Room => {}
                    Need::Store => {
                        let command = self.connection.command();
                        self.commands.push(command);
                        if let (Command::Increment { by, .. }, Ok(total)) = (command, &mut self.store) {
                            *total += by;
                        }
                        self.connection.complete(self.store, &self.context, &mut self.worker, &mut self.buffers);
                    }
                    Need::Request | Need::Bytes(_) | Need::Close => return,
                }
            }
        }

        /// The answers so far, each as its code and its body, and what the exchange waits for.
        fn told(&self) -> String {
            let mut told = String::new();
            let mut rest = std::str::from_utf8(&self.out).expect("UTF-8");
            while let Some((head, after)) = rest.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length = length.map_or(0, |length| length.parse().expect("a length"));
                let (body, next) = after.split_at(length);
                told += &head["HTTP/1.1 ".len()..][..3];
                told += &format!(" {} ", body.trim_end().replace('\n', "/")).replace("  ", " ");
                rest = next;
            }
            assert_eq!(rest, "");
            told + match self.last {
                Need::Request => ".",
                Need::Bytes(_) => "+",
                _ => "x",
            }
        }
    }

    /// Plays `request` whole, at every cut and byte by byte.
    fn play(request: &str) -> String {
        let play = |steps: &[usize]| {
            let mut stage = Stage::new(Ok(6));
            let mut rest = request.as_bytes();
            for &step in steps {
                let (worker, later) = rest.split_at(step);
                stage.arrive(worker, step);
                rest = later;
            }
            stage.arrive(rest, rest.len().max(1));
            stage.told()
        };
        let whole = play(&[]);
        for cut in 1..request.len() {
            assert_eq!(play(&[cut]), whole, "{request:?} cut at {cut}");
        }
        assert_eq!(play(&vec![1; request.len()]), whole, "{request:?} byte by byte");
        whole
    }

    #[test]
    fn requests_and_their_answers() {
        const PREFETCHED: &str = "403 not counted: this is a prefetch, and the visit is counted when it is made .";
        // `.` waits for the next request, `+` for the rest of this one, `x` closes.
        for (request, told) in [
            ("GET /count HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
            ("POST /count HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
            ("GET /count/blog HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
            ("GET /total/blog HTTP/1.1\r\nHost: a\r\n\r\n", "200 6 ."),
            ("GET /total HTTP/1.1\r\nHost: a\r\n\r\n", "200 6 ."),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200 Hi/visits so far: 6 ."),
            ("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "200 alive ."),
            ("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", "200 ready ."),
            ("GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n", "204 ."),
            ("GET /count?x=/total HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
            ("GET http://a/count HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
            ("GET HTTP://a HTTP/1.1\r\nHost: a\r\n\r\n", "200 Hi/visits so far: 6 ."),
            ("\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "200 alive ."),
            ("GET /livez HTTP/1.1\nHost: a\n\n", "200 alive ."),
            ("GET /livez HTTP/1.1\r\nHost:\r\n\r\n", "200 alive ."),
            ("GET /livez HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "200 alive ."),
            ("GET /livez HTTP/1.1\r\nHost: a:\r\n\r\n", "200 alive ."),
            (
                "GET /count HTTP/1.1\r\nHost: a\r\nAccept: text/plain;q=0.5\r\nAccept: application/json\r\n\r\n",
                "200 {\"counter\":\"visits\",\"count\":7} .",
            ),
            ("GET /livez HTTP/1.0\r\n\r\n", "200 alive x"),
            ("GET /livez HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "200 alive ."),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\nGET", "200 alive x"),
            ("GET /count HTTP/1.1\r\nHost: a\r\nSec-Purpose: prefetch;prerender\r\n\r\n", PREFETCHED),
            ("GET /count HTTP/1.1\r\nHost: a\r\nX-Moz: prefetch\r\n\r\n", PREFETCHED),
            (
                "GET /count HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n",
                "200 {\"counter\":\"visits\",\"count\":7} .",
            ),
            (
                "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /GET /livez HTTP/1.0\r\n\r\n",
                "200 7 200 alive x",
            ),
            (
                "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nGET\r\n0\r\nA: b\r\n\r\n",
                "200 7 .",
            ),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET", "+"),
            ("GET /count HTTP/1.1\r\nHost: a\r\n", "+"),
            (
                "GET /count HTTP/1.1\r\nHost: a\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\nGET /total HTTP/1.1\r\nHost: a\r\n\r\nGET /count HTTP/1.0\r\n\r\n",
                "200 7 200 8 200 8 200 9 x",
            ),
            ("PUT /livez HTTP/1.1\r\nHost: a\r\n\r\n", "405 this method is not allowed here: use one of GET, HEAD ."),
            ("POST /total HTTP/1.1\r\nHost: a\r\n\r\n", "405 this method is not allowed here: use one of GET, HEAD ."),
            ("GET /count/shop HTTP/1.1\r\nHost: a\r\n\r\n", &format!("404 {NO_COUNTER} .")),
            ("GET /badge/shop.json HTTP/1.1\r\nHost: a\r\n\r\n", &format!("404 {NO_COUNTER} .")),
            ("GET /count/ HTTP/1.1\r\nHost: a\r\n\r\n", "404 nothing is here: try /count or /total ."),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "404 nothing is here: try /count or /total ."),
        ] {
            assert_eq!(play(request), told, "{request:?}");
        }
    }

    #[test]
    fn requests_that_are_refused() {
        let many = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned() + &"A: b\r\n".repeat(http::MAX_FIELDS) + "\r\n";
        for (request, status) in [
            ("GET /livez HTTP/1.1\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a@b\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a:b\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: [::1]x\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: []:1\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: [zz]\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: %zz\r\n\r\n", "400"),
            ("GET http://:80/livez HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            (
                "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
                "400",
            ),
            ("GET /livez HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a\rb\r\n\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", "400"),
            ("GET livez HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            ("GET http:///livez HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            ("GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            ("GET /livez\r\nHost: a\r\n\r\n", "400"),
            ("GET /livez HTTQ/1.1\r\nHost: a\r\n\r\n", "400"),
            ("GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
            ("GET /livez HTTP/1.2\r\nHost: a\r\n\r\n", "505"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
            ("BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", "501"),
            ("get /livez HTTP/1.1\r\nHost: a\r\n\r\n", "501"),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", "417"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nx", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\nx", "413"),
            (
                "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "400",
            ),
            (
                "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "400",
            ),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
            ("POST /count HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", "400"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "413"),
            ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100000000\r\n", "400"),
            (&many, "431"),
        ] {
            let told = play(request);
            assert_eq!((&told[..3], told.ends_with('x')), (status, true), "{request:?} {told}");
        }
    }

    #[test]
    fn heads_are_bounded_in_length() {
        let long = "x".repeat(http::MAX_TARGET);
        let longer = "x".repeat(crate::buffers::MAX_RECEIVED);
        for (request, status) in [
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
            (format!("GET /{longer}"), "414"),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {longer}"), "431"),
            (format!("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{longer}"), "400"),
        ] {
            for at_a_time in [1, 1000, request.len()] {
                let mut stage = Stage::new(Ok(0));
                stage.arrive(request.as_bytes(), at_a_time);
                assert_eq!((&stage.told()[..3], stage.last), (status, Need::Close));
                assert!(stage.commands.is_empty());
            }
        }
    }

    #[test]
    fn pipelined_visits_are_one_ask_and_many_answers() {
        let visit = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut stage = Stage::new(Ok(0));
        let last = "GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stage.arrive((visit.repeat(70) + "GET /total HTTP/1.1\r\nHost: a\r\n\r\n" + visit + last).as_bytes(), 100_000);
        let key = stage.context.counters.main;
        let count = |by| Command::Increment { key, by };
        assert_eq!(stage.commands, [count(64), count(6), Command::Get { key }, count(1), count(1)]);
        let numbers: Vec<_> = (1..=70).chain([70, 71, 72]).map(|number| format!("200 {number} ")).collect();
        assert_eq!(stage.told(), numbers.concat() + "x");
    }

    #[test]
    fn faults_tell_what_the_visitor_may_do() {
        for (path, error, told) in [
            ("/count", StoreError::Unavailable, "503 not counted, try again: the store is away ."),
            (
                "/count",
                StoreError::OutcomeUnknown,
                "504 this visit may have been counted, do not repeat it: the store did not say in time .",
            ),
            (
                "/count",
                StoreError::Rejected(Rejection::OutOfMemory),
                "503 not counted, try again: the store is out of memory .",
            ),
            (
                "/count",
                StoreError::Rejected(Rejection::TooManyCounters),
                "507 not counted: MAX_COUNTERS is reached: existing counters count on, new names are refused; \
                 raise MAX_COUNTERS or remove counters .",
            ),
            ("/total", StoreError::Unavailable, "503 no total, try again: the store is away ."),
            ("/readyz", StoreError::Unavailable, "503 not ready: the store is away ."),
            ("/", StoreError::Unavailable, "200 Hi/no count right now: the store is away ."),
            ("/livez", StoreError::Unavailable, "200 alive ."),
        ] {
            let mut stage = Stage::new(Err(error));
            stage.arrive(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 100);
            assert_eq!(stage.told(), told);
            let retry = String::from_utf8_lossy(&stage.out).contains("\r\nRetry-After: 1\r\n");
            assert_eq!(retry, told.starts_with("503"), "{told}");
        }
    }

    #[test]
    fn the_fields_of_an_answer() {
        let mut stage = Stage::new(Ok(41));
        stage.arrive(b"GET /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 100);
        assert_eq!(
            String::from_utf8_lossy(&stage.out),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 3\r\nCache-Control: no-store\r\nX-Served-By: here\r\nConnection: keep-alive\r\n\r\n42\n"
        );
    }

    #[test]
    fn head_is_answered_without_a_body_and_does_not_count() {
        let mut stage = Stage::new(Ok(41));
        stage.arrive(b"HEAD /count HTTP/1.1\r\nHost: a\r\n\r\n", 100);
        let out = String::from_utf8_lossy(&stage.out);
        assert!(!out.contains("Content-Length") && out.ends_with("\r\n\r\n"), "{out}");
        assert_eq!(stage.commands, [Command::Get { key: stage.context.counters.main }]);
    }

    #[test]
    fn a_client_that_expects_to_be_asked_for_its_body_is() {
        let mut stage = Stage::new(Ok(0));
        let head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        stage.arrive(head, head.len());
        assert_eq!((&stage.out[..], stage.last), (&b"HTTP/1.1 100 Continue\r\n\r\n"[..], Need::Bytes(1)));
        stage.arrive(b"ab", 2);
        assert!(String::from_utf8_lossy(&stage.out).ends_with("\r\n\r\n1\n"));
    }

    #[test]
    fn a_server_that_goes_says_so_and_closes() {
        let visit = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
        let pair = ["GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", visit].concat();
        let half = [visit, "GET /count HTTP/1.1\r\nHost"].concat();
        for (leaving, closing, requests, told) in [
            (true, false, visit, "200 1 x"),
            (true, false, &[visit, "\r\n"].concat(), "200 1 x"),
            // What has come already is answered, and the last answer closes.
            (true, false, &pair, "503 not ready: this server is about to go 200 1 x"),
            (true, false, &[visit, visit].concat(), "200 1 200 2 x"),
            (true, false, &half, "200 1 +"),
            (true, true, &half, "200 1 x"),
            (true, true, &pair, "503 not ready: this server is about to go x"),
            (true, true, &[visit, visit].concat(), "200 1 200 2 x"),
        ] {
            let mut stage = Stage::new(Ok(0));
            (stage.worker.draining, stage.worker.closing) = (leaving, closing);
            stage.arrive(requests.as_bytes(), 200);
            assert_eq!(stage.told(), told, "{requests:?}");
            let closes = String::from_utf8_lossy(&stage.out).matches("Connection: close").count();
            assert_eq!(closes, usize::from(told.ends_with('x')), "{requests:?}");
        }
    }

    #[test]
    fn what_a_worker_keeps_changes_no_answer() {
        let heads = [
            "GET /count HTTP/1.1\r\nHost: a\r\n",
            "GET /count HTTP/1.0\r\nHost: a\r\n",
            "GET /count HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n",
            "GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
            "GET /count HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n",
            "GET /count HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n",
            "GET /count HTTP/1.1\r\nHost: a\r\nOrigin: http://c\r\n",
            "GET /count/blog HTTP/1.1\r\nHost: a\r\n",
            "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n",
            "HEAD /count HTTP/1.1\r\nHost: a\r\n",
            "GET /count HTTP/1.1\r\nHost: a\r\nPurpose: prefetch\r\n",
            "GET /total HTTP/1.1\r\nHost: a\r\n",
            "GET /badge.svg?label=x HTTP/1.1\r\nHost: a\r\n",
            "GET /badge.svg?label=y HTTP/1.1\r\nHost: a\r\n",
            "GET /badge.json HTTP/1.1\r\nHost: a\r\n",
        ];
        let play = |worker: WorkerContext, head: &str| {
            let mut stage = Stage { worker, ..Stage::new(Ok(6)) };
            stage.context.origins = Origins::new(vec!["http://b".into()]);
            for _ in 0..5 {
                stage.arrive(format!("{head}\r\nGET").as_bytes(), 200);
                stage.arrive(b" /livez HTTP/1.1\r\nHost: a\r\n\r\n", 200);
            }
            (String::from_utf8(stage.out).expect("UTF-8"), stage.commands, stage.worker)
        };
        let fresh = || Stage::new(Ok(0)).worker;
        for head in heads {
            let (told, commands, _) = play(fresh(), head);
            for before in heads {
                let (again, asked, _) = play(play(fresh(), before).2, head);
                assert_eq!((again, asked), (told.clone(), commands.clone()), "{head} after {before}");
            }
            let mut later = play(fresh(), head).2;
            later.set(784_111_778);
            let told = told.replace("08:49:37", "08:49:38");
            assert_eq!(play(later, head).0, told, "{head} a second later");
        }
    }

    #[test]
    fn a_badge_behind_a_visit_is_not_the_visitors() {
        let mut stage = Stage::new(Ok(0));
        let requests = ["/count", "/badge.svg?label=x", "/count", "/badge.svg?label=y"]
            .map(|target| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        stage.arrive(requests.concat().as_bytes(), 1000);
        let told = stage.told();
        let parts: Vec<_> = told.split("200 ").collect();
        let [_, "1 ", x, "3 ", y] = &parts[..] else { panic!("{told}") };
        assert!(x.contains("<title>x: 2</title>") && y.contains("<title>y: 4</title>"), "{told}");
    }

    #[test]
    fn recorded_requests_have_the_same_answers() {
        let requests = "GET /count HTTP/1.1\r\nHost: a\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\n\
                        HEAD /total/blog?secret HTTP/1.1\r\nHost: a\r\n\r\n\
                        POST http://a/count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiDELETE /\"no HTTP/1.1\r\n";
        let play = |records_requests, at_a_time| {
            let mut stage = Stage::new(Ok(6));
            stage.context.records_requests = records_requests;
            stage.arrive(requests.as_bytes(), at_a_time);
            stage.worker.micros = 30;
            stage.connection.time_out(&stage.context, &mut stage.worker, &mut stage.buffers);
            stage.go_on();
            (String::from_utf8(stage.out).expect("UTF-8"), stage.worker.records)
        };
        let record = |method: &str, path: &str, route, status, number| Record {
            method: method.into(),
            path: path.into(),
            route,
            status,
            number,
            micros: 0,
        };
        for at_a_time in [1, 7, 1000] {
            let (out, records) = play(true, at_a_time);
            assert_eq!((out, Vec::new()), play(false, at_a_time));
            let expected = [
                record("GET", "/count", Route::Count, Status::Ok, Some(7)),
                record("GET", "/count", Route::Count, Status::Ok, Some(8)),
                record("HEAD", "/total/blog", Route::Total, Status::Ok, Some(8)),
                record("POST", "http://a/count", Route::Count, Status::Ok, Some(9)),
                record("DELETE", "/\"no", Route::Refused, Status::TimedOut, None),
            ];
            assert_eq!(records, expected);
        }
    }

    #[test]
    fn a_record_is_short_and_takes_the_time_from_the_head_on() {
        let mut stage = Stage::new(Ok(0));
        stage.context.records_requests = true;
        stage.worker.micros = 100;
        let (method, path) = ("X".repeat(17), "y".repeat(129));
        stage.arrive(format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").as_bytes(), 1000);
        stage.worker.micros = 142;
        stage.arrive(format!("x{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 1000);
        let [long_path, long_method] = &stage.worker.records[..] else { panic!("{:?}", stage.worker.records) };
        assert_eq!((long_path.micros, &long_path.path[126..], long_path.path.len()), (42, "yy...", 131));
        assert_eq!((long_method.micros, &*long_method.method), (0, "XXXXXXXXXXXXXXXX..."));
    }

    #[test]
    fn numbers_may_grow_longer() {
        let mut stage = Stage::new(Ok(8));
        for _ in 0..3 {
            stage.arrive(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n", 200);
        }
        assert_eq!(stage.told(), "200 9 200 10 200 11 .");
    }

    #[test]
    fn a_request_that_takes_too_long_is_refused() {
        let mut stage = Stage::new(Ok(0));
        stage.arrive(b"GET /count HT", 100);
        stage.connection.time_out(&stage.context, &mut stage.worker, &mut stage.buffers);
        stage.go_on();
        assert_eq!(stage.told(), "408 the request did not arrive in time x");
    }

    #[test]
    fn each_request_that_has_begun_is_told_from_the_one_before() {
        let mut stage = Stage::new(Ok(0));
        for request in 1..4 {
            stage.arrive(b"GET /count HTTP", 100);
            assert_eq!(stage.last, Need::Bytes(request));
            stage.arrive(b"/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 100);
            assert_eq!(stage.last, Need::Bytes(request));
            stage.arrive(b"x", 1);
        }
    }

    #[test]
    fn a_client_that_does_not_read_gets_no_more_written() {
        let mut buffers = Buffers::default();
        let mut connection = HttpConnection::default();
        let (context, mut worker) = (context(), WorkerContext::default());
        while !buffers.is_full() {
            let room = buffers.read_buf().remaining_mut();
            let request = b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n";
            buffers.read_buf().put_slice(&request[..room.min(request.len())]);
        }
        assert_eq!(connection.advance(&context, &mut worker, &mut buffers), Need::Room);
        assert!(buffers.pending().len() < 2 * MAX_UNSENT);
        let sent = buffers.pending().len();
        buffers.mark_sent(sent);
        assert_eq!(connection.advance(&context, &mut worker, &mut buffers), Need::Room);
    }
}
