//! The count survives kills, restarts, rewrites and a new container, with every setting of passwords; and which users
//! may log in.

use crate::audit::{Doubt, Tally};
use crate::image::{Store, is_before_7};
use crate::load::Load;
use crate::support::wait_until;

const PASSWORD: &str = r#"it"s $3cret \ with spaces"#;

fn confined(store: Store) -> Store {
    store.with("REDIS_USERNAME", "notch")
}

#[test]
fn without_a_password() {
    test_operations(Store::new());
}

#[test]
fn with_a_password() {
    test_operations(Store::new().with("REDIS_PASSWORD", PASSWORD));
}

#[test]
fn with_a_password_in_a_file() {
    test_operations(Store::new().with_file("REDIS_PASSWORD_FILE", format!("{PASSWORD}\r\n")));
}

#[test]
fn with_a_user() {
    test_operations(confined(Store::new().with("REDIS_PASSWORD", PASSWORD)));
}

#[test]
fn with_a_user_and_a_password_in_a_file() {
    test_operations(confined(Store::new().with_file("REDIS_PASSWORD_FILE", PASSWORD)));
}

#[test]
fn with_a_user_and_an_administrator() {
    test_operations(
        confined(Store::new().with("REDIS_PASSWORD", PASSWORD)).with("REDIS_ADMIN_PASSWORD", "another $3cret"),
    );
}

#[test]
fn with_a_user_and_an_administrator_and_passwords_in_files() {
    let store = Store::new().with_file("REDIS_PASSWORD_FILE", format!("{PASSWORD}\n"));
    test_operations(confined(store).with_file("REDIS_ADMIN_PASSWORD_FILE", "another $3cret\n"));
}

#[test]
fn with_a_user_and_a_password_in_a_variable_and_one_in_a_file() {
    let store = Store::new().with("REDIS_PASSWORD", PASSWORD);
    test_operations(confined(store).with_file("REDIS_ADMIN_PASSWORD_FILE", "another $3cret"));
}

#[test]
fn with_a_user_and_a_password_in_a_file_and_one_in_a_variable() {
    let store = Store::new().with_file("REDIS_PASSWORD_FILE", PASSWORD);
    test_operations(confined(store).with("REDIS_ADMIN_PASSWORD", "another $3cret"));
}

#[test]
fn with_a_user_and_a_key_of_special_characters() {
    let store = confined(Store::new().with("REDIS_PASSWORD", PASSWORD));
    test_operations(store.with("COUNTER_KEY", "a*[b]{t?g}(c)"));
}

/// Runs all operations of a store under load; at the end, every number was given once and none is lost.
fn test_operations(mut store: Store) {
    store.start();
    let notch = store.notch().start();
    let load = Load::start(&notch, 4);
    load.wait_for_answers(30);

    store.kill();
    store.start();
    load.wait_for_answers(30);

    rewrite(&store, &load);
    store.stop();
    store.start();
    load.wait_for_answers(30);

    // A kill in the middle of a rewrite, which leaves its files behind.
    wait_until("a rewrite is in progress", || store.is_rewriting().then_some(()));
    store.kill();
    store.start();
    rewrite(&store, &load);
    store.kill();
    store.start();
    load.wait_for_answers(30);

    // Under load, each backup contains all visits that were counted before it started, and none that was sent after it
    // ended.
    let mut backups = Vec::new();
    for _ in 0..3 {
        wait_until("a rewrite is in progress", || store.is_rewriting().then_some(()));
        let least = notch.total();
        let backup = store.backup();
        backups.push((least, backup, notch.total()));
    }
    let mut tally = load.stop();
    tally.audit(notch.total(), Doubt::None);
    assert!(!notch.log().iter().any(|line| line.contains("receipts")), "visits have receipts: {:?}", notch.log());

    // `docker compose down` and `up`.
    let total = notch.total();
    let notch = notch.stop();
    store.stop();
    let log = store.start();
    assert!(log.contains(&format!(": {total}\n")), "the start logs the count: {log}");
    let notch = notch.start();
    continue_counting(&notch, &mut tally, total);
    tally.audit(notch.total(), Doubt::None);

    for (least, backup, most) in &backups {
        // On a new machine: only the backup.
        let mut new = store.on_new_machine();
        new.restore(backup);
        new.start();
        let notch = new.notch().start();
        let restored = notch.total();
        assert!((least..=most).contains(&&restored), "{restored} is not within {least} and {most}");
        continue_counting(&notch, &mut Tally::default(), restored);
        new.kill();
        new.start();
        continue_counting(&notch, &mut Tally::default(), restored + 3);
    }

    // On the same machine, replacing the existing data.
    let total = notch.total();
    let backup = store.backup();
    continue_counting(&notch, &mut tally, total);
    tally.audit(notch.total(), Doubt::None);
    store.stop();
    store.restore(&backup);
    store.start();
    assert_eq!(store.total(), total, "the count is that of the backup");
}

