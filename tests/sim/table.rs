//! Many histories: the table of docs/high-availability.md, and what must and must not be found.
//!
//! Environment, set by `scripts/simulate`: `SIMULATE_HISTORIES`, of each cell of the table; `SIMULATE_SECONDS`, how
//! long, from a random seed; `SIMULATE_SEED`, one history, which is printed.

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::check::Violations;
use super::faults::Fault;
use super::{Outcome, Rng, SECOND, Seen, Time, run};

/// The settings of one history.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) fault: Fault,
    /// `REDIS_ACKS`.
    pub(super) acks: u32,
    /// `min-replicas-to-write`.
    pub(super) min_replicas: usize,
    pub(super) is_cluster: bool,
    /// Two primaries with a replica each, instead of one with two.
    pub(super) is_resharded: bool,
    /// `appendfsync everysec`.
    pub(super) is_everysec: bool,
    /// `down-after-milliseconds`, `cluster-node-timeout`.
    pub(super) down_after: Time,
    /// `STORE_TIMEOUT`.
    pub(super) timeout: Time,
    pub(super) processes: usize,
    /// `MAX_COUNTERS` limits the names.
    pub(super) has_limit: bool,
    /// Error replies and rules of Redis 6.2.
    pub(super) is_old: bool,
    /// `WAIT` waits for the writes of its connection only, as since Redis 7.2.
    pub(super) has_write_offsets: bool,
    pub(super) serves_stale_data: bool,
    /// The script writes the receipt again when a batch is repeated.
    pub(super) rewrites_receipts: bool,
    /// The script raises the counter to the floor.
    pub(super) has_floor: bool,
    /// What happens is printed.
    pub(super) is_printed: bool,
}

/// The columns: `REDIS_ACKS`, and `min-replicas-to-write`.
const COLUMNS: [(u32, usize); 4] = [(0, 0), (0, 1), (1, 1), (2, 1)];

/// How often a wrong answer is found in the histories of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Never,
    /// In less than a fifth.
    Seldom,
    Often,
}
use Expected::{Never, Often, Seldom};

/// The rows, and what is expected in their columns.
const ROWS: [(Fault, &str, [Expected; 4]); 15] = [
    (Fault::Noise, "connections break, go silent, lose half of a message; scripts are flushed", [Never; 4]),
    (Fault::ReplicaDies, "a replica dies", [Never; 4]),
    (Fault::PrimaryRestarts, "the primary is killed, and back before it is replaced", [Never; 4]),
    (Fault::HandOver, "planned failover: `FAILOVER`, `CLUSTER FAILOVER`", [Never; 4]),
    (Fault::Reshard, "the slot moves to another primary and back", [Never; 4]),
    (Fault::PrimaryDies, "the primary dies, a replica is promoted", [Often, Often, Never, Never]),
    (Fault::LinksThenPrimary, "both replicas lose the primary, then it dies", [Often, Often, Never, Never]),
    (Fault::PrimaryPaused, "the primary is paused until it is replaced, then goes on", [Seldom, Seldom, Seldom, Never]),
    (Fault::PrimaryCutOff, "the primary is cut off with a client", [Often, Often, Seldom, Never]),
    (Fault::OneSidedCut, "one direction from or to the primary is cut", [Seldom, Seldom, Seldom, Never]),
    (Fault::Forced, "`SENTINEL FAILOVER` by hand", [Often, Often, Often, Never]),
    (Fault::PrimaryAndReplicaDie, "the primary and a replica die", [Often, Often, Seldom, Never]),
    (
        Fault::PrimaryAndReplicaCutOff,
        "the primary and a replica are cut off with a client",
        [Often, Often, Often, Never],
    ),
    (Fault::Everything, "several of these at random", [Seldom, Seldom, Seldom, Never]),
    (Fault::PowerCut, "the primary loses power and a second of its file (`everysec`), and is back", [Often; 4]),
];

