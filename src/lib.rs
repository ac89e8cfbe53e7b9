//! notch counts visits: a tiny HTTP/1.1 server in front of a counter in Redis, or in a file of its own.
//!
//! A sans-IO core turns bytes into bytes and knows no socket, clock, thread or `async`; a thin driver owns those. The
//! way of a visit: the driver fills a [`buffers::Buffers`] from a socket; [`connection::HttpConnection`] finds a request in it and
//! wants a total; the ask joins a [`batch::Batch`] that gathers while the one before is under way; a
//! [`redis::Session`] or the [`ledger::Ledger`] takes the batch as one increment; everyone in it is told a number of
//! their own; and the exchange writes the answer.
//!
//! **In scope:** counting exactly once, HTTP framing, RESP2, group commit, a durable file.
//!
//! **Out of scope:** TLS and HTTP/2 (the balancer's work), RESP3, unique visitors, rate limits.
//!
//! The modules are declared in the order of their dependence: each uses only what stands above it.

pub mod counter;
pub mod date;
pub mod buffers;
pub mod resp;
pub mod batch;
pub mod redis;
pub mod ledger;
pub mod http;
pub mod render;
pub mod badge;
pub mod cors;
pub mod routes;
pub mod metrics;
pub mod connection;
pub mod dns;
pub mod system;
pub mod cgroup;
pub mod memory;
pub mod log;
pub mod config;
pub mod driver;
pub mod probe;
