//! Clients that are slow, silent, or do not listen: each limit ends them, and nobody else notices.
//!
//! The limits are set short and the waits are long, so that what is tested is that an end comes, not when.

use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Client, NEVER, Notch, Settings, until};

/// All timeouts out of reach but one.
fn notch(short: &str) -> Notch {
    let long = ["HEADER_TIMEOUT", "IDLE_TIMEOUT", "SEND_TIMEOUT"].iter();
    let settings = long.fold(Settings::ledger().with("FSYNC", "never"), |settings, name| settings.with(name, NEVER));
    settings.with(short, "100ms").start()
}

#[test]
fn half_a_head_does_not_hold_a_connection_for_ever() {
    let notch = notch("HEADER_TIMEOUT");
    for part in ["G", "GET /count HTTP/1.1\r\n", "GET /count HTTP/1.1\r\nHost: h\r\nX: "] {
        let mut client = notch.client();
        client.send(part);
        let answers = client.rest();
        assert!(answers.iter().all(|answer| answer.status == 408), "{answers:?}");
    }
    // A request that follows another is no less bounded.
    let mut client = notch.client();
    client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /cou");
    let answers = client.rest();
    assert_eq!(answers[0].number(), 1);
    assert!(answers[1..].iter().all(|answer| answer.status == 408), "{answers:?}");
    assert_eq!(notch.total(), 1);
}

#[test]
fn half_a_body_does_not_hold_a_connection_for_ever() {
    let settings =
        Settings::ledger().with("FSYNC", "never").with("HEADER_TIMEOUT", "100ms").with("IDLE_TIMEOUT", "100ms");
    let notch = settings.start();
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        let mut client = notch.client();
        client.send(format!("POST /count HTTP/1.1\r\nHost: h\r\n{framing}"));
        let answers = client.rest();
        assert!(answers.iter().all(|answer| answer.status == 408), "{answers:?}");
    }
}

#[test]
fn each_request_has_a_time_of_its_own() {
    let notch = Settings::ledger().with("FSYNC", "never").with("HEADER_TIMEOUT", "1s").start();
    let mut client = notch.client();
    let request = "GET /count HTTP/1.1\r\nHost: h\r\n\r\n";
    let (start, rest) = request.split_at(10);
    client.send(start);
    let begun = Instant::now();
    // The connection is never without half a request, but no request takes long.
    while begun.elapsed() < Duration::from_secs(2) {
        client.send([rest, start].concat());
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn an_idle_connection_is_closed() {
    let notch = notch("IDLE_TIMEOUT");
    let mut used = notch.client();
    assert_eq!(used.get("/count").number(), 1);
    assert!(used.rest().is_empty(), "nobody asked anything more");
}

#[test]
fn a_connection_that_never_said_a_word_is_closed() {
    let settings = Settings::ledger().with("HEADER_TIMEOUT", "100ms").with("IDLE_TIMEOUT", "100ms");
    let notch = settings.start();
    let answers = notch.client().rest();
    assert!(answers.iter().all(|answer| answer.status == 408), "{answers:?}");
}

#[test]
fn who_asks_without_end_and_never_listens_is_cut_off() {
    let notch = notch("SEND_TIMEOUT");
    let mut client = notch.client();
    let breath = "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
    // Both ends' socket buffers fill, then notch stops reading, then it has had enough.
    let refused = (0..2000).find_map(|_| client.try_send(&breath).err());
    let why = refused.expect("notch swallows sixty megabytes of requests whose answers nobody takes");
    assert!(why.kind() != std::io::ErrorKind::WouldBlock, "neither read nor cut off: {why}");
    assert_eq!(notch.visit(), 1, "and everybody else is served");
    let memory = resident_kilobytes(&notch);
    assert!(memory < 40_000, "{memory} kB after one client that did not listen");
}

#[test]
fn as_many_connections_as_allowed_and_then_again() {
    let notch = Settings::ledger().with("MAX_CONNECTIONS", "2").with("WORKERS", "1").start();
    let mut first = notch.client();
    let mut second = notch.client();
    assert_eq!(first.get("/count").number(), 1);
    assert_eq!(second.get("/count").number(), 2);
    // One more waits its turn or is turned away; either way it is not counted while two are served.
    let mut third = notch.client();
    third.send("GET /count HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(first.get("/count").number(), 3);
    drop(second);
    let turned_away = |answer: Option<crate::rig::Answer>| answer.is_none_or(|answer| answer.status == 503);
    let late = thread::spawn(move || third.next_answer("GET"));
    let late = late.join().expect("an answer or an end");
    let counted = late.as_ref().is_some_and(|answer| answer.status == 200);
    assert!(counted || turned_away(late));
    until("a place is free again", || {
        let mut client = Client::connect(notch.address);
        client.try_send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").ok()?;
        client.next_answer("GET").filter(|answer| answer.status == 200)
    });
    assert_eq!(first.get("/total").number(), 3 + i64::from(counted));
}

fn resident_kilobytes(notch: &Notch) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", notch.id())).expect("Linux's own account");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("kilobytes")
}
