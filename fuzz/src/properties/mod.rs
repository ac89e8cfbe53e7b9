//! The properties, one file for each.

pub mod arrival;
pub mod config;
pub mod dns;
pub mod http;
pub mod ledger;
pub mod resp;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;

/// The name of a part and its property, which panics if it does not hold for the bytes.
pub type Property = (&'static str, fn(&[u8]));

/// All properties; the cases of each are in `fuzz/cases/NAME`.
pub const ALL: &[Property] = &[
    ("http", http::holds),
    ("resp", resp::holds),
    ("ledger", ledger::holds),
    ("session", session::holds),
    ("config", config::holds),
    ("dns", dns::holds),
    #[cfg(feature = "tls")]
    ("tls", tls::holds),
];
