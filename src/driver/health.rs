//! The health of the store, as each worker observes it, and the log lines about it.
//!
//! Each worker has its own view of its connection and of the main counter. Each reply changes it by this table
//! ([`StoreHealth::after`]):
//!
//! | reply | state before | state after |
//! |---|---|---|
//! | an increment is counted | any | `Up` |
//! | a read or `PING` succeeds | `Refusing`, for a reason that allows reads | the same: only an increment ends it |
//! | | any other | `Up` |
//! | a rejection that concerns one counter | | as after a read; the main counter's is kept until it is counted |
//! | any other rejection | any | `Refusing` |
//! | none: unavailable, overloaded, in doubt | any | the same |
//! | the connection fails | any | `Down`, or `Refusing` if the handshake was rejected |
//!
//! What a worker reports ([`WorkerView::status`]) and all together ([`Health::update`]):
//!
//! | state | `notch_store_up` | a visit that cannot be sent | `/readyz` sends | probe |
//! |---|---|---|---|---|
//! | `Unknown`: before the first connection | as the others | waits, then 503 | an increment by 0 | `PING` if idle |
//! | `Up` | 1 | waits, then 503 | `PING` once an increment was counted | `PING` if idle |
//! | `Up`, and the main counter is rejected | 0 | waits, then that error | an increment by 0 | an increment by 0 |
//! | `Down` | 0 | waits, then 503 | an increment by 0 | `PING` if idle |
//! | `Refusing` | 0 | that error; first it waits if the reason is transient | an increment by 0 | an increment by 0 |
//!
//! The state of all is the worst: that of the first worker that is not `Up`. A store that refuses to count is probed
//! until it counts, since no visit may arrive to show it.
//!
//! A lasting condition is logged once, and then once a minute with the number of times it was seen. A condition that
//! recurs is logged at most three times a minute.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{log_info, log_warning};
use crate::counter::{Command, Key, LastTotals, Rejection, StoreError};
use crate::metrics::Metrics;
use crate::redis::{Address, Floor, Receipts, SessionError, TlsError};

/// The state of the store, as one worker observes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreHealth {
    /// No connection was tried yet.
    Unknown,
    /// It counts.
    Up,
    /// It cannot be reached, or the connection failed, for this reason.
    Down(&'static str),
    /// There is no TLS session with it.
    Tls(TlsError),
    /// It replies, and rejects commands.
    Refusing(Rejection),
}

impl StoreHealth {
    /// Returns the state that a session's error shows.
    #[must_use]
    pub(super) fn of(error: SessionError) -> Self {
        match error {
            SessionError::Handshake(rejection) => Self::Refusing(rejection),
            SessionError::Replica => Self::Refusing(Rejection::ReadOnly),
            // Visits wait for its end, whatever the cause.
            SessionError::Refused(rejection) => Self::Down(rejection.message()),
            SessionError::Moved => Self::Down("the nodes of the cluster redirect to each other"),
            SessionError::Unacknowledged => Self::Refusing(Rejection::Unacknowledged),
            SessionError::WaitRejected => {
                Self::Down("the store rejected WAIT, which REDIS_ACKS needs: add +wait to the ACL of its user")
            }
            SessionError::InvalidAddress => Self::Down("the store redirected to an invalid address"),
            SessionError::Protocol => Self::Down("unexpected reply: is it Redis?"),
        }
    }

    /// Returns the state after a reply.
    #[must_use]
    fn after(self, reply: Evidence) -> Self {
        match (self, reply) {
            (_, Evidence::Counted) => Self::Up,
            (Self::Refusing(rejection), Evidence::Replied | Evidence::KeyRejected(_)) if rejection.allows_reads() => {
                self
            }
            (_, Evidence::Replied | Evidence::KeyRejected(_)) => Self::Up,
            (_, Evidence::Rejected(rejection)) => Self::Refusing(rejection),
        }
    }

    /// Returns the error for a visit that cannot be counted now.
    #[must_use]
    pub(super) fn error(self) -> StoreError {
        match self {
            Self::Refusing(rejection) => StoreError::Rejected(rejection),
            _ => StoreError::Unavailable,
        }
    }

