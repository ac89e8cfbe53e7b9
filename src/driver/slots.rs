//! The slots of the clients of one event loop: which clients wait for a reply, which are idle, which have stalled, and
//! which are evicted when a slot or memory is needed.
//!
//! A client has stalled if it has sent part of a request, or has not read a response. Its buffers are then kept here,
//! so that they can be freed at once, and their sum is bounded: see [`Slots::mark_stalled`]. Idle and stalled clients
//! are in queues, so that the one that has waited longest is found without a search. A stalled client stays at its
//! position whatever it sends or reads: a byte now and then is not progress, only a whole request or a whole response
//! is.
//!
//! ```text
//!           allocate            command             reply of the store
//!    Free ------------> Active ---------> Waiting --------------------> Completed
//!      ^                ^ |  ^ |                                            |
//!      |                | |  | |                take_result                 |
//!      |                | |  +-|--------------------------------------------+
//!      |        request | |    | part of a request, or the socket is full
//!      |                | |    +-----------> Stalled
//!      |                | | response sent    |     |
//!      |                | v                  |     | evict, or its memory is needed
//!      |                Idle <---------------+     v
//!      |                  | evict                Evicted
//!      |    free          v                        |
//!      +-------------- Closing                     |
//!      +-------------------------------------------+
//! ```
//!
//! A request may arrive while an idle client is evicted. It gets a response (`Closing` to `Active`), but then the
//! client has no `keep_alive` from then on: it returns to `Closing` where it would become idle.
//!
//! `W` is the driver's handle to wake a client: a task's waker, or a thread and its socket.

use std::io;
use std::mem;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::buffers::Buffers;
use crate::counter::StoreError;

/// The slots of one event loop.
pub(super) struct Slots<W> {
    all: All<W>,
    free: Vec<usize>,
    queues: [Queue; 3],
    /// Bytes of all buffers that are kept for stalled clients, and [`READ_COST`] for each slot of a group.
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
    state: State,
    /// The neighbours in the queue, in a state that has one.
    next: Link,
    previous: Link,
}

impl<W> Slot<W> {
    const fn new(state: State) -> Self {
        Self { waker: None, state, next: None, previous: None }
    }
}

/// The state of a slot. `keep_alive` is `false` if the client was evicted while it was idle, and a request that had
/// already arrived gets its response first.
enum State {
    /// No client has the slot.
    Free,
    /// The client is served.
    Active { keep_alive: bool },
    /// A command of the client is in a batch.
    Waiting { keep_alive: bool },
    /// The result of the command, until the client takes it.
    Completed { keep_alive: bool, result: Result<i64, StoreError> },
    /// The client waits for a request: the first one, or after it was `served`, the next one.
    Idle { served: bool, since: Instant },
    /// The client waits for the rest of a request, or for space in the socket for the rest of a response. `held` are
    /// its buffers, except while it uses them.
    Stalled { keep_alive: bool, since: Instant, held: Option<Box<Buffers>> },
    /// The client was evicted while it was idle. Its connection is closed unless a request has already arrived.
    Closing,
    /// The client was evicted while it had stalled. Its buffers were freed, and its connection is closed at once.
    Evicted,
}

impl State {
    /// Returns whether the connection stays open after the request in progress.
    fn keep_alive(&self) -> bool {
        match *self {
            Self::Free | Self::Idle { .. } => true,
            Self::Active { keep_alive }
            | Self::Waiting { keep_alive }
            | Self::Completed { keep_alive, .. }
            | Self::Stalled { keep_alive, .. } => keep_alive,
            Self::Closing | Self::Evicted => false,
        }
    }
}

/// The queues.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Idle clients that have not sent any byte yet.
    Unused,
    /// Idle clients that were served.
    Idle,
    /// Stalled clients.
    Stalled,
}

/// Clients in the order in which they began to wait.
#[derive(Clone, Copy)]
struct Queue {
    first: Link,
    last: Link,
    length: usize,
}

impl Queue {
    const EMPTY: Self = Self { first: None, last: None, length: 0 };
}

/// The number of a slot, plus one.
type Link = Option<NonZeroU32>;

/// How the connection of an evicted client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// It was idle: its connection is closed once it is idle again, if a request has arrived meanwhile.
    Idle,
    /// It had stalled: its connection is closed at once, since its buffers were freed.
    Stalled,
}

/// The error of a client that was evicted while it had stalled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evicted;

