//! The network is cut into two sides with a client on each: the left one has the primary and a Sentinel that goes on to
//! name it, the right one the majority of the Sentinels.

use std::ops::Range;

use crate::audit::{Findings, Tally};
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::group::SentinelGroup;
use crate::load::Load;
use crate::network::{Network, Side};
use crate::on_engines;
use crate::support::Notch;
use crate::visits::visit;

on_engines! { isolated
    primary_alone: redis_8_2, valkey_9_1;
    primary_alone_without_acknowledgements: redis_8_2;
    primary_with_a_replica: redis_8_2, valkey_9_1;
    primary_with_a_replica_and_all_acknowledgements: redis_8_2, valkey_9_1;
    owner_alone_in_a_cluster: redis_8_2, valkey_9_1;
    owner_alone_in_a_cluster_without_acknowledgements: redis_8_2;
}

/// The left side is cut off, the Sentinels promote a replica on the right side, and both sides are joined again.
struct Partition {
    group: SentinelGroup,
    network: Network,
    /// One on each side, left and right; killed when they are dropped.
    servers: [Notch; 2],
    /// Visits through each of them.
    loads: [Load; 2],
    old: usize,
}

impl Partition {
    /// Starts the primary, a Sentinel and perhaps a replica on the left side, the others on the right side, and visits
    /// both. Each notch has the addresses of all Sentinels.
    fn of(engine: Engine, replica: Side, acks: &str) -> Self {
        Self::start(engine, replica, acks, [0..3, 0..3])
    }

    /// Does the same with the addresses of some Sentinels, for the left notch and the right one.
    fn start(engine: Engine, replica: Side, acks: &str, sentinels_of: [Range<usize>; 2]) -> Self {
        let network = Network::new();
        let node = |side: Side| side.recipe(engine.node());
        let nodes = [node(Side::Left), node(replica), node(Side::Right)];
        let sentinels = [Side::Left, Side::Right, Side::Right].map(|side| side.recipe(engine.recipe()));
        let group = SentinelGroup::start_each(nodes, sentinels);
        let mut sides = [Side::Left, Side::Right].into_iter();
        let servers = sentinels_of.map(|sentinels| {
            let settings = SentinelGroup::settings_of(&group.sentinels[sentinels]);
            let settings = settings.with("REDIS_ACKS", acks).with("STORE_TIMEOUT", "2s");
            sides.next().expect("two sides").settings(settings).start()
        });
        let loads = servers.each_ref().map(visit);
        loads.iter().for_each(|load| load.wait_for_answers(100));
        let old = group.primary();
        Self { group, network, servers, loads, old }
    }

    fn cut(&self) {
        self.network.cut();
        self.group.wait_for_promotion(self.old);
    }

    /// Joins both sides, and returns the findings about all visits.
    fn join(self) -> Findings {
        let loads = self.loads.into();
        Self::join_with(&self.group, &self.network, loads, Tally::default())
    }

    /// Does the same after the clients of the left side have left, and its notch has been killed.
    fn join_without_left(self) -> Findings {
        let ([left, right], [server, _other]) = (self.loads, self.servers);
        let tally = left.stop();
        server.kill();
        Self::join_with(&self.group, &self.network, vec![right], tally)
    }

    fn join_with(group: &SentinelGroup, network: &Network, loads: Vec<Load>, mut tally: Tally) -> Findings {
        network.join();
        group.wait_until_complete();
        loads.iter().for_each(|load| load.wait_for_answers(100));
        loads.into_iter().for_each(|load| tally.merge(load.stop()));
        let findings = tally.findings(group.total());
        println!("{findings:?}");
        findings
    }
}

/// No replica acknowledges what the cut off primary counts, so its clients get no number.
fn primary_alone(engine: Engine) {
    let partition = Partition::of(engine, Side::Right, "1");
    let [left, right] = &partition.loads;
    partition.cut();
    left.wait_for_failures(20);
    let answered = left.answered();
    right.wait_for_answers(200);
    left.wait_for_failures(20);
    assert_eq!(left.answered(), answered, "a number without an acknowledgement");
    let findings = partition.join();
    assert!(findings.is_exact(), "{findings:#?}");
}

