//! CORS: what pages of other origins may do, by the Fetch standard.

use crate::support::{NEVER, Notch, Redis, Response, Script, Settings, wait_until};

const HERE: &str = "https://shop.example";
const THERE: &str = "http://localhost:3000";
const FOREIGN: &str = "https://shop.example.evil";

fn notch(origins: &str) -> Notch {
    Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog").with("CORS_ORIGINS", origins).start()
}

/// The fields about origins, in their order.
fn cors_fields(response: &Response) -> Vec<(&str, &str)> {
    let about = |name: &str| name == "Vary" || name.starts_with("Access-Control-");
    response
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| about(name))
        .collect()
}

/// Returns what a page of this origin may read of a response.
fn shared(origin: &str) -> Vec<(&str, &str)> {
    let exposed = ("Access-Control-Expose-Headers", "X-Served-By, Retry-After");
    match origin {
        "*" => vec![("Access-Control-Allow-Origin", "*"), exposed],
        _ => vec![("Vary", "Origin"), ("Access-Control-Allow-Origin", origin), exposed],
    }
}

const WITHHELD: &[(&str, &str)] = &[("Vary", "Origin")];

/// Requests that count or return a count, and requests with similar targets.
const SHARED: [(&str, u16); 8] = [
    ("/count", 200),
    ("/count/blog", 200),
    ("/total", 200),
    ("/total/blog", 200),
    ("/badge.svg", 200),
    ("/badge/blog.json", 200),
    ("/count/shop", 404),
    ("/unknown", 404),
];

const OWN: [&str; 6] = ["/", "/livez", "/readyz", "/metrics", "/favicon.ico", "/robots.txt"];

fn preflight<'a>(origin: &'a str, method: &'a str) -> [(&'a str, &'a str); 2] {
    [("Origin", origin), ("Access-Control-Request-Method", method)]
}

#[test]
fn without_cors_origins_no_cors_fields_are_sent() {
    let notch = notch("");
    for path in SHARED.map(|(path, _)| path).iter().chain(&OWN) {
        let response = notch.request("GET", path, &[("Origin", HERE)]);
        assert_eq!(cors_fields(&response), [], "{path}");
        let response = notch.request("OPTIONS", path, &preflight(HERE, "GET"));
        assert_eq!(
            (response.status, cors_fields(&response)),
            (if response.status == 404 { 404 } else { 405 }, vec![]),
            "{path}"
        );
    }
}

#[test]
fn pages_of_these_origins_may_read() {
    let notch = notch(&format!("{HERE}, {THERE}"));
    for (path, status) in SHARED {
        for origin in [HERE, THERE] {
            for method in ["GET", "HEAD"] {
                let response = notch.request(method, path, &[("Origin", origin), ("Accept", "application/json")]);
                assert_eq!(
                    (response.status, cors_fields(&response)),
                    (status, shared(origin)),
                    "{method} {path}: {response:?}"
                );
            }
        }
        for origin in [FOREIGN, "null", "*", "https://SHOP.example", ""] {
            let response = notch.request("GET", path, &[("Origin", origin)]);
            assert_eq!(
                (response.status, &cors_fields(&response)[..]),
                (status, WITHHELD),
                "{origin} {path}: {response:?}"
            );
        }
        assert_eq!(cors_fields(&notch.get(path)), WITHHELD, "{path} might be kept for a page that may read it");
    }
    let response = notch.request("POST", "/count", &[("Origin", HERE)]);
    assert_eq!((response.status, cors_fields(&response)), (200, shared(HERE)));
    let response = notch.request("DELETE", "/count", &[("Origin", HERE)]);
    assert_eq!((response.status, cors_fields(&response)), (405, shared(HERE)));
    for path in OWN {
        assert_eq!(cors_fields(&notch.request("GET", path, &[("Origin", HERE)])), [], "{path}");
    }
}

#[test]
fn pages_of_every_origin_may_read_where_that_is_set() {
    let notch = notch("*");
    for origin in [&[("Origin", FOREIGN)][..], &[("Origin", "null")], &[]] {
        for (path, status) in SHARED {
            let response = notch.request("GET", path, origin);
            assert_eq!((response.status, cors_fields(&response)), (status, shared("*")), "{path}: {response:?}");
        }
    }
    let response = notch.request("OPTIONS", "/count", &preflight(FOREIGN, "POST"));
    assert_eq!((response.status, response.field("Access-Control-Allow-Origin")), (204, Some("*")), "{response:?}");
}

