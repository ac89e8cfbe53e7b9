use super::settings::SETTINGS;
use super::values::MAX_ORIGIN;
use super::*;
use crate::redis::{Credentials, DisplayList};

fn read(settings: &[(&str, &str)]) -> Result<Config, String> {
    let variables = settings.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Env::new(variables).config().map(|config| *config).map_err(|invalid| invalid.to_string())
}

fn redis_settings(settings: &[(&str, &str)]) -> (String, u16, Option<String>, Option<String>, u32) {
    match read(settings).expect("valid settings").store {
        Store::Redis(RedisConfig { servers: Servers::Single(address), credentials, db, .. }) => {
            (address.host, address.port, credentials.username, credentials.password, db)
        }
        Store::Redis(_) => panic!("several servers"),
        Store::Ledger(path, _) => panic!("ledger {}", path.display()),
    }
}

#[test]
fn the_default_store_is_a_ledger() {
    let default_path = std::env::current_dir().expect("a current directory").join("notch.ledger");
    for settings in [
        &[][..],
        &[
            ("REDIS_HOST", ""),
            ("REDIS_PASSWORD", ""),
            ("REDIS_HOTS", ""),
            ("LEDGER", ""),
            ("PORT", ""),
            ("STORE_TIMEOUT", ""),
        ],
    ] {
        let config = read(settings).expect("valid settings");
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert!(matches!(config.store, Store::Ledger(path, Fsync::Always) if path == default_path));
        assert_eq!((config.workers, config.limits.connections), (None, 10_000));
        assert_eq!(config.limits.counters, 10_000);
        assert_eq!((config.limits.store.as_millis(), config.limits.drain_delay.as_millis()), (2000, 0));
    }
}

#[test]
fn every_documented_default_is_valid() {
    for Setting { name, default, example, .. } in SETTINGS {
        let value = if ["", "half the processors"].contains(default) { example } else { default };
        // A setting of Redis is not valid alone, and the password file must exist.
        if !name.starts_with("REDIS_") {
            let socket = ("LISTEN", "unix:/s");
            let settings = if *name == "LISTEN_MODE" { &[socket, (name, value)][..] } else { &[(*name, *value)] };
            assert!(read(settings).is_ok(), "{name}={value}");
        }
    }
    for (name, value) in [("LISTEN", "0.0.0.0:8080"), ("PORT", "8080")] {
        assert_eq!(default(name), value);
    }
}

#[test]
fn redis_is_set_by_url_or_by_parts() {
    let some = |text: &str| Some(text.to_owned());
    for (settings, (host, port, username, password, db)) in [
        (&[("REDIS_HOST", "redis")][..], ("redis", 6379, None, None, 0)),
        (&[("REDIS_HOST", "r"), ("REDIS_PORT", "tcp://10.0.0.1:7000")], ("r", 7000, None, None, 0)),
        (
            &[
                ("REDIS_HOST", "r"),
                ("REDIS_PORT", "7"),
                ("REDIS_DB", "3"),
                ("REDIS_USERNAME", "u"),
                ("REDIS_PASSWORD", "p"),
            ],
            ("r", 7, some("u"), some("p"), 3),
        ),
        (&[("REDIS_URL", "redis://r")], ("r", 6379, None, None, 0)),
        (&[("REDIS_URL", "redis://r/"), ("REDIS_PORT", "tcp://10.0.0.1:7000")], ("r", 6379, None, None, 0)),
        (&[("REDIS_URL", "redis://u:@r"), ("REDIS_PASSWORD", "p")], ("r", 6379, some("u"), some("p"), 0)),
        (&[("REDIS_URL", "redis://:p%40%2Fx@r:7/3")], ("r", 7, None, some("p@/x"), 3)),
        (&[("REDIS_URL", "redis://u:p@[::1]:7")], ("::1", 7, some("u"), some("p"), 0)),
    ] {
        assert_eq!(redis_settings(settings), (host.to_owned(), port, username, password, db), "{settings:?}");
    }
}

