//! Model data nodes: keys with expiry, a replication log, our script, `WAIT`, and the errors of a replica, a starting
//! node and a cluster. Each rule is that of Redis 6.2 to 8.2 or Valkey.
//!
//! A node is its log: the transactions of its history, in order. The data are the log, applied. A replica appends the
//! transactions that its primary streams to it, each whole or not at all, and acknowledges its length. One whose log is
//! not a prefix of its primary's copies that log. A crash keeps what was synced to the disk.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::network::{End, Piece};
use super::script::{self, Content, Kind, Outcome, Rules, Value, Write};
use super::{Event, MILLIS, SECOND, Seen, Server, Setup, Time, World};
use crate::resp::{self, Reply};

/// One atomic step: the writes of a command or a script.
pub(super) struct Transaction {
    /// When its primary executed it.
    at: Time,
    writes: Vec<Write>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    ReplicaOf(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    Running,
    /// Stopped by a signal, or by a machine that is too busy: its sockets still take bytes.
    Paused,
    /// Its machine refuses connections.
    Killed,
    /// Its machine is silent.
    Off,
}

pub(super) struct Node {
    pub(super) role: Role,
    pub(super) process: Process,
    loading_until: Time,
    pub(super) has_script: bool,
    pub(super) log: Vec<Rc<Transaction>>,
    data: BTreeMap<Vec<u8>, Value>,
    /// The connection of a replica to its primary.
    link: Link,
    /// Replicas with a recent acknowledgement, for `min-replicas-to-write`.
    good_replicas: usize,
    /// Writes wait, because a planned failover is in progress.
    pub(super) is_handing_over: bool,
    /// In a cluster: the node to which our slot is migrating, and the one from which.
    pub(super) migrating: Option<usize>,
    pub(super) importing: bool,
    /// In a cluster: when it may write again, after it was without a majority.
    pub(super) writable_at: Time,
}

#[derive(Default)]
struct Link {
    /// Changes with each new connection, so that what belongs to an old one is ignored.
    generation: u64,
    is_up: bool,
    last: Time,
    /// Arrivals that were held.
    held: usize,
    /// The last acknowledgement at the primary: the transactions that the replica has, and when it arrived.
    acknowledged: usize,
    acknowledged_at: Time,
}

impl Node {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            process: Process::Running,
            loading_until: 0,
            has_script: false,
            log: Vec::new(),
            data: BTreeMap::new(),
            link: Link { is_up: role != Role::Primary, ..Link::default() },
            good_replicas: 0,
            is_handing_over: false,
            migrating: None,
            importing: false,
            writable_at: 0,
        }
    }

    /// Returns what is stored at a key, and does not expire before now.
    fn value(&self, key: &[u8], now: Time) -> Option<&Value> {
        self.data.get(key).filter(|value| value.expires.is_none_or(|expires| now < expires))
    }

    pub(super) fn text(&self, key: &[u8], now: Time) -> Option<&[u8]> {
        match &self.value(key, now)?.content {
            Content::Text(text) => Some(text),
            Content::Set(_) => None,
        }
    }

    /// Returns the number of members of a set, and whether it has these.
    pub(super) fn members(&self, key: &[u8], members: &[&str]) -> (usize, bool) {
        match self.data.get(key).map(|value| &value.content) {
            Some(Content::Set(set)) => (set.len(), members.iter().all(|member| set.contains(member.as_bytes()))),
            _ => (0, members.is_empty()),
        }
    }

    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        self.data.keys().cloned().collect()
    }

    pub(super) fn entry(&self, key: &[u8]) -> Option<Value> {
        self.data.get(key).cloned()
    }

    fn apply(&mut self, transaction: Rc<Transaction>) {
        for (key, value) in &transaction.writes {
            match value {
                Some(value) => self.data.insert(key.clone(), value.clone()),
                None => self.data.remove(key),
            };
        }
        self.log.push(transaction);
    }

    /// Replaces the log, and the data with it.
    fn restore(&mut self, log: Vec<Rc<Transaction>>) {
        self.data.clear();
        self.log.clear();
        log.into_iter().for_each(|transaction| self.apply(transaction));
    }
}

