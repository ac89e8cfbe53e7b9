//! The log on stderr: few lines, one for each change, no secrets.

use serde_json::Value;

use crate::support::{Notch, Redis, Script, Settings, parse_json, wait_until};

#[test]
fn the_start_is_one_line_with_address_and_store() {
    let settings = Settings::ledger();
    let log = settings.start().log();
    assert_eq!(log.len(), 1, "{log:#?}");
    assert!(log[0].contains("http://127.0.0.1:") && log[0].contains("notch.ledger"), "{log:#?}");

    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    notch.visit();
    let log = notch.log();
    assert!(log.iter().any(|line| line.contains(&format!("127.0.0.1:{}", redis.port))), "{log:#?}");
}

#[test]
fn single_requests_are_not_logged() {
    let lines = |visits: usize| {
        let notch = Settings::ledger().start();
        for _ in 0..visits {
            notch.visit();
            for path in ["/", "/total", "/livez", "/readyz", "/unknown", "/favicon.ico"] {
                notch.get(path);
            }
            notch.request("DELETE", "/count", &[]);
            let mut garbage = notch.client();
            garbage.send("garbage\r\n\r\n");
            garbage.remaining_responses();
            let mut half = notch.client();
            half.send("GET /cou");
            drop(half);
        }
        notch.signal("TERM");
        notch.ended().1.len()
    };
    assert_eq!(lines(1), lines(20));
}

#[test]
fn with_debug_each_request_is_a_line() {
    let settings = Settings::ledger().with("LOG_LEVEL", "debug").with("LOG_FORMAT", "json").with("COUNTERS", "shop");
    let notch = settings.start();
    let mut client = notch.client();
    for (method, path) in [("GET", "/count"), ("POST", "/count"), ("GET", "/count/shop"), ("HEAD", "/total?secret=1")] {
        client.request(method, path, &[]);
    }
    let visit = "GET /count HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(visit.repeat(2));
    assert_eq!((client.response().number(), client.response().number()), (3, 4));
    for (method, path, accept) in [
        ("GET", "/", "text/html"),
        ("GET", "/badge.svg", "*/*"),
        ("GET", "/badge/shop.json", "*/*"),
        ("GET", "/livez", "*/*"),
        ("GET", "/readyz", "*/*"),
        ("GET", "/metrics", "*/*"),
        ("GET", "/robots.txt", "*/*"),
        ("GET", "/unknown%20\\\"'<b>", "application/json"),
        ("DELETE", "/count", "*/*"),
    ] {
        client.request(method, path, &[("Accept", accept)]);
    }
    for refused in ["BREW /count?secret HTTP/1.1\r\n\r\n", "\x1b[31m\u{9b}forged\r\n\r\n"] {
        let mut client = notch.client();
        client.send(refused);
        client.remaining_responses();
    }
    notch.signal("TERM");
    let log = notch.ended().1;
    assert!(log.iter().all(|line| !line.contains("secret") && !line.contains(char::is_control)), "{log:#?}");
    let of = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let number = |line: &Value, name: &str| line[name].as_i64().map_or(String::new(), |number| number.to_string());
    let lines: Vec<_> = log.iter().map(|line| parse_json(line)).collect();
    let lines: Vec<_> = lines.iter().filter(|line| of(line, "message") == "request").collect();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(of(line, "level"), "DEBUG");
            assert!(line["micros"].is_u64(), "the duration: {line:?}");
            let values = ["method", "path", "route"].map(|name| of(line, name));
            [&values[..], &["status", "number"].map(|name| number(line, name))].concat().join(" ")
        })
        .collect();
    let expected = [
        "GET /count count 200 1",
        "POST /count count 200 2",
        "GET /count/shop count 200 1",
        "HEAD /total total 200 2",
        "GET /count count 200 3",
        "GET /count count 200 4",
        "GET / page 200 4",
        "GET /badge.svg badge 200 5",
        "GET /badge/shop.json badge 200 1",
        "GET /livez livez 200 ",
        "GET /readyz readyz 200 ",
        "GET /metrics metrics 200 ",
        "GET /robots.txt other 200 ",
        "GET /unknown%20\\\"'<b> other 404 ",
        "DELETE /count count 405 ",
        "BREW /count refused 501 ",
        "?[31m??forged  refused 400 ",
    ];
    assert_eq!(shown, expected, "{log:#?}");
}

