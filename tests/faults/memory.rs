//! Memory under attack, in a control group that kills processes beyond its limit: as many hostile connections as the
//! shipped manifests allow, and normal clients at the same time.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::group::Group;
use super::hostile_clients::{self, HostileClient};
use super::load::{ConnectProbe, KeepAliveProbe};
use crate::support::{Client, Redis, Response, Settings, wait_until, while_stopped};

#[test]
fn a_small_container_stays_within_its_memory() {
    // The limit in `compose.yaml`, and `WEB_MEMORY` for the driver on threads.
    let limit = if cfg!(feature = "tokio") { 6 << 20 } else { 16 << 20 };
    for hostile in hostile_clients::using_memory(256) {
        assert_withstands(limit, 256, &hostile);
    }
}

#[test]
fn the_systemd_unit_stays_within_its_memory() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/notch.service");
    let unit = fs::read_to_string(unit).expect("the unit that is shipped");
    let limit = unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M'));
    let limit = limit.and_then(|limit| limit.parse::<usize>().ok()).expect("MemoryMax in megabytes");
    for hostile in
        hostile_clients::using_memory(DEFAULT_CONNECTIONS).into_iter().filter(|hostile| hostile.first.len() > 20)
    {
        assert_withstands(limit << 20, DEFAULT_CONNECTIONS, &hostile);
    }
}

#[test]
fn clients_beyond_the_memory_are_not_accepted() {
    let group = Arc::new(Group::of(32 << 20));
    let notch = group.settings(Settings::ledger().with("FSYNC", "never")).start();
    let lowered = "MAX_CONNECTIONS is lowered: there is no memory for more; raise the memory limit";
    assert!(notch.log().iter().any(|line| line.contains(lowered)), "{:?}", notch.log());
    drop(notch);
    for hostile in hostile_clients::using_memory(3000) {
        assert_withstands(32 << 20, 10_000, &hostile);
    }
}

#[test]
fn with_more_clients_than_connections_every_response_is_read() {
    let (limit, connections) = if cfg!(feature = "tokio") { (6 << 20, 256) } else { (16 << 20, 200) };
    for hostile in hostile_clients::using_memory(4 * connections).iter().filter(|hostile| hostile.has_small_buffer) {
        assert_withstands(limit, connections, hostile);
    }
}

#[test]
fn totals_of_a_store_that_hangs_stay_within_the_memory() {
    // As many clients as a small container has connections, and each requests as many totals as it may.
    let (limit, connections) = if cfg!(feature = "tokio") { (6 << 20, 256) } else { (16 << 20, 200) };
    let redis = Redis::start(&[]);
    let group = Arc::new(Group::of(limit));
    let settings = Settings::redis(redis.port).with("COUNTERS", "*").with("MAX_CONNECTIONS", &connections.to_string());
    let notch = group.settings(settings.with("STORE_TIMEOUT", "3s")).start();
    notch.visit_when_it_counts();
    let names: Vec<_> = (1..=32).map(|number| format!("a-long-name-of-a-counter-{number}")).collect();
    let path = ["/total?names=", &names.join(",")].concat();
    let watch = group.watch();
    let mut clients: Vec<_> = (0..connections).map(|_| notch.client()).collect();
    let responses: Vec<_> = while_stopped(redis.id(), || {
        clients.iter_mut().for_each(|client| client.send_request("GET", &path, &[]));
        clients.iter_mut().map(Client::response).collect()
    });
    let refused = |response: &&Response| response.text().contains("too many counters are requested at once");
    let refused = responses.iter().filter(refused).count();
    assert!(responses.iter().all(|response| response.status == 503), "{responses:?}");
    assert!((1..connections).contains(&refused), "{refused} of {connections} clients had no memory");
    println!("totals: {} kB at most", watch.stop("totals", &notch));
    wait_until("a client gets its totals", || (clients[0].get(&path).status == 200).then_some(()));
    assert!(notch.visit_when_it_counts() > 1);
}

