//! The sockets of Redis: connections one after the other, and on each of them batches one after the other.
//!
//! The thread that adds the first visit to a batch sends it, or the thread that reads the reply to the previous batch.
//! Bytes are written without the shared lock. If the socket does not take them at once, a thread is started that waits
//! for it. So a Redis server that has stopped reading does not block clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::MutexGuard;
use std::thread;
use std::time::Instant;

use super::super::deadline::Timer;
use super::super::link::Link;
use super::super::queue::{Attempt, Waiter};
use super::super::redis::{ConnectionError, EventLoop, RedisConnection, RedisLoop, reach};
use super::super::{Health, remaining};
use super::{CHUNK, Server, State, detach};
use crate::batch::Batch;
use crate::counter::StoreError;
use crate::metrics::WorkerMetrics;
use crate::redis::{RedisConfig, Session, Step};

impl Server {
    /// Opens connections to Redis, one after the other, and reads their replies.
    pub(super) fn redis(&'static self, config: &'static RedisConfig) {
        let producer = super::super::producer(self.context, &self.limits);
        let mut redis = RedisLoop::new(config, self.context.counters.main, producer, self.limits, Instant::now());
        loop {
            let mut state = self.state();
            let step = redis.next(&mut *state);
            self.release(state);
            if let Step::Wait(until) = step {
                thread::sleep(remaining(redis.instant(until)));
                continue;
            }
            let reached = reach(redis.target(step.clone()));
            let Some(Link { socket, tls }) = redis.record(reached, &step, Instant::now()) else { continue };
            let mut connection = redis.open(tls, Instant::now());
            if socket.set_write_timeout(Some(Timer::InlineWrite.duration(&self.limits))).is_err() {
                connection.fail(ConnectionError::Closed);
            }
            let mut state = self.run_connection(connection, socket);
            if let Some(connection) = state.connection.take() {
                redis.close(connection.redis, &mut *state);
            }
            state.wake_timer(self);
            self.release(state);
        }
    }

    /// Reads replies until the connection has ended.
    fn run_connection(&'static self, mut redis: RedisConnection, socket: TcpStream) -> MutexGuard<'static, State> {
        let socket = Arc::new(socket);
        let mut chunk = [0; CHUNK];
        let mut state = self.state();
        // A server may have sent a reply together with the end of the TLS handshake.
        redis.process_received(&mut *state);
        state.connection = Some(Box::new(Connection { redis, socket: socket.clone() }));
        state.wake_timer(self);
        while state.connection.as_ref().is_some_and(|connection| !connection.redis.has_ended()) {
            self.send(state);
            let read = (&*socket).read(&mut chunk);
            state = self.state();
            match read {
                Ok(length) => state.receive(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => state.receive(&[]),
            }
            state.wake_timer(self);
        }
        // This ends a thread that still writes to the socket.
        let _ = socket.shutdown(Shutdown::Both);
        state
    }
}

/// One connection to Redis and its socket.
pub(super) struct Connection {
    redis: RedisConnection,
    socket: Arc<TcpStream>,
}

impl Connection {
    /// Returns when to call [`Connection::check_timeouts`].
    pub(super) fn deadline(&self, state: &mut State) -> Option<Instant> {
        self.redis.deadline(state)
    }

    /// Ends the connection if it is silent, and completes visits whose deadline has passed.
    pub(super) fn check_timeouts(&mut self, now: Instant, state: &mut State) {
        self.redis.check_timeouts(now, state);
        self.shut_down_if_ended();
    }

    /// Processes bytes from Redis, none if it has closed the connection: completes the batch that is answered, and
    /// submits the next.
    fn receive(&mut self, mut bytes: &[u8], state: &mut State) {
        if bytes.is_empty() {
            self.redis.fail(ConnectionError::Closed);
        }
        while !bytes.is_empty() && !self.redis.has_ended() {
            bytes = self.redis.incoming().receive(bytes);
            self.redis.process_received(state);
        }
        self.submit(state);
    }

    /// Submits the next batch, if no batch is in flight.
    fn submit(&mut self, state: &mut State) {
        while self.redis.submit(state) {
            // A batch that needs no reply is completed at once.
            self.redis.process_received(state);
        }
        self.shut_down_if_ended();
    }

    /// Shuts the socket of a connection down that has ended, which ends the thread's read.
    fn shut_down_if_ended(&self) {
        if self.redis.has_ended() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// Takes the pending bytes, if there are any, with the socket to write them to.
    fn outgoing(&mut self) -> Option<(Arc<TcpStream>, Vec<u8>)> {
        let bytes = self.redis.outgoing().take_unsent();
        (!bytes.is_empty()).then(|| (self.socket.clone(), bytes))
    }
}

impl Server {
    /// Unlocks, wakes the threads in `woken`, and writes the pending bytes to Redis.
    pub(super) fn send(&'static self, mut state: MutexGuard<'_, State>) {
        let outgoing = state.connection.as_mut().and_then(|connection| connection.outgoing());
        self.release(state);
        let Some((socket, bytes)) = outgoing else { return };
        let Some(rest) = write(&socket, &bytes) else { return };
        let rest = bytes[rest..].to_owned();
        let write_rest = move || {
            let mut rest = &rest[..];
            // It ends at the latest when the connection is shut down.
            while let Some(written) = write(&socket, rest) {
                rest = &rest[written..];
            }
        };
        // If the thread cannot be started, the reply timeout ends the connection.
        let _ = detach("redis-write", Box::new(write_rest));
    }
}

/// Writes as much as the socket takes within [`Timer::InlineWrite`]. Returns the bytes written if there are more.
/// After an error it returns `None`, since the thread that reads finds the error too.
fn write(mut socket: &TcpStream, bytes: &[u8]) -> Option<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Some(written),
            Err(_) => return None,
        }
    }
    None
}

impl State {
    /// Processes bytes from Redis. The connection is moved out of the state meanwhile, since it changes the state.
    fn receive(&mut self, bytes: &[u8]) {
        if let Some(mut connection) = self.connection.take() {
            connection.receive(bytes, self);
            self.connection = Some(connection);
        }
    }

    /// Submits the gathering batch to the connection to Redis, if no batch is in flight.
    pub(super) fn submit(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.submit(self);
            self.connection = Some(connection);
        }
    }
}

impl EventLoop for State {
    fn index(&self) -> usize {
        0
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn metrics(&self) -> &WorkerMetrics {
        self.metrics.worker(0)
    }

    fn with_health<T>(&mut self, access: impl FnOnce(&mut Health) -> T) -> T {
        access(&mut self.health)
    }

    fn set_down(&mut self, is_down: bool) {
        self.queue.set_down(is_down);
    }

    fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        self.queue.take(batch)
    }

    fn requeue(&mut self, batch: &mut Batch<Waiter>) {
        self.queue.requeue(batch);
    }

    fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: Instant) {
        self.queue.requeue_in_doubt(batch, sent);
    }

    fn has_in_doubt(&mut self) -> bool {
        self.queue.has_in_doubt()
    }

    fn earliest(&mut self, waiter: Option<&Waiter>) -> Option<Instant> {
        self.queue.earliest(&[waiter])
    }

    fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant) {
        let Self { queue, woken, .. } = self;
        queue.expire_sent(session, now, |client| woken.push(client.thread.clone()));
    }

    fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError) {
        Self::complete(self, batch, error);
    }

    fn fail_in_doubt(&mut self) {
        Self::fail_in_doubt(self);
    }

    fn fail_waiters(&mut self, error: StoreError) {
        Self::fail_waiters(self, error);
    }
}
