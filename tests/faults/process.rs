//! notch is killed under load repeatedly, with both stores.

use super::audit::{Doubt, Tally};
use super::load::Load;
use crate::support::{NEVER, Notch, Redis, Settings};

/// Runs notch several times, each ended by `kill -9` under load. Returns the outcomes of all visits, and the settings
/// for the next start.
fn kill_repeatedly(settings: Settings) -> (Tally, Notch) {
    // Other processes may slow the disk down: visits then wait, and none is in doubt for that reason.
    let mut settings = settings.with("STORE_TIMEOUT", NEVER);
    let mut tally = Tally::default();
    for _ in 0..5 {
        let notch = settings.start();
        let load = Load::start(&notch, 6);
        load.wait_for_answers(150);
        settings = notch.kill();
        let outcomes = load.stop();
        assert!(outcomes.cut > 0, "no visit was in flight when notch was killed");
        tally.merge(outcomes);
    }
    (tally, settings.start())
}

#[test]
fn notch_is_killed_repeatedly_with_redis() {
    let redis = Redis::durable();
    let (tally, notch) = kill_repeatedly(Settings::redis(redis.port));
    tally.audit(notch.total(), Doubt::None);
}

#[test]
fn notch_is_killed_repeatedly_with_the_ledger() {
    for fsync in ["always", "everysec", "never"] {
        let (tally, notch) = kill_repeatedly(Settings::ledger().with("FSYNC", fsync));
        tally.audit(notch.total(), Doubt::None);
    }
}
