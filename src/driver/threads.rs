//! The driver on the standard library alone: blocking sockets, one small thread per connection, one for the store.
//!
//! All threads share one `State` behind one lock. A client's thread adds its ask to the batch and, if nothing is under
//! way, sends the batch off itself; then it is parked. The store's thread reads the replies, wakes those who wait, and
//! sends what has gathered meanwhile. So a lone visit costs two changes of thread, and a batch as many as it has
//! visits.
//!
//! Threads are bounded by `MAX_THREADS` as well as `MAX_CONNECTIONS`. At the bound, a connection on which nothing was
//! asked yet is closed for the new one, or else the one that has rested longest; if none rests, the new one waits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use super::queue::{GRACE, Queue};
use super::{Backoff, CLOSED, Failure, Health, LINGER, Status, after, left, spawn};
use crate::batch::Batch;
use crate::config::{Config, Limits, Store};
use crate::counter::{Ask, Fault};
use crate::exchange::{Exchange, Now, Site, Want};
use crate::ledger::Ledger;
use crate::machine;
use crate::metrics::Metrics;
use crate::redis::{Fate, Login, Sender, Session};
use crate::wire::Wire;

/// Serves until one of `signals` arrives, which the thread that calls must have blocked, then drains and returns.
///
/// # Errors
/// Serving could not begin.
pub fn run(mut config: Box<Config>, signals: SigSet) -> Result<(), Failure> {
    let listener = TcpListener::bind(config.listen).map_err(|error| Failure::Listen(config.listen, error))?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let limits = config.limits.within(machine::open_files(), 1);
    let limits = Limits { connections: limits.connections.min(MAX_THREADS), ..limits };
    config.site.metrics = super::metrics("threads", &config.store, &limits, 1, true);
    // It is never dropped: some of the threads that look at it serve until the process ends.
    let config: &_ = Box::leak(config);
    let server: &_ = Box::leak(Box::new(Server {
        site: &config.site,
        limits,
        leaving: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        state: Mutex::new(State::new(&config.site.metrics)),
        gathered: Condvar::new(),
        impatient: Condvar::new(),
        left: Condvar::new(),
    }));
    let announce = || super::announce(address, &config.store, 1, &limits);
    let clerk = match &config.store {
        Store::Redis(login) => {
            announce();
            detach("redis", Box::new(move || server.redis(login)))?;
            None
        }
        Store::Ledger(path, fsync) => {
            let ledger = super::open_ledger(path, *fsync)?;
            announce();
            Some(spawn("ledger", STACK, Box::new(move || server.ledger(ledger)))?)
        }
    };
    detach("impatience", Box::new(move || server.impatience()))?;
    life(server, listener, address, signals)?;
    if let Some(clerk) = clerk {
        server.state().stopped = true;
        server.gathered.notify_one();
        let _ = clerk.join();
    }
    Ok(())
}

/// Starts a thread that nobody waits for.
fn detach(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    spawn(name, STACK, work).map(drop)
}

/// From the first connection to the last.
fn life(server: &'static Server, listener: TcpListener, address: SocketAddr, signals: SigSet) -> io::Result<()> {
    detach("accept", Box::new(move || server.accept(&listener)))?;
    received(signals);
    super::inform("asked to stop: not ready any more");
    server.leaving.store(true, Ordering::Relaxed);
    // A second signal means at once.
    let hurry = move || {
        received(signals);
        server.state().hurried = true;
        server.left.notify_all();
    };
    detach("signal", Box::new(hurry))?;
    if server.wait(server.limits.drain_delay, |state| state.hurried) {
        return Ok(());
    }
    server.close();
    // Whoever accepts is woken by one connection more, and closes the listener.
    let _ = TcpStream::connect_timeout(&super::reachable(address), LINGER);
    if !server.wait(server.limits.drain, |state| state.hurried || state.open() == 0) {
        super::caution("stopping with connections still open: DRAIN_TIMEOUT has passed", None);
    }
    super::inform("stopped");
    Ok(())
}

/// Waits for a signal.
fn received(signals: SigSet) {
    while signals.wait().is_err() {}
}

/// What all threads share.
struct Server {
    site: &'static Site,
    limits: Limits,
    /// Not ready any more.
    leaving: AtomicBool,
    /// Connections close as soon as nothing is under way on them.
    closing: AtomicBool,
    state: Mutex<State>,
    /// A batch has begun, for the ledger's thread.
    gathered: Condvar,
    /// Somebody waits, for the thread that sees to it that nobody waits too long.
    impatient: Condvar,
    /// A connection is closed, or the server hurries.
    left: Condvar,
}

