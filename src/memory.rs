//! How the memory that the process may use is divided: what it needs for itself, what each connection costs at rest,
//! the kernel's buffers of each socket, and the buffers of requests and responses that are incomplete.
//!
//! The kernel's memory counts towards the limit of a control group as well as our own (cgroup-v2.rst, `sock`), and a
//! client that does not read fills it. So the buffers of the sockets are bounded such that all of them can be full at
//! once, and if even the smallest do not fit, fewer connections are taken. What is left is shared by all connections
//! that have sent part of a request or not read a response; when it is used up, those that have stalled longest go.

use crate::cgroup::Groups;
use crate::system;

/// What a driver needs, in bytes, the kernel's part included.
#[derive(Clone, Copy)]
pub struct Costs {
    /// Each event loop, with the buffers that it keeps.
    pub worker: usize,
    /// Each connection at rest: its task or thread, and what the kernel keeps for it.
    pub connection: usize,
}

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Connections open at once.
    pub connections: usize,
    /// `SO_SNDBUF` and `SO_RCVBUF` of each, in bytes.
    pub socket: usize,
    /// Bytes of all requests and responses that are incomplete.
    pub buffers: usize,
}

/// The bytes that this process may use: the least of `MEMORY_LIMIT` and the limits of its control groups; half of the
/// machine's memory where there is none.
#[must_use]
pub fn limit(setting: Option<usize>) -> usize {
    let system = system::memory().unwrap_or(MACHINE);
    let limit = Groups("").memory().min(setting.unwrap_or(usize::MAX));
    // A group may also be allowed more than there is.
    if limit <= system { limit } else { system / 2 }
}

/// As many event loops as there is memory for, up to `most`.
#[must_use]
pub fn workers(limit: usize, costs: Costs, most: usize) -> usize {
    ((limit / 4).saturating_sub(PROCESS) / costs.worker).clamp(1, most)
}

/// Divides `limit` bytes among `workers` event loops and up to `connections`. `None` if it is too little to serve.
#[must_use]
pub fn plan(limit: usize, costs: Costs, workers: usize, connections: usize) -> Option<Plan> {
    let all = limit.checked_sub(PROCESS + workers * costs.worker)?;
    // What the allocator loses between pieces of different sizes.
    let all = all - all / 16;
    let fit = (all - all / 10) / (costs.connection + LEAST_SOCKET);
    if fit < LEAST_CONNECTIONS.min(connections) {
        return None;
    }
    let connections = connections.min(fit);
    let socket = ((all - all / 4) / connections).saturating_sub(costs.connection).clamp(LEAST_SOCKET, MOST_SOCKET);
    // The kernel takes twice the size for what surrounds the bytes, and may receive one page more.
    let size = (socket - PAGE) / 4;
    Some(Plan { connections, socket: size, buffers: all - connections * (costs.connection + socket) })
}

/// What the process needs before it has a worker or a connection: its code, the store's way, the log.
const PROCESS: usize = 512 * 1024;

/// Memory of a machine that does not say.
const MACHINE: usize = 512 * 1024 * 1024;

/// A page of memory, which is how the kernel accounts for sockets.
const PAGE: usize = 4096;

/// The kernel's buffers of one socket, both ways: with less, a request of 16 KiB takes many round trips.
const LEAST_SOCKET: usize = 3 * PAGE;

/// More than the longest pipeline that is answered at once, and more than what a far client reads in one round trip.
const MOST_SOCKET: usize = 256 * 1024 + PAGE;

/// With fewer, unless fewer are asked for, serving makes no sense.
pub const LEAST_CONNECTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { worker: 128 << 10, connection: 5632 };

    #[test]
    fn all_that_may_be_used_at_once_fits() {
        for limit in [2 << 20, 6 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 64 << 30] {
            for wanted in [1, 8, 256, 512, 10_000, 1_000_000] {
                for count in [1, 2, 8] {
                    let Some(plan) = plan(limit, COSTS, count, wanted) else { panic!("{limit} {wanted} {count}") };
                    assert!((1..=wanted).contains(&plan.connections), "{limit} {wanted} {count} {plan:?}");
                    let each = COSTS.connection + 4 * plan.socket + PAGE;
                    let used = PROCESS + count * COSTS.worker + plan.connections * each + plan.buffers;
                    assert!(used <= limit, "{limit} {wanted} {count} {plan:?}");
                    assert!(plan.buffers >= limit / 50, "{limit} {wanted} {count} {plan:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_manifests_give_is_enough() {
        let connections = |limit, workers, wanted| plan(limit, COSTS, workers, wanted).map(|plan| plan.connections);
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
