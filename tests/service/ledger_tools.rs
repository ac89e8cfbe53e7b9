//! `notch ledger`: what it prints, what it changes, and that a kill leaves the ledger as it was or as it shall be.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Redis, Settings, wait_until};

/// Runs `notch ledger` and returns its standard output; the test fails unless its exit code is `code`.
fn tool(settings: &Settings, arguments: &[&str], code: i32) -> (String, String) {
    tool_with_input(settings, arguments, None, code)
}

/// Does the same with `input`, which is passed through a file.
fn tool_with_input(settings: &Settings, arguments: &[&str], input: Option<&str>, code: i32) -> (String, String) {
    let input = input.map(|input| {
        let path = settings.folder().join("input");
        fs::write(&path, input).expect("an input written for the test");
        Stdio::from(File::open(path).expect("the input"))
    });
    let exit = settings.run_with_input(&[&["ledger"], arguments].concat(), input.unwrap_or_else(Stdio::null));
    assert_eq!((exit.code, exit.stderr.lines().count()), (Some(code), 1), "{arguments:?}: {exit:?}");
    (exit.stdout, exit.stderr)
}

fn show(settings: &Settings) -> String {
    tool(settings, &["show"], 0).0
}

#[test]
fn the_help_is_one_screen_and_has_every_command() {
    for argument in ["--help", "-h"] {
        let help = Settings::ledger().run(&["ledger", argument]);
        assert_eq!((help.code, &*help.stderr), (Some(0), ""), "{help:?}");
        for name in ["show", "check", "set", "compact", "export", "import", "LEDGER"] {
            assert!(help.stdout.contains(name), "{name} in:\n{}", help.stdout);
        }
        assert!(help.stdout.lines().count() <= 24 && help.stdout.lines().all(|line| line.len() <= 80));
    }
    assert!(Settings::ledger().run(&["--help"]).stdout.contains("notch ledger --help"));
}

#[test]
fn wrong_usage_is_one_line_and_changes_nothing() {
    for (arguments, part) in [
        (&[][..], "no command"),
        (&["list"], "unknown argument \"list\""),
        (&["show", "a", "b"], "unknown argument \"b\""),
        (&["show", "--all"], "unknown argument \"--all\""),
        (&["show", ""], "unknown argument \"\""),
        (&["set", "visits"], "a key and a total"),
        (&["set", "visits", "many"], "invalid value \"many\": expected a total from 0"),
        (&["set", "visits", "9223372036854775808"], "invalid value \"9223372036854775808\""),
        (&["set", "two\nwords", "1"], "invalid value \"two?words\": expected 1 to 95 printable ASCII"),
    ] {
        let settings = Settings::ledger();
        let (stdout, stderr) = tool(&settings, arguments, 2);
        assert!(stdout.is_empty() && stderr.contains(part), "{arguments:?}: {stderr}");
        assert!(!settings.ledger_file().exists());
    }
    let invalid = Settings::ledger().with("COUNTER_KEY", "two words").run(&["ledger", "show"]);
    assert_eq!(invalid.code, Some(2));
    assert!(invalid.stderr.contains("COUNTER_KEY"), "{invalid:?}");
}

#[test]
fn counters_are_shown_also_while_they_count() {
    let settings = Settings::ledger().with("COUNTERS", "blog,shop");
    let notch = settings.start();
    assert_eq!((notch.visit(), notch.visit(), notch.get("/count/shop").number()), (1, 2, 1));
    assert_eq!(show(&settings), "visits 2\nvisits:shop 1\n");
    let (stdout, summary) = tool(&settings, &["check"], 0);
    assert_eq!(stdout, "");
    let length = settings.read_ledger().len();
    let path = settings.ledger_file();
    assert_eq!(
        summary.trim_end(),
        format!(
            "notch: {}: counters: 2, bytes: {length}, batches: 3, all checksums are right; the last batch ends at \
             byte {length}",
            path.display()
        )
    );
    // What changes the file is refused meanwhile.
    for arguments in [&["set", "visits", "9"][..], &["compact"], &["import"]] {
        let (_, refused) = tool(&settings, arguments, 1);
        assert!(refused.contains("another process uses it"), "{arguments:?}: {refused}");
    }
    assert_eq!(notch.visit(), 3);
    notch.stop();
    let elsewhere = settings.with("LEDGER", "elsewhere");
    assert_eq!(tool(&elsewhere, &["show", &path.to_string_lossy()], 0).0, "visits 3\nvisits:shop 1\n");
    for command in ["show", "check", "export", "compact"] {
        let (_, missing) = tool(&elsewhere, &[command], 1);
        assert!(missing.contains("No such file"), "{missing}");
    }
    assert!(!elsewhere.folder().join("elsewhere").exists(), "reading creates no file");
}

