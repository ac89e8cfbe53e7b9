//! The count in Redis: one connection after the other, one batch after the other.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::queue::{Attempt, Waiter};
use super::super::reply_timeout::ReplyTimeout;
use super::super::{Backoff, CLOSED, SILENT, Status, has_counted, spawn};
use super::timer::{Alarm, pause};
use super::{Inbox, STACK, Worker, lock, read, state};
use crate::batch::Batch;
use crate::counter::Fault;
use crate::redis::{Fate, Login, Receipts, Sender, Session};
use crate::wire::Wire;

/// The count in Redis: one connection after the other, one batch after the other.
pub(super) async fn redis(worker: &'static Worker, login: &'static Login) {
    let sender = super::super::sender(worker.server.site, worker.server.limits);
    let mut timeout = ReplyTimeout::new(worker.server.limits.store);
    let mut backoff = Backoff::default();
    let mut last_greeted = Instant::now();
    loop {
        let status = match connect(login, worker.server.limits.store).await {
            Ok(socket) => {
                let mut link = Link::open(worker, socket, login, sender, &mut timeout);
                let status = poll_fn(|cx| link.poll(cx)).await;
                if link.greeted {
                    last_greeted = Instant::now();
                }
                if link.served {
                    backoff = Backoff::default();
                }
                link.close();
                status
            }
            Err(status) => status,
        };
        worker.note(status);
        if last_greeted.elapsed() >= worker.server.limits.store {
            state(|state| state.queue.set_away(true));
        }
        if !status.passes() {
            worker.give_up(status.fault());
        }
        pause(backoff.pause()).await;
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
struct Link<'a> {
    worker: &'static Worker,
    socket: TcpStream,
    wire: Wire,
    session: Session<Waiter>,
    /// Empty, but for the moment in which a batch passes through.
    batch: Batch<Waiter>,
    timeout: &'a mut ReplyTimeout,
    /// When the batch under way, or the greeting, was sent on this connection.
    sent: Instant,
    /// When that batch was sent first, on whichever connection.
    first_sent: Instant,
    alarm: Alarm,
    /// Whether batches may be sent again, as it was last noted.
    receipts: Option<Receipts>,
    greeted: bool,
    /// A visit was counted: this connection is worth another like it at once.
    served: bool,
}

impl<'a> Link<'a> {
    fn open(
        worker: &'static Worker,
        socket: TcpStream,
        login: &Login,
        sender: Sender,
        timeout: &'a mut ReplyTimeout,
    ) -> Self {
        let mut wire = Wire::default();
        let session = Session::open(login, &worker.server.site.counters.main, sender, &mut wire);
        let sent = Instant::now();
        let (batch, alarm) = (Batch::default(), Alarm::new(sent));
        Self {
            worker,
            socket,
            wire,
            session,
            batch,
            timeout,
            sent,
            first_sent: sent,
            alarm,
            receipts: None,
            greeted: false,
            served: false,
        }
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
            self.settle()?;
        }
        while self.session.is_free() && self.submit(cx) {
            // What needs no reply is settled without one.
            self.settle()?;
        }
        self.send(cx)?;
        self.keep_time(cx)
    }

    /// Takes what has arrived.
    fn settle(&mut self) -> Result<(), Status> {
        if let Some(batch) = self.session.settle(&mut self.wire).map_err(Status::of)? {
            let now = self.worker.settled(batch, self.sent);
            if batch.counts() {
                self.timeout.record_round_trip(now - self.first_sent);
            }
            let is_first = !self.served && has_counted(batch);
            self.worker.tell(batch, Fault::Lost);
            // Until then, it was not tried whether they can be written.
            if is_first {
                self.served = true;
                lock(&self.worker.server.health).receipts(self.session.receipts());
            }
        }
        Ok(())
    }

    /// Sends off what has gathered, or waits for it, and says whether there was something.
    fn submit(&mut self, cx: &mut Context<'_>) -> bool {
        if !std::mem::replace(&mut self.greeted, true) {
            state(|state| state.queue.set_away(false));
            lock(&self.worker.server.health).greeted(self.worker.index, self.session.total());
        }
        if self.receipts != Some(self.session.receipts()) {
            self.receipts = Some(self.session.receipts());
            if self.receipts != Some(Receipts::Kept) {
                lock(&self.worker.server.health).receipts(self.session.receipts());
            }
        }
        if self.receipts != Some(Receipts::Kept) {
            self.worker.give_up_doubtful();
        }
        let Some(attempt) = self.worker.take(&mut self.batch) else {
            state(|state| state.carrier = Some(cx.waker().clone()));
            return false;
        };
        self.sent = Instant::now();
        self.first_sent = match attempt {
            Attempt::First => self.sent,
            Attempt::Again(first_sent) => first_sent.into(),
        };
        self.session.submit(&mut self.batch, &mut self.wire);
        true
    }

    /// Replaces a connection that is silent, and ends visits that have waited long enough for a reply.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while !self.session.is_free() {
            let silent = self.sent + self.timeout.duration(self.receipts);
            let late = state(|state| {
                state.await_reply(cx);
                state.queue.earliest(&[self.session.first_waiter()])
            });
            let late = late.map(Instant::from_std);
            if self.alarm.poll(late.map_or(silent, |late| late.min(silent)), cx).is_pending() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= silent {
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
            Fate::Unsent => self.worker.put_back(&mut owed.batch),
            Fate::Repeatable => self.worker.doubt(owed.batch, self.first_sent),
            Fate::Over => self.worker.tell(&mut owed.batch, Fault::Lost),
        }
    }
}
