//! The connection to Redis is cut at every byte, delayed, doubled and corrupted: counted visits stay counted, and notch
//! recovers by itself.

use std::time::Duration;

use super::audit::{Doubt, LOST_CONNECTION, Tally};
use super::load::Visitor;
use super::relay::{Fault, Relay};
use crate::support::{NEVER, Notch, Redis, Settings, wait_until};

/// notch with one event loop, so with one connection to Redis, through a relay.
fn behind_a_relay(timeout: &str) -> (Redis, Relay, Notch) {
    let redis = Redis::start(&[]);
    let relay = Relay::to(redis.port);
    let notch = Settings::redis(relay.port).with("WORKERS", "1").with("STORE_TIMEOUT", timeout).start();
    (redis, relay, notch)
}

/// Sends a visit that must be counted after notch has recovered, and audits.
fn recover(notch: &Notch, redis: &Redis, tally: &mut Tally, doubt: Doubt) {
    tally.note_number(notch.visit_when_it_counts());
    let total = redis.query("GET visits").parse().expect("a count");
    tally.audit(total, doubt);
}

#[test]
fn cut_at_every_byte_of_a_visit() {
    let (redis, relay, notch) = behind_a_relay(NEVER);
    let mut visitor = Visitor::of(&notch);
    recover(&notch, &redis, &mut visitor.tally, Doubt::None);
    for (cut, least) in [(Fault::CutRequest as fn(usize) -> Fault, 20), (Fault::CutReply, 4)] {
        // Several visits at once are a longer command.
        for visits in [1, 12] {
            let mut passed = 0;
            while cut_a_visit(&relay, cut(passed), &mut visitor, visits) {
                recover(&notch, &redis, &mut visitor.tally, LOST_CONNECTION);
                passed += 1;
            }
            assert!(passed > least, "cut at {passed} positions only");
        }
    }
    assert_eq!((visitor.tally.refused, visitor.tally.cut), (0, 0));
}

/// Sends a visit, and returns whether the cut happened.
fn cut_a_visit(relay: &Relay, cut: Fault, visitor: &mut Visitor, visits: usize) -> bool {
    let accepted = relay.accepted();
    relay.arm(cut);
    visitor.visit(visits);
    let was_cut = relay.disarm();
    if was_cut {
        // A reply may have passed whole before the cut took effect.
        relay.wait_for_connection_after(accepted);
    }
    was_cut
}

#[test]
fn cut_at_every_byte_of_the_handshake() {
    let (redis, relay, notch) = behind_a_relay(NEVER);
    let mut tally = Tally::default();
    recover(&notch, &redis, &mut tally, Doubt::None);
    // A cut after the last byte would not affect this visit but the next one.
    for (cut, length) in
        [(Fault::CutRequest as fn(usize) -> Fault, "*1\r\n$4\r\nPING\r\n".len()), (Fault::CutReply, "+PONG\r\n".len())]
    {
        for passed in 0..length {
            let accepted = relay.accepted();
            relay.arm(cut(passed));
            relay.cut();
            relay.wait_for_connection_after(accepted);
            recover(&notch, &redis, &mut tally, Doubt::None);
            assert!(relay.disarm(), "nothing was cut");
        }
    }
}

#[test]
fn late_replies_in_pieces_are_accepted() {
    let (redis, relay, notch) = behind_a_relay(NEVER);
    let mut visitor = Visitor::of(&notch);
    recover(&notch, &redis, &mut visitor.tally, Doubt::None);
    for fault in [Fault::DelayReply(Duration::from_millis(300)), Fault::SplitReply] {
        relay.arm(fault);
        visitor.visit(3);
        assert!(relay.disarm(), "the fault was not injected");
        recover(&notch, &redis, &mut visitor.tally, Doubt::None);
    }
}

#[test]
fn late_replies_reach_no_client() {
    let (redis, relay, notch) = behind_a_relay("2s");
    let mut visitor = Visitor::of(&notch);
    recover(&notch, &redis, &mut visitor.tally, Doubt::None);
    for round in 1..=3 {
        relay.arm(Fault::DelayReply(Duration::from_secs(4)));
        visitor.visit(2);
        assert!(relay.disarm(), "the fault was not injected");
        assert_eq!(relay.accepted(), 1 + round, "the batch was sent again on another connection");
        recover(&notch, &redis, &mut visitor.tally, LOST_CONNECTION);
    }
}

/// Without its receipt a batch could count twice, so receipts are not relied on where Redis may evict them.
#[test]
fn no_batch_is_sent_again_if_receipts_may_be_evicted() {
    for (policy, doubts) in [("volatile-ttl", 1), ("volatile-lru", 1), ("allkeys-lru", 1), ("noeviction", 0)] {
        let redis = Redis::start(&["--maxmemory", "64mb", "--maxmemory-policy", policy]);
        let relay = Relay::to(redis.port);
        let notch = Settings::redis(relay.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
        let mut visitor = Visitor::of(&notch);
        recover(&notch, &redis, &mut visitor.tally, Doubt::None);
        let has_message = || notch.log().iter().any(|line| line.contains("maxmemory-policy noeviction"));
        if doubts > 0 {
            wait_until("the log has the remedy", || has_message().then_some(()));
        } else {
            assert!(!has_message(), "{policy}: {:#?}", notch.log());
        }
        relay.arm(Fault::CutReply(0));
        visitor.visit(1);
        assert!(relay.disarm(), "nothing was cut");
        assert_eq!(visitor.tally.doubts, doubts, "{policy}");
        recover(&notch, &redis, &mut visitor.tally, Doubt::Possible);
    }
}

#[test]
fn an_invalid_reply_gives_no_number() {
    let (redis, relay, notch) = behind_a_relay(NEVER);
    let mut visitor = Visitor::of(&notch);
    recover(&notch, &redis, &mut visitor.tally, Doubt::None);
    let before = notch.resident_kilobytes();
    for fault in [
        Fault::DoubleReply,
        Fault::Instead(b"+OK\r\n"),
        Fault::Instead(b"$1\r\n7\r\n"),
        Fault::Instead(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        Fault::Instead(b"\x15\x03\x01\x00\x02\x02\x46"),
        Fault::Instead(b"\r\n"),
        Fault::Instead(b"*1000000\r\n"),
        Fault::Instead(b":99999999999999999999999999\r\n"),
        Fault::Endless(b'x'),
        Fault::Endless(b':'),
        Fault::Endless(b'$'),
        Fault::Endless(b'9'),
        Fault::Endless(0),
    ] {
        relay.arm(fault.clone());
        visitor.visit(2);
        assert!(relay.disarm(), "the fault was not injected");
        recover(&notch, &redis, &mut visitor.tally, LOST_CONNECTION);
        let memory = notch.resident_kilobytes();
        assert!(memory < before + 2000, "{before} kB before {fault:?}, then {memory} kB");
    }
}
