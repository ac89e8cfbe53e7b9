//! Group commit: many asks in, one line per key out, each asker its own number.
//!
//! While one batch is under way to the store, the next one gathers. All visits of a counter in a batch are one line
//! with one `INCRBY`; the total that comes back is dealt out in the order of arrival, so that of `n` visits the one at
//! place `p` gets `total - n + p`. Reads are a line of their own, because a store that refuses to count may well go on
//! reading.
//!
//! Waiters stand in the order of their arrival, so that those who have waited too long are always at the front
//! ([`Batch::expire`]). As long as nothing was sent, the visits that expire are withdrawn from their lines; afterwards
//! the lines stay as they were sent, since they may have been applied.
//!
//! `W` is whatever the driver wakes when there is an answer; a batch only carries it.

use std::collections::VecDeque;

use crate::counter::{Command, StoreError};

/// Asks that travel together.
pub struct Batch<W> {
    entries: Vec<Entry>,
    /// The lines in the order of what they ask, so that one for each is found without looking at all of them.
    sorted: Vec<usize>,
    waiters: VecDeque<Waiter<W>>,
    /// So many lines at the front have a reply, or need none.
    replied: usize,
    sequence: i64,
    sent: bool,
}

struct Entry {
    /// What goes to the store: of visits, those that were not withdrawn.
    command: Command,
    /// Visits at the front of the line that expired before the line was sent.
    withdrawn: i64,
    /// For how many waiters, or probes, the line is asked.
    waiting: usize,
    state: EntryState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// It is to be sent, or its reply is to come.
    Pending,
    /// Everything in it expired before it was sent.
    Withdrawn,
    /// What the store replied.
    Replied(Result<i64, StoreError>),
}

struct Waiter<W> {
    line: usize,
    by: i64,
    offset: i64,
    waiter: W,
}

