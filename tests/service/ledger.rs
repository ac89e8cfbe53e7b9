//! The ledger: what it preserves, what it rejects, and that Redis reads the file unchanged.
//!
//! The tests use the documented format: RESP commands, the first of them `ECHO "notch ledger 1"`, then batches of
//! `INCRBY key n`, each ended by an `ECHO` of eight hexadecimal digits.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::{Notch, Redis, Response, Settings, wait_until};

#[test]
fn the_first_start_creates_the_file_and_later_ones_continue() {
    for fsync in ["always", "everysec", "never"] {
        let settings = Settings::ledger().with("FSYNC", fsync);
        assert!(!settings.ledger_file().exists());
        let notch = settings.start();
        assert!(settings.ledger_file().exists(), "it is there before the first visit");
        assert_eq!((1..=3).map(|_| notch.visit()).collect::<Vec<_>>(), [1, 2, 3]);
        let notch = notch.stop().start();
        assert_eq!(notch.total(), 3, "FSYNC={fsync}");
        assert_eq!(notch.visit(), 4);
        // Only the process is killed, not the system: written batches are in the file, synced or not.
        let notch = notch.kill().start();
        assert_eq!(notch.visit(), 5, "FSYNC={fsync}");
    }
}

#[test]
fn the_path_of_the_ledger_is_a_setting() {
    let settings = Settings::ledger().with("LEDGER", "other name.count");
    let notch = settings.start();
    assert_eq!(notch.visit(), 1);
    notch.stop();
    assert!(settings.folder().join("other name.count").exists());
    assert!(!settings.ledger_file().exists());
}

#[test]
fn every_counted_visit_survives_a_kill_under_load() {
    for fsync in ["always", "never"] {
        let mut settings = Settings::ledger().with("FSYNC", fsync);
        let mut answered = BTreeSet::new();
        for round in 1..=4 {
            let notch = settings.start();
            let before = notch.total();
            let visitors: Vec<_> = (0..8).map(|_| thread::spawn(visitor(&notch))).collect();
            wait_until("the load is on", || (notch.total() > before + 150).then_some(()));
            settings = notch.kill();
            let numbers: Vec<_> =
                visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect();
            let count = answered.len() + numbers.len();
            answered.extend(numbers);
            assert_eq!(answered.len(), count, "round {round}: a number was given out twice");
            let total = settings.start().total();
            let last = *answered.last().expect("a visit was counted");
            // The total may include one visit without a response for each visitor.
            assert!((last..=last + 8).contains(&total), "round {round}: {total} after {last} was answered");
        }
    }
}

/// Visits on one connection until it breaks, and returns the numbers.
fn visitor(notch: &Notch) -> impl FnOnce() -> Vec<i64> + Send + 'static {
    let mut client = notch.client();
    move || {
        let mut numbers = Vec::new();
        while client.try_send("GET /count HTTP/1.1\r\nHost: h\r\n\r\n").is_ok() {
            let Some(response) = client.next_response("GET") else { break };
            numbers.push(response.number());
        }
        numbers
    }
}

#[test]
fn one_batch_serves_concurrent_visits() {
    let settings = Settings::ledger().with("FSYNC", "always");
    let notch = settings.start();
    let visitors = 32;
    let each = 25;
    let visitors: Vec<_> = (0..visitors)
        .map(|_| {
            let mut client = notch.client();
            thread::spawn(move || (0..each).map(|_| client.get("/count").number()).collect::<Vec<_>>())
        })
        .collect();
    let mut numbers: Vec<_> =
        visitors.into_iter().flat_map(|visitor| visitor.join().expect("visitors do not panic")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=800).collect::<Vec<_>>(), "unique and without a gap");
    notch.stop();
    let batches = batches(&settings.read_ledger()).len();
    // The number of visits in a batch depends on the disk; batches of one would be no group commit.
    assert!(batches < 800, "{batches} batches for 800 visits");
}

