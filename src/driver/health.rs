//! What the workers know of the store, and what the log says of it.
//!
//! Each worker has its own view: of its connection, and of the counter without a name. A refusal that lies with one
//! named counter is no matter of the store's health. A store that refuses to count is probed
//! ([`Health::is_refusing`]) until it counts, since no visit may come to show it.
//!
//! A condition that lasts is logged once and then once a minute, with how often it was seen; one that comes and goes,
//! three times a minute at most.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{log_info, log_warning};
use crate::counter::{Command, Key, Rejection, StoreError};
use crate::metrics::Metrics;
use crate::redis::{Receipts, SessionError};

/// How the store is, as far as one worker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreHealth {
    /// Nothing is known yet.
    Unknown,
    /// It counts.
    Up,
    /// It cannot be reached, or broke off.
    Away(&'static str),
    /// It answers and refuses.
    Refusing(Rejection),
}

impl StoreHealth {
    /// What a broken session says of the store.
    #[must_use]
    pub(super) fn of(broken: SessionError) -> Self {
        match broken {
            SessionError::Handshake(rejection) => Self::Refusing(rejection),
            SessionError::Replica => Self::Refusing(Rejection::ReadOnly),
            SessionError::Protocol => Self::Away("what it says is not what was asked for: is it Redis?"),
        }
    }

    /// What a visitor is told who cannot be counted now.
    #[must_use]
    pub(super) fn error(self) -> StoreError {
        match self {
            Self::Refusing(rejection) => StoreError::Rejected(rejection),
            _ => StoreError::Unavailable,
        }
    }

    /// Whether it may be otherwise in a moment, so that visits wait for it.
    #[must_use]
    pub(super) fn is_transient(self) -> bool {
        match self {
            Self::Refusing(rejection) => rejection.is_transient() || rejection == Rejection::ReadOnly,
            _ => true,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Unknown | Self::Up => "",
            Self::Away(words) => words,
            Self::Refusing(rejection) => rejection.message(),
        }
    }

    /// Whether the log need not tell the two apart: an outage shows itself in more than one way.
    fn is_like(self, other: Self) -> bool {
        self == other || (self.is_outage() && other.is_outage())
    }

    /// Whether it is part of a restart or of a failure, of which one may show right after the other.
    fn is_outage(self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refusing(rejection) => rejection.is_transient(),
            Self::Unknown | Self::Up => false,
        }
    }
}

/// What all workers know of the store.
pub(super) struct Health {
    workers: Vec<WorkerView>,
    main: Key,
    logged: StoreHealth,
    /// The last bad condition of the store that was logged.
    condition: Notice<StoreHealth>,
    /// The last refusal that lies with one counter and was logged.
    refusal: Notice<StoreHealth>,
    /// Why the log says that no receipts are kept.
    receipts: Receipts,
    /// The log says how many visits there were at the start.
    announced: bool,
    /// What is known is also shown there.
    metrics: &'static Metrics,
}

/// What one worker knows.
struct WorkerView {
    status: StoreHealth,
    /// Why the counter without a name, and it alone, cannot be counted.
    main: Option<Rejection>,
    /// It has seen a visit count, or a count of 0, since it was connected last.
    counts: bool,
    /// The last totals that it saw, by key.
    totals: Vec<(Key, i64)>,
}

impl WorkerView {
    fn status(&self) -> StoreHealth {
        match (self.status, self.main) {
            (StoreHealth::Up, Some(rejection)) => StoreHealth::Refusing(rejection),
            (status, _) => status,
        }
    }

    /// Notes a total, and returns the last one if that was greater. One worker sees totals in the order in which the
    /// store made them. Of more than [`MAX_TOTALS`] counters, those seen first are watched.
    fn record_total(&mut self, key: &Key, total: i64) -> Option<i64> {
        match self.totals.binary_search_by(|(known, _)| known.cmp(key)) {
            Ok(at) => {
                let last = std::mem::replace(&mut self.totals[at].1, total);
                (total < last).then_some(last)
            }
            Err(at) => {
                if self.totals.len() < MAX_TOTALS {
                    self.totals.insert(at, (*key, total));
                }
                None
            }
        }
    }
}

impl Health {
    /// Nothing is known to any worker; `main` is the counter without a name.
    #[must_use]
    pub(super) fn new(metrics: &'static Metrics, main: Key) -> Self {
        let view = |_| WorkerView { status: StoreHealth::Unknown, main: None, counts: false, totals: Vec::new() };
        Self {
            workers: (0..metrics.workers()).map(view).collect(),
            main,
            logged: StoreHealth::Unknown,
            condition: Notice::default(),
            refusal: Notice::default(),
            receipts: Receipts::Kept,
            announced: false,
            metrics,
        }
    }

