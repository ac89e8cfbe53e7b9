//! Resolution of the Redis host: in the hosts file, through name servers with any or no reply, and again after its
//! address has changed.
//!
//! In the tests of files alone, notch gets its own system files, in a mount namespace. With name servers, the whole
//! test runs in its own namespaces.

use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{DnsReply, Etc, NameServer, Notch, Redis, Settings, isolated, reply, wait_until};

/// Returns settings with these system files, in which Redis is `redis.test`.
struct Names {
    settings: Settings,
    hosts: PathBuf,
}

impl Names {
    fn new(redis: &Redis, hosts: &str, resolv_conf: &str) -> Self {
        let settings = Settings::redis(redis.port).with("REDIS_HOST", "redis.test").with("STORE_TIMEOUT", "1s");
        let (own, conf) = (settings.folder().join("hosts"), settings.folder().join("resolv.conf"));
        fs::write(&own, hosts).expect("a file can be written");
        fs::write(&conf, resolv_conf).expect("a file can be written");
        let enter = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        let command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", enter, "sh"];
        Self { settings: settings.with_wrapper(&command).with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), hosts: own }
    }

    /// Changes the hosts file in place, because the mount refers to its inode.
    fn change(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).expect("a file can be written");
    }
}

fn wait_for_log(notch: &Notch, message: &str) {
    wait_until("the reason is logged", || notch.log().iter().any(|line| line.contains(message)).then_some(()));
}

#[test]
fn localhost_needs_no_file() {
    let redis = Redis::start(&[]);
    for host in ["localhost", "LOCALHOST", "127.0.0.1"] {
        let notch = Settings::redis(redis.port).with("REDIS_HOST", host).start();
        notch.visit_when_it_counts();
    }
    assert_eq!(redis.query("GET visits"), "3");
}

#[test]
fn the_hosts_file_is_read_at_each_connect() {
    let mut redis = Redis::start(&[]);
    let names = Names::new(&redis, "127.0.0.1 redis.test\n", "nameserver 127.0.0.1\n");
    let notch = names.settings.start();
    assert_eq!(notch.visit_when_it_counts(), 1);
    // Its address changes, as that of a container that is created again.
    redis.kill();
    redis.restart_at("127.9.9.9");
    names.change("127.9.9.9 redis.test\n");
    assert_eq!(notch.visit_when_it_counts(), 2, "this Redis keeps nothing over a restart, and notch its last number");
}

#[test]
fn a_name_without_an_address_is_looked_up_again() {
    let redis = Redis::start(&[]);
    // The port is closed, so the connection is refused at once.
    let names = Names::new(&redis, "", "nameserver 127.9.9.1\n");
    let notch = names.settings.start();
    assert_eq!(notch.get("/count").status, 503);
    wait_for_log(&notch, "DNS lookup of the Redis host failed: no name server answered; check /etc/resolv.conf");
    names.change("127.0.0.1 redis.test\n");
    assert_eq!(notch.visit_when_it_counts(), 1);
}

#[test]
fn an_address_that_accepts_connections_is_used() {
    let redis = Redis::start(&[]);
    let names = Names::new(&redis, "127.9.9.2 redis.test\n::1 redis.test\n127.0.0.1 redis.test\n", "");
    assert_eq!(names.settings.start().visit_when_it_counts(), 1);
}

#[test]
fn an_invalid_name_is_not_looked_up() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("REDIS_HOST", "redis..test").with("STORE_TIMEOUT", "200ms").start();
    assert_eq!(notch.get("/count").status, 503);
    wait_for_log(&notch, "DNS lookup of the Redis host failed: no such name; check REDIS_HOST");
}

/// Defines a test that runs in its own namespaces.
macro_rules! isolated {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            isolated(concat!(module_path!(), "::", stringify!($name)), $body);
        }
    };
}