/// Returns the settings of the history with this seed, which contains its row and its column.
fn setup(seed: u64) -> (Setup, Rng) {
    let (fault, ..) = ROWS[seed as usize % ROWS.len()];
    let (acks, min_replicas) = COLUMNS[seed as usize / ROWS.len() % COLUMNS.len()];
    let mut rng = Rng(seed);
    let is_resharded = fault == Fault::Reshard;
    let setup = Setup {
        fault,
        // Each shard has one replica.
        acks: if is_resharded { acks.min(1) } else { acks },
        min_replicas,
        is_cluster: is_resharded || (fault != Fault::Forced && rng.chance(50)),
        is_resharded,
        is_everysec: fault == Fault::PowerCut,
        down_after: 5 * SECOND,
        timeout: [2 * SECOND, 15 * SECOND][rng.below(2) as usize],
        processes: 2,
        has_limit: rng.chance(40),
        is_old: rng.chance(20),
        has_write_offsets: rng.chance(70),
        serves_stale_data: rng.chance(80),
        rewrites_receipts: true,
        has_floor: true,
        is_printed: false,
    };
    (setup, rng)
}

/// Runs the history with this seed, with other settings.
fn run_with(seed: u64, change: impl FnOnce(&mut Setup)) -> Outcome {
    let _replay = Replay(seed);
    let (mut settings, rng) = setup(seed);
    change(&mut settings);
    run(settings, rng)
}

/// Prints how a history is replayed, if the code under test panics in it.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("simulate: scripts/simulate --seed {}", self.0);
        }
    }
}

/// The sums of the histories of a cell.
#[derive(Clone, Copy)]
struct Cell {
    histories: u64,
    broken: u64,
    violations: Violations,
    seen: [u64; Seen::COUNT],
}

impl Cell {
    const EMPTY: Self = Self { histories: 0, broken: 0, violations: Violations::NONE, seen: [0; Seen::COUNT] };

    fn add(&mut self, outcome: &Outcome) {
        self.histories += 1;
        self.broken += u64::from(outcome.violations.is_broken());
        self.violations.add(outcome.violations);
        self.seen.iter_mut().zip(outcome.seen).for_each(|(sum, count)| *sum += count);
    }

    fn percent_answered(&self) -> u64 {
        let [answered, failed, in_doubt] =
            [Seen::Answered, Seen::Unavailable, Seen::InDoubt].map(|what| self.seen[what as usize]);
        answered * 100 / (answered + failed + in_doubt).max(1)
    }
}

#[test]
fn answers_are_wrong_only_where_that_is_expected() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIMULATE_SEED") {
        let outcome = run_with(seed, |setup| setup.is_printed = true);
        println!("{:?}\n{:?}", setup(seed).0, outcome.violations);
        assert!(!is_unexpected(seed, &outcome));
        return;
    }
    let cells = (ROWS.len() * COLUMNS.len()) as u64;
    let (first, limit) = match number("SIMULATE_SECONDS") {
        Some(seconds) => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970");
            (since.as_millis() as u64 * cells, Err(Instant::now() + Duration::from_secs(seconds)))
        }
        None => (0, Ok(number("SIMULATE_HISTORIES").unwrap_or(40) * cells)),
    };
    let mut table = [[Cell::EMPTY; COLUMNS.len()]; ROWS.len()];
    for seed in first.. {
        let is_over = match limit {
            Ok(count) => seed - first >= count,
            Err(end) => (seed - first).is_multiple_of(cells) && Instant::now() >= end,
        };
        if is_over {
            break;
        }
        let outcome = run_with(seed, |_| ());
        assert!(!is_unexpected(seed, &outcome), "{:?}: scripts/simulate --seed {seed}", outcome.violations);
        table[seed as usize % ROWS.len()][seed as usize / ROWS.len() % COLUMNS.len()].add(&outcome);
    }
    print(&table);
    for ((_, name, expected), cells) in ROWS.iter().zip(&table) {
        for ((expected, cell), (acks, _)) in expected.iter().zip(cells).zip(COLUMNS) {
            let is_found = match expected {
                Never => true,
                Seldom => cell.broken > 0 || cell.histories < 500,
                Often => cell.broken > 0,
            };
            assert!(is_found, "no wrong answer was found where one is expected: {name}, acks {acks}");
        }
    }
    let seen = |what: usize| table.iter().flatten().map(|cell| cell.seen[what]).sum::<u64>();
    let absent: Vec<_> = Seen::ALL.into_iter().filter(|&what| seen(what as usize) == 0).collect();
    assert!(absent.is_empty(), "these did not happen in any history: {absent:?}");
}

