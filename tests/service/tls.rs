//! TLS to a real `redis-server`: certificates of both sides, versions, settings, Sentinels and a cluster.
//!
//! The other suites run over TLS too in a build with the feature `tls`; faults of TLS itself are in `tests/faults`.

use std::fs;
use std::process::Command;
use std::thread;

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

use crate::support::tls::{Authority, Identity, write};
use crate::support::{Folder, Notch, Recipe, Redis, SECOND_PORT, Settings, free_port, wait_until};

const HOST: &str = "127.0.0.1";

/// A `redis-server` with TLS whose certificates the test has made.
struct Server {
    redis: Redis,
    port: u16,
    folder: Folder,
}

impl Server {
    /// Starts a server with `options` that presents `identity`. It trusts clients of `clients`.
    fn start(identity: &Identity, clients: &Authority, options: &[&str]) -> Self {
        Self::of(Recipe::default(), identity, clients, options)
    }

    /// Starts a Sentinel that watches the node `main`.
    fn sentinel(identity: &Identity, authority: &Authority, main: &Self, lines: &str, options: &[&str]) -> Self {
        let file = format!("sentinel monitor main {HOST} {} 1\n{lines}", main.port);
        let recipe = Recipe { file: Some(file), ..Recipe::default() };
        Self::of(recipe, identity, authority, &[&["--sentinel", "--tls-replication", "yes"], options].concat())
    }

    fn of(recipe: Recipe, identity: &Identity, clients: &Authority, options: &[&str]) -> Self {
        let folder = Folder::new("certificates");
        let [certificate, key] = identity.write(folder.path(), "redis");
        let ca = write(folder.path(), "clients.crt", &clients.pem);
        let port = free_port();
        let mut recipe = Recipe { is_plain: true, ..recipe }.with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
        ]);
        if !options.contains(&"--tls-auth-clients") {
            recipe = recipe.with(&["--tls-auth-clients", "no"]);
        }
        Self { redis: Redis::of(recipe.with(options)), port, folder }
    }

    fn url(&self) -> String {
        format!("rediss://{HOST}:{}", self.port)
    }

    /// Settings that count there, and trust `authority`.
    fn settings(&self, authority: &Authority) -> Settings {
        settings(&self.url(), &self.folder, authority)
    }

    /// Ends all connections over TLS.
    fn disconnect(&self) {
        self.redis.execute("CLIENT KILL TYPE normal SKIPME yes");
    }
}

fn settings(url: &str, folder: &Folder, authority: &Authority) -> Settings {
    let ca = write(folder.path(), "ca.crt", &authority.pem);
    Settings::ledger().without_tls().with("REDIS_URL", url).with("REDIS_CA", &ca).with("STORE_TIMEOUT", "4s")
}

fn presenting(settings: Settings, identity: &Identity) -> Settings {
    let [certificate, key] = identity.write(settings.folder(), "client");
    settings.with("REDIS_CLIENT_CERT", &certificate).with("REDIS_CLIENT_KEY", &key)
}

fn wait_for_log(notch: &Notch, text: &str) {
    wait_until(&format!("the log has {text:?}"), || notch.log().iter().any(|line| line.contains(text)).then_some(()));
}

/// Checks that nothing is counted, for this reason.
fn assert_refused(settings: &Settings, reason: &str) {
    let notch = settings.clone().with("STORE_TIMEOUT", "1s").start();
    wait_for_log(&notch, reason);
    notch.get("/count").assert_not_counted();
    let lines = notch.log().iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(lines, 1, "{:#?}", notch.log());
}

#[test]
fn counts_over_each_version_with_a_password_and_a_database() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&[HOST]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = ["--tls-protocols", version, "--requirepass", "secret"];
        let server = Server::start(&identity, &authority, &options);
        let url = format!("rediss://:secret@{HOST}:{}/3", server.port);
        let notch = settings(&url, &server.folder, &authority).start();
        assert_eq!([notch.visit(), notch.visit()], [1, 2]);
        assert_eq!(server.redis.query_in(3, "GET visits").trim_start_matches("OK\n"), "2");
        wait_for_log(&notch, &format!("redis {HOST}:{} db 3 over TLS", server.port));
        drop(notch);
        let wrong = url.replace("secret", "wrong");
        assert_refused(&settings(&wrong, &server.folder, &authority), "password");
    }
}

