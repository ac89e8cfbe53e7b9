//! The primary is killed under load, or stopped for longer than its timeout and continued.

use crate::audit::{Doubt, Findings, Tally};
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::group::{KEY, SentinelGroup};
use crate::load::Load;
use crate::on_engines;
use crate::support::{Notch, Redis, Settings};
use crate::visits::{PATIENT, assert_none_failed, visit};

on_engines! {
    primary_killed_with_sentinel: debian, redis_8_2, valkey_9_1;
    primary_killed_with_a_sentinel: redis_8_2;
    primary_killed_in_a_cluster: debian, redis_8_2, valkey_9_1;
    primary_stopped_with_sentinel: debian, redis_8_2, valkey_9_1;
    primary_stopped_in_a_cluster: redis_8_2, valkey_9_1;
    increments_that_no_replica_has: redis_8_2;
}

fn primary_killed_with_sentinel(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    let mut tally = Tally::default();
    for acks in ["1", "0"] {
        let notch = group.settings().with("REDIS_ACKS", acks).with("STORE_TIMEOUT", PATIENT).start();
        let load = visit(&notch);
        load.wait_for_answers(200);
        let old = group.primary();
        group.nodes[old].kill();
        group.wait_for_replacement(old);
        load.wait_for_answers(200);
        group.nodes[old].restart();
        group.wait_until_complete();
        load.wait_for_answers(100);
        tally.merge(load.stop());
        assert_none_failed(&tally);
        audit(&tally, acks, group.total());
    }
}

/// Two of three Sentinels are enough for a failover. notch queries the others if one is gone.
fn primary_killed_with_a_sentinel(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    let notch = group.settings().with("REDIS_ACKS", "1").with("STORE_TIMEOUT", PATIENT).start();
    let load = visit(&notch);
    load.wait_for_answers(200);
    group.sentinels[0].kill();
    let old = group.primary();
    group.nodes[old].kill();
    group.wait_for_replacement(old);
    load.wait_for_answers(200);
    group.nodes[old].restart();
    let tally = load.stop();
    assert_none_failed(&tally);
    tally.audit(group.total(), Doubt::None);
}

fn primary_killed_in_a_cluster(engine: Engine) {
    let mut cluster = Cluster::start(engine);
    let mut tally = Tally::default();
    for acks in ["1", "0"] {
        let notch = cluster.settings().with("REDIS_ACKS", acks).with("STORE_TIMEOUT", PATIENT).start();
        let load = visit(&notch);
        load.wait_for_answers(200);
        let old = cluster.owner();
        cluster.nodes[old].kill();
        cluster.wait_for_replacement(old);
        // With REDIS_ACKS=1, visits wait until the new primary has a replica.
        if acks == "0" {
            load.wait_for_answers(200);
        }
        cluster.nodes[old].restart();
        load.wait_for_answers(200);
        tally.merge(load.stop());
        assert_none_failed(&tally);
        audit(&tally, acks, cluster.total());
    }
}

/// Checks all visits of one process: with acknowledgements all promises hold. Without them a promoted replica may lack
/// increments, and what remains is that the process gives no number twice; a batch in flight may count twice.
fn audit(tally: &Tally, acks: &str, total: i64) {
    let findings = tally.findings(total);
    println!("REDIS_ACKS={acks}: {findings:?}");
    match acks {
        "0" => assert!(Findings { surplus: 0, ..findings }.is_exact(), "{findings:#?}"),
        _ => tally.audit(total, Doubt::None),
    }
}

/// A stopped primary is replaced, continues, and accepts commands until it is made a replica.
fn primary_stopped_with_sentinel(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    for acks in ["1", "0"] {
        let old = group.wait_until_complete();
        let clients = Clients::start(&group.settings(), &group.nodes[old], acks);
        group.nodes[old].suspend();
        group.wait_for_replacement(old);
        clients.wait_until_left();
        group.nodes[old].resume();
        group.wait_until_complete();
        clients.audit(acks, || group.total());
        group.nodes[group.primary()].execute(&format!("DEL {KEY}"));
    }
}

