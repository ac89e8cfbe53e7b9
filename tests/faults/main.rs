//! notch while everything around it goes wrong: Redis dies and hangs, the way to it is cut, the disk refuses, clients
//! are hostile, and notch itself is killed.
//!
//! Each test ends with the same audit of what clients were told against what the store has counted: see [`audit`].
//! Faults are made on real processes and sockets, nothing is mocked, so the suite must pass on every driver. What is
//! chosen at random is chosen by [`rng`], which tells its seed when a test fails. `FAULTS_SECONDS` says how long the
//! soak lasts, `FAULTS_SEED` which choices to make again.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod crowd;
mod rng;
mod group;
mod hostile_clients;
mod preload;
mod relay;

mod clock;
mod disk;
mod guests;
mod link;
mod memory;
mod port;
mod process;
mod redis;
mod slow;
mod soak;