#[test]
fn a_counter_is_set_before_the_first_start_and_later() {
    let settings = Settings::ledger().with("COUNTERS", "*");
    tool(&settings, &["set", "visits", "12345"], 0);
    let notch = settings.start();
    assert_eq!((notch.visit(), notch.get("/count/blog").number()), (12346, 1));
    let settings = notch.stop();
    fs::set_permissions(settings.ledger_file(), fs::Permissions::from_mode(0o640)).expect("our own file");
    // Only root may give a file to another user, and then keeps it theirs.
    let _ = std::os::unix::fs::chown(settings.ledger_file(), Some(4321), Some(4321));
    let owner = |settings: &Settings| {
        let file = fs::metadata(settings.ledger_file()).expect("the ledger");
        (file.uid(), file.gid(), file.mode() & 0o777)
    };
    let before = owner(&settings);
    tool(&settings, &["set", "visits:blog", "100"], 0);
    tool(&settings, &["set", "visits", "5"], 0);
    assert_eq!(show(&settings), "visits 5\nvisits:blog 100\n");
    assert_eq!(owner(&settings), before);
    tool(&settings, &["set", "visits:blog", "0"], 0);
    assert_eq!(show(&settings), "visits 5\n");
    let notch = settings.start();
    assert_eq!((notch.visit(), notch.get("/count/blog").number()), (6, 1));
}

#[test]
fn a_compact_file_has_one_batch() {
    let settings = Settings::ledger();
    let notch = settings.start();
    (1..=50).for_each(|number| assert_eq!(notch.visit(), number));
    let settings = notch.stop();
    let before = settings.read_ledger().len();
    let (_, summary) = tool(&settings, &["compact"], 0);
    assert!(summary.contains("batches: 1,"), "{summary}");
    assert!(settings.read_ledger().len() * 10 < before);
    assert_eq!(settings.start().visit(), 51);
}

#[test]
fn damage_is_found_and_nothing_is_changed() {
    let settings = Settings::ledger();
    let notch = settings.start();
    (1..=9).for_each(|number| assert_eq!(notch.visit(), number));
    let settings = notch.stop();
    let sound = settings.read_ledger();
    let length = sound.len();
    let changed = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    for bytes in [
        changed(length / 2),
        changed(40),
        changed(0),
        sound[..length / 2].iter().chain(&sound[length / 2 + 20..]).copied().collect(),
        [&sound[..], b"SET visits 7\r\n"].concat(),
        b"visits 7\n".to_vec(),
    ] {
        settings.write_ledger(&bytes);
        for arguments in [&["check"][..], &["show"], &["export"], &["compact"], &["set", "visits", "1"]] {
            let (stdout, stderr) = tool(&settings, arguments, 1);
            assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
            assert!(stderr.contains("damaged at byte") || stderr.contains("not a ledger"), "{arguments:?}: {stderr}");
        }
        assert!(settings.read_ledger() == bytes, "the file was changed");
    }
    settings.write_ledger(&[&sound[..], b"*3\r\n$6\r\nINCRBY\r\n$6\r\nv"].concat());
    let (_, stderr) = tool(&settings, &["check"], 0);
    assert!(stderr.contains("the 21 bytes after it are torn"), "{stderr}");
    assert_eq!(tool(&settings, &["show"], 0).0, "visits 9\n");
    let (_, stderr) = tool(&settings, &["set", "visits", "8"], 0);
    assert!(stderr.contains("a torn tail of 21 bytes was removed"), "{stderr}");
    fs::remove_file(settings.ledger_file()).expect("the ledger");
    fs::create_dir(settings.ledger_file()).expect("a folder");
    for arguments in [&["check"][..], &["set", "visits", "1"]] {
        let (_, stderr) = tool(&settings, arguments, 1);
        assert!(stderr.contains("not a ledger") || stderr.contains("Is a directory"), "{stderr}");
    }
}

