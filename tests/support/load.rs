//! Normal clients: a load of clients that send the next visit after each response, and probes that measure the duration
//! of visits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::audit::Tally;
use super::{Address, Client, LONG_TIMEOUT, Notch, wait_until};

/// Stops threads, at the latest when it is dropped.
#[derive(Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for StopFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Running clients with keep-alive connections.
pub(crate) struct Load {
    stop: StopFlag,
    outcomes: Arc<Outcomes>,
    visitors: Vec<JoinHandle<Tally>>,
}

/// Number of visits so far, by outcome.
#[derive(Default)]
struct Outcomes {
    answered: AtomicUsize,
    refused: AtomicUsize,
    in_doubt: AtomicUsize,
}

impl Load {
    /// Starts clients without pauses between visits.
    pub(crate) fn start(notch: &Notch, clients: usize) -> Self {
        Self::paced(notch, clients, Duration::ZERO)
    }

    /// Starts clients that pause between visits, so that the processors have time for other processes.
    pub(crate) fn paced(notch: &Notch, clients: usize, pause: Duration) -> Self {
        let (stop, outcomes) = (StopFlag::default(), Arc::<Outcomes>::default());
        let visitor = |index| {
            let (stop, outcomes, mut visitor) = (stop.flag(), outcomes.clone(), Visitor::of(notch));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let before = (visitor.tally.answered(), visitor.tally.refused, visitor.tally.doubts);
                    // Some pipeline several visits, which go to the store as one command.
                    visitor.visit(1 + index % 3);
                    outcomes.answered.fetch_add(visitor.tally.answered() - before.0, Ordering::Relaxed);
                    outcomes.refused.fetch_add(visitor.tally.refused - before.1, Ordering::Relaxed);
                    outcomes.in_doubt.fetch_add(visitor.tally.doubts - before.2, Ordering::Relaxed);
                    thread::sleep(pause);
                }
                visitor.tally
            })
        };
        let visitors = (0..clients).map(visitor).collect();
        Self { stop, outcomes, visitors }
    }

    /// Waits until this many more visits are counted.
    pub(crate) fn wait_for_answers(&self, count: usize) {
        wait_for_growth("visits are counted", &self.outcomes.answered, count);
    }

    /// Returns how many visits were counted so far.
    pub(crate) fn answered(&self) -> usize {
        self.outcomes.answered.load(Ordering::Relaxed)
    }

    /// Waits until this many more visits are in doubt or certainly not counted.
    pub(crate) fn wait_for_failures(&self, count: usize) {
        let failed = || self.outcomes.refused.load(Ordering::Relaxed) + self.outcomes.in_doubt.load(Ordering::Relaxed);
        let end = failed() + count;
        wait_until("visits fail", || (failed() >= end).then_some(()));
    }

    /// Waits until this many more visits are certainly not counted.
    pub(crate) fn wait_for_refusals(&self, count: usize) {
        wait_for_growth("visits are refused", &self.outcomes.refused, count);
    }

    /// Lets all clients finish their current visit, and returns the outcomes.
    pub(crate) fn stop(self) -> Tally {
        drop(self.stop);
        let mut tally = Tally::default();
        self.visitors.into_iter().for_each(|visitor| tally.merge(visitor.join().expect("visitors do not panic")));
        tally
    }
}

fn wait_for_growth(what: &str, counter: &AtomicUsize, by: usize) {
    let end = counter.load(Ordering::Relaxed) + by;
    wait_until(what, || (counter.load(Ordering::Relaxed) >= end).then_some(()));
}

/// A client that measures visits on a connection that it keeps open.
pub(crate) struct KeepAliveProbe {
    stop: StopFlag,
    visitor: JoinHandle<(Tally, Vec<Duration>)>,
}

impl KeepAliveProbe {
    pub(crate) fn of(notch: &Notch) -> Self {
        let (stop, mut visitor, mut waits) = (StopFlag::default(), Visitor::of(notch), Vec::new());
        let own = stop.flag();
        let visits = move || {
            while !own.load(Ordering::Relaxed) {
                let (start, before) = (Instant::now(), visitor.tally.answered());
                // A client without a slot connects again; that is part of its waiting time.
                while visitor.tally.answered() == before && !own.load(Ordering::Relaxed) {
                    visitor.visit(1);
                }
                waits.push(start.elapsed());
                thread::sleep(PAUSE);
            }
            (visitor.tally, waits)
        };
        Self { stop, visitor: thread::spawn(visits) }
    }

    /// Returns the outcomes, and the durations of the visits in ascending order.
    pub(crate) fn stop(self) -> (Tally, Vec<Duration>) {
        drop(self.stop);
        let (tally, mut waits) = self.visitor.join().expect("the probe does not panic");
        waits.sort_unstable();
        (tally, waits)
    }
}

/// A client that measures visits, each on a new connection.
pub(crate) struct ConnectProbe {
    stop: StopFlag,
    visitor: JoinHandle<Vec<Duration>>,
}

impl ConnectProbe {
    pub(crate) fn of(notch: &Notch) -> Self {
        let (stop, address, mut waits) = (StopFlag::default(), notch.address, Vec::new());
        let own = stop.flag();
        let visits = move || {
            while !own.load(Ordering::Relaxed) {
                let start = Instant::now();
                while !own.load(Ordering::Relaxed) {
                    let mut client = Client::try_connect(address).expect("notch accepts connections");
                    let _ = client.try_send(VISIT);
                    // A client without a slot connects again; that is part of its waiting time.
                    if client.next_response("GET").is_some_and(|response| response.status == 200) {
                        break;
                    }
                }
                waits.push(start.elapsed());
                thread::sleep(PAUSE);
            }
            waits
        };
        Self { stop, visitor: thread::spawn(visits) }
    }

    /// Returns the durations of the visits in ascending order.
    pub(crate) fn stop(self) -> Vec<Duration> {
        drop(self.stop);
        let mut waits = self.visitor.join().expect("the probe does not panic");
        waits.sort_unstable();
        waits
    }
}

/// A client that keeps its connection as long as possible, and then opens another one.
pub(crate) struct Visitor {
    address: Address,
    client: Option<Client>,
    pub(crate) tally: Tally,
}

impl Visitor {
    pub(crate) fn of(notch: &Notch) -> Self {
        Self { address: notch.address, client: None, tally: Tally::default() }
    }

    /// Pipelines this many visits, and records their outcomes.
    pub(crate) fn visit(&mut self, times: usize) {
        let client = self.client.take().map_or_else(|| Client::try_connect(self.address), Ok);
        let Ok(mut client) = client else { return thread::sleep(PAUSE) };
        client.set_timeout(LONG_TIMEOUT);
        let start = Instant::now();
        if client.try_send(VISIT.repeat(times)).is_err() {
            self.tally.cut += times;
            return;
        }
        for left in (1..=times).rev() {
            let Some(response) = client.next_response("GET") else {
                self.tally.cut += left;
                return;
            };
            self.tally.note_since(&response, start);
            if response.closes() {
                self.tally.cut += left - 1;
                return;
            }
        }
        self.client = Some(client);
    }

    /// Closes the connection, and returns the outcomes of all visits.
    pub(crate) fn stop(self) -> Tally {
        self.tally
    }
}

/// Pause between two visits of a probe.
const PAUSE: Duration = Duration::from_millis(5);

/// Time in which a server notices that a client has closed its connection. A connection that is not noticed is one open
/// file more, so the limit of open files includes it.
pub(crate) const CLOSE_DETECTION: Duration = Duration::from_millis(50);

const VISIT: &str = "GET /count HTTP/1.1\r\nHost: h\r\n\r\n";
