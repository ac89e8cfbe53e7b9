//! Jumps of the clock: forward, back, and to dates outside the calendar.
//!
//! libfaketime changes the time of day that notch reads. The monotonic clock, which notch uses for deadlines, is not
//! changed, because a kernel never lets it jump.

use std::fs;

use super::audit::{Doubt, Tally};
use crate::support::{Redis, Settings, wait_until};

/// Path of the library on Debian, for each architecture.
const LIBRARY: &str = "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketimeMT.so.1";

/// Jumps in the syntax of libfaketime, and the year that they lead to, if it is always the same.
const JUMPS: [(&str, Option<&str>); 6] = [
    ("@2040-02-29 23:59:59", Some(" 2040 ")),
    ("@2001-01-01 00:00:00", Some(" 2001 ")),
    ("+400d", None),
    ("-400d", None),
    ("-30000d", Some(" 1970 ")),
    ("+0d", None),
];

#[test]
fn the_time_of_day_jumps() {
    let redis = Redis::start(&[]);
    for settings in [Settings::redis(redis.port), Settings::ledger().with("FSYNC", "everysec")] {
        let jump = settings.folder().join("faketime");
        let set = |to: &str| fs::write(&jump, to).expect("a file can be written");
        set("+0d");
        let enter = format!("test -e {LIBRARY} && LD_PRELOAD={LIBRARY} exec \"$0\" \"$@\"");
        let settings = settings
            .with("FAKETIME_TIMESTAMP_FILE", &jump.display().to_string())
            .with("FAKETIME_NO_CACHE", "1")
            .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with("DONT_FAKE_MONOTONIC", "1")
            .with_wrapper(&["sh", "-c", &enter]);
        let notch = settings.start();
        let mut tally = Tally::default();
        let mut client = notch.client();
        for (to, year) in JUMPS {
            set(to);
            // The date is read when requests arrive, at most once a second.
            wait_until("responses have the new date", || {
                let response = client.get("/count");
                tally.note(&response);
                let date = response.field("date").expect("every response has a date").to_owned();
                year.is_none_or(|year| date.contains(year)).then_some(())
            });
            for _ in 0..20 {
                tally.note(&client.get("/count"));
            }
        }
        tally.audit(notch.total(), Doubt::None);
        assert_eq!(tally.refused, 0, "no visit is refused because of the time of day");
    }
}
