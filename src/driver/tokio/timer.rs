//! What happens after a time: the deadline of one task, and visits that have waited too long.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::super::{PROBE_IDLE, next_probe};
use super::{Worker, lock, state};
use crate::config::Store;

/// Ends the visits that have waited for `STORE_TIMEOUT` before they were sent, or sent again, and probes the store.
pub(super) async fn expire_waiters(worker: &'static Worker, store: &'static Store) {
    // It is the first task on its thread.
    state(|state| state.context.index = worker.index);
    let mut probe_at = Instant::now() + PROBE_IDLE;
    let (mut timer, mut taken) = (DeadlineTimer::new(probe_at), 0);
    loop {
        let now = poll_fn(|cx| {
            let deadline = state(|state| state.next_deadline(cx)).map(Instant::from_std);
            timer.poll(deadline.map_or(probe_at, |deadline| deadline.min(probe_at)), cx).map(|()| Instant::now())
        })
        .await;
        worker.expire(now.into_std());
        if now >= probe_at {
            let taken_now = state(|state| state.queue.batches_taken());
            let is_refusing = lock(&worker.server.health).is_refusing(worker.index);
            let (command, pause) =
                next_probe(is_refusing, taken_now == taken, store, worker.server.context.counters.main);
            // A probe is a batch, too.
            taken = taken_now + i64::from(command.is_some());
            if let Some(command) = command {
                worker.probe(&command);
            }
            probe_at = now + pause;
        }
    }
}

/// A timer that is set only when it has to be: a connection's deadline moves with each request, but hardly ever comes.
/// It belongs to one task.
pub(super) struct DeadlineTimer {
    sleep: Pin<Box<Sleep>>,
    /// It will wake the task, so that it need not be polled before.
    set: bool,
}

impl DeadlineTimer {
    pub(super) fn new(first: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(first)), set: false }
    }

    /// Ready once `deadline` has passed.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.reset(deadline);
        }
        while !self.set || self.sleep.is_elapsed() {
            self.set = self.sleep.as_mut().poll(cx).is_pending();
            if !self.set {
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
        self.set = false;
    }
}

/// Waits for so long. It comes boxed, so that what a timer takes to be made and dropped is there once.
pub(super) fn pause(long: Duration) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now() + long))
}
