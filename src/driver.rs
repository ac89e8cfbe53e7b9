//! What both drivers share: the sequence of a server's life, how long to wait before the next attempt, and what the
//! log says of the store.
//!
//! A driver owns sockets, clock and threads, and nothing else; all decisions stand in the core.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use tracing::{debug, info, warn};

use self::capacity::{Capacity, bound, capacity, has_untaken, is_given_up, reset};
use self::health::{Health, StoreHealth};
use self::queue::Waiter;
use crate::batch::Batch;
use crate::config::{Limits, Store};
use crate::connection::{Record, ServerContext};
use crate::counter::{Command, Counters, Key, Names};
use crate::ledger::{self, Fsync, Ledger, OpenError, Origin};
use crate::metrics::{About, Metrics, WorkerMetrics};
use crate::redis::{Bound, Producer, RedisConfig};
use crate::routes::Route;
use crate::system;

mod capacity;
mod health;
mod queue;
mod reply_timeout;
mod resolver;
mod slots;
pub mod threads;
#[cfg(feature = "tokio")]
pub mod tokio;

/// Why serving could not begin.
#[derive(Debug)]
pub enum Failure {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The ledger cannot be used.
    Ledger(PathBuf, OpenError),
    /// So many files may be open, and so many are needed for so many event loops.
    Files(usize, usize, usize),
    /// So many bytes of memory are too few for so many event loops.
    Memory(usize, usize),
    /// The system gives no thread or event queue.
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
            Self::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {}: another process does; stop it, or set LISTEN to another port",
                    DisplayAddr(*address)
                )
            }
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {}: {error}; set LISTEN to another address", DisplayAddr(*address))
            }
            Self::Ledger(path, unusable) => write!(f, "cannot count in {}: {unusable}", path.to_string_lossy()),
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
            Self::System(error) => write!(f, "the system refuses a thread or an event queue: {error}"),
        }
    }
}

/// Seconds since 1970.
#[must_use]
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// So long from now on. Reading the clock takes 50 bytes each time that it is written out, so it is here.
#[inline(never)]
fn deadline_after(long: Duration) -> Instant {
    Instant::now() + long
}

/// How long it is until then; nothing if that is past.
#[inline(never)]
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Starts a thread with a stack of so many bytes. Its work comes boxed, so that the code around it is there once.
fn spawn(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}

/// Connects to the first address of Redis that accepts, on the thread that waits for it, within `patience`. The name is
/// looked up each time, since a container's address changes.
fn connect(config: &RedisConfig, patience: Duration) -> Result<TcpStream, StoreHealth> {
    let deadline = deadline_after(patience);
    // However slow the name servers are, half of the time is left to connect.
    let addresses = resolver::look_up(&config.host, config.port, deadline_after(patience / 2))?;
    let mut status = CLOSED;
    for (tried, address) in addresses.iter().enumerate() {
        // Each has its share, so that one that nobody is behind any more does not hide the next.
        let share = (remaining(deadline) / (addresses.len() - tried) as u32).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, share) {
            Ok(socket) => return socket.set_nodelay(true).map(|()| socket).map_err(|_| CLOSED),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => status = StoreHealth::Away("it cannot be reached"),
            Err(_) => status = StoreHealth::Away("nobody accepts connections there: is Redis running?"),
        }
    }
    Err(status)
}

/// Opens the ledger, and puts into words which file it is and what is in it: whoever sees a count begin anew looks there
/// first.
///
/// # Errors
/// [`Failure::Ledger`].
fn open_ledger(path: &Path, fsync: Fsync, counters: &Counters, limits: &Limits) -> Result<(Ledger, String), Failure> {
    // The names of a list have a place each.
    let named = if matches!(counters.names, Names::Any) { limits.counters } else { usize::MAX };
    let opened = Ledger::open(path, fsync, ledger::Bound { main: counters.main, named });
    let (ledger, found) = opened.map_err(|unusable| Failure::Ledger(path.to_owned(), unusable))?;
    let (file, key) = (found.path.to_string_lossy(), String::from_utf8_lossy(counters.main.as_bytes()));
    if found.torn > 0 {
        warn!(bytes = found.torn, "cut the torn end of the ledger: what it held was answered to nobody");
    }
    if found.origin == Origin::Empty {
        log_warning(&format!("ledger {file}: it was there and is empty; if it had a count, restore a copy"), None);
    }
    if let Some(other) = found.foreign_key {
        let words = format!("ledger {file}: it holds counters of another key, {other}, and none of {key}");
        log_warning(&(words + ": check COUNTER_KEY"), None);
    }
    let holds = match found.origin {
        Origin::Created => String::from("created, counting starts at 0"),
        Origin::Empty => String::from("counting starts at 0"),
        Origin::Opened => format!("{} visits so far", found.total),
    };
    Ok((ledger, format!("the ledger {file} ({holds})")))
}

