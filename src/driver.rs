//! Items that both drivers share: start and stop, connecting to Redis, pauses between attempts, and log lines.
//!
//! A driver owns sockets, the clock and threads, and nothing else; the core takes all decisions.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use tracing::{debug, info, warn};

use self::capacity::{Capacity, has_stalled, has_unacknowledged, plan_capacity, reset_on_close};
use self::deadline::{Deadline, Timer};
use self::health::{Health, StoreHealth};
use self::listener::Listener;
pub(crate) use self::listener::connect_unix;
use self::queue::Waiter;
use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::config::{Config, Limits, Listen, Store};
use crate::connection::{Record, ServerContext};
use crate::counter::{Command, Counters, Key, NameLimit, Names};
use crate::ledger::{Fsync, Ledger, OpenError, Origin};
use crate::metrics::{Metrics, ServerInfo, WorkerMetrics};
use crate::redis::{DisplayList, Producer, RedisConfig, Servers};
use crate::routes::Route;
use crate::system;
use crate::system::socket_file::SocketFile;

mod capacity;
mod deadline;
mod health;
mod link;
mod listener;
mod queue;
mod redis;
mod reply_timeout;
mod resolver;
mod slots;
pub mod threads;
#[cfg(feature = "tokio")]
pub mod tokio;

/// Errors that prevent serving.
#[derive(Debug)]
pub enum Failure {
    /// The address cannot be listened on.
    Listen(Listen, io::Error),
    /// The ledger cannot be used.
    Ledger(PathBuf, OpenError),
    /// The limit of open files is too low: the limit, the number of files needed, the number of event loops.
    Files(usize, usize, usize),
    /// There is too little memory: the limit in bytes, the number of event loops.
    Memory(usize, usize),
    /// The system refuses a thread or an event queue.
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                let (is_path, kind) = (matches!(address, Listen::Unix(_)), error.kind());
                let other = match kind {
                    _ if is_path => "path",
                    io::ErrorKind::AddrInUse => "port",
                    _ => "address",
                };
                write!(f, "cannot listen on {address}: ")?;
                match kind {
                    io::ErrorKind::AddrInUse => f.write_str("another process does; stop that process, or")?,
                    io::ErrorKind::NotFound if is_path => f.write_str("its folder does not exist; create it, or")?,
                    io::ErrorKind::AlreadyExists if is_path => {
                        f.write_str("the file there is not a socket; remove it, or")?;
                    }
                    io::ErrorKind::PermissionDenied if is_path => {
                        write!(f, "{error}; set LISTEN_MODE to a group of this user, or")?;
                    }
                    _ => write!(f, "{error};")?,
                }
                write!(f, " set LISTEN to another {other}")
            }
            Self::Ledger(path, error) => write!(f, "cannot open the ledger {}: {error}", path.to_string_lossy()),
            Self::Files(limit, needed, workers) => write!(
                f,
                "the limit of open files is {limit}, but WORKERS={workers} needs {needed}: raise it (ulimit -n), or \
                 lower WORKERS"
            ),
            Self::Memory(limit, workers) => write!(
                f,
                "{limit} bytes of memory are too few for WORKERS={workers}: raise the limit of the control group or \
                 MEMORY_LIMIT, or lower WORKERS"
            ),
            Self::System(error) => write!(f, "cannot create a thread or an event queue: {error}"),
        }
    }
}

/// Returns the time in seconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns the time that is `duration` from now.
#[inline(never)]
fn deadline_after(duration: Duration) -> Instant {
    Instant::now() + duration
}

/// Returns the time until `deadline`, zero if it has passed.
#[inline(never)]
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Returns the time until `deadline`, or an error if it has passed, since a socket's timeout cannot be zero.
fn remaining_or_timeout(deadline: Instant) -> io::Result<Duration> {
    let timeout = remaining(deadline);
    if timeout.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(timeout) }
}

/// Starts a thread with a stack of `stack` bytes. `work` is boxed, so that the code around it is compiled once.
fn spawn(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}

/// Opens the listener. Returns it with the file of a Unix socket, which exists until it is dropped.
#[inline(never)]
fn open_listener(config: &Config, capacity: &Capacity) -> Result<(Listener, Option<SocketFile>), Failure> {
    Listener::open(&config.listen, config.listen_rights, capacity)
        .map_err(|error| Failure::Listen(config.listen.clone(), error))
}