#[test]
fn the_password_may_be_in_a_variable_or_a_file() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority.issue(&[HOST]), &authority, &["--requirepass", "secret"]);
    server.redis.execute("ACL SETUSER notch on >p@ss ~* +@all");
    let file = write(server.folder.path(), "password", "p@ss\r\n");
    let mut total = 0;
    let settings = |user: &str, name: &str, value: &str| {
        let url = format!("rediss://{user}{HOST}:{}", server.port);
        settings(&url, &server.folder, &authority).with(name, value)
    };
    for (user, name, value) in [
        ("", "REDIS_PASSWORD", "secret"),
        ("default:@", "REDIS_PASSWORD", "secret"),
        ("notch:@", "REDIS_PASSWORD", "p@ss"),
        ("notch:@", "REDIS_PASSWORD_FILE", &file),
    ] {
        total += 1;
        assert_eq!(settings(user, name, value).start().visit(), total, "{user} {name}");
    }
    assert_refused(&settings("", "REDIS_PASSWORD_FILE", &file), "password");
}

/// What `openssl` writes besides PKCS#8, which all other tests have.
#[test]
fn a_private_key_may_have_each_format() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let server = Server::start(&authority.issue(&[HOST]), &clients, &["--tls-auth-clients", "yes"]);
    let folder = server.folder.path();
    let openssl = |arguments: &str| {
        let run = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let run = run.expect("openssl is missing: install openssl (Debian: apt-get install openssl)");
        assert!(run.status.success(), "{arguments}: {run:?}");
    };
    let mut total = 0;
    for (generate, convert, start) in [
        ("genpkey -algorithm RSA -out new", "pkey -in new -out key", "-----BEGIN PRIVATE KEY-----"),
        ("genpkey -algorithm RSA -out new", "rsa -traditional -in new -out key", "-----BEGIN RSA PRIVATE KEY-----"),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out new",
            "ec -in new -out key",
            "-----BEGIN EC PRIVATE KEY-----",
        ),
    ] {
        openssl(generate);
        openssl(convert);
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a file of openssl");
        assert!(read("key").starts_with(start), "{start}");
        let certificate = clients.certify(&read("new"));
        let certificate = write(folder, "client.crt", &certificate);
        let key = server.folder.file("key").display().to_string();
        let settings = server.settings(&authority).with("REDIS_CLIENT_CERT", &certificate);
        total += 1;
        assert_eq!(settings.with("REDIS_CLIENT_KEY", &key).start().visit(), total, "{start}");
    }
}

#[test]
fn without_a_setting_the_certificates_of_the_system_are_trusted() {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    let authority = Authority::new("ca");
    let server = Server::start(&authority.issue(&[HOST]), &authority, &[]);
    let settings = server.settings(&authority).without("REDIS_CA");
    let ca = server.folder.file("ca.crt").display().to_string();
    let mounted = |mounts: &str| {
        let script = format!("mount -t tmpfs none /etc/ssl && {mounts} && exec \"$0\" \"$@\"");
        let command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", &script];
        settings.clone().with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").with_wrapper(&command)
    };
    let with_bundle = mounted(&format!("mkdir /etc/ssl/certs && cp {ca} {BUNDLE}"));
    assert_eq!(with_bundle.start().visit(), 1);
    let exit = mounted("true").run(&[]);
    assert_eq!((exit.code, exit.stderr.lines().count()), (Some(2), 1), "{exit:?}");
    assert!(exit.stderr.contains("REDIS_CA: ") && exit.stderr.contains(BUNDLE), "{exit:?}");
}

#[test]
fn an_address_or_a_name_is_checked_against_the_certificate() {
    let authority = Authority::new("ca");
    for (name, hosts) in
        [(HOST, ["127.0.0.1", "localhost"]), ("localhost", ["localhost", "127.0.0.1"]), ("::1", ["[::1]", "127.0.0.1"])]
    {
        let server = Server::start(&authority.issue(&[name]), &authority, &["--bind", "127.0.0.1", "::1"]);
        let [right, wrong] =
            hosts.map(|host| settings(&format!("rediss://{host}:{}", server.port), &server.folder, &authority));
        assert_eq!(right.start().visit(), 1);
        assert_refused(&wrong, "the certificate of the server has another name");
    }
}

