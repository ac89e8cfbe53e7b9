//! Sentinels, clusters, acknowledgements by replicas and the floor, with fake servers.
//!
//! A failover is one change of what the fakes reply. The real servers are in `tests/failover`.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::fake::{Action, Data, Fake, error};
use crate::support::{Client, NEVER, Notch, Response, Settings, wait_until};

const SLAVE: &str = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:3";

fn data() -> Arc<Mutex<Data>> {
    Arc::default()
}

fn total(data: &Mutex<Data>) -> i64 {
    data.lock().expect("no panic").total
}

fn execute(_: &str) -> Action {
    Action::Execute
}

fn settings(url: &str) -> Settings {
    Settings::ledger().with("REDIS_URL", url).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER)
}

fn cluster(seeds: &[u16]) -> Settings {
    let seeds: Vec<_> = seeds.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    settings(&format!("redis+cluster://{}", seeds.join(",")))
}

fn sentinels(ports: &[u16]) -> Settings {
    let ports: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    settings(&format!("redis+sentinel://{}/mymaster", ports.join(",")))
}

/// Returns a port on which nothing listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    listener.local_addr().expect("a bound listener has an address").port()
}

fn wait_for_log(notch: &Notch, text: &str) {
    wait_until(&format!("the log has {text:?}"), || notch.log().iter().any(|line| line.contains(text)).then_some(()));
}

fn metric(notch: &Notch, name: &str) -> f64 {
    let page = notch.get("/metrics");
    let value = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page:?}"))
}

/// Runs a test for each case at the same time, because they mostly wait.
fn in_parallel<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// Replies with an error to the first `times` commands that begin with `words`.
fn first_times(times: usize, words: &'static str, line: &'static str) -> impl Fn(&str) -> Action + Send + Sync {
    let left = AtomicUsize::new(times);
    move |command| {
        let is_first = |left: usize| left.checked_sub(1);
        if command.starts_with(words) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_first).is_ok() {
            return error(line);
        }
        Action::Execute
    }
}

#[test]
fn moved_is_followed_in_the_handshake_and_in_a_batch() {
    for words in ["GET visits", "ONCE visits 1"] {
        for host in ["127.0.0.1", "localhost", ""] {
            let data = data();
            let owner = Fake::start(&data, execute);
            let line = format!("MOVED 866 {host}:{}", owner.port);
            let seed = Fake::start(&data, move |command| match command {
                _ if command.starts_with(words) => error(&line),
                _ => Action::Execute,
            });
            let notch = cluster(&[seed.port]).start();
            assert_eq!((notch.visit(), notch.visit()), (1, 2), "{words} {host:?}");
            assert_eq!(total(&data), 2);
            assert!(owner.count("ONCE visits 1") == 2 && owner.connections() == 1, "{:?}", owner.commands());
        }
    }
}

#[test]
fn moved_may_name_an_ipv6_address() {
    let data = data();
    let owner = Fake::start_at("[::1]:0", &data, execute);
    let line = format!("MOVED 866 ::1:{}", owner.port);
    let seed = Fake::start(&data, move |command| if command == "GET visits" { error(&line) } else { Action::Execute });
    let notch = cluster(&[seed.port]).start();
    assert_eq!(notch.visit(), 1);
    wait_for_log(&notch, &format!("the store is at [::1]:{}", owner.port));
}

#[test]
fn nodes_that_redirect_to_each_other_are_asked_with_pauses_until_they_agree() {
    let data = data();
    let agreed = Arc::new(AtomicBool::new(false));
    let ports = Arc::new(Mutex::new([0_u16; 2]));
    let node = |other: usize| {
        let (agreed, ports) = (agreed.clone(), ports.clone());
        Fake::start(&data, move |command| {
            let is_owner = other == 1 && agreed.load(Ordering::SeqCst);
            if command != "GET visits" || is_owner {
                return Action::Execute;
            }
            error(&format!("MOVED 866 :{}", ports.lock().expect("no panic")[other]))
        })
    };
    let (one, other) = (node(1), node(0));
    *ports.lock().expect("no panic") = [one.port, other.port];
    let notch = cluster(&[one.port]).with("STORE_TIMEOUT", "2s").start();
    let start = Instant::now();
    notch.get("/count").assert_not_counted();
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    wait_for_log(&notch, "the nodes of the cluster redirect to each other");
    let connections = one.connections() + other.connections();
    assert!((12..=200).contains(&connections), "{connections} connections in 2 s");
    agreed.store(true, Ordering::SeqCst);
    assert_eq!(notch.visit_when_it_counts(), 1);
}

