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

use crate::counter::{Ask, Fault};

/// Asks that travel together.
pub struct Batch<W> {
    lines: Vec<Line>,
    /// The lines in the order of what they ask, so that one for each is found without looking at all of them.
    sorted: Vec<usize>,
    waiters: VecDeque<Waiter<W>>,
    /// So many lines at the front have a reply, or need none.
    replied: usize,
    number: i64,
    sent: bool,
}

struct Line {
    /// What goes to the store: of visits, those that were not withdrawn.
    ask: Ask,
    /// Visits at the front of the line that expired before the line was sent.
    withdrawn: i64,
    /// For how many waiters, or probes, the line is asked.
    wanted: usize,
    state: LineState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LineState {
    /// It is to be sent, or its reply is to come.
    Pending,
    /// Everything in it expired before it was sent.
    Withdrawn,
    /// What the store replied.
    Replied(Result<i64, Fault>),
}

struct Waiter<W> {
    line: usize,
    by: i64,
    place: i64,
    who: W,
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
        Self { lines: Vec::new(), sorted: Vec::new(), waiters: VecDeque::new(), replied: 0, number: 0, sent: false }
    }

    /// Adds an ask, for which `who` will be told one number. `false`, and nothing is added, if that would be one line
    /// too many.
    #[must_use]
    pub fn push(&mut self, ask: &Ask, who: W) -> bool {
        let room = self.lines.len() < MAX_LINES;
        let Some(line) = self.line(ask, room) else { return false };
        self.join(line, ask, who);
        true
    }

    /// The same without a bound on lines, for the few asks that must always have room.
    pub fn push_beyond(&mut self, ask: &Ask, who: W) {
        if let Some(line) = self.line(ask, true) {
            self.join(line, ask, who);
        }
    }

    /// Adds an ask whose reply is only of interest for what it shows of the store: [`Ask::Ping`], or a count of 0.
    pub fn probe(&mut self, ask: &Ask) {
        if let Some(line) = self.line(ask, true) {
            self.want(line);
        }
    }

    fn join(&mut self, line: usize, ask: &Ask, who: W) {
        self.want(line);
        let Line { ask: sum, withdrawn, .. } = &mut self.lines[line];
        let (by, place) = match (sum, ask) {
            (Ask::Count { by: sum, .. }, &Ask::Count { by, .. }) => {
                *sum += by;
                (by, *withdrawn + *sum)
            }
            _ => (0, 0),
        };
        self.waiters.push_back(Waiter { line, by, place, who });
    }

    fn want(&mut self, line: usize) {
        let line = &mut self.lines[line];
        line.wanted += 1;
        line.state = LineState::Pending;
    }

    /// Adds all asks of a batch that was not sent either and whose waiters came later; it is left empty.
    pub fn absorb(&mut self, later: &mut Self) {
        while let Some(Waiter { line, by: own, who, .. }) = later.waiters.pop_front() {
            let Line { ask, wanted, .. } = &mut later.lines[line];
            *wanted -= 1;
            let ask = match *ask {
                Ask::Count { key, .. } => Ask::Count { key, by: own },
                ask => ask,
            };
            self.push_beyond(&ask, who);
        }
        // What is wanted still is wanted by probes.
        later.lines.iter().filter(|line| line.wanted > 0).for_each(|line| self.probe(&line.ask));
        later.clear();
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.sorted.clear();
        self.replied = 0;
        self.sent = false;
    }

    /// The line that asks what `ask` does; if there is none yet and there is `room`, a new one that asks for nothing.
    fn line(&mut self, ask: &Ask, room: bool) -> Option<usize> {
        let last = self.lines.len().wrapping_sub(1);
        if self.lines.last().is_some_and(|line| rank(&line.ask) == rank(ask)) {
            return Some(last);
        }
        let at = match self.sorted.binary_search_by(|&line| rank(&self.lines[line].ask).cmp(&rank(ask))) {
            Ok(at) => return Some(self.sorted[at]),
            Err(at) => at,
        };
        if !room {
            return None;
        }
        let ask = match *ask {
            Ask::Count { key, .. } => Ask::Count { key, by: 0 },
            other => other,
        };
        self.sorted.insert(at, self.lines.len());
        self.lines.push(Line { ask, withdrawn: 0, wanted: 0, state: LineState::Pending });
        Some(self.lines.len() - 1)
    }

    /// Gives the batch its number, under which it may be sent more than once.
    pub fn begin(&mut self, number: i64) {
        self.number = number;
        self.replied = 0;
        self.skip_replied();
    }

