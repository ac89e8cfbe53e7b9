//! What a server has done, in numbers, and the page of them that Prometheus reads.
//!
//! Each worker has a [`WorkerMetrics`] of its own, which no other writes; whoever asks for the page adds all of them
//! up. So to count takes no lock and no memory, and a page is of no single moment: a visit may stand in it whose
//! request does not yet. Each number by itself only grows.
//!
//! Left out on purpose: whatever would make the page grow, or hold what a client or a setting says: a label for each
//! counter, paths, addresses, the host of the store.
//!
//! Source: Prometheus' text format, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats>).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::counter::StoreError;
use crate::decimal::Decimal;
use crate::http::Status;
use crate::render::template;
use crate::routes::Route;

/// The numbers of one server.
#[derive(Default)]
pub struct Metrics {
    about: About,
    workers: Vec<WorkerMetrics>,
    /// Connections that are open.
    pub open: AtomicUsize,
    /// Whether the store counts, as far as all workers know.
    pub store_up: AtomicBool,
}

/// What does not change while a server runs.
#[derive(Clone, Copy, Default)]
pub struct About {
    /// `tokio` or `threads`.
    pub driver: &'static str,
    /// `redis` or `ledger`.
    pub store: &'static str,
    /// Most connections open at once.
    pub connections: usize,
    /// When it began, in seconds since 1970.
    pub since: u64,
}

impl Metrics {
    /// Nothing has been counted yet by any of `workers`; `shared` says that more than one thread counts for each.
    #[must_use]
    pub fn new(about: About, workers: usize, shared: bool) -> Self {
        let tally = |_| WorkerMetrics { shared, cells: [const { AtomicU64::new(0) }; CELLS] };
        Self { about, workers: (0..workers).map(tally).collect(), ..Self::default() }
    }

    /// How many workers count.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What one of them counts.
    #[must_use]
    pub fn worker(&self, index: usize) -> &WorkerMetrics {
        &self.workers[index]
    }

    /// The page, as [`MEDIA`].
    #[must_use]
    pub fn page(&self) -> Vec<u8> {
        let mut numbers = self.numbers().into_iter().map(|number| number as i64);
        let mut next = || numbers.next().unwrap_or_default();
        template(TEMPLATE, &mut |out, mark| {
            let number;
            let text = match mark {
                b"requests" => return requests(out, &mut next),
                b"seconds" => return seconds(out, next()),
                b"version" => env!("CARGO_PKG_VERSION").as_bytes(),
                b"driver" => self.about.driver.as_bytes(),
                b"store" => self.about.store.as_bytes(),
                _ => {
                    number = Decimal::new(next());
                    &number
                }
            };
            out.extend_from_slice(text);
        })
    }

