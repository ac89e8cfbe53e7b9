//! The deadlines of the program: what starts each, what ends it, and what happens when it passes.
//!
//! A client has one of these at a time:
//!
//! ```text
//!   accept ---> FirstRequest ---> Request ---> Visit ---> Write ---> Idle ---> Request ...
//!                                    |                      |
//!                                    v 408                  v "Connection: close"
//!                                  Write ---------------> Linger ---> Acknowledgement ---> closed
//! ```
//!
//! Not here: how long a connection to Redis may be silent, which is measured (`ReplyTimeout`); pauses between attempts,
//! which grow (`Backoff`); the times of a DNS lookup (`dns::lookup`); the grace in which clients are not evicted
//! (`slots`); and the rate of log lines (`health::Notice`, [`REPORT_INTERVAL`](super::REPORT_INTERVAL)).

use std::time::{Duration, Instant};

use super::remaining;
use super::slots::{IDLE_GRACE, STALLED_GRACE};
use crate::config::Limits;

/// What a deadline is for. Each has one duration, and one thing that happens when it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    // Clients.
    /// From the accept of a connection to its first byte. Then the connection is closed without a response.
    ///
    /// `REQUEST_TIMEOUT`.
    FirstRequest,
    /// From the first byte of a request to the last byte of its body. Then the response is 408, and the connection is
    /// closed.
    ///
    /// `REQUEST_TIMEOUT`.
    Request,
    /// From a response to the first byte of the next request. Then the connection is closed without a response.
    ///
    /// `IDLE_TIMEOUT`.
    Idle,
    /// From the moment at which the socket takes no more bytes of a response until it has taken all. Then the
    /// connection is reset.
    ///
    /// `WRITE_TIMEOUT`; the kernel has the same limit for bytes that are not acknowledged.
    Write,
    /// From the end of the last response until the client closes its half. Meanwhile received bytes are discarded,
    /// since closing with unread bytes would send RST and discard the response. Then notch closes.
    ///
    /// 1 s.
    Linger,
    /// From there until the client has acknowledged all bytes. Then the connection is reset, since the kernel's memory
    /// for closed connections has no other bound.
    ///
    /// 1 s.
    Acknowledgement,
    /// From the end of an eviction until a slot is free for a new connection. Then another connection is evicted.
    ///
    /// 20 ms.
    Eviction,

    // The store.
    /// From the arrival of a visit, or of another command, to the reply of the store, wherever its batch is. Then the
    /// response is 503 if it was not sent, and otherwise 504.
    ///
    /// `STORE_TIMEOUT`.
    Visit,
    /// From the start of an attempt to connect to the only Redis server, lookup of its name included, to the
    /// connection. Then the attempt has failed, and the next one follows after a pause.
    ///
    /// `STORE_TIMEOUT`; at most half of it for the lookup.
    Connect,
    /// The same for one of several nodes, so that one that does not accept is left early.
    ///
    /// 1 s, at most half of `STORE_TIMEOUT`.
    ConnectNode,
    /// From the start of an attempt to connect to a Sentinel to its reply. Then the next Sentinel is queried.
    ///
    /// 400 ms, at most a quarter of `STORE_TIMEOUT`.
    QuerySentinel,
    /// From the first byte of a batch to its last on the driver without an event loop. Then another thread writes the
    /// rest, so that a Redis server that has stopped reading does not block clients.
    ///
    /// 10 ms.
    InlineWrite,
    /// From one check whether the store's connection was used to the next. Then, if it was not used, it is probed, so
    /// that a broken one is replaced before a visit needs it.
    ///
    /// 5 s.
    Probe,
    /// The same for a store that refuses to count: it is probed with an increment by 0.
    ///
    /// 1 s.
    RefusalProbe,
    /// From a batch to its sync under `FSYNC=everysec`. Then the ledger is synced.
    ///
    /// 1 s.
    Sync,

    // The end of the process.
    /// From SIGTERM to the moment at which the listener is closed. Then connections are drained.
    ///
    /// `DRAIN_DELAY`.
    DrainDelay,
    /// From there until idle connections are closed: a request already sent arrives within this time.
    ///
    /// 100 ms.
    DrainIdle,
    /// From `DrainDelay` until waiting for the store ends. Then each visit that waits gets 503 or 504.
    ///
    /// `DRAIN_TIMEOUT`, less 500 ms or a quarter of it, in which the responses are sent.
    DrainVisits,
    /// From `DrainDelay` until all connections are closed. Then the process ends with a warning.
    ///
    /// `DRAIN_TIMEOUT`.
    Drain,
    /// The least time for the last sync of the ledger, even if the clients have used all of `Drain`. Then the process
    /// ends with a warning.
    ///
    /// 125 ms.
    LastSync,
    /// From SIGTERM to the end of the process, whatever else blocks. Then it exits.
    ///
    /// `DRAIN_DELAY`, `DRAIN_TIMEOUT` and 250 ms.
    Exit,
}

