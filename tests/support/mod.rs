//! Support of the tests: notch as a process, a real Redis, a scripted one, and an HTTP client.

#![allow(dead_code, unused_imports, reason = "each suite uses only a part")]

pub(crate) mod audit;
mod client;
mod escape;
pub(crate) mod fake;
mod folder;
mod json;
pub(crate) mod load;
mod name_server;
mod notch;
mod redis;
pub(crate) mod relay;
pub(crate) mod rng;
mod script;
#[cfg_attr(not(feature = "tls"), path = "plain.rs")]
pub(crate) mod tls;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::{Address, Client, Response};
pub(crate) use escape::unescape;
pub(crate) use folder::Folder;
pub(crate) use json::parse_json;
pub(crate) use name_server::{DnsReply, Etc, NameServer, Question, isolated, reply};
pub(crate) use notch::{Exit, NOBODY, Notch, Settings, is_root, signal, while_stopped};
pub(crate) use redis::{Recipe, Redis, SECOND_PORT, free_port};
pub(crate) use script::{Script, read_command};

/// How long a test waits for something that should happen at once. Only a failing test waits this long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// A setting longer than [`TIMEOUT`]: what happens in a test with this timeout did not happen because of it.
pub(crate) const NEVER: &str = "10m";

/// How long [`wait_until`] waits. A busy machine needs time for work of several processes, for example a rewrite under
/// load or the start of a Redis.
pub(crate) const LONG_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `condition` until it returns a value; fails after [`LONG_TIMEOUT`].
pub(crate) fn wait_until<T>(description: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG_TIMEOUT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "timed out waiting until {description}");
        thread::sleep(Duration::from_millis(2));
    }
}
