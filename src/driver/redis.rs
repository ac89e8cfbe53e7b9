//! Redis without its sockets: what both drivers do with a connection, and between connections.
//!
//! - [`RedisLoop`] is the state of one event loop over all its connections. It obeys the [`Topology`], and reports to
//!   the waiters and the health of the store when there is nothing to do but wait.
//! - [`RedisConnection`] is one connection: it moves batches from the queue to the session and results back, and
//!   decides how long a reply may take.
//!
//! ```text
//! Handshake -- all replies --> Ready -- a visit is counted --> Serving
//! any -- closed, silent, SessionError --> ended
//! ```
//!
//! A driver supplies an [`EventLoop`], moves bytes from the socket to [`RedisConnection::incoming`] and from
//! [`RedisConnection::outgoing`] to the socket, and calls [`RedisConnection::check_timeouts`] at
//! [`RedisConnection::deadline`].

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::deadline::Timer;
use super::health::{Health, StoreHealth};
use super::link::{Link, LinkError};
use super::queue::{Attempt, Waiter};
use super::reply_timeout::ReplyTimeout;
use super::{CLOSED, CONNECT_TIMED_OUT, SILENT, deadline_after, listener, remaining, resolver};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::config::Limits;
use crate::counter::{Command, Key, LastTotals, StoreError};
use crate::metrics::WorkerMetrics;
use crate::redis::{
    Address, Event, Leftover, Producer, Receipts, Recovery, RedisConfig, SentinelError, SentinelQuery, Servers,
    Session, SessionError, Step, Tls, TlsError, Topology,
};
use crate::system::socket_file::FileKind;

/// The event loop to which a connection belongs.
pub(super) trait EventLoop {
    /// Returns its index among the workers.
    fn index(&self) -> usize;

    /// Returns the time.
    fn now(&self) -> Instant;

    fn metrics(&self) -> &WorkerMetrics;

    /// Calls `access` with the health of the store, which all event loops share.
    fn with_health<T>(&mut self, access: impl FnOnce(&mut Health) -> T) -> T;

    /// Sets whether the store has been down for longer than `STORE_TIMEOUT`.
    fn set_down(&mut self, is_down: bool);

    /// Takes the batch to send next, if there is one.
    fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt>;

    /// Puts back a batch that was not sent.
    fn requeue(&mut self, batch: &mut Batch<Waiter>);

    /// Puts back a batch that was sent first at `sent`, and may be sent again.
    fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: Instant);

    /// Returns whether a batch waits to be sent again.
    fn has_in_doubt(&mut self) -> bool;

    /// Returns the deadline of this waiter.
    fn earliest(&mut self, waiter: Option<&Waiter>) -> Option<Instant>;

    /// Completes the expired visits of the batch in flight.
    fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant);

    /// Completes a batch. Commands without a reply from the store get `error`.
    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError);

    /// Completes the batch in doubt.
    fn fail_in_doubt(&mut self);

    /// Completes the gathering batch with `error`, and the batch in doubt.
    fn fail_waiters(&mut self, error: StoreError);
}

/// The state of one event loop over all its connections to Redis.
pub(super) struct RedisLoop {
    config: &'static RedisConfig,
    main: Key,
    producer: Producer,
    topology: Topology,
    /// It is lent to the connection while there is one.
    timeout: ReplyTimeout,
    /// The start of the times of `topology`.
    begin: Instant,
    /// When the last handshake was complete, at the latest.
    last_connected: Instant,
    /// What the last step has shown.
    status: StoreHealth,
    is_reported: bool,
    /// Since when a batch is in doubt, as far as it was not recorded.
    in_doubt_since: Option<Instant>,
    /// The node of the current connection.
    node: Option<Address>,
    limits: Limits,
}

