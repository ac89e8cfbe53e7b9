//! SIGTERM and SIGINT: responses in flight are sent, idle connections are closed, and the process ends in time.

use std::fs;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, NEVER, Notch, Response, Script, Settings, free_port, signal, wait_until};

fn scripted(script: &Script) -> Settings {
    Settings::redis(script.port).with("STORE_TIMEOUT", NEVER).with("WORKERS", "1")
}

#[test]
fn an_idle_notch_ends_at_once() {
    for name in ["TERM", "INT"] {
        // All timeouts are very long: the test must not wait for any of them.
        let settings = Settings::ledger().with("DRAIN_TIMEOUT", NEVER).with("IDLE_TIMEOUT", NEVER);
        let notch = settings.with("REQUEST_TIMEOUT", NEVER).start();
        notch.visit();
        let mut kept = notch.client();
        kept.get("/count");
        let mut silent = notch.client();
        notch.signal(name);
        assert!(kept.remaining_responses().is_empty(), "an idle connection is closed");
        assert!(silent.remaining_responses().is_empty(), "so is one without a request");
        let address = notch.address;
        let (status, log) = notch.ended();
        assert_eq!(status.code(), Some(0), "SIG{name}: {log:#?}");
        assert!(Client::try_connect(address).is_err(), "the listener is closed");
    }
}

#[test]
fn a_response_in_flight_is_sent() {
    for name in ["TERM", "INT"] {
        let script = Script::play("> INCR visits\nhold\n< :41\\r\\n");
        let notch = scripted(&script).with("DRAIN_TIMEOUT", NEVER).start();
        let mut client = notch.client();
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
        script.reach(1);
        notch.signal(name);
        assert_refused_connections(&notch);
        script.release();
        let response = client.response();
        assert_eq!(response.number(), 41);
        assert!(response.closes(), "and announces that the connection closes: {response:?}");
        assert!(client.remaining_responses().is_empty());
        let (status, log) = notch.ended();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        script.done();
    }
}

#[test]
fn many_responses_in_flight_are_sent() {
    let script = Script::play("> INCR visits\nhold\n< :1\\r\\n\n> INCRBY visits 7\n< :8\\r\\n");
    let notch = scripted(&script).with("DRAIN_TIMEOUT", NEVER).start();
    let mut first = notch.client();
    first.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    script.reach(1);
    let mut others: Vec<_> = (0..7).map(|_| notch.client()).collect();
    for client in &mut others {
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    // Each of them has been read when a later request gets its response.
    (0..20).for_each(|_| assert_eq!(notch.get("/livez").status, 200));
    notch.signal("TERM");
    assert_refused_connections(&notch);
    script.release();
    assert_eq!(first.response().number(), 1);
    let mut numbers: Vec<_> = others.iter_mut().map(|client| client.response().number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=8).collect::<Vec<_>>());
    assert_eq!(notch.ended().0.code(), Some(0));
    script.done();
}

