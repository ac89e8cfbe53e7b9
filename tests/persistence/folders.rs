//! Data folders that are empty, contain something else, or contain the data of another server: reported, and rejected
//! where the count would start at 0 although data exist.

use std::fs;

use crate::image::{Store, is_before_7};

fn with_files(files: &[(&str, &[u8])]) -> Store {
    let store = Store::new();
    for (name, content) in files {
        let path = store.path(name);
        fs::create_dir_all(path.parent().expect("a folder above")).expect("a folder made for the test");
        fs::write(path, content).expect("a file written for the test");
    }
    store
}

#[test]
fn an_empty_folder_is_logged() {
    for store in [with_files(&[]), with_files(&[("lost+found/x", b"")])] {
        let mut store = store;
        let log = store.start();
        let message = format!("notch-redis: {} is empty: the count begins at 0\n", store.path("").display());
        assert!(log.contains(&message.replace("/ is", " is")), "{log}");
        store.stop();
        assert!(!store.start().contains("is empty"), "it is not empty any longer");
    }
}

#[test]
fn a_folder_with_other_files_is_logged() {
    let mut store = with_files(&[("index.html", b"<p>")]);
    let log = store.start();
    assert!(log.contains("index.html; is this the right volume?"), "{log}");
}

#[test]
fn counters_of_another_key_are_logged() {
    let mut store = Store::new();
    store.start();
    let notch = store.notch().start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    drop(notch);
    let notch = store.notch().with("REDIS_DB", "3").with("COUNTER_KEY", "third").start();
    assert_eq!(notch.visit(), 1);
    store.stop();
    for (key, message) in [
        ("visits", "counter visits in database 0: 2\n"),
        ("third", "counter third in database 3: 1\n"),
        (
            "visit",
            "no counter visit, but 2 keys in database 0, 2 keys in database 3: is COUNTER_KEY the same as before?",
        ),
    ] {
        store = store.with("COUNTER_KEY", key);
        let log = store.start();
        assert!(log.contains(&format!("notch-redis: {message}")), "{log}");
        store.stop();
    }
}

#[test]
fn data_that_redis_would_ignore_is_refused() {
    let ledger = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n";
    let new: &[(&str, &[u8])] = &[("appendonlydir/appendonly.aof.1.incr.aof", b"")];
    let both: &[(&str, &[u8])] = &[
        ("appendonly.aof", b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"),
        ("appendonlydir/appendonly.aof.manifest", b"file appendonly.aof.1.incr.aof seq 1 type i\n"),
        ("appendonlydir/appendonly.aof.1.incr.aof", b""),
    ];
    for (files, message) in [
        (&[("dump.rdb", &b"REDIS0011"[..])][..], "contains a snapshot (dump.rdb)"),
        (&[("notch.ledger", ledger)], "contains a ledger of notch (notch.ledger)"),
        (&[("other.name", ledger)], "contains a ledger of notch (other.name)"),
        (new, if is_before_7() { "was written by a later version" } else { "has no appendonly.aof.manifest" }),
        (both, if is_before_7() { "was written by a later version" } else { "would load only the latter" }),
    ] {
        let mut store = with_files(files);
        let before = store.files();
        let log = store.start_and_fail();
        assert!(log.contains("notch-redis: ") && log.contains(message), "{message}: {log}");
        assert_eq!(store.files(), before, "{message}");
    }
}

#[test]
fn a_missing_file_of_a_manifest_is_reported() {
    if is_before_7() {
        return;
    }
    let mut store = Store::new();
    store.start();
    let notch = store.notch().start();
    assert_eq!(notch.visit(), 1);
    store.stop();
    for entry in fs::read_dir(store.path("appendonlydir")).expect("the parts of the file").flatten() {
        if entry.file_name().to_string_lossy().ends_with(".incr.aof") {
            fs::remove_file(entry.path()).expect("a part lost for the test");
        }
    }
    let log = store.start_and_fail();
    assert!(log.contains("Redis does not load"), "{log}");
    assert!(!store.run(&["backup"]).success);
}

#[test]
fn a_read_only_folder_is_reported() {
    let mut store = with_files(&[(".notch-redis.lock/x", b"")]);
    let log = store.start_and_fail();
    assert!(log.contains("cannot write to"), "{log}");
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let mut store = Store::new();
    store.start();
    let notch = store.notch().start();
    assert_eq!(notch.visit(), 1);
    let second = store.run(&[]);
    assert!(!second.success && second.stderr.contains("is in use by another Redis"), "{second:?}");
    let restore = store.run_with(&["restore"], &store.backup());
    assert!(!restore.success && restore.stderr.contains("is in use by another Redis"), "{restore:?}");
    assert_eq!(notch.visit(), 2);
    store.kill();
    store.start();
    assert_eq!(notch.visit(), 3);
}
