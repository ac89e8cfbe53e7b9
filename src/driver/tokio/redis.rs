//! The count in Redis: one connection after the other, one batch after the other.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::super::{Backoff, CLOSED, Status, spawn};
use super::timer::Alarm;
use super::{Inbox, STACK, Worker, lock, read, state};
use crate::batch::Batch;
use crate::counter::Fault;
use crate::machine;
use crate::redis::{Fate, Login, Sender, Session};
use crate::wire::Wire;

/// The count in Redis: one connection after the other, one batch after the other.
pub(super) async fn redis(worker: &'static Worker, login: &'static Login) {
    let patience = worker.server.limits.store;
    let sender = Sender { id: machine::random(), patience };
    let mut backoff = Backoff::default();
    let mut away = Instant::now();
    loop {
        let status = match connect(login, patience).await {
            Ok(socket) => {
                let mut link = Link::open(worker, socket, login, sender);
                let status = poll_fn(|cx| link.poll(cx)).await;
                if link.proven {
                    (backoff, away) = (Backoff::default(), Instant::now());
                }
                link.close();
                status
            }
            Err(status) => status,
        };
        worker.note(status);
        if !status.passes() || away.elapsed() >= patience {
            worker.give_up(status.fault());
        }
        sleep(backoff.pause()).await;
    }
}

/// Connects on a thread of its own, because looking a name up and connecting may block.
async fn connect(login: &'static Login, patience: Duration) -> Result<TcpStream, Status> {
    let inbox = Arc::new(Inbox::new());
    let own = inbox.clone();
    let work = move || own.put(super::super::connect(login, patience));
    spawn("connect", STACK, Box::new(work)).map_err(|_| Status::Away("the system refuses a thread to connect on"))?;
    let socket = inbox.take().await?;
    socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)).map_err(|_| CLOSED)
}

/// One connection to Redis, from the greeting to the first thing that goes wrong.
struct Link {
    worker: &'static Worker,
    socket: TcpStream,
    wire: Wire,
    session: Session<usize>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<usize>,
    /// Since when the batch under way, or the greeting, has been waited for.
    since: Instant,
    /// Since when the session is free, or was before that batch: it was sent at the later of the two.
    free: Instant,
    alarm: Alarm,
    /// Redis has greeted us.
    proven: bool,
}

impl Link {
    fn open(worker: &'static Worker, socket: TcpStream, login: &Login, sender: Sender) -> Self {
        let mut wire = Wire::default();
        let session = Session::open(login, sender, &mut wire);
        let since = Instant::now();
        let (batch, alarm) = (Batch::default(), Alarm::new(since));
        Self { worker, socket, wire, session, batch, since, free: since, alarm, proven: false }
    }

    /// Carries batches until something goes wrong, and says what.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(status) => Poll::Ready(status),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while self.receive(cx)? {
            if let Some(batch) = self.session.settle(&mut self.wire).map_err(Status::of)? {
                self.free = self.worker.settled(batch, self.since.max(self.free));
                self.worker.tell(batch, Fault::Lost);
            }
        }
        if self.session.is_free() {
            self.submit(cx);
        }
        self.send(cx)?;
        let deadline = self.since + self.worker.server.limits.store;
        if !self.session.is_free() && self.alarm.poll(deadline, cx).is_ready() {
            return Err(Status::Away("it does not answer in time"));
        }
        Ok(())
    }

    /// Sends off what has gathered, or waits for it.
    fn submit(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.proven, true) {
            self.free = Instant::now();
            lock(&self.worker.server.health).greeted(self.worker.index);
        }
        if !self.session.keeps_receipts() {
            lock(&self.worker.server.health).without_receipts();
            self.worker.give_up_doubtful();
        }
        match self.worker.take(&mut self.batch) {
            Some(since) => {
                self.since = since;
                self.session.submit(&mut self.batch, &mut self.wire);
            }
            None => state(|state| state.carrier = Some(cx.waker().clone())),
        }
    }

    /// Whether bytes have come.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        match read(&mut self.socket, &mut self.wire, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => Ok(true),
            Poll::Ready(_) => Err(CLOSED),
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while !self.wire.unsent().is_empty() && self.socket.poll_write_ready(cx).is_ready() {
            match self.socket.try_write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(CLOSED),
            }
        }
        Ok(())
    }

    /// What may be sent, or sent again, waits for the next connection.
    fn close(self) {
        let mut owed = self.session.into_owed(&self.wire);
        match owed.fate {
            Fate::Unsent => self.worker.put_back(&mut owed.batch, self.since),
            Fate::Repeatable => self.worker.doubt(owed.batch, self.since),
            Fate::Over => self.worker.tell(&mut owed.batch, Fault::Lost),
        }
    }
}