impl RedisLoop {
    /// `main` is the main counter.
    pub(super) fn new(
        config: &'static RedisConfig,
        main: Key,
        producer: Producer,
        limits: Limits,
        now: Instant,
    ) -> Self {
        Self {
            config,
            main,
            producer,
            topology: Topology::new(&config.servers),
            timeout: ReplyTimeout::new(limits.store, config.servers.are_several()),
            begin: now,
            last_connected: now,
            status: StoreHealth::Unknown,
            is_reported: true,
            in_doubt_since: None,
            node: None,
            limits,
        }
    }

    /// Returns what to do next. Before a pause, the state of the store is reported.
    pub(super) fn next(&mut self, event_loop: &mut impl EventLoop) -> Step {
        let now = event_loop.now();
        let step = self.topology.next(self.millis(now));
        if let Some(since) = self.in_doubt_since {
            event_loop.metrics().record_in_doubt(now - since);
            self.in_doubt_since = event_loop.has_in_doubt().then_some(now);
        }
        if matches!(step, Step::Wait(_)) && !std::mem::replace(&mut self.is_reported, true) {
            let (index, status) = (event_loop.index(), self.status);
            event_loop.with_health(|health| health.set(index, status));
            if now - self.last_connected >= self.limits.store {
                event_loop.set_down(true);
            }
            if !status.is_transient() {
                event_loop.fail_waiters(status.error());
            }
        }
        step
    }

    /// Returns when a [`Step::Wait`] until this time is over.
    pub(super) fn instant(&self, millis: u64) -> Instant {
        self.begin + Duration::from_millis(millis)
    }

    fn millis(&self, now: Instant) -> u64 {
        (now - self.begin).as_millis() as u64
    }

    /// Returns what [`reach`] needs for a step.
    pub(super) fn target(&self, step: Step) -> Target {
        Target { config: self.config, step, limits: self.limits, handshake: self.timeout.duration(None) }
    }

    /// Records what [`reach`] has returned. Returns the socket, if the step was to connect.
    pub(super) fn record<S>(&mut self, reached: Result<Reached<S>, LinkError>, step: &Step, now: Instant) -> Option<S> {
        let event = match (reached, step) {
            (Ok(Reached::Node(address, socket)), _) => {
                self.node = address;
                return Some(socket);
            }
            (Ok(Reached::Primary(address)), _) => Event::SentinelReplied(address),
            (Err(error), step) => {
                if error.is_timeout() {
                    self.timeout.record_timeout();
                }
                self.status = error.into();
                if matches!(step, Step::QuerySentinel(_)) { Event::SentinelFailed } else { Event::ConnectFailed }
            }
        };
        self.record_event(event, now);
        None
    }

    fn record_event(&mut self, event: Event, now: Instant) {
        self.is_reported = false;
        self.topology.record(event, self.millis(now));
    }

    /// Starts a connection to the node that was reached.
    pub(super) fn open(&mut self, tls: Option<Tls>, now: Instant) -> RedisConnection {
        let mut buffers = Buffers::default();
        let session = Session::open(self.config, &self.main, self.producer, &mut buffers);
        let timeout = std::mem::replace(&mut self.timeout, ReplyTimeout::new(self.limits.store, false));
        RedisConnection {
            buffers,
            tls,
            main: self.main,
            session,
            batch: Batch::default(),
            timeout,
            sent: now,
            first_sent: now,
            receipts: None,
            totals: LastTotals::new(),
            progress: Progress::Handshake,
            ended: None,
            is_repeated: false,
            in_doubt_since: self.in_doubt_since.take(),
            node: self.node.take().filter(|_| self.config.servers.are_several()),
        }
    }

