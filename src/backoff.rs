//! Pauses between attempts.

use std::time::Duration;

/// Pauses that double from 10 to 250 ms.
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Backoff {
    /// Short enough that a visitor does not notice it.
    const FIRST: Duration = Duration::from_millis(10);
    /// Long enough that attempts take hardly any processor time, short enough to find a store soon after its restart.
    pub(crate) const LAST: Duration = Duration::from_millis(250);

    /// Returns whether no attempt has failed since the last success.
    #[must_use]
    pub(crate) fn is_first(&self) -> bool {
        self.0 == Self::FIRST
    }

    /// Returns whether the pauses have reached their bound.
    #[must_use]
    pub(crate) fn is_last(&self) -> bool {
        self.0 == Self::LAST
    }

    /// Returns the next pause, and doubles it for the next call.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LAST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250]);
    }
}
