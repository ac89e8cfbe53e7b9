//! What the workers know of the store, and what the log says of it.

use std::sync::atomic::Ordering;

use tracing::warn;

use super::{caution, inform};
use crate::counter::{Ask, Cause, Fault, Key};
use crate::metrics::Metrics;
use crate::redis::Broken;

/// How the store is, as far as one worker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Nothing is known yet.
    Unknown,
    /// It counts.
    Up,
    /// It cannot be reached, or broke off.
    Away(&'static str),
    /// It answers and refuses.
    Refusing(Cause),
}

impl Status {
    /// What a broken session says of the store.
    #[must_use]
    pub(super) fn of(broken: Broken) -> Self {
        match broken {
            Broken::Greeting(cause) => Self::Refusing(cause),
            Broken::Replica => Self::Refusing(Cause::ReadOnly),
            Broken::Garbage => Self::Away("what it says is not what was asked for: is it Redis?"),
        }
    }

    /// What a visitor is told who cannot be counted now.
    #[must_use]
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Refusing(cause) => Fault::Refused(cause),
            _ => Fault::Down,
        }
    }

    /// Whether it may be otherwise in a moment, so that visits wait for it.
    #[must_use]
    pub(super) fn passes(self) -> bool {
        match self {
            Self::Refusing(cause) => cause.passes() || cause == Cause::ReadOnly,
            _ => true,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Unknown | Self::Up => "",
            Self::Away(words) => words,
            Self::Refusing(cause) => cause.words(),
        }
    }

    /// Whether the log need not tell the two apart: an outage shows itself in more than one way.
    fn is_like(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Away(_), Self::Away(_)))
    }
}

/// What all workers know of the store, so that the log says each change once.
pub(super) struct Health {
    workers: Vec<Status>,
    /// The key of the last reply that changed a worker's view.
    keys: Vec<Option<Key>>,
    said: Status,
    /// The log says that no receipts are kept.
    told: bool,
    /// What is known is also shown there.
    metrics: &'static Metrics,
}

impl Health {
    /// Nothing is known to any worker.
    #[must_use]
    pub(super) fn new(metrics: &'static Metrics) -> Self {
        let (workers, keys) = (vec![Status::Unknown; metrics.workers()], vec![None; metrics.workers()]);
        Self { workers, keys, said: Status::Unknown, told: false, metrics }
    }

    /// Notes what a worker has seen and logs it if that changes the whole: the store is as well as the worker that
    /// sees it worst.
    pub(super) fn note(&mut self, worker: usize, status: Status) {
        if self.workers[worker] == status {
            return;
        }
        self.workers[worker] = status;
        let known = self.workers.iter().filter(|&&status| status != Status::Unknown);
        let whole = *known.clone().find(|&&status| status != Status::Up).unwrap_or(&Status::Up);
        if self.said.is_like(whole) {
            return;
        }
        match whole {
            // The start has been announced.
            Status::Up if self.said == Status::Unknown => {}
            Status::Up => inform("the store counts again"),
            _ => warn!(because = whole.words(), "the store does not count, visits are refused until it does"),
        }
        self.said = whole;
        self.metrics.store_up.store(whole == Status::Up, Ordering::Relaxed);
    }

    /// What a visitor is told whom this worker gives up.
    #[must_use]
    pub(super) fn fault(&self, worker: usize) -> Fault {
        self.workers[worker].fault()
    }

    /// Notes that Redis has greeted a worker, which is as much as a ping shows.
    pub(super) fn greeted(&mut self, worker: usize) {
        if self.workers[worker] != Status::Unknown {
            self.metrics.worker(worker).reconnected();
        }
        self.hear(worker, Ask::Ping, Status::Up);
    }

    /// Notes that Redis keeps no receipts for us, and says so once.
    pub(super) fn without_receipts(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            caution(
                "the store's user may not keep receipts: a visit whose reply is lost is in doubt and gets 504",
                None,
            );
        }
    }

    /// Notes what the store has made of a batch.
    pub(super) fn learn(&mut self, worker: usize, replies: impl Iterator<Item = (Ask, Result<i64, Fault>)>) {
        for (ask, result) in replies {
            match result {
                Ok(_) => self.hear(worker, ask, Status::Up),
                Err(Fault::Refused(cause)) => self.hear(worker, ask, Status::Refusing(cause)),
                Err(Fault::Down | Fault::Full | Fault::Lost) => {}
            }
        }
    }

    /// Notes what the store has made of an ask.
    fn hear(&mut self, worker: usize, ask: Ask, status: Status) {
        if !self.is_moot(worker, &ask, status) {
            self.note(worker, status);
            self.keys[worker] = ask.key();
        }
    }

    /// Whether it says nothing new: only counting shows that counting works, where reads go on without it; and of a
    /// key that is in trouble, only that key shows that it is not any more.
    fn is_moot(&self, worker: usize, ask: &Ask, status: Status) -> bool {
        let Status::Refusing(cause) = self.workers[worker] else { return status == self.workers[worker] };
        let another = cause.is_of_the_key() && ask.key() != self.keys[worker];
        match status {
            Status::Refusing(new) => another && new.is_of_the_key(),
            _ => another || (!ask.counts() && cause.spares_reads()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::About;

    fn health(workers: usize) -> Health {
        Health::new(Box::leak(Box::new(Metrics::new(About::default(), workers, false))))
    }

    #[test]
    fn the_store_is_as_well_as_the_worker_that_sees_it_worst() {
        let mut health = health(2);
        let (away, refusing) = (Status::Away("gone"), Status::Refusing(Cause::ReadOnly));
        for (worker, status, said) in [
            (0, Status::Up, Status::Up),
            (1, Status::Up, Status::Up),
            (1, away, away),
            (0, Status::Away("it cannot be reached"), away),
            (1, Status::Up, away),
            (0, refusing, refusing),
            (0, Status::Up, Status::Up),
        ] {
            health.note(worker, status);
            assert_eq!(health.said, said);
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), said == Status::Up);
        }
    }

    #[test]
    fn what_is_learnt_is_what_it_shows() {
        let refused = |cause| Err(Fault::Refused(cause));
        let key = |name: &[u8]| Key::new(name).expect("a good name");
        let (count, other) = (Ask::Count { key: key(b"a"), by: 1 }, Ask::Count { key: key(b"b"), by: 1 });
        let total = Ask::Total { key: key(b"a") };
        let mut health = health(1);
        for (ask, result, status) in [
            (count, refused(Cause::ReadOnly), Status::Refusing(Cause::ReadOnly)),
            (total, Ok(1), Status::Refusing(Cause::ReadOnly)),
            (Ask::Ping, Ok(0), Status::Refusing(Cause::ReadOnly)),
            (other, Ok(1), Status::Up),
            (total, refused(Cause::Loading), Status::Refusing(Cause::Loading)),
            (total, Ok(1), Status::Up),
            (count, Err(Fault::Lost), Status::Up),
            (count, refused(Cause::WrongType), Status::Refusing(Cause::WrongType)),
            (other, Ok(1), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::Overflow), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::OutOfMemory), Status::Refusing(Cause::OutOfMemory)),
            (count, Ok(1), Status::Up),
        ] {
            health.learn(0, [(ask, result)].into_iter());
            assert_eq!(health.workers[0], status, "{ask:?} {result:?}");
        }
    }
}
