use super::responses::INVALID_COUNTER;
use super::*;
use crate::counter::{Key, Names, Rejection};
use crate::http::Status;
use bytes::BufMut;

pub(super) fn context() -> ServerContext {
    let main = Key::new(b"visits").expect("a good name");
    let names = Names::List(vec!["blog".into()]);
    let (served_by, welcome) = ("here".into(), Welcome::new("Hi"));
    ServerContext { served_by, welcome, ..ServerContext::new(Counters { main, names }) }
}

/// A client, a server and a store that counts in memory.
struct Simulation {
    context: ServerContext,
    worker: WorkerContext,
    buffers: Buffers,
    connection: HttpConnection,
    store: Result<i64, StoreError>,
    commands: Vec<Command>,
    out: Vec<u8>,
    last: Need,
}

impl Simulation {
    fn new(store: Result<i64, StoreError>) -> Self {
        let mut worker = WorkerContext::default();
        worker.set_time(784_111_777);
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

    /// Receives `bytes` in pieces of `at_a_time` bytes, and serves the connection's needs after each piece.
    fn receive(&mut self, mut bytes: &[u8], at_a_time: usize) {
        loop {
            self.serve_needs();
            if self.last == Need::Close || bytes.is_empty() {
                return;
            }
            let room = self.buffers.read_buf().remaining_mut();
            let (piece, rest) = bytes.split_at(at_a_time.min(bytes.len()).min(room));
            self.buffers.read_buf().put_slice(piece);
            bytes = rest;
        }
    }

    fn serve_needs(&mut self) {
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
                Need::Totals => {
                    let totals = self.connection.counters().iter().map(|_| self.store).collect();
                    self.connection.complete_totals(totals, &self.context, &mut self.worker, &mut self.buffers);
                }
                Need::Request | Need::Bytes(_) | Need::Close => return,
            }
        }
    }

    /// Returns the responses so far, each as its code and its body, and what the connection waits for.
    fn transcript(&self) -> String {
        let mut transcript = String::new();
        let mut rest = std::str::from_utf8(&self.out).expect("UTF-8");
        while let Some((head, after)) = rest.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.map_or(0, |length| length.parse().expect("a length"));
            let (body, next) = after.split_at(length);
            transcript += &head["HTTP/1.1 ".len()..][..3];
            transcript += &format!(" {} ", body.trim_end().replace('\n', "/")).replace("  ", " ");
            rest = next;
        }
        assert_eq!(rest, "");
        transcript
            + match self.last {
                Need::Request => ".",
                Need::Bytes(_) => "+",
                _ => "x",
            }
    }
}

/// Returns the transcript of `request`, which must be the same whole, cut in two at any byte, and byte by byte.
fn transcript_of(request: &str) -> String {
    let play = |steps: &[usize]| {
        let mut simulation = Simulation::new(Ok(6));
        let mut rest = request.as_bytes();
        for &step in steps {
            let (piece, later) = rest.split_at(step);
            simulation.receive(piece, step);
            rest = later;
        }
        simulation.receive(rest, rest.len().max(1));
        simulation.transcript()
    };
    let whole = play(&[]);
    for cut in 1..request.len() {
        assert_eq!(play(&[cut]), whole, "{request:?} cut at {cut}");
    }
    assert_eq!(play(&vec![1; request.len()]), whole, "{request:?} byte by byte");
    whole
}

