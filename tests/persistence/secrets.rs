//! Passwords and user names: notch and `notch-redis` accept the same ones from the same files and variables, and reject
//! the others with the same message.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::image::Store;
use crate::support::Settings;

const PASSWORD: &str = r#"it"s $3cret \n %s with spaces."#;
const UTF_8: &str = "p\u{e4}ssw\u{f6}rd \u{2603} \u{10ffff}";

/// Content of a file or a variable, and the problem in it.
const REFUSED: [(&[u8], &str); 40] = [
    (b"\n", "is empty"),
    (b"\r\n", "is empty"),
    (b"\n\r\n\n", "is empty"),
    (b"secret\nsecret", "has more than one line"),
    (b"secret\r\nsecret\r\n", "has more than one line"),
    (b"\nsecret", "has more than one line"),
    (b"\n secret", "has more than one line"),
    (b"secret\n \n", "has more than one line"),
    (b"p\xc3\xa4ss\nword", "has more than one line"),
    (b" secret", "begins or ends with a space or tab"),
    (b"secret ", "begins or ends with a space or tab"),
    (b"secret \n", "begins or ends with a space or tab"),
    (b"secret \r\n", "begins or ends with a space or tab"),
    (b"\tsecret", "begins or ends with a space or tab"),
    (b"secret\t\n", "begins or ends with a space or tab"),
    (b" ", "begins or ends with a space or tab"),
    (b" \xc3\xa4", "begins or ends with a space or tab"),
    (b"\xc3\xa4 \n", "begins or ends with a space or tab"),
    (b"\xef\xbb\xbfsecret", "begins with a byte order mark"),
    (b"\xef\xbb\xbfsecret\r\n", "begins with a byte order mark"),
    (b"\xef\xbb\xbf", "begins with a byte order mark"),
    (b"\xef\xbb\xbf\n", "begins with a byte order mark"),
    (b"\xff\xfes\0e\0", "is not UTF-8"),
    (b"secret\xff", "is not UTF-8"),
    (b"secret\xc3", "is not UTF-8"),
    (b"secret\xc3\n", "is not UTF-8"),
    (b"\xc0\xaf", "is not UTF-8"),
    (b"\xe0\x9f\xbf", "is not UTF-8"),
    (b"\xed\xa0\x80", "is not UTF-8"),
    (b"\xf0\x8f\xbf\xbf", "is not UTF-8"),
    (b"\xf4\x90\x80\x80", "is not UTF-8"),
    (b"\xf8\x88\x80\x80\x80", "is not UTF-8"),
    (b"\x80", "is not UTF-8"),
    (b"se\0cret", "contains a control character"),
    (b"secret\0\n", "contains a control character"),
    (b"se\tcret", "contains a control character"),
    (b"secret\r", "contains a control character"),
    (b"secret\r\r\n", "contains a control character"),
    (b"secret\x7f", "contains a control character"),
    (b"se\xc2\x85cret", "contains a control character"),
];

/// Each content is tried as a file and as a variable, with both programs.
#[test]
fn both_reject_ambiguous_passwords_with_the_same_message() {
    let long = "a".repeat(16384);
    let too_long = "is longer than 16384 bytes";
    let long_utf_8 = "\u{e4}".repeat(8192) + "a";
    let more = [(format!("{long}\n"), too_long), (long + "a", too_long), (long_utf_8, too_long)];
    let more = more.iter().map(|(content, problem)| (content.as_bytes(), *problem));
    for (content, problem) in REFUSED.into_iter().chain(more) {
        for name in ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_ADMIN_PASSWORD", "REDIS_ADMIN_PASSWORD_FILE"] {
            let is_file = name.ends_with("_FILE");
            // A variable cannot contain NUL.
            if !is_file && content.contains(&0) {
                continue;
            }
            let shown = content.escape_ascii();
            let store = Store::new();
            let store = match name {
                "REDIS_ADMIN_PASSWORD" | "REDIS_ADMIN_PASSWORD_FILE" => {
                    store.with("REDIS_USERNAME", "notch").with("REDIS_PASSWORD", "secret")
                }
                _ => store,
            };
            let store = if is_file { store.with_file(name, content) } else { store.with_bytes(name, content) };
            let message = format!("{name}: the password {problem}");
            let ended = store.run(&["true"]);
            let expected = format!("notch-redis: {message}\n");
            assert_eq!((ended.code, ended.stderr), (Some(2), expected), "notch-redis: {name}: {shown}");
            if name.starts_with("REDIS_PASSWORD") {
                let ended = settings(&store, name, content).run(&[]);
                let expected = format!("notch: {message}, for example {name}=");
                assert_eq!(ended.code, Some(2), "notch: {name}: {shown}: {ended:?}");
                assert!(ended.stderr.starts_with(&expected), "notch: {name}: {shown}: {ended:?}");
                assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
            }
        }
    }
}