impl Timer {
    /// Returns the time from the start of the timer to its deadline.
    #[must_use]
    pub(super) fn duration(self, limits: &Limits) -> Duration {
        match self {
            Self::FirstRequest | Self::Request => limits.request,
            Self::Idle => limits.idle,
            Self::Write => limits.write,
            Self::Linger | Self::Acknowledgement => LINGER,
            Self::Eviction => STALLED_GRACE,
            Self::Visit => limits.store,
            Self::Connect => limits.store,
            Self::ConnectNode => NODE.min(limits.store / 2),
            Self::QuerySentinel => SENTINEL.min(limits.store / 4),
            Self::InlineWrite => INLINE_WRITE,
            Self::Probe => PROBE,
            Self::RefusalProbe => REFUSAL_PROBE,
            Self::Sync => SYNC,
            Self::DrainDelay => limits.drain_delay,
            Self::DrainIdle => IDLE_GRACE,
            Self::DrainVisits => limits.drain - (limits.drain / 4).min(RESPONSE_RESERVE),
            Self::Drain => limits.drain,
            Self::LastSync => EXIT_GRACE / 2,
            Self::Exit => limits.drain_delay + limits.drain + EXIT_GRACE,
        }
    }

    /// Starts the timer now.
    #[must_use]
    pub(super) fn start(self, limits: &Limits) -> Deadline {
        self.start_at(Instant::now(), limits)
    }

    /// Starts the timer at `start`.
    #[must_use]
    pub(super) fn start_at(self, start: Instant, limits: &Limits) -> Deadline {
        Deadline { timer: self, at: start + self.duration(limits) }
    }

    /// Returns whether the client is between two requests: it has nothing in its buffers, and may be closed at once.
    #[must_use]
    pub(super) fn is_between_requests(self) -> bool {
        matches!(self, Self::FirstRequest | Self::Idle)
    }
}

/// A timer that was started, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) timer: Timer,
    pub(super) at: Instant,
}

impl Deadline {
    /// Returns the time until the deadline, zero if it has passed.
    #[must_use]
    pub(super) fn remaining(&self) -> Duration {
        remaining(self.at)
    }

    /// Returns whether the deadline has passed.
    #[must_use]
    pub(super) fn has_passed(&self) -> bool {
        self.remaining() == Duration::ZERO
    }
}

/// [`Timer::Linger`] and [`Timer::Acknowledgement`]: a client on a slow network has received the last response by then.
const LINGER: Duration = Duration::from_secs(1);

/// [`Timer::ConnectNode`], at most.
const NODE: Duration = Duration::from_secs(1);

/// [`Timer::QuerySentinel`], at most: the guidelines for Sentinel clients recommend a few hundred milliseconds.
const SENTINEL: Duration = Duration::from_millis(400);

/// [`Timer::InlineWrite`].
const INLINE_WRITE: Duration = Duration::from_millis(10);

/// [`Timer::Probe`].
const PROBE: Duration = Duration::from_secs(5);

/// [`Timer::RefusalProbe`].
const REFUSAL_PROBE: Duration = Duration::from_secs(1);

/// [`Timer::Sync`]: the promise of `FSYNC=everysec`.
const SYNC: Duration = Duration::from_secs(1);

/// How long before the end of [`Timer::Drain`] that of [`Timer::DrainVisits`] is, at most.
const RESPONSE_RESERVE: Duration = Duration::from_millis(500);

/// The longest time from the end of [`Timer::Drain`] to the exit.
const EXIT_GRACE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_leaves_time_for_responses_and_for_the_exit() {
        let millis = Duration::from_millis;
        for (delay, drain, visits, exit) in
            [(0, 10_000, 9_500, 10_250), (3000, 1000, 750, 4250), (5, 0, 0, 255), (0, 2000, 1500, 2250)]
        {
            let limits = Limits {
                connections: 1,
                counters: 1,
                store: millis(1),
                request: millis(2),
                idle: millis(3),
                write: millis(4),
                drain_delay: millis(delay),
                drain: millis(drain),
            };
            for (timer, expected) in [
                (Timer::DrainDelay, delay),
                (Timer::Drain, drain),
                (Timer::DrainVisits, visits),
                (Timer::Exit, exit),
                (Timer::Visit, 1),
                (Timer::FirstRequest, 2),
                (Timer::Request, 2),
                (Timer::Idle, 3),
                (Timer::Write, 4),
            ] {
                assert_eq!(timer.duration(&limits), millis(expected), "{timer:?}");
                let start = Instant::now();
                let deadline = timer.start_at(start, &limits);
                assert_eq!((deadline.timer, deadline.at), (timer, start + millis(expected)));
            }
            assert!(Timer::Drain.duration(&limits) < Timer::Exit.duration(&limits));
        }
    }
}
