//! The totals in memory, and the limit on the number of named counters.
//!
//! They are sorted by key, in runs of limited length: a B-tree of two levels. `BTreeMap` would add 4 kB (1.3 %) to the
//! binary. Clients may choose names and their order; in any order, an insertion among a million names takes about the
//! same time.

use crate::counter::{Key, NameLimit, Rejection};

/// The totals by key.
pub(super) struct Totals {
    /// At least one run. A run has at most [`MAX_RUN`] totals; only a single run may be empty.
    runs: Vec<Vec<(Box<[u8]>, i64)>>,
    limit: NameLimit,
    /// Number of named counters of `limit.main`.
    named: usize,
}

impl Totals {
    pub(super) fn new(limit: NameLimit) -> Self {
        Self { runs: vec![Vec::new()], limit, named: 0 }
    }

    /// Returns the total of a key, 0 if there is none.
    pub(super) fn get(&self, key: &Key) -> i64 {
        self.find(key).map_or(0, |(run, at)| self.runs[run][at].1)
    }

    /// Adds to a total, and returns it. Rejects a new named counter beyond the limit, and an overflow.
    pub(super) fn add(&mut self, key: &Key, by: i64) -> Result<i64, Rejection> {
        self.count(key, by, self.limit.most)
    }

    /// Adds an increment that was read from the file, also beyond the limit.
    pub(super) fn restore(&mut self, key: &Key, by: i64) -> Result<i64, Rejection> {
        self.count(key, by, usize::MAX)
    }

    fn count(&mut self, key: &Key, by: i64, max_named: usize) -> Result<i64, Rejection> {
        match self.find(key) {
            Ok((run, at)) => {
                let total = &mut self.runs[run][at].1;
                *total = total.checked_add(by).ok_or(Rejection::Overflow)?;
                Ok(*total)
            }
            Err(position) => {
                let is_named = self.is_named(key);
                if is_named && self.named >= max_named {
                    return Err(Rejection::TooManyCounters);
                }
                self.named += usize::from(is_named);
                self.insert(position, key, by);
                Ok(by)
            }
        }
    }

    /// Undoes [`Totals::add`]. Removes a counter whose total becomes 0.
    pub(super) fn undo(&mut self, key: &Key, by: i64) {
        let Ok((run, at)) = self.find(key) else { return };
        let totals = &mut self.runs[run];
        totals[at].1 -= by;
        if totals[at].1 == 0 {
            totals.remove(at);
            if totals.is_empty() && self.runs.len() > 1 {
                self.runs.remove(run);
            }
            self.named -= usize::from(self.is_named(key));
        }
    }

    /// Replaces a total, also beyond the limit. Removes the counter if `total` is 0.
    pub(super) fn set(&mut self, key: &Key, total: i64) {
        self.undo(key, self.get(key));
        if total != 0 {
            // A new counter does not overflow, and has no limit here.
            let _ = self.restore(key, total);
        }
    }

    /// Returns the run of a key and its index in that run; `Err` with the position at which to insert it if it is
    /// missing.
    fn find(&self, key: &Key) -> Result<(usize, usize), (usize, usize)> {
        let key = key.as_bytes();
        let starts_before = |run: &Vec<(Box<[u8]>, i64)>| run.first().is_some_and(|(first, _)| **first <= *key);
        let run = self.runs.partition_point(starts_before).saturating_sub(1);
        match self.runs[run].binary_search_by(|(other, _)| (**other).cmp(key)) {
            Ok(at) => Ok((run, at)),
            Err(at) => Err((run, at)),
        }
    }

    /// Inserts a key, and splits a run that becomes too long into halves.
    fn insert(&mut self, (run, at): (usize, usize), key: &Key, total: i64) {
        let totals = &mut self.runs[run];
        totals.insert(at, (key.as_bytes().into(), total));
        if totals.len() > MAX_RUN {
            let later = totals.split_off(MAX_RUN / 2);
            // With ascending keys, no further key is inserted into this run.
            totals.shrink_to_fit();
            self.runs.insert(run + 1, later);
        }
    }