/// Opens the ledger. Returns it with its description for the log: the path, and how many visits it holds, since a count
/// that restarts at 0 may be due to another file.
///
/// # Errors
/// [`Failure::Ledger`].
fn open_ledger(path: &Path, fsync: Fsync, counters: &Counters, limits: &Limits) -> Result<(Ledger, String), Failure> {
    // A configured list of names is a limit itself.
    let most = if matches!(counters.names, Names::Any) { limits.counters } else { usize::MAX };
    let opened = Ledger::open(path, fsync, NameLimit { main: counters.main, most });
    let (ledger, found) = opened.map_err(|error| Failure::Ledger(path.to_owned(), error))?;
    let (file, key) = (found.path.to_string_lossy(), String::from_utf8_lossy(counters.main.as_bytes()));
    if found.torn > 0 {
        warn!(bytes = found.torn, "truncated a torn write at the end of the ledger: no visit in it got a response");
    }
    if found.origin == Origin::Empty {
        log_warning(&format!("the ledger {file} is empty; if it held visits, restore a copy"));
    }
    if let Some(other) = found.foreign_key {
        let message = format!("the ledger {file} holds counters of another key, {other}, and none of {key}");
        log_warning(&(message + ": check COUNTER_KEY"));
    }
    let content = match found.origin {
        Origin::Created => String::from("created, counting starts at 0"),
        Origin::Empty => String::from("counting starts at 0"),
        Origin::Opened => format!("{} visits so far", found.total),
    };
    Ok((ledger, format!("ledger {file}: {content}")))
}

/// Syncs the ledger if `due` has passed, under `FSYNC=everysec`. Returns the time of the next sync, if one is needed.
fn sync_if_due(ledger: &mut Ledger, due: Option<Deadline>, limits: &Limits) -> Option<Deadline> {
    let due = due.or_else(|| ledger.needs_sync().then(|| Timer::Sync.start(limits)))?;
    if !due.has_passed() {
        return Some(due);
    }
    let was_sound = ledger.is_sound();
    match ledger.sync() {
        Ok(()) => return None,
        Err(error) if was_sound => {
            log_system_error("cannot sync the ledger: a power cut would lose the visits since the last sync", &error);
        }
        Err(_) => {}
    }
    Some(Timer::Sync.start(limits))
}

/// Starts a thread that waits for `signals`. A slow disk or a full pipe of the log does not block this thread.
///
/// The first signal calls `stop` with its name; from then on the process exits within the time that `limits` allow. The
/// second signal ends the process at once. So does the first, until the caller sets the returned flag, which means that
/// serving has begun.
fn watch_signals(
    signals: SigSet,
    stack: usize,
    limits: &Limits,
    stop: Box<dyn Fn(&'static str) + Send>,
) -> io::Result<&'static AtomicBool> {
    let serving: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let timeout = Timer::Exit.duration(limits);
    let work = move || {
        let signal = wait_for_signal(signals);
        if !serving.load(Ordering::Relaxed) {
            process::exit(0);
        }
        let exit_at_deadline = move || {
            thread::sleep(timeout);
            process::exit(0);
        };
        // If the thread cannot be started, only the server itself ends the process.
        let _ = spawn("deadline", stack, Box::new(exit_at_deadline));
        stop(if signal == Signal::SIGINT { "SIGINT" } else { "SIGTERM" });
        wait_for_signal(signals);
        process::exit(0);
    };
    spawn("signals", stack, Box::new(work)).map(|_| serving)
}

fn wait_for_signal(signals: SigSet) -> Signal {
    loop {
        if let Ok(signal) = signals.wait() {
            return signal;
        }
    }
}

/// Logs the end of the process: a warning for each thing left undone, and a debug line.
fn log_stopped(is_drained: bool, is_synced: bool) {
    if !is_drained {
        log_warning("stopping with connections still open: DRAIN_TIMEOUT has passed");
    }
    if !is_synced {
        log_warning("stopping without a sync of the ledger, the disk is too slow: DRAIN_TIMEOUT has passed");
    }
    debug!("stopped");
}

/// Logs that the disk under the ledger fails, at most once a minute. A visit in doubt gets its own response; one that
/// is refused afterwards leaves no other trace.
fn report_disk(ledger: &Ledger, reported: &mut Option<Instant>) {
    if !ledger.is_sound() && reported.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL) {
        *reported = Some(Instant::now());
        log_warning(
            "the disk under the ledger fails: visits are in doubt, and none is counted until all are in a new file",
        );
    }
}