#[test]
fn several_servers_are_set_by_url_or_by_parts() {
    let sentinels = "redis s1:26379,[::1]:7 mymaster";
    let by_parts = ("REDIS_SENTINELS", "s1, [::1]:7");
    for (settings, servers, credentials, sentinel_credentials, db, acks) in [
        (&[("REDIS_URL", "redis+sentinel://s1,[::1]:7/mymaster")][..], sentinels, "", "", 0, 0),
        (
            &[("REDIS_URL", "redis+sentinel://u:p@s1,[::1]:7/mymaster/3"), ("REDIS_SENTINEL_PASSWORD", "s")],
            sentinels,
            "u p",
            " s",
            3,
            0,
        ),
        (&[by_parts, ("REDIS_MASTER_NAME", "mymaster")], sentinels, "", "", 0, 0),
        (
            &[
                by_parts,
                ("REDIS_MASTER_NAME", "mymaster"),
                ("REDIS_DB", "2"),
                ("REDIS_ACKS", "1"),
                ("REDIS_USERNAME", "u"),
                ("REDIS_PASSWORD", "p"),
                ("REDIS_SENTINEL_USERNAME", "v"),
                ("REDIS_SENTINEL_PASSWORD", "s"),
            ],
            sentinels,
            "u p",
            "v s",
            2,
            1,
        ),
        (&[("REDIS_URL", "redis+cluster://a,b:7"), ("REDIS_ACKS", "16")], "cluster a:6379,b:7", "", "", 0, 16),
        (&[("REDIS_URL", "redis+cluster://:p@a/1")], "cluster a:6379", " p", "", 1, 0),
    ] {
        let Store::Redis(config) = read(settings).expect("valid settings").store else { panic!("a ledger") };
        let show = |credentials: &Credentials| {
            let parts = [&credentials.username, &credentials.password].map(|part| part.clone().unwrap_or_default());
            if parts == ["", ""] { String::new() } else { parts.join(" ") }
        };
        let shown = match &config.servers {
            Servers::Sentinel { sentinels, name, credentials } => {
                assert_eq!(show(credentials), sentinel_credentials, "{settings:?}");
                format!("redis {} {name}", DisplayList(sentinels))
            }
            Servers::Cluster { seeds } => format!("cluster {}", DisplayList(seeds)),
            Servers::Single(address) => address.to_string(),
            Servers::Unix(path) => ["unix:", path].concat(),
        };
        assert_eq!((&*shown, &*show(&config.credentials), config.db, config.acks), (servers, credentials, db, acks));
    }
}

#[test]
fn a_unix_socket_of_redis_is_set_by_url() {
    let long = ["/", &"x".repeat(106)].concat();
    let long_url = ["unix://", &long].concat();
    for (settings, path, user, password, db) in [
        (&[("REDIS_URL", "unix:///run/redis.sock")][..], "/run/redis.sock", None, None, 0),
        (&[("REDIS_URL", "unix:///run/redis.sock?db=3")], "/run/redis.sock", None, None, 3),
        (&[("REDIS_URL", "unix:///run/redis.sock?")], "/run/redis.sock", None, None, 0),
        (&[("REDIS_URL", "unix:///run/redis.sock?db=")], "/run/redis.sock", None, None, 0),
        (&[("REDIS_URL", "unix://u:p%40%2Fx@/run/r%20%3F.sock?db=1")], "/run/r ?.sock", Some("u"), Some("p@/x"), 1),
        (&[("REDIS_URL", "unix://:p@/r")], "/r", None, Some("p"), 0),
        (&[("REDIS_URL", "unix:///r"), ("REDIS_PASSWORD", "p"), ("REDIS_ACKS", "1")], "/r", None, Some("p"), 0),
        (&[("REDIS_URL", &long_url)], &*long, None, None, 0),
    ] {
        let Store::Redis(redis) = read(settings).expect("valid settings").store else { panic!("a ledger") };
        assert_eq!(redis.servers, Servers::Unix(path.to_owned()), "{settings:?}");
        let Credentials { username, password: set } = redis.credentials;
        assert_eq!((username.as_deref(), set.as_deref(), redis.db), (user, password, db), "{settings:?}");
    }
}