/// Returns settings in which Redis is a host that must be looked up.
fn named(redis: &Redis) -> Settings {
    Settings::redis(redis.port).with("REDIS_HOST", "redis").with("STORE_TIMEOUT", "1s")
}

/// Checks that notch finds Redis.
fn finds(redis: &Redis, settings: &Settings) {
    let before: i64 = redis.query("INCR visits").parse().expect("a number");
    assert_eq!(settings.start().visit_when_it_counts(), before + 1);
}

/// Checks that notch does not find Redis, and its log line.
fn fails(redis: &Redis, message: &str) {
    let notch = named(redis).start();
    wait_for_log(&notch, &format!("DNS lookup of the Redis host failed: {message}"));
    assert_eq!(notch.get("/count").status, 503);
}

/// The search list of a pod in Kubernetes.
const KUBERNETES: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

isolated!(a_dead_name_server_does_not_hide_the_second_candidate, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let silent = NameServer::silent("127.0.0.2");
    let live = NameServer::of("127.0.0.3", "redis.svc.cluster.local", &["127.0.0.1"]);
    // One that drops packets, and one that does not exist.
    for dead in ["127.0.0.2", "127.0.0.9"] {
        etc.resolv_conf(format!("nameserver {dead}\nnameserver 127.0.0.3\n{KUBERNETES}"));
        finds(&redis, &named(&redis));
        etc.resolv_conf(format!("nameserver 127.0.0.3\nnameserver {dead}\n{KUBERNETES}"));
        finds(&redis, &named(&redis));
        etc.resolv_conf(format!("nameserver {dead}\nnameserver 127.0.0.8\nnameserver 127.0.0.3\n{KUBERNETES}"));
        finds(&redis, &named(&redis));
    }
    assert!(!silent.received().is_empty() && !live.received().is_empty(), "all servers get a query");
});

isolated!(every_candidate_is_found_behind_a_dead_name_server, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _silent = NameServer::silent("127.0.0.2");
    for (server, name) in [
        ("127.0.1.1", "redis.ns.svc.cluster.local"),
        ("127.0.1.2", "redis.svc.cluster.local"),
        ("127.0.1.3", "redis.cluster.local"),
        ("127.0.1.4", "redis"),
    ] {
        let _server = NameServer::of(server, name, &["127.0.0.1"]);
        etc.resolv_conf(format!("nameserver 127.0.0.2\nnameserver {server}\n{KUBERNETES}"));
        finds(&redis, &named(&redis));
    }
});

isolated!(a_name_server_that_fails_does_not_end_the_search, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _one = NameServer::start("127.0.0.2", |question, _| match question.name.as_str() {
        "redis.b" => DnsReply::address("127.0.0.1"),
        _ => DnsReply::FAILED,
    });
    let _silent = NameServer::silent("127.0.0.3");
    let _refusing = NameServer::start("127.0.0.4", |_, _| DnsReply::Code(5));
    for others in
        ["", "nameserver 127.0.0.3\n", "nameserver 127.0.0.4\nnameserver 127.0.0.3\n", "nameserver 127.0.0.9\n"]
    {
        etc.resolv_conf(format!("{others}nameserver 127.0.0.2\nsearch a b c\n"));
        finds(&redis, &named(&redis));
    }
});

isolated!(a_name_server_that_fails_once_is_asked_again, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let fails_first = std::sync::Mutex::new(std::collections::HashSet::new());
    let _server = NameServer::start("127.0.0.2", move |question, _| {
        match fails_first.lock().expect("no holder panics").insert(question.id) {
            true => DnsReply::FAILED,
            false => DnsReply::address("127.0.0.1"),
        }
    });
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
});

isolated!(a_name_server_that_is_silent_about_one_name_does_not_end_the_search, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _server = NameServer::start("127.0.0.2", |question, _| match question.name.as_str() {
        "redis.b" => DnsReply::address("127.0.0.1"),
        _ => DnsReply::Nothing,
    });
    etc.resolv_conf("nameserver 127.0.0.2\nsearch a b c\n");
    finds(&redis, &named(&redis));
});

