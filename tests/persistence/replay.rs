//! Files that Redis cannot replay completely: no server starts with less data than the file had.

use std::fs;

use crate::image::{Store, is_before_7};

/// Commands as Redis writes them, one to a line.
fn commands(lines: &str) -> Vec<u8> {
    let command = |line: &str| {
        let arguments: Vec<_> = line.split(' ').collect();
        let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
        format!("*{}\r\n{}", arguments.len(), arguments.iter().map(bulk).collect::<String>())
    };
    lines.lines().map(command).collect::<String>().into_bytes()
}

/// A batch of 3 visits.
const BATCH: &str =
    "SELECT 0\nMULTI\nSET {visits}:receipt:1 1000000000000001 PXAT 1999999999999\nINCRBY visits 3\nEXEC\n";

/// A store with this file, which servers of every version read.
fn store(file: &[u8]) -> Store {
    let store = Store::new();
    fs::write(store.path("appendonly.aof"), file).expect("a file written for the test");
    store
}

#[test]
fn a_valid_file_is_replayed() {
    let mut store = store(&commands(BATCH));
    let log = store.start();
    assert!(log.contains("notch-redis: counter visits in database 0: 3\n"), "{log}");
    assert_eq!(store.total(), 3);
}

#[test]
fn an_error_in_the_replay_refuses_the_start() {
    for (what, lines) in [
        ("another type", "LPUSH visits:list 1\nINCRBY visits:list 1"),
        ("no number", "SET visits:text text\nINCRBY visits:text 1"),
        ("overflow", "SET visits:most 9223372036854775807\nINCR visits:most"),
        ("an unknown database", "SELECT 99\nINCRBY visits 3"),
        ("EXEC without MULTI", "EXEC"),
        ("an error in a transaction", "MULTI\nLPUSH visits 1\nEXEC"),
        ("an invalid option", "SET visits:more 1 PX soon"),
        ("an invalid value", "RESTORE visits:more 0 value"),
        ("an unknown command", "FLY visits"),
        ("an unknown command in a transaction", "MULTI\nFLY visits\nEXEC"),
    ] {
        let file = commands(&format!("{BATCH}{lines}\n{BATCH}"));
        let mut store = store(&file);
        // Several times, as with a restart policy.
        for _ in 0..2 {
            let log = store.start_and_fail();
            assert!(log.contains("notch-redis: ") && log.contains("not started, nothing changed"), "{what}: {log}");
            assert!(!store.is_healthy(), "{what}");
        }
        assert!(store.files().values().any(|kept| *kept == file), "{what}: the file is unchanged");
    }
}

#[test]
fn a_user_without_rights_for_the_replay_prevents_the_start() {
    let mut store = Store::new().with("REDIS_PASSWORD", "x").with("REDIS_USERNAME", "notch");
    store.start();
    let notch = store.notch().start();
    assert_eq!((notch.visit(), notch.visit(), notch.visit()), (1, 2, 3));
    store.kill();
    // With a custom configuration, which some servers accept and others reject.
    let mut other = Store::new();
    for (name, content) in store.files() {
        let folder = if is_before_7() { String::new() } else { "appendonlydir/".to_owned() };
        fs::create_dir_all(other.path(&folder)).expect("a folder made for the test");
        fs::write(other.path(&(folder + &name)), content).expect("a file copied for the test");
    }
    other.configure("user default on nopass -@all +ping +info +select +get ~*\n");
    match other.try_start() {
        Ok(_) => assert_eq!(other.total(), 3),
        Err(log) => assert!(log.contains("errors (see CRITICAL above)"), "{log}"),
    }
}

#[test]
fn a_torn_last_write_is_truncated() {
    let complete = commands(BATCH);
    let file = [&complete[..], &complete[..]].concat();
    // Within each command of the last transaction. A cut before MULTI leaves a complete `SELECT`, which changes
    // nothing.
    for cut in [1, 9, 24, 40, 60, 120, 150, complete.len() - 5, complete.len() - 2, complete.len() - 1] {
        assert_starts(&file[..complete.len() + cut], 3);
    }
    let plain = [&complete[..], &commands("INCRBY visits 1\nINCRBY visits 5\n")[..]].concat();
    for missing in [1, 20] {
        assert_starts(&plain[..plain.len() - missing], 4);
    }
}

#[test]
fn a_torn_write_is_removed_from_the_file() {
    let mut store = Store::new();
    store.start();
    let notch = store.notch().start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    for (count, torn) in ["*", "*1\r\n$5\r\nMULTI\r\n", "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nIN"].iter().enumerate() {
        store.stop();
        let files = store.files();
        let last = files.keys().rfind(|name| *name == "appendonly.aof" || name.ends_with(".incr.aof"));
        let last = last.expect("the file that Redis appends to");
        let path = if is_before_7() { store.path(last) } else { store.path("appendonlydir").join(last) };
        fs::write(path, [&files[last], torn.as_bytes()].concat()).expect("a write cut off for the test");
        let log = store.start();
        assert!(log.contains(&format!("removing its {} bytes", torn.len())), "{log}");
        assert_eq!(notch.visit(), count as i64 + 3);
    }
}

fn assert_starts(file: &[u8], total: i64) {
    let mut store = store(file);
    let log = store.start();
    assert!(log.contains(&format!("notch-redis: counter visits in database 0: {total}\n")), "{log}");
    assert_eq!(store.cli(&["get", "visits"]), total.to_string());
    store.stop();
    let again = store.start();
    assert!(!again.contains("removing"), "the torn write was removed already: {again}");
}

#[test]
fn damage_before_the_last_write_refuses_the_start() {
    let batch = commands(BATCH);
    // A length beyond the end of the file: Redis itself treats this as a torn last write.
    let with_length = |length: &str| {
        let damaged = String::from_utf8(batch.clone()).expect("text").replace("$6\r\nINCRBY", length);
        [&batch[..], damaged.as_bytes(), &batch[..]].concat()
    };
    let plain =
        [&batch[..], b"*3\r\n$6\r\nINCRBY\r\n$99999\r\nvisits\r\n$1\r\n1\r\n", &commands("INCRBY visits 1\n")[..]];
    for file in [
        with_length("$66666\r\nINCRBY"),
        with_length("$6\r\nINCRB"),
        plain.concat(),
        [&batch[..], b"no command\r\n", &batch[..]].concat(),
        [&batch[..], &[0; 100]].concat(),
        [&batch[..], &[0; 100], &batch[..]].concat(),
        b"no command at all\r\n".to_vec(),
    ] {
        let mut store = store(&file);
        let log = store.start_and_fail();
        assert!(log.contains("not started, nothing changed"), "{log}");
        assert!(store.files().values().any(|kept| *kept == file), "the file is unchanged");
        assert!(!store.run(&["backup"]).success, "a damaged file cannot be backed up");
    }
}