#[test]
fn a_socket_to_serve_on_has_a_path_and_rights() {
    let long = ["unix:/", &"x".repeat(106)].concat();
    for (settings, path, mode, user, group) in [
        (&[("LISTEN", "unix:/run/notch.sock")][..], "/run/notch.sock", 0o660, None, None),
        (&[("LISTEN", "unix:/s"), ("LISTEN_MODE", "0600")], "/s", 0o600, None, None),
        (&[("LISTEN", "unix:/s"), ("LISTEN_MODE", "666")], "/s", 0o666, None, None),
        (&[("LISTEN", "unix:/s"), ("LISTEN_MODE", "0660:33")], "/s", 0o660, None, Some(33)),
        (&[("LISTEN", "unix:/s"), ("LISTEN_MODE", "0660:1000:33")], "/s", 0o660, Some(1000), Some(33)),
        (&[("LISTEN", "unix:/s"), ("LISTEN_MODE", "0660:root:daemon")], "/s", 0o660, Some(0), Some(1)),
        (&[("LISTEN", &long)], &long[5..], 0o660, None, None),
    ] {
        let config = read(settings).expect("valid settings");
        assert_eq!(config.listen, Listen::Unix(path.to_owned()), "{settings:?}");
        assert_eq!(config.listen_rights, Rights { mode, user, group }, "{settings:?}");
    }
    let longer = [&long, "x"].concat();
    for listen in
        ["unix:", "unix:s", "unix:@s", "unix:./s", "unix:/run/", "unix:/a\nb", "unix:/a\0b", "Unix:/s", "/s", &longer]
    {
        let message = read(&[("LISTEN", listen)]).err().expect("no such address");
        assert!(message.contains(": expected an IP address and port, or unix: and an absolute path"), "{message}");
    }
    for mode in [
        "rw",
        "0o660",
        "+660",
        "1777",
        "888",
        "0660:",
        "0660:no-such-group",
        "0660:1:2:3",
        "0660::1",
        "0660:4294967295",
    ] {
        let message = read(&[("LISTEN", "unix:/s"), ("LISTEN_MODE", mode)]).err().expect("no such mode");
        let start =
            format!("invalid LISTEN_MODE \"{mode}\": expected MODE[:[USER:]GROUP], an octal mode and names of ");
        assert!(message.starts_with(&start), "{message}");
    }
    let message = read(&[("LISTEN_MODE", "0660")]).err().expect("no socket");
    assert_eq!(
        message,
        "LISTEN_MODE: LISTEN is not a Unix socket: unset LISTEN_MODE, for example LISTEN_MODE=0660:www-data"
    );
    let message = read(&[("LISTEN", "unix:/s"), ("PORT", "1")]).err().expect("two addresses");
    assert!(message.starts_with("LISTEN: PORT is set too: unset one of them"), "{message}");
}

