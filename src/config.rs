//! Parses the environment once into a [`Config`]. The values in it need no further check.
//!
//! An empty value counts as unset. An invalid one stops the start with one line that names the variable, states what is
//! wrong and shows an example. Values that may contain a password are never repeated. A setting that another one would
//! override, or a variable `REDIS_*` that notch does not read, is invalid too, so no setting is ignored silently.
//!
//! Each setting has a method of [`Env`]: those of Redis in `redis`, the others in this file. `values` parses the kinds
//! of values that several settings have; `settings` has the table of all settings, from which `--help` is made.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

pub use self::settings::help;
use self::settings::{ONE_SLOT, Setting, default, setting_named};
use self::values::is_origin;
use crate::connection::ServerContext;
use crate::cors::{self, Origins};
use crate::counter::{Counters, Key, Names};
use crate::ledger::Fsync;
use crate::log::{Format, quote};
use crate::metrics::Metrics;
use crate::redis::{RedisConfig, Servers, is_one_slot};
use crate::render::Welcome;
use crate::system;
use crate::system::socket_file::{MAX_PATH, Rights};

mod redis;
mod settings;
mod tls;
mod values;

/// All settings of the process.
pub struct Config {
    /// Level and format of the log.
    pub log: Logging,
    /// Where to serve.
    pub listen: Listen,
    /// Rights of a Unix socket to serve on.
    pub listen_rights: Rights,
    /// Store that counts.
    pub store: Store,
    /// Data that all responses share.
    pub context: ServerContext,
    /// Number of event loops; `None` chooses it by processors and memory.
    pub workers: Option<usize>,
    /// Most bytes of memory to use, if that is less than control groups allow.
    pub memory: Option<usize>,
    /// Limits of time and number.
    pub limits: Limits,
}

/// Where to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On an address and port.
    Tcp(SocketAddr),
    /// On the Unix socket at an absolute path.
    Unix(String),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{path}"),
        }
    }
}

/// The two kinds of store.
pub enum Store {
    /// A Redis server.
    Redis(RedisConfig),
    /// A local file.
    Ledger(PathBuf, Fsync),
}

impl Store {
    /// Returns the name of the kind of store, as log and metrics show it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Ledger(..) => "ledger",
        }
    }
}

/// Limits of time and number that the drivers apply.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Named counters in the store where `COUNTERS` allows any name.
    pub counters: usize,
    /// How long a visit waits for the store.
    pub store: Duration,
    /// How long a request may take to arrive, from its first byte on.
    pub request: Duration,
    /// How long a connection may be open without a request.
    pub idle: Duration,
    /// How long a client may take to read a response.
    pub write: Duration,
    /// How long to serve after a signal before the listener closes, so that a balancer notices.
    pub drain_delay: Duration,
    /// How long to wait for responses in flight after that.
    pub drain: Duration,
}

/// Returns how many open files `workers` event loops need, connections not included.
#[must_use]
pub fn files_needed(workers: usize) -> usize {
    BASE_FILES + workers * FILES_PER_WORKER
}

/// Level and format of the log.
pub struct Logging {
    /// `off` to `debug`.
    pub level: LevelFilter,
    /// Text or JSON.
    pub format: Format,
}

/// A setting that is invalid: its name, the problem, and an example.
#[derive(Debug)]
pub struct InvalidSetting(String);

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Environment variables, names and values. Keeps the first setting that is invalid and continues, so that the methods
/// that read settings return plain values.
pub struct Env {
    variables: Vec<(OsString, OsString)>,
    invalid: Option<InvalidSetting>,
}

impl Env {
    /// Takes all variables; of two with the same name, the first applies.
    #[must_use]
    pub fn new(variables: Vec<(OsString, OsString)>) -> Self {
        Self { variables, invalid: None }
    }

