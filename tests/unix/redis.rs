//! A Redis that is reached by its Unix socket.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::support::audit::LOST_CONNECTION;
use crate::support::load::Load;
use crate::support::{Folder, NOBODY, Redis, Settings, is_root, wait_until};

/// A Redis with a socket in a folder of its own.
struct Local {
    redis: Redis,
    folder: Folder,
}

impl Local {
    fn start(options: &[&str]) -> Self {
        let folder = Folder::new("socket");
        let socket = folder.file("redis.sock");
        let socket = ["--unixsocket", socket.to_str().expect("a path in UTF-8")];
        let redis = Redis::start(&[&socket, options].concat());
        Self { redis, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.file("redis.sock")
    }

    /// Returns settings to count in it; `user` precedes the path, and `query` follows it.
    fn settings(&self, user: &str, query: &str) -> Settings {
        settings(user, &self.path(), query)
    }
}

fn settings(user: &str, path: &Path, query: &str) -> Settings {
    Settings::ledger().with("REDIS_URL", &format!("unix://{user}{}{query}", path.display()))
}

#[test]
fn counts_in_redis() {
    let local = Local::start(&[]);
    let notch = local.settings("", "").start();
    assert_eq!((notch.visit(), notch.visit(), notch.total()), (1, 2, 2));
    assert_eq!(local.redis.query("GET visits"), "2");
    assert_eq!(notch.get("/readyz").status, 200);
    assert_eq!(local.redis.query("KEYS {visits}:receipt:*").lines().count(), 1, "with receipts");
    let line = format!(" (redis unix:{} db 0) ", local.path().display());
    assert!(notch.log()[0].contains(&line), "{:?}", notch.log());
    let clients = local.redis.query("CLIENT LIST TYPE normal");
    let own = clients.lines().find(|line| line.contains(&format!("addr={}:0", local.path().display())));
    assert!(own.is_some_and(|line| line.contains(" name= ") || line.contains(" name=notch")), "{clients}");
}

#[test]
fn counts_in_another_database() {
    let local = Local::start(&[]);
    let notch = local.settings("", "?db=3").start();
    assert_eq!(notch.visit(), 1);
    assert_eq!((&*local.redis.query_in(3, "GET visits"), &*local.redis.query("EXISTS visits")), ("1", "0"));
}

#[test]
fn authenticates() {
    let local = Local::start(&["--requirepass", "p/a:s@s"]);
    local.redis.execute("ACL SETUSER notch on >p@ss ~* +@all");
    let file = local.folder.file("password").display().to_string();
    fs::write(&file, "p@ss\n").expect("a file written for the test");
    for settings in [
        local.settings(":p%2Fa%3As%40s@", ""),
        local.settings("notch:p%40ss@", "?db=0"),
        local.settings("", "").with("REDIS_PASSWORD", "p/a:s@s"),
        local.settings("notch:@", "?db=1").with("REDIS_PASSWORD", "p@ss"),
        local.settings("notch:@", "").with("REDIS_PASSWORD_FILE", &file),
    ] {
        assert!(settings.start().visit() > 0);
    }
    let notch = local.settings(":wrong@", "").start();
    let response = notch.get("/count");
    response.assert_not_counted();
    wait_until("the cause is logged", || notch.log().iter().any(|line| line.contains("password")).then_some(()));
    assert!(!notch.log().iter().any(|line| line.contains("wrong")), "{:?}", notch.log());
}

#[test]
fn reconnects_after_a_restart_that_replaces_the_file() {
    let mut local = Local::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let notch = local.settings("", "").start();
    assert_eq!(notch.visit(), 1);
    for total in 2..5 {
        local.redis.kill();
        // A visit that is sent before notch has noticed the end of the connection would be in doubt.
        wait_until("not ready", || (notch.get("/readyz").status == 503).then_some(()));
        notch.get("/count").assert_not_counted();
        local.redis.restart();
        assert_eq!(notch.visit_when_it_counts(), total);
    }
}

#[test]
fn no_visit_is_lost_or_counted_twice_when_connections_are() {
    let local = Local::start(&[]);
    let notch = local.settings("", "").start();
    let load = Load::start(&notch, 6);
    for _ in 0..20 {
        load.wait_for_answers(50);
        local.redis.execute("CLIENT KILL TYPE normal");
    }
    load.wait_for_answers(50);
    let tally = load.stop();
    tally.audit(local.redis.query("GET visits").parse().expect("a number"), LOST_CONNECTION);
}

#[test]
fn each_cause_has_a_line() {
    let folder = Folder::new("socket");
    let path = |name: &str| folder.file(name);
    fs::write(path("file"), "").expect("a file");
    fs::create_dir(path("folder")).expect("a folder");
    drop(UnixListener::bind(path("stale")).expect("a socket"));
    let _datagrams = UnixDatagram::bind(path("datagrams")).expect("a socket");
    let not_redis = "cannot connect: the path in REDIS_URL is not that of a socket of Redis";
    for (name, cause) in [
        ("missing", "cannot connect: the socket of REDIS_URL does not exist: is Redis running?"),
        ("no/folder", "cannot connect: the socket of REDIS_URL does not exist: is Redis running?"),
        ("stale", "cannot connect: no process listens on the socket of REDIS_URL: is Redis running?"),
        ("file", not_redis),
        ("folder", not_redis),
        ("file/none", not_redis),
        ("datagrams", not_redis),
    ] {
        expect_cause(&settings("", &path(name), ""), cause);
    }
}

/// Starts notch, whose store cannot be reached, and expects the cause in its log.
fn expect_cause(settings: &Settings, cause: &str) {
    let notch = settings.clone().with("STORE_TIMEOUT", "300ms").start();
    notch.get("/count").assert_not_counted();
    let line = || notch.log().iter().find(|line| line.contains(" WARN ")).cloned();
    let line = wait_until("the cause is logged", line);
    assert!(line.contains(cause), "{line}");
}

#[test]
fn a_socket_without_rights_is_an_error() {
    let local = Local::start(&[]);
    fs::set_permissions(local.path(), PermissionsExt::from_mode(0o000)).expect("a socket of the test");
    let settings = local.settings("", "");
    fs::set_permissions(settings.folder(), PermissionsExt::from_mode(0o777)).expect("our folder");
    let settings = if is_root() { settings.with_wrapper(&NOBODY) } else { settings };
    let cause = "cannot connect: no right to use the socket of REDIS_URL: check unixsocketperm of Redis and its folder";
    expect_cause(&settings, cause);
}

#[test]
fn a_full_backlog_does_not_delay_for_ever() {
    let folder = Folder::new("socket");
    let path = folder.file("full");
    let open = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
    let address = UnixAddr::new(&path).expect("a short path");
    let silent = open();
    bind(silent.as_raw_fd(), &address).expect("a free path");
    listen(&silent, Backlog::new(1).expect("a length")).expect("a listener");
    let waiting: Vec<_> =
        (0..4).map(|_| open()).filter(|socket| connect(socket.as_raw_fd(), &address).is_ok()).collect();
    assert!((1..4).contains(&waiting.len()), "the backlog is full");
    expect_cause(&settings("", &path, ""), "connecting timed out: Redis accepts no connection on its socket");
}