impl From<Evicted> for io::Error {
    fn from(_: Evicted) -> Self {
        io::ErrorKind::ConnectionAborted.into()
    }
}

impl<W> Slots<W> {
    /// Creates it without slots.
    pub(super) const fn new() -> Self {
        Self { all: All(Vec::new()), free: Vec::new(), queues: [Queue::EMPTY; 3], held: 0, pressure_since: None }
    }

    /// Returns a free slot for a client, which is active.
    pub(super) fn allocate(&mut self) -> usize {
        let slot = Slot::new(State::Active { keep_alive: true });
        match self.free.pop() {
            Some(free) => {
                self.all[free] = slot;
                free
            }
            None => {
                self.all.0.push(slot);
                self.all.0.len() - 1
            }
        }
    }

    /// Frees a client's slot. No command of the client may be in flight. Returns whether it was evicted.
    pub(super) fn free(&mut self, slot: usize) -> Option<Eviction> {
        let eviction = match &self.all[slot].state {
            State::Evicted => Some(Eviction::Stalled),
            state => (!state.keep_alive()).then_some(Eviction::Idle),
        };
        self.leave_queue(slot);
        self.all[slot] = Slot::new(State::Free);
        self.free.push(slot);
        eviction
    }

    /// Returns slots for `count` commands of a client besides its own slot, or `None` if they do not fit into the
    /// `share` of memory that stalled clients have, of whom the longest ones are evicted first.
    pub(super) fn allocate_group(&mut self, count: usize, share: usize, wake: impl FnMut(&W)) -> Option<Vec<usize>> {
        self.held += count * READ_COST;
        self.free_memory(share, wake);
        if self.held > share {
            self.held -= count * READ_COST;
            return None;
        }
        Some((0..count).map(|_| self.allocate()).collect())
    }

    /// Takes the results for a group of slots, or the first error among them, once all are there, and frees the slots.
    /// Until then, the next result wakes the client in the slot `owner`.
    pub(super) fn take_group(&mut self, group: &[usize], owner: usize) -> Option<Result<Vec<i64>, StoreError>>
    where
        W: Clone,
    {
        let is_due = |&&slot: &&usize| !matches!(self.all[slot].state, State::Completed { .. });
        if let Some(&due) = group.iter().find(is_due) {
            self.all[due].waker = self.all[owner].waker.clone();
            return None;
        }
        self.held -= group.len() * READ_COST;
        let mut results = Ok(Vec::new());
        for &slot in group {
            if let (Ok(totals), Some(result)) = (&mut results, self.take_result(slot)) {
                match result {
                    Ok(total) => totals.push(total),
                    Err(error) => results = Err(error),
                }
            }
            self.free(slot);
        }
        Some(results)
    }

    /// Returns the waker of the client in a slot.
    pub(super) fn waker(&mut self, slot: usize) -> &mut Option<W> {
        &mut self.all[slot].waker
    }

    /// Marks a client as active: it no longer waits.
    pub(super) fn mark_active(&mut self, slot: usize) {
        if !matches!(self.all[slot].state, State::Active { .. } | State::Evicted) {
            let keep_alive = self.leave_queue(slot);
            self.all[slot].state = State::Active { keep_alive };
        }
    }

    /// Marks a client as waiting for the store, until [`Slots::set_result`].
    pub(super) fn mark_waiting(&mut self, slot: usize) {
        let keep_alive = self.leave_queue(slot);
        self.all[slot].state = State::Waiting { keep_alive };
    }

    /// Stores the result for the client in a slot, and returns its waker.
    pub(super) fn set_result(&mut self, slot: usize, result: Result<i64, StoreError>) -> Option<&W> {
        let slot = &mut self.all[slot];
        let State::Waiting { keep_alive } = slot.state else { return None };
        slot.state = State::Completed { keep_alive, result };
        slot.waker.as_ref()
    }

    /// Takes the result for the client in a slot, if there is one. The client is active then.
    pub(super) fn take_result(&mut self, slot: usize) -> Option<Result<i64, StoreError>> {
        let state = &mut self.all[slot].state;
        let State::Completed { keep_alive, result } = *state else { return None };
        *state = State::Active { keep_alive };
        Some(result)
    }

    /// Marks a client as idle since `now`. One that was not `served` waits for its first request.
    pub(super) fn mark_idle(&mut self, slot: usize, now: Instant, served: bool) {
        self.all[slot].state = if self.leave_queue(slot) {
            self.enter_queue(slot, if served { Kind::Idle } else { Kind::Unused });
            State::Idle { served, since: now }
        } else {
            State::Closing
        };
    }