/// Without acknowledgements both sides count on, and give the same numbers.
fn primary_alone_without_acknowledgements(engine: Engine) {
    let partition = Partition::of(engine, Side::Right, "0");
    partition.cut();
    partition.loads.iter().for_each(|load| load.wait_for_answers(100));
    let findings = partition.join();
    assert!(findings.twice > 0 && findings.lost > 0, "both sides counted: {findings:#?}");
}

/// The replica on the side of the old primary acknowledges what it counts, and when the sides are joined both copy the
/// new primary, which has none of that.
///
/// A process that has counted at the old primary raises the counter to its floor. So the notch of the left side is
/// killed before, and that of the right side has no Sentinel that may still name the old primary.
fn primary_with_a_replica(engine: Engine) {
    let partition = Partition::start(engine, Side::Left, "1", [0..1, 1..3]);
    let [left, right] = &partition.loads;
    partition.cut();
    left.wait_for_answers(500);
    // The new primary has no replica yet.
    right.wait_for_failures(20);
    let answered = right.answered();
    right.wait_for_failures(20);
    assert_eq!(right.answered(), answered, "a number without an acknowledgement");
    left.wait_for_answers(500);
    let findings = partition.join_without_left();
    assert!(findings.twice > 0 && findings.lost > 0, "the left side counted: {findings:#?}");
}

/// With the acknowledgements of all replicas, neither side of the cut counts.
fn primary_with_a_replica_and_all_acknowledgements(engine: Engine) {
    let partition = Partition::of(engine, Side::Left, "2");
    partition.cut();
    for load in &partition.loads {
        load.wait_for_failures(20);
        let answered = load.answered();
        load.wait_for_failures(20);
        assert_eq!(load.answered(), answered, "a number without all acknowledgements");
    }
    let findings = partition.join();
    assert!(findings.is_exact(), "{findings:#?}");
}

/// A node of a cluster stops when it has not seen the majority for `cluster-node-timeout`. Its replica is promoted, and
/// has no replica until the sides are joined, so neither side counts with an acknowledgement.
fn owner_alone_in_a_cluster(engine: Engine) {
    let findings = cut_owner_off(engine, "1", |[left, right]| {
        for load in [left, right] {
            load.wait_for_failures(20);
            let answered = load.answered();
            load.wait_for_failures(20);
            assert_eq!(load.answered(), answered, "a number without an acknowledgement");
        }
    });
    assert!(findings.is_exact(), "{findings:#?}");
}

/// Until it stops, it counts, and the other side gives the same numbers.
fn owner_alone_in_a_cluster_without_acknowledgements(engine: Engine) {
    let findings = cut_owner_off(engine, "0", |[left, right]| {
        left.wait_for_failures(20);
        right.wait_for_answers(100);
    });
    assert!(findings.twice > 0 && findings.lost > 0, "both sides counted: {findings:#?}");
}

/// Cuts the owner of the slot off from the other nodes, with a client on each side.
fn cut_owner_off(engine: Engine, acks: &str, meanwhile: impl Fn([&Load; 2])) -> Findings {
    let network = Network::new();
    let mut recipes = vec![Side::Right.recipe(Cluster::node(engine)); 6];
    // redis-cli makes one node of each address a primary, and its replica one of another address.
    recipes[0] = Side::Left.recipe(Cluster::node(engine));
    let cluster = Cluster::start_each(recipes);
    cluster.move_slot(0, |_, _, _| {});
    let settings = cluster.settings().with("REDIS_ACKS", acks).with("STORE_TIMEOUT", "2s");
    let servers = [Side::Left, Side::Right].map(|side| side.settings(settings.clone()).start());
    let loads = servers.each_ref().map(visit);
    loads.iter().for_each(|load| load.wait_for_answers(100));
    network.cut();
    // All nodes but the one that is cut off agree.
    cluster.wait_for_promotion(0);
    meanwhile(loads.each_ref());
    network.join();
    cluster.wait_until_complete();
    let mut tally = Tally::default();
    for load in loads {
        load.wait_for_answers(100);
        tally.merge(load.stop());
    }
    let findings = tally.findings(cluster.total());
    println!("{findings:?}");
    findings
}