/// Waits until Redis has rewritten its file under load.
fn rewrite(store: &Store, load: &Load) {
    let before = store.generation();
    wait_until("the file is rewritten", || (store.generation() != before).then_some(()));
    load.wait_for_answers(30);
}

/// Asserts that the next three visits have the next three numbers.
fn continue_counting(notch: &crate::support::Notch, tally: &mut Tally, total: i64) {
    for number in total + 1..=total + 3 {
        assert_eq!(notch.visit(), number);
        tally.note_number(number);
    }
}

#[test]
fn the_default_user_is_disabled_beside_a_confined_one() {
    let mut store = confined(Store::new().with("REDIS_PASSWORD", PASSWORD));
    store.start();
    assert_eq!(store.cli(&["ping"]), "PONG");
    for arguments in [
        &["ping"][..],
        &["get", "visits"],
        &["set", "visits", "1"],
        &["info"],
        &["acl", "whoami"],
        &["config", "get", "*"],
        &["eval", "return 1", "0"],
        &["multi"],
        &["subscribe", "x"],
    ] {
        let reply = store.other_client(arguments);
        assert!(reply.starts_with("NOAUTH"), "{arguments:?}: {reply}");
    }
    for arguments in [
        &["auth", ""][..],
        &["auth", "default"],
        &["auth", PASSWORD],
        &["auth", "default", ""],
        &["auth", "default", "default"],
        &["auth", "default", PASSWORD],
        &["auth", "notch", ""],
        &["auth", "notch-redis-rehearsal", ""],
        &["hello", "3", "auth", "default", ""],
        &["hello", "2", "auth", "default", PASSWORD],
    ] {
        let reply = store.other_client(arguments);
        assert!(reply.contains("WRONGPASS"), "{arguments:?}: {reply}");
    }
    // A connection that was reset belongs to the default user again.
    let login = ["--user", "notch", "--pass", PASSWORD];
    let script = store.run_with(&["cli"], b"ping\nreset\nget visits\n").text();
    if is_before_7() {
        assert!(script.starts_with("PONG\nNOPERM"), "a user of Redis 6 needs a right for it: {script}");
    } else {
        assert_eq!(script, "PONG\nRESET\nNOAUTH Authentication required.");
    }
    assert_eq!(store.other_client(&[&login[..], &["ping"]].concat()), "PONG");
}