isolated!(slow_name_servers_leave_time_for_every_candidate, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _server = NameServer::start("127.0.0.2", |question, _| match question.name.as_str() {
        "redis" => DnsReply::address("127.0.0.1").late(600),
        _ => DnsReply::NO_NAME.late(600),
    });
    etc.resolv_conf(format!("nameserver 127.0.0.2\n{KUBERNETES}"));
    // One candidate after the other would take 2.4 s, and a lookup takes 2 s at most.
    finds(&redis, &named(&redis).with("STORE_TIMEOUT", "4s"));
});

isolated!(a_name_that_one_server_denies_is_found_through_another, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _public = NameServer::start("127.0.0.2", |_, _| DnsReply::NO_NAME);
    let _empty = NameServer::start("127.0.0.3", |_, _| DnsReply::Addresses(Vec::new()));
    let _own = NameServer::start("127.0.0.4", |_, _| DnsReply::address("127.0.0.1").late(20));
    etc.resolv_conf("nameserver 127.0.0.4\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n");
    finds(&redis, &named(&redis));
});

isolated!(lost_datagrams_are_sent_again, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let _server = NameServer::start("127.0.0.2", move |question, _| {
        match seen.lock().expect("no holder panics").insert(question.id) {
            true => DnsReply::Nothing,
            false => DnsReply::address("127.0.0.1"),
        }
    });
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
});

isolated!(questions_for_ipv6_may_be_dropped_refused_or_denied, |etc: &Etc| {
    let redis = Redis::start(&[]);
    for (server, reply) in [
        ("127.0.0.2", (|| DnsReply::Nothing) as fn() -> DnsReply),
        ("127.0.0.3", || DnsReply::Code(4)),
        ("127.0.0.4", || DnsReply::FAILED),
        ("127.0.0.5", || DnsReply::NO_NAME),
        ("127.0.0.6", || DnsReply::Addresses(Vec::new())),
        // There is no route to it.
        ("127.0.0.7", || DnsReply::address("2001:db8::1")),
    ] {
        let _server = NameServer::start(server, move |question, _| match question.kind {
            1 => DnsReply::address("127.0.0.1").late(30),
            _ => reply(),
        });
        etc.resolv_conf(format!("nameserver {server}\n"));
        finds(&redis, &named(&redis));
    }
});

isolated!(a_name_server_may_have_a_link_local_address, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let run = |arguments: &str| {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.is_ok_and(|status| status.success()), "ip {arguments}");
    };
    run("link add eth0 type veth peer name eth1");
    run("link set eth0 up");
    run("link set eth1 up");
    run("address add fe80::1/64 dev eth0 nodad");
    let index = fs::read_to_string("/proc/self/net/if_inet6").expect("Linux's own account");
    let line = index.lines().find(|line| line.starts_with("fe800000000000000000000000000001")).expect("our address");
    let index = line.split_ascii_whitespace().nth(1).and_then(|word| u32::from_str_radix(word, 16).ok());
    let index = index.expect("the number of the interface");
    let _server = NameServer::of(&format!("fe80::1%{index}"), "redis", &["127.0.0.1"]);
    for zone in ["eth0".to_owned(), index.to_string()] {
        etc.resolv_conf(format!("nameserver fe80::1%{zone}\n"));
        finds(&redis, &named(&redis));
    }
    // The servers with a valid zone are still used.
    let _other = NameServer::of("127.0.0.2", "redis", &["127.0.0.1"]);
    etc.resolv_conf("nameserver fe80::1%eth7\nnameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
});

