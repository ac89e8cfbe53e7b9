//! Counting in a real Redis: authentication, every rejection of Redis, and the total after Redis was killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, NEVER, Notch, Redis, Settings, wait_until};

const JSON: (&str, &str) = ("Accept", "application/json");

#[test]
fn counts_only_in_redis() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port);
    let notch = settings.start();
    assert_eq!(notch.total(), 0);
    assert_eq!(redis.query("EXISTS visits"), "0", "a read writes nothing");
    assert_eq!(notch.visit(), 1);
    assert_eq!(notch.visit(), 2);
    assert_eq!(redis.query("GET visits"), "2");
    redis.execute("SET visits 41");
    assert_eq!(notch.total(), 41);
    assert_eq!(notch.visit(), 42);
    assert!(!settings.ledger_file().exists(), "there is no ledger");
}

#[test]
fn the_total_survives_a_restart_of_notch() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    assert_eq!((1..=5).map(|_| notch.visit()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let notch = notch.stop().start();
    assert_eq!(notch.visit(), 6);
    let notch = notch.kill().start();
    assert_eq!(notch.visit(), 7);
}

#[test]
fn the_key_is_a_setting() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("COUNTER_KEY", "shop:visits").start();
    assert_eq!(notch.visit(), 1);
    assert_eq!(redis.query("GET shop:visits"), "1");
    let receipt = redis.query("KEYS {shop:visits}:receipt:*");
    assert_eq!(redis.query("DBSIZE"), "2");
    assert_eq!(
        redis.query(&format!("GET {receipt}")),
        "1000000000000001 0",
        "the number of the batch, and the count before it"
    );
    let left: i64 = redis.query(&format!("PTTL {receipt}")).parse().expect("a time");
    assert!((1..=302_000).contains(&left), "{left}");
    assert_eq!(notch.request("GET", "/total", &[JSON]).json()["count"], 1);
}

#[test]
fn counters_with_one_hash_tag_are_counted_in_one_batch() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("COUNTER_KEY", "{visits}").with("COUNTERS", "a,b");
    let notch = settings.with("WORKERS", "1").start();
    assert_eq!(notch.visit(), 1);
    let mut clients: Vec<_> = (0..6).map(|_| notch.client()).collect();
    // While the first batch waits for Redis, the others gather in the second.
    redis.execute("CLIENT PAUSE 300 WRITE");
    for (client, path) in clients.iter_mut().zip(["/count", "/count/a", "/count", "/count/b", "/count/a", "/count"]) {
        client.send_request("GET", path, &[JSON]);
        thread::sleep(Duration::from_millis(10));
    }
    let numbers: Vec<_> = clients.iter_mut().map(|client| client.response().json()["count"].as_i64()).collect();
    assert_eq!(numbers, [2, 1, 3, 1, 2, 4].map(Some));
    for (key, total) in [("{visits}", "4"), ("{visits}:a", "2"), ("{visits}:b", "1")] {
        assert_eq!(redis.query(&format!("GET {key}")), total, "{key}");
    }
}

