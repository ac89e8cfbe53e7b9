//! Metrics: the counts of a server, and the page of them for Prometheus.
//!
//! Each worker has a [`WorkerMetrics`] of its own, to which no other worker writes; the page adds them up. Counting
//! therefore takes no lock and allocates nothing, and a page is no snapshot: it may include a visit before its request.
//! Each number by itself only grows.
//!
//! Left out on purpose: values that make the page grow, or that come from clients or settings: a label for each
//! counter, paths, addresses, the host of the store.
//!
//! Source: Prometheus' text format, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats>).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::counter::StoreError;
use crate::decimal::Decimal;
use crate::http::Status;
use crate::render::{append, write_template};
use crate::routes::Route;

/// The metrics of one server.
#[derive(Default)]
pub struct Metrics {
    info: ServerInfo,
    workers: Vec<WorkerMetrics>,
    /// Open connections of clients.
    pub open_connections: AtomicUsize,
    /// Whether the store is available to all workers.
    pub store_up: AtomicBool,
}

/// Facts that do not change while a server runs.
#[derive(Clone, Copy, Default)]
pub struct ServerInfo {
    /// `tokio` or `threads`.
    pub driver: &'static str,
    /// `redis` or `ledger`.
    pub store: &'static str,
    /// Limit of open connections.
    pub connections: usize,
    /// The start time in seconds since 1970.
    pub start_time: u64,
}

impl Metrics {
    /// Returns metrics of zero for a number of workers. `shared` is set if several threads write to the same worker's.
    #[must_use]
    pub fn new(info: ServerInfo, workers: usize, shared: bool) -> Self {
        let zero = |_| WorkerMetrics { shared, cells: [const { AtomicU64::new(0) }; CELLS] };
        Self { info, workers: (0..workers).map(zero).collect(), ..Self::default() }
    }

    /// Returns the number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns the metrics of one worker.
    ///
    /// # Panics
    /// If there is no worker with this index.
    #[must_use]
    pub fn worker(&self, index: usize) -> &WorkerMetrics {
        &self.workers[index]
    }

    /// Appends the page, of type [`MEDIA`].
    pub(crate) fn write_page(&self, out: &mut Vec<u8>) {
        let mut samples = self.samples().into_iter().map(|sample| sample as i64);
        let mut next = || samples.next().unwrap_or_default();
        write_template(out, TEMPLATE, &mut |out, placeholder| {
            let number;
            let text = match placeholder {
                b"requests" => return write_requests(out, &mut next),
                b"seconds" => return write_seconds(out, next()),
                b"version" => env!("CARGO_PKG_VERSION").as_bytes(),
                b"driver" => self.info.driver.as_bytes(),
                b"store" => self.info.store.as_bytes(),
                _ => {
                    number = Decimal::new(next());
                    &number
                }
            };
            out.extend_from_slice(text);
        });
    }

    /// Returns the samples in their order on the page.
    fn samples(&self) -> [u64; CELLS + 4] {
        let mut samples = [0; CELLS + 4];
        for worker in &self.workers {
            for (sum, cell) in samples.iter_mut().zip(&worker.cells) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        // Buckets of Prometheus are cumulative; the last one is equal to the count, which follows it.
        for histogram in [BATCH_SIZES, ROUND_TRIPS] {
            for cell in histogram + 1..=histogram + BUCKETS {
                samples[cell] += samples[cell - 1];
            }
        }
        samples[CELLS] = self.store_up.load(Ordering::Relaxed).into();
        samples[CELLS + 1] = self.open_connections.load(Ordering::Relaxed) as u64;
        samples[CELLS + 2] = self.info.connections as u64;
        samples[CELLS + 3] = self.info.start_time;
        samples
    }
}

/// Appends a line for each route and class.
fn write_requests(out: &mut Vec<u8>, next: &mut dyn FnMut() -> i64) {
    for route in &Route::NAMES {
        for class in &CLASSES {
            let start = &b"notch_requests_total{route=\""[..];
            append(out, &[start, route.as_bytes(), b"\",class=\"", *class, b"\"} ", &Decimal::new(next()), b"\n"]);
        }
    }
}

/// Appends microseconds as seconds.
fn write_seconds(out: &mut Vec<u8>, micros: i64) {
    // The added second keeps the leading zeros of the fraction; its digit is cut off.
    let fraction = Decimal::new(SECOND + micros % SECOND);
    append(out, &[&Decimal::new(micros / SECOND), b".", &fraction[1..]]);
}

/// The metrics of one worker, in cache lines of their own, so that workers do not contend for one.
#[repr(align(64))]
pub struct WorkerMetrics {
    shared: bool,
    /// The counts, at the offsets below.
    cells: [AtomicU64; CELLS],
}

impl WorkerMetrics {
    /// Counts a response.
    pub(crate) fn record_response(&self, route: Route, status: Status) {
        let class = match status.line().as_bytes() {
            [b'2', ..] => 0,
            [b'4', ..] => 1,
            _ => 2,
        };
        self.add(route as usize * CLASSES.len() + class, 1);
    }

