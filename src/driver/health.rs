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

use super::{caution, inform};
use crate::counter::{Ask, Cause, Fault, Key};
use crate::metrics::Metrics;
use crate::redis::{Broken, Receipts};

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
        self == other || (self.is_outage() && other.is_outage())
    }

    /// Whether it is part of a restart or of a failure, of which one may show right after the other.
    fn is_outage(self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refusing(cause) => cause.passes(),
            Self::Unknown | Self::Up => false,
        }
    }
}

/// What all workers know of the store.
pub(super) struct Health {
    workers: Vec<View>,
    main: Key,
    said: Status,
    /// The last bad condition of the store that was logged.
    condition: Notice<Status>,
    /// The last refusal that lies with one counter and was logged.
    refusal: Notice<Status>,
    /// Why the log says that no receipts are kept.
    receipts: Receipts,
    /// The log says how many visits there were at the start.
    announced: bool,
    /// What is known is also shown there.
    metrics: &'static Metrics,
}

/// What one worker knows.
struct View {
    status: Status,
    /// Why the counter without a name, and it alone, cannot be counted.
    main: Option<Cause>,
    /// It has seen a visit count, or a count of 0, since it was connected last.
    counts: bool,
    /// The last totals that it saw, by key.
    totals: Vec<(Key, i64)>,
}

impl View {
    fn status(&self) -> Status {
        match (self.status, self.main) {
            (Status::Up, Some(cause)) => Status::Refusing(cause),
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
        let view = |_| View { status: Status::Unknown, main: None, counts: false, totals: Vec::new() };
        Self {
            workers: (0..metrics.workers()).map(view).collect(),
            main,
            said: Status::Unknown,
            condition: Notice::default(),
            refusal: Notice::default(),
            receipts: Receipts::Kept,
            announced: false,
            metrics,
        }
    }

    /// Notes what a worker has seen and logs what it changes: the store is as well as the worker that sees it worst.
    pub(super) fn note(&mut self, worker: usize, status: Status) {
        let view = self.view(worker);
        let was_up = view.status() == Status::Up;
        view.status = status;
        // Otherwise all is as it nearly always is.
        if !was_up || status != Status::Up || self.said != Status::Up {
            self.judge();
        }
    }

    fn view(&mut self, worker: usize) -> &mut View {
        &mut self.workers[worker]
    }

    fn status(&self, worker: usize) -> Status {
        self.workers[worker].status()
    }

    fn judge(&mut self) {
        let known = self.workers.iter().map(View::status).filter(|&status| status != Status::Unknown);
        let whole = known.fold(Status::Up, |worst, status| if worst == Status::Up { status } else { worst });
        if whole == Status::Up {
            // What was not logged need not be taken back; and the start has been announced.
            if self.said != Status::Up && self.said != Status::Unknown && self.condition.end() {
                inform("the store counts again");
            }
        } else if let Some(times) = self.condition.sees(whole, Status::is_like) {
            let words = if whole.passes() {
                "the store does not count, visits wait for it as long as STORE_TIMEOUT allows"
            } else {
                "the store does not count, visits get 503 until it does"
            };
            log_refusal(words, whole.words(), times);
        }
        self.said = whole;
        self.metrics.store_up.store(whole == Status::Up, Ordering::Relaxed);
    }

    /// What a visitor is told whose visit this worker could not send.
    #[must_use]
    pub(super) fn fault(&self, worker: usize) -> Fault {
        self.status(worker).fault()
    }

    /// Whether the store is known to refuse visits.
    #[must_use]
    pub(super) fn is_refusing(&self, worker: usize) -> bool {
        matches!(self.status(worker), Status::Refusing(_))
    }

    /// What to ask the store for `/readyz`: whether it counts. That a ping shows only where visits were counted before.
    #[must_use]
    pub(super) fn readiness(&self, worker: usize) -> Ask {
        let view = &self.workers[worker];
        let is_known = view.counts && view.status() == Status::Up;
        if is_known { Ask::Ping } else { Ask::Count { key: self.main, by: 0 } }
    }

    /// Notes that Redis has greeted a worker, and what it holds; that it counts is still to be shown.
    pub(super) fn greeted(&mut self, worker: usize, held: Option<Result<i64, Cause>>) {
        let view = self.view(worker);
        view.counts = false;
        if view.status != Status::Unknown {
            self.metrics.worker(worker).reconnected();
        }
        self.hear(worker, &Ask::Ping, Status::Up);
        match held {
            Some(Ok(total)) => {
                self.announce(total);
                let main = self.main;
                self.record_total(worker, &main, total);
            }
            Some(Err(cause)) => {
                self.view(worker).main = Some(cause);
                self.judge();
            }
            None => {}
        }
    }

    /// Notes whether a batch may be sent again where its reply is lost, and says once if it may not.
    pub(super) fn receipts(&mut self, receipts: Receipts) {
        if std::mem::replace(&mut self.receipts, receipts) == receipts {
            return;
        }
        let words = match receipts {
            Receipts::Kept => return inform("the store keeps receipts: a visit whose reply is lost is sent again"),
            Receipts::Refused => {
                "the store's user may not keep receipts: a visit whose reply is lost is in doubt and gets 504"
            }
            Receipts::Evictable => {
                "the store may evict receipts: a visit whose reply is lost is in doubt and gets 504; \
                 set maxmemory-policy noeviction, and let the user run INFO"
            }
        };
        caution(words, None);
    }

    /// Notes what the store has replied to a part of a batch. The totals of one that was sent more than once may be older
    /// than those that were seen meanwhile.
    pub(super) fn learn(&mut self, worker: usize, is_repeated: bool, ask: &Ask, reply: Result<i64, Fault>) {
        match (ask, reply) {
            (Ask::Count { key, .. }, Ok(total)) => self.counted(worker, key, (!is_repeated).then_some(total)),
            (_, Ok(_)) => self.hear(worker, ask, Status::Up),
            (_, Err(Fault::Refused(cause))) if cause.is_of_the_key() => self.refused(worker, ask, cause),
            (_, Err(Fault::Refused(cause))) => self.hear(worker, ask, Status::Refusing(cause)),
            (_, Err(Fault::Down | Fault::Full | Fault::Lost)) => {}
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
        self.note(worker, Status::Up);
    }

    /// Notes what the store holds; it should never be less than it was.
    fn record_total(&mut self, worker: usize, key: &Key, total: i64) {
        if let Some(last) = self.view(worker).record_total(key, total) {
            self.metrics.worker(worker).regressed();
            error!(
                total,
                last,
                "the store has lost visits of {}: numbers are given again; was an older copy restored, or its data \
                 removed?",
                Name(key)
            );
        }
    }

    /// Says once what the store holds: who sees another number than expected may look at another store.
    fn announce(&mut self, total: i64) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        match total {
            0 => inform(&format!(
                "the store holds no visits of {} yet; if it should, check COUNTER_KEY, REDIS_DB and its volume",
                Name(&self.main)
            )),
            _ => info!(total, "the store holds visits of {}", Name(&self.main)),
        }
    }

    /// Notes that one counter is refused.
    fn refused(&mut self, worker: usize, ask: &Ask, cause: Cause) {
        let key = ask.key().copied().unwrap_or(self.main);
        if key == self.main {
            self.view(worker).main = Some(cause);
        } else if let Some(times) = self.refusal.sees(Status::Refusing(cause), Status::is_like) {
            log_refusal(&format!("visits of {} get an error", Name(&key)), cause.words(), times);
        }
        self.hear(worker, &Ask::Ping, Status::Up);
    }

    /// Notes what a reply shows of the store: only counting shows that counting works, where reads go on without it.
    fn hear(&mut self, worker: usize, ask: &Ask, status: Status) {
        let known = self.view(worker).status;
        let is_moot = match known {
            Status::Refusing(cause) => status == Status::Up && !ask.counts() && cause.spares_reads(),
            _ => false,
        };
        self.note(worker, if is_moot { known } else { status });
    }
}

/// Logs why visits are not counted, and how often that was seen.
fn log_refusal(words: &str, because: &str, times: u64) {
    warn!(because, times, "{words}");
}

/// A key in a line of log.
struct Name<'a>(&'a Key);