#[test]
fn invalid_input_changes_nothing_and_creates_nothing() {
    let settings = Settings::ledger();
    for (input, part) in [
        ("visits 7 visits:a", "item 2 of the input is invalid, \"visits:a\": expected a key and a total"),
        ("visits -7", "item 1"),
        ("(nil)\n", "item 1 of the input is invalid, \"(nil)?\""),
        ("1) \"visits\"\n2) \"7\"\n", "redis-cli --raw"),
        ("*3\r\n$3\r\nSET\r\n$6\r\nvis", "item 1 of the input is invalid, \"*3??$3??SET??$6??vis\": expected SET"),
        ("", "the input is empty"),
        ("\r\n", "the input is empty"),
        ("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$3\r\nDEL\r\n$1\r\na\r\n", "item 2 of the input is invalid"),
        ("*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n", "notch ledger export"),
    ] {
        let (_, stderr) = tool_with_input(&settings, &["import"], Some(input), 1);
        assert!(stderr.contains(part) && stderr.contains("nothing was changed"), "{stderr}");
        assert!(!settings.ledger_file().exists());
    }
    tool(&settings, &["set", "visits", "7"], 0);
    let overflow = "*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$19\r\n9223372036854775807\r\n";
    let (_, stderr) = tool_with_input(&settings, &["import"], Some(overflow), 1);
    assert!(stderr.contains("item 1"), "{stderr}");
    assert_eq!(show(&settings), "visits 7\n");
}

