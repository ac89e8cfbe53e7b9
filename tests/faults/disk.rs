//! Disk errors, and kills of notch at every step of a rewrite of the ledger.
//!
//! strace injects the faults: it makes a system call on the ledger's files fail, or kills notch when it enters one.
//! Only calls with those files are counted, so other calls of the process do not matter.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::thread;
use std::time::Duration;

use super::audit::{Doubt, Tally};
use super::load::{Load, Visitor};
use super::preload::{Disk, EDQUOT, EINTR, EIO, ENOSPC, Fault};
use crate::support::{NEVER, Settings, wait_until};

/// Injects this into calls on the ledger, its replacement and their directory. Of calls that open, only those of the
/// replacement: the others are made at the start.
fn injected(settings: &Settings, fault: &str) -> Settings {
    let (path, replacement, folder) = paths(settings);
    if fault.starts_with("openat") {
        traced(settings, fault, &[&replacement])
    } else {
        traced(settings, fault, &[&path, &replacement, &folder])
    }
}

/// Injects this into all calls, also those at the start.
fn injected_at_start(settings: &Settings, fault: &str) -> Settings {
    let (path, replacement, folder) = paths(settings);
    traced(settings, fault, &[&path, &replacement, &folder])
}

fn paths(settings: &Settings) -> (String, String, String) {
    let path = settings.ledger_file().display().to_string();
    let (replacement, folder) = (format!("{path}.new"), settings.folder().display().to_string());
    (path, replacement, folder)
}

fn traced(settings: &Settings, fault: &str, paths: &[&str]) -> Settings {
    // strace runs as a grandchild (-D), so that the started process is notch itself.
    let mut arguments = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
    for path in paths {
        arguments.extend(["-P", path]);
    }
    let inject = format!("--inject={fault}");
    arguments.push(&inject);
    settings.clone().with_wrapper(&arguments)
}

/// Other processes may slow the disk down: visits then wait, and none is in doubt for that reason.
fn ledger() -> Settings {
    Settings::ledger().with("STORE_TIMEOUT", NEVER)
}

/// Appends valid bytes to the file, so that its length is unexpected and the next batch rewrites it.
fn provoke_rewrite(settings: &Settings) {
    let file = OpenOptions::new().append(true).open(settings.ledger_file());
    file.and_then(|mut file| file.write_all(b"\0")).expect("the ledger can be written");
}

#[test]
fn notch_is_killed_at_every_step_of_a_rewrite() {
    let settings = ledger();
    let mut tally = Tally::default();
    tally.note_number(settings.start().visit());
    // strace counts the calls of each thread separately; the thread that starts makes none of these calls.
    for calls in ["openat", "write", "fsync", "fdatasync", "?rename,?renameat,?renameat2"] {
        let mut step = 1;
        loop {
            let notch = injected(&settings, &format!("{calls}:signal=SIGKILL:when={step}")).start();
            let mut visitor = Visitor::of(&notch);
            visitor.visit(1);
            provoke_rewrite(&settings);
            visitor.visit(1);
            let killed = visitor.tally.cut > 0;
            tally.merge(visitor.tally);
            drop(notch);

            let notch = settings.start();
            tally.audit(notch.total(), Doubt::None);
            tally.note_number(notch.visit());
            let files = fs::read_dir(settings.folder()).expect("the test's own folder").count();
            assert_eq!(files, 1, "the temporary file is removed after {calls} {step}");
            notch.kill();
            if !killed {
                break;
            }
            step += 1;
        }
        assert!(step > 1, "{calls}: notch was never killed, so nothing was tested");
    }
}

