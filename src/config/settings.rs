//! The table of all settings, and `--help`, which is made from it.

use std::fmt::Write as _;

/// One environment variable, as `--help` and the README list it.
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// Value that applies if the variable is unset; empty if there is none.
    pub(super) default: &'static str,
    description: &'static str,
    pub(super) example: &'static str,
}

const fn setting(name: &'static str, default: &'static str, text: &'static str, example: &'static str) -> Setting {
    Setting { name, default, description: text, example }
}

/// Every variable that notch reads.
pub(super) const SETTINGS: &[Setting] = &[
    setting("LISTEN", "0.0.0.0:8080", "address and port to serve on, or unix:PATH", "127.0.0.1:8080"),
    setting("LISTEN_MODE", "0660", "mode of that Unix socket: MODE[:[USER:]GROUP]", "0660:www-data"),
    setting("PORT", "8080", "port alone, on all addresses", "8080"),
    setting("REDIS_URL", "", "redis://[user:password@]host[:port][/db], or as above", "redis://redis:6379/0"),
    setting("REDIS_HOST", "", "host of Redis, instead of REDIS_URL", "redis"),
    setting("REDIS_PORT", "6379", "port of Redis", "6379"),
    setting("REDIS_USERNAME", "", "user of the ACL", "notch"),
    setting("REDIS_PASSWORD", "", "password", "secret"),
    setting("REDIS_PASSWORD_FILE", "", "file that contains the password", "/run/secrets/redis_password"),
    setting("REDIS_DB", "0", "number of the database", "0"),
    #[cfg(feature = "tls")]
    setting(
        "REDIS_CA",
        "",
        "PEM file of the CA that issued Redis' certificate (the system's)",
        "/run/secrets/redis_ca",
    ),
    #[cfg(feature = "tls")]
    setting("REDIS_CLIENT_CERT", "", "PEM file of notch's own certificate", "/run/secrets/notch_cert"),
    #[cfg(feature = "tls")]
    setting("REDIS_CLIENT_KEY", "", "PEM file of its private key", "/run/secrets/notch_key"),
    setting("REDIS_SENTINELS", "", "host[:port] of each Sentinel, instead of REDIS_HOST", "s1,s2,s3"),
    setting("REDIS_MASTER_NAME", "", "name under which the Sentinels monitor the primary", "mymaster"),
    setting("REDIS_SENTINEL_USERNAME", "", "user of the Sentinels' ACL", "notch"),
    setting("REDIS_SENTINEL_PASSWORD", "", "password of the Sentinels", "secret"),
    setting("REDIS_SENTINEL_PASSWORD_FILE", "", "file that contains it", "/run/secrets/sentinel_password"),
    setting("REDIS_ACKS", "0", "replicas that acknowledge before the response", "1"),
    setting("LEDGER", "./notch.ledger", "file to count in if no Redis is set", "/data/notch.ledger"),
    setting("FSYNC", "always", "when to sync the ledger: always, everysec, never", "always"),
    setting("COUNTER_KEY", "visits", "key in Redis (named counters: visits:NAME)", "visits"),
    setting("COUNTERS", "", "names allowed, comma-separated; * allows any", "blog,shop"),
    setting("MAX_COUNTERS", "10000", "most named counters in the store, with COUNTERS=*", "10000"),
    setting("CORS_ORIGINS", "", "comma-separated origins whose pages may read; * for any", "https://example.org"),
    setting("WELCOME", "Welcome! Every visit counts.", "text of the start page", "Hello"),
    setting("PAGE_REFRESH", "5s", "how often an open page requests its total; 0s: never", "10s"),
    setting("WORKERS", "half the processors", "event loops", "2"),
    setting("MAX_CONNECTIONS", "10000", "connections open at once", "10000"),
    setting("MEMORY_LIMIT", "", "most memory to use, unless the control group allows less", "64m"),
    setting("STORE_TIMEOUT", "2s", "how long a visit waits for the store", "2s"),
    setting("REQUEST_TIMEOUT", "10s", "how long a request may take to arrive", "10s"),
    setting("IDLE_TIMEOUT", "60s", "how long a connection may be idle", "60s"),
    setting("WRITE_TIMEOUT", "10s", "how long a client may take to read a response", "10s"),
    setting("DRAIN_DELAY", "0s", "how long to serve after SIGTERM, reporting not ready", "1s"),
    setting("DRAIN_TIMEOUT", "5s", "how long responses in flight may then take", "5s"),
    setting("LOG_LEVEL", "info", "off, error, warn, info, debug", "info"),
    setting("LOG_FORMAT", "text", "text or json", "json"),
];

/// The setting of a key whose counters are in one slot of a cluster.
pub(super) const ONE_SLOT: Setting = setting("COUNTER_KEY", "", "", "{visits}");

/// What the names of all settings of Redis begin with.
pub(super) const REDIS_PREFIX: &str = "REDIS_";

/// Returns the text that `notch --help` prints.
#[must_use]
pub fn help() -> String {
    let mut help = [USAGE, TLS_USAGE, SETTINGS_USAGE].concat();
    for Setting { name, default, description, .. } in SETTINGS {
        let (open, close) = if default.is_empty() { ("", "") } else { (" [", "]") };
        // Writing to a string does not fail.
        let _ = writeln!(help, "  {name:<20} {description}{open}{default}{close}");
    }
    help
}

/// Returns the default of the setting `name`.
pub(super) fn default(name: &str) -> &'static str {
    setting_named(name).default
}

/// Returns the setting `name`, which must be in the table.
pub(super) fn setting_named(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).unwrap_or(&SETTINGS[0])
}

/// Returns the setting of Redis whose name is most similar to `name`: one of which `name` is a prefix or that is a
/// prefix of `name`, else the one with the least edit distance.
pub(super) fn nearest_setting(name: &str) -> &'static Setting {
    let name = &*name.to_ascii_uppercase();
    let redis_settings = SETTINGS.iter().filter(|setting| setting.name.starts_with(REDIS_PREFIX));
    let distance = |setting: &&Setting| {
        let is_prefix =
            name.len() > REDIS_PREFIX.len() && (setting.name.starts_with(name) || name.starts_with(setting.name));
        if is_prefix { 0 } else { edit_distance(name.as_bytes(), setting.name.as_bytes()) }
    };
    redis_settings.min_by_key(distance).unwrap_or(&SETTINGS[0])
}

/// Returns the Levenshtein distance: the number of letters to add, remove or replace.
fn edit_distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other_letter) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other_letter);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

const USAGE: &str = "\
notch counts visits: GET /count over HTTP, in Redis or in its own file.

Usage: notch                      serve
       notch healthcheck          exit 0 if a running notch responds, else 1
       notch healthcheck ready    exit 0 if it is ready for visits, else 1
       notch ledger --help        look into the file, repair and move it
       notch --help, notch --version

REDIS_URL=redis+sentinel://[user:password@]host[:port],host[:port]/NAME[/db]
REDIS_URL=redis+cluster://[user:password@]host[:port],host[:port]
REDIS_URL=unix://[user:password@]/path[?db=0]
";

#[cfg(feature = "tls")]
const TLS_USAGE: &str = "REDIS_URL=rediss://, rediss+sentinel://, rediss+cluster://: the same over TLS\n";

#[cfg(not(feature = "tls"))]
const TLS_USAGE: &str = "";

const SETTINGS_USAGE: &str = "
Settings (environment variables; durations read 500ms, 5s, 2m):
";