struct State {
    queue: Queue<Chair>,
    /// The connection with Redis, if that is where we count and it is up.
    link: Option<Box<Link>>,
    /// The batch that the ledger writes, if that is where we count.
    written: Written,
    health: Health,
    /// The number of connections in there changes under the lock that this is behind.
    metrics: &'static Metrics,
    /// Nobody waits, so that the first who does has to say so.
    dozing: bool,
    hurried: bool,
    stopped: bool,
    spares: Vec<Wire>,
    /// Those who have been told, to be woken once the lock is free.
    woken: Vec<Thread>,
}

/// What other threads know of a client: how to wake it, and how to have it go.
struct Chair {
    thread: Thread,
    socket: Arc<TcpStream>,
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
        for chair in state.queue.resting() {
            let _ = chair.socket.shutdown(Shutdown::Read);
        }
    }

    /// Accepts connections until the server closes.
    fn accept(&'static self, listener: &TcpListener) {
        let mut backoff = Backoff::default();
        loop {
            let accepted = listener.accept();
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            match accepted {
                Ok((socket, _)) => {
                    backoff = Backoff::default();
                    self.seat(&Arc::new(socket));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if backoff.is_first() {
                        super::caution(
                            "cannot accept connections: raise the limit of open files, or lower MAX_CONNECTIONS",
                            Some(&error),
                        );
                    }
                    self.state().evict();
                    thread::sleep(backoff.pause());
                }
            }
        }
    }

    /// Gives a connection its thread, as soon as there is room for one.
    fn seat(&'static self, socket: &Arc<TcpStream>) {
        let mut state = self.state();
        while state.open() >= self.limits.connections {
            state.evict();
            state = doze(&self.left, state, GRACE);
        }
        state.queue.calm();
        state.metrics.open.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let mut told = false;
        loop {
            let socket = socket.clone();
            let Err(error) = detach("client", Box::new(move || serve(Client::new(self), socket))) else { return };
            if !std::mem::replace(&mut told, true) {
                super::caution(
                    "cannot serve more connections: raise the limit of threads, or lower MAX_CONNECTIONS",
                    Some(&error),
                );
            }
            // Whoever leaves makes room for this one.
            let mut state = self.state();
            state.evict();
            drop(doze(&self.left, state, Backoff::LAST));
        }
    }

    fn note(&self, status: Status) {
        self.state().health.note(0, status);
    }

    /// Sees to it that nobody waits longer than `STORE_TIMEOUT`, in the queue or for a reply.
    fn impatience(&self) {
        let patience = self.limits.store;
        let mut state = self.state();
        loop {
            let waiting = [state.queue.since(), state.written.since, state.link.as_ref().and_then(|link| link.since())];
            let Some(since) = waiting.into_iter().flatten().min() else {
                state.dozing = true;
                state = self.impatient.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = patience.saturating_sub(since.elapsed());
            if left > Duration::ZERO {
                state = doze(&self.impatient, state, left);
                continue;
            }
            if state.queue.since() == Some(since) {
                if !state.give_up_doubtful() {
                    let fault = state.health.fault(0);
                    state.give_up(fault);
                }
            } else if state.written.since == Some(since) {
                state.tell_written();
            } else if let Some(link) = &mut state.link {
                link.give_up();
            }
            self.release(state);
            state = self.state();
        }
    }

    /// The count in Redis: one connection after the other.
    fn redis(&self, login: &Login) {
        let patience = self.limits.store;
        let sender = Sender { id: machine::random(), patience };
        let mut backoff = Backoff::default();
        let mut away = Instant::now();
        loop {
            let connected = super::connect(login, patience)
                .and_then(|socket| socket.set_write_timeout(Some(PROMPT)).map(|()| socket).map_err(|_| CLOSED));
            let status = match connected {
                Ok(socket) => {
                    let (status, proven) = self.converse(login, sender, socket);
                    if proven {
                        (backoff, away) = (Backoff::default(), Instant::now());
                    }
                    status
                }
                Err(status) => status,
            };
            self.note(status);
            if !status.passes() || away.elapsed() >= patience {
                let mut state = self.state();
                state.give_up(status.fault());
                self.release(state);
            }
            thread::sleep(backoff.pause());
        }
    }

    /// Reads replies until something goes wrong; says what, and whether Redis had greeted us.
    fn converse(&self, login: &Login, sender: Sender, socket: TcpStream) -> (Status, bool) {
        let socket = Arc::new(socket);
        let mut chunk = [0; CHUNK];
        let mut state = self.state();
        let link = state.link.insert(Box::new(Link::open(login, sender, socket.clone())));
        let mut result = link.send();
        state.rouse(self);
        while result.is_ok() {
            self.release(state);
            let read = (&*socket).read(&mut chunk);
            state = self.state();
            result = match read {
                Ok(0) => Err(CLOSED),
                Ok(length) => state.receive(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
                Err(_) => Err(CLOSED),
            };
        }
        let Some(link) = state.link.take() else { return (CLOSED, false) };
        let (late, proven) = (link.late, link.proven);
        state.close(link);
        state.rouse(self);
        self.release(state);
        (if late { Status::Away("it does not answer in time") } else { result.err().unwrap_or(CLOSED) }, proven)
    }

    /// The count in the ledger: one batch after the other.
    fn ledger(&self, mut ledger: Ledger) {
        self.note(Status::Up);
        let (mut asks, mut results, mut sync, mut free) = (Vec::new(), Vec::new(), None, Instant::now());
        while self.collect(&mut asks, sync) {
            ledger.commit(&asks, &mut results);
            let mut state = self.state();
            let State { written, metrics, .. } = &mut *state;
            if let Some(since) = written.since {
                free = super::settled(metrics.worker(0), &written.batch, since.max(free));
            }
            results.drain(..).for_each(|result| written.batch.reply(result));
            state.tell_written();
            self.release(state);
            sync = super::sync(&mut ledger, sync);
        }
        let _ = ledger.sync();
    }

    /// Waits for asks, until a sync is due at most. `false` once the server stops.
    fn collect(&self, asks: &mut Vec<Ask>, sync: Option<Instant>) -> bool {
        asks.clear();
        let mut state = self.state();
        loop {
            let State { queue, written, stopped, .. } = &mut *state;
            if *stopped {
                return false;
            }
            written.since = queue.take(&mut written.batch);
            if written.since.is_some() {
                asks.extend(written.batch.asks());
                return true;
            }
            state = match sync.map(left) {
                None => self.gathered.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(left) => doze(&self.gathered, state, left),
            };
        }
    }
}

/// Unlocks and waits for `event`, for so long at most.
fn doze<'state>(event: &Condvar, state: MutexGuard<'state, State>, long: Duration) -> MutexGuard<'state, State> {
    event.wait_timeout(state, long).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    fn new(metrics: &'static Metrics) -> Self {
        Self {
            queue: Queue::default(),
            link: None,
            written: Written::default(),
            health: Health::new(metrics),
            metrics,
            dozing: false,
            hurried: false,
            stopped: false,
            spares: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Connections that are open.
    fn open(&self) -> usize {
        self.metrics.open.load(Ordering::Relaxed)
    }

    /// Somebody is the first to wait: sends off what gathers if nothing is under way, and wakes whoever has to know.
    fn has_gathered(&mut self, server: &Server) {
        let Self { link, queue, .. } = self;
        match link {
            // If it fails, the thread that reads there learns of it too, and sees to the batch.
            Some(link) => {
                let _ = link.submit(queue);
            }
            None => server.gathered.notify_one(),
        }
        self.rouse(server);
    }

    fn rouse(&mut self, server: &Server) {
        if std::mem::take(&mut self.dozing) {
            server.impatient.notify_one();
        }
    }

    /// Takes bytes from Redis. The link looks at all that is shared meanwhile, and so is put aside.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let Some(mut link) = self.link.take() else { return Err(CLOSED) };
        let received = link.receive(bytes, self);
        self.link = Some(link);
        received
    }

    /// What may be sent, or sent again, waits for the next connection.
    fn close(&mut self, link: Box<Link>) {
        let mut owed = link.session.into_owed(&link.wire);
        match owed.fate {
            Fate::Unsent => self.queue.put_back(&mut owed.batch, link.since),
            Fate::Repeatable => self.queue.doubt(owed.batch, link.since),
            Fate::Over => self.tell(&mut owed.batch, Fault::Lost),
        }
    }

    /// Ends a batch that the store has done with, or that is given up.
    fn tell(&mut self, batch: &mut Batch<usize>, fault: Fault) {
        self.health.learn(0, batch.replies());
        self.queue.tell(batch, fault, |chair| self.woken.push(chair.thread.clone()));
    }

    /// Ends the batch that the ledger has written, or takes too long to.
    fn tell_written(&mut self) {
        let mut batch = std::mem::take(&mut self.written.batch);
        self.tell(&mut batch, Fault::Lost);
        self.written = Written { batch, since: None };
    }

    /// Has a connection go that rests.
    fn evict(&mut self) {
        if let Some(chair) = self.queue.evict(Instant::now()) {
            let _ = chair.socket.shutdown(Shutdown::Read);
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

    /// Ends the batch that is in doubt, and says whether there is one.
    fn give_up_doubtful(&mut self) -> bool {
        let doubtful = self.queue.take_doubtful();
        doubtful.map(|(mut batch, _)| self.tell(&mut batch, Fault::Lost)).is_some()
    }
}

/// One connection to Redis, from the greeting to the first thing that goes wrong.
struct Link {
    socket: Arc<TcpStream>,
    wire: Wire,
    session: Session<usize>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<usize>,
    /// Since when the batch under way, or the greeting, has been waited for.
    since: Instant,
    /// Since when the session is free, or was before that batch: it was sent at the later of the two.
    free: Instant,
    /// Redis has greeted us.
    proven: bool,
    /// It was given up.
    late: bool,
}

impl Link {
    fn open(login: &Login, sender: Sender, socket: Arc<TcpStream>) -> Self {
        let mut wire = Wire::default();
        let session = Session::open(login, sender, &mut wire);
        let (batch, since) = (Batch::default(), Instant::now());
        Self { socket, wire, session, batch, since, free: since, proven: false, late: false }
    }

    /// Takes bytes from Redis: has those woken whose batch is answered, and sends off the next.
    fn receive(&mut self, mut bytes: &[u8], state: &mut State) -> Result<(), Status> {
        while !bytes.is_empty() {
            bytes = self.wire.take_in(bytes);
            if let Some(batch) = self.session.settle(&mut self.wire).map_err(Status::of)? {
                self.free = super::settled(state.metrics.worker(0), batch, self.since.max(self.free));
                state.tell(batch, Fault::Lost);
            }
        }
        if self.session.is_free() && !std::mem::replace(&mut self.proven, true) {
            self.free = Instant::now();
            state.health.greeted(0);
        }
        if self.proven && !self.session.keeps_receipts() {
            state.health.without_receipts();
            state.give_up_doubtful();
        }
        self.submit(&mut state.queue)
    }

    /// Since when something is waited for.
    fn since(&self) -> Option<Instant> {
        (!self.late && !self.session.is_free()).then_some(self.since)
    }

    /// Has the thread that reads here find the end.
    fn give_up(&mut self) {
        self.late = true;
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends off what has gathered, if nothing is under way.
    fn submit(&mut self, queue: &mut Queue<Chair>) -> Result<(), Status> {
        if self.session.is_free()
            && let Some(since) = queue.take(&mut self.batch)
        {
            self.since = since;
            self.session.submit(&mut self.batch, &mut self.wire);
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Status> {
        while !self.wire.unsent().is_empty() {
            match (&*self.socket).write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(CLOSED),
            }
        }
        Ok(())
    }
}

/// A batch that the ledger writes, and since when it has been waited for.
#[derive(Default)]
struct Written {
    batch: Batch<usize>,
    since: Option<Instant>,
}

/// One connection, as the server knows it. It gives up its seat when it is dropped.
struct Client {
    server: &'static Server,
    seat: usize,
}

impl Client {
    fn new(server: &'static Server) -> Self {
        let seat = server.state().queue.enter();
        Self { server, seat }
    }

    /// Asks the store and waits for its answer; meanwhile the client's memory is lent out.
    fn ask(&self, ask: Ask, wire: &mut Wire) -> Result<i64, Fault> {
        let mut state = self.server.state();
        wire.give_back(&mut state.spares);
        if state.queue.ask(ask, self.seat) {
            state.has_gathered(self.server);
        }
        loop {
            if let Some(total) = state.queue.answer(self.seat) {
                wire.borrow(&mut state.spares);
                return total;
            }
            drop(state);
            thread::park();
            state = self.server.state();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.queue.leave(self.seat);
        state.metrics.open.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        self.server.left.notify_all();
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
fn serve(client: Client, socket: Arc<TcpStream>) {
    let bounded = socket.set_nodelay(true).and_then(|()| socket.set_write_timeout(Some(client.server.limits.send)));
    if bounded.is_ok() {
        let chair = Chair { thread: thread::current(), socket: socket.clone() };
        *client.server.state().queue.waker(client.seat) = Some(chair);
        let mut talk = Talk { client, socket, wire: Wire::default(), now: Now::default(), patience: None };
        let _ = talk.serve();
    }
}

/// A client and its socket.
struct Talk {
    client: Client,
    socket: Arc<TcpStream>,
    wire: Wire,
    now: Now,
    /// How long the socket waits for bytes, as it was last told.
    patience: Option<Duration>,
}

/// Why a wait has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    Late,
}

impl Talk {
    fn serve(&mut self) -> io::Result<()> {
        let limits = self.client.server.limits;
        let mut exchange = Exchange::default();
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut begun, mut deadline) = (0, after(limits.header));
        let (mut idle, mut served) = (limits.header, false);
        loop {
            self.tick();
            match exchange.next(self.client.server.site, &mut self.now, &mut self.wire) {
                Want::Request => {
                    self.send()?;
                    self.rest(served);
                    if self.receive(idle)? != Wake::Ready {
                        return Ok(());
                    }
                    (idle, served) = (limits.idle, true);
                }
                Want::Bytes(request) => {
                    if request != begun {
                        (begun, deadline) = (request, after(limits.header));
                    }
                    self.send()?;
                    if self.receive(left(deadline))? != Wake::Ready {
                        exchange.time_out(self.client.server.site, &mut self.now, &mut self.wire);
                    }
                }
                Want::Room => self.send()?,
                Want::Total(ask) => {
                    self.send()?;
                    let total = self.client.ask(ask, &mut self.wire);
                    self.tick();
                    exchange.answer(total, self.client.server.site, &mut self.now, &mut self.wire);
                }
                Want::Close => {
                    self.send()?;
                    return self.linger();
                }
            }
        }
    }

    /// Learns the time, and what has become of the server.
    fn tick(&mut self) {
        let server = &self.client.server;
        self.now.set(super::unix_time());
        self.now.leaving = server.leaving.load(Ordering::Relaxed);
        self.now.closing = server.closing.load(Ordering::Relaxed);
    }

    /// Sends all that is unsent.
    fn send(&mut self) -> io::Result<()> {
        let limit = self.client.server.limits.send;
        let deadline = after(limit);
        let mut patience = limit;
        while !self.wire.unsent().is_empty() {
            match (&*self.socket).write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !self.wire.unsent().is_empty() {
                patience = left(deadline);
                if patience == Duration::ZERO {
                    return Err(ErrorKind::TimedOut.into());
                }
                self.socket.set_write_timeout(Some(patience))?;
            }
        }
        if patience < limit {
            self.socket.set_write_timeout(Some(limit))?;
        }
        Ok(())
    }

    /// Waits for bytes and takes them. Nobody else needs the memory of a connection that waits, so it is lent out.
    fn receive(&mut self, patience: Duration) -> io::Result<Wake> {
        self.wire.give_back(&mut self.client.server.state().spares);
        self.be_patient(patience)?;
        let mut chunk = [0; CHUNK];
        let room = CHUNK.min(crate::wire::MAX_UNREAD - self.wire.unread().len());
        let read = (&*self.socket).read(&mut chunk[..room]);
        let mut state = self.client.server.state();
        state.queue.rise(self.client.seat);
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.wire.borrow(&mut state.spares);
                self.wire.take_in(&chunk[..length]);
                Ok(Wake::Ready)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Wake::Late),
            Err(error) => Err(error),
        }
    }

    /// Nothing is under way. If the server closes, or somebody else needs the seat, only what has come already is read.
    fn rest(&self, served: bool) {
        let mut state = self.client.server.state();
        state.queue.rest(self.client.seat, Instant::now(), served);
        if self.client.server.closing.load(Ordering::Relaxed) || state.queue.yields(self.client.seat) {
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Has the socket wait so long for bytes and no longer.
    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let patience = Some(patience.max(Duration::from_millis(1)));
        if self.patience != patience {
            self.socket.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Closes so that the last answer arrives: says that nothing more will come, and reads away what is still coming.
    fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let deadline = after(LINGER);
        loop {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            let left = left(deadline);
            if left == Duration::ZERO || self.receive(left)? != Wake::Ready {
                return Ok(());
            }
        }
    }
}

/// Most connections at once, whatever `MAX_CONNECTIONS` says: each costs a thread.
const MAX_THREADS: usize = 1024;

/// A thread's stack in bytes. The deepest of them needs a quarter of it.
const STACK: usize = 64 * 1024;

/// How long Redis may take to accept a batch. It is sent under the lock that all share, and seldom fills a segment.
const PROMPT: Duration = Duration::from_millis(100);

/// Bytes taken from a socket at a time; few requests are longer.
const CHUNK: usize = 2 * 1024;