    /// Ends a connection. Puts back the batch in flight if it may be sent, or sent again; otherwise completes it as in
    /// doubt.
    pub(super) fn close(&mut self, connection: RedisConnection, event_loop: &mut impl EventLoop) {
        let RedisConnection {
            session,
            buffers,
            tls,
            timeout,
            first_sent,
            progress,
            ended,
            mut totals,
            mut in_doubt_since,
            ..
        } = connection;
        let now = event_loop.now();
        self.timeout = timeout;
        let redirect = session.redirect().cloned();
        let expects_tls = tls.is_none() && session.expects_tls(&buffers);
        let Leftover { mut replied, mut unsent, mut batch, recovery } = session.into_leftover(&buffers);
        record_floors(&replied, &mut totals, event_loop);
        event_loop.complete(&mut replied, StoreError::OutcomeUnknown);
        match recovery {
            Recovery::None => {}
            Recovery::Requeue => unsent.merge(&mut batch),
            Recovery::Resend => {
                in_doubt_since.get_or_insert(now);
                event_loop.requeue_in_doubt(batch, first_sent);
            }
            Recovery::Fail => event_loop.complete(&mut batch, StoreError::OutcomeUnknown),
        }
        if !unsent.is_empty() {
            event_loop.requeue(&mut unsent);
        }
        self.in_doubt_since = in_doubt_since;
        if progress != Progress::Handshake {
            self.last_connected = now;
        }
        let has_served = progress == Progress::Serving;
        let error = ended.unwrap_or(ConnectionError::Closed);
        if error == ConnectionError::Session(SessionError::Unacknowledged) {
            event_loop.metrics().record_acks_missed();
        }
        self.status = match error {
            ConnectionError::Closed | ConnectionError::Session(SessionError::Protocol) if expects_tls => NO_REPLY,
            _ => error.status(),
        };
        let event = match (error, redirect) {
            (ConnectionError::Session(SessionError::Moved), Some(redirect)) => Event::Moved(redirect),
            (ConnectionError::Session(SessionError::Replica), _) => Event::IsReplica { has_served },
            (ConnectionError::Session(SessionError::Refused(_)), _) => Event::Refused { has_served },
            _ => Event::SessionEnded { has_served },
        };
        self.record_event(event, now);
    }
}

/// Why a connection to Redis ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionError {
    /// The connection was closed, or failed.
    Closed,
    /// No reply arrived in time.
    Silent,
    /// The session ended.
    Session(SessionError),
    /// The TLS session ended.
    Tls(TlsError),
}

impl From<TlsError> for ConnectionError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<SessionError> for ConnectionError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl ConnectionError {
    fn status(self) -> StoreHealth {
        match self {
            Self::Closed => CLOSED,
            Self::Silent => SILENT,
            Self::Session(error) => StoreHealth::of(error),
            Self::Tls(error) => error.into(),
        }
    }
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The handshake is not complete.
    Handshake,
    /// It is, and no visit was counted yet.
    Ready,
    /// A visit was counted, so the next connection may be opened without a long pause.
    Serving,
}

/// One connection to Redis without its socket, from the handshake to the first error.
pub(super) struct RedisConnection {
    /// The bytes of the session.
    buffers: Buffers,
    tls: Option<Tls>,
    main: Key,
    session: Session<Waiter>,
    /// Empty, except while a batch moves from the queue to the session.
    batch: Batch<Waiter>,
    timeout: ReplyTimeout,
    /// When the batch in flight, or the handshake, was sent on this connection.
    sent: Instant,
    /// When that batch was sent first, on any connection.
    first_sent: Instant,
    /// The batch in flight was sent before.
    is_repeated: bool,
    /// Since when it is in doubt, as far as that was not recorded.
    in_doubt_since: Option<Instant>,
    /// Whether batches may be sent again, as recorded last.
    receipts: Option<Receipts>,
    /// The totals after the last increments on this connection.
    totals: LastTotals,
    progress: Progress,
    ended: Option<ConnectionError>,
    /// The node, until it is recorded.
    node: Option<Address>,
}

impl RedisConnection {
    /// Returns the buffers for bytes from the socket.
    pub(super) fn incoming(&mut self) -> &mut Buffers {
        self.tls.as_mut().map_or(&mut self.buffers, Tls::wire)
    }