#[test]
fn simultaneous_visits_share_one_command() {
    let redis = Redis::start(&[]);
    let (one, two) = (Settings::redis(redis.port).start(), Settings::redis(redis.port).start());
    let numbers: Vec<_> = (0..20).map(|n| if n % 2 == 0 { one.visit() } else { two.visit() }).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

#[test]
fn every_form_of_credentials_authenticates() {
    let redis = Redis::start(&["--requirepass", "hunter2"]);
    redis.execute(
        "ACL SETUSER al.ice on >p@ss:w/rd%20 ~visits +get +incr +incrby +eval +evalsha +script|load +set +ping +select",
    );
    let folder = crate::support::Folder::new("secrets");
    let secret = |name: &str, text: &str| {
        fs::write(folder.file(name), text).expect("a secret written for the test");
        folder.file(name).display().to_string()
    };
    let file = |text: &str| secret("password", text);
    let parts = || Settings::redis(redis.port);
    let url = |login: &str, path: &str| {
        Settings::ledger().with("REDIS_URL", &format!("redis://{login}127.0.0.1:{}{path}", redis.port))
    };
    let alice = || parts().with("REDIS_USERNAME", "al.ice");
    let mut number = 0;
    for settings in [
        parts().with("REDIS_PASSWORD", "hunter2"),
        parts().with("REDIS_USERNAME", "default").with("REDIS_PASSWORD", "hunter2"),
        alice().with("REDIS_PASSWORD", "p@ss:w/rd%20"),
        parts().with("REDIS_PASSWORD_FILE", &file("hunter2")),
        parts().with("REDIS_PASSWORD_FILE", &secret("with-a-line-end", "hunter2\n")),
        alice().with("REDIS_PASSWORD_FILE", &secret("of-alice", "p@ss:w/rd%20\n")),
        parts().with("REDIS_PASSWORD", "hunter2").with("REDIS_USERNAME", "").with("REDIS_PASSWORD_FILE", ""),
        url("default:hunter2@", ""),
        url(":hunter2@", ""),
        url("%64%65%66ault:%68unter2@", "/0"),
        url("al%2Eice:p%40ss%3Aw%2Frd%2520@", "/"),
        url("al.ice:p%40ss%3aw%2frd%2520@", ""),
    ] {
        let notch = settings.start();
        number += 1;
        assert_eq!(notch.visit(), number);
        assert_eq!(notch.total(), number);
        assert_eq!(notch.get("/readyz").status, 200);
    }
    assert_eq!(redis.query("GET visits"), number.to_string());
}

#[test]
fn without_rights_for_receipts_visits_are_counted() {
    let redis = Redis::start(&[]);
    let (refused, hidden) = ("the store's user may not keep receipts", "the store may evict receipts");
    for (number, (rights, receipts)) in (1..).zip([
        ("~visits +get +incr +incrby +ping +info", Some(refused)),
        ("~visits +get +incr +incrby +ping +eval +set +info", Some(refused)),
        ("~visits ~{visits}* +get +incr +incrby +ping +eval", Some(refused)),
        ("~visits ~{visits}* +get +incr +incrby +ping +evalsha +script|load", Some(refused)),
        ("~visits ~{visits}* +get +incr +incrby +ping +script|load +set", Some(refused)),
        ("~visits ~{visits}* +get +incrby +ping +eval +set", Some(hidden)),
        ("~visits ~{visits}* +get +incrby +ping +eval +set +info", None),
        ("~visits ~{visits}* +get +incrby +ping +evalsha +script|load +set", Some(hidden)),
        ("~visits ~{visits}* +get +incrby +ping +evalsha +script|load +set +info", None),
        ("~* +@all", None),
    ]) {
        redis.execute(&format!("ACL SETUSER u reset on nopass {rights}"));
        let notch = Settings::redis(redis.port).with("REDIS_USERNAME", "u").with("REDIS_PASSWORD", "any").start();
        assert_eq!(notch.visit(), 3 * number - 2, "{rights}");
        assert_eq!(notch.visit(), 3 * number - 1, "{rights}");
        let count_in_log = |text: &str| notch.log().iter().filter(|line| line.contains(text)).count();
        if let Some(message) = receipts {
            wait_until("it is logged", || (count_in_log(message) > 0).then_some(()));
        }
        assert_eq!(notch.visit(), 3 * number, "{rights}");
        assert_eq!(count_in_log(refused), usize::from(receipts == Some(refused)), "{rights}");
        assert!(receipts.is_some() || count_in_log(hidden) == 0, "{rights}");
    }
}

#[test]
fn missing_rights_for_receipts_are_remembered_after_a_reconnect() {
    let redis = Redis::start(&[]);
    redis.execute("ACL SETUSER u reset on nopass ~visits +get +incr +incrby +ping +info +script|load");
    let settings = Settings::redis(redis.port).with("REDIS_USERNAME", "u").with("REDIS_PASSWORD", "any");
    let notch = settings.with("WORKERS", "1").start();
    for number in 1..=3 {
        assert_eq!(notch.visit_when_it_counts(), number);
        redis.query("CLIENT KILL USER u");
        wait_until("notch connects again", || (reconnects(&notch) >= number).then_some(()));
    }
    assert_eq!(notch.visit_when_it_counts(), 4);
    let count_in_log = |text: &str| notch.log().iter().filter(|line| line.contains(text)).count();
    wait_until("it is logged", || (count_in_log("may not keep receipts") > 0).then_some(()));
    redis.execute("ACL SETUSER u +@all allkeys");
    redis.query("CLIENT KILL USER u");
    wait_until("notch connects again", || (reconnects(&notch) >= 4).then_some(()));
    assert_eq!(notch.visit_when_it_counts(), 5);
    wait_until("the log takes it back", || (count_in_log("the store keeps receipts") > 0).then_some(()));
    assert_eq!(
        (count_in_log("may not keep receipts"), count_in_log("the store keeps receipts")),
        (1, 1),
        "{:#?}",
        notch.log()
    );
}

fn reconnects(notch: &Notch) -> i64 {
    let page = notch.get("/metrics");
    let number = page.text().lines().find_map(|line| line.strip_prefix("notch_store_reconnects_total "));
    number.and_then(|number| number.parse().ok()).expect("a number of connections")
}

#[test]
fn a_flushed_script_is_loaded_again() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    let mut commands = (0, 0);
    for (number, flush, more) in [(1, false, (1, 0)), (2, false, (1, 0)), (3, true, (1, 1)), (4, false, (0, 1))] {
        if flush {
            redis.execute("SCRIPT FLUSH");
        }
        assert_eq!(notch.visit(), number);
        let now = (redis.calls("evalsha"), redis.calls("eval"));
        assert_eq!((now.0 - commands.0, now.1 - commands.1), more, "visit {number}");
        commands = now;
    }
    assert_eq!(redis.calls("incrby"), 4);
}