    /// Iterates over all keys and totals, sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.runs.iter().flatten().map(|(key, total)| (&**key, *total))
    }

    /// Returns the number of counters.
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    /// Returns the first key if no key belongs to [`NameLimit::main`].
    pub(super) fn foreign_key(&self) -> Option<String> {
        let has_own = self.named > 0 || self.find(&self.limit.main).is_ok();
        let (first, _) = self.iter().next().filter(|_| !has_own)?;
        Some(String::from_utf8_lossy(first).into_owned())
    }

    fn is_named(&self, key: &Key) -> bool {
        let name = key.as_bytes().strip_prefix(self.limit.main.as_bytes());
        name.is_some_and(|name| name.first() == Some(&b':'))
    }
}

/// Most totals in a run: few enough that an insertion moves little memory, so many that there are few runs.
const MAX_RUN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a valid key")
    }

    fn totals(most: usize) -> Totals {
        Totals::new(NameLimit { main: key("visits"), most })
    }

    #[test]
    fn only_new_names_are_rejected() {
        let mut totals = totals(2);
        for (name, by, expected) in [
            ("visits:a", 1, Ok(1)),
            ("visits:b", 5, Ok(5)),
            ("visits:c", 1, Err(Rejection::TooManyCounters)),
            ("visits:a", 1, Ok(2)),
            ("visits", 1, Ok(1)),
            ("visits:c", 1, Err(Rejection::TooManyCounters)),
            ("visits:b", i64::MAX, Err(Rejection::Overflow)),
        ] {
            assert_eq!(totals.add(&key(name), by), expected, "{name}");
        }
        totals.undo(&key("visits:b"), 5);
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(1), "below the limit again");
        assert_eq!((totals.get(&key("visits:b")), totals.get(&key("visits:c"))), (0, 1));
    }

    #[test]
    fn counters_of_the_file_are_accepted_beyond_the_limit() {
        let mut totals = totals(1);
        for name in ["visits:a", "visits:b", "visits:c", "other"] {
            assert_eq!(totals.restore(&key(name), 7), Ok(7));
        }
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(8));
        assert_eq!(totals.add(&key("visits:d"), 1), Err(Rejection::TooManyCounters));
        assert_eq!(totals.add(&key("visits"), 1), Ok(1));
    }

    #[test]
    fn a_total_is_replaced() {
        let mut totals = totals(1);
        for (name, total, count) in [
            ("visits:a", 7, 1),
            ("visits:b", i64::MAX, 2),
            ("visits:a", 3, 2),
            ("visits:b", 0, 1),
            ("visits:c", 0, 1),
            ("visits:a", i64::MAX, 1),
        ] {
            totals.set(&key(name), total);
            assert_eq!((totals.get(&key(name)), totals.len(), totals.named), (total, count, count), "{name}");
        }
    }

    #[test]
    fn counters_of_another_key_are_detected() {
        for (names, foreign) in [
            (&[][..], None),
            (&["hits", "other"], Some("hits")),
            (&["visitsome", "visits2:a"], Some("visits2:a")),
            (&["other", "visits"], None),
            (&["other", "visits:a"], None),
        ] {
            let mut totals = totals(9);
            names.iter().for_each(|name| assert_eq!(totals.restore(&key(name), 1), Ok(1)));
            assert_eq!(totals.foreign_key().as_deref(), foreign, "{names:?}");
        }
    }

    #[test]
    fn totals_are_sorted_for_any_order_of_insertion() {
        const MANY: i64 = 5_000;
        let name = |number: i64| format!("visits:{number:05}");
        // Ascending, descending, and mixed: the factor and `MANY` are coprime, so every number occurs once.
        for order in [|step| step, |step| MANY - 1 - step, |step| step * 3_907 % MANY] {
            let mut totals = totals(usize::MAX);
            for number in (0..MANY).map(order) {
                assert_eq!(totals.add(&key(&name(number)), number + 1), Ok(number + 1));
            }
            let expected: Vec<_> = (0..MANY).map(|number| (name(number), number + 1)).collect();
            let found = totals.iter().map(|(key, total)| (String::from_utf8_lossy(key).into_owned(), total));
            assert!(found.eq(expected.iter().cloned()));
            assert_eq!(totals.len(), expected.len());
            for number in (0..MANY).map(order) {
                assert_eq!(totals.get(&key(&name(number))), number + 1);
                totals.undo(&key(&name(number)), number + 1);
                assert_eq!(totals.get(&key(&name(number))), 0);
            }
            assert_eq!((totals.len(), totals.named, totals.runs.len()), (0, 0, 1));
        }
    }
}