isolated!(what_the_c_library_finds_in_the_files_is_found, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _here = NameServer::of("127.0.0.1", "redis", &["127.0.0.1"]);
    let _server = NameServer::of("127.0.0.2", "redis", &["127.0.0.1"]);
    let _domain = NameServer::of("127.0.0.3", "redis.a.org", &["127.0.0.1"]);
    let long = |last: &str| [&"10.9.9.9 another-host\n".repeat(150_000), last].concat();
    for (hosts, conf) in [
        (&b""[..], &b""[..]),
        (b"", b"nameserver 127.0.0.2\nsearch .\n"),
        (b"", b"nameserver 127.0.0.2\nsearch . a.org\n"),
        (b"", b"nameserver 127.0.0.3\nsearch a.org.\n"),
        (b"", b"nameserver 127.0.0.3\nsearch b.org. a.org.\noptions ndots:3\n"),
        (b"", b"nameserver 127.0.0.3\ndomain a.org\n"),
        (b"", b"# caf\xe9\nnameserver 127.0.0.2 # \xff\n"),
        (b"", b"\xff\xfe\nnameserver 127.0.0.2"),
        (b"", b"search caf\xe9.org a.org\nnameserver 127.0.0.3\n"),
        (b"# caf\xe9\n127.0.0.1 redis\n", b"nameserver 127.0.0.9\n"),
        (b"10.9.9.9 caf\xe9\n127.0.0.1 REDIS # \xff", b"nameserver 127.0.0.9\n"),
        (b"127.0.0.1\tcaf\xe9 redis\n", b"nameserver 127.0.0.9\n"),
        (long("127.0.0.1 redis").as_bytes(), b"nameserver 127.0.0.9\n"),
        (long("").as_bytes(), b"nameserver 127.0.0.2\n"),
        (["127.0.0.1", &" another-host".repeat(120_000), " redis\n"].concat().as_bytes(), b"nameserver 127.0.0.9\n"),
    ] {
        etc.hosts(hosts);
        etc.resolv_conf(conf);
        let glibc = Command::new("getent").args(["ahosts", "redis"]).output().expect("getent comes with glibc");
        let conf = String::from_utf8_lossy(conf);
        assert!(glibc.stdout.starts_with(b"127.0.0.1 "), "the C library does not find it: {conf:?} {glibc:?}");
        // A file of megabytes takes its time in a build that is not optimized.
        finds(&redis, &named(&redis).with("STORE_TIMEOUT", "5s"));
    }
});

isolated!(a_hosts_file_of_any_size_takes_no_memory, |etc: &Etc| {
    let redis = Redis::start(&[]);
    etc.hosts(["10.9.9.9 another-host\n".repeat(1_500_000).as_str(), "127.0.0.1 redis"].concat());
    let notch = named(&redis).with("STORE_TIMEOUT", "30s").start();
    assert_eq!(notch.visit_when_it_counts(), 1);
    assert!(notch.resident_kilobytes() < 16 * 1024, "{} kB after a file of 33 MB", notch.resident_kilobytes());
});

isolated!(without_a_search_list_the_domain_of_this_machine_is_searched, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let renamed = Command::new("hostname").arg("web1.example.org").status();
    assert!(renamed.is_ok_and(|status| status.success()));
    let _server = NameServer::of("127.0.0.2", "redis.example.org", &["127.0.0.1"]);
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
});