#[test]
fn a_flushed_script_is_loaded_again_for_names_too() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("COUNTERS", "*").with("WORKERS", "1").start();
    for number in 1..=3 {
        assert_eq!(notch.get("/count/blog").number(), number);
        redis.execute("SCRIPT FLUSH");
    }
    assert_eq!(redis.query("GET visits:blog"), "3");
}

#[test]
fn reads_on_a_replica_do_not_reset_the_backoff() {
    let redis = Redis::start(&[]);
    redis.execute("REPLICAOF 127.0.0.1 1");
    let notch = Settings::redis(redis.port).with("WORKERS", "1").start();
    let begun = Instant::now();
    let before = reconnects(&notch);
    thread::scope(|scope| {
        for (path, pause) in [("/count", 30), ("/total", 1)] {
            let notch = &notch;
            scope.spawn(move || {
                let mut client = notch.client();
                while begun.elapsed() < Duration::from_secs(3) {
                    client.get(path);
                    thread::sleep(Duration::from_millis(pause));
                }
            });
        }
    });
    let made = reconnects(&notch) - before;
    // The delay between attempts grows to 250 ms.
    assert!(made <= 20, "{made} connections in 3 s");
}

#[test]
fn a_name_that_cannot_be_kept_is_not_counted() {
    let redis = Redis::start(&[]);
    for (rights, places) in [("-sadd", "0"), ("-incrby", "0"), ("-incrby -srem", "1")] {
        redis.execute(&format!("ACL SETUSER default +@all {rights}"));
        let notch = Settings::redis(redis.port).with("COUNTERS", "*").start();
        notch.get("/count/blog").assert_not_counted();
        assert_eq!(redis.query("EXISTS visits:blog"), "0", "{rights}");
        assert_eq!(redis.query("SCARD {visits}:<names>"), places, "{rights}");
    }
    redis.execute("ACL SETUSER default +@all");
    let notch = Settings::redis(redis.port).with("COUNTERS", "*").start();
    assert_eq!(notch.get("/count/blog").number(), 1);
    assert_eq!(redis.query("SCARD {visits}:<names>"), "1");
}

#[test]
fn counts_in_the_database_of_the_setting() {
    let redis = Redis::start(&[]);
    let url = format!("redis://127.0.0.1:{}", redis.port);
    for (settings, database) in [
        (Settings::redis(redis.port).with("REDIS_DB", "3"), 3),
        (Settings::redis(redis.port).with("REDIS_DB", "0"), 0),
        (Settings::ledger().with("REDIS_URL", &format!("{url}/15")), 15),
    ] {
        let notch = settings.start();
        assert_eq!(notch.visit(), 1);
        assert_eq!(notch.visit(), 2);
        assert_eq!(redis.query_in(database, "GET visits"), "2", "database {database}");
    }
}

/// How Redis is made to reject commands, the expected content of the key, and how this is ended.
struct Refusal {
    cause: &'static str,
    begin: &'static [&'static str],
    end: &'static [&'static str],
    /// The next number after the end.
    next: i64,
    /// Whether the total can be read meanwhile.
    readable: bool,
}

const CLOSE_CONNECTIONS: &str = "CLIENT KILL TYPE normal";