#[test]
fn some_calls_fail() {
    let calls = [("write", "ENOSPC"), ("write", "EIO"), ("fdatasync", "EIO"), ("fsync", "ENOSPC"), ("flock", "ENOLCK")];
    let opens = [("openat", "EROFS"), ("openat", "EMFILE"), ("?rename,?renameat,?renameat2", "EROFS")];
    for (call, error) in calls.into_iter().chain(opens) {
        let settings = ledger();
        let mut tally = Tally::default();
        tally.note_number(settings.start().visit());
        let notch = injected(&settings, &format!("{call}:error={error}:when=2+3")).start();
        let load = Load::start(&notch, 3);
        for _ in 0..10 {
            load.wait_for_answers(20);
            provoke_rewrite(&settings);
        }
        load.wait_for_answers(20);
        let outcomes = load.stop();
        assert!(outcomes.refused + outcomes.doubts > 0, "{call} {error} affected no visit");
        // Only a batch that was written whole and could not be synced is in doubt.
        let doubt = if call == "fdatasync" { Doubt::Possible } else { Doubt::None };
        tally.merge(outcomes);
        tally.audit(notch.total(), doubt);
        notch.kill();
        tally.audit(settings.start().total(), doubt);
    }
}

#[test]
fn a_large_ledger_whose_rewrite_fails_grows() {
    let renames = "?rename,?renameat,?renameat2";
    for (fault, killed) in [("openat:error=EROFS", false), (&format!("{renames}:signal=SIGKILL"), true)] {
        // The longest key and no sync make the file grow fast.
        let settings = ledger().with("COUNTER_KEY", &"k".repeat(62)).with("FSYNC", "never");
        let mut tally = Tally::default();
        tally.note_number(settings.start().visit());
        let notch = injected(&settings, fault).start();
        let mut client = notch.client();
        for _ in 0..PIPELINES {
            // A read in between makes each visit its own batch.
            let visit = "GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /favicon.ico HTTP/1.1\r\nHost: h\r\n\r\n";
            let _ = client.try_send(visit.repeat(VISITS_PER_PIPELINE));
            let responses: Vec<_> = (0..2 * VISITS_PER_PIPELINE).map_while(|_| client.next_response("GET")).collect();
            responses.iter().step_by(2).for_each(|response| tally.note(response));
            tally.cut += VISITS_PER_PIPELINE - responses.len().div_ceil(2);
        }
        assert_eq!(tally.cut > 0, killed, "{fault}");
        let size = settings.read_ledger().len();
        assert!(size >= 1 << 20, "{fault}: {size} bytes, less than the limit for a rewrite");
        notch.kill();
        tally.audit(settings.start().total(), Doubt::None);
    }
}

#[test]
fn a_start_that_fails_on_the_disk_is_reported_and_changes_nothing() {
    for (call, error, message) in [
        ("openat", "EROFS", "Read-only file system"),
        ("openat", "EACCES", "Permission denied"),
        ("flock", "ENOLCK", "No locks available"),
        ("read", "EIO", "Input/output error"),
    ] {
        let settings = ledger();
        assert_eq!(settings.start().visit(), 1);
        let before = settings.read_ledger();
        let Err(refused) = injected_at_start(&settings, &format!("{call}:error={error}")).try_start() else {
            panic!("notch starts although {call} fails with {error}")
        };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger") && refused.stderr.contains(message), "{refused:?}");
        assert!(settings.read_ledger() == before, "{call} {error}: the file was changed");
        assert_eq!(settings.start().visit(), 2);
    }
}

#[test]
fn a_first_start_that_the_disk_refuses_can_be_tried_again() {
    let renames = "?rename,?renameat,?renameat2";
    for (call, error) in [("write", "ENOSPC"), ("fsync", "EIO"), (renames, "EROFS"), ("openat", "ENOSPC")] {
        let settings = ledger();
        let Err(refused) = injected_at_start(&settings, &format!("{call}:error={error}")).try_start() else {
            panic!("notch starts although {call} fails with {error}")
        };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger"), "names the file: {refused:?}");
        assert_eq!(settings.start().visit(), 1);
    }
}

