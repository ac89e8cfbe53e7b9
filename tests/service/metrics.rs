//! `/metrics`: the numbers are right, counters only grow, and no private data is shown.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{NEVER, Notch, Redis, Response, Script, Settings, wait_until};

/// Samples by their name and labels.
type Samples = BTreeMap<String, f64>;

fn page(notch: &Notch) -> Response {
    let response = notch.get("/metrics");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.field("Content-Type"), Some("text/plain; version=0.0.4"), "{response:?}");
    assert_eq!(response.field("Cache-Control"), Some("no-store"), "{response:?}");
    response
}

fn samples(notch: &Notch) -> Samples {
    let page = page(notch);
    let lines = page.text().lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        (sample.to_owned(), value.parse().unwrap_or_else(|_| panic!("no value: {line:?}")))
    };
    lines.map(sample).collect()
}

fn requests(route: &str, class: &str) -> String {
    format!("notch_requests_total{{route=\"{route}\",class=\"{class}\"}}")
}

fn visits(outcome: &str) -> String {
    format!("notch_visits_total{{outcome=\"{outcome}\"}}")
}

/// Returns the sum of all samples of a family.
fn sum(samples: &Samples, family: &str) -> f64 {
    samples.iter().filter(|(sample, _)| sample.starts_with(family)).map(|(_, value)| value).sum()
}

/// Returns whether a sample is a duration, which has no exact value.
fn is_duration(sample: &str) -> bool {
    sample.starts_with("notch_store_round_trip_seconds") && !sample.ends_with("_count") && !sample.contains("+Inf")
}

/// Asserts that exactly these samples have grown between two reads, except for the second read itself.
fn assert_grown(before: &Samples, after: &Samples, by: &[(String, f64)]) {
    let counted = |sample: &&String| !sample.starts_with("notch_connections") && !is_duration(sample);
    let mut wait_for_growth: Samples =
        after.iter().map(|(sample, value)| (sample.clone(), value - before[sample])).collect();
    *wait_for_growth.get_mut(&requests("metrics", "2xx")).expect("its own route") -= 1.0;
    wait_for_growth.retain(|sample, by| *by != 0.0 && counted(&sample));
    assert_eq!(wait_for_growth, by.iter().cloned().collect());
}