#[test]
fn the_confined_user_has_only_the_rights_that_counting_needs() {
    for (key, tag) in [("visits", "visits"), ("a{b}c", "b"), ("x{}", "x{}"), ("p*q", "p*q")] {
        let store =
            confined(Store::new().with("REDIS_PASSWORD", PASSWORD)).with("REDIS_ADMIN_PASSWORD", "administrator");
        let mut store = store.with("COUNTER_KEY", key);
        store.start();
        let run_as_notch =
            |arguments: &[&str]| store.other_client(&[&["--user", "notch", "--pass", PASSWORD], arguments].concat());
        let (receipt, names) = (format!("{{{tag}}}:receipt:1"), format!("{{{tag}}}:<names>"));
        let named = format!("{key}:shop");
        for arguments in [
            &["ping"][..],
            &["info", "memory"],
            &["get", key],
            &["incrby", key, "1"],
            &["incrby", &named, "1"],
            &["get", &receipt],
            &["set", &receipt, "1000000000000001 0", "px", "302000"],
            &["sadd", &names, "shop"],
            &["scard", &names],
            &["sismember", &names, "shop"],
            &["script", "load", "return 1"],
            &["eval", "return redis.call('sadd',KEYS[1],'blog')", "1", &names],
        ] {
            let reply = run_as_notch(arguments);
            assert!(!reply.contains("NOPERM") && !reply.contains("ERR"), "{key}: {arguments:?}: {reply}");
        }
        let denied = [
            &["select", "0"][..],
            &["select", "1"],
            &["move", key, "1"],
            &["swapdb", "0", "1"],
            &["copy", key, key, "db", "1"],
            &["eval", "return redis.call('select',1)", "0"],
            &["script", "kill"],
            &["script", "flush"],
            &["decrby", key, "1"],
            &["getset", key, "1"],
            &["expire", key, "1"],
            &["rename", key, "other"],
            &["flushall"],
            &["config", "get", "*"],
            &["config", "set", "appendonly", "no"],
            &["acl", "list"],
            &["keys", "*"],
            &["shutdown"],
            &["bgrewriteaof"],
            &["del", key],
            &["publish", key, "1"],
            &["subscribe", key],
            &["get", "other"],
            &["incrby", "other", "1"],
            &["sadd", "other", "1"],
            &["sadd", "{other}:<names>", "1"],
            &["srem", &names, "shop"],
            &["smembers", &names],
            &["eval", "return redis.call('get',KEYS[1])", "1", "other"],
            &["eval", "return redis.call('flushall')", "0"],
        ];
        // Before 7.0 a user has the same commands on all of its keys, and there are no functions.
        let fine = [
            &["fcall", "f", "0"][..],
            &["function", "load", "#!lua name=f"],
            &["function", "kill"],
            &["set", key, "1"],
            &["set", &names, "1"],
            &["incrby", &receipt, "1"],
            &["incrby", &names, "1"],
            &["sadd", key, "1"],
        ];
        for arguments in denied.iter().chain(fine.iter().filter(|_| !is_before_7())) {
            let reply = run_as_notch(arguments);
            let refused = ["NOPERM", "ACL failure in script", "user executing the script can't"];
            assert!(refused.iter().any(|text| reply.contains(text)), "{key}: {arguments:?}: {reply}");
        }
        // Patterns match no other keys.
        if key == "p*q" {
            assert!(run_as_notch(&["get", "pXq"]).contains("NOPERM"));
        }
        assert_eq!(store.cli(&["get", key]), "1", "notch-redis cli is the administrator");
    }
}

#[test]
fn settings_that_would_be_ignored_or_allow_access_are_refused() {
    let name = |name: &str| Store::new().with("REDIS_PASSWORD", "x").with("REDIS_USERNAME", name);
    for (store, failure) in [
        (Store::new().with("REDIS_USERNAME", "notch"), "REDIS_USERNAME needs REDIS_PASSWORD"),
        (Store::new().with("REDIS_ADMIN_PASSWORD", "x"), "REDIS_ADMIN_PASSWORD needs REDIS_USERNAME"),
        (
            Store::new().with("REDIS_PASSWORD", "x").with("REDIS_ADMIN_PASSWORD", "x"),
            "REDIS_ADMIN_PASSWORD needs REDIS_USERNAME",
        ),
        (name("default"), "REDIS_USERNAME: default is"),
        (name("default").with("REDIS_ADMIN_PASSWORD", "x"), "REDIS_USERNAME: default is"),
        (Store::new().with_file("REDIS_PASSWORD_FILE", "\r\n"), "REDIS_PASSWORD_FILE: the password is empty"),
        (Store::new().with("REDIS_PASSWORD_FILE", "/no/such/file"), "REDIS_PASSWORD_FILE cannot be read"),
        (
            Store::new().with("REDIS_PASSWORD", "x").with_file("REDIS_PASSWORD_FILE", "y"),
            "REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set",
        ),
        (
            name("notch").with("REDIS_ADMIN_PASSWORD", "x").with_file("REDIS_ADMIN_PASSWORD_FILE", "y"),
            "REDIS_ADMIN_PASSWORD and REDIS_ADMIN_PASSWORD_FILE are both set",
        ),
        (name("two names"), "REDIS_USERNAME"),
        (name("line\nuser default on nopass ~* +@all"), "REDIS_USERNAME"),
        (name("a\"b"), "REDIS_USERNAME"),
        (name("notch-redis-rehearsal"), "REDIS_USERNAME: notch-redis-rehearsal is"),
        (name("notch").with("REDIS_DB", "16"), "REDIS_DB: not a number from 0 to 15"),
        (name("notch").with("REDIS_DB", "-1"), "REDIS_DB: not a number from 0 to 15"),
        (name("notch").with("REDIS_DB", "1 +@all"), "REDIS_DB: not a number from 0 to 15"),
        (name("notch").with("REDIS_DB", "99999999999999999999"), "REDIS_DB: not a number from 0 to 15"),
        (name("notch").with("COUNTER_KEY", "a b"), "COUNTER_KEY"),
        (name("notch").with("COUNTER_KEY", "a\nb"), "COUNTER_KEY"),
        (Store::new().with("NOTCH_REDIS_CONF", "/no/such/file"), "the configuration cannot be read: /no/such/file"),
    ] {
        let ended = store.run(&[]);
        assert!(!ended.success && ended.stderr.contains(failure), "{failure}: {ended:?}");
        assert!(ended.stderr.starts_with("notch-redis: "), "{ended:?}");
    }
}