#[test]
fn sentinels_and_clusters_need_their_other_settings() {
    let sentinels = ("REDIS_SENTINELS", "s1,s2");
    let cluster = ("REDIS_URL", "redis+cluster://a");
    let many = vec!["a"; 33].join(",");
    for (settings, message) in [
        (&[sentinels][..], "REDIS_MASTER_NAME: the name of the primary is missing, or not printable ASCII"),
        (&[("REDIS_HOST", "r"), ("REDIS_MASTER_NAME", "m")], "REDIS_HOST: REDIS_MASTER_NAME is set too: unset one"),
        (
            &[("REDIS_PASSWORD", "p"), ("REDIS_MASTER_NAME", "m")],
            "REDIS_MASTER_NAME: no Sentinel is set: set REDIS_SENTINELS, or unset REDIS_MASTER_NAME, for example \
             REDIS_SENTINELS=s1,s2,s3",
        ),
        (&[("REDIS_SENTINEL_USERNAME", "u")], "REDIS_SENTINEL_USERNAME: no Sentinel is set: set REDIS_SENTINELS"),
        (&[("REDIS_ACKS", "1")], "REDIS_ACKS: neither REDIS_HOST nor REDIS_URL is set"),
        (&[("REDIS_HOST", "r"), ("REDIS_ACKS", "17")], "invalid REDIS_ACKS \"17\": expected a number from 0 to 16"),
        (&[sentinels, ("REDIS_HOST", "r"), ("REDIS_MASTER_NAME", "m")], "REDIS_SENTINELS: REDIS_HOST is set too"),
        (&[sentinels, cluster], "REDIS_URL: REDIS_SENTINELS is set too: unset one of them"),
        (&[cluster, ("REDIS_MASTER_NAME", "m")], "REDIS_URL: REDIS_MASTER_NAME is set too: unset one of them"),
        (&[("REDIS_SENTINELS", "s1:x"), ("REDIS_MASTER_NAME", "m")], "REDIS_SENTINELS: the port is not a number"),
        (&[("REDIS_SENTINELS", &many), ("REDIS_MASTER_NAME", "m")], "REDIS_SENTINELS: more than 32 servers"),
        (&[cluster, ("REDIS_SENTINEL_PASSWORD", "s")], "REDIS_SENTINEL_PASSWORD: no Sentinel is set"),
        (
            &[sentinels, ("REDIS_MASTER_NAME", "m"), ("REDIS_SENTINEL_USERNAME", "u")],
            "REDIS_SENTINEL_PASSWORD: REDIS_SENTINEL_USERNAME sets a user, but no password is set",
        ),
        (
            &[cluster, ("COUNTERS", "blog")],
            "COUNTER_KEY: the counters are in several slots of the cluster: put a part of the key in braces, for \
             example COUNTER_KEY={visits}",
        ),
        (&[cluster, ("COUNTERS", "*")], "COUNTER_KEY: the counters are in several slots of the cluster"),
        (&[cluster, ("COUNTER_KEY", "a}b")], "COUNTER_KEY: the counters are in several slots of the cluster"),
    ] {
        let error = read(settings).err().unwrap_or_default();
        assert!(error.starts_with(message), "{settings:?}: {error}");
    }
    for settings in [
        &[cluster][..],
        &[cluster, ("COUNTERS", "*"), ("COUNTER_KEY", "{visits}")],
        &[("REDIS_URL", "redis+sentinel://s/m"), ("COUNTERS", "*")],
    ] {
        assert_eq!(read(settings).err(), None, "{settings:?}");
    }
}

#[test]
fn an_invalid_value_is_shown_with_what_is_expected_and_an_example() {
    for (name, value, expected) in [
        (
            "LISTEN",
            "here",
            "an IP address and port, or unix: and an absolute path of at most 107 bytes, for example \
             LISTEN=127.0.0.1:8080",
        ),
        ("PORT", "65536", "a number from 0 to 65535, for example PORT=8080"),
        ("PORT", "+1", "a number from 0 to 65535, for example PORT=8080"),
        ("WORKERS", "0", "a number from 1 to 64, for example WORKERS=2"),
        ("MAX_CONNECTIONS", "many", "a number from 1 to 1000000, for example MAX_CONNECTIONS=10000"),
        ("MAX_COUNTERS", "0", "a number from 1 to 1000000, for example MAX_COUNTERS=10000"),
        ("STORE_TIMEOUT", "5", "a duration from 1ms to 24 hours, like 500ms, 5s or 2m, for example STORE_TIMEOUT=2s"),
        ("STORE_TIMEOUT", "0s", "a duration from 1ms to 24 hours, like 500ms, 5s or 2m, for example STORE_TIMEOUT=2s"),
        (
            "IDLE_TIMEOUT",
            "1441m",
            "a duration from 1ms to 24 hours, like 500ms, 5s or 2m, for example IDLE_TIMEOUT=60s",
        ),
        ("DRAIN_DELAY", "ms", "a duration from 0ms to 24 hours, like 500ms, 5s or 2m, for example DRAIN_DELAY=1s"),
        ("PAGE_REFRESH", "5", "a duration from 0ms to 24 hours, like 500ms, 5s or 2m, for example PAGE_REFRESH=10s"),
        ("FSYNC", "no", "one of always, everysec, never, for example FSYNC=always"),
        ("LOG_LEVEL", "loud", "one of off, error, warn, info, debug, for example LOG_LEVEL=info"),
        ("MEMORY_LIMIT", "64mb", "an amount of memory like 500k, 64m or 1g, for example MEMORY_LIMIT=64m"),
        (
            "COUNTERS",
            "a,b.gif",
            "a list of names of 1 to 32 letters, digits, dots, hyphens, underscores, not ending in .gif, for example \
             COUNTERS=blog,shop",
        ),
        (
            "COUNTER_KEY",
            "a b",
            "1 to 62 printable ASCII characters without quotes, \\, <, > and &, for example COUNTER_KEY=visits",
        ),
    ] {
        assert_eq!(read(&[(name, value)]).err(), Some(format!("invalid {name} \"{value}\": expected {expected}")));
    }
}

