//! The pages of counters for browsers.

use crate::support::{Notch, Redis, Response, Script, Settings, free_port, wait_until};

/// The `Accept` field of a browser for a page.
const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

fn notch() -> Settings {
    Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog,shop")
}

fn page(notch: &Notch, method: &str, path: &str) -> Response {
    let response = notch.request(method, path, &[BROWSER]);
    assert_eq!(response.field("Content-Type"), Some("text/html; charset=utf-8"), "{path}: {response:?}");
    assert_eq!(response.field("X-Content-Type-Options"), Some("nosniff"), "{path}");
    assert_eq!(response.field("Referrer-Policy"), Some("no-referrer"), "{path}");
    assert_eq!(response.field("Cache-Control"), Some("no-store"), "{path}");
    let policy = response.field("Content-Security-Policy").unwrap_or_default();
    for part in ["default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|other| other == part), "{part}: {policy}");
    }
    response
}

/// Returns the text of a page without tags.
fn message(response: &Response) -> String {
    let text = response.text();
    let (_, rest) = text.split_once("<p role=status>").expect("a status element");
    let (text, _) = rest.split_once("</p>").expect("its end");
    let plain: String = text.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    plain.trim().to_owned()
}

#[test]
fn a_page_shows_the_number() {
    let notch = notch().start();
    for (method, path, text) in [
        ("GET", "/", "0 visits so far"),
        ("GET", "/count", "You are visitor 1"),
        ("GET", "/", "1 visit so far"),
        ("POST", "/count", "You are visitor 2"),
        ("GET", "/total", "2 visits so far"),
        ("GET", "/count/blog", "You are visitor 1"),
        ("GET", "/total/blog", "1 visit so far"),
        ("GET", "/total/shop", "0 visits so far"),
    ] {
        assert_eq!(message(&page(&notch, method, path)), text, "{method} {path}");
    }
    assert_eq!(notch.total(), 2);
}

#[test]
fn a_page_counts_further_visits_of_its_own_counter() {
    let notch = notch().start();
    for (path, action, name) in
        [("/", "/count", ""), ("/count", "/count", ""), ("/total/blog", "/count/blog", "<p>blog</p>")]
    {
        let form = format!("<form method=post action=\"{action}\">");
        let page = page(&notch, "GET", path);
        let named = format!("</h1>{name}</header>");
        assert!(page.text().contains(&form) && page.text().contains(&named), "{path}");
    }
    let start = page(&notch, "GET", "/");
    for name in ["blog", "shop"] {
        assert!(start.text().contains(&format!("<a href=/total/{name}>{name}</a>")), "{start:?}");
    }
}

#[test]
fn a_page_has_the_interval_at_which_it_requests_its_total() {
    for (value, milliseconds) in [("", "5000"), ("0s", "0"), ("1s", "1000"), ("24m", "1440000")] {
        let notch = notch().with("PAGE_REFRESH", value).start();
        for path in ["/", "/count", "/total/blog"] {
            let interval = format!("<main data-refresh={milliseconds}>");
            assert!(page(&notch, "GET", path).text().contains(&interval), "{path}, {value}");
        }
    }
}

#[test]
fn the_page_of_a_named_counter_has_its_name_in_the_title_and_links_back() {
    let notch = notch().with("WELCOME", "Hi").start();
    for (path, title, links_back) in [
        ("/", "Hi", false),
        ("/count", "Hi", false),
        ("/total/blog", "blog \u{2013} Hi", true),
        ("/count/shop", "shop \u{2013} Hi", true),
    ] {
        let page = page(&notch, "GET", path);
        assert_eq!(page_title(&page), title, "{path}");
        assert_eq!(page.text().contains("<a href=/>"), links_back, "{path}");
    }
}

fn page_title(page: &Response) -> &str {
    let title = page.text().split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    title.unwrap_or_else(|| panic!("no title: {page:?}")).0
}

#[test]
fn a_page_escapes_all_input() {
    let notch = notch().with("WELCOME", "<script>alert(1)</script> & \"more\"").start();
    let start = page(&notch, "GET", "/");
    assert!(
        start.text().contains("<h1>&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;</h1>"),
        "{start:?}"
    );
}

#[test]
fn large_numbers_are_grouped() {
    let redis = Redis::start(&[]);
    redis.execute("SET visits 9223372036854775806");
    let notch = Settings::redis(redis.port).start();
    assert_eq!(message(&page(&notch, "GET", "/count")), "You are visitor 9,223,372,036,854,775,807");
    assert_eq!(message(&page(&notch, "GET", "/count")), "not counted, try again: the counter has reached its maximum");
}

