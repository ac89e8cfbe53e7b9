//! The driver on the standard library alone: blocking sockets, one small thread per connection, one for the store.
//!
//! All threads share one `State` behind one lock. A client's thread adds its ask to the batch and, if nothing is under
//! way, sends the batch off itself; then it is parked. The store's thread reads the replies, wakes those who wait, and
//! sends what has gathered meanwhile. So a lone visit costs two changes of thread, and a batch as many as it has
//! visits.
//!
//! Threads are bounded by `MAX_THREADS` as well as `MAX_CONNECTIONS` and memory. At the bound, a connection is closed
//! for the new one as `seats` says; if all are being served, the new one waits.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use self::ledger::Written;
use self::redis::RedisConnection;
use super::queue::{Queue, Waiter};
use super::reply_timeout::ReplyTimeout;
use super::slots::{Eviction, IDLE_GRACE};
use super::{Capacity, EXIT_GRACE, Failure, Health, StoreHealth, deadline_after, last_answers, remaining, spawn};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::config::{Config, Limits, Store};
use crate::connection::ServerContext;
use crate::counter::{Key, StoreError};
use crate::memory::Costs;
use crate::metrics::Metrics;

mod accept;
mod client;
mod ledger;
mod redis;
mod timer;

/// Serves until one of `signals` arrives, which the thread that calls must have blocked, then drains and returns.
///
/// # Errors
/// Serving could not begin.
pub fn run(mut config: Box<Config>, signals: SigSet) -> Result<(), Failure> {
    let listener = TcpListener::bind(config.listen).map_err(|error| Failure::Listen(config.listen, error))?;
    let address = listener.local_addr().unwrap_or(config.listen);
    // The threads share one state, and so are one event loop.
    config.workers = None;
    let capacity = super::capacity(&config, COSTS, 1, MAX_THREADS)?;
    super::bound(&listener, &capacity)?;
    let Capacity { workers, limits, share, .. } = capacity;
    config.context.metrics = super::metrics("threads", &config.store, &limits, workers, true);
    // It is never dropped: some of the threads that look at it serve until the process ends.
    let config: &_ = Box::leak(config);
    let server: &_ = Box::leak(Box::new(Server {
        context: &config.context,
        limits,
        share,
        draining: AtomicBool::new(false),
        stop_accepting: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        state: Mutex::new(State::new(&config.context.metrics, config.context.counters.main, limits.store)),
        gathered: Condvar::new(),
        timer: Condvar::new(),
        changed: Condvar::new(),
    }));
    let (main, stop) = (thread::current(), &*Box::leak(Box::new(OnceLock::new())));
    let asked = move |signal| {
        let _ = stop.set(signal);
        main.unpark();
    };
    let serving = super::watch(signals, STACK, &limits, Box::new(asked))?;
    let announce = |into: &str| super::announce(address, into, workers, &limits);
    match &config.store {
        Store::Redis(config) => {
            announce(&super::redis_address(config));
            server.state().synced = true;
            detach("redis", Box::new(move || server.redis(config)))?;
        }
        Store::Ledger(path, fsync) => {
            let (ledger, into) = super::open_ledger(path, *fsync, &config.context.counters, &limits)?;
            announce(&into);
            detach("ledger", Box::new(move || server.ledger(ledger)))?;
        }
    }
    detach("timer", Box::new(move || server.expire_waiters(&config.store)))?;
    serving.store(true, Ordering::Relaxed);
    let deadline = run_until_shutdown(server, listener, address, stop)?;
    let is_drained = server.wait(Duration::ZERO, |state| state.open() == 0);
    server.state().stopped = true;
    server.gathered.notify_one();
    // Also where clients have taken all the time there was.
    let is_synced = server.wait(remaining(deadline).max(EXIT_GRACE / 2), |state| state.synced);
    super::log_stopped(is_drained, is_synced);
    Ok(())
}

/// Starts a thread that nobody waits for.
fn detach(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    spawn(name, STACK, work).map(drop)
}

