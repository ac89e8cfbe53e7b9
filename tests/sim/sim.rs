//! A deterministic simulator: the real `Queue`, `Batch`, `Session`, `Topology`, `Floor` and `Buffers`, against model
//! nodes, a model network and faults. A history is one run of a few virtual seconds: clients count visits while
//! something breaks. At its end [`check`] compares the answers with a counter that loses nothing.
//!
//! A history depends on its seed alone, which contains the fault, the settings and all random choices: the same seed
//! gives the same bytes at the same times. A failure prints the seed and the command that replays it.
//!
//! - [`World`], here: the virtual clock, the events, and the settings of a history.
//! - `network`: connections, delays, half-written messages, partitions.
//! - `node`: Redis, with a replication log and `WAIT`; `script`: our script. `failover`: Sentinels, and the votes of a cluster.
//! - `faults`: what breaks when. `client`: processes and workers, which run the code under test.
//! - `check`: what must hold. `table`: many histories, and which of them may fail.
//!
//! `scripts/simulate` runs it; docs/high-availability.md has its results.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

mod check;
mod client;
mod failover;
mod faults;
mod network;
mod node;
mod script;
mod table;

use super::health::Health;
use check::{Violations, Visit};
use client::Worker;
use failover::{View, Voter};
use faults::Action;
use network::{Connection, End, Machines};
use node::{Node, Role};
use table::Setup;

/// Virtual time, in microseconds since the start of a history.
type Time = u64;

const MILLIS: Time = 1_000;
const SECOND: Time = 1_000 * MILLIS;

/// Machines: first the nodes, then the Sentinels (or the other voters of a cluster), then the processes of notch.
const NODES: usize = 4;
const VOTERS: usize = 3;

/// What a client is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Node(usize),
    Sentinel(usize),
}

impl Server {
    fn machine(self) -> usize {
        match self {
            Self::Node(node) => node,
            Self::Sentinel(sentinel) => NODES + sentinel,
        }
    }
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next piece of a connection arrives at this end.
    Arrive(usize, End),
    /// A client sends the request with this index.
    Visit(usize),
    /// The timer of a worker.
    Timer(usize),
    /// The `WAIT` of a connection is over.
    WaitOver(usize),
    /// The next transaction arrives at a replica, over the link of this generation.
    Stream(usize, u64),
    /// An acknowledgement of that many transactions arrives at the primary of a replica.
    Acknowledge(usize, u64, usize),
    /// A replica connects to its primary, or has copied its log up to a length.
    Attach(usize, u64, Option<usize>),
    /// All nodes do what they do each second.
    EverySecond,
    /// A voter, or the node of a cluster, looks at the others.
    Tick(usize),
    /// A Sentinel, elected in an epoch, promotes a replica.
    Promote(usize, u64),
    /// The order of a Sentinel arrives at a replica.
    Follow(usize, usize),
    /// A replica of a cluster, of this primary, requests votes.
    Elect(usize, usize),
    /// A planned failover from one node to another, until a time.
    HandOver(usize, usize, Time),
    Act(Action),
}

/// What must not be silently absent from the histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Reset,
    HalfWritten,
    LostBytes,
    Silent,
    SwallowedBytes,
    LateBytes,
    Refused,
    ConnectTimedOut,
    PartitionTwoSided,
    PartitionOneSided,
    Healed,
    Killed,
    PoweredOff,
    Unsynced,
    Restarted,
    Paused,
    LinkLost,
    PartialCopy,
    FullCopy,
    Promoted,
    Demoted,
    HandedOver,
    Unblocked,
    StaleAnswer,
    ScriptsFlushed,
    NoScript,
    ReadOnly,
    Loading,
    MasterDown,
    NoReplicas,
    Moved,
    Ask,
    TryAgain,
    ClusterDown,
    AcksMissed,
    ReceiptFound,
    ReceiptNewer,
    ReceiptExpired,
    FloorRaised,
    LimitReached,
    Answered,
    Unavailable,
    NameRejected,
    InDoubt,
}

impl Seen {
    const COUNT: usize = Self::ALL.len();

    const ALL: [Self; 44] = [
        Self::Reset,
        Self::HalfWritten,
        Self::LostBytes,
        Self::Silent,
        Self::SwallowedBytes,
        Self::LateBytes,
        Self::Refused,
        Self::ConnectTimedOut,
        Self::PartitionTwoSided,
        Self::PartitionOneSided,
        Self::Healed,
        Self::Killed,
        Self::PoweredOff,
        Self::Unsynced,
        Self::Restarted,
        Self::Paused,
        Self::LinkLost,
        Self::PartialCopy,
        Self::FullCopy,
        Self::Promoted,
        Self::Demoted,
        Self::HandedOver,
        Self::Unblocked,
        Self::StaleAnswer,
        Self::ScriptsFlushed,
        Self::NoScript,
        Self::ReadOnly,
        Self::Loading,
        Self::MasterDown,
        Self::NoReplicas,
        Self::Moved,
        Self::Ask,
        Self::TryAgain,
        Self::ClusterDown,
        Self::AcksMissed,
        Self::ReceiptFound,
        Self::ReceiptNewer,
        Self::ReceiptExpired,
        Self::FloorRaised,
        Self::LimitReached,
        Self::Answered,
        Self::Unavailable,
        Self::NameRejected,
        Self::InDoubt,
    ];
}

