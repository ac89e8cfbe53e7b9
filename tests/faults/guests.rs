//! Hostile clients, and a normal client that must not be affected.

use std::thread;
use std::time::Duration;

use super::audit::Doubt;
use super::crowd::{Neighbour, Newcomer, SETTLED};
use super::hostile_clients;
use crate::support::{NEVER, Settings, wait_until};

#[test]
fn hostile_clients_do_not_affect_others_and_leave_no_connections() {
    for hostile in hostile_clients::all(CONNECTIONS) {
        let settings = ["REQUEST_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT"].iter();
        let settings = settings.fold(Settings::ledger(), |settings, name| settings.with(name, "1s"));
        let settings =
            settings.with("FSYNC", "never").with("STORE_TIMEOUT", NEVER).with("COUNTERS", hostile_clients::COUNTER);
        let notch = settings.with("MAX_CONNECTIONS", &CONNECTIONS.to_string()).start();
        assert_eq!(notch.visit(), 1);
        thread::sleep(SETTLED);
        let (files, memory) = (notch.files().len(), notch.resident_kilobytes());

        let neighbour = Neighbour::of(&notch);
        let (address, name) = (notch.address, hostile.name);
        let hostile = thread::spawn(move || hostile.attack(address, SPELL));
        let (mut most_files, mut most_memory) = (0, 0);
        while !hostile.is_finished() {
            most_files = most_files.max(notch.files().len());
            most_memory = most_memory.max(notch.resident_kilobytes());
            thread::sleep(Duration::from_millis(10));
        }
        let visits = hostile.join().expect("a hostile does not panic");
        let (mut tally, waits) = neighbour.leave();
        let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1 - waits.len() / 100]);
        assert!(median < BESIDE.0 && worst < BESIDE.1, "{name}: a visit beside it took {median:?}, at worst {worst:?}");
        assert!(most_files <= files + CONNECTIONS + SLACK, "{name}: {files} files open before, {most_files} at most");
        let bound = memory + (CONNECTIONS as u64) * EACH + 4096;
        assert!(most_memory <= bound, "{name}: {memory} kB before, {most_memory} kB at most");

        wait_until("its connections are gone", || (notch.files().len() <= files).then_some(()));
        tally.note_number(1);
        tally.note_number(notch.visit());
        // A visit on a connection without a slot was not counted.
        tally.cut = 0;
        tally.audit(notch.total(), Doubt::None);
        let theirs = notch.get(&format!("/total/{}", hostile_clients::COUNTER)).number();
        assert!(theirs <= visits as i64, "{name}: {theirs} counted of {visits} that were asked for");
    }
}

#[test]
fn new_clients_do_not_wait_for_clients_with_incomplete_requests() {
    let notch = Settings::ledger().with("FSYNC", "never").with("MAX_CONNECTIONS", "256").start();
    let renewing =
        hostile_clients::of_memory(256).into_iter().find(|hostile| hostile.name == "unfinished heads, renewed");
    let (renewing, address) = (renewing.expect("one of them"), notch.address);
    let hostile = thread::spawn(move || renewing.attack(address, 2 * SPELL));
    wait_until("all seats are taken", || (notch.files().len() > 256).then_some(()));
    let newcomer = Newcomer::of(&notch);
    hostile.join().expect("a hostile does not panic");
    let waits = newcomer.leave();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(median < BESIDE.0 && worst < 2 * BESIDE.1, "of {} visits, {median:?} and {worst:?} at worst", waits.len());
}

/// Value of `MAX_CONNECTIONS`.
const CONNECTIONS: usize = 64;

/// Duration of each attack.
const SPELL: Duration = Duration::from_millis(1500);

/// Longest duration of a normal visit: the median, and the 99th percentile. Both allow for other load on the machine
/// and its disk.
const BESIDE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Connections that may be accepted and not yet served, one for each event loop.
const SLACK: usize = 8;

/// Most kilobytes of one connection: 16 kB each of received and pending bytes, one more group of responses, and a
/// thread's stack.
const EACH: u64 = 16 + 16 + 32 + 64;
