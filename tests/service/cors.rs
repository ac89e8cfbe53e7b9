//! What pages of other origins may do, as the Fetch standard has browsers ask and understand it.

use crate::rig::{Answer, NEVER, Notch, Redis, Script, Settings, until};

const HERE: &str = "https://shop.example";
const THERE: &str = "http://localhost:3000";
const FOREIGN: &str = "https://shop.example.evil";

fn notch(origins: &str) -> Notch {
    Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog").with("CORS_ORIGINS", origins).start()
}

/// The fields that say something about origins, in their order.
fn said(answer: &Answer) -> Vec<(&str, &str)> {
    let about = |name: &str| name == "Vary" || name.starts_with("Access-Control-");
    answer.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| about(name)).collect()
}

/// What an answer says that this origin's page may read.
fn shared(origin: &str) -> Vec<(&str, &str)> {
    let exposed = ("Access-Control-Expose-Headers", "X-Served-By, Retry-After");
    match origin {
        "*" => vec![("Access-Control-Allow-Origin", "*"), exposed],
        _ => vec![("Vary", "Origin"), ("Access-Control-Allow-Origin", origin), exposed],
    }
}

const WITHHELD: &[(&str, &str)] = &[("Vary", "Origin")];

/// Everything that counts, or shows a count for others to use; and what a page might mistake for it.
const SHARED: [(&str, u16); 8] = [
    ("/count", 200),
    ("/count/blog", 200),
    ("/total", 200),
    ("/total/blog", 200),
    ("/badge.svg", 200),
    ("/badge/blog.json", 200),
    ("/count/shop", 404),
    ("/nowhere", 404),
];

const OWN: [&str; 6] = ["/", "/livez", "/readyz", "/metrics", "/favicon.ico", "/robots.txt"];

fn preflight<'a>(origin: &'a str, method: &'a str) -> [(&'a str, &'a str); 2] {
    [("Origin", origin), ("Access-Control-Request-Method", method)]
}

#[test]
fn unless_it_is_set_nothing_is_said() {
    let notch = notch("");
    for path in SHARED.map(|(path, _)| path).iter().chain(&OWN) {
        let asked = notch.ask("GET", path, &[("Origin", HERE)]);
        assert_eq!(said(&asked), [], "{path}");
        let asked = notch.ask("OPTIONS", path, &preflight(HERE, "GET"));
        assert_eq!((asked.status, said(&asked)), (if asked.status == 404 { 404 } else { 405 }, vec![]), "{path}");
    }
}

#[test]
fn pages_of_these_origins_may_read() {
    let notch = notch(&format!("{HERE}, {THERE}"));
    for (path, status) in SHARED {
        for origin in [HERE, THERE] {
            for method in ["GET", "HEAD"] {
                let answer = notch.ask(method, path, &[("Origin", origin), ("Accept", "application/json")]);
                assert_eq!((answer.status, said(&answer)), (status, shared(origin)), "{method} {path}: {answer:?}");
            }
        }
        for origin in [FOREIGN, "null", "*", "https://SHOP.example", ""] {
            let answer = notch.ask("GET", path, &[("Origin", origin)]);
            assert_eq!((answer.status, &said(&answer)[..]), (status, WITHHELD), "{origin} {path}: {answer:?}");
        }
        assert_eq!(said(&notch.get(path)), WITHHELD, "{path} might be kept for a page that may read it");
    }
    let answer = notch.ask("POST", "/count", &[("Origin", HERE)]);
    assert_eq!((answer.status, said(&answer)), (200, shared(HERE)));
    let answer = notch.ask("DELETE", "/count", &[("Origin", HERE)]);
    assert_eq!((answer.status, said(&answer)), (405, shared(HERE)));
    for path in OWN {
        assert_eq!(said(&notch.ask("GET", path, &[("Origin", HERE)])), [], "{path}");
    }
}

#[test]
fn pages_of_every_origin_may_read_where_that_is_set() {
    let notch = notch("*");
    for origin in [&[("Origin", FOREIGN)][..], &[("Origin", "null")], &[]] {
        for (path, status) in SHARED {
            let answer = notch.ask("GET", path, origin);
            assert_eq!((answer.status, said(&answer)), (status, shared("*")), "{path}: {answer:?}");
        }
    }
    let answer = notch.ask("OPTIONS", "/count", &preflight(FOREIGN, "POST"));
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (204, Some("*")), "{answer:?}");
}

