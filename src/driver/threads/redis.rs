//! Counting in Redis: connections one after the other, and on each of them batches one after the other.
//!
//! The thread that adds the first visit to a batch sends it, or the thread that reads the reply to the previous batch.
//! Bytes are written without the shared lock. If the socket does not take them at once, a thread is started that waits
//! for it. So a Redis server that has stopped reading does not block clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::MutexGuard;
use std::thread;
use std::time::{Duration, Instant};

use super::super::queue::{Attempt, Waiter};
use super::super::{Backoff, CLOSED, SILENT, StoreHealth, connect, has_counted, producer, record_batch};
use super::{CHUNK, Server, State, detach};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::counter::{Key, StoreError};
use crate::redis::{Producer, Receipts, Recovery, RedisConfig, Session};

impl Server {
    /// Opens connections to Redis, one after the other, and reads their replies.
    pub(super) fn redis(&'static self, config: &RedisConfig) {
        let producer = producer(self.context, &self.limits);
        let mut backoff = Backoff::default();
        let mut last_connected = Instant::now();
        loop {
            let connected = connect(config, self.limits.store).and_then(|socket| {
                socket.set_write_timeout(Some(INLINE_WRITE_TIMEOUT)).map(|()| socket).map_err(|_| CLOSED)
            });
            let status = match connected {
                Ok(socket) => {
                    let (status, ConnectionEnd { handshake_done, served }) =
                        self.run_connection(config, producer, socket);
                    if handshake_done {
                        last_connected = Instant::now();
                    }
                    if served {
                        backoff = Backoff::default();
                    }
                    status
                }
                Err(status) => status,
            };
            let mut state = self.state();
            state.health.set(0, status);
            if last_connected.elapsed() >= self.limits.store {
                state.queue.set_down(true);
            }
            if !status.is_transient() {
                state.fail_waiters(status.error());
            }
            self.release(state);
            thread::sleep(backoff.pause());
        }
    }

    /// Reads replies until an error. Returns the error, and how far the connection came.
    fn run_connection(
        &'static self,
        config: &RedisConfig,
        producer: Producer,
        socket: TcpStream,
    ) -> (StoreHealth, ConnectionEnd) {
        let socket = Arc::new(socket);
        let mut chunk = [0; CHUNK];
        let mut state = self.state();
        state.connection =
            Some(Box::new(RedisConnection::open(config, &self.context.counters.main, producer, socket.clone())));
        let mut result = Ok(());
        state.wake_timer(self);
        while result.is_ok() {
            self.send(state);
            let read = (&*socket).read(&mut chunk);
            state = self.state();
            result = match read {
                Ok(0) => Err(CLOSED),
                Ok(length) => state.receive(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
                Err(_) => Err(CLOSED),
            };
            state.wake_timer(self);
        }
        // This ends a thread that still writes to the socket.
        let _ = socket.shutdown(Shutdown::Both);
        let Some(connection) = state.connection.take() else { return (CLOSED, ConnectionEnd::default()) };
        let (is_silent, end) = (
            connection.is_silent,
            ConnectionEnd { handshake_done: connection.handshake_done, served: connection.served },
        );
        state.close(*connection);
        state.wake_timer(self);
        self.release(state);
        (if is_silent { SILENT } else { result.err().unwrap_or(CLOSED) }, end)
    }
}

/// How far a connection to Redis came.
#[derive(Default)]
struct ConnectionEnd {
    /// The handshake was completed.
    handshake_done: bool,
    /// A visit was counted.
    served: bool,
}

/// One connection to Redis, from the handshake to the first error.
pub(super) struct RedisConnection {
    socket: Arc<TcpStream>,
    buffers: Buffers,
    session: Session<Waiter>,
    /// Empty, except while a batch moves from the queue to the session.
    batch: Batch<Waiter>,
    /// When the batch in flight, or the handshake, was sent on this connection.
    sent: Instant,
    /// When that batch was sent first, on any connection.
    first_sent: Instant,
    /// Whether batches may be sent again, as recorded last.
    receipts: Option<Receipts>,
    handshake_done: bool,
    /// A visit was counted on this connection, so the next one may be opened without a long pause.
    served: bool,
    /// The reply timeout has passed, and the socket was shut down.
    is_silent: bool,
}

impl RedisConnection {
    fn open(config: &RedisConfig, main: &Key, producer: Producer, socket: Arc<TcpStream>) -> Self {
        let mut buffers = Buffers::default();
        let session = Session::open(config, main, producer, &mut buffers);
        let (batch, sent) = (Batch::default(), Instant::now());
        Self {
            socket,
            buffers,
            session,
            batch,
            sent,
            first_sent: sent,
            receipts: None,
            handshake_done: false,
            served: false,
            is_silent: false,
        }
    }

