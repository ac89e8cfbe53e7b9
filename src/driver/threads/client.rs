//! One client: its thread, its socket and its slot among the connections.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::super::deadline::Timer;
use super::super::queue::Waiter;
use super::super::slots::{Evicted, Eviction, STALLED_GRACE, Slots};
use super::super::{has_stalled, has_unacknowledged, log_requests, micros_since_start, reset_on_close, unix_time};
use super::{CHUNK, ClientHandle, Server, State};
use crate::buffers::Buffers;
use crate::connection::{HttpConnection, Need, WorkerContext};
use crate::counter::{Command, Key, StoreError};

/// The slot of one connection, until it is dropped.
pub(super) struct Client {
    server: &'static Server,
    slot: usize,
}

impl Client {
    pub(super) fn new(server: &'static Server) -> Self {
        let slot = server.state().queue.slots.allocate();
        Self { server, slot }
    }

    /// Adds a command to the batch, and waits for the store's reply. Meanwhile, the client's buffers are in the pool.
    fn request_total(&self, mut command: Command, buffers: &mut Buffers) -> Result<i64, StoreError> {
        let deadline = Timer::Visit.start(&self.server.limits).at;
        let mut state = self.server.state();
        buffers.release(&mut state.pool);
        // Only the command of `/readyz` depends on the store's health.
        if command == Command::Ping {
            command = state.health.readiness(0);
        }
        let main = &self.server.context.counters.main;
        let is_first = state.queue.push(&command, main, Waiter { slot: self.slot, deadline });
        self.wait_for(state, is_first, buffers, |slots| slots.take_result(self.slot))
    }

    /// Reads the totals of several counters at once. Meanwhile, the client's buffers are in the pool.
    fn request_totals(&self, keys: &[Key], buffers: &mut Buffers) -> Result<Vec<i64>, StoreError> {
        let Server { context, limits, share, .. } = self.server;
        let waiter = Waiter { slot: self.slot, deadline: Timer::Visit.start(limits).at };
        let mut state = self.server.state();
        let main = &context.counters.main;
        let (group, is_first) = state.queue.push_reads(keys, main, waiter, *share, ClientHandle::shut_down)?;
        buffers.release(&mut state.pool);
        self.wait_for(state, is_first, buffers, |slots| slots.take_group(&group, self.slot))
    }

    /// Sends the batch if a command in it `is_first`, then waits until `take` returns the results of the store.
    fn wait_for<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        is_first: bool,
        buffers: &mut Buffers,
        take: impl Fn(&mut Slots<ClientHandle>) -> Option<T>,
    ) -> T {
        if is_first {
            state.notify_store(self.server);
            self.server.send(state);
            state = self.server.state();
        }
        loop {
            if let Some(result) = take(&mut state.queue.slots) {
                buffers.acquire(&mut state.pool);
                return result;
            }
            drop(state);
            thread::park();
            state = self.server.state();
        }
    }

    /// Returns whether an idle client has to close its connection.
    fn must_close(&self) -> bool {
        self.server.state().queue.slots.should_close(self.slot)
    }

    /// Marks the client as stalled, and leaves its buffers with the server. Returns an error if the client was evicted.
    /// Evicting it later shuts its socket down.
    fn mark_stalled(&self, buffers: &mut Buffers) -> Result<(), Evicted> {
        let mut state = self.server.state();
        buffers.release(&mut state.pool);
        let (now, share) = (Instant::now(), self.server.share);
        state.queue.slots.mark_stalled(self.slot, now, buffers, share, ClientHandle::shut_down)
    }

    /// Takes the buffers back. Returns an error if the client was evicted.
    fn resume(&self, buffers: &mut Buffers) -> Result<(), Evicted> {
        self.server.state().queue.slots.resume(self.slot, buffers)
    }

    /// Marks the client as active: it no longer waits for its peer, or waits for something else from now on.
    fn mark_active(&self) {
        self.server.state().queue.slots.mark_active(self.slot);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.server.state();
        if let Some(eviction) = state.queue.slots.free(self.slot) {
            state.metrics.worker(0).record_eviction(eviction == Eviction::Stalled);
        }
        state.metrics.open_connections.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        self.server.changed.notify_all();
    }
}

/// Serves one connection until it ends. The reason is not logged: a client may leave at any time.
pub(super) fn serve(client: Client, socket: Arc<TcpStream>) {
    let handle = ClientHandle { thread: thread::current(), socket: socket.clone() };
    *client.server.state().queue.slots.waker(client.slot) = Some(handle);
    let mut connection = ClientConnection {
        client,
        socket,
        buffers: Buffers::default(),
        context: WorkerContext::default(),
        read_timeout: None,
    };
    let end = connection.serve();
    connection.close(end);
}

/// A client, its socket and its buffers.
struct ClientConnection {
    client: Client,
    socket: Arc<TcpStream>,
    buffers: Buffers,
    context: WorkerContext,
    /// The read timeout of the socket, as set last.
    read_timeout: Option<Duration>,
}

/// Why a wait for bytes has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    TimedOut,
}

