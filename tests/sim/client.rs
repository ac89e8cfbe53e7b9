//! Processes of notch: each has two workers, and each worker runs the code under test as a driver does, with a `Queue`
//! and a `RedisLoop` of its own, and the floor of its process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::super::health::Health;
use super::super::queue::{Attempt, Queue, Waiter};
use super::super::redis::{ConnectionError, EventLoop, Reached, RedisConnection, RedisLoop};
use super::super::{CLOSED, CONNECT_TIMED_OUT};
use super::network::{End, Piece};
use super::{Event, NODES, Seen, Server, Time, VOTERS, World};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::config::Limits;
use crate::counter::{Command, Key, NameLimit, Rejection, StoreError};
use crate::metrics::{Metrics, ServerInfo, WorkerMetrics};
use crate::redis::{Address, Credentials, Producer, RedisConfig, SentinelQuery, Servers, Session, Step};

/// The counters, in one slot.
pub(super) const COUNTERS: [&str; 4] = ["{visits}", "{visits}:a", "{visits}:b", "{visits}:c"];

/// The key of the set of names, and `MAX_COUNTERS`, in histories with a limit.
pub(super) const NAMES: &[u8] = b"{visits}:<names>";
pub(super) const MOST_NAMES: usize = 2;

pub(super) struct Worker {
    pub(super) machine: usize,
    client: Client,
    redis: RedisLoop,
    state: State,
    /// When the timer runs next.
    timer: Time,
}

/// A worker as an event loop of a driver.
struct Client {
    process: usize,
    now: Instant,
    queue: Queue<usize>,
    /// Visits with a result.
    ended: Vec<usize>,
}

/// What a worker does about Redis.
enum State {
    Waiting,
    /// It connects to a server, until a time.
    Reaching(Step, usize, Time),
    /// It waits for the answer of a Sentinel.
    Asking(Step, usize, Time, SentinelQuery, Buffers),
    Connected(usize, Box<RedisConnection>),
}

impl World {
    pub(super) fn start_workers(&mut self) {
        let config = config(self.setup.acks, self.setup.is_cluster);
        let retry_window = Duration::from_micros(self.setup.timeout);
        // Of these, only `store` concerns a client of Redis.
        let zero = Duration::ZERO;
        let limits = Limits {
            connections: 1,
            counters: 1,
            store: retry_window,
            request: zero,
            idle: zero,
            write: zero,
            drain_delay: zero,
            drain: zero,
        };
        self.processes.extend((0..self.setup.processes).map(|_| Health::new(metrics(), counter(0))));
        for worker in 0..2 * self.setup.processes {
            let process = worker / 2;
            let name_limit = self.setup.has_limit.then(|| NameLimit { main: counter(0), most: MOST_NAMES });
            let producer = Producer { id: self.rng.next(), retry_window, name_limit };
            self.workers.push(Worker {
                machine: NODES + VOTERS + process,
                client: Client { process, now: self.epoch, queue: Queue::new(), ended: Vec::new() },
                redis: RedisLoop::new(config, counter(0), producer, limits, self.epoch),
                state: State::Waiting,
                timer: 0,
            });
            self.schedule(0, Event::Timer(worker));
        }
    }

    /// A client sends a request.
    pub(super) fn visit(&mut self, visit: usize) {
        let now = self.instant(self.now);
        let super::Visit { worker, counter: number, by, .. } = self.visits[visit];
        let key = counter(number);
        let command = if by == 0 { Command::Get { key } } else { Command::Increment { key, by } };
        let Client { queue, ended, .. } = &mut self.workers[worker].client;
        // Slots are not freed, so that the slot of a visit is its index at its worker.
        let slot = queue.slots.allocate();
        self.visits[visit].slot = slot;
        *queue.slots.waker(slot) = Some(visit);
        queue.push(&command, &counter(0), Waiter { slot, deadline: now + Duration::from_micros(self.setup.timeout) });
        ended.push(visit);
        self.run_worker(worker);
    }

    pub(super) fn timer(&mut self, worker: usize) {
        if self.now >= self.workers[worker].timer {
            self.workers[worker].timer = Time::MAX;
            self.run_worker(worker);
        }
    }

