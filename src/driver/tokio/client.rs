//! One client: its task, its socket and its slot among the connections of its worker.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant as StdInstant;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::deadline::{Deadline, Timer};
use super::super::queue::Waiter;
use super::super::slots::{Evicted, Eviction, STALLED_GRACE};
use super::super::{has_stalled, has_unacknowledged, log_requests, micros_since_start, reset_on_close};
use super::accept::ConnectionPermit;
use super::timer::DeadlineTimer;
use super::{Server, State, read, register, state};
use crate::buffers::Buffers;
use crate::connection::{HttpConnection, Need, ServerContext, WorkerContext};
use crate::counter::{Command, Key, StoreError};

/// The slot of one connection, until it is dropped.
struct Client {
    permit: ConnectionPermit,
    slot: usize,
}

impl Client {
    fn new(permit: ConnectionPermit) -> Self {
        Self { permit, slot: state(|state| state.queue.slots.allocate()) }
    }

    fn server(&self) -> &'static Server {
        self.permit.worker.server
    }

    /// Calls `action` with the contexts that an [`HttpConnection`] needs.
    fn with_context<T>(&self, action: impl FnOnce(&ServerContext, &mut WorkerContext) -> T) -> T {
        state(|state| action(self.server().context, &mut state.context))
    }

    /// Sets the time of a request or its response, if requests are recorded.
    fn set_micros(&self, context: &mut WorkerContext) {
        if self.server().context.records_requests {
            context.micros = micros_since_start();
        }
    }

    /// Adds a command to the batch. Meanwhile, the client's buffers are in the pool.
    fn request_total(&self, mut command: Command, buffers: &mut Buffers) {
        // Only the command of `/readyz` depends on the store's health.
        if command == Command::Ping {
            command = self.permit.worker.readiness();
        }
        state(|state| {
            buffers.release(&mut state.pool);
            state.request_total(&command, &self.server().context.counters.main, self.slot, self.server().limits);
        });
    }

    /// Waits for the store's reply.
    async fn wait_for_total(&self, buffers: &mut Buffers) -> Result<i64, StoreError> {
        poll_fn(|cx| {
            self.with_slot(cx, |state| {
                let Some(total) = state.queue.slots.take_result(self.slot) else { return Poll::Pending };
                self.set_micros(&mut state.context);
                buffers.acquire(&mut state.pool);
                Poll::Ready(total)
            })
        })
        .await
    }

    /// Adds a read of each of `keys` to the batch. Returns their slots, for [`Client::poll_totals`]. Meanwhile, the
    /// client's buffers are in the pool.
    fn request_totals(&self, keys: &[Key], buffers: &mut Buffers) -> Result<Vec<usize>, StoreError> {
        let Server { context, limits, share, .. } = *self.server();
        state(|state| {
            let waiter = Waiter { slot: self.slot, deadline: Timer::Visit.start_at(state.now(), limits).at };
            let main = &context.counters.main;
            let (group, is_first) = state.queue.push_reads(keys, main, waiter, share, Waker::wake_by_ref)?;
            buffers.release(&mut state.pool);
            if is_first {
                state.notify_store();
            }
            Ok(group)
        })
    }

    /// Waits for the store's replies to a group of reads.
    fn poll_totals(
        &self,
        group: &[usize],
        buffers: &mut Buffers,
        cx: &Context<'_>,
    ) -> Poll<Result<Vec<i64>, StoreError>> {
        self.with_slot(cx, |state| {
            let Some(totals) = state.queue.slots.take_group(group, self.slot) else { return Poll::Pending };
            self.set_micros(&mut state.context);
            buffers.acquire(&mut state.pool);
            Poll::Ready(totals)
        })
    }

    /// Returns whether an idle client has to close its connection.
    fn must_close(&self, cx: &Context<'_>) -> bool {
        self.with_slot(cx, |state| state.context.closing || state.queue.slots.should_close(self.slot))
    }

    /// Marks the client as stalled, and leaves its buffers with the worker. Returns an error if the client was evicted.
    fn mark_stalled(&self, buffers: &mut Buffers, cx: &Context<'_>) -> Result<(), Evicted> {
        let share = self.server().share;
        self.with_slot(cx, |state| {
            state.queue.slots.mark_stalled(self.slot, StdInstant::now(), buffers, share, Waker::wake_by_ref)
        })
    }

    /// Takes the buffers back. Returns an error if the client was evicted.
    fn resume(&self, buffers: &mut Buffers) -> Result<(), Evicted> {
        state(|state| state.queue.slots.resume(self.slot, buffers))
    }

    /// Marks the client as active: it no longer waits for its peer, or waits for something else from now on.
    fn mark_active(&self) {
        state(|state| state.queue.slots.mark_active(self.slot));
    }

    /// Calls `access` with the worker's state, and registers the task to be woken when its slot changes.
    fn with_slot<T>(&self, cx: &Context<'_>, access: impl FnOnce(&mut State) -> T) -> T {
        state(|state| {
            let waker = state.queue.slots.waker(self.slot);
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            access(state)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(eviction) = state(|state| state.queue.slots.free(self.slot)) {
            let metrics = &self.server().context.metrics;
            metrics.worker(self.permit.worker.index).record_eviction(eviction == Eviction::Stalled);
        }
    }
}

/// Serves one connection until it ends. The reason is not logged: a client may leave at any time.
pub(super) async fn serve(permit: ConnectionPermit, socket: StdStream) {
    let client = Client::new(permit);
    if let Ok(socket) = register(socket) {
        let mut connection =
            ClientConnection { timer: DeadlineTimer::new(Instant::now()), client, socket, buffers: Buffers::default() };
        let end = connection.serve().await;
        connection.close(end).await;
    }
}

/// A client, its socket and its buffers.
struct ClientConnection {
    client: Client,
    socket: TcpStream,
    buffers: Buffers,
    timer: DeadlineTimer,
}

/// Why a wait for bytes has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    TimedOut,
    Closing,
}

