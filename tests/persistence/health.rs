//! `notch-redis healthcheck`: its result, its duration, and that it leaves no process, in any state of Redis.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::Store;
use crate::support::{TIMEOUT, signal, wait_until};

#[test]
fn a_server_that_hangs_or_is_gone_is_not_healthy() {
    let mut store = Store::new().with("REDIS_PASSWORD", "x");
    store.start();
    store.while_stopped(|| {
        let start = Instant::now();
        let ended = store.run(&["healthcheck"]);
        assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
        assert_eq!((ended.code, &*ended.stderr), (Some(1), "notch-redis: not healthy: no reply within 3 seconds\n"));
    });
    assert!(store.is_healthy());
    store.stop();
    let ended = store.run(&["healthcheck"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

/// The first process of the namespace reaps no zombies, like Redis in a container without an init.
#[test]
fn a_check_leaves_no_process_without_an_init() {
    let mut store = Store::new().with("REDIS_PASSWORD", "x");
    store.start();
    assert_eq!(left_by_check(&store), "code 0", "of a server that responds");
    store.while_stopped(|| assert_eq!(left_by_check(&store), "code 1", "of a server that hangs"));
    store.stop();
    assert_eq!(left_by_check(&store), "code 1", "without a server");
}

/// Returns the exit code, and a line for each process left in the namespace, except the first one and those of this
/// test.
fn left_by_check(store: &Store) -> String {
    const ENTER: &str =
        "( \"$@\"; echo \"code $?\"; cat /proc/[0-9]*/stat; echo end ) 2>/dev/null & exec sleep 600 >/dev/null 2>&1";
    let check = store.command(&["healthcheck"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["sh", "-c", ENTER, "-"]).arg(check.get_program()).args(check.get_args()).env_clear();
    command.envs(check.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut namespace = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("util-linux is installed");
    let lines = BufReader::new(namespace.stdout.take().expect("it is a pipe")).lines();
    let lines: Vec<_> = lines.map(|line| line.expect("text")).take_while(|line| line != "end").collect();
    namespace.kill().expect("our own child");
    namespace.wait().expect("our own child");
    assert!(lines.iter().any(|line| line.starts_with("1 (sleep) ")), "the first process is not in the list: {lines:?}");
    let is_expected =
        |line: &&String| line.starts_with("1 (sleep) ") || [" (sh) ", " (cat) "].iter().any(|name| line.contains(name));
    lines.iter().filter(|line| !is_expected(line)).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Killed as by the time limit of the container: its child processes end by themselves, and in time.
#[test]
fn the_children_of_a_killed_check_end_too() {
    let mut store = Store::new();
    store.start();
    store.while_stopped(|| {
        for name in ["TERM", "KILL"] {
            let mut check = store.command(&["healthcheck"]).process_group(0).spawn().expect("a shell");
            wait_until("the check waits for Redis", || {
                running(check.id()).contains(&"redis-cli".to_owned()).then_some(())
            });
            signal(check.id(), name);
            check.wait().expect("our own child");
            let start = Instant::now();
            wait_until("no process of the check runs", || running(check.id()).is_empty().then_some(()));
            assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
        }
    });
}

/// Returns the names of the processes of a group, without zombies, which init reaps.
fn running(group: u32) -> Vec<String> {
    let stats = fs::read_dir("/proc").expect("a list of processes").flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| name_in(&stat, group)).collect()
}

/// Fields of proc_pid_stat(5): the name in parentheses, then state, parent and group.
fn name_in(stat: &str, group: u32) -> Option<String> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = tail.split(' ').collect();
    (fields[0] != "Z" && fields[2] == group.to_string())
        .then(|| head.split_once('(').map(|(_, name)| name.to_owned()))?
}