#[test]
fn a_certificate_that_is_not_valid_counts_nothing() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let expired = authority.issue_with(&[HOST], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let future = authority.issue_with(&[HOST], |params| params.not_before = date_time_ymd(3000, 1, 1));
    let for_clients =
        authority.issue_with(&[HOST], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for (identity, reason) in [
        (expired, "the certificate of the server has expired"),
        (future, "the certificate of the server is not valid yet"),
        (other.issue(&[HOST]), "the certificate of the server is from an unknown issuer"),
        (Identity::self_signed(&[HOST]), "the certificate of the server is from an unknown issuer"),
        (for_clients, "the certificate of the server cannot be used"),
    ] {
        let server = Server::start(&identity, &authority, &[]);
        assert_refused(&server.settings(&authority), reason);
        assert_eq!(server.redis.query("EXISTS visits"), "0");
    }
}

#[test]
fn the_client_certificate_is_presented_where_it_is_wanted() {
    let (authority, clients, other) = (Authority::new("ca"), Authority::new("clients"), Authority::new("other"));
    let (right, wrong) = (clients.issue(&[]), other.issue(&[]));
    for (version, auth) in
        [("TLSv1.2", "yes"), ("TLSv1.3", "yes"), ("TLSv1.2", "optional"), ("TLSv1.3", "optional"), ("TLSv1.3", "no")]
    {
        let options = ["--tls-protocols", version, "--tls-auth-clients", auth];
        let server = Server::start(&authority.issue(&[HOST]), &clients, &options);
        let settings = server.settings(&authority);
        assert_eq!(presenting(settings.clone(), &right).start().visit(), 1, "{version} {auth}");
        if auth == "yes" {
            assert_refused(&settings, "the server requires a client certificate");
        } else {
            assert_eq!(settings.start().visit(), 2);
        }
        if auth != "no" {
            assert_refused(&presenting(settings, &wrong), "the server refused the client certificate");
        }
    }
}

#[test]
fn the_wrong_kind_of_port_has_its_line() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority.issue(&[HOST]), &authority, &[]);
    let plain = format!("rediss://{HOST}:{}", server.redis.port);
    assert_refused(&settings(&plain, &server.folder, &authority), "use redis://");
    let tls = Settings::redis(server.port).without_tls();
    assert_refused(&tls, "use rediss://");
}

#[test]
fn certificates_may_be_replaced_while_notch_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = Server::start(&old.issue(&[HOST]), &old, &["--tls-auth-clients", "yes"]);
    let settings = presenting(server.settings(&old), &old.issue(&[]));
    let notch = settings.start();
    assert_eq!(notch.visit(), 1);
    let [certificate, key] = new.issue(&[HOST]).write(server.folder.path(), "new");
    let ca = write(server.folder.path(), "new-clients.crt", &new.pem);
    server.redis.execute(&format!("CONFIG SET tls-cert-file {certificate} tls-key-file {key} tls-ca-cert-file {ca}"));
    assert_eq!(notch.visit(), 2, "the connection stays");
    server.disconnect();
    wait_for_log(&notch, "the certificate of the server is from an unknown issuer");
    write(server.folder.path(), "ca.crt", &new.pem);
    presenting(settings.clone(), &new.issue(&[]));
    assert_eq!(notch.visit_when_it_counts(), 3);
}

#[test]
fn certificates_may_be_missing_while_notch_runs() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority.issue(&[HOST]), &authority, &[]);
    let notch = server.settings(&authority).start();
    assert_eq!(notch.visit(), 1);
    fs::remove_file(server.folder.file("ca.crt")).expect("the file is there");
    assert_eq!(notch.visit(), 2, "the connection stays");
    server.disconnect();
    wait_for_log(&notch, "REDIS_CA cannot be read");
    write(server.folder.path(), "ca.crt", &authority.pem);
    assert_eq!(notch.visit_when_it_counts(), 3);
}

