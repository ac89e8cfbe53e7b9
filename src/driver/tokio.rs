//! The driver on tokio: one event loop per worker, each on a thread of its own, with its own batch and its own Redis
//! session. The first worker also accepts connections and passes each to the worker that has the fewest.
//!
//! The tasks of one worker share its `State` without a lock, because they run on its thread, one at a time. A client's
//! task pushes its command to the batch and waits. The store's task runs after the clients' tasks that are ready, and
//! so takes all their commands at once.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpStream as StdStream;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use nix::sys::signal::SigSet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::accept::{Acceptor, accept};
use self::ledger::{LedgerQueue, ledger};
use self::redis::redis;
use self::timer::{DeadlineTimer, expire_waiters, pause};
use super::deadline::{Deadline, Timer};
use super::queue::{Attempt, Queue, Waiter};
use super::{Capacity, Failure, Health, Listener, StoreHealth, spawn};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::cgroup::ControlGroups;
use crate::config::{Config, Limits, Store};
use crate::connection::{ServerContext, WorkerContext};
use crate::counter::{Command, Key, StoreError};
use crate::memory::Costs;
use crate::redis::RedisConfig;
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
    let most = ControlGroups::OWN.processors().div_ceil(PROCESSORS_PER_WORKER);
    let capacity = super::plan_capacity(&config, COSTS, most, usize::MAX)?;
    let Capacity { workers: count, limits, share, .. } = capacity;
    let limits = leak(limits);
    let mut runtimes = Vec::new();
    for _ in 0..count {
        runtimes.push(runtime()?);
    }
    let (listener, file) = super::open_listener(&config, &capacity)?;
    config.context.metrics = super::create_metrics("tokio", &config.store, limits, count, false);
    let config: &Config = Box::leak(config);
    let stop = leak(Inbox::new());
    let serving = super::watch_signals(signals, STACK, limits, Box::new(|signal| stop.put(signal)))?;
    let (store, description) = match &config.store {
        Store::Redis(config) => (StoreHandle::Redis(config), super::redis_address(config)),
        Store::Ledger(path, fsync) => {
            let (ledger, description) = super::open_ledger(path, *fsync, &config.context.counters, limits)?;
            (StoreHandle::Ledger(LedgerQueue::open(ledger, count, limits)?), description)
        }
    };
    // A signal after this line drains: clients may have connected.
    serving.store(true, Ordering::Relaxed);
    super::log_start(&listener.address(&config.listen), &description, count, limits);

    let context = &config.context;
    let health = Mutex::new(Health::new(&context.metrics, context.counters.main));
    let server = leak(Server { context, limits, share, is_unix: file.is_some(), health, closed: Mutex::new(None) });
    let mut workers = Vec::new();
    for (index, runtime) in runtimes.iter().enumerate() {
        workers.push(Worker { index, server, handle: runtime.handle().clone(), open_connections: AtomicUsize::new(0) });
    }
    let workers: &'static [Worker] = workers.leak();
    for worker in workers {
        worker.spawn(Box::pin(expire_waiters(worker, &config.store)));
        match store {
            StoreHandle::Redis(config) => worker.spawn(Box::pin(redis(worker, config))),
            StoreHandle::Ledger(queue) => worker.spawn(Box::pin(ledger(worker, queue))),
        };
    }
    for &runtime in &runtimes[1..] {
        spawn("worker", STACK, Box::new(move || drop(block_on(runtime, Box::pin(pending())))))?;
    }
    let deadline = block_on(runtimes[0], Box::pin(run_until_shutdown(server, workers, listener, file, stop)))?;
    let is_drained = server.open_connections().load(Ordering::SeqCst) == 0;
    let is_synced = match store {
        // The disk gets some time even if the clients have used all of it.
        StoreHandle::Ledger(queue) => queue.close(deadline.remaining().max(Timer::LastSync.duration(limits))),
        StoreHandle::Redis(_) => true,
    };
    super::log_stopped(is_drained, is_synced);
    Ok(())
}

