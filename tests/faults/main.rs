//! notch under faults: Redis dies and hangs, the connection to it is cut, the disk fails, clients are hostile, and
//! notch itself is killed.
//!
//! Each test ends with the same audit, which compares the responses with what the store has counted: see [`audit`].
//! Faults are injected into real processes and sockets, nothing is mocked, so the suite must pass on every driver.
//! Random choices come from [`rng`], which prints its seed when a test fails. `FAULTS_SECONDS` sets the duration of the
//! soak test, `FAULTS_SEED` repeats the choices of a run.

#[path = "../support/mod.rs"]
mod support;

use support::{audit, load, relay, rng};

mod group;
mod hostile_clients;
mod preload;

mod attacks;
mod clock;
mod disk;
mod link;
mod memory;
mod port;
mod process;
mod redis;
mod slow;
mod soak;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_programs;
