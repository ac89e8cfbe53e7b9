//! A client that sends anything at all to an [`Exchange`].
//!
//! - The same bytes in other pieces get the same answers, and ask the same of the store. A server that is about to go
//!   may close after any of them: then they are the first of those answers.
//! - Every answer is one that httparse reads, with the fields and the length that it should have.
//! - Of `n` visits, each is told a number of its own, the last that of the store.
//! - What is unread and unsent stays bounded, and whoever wants bytes has room for them.

use bytes::BufMut;
use notch::buffers::{Buffers, MAX_RECEIVED};
use notch::connection::{HttpConnection, Need, ServerContext, WorkerContext};
use notch::cors::Origins;
use notch::counter::{Command, Counters, Key, Names, Rejection, StoreError};
use notch::metrics::{Metrics, ServerInfo};
use notch::render::Welcome;

use super::arrival::{Arrival, Pieces};

/// Most bytes unsent: 16 KiB, and 64 answers of a run.
const MAX_UNSENT: usize = 16 * 1024 + 64 * 512;

/// Longest answer in bytes: a page.
const MAX_ANSWER: usize = 8 * 1024;

/// `data` is what the client sends. Counters named `down`, `lost` and `full` have the store fail in these ways.
pub fn holds(data: &[u8]) {
    // Nobody looks at a line before its end has come; so one comes, and all there is has been looked at.
    let stream = [data, b"\n"].concat();
    for leaving in [false, true] {
        let [whole, others @ ..] = Pieces::of(&stream).map(|pieces| Visit::play(&stream, pieces, leaving));
        for other in others {
            if leaving {
                whole.agrees_with(&other);
            } else {
                assert_eq!(whole, other, "other pieces, another story");
            }
        }
        let bare = whole.answers.iter().filter(|answer| answer.is_bare).count();
        let asked = stream.windows(5).filter(|window| window == b"HEAD ").count();
        assert!(bare <= asked, "an answer without the body that it announces");
    }
}

/// What came of it all.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    answers: Vec<Answer>,
    /// A run of visits is as many asks.
    commands: Vec<Command>,
    closed: bool,
}

impl Told {
    /// One of the two is how the other begins, and was closed there.
    fn agrees_with(&self, other: &Self) {
        let (short, long) = if self.answers.len() <= other.answers.len() { (self, other) } else { (other, self) };
        assert!(short.answers.len() == long.answers.len() || short.closed, "answers are missing");
        for (one, other) in short.answers.iter().zip(&long.answers) {
            assert_eq!(Answer { closes: true, ..one.clone() }, Answer { closes: true, ..other.clone() });
        }
        assert!(long.commands.starts_with(&short.commands), "{:?} {:?}", short.commands, long.commands);
    }
}

/// A client, an exchange and a store that counts in memory.
struct Visit {
    context: ServerContext,
    now: WorkerContext,
    buffers: Buffers,
    connection: HttpConnection,
    totals: Vec<(Key, i64)>,
    commands: Vec<Command>,
    out: Vec<u8>,
}

impl Visit {
    fn play(stream: &[u8], pieces: Pieces, leaving: bool) -> Told {
        let main = Key::new(b"visits").expect("a good name");
        let names = Names::List(["blog", "down", "lost", "full"].map(str::to_owned).to_vec());
        let metrics = Metrics::new(ServerInfo::default(), 1, false);
        let (counters, served_by) = (Counters { main, names }, "here".to_owned());
        let origins = Origins::new(vec!["http://a".to_owned()]);
        let welcome = Welcome::new("Hi");
        let context = ServerContext { counters, origins, served_by, welcome, metrics, records_requests: false };
        let mut now = WorkerContext::default();
        now.draining = leaving;
        now.set_time(784_111_777);
        let (buffers, connection) = (Buffers::default(), HttpConnection::default());
        let visit =
            Self { context, now, buffers, connection, totals: Vec::new(), commands: Vec::new(), out: Vec::new() };
        visit.run(Arrival::new(stream, pieces), pieces == Pieces::Single)
    }

    /// Does what a driver does. A lazy one lets the answers pile up for as long as it may.
    fn run(mut self, mut arrival: Arrival<'_>, lazy: bool) -> Told {
        let closed = loop {
            let want = self.connection.advance(&self.context, &mut self.now, &mut self.buffers);
            assert!(self.buffers.pending().len() <= MAX_UNSENT && self.buffers.received().len() <= MAX_RECEIVED);
            if !lazy || want != Need::Store {
                assert!(want != Need::Room || !self.buffers.pending().is_empty(), "wants room, and has it");
                self.send();
            }
            match want {
                Need::Room => {}
                Need::Store => self.command(self.connection.command()),
                Need::Request | Need::Bytes(_) if arrival.is_over() => break false,
                Need::Request | Need::Bytes(_) => {
                    let room = self.buffers.read_buf().remaining_mut();
                    assert!(room > 0, "wants bytes, and has no room for them");
                    self.buffers.read_buf().put_slice(arrival.next(room));
                }
                Need::Close => break true,
            }
        };
        let answers = answers(&self.out);
        let (ends, last) = (answers.iter().filter(|answer| answer.closes).count(), answers.last());
        assert_eq!((ends, last.is_some_and(|last| last.closes)), (usize::from(closed), closed), "an answer says so");
        Told { answers, commands: self.commands, closed }
    }

