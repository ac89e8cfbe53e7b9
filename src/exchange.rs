//! One client's connection: requests in, answers out, and in between a question to the store.
//!
//! The driver calls [`Exchange::next`] and does what it [`Want`]s, over and over; that is all it ever sees of HTTP.
//! Requests are answered in order. Visits that a client has pipelined go to the store as one ask, since they need only
//! be told apart when their numbers are there.

use crate::badge::{self, Look};
use crate::counter::{Ask, Cause, Counters, Decimal, Fault, Key, Names};
use crate::http::{self, Answer, Body, Connection, Framing, Reject, Status};
use crate::metrics::{self, Metrics, Tally};
use crate::origin::{Origins, Share};
use crate::render::{self, Form, Page, Welcome};
use crate::routes::{self, Act, Plan, Route};
use crate::wire::Wire;

/// What all answers of a server have in common.
pub struct Site {
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

impl Site {
    /// Where to note what is done now.
    fn tally(&self, now: &Now) -> &Tally {
        self.metrics.worker(now.worker)
    }

    /// Writes an answer, and notes that it is there.
    fn answer(&self, plan: &Plan, answer: Answer<'_>, body: &[&[u8]], now: &Now, wire: &mut Wire) -> Status {
        let (origin, bare) = (self.origins.said(plan.share), plan.bare);
        let answer = Answer { origin, bare, unsized_body: plan.is_another_number(), ..answer };
        http::answer(wire.output(), &answer, &now.date, &self.served_by, body);
        self.tally(now).answered(plan.route, answer.status);
        answer.status
    }

    /// Writes an answer that has words and no number: a line, or a page where a browser asks and it is an error.
    fn say(&self, plan: &Plan, answer: Answer<'_>, words: [&str; 2], now: &Now, wire: &mut Wire) -> Status {
        let is_error = answer.status != Status::Ok;
        if plan.form == Form::Html && is_error {
            let page = render::error_page(answer.status.line(), words, &self.served_by);
            let (media, policy) = (Some(plan.form.media()), Some(render::POLICY));
            return self.answer(plan, Answer { media, policy, ..answer }, &[&page], now, wire);
        }
        let form = if plan.form == Form::Json { Form::Json } else { Form::Text };
        let body = render::line(form, if is_error { "error" } else { "status" }, words);
        self.answer(plan, Answer { media: Some(form.media()), ..answer }, &body, now, wire)
    }
}

/// What changes while a server runs, and the answers along with it. Each worker has its own, and keeps in it what it
/// need not work out again: a client repeats its request to the byte, and of the answers of one second all but the
/// number is alike.
pub struct Now {
    second: Option<u64>,
    date: [u8; 29],
    heard: Heard,
    said: Said,
    /// The requests answered since the driver has logged them, if they are recorded at all.
    pub records: Vec<Record>,
    /// Microseconds since whenever, if requests are recorded: the time that a request is read or answered.
    pub micros: u64,
    /// Whose now it is.
    pub worker: usize,
    /// The server is about to go: it says so at `/readyz`, and connections close after the answer to what has come.
    pub leaving: bool,
    /// Connections close after the answer under way.
    pub closing: bool,
}

impl Default for Now {
    fn default() -> Self {
        Self::new()
    }
}

impl Now {
    /// No time yet.
    #[must_use]
    pub const fn new() -> Self {
        let heard = Heard { bytes: Vec::new(), read: None };
        let said = Said { bytes: Vec::new(), of: None };
        Self {
            second: None,
            date: [b' '; 29],
            heard,
            said,
            records: Vec::new(),
            micros: 0,
            worker: 0,
            leaving: false,
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
        self.said.of = None;
    }

    /// Writes the answer to a visit that was counted, as text or JSON.
    fn tell(&mut self, out: &mut Vec<u8>, turn: &Turn, site: &Site, body: &[&[u8]]) {
        let Turn { plan: Plan { form, share, .. }, connection } = *turn;
        let length = body.iter().map(|piece| piece.len()).sum();
        let (said, of) = (&mut self.said, Some((form, share, connection, length)));
        if said.of != of {
            said.of = of;
            said.bytes.clear();
            let answer = Answer { origin: site.origins.said(share), connection, ..plain(form) };
            http::announce(&mut said.bytes, &answer, &self.date, &site.served_by, length);
        }
        out.reserve(said.bytes.len() + length);
        out.extend_from_slice(&said.bytes);
        body.iter().for_each(|piece| out.extend_from_slice(piece));
    }
}

/// The head that was read last, and what it asks for. The same bytes ask for the same, if they are kept.
struct Heard {
    bytes: Vec<u8>,
    read: Option<Read>,
}

impl Heard {
    /// Whether this is the same head again.
    fn again(&self, unread: &[u8]) -> bool {
        !self.bytes.is_empty() && begins(unread, &self.bytes)
    }