    /// Notes what a worker has seen and logs what it changes: the store is as well as the worker that sees it worst.
    pub(super) fn set(&mut self, worker: usize, status: StoreHealth) {
        let view = self.view(worker);
        let was_up = view.status() == StoreHealth::Up;
        view.status = status;
        // Otherwise all is as it nearly always is.
        if !was_up || status != StoreHealth::Up || self.logged != StoreHealth::Up {
            self.update();
        }
    }

    fn view(&mut self, worker: usize) -> &mut WorkerView {
        &mut self.workers[worker]
    }

    fn status(&self, worker: usize) -> StoreHealth {
        self.workers[worker].status()
    }

    fn update(&mut self) {
        let known = self.workers.iter().map(WorkerView::status).filter(|&status| status != StoreHealth::Unknown);
        let whole = known.fold(StoreHealth::Up, |worst, status| if worst == StoreHealth::Up { status } else { worst });
        if whole == StoreHealth::Up {
            // What was not logged need not be taken back; and the start has been announced.
            if self.logged != StoreHealth::Up && self.logged != StoreHealth::Unknown && self.condition.end() {
                log_info("the store counts again");
            }
        } else if let Some(times) = self.condition.record(whole, StoreHealth::is_like) {
            let words = if whole.is_transient() {
                "the store does not count, visits wait for it as long as STORE_TIMEOUT allows"
            } else {
                "the store does not count, visits get 503 until it does"
            };
            log_refusal(words, whole.message(), times);
        }
        self.logged = whole;
        self.metrics.store_up.store(whole == StoreHealth::Up, Ordering::Relaxed);
    }

    /// What a visitor is told whose visit this worker could not send.
    #[must_use]
    pub(super) fn error(&self, worker: usize) -> StoreError {
        self.status(worker).error()
    }

    /// Whether the store is known to refuse visits.
    #[must_use]
    pub(super) fn is_refusing(&self, worker: usize) -> bool {
        matches!(self.status(worker), StoreHealth::Refusing(_))
    }

    /// What to ask the store for `/readyz`: whether it counts. That a ping shows only where visits were counted before.
    #[must_use]
    pub(super) fn readiness(&self, worker: usize) -> Command {
        let view = &self.workers[worker];
        let is_known = view.counts && view.status() == StoreHealth::Up;
        if is_known { Command::Ping } else { Command::Increment { key: self.main, by: 0 } }
    }

    /// Notes that Redis has greeted a worker, and what it holds; that it counts is still to be shown.
    pub(super) fn record_handshake(&mut self, worker: usize, held: Option<Result<i64, Rejection>>) {
        let view = self.view(worker);
        view.counts = false;
        if view.status != StoreHealth::Unknown {
            self.metrics.worker(worker).record_reconnect();
        }
        self.record_reply(worker, &Command::Ping, StoreHealth::Up);
        match held {
            Some(Ok(total)) => {
                self.announce(total);
                let main = self.main;
                self.record_total(worker, &main, total);
            }
            Some(Err(rejection)) => {
                self.view(worker).main = Some(rejection);
                self.update();
            }
            None => {}
        }
    }

    /// Notes whether a batch may be sent again where its reply is lost, and says once if it may not.
    pub(super) fn record_receipts(&mut self, receipts: Receipts) {
        if std::mem::replace(&mut self.receipts, receipts) == receipts {
            return;
        }
        let words = match receipts {
            Receipts::Kept => return log_info("the store keeps receipts: a visit whose reply is lost is sent again"),
            Receipts::Refused => {
                "the store's user may not keep receipts: a visit whose reply is lost is in doubt and gets 504"
            }
            Receipts::Evictable => {
                "the store may evict receipts: a visit whose reply is lost is in doubt and gets 504; \
                 set maxmemory-policy noeviction, and let the user run INFO"
            }
        };
        log_warning(words, None);
    }

    /// Notes what the store has replied to a part of a batch. The totals of one that was sent more than once may be older
    /// than those that were seen meanwhile.
    pub(super) fn record_replies(
        &mut self,
        worker: usize,
        is_repeated: bool,
        command: &Command,
        reply: Result<i64, StoreError>,
    ) {
        match (command, reply) {
            (Command::Increment { key, .. }, Ok(total)) => self.counted(worker, key, (!is_repeated).then_some(total)),
            (_, Ok(_)) => self.record_reply(worker, command, StoreHealth::Up),
            (_, Err(StoreError::Rejected(rejection))) if rejection.is_key_specific() => {
                self.refused(worker, command, rejection)
            }
            (_, Err(StoreError::Rejected(rejection))) => {
                self.record_reply(worker, command, StoreHealth::Refusing(rejection))
            }
            (_, Err(StoreError::Unavailable | StoreError::Overloaded | StoreError::OutcomeUnknown)) => {}
        }
    }

