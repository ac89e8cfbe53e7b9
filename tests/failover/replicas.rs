//! Replicas stop while each batch needs the acknowledgement of one.

use crate::audit::Doubt;
use crate::engine::Engine;
use crate::group::SentinelGroup;
use crate::on_engines;
use crate::visits::{PATIENT, assert_none_failed, visit};

on_engines! {
    one_replica_stopped: debian, redis_8_2, valkey_9_1;
    all_replicas_stopped: debian, redis_8_2, valkey_9_1;
}

/// With one of two replicas, visits are counted.
fn one_replica_stopped(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    let notch = group.settings().with("REDIS_ACKS", "1").with("STORE_TIMEOUT", PATIENT).start();
    let load = visit(&notch);
    for stopped in [1, 2] {
        load.wait_for_answers(100);
        group.nodes[stopped].suspend();
        load.wait_for_answers(100);
        group.nodes[stopped].resume();
    }
    let tally = load.stop();
    assert_none_failed(&tally);
    tally.audit(group.total(), Doubt::None);
}

/// Without both, no visit is answered with a number, on any connection: neither if the replicas continue, nor if the
/// primary is lost then, and with it what no replica has acknowledged.
fn all_replicas_stopped(engine: Engine) {
    let mut group = SentinelGroup::start(engine);
    let notch = group.settings().with("REDIS_ACKS", "1").with("STORE_TIMEOUT", "2s").start();
    let load = visit(&notch);
    load.wait_for_answers(100);
    for is_primary_lost in [false, true] {
        [1, 2].iter().for_each(|replica| group.nodes[*replica].suspend());
        // Visits that the second one has acknowledged are answered; later ones are not.
        load.wait_for_failures(20);
        let answered = load.answered();
        load.wait_for_failures(20);
        assert_eq!(load.answered(), answered, "a number without an acknowledgement");
        if is_primary_lost {
            group.nodes[0].kill();
        }
        [1, 2].iter().for_each(|replica| group.nodes[*replica].resume());
        if is_primary_lost {
            group.wait_for_replacement(0);
        }
        load.wait_for_answers(100);
    }
    group.nodes[0].restart();
    load.stop().audit(group.total(), Doubt::Possible);
}
