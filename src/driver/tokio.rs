//! The driver on tokio: one event loop per worker, each on a thread of its own, with its own batch and its own session
//! with Redis. The first worker also accepts connections and hands each to the worker that has the fewest.
//!
//! The tasks of one worker share its `State` without a lock, because they run on its thread, one at a time. A client's
//! task pushes its ask to the batch and sleeps; the store's task is woken behind the clients' that are ready,
//! and so takes all their asks at once.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use nix::sys::signal::SigSet;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::accept::accept;
use self::ledger::{LedgerQueue, ledger};
use self::redis::redis;
use self::timer::{DeadlineTimer, expire_waiters, pause};
use super::queue::{Attempt, Queue, Waiter};
use super::slots::IDLE_GRACE;
use super::{Capacity, Failure, Health, StoreHealth, spawn};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::cgroup::Groups;
use crate::config::{Config, Limits, Store};
use crate::connection::{ServerContext, WorkerContext};
use crate::counter::{Command, Key, StoreError};
use crate::memory::Costs;
use crate::redis::RedisConfig;

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
    let most = Groups("").processors().div_ceil(PROCESSORS_PER_WORKER);
    let capacity = super::capacity(&config, COSTS, most, usize::MAX)?;
    let Capacity { workers: count, limits, share, .. } = capacity;
    let limits = leak(limits);
    let mut runtimes = Vec::new();
    for _ in 0..count {
        runtimes.push(runtime()?);
    }
    let listener = {
        // Sockets are made within an event loop.
        let _entered = runtimes[0].enter();
        listen(config.listen, &capacity).map_err(|error| Failure::Listen(config.listen, error))?
    };
    config.context.metrics = super::metrics("tokio", &config.store, limits, count, false);
    let config: &Config = Box::leak(config);
    let stop = leak(Inbox::new());
    let serving = super::watch(signals, STACK, limits, Box::new(|signal| stop.put(signal)))?;
    let (store, into) = match &config.store {
        Store::Redis(config) => (StoreHandle::Redis(config), super::redis_address(config)),
        Store::Ledger(path, fsync) => {
            let (ledger, into) = super::open_ledger(path, *fsync, &config.context.counters, limits)?;
            (StoreHandle::Ledger(LedgerQueue::open(ledger, count)?), into)
        }
    };
    super::announce(listener.local_addr().unwrap_or(config.listen), &into, count, limits);

    let context = &config.context;
    let health = Mutex::new(Health::new(&context.metrics, context.counters.main));
    let server = leak(Server { context, limits, share, health, left: Mutex::new(None) });
    let mut workers = Vec::new();
    for (index, own) in runtimes.iter().enumerate() {
        workers.push(Worker { index, server, handle: own.handle().clone(), open: AtomicUsize::new(0) });
    }
    let workers: &'static [Worker] = workers.leak();
    for worker in workers {
        worker.spawn(Box::pin(expire_waiters(worker, &config.store)));
        match store {
            StoreHandle::Redis(config) => worker.spawn(Box::pin(redis(worker, config))),
            StoreHandle::Ledger(desk) => worker.spawn(Box::pin(ledger(worker, desk))),
        };
    }
    for &own in &runtimes[1..] {
        spawn("worker", STACK, Box::new(move || drop(block_on(own, Box::pin(pending())))))?;
    }
    serving.store(true, Ordering::Relaxed);
    let deadline = block_on(runtimes[0], Box::pin(run_until_shutdown(server, workers, listener, stop)))?;
    let is_drained = server.open().load(Ordering::SeqCst) == 0;
    let is_synced = match store {
        StoreHandle::Ledger(desk) => desk.close(deadline.into_std()),
        StoreHandle::Redis(_) => true,
    };
    super::log_stopped(is_drained, is_synced);
    Ok(())
}