    /// The numbers of the page in their order there.
    fn numbers(&self) -> [u64; CELLS + 4] {
        let mut numbers = [0; CELLS + 4];
        for tally in &self.workers {
            for (sum, cell) in numbers.iter_mut().zip(&tally.cells) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        // A bucket of Prometheus holds what is in those before it, too, and the count is the last of them.
        for histogram in [ASKS, TRIPS] {
            for cell in histogram + 1..=histogram + COUNT {
                numbers[cell] += numbers[cell - 1];
            }
        }
        numbers[CELLS] = self.store_up.load(Ordering::Relaxed).into();
        numbers[CELLS + 1] = self.open.load(Ordering::Relaxed) as u64;
        numbers[CELLS + 2] = self.about.connections as u64;
        numbers[CELLS + 3] = self.about.since;
        numbers
    }
}

/// Appends a line for each route and class.
fn requests(out: &mut Vec<u8>, next: &mut dyn FnMut() -> i64) {
    for route in &Route::NAMES {
        for class in &CLASSES {
            let start = &b"notch_requests_total{route=\""[..];
            write(out, &[start, route.as_bytes(), b"\",class=\"", *class, b"\"} ", &Decimal::new(next()), b"\n"]);
        }
    }
}

/// Appends microseconds as seconds.
fn seconds(out: &mut Vec<u8>, micros: i64) {
    // The second added keeps the zeros that stand in front of what is less than one.
    let fraction = Decimal::new(SECOND + micros % SECOND);
    write(out, &[&Decimal::new(micros / SECOND), b".", &fraction[1..]]);
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The numbers of one worker, in cache lines of their own, so that no other has to wait for them.
#[repr(align(64))]
pub struct WorkerMetrics {
    shared: bool,
    /// In the order of the page.
    cells: [AtomicU64; CELLS],
}

impl WorkerMetrics {
    /// A request has its answer.
    pub fn record_response(&self, route: Route, status: Status) {
        let class = match status.line().as_bytes() {
            [b'2', ..] => 0,
            [b'4', ..] => 1,
            _ => 2,
        };
        self.add(route as usize * CLASSES.len() + class, 1);
    }

    /// So many visits were told what the store made of them.
    pub fn record_visits(&self, visits: u64, total: Result<i64, StoreError>) {
        let outcome = match total {
            Ok(_) => 0,
            Err(StoreError::OutcomeUnknown) => 2,
            Err(_) => 1,
        };
        self.add(VISITS + outcome, visits);
    }

    /// The store has answered a batch of so many asks, so long after it was sent. One that nobody waits for any more is
    /// no batch.
    pub fn record_batch(&self, commands: usize, took: Duration) {
        if commands > 0 {
            self.note(ASKS, BATCHES, commands as u64);
            self.note(TRIPS, MICROS, took.as_micros() as u64);
        }
    }

    /// The store was away and has greeted the worker again.
    pub fn record_reconnect(&self) {
        self.add(RECONNECTS, 1);
    }

    /// The store holds fewer visits than it did: numbers will be given again.
    pub fn record_regression(&self) {
        self.add(REGRESSIONS, 1);
    }

    fn note(&self, histogram: usize, bounds: [u64; COUNT - 1], value: u64) {
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len());
        self.add(histogram + bucket, 1);
        self.add(histogram + COUNT + 1, value);
    }

    /// An event loop is alone in writing its cells, and so needs no locked instruction, which would take ten times as
    /// long. The threads of the other driver share theirs, and need one.
    fn add(&self, cell: usize, by: u64) {
        let cell = &self.cells[cell];
        if self.shared {
            cell.fetch_add(by, Ordering::Relaxed);
        } else {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        }
    }
}

/// `Content-Type` of the page.
pub const MEDIA: &str = "text/plain; version=0.0.4";

const TEMPLATE: &[u8] = include_bytes!("metrics.txt");

/// Classes of status; there are no others here.
const CLASSES: [&[u8; 3]; 3] = [b"2xx", b"4xx", b"5xx"];

/// Upper bounds of the asks in a batch.
const BATCHES: [u64; COUNT - 1] = [1, 4, 16, 64, 256, 1024];

/// Upper bounds of a round trip in microseconds: about four times as long each, which tells memory from a network, that
/// from a disk, and a disk from trouble.
const MICROS: [u64; COUNT - 1] = [250, 1_000, 4_000, 16_000, 64_000, 250_000];

/// In microseconds.
const SECOND: i64 = 1_000_000;

// Where the numbers stand. Those of requests come first; a histogram has its buckets, room for its count, and its sum.

const COUNT: usize = 7;
const VISITS: usize = Route::NAMES.len() * CLASSES.len();
const ASKS: usize = VISITS + 3;
const TRIPS: usize = ASKS + COUNT + 2;
const RECONNECTS: usize = TRIPS + COUNT + 2;
const REGRESSIONS: usize = RECONNECTS + 1;
const CELLS: usize = REGRESSIONS + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Rejection;

    fn page(metrics: &Metrics) -> String {
        String::from_utf8(metrics.page()).expect("ASCII")
    }

    /// The value of the sample with this name and these labels.
    fn value(metrics: &Metrics, sample: &str) -> String {
        let page = page(metrics);
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = lines.next().unwrap_or_else(|| panic!("no {sample} in {page}"));
        assert_eq!(lines.next(), None, "{sample} is there twice");
        value.to_owned()
    }

    #[test]
    fn what_is_noted_stands_on_the_page_whoever_notes_it() {
        type Notes = fn(&WorkerMetrics);
        let requests = |route, class| format!("notch_requests_total{{route=\"{route}\",class=\"{class}\"}}");
        let visits = |outcome| format!("notch_visits_total{{outcome=\"{outcome}\"}}");
        let name = str::to_owned;
        let table: [(Notes, String); 16] = [
            (|tally| tally.record_response(Route::Page, Status::Ok), requests("page", "2xx")),
            (|tally| tally.record_response(Route::Count, Status::ServiceUnavailable), requests("count", "5xx")),
            (|tally| tally.record_response(Route::Count, Status::GatewayTimeout), requests("count", "5xx")),
            (|tally| tally.record_response(Route::Total, Status::MethodNotAllowed), requests("total", "4xx")),
            (|tally| tally.record_response(Route::Badge, Status::Ok), requests("badge", "2xx")),
            (|tally| tally.record_response(Route::Livez, Status::Ok), requests("livez", "2xx")),
            (|tally| tally.record_response(Route::Readyz, Status::Ok), requests("readyz", "2xx")),
            (|tally| tally.record_response(Route::Metrics, Status::Ok), requests("metrics", "2xx")),
            (|tally| tally.record_response(Route::Other, Status::NoContent), requests("other", "2xx")),
            (|tally| tally.record_response(Route::Refused, Status::VersionNotSupported), requests("refused", "5xx")),
            (|tally| tally.record_visits(1, Ok(7)), visits("counted")),
            (|tally| tally.record_visits(1, Err(StoreError::OutcomeUnknown)), visits("in_doubt")),
            (|tally| tally.record_visits(1, Err(StoreError::Rejected(Rejection::Disk))), visits("refused")),
            (WorkerMetrics::record_reconnect, name("notch_store_reconnects_total")),
            (|tally| tally.record_batch(1, Duration::ZERO), name("notch_batch_asks_sum")),
            (|tally| tally.record_batch(1, Duration::ZERO), name("notch_store_round_trip_seconds_count")),
        ];
        for (note, sample) in table {
            for shared in [false, true] {
                let metrics = Metrics::new(About::default(), 3, shared);
                assert_eq!(value(&metrics, &sample), "0");
                (0..3).for_each(|index| note(metrics.worker(index)));
                note(metrics.worker(1));
                assert_eq!(value(&metrics, &sample), "4", "{sample}");
            }
        }
    }

