//! Group commit: the commands of many waiters become one command for each key, and each waiter gets its own number.
//!
//! While one batch is in flight, the next one collects commands. All visits of a counter in a batch are one entry
//! with one `INCRBY`. Its total is distributed in the order of arrival: of `n` visits, the one at offset `p` gets
//! `total - n + p`. Reads have an entry of their own, because a store that rejects increments may still accept reads.
//!
//! Waiters are kept in the order of arrival, so that the expired ones are always at the front ([`Batch::expire`]).
//! Before the batch is sent, expired visits are withdrawn from their entries. Afterwards the entries stay as they were
//! sent, since they may have been applied.
//!
//! ```text
//!              push              set_sequence, mark_sent            record_reply            complete
//!   (empty) --------> gathering -------------------------> sent ------------------> replied ---------> (empty)
//!      ^                |   ^                                |
//!      +----------------+   +--------------------------------+
//!       all have expired     merge, if no byte was sent
//! ```
//!
//! ```
//! use notch::batch::Batch;
//! use notch::counter::{Command, Key, StoreError};
//!
//! let visits = Key::new(b"visits").unwrap();
//! let mut batch = Batch::new();
//! for waiter in ["Ada", "Grace", "Edsger"] {
//!     assert!(batch.push(&Command::Increment { key: visits, by: 1 }, waiter));
//! }
//! // One command for the store, and the total after it.
//! let commands: Vec<_> = batch.pending_commands().copied().collect();
//! assert_eq!(commands, [Command::Increment { key: visits, by: 3 }]);
//! batch.record_reply(Ok(42));
//! // Each waiter gets its own number.
//! let mut numbers = Vec::new();
//! batch.complete(StoreError::OutcomeUnknown, |waiter, total| numbers.push((waiter, total)));
//! assert_eq!(numbers, [("Ada", Ok(40)), ("Grace", Ok(41)), ("Edsger", Ok(42))]);
//! ```
//!
//! `W` identifies a waiter to the driver; a batch only stores it.

use std::collections::VecDeque;

use crate::counter::{Command, StoreError};

/// Commands that are sent together.
pub struct Batch<W> {
    entries: Vec<Entry>,
    /// Indices of `entries`, ordered by [`sort_key`], for binary search.
    sorted: Vec<usize>,
    waiters: VecDeque<Waiter<W>>,
    /// Number of entries at the front that have a reply, or need none.
    replied: usize,
    sequence: i64,
    is_sent: bool,
    /// The numbers of increments are not final.
    is_held: bool,
}

struct Entry {
    /// The command for the store; withdrawn visits are not included.
    command: Command,
    /// Visits at the front of the entry that expired before it was sent.
    withdrawn: i64,
    /// Number of waiters and probes that need the reply.
    waiting: usize,
    state: EntryState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// It was not sent yet, or has no reply yet.
    Pending,
    /// All its waiters expired before it was executed.
    Withdrawn,
    /// The store rejected it with this error, did not execute it, and it is sent again.
    Refused(StoreError),
    /// The reply of the store.
    Replied(Result<i64, StoreError>),
}

struct Waiter<W> {
    /// Index of its entry.
    entry: usize,
    /// Its visits.
    by: i64,
    /// Visits of the entry up to and including its own.
    offset: i64,
    waiter: W,
}

