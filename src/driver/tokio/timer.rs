//! What happens after a time: the deadline of one task, and visits that have waited too long.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Worker, lock, state};

/// Sees to it that nobody waits longer than `STORE_TIMEOUT` to be sent to the store.
pub(super) async fn impatience(worker: &'static Worker) {
    // It is the first task on its thread.
    state(|state| state.now.worker = worker.index);
    loop {
        let since = poll_fn(|cx| {
            state(|state| {
                if state.queue.since().is_none() {
                    state.patience = Some(cx.waker().clone());
                }
                state.queue.since().map_or(Poll::Pending, Poll::Ready)
            })
        })
        .await;
        sleep_until(Instant::from_std(since) + worker.server.limits.store).await;
        if state(|state| state.queue.since()) == Some(since) && !worker.give_up_doubtful() {
            let fault = lock(&worker.server.health).fault(worker.index);
            worker.give_up(fault);
        }
    }
}

/// A timer that is set only when it has to be: a connection's deadline moves with each request, but hardly ever comes.
/// It belongs to one task.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// It will wake the task, so that it need not be polled before.
    set: bool,
}

impl Alarm {
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
