//! What the control groups of this process allow it: memory, and processors (cgroups(7), the kernel's cgroup-v2.rst and
//! cgroup-v1/memory.rst).
//!
//! Groups are nested, and each of them may have a limit, so the tightest of all that can be seen holds. The mounts say
//! where they are: in a container, the group of the process may be the top of the mount (`/`), or the mount may begin
//! within the path that `/proc/self/cgroup` shows.

use crate::system::{self, read};

/// Where to look, in front of `/proc` and `/sys`: nothing, unless a test has files of its own.
pub struct Groups<'a>(pub &'a str);

impl Groups<'_> {
    /// The most bytes of memory that this process may use; `usize::MAX` where no group has a limit.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.tightest("memory", &|folder, version| match version {
            Version::Two => bytes(folder, "/memory.max").min(bytes(folder, "/memory.high")),
            // The kernel adds the limits of the groups above, even of those that a container does not see.
            Version::One => bytes(folder, "/memory.limit_in_bytes").min(
                system::line(&file(folder, "/memory.stat"), "hierarchical_memory_limit ").map_or(usize::MAX, amount),
            ),
        })
    }

    /// As many processors as this process may use: those of its affinity (sched_setaffinity(2)), or as many whole ones
    /// as the tightest quota comes to, 1 at least.
    #[must_use]
    pub fn processors(&self) -> usize {
        let quota = self.tightest("cpu", &|folder, version| match version {
            Version::Two => quota(&file(folder, "/cpu.max")),
            Version::One => quota(&[file(folder, "/cpu.cfs_quota_us"), file(folder, "/cpu.cfs_period_us")].concat()),
        });
        system::affinity(&file(self.0, "/proc/self/status")).min(quota).max(1)
    }

    /// The least that `limit` finds in the folders of this process's groups that `controller` is attached to.
    fn tightest(&self, controller: &str, limit: &dyn Fn(&str, Version) -> usize) -> usize {
        let own = file(self.0, "/proc/self/cgroup");
        let mut least = usize::MAX;
        for line in file(self.0, "/proc/self/mountinfo").lines() {
            let Some((top, point, version)) = mount(line, controller) else { continue };
            let top = if top == "/" { "" } else { top };
            // A group that is not below the top of the mount cannot be seen through it.
            let below = group(&own, controller, version).and_then(|path| path.strip_prefix(top));
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

/// The top and the place of a mount, if it shows the groups of `controller` (proc_pid_mountinfo(5)).
fn mount<'a>(line: &'a str, controller: &str) -> Option<(&'a str, &'a str, Version)> {
    let mut fields = line.split_ascii_whitespace();
    let (top, point) = (fields.nth(3)?, fields.next()?);
    // As many optional fields as there may be end with a hyphen.
    fields.find(|field| *field == "-")?;
    match (fields.next()?, fields.nth(1)?) {
        ("cgroup2", _) => Some((top, point, Version::Two)),
        ("cgroup", options) if has(options, controller) => Some((top, point, Version::One)),
        _ => None,
    }
}

/// The path of this process's group, out of lines like `4:memory:/path` and `0::/path`.
fn group<'a>(own: &'a str, controller: &str, version: Version) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_it = match version {
            Version::One => has(controllers, controller),
            Version::Two => controllers.is_empty(),
        };
        is_it.then_some(path)
    })
}

/// Whether a list between commas has this member.
fn has(list: &str, member: &str) -> bool {
    list.as_bytes().split(|&byte| byte == b',').any(|other| other == member.as_bytes())
}

fn file(folder: &str, name: &str) -> String {
    read(&[folder, name].concat())
}

fn bytes(folder: &str, name: &str) -> usize {
    amount(&file(folder, name))
}

/// A number; anything else (`max`, `-1`, no file) is no limit.
fn amount(text: &str) -> usize {
    text.trim_ascii().parse().unwrap_or(usize::MAX)
}

/// The whole processors in a quota and a period, both in microseconds; `max` and `-1` are no quota.
fn quota(text: &str) -> usize {
    let mut words = text.split_ascii_whitespace().map(amount);
    match (words.next(), words.next()) {
        (Some(usize::MAX), _) => usize::MAX,
        (Some(quota), Some(period @ 1..)) => quota / period,
        _ => usize::MAX,
    }
}

#[cfg(test)]
mod tests;
