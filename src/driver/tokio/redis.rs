//! Counting in Redis: connections one after the other, and on each of them batches one after the other.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::queue::{Attempt, Waiter};
use super::super::reply_timeout::ReplyTimeout;
use super::super::{Backoff, CLOSED, SILENT, StoreHealth, has_counted, spawn};
use super::timer::{DeadlineTimer, pause};
use super::{Inbox, STACK, Worker, lock, read, state};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::counter::StoreError;
use crate::redis::{Producer, Receipts, Recovery, RedisConfig, Session};

/// Opens connections to Redis, one after the other, and sends the worker's batches.
pub(super) async fn redis(worker: &'static Worker, config: &'static RedisConfig) {
    let producer = super::super::producer(worker.server.context, worker.server.limits);
    let mut timeout = ReplyTimeout::new(worker.server.limits.store);
    let mut backoff = Backoff::default();
    let mut last_connected = Instant::now();
    loop {
        let status = match connect(config, worker.server.limits.store).await {
            Ok(socket) => {
                let mut connection = RedisConnection::open(worker, socket, config, producer, &mut timeout);
                let status = poll_fn(|cx| connection.poll(cx)).await;
                if connection.handshake_done {
                    last_connected = Instant::now();
                }
                if connection.served {
                    backoff = Backoff::default();
                }
                connection.close();
                status
            }
            Err(status) => status,
        };
        worker.set_health(status);
        if last_connected.elapsed() >= worker.server.limits.store {
            state(|state| state.queue.set_down(true));
        }
        if !status.is_transient() {
            worker.fail_waiters(status.error());
        }
        pause(backoff.pause()).await;
    }
}

/// Connects on a thread of its own, because name lookup and connecting block.
async fn connect(config: &'static RedisConfig, timeout: Duration) -> Result<TcpStream, StoreHealth> {
    let inbox = Arc::new(Inbox::new());
    let result = inbox.clone();
    let work = move || result.put(super::super::connect(config, timeout));
    spawn("connect", STACK, Box::new(work))
        .map_err(|_| StoreHealth::Down("cannot start a thread to connect: raise the limit of threads"))?;
    let socket = inbox.take().await?;
    socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)).map_err(|_| CLOSED)
}

/// One connection to Redis, from the handshake to the first error.
struct RedisConnection<'a> {
    worker: &'static Worker,
    socket: TcpStream,
    buffers: Buffers,
    session: Session<Waiter>,
    /// Empty, except while a batch moves from the queue to the session.
    batch: Batch<Waiter>,
    timeout: &'a mut ReplyTimeout,
    /// When the batch in flight, or the handshake, was sent on this connection.
    sent: Instant,
    /// When that batch was sent first, on any connection.
    first_sent: Instant,
    timer: DeadlineTimer,
    /// Whether batches may be sent again, as recorded last.
    receipts: Option<Receipts>,
    handshake_done: bool,
    /// A visit was counted on this connection, so the next one may be opened without a long pause.
    served: bool,
}

impl<'a> RedisConnection<'a> {
    fn open(
        worker: &'static Worker,
        socket: TcpStream,
        config: &RedisConfig,
        producer: Producer,
        timeout: &'a mut ReplyTimeout,
    ) -> Self {
        let mut buffers = Buffers::default();
        let session = Session::open(config, &worker.server.context.counters.main, producer, &mut buffers);
        let sent = Instant::now();
        let (batch, timer) = (Batch::default(), DeadlineTimer::new(sent));
        Self {
            worker,
            socket,
            buffers,
            session,
            batch,
            timeout,
            sent,
            first_sent: sent,
            timer,
            receipts: None,
            handshake_done: false,
            served: false,
        }
    }

