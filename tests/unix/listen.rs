//! The socket file: its rights, what it replaces, when it is removed; and `notch healthcheck`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::{Address, Exit, NEVER, NOBODY, Settings, TIMEOUT, is_root, wait_until};

/// Returns the path of the socket that a notch with these settings listens on.
fn path(settings: &Settings) -> PathBuf {
    settings.folder().join("s")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a socket file").mode() & 0o7777
}

/// Starts notch, which must end instead of listening, and returns the cause in its log.
fn cause(settings: &Settings) -> String {
    let Err(Exit { code, stderr, .. }) = settings.try_start() else { panic!("notch listens") };
    assert_eq!(code, Some(1), "{stderr}");
    let start = format!(" ERROR cannot listen on unix:{}: ", path(settings).display());
    let (_, cause) = stderr.split_once(&start).unwrap_or_else(|| panic!("no {start:?} in {stderr}"));
    cause.to_owned()
}

/// Runs notch as a user who is not root, in a folder with this mode.
fn unprivileged(settings: Settings, mode: u32) -> Settings {
    set_mode(settings.folder(), mode);
    if is_root() { settings.with_wrapper(&NOBODY) } else { settings }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a file of the test");
}

const NOT_PERMITTED: &str = "Operation not permitted (os error 1); set LISTEN_MODE to a group of this user, or set \
                             LISTEN to another path";

fn with_umask(settings: Settings, umask: &str) -> Settings {
    settings.with_wrapper(&["sh", "-c", &format!("umask {umask}; exec \"$@\""), "sh"])
}

#[test]
fn every_route_is_served() {
    let notch = Settings::ledger().with("COUNTERS", "blog").start();
    assert_eq!((notch.visit(), notch.visit(), notch.total()), (1, 2, 2));
    for route in ["/", "/livez", "/readyz", "/metrics", "/count/blog", "/total/blog", "/badge.svg"] {
        assert_eq!(notch.get(route).status, 200, "{route}");
    }
    assert_eq!(notch.get("/nowhere").status, 404);
    let Address::Unix(path) = notch.address else { panic!("an address of TCP") };
    assert!(notch.log()[0].contains(&format!(" INFO listening on unix:{path} (ledger ")), "{:?}", notch.log());
}

#[test]
fn the_file_has_the_rights_that_are_set() {
    let owner = fs::metadata(Settings::ledger().folder()).expect("our folder");
    let (user, group) = (owner.uid(), owner.gid());
    for (setting, expected) in [
        (None, 0o660),
        (Some("0600".to_owned()), 0o600),
        (Some("666".to_owned()), 0o666),
        (Some(format!("0640:{group}")), 0o640),
        (Some(format!("0606:{user}:{group}")), 0o606),
    ] {
        for umask in ["0", "077", "0777"] {
            let settings = with_umask(Settings::ledger(), umask).with("FSYNC", "never");
            let settings = setting.iter().fold(settings, |settings, value| settings.with("LISTEN_MODE", value));
            let _notch = settings.start();
            assert_eq!(mode(&path(&settings)), expected, "{setting:?}, umask {umask}");
        }
    }
}

#[test]
fn a_group_and_an_owner_are_set_by_number_or_name() {
    for (value, owner) in [("0660:4321", (0, 4321)), ("0660:1234:4321", (1234, 4321)), ("0660:daemon:root", (1, 0))] {
        let settings = Settings::ledger().with("LISTEN_MODE", value);
        // Only root may give a file away.
        if !is_root() {
            assert_eq!(cause(&settings), NOT_PERMITTED);
            continue;
        }
        let _notch = settings.start();
        let file = fs::metadata(path(&settings)).expect("a socket file");
        assert_eq!((file.uid(), file.gid(), mode(&path(&settings))), (owner.0, owner.1, 0o660), "{value}");
    }
}

#[test]
fn rights_that_notch_may_not_give_are_an_error() {
    let settings = unprivileged(Settings::ledger(), 0o777).with("LISTEN_MODE", "0660:0");
    assert_eq!(cause(&settings), NOT_PERMITTED);
    assert!(!path(&settings).exists(), "the file is removed");
}