#[test]
fn a_redirection_to_an_invalid_address_is_an_error() {
    let long = format!("{}:7001", "x".repeat(256));
    in_parallel(&["?:7001", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1", "a\tb:7001", &long], |address| {
        let line = format!("MOVED 866 {address}");
        let seed =
            Fake::start(&data(), move |command| if command == "GET visits" { error(&line) } else { Action::Execute });
        let notch = cluster(&[seed.port]).with("STORE_TIMEOUT", "2s").start();
        notch.get("/count").assert_not_counted();
        wait_for_log(&notch, "the store redirected to an invalid address");
    });
}

#[test]
fn a_refusal_for_the_moment_is_waited_out() {
    for line in [
        "ASK 866 127.0.0.1:7001",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "NOREPLICAS Not enough good replicas to write.",
        "READONLY You can't write against a read only replica.",
    ] {
        for is_cluster in [true, false] {
            let data = data();
            let node = Fake::start(&data, first_times(4, "ONCE visits 1", line));
            let sentinel = Fake::sentinel(node.port);
            let settings = if is_cluster { cluster(&[node.port]) } else { sentinels(&[sentinel.port]) };
            let notch = settings.start();
            assert_eq!(notch.visit(), 1, "{line}");
            assert_eq!((total(&data), node.count("ONCE visits 1")), (1, 5), "{line}: {:?}", node.commands());
        }
    }
}

#[test]
fn a_refusal_that_lasts_is_not_counted() {
    let node = Fake::start(&data(), first_times(usize::MAX, "ONCE visits 1", "CLUSTERDOWN The cluster is down"));
    let notch = cluster(&[node.port]).with("STORE_TIMEOUT", "500ms").start();
    let start = Instant::now();
    notch.get("/count").assert_not_counted();
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
    wait_for_log(&notch, "the store's cluster is down");
}

#[test]
fn a_refusal_of_a_repeated_batch_leaves_it_in_doubt_until_it_is_answered() {
    for line in [
        "MOVED 866 127.0.0.1:1",
        "ASK 866 127.0.0.1:1",
        "TRYAGAIN later",
        "CLUSTERDOWN The cluster is down",
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots",
    ] {
        let data = data();
        let attempts = AtomicUsize::new(0);
        let node = Fake::start(&data, move |command| {
            if !command.starts_with("ONCE visits 1") {
                return Action::Execute;
            }
            match attempts.fetch_add(1, Ordering::SeqCst) {
                0 => Action::Lose,
                1..4 => error(line),
                _ => Action::Execute,
            }
        });
        let notch = Settings::redis(node.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
        assert_eq!(notch.visit(), 1, "{line}");
        assert_eq!(total(&data), 1, "{line}");
        assert_eq!(metric(&notch, "notch_store_resends_total"), 4.0, "{line}");
        assert!(metric(&notch, "notch_store_in_doubt_seconds_total") > 0.0, "{line}");
    }
}

#[test]
fn a_repeated_batch_that_is_refused_until_its_deadline_is_in_doubt() {
    let lost = AtomicBool::new(false);
    let node = Fake::start(&data(), move |command| match command {
        _ if !command.starts_with("ONCE visits 1") => Action::Execute,
        _ if lost.swap(true, Ordering::SeqCst) => error("READONLY You can't write against a read only replica."),
        _ => Action::Lose,
    });
    let notch = Settings::redis(node.port).with("WORKERS", "1").with("STORE_TIMEOUT", "700ms").start();
    let start = Instant::now();
    notch.get("/count").assert_in_doubt();
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
}

/// Sends `requests` so that they arrive while a batch is in flight, and returns the responses. `is_held` keeps the reply
/// to that batch back at the fake, of which `words` is the command.
fn while_in_flight(notch: &Notch, node: &Fake, words: &str, is_held: &AtomicBool, requests: &[&str]) -> Vec<Response> {
    let before = node.count(words);
    is_held.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let first = scope.spawn(|| notch.visit());
        wait_until("the first batch is in flight", || (node.count(words) > before).then_some(()));
        let mut clients: Vec<_> = requests.iter().map(|_| notch.client()).collect();
        for (client, path) in clients.iter_mut().zip(requests) {
            client.send_request("GET", path, &[]);
        }
        // A request on another connection gives notch time to read the others.
        (0..5).for_each(|_| assert_eq!(notch.get("/livez").status, 200));
        is_held.store(false, Ordering::SeqCst);
        first.join().expect("the first visitor does not panic");
        clients.iter_mut().map(Client::response).collect()
    })
}