/// Increments may be negative, and an ACL cannot limit amounts: the password of notch allows setting any total.
#[test]
fn actions_of_the_confined_user_that_no_acl_can_prevent() {
    let mut store = confined(Store::new().with("REDIS_PASSWORD", PASSWORD)).with("COUNTERS", "shop");
    store.start();
    let notch = store.notch().start();
    for number in 1..=5 {
        assert_eq!(notch.visit(), number);
    }
    let run_as_notch =
        |arguments: &[&str]| store.other_client(&[&["--user", "notch", "--pass", PASSWORD], arguments].concat());
    assert_eq!(run_as_notch(&["incrby", "visits", "-3"]), "2");
    assert_eq!(notch.visit(), 3, "a number that was given before");
    wait_until("the metric shows it", || {
        let text = notch.get("/metrics");
        text.text().lines().any(|line| line.strip_prefix("notch_store_regressions_total ") == Some("1")).then_some(())
    });
    assert_eq!(run_as_notch(&["incrby", "visits:shop", "1000"]), "1000");
    assert_eq!(run_as_notch(&["incrby", "visits", "9223372036854775804"]), "9223372036854775807");
    assert_eq!(notch.get("/count").status, 503, "no number is left");
    assert_eq!(run_as_notch(&["set", "{visits}:receipt:mine", "x"]), "OK");
    assert_eq!(run_as_notch(&["sadd", "{visits}:<names>", "visits:any"]), "1");
}

#[test]
fn another_database_is_the_only_one_that_may_be_selected() {
    let mut store = confined(Store::new().with("REDIS_PASSWORD", PASSWORD)).with("REDIS_DB", "03");
    store.start();
    let notch = store.notch().with("REDIS_DB", "3").start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    store.kill();
    let log = store.start();
    assert!(log.contains("counter visits in database 3: 2\n"), "{log}");
    assert_eq!(notch.visit(), 3);
    assert!(!notch.log().iter().any(|line| line.contains("receipts")), "visits have receipts: {:?}", notch.log());
    let login = ["--user", "notch", "--pass", PASSWORD];
    let script = |database: &str| format!("redis.call('select',{database}) return redis.call('get','visits')");
    let run_as_notch = |arguments: &[&str]| store.other_client(&[&login[..], arguments].concat());
    assert_eq!(
        (&*run_as_notch(&["-n", "3", "get", "visits"]), &*run_as_notch(&["eval", &script("3"), "0"])),
        ("3", "3")
    );
    for database in ["0", "1", "30"] {
        let reply = run_as_notch(&["select", database]);
        assert!(reply.contains("NOPERM"), "{database}: {reply}");
        let reply = run_as_notch(&["eval", &script(database), "0"]);
        let refused = ["ACL failure in script", "user executing the script can't"];
        assert!(refused.iter().any(|text| reply.contains(text)), "{database}: {reply}");
    }
    // A connection begins in database 0 with any ACL.
    assert_eq!(run_as_notch(&["incrby", "visits", "7"]), "7");
    assert_eq!(notch.total(), 3);
}