    fn keep(&mut self, head: &[u8]) {
        if head.len() <= MAX_KEPT {
            self.bytes.extend_from_slice(head);
        }
    }
}

/// A head as it was read.
struct Read {
    turn: Turn,
    framing: Framing,
    /// How many bytes it took.
    used: usize,
    look: Option<Box<Look>>,
}

/// Whether `bytes` begin with these, compared by words: musl compares byte by byte, which takes as long as all the rest
/// of reading a head that is known.
fn begins(bytes: &[u8], these: &[u8]) -> bool {
    let Some(front) = bytes.get(..these.len()) else { return false };
    let ((words, rest), (other_words, other_rest)) = (front.as_chunks(), these.as_chunks());
    let same = |(one, other): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other);
    words.iter().zip(other_words).all(same) && rest == other_rest
}

/// The head of an answer to a counted visit: its form, who may read it, and how long its body is. It holds for a
/// second.
struct Said {
    bytes: Vec<u8>,
    of: Option<(Form, Share, Connection, usize)>,
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
struct Noted {
    method: String,
    path: String,
    since: u64,
}

impl Noted {
    fn new(head: &[u8], now: &Now) -> Self {
        let (method, path) = http::request_line(head);
        Self { method: shown(method, 16), path: shown(path, 128), since: now.micros }
    }
}

/// So many bytes of these, with a question mark for each that is not plain.
fn shown(bytes: &[u8], most: usize) -> String {
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
pub enum Want {
    /// The first byte of a request.
    Request,
    /// More bytes of the request that has begun. The number is another for each, because each has a time of its own.
    Bytes(u64),
    /// Room in the output: everything unsent has to be sent first.
    Room,
    /// The store's answer to [`Exchange::ask`], by [`Exchange::answer`].
    Total,
    /// Nothing more: the connection is to be closed once everything is sent.
    Close,
}

/// The state of one connection; it lives as long as its socket.
#[derive(Default)]
pub struct Exchange {
    state: State,
    /// The request whose answer is due, in any state but the first and the last.
    turn: Turn,
    /// How the badge looks that is to be drawn; in a box, since few connections draw any.
    look: Option<Box<Look>>,
    /// What is to be recorded of the request, if it is.
    noted: Option<Box<Noted>>,
    /// So much of what is unread holds no whole head.
    searched: usize,
    /// Turns finished: requests, or runs of visits.
    served: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    /// The store is asked for so many visits.
    Asked(i64),
    Closed,
}

/// A request, as far as its answer depends on it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Turn {
    plan: Plan,
    connection: Connection,
}

impl Exchange {
    /// Goes on as far as it can with the bytes that are there.
    pub fn next(&mut self, site: &Site, now: &mut Now, wire: &mut Wire) -> Want {
        loop {
            if wire.unsent().len() > MAX_UNSENT {
                return Want::Room;
            }
            let step = match self.state {
                State::Head => self.head(site, now, wire),
                State::Body(body) => self.body(body, site, now, wire),
                State::Asked(_) => Ok(Some(Want::Total)),
                State::Closed => Ok(Some(Want::Close)),
            };
            match step {
                Ok(Some(want)) => return want,
                Ok(None) => {}
                Err(reject) => self.refuse(reject, site, now, wire),
            }
        }
    }

    /// What the store is asked while the exchange waits for [`Want::Total`].
    #[must_use]
    pub fn ask(&self) -> Ask {
        let visits = if let State::Asked(visits) = self.state { visits } else { 0 };
        match self.turn.plan.act {
            Act::Count(key) => Ask::Count { key, by: visits },
            Act::Welcome(key) | Act::Total(key) | Act::Prefetch(key) => Ask::Total { key },
            _ => Ask::Ping,
        }
    }