    /// The number that it was given.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Notes that some of it may have reached the store.
    pub fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// Whether some of it may have reached the store.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether it counts, or only reads.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.lines.iter().any(|line| line.ask.counts())
    }

    /// How many wait in it.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Who has waited longest in it.
    #[must_use]
    pub fn first_waiter(&self) -> Option<&W> {
        self.waiters.front().map(|waiter| &waiter.who)
    }

    /// What to ask of the store, in order: one ask for each line that has no reply yet, and no two for the same.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.lines.iter().filter(|line| line.state == LineState::Pending).map(|line| &line.ask)
    }

    /// The first line that has no reply yet.
    #[must_use]
    pub fn expected(&self) -> Option<&Ask> {
        self.lines.get(self.replied).map(|line| &line.ask)
    }

    /// Takes the store's reply to [`Batch::expected`]: the total after it, or why there is none.
    pub fn reply(&mut self, total: Result<i64, Fault>) {
        if let Some(line) = self.lines.get_mut(self.replied) {
            line.state = LineState::Replied(total);
            self.skip_replied();
        }
    }

    /// Ends the lines that wait for a reply and for which `is_decided` holds, without asking the store.
    pub fn decide(&mut self, is_decided: impl Fn(&Ask) -> bool, total: Result<i64, Fault>) {
        let pending = self.lines.iter_mut().filter(|line| line.state == LineState::Pending);
        pending.filter(|line| is_decided(&line.ask)).for_each(|line| line.state = LineState::Replied(total));
        self.skip_replied();
    }

    /// Forgets the replies that were this one, so that their lines are asked again.
    pub fn forget(&mut self, reply: Result<i64, Fault>) {
        let reply = LineState::Replied(reply);
        self.lines.iter_mut().filter(|line| line.state == reply).for_each(|line| line.state = LineState::Pending);
        self.replied = 0;
        self.skip_replied();
    }

    fn skip_replied(&mut self) {
        let rest = &self.lines[self.replied..];
        self.replied += rest.iter().position(|line| line.state == LineState::Pending).unwrap_or(rest.len());
    }

    /// What the store has replied so far, ask by ask.
    pub fn replies(&self) -> impl Iterator<Item = (&Ask, Result<i64, Fault>)> {
        self.lines.iter().filter_map(|line| match line.state {
            LineState::Replied(total) => Some((&line.ask, total)),
            _ => None,
        })
    }

    /// Ends the waiters at the front for whom `is_late` holds. Those whose line has a reply are told it; for the others
    /// it is `fault`, which says whether the batch is on its way. A batch that was not sent is left without their
    /// visits, and one that was not sent and has nobody left asks for nothing more.
    pub fn expire(&mut self, fault: Fault, is_late: impl Fn(&W) -> bool, mut tell: impl FnMut(W, Result<i64, Fault>)) {
        let may_be_applied = fault == Fault::Lost;
        while self.first_waiter().is_some_and(&is_late)
            && let Some(Waiter { line, by, place, who }) = self.waiters.pop_front()
        {
            let line = &mut self.lines[line];
            tell(who, line.outcome(place, fault));
            if !may_be_applied {
                line.withdraw(by);
            }
        }
        if !may_be_applied && self.lines.iter().all(|line| line.wanted == 0) {
            self.clear();
        }
    }

    /// Tells every waiter its number and leaves the batch empty, its memory ready for the next. Lines without a reply
    /// end in `fault`; but a read is never in doubt, it may always be tried again.
    pub fn tell(&mut self, fault: Fault, mut tell: impl FnMut(W, Result<i64, Fault>)) {
        while let Some(Waiter { line, place, who, .. }) = self.waiters.pop_front() {
            tell(who, self.lines[line].outcome(place, fault));
        }
        self.clear();
    }
}

impl Line {
    /// What the waiter at `place` is told; `fault` holds if there is no reply.
    fn outcome(&self, place: i64, fault: Fault) -> Result<i64, Fault> {
        let total = match self.state {
            LineState::Replied(total) => total,
            _ if !self.ask.counts() && fault == Fault::Lost => Err(Fault::Down),
            _ => Err(fault),
        };
        let sum = if let Ask::Count { by, .. } = self.ask { self.withdrawn + by } else { 0 };
        // Wrapping, because what comes from the store need not make sense.
        total.map(|total| total.wrapping_sub(sum - place))
    }