fn hold(is_held: &AtomicBool) -> Action {
    while is_held.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    Action::Execute
}

#[test]
fn of_a_batch_that_is_refused_in_part_only_what_was_counted_is_answered_with_a_number() {
    for is_cluster in [true, false] {
        for acks in ["0", "1"] {
            let is_held = Arc::new(AtomicBool::new(false));
            let held = is_held.clone();
            let node = Fake::start(&data(), move |command| match command.split(' ').nth(1) {
                Some("{visits}") if command.starts_with("ONCE") => hold(&held),
                Some("{visits}:a") => Action::Reply("$1\r\n4".to_owned()),
                Some("{visits}:b") => error("TRYAGAIN Multiple keys request during rehashing of slot"),
                _ => Action::Execute,
            });
            let sentinel = Fake::sentinel(node.port);
            let settings = if is_cluster { cluster(&[node.port]) } else { sentinels(&[sentinel.port]) };
            let settings = settings.with("COUNTER_KEY", "{visits}").with("COUNTERS", "a,b").with("REDIS_ACKS", acks);
            let notch = settings.with("STORE_TIMEOUT", "2s").start();
            // They are in one batch if they arrive at about the same time.
            wait_until("both visits were in one batch", || {
                let start = Instant::now();
                let requests = ["/count/a", "/count/b", "/total"];
                let responses = while_in_flight(&notch, &node, "ONCE {visits} ", &is_held, &requests);
                let [counted, refused, total] = &responses[..] else { panic!("as many responses as requests") };
                assert_eq!((counted.number(), total.status), (5, 200), "{responses:?}");
                if refused.status == 504 {
                    // On a busy machine, its last repetition may still be in flight at its deadline.
                    return None;
                }
                refused.assert_not_counted();
                assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
                let sequences = ["ONCE {visits}:a 1", "ONCE {visits}:b 1"].map(|words| {
                    let commands = node.commands();
                    let sequence = |command: &String| command.rsplit_once(" #").map(|(_, number)| number.to_owned());
                    commands
                        .iter()
                        .filter(|command| command.starts_with(words))
                        .filter_map(sequence)
                        .collect::<Vec<_>>()
                });
                let [counted, refused] = &sequences;
                counted.last().is_some_and(|last| refused.contains(last)).then_some(())
            });
        }
    }
}

