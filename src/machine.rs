//! What the machine says in small files: how much of it is ours, and bits that nobody can guess; and how a small file
//! is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many processors we may use: those of our affinity, or as many as the quota of our control group comes to
/// (sched_setaffinity(2), the kernel's cgroup-v2.rst, `cpu.max`), 1 at least.
///
/// What std has for it would be a thirtieth of the image, for it also understands control groups of the first version.
#[must_use]
pub fn processors() -> usize {
    let own = read("/proc/self/cgroup");
    let group = line(&own, "0::").unwrap_or_default();
    let quota = quota(&read(&["/sys/fs/cgroup", group, "/cpu.max"].concat()));
    affinity(&read("/proc/self/status")).min(quota).max(1)
}

/// How many files the system allows us to have open (`ulimit -n`), as far as it says.
#[must_use]
pub fn open_files() -> usize {
    let limits = read("/proc/self/limits");
    line(&limits, "Max open files").and_then(|line| number(line.split_ascii_whitespace().next()?)).unwrap_or(usize::MAX)
}

/// Bits that nobody can guess; where the system's source is not to be had, those of the clock, which nobody repeats.
#[must_use]
pub fn random() -> u64 {
    let mut bits = [0; 8];
    match File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bits)) {
        Ok(()) => u64::from_ne_bytes(bits),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
    }
}

/// What a file holds, if it can be read; nothing otherwise.
#[must_use]
pub fn read(path: &str) -> String {
    content(path.as_ref()).unwrap_or_default()
}

/// What a file holds. The standard library's way, for files of any size, costs 1.4 kB.
///
/// # Errors
/// It cannot be read, is longer than [`MAX_CONTENT`] or not UTF-8.
pub fn content(path: &OsStr) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut content, mut length) = (Vec::new(), 0);
    loop {
        content.resize(length + PIECE, 0);
        match file.read(&mut content[length..])? {
            0 => break,
            more => length += more,
        }
        if length > MAX_CONTENT {
            return Err(ErrorKind::FileTooLarge.into());
        }
    }
    content.truncate(length);
    String::from_utf8(content).map_err(|_| ErrorKind::InvalidData.into())
}

/// The processors in the mask of `/proc/self/status` (proc_pid_status(5)).
fn affinity(status: &str) -> usize {
    let mask = line(status, "Cpus_allowed:").unwrap_or_default();
    mask.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit.count_ones() as usize).sum()
}

/// The whole processors in a line of quota and period, both in microseconds; `max` is no quota.
fn quota(max: &str) -> usize {
    let mut words = max.split_ascii_whitespace().map(number);
    match (words.next(), words.next()) {
        (Some(Some(quota)), Some(Some(period @ 1..))) => quota / period,
        _ => usize::MAX,
    }
}

/// What follows `start` in the first line that begins with it.
fn line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let mut lines = text.as_bytes().split(|&byte| byte == b'\n');
    str::from_utf8(lines.find_map(|line| line.strip_prefix(start.as_bytes()))?).ok()
}

fn number(word: &str) -> Option<usize> {
    word.parse().ok()
}

/// Longest file read here, in bytes: a secret, a list of hosts.
pub const MAX_CONTENT: usize = 1024 * 1024;

/// Bytes read at a time.
const PIECE: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_those_we_may_use() {
        for (status, processors) in [
            ("Name:\tnotch\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n", 2),
            ("Cpus_allowed:\tff,ffffffff\n", 40),
            ("Cpus_allowed:\t8\n", 1),
            ("", 0),
        ] {
            assert_eq!(affinity(status), processors, "{status:?}");
        }
        for (max, processors) in [
            ("max 100000\n", usize::MAX),
            ("200000 100000\n", 2),
            ("150000 100000\n", 1),
            ("50000 100000\n", 0),
            ("", usize::MAX),
            ("1 0\n", usize::MAX),
            ("100000\n", usize::MAX),
        ] {
            assert_eq!(quota(max), processors, "{max:?}");
        }
        assert!(processors() >= 1);
    }

    #[test]
    fn this_machine_says_what_it_is() {
        assert!(open_files() > 0);
        assert_ne!(random(), random());
        assert_eq!(read("/no/such/file"), "");
        assert!(content("/proc/self/exe".as_ref()).is_err(), "a program is no text");
        assert!(content("/dev/zero".as_ref()).is_err_and(|error| error.kind() == ErrorKind::FileTooLarge));
    }
}
