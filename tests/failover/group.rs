//! A primary, two replicas and three Sentinels.

use std::collections::HashMap;

use crate::engine::Engine;
use crate::support::{Recipe, Redis, Settings, wait_until};

/// How long a primary is silent before the Sentinels replace it. Much shorter, a busy machine would be a fault too.
const DOWN_AFTER_MILLISECONDS: u32 = 3000;

/// The key of the counter: its braces contain what a cluster computes the slot from.
pub(crate) const KEY: &str = "{visits}";

/// The name of the primary in the Sentinels.
const NAME: &str = "main";

pub(crate) struct SentinelGroup {
    /// Data nodes: the first one is the primary at the start.
    pub(crate) nodes: Vec<Redis>,
    pub(crate) sentinels: Vec<Redis>,
}

impl SentinelGroup {
    pub(crate) fn start(engine: Engine) -> Self {
        let (node, sentinel) = (engine.node(), engine.recipe());
        Self::start_each([node.clone(), node.clone(), node], [sentinel.clone(), sentinel.clone(), sentinel])
    }

    /// Starts the data nodes and the Sentinels by their recipes.
    pub(crate) fn start_each([primary, one, other]: [Recipe; 3], sentinels: [Recipe; 3]) -> Self {
        let primary = Redis::of(primary);
        let (host, port) = (primary.host().to_owned(), primary.port.to_string());
        let replica = |recipe: Recipe| Redis::of(recipe.with(&["--replicaof", &host, &port]));
        let file = format!(
            "sentinel monitor {NAME} {host} {port} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MILLISECONDS}\n\
             sentinel failover-timeout {NAME} 5000\n\
             sentinel parallel-syncs {NAME} 2\n"
        );
        let sentinel = |recipe: Recipe| {
            let sentinel = Redis::of(Recipe { file: Some(file.clone()), ..recipe }.with(&["--sentinel"]));
            // Sentinels compare the offsets of replicas as of their last INFO, which is up to 10 s old by default. In
            // production a `down-after` of 5 s or more is the remedy, here a shorter period is. That of PING remains:
            // a replica without a reply for five of them is not eligible, and this machine may be busy for a second.
            sentinel.execute("SENTINEL DEBUG info-period 200 ask-period 200 publish-period 200");
            sentinel
        };
        let nodes = vec![primary, replica(one), replica(other)];
        let group = Self { nodes, sentinels: sentinels.into_iter().map(sentinel).collect() };
        group.wait_until_complete();
        group
    }

    /// Settings that find the primary through the Sentinels.
    pub(crate) fn settings(&self) -> Settings {
        Self::settings_of(&self.sentinels)
    }

    /// Settings that find the primary through these Sentinels.
    pub(crate) fn settings_of(sentinels: &[Redis]) -> Settings {
        let sentinels: Vec<_> = sentinels.iter().map(Redis::address).collect();
        let url = format!("redis+sentinel://{}/{NAME}", sentinels.join(","));
        Settings::ledger().with("REDIS_URL", &url).with("COUNTER_KEY", KEY).without_tls()
    }

    /// Waits until a majority of the Sentinels agrees on a primary, and returns its place in `nodes`.
    pub(crate) fn primary(&self) -> usize {
        wait_until("the Sentinels agree on a primary", || self.try_primary())
    }

    /// Waits until a majority of the Sentinels agrees on another primary than `old`.
    pub(crate) fn wait_for_promotion(&self, old: usize) -> usize {
        wait_until("the Sentinels agree on another primary", || self.try_primary().filter(|new| *new != old))
    }

    /// Waits until another node than `old` is the primary, and the third one follows it.
    pub(crate) fn wait_for_replacement(&self, old: usize) -> usize {
        wait_until("another primary is followed by the third node", || {
            let new = self.try_primary().filter(|new| *new != old)?;
            let third = 3 - old - new;
            self.follows(third, new).then_some(new)
        })
    }

    /// Waits until the primary has two replicas, and each Sentinel has found all nodes and the other Sentinels.
    pub(crate) fn wait_until_complete(&self) -> usize {
        wait_until("the primary has two replicas", || {
            let primary = self.try_primary()?;
            let replicas = (0..3).filter(|node| *node != primary).all(|node| self.follows(node, primary));
            let known = |sentinel: &Redis| {
                let facts = facts(sentinel);
                let has = |name: &str, value: &str| facts.get(name).is_some_and(|other| other == value);
                let is_named =
                    has("ip", self.nodes[primary].host()) && has("port", &self.nodes[primary].port.to_string());
                is_named && has("flags", "master") && has("num-slaves", "2") && has("num-other-sentinels", "2")
            };
            let mut sentinels = self.sentinels.iter().filter(|sentinel| sentinel.is_running());
            (replicas && sentinels.all(known)).then_some(primary)
        })
    }

    /// Returns whether all Sentinels have this priority of a replica.
    pub(crate) fn has_priority(&self, node: usize, priority: u32) -> bool {
        let port = format!("\nport\n{}\n", self.nodes[node].port);
        self.sentinels.iter().all(|sentinel| {
            let replicas = sentinel.query(&format!("SENTINEL REPLICAS {NAME}"));
            let (_, facts) = replicas.split_once(&port).unwrap_or_default();
            let (_, value) = facts.split_once("\nslave-priority\n").unwrap_or_default();
            value.lines().next() == Some(&priority.to_string())
        })
    }

    /// Returns the number of counted visits, after all nodes have the same.
    pub(crate) fn total(&self) -> i64 {
        let primary = self.wait_until_complete();
        let total = self.nodes[primary].query(&format!("GET {KEY}"));
        total.parse().unwrap_or_else(|_| panic!("no total: {total}"))
    }

    fn try_primary(&self) -> Option<usize> {
        let named = |sentinel: &Redis| {
            let address = sentinel.try_query(&format!("SENTINEL get-master-addr-by-name {NAME}")).ok()?;
            self.nodes.iter().position(|node| address == format!("{}\n{}", node.host(), node.port))
        };
        let named: Vec<_> = self.sentinels.iter().filter_map(named).collect();
        let majority = |node: &usize| named.iter().filter(|other| *other == node).count() >= 2;
        let primary = *named.iter().find(|node| majority(node))?;
        let role = self.nodes[primary].try_query("ROLE").ok()?;
        role.starts_with("master\n").then_some(primary)
    }

    /// Returns whether a node is an up to date replica of another one.
    fn follows(&self, node: usize, primary: usize) -> bool {
        let primary = &self.nodes[primary];
        let role = self.nodes[node].try_query("ROLE").unwrap_or_default();
        let lines: Vec<_> = role.lines().collect();
        lines.starts_with(&["slave", primary.host(), &primary.port.to_string(), "connected"])
    }
}

/// Returns the fields of a Sentinel about the primary.
fn facts(sentinel: &Redis) -> HashMap<String, String> {
    let reply = sentinel.try_query(&format!("SENTINEL MASTER {NAME}")).unwrap_or_default();
    let words: Vec<_> = reply.split('\n').map(String::from).collect();
    words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}
