//! Redis dies, hangs, or restarts with no data, under load.

use std::thread;
use std::time::Duration;

use super::audit::{Doubt, LOST_CONNECTION};
use super::load::Load;
use crate::support::{NEVER, Notch, Redis, Settings, wait_until};

#[test]
fn redis_is_killed_repeatedly() {
    for (timeout, pauses, doubt) in
        [(NEVER, &[0, 20, 300, 0][..], LOST_CONNECTION), ("300ms", &[500, 700], Doubt::Possible)]
    {
        let mut redis = Redis::durable();
        let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", timeout).start();
        let load = Load::start(&notch, 6);
        for pause in pauses {
            load.wait_for_answers(200);
            redis.kill();
            thread::sleep(Duration::from_millis(*pause));
            redis.restart();
        }
        load.wait_for_answers(200);
        let tally = load.stop();
        tally.audit(total(&redis), doubt);
        assert_eq!(tally.refused > 0, timeout != NEVER, "{tally:?}");
        assert_expected_log(&notch);
    }
}

#[test]
fn redis_hangs_for_less_and_for_more_than_the_timeout() {
    let stopped = |redis: &Redis| redis.while_stopped(|| thread::sleep(STALL));
    let asleep = |redis: &Redis| assert_eq!(redis.query(&format!("DEBUG SLEEP {}", STALL.as_secs_f32())), "OK");
    for (name, stall) in [("SIGSTOP", &stopped as &dyn Fn(&Redis)), ("DEBUG SLEEP", &asleep)] {
        for (timeout, doubt) in [(NEVER, Doubt::None), ("200ms", Doubt::Possible)] {
            let redis =
                Redis::start(&["--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes"]);
            let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", timeout).start();
            let load = Load::start(&notch, 4);
            for _ in 0..2 {
                load.wait_for_answers(100);
                stall(&redis);
            }
            load.wait_for_answers(100);
            let tally = load.stop();
            tally.audit(total(&redis), doubt);
            let timed_out = tally.doubts + tally.refused > 0;
            assert_eq!(timed_out, doubt == Doubt::Possible, "{name}, STORE_TIMEOUT={timeout}: {tally:?}");
        }
    }
}

#[test]
fn back_with_an_empty_disk_no_number_is_given_twice() {
    let mut redis = Redis::durable();
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "500ms").start();
    for _ in 0..3 {
        let load = Load::start(&notch, 4);
        load.wait_for_answers(200);
        redis.kill();
        let mut tally = load.stop();
        redis.restart();
        tally.note_number(notch.visit_when_it_counts());
        tally.audit(total(&redis), Doubt::Possible);

        redis.kill();
        redis.restart_empty();
        // No number is given twice, and the log has the loss.
        tally.note_number(notch.visit_when_it_counts());
        tally.audit(total(&redis), Doubt::Possible);
        let lost = |line: &String| line.contains("ERROR") && line.contains("the store has lost visits of visits");
        wait_until("the loss is in the log", || notch.log().iter().any(lost).then_some(()));
        redis.execute("DEL visits");
    }
    assert_expected_log(&notch);
}

/// Asserts that the log has only the start, failures of the store, and its recovery.
fn assert_expected_log(notch: &Notch) {
    let is_unexpected = |line: &&String| {
        let expected = [
            "listening on http://",
            "the store holds",
            "the store does not count",
            "the store counts again",
            "the store has lost visits of visits: ",
        ];
        !expected.iter().any(|text| line.contains(text))
    };
    let log = notch.log();
    assert_eq!(log.iter().find(is_unexpected), None, "{log:#?}");
}

fn total(redis: &Redis) -> i64 {
    redis.query("GET visits").parse().expect("a count")
}

/// Longer than the shorter `STORE_TIMEOUT`.
const STALL: Duration = Duration::from_millis(600);