    fn counted(&mut self, worker: usize, key: &Key, total: Option<i64>) {
        let is_main = *key == self.main;
        let view = self.view(worker);
        view.counts = true;
        if is_main {
            view.main = None;
        }
        if let Some(total) = total {
            self.record_total(worker, key, total);
        }
        self.set(worker, StoreHealth::Up);
    }

    /// Notes what the store holds; it should never be less than it was.
    fn record_total(&mut self, worker: usize, key: &Key, total: i64) {
        if let Some(last) = self.view(worker).record_total(key, total) {
            self.metrics.worker(worker).record_regression();
            error!(
                total,
                last,
                "the store has lost visits of {}: numbers are given again; was an older copy restored, or its data \
                 removed?",
                DisplayKey(key)
            );
        }
    }

    /// Says once what the store holds: who sees another number than expected may look at another store.
    fn announce(&mut self, total: i64) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        match total {
            0 => log_info(&format!(
                "the store holds no visits of {} yet; if it should, check COUNTER_KEY, REDIS_DB and its volume",
                DisplayKey(&self.main)
            )),
            _ => info!(total, "the store holds visits of {}", DisplayKey(&self.main)),
        }
    }

    /// Notes that one counter is refused.
    fn refused(&mut self, worker: usize, command: &Command, rejection: Rejection) {
        let key = command.key().copied().unwrap_or(self.main);
        if key == self.main {
            self.view(worker).main = Some(rejection);
        } else if let Some(times) = self.refusal.record(StoreHealth::Refusing(rejection), StoreHealth::is_like) {
            log_refusal(&format!("visits of {} get an error", DisplayKey(&key)), rejection.message(), times);
        }
        self.record_reply(worker, &Command::Ping, StoreHealth::Up);
    }

    /// Notes what a reply shows of the store: only counting shows that counting works, where reads go on without it.
    fn record_reply(&mut self, worker: usize, command: &Command, status: StoreHealth) {
        let known = self.view(worker).status;
        let is_moot = match known {
            StoreHealth::Refusing(rejection) => {
                status == StoreHealth::Up && !command.is_increment() && rejection.allows_reads()
            }
            _ => false,
        };
        self.set(worker, if is_moot { known } else { status });
    }
}

/// Logs why visits are not counted, and how often that was seen.
fn log_refusal(words: &str, because: &str, times: u64) {
    warn!(because, times, "{words}");
}

/// A key in a line of log.
struct DisplayKey<'a>(&'a Key);

impl std::fmt::Display for DisplayKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(str::from_utf8(self.0.as_bytes()).unwrap_or_default())
    }
}

/// What the log says of something that lasts, or comes and goes.
struct Notice<T> {
    /// What the last line was about.
    last: Option<T>,
    /// It was logged, and not that it is over.
    open: bool,
    /// How often it was seen since that line.
    times: u64,
    /// Since when lines are counted, and how many there were.
    window: Option<(Instant, u32)>,
}

impl<T> Default for Notice<T> {
    fn default() -> Self {
        Self { last: None, open: false, times: 0, window: None }
    }
}

impl<T: Copy> Notice<T> {
    /// Notes that it is so, and returns how often it was seen since the last line, if it is time for another: once a
    /// minute while it lasts; and each time that it comes anew, but [`MAX_LINES`] times a minute at most.
    fn record(&mut self, what: T, is_like: fn(T, T) -> bool) -> Option<u64> {
        self.times += 1;
        let now = Instant::now();
        let (since, lines) = self.window.filter(|&(since, _)| now < since + WINDOW).unwrap_or((now, 0));
        let is_new = !self.open || !self.last.is_some_and(|last| is_like(last, what));
        if lines > 0 && (!is_new || lines == MAX_LINES) {
            return None;
        }
        (self.last, self.open, self.window) = (Some(what), true, Some((since, lines + 1)));
        Some(std::mem::take(&mut self.times))
    }

    /// Notes that it is over, and returns whether the log has to say so.
    fn end(&mut self) -> bool {
        std::mem::take(&mut self.open)
    }
}

/// Most lines in a minute about what comes and goes.
const MAX_LINES: u32 = 3;

/// After this time a condition that lasts is logged again.
const WINDOW: Duration = Duration::from_secs(60);