#[test]
fn a_page_refreshes_at_most_every_second() {
    for (value, milliseconds) in [("0s", Some(0)), ("0ms", Some(0)), ("1ms", None), ("999ms", None)] {
        let result = read(&[("PAGE_REFRESH", value)]).map(|config| config.context.page_refresh);
        assert_eq!(
            result,
            milliseconds
                .ok_or_else(|| "PAGE_REFRESH: shorter than 1s, and not 0s, for example PAGE_REFRESH=10s".to_owned())
        );
    }
}

#[test]
fn a_url_may_contain_a_password_and_is_not_repeated() {
    for (url, problem) in [
        #[cfg(not(feature = "tls"))]
        ("rediss://u:secret@r", "this build has no TLS: use the image notch:0.1.0-tls"),
        ("u:secret@r", "does not begin with redis://, unix://, redis+sentinel:// or redis+cluster://"),
        ("redis://u:secret%@r", "a percent sign is not followed by two hexadecimal digits of UTF-8"),
        ("redis://u:secret@r:0", "the port is not a number from 1 to 65535"),
        ("redis://u:secret@/1", "the host is missing"),
        ("redis://r/x", "the database is not a number"),
        ("redis://[::1", "the closing bracket of the address is missing"),
        ("redis://[::1]x", "the host is followed by text other than a port"),
        ("redis://a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis://a b", "the host is longer than 255 bytes, or not printable ASCII"),
        ("redis+sentinel://u:secret@a,b", "the name of the primary is missing, or not printable ASCII"),
        ("redis+sentinel://a,b//0", "the name of the primary is missing, or not printable ASCII"),
        ("redis+sentinel://a,,b/m", "the host is missing"),
        ("redis+sentinel://a:0/m", "the port is not a number from 1 to 65535"),
        ("redis+cluster://a/m", "the database is not a number"),
        #[cfg(not(feature = "tls"))]
        ("rediss+cluster://u:secret@a", "this build has no TLS: use the image notch:0.1.0-tls"),
        ("unix:/run/redis.sock", "does not begin with redis://, unix://, redis+sentinel:// or redis+cluster://"),
        ("unix://run/redis.sock", "unix:// has no host: write unix:///PATH"),
        ("unix://u:secret@r/s", "unix:// has no host: write unix:///PATH"),
        ("unix://u:secret@", "the path of the socket is missing, or longer than 107 bytes"),
        ("unix://u:secret@/", "the path of the socket is missing, or longer than 107 bytes"),
        ("unix:///a%00b", "the path of the socket is missing, or longer than 107 bytes"),
        ("unix:///a%", "a percent sign is not followed by two hexadecimal digits of UTF-8"),
        ("unix:///s?db=x", "the database is not a number"),
        ("unix:///s?db=1&timeout=5", "unknown parameter timeout: only db is known"),
        ("unix:///s?password=hidden", "unknown parameter password: only db is known"),
        ("unix://u:p@/s?secret2&db=1", "unknown parameter : only db is known"),
    ] {
        let message = format!("REDIS_URL: {problem}, for example REDIS_URL=redis://redis:6379/0");
        assert_eq!(read(&[("REDIS_URL", url)]).err(), Some(message));
    }
}