    /// Returns whether the state may end soon, so that visits wait for that.
    #[must_use]
    pub(super) fn is_transient(self) -> bool {
        match self {
            Self::Refusing(rejection) => {
                rejection.is_transient() || matches!(rejection, Rejection::ReadOnly | Rejection::Unacknowledged)
            }
            _ => true,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Unknown | Self::Up => "",
            Self::Down(reason) => reason,
            Self::Tls(error) => error.message(),
            Self::Refusing(rejection) => rejection.message(),
        }
    }

    /// Returns whether the log treats the two as one condition: one outage can cause several errors.
    fn is_like(self, other: Self) -> bool {
        self == other || (self.is_outage() && other.is_outage())
    }

    /// Returns whether it belongs to a restart or a failure: such states may follow each other.
    fn is_outage(self) -> bool {
        match self {
            Self::Down(_) => true,
            Self::Tls(error) => error.is_transient(),
            Self::Refusing(rejection) => rejection.is_transient(),
            Self::Unknown | Self::Up => false,
        }
    }
}

/// What a reply to one command proves about the store.
#[derive(Clone, Copy)]
enum Evidence {
    /// It counts.
    Counted,
    /// It replies; whether it counts is not known.
    Replied,
    /// It rejects the commands of one counter.
    KeyRejected(Rejection),
    /// It rejects commands.
    Rejected(Rejection),
}

impl Evidence {
    /// Returns what the result of a command shows, or `None` if it is not a reply of the store.
    fn of(command: &Command, result: Result<i64, StoreError>) -> Option<Self> {
        match result {
            Ok(_) if command.is_increment() => Some(Self::Counted),
            Ok(_) => Some(Self::Replied),
            Err(StoreError::Rejected(rejection)) if rejection.is_key_specific() => Some(Self::KeyRejected(rejection)),
            Err(StoreError::Rejected(rejection)) => Some(Self::Rejected(rejection)),
            Err(StoreError::Unavailable | StoreError::Overloaded | StoreError::OutcomeUnknown) => None,
        }
    }
}

/// The store's state in the view of all workers.
pub(super) struct Health {
    workers: Vec<WorkerView>,
    main: Key,
    logged: StoreHealth,
    /// The last bad condition of the store that was logged.
    condition: Notice<StoreHealth>,
    /// The last rejection of a single counter that was logged.
    rejection: Notice<StoreHealth>,
    /// Whether receipts are kept, as logged last.
    receipts: Receipts,
    /// The log has a line with the visits at the start.
    is_total_logged: bool,
    /// They show the state too.
    metrics: &'static Metrics,
    /// The highest number given for each counter.
    pub(super) floor: Floor,
    /// The node of the last handshake, if there are several.
    node: Option<Address>,
}

/// The view of one worker.
struct WorkerView {
    status: StoreHealth,
    /// Why the counter without a name alone cannot be incremented.
    main: Option<Rejection>,
    /// An increment, if only by 0, has succeeded since the last connect.
    has_counted: bool,
    /// The last totals it received.
    totals: LastTotals,
}

impl WorkerView {
    /// Returns the state that the worker reports: a store that rejects the main counter alone refuses visits too.
    fn status(&self) -> StoreHealth {
        match (self.status, self.main) {
            (StoreHealth::Up, Some(rejection)) => StoreHealth::Refusing(rejection),
            (status, _) => status,
        }
    }

    /// Records a total. Returns the previous one if that was greater. One worker receives totals in the order in which
    /// the store made them.
    fn record_total(&mut self, key: &Key, total: i64) -> Option<i64> {
        self.totals.replace(key, total).filter(|&last| total < last)
    }
}

impl Health {
    /// Creates it in state `Unknown` for each worker; `main` is the counter without a name.
    #[must_use]
    pub(super) fn new(metrics: &'static Metrics, main: Key) -> Self {
        let view =
            |_| WorkerView { status: StoreHealth::Unknown, main: None, has_counted: false, totals: LastTotals::new() };
        Self {
            workers: (0..metrics.workers()).map(view).collect(),
            main,
            logged: StoreHealth::Unknown,
            condition: Notice::default(),
            rejection: Notice::default(),
            receipts: Receipts::Kept,
            is_total_logged: false,
            metrics,
            floor: Floor::new(),
            node: None,
        }
    }