#[test]
fn a_preflight_gets_the_allowed_methods_and_counts_nothing() {
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
            let response = notch.request("OPTIONS", path, &preflight(THERE, method));
            let allowed = [
                ("Vary", "Origin"),
                ("Access-Control-Allow-Origin", THERE),
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Max-Age", "86400"),
            ];
            assert_eq!((response.status, &cors_fields(&response)[..]), (204, &allowed[..]), "{path}: {response:?}");
            assert_eq!(
                (response.field("Allow"), response.field("Content-Type")),
                (Some(methods), None),
                "{response:?}"
            );
            assert!(response.body.is_empty(), "{response:?}");
        }
        for (fields, said_of_it) in [
            (&preflight(FOREIGN, "GET")[..], WITHHELD),
            (&[("Access-Control-Request-Method", "GET")], WITHHELD),
            (&[("Origin", THERE)], &shared(THERE)[..]),
        ] {
            let response = notch.request("OPTIONS", path, fields);
            assert_eq!(
                (response.status, &cors_fields(&response)[..]),
                (405, said_of_it),
                "{path} {fields:?}: {response:?}"
            );
        }
    }
    for path in OWN {
        let response = notch.request("OPTIONS", path, &preflight(THERE, "GET"));
        assert_eq!((response.status, cors_fields(&response)), (405, vec![]), "{path}");
    }
    assert_eq!(notch.request("OPTIONS", "/count/shop", &preflight(THERE, "GET")).status, 404);
    let response = notch.request("GET", "/count", &preflight(THERE, "GET"));
    assert_eq!(response.number(), 1, "only OPTIONS is a preflight");
}

#[test]
fn a_visit_from_any_origin_counts() {
    let notch = notch(HERE);
    for (number, origin) in (1..).zip([FOREIGN, HERE, "null"]) {
        assert_eq!(notch.request("GET", "/count", &[("Origin", origin)]).number(), number);
    }
    assert_eq!(notch.total(), 3);
}

#[test]
fn pipelined_visits_have_their_own_cors_fields() {
    let notch = notch(&format!("{HERE},{THERE}"));
    let mut client = notch.client();
    let origins = [HERE, HERE, THERE, FOREIGN, FOREIGN, HERE];
    let visit = |origin| format!("GET /count HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n");
    client.send(origins.map(visit).concat());
    for (number, origin) in (1..).zip(origins) {
        let response = client.response();
        assert_eq!(response.number(), number);
        assert_eq!(response.field("Access-Control-Allow-Origin"), Some(origin).filter(|origin| *origin != FOREIGN));
    }
}

#[test]
fn a_page_may_read_what_went_wrong() {
    let mut redis = Redis::start(&[]);
    let settings = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").with("CORS_ORIGINS", HERE);
    let notch = settings.start();
    notch.visit_when_it_counts();
    redis.kill();
    let get = |path| notch.request("GET", path, &[("Origin", HERE)]);
    wait_until("notch has detected that Redis is down", || (get("/total").status == 503).then_some(()));
    for path in ["/count", "/total", "/badge.svg", "/badge.json"] {
        let response = get(path);
        assert_eq!((response.status, cors_fields(&response)), (503, shared(HERE)), "{path}: {response:?}");
        assert_eq!(response.field("Retry-After"), Some("1"));
    }
    let script = Script::play("> INCR visits\nclose\n");
    let settings = Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER);
    let notch = settings.with("CORS_ORIGINS", HERE).start();
    let response = notch.request("GET", "/count", &[("Origin", HERE)]);
    assert_eq!((response.status, cors_fields(&response)), (504, shared(HERE)), "{response:?}");
    script.done();
}

/// Requests that are rejected before routing, with the status of each; `{o}` is the position of `Origin`.
fn refused() -> Vec<(String, u16)> {
    let long = |length: usize| "x".repeat(length);
    vec![
        ("GET /count HTTP/1.1\r\n{o}\r\n".into(), 400),
        ("GET /count HTTP/1.1\r\nHost: h\r\n{o}no field\r\n\r\n".into(), 400),
        ("GET /badge.svg HTTP/1.1\r\nHost: h\r\n{o}Host: h\r\n\r\n".into(), 400),
        ("POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n{o}\r\n".into(), 400),
        ("POST /count HTTP/1.1\r\nHost: h\r\n{o}Transfer-Encoding: chunked\r\n\r\nx\r\n".into(), 400),
        ("POST /count HTTP/1.1\r\nHost: h\r\n{o}Content-Length: 1\r\n\r\n".into(), 408),
        ("GET /total/blog HTTP/1.1\r\nHost: h\r\n{o}X".into(), 408),
        ("POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n{o}\r\n".into(), 413),
        ("POST /count/blog HTTP/1.1\r\nHost: h\r\n{o}Transfer-Encoding: chunked\r\n\r\nfffff\r\n".into(), 413),
        (format!("GET /count?{} HTTP/1.1\r\nHost: h\r\n{{o}}\r\n", long(9 << 10)), 414),
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n{{o}}\r\n", long(9 << 10)), 414),
        ("POST /count HTTP/1.1\r\nHost: h\r\n{o}Expect: tea\r\n\r\n".into(), 417),
        (format!("GET /count HTTP/1.1\r\nHost: h\r\n{{o}}X: {}\r\n\r\n", long(20 << 10)), 431),
        (format!("GET /count HTTP/1.1\r\nHost: h\r\n{{o}}{}\r\n", "X: y\r\n".repeat(100)), 431),
        ("BREW /count HTTP/1.1\r\nHost: h\r\n{o}\r\n".into(), 501),
        ("GET http://h/count HTTP/1.1\r\nHost: h\r\n{o}Transfer-Encoding: gzip, chunked\r\n\r\n".into(), 501),
        ("GET /unknown HTTP/1.1\r\nHost: h\r\n{o}Content-Length: -1\r\n\r\n".into(), 400),
    ]
}

