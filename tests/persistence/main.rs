//! The store image, `redis/notch-redis` with `redis/redis.conf`, on this machine instead of in a container: which data
//! survives kills, restarts, rewrites, backups and restores with every setting of passwords, and what is rejected.
//!
//! `REDIS_SERVER` sets the server, as for the other suites; `scripts/stores` runs all tests with each supported server.

#[path = "../support/mod.rs"]
mod support;

use support::{audit, load};

mod image;

mod backups;
mod folders;
mod health;
mod passwords;
mod replay;
mod scripts;
mod secrets;