isolated!(attempts_and_timeout_are_those_of_resolv_conf, |etc: &Etc| {
    let redis = Redis::start(&[]);
    for (address, options, attempts, timeout) in
        [("127.0.0.2", "", 2, 2), ("127.0.0.3", "attempts:1 timeout:1", 1, 1), ("127.0.0.4", "attempts:4", 4, 2)]
    {
        let server = NameServer::silent(address);
        etc.resolv_conf(format!("nameserver {address}\noptions {options}\n"));
        let _notch = named(&redis).with("STORE_TIMEOUT", "4s").with("WORKERS", "1").start();
        wait_until("a lookup of as many attempts and as much time is over", || {
            // Query ids identify a lookup: when each began, and how often it sent a query.
            let mut lookups: Vec<(u16, Instant, usize)> = Vec::new();
            for question in server.received().iter().filter(|question| question.kind == 1) {
                match lookups.iter_mut().find(|(id, ..)| *id == question.id) {
                    Some((.., times)) => *times += 1,
                    None => lookups.push((question.id, question.at, 1)),
                }
            }
            assert!(lookups.iter().all(|&(.., times)| times <= attempts), "{options:?}: {lookups:?}");
            lookups.windows(2).find(|pair| {
                let took = pair[1].1 - pair[0].1;
                assert!(took >= Duration::from_millis(timeout * 1000 - 100), "{options:?}: {took:?}");
                // Half of STORE_TIMEOUT is left to connect. A busy machine may delay one lookup, but not all.
                pair[0].2 == attempts && took < Duration::from_millis(timeout * 1000 + 1900)
            })?;
            Some(())
        });
    }
});

isolated!(a_slow_lookup_leaves_time_to_connect, |etc: &Etc| {
    let redis = Redis::start(&[]);
    // These addresses do not exist, and no error is returned.
    for arguments in [
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "address add 10.9.0.1/24 dev eth0",
    ] {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.is_ok_and(|status| status.success()), "ip {arguments}");
    }
    let _server = NameServer::start("127.0.0.2", |_, _| {
        let addresses = ["10.9.0.2", "10.9.0.3", "127.0.0.1"].map(|one| one.parse::<IpAddr>().expect("an address"));
        DnsReply::Addresses(addresses.to_vec()).late(2_500)
    });
    etc.resolv_conf("nameserver 127.0.0.2\n");
    let notch = named(&redis).with("STORE_TIMEOUT", "6s").start();
    assert_eq!(notch.visit(), 1, "counted at the first attempt to connect");
});

isolated!(a_reply_that_is_cut_short_is_had_over_tcp, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let server = NameServer::start("127.0.0.2", |question, _| match question.is_tcp {
        true => DnsReply::address("127.0.0.1"),
        false => DnsReply::Truncated,
    });
    let server = server.with_tcp();
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
    assert!(server.received().iter().any(|question| question.is_tcp));
    // The truncated reply contains enough.
    let partly = NameServer::start("127.0.0.3", |question, query| {
        let mut reply = reply(query, question.kind, &["127.0.0.1".parse().expect("an address")]);
        reply[2] |= 2;
        reply[7] = 40;
        DnsReply::Bytes(vec![reply])
    });
    let partly = partly.with_tcp();
    etc.resolv_conf("nameserver 127.0.0.3\n");
    let notch = named(&redis).start();
    notch.visit_when_it_counts();
    assert!(!partly.received().iter().any(|question| question.is_tcp && question.kind == 1));
});

isolated!(tcp_that_does_not_work_leaves_time_for_another_server, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _closed = NameServer::start("127.0.0.2", |_, _| DnsReply::Truncated);
    let silent = NameServer::start("127.0.0.3", |question, _| match question.is_tcp {
        true => DnsReply::Nothing,
        false => DnsReply::Truncated,
    });
    let _silent = silent.with_tcp();
    let _other = NameServer::start("127.0.0.4", |_, _| DnsReply::address("127.0.0.1").late(50));
    for server in ["127.0.0.2", "127.0.0.3"] {
        etc.resolv_conf(format!("nameserver {server}\nnameserver 127.0.0.4\n"));
        finds(&redis, &named(&redis));
        etc.resolv_conf(format!("nameserver {server}\n"));
        fails(&redis, "the reply is too long for UDP");
    }
});