    /// Counts visits by their outcome.
    pub(crate) fn record_visits(&self, visits: u64, total: Result<i64, StoreError>) {
        let outcome = match total {
            Ok(_) => 0,
            Err(StoreError::OutcomeUnknown) => 2,
            Err(_) => 1,
        };
        self.add(VISITS + outcome, visits);
    }

    /// Records a batch of `commands` whose replies have arrived, and its round trip. A batch without waiters (0) is not
    /// recorded.
    pub fn record_batch(&self, commands: usize, round_trip: Duration) {
        if commands > 0 {
            self.observe(BATCH_SIZES, BATCH_SIZE_BOUNDS, commands as u64);
            self.observe(ROUND_TRIPS, ROUND_TRIP_BOUNDS, round_trip.as_micros() as u64);
        }
    }

    /// Counts a connection of the worker to the store after a failure.
    pub fn record_reconnect(&self) {
        self.add(RECONNECTS, 1);
    }

    /// Counts a total of the store that is below an earlier one: numbers are given out again.
    pub fn record_regression(&self) {
        self.add(REGRESSIONS, 1);
    }

    /// Counts a connection of a client that was evicted: it had `stalled`, or it was idle.
    pub fn record_eviction(&self, stalled: bool) {
        self.add(EVICTIONS + usize::from(stalled), 1);
    }

    /// Counts a connection to another node than the last one.
    pub fn record_node_change(&self) {
        self.add(NODE_CHANGES, 1);
    }

    /// Counts a batch that is sent again because its reply was lost.
    pub fn record_resend(&self) {
        self.add(RESENDS, 1);
    }

    /// Counts a batch that fewer replicas than required acknowledged in time.
    pub fn record_acks_missed(&self) {
        self.add(ACKS_MISSED, 1);
    }

    /// Adds time for which a batch was in doubt.
    pub fn record_in_doubt(&self, time: Duration) {
        self.add(IN_DOUBT, time.as_micros() as u64);
    }

    /// Adds a value to the histogram at an offset.
    fn observe(&self, histogram: usize, bounds: [u64; BUCKETS - 1], value: u64) {
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len());
        self.add(histogram + bucket, 1);
        self.add(histogram + BUCKETS + 1, value);
    }

    /// An event loop is the only writer of its cells, and needs no locked instruction, which would take ten times as
    /// long. The threads of the other driver share their cells, and need one.
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
pub(crate) const MEDIA: &str = "text/plain; version=0.0.4";

const TEMPLATE: &[u8] = include_bytes!("metrics.txt");

/// The classes of status that are in use.
const CLASSES: [&[u8; 3]; 3] = [b"2xx", b"4xx", b"5xx"];

/// Upper bounds of the commands in a batch.
const BATCH_SIZE_BOUNDS: [u64; BUCKETS - 1] = [1, 4, 16, 64, 256, 1024];

/// Upper bounds of a round trip in microseconds, in steps of about four, which separate memory, network, disk and
/// failure.
const ROUND_TRIP_BOUNDS: [u64; BUCKETS - 1] = [250, 1_000, 4_000, 16_000, 64_000, 250_000];

/// One second in microseconds.
const SECOND: i64 = 1_000_000;

// Offsets of the cells, in the order of the page. Those of requests come first; a histogram has its buckets, a cell for
// its count, and its sum.

const BUCKETS: usize = 7;
const VISITS: usize = Route::NAMES.len() * CLASSES.len();
const BATCH_SIZES: usize = VISITS + 3;
const ROUND_TRIPS: usize = BATCH_SIZES + BUCKETS + 2;
const RECONNECTS: usize = ROUND_TRIPS + BUCKETS + 2;
const REGRESSIONS: usize = RECONNECTS + 1;
const EVICTIONS: usize = REGRESSIONS + 1;
const NODE_CHANGES: usize = EVICTIONS + 2;
const RESENDS: usize = NODE_CHANGES + 1;
const ACKS_MISSED: usize = RESENDS + 1;
/// In microseconds.
const IN_DOUBT: usize = ACKS_MISSED + 1;
const CELLS: usize = IN_DOUBT + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Rejection;

    fn page(metrics: &Metrics) -> String {
        let mut page = Vec::new();
        metrics.write_page(&mut page);
        String::from_utf8(page).expect("ASCII")
    }

    /// Returns the value of the sample with this name and these labels.
    fn value(metrics: &Metrics, sample: &str) -> String {
        let page = page(metrics);
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = lines.next().unwrap_or_else(|| panic!("no {sample} in {page}"));
        assert_eq!(lines.next(), None, "{sample} occurs twice");
        value.to_owned()
    }