#[test]
fn metrics_count_every_request() {
    let redis = Redis::start(&[]);
    for settings in [Settings::redis(redis.port), Settings::ledger().with("FSYNC", "never")] {
        let notch = settings.with("COUNTERS", "blog").start();
        wait_until("the store is there", || (notch.get("/readyz").status == 200).then_some(()));
        let before = samples(&notch);
        for (method, path, status) in [
            ("GET", "/", 200),
            ("GET", "/count", 200),
            ("POST", "/count", 200),
            ("GET", "/count/blog", 200),
            ("HEAD", "/count", 200),
            ("DELETE", "/count", 405),
            ("GET", "/total", 200),
            ("GET", "/total/blog", 200),
            ("POST", "/total", 405),
            ("GET", "/badge.svg", 200),
            ("GET", "/badge/blog.json", 200),
            ("GET", "/livez", 200),
            ("GET", "/readyz", 200),
            ("GET", "/favicon.ico", 204),
            ("GET", "/robots.txt", 200),
            ("GET", "/unknown", 404),
            ("GET", "/count/shop", 404),
            ("POST", "/metrics", 405),
            ("BREW", "/count", 501),
        ] {
            assert_eq!(notch.request(method, path, &[]).status, status, "{method} {path}");
        }
        for (head, status) in [
            ("GET /count HTTP/1.1\r\n\r\n", 400),
            ("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413),
        ] {
            let mut client = notch.client();
            client.send(head);
            assert_eq!(client.response().status, status);
        }
        let mut wait_for_growth = vec![
            (requests("page", "2xx"), 1.0),
            (requests("count", "2xx"), 4.0),
            (requests("count", "4xx"), 1.0),
            (requests("total", "2xx"), 2.0),
            (requests("total", "4xx"), 1.0),
            (requests("badge", "2xx"), 2.0),
            (requests("livez", "2xx"), 1.0),
            (requests("readyz", "2xx"), 1.0),
            (requests("metrics", "4xx"), 1.0),
            (requests("other", "2xx"), 2.0),
            (requests("other", "4xx"), 2.0),
            (requests("refused", "4xx"), 2.0),
            (requests("refused", "5xx"), 1.0),
            (visits("counted"), 4.0),
            ("notch_batch_commands_count".to_owned(), 10.0),
            ("notch_batch_commands_sum".to_owned(), 10.0),
            ("notch_store_round_trip_seconds_count".to_owned(), 10.0),
            ("notch_store_round_trip_seconds_bucket{le=\"+Inf\"}".to_owned(), 10.0),
        ];
        // Buckets are cumulative.
        let buckets = ["1", "4", "16", "64", "256", "1024", "+Inf"];
        wait_for_growth.extend(buckets.map(|le| (format!("notch_batch_commands_bucket{{le=\"{le}\"}}"), 10.0)));
        assert_grown(&before, &samples(&notch), &wait_for_growth);
    }
}

#[test]
fn pipelined_visits_are_many_requests_and_one_command() {
    let notch = Settings::ledger().with("FSYNC", "never").with("WORKERS", "1").start();
    let mut client = notch.client();
    client.send("GET /count HTTP/1.1\r\nHost: a\r\n\r\n".repeat(40));
    assert_eq!((1..=40).map(|_| client.response().number()).last(), Some(40));
    let samples = samples(&notch);
    assert_eq!(samples[&requests("count", "2xx")], 40.0);
    assert_eq!(samples[&visits("counted")], 40.0);
    // How many visits arrive at once depends on the network.
    assert!(samples["notch_batch_commands_sum"] < 40.0, "{samples:?}");
}

#[test]
fn metrics_need_no_store_and_count_nothing() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "300ms").with("WORKERS", "2").start();
    assert_eq!(notch.visit_when_it_counts(), 1);
    wait_until("all workers see the store", || (samples(&notch)["notch_store_up"] == 1.0).then_some(()));
    redis.kill();
    wait_until("the failure is detected", || (samples(&notch)["notch_store_up"] == 0.0).then_some(()));
    wait_until("a visit is refused", || (notch.get("/count").status == 503).then_some(()));
    assert!(samples(&notch)[&visits("refused")] >= 1.0);
    let head = notch.request("HEAD", "/metrics", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let json = notch.request("GET", "/metrics", &[("Accept", "application/json")]);
    assert_eq!(json.field("Content-Type"), Some("text/plain; version=0.0.4"), "there is one form only");
    redis.restart();
    wait_until("the store is seen to be back", || (samples(&notch)["notch_store_up"] == 1.0).then_some(()));
    assert_eq!(notch.visit_when_it_counts(), 2, "this Redis keeps nothing, and notch its last number");
}

#[test]
fn each_reconnect_to_the_store_is_counted() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("WORKERS", "1").start();
    for times in 0..3 {
        let back = || (samples(&notch)["notch_store_up"] == 1.0).then_some(());
        wait_until("the store is there", back);
        assert_eq!(samples(&notch)["notch_store_reconnects_total"], f64::from(times));
        redis.kill();
        wait_until("the store is unavailable", || (samples(&notch)["notch_store_up"] == 0.0).then_some(()));
        redis.restart();
    }
}

#[test]
fn a_visit_in_doubt_gets_504_and_another_one_503() {
    let script = Script::play("> INCR visits\nclose\n> INCR visits\n< -OOM\\r\\n\n> INCR visits\n< :1\\r\\n");
    let notch = Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
    for status in [504, 503, 200] {
        assert_eq!(notch.get("/count").status, status);
    }
    let samples = samples(&notch);
    for outcome in ["in_doubt", "refused", "counted"] {
        assert_eq!(samples[&visits(outcome)], 1.0, "{outcome}");
    }
    assert_eq!(samples["notch_store_round_trip_seconds_count"], 2.0, "the lost one has none");
    script.done();
}

