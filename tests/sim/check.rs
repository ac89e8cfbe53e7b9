//! What the clients received, and whether it fits one counter that loses nothing.
//!
//! For a counter linearizability needs no search: its numbers are the order.

use super::{MILLIS, Time};
use crate::counter::StoreError;

/// One request to count, and its end.
pub(super) struct Visit {
    pub(super) worker: usize,
    /// Its slot in the queue of the worker.
    pub(super) slot: usize,
    pub(super) counter: usize,
    pub(super) by: i64,
    pub(super) start: Time,
    pub(super) end: Option<(Time, Result<i64, StoreError>)>,
}

/// The violations of one history, or of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violations {
    /// Numbers that were given more than once.
    pub(super) twice: u64,
    /// Answers that ended before a request with a smaller number started.
    pub(super) reordered: u64,
    /// Numbers above the final total: answered visits that the store lost.
    pub(super) lost: u64,
    /// Visits in the final total that were neither answered nor in doubt.
    pub(super) excess: u64,
    /// Requests without an answer at their deadline.
    pub(super) late: u64,
    /// More names than allowed, or a named counter that is not among them.
    pub(super) unlimited: u64,
}

impl Violations {
    pub(super) const NONE: Self = Self { twice: 0, reordered: 0, lost: 0, excess: 0, late: 0, unlimited: 0 };

    pub(super) fn add(&mut self, other: Self) {
        self.twice += other.twice;
        self.reordered += other.reordered;
        self.lost += other.lost;
        self.excess += other.excess;
        self.late += other.late;
        self.unlimited += other.unlimited;
    }

    /// Returns whether an answer was wrong: its number belongs to two visits, or to none.
    pub(super) fn is_broken(&self) -> bool {
        self.twice + self.reordered + self.lost > 0
    }
}

/// Checks the visits of one counter against its final total, and adds what it finds to `violations`.
pub(super) fn check(visits: &[Visit], counter: usize, total: i64, timeout: Time, violations: &mut Violations) {
    let mut answers = Vec::new();
    let (mut answered, mut in_doubt) = (0, 0);
    for visit in visits.iter().filter(|visit| visit.counter == counter) {
        match visit.end {
            Some((end, Ok(number))) if visit.by > 0 => {
                answered += visit.by;
                answers.push((number, visit.by, visit.start, end));
            }
            Some((_, Err(StoreError::OutcomeUnknown))) => in_doubt += visit.by,
            Some((_, Ok(_) | Err(_))) | None => {}
        }
        violations.late += u64::from(visit.end.is_none_or(|(end, _)| end > visit.start + timeout + MILLIS));
    }
    answers.sort_unstable();
    // The greatest number and the latest start so far.
    let (mut greatest, mut latest) = (0, 0);
    for (number, by, start, end) in answers {
        violations.twice += (greatest - (number - by)).clamp(0, by) as u64;
        violations.reordered += u64::from(end < latest);
        violations.lost += (number - total).clamp(0, by) as u64;
        (greatest, latest) = (greatest.max(number), latest.max(start));
    }
    violations.excess += (total - answered - in_doubt).max(0) as u64;
}
