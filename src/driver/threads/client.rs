//! One client: its thread, its socket and its place among the connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::super::queue::Waiter;
use super::super::{LINGER, after, left, log_requests, micros, unix_time};
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
    fn ask(&self, ask: Ask, wire: &mut Wire) -> Result<i64, Fault> {
        let deadline = after(self.server.limits.store);
        let mut state = self.server.state();
        wire.give_back(&mut state.spares);
        // Only this depends on what is known of the store.
        let ask = if ask == Ask::Ping { state.health.readiness(0) } else { ask };
        if state.queue.ask(ask, Waiter { seat: self.seat, deadline }) {
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

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
pub(super) fn serve(client: Client, socket: Arc<TcpStream>) {
    let bounded = socket.set_nodelay(true).and_then(|()| socket.set_write_timeout(Some(client.server.limits.send)));
    if bounded.is_ok() {
        let chair = Chair { thread: thread::current(), socket: socket.clone() };
        *client.server.state().queue.seats.waker(client.seat) = Some(chair);
        let mut talk = Talk { client, socket, wire: Wire::default(), now: Now::default(), patience: None };
        let _ = talk.serve();
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
                    if self.receive(idle)? != Wake::Ready {
                        return Ok(());
                    }
                    (idle, served) = (limits.idle, true);
                }
                Want::Bytes(request) => {
                    if request != begun {
                        (begun, deadline) = (request, after(limits.header));
                    }
                    self.send()?;
                    if self.receive(left(deadline))? != Wake::Ready {
                        self.tick();
                        exchange.time_out(self.client.server.site, &mut self.now, &mut self.wire);
                    }
                }
                Want::Room => self.send()?,
                Want::Total(ask) => {
                    self.send()?;
                    let total = self.client.ask(ask, &mut self.wire);
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
        let limit = self.client.server.limits.send;
        let deadline = after(limit);
        let mut patience = limit;
        while !self.wire.unsent().is_empty() {
            match (&*self.socket).write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !self.wire.unsent().is_empty() {
                patience = left(deadline);
                if patience == Duration::ZERO {
                    return Err(ErrorKind::TimedOut.into());
                }
                self.socket.set_write_timeout(Some(patience))?;
            }
        }
        if patience < limit {
            self.socket.set_write_timeout(Some(limit))?;
        }
        Ok(())
    }

    /// Waits for bytes and takes them. Nobody else needs the memory of a connection that waits, so it is lent out.
    fn receive(&mut self, patience: Duration) -> io::Result<Wake> {
        self.wire.give_back(&mut self.client.server.state().spares);
        self.be_patient(patience)?;
        let mut chunk = [0; CHUNK];
        let room = CHUNK.min(crate::wire::MAX_UNREAD - self.wire.unread().len());
        // A process that was stopped and goes on finds its wait interrupted, because that has a limit (signal(7)).
        let read = loop {
            match (&*self.socket).read(&mut chunk[..room]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let mut state = self.client.server.state();
        state.queue.seats.rise(self.client.seat);
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

    /// Closes so that the last answer arrives: says that nothing more will come, and reads away what is still coming.
    fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let deadline = after(LINGER);
        loop {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            let left = left(deadline);
            if left == Duration::ZERO || self.receive(left)? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
