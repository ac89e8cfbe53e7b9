//! The servers on which the tests run.
//!
//! One that is missing is an error and not a skipped test, because a promise that was not tried would look kept.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::support::Recipe;

/// A program that is data node, node of a cluster, or Sentinel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine {
    /// Starts of what it may print for `--version`.
    versions: &'static [&'static str],
    /// Its name in `target/engines`; `None` for the program of this machine.
    fetched: Option<&'static str>,
}

impl Engine {
    /// Debian's package. A later release of Debian has a later Redis.
    pub(crate) fn debian() -> Self {
        Self { versions: &["Redis server v=7.", "Redis server v=8."], fetched: None }
    }

    pub(crate) fn redis_8_2() -> Self {
        Self { versions: &["Redis server v=8.2."], fetched: Some("redis-8.2") }
    }

    pub(crate) fn valkey_9_1() -> Self {
        Self { versions: &["Valkey server v=9.1."], fetched: Some("valkey-9.1") }
    }

    /// Returns how to start the program; fails if it is missing.
    pub(crate) fn recipe(self) -> Recipe {
        let path = self.path();
        let output = Command::new(&path).arg("--version").output();
        let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let is_expected = |version: &String| self.versions.iter().any(|expected| version.starts_with(expected));
        let found = version.as_ref().is_ok_and(is_expected);
        let remedy = match self.fetched {
            None => "install Redis 7 or newer (Debian: apt-get install redis-server redis-tools)".to_owned(),
            Some(name) => format!("run scripts/lib/engines {name}, or scripts/failover, which does"),
        };
        assert!(found, "{path:?} is not any of {:?}: {version:?}; {remedy}", self.versions);
        Recipe { program: vec![path], is_plain: true, ..Recipe::default() }
    }

    /// Returns how to start a data node: each write is on disk before its reply, and a replica that connects gets its
    /// copy at once.
    pub(crate) fn node(self) -> Recipe {
        self.recipe().with(&["--appendonly", "yes", "--appendfsync", "always"]).with(&[
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
        ])
    }

    fn path(self) -> OsString {
        let fetched = |name| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/engines")).join(name);
        self.fetched.map_or_else(|| "redis-server".into(), |name| fetched(name).into())
    }
}