#[test]
fn a_preflight_is_told_what_is_allowed_and_counts_nothing() {
    let notch = notch(&format!("{HERE},{THERE}"));
    for (path, methods) in [
        ("/count", "GET, HEAD, POST"),
        ("/count/blog", "GET, HEAD, POST"),
        ("/badge.svg", "GET, HEAD, POST"),
        ("/total", "GET, HEAD"),
        ("/total/blog", "GET, HEAD"),
        ("/badge.json", "GET, HEAD"),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = notch.ask("OPTIONS", path, &preflight(THERE, method));
            let allowed = [
                ("Vary", "Origin"),
                ("Access-Control-Allow-Origin", THERE),
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Max-Age", "86400"),
            ];
            assert_eq!((answer.status, &said(&answer)[..]), (204, &allowed[..]), "{path}: {answer:?}");
            assert_eq!((answer.field("Allow"), answer.field("Content-Type")), (Some(methods), None), "{answer:?}");
            assert!(answer.body.is_empty(), "{answer:?}");
        }
        for (fields, said_of_it) in [
            (&preflight(FOREIGN, "GET")[..], WITHHELD),
            (&[("Access-Control-Request-Method", "GET")], WITHHELD),
            (&[("Origin", THERE)], &shared(THERE)[..]),
        ] {
            let answer = notch.ask("OPTIONS", path, fields);
            assert_eq!((answer.status, &said(&answer)[..]), (405, said_of_it), "{path} {fields:?}: {answer:?}");
        }
    }
    for path in OWN {
        let answer = notch.ask("OPTIONS", path, &preflight(THERE, "GET"));
        assert_eq!((answer.status, said(&answer)), (405, vec![]), "{path}");
    }
    assert_eq!(notch.ask("OPTIONS", "/count/shop", &preflight(THERE, "GET")).status, 404);
    let answer = notch.ask("GET", "/count", &preflight(THERE, "GET"));
    assert_eq!(answer.number(), 1, "only OPTIONS is a preflight");
}

#[test]
fn a_visit_from_anywhere_counts() {
    let notch = notch(HERE);
    for (number, origin) in (1..).zip([FOREIGN, HERE, "null"]) {
        assert_eq!(notch.ask("GET", "/count", &[("Origin", origin)]).number(), number);
    }
    assert_eq!(notch.total(), 3);
}

#[test]
fn each_of_pipelined_visits_is_told_for_its_own_page() {
    let notch = notch(&format!("{HERE},{THERE}"));
    let mut client = notch.client();
    let origins = [HERE, HERE, THERE, FOREIGN, FOREIGN, HERE];
    let visit = |origin| format!("GET /count HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n");
    client.send(origins.map(visit).concat());
    for (number, origin) in (1..).zip(origins) {
        let answer = client.answer();
        assert_eq!(answer.number(), number);
        assert_eq!(answer.field("Access-Control-Allow-Origin"), Some(origin).filter(|origin| *origin != FOREIGN));
    }
}

#[test]
fn a_page_may_read_what_went_wrong() {
    let mut redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").with("CORS_ORIGINS", HERE);
    let notch = settings.start();
    notch.visit_when_it_counts();
    redis.kill();
    let ask = |path| notch.ask("GET", path, &[("Origin", HERE)]);
    until("notch knows that Redis is gone", || (ask("/total").status == 503).then_some(()));
    for path in ["/count", "/total", "/badge.svg", "/badge.json"] {
        let answer = ask(path);
        assert_eq!((answer.status, said(&answer)), (503, shared(HERE)), "{path}: {answer:?}");
        assert_eq!(answer.field("Retry-After"), Some("1"));
    }
    let script = Script::play("> INCR visits\nclose\n");
    let settings = Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER);
    let notch = settings.with("CORS_ORIGINS", HERE).start();
    let answer = notch.ask("GET", "/count", &[("Origin", HERE)]);
    assert_eq!((answer.status, said(&answer)), (504, shared(HERE)), "{answer:?}");
    script.done();
}