const REFUSALS: &[Refusal] = &[
    Refusal { cause: "WRONGTYPE", begin: &["RPUSH visits a b"], end: &["DEL visits"], next: 1, readable: false },
    Refusal { cause: "not a number", begin: &["SET visits zebra"], end: &["SET visits 4"], next: 5, readable: false },
    Refusal { cause: "a fraction", begin: &["SET visits 1.5"], end: &["SET visits 1"], next: 2, readable: false },
    Refusal { cause: "a blank", begin: &["SET visits \" 7\""], end: &["SET visits 7"], next: 8, readable: false },
    Refusal {
        cause: "past 64 bits",
        begin: &["SET visits 9223372036854775808"],
        end: &["SET visits 9223372036854775806"],
        next: i64::MAX,
        readable: false,
    },
    Refusal {
        cause: "overflow",
        begin: &["SET visits 9223372036854775807"],
        end: &["SET visits -2"],
        next: -1,
        readable: true,
    },
    Refusal {
        cause: "OOM",
        begin: &["SET visits 9", "CONFIG SET maxmemory 1"],
        end: &["CONFIG SET maxmemory 0"],
        next: 10,
        readable: true,
    },
    Refusal {
        cause: "NOPERM to count",
        begin: &["SET visits 9", "ACL SETUSER default -incr -incrby -eval -evalsha"],
        end: &["ACL SETUSER default +@all"],
        next: 10,
        readable: true,
    },
    Refusal {
        cause: "NOPERM on the key",
        begin: &["SET visits 9", "ACL SETUSER default resetkeys ~other"],
        end: &["ACL SETUSER default allkeys"],
        next: 10,
        readable: false,
    },
    Refusal {
        cause: "READONLY",
        begin: &["SET visits 9", "REPLICAOF 127.0.0.1 1", CLOSE_CONNECTIONS],
        end: &["REPLICAOF NO ONE"],
        next: 10,
        readable: false,
    },
    Refusal {
        cause: "MASTERDOWN",
        begin: &["SET visits 9", "CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"],
        end: &["REPLICAOF NO ONE"],
        next: 10,
        readable: false,
    },
    Refusal {
        cause: "NOREPLICAS",
        begin: &["SET visits 9", "CONFIG SET min-replicas-to-write 1"],
        end: &["CONFIG SET min-replicas-to-write 0"],
        next: 10,
        readable: true,
    },
];

#[test]
fn rejections_of_redis_are_not_counted_and_are_transient() {
    // The cases run in parallel, because they mostly wait.
    thread::scope(|scope| {
        for refusal in REFUSALS {
            scope.spawn(|| {
                let redis = Redis::start(&[]);
                let notch = with_short_timeout(&redis).start();
                let wait_for_readiness = |status: u16| {
                    wait_until(refusal.cause, || (notch.get("/readyz").status == status).then_some(()));
                };
                wait_for_readiness(200);
                refusal.begin.iter().for_each(|command| redis.execute(command));
                if refusal.begin.contains(&CLOSE_CONNECTIONS) {
                    // A visit that is sent on the closed connection would be in doubt.
                    wait_for_readiness(503);
                }
                assert_refused(&notch, refusal.cause, refusal.readable);
                refusal.end.iter().for_each(|command| redis.execute(command));
                assert_eq!(notch.visit_when_it_counts(), refusal.next, "{}", refusal.cause);
                assert_eq!(redis.query("GET visits"), refusal.next.to_string(), "{}", refusal.cause);
            });
        }
    });
}

#[test]
fn pipelined_visits_are_refused_one_by_one() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    assert_eq!(notch.visit(), 1);
    redis.execute("CONFIG SET maxmemory 1");
    let mut client = notch.client();
    client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20));
    (0..20).for_each(|_| client.response().assert_not_counted());
    redis.execute("CONFIG SET maxmemory 0");
    client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20));
    assert_eq!((0..20).map(|_| client.response().number()).collect::<Vec<_>>(), (2..=21).collect::<Vec<_>>());
}

#[test]
fn a_key_of_another_type_is_not_changed() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    for value in ["zebra", "9223372036854775807", "-9223372036854775809", "1e3", "\"\""] {
        redis.execute(&format!("SET visits {value}"));
        notch.get("/count").assert_not_counted();
        notch.get("/");
        notch.get("/total");
        assert_eq!(redis.query("GET visits"), value.trim_matches('"'));
    }
    redis.execute("DEL visits");
    redis.execute("RPUSH visits a b");
    notch.get("/count").assert_not_counted();
    assert_eq!(redis.query("LRANGE visits 0 -1"), "a\nb");
}

#[test]
fn the_last_numbers_there_are_go_to_one_visitor_each() {
    let redis = Redis::start(&[]);
    let start = i64::MAX - 10;
    redis.execute(&format!("SET visits {start}"));
    let notch = Settings::redis(redis.port).start();
    let responses = run_clients(&notch, 8, 4, |client| client.get("/count"));
    let mut numbers = Vec::new();
    for response in responses {
        if response.status == 200 {
            numbers.push(response.number());
        } else {
            response.assert_not_counted();
        }
    }
    // A batch that would overflow is rejected as a whole, so not every number is given; none is given twice.
    numbers.sort_unstable();
    let last = start + numbers.len() as i64;
    assert_eq!(numbers, (start + 1..=last).collect::<Vec<_>>());
    assert_eq!(redis.query("GET visits"), last.to_string());
}