    /// Marks a client as stalled, since `now` unless it already was, and keeps its buffers. If all kept buffers then
    /// exceed `share` bytes, evicts the clients that have stalled longest, frees their buffers at once, and calls
    /// `wake` for each.
    ///
    /// # Errors
    /// [`Evicted`], if this client is one of them, or was evicted before.
    pub(super) fn mark_stalled(
        &mut self,
        slot: usize,
        now: Instant,
        buffers: &mut Buffers,
        share: usize,
        wake: impl FnMut(&W),
    ) -> Result<(), Evicted> {
        match self.all[slot].state {
            State::Evicted => return Err(Evicted),
            State::Stalled { .. } => {}
            _ => {
                let keep_alive = self.leave_queue(slot);
                self.enter_queue(slot, Kind::Stalled);
                self.all[slot].state = State::Stalled { keep_alive, since: now, held: None };
            }
        }
        buffers.shrink();
        // A second call during one wait brings empty buffers.
        if buffers.capacity() > 0
            && let State::Stalled { held: held @ None, .. } = &mut self.all[slot].state
        {
            self.held += size(buffers);
            *held = Some(Box::new(mem::take(buffers)));
            self.free_memory(share, wake);
        }
        self.check_not_evicted(slot)
    }

    /// Returns a client's buffers, if they were kept, through `buffers`.
    ///
    /// # Errors
    /// [`Evicted`], if it was evicted while it had stalled.
    pub(super) fn resume(&mut self, slot: usize, buffers: &mut Buffers) -> Result<(), Evicted> {
        if let Some(held) = self.take_held(slot) {
            *buffers = *held;
        }
        self.check_not_evicted(slot)
    }

    fn check_not_evicted(&self, slot: usize) -> Result<(), Evicted> {
        if matches!(self.all[slot].state, State::Evicted) { Err(Evicted) } else { Ok(()) }
    }

    /// Returns the wakers of all idle clients.
    pub(super) fn idle_wakers(&self) -> impl Iterator<Item = &W> {
        let is_idle = |slot: &&Slot<W>| matches!(slot.state, State::Idle { .. });
        self.all.0.iter().filter(is_idle).filter_map(|slot| slot.waker.as_ref())
    }

    /// Evicts a client, and returns its waker and how it closes. Unused connections come first; then the client that
    /// has stalled longest or the one that has been idle longest, from the longer queue. A client is spared for
    /// [`IDLE_GRACE`] or [`STALLED_GRACE`], in which its next bytes may arrive.
    pub(super) fn evict(&mut self, now: Instant) -> Option<(&W, Eviction)> {
        let length = |kind: Kind| self.queues[kind as usize].length;
        let priority = if length(Kind::Stalled) > length(Kind::Idle) {
            [Kind::Unused, Kind::Stalled, Kind::Idle]
        } else {
            [Kind::Unused, Kind::Idle, Kind::Stalled]
        };
        let Some(slot) = priority.into_iter().find_map(|kind| self.first_evictable(kind, now)) else {
            self.pressure_since.get_or_insert(now);
            return None;
        };
        self.pressure_since = None;
        let eviction = self.evict_slot(slot);
        self.all[slot].waker.as_ref().map(|waker| (waker, eviction))
    }

    /// Returns whether the client in a slot has to close its connection now that it is idle or has ended. If no client
    /// could be evicted for 2 × [`IDLE_GRACE`], the next one to become idle is: otherwise new clients would wait as
    /// long as all others are busy.
    pub(super) fn should_close(&mut self, slot: usize) -> bool {
        if let Some(pressure_since) = self.pressure_since
            && let State::Idle { served: true, since } = self.all[slot].state
            && since >= pressure_since + 2 * IDLE_GRACE
        {
            self.pressure_since = None;
            self.evict_slot(slot);
        }
        !self.all[slot].state.keep_alive()
    }

    /// Records that no slot is needed now.
    pub(super) fn clear_pressure(&mut self) {
        self.pressure_since = None;
    }

    /// Appends a client that is in no queue to one, which its new state must have.
    fn enter_queue(&mut self, slot: usize, kind: Kind) {
        let queue = &mut self.queues[kind as usize];
        queue.length += 1;
        let previous = mem::replace(&mut queue.last, link(slot));
        match previous {
            Some(previous) => self.all[index(previous)].next = link(slot),
            None => queue.first = link(slot),
        }
        self.all[slot].previous = previous;
    }

