//! The totals in memory, and the bound on how many named counters there are.
//!
//! A tree and not a sorted list, because whoever may choose names can also choose their order: a million fresh names
//! take the same time each.

use std::collections::BTreeMap;

use crate::counter::{Cause, Key};

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
    all: BTreeMap<Box<[u8]>, i64>,
    /// Counters that begin with the batch that is being written, sorted by key.
    fresh: Vec<(Key, i64)>,
    bound: Bound,
    /// How many of them are named counters of `bound.main`.
    named: usize,
}

impl Totals {
    pub(super) const fn new(bound: Bound) -> Self {
        Self { all: BTreeMap::new(), fresh: Vec::new(), bound, named: 0 }
    }

    pub(super) fn of(&self, key: &Key) -> i64 {
        self.all.get(key.as_bytes()).copied().unwrap_or(0)
    }

    /// Counts for a key that is there or has room, and returns its total. One that begins is kept once
    /// [`Totals::keep_fresh`] says so.
    pub(super) fn add(&mut self, key: &Key, by: i64) -> Result<i64, Cause> {
        self.count(key, by, self.bound.named)
    }

    /// Counts what the file holds, which has room even if it is more than the bound allows now.
    pub(super) fn restore(&mut self, key: &Key, by: i64) -> Result<(), Cause> {
        self.count(key, by, usize::MAX)?;
        self.keep_fresh();
        Ok(())
    }

    fn count(&mut self, key: &Key, by: i64, most: usize) -> Result<i64, Cause> {
        if let Some(total) = self.all.get_mut(key.as_bytes()) {
            return raise(total, by);
        }
        match self.find_fresh(key) {
            Ok(at) => raise(&mut self.fresh[at].1, by),
            Err(at) => {
                let named = self.is_named(key);
                if named && self.named >= most {
                    return Err(Cause::TooMany);
                }
                self.named += usize::from(named);
                self.fresh.insert(at, (*key, by));
                Ok(by)
            }
        }
    }

    /// Keeps the counters that have begun since this was said the last time.
    pub(super) fn keep_fresh(&mut self) {
        for (key, total) in self.fresh.drain(..) {
            self.all.insert(key.as_bytes().into(), total);
        }
    }

    /// Takes back that counters have begun.
    pub(super) fn drop_fresh(&mut self) {
        let named = self.fresh.iter().filter(|(key, _)| self.is_named(key)).count();
        self.named -= named;
        self.fresh.clear();
    }

    /// Takes back what [`Totals::add`] has counted for a counter that was there before.
    pub(super) fn take_back(&mut self, key: &Key, by: i64) {
        if let Some(total) = self.all.get_mut(key.as_bytes()) {
            *total -= by;
        }
    }

    fn find_fresh(&self, key: &Key) -> Result<usize, usize> {
        self.fresh.binary_search_by(|(other, _)| other.cmp(key))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.all.iter().map(|(key, total)| (&**key, *total))
    }

    /// How many counters there are, of whatever key.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A key that is there, if none of [`Bound::main`] is.
    pub(super) fn foreign_key(&self) -> Option<String> {
        let own = self.named > 0 || self.all.contains_key(self.bound.main.as_bytes());
        let first = self.all.keys().next().filter(|_| !own)?;
        Some(String::from_utf8_lossy(first).into_owned())
    }

    fn is_named(&self, key: &Key) -> bool {
        let name = key.as_bytes().strip_prefix(self.bound.main.as_bytes());
        name.is_some_and(|name| name.first() == Some(&b':'))
    }
}

fn raise(total: &mut i64, by: i64) -> Result<i64, Cause> {
    *total = total.checked_add(by).ok_or(Cause::Overflow)?;
    Ok(*total)
}

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
            ("visits:c", 1, Err(Cause::TooMany)),
            ("visits:a", 1, Ok(2)),
            ("visits", 1, Ok(1)),
            ("visits:c", 1, Err(Cause::TooMany)),
            ("visits:b", i64::MAX, Err(Cause::Overflow)),
        ] {
            assert_eq!(totals.add(&key(name), by), expected, "{name}");
        }
        totals.drop_fresh();
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(1), "there is room again");
        totals.keep_fresh();
        assert_eq!(totals.add(&key("visits:d"), 1), Ok(1));
        assert_eq!(totals.add(&key("visits:c"), 4), Ok(5));
        totals.drop_fresh();
        totals.take_back(&key("visits:c"), 4);
        totals.take_back(&key("visits:d"), 1);
        let all = ["visits", "visits:a", "visits:c", "visits:d"].map(|name| totals.of(&key(name)));
        assert_eq!((all, totals.len()), ([0, 0, 1, 0], 1));
    }

    #[test]
    fn what_the_file_holds_has_room_and_counts_on() {
        let mut totals = totals(1);
        for name in ["visits:a", "visits:b", "visits:c", "other"] {
            assert_eq!(totals.restore(&key(name), 7), Ok(()));
        }
        assert_eq!(totals.add(&key("visits:c"), 1), Ok(8));
        assert_eq!(totals.add(&key("visits:d"), 1), Err(Cause::TooMany));
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
            names.iter().for_each(|name| assert_eq!(totals.restore(&key(name), 1), Ok(())));
            assert_eq!(totals.foreign_key().as_deref(), foreign, "{names:?}");
        }
    }
}