    /// Reads every setting. Returns them in a box, because the structure is large.
    ///
    /// # Errors
    /// The first [`InvalidSetting`].
    pub fn config(mut self) -> Result<Box<Config>, InvalidSetting> {
        let log = self.logging();
        let listen = self.listen();
        let config = Box::new(Config {
            context: self.context(log.level >= LevelFilter::DEBUG),
            log,
            listen_rights: self.listen_rights(&listen),
            listen,
            store: self.store(),
            workers: self.workers(),
            memory: self.memory(),
            limits: self.limits(),
        });
        if let Store::Redis(RedisConfig { servers: Servers::Cluster { .. }, .. }) = config.store
            && !is_one_slot(&config.context.counters)
        {
            let problem = "the counters are in several slots of the cluster: put a part of the key in braces";
            self.set_invalid("COUNTER_KEY", format_args!("{problem}"), &ONE_SLOT);
        }
        self.finish(config)
    }

    /// Reads the address that a notch with this environment serves on, for `notch healthcheck`.
    ///
    /// # Errors
    /// `LISTEN` or `PORT` is an [`InvalidSetting`].
    pub fn address(mut self) -> Result<Listen, InvalidSetting> {
        let listen = self.listen();
        self.finish(listen)
    }

    /// Reads the file of the ledger and the key of the main counter, for `notch ledger`.
    ///
    /// # Errors
    /// `COUNTER_KEY` is an [`InvalidSetting`].
    pub fn ledger(mut self) -> Result<(PathBuf, Key), InvalidSetting> {
        let ledger = (self.ledger_path(), self.key());
        self.finish(ledger)
    }

    fn finish<T>(self, value: T) -> Result<T, InvalidSetting> {
        self.invalid.map_or(Ok(value), Err)
    }

    fn logging(&mut self) -> Logging {
        let levels = [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG];
        Logging {
            level: levels[self.choice("LOG_LEVEL", &["off", "error", "warn", "info", "debug"])],
            format: [Format::Text, Format::Json][self.choice("LOG_FORMAT", &["text", "json"])],
        }
    }

    fn context(&mut self, records_requests: bool) -> ServerContext {
        let welcome = self.value_or_default("WELCOME");
        if welcome.len() > MAX_WELCOME {
            self.reject("WELCOME", format_args!("longer than {MAX_WELCOME} bytes"));
        }
        ServerContext {
            counters: Counters { main: self.key(), names: self.names() },
            origins: self.origins(),
            served_by: self.hostname(),
            welcome: Welcome::new(&welcome),
            page_refresh: self.page_refresh(),
            metrics: Metrics::default(),
            records_requests,
        }
    }

    /// Returns milliseconds, 0 to turn it off.
    fn page_refresh(&mut self) -> i64 {
        let millis = self.duration("PAGE_REFRESH", 0).as_millis() as i64;
        if millis != 0 && millis < MIN_REFRESH {
            self.reject("PAGE_REFRESH", format_args!("shorter than 1s, and not 0s"));
        }
        millis
    }

    fn key(&mut self) -> Key {
        let name = self.value_or_default("COUNTER_KEY");
        if let Some(key) = Key::new(name.as_bytes()).filter(|_| name.len() <= Counters::MAX_MAIN) {
            return key;
        }
        let max = Counters::MAX_MAIN;
        let expected = format_args!("1 to {max} printable ASCII characters without quotes, \\, <, > and &");
        self.reject_value("COUNTER_KEY", &name, expected);
        Key::new(default("COUNTER_KEY").as_bytes()).expect("the default is a valid key")
    }

    fn names(&mut self) -> Names {
        let list = self.value_or_default("COUNTERS");
        if list.trim_ascii() == "*" {
            return Names::Any;
        }
        let names = values::split_list(&list);
        if !names.iter().all(|name| Names::is_well_formed(name.as_bytes())) {
            let max = Names::MAX;
            let expected = format_args!(
                "a list of names of 1 to {max} letters, digits, dots, hyphens, underscores, not ending in .gif"
            );
            self.reject_value("COUNTERS", &list, expected);
        }
        Names::List(names)
    }

    fn origins(&mut self) -> Origins {
        let list = self.value_or_default("CORS_ORIGINS");
        let origins = values::split_list(&list);
        let max = Origins::MAX;
        if list.trim_ascii() != cors::ANY && (origins.len() > max || !origins.iter().all(|origin| is_origin(origin))) {
            let expected = format_args!("a list of up to {max} origins as browsers send them, scheme://host[:port]");
            self.reject_value("CORS_ORIGINS", &list, expected);
        }
        Origins::new(origins)
    }

