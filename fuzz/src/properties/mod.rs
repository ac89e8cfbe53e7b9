//! The properties, one file each.

pub mod arrival;
pub mod config;
pub mod dns;
pub mod http;
pub mod ledger;
pub mod resp;
pub mod session;

/// A piece, and what holds of it.
pub type Property = (&'static str, fn(&[u8]));

/// All of them; the cases of each lie in a file of its name.
pub const ALL: &[Property] = &[
    ("http", http::holds),
    ("resp", resp::holds),
    ("ledger", ledger::holds),
    ("session", session::holds),
    ("config", config::holds),
    ("dns", dns::holds),
];