/// How a worker reaches the store.
#[derive(Clone, Copy)]
enum StoreHandle {
    Redis(&'static RedisConfig),
    Ledger(&'static LedgerQueue),
}

/// Keeps a value as long as the process lives, as the event loops do that look at it: nobody need count who holds it.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Makes an event loop. It ends with the process: what tokio does to end one sooner is 4 kB.
fn runtime() -> io::Result<&'static Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build().map(leak)
}

/// Runs an event loop until a task is done. The task comes boxed for the same reason as in [`Worker::spawn`].
fn block_on(own: &Runtime, task: Pin<Box<dyn Future<Output = io::Result<Instant>>>>) -> io::Result<Instant> {
    own.block_on(task)
}

fn listen(address: SocketAddr, capacity: &Capacity) -> io::Result<StdListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    super::bound(&socket, capacity)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// From the first connection to the last. Returns when all has to be over.
async fn run_until_shutdown(
    server: &'static Server,
    workers: &'static [Worker],
    listener: StdListener,
    stop: &Inbox<&'static str>,
) -> io::Result<Instant> {
    let enough = leak(Inbox::new());
    let accepting = accept(server, workers, TcpListener::from_std(listener)?, enough);
    let mut accepting = workers[0].spawn(Box::pin(accepting));
    let signal = stop.take().await;
    for worker in workers {
        worker.run_on_worker(|state| state.context.draining = true);
    }
    super::log_info(&["received ", signal, ": not ready, connections close after their answers"].concat());
    pause(server.limits.drain_delay).await;

    let deadline = Instant::now() + server.limits.drain;
    let last_answers = Instant::from_std(super::last_answers(deadline.into_std(), server.limits));
    enough.put(());
    let mut timer = DeadlineTimer::new(last_answers);
    poll_fn(|cx| match Pin::new(&mut accepting).poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => timer.poll(last_answers, cx),
    })
    .await;
    accepting.abort();
    // Whoever rests has a moment in which a request that is on its way arrives.
    server.wait_for_capacity(1, last_answers.min(Instant::now() + IDLE_GRACE)).await;
    for worker in workers {
        worker.run_on_worker(State::close);
    }
    if !server.wait_for_capacity(1, last_answers).await {
        workers.iter().for_each(|worker| worker.run_on_worker(State::cut_off));
        server.wait_for_capacity(1, deadline).await;
    }
    Ok(deadline)
}

/// Where threads leave what a task waits for.
struct Inbox<T>(Mutex<(Vec<T>, Option<Waker>)>);

impl<T> Inbox<T> {
    const fn new() -> Self {
        Self(Mutex::new((Vec::new(), None)))
    }

    fn put(&self, item: T) {
        let (items, waiting) = &mut *lock(&self.0);
        items.push(item);
        if let Some(waker) = waiting.take() {
            waker.wake();
        }
    }

