//! A client that sends arbitrary bytes to an [`HttpConnection`].
//!
//! - The same bytes in other pieces get the same responses and cause the same commands. A draining server may close
//!   after any response: then its responses are a prefix of those.
//! - httparse parses each response, with the fields and the length that it should have.
//! - Each of `n` visits gets its own number, the last one that of the store.
//! - Received and pending bytes stay bounded, and there is room for bytes that are needed.

use bytes::BufMut;
use notch::buffers::{Buffers, MAX_RECEIVED};
use notch::connection::{HttpConnection, Need, Origins, ServerContext, WorkerContext};
use notch::counter::{Command, Counters, Key, Names, Rejection, StoreError};

use super::arrival::{Arrival, Pieces};

/// Most pending bytes: 16 KiB, and the responses to 64 coalesced visits.
const MAX_PENDING: usize = 16 * 1024 + 64 * 512;

/// Longest response in bytes: a page.
const MAX_RESPONSE: usize = 8 * 1024;

/// Checks the properties for a client that sends `data`. The store fails for counters named `down`, `lost` and `full`.
pub fn holds(data: &[u8]) {
    // A line is only parsed once its end has arrived, so an end is added.
    let stream = [data, b"\n"].concat();
    for draining in [false, true] {
        let [whole, others @ ..] = Pieces::of(&stream).map(|pieces| Simulation::play(&stream, pieces, draining));
        for other in others {
            if draining {
                whole.agrees_with(&other);
            } else {
                assert_eq!(whole, other, "the pieces change the result");
            }
        }
        let head_only = whole.responses.iter().filter(|response| response.is_head_only).count();
        let head_requests = stream.windows(5).filter(|window| window == b"HEAD ").count();
        assert!(head_only <= head_requests, "a response without the body that it announces");
    }
}

/// The result of a simulation.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    responses: Vec<Response>,
    /// Coalesced visits are listed one by one.
    commands: Vec<Command>,
    closed: bool,
}

impl Outcome {
    /// Checks that one of the two is a prefix of the other, and was closed there.
    fn agrees_with(&self, other: &Self) {
        let (short, long) = if self.responses.len() <= other.responses.len() { (self, other) } else { (other, self) };
        assert!(short.responses.len() == long.responses.len() || short.closed, "responses are missing");
        for (one, other) in short.responses.iter().zip(&long.responses) {
            assert_eq!(Response { closes: true, ..one.clone() }, Response { closes: true, ..other.clone() });
        }
        assert!(long.commands.starts_with(&short.commands), "{:?} {:?}", short.commands, long.commands);
    }
}

/// A client, a connection and a store that counts in memory.
struct Simulation {
    context: ServerContext,
    worker: WorkerContext,
    buffers: Buffers,
    connection: HttpConnection,
    totals: Vec<(Key, i64)>,
    commands: Vec<Command>,
    out: Vec<u8>,
}

impl Simulation {
    fn play(stream: &[u8], pieces: Pieces, draining: bool) -> Outcome {
        let main = Key::new(b"visits").expect("a good name");
        let names = Names::List(["blog", "down", "lost", "full"].map(str::to_owned).to_vec());
        let origins = Origins::new(vec!["http://a".to_owned()]);
        let served_by = "here".to_owned();
        let context = ServerContext { origins, served_by, ..ServerContext::new(Counters { main, names }) };
        let mut worker = WorkerContext::default();
        worker.draining = draining;
        worker.set_time(784_111_777);
        let (buffers, connection) = (Buffers::default(), HttpConnection::default());
        let simulation =
            Self { context, worker, buffers, connection, totals: Vec::new(), commands: Vec::new(), out: Vec::new() };
        simulation.run(Arrival::new(stream, pieces), pieces == Pieces::Single)
    }

    /// Serves the connection as a driver does. A lazy driver sends only when it has to.
    fn run(mut self, mut arrival: Arrival<'_>, lazy: bool) -> Outcome {
        let closed = loop {
            let need = self.connection.advance(&self.context, &mut self.worker, &mut self.buffers);
            assert!(self.buffers.pending().len() <= MAX_PENDING && self.buffers.received().len() <= MAX_RECEIVED);
            if !lazy || !matches!(need, Need::Store | Need::Totals) {
                assert!(
                    need != Need::Room || !self.buffers.pending().is_empty(),
                    "requires free space although there is some"
                );
                self.send();
            }
            match need {
                Need::Room => {}
                Need::Store => self.command(self.connection.command()),
                Need::Totals => self.read_totals(),
                Need::Request | Need::Bytes(_) if arrival.is_over() => break false,
                Need::Request | Need::Bytes(_) => {
                    let room = self.buffers.read_buf().remaining_mut();
                    assert!(room > 0, "needs bytes without room for them");
                    self.buffers.read_buf().put_slice(arrival.next(room));
                }
                Need::Close => break true,
            }
        };
        let responses = responses(&self.out);
        let (ends, last) = (responses.iter().filter(|response| response.closes).count(), responses.last());
        assert_eq!(
            (ends, last.is_some_and(|last| last.closes)),
            (usize::from(closed), closed),
            "the last response announces it"
        );
        Outcome { responses, commands: self.commands, closed }
    }

