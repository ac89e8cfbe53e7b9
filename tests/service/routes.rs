//! The response of each URL, its format, and which requests count as visits.

use serde_json::json;

use crate::support::{Client, Notch, Redis, Response, Settings, free_port};

/// Responses that show the current state and must not be cached.
const LIVE: [&str; 6] = ["/", "/count", "/total", "/livez", "/readyz", "/metrics"];
const KEPT: [&str; 2] = ["/favicon.ico", "/robots.txt"];

const JSON: (&str, &str) = ("Accept", "application/json");

fn notch() -> Notch {
    Settings::ledger().with("FSYNC", "never").start()
}

fn named() -> Settings {
    Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog")
}

#[test]
fn visits_are_numbered_from_one() {
    let notch = notch();
    let mut client = notch.client();
    assert_eq!(client.get("/total").number(), 0);
    for number in 1..=20 {
        assert_eq!(client.request(if number % 2 == 0 { "POST" } else { "GET" }, "/count", &[]).number(), number);
        assert_eq!(client.get("/total").number(), number);
    }
}

#[test]
fn a_count_in_json_is_a_map_of_two() {
    let notch = notch();
    let map = |count| json!({"counter": "visits", "count": count});
    assert_eq!(notch.request("GET", "/total", &[JSON]).json(), map(0));
    assert_eq!(notch.request("GET", "/count", &[JSON]).json(), map(1));
    assert_eq!(notch.request("POST", "/count", &[JSON]).json(), map(2));
    assert_eq!(notch.request("GET", "/total", &[JSON]).json(), map(2));
}

#[test]
fn the_welcome_shows_the_total_and_does_not_count() {
    let notch = Settings::ledger().with("WELCOME", "Come in \"all\" of you, \u{2603}!").start();
    notch.visit();
    notch.visit();
    for _ in 0..3 {
        let text = notch.get("/");
        assert_eq!(text.status, 200);
        assert!(text.text().contains("Come in \"all\" of you, \u{2603}!"), "{text:?}");
        assert!(text.text().contains('2') && text.text().ends_with('\n'), "{text:?}");
        let json = notch.request("GET", "/", &[JSON]);
        assert_eq!(json.status, 200);
        assert_eq!(json.json()["count"], 2, "{json:?}");
    }
    assert_eq!(notch.total(), 2);
}

#[test]
fn the_form_follows_accept() {
    const TEXT: &str = "text/plain";
    const JSON: &str = "application/json";
    let table: &[(&[&str], &str)] = &[
        (&[], TEXT),
        (&[""], TEXT),
        (&["*/*"], TEXT),
        (&["text/plain"], TEXT),
        (&["text/*"], TEXT),
        (&["image/png"], TEXT),
        (&["application/json"], JSON),
        (&["APPLICATION/JSON"], JSON),
        (&["application/json;q=1"], JSON),
        (&["application/json;q=0.001"], JSON),
        (&["application/json;q=0"], TEXT),
        (&["application/json;q=0.000, */*"], TEXT),
        (&["application/json, */*;q=0.5"], JSON),
        (&["*/*;q=0.5, application/json"], JSON),
        (&["*/*;q=0.5,application/json;q=0.6"], JSON),
        (&["*/* ; q=0.5 , application/json ; q=0.6"], JSON),
        (&["application/json;q=0.4, text/plain;q=0.5"], TEXT),
        (&["text/plain;q=0.4, application/json;q=0.5"], JSON),
        (&["application/json;q=0.1, */*;q=0.9"], TEXT),
        (&["text/plain, application/json;q=0.9"], TEXT),
        (&["text/plain;q=0.9", "application/json"], JSON),
        (&["application/json;q=0.9", "text/plain"], TEXT),
        (&["application/json", "text/plain;q=0.5"], JSON),
        (&["text/plain", "application/json;q=0.5"], TEXT),
        (&["application/json", "image/png"], JSON),
        (&["application/jsonx"], TEXT),
        (&["application/xml"], TEXT),
        (&["application/json-seq, text/csv"], TEXT),
    ];
    let notch = notch();
    for (accept, form) in table {
        let fields: Vec<_> = accept.iter().map(|value| ("Accept", *value)).collect();
        for path in ["/", "/count", "/total", "/livez", "/readyz", "/unknown"] {
            let response = notch.request("GET", path, &fields);
            let kind = response.field("Content-Type").unwrap_or_default();
            assert!(kind.starts_with(form), "{accept:?} on {path}: {response:?}");
        }
    }
}

