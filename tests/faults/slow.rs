//! A store that is slow, and connections to it that are silent: each visit waits for `STORE_TIMEOUT` from its own
//! arrival, a connection is replaced when it is silent for longer than ever before. A slow store is not treated as a
//! silent connection.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::audit::{Doubt, LOST_CONNECTION, Tally};
use super::load::{Load, Visitor};
use super::relay::{Mode, Relay};
use crate::support::{NEVER, Notch, Redis, Settings, wait_until};

fn behind_a_relay(redis: &Redis, timeout: &str) -> (Relay, Notch) {
    let relay = Relay::within_tls(redis);
    let notch = Settings::redis(relay.port).with("WORKERS", "1").with("STORE_TIMEOUT", timeout).start();
    (relay, notch)
}

/// A process whose `fdatasync` strace delays.
struct Slowed(Child);

impl Slowed {
    fn start(redis: &Redis, millis: u64) -> Self {
        let inject = format!("--inject=fdatasync:delay_enter={}", millis * 1000);
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", &inject, "-p", &redis.id().to_string()]);
        let child = command.stderr(Stdio::null()).spawn().expect("strace is installed");
        let status = format!("/proc/{}/status", redis.id());
        wait_until("strace traces Redis", || {
            let status = std::fs::read_to_string(&status).expect("Redis runs");
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        Self(child)
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns whether a visit was counted, and its duration.
fn timed_visit(visitor: &mut Visitor) -> (bool, Duration) {
    let (start, answered) = (Instant::now(), visitor.tally.answered());
    visitor.visit(1);
    (visitor.tally.answered() > answered, start.elapsed())
}

#[test]
fn a_slow_disk_is_not_a_silent_connection() {
    for (timeout, doubt) in [("6s", Doubt::None), ("2s", Doubt::Possible)] {
        let redis = Redis::durable();
        let (relay, notch) = behind_a_relay(&redis, timeout);
        let mut tally = Tally::default();
        tally.note_number(notch.visit());
        let lines = notch.log().len();
        let slowed = Slowed::start(&redis, 1200);
        let end = Instant::now() + Duration::from_secs(10);
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let mut visitor = Visitor::of(&notch);
                thread::spawn(move || {
                    let mut longest = Duration::ZERO;
                    while Instant::now() < end {
                        longest = longest.max(timed_visit(&mut visitor).1);
                    }
                    (visitor.tally, longest)
                })
            })
            .collect();
        for visitor in visitors {
            let (own, longest) = visitor.join().expect("visitors do not panic");
            assert!(longest < Duration::from_secs(if timeout == "2s" { 2 } else { 6 }) + SLACK, "{longest:?}");
            tally.merge(own);
        }
        drop(slowed);
        let accepted = relay.accepted();
        assert!(accepted <= 5, "{timeout}: {accepted} connections, where one or two were enough");
        assert!(notch.log().len() <= lines + 4, "{:#?}", notch.log());
        tally.note_number(notch.visit_when_it_counts());
        tally.audit(redis.query("GET visits").parse().expect("a count"), doubt);
    }
}

#[test]
fn a_constant_delay_of_replies_keeps_the_connection() {
    let redis = Redis::start(&[]);
    let (relay, notch) = behind_a_relay(&redis, "8s");
    let mut tally = Tally::default();
    tally.note_number(notch.visit());
    relay.delay(Duration::from_millis(1500));
    let load = Load::start(&notch, 3);
    load.wait_for_answers(6);
    let accepted = relay.accepted();
    load.wait_for_answers(6);
    assert_eq!(relay.accepted(), accepted, "a slow store keeps its connection");
    relay.delay(Duration::ZERO);
    tally.merge(load.stop());
    tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::None);
}

#[test]
fn a_connection_that_drops_all_bytes_is_replaced_in_time() {
    for timeout in ["2s", "6s"] {
        let redis = Redis::start(&[]);
        let (relay, notch) = behind_a_relay(&redis, timeout);
        let mut visitors: Vec<_> = (0..4).map(|_| Visitor::of(&notch)).collect();
        visitors.iter_mut().for_each(|visitor| visitor.visit(1));
        relay.discard();
        let mut tally = Tally::default();
        let visits = visitors.into_iter().map(|mut visitor| {
            thread::spawn(move || {
                (0..20).for_each(|_| visitor.visit(1));
                visitor.tally
            })
        });
        visits.collect::<Vec<_>>().into_iter().for_each(|own| tally.merge(own.join().expect("no panic")));
        assert_eq!((tally.answered(), tally.refused), (4 * 21, 0), "{timeout}: {tally:?}");
        tally.audit(redis.query("GET visits").parse().expect("a count"), LOST_CONNECTION);
        assert_eq!(relay.accepted(), 2);
    }
}

#[test]
fn a_broken_idle_connection_is_replaced_before_the_next_visit() {
    let redis = Redis::start(&[]);
    let (relay, notch) = behind_a_relay(&redis, "2s");
    assert_eq!(notch.visit(), 1);
    let accepted = relay.accepted();
    relay.discard();
    relay.wait_for_connection_after(accepted);
    wait_until("the store is up again", || notch.get("/metrics").text().contains("\nnotch_store_up 1\n").then_some(()));
    assert_eq!(notch.visit(), 2);
    assert_eq!(relay.accepted(), accepted + 1);
}

#[test]
fn connections_that_fail_after_the_handshake_are_made_with_backoff() {
    const WATCHED: Duration = Duration::from_secs(8);
    let redis = Redis::start(&[]);
    let (relay, notch) = behind_a_relay(&redis, "1s");
    let mut tally = Tally::default();
    tally.note_number(notch.visit());
    for (mode, most) in [(Mode::DropReplies, 14), (Mode::Close, 45), (Mode::Silent, 14)] {
        relay.set(mode);
        let (accepted, lines) = (relay.accepted(), notch.log().len());
        let load = Load::start(&notch, 3);
        thread::sleep(WATCHED);
        let (accepted, lines) = (relay.accepted() - accepted, notch.log().len() - lines);
        assert!(accepted <= most, "{mode:?}: {accepted} connections in {WATCHED:?}");
        assert!(lines <= 6, "{mode:?}: {:#?}", notch.log());
        relay.set(Mode::Pass);
        load.wait_for_answers(1);
        tally.merge(load.stop());
    }
    tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::Possible);
}