#[test]
fn both_remove_line_ends_after_a_password() {
    let longest = "a".repeat(16384);
    for (password, endings) in [
        (PASSWORD, &["", "\n", "\r\n", "\n\n", "\r\n\r\n", "\n\r\n", "\r\n\n"][..]),
        (UTF_8, &["", "\n", "\r\n"]),
        ("x", &["", "\n"]),
        (&longest[1..], &["\n"]),
        (&longest, &[""]),
    ] {
        let mut store = Store::new().with_file("REDIS_PASSWORD_FILE", [password, endings[endings.len() - 1]].concat());
        store.start();
        assert_eq!(store.other_client(&["-a", password, "ping"]), "PONG", "{password:?} is the password");
        store.unset("REDIS_PASSWORD_FILE");
        let mut number = 0;
        for content in endings.iter().map(|ending| [password, ending].concat()) {
            for name in ["REDIS_PASSWORD", "REDIS_PASSWORD_FILE"] {
                let file = store.write_file(name, content.as_bytes());
                let is_file = name == "REDIS_PASSWORD_FILE";
                store.set(name, if is_file { file.as_os_str() } else { OsStr::from_bytes(content.as_bytes()) });
                assert_eq!(store.cli(&["ping"]), "PONG", "notch-redis: {name}: {content:?}");
                number += 1;
                let notch = settings(&store, name, content.as_bytes()).start();
                assert_eq!(notch.visit(), number, "notch: {name}: {content:?}");
                store.unset(name);
            }
        }
        // The server starts with it from a variable, and as the administrator's password.
        store.stop();
        let mut store = Store::new()
            .with("REDIS_USERNAME", "notch")
            .with("REDIS_PASSWORD", &[password, endings[endings.len() - 1]].concat())
            .with_file("REDIS_ADMIN_PASSWORD_FILE", [password, endings[endings.len() - 1]].concat());
        store.start();
        assert_eq!(store.other_client(&["-a", password, "acl", "whoami"]), "default");
        assert_eq!(store.other_client(&["--user", "notch", "-a", password, "ping"]), "PONG");
    }
}

/// Returns settings of a notch with this content in the variable `name`, or in the file that it names.
fn settings(store: &Store, name: &str, content: &[u8]) -> Settings {
    // A shell sets variables that are not UTF-8.
    const SET: &str = "value=$(cat \"$0\"; echo .); export REDIS_PASSWORD=\"${value%.}\"; exec \"$@\"";
    let file = store.write_file("content", content).display().to_string();
    let settings = Settings::redis(store.port).without_tls();
    if name.ends_with("_FILE") {
        settings.with(name, &file)
    } else {
        settings.with_wrapper(&["/bin/sh", "-c", SET, &file])
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_by_both() {
    let folder = env!("CARGO_MANIFEST_DIR");
    for path in ["/no/such/file", folder, "/dev/zero"] {
        let problem = if path == "/dev/zero" { ": the password is longer than 16384 bytes" } else { "cannot be read" };
        let store = Store::new().with("REDIS_PASSWORD_FILE", path);
        let ended = store.run(&["true"]);
        assert!(ended.code == Some(2) && ended.stderr.contains(problem), "{ended:?}");
        let ended = store.notch().run(&[]);
        assert!(ended.code == Some(2) && ended.stderr.contains(problem), "{ended:?}");
    }
}

#[test]
fn an_invalid_user_name_is_rejected_by_both() {
    for name in ["two names", " notch", "notch ", "notch\n", "notch\r", "no\ttch", "no\u{7f}tch", " "] {
        let store = Store::new().with("REDIS_PASSWORD", "x").with("REDIS_USERNAME", name);
        for (code, stderr) in [
            (store.run(&["true"]).code, store.run(&["true"]).stderr),
            (store.notch().run(&[]).code, store.notch().run(&[]).stderr),
        ] {
            assert!(code == Some(2) && stderr.contains("REDIS_USERNAME: no"), "{name:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{name:?}: {stderr}");
        }
    }
}

/// Valid for an external Redis, where notch is then the administrator; the Redis of the stack gives notch fewer rights.
#[test]
fn default_is_a_user_name_for_notch_but_not_for_notch_redis() {
    let named = |name: &str| Store::new().with("REDIS_PASSWORD", "x").with("REDIS_USERNAME", name);
    for store in [named("default"), named("default").with("REDIS_ADMIN_PASSWORD", "y")] {
        for command in [&[][..], &["healthcheck"], &["cli", "ping"], &["backup"], &["restore"]] {
            let ended = store.run(command);
            let message =
                "notch-redis: REDIS_USERNAME: default is the name of the administrator in Redis: choose another";
            assert!(ended.code == Some(2) && ended.stderr.starts_with(message), "{command:?}: {ended:?}");
        }
    }
    let mut store = Store::new().with("REDIS_PASSWORD", "x");
    store.start();
    let notch = store.notch().with("REDIS_USERNAME", "default").start();
    assert_eq!((notch.visit(), notch.visit()), (1, 2));
    // User names of Redis are case-sensitive, so this is another user.
    let mut store = named("Default");
    store.start();
    assert_eq!(store.notch().start().visit(), 1);
}