#[test]
fn settings_that_exclude_each_other_are_rejected_with_both_names() {
    let (url, with_password) = (("REDIS_URL", "redis://r"), ("REDIS_URL", "redis://:hidden@r"));
    for (one, other, message) in [
        (
            ("REDIS_HOST", "r"),
            ("REDIS_USERNAME", "u"),
            "REDIS_PASSWORD: REDIS_USERNAME sets a user, but no password is set, for example REDIS_PASSWORD=secret",
        ),
        (
            ("REDIS_HOST", "r"),
            ("REDIS_URL", "redis://r"),
            "REDIS_URL: REDIS_HOST is set too: unset one of them, for example REDIS_URL=redis://redis:6379/0",
        ),
        (
            url,
            ("REDIS_PORT", "x"),
            "REDIS_URL: REDIS_PORT is set too: unset one of them, for example REDIS_URL=redis://redis:6379/0",
        ),
        (
            url,
            ("REDIS_DB", "0"),
            "REDIS_URL: REDIS_DB is set too: unset one of them, for example REDIS_URL=redis://redis:6379/0",
        ),
        (
            url,
            ("REDIS_USERNAME", "u"),
            "REDIS_URL: REDIS_USERNAME is set too: unset one of them, for example REDIS_URL=redis://redis:6379/0",
        ),
        (
            with_password,
            ("REDIS_PASSWORD", "p"),
            "REDIS_PASSWORD: REDIS_URL has a password too: set only one of them, for example REDIS_PASSWORD=secret",
        ),
        (
            with_password,
            ("REDIS_PASSWORD_FILE", "p"),
            "REDIS_PASSWORD_FILE: REDIS_URL has a password too: set only one of them, \
             for example REDIS_PASSWORD_FILE=/run/secrets/redis_password",
        ),
        (
            url,
            ("FSYNC", "never"),
            "FSYNC: applies to the ledger only, and REDIS_URL is set: unset one of them, for example FSYNC=always",
        ),
        (
            ("LEDGER", "x"),
            ("REDIS_DB", "0"),
            "REDIS_DB: neither REDIS_HOST nor REDIS_URL is set: set one of them, or unset REDIS_DB, \
             for example REDIS_HOST=redis",
        ),
        (
            ("LISTEN", ":1"),
            ("PORT", "1"),
            "LISTEN: PORT is set too: unset one of them, for example LISTEN=127.0.0.1:8080",
        ),
    ] {
        assert_eq!(read(&[one, other]).err().as_deref(), Some(message));
        assert_eq!(read(&[other, one]).err().as_deref(), Some(message));
    }
}