/// What is at the path of the ledger, which commands succeed, and what the others print.
#[test]
fn every_kind_of_file_has_its_line() {
    let header: &[u8] = b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 1\r\n";
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().expect("a program of the system").success());
    };
    type Create<'a> = &'a dyn Fn(&Path);
    let link = |target: &'static str| move |path: &Path| symlink(target, path).expect("a link");
    let content = |bytes: &'static [u8]| move |path: &Path| fs::write(path, bytes).expect("a file");
    let rows: [(&str, Create, &[&str], &str); 12] = [
        ("empty", &content(b""), &["show", "export", "compact", "set"], "ends before the end of its header"),
        ("cut", &content(&header[..20]), &["show", "export", "compact", "set"], "ends before the end of its header"),
        ("header", &content(header), &["show", "check", "export", "compact", "set"], ""),
        ("other", &content(b"notch\n"), &[], "not a ledger"),
        ("next version", &content(b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 2\r\n"), &[], "not a ledger"),
        (
            "zeros",
            &|path| File::create(path).and_then(|file| file.set_len(1 << 30)).expect("a file"),
            &[],
            "not a ledger",
        ),
        ("missing", &|_| (), &["set"], "No such file"),
        ("dangling link", &link("elsewhere"), &["set"], "No such file"),
        ("circular link", &link("notch.ledger"), &[], "symbolic links"),
        ("device", &link("/dev/null"), &[], "not a ledger"),
        ("pipe", &|path| run("mkfifo", &[&path.to_string_lossy()]), &[], "not a ledger"),
        ("folder", &|path| fs::create_dir(path).expect("a folder"), &[], "ledger: "),
    ];
    for (name, create, succeeds, part) in rows {
        for arguments in [&["show"][..], &["check"], &["export"], &["compact"], &["set", "visits", "7"]] {
            let settings = Settings::ledger();
            create(&settings.ledger_file());
            let is_ok = succeeds.contains(&arguments[0]);
            let (stdout, stderr) = tool(&settings, arguments, i32::from(!is_ok));
            assert!(stdout.is_empty() && (is_ok || stderr.contains(part)), "{name}: {arguments:?}: {stderr}");
            if is_ok && arguments[0] == "set" {
                assert_eq!(settings.start().visit(), 8, "{name}");
            }
        }
    }
}

#[test]
fn the_remedy_for_missing_rights_changes_no_owner_and_no_mode() {
    let settings = Settings::ledger();
    tool(&settings, &["set", "visits", "7"], 0);
    // Without capabilities, also as root.
    let bound = settings.clone().with_wrapper(&["unshare", "--user"]);
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
    for (folder, file, refused) in [
        (0o755, 0o000, &["show", "check", "export", "compact", "set", "import"][..]),
        (0o755, 0o444, &["compact", "set", "import"]),
        (0o555, 0o644, &["compact", "set", "import"]),
    ] {
        for command in ["show", "check", "export", "compact", "set", "import"] {
            set_mode(&settings.ledger_file(), file);
            set_mode(settings.folder(), folder);
            let is_refused = refused.contains(&command);
            if is_refused || !["compact", "set", "import"].contains(&command) {
                let arguments: &[_] = if command == "set" { &["set", "visits", "8"] } else { &[command] };
                let (_, stderr) = tool(&bound, arguments, i32::from(is_refused));
                assert!(!stderr.contains("chown") && !stderr.contains("chmod"), "{stderr}");
                assert!(!is_refused || stderr.contains("as the user of notch"), "{stderr}");
            }
            set_mode(settings.folder(), 0o755);
        }
    }
    set_mode(&settings.ledger_file(), 0o644);
    assert_eq!(show(&settings), "visits 7\n");
}

#[test]
fn full_and_closed_files_are_one_line_and_change_nothing() {
    let settings = Settings::ledger();
    tool_with_input(&settings, &["import"], Some(&many(9_000)), 0);
    let sound = settings.read_ledger();
    let more = many(9_999);
    for (shell, arguments, part) in [
        ("exec \"$0\" \"$@\" >/dev/full", &["show"][..], "cannot write the output: No space left"),
        ("exec \"$0\" \"$@\" >/dev/full", &["export"], "cannot write the output: No space left"),
        ("\"$0\" \"$@\" | head -1 >/dev/null", &["export"], "cannot write the output: Broken pipe"),
        ("exec \"$0\" \"$@\" <&-", &["import"], "the input is empty"),
        ("exec \"$0\" \"$@\" </", &["import"], "cannot read the input: Is a directory"),
        ("exec \"$0\" \"$@\" </dev/zero", &["import"], "item 1 of the input is invalid"),
        ("yes | \"$0\" \"$@\"", &["import"], "item 1 of the input is invalid"),
        ("ulimit -f 8; exec \"$0\" \"$@\"", &["import"], "cannot write it: File too large"),
        ("ulimit -f 8; exec \"$0\" \"$@\"", &["set", "visits", "1"], "cannot write it: File too large"),
        ("ulimit -f 8; exec \"$0\" \"$@\"", &["compact"], "cannot write it: File too large"),
    ] {
        // With less memory than such an input has.
        let shell = format!("ulimit -v 300000; {shell}");
        let limited = settings.clone().with_wrapper(&["bash", "-o", "pipefail", "-c", &shell]);
        let (_, stderr) = tool_with_input(&limited, arguments, Some(&more), 1);
        assert!(stderr.contains(part), "{shell} {arguments:?}: {stderr}");
        assert!(settings.read_ledger() == sound, "{shell} {arguments:?}");
        assert!(!settings.folder().join("notch.ledger.new").exists(), "{shell} {arguments:?}");
    }
}

#[test]
fn neither_a_server_nor_a_second_command_starts_during_a_change() {
    let settings = Settings::ledger();
    tool(&settings, &["set", "visits", "7"], 0);
    let mut import = settings.spawn(&["ledger", "import"], Stdio::piped());
    let process = format!(" {} ", import.id());
    wait_until("the ledger is locked", || {
        fs::read_to_string("/proc/locks").expect("the locks of the system").contains(&process).then_some(())
    });
    let (_, refused) = tool(&settings, &["compact"], 1);
    assert!(refused.contains("another process uses it"), "{refused}");
    let refused = settings.try_start().err().expect("two processes use the ledger");
    assert!(refused.code == Some(1) && refused.stderr.contains("another process uses it"), "{refused:?}");
    assert_eq!(show(&settings), "visits 7\n");
    let mut input = import.stdin.take().expect("its stdin is a pipe");
    input.write_all(b"visits 20 visits:a 1").expect("it reads");
    drop(input);
    assert!(import.wait().expect("our own child").success());
    assert_eq!(show(&settings), "visits 20\nvisits:a 1\n");
    assert_eq!(settings.start().visit(), 21);
}

/// The totals of `count` counters, as `show` prints them.
fn many(count: usize) -> String {
    let mut lines: Vec<_> = (0..count).map(|number| format!("visits:{number} {}\n", number * 7 + 1)).collect();
    lines.push("visits 1000000\n".to_owned());
    lines.sort_unstable();
    lines.concat()
}

#[test]
fn ten_thousand_counters_go_to_redis_and_back() {
    let (one, other) = (Settings::ledger(), Settings::ledger());
    let counters = many(10_000);
    tool_with_input(&one, &["import"], Some(&counters), 0);
    let shown = show(&one);
    assert_eq!(shown.lines().count(), 10_001);
    assert_eq!(sorted_lines(&shown), sorted_lines(&counters));

    let redis = Redis::start(&[]);
    let (commands, _) = tool(&one, &["export"], 0);
    let file = one.folder().join("commands");
    fs::write(&file, &commands).expect("a file of commands");
    let cli = |arguments: &[&str], input: Stdio| {
        let mut cli = Command::new("redis-cli");
        let run = cli.args(["-p", &redis.port.to_string()]).args(arguments).stdin(input).output();
        let output = run.expect("redis-cli is missing: install redis-tools (Debian: apt-get install redis-tools)");
        String::from_utf8(output.stdout).expect("text")
    };
    let piped = cli(&["--pipe"], File::open(&file).expect("the commands").into());
    assert!(piped.contains("errors: 0, replies: 10001"), "{piped}");
    assert_eq!((redis.query("DBSIZE"), redis.query("GET visits:77")), ("10001".into(), "540".into()));
    let notch = Settings::redis(redis.port).with("COUNTERS", "*").start();
    assert_eq!((notch.visit(), notch.get("/count/77").number()), (1_000_001, 541));
    notch.stop();

    let docs = include_str!("../../docs/operations.md");
    let (_, script) = docs.split_once("redis-cli --raw EVAL \"").expect("the command of the page");
    let (script, _) = script.split_once("\" 0 'visits*' | notch ledger import").expect("its end");
    // Of another kind, and no count.
    redis.execute("RPUSH visits:list a");
    redis.execute("SET visits:text a");
    let pairs = cli(&["--raw", "EVAL", script, "0", "visits*"], Stdio::null());
    tool_with_input(&other, &["import"], Some(&pairs), 0);
    let expected = shown.replace("visits 1000000\n", "visits 1000001\n").replace("visits:77 540\n", "visits:77 541\n");
    assert_eq!(show(&other), expected);
    // RESP, over what is there.
    tool_with_input(&other, &["import"], Some(&commands), 0);
    assert_eq!(show(&other), shown);
}

#[test]
fn a_kill_leaves_the_old_totals_or_the_new_ones() {
    let settings = Settings::ledger();
    let (old, new) = (many(3_000), many(3_000).replace(' ', " 1"));
    let input = settings.folder().join("new");
    fs::write(&input, &new).expect("an input written for the test");
    let mut unchanged = 0;
    for round in 0..30 {
        tool_with_input(&settings, &["import"], Some(&old), 0);
        let mut child = settings.spawn(&["ledger", "import"], File::open(&input).expect("the input").into());
        thread::sleep(Duration::from_millis(round));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        tool(&settings, &["check"], 0);
        let shown = sorted_lines(&show(&settings));
        let is_old = shown == sorted_lines(&old);
        assert!(is_old || shown == sorted_lines(&new), "killed after {round} ms");
        unchanged += usize::from(is_old);
    }
    assert!(unchanged > 0, "no kill was early enough");
    tool_with_input(&settings, &["import"], Some(&new), 0);
    assert_eq!(settings.start().total(), 11_000_000);
}

fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}