#[test]
fn each_request_gets_its_response() {
    const PREFETCHED: &str = "403 not counted: this is a prefetch, and the visit is counted when it is made .";
    // `.` waits for the next request, `+` for the rest of this one, `x` closes.
    for (request, transcript) in [
        ("GET /count HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
        ("POST /count HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
        ("GET /count/blog HTTP/1.1\r\nHost: a\r\n\r\n", "200 7 ."),
        ("GET /total/blog HTTP/1.1\r\nHost: a\r\n\r\n", "200 6 ."),
        ("GET /total HTTP/1.1\r\nHost: a\r\n\r\n", "200 6 ."),
        ("GET /total?names=blog HTTP/1.1\r\nHost: a\r\n\r\n", "200 {\"counts\":{\"blog\":6}} ."),
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
        ("GET /count/shop HTTP/1.1\r\nHost: a\r\n\r\n", &format!("404 {INVALID_COUNTER} .")),
        ("GET /badge/shop.json HTTP/1.1\r\nHost: a\r\n\r\n", &format!("404 {INVALID_COUNTER} .")),
        ("GET /count/ HTTP/1.1\r\nHost: a\r\n\r\n", "404 nothing is here: try /count or /total ."),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "404 nothing is here: try /count or /total ."),
    ] {
        assert_eq!(transcript_of(request), transcript, "{request:?}");
    }
}

#[test]
fn invalid_requests_are_rejected_and_close() {
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
        ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
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
        let transcript = transcript_of(request);
        assert_eq!((&transcript[..3], transcript.ends_with('x')), (status, true), "{request:?} {transcript}");
    }
}

#[test]
fn head_length_is_limited() {
    let long = "x".repeat(http::MAX_TARGET);
    let longer = "x".repeat(crate::buffers::MAX_RECEIVED);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
        (format!("GET /{longer}"), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {longer}"), "431"),
        (format!("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{longer}"), "400"),
    ] {
        for at_a_time in [1, 1000, request.len()] {
            let mut simulation = Simulation::new(Ok(0));
            simulation.receive(request.as_bytes(), at_a_time);
            assert_eq!((&simulation.transcript()[..3], simulation.last), (status, Need::Close));
            assert!(simulation.commands.is_empty());
        }
    }
}

#[test]
fn pipelined_visits_become_one_command_and_many_responses() {
    let visit = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut simulation = Simulation::new(Ok(0));
    let last = "GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    simulation
        .receive((visit.repeat(70) + "GET /total HTTP/1.1\r\nHost: a\r\n\r\n" + visit + last).as_bytes(), 100_000);
    let key = simulation.context.counters.main;
    let count = |by| Command::Increment { key, by };
    assert_eq!(simulation.commands, [count(64), count(6), Command::Get { key }, count(1), count(1)]);
    let numbers: Vec<_> = (1..=70).chain([70, 71, 72]).map(|number| format!("200 {number} ")).collect();
    assert_eq!(simulation.transcript(), numbers.concat() + "x");
}

#[test]
fn store_errors_become_statuses_and_messages() {
    for (path, error, transcript) in [
        ("/count", StoreError::Unavailable, "503 not counted, try again: the store is unavailable ."),
        (
            "/count",
            StoreError::OutcomeUnknown,
            "504 this visit may have been counted, do not repeat it: the store did not reply in time .",
        ),
        (
            "/count",
            StoreError::Rejected(Rejection::OutOfMemory),
            "503 not counted, try again: the store is out of memory .",
        ),
        (
            "/count",
            StoreError::Rejected(Rejection::TooManyCounters),
            "507 not counted: MAX_COUNTERS is reached: existing counters are counted, new names are rejected; \
             raise MAX_COUNTERS or remove counters .",
        ),
        ("/total", StoreError::Unavailable, "503 no total, try again: the store is unavailable ."),
        ("/readyz", StoreError::Unavailable, "503 not ready: the store is unavailable ."),
        ("/", StoreError::Unavailable, "200 Hi/no count right now: the store is unavailable ."),
        ("/livez", StoreError::Unavailable, "200 alive ."),
    ] {
        let mut simulation = Simulation::new(Err(error));
        simulation.receive(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 100);
        assert_eq!(simulation.transcript(), transcript);
        let retry = String::from_utf8_lossy(&simulation.out).contains("\r\nRetry-After: 1\r\n");
        assert_eq!(retry, transcript.starts_with("503"), "{transcript}");
    }
}