#[test]
fn a_slow_store_shows_in_the_metrics() {
    const HELD: Duration = Duration::from_secs(1);
    let script = Script::play("> INCR visits\nhold\n< :1\\r\\n\n> INCRBY visits 7\n< :8\\r\\n");
    let notch = Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
    let mut first = notch.client();
    first.send_request("GET", "/count", &[]);
    script.reach(1);
    let mut others: Vec<_> = (0..7).map(|_| notch.client()).collect();
    others.iter_mut().for_each(|client| client.send_request("GET", "/count", &[]));
    // Each of them has been read when a later request gets its response.
    (0..20).for_each(|_| assert_eq!(notch.get("/livez").status, 200));
    thread::sleep(HELD);
    script.release();
    assert_eq!(first.response().number(), 1);
    others.iter_mut().for_each(|client| assert!(client.response().number() > 1));
    let samples = samples(&notch);
    assert_eq!(samples["notch_store_round_trip_seconds_count"], 2.0);
    let took = samples["notch_store_round_trip_seconds_sum"];
    let held = HELD.as_secs_f64();
    assert!(
        (held..2.0 * held).contains(&took),
        "the time in which a batch waits for another one is not included: {took}"
    );
    for (le, batches) in [("1", 1.0), ("4", 1.0), ("16", 2.0), ("+Inf", 2.0)] {
        assert_eq!(samples[&format!("notch_batch_commands_bucket{{le=\"{le}\"}}")], batches, "{le}");
    }
    assert_eq!(samples["notch_batch_commands_sum"], 8.0);
    script.done();
}

#[test]
fn connections_are_as_many_as_are_open() {
    let notch = Settings::ledger().with("MAX_CONNECTIONS", "50").start();
    let open = |expected: f64| {
        wait_until("this many connections are open", || {
            (samples(&notch)["notch_connections"] == expected).then_some(())
        });
    };
    open(1.0);
    let clients: Vec<_> = (0..9).map(|_| notch.client()).collect();
    open(10.0);
    drop(clients);
    open(1.0);
    assert_eq!(samples(&notch)["notch_connections_max"], 50.0);
}

#[test]
fn evicted_connections_are_counted_by_their_state() {
    let request = "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n";
    for (state, sent) in [("idle", ""), ("idle", request), ("stalled", &request[..20])] {
        let notch = Settings::ledger().with("MAX_CONNECTIONS", "2").with("WORKERS", "1").start();
        let evicted = |state| samples(&notch)[&format!("notch_connections_evicted_total{{state=\"{state}\"}}")];
        let mut clients = [notch.client(), notch.client()];
        for client in &mut clients {
            // One of them may have been evicted already for the other.
            let _ = client.try_send(sent);
        }
        wait_until("the metrics needed a slot", || (evicted(state) >= 1.0).then_some(()));
        assert!(state == "stalled" || evicted("stalled") == 0.0, "no client has stalled");
    }
}

/// Metrics are the sum of all workers, each of which serves some clients; while they run, every number read grows or
/// stays the same.
#[test]
fn under_load_nothing_is_lost_and_totals_never_decrease() {
    const CLIENTS: usize = 8;
    const VISITS: usize = 400;
    let redis = Redis::start(&[]);
    for settings in [Settings::redis(redis.port), Settings::ledger().with("FSYNC", "never")] {
        let notch = settings.with("WORKERS", "4").start();
        wait_until("the store is there", || (notch.get("/readyz").status == 200).then_some(()));
        let before = samples(&notch);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = || {
                let mut last = samples(&notch);
                while !done.load(Ordering::Relaxed) {
                    let now = samples(&notch);
                    for (sample, value) in &now {
                        assert!(*value >= last[sample] || sample == "notch_connections", "{sample} went back");
                    }
                    assert_eq!(now["notch_batch_commands_bucket{le=\"+Inf\"}"], now["notch_batch_commands_count"]);
                    last = now;
                }
            };
            let watchers = [scope.spawn(watch), scope.spawn(watch)];
            let visit = || {
                let mut client = notch.client();
                (0..VISITS).for_each(|_| assert!(client.get("/count").number() > 0));
            };
            let visitors: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(visit)).collect();
            visitors.into_iter().for_each(|visitor| visitor.join().expect("no visit fails"));
            done.store(true, Ordering::Relaxed);
            watchers.into_iter().for_each(|watcher| watcher.join().expect("no metric decreases"));
        });
        let after = samples(&notch);
        let wait_for_growth = |sample: &str| after[sample] - before[sample];
        let all = (CLIENTS * VISITS) as f64;
        assert_eq!(wait_for_growth(&requests("count", "2xx")), all);
        assert_eq!(wait_for_growth(&visits("counted")), all);
        assert_eq!(wait_for_growth("notch_batch_commands_sum"), all);
        assert!((1.0..=all).contains(&wait_for_growth("notch_batch_commands_count")));
        assert_eq!(
            wait_for_growth("notch_batch_commands_count"),
            wait_for_growth("notch_store_round_trip_seconds_count")
        );
        assert!(wait_for_growth("notch_store_round_trip_seconds_sum") > 0.0);
        assert_eq!(sum(&after, "notch_visits_total"), after[&visits("counted")]);
    }
}