#[test]
fn a_disk_is_full_and_free_again_under_load() {
    // A limit on the size of files has the effect of a full disk, also for root.
    let settings = ledger();
    let notch = settings.start();
    let load = Load::start(&notch, 4);
    for free_bytes in [0, 1, 20, 50, 64, 100, 1000] {
        load.wait_for_answers(50);
        notch.limit("fsize", &(settings.read_ledger().len() + free_bytes).to_string());
        load.wait_for_refusals(10);
        notch.limit("fsize", "unlimited");
    }
    load.wait_for_answers(50);
    let tally = load.stop();
    tally.audit(notch.total(), Doubt::None);
    notch.kill();
    tally.audit(settings.start().total(), Doubt::None);
}

#[test]
fn a_small_disk_fills_and_is_cleared() {
    let mount = "mkdir -p disk && mount -t tmpfs -o size=64k tmpfs disk && exec \"$0\" \"$@\"";
    let enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount];
    let settings = ledger().with("LEDGER", "disk/notch.ledger").with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let notch = settings.clone().with_wrapper(&enter).start();
    let disk = format!("/proc/{}/root{}/disk", notch.id(), settings.folder().display());
    let load = Load::start(&notch, 4);
    for _ in 0..3 {
        load.wait_for_answers(50);
        let mut filler = fs::File::create(format!("{disk}/filler")).expect("the disk, from outside");
        while filler.write_all(&[0; 512]).is_ok() {}
        load.wait_for_refusals(10);
        fs::remove_file(format!("{disk}/filler")).expect("the filler is ours to remove");
    }
    load.wait_for_answers(50);
    load.stop().audit(notch.total(), Doubt::None);
}

#[test]
fn the_ledger_is_removed_repeatedly_under_load() {
    let settings = ledger();
    let notch = settings.start();
    let load = Load::start(&notch, 4);
    for _ in 0..20 {
        load.wait_for_answers(30);
        fs::remove_file(settings.ledger_file()).expect("the ledger is ours to remove");
        // A batch in flight may be removed with the file; the next batch writes all totals again.
        load.wait_for_answers(30);
    }
    let tally = load.stop();
    tally.audit(notch.total(), Doubt::None);
    notch.kill();
    tally.audit(settings.start().total(), Doubt::None);
}

#[test]
fn a_fault_of_the_disk_gives_the_right_status() {
    /// Makes notch rewrite the file at the next visit.
    const REWRITE: bool = true;
    let table: &[(&[Fault], bool, u16)] = &[
        // Nothing of the batch is in the file, or what was written of it is truncated.
        (&[("write", "fail", ENOSPC)], false, 503),
        (&[("write", "fail", EDQUOT)], false, 503),
        (&[("write", "fail", EIO)], false, 503),
        (&[("write", "short", ENOSPC)], false, 503),
        (&[("write", "done", EIO)], false, 503),
        (&[("write", "done", ENOSPC)], false, 503),
        (&[("write", "short", EIO), ("ftruncate", "fail", EIO)], false, 503),
        (&[("write", "short", EIO), ("fsync", "fail", EIO)], false, 503),
        (&[("write", "done", EIO), ("ftruncate", "done", EIO)], false, 504),
        // It is in the file and cannot be truncated, or not for certain.
        (&[("write", "done", EIO), ("ftruncate", "fail", EIO)], false, 504),
        (&[("write", "done", EIO), ("fsync", "fail", EIO)], false, 504),
        (&[("fdatasync", "fail", EIO)], false, 504),
        (&[("fdatasync", "done", ENOSPC)], false, 504),
        // An interrupted call is repeated.
        (&[("write", "once", EINTR)], false, 200),
        (&[("fdatasync", "once", EINTR)], false, 200),
        (&[("ftruncate", "once", EINTR), ("write", "done", EIO)], false, 503),
        // If the new file cannot be created, the old one is used; if it exists, it counts.
        (&[("write", "fail", ENOSPC)], REWRITE, 503),
        (&[("write", "short", EDQUOT)], REWRITE, 503),
        (&[("fsync", "fail", EIO)], REWRITE, 503),
        (&[("fsync", "done", EIO)], REWRITE, 503),
        (&[("rename", "fail", EIO)], REWRITE, 503),
        (&[("rename", "fail", EINTR)], REWRITE, 503),
        (&[("rename", "done", EIO)], REWRITE, 200),
        (&[("rename", "done", EINTR)], REWRITE, 200),
    ];
    for &(faults, must_rewrite, status) in table {
        for killed in [false, true] {
            let settings = ledger();
            let (disk, on_disk) = Disk::under(&settings);
            let mut tally = Tally::default();
            let notch = on_disk.start();
            (0..3).for_each(|_| tally.note_number(notch.visit()));
            let before = settings.read_ledger();
            if must_rewrite {
                provoke_rewrite(&settings);
            }
            disk.fail(faults);
            let response = notch.get("/count");
            assert_eq!(response.status, status, "{faults:?}: {response:?}");
            tally.note(&response);
            let reported = || notch.log().iter().any(|line| line.contains("WARN the disk under the ledger fails"));
            if status == 504 {
                wait_until("the error is logged", || reported().then_some(()));
            }
            if status == 503 && !must_rewrite && !faults.iter().any(|fault| fault.0 == "ftruncate" && fault.1 == "fail")
            {
                assert!(settings.read_ledger() == before, "{faults:?}: a batch that was refused is in the file");
            }
            if !killed {
                disk.recover();
                // A suspect file is replaced before the next visit is counted.
                (0..3).for_each(|_| tally.note(&notch.get("/count")));
                assert_eq!(tally.answered(), 6 + usize::from(status == 200), "{faults:?}: it does not count again");
                tally.audit(notch.total(), doubt(status));
            }
            notch.kill();
            let notch = settings.start();
            tally.audit(notch.total(), doubt(status));
            tally.note_number(notch.visit());
            tally.audit(notch.total(), doubt(status));
            let files = fs::read_dir(settings.folder()).expect("the test's own folder");
            let names: Vec<_> = files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect();
            assert!(!names.iter().any(|name| name.ends_with(".new")), "{faults:?}: {names:?}");
        }
    }
}