impl World {
    /// Handles what arrives at a server.
    pub(super) fn serve(&mut self, connection: usize, piece: Piece) {
        let server = self.connections[connection].server;
        let process = match server {
            Server::Node(node) => self.nodes[node].process,
            Server::Sentinel(sentinel) => self.sentinels[sentinel].process,
        };
        match (process, piece) {
            (Process::Off, _) => {}
            (Process::Killed, Piece::Closed) => {}
            (Process::Killed, _) => {
                self.seen(Seen::Refused);
                self.connections[connection].is_open[End::Server as usize] = true;
                self.close(connection, End::Server);
            }
            (_, Piece::Connect) => self.post(connection, End::Client, Piece::Accepted),
            (_, Piece::Closed) => {
                self.connections[connection].is_open[End::Server as usize] = false;
                self.connections[connection].waiting = None;
            }
            (_, Piece::Bytes(bytes)) if self.connections[connection].is_open[End::Server as usize] => {
                if !self.connections[connection].is_open[End::Client as usize] {
                    self.seen(Seen::LateBytes);
                }
                self.connections[connection].input.extend_from_slice(&bytes);
                self.run_commands(connection);
            }
            // It was restarted and has no such connection.
            (_, Piece::Bytes(_)) => self.post(connection, End::Client, Piece::Closed),
            (_, Piece::Accepted) => {}
        }
    }

    /// Executes the whole commands that have arrived, until one blocks.
    pub(super) fn run_commands(&mut self, connection: usize) {
        let input = std::mem::take(&mut self.connections[connection].input);
        let (mut rest, mut output) = (&input[..], Vec::new());
        while self.connections[connection].waiting.is_none()
            && let Ok(Some((Reply::Array(items), length))) = resp::decode(rest)
        {
            let mut arguments = [&b""[..]; 12];
            let mut count = 0;
            for (item, argument) in items.zip(&mut arguments) {
                let Reply::Bulk(text) = item else { panic!("a command is an array of bulk strings") };
                *argument = text;
                count += 1;
            }
            match self.connections[connection].server {
                Server::Sentinel(sentinel) => self.name_primary(sentinel, &mut output),
                Server::Node(node) if self.nodes[node].is_handing_over => break,
                Server::Node(node) => {
                    let length = self.nodes[node].log.len();
                    let reply = self.execute(node, connection, &arguments[..count]);
                    self.log(|| {
                        let command = arguments[..count].join(&b" "[..]);
                        format!("node{node} connection {connection}: {} -> {reply:?}", command.escape_ascii())
                    });
                    write_reply(&mut output, reply);
                    let has_written = self.nodes[node].log.len() > length;
                    // Since 7.2 only a command that wrote something moves the offset.
                    if has_written || !self.setup.has_write_offsets {
                        self.connections[connection].write_offset = self.nodes[node].log.len();
                    }
                }
            }
            rest = &rest[length..];
        }
        self.connections[connection].input.splice(..0, rest.iter().copied());
        if !output.is_empty() {
            self.send(connection, End::Client, output);
        }
    }

    /// Executes one command and returns its reply.
    fn execute(&mut self, node: usize, connection: usize, arguments: &[&[u8]]) -> Answer {
        let now = self.now;
        let is_loading = now < self.nodes[node].loading_until;
        let is_asking = std::mem::take(&mut self.connections[connection].is_asking);
        match *arguments {
            [b"INFO", ..] => Ok(Output::Bulk(b"maxmemory:0\r\nmaxmemory_policy:noeviction\r\n".to_vec())),
            [b"ROLE"] => Ok(Output::Role(self.nodes[node].role)),
            _ if is_loading => {
                self.seen(Seen::Loading);
                Err("LOADING Redis is loading the dataset in memory")
            }
            [b"PING"] => Ok(Output::Simple("PONG")),
            [b"SCRIPT", b"LOAD", _] => {
                self.nodes[node].has_script = true;
                Ok(Output::Bulk(DIGEST.to_vec()))
            }
            [b"GET", key] => {
                self.redirect(node, &[key], is_asking)?;
                Ok(self.nodes[node].text(key, now).map_or(Output::Null, |text| Output::Bulk(text.to_vec())))
            }
            [b"EVALSHA", ..] if !self.nodes[node].has_script => {
                self.seen(Seen::NoScript);
                Err("NOSCRIPT No matching script.")
            }
            [command @ (b"EVALSHA" | b"EVAL"), _, count, ref rest @ ..] => {
                self.nodes[node].has_script |= command == b"EVAL";
                let (keys, arguments) = rest.split_at(number(count) as usize);
                self.redirect(node, keys, is_asking)?;
                self.count(node, keys, arguments).map(Output::Bulk)
            }
            [b"WAIT", replicas, timeout] => self.wait(node, connection, number(replicas), number(timeout)),
            _ => Err("ERR unknown command"),
        }
    }