#[test]
fn head_is_get_without_a_body_and_never_counts() {
    let notch = named().with("CORS_ORIGINS", "http://a").start();
    let (allowed, denied) = (("Origin", "http://a"), ("Origin", "http://b"));
    let counting = ["/count", "/count?x", "/count/blog", "/badge.svg", "/badge/blog.svg?label=x"];
    let others = [
        "/",
        "/total",
        "/total/blog",
        "/total?names=blog",
        "/count.gif",
        "/badge.json",
        "/badge/blog.json",
        "/unknown",
        "/count/unknown",
        "/badge/x",
    ];
    let prefetch = ("Sec-Purpose", "prefetch");
    // The numbers grow by a digit and a comma meanwhile.
    for before in [0, 9, 99, 999] {
        while notch.total() < before {
            notch.visit();
        }
        for accept in ["*/*", "text/plain", "application/json", "text/html", "image/svg+xml"] {
            for path in counting.iter().chain(&others).chain(&LIVE).chain(&KEPT) {
                for fields in [&[allowed][..], &[denied], &[prefetch]] {
                    let fields = [&[("Accept", accept)], fields].concat();
                    let counts = counting.contains(path) && !fields.contains(&prefetch);
                    // Without the metrics, which count these requests.
                    compare(&notch, path, &fields, !counts && *path != "/metrics");
                }
            }
        }
    }
}

/// Sends the same request with `HEAD` and `GET`: all fields are equal, except a length that `HEAD` cannot have.
fn compare(notch: &Notch, path: &str, fields: &[(&str, &str)], has_length: bool) {
    let mut client = notch.client();
    let totals = |client: &mut Client| ["/total", "/total/blog"].map(|path| client.get(path).number());
    let before = totals(&mut client);
    let head = client.request("HEAD", path, fields);
    // The body is not sent after HEAD, else the next response could not be read.
    assert_eq!(totals(&mut client), before, "HEAD {path} {fields:?} counts nothing");
    let get = client.request("GET", path, fields);
    let others = |response: &Response| {
        let mut fields = response.fields.clone();
        fields.retain(|(name, _)| !["Date", "Content-Length"].contains(&name.as_str()));
        (response.status, fields)
    };
    assert_eq!(others(&head), others(&get), "HEAD {path} {fields:?}");
    let lengths = (head.field("Content-Length"), get.field("Content-Length"));
    if has_length {
        assert_eq!(lengths.0, lengths.1, "HEAD {path} {fields:?}");
    } else if path != "/metrics" {
        assert_eq!((lengths.0, lengths.1.is_some()), (None, true), "HEAD {path} {fields:?}");
    }
}

#[test]
fn head_of_an_error_has_the_fields_of_get() {
    let notch = Settings::redis(free_port()).with("STORE_TIMEOUT", "300ms").with("COUNTERS", "blog").start();
    for accept in ["text/plain", "application/json", "text/html"] {
        for path in ["/", "/count", "/count/blog", "/badge.svg", "/total", "/badge.json", "/readyz"] {
            let (head, get) =
                (notch.request("HEAD", path, &[("Accept", accept)]), notch.request("GET", path, &[("Accept", accept)]));
            let names = |response: &Response| {
                let names = response.fields.iter().map(|(name, _)| name.clone());
                names.filter(|name| name != "Content-Length").collect::<Vec<_>>()
            };
            assert_eq!((head.status, names(&head)), (get.status, names(&get)), "{path}");
            let length = head.field("Content-Length");
            assert!(length.is_none() || length == get.field("Content-Length"), "{path}: {head:?}, {get:?}");
        }
    }
}

