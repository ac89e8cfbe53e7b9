//! Properties of notch for arbitrary input: one for each part that parses bytes from outside.
//!
//! A property takes any bytes and panics if it does not hold for them. It is tried in two ways: a fuzzer searches for
//! bytes that break it (`scripts/fuzz`), and `tests/fuzzed.rs` passes the kept cases, which needs only the pinned
//! compiler.
//!
//! A property does not depend on the implementation: it counts, keeps the results, and parses responses with an
//! independent parser.

pub mod cases;
pub mod properties;
pub mod reference;
