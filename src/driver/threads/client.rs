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
use super::super::seats::{BRIEF, Fate};
use super::super::{LINGER, after, has_untaken, is_given_up, left, log_requests, micros, reset, unix_time};
use super::{CHUNK, Chair, Server};
use crate::counter::{Ask, Fault};
use crate::exchange::{Exchange, Now, Want};
use crate::wire::Wire;

/// One connection, as the server knows it. It gives up its seat when it is dropped.
pub(super) struct Client {
    server: &'static Server,
    seat: usize,
}

impl Client {
    pub(super) fn new(server: &'static Server) -> Self {
        let seat = server.state().queue.seats.enter();
        Self { server, seat }
    }

    /// Asks the store and waits for its answer; meanwhile the client's memory is lent out.
    fn ask(&self, mut ask: Ask, wire: &mut Wire) -> Result<i64, Fault> {
        let deadline = after(self.server.limits.store);
        let mut state = self.server.state();
        state.queue.seats.rise(self.seat);
        wire.give_back(&mut state.spares);
        // Only this depends on what is known of the store.
        if ask == Ask::Ping {
            ask = state.health.readiness(0);
        }
        let main = &self.server.site.counters.main;
        if state.queue.ask(&ask, main, Waiter { seat: self.seat, deadline }) {
            state.has_gathered(self.server);
            self.server.send(state);
            state = self.server.state();
        }
        loop {
            if let Some(total) = state.queue.seats.answer(self.seat) {
                wire.borrow(&mut state.spares);
                return total;
            }
            drop(state);
            thread::park();
            state = self.server.state();
        }
    }

    /// Leaves the buffers of a client that waits for its peer with the server. Whoever evicts it shuts the socket down.
    fn hold(&self, wire: &mut Wire) -> io::Result<()> {
        let mut state = self.server.state();
        wire.give_back(&mut state.spares);
        goes_on(state.queue.seats.hold(self.seat, Instant::now(), wire, self.server.share, Chair::hurry))
    }

    /// Takes the buffers back.
    fn resume(&self, wire: &mut Wire) -> io::Result<()> {
        goes_on(self.server.state().queue.seats.resume(self.seat, wire))
    }

    /// Whether the seat is needed for another client.
    fn must_go(&self) -> bool {
        self.server.state().queue.seats.yields(self.seat)
    }

    /// Notes that the client waits for its peer no longer, or for something else from now on.
    fn rise(&self) {
        self.server.state().queue.seats.rise(self.seat);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.queue.seats.leave(self.seat);
        state.metrics.open.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        self.server.left.notify_all();
    }
}

