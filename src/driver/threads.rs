//! The driver on the standard library alone: blocking sockets, one small thread per connection, one for the store.
//!
//! All threads share one `State` behind one lock. A client's thread adds its command to the batch and, if no batch is
//! in flight, sends the batch itself; then it parks. The store's thread reads the replies, wakes the waiting threads,
//! and sends the next batch. So a single visit takes two context switches, and a batch as many as it has visits.
//!
//! Threads are bounded by `MAX_THREADS` as well as `MAX_CONNECTIONS` and memory. At the bound, a connection is evicted
//! for the new one by the rules of `slots`; if all are being served, the new one waits.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use self::ledger::Written;
use self::redis::Connection;
use super::deadline::{Deadline, Timer};
use super::queue::{Queue, Waiter};
use super::slots::Eviction;
use super::{Capacity, Failure, Health, Listener, StoreHealth, spawn};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::config::{Config, Limits, Store};
use crate::connection::ServerContext;
use crate::counter::{Key, StoreError};
use crate::memory::Costs;
use crate::metrics::Metrics;
use crate::system::socket_file::SocketFile;

mod accept;
mod client;
mod ledger;
mod redis;
mod timer;

/// Serves until one of `signals` arrives, then drains and returns. The calling thread must have blocked `signals`.
///
/// # Errors
/// [`Failure`], if serving cannot begin.
pub fn run(mut config: Box<Config>, signals: SigSet) -> Result<(), Failure> {
    // The threads share one state, which counts as one event loop.
    config.workers = None;
    let capacity = super::plan_capacity(&config, COSTS, 1, MAX_THREADS)?;
    let (listener, file) = super::open_listener(&config, &capacity)?;
    let address = listener.address(&config.listen);
    let Capacity { workers, limits, share, .. } = capacity;
    config.context.metrics = super::create_metrics("threads", &config.store, &limits, workers, true);
    // It is never dropped: some threads that use it run until the process ends.
    let config: &_ = Box::leak(config);
    let server: &_ = Box::leak(Box::new(Server {
        context: &config.context,
        limits,
        share,
        is_unix: file.is_some(),
        draining: AtomicBool::new(false),
        stop_accepting: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        state: Mutex::new(State::new(&config.context.metrics, config.context.counters.main)),
        gathered: Condvar::new(),
        timer: Condvar::new(),
        changed: Condvar::new(),
    }));
    let (main, stop) = (thread::current(), &*Box::leak(Box::new(OnceLock::new())));
    let on_signal = move |signal| {
        let _ = stop.set(signal);
        main.unpark();
    };
    let serving = super::watch_signals(signals, STACK, &limits, Box::new(on_signal))?;
    let log_start = |store: &str| {
        // A signal after this line drains: clients may have connected.
        serving.store(true, Ordering::Relaxed);
        super::log_start(&address, store, workers, &limits);
    };
    match &config.store {
        Store::Redis(config) => {
            log_start(&super::redis_address(config));
            server.state().synced = true;
            spawn("redis", REDIS_STACK, Box::new(move || server.redis(config)))?;
        }
        Store::Ledger(path, fsync) => {
            let (ledger, description) = super::open_ledger(path, *fsync, &config.context.counters, &limits)?;
            log_start(&description);
            detach("ledger", Box::new(move || server.ledger(ledger)))?;
        }
    }
    detach("timer", Box::new(move || server.expire_waiters(&config.store)))?;
    let deadline = run_until_shutdown(server, listener, file, stop)?;
    let is_drained = server.wait(Duration::ZERO, |state| state.open_connections() == 0);
    server.state().stopped = true;
    server.gathered.notify_one();
    // The disk gets some time even if the clients have used all of it.
    let is_synced = server.wait(deadline.remaining().max(Timer::LastSync.duration(&limits)), |state| state.synced);
    super::log_stopped(is_drained, is_synced);
    Ok(())
}

/// Starts a detached thread.
fn detach(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    spawn(name, STACK, work).map(drop)
}

