//! The seats of the clients of one event loop: which of them wait for an answer, which are idle, which have stalled, and
//! which go when room or memory is needed.
//!
//! A client has stalled while it has sent part of a request, or has not read a response. Its buffers are then kept
//! here, so that they can be freed at once, and their sum is bounded: see [`Seats::hold`]. Idle and stalled clients
//! stand in queues, so that the one that has waited longest is found without a search. What a stalled client sends or
//! reads does not move it to the end of its queue: one byte now and then is no progress, only a whole request or
//! a whole response is.
//!
//! `W` is how a driver wakes the client on a seat: a task's waker, a thread's handle.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::counter::Fault;
use crate::wire::Wire;

/// The seats of one event loop.
pub(super) struct Seats<W> {
    all: All<W>,
    free: Vec<usize>,
    queues: [Queue; 3],
    /// Bytes of all buffers that are kept for stalled clients.
    held: usize,
    /// Since when a seat is needed that nobody can give up.
    crowded: Option<Instant>,
}

/// The seats by number. Whoever has a number has it from [`Seats::enter`], and seats are never taken away.
struct All<W>(Vec<Seat<W>>);

impl<W> Index<usize> for All<W> {
    type Output = Seat<W>;

    fn index(&self, seat: usize) -> &Seat<W> {
        &self.0[seat]
    }
}

impl<W> IndexMut<usize> for All<W> {
    fn index_mut(&mut self, seat: usize) -> &mut Seat<W> {
        &mut self.0[seat]
    }
}

struct Seat<W> {
    waker: Option<W>,
    answer: Option<Result<i64, Fault>>,
    /// Since when the client is in its queue.
    since: Option<Instant>,
    wait: Option<Wait>,
    fate: Fate,
    /// The neighbours in the queue.
    next: Link,
    previous: Link,
    /// The buffers of a client that has stalled.
    held: Option<Box<Wire>>,
}

/// The number of a seat.
type Link = Option<std::num::NonZeroU32>;

/// What a client waits for that is not under way in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Its first request: nothing has come yet.
    First,
    /// Its next request.
    Next,
    /// The rest of a request, or room for the rest of a response.
    Rest,
}

/// What becomes of the client.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Stays,
    /// It has to go when it is idle.
    Yields,
    /// It has to go at once: its buffers are gone.
    Evicted,
}

/// Clients that wait for the same, longest first.
#[derive(Clone, Copy)]
struct Queue {
    first: Link,
    last: Link,
    length: usize,
}

impl Queue {
    const EMPTY: Self = Self { first: None, last: None, length: 0 };
}

impl<W> Default for Seat<W> {
    fn default() -> Self {
        Self {
            waker: None,
            answer: None,
            since: None,
            wait: None,
            fate: Fate::Stays,
            next: None,
            previous: None,
            held: None,
        }
    }
}

impl<W> Seats<W> {
    /// Nobody sits.
    pub(super) const fn new() -> Self {
        Self { all: All(Vec::new()), free: Vec::new(), queues: [Queue::EMPTY; 3], held: 0, crowded: None }
    }

