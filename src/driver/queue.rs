//! The queue before the store: the batch that gathers, and the clients who wait to be told a number.
//!
//! Each client has a seat for as long as it is connected; a batch carries seats. `W` is how a driver wakes the client on
//! a seat: a task's waker, a thread's handle.

use std::time::Instant;

use crate::batch::Batch;
use crate::counter::{Ask, Fault};

/// The waiting room of one event loop.
pub(super) struct Queue<W> {
    gathering: Batch<usize>,
    since: Option<Instant>,
    seats: Vec<Seat<W>>,
    free: Vec<usize>,
}

struct Seat<W> {
    waker: Option<W>,
    answer: Option<Result<i64, Fault>>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { gathering: Batch::default(), since: None, seats: Vec::new(), free: Vec::new() }
    }
}

impl<W> Queue<W> {
    /// Gives a client its seat.
    pub(super) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat { waker: None, answer: None });
            self.seats.len() - 1
        })
    }

    /// Takes a client's seat back. Nothing it asked may be under way.
    pub(super) fn leave(&mut self, seat: usize) {
        self.seats[seat] = Seat { waker: None, answer: None };
        self.free.push(seat);
    }

    /// How to wake the client on a seat.
    pub(super) fn waker(&mut self, seat: usize) -> &mut Option<W> {
        &mut self.seats[seat].waker
    }

    /// How to wake everybody.
    pub(super) fn wakers(&mut self) -> impl Iterator<Item = &mut W> {
        self.seats.iter_mut().filter_map(|seat| seat.waker.as_mut())
    }

    /// Adds an ask to the batch that gathers, and says whether it is the first.
    pub(super) fn ask(&mut self, ask: Ask, seat: usize) -> bool {
        self.gathering.push(ask, seat);
        let first = self.since.is_none();
        if first {
            self.since = Some(Instant::now());
        }
        first
    }

    /// Since when the batch has gathered, if there is one.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Takes the batch, if there is one, in exchange for an empty one, and says since when it has gathered.
    pub(super) fn take(&mut self, batch: &mut Batch<usize>) -> Option<Instant> {
        let since = self.since.take()?;
        std::mem::swap(&mut self.gathering, batch);
        Some(since)
    }

    /// Has a batch that was not sent wait for the next connection, along with what has gathered meanwhile.
    pub(super) fn put_back(&mut self, batch: &mut Batch<usize>, since: Instant) {
        if !batch.is_empty() {
            self.gathering.absorb(batch);
            self.since = Some(since);
        }
    }

    /// Tells everybody in a batch; `fault` is for those to whom the store has not replied.
    pub(super) fn tell(&mut self, batch: &mut Batch<usize>, fault: Fault, wake: impl Fn(&W)) {
        batch.tell(fault, |seat, result| {
            let seat = &mut self.seats[seat];
            seat.answer = Some(result);
            seat.waker.as_ref().map(&wake);
        });
    }

    /// What the client on a seat was told, once.
    pub(super) fn answer(&mut self, seat: usize) -> Option<Result<i64, Fault>> {
        self.seats[seat].answer.take()
    }
}