isolated!(only_the_reply_of_the_server_to_our_question_counts, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let trap = TcpListener::bind(("127.0.0.66", redis.port)).expect("a port of this namespace");
    trap.set_nonblocking(true).expect("a good listener");
    let wrong = || vec!["127.0.0.66".parse::<IpAddr>().expect("an address")];
    let _server = NameServer::start("127.0.0.2", move |question, query| {
        let false_reply = reply(query, question.kind, &wrong());
        let changed = |at: usize, change: u8| {
            let mut reply = false_reply.clone();
            reply[at] ^= change;
            reply
        };
        let good = reply(query, question.kind, &["127.0.0.1".parse().expect("an address")]);
        // Another number, another question, a query, no question; then the reply.
        let short = [&query[..2], &[0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0], &false_reply[query.len()..]].concat();
        let junk = vec![0xff; 4000];
        DnsReply::Bytes(vec![changed(0, 1), changed(13, 3), changed(2, 0x80), short, junk, Vec::new(), good])
    });
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
    assert!(trap.accept().is_err(), "an address out of a reply to something else");
});

isolated!(replies_from_other_addresses_are_ignored, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let trap = TcpListener::bind(("127.0.0.66", redis.port)).expect("a port of this namespace");
    trap.set_nonblocking(true).expect("a good listener");
    // It has id, question and port, and is faster; but no query was sent to this server.
    let spy = UdpSocket::bind("127.0.0.2:53").expect("port 53 of this namespace");
    let own = spy.try_clone().expect("a second handle on a socket");
    let (other_host, other_port) = ("127.0.0.3:53", "127.0.0.2:54");
    let [other_host, other_port] = [other_host, other_port].map(|one| UdpSocket::bind(one).expect("a free port"));
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = spy.recv_from(&mut query) {
            let query = &query[..length];
            let kind = query[length - 3];
            let wrong = reply(query, kind, &["127.0.0.66".parse().expect("an address")]);
            let right = reply(query, kind, &["127.0.0.1".parse().expect("an address")]);
            let _ = other_host.send_to(&wrong, client);
            let _ = other_port.send_to(&wrong, client);
            std::thread::sleep(Duration::from_millis(20));
            let _ = own.send_to(&right, client);
        }
    });
    etc.resolv_conf("nameserver 127.0.0.2\n");
    finds(&redis, &named(&redis));
    assert!(trap.accept().is_err(), "an address from another server was used");
});

isolated!(the_log_says_what_kept_the_lookup_from_an_address, |etc: &Etc| {
    let redis = Redis::start(&[]);
    let _none = NameServer::start("127.0.0.2", |_, _| DnsReply::NO_NAME);
    let _empty = NameServer::start("127.0.0.3", |_, _| DnsReply::Addresses(Vec::new()));
    let _failing = NameServer::start("127.0.0.4", |_, _| DnsReply::FAILED);
    let _silent = NameServer::silent("127.0.0.5");
    let _mixed = NameServer::start("127.0.0.6", |question, _| match question.name.as_str() {
        "redis.a" => DnsReply::FAILED,
        _ => DnsReply::NO_NAME,
    });
    for (server, message) in [
        ("127.0.0.2", "no such name; check REDIS_HOST"),
        ("127.0.0.3", "the name has no address; check REDIS_HOST"),
        ("127.0.0.4", "the name servers returned an error"),
        ("127.0.0.5", "no name server answered; check /etc/resolv.conf"),
        ("127.0.0.6", "the name servers returned an error"),
        ("127.0.0.9", "no name server answered; check /etc/resolv.conf"),
    ] {
        etc.resolv_conf(format!("nameserver {server}\nsearch a\n"));
        fails(&redis, message);
    }
});

isolated!(addresses_of_either_kind_are_tried, |etc: &Etc| {
    let mut redis = Redis::start(&[]);
    redis.kill();
    redis.restart_at("::1");
    let _server = NameServer::of("127.0.0.2", "redis", &["127.0.0.88", "2001:db8::1", "::1"]);
    etc.resolv_conf("nameserver 127.0.0.2\n");
    for hosts in ["::1 redis\n", ""] {
        etc.hosts(hosts);
        finds(&redis, &named(&redis));
    }
});
