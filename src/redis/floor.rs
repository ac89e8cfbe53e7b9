//! The highest number that this process gave for each counter.
//!
//! A store may come back short: a replica that lagged was promoted, the last second was not synced, or an older copy
//! was restored. Visits up to the highest number were answered, so a counter below it has lost visits. The first
//! increment of a counter on each connection carries this number, and the script raises the counter to it before it
//! counts. So no number of this process is given twice.
//!
//! A total that falls between two increments of one connection is no loss: the counter was set from outside. Then the
//! floor is lowered to it.
//!
//! What this cannot restore: numbers that only other processes gave.

use crate::counter::{Key, LastTotals};

/// The floors of the first 1024 counters; one for a process.
#[derive(Default)]
pub struct Floor {
    numbers: LastTotals,
}

impl Floor {
    /// Creates it without numbers.
    #[must_use]
    pub const fn new() -> Self {
        Self { numbers: LastTotals::new() }
    }

    /// Returns the highest number given for a counter, or 0.
    #[must_use]
    pub fn get(&self, key: &Key) -> i64 {
        self.numbers.get(key).unwrap_or(0)
    }

    /// Records the total after an increment. `before` is the total after the previous increment on the same connection,
    /// if there was one.
    pub fn record(&mut self, key: &Key, total: i64, before: Option<i64>) {
        let floor = self.numbers.get(key).unwrap_or(total);
        // A floor below `before` was lowered already, by another connection.
        let is_reset = before.is_some_and(|before| total < before && floor >= before);
        self.numbers.replace(key, if is_reset { total } else { total.max(floor) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_highest_number_unless_the_counter_was_set() {
        let key = Key::new(b"visits").expect("a valid key");
        let mut floor = Floor::new();
        assert_eq!(floor.get(&key), 0);
        for (total, before, expected) in [
            (7, None, 7),
            (9, Some(7), 9),
            // Another connection reads its reply late.
            (8, None, 9),
            // The counter was set to 0.
            (1, Some(9), 1),
            // Another connection sees that later.
            (2, Some(8), 2),
            (3, Some(1), 3),
            (100, Some(3), 100),
            // A new connection: the store came back short.
            (4, None, 100),
        ] {
            floor.record(&key, total, before);
            assert_eq!(floor.get(&key), expected, "{total} {before:?}");
        }
    }
}
