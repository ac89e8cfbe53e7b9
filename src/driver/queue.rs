//! The queue before the store: the batch that gathers, and the batch that is in doubt.
//!
//! A visit waits for `STORE_TIMEOUT` from its arrival, each for itself, wherever its batch is meanwhile. A batch carries
//! seats: each client has one for as long as it is connected.

use std::time::Instant;

use super::slots::Slots;
use crate::batch::Batch;
use crate::counter::{Command, Key, StoreError};
use crate::redis::Session;

/// Who waits for a number, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) slot: usize,
    pub(super) deadline: Instant,
}

/// How a batch goes to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// For the first time.
    First,
    /// Again, because its reply was lost; it was sent first at this time.
    Again(Instant),
}

/// The waiting room of one event loop.
pub(super) struct Queue<W> {
    gathering: Batch<Waiter>,
    /// A batch that was sent without a reply, to be sent again under its number before any other, and when it was sent
    /// first.
    in_doubt: Option<(Batch<Waiter>, Instant)>,
    /// Batches taken so far.
    taken: i64,
    /// The store has been away for so long that reads need not wait for it.
    is_away: bool,
    /// From then on nobody waits any longer.
    cutoff: Option<Instant>,
    pub(super) slots: Slots<W>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Queue<W> {
    /// Nobody waits and nobody sits.
    pub(super) const fn new() -> Self {
        Self { gathering: Batch::new(), in_doubt: None, taken: 0, is_away: false, cutoff: None, slots: Slots::new() }
    }

    /// Adds an ask to the batch that gathers, and says whether it is the first. If there is no room, or nobody waits any
    /// longer, the client has its answer at once: what would be given up at once is not sent. Likewise one that reads or
    /// looks whether visits count, while the store is away: a page is not to stand still for that.
    ///
    /// The counter without a name, `main`, has always room: a flood of names is not to keep anybody from it.
    pub(super) fn push(&mut self, command: &Command, main: &Key, waiter: Waiter) -> bool {
        let may_wait = !self.is_away || matches!(command, Command::Increment { by: 1.., .. });
        if self.cutoff.is_some() || !may_wait {
            self.slots.set_answer(waiter.slot, Err(StoreError::Unavailable));
            return false;
        }
        let first = self.gathering.is_empty();
        if !self.gathering.push(command, waiter) {
            if command.key().is_some_and(|key| key != main) {
                self.slots.set_answer(waiter.slot, Err(StoreError::Overloaded));
                return false;
            }
            self.gathering.push_unbounded(command, waiter);
        }
        first
    }

    /// Adds an ask to which nobody waits for the answer, and says whether it is the first.
    pub(super) fn push_probe(&mut self, command: &Command) -> bool {
        let first = self.gathering.is_empty();
        self.gathering.push_probe(command);
        first
    }

    /// When the visit that has waited longest, of those whose batch is not on its way, has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let in_doubt = self.in_doubt.as_ref().and_then(|(batch, _)| batch.first_waiter());
        self.earliest(&[in_doubt, self.gathering.first_waiter()])
    }

    /// The first of these deadlines.
    pub(super) fn earliest(&self, waiters: &[Option<&Waiter>]) -> Option<Instant> {
        let first = waiters.iter().flatten().map(|waiter| waiter.deadline).min()?;
        Some(self.cutoff.map_or(first, |cutoff| cutoff.min(first)))
    }

    /// Has nobody wait any longer than `now`, whatever their deadline.
    pub(super) fn cut_off(&mut self, now: Instant) {
        self.cutoff = Some(now);
    }

    /// Notes whether the store has been away for longer than a visit waits.
    pub(super) fn set_away(&mut self, is_away: bool) {
        self.is_away = is_away;
    }

    /// Batches taken so far.
    pub(super) fn batches_taken(&self) -> i64 {
        self.taken
    }