/// The file exists before it has its owner and its mode. Until then only its owner may connect.
#[test]
fn the_file_never_has_more_rights_than_in_the_end() {
    let settings = Settings::ledger().with("LISTEN_MODE", "0666");
    let slow = "strace -f -qq -o /dev/null -e inject=chmod,fchmodat:delay_enter=500000";
    let script = format!("umask 0; exec {slow} \"$@\"");
    let settings = settings.with_wrapper(&["sh", "-c", &script, "sh"]);
    let starting = settings.clone();
    let starting = thread::spawn(move || starting.start());
    wait_until("the file exists", || path(&settings).exists().then_some(()));
    assert_eq!(mode(&path(&settings)), 0o600, "while it is not complete");
    let notch = starting.join().expect("notch starts");
    assert_eq!(mode(&path(&settings)), 0o666);
    assert_eq!(notch.visit(), 1);
}

#[test]
fn a_stale_file_is_replaced() {
    let notch = Settings::ledger().start();
    assert_eq!(notch.visit(), 1);
    let settings = notch.kill();
    assert!(path(&settings).exists(), "a killed process leaves its file");
    let notch = settings.start();
    assert_eq!(notch.visit(), 2);
}

#[test]
fn a_file_in_use_is_an_error() {
    let notch = Settings::ledger().start();
    let listen = notch.address.to_string();
    let other = Settings::ledger().with("LISTEN", &listen);
    let Err(Exit { code, stderr, .. }) = other.try_start() else { panic!("two processes on {listen}") };
    assert_eq!(code, Some(1));
    let expected = "another process does; stop that process, or set LISTEN to another path";
    assert!(stderr.ends_with(&format!("cannot listen on {listen}: {expected}")), "{stderr}");
    assert_eq!(notch.visit(), 1, "the first is not affected");
}

#[test]
fn of_two_that_start_at_once_one_serves() {
    for round in 0..10 {
        let listen = Settings::ledger();
        let stale = path(&listen);
        drop(UnixListener::bind(&stale).expect("a socket file"));
        let start = || {
            let settings = Settings::ledger().with("LISTEN", &format!("unix:{}", stale.display()));
            thread::spawn(move || settings.try_start())
        };
        let both = [start(), start(), start()].map(|started| started.join().expect("it starts or ends"));
        let (serving, ended): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
        assert_eq!(serving.len(), 1, "round {round}");
        for exit in ended {
            let Err(Exit { stderr, .. }) = exit else { unreachable!("partitioned") };
            assert!(stderr.contains("another process does"), "{stderr}");
        }
        let Ok(notch) = &serving[0] else { unreachable!("partitioned") };
        assert_eq!(notch.visit(), 1, "the socket at the path is that of the process which serves");
    }
}

#[test]
fn a_file_of_another_kind_is_never_removed() {
    let not_a_socket = "the file there is not a socket; remove it, or set LISTEN to another path";
    for kind in ["file", "folder", "link to a socket", "dangling link"] {
        let settings = Settings::ledger();
        let (own, target) = (path(&settings), settings.folder().join("target"));
        let made = match kind {
            "file" => fs::write(own, "kept"),
            "folder" => fs::create_dir(own),
            "link to a socket" => UnixListener::bind(&target).and_then(|_| symlink(target, own)),
            _ => symlink(target, own),
        };
        made.expect("a file of the test");
        let before = fs::symlink_metadata(path(&settings)).expect("a file");
        assert_eq!(cause(&settings), not_a_socket, "{kind}");
        assert_eq!(fs::symlink_metadata(path(&settings)).expect("a file").ino(), before.ino(), "{kind}");
    }
    // A socket of another type is in use, and stays too.
    let settings = Settings::ledger();
    let _datagrams = UnixDatagram::bind(path(&settings)).expect("a socket file");
    assert_eq!(cause(&settings), "Protocol wrong type for socket (os error 91); set LISTEN to another path");
    assert!(path(&settings).exists());
}

#[test]
fn a_folder_that_is_missing_or_closed_is_an_error() {
    let settings = Settings::ledger();
    let missing = settings.folder().join("none/s");
    let ended = settings.with("LISTEN", &format!("unix:{}", missing.display())).try_start();
    let Err(Exit { stderr, .. }) = ended else { panic!("it listens") };
    let expected = "its folder does not exist; create it, or set LISTEN to another path";
    assert!(stderr.ends_with(&format!("cannot listen on unix:{}: {expected}", missing.display())), "{stderr}");

    let settings = unprivileged(Settings::ledger(), 0o555);
    let cause = cause(&settings);
    set_mode(settings.folder(), 0o755);
    assert!(
        cause.starts_with("Permission denied (os error 13); set LISTEN_MODE to a group of this user, or"),
        "{cause}"
    );
}

