//! The environment, parsed once into a [`Config`]. What comes out of here needs no further check.
//!
//! An empty value counts as unset. A bad one stops the start with one line that names the variable, says what is wrong
//! and shows an example. Values that may hold a password are never repeated. A setting that would be ignored beside
//! another, or that no one knows under a name of Redis, is a bad one too: what is set holds, or notch does not start.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::connection::ServerContext;
use crate::cors::{self, Origins};
use crate::counter::{Counters, Key, Names};
use crate::ledger::Fsync;
use crate::log::{Format, printable, quote};
use crate::metrics::Metrics;
use crate::redis::RedisConfig;
use crate::render::Welcome;
use crate::system;

/// All that notch is told from outside.
pub struct Config {
    /// What the log shows, and how.
    pub log: Logging,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Where to count.
    pub store: Store,
    /// What answers have in common.
    pub context: ServerContext,
    /// Event loops; `None` for as many as there are processors and memory for.
    pub workers: Option<usize>,
    /// Most bytes of memory to use, if it is less than what control groups allow.
    pub memory: Option<usize>,
    /// Bounds of time and number.
    pub limits: Limits,
}

/// The two kinds of store.
pub enum Store {
    /// A Redis server.
    Redis(RedisConfig),
    /// A file of our own.
    Ledger(PathBuf, Fsync),
}

impl Store {
    /// What it is called, whatever it holds.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Ledger(..) => "ledger",
        }
    }
}

/// How long and how much, for the drivers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Named counters that the store may hold where `COUNTERS` allows any name.
    pub counters: usize,
    /// How long a visit waits for the store.
    pub store: Duration,
    /// How long a request may take to arrive, from its first byte on.
    pub header: Duration,
    /// How long a connection may be open without a request.
    pub idle: Duration,
    /// How long a client may take to accept an answer.
    pub send: Duration,
    /// How long to go on serving after a signal, so that a balancer sees it coming.
    pub drain_delay: Duration,
    /// How long to wait for answers in flight after that.
    pub drain: Duration,
}

/// Files that `workers` event loops need beside those of connections.
#[must_use]
pub fn files(workers: usize) -> usize {
    FILES + workers * FILES_PER_WORKER
}

/// What the log shows, and how.
pub struct Logging {
    /// `off` to `debug`.
    pub level: LevelFilter,
    /// Text or JSON.
    pub format: Format,
}

/// A setting that cannot be used: its name, what is wrong with it, and an example.
#[derive(Debug)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One variable, as `--help` and the README list it.
struct Setting {
    /// The variable.
    name: &'static str,
    /// What holds if it is unset.
    default: &'static str,
    /// What it is for.
    words: &'static str,
    example: &'static str,
}

const fn setting(name: &'static str, default: &'static str, words: &'static str, example: &'static str) -> Setting {
    Setting { name, default, words, example }
}

/// Every variable that notch reads.
const SETTINGS: &[Setting] = &[
    setting("LISTEN", "0.0.0.0:8080", "address and port to serve on", "127.0.0.1:8080"),
    setting("PORT", "8080", "the port alone", "8080"),
    setting("REDIS_URL", "", "redis://[user:password@]host[:port][/db]", "redis://redis:6379/0"),
    setting("REDIS_HOST", "", "the same in parts: host", "redis"),
    setting("REDIS_PORT", "6379", "port", "6379"),
    setting("REDIS_USERNAME", "", "user of the ACL", "notch"),
    setting("REDIS_PASSWORD", "", "password", "secret"),
    setting("REDIS_PASSWORD_FILE", "", "file that holds the password", "/run/secrets/redis_password"),
    setting("REDIS_DB", "0", "number of the database", "0"),
    setting("LEDGER", "./notch.ledger", "file to count in when no Redis is named", "/data/notch.ledger"),
    setting("FSYNC", "always", "when to sync the ledger: always, everysec, never", "always"),
    setting("COUNTER_KEY", "visits", "key in Redis (named counters: visits:NAME)", "visits"),
    setting("COUNTERS", "", "names allowed, comma-separated; * allows any", "blog,shop"),
    setting("MAX_COUNTERS", "10000", "most named counters in the store, with COUNTERS=*", "10000"),
    setting("CORS_ORIGINS", "", "comma-separated origins whose pages may read; * for any", "https://example.org"),
    setting("WELCOME", "Welcome! Every visit counts.", "sentence of the start page", "Hello"),
    setting("WORKERS", "half the processors", "event loops", "2"),
    setting("MAX_CONNECTIONS", "10000", "connections open at once", "10000"),
    setting("MEMORY_LIMIT", "", "most memory to use, unless the control group allows less", "64m"),
    setting("STORE_TIMEOUT", "2s", "how long a visit waits for the store", "2s"),
    setting("REQUEST_TIMEOUT", "10s", "how long a request may take to arrive", "10s"),
    setting("IDLE_TIMEOUT", "60s", "how long a connection may idle", "60s"),
    setting("WRITE_TIMEOUT", "10s", "how long a client may take to read an answer", "10s"),
    setting("DRAIN_DELAY", "0s", "how long to serve on, not ready, after SIGTERM", "1s"),
    setting("DRAIN_TIMEOUT", "5s", "how long answers in flight may then take", "5s"),
    setting("LOG_LEVEL", "info", "off, error, warn, info, debug", "info"),
    setting("LOG_FORMAT", "text", "text or json", "json"),
];

