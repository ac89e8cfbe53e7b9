//! What breaks when. The times are random, around that of the fault, where half of the visits are.

use super::check::Visit;
use super::client::COUNTERS;
use super::network::Machines;
use super::node::Process;
use super::{Event, MILLIS, NODES, SECOND, Seen, Time, VOTERS, View, World};

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Noise,
    ReplicaDies,
    PrimaryRestarts,
    PowerCut,
    HandOver,
    Reshard,
    PrimaryDies,
    PrimaryPaused,
    PrimaryCutOff,
    OneSidedCut,
    LinksThenPrimary,
    Forced,
    PrimaryAndReplicaDie,
    PrimaryAndReplicaCutOff,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Stop(usize, Process),
    Start(usize),
    Pause(usize),
    Resume(usize),
    Cut(Machines, Machines),
    Heal,
    Reset,
    Silence,
    BreakLink(usize),
    FlushScripts,
    HandOver(usize),
    Force,
    /// The slot begins to move to a node, one counter with its receipts after the other, and its owner changes.
    Migrate(usize, usize),
    Random,
    RepairAll,
}

impl World {
    /// Schedules the visits and the faults of the history. Returns when the last visit has ended.
    pub(super) fn plan(&mut self) -> Time {
        let at = self.rng.between(SECOND, 3 * SECOND);
        let last = at + self.rng.between(12 * SECOND, 20 * SECOND);
        for visit in 0..VISITS {
            let start = match visit % 4 {
                0 | 1 => at + self.rng.below(60 * MILLIS) - 40 * MILLIS,
                2 => self.rng.between(MILLIS, at + 8 * SECOND),
                _ => self.rng.between(MILLIS, last),
            };
            self.plan_visit(start);
        }
        self.plan_fault(at);
        let end = last.max(at + 8 * SECOND) + self.setup.timeout + SECOND;
        if self.rng.chance(98) {
            return end;
        }
        // Visits once more, after a pause in which all receipts expire.
        let again = end + self.setup.timeout + RECEIPT_GRACE;
        for _ in 0..VISITS / 4 {
            let start = again + self.rng.below(SECOND);
            self.plan_visit(start);
        }
        again + self.setup.timeout + 2 * SECOND
    }

    fn plan_visit(&mut self, start: Time) {
        let worker = self.rng.below(self.workers.len() as u64) as usize;
        let counter = if self.rng.chance(20) { self.rng.between(1, COUNTERS.len() as u64 - 1) as usize } else { 0 };
        let by = if self.rng.chance(5) { 0 } else { self.rng.between(1, 2) as i64 };
        self.schedule(start, Event::Visit(self.visits.len()));
        self.visits.push(Visit { worker, slot: 0, counter, by, start, end: None });
    }

    fn plan_action(&mut self, at: Time, action: Action) {
        self.schedule(at, Event::Act(action));
    }