#[test]
fn a_prefetch_of_what_counts_is_refused() {
    let marks = [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Sec-Purpose", "prefetch;anonymous-client-ip"),
        ("Sec-Purpose", "prefetch; anonymous-client-ip"),
        ("sec-purpose", "prefetch"),
        ("Purpose", "prefetch"),
        ("Purpose", "preview"),
        ("X-Purpose", "preview"),
        ("X-Purpose", "prefetch"),
        ("x-moz", "prefetch"),
    ];
    let notch = named().start();
    notch.visit();
    notch.visit();
    for mark in marks {
        for path in ["/count", "/count/blog", "/badge.svg", "/badge/blog.svg?label=x", "/count.gif", "/count/blog.gif"]
        {
            for method in ["GET", "POST", "HEAD"] {
                for accept in ["*/*", "application/json", "text/html"] {
                    let response = notch.request(method, path, &[mark, ("Accept", accept)]);
                    let fields = ["Cache-Control", "Retry-After", "Location"].map(|name| response.field(name));
                    let is_image = path.starts_with("/badge") || path.ends_with(".gif");
                    let control = if is_image { "no-cache, no-store, max-age=0" } else { "no-store" };
                    assert_eq!((response.status, fields), (403, [Some(control), None, None]), "{mark:?}: {response:?}");
                    let text = String::from_utf8_lossy(&response.body);
                    let has_message = text.contains("not counted: this is a prefetch");
                    assert_eq!(has_message, method != "HEAD" && !is_image, "{mark:?}: {response:?}");
                }
            }
        }
        for path in ["/", "/total", "/total/blog", "/badge.json", "/livez", "/robots.txt"] {
            assert_eq!(notch.request("GET", path, &[mark]).status, 200, "{mark:?} {path}");
        }
        assert_eq!(notch.request("GET", "/count/unknown", &[mark]).status, 404, "{mark:?}");
        assert_eq!(notch.request("DELETE", "/count", &[mark]).status, 405, "{mark:?}");
    }
    assert_eq!((notch.total(), notch.get("/total/blog").number()), (2, 0));
    for other in [
        ("Sec-Purpose", "none"),
        ("Sec-Purpose", "prefetched"),
        ("Purpose", "navigate"),
        ("X-Moz", "livebookmarks"),
        ("X-Purpose", "instant"),
        ("Purpose", ""),
    ] {
        let before = notch.total();
        assert_eq!(notch.request("GET", "/count", &[other]).number(), before + 1, "{other:?} is an ordinary visit");
    }
}

#[test]
fn a_prefetch_is_refused_whether_or_not_the_store_is_there() {
    let notch = Settings::redis(free_port()).with("STORE_TIMEOUT", "300ms").start();
    for path in ["/count", "/badge.svg"] {
        let response = notch.request("GET", path, &[("Sec-Purpose", "prefetch")]);
        assert_eq!((response.status, response.field("Retry-After")), (403, None), "{response:?}");
    }
}