    /// Returns the host name, which identifies this replica. It is read from the kernel, because not every environment
    /// has `HOSTNAME`.
    fn hostname(&self) -> String {
        let kernel = system::read_text("/proc/sys/kernel/hostname".as_ref()).ok();
        let name = kernel.or_else(|| self.raw("HOSTNAME")?.to_str().map(str::to_owned)).unwrap_or_default();
        let name = name.trim_ascii();
        let is_valid =
            !name.is_empty() && name.len() <= MAX_HOSTNAME && name.bytes().all(|byte| byte.is_ascii_graphic());
        String::from(if is_valid { name } else { "notch" })
    }

    fn listen(&mut self) -> Listen {
        let port = self.number("PORT", 0, u16::MAX.into()) as u16;
        let text = self.value("LISTEN");
        if !text.is_empty() {
            self.reject_both("LISTEN", "PORT");
        }
        let any_address = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let address = match text.strip_prefix(':') {
            _ if text.is_empty() => Some(any_address(port)),
            Some(port) => values::parse_number(port, 0, u16::MAX.into()).map(|port| any_address(port as u16)),
            None => match text.strip_prefix(UNIX) {
                Some(path) if values::is_socket_path(path) => return Listen::Unix(path.to_owned()),
                _ => text.parse().ok(),
            },
        };
        Listen::Tcp(address.unwrap_or_else(|| {
            let expected =
                format_args!("an IP address and port, or unix: and an absolute path of at most {MAX_PATH} bytes");
            self.reject_value("LISTEN", &text, expected);
            any_address(port)
        }))
    }

    /// Reads the mode of a Unix socket, and the user and group that own it.
    fn listen_rights(&mut self, listen: &Listen) -> Rights {
        let text = self.value_or_default("LISTEN_MODE");
        if self.is_set("LISTEN_MODE") && matches!(listen, Listen::Tcp(_)) {
            self.reject("LISTEN_MODE", format_args!("LISTEN is not a Unix socket: unset LISTEN_MODE"));
        }
        values::parse_rights(&text).unwrap_or_else(|| {
            let expected = "MODE[:[USER:]GROUP], an octal mode and names of /etc/passwd and /etc/group, or numbers";
            self.reject_value("LISTEN_MODE", &text, format_args!("{expected}"));
            Rights { mode: 0, user: None, group: None }
        })
    }

    /// Returns the absolute path, which log lines show.
    fn ledger_path(&self) -> PathBuf {
        system::absolute_path(self.raw("LEDGER").map_or(default("LEDGER").as_ref(), OsString::as_os_str))
    }

    fn workers(&mut self) -> Option<usize> {
        self.is_set("WORKERS").then(|| self.number("WORKERS", 1, MAX_WORKERS) as usize)
    }

    fn memory(&mut self) -> Option<usize> {
        let text = self.value("MEMORY_LIMIT");
        let bytes = values::parse_bytes(&text);
        if bytes.is_none() && !text.is_empty() {
            self.reject_value("MEMORY_LIMIT", &text, format_args!("an amount of memory like 500k, 64m or 1g"));
        }
        bytes
    }

    fn limits(&mut self) -> Limits {
        Limits {
            connections: self.number("MAX_CONNECTIONS", 1, MAX_CONNECTIONS) as usize,
            counters: self.number("MAX_COUNTERS", 1, MAX_COUNTERS) as usize,
            store: self.duration("STORE_TIMEOUT", 1),
            request: self.duration("REQUEST_TIMEOUT", 1),
            idle: self.duration("IDLE_TIMEOUT", 1),
            write: self.duration("WRITE_TIMEOUT", 1),
            drain_delay: self.duration("DRAIN_DELAY", 0),
            drain: self.duration("DRAIN_TIMEOUT", 0),
        }
    }