#[test]
fn reads_are_answered_while_the_store_accepts_no_visits() {
    // A single node refuses a visit at once.
    for (is_single, is_refused) in [(true, false), (false, false), (false, true)] {
        let data = data();
        let is_complete = Arc::new(AtomicBool::new(false));
        let complete = is_complete.clone();
        let node = Fake::start(&data, move |command| {
            let is_complete = complete.load(Ordering::SeqCst);
            match command.split(' ').next() {
                Some("WAIT") if !is_complete => Action::Reply(":0".to_owned()),
                Some("ONCE") if !is_complete && is_refused => error("NOREPLICAS Not enough good replicas to write."),
                _ => Action::Execute,
            }
        });
        let sentinel = Fake::sentinel(node.port);
        let single = || settings(&format!("redis://127.0.0.1:{}", node.port));
        let settings = if is_single { single() } else { sentinels(&[sentinel.port]) };
        let notch = settings.with("REDIS_ACKS", "1").start();
        thread::scope(|scope| {
            let visitor = scope.spawn(|| notch.visit());
            wait_until("the visit is sent again", || (node.count("ONCE") > 2).then_some(()));
            for _ in 0..3 {
                let expected = i64::from(!is_refused);
                assert_eq!(notch.total(), expected, "while a visit waits");
            }
            assert!(!visitor.is_finished());
            is_complete.store(true, Ordering::SeqCst);
            assert_eq!(visitor.join().expect("the visitor does not panic"), 1);
        });
        assert_eq!(total(&data), 1);
    }
}

#[test]
fn a_single_node_that_redirects_names_the_missing_setting() {
    let line = "MOVED 866 127.0.0.1:7001";
    let node =
        Fake::start(&data(), move |command| if command == "PING" { Action::Execute } else { first(command, line) });
    let notch = Settings::redis(node.port).with("WORKERS", "1").start();
    let response = notch.get("/count");
    response.assert_not_counted();
    assert!(response.text().contains("redis+cluster://"), "{response:?}");
    wait_for_log(&notch, "the key is on another node of a cluster: set REDIS_URL=redis+cluster://");
}

fn first(command: &str, line: &str) -> Action {
    if command.starts_with("GET") || command.starts_with("ONCE") { error(line) } else { Action::Execute }
}

#[test]
fn keys_in_several_slots_are_refused_at_the_start_with_one_line() {
    let exit = cluster(&[1]).with("COUNTERS", "*").run(&[]);
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    assert!(exit.stderr.contains("COUNTER_KEY={visits}"), "{exit:?}");
}

#[test]
fn the_next_sentinel_is_asked_if_one_cannot_answer() {
    let silent = || Action::Ignore;
    let null = || Action::Reply("*-1".to_owned());
    let invalid = || Action::Reply("*2\r\n$1\r\n \r\n$1\r\n7".to_owned());
    let http = || Action::Reply("HTTP/1.1 400 Bad Request".to_owned());
    let no_sentinel = || Action::Execute;
    let replies: [Option<fn() -> Action>; 6] =
        [None, Some(silent), Some(null), Some(invalid), Some(http), Some(no_sentinel)];
    for reply in replies {
        let data = data();
        let bad = reply.map(|reply| Fake::start(&data, move |_| reply()));
        let node = Fake::start(&data, execute);
        let good = Fake::sentinel(node.port);
        let notch = sentinels(&[bad.map_or_else(closed_port, |bad| bad.port), good.port]).start();
        assert_eq!(notch.visit(), 1);
        wait_for_log(&notch, &format!("the store is at 127.0.0.1:{}", node.port));
        assert!(!notch.log().iter().any(|line| line.contains("does not count")), "{:#?}", notch.log());
    }
}

#[test]
fn the_reason_is_logged_if_no_sentinel_names_the_primary() {
    let cases = [
        ("*-1", "the Sentinels have no primary of this name: check REDIS_MASTER_NAME"),
        ("-NOAUTH Authentication required.", "a Sentinel rejected the password: check REDIS_SENTINEL_PASSWORD"),
        ("-WRONGPASS invalid", "a Sentinel rejected the password: check REDIS_SENTINEL_PASSWORD"),
        ("-NOPERM no permissions", "a Sentinel rejected the query: let its user run SENTINEL"),
        ("-ERR unknown command 'SENTINEL'", "is it a Sentinel? check REDIS_SENTINELS"),
        ("*2\r\n$1\r\n\t\r\n$1\r\n7", "a Sentinel named an invalid address"),
        ("+OK\r\n+OK\r\n+OK", "unexpected reply of a Sentinel: check REDIS_SENTINELS"),
    ];
    in_parallel(&cases, |&(reply, reason)| {
        let sentinel = Fake::start(&data(), move |_| Action::Reply(reply.to_owned()));
        let notch = sentinels(&[sentinel.port]).with("STORE_TIMEOUT", "2s").start();
        notch.get("/count").assert_not_counted();
        wait_for_log(&notch, reason);
    });
    let notch = sentinels(&[closed_port()]).with("STORE_TIMEOUT", "300ms").start();
    notch.get("/count").assert_not_counted();
    wait_for_log(&notch, "no Sentinel replies: check REDIS_SENTINELS and the network");
}

