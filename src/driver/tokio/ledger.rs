//! The count in the ledger: the batches of all workers go to one thread, which owns the file.

use std::future::poll_fn;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::Instant;

use super::super::queue::Waiter;
use super::super::{OVERTIME, Status, left, report_disk, spawn, sync_at_end, sync_if_due};
use super::timer::Alarm;
use super::{STACK, Worker, keep, lock, state};
use crate::batch::Batch;
use crate::counter::{Ask, Fault};
use crate::ledger::Ledger;

/// The count in the ledger: one batch of this worker after the other.
pub(super) async fn ledger(worker: &'static Worker, desk: &'static Desk) {
    worker.note(Status::Up);
    let mut batch = Batch::default();
    let mut alarm = Alarm::new(Instant::now());
    loop {
        worker.gathered(&mut batch).await;
        let sent = Instant::now();
        desk.submit(worker.index, batch.asks().copied());
        poll_fn(|cx| {
            if desk.poll(worker.index, &mut batch, cx).is_ready() {
                return Poll::Ready(());
            }
            // A disk that is this slow has the next batch wait, but not these visitors.
            while let Some(deadline) = state(|state| {
                state.await_reply(cx);
                state.queue.earliest(&[batch.first_waiter()])
            }) {
                if alarm.poll(deadline.into(), cx).is_pending() {
                    break;
                }
                state(|state| {
                    state.tick();
                    state.queue.expire_written(&mut batch, Instant::now().into_std(), Waker::wake_by_ref);
                });
            }
            Poll::Pending
        })
        .await;
        worker.settled(&batch, sent);
        worker.tell(&mut batch, Fault::Lost);
    }
}

/// Where the workers leave their batches for the thread that owns the ledger, since a disk can only be waited for by a
/// thread. It takes the batches of all workers at once.
pub(super) struct Desk {
    trays: Mutex<Trays>,
    bell: Condvar,
}

struct Trays {
    each: Vec<Tray>,
    closed: bool,
    /// The thread that owns the ledger has synced it for the last time.
    done: bool,
}

/// One worker's side of the desk.
#[derive(Default)]
struct Tray {
    asks: Vec<Ask>,
    results: Vec<Result<i64, Fault>>,
    waker: Option<Waker>,
}

impl Desk {
    pub(super) fn open(ledger: Ledger, workers: usize) -> io::Result<&'static Self> {
        let each = (0..workers).map(|_| Tray::default()).collect();
        let desk = keep(Self { trays: Mutex::new(Trays { each, closed: false, done: false }), bell: Condvar::new() });
        let clerk = Clerk { ledger, asks: Vec::new(), results: Vec::new(), owners: Vec::new() };
        spawn("ledger", STACK, Box::new(move || clerk.work(desk)))?;
        Ok(desk)
    }

    fn submit(&self, worker: usize, asks: impl Iterator<Item = Ask>) {
        lock(&self.trays).each[worker].asks.extend(asks);
        self.bell.notify_one();
    }

    /// Waits for the results of what was submitted, and puts them into the batch.
    fn poll(&self, worker: usize, batch: &mut Batch<Waiter>, cx: &mut Context<'_>) -> Poll<()> {
        let tray = &mut lock(&self.trays).each[worker];
        if tray.results.is_empty() {
            tray.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for result in tray.results.drain(..) {
            batch.reply(result);
        }
        Poll::Ready(())
    }

    /// Waits for asks, until `deadline` at most. `false` once the desk is closed.
    fn collect(&self, deadline: Option<StdInstant>, clerk: &mut Clerk) -> bool {
        let mut trays = lock(&self.trays);
        loop {
            if trays.closed {
                return false;
            }
            for (worker, tray) in trays.each.iter_mut().enumerate().filter(|(_, tray)| !tray.asks.is_empty()) {
                clerk.owners.push((worker, tray.asks.len()));
                clerk.asks.append(&mut tray.asks);
            }
            if !clerk.asks.is_empty() {
                return true;
            }
            trays = match deadline.map(|deadline| deadline.saturating_duration_since(StdInstant::now())) {
                None => self.bell.wait(trays).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(left) => self.bell.wait_timeout(trays, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn deal(&self, clerk: &mut Clerk) {
        let mut trays = lock(&self.trays);
        let mut dealt = clerk.results.drain(..);
        for (worker, count) in clerk.owners.drain(..) {
            let tray = &mut trays.each[worker];
            tray.results.extend(dealt.by_ref().take(count));
            if let Some(waker) = tray.waker.take() {
                waker.wake();
            }
        }
    }

    /// Waits until what was committed is synced, until `deadline` at most, and says whether it is. What was not is not
    /// answered either.
    pub(super) fn close(&self, deadline: StdInstant) -> bool {
        let mut trays = lock(&self.trays);
        trays.closed = true;
        self.bell.notify_all();
        // Also where clients have taken all the time there was.
        let patience = left(deadline).max(OVERTIME / 2);
        let waited = self.bell.wait_timeout_while(trays, patience, |trays| !trays.done);
        waited.unwrap_or_else(PoisonError::into_inner).0.done
    }
}

/// The one who keeps the ledger.
struct Clerk {
    ledger: Ledger,
    asks: Vec<Ask>,
    results: Vec<Result<i64, Fault>>,
    /// Whose they are: a worker and how many of its asks.
    owners: Vec<(usize, usize)>,
}

impl Clerk {
    fn work(mut self, desk: &Desk) {
        let (mut sync, mut reported) = (None, None);
        while desk.collect(sync, &mut self) {
            self.ledger.commit(&self.asks, &mut self.results);
            report_disk(&self.ledger, &mut reported);
            self.asks.clear();
            desk.deal(&mut self);
            sync = sync_if_due(&mut self.ledger, sync);
        }
        sync_at_end(&mut self.ledger);
        lock(&desk.trays).done = true;
        desk.bell.notify_all();
    }
}