/// From the first connection to the last. Returns when all has to be over.
fn run_until_shutdown(
    server: &'static Server,
    listener: TcpListener,
    address: SocketAddr,
    stop: &OnceLock<&'static str>,
) -> io::Result<Instant> {
    detach("accept", Box::new(move || server.accept(listener)))?;
    let signal = loop {
        match stop.get() {
            Some(signal) => break signal,
            None => thread::park(),
        }
    };
    server.draining.store(true, Ordering::Relaxed);
    super::log_info(&["received ", signal, ": not ready, connections close after their answers"].concat());
    thread::sleep(server.limits.drain_delay);

    let deadline = deadline_after(server.limits.drain);
    let last_answers = last_answers(deadline, &server.limits);
    server.stop_accepting.store(true, Ordering::Relaxed);
    // Whoever accepts is woken by one connection more, if no other comes.
    let _ = TcpStream::connect_timeout(&super::reachable(address), IDLE_GRACE);
    server.wait(remaining(last_answers), |state| !state.accepting);
    // Whoever rests has a moment in which a request that is on its way arrives.
    server.wait(remaining(last_answers).min(IDLE_GRACE), |state| state.open() == 0);
    server.close();
    if !server.wait(remaining(last_answers), |state| state.open() == 0) {
        let mut state = server.state();
        state.cut_off();
        server.release(state);
        server.wait(remaining(deadline), |state| state.open() == 0);
    }
    Ok(deadline)
}

/// What all threads share.
struct Server {
    context: &'static ServerContext,
    limits: Limits,
    /// Bytes of incomplete requests and responses.
    share: usize,
    /// Not ready any more.
    draining: AtomicBool,
    /// Accepts no connection but those that have come already.
    stop_accepting: AtomicBool,
    /// Connections close as soon as nothing is under way on them.
    closing: AtomicBool,
    state: Mutex<State>,
    /// A batch has begun, for the ledger's thread.
    gathered: Condvar,
    /// Somebody waits, for the thread that sees to it that nobody waits too long.
    timer: Condvar,
    /// A connection is closed, or no more are accepted, or the ledger is.
    changed: Condvar,
}

struct State {
    queue: Queue<ClientHandle>,
    /// The connection with Redis, if that is where we count and it is up.
    connection: Option<Box<RedisConnection>>,
    /// The batch that the ledger writes, if that is where we count.
    written: Written,
    health: Health,
    /// How long Redis may be silent.
    reply_timeout: ReplyTimeout,
    /// The counter without a name.
    main: Key,
    /// The number of connections in there changes under the lock that this is behind.
    metrics: &'static Metrics,
    /// When the thread that sees to it that nobody waits too long looks at those who wait, if it has gone to sleep.
    timer_deadline: Option<Instant>,
    /// Connections are accepted.
    accepting: bool,
    stopped: bool,
    /// What was counted is on the disk, if it is for us to see to that.
    synced: bool,
    pool: Vec<Buffers>,
    /// Those who have been told, to be woken once the lock is free.
    woken: Vec<Thread>,
}

/// What other threads know of a client: how to wake it, and how to have it go.
struct ClientHandle {
    thread: Thread,
    socket: Arc<TcpStream>,
}

impl ClientHandle {
    /// Has a client that has stalled go at once, whatever it waits for.
    fn shut_down(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Server {
    /// A lock is only ever held for a few lines that do not panic.
    #[inline(never)]
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks, and only then wakes those who have been told something: each of them wants the lock first of all.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let woken = std::mem::take(&mut state.woken);
        drop(state);
        woken.iter().for_each(Thread::unpark);
    }

    /// Waits until `done`, for so long at most, and says whether it is.
    fn wait(&self, long: Duration, done: fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), long, |state| !done(state));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Has every connection closed as soon as nothing is under way on it.
    fn close(&self) {
        let state = self.state();
        // Under the lock: whoever is about to rest sees it, or is seen to rest.
        self.closing.store(true, Ordering::Relaxed);
        for client in state.queue.slots.idle_wakers() {
            let _ = client.socket.shutdown(Shutdown::Read);
        }
    }

    fn set_health(&self, status: StoreHealth) {
        self.state().health.set(0, status);
    }
}