/// Accepts connections until a signal arrives, then drains. Returns the deadline of the drain. The `file` of the socket
/// is removed before the last connections are accepted.
fn run_until_shutdown(
    server: &'static Server,
    listener: Listener,
    file: Option<SocketFile>,
    stop: &OnceLock<&'static str>,
) -> io::Result<Deadline> {
    let listener = Arc::new(listener);
    let accepting = listener.clone();
    detach("accept", Box::new(move || server.accept(accepting)))?;
    let signal = loop {
        match stop.get() {
            Some(signal) => break signal,
            None => thread::park(),
        }
    };
    server.draining.store(true, Ordering::Relaxed);
    super::log_info(&["received ", signal, ", draining"].concat());
    thread::sleep(Timer::DrainDelay.duration(&server.limits));

    let (deadline, visits_deadline) = (Timer::Drain.start(&server.limits), Timer::DrainVisits.start(&server.limits));
    server.stop_accepting.store(true, Ordering::Relaxed);
    drop(file);
    listener.wake(Timer::DrainIdle.duration(&server.limits));
    // The thread that accepts closes it.
    drop(listener);
    server.wait(visits_deadline.remaining(), |state| !state.accepting);
    // Idle clients get a grace period, in which a request already sent arrives.
    let idle_timeout = Timer::DrainIdle.duration(&server.limits);
    server.wait(visits_deadline.remaining().min(idle_timeout), |state| state.open_connections() == 0);
    server.close();
    if !server.wait(visits_deadline.remaining(), |state| state.open_connections() == 0) {
        let mut state = server.state();
        state.cut_off();
        server.release(state);
        server.wait(deadline.remaining(), |state| state.open_connections() == 0);
    }
    Ok(deadline)
}

/// The state that all threads share.
struct Server {
    context: &'static ServerContext,
    limits: Limits,
    /// Bytes of incomplete requests and responses.
    share: usize,
    /// The clients are connected by a Unix socket.
    is_unix: bool,
    /// A signal has arrived; `/readyz` shows it.
    draining: AtomicBool,
    /// Only connections that have already arrived are accepted.
    stop_accepting: AtomicBool,
    /// Connections close as soon as they have no request in progress.
    closing: AtomicBool,
    state: Mutex<State>,
    /// Wakes the ledger's thread: a batch has begun.
    gathered: Condvar,
    /// Wakes the thread of [`Server::expire_waiters`]: its deadline is earlier now.
    timer: Condvar,
    /// A connection has closed, or accepting has ended, or the ledger is synced at the end.
    changed: Condvar,
}

/// The state behind the lock.
struct State {
    queue: Queue<ClientHandle>,
    /// The connection to Redis, if Redis is the store and it is up.
    connection: Option<Box<Connection>>,
    /// The batch that the ledger's thread is writing, if a ledger is the store.
    written: Written,
    health: Health,
    /// The counter without a name.
    main: Key,
    /// Its number of open connections changes only under this lock.
    metrics: &'static Metrics,
    /// When the thread of [`Server::expire_waiters`] wakes, if it sleeps.
    timer_deadline: Option<Instant>,
    /// Connections are accepted.
    accepting: bool,
    stopped: bool,
    /// The ledger is synced for the last time, or Redis is the store.
    synced: bool,
    pool: Vec<Buffers>,
    /// Threads to wake once the lock is free.
    woken: Vec<Thread>,
}

/// A client as other threads use it: to wake it, and to close its connection.
#[derive(Clone)]
struct ClientHandle {
    thread: Thread,
    socket: Arc<TcpStream>,
}

impl ClientHandle {
    /// Closes the connection of a client that has stalled, whatever it waits for.
    fn shut_down(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Server {
    /// Locks the state. Poisoning is ignored: a lock is only held for a few lines that do not panic.
    #[inline(never)]
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks, then wakes the threads in `woken`, since each of them takes the lock first.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let woken = std::mem::take(&mut state.woken);
        drop(state);
        woken.iter().for_each(Thread::unpark);
    }

    /// Waits until `is_done`, for `timeout` at most. Returns whether it is.
    fn wait(&self, timeout: Duration, is_done: fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), timeout, |state| !is_done(state));
        is_done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Closes every connection as soon as it has no request in progress.
    fn close(&self) {
        let state = self.state();
        // Set under the lock: a client that becomes idle later reads it, and one that is idle now is shut down here.
        self.closing.store(true, Ordering::Relaxed);
        for client in state.queue.slots.idle_wakers() {
            let _ = client.socket.shutdown(Shutdown::Read);
        }
    }

    fn set_health(&self, status: StoreHealth) {
        self.state().health.set(0, status);
    }
}