#[test]
fn response_fields_of_a_visit() {
    let mut simulation = Simulation::new(Ok(41));
    simulation.receive(b"GET /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 100);
    assert_eq!(
        String::from_utf8_lossy(&simulation.out),
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 3\r\nCache-Control: no-store\r\nX-Served-By: here\r\nConnection: keep-alive\r\n\r\n42\n"
    );
}

#[test]
fn head_request_gets_no_body_and_does_not_count() {
    let mut simulation = Simulation::new(Ok(41));
    simulation.receive(b"HEAD /count HTTP/1.1\r\nHost: a\r\n\r\n", 100);
    let out = String::from_utf8_lossy(&simulation.out);
    assert!(!out.contains("Content-Length") && out.ends_with("\r\n\r\n"), "{out}");
    assert_eq!(simulation.commands, [Command::Get { key: simulation.context.counters.main }]);
}

#[test]
fn expect_continue_gets_an_interim_response() {
    let mut simulation = Simulation::new(Ok(0));
    let head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    simulation.receive(head, head.len());
    assert_eq!((&simulation.out[..], simulation.last), (&b"HTTP/1.1 100 Continue\r\n\r\n"[..], Need::Bytes(1)));
    simulation.receive(b"ab", 2);
    assert!(String::from_utf8_lossy(&simulation.out).ends_with("\r\n\r\n1\n"));
}

#[test]
fn draining_server_is_not_ready_and_closes_connections() {
    let visit = "GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
    let pair = ["GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", visit].concat();
    let half = [visit, "GET /count HTTP/1.1\r\nHost"].concat();
    for (draining, closing, requests, transcript) in [
        (true, false, visit, "200 1 x"),
        (true, false, &[visit, "\r\n"].concat(), "200 1 x"),
        // Requests that have arrived get a response, and the last response closes.
        (true, false, &pair, "503 not ready: this server is shutting down 200 1 x"),
        (true, false, &[visit, visit].concat(), "200 1 200 2 x"),
        (true, false, &half, "200 1 +"),
        (true, true, &half, "200 1 x"),
        (true, true, &pair, "503 not ready: this server is shutting down x"),
        (true, true, &[visit, visit].concat(), "200 1 200 2 x"),
    ] {
        let mut simulation = Simulation::new(Ok(0));
        (simulation.worker.draining, simulation.worker.closing) = (draining, closing);
        simulation.receive(requests.as_bytes(), 200);
        assert_eq!(simulation.transcript(), transcript, "{requests:?}");
        let closes = String::from_utf8_lossy(&simulation.out).matches("Connection: close").count();
        assert_eq!(closes, usize::from(transcript.ends_with('x')), "{requests:?}");
    }
}

#[test]
fn caches_change_no_response() {
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
        let mut simulation = Simulation { worker, ..Simulation::new(Ok(6)) };
        simulation.context.origins = Origins::new(vec!["http://b".into()]);
        for _ in 0..5 {
            simulation.receive(format!("{head}\r\nGET").as_bytes(), 200);
            simulation.receive(b" /livez HTTP/1.1\r\nHost: a\r\n\r\n", 200);
        }
        (String::from_utf8(simulation.out).expect("UTF-8"), simulation.commands, simulation.worker)
    };
    let fresh = || Simulation::new(Ok(0)).worker;
    for head in heads {
        let (transcript, commands, _) = play(fresh(), head);
        for before in heads {
            let (again, again_commands, _) = play(play(fresh(), before).2, head);
            assert_eq!((again, again_commands), (transcript.clone(), commands.clone()), "{head} after {before}");
        }
        let mut later = play(fresh(), head).2;
        later.set_time(784_111_778);
        let transcript = transcript.replace("08:49:37", "08:49:38");
        assert_eq!(play(later, head).0, transcript, "{head} a second later");
    }
}