/// Syncs the ledger before the process exits.
fn sync_at_end(ledger: &mut Ledger) {
    if let Err(error) = ledger.sync() {
        log_system_error("cannot sync the ledger at exit: a power cut would lose the last visits", &error);
    }
}

/// Returns the address at which a listener on `address` is reached from this machine: loopback if it listens on all
/// addresses.
#[must_use]
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// Creates the metrics of a server that starts now. `shared`: several threads count for each worker.
fn create_metrics(driver: &'static str, store: &Store, limits: &Limits, workers: usize, shared: bool) -> Metrics {
    let info = ServerInfo { driver, store: store.name(), connections: limits.connections, start_time: unix_time() };
    Metrics::new(info, workers, shared)
}

/// Records a batch that was sent at `sent` and whose replies have arrived now. Returns the current time.
fn record_batch(metrics: &WorkerMetrics, batch: &Batch<Waiter>, sent: Instant) -> Instant {
    let now = Instant::now();
    metrics.record_batch(batch.waiter_count(), now - sent);
    now
}

/// Creates the identity under which a worker counts in Redis: another at each start, and for each worker.
fn producer(context: &ServerContext, limits: &Limits) -> Producer {
    let Counters { main, names } = &context.counters;
    let name_limit = matches!(names, Names::Any).then_some(NameLimit { main: *main, most: limits.counters });
    Producer { id: system::random_bits(), retry_window: limits.store, name_limit }
}

/// Returns the command that probes the store, if one is needed, and the timer of the next call. So the store's health
/// is checked without visits: if it `is_refusing`, whether it counts again; if its connection `is_idle`, whether the
/// connection is still open.
fn next_probe(is_refusing: bool, is_idle: bool, store: &Store, main: Key) -> (Option<Command>, Timer) {
    match store {
        _ if is_refusing => (Some(Command::Increment { key: main, by: 0 }), Timer::RefusalProbe),
        Store::Redis(_) if is_idle => (Some(Command::Ping), Timer::Probe),
        _ => (None, Timer::Probe),
    }
}

/// Returns the description of a Redis server for the log.
fn redis_address(config: &RedisConfig) -> String {
    let servers = match &config.servers {
        Servers::Single(address) => address.to_string(),
        Servers::Unix(path) => ["unix:", path].concat(),
        Servers::Sentinel { sentinels, name, .. } => format!("{name} of the Sentinels {}", DisplayList(sentinels)),
        Servers::Cluster { seeds } => format!("cluster {}", DisplayList(seeds)),
    };
    let over = if config.tls.is_some() { " over TLS" } else { "" };
    format!("redis {servers} db {}{over}", config.db)
}

/// Logs the one line of the start: the address, and `store`, the description of the store.
fn log_start(address: &Listen, store: &str, workers: usize, limits: &Limits) {
    let (version, connections) = (env!("CARGO_PKG_VERSION"), limits.connections);
    let scheme = if matches!(address, Listen::Tcp(_)) { "http://" } else { "" };
    info!(workers, connections, version, "listening on {scheme}{address} ({store})");
}

/// Returns microseconds since the first call, for records of requests.
#[cold]
#[inline(never)]
fn micros_since_start() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Logs the requests that got a response, one line each, and clears them. Only `LOG_LEVEL=debug` needs it, so it is
/// cold.
#[cold]
#[inline(never)]
fn log_requests(records: &mut Vec<Record>) {
    for Record { method, path, route, status, number, micros } in records.drain(..) {
        let (route, status) = (Route::NAMES[route as usize], status.code());
        debug!(method = &*method, path = &*path, route, status, number, micros, "request");
    }
}

// Lines without fields are logged by functions, because each use of a macro of `tracing` takes 350 bytes: 2 % of the
// image for all of them.

/// Logs an event at level INFO.
fn log_info(message: &str) {
    info!("{message}");
}

/// Logs a problem and its remedy at level WARN.
fn log_warning(message: &str) {
    warn!("{message}");
}

/// Logs an error of the system, what it means and the remedy at level WARN.
fn log_system_error(message: &str, error: &io::Error) {
    warn!(%error, "{message}");
}

const CONNECT_TIMED_OUT: StoreHealth = StoreHealth::Down("connecting timed out: check REDIS_HOST and the network");

const SILENT: StoreHealth = StoreHealth::Down("no reply in time");

const CLOSED: StoreHealth = StoreHealth::Down("the connection was closed");

/// Time between log lines about a disk that fails.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
#[path = "../tests/sim/sim.rs"]
mod sim;
