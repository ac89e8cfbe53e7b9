//! Timers: deadlines of visits, probes of the store, and the deadline of one task.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::{Instant, Sleep, sleep_until};

use super::super::deadline::Timer;
use super::super::next_probe;
use super::{Worker, lock, state};
use crate::config::Store;

/// Completes the visits whose deadline has passed before they were sent, or sent again, and probes the store.
pub(super) async fn expire_waiters(worker: &'static Worker, store: &'static Store) {
    // This is the first task on its thread.
    state(|state| state.context.index = worker.index);
    let limits = worker.server.limits;
    let mut probe = Timer::Probe.start(limits);
    let (mut timer, mut taken) = (DeadlineTimer::new(probe.at.into()), 0);
    loop {
        let now = poll_fn(|cx| {
            let deadline = state(|state| state.next_deadline(cx));
            let deadline = deadline.map_or(probe.at, |deadline| deadline.min(probe.at));
            timer.poll(deadline.into(), cx).map(|()| StdInstant::now())
        })
        .await;
        worker.expire(now);
        if now >= probe.at {
            let taken_now = state(|state| state.queue.batches_taken());
            let is_refusing = lock(&worker.server.health).is_refusing(worker.index);
            let (command, next) =
                next_probe(is_refusing, taken_now == taken, store, worker.server.context.counters.main);
            // A probe is a batch too.
            taken = taken_now + i64::from(command.is_some());
            if let Some(command) = command {
                worker.probe(&command);
            }
            probe = next.start_at(now, limits);
        }
    }
}

/// A timer of one task that is set only when necessary: a connection's deadline moves with each request, and rarely
/// passes.
pub(super) struct DeadlineTimer {
    sleep: Pin<Box<Sleep>>,
    /// It will wake the task, and need not be polled before.
    is_set: bool,
}

impl DeadlineTimer {
    pub(super) fn new(first: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(first)), is_set: false }
    }

    /// Returns `Ready` once `deadline` has passed.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.reset(deadline);
        }
        while !self.is_set || self.sleep.is_elapsed() {
            self.is_set = self.sleep.as_mut().poll(cx).is_pending();
            if !self.is_set {
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                self.reset(deadline);
            }
        }
        Poll::Pending
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.is_set = false;
    }
}

/// Waits for `duration`. It is boxed, so that the code that creates and drops a timer is compiled once.
pub(super) fn pause(duration: Duration) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now() + duration))
}