    /// Returns the buffers with the bytes for the socket.
    pub(super) fn outgoing(&mut self) -> &mut Buffers {
        if let Some(tls) = &mut self.tls
            && let Err(error) = tls.encrypt(&mut self.buffers)
        {
            self.ended.get_or_insert(error.into());
        }
        self.incoming()
    }

    /// Moves received bytes to the session's, if they were encrypted. Returns whether there may be more.
    fn decrypt(&mut self) -> bool {
        let Some(tls) = &mut self.tls else { return false };
        tls.decrypt(&mut self.buffers).unwrap_or_else(|error| {
            self.ended.get_or_insert(error.into());
            false
        })
    }

    /// Ends the connection; the first error counts.
    pub(super) fn fail(&mut self, error: ConnectionError) {
        self.ended.get_or_insert(error);
    }

    /// Returns whether the connection has ended, so that its socket must be closed.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Returns whether a batch may be submitted.
    pub(super) fn is_idle(&self) -> bool {
        self.session.is_idle() && !self.has_ended()
    }

    /// Processes the bytes that were received, and completes the batch they end.
    pub(super) fn process_received(&mut self, event_loop: &mut impl EventLoop) {
        loop {
            let has_more = self.decrypt();
            self.process_replies(event_loop);
            if !has_more || self.has_ended() {
                return;
            }
        }
    }

    fn process_replies(&mut self, event_loop: &mut impl EventLoop) {
        let batch = match self.session.process_replies(&mut self.buffers) {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(error) => return self.fail(error.into()),
        };
        let now = event_loop.now();
        event_loop.metrics().record_batch(batch.waiter_count(), now - self.sent);
        if self.is_repeated
            && let Some(since) = self.in_doubt_since.take()
        {
            event_loop.metrics().record_in_doubt(now - since);
        }
        if batch.has_increments() {
            self.timeout.record_round_trip(now - self.first_sent);
        }
        let has_counted = record_floors(batch, &mut self.totals, event_loop);
        event_loop.complete(batch, StoreError::OutcomeUnknown);
        // The first counted batch shows whether receipts can be written.
        if has_counted && self.progress != Progress::Serving {
            self.progress = Progress::Serving;
            event_loop.with_health(|health| health.record_receipts(self.session.receipts()));
        }
    }

    /// Submits the next batch to the session, if it is idle. Returns whether there was one.
    pub(super) fn submit(&mut self, event_loop: &mut impl EventLoop) -> bool {
        if !self.is_idle() {
            return false;
        }
        let index = event_loop.index();
        if self.progress == Progress::Handshake {
            self.progress = Progress::Ready;
            event_loop.set_down(false);
            let (node, total) = (self.node.take(), self.session.total());
            let has_floor = self.session.receipts() != Receipts::Refused;
            event_loop.with_health(|health| {
                health.record_handshake(index, node, total, has_floor);
                // A counter that is not below its floor now needs none on this connection.
                if let Some(Ok(total)) = total
                    && total >= health.floor.get(&self.main)
                {
                    self.totals.replace(&self.main, total);
                }
            });
        }
        if self.receipts != Some(self.session.receipts()) {
            self.receipts = Some(self.session.receipts());
            if self.receipts != Some(Receipts::Kept) {
                event_loop.with_health(|health| health.record_receipts(self.session.receipts()));
            }
        }
        if self.receipts != Some(Receipts::Kept) {
            event_loop.fail_in_doubt();
        }
        let Some(attempt) = event_loop.take(&mut self.batch) else { return false };
        self.sent = event_loop.now();
        self.is_repeated = attempt != Attempt::First;
        self.first_sent = match attempt {
            Attempt::First => self.sent,
            Attempt::Again(first_sent) => {
                event_loop.metrics().record_resend();
                first_sent
            }
        };
        let Self { session, batch, buffers, totals, .. } = self;
        // The health is accessed for the first increment of a counter only.
        let mut floor = |key: &Key| match totals.get(key) {
            None if !totals.is_full() => event_loop.with_health(|health| health.floor.get(key)),
            _ => 0,
        };
        session.submit(batch, &mut floor, buffers);
        true
    }