#[test]
fn with_debug_a_visit_that_fails_is_a_line_with_its_time() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("LOG_LEVEL", "debug").with("STORE_TIMEOUT", "300ms").start();
    notch.visit();
    redis.kill();
    wait_until("a visit fails", || (notch.get("/count").status == 503).then_some(()));
    notch.signal("TERM");
    let log = notch.ended().1;
    let failed = log.iter().find(|line| line.contains(" status=503")).unwrap_or_else(|| panic!("{log:#?}"));
    assert!(failed.contains(r#"DEBUG request method="GET" path="/count" route="count""#), "{failed}");
    assert!(!failed.contains("number="), "{failed}");
    let (_, micros) = failed.rsplit_once("micros=").expect("the duration");
    let micros: u64 = micros.parse().expect("a number");
    assert!((1000..15_000_000).contains(&micros), "{failed}");
}

#[test]
fn loss_and_recovery_of_the_store_are_logged_once_each() {
    let mut redis = Redis::durable();
    // Long enough for a busy disk, on which each batch is synced: a timeout would be logged too.
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "2s").start();
    visit_concurrently(&notch);
    for round in 1..=2 {
        let before = notch.log().len();
        redis.kill();
        visit_concurrently(&notch);
        assert_lines_since(&notch, before, 1, &format!("round {round}, unavailable"));
        redis.restart();
        assert_lines_since(&notch, before, 2, &format!("round {round}, back"));
    }
}

#[test]
fn a_lasting_rejection_is_logged_once() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "4s").start();
    visit_concurrently(&notch);
    for (begin, end) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("RENAME visits kept", "RENAME kept visits"),
    ] {
        let before = notch.log().len();
        redis.execute(begin);
        if begin.starts_with("RENAME") {
            redis.execute("RPUSH visits a");
        }
        visit_concurrently(&notch);
        assert_lines_since(&notch, before, 1, begin);
        redis.execute(end);
        assert_lines_since(&notch, before, 2, end);
    }
}

/// Sends enough requests of all kinds that every worker has used the store.
fn visit_concurrently(notch: &Notch) {
    for _ in 0..2 {
        notch.request_at_once(&[("GET", "/count", &[][..]), ("GET", "/", &[]), ("GET", "/total", &[])].repeat(8));
    }
}

/// Waits until this many lines were logged, and asserts that more requests log no more lines.
fn assert_lines_since(notch: &Notch, before: usize, lines: usize, what: &str) {
    wait_until(&format!("it is logged: {what}"), || {
        visit_concurrently(notch);
        (notch.log().len() >= before + lines).then_some(())
    });
    visit_concurrently(notch);
    let log = notch.log();
    assert_eq!(log.len(), before + lines, "{what}: {log:#?}");
}

#[test]
fn every_line_in_json_is_json() {
    let mut redis = Redis::start(&["--requirepass", "hunter2"]);
    let notch = Settings::redis(redis.port)
        .with("REDIS_PASSWORD", "hunter2")
        .with("LOG_FORMAT", "json")
        .with("LOG_LEVEL", "debug")
        .with("COUNTER_KEY", "shop:visits")
        .start();
    notch.visit();
    notch.get("/unknown\\\"");
    redis.kill();
    notch.get("/count");
    notch.signal("TERM");
    let log = notch.ended().1;
    assert!(!log.is_empty());
    for line in log {
        assert!(parse_json(&line)["level"].is_string(), "{line}");
    }
}

#[test]
fn text_lines_name_their_level() {
    let notch = Settings::ledger().start();
    assert!(notch.log().iter().all(|line| line.to_ascii_uppercase().contains("INFO")), "{:#?}", notch.log());
}

#[test]
fn the_level_is_a_setting() {
    // Without the start line the tests cannot read the address, so the port is chosen before.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port").to_string();
    let taken = Settings::ledger().with("LISTEN", &address).start();
    let quiet = Settings::ledger().with("LISTEN", &address).with("LOG_LEVEL", "error").run(&[]);
    assert_eq!(quiet.code, Some(1), "a failure is logged at any level: {quiet:?}");
    assert_eq!(quiet.stderr.lines().count(), 1, "{quiet:?}");
    assert_eq!(taken.visit(), 1);
}

#[test]
fn the_password_is_in_no_log() {
    let password = "pa55word";
    for format in ["text", "json"] {
        for right in [true, false] {
            let redis = Redis::start(&["--requirepass", if right { password } else { "another" }]);
            let url = format!("redis://default:{password}@127.0.0.1:{}", redis.port);
            let by_url = Settings::ledger().with("REDIS_URL", &url);
            let by_parts = Settings::redis(redis.port).with("REDIS_PASSWORD", password);
            for settings in [by_url, by_parts] {
                let notch = settings.with("LOG_LEVEL", "debug").with("LOG_FORMAT", format).start();
                let response = notch.get("/count");
                assert_eq!(response.status, if right { 200 } else { 503 });
                assert!(!response.text().contains(password));
                notch.get("/readyz");
                notch.signal("TERM");
                let log = notch.ended().1;
                assert!(log.iter().all(|line| !line.contains(password)), "{log:#?}");
            }
        }
    }
}

#[test]
fn an_error_reply_cannot_forge_a_log_line() {
    // An error reply is foreign text; in the log it is one line without control characters.
    let script = Script::play("> INCR visits\n< -ERR \\x1b[31m zebra \\x07\\r\\n");
    let notch = Settings::redis(script.port).with("WORKERS", "1").start();
    notch.get("/count").assert_not_counted();
    notch.signal("TERM");
    let log = notch.ended().1;
    assert!(log.iter().all(|line| !line.contains(char::is_control)), "{log:#?}");
    script.done();
}
