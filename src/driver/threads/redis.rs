//! The count in Redis: one connection after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::queue::Queue;
use super::super::{Backoff, CLOSED, Status, connect, settled};
use super::{CHUNK, Chair, Server, State};
use crate::batch::Batch;
use crate::counter::Fault;
use crate::machine;
use crate::redis::{Fate, Login, Sender, Session};
use crate::wire::Wire;

impl Server {
    /// The count in Redis: one connection after the other.
    pub(super) fn redis(&self, login: &Login) {
        let patience = self.limits.store;
        let sender = Sender { id: machine::random(), patience };
        let mut backoff = Backoff::default();
        let mut away = Instant::now();
        loop {
            let connected = connect(login, patience)
                .and_then(|socket| socket.set_write_timeout(Some(PROMPT)).map(|()| socket).map_err(|_| CLOSED));
            let status = match connected {
                Ok(socket) => {
                    let (status, proven) = self.converse(login, sender, socket);
                    if proven {
                        (backoff, away) = (Backoff::default(), Instant::now());
                    }
                    status
                }
                Err(status) => status,
            };
            self.note(status);
            if !status.passes() || away.elapsed() >= patience {
                let mut state = self.state();
                state.give_up(status.fault());
                self.release(state);
            }
            thread::sleep(backoff.pause());
        }
    }

    /// Reads replies until something goes wrong; says what, and whether Redis had greeted us.
    fn converse(&self, login: &Login, sender: Sender, socket: TcpStream) -> (Status, bool) {
        let socket = Arc::new(socket);
        let mut chunk = [0; CHUNK];
        let mut state = self.state();
        let link = state.link.insert(Box::new(Link::open(login, sender, socket.clone())));
        let mut result = link.send();
        state.rouse(self);
        while result.is_ok() {
            self.release(state);
            let read = (&*socket).read(&mut chunk);
            state = self.state();
            result = match read {
                Ok(0) => Err(CLOSED),
                Ok(length) => state.receive(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
                Err(_) => Err(CLOSED),
            };
        }
        let Some(link) = state.link.take() else { return (CLOSED, false) };
        let (late, proven) = (link.late, link.proven);
        state.close(link);
        state.rouse(self);
        self.release(state);
        (if late { Status::Away("it does not answer in time") } else { result.err().unwrap_or(CLOSED) }, proven)
    }
}

impl State {
    /// Takes bytes from Redis. The link looks at all that is shared meanwhile, and so is put aside.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let Some(mut link) = self.link.take() else { return Err(CLOSED) };
        let received = link.receive(bytes, self);
        self.link = Some(link);
        received
    }

    /// What may be sent, or sent again, waits for the next connection.
    fn close(&mut self, link: Box<Link>) {
        let mut owed = link.session.into_owed(&link.wire);
        match owed.fate {
            Fate::Unsent => self.queue.put_back(&mut owed.batch, link.since),
            Fate::Repeatable => self.queue.doubt(owed.batch, link.since),
            Fate::Over => self.tell(&mut owed.batch, Fault::Lost),
        }
    }
}

/// One connection to Redis, from the greeting to the first thing that goes wrong.
pub(super) struct Link {
    socket: Arc<TcpStream>,
    wire: Wire,
    session: Session<usize>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<usize>,
    /// Since when the batch under way, or the greeting, has been waited for.
    since: Instant,
    /// Since when the session is free, or was before that batch: it was sent at the later of the two.
    free: Instant,
    /// Redis has greeted us.
    proven: bool,
    /// It was given up.
    late: bool,
}

impl Link {
    fn open(login: &Login, sender: Sender, socket: Arc<TcpStream>) -> Self {
        let mut wire = Wire::default();
        let session = Session::open(login, sender, &mut wire);
        let (batch, since) = (Batch::default(), Instant::now());
        Self { socket, wire, session, batch, since, free: since, proven: false, late: false }
    }

    /// Takes bytes from Redis: has those woken whose batch is answered, and sends off the next.
    fn receive(&mut self, mut bytes: &[u8], state: &mut State) -> Result<(), Status> {
        while !bytes.is_empty() {
            bytes = self.wire.take_in(bytes);
            if let Some(batch) = self.session.settle(&mut self.wire).map_err(Status::of)? {
                self.free = settled(state.metrics.worker(0), batch, self.since.max(self.free));
                state.tell(batch, Fault::Lost);
            }
        }
        if self.session.is_free() && !std::mem::replace(&mut self.proven, true) {
            self.free = Instant::now();
            state.health.greeted(0);
        }
        if self.proven && !self.session.keeps_receipts() {
            state.health.without_receipts();
            state.give_up_doubtful();
        }
        self.submit(&mut state.queue)
    }

    /// Since when something is waited for.
    pub(super) fn since(&self) -> Option<Instant> {
        (!self.late && !self.session.is_free()).then_some(self.since)
    }

    /// Has the thread that reads here find the end.
    pub(super) fn give_up(&mut self) {
        self.late = true;
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends off what has gathered, if nothing is under way.
    pub(super) fn submit(&mut self, queue: &mut Queue<Chair>) -> Result<(), Status> {
        if self.session.is_free()
            && let Some(since) = queue.take(&mut self.batch)
        {
            self.since = since;
            self.session.submit(&mut self.batch, &mut self.wire);
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Status> {
        while !self.wire.unsent().is_empty() {
            match (&*self.socket).write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(CLOSED),
            }
        }
        Ok(())
    }
}

/// How long Redis may take to accept a batch. It is sent under the lock that all share, and seldom fills a segment.
const PROMPT: Duration = Duration::from_millis(100);
