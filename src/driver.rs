//! What both drivers share: the sequence of a server's life, how long to wait before the next attempt, and what the
//! log says of the store.
//!
//! A driver owns sockets, clock and threads, and nothing else; all decisions stand in the core.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::batch::Batch;
use crate::config::{Limits, Store};
use crate::counter::{Ask, Cause, Fault, Key};
use crate::ledger::{Fsync, Ledger, Unusable};
use crate::metrics::{About, Metrics, Tally};
use crate::redis::{Broken, Login};

mod lookup;
mod queue;
pub mod threads;
#[cfg(feature = "tokio")]
pub mod tokio;

/// Why serving could not begin.
#[derive(Debug)]
pub enum Failure {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The ledger cannot be used.
    Ledger(PathBuf, Unusable),
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
                    Place(*address)
                )
            }
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {}: {error}; set LISTEN to another address", Place(*address))
            }
            Self::Ledger(path, unusable) => write!(f, "cannot count in {}: {unusable}", path.to_string_lossy()),
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
fn after(long: Duration) -> Instant {
    Instant::now() + long
}

/// How long it is until then; nothing if that is past.
#[inline(never)]
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Starts a thread with a stack of so many bytes. Its work comes boxed, so that the code around it is there once.
fn spawn(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}

/// Connects to the first address of Redis that accepts, on the thread that waits for it, within twice `patience`. The
/// name is looked up each time, since a container's address changes.
fn connect(login: &Login, patience: Duration) -> Result<TcpStream, Status> {
    let addresses = lookup::look_up(&login.host, after(patience))?;
    // Each has its share, so that one that nobody is behind any more does not hide the next.
    let share = (patience / addresses.len().max(1) as u32).max(Duration::from_millis(1));
    let mut status = CLOSED;
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(address, login.port), share) {
            Ok(socket) => return socket.set_nodelay(true).map(|()| socket).map_err(|_| CLOSED),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => status = Status::Away("it cannot be reached"),
            Err(_) => status = Status::Away("nobody accepts connections there: is Redis running?"),
        }
    }
    Err(status)
}

/// Opens the ledger and says what was cut of it.
///
/// # Errors
/// [`Failure::Ledger`].
fn open_ledger(path: &Path, fsync: Fsync) -> Result<Ledger, Failure> {
    let (ledger, torn) = Ledger::open(path, fsync).map_err(|unusable| Failure::Ledger(path.to_owned(), unusable))?;
    if torn > 0 {
        warn!(bytes = torn, "cut the torn end of the ledger: what it held was answered to nobody");
    }
    Ok(ledger)
}

/// Syncs a ledger that is due, if it is set to be synced now and then, and says when to do it next.
fn sync(ledger: &mut Ledger, due: Option<Instant>) -> Option<Instant> {
    let due = due.or_else(|| ledger.wants_sync().then(|| after(EVERY)))?;
    if Instant::now() < due {
        return Some(due);
    }
    let sound = ledger.is_sound();
    match ledger.sync() {
        Ok(()) => return None,
        Err(error) if sound => {
            caution("the ledger cannot be synced: a power cut would lose what was counted since", Some(&error));
        }
        Err(_) => {}
    }
    Some(after(EVERY))
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
pub struct Place(pub SocketAddr);

impl fmt::Display for Place {
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
fn settled(tally: &Tally, batch: &Batch<usize>, sent: Instant) -> Instant {
    let now = Instant::now();
    tally.settled(batch.len(), now - sent);
    now
}

/// The one line that says where and into what notch counts.
fn announce(address: SocketAddr, store: &Store, workers: usize, limits: &Limits) {
    let into = match store {
        Store::Redis(login) => format!("redis {}:{} db {}", login.host, login.port, login.db),
        Store::Ledger(path, _) => format!("the ledger {}", path.to_string_lossy()),
    };
    let (version, connections) = (env!("CARGO_PKG_VERSION"), limits.connections);
    info!(workers, connections, version, "notch counts on http://{} into {into}", Place(address));
}

/// Says that all goes as it should. The drivers say in one place what they can: each call of a macro of `tracing` is
/// 350 bytes.
fn inform(words: &str) {
    info!("{words}");
}

/// Says that something does not go as it should, and what to do.
fn caution(words: &str, error: Option<&io::Error>) {
    warn!(error = error.map(tracing::field::display), "{words}");
}

/// How the store is, as far as one worker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Nothing is known yet.
    Unknown,
    /// It counts.
    Up,
    /// It cannot be reached, or broke off.
    Away(&'static str),
    /// It answers and refuses.
    Refusing(Cause),
}

impl Status {
    /// What a broken session says of the store.
    #[must_use]
    fn of(broken: Broken) -> Self {
        match broken {
            Broken::Greeting(cause) => Self::Refusing(cause),
            Broken::Replica => Self::Refusing(Cause::ReadOnly),
            Broken::Garbage => Self::Away("what it says is not what was asked for: is it Redis?"),
        }
    }

    /// What a visitor is told who cannot be counted now.
    #[must_use]
    fn fault(self) -> Fault {
        match self {
            Self::Refusing(cause) => Fault::Refused(cause),
            _ => Fault::Down,
        }
    }

    /// Whether it may be otherwise in a moment, so that visits wait for it.
    #[must_use]
    fn passes(self) -> bool {
        match self {
            Self::Refusing(cause) => cause.passes() || cause == Cause::ReadOnly,
            _ => true,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Unknown | Self::Up => "",
            Self::Away(words) => words,
            Self::Refusing(cause) => cause.words(),
        }
    }

    /// Whether the log need not tell the two apart: an outage shows itself in more than one way.
    fn is_like(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Away(_), Self::Away(_)))
    }
}

