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
use self::redis::Link;
use super::queue::{Queue, Waiter};
use super::reply_timeout::ReplyTimeout;
use super::seats::{Fate, GRACE};
use super::{Capacity, Failure, Health, OVERTIME, Status, after, last_answers, left, spawn};
use crate::batch::Batch;
use crate::config::{Config, Limits, Store};
use crate::counter::{Fault, Key};
use crate::exchange::Site;
use crate::memory::Costs;
use crate::metrics::Metrics;
use crate::wire::Wire;

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
    config.site.metrics = super::metrics("threads", &config.store, &limits, workers, true);
    // It is never dropped: some of the threads that look at it serve until the process ends.
    let config: &_ = Box::leak(config);
    let server: &_ = Box::leak(Box::new(Server {
        site: &config.site,
        limits,
        share,
        leaving: AtomicBool::new(false),
        deaf: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        state: Mutex::new(State::new(&config.site.metrics, config.site.counters.main, limits.store)),
        gathered: Condvar::new(),
        impatient: Condvar::new(),
        left: Condvar::new(),
    }));
    let (main, stop) = (thread::current(), &*Box::leak(Box::new(OnceLock::new())));
    let asked = move |signal| {
        let _ = stop.set(signal);
        main.unpark();
    };
    let serving = super::watch(signals, STACK, &limits, Box::new(asked))?;
    let announce = |into: &str| super::announce(address, into, workers, &limits);
    match &config.store {
        Store::Redis(login) => {
            announce(&super::redis_place(login));
            server.state().synced = true;
            detach("redis", Box::new(move || server.redis(login)))?;
        }
        Store::Ledger(path, fsync) => {
            let (ledger, into) = super::open_ledger(path, *fsync, &config.site.counters, &limits)?;
            announce(&into);
            detach("ledger", Box::new(move || server.ledger(ledger)))?;
        }
    }
    detach("timer", Box::new(move || server.expire_waiters(&config.store)))?;
    serving.store(true, Ordering::Relaxed);
    let deadline = life(server, listener, address, stop)?;
    let is_drained = server.wait(Duration::ZERO, |state| state.open() == 0);
    server.state().stopped = true;
    server.gathered.notify_one();
    // Also where clients have taken all the time there was.
    let is_synced = server.wait(left(deadline).max(OVERTIME / 2), |state| state.synced);
    super::stopped(is_drained, is_synced);
    Ok(())
}

/// Starts a thread that nobody waits for.
fn detach(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    spawn(name, STACK, work).map(drop)
}

/// From the first connection to the last. Returns when all has to be over.
fn life(
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
    server.leaving.store(true, Ordering::Relaxed);
    super::inform(&["received ", signal, ": not ready, connections close after their answers"].concat());
    thread::sleep(server.limits.drain_delay);

    let deadline = after(server.limits.drain);
    let last_answers = last_answers(deadline, &server.limits);
    server.deaf.store(true, Ordering::Relaxed);
    // Whoever accepts is woken by one connection more, if no other comes.
    let _ = TcpStream::connect_timeout(&super::reachable(address), GRACE);
    server.wait(left(last_answers), |state| !state.accepting);
    // Whoever rests has a moment in which a request that is on its way arrives.
    server.wait(left(last_answers).min(GRACE), |state| state.open() == 0);
    server.close();
    if !server.wait(left(last_answers), |state| state.open() == 0) {
        let mut state = server.state();
        state.cut_off();
        server.release(state);
        server.wait(left(deadline), |state| state.open() == 0);
    }
    Ok(deadline)
}

/// What all threads share.
struct Server {
    site: &'static Site,
    limits: Limits,
    /// Bytes of incomplete requests and responses.
    share: usize,
    /// Not ready any more.
    leaving: AtomicBool,
    /// Accepts no connection but those that have come already.
    deaf: AtomicBool,
    /// Connections close as soon as nothing is under way on them.
    closing: AtomicBool,
    state: Mutex<State>,
    /// A batch has begun, for the ledger's thread.
    gathered: Condvar,
    /// Somebody waits, for the thread that sees to it that nobody waits too long.
    impatient: Condvar,
    /// A connection is closed, or no more are accepted, or the ledger is.
    left: Condvar,
}

