//! The sockets of Redis: connections one after the other, and on each of them batches one after the other.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant as StdInstant;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::super::link::{Link, LinkError};
use super::super::queue::{Attempt, Waiter};
use super::super::redis::{ConnectionError, EventLoop, Reached, RedisConnection, RedisLoop, Target, reach};
use super::super::{Health, StoreHealth, spawn};
use super::timer::DeadlineTimer;
use super::{Inbox, STACK, Server, State, Worker, lock, read, register, state};
use crate::batch::Batch;
use crate::counter::StoreError;
use crate::metrics::WorkerMetrics;
use crate::redis::{RedisConfig, Session, Step};

/// Opens connections to Redis, one after the other, and sends the worker's batches.
pub(super) async fn redis(worker: &'static Worker, config: &'static RedisConfig) {
    let mut event_loop = worker;
    let Server { context, limits, .. } = worker.server;
    let producer = super::super::producer(context, limits);
    let mut redis = RedisLoop::new(config, context.counters.main, producer, **limits, StdInstant::now());
    loop {
        let step = redis.next(&mut event_loop);
        if let Step::Wait(until) = step {
            Box::pin(sleep_until(redis.instant(until).into())).await;
            continue;
        }
        let reached = reach_on_thread(redis.target(step.clone())).await;
        let Some(Link { socket, tls }) = redis.record(reached, &step, StdInstant::now()) else { continue };
        let mut connection = redis.open(tls, StdInstant::now());
        // A server may have sent a reply together with the end of the TLS handshake.
        connection.process_received(&mut event_loop);
        match register(socket) {
            Ok(socket) => {
                let mut driver = Socket { worker, socket, timer: DeadlineTimer::new(Instant::now()) };
                poll_fn(|cx| driver.poll(&mut connection, cx)).await;
            }
            Err(_) => connection.fail(ConnectionError::Closed),
        }
        redis.close(connection, &mut event_loop);
    }
}

/// Reaches a server on a thread of its own, because name lookup and connecting block.
async fn reach_on_thread(target: Target) -> Result<Reached<Link>, LinkError> {
    let inbox = Arc::new(Inbox::new());
    let result = inbox.clone();
    let work = move || result.put(reach(target));
    spawn("connect", STACK, Box::new(work))
        .map_err(|_| StoreHealth::Down("cannot start a thread to connect: raise the limit of threads"))?;
    inbox.take().await
}

/// The socket of a connection to Redis.
struct Socket {
    worker: &'static Worker,
    socket: TcpStream,
    timer: DeadlineTimer,
}

impl Socket {
    /// Sends batches and reads replies until the connection has ended.
    fn poll(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = self.advance(connection, cx) {
            connection.fail(error);
        }
        if connection.has_ended() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn advance(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        self.receive_all(connection, cx)?;
        while connection.submit(&mut self.worker) {
            // A batch that needs no reply is completed at once.
            connection.process_received(&mut self.worker);
        }
        if connection.is_idle() {
            state(|state| state.store_task = Some(cx.waker().clone()));
        }
        self.send(connection, cx)?;
        self.check_timeouts(connection, cx);
        Ok(())
    }

    /// Ends the connection if it is silent, and completes visits whose deadline has passed.
    fn check_timeouts(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) {
        while let Some(deadline) = connection.deadline(&mut self.worker) {
            state(|state| state.register_reply_task(cx));
            if self.timer.poll(deadline.into(), cx).is_pending() {
                return;
            }
            state(State::tick);
            connection.check_timeouts(StdInstant::now(), &mut self.worker);
        }
    }

    /// Reads and processes what has arrived, in at most [`MAX_READS`] reads.
    fn receive_all(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        for _ in 0..MAX_READS {
            if !self.receive(connection, cx)? {
                return Ok(());
            }
            connection.process_received(&mut self.worker);
        }
        // The next poll goes on.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads bytes. Returns whether there were any.
    fn receive(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        if connection.has_ended() {
            return Ok(false);
        }
        match read(&mut self.socket, connection.incoming(), cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => Ok(true),
            Poll::Ready(_) => Err(ConnectionError::Closed),
        }
    }

    /// Writes pending bytes as far as the socket takes them.
    fn send(&mut self, connection: &mut RedisConnection, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        let buffers = connection.outgoing();
        while !buffers.pending().is_empty() && self.socket.poll_write_ready(cx).is_ready() {
            match self.socket.try_write(buffers.pending()) {
                Ok(length) => buffers.mark_sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    // What the server has sent before it closed the connection may be the reason.
                    self.receive_all(connection, cx)?;
                    return Err(ConnectionError::Closed);
                }
            }
        }
        Ok(())
    }
}

/// Most reads before the timeouts are checked. tokio allows a task 128 operations before it lets others run; a server
/// that sends without end would use all of them for reads, and the timer would never be polled.
const MAX_READS: usize = 64;

impl EventLoop for &'static Worker {
    fn index(&self) -> usize {
        self.index
    }

    fn now(&self) -> StdInstant {
        StdInstant::now()
    }

    fn metrics(&self) -> &WorkerMetrics {
        self.server.context.metrics.worker(self.index)
    }

    fn with_health<T>(&mut self, access: impl FnOnce(&mut Health) -> T) -> T {
        access(&mut lock(&self.server.health))
    }

    fn set_down(&mut self, is_down: bool) {
        state(|state| state.queue.set_down(is_down));
    }

    fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        Worker::take(self, batch)
    }

    fn requeue(&mut self, batch: &mut Batch<Waiter>) {
        Worker::requeue(self, batch);
    }

    fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: StdInstant) {
        Worker::requeue_in_doubt(self, batch, sent);
    }

    fn has_in_doubt(&mut self) -> bool {
        state(|state| state.queue.has_in_doubt())
    }

    fn earliest(&mut self, waiter: Option<&Waiter>) -> Option<StdInstant> {
        state(|state| state.queue.earliest(&[waiter]))
    }

    fn expire_sent(&mut self, session: &mut Session<Waiter>, now: StdInstant) {
        state(|state| state.queue.expire_sent(session, now, Waker::wake_by_ref));
    }

    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError) {
        Worker::complete(self, batch, error);
    }

    fn fail_in_doubt(&mut self) {
        Worker::fail_in_doubt(self);
    }

    fn fail_waiters(&mut self, error: StoreError) {
        Worker::fail_waiters(self, error);
    }
}