    /// Gives a client its seat.
    pub(super) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.all.0.push(Seat::default());
            self.all.0.len() - 1
        })
    }

    /// Takes a client's seat back. Nothing it asked may be under way.
    pub(super) fn leave(&mut self, seat: usize) {
        self.rise(seat);
        drop(self.take(seat));
        self.all[seat] = Seat::default();
        self.free.push(seat);
    }

    /// How to wake the client on a seat.
    pub(super) fn waker(&mut self, seat: usize) -> &mut Option<W> {
        &mut self.all[seat].waker
    }

    /// Notes that a client is idle from now on. One that was never `served` may have its first request on the way.
    pub(super) fn rest(&mut self, seat: usize, now: Instant, served: bool) {
        self.rise(seat);
        self.enqueue(seat, if served { Wait::Next } else { Wait::First }, now);
    }

    /// Notes that a client waits no longer, except for the store.
    pub(super) fn rise(&mut self, seat: usize) {
        let seat = &mut self.all[seat];
        let Some(wait) = seat.wait.take() else { return };
        let (previous, next) = (seat.previous.take(), seat.next.take());
        let queue = &mut self.queues[wait as usize];
        queue.length -= 1;
        match previous {
            Some(previous) => self.all[index(previous)].next = next,
            None => queue.first = next,
        }
        match next {
            Some(next) => self.all[index(next)].previous = previous,
            None => queue.last = previous,
        }
    }

    /// Notes that a client has stalled, since now unless it had before, and keeps its buffers. If those of all are then
    /// more than `share` bytes, the clients that have stalled longest are evicted, which frees theirs at once; `wake`
    /// has them go. This one may be among them.
    pub(super) fn hold(
        &mut self,
        seat: usize,
        now: Instant,
        wire: &mut Wire,
        share: usize,
        wake: impl FnMut(&W),
    ) -> Fate {
        if self.all[seat].wait != Some(Wait::Rest) {
            self.rise(seat);
            self.enqueue(seat, Wait::Rest, now);
        }
        wire.shrink();
        // Asked again while it waits, it has nothing more.
        if wire.capacity() > 0 && self.all[seat].held.is_none() {
            self.held += size(wire);
            self.all[seat].held = Some(Box::new(std::mem::take(wire)));
            self.free_memory(share, wake);
        }
        self.all[seat].fate
    }

    /// Gives a client its buffers back, if they were kept, and says what becomes of it.
    pub(super) fn resume(&mut self, seat: usize, wire: &mut Wire) -> Fate {
        if let Some(held) = self.take(seat) {
            *wire = *held;
        }
        self.all[seat].fate
    }

    /// How to wake those who are idle.
    pub(super) fn resting(&self) -> impl Iterator<Item = &W> {
        let idle = |seat: &&Seat<W>| matches!(seat.wait, Some(Wait::First | Wait::Next));
        self.all.0.iter().filter(idle).filter_map(|seat| seat.waker.as_ref())
    }

    /// Has a client give up its seat, and says how to wake it and what becomes of it: one that never sent anything
    /// before all others, then the one that has stalled or was idle longest, of whichever are more. For so long as the
    /// rest or the next request may be on its way, nobody has to.
    pub(super) fn evict(&mut self, now: Instant) -> Option<(&W, Fate)> {
        let stalled = self.queues[Wait::Rest as usize].length;
        let idle = self.queues[Wait::Next as usize].length;
        let order =
            if stalled > idle { [Wait::First, Wait::Rest, Wait::Next] } else { [Wait::First, Wait::Next, Wait::Rest] };
        let Some(seat) = order.into_iter().find_map(|wait| self.ripe(wait, now)) else {
            self.crowded.get_or_insert(now);
            return None;
        };
        self.crowded = None;
        self.dismiss(seat);
        let seat = &self.all[seat];
        seat.waker.as_ref().map(|waker| (waker, seat.fate))
    }

    /// Whether the client on a seat, which is idle, has to give it up. If nobody could for a while, the next one to be
    /// idle does: else newcomers would wait for as long as all others are busy.
    pub(super) fn yields(&mut self, seat: usize) -> bool {
        let seat = &mut self.all[seat];
        if let (Some(Wait::Next), Some(since), Some(crowded)) = (seat.wait, seat.since, self.crowded)
            && since >= crowded + 2 * GRACE
        {
            (seat.fate, self.crowded) = (Fate::Yields, None);
        }
        seat.fate != Fate::Stays
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

    /// Puts a client that is in no queue at the end of one.
    fn enqueue(&mut self, seat: usize, wait: Wait, now: Instant) {
        let queue = &mut self.queues[wait as usize];
        queue.length += 1;
        let previous = std::mem::replace(&mut queue.last, link(seat));
        match previous {
            Some(previous) => self.all[index(previous)].next = link(seat),
            None => queue.first = link(seat),
        }
        let seat = &mut self.all[seat];
        (seat.wait, seat.since, seat.previous) = (Some(wait), Some(now), previous);
    }

    /// The client that has waited longest in a queue, if it is long enough.
    fn ripe(&self, wait: Wait, now: Instant) -> Option<usize> {
        let first = index(self.queues[wait as usize].first?);
        let grace = if wait == Wait::Next { GRACE } else { BRIEF };
        self.all[first].since.filter(|since| *since + grace <= now).map(|_| first)
    }

    /// Takes a client out of its queue and has it go.
    fn dismiss(&mut self, seat: usize) {
        let stalled = self.all[seat].wait == Some(Wait::Rest);
        self.rise(seat);
        drop(self.take(seat));
        self.all[seat].fate = if stalled { Fate::Evicted } else { Fate::Yields };
    }

    /// Evicts those who have stalled longest until no more than `share` bytes are kept.
    fn free_memory(&mut self, share: usize, mut wake: impl FnMut(&W)) {
        let mut next = self.queues[Wait::Rest as usize].first;
        while self.held > share
            && let Some(link) = next
        {
            let seat = index(link);
            next = self.all[seat].next;
            // The buffers of one that has just been woken are not here, and will be in a moment.
            if self.all[seat].held.is_some() {
                self.dismiss(seat);
                self.all[seat].waker.iter().for_each(&mut wake);
            }
        }
    }

    /// The buffers that are kept for a client.
    fn take(&mut self, seat: usize) -> Option<Box<Wire>> {
        let held = self.all[seat].held.take()?;
        self.held -= size(&held);
        Some(held)
    }
}

fn link(seat: usize) -> Link {
    std::num::NonZeroU32::new(seat as u32 + 1)
}

fn index(link: std::num::NonZeroU32) -> usize {
    link.get() as usize - 1
}

/// What it costs to keep buffers, with what the allocator adds to them.
fn size(wire: &Wire) -> usize {
    wire.capacity() + size_of::<Wire>() + OVERHEAD
}

/// How long the next request of a connection may be on its way before the seat can go to somebody else.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// The same for a first request, and for the rest of one: it comes right behind what is there.
pub(super) const BRIEF: Duration = Duration::from_millis(20);