struct State {
    queue: Queue<Chair>,
    /// The connection with Redis, if that is where we count and it is up.
    link: Option<Box<Link>>,
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
    looks_at: Option<Instant>,
    /// Connections are accepted.
    accepting: bool,
    stopped: bool,
    /// What was counted is on the disk, if it is for us to see to that.
    synced: bool,
    spares: Vec<Wire>,
    /// Those who have been told, to be woken once the lock is free.
    woken: Vec<Thread>,
}

/// What other threads know of a client: how to wake it, and how to have it go.
struct Chair {
    thread: Thread,
    socket: Arc<TcpStream>,
}

impl Chair {
    /// Has a client that has stalled go at once, whatever it waits for.
    fn hurry(&self) {
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
        let waited = self.left.wait_timeout_while(self.state(), long, |state| !done(state));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Has every connection closed as soon as nothing is under way on it.
    fn close(&self) {
        let state = self.state();
        // Under the lock: whoever is about to rest sees it, or is seen to rest.
        self.closing.store(true, Ordering::Relaxed);
        for chair in state.queue.seats.resting() {
            let _ = chair.socket.shutdown(Shutdown::Read);
        }
    }

    fn note(&self, status: Status) {
        self.state().health.note(0, status);
    }
}

/// Unlocks and waits for `event`, for so long at most.
fn doze<'state>(event: &Condvar, state: MutexGuard<'state, State>, long: Duration) -> MutexGuard<'state, State> {
    event.wait_timeout(state, long).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    fn new(metrics: &'static Metrics, main: Key, store_timeout: Duration) -> Self {
        Self {
            queue: Queue::default(),
            link: None,
            written: Written::default(),
            health: Health::new(metrics, main),
            reply_timeout: ReplyTimeout::new(store_timeout),
            main,
            metrics,
            looks_at: None,
            accepting: true,
            stopped: false,
            synced: false,
            spares: Vec::new(),
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
        self.rouse(server);
    }

    /// Has those who wait looked at earlier, if they have to be.
    fn rouse(&mut self, server: &Server) {
        if let Some(looks_at) = self.looks_at
            && self.deadline().is_some_and(|deadline| deadline < looks_at)
        {
            self.looks_at = None;
            server.impatient.notify_one();
        }
    }

    /// Ends a batch that the store has done with, or that is given up.
    fn tell(&mut self, batch: &mut Batch<Waiter>, fault: Fault) {
        batch.replies().for_each(|(ask, reply)| self.health.learn(0, batch.is_sent(), ask, reply));
        self.queue.tell(batch, fault, |chair| self.woken.push(chair.thread.clone()));
    }

    /// Has a connection go that rests.
    fn evict(&mut self) {
        match self.queue.seats.evict(Instant::now()) {
            Some((chair, Fate::Evicted)) => chair.hurry(),
            Some((chair, _)) => {
                let _ = chair.socket.shutdown(Shutdown::Read);
            }
            None => {}
        }
    }

    /// Ends the batch that gathers, and the one in doubt.
    fn give_up(&mut self, fault: Fault) {
        self.give_up_doubtful();
        let mut batch = Batch::default();
        if self.queue.take(&mut batch).is_some() {
            self.tell(&mut batch, fault);
        }
    }

    /// Ends the batch that is in doubt.
    fn give_up_doubtful(&mut self) {
        if let Some(mut batch) = self.queue.take_doubtful() {
            self.tell(&mut batch, Fault::Lost);
        }
    }

    /// Ends every visit that waits, whatever its deadline.
    fn cut_off(&mut self) {
        self.queue.cut_off(Instant::now());
        self.expire(Instant::now());
    }

    /// Ends the visits that have waited long enough, wherever they are.
    fn expire(&mut self, now: Instant) {
        let unsent = self.health.fault(0);
        let Self { queue, written, woken, .. } = self;
        queue.expire(now, unsent, |chair| woken.push(chair.thread.clone()));
        queue.expire_written(&mut written.batch, now, |chair| woken.push(chair.thread.clone()));
        if let Some(mut link) = self.link.take() {
            link.keep_time(now, self);
            self.link = Some(link);
        }
    }

    /// When to look at what waits again, if anything does.
    fn deadline(&self) -> Option<Instant> {
        let link = self.link.as_ref().and_then(|link| link.deadline(self));
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
