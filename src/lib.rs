//! notch counts visits: a tiny HTTP/1.1 server in front of a counter in Redis, or in a file of its own.
//!
//! A sans-IO core turns bytes into bytes and has no socket, clock, thread or `async`; a thin driver owns those. The
//! path of a visit:
//!
//! 1. The driver fills a [`buffers::Buffers`] from a socket.
//! 2. [`connection::HttpConnection`] parses a request and needs a total.
//! 3. The [`counter::Command`] joins a [`batch::Batch`], which collects commands while the one before is in flight.
//! 4. A [`redis::Session`] or the [`ledger::Ledger`] applies the batch as one increment for each counter.
//! 5. Each waiter of the batch receives a number of its own, and the connection writes the response.
//!
//! **In scope:** counting exactly once, HTTP framing, RESP2, group commit, a durable file.
//!
//! **Out of scope:** TLS and HTTP/2 for visitors (the load balancer terminates both), RESP3, unique visitors, rate
//! limits.
//!
//! **Features:** `tokio` (default) is the driver on tokio; without it, the one on threads serves. `tls` adds TLS to
//! Redis (`rediss://`) to either of them.
//!
//! The modules are declared in dependency order: each uses only modules declared above it.

pub mod counter;
pub mod decimal;
pub mod backoff;
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
