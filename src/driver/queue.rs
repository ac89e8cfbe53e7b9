//! The queue before the store: the batch that gathers, and the batch that is in doubt.
//!
//! A visit waits for `STORE_TIMEOUT` from its arrival, each for itself, wherever its batch is meanwhile. A batch carries
//! seats: each client has one for as long as it is connected.

use std::time::Instant;

use super::seats::Seats;
use crate::batch::Batch;
use crate::counter::{Ask, Fault, Key};
use crate::redis::Session;

/// Who waits for a number, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) seat: usize,
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
    doubtful: Option<(Batch<Waiter>, Instant)>,
    /// Batches taken so far.
    taken: i64,
    /// The store has been away for so long that reads need not wait for it.
    is_away: bool,
    /// From then on nobody waits any longer.
    cutoff: Option<Instant>,
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
        Self { gathering: Batch::new(), doubtful: None, taken: 0, is_away: false, cutoff: None, seats: Seats::new() }
    }

    /// Adds an ask to the batch that gathers, and says whether it is the first. If there is no room, or nobody waits any
    /// longer, the client has its answer at once: what would be given up at once is not sent. Likewise one that reads or
    /// looks whether visits count, while the store is away: a page is not to stand still for that.
    ///
    /// The counter without a name, `main`, has always room: a flood of names is not to keep anybody from it.
    pub(super) fn ask(&mut self, ask: &Ask, main: &Key, waiter: Waiter) -> bool {
        let may_wait = !self.is_away || matches!(ask, Ask::Count { by: 1.., .. });
        if self.cutoff.is_some() || !may_wait {
            self.seats.tell(waiter.seat, Err(Fault::Down));
            return false;
        }
        let first = self.gathering.is_empty();
        if !self.gathering.push(ask, waiter) {
            if ask.key().is_some_and(|key| key != main) {
                self.seats.tell(waiter.seat, Err(Fault::Full));
                return false;
            }
            self.gathering.push_beyond(ask, waiter);
        }
        first
    }

    /// Adds an ask to which nobody waits for the answer, and says whether it is the first.
    pub(super) fn probe(&mut self, ask: &Ask) -> bool {
        let first = self.gathering.is_empty();
        self.gathering.probe(ask);
        first
    }

    /// When the visit that has waited longest, of those whose batch is not on its way, has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let doubtful = self.doubtful.as_ref().and_then(|(batch, _)| batch.first_waiter());
        self.earliest(&[doubtful, self.gathering.first_waiter()])
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
    pub(super) fn taken(&self) -> i64 {
        self.taken
    }

    /// Takes the batch that is to be sent next, if there is one, in exchange for an empty one.
    pub(super) fn take(&mut self, batch: &mut Batch<Waiter>) -> Option<Attempt> {
        if let Some((doubtful, sent)) = self.doubtful.take() {
            *batch = doubtful;
            return Some(Attempt::Again(sent));
        }
        if self.gathering.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.gathering, batch);
        self.taken += 1;
        batch.begin(self.taken);
        Some(Attempt::First)
    }

    /// Keeps a batch that was sent first at `sent`, and not answered, if anybody still waits for it.
    pub(super) fn doubt(&mut self, batch: Batch<Waiter>, sent: Instant) {
        self.doubtful = (batch.waiters() > 0).then_some((batch, sent));
    }

    /// Takes the batch that was kept.
    pub(super) fn take_doubtful(&mut self) -> Option<Batch<Waiter>> {
        self.doubtful.take().map(|(batch, _)| batch)
    }

    /// Has a batch that was not sent wait for the next connection, before what has gathered meanwhile.
    pub(super) fn put_back(&mut self, batch: &mut Batch<Waiter>) {
        batch.absorb(&mut self.gathering);
        std::mem::swap(batch, &mut self.gathering);
    }

    /// Tells everybody in a batch; `fault` is for those to whom the store has not replied.
    pub(super) fn tell(&mut self, batch: &mut Batch<Waiter>, fault: Fault, mut wake: impl FnMut(&W)) {
        batch.tell(fault, |waiter, result| tell(&mut self.seats, waiter, result, &mut wake));
    }

    /// Tells everybody who has waited until their deadline: `unsent` is for those whose batch was never sent.
    pub(super) fn expire(&mut self, now: Instant, unsent: Fault, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let Self { gathering, doubtful, seats, .. } = self;
        let tell: Tell<'_> = &mut |waiter, result| tell(seats, waiter, result, &mut wake);
        if let Some((batch, _)) = doubtful {
            batch.expire(Fault::Lost, is_late, &mut *tell);
            if batch.waiters() == 0 {
                *doubtful = None;
            }
        }
        gathering.expire(unsent, is_late, tell);
    }

    /// The same for the batch that a session has sent.
    pub(super) fn expire_sent(&mut self, session: &mut Session<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let tell: Tell<'_> = &mut |waiter, result| tell(&mut self.seats, waiter, result, &mut wake);
        session.expire(is_late, tell);
    }

    /// The same for the batch that the ledger writes.
    pub(super) fn expire_written(&mut self, batch: &mut Batch<Waiter>, now: Instant, mut wake: impl FnMut(&W)) {
        let is_late: IsLate<'_> = &self.is_late(now);
        let tell: Tell<'_> = &mut |waiter, result| tell(&mut self.seats, waiter, result, &mut wake);
        batch.expire(Fault::Lost, is_late, tell);
    }

    fn is_late(&self, now: Instant) -> impl Fn(&Waiter) -> bool + Copy + use<W> {
        let cut_off = self.cutoff.is_some_and(|cutoff| cutoff <= now);
        move |waiter| cut_off || waiter.deadline <= now
    }
}

