//! The slots of the clients of one event loop: which clients wait for a reply, which are idle, which have stalled, and
//! which are evicted when a slot or memory is needed.
//!
//! A client has stalled if it has sent part of a request, or has not read a response. Its buffers are then kept here,
//! so that they can be freed at once, and their sum is bounded: see [`Slots::mark_stalled`]. Idle and stalled clients
//! are in queues, so that the one that has waited longest is found without a search. A stalled client stays at its
//! position whatever it sends or reads: a byte now and then is not progress, only a whole request or a whole response
//! is.
//!
//! `W` is the driver's handle to wake a client: a task's waker, or a thread and its socket.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::buffers::Buffers;
use crate::counter::StoreError;

/// The slots of one event loop.
pub(super) struct Slots<W> {
    all: All<W>,
    free: Vec<usize>,
    queues: [Queue; 3],
    /// Bytes of all buffers that are kept for stalled clients.
    held: usize,
    /// Since when a slot is needed and no client can be evicted.
    pressure_since: Option<Instant>,
}

/// The slots by number. Every number in use comes from [`Slots::allocate`], and slots are never removed.
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
    eviction: Eviction,
    /// The neighbours in the queue.
    next: Link,
    previous: Link,
    /// The buffers of a client that has stalled.
    held: Option<Box<Buffers>>,
}

/// The number of a slot, plus one.
type Link = Option<std::num::NonZeroU32>;

/// What a client waits for, other than the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// Its first request: no byte has arrived yet.
    FirstRequest,
    /// Its next request.
    NextRequest,
    /// The rest of a request, or space in the socket for the rest of a response.
    Peer,
}

/// Whether a client is evicted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Eviction {
    #[default]
    None,
    /// Its connection is closed when it is idle.
    WhenIdle,
    /// Its connection is closed at once: its buffers were freed.
    Now,
}

/// Clients with the same [`WaitsFor`], longest wait first.
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
            eviction: Eviction::None,
            next: None,
            previous: None,
            held: None,
        }
    }
}

impl<W> Slots<W> {
    /// Creates it without slots.
    pub(super) const fn new() -> Self {
        Self { all: All(Vec::new()), free: Vec::new(), queues: [Queue::EMPTY; 3], held: 0, pressure_since: None }
    }