    #[test]
    fn a_histogram_holds_all_up_to_each_bound() {
        let metrics = Metrics::new(About::default(), 2, false);
        for (commands, micros) in [(1, 250), (2, 251), (4, 64_000), (1024, 249_999), (5000, 2_000_003), (0, 7)] {
            metrics.worker(commands % 2).record_batch(commands, Duration::from_micros(micros));
        }
        for (le, commands, trips) in [
            (["1", "0.00025"], "1", "1"),
            (["4", "0.001"], "3", "2"),
            (["16", "0.004"], "3", "2"),
            (["64", "0.016"], "3", "2"),
            (["256", "0.064"], "3", "3"),
            (["1024", "0.25"], "4", "4"),
            (["+Inf", "+Inf"], "5", "5"),
        ] {
            let bucket = |name, le| value(&metrics, &format!("{name}_bucket{{le=\"{le}\"}}"));
            assert_eq!(bucket("notch_batch_asks", le[0]), commands, "{le:?}");
            assert_eq!(bucket("notch_store_round_trip_seconds", le[1]), trips, "{le:?}");
        }
        assert_eq!(value(&metrics, "notch_batch_asks_count"), "5");
        assert_eq!(value(&metrics, "notch_batch_asks_sum"), "6031");
        assert_eq!(value(&metrics, "notch_store_round_trip_seconds_count"), "5");
        assert_eq!(value(&metrics, "notch_store_round_trip_seconds_sum"), "2.314503");
    }

    #[test]
    fn the_bounds_are_shown_as_they_are_counted() {
        let text = page(&Metrics::default());
        for (name, bounds, unit) in
            [("notch_batch_asks", BATCHES, 1.0), ("notch_store_round_trip_seconds", MICROS, SECOND as f64)]
        {
            let start = format!("{name}_bucket{{le=\"");
            let shown =
                text.lines().filter_map(|line| line.strip_prefix(&start)?.split('"').next()?.parse::<f64>().ok());
            let counted = bounds.iter().map(|&bound| bound as f64 / unit).chain([f64::INFINITY]);
            assert!(shown.eq(counted), "{text}");
        }
    }

    #[test]
    fn what_a_server_is_stands_there_too() {
        let about = About { driver: "tokio", store: "redis", connections: 300, since: 1_792_000_000 };
        let metrics = Metrics::new(about, 1, false);
        metrics.open.store(5, Ordering::Relaxed);
        metrics.store_up.store(true, Ordering::Relaxed);
        let build =
            concat!("notch_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",driver=\"tokio\",store=\"redis\"}");
        for (sample, is) in [
            ("notch_connections", "5"),
            ("notch_connections_max", "300"),
            ("notch_store_up", "1"),
            ("notch_start_time_seconds", "1792000000"),
            (build, "1"),
        ] {
            assert_eq!(value(&metrics, sample), is, "{sample}");
        }
    }

    #[test]
    fn a_family_is_described_before_its_samples_and_once() {
        let page = page(&Metrics::new(About::default(), 1, false));
        let mut families = Vec::new();
        for line in page.lines() {
            match line.strip_prefix("# ").map(|line| line.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
                Some(["HELP", name, help]) => {
                    assert!(help.ends_with('.') && !families.contains(&(*name).to_owned()), "{line}");
                    families.push((*name).to_owned());
                }
                Some(["TYPE", name, kind]) => {
                    assert!(["counter", "gauge", "histogram"].contains(kind), "{line}");
                    assert_eq!(families.last().map(String::as_str), Some(*name));
                }
                _ => assert!(families.last().is_some_and(|family| line.starts_with(family)), "{line}"),
            }
        }
        assert_eq!(families.len(), 11, "{families:?}");
    }
}
