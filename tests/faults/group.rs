//! A memory control group for one test, which kills processes beyond its limit. Socket buffers of the kernel count:
//! version 2 of control groups includes them in the total, version 1 counts them separately, so they are added here.
//!
//! Needs root and a writable control group. Without them the tests fail with a message, because a skipped test would
//! look as if memory were bounded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, process};

use super::load::StopFlag;
use crate::support::{Notch, Settings, wait_until};

pub(crate) struct Group {
    folder: PathBuf,
    unified: bool,
    limit: usize,
}

impl Group {
    /// A group with this limit in bytes, below the group of this process.
    pub(crate) fn of(limit: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
        let path = |mark: &str| own.lines().find_map(|line| line.split_once(mark)).map(|(_, path)| path.to_owned());
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let unified = !version_1.join("memory.limit_in_bytes").exists() && !version_1.exists();
        let parent = match path(":memory:").filter(|_| !unified) {
            Some(path) => [version_1.join(path.trim_start_matches('/')), version_1.to_owned()]
                .into_iter()
                .find(|path| path.exists()),
            None => Some(PathBuf::from("/sys/fs/cgroup")),
        };
        let parent = parent.expect("a mounted control group");
        let name = format!("notch-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let group = Self { folder: parent.join(name), unified, limit };
        if unified {
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let made = fs::create_dir(&group.folder).and_then(|()| match unified {
            true => fs::write(group.folder.join("memory.max"), limit.to_string())
                .and_then(|()| fs::write(group.folder.join("memory.swap.max"), "0").or(Ok(()))),
            // Socket memory is counted from the moment its limit is set, so it is set before the first socket.
            false => fs::write(group.folder.join("memory.kmem.tcp.limit_in_bytes"), limit.to_string())
                .and_then(|()| fs::write(group.folder.join("memory.limit_in_bytes"), limit.to_string())),
        });
        if let Err(error) = made {
            panic!(
                "this test needs its own memory control group: run it as root where {} is writable \
                 (in a container: --privileged): {error}",
                parent.display()
            );
        }
        group
    }

    /// A group without its own quota within one that has this quota and period, in microseconds.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_processors(quota: &str) -> Self {
        let version_1 = Path::new("/sys/fs/cgroup/cpu");
        let unified = !version_1.exists();
        let parent = if unified { Path::new("/sys/fs/cgroup") } else { version_1 };
        let (amount, period) = quota.split_once(' ').expect("quota and period");
        let outer = parent.join(format!("notch-{}-processors", process::id()));
        let group = Self { folder: outer.join("inner"), unified, limit: usize::MAX };
        let made = fs::create_dir(&outer).and_then(|()| match unified {
            true => fs::write(parent.join("cgroup.subtree_control"), "+cpu")
                .and_then(|()| fs::write(outer.join("cpu.max"), quota)),
            false => fs::write(outer.join("cpu.cfs_period_us"), period)
                .and_then(|()| fs::write(outer.join("cpu.cfs_quota_us"), amount)),
        });
        if let Err(error) = made.and_then(|()| fs::create_dir(&group.folder)) {
            panic!(
                "this test needs its own control groups: run it as root where {} is writable: {error}",
                parent.display()
            );
        }
        group
    }

    /// Settings that start notch within the group.
    pub(crate) fn settings(&self, settings: Settings) -> Settings {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let folder = self.folder.to_str().expect("a name of ASCII");
        settings.with_wrapper(&["sh", "-c", enter, folder])
    }

    /// Returns the bytes that the kernel cannot reclaim: all but the page cache.
    fn used_bytes(&self) -> usize {
        if self.unified {
            return self.number("memory.current").saturating_sub(self.entry("memory.stat", "file "));
        }
        // Version 1 counts the page cache towards the limit, which the kernel drops on demand; it is left out here. A
        // subtraction from the total would be less exact, because the kernel updates that only now and then. TCP
        // buffers have a counter of their own.
        self.entry("memory.stat", "rss ")
            + self.number("memory.kmem.usage_in_bytes")
            + self.number("memory.kmem.tcp.usage_in_bytes")
    }

    /// Returns the number of processes that the kernel has killed for lack of memory.
    fn killed(&self) -> usize {
        self.entry(if self.unified { "memory.events" } else { "memory.oom_control" }, "oom_kill ")
    }

    /// Samples the used memory until it is stopped.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        let (stop, group) = (StopFlag::default(), self.clone());
        let own = stop.flag();
        let most = move || {
            let mut most = 0;
            while !own.load(Ordering::Relaxed) {
                most = most.max(group.used_bytes());
                thread::sleep(Duration::from_millis(2));
            }
            most
        };
        Watch { stop, group: self.clone(), most: thread::spawn(most) }
    }

    fn number(&self, file: &str) -> usize {
        self.read(file).trim().parse().expect("a number from the kernel")
    }

    fn entry(&self, file: &str, name: &str) -> usize {
        let text = self.read(file);
        let entry = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {file}"));
        entry.trim().parse().expect("a number from the kernel")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are killed and end in a moment.
        let mut left = 500;
        while fs::remove_dir(&self.folder).is_err() && left > 0 {
            thread::sleep(Duration::from_millis(10));
            left -= 1;
        }
        if self.limit == usize::MAX {
            let _ = self.folder.parent().map(fs::remove_dir);
        }
    }
}

/// Samples the most memory that a group uses.
pub(crate) struct Watch {
    stop: StopFlag,
    group: Arc<Group>,
    most: JoinHandle<usize>,
}

impl Watch {
    /// Asserts that the limit was kept, and prints the most kilobytes used.
    pub(crate) fn stop(self, what: &str, notch: &Notch) -> usize {
        drop(self.stop);
        let most = self.most.join().expect("the watch does not panic");
        assert_eq!(self.group.killed(), 0, "{what}: killed for lack of memory");
        assert!(most <= self.group.limit, "{what}: {most} bytes used, {} allowed", self.group.limit);
        wait_until("notch still runs", || notch.is_running().then_some(()));
        most / 1024
    }
}