    /// Returns when [`RedisConnection::check_timeouts`] is due.
    pub(super) fn deadline(&self, event_loop: &mut impl EventLoop) -> Option<Instant> {
        if self.has_ended() || self.session.is_idle() {
            return None;
        }
        let reply_deadline = self.reply_deadline();
        let first_deadline = event_loop.earliest(self.session.first_waiter());
        Some(first_deadline.map_or(reply_deadline, |first| first.min(reply_deadline)))
    }

    fn reply_deadline(&self) -> Instant {
        self.sent + self.timeout.duration(self.receipts)
    }

    /// Ends the connection if the reply timeout has passed, and completes visits whose deadline has passed.
    pub(super) fn check_timeouts(&mut self, now: Instant, event_loop: &mut impl EventLoop) {
        if self.has_ended() || self.session.is_idle() {
            return;
        }
        if now >= self.reply_deadline() {
            self.timeout.record_timeout();
            self.fail(ConnectionError::Silent);
        }
        event_loop.expire_sent(&mut self.session, now);
    }
}

/// Records the numbers of the increments in a batch. Returns whether there are any.
fn record_floors(batch: &Batch<Waiter>, totals: &mut LastTotals, event_loop: &mut impl EventLoop) -> bool {
    let mut has_counted = false;
    event_loop.with_health(|health| {
        for (command, reply) in batch.replies() {
            if let (Command::Increment { key, .. }, Ok(total)) = (command, reply) {
                has_counted = true;
                health.floor.record(key, total, totals.replace(key, total));
            }
        }
    });
    has_counted
}

/// A step that needs a socket.
pub(super) struct Target {
    config: &'static RedisConfig,
    step: Step,
    limits: Limits,
    /// How long a node may take for the handshake of TLS: as long as for a reply.
    handshake: Duration,
}

impl Target {
    /// Returns how long [`reach`] takes at most.
    pub(super) fn timeout(&self) -> Duration {
        let timer = match self.step {
            Step::QuerySentinel(_) => Timer::QuerySentinel,
            _ if self.config.servers.are_several() => Timer::ConnectNode,
            _ => Timer::Connect,
        };
        timer.duration(&self.limits)
    }
}

/// What was reached; `S` is a link.
pub(super) enum Reached<S> {
    /// A node, at an address unless it is a Unix socket, by a link.
    Node(Option<Address>, S),
    /// A Sentinel, which named the primary.
    Primary(Address),
}

/// Connects to a node, or queries a Sentinel. Blocks the calling thread. Looks names up each time, since a container's
/// address changes.
pub(super) fn reach(target: Target) -> Result<Reached<Link>, LinkError> {
    let timeout = target.timeout();
    let Target { config, step, handshake, .. } = target;
    let open = |address: &Address, handshake| {
        Link::open(config.tls.as_ref(), &address.host, timeout, handshake, || connect(address, timeout))
    };
    match (step, &config.servers) {
        (Step::QuerySentinel(address), Servers::Sentinel { name, credentials, .. }) => {
            let deadline = deadline_after(timeout);
            let query = |buffers: &mut Buffers| SentinelQuery::open(name, credentials, buffers);
            let link = open(&address, timeout / 2).map_err(no_sentinel)?;
            Ok(Reached::Primary(query_sentinel(link, query, deadline)?))
        }
        (Step::Connect(address), _) => {
            let link = open(&address, handshake)?;
            Ok(Reached::Node(Some(address), link))
        }
        (Step::ConnectUnix, Servers::Unix(path)) => {
            Ok(Reached::Node(None, Link { socket: connect_unix(path, timeout)?, tls: None }))
        }
        _ => Err(CLOSED.into()),
    }
}