    /// Returns a free slot for a client.
    pub(super) fn allocate(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.all.0.push(Slot::default());
            self.all.0.len() - 1
        })
    }

    /// Frees a client's slot. No command of the client may be in flight.
    pub(super) fn free(&mut self, slot: usize) {
        self.mark_active(slot);
        drop(self.take(slot));
        self.all[slot] = Slot::default();
        self.free.push(slot);
    }

    /// Returns the waker of the client in a slot.
    pub(super) fn waker(&mut self, slot: usize) -> &mut Option<W> {
        &mut self.all[slot].waker
    }

    /// Marks a client as idle since `now`. One that was not `served` waits for its first request.
    pub(super) fn mark_idle(&mut self, slot: usize, now: Instant, served: bool) {
        self.mark_active(slot);
        self.enqueue(slot, if served { WaitsFor::NextRequest } else { WaitsFor::FirstRequest }, now);
    }

    /// Marks a client as active: it no longer waits, except for the store.
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

    /// Marks a client as stalled, since `now` unless it already was, and keeps its buffers. If all kept buffers then
    /// exceed `share` bytes, evicts the clients that have stalled longest, frees their buffers at once, and calls
    /// `wake` for each. This client may be one of them.
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
        // A second call during one wait brings empty buffers.
        if buffers.capacity() > 0 && self.all[slot].held.is_none() {
            self.held += size(buffers);
            self.all[slot].held = Some(Box::new(std::mem::take(buffers)));
            self.free_memory(share, wake);
        }
        self.all[slot].eviction
    }

    /// Returns a client's buffers, if they were kept, through `buffers`, and whether it is evicted.
    pub(super) fn resume(&mut self, slot: usize, buffers: &mut Buffers) -> Eviction {
        if let Some(held) = self.take(slot) {
            *buffers = *held;
        }
        self.all[slot].eviction
    }

    /// Returns the wakers of all idle clients.
    pub(super) fn idle_wakers(&self) -> impl Iterator<Item = &W> {
        let is_idle = |slot: &&Slot<W>| matches!(slot.wait, Some(WaitsFor::FirstRequest | WaitsFor::NextRequest));
        self.all.0.iter().filter(is_idle).filter_map(|slot| slot.waker.as_ref())
    }

    /// Evicts a client, and returns its waker and when it closes. Unused connections come first; then the client that
    /// has stalled longest or the one that has been idle longest, from the longer queue. A client is spared for
    /// [`IDLE_GRACE`] or [`STALLED_GRACE`], in which its next bytes may arrive.
    pub(super) fn evict(&mut self, now: Instant) -> Option<(&W, Eviction)> {
        let stalled_count = self.queues[WaitsFor::Peer as usize].length;
        let idle_count = self.queues[WaitsFor::NextRequest as usize].length;
        let priority = if stalled_count > idle_count {
            [WaitsFor::FirstRequest, WaitsFor::Peer, WaitsFor::NextRequest]
        } else {
            [WaitsFor::FirstRequest, WaitsFor::NextRequest, WaitsFor::Peer]
        };
        let Some(slot) = priority.into_iter().find_map(|wait| self.first_evictable(wait, now)) else {
            self.pressure_since.get_or_insert(now);
            return None;
        };
        self.pressure_since = None;
        self.evict_slot(slot);
        let slot = &self.all[slot];
        slot.waker.as_ref().map(|waker| (waker, slot.eviction))
    }

    /// Returns whether the idle client in a slot has to close. If no client could be evicted for 2 × [`IDLE_GRACE`],
    /// the next one to become idle is: otherwise new clients would wait as long as all others are busy.
    pub(super) fn should_close(&mut self, slot: usize) -> bool {
        let slot = &mut self.all[slot];
        if let (Some(WaitsFor::NextRequest), Some(since), Some(pressure_since)) =
            (slot.wait, slot.since, self.pressure_since)
            && since >= pressure_since + 2 * IDLE_GRACE
        {
            (slot.eviction, self.pressure_since) = (Eviction::WhenIdle, None);
        }
        slot.eviction != Eviction::None
    }

    /// Records that no slot is needed now.
    pub(super) fn clear_pressure(&mut self) {
        self.pressure_since = None;
    }

    /// Stores the answer for the client in a slot, and returns its waker.
    pub(super) fn set_answer(&mut self, slot: usize, answer: Result<i64, StoreError>) -> Option<&W> {
        let slot = &mut self.all[slot];
        slot.answer = Some(answer);
        slot.waker.as_ref()
    }

    /// Takes the answer for the client in a slot, if there is one.
    pub(super) fn take_answer(&mut self, slot: usize) -> Option<Result<i64, StoreError>> {
        self.all[slot].answer.take()
    }

    /// Appends a client that is in no queue to one.
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

    /// Returns the client that has waited longest in a queue, if its grace period has passed.
    fn first_evictable(&self, wait: WaitsFor, now: Instant) -> Option<usize> {
        let first = index(self.queues[wait as usize].first?);
        let grace = if wait == WaitsFor::NextRequest { IDLE_GRACE } else { STALLED_GRACE };
        self.all[first].since.filter(|since| *since + grace <= now).map(|_| first)
    }

    /// Removes a client from its queue and marks it as evicted.
    fn evict_slot(&mut self, slot: usize) {
        let is_stalled = self.all[slot].wait == Some(WaitsFor::Peer);
        self.mark_active(slot);
        drop(self.take(slot));
        self.all[slot].eviction = if is_stalled { Eviction::Now } else { Eviction::WhenIdle };
    }

    /// Evicts the clients that have stalled longest until at most `share` bytes are kept.
    fn free_memory(&mut self, share: usize, mut wake: impl FnMut(&W)) {
        let mut next = self.queues[WaitsFor::Peer as usize].first;
        while self.held > share
            && let Some(link) = next
        {
            let slot = index(link);
            next = self.all[slot].next;
            // A client that has just been woken has its buffers itself, and will leave them here again.
            if self.all[slot].held.is_some() {
                self.evict_slot(slot);
                self.all[slot].waker.iter().for_each(&mut wake);
            }
        }
    }

    /// Takes the buffers that are kept for a client.
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

/// Returns the bytes that kept buffers take, with the allocator's overhead.
fn size(buffers: &Buffers) -> usize {
    buffers.capacity() + size_of::<Buffers>() + OVERHEAD
}

/// How long an idle client is spared from eviction, because its next request may arrive.
pub(super) const IDLE_GRACE: Duration = Duration::from_millis(100);

/// The same for a first request, and for the rest of a request: these arrive without a pause.
pub(super) const STALLED_GRACE: Duration = Duration::from_millis(20);