    /// Takes the store's answer to [`Want::Total`].
    pub fn answer(&mut self, total: Result<i64, Fault>, site: &Site, now: &mut Now, wire: &mut Wire) {
        let State::Asked(visits) = self.state else { return };
        if let Act::Count(_) = self.turn.plan.act {
            site.tally(now).told(visits as u64, total);
        }
        for place in 1..visits {
            // The store gave the number of the last.
            self.turn.answer(total.map(|total| total.wrapping_sub(visits - place)), None, site, now, wire);
        }
        self.finish(total, site, now, wire);
    }

    /// Refuses a request that has begun and does not come to its end in time.
    pub fn time_out(&mut self, site: &Site, now: &mut Now, wire: &mut Wire) {
        self.refuse(http::TIMED_OUT, site, now, wire);
    }

    fn head(&mut self, site: &Site, now: &mut Now, wire: &mut Wire) -> Result<Option<Want>, &'static Reject> {
        let (true, Some(Read { turn, framing, used, look })) = (self.read(site, now, wire)?, &mut now.heard.read)
        else {
            return Ok(Some(if wire.unread().is_empty() { Want::Request } else { Want::Bytes(self.served + 1) }));
        };
        wire.consume(*used);
        if framing.expects && wire.unread().is_empty() {
            http::go_on(wire.output());
        }
        (self.turn, self.look) = (*turn, look.take());
        self.state = State::Body(framing.body);
        Ok(None)
    }

    /// Reads the next head, if it is there, and leaves it with `now`. Half a head is not read again before another line of
    /// it has come.
    fn read(&mut self, site: &Site, now: &mut Now, wire: &Wire) -> Result<bool, &'static Reject> {
        let unread = wire.unread();
        if now.heard.again(unread) {
            self.searched = 0;
            return Ok(true);
        }
        if unread.get(self.searched..).is_some_and(|new| new.contains(&b'\n'))
            && let Some((head, used)) = http::head(unread)?
        {
            self.searched = 0;
            let plan = routes::plan(&head, &site.counters, &site.origins);
            let turn = Turn { plan, connection: connection(&head.framing) };
            let look = (plan.form == Form::Badge).then(|| Box::new(Look::new(head.query)));
            now.heard.bytes.clear();
            if site.records_requests {
                self.noted = Some(Box::new(Noted::new(unread, now)));
            } else if look.is_none() {
                now.heard.keep(&unread[..used]);
            }
            now.heard.read = Some(Read { turn, framing: head.framing, used, look });
            return Ok(true);
        }
        self.searched = unread.len();
        if wire.is_full() { Err(http::overflow(unread)) } else { Ok(false) }
    }

