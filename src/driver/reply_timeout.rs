//! The timeout of a reply from the store, after which the connection is replaced.
//!
//! It is computed from measured round trips, as TCP's retransmission timeout (RFC 6298): a store that always takes a
//! second is slow, and one that takes a millisecond and then a second is silent. It limits an *attempt*, from the time
//! at which a batch was sent on a connection. `STORE_TIMEOUT` limits how long a *visit* waits from its arrival, and
//! belongs to the queue. The two differ so that a batch can be sent again, on another connection, while its visits
//! still wait.

use std::time::Duration;

use crate::redis::Receipts;

/// The estimate of one worker, over all its connections.
pub(super) struct ReplyTimeout {
    /// Smoothed round trip time and its variation (RFC 6298), in nanoseconds; `None` before the first.
    measured: Option<(u64, u64)>,
    current: Duration,
    /// `STORE_TIMEOUT`.
    visit: Duration,
    /// How long the timeout may become by [`ReplyTimeout::record_timeout`].
    longest: Duration,
}

impl ReplyTimeout {
    /// Creates an estimate without a measurement; `visit` is `STORE_TIMEOUT`. If there `are_several` servers, a silent
    /// one has probably failed, and another is tried while visits still wait.
    pub(super) fn new(visit: Duration, are_several: bool) -> Self {
        let current = (visit / 2).min(INITIAL);
        let longest = if are_several { (visit / 4).max(INITIAL) } else { visit * 2 };
        Self { measured: None, current, visit, longest }
    }

    /// Returns how long to wait for a reply: at least `STORE_TIMEOUT` if the batch cannot be sent again, because no
    /// receipts are kept.
    pub(super) fn duration(&self, receipts: Option<Receipts>) -> Duration {
        match receipts {
            None | Some(Receipts::Kept) => self.current,
            Some(_) => self.current.max(self.visit),
        }
    }

    /// Records the time from the first attempt to send a batch, on any connection, to its reply.
    pub(super) fn record_round_trip(&mut self, round_trip: Duration) {
        let took = round_trip.as_nanos() as u64;
        let (smoothed, variation) = match self.measured {
            None => (took, took / 2),
            Some((smoothed, variation)) => ((smoothed * 7 + took) / 8, (variation * 3 + smoothed.abs_diff(took)) / 4),
        };
        self.measured = Some((smoothed, variation));
        // A steady store shows no variation; one round trip may still take half as long again.
        let expected = smoothed + (variation * 4).max(smoothed / 2);
        self.current = Duration::from_nanos(expected).clamp(self.least(), MAX);
    }

    /// Records that a connection was silent for [`ReplyTimeout::duration`]. The next connection gets twice the time,
    /// since the store may have become slower; at most twice `STORE_TIMEOUT`, so that a store that is back is found, or
    /// a quarter of it if there are several servers.
    pub(super) fn record_timeout(&mut self) {
        self.current = (self.current * 2).min(self.longest.max(self.current));
    }

    /// Returns the lower bound: short enough for another attempt within `STORE_TIMEOUT`, long enough for a slow disk.
    fn least(&self) -> Duration {
        (self.visit / 4).min(INITIAL)
    }
}

/// The first timeout, and the greatest lower bound (RFC 6298, 2.1 and 2.4).
const INITIAL: Duration = Duration::from_secs(1);

/// The upper bound (RFC 6298, 2.5).
const MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_timeout_follows_the_measured_round_trips() {
        for (visit, round_trips, least, most) in [
            (millis(2000), &[][..], 1000, 1000),
            (millis(200), &[], 100, 100),
            (millis(60_000), &[], 1000, 1000),
            (millis(2000), &[1; 5], 500, 500),
            (millis(60_000), &[1; 5], 1000, 1000),
            (millis(2000), &[1200; 20], 1800, 1900),
            (millis(2000), &[1, 1, 1, 900, 1, 1], 500, 1200),
            (millis(2000), &[5000; 3], 7500, 20_000),
            (millis(2000), &[600_000; 3], 60_000, 60_000),
        ] {
            let mut timeout = ReplyTimeout::new(visit, false);
            round_trips.iter().for_each(|&took| timeout.record_round_trip(millis(took)));
            let duration = timeout.duration(None);
            assert!((millis(least)..=millis(most)).contains(&duration), "{visit:?} {round_trips:?}: {duration:?}");
        }
    }

    #[test]
    fn an_attempt_leaves_time_for_another_within_a_visit() {
        for visit in [millis(40), millis(2000), millis(6000), millis(86_400_000)] {
            let mut timeout = ReplyTimeout::new(visit, false);
            assert!(timeout.duration(None) <= visit / 2);
            timeout.record_round_trip(millis(1));
            assert!(timeout.duration(None) <= visit / 4);
        }
    }

    #[test]
    fn without_receipts_the_timeout_is_at_least_store_timeout() {
        let mut timeout = ReplyTimeout::new(millis(2000), false);
        timeout.record_round_trip(millis(1));
        for receipts in [Receipts::Refused, Receipts::Evictable] {
            assert_eq!(timeout.duration(Some(receipts)), millis(2000));
        }
        assert_eq!(timeout.duration(Some(Receipts::Kept)), millis(500));
    }

    #[test]
    fn timeouts_double_up_to_a_bound_until_the_next_round_trip() {
        let mut timeout = ReplyTimeout::new(millis(2000), false);
        timeout.record_round_trip(millis(1));
        let waited: Vec<_> = (0..5)
            .map(|_| {
                let duration = timeout.duration(None).as_millis();
                timeout.record_timeout();
                duration
            })
            .collect();
        assert_eq!(waited, [500, 1000, 2000, 4000, 4000]);
        timeout.record_round_trip(millis(1));
        assert_eq!(timeout.duration(None), millis(500));
        for (visit, expected) in [(15_000, [1000, 2000, 3750, 3750]), (2000, [1000, 1000, 1000, 1000])] {
            let mut timeout = ReplyTimeout::new(millis(visit), true);
            let waited = [(); 4].map(|()| {
                let duration = timeout.duration(None).as_millis();
                timeout.record_timeout();
                duration
            });
            assert_eq!(waited, expected, "several servers");
        }
        // The timeout of a slow store does not shrink when it is silent.
        (0..5).for_each(|_| timeout.record_round_trip(millis(9000)));
        let slow = timeout.duration(None);
        timeout.record_timeout();
        assert_eq!(timeout.duration(None), slow);
    }
}
