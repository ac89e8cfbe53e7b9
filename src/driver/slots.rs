//! The seats of the clients of one event loop: which of them wait for an answer, which are idle, which have stalled, and
//! which go when room or memory is needed.
//!
//! A client has stalled while it has sent part of a request, or has not read a response. Its buffers are then kept
//! here, so that they can be freed at once, and their sum is bounded: see [`Slots::mark_stalled`]. Idle and stalled clients
//! stand in queues, so that the one that has waited longest is found without a search. What a stalled client sends or
//! reads does not move it to the end of its queue: one byte now and then is no progress, only a whole request or
//! a whole response is.
//!
//! `W` is how a driver wakes the client on a seat: a task's waker, a thread's handle.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::buffers::Buffers;
use crate::counter::StoreError;

/// The seats of one event loop.
pub(super) struct Slots<W> {
    all: All<W>,
    free: Vec<usize>,
    queues: [Queue; 3],
    /// Bytes of all buffers that are kept for stalled clients.
    held: usize,
    /// Since when a seat is needed that nobody can give up.
    crowded: Option<Instant>,
}

/// The seats by number. Whoever has a number has it from [`Slots::allocate`], and seats are never taken away.
struct All<W>(Vec<Slot<W>>);

impl<W> Index<usize> for All<W> {
    type Output = Slot<W>;

    fn index(&self, slot: usize) -> &Slot<W> {
        &self.0[slot]
    }
}

impl<W> IndexMut<usize> for All<W> {
    fn index_mut(&mut self, slot: usize) -> &mut Slot<W> {
        &mut self.0[slot]
    }
}

struct Slot<W> {
    waker: Option<W>,
    answer: Option<Result<i64, StoreError>>,
    /// Since when the client is in its queue.
    since: Option<Instant>,
    wait: Option<WaitsFor>,
    state: Eviction,
    /// The neighbours in the queue.
    next: Link,
    previous: Link,
    /// The buffers of a client that has stalled.
    held: Option<Box<Buffers>>,
}

/// The number of a seat.
type Link = Option<std::num::NonZeroU32>;

/// What a client waits for that is not under way in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// Its first request: nothing has come yet.
    FirstRequest,
    /// Its next request.
    NextRequest,
    /// The rest of a request, or room for the rest of a response.
    Peer,
}

/// What becomes of the client.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Eviction {
    #[default]
    None,
    /// It has to go when it is idle.
    WhenIdle,
    /// It has to go at once: its buffers are gone.
    Now,
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

impl<W> Default for Slot<W> {
    fn default() -> Self {
        Self {
            waker: None,
            answer: None,
            since: None,
            wait: None,
            state: Eviction::None,
            next: None,
            previous: None,
            held: None,
        }
    }
}

impl<W> Slots<W> {
    /// Nobody sits.
    pub(super) const fn new() -> Self {
        Self { all: All(Vec::new()), free: Vec::new(), queues: [Queue::EMPTY; 3], held: 0, crowded: None }
    }

