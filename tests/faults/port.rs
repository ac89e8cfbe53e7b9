//! A port that accepts connections without a Redis behind it, and too few open files for connections.

use std::thread;

use super::audit::Doubt;
use super::load::{CLOSE_DETECTION, Load, Visitor};
use super::relay::{Mode, Relay};
use crate::support::{NEVER, Redis, Settings, wait_until};

#[test]
fn a_port_that_is_silent_or_closes_connections() {
    for mode in [Mode::Silent, Mode::Close] {
        let redis = Redis::start(&[]);
        let relay = Relay::to(redis.port);
        // From the start, and in the middle of the load.
        relay.set(mode);
        let notch = Settings::redis(relay.port).with("WORKERS", "1").with("STORE_TIMEOUT", "1s").start();
        let mut first = Visitor::of(&notch);
        (0..3).for_each(|_| first.visit(1));
        assert_eq!((first.tally.refused, first.tally.doubts), (3, 0), "nothing was sent, so nothing is in doubt");
        relay.set(Mode::Pass);
        first.tally.note_number(notch.visit_when_it_counts());
        thread::sleep(CLOSE_DETECTION);
        let files = notch.files().len();
        let load = Load::start(&notch, 4);
        load.wait_for_answers(100);
        for _ in 0..2 {
            relay.set(mode);
            for _ in 0..3 {
                let response = notch.get("/count");
                first.tally.note(&response);
                assert_ne!(response.status, 200, "{mode:?}: counted without a store");
                assert_eq!(notch.get("/livez").status, 200);
            }
            relay.set(Mode::Pass);
            load.wait_for_answers(100);
        }
        let mut tally = load.stop();
        tally.merge(first.stop());
        wait_until("no more files are open than before", || (notch.files().len() <= files).then_some(()));
        tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::Possible);
    }
}

#[test]
fn with_all_open_files_in_use_the_store_is_reachable() {
    let mut redis = Redis::durable();
    let settings = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER);
    let notch = settings.with_wrapper(&["prlimit", "--nofile=40"]).start();
    let mut visitor = Visitor::of(&notch);
    visitor.visit(1);
    for _ in 0..3 {
        let load: Vec<_> = (0..80).map(|_| notch.client()).collect();
        visitor.tally.note_number(notch.visit());
        redis.kill();
        redis.restart();
        visitor.tally.note_number(notch.visit_when_it_counts());
        drop(load);
        visitor.visit(1);
    }
    assert_eq!(visitor.tally.refused, 0);
    visitor.tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::None);
}

#[test]
fn notch_works_after_the_limit_of_open_files_was_lowered() {
    let redis = Redis::durable();
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
    let mut visitor = Visitor::of(&notch);
    for _ in 0..3 {
        visitor.visit(1);
        notch.limit("nofile", &notch.files().len().to_string());
        let mut load: Vec<_> = (0..10).map(|_| notch.client()).collect();
        // A client with a connection is served, or loses it to a client without one.
        visitor.visit(1);
        notch.limit("nofile", "1000");
        for client in &mut load {
            // A connection may have been evicted for the next one; each client gets a response or an end of the
            // connection.
            let sent = client.try_send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n");
            let response = sent.ok().and_then(|()| client.next_response("GET"));
            assert!(response.is_none_or(|response| response.status == 200));
        }
        (0..10).for_each(|_| visitor.tally.note_number(notch.visit()));
    }
    visitor.tally.audit(notch.total(), Doubt::None);
}
