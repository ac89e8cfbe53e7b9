//! Clients that are slow, silent, or do not read: each timeout disconnects them, and other clients are not affected.
//!
//! The timeouts are short and the waits are long, so the tests check that the connection ends, not when.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, NEVER, Notch, Settings, wait_until};

/// Settings with all timeouts very long except one.
fn notch(short: &str) -> Notch {
    let long = ["REQUEST_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT"].iter();
    let settings = long.fold(Settings::ledger().with("FSYNC", "never"), |settings, name| settings.with(name, NEVER));
    settings.with(short, "100ms").start()
}

#[test]
fn an_incomplete_head_has_a_timeout() {
    let notch = notch("REQUEST_TIMEOUT");
    for part in ["G", "GET /count HTTP/1.1\r\n", "GET /count HTTP/1.1\r\nHost: h\r\nX: "] {
        let mut client = notch.client();
        client.send(part);
        let responses = client.remaining_responses();
        assert!(responses.iter().all(|response| response.status == 408), "{responses:?}");
    }
    // A second request has the same limit.
    let mut client = notch.client();
    client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /cou");
    let responses = client.remaining_responses();
    assert_eq!(responses[0].number(), 1);
    assert!(responses[1..].iter().all(|response| response.status == 408), "{responses:?}");
    assert_eq!(notch.total(), 1);
}

#[test]
fn an_incomplete_body_has_a_timeout() {
    let settings =
        Settings::ledger().with("FSYNC", "never").with("REQUEST_TIMEOUT", "100ms").with("IDLE_TIMEOUT", "100ms");
    let notch = settings.start();
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        let mut client = notch.client();
        client.send(format!("POST /count HTTP/1.1\r\nHost: h\r\n{framing}"));
        let responses = client.remaining_responses();
        assert!(responses.iter().all(|response| response.status == 408), "{responses:?}");
    }
}

#[test]
fn each_request_has_its_own_deadline() {
    let notch = Settings::ledger().with("FSYNC", "never").with("REQUEST_TIMEOUT", "1s").start();
    let mut client = notch.client();
    let request = "GET /count HTTP/1.1\r\nHost: h\r\n\r\n";
    let (start, rest) = request.split_at(10);
    client.send(start);
    let begin = Instant::now();
    // The connection always has an incomplete request, but no request takes long.
    while begin.elapsed() < Duration::from_secs(2) {
        client.send([rest, start].concat());
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn an_idle_connection_is_closed() {
    let notch = notch("IDLE_TIMEOUT");
    let mut used = notch.client();
    assert_eq!(used.get("/count").number(), 1);
    assert!(used.remaining_responses().is_empty(), "no further request was sent");
}

#[test]
fn a_connection_without_a_request_is_closed() {
    let settings = Settings::ledger().with("REQUEST_TIMEOUT", "100ms").with("IDLE_TIMEOUT", "100ms");
    let notch = settings.start();
    let responses = notch.client().remaining_responses();
    assert!(responses.iter().all(|response| response.status == 408), "{responses:?}");
}

#[test]
fn a_client_that_never_reads_is_disconnected() {
    let notch = notch("WRITE_TIMEOUT");
    let mut client = notch.client();
    let requests = "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
    // The socket buffers of both ends fill, then notch stops reading, then it disconnects the client.
    let refused = (0..2000).find_map(|_| client.try_send(&requests).err());
    let error = refused.expect("notch reads sixty megabytes of requests whose responses are not read");
    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "neither read nor closed: {error}");
    assert_eq!(notch.visit(), 1, "other clients are served");
    let memory = notch.resident_kilobytes();
    assert!(memory < 40_000, "{memory} kB after one client that did not read");
}

#[test]
fn the_limit_of_connections_is_kept() {
    let notch = Settings::ledger().with("MAX_CONNECTIONS", "2").with("WORKERS", "1").start();
    let own = sockets(&notch);
    let mut clients: Vec<_> = (0..6).map(|_| notch.client()).collect();
    for client in &mut clients {
        client.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    // Two clients are served at a time, and one more may be accepted. The others wait in the queue of the system for a
    // slot, which is free when a client leaves or is evicted because it is idle.
    for pair in clients.chunks_mut(2) {
        for client in pair.iter_mut() {
            assert!(client.next_response("GET").is_none_or(|response| response.status == 200));
        }
        for _ in 0..50 {
            let open = sockets(&notch);
            assert!(open <= own + 3, "{open} sockets open, {own} of them its own");
            thread::sleep(Duration::from_millis(1));
        }
        pair.iter_mut().for_each(Client::close_write);
    }
    assert_eq!(notch.visit(), 1, "a slot is free again");
}

#[test]
fn an_evicted_connection_was_not_counted() {
    let notch = Settings::ledger().with("FSYNC", "never").with("MAX_CONNECTIONS", "4").start();
    let (visitors, each) = (16, 200);
    let visit = || {
        let mut numbers = Vec::new();
        let mut client = notch.client();
        while numbers.len() < each {
            // A connection closed without a response was evicted: the client connects again.
            let sent = client.try_send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
            match sent.ok().and_then(|()| client.next_response("GET")) {
                Some(response) => numbers.push(response.number()),
                None => client = notch.client(),
            }
        }
        numbers
    };
    let mut numbers: Vec<_> = thread::scope(|scope| {
        let visitors: Vec<_> = (0..visitors).map(|_| scope.spawn(visit)).collect();
        visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=(visitors * each) as i64).collect::<Vec<_>>(), "unique and without a gap");
}

fn sockets(notch: &Notch) -> usize {
    notch.files().iter().filter(|file| file.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn at_the_limit_every_new_client_is_served() {
    for workers in ["1", "2"] {
        let settings = Settings::ledger().with("FSYNC", "never").with("WORKERS", workers);
        let notch = settings.with("MAX_CONNECTIONS", "4").start();
        let visit = || {
            // A client that sends nothing within 20 ms, as on a busy machine, may lose its slot: it connects again.
            wait_until("a visit is counted", || {
                let mut client = notch.client();
                let sent = client.try_send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
                sent.ok().and_then(|()| client.next_response("GET")).map(|response| response.number())
            })
        };
        let visitor = || (0..20).for_each(|_| assert!(visit() > 0));
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(visitor))));
        assert_eq!(notch.total(), 160);
    }
}