#[test]
fn each_visit_has_its_own_deadline() {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", "6s").start();
    let mut tally = Tally::default();
    tally.note_number(notch.visit());
    let (sender, results) = channel();
    let visit = |after: Duration| {
        let (mut visitor, sender) = (Visitor::of(&notch), sender.clone());
        thread::spawn(move || {
            thread::sleep(after);
            let (answered, took) = timed_visit(&mut visitor);
            sender.send((after, answered, took, visitor.tally)).expect("the test receives");
        });
    };
    redis.while_stopped(|| {
        (0..3).for_each(|_| visit(Duration::ZERO));
        (0..100).for_each(|_| visit(TIMEOUT / 2));
        // The first have waited long enough, the others have not.
        thread::sleep(TIMEOUT + TIMEOUT / 4);
    });
    for _ in 0..103 {
        let (after, answered, took, own) = results.recv_timeout(2 * TIMEOUT).expect("every visit ends");
        if after.is_zero() {
            assert!(!answered && (TIMEOUT - SLACK / 4..TIMEOUT + SLACK).contains(&took), "{answered} after {took:?}");
        } else {
            assert!(answered, "a visit before its deadline was refused after {took:?}: {own:?}");
        }
        tally.merge(own);
    }
    tally.audit(redis.query("GET visits").parse().expect("a count"), Doubt::Possible);
}

#[test]
fn a_redis_that_does_not_read_delays_no_other_worker() {
    let redis = Redis::start(&["--maxclients", "200"]);
    let relay = Relay::within_tls(&redis);
    let settings = Settings::redis(relay.port).with("COUNTERS", "*").with("STORE_TIMEOUT", NEVER);
    let notch = settings.with("WORKERS", "1").start();
    assert_eq!(notch.visit(), 1);
    // On the driver on threads, so many clients may delay others for a moment on a busy machine. That happens only in
    // some rounds, a delay by Redis would happen in each.
    let slowest: Vec<_> = (1..=3).map(|round| slowest_without_reading(&notch, &relay, round)).collect();
    assert!(slowest.iter().any(|took| *took < Duration::from_millis(250)), "others waited for {slowest:?}");
}

/// Stops the reads of Redis during a large batch. Returns the longest duration of a request that needs no store.
fn slowest_without_reading(notch: &Notch, relay: &Relay, round: i64) -> Duration {
    relay.set(Mode::StopReading);
    let mut clients: Vec<_> = (0..900)
        .map(|number| {
            let mut client = notch.client();
            client.send_request("GET", &format!("/count/a-name-of-thirty-characters-{number:04}"), &[]);
            client
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let start = Instant::now();
        assert_eq!(notch.get("/livez").status, 200);
        slowest = slowest.max(start.elapsed());
    }
    relay.set(Mode::Pass);
    for client in &mut clients {
        assert_eq!(client.response().number(), round);
    }
    slowest
}

/// Tolerance of deadlines on a busy machine.
const SLACK: Duration = Duration::from_secs(1);
