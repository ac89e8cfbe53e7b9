//! Counting in the ledger: one thread owns the file, and writes the batches of all workers.

use std::future::poll_fn;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::super::deadline::Deadline;
use super::super::queue::Waiter;
use super::super::{StoreHealth, report_disk, spawn, sync_at_end, sync_if_due};
use super::timer::DeadlineTimer;
use super::{STACK, Worker, leak, lock, state};
use crate::batch::Batch;
use crate::config::Limits;
use crate::counter::{Command, StoreError};
use crate::ledger::Ledger;

/// Passes the worker's batches to the ledger's thread, one after the other.
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
            // While a slow disk delays the batch, visits whose deadline has passed are completed.
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

/// The queue from the workers to the thread that owns the ledger, since file operations block. The thread takes the
/// batches of all workers at once.
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

/// One worker's commands, its results, and its task's waker.
#[derive(Default)]
struct WorkerSlot {
    commands: Vec<Command>,
    results: Vec<Result<i64, StoreError>>,
    waker: Option<Waker>,
}

impl LedgerQueue {
    pub(super) fn open(ledger: Ledger, workers: usize, limits: &'static Limits) -> io::Result<&'static Self> {
        let each = (0..workers).map(|_| WorkerSlot::default()).collect();
        let queue = leak(Self {
            state: Mutex::new(QueueState { workers: each, closed: false, done: false }),
            ready: Condvar::new(),
        });
        let thread = LedgerThread { ledger, limits, commands: Vec::new(), results: Vec::new(), owners: Vec::new() };
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

    /// Takes the commands of all workers. Waits for them, until `deadline` at most. Returns `false` once the queue is
    /// closed.
    fn collect(&self, deadline: Option<Deadline>, thread: &mut LedgerThread) -> bool {
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
            state = match deadline.map(|deadline| deadline.remaining()) {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(timeout) => self.ready.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Gives each worker its results, and wakes it.
    fn distribute(&self, thread: &mut LedgerThread) {
        let mut state = lock(&self.state);
        let mut results = thread.results.drain(..);
        for (worker, count) in thread.owners.drain(..) {
            let slot = &mut state.workers[worker];
            slot.results.extend(results.by_ref().take(count));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// Closes the queue, and waits until the ledger is synced, for `timeout` at most. Returns whether it is. Visits
    /// that were not synced have got no response.
    pub(super) fn close(&self, timeout: Duration) -> bool {
        let mut state = lock(&self.state);
        state.closed = true;
        self.ready.notify_all();
        let waited = self.ready.wait_timeout_while(state, timeout, |state| !state.done);
        waited.unwrap_or_else(PoisonError::into_inner).0.done
    }
}

/// The thread that owns the ledger.
struct LedgerThread {
    ledger: Ledger,
    limits: &'static Limits,
    commands: Vec<Command>,
    results: Vec<Result<i64, StoreError>>,
    /// The workers of `commands` in order: the index of each, and the number of its commands.
    owners: Vec<(usize, usize)>,
}

impl LedgerThread {
    /// Commits the workers' commands until the queue is closed.
    fn work(mut self, queue: &LedgerQueue) {
        let (mut sync_at, mut reported) = (None, None);
        while queue.collect(sync_at, &mut self) {
            self.ledger.commit(&self.commands, &mut self.results);
            report_disk(&self.ledger, &mut reported);
            self.commands.clear();
            queue.distribute(&mut self);
            sync_at = sync_if_due(&mut self.ledger, sync_at, self.limits);
        }
        sync_at_end(&mut self.ledger);
        lock(&queue.state).done = true;
        queue.ready.notify_all();
    }
}