    /// Takes the visits of a waiter at the front out of a line that was not sent.
    fn withdraw(&mut self, visits: i64) {
        if let Ask::Count { by, .. } = &mut self.ask {
            *by -= visits;
            self.withdrawn += visits;
        }
        self.wanted -= 1;
        if self.wanted == 0 {
            self.state = LineState::Withdrawn;
        }
    }
}

/// What tells lines apart, and their order: the kind of the ask, and the counter.
fn rank(ask: &Ask) -> (u8, &[u8]) {
    match ask {
        Ask::Ping => (0, &[]),
        Ask::Total { key } => (1, key.as_bytes()),
        Ask::Count { key, .. } => (2, key.as_bytes()),
    }
}

/// Most lines in a batch: what a flood of names may ask of a store, and of our memory, at once.
pub const MAX_LINES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Cause, Key};

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a good name")
    }

    fn count(name: &str, by: i64) -> Ask {
        Ask::Count { key: key(name), by }
    }

    fn told(batch: &mut Batch<u32>, fault: Fault) -> Vec<(u32, Result<i64, Fault>)> {
        let mut told = Vec::new();
        batch.tell(fault, |who, total| told.push((who, total)));
        told
    }

    #[test]
    fn deals_out_numbers_in_the_order_of_arrival() {
        let mut batch = Batch::default();
        let total = Ask::Total { key: key("a") };
        let asks = [count("a", 1), count("b", 1), count("a", 3), total, count("a", 1), Ask::Ping, total];
        for (who, ask) in (0..).zip(asks) {
            assert!(batch.push(&ask, who));
        }
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), [count("a", 5), count("b", 1), total, Ask::Ping]);
        for total in [Ok(105), Ok(7), Ok(105), Ok(0)] {
            batch.reply(total);
        }
        assert_eq!(batch.expected(), None);
        assert_eq!(batch.replies().last(), Some((&Ask::Ping, Ok(0))));
        let numbers = [101, 7, 104, 105, 105, 0, 105];
        let expected: Vec<_> = (0..).zip(numbers.map(Ok)).collect();
        assert_eq!(told(&mut batch, Fault::Lost), expected);
        assert!(batch.is_empty() && batch.asks().next().is_none());
    }

    #[test]
    fn what_was_replied_stands_and_the_rest_ends_in_the_fault() {
        for (fault, read) in [(Fault::Lost, Fault::Down), (Fault::Refused(Cause::Busy), Fault::Refused(Cause::Busy))] {
            let mut batch = Batch::default();
            for (who, ask) in (0..).zip([count("a", 1), count("b", 1), Ask::Total { key: key("a") }]) {
                assert!(batch.push(&ask, who));
            }
            batch.reply(Ok(9));
            assert_eq!(told(&mut batch, fault), [(0, Ok(9)), (1, Err(fault)), (2, Err(read))]);
        }
    }

    #[test]
    fn what_gathers_joins_what_was_never_sent() {
        let (mut unsent, mut later) = (Batch::default(), Batch::default());
        for (who, ask) in (0..).zip([count("a", 2), count("a", 1), Ask::Ping]) {
            assert!(unsent.push(&ask, who));
        }
        assert!(later.push(&count("a", 1), 3));
        later.probe(&count("b", 0));
        unsent.absorb(&mut later);
        assert!(later.is_empty() && later.asks().next().is_none());
        assert_eq!(unsent.asks().copied().collect::<Vec<_>>(), [count("a", 4), Ask::Ping, count("b", 0)]);
        for total in [Ok(4), Ok(0), Ok(9)] {
            unsent.reply(total);
        }
        assert_eq!(told(&mut unsent, Fault::Lost), [(0, Ok(2)), (1, Ok(3)), (2, Ok(0)), (3, Ok(4))]);
    }

    fn expired(batch: &mut Batch<u32>, fault: Fault, until: u32) -> Vec<(u32, Result<i64, Fault>)> {
        let mut expired = Vec::new();
        batch.expire(fault, |&who| who < until, |who, total| expired.push((who, total)));
        expired
    }

    #[test]
    fn visits_that_expire_before_they_are_sent_are_not_sent() {
        let mut batch = Batch::default();
        let asks = [count("a", 2), count("b", 1), count("a", 1), Ask::Ping, count("a", 4)];
        for (who, ask) in (0..).zip(asks) {
            assert!(batch.push(&ask, who));
        }
        assert_eq!(expired(&mut batch, Fault::Down, 2), [(0, Err(Fault::Down)), (1, Err(Fault::Down))]);
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), [count("a", 5), Ask::Ping]);
        // A line of which nothing is left may be wanted again.
        assert!(batch.push(&count("b", 3), 5));
        batch.begin(1);
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), [count("a", 5), count("b", 3), Ask::Ping]);
        for total in [Ok(105), Ok(7), Ok(0)] {
            batch.reply(total);
        }
        assert_eq!(batch.expected(), None);
        assert_eq!(told(&mut batch, Fault::Lost), [(2, Ok(101)), (3, Ok(0)), (4, Ok(105)), (5, Ok(7))]);
    }

    #[test]
    fn a_batch_whose_visits_have_all_expired_asks_for_nothing() {
        for (probe, asks) in [(false, vec![]), (true, vec![count("a", 0)])] {
            let mut batch = Batch::default();
            assert!(batch.push(&count("a", 2), 0) && batch.push(&count("b", 1), 1));
            if probe {
                batch.probe(&count("a", 0));
            }
            assert_eq!(expired(&mut batch, Fault::Down, 2).len(), 2);
            assert_eq!((batch.is_empty(), batch.waiters()), (!probe, 0));
            batch.begin(1);
            assert_eq!(batch.asks().copied().collect::<Vec<_>>(), asks);
            assert_eq!(batch.expected(), asks.first());
        }
    }

    #[test]
    fn visits_that_expire_on_their_way_stay_in_what_was_sent() {
        let mut batch = Batch::default();
        for (who, ask) in (0..).zip([count("a", 2), count("b", 1), count("a", 1), Ask::Ping]) {
            assert!(batch.push(&ask, who));
        }
        batch.begin(1);
        batch.reply(Ok(9));
        let sent: Vec<_> = batch.asks().copied().collect();
        let early = expired(&mut batch, Fault::Lost, 2);
        assert_eq!(early, [(0, Ok(8)), (1, Err(Fault::Lost))]);
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), sent);
        assert_eq!(expired(&mut batch, Fault::Lost, 4), [(2, Ok(9)), (3, Err(Fault::Down))], "a read is not in doubt");
        assert!(!batch.is_empty() && batch.waiters() == 0, "its replies are still to come");
    }

    #[test]
    fn a_flood_of_names_finds_a_line_for_each_and_a_bound() {
        let mut batch = Batch::default();
        let names = MAX_LINES as u32;
        for who in 0..2 * names {
            // In an order that jumps about: the step has no divisor in common with the number of names.
            assert!(batch.push(&count(&format!("k{}", who * 7 % names), 1), who));
        }
        assert!(!batch.push(&count("k", 1), 0) && !batch.push(&Ask::Ping, 0));
        assert_eq!(batch.asks().count(), MAX_LINES);
        for total in 0..i64::from(names) {
            batch.reply(Ok(10 * total));
        }
        let told = told(&mut batch, Fault::Lost);
        let expected = (0..2 * names).map(|who| {
            let line = i64::from(who % names);
            (who, Ok(10 * line - 1 + i64::from(who / names)))
        });
        assert_eq!(told, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_was_replied_is_not_asked_again() {
        let mut batch = Batch::default();
        for (who, ask) in (0..).zip([count("a", 1), count("b", 2), Ask::Ping]) {
            assert!(batch.push(&ask, who));
        }
        batch.begin(7);
        batch.reply(Ok(1));
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), [count("b", 2), Ask::Ping]);
        assert_eq!(batch.number(), 7);
    }

    #[test]
    fn a_reply_that_is_forgotten_is_asked_for_again() {
        let refusal = Err(Fault::Refused(Cause::Permission));
        let mut batch = Batch::default();
        for (who, name) in (0..).zip(["a", "b", "c", "d"]) {
            assert!(batch.push(&count(name, 1), who));
        }
        for reply in [Ok(5), refusal, Ok(6), refusal] {
            batch.reply(reply);
        }
        assert_eq!(batch.expected(), None);
        batch.forget(refusal);
        assert_eq!(batch.asks().copied().collect::<Vec<_>>(), [count("b", 1), count("d", 1)]);
        batch.reply(Ok(7));
        assert_eq!(batch.expected(), Some(&count("d", 1)));
        batch.reply(refusal);
        assert_eq!(batch.expected(), None);
        assert_eq!(told(&mut batch, Fault::Lost), [(0, Ok(5)), (1, Ok(7)), (2, Ok(6)), (3, refusal)]);
    }
}