#[test]
fn without_the_password_that_redis_wants_nothing_is_counted_until_it_has_it() {
    let wrong = |settings: Settings| settings.with("REDIS_PASSWORD", "wrong");
    for (cause, login) in [("NOAUTH", (|s| s) as fn(Settings) -> Settings), ("WRONGPASS", wrong)] {
        let redis = Redis::start(&["--requirepass", "hunter2"]);
        let notch = login(with_short_timeout(&redis)).start();
        assert_refused(&notch, cause, false);
        assert_eq!(notch.get("/readyz").status, 503, "{cause}");
        redis.execute("ACL SETUSER default >wrong");
        if cause == "NOAUTH" {
            redis.execute("ACL SETUSER default nopass");
        }
        assert_eq!(notch.visit_when_it_counts(), 1, "{cause}");
    }
}

#[test]
fn a_missing_database_is_a_rejection() {
    let redis = Redis::start(&[]);
    let notch = with_short_timeout(&redis).with("REDIS_DB", "16").start();
    assert_refused(&notch, "no database 16", false);
    assert_eq!(redis.query("DBSIZE"), "0", "not counted in another one instead");
}

#[test]
fn an_endless_script_is_a_rejection() {
    let redis = Redis::start(&["--lua-time-limit", "1"]);
    let notch = with_short_timeout(&redis).start();
    assert_eq!(notch.visit(), 1);
    redis.send_without_waiting("EVAL \"while true do end\" 0");
    wait_until("Redis is busy", || redis.query("GET visits").starts_with("-BUSY").then_some(()));
    assert_refused(&notch, "BUSY", false);
    redis.execute("SCRIPT KILL");
    assert_eq!(notch.visit_when_it_counts(), 2);
}

#[test]
fn a_cluster_without_slots_is_a_rejection() {
    let redis = Redis::start(&["--cluster-enabled", "yes"]);
    let notch = with_short_timeout(&redis).start();
    assert_refused(&notch, "CLUSTERDOWN", false);
    let slots: Vec<_> = (0..16384).map(|slot: u32| slot.to_string()).collect();
    slots.chunks(4096).for_each(|slots| redis.execute(&format!("CLUSTER ADDSLOTS {}", slots.join(" "))));
    assert_eq!(notch.visit_when_it_counts(), 1);
}

#[test]
fn a_redis_that_cannot_save_is_a_rejection() {
    let redis = Redis::start(&[]);
    let notch = with_short_timeout(&redis).start();
    assert_eq!(notch.visit(), 1);
    redis.execute("CONFIG SET save \"3600 1\"");
    redis.remove_folder();
    let _ = redis.query("BGSAVE");
    wait_until("saving fails", || (redis.info("rdb_last_bgsave_status") == "err").then_some(()));
    assert_refused(&notch, "MISCONF", true);
    redis.execute("CONFIG SET stop-writes-on-bgsave-error no");
    assert_eq!(notch.visit_when_it_counts(), 2);
}

#[test]
fn a_redis_that_is_too_slow_leaves_visits_in_doubt() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").start();
    assert_eq!(notch.visit(), 1);
    redis.execute("CLIENT PAUSE 600000 WRITE");
    notch.get("/count").assert_in_doubt();
    assert_eq!(notch.get("/livez").status, 200);
    redis.execute("CLIENT UNPAUSE");
    // The visit in doubt was counted or was not; the next visit has its own number.
    let next = notch.visit_when_it_counts();
    assert!((2..=3).contains(&next), "{next}");
    assert_eq!(redis.query("GET visits"), next.to_string());
}

#[test]
fn killed_and_back_on_the_same_port() {
    let mut redis = Redis::durable();
    let notch = with_short_timeout(&redis).start();
    assert_eq!((1..=3).map(|_| notch.visit()).collect::<Vec<_>>(), [1, 2, 3]);
    for round in 1..=3 {
        let before = notch.total();
        redis.kill();
        let page = notch.get("/");
        assert_eq!(page.status, 200, "the start page needs no store: {page:?}");
        assert!(page.text().contains("store"), "the error names the store: {page:?}");
        assert_eq!(notch.request("GET", "/", &[JSON]).status, 200);
        assert_eq!(notch.get("/livez").status, 200);
        for _ in 0..2 {
            let responses =
                notch.request_at_once(&[("GET", "/count", &[]), ("GET", "/total", &[]), ("GET", "/readyz", &[])]);
            responses[0].assert_not_counted();
            assert_eq!((responses[1].status, responses[2].status), (503, 503), "{responses:?}");
        }
        redis.restart();
        assert_eq!(notch.visit_when_it_counts(), before + 1, "round {round}");
        assert_eq!(notch.get("/readyz").status, 200);
    }
}