    #[test]
    fn page_adds_up_all_workers() {
        type Record = fn(&WorkerMetrics);
        let requests = |route, class| format!("notch_requests_total{{route=\"{route}\",class=\"{class}\"}}");
        let visits = |outcome| format!("notch_visits_total{{outcome=\"{outcome}\"}}");
        let name = str::to_owned;
        let evicted = |state| format!("notch_connections_evicted_total{{state=\"{state}\"}}");
        let table: [(Record, String); 21] = [
            (|metrics| metrics.record_response(Route::Page, Status::Ok), requests("page", "2xx")),
            (|metrics| metrics.record_response(Route::Count, Status::ServiceUnavailable), requests("count", "5xx")),
            (|metrics| metrics.record_response(Route::Count, Status::GatewayTimeout), requests("count", "5xx")),
            (|metrics| metrics.record_response(Route::Total, Status::MethodNotAllowed), requests("total", "4xx")),
            (|metrics| metrics.record_response(Route::Badge, Status::Ok), requests("badge", "2xx")),
            (|metrics| metrics.record_response(Route::Livez, Status::Ok), requests("livez", "2xx")),
            (|metrics| metrics.record_response(Route::Readyz, Status::Ok), requests("readyz", "2xx")),
            (|metrics| metrics.record_response(Route::Metrics, Status::Ok), requests("metrics", "2xx")),
            (|metrics| metrics.record_response(Route::Other, Status::NoContent), requests("other", "2xx")),
            (
                |metrics| metrics.record_response(Route::Refused, Status::VersionNotSupported),
                requests("refused", "5xx"),
            ),
            (|metrics| metrics.record_visits(1, Ok(7)), visits("counted")),
            (|metrics| metrics.record_visits(1, Err(StoreError::OutcomeUnknown)), visits("in_doubt")),
            (|metrics| metrics.record_visits(1, Err(StoreError::Rejected(Rejection::Disk))), visits("refused")),
            (|metrics| metrics.record_eviction(false), evicted("idle")),
            (|metrics| metrics.record_eviction(true), evicted("stalled")),
            (WorkerMetrics::record_reconnect, name("notch_store_reconnects_total")),
            (WorkerMetrics::record_node_change, name("notch_store_node_changes_total")),
            (WorkerMetrics::record_resend, name("notch_store_resends_total")),
            (WorkerMetrics::record_acks_missed, name("notch_store_acks_missed_total")),
            (|metrics| metrics.record_batch(1, Duration::ZERO), name("notch_batch_commands_sum")),
            (|metrics| metrics.record_batch(1, Duration::ZERO), name("notch_store_round_trip_seconds_count")),
        ];
        for (record, sample) in table {
            for shared in [false, true] {
                let metrics = Metrics::new(ServerInfo::default(), 3, shared);
                assert_eq!(value(&metrics, &sample), "0");
                (0..3).for_each(|index| record(metrics.worker(index)));
                record(metrics.worker(1));
                assert_eq!(value(&metrics, &sample), "4", "{sample}");
            }
        }
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let metrics = Metrics::new(ServerInfo::default(), 2, false);
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
            assert_eq!(bucket("notch_batch_commands", le[0]), commands, "{le:?}");
            assert_eq!(bucket("notch_store_round_trip_seconds", le[1]), trips, "{le:?}");
        }
        assert_eq!(value(&metrics, "notch_batch_commands_count"), "5");
        assert_eq!(value(&metrics, "notch_batch_commands_sum"), "6031");
        assert_eq!(value(&metrics, "notch_store_round_trip_seconds_count"), "5");
        assert_eq!(value(&metrics, "notch_store_round_trip_seconds_sum"), "2.314503");
    }

    #[test]
    fn bounds_on_the_page_match_the_constants() {
        let text = page(&Metrics::default());
        for (name, bounds, unit) in [
            ("notch_batch_commands", BATCH_SIZE_BOUNDS, 1.0),
            ("notch_store_round_trip_seconds", ROUND_TRIP_BOUNDS, SECOND as f64),
        ] {
            let start = format!("{name}_bucket{{le=\"");
            let shown =
                text.lines().filter_map(|line| line.strip_prefix(&start)?.split('"').next()?.parse::<f64>().ok());
            let counted = bounds.iter().map(|&bound| bound as f64 / unit).chain([f64::INFINITY]);
            assert!(shown.eq(counted), "{text}");
        }
    }

    #[test]
    fn page_shows_the_facts_of_the_server() {
        let info = ServerInfo { driver: "tokio", store: "redis", connections: 300, start_time: 1_792_000_000 };
        let metrics = Metrics::new(info, 1, false);
        metrics.open_connections.store(5, Ordering::Relaxed);
        metrics.store_up.store(true, Ordering::Relaxed);
        let build =
            concat!("notch_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",driver=\"tokio\",store=\"redis\"}");
        for (sample, expected) in [
            ("notch_connections", "5"),
            ("notch_connections_max", "300"),
            ("notch_store_up", "1"),
            ("notch_start_time_seconds", "1792000000"),
            (build, "1"),
        ] {
            assert_eq!(value(&metrics, sample), expected, "{sample}");
        }
    }

    #[test]
    fn each_family_is_described_once_before_its_samples() {
        let page = page(&Metrics::new(ServerInfo::default(), 1, false));
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
        assert_eq!(families.len(), 16, "{families:?}");
    }
}
