//! What holds of notch whatever bytes come: one property for each piece that reads bytes from outside.
//!
//! A property takes any bytes and panics if it does not hold of them. Each is tried in two ways: a fuzzer looks for
//! bytes that break it (`scripts/fuzz`), and the root's tests/fuzzed.rs passes the cases that are kept, with no more
//! than the pinned compiler.
//!
//! A property says what must be, in as few words as it can, and knows nothing of how the piece does it: it counts, it
//! keeps what was said, it reads the answer with a reader of somebody else.

pub mod cases;
pub mod properties;
pub mod second;