#[test]
fn the_file_is_removed_at_the_end() {
    let settings = Settings::ledger().start().stop();
    assert!(!path(&settings).exists());
    // An error after it was created ends the start, and removes it too.
    let settings = Settings::ledger().with("LEDGER", "/dev/null");
    assert!(settings.try_start().is_err() && !path(&settings).exists());
}

#[test]
fn the_file_of_another_process_is_not_removed() {
    let settings = Settings::ledger();
    let notch = settings.start();
    let own = notch.address.path();
    fs::remove_file(own).expect("the socket file");
    // Most file systems give it the inode of the file before.
    let other = UnixListener::bind(own).expect("another socket");
    notch.stop();
    assert!(fs::metadata(own).is_ok_and(|file| file.file_type().is_socket()), "it is that of another process");
    drop(other);
}

#[test]
fn the_next_process_takes_over_while_the_last_one_drains() {
    let settings = Settings::ledger().with("DRAIN_TIMEOUT", NEVER).with("REQUEST_TIMEOUT", NEVER);
    let notch = settings.start();
    let mut half = notch.client();
    half.send("GET /count HTT");
    assert_eq!(notch.visit(), 1);
    notch.signal("TERM");
    let listen = notch.address.to_string();
    wait_until("the path is free", || (!Path::new(notch.address.path()).exists()).then_some(()));
    let next = Settings::ledger().with("LISTEN", &listen).start();
    half.send("P/1.1\r\nHost: h\r\n\r\n");
    drop(half);
    assert_eq!(notch.ended().0.code(), Some(0));
    assert_eq!(next.visit(), 1, "its file is not removed by the other");
}

/// The kernel keeps what a client does not read, even after notch has closed the connection.
#[test]
fn the_kernel_holds_a_bounded_amount_for_a_client_that_does_not_read() {
    let settings = Settings::ledger().with("MEMORY_LIMIT", "6m").with("WRITE_TIMEOUT", "200ms");
    let notch = settings.start();
    let mut client = UnixStream::connect(notch.address.path()).expect("notch accepts connections");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout above zero");
    client.write_all(&b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n".repeat(1000)).expect("room for it");
    wait_until("the client is disconnected", || {
        notch.get("/metrics").text().contains("\nnotch_connections 1\n").then_some(())
    });
    let mut held = Vec::new();
    // It ends with a reset, since notch has not read all requests.
    let _ = client.read_to_end(&mut held);
    assert!((1..32 << 10).contains(&held.len()), "{} bytes", held.len());
}

#[test]
fn healthcheck_connects_to_the_socket() {
    let notch = Settings::ledger().start();
    let check = |arguments: &[&str]| Settings::ledger().with("LISTEN", &notch.address.to_string()).run(arguments);
    for (arguments, message) in [(&["healthcheck"][..], "alive\n"), (&["healthcheck", "ready"], "ready\n")] {
        let exit = check(arguments);
        assert_eq!((exit.code, &*exit.stdout, &*exit.stderr), (Some(0), message, ""));
    }
}

#[test]
fn healthcheck_names_the_cause() {
    let settings = Settings::ledger();
    let expect = |settings: &Settings, cause: &str| {
        let exit = settings.run(&["healthcheck"]);
        let expected = format!("notch: no response from unix:{}: {cause}\n", path(settings).display());
        assert_eq!((exit.code, &*exit.stderr), (Some(1), &*expected));
    };
    expect(&settings, "No such file or directory (os error 2)");
    let listener = UnixListener::bind(path(&settings)).expect("a socket");
    // The kernel completes the connection, and nothing ever reads from it.
    expect(&settings, "Resource temporarily unavailable (os error 11)");
    set_mode(&path(&settings), 0);
    expect(&unprivileged(settings.clone(), 0o777), "Permission denied (os error 13)");
    drop(listener);
    expect(&settings, "Connection refused (os error 111)");
}