    fn body(
        &mut self,
        mut body: Body,
        site: &Site,
        now: &mut Now,
        wire: &mut Wire,
    ) -> Result<Option<Want>, &'static Reject> {
        let used = body.skip(wire.unread())?;
        wire.consume(used);
        if !body.is_over() {
            self.state = State::Body(body);
            return Ok(Some(Want::Bytes(self.served + 1)));
        }
        if self.turn.asks(now) {
            self.state = State::Asked(self.run(site, now, wire));
        } else {
            self.finish(Ok(0), site, now, wire);
        }
        Ok(None)
    }

    /// Takes the requests behind a visit that are just like it, and says how many visits it then is. Pages and
    /// badges are too large to be written many at once.
    fn run(&mut self, site: &Site, now: &mut Now, wire: &mut Wire) -> i64 {
        let mut visits = 1;
        while let Act::Count(_) = self.turn.plan.act
            && self.turn.connection != Connection::Close
            && matches!(self.turn.plan.form, Form::Text | Form::Json)
            && visits < MAX_RUN
            && !site.records_requests
            && let (Ok(true), Some(read)) = (self.read(site, now, wire), &now.heard.read)
            && read.turn == self.turn
            && read.framing.body.is_over()
        {
            wire.consume(read.used);
            visits += 1;
        }
        // What was not taken has to be read again.
        self.searched = 0;
        visits
    }

    /// Writes the last answer that is due, and decides whether another request may follow.
    fn finish(&mut self, total: Result<i64, Fault>, site: &Site, now: &mut Now, wire: &mut Wire) {
        // What has come already is answered first, as long as there is time: a client that sends several requests at once
        // would have to guess which of them were heard.
        if now.closing || (now.leaving && http::is_empty(wire.unread())) {
            self.turn.connection = Connection::Close;
        }
        let status = self.turn.answer(total, self.look.take().as_deref(), site, now, wire);
        if site.records_requests {
            self.record(self.turn.plan.route, status, total.ok(), now);
        }
        self.served += 1;
        self.state = if self.turn.connection == Connection::Close { State::Closed } else { State::Head };
    }

    /// Refuses a request, in the form that it prefers as far as that can be read, and without a body if it is a `HEAD`.
    fn refuse(&mut self, reject: &Reject, site: &Site, now: &mut Now, wire: &mut Wire) {
        if site.records_requests {
            self.noted.get_or_insert_with(|| Box::new(Noted::new(wire.unread(), now)));
            self.record(Route::Refused, reject.status, None, now);
        }
        let plan = match self.state {
            State::Head => routes::refused(&http::peek(wire.unread()), &site.counters, &site.origins),
            _ => Plan { route: Route::Refused, act: Act::Unknown, ..self.turn.plan },
        };
        let answer = Answer { status: reject.status, connection: Connection::Close, ..plain(plan.form) };
        site.say(&plan, answer, [reject.words, ""], now, wire);
        self.state = State::Closed;
    }

    /// Leaves it to the driver to log what was answered. Out of the way of those who need it not.
    #[cold]
    #[inline(never)]
    fn record(&mut self, route: Route, status: Status, number: Option<i64>, now: &mut Now) {
        if let Some(noted) = self.noted.take() {
            let Noted { method, path, since } = *noted;
            let micros = now.micros.saturating_sub(since);
            let is_counter = matches!(self.turn.plan.act, Act::Welcome(_) | Act::Count(_) | Act::Total(_));
            let number = number.filter(|_| is_counter);
            now.records.push(Record { method, path, route, status, number, micros });
        }
    }
}

impl Turn {
    /// Whether the store has to be asked. A server that is about to go is not ready, whatever the store says.
    fn asks(&self, now: &Now) -> bool {
        match self.plan.act {
            Act::Welcome(_) | Act::Count(_) | Act::Total(_) => true,
            Act::Ready => !now.leaving,
            // A badge is drawn all the same: the images of a prerendered page are not requested again at the visit.
            Act::Prefetch(_) => self.plan.form == Form::Badge,
            _ => false,
        }
    }

    /// Writes the page of a counter.
    fn page(&self, key: &Key, total: Result<i64, Fault>, site: &Site, now: &Now, wire: &mut Wire) -> Status {
        let Plan { act, form, .. } = self.plan;
        let (status, [what, why]) = match (act, total) {
            (Act::Welcome(_), Err(fault)) => (Status::Ok, ["no count right now: ", render::why(fault)]),
            (_, Err(_)) => said(&act, total, now.leaving),
            (Act::Count(_), Ok(_)) => (Status::Ok, ["", ""]),
            (_, Ok(1)) => (Status::Ok, ["visit so far", ""]),
            (_, Ok(_)) => (Status::Ok, ["visits so far", ""]),
        };
        let number = total.map(Decimal::new);
        let names: &[_] = match (act, &site.counters.names) {
            (Act::Welcome(_), Names::These(names)) => names,
            _ => &[],
        };
        let page = Page {
            welcome: &site.welcome,
            before: if let (Act::Count(_), Ok(_)) = (act, total) { "You are visitor" } else { "" },
            number: number.as_deref().unwrap_or_default(),
            after: [what, why],
            name: site.counters.name(key),
            names,
            replica: &site.served_by,
        };
        let policy = Some(render::POLICY);
        let answer = Answer { status, policy, connection: self.connection, ..plain(form) };
        site.answer(&self.plan, answer, &[&page.html()], now, wire)
    }

