//! Settings of any kind.
//!
//! - They are a `Config`, or an error of one line that names a setting of notch and does not contain a password.
//! - The values in a `Config` are within the bounds that the rest of the program relies on.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::slice;
use std::time::Duration;

use notch::config::{Config, Env, Listen, Store, help};
use notch::cors::{CorsDecision, Origins};
use notch::counter::{Counters, Names};
use notch::redis::{MAX_SERVERS, Servers, is_one_slot};

/// Password in the settings of the corpus.
const SECRET: &str = "hunter2";

/// `data` is lines of `NAME=VALUE`; the first of a name holds.
pub fn holds(data: &[u8]) {
    let settings: Vec<(&[u8], &[u8])> = data.split(|&byte| byte == b'\n').filter_map(setting).collect();
    let variable = |(name, value): &(&[u8], &[u8])| {
        // Arbitrary files are not read: their content is not under test, and a device file may not end.
        let missing = if name.ends_with(b"_FILE") && !value.is_empty() { &b"/dev/null/"[..] } else { b"" };
        (OsString::from_vec(name.to_vec()), OsString::from_vec([missing, *value].concat()))
    };
    match Env::new(settings.iter().map(variable).collect()).config() {
        Ok(config) => check(&config),
        Err(invalid) => check_message(&invalid.to_string()),
    }
}

fn setting(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|&byte| byte == b'=')?;
    Some((&line[..at], &line[at + 1..]))
}

fn check(config: &Config) {
    let Counters { main, names } = &config.context.counters;
    assert!((1..=Counters::MAX_MAIN).contains(&main.as_bytes().len()));
    if let Names::List(names) = names {
        for name in names {
            let name = name.as_bytes();
            assert!(Names::is_well_formed(name) && config.context.counters.key_of(name).is_some());
        }
    }
    let origins = (0..).map_while(|index| config.context.origins.header_value(CorsDecision::Allowed(index)));
    for (index, origin) in origins.enumerate() {
        assert!(index < Origins::MAX && !origin.is_empty() && origin.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Store::Redis(redis) = &config.store {
        let (addresses, sentinel) = match &redis.servers {
            Servers::Single(address) => (slice::from_ref(address), None),
            Servers::Unix(path) => {
                assert!(is_path(path));
                (&[][..], None)
            }
            Servers::Sentinel { sentinels, name, credentials } => {
                assert!(!name.is_empty());
                (&sentinels[..], Some(credentials))
            }
            Servers::Cluster { seeds } => {
                assert!(is_one_slot(&config.context.counters));
                (&seeds[..], None)
            }
        };
        let is_unix = matches!(redis.servers, Servers::Unix(_));
        assert!((usize::from(!is_unix)..=MAX_SERVERS).contains(&addresses.len()) && redis.acks <= 16);
        assert!(addresses.iter().all(|address| !address.host.is_empty() && address.port > 0));
        for credentials in sentinel.into_iter().chain([&redis.credentials]) {
            assert!(credentials.username.is_none() || credentials.password.is_some());
            assert!(credentials.username.as_deref() != Some("") && credentials.password.as_deref() != Some(""));
        }
    }
    if let Listen::Unix(path) = &config.listen {
        assert!(is_path(path) && config.listen_rights.mode <= 0o777);
    }
    assert!(config.workers.is_none_or(|workers| (1..=64).contains(&workers)));
    let limits = &config.limits;
    assert!((1..=1_000_000).contains(&limits.connections));
    let day = Duration::from_secs(24 * 60 * 60);
    for wait in [limits.store, limits.request, limits.idle, limits.write] {
        assert!(!wait.is_zero() && wait <= day);
    }
    let refresh = config.context.page_refresh;
    assert!(refresh == 0 || (1000..=24 * 60 * 60 * 1000).contains(&refresh));
    assert!(limits.drain_delay <= day && limits.drain <= day);
}

/// Returns whether a text is a valid path of a Unix socket.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 107 && !path.contains('\0')
}

fn check_message(message: &str) {
    assert!(!message.chars().any(char::is_control), "more than one line: {message:?}");
    // `invalid NAME "value": ...` or `NAME: ...`
    let subject = message.strip_prefix("invalid ").unwrap_or(message);
    let (name, _) = subject.split_once([' ', ':']).expect("a name");
    assert!(name.starts_with("REDIS_") || help().contains(&format!("\n  {name} ")), "no setting: {name}");
    let (_, example) = message.rsplit_once(", for example ").expect("an example");
    let (shown, _) = example.split_once('=').expect("a value");
    assert!(help().contains(&format!("\n  {shown} ")), "no setting: {shown}");
    let is_secret = ["REDIS_URL", "REDIS_PASSWORD"].contains(&name);
    assert!(!(is_secret && message.contains(SECRET)), "it shows the password");
}