#[test]
fn a_page_may_read_why_its_request_was_rejected() {
    for (origins, readers) in
        [("", &[][..]), (HERE, &[HERE]), (&format!("{THERE},{HERE}"), &[HERE, THERE]), ("*", &["*"])]
    {
        let settings =
            Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog").with("REQUEST_TIMEOUT", "300ms");
        let notch = settings.with("CORS_ORIGINS", origins).start();
        for (request, status) in refused() {
            for (origin, field) in [
                (HERE, format!("Origin: {HERE}\r\n")),
                (HERE, format!("ORIGIN:{HERE} \r\n")),
                (THERE, format!("Origin: {THERE}\r\n")),
                (FOREIGN, format!("Origin: {FOREIGN}\r\n")),
                ("", String::new()),
            ] {
                let expected = match readers {
                    [] => vec![],
                    ["*"] => shared("*"),
                    readers if readers.contains(&origin) => shared(origin),
                    _ => WITHHELD.to_vec(),
                };
                let whole = request.replace("{o}", &field);
                let response = refusal(&notch, &whole);
                assert_eq!(
                    (response.status, cors_fields(&response)),
                    (status, expected),
                    "{origins}: {whole:.200}: {response:?}"
                );
            }
        }
        assert_eq!(notch.total(), 0);
    }
}

#[test]
fn unread_fields_of_a_rejected_request_grant_no_cors_access() {
    let long = format!("GET /count?{}", "x".repeat(20 << 10));
    let many = format!("GET /count HTTP/1.1\r\nHost: h\r\n{}Origin: {HERE}\r\n\r\n", "X: y\r\n".repeat(100));
    let cases = [
        (&*long, 414),
        (&*many, 431),
        (&format!("GET /count HTTP/1.1\r\nno field\r\nOrigin: {HERE}\r\n\r\n"), 400),
        (&format!("GET /count HTTP/2.0\r\nOrigin: {HERE}\r\n\r\n"), 505),
        (&format!("GET  /count HTTP/1.1\r\nOrigin: {HERE}\r\n\r\n"), 400),
        (&format!("GET /count HTTP/1.1\r\nX: y\r\n Origin: {HERE}\r\n\r\n"), 400),
    ];
    let (some, all) = (notch(HERE), notch("*"));
    for (request, status) in cases {
        let response = refusal(&some, request);
        assert_eq!((response.status, &cors_fields(&response)[..]), (status, WITHHELD), "{request:.200}: {response:?}");
        let response = refusal(&all, request);
        assert_eq!((response.status, cors_fields(&response)), (status, shared("*")), "{request:.200}: {response:?}");
    }
}

#[test]
fn a_rejected_request_for_a_private_path_grants_no_cors_access() {
    for origins in [HERE, "*"] {
        let notch = notch(origins);
        for path in OWN.iter().copied().chain(["http://h/metrics", "/metrics?x", "http://h"]) {
            for fields in ["Content-Length: 65537\r\n", "Content-Length: -1\r\n", "Expect: tea\r\n"] {
                let response =
                    refusal(&notch, &format!("GET {path} HTTP/1.1\r\nHost: h\r\nOrigin: {HERE}\r\n{fields}\r\n"));
                assert_eq!(
                    (response.status >= 400, cors_fields(&response)),
                    (true, vec![]),
                    "{path} {fields}: {response:?}"
                );
            }
        }
    }
}

/// Returns the response to a rejected request, after which the connection ends.
fn refusal(notch: &Notch, request: &str) -> Response {
    let mut client = notch.client();
    // The server may have closed the connection already.
    let _ = client.try_send(request);
    let response = client.response();
    assert!(response.closes() && client.remaining_responses().is_empty(), "{request:.200}: {response:?}");
    response
}

#[test]
fn a_page_may_read_that_its_prefetch_was_refused() {
    let response = notch(HERE).request("GET", "/count", &[("Origin", HERE), ("Sec-Purpose", "prefetch;prerender")]);
    assert_eq!((response.status, cors_fields(&response)), (403, shared(HERE)), "{response:?}");
}
