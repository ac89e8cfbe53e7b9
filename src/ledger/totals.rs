//! The totals in memory, and the bound on how many named counters there are.
//!
//! They are sorted by key, in runs of limited length: a B-tree of two levels. The one of the standard library would be
//! another 4 kB. Clients may choose names and their order; in any order, a million new names take about the same time
//! each.

use crate::counter::{Key, Rejection};

/// Which counters a ledger takes beyond those that it holds already.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The counter that is not named: there is always room for it.
    pub main: Key,
    /// Most named counters, `main:NAME`.
    pub named: usize,
}

/// The totals by key.
pub(super) struct Totals {
    /// One at least. None has more than [`MAX_RUN`] totals, and none is empty if there is another.
    runs: Vec<Vec<(Box<[u8]>, i64)>>,
    bound: Bound,
    /// How many of them are named counters of `bound.main`.
    named: usize,
}

impl Totals {
    pub(super) fn new(bound: Bound) -> Self {
        Self { runs: vec![Vec::new()], bound, named: 0 }
    }

    pub(super) fn get(&self, key: &Key) -> i64 {
        self.find(key).map_or(0, |(run, at)| self.runs[run][at].1)
    }

    /// Counts for a key that is there or has room, and returns its total.
    pub(super) fn add(&mut self, key: &Key, by: i64) -> Result<i64, Rejection> {
        self.count(key, by, self.bound.named)
    }

    /// Counts what the file holds, which has room even if it is more than the bound allows now.
    pub(super) fn restore(&mut self, key: &Key, by: i64) -> Result<i64, Rejection> {
        self.count(key, by, usize::MAX)
    }

    fn count(&mut self, key: &Key, by: i64, most: usize) -> Result<i64, Rejection> {
        match self.find(key) {
            Ok((run, at)) => {
                let total = &mut self.runs[run][at].1;
                *total = total.checked_add(by).ok_or(Rejection::Overflow)?;
                Ok(*total)
            }
            Err(place) => {
                let named = self.is_named(key);
                if named && self.named >= most {
                    return Err(Rejection::TooManyCounters);
                }
                self.named += usize::from(named);
                self.insert(place, key, by);
                Ok(by)
            }
        }
    }

    /// Takes back what [`Totals::add`] has counted.
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

    /// Returns the run of a key and its place in that run; `Err` with those where it is to be inserted if it is not
    /// there.
    fn find(&self, key: &Key) -> Result<(usize, usize), (usize, usize)> {
        let key = key.as_bytes();
        let begins_before = |run: &Vec<(Box<[u8]>, i64)>| run.first().is_some_and(|(first, _)| **first <= *key);
        let run = self.runs.partition_point(begins_before).saturating_sub(1);
        match self.runs[run].binary_search_by(|(other, _)| (**other).cmp(key)) {
            Ok(at) => Ok((run, at)),
            Err(at) => Err((run, at)),
        }
    }

    /// Inserts a key, and cuts a run that becomes too long into halves.
    fn insert(&mut self, (run, at): (usize, usize), key: &Key, total: i64) {
        let totals = &mut self.runs[run];
        totals.insert(at, (key.as_bytes().into(), total));
        if totals.len() > MAX_RUN {
            let later = totals.split_off(MAX_RUN / 2);
            // Keys in ascending order never come back to it.
            totals.shrink_to_fit();
            self.runs.insert(run + 1, later);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.runs.iter().flatten().map(|(key, total)| (&**key, *total))
    }

    /// How many counters there are, of whatever key.
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    /// A key that is there, if none of [`Bound::main`] is.
    pub(super) fn foreign_key(&self) -> Option<String> {
        let own = self.named > 0 || self.find(&self.bound.main).is_ok();
        let (first, _) = self.iter().next().filter(|_| !own)?;
        Some(String::from_utf8_lossy(first).into_owned())
    }

    fn is_named(&self, key: &Key) -> bool {
        let name = key.as_bytes().strip_prefix(self.bound.main.as_bytes());
        name.is_some_and(|name| name.first() == Some(&b':'))
    }
}

/// Most totals in a run: few enough to be moved for each that is inserted, so many that there are few runs.
const MAX_RUN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a good name")
    }

    fn totals(named: usize) -> Totals {
        Totals::new(Bound { main: key("visits"), named })
    }

    #[test]
    fn only_new_names_are_refused() {
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
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(1), "there is room again");
        assert_eq!((totals.get(&key("visits:b")), totals.get(&key("visits:c"))), (0, 1));
    }

    #[test]
    fn what_the_file_holds_has_room_and_counts_on() {
        let mut totals = totals(1);
        for name in ["visits:a", "visits:b", "visits:c", "other"] {
            assert_eq!(totals.restore(&key(name), 7), Ok(7));
        }
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(8));
        assert_eq!(totals.add(&key("visits:d"), 1), Err(Rejection::TooManyCounters));
        assert_eq!(totals.add(&key("visits"), 1), Ok(1));
    }

    #[test]
    fn counters_of_another_key_are_noticed() {
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
    fn totals_are_sorted_whatever_the_order_of_their_keys() {
        const MANY: i64 = 5_000;
        let name = |number: i64| format!("visits:{number:05}");
        // Ascending, descending, and neither: the factor has no divisor in common with their number.
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