#[test]
fn other_methods_are_rejected_with_the_allowed_ones() {
    let notch = notch();
    let mut client = notch.client();
    for path in LIVE.iter().chain(&KEPT) {
        let allow = if *path == "/count" { "GET, HEAD, POST" } else { "GET, HEAD" };
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            if *path == "/count" && method == "POST" {
                continue;
            }
            for form in [("Accept", "*/*"), JSON] {
                let response = client.request(method, path, &[form]);
                assert_eq!(response.status, 405, "{method} {path}: {response:?}");
                assert_eq!(response.field("Allow"), Some(allow), "{method} {path}");
                response.assert_one_line();
            }
        }
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn an_unknown_path_is_404_for_every_method() {
    let notch = notch();
    let unknown =
        ["/unknown", "/count/", "/COUNT", "/count/visits", "/total/visits", "//count", "/count.html", "/index.html"];
    for path in unknown {
        for method in ["GET", "POST"] {
            let response = notch.request(method, path, &[]);
            assert_eq!(response.status, 404, "{method} {path}: {response:?}");
            response.assert_one_line();
        }
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn the_error_of_an_unlisted_name_mentions_the_setting() {
    for (names, path) in [
        ("", "/count/shop"),
        ("", "/total/shop"),
        ("blog", "/badge/shop.svg"),
        ("blog", "/badge/shop.json"),
        ("blog", "/count/Blog"),
        ("*", "/count/a%20b"),
        ("*", "/count/a/b"),
        ("*", &("/count/".to_owned() + &"x".repeat(33))),
    ] {
        let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", names).start();
        let response = notch.get(path);
        assert_eq!(response.status, 404, "COUNTERS={names} {path}: {response:?}");
        assert!(response.text().contains("COUNTERS"), "COUNTERS={names} {path}: {response:?}");
    }
}

#[test]
fn errors_are_one_line_of_text_or_a_map_of_one() {
    let notch = notch();
    for (method, path, status) in [("GET", "/unknown", 404), ("DELETE", "/count", 405)] {
        let text = notch.request(method, path, &[]);
        assert_eq!(text.status, status);
        assert!(text.field("Content-Type").is_some_and(|kind| kind.starts_with("text/plain")), "{text:?}");
        text.assert_one_line();
        let json = notch.request(method, path, &[JSON]);
        assert_eq!(json.status, status);
        json.assert_one_line();
        assert_eq!(json.json(), json!({"error": text.text().trim_end()}), "both formats have the same message");
    }
}

#[test]
fn live_responses_are_not_cached_and_static_ones_are() {
    let notch = notch();
    for path in LIVE {
        assert_eq!(notch.get(path).field("Cache-Control"), Some("no-store"), "{path}");
    }
    for path in KEPT {
        let response = notch.get(path);
        let control = response.field("Cache-Control").unwrap_or_default();
        assert!(control.contains("max-age="), "{path}: {response:?}");
    }
}

#[test]
fn the_files_that_browsers_and_crawlers_ask_for() {
    let notch = notch();
    let icon = notch.get("/favicon.ico");
    assert_eq!((icon.status, icon.body.len()), (204, 0), "{icon:?}");
    let robots = notch.get("/robots.txt");
    assert_eq!(robots.status, 200);
    assert!(robots.field("Content-Type").is_some_and(|kind| kind.starts_with("text/plain")), "{robots:?}");
    for line in ["User-agent: *", "Disallow: /count", "Disallow: /badge"] {
        assert!(robots.text().lines().any(|other| other == line), "{line}: {robots:?}");
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn a_query_changes_nothing() {
    let notch = notch();
    assert_eq!(notch.get("/count?").number(), 1);
    assert_eq!(notch.get("/count?by=10&format=json").number(), 2);
    assert_eq!(notch.get("/total?/count").number(), 2);
    assert_eq!(notch.get("/?x=/unknown").status, 200);
    assert_eq!(notch.get("/livez?verbose").status, 200);
    assert_eq!(notch.get("/unknown?/count").status, 404);
    assert_eq!(notch.total(), 2);
}

#[test]
fn alive_and_ready() {
    let notch = notch();
    for path in ["/livez", "/readyz"] {
        let text = notch.get(path);
        assert_eq!(text.status, 200);
        text.assert_one_line();
        assert_eq!(notch.request("GET", path, &[JSON]).json(), notch.request("GET", path, &[JSON]).json());
    }
}

#[test]
fn readiness_depends_on_the_store_and_liveness_does_not() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    assert_eq!(notch.get("/readyz").status, 200);
    redis.kill();
    assert_eq!(notch.get("/livez").status, 200);
    let text = notch.get("/readyz");
    assert_eq!(text.status, 503, "{text:?}");
    text.assert_one_line();
    let json = notch.request("GET", "/readyz", &[JSON]);
    assert_eq!(json.status, 503);
    assert!(json.json()["error"].is_string(), "{json:?}");
    redis.restart();
    crate::support::wait_until("notch is ready again", || (notch.get("/readyz").status == 200).then_some(()));
}

#[test]
fn a_counter_beyond_the_limit_is_507_and_the_others_count() {
    let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "*").with("MAX_COUNTERS", "10000").start();
    let mut client = notch.client();
    assert_eq!(client.get("/count").number(), 1);
    let refused = (0..=10_000).find_map(|name| {
        let response = client.get(&format!("/count/{name}"));
        (response.status != 200).then_some((name, response))
    });
    let (name, response) = refused.expect("a name above the limit");
    assert_eq!(response.status, 507, "{response:?}");
    assert!(response.text().contains("MAX_COUNTERS") && response.text().starts_with("not counted: "), "{response:?}");
    assert_eq!(response.field("Retry-After"), None, "nothing changes by itself: {response:?}");
    let json = client.request("GET", &format!("/count/{name}"), &[JSON]);
    let message = json.json()["error"].as_str().map(str::to_owned);
    assert_eq!((json.status, message.as_deref()), (507, Some(response.text().trim_end())));
    assert_eq!(client.get(&format!("/badge/{name}.svg")).status, 507);
    assert_eq!(client.get(&format!("/total/{name}")).number(), 0);
    assert_eq!(client.get("/count").number(), 2);
    assert_eq!(client.get("/count/0").number(), 2);
}
