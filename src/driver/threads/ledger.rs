//! Counting in the ledger: one thread owns the file, and writes one batch after the other.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::deadline::Deadline;
use super::super::queue::Waiter;
use super::super::{StoreHealth, record_batch, report_disk, sync_at_end, sync_if_due};
use super::{Server, State, wait_timeout};
use crate::batch::Batch;
use crate::counter::{Command, StoreError};
use crate::ledger::Ledger;

impl Server {
    /// Commits batches to the ledger, one after the other, until the server stops.
    pub(super) fn ledger(&self, mut ledger: Ledger) {
        self.set_health(StoreHealth::Up);
        let (mut commands, mut results, mut sync_at, mut reported) = (Vec::new(), Vec::new(), None, None);
        while self.collect(&mut commands, sync_at) {
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
            sync_at = sync_if_due(&mut ledger, sync_at, &self.limits);
        }
        sync_at_end(&mut ledger);
        self.state().synced = true;
        self.changed.notify_all();
    }

    /// Takes the commands of the next batch. Waits for them, until `deadline` at most. Returns `false` once the server
    /// stops.
    fn collect(&self, commands: &mut Vec<Command>, deadline: Option<Deadline>) -> bool {
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
            state = match deadline.map(|deadline| deadline.remaining()) {
                None => self.gathered.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return true,
                Some(timeout) => wait_timeout(&self.gathered, state, timeout),
            };
        }
    }
}

impl State {
    /// Completes the batch that the ledger has written.
    pub(super) fn complete_written(&mut self) {
        let mut batch = std::mem::take(&mut self.written.batch);
        self.complete(&mut batch, StoreError::OutcomeUnknown);
        self.written = Written { batch, sent: None };
    }
}

/// The batch that the ledger's thread is writing, and when it took the batch.
#[derive(Default)]
pub(super) struct Written {
    pub(super) batch: Batch<Waiter>,
    sent: Option<Instant>,
}
