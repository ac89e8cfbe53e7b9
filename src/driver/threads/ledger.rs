//! The count in the ledger: one batch after the other, on the thread that owns the file.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::queue::Waiter;
use super::super::{StoreHealth, record_batch, remaining, report_disk, sync_at_end, sync_if_due};
use super::{Server, State, wait_timeout};
use crate::batch::Batch;
use crate::counter::{Command, StoreError};
use crate::ledger::Ledger;

impl Server {
    /// The count in the ledger: one batch after the other.
    pub(super) fn ledger(&self, mut ledger: Ledger) {
        self.set_health(StoreHealth::Up);
        let (mut commands, mut results, mut sync, mut reported) = (Vec::new(), Vec::new(), None, None);
        while self.collect(&mut commands, sync) {
            ledger.commit(&commands, &mut results);
            report_disk(&ledger, &mut reported);
            let mut state = self.state();
            let State { written, metrics, .. } = &mut *state;
            if let Some(sent) = written.sent {
                record_batch(metrics.worker(0), &written.batch, sent);
            }
            results.drain(..).for_each(|result| written.batch.record_reply(result));
            state.complete_written();
            self.release(state);
            sync = sync_if_due(&mut ledger, sync);
        }
        sync_at_end(&mut ledger);
        self.state().synced = true;
        self.changed.notify_all();
    }

    /// Waits for asks, until a sync is due at most. `false` once the server stops.
    fn collect(&self, commands: &mut Vec<Command>, sync: Option<Instant>) -> bool {
        commands.clear();
        let mut state = self.state();
        loop {
            let State { queue, written, stopped, .. } = &mut *state;
            if *stopped {
                return false;
            }
            if queue.take(&mut written.batch).is_some() {
                written.sent = Some(Instant::now());
                commands.extend(written.batch.pending_commands());
                return true;
            }
            state = match sync.map(remaining) {
                None => self.gathered.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(left) => wait_timeout(&self.gathered, state, left),
            };
        }
    }
}

impl State {
    /// Ends the batch that the ledger has written.
    pub(super) fn complete_written(&mut self) {
        let mut batch = std::mem::take(&mut self.written.batch);
        self.complete(&mut batch, StoreError::OutcomeUnknown);
        self.written = Written { batch, sent: None };
    }
}

/// A batch that the ledger writes, and when it was handed over.
#[derive(Default)]
pub(super) struct Written {
    pub(super) batch: Batch<Waiter>,
    sent: Option<Instant>,
}
