//! Health of the store: notch is ready when visits count, and detects a recovery by itself.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{NEVER, Notch, Redis, Settings, wait_until};

fn store_up(notch: &Notch) -> bool {
    notch.get("/metrics").text().contains("\nnotch_store_up 1\n")
}

fn regressions(notch: &Notch) -> u64 {
    let page = notch.get("/metrics");
    let number = page.text().lines().find_map(|line| line.strip_prefix("notch_store_regressions_total "));
    number.and_then(|number| number.parse().ok()).expect("a number of regressions")
}

fn count_in_log(notch: &Notch, message: &str) -> usize {
    notch.log().iter().filter(|line| line.contains(message)).count()
}

fn ready(notch: &Notch) -> bool {
    let status = notch.get("/readyz").status;
    assert!(matches!(status, 200 | 503), "{status}");
    status == 200
}

/// Visits on enough connections that every worker serves some.
fn visit_concurrently(notch: &Notch) {
    notch.request_at_once(&[("GET", "/count", &[][..])].repeat(16));
}

#[test]
fn a_recovered_store_is_detected_without_visits() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("WORKERS", "3").start();
    for (begin, end) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("ACL SETUSER default -incrby -evalsha -eval", "ACL SETUSER default +@all"),
    ] {
        wait_until("visits count", || {
            visit_concurrently(&notch);
            (store_up(&notch) && ready(&notch)).then_some(())
        });
        redis.execute(begin);
        wait_until("visits are refused", || {
            visit_concurrently(&notch);
            (!store_up(&notch) && !ready(&notch)).then_some(())
        });
        let total = redis.query("GET visits");
        redis.execute(end);
        wait_until(&format!("the store is up again after {end}"), || store_up(&notch).then_some(()));
        wait_until("it is ready again", || ready(&notch).then_some(()));
        assert_eq!(redis.query("GET visits"), total, "finding out has counted nothing");
    }
    wait_until("it is logged", || (count_in_log(&notch, "the store counts again") == 3).then_some(()));
}

#[test]
fn while_the_store_is_unavailable_visits_wait_and_pages_do_not() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with("STORE_TIMEOUT", "3s").start();
    assert_eq!(notch.visit(), 1);
    redis.kill();
    // A store that is unavailable for a moment may recover at once, so requests wait for it.
    let timed = |path: &str, status: u16| {
        let start = Instant::now();
        assert_eq!(notch.get(path).status, status, "{path}");
        start.elapsed()
    };
    assert!(timed("/", 200) >= TIMEOUT / 2);
    wait_until("notch has detected the failure", || (timed("/", 200) < TIMEOUT / 2).then_some(()));
    for (path, status) in [("/", 200), ("/total", 503), ("/readyz", 503), ("/badge.json", 503)] {
        assert!(timed(path, status) < TIMEOUT / 2, "{path} waits for a store that is unavailable");
    }
    assert!(timed("/count", 503) >= TIMEOUT - TIMEOUT / 10, "a visit waits until its deadline");
    redis.restart();
    wait_until("a total is returned", || (notch.get("/total").status == 200).then_some(()));
    assert_eq!(notch.visit(), 2);
}

#[test]
fn a_rejection_of_a_named_counter_is_not_a_failure_of_the_store() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("COUNTERS", "blog,shop").start();
    redis.execute("RPUSH visits:blog a");
    redis.execute("SET visits:shop 9223372036854775807");
    for _ in 0..3 {
        for (path, status) in [("/count/blog", 503), ("/total/blog", 503), ("/count/shop", 503), ("/count", 200)] {
            assert_eq!(notch.get(path).status, status, "{path}");
            assert!(store_up(&notch) && ready(&notch), "after {path}");
        }
    }
    assert_eq!(count_in_log(&notch, "the store does not count"), 0, "{:#?}", notch.log());
    // Two alternating conditions are logged at most three times a minute.
    let lines = count_in_log(&notch, "visits of visits:blog get an error")
        + count_in_log(&notch, "visits of visits:shop get an error");
    assert!((2..=3).contains(&lines), "{:#?}", notch.log());
}

#[test]
fn it_is_ready_before_the_first_visit() {
    for (begin, end) in [
        ("RPUSH visits a", "DEL visits"),
        ("SET visits many", "DEL visits"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("ACL SETUSER default -incrby -incr -evalsha -eval", "ACL SETUSER default +@all"),
    ] {
        let redis = Redis::start(&[]);
        redis.execute(begin);
        let notch = Settings::redis(redis.port).start();
        assert!(!ready(&notch), "{begin}");
        assert_eq!(notch.get("/livez").status, 200);
        redis.execute(end);
        wait_until(&format!("it is ready after {end}"), || ready(&notch).then_some(()));
        // Without scripts, the probe is an `INCRBY` by 0, which creates the key.
        assert!(begin.starts_with("ACL") || redis.query("EXISTS visits") == "0", "a probe creates no counter");
        assert_eq!(notch.visit(), 1);
    }
}

#[test]
fn a_store_that_lost_visits_is_logged() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("WORKERS", "1").with("COUNTERS", "blog").start();
    for number in 1..=5 {
        assert_eq!(notch.visit(), number);
        assert_eq!(notch.get("/count/blog").number(), number);
    }
    assert_eq!(regressions(&notch), 0);
    redis.kill();
    redis.restart();
    // The handshake detects it before the first visit.
    wait_until("the loss is seen", || (regressions(&notch) == 1).then_some(()));
    let lost = "the store has lost visits of visits: the next visit continues after the last number";
    wait_until("it is logged", || (count_in_log(&notch, lost) > 0).then_some(()));
    assert_eq!(count_in_log(&notch, lost), 1, "{:#?}", notch.log());
    // No number is given twice.
    assert_eq!((notch.visit(), notch.get("/count/blog").number()), (6, 6));
    assert_eq!(regressions(&notch), 1);
    // A total lowered by hand is left as it is: numbers are given again.
    redis.execute("SET visits 10");
    assert_eq!(notch.visit(), 11);
    redis.execute("SET visits 3");
    assert_eq!(notch.visit(), 4);
    assert_eq!(regressions(&notch), 2);
    // The next connection leaves it as it is, too.
    redis.execute("CLIENT KILL TYPE normal");
    assert_eq!((notch.visit(), notch.visit()), (5, 6));
    let lost = "the store has lost visits of visits: numbers are given again";
    wait_until("it is logged", || (count_in_log(&notch, lost) == 1).then_some(()));
}