#[test]
fn a_start_before_redis_is_there() {
    let mut redis = Redis::durable();
    redis.kill();
    let notch = with_short_timeout(&redis).start();
    assert_eq!(notch.get("/").status, 200);
    notch.get("/count").assert_not_counted();
    redis.restart();
    assert_eq!(notch.visit_when_it_counts(), 1);
}

#[test]
fn a_redis_restarted_behind_an_idle_connection_costs_no_visit() {
    let mut redis = Redis::durable();
    let notch = Settings::redis(redis.port).start();
    assert_eq!(notch.visit(), 1);
    for number in 2..=4 {
        redis.kill();
        redis.restart();
        assert_eq!(notch.visit_when_it_counts(), number);
    }
}

#[test]
fn connections_that_redis_closes_are_replaced() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    for number in 1..=5 {
        assert_eq!(notch.visit_when_it_counts(), number);
        redis.execute("CLIENT KILL TYPE normal SKIPME yes");
    }
}

#[test]
fn no_answered_visit_is_lost_or_doubled_when_redis_is_killed_under_load() {
    let mut redis = Redis::durable();
    let notch = Settings::redis(redis.port).start();
    let (mut numbers, mut doubts) = (Vec::new(), 0);
    for _ in 0..3 {
        let over = AtomicBool::new(false);
        let responses = thread::scope(|scope| {
            let visitors: Vec<_> = (0..8).map(|_| scope.spawn(|| visit_until(&notch, &over))).collect();
            let start = redis.query("GET visits").parse::<i64>().unwrap_or(0);
            wait_until("the load is on", || {
                (redis.query("GET visits").parse::<i64>().ok()? > start + 100).then_some(())
            });
            redis.kill();
            redis.restart();
            let back = notch.visit_when_it_counts();
            numbers.push(back);
            wait_until("the load is on again", || (notch.total() > back + 50).then_some(()));
            over.store(true, Ordering::Relaxed);
            visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect::<Vec<_>>()
        });
        for response in responses {
            match response.status {
                200 => numbers.push(response.number()),
                503 => response.assert_not_counted(),
                _ => {
                    response.assert_in_doubt();
                    doubts += 1;
                }
            }
        }
    }
    let unique: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(unique.len(), numbers.len(), "no number is given out twice");
    let total = redis.query("GET visits").parse::<usize>().expect("a count");
    assert!((numbers.len()..=numbers.len() + doubts).contains(&total), "{total}: {} + {doubts}", numbers.len());
}

#[test]
fn concurrent_visits_get_consecutive_numbers() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    let (visitors, each) = (64, 50);
    let visits = visitors * each;
    let numbers = run_clients(&notch, visitors, each, |client| client.get("/count").number());
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=visits as i64).collect::<Vec<_>>(), "unique and without a gap");
    for own in numbers.chunks(each) {
        assert!(own.is_sorted(), "a later visit has the greater number: {own:?}");
    }
    assert_eq!(redis.query("GET visits"), visits.to_string());
}

#[test]
fn while_one_batch_is_in_flight_the_next_one_gathers() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER);
    let notch = settings.start();
    assert_eq!(notch.visit(), 1);
    for (path, commands) in [("/count", &["incr", "incrby"][..]), ("/total", &["get"])] {
        let sent = || commands.iter().map(|command| redis.calls(command)).sum::<u64>();
        let before = sent();
        let mut clients: Vec<_> = (0..64).map(|_| notch.client()).collect();
        redis.while_stopped(|| {
            for client in &mut clients {
                // After the first response, the second command is in flight.
                client.send(format!("GET /livez HTTP/1.1\r\nHost: h\r\n\r\nGET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
                assert_eq!(client.response().status, 200);
            }
        });
        let mut numbers: Vec<_> = clients.iter_mut().map(|client| client.response().number()).collect();
        numbers.sort_unstable();
        let expected: Vec<_> = if path == "/count" { (2..66).collect() } else { vec![65; 64] };
        assert_eq!(numbers, expected);
        // One for the first, one for those that arrived meanwhile; a thread may have been slow to send.
        let sent = sent() - before;
        assert!((2..16).contains(&sent), "{sent} commands for 64 of {path}");
    }
}

#[test]
fn a_read_in_a_batch_returns_the_total_of_the_batch() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    run_clients(&notch, 16, 100, |client| {
        let number = client.get("/count").number();
        let total = client.get("/total").number();
        assert!(total >= number, "{total} after {number}");
        let next = client.get("/count").number();
        assert!(next > total, "{next} after {total}");
    });
    assert_eq!(notch.total(), 3200);
}

/// Visits wait for a store that may recover; a short timeout makes a test fast in which it does not. A reply may
/// take a quarter of it: a connection that is replaced because this machine is busy would leave a visit in doubt.
fn with_short_timeout(redis: &Redis) -> Settings {
    Settings::redis(redis.port).with("STORE_TIMEOUT", "1s")
}

