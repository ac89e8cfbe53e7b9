//! `notch healthcheck`, for images without any other HTTP client.

use std::net::TcpListener;

use crate::support::{Redis, Script, Settings, wait_until};

/// All three commands, and whether each checks readiness.
const COMMANDS: [(&[&str], bool); 3] =
    [(&["healthcheck"], false), (&["healthcheck", "live"], false), (&["healthcheck", "ready"], true)];

/// Runs each command against a server; `ready` is the expected result of those that check readiness.
fn expect(address: &str, ready: bool) {
    for (command, checks_readiness) in COMMANDS {
        let output = Settings::ledger().with("LISTEN", address).run(command);
        assert_eq!(output.code, Some(i32::from(checks_readiness && !ready)), "{command:?}: {output:?}");
        assert_eq!((output.stdout + &output.stderr).lines().count(), 1, "{command:?}");
    }
}

#[test]
fn healthcheck_uses_the_same_settings() {
    let notch = Settings::ledger().start();
    let port = notch.address.tcp().port().to_string();
    let everywhere = format!("0.0.0.0:{port}");
    let here = notch.address.to_string();
    for (command, _) in COMMANDS {
        for (name, value) in [("LISTEN", &here), ("LISTEN", &everywhere), ("PORT", &port)] {
            let output = Settings::ledger().without("LISTEN").with(name, value).run(command);
            assert_eq!(output.code, Some(0), "{command:?}, {name}={value}: {output:?}");
        }
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn a_notch_without_its_store_is_live_and_not_ready() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    let address = notch.address.to_string();
    expect(&address, true);
    redis.kill();
    expect(&address, false);
    redis.restart();
    let ready = || Settings::ledger().with("LISTEN", &address).run(&["healthcheck", "ready"]);
    wait_until("ready again", || (ready().code == Some(0)).then_some(()));
}

#[test]
fn with_a_store_that_does_not_respond_notch_is_live_and_not_ready() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("STORE_TIMEOUT", "200ms").start();
    let address = notch.address.to_string();
    redis.while_stopped(|| expect(&address, false));
}

#[test]
fn draining_notch_is_live_and_not_ready() {
    let notch = Settings::ledger().with("DRAIN_DELAY", crate::support::NEVER).start();
    let address = notch.address.to_string();
    notch.signal("TERM");
    wait_until("not ready", || {
        let output = Settings::ledger().with("LISTEN", &address).run(&["healthcheck", "ready"]);
        (output.code == Some(1)).then_some(())
    });
    expect(&address, false);
}

#[test]
fn an_unknown_argument_is_shown_with_the_remedy() {
    const HELP: &str = "see notch --help";
    const CHECKS: &str = "expected healthcheck live or ready";
    let cases: [(&[&str], &str, &str); 11] = [
        (&["foo"], "foo", HELP),
        (&[""], "", HELP),
        (&["live"], "live", HELP),
        (&["--port"], "--port", HELP),
        (&["foo", "bar"], "foo", HELP),
        (&["--help", "foo"], "foo", HELP),
        (&["--version", "foo"], "foo", HELP),
        (&["two\nlines"], "two?lines", HELP),
        (&["healthcheck", "readyz"], "readyz", CHECKS),
        (&["healthcheck", "/livez"], "/livez", CHECKS),
        (&["healthcheck", "ready", "foo"], "foo", HELP),
    ];
    for (command, argument, remedy) in cases {
        let refused = Settings::ledger().run(command);
        assert_eq!(refused.code, Some(2), "{command:?}: {refused:?}");
        assert_eq!(
            refused.stderr.trim_end(),
            format!("notch: unknown argument \"{argument}\": {remedy}"),
            "{command:?}"
        );
        assert_eq!(refused.stdout, "", "{command:?}");
    }
}

#[test]
fn a_server_that_does_not_respond_is_unhealthy() {
    // The kernel completes the connection, and nothing ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = silent.local_addr().expect("a bound listener has an address").to_string();
    let output = Settings::ledger().with("LISTEN", &address).run(&["healthcheck"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(&format!("no response from {address}")), "{output:?}");
}

#[test]
fn a_closed_port_is_unhealthy() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let output = Settings::ledger().with("LISTEN", &free.to_string()).run(&["healthcheck"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!((output.stdout + &output.stderr).lines().count(), 1);
}

#[test]
fn another_server_on_the_port_is_unhealthy() {
    // The script accepts connections and receives no Redis command, so it closes them without a reply.
    let script = Script::play("> NEVER");
    let output = Settings::ledger().with("LISTEN", &format!("127.0.0.1:{}", script.port)).run(&["healthcheck"]);
    assert_eq!(output.code, Some(1), "{output:?}");
}

#[test]
fn a_bad_setting_is_a_bad_setting() {
    let output = Settings::ledger().with("LISTEN", "nonsense").run(&["healthcheck"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("LISTEN"), "{output:?}");
}

#[test]
fn counting_in_redis_creates_no_ledger() {
    let settings = Settings::ledger().with("LISTEN", "127.0.0.1:1");
    settings.run(&["healthcheck"]);
    assert!(!settings.ledger_file().exists());
}
