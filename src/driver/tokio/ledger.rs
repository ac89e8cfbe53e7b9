//! The count in the ledger: the batches of all workers go to one thread, which owns the file.

use std::future::poll_fn;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::Instant;

use super::super::queue::Waiter;
use super::super::{EXIT_GRACE, StoreHealth, remaining, report_disk, spawn, sync_at_end, sync_if_due};
use super::timer::DeadlineTimer;
use super::{STACK, Worker, leak, lock, state};
use crate::batch::Batch;
use crate::counter::{Command, StoreError};
use crate::ledger::Ledger;

/// The count in the ledger: one batch of this worker after the other.
pub(super) async fn ledger(worker: &'static Worker, queue: &'static LedgerQueue) {
    worker.set_health(StoreHealth::Up);
    let mut batch = Batch::default();
    let mut timer = DeadlineTimer::new(Instant::now());
    loop {
        worker.next_batch(&mut batch).await;
        let sent = Instant::now();
        queue.submit(worker.index, batch.pending_commands().copied());
        poll_fn(|cx| {
            if queue.poll(worker.index, &mut batch, cx).is_ready() {
                return Poll::Ready(());
            }
            // A disk that is this slow has the next batch wait, but not these visitors.
            while let Some(deadline) = state(|state| {
                state.register_reply_task(cx);
                state.queue.earliest(&[batch.first_waiter()])
            }) {
                if timer.poll(deadline.into(), cx).is_pending() {
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
        worker.record_batch(&batch, sent);
        worker.complete(&mut batch, StoreError::OutcomeUnknown);
    }
}

/// Where the workers leave their batches for the thread that owns the ledger, since a disk can only be waited for by a
/// thread. It takes the batches of all workers at once.
pub(super) struct LedgerQueue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

struct QueueState {
    workers: Vec<WorkerSlot>,
    closed: bool,
    /// The thread that owns the ledger has synced it for the last time.
    done: bool,
}

/// One worker's side of the queue.
#[derive(Default)]
struct WorkerSlot {
    commands: Vec<Command>,
    results: Vec<Result<i64, StoreError>>,
    waker: Option<Waker>,
}

impl LedgerQueue {
    pub(super) fn open(ledger: Ledger, workers: usize) -> io::Result<&'static Self> {
        let each = (0..workers).map(|_| WorkerSlot::default()).collect();
        let queue = leak(Self {
            state: Mutex::new(QueueState { workers: each, closed: false, done: false }),
            ready: Condvar::new(),
        });
        let thread = LedgerThread { ledger, commands: Vec::new(), results: Vec::new(), owners: Vec::new() };
        spawn("ledger", STACK, Box::new(move || thread.work(queue)))?;
        Ok(queue)
    }

    fn submit(&self, worker: usize, commands: impl Iterator<Item = Command>) {
        lock(&self.state).workers[worker].commands.extend(commands);
        self.ready.notify_one();
    }

    /// Waits for the results of what was submitted, and puts them into the batch.
    fn poll(&self, worker: usize, batch: &mut Batch<Waiter>, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &mut lock(&self.state).workers[worker];
        if slot.results.is_empty() {
            slot.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for result in slot.results.drain(..) {
            batch.record_reply(result);
        }
        Poll::Ready(())
    }

    /// Waits for asks, until `deadline` at most. `false` once the queue is closed.
    fn collect(&self, deadline: Option<StdInstant>, thread: &mut LedgerThread) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return false;
            }
            for (worker, slot) in state.workers.iter_mut().enumerate().filter(|(_, slot)| !slot.commands.is_empty()) {
                thread.owners.push((worker, slot.commands.len()));
                thread.commands.append(&mut slot.commands);
            }
            if !thread.commands.is_empty() {
                return true;
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(StdInstant::now())) {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(left) => self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn distribute(&self, thread: &mut LedgerThread) {
        let mut state = lock(&self.state);
        let mut dealt = thread.results.drain(..);
        for (worker, count) in thread.owners.drain(..) {
            let slot = &mut state.workers[worker];
            slot.results.extend(dealt.by_ref().take(count));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// Waits until what was committed is synced, until `deadline` at most, and says whether it is. What was not is not
    /// answered either.
    pub(super) fn close(&self, deadline: StdInstant) -> bool {
        let mut state = lock(&self.state);
        state.closed = true;
        self.ready.notify_all();
        // Also where clients have taken all the time there was.
        let patience = remaining(deadline).max(EXIT_GRACE / 2);
        let waited = self.ready.wait_timeout_while(state, patience, |state| !state.done);
        waited.unwrap_or_else(PoisonError::into_inner).0.done
    }
}

/// The one who keeps the ledger.
struct LedgerThread {
    ledger: Ledger,
    commands: Vec<Command>,
    results: Vec<Result<i64, StoreError>>,
    /// Whose they are: a worker and how many of its asks.
    owners: Vec<(usize, usize)>,
}

impl LedgerThread {
    fn work(mut self, queue: &LedgerQueue) {
        let (mut sync, mut reported) = (None, None);
        while queue.collect(sync, &mut self) {
            self.ledger.commit(&self.commands, &mut self.results);
            report_disk(&self.ledger, &mut reported);
            self.commands.clear();
            queue.distribute(&mut self);
            sync = sync_if_due(&mut self.ledger, sync);
        }
        sync_at_end(&mut self.ledger);
        lock(&queue.state).done = true;
        queue.ready.notify_all();
    }
}