    /// Executes our script.
    fn count(&mut self, node: usize, keys: &[&[u8]], arguments: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
        let (now, at) = (self.now, &self.nodes[node]);
        let expires = now + number(arguments[0]) as Time * MILLIS;
        let Setup { rewrites_receipts, has_floor, .. } = self.setup;
        let rules = Rules { rewrites_receipts, has_floor };
        let has_expired = keys.iter().any(|key| at.data.contains_key(*key) && at.value(key, now).is_none());
        let Outcome { reply, writes, kind } =
            script::call(|key| at.value(key, now).cloned(), keys, arguments, expires, rules);
        if !writes.is_empty() {
            self.may_write(node)?;
            self.write(node, writes);
        }
        match kind {
            Kind::First => {}
            Kind::Raised => self.seen(Seen::FloorRaised),
            Kind::Repeated => self.seen(Seen::ReceiptFound),
            Kind::Late => self.seen(Seen::ReceiptNewer),
            Kind::LimitReached => self.seen(Seen::LimitReached),
        }
        if has_expired {
            self.seen(Seen::ReceiptExpired);
        }
        reply
    }

    /// Returns the error with which a node of a cluster refuses these keys, or a replica without its primary any.
    fn redirect(&mut self, node: usize, keys: &[&[u8]], is_asking: bool) -> Result<(), &'static str> {
        let Node { role, link, migrating, importing, .. } = &self.nodes[node];
        if *role != Role::Primary && !link.is_up && !self.setup.serves_stale_data {
            self.seen(Seen::MasterDown);
            return Err("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.");
        }
        if !self.setup.is_cluster {
            return Ok(());
        }
        let missing = keys.iter().filter(|key| self.nodes[node].value(key, self.now).is_none()).count();
        let (importing, owner) = (*importing && is_asking, self.views[node].primary);
        if let Some(target) = *migrating
            && missing > 0
        {
            let is_partial = missing < keys.len() && !self.setup.is_old;
            self.seen(if is_partial { Seen::TryAgain } else { Seen::Ask });
            return Err(if is_partial {
                "TRYAGAIN Multiple keys request during rehashing of slot"
            } else {
                ASK[target]
            });
        }
        if importing && keys.len() > 1 && missing > 0 {
            return Err("TRYAGAIN Multiple keys request during rehashing of slot");
        }
        if self.now < self.nodes[node].writable_at {
            self.seen(Seen::ClusterDown);
            return Err("CLUSTERDOWN The cluster is down");
        }
        if owner != node && !importing {
            self.seen(Seen::Moved);
            return Err(MOVED[owner]);
        }
        Ok(())
    }

    /// Returns the error with which a node refuses the first write of a script.
    fn may_write(&mut self, node: usize) -> Result<(), &'static str> {
        if self.nodes[node].role != Role::Primary {
            self.seen(Seen::ReadOnly);
            return Err(if self.setup.is_old {
                "ERR Error running script (call to f_0): @user_script:4: -READONLY You can't write against a replica."
            } else {
                "READONLY You can't write against a read only replica."
            });
        }
        if self.nodes[node].good_replicas < self.setup.min_replicas {
            self.seen(Seen::NoReplicas);
            return Err("NOREPLICAS Not enough good replicas to write.");
        }
        Ok(())
    }

    /// Executes a transaction at a primary and streams it to its replicas.
    pub(super) fn write(&mut self, node: usize, writes: Vec<Write>) {
        let at = self.now;
        self.nodes[node].apply(Rc::new(Transaction { at, writes }));
        for replica in self.replicas(node) {
            self.stream(replica);
        }
    }

    fn replicas(&self, node: usize) -> Vec<usize> {
        let follows = |&at: &usize| self.nodes[at].role == Role::ReplicaOf(node) && self.nodes[at].link.is_up;
        (0..self.nodes.len()).filter(follows).collect()
    }

    /// `WAIT`: answers at once, or later by [`World::end_wait`].
    fn wait(&mut self, node: usize, connection: usize, replicas: i64, timeout: i64) -> Answer {
        if self.nodes[node].role != Role::Primary {
            return Err("ERR WAIT cannot be used with replica instances.");
        }
        let offset = self.connections[connection].write_offset;
        let acknowledged = self.acknowledged(node, offset);
        if acknowledged >= replicas as usize {
            return Ok(Output::Integer(acknowledged as i64));
        }
        let end = self.now + timeout as Time * MILLIS;
        self.connections[connection].waiting = Some((replicas as usize, offset, end));
        self.schedule(end, Event::WaitOver(connection));
        Ok(Output::Later)
    }

    fn acknowledged(&self, node: usize, offset: usize) -> usize {
        self.replicas(node).into_iter().filter(|&at| self.nodes[at].link.acknowledged >= offset).count()
    }

    /// Answers the `WAIT` of a connection if it is satisfied or over, and goes on with its next commands.
    pub(super) fn end_wait(&mut self, connection: usize) {
        let Server::Node(node) = self.connections[connection].server else { return };
        let Some((replicas, offset, end)) = self.connections[connection].waiting else { return };
        if self.nodes[node].process == Process::Paused {
            self.schedule(self.now + 10 * MILLIS, Event::WaitOver(connection));
            return;
        }
        let acknowledged = self.acknowledged(node, offset);
        if acknowledged < replicas && self.now < end {
            return;
        }
        if acknowledged < replicas {
            self.seen(Seen::AcksMissed);
        }
        self.connections[connection].waiting = None;
        let mut output = Vec::new();
        write_reply(&mut output, Ok(Output::Integer(acknowledged as i64)));
        self.send(connection, End::Client, output);
        self.run_commands(connection);
    }

    /// Sends the next transaction of its primary to a replica.
    fn stream(&mut self, replica: usize) {
        let arrival = self.now + self.rng.between(50, self.replica_slowness);
        let link = &mut self.nodes[replica].link;
        link.last = link.last.max(arrival);
        let (arrival, generation) = (link.last, link.generation);
        self.schedule(arrival, Event::Stream(replica, generation));
    }

    /// A transaction arrives at a replica, which applies and acknowledges it.
    pub(super) fn apply_stream(&mut self, replica: usize, generation: u64) {
        let Role::ReplicaOf(primary) = self.nodes[replica].role else { return };
        let node = &mut self.nodes[replica];
        if node.link.generation != generation || !node.link.is_up {
            return;
        }
        if node.process == Process::Paused || self.cuts[primary] >> replica & 1 == 1 {
            node.link.held += 1;
            return;
        }
        let at = node.log.len();
        let Some(transaction) = self.nodes[primary].log.get(at).cloned() else { return };
        self.nodes[replica].apply(transaction);
        let arrival = self.now + self.delay();
        self.schedule(arrival, Event::Acknowledge(replica, generation, at + 1));
        // A replica of a replica.
        self.replicas(replica).into_iter().for_each(|other| self.stream(other));
    }

    /// The acknowledgement of a replica arrives at its primary. One that is lost is followed by others: see
    /// [`World::every_second`].
    pub(super) fn acknowledge(&mut self, replica: usize, generation: u64, length: usize) {
        let Role::ReplicaOf(primary) = self.nodes[replica].role else { return };
        let is_lost = self.is_cut(replica, primary) || self.nodes[primary].process != Process::Running;
        let link = &mut self.nodes[replica].link;
        if link.generation != generation || is_lost {
            return;
        }
        link.acknowledged = link.acknowledged.max(length);
        link.acknowledged_at = self.now;
        let at_primary = |at: &usize| self.connections[*at].server == Server::Node(primary);
        let waiting: Vec<_> = (0..self.connections.len())
            .filter(at_primary)
            .filter(|&at| self.connections[at].waiting.is_some())
            .collect();
        waiting.into_iter().for_each(|connection| self.end_wait(connection));
    }

    /// What each node does once a second: replicas acknowledge, primaries count the replicas that did.
    pub(super) fn every_second(&mut self) {
        for replica in 0..self.nodes.len() {
            let Node { role: Role::ReplicaOf(primary), process: Process::Running, link, log, .. } =
                &self.nodes[replica]
            else {
                continue;
            };
            if link.is_up && self.is_reachable(replica, *primary) {
                let (generation, length) = (link.generation, log.len());
                self.acknowledge(replica, generation, length);
            }
        }
        for node in 0..self.nodes.len() {
            let is_good = |&at: &usize| self.now - self.nodes[at].link.acknowledged_at <= MAX_LAG;
            self.nodes[node].good_replicas = self.replicas(node).into_iter().filter(is_good).count();
        }
    }

    /// Streams what was held and can pass now.
    pub(super) fn release_replication(&mut self) {
        for replica in 0..self.nodes.len() {
            for _ in 0..std::mem::take(&mut self.nodes[replica].link.held) {
                self.stream(replica);
            }
        }
    }

    /// Makes a node a replica of `primary` (`REPLICAOF`). Sentinel cuts the clients of the node with the same command.
    pub(super) fn demote(&mut self, node: usize, primary: usize) {
        self.log(|| format!("node{node} follows node{primary}"));
        if self.nodes[node].role == Role::Primary {
            self.seen(Seen::Demoted);
            self.nodes[node].role = Role::ReplicaOf(primary);
            for connection in 0..self.connections.len() {
                if self.connections[connection].server != Server::Node(node) {
                    continue;
                }
                let is_blocked = self.connections[connection].waiting.take().is_some();
                if is_blocked {
                    self.seen(Seen::Unblocked);
                    let mut output = Vec::new();
                    write_reply(
                        &mut output,
                        Err("UNBLOCKED force unblock from blocking operation, instance state \
                                                  changed (master -> replica?)"),
                    );
                    self.send(connection, End::Client, output);
                }
                if is_blocked || !self.setup.is_cluster {
                    self.close(connection, End::Server);
                }
            }
        }
        self.nodes[node].role = Role::ReplicaOf(primary);
        self.break_link(node);
    }

    pub(super) fn promote(&mut self, node: usize) {
        self.seen(Seen::Promoted);
        self.log(|| format!("node{node} is promoted"));
        self.nodes[node].role = Role::Primary;
        self.nodes[node].good_replicas = 0;
        self.nodes[node].link.is_up = false;
        self.nodes[node].link.generation += 1;
    }

    /// Breaks the connection of a replica to its primary; transactions in flight are lost. It connects again.
    pub(super) fn break_link(&mut self, replica: usize) {
        let link = &mut self.nodes[replica].link;
        *link = Link { generation: link.generation + 1, acknowledged_at: 0, ..Link::default() };
        let generation = link.generation;
        let pause = self.rng.between(MILLIS, SECOND);
        self.schedule(self.now + pause, Event::Attach(replica, generation, None));
    }

    /// A replica requests the transactions that it lacks from its primary, or for a copy of all, which takes a while:
    /// `copied` is the length of the log when the copy began.
    pub(super) fn attach(&mut self, replica: usize, generation: u64, copied: Option<usize>) {
        let Node { role: Role::ReplicaOf(primary), process, link, .. } = &self.nodes[replica] else { return };
        let (primary, process) = (*primary, *process);
        if link.generation != generation || matches!(process, Process::Killed | Process::Off) {
            return;
        }
        let now = self.now;
        let can_serve = self.nodes[primary].process == Process::Running && now >= self.nodes[primary].loading_until;
        if !can_serve || process == Process::Paused || !self.is_reachable(replica, primary) {
            self.schedule(now + SECOND, Event::Attach(replica, generation, None));
            return;
        }
        let (source, own) = (&self.nodes[primary].log, &self.nodes[replica].log);
        let is_prefix =
            own.len() <= source.len() && own.last().is_none_or(|last| Rc::ptr_eq(last, &source[own.len() - 1]));
        match copied {
            None if !is_prefix => {
                let (length, end) = (source.len(), now + self.rng.between(10 * MILLIS, SECOND));
                self.schedule(end, Event::Attach(replica, generation, Some(length)));
                return;
            }
            Some(length) if length <= source.len() => {
                let copy = source[..length].to_vec();
                self.nodes[replica].restore(copy);
                self.seen(Seen::FullCopy);
            }
            Some(_) => return self.break_link(replica),
            None => self.seen(Seen::PartialCopy),
        }
        let missing = self.nodes[primary].log.len() - self.nodes[replica].log.len();
        self.nodes[replica].link.is_up = true;
        (0..missing).for_each(|_| self.stream(replica));
    }

    /// Ends a process, or the power of its machine. Without `always`, up to the last second is lost with the power.
    pub(super) fn stop(&mut self, node: usize, process: Process) {
        self.nodes[node].process = process;
        self.nodes[node].has_script = false;
        self.nodes[node].is_handing_over = false;
        for replica in 0..self.nodes.len() {
            if replica == node || self.nodes[replica].role == Role::ReplicaOf(node) {
                self.break_link(replica);
            }
        }
        for connection in 0..self.connections.len() {
            if self.connections[connection].server == Server::Node(node) {
                self.connections[connection].waiting = None;
                self.connections[connection].input.clear();
                match process {
                    Process::Killed => self.close(connection, End::Server),
                    _ => self.connections[connection].is_open[End::Server as usize] = false,
                }
            }
        }
        if process == Process::Off && self.setup.is_everysec {
            let synced = self.now.saturating_sub(self.rng.below(SECOND));
            let kept = self.nodes[node].log.iter().take_while(|transaction| transaction.at <= synced).count();
            if kept < self.nodes[node].log.len() {
                self.seen(Seen::Unsynced);
                let log = self.nodes[node].log[..kept].to_vec();
                self.nodes[node].restore(log);
            }
        }
    }

    /// Starts a process again, with what is on its disk and in its configuration file.
    pub(super) fn start(&mut self, node: usize) {
        if matches!(self.nodes[node].process, Process::Killed | Process::Off) {
            self.seen(Seen::Restarted);
            self.nodes[node].process = Process::Running;
            self.nodes[node].loading_until = self.now + self.rng.below(SECOND);
            self.nodes[node].good_replicas = 0;
            if self.setup.is_cluster {
                self.nodes[node].writable_at = self.now + 2 * SECOND;
            }
            self.break_link(node);
        }
    }
}