    /// Removes a client from the queue of its state, if that has one, and frees buffers that are kept for it. Its state
    /// must change next. Returns whether its connection stays open after the request in progress.
    #[inline]
    fn leave_queue(&mut self, slot: usize) -> bool {
        match self.all[slot].state {
            State::Idle { served, .. } => {
                self.unlink(slot, if served { Kind::Idle } else { Kind::Unused });
                true
            }
            State::Stalled { keep_alive, .. } => {
                drop(self.take_held(slot));
                self.unlink(slot, Kind::Stalled);
                keep_alive
            }
            ref state => state.keep_alive(),
        }
    }

    fn unlink(&mut self, slot: usize, kind: Kind) {
        let slot = &mut self.all[slot];
        let (previous, next) = (slot.previous.take(), slot.next.take());
        let queue = &mut self.queues[kind as usize];
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

    /// Returns the client that has waited longest in a queue, if its grace period has passed.
    fn first_evictable(&self, kind: Kind, now: Instant) -> Option<usize> {
        let first = index(self.queues[kind as usize].first?);
        let (grace, since) = match self.all[first].state {
            State::Idle { served: true, since } => (IDLE_GRACE, since),
            State::Idle { served: false, since } | State::Stalled { since, .. } => (STALLED_GRACE, since),
            _ => return None,
        };
        (since + grace <= now).then_some(first)
    }

    /// Evicts a client that is idle or has stalled, and frees its buffers.
    fn evict_slot(&mut self, slot: usize) -> Eviction {
        let is_stalled = matches!(self.all[slot].state, State::Stalled { .. });
        self.leave_queue(slot);
        let (state, eviction) =
            if is_stalled { (State::Evicted, Eviction::Stalled) } else { (State::Closing, Eviction::Idle) };
        self.all[slot].state = state;
        eviction
    }

    /// Evicts the clients that have stalled longest until at most `share` bytes are kept.
    fn free_memory(&mut self, share: usize, mut wake: impl FnMut(&W)) {
        let mut next = self.queues[Kind::Stalled as usize].first;
        while self.held > share
            && let Some(link) = next
        {
            let slot = index(link);
            next = self.all[slot].next;
            // A client that has just been woken has its buffers itself, and will leave them here again.
            if matches!(self.all[slot].state, State::Stalled { held: Some(_), .. }) {
                self.evict_slot(slot);
                self.all[slot].waker.iter().for_each(&mut wake);
            }
        }
    }

    /// Takes the buffers that are kept for a client.
    fn take_held(&mut self, slot: usize) -> Option<Box<Buffers>> {
        let State::Stalled { held, .. } = &mut self.all[slot].state else { return None };
        let held = held.take()?;
        self.held -= size(&held);
        Some(held)
    }
}

fn link(slot: usize) -> Link {
    NonZeroU32::new(slot as u32 + 1)
}

fn index(link: NonZeroU32) -> usize {
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

/// Most bytes for a command in a group: its slot, its place in a batch, its key with the client.
const READ_COST: usize = 512;

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
    fn a_group_has_its_results_at_once_and_evicts_stalled_clients() {
        let (mut slots, ids) = slots_of(2);
        let (start, share) = (Instant::now(), 4 * READ_COST);
        let mut evicted = Vec::new();
        assert_eq!(slots.mark_stalled(ids[1], start, &mut buffers(READ_COST), share, |_| ()), Ok(()));
        let group = slots.allocate_group(4, share, |slot| evicted.push(*slot)).expect("the share is free");
        assert_eq!((slots.held, &evicted[..]), (share, &ids[1..]));
        assert_eq!(slots.allocate_group(1, share, |_| ()), None, "the share is used up");
        group.iter().for_each(|&slot| slots.mark_waiting(slot));
        for (number, slot) in (1..).zip([group[1], group[0], group[3], group[2]]) {
            assert_eq!(slots.take_group(&group, ids[0]), None);
            // The client waits for the first result that is missing.
            assert_eq!(slots.set_result(slot, Ok(number)), (number % 2 == 0).then_some(&ids[0]));
        }
        assert_eq!(slots.take_group(&group, ids[0]), Some(Ok(vec![2, 1, 4, 3])));
        assert_eq!((slots.held, slots.free.len()), (0, 4));
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
        assert_eq!((slots.free(ids[0]), slots.free(ids[1])), (Some(Eviction::Idle), None));
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
            assert_eq!(slots.mark_stalled(slot, start, &mut buffers(1), usize::MAX, |_| ()), Ok(()));
        }
        // A request that arrives byte by byte does not reset the time.
        assert_eq!(slots.resume(ids[1], &mut Buffers::default()), Ok(()));
        assert_eq!(slots.mark_stalled(ids[1], later, &mut buffers(2), usize::MAX, |_| ()), Ok(()));
        assert_eq!(slots.evict(later), Some((&ids[1], Eviction::Stalled)));
        assert_eq!(slots.evict(later), Some((&ids[2], Eviction::Stalled)));
        assert_eq!(slots.evict(later), Some((&ids[0], Eviction::Idle)), "as many are idle as have stalled");
        slots.mark_active(ids[3]);
        assert_eq!(slots.mark_stalled(ids[3], later, &mut Buffers::default(), usize::MAX, |_| ()), Ok(()));
        assert_eq!(slots.evict(later), None, "another request has another start");
        assert_eq!(slots.free(ids[3]), None);
    }