    /// Handles what arrives at a client.
    pub(super) fn receive(&mut self, connection: usize, piece: Piece) {
        let at = self.connections[connection].worker;
        let now = self.instant(self.now);
        let Worker { client, redis, state, .. } = &mut self.workers[at];
        client.now = now;
        let client = &mut client.with(&mut self.processes);
        match (piece, std::mem::replace(state, State::Waiting)) {
            (Piece::Accepted, State::Reaching(step @ Step::Connect(_), ..)) => {
                let Step::Connect(address) = &step else { unreachable!("matched above") };
                redis.record(Ok(Reached::Node(Some(address.clone()), ())), &step, now);
                *state = State::Connected(connection, Box::new(redis.open(None, now)));
            }
            (Piece::Accepted, State::Reaching(step, _, end)) => {
                let mut buffers = Buffers::default();
                let query = SentinelQuery::open("notch", &Credentials::default(), &mut buffers);
                *state = State::Asking(step, connection, end, query, buffers);
            }
            (Piece::Bytes(bytes), State::Asking(step, _, end, mut query, mut buffers)) => {
                buffers.receive(&bytes);
                match query.process_replies(&mut buffers).expect("an answer of a model Sentinel") {
                    None => *state = State::Asking(step, connection, end, query, buffers),
                    Some(address) => {
                        redis.record(Ok(Reached::<()>::Primary(address)), &step, now);
                        self.close(connection, End::Client);
                    }
                }
            }
            (Piece::Bytes(bytes), State::Connected(_, mut open)) => {
                open.incoming().receive(&bytes);
                open.process_received(client);
                *state = State::Connected(connection, open);
            }
            (_, State::Connected(_, mut open)) => {
                open.fail(ConnectionError::Closed);
                *state = State::Connected(connection, open);
            }
            (_, State::Reaching(step, ..) | State::Asking(step, ..)) => {
                redis.record::<()>(Err(CLOSED.into()), &step, now);
                self.close(connection, End::Client);
            }
            (_, State::Waiting) => {}
        }
        self.run_worker(at);
    }

    /// Does what a driver does after each event: sends batches, expires visits, obeys the topology, sets the timer.
    fn run_worker(&mut self, at: usize) {
        let now = self.instant(self.now);
        let timer = loop {
            let Worker { client, redis, state, .. } = &mut self.workers[at];
            client.now = now;
            client.queue.expire(now, StoreError::Unavailable, |&visit| client.ended.push(visit));
            let deadline = client.queue.deadline();
            let health = &mut self.processes;
            match std::mem::replace(state, State::Waiting) {
                State::Waiting => match redis.next(&mut client.with(health)) {
                    Step::Wait(until) => break earliest(deadline, Some(redis.instant(until))),
                    step => {
                        let end = self.now + redis.target(step.clone()).timeout().as_micros() as Time;
                        let server = server(&step);
                        let connection = self.connect(at, server);
                        self.workers[at].state = State::Reaching(step, connection, end);
                    }
                },
                State::Reaching(step, connection, end) | State::Asking(step, connection, end, ..)
                    if self.now >= end =>
                {
                    redis.record::<()>(Err(CONNECT_TIMED_OUT.into()), &step, now);
                    self.close(connection, End::Client);
                    self.seen(Seen::ConnectTimedOut);
                }
                State::Asking(step, connection, end, query, mut buffers) => {
                    let bytes = buffers.take_unsent();
                    *state = State::Asking(step, connection, end, query, buffers);
                    self.send_unless_empty(connection, bytes);
                    break earliest(deadline, Some(self.instant(end)));
                }
                State::Reaching(step, connection, end) => {
                    *state = State::Reaching(step, connection, end);
                    break earliest(deadline, Some(self.instant(end)));
                }
                State::Connected(connection, mut open) => {
                    let client = &mut client.with(health);
                    while open.submit(client) {
                        open.process_received(client);
                    }
                    open.check_timeouts(now, client);
                    let bytes = open.outgoing().take_unsent();
                    if open.has_ended() {
                        redis.close(*open, client);
                        self.close(connection, End::Client);
                    } else {
                        let reply_deadline = open.deadline(client);
                        *state = State::Connected(connection, open);
                        self.send_unless_empty(connection, bytes);
                        break earliest(deadline, reply_deadline);
                    }
                }
            }
        };
        for visit in std::mem::take(&mut self.workers[at].client.ended) {
            let slot = self.visits[visit].slot;
            if let Some(result) = self.workers[at].client.queue.slots.take_result(slot) {
                self.end_visit(visit, result);
            }
        }
        if let Some(timer) = timer {
            // Rounded up, as by a driver's clock.
            let timer = (timer - self.epoch).as_nanos().div_ceil(1000) as Time;
            if timer < self.workers[at].timer {
                self.workers[at].timer = timer;
                self.schedule(timer, Event::Timer(at));
            }
        }
    }