impl std::fmt::Display for Name<'_> {
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
    fn sees(&mut self, what: T, is_like: fn(T, T) -> bool) -> Option<u64> {
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
            assert!(health.said.is_like(said), "{:?}", health.said);
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), said == Status::Up);
        }
    }

    #[test]
    fn what_is_learnt_is_what_it_shows() {
        let refused = |cause| Err(Fault::Refused(cause));
        let (count, other) = (Ask::Count { key: key("a"), by: 1 }, Ask::Count { key: key("b"), by: 1 });
        let total = Ask::Total { key: key("a") };
        let mut health = health(1);
        for (ask, result, status) in [
            (count, refused(Cause::ReadOnly), Status::Refusing(Cause::ReadOnly)),
            (total, Ok(1), Status::Refusing(Cause::ReadOnly)),
            (Ask::Ping, Ok(0), Status::Refusing(Cause::ReadOnly)),
            (other, Ok(1), Status::Up),
            (total, refused(Cause::Loading), Status::Refusing(Cause::Loading)),
            (total, Ok(1), Status::Up),
            (count, Err(Fault::Lost), Status::Up),
            // The counter without a name is what the store is for; one with a name is a matter of its own.
            (count, refused(Cause::WrongType), Status::Refusing(Cause::WrongType)),
            (other, Ok(1), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::Overflow), Status::Refusing(Cause::WrongType)),
            (other, refused(Cause::OutOfMemory), Status::Refusing(Cause::OutOfMemory)),
            (count, Ok(1), Status::Up),
            (other, refused(Cause::WrongType), Status::Up),
            (other, refused(Cause::TooMany), Status::Up),
            (count, refused(Cause::OutOfMemory), Status::Refusing(Cause::OutOfMemory)),
            (other, refused(Cause::TooMany), Status::Refusing(Cause::OutOfMemory)),
            (Ask::Count { key: key("a"), by: 0 }, Ok(1), Status::Up),
        ] {
            health.learn(0, false, &ask, result);
            assert_eq!(health.workers[0].status(), status, "{ask:?} {result:?}");
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), status == Status::Up, "{ask:?} {result:?}");
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
            health.learn(worker, is_repeated, &Ask::Count { key: key(name), by: 0 }, Ok(total));
            assert_eq!(lost(&health), losses, "{worker} {name} {total}");
        }
    }

    #[test]
    fn what_lasts_is_said_once_a_minute() {
        let mut notice = Notice::default();
        let same = |one: u8, other: u8| one == other;
        assert!(!notice.end(), "nothing was said");
        assert_eq!(notice.sees(1, same), Some(1));
        assert_eq!(notice.sees(1, same), None);
        assert!(notice.end() && !notice.end());
        assert_eq!(notice.sees(1, same), Some(2), "it came anew");
        assert_eq!(notice.sees(2, same), Some(1), "it is another");
        assert!(notice.end());
        assert_eq!(notice.sees(1, same), None, "it comes and goes");
        assert!(!notice.end(), "it was not said that it began");
        assert_eq!(notice.sees(2, same), None);
        notice.window = notice.window.map(|(since, lines)| (since - WINDOW, lines));
        assert_eq!(notice.sees(2, same), Some(3));
        assert_eq!(notice.sees(2, same), None);
    }
}
