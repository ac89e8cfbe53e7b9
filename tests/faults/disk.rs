//! A disk that refuses, and notch killed at every step of writing its ledger anew.
//!
//! strace makes the faults: it lets a system call on the ledger's files fail, or kills notch as it enters one. It only
//! counts the calls that name those files, so what it hits does not hang on anything else that the process does.

use std::fs::{self, OpenOptions};
use std::io::Write;

use super::audit::{Doubt, Tally};
use super::crowd::{Crowd, Visitor};
use crate::rig::{NEVER, Settings};

/// Has strace do this to calls on the ledger, the file that is to replace it, or their folder, by whichever name.
/// Opening the ledger itself is such a call only if its setting is the whole path.
fn injected(settings: &Settings, fault: &str) -> Settings {
    let path = settings.ledger_file().display().to_string();
    let (beside, folder) = (format!("{path}.new"), settings.folder().display().to_string());
    // As a grandchild (-D), so that the process we start is notch, which ends as it ends.
    let mut words = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
    for name in [&path, &beside, "./notch.ledger.new", &folder] {
        words.extend(["-P", name]);
    }
    let inject = format!("--inject={fault}");
    words.push(&inject);
    settings.clone().by_way_of(&words)
}

/// A disk may be slow because others use it: then visits wait, and none is in doubt for that.
fn ledger() -> Settings {
    Settings::ledger().with("STORE_TIMEOUT", NEVER)
}

/// The same by its whole path, so that opening it can fail.
fn named_whole() -> Settings {
    let settings = ledger();
    let path = settings.ledger_file().display().to_string();
    settings.with("LEDGER", &path)
}

/// Makes the file longer than notch believes, by what is no damage, so that the next batch writes it anew.
fn provoke_rewrite(settings: &Settings) {
    let file = OpenOptions::new().append(true).open(settings.ledger_file());
    file.and_then(|mut file| file.write_all(b"\0")).expect("the ledger is ours to spoil");
}