    fn send(&mut self) {
        self.out.extend_from_slice(self.buffers.pending());
        let sent = self.buffers.pending().len();
        self.buffers.mark_sent(sent);
    }

    fn command(&mut self, command: Command) {
        let total = self.store(command);
        let before = self.buffers.pending().len();
        self.connection.complete(total, &self.context, &mut self.now, &mut self.buffers);
        let answers = answers(&self.buffers.pending()[before..]);
        match command {
            Command::Increment { key, by } => {
                assert_eq!(answers.len() as i64, by, "as many answers as visits");
                for (place, answer) in (1..).zip(answers) {
                    answer.tells_a_visit(&key, total.map(|total| total - by + place));
                    self.commands.push(Command::Increment { key, by: 1 });
                }
            }
            _ => {
                assert_eq!(answers.len(), 1);
                self.commands.push(command);
            }
        }
    }

    fn store(&mut self, command: Command) -> Result<i64, StoreError> {
        let Some(key) = command.key() else { return Ok(0) };
        match key.as_bytes() {
            b"visits:down" => return Err(StoreError::Unavailable),
            b"visits:lost" => return Err(StoreError::OutcomeUnknown),
            b"visits:full" => return Err(StoreError::Rejected(Rejection::Overflow)),
            _ => {}
        }
        let at = self.totals.iter().position(|(other, _)| *other == *key).unwrap_or(self.totals.len());
        if at == self.totals.len() {
            self.totals.push((*key, 0));
        }
        if let Command::Increment { by, .. } = command {
            assert!(by > 0, "a count of nothing");
            self.totals[at].1 += by;
        }
        Ok(self.totals[at].1)
    }
}

/// An answer as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    code: u16,
    body: Vec<u8>,
    retry: bool,
    closes: bool,
    /// Its body stayed away although it is described.
    is_bare: bool,
}

impl Answer {
    fn tells_a_visit(&self, key: &Key, number: Result<i64, StoreError>) {
        let body = String::from_utf8_lossy(&self.body);
        assert!(!self.is_bare);
        match number {
            Ok(number) => {
                let said = match body.get(..4) {
                    Some("<!do") => body.replace(',', "").contains(&format!("<b>{number}</b>")),
                    Some("<svg") => body.contains(&format!(">{number}<")),
                    Some("{\"co") => *body == format!("{{\"counter\":\"{key:?}\",\"count\":{number}}}\n"),
                    _ => *body == format!("{number}\n"),
                };
                assert!(self.code == 200 && said, "{number}: {self:?}");
            }
            // Only what is surely not counted may be tried again.
            Err(StoreError::OutcomeUnknown) => assert!(self.code == 504 && !self.retry, "{self:?}"),
            Err(_) => assert!(self.code == 503 && self.retry, "{self:?}"),
        }
    }
}

/// Splits what was sent into its answers. Those that only let a client go on are left out: whether they are needed is
/// a matter of pieces.
fn answers(mut out: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !out.is_empty() {
        let (answer, used) = answer(out);
        out = &out[used..];
        answers.extend(answer);
    }
    answers
}

fn answer(out: &[u8]) -> (Option<Answer>, usize) {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head)) = response.parse(out) else { panic!("{}", out.escape_ascii()) };
    let code = response.code.expect("a code");
    assert_eq!(response.version, Some(1));
    if code == 100 {
        assert!(response.headers.is_empty());
        return (None, head);
    }
    let field = |name: &str| {
        let mut values = response.headers.iter().filter(|field| field.name == name).map(|field| field.value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    };
    let number = |name| field(name).map(|digits| String::from_utf8_lossy(digits).parse::<usize>().expect("a number"));
    assert_eq!(field("Date"), Some(&b"Sun, 06 Nov 1994 08:49:37 GMT"[..]));
    assert_eq!(field("X-Served-By"), Some(&b"here"[..]));
    assert!(code != 204 || number("Content-Length").is_none());
    let preflight = field("Access-Control-Allow-Methods");
    assert!(preflight.is_none() || (code == 204 && field("Allow") == preflight));
    assert_eq!(field("Allow").is_some(), code == 405 || preflight.is_some());
    assert!([200, 204, 400, 403, 404, 405, 413, 414, 417, 431, 501, 503, 504, 505].contains(&code), "{code}");
    let length = number("Content-Length").unwrap_or(0);
    // No body of ours begins like an answer.
    let is_bare = length > 0 && (out.len() == head || out[head..].starts_with(b"HTTP/1.1 "));
    // Without a length, it is the head alone of a response whose number is not counted.
    let is_bare = is_bare || (code != 204 && number("Content-Length").is_none());
    let end = head + if is_bare { 0 } else { length };
    assert!(end <= MAX_ANSWER.min(out.len()), "an answer longer than it may be, or than it came");
    let closes = field("Connection") == Some(b"close");
    let retry = number("Retry-After").is_some();
    (Some(Answer { code, body: out[head..end].to_vec(), retry, closes, is_bare }), end)
}
