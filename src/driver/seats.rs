//! The seats of the clients of one event loop: who waits for an answer, who rests, and who goes when room is needed.
//!
//! `W` is how a driver wakes the client on a seat: a task's waker, a thread's handle.

use std::time::{Duration, Instant};

use crate::counter::Fault;

/// The seats of one event loop.
pub(super) struct Seats<W> {
    all: Vec<Seat<W>>,
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

impl<W> Seats<W> {
    /// Nobody sits.
    pub(super) const fn new() -> Self {
        Self { all: Vec::new(), free: Vec::new(), crowded: None }
    }

    /// Gives a client its seat.
    pub(super) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(Seat::default());
            self.all.len() - 1
        })
    }

    /// Takes a client's seat back. Nothing it asked may be under way.
    pub(super) fn leave(&mut self, seat: usize) {
        self.all[seat] = Seat::default();
        self.free.push(seat);
    }

    /// How to wake the client on a seat.
    pub(super) fn waker(&mut self, seat: usize) -> &mut Option<W> {
        &mut self.all[seat].waker
    }

    /// Notes that a client rests from now on. One that was never `served` may have its first request on the way.
    pub(super) fn rest(&mut self, seat: usize, now: Instant, served: bool) {
        self.all[seat].resting = Some((now, served));
    }

    /// Notes that a client does not rest any more.
    pub(super) fn rise(&mut self, seat: usize) {
        self.all[seat].resting = None;
    }

    /// How to wake those who rest.
    pub(super) fn resting(&self) -> impl Iterator<Item = &W> {
        self.all.iter().filter(|seat| seat.resting.is_some()).filter_map(|seat| seat.waker.as_ref())
    }

    /// Has somebody who rests give up the seat, and says how to wake them: whoever never asked anything before all
    /// others, then whoever has rested longest. For so long as their next request may be on its way, nobody has to.
    pub(super) fn evict(&mut self, now: Instant) -> Option<&W> {
        let ripe = |seat: &&mut Seat<W>| seat.resting.is_some_and(|(since, _)| since + GRACE <= now);
        let longest = |seat: &&mut Seat<W>| seat.resting.map(|(since, served)| (served, since));
        let Some(seat) = self.all.iter_mut().filter(ripe).min_by_key(longest) else {
            self.crowded.get_or_insert(now);
            return None;
        };
        (seat.resting, seat.evicted, self.crowded) = (None, true, None);
        seat.waker.as_ref()
    }

    /// Whether the client on a seat, which rests, has to give it up. If nobody could for a while, whoever comes to rest
    /// does: else newcomers would wait for as long as all others are busy.
    pub(super) fn yields(&mut self, seat: usize) -> bool {
        let seat = &mut self.all[seat];
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
    /// Leaves the client on a seat its answer, and says how to wake it.
    pub(super) fn tell(&mut self, seat: usize, answer: Result<i64, Fault>) -> Option<&W> {
        let seat = &mut self.all[seat];
        seat.answer = Some(answer);
        seat.waker.as_ref()
    }

    /// What the client on a seat was told, once.
    pub(super) fn answer(&mut self, seat: usize) -> Option<Result<i64, Fault>> {
        self.all[seat].answer.take()
    }
}

/// How long the next request of a connection may be on its way before the seat can go to somebody else.
pub(super) const GRACE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_never_asked_gives_up_the_seat_and_then_whoever_has_rested_longest() {
        let mut room = Seats::new();
        let start = Instant::now();
        let later = start + GRACE;
        let seats: Vec<_> = (0..3).map(|_| room.enter()).collect();
        for &seat in &seats {
            *room.waker(seat) = Some(seat);
        }
        room.rest(seats[0], start, true);
        room.rest(seats[1], start + GRACE / 2, true);
        room.rest(seats[2], later, false);
        assert_eq!(room.evict(start), None, "the next request may be on its way");
        assert_eq!(room.evict(later + GRACE), Some(&seats[2]), "it never asked");
        assert_eq!(room.evict(later + GRACE), Some(&seats[0]), "it has rested longest");
        assert!(room.yields(seats[2]) && room.yields(seats[0]) && !room.yields(seats[1]));
        assert_eq!(room.resting().collect::<Vec<_>>(), [&seats[1]]);
        room.leave(seats[0]);
        let again = room.enter();
        assert!(!room.yields(again), "a seat is as new for the next");
    }

    #[test]
    fn where_nobody_rests_for_long_whoever_comes_to_rest_gives_up_the_seat() {
        let mut room = Seats::<usize>::new();
        let start = Instant::now();
        let seats: Vec<_> = (0..2).map(|_| room.enter()).collect();
        assert_eq!(room.evict(start), None);
        assert_eq!(room.evict(start + GRACE), None);
        room.rest(seats[0], start + GRACE, true);
        assert!(!room.yields(seats[0]), "somebody else may be ripe soon");
        room.rest(seats[1], start + 2 * GRACE, false);
        assert!(!room.yields(seats[1]), "its first request may be on its way");
        room.rest(seats[0], start + 2 * GRACE, true);
        assert!(room.yields(seats[0]), "newcomers have waited long enough");
        room.rest(seats[1], start + 2 * GRACE, true);
        assert!(!room.yields(seats[1]), "one seat was needed");
        assert_eq!(room.evict(start), None);
        room.calm();
        room.rest(seats[1], start + 4 * GRACE, true);
        assert!(!room.yields(seats[1]), "none is needed any more");
    }
}
