//! One client: its thread, its socket and its place among the connections.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::super::queue::Waiter;
use super::super::slots::{Eviction, STALLED_GRACE};
use super::super::{
    LINGER, deadline_after, has_stalled, has_unacknowledged, log_requests, micros, remaining, reset_on_close, unix_time,
};
use super::{CHUNK, ClientHandle, Server};
use crate::buffers::Buffers;
use crate::connection::{HttpConnection, Need, WorkerContext};
use crate::counter::{Command, StoreError};

/// One connection, as the server knows it. It gives up its seat when it is dropped.
pub(super) struct Client {
    server: &'static Server,
    slot: usize,
}

impl Client {
    pub(super) fn new(server: &'static Server) -> Self {
        let slot = server.state().queue.slots.allocate();
        Self { server, slot }
    }

    /// Asks the store and waits for its answer; meanwhile the client's memory is lent out.
    fn request_total(&self, mut command: Command, buffers: &mut Buffers) -> Result<i64, StoreError> {
        let deadline = deadline_after(self.server.limits.store);
        let mut state = self.server.state();
        state.queue.slots.mark_active(self.slot);
        buffers.release(&mut state.pool);
        // Only this depends on what is known of the store.
        if command == Command::Ping {
            command = state.health.readiness(0);
        }
        let main = &self.server.context.counters.main;
        if state.queue.push(&command, main, Waiter { slot: self.slot, deadline }) {
            state.notify_store(self.server);
            self.server.send(state);
            state = self.server.state();
        }
        loop {
            if let Some(total) = state.queue.slots.take_answer(self.slot) {
                buffers.acquire(&mut state.pool);
                return total;
            }
            drop(state);
            thread::park();
            state = self.server.state();
        }
    }

    /// Leaves the buffers of a client that waits for its peer with the server. Whoever evicts it shuts the socket down.
    fn mark_stalled(&self, buffers: &mut Buffers) -> io::Result<()> {
        let mut state = self.server.state();
        buffers.release(&mut state.pool);
        check_not_evicted(state.queue.slots.mark_stalled(
            self.slot,
            Instant::now(),
            buffers,
            self.server.share,
            ClientHandle::shut_down,
        ))
    }

    /// Takes the buffers back.
    fn resume(&self, buffers: &mut Buffers) -> io::Result<()> {
        check_not_evicted(self.server.state().queue.slots.resume(self.slot, buffers))
    }

    /// Whether the seat is needed for another client.
    fn must_close(&self) -> bool {
        self.server.state().queue.slots.should_close(self.slot)
    }

    /// Notes that the client waits for its peer no longer, or for something else from now on.
    fn mark_active(&self) {
        self.server.state().queue.slots.mark_active(self.slot);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.queue.slots.free(self.slot);
        state.metrics.open.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        self.server.changed.notify_all();
    }
}

