//! The queue before the store: the batch that is gathering, and the batch that is in doubt.
//!
//! Each visit waits at most `STORE_TIMEOUT` from its arrival, wherever its batch is. The waiters of a batch are slots:
//! each client has one as long as it is connected.

use std::time::Instant;

use super::slots::Slots;
use crate::batch::Batch;
use crate::counter::{Command, Key, StoreError};
use crate::redis::Session;

/// A client that waits for a total, by its slot, and its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) slot: usize,
    pub(super) deadline: Instant,
}

/// Whether a batch is sent for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is.
    First,
    /// It is sent again, because its reply was lost; it was sent first at this time.
    Again(Instant),
}

/// The queue of one event loop: a command is in `gathering`, then in flight, and in `in_doubt` if its reply is lost.
pub(super) struct Queue<W> {
    gathering: Batch<Waiter>,
    /// A batch that was sent and got no reply, and when it was sent first. It is sent again under its sequence number,
    /// before any other.
    in_doubt: Option<(Batch<Waiter>, Instant)>,
    /// Batches taken so far.
    taken: i64,
    /// The store has been down for so long that reads do not wait for it.
    is_down: bool,
    /// All waiting ends at this time.
    cutoff: Option<Instant>,
    pub(super) slots: Slots<W>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Queue<W> {
    /// Creates an empty queue without slots.
    pub(super) const fn new() -> Self {
        Self { gathering: Batch::new(), in_doubt: None, taken: 0, is_down: false, cutoff: None, slots: Slots::new() }
    }

    /// Adds a command to the gathering batch, and marks its client as waiting. Returns whether it is the first.
    ///
    /// After the cutoff, the client gets an error at once, and the command is not sent. So does a read or a readiness
    /// check while the store is down, since a page should not wait for it; and a command for which the batch has no
    /// room.
    ///
    /// The counter without a name, `main`, always has room, so that many names cannot block it.
    pub(super) fn push(&mut self, command: &Command, main: &Key, waiter: Waiter) -> bool {
        self.slots.mark_waiting(waiter.slot);
        let may_wait = !self.is_down || matches!(command, Command::Increment { by: 1.., .. });
        if self.cutoff.is_some() || !may_wait {
            self.slots.set_result(waiter.slot, Err(StoreError::Unavailable));
            return false;
        }
        let is_first = self.gathering.is_empty();
        if !self.gathering.push(command, waiter) {
            if command.key().is_some_and(|key| key != main) {
                self.slots.set_result(waiter.slot, Err(StoreError::Overloaded));
                return false;
            }
            self.gathering.push_unbounded(command, waiter);
        }
        is_first
    }

    /// Adds a read of each of `keys` for the client that waits, with slots of their own. Returns these, for
    /// [`Slots::take_group`], and whether one of the reads is the first command.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`], if there is no memory for them in `share`.
    pub(super) fn push_reads(
        &mut self,
        keys: &[Key],
        main: &Key,
        waiter: Waiter,
        share: usize,
        wake: impl FnMut(&W),
    ) -> Result<(Vec<usize>, bool), StoreError> {
        // A client that sent its request in parts has stalled until now, and could be evicted while it waits.
        self.slots.mark_active(waiter.slot);
        let group = self.slots.allocate_group(keys.len(), share, wake).ok_or(StoreError::Overloaded)?;
        let mut is_first = false;
        for (&slot, &key) in group.iter().zip(keys) {
            is_first |= self.push(&Command::Get { key }, main, Waiter { slot, ..waiter });
        }
        Ok((group, is_first))
    }

    /// Adds a command without a waiter. Returns whether it is the first.
    pub(super) fn push_probe(&mut self, command: &Command) -> bool {
        let is_first = self.gathering.is_empty();
        self.gathering.push_probe(command);
        is_first
    }

    /// Returns the earliest deadline of the waiters whose batch is not in flight.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let in_doubt = self.in_doubt.as_ref().and_then(|(batch, _)| batch.first_waiter());
        self.earliest(&[in_doubt, self.gathering.first_waiter()])
    }

    /// Returns the earliest deadline of these waiters, at most the cutoff.
    pub(super) fn earliest(&self, waiters: &[Option<&Waiter>]) -> Option<Instant> {
        let first = waiters.iter().flatten().map(|waiter| waiter.deadline).min()?;
        Some(self.cutoff.map_or(first, |cutoff| cutoff.min(first)))
    }

    /// Ends all waiting at `now`, whatever the deadlines. [`Queue::expire`] then completes the waiters.
    pub(super) fn cut_off(&mut self, now: Instant) {
        self.cutoff = Some(now);
    }

