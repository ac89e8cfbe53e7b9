//! Random choices that a seed repeats.

use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, thread};

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and random enough to choose faults.
pub(crate) struct Rng {
    seed: u64,
    state: u64,
}

impl Rng {
    /// Returns a generator seeded by `FAULTS_SEED`, else by the clock.
    pub(crate) fn new() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_nanos() as u64;
        let seed = env::var("FAULTS_SEED").map_or_else(|_| clock(), |seed| seed.parse().expect("FAULTS_SEED: digits"));
        Self { seed, state: seed }
    }

    /// Returns a number from 0 to one less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Returns a generator for another thread, whose choices follow from the same seed.
    pub(crate) fn split(&mut self) -> Self {
        Self { seed: self.seed, state: self.next() }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to repeat these choices: FAULTS_SEED={}", self.seed);
        }
    }
}