/// What `notch --help` prints.
#[must_use]
pub fn help() -> String {
    let mut help = String::from(USAGE);
    for Setting { name, default, words, .. } in SETTINGS {
        let (open, close) = if default.is_empty() { ("", "") } else { (" [", "]") };
        // Writing to a string does not fail.
        let _ = writeln!(help, "  {name:<20} {words}{open}{default}{close}");
    }
    help
}

const USAGE: &str = "\
notch counts visits: GET /count over HTTP, in Redis or in a file of its own.

Usage: notch                      serve
       notch healthcheck          exit 0 if a running notch is alive, else 1
       notch healthcheck ready    exit 0 if it is ready for visits, else 1
       notch --help, notch --version

Settings (environment; durations read 500ms, 5s, 2m):
";

/// The environment, or whatever stands in for it: names and values. It keeps the first setting that cannot be used and
/// reads on, so that no reader has to pass an error along.
pub struct Env {
    variables: Vec<(OsString, OsString)>,
    invalid: Option<Invalid>,
}

impl Env {
    /// Takes all variables; of two with the same name, the first holds.
    #[must_use]
    pub fn new(variables: Vec<(OsString, OsString)>) -> Self {
        Self { variables, invalid: None }
    }

    /// Reads every setting that serving needs. It comes in a box, since moving it field by field would take 600 bytes.
    ///
    /// # Errors
    /// The first one that is [`Invalid`].
    pub fn config(mut self) -> Result<Box<Config>, Invalid> {
        let log = self.logging();
        let config = Box::new(Config {
            context: self.context(log.level >= LevelFilter::DEBUG),
            log,
            listen: self.listen(),
            store: self.store(),
            workers: self.workers(),
            memory: self.memory(),
            limits: self.limits(),
        });
        self.finish(config)
    }

    /// What `notch healthcheck` needs to know: where a notch with this environment serves.
    ///
    /// # Errors
    /// `LISTEN` or `PORT` is [`Invalid`].
    pub fn address(mut self) -> Result<SocketAddr, Invalid> {
        let listen = self.listen();
        self.finish(listen)
    }

    fn finish<T>(self, read: T) -> Result<T, Invalid> {
        self.invalid.map_or(Ok(read), Err)
    }

    fn logging(&mut self) -> Logging {
        let levels = [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG];
        Logging {
            level: levels[self.choice("LOG_LEVEL", &["off", "error", "warn", "info", "debug"])],
            format: [Format::Text, Format::Json][self.choice("LOG_FORMAT", &["text", "json"])],
        }
    }

    fn context(&mut self, records_requests: bool) -> ServerContext {
        let welcome = self.text("WELCOME");
        if welcome.len() > MAX_WELCOME {
            self.reject("WELCOME", format_args!("longer than {MAX_WELCOME} bytes"));
        }
        ServerContext {
            counters: Counters { main: self.key(), names: self.names() },
            origins: self.origins(),
            served_by: self.hostname(),
            welcome: Welcome::new(&welcome),
            metrics: Metrics::default(),
            records_requests,
        }
    }