#[test]
fn a_batch_of_many_visits_passes() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 500;
    let authority = Authority::new("ca");
    let server = Server::start(&authority.issue(&[HOST]), &authority, &[]);
    let notch = server.settings(&authority).with("COUNTERS", "*").start();
    assert_eq!(notch.visit(), 1);
    let visits = |at: usize| {
        let mut client = notch.client();
        // Many counters make many commands, which are far longer than a record.
        let paths = (0..EACH).map(|visit| format!("GET /count/{} HTTP/1.1\r\nHost: a\r\n\r\n", (at + visit) % 300));
        client.send(paths.collect::<String>());
        (0..EACH).map(|_| client.response().number()).collect::<Vec<_>>()
    };
    let numbers = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|at| scope.spawn(move || visits(at))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(numbers.len(), CONNECTIONS * EACH);
    let total: i64 =
        (0..300).map(|name| server.redis.query(&format!("GET visits:{name}")).parse::<i64>().expect("a total")).sum();
    assert_eq!(total as usize, CONNECTIONS * EACH);
}

#[test]
fn sentinels_and_the_node_that_they_name_are_reached_over_tls() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&[HOST]);
    let node = Server::start(&identity, &authority, &["--tls-replication", "yes"]);
    let sentinel = Server::sentinel(&identity, &authority, &node, "", &[]);
    let folder = &sentinel.folder;
    let url = format!("rediss+sentinel://{HOST}:{}/main", sentinel.port);
    let notch = settings(&url, folder, &authority).start();
    assert_eq!([notch.visit(), notch.visit()], [1, 2]);
    wait_for_log(&notch, &format!("the store is at {HOST}:{}", node.port));
    assert_eq!(node.redis.query("GET visits"), "2");
    drop(notch);
    assert_refused(
        &settings(&format!("rediss+sentinel://{HOST}:{}/main", sentinel.redis.port), folder, &authority),
        "use redis://",
    );
    let other = Authority::new("other");
    assert_refused(&settings(&url, folder, &other), "the certificate of the server is from an unknown issuer");
}

#[test]
fn sentinels_and_nodes_have_passwords_of_their_own() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&[HOST]);
    let node = Server::start(&identity, &authority, &["--tls-replication", "yes", "--requirepass", "of the node"]);
    let lines = "sentinel auth-pass main \"of the node\"\n";
    let sentinel = Server::sentinel(&identity, &authority, &node, lines, &["--requirepass", "secret"]);
    let [file, wrong] = ["of the node", "wrong"].map(|password| write(sentinel.folder.path(), password, password));
    let url = |user: &str| format!("rediss+sentinel://{user}{HOST}:{}/main/2", sentinel.port);
    let settings = |user: &str, variables: &[(&str, &str)]| {
        let settings = settings(&url(user), &sentinel.folder, &authority);
        variables.iter().fold(settings, |settings, (name, value)| settings.with(name, value))
    };
    let mut total = 0;
    for (user, variables) in [
        (":of%20the%20node@", &[("REDIS_SENTINEL_PASSWORD", "secret")][..]),
        ("", &[("REDIS_PASSWORD", "of the node"), ("REDIS_SENTINEL_PASSWORD", "secret")]),
        ("default:of%20the%20node@", &[("REDIS_SENTINEL_USERNAME", "default"), ("REDIS_SENTINEL_PASSWORD", "secret")]),
        ("", &[("REDIS_PASSWORD_FILE", &file), ("REDIS_SENTINEL_PASSWORD", "secret")]),
    ] {
        total += 1;
        assert_eq!(settings(user, variables).start().visit(), total, "{user} {variables:?}");
    }
    assert_eq!(node.redis.query_in(2, "GET visits").trim_start_matches("OK\n"), total.to_string());
    for (user, variables, reason) in [
        (":of%20the%20node@", &[][..], "a Sentinel rejected the password"),
        (":of%20the%20node@", &[("REDIS_SENTINEL_PASSWORD", "wrong")], "a Sentinel rejected the password"),
        (":wrong@", &[("REDIS_SENTINEL_PASSWORD", "secret")], "password"),
        ("", &[("REDIS_PASSWORD_FILE", &wrong), ("REDIS_SENTINEL_PASSWORD", "secret")], "password"),
    ] {
        assert_refused(&settings(user, variables), reason);
    }
}

#[test]
fn a_redirection_of_a_cluster_is_followed_over_tls() {
    for password in [None, Some("secret")] {
        assert_follows_redirection(password);
    }
}

