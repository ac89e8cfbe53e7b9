//! The queue before the store: the batch that gathers, and the clients who wait to be told a number.
//!
//! A batch carries seats: each client has one for as long as it is connected.

use std::time::Instant;

use super::seats::Seats;
use crate::batch::Batch;
use crate::counter::{Ask, Fault};

/// The waiting room of one event loop.
pub(super) struct Queue<W> {
    gathering: Batch<usize>,
    since: Option<Instant>,
    /// A batch that was sent without a reply, to be sent again under its number before any other.
    doubtful: Option<(Batch<usize>, Instant)>,
    /// Batches taken so far.
    taken: i64,
    pub(super) seats: Seats<W>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Queue<W> {
    /// Nobody waits and nobody sits.
    pub(super) const fn new() -> Self {
        Self { gathering: Batch::new(), since: None, doubtful: None, taken: 0, seats: Seats::new() }
    }

    /// Adds an ask to the batch that gathers, and says whether it is the first. If there is no room, the client has its
    /// answer at once.
    pub(super) fn ask(&mut self, ask: Ask, seat: usize) -> bool {
        if !self.gathering.push(ask, seat) {
            self.seats.tell(seat, Err(Fault::Full));
            return false;
        }
        let first = self.since.is_none();
        if first {
            self.since = Some(Instant::now());
        }
        first
    }

    /// Since when somebody waits for a batch to be sent, or sent again.
    pub(super) fn since(&self) -> Option<Instant> {
        self.doubtful.as_ref().map(|doubtful| doubtful.1).or(self.since)
    }

    /// Takes the batch that is to be sent next, if there is one, in exchange for an empty one, and says since when it
    /// has gathered.
    pub(super) fn take(&mut self, batch: &mut Batch<usize>) -> Option<Instant> {
        if let Some((doubtful, since)) = self.take_doubtful() {
            *batch = doubtful;
            return Some(since);
        }
        let since = self.since.take()?;
        std::mem::swap(&mut self.gathering, batch);
        self.taken += 1;
        batch.begin(self.taken);
        Some(since)
    }

    /// Keeps a batch that was sent and not answered, and since when it has gathered.
    pub(super) fn doubt(&mut self, batch: Batch<usize>, since: Instant) {
        self.doubtful = Some((batch, since));
    }

    /// Takes the batch that was kept.
    pub(super) fn take_doubtful(&mut self) -> Option<(Batch<usize>, Instant)> {
        self.doubtful.take()
    }

    /// Has a batch that was not sent wait for the next connection, along with what has gathered meanwhile.
    pub(super) fn put_back(&mut self, batch: &mut Batch<usize>, since: Instant) {
        if !batch.is_empty() {
            self.gathering.absorb(batch);
            self.since = Some(since);
        }
    }

    /// Tells everybody in a batch; `fault` is for those to whom the store has not replied.
    pub(super) fn tell(&mut self, batch: &mut Batch<usize>, fault: Fault, mut wake: impl FnMut(&W)) {
        batch.tell(fault, |seat, result| {
            if let Some(waker) = self.seats.tell(seat, result) {
                wake(waker);
            }
        });
    }
}