#[test]
fn a_missing_reply_is_awaited_until_the_timeout() {
    let script = Script::play("> INCR visits\nhold");
    let notch = scripted(&script).with("DRAIN_TIMEOUT", "2s").start();
    let mut sent = notch.client();
    sent.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut half = notch.client();
    half.send("GET /count HTT");
    script.reach(1);
    let mut unsent: Vec<_> = (0..3).map(|_| notch.client()).collect();
    for client in &mut unsent {
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    notch.signal("TERM");
    // Each visit gets a response: one that was sent to the store is in doubt, one that was not is certainly not
    // counted.
    sent.response().assert_in_doubt();
    for client in &mut unsent {
        let response = client.response();
        response.assert_not_counted();
        assert!(response.closes(), "{response:?}");
    }
    let (status, log) = notch.ended();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    // An incomplete request gets no response.
    assert!(half.remaining_responses().is_empty());
}

#[test]
fn visits_that_wait_for_an_unavailable_store_get_503_before_the_end() {
    let settings = Settings::redis(free_port()).with("STORE_TIMEOUT", NEVER).with("DRAIN_TIMEOUT", "2s");
    let notch = settings.start();
    let mut clients: Vec<_> = (0..5).map(|_| notch.client()).collect();
    for client in &mut clients {
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    notch.signal("TERM");
    clients.iter_mut().for_each(|client| client.response().assert_not_counted());
    assert_eq!(notch.ended().0.code(), Some(0));
}

#[test]
fn during_the_delay_it_is_not_ready_and_serves() {
    let notch = Settings::ledger().with("DRAIN_DELAY", NEVER).start();
    let mut kept = notch.client();
    assert_eq!(kept.get("/readyz").status, 200);
    notch.signal("TERM");
    wait_until("/readyz is 503", || (notch.get("/readyz").status == 503).then_some(()));
    for number in 1..=5 {
        assert_eq!(notch.visit(), number, "new connections are served as long as the balancer may send some");
    }
    assert_eq!(notch.get("/livez").status, 200, "it is not dead yet");
    let json = notch.request("GET", "/readyz", &[("Accept", "application/json")]);
    assert!(json.json()["error"].is_string(), "{json:?}");
}

#[test]
fn after_the_signal_every_response_closes_the_connection() {
    // One worker, because each worker handles the signal separately.
    let notch = Settings::ledger().with("DRAIN_DELAY", NEVER).with("WORKERS", "1").start();
    let requests = [
        ("GET", "/count", ""),
        ("POST", "/count", "Content-Length: 0\r\n"),
        ("GET", "/", "Accept: text/html\r\n"),
        ("HEAD", "/total", ""),
        ("GET", "/badge.svg", ""),
        ("GET", "/metrics", ""),
        ("GET", "/readyz", ""),
        ("GET", "/favicon.ico", ""),
        ("GET", "/unknown", ""),
        ("DELETE", "/count", ""),
    ];
    let mut kept: Vec<_> = requests.iter().map(|_| notch.client()).collect();
    for client in &mut kept {
        assert!(!client.get("/livez").closes());
    }
    let mut several = notch.client();
    assert!(!several.get("/livez").closes());
    notch.signal("TERM");
    wait_until("/readyz is 503", || (notch.get("/readyz").status == 503).then_some(()));
    for (client, (method, path, fields)) in kept.iter_mut().zip(requests) {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        let response = client.response_to(method);
        assert!(response.closes(), "{method} {path}: {response:?}");
        assert!(client.remaining_responses().is_empty(), "{method} {path}: the connection is closed");
    }
    // Pipelined requests get all responses, and the last one announces that the connection closes.
    several.send("GET /total HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3) + "GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    let closes: Vec<_> = several.remaining_responses().iter().map(Response::closes).collect();
    assert_eq!(closes, [false, false, false, true]);
    // New connections get one response each.
    let mut client = notch.client();
    assert!(client.get("/count").closes() && client.remaining_responses().is_empty());
}

#[test]
fn a_planned_stop_interrupts_no_keep_alive_client() {
    let settings = Settings::ledger().with("DRAIN_DELAY", "2s").with("DRAIN_TIMEOUT", NEVER);
    let notch = settings.start();
    // A connection that is opened when the delay ends may find the listener closed, before or after the handshake of
    // TCP.
    let late = Arc::new(OnceLock::new());
    let paced = |pause: u64| {
        let (address, late, mut client) = (notch.address, late.clone(), Some(notch.client()));
        thread::spawn(move || {
            let (mut numbers, mut cut) = (Vec::new(), 0);
            loop {
                let is_late = late.get().is_some_and(|late| Instant::now() >= *late);
                let is_kept = client.is_some();
                let connected = client.take().or_else(|| Client::try_connect(address).ok());
                let Some(mut kept) = connected else { break };
                let sent = kept.try_send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
                let response = sent.ok().and_then(|()| kept.next_response("GET"));
                cut += usize::from(response.is_none() && (is_kept || !is_late));
                if let Some(response) = response {
                    numbers.push(response.number());
                    client = (!response.closes()).then_some(kept);
                }
                thread::sleep(Duration::from_millis(pause));
            }
            (numbers, cut)
        })
    };
    // Each of them sends its next request long before the end of the delay, also on a busy machine.
    let clients: Vec<_> = (0..24).map(|index| paced(5 + 8 * index)).collect();
    wait_until("the load is on", || (notch.total() > 100).then_some(()));
    assert!(late.set(Instant::now() + Duration::from_secs(1)).is_ok());
    notch.signal("TERM");
    assert_eq!(notch.ended().0.code(), Some(0));
    let results: Vec<_> = clients.into_iter().map(|client| client.join().expect("clients do not panic")).collect();
    let cut: usize = results.iter().map(|(_, cut)| cut).sum();
    let mut numbers: Vec<_> = results.into_iter().flat_map(|(numbers, _)| numbers).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    assert_eq!(cut, 0, "of {} requests", numbers.len() + cut);
    assert_eq!(settings.start().total(), numbers.len() as i64);
}

#[test]
fn requests_in_flight_at_the_signal_are_served_without_delay() {
    let notch = Settings::ledger().with("DRAIN_TIMEOUT", NEVER).start();
    let mut kept: Vec<_> = (0..8).map(|_| notch.client()).collect();
    for client in &mut kept {
        client.get("/livez");
    }
    let mut silent = notch.client();
    // A stopped process cannot have read any of it when the signal comes.
    notch.signal("STOP");
    let mut new: Vec<_> = (0..8).map(|_| notch.client()).collect();
    for client in kept.iter_mut().chain(&mut new) {
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    notch.signal("TERM");
    notch.signal("CONT");
    let mut numbers: Vec<_> = kept.iter_mut().chain(&mut new).map(|client| client.response().number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
    assert!(silent.remaining_responses().is_empty());
    assert_eq!(notch.ended().0.code(), Some(0));
}

#[test]
fn a_planned_stop_is_logged_in_one_line() {
    let notch = Settings::ledger().with("DRAIN_DELAY", "100ms").start();
    notch.visit();
    let before = notch.log().len();
    notch.signal("TERM");
    let log = notch.ended().1;
    assert_eq!(log.len(), before + 1, "{log:#?}");
    assert!(log[before].contains("INFO received SIGTERM"), "{log:#?}");
}

#[test]
fn the_delay_ends() {
    let notch = Settings::ledger().with("DRAIN_DELAY", "200ms").with("DRAIN_TIMEOUT", NEVER).start();
    let mut kept = notch.client();
    assert_eq!(kept.get("/count").number(), 1);
    notch.signal("TERM");
    assert_eq!(notch.ended().0.code(), Some(0));
    assert!(kept.remaining_responses().is_empty());
}

#[test]
fn a_second_signal_does_not_wait() {
    let notch = Settings::ledger().with("DRAIN_DELAY", NEVER).start();
    notch.signal("TERM");
    wait_until("/readyz is 503", || (notch.get("/readyz").status == 503).then_some(()));
    notch.signal("TERM");
    // With any exit code: the second signal ends the process at once.
    notch.ended();
}

#[test]
fn signals_for_reload_are_ignored() {
    let settings = Settings::ledger().with("DRAIN_DELAY", NEVER).with("DRAIN_TIMEOUT", NEVER);
    let notch = settings.start();
    let mut kept = notch.client();
    for (round, name) in ["HUP", "USR1", "USR2", "HUP", "USR1", "USR2"].into_iter().enumerate() {
        notch.signal(name);
        assert_eq!(kept.get("/count").number(), 2 * round as i64 + 1, "after SIG{name}");
        assert_eq!(notch.visit(), 2 * round as i64 + 2, "after SIG{name}");
    }
    assert_eq!(notch.get("/readyz").status, 200, "none of them drains");
    notch.signal("TERM");
    wait_until("/readyz is 503", || (notch.get("/readyz").status == 503).then_some(()));
    for name in ["HUP", "USR1", "USR2"] {
        notch.signal(name);
    }
    assert_eq!(notch.visit(), 13, "none of them is the second signal, which does not wait");
    notch.signal("TERM");
    let (status, log) = notch.ended();
    assert_eq!(status.code(), Some(0), "{log:#?}");
}

#[test]
fn under_load_every_response_is_whole_and_every_visit_is_counted() {
    let settings = Settings::ledger().with("DRAIN_TIMEOUT", NEVER);
    let notch = settings.start();
    let visitors: Vec<_> = (0..8).map(|_| thread::spawn(visitor(notch.client()))).collect();
    wait_until("the load is on", || (notch.total() > 200).then_some(()));
    notch.signal("TERM");
    assert_eq!(notch.ended().0.code(), Some(0));
    let mut numbers: Vec<_> =
        visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect();
    numbers.sort_unstable();
    // All counted visits got their responses.
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    assert_eq!(settings.start().total(), numbers.len() as i64);
}

fn visitor(mut client: Client) -> impl FnOnce() -> Vec<i64> + Send + 'static {
    move || {
        let mut numbers = Vec::new();
        while client.try_send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n").is_ok() {
            let Some(response) = client.next_response("GET") else { break };
            let last = response.closes();
            numbers.push(response.number());
            if last {
                break;
            }
        }
        numbers
    }
}

#[test]
fn as_the_first_process_of_a_container() {
    // The kernel discards signals of process 1 that have no handler, so SIGTERM must work there too.
    let mut command = vec!["unshare", "--pid", "--fork", "--kill-child"];
    let allowed = |command: &[&str]| {
        Command::new(command[0]).args(&command[1..]).arg("true").output().is_ok_and(|o| o.status.success())
    };
    if !allowed(&command) {
        command.extend(["--user", "--map-root-user"]);
        if !allowed(&command) {
            eprintln!("NOT TESTED: this user may not create its own process 1 (unshare is refused)");
            return;
        }
    }
    for name in ["TERM", "INT"] {
        let settings = Settings::ledger().with("DRAIN_TIMEOUT", NEVER).with_wrapper(&command);
        let notch = settings.start();
        let outer = notch.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).expect("Linux's own account");
        let inner: u32 = children.trim().parse().expect("one child, which is process 1 in there");
        let status = fs::read_to_string(format!("/proc/{inner}/status")).expect("Linux's own account");
        let ids = status.lines().find(|line| line.starts_with("NSpid:")).expect("a kernel with namespaces");
        assert!(ids.ends_with("\t1"), "{ids}");
        assert_eq!(notch.visit(), 1);
        signal(inner, name);
        let (status, log) = notch.ended();
        assert_eq!(status.code(), Some(0), "SIG{name}: {log:#?}");
    }
}

/// Waits until new connections are refused, which shows that the signal was handled.
fn assert_refused_connections(notch: &Notch) {
    wait_until("new connections are refused", || Client::try_connect(notch.address).is_err().then_some(()));
}