    fn send(&mut self) {
        self.out.extend_from_slice(self.buffers.pending());
        let sent = self.buffers.pending().len();
        self.buffers.mark_sent(sent);
    }

    fn command(&mut self, command: Command) {
        let total = self.store(command);
        let before = self.buffers.pending().len();
        self.connection.complete(total, &self.context, &mut self.worker, &mut self.buffers);
        let responses = responses(&self.buffers.pending()[before..]);
        match command {
            Command::Increment { key, by } => {
                assert_eq!(responses.len() as i64, by, "as many responses as visits");
                for (position, response) in (1..).zip(responses) {
                    response.check_visit(&key, total.map(|total| total - by + position));
                    self.commands.push(Command::Increment { key, by: 1 });
                }
            }
            _ => {
                assert_eq!(responses.len(), 1);
                self.commands.push(command);
            }
        }
    }

    fn read_totals(&mut self) {
        let keys = self.connection.counters().to_vec();
        assert!((1..=32).contains(&keys.len()));
        let commands = keys.iter().map(|&key| Command::Get { key });
        self.commands.extend(commands.clone());
        let totals: Result<Vec<_>, _> = commands.map(|command| self.store(command)).collect();
        let is_complete = totals.is_ok();
        let before = self.buffers.pending().len();
        self.connection.complete_totals(totals, &self.context, &mut self.worker, &mut self.buffers);
        let responses = responses(&self.buffers.pending()[before..]);
        assert_eq!(
            responses.iter().map(|response| response.code).collect::<Vec<_>>(),
            [if is_complete { 200 } else { 503 }]
        );
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

/// A response as a client parses it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Response {
    code: u16,
    body: Vec<u8>,
    retry: bool,
    closes: bool,
    /// Its body was left out although the fields describe it.
    is_head_only: bool,
}

impl Response {
    fn check_visit(&self, key: &Key, number: Result<i64, StoreError>) {
        let body = String::from_utf8_lossy(&self.body);
        assert!(!self.is_head_only);
        match number {
            Ok(number) => {
                let has_number = match body.get(..4) {
                    Some("<!do") => body.replace(',', "").contains(&format!("<b>{number}</b>")),
                    Some("GIF8") => self.body.len() == 43,
                    Some("<svg") => body.contains(&format!(">{number}<")),
                    Some("{\"co") => *body == format!("{{\"counter\":\"{key:?}\",\"count\":{number}}}\n"),
                    _ => *body == format!("{number}\n"),
                };
                assert!(self.code == 200 && has_number, "{number}: {self:?}");
            }
            // Only a visit that is certainly not counted may be repeated.
            Err(StoreError::OutcomeUnknown) => assert!(self.code == 504 && !self.retry, "{self:?}"),
            Err(_) => assert!(self.code == 503 && self.retry, "{self:?}"),
        }
    }
}

/// Splits the output into responses, without interim ones, which depend on the pieces.
fn responses(mut out: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while !out.is_empty() {
        let (response, used) = response(out);
        out = &out[used..];
        responses.extend(response);
    }
    responses
}

fn response(out: &[u8]) -> (Option<Response>, usize) {
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
    // No body begins like a response.
    let is_head_only = length > 0 && (out.len() == head || out[head..].starts_with(b"HTTP/1.1 "));
    // Without a length, it is the head alone of a response whose number is not counted.
    let is_head_only = is_head_only || (code != 204 && number("Content-Length").is_none());
    let end = head + if is_head_only { 0 } else { length };
    assert!(end <= MAX_RESPONSE.min(out.len()), "a response longer than allowed, or than received");
    let closes = field("Connection") == Some(b"close");
    let retry = number("Retry-After").is_some();
    (Some(Response { code, body: out[head..end].to_vec(), retry, closes, is_head_only }), end)
}