/// Returns whether a history must not end so: a wrong answer where none is expected; a visit that was counted and was
/// neither answered nor in doubt, where no answered one was lost; a request that waited too long; too many names.
fn is_unexpected(seed: u64, outcome: &Outcome) -> bool {
    let (.., expected) = &ROWS[seed as usize % ROWS.len()];
    let is_never = expected[seed as usize / ROWS.len() % COLUMNS.len()] == Never;
    let violations = &outcome.violations;
    violations.late + violations.unlimited > 0 || (is_never && (violations.is_broken() || violations.excess > 0))
}

/// Prints the table: the share of histories with a wrong answer, and the share of visits that were answered.
fn print(table: &[[Cell; COLUMNS.len()]; ROWS.len()]) {
    println!("| fault | acks 0 | acks 0, min-replicas 1 | acks 1, min-replicas 1 | acks 2, min-replicas 1 |");
    println!("|---|---|---|---|---|");
    for ((_, name, _), cells) in ROWS.iter().zip(table) {
        let cells = cells.iter().map(|cell| match cell.broken {
            0 => format!("0, {} %", cell.percent_answered()),
            broken => {
                format!("**{:.1} %**, {} %", broken as f64 * 100.0 / cell.histories as f64, cell.percent_answered())
            }
        });
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    let histories: u64 = table.iter().flatten().map(|cell| cell.histories).sum();
    println!("\n{histories} histories");
    for what in Seen::ALL {
        println!("{what:?}: {}", table.iter().flatten().map(|cell| cell.seen[what as usize]).sum::<u64>());
    }
}

#[test]
fn a_seed_replays_its_history() {
    for seed in 0..4 * ROWS.len() as u64 {
        let [one, other] = [(); 2].map(|()| run_with(seed, |_| ()));
        assert_eq!((one.trace, one.seen), (other.trace, other.seen), "seed {seed}");
        assert_ne!(one.trace, run_with(seed + 60, |_| ()).trace, "seed {seed}");
    }
}

/// Returns how many of 60 histories have a number that was given twice.
fn count_twice(fault: Fault, acks: u32, change: impl Fn(&mut Setup)) -> u64 {
    let row = ROWS.iter().position(|(other, ..)| *other == fault).expect("a row") as u64;
    let twice = |number: u64| {
        let outcome = run_with(number * ROWS.len() as u64 + row, |setup| {
            (setup.acks, setup.min_replicas) = (acks, 0);
            change(setup);
        });
        u64::from(outcome.violations.twice > 0)
    };
    (0..60).map(twice).sum()
}

#[test]
fn a_receipt_that_is_not_written_again_is_falsely_acknowledged_since_7_2() {
    let count = |rewrites_receipts, has_write_offsets| {
        count_twice(Fault::LinksThenPrimary, 1, |setup| {
            (setup.rewrites_receipts, setup.has_write_offsets) = (rewrites_receipts, has_write_offsets);
        })
    };
    assert!(count(false, true) > 0, "since 7.2 a repeat that writes nothing is acknowledged at once");
    assert_eq!(count(false, false), 0, "up to 7.0, WAIT waits for all that was written before");
    assert_eq!((count(true, true), count(true, false)), (0, 0), "the script writes the receipt again");
}

#[test]
fn a_store_that_comes_back_short_gives_no_number_of_one_process_twice() {
    let count =
        |has_floor| count_twice(Fault::PowerCut, 0, |setup| (setup.processes, setup.has_floor) = (1, has_floor));
    assert_eq!(count(true), 0);
    assert!(count(false) > 0, "without the floor");
}

#[test]
fn acknowledgements_decide_whether_an_answer_survives_its_primary() {
    for (fault, expected) in
        [(Fault::PrimaryDies, [true, false, false]), (Fault::PrimaryAndReplicaCutOff, [true, true, false])]
    {
        for (acks, is_found) in (0..).zip(expected) {
            assert_eq!(count_twice(fault, acks, |_| ()) > 0, is_found, "{fault:?}, acks {acks}");
        }
    }
}