impl<W> Default for Batch<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Batch<W> {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new(), sorted: Vec::new(), waiters: VecDeque::new(), replied: 0, sequence: 0, sent: false }
    }

    /// Adds an ask, for which `who` will be told one number. `false`, and nothing is added, if that would be one line
    /// too many.
    #[must_use]
    pub fn push(&mut self, command: &Command, who: W) -> bool {
        let room = self.entries.len() < MAX_ENTRIES;
        let Some(line) = self.find_or_insert(command, room) else { return false };
        self.add_waiter(line, command, who);
        true
    }

    /// The same without a bound on lines, for the few asks that must always have room.
    pub fn push_unbounded(&mut self, command: &Command, who: W) {
        if let Some(line) = self.find_or_insert(command, true) {
            self.add_waiter(line, command, who);
        }
    }

    /// Adds an ask whose reply is only of interest for what it shows of the store: [`Command::Ping`], or a count of 0.
    pub fn push_probe(&mut self, command: &Command) {
        if let Some(line) = self.find_or_insert(command, true) {
            self.mark_waiting(line);
        }
    }

    fn add_waiter(&mut self, line: usize, command: &Command, who: W) {
        self.mark_waiting(line);
        let Entry { command: sum, withdrawn, .. } = &mut self.entries[line];
        let (by, place) = match (sum, command) {
            (Command::Increment { by: sum, .. }, &Command::Increment { by, .. }) => {
                *sum += by;
                (by, *withdrawn + *sum)
            }
            _ => (0, 0),
        };
        self.waiters.push_back(Waiter { line, by, offset: place, waiter: who });
    }

    fn mark_waiting(&mut self, line: usize) {
        let line = &mut self.entries[line];
        line.waiting += 1;
        line.state = EntryState::Pending;
    }

    /// Adds all asks of a batch that was not sent either and whose waiters came later; it is left empty.
    pub fn merge(&mut self, later: &mut Self) {
        while let Some(Waiter { line, by: own, waiter: who, .. }) = later.waiters.pop_front() {
            let Entry { command, waiting, .. } = &mut later.entries[line];
            *waiting -= 1;
            let command = match *command {
                Command::Increment { key, .. } => Command::Increment { key, by: own },
                command => command,
            };
            self.push_unbounded(&command, who);
        }
        // What is wanted still is wanted by probes.
        later.entries.iter().filter(|line| line.waiting > 0).for_each(|line| self.push_probe(&line.command));
        later.clear();
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.sorted.clear();
        self.replied = 0;
        self.sent = false;
    }

    /// The line that asks what `ask` does; if there is none yet and there is `room`, a new one that asks for nothing.
    fn find_or_insert(&mut self, command: &Command, room: bool) -> Option<usize> {
        let last = self.entries.len().wrapping_sub(1);
        if self.entries.last().is_some_and(|line| sort_key(&line.command) == sort_key(command)) {
            return Some(last);
        }
        let at =
            match self.sorted.binary_search_by(|&line| sort_key(&self.entries[line].command).cmp(&sort_key(command))) {
                Ok(at) => return Some(self.sorted[at]),
                Err(at) => at,
            };
        if !room {
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

    /// Gives the batch its number, under which it may be sent more than once.
    pub fn set_sequence(&mut self, number: i64) {
        self.sequence = number;
        self.replied = 0;
        self.skip_replied();
    }

    /// The number that it was given.
    #[must_use]
    pub fn sequence(&self) -> i64 {
        self.sequence
    }

    /// Notes that some of it may have reached the store.
    pub fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// Whether some of it may have reached the store.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        self.sent
    }

    /// Whether it counts, or only reads.
    #[must_use]
    pub fn has_increments(&self) -> bool {
        self.entries.iter().any(|line| line.command.is_increment())
    }

    /// How many wait in it.
    #[must_use]
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Who has waited longest in it.
    #[must_use]
    pub fn first_waiter(&self) -> Option<&W> {
        self.waiters.front().map(|waiter| &waiter.waiter)
    }

    /// What to ask of the store, in order: one ask for each line that has no reply yet, and no two for the same.
    pub fn pending_commands(&self) -> impl Iterator<Item = &Command> {
        self.entries.iter().filter(|line| line.state == EntryState::Pending).map(|line| &line.command)
    }

    /// The first line that has no reply yet.
    #[must_use]
    pub fn next_command(&self) -> Option<&Command> {
        self.entries.get(self.replied).map(|line| &line.command)
    }

    /// Takes the store's reply to [`Batch::next_command`]: the total after it, or why there is none.
    pub fn record_reply(&mut self, total: Result<i64, StoreError>) {
        if let Some(line) = self.entries.get_mut(self.replied) {
            line.state = EntryState::Replied(total);
            self.skip_replied();
        }
    }

    /// Ends the lines that wait for a reply and for which `is_decided` holds, without asking the store.
    pub fn resolve_where(&mut self, is_decided: impl Fn(&Command) -> bool, total: Result<i64, StoreError>) {
        let pending = self.entries.iter_mut().filter(|line| line.state == EntryState::Pending);
        pending.filter(|line| is_decided(&line.command)).for_each(|line| line.state = EntryState::Replied(total));
        self.skip_replied();
    }

    /// Forgets the replies that were this one, so that their lines are asked again.
    pub fn clear_replies(&mut self, reply: Result<i64, StoreError>) {
        let reply = EntryState::Replied(reply);
        self.entries.iter_mut().filter(|line| line.state == reply).for_each(|line| line.state = EntryState::Pending);
        self.replied = 0;
        self.skip_replied();
    }

    fn skip_replied(&mut self) {
        let rest = &self.entries[self.replied..];
        self.replied += rest.iter().position(|line| line.state == EntryState::Pending).unwrap_or(rest.len());
    }

    /// What the store has replied so far, ask by ask.
    pub fn replies(&self) -> impl Iterator<Item = (&Command, Result<i64, StoreError>)> {
        self.entries.iter().filter_map(|line| match line.state {
            EntryState::Replied(total) => Some((&line.command, total)),
            _ => None,
        })
    }

    /// Ends the waiters at the front for whom `is_late` holds. Those whose line has a reply are told it; for the others
    /// it is `fault`, which says whether the batch is on its way. A batch that was not sent is left without their
    /// visits, and one that was not sent and has nobody left asks for nothing more.
    pub fn expire(
        &mut self,
        error: StoreError,
        is_late: impl Fn(&W) -> bool,
        mut tell: impl FnMut(W, Result<i64, StoreError>),
    ) {
        let may_be_applied = error == StoreError::OutcomeUnknown;
        while self.first_waiter().is_some_and(&is_late)
            && let Some(Waiter { line, by, offset: place, waiter: who }) = self.waiters.pop_front()
        {
            let line = &mut self.entries[line];
            tell(who, line.outcome(place, error));
            if !may_be_applied {
                line.withdraw(by);
            }
        }
        if !may_be_applied && self.entries.iter().all(|line| line.waiting == 0) {
            self.clear();
        }
    }

    /// Tells every waiter its number and leaves the batch empty, its memory ready for the next. Lines without a reply
    /// end in `fault`; but a read is never in doubt, it may always be tried again.
    pub fn complete(&mut self, error: StoreError, mut tell: impl FnMut(W, Result<i64, StoreError>)) {
        while let Some(Waiter { line, offset: place, waiter: who, .. }) = self.waiters.pop_front() {
            tell(who, self.entries[line].outcome(place, error));
        }
        self.clear();
    }
}

impl Entry {
    /// What the waiter at `place` is told; `fault` holds if there is no reply.
    fn outcome(&self, place: i64, error: StoreError) -> Result<i64, StoreError> {
        let total = match self.state {
            EntryState::Replied(total) => total,
            _ if !self.command.is_increment() && error == StoreError::OutcomeUnknown => Err(StoreError::Unavailable),
            _ => Err(error),
        };
        let sum = if let Command::Increment { by, .. } = self.command { self.withdrawn + by } else { 0 };
        // Wrapping, because what comes from the store need not make sense.
        total.map(|total| total.wrapping_sub(sum - place))
    }

    /// Takes the visits of a waiter at the front out of a line that was not sent.
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

/// What tells lines apart, and their order: the kind of the ask, and the counter.
fn sort_key(command: &Command) -> (u8, &[u8]) {
    match command {
        Command::Ping => (0, &[]),
        Command::Get { key } => (1, key.as_bytes()),
        Command::Increment { key, .. } => (2, key.as_bytes()),
    }
}

/// Most lines in a batch: what a flood of names may ask of a store, and of our memory, at once.
pub const MAX_ENTRIES: usize = 1024;

#[cfg(test)]
mod tests;