/// What all workers know of the store, so that the log says each change once.
struct Health {
    workers: Vec<Status>,
    /// The key of the last reply that changed a worker's view.
    keys: Vec<Option<Key>>,
    said: Status,
    /// The log says that no receipts are kept.
    told: bool,
    /// What is known is also shown there.
    metrics: &'static Metrics,
}

impl Health {
    /// Nothing is known to any worker.
    #[must_use]
    fn new(metrics: &'static Metrics) -> Self {
        let (workers, keys) = (vec![Status::Unknown; metrics.workers()], vec![None; metrics.workers()]);
        Self { workers, keys, said: Status::Unknown, told: false, metrics }
    }

    /// Notes what a worker has seen and logs it if that changes the whole: the store is as well as the worker that
    /// sees it worst.
    fn note(&mut self, worker: usize, status: Status) {
        if self.workers[worker] == status {
            return;
        }
        self.workers[worker] = status;
        let known = self.workers.iter().filter(|&&status| status != Status::Unknown);
        let whole = *known.clone().find(|&&status| status != Status::Up).unwrap_or(&Status::Up);
        if self.said.is_like(whole) {
            return;
        }
        match whole {
            // The start has been announced.
            Status::Up if self.said == Status::Unknown => {}
            Status::Up => inform("the store counts again"),
            _ => warn!(because = whole.words(), "the store does not count, visits are refused until it does"),
        }
        self.said = whole;
        self.metrics.store_up.store(whole == Status::Up, Ordering::Relaxed);
    }

    /// What a visitor is told whom this worker gives up.
    #[must_use]
    fn fault(&self, worker: usize) -> Fault {
        self.workers[worker].fault()
    }

    /// Notes that Redis has greeted a worker, which is as much as a ping shows.
    fn greeted(&mut self, worker: usize) {
        if self.workers[worker] != Status::Unknown {
            self.metrics.worker(worker).reconnected();
        }
        self.hear(worker, Ask::Ping, Status::Up);
    }

    /// Notes that Redis keeps no receipts for us, and says so once.
    fn without_receipts(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            caution(
                "the store's user may not keep receipts: a visit whose reply is lost is in doubt and gets 504",
                None,
            );
        }
    }

    /// Notes what the store has made of a batch.
    fn learn(&mut self, worker: usize, replies: impl Iterator<Item = (Ask, Result<i64, Fault>)>) {
        for (ask, result) in replies {
            match result {
                Ok(_) => self.hear(worker, ask, Status::Up),
                Err(Fault::Refused(cause)) => self.hear(worker, ask, Status::Refusing(cause)),
                Err(Fault::Down | Fault::Full | Fault::Lost) => {}
            }
        }
    }

    /// Notes what the store has made of an ask.
    fn hear(&mut self, worker: usize, ask: Ask, status: Status) {
        if !self.is_moot(worker, &ask, status) {
            self.note(worker, status);
            self.keys[worker] = ask.key();
        }
    }

    /// Whether it says nothing new: only counting shows that counting works, where reads go on without it; and of a
    /// key that is in trouble, only that key shows that it is not any more.
    fn is_moot(&self, worker: usize, ask: &Ask, status: Status) -> bool {
        let Status::Refusing(cause) = self.workers[worker] else { return status == self.workers[worker] };
        let another = cause.is_of_the_key() && ask.key() != self.keys[worker];
        match status {
            Status::Refusing(new) => another && new.is_of_the_key(),
            _ => another || (!ask.counts() && cause.spares_reads()),
        }
    }
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

const CLOSED: Status = Status::Away("it has closed the connection");

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
            assert_eq!((Place(address).to_string(), address.to_string()), (text.to_owned(), text.to_owned()));
        }
    }

    fn health(workers: usize) -> Health {
        Health::new(Box::leak(Box::new(Metrics::new(About::default(), workers, false))))
    }

    #[test]
    fn the_store_is_as_well_as_the_worker_that_sees_it_worst() {
        let mut health = health(2);
        let (away, refusing) = (Status::Away("gone"), Status::Refusing(Cause::ReadOnly));
        for (worker, status, said) in [
            (0, Status::Up, Status::Up),
            (1, Status::Up, Status::Up),
            (1, away, away),
            (0, Status::Away("it cannot be reached"), away),
            (1, Status::Up, away),
            (0, refusing, refusing),
            (0, Status::Up, Status::Up),
        ] {
            health.note(worker, status);
            assert_eq!(health.said, said);
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), said == Status::Up);
        }
    }

    #[test]
    fn what_is_learnt_is_what_it_shows() {
        let refused = |cause| Err(Fault::Refused(cause));
        let key = |name: &[u8]| Key::new(name).expect("a good name");
        let (count, other) = (Ask::Count { key: key(b"a"), by: 1 }, Ask::Count { key: key(b"b"), by: 1 });
        let total = Ask::Total { key: key(b"a") };
        let mut health = health(1);
        for (ask, result, status) in [
            (count, refused(Cause::ReadOnly), Status::Refusing(Cause::ReadOnly)),
            (total, Ok(1), Status::Refusing(Cause::ReadOnly)),
            (Ask::Ping, Ok(0), Status::Refusing(Cause::ReadOnly)),
            (other, Ok(1), Status::Up),
            (total, refused(Cause::Loading), Status::Refusing(Cause::Loading)),
            (total, Ok(1), Status::Up),
            (count, Err(Fault::Lost), Status::Up),
            (count, refused(Cause::WrongType), Status::Refusing(Cause::WrongType)),
            (other, Ok(1), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::Overflow), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::OutOfMemory), Status::Refusing(Cause::OutOfMemory)),
            (count, Ok(1), Status::Up),
        ] {
            health.learn(0, [(ask, result)].into_iter());
            assert_eq!(health.workers[0], status, "{ask:?} {result:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250]);
    }
}