#[test]
fn an_unknown_redis_setting_is_rejected_with_the_nearest_name() {
    for (name, near) in [
        ("REDIS_HOTS", "REDIS_HOST"),
        ("REDIS_HOSTNAME", "REDIS_HOST"),
        ("REDIS_URI", "REDIS_URL"),
        ("REDIS_PASS", "REDIS_PASSWORD"),
        ("REDIS_PASSWD", "REDIS_PASSWORD"),
        ("REDIS_PASSWORDFILE", "REDIS_PASSWORD"),
        ("REDIS_USER", "REDIS_USERNAME"),
        ("REDIS_USER_NAME", "REDIS_USERNAME"),
        ("REDIS_PROT", "REDIS_PORT"),
        ("REDIS_PORTS", "REDIS_PORT"),
        ("REDIS_host", "REDIS_HOST"),
    ] {
        let message = read(&[("REDIS_HOST", "r"), (name, "x")]).err().expect("no such setting");
        let start = format!("{name}: unknown setting: the nearest is {near}, for example {near}=");
        assert!(message.starts_with(&start), "{message}");
    }
    for (name, value) in [
        ("REDIS_SERVICE_HOST", "10.0.0.1"),
        ("REDIS_SERVICE_PORT", "6379"),
        ("REDIS_SERVICE_PORT_CLIENT", "6379"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP_PROTO", "tcp"),
        ("REDIS_PORT_6379_TCP_PORT", "6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("REDIS_MASTER_SERVICE_HOST", "10.0.0.1"),
        ("REDIS_MASTER_PORT", "udp://10.0.0.1:6379"),
        ("REDIS_NAME", "/web/redis"),
        ("REDIS_ENV_REDIS_VERSION", "8.0"),
        ("REDIS_ADMIN_PASSWORD", "x"),
        ("REDIS_IMAGE", "redis:8.0-alpine"),
        ("REDIS_HOTS", ""),
        ("REDIS", "x"),
    ] {
        for store in [("REDIS_HOST", "r"), ("REDIS_URL", "redis://r"), ("LEDGER", "x")] {
            assert!(read(&[(name, value), store]).is_ok(), "{name}={value} beside {store:?}");
        }
    }
}

#[test]
fn memory_has_an_optional_unit() {
    for (text, bytes) in [("", None), ("6291456", Some(6 << 20)), ("500K", Some(500 << 10)), ("1g", Some(1 << 30))] {
        assert_eq!(read(&[("MEMORY_LIMIT", text)]).expect("valid settings").memory, bytes, "{text}");
    }
    for text in ["m", "64mb", "6.4m", "-1", "+1", "18446744073709551615g", "64 m"] {
        assert!(read(&[("MEMORY_LIMIT", text)]).is_err(), "{text}");
    }
}

#[test]
fn help_fits_a_screen_and_names_every_setting() {
    let help = help();
    assert!(SETTINGS.iter().all(|setting| help.contains(&format!("  {} ", setting.name))));
    assert!(help.lines().count() < 54 && help.lines().all(|line| line.len() <= 100), "{help}");
}

#[test]
fn origins_are_as_browsers_send_them() {
    for origin in [
        "*",
        " * ",
        "https://example.org",
        "https://a.example, https://b.example",
        "http://localhost:3000",
        "https://a-b.example.org:8443",
        "http://127.0.0.1:1",
        "http://[::1]:65535",
        "https://[2001:db8::1]",
        "https://example.org:80",
        "capacitor://localhost",
        "moz-extension://8c2e",
    ] {
        assert!(read(&[("CORS_ORIGINS", origin)]).is_ok(), "{origin}");
    }
    let long = ["https://", &"a".repeat(MAX_ORIGIN - 7)].concat();
    for origin in [
        "null",
        "example.org",
        "https:",
        "https://",
        "https:example.org",
        "//example.org",
        "://example.org",
        "https://example.org/",
        "https://example.org/page",
        "https://example.org?",
        "https://*.example.org",
        "https://user@example.org",
        "https://Example.org",
        "HTTPS://example.org",
        "https://example.org:",
        "https://example.org:0",
        "https://example.org:08",
        "https://example.org:65536",
        "https://example.org:4294967297",
        "https://example.org:+8",
        "https://example.org:443",
        "http://example.org:80",
        "http://a:1:2",
        "http://[::1",
        "http://[]",
        "http://[::1]8",
        "http://[::G]",
        "https://exa mple.org",
        "https://example.org\r\nA: b",
        "https://\u{fc}ber.example",
        &long,
        "*,https://example.org",
        "https://example.org,",
    ] {
        assert!(read(&[("CORS_ORIGINS", origin)]).is_err(), "{origin}");
    }
    let list = |count| vec!["https://a.example"; count].join(",");
    assert!(read(&[("CORS_ORIGINS", &list(Origins::MAX))]).is_ok());
    assert!(read(&[("CORS_ORIGINS", &list(Origins::MAX + 1))]).is_err());
}