impl<W> Default for Batch<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Batch<W> {
    /// Returns an empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            sorted: Vec::new(),
            waiters: VecDeque::new(),
            replied: 0,
            sequence: 0,
            is_sent: false,
            is_held: false,
        }
    }

    /// Adds a command for `waiter`. Returns `false` and adds nothing if it needs a new entry and there are
    /// [`MAX_ENTRIES`].
    #[must_use]
    pub fn push(&mut self, command: &Command, waiter: W) -> bool {
        let may_insert = self.entries.len() < MAX_ENTRIES;
        let Some(index) = self.find_or_insert(command, may_insert) else { return false };
        self.add_waiter(index, command, waiter);
        true
    }

    /// Adds a command like [`Batch::push`] without a limit of entries, for the few commands that must not be rejected.
    pub fn push_unbounded(&mut self, command: &Command, waiter: W) {
        if let Some(index) = self.find_or_insert(command, true) {
            self.add_waiter(index, command, waiter);
        }
    }

    /// Adds a command without a waiter, which checks the store: [`Command::Ping`], or an increment of 0.
    pub fn push_probe(&mut self, command: &Command) {
        if let Some(index) = self.find_or_insert(command, true) {
            self.mark_waiting(index);
        }
    }

    fn add_waiter(&mut self, index: usize, command: &Command, waiter: W) {
        self.mark_waiting(index);
        let Entry { command: sum, withdrawn, .. } = &mut self.entries[index];
        let (by, offset) = match (sum, command) {
            (Command::Increment { by: sum, .. }, &Command::Increment { by, .. }) => {
                *sum += by;
                (by, *withdrawn + *sum)
            }
            _ => (0, 0),
        };
        self.waiters.push_back(Waiter { entry: index, by, offset, waiter });
    }

    fn mark_waiting(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.waiting += 1;
        entry.state = EntryState::Pending;
    }

    /// Moves all commands of `later`, whose waiters arrived later, into this batch. Neither batch may have been sent.
    pub fn merge(&mut self, later: &mut Self) {
        while later.first_waiter().is_some() {
            self.move_first(later);
        }
        // Entries that still have a count belong to probes.
        later.entries.iter().filter(|entry| entry.waiting > 0).for_each(|entry| self.push_probe(&entry.command));
        later.clear();
    }

    /// Moves all commands of two batches into a new one, in the order of `is_before`, in which each of them is already.
    /// Neither may have been sent.
    pub fn merge_in_order(one: &mut Self, other: &mut Self, is_before: impl Fn(&W, &W) -> bool) -> Self {
        let mut merged = Self::new();
        while let (Some(first), Some(second)) = (one.first_waiter(), other.first_waiter()) {
            let is_other = is_before(second, first);
            merged.move_first(if is_other { &mut *other } else { &mut *one });
        }
        merged.merge(one);
        merged.merge(other);
        merged
    }

    /// Moves the command of the first waiter of another batch into this one.
    fn move_first(&mut self, other: &mut Self) {
        let Some(Waiter { entry, by: own, waiter, .. }) = other.waiters.pop_front() else { return };
        let Entry { command, waiting, .. } = &mut other.entries[entry];
        *waiting -= 1;
        let command = match *command {
            Command::Increment { key, .. } => Command::Increment { key, by: own },
            command => command,
        };
        self.push_unbounded(&command, waiter);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.sorted.clear();
        self.replied = 0;
        self.is_sent = false;
        self.is_held = false;
    }

    /// Returns the index of the entry for the kind and key of `command`. If there is none and `may_insert` is set, adds
    /// an entry with 0 visits.
    fn find_or_insert(&mut self, command: &Command, may_insert: bool) -> Option<usize> {
        let last = self.entries.len().wrapping_sub(1);
        if self.entries.last().is_some_and(|entry| sort_key(&entry.command) == sort_key(command)) {
            return Some(last);
        }
        let at =
            match self.sorted.binary_search_by(|&index| sort_key(&self.entries[index].command).cmp(&sort_key(command)))
            {
                Ok(at) => return Some(self.sorted[at]),
                Err(at) => at,
            };
        if !may_insert {
            return None;
        }
        let command = match *command {
            Command::Increment { key, .. } => Command::Increment { key, by: 0 },
            other => other,
        };
        self.sorted.insert(at, self.entries.len());
        self.entries.push(Entry { command, withdrawn: 0, waiting: 0, state: EntryState::Pending });
        Some(self.entries.len() - 1)
    }

    /// Sets the sequence number, under which the batch may be sent more than once.
    pub fn set_sequence(&mut self, number: i64) {
        self.sequence = number;
        self.replied = 0;
        self.skip_replied();
    }

    /// Returns the sequence number.
    #[must_use]
    pub(crate) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// Records that bytes of the batch may have reached the store.
    pub fn mark_sent(&mut self) {
        self.is_sent = true;
    }

    /// Returns `true` if bytes of the batch may have reached the store.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        self.is_sent
    }

    /// Sets whether the numbers of increments are not final: then no waiter gets one.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Records an error after which the command is sent again, which the store has not executed now. The visits of
    /// waiters that expire meanwhile are withdrawn, unless an earlier attempt may have counted them.
    pub(crate) fn record_refusal(&mut self, refusal: StoreError) {
        if let Some(entry) = self.entries.get_mut(self.replied) {
            entry.state = EntryState::Refused(refusal);
            self.skip_replied();
        }
    }

    /// Returns the commands that were refused, with the errors.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&Command, StoreError)> {
        self.entries.iter().filter_map(|entry| match entry.state {
            EntryState::Refused(refusal) => Some((&entry.command, refusal)),
            _ => None,
        })
    }

    /// Makes the commands whose refusal satisfies `is_over` pending again.
    pub(crate) fn retry_refused(&mut self, is_over: impl Fn(StoreError) -> bool) {
        self.reopen(|_, state| matches!(state, EntryState::Refused(refusal) if is_over(refusal)));
    }

    /// Removes the numbers of increments if they are not final, so that the commands are sent again.
    pub(crate) fn discard_held(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.reopen(|command, state| command.is_increment() && matches!(state, EntryState::Replied(Ok(_))));
        }
    }

    fn reopen(&mut self, is_open: impl Fn(&Command, EntryState) -> bool) {
        for Entry { command, state, .. } in &mut self.entries {
            if is_open(command, *state) {
                *state = EntryState::Pending;
            }
        }
        self.replied = 0;
        self.skip_replied();
    }

    /// Takes the commands that were refused, and if they `include_reads` the reads without a reply, with their waiters.
    /// The result is a batch that was not sent.
    #[must_use]
    pub fn take_unsent(&mut self, include_reads: bool) -> Self {
        let mut taken = self.split(|entry| match entry.state {
            EntryState::Refused(_) => true,
            EntryState::Pending => include_reads && !entry.command.is_increment(),
            EntryState::Withdrawn | EntryState::Replied(_) => false,
        });
        // What has expired is left out.
        let mut unsent = Self::new();
        unsent.merge(&mut taken);
        unsent
    }

    /// Takes the commands that have a reply, with their waiters.
    #[must_use]
    pub(crate) fn take_replied(&mut self) -> Self {
        self.split(|entry| matches!(entry.state, EntryState::Replied(_)))
    }

    /// Moves the reads of another batch, which was not sent, into this one, in the order of `is_before`, in which each
    /// of them is already.
    pub fn merge_reads(&mut self, other: &mut Self, is_before: impl Fn(&W, &W) -> bool) {
        let mut reads = other.split(|entry| !entry.command.is_increment());
        let count = self.waiters.len();
        self.merge(&mut reads);
        for added in count..self.waiters.len() {
            let Some(read) = self.waiters.remove(added) else { break };
            let at = self.waiters.partition_point(|waiter| !is_before(&read.waiter, &waiter.waiter));
            self.waiters.insert(at, read);
        }
        self.replied = 0;
        self.skip_replied();
    }

    /// Moves the entries for which `is_taken` returns `true` to another batch, with their waiters.
    fn split(&mut self, is_taken: impl Fn(&Entry) -> bool) -> Self {
        let mut taken = Self { sequence: self.sequence, is_sent: self.is_sent, ..Self::new() };
        let (entries, sorted) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.sorted));
        let waiters = std::mem::take(&mut self.waiters);
        // For each entry, whether it is taken, and its new index.
        let mut moved = Vec::new();
        for entry in entries {
            let is_taken = is_taken(&entry);
            let batch = if is_taken { &mut taken } else { &mut *self };
            moved.push((is_taken, batch.entries.len()));
            batch.entries.push(entry);
        }
        for index in sorted {
            let (is_taken, index) = moved[index];
            (if is_taken { &mut taken } else { &mut *self }).sorted.push(index);
        }
        for waiter in waiters {
            let (is_taken, entry) = moved[waiter.entry];
            (if is_taken { &mut taken } else { &mut *self }).waiters.push_back(Waiter { entry, ..waiter });
        }
        for batch in [&mut taken, &mut *self] {
            batch.replied = 0;
            batch.skip_replied();
        }
        taken
    }

    /// Returns `true` if any command is an increment.
    #[must_use]
    pub fn has_increments(&self) -> bool {
        self.entries.iter().any(|entry| entry.command.is_increment())
    }

    /// Returns the number of waiters.
    #[must_use]
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// Returns `true` if there is no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the waiter that arrived first.
    #[must_use]
    pub fn first_waiter(&self) -> Option<&W> {
        self.waiters.front().map(|waiter| &waiter.waiter)
    }

    /// Returns the commands to send, in order: one for each entry without a reply.
    pub fn pending_commands(&self) -> impl Iterator<Item = &Command> {
        self.entries.iter().filter(|entry| entry.state == EntryState::Pending).map(|entry| &entry.command)
    }

    /// Returns the command of the first entry without a reply.
    #[must_use]
    pub fn next_command(&self) -> Option<&Command> {
        self.entries.get(self.replied).map(|entry| &entry.command)
    }

    /// Records the reply to [`Batch::next_command`]: the total after it, or an error.
    pub fn record_reply(&mut self, total: Result<i64, StoreError>) {
        if let Some(entry) = self.entries.get_mut(self.replied) {
            entry.state = EntryState::Replied(total);
            self.skip_replied();
        }
    }

    /// Records `total` as the reply of all pending entries for which `is_decided` returns `true`.
    pub(crate) fn resolve_where(&mut self, is_decided: impl Fn(&Command) -> bool, total: Result<i64, StoreError>) {
        let pending = self.entries.iter_mut().filter(|entry| entry.state == EntryState::Pending);
        pending.filter(|entry| is_decided(&entry.command)).for_each(|entry| entry.state = EntryState::Replied(total));
        self.skip_replied();
    }

    fn skip_replied(&mut self) {
        let rest = &self.entries[self.replied..];
        self.replied += rest.iter().position(|entry| entry.state == EntryState::Pending).unwrap_or(rest.len());
    }

    /// Returns the commands that have a reply, with their replies.
    pub fn replies(&self) -> impl Iterator<Item = (&Command, Result<i64, StoreError>)> {
        self.entries.iter().filter_map(|entry| match entry.state {
            EntryState::Replied(total) => Some((&entry.command, total)),
            _ => None,
        })
    }

    /// Removes the waiters at the front for which `is_expired` returns `true` and passes their results to `notify`: the
    /// number if their entry has a reply, otherwise `error`. [`StoreError::OutcomeUnknown`] means that the batch was
    /// sent. Visits that were never executed are withdrawn. Entries of a batch that was not sent are removed if they are
    /// no longer needed, once they are an eighth of all.
    pub fn expire(
        &mut self,
        error: StoreError,
        is_expired: impl Fn(&W) -> bool,
        mut notify: impl FnMut(W, Result<i64, StoreError>),
    ) {
        let may_be_applied = error == StoreError::OutcomeUnknown;
        while self.first_waiter().is_some_and(&is_expired)
            && let Some(Waiter { entry, by, offset, waiter }) = self.waiters.pop_front()
        {
            let entry = &mut self.entries[entry];
            let is_refused = matches!(entry.state, EntryState::Refused(_)) && !self.is_sent;
            let error = if is_refused { StoreError::Unavailable } else { error };
            notify(waiter, entry.result_at(offset, error, self.is_held));
            if is_refused || !may_be_applied {
                entry.withdraw(by);
            }
        }
        if !may_be_applied {
            let unused = self.entries.iter().filter(|entry| entry.waiting == 0).count();
            if unused > self.entries.len() / MAX_UNUSED {
                self.remove_unused();
            }
        }
    }

    /// Removes the entries without waiters and probes from a batch that was not sent, so that they do not take the
    /// place of other names.
    fn remove_unused(&mut self) {
        let mut used = 0;
        let mut new_index = |entry: &Entry| {
            used += usize::from(entry.waiting > 0);
            // That of an unused entry is not read.
            used.wrapping_sub(1)
        };
        let moved: Vec<_> = self.entries.iter().map(&mut new_index).collect();
        self.sorted.retain(|&index| self.entries[index].waiting > 0);
        self.sorted.iter_mut().for_each(|index| *index = moved[*index]);
        self.waiters.iter_mut().for_each(|waiter| waiter.entry = moved[waiter.entry]);
        self.entries.retain(|entry| entry.waiting > 0);
        self.replied = 0;
    }

    /// Passes the result of every waiter to `notify` and clears the batch, which keeps its memory. Increments without a
    /// reply end in `error`. Reads without a reply end in [`StoreError::Unavailable`] where increments are in doubt,
    /// because a read may always be retried.
    pub fn complete(&mut self, error: StoreError, mut notify: impl FnMut(W, Result<i64, StoreError>)) {
        while let Some(Waiter { entry, offset, waiter, .. }) = self.waiters.pop_front() {
            notify(waiter, self.entries[entry].result_at(offset, error, self.is_held));
        }
        self.clear();
    }
}

