//! One client's connection: requests in, answers out, and in between a question to the store.
//!
//! The driver calls [`Exchange::next`] and does what it [`Want`]s, over and over; that is all it ever sees of HTTP.
//! Requests are answered in order. Visits that a client has pipelined go to the store as one ask, since they need only
//! be told apart when their numbers are there.

use httpdate::HttpDate;
use std::time::{Duration, SystemTime};

use crate::counter::{Ask, Counters, Decimal, Fault};
use crate::http::{self, Answer, Body, Connection, Framing, Reject, Status};
use crate::render::{self, Form, Welcome};
use crate::routes::{self, Act, Plan};
use crate::wire::Wire;

/// What all answers of a server have in common.
pub struct Site {
    /// What is counted here.
    pub counters: Counters,
    /// `X-Served-By`.
    pub served_by: String,
    /// The sentence of the start page.
    pub welcome: Welcome,
}

/// What changes while a server runs, and the answers along with it.
pub struct Now {
    second: Option<u64>,
    date: [u8; 29],
    /// The server is about to go: it says so at `/readyz`.
    pub leaving: bool,
    /// Connections close after the answer under way.
    pub closing: bool,
}

impl Default for Now {
    fn default() -> Self {
        Self { second: None, date: [b' '; 29], leaving: false, closing: false }
    }
}

impl Now {
    /// Sets the time in seconds since 1970. The date is rendered once a second.
    pub fn set(&mut self, second: u64) {
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        // httpdate knows no year beyond 9999.
        let second = second.min(LAST_SECOND);
        let date = HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).to_string();
        self.date.copy_from_slice(date.as_bytes());
    }
}

/// What an exchange needs before it can go on. Before it waits for any of this, a driver sends what is unsent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The first byte of a request.
    Request,
    /// More bytes of the request that has begun.
    Bytes,
    /// Room in the output: everything unsent has to be sent first.
    Room,
    /// The store's answer, by [`Exchange::answer`].
    Total(Ask),
    /// Nothing more: the connection is to be closed once everything is sent.
    Close,
}

/// The state of one connection; it lives as long as its socket.
#[derive(Default)]
pub struct Exchange {
    state: State,
    /// So much of what is unread holds no whole head.
    searched: usize,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body(Turn, Body),
    Asked(Turn, i64),
    Closed,
}

/// A request whose answer is due.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Turn {
    plan: Plan,
    connection: Connection,
}

impl Exchange {
    /// Goes on as far as it can with the bytes that are there.
    pub fn next(&mut self, site: &Site, now: &Now, wire: &mut Wire) -> Want {
        loop {
            if wire.unsent().len() > MAX_UNSENT {
                return Want::Room;
            }
            let step = match self.state {
                State::Head => self.head(site, wire),
                State::Body(turn, body) => self.body(turn, body, site, now, wire),
                State::Asked(turn, visits) => Ok(Some(Want::Total(turn.ask(visits)))),
                State::Closed => Ok(Some(Want::Close)),
            };
            match step {
                Ok(Some(want)) => return want,
                Ok(None) => {}
                Err(reject) => self.refuse(reject, site, now, wire),
            }
        }
    }

    /// Takes the store's answer to [`Want::Total`].
    pub fn answer(&mut self, total: Result<i64, Fault>, site: &Site, now: &Now, wire: &mut Wire) {
        let State::Asked(turn, visits) = self.state else { return };
        for place in 1..visits {
            // The store gave the number of the last.
            turn.answer(total.map(|total| total.wrapping_sub(visits - place)), site, now, wire);
        }
        self.finish(turn, total, site, now, wire);
    }

    /// Refuses a request that has begun and does not come to its end in time.
    pub fn time_out(&mut self, site: &Site, now: &Now, wire: &mut Wire) {
        self.refuse(http::TIMED_OUT, site, now, wire);
    }

    fn head(&mut self, site: &Site, wire: &mut Wire) -> Result<Option<Want>, Reject> {
        let Some((turn, framing, used)) = self.read(site, wire)? else {
            return Ok(Some(if wire.unread().is_empty() { Want::Request } else { Want::Bytes }));
        };
        wire.consume(used);
        if framing.expects && wire.unread().is_empty() {
            http::go_on(wire.output());
        }
        self.state = State::Body(turn, framing.body);
        Ok(None)
    }

    /// Reads the next head, if it is there. Half a head is not read again before another line of it has come.
    fn read(&mut self, site: &Site, wire: &Wire) -> Result<Option<(Turn, Framing, usize)>, Reject> {
        let unread = wire.unread();
        if unread[self.searched..].contains(&b'\n')
            && let Some((head, used)) = http::head(unread)?
        {
            self.searched = 0;
            let plan = routes::plan(&head, &site.counters);
            return Ok(Some((Turn { plan, connection: connection(&head.framing) }, head.framing, used)));
        }
        self.searched = unread.len();
        if wire.is_full() { Err(http::overflow(unread)) } else { Ok(None) }
    }

    fn body(
        &mut self,
        turn: Turn,
        mut body: Body,
        site: &Site,
        now: &Now,
        wire: &mut Wire,
    ) -> Result<Option<Want>, Reject> {
        let used = body.skip(wire.unread())?;
        wire.consume(used);
        if !body.is_over() {
            self.state = State::Body(turn, body);
            return Ok(Some(Want::Bytes));
        }
        if turn.asks(now) {
            self.state = State::Asked(turn, self.run(turn, site, wire));
        } else {
            self.finish(turn, Ok(0), site, now, wire);
        }
        Ok(None)
    }