    fn key(&mut self) -> Key {
        let name = self.text("COUNTER_KEY");
        if let Some(key) = Key::new(name.as_bytes()).filter(|_| name.len() <= Counters::MAX_MAIN) {
            return key;
        }
        let most = Counters::MAX_MAIN;
        let problem = format_args!("not 1 to {most} printable ASCII characters without quotes, \\, <, > and &");
        self.reject("COUNTER_KEY", problem);
        Key::new(default("COUNTER_KEY").as_bytes()).expect("the default is a good key")
    }

    fn names(&mut self) -> Names {
        let list = self.text("COUNTERS");
        if list.trim_ascii() == "*" {
            return Names::Any;
        }
        let names = members(&list);
        if !names.iter().all(|name| Names::is_well_formed(name.as_bytes())) {
            let most = Names::MAX;
            let problem = format_args!("no list of names of 1 to {most} letters, digits, dots, hyphens, underscores");
            self.reject_value("COUNTERS", &list, problem);
        }
        Names::List(names)
    }

    fn origins(&mut self) -> Origins {
        let list = self.text("CORS_ORIGINS");
        let origins = members(&list);
        let most = Origins::MAX;
        if list.trim_ascii() != cors::ANY && (origins.len() > most || !origins.iter().all(|origin| is_origin(origin))) {
            let problem = format_args!("no list of up to {most} origins as browsers write them, scheme://host[:port]");
            self.reject_value("CORS_ORIGINS", &list, problem);
        }
        Origins::new(origins)
    }

    /// What tells this replica from its brothers. The kernel knows it even where no shell has set `HOSTNAME`.
    fn hostname(&self) -> String {
        let kernel = system::content("/proc/sys/kernel/hostname".as_ref()).ok();
        let name = kernel.or_else(|| self.raw("HOSTNAME")?.to_str().map(str::to_owned)).unwrap_or_default();
        let name = name.trim_ascii();
        let fits = !name.is_empty() && name.len() <= MAX_HOSTNAME && name.bytes().all(|byte| byte.is_ascii_graphic());
        String::from(if fits { name } else { "notch" })
    }

    fn listen(&mut self) -> SocketAddr {
        let port = self.number("PORT", 0, u16::MAX.into()) as u16;
        let text = self.take_given("LISTEN");
        if !text.is_empty() {
            self.exclude("LISTEN", "PORT");
        }
        let every = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let address = match text.strip_prefix(':') {
            _ if text.is_empty() => Some(every(port)),
            Some(port) => number(port, 0, u16::MAX.into()).map(|port| every(port as u16)),
            None => text.parse().ok(),
        };
        address.unwrap_or_else(|| {
            self.reject_value("LISTEN", &text, format_args!("no IP address and port"));
            every(port)
        })
    }

    // Inlined into its only caller, it would be moved field by field: 320 bytes.
    #[inline(never)]
    fn store(&mut self) -> Store {
        let fsyncs = [Fsync::Always, Fsync::EverySecond, Fsync::Never];
        let fsync = fsyncs[self.choice("FSYNC", &["always", "everysec", "never"])];
        self.refuse_unknown();
        let (url, host) = (self.take_given("REDIS_URL"), self.take_given("REDIS_HOST"));
        let mut login = RedisConfig { host, port: REDIS_PORT, username: None, password: None, db: 0 };
        if !url.is_empty() {
            if let Err(problem) = parse_url(&url, &mut login) {
                self.reject("REDIS_URL", format_args!("{problem}"));
            }
            for name in ["REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_DB"] {
                self.exclude("REDIS_URL", name);
            }
        } else if !login.host.is_empty() {
            login.port = self.redis_port();
            login.db = self.number("REDIS_DB", 0, MAX_DB) as u32;
        } else {
            self.refuse_hostless();
            let path = self.raw("LEDGER").map_or(default("LEDGER").as_ref(), OsString::as_os_str);
            // Where it lies is to be told for certain.
            return Store::Ledger(system::absolute(path), fsync);
        }
        if self.is_given("FSYNC") {
            let redis = if url.is_empty() { "REDIS_HOST" } else { "REDIS_URL" };
            self.reject("FSYNC", format_args!("it is for the ledger, and {redis} is set: unset one of them"));
        }
        self.read_credentials(&mut login);
        Store::Redis(login)
    }

