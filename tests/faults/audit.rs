//! Compares the responses that clients received with what the store has counted.

use crate::support::Response;

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
#[derive(Debug, Default)]
pub(crate) struct Tally {
    numbers: Vec<i64>,
    /// Certainly not counted (503).
    pub(crate) refused: usize,
    pub(crate) doubts: usize,
    /// Sent by clients that then left, or whose connection ended before the response.
    pub(crate) cut: usize,
}

impl Tally {
    pub(crate) fn note(&mut self, response: &Response) {
        match response.status {
            200 => self.numbers.push(response.number()),
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

    /// Records the outcome of a visit that was not sent through [`crowd`](super::crowd).
    pub(crate) fn note_number(&mut self, number: i64) {
        self.numbers.push(number);
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        self.numbers.append(&mut other.numbers);
        self.refused += other.refused;
        self.doubts += other.doubts;
        self.cut += other.cut;
    }

    pub(crate) fn answered(&self) -> usize {
        self.numbers.len()
    }

    /// Checks all visits since the store was empty against its current `total`.
    pub(crate) fn audit(&self, total: i64, doubt: Doubt) {
        let Self { refused, doubts, cut, .. } = *self;
        let mut numbers = self.numbers.clone();
        numbers.sort_unstable();
        let twice = numbers.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "a number was answered twice");
        let (first, last) = (numbers.first().copied().unwrap_or(1), numbers.last().copied().unwrap_or(0));
        assert!(first >= 1 && last <= total, "{first} to {last} were answered, the store has {total}");
        assert!(doubt == Doubt::Possible || doubts == 0, "{doubts} visits are in doubt for nothing");
        let (least, most) = (numbers.len(), numbers.len() + doubts + cut);
        assert!(
            (least..=most).contains(&(total as usize)),
            "the store has {total}; {least} answered, {doubts} in doubt, {cut} cut off, {refused} refused"
        );
    }
}