    /// Sets what a worker has observed, and logs changes. The overall state is the worst of all workers.
    pub(super) fn set(&mut self, worker: usize, status: StoreHealth) {
        let view = self.view(worker);
        let was_up = view.status() == StoreHealth::Up;
        view.status = status;
        // In the usual case nothing changes, and this is skipped.
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
        let worst = known.fold(StoreHealth::Up, |worst, status| if worst == StoreHealth::Up { status } else { worst });
        if worst == StoreHealth::Up {
            // The end of a condition is logged only if its start was.
            if self.logged != StoreHealth::Up && self.logged != StoreHealth::Unknown && self.condition.end() {
                log_info("the store counts again");
            }
        } else if let Some(times) = self.condition.record(worst, StoreHealth::is_like) {
            let message = if worst.is_transient() {
                "the store does not count, visits wait for it as long as STORE_TIMEOUT allows"
            } else {
                "the store does not count, visits get 503 until it does"
            };
            log_rejection(message, worst.message(), times);
        }
        self.logged = worst;
        self.metrics.store_up.store(worst == StoreHealth::Up, Ordering::Relaxed);
    }

    /// Returns the error for a visit that this worker could not send.
    #[must_use]
    pub(super) fn error(&self, worker: usize) -> StoreError {
        self.status(worker).error()
    }

    /// Returns whether the store refuses visits of this worker.
    #[must_use]
    pub(super) fn is_refusing(&self, worker: usize) -> bool {
        matches!(self.status(worker), StoreHealth::Refusing(_))
    }

    /// Returns the command that shows for `/readyz` whether the store counts. A ping is enough if it has counted
    /// before.
    #[must_use]
    pub(super) fn readiness(&self, worker: usize) -> Command {
        let view = &self.workers[worker];
        let is_ping_enough = view.has_counted && view.status() == StoreHealth::Up;
        if is_ping_enough { Command::Ping } else { Command::Increment { key: self.main, by: 0 } }
    }

    /// Records that a worker's handshake with Redis is done, the node if there are several, and the total it has read.
    /// This does not show yet that Redis counts. If it `has_floor`, counters are raised to the highest number given.
    pub(super) fn record_handshake(
        &mut self,
        worker: usize,
        node: Option<Address>,
        total: Option<Result<i64, Rejection>>,
        has_floor: bool,
    ) {
        self.record_node(worker, node);
        let view = self.view(worker);
        view.has_counted = false;
        if view.status != StoreHealth::Unknown {
            self.metrics.worker(worker).record_reconnect();
        }
        self.record_evidence(worker, Evidence::Replied);
        match total {
            Some(Ok(total)) => {
                self.log_first_total(total);
                let main = self.main;
                self.record_total(worker, &main, total, has_floor);
            }
            Some(Err(rejection)) => {
                self.view(worker).main = Some(rejection);
                self.update();
            }
            None => {}
        }
    }

    /// Logs a change of the node once, although each worker makes it.
    fn record_node(&mut self, worker: usize, node: Option<Address>) {
        if node.is_none() || node == self.node {
            return;
        }
        if let Some(address) = &node {
            info!("the store is at {address}");
        }
        if std::mem::replace(&mut self.node, node).is_some() {
            self.metrics.worker(worker).record_node_change();
        }
    }

    /// Records whether a batch may be sent again after its reply was lost, and logs a change.
    pub(super) fn record_receipts(&mut self, receipts: Receipts) {
        if std::mem::replace(&mut self.receipts, receipts) == receipts {
            return;
        }
        let message = match receipts {
            Receipts::Kept => return log_info("the store keeps receipts: a visit whose reply is lost is sent again"),
            Receipts::Refused => {
                "the store's user may not keep receipts: a visit whose reply is lost is in doubt and gets 504"
            }
            Receipts::Evictable => {
                "the store may evict receipts: a visit whose reply is lost is in doubt and gets 504; \
                 set maxmemory-policy noeviction, and let the user run INFO"
            }
        };
        log_warning(message);
    }

