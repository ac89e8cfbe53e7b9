//! The count in Redis: one connection after the other.
//!
//! Whoever adds the first visit to a batch, or takes the reply to the batch before, sends the next one off. What is to
//! be sent is written without the lock that all share, and a socket that does not take it at once gets a thread that
//! waits for it: so a Redis that has stopped reading holds nobody up.

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
    /// The count in Redis: one connection after the other.
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

    /// Reads replies until something goes wrong; says what, and how far it came.
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
        // Whoever still writes there ends.
        let _ = socket.shutdown(Shutdown::Both);
        let Some(connection) = state.connection.take() else { return (CLOSED, ConnectionEnd::default()) };
        let (silent, ended) =
            (connection.silent, ConnectionEnd { handshake_done: connection.handshake_done, served: connection.served });
        state.close(*connection);
        state.wake_timer(self);
        self.release(state);
        (if silent { SILENT } else { result.err().unwrap_or(CLOSED) }, ended)
    }

    /// Unlocks, wakes those who have been told something, and writes what the connection with Redis has to send.
    pub(super) fn send(&'static self, mut state: MutexGuard<'_, State>) {
        let outgoing = state.connection.as_mut().and_then(|connection| connection.outgoing());
        self.release(state);
        let Some((socket, bytes)) = outgoing else { return };
        let Some(rest) = write(&socket, &bytes) else { return };
        let rest = bytes[rest..].to_owned();
        let write_rest = move || {
            let mut rest = &rest[..];
            // It ends at the latest when the connection is given up.
            while let Some(written) = write(&socket, rest) {
                rest = &rest[written..];
            }
        };
        // Without a thread, the connection is found to be silent.
        let _ = detach("redis-write", Box::new(write_rest));
    }
}

/// How far a connection with Redis came.
#[derive(Default)]
struct ConnectionEnd {
    /// Redis had handshake_done us.
    handshake_done: bool,
    /// A visit was counted.
    served: bool,
}

/// Writes as much as the socket takes within [`INLINE_WRITE_TIMEOUT`]. Returns how much that is if there is more; an
/// error is left to the thread that reads.
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
    /// Takes bytes from Redis. The connection looks at all that is shared meanwhile, and so is put aside.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), StoreHealth> {
        let Some(mut connection) = self.connection.take() else { return Err(CLOSED) };
        let received = connection.receive(bytes, self);
        self.connection = Some(connection);
        received
    }

    /// Has the connection with Redis send off what has gathered, if it is free to.
    pub(super) fn submit(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        // If something is wrong, the thread that reads there learns of it too.
        let _ = connection.submit(self);
        self.connection = Some(connection);
    }

    /// What may be sent, or sent again, waits for the next connection.
    fn close(&mut self, connection: RedisConnection) {
        let mut leftover = connection.session.into_leftover(&connection.buffers);
        match leftover.recovery {
            Recovery::Requeue => self.queue.requeue(&mut leftover.batch),
            Recovery::Resend => self.queue.requeue_in_doubt(leftover.batch, connection.first_sent),
            Recovery::Fail => self.complete(&mut leftover.batch, StoreError::OutcomeUnknown),
        }
    }
}

/// One connection to Redis, from the greeting to the first thing that goes wrong.
pub(super) struct RedisConnection {
    socket: Arc<TcpStream>,
    buffers: Buffers,
    session: Session<Waiter>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<Waiter>,
    /// When the batch under way, or the greeting, was sent on this connection.
    sent: Instant,
    /// When that batch was sent first, on whichever connection.
    first_sent: Instant,
    /// Whether batches may be sent again, as it was last noted.
    receipts: Option<Receipts>,
    handshake_done: bool,
    /// A visit was counted: this connection is worth another like it at once.
    served: bool,
    /// It was given up.
    silent: bool,
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
            silent: false,
        }
    }

    /// Takes bytes from Redis: has those woken whose batch is answered, and sends off the next.
    fn receive(&mut self, mut bytes: &[u8], state: &mut State) -> Result<(), StoreHealth> {
        while !bytes.is_empty() {
            bytes = self.buffers.receive(bytes);
            self.process_replies(state)?;
        }
        self.submit(state)
    }

    /// Takes what has arrived.
    fn process_replies(&mut self, state: &mut State) -> Result<(), StoreHealth> {
        if let Some(batch) = self.session.process_replies(&mut self.buffers).map_err(StoreHealth::of)? {
            let now = record_batch(state.metrics.worker(0), batch, self.sent);
            if batch.has_increments() {
                state.reply_timeout.record_round_trip(now - self.first_sent);
            }
            let is_first = !self.served && has_counted(batch);
            state.complete(batch, StoreError::OutcomeUnknown);
            // Until then, it was not tried whether they can be written.
            if is_first {
                self.served = true;
                state.health.record_receipts(self.session.receipts());
            }
        }
        Ok(())
    }

    /// Has the session write what has gathered, if nothing is under way.
    fn submit(&mut self, state: &mut State) -> Result<(), StoreHealth> {
        while !self.silent && self.session.is_idle() {
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
            // What needs no reply is settled without one.
            self.process_replies(state)?;
        }
        Ok(())
    }

    /// When to look at it again: it is silent then, or a visit has waited long enough for its reply.
    pub(super) fn deadline(&self, state: &State) -> Option<Instant> {
        if self.silent || self.session.is_idle() {
            return None;
        }
        let silent = self.sent + state.reply_timeout.duration(self.receipts);
        Some(state.queue.earliest(&[self.session.first_waiter()]).map_or(silent, |late| late.min(silent)))
    }

    /// Gives up a connection that is silent, which the thread that reads there finds out, and ends visits that have
    /// waited long enough for a reply.
    pub(super) fn check_timeouts(&mut self, now: Instant, state: &mut State) {
        if self.silent || self.session.is_idle() {
            return;
        }
        if now >= self.sent + state.reply_timeout.duration(self.receipts) {
            state.reply_timeout.record_timeout();
            self.silent = true;
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        let State { queue, woken, .. } = state;
        queue.expire_sent(&mut self.session, now, |client| woken.push(client.thread.clone()));
    }

    /// What is to be written, and where, if anything.
    fn outgoing(&mut self) -> Option<(Arc<TcpStream>, Vec<u8>)> {
        let bytes = self.buffers.take_unsent();
        (!bytes.is_empty()).then(|| (self.socket.clone(), bytes))
    }
}

/// How long whoever sends a batch may be held up by that.
const INLINE_WRITE_TIMEOUT: Duration = Duration::from_millis(10);