fn doubt(status: u16) -> Doubt {
    if status == 504 { Doubt::Possible } else { Doubt::None }
}

#[test]
fn a_disk_that_fails_in_all_ways_under_load() {
    let faults: [&[Fault]; 6] = [
        &[("write", "done", EIO)],
        &[("write", "short", ENOSPC)],
        &[("write", "done", EIO), ("ftruncate", "fail", EIO)],
        &[("fdatasync", "fail", EIO)],
        &[("fdatasync", "done", EIO), ("rename", "done", EIO)],
        &[("fdatasync", "fail", EIO), ("rename", "fail", EIO)],
    ];
    for fsync in ["always", "everysec"] {
        let settings = ledger().with("FSYNC", fsync);
        let (disk, on_disk) = Disk::under(&settings);
        let notch = on_disk.start();
        let load = Load::start(&notch, 4);
        for _ in 0..3 {
            for faults in faults {
                load.wait_for_answers(20);
                disk.fail(faults);
                // Whether a client sees it depends on the call.
                thread::sleep(Duration::from_millis(5));
                disk.recover();
            }
        }
        load.wait_for_answers(50);
        let tally = load.stop();
        tally.audit(notch.total(), Doubt::Possible);
        notch.kill();
        tally.audit(settings.start().total(), Doubt::Possible);
    }
}

#[test]
fn a_rejected_name_does_not_count_towards_the_limit() {
    let settings = ledger().with("COUNTERS", "*").with("MAX_COUNTERS", "1");
    let (disk, on_disk) = Disk::under(&settings);
    let notch = on_disk.start();
    for fault in [("write", "fail", ENOSPC), ("write", "done", EIO)] {
        disk.fail(&[fault]);
        notch.get("/count/a").assert_not_counted();
        disk.recover();
        assert_eq!(notch.get("/total/a").number(), 0);
    }
    disk.fail(&[("fdatasync", "fail", EIO)]);
    notch.get("/count/b").assert_in_doubt();
    disk.recover();
    assert_eq!(notch.get("/count/b").number(), 2);
    assert_eq!(notch.get("/count/a").status, 507);
    notch.kill();
    let notch = settings.start();
    assert_eq!((notch.get("/total/a").number(), notch.get("/total/b").number()), (0, 2));
    assert_eq!(notch.get("/count/a").status, 507);
}