    /// Sends batches and reads replies until an error, and returns it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<StoreHealth> {
        match self.advance(cx) {
            Ok(()) => Poll::Pending,
            Err(status) => Poll::Ready(status),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Result<(), StoreHealth> {
        while self.receive(cx)? {
            self.process_replies()?;
        }
        while self.session.is_idle() && self.submit(cx) {
            // A batch that needs no reply is completed at once.
            self.process_replies()?;
        }
        self.send(cx)?;
        self.check_timeouts(cx)
    }

    /// Processes the replies in the buffer, and completes the batch they end.
    fn process_replies(&mut self) -> Result<(), StoreHealth> {
        if let Some(batch) = self.session.process_replies(&mut self.buffers).map_err(StoreHealth::of)? {
            let now = self.worker.record_batch(batch, self.sent);
            if batch.has_increments() {
                self.timeout.record_round_trip(now - self.first_sent);
            }
            let is_first = !self.served && has_counted(batch);
            self.worker.complete(batch, StoreError::OutcomeUnknown);
            // The first counted batch shows whether receipts can be written.
            if is_first {
                self.served = true;
                lock(&self.worker.server.health).record_receipts(self.session.receipts());
            }
        }
        Ok(())
    }

    /// Submits the next batch to the session, or registers to wait for one. Returns whether there was one.
    fn submit(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::replace(&mut self.handshake_done, true) {
            state(|state| state.queue.set_down(false));
            lock(&self.worker.server.health).record_handshake(self.worker.index, self.session.total());
        }
        if self.receipts != Some(self.session.receipts()) {
            self.receipts = Some(self.session.receipts());
            if self.receipts != Some(Receipts::Kept) {
                lock(&self.worker.server.health).record_receipts(self.session.receipts());
            }
        }
        if self.receipts != Some(Receipts::Kept) {
            self.worker.fail_in_doubt();
        }
        let Some(attempt) = self.worker.take(&mut self.batch) else {
            state(|state| state.store_task = Some(cx.waker().clone()));
            return false;
        };
        self.sent = Instant::now();
        self.first_sent = match attempt {
            Attempt::First => self.sent,
            Attempt::Again(first_sent) => first_sent.into(),
        };
        self.session.submit(&mut self.batch, &mut self.buffers);
        true
    }

    /// Returns [`SILENT`] if the reply timeout has passed, and completes visits whose deadline has passed.
    fn check_timeouts(&mut self, cx: &mut Context<'_>) -> Result<(), StoreHealth> {
        while !self.session.is_idle() {
            let reply_deadline = self.sent + self.timeout.duration(self.receipts);
            let first_deadline = state(|state| {
                state.register_reply_task(cx);
                state.queue.earliest(&[self.session.first_waiter()])
            });
            let first_deadline = first_deadline.map(Instant::from_std);
            let deadline = first_deadline.map_or(reply_deadline, |first| first.min(reply_deadline));
            if self.timer.poll(deadline, cx).is_pending() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= reply_deadline {
                self.timeout.record_timeout();
                return Err(SILENT);
            }
            state(|state| {
                state.tick();
                state.queue.expire_sent(&mut self.session, now.into_std(), Waker::wake_by_ref);
            });
        }
        Ok(())
    }

    /// Reads bytes. Returns whether there were any.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, StoreHealth> {
        match read(&mut self.socket, &mut self.buffers, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => Ok(true),
            Poll::Ready(_) => Err(CLOSED),
        }
    }

    /// Writes pending bytes as far as the socket takes them.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), StoreHealth> {
        while !self.buffers.pending().is_empty() && self.socket.poll_write_ready(cx).is_ready() {
            match self.socket.try_write(self.buffers.pending()) {
                Ok(length) => self.buffers.mark_sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(CLOSED),
            }
        }
        Ok(())
    }

    /// Puts back the batch in flight if it may be sent, or sent again; otherwise completes it as in doubt.
    fn close(self) {
        let mut leftover = self.session.into_leftover(&self.buffers);
        match leftover.recovery {
            Recovery::Requeue => self.worker.requeue(&mut leftover.batch),
            Recovery::Resend => self.worker.requeue_in_doubt(leftover.batch, self.first_sent),
            Recovery::Fail => self.worker.complete(&mut leftover.batch, StoreError::OutcomeUnknown),
        }
    }
}