// What `Batch::expire` takes is the same type everywhere, so that its code is there once.
type IsLate<'a> = &'a dyn Fn(&Waiter) -> bool;
type Tell<'a> = &'a mut dyn FnMut(Waiter, Result<i64, Fault>);

fn tell<W>(seats: &mut Seats<W>, waiter: Waiter, result: Result<i64, Fault>, wake: &mut impl FnMut(&W)) {
    if let Some(waker) = seats.tell(waiter.seat, result) {
        wake(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::MAX_LINES;

    #[test]
    fn what_comes_after_the_cutoff_is_refused_and_not_sent() {
        let mut queue = Queue::<()>::new();
        let seats = [queue.seats.enter(), queue.seats.enter()];
        let key = Key::new(b"visits").expect("a good name");
        let now = Instant::now();
        let waiter = |seat| Waiter { seat, deadline: now };
        assert!(queue.ask(&Ask::Count { key, by: 1 }, &key, waiter(seats[0])));
        queue.cut_off(now);
        assert!(!queue.ask(&Ask::Count { key, by: 1 }, &key, waiter(seats[1])));
        assert_eq!(queue.seats.answer(seats[1]), Some(Err(Fault::Down)));
        assert_eq!(queue.seats.answer(seats[0]), None);
        queue.expire(now, Fault::Down, |()| ());
        assert_eq!(queue.seats.answer(seats[0]), Some(Err(Fault::Down)));
        assert_eq!(queue.take(&mut Batch::new()), None);
    }

    #[test]
    fn a_flood_of_names_keeps_nobody_from_the_counter_without_a_name() {
        let mut queue = Queue::<()>::new();
        let main = Key::new(b"visits").expect("a good name");
        let name = |number: usize| Key::new(format!("visits:{number}").as_bytes()).expect("a good name");
        let deadline = Instant::now();
        let mut answer = |ask| {
            let seat = queue.seats.enter();
            queue.ask(&ask, &main, Waiter { seat, deadline });
            queue.seats.answer(seat)
        };
        for number in 0..MAX_LINES {
            assert_eq!(answer(Ask::Count { key: name(number), by: 1 }), None);
        }
        let full = Some(Err(Fault::Full));
        let new = name(MAX_LINES);
        for (ask, expected) in [
            (Ask::Count { key: new, by: 1 }, full),
            (Ask::Total { key: new }, full),
            (Ask::Count { key: name(0), by: 1 }, None),
            (Ask::Count { key: main, by: 1 }, None),
            (Ask::Total { key: main }, None),
            (Ask::Ping, None),
            (Ask::Count { key: new, by: 1 }, full),
        ] {
            assert_eq!(answer(ask), expected, "{ask:?}");
        }
    }
}
