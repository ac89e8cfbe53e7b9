//! Timers: deadlines of visits, and probes of the store.

use std::time::Instant;

use super::super::deadline::Timer;
use super::super::{next_probe, remaining};
use super::{Server, wait_timeout};
use crate::config::Store;

impl Server {
    /// Completes the visits whose deadline has passed, shuts down a connection to Redis that is silent, and probes the
    /// store.
    pub(super) fn expire_waiters(&'static self, store: &Store) {
        let (mut probe, mut taken) = (Timer::Probe.start(&self.limits), 0);
        let mut state = self.state();
        loop {
            let next = state.deadline().map_or(probe.at, |deadline| deadline.min(probe.at));
            if Instant::now() < next {
                state.timer_deadline = Some(next);
                state = wait_timeout(&self.timer, state, remaining(next));
                state.timer_deadline = None;
                continue;
            }
            state.expire(Instant::now());
            if probe.has_passed() {
                let is_refusing = state.health.is_refusing(0);
                let (command, next) = next_probe(is_refusing, state.queue.batches_taken() == taken, store, state.main);
                // A probe is a batch too.
                taken = state.queue.batches_taken() + i64::from(command.is_some());
                if let Some(command) = command
                    && state.queue.push_probe(&command)
                {
                    state.notify_store(self);
                }
                probe = next.start(&self.limits);
            }
            self.send(state);
            state = self.state();
        }
    }
}