/// Unlocks and waits for `event`, for so long at most.
fn wait_timeout<'state>(
    event: &Condvar,
    state: MutexGuard<'state, State>,
    long: Duration,
) -> MutexGuard<'state, State> {
    event.wait_timeout(state, long).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    fn new(metrics: &'static Metrics, main: Key, store_timeout: Duration) -> Self {
        Self {
            queue: Queue::default(),
            connection: None,
            written: Written::default(),
            health: Health::new(metrics, main),
            reply_timeout: ReplyTimeout::new(store_timeout),
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

    /// Connections that are open.
    fn open(&self) -> usize {
        self.metrics.open.load(Ordering::Relaxed)
    }

    /// Somebody is the first to wait: has what gathers sent off if nothing is under way, which [`Server::send`] does, and
    /// wakes whoever has to know.
    fn has_gathered(&mut self, server: &Server) {
        self.submit();
        server.gathered.notify_one();
        self.wake_timer(server);
    }

    /// Has those who wait looked at earlier, if they have to be.
    fn wake_timer(&mut self, server: &Server) {
        if let Some(looks_at) = self.timer_deadline
            && self.deadline().is_some_and(|deadline| deadline < looks_at)
        {
            self.timer_deadline = None;
            server.timer.notify_one();
        }
    }

    /// Ends a batch that the store has done with, or that is given up.
    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError) {
        batch
            .replies()
            .for_each(|(command, reply)| self.health.record_replies(0, batch.may_be_applied(), command, reply));
        self.queue.complete(batch, error, |client| self.woken.push(client.thread.clone()));
    }

    /// Has a connection go that rests.
    fn evict(&mut self) {
        match self.queue.slots.evict(Instant::now()) {
            Some((client, Eviction::Now)) => client.shut_down(),
            Some((client, _)) => {
                let _ = client.socket.shutdown(Shutdown::Read);
            }
            None => {}
        }
    }

    /// Ends the batch that gathers, and the one in doubt.
    fn fail_waiters(&mut self, error: StoreError) {
        self.fail_in_doubt();
        let mut batch = Batch::default();
        if self.queue.take(&mut batch).is_some() {
            self.complete(&mut batch, error);
        }
    }

    /// Ends the batch that is in doubt.
    fn fail_in_doubt(&mut self) {
        if let Some(mut batch) = self.queue.take_in_doubt() {
            self.complete(&mut batch, StoreError::OutcomeUnknown);
        }
    }

    /// Ends every visit that waits, whatever its deadline.
    fn cut_off(&mut self) {
        self.queue.cut_off(Instant::now());
        self.expire(Instant::now());
    }

    /// Ends the visits that have waited long enough, wherever they are.
    fn expire(&mut self, now: Instant) {
        let unsent = self.health.error(0);
        let Self { queue, written, woken, .. } = self;
        queue.expire(now, unsent, |client| woken.push(client.thread.clone()));
        queue.expire_written(&mut written.batch, now, |client| woken.push(client.thread.clone()));
        if let Some(mut link) = self.connection.take() {
            link.check_timeouts(now, self);
            self.connection = Some(link);
        }
    }

    /// When to look at what waits again, if anything does.
    fn deadline(&self) -> Option<Instant> {
        let link = self.connection.as_ref().and_then(|link| link.deadline(self));
        let written = self.queue.earliest(&[self.written.batch.first_waiter()]);
        [self.queue.deadline(), written, link].into_iter().flatten().min()
    }
}

/// Most connections at once, whatever `MAX_CONNECTIONS` says: each costs a thread.
const MAX_THREADS: usize = 1024;

/// A thread's stack in bytes. The deepest of them needs a quarter of it.
const STACK: usize = 64 * 1024;

/// What the store's side and a connection cost, measured in a control group by `tests/faults/memory.rs`: of the latter,
/// 27 KiB are the kernel's, 9 to 14 the stack's, and the rest is for threads that have ended and are not gone yet.
const COSTS: Costs = Costs { worker: 128 * 1024, connection: 48 * 1024 };

/// Bytes taken from a socket at a time; few requests are longer.
const CHUNK: usize = 2 * 1024;
