//! Hostile clients, and a normal client that must not be affected.

use std::thread;
use std::time::Duration;

use super::audit::Doubt;
use super::hostile_clients;
use super::load::{CLOSE_DETECTION, ConnectProbe, KeepAliveProbe};
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
        thread::sleep(CLOSE_DETECTION);
        let (files, memory) = (notch.files().len(), notch.resident_kilobytes());

        let keep_alive_probe = KeepAliveProbe::of(&notch);
        let (address, name) = (notch.address.tcp(), hostile.name);
        let hostile = thread::spawn(move || hostile.attack(address, ATTACK_DURATION));
        let (mut most_files, mut most_memory) = (0, 0);
        while !hostile.is_finished() {
            most_files = most_files.max(notch.files().len());
            most_memory = most_memory.max(notch.resident_kilobytes());
            thread::sleep(Duration::from_millis(10));
        }
        let visits = hostile.join().expect("hostile clients do not panic");
        let (mut tally, waits) = keep_alive_probe.stop();
        let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1 - waits.len() / 100]);
        assert!(
            median < MAX_LATENCY.0 && worst < MAX_LATENCY.1,
            "{name}: a normal visit took {median:?}, at worst {worst:?}"
        );
        assert!(most_files <= files + CONNECTIONS + SLACK, "{name}: {files} files open before, {most_files} at most");
        let bound = memory + (CONNECTIONS as u64) * CONNECTION_KILOBYTES + 4096;
        assert!(most_memory <= bound, "{name}: {memory} kB before, {most_memory} kB at most");

        wait_until("its connections are closed", || (notch.files().len() <= files).then_some(()));
        tally.note_number(1);
        tally.note_number(notch.visit());
        // A visit on a connection without a slot was not counted.
        tally.cut = 0;
        tally.audit(notch.total(), Doubt::None);
        let theirs = notch.get(&format!("/total/{}", hostile_clients::COUNTER)).number();
        assert!(theirs <= visits as i64, "{name}: {theirs} counted of {visits} requested");
    }
}

#[test]
fn new_clients_do_not_wait_for_clients_with_incomplete_requests() {
    let notch = Settings::ledger().with("FSYNC", "never").with("MAX_CONNECTIONS", "256").start();
    let reconnecting =
        hostile_clients::using_memory(256).into_iter().find(|hostile| hostile.name == "incomplete heads, reconnecting");
    let (reconnecting, address) = (reconnecting.expect("one of them"), notch.address.tcp());
    let hostile = thread::spawn(move || reconnecting.attack(address, 2 * ATTACK_DURATION));
    wait_until("all slots are taken", || (notch.files().len() > 256).then_some(()));
    let connect_probe = ConnectProbe::of(&notch);
    hostile.join().expect("hostile clients do not panic");
    let waits = connect_probe.stop();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(
        median < MAX_LATENCY.0 && worst < 2 * MAX_LATENCY.1,
        "of {} visits, {median:?} and {worst:?} at worst",
        waits.len()
    );
}

/// Value of `MAX_CONNECTIONS`.
const CONNECTIONS: usize = 64;

/// Duration of each attack.
const ATTACK_DURATION: Duration = Duration::from_millis(1500);

/// Longest duration of a normal visit: the median, and the 99th percentile. Both allow for other load on the machine
/// and its disk.
const MAX_LATENCY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Connections that may be accepted and not yet served, one for each event loop.
const SLACK: usize = 8;

/// Most kilobytes of one connection: 16 kB each of received and pending bytes, one more group of responses, and a
/// thread's stack.
const CONNECTION_KILOBYTES: u64 = 16 + 16 + 32 + 64;
