//! The queue before the store: the batch that gathers, and the clients who wait to be told a number.
//!
//! Each client has a seat for as long as it is connected; a batch carries seats. `W` is how a driver wakes the client
//! on a seat: a task's waker, a thread's handle.

use std::time::{Duration, Instant};

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
    seats: Vec<Seat<W>>,
    free: Vec<usize>,
    /// Since when a seat is needed that nobody can give up.
    crowded: Option<Instant>,
}

struct Seat<W> {
    waker: Option<W>,
    answer: Option<Result<i64, Fault>>,
    /// Since when the client has asked nothing, and whether it ever did.
    resting: Option<(Instant, bool)>,
    /// The seat is needed for somebody else.
    evicted: bool,
}

impl<W> Default for Seat<W> {
    fn default() -> Self {
        Self { waker: None, answer: None, resting: None, evicted: false }
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Queue<W> {
    /// Nobody waits and nobody sits.
    pub(super) const fn new() -> Self {
        Self {
            gathering: Batch::new(),
            since: None,
            doubtful: None,
            taken: 0,
            seats: Vec::new(),
            free: Vec::new(),
            crowded: None,
        }
    }

    /// Gives a client its seat.
    pub(super) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        })
    }

    /// Takes a client's seat back. Nothing it asked may be under way.
    pub(super) fn leave(&mut self, seat: usize) {
        self.seats[seat] = Seat::default();
        self.free.push(seat);
    }

    /// How to wake the client on a seat.
    pub(super) fn waker(&mut self, seat: usize) -> &mut Option<W> {
        &mut self.seats[seat].waker
    }

    /// Notes that a client rests from now on. One that was never `served` may have its first request on the way.
    pub(super) fn rest(&mut self, seat: usize, now: Instant, served: bool) {
        self.seats[seat].resting = Some((now, served));
    }

    /// Notes that a client does not rest any more.
    pub(super) fn rise(&mut self, seat: usize) {
        self.seats[seat].resting = None;
    }

    /// How to wake those who rest.
    pub(super) fn resting(&self) -> impl Iterator<Item = &W> {
        self.seats.iter().filter(|seat| seat.resting.is_some()).filter_map(|seat| seat.waker.as_ref())
    }

    /// Has somebody who rests give up the seat, and says how to wake them: whoever never asked anything before all
    /// others, then whoever has rested longest. For so long as their next request may be on its way, nobody has to.
    pub(super) fn evict(&mut self, now: Instant) -> Option<&W> {
        let ripe = |seat: &&mut Seat<W>| seat.resting.is_some_and(|(since, _)| since + GRACE <= now);
        let longest = |seat: &&mut Seat<W>| seat.resting.map(|(since, served)| (served, since));
        let Some(seat) = self.seats.iter_mut().filter(ripe).min_by_key(longest) else {
            self.crowded.get_or_insert(now);
            return None;
        };
        (seat.resting, seat.evicted, self.crowded) = (None, true, None);
        seat.waker.as_ref()
    }

    /// Whether the client on a seat, which rests, has to give it up. If nobody could for a while, whoever comes to rest
    /// does: else newcomers would wait for as long as all others are busy.
    pub(super) fn yields(&mut self, seat: usize) -> bool {
        let seat = &mut self.seats[seat];
        if let (Some((since, true)), Some(crowded)) = (seat.resting, self.crowded)
            && since >= crowded + 2 * GRACE
        {
            (seat.evicted, self.crowded) = (true, None);
        }
        seat.evicted
    }

    /// Notes that a seat is not needed any more.
    pub(super) fn calm(&mut self) {
        self.crowded = None;
    }

    /// Adds an ask to the batch that gathers, and says whether it is the first. If there is no room, the client has its
    /// answer at once.
    pub(super) fn ask(&mut self, ask: Ask, seat: usize) -> bool {
        if !self.gathering.push(ask, seat) {
            self.seats[seat].answer = Some(Err(Fault::Full));
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
            let seat = &mut self.seats[seat];
            seat.answer = Some(result);
            if let Some(waker) = &seat.waker {
                wake(waker);
            }
        });
    }

    /// What the client on a seat was told, once.
    pub(super) fn answer(&mut self, seat: usize) -> Option<Result<i64, Fault>> {
        self.seats[seat].answer.take()
    }
}

/// How long the next request of a connection may be on its way before the seat can go to somebody else.
pub(super) const GRACE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_never_asked_gives_up_the_seat_and_then_whoever_has_rested_longest() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let later = start + GRACE;
        let seats: Vec<_> = (0..3).map(|_| queue.enter()).collect();
        for &seat in &seats {
            *queue.waker(seat) = Some(seat);
        }
        queue.rest(seats[0], start, true);
        queue.rest(seats[1], start + GRACE / 2, true);
        queue.rest(seats[2], later, false);
        assert_eq!(queue.evict(start), None, "the next request may be on its way");
        assert_eq!(queue.evict(later + GRACE), Some(&seats[2]), "it never asked");
        assert_eq!(queue.evict(later + GRACE), Some(&seats[0]), "it has rested longest");
        assert!(queue.yields(seats[2]) && queue.yields(seats[0]) && !queue.yields(seats[1]));
        assert_eq!(queue.resting().collect::<Vec<_>>(), [&seats[1]]);
        queue.leave(seats[0]);
        let again = queue.enter();
        assert!(!queue.yields(again), "a seat is as new for the next");
    }

    #[test]
    fn where_nobody_rests_for_long_whoever_comes_to_rest_gives_up_the_seat() {
        let mut queue = Queue::<usize>::default();
        let start = Instant::now();
        let seats: Vec<_> = (0..2).map(|_| queue.enter()).collect();
        assert_eq!(queue.evict(start), None);
        assert_eq!(queue.evict(start + GRACE), None);
        queue.rest(seats[0], start + GRACE, true);
        assert!(!queue.yields(seats[0]), "somebody else may be ripe soon");
        queue.rest(seats[1], start + 2 * GRACE, false);
        assert!(!queue.yields(seats[1]), "its first request may be on its way");
        queue.rest(seats[0], start + 2 * GRACE, true);
        assert!(queue.yields(seats[0]), "newcomers have waited long enough");
        queue.rest(seats[1], start + 2 * GRACE, true);
        assert!(!queue.yields(seats[1]), "one seat was needed");
        assert_eq!(queue.evict(start), None);
        queue.calm();
        queue.rest(seats[1], start + 4 * GRACE, true);
        assert!(!queue.yields(seats[1]), "none is needed any more");
    }
}
