//! The totals of several counters in one response: `/total?names=a,b`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{NEVER, Notch, Redis, Script, Settings, free_port, wait_until, while_stopped};

fn named(settings: Settings) -> Notch {
    settings.with("COUNTERS", "*").start()
}

fn totals(notch: &Notch, names: &str) -> (u16, String) {
    let response = notch.request("GET", &["/total?names=", names].concat(), &[("Accept", "text/html")]);
    assert_eq!(response.field("Content-Type"), Some("application/json"), "{names}: {response:?}");
    assert_eq!(response.field("Cache-Control"), Some("no-store"), "{names}");
    (response.status, response.text().to_owned())
}

#[test]
fn several_totals_are_one_object_in_every_store() {
    const MANY: &str = "too many names: one request reads at most 32 totals";
    const NAME: &str = "no such counter: ";
    let redis = Redis::start(&[]);
    let most: Vec<_> = (1..=32).map(|number| format!("n{number}")).collect();
    let zeros: Vec<_> = most.iter().map(|name| format!("\"{name}\":0")).collect();
    for settings in [Settings::ledger().with("FSYNC", "never"), Settings::redis(redis.port)] {
        let notch = named(settings);
        for path in ["/count/a", "/count/b", "/count/b", "/count"] {
            notch.get(path);
        }
        for (names, object) in [
            ("a,b,c", r#"{"counts":{"a":1,"b":2,"c":0}}"#),
            ("b", r#"{"counts":{"b":2}}"#),
            // Scripts that build a query encode the comma.
            ("b%2Ca", r#"{"counts":{"b":2,"a":1}}"#),
            ("a,b,a", r#"{"counts":{"a":1,"b":2}}"#),
            ("a&names=b", r#"{"counts":{"a":1}}"#),
            ("a&x=y", r#"{"counts":{"a":1}}"#),
            (&most.join(","), &format!(r#"{{"counts":{{{}}}}}"#, zeros.join(","))),
        ] {
            assert_eq!(totals(&notch, names), (200, format!("{object}\n")), "{names}");
        }
        for (names, status, message) in [
            ("", 404, NAME),
            ("&names=a", 404, NAME),
            (&format!("{},more", most.join(",")), 400, MANY),
            (&"a,".repeat(4000), 404, NAME),
            ("%zz", 404, NAME),
            ("a,", 404, NAME),
            (",a", 404, NAME),
            ("a,%20b", 404, NAME),
            ("a,b/c", 404, NAME),
            ("a,b%00", 404, NAME),
        ] {
            let (code, body) = totals(&notch, names);
            assert!(code == status && body.starts_with(&format!("{{\"error\":\"{message}")), "{names}: {code} {body}");
        }
        // Only `/total` has it.
        assert_eq!(notch.get("/total?name=a").number(), 1);
        assert_eq!(notch.get("/total/a?names=b").number(), 1);
        assert_eq!(notch.get("/count/a?names=b").number(), 2);
        assert_eq!(notch.request("POST", "/total?names=a", &[]).status, 405);
        assert_eq!(totals(&notch, "a,b"), (200, "{\"counts\":{\"a\":2,\"b\":2}}\n".to_owned()));
    }
}

#[test]
fn only_listed_names_have_a_total() {
    let notch = Settings::ledger().with("COUNTERS", "blog,shop").start();
    assert_eq!(totals(&notch, "shop,blog").0, 200);
    assert_eq!(totals(&notch, "shop,wiki").0, 404);
}

#[test]
fn several_totals_are_one_question() {
    // The replies are sent after all commands have arrived.
    let script =
        Script::play("> GET visits:a\n> GET visits:b\n> GET visits:c\n< $1\\r\\n5\\r\\n$-1\\r\\n$2\\r\\n12\\r\\n");
    let notch = named(Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER));
    assert_eq!(totals(&notch, "a,b,c"), (200, "{\"counts\":{\"a\":5,\"b\":0,\"c\":12}}\n".to_owned()));
    script.done();
}

#[test]
fn pipelined_totals_keep_their_order() {
    let notch = named(Settings::ledger().with("FSYNC", "never"));
    let mut client = notch.client();
    for path in ["/count/a", "/total?names=a,b", "/count/b", "/total?names=b,a", "/total"] {
        client.send_request("GET", path, &[]);
    }
    let bodies: Vec<_> = (0..5).map(|_| client.response().text().to_owned()).collect();
    assert_eq!(bodies, ["1\n", "{\"counts\":{\"a\":1,\"b\":0}}\n", "1\n", "{\"counts\":{\"b\":1,\"a\":1}}\n", "0\n"]);
}

#[test]
fn without_one_of_the_totals_there_is_none() {
    let redis = Redis::start(&[]);
    let notch = named(Settings::redis(redis.port));
    notch.visit_when_it_counts();
    redis.execute("RPUSH visits:list x");
    let (status, body) = totals(&notch, "a,list,b");
    assert_eq!(status, 503);
    assert!(body.contains("no total, try again: the key holds something other than a count"), "{body}");
    assert_eq!(totals(&notch, "a,b").0, 200);
}

#[test]
fn totals_wait_for_a_store_that_hangs_no_longer_than_a_visit() {
    let redis = Redis::start(&[]);
    let notch = named(Settings::redis(redis.port).with("STORE_TIMEOUT", "1s"));
    notch.visit_when_it_counts();
    while_stopped(redis.id(), || {
        let started = Instant::now();
        assert_eq!(totals(&notch, "a,b,c").0, 503);
        assert!(started.elapsed() < Duration::from_secs(10));
    });
    let totals_again = || (totals(&notch, "a,b,c").0 == 200).then_some(());
    wait_until("the totals are there again", totals_again);
}

/// A connection whose request arrived in parts had stalled until then: it is not closed for others while it waits.
#[test]
fn totals_that_were_requested_in_parts_are_not_given_up_for_other_connections() {
    let redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("MAX_CONNECTIONS", "4").with("WORKERS", "1");
    let notch = named(settings.with("STORE_TIMEOUT", NEVER));
    notch.visit_when_it_counts();
    let mut client = notch.client();
    let mut others = Vec::new();
    while_stopped(redis.id(), || {
        client.send("GET /total?na");
        // Longer than a connection is spared that has stalled.
        sleep(Duration::from_millis(100));
        client.send("mes=a,b HTTP/1.1\r\nHost: a\r\n\r\n");
        for _ in 0..4 {
            let mut other = notch.client();
            other.send_request("GET", "/count", &[]);
            others.push(other);
        }
        sleep(Duration::from_millis(300));
    });
    assert_eq!(client.response().text(), "{\"counts\":{\"a\":0,\"b\":0}}\n");
    drop(client);
    others.iter_mut().for_each(|other| assert_eq!(other.response().status, 200));
}

#[test]
fn totals_of_a_store_that_is_not_there_are_refused_at_once() {
    let notch = named(Settings::redis(free_port()).with("STORE_TIMEOUT", "300ms"));
    wait_until("notch has detected that Redis is down", || (totals(&notch, "a,b").0 == 503).then_some(()));
    let mut client = notch.client();
    for _ in 0..20 {
        let response = client.get("/total?names=a,b");
        assert_eq!((response.status, response.field("Retry-After")), (503, Some("1")), "{response:?}");
    }
}

#[test]
fn a_page_of_another_origin_may_read_totals() {
    let notch = Settings::ledger().with("COUNTERS", "a").with("CORS_ORIGINS", "http://a").start();
    for path in ["/total?names=a", "/total?names=", "/total?names=b"] {
        let response = notch.request("GET", path, &[("Origin", "http://a")]);
        assert_eq!(response.field("Access-Control-Allow-Origin"), Some("http://a"), "{path}: {response:?}");
    }
}