#[test]
fn the_length_does_not_depend_on_the_number_of_counters() {
    let notch = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "*").start();
    let before: Vec<_> = samples(&notch).into_keys().collect();
    let mut client = notch.client();
    for name in 0..100 {
        client.get(&format!("/count/{name}"));
        client.get(&format!("/unknown/{name}"));
    }
    assert_eq!(samples(&notch).into_keys().collect::<Vec<_>>(), before);
}

#[test]
fn metrics_contain_no_secrets_and_name_the_build() {
    let redis = Redis::start(&["--requirepass", "zebra-secret"]);
    let url = format!("redis://default:zebra-secret@127.0.0.1:{}", redis.port);
    let by_url = Settings::ledger().with("REDIS_URL", &url);
    let in_parts = Settings::redis(redis.port).with("REDIS_USERNAME", "default").with("REDIS_PASSWORD", "zebra-secret");
    for settings in [by_url, in_parts] {
        let notch = settings.with("COUNTER_KEY", "zebra-key").with("COUNTERS", "zebra-name").start();
        notch.get("/count/zebra-name");
        notch.request("GET", "/zebra?zebra", &[("Authorization", "zebra"), ("Host", "zebra")]);
        let page = page(&notch);
        for secret in ["zebra", "127.0.0.1", "default", &redis.port.to_string()] {
            assert!(!page.text().contains(secret), "{secret}: {page:?}");
        }
        assert!(page.text().contains("store=\"redis\"}"), "{page:?}");
    }
    let notch = Settings::ledger().start();
    let page = page(&notch);
    let driver = if cfg!(feature = "tokio") { "tokio" } else { "threads" };
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("\nnotch_build_info{{version=\"{version}\",driver=\"{driver}\",store=\"ledger\"}} 1\n");
    assert!(page.text().contains(&info), "{info}: {page:?}");
}

#[test]
fn metrics_are_served_while_draining() {
    let notch = Settings::ledger().with("DRAIN_DELAY", NEVER).start();
    notch.signal("TERM");
    wait_until("it is no longer ready", || (notch.get("/readyz").status == 503).then_some(()));
    assert_eq!(samples(&notch)["notch_store_up"], 1.0);
    notch.signal("TERM");
    let (status, _) = notch.ended();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn promtool_accepts_the_metrics() {
    let redis = Redis::start(&[]);
    for settings in [Settings::redis(redis.port), Settings::ledger()] {
        let notch = settings.start();
        notch.visit_when_it_counts();
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut promtool = promtool.spawn().expect("promtool is missing (Debian: apt-get install prometheus)");
        let mut stdin = promtool.stdin.take().expect("its stdin is a pipe");
        stdin.write_all(&page(&notch).body).expect("promtool reads");
        drop(stdin);
        let message = promtool.wait_with_output().expect("promtool ends");
        let output = [message.stdout, message.stderr].concat();
        assert!(message.status.success() && output.is_empty(), "{}", String::from_utf8_lossy(&output));
    }
}
