//! notch counts visits.
pub mod batch;
pub mod counter;
pub mod redis;
pub mod resp;
pub mod wire;
