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
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use nix::sys::signal::SigSet;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::queue::{GRACE, Queue};
use super::{Backoff, CLOSED, Failure, Health, LINGER, Status, spawn};
use crate::batch::Batch;
use crate::config::{Config, Limits, Store};
use crate::counter::{Ask, Fault};
use crate::exchange::{Exchange, Now, Site, Want};
use crate::ledger::Ledger;
use crate::machine;
use crate::redis::{Fate, Login, Sender, Session};
use crate::wire::Wire;

/// Serves until one of `signals` arrives, which the thread that calls must have blocked, then drains and returns.
///
/// # Errors
/// Serving could not begin.
pub fn run(mut config: Box<Config>, signals: SigSet) -> Result<(), Failure> {
    let count = config.workers.unwrap_or_else(machine::processors);
    let mut runtimes = Vec::new();
    for _ in 0..count {
        runtimes.push(runtime()?);
    }
    let listener = {
        // Sockets are made within an event loop.
        let _entered = runtimes[0].enter();
        listen(config.listen).map_err(|error| Failure::Listen(config.listen, error))?
    };
    let limits = config.limits.within(machine::open_files(), count);
    config.site.metrics = super::metrics("tokio", &config.store, &limits, count, false);
    let config: &Config = Box::leak(config);
    let store = match &config.store {
        Store::Redis(login) => Carrier::Redis(login),
        Store::Ledger(path, fsync) => Carrier::Ledger(Desk::open(super::open_ledger(path, *fsync)?, count)?),
    };
    super::announce(listener.local_addr().unwrap_or(config.listen), &config.store, count, &limits);

    let site = &config.site;
    let health = Mutex::new(Health::new(&site.metrics));
    let server = keep(Server { site, limits, health, left: Mutex::new(None) });
    let mut workers = Vec::new();
    for (index, own) in runtimes.iter().enumerate() {
        workers.push(Worker { index, server, handle: own.handle().clone(), open: AtomicUsize::new(0) });
    }
    let workers: &'static [Worker] = workers.leak();
    for worker in workers {
        worker.spawn(Box::pin(impatience(worker)));
        match store {
            Carrier::Redis(login) => worker.spawn(Box::pin(redis(worker, login))),
            Carrier::Ledger(desk) => worker.spawn(Box::pin(ledger(worker, desk))),
        };
    }
    for own in runtimes.drain(1..) {
        spawn("worker", STACK, Box::new(move || own.block_on(pending())))?;
    }
    let first = runtimes.remove(0);
    first.block_on(life(server, workers, listener, watch(signals)?))?;
    first.shutdown_background();
    if let Carrier::Ledger(desk) = store {
        desk.close();
    }
    Ok(())
}

/// How a worker reaches the store.
#[derive(Clone, Copy)]
enum Carrier {
    Redis(&'static Login),
    Ledger(&'static Desk),
}

/// Keeps a value as long as the process lives, as the event loops do that look at it: nobody need count who holds it.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// From the first connection to the last.
async fn life(
    server: &'static Server,
    workers: &'static [Worker],
    listener: StdListener,
    signals: &Inbox<()>,
) -> io::Result<()> {
    let accepting = accept(server, workers, TcpListener::from_std(listener)?);
    let accepting = workers[0].spawn(Box::pin(accepting));
    signals.take().await;
    super::inform("asked to stop: not ready any more");
    for worker in workers {
        worker.order(|state| state.now.leaving = true);
    }
    // A second signal means at once, here and below.
    if first(signals.take(), sleep(server.limits.drain_delay)).await {
        return Ok(());
    }
    accepting.abort();
    for worker in workers {
        worker.order(State::close);
    }
    let done = first(signals.take(), server.vacancy(1));
    if timeout(server.limits.drain, done).await.is_err() {
        super::caution("stopping with connections still open: DRAIN_TIMEOUT has passed", None);
    }
    super::inform("stopped");
    Ok(())
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

/// Takes signals on a thread of its own, since that is how to wait for them without a handler.
fn watch(signals: SigSet) -> io::Result<&'static Inbox<()>> {
    let inbox = keep(Inbox::new());
    let work = move || {
        loop {
            if signals.wait().is_ok() {
                inbox.put(());
            }
        }
    };
    spawn("signals", STACK, Box::new(work))?;
    Ok(inbox)
}

/// Waits for one of the two, and says whether it was the first.
async fn first<A>(one: impl Future<Output = A>, other: impl Future) -> bool {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match (one.as_mut().poll(cx), other.as_mut().poll(cx)) {
        (Poll::Ready(_), _) => Poll::Ready(true),
        (_, Poll::Ready(_)) => Poll::Ready(false),
        _ => Poll::Pending,
    })
    .await
}

/// What all workers share.
struct Server {
    site: &'static Site,
    limits: Limits,
    health: Mutex<Health>,
    /// Whom to wake when a connection is not open any more.
    left: Mutex<Option<Waker>>,
}

impl Server {
    /// Connections that are open.
    fn open(&self) -> &AtomicUsize {
        &self.site.metrics.open
    }