#[test]
fn a_recovered_disk_is_detected_without_a_visit() {
    let settings = Settings::ledger();
    let (disk, on_disk) = Disk::under(&settings);
    let notch = on_disk.start();
    assert_eq!(notch.visit(), 1);
    let is_up = || notch.get("/metrics").text().contains("\nnotch_store_up 1\n");
    for fault in [("write", "fail", ENOSPC), ("write", "done", EIO), ("write", "short", EDQUOT)] {
        disk.fail(&[fault]);
        notch.get("/count").assert_not_counted();
        assert!(!is_up(), "{fault:?}");
        let before = settings.read_ledger();
        disk.recover();
        wait_until("the store counts again", || is_up().then_some(()));
        assert!(settings.read_ledger() == before, "the check of the store counts nothing");
    }
    assert_eq!(notch.visit(), 2);
    notch.kill();
    assert_eq!(settings.start().total(), 2);
}

#[test]
fn a_hanging_disk_does_not_delay_the_end() {
    for (fsync, drain, signals) in
        [("always", "1s", 1), ("everysec", "1s", 1), ("always", NEVER, 2), ("everysec", NEVER, 2)]
    {
        let settings = ledger().with("FSYNC", fsync).with("DRAIN_TIMEOUT", drain).with("WORKERS", "1");
        let (disk, on_disk) = Disk::under(&settings);
        let notch = on_disk.start();
        assert_eq!(notch.visit(), 1);
        disk.fail(&[("fdatasync", "hang", 0)]);
        let mut client = notch.client();
        client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut total = 1;
        let mut second = notch.client();
        if fsync == "always" {
            disk.until_hung();
            second.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n");
        } else {
            assert_eq!(client.response().number(), 2);
            total = 2;
        }
        for _ in 0..signals {
            notch.signal("TERM");
            wait_until("the signal is received", || {
                notch.log().iter().any(|line| line.contains("SIGTERM")).then_some(())
            });
        }
        if (fsync, signals) == ("always", 1) {
            // Waiting clients get the known outcome before the process ends.
            client.response().assert_in_doubt();
            second.response().assert_not_counted();
        }
        // The disk still hangs: the process does not wait for it.
        let (status, log) = notch.ended();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        assert_eq!(log.iter().any(|line| line.contains("WARN")), signals == 1, "{log:#?}");
        disk.recover();
        let notch = settings.start();
        assert!((total..=2).contains(&notch.total()));
    }
}

#[test]
fn a_hanging_disk_at_the_start_does_not_delay_the_end() {
    let settings = ledger();
    let (disk, on_disk) = Disk::under(&settings);
    disk.fail(&[("fsync", "hang", 0)]);
    let script = "\"$0\" & until [ -e faults.hung ]; do sleep 0.01; done; kill -TERM $!; wait $!";
    let ended = on_disk.with("PATH", "/usr/bin:/bin").with_wrapper(&["sh", "-c", script]).run(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    disk.recover();
    assert_eq!(settings.start().visit(), 1);
}

/// Visits per pipeline and pipelines that make a ledger of more than a megabyte.
const VISITS_PER_PIPELINE: usize = 250;
const PIPELINES: usize = 38;

#[test]
fn a_failed_sync_of_a_changed_ledger_is_reported() {
    // The first sync is that of the new file, the second that of its folder, after the rename.
    for (sync, part, total) in [(1, "nothing was changed", 7), (2, "a power cut may undo the change", 8)] {
        let settings = ledger();
        assert_eq!(settings.run(&["ledger", "set", "visits", "7"]).code, Some(0));
        let set = injected_at_start(&settings, &format!("fsync:error=EIO:when={sync}"));
        let set = set.run(&["ledger", "set", "visits", "8"]);
        assert!(set.code == Some(1) && set.stderr.contains(part), "{set:?}");
        assert_eq!(settings.start().total(), total);
    }
}
