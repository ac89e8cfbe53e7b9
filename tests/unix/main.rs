//! notch on Unix sockets: those that it listens on, and that of Redis.
//!
//! The suites of `tests/service` that depend most on the kind of socket run here too, with `LISTEN=unix:PATH`.

#[path = "../support/mod.rs"]
mod support;

#[path = "../service/framing.rs"]
mod framing;
#[path = "../service/signals.rs"]
mod signals;
#[path = "../service/timeouts.rs"]
mod timeouts;

mod listen;
mod redis;