/// Unlocks, waits for `event` for `timeout` at most, and locks again.
fn wait_timeout<'state>(
    event: &Condvar,
    state: MutexGuard<'state, State>,
    timeout: Duration,
) -> MutexGuard<'state, State> {
    event.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    fn new(metrics: &'static Metrics, main: Key) -> Self {
        Self {
            queue: Queue::default(),
            connection: None,
            written: Written::default(),
            health: Health::new(metrics, main),
            main,
            metrics,
            timer_deadline: None,
            accepting: true,
            stopped: false,
            synced: false,
            pool: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Returns the number of open connections.
    fn open_connections(&self) -> usize {
        self.metrics.open_connections.load(Ordering::Relaxed)
    }

    /// Submits a batch that has begun, if no other is in flight; [`Server::send`] then writes it. Wakes the ledger's
    /// thread, and the timer's if its deadline is earlier.
    fn notify_store(&mut self, server: &Server) {
        self.submit();
        server.gathered.notify_one();
        self.wake_timer(server);
    }

    /// Wakes the timer's thread if its deadline is earlier now.
    fn wake_timer(&mut self, server: &Server) {
        if let Some(wakes_at) = self.timer_deadline
            && self.deadline().is_some_and(|deadline| deadline < wakes_at)
        {
            self.timer_deadline = None;
            server.timer.notify_one();
        }
    }

    /// Completes a batch. Commands without a reply from the store get `error`.
    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError) {
        batch
            .replies()
            .for_each(|(command, reply)| self.health.record_replies(0, batch.may_be_applied(), command, reply));
        self.queue.complete(batch, error, |client| self.woken.push(client.thread.clone()));
    }

    /// Completes the gathering batch with `error`, and the batch in doubt.
    fn fail_waiters(&mut self, error: StoreError) {
        self.fail_in_doubt();
        let mut batch = Batch::default();
        if self.queue.take(&mut batch).is_some() {
            self.complete(&mut batch, error);
        }
    }

    /// Completes the batch in doubt.
    fn fail_in_doubt(&mut self) {
        if let Some(mut batch) = self.queue.take_in_doubt() {
            self.complete(&mut batch, StoreError::OutcomeUnknown);
        }
    }

    /// Evicts a connection that is idle or has stalled.
    fn evict(&mut self) {
        match self.queue.slots.evict(Instant::now()) {
            Some((client, Eviction::Stalled)) => client.shut_down(),
            Some((client, Eviction::Idle)) => {
                let _ = client.socket.shutdown(Shutdown::Read);
            }
            None => {}
        }
    }

    /// Completes every visit that waits, whatever its deadline.
    fn cut_off(&mut self) {
        self.queue.cut_off(Instant::now());
        self.expire(Instant::now());
    }

    /// Completes the visits whose deadline has passed, wherever they are.
    fn expire(&mut self, now: Instant) {
        let unsent = self.health.error(0);
        let Self { queue, written, woken, .. } = self;
        queue.expire(now, unsent, |client| woken.push(client.thread.clone()));
        queue.expire_written(&mut written.batch, now, |client| woken.push(client.thread.clone()));
        if let Some(mut connection) = self.connection.take() {
            connection.check_timeouts(now, self);
            self.connection = Some(connection);
        }
    }

    /// Returns the earliest deadline of visits and of the connection to Redis, if any.
    fn deadline(&mut self) -> Option<Instant> {
        let current = self.connection.take();
        let connection = current.as_ref().and_then(|connection| connection.deadline(self));
        self.connection = current;
        let written = self.queue.earliest(&[self.written.batch.first_waiter()]);
        [self.queue.deadline(), written, connection].into_iter().flatten().min()
    }
}

/// Most connections at once, whatever `MAX_CONNECTIONS` is: each needs a thread.
const MAX_THREADS: usize = 1024;

/// A thread's stack in bytes. The deepest stack needs a quarter of it.
const STACK: usize = 64 * 1024;

/// The same for the thread of Redis, which verifies certificates in a build with TLS.
const REDIS_STACK: usize = if cfg!(feature = "tls") { 1024 * 1024 } else { STACK };

/// Bytes of memory of the store's side and of a connection, measured in a control group by `tests/faults/memory.rs`. Of
/// a connection's, the kernel takes 27 KiB, the stack 9 to 14, and the rest is for threads that are just ending.
const COSTS: Costs = Costs { worker: 128 * 1024, connection: 48 * 1024 };

/// Most bytes read from a socket at a time; few requests are longer.
const CHUNK: usize = 2 * 1024;