    /// Processes the replies in the buffer, and completes the batch they end.
    fn process_replies(&mut self, state: &mut State) -> Result<(), StoreHealth> {
        if let Some(batch) = self.session.process_replies(&mut self.buffers).map_err(StoreHealth::of)? {
            let now = record_batch(state.metrics.worker(0), batch, self.sent);
            if batch.has_increments() {
                state.reply_timeout.record_round_trip(now - self.first_sent);
            }
            let is_first = !self.served && has_counted(batch);
            state.complete(batch, StoreError::OutcomeUnknown);
            // The first counted batch shows whether receipts can be written.
            if is_first {
                self.served = true;
                state.health.record_receipts(self.session.receipts());
            }
        }
        Ok(())
    }

    /// Submits the next batch to the session, if no batch is in flight.
    fn submit(&mut self, state: &mut State) -> Result<(), StoreHealth> {
        while !self.is_silent && self.session.is_idle() {
            if !std::mem::replace(&mut self.handshake_done, true) {
                state.queue.set_down(false);
                state.health.record_handshake(0, self.session.total());
            }
            if self.receipts != Some(self.session.receipts()) {
                self.receipts = Some(self.session.receipts());
                if self.receipts != Some(Receipts::Kept) {
                    state.health.record_receipts(self.session.receipts());
                }
            }
            if self.receipts != Some(Receipts::Kept) {
                state.fail_in_doubt();
            }
            let Some(attempt) = state.queue.take(&mut self.batch) else { break };
            self.sent = Instant::now();
            self.first_sent = match attempt {
                Attempt::First => self.sent,
                Attempt::Again(first_sent) => first_sent,
            };
            self.session.submit(&mut self.batch, &mut self.buffers);
            // A batch that needs no reply is completed at once.
            self.process_replies(state)?;
        }
        Ok(())
    }

    /// Returns when to call [`RedisConnection::check_timeouts`]: at the reply timeout, or the first deadline of a
    /// visit.
    pub(super) fn deadline(&self, state: &State) -> Option<Instant> {
        if self.is_silent || self.session.is_idle() {
            return None;
        }
        let reply_deadline = self.sent + state.reply_timeout.duration(self.receipts);
        let first_deadline = state.queue.earliest(&[self.session.first_waiter()]);
        Some(first_deadline.map_or(reply_deadline, |first| first.min(reply_deadline)))
    }

    /// Shuts the socket down if the reply timeout has passed, which ends the thread's read, and completes visits whose
    /// deadline has passed.
    pub(super) fn check_timeouts(&mut self, now: Instant, state: &mut State) {
        if self.is_silent || self.session.is_idle() {
            return;
        }
        if now >= self.sent + state.reply_timeout.duration(self.receipts) {
            state.reply_timeout.record_timeout();
            self.is_silent = true;
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        let State { queue, woken, .. } = state;
        queue.expire_sent(&mut self.session, now, |client| woken.push(client.thread.clone()));
    }

    /// Processes bytes from Redis: completes the batch that is answered, and submits the next.
    fn receive(&mut self, mut bytes: &[u8], state: &mut State) -> Result<(), StoreHealth> {
        while !bytes.is_empty() {
            bytes = self.buffers.receive(bytes);
            self.process_replies(state)?;
        }
        self.submit(state)
    }

    /// Takes the pending bytes, if there are any, with the socket to write them to.
    fn outgoing(&mut self) -> Option<(Arc<TcpStream>, Vec<u8>)> {
        let bytes = self.buffers.take_unsent();
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

/// Writes as much as the socket takes within [`INLINE_WRITE_TIMEOUT`]. Returns the bytes written if there are more.
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
    fn receive(&mut self, bytes: &[u8]) -> Result<(), StoreHealth> {
        let Some(mut connection) = self.connection.take() else { return Err(CLOSED) };
        let received = connection.receive(bytes, self);
        self.connection = Some(connection);
        received
    }

    /// Submits the gathering batch to the connection to Redis, if no batch is in flight.
    pub(super) fn submit(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        // The thread that reads from the socket finds an error too.
        let _ = connection.submit(self);
        self.connection = Some(connection);
    }

    /// Puts back the batch in flight if it may be sent, or sent again; otherwise completes it as in doubt.
    fn close(&mut self, connection: RedisConnection) {
        let mut leftover = connection.session.into_leftover(&connection.buffers);
        match leftover.recovery {
            Recovery::Requeue => self.queue.requeue(&mut leftover.batch),
            Recovery::Resend => self.queue.requeue_in_doubt(leftover.batch, connection.first_sent),
            Recovery::Fail => self.complete(&mut leftover.batch, StoreError::OutcomeUnknown),
        }
    }
}

/// The longest time for which writing a batch may block the thread that submits it.
const INLINE_WRITE_TIMEOUT: Duration = Duration::from_millis(10);
