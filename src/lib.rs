//! notch counts visits.
pub mod batch;
pub mod config;
pub mod counter;
pub mod driver;
pub mod exchange;
pub mod http;
pub mod ledger;
pub mod log;
pub mod probe;
pub mod redis;
pub mod render;
pub mod resp;
pub mod routes;
pub mod wire;