    /// Gives a client its seat.
    pub(super) fn allocate(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.all.0.push(Slot::default());
            self.all.0.len() - 1
        })
    }

    /// Takes a client's seat back. Nothing it asked may be under way.
    pub(super) fn free(&mut self, slot: usize) {
        self.mark_active(slot);
        drop(self.take(slot));
        self.all[slot] = Slot::default();
        self.free.push(slot);
    }

    /// How to wake the client on a seat.
    pub(super) fn waker(&mut self, slot: usize) -> &mut Option<W> {
        &mut self.all[slot].waker
    }

    /// Notes that a client is idle from now on. One that was never `served` may have its first request on the way.
    pub(super) fn mark_idle(&mut self, slot: usize, now: Instant, served: bool) {
        self.mark_active(slot);
        self.enqueue(slot, if served { WaitsFor::NextRequest } else { WaitsFor::FirstRequest }, now);
    }

    /// Notes that a client waits no longer, except for the store.
    pub(super) fn mark_active(&mut self, slot: usize) {
        let slot = &mut self.all[slot];
        let Some(wait) = slot.wait.take() else { return };
        let (previous, next) = (slot.previous.take(), slot.next.take());
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
    pub(super) fn mark_stalled(
        &mut self,
        slot: usize,
        now: Instant,
        buffers: &mut Buffers,
        share: usize,
        wake: impl FnMut(&W),
    ) -> Eviction {
        if self.all[slot].wait != Some(WaitsFor::Peer) {
            self.mark_active(slot);
            self.enqueue(slot, WaitsFor::Peer, now);
        }
        buffers.shrink();
        // Asked again while it waits, it has nothing more.
        if buffers.capacity() > 0 && self.all[slot].held.is_none() {
            self.held += size(buffers);
            self.all[slot].held = Some(Box::new(std::mem::take(buffers)));
            self.free_memory(share, wake);
        }
        self.all[slot].state
    }

    /// Gives a client its buffers back, if they were kept, and says what becomes of it.
    pub(super) fn resume(&mut self, slot: usize, buffers: &mut Buffers) -> Eviction {
        if let Some(held) = self.take(slot) {
            *buffers = *held;
        }
        self.all[slot].state
    }

    /// How to wake those who are idle.
    pub(super) fn idle_wakers(&self) -> impl Iterator<Item = &W> {
        let idle = |slot: &&Slot<W>| matches!(slot.wait, Some(WaitsFor::FirstRequest | WaitsFor::NextRequest));
        self.all.0.iter().filter(idle).filter_map(|slot| slot.waker.as_ref())
    }

    /// Has a client give up its seat, and says how to wake it and what becomes of it: one that never sent anything
    /// before all others, then the one that has stalled or was idle longest, of whichever are more. For so long as the
    /// rest or the next request may be on its way, nobody has to.
    pub(super) fn evict(&mut self, now: Instant) -> Option<(&W, Eviction)> {
        let stalled = self.queues[WaitsFor::Peer as usize].length;
        let idle = self.queues[WaitsFor::NextRequest as usize].length;
        let order = if stalled > idle {
            [WaitsFor::FirstRequest, WaitsFor::Peer, WaitsFor::NextRequest]
        } else {
            [WaitsFor::FirstRequest, WaitsFor::NextRequest, WaitsFor::Peer]
        };
        let Some(slot) = order.into_iter().find_map(|wait| self.first_evictable(wait, now)) else {
            self.crowded.get_or_insert(now);
            return None;
        };
        self.crowded = None;
        self.evict_slot(slot);
        let slot = &self.all[slot];
        slot.waker.as_ref().map(|waker| (waker, slot.state))
    }

    /// Whether the client on a seat, which is idle, has to give it up. If nobody could for a while, the next one to be
    /// idle does: else newcomers would wait for as long as all others are busy.
    pub(super) fn should_close(&mut self, slot: usize) -> bool {
        let slot = &mut self.all[slot];
        if let (Some(WaitsFor::NextRequest), Some(since), Some(crowded)) = (slot.wait, slot.since, self.crowded)
            && since >= crowded + 2 * IDLE_GRACE
        {
            (slot.state, self.crowded) = (Eviction::WhenIdle, None);
        }
        slot.state != Eviction::None
    }

    /// Notes that a seat is not needed any more.
    pub(super) fn clear_pressure(&mut self) {
        self.crowded = None;
    }

    /// Leaves the client on a seat its answer, and says how to wake it.
    pub(super) fn set_answer(&mut self, slot: usize, answer: Result<i64, StoreError>) -> Option<&W> {
        let slot = &mut self.all[slot];
        slot.answer = Some(answer);
        slot.waker.as_ref()
    }

    /// What the client on a seat was told, once.
    pub(super) fn take_answer(&mut self, slot: usize) -> Option<Result<i64, StoreError>> {
        self.all[slot].answer.take()
    }

    /// Puts a client that is in no queue at the end of one.
    fn enqueue(&mut self, slot: usize, wait: WaitsFor, now: Instant) {
        let queue = &mut self.queues[wait as usize];
        queue.length += 1;
        let previous = std::mem::replace(&mut queue.last, link(slot));
        match previous {
            Some(previous) => self.all[index(previous)].next = link(slot),
            None => queue.first = link(slot),
        }
        let slot = &mut self.all[slot];
        (slot.wait, slot.since, slot.previous) = (Some(wait), Some(now), previous);
    }

    /// The client that has waited longest in a queue, if it is long enough.
    fn first_evictable(&self, wait: WaitsFor, now: Instant) -> Option<usize> {
        let first = index(self.queues[wait as usize].first?);
        let grace = if wait == WaitsFor::NextRequest { IDLE_GRACE } else { STALLED_GRACE };
        self.all[first].since.filter(|since| *since + grace <= now).map(|_| first)
    }

    /// Takes a client out of its queue and has it go.
    fn evict_slot(&mut self, slot: usize) {
        let stalled = self.all[slot].wait == Some(WaitsFor::Peer);
        self.mark_active(slot);
        drop(self.take(slot));
        self.all[slot].state = if stalled { Eviction::Now } else { Eviction::WhenIdle };
    }

    /// Evicts those who have stalled longest until no more than `share` bytes are kept.
    fn free_memory(&mut self, share: usize, mut wake: impl FnMut(&W)) {
        let mut next = self.queues[WaitsFor::Peer as usize].first;
        while self.held > share
            && let Some(link) = next
        {
            let slot = index(link);
            next = self.all[slot].next;
            // The buffers of one that has just been woken are not here, and will be in a moment.
            if self.all[slot].held.is_some() {
                self.evict_slot(slot);
                self.all[slot].waker.iter().for_each(&mut wake);
            }
        }
    }

    /// The buffers that are kept for a client.
    fn take(&mut self, slot: usize) -> Option<Box<Buffers>> {
        let held = self.all[slot].held.take()?;
        self.held -= size(&held);
        Some(held)
    }
}