    /// Records the store's reply to one command of a batch. If `is_repeated`, the batch was sent more than once, and
    /// its totals may be older than others seen meanwhile.
    pub(super) fn record_replies(
        &mut self,
        worker: usize,
        is_repeated: bool,
        command: &Command,
        reply: Result<i64, StoreError>,
    ) {
        let Some(evidence) = Evidence::of(command, reply) else { return };
        let name = command.key().filter(|key| **key != self.main);
        match (evidence, name) {
            (Evidence::Counted, name) => {
                let view = self.view(worker);
                view.has_counted = true;
                if name.is_none() {
                    view.main = None;
                }
                if let (false, Some(key), Ok(total)) = (is_repeated, command.key(), reply) {
                    self.record_total(worker, key, total, false);
                }
            }
            (Evidence::KeyRejected(rejection), None) => self.view(worker).main = Some(rejection),
            (Evidence::KeyRejected(rejection), Some(key)) => {
                if let Some(times) = self.rejection.record(StoreHealth::Refusing(rejection), StoreHealth::is_like) {
                    log_rejection(&format!("visits of {} get an error", DisplayKey(key)), rejection.message(), times);
                }
            }
            (Evidence::Replied | Evidence::Rejected(_), _) => {}
        }
        self.record_evidence(worker, evidence);
    }

    fn record_evidence(&mut self, worker: usize, evidence: Evidence) {
        self.set(worker, self.workers[worker].status.after(evidence));
    }

    /// Records a total, and logs an error if it is less than the previous one.
    fn record_total(&mut self, worker: usize, key: &Key, total: i64, is_raised: bool) {
        if let Some(last) = self.view(worker).record_total(key, total) {
            self.metrics.worker(worker).record_regression();
            let consequence =
                if is_raised { "the next visit continues after the last number" } else { "numbers are given again" };
            error!(
                total,
                last,
                "the store has lost visits of {}: {consequence}; was an older copy restored, its data removed, or a \
                 replica promoted that lagged?",
                DisplayKey(key)
            );
        }
    }

    /// Logs the first total once: an unexpected number may show that the settings name another store.
    fn log_first_total(&mut self, total: i64) {
        if std::mem::replace(&mut self.is_total_logged, true) {
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
}

/// Logs why visits are not counted, and how often that was seen since the last line.
fn log_rejection(message: &str, because: &str, times: u64) {
    warn!(because, times, "{message}");
}

/// Writes a key in a log line.
struct DisplayKey<'a>(&'a Key);

impl std::fmt::Display for DisplayKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(str::from_utf8(self.0.as_bytes()).unwrap_or_default())
    }
}

/// Limits the log lines about a condition that lasts or recurs.
struct Notice<T> {
    /// The condition in the last line.
    last: Option<T>,
    /// The start of the condition was logged, and its end was not.
    is_open: bool,
    /// How often it was seen since that line.
    times: u64,
    /// When the window of [`WINDOW`] began, and the lines logged in it.
    window: Option<(Instant, u32)>,
}

impl<T> Default for Notice<T> {
    fn default() -> Self {
        Self { last: None, is_open: false, times: 0, window: None }
    }
}

impl<T: Copy> Notice<T> {
    /// Records that `condition` was seen. Returns how often it was seen since the last line, if another line is due:
    /// once a minute while it lasts, and each time that it comes back, but at most [`MAX_LINES`] times a minute.
    fn record(&mut self, condition: T, is_like: fn(T, T) -> bool) -> Option<u64> {
        self.times += 1;
        let now = Instant::now();
        let (since, lines) = self.window.filter(|&(since, _)| now < since + WINDOW).unwrap_or((now, 0));
        let is_new = !self.is_open || !self.last.is_some_and(|last| is_like(last, condition));
        if lines > 0 && (!is_new || lines == MAX_LINES) {
            return None;
        }
        (self.last, self.is_open, self.window) = (Some(condition), true, Some((since, lines + 1)));
        Some(std::mem::take(&mut self.times))
    }

    /// Records that the condition has ended. Returns whether that is to be logged.
    fn end(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }
}

/// Most lines in a [`WINDOW`] about a condition that recurs.
const MAX_LINES: u32 = 3;

