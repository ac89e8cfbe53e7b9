//! Backups and restores that cannot succeed fail with a message and leave the data unchanged. [`crate::passwords`]
//! tests them under load.

use std::fs;
use std::process::{Command, Stdio};

use crate::image::Store;
use crate::support::{Folder, wait_until};

/// A stopped store of 7 visits, and a backup of it at 5.
fn store() -> (Store, Vec<u8>) {
    let mut store = Store::new();
    store.start();
    let notch = store.notch().start();
    (1..=5).for_each(|number| assert_eq!(notch.visit(), number));
    let backup = store.backup();
    (6..=7).for_each(|number| assert_eq!(notch.visit(), number));
    store.stop();
    (store, backup)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let folder = Folder::new("tar");
    for (name, content) in files {
        fs::write(folder.file(name), content).expect("a file written for the test");
    }
    let mut command = Command::new("tar");
    command.arg("-c").arg("-C").arg(folder.path()).args(files.iter().map(|(name, _)| name)).stderr(Stdio::inherit());
    command.output().expect("tar is installed").stdout
}

/// One member of an archive, with its header.
fn member(archive: &[u8], name: &str) -> Vec<u8> {
    let folder = Folder::new("tar");
    fs::write(folder.file("archive"), archive).expect("an archive written for the test");
    let output = Command::new("tar").arg("-xOf").arg(folder.file("archive")).arg(name).output();
    output.expect("tar is installed").stdout
}

#[test]
fn a_foreign_or_truncated_backup_changes_nothing() {
    let (mut store, backup) = store();
    let before = store.files();
    let sums = member(&backup, "SHA256SUMS");
    let file = member(&backup, "appendonly.aof");
    let mut corrupted = backup.clone();
    let at = backup.windows(file.len()).position(|window| window == file).expect("the file in the archive");
    corrupted[at + file.len() / 2] ^= 1;
    // Truncated anywhere within the file; the rest is padding.
    let end = at + file.len();
    let lengths =
        [0, 1, 511, 512, 513, 1024, 1536, 1537, 2048, at + 1, end - 1].into_iter().filter(|length| *length < end);
    let mut cases: Vec<Vec<u8>> = lengths.map(|length| backup[..length].to_vec()).collect();
    cases.extend([
        corrupted,
        b"no archive".to_vec(),
        file.clone(),
        tar(&[("appendonly.aof", &file)]),
        tar(&[("SHA256SUMS", &sums)]),
        tar(&[("SHA256SUMS", b""), ("appendonly.aof", &file)]),
        tar(&[("SHA256SUMS", &sums), ("appendonly.aof", &file[1..])]),
        tar(&[("SHA256SUMS", &sums), ("appendonly.aof", &file), ("more", b"")]),
        tar(&[("dump.rdb", b"REDIS0011")]),
    ]);
    for case in cases {
        let ended = store.run_with(&["restore"], &case);
        assert!(!ended.success, "{} bytes: {ended:?}", case.len());
        assert!(ended.stderr.contains("not a complete backup of notch-redis: nothing changed"), "{ended:?}");
        assert_eq!(store.files(), before);
    }
    store.start();
    assert_eq!(store.total(), 7);
}

#[test]
fn a_backup_that_this_server_cannot_load_changes_nothing() {
    let (mut store, backup) = store();
    let before = store.files();
    for content in [
        &b"REDIS9999\x00"[..],
        b"*1\r\n$3\r\nFLY\r\n",
        b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n*2\r\n$4\r\nLPOP\r\n$6\r\nvisits\r\n",
        b"*2\r\n$4\r\nINCR\r\n$6\r\nvis",
    ] {
        let folder = Folder::new("tar");
        fs::write(folder.file("appendonly.aof"), content).expect("a file written for the test");
        let mut sum = Command::new("sha256sum");
        let sums =
            sum.arg("appendonly.aof").current_dir(folder.path()).output().expect("sha256sum is installed").stdout;
        let ended = store.run_with(&["restore"], &tar(&[("SHA256SUMS", &sums), ("appendonly.aof", content)]));
        assert!(!ended.success && ended.stderr.contains("cannot load the backup"), "{ended:?}");
        assert_eq!(store.files(), before);
    }
    store.restore(&backup);
    store.start();
    assert_eq!(store.total(), 5);
}

#[test]
fn a_failed_backup_is_reported() {
    let (mut store, _) = store();
    let full = store.run_into(&["backup"], "/dev/full");
    assert!(!full.success && full.stderr.contains("could not be written"), "{full:?}");
    let empty = Store::new().run(&["backup"]);
    assert!(!empty.success && empty.stderr.contains("nothing to back up"), "{empty:?}");
    assert!(
        fs::read_dir(store.path(""))
            .expect("the folder")
            .flatten()
            .all(|entry| { !entry.file_name().to_string_lossy().contains("backup") })
    );
    store.start();
    assert_eq!(store.total(), 7);
}

#[test]
fn a_backup_of_a_stopped_server_can_be_restored() {
    let (store, _) = store();
    let backup = store.backup();
    let mut new = store.on_new_machine();
    new.restore(&backup);
    new.start();
    assert_eq!(new.total(), 7);
}

#[test]
fn a_backup_with_a_snapshot_can_be_restored() {
    let mut store = Store::new();
    store.configure("aof-use-rdb-preamble yes\nauto-aof-rewrite-percentage 0\n");
    store.start();
    let notch = store.notch().start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    let before = store.generation();
    store.cli(&["bgrewriteaof"]);
    wait_until("the file is rewritten", || (store.generation() != before).then_some(()));
    assert_eq!(notch.visit(), 3);
    let backup = store.backup();
    let mut new = store.on_new_machine();
    new.restore(&backup);
    new.start();
    assert_eq!(new.total(), 3);
    let backup = new.backup();
    store.stop();
    store.restore(&backup);
    store.start();
    assert_eq!(store.total(), 3);
}

#[test]
fn a_start_finishes_a_restore_and_removes_what_was_interrupted() {
    let (mut store, backup) = store();
    // Files of a restore that was interrupted before its last step.
    let other = store.on_new_machine();
    other.restore(&backup);
    fs::create_dir(store.path(".notch-redis.ready")).expect("a folder made for the test");
    for name in ["appendonly.aof", "appendonlydir"] {
        if other.path(name).exists() {
            fs::rename(other.path(name), store.path(".notch-redis.ready").join(name)).expect("data moved for the test");
        }
    }
    for name in [".notch-redis.restore", ".notch-redis.backup.123456"] {
        fs::create_dir(store.path(name)).expect("a folder made for the test");
        fs::write(store.path(name).join("appendonly.aof"), "half").expect("a file written for the test");
    }
    store.start();
    assert_eq!(store.total(), 5);
    for name in [".notch-redis.ready", ".notch-redis.restore", ".notch-redis.backup.123456"] {
        assert!(!store.path(name).exists(), "{name}");
    }
    // Files of one that was interrupted before its first step: none of them is used.
    store.stop();
    fs::create_dir(store.path(".notch-redis.ready")).expect("a folder made for the test");
    store.start();
    assert_eq!(store.total(), 5);
}