    fn send_unless_empty(&mut self, connection: usize, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.send(connection, End::Server, bytes);
        }
    }

    fn end_visit(&mut self, visit: usize, result: Result<i64, StoreError>) {
        self.seen(match result {
            Ok(_) => Seen::Answered,
            Err(StoreError::OutcomeUnknown) => Seen::InDoubt,
            Err(StoreError::Rejected(Rejection::TooManyCounters)) => Seen::NameRejected,
            Err(_) => Seen::Unavailable,
        });
        self.log(|| {
            let super::Visit { worker, counter, by, start, .. } = self.visits[visit];
            format!("worker {worker}: {by} of counter {counter} from {start}: {result:?}")
        });
        self.visits[visit].end = Some((self.now, result));
    }

    fn instant(&self, at: Time) -> Instant {
        self.epoch + Duration::from_micros(at)
    }
}

impl Client {
    fn with<'a>(&'a mut self, processes: &'a mut [Health]) -> ClientOfProcess<'a> {
        let health = &mut processes[self.process];
        ClientOfProcess { client: self, health }
    }
}

/// A worker, and the health of the store in the view of its process, which contains the floor.
struct ClientOfProcess<'a> {
    client: &'a mut Client,
    health: &'a mut Health,
}

impl EventLoop for ClientOfProcess<'_> {
    fn index(&self) -> usize {
        0
    }

    fn now(&self) -> Instant {
        self.client.now
    }

    fn metrics(&self) -> &WorkerMetrics {
        metrics().worker(0)
    }

    fn with_health<T>(&mut self, access: impl FnOnce(&mut Health) -> T) -> T {
        access(self.health)
    }

    fn set_down(&mut self, is_down: bool) {
        self.client.queue.set_down(is_down);
    }

    fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        self.client.queue.take(batch)
    }

    fn requeue(&mut self, batch: &mut Batch<Waiter>) {
        self.client.queue.requeue(batch);
    }

    fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: Instant) {
        self.client.queue.requeue_in_doubt(batch, sent);
    }

    fn has_in_doubt(&mut self) -> bool {
        self.client.queue.has_in_doubt()
    }

    fn earliest(&mut self, waiter: Option<&Waiter>) -> Option<Instant> {
        self.client.queue.earliest(&[waiter])
    }

    fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant) {
        let Client { queue, ended, .. } = &mut *self.client;
        queue.expire_sent(session, now, |&visit| ended.push(visit));
    }

    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError) {
        let Client { queue, ended, .. } = &mut *self.client;
        queue.complete(batch, error, |&visit| ended.push(visit));
    }

    fn fail_in_doubt(&mut self) {
        if let Some(mut batch) = self.client.queue.take_in_doubt() {
            self.complete(&mut batch, StoreError::OutcomeUnknown);
        }
    }

    fn fail_waiters(&mut self, error: StoreError) {
        let mut batch = Batch::default();
        while self.client.queue.take(&mut batch).is_some() {
            let error = if batch.may_be_applied() { StoreError::OutcomeUnknown } else { error };
            self.complete(&mut batch, error);
        }
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn counter(number: usize) -> Key {
    Key::new(COUNTERS[number].as_bytes()).expect("a valid key")
}

/// The server that a step names: `node0` to `node3`, or `sentinel0` to `sentinel2`.
fn server(step: &Step) -> Server {
    let (Step::Connect(Address { host, .. }) | Step::QuerySentinel(Address { host, .. })) = step else {
        unreachable!("a step that needs a server");
    };
    let number = host.as_bytes()[host.len() - 1] - b'0';
    let number = usize::from(number);
    if host.starts_with("node") { Server::Node(number) } else { Server::Sentinel(number) }
}

/// Returns the configuration of all processes. The code under test keeps it until the process ends.
fn config(acks: u32, is_cluster: bool) -> &'static RedisConfig {
    static CONFIGS: [OnceLock<RedisConfig>; 6] = [const { OnceLock::new() }; 6];
    CONFIGS[acks as usize * 2 + usize::from(is_cluster)].get_or_init(|| {
        let addresses = |name: &str, port| {
            (0..VOTERS).map(|number| Address { host: format!("{name}{number}"), port }).collect::<Vec<_>>()
        };
        let servers = match is_cluster {
            true => Servers::Cluster { seeds: addresses("node", 6379) },
            false => Servers::Sentinel {
                sentinels: addresses("sentinel", 26379),
                name: "notch".to_owned(),
                credentials: Credentials::default(),
            },
        };
        RedisConfig { servers, credentials: Credentials::default(), db: 0, acks, tls: None }
    })
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let info = ServerInfo { driver: "simulator", store: "redis", connections: 0, start_time: 0 };
    METRICS.get_or_init(|| Metrics::new(info, 1, true))
}