/// Syncs a ledger that is due, if it is set to be synced now and then, and says when to do it next.
fn sync_if_due(ledger: &mut Ledger, due: Option<Instant>) -> Option<Instant> {
    let due = due.or_else(|| ledger.needs_sync().then(|| deadline_after(EVERY)))?;
    if Instant::now() < due {
        return Some(due);
    }
    let sound = ledger.is_sound();
    match ledger.sync() {
        Ok(()) => return None,
        Err(error) if sound => {
            log_warning("the ledger cannot be synced: a power cut would lose what was counted since", Some(&error));
        }
        Err(_) => {}
    }
    Some(deadline_after(EVERY))
}

/// Has a thread wait for `signals` that nothing else holds up, be it a disk or a full pipe behind the log.
///
/// The first one is handed to `stop` by its name; from then on the process has the time that `limits` give it, and no
/// more. The second one ends it at once. So does the first as long as serving has not begun, which is what the flag is
/// for that comes back.
fn watch(
    signals: SigSet,
    stack: usize,
    limits: &Limits,
    stop: Box<dyn Fn(&'static str) + Send>,
) -> io::Result<&'static AtomicBool> {
    let serving: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let longest = limits.drain_delay + limits.drain + EXIT_GRACE;
    let work = move || {
        let signal = received(signals);
        if !serving.load(Ordering::Relaxed) {
            process::exit(0);
        }
        let end = move || {
            thread::sleep(longest);
            process::exit(0);
        };
        // Without that thread, the server's own end has to do.
        let _ = spawn("deadline", stack, Box::new(end));
        stop(if signal == Signal::SIGINT { "SIGINT" } else { "SIGTERM" });
        received(signals);
        process::exit(0);
    };
    spawn("signals", stack, Box::new(work)).map(|_| serving)
}

fn received(signals: SigSet) -> Signal {
    loop {
        if let Ok(signal) = signals.wait() {
            return signal;
        }
    }
}

/// When nobody waits for the store any longer, so that the answers go out before `deadline`.
fn last_answers(deadline: Instant, limits: &Limits) -> Instant {
    deadline - (limits.drain / 4).min(LAST_ANSWERS)
}

/// Says how it ended: only an end that is not as it should be is worth a line of its own.
fn log_stopped(is_drained: bool, is_synced: bool) {
    if !is_drained {
        log_warning("stopping with connections still open: DRAIN_TIMEOUT has passed", None);
    }
    if !is_synced {
        log_warning("stopping without the disk, which does not answer: DRAIN_TIMEOUT has passed", None);
    }
    debug!("stopped");
}

/// Says that the disk has failed under a ledger, once and then at most every minute: those who are in doubt for it are
/// told so, but a visit more leaves no trace.
fn report_disk(ledger: &Ledger, reported: &mut Option<Instant>) {
    if !ledger.is_sound() && reported.is_none_or(|last| last.elapsed() >= REPORT) {
        *reported = Some(Instant::now());
        log_warning(
            "the disk under the ledger fails: visits are in doubt, and none is counted before all are in a new file",
            None,
        );
    }
}

/// Syncs a ledger for the last time.
fn sync_at_end(ledger: &mut Ledger) {
    if let Err(error) = ledger.sync() {
        log_warning("the ledger could not be synced: a power cut would lose the last visits", Some(&error));
    }
}

/// Where somebody who listens on `address` can be reached from this machine: on every address means loopback too.
#[must_use]
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// An address as in a URL. The standard library's way would be another 1 kB, since it can also pad.
pub struct DisplayAddr(pub SocketAddr);

impl fmt::Display for DisplayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V4(address) => write!(f, "{}:{}", address.ip(), address.port()),
            SocketAddr::V6(address) => match address.scope_id() {
                0 => write!(f, "[{}]:{}", address.ip(), address.port()),
                scope => write!(f, "[{}%{scope}]:{}", address.ip(), address.port()),
            },
        }
    }
}

/// The numbers of a server that begins now. `shared` says that more than one thread counts for each of its workers.
fn metrics(driver: &'static str, store: &Store, limits: &Limits, workers: usize, shared: bool) -> Metrics {
    let about = About { driver, store: store.name(), connections: limits.connections, since: unix_time() };
    Metrics::new(about, workers, shared)
}