/// Asserts that counting is rejected: 503 without text of Redis, a start page, a running process.
fn assert_refused(notch: &Notch, cause: &str, readable: bool) {
    for _ in 0..2 {
        for form in [("Accept", "*/*"), JSON] {
            let fields = &[form][..];
            let responses =
                notch.request_at_once(&[("POST", "/count", fields), ("GET", "/total", fields), ("GET", "/", fields)]);
            let [response, total, welcome] = &responses[..] else { panic!("as many answers as requests") };
            response.assert_not_counted();
            let shown = response.text().to_ascii_uppercase();
            for raw in
                ["WRONGTYPE", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "OOM ", "MASTERDOWN", "CLUSTERDOWN", "ERR "]
            {
                assert!(!shown.contains(raw), "{cause}: {response:?}");
            }
            assert_eq!(total.status, if readable { 200 } else { 503 }, "{cause}: {total:?}");
            assert_eq!(welcome.status, 200, "{cause}");
        }
    }
    assert_eq!(notch.get("/livez").status, 200, "{cause}");
}

/// Opens `visitors` connections at once, each of which sends `each` requests. Returns all results by visitor.
fn run_clients<T: Send>(notch: &Notch, visitors: usize, each: usize, send: impl Fn(&mut Client) -> T + Sync) -> Vec<T> {
    let visit = || {
        let mut client = notch.client();
        (0..each).map(|_| send(&mut client)).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..visitors).map(|_| scope.spawn(visit)).collect();
        visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect()
    })
}

fn visit_until(notch: &Notch, over: &AtomicBool) -> Vec<crate::support::Response> {
    let mut responses = Vec::new();
    let mut client = notch.client();
    while !over.load(Ordering::Relaxed) {
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
        let response = client.response();
        if response.closes() {
            client = notch.client();
        }
        responses.push(response);
    }
    responses
}

#[test]
fn many_connections_do_not_close_the_connection_to_redis() {
    let mut redis = Redis::durable();
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with_wrapper(&["prlimit", "--nofile=64"]).start();
    let mut clients: Vec<_> = (0..100).map(|_| notch.client()).collect();
    assert_eq!(notch.visit(), 1);
    redis.kill();
    redis.restart();
    assert_eq!(notch.visit_when_it_counts(), 2);
    clients.retain_mut(|client| client.try_send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").is_ok());
    let served = clients.iter_mut().filter_map(|client| client.next_response("GET")).count();
    assert!((1..64).contains(&served), "{served} of the first connections are still served");
}

#[test]
fn a_redis_at_its_client_limit_rejects_visits() {
    let redis = Redis::start(&["--maxclients", "2"]);
    // The connection that waited for the start may still use a slot.
    let connect = || {
        let mut stream = TcpStream::connect(("127.0.0.1", redis.plain_port)).ok()?;
        let mut reply = [0; 5];
        stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut reply)).ok()?;
        (reply == *b"+PONG").then_some(stream)
    };
    let clients: Vec<_> = (0..2).map(|_| wait_until("a connection is free", connect)).collect();
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", "100ms").start();
    for _ in 0..3 {
        let response = notch.get("/count");
        response.assert_not_counted();
        // With TLS, a Redis at its limit closes the connection before it can send an error.
        assert!(cfg!(feature = "tls") || response.text().contains("limit of clients"), "{response:?}");
    }
    let warnings = notch.log().iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{:#?}", notch.log());
    drop(clients);
    assert_eq!(notch.visit_when_it_counts(), 1);
}

/// Sets the counters with `commands` and cuts all connections in one step, so that notch finds these totals when it
/// connects again.
fn set_and_disconnect(redis: &Redis, commands: &[&str]) {
    let lines = [&["MULTI"], commands, &["CLIENT KILL TYPE normal", "EXEC"]].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", redis.plain_port)).expect("Redis accepts connections");
    stream.write_all(format!("{}\r\n", lines.join("\r\n")).as_bytes()).expect("Redis reads commands");
    let mut reply = String::new();
    let expected = format!("*{}\r\n", commands.len() + 1);
    let mut chunk = [0; 512];
    wait_until("the transaction is executed", || {
        let length = stream.read(&mut chunk).expect("Redis replies");
        reply.push_str(&String::from_utf8_lossy(&chunk[..length]));
        reply.contains(&expected).then_some(())
    });
}

/// Visits until the store has rejected one on a new connection, and returns the error.
fn rejected_after_reconnect(notch: &Notch) -> String {
    wait_until("the store rejects a visit", || {
        let response = notch.get("/count");
        // One that was sent before notch found the connection closed is in doubt.
        if response.status == 504 {
            return None;
        }
        response.assert_not_counted();
        Some(response.text().to_owned())
    })
}

