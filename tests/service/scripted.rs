//! Replies that a real Redis cannot be made to send: every error reply, replies that are incomplete, late, repeated,
//! endless, or invalid.
//!
//! Timeouts are very long unless a test is about one, so that no response is caused by a timeout.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{NEVER, Notch, Script, Settings, wait_until};

fn notch(script: &Script) -> Notch {
    settings(script).start()
}

fn settings(script: &Script) -> Settings {
    Settings::redis(script.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER)
}

#[test]
fn the_handshake_has_the_commands_that_the_credentials_need() {
    for (variables, credentials) in [
        (&[][..], &[][..]),
        (&[("REDIS_PASSWORD", "p w")], &["AUTH p w"]),
        (&[("REDIS_USERNAME", "u"), ("REDIS_PASSWORD", "p")], &["AUTH u p"]),
        (&[("REDIS_DB", "9")], &["SELECT 9"]),
        (&[("REDIS_PASSWORD", "p"), ("REDIS_DB", "9")], &["AUTH p", "SELECT 9"]),
    ] {
        let handshake: String = credentials.iter().map(|line| format!("> {line}\n< +OK\\r\\n\n")).collect();
        let script = Script::play(&format!("{handshake}> INCR visits\n< :1\\r\\n"));
        let with = |settings: Settings, variable: &(&str, &str)| settings.with(variable.0, variable.1);
        let notch = variables.iter().fold(settings(&script), with).start();
        assert_eq!(notch.visit(), 1);
        script.done();
    }
}

#[test]
fn an_error_reply_is_a_rejection_and_the_next_visit_counts() {
    // The text after the first word is internal to Redis; this text must not be shown to clients.
    for error in [
        "LOADING Redis is loading the zebra in memory",
        "MASTERDOWN Link with zebra is down and replica-serve-stale-data is set to 'no'.",
        "BUSY Redis is busy running a zebra.",
        "CLUSTERDOWN Hash zebra not served",
        "TRYAGAIN Multiple keys request during zebra of slot",
        "MOVED 866 zebra.example:6379",
        "ASK 866 zebra.example:6379",
        "NOAUTH zebra required.",
        "NOPERM zebra has no permissions to run the 'incr' command",
        "WRONGTYPE Operation against a zebra",
        "READONLY You can't write against a zebra.",
        "OOM command not allowed when used memory > 'zebra'.",
        "MISCONF Redis is configured to save zebra snapshots",
        "NOREPLICAS Not enough good zebra to write.",
        "UNKILLABLE zebra",
        "EXECABORT zebra",
        "ERR zebra",
        "ERR increment or decrement would zebra",
        "zebra",
        "<script>alert('zebra')</script>",
        "",
    ] {
        for form in ["text/plain", "application/json", "text/html"] {
            let script = Script::play(&format!("> INCR visits\n< -{error}\\r\\n\n> INCR visits\n< :7\\r\\n"));
            let notch = notch(&script);
            let response = notch.request("GET", "/count", &[("Accept", form)]);
            response.assert_not_counted();
            let shown = format!("{response:?}{}", response.text());
            // The page has one script of its own.
            assert_eq!(
                response.text().matches("<script").count(),
                usize::from(form == "text/html"),
                "{error}: {response:?}"
            );
            assert!(!shown.contains("zebra"), "{error}: {response:?}");
            assert_eq!(notch.visit_when_it_counts(), 7, "{error}");
            script.done();
        }
    }
}

#[test]
fn an_error_reply_to_a_read_is_a_rejection() {
    for error in ["LOADING zebra", "WRONGTYPE zebra", "NOAUTH zebra", "MASTERDOWN zebra", "ERR zebra"] {
        for (path, status) in [("/total", 503), ("/", 200), ("/count", 503)] {
            let command = if path == "/count" { "INCR visits" } else { "GET visits" };
            let script = Script::play(&format!("> {command}\n< -{error}\\r\\n"));
            let notch = notch(&script);
            let response = notch.get(path);
            assert_eq!(response.status, status, "{path}: {response:?}");
            assert!(!response.text().contains("zebra"), "{response:?}");
            script.done();
        }
    }
}