type Answer = Result<Output, &'static str>;

/// A reply.
#[derive(Debug)]
enum Output {
    Simple(&'static str),
    Bulk(Vec<u8>),
    Integer(i64),
    Null,
    Role(Role),
    /// The command blocks.
    Later,
}

fn write_reply(out: &mut Vec<u8>, reply: Answer) {
    match reply {
        Ok(Output::Simple(text)) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
        Ok(Output::Bulk(text)) => resp::write_argument(out, &text),
        Ok(Output::Integer(number)) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Ok(Output::Null) => out.extend_from_slice(b"$-1\r\n"),
        Ok(Output::Role(Role::Primary)) => out.extend_from_slice(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        Ok(Output::Role(Role::ReplicaOf(_))) => {
            out.extend_from_slice(b"*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n");
        }
        Ok(Output::Later) => {}
        Err(error) => out.extend_from_slice(format!("-{error}\r\n").as_bytes()),
    }
}

pub(super) fn number(text: &[u8]) -> i64 {
    resp::parse_integer(text).expect("a number")
}

/// The digest of the script; a client takes the one that it is given.
const DIGEST: [u8; 40] = [b'd'; 40];

/// `min-replicas-max-lag`.
const MAX_LAG: Time = 3 * SECOND;

const MOVED: [&str; 4] = ["MOVED 1 node0:6379", "MOVED 1 node1:6379", "MOVED 1 node2:6379", "MOVED 1 node3:6379"];

const ASK: [&str; 4] = ["ASK 1 node0:6379", "ASK 1 node1:6379", "ASK 1 node2:6379", "ASK 1 node3:6379"];