/// Most counters whose totals a worker remembers.
const MAX_TOTALS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::About;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a good name")
    }

    fn health(workers: usize) -> Health {
        Health::new(Box::leak(Box::new(Metrics::new(About::default(), workers, false))), key("a"))
    }

    #[test]
    fn the_store_is_as_well_as_the_worker_that_sees_it_worst() {
        let mut health = health(2);
        let (away, refusing) = (StoreHealth::Away("gone"), StoreHealth::Refusing(Rejection::ReadOnly));
        for (worker, status, said) in [
            (0, StoreHealth::Up, StoreHealth::Up),
            (1, StoreHealth::Up, StoreHealth::Up),
            (1, away, away),
            (0, StoreHealth::Away("it cannot be reached"), away),
            (1, StoreHealth::Up, away),
            (0, refusing, refusing),
            (0, StoreHealth::Up, StoreHealth::Up),
        ] {
            health.set(worker, status);
            assert!(health.logged.is_like(said), "{:?}", health.logged);
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), said == StoreHealth::Up);
        }
    }

    #[test]
    fn what_is_learnt_is_what_it_shows() {
        let refused = |rejection| Err(StoreError::Rejected(rejection));
        let (count, other) = (Command::Increment { key: key("a"), by: 1 }, Command::Increment { key: key("b"), by: 1 });
        let total = Command::Get { key: key("a") };
        let mut health = health(1);
        for (command, result, status) in [
            (count, refused(Rejection::ReadOnly), StoreHealth::Refusing(Rejection::ReadOnly)),
            (total, Ok(1), StoreHealth::Refusing(Rejection::ReadOnly)),
            (Command::Ping, Ok(0), StoreHealth::Refusing(Rejection::ReadOnly)),
            (other, Ok(1), StoreHealth::Up),
            (total, refused(Rejection::Loading), StoreHealth::Refusing(Rejection::Loading)),
            (total, Ok(1), StoreHealth::Up),
            (count, Err(StoreError::OutcomeUnknown), StoreHealth::Up),
            // The counter without a name is what the store is for; one with a name is a matter of its own.
            (count, refused(Rejection::WrongType), StoreHealth::Refusing(Rejection::WrongType)),
            (other, Ok(1), StoreHealth::Refusing(Rejection::WrongType)),
            (other, refused(Rejection::Overflow), StoreHealth::Refusing(Rejection::WrongType)),
            (other, refused(Rejection::OutOfMemory), StoreHealth::Refusing(Rejection::OutOfMemory)),
            (count, Ok(1), StoreHealth::Up),
            (other, refused(Rejection::WrongType), StoreHealth::Up),
            (other, refused(Rejection::TooManyCounters), StoreHealth::Up),
            (count, refused(Rejection::OutOfMemory), StoreHealth::Refusing(Rejection::OutOfMemory)),
            (other, refused(Rejection::TooManyCounters), StoreHealth::Refusing(Rejection::OutOfMemory)),
            (Command::Increment { key: key("a"), by: 0 }, Ok(1), StoreHealth::Up),
        ] {
            health.record_replies(0, false, &command, result);
            assert_eq!(health.workers[0].status(), status, "{command:?} {result:?}");
            assert_eq!(
                health.metrics.store_up.load(Ordering::Relaxed),
                status == StoreHealth::Up,
                "{command:?} {result:?}"
            );
        }
    }

    #[test]
    fn a_total_below_one_that_was_seen_is_a_loss() {
        let mut health = health(2);
        let lost = |health: &Health| {
            let page = String::from_utf8(health.metrics.page()).expect("text");
            let line = page.lines().find_map(|line| line.strip_prefix("notch_store_regressions_total "));
            line.and_then(|number| number.parse::<u64>().ok()).expect("a number")
        };
        for (worker, is_repeated, name, total, losses) in [
            (0, false, "a", 5, 0),
            (0, false, "a", 5, 0),
            // Another worker's replies may be read in another order.
            (1, false, "a", 4, 0),
            (0, false, "b", 1, 0),
            (0, false, "a", 6, 0),
            // A receipt says what the total was when its batch was counted.
            (0, true, "a", 3, 0),
            (0, false, "a", 1, 1),
            (0, false, "a", 2, 1),
            (1, false, "a", 3, 2),
            (0, false, "b", 0, 3),
        ] {
            health.record_replies(worker, is_repeated, &Command::Increment { key: key(name), by: 0 }, Ok(total));
            assert_eq!(lost(&health), losses, "{worker} {name} {total}");
        }
    }

    #[test]
    fn what_lasts_is_said_once_a_minute() {
        let mut notice = Notice::default();
        let same = |one: u8, other: u8| one == other;
        assert!(!notice.end(), "nothing was said");
        assert_eq!(notice.record(1, same), Some(1));
        assert_eq!(notice.record(1, same), None);
        assert!(notice.end() && !notice.end());
        assert_eq!(notice.record(1, same), Some(2), "it came anew");
        assert_eq!(notice.record(2, same), Some(1), "it is another");
        assert!(notice.end());
        assert_eq!(notice.record(1, same), None, "it comes and goes");
        assert!(!notice.end(), "it was not said that it began");
        assert_eq!(notice.record(2, same), None);
        notice.window = notice.window.map(|(since, lines)| (since - WINDOW, lines));
        assert_eq!(notice.record(2, same), Some(3));
        assert_eq!(notice.record(2, same), None);
    }
}