    /// Waits until fewer than `bound` connections are open.
    async fn vacancy(&self, bound: usize) {
        poll_fn(|cx| {
            *lock(&self.left) = Some(cx.waker().clone());
            if self.open().load(Ordering::SeqCst) < bound { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// A lock is only ever held for a few lines that do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts connections and hands each to the worker that has the fewest. When there are as many as there may be, one
/// that rests has to go.
async fn accept(server: &'static Server, workers: &'static [Worker], listener: TcpListener) {
    let mut backoff = Backoff::default();
    loop {
        // Taken out of this worker's event loop, because it may go to another's.
        let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
        match accepted.and_then(|(socket, _)| socket.into_std()) {
            Ok(socket) => {
                backoff = Backoff::default();
                if server.open().load(Ordering::SeqCst) >= server.limits.connections {
                    make_room(server, workers).await;
                }
                if let Some(worker) = workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) {
                    worker.handle.spawn(serve(Place::take(worker), socket));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if backoff.is_first() {
                    super::caution(
                        "cannot accept connections: raise the limit of open files, or lower MAX_CONNECTIONS",
                        Some(&error),
                    );
                }
                evict(workers, 0);
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Waits for a place. One worker after the other is asked for a connection that can go.
async fn make_room(server: &Server, workers: &[Worker]) {
    let mut asked = 0;
    evict(workers, asked);
    while timeout(GRACE, server.vacancy(server.limits.connections)).await.is_err() {
        asked += 1;
        evict(workers, asked);
    }
    for worker in workers {
        worker.order(|state| state.queue.calm());
    }
}

/// Has a connection go that rests, on the worker that has most of them or, if others were asked before, on the next.
fn evict(workers: &[Worker], asked: usize) {
    let crowd = |&index: &usize| workers[index].open.load(Ordering::Relaxed);
    if let Some(first) = (0..workers.len()).max_by_key(crowd) {
        workers[(first + asked) % workers.len()].order(State::evict);
    }
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
    now: Now,
    queue: Queue<Waker>,
    /// The store's task, if it waits for a batch to begin.
    carrier: Option<Waker>,
    /// The task that sees to it that nobody waits too long, if nobody waits.
    patience: Option<Waker>,
    spares: Vec<Wire>,
}

impl Worker {
    /// Starts a task that is one of few. It comes boxed, so that tokio's code around it is there once for all of them.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) -> JoinHandle<()> {
        self.handle.spawn(task)
    }

    /// Has something done to the worker's state, on its own thread.
    fn order(&self, order: fn(&mut State)) {
        self.spawn(Box::pin(async move { state(order) }));
    }

    /// Waits until somebody asks, and takes the batch. Says since when it has gathered.
    async fn gathered(&self, batch: &mut Batch<usize>) -> Instant {
        poll_fn(|cx| match self.take(batch) {
            Some(since) => Poll::Ready(since),
            None => {
                state(|state| state.carrier = Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    fn take(&self, batch: &mut Batch<usize>) -> Option<Instant> {
        state(|state| state.queue.take(batch)).map(Instant::from_std)
    }

    /// Has a batch that was not sent wait for the next connection.
    fn put_back(&self, batch: &mut Batch<usize>, since: Instant) {
        state(|state| {
            state.queue.put_back(batch, since.into_std());
            state.has_gathered();
        });
    }

    /// Has a batch that may be sent again wait for the next connection.
    fn doubt(&self, batch: Batch<usize>, since: Instant) {
        state(|state| {
            state.queue.doubt(batch, since.into_std());
            state.has_gathered();
        });
    }

    fn note(&self, status: Status) {
        lock(&self.server.health).note(self.index, status);
    }

    /// Notes that a batch was answered that was sent at that time, and says when.
    fn settled(&self, batch: &Batch<usize>, sent: Instant) -> Instant {
        super::settled(self.server.site.metrics.worker(self.index), batch, sent.into_std()).into()
    }

    /// Ends a batch that the store has done with, or that is given up.
    fn tell(&self, batch: &mut Batch<usize>, fault: Fault) {
        lock(&self.server.health).learn(self.index, batch.replies());
        state(|state| {
            // The answers are of this second.
            state.now.set(super::unix_time());
            state.queue.tell(batch, fault, Waker::wake_by_ref);
        });
    }

    /// Ends the batch that gathers, and the one in doubt.
    fn give_up(&self, fault: Fault) {
        self.give_up_doubtful();
        let mut batch = Batch::default();
        if self.take(&mut batch).is_some() {
            self.tell(&mut batch, fault);
        }
    }

    /// Ends the batch that is in doubt, and says whether there is one.
    fn give_up_doubtful(&self) -> bool {
        let doubtful = state(|state| state.queue.take_doubtful());
        doubtful.map(|(mut batch, _)| self.tell(&mut batch, Fault::Lost)).is_some()
    }
}

impl State {
    const fn new() -> Self {
        Self { now: Now::new(), queue: Queue::new(), carrier: None, patience: None, spares: Vec::new() }
    }

    /// Has every connection closed as soon as nothing is under way on it.
    fn close(&mut self) {
        self.now.closing = true;
        self.queue.resting().for_each(Waker::wake_by_ref);
    }

    fn evict(&mut self) {
        if let Some(waker) = self.queue.evict(StdInstant::now()) {
            waker.wake_by_ref();
        }
    }

    fn ask(&mut self, ask: Ask, seat: usize) {
        if self.queue.ask(ask, seat) {
            self.has_gathered();
        }
    }

    fn has_gathered(&mut self) {
        for waiting in [self.carrier.take(), self.patience.take()].into_iter().flatten() {
            waiting.wake();
        }
    }
}

/// Sees to it that nobody waits longer than `STORE_TIMEOUT` to be sent to the store.
async fn impatience(worker: &'static Worker) {
    // It is the first task on its thread.
    state(|state| state.now.worker = worker.index);
    loop {
        let since = poll_fn(|cx| {
            state(|state| {
                if state.queue.since().is_none() {
                    state.patience = Some(cx.waker().clone());
                }
                state.queue.since().map_or(Poll::Pending, Poll::Ready)
            })
        })
        .await;
        sleep_until(Instant::from_std(since) + worker.server.limits.store).await;
        if state(|state| state.queue.since()) == Some(since) && !worker.give_up_doubtful() {
            let fault = lock(&worker.server.health).fault(worker.index);
            worker.give_up(fault);
        }
    }
}

/// The count in Redis: one connection after the other, one batch after the other.
async fn redis(worker: &'static Worker, login: &'static Login) {
    let patience = worker.server.limits.store;
    let sender = Sender { id: machine::random(), patience };
    let mut backoff = Backoff::default();
    let mut away = Instant::now();
    loop {
        let status = match connect(login, patience).await {
            Ok(socket) => {
                let mut link = Link::open(worker, socket, login, sender);
                let status = poll_fn(|cx| link.poll(cx)).await;
                if link.proven {
                    (backoff, away) = (Backoff::default(), Instant::now());
                }
                link.close();
                status
            }
            Err(status) => status,
        };
        worker.note(status);
        if !status.passes() || away.elapsed() >= patience {
            worker.give_up(status.fault());
        }
        sleep(backoff.pause()).await;
    }
}

/// Connects on a thread of its own, because looking a name up and connecting may block.
async fn connect(login: &'static Login, patience: Duration) -> Result<TcpStream, Status> {
    let inbox = Arc::new(Inbox::new());
    let own = inbox.clone();
    let work = move || own.put(super::connect(login, patience));
    spawn("connect", STACK, Box::new(work)).map_err(|_| Status::Away("the system refuses a thread to connect on"))?;
    let socket = inbox.take().await?;
    socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)).map_err(|_| CLOSED)
}

/// One connection to Redis, from the greeting to the first thing that goes wrong.
struct Link {
    worker: &'static Worker,
    socket: TcpStream,
    wire: Wire,
    session: Session<usize>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<usize>,
    /// Since when the batch under way, or the greeting, has been waited for.
    since: Instant,
    /// Since when the session is free, or was before that batch: it was sent at the later of the two.
    free: Instant,
    alarm: Alarm,
    /// Redis has greeted us.
    proven: bool,
}

impl Link {
    fn open(worker: &'static Worker, socket: TcpStream, login: &Login, sender: Sender) -> Self {
        let mut wire = Wire::default();
        let session = Session::open(login, sender, &mut wire);
        let since = Instant::now();
        let (batch, alarm) = (Batch::default(), Alarm::new(since));
        Self { worker, socket, wire, session, batch, since, free: since, alarm, proven: false }
    }

    /// Carries batches until something goes wrong, and says what.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(status) => Poll::Ready(status),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while self.receive(cx)? {
            if let Some(batch) = self.session.settle(&mut self.wire).map_err(Status::of)? {
                self.free = self.worker.settled(batch, self.since.max(self.free));
                self.worker.tell(batch, Fault::Lost);
            }
        }
        if self.session.is_free() {
            self.submit(cx);
        }
        self.send(cx)?;
        let deadline = self.since + self.worker.server.limits.store;
        if !self.session.is_free() && self.alarm.poll(deadline, cx).is_ready() {
            return Err(Status::Away("it does not answer in time"));
        }
        Ok(())
    }

    /// Sends off what has gathered, or waits for it.
    fn submit(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.proven, true) {
            self.free = Instant::now();
            lock(&self.worker.server.health).greeted(self.worker.index);
        }
        if !self.session.keeps_receipts() {
            lock(&self.worker.server.health).without_receipts();
            self.worker.give_up_doubtful();
        }
        match self.worker.take(&mut self.batch) {
            Some(since) => {
                self.since = since;
                self.session.submit(&mut self.batch, &mut self.wire);
            }
            None => state(|state| state.carrier = Some(cx.waker().clone())),
        }
    }

    /// Whether bytes have come.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        match read(&mut self.socket, &mut self.wire, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => Ok(true),
            Poll::Ready(_) => Err(CLOSED),
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while !self.wire.unsent().is_empty() && self.socket.poll_write_ready(cx).is_ready() {
            match self.socket.try_write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(CLOSED),
            }
        }
        Ok(())
    }

    /// What may be sent, or sent again, waits for the next connection.
    fn close(self) {
        let mut owed = self.session.into_owed(&self.wire);
        match owed.fate {
            Fate::Unsent => self.worker.put_back(&mut owed.batch, self.since),
            Fate::Repeatable => self.worker.doubt(owed.batch, self.since),
            Fate::Over => self.worker.tell(&mut owed.batch, Fault::Lost),
        }
    }
}

/// The count in the ledger: one batch of this worker after the other.
async fn ledger(worker: &'static Worker, desk: &'static Desk) {
    worker.note(Status::Up);
    let mut batch = Batch::default();
    let mut free = Instant::now();
    let mut alarm = Alarm::new(free);
    loop {
        let since = worker.gathered(&mut batch).await;
        let deadline = since + worker.server.limits.store;
        desk.submit(worker.index, batch.asks());
        poll_fn(|cx| {
            if desk.poll(worker.index, &mut batch, cx).is_ready() {
                return Poll::Ready(());
            }
            // A disk that is this slow has the next batch wait, but not these visitors.
            if !batch.is_empty() && alarm.poll(deadline, cx).is_ready() {
                worker.tell(&mut batch, Fault::Lost);
            }
            Poll::Pending
        })
        .await;
        free = worker.settled(&batch, since.max(free));
        worker.tell(&mut batch, Fault::Lost);
    }
}

/// Where the workers leave their batches for the thread that owns the ledger, since a disk can only be waited for by a
/// thread. It takes the batches of all workers at once.
struct Desk {
    trays: Mutex<Trays>,
    bell: Condvar,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Trays {
    each: Vec<Tray>,
    closed: bool,
}

/// One worker's side of the desk.
#[derive(Default)]
struct Tray {
    asks: Vec<Ask>,
    results: Vec<Result<i64, Fault>>,
    waker: Option<Waker>,
}

impl Desk {
    fn open(ledger: Ledger, workers: usize) -> io::Result<&'static Self> {
        let each = (0..workers).map(|_| Tray::default()).collect();
        let desk = keep(Self {
            trays: Mutex::new(Trays { each, closed: false }),
            bell: Condvar::new(),
            thread: Mutex::default(),
        });
        let clerk = Clerk { ledger, asks: Vec::new(), results: Vec::new(), owners: Vec::new() };
        let thread = spawn("ledger", STACK, Box::new(move || clerk.work(desk)))?;
        *lock(&desk.thread) = Some(thread);
        Ok(desk)
    }

    fn submit(&self, worker: usize, asks: impl Iterator<Item = Ask>) {
        lock(&self.trays).each[worker].asks.extend(asks);
        self.bell.notify_one();
    }

    /// Waits for the results of what was submitted, and puts them into the batch.
    fn poll(&self, worker: usize, batch: &mut Batch<usize>, cx: &mut Context<'_>) -> Poll<()> {
        let tray = &mut lock(&self.trays).each[worker];
        if tray.results.is_empty() {
            tray.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for result in tray.results.drain(..) {
            batch.reply(result);
        }
        Poll::Ready(())
    }

    /// Waits for asks, until `deadline` at most. `false` once the desk is closed.
    fn collect(&self, deadline: Option<StdInstant>, clerk: &mut Clerk) -> bool {
        let mut trays = lock(&self.trays);
        loop {
            if trays.closed {
                return false;
            }
            for (worker, tray) in trays.each.iter_mut().enumerate().filter(|(_, tray)| !tray.asks.is_empty()) {
                clerk.owners.push((worker, tray.asks.len()));
                clerk.asks.append(&mut tray.asks);
            }
            if !clerk.asks.is_empty() {
                return true;
            }
            trays = match deadline.map(|deadline| deadline.saturating_duration_since(StdInstant::now())) {
                None => self.bell.wait(trays).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(left) => self.bell.wait_timeout(trays, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn deal(&self, clerk: &mut Clerk) {
        let mut trays = lock(&self.trays);
        let mut dealt = clerk.results.drain(..);
        for (worker, count) in clerk.owners.drain(..) {
            let tray = &mut trays.each[worker];
            tray.results.extend(dealt.by_ref().take(count));
            if let Some(waker) = tray.waker.take() {
                waker.wake();
            }
        }
    }

    /// Waits until what was committed is synced. What was not is not answered either.
    fn close(&self) {
        lock(&self.trays).closed = true;
        self.bell.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// The one who keeps the ledger.
struct Clerk {
    ledger: Ledger,
    asks: Vec<Ask>,
    results: Vec<Result<i64, Fault>>,
    /// Whose they are: a worker and how many of its asks.
    owners: Vec<(usize, usize)>,
}

impl Clerk {
    fn work(mut self, desk: &Desk) {
        let mut sync = None;
        while desk.collect(sync, &mut self) {
            self.ledger.commit(&self.asks, &mut self.results);
            self.asks.clear();
            desk.deal(&mut self);
            sync = super::sync(&mut self.ledger, sync);
        }
        let _ = self.ledger.sync();
    }
}

/// One of the `MAX_CONNECTIONS` places, until it is dropped.
struct Place {
    worker: &'static Worker,
}

impl Place {
    fn take(worker: &'static Worker) -> Self {
        worker.open.fetch_add(1, Ordering::Relaxed);
        worker.server.open().fetch_add(1, Ordering::SeqCst);
        Self { worker }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.open.fetch_sub(1, Ordering::Relaxed);
        self.worker.server.open().fetch_sub(1, Ordering::SeqCst);
        if let Some(waker) = lock(&self.worker.server.left).take() {
            waker.wake();
        }
    }
}

/// One connection, as its worker knows it. It gives up its seat when it is dropped.
struct Client {
    place: Place,
    seat: usize,
}

impl Client {
    fn new(place: Place) -> Self {
        Self { place, seat: state(|state| state.queue.enter()) }
    }

    fn server(&self) -> &Server {
        self.place.worker.server
    }

    /// A turn of the exchange.
    fn turn<T>(&self, turn: impl FnOnce(&Site, &mut Now) -> T) -> T {
        state(|state| turn(self.server().site, &mut state.now))
    }

    /// Asks the store. Until it answers, the client's memory is lent out.
    fn ask(&self, ask: Ask, wire: &mut Wire) {
        state(|state| {
            wire.give_back(&mut state.spares);
            state.ask(ask, self.seat);
        });
    }

    /// Waits for the store's answer.
    async fn answered(&self, wire: &mut Wire) -> Result<i64, Fault> {
        poll_fn(|cx| {
            self.seated(cx, |state| {
                let Some(total) = state.queue.answer(self.seat) else { return Poll::Pending };
                wire.borrow(&mut state.spares);
                Poll::Ready(total)
            })
        })
        .await
    }

    /// Whether a client that rests has to go.
    fn must_go(&self, cx: &Context<'_>) -> bool {
        self.seated(cx, |state| state.now.closing || state.queue.yields(self.seat))
    }

    /// Looks at the worker's state. Whoever changes it for this client wakes it.
    fn seated<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut State) -> T) -> T {
        state(|state| {
            let waker = state.queue.waker(self.seat);
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            look(state)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        state(|state| state.queue.leave(self.seat));
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
async fn serve(place: Place, socket: StdStream) {
    let client = Client::new(place);
    let socket = socket.set_nodelay(true).map(|()| socket);
    if let Ok(socket) = socket.and_then(TcpStream::from_std) {
        let mut talk = Talk { alarm: Alarm::new(Instant::now()), client, socket, wire: Wire::default() };
        let _ = talk.serve().await;
    }
}

/// A client and its socket.
struct Talk {
    client: Client,
    socket: TcpStream,
    wire: Wire,
    alarm: Alarm,
}

/// Why a wait has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    Late,
    Closing,
}

impl Talk {
    async fn serve(&mut self) -> io::Result<()> {
        let limits = self.client.server().limits;
        let mut exchange = Exchange::default();
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut begun, mut deadline) = (0, Instant::now() + limits.header);
        let mut idle = None;
        loop {
            match self.client.turn(|site, now| exchange.next(site, now, &mut self.wire)) {
                Want::Request => {
                    self.send().await?;
                    let now = Instant::now();
                    let patience = idle.map_or(deadline, |idle| now + idle);
                    self.rest(now.into_std(), idle.is_some());
                    if self.receive(patience, true).await? != Wake::Ready {
                        return Ok(());
                    }
                    idle = Some(limits.idle);
                }
                Want::Bytes(request) => {
                    if request != begun {
                        (begun, deadline) = (request, Instant::now() + limits.header);
                    }
                    self.send().await?;
                    if self.receive(deadline, false).await? != Wake::Ready {
                        state(|state| state.now.set(super::unix_time()));
                        self.client.turn(|site, now| exchange.time_out(site, now, &mut self.wire));
                    }
                }
                Want::Room => self.send().await?,
                // It will be wanted again; kept meanwhile, it would take room in every connection.
                Want::Total(_) if !self.wire.unsent().is_empty() => self.send().await?,
                Want::Total(ask) => {
                    self.client.ask(ask, &mut self.wire);
                    let total = self.client.answered(&mut self.wire).await;
                    self.client.turn(|site, now| exchange.answer(total, site, now, &mut self.wire));
                }
                Want::Close => {
                    self.send().await?;
                    return self.linger().await;
                }
            }
        }
    }

    /// Sends all that is unsent.
    async fn send(&mut self) -> io::Result<()> {
        let mut deadline = None;
        while !self.wire.unsent().is_empty() {
            match self.socket.try_write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let limit = self.client.server().limits.send;
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
                    poll_fn(|cx| match self.socket.poll_write_ready(cx) {
                        Poll::Pending => self.alarm.poll(deadline, cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                        ready => ready,
                    })
                    .await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for bytes and takes them. Nobody else needs the memory of a connection that waits, so it is lent out.
    async fn receive(&mut self, deadline: Instant, resting: bool) -> io::Result<Wake> {
        loop {
            state(|state| self.wire.give_back(&mut state.spares));
            let wake = poll_fn(|cx| match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.map(|()| Wake::Ready)),
                Poll::Pending if resting && self.client.must_go(cx) => Poll::Ready(Ok(Wake::Closing)),
                Poll::Pending => self.alarm.poll(deadline, cx).map(|()| Ok(Wake::Late)),
            })
            .await?;
            if wake != Wake::Ready {
                return Ok(wake);
            }
            self.rise();
            match poll_fn(|cx| Poll::Ready(read(&mut self.socket, &mut self.wire, cx))).await {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(read) => return read.map(|_| Wake::Ready),
            }
        }
    }

    fn rest(&self, now: StdInstant, served: bool) {
        state(|state| state.queue.rest(self.client.seat, now, served));
    }

    fn rise(&mut self) {
        state(|state| {
            state.now.set(super::unix_time());
            self.wire.borrow(&mut state.spares);
            state.queue.rise(self.client.seat);
        });
    }

    /// Closes so that the last answer arrives: says that nothing more will come, and reads away what is still coming.
    async fn linger(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await?;
        let deadline = Instant::now() + LINGER;
        loop {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            if self.receive(deadline, false).await? != Wake::Ready {
                return Ok(());
            }
        }
    }
}

/// Takes what has come. Unlike `try_read`, this sees by a read that does not fill the room that no more is there, and
/// so does not ask in vain the next time.
fn read(socket: &mut TcpStream, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(socket.read_buf(&mut wire.room())).poll(cx)
}

/// A timer that is set only when it has to be: a connection's deadline moves with each request, but hardly ever comes.
/// It belongs to one task.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// It will wake the task, so that it need not be polled before.
    set: bool,
}

impl Alarm {
    fn new(first: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(first)), set: false }
    }

    /// Ready once `deadline` has passed.
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.reset(deadline);
        }
        while !self.set || self.sleep.is_elapsed() {
            self.set = self.sleep.as_mut().poll(cx).is_pending();
            if !self.set {
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                self.reset(deadline);
            }
        }
        Poll::Pending
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.set = false;
    }
}

/// A thread's stack in bytes; what is not used of it takes no memory.
const STACK: usize = 1024 * 1024;

/// Connections waiting to be accepted, at most; the system may allow fewer.
const BACKLOG: u32 = 1024;