    /// Reads a whole number from `min` to `max`; the caller casts it to a type that holds `max`.
    fn number(&mut self, name: &'static str, min: u64, max: u64) -> u64 {
        let text = self.value_or_default(name);
        values::parse_number(&text, min, max).unwrap_or_else(|| {
            self.reject_value(name, &text, format_args!("a number from {min} to {max}"));
            min
        })
    }

    /// Reads a duration of at least `min` milliseconds and at most 24 hours.
    fn duration(&mut self, name: &'static str, min: u64) -> Duration {
        let text = self.value_or_default(name);
        let millis = values::parse_millis(&text, min).unwrap_or_else(|| {
            let expected = format_args!("a duration from {min}ms to 24 hours, like 500ms, 5s or 2m");
            self.reject_value(name, &text, expected);
            min
        });
        Duration::from_millis(millis)
    }

    /// Reads one of `choices`, in any case. Returns its index.
    fn choice(&mut self, name: &'static str, choices: &[&str]) -> usize {
        let text = self.value_or_default(name);
        choices.iter().position(|choice| text.eq_ignore_ascii_case(choice)).unwrap_or_else(|| {
            self.reject_value(name, &text, format_args!("one of {}", choices.join(", ")));
            0
        })
    }

    fn value_or_default(&mut self, name: &'static str) -> String {
        let value = self.value(name);
        if value.is_empty() { default(name).to_owned() } else { value }
    }

    /// Returns the value of a variable; empty if it is unset or invalid.
    fn value(&mut self, name: &'static str) -> String {
        self.raw(name).cloned().unwrap_or_default().into_string().unwrap_or_else(|_| {
            self.reject(name, format_args!("not UTF-8"));
            String::new()
        })
    }

    fn raw(&self, name: &str) -> Option<&OsString> {
        let variable = self.variables.iter().find(|(other, _)| other == name);
        variable.map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// Returns whether the user has set a variable. Kubernetes sets `REDIS_PORT=tcp://10.0.0.1:6379` for a service
    /// called redis; that does not count.
    fn is_set(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| name != "REDIS_PORT" || !value.to_string_lossy().contains("://"))
    }

    /// Rejects a setting because of its value, which contains no password.
    fn reject_value(&mut self, name: &'static str, value: &str, expected: fmt::Arguments<'_>) {
        let mut name_and_value = ["invalid ", name, " "].concat();
        quote(&mut name_and_value, value);
        self.set_invalid(&name_and_value, format_args!("expected {expected}"), setting_named(name));
    }

    fn reject(&mut self, name: &'static str, problem: fmt::Arguments<'_>) {
        self.set_invalid(name, problem, setting_named(name));
    }

    /// Rejects a setting if `other` is set too.
    fn reject_both(&mut self, name: &'static str, other: &str) {
        if self.is_set(other) {
            self.reject(name, format_args!("{other} is set too: unset one of them"));
        }
    }

    /// Keeps an error, unless there is an earlier one; the example is that of the setting.
    fn set_invalid(&mut self, subject: &str, problem: fmt::Arguments<'_>, Setting { name, example, .. }: &Setting) {
        let message = || InvalidSetting(format!("{subject}: {problem}, for example {name}={example}"));
        self.invalid.get_or_insert_with(message);
    }
}

/// What precedes the path of a Unix socket.
const UNIX: &str = "unix:";

/// Open files other than connections: the log, the ledger and its replacement, the listener, the signals, a file that
/// is read.
const BASE_FILES: usize = 16;

/// Files that a worker has open: its event queue, its timer, and its connection to the store or four to name servers.
const FILES_PER_WORKER: usize = 8;

/// Most event loops.
const MAX_WORKERS: u64 = 64;

/// Most connections; Linux allows a process a million open files by default.
const MAX_CONNECTIONS: u64 = 1_000_000;

/// Most named counters.
const MAX_COUNTERS: u64 = 1_000_000;

/// Longest welcome in bytes.
const MAX_WELCOME: usize = 1024;

/// Shortest time between two requests of an open page, in milliseconds.
const MIN_REFRESH: i64 = 1000;

/// Longest host name in bytes (POSIX).
const MAX_HOSTNAME: usize = 255;

#[cfg(test)]
mod tests;
