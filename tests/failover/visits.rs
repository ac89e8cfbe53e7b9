//! Visits under which nodes fail.

use std::time::Duration;

use crate::audit::Tally;
use crate::load::Load;
use crate::support::Notch;

/// `STORE_TIMEOUT` that is longer than any failover of these tests, and shorter than a client waits: no visit may fail.
pub(crate) const PATIENT: &str = "50s";

/// Clients that leave the processors time for the nodes.
pub(crate) fn visit(notch: &Notch) -> Load {
    Load::paced(notch, 6, Duration::from_millis(3))
}

/// Asserts that each visit was answered with its number.
pub(crate) fn assert_none_failed(tally: &Tally) {
    let failed = (tally.refused, tally.doubts, tally.cut);
    assert_eq!(failed, (0, 0, 0), "refused, in doubt, cut off; the slowest took {:?}", tally.slowest);
}