/// An evicted client's connection ends.
fn goes_on(fate: Fate) -> io::Result<()> {
    match fate {
        Fate::Evicted => Err(ErrorKind::ConnectionAborted.into()),
        _ => Ok(()),
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
pub(super) fn serve(client: Client, socket: Arc<TcpStream>) {
    if socket.set_nodelay(true).is_ok() {
        let chair = Chair { thread: thread::current(), socket: socket.clone() };
        *client.server.state().queue.seats.waker(client.seat) = Some(chair);
        let mut talk = Talk { client, socket, wire: Wire::default(), now: Now::default(), patience: None };
        let end = talk.serve();
        talk.close(end);
    }
}

/// A client and its socket.
struct Talk {
    client: Client,
    socket: Arc<TcpStream>,
    wire: Wire,
    now: Now,
    /// How long the socket waits for bytes, as it was last told.
    patience: Option<Duration>,
}

/// Why a wait has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    Late,
}

impl Talk {
    fn serve(&mut self) -> io::Result<()> {
        let limits = self.client.server.limits;
        let mut exchange = Exchange::default();
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut begun, mut deadline) = (0, after(limits.header));
        let (mut idle, mut served) = (limits.header, false);
        loop {
            self.tick();
            let want = exchange.next(self.client.server.site, &mut self.now, &mut self.wire);
            if !self.now.records.is_empty() {
                log_requests(&mut self.now.records);
            }
            match want {
                Want::Request => {
                    self.send()?;
                    self.rest(served);
                    if self.receive(idle, true)? != Wake::Ready {
                        return Ok(());
                    }
                    (idle, served) = (limits.idle, true);
                }
                Want::Bytes(request) => {
                    if request != begun {
                        (begun, deadline) = (request, after(limits.header));
                        self.client.rise();
                    }
                    self.send()?;
                    if self.receive(left(deadline), false)? != Wake::Ready {
                        self.tick();
                        exchange.time_out(self.client.server.site, &mut self.now, &mut self.wire);
                    }
                }
                Want::Room => self.send()?,
                Want::Total => {
                    self.send()?;
                    let total = self.client.ask(exchange.ask(), &mut self.wire);
                    self.tick();
                    exchange.answer(total, self.client.server.site, &mut self.now, &mut self.wire);
                }
                Want::Close => {
                    self.send()?;
                    return self.linger();
                }
            }
        }
    }

    /// Learns the time, and what has become of the server.
    fn tick(&mut self) {
        let server = &self.client.server;
        self.now.set(unix_time());
        self.now.leaving = server.leaving.load(Ordering::Relaxed);
        self.now.closing = server.closing.load(Ordering::Relaxed);
        if server.site.records_requests {
            self.now.micros = micros();
        }
    }

    /// Sends all that is unsent.
    fn send(&mut self) -> io::Result<()> {
        let mut deadline = None;
        while !self.wire.unsent().is_empty() {
            match send(self.socket.as_raw_fd(), self.wire.unsent(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => self.wire.sent(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let limit = self.client.server.limits.send;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.rise();
                        after(limit)
                    });
                    self.wait_for_room(left(deadline))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if deadline.is_some() {
            self.client.rise();
        }
        Ok(())
    }

    /// Waits until the peer has taken some of what was sent.
    fn wait_for_room(&mut self, patience: Duration) -> io::Result<()> {
        // Whole milliseconds, and never less than is left.
        let millis = PollTimeout::try_from(patience.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        self.client.hold(&mut self.wire)?;
        let ready = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], millis);
        self.client.resume(&mut self.wire)?;
        match ready {
            Ok(0) if patience == Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for bytes and takes them. The memory of a connection that waits is lent out, or left with the server if
    /// something is in it.
    fn receive(&mut self, patience: Duration, resting: bool) -> io::Result<Wake> {
        self.be_patient(patience)?;
        let mut chunk = [0; CHUNK];
        let room = CHUNK.min(crate::wire::MAX_UNREAD - self.wire.unread().len());
        if resting {
            self.wire.give_back(&mut self.client.server.state().spares);
        } else {
            self.client.hold(&mut self.wire)?;
        }
        // A process that was stopped and goes on finds its wait interrupted, because that has a limit (signal(7)).
        let read = loop {
            match (&*self.socket).read(&mut chunk[..room]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if !resting {
            self.client.resume(&mut self.wire)?;
        }
        let mut state = self.client.server.state();
        if resting {
            state.queue.seats.rise(self.client.seat);
        }
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.wire.borrow(&mut state.spares);
                self.wire.take_in(&chunk[..length]);
                Ok(Wake::Ready)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Wake::Late),
            Err(error) => Err(error),
        }
    }

    /// Nothing is under way. If the server closes, or somebody else needs the seat, only what has come already is read.
    fn rest(&self, served: bool) {
        let mut state = self.client.server.state();
        state.queue.seats.rest(self.client.seat, Instant::now(), served);
        if self.client.server.closing.load(Ordering::Relaxed) || state.queue.seats.yields(self.client.seat) {
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Has the socket wait so long for bytes and no longer.
    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let patience = Some(patience.max(Duration::from_millis(1)));
        if self.patience != patience {
            self.socket.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Closes the connection when the peer has taken what it was sent. If that takes too long, or the seat is needed, it is
    /// reset: what the kernel keeps for connections that are closed has no other bound.
    fn close(&mut self, end: io::Result<()>) {
        let given_up = end.is_err_and(|error| is_given_up(&error));
        if given_up || self.drain().is_err() {
            reset(&self.socket);
        }
    }

    /// Waits until the peer has taken what it was sent.
    fn drain(&mut self) -> io::Result<()> {
        self.wire = Wire::default();
        let deadline = after(LINGER);
        while has_untaken(&self.socket) {
            if left(deadline) == Duration::ZERO || self.client.must_go() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.client.hold(&mut self.wire)?;
            thread::sleep(BRIEF);
        }
        Ok(())
    }

    /// Ends the exchange so that the last answer arrives: says that nothing more will come, and reads away what is still coming.
    fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let deadline = after(LINGER);
        loop {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            let left = left(deadline);
            if left == Duration::ZERO || self.receive(left, false)? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
