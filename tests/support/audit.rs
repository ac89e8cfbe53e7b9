//! Compares the responses that clients received with what the store has counted.
//!
//! A counter is linearizable exactly if each number was given once and no visit ended before a visit with a smaller
//! number had started, so no search through possible orders is needed: one walk over the numbers in ascending order
//! shows both. Together with the bounds of the total this is all that notch promises about numbers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Response;

/// Whether the store may have counted visits without a response, although no client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Each visit answered with 504 may have been counted.
    Possible,
    /// No visit may get 504: every counted visit got its number.
    None,
}

/// A connection to Redis is lost while a batch is in flight: the batch is sent again with its receipt.
pub(crate) const LOST_CONNECTION: Doubt = Doubt::None;

/// Outcomes of visits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    answers: Vec<Answer>,
    /// Certainly not counted (503).
    pub(crate) refused: usize,
    pub(crate) doubts: usize,
    /// Sent by clients that then left, or whose connection ended before the response.
    pub(crate) cut: usize,
    /// The longest time from a request to its response.
    pub(crate) slowest: Duration,
}

/// A counted visit.
#[derive(Clone, Copy, Debug)]
struct Answer {
    number: i64,
    /// A moment before the request was sent; `None` if it is unknown.
    start: Option<Instant>,
    /// A moment after the response was received.
    end: Instant,
}

impl Tally {
    /// Records a response to a request that was sent after `start`.
    pub(crate) fn note_since(&mut self, response: &Response, start: Instant) {
        let end = Instant::now();
        self.slowest = self.slowest.max(end - start);
        self.note_between(response, Some(start), end);
    }

    /// Records a response to a request that was sent at an unknown time.
    pub(crate) fn note(&mut self, response: &Response) {
        self.note_between(response, None, Instant::now());
    }

    fn note_between(&mut self, response: &Response, start: Option<Instant>, end: Instant) {
        match response.status {
            200 => self.answers.push(Answer { number: response.number(), start, end }),
            503 => {
                response.assert_not_counted();
                self.refused += 1;
            }
            _ => {
                response.assert_in_doubt();
                self.doubts += 1;
            }
        }
    }

    /// Records the outcome of a visit that was not sent through [`load`](super::load).
    pub(crate) fn note_number(&mut self, number: i64) {
        self.answers.push(Answer { number, start: None, end: Instant::now() });
    }

    /// Records a visit that was sent after `start` and answered before `end`.
    pub(crate) fn note_times(&mut self, number: i64, start: Instant, end: Instant) {
        self.answers.push(Answer { number, start: Some(start), end });
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        self.answers.append(&mut other.answers);
        self.refused += other.refused;
        self.doubts += other.doubts;
        self.cut += other.cut;
        self.slowest = self.slowest.max(other.slowest);
    }

    pub(crate) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// Compares all visits since the store was empty with its current `total`.
    pub(crate) fn findings(&self, total: i64) -> Findings {
        let mut answers = self.answers.clone();
        answers.sort_unstable_by_key(|answer| answer.number);
        let twice: BTreeSet<_> =
            answers.windows(2).filter(|pair| pair[0].number == pair[1].number).map(|pair| pair[0].number).collect();
        // The latest start of a visit with a number up to the current one.
        let (mut latest, mut disordered) = (None, 0);
        for equal in answers.chunk_by(|a, b| a.number == b.number) {
            disordered += equal.iter().filter(|answer| latest.is_some_and(|latest| answer.end < latest)).count();
            latest = latest.max(equal.iter().filter_map(|answer| answer.start).max());
        }
        let answered = answers.len() as i64;
        Findings {
            total,
            answered: self.answered(),
            refused: self.refused,
            doubts: self.doubts,
            cut: self.cut,
            slowest: self.slowest,
            lost: (answered - total).max(0) as usize,
            twice: twice.len(),
            impossible: answers.iter().filter(|answer| answer.number < 1 || answer.number > total).count(),
            disordered,
            surplus: (total - answered - (self.doubts + self.cut) as i64).max(0) as usize,
        }
    }

    /// Checks all visits since the store was empty against its current `total`.
    pub(crate) fn audit(&self, total: i64, doubt: Doubt) {
        let findings = self.findings(total);
        assert!(findings.is_exact(), "{findings:#?}");
        assert!(doubt == Doubt::Possible || self.doubts == 0, "{} visits are in doubt without a reason", self.doubts);
    }
}

/// The result of an audit: the numbers of visits, and of violations by kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Findings {
    /// The number that the store has counted.
    pub(crate) total: i64,
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) doubts: usize,
    pub(crate) cut: usize,
    pub(crate) slowest: Duration,
    /// Answered visits that are not in the total.
    pub(crate) lost: usize,
    /// Numbers that were given to more than one visit.
    pub(crate) twice: usize,
    /// Answers with a number below one or above the total.
    pub(crate) impossible: usize,
    /// Visits that were answered before a visit with a smaller number was sent.
    pub(crate) disordered: usize,
    /// Visits in the total that were neither answered, nor in doubt, nor cut off: counted more than once.
    pub(crate) surplus: usize,
}

impl Findings {
    /// Returns whether there is no violation of any kind.
    pub(crate) fn is_exact(&self) -> bool {
        let Self { lost, twice, impossible, disordered, surplus, .. } = *self;
        lost + twice + impossible + disordered + surplus == 0
    }
}