#[test]
fn an_incomplete_reply_is_in_doubt_and_the_next_visit_is_right() {
    for reply in [":12345\r\n", "-LOADING wait\r\n"] {
        for length in 0..reply.len() {
            let message = reply[..length].replace('\r', "\\r").replace('\n', "\\n");
            let script = Script::play(&format!("> INCR visits\n< {message}\nclose\n> INCR visits\n< :12346\\r\\n"));
            let notch = notch(&script);
            notch.get("/count").assert_in_doubt();
            assert_eq!(notch.visit_when_it_counts(), 12346, "after {message}");
            assert_apart(&script, "INCR visits");
            script.done();
        }
    }
}

#[test]
fn with_receipts_a_batch_with_an_incomplete_reply_is_sent_again() {
    let reply = "$2\r\n41\r\n";
    for length in 0..reply.len() {
        let message = reply[..length].replace('\r', "\\r").replace('\n', "\\n");
        let script = Script::play_with_receipts(&format!(
            "> ONCE visits 1 #1\n< {message}\nclose\n> ONCE visits 1 #1\nclose\n> ONCE visits 1 #1\n< $2\\r\\n41\\r\\n\n\
             > ONCE visits 1 #2\n< $2\\r\\n42\\r\\n"
        ));
        let notch = notch(&script);
        assert_eq!(notch.visit(), 42, "after {message}");
        assert_eq!(notch.visit(), 43, "after {message}");
        assert_apart(&script, "ONCE visits 1 #1");
        script.done();
    }
}

#[test]
fn with_receipts_a_batch_with_an_invalid_reply_is_sent_again() {
    for message in [":42\\r\\n", "+OK\\r\\n", "$-1\\r\\n", "*1\\r\\n:7\\r\\n", "HTTP/1.1 200 OK\\r\\n", "\\0"] {
        let script = Script::play_with_receipts(&format!(
            "> ONCE visits 1 #1\n< {message}\n> ONCE visits 1 #1\n< $2\\r\\n41\\r\\n"
        ));
        assert_eq!(notch(&script).visit(), 42, "after {message}");
        assert_apart(&script, "ONCE visits 1 #1");
        script.done();
    }
}

#[test]
fn a_gathering_batch_follows_the_one_that_is_sent_again() {
    let script = Script::play_with_receipts(
        "> ONCE visits 1 #1\nhold\nclose\n> ONCE visits 1 #1\n< $1\\r\\n0\\r\\n\n> ONCE visits 2 #2\n< $1\\r\\n1\\r\\n",
    );
    let notch = notch(&script);
    let mut clients: Vec<_> = (0..3).map(|_| notch.client()).collect();
    for client in &mut clients {
        // After the first response, the second command is in flight.
        client.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\nGET /count HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.response().status, 200);
        script.reach(1);
    }
    script.release();
    let mut numbers: Vec<_> = clients.iter_mut().map(|client| client.response().number()).collect();
    assert_eq!(numbers.remove(0), 1);
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    script.done();
}

#[test]
fn a_lasting_doubt_gets_its_response_in_time() {
    let script = Script::play_with_receipts("> ONCE visits 1 #1\nclose\n> ONCE visits 1 #1\nhold");
    let notch = settings(&script).with("STORE_TIMEOUT", "500ms").start();
    notch.get("/count").assert_in_doubt();
    script.reach(3);
}

#[test]
fn a_visit_in_doubt_does_not_wait_for_later_visits() {
    // No later connection finishes its handshake, so both visits wait.
    let script = Script::play_with_receipts("> GET visits\n< $-1\\r\\n\n> ONCE visits 1 #1\nhold\nclose\nhold");
    let notch = settings(&script).with("STORE_TIMEOUT", "2s").start();
    assert_eq!(notch.total(), 0, "it is connected");
    let (mut first, mut second) = (notch.client(), notch.client());
    first.send_request("GET", "/count", &[]);
    script.reach(3);
    thread::sleep(Duration::from_millis(800));
    second.send_request("GET", "/count", &[]);
    thread::sleep(Duration::from_millis(50));
    script.release();
    script.reach(5);
    first.response().assert_in_doubt();
    let answered = Instant::now();
    second.response().assert_not_counted();
    let between = answered.elapsed();
    assert!(between > Duration::from_millis(200), "the first had to wait for the second: {between:?}");
}