/// Bytes that the allocator may add to three allocations.
const OVERHEAD: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn slots_of(count: usize) -> (Slots<usize>, Vec<usize>) {
        let mut slots = Slots::new();
        let ids: Vec<_> = (0..count).map(|_| slots.allocate()).collect();
        for &slot in &ids {
            *slots.waker(slot) = Some(slot);
        }
        (slots, ids)
    }

    fn buffers(length: usize) -> Buffers {
        let mut buffers = Buffers::default();
        buffers.receive(&vec![b'x'; length]);
        buffers.shrink();
        buffers
    }

    #[test]
    fn unused_connections_are_evicted_first_and_then_the_longest_idle() {
        let (mut slots, ids) = slots_of(3);
        let start = Instant::now();
        let later = start + IDLE_GRACE;
        slots.mark_idle(ids[0], start, true);
        slots.mark_idle(ids[1], start + IDLE_GRACE / 2, true);
        slots.mark_idle(ids[2], later, false);
        assert_eq!(slots.evict(start).map(|(slot, _)| *slot), None, "the next request may arrive");
        assert_eq!(slots.evict(later + IDLE_GRACE).map(|(slot, _)| *slot), Some(ids[2]), "it sent no request");
        assert_eq!(slots.evict(later + IDLE_GRACE).map(|(slot, _)| *slot), Some(ids[0]), "it was idle longest");
        assert!(slots.should_close(ids[2]) && slots.should_close(ids[0]) && !slots.should_close(ids[1]));
        assert_eq!(slots.idle_wakers().collect::<Vec<_>>(), [&ids[1]]);
        slots.free(ids[0]);
        let again = slots.allocate();
        assert!(!slots.should_close(again), "a slot is reset for the next client");
    }

    #[test]
    fn under_pressure_the_next_client_to_become_idle_is_evicted() {
        let (mut slots, ids) = slots_of(2);
        let start = Instant::now();
        assert!(slots.evict(start).is_none());
        assert!(slots.evict(start + IDLE_GRACE).is_none());
        slots.mark_idle(ids[0], start + IDLE_GRACE, true);
        assert!(!slots.should_close(ids[0]), "another client may be evictable soon");
        slots.mark_idle(ids[1], start + 2 * IDLE_GRACE, false);
        assert!(!slots.should_close(ids[1]), "its first request may arrive");
        slots.mark_idle(ids[0], start + 2 * IDLE_GRACE, true);
        assert!(slots.should_close(ids[0]), "new clients have waited long enough");
        slots.mark_idle(ids[1], start + 2 * IDLE_GRACE, true);
        assert!(!slots.should_close(ids[1]), "one slot was needed");
        assert!(slots.evict(start).is_none());
        slots.clear_pressure();
        slots.mark_idle(ids[1], start + 4 * IDLE_GRACE, true);
        assert!(!slots.should_close(ids[1]), "no slot is needed now");
    }

    #[test]
    fn the_longest_stalled_is_evicted_if_more_have_stalled_than_are_idle() {
        let (mut slots, ids) = slots_of(4);
        let start = Instant::now();
        let later = start + 2 * IDLE_GRACE;
        slots.mark_idle(ids[0], start, true);
        for &slot in &ids[1..] {
            slots.mark_stalled(slot, start, &mut buffers(1), usize::MAX, |_| ());
        }
        // A request that arrives byte by byte does not reset the time.
        assert!(slots.resume(ids[1], &mut Buffers::default()) == Eviction::None);
        slots.mark_stalled(ids[1], later, &mut buffers(2), usize::MAX, |_| ());
        assert!(slots.evict(later) == Some((&ids[1], Eviction::Now)));
        assert!(slots.evict(later) == Some((&ids[2], Eviction::Now)));
        assert!(slots.evict(later) == Some((&ids[0], Eviction::WhenIdle)), "as many are idle as have stalled");
        slots.mark_active(ids[3]);
        slots.mark_stalled(ids[3], later, &mut Buffers::default(), usize::MAX, |_| ());
        assert!(slots.evict(later).is_none(), "another request has another start");
        assert!(slots.all[ids[3]].eviction == Eviction::None);
    }

    #[test]
    fn buffers_are_bounded_and_those_of_the_longest_stalled_are_freed() {
        let (mut slots, ids) = slots_of(4);
        let (start, share) = (Instant::now(), 3 * size(&buffers(1000)));
        let mut evicted = Vec::new();
        for &slot in &ids {
            slots.mark_stalled(slot, start, &mut buffers(1000), share, |slot| evicted.push(*slot));
            assert!(slots.held <= share);
        }
        assert_eq!(evicted, ids[..1]);
        let mut back = Buffers::default();
        assert!(slots.resume(ids[0], &mut back) == Eviction::Now && back.received().is_empty());
        assert!(slots.resume(ids[1], &mut back) == Eviction::None && back.received() == [b'x'; 1000]);
        // The longest stalled of those whose buffers are kept.
        slots.mark_stalled(ids[1], start, &mut buffers(1000), share, |slot| evicted.push(*slot));
        slots.mark_stalled(ids[0], start, &mut buffers(1500), share, |slot| evicted.push(*slot));
        assert_eq!(evicted, ids[..3]);
        assert!(slots.resume(ids[3], &mut back) == Eviction::None);
        let eviction = slots.mark_stalled(ids[3], start, &mut buffers(9000), share, |slot| evicted.push(*slot));
        assert!(eviction == Eviction::Now && slots.held <= share, "more than the share of all");
        for &slot in &ids {
            slots.free(slot);
        }
        assert_eq!((slots.held, slots.queues.map(|queue| queue.length)), (0, [0; 3]));
    }
}