    /// Refuses names of Redis that are not known here, for it is a misspelt one that would be missed.
    fn refuse_unknown(&mut self) {
        let is_unknown = |name: &str, value: &str| {
            let known = SETTINGS.iter().any(|setting| setting.name == name) || OTHERS.contains(&name);
            name.starts_with(REDIS) && !value.is_empty() && !known && !is_of_a_service(name, value)
        };
        let unknown = self.variables.iter().find_map(|(name, value)| {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            is_unknown(&name, &value).then(|| name.into_owned())
        });
        if let Some(name) = unknown {
            let near = nearest(&name);
            self.note(&printable(&name), format_args!("unknown setting: the nearest is {}", near.name), near);
        }
    }

    /// Refuses what belongs to a Redis where none is named, since it would count into a file unseen.
    fn refuse_hostless(&mut self) {
        for name in SETTINGS.iter().map(|setting| setting.name).filter(|name| name.starts_with(REDIS)) {
            if self.is_given(name) {
                let problem = format_args!("neither REDIS_HOST nor REDIS_URL is set: set one of them, or unset {name}");
                self.note(name, problem, setting_named("REDIS_HOST"));
            }
        }
    }

    /// Whether somebody has set it. Kubernetes sets `REDIS_PORT=tcp://10.0.0.1:6379` for a service called redis, which
    /// says nothing of what is wanted here.
    fn is_given(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| name != "REDIS_PORT" || !contains(&value.to_string_lossy(), "://"))
    }

    /// The port in what Kubernetes sets is the right one, if the host is that of the service.
    fn redis_port(&mut self) -> u16 {
        let text = self.text("REDIS_PORT");
        if text.starts_with("udp://") || text.starts_with("sctp://") {
            return REDIS_PORT;
        }
        port(&text).unwrap_or_else(|| {
            self.reject_value("REDIS_PORT", &text, format_args!("no number from 1 to {}", u16::MAX));
            REDIS_PORT
        })
    }

    /// Adds user and password; the password need not stand in a URL.
    fn read_credentials(&mut self, login: &mut RedisConfig) {
        for name in ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE"] {
            if self.is_given(name) && login.password.is_some() {
                self.reject(name, format_args!("REDIS_URL has a password, too: leave one of them out"));
            }
        }
        if self.is_given("REDIS_PASSWORD_FILE") {
            self.exclude("REDIS_PASSWORD_FILE", "REDIS_PASSWORD");
        }
        let username = self.take_given("REDIS_USERNAME");
        if !username.is_empty() {
            login.username = Some(username);
        }
        if let Some(content) = self.password_content() {
            match password(content) {
                Ok(text) => login.password = Some(text),
                Err(flaw) => self.reject(self.password_source(), format_args!("the password {flaw}")),
            }
        }
        let user = if self.is_given("REDIS_USERNAME") { "REDIS_USERNAME" } else { "REDIS_URL" };
        let Some(name) = &login.username else { return };
        if name.bytes().any(|byte| byte <= b' ' || byte == b'\x7f') {
            self.reject(user, format_args!("no name of a Redis user has a space or a control character"));
        }
        if login.password.is_none() {
            self.reject("REDIS_PASSWORD", format_args!("{user} names a user, but there is no password"));
        }
    }

    /// The variable that holds the password, or names its file.
    fn password_source(&self) -> &'static str {
        if self.is_given("REDIS_PASSWORD_FILE") { "REDIS_PASSWORD_FILE" } else { "REDIS_PASSWORD" }
    }

    /// What the variable or the file holds; nothing if neither is set, or the file cannot be read.
    fn password_content(&mut self) -> Option<Vec<u8>> {
        let name = self.password_source();
        let value = self.raw(name)?;
        if name == "REDIS_PASSWORD" {
            return Some(value.as_encoded_bytes().to_vec());
        }
        let content = system::bytes(value, MAX_PASSWORD);
        content.map_err(|error| self.reject(name, format_args!("cannot be read ({error})"))).ok()
    }

    fn workers(&mut self) -> Option<usize> {
        self.is_given("WORKERS").then(|| self.number("WORKERS", 1, MAX_WORKERS) as usize)
    }

    /// `6m`, `64m`, `1g`.
    fn memory(&mut self) -> Option<usize> {
        let text = self.take_given("MEMORY_LIMIT");
        let bytes = bytes(&text);
        if bytes.is_none() && !text.is_empty() {
            self.reject_value("MEMORY_LIMIT", &text, format_args!("no amount of memory like 500k, 64m or 1g"));
        }
        bytes
    }

    fn limits(&mut self) -> Limits {
        Limits {
            connections: self.number("MAX_CONNECTIONS", 1, MAX_CONNECTIONS) as usize,
            counters: self.number("MAX_COUNTERS", 1, MAX_COUNTERS) as usize,
            store: self.time("STORE_TIMEOUT", 1),
            header: self.time("REQUEST_TIMEOUT", 1),
            idle: self.time("IDLE_TIMEOUT", 1),
            send: self.time("WRITE_TIMEOUT", 1),
            drain_delay: self.time("DRAIN_DELAY", 0),
            drain: self.time("DRAIN_TIMEOUT", 0),
        }
    }

    /// A whole number from `least` to `most`: whoever asks has room for `most`.
    fn number(&mut self, name: &'static str, least: u64, most: u64) -> u64 {
        let text = self.text(name);
        number(&text, least, most).unwrap_or_else(|| {
            self.reject_value(name, &text, format_args!("no number from {least} to {most}"));
            least
        })
    }

    /// `500ms`, `5s`, `2m`: at least so many milliseconds, at most a day.
    fn time(&mut self, name: &'static str, least: u64) -> Duration {
        let text = self.text(name);
        match millis(&text) {
            Ok(millis) if (least..=MAX_MILLIS).contains(&millis) => return Duration::from_millis(millis),
            Ok(_) => self.reject_value(name, &text, format_args!("not between {least}ms and 24 hours")),
            Err(problem) => self.reject_value(name, &text, format_args!("{problem}")),
        }
        Duration::ZERO
    }

    /// The place of what is set among `choices`.
    fn choice(&mut self, name: &'static str, choices: &[&str]) -> usize {
        let text = self.text(name);
        choices.iter().position(|choice| text.eq_ignore_ascii_case(choice)).unwrap_or_else(|| {
            self.reject_value(name, &text, format_args!("none of {}", choices.join(", ")));
            0
        })
    }

    /// What is set, or else the default.
    fn text(&mut self, name: &'static str) -> String {
        let text = self.take_given(name);
        if text.is_empty() { default(name).to_owned() } else { text }
    }

    /// What is set; empty if nothing is.
    fn take_given(&mut self, name: &'static str) -> String {
        self.raw(name).cloned().unwrap_or_default().into_string().unwrap_or_else(|_| {
            self.reject(name, format_args!("not UTF-8"));
            String::new()
        })
    }

    fn raw(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    fn reject_value(&mut self, name: &'static str, text: &str, problem: fmt::Arguments<'_>) {
        let mut shown = String::new();
        quote(&mut shown, text);
        self.reject(name, format_args!("{shown} is {problem}"));
    }

    fn reject(&mut self, name: &'static str, problem: fmt::Arguments<'_>) {
        self.note(name, problem, setting_named(name));
    }

    /// Keeps what is wrong with a variable, unless something was wrong before; the example is that of a setting.
    fn note(&mut self, name: &str, problem: fmt::Arguments<'_>, Setting { name: other, example, .. }: &Setting) {
        self.invalid.get_or_insert_with(|| Invalid(format!("{name}: {problem}, for example {other}={example}")));
    }

    /// Refuses a setting beside another, if that is given.
    fn exclude(&mut self, name: &'static str, other: &str) {
        if self.is_given(other) {
            self.reject(name, format_args!("{other} is set too: unset one of them"));
        }
    }
}

