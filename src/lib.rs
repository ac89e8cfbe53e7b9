//! A visit counter.
