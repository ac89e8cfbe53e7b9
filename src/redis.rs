//! The Redis store: one connection at a time, exactly-once increments, and the meaning of error replies.
//!
//! - [`Session`] is the state machine of one connection: a handshake, then one batch at a time.
//! - `receipt` has the script that counts, and the idempotency records that allow a batch to be sent again.
//! - `errors` maps error replies to [`crate::counter::Rejection`].
//!
//! Left out on purpose: RESP3, pipelining of several batches.

mod errors;
mod receipt;
mod session;

pub use receipt::Producer;
pub use session::{Leftover, Receipts, Recovery, Session, SessionError};

/// The address of Redis, the credentials and the database.
#[derive(Clone)]
pub struct RedisConfig {
    /// Host name or address, resolved again for each connection.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// ACL user; the default user if absent.
    pub username: Option<String>,
    /// Never logged.
    pub password: Option<String>,
    /// Number of the database (`SELECT`).
    pub db: u32,
}