/// Whether it is one of the variables that Kubernetes sets for each service of a namespace, or Docker for a link:
/// `REDIS_SERVICE_HOST`, `REDIS_PORT_6379_TCP_ADDR`, and the same for a service called `redis-something`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    const PORT: &[u8] = b"_PORT_";
    let is_numbered_port = |part: &[u8]| part.starts_with(PORT) && part[PORT.len()].is_ascii_digit();
    ["_SERVICE_HOST", "_SERVICE_PORT", "_ENV_"].iter().any(|part| contains(name, part))
        || (name.ends_with("_PORT") && contains(value, "://"))
        || name.as_bytes().windows(PORT.len() + 1).any(is_numbered_port)
        || (name.ends_with("_NAME") && value.starts_with('/'))
}

/// Whether `part` is somewhere in a short text. The search of the standard library, which is fast in long ones, is 2 kB.
fn contains(text: &str, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window == part.as_bytes())
}

/// The setting of Redis whose name is most like this one: one that goes on where it ends, or the other way round, or else
/// the one that takes fewest changes to a letter.
fn nearest(name: &str) -> &'static Setting {
    let name = &*name.to_ascii_uppercase();
    let of_redis = SETTINGS.iter().filter(|setting| setting.name.starts_with(REDIS));
    let distance = |setting: &&Setting| {
        let is_part = name.len() > REDIS.len() && (setting.name.starts_with(name) || name.starts_with(setting.name));
        if is_part { 0 } else { edit_distance(name.as_bytes(), setting.name.as_bytes()) }
    };
    of_redis.min_by_key(distance).unwrap_or(&SETTINGS[0])
}