/// Bytes that the allocator may add to three pieces of memory.
const OVERHEAD: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn room(count: usize) -> (Seats<usize>, Vec<usize>) {
        let mut room = Seats::new();
        let seats: Vec<_> = (0..count).map(|_| room.enter()).collect();
        for &seat in &seats {
            *room.waker(seat) = Some(seat);
        }
        (room, seats)
    }

    fn wire(length: usize) -> Wire {
        let mut wire = Wire::default();
        wire.take_in(&vec![b'x'; length]);
        wire.shrink();
        wire
    }

    #[test]
    fn whoever_never_asked_gives_up_the_seat_and_then_whoever_has_rested_longest() {
        let (mut room, seats) = room(3);
        let start = Instant::now();
        let later = start + GRACE;
        room.rest(seats[0], start, true);
        room.rest(seats[1], start + GRACE / 2, true);
        room.rest(seats[2], later, false);
        assert_eq!(room.evict(start).map(|(seat, _)| *seat), None, "the next request may be on its way");
        assert_eq!(room.evict(later + GRACE).map(|(seat, _)| *seat), Some(seats[2]), "it never asked");
        assert_eq!(room.evict(later + GRACE).map(|(seat, _)| *seat), Some(seats[0]), "it has rested longest");
        assert!(room.yields(seats[2]) && room.yields(seats[0]) && !room.yields(seats[1]));
        assert_eq!(room.resting().collect::<Vec<_>>(), [&seats[1]]);
        room.leave(seats[0]);
        let again = room.enter();
        assert!(!room.yields(again), "a seat is as new for the next");
    }

    #[test]
    fn where_nobody_rests_for_long_whoever_comes_to_rest_gives_up_the_seat() {
        let (mut room, seats) = room(2);
        let start = Instant::now();
        assert!(room.evict(start).is_none());
        assert!(room.evict(start + GRACE).is_none());
        room.rest(seats[0], start + GRACE, true);
        assert!(!room.yields(seats[0]), "somebody else may be ripe soon");
        room.rest(seats[1], start + 2 * GRACE, false);
        assert!(!room.yields(seats[1]), "its first request may be on its way");
        room.rest(seats[0], start + 2 * GRACE, true);
        assert!(room.yields(seats[0]), "newcomers have waited long enough");
        room.rest(seats[1], start + 2 * GRACE, true);
        assert!(!room.yields(seats[1]), "one seat was needed");
        assert!(room.evict(start).is_none());
        room.calm();
        room.rest(seats[1], start + 4 * GRACE, true);
        assert!(!room.yields(seats[1]), "none is needed any more");
    }

    #[test]
    fn the_longest_stalled_goes_where_more_have_stalled_than_are_idle() {
        let (mut room, seats) = room(4);
        let start = Instant::now();
        let later = start + 2 * GRACE;
        room.rest(seats[0], start, true);
        for &seat in &seats[1..] {
            room.hold(seat, start, &mut wire(1), usize::MAX, |_| ());
        }
        // What comes of it byte by byte does not make it younger.
        assert!(room.resume(seats[1], &mut Wire::default()) == Fate::Stays);
        room.hold(seats[1], later, &mut wire(2), usize::MAX, |_| ());
        assert!(room.evict(later) == Some((&seats[1], Fate::Evicted)));
        assert!(room.evict(later) == Some((&seats[2], Fate::Evicted)));
        assert!(room.evict(later) == Some((&seats[0], Fate::Yields)), "as many are idle as have stalled");
        room.rise(seats[3]);
        room.hold(seats[3], later, &mut Wire::default(), usize::MAX, |_| ());
        assert!(room.evict(later).is_none(), "another request has another start");
        assert!(room.all[seats[3]].fate == Fate::Stays);
    }

    #[test]
    fn buffers_are_bounded_and_those_of_the_longest_stalled_are_freed() {
        let (mut room, seats) = room(4);
        let (start, share) = (Instant::now(), 3 * size(&wire(1000)));
        let mut evicted = Vec::new();
        for &seat in &seats {
            room.hold(seat, start, &mut wire(1000), share, |seat| evicted.push(*seat));
            assert!(room.held <= share);
        }
        assert_eq!(evicted, seats[..1]);
        let mut back = Wire::default();
        assert!(room.resume(seats[0], &mut back) == Fate::Evicted && back.unread().is_empty());
        assert!(room.resume(seats[1], &mut back) == Fate::Stays && back.unread() == [b'x'; 1000]);
        // The longest of those whose buffers are here.
        room.hold(seats[1], start, &mut wire(1000), share, |seat| evicted.push(*seat));
        room.hold(seats[0], start, &mut wire(1500), share, |seat| evicted.push(*seat));
        assert_eq!(evicted, seats[..3]);
        assert!(room.resume(seats[3], &mut back) == Fate::Stays);
        let fate = room.hold(seats[3], start, &mut wire(9000), share, |seat| evicted.push(*seat));
        assert!(fate == Fate::Evicted && room.held <= share, "more than all may have");
        for &seat in &seats {
            room.leave(seat);
        }
        assert_eq!((room.held, room.queues.map(|queue| queue.length)), (0, [0; 3]));
    }
}