#[test]
fn a_memory_limit_of_its_own_lowers_the_connections() {
    let notch = Settings::ledger().with("MEMORY_LIMIT", "8m").with("MAX_CONNECTIONS", "5000").start();
    let log = notch.log().join("\n");
    assert!(log.contains("MAX_CONNECTIONS is lowered: there is no memory for more"), "{log}");
    let connections = log.rsplit_once(" connections=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let expected = if cfg!(feature = "tokio") { 300..420_usize } else { 100..160 };
    assert!(connections.is_some_and(|connections| expected.contains(&connections)), "{log}");
}

#[test]
fn a_start_without_memory_or_files_for_it_is_refused() {
    let few = ["prlimit", "--nofile=256:256"];
    let no_files = Settings::ledger().with_wrapper(&few).with("WORKERS", "64").try_start();
    let no_memory = Settings::ledger().with("MEMORY_LIMIT", "700k").try_start();
    let message = |ended: Result<_, crate::support::Exit>| ended.err().map(|ended| (ended.code, ended.stderr));
    let (code, stderr) = message(no_memory).expect("it cannot start");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("716800 bytes of memory are too few for WORKERS=1"), "{stderr}");
    // The driver on threads has one loop for any value of WORKERS.
    if cfg!(feature = "tokio") {
        let (code, stderr) = message(no_files).expect("it cannot start");
        assert_eq!(code, Some(1), "{stderr}");
        let needed = "the limit of open files is 256, but WORKERS=64 needs 536: raise it (ulimit -n), or lower WORKERS";
        assert!(stderr.contains(needed), "{stderr}");
    } else {
        assert!(message(no_files).is_none());
    }
}

/// Attacks a notch in a group of `limit` bytes, and asserts that normal clients are not affected.
fn assert_withstands(limit: usize, connections: usize, hostile: &HostileClient) {
    allow_files();
    let group = Arc::new(Group::of(limit));
    let settings = Settings::ledger().with("FSYNC", "never").with("COUNTERS", hostile_clients::COUNTER);
    let settings = settings.with("MAX_CONNECTIONS", &connections.to_string()).with("WORKERS", "2");
    let settings = if cfg!(feature = "tokio") { settings } else { settings.without("WORKERS") };
    let notch = group.settings(settings).start();
    assert_eq!(notch.visit(), 1);
    let (watch, name, address) = (group.watch(), hostile.name, notch.address.tcp());
    let (mut waits, mut connect_waits) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let hostile = scope.spawn(|| hostile.attack(address, hostile.reconnect_delay + ATTACK_DURATION));
        let (keep_alive_probe, connect_probe) = (KeepAliveProbe::of(&notch), ConnectProbe::of(&notch));
        hostile.join().expect("hostile clients do not panic");
        waits = keep_alive_probe.stop().1;
        connect_waits = connect_probe.stop();
    });
    let most = watch.stop(name, &notch);
    for (client, waits) in [("on an open connection", &waits), ("on new connections", &connect_waits)] {
        let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        println!("{name}: {most} kB at most; {client}: {} visits, {median:?}, at worst {worst:?}", waits.len());
        assert!(median < MEDIAN && worst < WORST, "{name}: visits {client} took {median:?}, at worst {worst:?}");
    }
    assert!(notch.visit() > 1);
}

#[cfg(feature = "tokio")]
#[test]
fn event_loops_follow_the_quota_of_processors() {
    // The outer group has the quota, the inner one has none. With fewer than three processors the number of loops is
    // the same; the unit tests of `cgroup` cover quotas on any machine.
    let group = Group::of_processors("100000 100000");
    let notch = group.settings(Settings::ledger()).start();
    assert!(notch.log().iter().any(|line| line.contains("workers=1 ")), "{:?}", notch.log());
}

/// Limit of open files for this process and its children: one for each connection.
fn allow_files() {
    let own = std::process::id().to_string();
    let set = Command::new("prlimit").args(["--pid", &own, "--nofile=20000:"]).status();
    assert!(set.is_ok_and(|status| status.success()), "20,000 open files are not allowed: raise ulimit -Hn");
}

/// Connections of the attack on the systemd unit: the default of `MAX_CONNECTIONS`.
const DEFAULT_CONNECTIONS: usize = 10_000;

/// Duration of each attack after all connections are open.
const ATTACK_DURATION: Duration = Duration::from_secs(3);

/// Longest duration of a normal visit: the median and the maximum. On an idle machine each takes less than 250 ms;
/// other load may delay them, but not until `REQUEST_TIMEOUT` disconnects hostile clients after ten seconds.
const MEDIAN: Duration = Duration::from_millis(500);
const WORST: Duration = Duration::from_secs(9);
