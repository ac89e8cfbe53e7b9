//! Who is the primary: model Sentinels, and the votes of a cluster.
//!
//! Each machine has a view, the primary and its epoch, and receives newer views from machines that it reaches, after a
//! random delay. A majority of three voters replaces a primary that does not reply to them: the Sentinels choose the
//! replica with the greatest offset among those that they reach, as last reported to them; in a cluster the replicas
//! stand for election, the one with the greatest offset first. Both are rules of Redis, with its time-outs.

use super::node::{Process, Role};
use super::{Event, MILLIS, NODES, SECOND, Seen, Time, VOTERS, World};
use crate::resp;

/// The primary in the view of a machine. The greater epoch is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) epoch: u64,
    pub(super) primary: usize,
}

/// A Sentinel, or the primary of another shard, which votes.
pub(super) struct Voter {
    pub(super) process: Process,
    /// When each node replied last.
    last_reply: [Time; NODES],
    /// The offset of each node and its role in its last `INFO`, and when that was.
    info: [(usize, Role, Time); NODES],
    /// Since when the role of a node contradicts the view.
    wrong_since: [Option<Time>; NODES],
    /// The last epoch that it voted in.
    voted: u64,
    /// No further failover before this time.
    retry_at: Time,
}

impl Voter {
    pub(super) fn new() -> Self {
        Self {
            process: Process::Running,
            last_reply: [0; NODES],
            info: [(0, Role::ReplicaOf(0), 0); NODES],
            wrong_since: [None; NODES],
            voted: 0,
            retry_at: 0,
        }
    }
}

impl World {
    pub(super) fn is_running(&self, machine: usize) -> bool {
        match machine.checked_sub(NODES) {
            None => self.nodes[machine].process == Process::Running,
            Some(voter) => voter >= VOTERS || self.sentinels[voter].process == Process::Running,
        }
    }

    pub(super) fn is_paused(&self, machine: usize) -> bool {
        machine < NODES && self.nodes[machine].process == Process::Paused
    }

    /// Returns whether one machine gets replies from another.
    fn gets_replies(&self, from: usize, to: usize) -> bool {
        self.is_reachable(from, to) && self.is_running(to)
    }

    fn voters_in_reach(&self, from: usize) -> Vec<usize> {
        (0..VOTERS).filter(|&voter| self.gets_replies(from, NODES + voter)).collect()
    }

    /// Returns whether the primary has not replied to a voter for longer than `down-after-milliseconds`, or
    /// `cluster-node-timeout`.
    fn is_down(&self, voter: usize) -> bool {
        let primary = self.views[NODES + voter].primary;
        self.now > self.sentinels[voter].last_reply[primary] + self.setup.down_after
    }

    /// What a voter, or the node of a cluster, does regularly.
    pub(super) fn tick(&mut self, machine: usize) {
        let pause = self.rng.between(400 * MILLIS, 800 * MILLIS);
        self.schedule(self.now + pause, Event::Tick(machine));
        if !self.is_running(machine) {
            return;
        }
        self.gossip(machine);
        match machine.checked_sub(NODES) {
            Some(voter) => self.watch(voter),
            None => self.stand(machine),
        }
    }

    /// Adopts the newest view among the machines that it reaches, after a random delay.
    fn gossip(&mut self, machine: usize) {
        let first = if self.setup.is_cluster { 0 } else { NODES };
        for other in first..NODES + VOTERS {
            if other != machine
                && self.views[other].epoch > self.views[machine].epoch
                && self.gets_replies(machine, other)
                && self.rng.chance(50)
            {
                self.views[machine] = self.views[other];
            }
        }
    }

    /// A voter pings all nodes. A Sentinel starts a failover, and corrects the roles of the nodes.
    fn watch(&mut self, voter: usize) {
        let (machine, now) = (NODES + voter, self.now);
        let was_down = self.is_down(voter);
        for node in 0..self.nodes.len() {
            if self.gets_replies(machine, node) {
                let Voter { last_reply, info, .. } = &mut self.sentinels[voter];
                last_reply[node] = now;
                let period = if was_down { SECOND } else { INFO_PERIOD };
                if now >= info[node].2 + period || was_down {
                    info[node] = (self.nodes[node].log.len(), self.nodes[node].role, now);
                }
            }
        }
        if self.setup.is_cluster {
            return;
        }
        let peers: Vec<_> = self.voters_in_reach(machine);
        if self.is_down(voter) {
            let agree = peers.iter().filter(|&&peer| self.is_down(peer)).count();
            if agree >= MAJORITY && now >= self.sentinels[voter].retry_at {
                self.start_failover(voter);
            }
        } else {
            self.correct_roles(voter);
        }
    }