    /// Sets whether the store has been down for longer than `STORE_TIMEOUT`.
    pub(super) fn set_down(&mut self, is_down: bool) {
        self.is_down = is_down;
    }

    /// Returns the number of batches taken so far.
    pub(super) fn batches_taken(&self) -> i64 {
        self.taken
    }

    /// Takes the batch to send next, if there is one, into `batch`, which must be empty.
    pub(super) fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        if let Some((in_doubt, sent)) = self.in_doubt.take() {
            *batch = in_doubt;
            // Reads need no acknowledgement: they do not wait for the end of the doubt. Those that were sent with this
            // batch before may have arrived before its visits.
            batch.merge_reads(&mut self.gathering, is_before);
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

    /// Keeps a batch in doubt, sent first at `sent`, to be sent again. Drops it if it has no waiter.
    pub(super) fn requeue_in_doubt(&mut self, batch: Batch<Waiter>, sent: Instant) {
        self.in_doubt = (batch.waiter_count() > 0).then_some((batch, sent));
    }

    /// Returns whether there is a batch in doubt.
    pub(super) fn has_in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    /// Takes the batch in doubt.
    pub(super) fn take_in_doubt(&mut self) -> Option<Batch<Waiter>> {
        self.in_doubt.take().map(|(batch, _)| batch)
    }

    /// Puts back a batch that was not sent. Visits that have gathered meanwhile may have arrived before its reads, if
    /// they wait behind a batch in doubt.
    pub(super) fn requeue(&mut self, batch: &mut Batch<Waiter>) {
        self.gathering = Batch::merge_in_order(batch, &mut self.gathering, is_before);
    }

    /// Completes all waiters of a batch. Those without a reply from the store get `error`.
    pub(super) fn complete(&mut self, batch: &mut Batch<Waiter>, error: StoreError, mut wake: impl FnMut(&W)) {
        batch.complete(error, |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake));
    }

    /// Completes all waiters whose deadline has passed: with `unsent` if their batch was never sent.
    pub(super) fn expire(&mut self, now: Instant, unsent: StoreError, mut wake: impl FnMut(&W)) {
        let is_expired: IsExpired<'_> = &self.is_expired(now);
        let Self { gathering, in_doubt, slots, .. } = self;
        let complete: Complete<'_> = &mut |waiter, result| complete_waiter(slots, waiter, result, &mut wake);
        if let Some((batch, _)) = in_doubt {
            batch.expire(StoreError::OutcomeUnknown, is_expired, &mut *complete);
            if batch.waiter_count() == 0 {
                *in_doubt = None;
            }
        }
        gathering.expire(unsent, is_expired, complete);
    }

    /// Does the same for the batch that a session has sent.
    pub(super) fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_expired: IsExpired<'_> = &self.is_expired(now);
        let complete: Complete<'_> = &mut |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake);
        session.expire(is_expired, complete);
    }

    /// Does the same for the batch that the ledger thread is writing.
    pub(super) fn expire_written(&mut self, batch: &mut Batch<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_expired: IsExpired<'_> = &self.is_expired(now);
        let complete: Complete<'_> = &mut |waiter, result| complete_waiter(&mut self.slots, waiter, result, &mut wake);
        batch.expire(StoreError::OutcomeUnknown, is_expired, complete);
    }

    fn is_expired(&self, now: Instant) -> impl Fn(&Waiter) -> bool + Copy + use<W> {
        let cut_off = self.cutoff.is_some_and(|cutoff| cutoff <= now);
        move |waiter| cut_off || waiter.deadline <= now
    }
}

/// Returns whether one waiter arrived before another.
fn is_before(one: &Waiter, other: &Waiter) -> bool {
    one.deadline < other.deadline
}

// `Batch::expire` takes the same types everywhere, so that its code is compiled once.
type IsExpired<'a> = &'a dyn Fn(&Waiter) -> bool;
type Complete<'a> = &'a mut dyn FnMut(Waiter, Result<i64, StoreError>);

