//! One client: its task, its socket and its place among the connections of its worker.

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

use super::super::slots::{Eviction, STALLED_GRACE};
use super::super::{LINGER, has_stalled, has_unacknowledged, log_requests, micros, reset_on_close};
use super::accept::ConnectionPermit;
use super::timer::DeadlineTimer;
use super::{Server, State, read, state};
use crate::buffers::Buffers;
use crate::connection::{HttpConnection, Need, ServerContext, WorkerContext};
use crate::counter::{Command, StoreError};

/// One connection, as its worker knows it. It gives up its seat when it is dropped.
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

    /// A turn of the exchange.
    fn with_context<T>(&self, turn: impl FnOnce(&ServerContext, &mut WorkerContext) -> T) -> T {
        state(|state| turn(self.server().context, &mut state.context))
    }

    /// Takes the time of a request or its answer, if that is recorded.
    fn stamp(&self, now: &mut WorkerContext) {
        if self.server().context.records_requests {
            now.micros = micros();
        }
    }

    /// Asks the store. Until it answers, the client's memory is lent out.
    fn request_total(&self, mut command: Command, buffers: &mut Buffers) {
        // Only this depends on what is known of the store.
        if command == Command::Ping {
            command = self.permit.worker.readiness();
        }
        state(|state| {
            state.queue.slots.mark_active(self.slot);
            buffers.release(&mut state.pool);
            state.request_total(&command, &self.server().context.counters.main, self.slot, self.server().limits.store);
        });
    }

    /// Waits for the store's answer.
    async fn answered(&self, buffers: &mut Buffers) -> Result<i64, StoreError> {
        poll_fn(|cx| {
            self.with_slot(cx, |state| {
                let Some(total) = state.queue.slots.take_answer(self.slot) else { return Poll::Pending };
                self.stamp(&mut state.context);
                buffers.acquire(&mut state.pool);
                Poll::Ready(total)
            })
        })
        .await
    }

    /// Whether a client that rests has to go.
    fn must_close(&self, cx: &Context<'_>) -> bool {
        self.with_slot(cx, |state| state.context.closing || state.queue.slots.should_close(self.slot))
    }

    /// Leaves the buffers of a client that waits for its peer with the worker, and says whether it has to go.
    fn mark_stalled(&self, buffers: &mut Buffers, cx: &Context<'_>) -> bool {
        let share = self.server().share;
        self.with_slot(cx, |state| {
            let eviction =
                state.queue.slots.mark_stalled(self.slot, StdInstant::now(), buffers, share, Waker::wake_by_ref);
            eviction == Eviction::Now
        })
    }

    /// Takes the buffers back.
    fn resume(&self, buffers: &mut Buffers) -> io::Result<()> {
        match state(|state| state.queue.slots.resume(self.slot, buffers)) {
            Eviction::Now => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Notes that the client waits for its peer no longer, or for something else from now on.
    fn mark_active(&self) {
        state(|state| state.queue.slots.mark_active(self.slot));
    }

    /// Looks at the worker's state. Whoever changes it for this client wakes it.
    fn with_slot<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut State) -> T) -> T {
        state(|state| {
            let waker = state.queue.slots.waker(self.slot);
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            look(state)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        state(|state| state.queue.slots.free(self.slot));
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
pub(super) async fn serve(permit: ConnectionPermit, socket: StdStream) {
    let client = Client::new(permit);
    let socket = socket.set_nodelay(true).map(|()| socket);
    if let Ok(socket) = socket.and_then(TcpStream::from_std) {
        let mut connection =
            ClientConnection { timer: DeadlineTimer::new(Instant::now()), client, socket, buffers: Buffers::default() };
        let end = connection.serve().await;
        connection.close(end).await;
    }
}

/// A client and its socket.
struct ClientConnection {
    client: Client,
    socket: TcpStream,
    buffers: Buffers,
    timer: DeadlineTimer,
}

/// Why a wait has ended.
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
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut current_request, mut deadline) = (0, Instant::now() + limits.request);
        let mut idle = None;
        loop {
            match self.client.with_context(|context, now| connection.advance(context, now, &mut self.buffers)) {
                Need::Request => {
                    self.send().await?;
                    let now = self.mark_idle(idle.is_some());
                    let patience = idle.map_or(deadline, |idle| now + idle);
                    if self.receive(patience, true).await? != Wake::Ready {
                        return Ok(());
                    }
                    idle = Some(limits.idle);
                }
                Need::Bytes(request) => {
                    if request != current_request {
                        (current_request, deadline) = (request, Instant::now() + limits.request);
                        self.client.mark_active();
                    }
                    self.send().await?;
                    if self.receive(deadline, false).await? != Wake::Ready {
                        state(|state| {
                            state.tick();
                            self.client.stamp(&mut state.context);
                        });
                        self.client.with_context(|context, now| connection.time_out(context, now, &mut self.buffers));
                    }
                }
                Need::Room => self.send().await?,
                // It will be wanted again; kept meanwhile, it would take room in every connection.
                Need::Store if !self.buffers.pending().is_empty() => self.send().await?,
                Need::Store => {
                    self.client.request_total(connection.command(), &mut self.buffers);
                    let total = self.client.answered(&mut self.buffers).await;
                    self.client
                        .with_context(|context, now| connection.complete(total, context, now, &mut self.buffers));
                }
                Need::Close => {
                    self.send().await?;
                    return self.linger().await;
                }
            }
        }
    }

    /// Sends all that is unsent. The answers among it may be recorded.
    async fn send(&mut self) -> io::Result<()> {
        if self.client.server().context.records_requests {
            state(|state| log_requests(&mut state.context.records));
        }
        let mut deadline = None;
        while !self.buffers.pending().is_empty() {
            match self.socket.try_write(self.buffers.pending()) {
                Ok(length) => self.buffers.mark_sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let limit = self.client.server().limits.write;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.mark_active();
                        Instant::now() + limit
                    });
                    let ready = poll_fn(|cx| match self.socket.poll_write_ready(cx) {
                        Poll::Pending if self.client.mark_stalled(&mut self.buffers, cx) => {
                            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
                        }
                        Poll::Pending => self.timer.poll(deadline, cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
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

    /// Waits for bytes and takes them. The memory of a connection that waits is lent out, or left with the worker if
    /// something is in it.
    async fn receive(&mut self, deadline: Instant, is_idle: bool) -> io::Result<Wake> {
        loop {
            state(|state| self.buffers.release(&mut state.pool));
            let wake = poll_fn(|cx| match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.map(|()| Wake::Ready)),
                Poll::Pending if is_idle && self.client.must_close(cx) => Poll::Ready(Ok(Wake::Closing)),
                Poll::Pending if !is_idle && self.client.mark_stalled(&mut self.buffers, cx) => {
                    Poll::Ready(Ok(Wake::Closing))
                }
                Poll::Pending => self.timer.poll(deadline, cx).map(|()| Ok(Wake::TimedOut)),
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

    /// Whether a request has come that the event loop has not told of yet.
    async fn has_bytes(&self) -> bool {
        yield_now().await;
        poll_fn(|cx| Poll::Ready(self.socket.poll_read_ready(cx).is_ready())).await
    }

    /// Nothing is under way, since the time that it returns.
    fn mark_idle(&self, served: bool) -> Instant {
        state(|state| {
            let now = state.now();
            state.queue.slots.mark_idle(self.client.slot, now, served);
            now.into()
        })
    }

    /// Bytes have come: takes memory for them. The client waits where it did until they are a request, or part of one.
    fn receive_bytes(&mut self) {
        state(|state| {
            state.tick();
            self.client.stamp(&mut state.context);
            self.buffers.acquire(&mut state.pool);
        });
    }

    /// Closes the connection when the peer has taken what it was sent. If that takes too long, or the seat is needed,
    /// it is reset: what the kernel keeps for connections that are closed has no other bound.
    async fn close(&mut self, end: io::Result<()>) {
        let stalled = end.is_err_and(|error| has_stalled(&error));
        if stalled || self.drain().await.is_err() {
            reset_on_close(&self.socket);
        }
    }

    /// Waits until the peer has taken what it was sent.
    async fn drain(&mut self) -> io::Result<()> {
        self.buffers = Buffers::default();
        let deadline = Instant::now() + LINGER;
        while has_unacknowledged(&self.socket) {
            let next = Instant::now() + STALLED_GRACE;
            if next > deadline || state(|state| state.queue.slots.should_close(self.client.slot)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poll_fn(|cx| match self.client.mark_stalled(&mut self.buffers, cx) {
                true => Poll::Ready(()),
                false => self.timer.poll(next, cx),
            })
            .await;
        }
        Ok(())
    }

    /// Ends the exchange so that the last answer arrives: says that nothing more will come, and reads away what is
    /// still coming.
    async fn linger(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await?;
        let deadline = Instant::now() + LINGER;
        loop {
            let unread = self.buffers.received().len();
            self.buffers.consume(unread);
            if self.receive(deadline, false).await? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