impl Entry {
    /// Returns the result for the waiter at `offset`, which is `error` if there is no reply, or a number that `is_held`.
    fn result_at(&self, offset: i64, error: StoreError, is_held: bool) -> Result<i64, StoreError> {
        let total = match self.state {
            EntryState::Replied(total) if total.is_err() || !is_held || !self.command.is_increment() => total,
            _ if !self.command.is_increment() && error == StoreError::OutcomeUnknown => Err(StoreError::Unavailable),
            _ => Err(error),
        };
        let sum = if let Command::Increment { by, .. } = self.command { self.withdrawn + by } else { 0 };
        // Wrapping, because the store may return any number.
        total.map(|total| total.wrapping_sub(sum - offset))
    }

    /// Removes the visits of a waiter at the front from an entry that was not executed.
    fn withdraw(&mut self, visits: i64) {
        if let Command::Increment { by, .. } = &mut self.command {
            *by -= visits;
            self.withdrawn += visits;
        }
        self.waiting -= 1;
        if self.waiting == 0 {
            self.state = EntryState::Withdrawn;
        }
    }
}

/// Returns what identifies and orders entries: the kind of the command, and the key.
fn sort_key(command: &Command) -> (u8, &[u8]) {
    match command {
        Command::Ping => (0, &[]),
        Command::Get { key } => (1, key.as_bytes()),
        Command::Increment { key, .. } => (2, key.as_bytes()),
    }
}

/// Most entries in a batch. It bounds the memory and the commands that a flood of names causes at once.
pub const MAX_ENTRIES: usize = 1024;

/// The part of the entries that may be unused, as a divisor: removing them takes as long as a search through all.
const MAX_UNUSED: usize = 8;

#[cfg(test)]
mod tests;