fn complete_waiter<W>(
    slots: &mut Slots<W>,
    waiter: Waiter,
    result: Result<i64, StoreError>,
    wake: &mut impl FnMut(&W),
) {
    if let Some(waker) = slots.set_result(waiter.slot, result) {
        wake(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::MAX_ENTRIES;

    #[test]
    fn commands_after_the_cutoff_are_refused_and_not_sent() {
        let mut queue = Queue::<()>::new();
        let slots = [queue.slots.allocate(), queue.slots.allocate()];
        let key = Key::new(b"visits").expect("a good name");
        let now = Instant::now();
        let waiter = |slot| Waiter { slot, deadline: now };
        assert!(queue.push(&Command::Increment { key, by: 1 }, &key, waiter(slots[0])));
        queue.cut_off(now);
        assert!(!queue.push(&Command::Increment { key, by: 1 }, &key, waiter(slots[1])));
        assert_eq!(queue.slots.take_result(slots[1]), Some(Err(StoreError::Unavailable)));
        assert_eq!(queue.slots.take_result(slots[0]), None);
        queue.expire(now, StoreError::Unavailable, |()| ());
        assert_eq!(queue.slots.take_result(slots[0]), Some(Err(StoreError::Unavailable)));
        assert_eq!(queue.take(&mut Batch::new()), None);
    }

    #[test]
    fn a_read_that_was_sent_with_a_batch_in_doubt_does_not_delay_earlier_visits() {
        let mut queue = Queue::<()>::new();
        let main = Key::new(b"visits").expect("a good name");
        let start = Instant::now();
        let commands = [
            Command::Increment { key: main, by: 1 },
            Command::Increment { key: main, by: 1 },
            Command::Get { key: main },
            Command::Increment { key: main, by: 1 },
        ];
        let slots = commands.each_ref().map(|_| queue.slots.allocate());
        let deadline = |number: usize| start + Duration::from_secs(number as u64);
        let push = |queue: &mut Queue<()>, at: usize| {
            queue.push(&commands[at], &main, Waiter { slot: slots[at], deadline: deadline(at) });
        };
        push(&mut queue, 0);
        let mut batch = Batch::new();
        assert_eq!(queue.take(&mut batch), Some(Attempt::First));
        batch.mark_sent();
        (1..4).for_each(|at| push(&mut queue, at));
        queue.requeue_in_doubt(batch, start);
        let mut batch = Batch::new();
        assert_eq!(queue.take(&mut batch), Some(Attempt::Again(start)));
        assert_eq!((batch.waiter_count(), queue.gathering.waiter_count()), (2, 2));
        // The connection is lost again.
        let mut unsent = batch.take_unsent(true);
        queue.requeue_in_doubt(batch, start);
        queue.requeue(&mut unsent);
        for (at, slot) in slots.into_iter().enumerate() {
            assert_eq!(queue.deadline(), Some(deadline(at)));
            queue.expire(deadline(at), StoreError::Unavailable, |()| ());
            let error = if at == 0 { StoreError::OutcomeUnknown } else { StoreError::Unavailable };
            assert_eq!(queue.slots.take_result(slot), Some(Err(error)), "{at}");
        }
    }

    #[test]
    fn a_read_that_was_sent_with_a_batch_in_doubt_expires_before_its_later_visits() {
        let mut queue = Queue::<()>::new();
        let main = Key::new(b"visits").expect("a good name");
        let start = Instant::now();
        let commands = [Command::Get { key: main }, Command::Increment { key: main, by: 1 }];
        let slots = commands.each_ref().map(|_| queue.slots.allocate());
        for (at, slot) in slots.into_iter().enumerate() {
            let deadline = start + Duration::from_secs(at as u64);
            queue.push(&commands[at], &main, Waiter { slot, deadline });
        }
        let mut batch = Batch::new();
        assert_eq!(queue.take(&mut batch), Some(Attempt::First));
        batch.mark_sent();
        // The connection is lost.
        let mut unsent = batch.take_unsent(true);
        queue.requeue_in_doubt(batch, start);
        queue.requeue(&mut unsent);
        let mut batch = Batch::new();
        assert_eq!(queue.take(&mut batch), Some(Attempt::Again(start)));
        assert_eq!((batch.waiter_count(), batch.first_waiter().map(|first| first.deadline)), (2, Some(start)));
    }

    #[test]
    fn many_names_do_not_block_the_counter_without_a_name() {
        let mut queue = Queue::<()>::new();
        let main = Key::new(b"visits").expect("a good name");
        let name = |number: usize| Key::new(format!("visits:{number}").as_bytes()).expect("a good name");
        let deadline = Instant::now();
        let mut push = |command| {
            let slot = queue.slots.allocate();
            queue.push(&command, &main, Waiter { slot, deadline });
            queue.slots.take_result(slot)
        };
        for number in 0..MAX_ENTRIES {
            assert_eq!(push(Command::Increment { key: name(number), by: 1 }), None);
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
            assert_eq!(push(command), expected, "{command:?}");
        }
    }
}
