//! The audit finds each kind of violation.

use std::time::{Duration, Instant};

use crate::audit::{Findings, Tally};

/// Visits as number, start and end, the total after them, and what is wrong with them.
type History = (&'static [(i64, u64, u64)], i64, Violations);

const HISTORIES: &[History] = &[
    (&[], 0, EXACT),
    (&[(1, 0, 1), (2, 2, 3), (3, 4, 5)], 3, EXACT),
    // Visits at the same time may have their numbers in any order.
    (&[(2, 0, 9), (1, 5, 8), (3, 0, 9)], 3, EXACT),
    // A visit that ends in the moment when another one starts is not before it.
    (&[(2, 0, 5), (1, 5, 8)], 2, EXACT),
    (&[(2, 0, 4), (1, 5, 8)], 2, Violations { disordered: 1, ..EXACT }),
    // A stale primary gives lower numbers, long after higher ones.
    (&[(5, 0, 1), (6, 2, 3), (3, 4, 5), (4, 6, 7), (1, 0, 9), (2, 0, 9)], 6, Violations { disordered: 2, ..EXACT }),
    (&[(1, 0, 1), (2, 2, 3), (2, 2, 3)], 3, Violations { twice: 1, ..EXACT }),
    // The same number later: the second one is no earlier than the first one, but the next number is.
    (&[(1, 0, 1), (1, 4, 5), (2, 2, 3)], 3, Violations { twice: 1, disordered: 1, ..EXACT }),
    (&[(1, 0, 1), (2, 2, 3), (3, 4, 5)], 2, Violations { lost: 1, impossible: 1, ..EXACT }),
    (&[(0, 0, 1)], 1, Violations { impossible: 1, ..EXACT }),
    (&[(1, 0, 1), (3, 2, 3)], 3, Violations { surplus: 1, ..EXACT }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violations {
    lost: usize,
    twice: usize,
    impossible: usize,
    disordered: usize,
    surplus: usize,
}

const EXACT: Violations = Violations { lost: 0, twice: 0, impossible: 0, disordered: 0, surplus: 0 };

#[test]
fn each_violation_is_found_in_any_order_of_the_answers() {
    let zero = Instant::now();
    for (visits, total, expected) in HISTORIES {
        for turn in 0..visits.len().max(1) {
            let (mut one, mut other) = (Tally::default(), Tally::default());
            for (place, (number, start, end)) in visits.iter().enumerate() {
                let tally = if place < turn { &mut other } else { &mut one };
                let at = |milliseconds| zero + Duration::from_millis(milliseconds);
                tally.note_times(*number, at(*start), at(*end));
            }
            one.merge(other);
            let Findings { lost, twice, impossible, disordered, surplus, .. } = one.findings(*total);
            assert_eq!(Violations { lost, twice, impossible, disordered, surplus }, *expected, "{visits:?} of {total}");
            assert_eq!(one.findings(*total).is_exact(), *expected == EXACT, "{visits:?} of {total}");
        }
    }
}
