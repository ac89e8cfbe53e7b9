//! notch as its users meet it: a process, its settings, what goes over its sockets, and what it leaves on disk.
//!
//! Every test starts the built binary with nothing but the settings it names, and speaks to it over plain sockets, so
//! the suite says nothing about how the program is made and must pass on every driver. Stores are a real
//! `redis-server` wherever one can be brought to say it, and a scripted one for the rest. Tests wait for conditions,
//! never for a while; the bound on each wait is there to end a hopeless one and measures nothing.

#[path = "../support/mod.rs"]
mod support;

mod badges;
mod cors;
mod framing;
mod health;
mod healthcheck;
mod ledger;
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