/// Notes that a batch was answered that was sent at that time, and says when.
fn record_batch(tally: &WorkerMetrics, batch: &Batch<Waiter>, sent: Instant) -> Instant {
    let now = Instant::now();
    tally.record_batch(batch.waiter_count(), now - sent);
    now
}

/// Whether the store has counted something of a batch. That it was read proves little: so can a replica be.
fn has_counted(batch: &Batch<Waiter>) -> bool {
    batch.replies().any(|(command, total)| command.is_increment() && total.is_ok())
}

/// Who counts in Redis: another sender at each start, and for each worker.
fn producer(context: &ServerContext, limits: &Limits) -> Producer {
    let Counters { main, names } = &context.counters;
    let bound = matches!(names, Names::Any).then_some(Bound { main: *main, most: limits.counters });
    Producer { id: system::random(), retry_window: limits.store, bound }
}

/// What to ask the store, if anything, so that its health is known although nobody visits: whether it counts again,
/// where it `is_refusing`, or whether a connection that is `idle` still stands. Also when to look the next time.
fn probe(is_refusing: bool, idle: bool, store: &Store, main: Key) -> (Option<Command>, Duration) {
    match store {
        _ if is_refusing => (Some(Command::Increment { key: main, by: 0 }), PROBE_REFUSING),
        Store::Redis(_) if idle => (Some(Command::Ping), PROBE_IDLE),
        _ => (None, PROBE_IDLE),
    }
}

/// Which Redis it is, in words.
fn redis_address(config: &RedisConfig) -> String {
    format!("redis {}:{} db {}", config.host, config.port, config.db)
}

/// The one line that says where and into what notch counts.
fn announce(address: SocketAddr, into: &str, workers: usize, limits: &Limits) {
    let (version, connections) = (env!("CARGO_PKG_VERSION"), limits.connections);
    info!(workers, connections, version, "notch counts on http://{} into {into}", DisplayAddr(address));
}

/// Microseconds since the first time that this was asked, for records of requests.
#[cold]
#[inline(never)]
fn micros() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Logs the requests that were answered, one line each, and forgets them. Seldom wanted, it is out of the way.
#[cold]
#[inline(never)]
fn log_requests(records: &mut Vec<Record>) {
    for Record { method, path, route, status, number, micros } in records.drain(..) {
        let (route, status) = (Route::NAMES[route as usize], status.code());
        debug!(method = &*method, path = &*path, route, status, number, micros, "request");
    }
}

/// Says that all goes as it should. The drivers say in one place what they can: each call of a macro of `tracing` is
/// 350 bytes.
fn log_info(words: &str) {
    info!("{words}");
}

/// Says that something does not go as it should, and what to do.
fn log_warning(words: &str, error: Option<&io::Error>) {
    warn!(error = error.map(tracing::field::display), "{words}");
}

/// Growing pauses between attempts, from [`Backoff::FIRST`] to [`Backoff::LAST`].
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Backoff {
    /// Short enough not to be felt.
    const FIRST: Duration = Duration::from_millis(10);
    /// Long enough to cost nothing, short enough for a store that is back to be found at once.
    const LAST: Duration = Duration::from_millis(250);

    /// Whether no pause has been asked for since the last success.
    #[must_use]
    fn is_first(&self) -> bool {
        self.0 == Self::FIRST
    }

    /// The next pause.
    fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LAST);
        pause
    }
}

const SILENT: StoreHealth = StoreHealth::Away("it does not answer in time");

const CLOSED: StoreHealth = StoreHealth::Away("it has closed the connection");

/// What the process may take to end once `DRAIN_TIMEOUT` has passed.
const EXIT_GRACE: Duration = Duration::from_millis(250);

/// How long before the end of `DRAIN_TIMEOUT` nobody waits for the store any longer, if that is not more than a quarter
/// of it.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long a connection with the store may be idle before it is probed, so that one that has died unseen is replaced
/// before a visit needs it.
const PROBE_IDLE: Duration = Duration::from_secs(5);

/// How long after a refusal the store is asked again whether it counts.
const PROBE_REFUSING: Duration = Duration::from_secs(1);

/// How long a disk that fails is not reported again.
const REPORT: Duration = Duration::from_secs(60);

/// How long a batch may be without a sync under `FSYNC=everysec`.
const EVERY: Duration = Duration::from_secs(1);

/// Closing a connection on bytes that were not read would take the answer back, so the rest is read away for so long.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_the_standard_library_writes_them() {
        for text in ["127.0.0.1:80", "[::1]:8080", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!((DisplayAddr(address).to_string(), address.to_string()), (text.to_owned(), text.to_owned()));
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250]);
    }
}