impl ClientConnection {
    async fn serve(&mut self) -> io::Result<()> {
        let limits = &self.client.server().limits;
        let mut connection = HttpConnection::default();
        state(State::tick);
        // The deadlines of the first byte of a request, and of the rest of the current request, which has this number.
        let first_byte = Timer::FirstRequest.start(limits);
        let (mut current_request, mut deadline) = (0, first_byte);
        let mut served = false;
        loop {
            match self.client.with_context(|server, worker| connection.advance(server, worker, &mut self.buffers)) {
                Need::Request => {
                    self.send().await?;
                    let now = self.mark_idle(served);
                    let deadline = if served { Timer::Idle.start_at(now, limits) } else { first_byte };
                    if self.receive(deadline).await? != Wake::Ready {
                        return Ok(());
                    }
                    served = true;
                }
                Need::Bytes(request) => {
                    if request != current_request {
                        (current_request, deadline) = (request, Timer::Request.start(limits));
                        self.client.mark_active();
                    }
                    self.send().await?;
                    if self.receive(deadline).await? != Wake::Ready {
                        state(|state| {
                            state.tick();
                            self.client.set_micros(&mut state.context);
                        });
                        self.client
                            .with_context(|server, worker| connection.time_out(server, worker, &mut self.buffers));
                    }
                }
                Need::Room => self.send().await?,
                // After that, `advance` returns the same need again. Storing it would take memory in every connection.
                Need::Store | Need::Totals if !self.buffers.pending().is_empty() => self.send().await?,
                Need::Store => {
                    self.client.request_total(connection.command(), &mut self.buffers);
                    let total = self.client.wait_for_total(&mut self.buffers).await;
                    self.client
                        .with_context(|server, worker| connection.complete(total, server, worker, &mut self.buffers));
                }
                Need::Totals => {
                    let totals = match self.client.request_totals(connection.counters(), &mut self.buffers) {
                        Ok(group) => poll_fn(|cx| self.client.poll_totals(&group, &mut self.buffers, cx)).await,
                        Err(error) => Err(error),
                    };
                    self.client.with_context(|server, worker| {
                        connection.complete_totals(totals, server, worker, &mut self.buffers);
                    });
                }
                Need::Close => {
                    self.send().await?;
                    return self.linger().await;
                }
            }
        }
    }