/// The access of a worker to the store.
#[derive(Clone, Copy)]
enum StoreHandle {
    Redis(&'static RedisConfig),
    Ledger(&'static LedgerQueue),
}

/// Keeps a value until the process ends, as long as the event loops that use it. So it needs no reference count.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Creates an event loop. It runs until the process ends: tokio's code to end it sooner takes 4 kB.
fn runtime() -> io::Result<&'static Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build().map(leak)
}

/// Runs an event loop until a task is done. The task is boxed for the same reason as in [`Worker::spawn`].
fn block_on(runtime: &Runtime, task: Pin<Box<dyn Future<Output = io::Result<Deadline>>>>) -> io::Result<Deadline> {
    runtime.block_on(task)
}

/// Accepts connections until a signal arrives, then drains. Returns the deadline of the drain. The `file` of the socket
/// is removed before the last connections are accepted.
async fn run_until_shutdown(
    server: &'static Server,
    workers: &'static [Worker],
    listener: Listener,
    file: Option<SocketFile>,
    stop: &Inbox<&'static str>,
) -> io::Result<Deadline> {
    let stop_accepting = leak(Inbox::new());
    let accepting = accept(server, workers, Acceptor::new(listener)?, stop_accepting);
    let mut accepting = workers[0].spawn(Box::pin(accepting));
    let signal = stop.take().await;
    for worker in workers {
        worker.run_on_worker(|state| state.context.draining = true);
    }
    super::log_info(&["received ", signal, ", draining"].concat());
    pause(Timer::DrainDelay.duration(server.limits)).await;

    let (deadline, visits_deadline) = (Timer::Drain.start(server.limits), Timer::DrainVisits.start(server.limits));
    drop(file);
    stop_accepting.put(());
    let mut timer = DeadlineTimer::new(visits_deadline.at.into());
    poll_fn(|cx| match Pin::new(&mut accepting).poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => timer.poll(visits_deadline.at.into(), cx),
    })
    .await;
    accepting.abort();
    let idle_deadline = Timer::DrainIdle.start(server.limits);
    server.wait_for_capacity(1, idle_deadline.at.min(visits_deadline.at)).await;
    for worker in workers {
        worker.run_on_worker(State::close);
    }
    if !server.wait_for_capacity(1, visits_deadline.at).await {
        workers.iter().for_each(|worker| worker.run_on_worker(State::cut_off));
        server.wait_for_capacity(1, deadline.at).await;
    }
    Ok(deadline)
}

/// Passes items from threads to a task that waits for them.
struct Inbox<T>(Mutex<(Vec<T>, Option<Waker>)>);

impl<T> Inbox<T> {
    const fn new() -> Self {
        Self(Mutex::new((Vec::new(), None)))
    }

    fn put(&self, item: T) {
        let (items, waker) = &mut *lock(&self.0);
        items.push(item);
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }

