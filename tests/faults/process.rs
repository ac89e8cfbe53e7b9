//! notch is killed under load, again and again, with both stores.

use super::audit::{Doubt, Tally};
use super::crowd::Crowd;
use crate::support::{NEVER, Notch, Redis, Settings};

/// Runs notch several times, each ended by `kill -9` under load. Returns the outcomes of all visits, and the settings
/// for the next start.
fn kill_repeatedly(settings: Settings) -> (Tally, Notch) {
    // Another process may slow the disk down: then visits wait, and none gets into doubt for that reason.
    let mut settings = settings.with("STORE_TIMEOUT", NEVER);
    let mut tally = Tally::default();
    for _ in 0..5 {
        let notch = settings.start();
        let crowd = Crowd::at(&notch, 6);
        crowd.until_answered(150);
        settings = notch.kill();
        let outcomes = crowd.leave();
        assert!(outcomes.cut > 0, "no visit was in flight when notch was killed");
        tally.merge(outcomes);
    }
    (tally, settings.start())
}

#[test]
fn killed_again_and_again_over_redis() {
    let redis = Redis::durable();
    let (tally, notch) = kill_repeatedly(Settings::redis(redis.port));
    tally.audit(notch.total(), Doubt::None);
}

#[test]
fn killed_again_and_again_over_the_ledger() {
    for fsync in ["always", "everysec", "never"] {
        let (tally, notch) = kill_repeatedly(Settings::ledger().with("FSYNC", fsync));
        tally.audit(notch.total(), Doubt::None);
    }
}