impl ClientConnection {
    fn serve(&mut self) -> io::Result<()> {
        let limits = self.client.server.limits;
        let mut connection = HttpConnection::default();
        // The number of the current request, and the deadline of its last byte.
        let (mut current_request, mut deadline) = (0, Timer::Request.start(&limits));
        let mut served = false;
        loop {
            self.tick();
            let need = connection.advance(self.client.server.context, &mut self.context, &mut self.buffers);
            if !self.context.records.is_empty() {
                log_requests(&mut self.context.records);
            }
            match need {
                Need::Request => {
                    self.send()?;
                    self.mark_idle(served);
                    let timer = if served { Timer::Idle } else { Timer::FirstRequest };
                    if self.receive(timer, timer.duration(&limits))? != Wake::Ready {
                        return Ok(());
                    }
                    served = true;
                }
                Need::Bytes(request) => {
                    if request != current_request {
                        (current_request, deadline) = (request, Timer::Request.start(&limits));
                        self.client.mark_active();
                    }
                    self.send()?;
                    if self.receive(deadline.timer, deadline.remaining())? != Wake::Ready {
                        self.tick();
                        connection.time_out(self.client.server.context, &mut self.context, &mut self.buffers);
                    }
                }
                Need::Room => self.send()?,
                Need::Store => {
                    self.send()?;
                    let total = self.client.request_total(connection.command(), &mut self.buffers);
                    self.tick();
                    connection.complete(total, self.client.server.context, &mut self.context, &mut self.buffers);
                }
                Need::Totals => {
                    self.send()?;
                    let totals = self.client.request_totals(connection.counters(), &mut self.buffers);
                    self.tick();
                    connection.complete_totals(
                        totals,
                        self.client.server.context,
                        &mut self.context,
                        &mut self.buffers,
                    );
                }
                Need::Close => {
                    self.send()?;
                    return self.linger();
                }
            }
        }
    }

    /// Reads the time, and whether the server is draining or closing.
    fn tick(&mut self) {
        let server = &self.client.server;
        self.context.set_time(unix_time());
        self.context.draining = server.draining.load(Ordering::Relaxed);
        self.context.closing = server.closing.load(Ordering::Relaxed);
        if server.context.records_requests {
            self.context.micros = micros_since_start();
        }
    }

    /// Sends all pending bytes.
    fn send(&mut self) -> io::Result<()> {
        let mut deadline = None;
        while !self.buffers.pending().is_empty() {
            match send(self.socket.as_raw_fd(), self.buffers.pending(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            {
                Ok(length) => self.buffers.mark_sent(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let limits = &self.client.server.limits;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.mark_active();
                        Timer::Write.start(limits)
                    });
                    self.wait_for_room(deadline.remaining())?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if deadline.is_some() {
            self.client.mark_active();
        }
        Ok(())
    }

    /// Waits until the socket has space for more bytes, for `timeout` at most.
    fn wait_for_room(&mut self, timeout: Duration) -> io::Result<()> {
        // Rounded up to whole milliseconds.
        let millis = PollTimeout::try_from(timeout.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        self.client.mark_stalled(&mut self.buffers)?;
        let ready = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], millis);
        self.client.resume(&mut self.buffers)?;
        match ready {
            Ok(0) if timeout == Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for bytes and reads them. While the connection waits, its buffers are in the pool, or left with the server
    /// if they hold bytes. `timeout` is what remains of the `timer`.
    fn receive(&mut self, timer: Timer, timeout: Duration) -> io::Result<Wake> {
        let is_idle = timer.is_between_requests();
        self.set_read_timeout(timeout)?;
        let mut chunk = [0; CHUNK];
        let capacity = CHUNK.min(self.buffers.space());
        if is_idle {
            self.buffers.release(&mut self.client.server.state().pool);
        } else {
            self.client.mark_stalled(&mut self.buffers)?;
        }
        // A read with a timeout is interrupted when the process is stopped and continued (signal(7)).
        let read = loop {
            match (&*self.socket).read(&mut chunk[..capacity]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if !is_idle {
            self.client.resume(&mut self.buffers)?;
        }
        let mut state = self.client.server.state();
        if is_idle {
            state.queue.slots.mark_active(self.client.slot);
        }
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.buffers.acquire(&mut state.pool);
                self.buffers.receive(&chunk[..length]);
                Ok(Wake::Ready)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Wake::TimedOut),
            Err(error) => Err(error),
        }
    }

    /// Marks the client as idle. If the server closes, or the slot is needed, only bytes that have already arrived are
    /// read.
    fn mark_idle(&self, served: bool) {
        let mut state = self.client.server.state();
        state.queue.slots.mark_idle(self.client.slot, Instant::now(), served);
        if self.client.server.closing.load(Ordering::Relaxed) || state.queue.slots.should_close(self.client.slot) {
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Sets the socket's read timeout, if it differs from the one set last.
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        // Zero is not a valid timeout.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        if self.read_timeout != timeout {
            self.socket.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        Ok(())
    }

    /// Closes the connection once the peer has acknowledged all bytes. Resets it if that takes too long or the slot is
    /// needed, since the kernel's memory for closed connections has no other bound.
    fn close(&mut self, end: io::Result<()>) {
        let stalled = end.is_err_and(|error| has_stalled(&error));
        if stalled || self.wait_for_acknowledgement().is_err() {
            reset_on_close(&self.socket);
        }
    }

    /// Waits until the peer has acknowledged all bytes.
    fn wait_for_acknowledgement(&mut self) -> io::Result<()> {
        self.buffers = Buffers::default();
        let deadline = Timer::Acknowledgement.start(&self.client.server.limits);
        while has_unacknowledged(&self.socket, self.client.server.is_unix) {
            if deadline.has_passed() || self.client.must_close() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.client.mark_stalled(&mut self.buffers)?;
            thread::sleep(STALLED_GRACE);
        }
        Ok(())
    }

    /// Shuts down sending, and discards received bytes for [`Timer::Linger`], so that the last response arrives.
    fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let deadline = Timer::Linger.start(&self.client.server.limits);
        loop {
            let received = self.buffers.received().len();
            self.buffers.consume(received);
            let timeout = deadline.remaining();
            if timeout == Duration::ZERO || self.receive(deadline.timer, timeout)? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