    /// Requests the votes of the voters, and promotes a replica a little later.
    pub(super) fn start_failover(&mut self, voter: usize) {
        let peers = self.voters_in_reach(NODES + voter);
        let epoch = 1 + peers.iter().map(|&peer| self.sentinels[peer].voted).max().unwrap_or(0);
        if peers.len() < MAJORITY {
            return;
        }
        let end = self.now + self.rng.between(100 * MILLIS, 1100 * MILLIS);
        for peer in peers {
            self.sentinels[peer].voted = epoch;
            self.sentinels[peer].retry_at = self.now + RETRY_FAILOVER;
        }
        self.schedule(end, Event::Promote(voter, epoch));
    }

    /// A Sentinel that won the vote promotes the replica with the greatest offset that it has seen.
    pub(super) fn promote_best(&mut self, voter: usize, epoch: u64) {
        let (machine, now) = (NODES + voter, self.now);
        let old = self.views[machine].primary;
        let best = (0..self.nodes.len())
            .filter(|&node| node != old && self.gets_replies(machine, node) && self.nodes[node].role != Role::Primary)
            .filter(|&node| now <= self.sentinels[voter].info[node].2 + INFO_VALID)
            .max_by_key(|&node| self.sentinels[voter].info[node].0);
        let Some(best) = best.filter(|_| self.sentinels[voter].voted == epoch && self.is_running(machine)) else {
            return;
        };
        self.promote(best);
        self.views[machine] = View { epoch, primary: best };
        for node in (0..self.nodes.len()).filter(|&node| node != best && node != old) {
            let arrival = now + self.rng.between(MILLIS, 1500 * MILLIS);
            self.schedule(arrival, Event::Follow(voter, node));
        }
    }

    /// The order of a Sentinel to follow its primary arrives at a replica.
    pub(super) fn follow(&mut self, voter: usize, node: usize) {
        let primary = self.views[NODES + voter].primary;
        if self.gets_replies(NODES + voter, node) && node != primary {
            self.demote(node, primary);
        }
    }

    /// A Sentinel that gets replies from its primary gives a node with another role the right one, after a while.
    fn correct_roles(&mut self, voter: usize) {
        let (machine, now) = (NODES + voter, self.now);
        let primary = self.views[machine].primary;
        if self.nodes[primary].role != Role::Primary || self.sentinels[voter].last_reply[primary] != now {
            return;
        }
        for node in (0..self.nodes.len()).filter(|&node| node != primary) {
            let is_wrong = self.gets_replies(machine, node) && self.nodes[node].role != Role::ReplicaOf(primary);
            let since = &mut self.sentinels[voter].wrong_since[node];
            if !is_wrong {
                *since = None;
            } else if now >= *since.get_or_insert(now) + WRONG_ROLE {
                *since = None;
                self.demote(node, primary);
            }
        }
    }

