//! What there is room for: event loops, connections, and the memory of each, with what the system gives us.

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

/// What there is room for.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    /// Event loops.
    pub(super) workers: usize,
    /// With no more connections than there are files and memory for.
    pub(super) limits: Limits,
    /// Sizes of the kernel's buffers of a connection, in bytes.
    socket: usize,
    /// Bytes of incomplete requests and responses, for each event loop.
    pub(super) share: usize,
}

/// Finds out how much there may be of everything: event loops up to `loops` unless `WORKERS` is set, and
/// connections up to `most`.
///
/// # Errors
/// [`Failure::Files`] and [`Failure::Memory`].
pub(super) fn capacity(config: &Config, costs: Costs, loops: usize, most: usize) -> Result<Capacity, Failure> {
    let (memory, files) = (memory::limit(config.memory), system::open_files());
    let wanted = config.limits.connections.min(most);
    let needed = |workers| config::files_needed(workers) + memory::LEAST_CONNECTIONS.min(wanted);
    let workers = config.workers.unwrap_or_else(|| {
        let fit = memory::workers(memory, costs, loops);
        (2..=fit).rev().find(|workers| needed(*workers) <= files).unwrap_or(1)
    });
    let needed = needed(workers);
    if files < needed {
        return Err(Failure::Files(files, needed, workers));
    }
    let fit = wanted.min(files - config::files_needed(workers));
    let Some(Plan { connections, socket, buffers }) = memory::plan(memory, costs, workers, fit) else {
        return Err(Failure::Memory(memory, workers));
    };
    if connections < wanted {
        let (memory, files, words) = if connections < fit {
            (Some(memory), None, "there is no memory for more; raise the memory limit")
        } else {
            (None, Some(files), "raise the limit of open files (ulimit -n)")
        };
        warn!(memory, files, connections, "MAX_CONNECTIONS is lowered: {words}");
    }
    Ok(Capacity { workers, limits: Limits { connections, ..config.limits }, socket, share: buffers / workers })
}

/// Has the sockets that a listener accepts take over what bounds the memory that the kernel has for them. A peer that
/// does not take what it was sent is given up by the kernel, too.
pub(super) fn bound(listener: &impl AsFd, capacity: &Capacity) -> io::Result<()> {
    setsockopt(listener, sockopt::SndBuf, &capacity.socket)?;
    setsockopt(listener, sockopt::RcvBuf, &capacity.socket)?;
    let patience = capacity.limits.write.as_millis().clamp(1, u32::MAX.into()) as u32;
    Ok(setsockopt(listener, sockopt::TcpUserTimeout, &patience)?)
}

/// Whether a connection has ended because its peer stalled.
pub(super) fn is_given_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionAborted)
}

/// Whether the kernel has bytes that the peer of a socket did not take yet.
pub(super) fn has_untaken(socket: &impl AsFd) -> bool {
    getsockopt(socket, MemInfo).is_ok_and(|info| info[WMEM_QUEUED] > 0)
}

/// Has a socket be reset when it is closed. Closed otherwise, the kernel would keep what its peer did not take, and go on
/// offering it.
pub(super) fn reset(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// `SO_MEMINFO`: what the kernel keeps of a socket, in bytes.
#[derive(Clone, Copy)]
struct MemInfo;

getsockopt_impl!(MemInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, Info, GetStruct<Info>);

type Info = [u32; WMEM_QUEUED + 1];

/// `SK_MEMINFO_WMEM_QUEUED` of Linux's `sock_diag.h`: bytes that wait to be sent or acknowledged, with what surrounds them.
const WMEM_QUEUED: usize = 5;
