//! The Redis store: one connection at a time, exactly-once increments, and the meaning of error replies.
//!
//! - [`Topology`] chooses the next server: one address, the primary that Sentinels name, or the owner in a cluster.
//! - [`SentinelQuery`] queries a Sentinel for the address of the primary.
//! - [`Session`] is the state machine of one connection: a handshake, then one batch at a time.
//! - [`Tls`] encrypts the bytes of a connection, with the feature `tls`.
//! - [`Floor`] keeps the highest number given for each counter, below which no store counts again.
//! - `receipt` has the script that counts, and the idempotency records that allow a batch to be sent again.
//! - `errors` maps error replies to [`crate::counter::Rejection`].
//!
//! Left out on purpose: RESP3, pipelining of several batches, keys in several slots of a cluster.

mod address;
mod errors;
mod floor;
mod receipt;
mod sentinel;
mod session;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "redis/no_tls.rs"]
mod tls;
mod topology;

pub(crate) use address::DisplayList;
pub use address::{Address, MAX_HOST, Redirect};
pub use floor::Floor;
#[doc(hidden)]
pub use receipt::is_one_slot;
pub use receipt::{Producer, Receipts};
pub use sentinel::{SentinelError, SentinelQuery};
pub use session::{Leftover, Recovery, Session, SessionError};
#[cfg(feature = "tls")]
pub use tls::TlsFile;
pub use tls::{Tls, TlsConfig, TlsError};
pub use topology::{Event, Step, Topology};

use crate::resp;

/// The servers of Redis, the credentials, the database, and how many replicas acknowledge.
#[derive(Clone)]
pub struct RedisConfig {
    /// Where the primary is found.
    pub servers: Servers,
    /// For the nodes that hold the data.
    pub credentials: Credentials,
    /// Number of the database (`SELECT`).
    pub db: u32,
    /// Replicas that must acknowledge a batch before its visits are answered (`WAIT`).
    pub acks: u32,
    /// How connections are encrypted; `None` if they are not.
    pub tls: Option<TlsConfig>,
}

/// Where the primary is found. No list is empty, or longer than [`MAX_SERVERS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// At one address.
    Single(Address),
    /// At the path of a Unix socket.
    Unix(String),
    /// At the address that a Sentinel returns.
    Sentinel {
        /// Their addresses.
        sentinels: Vec<Address>,
        /// The name under which they monitor the primary.
        name: String,
        /// For the Sentinels themselves.
        credentials: Credentials,
    },
    /// At the address that a node of the cluster returns.
    Cluster {
        /// Some of its nodes.
        seeds: Vec<Address>,
    },
}

impl Servers {
    /// Returns whether there may be another server when one rejects a batch.
    #[must_use]
    pub fn are_several(&self) -> bool {
        !matches!(self, Self::Single(_) | Self::Unix(_))
    }
}

/// User and password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; the default user if absent.
    pub username: Option<String>,
    /// Never logged.
    pub password: Option<String>,
}

impl Credentials {
    /// Writes `AUTH` if there is a password. Returns whether there is.
    fn write_auth(&self, out: &mut Vec<u8>) -> bool {
        match (&self.username, &self.password) {
            (Some(user), Some(password)) => {
                resp::write_command(out, &[b"AUTH", user.as_bytes(), password.as_bytes()]);
            }
            (None, Some(password)) => resp::write_command(out, &[b"AUTH", password.as_bytes()]),
            (_, None) => return false,
        }
        true
    }
}

/// Most Sentinels, or seeds of a cluster.
pub const MAX_SERVERS: usize = 32;