fn assert_follows_redirection(password: Option<&str>) {
    let authority = Authority::new("ca");
    let identity = authority.issue(&[HOST]);
    let node = || {
        let mut options = vec!["--cluster-enabled", "yes", "--cluster-port", SECOND_PORT, "--tls-cluster", "yes"];
        options.extend(password.iter().flat_map(|password| ["--requirepass", password]));
        Server::start(&identity, &authority, &options)
    };
    let (seed, owner) = (node(), node());
    owner.redis.execute("CLUSTER ADDSLOTSRANGE 0 16383");
    let bus_port = owner.redis.query("CONFIG GET cluster-port").lines().last().map(str::to_owned).expect("a port");
    seed.redis.execute(&format!("CLUSTER MEET {HOST} {} {bus_port}", owner.port));
    wait_until("the seed has the slots of the other node", || {
        seed.redis.query("CLUSTER INFO").contains("cluster_slots_assigned:16384").then_some(())
    });
    let user = password.map(|password| format!(":{password}@")).unwrap_or_default();
    let url = format!("rediss+cluster://{user}{HOST}:{}", seed.port);
    let notch = settings(&url, &seed.folder, &authority).with("COUNTER_KEY", "{visits}").start();
    assert_eq!(notch.visit_when_it_counts(), 1);
    assert_eq!(notch.visit(), 2);
    wait_for_log(&notch, &format!("the store is at {HOST}:{}", owner.port));
    assert_eq!(owner.redis.query("GET {visits}"), "2");
}

#[test]
fn settings_that_cannot_work_stop_the_start() {
    let folder = Folder::new("settings");
    let authority = Authority::new("ca");
    let identity = authority.issue(&[]);
    let [certificate, key] = identity.write(folder.path(), "client");
    let [_, other_key] = authority.issue(&[]).write(folder.path(), "other");
    let ca = write(folder.path(), "ca.crt", &authority.pem);
    let text = write(folder.path(), "text", "text");
    let missing = folder.file("missing").display().to_string();
    let plain = ("REDIS_URL", "redis://127.0.0.1:1");
    let tls = ("REDIS_URL", "rediss://127.0.0.1:1");
    let ca = ("REDIS_CA", &*ca);
    for (settings, error) in [
        (&[plain, ca][..], "REDIS_CA: no connection uses TLS: begin REDIS_URL with rediss://, rediss+sentinel:// or"),
        (&[("REDIS_HOST", "a"), ca], "REDIS_CA: no connection uses TLS"),
        (&[plain, ("REDIS_CLIENT_CERT", &certificate)], "REDIS_CLIENT_CERT: no connection uses TLS"),
        (&[ca], "REDIS_CA: neither REDIS_HOST nor REDIS_URL is set"),
        (&[tls, ("REDIS_CA", &missing)], "REDIS_CA: cannot be read (No such file or directory"),
        (&[tls, ("REDIS_CA", &text)], "REDIS_CA: has no certificate in PEM"),
        (&[tls, ("REDIS_CA", "/dev/zero")], "REDIS_CA: cannot be read (file too large)"),
        (&[tls, ca, ("REDIS_CLIENT_CERT", &certificate)], "REDIS_CLIENT_KEY: REDIS_CLIENT_CERT is set, and needs it"),
        (&[tls, ca, ("REDIS_CLIENT_KEY", &key)], "REDIS_CLIENT_CERT: REDIS_CLIENT_KEY is set, and needs it"),
        (
            &[tls, ca, ("REDIS_CLIENT_CERT", &certificate), ("REDIS_CLIENT_KEY", &missing)],
            "REDIS_CLIENT_KEY: cannot be read (No such file",
        ),
        (
            &[tls, ca, ("REDIS_CLIENT_CERT", &certificate), ("REDIS_CLIENT_KEY", &text)],
            "REDIS_CLIENT_KEY: has no usable key in PEM",
        ),
        (
            &[tls, ca, ("REDIS_CLIENT_CERT", &certificate), ("REDIS_CLIENT_KEY", &other_key)],
            "REDIS_CLIENT_KEY: is not the key of REDIS_CLIENT_CERT",
        ),
        (&[("REDIS_URL", "rediss://a_b!c"), ca], "REDIS_URL: TLS: the host of Redis is neither a DNS name nor"),
        (&[("REDIS_URL", "rediss://a"), ca, ("REDIS_TLS", "on")], "REDIS_TLS: unknown setting: the nearest is"),
    ] {
        let settings = settings.iter().fold(Settings::ledger(), |all, (name, value)| all.with(name, value));
        let exit = settings.run(&[]);
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.stderr.contains(error) && exit.stderr.lines().count() == 1, "{error}: {exit:?}");
    }
}