    /// Takes the requests behind a visit that are just like it, and says how many visits it then is.
    fn run(&mut self, turn: Turn, site: &Site, wire: &mut Wire) -> i64 {
        let mut visits = 1;
        while let Act::Count(_) = turn.plan.act
            && turn.connection != Connection::Close
            && visits < MAX_RUN
            && let Ok(Some((next, framing, used))) = self.read(site, wire)
            && next == turn
            && framing.body.is_over()
        {
            wire.consume(used);
            visits += 1;
        }
        // What was not taken has to be read again.
        self.searched = 0;
        visits
    }

    /// Writes the last answer that is due, and decides whether another request may follow.
    fn finish(&mut self, turn: Turn, total: Result<i64, Fault>, site: &Site, now: &Now, wire: &mut Wire) {
        let connection = if now.closing { Connection::Close } else { turn.connection };
        Turn { connection, ..turn }.answer(total, site, now, wire);
        self.state = if connection == Connection::Close { State::Closed } else { State::Head };
    }

    fn refuse(&mut self, reject: Reject, site: &Site, now: &Now, wire: &mut Wire) {
        let answer = Answer { connection: Connection::Close, ..plain(reject.status, Form::Text) };
        let body = render::line(Form::Text, "error", [reject.words, ""]);
        http::answer(wire.output(), &answer, &now.date, &site.served_by, &body);
        self.state = State::Closed;
    }
}

impl Turn {
    /// Whether the store has to be asked. A server that is about to go is not ready, whatever the store says.
    fn asks(&self, now: &Now) -> bool {
        match self.plan.act {
            Act::Welcome(_) | Act::Count(_) | Act::Total(_) => true,
            Act::Ready => !now.leaving,
            _ => false,
        }
    }

    fn ask(&self, visits: i64) -> Ask {
        match self.plan.act {
            Act::Count(key) => Ask::Count { key, by: visits },
            Act::Welcome(key) | Act::Total(key) => Ask::Total { key },
            _ => Ask::Ping,
        }
    }

    /// Writes the answer; `total` is the store's, where it was asked.
    fn answer(&self, total: Result<i64, Fault>, site: &Site, now: &Now, wire: &mut Wire) {
        let Plan { act, form, bare } = self.plan;
        let mut write = |answer: Answer, body: &[&[u8]]| {
            let answer = Answer { bare, connection: self.connection, ..answer };
            http::answer(wire.output(), &answer, &now.date, &site.served_by, body);
        };
        let number = total.map(Decimal::new);
        let (ok, number) = (plain(OK, form), number.as_ref().map_err(|fault| *fault));
        let error = |words| render::line(form, "error", words);
        match (act, number) {
            (Act::Welcome(key), number) => write(ok, &site.welcome.page(form, &key, number)),
            (Act::Count(key) | Act::Total(key), Ok(number)) => write(ok, &render::count(form, &key, number)),
            (Act::Ready, _) if now.leaving => write(away(form), &error(["not ready: this server is about to go", ""])),
            (Act::Live, _) => write(ok, &render::line(form, "status", ["alive", ""])),
            (Act::Ready, Ok(_)) => write(ok, &render::line(form, "status", ["ready", ""])),
            (Act::Count(_), Err(Fault::Lost)) => {
                write(plain(IN_DOUBT, form), &error([DOUBT, render::why(Fault::Lost)]))
            }
            (Act::Count(_), Err(fault)) => write(away(form), &error(["not counted, try again: ", render::why(fault)])),
            (Act::Total(_), Err(fault)) => write(away(form), &error(["no total, try again: ", render::why(fault)])),
            (Act::Ready, Err(fault)) => write(away(form), &error(["not ready: ", render::why(fault)])),
            (Act::Icon, _) => write(Answer { media: None, cache: A_DAY, ..plain(NO_CONTENT, form) }, &[]),
            (Act::Robots, _) => write(Answer { cache: A_DAY, ..plain(OK, Form::Text) }, &[ROBOTS]),
            (Act::Unknown, _) => write(plain(NOT_FOUND, form), &error(["nothing is here: try /count or /total", ""])),
            (Act::Allow(methods), _) => {
                let answer = Answer { allow: Some(methods), ..plain(NOT_ALLOWED, form) };
                write(answer, &error(["this method is not allowed here: use one of ", methods]));
            }
        }
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

/// An answer as most are: of this moment only.
fn plain(status: Status, form: Form) -> Answer {
    Answer {
        status,
        media: Some(form.media()),
        cache: "no-store",
        allow: None,
        retry_after: None,
        bare: false,
        connection: Connection::Open,
    }
}

/// Surely not counted: to be tried again, here or elsewhere.
fn away(form: Form) -> Answer {
    Answer { retry_after: Some(1), ..plain(UNAVAILABLE, form) }
}

const OK: Status = Status("200 OK");
const NO_CONTENT: Status = Status("204 No Content");
const NOT_FOUND: Status = Status("404 Not Found");
const NOT_ALLOWED: Status = Status("405 Method Not Allowed");
const UNAVAILABLE: Status = Status("503 Service Unavailable");
const IN_DOUBT: Status = Status("504 Gateway Timeout");

const DOUBT: &str = "this visit may have been counted, do not repeat it: ";

/// For what never changes while a server runs.
const A_DAY: &str = "public, max-age=86400";

const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /count\nDisallow: /badge\n";

/// With so many bytes unsent, a client that does not read gets no further answers written.
const MAX_UNSENT: usize = 16 * 1024;

/// Most pipelined visits in one ask; their answers are written in one go.
const MAX_RUN: i64 = 64;

/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