    /// The node of a cluster takes the role that its view gives it. A replica without a primary stands for election; a
    /// primary without a majority accepts no commands.
    fn stand(&mut self, node: usize) {
        let (now, owner) = (self.now, self.views[node].primary);
        let voters = self.voters_in_reach(node);
        match self.nodes[node].role {
            Role::Primary if voters.len() >= MAJORITY => {
                if now > self.last_majority[node] + self.setup.down_after {
                    self.nodes[node].writable_at = now + self.rng.between(500 * MILLIS, 5 * SECOND);
                }
                self.last_majority[node] = now;
                if owner != node && !self.setup.is_resharded {
                    self.demote(node, owner);
                }
            }
            Role::Primary => {
                if now > self.last_majority[node] + self.setup.down_after {
                    self.nodes[node].writable_at = Time::MAX;
                }
            }
            Role::ReplicaOf(primary) if primary != owner && !self.setup.is_resharded => self.demote(node, owner),
            Role::ReplicaOf(primary) => {
                let sees_down = voters.iter().filter(|&&voter| self.is_down(voter)).count() >= MAJORITY;
                if primary == owner && sees_down && now >= self.election_at[node] {
                    let length = self.nodes[node].log.len();
                    let is_ahead =
                        |&other: &usize| self.gets_replies(node, other) && self.nodes[other].log.len() > length;
                    let rank = (0..self.nodes.len()).filter(|other| *other != primary).filter(is_ahead).count();
                    let end = now + self.rng.between(500 * MILLIS, SECOND) + rank as Time * SECOND;
                    self.election_at[node] = end + SECOND;
                    self.schedule(end, Event::Elect(node, primary));
                }
            }
        }
    }

    /// The replica of a cluster requests the votes of those for which its primary is down. A voter votes once in a
    /// while for the replicas of one primary.
    pub(super) fn elect(&mut self, node: usize, primary: usize) {
        let (now, epoch) = (self.now, self.views[node].epoch + 1);
        let mut voters = self.voters_in_reach(node);
        voters.retain(|&voter| self.is_down(voter) && now >= self.sentinels[voter].retry_at);
        if voters.len() >= MAJORITY && self.nodes[node].role == Role::ReplicaOf(primary) && self.is_running(node) {
            for voter in voters {
                self.sentinels[voter].voted = epoch;
                self.sentinels[voter].retry_at = now + 2 * self.setup.down_after;
            }
            self.take_over(node);
        }
    }

    /// The node of a cluster becomes the owner of our slot.
    pub(super) fn take_over(&mut self, node: usize) {
        if self.nodes[node].role != Role::Primary {
            self.promote(node);
        }
        let epoch = 1 + self.views.iter().map(|view| view.epoch).max().unwrap_or(0);
        self.last_majority[node] = self.now;
        self.views[node] = View { epoch, primary: node };
    }

    /// A planned failover (`CLUSTER FAILOVER`, `FAILOVER TO`): the primary pauses, and once the replica has everything,
    /// the two change roles.
    pub(super) fn hand_over(&mut self, from: usize, to: usize, deadline: Time) {
        let is_possible = self.nodes[from].role == Role::Primary
            && self.nodes[to].role == Role::ReplicaOf(from)
            && self.is_running(from)
            && self.is_running(to)
            && self.is_reachable(from, to);
        let is_complete = self.nodes[from].log.len() == self.nodes[to].log.len();
        self.nodes[from].is_handing_over = is_possible && !is_complete && self.now < deadline;
        if self.nodes[from].is_handing_over {
            self.schedule(self.now + MILLIS, Event::HandOver(from, to, deadline));
            return;
        }
        if is_possible && is_complete {
            self.seen(Seen::HandedOver);
            self.take_over(to);
            let view = self.views[to];
            self.views[from] = view;
            if !self.setup.is_cluster {
                self.views[NODES..].fill(view);
            }
            self.demote(from, to);
        }
        // The commands that waited are executed, or refused by the replica that it is now.
        for connection in 0..self.connections.len() {
            self.run_commands(connection);
        }
    }

    /// `SENTINEL get-master-addr-by-name`.
    pub(super) fn name_primary(&mut self, voter: usize, out: &mut Vec<u8>) {
        let view = self.views[NODES + voter];
        if self.views.iter().any(|other| other.epoch > view.epoch) {
            self.seen(Seen::StaleAnswer);
        }
        resp::write_command(out, &[format!("node{}", view.primary).as_bytes(), b"6379"]);
    }
}

const MAJORITY: usize = VOTERS / 2 + 1;

/// The pause between two `INFO` of a Sentinel while all is well, and the age up to which they decide a failover.
const INFO_PERIOD: Time = 10 * SECOND;
const INFO_VALID: Time = 5 * SECOND;

/// How long a Sentinel tolerates a wrong role.
const WRONG_ROLE: Time = 8 * SECOND;

/// The pause between two failovers: twice `failover-timeout`.
const RETRY_FAILOVER: Time = 10 * SECOND;