#[test]
fn a_visit_sent_again_after_others_counted_is_not_logged_as_lost() {
    // Between the first reply, which is lost, and the second, another client has counted.
    let script = Script::play_with_receipts(
        "> ONCE visits 1 #1\ntotal 200\nclose\n> ONCE visits 1 #1\n< $3\\r\\n104\\r\\n\n\
         > ONCE visits 1 #2\n< $3\\r\\n200\\r\\n\n> ONCE visits 1 #3\n< $3\\r\\n150\\r\\n",
    );
    let notch = notch(&script);
    for (number, lost) in [(105, 0), (201, 0), (151, 1)] {
        assert_eq!(notch.visit(), number);
        let page = notch.get("/metrics");
        let line = format!("\nnotch_store_regressions_total {lost}\n");
        assert!(page.text().contains(&line), "after {number}: {:#?}", notch.log());
    }
    script.done();
}

#[test]
fn each_silent_connection_is_replaced_while_a_visit_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let port = listener.local_addr().expect("a bound listener has an address").port();
    let notch = Settings::redis(port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER).start();
    let mut client = notch.client();
    client.send_request("GET", "/count", &[]);
    let connect = || listener.accept().expect("notch connects");
    let first = connect();
    let begun = Instant::now();
    // One second, then two seconds.
    let others = [connect(), connect()];
    assert!(begun.elapsed() < Duration::from_millis(4300), "{:?}", begun.elapsed());
    drop((first, others));
}

#[test]
fn a_batch_without_waiters_is_not_sent_again() {
    let script = Script::play_with_receipts(
        "> ONCE visits 1 #1\nhold\nclose\n> ONCE visits 1 #1\nhold\nclose\n> ONCE visits 1 #2\n< $1\\r\\n1\\r\\n",
    );
    let notch = settings(&script).with("STORE_TIMEOUT", "3s").start();
    let mut client = notch.client();
    client.send_request("GET", "/count", &[]);
    script.reach(1);
    script.release();
    script.reach(4);
    client.response().assert_in_doubt();
    script.release();
    assert_eq!(notch.visit_when_it_counts(), 2);
    script.done();
}

#[test]
fn an_incomplete_read_is_not_in_doubt() {
    for message in ["", "$", "$2\\r\\n4"] {
        let script = Script::play(&format!("> GET visits\n< {message}\nclose\n> GET visits\n< $2\\r\\n42\\r\\n"));
        let notch = notch(&script);
        // A read can be repeated safely, by notch or by the client.
        let total = wait_until("the total is returned", || {
            let response = notch.get("/total");
            assert!(matches!(response.status, 200 | 503), "{response:?}");
            (response.status == 200).then(|| response.number())
        });
        assert_eq!(total, 42);
        script.done();
    }
}

#[test]
fn an_invalid_reply_is_in_doubt_and_the_next_visit_is_right() {
    let deep = "*1\\r\\n".repeat(5000);
    let long = format!("+{}", "x".repeat(5_000_000));
    let endless_line = format!("-{}", "x".repeat(5_000_000));
    let many = format!("*2147483647\\r\\n{}", ":1\\r\\n".repeat(500_000));
    let thousand = format!("*1000\\r\\n{}", ":1\\r\\n".repeat(1000));
    for message in [
        "$1\\r\\n7\\r\\n",
        "+7\\r\\n",
        "+OK\\r\\n",
        "+PONG\\r\\n",
        "$-1\\r\\n",
        "*-1\\r\\n",
        "*0\\r\\n",
        "*1\\r\\n:7\\r\\n",
        "_\\r\\n",
        "#t\\r\\n",
        ",7\\r\\n",
        "(7\\r\\n",
        "%1\\r\\n:7\\r\\n:7\\r\\n",
        "7\\r\\n",
        "\\r\\n",
        " :7\\r\\n",
        ": 7\\r\\n",
        ":7 \\r\\n",
        ":+7\\r\\n",
        ":07\\r\\n",
        ":-0\\r\\n",
        ":\\r\\n",
        ":7.0\\r\\n",
        ":0x7\\r\\n",
        ":7\\n",
        ":7\\rx",
        ":9223372036854775808\\r\\n",
        ":99999999999999999999999999999999",
        "$536870913\\r\\n",
        "$99999999999999999999\\r\\n",
        "$-2\\r\\n",
        "*-2\\r\\n",
        "HTTP/1.1 400 Bad Request\\r\\n\\r\\n",
        "SSH-2.0-OpenSSH_9.2p1 Debian-2\\r\\n",
        "\\x15\\x03\\x01\\x00\\x02\\x02\\x46",
        "\\0",
        &deep,
        &long,
        &endless_line,
        &many,
        &thousand,
    ] {
        let script = Script::play(&format!("> INCR visits\n< {message}\n> INCR visits\n< :42\\r\\n"));
        let notch = notch(&script);
        notch.get("/count").assert_in_doubt();
        assert_eq!(notch.visit_when_it_counts(), 42, "after {message:.40}");
        assert_apart(&script, "INCR visits");
        script.done();
    }
}