#[test]
fn killed_at_every_step_of_a_rewrite() {
    let settings = ledger();
    let mut tally = Tally::default();
    tally.note_number(settings.start().visit());
    // Each thread's calls are counted by themselves, and the one that starts makes none of these.
    for calls in ["openat", "write", "fsync", "fdatasync", "?rename,?renameat,?renameat2"] {
        let mut step = 1;
        loop {
            let notch = injected(&settings, &format!("{calls}:signal=SIGKILL:when={step}")).start();
            let mut visitor = Visitor::of(&notch);
            visitor.visit(1);
            provoke_rewrite(&settings);
            visitor.visit(1);
            let killed = visitor.tally.cut > 0;
            tally.absorb(visitor.tally);
            drop(notch);

            let notch = settings.start();
            tally.audit(notch.total(), Doubt::None);
            tally.note_number(notch.visit());
            let files = fs::read_dir(settings.folder()).expect("the test's own folder").count();
            assert_eq!(files, 1, "what was being written is cleared away after {calls} {step}");
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
fn calls_that_fail_now_and_then() {
    let calls = [("write", "ENOSPC"), ("write", "EIO"), ("fdatasync", "EIO"), ("fsync", "ENOSPC"), ("flock", "ENOLCK")];
    let opens = [("openat", "EROFS"), ("openat", "EMFILE"), ("?rename,?renameat,?renameat2", "EROFS")];
    for (call, error) in calls.into_iter().chain(opens) {
        let settings = ledger();
        let mut tally = Tally::default();
        tally.note_number(settings.start().visit());
        let notch = injected(&settings, &format!("{call}:error={error}:when=2+3")).start();
        let crowd = Crowd::at(&notch, 3);
        for _ in 0..10 {
            crowd.until_answered(20);
            provoke_rewrite(&settings);
        }
        crowd.until_answered(20);
        let told = crowd.leave();
        assert!(told.refused + told.doubts > 0, "{call} {error} was felt by nobody");
        // Only what was written whole and could not be synced is in doubt.
        let doubt = if call == "fdatasync" { Doubt::Possible } else { Doubt::None };
        tally.absorb(told);
        tally.audit(notch.total(), doubt);
        notch.kill();
        tally.audit(settings.start().total(), doubt);
    }
}

#[test]
fn grown_too_large_and_no_smaller_file_to_be_had() {
    let renames = "?rename,?renameat,?renameat2";
    for (fault, killed) in [("openat:error=EROFS", false), (&format!("{renames}:signal=SIGKILL"), true)] {
        // The longest key there is, and no sync: the file is to grow fast.
        let settings = ledger().with("COUNTER_KEY", &"k".repeat(62)).with("FSYNC", "never");
        let mut tally = Tally::default();
        tally.note_number(settings.start().visit());
        let notch = injected(&settings, fault).start();
        let mut client = notch.client();
        for _ in 0..LAPS {
            // Something else in between, so that each visit is a batch of its own.
            let visit = "GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /favicon.ico HTTP/1.1\r\nHost: h\r\n\r\n";
            let _ = client.try_send(visit.repeat(BREATH));
            let answers: Vec<_> = (0..2 * BREATH).map_while(|_| client.next_answer("GET")).collect();
            answers.iter().step_by(2).for_each(|answer| tally.note(answer));
            tally.cut += BREATH - answers.len().div_ceil(2);
        }
        assert_eq!(tally.cut > 0, killed, "{fault}");
        let size = settings.read_ledger().len();
        assert!(size >= 1 << 20, "{fault}: {size} bytes, which is not too large");
        notch.kill();
        tally.audit(settings.start().total(), Doubt::None);
    }
}

#[test]
fn a_start_that_the_disk_refuses_says_so_and_changes_nothing() {
    for (call, error, words) in [
        ("openat", "EROFS", "Read-only file system"),
        ("openat", "EACCES", "Permission denied"),
        ("flock", "ENOLCK", "No locks available"),
        ("read", "EIO", "Input/output error"),
    ] {
        let settings = named_whole();
        assert_eq!(settings.start().visit(), 1);
        let before = settings.read_ledger();
        let Err(refused) = injected(&settings, &format!("{call}:error={error}")).try_start() else {
            panic!("notch starts although {call} fails with {error}")
        };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger") && refused.stderr.contains(words), "{refused:?}");
        assert!(settings.read_ledger() == before, "{call} {error}: the file was changed");
        assert_eq!(settings.start().visit(), 2);
    }
}

#[test]
fn a_first_start_that_the_disk_refuses_can_be_tried_again() {
    let renames = "?rename,?renameat,?renameat2";
    for (call, error) in [("write", "ENOSPC"), ("fsync", "EIO"), (renames, "EROFS"), ("openat", "ENOSPC")] {
        let settings = named_whole();
        let Err(refused) = injected(&settings, &format!("{call}:error={error}")).try_start() else {
            panic!("notch starts although {call} fails with {error}")
        };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger"), "names the file: {refused:?}");
        assert_eq!(settings.start().visit(), 1);
    }
}

#[test]
fn full_and_free_again_under_load() {
    // A limit on the size of files is as good as a full disk, and as root as good as anybody.
    let settings = ledger();
    let notch = settings.clone().by_way_of(&["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).start();
    let crowd = Crowd::at(&notch, 4);
    for room in [0, 1, 20, 50, 64, 100, 1000] {
        crowd.until_answered(50);
        notch.limit("fsize", &(settings.read_ledger().len() + room).to_string());
        crowd.until_refused(10);
        notch.limit("fsize", "unlimited");
    }
    crowd.until_answered(50);
    let tally = crowd.leave();
    tally.audit(notch.total(), Doubt::None);
    notch.kill();
    tally.audit(settings.start().total(), Doubt::None);
}

#[test]
fn a_small_disk_fills_and_is_cleared() {
    let mount = "mkdir -p disk && mount -t tmpfs -o size=64k tmpfs disk && exec \"$0\" \"$@\"";
    let enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount];
    let settings = ledger().with("LEDGER", "disk/notch.ledger").with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let notch = settings.clone().by_way_of(&enter).start();
    let disk = format!("/proc/{}/root{}/disk", notch.id(), settings.folder().display());
    let crowd = Crowd::at(&notch, 4);
    for _ in 0..3 {
        crowd.until_answered(50);
        let mut filler = fs::File::create(format!("{disk}/filler")).expect("the disk, from outside");
        while filler.write_all(&[0; 512]).is_ok() {}
        crowd.until_refused(10);
        fs::remove_file(format!("{disk}/filler")).expect("the filler is ours to remove");
    }
    crowd.until_answered(50);
    crowd.leave().audit(notch.total(), Doubt::None);
}

#[test]
fn removed_again_and_again_under_load() {
    let settings = ledger();
    let notch = settings.start();
    let crowd = Crowd::at(&notch, 4);
    for _ in 0..20 {
        crowd.until_answered(30);
        fs::remove_file(settings.ledger_file()).expect("the ledger is ours to remove");
        // What is on its way meanwhile may go with the file; the next batch after it brings all of it back.
        crowd.until_answered(30);
    }
    let tally = crowd.leave();
    tally.audit(notch.total(), Doubt::None);
    notch.kill();
    tally.audit(settings.start().total(), Doubt::None);
}

/// Visits in one breath, and breaths, for a ledger of more than a megabyte.
const BREATH: usize = 250;
const LAPS: usize = 38;
