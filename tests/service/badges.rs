//! Badges, which are embedded in pages of other sites.

use crate::support::{Notch, Redis, Response, Settings, wait_until};

/// The `Accept` field of a browser for an image.
const ACCEPT: (&str, &str) = ("Accept", "image/*,*/*;q=0.8");

fn badge(notch: &Notch, method: &str, path: &str) -> Response {
    check(notch.request(method, path, &[ACCEPT]), path)
}

fn badge_of(notch: &Notch, fields: &[(&str, &str)]) -> Response {
    check(notch.request("GET", "/badge.svg", &[&[ACCEPT], fields].concat()), "/badge.svg")
}

fn check(response: Response, path: &str) -> Response {
    assert_eq!(response.field("Content-Type"), Some("image/svg+xml"), "{path}: {response:?}");
    assert_eq!(response.field("X-Content-Type-Options"), Some("nosniff"), "{path}");
    assert_eq!(response.field("Cache-Control"), Some("no-cache, no-store, max-age=0"), "{path}");
    assert_eq!(response.field("ETag"), None, "{path}");
    response
}

fn title(response: &Response) -> &str {
    let (_, rest) = response.text().split_once("<title>").expect("a title");
    rest.split_once("</title>").expect("its end").0
}

#[test]
fn a_badge_counts_and_draws_its_number() {
    let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog").start();
    for (path, text) in [
        ("/badge.svg", "visits: 1"),
        ("/badge/blog.svg", "visits: 1"),
        ("/badge/blog.svg?color=red&label=people%20&amp;", "people : 2"),
        ("/badge.svg?label=<b>&color=no", "&lt;b&gt;: 2"),
    ] {
        assert_eq!(title(&badge(&notch, "GET", path)), text, "{path}");
    }
    assert_eq!(badge(&notch, "HEAD", "/badge.svg").body.len(), 0);
    assert_eq!(notch.total(), 2);
    for path in ["/badge", "/badge/", "/badge/.svg", "/badge/shop.svg", "/badge.png", "/badgeblog.svg"] {
        assert_eq!(notch.get(path).status, 404, "{path}");
    }
    assert_eq!(notch.request("PUT", "/badge.svg", &[]).status, 405);
}

#[test]
fn a_prefetched_badge_is_not_counted() {
    // A prerendered page uses the images that it has loaded, whatever their status, and does not load them again.
    let notch = Settings::ledger().with("FSYNC", "never").start();
    notch.visit();
    let response = badge_of(&notch, &[("Sec-Purpose", "prefetch;prerender")]);
    assert_eq!((response.status, title(&response)), (403, "visits: 1"));
    assert_eq!(title(&badge_of(&notch, &[])), "visits: 2");
}

#[test]
fn pipelined_badges_keep_their_styles() {
    let notch = Settings::ledger().with("FSYNC", "never").start();
    let mut client = notch.client();
    client.send_request("GET", "/badge.svg?label=a", &[]);
    client.send_request("GET", "/badge.svg?label=b", &[]);
    assert_eq!(title(&client.response()), "a: 1");
    assert_eq!(title(&client.response()), "b: 2");
}

#[test]
fn a_badge_may_be_short_or_have_commas() {
    let redis = Redis::start(&[]);
    redis.execute("SET visits 1234566");
    let notch = Settings::redis(redis.port).start();
    for (query, text) in [
        ("?style=comma", "visits: 1,234,567"),
        ("?style=short", "visits: 1.2M"),
        ("?style=short&label=people&color=red", "people: 1.2M"),
        ("?style=flat", "visits: 1234570"),
        ("", "visits: 1234571"),
    ] {
        assert_eq!(title(&badge(&notch, "GET", &["/badge.svg", query].concat())), text);
    }
}

#[test]
fn the_endpoint_of_shields_counts_nothing() {
    let notch = Settings::ledger().with("FSYNC", "never").start();
    notch.visit();
    let json = notch.get("/badge.json").json();
    assert_eq!(json["schemaVersion"], 1);
    for (name, value) in [("label", "visits"), ("message", "1"), ("color", "blue")] {
        assert_eq!(json[name], value);
    }
    assert_eq!(notch.total(), 1);
}

#[test]
fn a_badge_without_a_store_has_no_number() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").start();
    notch.visit_when_it_counts();
    redis.kill();
    wait_until("notch has detected that Redis is down", || (notch.get("/total").status == 503).then_some(()));
    let image = badge(&notch, "GET", "/badge.svg");
    assert_eq!((image.status, title(&image)), (503, "visits: unavailable"));
    let read = notch.get("/badge.json");
    assert_eq!((read.status, &read.json()["message"]), (503, &"unavailable".into()));
}

#[test]
fn an_image_without_a_number_counts() {
    let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "blog").start();
    let pixel = |method, path, fields: &[(&str, &str)]| {
        let response = notch.request(method, path, &[&[ACCEPT], fields].concat());
        assert_eq!(response.field("Content-Type"), Some("image/gif"), "{path}: {response:?}");
        assert_eq!(response.field("Cache-Control"), Some("no-cache, no-store, max-age=0"), "{path}");
        if method != "HEAD" {
            // GIF89a, 1 by 1 pixel, the trailer.
            assert_eq!((&response.body[..10], response.body.last()), (&b"GIF89a\x01\0\x01\0"[..], Some(&b';')));
        }
        response.status
    };
    for (method, path, mark, status, [visits, blog]) in [
        ("GET", "/count.gif", &[][..], 200, [1, 0]),
        ("POST", "/count.gif?x=y", &[], 200, [2, 0]),
        ("GET", "/count/blog.gif", &[], 200, [2, 1]),
        ("HEAD", "/count.gif", &[], 200, [2, 1]),
        ("GET", "/count.gif", &[("Sec-Purpose", "prefetch;prerender")], 403, [2, 1]),
        ("HEAD", "/count/blog.gif", &[("Purpose", "prefetch")], 403, [2, 1]),
    ] {
        assert_eq!(pixel(method, path, mark), status, "{method} {path}");
        assert_eq!((notch.total(), notch.get("/total/blog").number()), (visits, blog), "{method} {path}");
    }
    for path in ["/count/shop.gif", "/count/.gif", "/total.gif", "/total/blog.gif", "/count.gif/blog", "/count.png"] {
        assert_eq!(notch.get(path).status, 404, "{path}");
    }
    assert_eq!(notch.request("PUT", "/count.gif", &[]).status, 405);
}

#[test]
fn an_image_without_a_number_has_the_status_of_its_visit() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").start();
    notch.visit_when_it_counts();
    redis.kill();
    wait_until("notch has detected that Redis is down", || (notch.get("/total").status == 503).then_some(()));
    let image = notch.get("/count.gif");
    assert_eq!((image.status, image.field("Retry-After"), image.body.len()), (503, Some("1"), 43), "{image:?}");
}

#[test]
fn no_name_ends_as_the_path_of_an_image() {
    // `/count/a.gif` is the image of the counter `a`.
    let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "*").start();
    notch.get("/count/a.gif");
    assert_eq!(notch.get("/total/a").number(), 1);
    assert_eq!(notch.get("/count/a.gif.gif").status, 404);
    assert_eq!(notch.get("/total/a.gif").status, 404);
    let refused = Settings::ledger().with("COUNTERS", "blog,a.gif").try_start().err().expect("an invalid name");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("not ending in .gif"), "{}", refused.stderr);
}