#[test]
fn a_counter_below_the_last_number_is_raised_to_it_on_a_new_connection() {
    let redis = Redis::start(&[]);
    for (before, found, next) in [
        // The store came back short, or without the counter.
        ("1000", "SET visits 5", 1002),
        ("1000", "SET visits 0", 1002),
        ("1000", "DEL visits", 1002),
        ("1000", "SET visits -7", 1002),
        ("1000", "SET visits 999", 1002),
        // It has all of it, or more.
        ("1000", "SET visits 1001", 1002),
        ("1000", "SET visits 2000", 2001),
        ("9", "SET visits 100", 101),
        // More than 53 bits.
        ("9007199254740992", "SET visits 9007199254740992", 9_007_199_254_740_994),
        ("9223372036854775805", "SET visits -9223372036854775807", i64::MAX),
    ] {
        redis.execute(&format!("SET visits {before}"));
        let notch = Settings::redis(redis.port).with("WORKERS", "1").start();
        assert_eq!(notch.visit(), before.parse::<i64>().expect("a number") + 1);
        set_and_disconnect(&redis, &[found]);
        assert_eq!(notch.visit(), next, "{before} {found}");
        assert_eq!(redis.query("GET visits"), next.to_string());
        redis.execute("SET visits 3");
        assert_eq!(notch.visit(), 4, "a counter that is set on a living connection is left as it is");
    }
    // What is no count is left as it is.
    for found in ["zebra", "007", "1.5", "99999999999999999999", "-0"] {
        redis.execute("SET visits 1000");
        let notch = Settings::redis(redis.port).with("WORKERS", "1").start();
        assert_eq!(notch.visit(), 1001);
        set_and_disconnect(&redis, &[&format!("SET visits {found}")]);
        let rejected = rejected_after_reconnect(&notch);
        assert!(rejected.contains("whole number"), "{rejected}");
        assert_eq!(redis.query("GET visits"), found);
    }
    // The counter would exceed its maximum.
    redis.execute("SET visits 9223372036854775806");
    let notch = Settings::redis(redis.port).with("WORKERS", "1").start();
    assert_eq!(notch.visit(), i64::MAX);
    set_and_disconnect(&redis, &["SET visits 5"]);
    rejected_after_reconnect(&notch);
    assert_eq!(redis.query("GET visits"), i64::MAX.to_string());
}

#[test]
fn named_counters_have_floors_of_their_own() {
    let redis = Redis::start(&[]);
    for names in ["*", "blog,shop"] {
        redis.execute("FLUSHALL");
        let notch = Settings::redis(redis.port).with("WORKERS", "1").with("COUNTERS", names).start();
        for number in 1..=3 {
            assert_eq!(notch.get("/count/blog").number(), number);
        }
        assert_eq!((notch.get("/count/shop").number(), notch.visit()), (1, 1));
        set_and_disconnect(&redis, &["FLUSHALL"]);
        assert_eq!((notch.get("/count/blog").number(), notch.get("/count/shop").number()), (4, 2), "{names}");
        assert_eq!((notch.visit(), notch.get("/count/blog").number()), (2, 5), "{names}");
        assert_eq!(redis.query("SCARD {visits}:<names>"), if names == "*" { "2" } else { "0" });
    }
}

#[test]
fn replicas_acknowledge_visits() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("REDIS_ACKS", "1").with("STORE_TIMEOUT", "4s");
    let notch = settings.start();
    notch.get("/count").assert_in_doubt();
    assert_eq!(redis.query("GET visits"), "1");
    let replica = Redis::start(&[]);
    replica.execute(&format!("REPLICAOF 127.0.0.1 {}", redis.plain_port));
    wait_until("the replica is connected", || (replica.info("master_link_status") == "up").then_some(()));
    wait_until("it acknowledges", || (redis.query("WAIT 1 100") == "1").then_some(()));
    let first = notch.visit();
    assert_eq!(notch.visit(), first + 1);
    assert_eq!(replica.query("GET visits"), (first + 1).to_string());
    // The replica stands still, and then continues within the deadline.
    let mut client = notch.client();
    replica.while_stopped(|| {
        client.send_request("GET", "/count", &[]);
        let resends = || notch.get("/metrics").text().contains("\nnotch_store_resends_total 0\n");
        wait_until("the batch is sent again", || (!resends()).then_some(()));
    });
    assert_eq!(client.response().number(), first + 2);
    assert_eq!(redis.query("GET visits"), (first + 2).to_string(), "it is counted once");
}