#[test]
fn badge_after_a_visit_keeps_its_own_style() {
    let mut simulation = Simulation::new(Ok(0));
    let requests = ["/count", "/badge.svg?label=x", "/count", "/badge.svg?label=y"]
        .map(|target| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    simulation.receive(requests.concat().as_bytes(), 1000);
    let transcript = simulation.transcript();
    let parts: Vec<_> = transcript.split("200 ").collect();
    let [_, "1 ", x, "3 ", y] = &parts[..] else { panic!("{transcript}") };
    assert!(x.contains("<title>x: 2</title>") && y.contains("<title>y: 4</title>"), "{transcript}");
}

#[test]
fn recording_changes_no_response() {
    let requests = "GET /count HTTP/1.1\r\nHost: a\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\n\
                    HEAD /total/blog?secret HTTP/1.1\r\nHost: a\r\n\r\n\
                    POST http://a/count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiDELETE /\"no HTTP/1.1\r\n";
    let play = |records_requests, at_a_time| {
        let mut simulation = Simulation::new(Ok(6));
        simulation.context.records_requests = records_requests;
        simulation.receive(requests.as_bytes(), at_a_time);
        simulation.worker.micros = 30;
        simulation.connection.time_out(&simulation.context, &mut simulation.worker, &mut simulation.buffers);
        simulation.serve_needs();
        (String::from_utf8(simulation.out).expect("UTF-8"), simulation.worker.records)
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
            record("DELETE", "/\"no", Route::Refused, Status::RequestTimeout, None),
        ];
        assert_eq!(records, expected);
    }
}

#[test]
fn record_is_short_and_times_from_the_head() {
    let mut simulation = Simulation::new(Ok(0));
    simulation.context.records_requests = true;
    simulation.worker.micros = 100;
    let (method, path) = ("X".repeat(17), "y".repeat(129));
    simulation.receive(format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").as_bytes(), 1000);
    simulation.worker.micros = 142;
    simulation.receive(format!("x{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 1000);
    let [long_path, long_method] = &simulation.worker.records[..] else { panic!("{:?}", simulation.worker.records) };
    assert_eq!((long_path.micros, &long_path.path[126..], long_path.path.len()), (42, "yy...", 131));
    assert_eq!((long_method.micros, &*long_method.method), (0, "XXXXXXXXXXXXXXXX..."));
}

#[test]
fn number_may_grow_longer_than_the_cached_length() {
    let mut simulation = Simulation::new(Ok(8));
    for _ in 0..3 {
        simulation.receive(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n", 200);
    }
    assert_eq!(simulation.transcript(), "200 9 200 10 200 11 .");
}

#[test]
fn late_request_gets_408() {
    let mut simulation = Simulation::new(Ok(0));
    simulation.receive(b"GET /count HT", 100);
    simulation.connection.time_out(&simulation.context, &mut simulation.worker, &mut simulation.buffers);
    simulation.serve_needs();
    assert_eq!(simulation.transcript(), "408 the request did not arrive in time x");
}

#[test]
fn each_request_has_its_own_deadline_number() {
    let mut simulation = Simulation::new(Ok(0));
    for request in 1..4 {
        simulation.receive(b"GET /count HTTP", 100);
        assert_eq!(simulation.last, Need::Bytes(request));
        simulation.receive(b"/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 100);
        assert_eq!(simulation.last, Need::Bytes(request));
        simulation.receive(b"x", 1);
    }
}

#[test]
fn pending_output_is_limited() {
    let mut buffers = Buffers::default();
    let mut connection = HttpConnection::default();
    let (context, mut worker) = (context(), WorkerContext::default());
    while !buffers.is_full() {
        let room = buffers.read_buf().remaining_mut();
        let request = b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n";
        buffers.read_buf().put_slice(&request[..room.min(request.len())]);
    }
    assert_eq!(connection.advance(&context, &mut worker, &mut buffers), Need::Room);
    assert!(buffers.pending().len() < 2 * MAX_PENDING);
    let sent = buffers.pending().len();
    buffers.mark_sent(sent);
    assert_eq!(connection.advance(&context, &mut worker, &mut buffers), Need::Room);
}
