//! `notch healthcheck`, for images that hold nothing else that could ask.

use std::net::TcpListener;

use crate::rig::{Redis, Script, Settings, until};

#[test]
fn asks_the_server_of_the_same_settings() {
    let notch = Settings::ledger().start();
    let port = notch.address.port().to_string();
    let everywhere = format!("0.0.0.0:{port}");
    let here = notch.address.to_string();
    for (name, value) in [("LISTEN", &here), ("LISTEN", &everywhere), ("PORT", &port)] {
        let asked = Settings::ledger().without("LISTEN").with(name, value).run(&["healthcheck"]);
        assert_eq!(asked.code, Some(0), "{name}={value}: {asked:?}");
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn unhealthy_is_one_line_and_exit_code_1() {
    let mut redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).start();
    let ask = || Settings::ledger().with("LISTEN", &notch.address.to_string()).run(&["healthcheck"]);
    assert_eq!(ask().code, Some(0));
    redis.kill();
    let asked = ask();
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert_eq!((asked.stdout + &asked.stderr).lines().count(), 1);
    redis.restart();
    until("healthy again", || (ask().code == Some(0)).then_some(()));
}

#[test]
fn draining_is_unhealthy() {
    let notch = Settings::ledger().with("DRAIN_DELAY", crate::rig::NEVER).start();
    notch.signal("TERM");
    until("unhealthy", || {
        let asked = Settings::ledger().with("LISTEN", &notch.address.to_string()).run(&["healthcheck"]);
        (asked.code == Some(1)).then_some(())
    });
}

#[test]
fn nobody_there_is_unhealthy() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let asked = Settings::ledger().with("LISTEN", &free.to_string()).run(&["healthcheck"]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert_eq!((asked.stdout + &asked.stderr).lines().count(), 1);
}

#[test]
fn somebody_else_there_is_unhealthy() {
    // The script takes connections, and what it hears is no command of Redis: it closes without a word.
    let script = Script::play("> NEVER");
    let asked = Settings::ledger().with("LISTEN", &format!("127.0.0.1:{}", script.port)).run(&["healthcheck"]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
}

#[test]
fn a_bad_setting_is_a_bad_setting() {
    let asked = Settings::ledger().with("LISTEN", "nonsense").run(&["healthcheck"]);
    assert_eq!(asked.code, Some(2), "{asked:?}");
    assert!(asked.stderr.contains("LISTEN"), "{asked:?}");
}

#[test]
fn leaves_no_ledger_behind() {
    let settings = Settings::ledger().with("LISTEN", "127.0.0.1:1");
    settings.run(&["healthcheck"]);
    assert!(!settings.ledger_file().exists());
}