    /// Takes the batch that is to be sent next, if there is one, in exchange for an empty one.
    pub(super) fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        if let Some((in_doubt, sent)) = self.in_doubt.take() {
            *batch = in_doubt;
            return Some(Attempt::Again(sent));
        }
        if self.gathering.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.gathering, batch);
        self.taken += 1;
        batch.set_sequence(self.taken);
        Some(Attempt::First)
    }

    /// Keeps a batch that was sent first at `sent`, and not answered, if anybody still waits for it.
    pub(super) fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: Instant) {
        self.in_doubt = (batch.waiter_count() > 0).then_some((batch, sent));
    }

    /// Takes the batch that was kept.
    pub(super) fn take_in_doubt(&mut self) -> Option<Batch<Waiter>> {
        self.in_doubt.take().map(|(batch, _)| batch)
    }

    /// Has a batch that was not sent wait for the next connection, before what has gathered meanwhile.
    pub(super) fn requeue(&mut self, batch: &mut Batch<Waiter>) {
        batch.merge(&mut self.gathering);
        std::mem::swap(batch, &mut self.gathering);
    }

    /// Tells everybody in a batch; `fault` is for those to whom the store has not replied.
    pub(super) fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError, mut wake: impl FnMut(&W)) {
        batch.complete(error, |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake));
    }

    /// Tells everybody who has waited until their deadline: `unsent` is for those whose batch was never sent.
    pub(super) fn expire(&mut self, now: Instant, unsent: StoreError, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let Self { gathering, in_doubt, slots, .. } = self;
        let tell: Complete<'_> = &mut |waiter, result| complete_waiter(slots, waiter, result, &mut wake);
        if let Some((batch, _)) = in_doubt {
            batch.expire(StoreError::OutcomeUnknown, is_late, &mut *tell);
            if batch.waiter_count() == 0 {
                *in_doubt = None;
            }
        }
        gathering.expire(unsent, is_late, tell);
    }

    /// The same for the batch that a session has sent.
    pub(super) fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let tell: Complete<'_> = &mut |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake);
        session.expire(is_late, tell);
    }

    /// The same for the batch that the ledger writes.
    pub(super) fn expire_written(&mut self, batch: &mut Batch<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let tell: Complete<'_> = &mut |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake);
        batch.expire(StoreError::OutcomeUnknown, is_late, tell);
    }

    fn is_late(&self, now: Instant) -> impl Fn(&Waiter) -> bool + Copy + use<W> {
        let cut_off = self.cutoff.is_some_and(|cutoff| cutoff <= now);
        move |waiter| cut_off || waiter.deadline <= now
    }
}

// What `Batch::expire` takes is the same type everywhere, so that its code is there once.
type IsLate<'a> = &'a dyn Fn(&Waiter) -> bool;
type Complete<'a> = &'a mut dyn FnMut(Waiter, Result<i64, StoreError>);

fn complete_waiter<W>(
    slots: &mut Slots<W>,
    waiter: Waiter,
    result: Result<i64, StoreError>,
    wake: &mut impl FnMut(&W),
) {
    if let Some(waker) = slots.set_answer(waiter.slot, result) {
        wake(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::MAX_ENTRIES;

    #[test]
    fn what_comes_after_the_cutoff_is_refused_and_not_sent() {
        let mut queue = Queue::<()>::new();
        let slots = [queue.slots.allocate(), queue.slots.allocate()];
        let key = Key::new(b"visits").expect("a good name");
        let now = Instant::now();
        let waiter = |slot| Waiter { slot: slot, deadline: now };
        assert!(queue.push(&Command::Increment { key, by: 1 }, &key, waiter(slots[0])));
        queue.cut_off(now);
        assert!(!queue.push(&Command::Increment { key, by: 1 }, &key, waiter(slots[1])));
        assert_eq!(queue.slots.take_answer(slots[1]), Some(Err(StoreError::Unavailable)));
        assert_eq!(queue.slots.take_answer(slots[0]), None);
        queue.expire(now, StoreError::Unavailable, |()| ());
        assert_eq!(queue.slots.take_answer(slots[0]), Some(Err(StoreError::Unavailable)));
        assert_eq!(queue.take(&mut Batch::new()), None);
    }

    #[test]
    fn a_flood_of_names_keeps_nobody_from_the_counter_without_a_name() {
        let mut queue = Queue::<()>::new();
        let main = Key::new(b"visits").expect("a good name");
        let name = |number: usize| Key::new(format!("visits:{number}").as_bytes()).expect("a good name");
        let deadline = Instant::now();
        let mut answer = |command| {
            let slot = queue.slots.allocate();
            queue.push(&command, &main, Waiter { slot: slot, deadline });
            queue.slots.take_answer(slot)
        };
        for number in 0..MAX_ENTRIES {
            assert_eq!(answer(Command::Increment { key: name(number), by: 1 }), None);
        }
        let full = Some(Err(StoreError::Overloaded));
        let new = name(MAX_ENTRIES);
        for (command, expected) in [
            (Command::Increment { key: new, by: 1 }, full),
            (Command::Get { key: new }, full),
            (Command::Increment { key: name(0), by: 1 }, None),
            (Command::Increment { key: main, by: 1 }, None),
            (Command::Get { key: main }, None),
            (Command::Ping, None),
            (Command::Increment { key: new, by: 1 }, full),
        ] {
            assert_eq!(answer(command), expected, "{command:?}");
        }
    }
}