#[test]
fn sentinels_have_a_user_and_password_of_their_own() {
    for (variables, login) in [
        (&[("REDIS_SENTINEL_PASSWORD", "s")][..], "AUTH s"),
        (&[("REDIS_SENTINEL_USERNAME", "v"), ("REDIS_SENTINEL_PASSWORD", "s")], "AUTH v s"),
    ] {
        let data = data();
        let node = Fake::start(&data, execute);
        let sentinel = Fake::sentinel(node.port);
        let with = |settings: Settings, variable: &(&str, &str)| settings.with(variable.0, variable.1);
        let notch = variables.iter().fold(sentinels(&[sentinel.port]).with("REDIS_PASSWORD", "p"), with).start();
        assert_eq!(notch.visit(), 1);
        assert_eq!(sentinel.commands()[..2], [login, "SENTINEL get-master-addr-by-name mymaster"]);
        assert_eq!(node.commands()[0], "AUTH p");
    }
}

#[test]
fn a_replica_is_left_for_reads_too_and_the_next_sentinel_is_asked() {
    let data = data();
    let replica = Fake::start(&data, |command| match command {
        "ROLE" => Action::Reply(SLAVE.to_owned()),
        _ => Action::Execute,
    });
    let primary = Fake::start(&data, execute);
    let (stale, good) = (Fake::sentinel(replica.port), Fake::sentinel(primary.port));
    let notch = sentinels(&[stale.port, good.port]).start();
    assert_eq!((notch.total(), notch.visit()), (0, 1));
    assert_eq!(replica.count("ONCE"), 0);
    // All Sentinels are stale until one of them is not.
    let notch = sentinels(&[stale.port]).with("STORE_TIMEOUT", "400ms").start();
    notch.get("/count").assert_not_counted();
    assert_eq!(notch.get("/total").status, 503, "a replica may be behind");
    assert!(stale.connections() > 2, "it is asked again");
}

#[test]
fn after_a_failover_the_sentinels_are_asked_again() {
    let data = data();
    let is_demoted = Arc::new(AtomicBool::new(false));
    let demoted = is_demoted.clone();
    let old = Fake::start(&data, move |command| {
        let is_demoted = demoted.load(Ordering::SeqCst);
        match command {
            "ROLE" if is_demoted => Action::Reply(SLAVE.to_owned()),
            _ if is_demoted && command.starts_with("ONCE") => error("READONLY You can't write against a replica."),
            _ => Action::Execute,
        }
    });
    let new = Fake::start(&data, execute);
    let promoted = is_demoted.clone();
    let ports = (old.port, new.port);
    let sentinel = Fake::start(&data, move |_| {
        let port = if promoted.load(Ordering::SeqCst) { ports.1 } else { ports.0 }.to_string();
        Action::Reply(format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}", port.len()))
    });
    let notch = sentinels(&[sentinel.port]).start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    is_demoted.store(true, Ordering::SeqCst);
    assert_eq!((notch.visit(), notch.visit()), (3, 4));
    assert_eq!((total(&data), new.count("ONCE visits 1")), (4, 2));
    assert_eq!(metric(&notch, "notch_store_node_changes_total"), 1.0);
    let lines =
        notch.log().iter().filter(|line| line.contains(&format!("the store is at 127.0.0.1:{}", new.port))).count();
    assert_eq!(lines, 1, "{:#?}", notch.log());
}

