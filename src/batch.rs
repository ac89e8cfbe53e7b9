//! Group commit: many asks in, one line per key out, each asker its own number.
//!
//! While one batch is under way to the store, the next one gathers. All visits of a counter in a batch are one line
//! with one `INCRBY`; the total that comes back is dealt out in the order of arrival, so that of `n` visits the one at
//! place `p` gets `total - n + p`. Reads are a line of their own, because a store that refuses to count may well go on
//! reading.
//!
//! `W` is whatever the driver wakes when there is an answer; a batch only carries it.

use crate::counter::{Ask, Fault};

/// Asks that travel together.
pub struct Batch<W> {
    lines: Vec<Line>,
    /// The lines in the order of what they ask, so that one for each is found without looking at all of them.
    sorted: Vec<usize>,
    waiters: Vec<Waiter<W>>,
    /// So many lines at the front have a reply.
    replied: usize,
    number: i64,
    sent: bool,
}

struct Line {
    ask: Ask,
    /// What the store replied, if it did.
    total: Option<Result<i64, Fault>>,
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
        Self { lines: Vec::new(), sorted: Vec::new(), waiters: Vec::new(), replied: 0, number: 0, sent: false }
    }

    /// Adds an ask, for which `who` will be told one number. `false`, and nothing is added, if that would be one line
    /// too many.
    #[must_use]
    pub fn push(&mut self, ask: Ask, who: W) -> bool {
        let room = self.lines.len() < MAX_LINES;
        let Some(line) = self.line(&ask, room) else { return false };
        self.join(line, ask, who);
        true
    }

    fn join(&mut self, line: usize, ask: Ask, who: W) {
        let (by, place) = match (&mut self.lines[line].ask, ask) {
            (Ask::Count { by: sum, .. }, Ask::Count { by, .. }) => {
                *sum += by;
                (by, *sum)
            }
            _ => (0, 0),
        };
        self.waiters.push(Waiter { line, by, place, who });
    }

    /// Adds all asks of a batch that was never sent, which is left empty; they were let in before.
    pub fn absorb(&mut self, unsent: &mut Self) {
        for Waiter { line, by: own, who, .. } in unsent.waiters.drain(..) {
            let ask = match unsent.lines[line].ask {
                Ask::Count { key, .. } => Ask::Count { key, by: own },
                ask => ask,
            };
            if let Some(line) = self.line(&ask, true) {
                self.join(line, ask, who);
            }
        }
        unsent.clear();
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
        self.lines.push(Line { ask, total: None });
        Some(self.lines.len() - 1)
    }

    /// Gives the batch its number, under which it may be sent more than once.
    pub fn begin(&mut self, number: i64) {
        self.number = number;
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

    /// How many wait in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody waits in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// What to ask of the store, in order: one ask for each line that has no reply yet, and no two for the same.
    pub fn asks(&self) -> impl Iterator<Item = Ask> + '_ {
        self.lines.iter().filter(|line| line.total.is_none()).map(|line| line.ask)
    }

    /// The first line that has no reply yet.
    #[must_use]
    pub fn expected(&self) -> Option<Ask> {
        self.lines.get(self.replied).map(|line| line.ask)
    }

    /// Takes the store's reply to [`Batch::expected`]: the total after it, or why there is none.
    pub fn reply(&mut self, total: Result<i64, Fault>) {
        if let Some(line) = self.lines.get_mut(self.replied) {
            line.total = Some(total);
            self.skip_replied();
        }
    }

    /// Forgets the replies that were this one, so that their lines are asked again.
    pub fn forget(&mut self, reply: Result<i64, Fault>) {
        self.lines.iter_mut().filter(|line| line.total == Some(reply)).for_each(|line| line.total = None);
        self.replied = 0;
        self.skip_replied();
    }

    fn skip_replied(&mut self) {
        let rest = &self.lines[self.replied..];
        self.replied += rest.iter().position(|line| line.total.is_none()).unwrap_or(rest.len());
    }

    /// What the store has replied so far, ask by ask.
    pub fn replies(&self) -> impl Iterator<Item = (Ask, Result<i64, Fault>)> + '_ {
        self.lines.iter().filter_map(|line| Some((line.ask, line.total?)))
    }

    /// Tells every waiter its number and leaves the batch empty, its memory ready for the next. Lines without a reply
    /// end in `fault`; but a read is never in doubt, it may always be tried again.
    pub fn tell(&mut self, fault: Fault, mut tell: impl FnMut(W, Result<i64, Fault>)) {
        for Waiter { line, place, who, .. } in self.waiters.drain(..) {
            let Line { ask, total } = &self.lines[line];
            let sum = if let Ask::Count { by, .. } = ask { *by } else { 0 };
            let without = if !ask.counts() && fault == Fault::Lost { Fault::Down } else { fault };
            // Wrapping, because what comes from the store need not make sense.
            tell(who, total.unwrap_or(Err(without)).map(|total| total.wrapping_sub(sum - place)));
        }
        self.clear();
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
            assert!(batch.push(ask, who));
        }
        assert_eq!(batch.asks().collect::<Vec<_>>(), [count("a", 5), count("b", 1), total, Ask::Ping]);
        for total in [Ok(105), Ok(7), Ok(105), Ok(0)] {
            batch.reply(total);
        }
        assert_eq!(batch.expected(), None);
        assert_eq!(batch.replies().last(), Some((Ask::Ping, Ok(0))));
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
                assert!(batch.push(ask, who));
            }
            batch.reply(Ok(9));
            assert_eq!(told(&mut batch, fault), [(0, Ok(9)), (1, Err(fault)), (2, Err(read))]);
        }
    }

    #[test]
    fn what_was_never_sent_joins_what_gathers() {
        let (mut unsent, mut batch) = (Batch::default(), Batch::default());
        for (who, ask) in (0..).zip([count("a", 2), count("a", 1), Ask::Ping]) {
            assert!(unsent.push(ask, who));
        }
        assert!(batch.push(count("a", 1), 3));
        batch.absorb(&mut unsent);
        assert!(unsent.is_empty() && unsent.asks().next().is_none());
        assert_eq!(batch.asks().collect::<Vec<_>>(), [count("a", 4), Ask::Ping]);
        batch.reply(Ok(4));
        batch.reply(Ok(0));
        assert_eq!(told(&mut batch, Fault::Lost), [(3, Ok(1)), (0, Ok(3)), (1, Ok(4)), (2, Ok(0))]);
    }

    #[test]
    fn a_flood_of_names_finds_a_line_for_each_and_a_bound() {
        let mut batch = Batch::default();
        let names = MAX_LINES as u32;
        for who in 0..2 * names {
            // In an order that jumps about: the step has no divisor in common with the number of names.
            assert!(batch.push(count(&format!("k{}", who * 7 % names), 1), who));
        }
        assert!(!batch.push(count("k", 1), 0) && !batch.push(Ask::Ping, 0));
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
            assert!(batch.push(ask, who));
        }
        batch.begin(7);
        batch.reply(Ok(1));
        assert_eq!(batch.asks().collect::<Vec<_>>(), [count("b", 2), Ask::Ping]);
        assert_eq!(batch.number(), 7);
    }

    #[test]
    fn a_reply_that_is_forgotten_is_asked_for_again() {
        let refusal = Err(Fault::Refused(Cause::Permission));
        let mut batch = Batch::default();
        for (who, name) in (0..).zip(["a", "b", "c", "d"]) {
            assert!(batch.push(count(name, 1), who));
        }
        for reply in [Ok(5), refusal, Ok(6), refusal] {
            batch.reply(reply);
        }
        assert_eq!(batch.expected(), None);
        batch.forget(refusal);
        assert_eq!(batch.asks().collect::<Vec<_>>(), [count("b", 1), count("d", 1)]);
        batch.reply(Ok(7));
        assert_eq!(batch.expected(), Some(count("d", 1)));
        batch.reply(refusal);
        assert_eq!(batch.expected(), None);
        assert_eq!(told(&mut batch, Fault::Lost), [(0, Ok(5)), (1, Ok(7)), (2, Ok(6)), (3, refusal)]);
    }
}