/// How many letters have to be added, left out or replaced to make one word of the other (Levenshtein distance).
fn edit_distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, another) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != another);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// What the names of all settings of Redis begin with.
const REDIS: &str = "REDIS_";

/// Names in the environment of the stack that are not for us, but for the Redis beside us and for building it.
const OTHERS: [&str; 3] = ["REDIS_ADMIN_PASSWORD", "REDIS_ADMIN_PASSWORD_FILE", "REDIS_IMAGE"];

fn default(name: &str) -> &'static str {
    setting_named(name).default
}

/// The setting of this name, which is one of ours.
fn setting_named(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).unwrap_or(&SETTINGS[0])
}

/// The members of a list between commas, without the blanks around them.
fn members(list: &str) -> Vec<String> {
    if list.is_empty() { Vec::new() } else { list.split(',').map(|member| member.trim_ascii().to_owned()).collect() }
}

/// What stands before and after the last `mark`, a byte of ASCII.
fn split_last(text: &str, mark: u8) -> Option<(&str, &str)> {
    text.bytes().rposition(|byte| byte == mark).map(|at| (&text[..at], &text[at + 1..]))
}

fn number(text: &str, least: u64, most: u64) -> Option<u64> {
    // The standard library takes a plus sign, too.
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.filter(|number| (least..=most).contains(number))
}

fn millis(text: &str) -> Result<u64, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("no duration like 500ms, 5s or 2m"),
    };
    number(amount, 0, MAX_MILLIS).map(|amount| amount * unit).ok_or("no duration up to 24 hours")
}

/// Bytes, or so many times 2^10, 2^20 or 2^30 of them.
fn bytes(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let unit = ["", "k", "m", "g"].iter().position(|name| unit.eq_ignore_ascii_case(name))?;
    amount.parse::<usize>().ok()?.checked_mul(1 << (10 * unit))
}

fn port(text: &str) -> Option<u16> {
    let digits = if text.starts_with("tcp://") { split_last(text, b':')?.1 } else { text };
    number(digits, 1, u16::MAX.into()).map(|port| port as u16)
}

/// Takes `redis://[user:password@]host[:port][/db]` apart. What it says of a problem does not repeat the URL.
fn parse_url(url: &str, login: &mut RedisConfig) -> Result<(), &'static str> {
    if url.starts_with("rediss://") {
        return Err("TLS is not spoken here: put a tunnel in between and name its plain end");
    }
    let rest = url.strip_prefix("redis://").ok_or("does not begin with redis://")?;
    let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = split_last(authority, b'@').unwrap_or(("", authority));
    let (host, port) = host_and_port(place)?;
    login.host = host.to_owned();
    let (username, password) = user.split_once(':').unwrap_or(("", user));
    login.username = decoded(username)?;
    login.password = decoded(password)?;
    if let Some(digits) = port {
        login.port = self::port(digits).ok_or("the port is no number from 1 to 65535")?;
    }
    if !db.is_empty() {
        login.db = number(db, 0, MAX_DB).ok_or("the database is no number")? as u32;
    }
    Ok(())
}

