//! The environment and the command line: accepted and rejected values, and the messages.

use std::fs;
use std::net::TcpListener;

use crate::support::{Client, Redis, Settings};

/// All settings, as the README lists them.
const NAMES: [&str; 34] = [
    "LISTEN",
    "PORT",
    "REDIS_URL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_USERNAME",
    "REDIS_PASSWORD",
    "REDIS_PASSWORD_FILE",
    "REDIS_DB",
    "REDIS_SENTINELS",
    "REDIS_MASTER_NAME",
    "REDIS_SENTINEL_USERNAME",
    "REDIS_SENTINEL_PASSWORD",
    "REDIS_SENTINEL_PASSWORD_FILE",
    "REDIS_ACKS",
    "LEDGER",
    "COUNTER_KEY",
    "COUNTERS",
    "MAX_COUNTERS",
    "CORS_ORIGINS",
    "FSYNC",
    "WORKERS",
    "MAX_CONNECTIONS",
    "MEMORY_LIMIT",
    "STORE_TIMEOUT",
    "REQUEST_TIMEOUT",
    "IDLE_TIMEOUT",
    "WRITE_TIMEOUT",
    "DRAIN_DELAY",
    "DRAIN_TIMEOUT",
    "WELCOME",
    "PAGE_REFRESH",
    "LOG_LEVEL",
    "LOG_FORMAT",
];

const DURATIONS: [&str; 6] =
    ["STORE_TIMEOUT", "REQUEST_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT", "DRAIN_DELAY", "DRAIN_TIMEOUT"];

#[test]
fn help_lists_every_setting() {
    for argument in ["--help", "-h"] {
        let help = Settings::ledger().run(&[argument]);
        assert_eq!(help.code, Some(0), "{help:?}");
        assert_eq!(help.stderr, "");
        for name in NAMES {
            let listed = help.stdout.split(|c: char| !c.is_ascii_uppercase() && c != '_').any(|word| word == name);
            assert!(listed, "{name} in:\n{}", help.stdout);
        }
        assert!(help.stdout.contains("healthcheck") && help.stdout.contains("--version"), "{}", help.stdout);
        let fits = help.stdout.lines().count() <= 48 && help.stdout.lines().all(|line| line.len() <= 80);
        assert!(fits, "more than a screen:\n{}", help.stdout);
    }
}