#[test]
fn redis_reads_the_ledger_unchanged() {
    let settings = Settings::ledger().with("COUNTER_KEY", "shop:visits");
    let notch = settings.start();
    (0..25).for_each(|_| assert!(notch.visit() > 0));
    let settings = notch.stop();
    let notch = settings.start();
    (0..17).for_each(|_| assert!(notch.visit() > 0));
    notch.stop();

    let redis = Redis::start(&[]);
    let file = File::open(settings.ledger_file()).expect("the ledger that notch wrote");
    let port = redis.plain_port.to_string();
    let mut pipe = Command::new("redis-cli");
    let message = pipe.args(["-h", "127.0.0.1", "-p", &port, "--pipe"]).stdin(Stdio::from(file)).output();
    let message = message.expect("redis-cli is missing: install redis-tools (Debian: apt-get install redis-tools)");
    let text = String::from_utf8_lossy(&message.stdout).into_owned();
    assert!(message.status.success() && text.contains("errors: 0"), "{message:?}");
    assert_eq!(redis.query("KEYS *"), "shop:visits");
    assert_eq!(redis.query("GET shop:visits"), "42");
    // The count continues there.
    let notch = Settings::redis(redis.port).with("COUNTER_KEY", "shop:visits").start();
    assert_eq!(notch.visit(), 43);
}

