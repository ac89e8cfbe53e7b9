//! Visits that have waited too long, and probes of the store.

use std::time::Instant;

use super::super::{PROBE_IDLE, after, left, probe};
use super::{Server, doze};
use crate::config::Store;

impl Server {
    /// Ends the visits that have waited for `STORE_TIMEOUT`, gives up a connection that is silent, and probes the store.
    pub(super) fn expire_waiters(&'static self, store: &Store) {
        let (mut probe_at, mut taken) = (after(PROBE_IDLE), 0);
        let mut state = self.state();
        loop {
            let next = state.deadline().map_or(probe_at, |deadline| deadline.min(probe_at));
            if Instant::now() < next {
                state.looks_at = Some(next);
                state = doze(&self.impatient, state, left(next));
                state.looks_at = None;
                continue;
            }
            state.expire(Instant::now());
            if Instant::now() >= probe_at {
                let is_refusing = state.health.is_refusing(0);
                let (ask, pause) = probe(is_refusing, state.queue.taken() == taken, store, state.main);
                // A probe is a batch, too.
                taken = state.queue.taken() + i64::from(ask.is_some());
                if let Some(ask) = ask
                    && state.queue.probe(&ask)
                {
                    state.has_gathered(self);
                }
                probe_at = after(pause);
            }
            self.send(state);
            state = self.state();
        }
    }
}
