//! notch through failovers: Sentinel and Cluster with real servers, of which nodes are killed, stopped, demoted and cut
//! off from each other while clients visit.
//!
//! Each test ends with the audit of [`audit`]. Most require that no visit was lost and no number given twice; where a
//! setting guarantees less, as without acknowledgements in a partition, the test requires that the audit finds the
//! loss. The servers are Debian's Redis 7.0, Redis 8.2 and Valkey 9.1: see [`engine`]. A case that depends on the
//! server runs on each of them. Ports are free ones of the loopback; partitions are made between network namespaces of
//! the test. All processes end with the test, also when it fails.

#[path = "../support/mod.rs"]
mod support;

use support::{audit, load};

mod cluster;
mod engine;
mod group;
mod network;
mod visits;

#[path = "../sim/script.rs"]
mod model;

mod audits;
mod failures;
mod moves;
mod partitions;
mod replicas;
mod script;

/// Makes a test of each case, a function of an engine, on each of the engines named after it; `isolated` ones run in
/// namespaces of their own.
macro_rules! on_engines {
    ($($case:ident: $($engine:ident),+;)+) => {
        $(mod $case {
            $(#[test]
            fn $engine() {
                super::$case(crate::engine::Engine::$engine());
            })+
        })+
    };
    (isolated $($case:ident: $($engine:ident),+;)+) => {
        $(mod $case {
            $(#[test]
            fn $engine() {
                let name = concat!(module_path!(), "::", stringify!($engine));
                crate::support::isolated(name, |_| super::$case(crate::engine::Engine::$engine()));
            })+
        })+
    };
}
use on_engines;