#[test]
fn version_is_printed() {
    for argument in ["--version", "-V"] {
        let version = Settings::ledger().run(&[argument]);
        assert_eq!(version.code, Some(0), "{version:?}");
        assert_eq!(version.stdout, format!("notch {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn help_and_version_need_no_valid_settings() {
    for argument in ["--help", "--version"] {
        let message = Settings::ledger().with("LISTEN", "nonsense").with("FSYNC", "nonsense").run(&[argument]);
        assert_eq!(message.code, Some(0), "{message:?}");
    }
}

#[test]
fn an_unknown_argument_is_refused() {
    for arguments in [&["--verbose"][..], &["serve"], &["-x"], &[""], &["healthcheck", "now"], &["--help", "me"]] {
        let settings = Settings::ledger();
        let refused = settings.run(arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(!settings.ledger_file().exists(), "{arguments:?} is not served");
    }
}

#[test]
fn an_invalid_setting_is_one_line_with_its_name_and_an_example() {
    let mut table: Vec<(&str, &str)> = vec![
        ("LISTEN", "nonsense"),
        ("LISTEN", "127.0.0.1:65536"),
        ("LISTEN", "127.0.0.1:"),
        ("LISTEN", ":x"),
        ("LISTEN", "256.0.0.1:80"),
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h:65536"),
        ("REDIS_URL", "redis://h/name"),
        ("REDIS_URL", "redis://h/1/2"),
        ("REDIS_URL", "redis://h/-1"),
        ("REDIS_URL", "redis://user:%zz@h"),
        ("REDIS_URL", "redis://user:%4@h"),
        ("REDIS_URL", "redis://user:p@:6379"),
        ("REDIS_PORT", "redis"),
        ("REDIS_PORT", "65536"),
        ("REDIS_PORT", "0"),
        ("REDIS_DB", "first"),
        ("REDIS_DB", "-1"),
        ("REDIS_DB", "1.5"),
        ("REDIS_PASSWORD_FILE", "missing/password"),
        ("REDIS_PASSWORD_FILE", "."),
        ("COUNTER_KEY", "two words"),
        ("COUNTER_KEY", "with\"quote"),
        ("COUNTERS", "two words"),
        ("COUNTERS", "a,,b"),
        ("COUNTERS", "a/b"),
        ("MAX_COUNTERS", "0"),
        ("MAX_COUNTERS", "1000001"),
        ("MAX_COUNTERS", "any"),
        ("CORS_ORIGINS", "https://example.org/"),
        ("CORS_ORIGINS", "https://example.org,*"),
        ("CORS_ORIGINS", "https://a.example,,https://b.example"),
        ("CORS_ORIGINS", "https://Example.org"),
        ("FSYNC", "sometimes"),
        ("FSYNC", "yes"),
        ("WORKERS", "0"),
        ("WORKERS", "-1"),
        ("WORKERS", "many"),
        ("WORKERS", "1.5"),
        ("MAX_CONNECTIONS", "0"),
        ("MAX_CONNECTIONS", "many"),
        ("MAX_CONNECTIONS", "99999999999999999999"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ];
    for name in DURATIONS {
        let bad = ["soon", "5", "5 s", "s", "-1s", "+1s", "1h", "1.5s", "5S", "99999999999999999999s", "1m30s"];
        table.extend(bad.map(|value| (name, value)));
    }
    for name in ["STORE_TIMEOUT", "REQUEST_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT"] {
        table.push((name, "0s"));
    }
    for (name, value) in table {
        let settings = match name {
            "REDIS_PORT" | "REDIS_DB" | "REDIS_PASSWORD_FILE" => Settings::ledger().with("REDIS_HOST", "127.0.0.1"),
            "PORT" => Settings::ledger().without("LISTEN"),
            _ => Settings::ledger(),
        };
        let refused = settings.with(name, value).run(&[]);
        assert_eq!(refused.code, Some(2), "{name}={value}: {refused:?}");
        assert_eq!(refused.stdout, "", "{name}={value}");
        assert_eq!(refused.stderr.lines().count(), 1, "{name}={value}: {refused:?}");
        assert!(refused.stderr.contains(name), "{name}={value}: {refused:?}");
        // The example is a valid line, apart from the rejected value.
        let example = format!("{name}=");
        assert!(refused.stderr.contains(&example), "{name}={value} has no example: {refused:?}");
        assert!(!settings_touch_anything(&refused.stderr), "{refused:?}");
    }
}

/// Returns whether a message contains a panic or a backtrace.
fn settings_touch_anything(text: &str) -> bool {
    text.contains("panicked") || text.contains("RUST_BACKTRACE")
}

#[test]
fn the_error_of_an_invalid_url_does_not_contain_its_password() {
    for url in
        ["redis://user:s3cret@h:99999", "redis://:s3cret@h/name", "redis://user:s3cret%zz@h", "http://u:s3cret@h"]
    {
        let refused = Settings::ledger().with("REDIS_URL", url).run(&[]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("REDIS_URL"), "{refused:?}");
        assert!(!refused.stderr.contains("s3cret"), "{refused:?}");
    }
}

#[test]
fn an_empty_setting_counts_as_unset() {
    let mut settings = Settings::ledger();
    for name in NAMES.iter().filter(|name| **name != "LISTEN") {
        settings = settings.with(name, "");
    }
    let notch = settings.start();
    assert_eq!(notch.visit(), 1);
    assert!(settings.ledger_file().exists());
}

#[test]
fn durations_have_units() {
    for name in DURATIONS {
        for value in ["1ms", "500ms", "5s", "2m"] {
            // Only the start is tested here, not the effect of the duration.
            Settings::ledger().with(name, value).start();
        }
    }
    for name in ["DRAIN_DELAY", "DRAIN_TIMEOUT", "PAGE_REFRESH"] {
        Settings::ledger().with(name, "0s").start().stop();
    }
}

#[test]
fn a_port_alone_is_enough() {
    let redis = Redis::start(&[]);
    // A port that was just released is most likely free.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let notch = Settings::redis(redis.port).without("LISTEN").with("PORT", &free.port().to_string()).start();
    assert_eq!(notch.address.tcp().port(), free.port());
    assert_eq!(Client::connect(free).get("/count").number(), 1);
}

#[test]
fn settings_that_exclude_each_other_are_rejected() {
    const URL: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:1");
    const WITH_PASSWORD: (&str, &str) = ("REDIS_URL", "redis://:s3cret@127.0.0.1:1");
    const HOST: (&str, &str) = ("REDIS_HOST", "127.0.0.1");
    for (one, other) in [
        (URL, HOST),
        (URL, ("REDIS_PORT", "1")),
        (URL, ("REDIS_PORT", "nonsense")),
        (URL, ("REDIS_DB", "0")),
        (URL, ("REDIS_DB", "nonsense")),
        (URL, ("REDIS_USERNAME", "u")),
        (("REDIS_URL", "redis://u:s3cret@127.0.0.1:1"), ("REDIS_USERNAME", "u")),
        (WITH_PASSWORD, ("REDIS_PASSWORD", "s3cret")),
        (WITH_PASSWORD, ("REDIS_PASSWORD_FILE", "secret")),
        (("REDIS_PASSWORD", "s3cret"), ("REDIS_PASSWORD_FILE", "secret")),
        (URL, ("FSYNC", "never")),
        (HOST, ("FSYNC", "always")),
        (HOST, ("REDIS_HOTS", "127.0.0.1")),
        (("LISTEN", "127.0.0.1:0"), ("PORT", "8080")),
    ] {
        let settings = Settings::ledger().with(one.0, one.1).with(other.0, other.1);
        fs::write(settings.folder().join("secret"), "s3cret").expect("a secret written for the test");
        let settings = if one.0 == "REDIS_PASSWORD" { settings.with(HOST.0, HOST.1) } else { settings };
        let refused = settings.run(&[]);
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(2), 1), "{one:?} {other:?}: {refused:?}");
        for name in [one.0, other.0] {
            assert!(refused.stderr.contains(name), "{name} of {one:?} {other:?}: {refused:?}");
        }
        assert!(!refused.stderr.contains("s3cret"), "{refused:?}");
        assert!(!settings.ledger_file().exists(), "{one:?} {other:?}");
    }
}

#[test]
fn settings_of_redis_need_a_host() {
    for (name, value, missing) in [
        ("REDIS_PORT", "6379", "REDIS_HOST"),
        ("REDIS_DB", "0", "REDIS_HOST"),
        ("REDIS_USERNAME", "u", "REDIS_HOST"),
        ("REDIS_PASSWORD", "s3cret", "REDIS_HOST"),
        ("REDIS_PASSWORD_FILE", "secret", "REDIS_HOST"),
        ("REDIS_MASTER_NAME", "mymaster", "REDIS_SENTINELS"),
        ("REDIS_SENTINEL_USERNAME", "u", "REDIS_SENTINELS"),
        ("REDIS_SENTINEL_PASSWORD", "s3cret", "REDIS_SENTINELS"),
        ("REDIS_SENTINEL_PASSWORD_FILE", "secret", "REDIS_SENTINELS"),
        ("REDIS_HOTS", "redis", "REDIS_HOST"),
        ("REDIS_URI", "redis://redis", "REDIS_URL"),
    ] {
        for ledger in ["", "other.ledger"] {
            let settings = Settings::ledger().with(name, value).with("LEDGER", ledger).with("REDIS_HOST", "");
            let refused = settings.run(&[]);
            assert_eq!((refused.code, refused.stderr.lines().count()), (Some(2), 1), "{name}: {refused:?}");
            assert!(refused.stderr.contains(&format!("{name}: ")), "{name}: {refused:?}");
            assert!(refused.stderr.contains(missing), "{name}: {refused:?}");
            assert!(!refused.stderr.contains("s3cret"), "{refused:?}");
            assert!(!settings.ledger_file().exists(), "{name}: nothing is counted into a file unseen");
        }
    }
}

#[test]
fn variables_of_a_kubernetes_service_called_redis_are_ignored() {
    let redis = Redis::start(&[]);
    let port = redis.port.to_string();
    let address = format!("tcp://127.0.0.1:{port}");
    let of_the_service = |settings: Settings| {
        settings
            .with("REDIS_SERVICE_HOST", "127.0.0.1")
            .with("REDIS_SERVICE_PORT", &port)
            .with("REDIS_SERVICE_PORT_CLIENT", &port)
            .with("REDIS_PORT", &address)
            .with(&format!("REDIS_PORT_{port}_TCP"), &address)
            .with(&format!("REDIS_PORT_{port}_TCP_PROTO"), "tcp")
            .with(&format!("REDIS_PORT_{port}_TCP_PORT"), &port)
            .with(&format!("REDIS_PORT_{port}_TCP_ADDR"), "127.0.0.1")
            .with("REDIS_REPLICA_SERVICE_HOST", "10.0.0.2")
            .with("REDIS_REPLICA_PORT", "tcp://10.0.0.2:6379")
    };
    for settings in [
        Settings::ledger().with("REDIS_HOST", "127.0.0.1"),
        Settings::ledger().with("REDIS_URL", &format!("redis://127.0.0.1:{port}")),
    ] {
        of_the_service(settings).start().visit();
    }
    assert_eq!(redis.query("GET visits"), "2");
    let ledger = of_the_service(Settings::ledger());
    assert_eq!(ledger.start().visit(), 1);
    assert!(ledger.ledger_file().exists());
}

#[test]
fn the_start_line_names_the_store() {
    let settings = Settings::ledger();
    let ledger = settings.start();
    // With symbolic links resolved.
    let folder = fs::canonicalize(settings.folder()).expect("a folder that is there");
    let assert_logged = |log: Vec<String>, text: &str| assert!(log[0].contains(text), "{text}: {log:#?}");
    assert_logged(ledger.log(), &format!("(ledger {}/notch.ledger", folder.display()));
    let absolute = folder.join("other.ledger");
    assert_logged(
        Settings::ledger().with("LEDGER", &absolute.to_string_lossy()).start().log(),
        &absolute.to_string_lossy(),
    );
    // An image sets the path of its ledger, which is used if no Redis is set.
    let redis = Settings::redis(1).with("LEDGER", "/data/notch.ledger").with("REDIS_DB", "3").start();
    assert_logged(redis.log(), "(redis 127.0.0.1:1 db 3");
}

#[test]
fn listens_on_ipv6_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: this machine has no IPv6");
        return;
    }
    let notch = Settings::ledger().with("LISTEN", "[::1]:0").start();
    assert!(notch.address.tcp().is_ipv6());
    assert_eq!(notch.visit(), 1);
    let ended = Settings::ledger().with("LISTEN", &notch.address.to_string()).run(&["healthcheck"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound listener has an address").to_string();
    let refused = Settings::ledger().with("LISTEN", &address).run(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(refused.stderr.contains(&address), "{refused:?}");
}

#[test]
fn one_worker_or_many_count_alike() {
    for workers in ["1", "2", "7"] {
        let notch = Settings::ledger().with("WORKERS", workers).with("FSYNC", "never").start();
        let mut clients: Vec<_> = (0..20).map(|_| notch.client()).collect();
        for number in 1..=60 {
            assert_eq!(clients[number % 20].get("/count").number(), number as i64, "WORKERS={workers}");
        }
    }
}

#[test]
fn the_welcome_is_a_setting_of_any_text() {
    for welcome in ["Hello", "Grüß Gott \u{1f44b}", "a \"quote\" and a \\", "<b>&amp;</b>", "two\nlines", "tab\there"]
    {
        let notch = Settings::ledger().with("WELCOME", welcome).start();
        let text = notch.get("/");
        let shown = text.text().replace(['\n', '\t'], " ");
        assert!(shown.contains(&welcome.replace(['\n', '\t'], " ")), "{text:?}");
        // The parser checks that the text is escaped.
        let json = notch.request("GET", "/", &[("Accept", "application/json")]);
        json.json();
    }
}

/// `tests/persistence/secrets.rs` has the other rejected passwords, and compares with `notch-redis`.
#[test]
fn a_password_file_is_read_without_its_line_end() {
    let redis = Redis::start(&["--requirepass", "two words"]);
    let settings = Settings::redis(redis.port).with("REDIS_PASSWORD_FILE", "secret");
    let write_secret =
        |text: &str| fs::write(settings.folder().join("secret"), text).expect("a secret written for the test");
    for (text, fits) in [("two words", true), ("two words\n", true), ("two words\r\n", true), ("two", false)] {
        write_secret(text);
        assert_eq!(settings.start().get("/readyz").status == 200, fits, "{text:?}");
    }
    for text in ["", "\n", "two words\nmore", "two words ", " two words", "two words\r", "\u{feff}two words"] {
        write_secret(text);
        let refused = settings.run(&[]);
        let message = "notch: REDIS_PASSWORD_FILE: the password ";
        assert!(refused.code == Some(2) && refused.stderr.starts_with(message), "{text:?}: {refused:?}");
        assert!(!refused.stderr.contains("two message"), "{text:?}: {refused:?}");
    }
}

#[test]
fn a_password_that_no_file_may_contain_is_accepted_in_a_url() {
    let redis = Redis::start(&[]);
    for (password, encoded) in [(" blank ", "%20blank%20"), ("\u{feff}mark", "%EF%BB%BFmark"), ("li\ne", "li%0Ae")] {
        let quoted = password.replace('\n', "\\n");
        redis.execute(&format!("ACL SETUSER odd on ~* +@all \">{quoted}\""));
        let url = format!("redis://odd:{encoded}@127.0.0.1:{}", redis.port);
        assert_eq!(Settings::ledger().with("REDIS_URL", &url).start().get("/readyz").status, 200, "{password:?}");
    }
    let refused = Settings::ledger().with("REDIS_URL", "redis://two%20words:s3cret@127.0.0.1").run(&[]);
    let message =
        "notch: REDIS_URL: no user name of Redis contains a space or a control character, for example REDIS_URL=";
    assert!(refused.code == Some(2) && refused.stderr.starts_with(message), "{refused:?}");
}
