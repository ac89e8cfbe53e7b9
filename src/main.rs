//! notch.
fn main() {}