#[test]
fn an_invalid_total_is_not_returned() {
    for message in [":7\\r\\n", "+7\\r\\n", "*1\\r\\n$1\\r\\n7\\r\\n", "$1\\r\\n7", "$1\\r\\n7\\rx", "$2\\r\\n7\\r\\n$"]
    {
        let script = Script::play(&format!("> GET visits\n< {message}\nclose\n> GET visits\n< $2\\r\\n42\\r\\n"));
        let notch = notch(&script);
        let total = wait_until("the total is returned", || {
            let response = notch.get("/total");
            assert!(matches!(response.status, 200 | 503), "{response:?}");
            (response.status == 200).then(|| response.number())
        });
        assert_eq!(total, 42, "after {message}");
        script.done();
    }
}

#[test]
fn totals_of_all_sizes() {
    for (message, total) in [
        ("$-1\\r\\n", 0),
        ("$1\\r\\n0\\r\\n", 0),
        ("$2\\r\\n-3\\r\\n", -3),
        ("$19\\r\\n9223372036854775807\\r\\n", i64::MAX),
        ("$20\\r\\n-9223372036854775808\\r\\n", i64::MIN),
    ] {
        let script = Script::play(&format!("> GET visits\n< {message}"));
        let notch = notch(&script);
        assert_eq!(notch.total(), total);
        script.done();
    }
}

#[test]
fn a_reply_in_pieces_is_a_reply() {
    let pieces: String = ":12345\r\n".chars().map(|c| format!("< {}\nhold\n", c.escape_default())).collect();
    let script = Script::play(&format!("> INCR visits\n{pieces}> INCR visits\n< :12346\\r\\n"));
    let notch = notch(&script);
    thread::scope(|scope| {
        let visitor = scope.spawn(|| notch.visit());
        for piece in 1..=8 {
            script.reach(2 * piece);
            // A request on another connection gives notch time to read this part alone.
            notch.get("/livez");
            script.release();
        }
        assert_eq!(visitor.join().expect("the visitor does not panic"), 12345);
    });
    assert_eq!(notch.visit(), 12346);
    script.done();
}

#[test]
fn a_late_reply_reaches_no_client() {
    // Late, but before the next visitor's own reply; and later still.
    for (before, after) in [("<1 :41\\r\\n", ""), ("", "<1 :41\\r\\n")] {
        let text =
            format!("> INCR visits\nhold\n{before}\n> INCR visits\n{after}\n< :42\\r\\n\n> INCR visits\n< :43\\r\\n");
        let script = Script::play(&text);
        let notch = settings(&script).with("STORE_TIMEOUT", "200ms").start();
        notch.get("/count").assert_in_doubt();
        // The connection is replaced at about the same time, and the reply must be later.
        wait_until("notch connects again", || script.received().iter().any(|(at, _)| *at == 2).then_some(()));
        script.release();
        assert_eq!(notch.visit_when_it_counts(), 42);
        assert_eq!(notch.visit_when_it_counts(), 43);
        assert_apart(&script, "INCR visits");
        script.done();
    }
}

#[test]
fn the_number_of_a_client_that_left_is_not_given_again() {
    let script = Script::play("> INCR visits\nhold\n< :41\\r\\n\n> INCR visits\n< :42\\r\\n");
    let notch = notch(&script);
    let mut leaving = notch.client();
    leaving.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    script.reach(1);
    drop(leaving);
    let mut next = notch.client();
    next.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    // A request on another connection gives notch time to notice both events.
    (0..5).for_each(|_| assert_eq!(notch.get("/livez").status, 200));
    script.release();
    assert_eq!(next.response().number(), 42);
    script.done();
}

