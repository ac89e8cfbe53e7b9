//! Which requests of common clients are counted: the table of docs/pages.md.

use crate::support::Settings;

/// A request as a client sends it.
struct Case {
    /// The first two columns of its row in docs/pages.md.
    row: [&'static str; 2],
    method: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, &'static str)],
    counted: i64,
}

const CASES: [Case; 12] = [
    Case {
        row: ["Slack", "a link to `/count` is posted"],
        method: "GET",
        path: "/count",
        fields: &[
            ("User-Agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"),
            ("Accept", "*/*"),
            ("Range", "bytes=0-32768"),
        ],
        counted: 1,
    },
    Case {
        row: ["Discord", "a link to `/count` is posted"],
        method: "GET",
        path: "/count",
        fields: &[("User-Agent", "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)")],
        counted: 1,
    },
    Case {
        row: ["Slack, Discord", "a link to `/` or `/total` is posted"],
        method: "GET",
        path: "/",
        fields: &[("User-Agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"), ("Accept", "*/*")],
        counted: 0,
    },
    Case {
        row: ["image proxy of GitHub (camo)", "a page with a badge is opened"],
        method: "GET",
        path: "/badge.svg",
        fields: &[("User-Agent", "github-camo (5ee1a8a5)"), ("Accept", "image/svg+xml, image/*;q=0.8")],
        counted: 1,
    },
    Case {
        row: ["image proxy of a mail service", "a mail with `/count.gif` arrives, or is opened"],
        method: "GET",
        path: "/count.gif",
        fields: &[(
            "User-Agent",
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
        )],
        counted: 1,
    },
    Case {
        row: ["`curl -I`", "`HEAD` of any path"],
        method: "HEAD",
        path: "/count",
        fields: &[("User-Agent", "curl/8.14.1"), ("Accept", "*/*")],
        counted: 0,
    },
    Case {
        row: ["Googlebot, Bingbot", "reads `/robots.txt`, which keeps it off `/count` and the badges"],
        method: "GET",
        path: "/robots.txt",
        fields: &[("User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")],
        counted: 0,
    },
    Case {
        row: ["a crawler that ignores `/robots.txt`", "follows a link to `/count`"],
        method: "GET",
        path: "/count",
        fields: &[("User-Agent", "Mozilla/5.0 (compatible; Bytespider; spider-feedback@bytedance.com)")],
        counted: 1,
    },
    Case {
        row: ["uptime checker", "`HEAD` of any path, or `GET` of `/`, `/total`, `/livez`, `/readyz`"],
        method: "GET",
        path: "/readyz",
        fields: &[("User-Agent", "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)")],
        counted: 0,
    },
    Case {
        row: ["uptime checker", "`GET` of `/count`"],
        method: "GET",
        path: "/count",
        fields: &[("User-Agent", "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)")],
        counted: 1,
    },
    Case {
        row: ["Chrome, Edge, Firefox, Safari", "a prefetch, prerender or preview of `/count`"],
        method: "GET",
        path: "/count",
        fields: &[("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch"), ("Sec-Fetch-Mode", "navigate")],
        counted: 0,
    },
    Case {
        row: ["Facebook, in its application", "a preview of a link to `/count` before a person opens it"],
        method: "GET",
        path: "/count",
        fields: &[("X-Purpose", "preview"), ("X-FB-HTTP-Engine", "Liger")],
        counted: 0,
    },
];

const PAGE: &str = include_str!("../../docs/pages.md");

#[test]
fn requests_of_common_clients_are_counted_as_documented() {
    let notch = Settings::ledger().with("FSYNC", "never").start();
    for Case { row, method, path, fields, counted } in &CASES {
        let before = notch.total();
        let response = notch.request(method, path, fields);
        assert_eq!(notch.total() - before, *counted, "{row:?}: {response:?}");
        // A part of a response would have another meaning, so a range is ignored.
        assert_ne!(response.status, 206, "{row:?}");
        let [client, request] = row;
        let row = format!("| {client} | {request} | {counted} |");
        assert!(PAGE.lines().any(|line| line == row), "not in docs/pages.md: {row}");
    }
    let (_, table) = PAGE.split_once("| client | request | visits counted |\n").expect("the table");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|')).count();
    assert_eq!(rows, CASES.len(), "a row of docs/pages.md has no request here");
}

#[test]
fn crawlers_are_kept_off_every_path_that_counts() {
    let notch = Settings::ledger().with("COUNTERS", "blog").start();
    let robots = notch.get("/robots.txt");
    let disallowed: Vec<_> = robots.text().lines().filter_map(|line| line.strip_prefix("Disallow: ")).collect();
    for path in ["/count", "/count/blog", "/count.gif", "/count/blog.gif", "/badge.svg", "/badge/blog.svg"] {
        assert!(disallowed.iter().any(|prefix| path.starts_with(prefix)), "{path}: {disallowed:?}");
    }
    for path in ["/", "/total", "/total/blog", "/total?names=blog"] {
        assert!(!disallowed.iter().any(|prefix| path.starts_with(prefix)), "{path}: {disallowed:?}");
    }
}