fn primary_stopped_in_a_cluster(engine: Engine) {
    let mut cluster = Cluster::start(engine);
    for acks in ["1", "0"] {
        let old = cluster.owner();
        let clients = Clients::start(&cluster.settings(), &cluster.nodes[old], acks);
        cluster.nodes[old].suspend();
        cluster.wait_for_replacement(old);
        if acks == "0" {
            clients.wait_until_left();
        }
        cluster.nodes[old].resume();
        cluster.wait_until_complete();
        clients.audit(acks, || cluster.total());
        cluster.nodes[cluster.owner()].execute(&format!("DEL {KEY}"));
    }
}

/// Visits through a notch that finds the new primary, and through one that has the address of the old one: what the old
/// one counts after it was replaced is lost, so it must not be answered.
struct Clients {
    free: Load,
    bound: Load,
    /// Killed when they are dropped.
    _servers: [Notch; 2],
}

impl Clients {
    fn start(settings: &Settings, old: &Redis, acks: &str) -> Self {
        let free = settings.clone().with("REDIS_ACKS", acks).with("STORE_TIMEOUT", PATIENT).start();
        let bound = Settings::redis(old.port).without_tls().with("COUNTER_KEY", KEY).with("REDIS_ACKS", acks);
        let bound = bound.with("STORE_TIMEOUT", "1s").start();
        let clients = Self { free: visit(&free), bound: visit(&bound), _servers: [free, bound] };
        clients.free.wait_for_answers(200);
        clients.bound.wait_for_answers(200);
        clients
    }

    /// Waits until visits are counted by the new primary, and not by the old one.
    fn wait_until_left(&self) {
        self.free.wait_for_answers(200);
        self.bound.wait_for_failures(1);
    }

    /// Ends the visits and checks them. Without acknowledgements the old primary gives numbers that are lost, so only
    /// the visits through the first notch are sure to have numbers of their own.
    fn audit(self, acks: &str, total: impl Fn() -> i64) {
        self.free.wait_for_answers(100);
        let free = self.free.stop();
        assert_none_failed(&free);
        let mut all = free.clone();
        all.merge(self.bound.stop());
        let total = total();
        println!("REDIS_ACKS={acks}: {:?}", all.findings(total));
        match acks {
            "0" => audit(&free, acks, total),
            _ => all.audit(total, Doubt::Possible),
        }
    }
}

/// Without acknowledgements a promoted replica gives numbers again that it never had: the audit finds them. The process
/// that gave them does not, because its next increment raises the counter.
fn increments_that_no_replica_has(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    let settings = group.settings().with("STORE_TIMEOUT", PATIENT);
    for same_process in [true, false] {
        let mut notch = settings.start();
        group.nodes[group.primary()].execute(&format!("DEL {KEY}"));
        let load = visit(&notch);
        load.wait_for_answers(100);
        let old = group.primary();
        let replicas: Vec<_> = (0..3).filter(|node| *node != old).collect();
        replicas.iter().for_each(|replica| group.nodes[*replica].suspend());
        // Without this, replicas would find what was sent to them in the buffers of the kernel.
        group.nodes[old].execute("CLIENT KILL TYPE replica");
        load.wait_for_answers(100);
        let mut tally = load.stop();
        if !same_process {
            notch = notch.stop().start();
        }
        group.nodes[old].kill();
        replicas.iter().for_each(|replica| group.nodes[*replica].resume());
        group.wait_for_replacement(old);
        let load = visit(&notch);
        load.wait_for_answers(200);
        tally.merge(load.stop());
        group.nodes[old].restart();
        let findings = tally.findings(group.total());
        println!("the same process: {same_process}: {findings:?}");
        assert_eq!(findings.twice == 0, same_process, "{findings:#?}");
        assert_eq!(findings.is_exact(), same_process, "{findings:#?}");
    }
}