#[test]
fn one_reply_too_many_ends_the_connection() {
    for twice in ["< :5\\r\\n:6\\r\\n", "< :5\\r\\n:", "< :5\\r\\n-ERR what\\r\\n", "< :5\\r\\n\\r\\n"] {
        let script = Script::play(&format!("> INCR visits\n{twice}\n> INCR visits\n< :100\\r\\n"));
        let notch = notch(&script);
        let first = notch.get("/count");
        if first.status == 200 {
            assert_eq!(first.number(), 5);
        } else {
            first.assert_in_doubt();
        }
        assert_eq!(notch.visit_when_it_counts(), 100, "after {twice}");
        assert_apart(&script, "INCR visits");
        script.done();
    }
}

#[test]
fn an_unexpected_reply_ends_the_connection() {
    let script = Script::play("> INCR visits\n< :5\\r\\n\nhold\n< :6\\r\\n\n> INCR visits\n< :100\\r\\n");
    let notch = notch(&script);
    assert_eq!(notch.visit(), 5);
    script.release();
    script.reach(4);
    assert_eq!(notch.visit_when_it_counts(), 100);
    assert_apart(&script, "INCR visits");
    script.done();
}

#[test]
fn a_connection_closed_while_idle_costs_no_visit() {
    // notch may notice the end before or after it sends: with a receipt, neither loses a visit.
    let script = Script::play_with_receipts(
        "> ONCE visits 1 #1\n< $1\\r\\n0\\r\\n\nclose\n> ONCE visits 1 floor 1 #2\n< $1\\r\\n1\\r\\n",
    );
    let notch = notch(&script);
    assert_eq!(notch.visit(), 1);
    script.reach(3);
    assert_eq!(notch.visit(), 2);
    script.done();
}

#[test]
fn a_visit_with_a_failed_handshake_is_not_counted() {
    for message in
        ["-WRONGPASS zebra\\r\\n", "-ERR zebra\\r\\n", ":1\\r\\n", "+ZEBRA\\r\\n", "HTTP/1.1 400 zebra\\r\\n\\r\\n"]
    {
        let again = "> AUTH hunter2\n< +OK\\r\\n\n> INCR visits\n< :9\\r\\n";
        let script = Script::play(&format!("> AUTH hunter2\n< {message}\nclose\n{again}"));
        let notch = settings(&script).with("REDIS_PASSWORD", "hunter2").start();
        let number = wait_until("a visit is counted", || {
            let response = notch.get("/count");
            if response.status == 200 {
                return Some(response.number());
            }
            response.assert_not_counted();
            assert!(!response.text().contains("zebra"), "{response:?}");
            None
        });
        assert_eq!(number, 9);
        script.done();
    }
}

#[test]
fn the_port_of_redis_is_closed() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let notch = Settings::redis(port.expect("a port that was free").port()).with("STORE_TIMEOUT", "300ms").start();
    for _ in 0..3 {
        let json = &[("Accept", "application/json")][..];
        let requests =
            [("GET", "/count", &[][..]), ("GET", "/total", &[]), ("GET", "/readyz", &[]), ("GET", "/", json)];
        let responses = notch.request_at_once(&requests);
        let [count, total, ready, welcome] = &responses[..] else { panic!("as many answers as requests") };
        count.assert_not_counted();
        assert_eq!((total.status, ready.status, welcome.status), (503, 503, 200), "{responses:?}");
        assert_eq!(notch.get("/livez").status, 200);
        assert!(!welcome.json()["count"].is_number(), "no invented number: {welcome:?}");
    }
}

#[test]
fn a_silent_connection_to_redis_is_replaced() {
    let script = Script::play("> AUTH hunter2\nhold");
    let notch = settings(&script).with("REDIS_PASSWORD", "hunter2").with("STORE_TIMEOUT", "200ms").start();
    // Only the handshake was sent, so nothing was counted.
    notch.get("/count").assert_not_counted();
    assert_eq!(notch.get("/readyz").status, 503);
    let is_allowed = |line: &str| {
        matches!(line, "AUTH hunter2" | "INFO memory" | "GET visits" | "ROLE" | "PING")
            || line.starts_with("SCRIPT LOAD ")
    };
    assert!(script.received().iter().all(|(_, line)| is_allowed(line)), "{:?}", script.received());
}

/// Asserts that the first two `command`s were received on different connections.
fn assert_apart(script: &Script, command: &str) {
    let connections: Vec<_> =
        script.received().into_iter().filter(|(_, line)| line == command).map(|(at, _)| at).collect();
    assert!(connections.len() >= 2 && connections[0] != connections[1], "{:?}", script.received());
}
