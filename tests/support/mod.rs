//! What the tests stand on: notch as a process, a real Redis, a scripted one, and a client that sees every byte.

#![allow(dead_code, unused_imports, reason = "each suite that stands on it takes what it needs")]

mod client;
mod escape;
mod folder;
mod json;
mod name_server;
mod notch;
mod redis;
mod script;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Response};
pub(crate) use escape::unescape;
pub(crate) use folder::Folder;
pub(crate) use json::parse_json;
pub(crate) use name_server::{DnsReply, Etc, NameServer, Question, isolated, reply};
pub(crate) use notch::{Exit, Notch, Settings, signal};
pub(crate) use redis::{Redis, free_port};
pub(crate) use script::Script;

/// How long a test waits for what ought to come at once. Only a test that fails anyway waits this long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// Longer than [`TIMEOUT`], as a setting: what happens in time although a timeout reads this, did not wait for it.
pub(crate) const NEVER: &str = "10m";

/// How long [`wait_until`] looks. What goes through other processes, one after the other, takes its time on a busy machine:
/// a rewrite of a file under load, or a Redis that starts.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG_TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
