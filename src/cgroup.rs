//! Limits of this process's control groups: memory and processors (cgroups(7), the kernel's cgroup-v2.rst and
//! cgroup-v1/memory.rst).
//!
//! Groups are nested, and each may have a limit, so the least visible limit applies. `/proc/self/mountinfo` lists where
//! groups are mounted: in a container, the group of the process may be the root of the mount (`/`), or the root of the
//! mount may be a part of the path in `/proc/self/cgroup`.

use crate::system::{self, read_or_empty};

/// The control groups of a process, read from `/proc` and `/sys` below a path, which is empty except in tests.
pub(crate) struct ControlGroups<'a>(&'a str);

impl ControlGroups<'_> {
    /// The groups of this process.
    pub(crate) const OWN: Self = Self("");

    /// Returns the bytes of memory that this process may use; `usize::MAX` if no group has a limit.
    #[must_use]
    pub(crate) fn memory(&self) -> usize {
        self.least_limit("memory", &|folder, version| match version {
            Version::Two => read_limit(folder, "/memory.max").min(read_limit(folder, "/memory.high")),
            // `memory.stat` includes the limits of parent groups that are not visible in a container.
            Version::One => read_limit(folder, "/memory.limit_in_bytes").min(
                system::find_line(&read_file(folder, "/memory.stat"), "hierarchical_memory_limit ")
                    .map_or(usize::MAX, parse_amount),
            ),
        })
    }

    /// Returns the number of processors that this process may use: those of its affinity (sched_setaffinity(2)), or the
    /// least quota rounded down, at least 1. The threads driver has no workers to divide among them.
    #[cfg(any(feature = "tokio", test))]
    #[must_use]
    pub(crate) fn processors(&self) -> usize {
        let quota = self.least_limit("cpu", &|folder, version| match version {
            Version::Two => parse_quota(&read_file(folder, "/cpu.max")),
            Version::One => {
                parse_quota(&[read_file(folder, "/cpu.cfs_quota_us"), read_file(folder, "/cpu.cfs_period_us")].concat())
            }
        });
        system::count_processors(&read_file(self.0, "/proc/self/status")).min(quota).max(1)
    }

    /// Returns the least `limit` of the directories of this process's groups that have `controller`.
    fn least_limit(&self, controller: &str, limit: &dyn Fn(&str, Version) -> usize) -> usize {
        let own = read_file(self.0, "/proc/self/cgroup");
        let mut least = usize::MAX;
        for line in read_file(self.0, "/proc/self/mountinfo").lines() {
            let Some((root, point, version)) = parse_mount(line, controller) else { continue };
            let root = if root == "/" { "" } else { root };
            // A group that is not below the root of the mount is not visible.
            let below = group_path(&own, controller, version).and_then(|path| path.strip_prefix(root));
            let is_below = |path: &&str| path.starts_with('/') && !path.as_bytes().windows(2).any(|pair| pair == b"..");
            let below = below.filter(is_below).unwrap_or_default();
            let point = [self.0, point].concat();
            let mut folder = [&point, below.trim_end_matches('/')].concat();
            loop {
                least = least.min(limit(&folder, version));
                if folder.len() <= point.len() {
                    break;
                }
                folder.truncate(folder.bytes().rposition(|byte| byte == b'/').unwrap_or_default());
            }
        }
        least
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    One,
    Two,
}

/// Parses a line of mountinfo (proc_pid_mountinfo(5)). Returns root and mount point if groups of `controller` are
/// mounted.
fn parse_mount<'a>(line: &'a str, controller: &str) -> Option<(&'a str, &'a str, Version)> {
    let mut fields = line.split_ascii_whitespace();
    let (root, point) = (fields.nth(3)?, fields.next()?);
    // A hyphen ends the optional fields.
    fields.find(|field| *field == "-")?;
    match (fields.next()?, fields.nth(1)?) {
        ("cgroup2", _) => Some((root, point, Version::Two)),
        ("cgroup", options) if list_contains(options, controller) => Some((root, point, Version::One)),
        _ => None,
    }
}

/// Returns the path of this process's group from lines such as `4:memory:/path` and `0::/path`.
fn group_path<'a>(lines: &'a str, controller: &str, version: Version) -> Option<&'a str> {
    lines.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_match = match version {
            Version::One => list_contains(controllers, controller),
            Version::Two => controllers.is_empty(),
        };
        is_match.then_some(path)
    })
}

/// Returns whether a comma-separated list contains `member`.
fn list_contains(list: &str, member: &str) -> bool {
    list.as_bytes().split(|&byte| byte == b',').any(|other| other == member.as_bytes())
}

fn read_file(folder: &str, name: &str) -> String {
    read_or_empty(&[folder, name].concat())
}

fn read_limit(folder: &str, name: &str) -> usize {
    parse_amount(&read_file(folder, name))
}

/// Parses a number; returns `usize::MAX` for other text (`max`, `-1`, no file), which means no limit.
fn parse_amount(text: &str) -> usize {
    text.trim_ascii().parse().unwrap_or(usize::MAX)
}

/// Returns the whole processors of a quota and a period in microseconds; `usize::MAX` if the quota is `max` or `-1`.
#[cfg(any(feature = "tokio", test))]
fn parse_quota(text: &str) -> usize {
    let mut fields = text.split_ascii_whitespace().map(parse_amount);
    match (fields.next(), fields.next()) {
        (Some(usize::MAX), _) => usize::MAX,
        (Some(quota), Some(period @ 1..)) => quota / period,
        _ => usize::MAX,
    }
}

#[cfg(test)]
mod tests;
