//! Scripts of the confined user that never end or use memory: their effect on other clients, their limits, and how they
//! are ended.

use std::process::{Child, Command, Stdio};

use crate::image::Store;
use crate::support::{Notch, signal, wait_until};

fn store() -> Store {
    Store::new()
        .with("REDIS_USERNAME", "notch")
        .with("REDIS_PASSWORD", "confined")
        .with("REDIS_ADMIN_PASSWORD", "administrator")
}

/// A client of the confined user that waits for the reply to a script.
struct Script(Child);

impl Script {
    fn start(store: &Store, script: &str) -> Self {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &store.port.to_string(), "--user", "notch", "--pass", "confined", "--no-auth-warning"]);
        command.args(["eval", script, "1", "visits"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("redis-cli is installed"))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until_busy(store: &Store) {
    wait_until("other clients get BUSY", || {
        let reply = store.other_client(&["--user", "notch", "--pass", "confined", "ping"]);
        reply.starts_with("BUSY").then_some(())
    });
}

/// Returns the status of the first visit that is not in doubt: one that waited for Redis when the script began may be.
fn visit_while_busy(notch: &Notch) -> u16 {
    wait_until("a visit is refused", || Some(notch.get("/count").status).filter(|status| *status != 504))
}

#[test]
fn an_endless_script_makes_visits_fail_until_the_administrator_ends_it() {
    let mut store = store();
    store.start();
    let notch = store.notch().with("STORE_TIMEOUT", "2s").start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));

    let script = Script::start(&store, "while true do end");
    wait_until_busy(&store);
    assert_eq!(visit_while_busy(&notch), 503);
    assert_eq!(notch.get("/").status, 200, "the page needs no Redis");
    let check = store.run(&["healthcheck"]);
    assert!(check.code == Some(1) && check.stderr.contains("not healthy: BUSY"), "{check:?}");
    let own = store.other_client(&["--user", "notch", "--pass", "confined", "script", "kill"]);
    assert!(own.starts_with("NOPERM"), "the confined user may not stop it: {own}");
    assert_eq!(store.cli(&["script", "kill"]), "OK");
    drop(script);
    wait_until("visits count again", || (notch.get("/count").status == 200).then_some(()));
    assert_eq!(notch.total(), 3, "no refused visit was counted");
}

/// A script that has written can only be ended with the server, which has sent no replies since it began.
#[test]
fn an_endless_script_that_has_written_is_ended_by_a_kill_and_leaves_no_trace() {
    let mut store = store();
    store.start();
    let notch = store.notch().with("STORE_TIMEOUT", "2s").start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));

    let script = Script::start(&store, "redis.call('incrby',KEYS[1],100) while true do end");
    wait_until_busy(&store);
    assert_eq!(visit_while_busy(&notch), 503);
    let reply = store.cli(&["script", "kill"]);
    assert!(reply.starts_with("UNKILLABLE"), "{reply}");
    signal(store.id(), "TERM");
    wait_until_busy(&store);
    store.kill();
    drop(script);
    let log = store.start();
    assert!(log.contains("counter visits in database 0: 2\n"), "{log}");
    wait_until("visits count again", || (notch.get("/count").status == 200).then_some(()));
    assert_eq!(notch.total(), 3);
}

/// Redis 8 counts the memory of Lua, and rejects writes until it is collected; the others neither count nor limit it.
#[test]
fn only_the_memory_of_the_container_bounds_scripts() {
    const FILL: &str = "local t={} for i=1,300000 do t[i]=string.rep('x',90)..i end return #t";
    let mut store = store();
    store.start();
    let notch = store.notch().start();
    assert_eq!(notch.visit(), 1);
    assert_eq!(store.cli(&["config", "set", "maxmemory", "20mb"]), "OK");
    let run_as_notch =
        |arguments: &[&str]| store.other_client(&[&["--user", "notch", "--pass", "confined"], arguments].concat());
    assert_eq!(run_as_notch(&["eval", FILL, "0"]), "300000", "it takes more than maxmemory");
    let memory = store.cli(&["info", "memory"]);
    let field = |name: &str| {
        let value = memory.lines().find_map(|line| line.strip_prefix(name)).expect("a field of INFO");
        value.trim().parse::<u64>().expect("bytes")
    };
    let (used, lua) = (field("used_memory:"), field("used_memory_lua:"));
    assert!(lua > 30 << 20, "{lua} bytes of Lua");
    if used < lua {
        assert_eq!(notch.visit(), 2, "the memory is not limited, so visits are counted");
    } else {
        assert_eq!(notch.get("/count").status, 503, "the memory is limited, so visits are refused");
        assert_eq!(store.cli(&["script", "flush", "sync"]), "OK");
        wait_until("visits count again", || (notch.get("/count").status == 200).then_some(()));
    }
    assert_eq!(notch.total(), 2);

    // Loaded scripts count as data and are accepted at any size: then visits are rejected.
    let script = format!("return '{}'", "x".repeat(1 << 20));
    let load = |number: usize| format!("SCRIPT LOAD \"{script} -- {number}\"\n");
    let commands: String = (0..25).map(load).collect();
    let file = store.write_file("commands", commands.as_bytes());
    let mut command = Command::new("redis-cli");
    command.args(["-p", &store.port.to_string(), "--user", "notch", "--pass", "confined", "--no-auth-warning"]);
    let loaded = command.stdin(std::fs::File::open(file).expect("the file just written")).output().expect("redis-cli");
    let loaded = String::from_utf8_lossy(&loaded.stdout).into_owned();
    assert_eq!(loaded.lines().filter(|line| line.len() == 40).count(), 25, "{loaded}");
    assert_eq!(notch.get("/count").status, 503);
    assert_eq!(store.cli(&["script", "flush"]), "OK");
    wait_until("visits count again", || (notch.get("/count").status == 200).then_some(()));
    assert_eq!(notch.total(), 3, "notch loads its script again");
}