fn link(slot: usize) -> Link {
    std::num::NonZeroU32::new(slot as u32 + 1)
}

fn index(link: std::num::NonZeroU32) -> usize {
    link.get() as usize - 1
}

/// What it costs to keep buffers, with what the allocator adds to them.
fn size(buffers: &Buffers) -> usize {
    buffers.capacity() + size_of::<Buffers>() + OVERHEAD
}

/// How long the next request of a connection may be on its way before the seat can go to somebody else.
pub(super) const IDLE_GRACE: Duration = Duration::from_millis(100);

/// The same for a first request, and for the rest of one: it comes right behind what is there.
pub(super) const STALLED_GRACE: Duration = Duration::from_millis(20);

/// Bytes that the allocator may add to three pieces of memory.
const OVERHEAD: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn room(count: usize) -> (Slots<usize>, Vec<usize>) {
        let mut room = Slots::new();
        let slots: Vec<_> = (0..count).map(|_| room.allocate()).collect();
        for &slot in &slots {
            *room.waker(slot) = Some(slot);
        }
        (room, slots)
    }

    fn buffers(length: usize) -> Buffers {
        let mut buffers = Buffers::default();
        buffers.receive(&vec![b'x'; length]);
        buffers.shrink();
        buffers
    }

    #[test]
    fn whoever_never_asked_gives_up_the_seat_and_then_whoever_has_rested_longest() {
        let (mut room, slots) = room(3);
        let start = Instant::now();
        let later = start + IDLE_GRACE;
        room.mark_idle(slots[0], start, true);
        room.mark_idle(slots[1], start + IDLE_GRACE / 2, true);
        room.mark_idle(slots[2], later, false);
        assert_eq!(room.evict(start).map(|(slot, _)| *slot), None, "the next request may be on its way");
        assert_eq!(room.evict(later + IDLE_GRACE).map(|(slot, _)| *slot), Some(slots[2]), "it never asked");
        assert_eq!(room.evict(later + IDLE_GRACE).map(|(slot, _)| *slot), Some(slots[0]), "it has rested longest");
        assert!(room.should_close(slots[2]) && room.should_close(slots[0]) && !room.should_close(slots[1]));
        assert_eq!(room.idle_wakers().collect::<Vec<_>>(), [&slots[1]]);
        room.free(slots[0]);
        let again = room.allocate();
        assert!(!room.should_close(again), "a seat is as new for the next");
    }

    #[test]
    fn where_nobody_rests_for_long_whoever_comes_to_rest_gives_up_the_seat() {
        let (mut room, slots) = room(2);
        let start = Instant::now();
        assert!(room.evict(start).is_none());
        assert!(room.evict(start + IDLE_GRACE).is_none());
        room.mark_idle(slots[0], start + IDLE_GRACE, true);
        assert!(!room.should_close(slots[0]), "somebody else may be ripe soon");
        room.mark_idle(slots[1], start + 2 * IDLE_GRACE, false);
        assert!(!room.should_close(slots[1]), "its first request may be on its way");
        room.mark_idle(slots[0], start + 2 * IDLE_GRACE, true);
        assert!(room.should_close(slots[0]), "newcomers have waited long enough");
        room.mark_idle(slots[1], start + 2 * IDLE_GRACE, true);
        assert!(!room.should_close(slots[1]), "one seat was needed");
        assert!(room.evict(start).is_none());
        room.clear_pressure();
        room.mark_idle(slots[1], start + 4 * IDLE_GRACE, true);
        assert!(!room.should_close(slots[1]), "none is needed any more");
    }

    #[test]
    fn the_longest_stalled_goes_where_more_have_stalled_than_are_idle() {
        let (mut room, slots) = room(4);
        let start = Instant::now();
        let later = start + 2 * IDLE_GRACE;
        room.mark_idle(slots[0], start, true);
        for &slot in &slots[1..] {
            room.mark_stalled(slot, start, &mut buffers(1), usize::MAX, |_| ());
        }
        // What comes of it byte by byte does not make it younger.
        assert!(room.resume(slots[1], &mut Buffers::default()) == Eviction::None);
        room.mark_stalled(slots[1], later, &mut buffers(2), usize::MAX, |_| ());
        assert!(room.evict(later) == Some((&slots[1], Eviction::Now)));
        assert!(room.evict(later) == Some((&slots[2], Eviction::Now)));
        assert!(room.evict(later) == Some((&slots[0], Eviction::WhenIdle)), "as many are idle as have stalled");
        room.mark_active(slots[3]);
        room.mark_stalled(slots[3], later, &mut Buffers::default(), usize::MAX, |_| ());
        assert!(room.evict(later).is_none(), "another request has another start");
        assert!(room.all[slots[3]].state == Eviction::None);
    }

    #[test]
    fn buffers_are_bounded_and_those_of_the_longest_stalled_are_freed() {
        let (mut room, slots) = room(4);
        let (start, share) = (Instant::now(), 3 * size(&buffers(1000)));
        let mut evicted = Vec::new();
        for &slot in &slots {
            room.mark_stalled(slot, start, &mut buffers(1000), share, |slot| evicted.push(*slot));
            assert!(room.held <= share);
        }
        assert_eq!(evicted, slots[..1]);
        let mut back = Buffers::default();
        assert!(room.resume(slots[0], &mut back) == Eviction::Now && back.received().is_empty());
        assert!(room.resume(slots[1], &mut back) == Eviction::None && back.received() == [b'x'; 1000]);
        // The longest of those whose buffers are here.
        room.mark_stalled(slots[1], start, &mut buffers(1000), share, |slot| evicted.push(*slot));
        room.mark_stalled(slots[0], start, &mut buffers(1500), share, |slot| evicted.push(*slot));
        assert_eq!(evicted, slots[..3]);
        assert!(room.resume(slots[3], &mut back) == Eviction::None);
        let fate = room.mark_stalled(slots[3], start, &mut buffers(9000), share, |slot| evicted.push(*slot));
        assert!(fate == Eviction::Now && room.held <= share, "more than all may have");
        for &slot in &slots {
            room.free(slot);
        }
        assert_eq!((room.held, room.queues.map(|queue| queue.length)), (0, [0; 3]));
    }
}