    /// Writes a badge. Browsers draw it whatever the status, which is that of the text.
    fn badge(&self, total: Result<i64, Fault>, look: &Look, site: &Site, now: &Now, wire: &mut Wire) -> Status {
        let Plan { act, form, .. } = self.plan;
        let status = match (act, total) {
            (Act::Count(_) | Act::Total(_), Ok(_)) => Status::Ok,
            _ => said(&act, total, now.leaving).0,
        };
        let policy = Some("default-src 'none'");
        let answer = Answer { status, policy, cache: NOT_EVEN_BY_PROXIES, connection: self.connection, ..plain(form) };
        let drawing = look.svg(total.map(Decimal::new).as_deref().ok());
        site.answer(&self.plan, answer, &[&drawing], now, wire)
    }

    /// Writes the answer; `total` is the store's, where it was asked, and `look` that of a badge.
    fn answer(
        &self,
        total: Result<i64, Fault>,
        look: Option<&Look>,
        site: &Site,
        now: &mut Now,
        wire: &mut Wire,
    ) -> Status {
        let Plan { ref act, route, form, .. } = self.plan;
        if let (Form::Html, Act::Welcome(key) | Act::Count(key) | Act::Total(key)) = (form, act) {
            return self.page(key, total, site, now, wire);
        }
        if let Some(look) = look {
            return self.badge(total, look, site, now, wire);
        }
        let number = total.map(Decimal::new);
        if let (Act::Count(key), Ok(number)) = (act, &number) {
            now.tell(wire.output(), self, site, &render::count(form, key, number));
            site.tally(now).answered(route, Status::Ok);
            return Status::Ok;
        }
        let page;
        let mut answer = Answer { connection: self.connection, ..plain(form) };
        let body = match (act, &number) {
            (Act::Welcome(key), number) => site.welcome.lines(form, key, number),
            (Act::Total(_), Err(_)) if form == Form::Shield => {
                answer.status = said(act, total, now.leaving).0;
                render::shield(badge::UNAVAILABLE.as_bytes(), b"lightgrey")
            }
            (Act::Total(key), Ok(number)) => render::count(form, key, number),
            (Act::Icon, _) => {
                answer = Answer { status: Status::NoContent, media: None, cache: A_DAY, ..answer };
                render::Body::new(&[])
            }
            (Act::Metrics, _) => {
                answer.media = Some(metrics::MEDIA);
                page = site.metrics.page();
                render::Body::new(&[&page])
            }
            (&Act::Preflight(methods), _) => {
                answer = Answer { status: Status::NoContent, media: None, allow: Some(methods), ..answer };
                render::Body::new(&[])
            }
            (Act::Robots, _) => {
                answer = Answer { media: Some(Form::Text.media()), cache: A_DAY, ..answer };
                render::Body::new(&[ROBOTS])
            }
            _ => {
                let (status, words) = said(act, total, now.leaving);
                answer.status = status;
                if let Act::Allow(methods) = *act {
                    answer.allow = Some(methods);
                }
                return site.say(&self.plan, answer, words, now, wire);
            }
        };
        site.answer(&self.plan, answer, &body, now, wire)
    }
}

