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
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A tree of files that stands for the machine's, gone with the test.
    struct Tree(PathBuf);

    impl Tree {
        fn of(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("notch-{name}-{}", std::process::id());
            let tree = Self(std::env::temp_dir().join(name));
            for (path, content) in files {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
                fs::write(path, content).expect("a file");
            }
            tree
        }

        fn path(&self) -> &str {
            Path::to_str(&self.0).expect("UTF-8")
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const STATUS: (&str, &str) = ("proc/self/status", "Name:\tnotch\nCpus_allowed:\tff\n");
    const ONE: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                       33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    const TWO: &str = "41 31 0:38 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
    const NONE: usize = usize::MAX;

    #[test]
    fn the_tightest_of_all_groups_holds() {
        for (name, files, memory, processors) in [
            ("nothing", &[][..], NONE, 8),
            (
                "v2",
                &[
                    ("proc/self/mountinfo", TWO),
                    ("proc/self/cgroup", "0::/a.slice/b.service\n"),
                    ("sys/fs/cgroup/a.slice/memory.max", "67108864\n"),
                    ("sys/fs/cgroup/a.slice/memory.high", "max\n"),
                    ("sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"),
                    ("sys/fs/cgroup/a.slice/b.service/memory.max", "134217728\n"),
                    ("sys/fs/cgroup/a.slice/b.service/cpu.max", "250000 100000\n"),
                ],
                67_108_864,
                2,
            ),
            (
                "v2-high",
                &[
                    ("proc/self/mountinfo", TWO),
                    ("proc/self/cgroup", "0::/a\n"),
                    ("sys/fs/cgroup/a/memory.max", "max\n"),
                    ("sys/fs/cgroup/a/memory.high", "5000000\n"),
                ],
                5_000_000,
                8,
            ),
            (
                "v2-in-a-container",
                &[
                    ("proc/self/mountinfo", TWO),
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "6291456\n"),
                    ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
                ],
                6_291_456,
                1,
            ),
            (
                "v2-mounted-from-outside",
                &[
                    ("proc/self/mountinfo", "41 31 0:38 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "6291456\n"),
                ],
                6_291_456,
                8,
            ),
            (
                "v1",
                &[
                    ("proc/self/mountinfo", ONE),
                    ("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/a/b\n3:cpu,cpuacct:/c/d\n0::/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                    ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8388608\n"),
                    ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "16777216\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "400000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/c/d/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/c/d/cpu.cfs_period_us", "100000\n"),
                ],
                8_388_608,
                4,
            ),
            (
                "v1-in-a-container",
                &[
                    (
                        "proc/self/mountinfo",
                        "35 31 0:32 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                    ),
                    ("proc/self/cgroup", "4:memory:/docker/1f\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "16777216\n"),
                    ("sys/fs/cgroup/memory/memory.stat", "cache 0\nhierarchical_memory_limit 6291456\n"),
                ],
                6_291_456,
                8,
            ),
            (
                "both",
                &[
                    ("proc/self/mountinfo", &[ONE, TWO].concat()),
                    ("proc/self/cgroup", "4:memory:/\n0::/\n"),
                    ("sys/fs/cgroup/memory.max", "max\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                7_000_000,
                1,
            ),
        ] {
            let tree = Tree::of(name, &[files, &[STATUS]].concat());
            let groups = Groups(tree.path());
            assert_eq!((groups.memory(), groups.processors()), (memory, processors), "{name}");
        }
    }

    #[test]
    fn a_quota_is_whole_processors() {
        for (text, processors) in [
            ("max 100000\n", NONE),
            ("200000 100000\n", 2),
            ("150000 100000\n", 1),
            ("50000 100000\n", 0),
            ("", NONE),
            ("1 0\n", NONE),
            ("100000\n", NONE),
            ("-1\n100000\n", NONE),
        ] {
            assert_eq!(quota(text), processors, "{text:?}");
        }
        assert!(Groups("").processors() >= 1);
    }
}
