//! Changes that an operator makes under load: planned failovers, a slot that moves, scripts that are flushed. No visit
//! fails, with or without acknowledgements.

use std::thread;
use std::time::Duration;

use crate::audit::{Doubt, Tally};
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::group::{KEY, SentinelGroup};
use crate::load::Load;
use crate::on_engines;
use crate::support::{Redis, Settings, wait_until};
use crate::visits::{PATIENT, assert_none_failed, visit};

on_engines! {
    planned_failover: debian, redis_8_2, valkey_9_1;
    planned_failover_by_sentinel: valkey_9_1;
    planned_failover_in_a_cluster: debian, redis_8_2, valkey_9_1;
    slot_moved_there_and_back: debian, redis_8_2, valkey_9_1;
    slot_moved_at_once: valkey_9_1;
    scripts_flushed: redis_8_2, valkey_9_1;
}

/// Runs `change` so many times under load. No visit may fail meanwhile.
fn under_load(settings: &Settings, acks: &str, times: usize, mut change: impl FnMut(&Load)) -> Tally {
    let notch = settings.clone().with("REDIS_ACKS", acks).with("STORE_TIMEOUT", PATIENT).start();
    let load = visit(&notch);
    for _ in 0..times {
        load.wait_for_answers(100);
        change(&load);
    }
    load.wait_for_answers(100);
    let tally = load.stop();
    assert_none_failed(&tally);
    tally
}

/// `FAILOVER` on the primary waits until the replica has everything. Sentinels are not notified: for them the primary
/// is missing, and they choose the replica with the best priority, so the operator sets that first.
fn planned_failover(engine: Engine) {
    let group = SentinelGroup::start(engine);
    let mut tally = Tally::default();
    for acks in ["0", "1"] {
        tally.merge(under_load(&group.settings(), acks, 2, |_| {
            let old = group.wait_until_complete();
            let new = (old + 1) % 3;
            let to = &group.nodes[new];
            to.execute("CONFIG SET replica-priority 1");
            // The Sentinels read the priority with the next INFO.
            wait_until("the Sentinels have the priority", || group.has_priority(new, 1).then_some(()));
            group.nodes[old].execute(&format!("FAILOVER TO {} {}", to.host(), to.port));
            assert_eq!(group.wait_for_replacement(old), new);
            group.wait_until_complete();
            to.execute("CONFIG SET replica-priority 100");
        }));
        tally.audit(group.total(), Doubt::None);
    }
}

/// Valkey's Sentinels can let the primary do the same.
fn planned_failover_by_sentinel(engine: Engine) {
    let group = SentinelGroup::start(engine);
    let tally = under_load(&group.settings(), "0", 2, |_| {
        let old = group.wait_until_complete();
        // A Sentinel refuses as long as its last INFO of a replica is older than that it follows the new primary.
        let command = "SENTINEL FAILOVER main COORDINATED";
        wait_until("the Sentinel agrees", || (group.sentinels[1].query(command) == "OK").then_some(()));
        group.wait_for_replacement(old);
        group.wait_until_complete();
    });
    tally.audit(group.total(), Doubt::None);
}

fn planned_failover_in_a_cluster(engine: Engine) {
    let cluster = Cluster::start(engine);
    let mut tally = Tally::default();
    for acks in ["0", "1"] {
        // There and back again, once each: a replica of Redis that won an election takes its next one for won too, for
        // four times `cluster-node-timeout`.
        tally.merge(under_load(&cluster.settings(), acks, 1, |_| {
            let old = cluster.owner();
            cluster.nodes[cluster.replica_of(old)].execute("CLUSTER FAILOVER");
            cluster.wait_for_replacement(old);
            cluster.wait_until_complete();
        }));
        tally.audit(cluster.total(), Doubt::None);
    }
}

/// The slot moves key by key, as `redis-cli --cluster reshard` does it, and each state lasts for some time.
fn slot_moved_there_and_back(engine: Engine) {
    let cluster = Cluster::start(engine);
    let from = cluster.owner();
    let to = cluster.primaries().into_iter().find(|node| *node != from).expect("three primaries");
    let mut tally = Tally::default();
    for acks in ["0", "1"] {
        let (mut from, mut to) = (from, to);
        tally.merge(under_load(&cluster.settings(), acks, 2, |load| {
            cluster.move_slot(to, |source, slot, target| move_keys(source, slot, target, load));
            (from, to) = (to, from);
        }));
        tally.audit(cluster.total(), Doubt::None);
    }
}

fn move_keys(source: &Redis, slot: &str, target: &Redis, load: &Load) {
    // All keys are there still: visits are counted.
    load.wait_for_answers(50);
    let migrate = |keys: &[&str]| {
        let (host, port) = (target.host(), target.port);
        source.execute(&format!("MIGRATE {host} {port} \"\" 0 5000 KEYS {}", keys.join(" ")));
    };
    let keys = source.query(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
    let receipts: Vec<_> = keys.lines().filter(|key| *key != KEY).collect();
    assert!(!receipts.is_empty(), "{keys:?}");
    // A receipt without its counter, the counter without receipts, and the rest.
    for keys in [&receipts[..1], &[KEY]] {
        migrate(keys);
        thread::sleep(HALF_MOVED);
    }
    loop {
        let keys = source.query(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        let keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            break;
        }
        migrate(&keys);
    }
    thread::sleep(HALF_MOVED);
}

/// Valkey 9 moves whole slots with a command of its own.
fn slot_moved_at_once(engine: Engine) {
    let cluster = Cluster::start(engine);
    let from = cluster.owner();
    let to = cluster.primaries().into_iter().find(|node| *node != from).expect("three primaries");
    let (mut from, mut to) = (from, to);
    let tally = under_load(&cluster.settings(), "1", 2, |_| {
        let slot = cluster.nodes[from].query(&format!("CLUSTER KEYSLOT {KEY}"));
        let id = cluster.nodes[to].query("CLUSTER MYID");
        cluster.nodes[from].execute(&format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {id}"));
        assert_eq!(cluster.wait_for_replacement(from), to);
        (from, to) = (to, from);
    });
    tally.audit(cluster.total(), Doubt::None);
}

/// Scripts are gone from a node after a restart, a promotion or `SCRIPT FLUSH`.
fn scripts_flushed(engine: Engine) {
    let group = SentinelGroup::start(engine);
    let cluster = Cluster::start(engine);
    for acks in ["0", "1"] {
        let flush = |node: &Redis, load: &Load| {
            for _ in 0..10 {
                node.execute("SCRIPT FLUSH");
                load.wait_for_answers(10);
            }
        };
        let tally = under_load(&group.settings(), acks, 2, |load| flush(&group.nodes[0], load));
        tally.audit(group.total(), Doubt::None);
        group.nodes[0].execute(&format!("DEL {KEY}"));
        let owner = cluster.owner();
        let tally = under_load(&cluster.settings(), acks, 2, |load| flush(&cluster.nodes[owner], load));
        tally.audit(cluster.total(), Doubt::None);
        cluster.nodes[owner].execute(&format!("DEL {KEY}"));
    }
}

/// How long keys of the slot are in two places.
const HALF_MOVED: Duration = Duration::from_millis(500);