/// Connects to the first address of a host that accepts, within `timeout`.
fn connect(address: &Address, timeout: Duration) -> Result<TcpStream, StoreHealth> {
    let deadline = deadline_after(timeout);
    // Half of the time is reserved for connecting, however slow the name servers are.
    let addresses = resolver::look_up(&address.host, address.port, deadline_after(timeout / 2))?;
    let mut status = CLOSED;
    for (tried, address) in addresses.iter().enumerate() {
        // Each address gets an equal share of the time, so that one without a host does not prevent trying the next.
        let share = (remaining(deadline) / (addresses.len() - tried) as u32).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, share) {
            Ok(socket) => return socket.set_nodelay(true).map(|()| socket).map_err(|_| CLOSED),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => status = CONNECT_TIMED_OUT,
            Err(_) => status = StoreHealth::Down("cannot connect: is Redis running?"),
        }
    }
    Err(status)
}

/// Connects to a Unix socket, within `timeout`.
fn connect_unix(path: &str, timeout: Duration) -> Result<TcpStream, StoreHealth> {
    listener::connect_unix(path, timeout).map_err(|error| {
        StoreHealth::Down(match error.kind() {
            io::ErrorKind::NotFound => "cannot connect: the socket of REDIS_URL does not exist: is Redis running?",
            io::ErrorKind::PermissionDenied => {
                "cannot connect: no right to use the socket of REDIS_URL: check unixsocketperm of Redis and its folder"
            }
            io::ErrorKind::TimedOut => "connecting timed out: Redis accepts no connection on its socket",
            io::ErrorKind::ConnectionRefused if !matches!(FileKind::of_target(path), Ok(FileKind::Other)) => {
                "cannot connect: no process listens on the socket of REDIS_URL: is Redis running?"
            }
            _ => "cannot connect: the path in REDIS_URL is not that of a socket of Redis",
        })
    })
}

/// Queries a Sentinel for the address of the primary, until `deadline`.
fn query_sentinel(
    mut link: Link,
    open: impl FnOnce(&mut Buffers) -> SentinelQuery,
    deadline: Instant,
) -> Result<Address, StoreHealth> {
    let mut buffers = Buffers::default();
    let mut query = open(&mut buffers);
    link.send(&mut buffers, deadline).map_err(no_sentinel)?;
    loop {
        link.receive(&mut buffers, deadline).map_err(no_sentinel)?;
        if let Some(address) = query.process_replies(&mut buffers).map_err(sentinel_status)? {
            return Ok(address);
        }
    }
}

fn sentinel_status(error: SentinelError) -> StoreHealth {
    use crate::counter::Rejection;

    StoreHealth::Down(match error {
        SentinelError::UnknownName => "the Sentinels have no primary of this name: check REDIS_MASTER_NAME",
        SentinelError::Rejected(Rejection::Password) => {
            "a Sentinel rejected the password: check REDIS_SENTINEL_PASSWORD"
        }
        SentinelError::Rejected(Rejection::Permission) => {
            "a Sentinel rejected the query: let its user run SENTINEL get-master-addr-by-name"
        }
        SentinelError::Rejected(_) => "a Sentinel rejected the query: is it a Sentinel? check REDIS_SENTINELS",
        SentinelError::InvalidAddress => "a Sentinel named an invalid address",
        SentinelError::Protocol => "unexpected reply of a Sentinel: check REDIS_SENTINELS",
    })
}

/// Returns what it means that a Sentinel does not reply.
fn no_sentinel(error: LinkError) -> StoreHealth {
    if let LinkError::Tls(error) = error { error.into() } else { NO_SENTINEL }
}

const NO_REPLY: StoreHealth =
    StoreHealth::Down("the connection was closed without a reply: if the server expects TLS, use rediss://");

const NO_SENTINEL: StoreHealth = StoreHealth::Down("no Sentinel replies: check REDIS_SENTINELS and the network");