    async fn take(&self) -> T {
        poll_fn(|cx| {
            let (items, waiting) = &mut *lock(&self.0);
            *waiting = Some(cx.waker().clone());
            items.pop().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// What all workers share.
struct Server {
    context: &'static ServerContext,
    limits: &'static Limits,
    /// Bytes of incomplete requests and responses, for each worker.
    share: usize,
    health: Mutex<Health>,
    /// Whom to wake when a connection is not open any more.
    left: Mutex<Option<Waker>>,
}

impl Server {
    /// Connections that are open.
    fn open(&self) -> &AtomicUsize {
        &self.context.metrics.open
    }

    /// Waits until fewer than `bound` connections are open. `false` if `deadline` comes first.
    async fn wait_for_capacity(&self, bound: usize, deadline: Instant) -> bool {
        let mut timer = DeadlineTimer::new(deadline);
        poll_fn(|cx| {
            *lock(&self.left) = Some(cx.waker().clone());
            match self.open().load(Ordering::SeqCst) < bound {
                true => Poll::Ready(true),
                false => timer.poll(deadline, cx).map(|()| false),
            }
        })
        .await
    }
}

/// A lock is only ever held for a few lines that do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One event loop, as the others see it.
struct Worker {
    index: usize,
    server: &'static Server,
    handle: Handle,
    /// Connections that it serves.
    open: AtomicUsize,
}

thread_local! {
    /// Constant at first and never dropped, so that a look at it needs no check whether it is there.
    static STATE: ManuallyDrop<RefCell<State>> = const { ManuallyDrop::new(RefCell::new(State::new())) };
}

/// Looks at what the tasks of this worker share.
fn state<T>(look: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| look(&mut state.borrow_mut()))
}

/// What the tasks of one worker share. They run on one thread, and do not wait while they look.
struct State {
    context: WorkerContext,
    queue: Queue<Waker>,
    /// The store's task, if it waits for a batch to begin.
    carrier: Option<Waker>,
    /// The task that ends visits that wait too long, and when it will look at them; `None` if nobody waits.
    patience: (Option<Waker>, Option<StdInstant>),
    /// The store's task, once it has sent a batch.
    awaiting_reply: Option<Waker>,
    pool: Vec<Buffers>,
    /// When something arrived last.
    clock: Option<StdInstant>,
    /// When the time of day was read last.
    dated: Option<StdInstant>,
}

impl Worker {
    /// Starts a task that is one of few. It comes boxed, so that tokio's code around it is there once for all of them.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) -> JoinHandle<()> {
        self.handle.spawn(task)
    }

    /// Has something done to the worker's state, on its own thread.
    fn run_on_worker(&self, order: fn(&mut State)) {
        self.spawn(Box::pin(async move { state(order) }));
    }

    /// Waits until somebody asks, and takes the batch.
    async fn gathered(&self, batch: &mut Batch<Waiter>) {
        poll_fn(|cx| match self.take(batch) {
            Some(_) => Poll::Ready(()),
            None => {
                state(|state| state.carrier = Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Takes the batch that is to be sent next, if there is one.
    fn take(&self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        state(|state| state.queue.take(batch))
    }

    /// Asks the store something to which nobody waits for the answer.
    fn probe(&self, command: &Command) {
        state(|state| {
            if state.queue.push_probe(command) {
                state.has_gathered();
            }
        });
    }

    /// Ends the visits that have waited long enough to be sent, or sent again.
    fn expire(&self, now: StdInstant) {
        let unsent = lock(&self.server.health).error(self.index);
        state(|state| {
            state.tick();
            state.queue.expire(now, unsent, Waker::wake_by_ref);
        });
    }

    /// Has a batch that was not sent wait for the next connection.
    fn requeue(&self, batch: &mut Batch<Waiter>) {
        state(|state| {
            state.queue.requeue(batch);
            state.has_gathered();
        });
    }

    /// Has a batch that was sent first at `sent`, and may be sent again, wait for the next connection.
    fn requeue_in_doubt(&self, batch: Batch<Waiter>, sent: Instant) {
        state(|state| {
            state.queue.requeue_in_doubt(batch, sent.into_std());
            state.has_gathered();
        });
    }

    fn set_health(&self, status: StoreHealth) {
        lock(&self.server.health).set(self.index, status);
    }

    /// Notes that a batch was answered that was sent at that time, and says when.
    fn record_batch(&self, batch: &Batch<Waiter>, sent: Instant) -> Instant {
        super::record_batch(self.server.context.metrics.worker(self.index), batch, sent.into_std()).into()
    }

    /// What to ask the store for `/readyz`.
    fn readiness(&self) -> Command {
        lock(&self.server.health).readiness(self.index)
    }

    /// Ends a batch that the store has done with, or that is given up.
    fn complete(&self, batch: &mut Batch<Waiter>, error: StoreError) {
        let mut health = lock(&self.server.health);
        batch
            .replies()
            .for_each(|(command, reply)| health.record_replies(self.index, batch.may_be_applied(), command, reply));
        drop(health);
        state(|state| {
            // The answers are of this second.
            state.tick();
            state.queue.complete(batch, error, Waker::wake_by_ref);
        });
    }

    /// Ends the batch that gathers, and the one in doubt.
    fn fail_waiters(&self, error: StoreError) {
        self.fail_in_doubt();
        let mut batch = Batch::default();
        if self.take(&mut batch).is_some() {
            self.complete(&mut batch, error);
        }
    }

    /// Ends the batch that is in doubt.
    fn fail_in_doubt(&self) {
        if let Some(mut batch) = state(|state| state.queue.take_in_doubt()) {
            self.complete(&mut batch, StoreError::OutcomeUnknown);
        }
    }
}

impl State {
    const fn new() -> Self {
        Self {
            context: WorkerContext::new(),
            queue: Queue::new(),
            carrier: None,
            patience: (None, None),
            awaiting_reply: None,
            pool: Vec::new(),
            clock: None,
            dated: None,
        }
    }

    /// Has every connection closed as soon as nothing is under way on it.
    fn close(&mut self) {
        self.context.closing = true;
        self.queue.slots.idle_wakers().for_each(Waker::wake_by_ref);
    }

    fn evict(&mut self) {
        if let Some((waker, _)) = self.queue.slots.evict(StdInstant::now()) {
            waker.wake_by_ref();
        }
    }

    /// Adds an ask to the batch that gathers, to be answered within so long.
    fn request_total(&mut self, command: &Command, main: &Key, slot: usize, within: Duration) {
        let deadline = self.now() + within;
        if self.queue.push(command, main, Waiter { slot: slot, deadline }) {
            self.has_gathered();
        }
    }

    /// When something arrived last, which is now for whoever looks at what has arrived.
    fn now(&self) -> StdInstant {
        self.clock.unwrap_or_else(StdInstant::now)
    }

    /// Reads the clock, as is done whenever something has arrived; and once in a while the time of day.
    fn tick(&mut self) {
        let now = StdInstant::now();
        self.clock = Some(now);
        if self.dated.is_none_or(|dated| now >= dated + DATED) {
            self.dated = Some(now);
            self.context.set_time(super::unix_time());
        }
    }

    /// Ends every visit that waits, whatever its deadline.
    fn cut_off(&mut self) {
        let now = StdInstant::now();
        self.tick();
        self.queue.cut_off(now);
        self.queue.expire(now, StoreError::Unavailable, Waker::wake_by_ref);
        if let Some(waker) = self.awaiting_reply.take() {
            waker.wake();
        }
    }

    /// When somebody has waited long enough to be sent; the task is woken if that comes to be earlier.
    fn next_deadline(&mut self, cx: &Context<'_>) -> Option<StdInstant> {
        let (waker, deadline) = &mut self.patience;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        *deadline = self.queue.deadline();
        *deadline
    }

    /// Has the task woken when nobody may wait any longer.
    fn await_reply(&mut self, cx: &Context<'_>) {
        if !self.awaiting_reply.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.awaiting_reply = Some(cx.waker().clone());
        }
    }

    fn has_gathered(&mut self) {
        if let Some(waker) = self.carrier.take() {
            waker.wake();
        }
        let (waker, looks_at) = &self.patience;
        // What is in doubt again, or was not sent, came before what gathers.
        if self.queue.deadline().is_some_and(|deadline| looks_at.is_none_or(|looks_at| deadline < looks_at)) {
            waker.iter().for_each(Waker::wake_by_ref);
        }
    }
}

/// Takes what has come. Unlike `try_read`, this sees by a read that does not fill the room that no more is there, and
/// so does not ask in vain the next time.
fn read(socket: &mut TcpStream, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(socket.read_buf(&mut buffers.read_buf())).poll(cx)
}

/// How old the time of day may be that answers show in whole seconds.
const DATED: Duration = Duration::from_millis(50);

/// A thread's stack in bytes; what is not used of it takes no memory.
const STACK: usize = 1024 * 1024;

/// Connections waiting to be accepted, at most; the system may allow fewer. A client that finds no room there tries again
/// after a second.
const BACKLOG: u32 = 4096;

/// Processors for each worker, unless `WORKERS` is set: batches are the larger, the fewer workers there are, and the store
/// and the kernel's network need processors, too. On two processors, two workers took 5 to 35 % more time per visit.
const PROCESSORS_PER_WORKER: usize = 2;

/// What a worker and a connection cost, measured in a control group by `tests/faults/memory.rs`.
const COSTS: Costs = Costs { worker: 128 * 1024, connection: 5632 };