/// An evicted client's connection ends.
fn check_not_evicted(eviction: Eviction) -> io::Result<()> {
    match eviction {
        Eviction::Now => Err(ErrorKind::ConnectionAborted.into()),
        _ => Ok(()),
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
pub(super) fn serve(client: Client, socket: Arc<TcpStream>) {
    if socket.set_nodelay(true).is_ok() {
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
}

/// A client and its socket.
struct ClientConnection {
    client: Client,
    socket: Arc<TcpStream>,
    buffers: Buffers,
    context: WorkerContext,
    /// How long the socket waits for bytes, as it was last told.
    read_timeout: Option<Duration>,
}

/// Why a wait has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    TimedOut,
}

impl ClientConnection {
    fn serve(&mut self) -> io::Result<()> {
        let limits = self.client.server.limits;
        let mut connection = HttpConnection::default();
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut current_request, mut deadline) = (0, deadline_after(limits.request));
        let (mut idle, mut served) = (limits.request, false);
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
                    if self.receive(idle, true)? != Wake::Ready {
                        return Ok(());
                    }
                    (idle, served) = (limits.idle, true);
                }
                Need::Bytes(request) => {
                    if request != current_request {
                        (current_request, deadline) = (request, deadline_after(limits.request));
                        self.client.mark_active();
                    }
                    self.send()?;
                    if self.receive(remaining(deadline), false)? != Wake::Ready {
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
                Need::Close => {
                    self.send()?;
                    return self.linger();
                }
            }
        }
    }

    /// Learns the time, and what has become of the server.
    fn tick(&mut self) {
        let server = &self.client.server;
        self.context.set_time(unix_time());
        self.context.draining = server.draining.load(Ordering::Relaxed);
        self.context.closing = server.closing.load(Ordering::Relaxed);
        if server.context.records_requests {
            self.context.micros = micros();
        }
    }

    /// Sends all that is unsent.
    fn send(&mut self) -> io::Result<()> {
        let mut deadline = None;
        while !self.buffers.pending().is_empty() {
            match send(self.socket.as_raw_fd(), self.buffers.pending(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            {
                Ok(length) => self.buffers.mark_sent(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let limit = self.client.server.limits.write;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.mark_active();
                        deadline_after(limit)
                    });
                    self.wait_for_room(remaining(deadline))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if deadline.is_some() {
            self.client.mark_active();
        }
        Ok(())
    }

    /// Waits until the peer has taken some of what was sent.
    fn wait_for_room(&mut self, patience: Duration) -> io::Result<()> {
        // Whole milliseconds, and never less than is left.
        let millis = PollTimeout::try_from(patience.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        self.client.mark_stalled(&mut self.buffers)?;
        let ready = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], millis);
        self.client.resume(&mut self.buffers)?;
        match ready {
            Ok(0) if patience == Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for bytes and takes them. The memory of a connection that waits is lent out, or left with the server if
    /// something is in it.
    fn receive(&mut self, patience: Duration, is_idle: bool) -> io::Result<Wake> {
        self.set_read_timeout(patience)?;
        let mut chunk = [0; CHUNK];
        let room = CHUNK.min(crate::buffers::MAX_RECEIVED - self.buffers.received().len());
        if is_idle {
            self.buffers.release(&mut self.client.server.state().pool);
        } else {
            self.client.mark_stalled(&mut self.buffers)?;
        }
        // A process that was stopped and goes on finds its wait interrupted, because that has a limit (signal(7)).
        let read = loop {
            match (&*self.socket).read(&mut chunk[..room]) {
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

    /// Nothing is under way. If the server closes, or somebody else needs the seat, only what has come already is read.
    fn mark_idle(&self, served: bool) {
        let mut state = self.client.server.state();
        state.queue.slots.mark_idle(self.client.slot, Instant::now(), served);
        if self.client.server.closing.load(Ordering::Relaxed) || state.queue.slots.should_close(self.client.slot) {
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Has the socket wait so long for bytes and no longer.
    fn set_read_timeout(&mut self, patience: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let patience = Some(patience.max(Duration::from_millis(1)));
        if self.read_timeout != patience {
            self.socket.set_read_timeout(patience)?;
            self.read_timeout = patience;
        }
        Ok(())
    }

    /// Closes the connection when the peer has taken what it was sent. If that takes too long, or the seat is needed,
    /// it is reset: what the kernel keeps for connections that are closed has no other bound.
    fn close(&mut self, end: io::Result<()>) {
        let stalled = end.is_err_and(|error| has_stalled(&error));
        if stalled || self.drain().is_err() {
            reset_on_close(&self.socket);
        }
    }

    /// Waits until the peer has taken what it was sent.
    fn drain(&mut self) -> io::Result<()> {
        self.buffers = Buffers::default();
        let deadline = deadline_after(LINGER);
        while has_unacknowledged(&self.socket) {
            if remaining(deadline) == Duration::ZERO || self.client.must_close() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.client.mark_stalled(&mut self.buffers)?;
            thread::sleep(STALLED_GRACE);
        }
        Ok(())
    }

    /// Ends the exchange so that the last answer arrives: says that nothing more will come, and reads away what is
    /// still coming.
    fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let deadline = deadline_after(LINGER);
        loop {
            let unread = self.buffers.received().len();
            self.buffers.consume(unread);
            let left = remaining(deadline);
            if left == Duration::ZERO || self.receive(left, false)? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