/// Takes `host[:port]` apart; an IPv6 address stands in brackets.
fn host_and_port(place: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (host, port) = match place.strip_prefix('[') {
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        Some(rest) => match rest.split_once(']').ok_or("the bracket of the address is not closed")? {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':').ok_or("something other than a port follows the host")?)),
        },
    };
    if host.is_empty() { Err("no host is named") } else { Ok((host, port)) }
}

/// Whether it reads as browsers write origins: scheme, host, and the port unless it is the usual one, without capitals
/// (HTML standard, "serialization of an origin"). Any other would never be like what they send.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let Some(Ok((host, port))) = rest.strip_prefix("//").map(host_and_port) else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-._:".contains(&byte);
    let is_port = match (scheme, port) {
        (_, None) => true,
        ("https", Some("443")) | ("http", Some("80")) => false,
        (_, Some(port)) => !port.starts_with('0') && number(port, 1, u16::MAX.into()).is_some(),
    };
    text.len() <= MAX_ORIGIN && !scheme.is_empty() && scheme.bytes().chain(host.bytes()).all(plain) && is_port
}

/// Undoes percent-encoding; `None` if nothing is there.
fn decoded(text: &str) -> Result<Option<String>, &'static str> {
    const WRONG: &str = "a percent sign is not followed by two hexadecimal digits of UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or(WRONG);
                ((digit(high)? * 16 + digit(low)?) as u8, tail)
            }
            (b'%', _) => return Err(WRONG),
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Takes the line ends off that an editor leaves behind a password. Whatever another program might take for another
/// password is refused, with what is wrong with it: `notch-redis` has the same rule (`secret` in redis/notch-redis).
fn password(content: Vec<u8>) -> Result<String, &'static str> {
    if content.len() > MAX_PASSWORD {
        return Err("is longer than 16384 bytes");
    }
    let mut text = String::from_utf8(content).map_err(|_| "is not UTF-8")?;
    while let Some(line) = text.strip_suffix('\n') {
        let length = line.strip_suffix('\r').unwrap_or(line).len();
        text.truncate(length);
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = text.as_bytes();
    if text.starts_with('\u{feff}') {
        Err("begins with a byte order mark")
    } else if text.is_empty() {
        Err("is empty")
    } else if bytes.contains(&b'\n') {
        Err("has more than one line")
    } else if is_blank(bytes.first()) || is_blank(bytes.last()) {
        Err("begins or ends with a space or tab")
    } else if text.contains(char::is_control) {
        Err("contains a control character")
    } else {
        Ok(text)
    }
}

/// Longest origin in bytes; the name of a host has 253 at most.
const MAX_ORIGIN: usize = 280;

/// Where Redis listens if nobody says otherwise.
const REDIS_PORT: u16 = 6379;

/// Files open beside connections: the log, the ledger and its successor, the listener, the signals, a file that is read.
const FILES: usize = 16;

/// Files that a worker has open: its event queue, its alarm, and its way to the store or four to name servers.
const FILES_PER_WORKER: usize = 8;

/// Most event loops.
const MAX_WORKERS: u64 = 64;

/// Most connections; a million is what a Linux process may have of files by default.
const MAX_CONNECTIONS: u64 = 1_000_000;

/// Most named counters.
const MAX_COUNTERS: u64 = 1_000_000;

/// Highest database number that Redis can be configured to have.
const MAX_DB: u64 = i32::MAX as u64;

/// Longest welcome in bytes.
const MAX_WELCOME: usize = 1024;

/// Longest name of a host (POSIX).
const MAX_HOSTNAME: usize = 255;

/// Longest password in bytes: Redis takes no longer argument from a client that has not logged in.
const MAX_PASSWORD: usize = 16384;

/// A day.
const MAX_MILLIS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests;
