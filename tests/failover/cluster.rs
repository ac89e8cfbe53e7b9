//! A cluster of three primaries with a replica each.

use std::process::{Command, Stdio};

use crate::engine::Engine;
use crate::group::KEY;
use crate::support::{Recipe, Redis, SECOND_PORT, Settings, wait_until};

/// `cluster-node-timeout`: how long a node is silent before it fails over.
const NODE_TIMEOUT_MILLISECONDS: u32 = 2000;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) fn start(engine: Engine) -> Self {
        Self::start_each(vec![Self::node(engine); 6])
    }

    /// Returns how to start one of the nodes.
    pub(crate) fn node(engine: Engine) -> Recipe {
        let timeout = NODE_TIMEOUT_MILLISECONDS.to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-port", SECOND_PORT, "--cluster-node-timeout", &timeout];
        engine.node().with(&options)
    }

    /// Starts six nodes by their recipes.
    pub(crate) fn start_each(recipes: Vec<Recipe>) -> Self {
        let cluster = Self { nodes: recipes.into_iter().map(Redis::of).collect() };
        let create = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(cluster.nodes.iter().map(Redis::address))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli is missing (Debian: apt-get install redis-tools)");
        assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stdout));
        cluster.wait_until_complete();
        cluster
    }

    /// Settings with all nodes as seeds.
    pub(crate) fn settings(&self) -> Settings {
        let seeds: Vec<_> = self.nodes.iter().map(Redis::address).collect();
        let url = format!("redis+cluster://{}", seeds.join(","));
        Settings::ledger().with("REDIS_URL", &url).with("COUNTER_KEY", KEY).without_tls()
    }

    /// Waits until all running nodes agree which one has the slot of the counter, and returns its place in `nodes`.
    pub(crate) fn owner(&self) -> usize {
        wait_until("the nodes agree on the owner of the slot", || self.try_owner())
    }

    /// Waits until another node than `old` has the slot, and all running nodes agree.
    pub(crate) fn wait_for_replacement(&self, old: usize) -> usize {
        wait_until("another node has the slot", || self.try_owner().filter(|new| *new != old))
    }

    /// Waits until another node than `old` has the slot, and all but `old` agree.
    pub(crate) fn wait_for_promotion(&self, old: usize) -> usize {
        let others = (0..self.nodes.len()).filter(|node| *node != old);
        wait_until("another node has the slot", || self.owner_by(others.clone()).filter(|new| *new != old))
    }

    /// Gives the slot of the counter to a primary, `move_keys` from the owner to it in the meantime.
    pub(crate) fn move_slot(&self, new: usize, move_keys: impl FnOnce(&Redis, &str, &Redis)) {
        let old = self.owner();
        if old == new {
            return;
        }
        let [source, target] = [&self.nodes[old], &self.nodes[new]];
        let [source_id, target_id] = [source, target].map(|node| node.query("CLUSTER MYID"));
        let slot = source.query(&format!("CLUSTER KEYSLOT {KEY}"));
        target.execute(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"));
        source.execute(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"));
        move_keys(source, &slot, target);
        // The target first: it gets a later epoch, by which its word counts more than that of the others.
        let others = self.primaries().into_iter().filter(|node| ![old, new].contains(node));
        for node in [new, old].into_iter().chain(others) {
            self.nodes[node].execute(&format!("CLUSTER SETSLOT {slot} NODE {target_id}"));
        }
        wait_until("the nodes agree on the new owner", || (self.try_owner() == Some(new)).then_some(()));
    }

    /// Returns the places of all primaries in `nodes`.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary = |node: &usize| self.nodes[*node].query("ROLE").starts_with("master\n");
        (0..self.nodes.len()).filter(is_primary).collect()
    }

    /// Returns a replica of a primary.
    pub(crate) fn replica_of(&self, primary: usize) -> usize {
        let primary = &self.nodes[primary];
        let follows = |node: &Redis| {
            let role = node.try_query("ROLE").unwrap_or_default();
            let lines: Vec<_> = role.lines().collect();
            lines.starts_with(&["slave", primary.host(), &primary.port.to_string(), "connected"])
        };
        wait_until("the primary has a replica", || self.nodes.iter().position(follows))
    }

    /// Waits until all six nodes run, all slots are served by three primaries with a replica each, and all nodes
    /// agree on that: a node refuses to vote for a replica that is a primary in its view.
    pub(crate) fn wait_until_complete(&self) {
        wait_until("the cluster is complete", || {
            let ok = |node: &Redis| {
                let info = node.try_query("CLUSTER INFO").unwrap_or_default();
                let state = ["cluster_state:ok", "cluster_known_nodes:6", "cluster_size:3", "cluster_slots_ok:16384"];
                let role = node.try_query("ROLE").unwrap_or_default();
                let lines: Vec<_> = role.lines().collect();
                let replica = lines.first() == Some(&"slave");
                state.iter().all(|line| info.contains(line)) && (!replica || lines.get(3) == Some(&"connected"))
            };
            let mut roles: Vec<_> = self.nodes.iter().map(roles).collect();
            roles.dedup();
            let [Some(roles)] = &roles[..] else { return None };
            let replicas = roles.iter().filter(|[_, role, _]| role == "slave").count();
            (replicas == 3 && self.nodes.iter().all(ok)).then_some(())
        });
    }

    /// Returns the number of counted visits, after all nodes agree.
    pub(crate) fn total(&self) -> i64 {
        self.wait_until_complete();
        let total = self.nodes[self.owner()].query(&format!("GET {KEY}"));
        total.parse().unwrap_or_else(|_| panic!("no total: {total}"))
    }

    fn try_owner(&self) -> Option<usize> {
        self.owner_by(0..self.nodes.len())
    }

    /// Returns the owner of the slot, if these nodes agree on one.
    fn owner_by(&self, nodes: impl Iterator<Item = usize>) -> Option<usize> {
        let replies = nodes.filter_map(|place| {
            let reply = self.nodes[place].try_query(&format!("GET {KEY}")).ok()?;
            let elsewhere = || self.nodes.iter().position(|other| reply.ends_with(&format!(" {}", other.address())));
            Some(if reply.starts_with('-') { elsewhere() } else { Some(place) })
        });
        let mut owners: Vec<_> = replies.collect();
        owners.dedup();
        match owners[..] {
            [owner] => owner,
            _ => None,
        }
    }
}

/// Returns id, role and primary of each node, in order, in the view of one of them.
fn roles(node: &Redis) -> Option<Vec<[String; 3]>> {
    let nodes = node.try_query("CLUSTER NODES").ok()?;
    let role = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let role = words.get(2)?.trim_start_matches("myself,");
        ["master", "slave"].contains(&role).then(|| [words[0].to_owned(), role.to_owned(), words[3].to_owned()])
    };
    let mut roles = nodes.lines().map(role).collect::<Option<Vec<_>>>()?;
    roles.sort();
    Some(roles)
}
