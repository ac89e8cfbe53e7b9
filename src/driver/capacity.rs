//! The capacity of the process: numbers of event loops and connections, and the memory of each, within the system's
//! limits.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::sockopt::{self, GetStruct};
use nix::sys::socket::{getsockopt, setsockopt};
use nix::{getsockopt_impl, libc};
use tracing::warn;

use super::Failure;
use crate::config::{self, Config, Limits};
use crate::memory::{self, Costs, Plan};
use crate::system;

/// The numbers and sizes that fit the system's limits.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    /// Event loops.
    pub(super) workers: usize,
    /// The configured limits, with `connections` lowered to what open files and memory allow.
    pub(super) limits: Limits,
    /// Size of each of the kernel's two buffers of a connection, in bytes.
    pub(super) socket: usize,
    /// Bytes of incomplete requests and responses, for each event loop.
    pub(super) share: usize,
}

/// Computes the capacity: at most `loops` event loops unless `WORKERS` is set, and at most `most` connections.
///
/// # Errors
/// [`Failure::Files`] and [`Failure::Memory`].
pub(super) fn plan_capacity(config: &Config, costs: Costs, loops: usize, most: usize) -> Result<Capacity, Failure> {
    let (memory, files) = (memory::limit(config.memory), system::max_open_files());
    let requested = config.limits.connections.min(most);
    let needed = |workers| config::files_needed(workers) + memory::LEAST_CONNECTIONS.min(requested);
    let workers = config.workers.unwrap_or_else(|| {
        let fit = memory::workers(memory, costs, loops);
        (2..=fit).rev().find(|workers| needed(*workers) <= files).unwrap_or(1)
    });
    let needed = needed(workers);
    if files < needed {
        return Err(Failure::Files(files, needed, workers));
    }
    let fit = requested.min(files - config::files_needed(workers));
    let Some(Plan { connections, socket, buffers }) = memory::plan(memory, costs, workers, fit) else {
        return Err(Failure::Memory(memory, workers));
    };
    if connections < requested {
        let (memory, files, reason) = if connections < fit {
            (Some(memory), None, "there is no memory for more; raise the memory limit")
        } else {
            (None, Some(files), "raise the limit of open files (ulimit -n)")
        };
        warn!(memory, files, connections, "MAX_CONNECTIONS is lowered: {reason}");
    }
    Ok(Capacity { workers, limits: Limits { connections, ..config.limits }, socket, share: buffers / workers })
}

/// Returns whether a connection ended because its peer stalled.
pub(super) fn has_stalled(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionAborted)
}

/// Returns whether the kernel still holds bytes that the peer has not acknowledged; of a Unix socket, not read.
pub(super) fn has_unacknowledged(socket: &impl AsFd, is_unix: bool) -> bool {
    getsockopt(socket, MemInfo).is_ok_and(|info| info[if is_unix { WMEM_ALLOC } else { WMEM_QUEUED }] > 0)
}

/// Makes closing the socket send RST. Otherwise the kernel would keep the unsent bytes, and go on sending them. It has
/// no effect on a Unix socket, whose peer holds the unread bytes until it reads them or closes the socket.
pub(super) fn reset_on_close(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// `SO_MEMINFO`: the kernel's memory for a socket, in bytes.
#[derive(Clone, Copy)]
struct MemInfo;

getsockopt_impl!(MemInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, Info, GetStruct<Info>);

type Info = [u32; WMEM_QUEUED + 1];

/// `SK_MEMINFO_WMEM_ALLOC`: bytes that were sent and have not left the socket, with their overhead. Those of a Unix
/// socket leave it when the peer has read them.
const WMEM_ALLOC: usize = 2;

/// `SK_MEMINFO_WMEM_QUEUED` of Linux's `sock_diag.h`: bytes that wait to be sent or acknowledged, with their overhead.
const WMEM_QUEUED: usize = 5;
