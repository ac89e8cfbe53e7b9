use super::*;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory with stand-ins for `/proc` and `/sys`, removed at the end of the test.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
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
const VERSION_1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                   33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
const VERSION_2: &str = "41 31 0:38 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
const UNLIMITED: usize = usize::MAX;

#[test]
fn the_least_limit_of_all_groups_applies() {
    for (name, files, memory, processors) in [
        ("nothing", &[][..], UNLIMITED, 8),
        (
            "v2",
            &[
                ("proc/self/mountinfo", VERSION_2),
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
                ("proc/self/mountinfo", VERSION_2),
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
                ("proc/self/mountinfo", VERSION_2),
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
                ("proc/self/mountinfo", VERSION_1),
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
                ("proc/self/mountinfo", "35 31 0:32 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"),
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
                ("proc/self/mountinfo", &[VERSION_1, VERSION_2].concat()),
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
        let tree = Tree::new(name, &[files, &[STATUS]].concat());
        let groups = ControlGroups(tree.path());
        assert_eq!((groups.memory(), groups.processors()), (memory, processors), "{name}");
    }
}

#[test]
fn a_quota_is_rounded_down_to_whole_processors() {
    for (text, processors) in [
        ("max 100000\n", UNLIMITED),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 0),
        ("", UNLIMITED),
        ("1 0\n", UNLIMITED),
        ("100000\n", UNLIMITED),
        ("-1\n100000\n", UNLIMITED),
    ] {
        assert_eq!(parse_quota(text), processors, "{text:?}");
    }
    assert!(ControlGroups::OWN.processors() >= 1);
}
