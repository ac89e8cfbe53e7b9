//! Divides the memory that the process may use: the process itself, each connection when idle, the kernel's buffers of
//! each socket, and the buffers of incomplete requests and responses.
//!
//! Socket buffers of the kernel count towards the limit of a control group too (cgroup-v2.rst, `sock`), and a client
//! that does not read fills them. So they are limited such that all of them can be full at once; if even the smallest
//! do not fit, fewer connections are accepted. The rest is shared by all connections with a partial request or an
//! unread response; when it is used up, the connections that have stalled longest are closed.

use crate::cgroup::ControlGroups;
use crate::system;

/// Memory that a driver needs, in bytes, the kernel's part included.
#[derive(Clone, Copy)]
pub(crate) struct Costs {
    /// For each event loop, its pooled buffers included.
    pub worker: usize,
    /// For each idle connection: its task or thread, and its objects in the kernel.
    pub connection: usize,
}

/// The result: limits that fit the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Connections open at once.
    pub connections: usize,
    /// `SO_SNDBUF` and `SO_RCVBUF` of each, in bytes.
    pub socket: usize,
    /// Bytes of all incomplete requests and responses together.
    pub buffers: usize,
}

/// Returns the bytes that this process may use: the least of `setting` (`MEMORY_LIMIT`) and the limits of its control
/// groups; half of the machine's memory where there is no limit.
#[must_use]
pub(crate) fn limit(setting: Option<usize>) -> usize {
    let system = system::total_memory().unwrap_or(DEFAULT_MEMORY);
    let limit = ControlGroups::OWN.memory().min(setting.unwrap_or(usize::MAX));
    // The limit of a group may be larger than the machine's memory.
    if limit <= system { limit } else { system / 2 }
}

/// Returns the number of event loops that fit into a quarter of `limit`, at most `max`.
#[must_use]
pub(crate) fn workers(limit: usize, costs: Costs, max: usize) -> usize {
    ((limit / 4).saturating_sub(PROCESS) / costs.worker).clamp(1, max)
}

/// Divides `limit` bytes among `workers` event loops and at most `connections` connections. Returns `None` if fewer
/// than [`LEAST_CONNECTIONS`] fit.
#[must_use]
pub(crate) fn plan(limit: usize, costs: Costs, workers: usize, connections: usize) -> Option<Plan> {
    let available = limit.checked_sub(PROCESS + workers * costs.worker)?;
    // Fragmentation of the allocator.
    let available = available - available / 16;
    let fit = (available - available / 10) / (costs.connection + MIN_SOCKET);
    if fit < LEAST_CONNECTIONS.min(connections) {
        return None;
    }
    let connections = connections.min(fit);
    let socket =
        ((available - available / 4) / connections).saturating_sub(costs.connection).clamp(MIN_SOCKET, MAX_SOCKET);
    // The kernel doubles each size for its overhead, and may receive one page more.
    let size = (socket - PAGE) / 4;
    Some(Plan { connections, socket: size, buffers: available - connections * (costs.connection + socket) })
}

/// Bytes of the process without workers and connections: code, store connection, log.
const PROCESS: usize = 512 * 1024;

/// Memory of the machine if `/proc/meminfo` cannot be read.
const DEFAULT_MEMORY: usize = 512 * 1024 * 1024;

/// Page size, the unit in which the kernel accounts for sockets.
const PAGE: usize = 4096;

/// Least bytes of the kernel's two buffers of a socket: with less, a request of 16 KiB takes many round trips.
const MIN_SOCKET: usize = 3 * PAGE;

/// Most bytes of the kernel's two buffers of a socket: larger than the responses to the longest pipeline, and larger
/// than what a distant client reads in one round trip.
const MAX_SOCKET: usize = 256 * 1024 + PAGE;

/// Least connections with which notch starts, unless `MAX_CONNECTIONS` is less.
pub(crate) const LEAST_CONNECTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { worker: 128 << 10, connection: 5632 };

    #[test]
    fn the_plan_fits_the_limit() {
        for limit in [2 << 20, 6 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 64 << 30] {
            for requested in [1, 8, 256, 512, 10_000, 1_000_000] {
                for count in [1, 2, 8] {
                    let Some(plan) = plan(limit, COSTS, count, requested) else {
                        panic!("{limit} {requested} {count}")
                    };
                    assert!((1..=requested).contains(&plan.connections), "{limit} {requested} {count} {plan:?}");
                    let each = COSTS.connection + 4 * plan.socket + PAGE;
                    let used = PROCESS + count * COSTS.worker + plan.connections * each + plan.buffers;
                    assert!(used <= limit, "{limit} {requested} {count} {plan:?}");
                    assert!(plan.buffers >= limit / 50, "{limit} {requested} {count} {plan:?}");
                }
            }
        }
    }

    #[test]
    fn the_limits_of_the_manifests_are_enough() {
        let connections =
            |limit, workers, requested| plan(limit, COSTS, workers, requested).map(|plan| plan.connections);
        assert_eq!(connections(6 << 20, 2, 256), Some(256));
        assert_eq!(connections(16 << 20, 2, 512), Some(512));
        assert_eq!(connections(256 << 20, 8, 10_000), Some(10_000));
        assert!(connections(64 << 20, 2, 10_000).is_some_and(|connections| connections > 3000));
        assert_eq!(connections(1 << 20, 8, 10_000), None);
        assert_eq!(connections(600 << 10, 1, 10_000), None);
    }

    #[test]
    fn event_loops_leave_memory_for_connections() {
        for (limit, processors, count) in [(6 << 20, 64, 8), (6 << 20, 2, 2), (1 << 20, 64, 1), (1 << 30, 64, 64)] {
            assert_eq!(workers(limit, COSTS, processors), count, "{limit} {processors}");
        }
    }
}
