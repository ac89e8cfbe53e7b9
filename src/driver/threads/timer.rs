//! Visits that have waited too long.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Server, doze};

impl Server {
    /// Sees to it that nobody waits longer than `STORE_TIMEOUT`, in the queue or for a reply.
    pub(super) fn impatience(&self) {
        let patience = self.limits.store;
        let mut state = self.state();
        loop {
            let waiting = [state.queue.since(), state.written.since, state.link.as_ref().and_then(|link| link.since())];
            let Some(since) = waiting.into_iter().flatten().min() else {
                state.dozing = true;
                state = self.impatient.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = patience.saturating_sub(since.elapsed());
            if left > Duration::ZERO {
                state = doze(&self.impatient, state, left);
                continue;
            }
            if state.queue.since() == Some(since) {
                if !state.give_up_doubtful() {
                    let fault = state.health.fault(0);
                    state.give_up(fault);
                }
            } else if state.written.since == Some(since) {
                state.tell_written();
            } else if let Some(link) = &mut state.link {
                link.give_up();
            }
            self.release(state);
            state = self.state();
        }
    }
}