/// Time after which a lasting condition is logged again.
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ServerInfo;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).expect("a good name")
    }

    fn health(workers: usize) -> Health {
        Health::new(Box::leak(Box::new(Metrics::new(ServerInfo::default(), workers, false))), key("a"))
    }

    #[test]
    fn the_overall_state_is_the_worst_of_all_workers() {
        let mut health = health(2);
        let (away, refusing) = (StoreHealth::Down("gone"), StoreHealth::Refusing(Rejection::ReadOnly));
        for (worker, status, expected) in [
            (0, StoreHealth::Up, StoreHealth::Up),
            (1, StoreHealth::Up, StoreHealth::Up),
            (1, away, away),
            (0, StoreHealth::Down("unreachable"), away),
            (1, StoreHealth::Up, away),
            (0, refusing, refusing),
            (0, StoreHealth::Up, StoreHealth::Up),
        ] {
            health.set(worker, status);
            assert!(health.logged.is_like(expected), "{:?}", health.logged);
            assert_eq!(health.metrics.store_up.load(Ordering::Relaxed), expected == StoreHealth::Up);
        }
    }

    #[test]
    fn each_reply_changes_the_state_to_what_it_shows() {
        let rejected = |rejection| Err(StoreError::Rejected(rejection));
        let (count, other) = (Command::Increment { key: key("a"), by: 1 }, Command::Increment { key: key("b"), by: 1 });
        let total = Command::Get { key: key("a") };
        let mut health = health(1);
        for (command, result, status) in [
            (count, rejected(Rejection::ReadOnly), StoreHealth::Refusing(Rejection::ReadOnly)),
            (total, Ok(1), StoreHealth::Refusing(Rejection::ReadOnly)),
            (Command::Ping, Ok(0), StoreHealth::Refusing(Rejection::ReadOnly)),
            (other, Ok(1), StoreHealth::Up),
            (total, rejected(Rejection::Loading), StoreHealth::Refusing(Rejection::Loading)),
            (total, Ok(1), StoreHealth::Up),
            (count, Err(StoreError::OutcomeUnknown), StoreHealth::Up),
            // A rejection of the counter without a name is a state of the store; one of a named counter is not.
            (count, rejected(Rejection::WrongType), StoreHealth::Refusing(Rejection::WrongType)),
            (other, Ok(1), StoreHealth::Refusing(Rejection::WrongType)),
            (other, rejected(Rejection::Overflow), StoreHealth::Refusing(Rejection::WrongType)),
            (other, rejected(Rejection::OutOfMemory), StoreHealth::Refusing(Rejection::OutOfMemory)),
            (count, Ok(1), StoreHealth::Up),
            (other, rejected(Rejection::WrongType), StoreHealth::Up),
            (other, rejected(Rejection::TooManyCounters), StoreHealth::Up),
            (count, rejected(Rejection::OutOfMemory), StoreHealth::Refusing(Rejection::OutOfMemory)),
            (other, rejected(Rejection::TooManyCounters), StoreHealth::Refusing(Rejection::OutOfMemory)),
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
    fn a_total_below_the_previous_one_is_a_regression() {
        let mut health = health(2);
        let regressions = |health: &Health| {
            let mut page = Vec::new();
            health.metrics.write_page(&mut page);
            let page = String::from_utf8(page).expect("text");
            let line = page.lines().find_map(|line| line.strip_prefix("notch_store_regressions_total "));
            line.and_then(|number| number.parse::<u64>().ok()).expect("a number")
        };
        for (worker, is_repeated, name, total, losses) in [
            (0, false, "a", 5, 0),
            (0, false, "a", 5, 0),
            // Replies to another worker may be read in another order.
            (1, false, "a", 4, 0),
            (0, false, "b", 1, 0),
            (0, false, "a", 6, 0),
            // A receipt holds the total at the time when its batch was counted.
            (0, true, "a", 3, 0),
            (0, false, "a", 1, 1),
            (0, false, "a", 2, 1),
            (1, false, "a", 3, 2),
            (0, false, "b", 0, 3),
        ] {
            health.record_replies(worker, is_repeated, &Command::Increment { key: key(name), by: 0 }, Ok(total));
            assert_eq!(regressions(&health), losses, "{worker} {name} {total}");
        }
    }

    #[test]
    fn a_lasting_condition_is_logged_once_a_minute() {
        let mut notice = Notice::default();
        let same = |one: u8, other: u8| one == other;
        assert!(!notice.end(), "nothing was logged");
        assert_eq!(notice.record(1, same), Some(1));
        assert_eq!(notice.record(1, same), None);
        assert!(notice.end() && !notice.end());
        assert_eq!(notice.record(1, same), Some(2), "it came back");
        assert_eq!(notice.record(2, same), Some(1), "it is another");
        assert!(notice.end());
        assert_eq!(notice.record(1, same), None, "it recurs");
        assert!(!notice.end(), "its start was not logged");
        assert_eq!(notice.record(2, same), None);
        notice.window = notice.window.map(|(since, lines)| (since - WINDOW, lines));
        assert_eq!(notice.record(2, same), Some(3));
        assert_eq!(notice.record(2, same), None);
    }
}