#[test]
fn the_total_of_the_store_is_logged_at_the_start() {
    let redis = Redis::start(&[]);
    for (value, message) in [(None, "holds no visits of visits yet"), (Some("41"), "holds visits of visits total=41")] {
        if let Some(value) = value {
            redis.execute(&format!("SET visits {value}"));
        }
        let notch = Settings::redis(redis.port).start();
        wait_until("it is logged", || (count_in_log(&notch, message) == 1).then_some(()));
    }
    let other = Settings::redis(redis.port).with("COUNTER_KEY", "visitors").start();
    wait_until("it is logged for the key that is set", || {
        (count_in_log(&other, "holds no visits of visitors yet; if it should, check COUNTER_KEY") == 1).then_some(())
    });
}

#[test]
fn the_limit_of_names_applies_to_all_clients_of_redis() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("COUNTERS", "*").with("MAX_COUNTERS", "5");
    let (one, two) = (settings.start(), settings.start());
    redis.execute("SET visits:by-hand 7");
    let refused: usize = thread::scope(|scope| {
        let visitors = (0..8).map(|visitor| {
            let notch = if visitor % 2 == 0 { &one } else { &two };
            scope.spawn(move || {
                let mut client = notch.client();
                let statuses = (0..20).map(|name| client.get(&format!("/count/name-{}", (name + visitor) % 20)).status);
                statuses.filter(|&status| status == 507).count()
            })
        });
        visitors.collect::<Vec<_>>().into_iter().map(|visitor| visitor.join().expect("no panic")).sum()
    });
    assert_eq!(refused, 8 * 15, "only the first names are accepted");
    assert_eq!(redis.query("SCARD {visits}:<names>"), "5");
    assert_eq!(redis.query("KEYS visits:name-*").lines().count(), 5);
    for notch in [&one, &two] {
        let refusal = notch.get("/count/one-more");
        assert_eq!(refusal.status, 507);
        assert!(refusal.text().contains("MAX_COUNTERS"), "{refusal:?}");
        assert_eq!(notch.get("/total/one-more").number(), 0);
        assert!(store_up(notch) && ready(notch));
        notch.visit();
    }
    assert_eq!(one.get("/count/by-hand").number(), 8, "a counter that is there counts");
    let kept = redis.query("SRANDMEMBER {visits}:<names>");
    let name = kept.strip_prefix("visits:").expect("the key of a named counter");
    assert_eq!(two.get(&format!("/count/{name}")).number(), 9);
    // A counter that is removed and created again counts once towards the limit.
    redis.execute(&format!("DEL {kept}"));
    assert_eq!(one.get(&format!("/count/{name}")).number(), 1);
    assert_eq!(redis.query("SCARD {visits}:<names>"), "5");
    redis.execute(&format!("SREM {{visits}}:<names> {kept}"));
    redis.execute(&format!("DEL {kept}"));
    assert_eq!(two.get("/count/one-more").number(), 1);
}

#[test]
fn no_name_is_that_of_the_set_of_names() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("COUNTER_KEY", "{visits}").with("COUNTERS", "*");
    let notch = settings.start();
    for name in ["names", "receipt", "a", "names", "b"] {
        assert_eq!(notch.get(&format!("/count/{name}")).status, 200, "{name}");
    }
    assert_eq!(redis.query("SCARD {visits}:<names>"), "4");
}

#[test]
fn listed_names_are_not_limited() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("COUNTERS", "a,b,c").with("MAX_COUNTERS", "1");
    let notch = settings.start();
    for path in ["/count/a", "/count/b", "/count/c"] {
        assert_eq!(notch.get(path).number(), 1);
    }
    assert_eq!(redis.query("EXISTS {visits}:<names>"), "0");
}

#[test]
fn without_scripts_any_name_is_one_too_many() {
    let redis = Redis::start(&[]);
    redis.execute("ACL SETUSER default -eval -evalsha -script");
    let notch = Settings::redis(redis.port).with("COUNTERS", "*").with("STORE_TIMEOUT", NEVER).start();
    assert_eq!(notch.visit(), 1);
    let refusal = notch.get("/count/blog");
    assert_eq!(refusal.status, 507);
    assert!(refusal.text().contains("list the names in COUNTERS"), "{refusal:?}");
    assert_eq!(redis.query("EXISTS visits:blog"), "0");
    assert_eq!(notch.visit(), 2);
}