#[test]
fn a_page_without_a_store_shows_the_error_and_no_number() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").start();
    notch.visit_when_it_counts();
    redis.kill();
    wait_until("notch has noticed that Redis is down", || (notch.get("/total").status == 503).then_some(()));
    let start = page(&notch, "GET", "/");
    assert_eq!((start.status, message(&start).as_str()), (200, "no count right now: the store is unavailable"));
    let count = page(&notch, "GET", "/count");
    assert_eq!((count.status, message(&count).as_str()), (503, "not counted, try again: the store is unavailable"));
    assert_eq!(count.field("Retry-After"), Some("1"));
    redis.restart();
    wait_until("the page has a number again", || (page(&notch, "GET", "/count").status == 200).then_some(()));
}

#[test]
fn head_and_prefetch_of_a_page_count_nothing() {
    let notch = notch().start();
    let head = page(&notch, "HEAD", "/count");
    assert_eq!((head.status, head.body.len(), head.field("Content-Length")), (200, 0, None));
    let ahead = notch.request("GET", "/count", &[BROWSER, ("Sec-Purpose", "prefetch;prerender")]);
    assert_error_page(&ahead, "403 Forbidden", "not counted: this is a prefetch");
    let ahead = notch.request("GET", "/", &[BROWSER, ("Sec-Purpose", "prefetch;prerender")]);
    assert_eq!(message(&ahead), "0 visits so far");
    assert_eq!(notch.total(), 0);
}

#[test]
fn responses_without_error_and_number_are_text() {
    let notch = notch().start();
    for path in ["/livez", "/readyz", "/robots.txt", "/metrics"] {
        let response = notch.request("GET", path, &[BROWSER]);
        assert!(
            response.field("Content-Type").is_some_and(|kind| kind.starts_with("text/plain")),
            "{path}: {response:?}"
        );
    }
}

#[test]
fn an_error_page_has_the_same_style() {
    let notch = notch().start();
    let style = |response: &Response| {
        let style = response.text().split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
        style.unwrap_or_else(|| panic!("no style: {response:?}")).0.to_owned()
    };
    let dress = style(&page(&notch, "GET", "/"));
    let long = format!("/{}", "x".repeat(9 << 10));
    let many = vec![("X", "y"); 100];
    let none = &[][..];
    for (method, path, fields, status, text) in [
        ("GET", "/unknown", none, "404 Not Found", "nothing is here"),
        ("GET", "/count/unknown", none, "404 Not Found", "COUNTERS"),
        ("GET", "/badge/unknown.svg", none, "404 Not Found", "COUNTERS"),
        ("PUT", "/count", none, "405 Method Not Allowed", "use one of GET, HEAD, POST"),
        ("PUT", "/badge.svg", none, "405 Method Not Allowed", "use one of GET, HEAD, POST"),
        ("BREW", "/count", none, "501 Not Implemented", "use GET"),
        ("GET", &long, none, "414 URI Too Long", "too long"),
        ("GET", "/", &many[..], "431 Request Header Fields Too Large", "too many"),
        ("POST", "/count", &[("Content-Length", "65537")][..], "413 Content Too Large", "send less"),
    ] {
        let fields = [&[BROWSER][..], fields].concat();
        let response = notch.request(method, path, &fields);
        assert_eq!(response.status.to_string(), status[..3], "{method} {path}");
        assert_error_page(&response, status, text);
        assert_eq!(style(&response), dress, "{path}");
    }
    assert_eq!(notch.total(), 0);
}

fn assert_error_page(response: &Response, status: &str, text: &str) {
    assert_eq!(response.field("Content-Type"), Some("text/html; charset=utf-8"), "{response:?}");
    assert!(response.field("Content-Security-Policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    assert_eq!(page_title(response), status);
    assert!(response.text().contains(&format!("<h1>{status}</h1>")), "{response:?}");
    assert!(message(response).contains(text) && response.text().contains("<a href=/>"), "{response:?}");
    assert_eq!(response.field("Cache-Control"), Some("no-store"), "{response:?}");
}

#[test]
fn without_a_store_every_error_is_a_page() {
    let script = Script::play("> INCR visits\nclose");
    let doubt = Settings::redis(script.port).with("WORKERS", "1").start().request("GET", "/count", &[BROWSER]);
    assert_eq!((doubt.status, doubt.field("Retry-After")), (504, None), "{doubt:?}");
    assert!(message(&doubt).contains("do not repeat it"), "{doubt:?}");
    // It is where "You are visitor" would be, so that the script of the page keeps it.
    let kept = "<span>this visit may have been counted, do not repeat it: </span>";
    assert!(doubt.text().contains(kept), "{doubt:?}");
    script.done();

    let unavailable = Settings::redis(free_port()).with("STORE_TIMEOUT", "300ms").with("COUNTERS", "blog");
    let notch = unavailable.start();
    for path in ["/count", "/count/blog", "/total", "/total/blog"] {
        let response = page(&notch, "GET", path);
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.field("Retry-After").is_some() && message(&response).contains("try again"), "{response:?}");
    }
    let unready = notch.request("GET", "/readyz", &[BROWSER]);
    assert!(unready.field("Retry-After").is_some(), "{unready:?}");
    assert_error_page(&unready, "503 Service Unavailable", "not ready");
}