#[test]
fn the_format_is_as_described() {
    let settings = Settings::ledger();
    let notch = settings.start();
    (0..3).for_each(|_| assert!(notch.visit() > 0));
    notch.stop();
    let file = settings.read_ledger();
    assert_eq!(commands(&file)[0].arguments, ["ECHO", "notch ledger 1"]);
    let batches = batches(&file);
    assert_eq!(batches.len(), 3, "visitors one after the other are not in one batch");
    for batch in batches {
        let (checksum, counts) = batch.commands.split_last().expect("no batch is empty");
        assert_eq!(counts.iter().map(|count| &count.arguments).collect::<Vec<_>>(), [&["INCRBY", "visits", "1"]]);
        assert_eq!(checksum.arguments.len(), 2);
        assert_eq!(checksum.arguments[0], "ECHO");
        assert!(checksum.arguments[1].len() == 8 && checksum.arguments[1].bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[test]
fn a_torn_tail_is_truncated() {
    let (settings, complete) = ledger_of(4);
    let last = batches(&complete).pop().expect("four batches");
    for length in last.start..last.end {
        settings.write_ledger(&complete[..length]);
        let notch = settings.start();
        assert_eq!(notch.total(), 3, "cut at {length}, {} into the last batch", length - last.start);
        let cut = notch.log().iter().any(|line| line.contains("cut") || line.contains("torn"));
        assert_eq!(cut, length > last.start, "logged if and only if something was truncated: {:#?}", notch.log());
        assert_eq!(notch.visit(), 4);
        assert_eq!(notch.kill().start().visit(), 5, "what was written behind the cut is sound");
    }
}

#[test]
fn a_batch_of_many_counts_whole_or_not_at_all() {
    let settings = Settings::ledger();
    let notch = settings.start();
    let visitors: Vec<_> = (0..16).map(|_| thread::spawn(visitor(&notch))).collect();
    wait_until("the load is on", || (notch.total() > 200).then_some(()));
    notch.kill();
    visitors.into_iter().for_each(|visitor| drop(visitor.join().expect("visitors do not panic")));
    let complete = settings.read_ledger();
    let batches = batches(&complete);
    let large = batches.iter().position(|batch| batch.count() > 1).expect("a batch of many among that many visits");
    let before: i64 = batches[..large].iter().map(Batch::count).sum();
    let checksum = batches[large].commands.last().expect("no batch is empty");
    for length in [checksum.start, checksum.start + 1, checksum.end - 1] {
        settings.write_ledger(&complete[..length]);
        assert_eq!(settings.start().total(), before);
    }
    settings.write_ledger(&complete[..batches[large].end]);
    assert_eq!(settings.start().total(), before + batches[large].count());
}

#[test]
fn a_torn_header_is_written_again() {
    let (settings, complete) = ledger_of(1);
    let header = commands(&complete)[0].end;
    for length in 0..=header {
        settings.write_ledger(&complete[..length]);
        let notch = settings.start();
        assert_eq!(notch.total(), 0, "{length} bytes of the first line");
        assert_eq!(notch.visit(), 1);
        assert_eq!(notch.kill().start().visit(), 2);
    }
}

#[test]
fn damage_in_the_middle_is_rejected_and_the_file_is_unchanged() {
    let (settings, complete) = ledger_of(5);
    let batches = batches(&complete);
    let (first, last) = (batches[1].start, batches[3].end);
    let mut damaged: Vec<(usize, Vec<u8>)> = Vec::new();
    for offset in first..last {
        for flip in [0x01, 0x80] {
            let mut bytes = complete.clone();
            bytes[offset] ^= flip;
            damaged.push((offset, bytes));
        }
    }
    // A length that includes all following bytes must not look like a torn tail.
    for offset in (first..last).filter(|offset| complete[*offset] == b'$' || complete[*offset] == b'*') {
        for length in ["9", "99", "999", "9999", "999999999"] {
            let mut bytes = complete.clone();
            bytes.splice(offset + 1..offset + 2, length.bytes());
            damaged.push((offset, bytes));
        }
    }
    // A batch that is missing, one that is repeated, two in the wrong order.
    let (one, two) = (&complete[first..batches[1].end], &complete[batches[2].start..batches[2].end]);
    let (head, tail) = (&complete[..first], &complete[batches[2].end..]);
    damaged.push((first, [head, two, tail].concat()));
    damaged.push((batches[1].end, [head, one, one, two, tail].concat()));
    damaged.push((first, [head, two, one, tail].concat()));
    // Zeros, as a disk may leave them, followed by a valid batch.
    damaged.push((first, [head, &vec![0; one.len()], two, tail].concat()));
    // Arbitrary bytes.
    damaged.push((first, [head, b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n1\r\n", one, two, tail].concat()));
    damaged.push((first, [head, b"*2\r\n$3\r\nDEL\r\n$6\r\nvisits\r\n", one, two, tail].concat()));
    damaged.push((first, [head, b"\r\n", one, two, tail].concat()));

    for (offset, bytes) in damaged {
        settings.write_ledger(&bytes);
        let refused = settings.try_start().err();
        let refused = refused.unwrap_or_else(|| panic!("notch starts with damage at {offset}"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger"), "names the file: {refused:?}");
        let batch = batches.iter().rfind(|batch| batch.start <= offset).expect("damaged within the batches");
        let message: Vec<usize> = refused.stderr.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
        let near = message.iter().any(|offset| (batch.start..batch.end).contains(offset));
        assert!(near, "damage at {offset} is reported with its position: {refused:?}");
        assert!(settings.read_ledger() == bytes, "damage at {offset}: the file was changed");
    }
}

#[test]
fn a_file_of_another_program_is_rejected_and_unchanged() {
    let of_redis = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$6\r\nvisits\r\n$1\r\n5\r\n";
    let newer = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 2\r\n";
    let headless = b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n1\r\n*2\r\n$4\r\nECHO\r\n$8\r\n00000000\r\n";
    for bytes in [&b"hello\n"[..], b"42", b"\n", &[0; 100], b"\x7fELF\x02\x01\x01", of_redis, newer, headless] {
        let settings = Settings::ledger();
        settings.write_ledger(bytes);
        let Err(refused) = settings.try_start() else { panic!("notch takes {bytes:?} for its own") };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("notch.ledger"), "names the file: {refused:?}");
        assert_eq!(settings.read_ledger(), bytes);
        let files = fs::read_dir(settings.folder()).expect("the test's own folder").count();
        assert_eq!(files, 1, "no other file remains");
    }
}

#[test]
fn a_path_that_cannot_be_a_file_is_reported() {
    let settings = Settings::ledger();
    fs::create_dir(settings.folder().join("folder")).expect("a folder of the test's own");
    fs::write(settings.folder().join("file"), "x").expect("a file of the test's own");
    for offset in ["folder", "missing/notch.ledger", "file/notch.ledger", "/dev/null"] {
        let Err(refused) = settings.clone().with("LEDGER", offset).try_start() else { panic!("counts into {offset}") };
        assert!(matches!(refused.code, Some(1 | 2)), "{refused:?}");
        assert!(refused.stderr.contains(offset), "names the file: {refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }
}

#[test]
fn the_start_line_names_the_file_and_its_total() {
    let settings = Settings::ledger();
    let file = fs::canonicalize(settings.folder()).expect("the test's own folder").join("notch.ledger");
    let file = file.display().to_string();
    let message = |notch: &Notch, level: &str| {
        let lines = notch.log().into_iter().filter(|line| line.contains(&file) && line.contains(level));
        lines.collect::<Vec<_>>().join("\n")
    };
    let notch = settings.start();
    assert!(message(&notch, "INFO").contains(": created, counting starts at 0)"), "{:#?}", notch.log());
    notch.stop();
    let notch = settings.start();
    assert!(message(&notch, "INFO").contains(": 0 visits so far)"), "{:#?}", notch.log());
    (0..41).for_each(|_| assert!(notch.visit() > 0));
    notch.kill();
    let notch = settings.start();
    assert!(message(&notch, "INFO").contains(": 41 visits so far)"), "{:#?}", notch.log());
    assert_eq!(message(&notch, "WARN"), "");
    notch.stop();

    // Counts of another key are preserved, but not included.
    let notch = settings.clone().with("COUNTER_KEY", "hits").start();
    let warning = message(&notch, "WARN");
    assert!(["COUNTER_KEY", "visits", "hits"].iter().all(|argument| warning.contains(argument)), "{warning}");
    assert_eq!(notch.total(), 0);
    assert_eq!(notch.visit(), 1);
    notch.stop();
    for (key, total) in [("hits", 1), ("visits", 41)] {
        let notch = settings.clone().with("COUNTER_KEY", key).start();
        assert!(message(&notch, "INFO").contains(&format!(": {total} visits so far)")), "{:#?}", notch.log());
        assert_eq!((message(&notch, "WARN"), notch.total()), (String::new(), total));
        notch.stop();
    }

    settings.write_ledger(b"");
    let notch = settings.start();
    assert!(message(&notch, "WARN").contains("is empty"), "{:#?}", notch.log());
    assert_eq!(notch.visit(), 1);
}

#[test]
fn a_missing_folder_is_reported() {
    let settings = Settings::ledger();
    for (offset, folder) in [("data/notch.ledger", "data"), ("/no/such/folder/file", "/no/such/folder")] {
        let Err(refused) = settings.clone().with("LEDGER", offset).try_start() else { panic!("counts into {offset}") };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("there is no folder /"), "{refused:?}");
        assert!(refused.stderr.contains(&format!("{folder}: create it")), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }
}

/// Starts notch through a shell that may mount, in its own namespace.
fn mounted(settings: &Settings, mounts: &str) -> Settings {
    let script = format!("{mounts} && exec \"$0\" \"$@\"");
    let command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", &script];
    settings.clone().with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").with_wrapper(&command)
}

#[test]
fn a_file_that_cannot_be_replaced_is_rejected_at_the_start() {
    let sound = ledger_of(3).1;
    // Bind-mounted on itself, from another folder, from another file system; in a read-only folder; and by a link.
    for (mounts, offset, reason) in [
        ("mount --bind notch.ledger notch.ledger", "notch.ledger", "mount its folder"),
        ("mkdir data && touch data/file && mount --bind notch.ledger data/file", "data/file", "mount its folder"),
        (
            "mkdir disk data && touch data/file && mount -t tmpfs tmpfs disk && cp notch.ledger disk/ &&
             mount --bind disk/notch.ledger data/file",
            "data/file",
            "mount its folder",
        ),
        (
            "mkdir data && touch data/file && mount -t tmpfs tmpfs data && touch data/file &&
             mount --bind notch.ledger data/file && mount -o remount,ro data",
            "data/file",
            "Read-only file system",
        ),
        ("mount --bind notch.ledger notch.ledger && ln -s notch.ledger name", "name", "mount its folder"),
    ] {
        for content in [&sound[..], b""] {
            let settings = Settings::ledger();
            settings.write_ledger(content);
            let started = mounted(&settings, mounts).with("LEDGER", offset).try_start();
            let Err(refused) = started else { panic!("{offset} of {mounts} can never be replaced") };
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(refused.stderr.contains(offset) && refused.stderr.contains(reason), "{mounts}: {refused:?}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
            assert!(settings.read_ledger() == content, "{mounts}: the file was changed");
            for folder in ["", "data"] {
                let left = settings.folder().join(folder).read_dir().into_iter().flatten().flatten();
                let left: Vec<_> =
                    left.filter(|file| file.path().extension().is_some_and(|end| end == "new")).collect();
                assert!(left.is_empty(), "{mounts}: {left:?}");
            }
        }
    }
}

#[test]
fn a_folder_may_be_a_mount_point() {
    let settings = Settings::ledger().with("LEDGER", "data/notch.ledger");
    let mount = "mkdir -p data disk && mount --bind disk data";
    let notch = mounted(&settings, mount).start();
    assert_eq!(notch.visit(), 1);
    notch.stop();
    let notch = mounted(&settings, mount).start();
    assert_eq!(notch.visit(), 2);
    assert!(settings.folder().join("disk/notch.ledger").exists());
}

/// Starts notch as a user that owns the folder and is subject to its mode.
fn bound_by_modes(settings: &Settings) -> Settings {
    settings.clone().with_wrapper(&["unshare", "--user"])
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a path of the test's own");
}

#[test]
fn a_path_without_write_access_is_rejected_with_the_user() {
    let (settings, sound) = ledger_of(2);
    for (folder, file) in [(0o555, 0o644), (0o755, 0o444), (0o300, 0o600)] {
        set_mode(settings.folder(), folder);
        set_mode(&settings.ledger_file(), file);
        let started = bound_by_modes(&settings).try_start();
        set_mode(settings.folder(), 0o755);
        set_mode(&settings.ledger_file(), 0o644);
        let Err(refused) = started else { panic!("counts in a folder of {folder:o} in a file of {file:o}") };
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("Permission denied") && refused.stderr.contains("uid "), "{refused:?}");
        assert!(refused.stderr.contains("which owns ") && refused.stderr.contains("chmod"), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(settings.read_ledger() == sound, "the file was changed");
    }
    assert_eq!(bound_by_modes(&settings).start().visit(), 3);
}

#[test]
fn a_folder_of_another_user_is_rejected_with_both_users() {
    let settings = Settings::ledger();
    // Only root may change the owner of a folder; for other users, a system folder has another owner.
    let given = std::os::unix::fs::chown(settings.folder(), Some(4321), None).is_ok();
    let folder = if given { settings.folder().to_owned() } else { "/".into() };
    let ledger = folder.join("notch.ledger");
    let settings = settings.clone().with("LEDGER", &ledger.to_string_lossy());
    // Without capabilities, as another user.
    let refused = settings.with_wrapper(&["unshare", "--user", "--map-user=1234"]).run(&[]);
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    let folder = folder.display();
    for message in
        ["notch runs as uid 1234", &format!("{folder} belongs to uid "), &format!("`chown 1234 {folder}`"), "LEDGER"]
    {
        assert!(refused.stderr.contains(message), "{message}: {refused:?}");
    }
    assert!(!ledger.exists());
}

#[test]
fn a_folder_that_becomes_read_only_affects_no_visit() {
    for mode in [0o555, 0o000] {
        let settings = Settings::ledger().with("FSYNC", "never").with("WORKERS", "1");
        let key = "k".repeat(62);
        let settings = settings.with("COUNTER_KEY", &key);
        let notch = bound_by_modes(&settings).start();
        assert_eq!(notch.visit(), 1);
        set_mode(settings.folder(), mode);
        let mut client = notch.client();
        let (rounds, visits) = (44, 250);
        for round in 0..rounds {
            // A read in between makes each visit its own batch.
            let visit = "GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /favicon.ico HTTP/1.1\r\nHost: h\r\n\r\n";
            client.send(visit.repeat(visits));
            for step in 1..=visits {
                assert_eq!(client.response().number(), (round * visits + step + 1) as i64);
                assert_eq!(client.response().status, 204);
            }
        }
        let total = (rounds * visits) as i64 + 1;
        // A batch that does not fit is truncated, without a new file.
        set_mode(settings.folder(), 0o755);
        let size = settings.read_ledger().len();
        set_mode(settings.folder(), mode);
        assert!(size > 5 << 18, "{size} bytes are not too large");
        notch.limit("fsize", &(size + 9).to_string());
        notch.get("/count").assert_not_counted();
        notch.limit("fsize", "unlimited");
        assert_eq!(notch.visit(), total + 1);
        set_mode(settings.folder(), 0o755);
        notch.kill();
        let notch = settings.start();
        assert_eq!(notch.visit(), total + 2);
    }
}

#[test]
fn the_limit_of_names_does_not_include_the_main_counter() {
    let settings = Settings::ledger().with("FSYNC", "never").with("COUNTERS", "*");
    let few = settings.clone().with("MAX_COUNTERS", "3");
    let notch = few.start();
    for name in ["a", "b", "c"] {
        assert_eq!(notch.get(&format!("/count/{name}")).number(), 1);
    }
    assert_eq!(notch.get("/count/d").status, 507);
    assert_eq!(notch.visit(), 1, "the main counter is not limited");
    assert_eq!(notch.get("/count/a").number(), 2, "those that are there count on");
    assert_eq!(notch.get("/total/d").number(), 0);
    notch.kill();
    let notch = few.with("MAX_COUNTERS", "4").start();
    assert_eq!(notch.get("/count/d").number(), 1, "the bound is raised");
    assert_eq!(notch.get("/count/e").status, 507);
    notch.kill();
    // A limit below the counters of the file: none of them is rejected.
    let notch = settings.clone().with("MAX_COUNTERS", "1").start();
    for (name, number) in [("a", 3), ("b", 2), ("c", 2), ("d", 2)] {
        assert_eq!(notch.get(&format!("/count/{name}")).number(), number);
    }
    assert_eq!(notch.get("/count/e").status, 507);
    assert_eq!(notch.visit(), 2);
    notch.kill();
    // All names of a list are accepted.
    let notch = settings.with("COUNTERS", "a,x,y,z").with("MAX_COUNTERS", "1").start();
    for (name, number) in [("a", 4), ("x", 1), ("y", 1), ("z", 1)] {
        assert_eq!(notch.get(&format!("/count/{name}")).number(), number);
    }
}

#[test]
fn a_second_process_cannot_open_the_ledger() {
    let settings = Settings::ledger();
    let first = settings.start();
    assert_eq!(first.visit(), 1);
    let before = settings.read_ledger();
    let Err(refused) = settings.try_start() else { panic!("two processes count into one file") };
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("notch.ledger"), "names the file: {refused:?}");
    assert_eq!(settings.read_ledger(), before);
    assert_eq!(first.visit(), 2, "the first counts on");
    // The lock ends with the process, also after a kill.
    assert_eq!(first.kill().start().visit(), 3);
}

#[test]
fn a_large_ledger_is_rewritten() {
    let settings = Settings::ledger().with("FSYNC", "never").with("WORKERS", "1");
    fs::write(settings.folder().join("notch.ledger.new"), "left over").expect("a file of the test's own");
    let notch = settings.start();
    let mut client = notch.client();
    let (rounds, visits) = (120, 250);
    for round in 0..rounds {
        // Something else in between, so that each visit is its own batch.
        let visit = "GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /favicon.ico HTTP/1.1\r\nHost: h\r\n\r\n";
        client.send(visit.repeat(visits));
        for step in 1..=visits {
            assert_eq!(client.response().number(), (round * visits + step) as i64);
            assert_eq!(client.response().status, 204);
        }
    }
    let total = (rounds * visits) as i64;
    notch.kill();
    let file = settings.read_ledger();
    assert!(file.len() < 3 << 19, "{} bytes after {total} visits, one after the other", file.len());
    assert_eq!(batches(&file).iter().map(Batch::count).sum::<i64>(), total);
    assert_eq!(settings.start().total(), total);
}

#[test]
fn a_full_disk_rejects_visits_and_damages_nothing() {
    // A limit on the size of files has the effect of a full disk, also for root.
    let settings = Settings::ledger().with("WORKERS", "1");
    let mut counted = 0;
    // No space at all, no space for another byte, and space for a part of a batch.
    for free_bytes in [None, Some(0), Some(1), Some(30), Some(50)] {
        let notch = settings.start();
        assert_eq!(notch.visit(), counted + 1);
        assert_eq!(notch.visit(), counted + 2);
        counted += 2;
        let size = settings.read_ledger().len();
        notch.limit("fsize", &free_bytes.map_or(1, |bytes| size + bytes).to_string());
        notch.get("/count").assert_not_counted();
        for _ in 0..3 {
            // A rewritten file may be so much smaller that there is space again.
            let response = notch.get("/count");
            if response.status == 200 {
                counted += 1;
                assert_eq!(response.number(), counted);
            } else {
                response.assert_not_counted();
            }
            assert!(free_bytes.is_some() || response.status == 503, "there is no free space: {response:?}");
        }
        assert_eq!(notch.total(), counted);
        assert_eq!(notch.get("/").status, 200);
        notch.limit("fsize", "unlimited");
        assert_eq!(notch.visit_when_it_counts(), counted + 1, "with free space it counts again");
        counted += 1;
        notch.kill();
        assert_eq!(settings.start().total(), counted);
    }
}

#[test]
fn killed_with_a_full_disk_it_starts_again() {
    let shell = "ulimit -S -f 4; exec \"$0\" \"$@\"";
    let settings = Settings::ledger();
    let notch = settings.clone().with_wrapper(&["sh", "-c", shell]).start();
    let refused = |response: &Response| response.status != 200;
    let counted = (0..10_000).take_while(|_| !refused(&notch.get("/count"))).count() as i64;
    assert!((1..10_000).contains(&counted));
    notch.kill();
    let notch = settings.start();
    assert_eq!(notch.total(), counted);
    assert_eq!(notch.visit(), counted + 1);
}

/// Returns settings with a ledger of this many batches of one visit, not in use.
fn ledger_of(visits: i64) -> (Settings, Vec<u8>) {
    let settings = Settings::ledger().with("FSYNC", "never");
    let notch = settings.start();
    (1..=visits).for_each(|number| assert_eq!(notch.visit(), number));
    notch.kill();
    let bytes = settings.read_ledger();
    assert_eq!(batches(&bytes).len() as i64, visits);
    (settings, bytes)
}

#[derive(Clone, Debug)]
struct Line {
    start: usize,
    end: usize,
    arguments: Vec<String>,
}

struct Batch {
    start: usize,
    end: usize,
    commands: Vec<Line>,
}

impl Batch {
    fn count(&self) -> i64 {
        let counts = self.commands.iter().filter(|command| command.arguments[0] == "INCRBY");
        counts.map(|count| count.arguments[2].parse::<i64>().expect("a count")).sum()
    }
}

/// Returns the complete commands in a ledger.
fn commands(file: &[u8]) -> Vec<Line> {
    let mut commands = Vec::new();
    let mut rest = file;
    while let Some((arguments, after)) = command(rest) {
        let (start, end) = (file.len() - rest.len(), file.len() - after.len());
        commands.push(Line { start, end, arguments });
        rest = after;
    }
    commands
}

fn command(bytes: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let (count, mut rest) = header(bytes, b'*')?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (length, after) = header(rest, b'$')?;
        let (argument, after) = after.split_at_checked(length)?;
        arguments.push(String::from_utf8(argument.to_vec()).expect("a ledger is ASCII"));
        rest = after.strip_prefix(b"\r\n")?;
    }
    Some((arguments, rest))
}

fn header(bytes: &[u8], mark: u8) -> Option<(usize, &[u8])> {
    let rest = bytes.strip_prefix(&[mark])?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((number, &rest[end + 2..]))
}

/// Returns the batches after the first command, each with its checksum.
fn batches(file: &[u8]) -> Vec<Batch> {
    let commands = commands(file);
    let batches = commands[1..].split_inclusive(|command| command.arguments[0] == "ECHO");
    let batch = |commands: &[Line]| Batch {
        start: commands[0].start,
        end: commands[commands.len() - 1].end,
        commands: commands.to_vec(),
    };
    batches.map(batch).collect()
}