    async fn take(&self) -> T {
        poll_fn(|cx| {
            let (items, waker) = &mut *lock(&self.0);
            *waker = Some(cx.waker().clone());
            items.pop().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The state that all workers share.
struct Server {
    context: &'static ServerContext,
    limits: &'static Limits,
    /// Bytes of incomplete requests and responses, for each worker.
    share: usize,
    /// The clients are connected by a Unix socket.
    is_unix: bool,
    health: Mutex<Health>,
    /// The task to wake when a connection has closed.
    closed: Mutex<Option<Waker>>,
}

impl Server {
    /// Returns the number of open connections.
    fn open_connections(&self) -> &AtomicUsize {
        &self.context.metrics.open_connections
    }

    /// Waits until fewer than `bound` connections are open. Returns `false` if `deadline` passes first.
    async fn wait_for_capacity(&self, bound: usize, deadline: StdInstant) -> bool {
        let deadline = deadline.into();
        let mut timer = DeadlineTimer::new(deadline);
        poll_fn(|cx| {
            *lock(&self.closed) = Some(cx.waker().clone());
            match self.open_connections().load(Ordering::SeqCst) < bound {
                true => Poll::Ready(true),
                false => timer.poll(deadline, cx).map(|()| false),
            }
        })
        .await
    }
}

/// Locks a mutex. Poisoning is ignored: a lock is only held for a few lines that do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One event loop, as other threads use it.
struct Worker {
    index: usize,
    server: &'static Server,
    handle: Handle,
    open_connections: AtomicUsize,
}

thread_local! {
    /// A constant that is never dropped, so that access needs no check whether it is initialised.
    static STATE: ManuallyDrop<RefCell<State>> = const { ManuallyDrop::new(RefCell::new(State::new())) };
}

/// Calls `access` with the state of this thread's worker.
fn state<T>(access: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| access(&mut state.borrow_mut()))
}

/// The state that the tasks of one worker share. They run on one thread, and do not await while they borrow it.
struct State {
    context: WorkerContext,
    queue: Queue<Waker>,
    /// The store's task, if it waits for a batch to begin.
    store_task: Option<Waker>,
    /// The task of [`expire_waiters`], and the time at which it runs next; `None` if no visit waits.
    timer: (Option<Waker>, Option<StdInstant>),
    /// The store's task, once it has sent a batch.
    reply_task: Option<Waker>,
    pool: Vec<Buffers>,
    /// When bytes arrived last.
    clock: Option<StdInstant>,
    /// When the time of day was read last.
    date_set_at: Option<StdInstant>,
}

impl Worker {
    /// Starts a task. It is boxed, so that tokio's code for tasks is compiled once.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) -> JoinHandle<()> {
        self.handle.spawn(task)
    }

    /// Calls `action` with the worker's state, on the worker's thread.
    fn run_on_worker(&self, action: fn(&mut State)) {
        self.spawn(Box::pin(async move { state(action) }));
    }

    /// Waits until a batch has begun, and takes it.
    async fn next_batch(&self, batch: &mut Batch<Waiter>) {
        poll_fn(|cx| match self.take(batch) {
            Some(_) => Poll::Ready(()),
            None => {
                state(|state| state.store_task = Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Takes the batch to send next, if there is one.
    fn take(&self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        state(|state| state.queue.take(batch))
    }

    /// Sends the store a command without a waiter.
    fn probe(&self, command: &Command) {
        state(|state| {
            if state.queue.push_probe(command) {
                state.notify_store();
            }
        });
    }

    /// Completes the visits whose deadline has passed before they were sent, or sent again.
    fn expire(&self, now: StdInstant) {
        let unsent = lock(&self.server.health).error(self.index);
        state(|state| {
            state.tick();
            state.queue.expire(now, unsent, Waker::wake_by_ref);
        });
    }

    /// Puts back a batch that was not sent, for the next connection.
    fn requeue(&self, batch: &mut Batch<Waiter>) {
        state(|state| {
            state.queue.requeue(batch);
            state.notify_store();
        });
    }

    /// Puts back a batch that was sent first at `sent`, and may be sent again, for the next connection.
    fn requeue_in_doubt(&self, batch: Batch<Waiter>, sent: StdInstant) {
        state(|state| {
            state.queue.requeue_in_doubt(batch, sent);
            state.notify_store();
        });
    }

    fn set_health(&self, status: StoreHealth) {
        lock(&self.server.health).set(self.index, status);
    }

    /// Records a batch that was sent at `sent` and whose replies have arrived now. Returns the current time.
    fn record_batch(&self, batch: &Batch<Waiter>, sent: Instant) -> Instant {
        super::record_batch(self.server.context.metrics.worker(self.index), batch, sent.into_std()).into()
    }

    /// Returns the command for `/readyz`.
    fn readiness(&self) -> Command {
        lock(&self.server.health).readiness(self.index)
    }

    /// Completes a batch. Commands without a reply from the store get `error`.
    fn complete(&self, batch: &mut Batch<Waiter>, error: StoreError) {
        let mut health = lock(&self.server.health);
        batch
            .replies()
            .for_each(|(command, reply)| health.record_replies(self.index, batch.may_be_applied(), command, reply));
        drop(health);
        state(|state| {
            // The responses carry the current second.
            state.tick();
            state.queue.complete(batch, error, Waker::wake_by_ref);
        });
    }

    /// Completes the gathering batch with `error`, and the batch in doubt.
    fn fail_waiters(&self, error: StoreError) {
        self.fail_in_doubt();
        let mut batch = Batch::default();
        if self.take(&mut batch).is_some() {
            self.complete(&mut batch, error);
        }
    }

    /// Completes the batch in doubt.
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
            store_task: None,
            timer: (None, None),
            reply_task: None,
            pool: Vec::new(),
            clock: None,
            date_set_at: None,
        }
    }

    /// Closes every connection as soon as it has no request in progress.
    fn close(&mut self) {
        self.context.closing = true;
        self.queue.slots.idle_wakers().for_each(Waker::wake_by_ref);
    }

    /// Evicts a connection that is idle or has stalled.
    fn evict(&mut self) {
        if let Some((waker, _)) = self.queue.slots.evict(StdInstant::now()) {
            waker.wake_by_ref();
        }
    }

    /// Adds a command to the gathering batch.
    fn request_total(&mut self, command: &Command, main: &Key, slot: usize, limits: &Limits) {
        let deadline = Timer::Visit.start_at(self.now(), limits).at;
        if self.queue.push(command, main, Waiter { slot, deadline }) {
            self.notify_store();
        }
    }

    /// Returns the time at which bytes arrived last, which is the current time for the code that processes them.
    fn now(&self) -> StdInstant {
        self.clock.unwrap_or_else(StdInstant::now)
    }

    /// Reads the clock, and after [`DATE_MAX_AGE`] the time of day. Called whenever bytes have arrived.
    fn tick(&mut self) {
        let now = StdInstant::now();
        self.clock = Some(now);
        if self.date_set_at.is_none_or(|date_set_at| now >= date_set_at + DATE_MAX_AGE) {
            self.date_set_at = Some(now);
            self.context.set_time(super::unix_time());
        }
    }

    /// Completes every visit that waits, whatever its deadline.
    fn cut_off(&mut self) {
        let now = StdInstant::now();
        self.tick();
        self.queue.cut_off(now);
        self.queue.expire(now, StoreError::Unavailable, Waker::wake_by_ref);
        if let Some(waker) = self.reply_task.take() {
            waker.wake();
        }
    }

    /// Returns the earliest deadline of visits that are not in flight. The task is woken if an earlier one comes.
    fn next_deadline(&mut self, cx: &Context<'_>) -> Option<StdInstant> {
        let (waker, deadline) = &mut self.timer;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        *deadline = self.queue.deadline();
        *deadline
    }

    /// Registers the task to be woken when all waiting ends.
    fn register_reply_task(&mut self, cx: &Context<'_>) {
        if !self.reply_task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.reply_task = Some(cx.waker().clone());
        }
    }

    /// Wakes the store's task for a batch that has begun, and the timer's if its deadline is earlier.
    fn notify_store(&mut self) {
        if let Some(waker) = self.store_task.take() {
            waker.wake();
        }
        let (waker, wakes_at) = &self.timer;
        // A batch that was put back is older than the one that gathers.
        if self.queue.deadline().is_some_and(|deadline| wakes_at.is_none_or(|wakes_at| deadline < wakes_at)) {
            waker.iter().for_each(Waker::wake_by_ref);
        }
    }
}

/// Adds a socket to the event loop of this thread.
fn register(socket: StdStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

/// Reads the bytes that have arrived. Unlike `try_read`, it clears the socket's readiness after a read that does not
/// fill the buffer, which saves a read that would block.
fn read(socket: &mut TcpStream, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(socket.read_buf(&mut buffers.read_buf())).poll(cx)
}

/// Longest age of the time of day, which responses show in whole seconds.
const DATE_MAX_AGE: Duration = Duration::from_millis(50);

/// A thread's stack in bytes; its unused pages take no memory.
const STACK: usize = 1024 * 1024;

/// Processors for each worker, unless `WORKERS` is set. Fewer workers make larger batches, and the store and the
/// kernel's network need processors, too: on two processors, two workers took 5 to 35 % more time per visit.
const PROCESSORS_PER_WORKER: usize = 2;

/// Bytes of memory of a worker and of a connection, measured in a control group by `tests/faults/memory.rs`.
const COSTS: Costs = Costs { worker: 128 * 1024, connection: 5632 };