struct World {
    setup: Setup,
    rng: Rng,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    trace: Trace,
    seen: [u64; Seen::COUNT],
    /// The longest usual delay of a piece, and of a transaction.
    slowness: Time,
    replica_slowness: Time,
    /// For each machine, those that it does not reach.
    cuts: [Machines; NODES + VOTERS + MAX_PROCESSES],
    connections: Vec<Connection>,
    nodes: Vec<Node>,
    sentinels: [Voter; VOTERS],
    views: [View; NODES + VOTERS],
    /// In a cluster: when a primary last reached a majority, and when a replica may stand for election again.
    last_majority: [Time; NODES],
    election_at: [Time; NODES],
    /// The start of the history on the clock of the code under test.
    epoch: Instant,
    workers: Vec<Worker>,
    visits: Vec<Visit>,
    /// The health of the store, and the floor, in each process.
    processes: Vec<Health>,
}

/// The result of one history.
struct Outcome {
    violations: Violations,
    seen: [u64; Seen::COUNT],
    trace: u64,
}

/// Runs one history.
fn run(setup: Setup, rng: Rng) -> Outcome {
    let mut world = World::new(setup, rng);
    let end = world.plan();
    world.run_until(end);
    // All faults end, and the nodes agree on a primary.
    world.act(Action::RepairAll);
    let total_at = end + SETTLE;
    world.run_until(total_at);
    let mut violations = Violations::NONE;
    let primary = world.views[NODES..].iter().max_by_key(|view| view.epoch).map_or(0, |view| view.primary);
    for (counter, key) in client::COUNTERS.iter().enumerate() {
        let total = world.nodes[primary].text(key.as_bytes(), total_at).map_or(0, node::number);
        check::check(&world.visits, counter, total, world.setup.timeout, &mut violations);
    }
    if world.setup.has_limit {
        let node = &world.nodes[primary];
        let counted: Vec<_> =
            client::COUNTERS[1..].iter().copied().filter(|key| node.text(key.as_bytes(), total_at).is_some()).collect();
        let (names, has_all) = node.members(client::NAMES, &counted);
        violations.unlimited += u64::from(names > client::MOST_NAMES || !has_all);
    }
    Outcome { violations, seen: world.seen, trace: world.trace.0 }
}

impl World {
    fn new(setup: Setup, mut rng: Rng) -> Self {
        let roles = match setup.is_resharded {
            false => vec![Role::Primary, Role::ReplicaOf(0), Role::ReplicaOf(0)],
            true => vec![Role::Primary, Role::ReplicaOf(0), Role::Primary, Role::ReplicaOf(2)],
        };
        let mut world = Self {
            slowness: [300, 1_000, 20_000][rng.below(3) as usize],
            replica_slowness: [300, 3_000, 100_000][rng.below(3) as usize],
            rng,
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            trace: Trace(0),
            seen: [0; Seen::COUNT],
            cuts: [0; NODES + VOTERS + MAX_PROCESSES],
            connections: Vec::new(),
            nodes: roles.into_iter().map(Node::new).collect(),
            sentinels: std::array::from_fn(|_| Voter::new()),
            views: [View::default(); NODES + VOTERS],
            last_majority: [0; NODES],
            election_at: [0; NODES],
            epoch: Instant::now(),
            workers: Vec::new(),
            visits: Vec::new(),
            processes: Vec::new(),
            setup,
        };
        world.start_workers();
        let first = if world.setup.is_cluster { 0 } else { NODES };
        for machine in (first..world.nodes.len()).chain(NODES..NODES + VOTERS) {
            let start = world.rng.below(500 * MILLIS);
            world.schedule(start, Event::Tick(machine));
        }
        world.schedule(0, Event::EverySecond);
        world
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at.max(self.now), self.scheduled, event)));
    }

    fn seen(&mut self, what: Seen) {
        self.seen[what as usize] += 1;
    }

    /// Prints a line, if this history is printed.
    fn log(&self, line: impl FnOnce() -> String) {
        if self.setup.is_printed {
            println!("{:>10.6} {}", self.now as f64 / SECOND as f64, line());
        }
    }

    fn run_until(&mut self, end: Time) {
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at < end
            && let Some(Reverse((at, number, event))) = self.events.pop()
        {
            self.now = at;
            self.trace.number(at ^ number << 32);
            self.handle(event);
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(connection, to) => self.arrive(connection, to),
            Event::Visit(visit) => self.visit(visit),
            Event::Timer(worker) => self.timer(worker),
            Event::WaitOver(connection) => self.end_wait(connection),
            Event::Stream(replica, generation) => self.apply_stream(replica, generation),
            Event::Acknowledge(replica, generation, length) => self.acknowledge(replica, generation, length),
            Event::Attach(replica, generation, copied) => self.attach(replica, generation, copied),
            Event::EverySecond => {
                self.every_second();
                self.schedule(self.now + SECOND, Event::EverySecond);
            }
            Event::Tick(machine) => self.tick(machine),
            Event::Promote(voter, epoch) => self.promote_best(voter, epoch),
            Event::Follow(voter, node) => self.follow(voter, node),
            Event::Elect(node, primary) => self.elect(node, primary),
            Event::HandOver(from, to, deadline) => self.hand_over(from, to, deadline),
            Event::Act(action) => self.act(action),
        }
    }
}

/// A hash of all events and all bytes that arrived.
struct Trace(u64);

impl Trace {
    fn number(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }
}

/// Random numbers from a seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const MAX_PROCESSES: usize = 3;

/// After the faults: until the nodes have agreed, and the replicas have copied.
const SETTLE: Time = 40 * SECOND;
