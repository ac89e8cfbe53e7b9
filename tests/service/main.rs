//! notch as a process: its settings, its sockets, and its files.
//!
//! Every test starts the built binary with only the settings that it names, and uses plain sockets, so the suite is
//! independent of the implementation and must pass on every driver. Stores are a real `redis-server` where one can be
//! made to show the case, else a scripted one. Tests wait for conditions, never for a fixed time; the limit of each
//! wait only ends a test that fails.

#[path = "../support/mod.rs"]
mod support;

mod badges;
mod clients;
mod cors;
mod failover;
mod framing;
mod health;
mod healthcheck;
mod ledger;
mod ledger_tools;
mod logs;
mod metrics;
mod pages;
mod redis;
mod resolver;
mod routes;
mod scripted;
mod settings;
mod signals;
mod timeouts;
mod totals;
#[cfg(feature = "tls")]
mod tls;