/// What is said in one line: how it is, or what is wrong and what to do.
fn said(act: &Act, total: Result<i64, Fault>, leaving: bool) -> (Status, [&'static str; 2]) {
    match (act, total) {
        (Act::Live, _) => (Status::Ok, ["alive", ""]),
        (Act::Ready, _) if leaving => (Status::Unavailable, ["not ready: this server is about to go", ""]),
        (Act::Ready, Ok(_)) => (Status::Ok, ["ready", ""]),
        (Act::Ready, Err(fault)) => (Status::Unavailable, ["not ready: ", render::why(fault)]),
        (Act::Count(_), Err(Fault::Lost)) => (Status::InDoubt, [DOUBT, render::why(Fault::Lost)]),
        (Act::Count(_), Err(fault @ Fault::Refused(Cause::TooMany | Cause::NoScripts))) => {
            (Status::InsufficientStorage, ["not counted: ", render::why(fault)])
        }
        (Act::Count(_), Err(fault)) => (Status::Unavailable, ["not counted, try again: ", render::why(fault)]),
        (Act::Total(_), Err(fault)) => (Status::Unavailable, ["no total, try again: ", render::why(fault)]),
        (Act::Prefetch(_), _) => (Status::Forbidden, [PREFETCH, ""]),
        (Act::Allow(methods), _) => (Status::NotAllowed, ["this method is not allowed here: use one of ", methods]),
        (Act::NoCounter, _) => (Status::NotFound, [NO_COUNTER, ""]),
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
fn plain(form: Form) -> Answer<'static> {
    Answer {
        status: Status::Ok,
        media: Some(form.media()),
        cache: "no-store",
        policy: None,
        allow: None,
        origin: None,
        bare: false,
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

    fn site() -> Site {
        let main = Key::new(b"visits").expect("a good name");
        let names = Names::These(vec!["blog".into()]);
        let metrics = Metrics::new(About::default(), 1, false);
        let (counters, origins) = (Counters { main, names }, Origins::default());
        Site {
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
        site: Site,
        now: Now,
        wire: Wire,
        exchange: Exchange,
        store: Result<i64, Fault>,
        asks: Vec<Ask>,
        out: Vec<u8>,
        last: Want,
    }

    impl Stage {
        fn new(store: Result<i64, Fault>) -> Self {
            let mut now = Now::default();
            now.set(784_111_777);
            let (wire, exchange) = (Wire::default(), Exchange::default());
            Self { site: site(), now, wire, exchange, store, asks: Vec::new(), out: Vec::new(), last: Want::Request }
        }

        /// Has so many bytes arrive at a time, and does what the exchange wants until it wants more of them.
        fn arrive(&mut self, mut bytes: &[u8], at_a_time: usize) {
            loop {
                self.go_on();
                if self.last == Want::Close || bytes.is_empty() {
                    return;
                }
                let room = self.wire.room().remaining_mut();
                let (now, later) = bytes.split_at(at_a_time.min(bytes.len()).min(room));
                self.wire.room().put_slice(now);
                bytes = later;
            }
        }

        fn go_on(&mut self) {
            loop {
                self.last = self.exchange.next(&self.site, &mut self.now, &mut self.wire);
                self.out.extend_from_slice(self.wire.unsent());
                let sent = self.wire.unsent().len();
                self.wire.sent(sent);
                match self.last {
                    Want::Room => {}
                    Want::Total => {
                        let ask = self.exchange.ask();
                        self.asks.push(ask);
                        if let (Ask::Count { by, .. }, Ok(total)) = (ask, &mut self.store) {
                            *total += by;
                        }
                        self.exchange.answer(self.store, &self.site, &mut self.now, &mut self.wire);
                    }
                    Want::Request | Want::Bytes(_) | Want::Close => return,
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
                Want::Request => ".",
                Want::Bytes(_) => "+",
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
                let (now, later) = rest.split_at(step);
                stage.arrive(now, step);
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
        let longer = "x".repeat(crate::wire::MAX_UNREAD);
        for (request, status) in [
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
            (format!("GET /{longer}"), "414"),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {longer}"), "431"),
            (format!("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{longer}"), "400"),
        ] {
            for at_a_time in [1, 1000, request.len()] {
                let mut stage = Stage::new(Ok(0));
                stage.arrive(request.as_bytes(), at_a_time);
                assert_eq!((&stage.told()[..3], stage.last), (status, Want::Close));
                assert!(stage.asks.is_empty());
            }
        }
    }

    #[test]
    fn pipelined_visits_are_one_ask_and_many_answers() {
        let visit = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut stage = Stage::new(Ok(0));
        let last = "GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stage.arrive((visit.repeat(70) + "GET /total HTTP/1.1\r\nHost: a\r\n\r\n" + visit + last).as_bytes(), 100_000);
        let key = stage.site.counters.main;
        let count = |by| Ask::Count { key, by };
        assert_eq!(stage.asks, [count(64), count(6), Ask::Total { key }, count(1), count(1)]);
        let numbers: Vec<_> = (1..=70).chain([70, 71, 72]).map(|number| format!("200 {number} ")).collect();
        assert_eq!(stage.told(), numbers.concat() + "x");
    }

    #[test]
    fn faults_tell_what_the_visitor_may_do() {
        for (path, fault, told) in [
            ("/count", Fault::Down, "503 not counted, try again: the store is away ."),
            (
                "/count",
                Fault::Lost,
                "504 this visit may have been counted, do not repeat it: the store did not say in time .",
            ),
            ("/count", Fault::Refused(Cause::OutOfMemory), "503 not counted, try again: the store is out of memory ."),
            (
                "/count",
                Fault::Refused(Cause::TooMany),
                "507 not counted: MAX_COUNTERS is reached: existing counters count on, new names are refused; \
                 raise MAX_COUNTERS or remove counters .",
            ),
            ("/total", Fault::Down, "503 no total, try again: the store is away ."),
            ("/readyz", Fault::Down, "503 not ready: the store is away ."),
            ("/", Fault::Down, "200 Hi/no count right now: the store is away ."),
            ("/livez", Fault::Down, "200 alive ."),
        ] {
            let mut stage = Stage::new(Err(fault));
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
        assert_eq!(stage.asks, [Ask::Total { key: stage.site.counters.main }]);
    }

    #[test]
    fn a_client_that_expects_to_be_asked_for_its_body_is() {
        let mut stage = Stage::new(Ok(0));
        let head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        stage.arrive(head, head.len());
        assert_eq!((&stage.out[..], stage.last), (&b"HTTP/1.1 100 Continue\r\n\r\n"[..], Want::Bytes(1)));
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
            (stage.now.leaving, stage.now.closing) = (leaving, closing);
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
        let play = |now: Now, head: &str| {
            let mut stage = Stage { now, ..Stage::new(Ok(6)) };
            stage.site.origins = Origins::new(vec!["http://b".into()]);
            for _ in 0..5 {
                stage.arrive(format!("{head}\r\nGET").as_bytes(), 200);
                stage.arrive(b" /livez HTTP/1.1\r\nHost: a\r\n\r\n", 200);
            }
            (String::from_utf8(stage.out).expect("UTF-8"), stage.asks, stage.now)
        };
        let fresh = || Stage::new(Ok(0)).now;
        for head in heads {
            let (told, asks, _) = play(fresh(), head);
            for before in heads {
                let (again, asked, _) = play(play(fresh(), before).2, head);
                assert_eq!((again, asked), (told.clone(), asks.clone()), "{head} after {before}");
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
            stage.site.records_requests = records_requests;
            stage.arrive(requests.as_bytes(), at_a_time);
            stage.now.micros = 30;
            stage.exchange.time_out(&stage.site, &mut stage.now, &mut stage.wire);
            stage.go_on();
            (String::from_utf8(stage.out).expect("UTF-8"), stage.now.records)
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
        stage.site.records_requests = true;
        stage.now.micros = 100;
        let (method, path) = ("X".repeat(17), "y".repeat(129));
        stage.arrive(format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").as_bytes(), 1000);
        stage.now.micros = 142;
        stage.arrive(format!("x{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 1000);
        let [long_path, long_method] = &stage.now.records[..] else { panic!("{:?}", stage.now.records) };
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
        stage.exchange.time_out(&stage.site, &mut stage.now, &mut stage.wire);
        stage.go_on();
        assert_eq!(stage.told(), "408 the request did not arrive in time x");
    }

    #[test]
    fn each_request_that_has_begun_is_told_from_the_one_before() {
        let mut stage = Stage::new(Ok(0));
        for request in 1..4 {
            stage.arrive(b"GET /count HTTP", 100);
            assert_eq!(stage.last, Want::Bytes(request));
            stage.arrive(b"/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 100);
            assert_eq!(stage.last, Want::Bytes(request));
            stage.arrive(b"x", 1);
        }
    }

    #[test]
    fn a_client_that_does_not_read_gets_no_more_written() {
        let mut wire = Wire::default();
        let mut exchange = Exchange::default();
        let (site, mut now) = (site(), Now::default());
        while !wire.is_full() {
            let room = wire.room().remaining_mut();
            let request = b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n";
            wire.room().put_slice(&request[..room.min(request.len())]);
        }
        assert_eq!(exchange.next(&site, &mut now, &mut wire), Want::Room);
        assert!(wire.unsent().len() < 2 * MAX_UNSENT);
        let sent = wire.unsent().len();
        wire.sent(sent);
        assert_eq!(exchange.next(&site, &mut now, &mut wire), Want::Room);
    }
}