    fn plan_fault(&mut self, at: Time) {
        let [a, b] = [0, 1];
        let back = at + 14 * SECOND;
        match self.setup.fault {
            Fault::Noise => {}
            Fault::ReplicaDies => {
                self.plan_action(at, Action::Stop(b, Process::Killed));
                self.plan_action(back, Action::Start(b));
            }
            Fault::PrimaryRestarts | Fault::PowerCut => {
                let process = if self.setup.is_everysec { Process::Off } else { Process::Killed };
                self.plan_action(at, Action::Stop(a, process));
                let back = at + self.rng.between(100 * MILLIS, 3 * SECOND);
                self.plan_action(back, Action::Start(a));
            }
            Fault::HandOver => {
                self.plan_action(at, Action::HandOver(b));
                self.plan_action(at + 5 * SECOND, Action::HandOver(a));
            }
            Fault::Reshard => {
                self.plan_action(at, Action::Migrate(2, 0));
                self.plan_action(at + 6 * SECOND, Action::Migrate(0, 0));
            }
            Fault::PrimaryDies | Fault::PrimaryAndReplicaDie => {
                let process = if self.rng.chance(50) { Process::Off } else { Process::Killed };
                self.plan_action(at, Action::Stop(a, process));
                if self.setup.fault == Fault::PrimaryAndReplicaDie {
                    let also = at + self.rng.below(3 * SECOND);
                    self.plan_action(also, Action::Stop(b, process));
                    self.plan_action(back, Action::Start(b));
                }
                let back = at + self.rng.between(6 * SECOND, 14 * SECOND);
                self.plan_action(back, Action::Start(a));
            }
            Fault::PrimaryPaused => {
                self.plan_action(at, Action::Pause(a));
                let back = at + self.rng.between(5 * SECOND, 12 * SECOND);
                self.plan_action(back, Action::Resume(a));
            }
            Fault::PrimaryCutOff | Fault::PrimaryAndReplicaCutOff => {
                let mut side = 1 << a | 1 << FIRST_PROCESS;
                if self.setup.fault == Fault::PrimaryAndReplicaCutOff {
                    side |= 1 << b;
                }
                // A Sentinel may be on this side, and names the old primary.
                if self.rng.chance(50) {
                    side |= 1 << NODES;
                }
                let heal = at + self.rng.between(6 * SECOND, 14 * SECOND);
                self.plan_action(at, Action::Cut(side, !side));
                self.plan_action(at, Action::Cut(!side, side));
                self.plan_action(heal, Action::Heal);
            }
            Fault::OneSidedCut => {
                let others = self.rng.next() as Machines & !(1 << a);
                let (from, to) = if self.rng.chance(50) { (1 << a, others) } else { (others, 1 << a) };
                let heal = at + self.rng.between(SECOND, 14 * SECOND);
                self.plan_action(at, Action::Cut(from, to));
                self.plan_action(heal, Action::Heal);
            }
            Fault::LinksThenPrimary => {
                let replicas = 0b110;
                self.plan_action(at - 20 * MILLIS, Action::Cut(1, replicas));
                self.plan_action(at - 20 * MILLIS, Action::Cut(replicas, 1));
                let end = at + self.rng.between(SECOND, 3 * SECOND);
                self.plan_action(end, Action::Stop(a, Process::Killed));
                self.plan_action(end + MILLIS, Action::Heal);
                self.plan_action(back, Action::Start(a));
            }
            Fault::Forced => self.plan_action(at, Action::Force),
            Fault::Everything => {
                for _ in 0..self.rng.between(2, 8) {
                    let at = self.rng.between(SECOND, 16 * SECOND);
                    self.plan_action(at, Action::Random);
                }
            }
        }
        // Small faults are always there.
        for _ in 0..self.rng.below(if self.setup.fault == Fault::Noise { 12 } else { 3 }) {
            let replica = self.rng.between(1, self.nodes.len() as u64 - 1) as usize;
            let actions =
                [Action::Reset, Action::Reset, Action::Silence, Action::FlushScripts, Action::BreakLink(replica)];
            let action = actions[self.rng.below(actions.len() as u64) as usize];
            let at = if self.rng.chance(50) {
                at - 40 * MILLIS + self.rng.below(80 * MILLIS)
            } else {
                self.rng.below(at * 4)
            };
            self.plan_action(at, action);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.log(|| format!("{action:?}"));
        match action {
            Action::Stop(node, process) => {
                self.seen(if process == Process::Off { Seen::PoweredOff } else { Seen::Killed });
                self.stop(node, process);
            }
            Action::Start(node) => self.start(node),
            Action::Pause(node) => {
                if self.nodes[node].process == Process::Running {
                    self.seen(Seen::Paused);
                    self.nodes[node].process = Process::Paused;
                }
            }
            Action::Resume(node) => {
                if self.nodes[node].process == Process::Paused {
                    self.nodes[node].process = Process::Running;
                    self.release_held();
                }
            }
            Action::Cut(from, to) => {
                self.seen(if from == !to { Seen::PartitionTwoSided } else { Seen::PartitionOneSided });
                self.cut(from, to);
            }
            Action::Heal => {
                self.seen(Seen::Healed);
                self.cuts.fill(0);
                self.release_held();
            }
            Action::Reset => self.random_connection().into_iter().for_each(|at| self.reset(at)),
            Action::Silence => self.random_connection().into_iter().for_each(|at| self.silence(at)),
            Action::BreakLink(replica) => {
                self.seen(Seen::LinkLost);
                self.break_link(replica);
            }
            Action::FlushScripts => {
                self.seen(Seen::ScriptsFlushed);
                self.nodes.iter_mut().for_each(|node| node.has_script = false);
            }
            Action::HandOver(to) => {
                let from = self.current_primary();
                self.hand_over(from, to, self.now + 5 * SECOND);
            }
            Action::Force => self.start_failover(0),
            Action::Migrate(to, step) => self.migrate(to, step),
            Action::Random => self.act_at_random(),
            Action::RepairAll => {
                self.act(Action::Heal);
                for node in 0..self.nodes.len() {
                    self.act(Action::Resume(node));
                    self.start(node);
                }
            }
        }
    }

    /// Returns the primary of the newest view.
    fn current_primary(&self) -> usize {
        self.views.iter().max_by_key(|view| view.epoch).map_or(0, |view| view.primary)
    }

    /// One step of the migration of our slot: the counters move one by one, their receipts at other times.
    fn migrate(&mut self, to: usize, step: usize) {
        let from = 2 - to;
        let keys = self.nodes[from].keys();
        match keys.get(self.rng.below(keys.len().max(1) as u64) as usize) {
            _ if step == 0 => {
                self.nodes[to].importing = true;
                self.nodes[from].migrating = Some(to);
            }
            Some(key) => {
                let value = self.nodes[from].entry(key);
                self.write(to, vec![(key.clone(), value)]);
                self.write(from, vec![(key.clone(), None)]);
            }
            None => {
                self.take_over(to);
                let view: View = self.views[to];
                self.views[from] = view;
                self.nodes[to].importing = false;
                self.nodes[from].migrating = None;
                return;
            }
        }
        let pause = self.rng.between(MILLIS, 400 * MILLIS);
        self.plan_action(self.now + pause, Action::Migrate(to, step + 1));
    }

    /// Starts one fault of any kind, which ends some seconds later.
    fn act_at_random(&mut self) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let end = self.now + self.rng.between(100 * MILLIS, 12 * SECOND);
        let side = self.rng.next() as Machines;
        let (action, repair) = match self.rng.below(10) {
            0 | 1 => (Action::Stop(node, Process::Killed), Action::Start(node)),
            2 => (Action::Stop(node, Process::Off), Action::Start(node)),
            3 => (Action::Pause(node), Action::Resume(node)),
            4 | 5 => {
                self.act(Action::Cut(!side, side));
                (Action::Cut(side, !side), Action::Heal)
            }
            6 => (Action::Cut(side, self.rng.next() as Machines), Action::Heal),
            7 => (Action::HandOver(node), Action::Reset),
            8 if !self.setup.is_cluster => (Action::Force, Action::Silence),
            _ => (Action::BreakLink(node), Action::Reset),
        };
        self.act(action);
        self.plan_action(end, repair);
    }
}

const FIRST_PROCESS: usize = NODES + VOTERS;

/// Requests of one history, until the faults are over.
const VISITS: usize = 60;

/// How much longer than `STORE_TIMEOUT` receipts are kept.
const RECEIPT_GRACE: Time = 300 * SECOND;
