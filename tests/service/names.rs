//! Finding Redis by a name: in the hosts file, through name servers, and again after its address has changed.
//!
//! notch gets system files of its own, in a mount namespace of its own; everything else is the machine's.

use std::fs;
use std::path::PathBuf;

use crate::rig::{Notch, Redis, Settings, until};

/// Settings under which `redis.test` is what these files say.
struct Names {
    settings: Settings,
    hosts: PathBuf,
}

impl Names {
    fn new(redis: &Redis, hosts: &str, resolv_conf: &str) -> Self {
        let settings = Settings::redis(redis.port).with("REDIS_HOST", "redis.test").with("STORE_TIMEOUT", "1s");
        let (own, conf) = (settings.folder().join("hosts"), settings.folder().join("resolv.conf"));
        fs::write(&own, hosts).expect("room for a file");
        fs::write(&conf, resolv_conf).expect("room for a file");
        let enter = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", enter, "sh"];
        Self { settings: settings.by_way_of(&words).with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), hosts: own }
    }

    /// Changes the hosts file in place, since it is its inode that was mounted.
    fn change(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).expect("room for a file");
    }
}

fn says(notch: &Notch, words: &str) {
    until("the log says why", || notch.log().iter().any(|line| line.contains(words)).then_some(()));
}

#[test]
fn localhost_needs_no_file() {
    let redis = Redis::start(&[]);
    for host in ["localhost", "LOCALHOST", "127.0.0.1"] {
        let notch = Settings::redis(redis.port).with("REDIS_HOST", host).start();
        notch.visit_when_it_counts();
    }
    assert_eq!(redis.say("GET visits"), "3");
}

#[test]
fn the_hosts_file_is_read_at_each_connect() {
    let mut redis = Redis::start(&[]);
    let names = Names::new(&redis, "127.0.0.1 redis.test\n", "nameserver 127.0.0.1\n");
    let notch = names.settings.start();
    assert_eq!(notch.visit_when_it_counts(), 1);
    // Its address changes, as that of a container does that is made anew.
    redis.kill();
    redis.restart_at("127.9.9.9");
    names.change("127.9.9.9 redis.test\n");
    assert_eq!(notch.visit_when_it_counts(), 1, "this Redis keeps nothing over a restart");
}

#[test]
fn a_name_without_an_address_is_looked_up_until_it_has_one() {
    let redis = Redis::start(&[]);
    // Nobody listens there, which is known at once.
    let names = Names::new(&redis, "", "nameserver 127.9.9.1\n");
    let notch = names.settings.start();
    assert_eq!(notch.get("/count").status, 503);
    says(&notch, "no name server tells its address: check REDIS_HOST and /etc/resolv.conf");
    names.change("127.0.0.1 redis.test\n");
    assert_eq!(notch.visit_when_it_counts(), 1);
}

#[test]
fn of_several_addresses_one_that_accepts_is_taken() {
    let redis = Redis::start(&[]);
    let names = Names::new(&redis, "127.9.9.2 redis.test\n::1 redis.test\n127.0.0.1 redis.test\n", "");
    assert_eq!(names.settings.start().visit_when_it_counts(), 1);
}

#[test]
fn what_can_be_no_name_is_none() {
    let redis = Redis::start(&[]);
    let notch = Settings::redis(redis.port).with("REDIS_HOST", "redis..test").with("STORE_TIMEOUT", "200ms").start();
    assert_eq!(notch.get("/count").status, 503);
    says(&notch, "its host name has no address: check REDIS_HOST");
}