    #[test]
    fn buffers_are_bounded_and_those_of_the_longest_stalled_are_freed() {
        let (mut slots, ids) = slots_of(4);
        let (start, share) = (Instant::now(), 3 * size(&buffers(1000)));
        let mut evicted = Vec::new();
        for &slot in &ids {
            let stalled = slots.mark_stalled(slot, start, &mut buffers(1000), share, |slot| evicted.push(*slot));
            assert_eq!(stalled, Ok(()));
            assert!(slots.held <= share);
        }
        assert_eq!(evicted, ids[..1]);
        let mut back = Buffers::default();
        assert_eq!((slots.resume(ids[0], &mut back), back.received()), (Err(Evicted), &b""[..]));
        assert_eq!((slots.resume(ids[1], &mut back), back.received()), (Ok(()), &[b'x'; 1000][..]));
        // The longest stalled of those whose buffers are kept.
        for (slot, length, freed) in [(ids[1], 1000, 1), (ids[1], 1000, 1), (ids[2], 0, 1)] {
            let stalled = slots.mark_stalled(slot, start, &mut buffers(length), share, |slot| evicted.push(*slot));
            assert_eq!((stalled, evicted.len()), (Ok(()), freed));
        }
        assert_eq!(slots.resume(ids[3], &mut back), Ok(()));
        let stalled = slots.mark_stalled(ids[3], start, &mut buffers(1500), share, |slot| evicted.push(*slot));
        assert_eq!((stalled, &evicted[..]), (Ok(()), &ids[..2]));
        assert_eq!(slots.resume(ids[3], &mut back), Ok(()));
        let stalled = slots.mark_stalled(ids[3], start, &mut buffers(9000), share, |slot| evicted.push(*slot));
        assert_eq!(stalled, Err(Evicted), "more than the share of all");
        assert_eq!(slots.mark_stalled(ids[3], start, &mut buffers(1), share, |_| ()), Err(Evicted), "it stays evicted");
        assert!(slots.held <= share);
        for &slot in &ids {
            assert_eq!(slots.free(slot), Some(Eviction::Stalled));
        }
        assert_eq!((slots.held, slots.queues.map(|queue| queue.length)), (0, [0; 3]));
    }

    #[test]
    fn a_request_that_arrives_while_its_client_is_evicted_gets_a_response() {
        let (mut slots, ids) = slots_of(1);
        let [slot] = ids[..] else { panic!("one slot") };
        let start = Instant::now();
        slots.mark_idle(slot, start, true);
        assert_eq!(slots.evict(start + IDLE_GRACE), Some((&slot, Eviction::Idle)));
        // A part of the request, the rest of it, the result.
        slots.mark_active(slot);
        assert_eq!(slots.mark_stalled(slot, start, &mut buffers(1), usize::MAX, |_| ()), Ok(()));
        assert_eq!(slots.resume(slot, &mut Buffers::default()), Ok(()));
        slots.mark_waiting(slot);
        assert_eq!(slots.take_result(slot), None);
        assert_eq!(slots.set_result(slot, Ok(7)), Some(&slot));
        assert_eq!((slots.take_result(slot), slots.take_result(slot)), (Some(Ok(7)), None));
        slots.mark_idle(slot, start, true);
        assert!(slots.should_close(slot) && slots.idle_wakers().next().is_none());
        assert_eq!(slots.free(slot), Some(Eviction::Idle));
    }
}