    /// Sends all pending bytes. Logs the requests that got a response, if they are recorded.
    async fn send(&mut self) -> io::Result<()> {
        if self.client.server().context.records_requests {
            state(|state| log_requests(&mut state.context.records));
        }
        let mut deadline = None;
        while !self.buffers.pending().is_empty() {
            match self.socket.try_write(self.buffers.pending()) {
                Ok(length) => self.buffers.mark_sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let limits = self.client.server().limits;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.mark_active();
                        Timer::Write.start(limits)
                    });
                    let ready = poll_fn(|cx| match self.socket.poll_write_ready(cx) {
                        Poll::Pending if self.client.mark_stalled(&mut self.buffers, cx).is_err() => {
                            Poll::Ready(Err(Evicted.into()))
                        }
                        Poll::Pending => {
                            self.timer.poll(deadline.at.into(), cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
                        }
                        ready => ready,
                    })
                    .await;
                    self.client.resume(&mut self.buffers)?;
                    ready?;
                }
                Err(error) => return Err(error),
            }
        }
        if deadline.is_some() {
            state(State::tick);
            self.client.mark_active();
        }
        Ok(())
    }

    /// Waits for bytes and reads them. While the connection waits, its buffers are in the pool, or left with the worker
    /// if they hold bytes.
    async fn receive(&mut self, deadline: Deadline) -> io::Result<Wake> {
        let is_idle = deadline.timer.is_between_requests();
        loop {
            state(|state| self.buffers.release(&mut state.pool));
            let wake = poll_fn(|cx| match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.map(|()| Wake::Ready)),
                Poll::Pending if is_idle && self.client.must_close(cx) => Poll::Ready(Ok(Wake::Closing)),
                Poll::Pending if !is_idle && self.client.mark_stalled(&mut self.buffers, cx).is_err() => {
                    Poll::Ready(Err(Evicted.into()))
                }
                Poll::Pending => self.timer.poll(deadline.at.into(), cx).map(|()| Ok(Wake::TimedOut)),
            })
            .await?;
            if !is_idle {
                self.client.resume(&mut self.buffers)?;
            }
            if wake != Wake::Ready && !(is_idle && self.has_bytes().await) {
                return Ok(wake);
            }
            self.receive_bytes();
            match poll_fn(|cx| Poll::Ready(read(&mut self.socket, &mut self.buffers, cx))).await {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(read) => return read.map(|_| Wake::Ready),
            }
        }
    }

    /// Returns whether bytes have arrived that the event loop has not reported yet.
    async fn has_bytes(&self) -> bool {
        yield_now().await;
        poll_fn(|cx| Poll::Ready(self.socket.poll_read_ready(cx).is_ready())).await
    }

    /// Marks the client as idle. Returns the time since when it is.
    fn mark_idle(&self, served: bool) -> StdInstant {
        state(|state| {
            let now = state.now();
            state.queue.slots.mark_idle(self.client.slot, now, served);
            now
        })
    }

    /// Acquires buffers for bytes that have arrived. The client stays in its queue until they are a request, or part of
    /// one.
    fn receive_bytes(&mut self) {
        state(|state| {
            state.tick();
            self.client.set_micros(&mut state.context);
            self.buffers.acquire(&mut state.pool);
        });
    }

    /// Closes the connection once the peer has acknowledged all bytes. Resets it if that takes too long or the slot is
    /// needed, since the kernel's memory for closed connections has no other bound.
    async fn close(&mut self, end: io::Result<()>) {
        let stalled = end.is_err_and(|error| has_stalled(&error));
        if stalled || self.wait_for_acknowledgement().await.is_err() {
            reset_on_close(&self.socket);
        }
    }

    /// Waits until the peer has acknowledged all bytes.
    async fn wait_for_acknowledgement(&mut self) -> io::Result<()> {
        self.buffers = Buffers::default();
        let deadline = Timer::Acknowledgement.start(self.client.server().limits);
        while has_unacknowledged(&self.socket, self.client.server().is_unix) {
            let next = StdInstant::now() + STALLED_GRACE;
            if next > deadline.at || state(|state| state.queue.slots.should_close(self.client.slot)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poll_fn(|cx| match self.client.mark_stalled(&mut self.buffers, cx) {
                Err(Evicted) => Poll::Ready(()),
                Ok(()) => self.timer.poll(next.into(), cx),
            })
            .await;
        }
        Ok(())
    }

    /// Shuts down sending, and discards received bytes for [`Timer::Linger`], so that the last response arrives.
    async fn linger(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await?;
        let deadline = Timer::Linger.start(self.client.server().limits);
        loop {
            let received = self.buffers.received().len();
            self.buffers.consume(received);
            if self.receive(deadline).await? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