#[test]
fn a_dead_node_is_left_for_the_seeds() {
    let data = data();
    let (owner, dead) = (Fake::start(&data, execute), closed_port());
    let redirects = AtomicUsize::new(0);
    let port = owner.port;
    let seed = Fake::start(&data, move |command| match command {
        "GET visits" if redirects.fetch_add(1, Ordering::SeqCst) < 3 => error(&format!("MOVED 866 127.0.0.1:{dead}")),
        "GET visits" => error(&format!("MOVED 866 127.0.0.1:{port}")),
        _ => Action::Execute,
    });
    let notch = cluster(&[closed_port(), seed.port]).start();
    assert_eq!(notch.visit(), 1);
    assert!(seed.connections() >= 4);
}

#[test]
fn a_visit_is_answered_when_enough_replicas_have_acknowledged_it() {
    for few in [":0", "-UNBLOCKED force unblock from blocking operation, instance state changed"] {
        let data = data();
        let waits = AtomicUsize::new(0);
        let node = Fake::start(&data, move |command| match command {
            "WAIT 1 500" if waits.fetch_add(1, Ordering::SeqCst) < 3 => Action::Reply(few.to_owned()),
            _ => Action::Execute,
        });
        let notch = Settings::redis(node.port)
            .with("WORKERS", "1")
            .with("STORE_TIMEOUT", "10s")
            .with("REDIS_ACKS", "1")
            .start();
        assert_eq!((notch.visit(), notch.visit()), (1, 2), "{few}");
        assert_eq!((total(&data), node.count("ONCE visits 1")), (2, 5), "{few}: {:?}", node.commands());
        assert_eq!(metric(&notch, "notch_store_acks_missed_total"), 3.0);
    }
}

#[test]
fn a_visit_that_is_not_acknowledged_is_in_doubt() {
    let cases = [
        (Some(":1"), "too few replicas acknowledge visits: check the replicas and REDIS_ACKS"),
        (Some("-NOPERM no permissions to run the 'wait' command"), "add +wait to the ACL of its user"),
        (None, "no reply in time"),
    ];
    in_parallel(&cases, |&(reply, reason)| {
        let data = data();
        let node = Fake::start(&data, move |command| match reply {
            Some(reply) if command.starts_with("WAIT") => Action::Reply(reply.to_owned()),
            None if command.starts_with("WAIT") => Action::Ignore,
            _ => Action::Execute,
        });
        let notch =
            Settings::redis(node.port).with("WORKERS", "1").with("STORE_TIMEOUT", "3s").with("REDIS_ACKS", "2").start();
        notch.get("/count").assert_in_doubt();
        assert_eq!(total(&data), 1, "it is counted once: {:?}", node.commands());
        assert!(node.count("ONCE visits 1") > 1, "it is sent again");
        wait_for_log(&notch, reason);
    });
}

#[test]
fn a_store_that_comes_back_short_gives_no_number_twice() {
    let (full, short) = (data(), data());
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = is_lost.clone();
    let old = Fake::start(&full, move |_| if lost.load(Ordering::SeqCst) { Action::Lose } else { Action::Execute });
    let new = Fake::start(&short, execute);
    let (failed_over, ports) = (is_lost.clone(), (old.port, new.port));
    let sentinel = Fake::start(&full, move |_| {
        let port = if failed_over.load(Ordering::SeqCst) { ports.1 } else { ports.0 }.to_string();
        Action::Reply(format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}", port.len()))
    });
    let notch = sentinels(&[sentinel.port]).start();
    assert_eq!((1..=7).map(|_| notch.visit()).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    // The promoted replica has five of the seven visits.
    short.lock().expect("no panic").total = 5;
    is_lost.store(true, Ordering::SeqCst);
    assert_eq!((notch.visit(), notch.visit()), (8, 9));
    assert_eq!(total(&short), 9);
    wait_for_log(&notch, "the store has lost visits of visits: the next visit continues after the last number");
    // An operator sets the counter while notch is connected.
    short.lock().expect("no panic").total = 2;
    assert_eq!(notch.visit(), 3);
}
